//! Waiting for clients: this worker's epoll instance.
//!
//! It owns when to accept and when to sleep; what accept(2) can say is `rgunicorn_reactor::accept`'s. A connection
//! is accepted without asking first, so that under load a request costs no wait at all; only when every listener
//! has nobody the worker sleeps.
//!
//! What a newcomer gets wrong: when descriptors run out, the pause must not look at the listeners, which are
//! readable all the time then.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rgunicorn_reactor::accept::{Listeners, Next, PAUSE};
use rgunicorn_reactor::net::timespec;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::worker::Host;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

use crate::Server;

/// The event of the host's descriptor; listeners have their index.
const NOTIFY: u64 = u64::MAX;

pub(crate) struct Door<'s> {
    host: &'s Host,
    listeners: Listeners,
    epoll: OwnedFd,
    interval: Timespec,
}

impl<'s> Door<'s> {
    /// Prepares for waiting. Nothing is accepted, no socket listens because of it.
    pub(crate) fn open(server: &'s Server) -> Result<Self, Error> {
        let host = &server.host;
        let listeners = Listeners::of(host);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        listeners.watch(&epoll)?;
        epoll::add(&epoll, host.notify_fd(), epoll::EventData::new_u64(NOTIFY), epoll::EventFlags::IN)?;
        Ok(Self { host, listeners, epoll, interval: timespec(server.interval) })
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    /// The next client, of whichever listener has the turn.
    pub(crate) fn accept(&mut self) -> Next {
        self.listeners.accept()
    }

    /// The next client of this listener.
    pub(crate) fn accept_from(&mut self, index: usize) -> Next {
        self.listeners.accept_from(index)
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
