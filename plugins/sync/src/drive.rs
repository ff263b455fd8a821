//! An async application on this thread: poll its future, wait for whatever it or the client waits for, again.
//!
//! It owns the waker and the one place where this worker waits for a future: poll(2) on the client's socket, an
//! eventfd that the waker writes, and the host's descriptor. The future may be woken from any thread.
//!
//! | bit       | set by                                | means                                              |
//! |-----------|---------------------------------------|----------------------------------------------------|
//! | `WOKEN`   | the future's waker                    | poll the future                                    |
//! | `CHANGED` | the exchange, from another thread too | wait for something else                            |
//! | `ASLEEP`  | this thread, when no other bit is set | who sets a bit must also write the eventfd         |
//!
//! A client that leaves cancels: the future is dropped, unless it waits to be told. One that has only ended its own direction still waits
//! for the answer, and cancels nothing.
//!
//! What a newcomer gets wrong: wakers outlive the request. A late one sets `WOKEN` for the next, whose future
//! is then polled once more than it needs, which a future must bear.

use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use rgunicorn_http1::exchange::{Connection, Polled};
use rgunicorn_reactor::accept::Client;
use rgunicorn_reactor::net::timespec;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::worker::{Mounted, State, Verdict};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::Server;
use crate::wire::Socket;

const WOKEN: u8 = 1;
const CHANGED: u8 = 2;
const ASLEEP: u8 = 4;

/// What wakes this thread out of poll(2).
pub(crate) struct Signal(Arc<Bits>);

struct Bits {
    bits: AtomicU8,
    event: OwnedFd,
}

impl Bits {
    fn set(&self, bit: u8) {
        if self.bits.fetch_or(bit, Ordering::AcqRel) & ASLEEP != 0 {
            // Fails only if the counter is full, and then the descriptor is readable.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    fn take(&self, bit: u8) -> bool {
        self.bits.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
}

struct Woken(Arc<Bits>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.set(WOKEN);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.set(WOKEN);
    }
}

struct Changed(Arc<Bits>);

impl Wake for Changed {
    fn wake(self: Arc<Self>) {
        self.0.set(CHANGED);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.set(CHANGED);
    }
}

impl Signal {
    pub(crate) fn new() -> Result<Self, Error> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Bits { bits: AtomicU8::new(0), event })))
    }

    /// Announces a sleep, unless there is a reason not to.
    fn falls_asleep(&self) -> bool {
        self.0.bits.compare_exchange(0, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn wakes_up(&self) {
        self.0.take(ASLEEP);
    }

    fn drain(&self) {
        // Empty already if nobody wrote, which is no matter.
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
    }
}

/// What a turn of waiting found.
enum Turn {
    Again,
    /// Nobody is there for whom to go on.
    Cancel,
}

/// Lets an async application answer; returns whether to linger.
pub(crate) fn answer(
    server: &Server,
    client: &Client,
    mounted: Mounted,
    connection: &mut Connection<Socket<'_>>,
) -> bool {
    let host = &server.host;
    let bits = &server.signal.0;
    let changed = Waker::from(Arc::new(Changed(Arc::clone(bits))));
    let woken = Waker::from(Arc::new(Woken(Arc::clone(bits))));
    let exchange = connection.polled(&server.rules, mounted.prefix, false, host, &changed);
    let token = host.request_begin(&exchange);
    exchange.set_token(token);
    let mut wait = Wait { server, client, exchange: &exchange, token, hung_up: false };
    let verdict = if exchange.refused() { Verdict::Transport } else { wait.drive(mounted, &woken) };
    exchange.conclude(verdict);
    while exchange.is_sending() && !wait.hung_up {
        host.tick();
        match wait.turn() {
            Turn::Again => {}
            Turn::Cancel => break,
        }
    }
    let ended = exchange.ended();
    exchange.report(host, &ended);
    ended.linger
}

struct Wait<'w, 'c, 's> {
    server: &'w Server,
    client: &'w Client,
    exchange: &'w Polled<'c, Socket<'s>>,
    token: u64,
    /// The socket has told all it has to tell; poll(2) would return for it at once, again and again.
    hung_up: bool,
}

impl Wait<'_, '_, '_> {
    /// Polls the future to its end, or drops it.
    fn drive(&mut self, mounted: Mounted, woken: &Waker) -> Verdict {
        let mut context = Context::from_waker(woken);
        let mut answering = mounted.call_async(self.exchange);
        self.server.signal.0.set(WOKEN);
        loop {
            self.server.host.tick();
            if self.server.signal.0.take(WOKEN)
                && let Poll::Ready(verdict) = Pin::new(&mut answering).poll(&mut context)
            {
                return verdict;
            }
            match self.turn() {
                Turn::Again => {}
                Turn::Cancel => return Verdict::Transport,
            }
        }
    }

    /// Waits once, and tells the exchange what happened.
    fn turn(&mut self) -> Turn {
        let Server { host, signal, interval, .. } = self.server;
        // Cleared before asking, so that a change after asking is not missed.
        signal.0.take(CHANGED);
        let wanted = self.exchange.wanted();
        let left = wanted.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let time = left.map_or(*interval, |left| left.min(*interval));

        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, wanted.readable);
        flags.set(PollFlags::OUT, wanted.writable);
        let notify = host.notify_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(signal.0.event.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(notify, PollFlags::IN),
            PollFd::from_borrowed_fd(self.client.fd.as_fd(), flags),
        ];
        let watched = if self.hung_up { 2 } else { 3 };
        if !signal.falls_asleep() {
            return Turn::Again;
        }
        host.tick_idle();
        let result = poll(&mut fds[..watched], Some(&timespec(time)));
        signal.wakes_up();
        match result {
            Ok(_) => {}
            Err(Errno::INTR) => return Turn::Again,
            Err(error) => {
                log::error!("cannot wait for a client: {error}");
                self.exchange.left();
                return Turn::Cancel;
            }
        }
        if !fds[0].revents().is_empty() {
            signal.drain();
        }
        if !fds[1].revents().is_empty() && self.is_over() {
            return Turn::Cancel;
        }
        let events = if self.hung_up { PollFlags::empty() } else { fds[2].revents() };
        if events.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.hung_up = true;
            return if self.exchange.left() { Turn::Again } else { Turn::Cancel };
        }
        if !events.is_empty() {
            self.exchange.ready(events.contains(PollFlags::IN), events.contains(PollFlags::OUT));
        }
        if wanted.deadline.is_some() {
            self.exchange.check_times(Instant::now());
        }
        Turn::Again
    }

    /// Takes the host's news; whether they end this exchange.
    fn is_over(&self) -> bool {
        let host = &self.server.host;
        let events = host.take_events();
        if host.state() == State::Halting {
            self.exchange.left();
            return true;
        }
        if events.expired() && host.request_expired(self.token) {
            self.exchange.expire();
            return true;
        }
        if events.state() {
            self.exchange.drain();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn readable(signal: &Signal) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(signal.0.event.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&timespec(Duration::ZERO))).unwrap() == 1
    }

    #[test]
    fn a_wake_while_awake_costs_no_system_call_and_keeps_from_sleeping() {
        let signal = Signal::new().unwrap();
        let waker = Waker::from(Arc::new(Woken(Arc::clone(&signal.0))));
        waker.wake_by_ref();
        assert!(!readable(&signal) && !signal.falls_asleep());
        assert!(signal.0.take(WOKEN) && !signal.0.take(WOKEN));
        assert!(signal.falls_asleep());
    }

    #[test]
    fn a_wake_while_asleep_is_seen_by_poll() {
        let signal = Signal::new().unwrap();
        let changed = Waker::from(Arc::new(Changed(Arc::clone(&signal.0))));
        assert!(signal.falls_asleep());
        std::thread::spawn(move || changed.wake()).join().unwrap();
        assert!(readable(&signal));
        signal.wakes_up();
        signal.drain();
        assert!(!readable(&signal) && !signal.falls_asleep());
        assert!(signal.0.take(CHANGED) && signal.falls_asleep());
    }
}
