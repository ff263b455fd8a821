//! The socket of a client, as `rgunicorn-http1` uses it. It never blocks; waiting is done here, and ticks.

use rgunicorn_http1::exchange::{Interest, Wire};
use rgunicorn_reactor::net::{self, timespec};
use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::{Host, State};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

pub(crate) struct Socket<'s> {
    pub(crate) fd: BorrowedFd<'s>,
    pub(crate) host: &'s Host,
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
        let flags = match interest {
            Interest::Readable => PollFlags::IN,
            Interest::Writable => PollFlags::OUT,
        };
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let interval = self.host.tick_interval();
            let time = left.map_or(interval, |left| left.min(interval));
            let notify = self.host.notify_fd();
            let mut watched = [
                PollFd::from_borrowed_fd(self.fd, flags),
                PollFd::from_borrowed_fd(notify, PollFlags::IN),
            ];
            self.host.tick_idle();
            match poll(&mut watched, Some(&timespec(time))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.host.tick();
            if !watched[1].revents().is_empty() {
                let _ = self.host.take_events();
                if self.host.state() == State::Halting {
                    return Err(io::Error::other("the worker must leave at once"));
                }
            }
            if !watched[0].revents().is_empty() {
                return Ok(true);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
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
