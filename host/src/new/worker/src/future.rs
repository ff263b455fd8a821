//! An async application on this thread: its future is polled, then whatever it or the client waits for is awaited.
//!
//! The future may be woken from any thread, which rings a bell: a socket that this thread watches beside the client's.
//! A class that serves many at a time does the same for all of them in one loop.

use rgunicorn_http1::exchange::{Connection, Polled};
use rgunicorn_reactor::net::timespec;
use rgunicorn_worker_api::worker::{Host, Mounted, State, Verdict};
use rustix::event::{PollFd, PollFlags, poll};
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use crate::Worker;
use crate::socket::Socket;

/// What wakers ring; the other end is watched.
struct Bell(UnixStream);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Fails only if it is full, and then it is heard anyway.
        let _ = (&self.0).write(&[1]);
    }
}

/// Lets an async application answer; returns whether to linger.
pub(crate) fn answer(
    worker: &Worker,
    client: BorrowedFd<'_>,
    mounted: Mounted,
    connection: &mut Connection<Socket<'_>>,
) -> std::io::Result<bool> {
    let host = &worker.host;
    let (heard, bell) = UnixStream::pair()?;
    heard.set_nonblocking(true)?;
    bell.set_nonblocking(true)?;
    let waker = Waker::from(Arc::new(Bell(bell)));
    let exchange = connection.polled(&worker.rules, mounted.prefix, false, host, &waker);
    let token = host.request_begin(&exchange);
    exchange.set_token(token);
    let mut turns = Turns {
        host,
        client,
        exchange: &exchange,
        heard,
        token,
        hung_up: false,
    };
    let verdict = if exchange.refused() {
        Verdict::Transport
    } else {
        turns.complete(mounted, &waker)
    };
    exchange.conclude(verdict);
    while exchange.is_sending() && !turns.hung_up && turns.wait() {}
    let ended = exchange.ended();
    exchange.report(host, &ended);
    Ok(ended.linger)
}

struct Turns<'t, 'c, 's> {
    host: &'t Host,
    client: BorrowedFd<'t>,
    exchange: &'t Polled<'c, Socket<'s>>,
    heard: UnixStream,
    token: u64,
    /// The client's socket has told all it has to tell, and would tell it again and again.
    hung_up: bool,
}

impl Turns<'_, '_, '_> {
    /// Polls the future to its end. Returning earlier drops it, which cancels the request.
    fn complete(&mut self, mounted: Mounted, waker: &Waker) -> Verdict {
        let mut context = Context::from_waker(waker);
        let mut answering = mounted.call_async(self.exchange);
        loop {
            // Before the poll, so that what rings during it is heard after it.
            while matches!(self.heard.read(&mut [0; 64]), Ok(count) if count > 0) {}
            if let Poll::Ready(verdict) = Pin::new(&mut answering).poll(&mut context) {
                return verdict;
            }
            if !self.wait() {
                return Verdict::Transport;
            }
        }
    }

    /// Waits once, and tells the exchange what happened; false if there is nobody to go on for.
    fn wait(&mut self) -> bool {
        let wanted = self.exchange.wanted();
        let left = wanted
            .deadline
            .map(|end| end.saturating_duration_since(Instant::now()));
        let interval = self.host.tick_interval();
        let time = left.map_or(interval, |left| left.min(interval));
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, wanted.readable);
        flags.set(PollFlags::OUT, wanted.writable);
        let notify = self.host.notify_fd();
        let mut watched = vec![
            PollFd::new(&self.heard, PollFlags::IN),
            PollFd::new(&notify, PollFlags::IN),
        ];
        if !self.hung_up {
            watched.push(PollFd::new(&self.client, flags));
        }
        self.host.tick_idle();
        // A signal is the only thing that keeps poll(2) from waiting, and that is looked at in the next turn.
        let _ = poll(&mut watched, Some(&timespec(time)));
        self.host.tick();
        let told = |index: usize| {
            watched
                .get(index)
                .map_or(PollFlags::empty(), PollFd::revents)
        };
        let (news, client) = (told(1), told(2));
        if !news.is_empty() && !self.hear_host() {
            return false;
        }
        if client.intersects(PollFlags::HUP | PollFlags::ERR) {
            self.hung_up = true;
            return self.exchange.left();
        }
        if !client.is_empty() {
            self.exchange.ready(
                client.contains(PollFlags::IN),
                client.contains(PollFlags::OUT),
            );
        }
        if wanted.deadline.is_some() {
            self.exchange.check_times(Instant::now());
        }
        true
    }

    /// Takes the host's news; false if they end this exchange.
    fn hear_host(&self) -> bool {
        let events = self.host.take_events();
        if self.host.state() == State::Halting {
            self.exchange.left();
            return false;
        }
        if events.expired() && self.host.request_expired(self.token) {
            self.exchange.expire();
            return false;
        }
        if events.state() {
            self.exchange.drain();
        }
        true
    }
}
