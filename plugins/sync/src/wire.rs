//! The socket of one client, as the exchange uses it: TCP or Unix, never blocking.
//!
//! It owns the waits, during which the worker ticks: a slow client is no reason to be killed. The system calls
//! are `rgunicorn_reactor::net`'s.
//!
//! What a newcomer gets wrong: a wait also ends early when the worker is told to leave, so that an application
//! that reads a stream learns of it.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use rgunicorn_http1::exchange::{Interest, Wire};
use rgunicorn_reactor::net::{self, timespec};
use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::State;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::Server;

pub(crate) struct Socket<'s> {
    fd: BorrowedFd<'s>,
    server: &'s Server,
}

impl<'s> Socket<'s> {
    pub(crate) fn new(fd: BorrowedFd<'s>, server: &'s Server) -> Self {
        Self { fd, server }
    }
}

impl Wire for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        net::receive(self.fd, buffer)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        net::send(self.fd, pieces)
    }

    fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
        net::send_file(self.fd, file, offset, length)
    }

    fn wait(&mut self, interest: Interest, until: Option<Instant>) -> io::Result<bool> {
        let Server { host, interval, .. } = self.server;
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Writable => PollFlags::OUT,
        };
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let slice = left.map_or(*interval, |left| left.min(*interval));
            let notify = host.notify_fd();
            let mut fds =
                [PollFd::from_borrowed_fd(self.fd, flags), PollFd::from_borrowed_fd(notify, PollFlags::IN)];
            host.tick_idle();
            match poll(&mut fds, Some(&timespec(slice))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // The application that goes on after this has the whole `timeout`.
            host.tick();
            if !fds[1].revents().is_empty() {
                let events = host.take_events();
                // Whoever waits asks whether it is this request, and goes on waiting if it is none.
                if events.expired() {
                    return Ok(true);
                }
                match host.state() {
                    State::Halting => return Err(io::Error::other("the worker must leave at once")),
                    State::Draining if events.state() => return Ok(true),
                    State::Draining | State::Running => {}
                }
            }
            if !fds[0].revents().is_empty() {
                return Ok(true);
            }
            if left.is_some_and(|left| left <= slice) && until.is_some_and(|until| Instant::now() >= until) {
                return Ok(false);
            }
        }
    }

    fn client_gone(&mut self) -> bool {
        net::is_gone(self.fd)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        net::shutdown_write(self.fd)
    }

    fn local(&mut self) -> Address {
        net::local_address(self.fd)
    }

    fn fd(&self) -> Option<i32> {
        Some(self.fd.as_raw_fd())
    }
}
