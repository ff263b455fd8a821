//! The response as an application writes it, and a connection it took over.
//!
//! Either [`Response::respond`] once, or [`Response::start`], any number of writes, [`Response::end`]. The
//! server owns the framing: an application says how long its body is (a `Content-Length` field) or nothing, and
//! never writes chunks itself.

use crate::abi::{ResponseHandle, StreamHandle};
use crate::error::Fault;
use crate::request::Field;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

/// A response, while the application writes it.
///
/// `[worker]`, on the thread that the application was called on; it cannot leave it. An application that
/// returns `Ok` after a `start` without an `end` has ended; one that returns without a `start` has answered
/// nothing, which is a 500.
pub struct Response<'x> {
    handle: ResponseHandle<'x>,
    stays: PhantomData<*const ()>,
}

/// What authors write, `&[("Name", "value")]` or [`Field`]s, as fields.
pub(crate) fn fields_of<'f, F: Into<Field<'f>> + Copy>(
    fields: &'f [F],
) -> impl ExactSizeIterator<Item = Field<'f>> {
    fields.iter().map(|field| (*field).into())
}

impl<'x> Response<'x> {
    pub(crate) fn new(handle: ResponseHandle<'x>) -> Self {
        Self { handle, stays: PhantomData }
    }

    /// The whole answer: status, fields, body. The server adds `Content-Length`, `Date`, `Server` and
    /// `Connection`.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a status or field that may not be sent, [`Fault::Misuse`] after a `start`,
    /// otherwise a fault of the connection.
    pub fn respond<'f, F>(&mut self, status: u16, fields: &'f [F], body: &[u8]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.handle.respond(status, fields_of(fields), body)
    }

    /// As `respond`, with fields of whatever place.
    #[cfg(feature = "http")]
    pub(crate) fn respond_with<'f>(
        &mut self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
        body: &[u8],
    ) -> Result<(), Fault> {
        self.handle.respond(status, fields, body)
    }

    /// Sends an interim answer, 100 to 199 but 101 (RFC 9110 section 15.2). A client that speaks HTTP/1.0 is
    /// spared it.
    ///
    /// # Errors
    /// As [`Response::respond`].
    pub fn informational<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.handle.informational(status, fields_of(fields))
    }

    /// Sets status and fields. Without a `Content-Length` among them the body is chunked, or on HTTP/1.0
    /// ended by closing. The head may wait for the first piece of the body.
    ///
    /// # Errors
    /// As [`Response::respond`].
    pub fn start<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.handle.start(status, fields_of(fields))
    }

    /// Writes a piece of the body, waiting while the client is slow. An empty piece is allowed and is not an
    /// end.
    ///
    /// # Errors
    /// A fault of the connection; [`Fault::Misuse`] before `start` or after `end`.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.handle.write(piece)
    }

    /// Sends what was written so far to the client.
    ///
    /// # Errors
    /// As [`Response::write`].
    pub fn flush(&mut self) -> Result<(), Fault> {
        self.handle.flush()
    }

    /// Writes `length` octets of `file` from `offset`, by sendfile(2) where the connection allows. The file's
    /// own position does not move.
    ///
    /// # Errors
    /// As [`Response::write`]; [`Fault::System`] if the file ends early.
    pub fn send_file(&mut self, file: &impl AsFd, offset: u64, length: u64) -> Result<(), Fault> {
        self.handle.send_file(file.as_fd().as_raw_fd(), offset, length)
    }

    /// Sets the trailer fields of a chunked body, before `end`. On other framings they are dropped.
    ///
    /// # Errors
    /// As [`Response::start`].
    pub fn trailers<'f, F>(&mut self, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.handle.trailers(fields_of(fields))
    }

    /// Ends the body.
    ///
    /// # Errors
    /// As [`Response::write`].
    pub fn end(&mut self) -> Result<(), Fault> {
        self.handle.end()
    }

    /// Sends a head with this status (101, or 2xx for `CONNECT`) and these fields, and takes the connection:
    /// HTTP ends here.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where the worker class cannot; otherwise as [`Response::respond`].
    pub fn take_over<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<Stream<'x>, Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.handle.take_over(status, fields_of(fields)).map(|handle| Stream { handle, stays: PhantomData })
    }
}

impl fmt::Debug for Response<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Response")
    }
}

/// A connection that an application took over. It ends with the call that got it.
///
/// `[worker]`, on the thread that the application was called on.
pub struct Stream<'x> {
    handle: StreamHandle<'x>,
    stays: PhantomData<*const ()>,
}

impl Stream<'_> {
    /// Waits for octets. 0 is the client's end, or the worker's wish to leave: [`Stream::draining`] tells which, and
    /// reading may go on after the latter.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.handle.read(buffer)
    }

    /// Writes all of `piece`.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        self.handle.write(piece)
    }

    /// Ends the server's direction; reading goes on.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn shutdown(&mut self) -> Result<(), Fault> {
        self.handle.shutdown()
    }

    /// The descriptor, where octets travel on one as they are (not under TLS) and the worker class tells it.
    #[must_use]
    pub fn fd(&self) -> Option<i32> {
        self.handle.fd()
    }

    /// Whether the worker wants to leave: end the conversation within `graceful_timeout`.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.handle.draining()
    }
}

impl fmt::Debug for Stream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}
