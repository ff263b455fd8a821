//! The loop: one thread that accepts, waits for all connections, and decides who is polled where.
//!
//! ```text
//! run ─┬─ sleep          epoll_wait(2), no longer than the nearest deadline
//!      ├─ events         of connections: note, poll the future, or start one
//!      ├─ accept         one from each queue that was announced, while this worker wants more
//!      ├─ mail           futures that come back from threads; wakers that were called
//!      ├─ timers         deadlines that have passed
//!      ├─ hand over      futures that want to be polled by a thread
//!      └─ news           the host's: leave, expired requests
//! ```
//!
//! It owns the slots. A connection is idle (a slot and nothing else), parked (its future waits here) or away (a
//! thread has its future). Futures and buffers are reused, the one that was used last first, so that a request
//! allocates nothing and finds its memory in the cache.
//!
//! What a newcomer gets wrong: sockets are watched edge-triggered and once, from their first wait to their close.
//! An event that comes while the future is away is noted, and looked at when it is back.

use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rgunicorn_http1::exchange::{Connection, Memory, Polled};
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::request::Scheme;
use rgunicorn_worker_api::worker::{State, Verdict};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use crate::accept::{self, Listeners, Next};
use crate::bell::{Bell, Events, Hostage, Place, Wakers};
use crate::crew::Crew;
use crate::mail::lock;
use crate::net;
use crate::serve::{Begin, Client, Departure, Outcome, Shared};
use crate::socket::{Link, Socket, Watched};
use crate::timers::{Due, Wheel, milliseconds};

/// Events taken at once.
const EVENTS: usize = 256;
/// Futures and buffers kept for the next connections.
const SPARE: usize = 64;
/// Between looks at whether other workers have caught up with this one.
const BALANCE: Duration = Duration::from_millis(50);
/// After the answer to a request that is over its time: how long its thread may take to come back before the
/// worker counts as damaged.
const STUCK: Duration = Duration::from_millis(500);
/// How long work may wait for a thread, and none take any up, before the loop no longer counts as moving: on a busy
/// machine one that was called needs a while.
const STILL: u64 = 100;
/// A sleep that takes so long is followed by a sign of life: milliseconds. It costs those nothing who come one upon another.
const LONG: u64 = 100;
/// How long before the end of `graceful_timeout` idle connections are closed.
const MARGIN: u64 = 500;

/// Data of events that are not of connections; listeners have their index.
const NOTIFY: u64 = u64::MAX;
const MAIL: u64 = u64::MAX - 1;
/// Keys of connections are not below this: they count connections in their upper half, from 1.
const KEYS: u64 = 1 << 32;

/// A future, and what is reused with it.
struct Busy<F> {
    future: Pin<Box<F>>,
    wakers: Wakers,
}

/// A future on its way to a thread.
struct Job<F: 'static> {
    key: u64,
    busy: Busy<F>,
    returns: &'static Returns<F>,
}

/// Futures that come back from threads.
struct Returns<F> {
    shared: &'static Shared,
    list: Mutex<Vec<Return<F>>>,
    /// The loop waits for connections to end, and wants to hear of each.
    eager: AtomicBool,
}

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Return<F> {
    /// It waits.
    Waits(u64, Busy<F>),
    Ended(u64, Busy<F>, Outcome),
    /// By a panic, which is a mistake in this crate.
    Broken(u64),
}

enum Stage<F> {
    /// Waits for a request.
    Idle(Client),
    /// Its future waits.
    Parked(Busy<F>),
    /// A thread has its future.
    Away(Arc<Bell>),
    /// The loop has it in its hands.
    Taken,
}

struct Slot<F> {
    stage: Stage<F>,
    /// Distinguishes it from earlier connections at the same index.
    key: u64,
    /// In the clock's milliseconds; 0 is none.
    deadline: u64,
    /// Where the wheel has it.
    tick: Option<u64>,
}

pub(crate) struct Reactor<F: 'static, M> {
    shared: &'static Shared,
    make: M,
    listeners: Listeners,
    /// The listeners are in the epoll set.
    listening: bool,
    /// Until then they are left alone.
    pause: u64,
    slots: Slab<Slot<F>>,
    /// The part of a key that tells connections at one index apart.
    count: u64,
    spare: Vec<Busy<F>>,
    memories: Vec<Memory>,
    wheel: Wheel,
    returns: &'static Returns<F>,
    crews: Vec<&'static Crew<Job<F>>>,
    outgoing: Vec<Vec<Job<F>>>,
    away: usize,
    now: u64,
    limit: usize,
    /// Longest wait without a tick.
    interval: Duration,
    keep_alive: Duration,
    head_timeout: Option<Duration>,
    graceful: Duration,
    state: State,
    /// Connections are closed by then.
    last: u64,
    seen_turns: Vec<u64>,
    /// Since when no thread has taken up work that waits, or 0.
    still: u64,
    /// Keys to look at again in this turn.
    again: Vec<u64>,
}

impl<F, M> Reactor<F, M>
where
    F: Future<Output = Outcome> + Send + 'static,
    M: Fn(&'static Shared, Wakers, Client, Begin, Memory) -> F,
{
    pub(crate) fn new(shared: &'static Shared, make: M) -> Result<Self, Error> {
        let host = &shared.host;
        let integer = |name, default: usize| {
            host.integer(name).and_then(|value| usize::try_from(value).ok()).unwrap_or(default)
        };
        let epoll = &shared.epoll;
        epoll::add(epoll, host.notify_fd(), EventData::new_u64(NOTIFY), EventFlags::IN)?;
        epoll::add(epoll, shared.mail.fd(), EventData::new_u64(MAIL), EventFlags::IN | EventFlags::ET)?;
        let returns: &'static Returns<F> = Box::leak(Box::new(Returns {
            shared,
            list: Mutex::new(Vec::new()),
            eager: AtomicBool::new(false),
        }));
        // The first crew is for all; an application that must not be called twice at once has one of its own.
        let relieved: &'static (dyn Fn() + Send + Sync) = Box::leak(Box::new(|| shared.mail.wake()));
        let mut crews = vec![Crew::new(integer("threads", 1), true, poll_on_thread::<F>, relieved)];
        crews.extend(shared.singles.iter().map(|_| Crew::new(1, false, poll_on_thread::<F>, relieved)));
        let outgoing = crews.iter().map(|_| Vec::new()).collect();
        let seen_turns = vec![0; crews.len()];
        Ok(Self {
            shared,
            make,
            listeners: Listeners::of(host),
            listening: false,
            pause: 0,
            slots: Slab::new(),
            count: 0,
            spare: Vec::new(),
            memories: Vec::new(),
            wheel: Wheel::new(),
            returns,
            crews,
            outgoing,
            away: 0,
            now: shared.clock.now(),
            limit: integer("worker_connections", 1000).max(1),
            interval: host.tick_interval(),
            keep_alive: host.seconds("keepalive").unwrap_or(Duration::from_secs(2)),
            head_timeout: shared.rules.head_timeout,
            graceful: host.seconds("graceful_timeout").unwrap_or(Duration::from_secs(30)),
            state: State::Running,
            last: 0,
            seen_turns,
            still: 0,
            again: Vec::new(),
        })
    }

    pub(crate) fn run(mut self) -> Result<(), Error> {
        if self.shared.host.ready() != State::Running {
            self.leave();
        }
        let mut due = Vec::new();
        let mut rung = Vec::new();
        loop {
            self.heed_listeners();
            let news = self.turn()?;
            self.mail(&mut rung);
            self.wheel.take_due(self.now, &mut due);
            for due in due.drain(..) {
                self.time_has_come(due);
            }
            if news {
                self.heed_host();
            }
            if self.state != State::Running {
                // Once more: those whom the limit has kept out.
                self.empty_queues();
                if self.is_empty() {
                    break;
                }
            }
            self.hand_over();
            if self.moves() {
                self.shared.host.tick();
            }
        }
        self.crews.iter().for_each(|crew| crew.dismiss());
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------------
    // Sleeping and waking.

    /// Sleeps, and deals with what happened; whether the host has news.
    fn turn(&mut self) -> Result<bool, Error> {
        let mut events = [MaybeUninit::uninit(); EVENTS];
        // Without this flag what ends on a thread is heard of at the next occasion. It stands before the sleep is
        // announced: whoever ends in between either sees it, or keeps the loop from falling asleep.
        let eager = self.state != State::Running || !self.listening;
        if self.returns.eager.load(Ordering::Relaxed) != eager {
            self.returns.eager.store(eager, Ordering::SeqCst);
        }
        let asleep = self.again.is_empty() && self.shared.mail.falls_asleep();
        let time = if asleep { self.time_to_sleep() } else { Duration::ZERO };
        let moves = asleep && self.moves();
        if moves {
            self.shared.host.tick_idle();
        }
        let before = self.now;
        let ready = epoll::wait(&self.shared.epoll, &mut events, Some(&net::timespec(time)));
        if asleep {
            self.shared.mail.wakes_up();
        }
        self.now = self.shared.clock.now();
        // What keeps the loop from here on has all of `timeout`, and not what the sleep has left of it.
        if moves && self.now - before >= LONG {
            self.shared.host.tick();
        }
        let ready = match ready {
            Ok((ready, _)) => ready,
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(Error::new(format!("cannot wait for clients: {error}"))),
        };
        let mut news = false;
        let mut clients = 0_u64;
        for event in ready.iter() {
            match event.data.u64() {
                NOTIFY => news = true,
                MAIL => {}
                key if key < KEYS => clients |= 1 << key.min(63),
                key => self.event(key, events_of(event.flags)),
            }
        }
        // After the connections that are there already. A client that this worker was woken for is accepted
        // whatever the state: the kernel woke no other.
        if clients != 0 {
            self.accept();
        }
        Ok(news)
    }

    fn time_to_sleep(&self) -> Duration {
        let mut time = self.interval;
        let mut until = |deadline: u64| {
            time = time.min(Duration::from_millis(deadline.saturating_sub(self.now)));
        };
        if let Some(next) = self.wheel.next() {
            until(next);
        }
        if self.pause > 0 {
            until(self.pause);
        }
        if self.is_outweighed() {
            until(self.now + milliseconds(BALANCE));
        }
        if self.away > 0 && self.crews.iter().any(|crew| crew.lacks_threads()) {
            until(self.now + milliseconds(accept::PAUSE));
        }
        // Threads leave what has become idle without waking the loop, which must begin its time all the same.
        if self.away > 0 {
            let time = milliseconds(self.keep_alive);
            until(self.now + if time == 0 { 1000 } else { time.min(1000) });
        }
        time
    }

    /// Whether the worker moves. It does not while work waits and no thread takes any of it up, because all are
    /// stuck; its heartbeat stands still then.
    fn moves(&mut self) -> bool {
        let mut moves = true;
        // If nothing is with a thread, nothing waits for one.
        if self.away > 0 {
            for (crew, seen) in self.crews.iter().zip(&mut self.seen_turns) {
                let (turns, waits) = crew.progress();
                moves &= !waits || turns != *seen;
                *seen = turns;
            }
        }
        if moves {
            self.still = 0;
            return true;
        }
        if self.still == 0 {
            self.still = self.now;
        }
        self.now - self.still < STILL
    }

    // ---------------------------------------------------------------------------------------------------
    // Accepting.

    /// Whether another connection is wanted, apart from what other workers have.
    fn has_room(&self) -> bool {
        let is_behind = || self.away > 0 && self.crews.iter().any(|crew| crew.is_behind());
        self.open() < self.limit && self.pause == 0 && !is_behind()
    }

    /// Whether other workers, who have fewer connections, are to take the next ones.
    fn is_outweighed(&self) -> bool {
        self.state == State::Running && !self.listening && self.has_room()
    }

    /// Watches the listeners or leaves them alone, so that the kernel wakes a worker that wants more. No wake is lost
    /// by taking them out: the kernel passes over a worker that is awake, as this one is now.
    fn heed_listeners(&mut self) {
        if self.pause > 0 && self.now >= self.pause {
            self.pause = 0;
        }
        let wanted = self.state == State::Running && self.has_room() && self.shared.host.may_accept();
        if wanted && !self.listening {
            match self.listeners.watch(&self.shared.epoll) {
                Ok(()) => self.listening = true,
                Err(error) => {
                    log::error!("cannot watch the listeners: {error}; trying again");
                    self.listeners.unwatch(&self.shared.epoll);
                    self.pause = self.now + milliseconds(accept::PAUSE);
                }
            }
        } else if !wanted && self.listening {
            self.listeners.unwatch(&self.shared.epoll);
            self.listening = false;
        }
    }

    /// Takes one client.
    fn accept(&mut self) {
        match self.listeners.accept() {
            Next::Client(client) => self.welcome(client),
            Next::NoRoom => self.pause = self.now + milliseconds(accept::PAUSE),
            Next::Nobody => {}
        }
    }

    /// Takes all who are queued on listeners that go away. Nothing new arrives there.
    fn empty_queues(&mut self) {
        for index in 0..self.listeners.len() {
            while self.shared.host.must_empty(index) && self.open() < self.limit && self.pause == 0 {
                match self.listeners.accept_from(index) {
                    Next::Client(client) => self.welcome(client),
                    Next::NoRoom => self.pause = self.now + milliseconds(accept::PAUSE),
                    Next::Nobody => break,
                }
            }
        }
    }

    fn welcome(&mut self, client: accept::Client) {
        self.count += 1;
        let entry = self.slots.vacant_entry();
        let key = self.count << 32 | entry.key() as u64;
        let accept::Client { fd, peer } = client;
        let client =
            Client { link: Link::new(fd, key, self.shared), caller: peer.into(), served: false, since: 0 };
        entry.insert(Slot { stage: Stage::Idle(client), key, deadline: 0, tick: None });
        // Most clients send at once.
        self.event(key, Events::READABLE);
    }

    // ---------------------------------------------------------------------------------------------------
    // Connections.

    fn index_of(&self, key: u64) -> Option<usize> {
        let index = usize::try_from(key & u64::from(u32::MAX)).ok()?;
        self.slots.get(index).filter(|slot| slot.key == key).map(|_| index)
    }

    /// Something has happened to a connection.
    fn event(&mut self, key: u64, events: Events) {
        let Some(index) = self.index_of(key) else { return };
        match std::mem::replace(&mut self.slots[index].stage, Stage::Taken) {
            // Room for octets is nothing to somebody who has nothing to say.
            Stage::Idle(client) if !events.has(Events::ARRIVAL) => {
                self.slots[index].stage = Stage::Idle(client)
            }
            Stage::Idle(client) => self.start(index, client, Begin::Request(events)),
            Stage::Parked(busy) => {
                busy.wakers.bell.note(events);
                self.poll(index, busy);
            }
            Stage::Away(bell) => {
                bell.note(events);
                self.slots[index].stage = Stage::Away(bell);
            }
            Stage::Taken => {}
        }
    }

    /// Makes a future for a connection that was idle.
    fn start(&mut self, index: usize, client: Client, begin: Begin) {
        let memory = self.memories.pop().unwrap_or_default();
        let key = self.slots[index].key;
        let busy = match self.spare.pop() {
            Some(mut busy) => {
                busy.wakers.bell.assign(key);
                busy.future.set((self.make)(self.shared, busy.wakers.clone(), client, begin, memory));
                busy
            }
            None => {
                let wakers = Wakers::new(&self.shared.mail);
                wakers.bell.assign(key);
                let future = Box::pin((self.make)(self.shared, wakers.clone(), client, begin, memory));
                Busy { future, wakers }
            }
        };
        self.poll(index, busy);
    }

    /// Polls a future here, or sends it to where it wants to be polled.
    fn poll(&mut self, index: usize, mut busy: Busy<F>) {
        loop {
            let home = busy.wakers.bell.home();
            busy.wakers.bell.hold(home);
            if let Place::Crew(crew) = home {
                self.set_deadline(index, 0);
                let slot = &mut self.slots[index];
                slot.stage = Stage::Away(Arc::clone(&busy.wakers.bell));
                self.outgoing[crew].push(Job { key: slot.key, busy, returns: self.returns });
                self.away += 1;
                return;
            }
            let mut context = Context::from_waker(&busy.wakers.woken);
            if let Poll::Ready(outcome) = busy.future.as_mut().poll(&mut context) {
                return self.finish(index, busy, outcome);
            }
            if busy.wakers.bell.home() == home {
                return self.park(index, busy);
            }
        }
    }

    /// A future waits, for an event or for its deadline.
    fn park(&mut self, index: usize, busy: Busy<F>) {
        self.set_deadline(index, busy.wakers.bell.deadline());
        if busy.wakers.bell.release() {
            self.again.push(self.slots[index].key);
        }
        self.slots[index].stage = Stage::Parked(busy);
    }

    /// A future has ended.
    fn finish(&mut self, index: usize, busy: Busy<F>, outcome: Outcome) {
        let meanwhile = busy.wakers.bell.take_rest();
        if self.spare.len() < SPARE {
            self.spare.push(busy);
        }
        match outcome {
            Outcome::Closed(memory) => {
                self.keep(memory);
                self.slots.remove(index);
            }
            Outcome::Idle(client, memory) => {
                self.keep(memory);
                if self.state == State::Halting || !client.link.watch(Watched::Input) {
                    self.slots.remove(index);
                } else if meanwhile.has(Events::ARRIVAL) {
                    self.start(index, client, Begin::Request(meanwhile));
                } else {
                    self.rest(index, client);
                }
            }
        }
    }

    fn keep(&mut self, memory: Memory) {
        if self.memories.len() < SPARE {
            self.memories.push(memory);
        }
    }

    /// A connection waits for a request.
    fn rest(&mut self, index: usize, client: Client) {
        let patience = if client.served { Some(self.keep_alive) } else { self.head_timeout };
        let since = if client.since > 0 { client.since } else { self.now };
        let deadline = patience.map_or(0, |patience| since + milliseconds(patience).max(1));
        self.slots[index].stage = Stage::Idle(client);
        self.set_deadline(index, deadline);
        if self.state != State::Running {
            self.shorten(index);
        }
    }

    /// While the worker drains, nobody idle is kept for longer than a kept connection would be anyway.
    fn shorten(&mut self, index: usize) {
        let last = (self.now + milliseconds(self.keep_alive)).min(self.last).max(self.now + 1);
        let deadline = self.slots[index].deadline;
        if deadline == 0 || deadline > last {
            self.set_deadline(index, last);
        }
    }

    // ---------------------------------------------------------------------------------------------------
    // Time.

    fn set_deadline(&mut self, index: usize, deadline: u64) {
        let slot = &mut self.slots[index];
        slot.deadline = deadline;
        if deadline != 0 && !self.wheel.covers(slot.tick, deadline) {
            slot.tick = Some(self.wheel.put(deadline, slot.key));
        }
    }

    fn time_has_come(&mut self, due: Due) {
        let Some(index) = self.index_of(due.key) else { return };
        let slot = &mut self.slots[index];
        // An earlier entry has taken the place of this one.
        if slot.tick != Some(due.tick) {
            return;
        }
        slot.tick = None;
        let deadline = slot.deadline;
        if deadline > self.now {
            return self.set_deadline(index, deadline);
        }
        if deadline == 0 {
            return;
        }
        slot.deadline = 0;
        match std::mem::replace(&mut slot.stage, Stage::Taken) {
            Stage::Idle(client) if client.served => self.start(index, client, Begin::Farewell),
            // It has never said a word: an answer would meet the request that it is just about to send.
            Stage::Idle(_) => {
                self.slots.remove(index);
            }
            Stage::Parked(busy) => {
                busy.wakers.bell.note(Events::TIME);
                self.poll(index, busy);
            }
            Stage::Away(bell) => {
                self.abandon(&bell);
                self.slots[index].stage = Stage::Away(bell);
            }
            Stage::Taken => {}
        }
    }

    // ---------------------------------------------------------------------------------------------------
    // Threads.

    /// Gives the futures that want to be polled by threads to them.
    fn hand_over(&mut self) {
        for (crew, batch) in self.crews.iter().zip(&mut self.outgoing) {
            if !batch.is_empty() {
                crew.submit(batch);
            }
        }
    }

    /// Takes futures that come back, and looks at those whose wakers were called.
    fn mail(&mut self, rung: &mut Vec<u64>) {
        if self.shared.mail.take(rung) {
            let mut returns = std::mem::take(&mut *lock(&self.returns.list));
            for back in returns.drain(..) {
                self.adopt(back);
            }
            // The list that has grown is used again, unless threads have begun a new one.
            let mut list = lock(&self.returns.list);
            if list.is_empty() && list.capacity() < returns.capacity() {
                *list = returns;
            }
        }
        rung.append(&mut self.again);
        for key in rung.drain(..) {
            self.event(key, Events::NONE);
        }
    }

    fn adopt(&mut self, back: Return<F>) {
        self.away -= 1;
        match back {
            Return::Waits(key, busy) => {
                let Some(index) = self.index_of(key) else { return };
                if busy.wakers.bell.home() == Place::Loop {
                    self.poll(index, busy);
                } else {
                    self.park(index, busy);
                }
            }
            Return::Ended(key, busy, outcome) => {
                let Some(index) = self.index_of(key) else { return };
                self.finish(index, busy, outcome);
            }
            Return::Broken(key) => {
                let Some(index) = self.index_of(key) else { return };
                self.slots.remove(index);
            }
        }
    }

    // ---------------------------------------------------------------------------------------------------
    // The host's news.

    fn heed_host(&mut self) {
        let events = self.shared.host.take_events();
        let state = self.shared.host.state();
        if state > self.state {
            self.state = state;
            self.leave();
        }
        if events.expired() {
            self.expire();
        }
    }

    /// The worker is to leave, when all is done or at once.
    fn leave(&mut self) {
        self.state = self.shared.host.state();
        let Departure { drain, halt } = &self.shared.departure;
        let (events, announced) = match self.state {
            State::Running => return,
            State::Draining => (Events::DRAIN, drain),
            State::Halting => (Events::DRAIN.and(Events::HALT), halt),
        };
        if self.last == 0 {
            self.last = self.now + milliseconds(self.graceful).saturating_sub(MARGIN);
        }
        for descriptor in [drain, announced] {
            // Fails only if the counter is full, and then it is readable.
            let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
        }
        let keys: Vec<(usize, u64)> = self.slots.iter().map(|(index, slot)| (index, slot.key)).collect();
        for (index, key) in keys {
            match &self.slots[index].stage {
                Stage::Idle(_) if self.state == State::Halting => {
                    self.slots.remove(index);
                }
                Stage::Idle(_) => self.shorten(index),
                Stage::Parked(busy) => {
                    busy.wakers.bell.note(events);
                    self.again.push(key);
                }
                Stage::Away(bell) => bell.note(events),
                Stage::Taken => {}
            }
        }
    }

    /// Whether nothing is left but threads that are stuck in an application.
    fn is_empty(&self) -> bool {
        self.pause == 0 && self.open() == 0
    }

    /// Connections, without those that a thread will perhaps never give back.
    fn open(&self) -> usize {
        self.slots.len().saturating_sub(self.shared.given_up.load(Ordering::Relaxed))
    }

    /// Some request is over its time.
    fn expire(&mut self) {
        let host = &self.shared.host;
        let expired = |bell: &Bell| bell.token() != 0 && host.request_expired(bell.token());
        let mut overdue = Vec::new();
        for (index, slot) in &self.slots {
            match &slot.stage {
                Stage::Parked(busy) if expired(&busy.wakers.bell) => {
                    busy.wakers.bell.note(Events::EXPIRED);
                    self.again.push(slot.key);
                }
                Stage::Away(bell) if expired(bell) => {
                    bell.note(Events::EXPIRED);
                    overdue.push((index, Arc::clone(bell)));
                }
                Stage::Idle(_) | Stage::Parked(_) | Stage::Away(_) | Stage::Taken => {}
            }
        }
        for (index, bell) in overdue {
            // Its own future answers, unless that is in a call of a blocking application, or waits for one.
            if self.slots[index].deadline == 0
                && let Some(hostage) = &mut *lock(&bell.hostage)
            {
                // One that waits for the body comes back by itself, and knows better what to say.
                if !hostage.link.is_awaited() {
                    self.answer_for(hostage);
                }
                if hostage.called {
                    self.set_deadline(index, self.now + milliseconds(STUCK));
                } else {
                    // No thread has taken it up, and whoever does will not call the application any more.
                    self.give_up(hostage);
                }
            }
        }
    }

    /// Answers 504 for a thread that may be stuck in the application, if nothing was sent, and ends the connection
    /// under it: a thread that only waits to send comes back at once.
    fn answer_for(&self, hostage: &mut Hostage) {
        if hostage.link.claim_for_loop() && hostage.answered.is_none() {
            hostage.answered = self.with_stand_in(hostage, |exchange| {
                exchange.answer(504);
                exchange.conclude(Verdict::Ok);
                exchange.ended()
            });
        }
        net::shutdown_both(hostage.link.fd());
    }

    /// The thread has not come back: the worker is to be replaced.
    fn abandon(&self, bell: &Bell) {
        if let Some(hostage) = &mut *lock(&bell.hostage)
            && hostage.called
            && !hostage.given_up
        {
            self.answer_for(hostage);
            self.shared.host.request_abandoned(hostage.token);
            self.give_up(hostage);
        }
    }

    /// Waits no longer for whoever has this request.
    fn give_up(&self, hostage: &mut Hostage) {
        hostage.given_up = true;
        self.shared.given_up.fetch_add(1, Ordering::Relaxed);
        self.report_for(hostage);
    }

    /// Reports the loop's answer, which the thread would do if it came back in time.
    fn report_for(&self, hostage: &mut Hostage) {
        if let Some(answer) = hostage.answered.take() {
            self.with_stand_in(hostage, |exchange| exchange.report(&self.shared.host, &answer));
        }
    }

    /// Uses an exchange of the same request in place of the one that a thread holds.
    fn with_stand_in<R>(&self, hostage: &Hostage, with: impl FnOnce(&Polled<'_, Socket>) -> R) -> Option<R> {
        let Shared { host, rules, .. } = self.shared;
        let socket = Socket::for_loop(Arc::clone(&hostage.link), self.shared);
        let (caller, head) = (hostage.caller.clone(), &hostage.head);
        let memory = Memory::default();
        let mut connection = Connection::with_head(socket, caller, Scheme::Http, rules, head, memory)?;
        let exchange = connection.polled(rules, b"", false, host, Waker::noop());
        exchange.set_token(hostage.token);
        Some(with(&exchange))
    }
}

fn events_of(flags: EventFlags) -> Events {
    [
        (EventFlags::IN, Events::READABLE),
        (EventFlags::OUT, Events::WRITABLE),
        (EventFlags::RDHUP, Events::ENDED),
        (EventFlags::HUP, Events::GONE),
        (EventFlags::ERR, Events::GONE),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(Events::NONE, |all, (_, event)| all.and(event))
}

/// What a thread does with a future.
fn poll_on_thread<F: Future<Output = Outcome>>(job: Job<F>) {
    let Job { key, mut busy, returns } = job;
    let bell = Arc::clone(&busy.wakers.bell);
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let mut context = Context::from_waker(&busy.wakers.woken);
        busy.future.as_mut().poll(&mut context)
    }));
    let (back, quiet) = match polled {
        Ok(Poll::Pending) => (Return::Waits(key, busy), false),
        Ok(Poll::Ready(mut outcome)) => {
            let quiet = match &mut outcome {
                Outcome::Idle(client, _) => {
                    client.since = returns.shared.clock.now();
                    client.link.is_watched()
                }
                Outcome::Closed(_) => true,
            };
            (Return::Ended(key, busy, outcome), quiet)
        }
        Err(_) => (Return::Broken(key), false),
    };
    lock(&returns.list).push(back);
    let mail = &returns.shared.mail;
    if quiet {
        mail.leave();
        // Asked afterwards: an event that the loop noted before it could see this return is not forgotten.
        if bell.has_news() || returns.eager.load(Ordering::SeqCst) {
            mail.wake();
        }
    } else {
        mail.wake();
    }
}
