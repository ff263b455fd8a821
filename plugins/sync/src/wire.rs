//! The socket of one client, as the exchange uses it: TCP or Unix, never blocking.
//!
//! It owns the system calls on that socket and the waits, during which the worker ticks: a slow client is no
//! reason to be killed. It is `rustix`, because that is safe, owns what accept4(2) returns, and has sendmsg(2)
//! with `MSG_NOSIGNAL`; the standard library has none of the three for a borrowed listener.
//!
//! What a newcomer gets wrong: sendfile(2) has no `MSG_NOSIGNAL`. That it raises no `SIGPIPE` here is because
//! Rust's runtime ignores that signal in the program that loads this library.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use rgunicorn_http1::exchange::{Interest, Wire};
use rgunicorn_worker_api::request::Address;
use rgunicorn_worker_api::worker::State;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, getsockname, recv,
    send, sendmsg, shutdown,
};

use crate::Server;
use crate::accept::timespec;

pub(crate) struct Socket<'s> {
    fd: BorrowedFd<'s>,
    server: &'s Server,
}

impl<'s> Socket<'s> {
    pub(crate) fn new(fd: BorrowedFd<'s>, server: &'s Server) -> Self {
        Self { fd, server }
    }
}

/// The address of a peer or of our own end.
pub(crate) fn address_of(address: SocketAddrAny) -> Address {
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Address::Ip(address);
    }
    match SocketAddrUnix::try_from(address) {
        Ok(unix) => {
            Address::Unix(unix.path_bytes().map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path))))
        }
        Err(_) => Address::Unknown,
    }
}

impl Wire for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(self.fd, buffer, RecvFlags::empty())?;
        Ok(count)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = match pieces {
            [piece] => send(self.fd, piece, SendFlags::NOSIGNAL)?,
            pieces => sendmsg(self.fd, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?,
        };
        Ok(sent)
    }

    fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
        let mut offset = offset;
        let count = usize::try_from(length).unwrap_or(usize::MAX);
        Ok(sendfile(self.fd, file, Some(&mut offset), count)? as u64)
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
        // POLLHUP: both directions are closed; POLLERR: reset. Both are reported without being asked for.
        let mut fds = [PollFd::from_borrowed_fd(self.fd, PollFlags::empty())];
        poll(&mut fds, Some(&timespec(std::time::Duration::ZERO))).is_ok_and(|ready| ready > 0)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(shutdown(self.fd, Shutdown::Write)?)
    }

    fn local(&mut self) -> Address {
        getsockname(self.fd).map_or(Address::Unknown, address_of)
    }

    fn fd(&self) -> Option<i32> {
        Some(self.fd.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn addresses_of_every_family() {
        for text in ["127.0.0.1:80", "[::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(address_of(address.into()), Address::Ip(address));
        }
        let path = std::env::temp_dir().join(format!("rgunicorn-sync-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(address_of(getsockname(&listener).unwrap()), Address::Unix(Some(path.clone())));
        assert_eq!(address_of(getsockname(&client).unwrap()), Address::Unix(None));
        std::fs::remove_file(path).unwrap();
    }
}
