//! The listening sockets: whom to serve next, and sleeping until somebody comes.
//!
//! It owns the epoll instance and the errors of accept(2). A connection is accepted without asking first, so
//! that under load a request costs no wait at all; only when every listener has nobody the worker sleeps.
//!
//! - The listeners are in the epoll set with `EPOLLEXCLUSIVE`: of all sleeping workers the kernel wakes one for
//!   a connection (`epoll_ctl(2)`); with poll(2) it would wake all of them. A worker that is not asleep is
//!   passed over, so a busy one swallows no wake.
//! - The turn goes round: each accept begins at the listener after the one that was served last. Listeners
//!   with nobody cost an accept4(2) that says `EAGAIN`, which is less than asking epoll about them first.
//!
//! What a newcomer gets wrong: when descriptors run out, accept(2) fails and the connection stays queued, so a
//! level-triggered wait returns at once. The pause therefore does not look at the listeners.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::{Host, Listener};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::Server;
use crate::wire::address_of;

/// Between attempts while there are no descriptors or no memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Between complaints about that.
const COMPLAIN: Duration = Duration::from_secs(1);

/// The event of the host's descriptor; listeners have their index.
const NOTIFY: u64 = u64::MAX;

/// Who comes next.
pub(crate) enum Next {
    Client(Client),
    /// All queues are empty.
    Nobody,
    /// There may be somebody, but no descriptor or memory to take them with.
    NoRoom,
}

/// A connection that was accepted. Dropping it closes it.
pub(crate) struct Client {
    pub(crate) fd: OwnedFd,
    pub(crate) peer: Address,
}

pub(crate) struct Listeners<'s> {
    host: &'s Host,
    listeners: Vec<Listener>,
    epoll: OwnedFd,
    interval: Timespec,
    turn: usize,
    complained: Option<Instant>,
}

/// A time for the kernel; durations that it cannot express count as an hour.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

impl<'s> Listeners<'s> {
    /// Prepares for waiting. Nothing is accepted, no socket listens because of it.
    pub(crate) fn open(server: &'s Server) -> Result<Self, Error> {
        let host = &server.host;
        let listeners = host.listeners();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, listener) in listeners.iter().enumerate() {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
            epoll::add(&epoll, listener.fd, epoll::EventData::new_u64(index as u64), flags)?;
        }
        epoll::add(&epoll, host.notify_fd(), epoll::EventData::new_u64(NOTIFY), epoll::EventFlags::IN)?;
        let interval = timespec(server.interval);
        Ok(Self { host, listeners, epoll, interval, turn: 0, complained: None })
    }

    pub(crate) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// The next client, of whichever listener has the turn.
    pub(crate) fn accept(&mut self) -> Next {
        for _ in 0..self.listeners.len() {
            let index = self.turn % self.listeners.len();
            self.turn = index + 1;
            match self.accept_from(index) {
                Next::Nobody => {}
                next @ (Next::Client(_) | Next::NoRoom) => return next,
            }
        }
        Next::Nobody
    }

    /// The next client of this listener.
    pub(crate) fn accept_from(&mut self, index: usize) -> Next {
        let listener = &self.listeners[index];
        loop {
            match acceptfrom_with(listener.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, peer)) => {
                    let unknown = if listener.unix { Address::Unix(None) } else { Address::Unknown };
                    let peer = peer.map_or(unknown, address_of);
                    return Next::Client(Client { fd, peer });
                }
                Err(Errno::AGAIN) => return Next::Nobody,
                // The client left before it was accepted, or, as accept(2) says, an error of the network that
                // was already pending on the new connection. Either way the next in the queue is well.
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH
                    | Errno::PERM,
                ) => {}
                Err(error) => {
                    self.complain(index, error);
                    return Next::NoRoom;
                }
            }
        }
    }

    fn complain(&mut self, index: usize, error: Errno) {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAIN) {
            self.complained = Some(now);
            let address = self.listeners[index].address;
            log::error!("cannot accept on {address}: {error}; clients wait in its queue");
        }
    }

    /// Sleeps until a client comes, the host has news, or it is time to tick.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        let mut events = [MaybeUninit::uninit(); 8];
        match epoll::wait(&self.epoll, &mut events, Some(&self.interval)) {
            Ok((events, _)) => {
                if events.iter().any(|event| event.data.u64() == NOTIFY) {
                    // The state is asked for in any case; taking the news only lets the descriptor rest.
                    let _ = self.host.take_events();
                }
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Error::new(format!("cannot wait for clients: {error}"))),
        }
    }

    /// Sleeps a moment, or until the host has news.
    pub(crate) fn pause(&mut self) {
        self.host.tick_idle();
        let notify = self.host.notify_fd();
        let mut fds = [PollFd::from_borrowed_fd(notify.as_fd(), PollFlags::IN)];
        // Fails only when interrupted, which ends the pause as well.
        if poll(&mut fds, Some(&timespec(PAUSE))).is_ok_and(|ready| ready > 0) {
            let _ = self.host.take_events();
        }
    }
}
