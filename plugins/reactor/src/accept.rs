//! The listening sockets: whom to serve next.
//!
//! It owns the errors of accept(2) and the turn among several listeners. It does not own the waiting: a class
//! puts the listeners into its epoll set with [`Listeners::watch`] and takes them out with
//! [`Listeners::unwatch`].
//!
//! - The listeners are in the epoll set with `EPOLLEXCLUSIVE`: of all sleeping workers the kernel wakes one for
//!   a connection (`epoll_ctl(2)`); with poll(2) it would wake all of them. A worker that is not asleep is
//!   passed over, so a busy one swallows no wake.
//! - The turn goes round: each accept begins at the listener after the one that was served last. Listeners
//!   with nobody cost an accept4(2) that says `EAGAIN`, which is less than asking epoll about them first.
//!
//! What a newcomer gets wrong: when descriptors run out, accept(2) fails and the connection stays queued, so a
//! level-triggered wait returns at once. Whoever gets [`Next::NoRoom`] must not watch the listeners for a while.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::{Host, Listener};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::net::address_of;

/// How long to leave the listeners alone while there are no descriptors or no memory.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Between complaints about that.
const COMPLAIN: Duration = Duration::from_secs(1);
/// Clients in a row that are gone before they are accepted. Beyond, it is not they who are the reason: a security
/// module or a filter of system calls refuses every accept4(2), and the queue stays as it is.
const GONE: usize = 64;

/// Who comes next.
#[derive(Debug)]
pub enum Next {
    /// Somebody.
    Client(Client),
    /// All queues are empty.
    Nobody,
    /// There may be somebody, but no descriptor or memory to take them with.
    NoRoom,
}

/// A connection that was accepted. Dropping it closes it.
#[derive(Debug)]
pub struct Client {
    /// Non-blocking, closed on exec.
    pub fd: OwnedFd,
    /// Its address.
    pub peer: Address,
}

/// The listeners of a worker.
#[derive(Debug)]
pub struct Listeners {
    listeners: Vec<Listener>,
    turn: usize,
    complained: Option<Instant>,
}

impl Listeners {
    /// Those of the host. Nothing is accepted, no socket listens because of it.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        Self { listeners: host.listeners(), turn: 0, complained: None }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Waits for all of them in `epoll`; the event's data is the index of the listener.
    ///
    /// # Errors
    /// No memory, or too many watches of this user.
    pub fn watch(&self, epoll: impl AsFd) -> Result<(), Errno> {
        for (index, listener) in self.listeners.iter().enumerate() {
            let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
            epoll::add(&epoll, listener.fd, EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Takes them out again.
    pub fn unwatch(&self, epoll: impl AsFd) {
        for listener in &self.listeners {
            // Fails only if it was not in the set, and then it need not be taken out.
            let _ = epoll::delete(&epoll, listener.fd);
        }
    }

    /// The next client, of whichever listener has the turn.
    pub fn accept(&mut self) -> Next {
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
    pub fn accept_from(&mut self, index: usize) -> Next {
        let listener = &self.listeners[index];
        let mut gone = 0;
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
                ) if gone < GONE => gone += 1,
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
}
