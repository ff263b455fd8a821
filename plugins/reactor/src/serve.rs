//! One connection from an arriving request until it is idle again or closed, as one future.
//!
//! It owns the order: receive a head, choose who answers and where, let it answer, send, report, go on. The loop
//! polls it when something has happened to the connection; where a blocking application is to be called it hops
//! to a thread, is polled there, and hops back. An idle connection has no future at all.
//!
//! What a newcomer gets wrong: events are edge-triggered. Each is a reason to try again, none says that something
//! is there, and every wait comes after a call that has found nothing.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rgunicorn_http1::Error;
use rgunicorn_http1::exchange::{
    Ahead, Arrival, Caller, Connection, Ended, LINGER_TIME, Lingering, Memory, Polled, Rules,
};
use rgunicorn_worker_api::app::Execution;
use rgunicorn_worker_api::request::Scheme;
use rgunicorn_worker_api::worker::{Applications, Host, Mounted, Record, State, Verdict};
use rustix::io::Errno;

use crate::bell::{Events, Hostage, Place, Wakers};
use crate::mail::{Mail, lock};
use crate::socket::{Link, Socket, Watched};
use crate::timers::{Clock, milliseconds};

/// Octets of a body that are received on the loop before an application that cannot wait, or should not, is called.
const AHEAD: usize = 64 * 1024;
/// Requests of one connection after which others have their turn.
const TURN: u32 = 32;

/// Descriptors that become readable when the worker is told to leave, and stay so.
pub(crate) struct Departure {
    pub(crate) drain: OwnedFd,
    pub(crate) halt: OwnedFd,
}

/// What all connections of a worker have in common.
pub(crate) struct Shared {
    pub(crate) host: Host,
    pub(crate) apps: Applications,
    pub(crate) rules: Rules,
    /// Inline and async applications run on the loop.
    pub(crate) on_loop: bool,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) clock: Clock,
    pub(crate) mail: Mail,
    pub(crate) epoll: OwnedFd,
    pub(crate) departure: Departure,
    /// Connections that nobody waits for: a thread is stuck with them, or none will ever take them up.
    pub(crate) given_up: AtomicUsize,
    /// Mount prefixes of applications that must not be called twice at once. Their crews follow the common one.
    pub(crate) singles: Vec<&'static [u8]>,
    /// When it was said last that there is no memory for watches, by the clock; 0 is never.
    pub(crate) complained: AtomicU64,
}

impl Shared {
    /// Once a second: this happens to each connection then.
    pub(crate) fn complain_of_watches(&self, error: Errno) {
        let (now, last) = (self.clock.now(), self.complained.load(Ordering::Relaxed));
        if last == 0 || now.saturating_sub(last) >= 1000 {
            self.complained.store(now.max(1), Ordering::Relaxed);
            log::error!(
                "cannot watch a connection: {error}; those that have to wait are closed (is there a limit on \
                 memory, or is fs.epoll.max_user_watches too low?)"
            );
        }
    }

    fn crew_of(&self, mounted: Mounted) -> Place {
        let single = self.singles.iter().position(|prefix| *prefix == mounted.prefix);
        Place::Crew(single.map_or(0, |index| index + 1))
    }

    fn deadline(&self, timeout: Option<Duration>) -> Option<u64> {
        Some(self.clock.now() + milliseconds(timeout?).max(1))
    }

    fn has_passed(&self, deadline: Option<u64>) -> bool {
        deadline.is_some_and(|deadline| self.clock.now() >= deadline)
    }
}

/// A connection between two futures.
pub(crate) struct Client {
    pub(crate) link: Arc<Link>,
    pub(crate) caller: Caller,
    /// It was answered at least once.
    pub(crate) served: bool,
    /// Since when it waits, if a thread has left it; else 0.
    pub(crate) since: u64,
}

/// Why a future begins.
pub(crate) enum Begin {
    /// Something has arrived, or may have.
    Request(Events),
    /// The connection was idle for too long.
    Farewell,
}

/// How a future ended.
pub(crate) enum Outcome {
    /// The connection waits for a request.
    Idle(Client, Memory),
    /// It is closed.
    Closed(Memory),
}

/// Serves until the connection is idle or closed.
pub(crate) async fn serve(
    shared: &'static Shared,
    wakers: Wakers,
    client: Client,
    begin: Begin,
    memory: Memory,
) -> Outcome {
    let Client { link, caller, mut served, .. } = client;
    let mut connection =
        Connection::new(Socket::new(Arc::clone(&link), shared), caller, Scheme::Http, memory);
    let service = Service { shared, wakers, link };
    let Begin::Request(mut arrival) = begin else {
        service.linger(&mut connection).await;
        return Outcome::Closed(connection.into_parts().2);
    };
    // Who was idle may have said all and left in one event, which brought this future about and comes once.
    service.wakers.bell.remember(arrival);
    let mut count = 0_u32;
    loop {
        let received = if connection.is_quiet() && !arrival.has(Events::ARRIVAL) {
            // The last read was short, and no event has come since: there is nothing to be read.
            service.nothing(&mut connection).await
        } else {
            // On the loop, also for who was answered on a thread: others may wait for that thread.
            service.wakers.bell.hop(Place::Loop).await;
            note(&mut connection, arrival);
            service.receive(&mut connection).await
        };
        match received {
            Arrival::Complete => {}
            Arrival::Partial => {
                arrival = service.wakers.bell.take_arrival();
                if arrival.has(Events::ARRIVAL) {
                    continue;
                }
                let (_, caller, memory) = connection.into_parts();
                return Outcome::Idle(Client { link: service.link, caller, served, since: 0 }, memory);
            }
            Arrival::Closed => break,
            Arrival::Refused(error) => {
                if service.refuse(&mut connection, &error) {
                    service.linger(&mut connection).await;
                }
                break;
            }
        }
        let ended = service.answer(&mut connection).await;
        if !ended.keep_alive {
            if ended.linger {
                service.linger(&mut connection).await;
            }
            break;
        }
        served = true;
        connection.next(&ended);
        count += 1;
        if count.is_multiple_of(TURN) {
            service.wakers.bell.give_way().await;
        }
        arrival = service.wakers.bell.take_arrival();
    }
    Outcome::Closed(connection.into_parts().2)
}

/// There may be something to read. The end of the client's direction may lie behind its last octets, and no other
/// event will tell.
fn note(connection: &mut Connection<Socket>, arrival: Events) {
    if arrival.has(Events::READABLE) {
        connection.readable();
    }
    if arrival.has(Events::ENDED.and(Events::GONE)) {
        connection.more_to_come();
    }
}

/// Who answers a request, and where.
#[derive(Clone, Copy)]
enum Way {
    /// No application has this target.
    NotFound,
    /// The client took too long to send its body.
    TooSlow,
    /// A call on the loop, which does not wait.
    Call(Mounted),
    /// A call on a thread, which may wait.
    CallOn(Place, Mounted),
    /// A future, polled here.
    Await(Place, Mounted),
}

struct Service {
    shared: &'static Shared,
    wakers: Wakers,
    link: Arc<Link>,
}

impl Service {
    /// Waits until something happens to the connection, or until the deadline, which is [`Events::TIME`].
    async fn wait(&self, watched: Watched, deadline: Option<u64>) -> Events {
        if !self.link.watch(watched) {
            return Events::GONE;
        }
        self.wakers.bell.wait(deadline).await
    }

    // ---------------------------------------------------------------------------------------------------
    // Before the application.

    /// Receives a head. [`Arrival::Partial`] means that nothing of one is there, and that all answers are sent.
    async fn receive(&self, connection: &mut Connection<Socket>) -> Arrival {
        let rules = &self.shared.rules;
        let mut deadline = None;
        loop {
            match connection.receive(rules) {
                Arrival::Partial => {}
                arrival => return arrival,
            }
            if !connection.has_begun() {
                return self.nothing(connection).await;
            }
            if !self.flush(connection).await {
                return Arrival::Closed;
            }
            if deadline.is_none() {
                deadline = self.shared.deadline(rules.head_timeout);
            }
            let events = self.wait(Watched::Input, deadline).await;
            if events.has(Events::HALT) {
                return Arrival::Closed;
            }
            note(connection, events);
            if events.has(Events::TIME) && self.shared.has_passed(deadline) {
                // What came at the last moment still counts.
                return match connection.receive(rules) {
                    Arrival::Partial => Arrival::Refused(Error::Timeout),
                    arrival => arrival,
                };
            }
        }
    }

    /// Nothing of a request is there: whatever the client does next, it may want its answers first.
    async fn nothing(&self, connection: &mut Connection<Socket>) -> Arrival {
        if self.flush(connection).await { Arrival::Partial } else { Arrival::Closed }
    }

    /// Sends gathered answers, if there are any; whether the client took them.
    async fn flush(&self, connection: &mut Connection<Socket>) -> bool {
        let (mut left, mut deadline) = (usize::MAX, None);
        while connection.unsent() > 0 {
            match connection.send() {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
            // Only a client that takes something has more time.
            if connection.unsent() < left {
                left = connection.unsent();
                deadline = self.shared.deadline(self.shared.rules.write_timeout);
            }
            let events = self.wait(Watched::Both, deadline).await;
            if events.has(Events::GONE.and(Events::HALT)) || self.shared.has_passed(deadline) {
                return false;
            }
        }
        true
    }

    /// Answers what is no request; returns whether to linger.
    fn refuse(&self, connection: &mut Connection<Socket>, error: &Error) -> bool {
        let peer = connection.peer();
        match error {
            Error::Timeout | Error::Truncated => log::debug!("Incomplete request from ip={peer}: {error}"),
            // Gunicorn's words.
            _ => log::warn!("Invalid request from ip={peer}: {error}"),
        }
        self.link.renew();
        let (status, body_bytes) = connection.refuse(error);
        self.shared.host.request_end(&Record {
            token: 0,
            request: None,
            peer: connection.peer(),
            response_fields: &[],
            bytes_in: connection.received(),
            body_bytes,
            status,
            incomplete: false,
            taken_over: false,
        });
        status != 0 && connection.may_have_more()
    }

    /// Chooses who answers, after receiving as much of the body as that one needs to have.
    async fn choose(&self, connection: &mut Connection<Socket>) -> Way {
        let shared = self.shared;
        let Some(mounted) = shared.apps.select(connection.target()) else { return Way::NotFound };
        let crew = shared.crew_of(mounted);
        let here = shared.on_loop && crew == Place::Crew(0);
        match mounted.execution() {
            Execution::Async => Way::Await(if shared.on_loop { Place::Loop } else { crew }, mounted),
            Execution::Inline if here => match self.receive_body(connection).await {
                Some(true) => Way::Call(mounted),
                Some(false) => Way::CallOn(crew, mounted),
                None => Way::TooSlow,
            },
            Execution::Inline | Execution::Blocking => match self.receive_body(connection).await {
                Some(_) => Way::CallOn(crew, mounted),
                None => Way::TooSlow,
            },
        }
    }

    /// Receives a short body before a thread is taken for it: while it comes it costs a buffer. `true` if all of it
    /// is there, `false` if it is long, `None` if it takes too long.
    async fn receive_body(&self, connection: &mut Connection<Socket>) -> Option<bool> {
        let shared = self.shared;
        let mut limit = None;
        let mut pause = None;
        let mut received = 0;
        loop {
            match connection.receive_body(&shared.rules, AHEAD) {
                Ahead::Complete => return Some(true),
                Ahead::TooLong => return Some(false),
                Ahead::Partial => {}
            }
            if !self.flush(connection).await {
                return None;
            }
            if received == 0 {
                limit = shared.deadline(shared.request_timeout);
            }
            if std::mem::replace(&mut received, connection.received()) != connection.received() {
                pause = shared.deadline(shared.rules.body_timeout);
            }
            let deadline = [pause, limit].into_iter().flatten().min();
            let events = self.wait(Watched::Input, deadline).await;
            if events.has(Events::HALT) || events.has(Events::TIME) && shared.has_passed(deadline) {
                return None;
            }
            note(connection, events);
        }
    }

    // ---------------------------------------------------------------------------------------------------
    // The application, and after it.

    /// Lets the application answer, and sends the answer.
    async fn answer(&self, connection: &mut Connection<Socket>) -> Ended {
        let Self { shared, wakers, link } = self;
        let (host, bell) = (&shared.host, &*wakers.bell);
        let way = self.choose(connection).await;
        // Those may take long: the client gets its earlier answers now. If it does not take them, the exchange will
        // find that out.
        if !matches!(way, Way::Call(_)) {
            self.flush(connection).await;
        }
        // What has arrived so far was read, as far as it was wanted.
        note(connection, bell.take_arrival());
        link.renew();
        let prefix = match way {
            Way::Call(mounted) | Way::CallOn(_, mounted) | Way::Await(_, mounted) => mounted.prefix,
            Way::NotFound | Way::TooSlow => b"",
        };
        let has_next = connection.has_next();
        let limited = shared.request_timeout.is_some() && matches!(way, Way::CallOn(..));
        let copy = limited.then(|| (connection.caller().clone(), connection.head().to_vec()));
        let mut exchange = connection.polled(&shared.rules, prefix, true, host, &wakers.changed);
        let token = host.request_begin(&exchange);
        exchange.set_token(token);
        bell.set_token(token);
        if let Some(time) = shared.request_timeout.filter(|_| limited) {
            exchange.with_wire(|wire| wire.limit(time));
        }
        let verdict = match way {
            Way::NotFound => {
                exchange.answer(404);
                Verdict::Ok
            }
            Way::TooSlow => {
                exchange.answer(408);
                Verdict::Ok
            }
            _ if exchange.refused() => Verdict::Transport,
            Way::Call(mounted) => {
                if has_next {
                    exchange.gather();
                }
                mounted.call(&exchange)
            }
            Way::CallOn(place, mounted) => {
                if let Some((caller, head)) = copy {
                    let link = Arc::clone(link);
                    let hostage =
                        Hostage { link, caller, head, token, called: false, answered: None, given_up: false };
                    *lock(&bell.hostage) = Some(hostage);
                }
                bell.hop(place).await;
                if bell.calls() { mounted.call(&exchange.waiting()) } else { Verdict::Transport }
            }
            Way::Await(place, mounted) => {
                bell.hop(place).await;
                self.await_answer(&exchange, token, mounted).await
            }
        };
        // On the thread still, if it ran on one: most answers are sent here and now.
        let concluded = exchange.conclude(verdict);
        let hostage = if limited { bell.free_hostage() } else { None };
        let claimed = limited && link.is_claimed_by_loop();
        let ended = match concluded {
            Some(ended) => ended,
            None => {
                if !claimed {
                    self.send_rest(&exchange, token).await;
                }
                exchange.ended()
            }
        };
        bell.set_token(0);
        match &hostage {
            // The loop has answered for this call: the client is gone.
            Some(Hostage { answered: Some(answer), .. }) => exchange.report(host, answer),
            _ if claimed => {}
            _ => exchange.report(host, &ended),
        }
        if let Some(hostage) = hostage.filter(|hostage| hostage.given_up) {
            shared.given_up.fetch_sub(1, Ordering::Relaxed);
            if hostage.called {
                host.request_recovered(token);
            }
        }
        ended
    }

    /// Sends what is buffered, as the client takes it.
    async fn send_rest(&self, exchange: &Polled<'_, Socket>, token: u64) {
        let Self { shared, wakers, .. } = self;
        let bell = &*wakers.bell;
        while exchange.is_sending() {
            bell.hop(Place::Loop).await;
            bell.settle();
            let deadline = exchange.wanted().deadline.map(|deadline| shared.clock.at(deadline) + 1);
            let events = self.wait(Watched::Both, deadline).await;
            // The time of a request ends with its answer, not with its application.
            let expired = events.has(Events::EXPIRED) && shared.host.request_expired(token);
            if expired || events.has(Events::GONE.and(Events::HALT)) {
                exchange.left();
                return;
            }
            exchange.ready(false, true);
            if events.has(Events::TIME) {
                exchange.check_times(Instant::now());
            }
        }
    }

    /// Polls the future of an async application to its end, or drops it.
    async fn await_answer(&self, exchange: &Polled<'_, Socket>, token: u64, mounted: Mounted) -> Verdict {
        let Self { shared, wakers, .. } = self;
        let (host, bell) = (&shared.host, &*wakers.bell);
        let mut answering = mounted.call_async(exchange);
        let mut events = Events::WOKEN;
        let mut gone = bell.is_gone();
        loop {
            if events.has(Events::WOKEN) {
                let polled = poll_fn(|_| {
                    let mut context = Context::from_waker(&wakers.woken);
                    Poll::Ready(Pin::new(&mut answering).poll(&mut context))
                });
                if let Poll::Ready(verdict) = polled.await {
                    return verdict;
                }
            }
            // Now that the application may have asked to be told.
            if std::mem::take(&mut gone) && !exchange.left() {
                return Verdict::Transport;
            }
            // Forgotten before asking, so that a change after asking is not missed.
            bell.settle();
            let wanted = exchange.wanted();
            let deadline = wanted.deadline.map(|deadline| shared.clock.at(deadline) + 1);
            let watched = if wanted.writable { Watched::Both } else { Watched::Input };
            events = self.wait(watched, deadline).await;
            if events.has(Events::HALT) && host.state() == State::Halting {
                exchange.left();
                return Verdict::Transport;
            }
            if events.has(Events::EXPIRED) && host.request_expired(token) {
                exchange.expire();
                return Verdict::Transport;
            }
            gone = events.has(Events::GONE);
            let readable = events.has(Events::READABLE.and(Events::ENDED));
            if readable || events.has(Events::WRITABLE) {
                exchange.ready(readable, events.has(Events::WRITABLE));
            }
            if events.has(Events::TIME) {
                exchange.check_times(Instant::now());
            }
            if events.has(Events::DRAIN) {
                exchange.drain();
            }
        }
    }

    /// Reads what the client still sends, so that closing resets nothing; bounded in time and octets.
    async fn linger(&self, connection: &mut Connection<Socket>) {
        self.wakers.bell.hop(Place::Loop).await;
        if !connection.linger_begin() {
            return;
        }
        let deadline = self.shared.deadline(Some(LINGER_TIME));
        while let Lingering::More = connection.linger_some() {
            let events = self.wait(Watched::Input, deadline).await;
            if events.has(Events::TIME.and(Events::GONE).and(Events::HALT)) {
                return;
            }
        }
    }
}
