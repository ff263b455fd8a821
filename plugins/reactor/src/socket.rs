//! The socket of one client, as the exchange uses it, and who may still answer on it.
//!
//! It owns the claim between the thread that runs a blocking application and the loop, which answers 504 for a
//! request that is over its time: whoever claims first writes, and the other never does. A thread that waits for the
//! client's body finds the end of its time by itself.
//!
//! What a newcomer gets wrong: `wait` is called on threads of a crew only. The thread gives its place to another
//! meanwhile (`crew.rs`); on the loop nothing ever waits.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rgunicorn_http1::exchange::{Interest, Wire};
use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::State;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::crew;
use crate::net::{self, timespec};
use crate::serve::Shared;

const NOBODY: u8 = 0;
const EXCHANGE: u8 = 1;
const LOOP: u8 = 2;

/// What of a socket the loop is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Watched {
    /// Nothing.
    Not = 0,
    /// Octets, and the client's leaving.
    Input = 1,
    /// Room for octets as well.
    Both = 2,
}

/// A connection's descriptor, counted by the host from accept to close.
pub(crate) struct Link {
    fd: OwnedFd,
    /// How the loop calls it.
    key: u64,
    shared: &'static Shared,
    claim: AtomicU8,
    /// A [`Watched`]. It only grows.
    watched: AtomicU8,
    /// What a thread waited for last were octets of the client, until the time of the request is over at the latest.
    awaited: AtomicBool,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd, key: u64, shared: &'static Shared) -> Arc<Self> {
        shared.host.connection_opened(fd.as_fd());
        let (claim, watched) = (AtomicU8::new(NOBODY), AtomicU8::new(Watched::Not as u8));
        Arc::new(Self { fd, key, shared, claim, watched, awaited: AtomicBool::new(false) })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed) != Watched::Not as u8
    }

    /// Sees to it that the loop hears of this, edge-triggered; also of what has happened already. `false` if the
    /// kernel has no memory for it. Room is watched for only when it was missed once: at first there is room, and
    /// saying so would be an event for each connection. `[any thread]`, one at a time.
    pub(crate) fn watch(&self, wanted: Watched) -> bool {
        let watched = self.watched.load(Ordering::Relaxed);
        if watched >= wanted as u8 {
            return true;
        }
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        flags.set(EventFlags::OUT, wanted == Watched::Both);
        let (epoll, data) = (&self.shared.epoll, EventData::new_u64(self.key));
        let result = if watched == Watched::Not as u8 {
            epoll::add(epoll, &self.fd, data, flags)
        } else {
            epoll::modify(epoll, &self.fd, data, flags)
        };
        if let Err(error) = result {
            self.shared.complain_of_watches(error);
            return false;
        }
        self.watched.store(wanted as u8, Ordering::Relaxed);
        true
    }

    /// Whether a thread waits for the client's body, or did so last: if it goes on with that it finds the end of its time.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// A new request: nobody has answered it.
    pub(crate) fn renew(&self) {
        self.awaited.store(false, Ordering::Relaxed);
        self.claim.store(NOBODY, Ordering::Release);
    }

    fn claim(&self, who: u8) -> bool {
        let claim = self.claim.load(Ordering::Acquire);
        claim == who
            || claim == NOBODY
                && self.claim.compare_exchange(NOBODY, who, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The loop answers this request from now on, if nobody did.
    pub(crate) fn claim_for_loop(&self) -> bool {
        self.claim(LOOP)
    }

    /// Whether the loop has answered this request.
    pub(crate) fn is_claimed_by_loop(&self) -> bool {
        self.claim.load(Ordering::Acquire) == LOOP
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.host.connection_closed();
    }
}

/// The wire of an exchange.
pub(crate) struct Socket {
    link: Arc<Link>,
    shared: &'static Shared,
    who: u8,
    /// The application has been told that the worker wants to leave.
    told: bool,
    /// When the time of the request is over that a thread works on.
    over: Option<Instant>,
}

impl Socket {
    /// For the connection's own future.
    pub(crate) fn new(link: Arc<Link>, shared: &'static Shared) -> Self {
        Self { link, shared, who: EXCHANGE, told: false, over: None }
    }

    /// For the loop, once it has the claim.
    pub(crate) fn for_loop(link: Arc<Link>, shared: &'static Shared) -> Self {
        Self { link, shared, who: LOOP, told: false, over: None }
    }

    /// The request that has just begun may take this long.
    pub(crate) fn limit(&mut self, time: Duration) {
        // The host counts from a moment before this one; it has to agree that the time is over.
        self.over = Instant::now().checked_add(time + Duration::from_millis(1));
    }

    fn may_write(&self) -> io::Result<()> {
        if self.link.claim(self.who) { Ok(()) } else { Err(ErrorKind::BrokenPipe.into()) }
    }
}

impl Wire for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        net::receive(self.link.fd(), buffer)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.may_write()?;
        net::send(self.link.fd(), pieces)
    }

    fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
        self.may_write()?;
        net::send_file(self.link.fd(), file, offset, length)
    }

    fn wait(&mut self, interest: Interest, until: Option<Instant>) -> io::Result<bool> {
        let Shared { host, departure, .. } = self.shared;
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Writable => PollFlags::OUT,
        };
        let over = self.over.filter(|_| interest == Interest::Readable);
        let first = [until, over].into_iter().flatten().min();
        loop {
            let left = first.map(|first| timespec(first.saturating_duration_since(Instant::now())));
            let mut fds = [
                PollFd::from_borrowed_fd(self.link.fd(), flags),
                PollFd::from_borrowed_fd(departure.halt.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(departure.drain.as_fd(), PollFlags::IN),
            ];
            let watched = if self.told { 2 } else { 3 };
            self.link.awaited.store(interest == Interest::Readable, Ordering::Relaxed);
            match crew::lend(|| poll(&mut fds[..watched], left.as_ref())) {
                // Whoever waits sees that the time of the request is over.
                Ok(0) => return Ok(first != until),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if host.state() == State::Halting {
                return Err(io::Error::other("the worker must leave at once"));
            }
            if !self.told && !fds[2].revents().is_empty() {
                self.told = true;
                return Ok(true);
            }
            if !fds[0].revents().is_empty() {
                return Ok(true);
            }
        }
    }

    fn client_gone(&mut self) -> bool {
        net::is_gone(self.link.fd())
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        net::shutdown_write(self.link.fd())
    }

    fn local(&mut self) -> Address {
        net::local_address(self.link.fd())
    }

    fn fd(&self) -> Option<i32> {
        Some(self.link.fd().as_raw_fd())
    }
}
