//! System calls on the socket of a client: TCP or Unix, never blocking.
//!
//! It is `rustix`, because that is safe, owns what accept4(2) returns, and has sendmsg(2) with `MSG_NOSIGNAL`;
//! the standard library has none of the three for a borrowed listener.
//!
//! What a newcomer gets wrong: sendfile(2) has no `MSG_NOSIGNAL`. That it raises no `SIGPIPE` here is because
//! Rust's runtime ignores that signal in the program that loads this library.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rgunicorn_worker_api::request::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, getsockname, recv,
    sendmsg, shutdown,
};

/// A time for the kernel; durations that it cannot express count as an hour.
#[must_use]
pub fn timespec(time: Duration) -> Timespec {
    Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
}

/// The address of a peer or of our own end.
#[must_use]
pub fn address_of(address: SocketAddrAny) -> Address {
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

/// recv(2).
///
/// # Errors
/// As the call's.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (count, _) = recv(fd, buffer, RecvFlags::empty())?;
    Ok(count)
}

/// send(2) or sendmsg(2), without `SIGPIPE`.
///
/// # Errors
/// As the calls'.
pub fn send(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let sent = match pieces {
        [piece] => rustix::net::send(fd, piece, SendFlags::NOSIGNAL)?,
        pieces => sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?,
    };
    Ok(sent)
}

/// sendfile(2) from `offset`; the file's own position does not move.
///
/// # Errors
/// As the call's.
pub fn send_file(fd: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let mut offset = offset;
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    Ok(sendfile(fd, file, Some(&mut offset), count)? as u64)
}

/// Whether the connection is reset or closed in both directions.
#[must_use]
pub fn is_gone(fd: BorrowedFd<'_>) -> bool {
    // POLLHUP: both directions are closed; POLLERR: reset. Both are reported without being asked for.
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    poll(&mut fds, Some(&timespec(Duration::ZERO))).is_ok_and(|ready| ready > 0)
}

/// Ends our direction.
///
/// # Errors
/// As those of shutdown(2).
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(shutdown(fd, Shutdown::Write)?)
}

/// Ends both directions; whoever waits for the socket wakes up.
pub fn shutdown_both(fd: BorrowedFd<'_>) {
    // Fails only if there is no connection any more, which is what is wanted.
    let _ = shutdown(fd, Shutdown::Both);
}

/// The server's end.
#[must_use]
pub fn local_address(fd: BorrowedFd<'_>) -> Address {
    getsockname(fd).map_or(Address::Unknown, address_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn addresses_of_every_family() {
        for text in ["127.0.0.1:80", "[::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(address_of(address.into()), Address::Ip(address));
        }
        let path = std::env::temp_dir().join(format!("rgunicorn-reactor-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(local_address(listener.as_fd()), Address::Unix(Some(path.clone())));
        assert_eq!(local_address(client.as_fd()), Address::Unix(None));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn half_closed_is_not_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_gone(ours.as_fd()));
        drop(theirs);
        assert!(is_gone(ours.as_fd()));
    }
}
