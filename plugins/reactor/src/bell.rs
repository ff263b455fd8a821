//! What happens to a busy connection, and where its future is to be polled: the link between loop and future.
//!
//! It owns the bits in which events collect, the place (loop or a crew's thread) and the deadline that the future
//! waits for. One bell belongs to each future; wakers of applications are made of it and may outlive the request.
//!
//! | bit                       | set by                         | taken by                                    |
//! |---------------------------|--------------------------------|---------------------------------------------|
//! | `READABLE` … `HALT`       | the loop                       | the future, in [`Bell::wait`]               |
//! | `WOKEN`, `CHANGED`        | wakers, on any thread          | the future, in [`Bell::wait`]               |
//! | `RUNG`                    | wakers                         | the loop, when it looks at the connection   |
//! | `HELD`                    | the loop, before it is polled  | the loop, when it has the future again      |
//!
//! While `HELD` is set nobody posts the connection to the loop: it will look at the bits by itself afterwards.
//!
//! What a newcomer gets wrong: a late waker rings the bell of the next request. Its future is then polled once
//! more than it needs, which futures must bear.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

use rgunicorn_http1::exchange::{Caller, Ended};

use crate::mail::{Mail, lock};
use crate::socket::Link;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Events(u32);

impl Events {
    pub(crate) const NONE: Self = Self(0);
    /// Octets, or the end of the client's direction.
    pub(crate) const READABLE: Self = Self(1);
    pub(crate) const WRITABLE: Self = Self(1 << 1);
    /// The client has ended its direction; with the last octets, perhaps.
    pub(crate) const ENDED: Self = Self(1 << 2);
    /// Both directions are closed, or the connection is reset.
    pub(crate) const GONE: Self = Self(1 << 3);
    /// The deadline has passed.
    pub(crate) const TIME: Self = Self(1 << 4);
    /// The request is over its time.
    pub(crate) const EXPIRED: Self = Self(1 << 5);
    /// The worker wants to leave.
    pub(crate) const DRAIN: Self = Self(1 << 6);
    /// The worker leaves now.
    pub(crate) const HALT: Self = Self(1 << 7);
    /// The application's waker was called.
    pub(crate) const WOKEN: Self = Self(1 << 8);
    /// What to wait for may have changed.
    pub(crate) const CHANGED: Self = Self(1 << 9);
    const ALL: u32 = (1 << 10) - 1;
    /// Reasons to read.
    pub(crate) const ARRIVAL: Self = Self::READABLE.and(Self::ENDED).and(Self::GONE);

    pub(crate) const fn has(self, event: Self) -> bool {
        self.0 & event.0 != 0
    }

    pub(crate) const fn and(self, event: Self) -> Self {
        Self(self.0 | event.0)
    }
}

const RUNG: u32 = 1 << 16;
const HELD: u32 = 1 << 17;

/// Where a future is polled: on the loop, or by a thread of the crew with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Loop,
    Crew(usize),
}

impl Place {
    const fn code(self) -> usize {
        match self {
            Self::Loop => 0,
            Self::Crew(index) => index + 1,
        }
    }

    const fn of(code: usize) -> Self {
        match code {
            0 => Self::Loop,
            code => Self::Crew(code - 1),
        }
    }
}

/// What the loop needs to answer for a thread that is stuck in the application.
pub(crate) struct Hostage {
    pub(crate) link: Arc<Link>,
    pub(crate) caller: Caller,
    pub(crate) head: Vec<u8>,
    pub(crate) token: u64,
    /// A thread is in the application.
    pub(crate) called: bool,
    /// The loop has answered, and nobody has reported that yet.
    pub(crate) answered: Option<Ended>,
    /// Nobody waits for it any more.
    pub(crate) given_up: bool,
}

pub(crate) struct Bell {
    mail: &'static Mail,
    bits: AtomicU32,
    key: AtomicU64,
    /// Where the future wants to be polled.
    home: AtomicUsize,
    /// Where it is being polled.
    place: AtomicUsize,
    /// What has arrived and was taken, but perhaps not read.
    arrived: AtomicU32,
    /// That both directions are closed was taken.
    gone: AtomicBool,
    /// In the clock's milliseconds; 0 is none.
    deadline: AtomicU64,
    /// The request at work, or 0.
    token: AtomicU64,
    /// There while a blocking application is called, if requests have a time limit.
    pub(crate) hostage: Mutex<Option<Hostage>>,
}

impl Bell {
    pub(crate) fn new(mail: &'static Mail) -> Arc<Self> {
        Arc::new(Self {
            mail,
            bits: AtomicU32::new(0),
            key: AtomicU64::new(u64::MAX),
            home: AtomicUsize::new(0),
            place: AtomicUsize::new(0),
            arrived: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            deadline: AtomicU64::new(0),
            token: AtomicU64::new(0),
            hostage: Mutex::new(None),
        })
    }

    // ---------------------------------------------------------------------------------------------------
    // The loop's side.

    /// Belongs to this connection from now on.
    pub(crate) fn assign(&self, key: u64) {
        self.key.store(key, Ordering::Relaxed);
        self.home.store(0, Ordering::Relaxed);
        self.token.store(0, Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
        self.gone.store(false, Ordering::Relaxed);
        // A waker of the earlier connection that still comes costs a poll, whichever side of this it falls on.
        self.bits.store(0, Ordering::Release);
    }

    /// Adds to what has happened, without telling the loop.
    pub(crate) fn note(&self, events: Events) {
        self.bits.fetch_or(events.0, Ordering::SeqCst);
    }

    /// Before the future is polled, or given to whoever polls it.
    pub(crate) fn hold(&self, place: Place) {
        if self.bits.fetch_or(HELD, Ordering::SeqCst) & RUNG != 0 {
            self.bits.fetch_and(!RUNG, Ordering::SeqCst);
        }
        self.place.store(place.code(), Ordering::Relaxed);
    }

    /// The loop has the future again; whether something has happened that it has not seen.
    pub(crate) fn release(&self) -> bool {
        self.bits.fetch_and(!(HELD | RUNG), Ordering::SeqCst) & (RUNG | Events::ALL) != 0
    }

    /// Whether something has happened that the future has not seen. `[any thread]`
    pub(crate) fn has_news(&self) -> bool {
        self.bits.load(Ordering::SeqCst) & (RUNG | Events::ALL) != 0
    }

    /// What has happened after the future's end, for the connection's next one.
    pub(crate) fn take_rest(&self) -> Events {
        Events(self.bits.swap(0, Ordering::SeqCst) & Events::ALL)
    }

    pub(crate) fn home(&self) -> Place {
        Place::of(self.home.load(Ordering::Relaxed))
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    pub(crate) fn token(&self) -> u64 {
        self.token.load(Ordering::Relaxed)
    }

    // ---------------------------------------------------------------------------------------------------
    // The future's side.

    pub(crate) fn set_token(&self, token: u64) {
        self.token.store(token, Ordering::Relaxed);
    }

    /// Forgets that what to wait for may have changed: it is about to be asked.
    pub(crate) fn settle(&self) {
        self.bits.fetch_and(!Events::CHANGED.0, Ordering::SeqCst);
    }

    /// Takes what has happened, if anything.
    pub(crate) fn take(&self) -> Events {
        if self.bits.load(Ordering::SeqCst) & Events::ALL == 0 {
            return Events::NONE;
        }
        let events = self.bits.fetch_and(!Events::ALL, Ordering::SeqCst) & Events::ALL;
        let arrived = self.arrived.load(Ordering::Relaxed) | events & Events::ARRIVAL.0;
        self.arrived.store(arrived, Ordering::Relaxed);
        self.remember(Events(events));
        Events(events)
    }

    /// Keeps in mind that the client is gone, if that is among what has happened.
    pub(crate) fn remember(&self, events: Events) {
        if events.has(Events::GONE) {
            self.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the client was seen to be gone, perhaps while its request was still being received. No other event will
    /// tell.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Takes the reasons to read that came since the last call. An edge-triggered event comes once: one that is taken
    /// while something else is waited for must not be forgotten.
    pub(crate) fn take_arrival(&self) -> Events {
        let mut news = self.bits.load(Ordering::SeqCst) & Events::ARRIVAL.0;
        if news != 0 {
            news = self.bits.fetch_and(!Events::ARRIVAL.0, Ordering::SeqCst) & Events::ARRIVAL.0;
            self.remember(Events(news));
        }
        // Only this side writes it.
        let kept = self.arrived.load(Ordering::Relaxed);
        self.arrived.store(0, Ordering::Relaxed);
        Events(news | kept)
    }

    /// Waits until something happens, or until the deadline, which is [`Events::TIME`].
    pub(crate) async fn wait(&self, deadline: Option<u64>) -> Events {
        self.deadline.store(deadline.unwrap_or(0), Ordering::Relaxed);
        let events = poll_fn(|_| match self.take() {
            Events::NONE => Poll::Pending,
            events => Poll::Ready(events),
        })
        .await;
        self.deadline.store(0, Ordering::Relaxed);
        events
    }

    /// Goes on at this place.
    pub(crate) async fn hop(&self, home: Place) {
        self.home.store(home.code(), Ordering::Relaxed);
        poll_fn(|_| {
            if self.place.load(Ordering::Relaxed) == home.code() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Lets others have a turn.
    pub(crate) async fn give_way(&self) {
        let mut gave = false;
        poll_fn(|_| {
            if std::mem::replace(&mut gave, true) {
                return Poll::Ready(());
            }
            self.note(Events::CHANGED);
            Poll::Pending
        })
        .await;
    }

    // ---------------------------------------------------------------------------------------------------
    // The wakers' side.

    fn ring(&self, events: Events) {
        if self.bits.fetch_or(events.0 | RUNG, Ordering::SeqCst) & (RUNG | HELD) == 0 {
            self.mail.ring(self.key.load(Ordering::Relaxed));
        }
    }
}

/// The application can go on.
struct Woken(Arc<Bell>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.ring(Events::WOKEN);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring(Events::WOKEN);
    }
}

/// The exchange may want to wait for something else.
struct Changed(Arc<Bell>);

impl Wake for Changed {
    fn wake(self: Arc<Self>) {
        self.0.ring(Events::CHANGED);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring(Events::CHANGED);
    }
}

/// A bell and the wakers that are made of it, once.
#[derive(Clone)]
pub(crate) struct Wakers {
    pub(crate) bell: Arc<Bell>,
    pub(crate) woken: Waker,
    pub(crate) changed: Waker,
}

impl Wakers {
    pub(crate) fn new(mail: &'static Mail) -> Self {
        let bell = Bell::new(mail);
        let woken = Waker::from(Arc::new(Woken(Arc::clone(&bell))));
        let changed = Waker::from(Arc::new(Changed(Arc::clone(&bell))));
        Self { bell, woken, changed }
    }
}

impl Bell {
    /// A thread is about to call the application; `false` if the loop has answered for it meanwhile.
    pub(crate) fn calls(&self) -> bool {
        match &mut *lock(&self.hostage) {
            None => true,
            Some(hostage) => {
                hostage.called = true;
                !hostage.link.is_claimed_by_loop()
            }
        }
    }

    /// The call has returned: the loop answers for it no more.
    pub(crate) fn free_hostage(&self) -> Option<Hostage> {
        lock(&self.hostage).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    const KEY: u64 = 1 << 32 | 7;

    fn bell() -> (&'static Mail, Wakers) {
        let mail: &'static Mail = Box::leak(Box::new(Mail::new().unwrap()));
        let wakers = Wakers::new(mail);
        wakers.bell.assign(KEY);
        (mail, wakers)
    }

    fn post(mail: &Mail) -> Vec<u64> {
        let mut rung = Vec::new();
        mail.take(&mut rung);
        rung
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_waker_posts_the_connection_once_and_not_while_it_is_held() {
        let (mail, Wakers { bell, woken, changed }) = bell();
        woken.wake_by_ref();
        changed.wake_by_ref();
        assert_eq!(post(mail), [KEY]);
        bell.hold(Place::Loop);
        assert!(bell.take().has(Events::WOKEN) && bell.take() == Events::NONE);
        woken.wake_by_ref();
        assert!(post(mail).is_empty(), "whoever holds it looks at it afterwards");
        assert!(bell.release(), "and does");
    }

    #[test]
    fn what_happened_ends_a_wait_and_nothing_else_does() {
        let (_, Wakers { bell, .. }) = bell();
        let mut wait = pin!(bell.wait(Some(42)));
        assert!(poll(wait.as_mut()).is_pending());
        assert_eq!(bell.deadline(), 42);
        bell.note(Events::TIME.and(Events::READABLE));
        let Poll::Ready(events) = poll(wait) else { panic!("still waits") };
        assert!(events.has(Events::TIME) && !events.has(Events::WRITABLE));
        assert_eq!(bell.deadline(), 0);
    }

    #[test]
    fn an_arrival_that_was_taken_in_passing_is_kept_until_it_is_asked_for() {
        let (_, Wakers { bell, .. }) = bell();
        bell.note(Events::READABLE.and(Events::WRITABLE));
        assert!(bell.take().has(Events::WRITABLE));
        bell.note(Events::ENDED);
        let arrival = bell.take_arrival();
        assert!(
            arrival.has(Events::READABLE) && arrival.has(Events::ENDED) && !arrival.has(Events::WRITABLE)
        );
        assert_eq!(bell.take_arrival(), Events::NONE);
    }

    #[test]
    fn a_hop_goes_on_where_it_wanted_to_be() {
        let (_, Wakers { bell, .. }) = bell();
        bell.hold(Place::Loop);
        let mut hop = pin!(bell.hop(Place::Crew(2)));
        assert!(poll(hop.as_mut()).is_pending());
        assert_eq!(bell.home(), Place::Crew(2));
        bell.hold(Place::Crew(2));
        assert!(poll(hop).is_ready());
        assert!(poll(pin!(bell.hop(Place::Crew(2)))).is_ready(), "it is there already");
    }

    #[test]
    fn a_late_waker_of_an_earlier_connection_does_no_harm() {
        let (mail, Wakers { bell, woken, .. }) = bell();
        bell.note(Events::READABLE);
        assert!(bell.take_rest().has(Events::READABLE));
        woken.wake_by_ref();
        assert_eq!(post(mail), [KEY]);
        bell.assign(KEY + 1);
        assert!(!bell.has_news());
        woken.wake();
        assert_eq!(post(mail), [KEY + 1], "one poll more than it needs");
    }
}
