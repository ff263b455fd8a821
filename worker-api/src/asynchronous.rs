//! The request and response of an async application.
//!
//! What makes these safe to move into spawned tasks is the gate: one lock for both halves, closed when the
//! application's future ends or is dropped. After that every call is [`Fault::Misuse`], so that a task that
//! outlives its request can never touch the connection of another. The lock also keeps calls of the two halves
//! from overlapping, which the interface asks for.

use crate::abi::{Halves, RequestHandle, ResponseHandle, StreamHandle};
use crate::app::Answer;
use crate::error::{Error, Fault};
use crate::request::{Address, Field, Head, Scheme, Version, below_mount, split_target};
use crate::response::fields_of;
#[cfg(feature = "tower")]
use crate::sdk::connection::Aside;
use std::fmt;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// What both halves share: one lock for them, which are there until the exchange ends.
struct Gate {
    halves: Mutex<Option<Halves>>,
    /// Here and not in an allocation of its own, which each request would pay for.
    #[cfg(feature = "tower")]
    aside: Aside,
}

impl Gate {
    fn new(halves: Halves) -> Self {
        Self {
            halves: Mutex::new(Some(halves)),
            #[cfg(feature = "tower")]
            aside: Aside::default(),
        }
    }

    fn with<R>(&self, call: impl FnOnce(&mut Halves) -> R) -> Result<R, Fault> {
        let mut open = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_mut().map(call).ok_or(Fault::Misuse)
    }

    fn close(&self) {
        *self.halves.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Closes the gate however the future ends.
struct Closer(Arc<Gate>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The answer of an exchange: `make` is called with both halves, and the gate closes with its future.
pub(crate) fn gated<F, Fut>(request: RequestHandle<'_>, response: ResponseHandle<'_>, make: F) -> Answer
where
    F: FnOnce(AsyncRequest, AsyncResponse) -> Fut,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let gate = Arc::new(Gate::new(Halves::until_gate_closes(request, response)));
    let closer = Closer(Arc::clone(&gate));
    let future = make(AsyncRequest { gate: Arc::clone(&gate) }, AsyncResponse { gate });
    Answer::new(async move {
        // Moved in here first, so that it is dropped after the application's own future.
        let closer = closer;
        let result = future.await;
        drop(closer);
        crate::app::verdict(result)
    })
}

/// Copies of the octets that [`AsyncRequest`] hands out, because it may outlive the exchange.
fn owned(octets: &[u8]) -> Vec<u8> {
    octets.to_vec()
}

/// The request of an async application. `[worker] [any thread]`; may be moved into a spawned task.
pub struct AsyncRequest {
    gate: Arc<Gate>,
}

impl AsyncRequest {
    /// Something about the head; the empty request once the exchange has ended.
    fn head<R: Default>(&self, look: impl FnOnce(&Head<'_>) -> R) -> R {
        self.gate.with(|open| look(&open.request().head())).unwrap_or_default()
    }

    /// The method, case-sensitive.
    #[must_use]
    pub fn method(&self) -> Vec<u8> {
        self.head(|head| owned(head.method))
    }

    /// The request-target exactly as it was sent.
    #[must_use]
    pub fn target(&self) -> Vec<u8> {
        self.head(|head| owned(head.target))
    }

    /// The path of the target, as [`crate::request::Request::path`] has it.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        self.head(|head| owned(split_target(head.target).0))
    }

    /// What follows the first `?` of the target.
    #[must_use]
    pub fn query(&self) -> Option<Vec<u8>> {
        self.head(|head| split_target(head.target).1.map(owned))
    }

    /// The prefix that the application is mounted on.
    #[must_use]
    pub fn mount(&self) -> Vec<u8> {
        self.head(|head| owned(head.mount))
    }

    /// What of the path is below the mount point: empty, or with a slash in front. WSGI's name for it.
    #[must_use]
    pub fn path_info(&self) -> Vec<u8> {
        self.head(|head| owned(below_mount(split_target(head.target).0, head.mount)))
    }

    /// The version of the request line.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head(|head| Some(head.version)).unwrap_or(Version::Http11)
    }

    /// How the client reached the server.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.head(|head| Some(head.scheme)).unwrap_or(Scheme::Http)
    }

    /// The header fields in order of arrival, as (name, value).
    #[must_use]
    pub fn fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let copy = |open: &mut Halves| {
            let count = open.request().head().field_count;
            (0..count)
                .filter_map(|index| open.request().field(index))
                .map(|field| (owned(field.name), owned(field.value)))
                .collect()
        };
        self.gate.with(copy).unwrap_or_default()
    }

    /// The value of the first field with this name, in any letter case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Vec<u8>> {
        let find = |open: &mut Halves| {
            let count = open.request().head().field_count;
            (0..count)
                .filter_map(|index| open.request().field(index))
                .find(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
                .map(|field| owned(field.value))
        };
        self.gate.with(find).ok().flatten()
    }

    /// The client's address.
    #[must_use]
    pub fn peer(&self) -> Address {
        self.gate.with(|open| open.request().peer()).unwrap_or(Address::Unknown)
    }

    /// The server's own end of the connection.
    #[must_use]
    pub fn local(&self) -> Address {
        self.gate.with(|open| open.request().local()).unwrap_or(Address::Unknown)
    }

    /// A fact of the TLS session by name.
    #[must_use]
    pub fn tls(&self, name: &str) -> Option<Vec<u8>> {
        self.gate.with(|open| open.request().tls(name).map(owned)).ok().flatten()
    }

    /// Declared octets of the body, 0 without one; `None` if only its end will tell.
    #[must_use]
    pub fn body_length(&self) -> Option<u64> {
        self.gate.with(|open| open.request().body_length()).ok().flatten()
    }

    /// Waits for a piece of the body; 0 is its end.
    ///
    /// # Errors
    /// A [`Fault`]; what was read before it is not the whole body.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// As [`AsyncRequest::read`], for authors of futures.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.read_shared(context, buffer)
    }

    /// As `poll_read`. The gate's lock is what keeps calls apart; `&mut` there only keeps two readers from taking
    /// pieces of one body without knowing of each other.
    pub(crate) fn read_shared(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, Fault>> {
        match self.gate.with(|open| open.request().poll_read(context, buffer)) {
            Ok(poll) => poll,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// The same request, for the body of a tower service, whoever asks about the connection, and who names it in a log.
    #[cfg(feature = "tokio")]
    pub(crate) fn share(&self) -> Self {
        Self { gate: Arc::clone(&self.gate) }
    }

    /// What a tower service's exchange has besides.
    #[cfg(feature = "tower")]
    pub(crate) fn aside(&self) -> &Aside {
        &self.gate.aside
    }

    /// Looks at the head and its fields where they lie, and asks for the length of the body, under one lock.
    #[cfg(feature = "tower")]
    pub(crate) fn look<R>(
        &self,
        look: impl FnOnce(&Head<'_>, &mut dyn Iterator<Item = Field<'_>>) -> R,
    ) -> Result<(R, Option<u64>), Fault> {
        self.gate.with(|open| {
            let request = open.request();
            let head = request.head();
            let fields = &mut (0..head.field_count).filter_map(|index| request.field(index));
            (look(&head, fields), request.body_length())
        })
    }

    /// Appends the rest of the body to `body`.
    ///
    /// # Errors
    /// As [`AsyncRequest::read`].
    pub async fn read_to_end(&mut self, body: &mut Vec<u8>) -> Result<usize, Fault> {
        let before = body.len();
        let mut piece = vec![0; 8192];
        loop {
            match self.read(&mut piece).await? {
                0 => return Ok(body.len() - before),
                count => body.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// The trailer fields; none before the body was read to its end.
    #[must_use]
    pub fn trailers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let copy = |open: &mut Halves| {
            (0..)
                .map_while(|index| open.request().trailer(index))
                .map(|field| (owned(field.name), owned(field.value)))
                .collect()
        };
        self.gate.with(copy).unwrap_or_default()
    }

    /// Waits until the client has closed the connection, or the exchange has ended.
    ///
    /// Over TCP that takes a reset: a client that closes in the ordinary way may still read, and counts as there. Set
    /// `request_timeout`, which is 0 by default, for those. Over a Unix socket a close is seen.
    pub async fn client_gone(&self) {
        poll_fn(|context| match self.gate.with(|open| open.request().poll_client_gone(context)) {
            Ok(poll) => poll,
            Err(_) => Poll::Ready(()),
        })
        .await;
    }

    /// Whether the request is over `request_timeout`, or the exchange has ended. A worker class that cannot tell the
    /// first says no.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.gate.with(|open| open.request().expired()).unwrap_or(true)
    }
}

impl fmt::Debug for AsyncRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsyncRequest({} {})", self.method().escape_ascii(), self.target().escape_ascii())
    }
}

/// Above this a whole answer is written in pieces, so that the class need not buffer it (octets).
pub(crate) const WHOLE: usize = 16 * 1024;

/// The response of an async application. `[worker] [any thread]`; may be moved into a spawned task.
pub struct AsyncResponse {
    gate: Arc<Gate>,
}

impl AsyncResponse {
    fn now(&self, call: impl FnOnce(&mut Halves) -> Result<(), Fault>) -> Result<(), Fault> {
        self.gate.with(call)?
    }

    /// The whole answer: status, fields, body.
    ///
    /// # Errors
    /// As [`crate::response::Response::respond`].
    pub async fn respond<'f, F>(&mut self, status: u16, fields: &'f [F], body: &[u8]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        if body.len() <= WHOLE {
            return self.respond_now(status, fields_of(fields), body);
        }
        let length = body.len().to_string();
        let mut fields: Vec<Field<'_>> = fields_of(fields).collect();
        if !fields.iter().any(|field| field.name.eq_ignore_ascii_case(b"content-length")) {
            fields.push(Field::new("Content-Length", &length));
        }
        self.start(status, &fields)?;
        self.write(body).await?;
        self.end()
    }

    /// As `respond`, with fields of whatever place and a body that is no longer than [`WHOLE`].
    pub(crate) fn respond_now<'f>(
        &mut self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
        body: &[u8],
    ) -> Result<(), Fault> {
        self.now(|open| open.response().respond(status, fields, body))
    }

    /// Sends an interim answer.
    ///
    /// # Errors
    /// As [`crate::response::Response::informational`].
    pub fn informational<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.now(|open| open.response().informational(status, fields_of(fields)))
    }

    /// Sets status and fields.
    ///
    /// # Errors
    /// As [`crate::response::Response::start`].
    pub fn start<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.now(|open| open.response().start(status, fields_of(fields)))
    }

    /// Writes all of `piece`, waiting while the client is slow.
    ///
    /// # Errors
    /// A fault of the connection; [`Fault::Misuse`] before `start`, after `end` or after the exchange.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut rest = piece;
        loop {
            let taken = poll_fn(|context| self.poll_write(context, rest)).await?;
            rest = &rest[taken..];
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes some of `piece`, or nothing while full; for authors of futures.
    ///
    /// # Errors
    /// As [`AsyncResponse::write`].
    pub fn poll_write(&mut self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        match self.gate.with(|open| open.response().poll_write(context, piece)) {
            Ok(poll) => poll,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Waits until all that was written is sent.
    ///
    /// # Errors
    /// As [`AsyncResponse::write`].
    pub async fn flush(&mut self) -> Result<(), Fault> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// As [`AsyncResponse::flush`], for authors of futures.
    ///
    /// # Errors
    /// As [`AsyncResponse::write`].
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        match self.gate.with(|open| open.response().poll_flush(context)) {
            Ok(poll) => poll,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Writes `length` octets of `file` from `offset`.
    ///
    /// # Errors
    /// As [`crate::response::Response::send_file`].
    pub async fn send_file(
        &mut self,
        file: &(impl AsFd + Sync),
        offset: u64,
        length: u64,
    ) -> Result<(), Fault> {
        let (mut offset, mut length) = (offset, length);
        while length > 0 {
            let sent = poll_fn(|context| {
                let fd = file.as_fd().as_raw_fd();
                match self.gate.with(|open| open.response().poll_send_file(context, fd, offset, length)) {
                    Ok(poll) => poll,
                    Err(fault) => Poll::Ready(Err(fault)),
                }
            })
            .await?;
            if sent == 0 {
                return Err(Fault::System);
            }
            offset += sent;
            length -= sent;
        }
        Ok(())
    }

    /// Sets the trailer fields of a chunked body.
    ///
    /// # Errors
    /// As [`crate::response::Response::trailers`].
    pub fn trailers<'f, F>(&mut self, fields: &'f [F]) -> Result<(), Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.now(|open| open.response().trailers(fields_of(fields)))
    }

    /// Ends the body.
    ///
    /// # Errors
    /// As [`AsyncResponse::write`].
    pub fn end(&mut self) -> Result<(), Fault> {
        self.now(|open| open.response().end())
    }

    /// Sends this head and takes the connection.
    ///
    /// # Errors
    /// As [`crate::response::Response::take_over`].
    pub fn take_over<'f, F>(&mut self, status: u16, fields: &'f [F]) -> Result<AsyncStream, Fault>
    where
        F: Into<Field<'f>> + Copy,
    {
        self.now(|open| {
            let stream = open.response().take_over(status, fields_of(fields))?;
            open.set_stream(stream);
            Ok(())
        })?;
        Ok(AsyncStream { gate: Arc::clone(&self.gate) })
    }
}

impl fmt::Debug for AsyncResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncResponse")
    }
}

/// A connection that an async application took over; it ends with the application's future.
pub struct AsyncStream {
    gate: Arc<Gate>,
}

impl AsyncStream {
    fn with<R>(&self, call: impl FnOnce(StreamHandle<'static>) -> R) -> Result<R, Fault> {
        self.gate.with(|open| open.stream().map(call).ok_or(Fault::Misuse))?
    }

    /// Waits for octets; 0 is the client's end.
    ///
    /// # Errors
    /// A fault of the connection.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// As [`AsyncStream::read`], for authors of futures.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        match self.with(|stream| stream.poll_read(context, buffer)) {
            Ok(poll) => poll,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Writes all of `piece`.
    ///
    /// # Errors
    /// A fault of the connection.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = poll_fn(|context| self.poll_write(context, rest)).await?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// Takes some of `piece`, for authors of futures.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn poll_write(&mut self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        match self.with(|stream| stream.poll_write(context, piece)) {
            Ok(poll) => poll,
            Err(fault) => Poll::Ready(Err(fault)),
        }
    }

    /// Ends the server's direction.
    ///
    /// # Errors
    /// A fault of the connection.
    pub fn shutdown(&mut self) -> Result<(), Fault> {
        self.with(StreamHandle::shutdown)?
    }

    /// Whether the worker wants to leave.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.with(StreamHandle::draining).unwrap_or(true)
    }

    /// Waits until the worker wants to leave, or the exchange has ended.
    pub async fn drain(&self) {
        poll_fn(|context| self.with(|stream| stream.poll_draining(context)).unwrap_or(Poll::Ready(()))).await;
    }
}

impl fmt::Debug for AsyncStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsyncStream")
    }
}
