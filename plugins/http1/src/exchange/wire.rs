//! What a worker class must provide: a byte stream that does not block, and a way to wait for it.
//!
//! It owns the meaning of "would block", "gone" and "time is up" between class and exchange, and the one
//! mapping from errors of the operating system to [`Fault`]s.
//!
//! What a newcomer gets wrong: `SIGPIPE`. The exchange writes to clients that have left; `write` and
//! `send_file` must then fail with `EPIPE` and not kill the process (`MSG_NOSIGNAL`, or the signal ignored).

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::Address;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Octets, or the end of the client's direction.
    Readable,
    /// Room for octets.
    Writable,
}

/// One connection, TLS or plain. `ErrorKind::WouldBlock` means "not now"; `Interrupted` is tried again.
pub trait Wire {
    /// Receives; 0 is the end of the client's direction. Fewer octets than there is room for mean that no
    /// more had arrived.
    ///
    /// # Errors
    /// `WouldBlock`, or what ends the connection.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends some of `pieces`, none of which is empty, in order. Fewer octets than there are mean that there
    /// is no room for more.
    ///
    /// # Errors
    /// `WouldBlock`, or what ends the connection.
    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Sends some of the file; 0 if it ends before `offset + length`. Its own position does not move.
    ///
    /// # Errors
    /// `WouldBlock`, or what ends the connection.
    fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64>;

    /// Waits; `false` if `until` passed first. `true` may be early, and must be when the worker is told to
    /// leave, so that an application that reads a stream learns of it. Called by the faces that wait only, and by
    /// [`Connection::wait_for_head`](super::Connection::wait_for_head) and `linger`.
    ///
    /// # Errors
    /// What ends the connection, such as a worker that must leave at once.
    fn wait(&mut self, interest: Interest, until: Option<Instant>) -> io::Result<bool>;

    /// Whether the connection is reset or closed in both directions. Does not wait, reads nothing. A client
    /// that has only ended its own direction is not gone.
    fn client_gone(&mut self) -> bool;

    /// Ends the server's direction.
    ///
    /// # Errors
    /// The connection is no longer there.
    fn shutdown_write(&mut self) -> io::Result<()>;

    /// The server's end. Asked for at most once per request, and only if the application wants to know.
    fn local(&mut self) -> Address;

    /// The descriptor on which the application's octets travel as they are; `None` under TLS.
    fn fd(&self) -> Option<i32>;
}

/// What an error of the operating system means to the application. `ETIMEDOUT` is the kernel giving up on a
/// client that no longer acknowledges.
pub(super) fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected
        | ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => Fault::ClientGone,
        _ => Fault::System,
    }
}
