//! Calling the other side's tables through safe handles.
//!
//! A handle carries the lifetime for which its object is valid; whoever makes one (`unsafe fn new`) vouches
//! for that, and every block below relies on it. No policy here: numbers become `Result` and `Poll`, nothing
//! else.

use super::{
    AddressParts, AppHostObject, AppObject, BorrowingFfiFuture, Bytes, ContextExt, FieldList, FieldParts,
    HeadParts, HostObject, ListenerParts, MountList, MountParts, Outcome, RecordParts, RequestObject,
    ResponseObject, StreamObject,
};
use crate::error::{Error, Fault};
use crate::request::{Address, Field, Head, Scheme, Version};
use crate::worker::{Listener, Mounted};
use std::cell::OnceCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

/// So many fields are converted on the stack, longer lists on the heap.
pub(super) const FEW: usize = 16;

/// A negative number is a fault, another one a count.
fn count(result: i64) -> Result<u64, Fault> {
    u64::try_from(result).map_err(|_| Fault::from_code(result))
}

fn done(result: i64) -> Result<(), Fault> {
    count(result).map(|_| ())
}

fn polled(result: i64) -> Poll<Result<u64, Fault>> {
    if result == super::IO_PENDING { Poll::Pending } else { Poll::Ready(count(result)) }
}

/// A count of octets never exceeds the buffer it is about, whatever the other side says.
fn bounded(count: u64, bound: usize) -> usize {
    usize::try_from(count).unwrap_or(bound).min(bound)
}

fn outcome(result: Outcome) -> Result<(), Error> {
    if result.code == 0 { Ok(()) } else { Err(Error::new(result.message.into_string())) }
}

/// # Safety
/// The octets behind `parts` are valid for `'a`.
unsafe fn field<'a>(parts: FieldParts) -> Option<Field<'a>> {
    if parts.name.ptr.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { parts.name.as_slice() };
    // SAFETY: the caller's promise.
    let value = unsafe { parts.value.as_slice() };
    Some(Field { name, value })
}

/// # Safety
/// The octets behind `parts` are valid for `'a`.
unsafe fn head<'a>(parts: &HeadParts) -> Head<'a> {
    // SAFETY: the caller's promise.
    let method = unsafe { parts.method.as_slice() };
    // SAFETY: the caller's promise.
    let target = unsafe { parts.target.as_slice() };
    // SAFETY: the caller's promise.
    let mount = unsafe { parts.mount.as_slice() };
    Head {
        method,
        target,
        mount,
        version: if parts.version == 10 { Version::Http10 } else { Version::Http11 },
        scheme: if parts.scheme == 1 { Scheme::Https } else { Scheme::Http },
        field_count: parts.field_count,
    }
}

/// # Safety
/// The path behind `parts` is valid for `'a`.
unsafe fn address(parts: AddressParts) -> Address {
    // SAFETY: the caller's promise.
    let path = unsafe { parts.path.as_slice() };
    Address::from_parts(parts.family, parts.port, parts.ip, path)
}

/// Lends `fields` in their crossing form; the usual handful stays on the stack.
pub(crate) fn with_fields<'f, R>(
    fields: impl ExactSizeIterator<Item = Field<'f>>,
    call: impl FnOnce(FieldList) -> R,
) -> R {
    let parts =
        fields.map(|field| FieldParts { name: Bytes::new(field.name), value: Bytes::new(field.value) });
    if parts.len() <= FEW {
        // Not filled beforehand: most answers have two or three fields.
        let mut few = [const { MaybeUninit::<FieldParts>::uninit() }; FEW];
        let mut len = 0;
        for (slot, part) in few.iter_mut().zip(parts) {
            slot.write(part);
            len += 1;
        }
        call(FieldList { ptr: few.as_ptr().cast(), len })
    } else {
        let many: Vec<FieldParts> = parts.collect();
        call(FieldList { ptr: many.as_ptr(), len: many.len() })
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $object:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<'x> {
            object: $object,
            valid: PhantomData<&'x ()>,
        }

        impl $name<'_> {
            /// A handle to `object`.
            ///
            /// # Safety
            /// `object` must be valid for the lifetime chosen, by the contract of its table.
            pub unsafe fn new(object: $object) -> Self {
                Self { object, valid: PhantomData }
            }

            /// The object, to be lent on.
            pub fn object(self) -> $object {
                self.object
            }
        }
    };
}

handle!(
    /// The request half of an exchange.
    RequestHandle, RequestObject
);
handle!(
    /// The response half of an exchange.
    ResponseHandle, ResponseObject
);
handle!(
    /// A connection that was taken over.
    StreamHandle, StreamObject
);
handle!(
    /// An application object. The lifetime ends with `destroy`, which only its owner calls.
    AppHandle, AppObject
);
handle!(
    /// The worker as an application sees it.
    AppHostHandle, AppHostObject
);
handle!(
    /// The host as a worker class sees it.
    HostHandle, HostObject
);

// SAFETY: by the contracts of their tables these three objects may be used from any thread, calls overlapping.
// (Applications that want one call at a time say so, and the class sees to it.)
unsafe impl Send for AppHandle<'_> {}
// SAFETY: as above.
unsafe impl Sync for AppHandle<'_> {}
// SAFETY: as above.
unsafe impl Send for AppHostHandle<'_> {}
// SAFETY: as above.
unsafe impl Sync for AppHostHandle<'_> {}
// SAFETY: as above.
unsafe impl Send for HostHandle<'_> {}
// SAFETY: as above.
unsafe impl Sync for HostHandle<'_> {}

impl<'x> RequestHandle<'x> {
    /// The request line and what the server added.
    pub fn head(self) -> Head<'x> {
        // SAFETY: of this very exchange, and borrowed until it ends, by the contract of `head`.
        unsafe { head(&self.head_parts()) }
    }

    fn head_parts(self) -> HeadParts {
        let call = self.object.table.head();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// The field with this index.
    pub fn field(self, index: usize) -> Option<Field<'x>> {
        let call = self.object.table.field();
        // SAFETY: the object is valid, by the promise given to `new`.
        let parts = unsafe { call(self.object.this, index) };
        // SAFETY: borrowed until the exchange ends, by the contract of `field`.
        unsafe { field(parts) }
    }

    /// The first field of this name, in any letter case. Without `find`, one call for each field up to it.
    pub fn find(self, name: &[u8]) -> Option<Field<'x>> {
        let Some(call) = self.object.table.find() else {
            let mut fields = (0..).map_while(|index| self.field(index));
            return fields.find(|field| field.name.eq_ignore_ascii_case(name));
        };
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        let parts = unsafe { call(self.object.this, Bytes::new(name)) };
        // SAFETY: borrowed until the exchange ends, by the contract of `find`.
        unsafe { field(parts) }
    }

    /// The trailer field with this index, once the body was read to its end.
    pub fn trailer(self, index: usize) -> Option<Field<'x>> {
        let call = self.object.table.trailer();
        // SAFETY: the object is valid, by the promise given to `new`.
        let parts = unsafe { call(self.object.this, index) };
        // SAFETY: borrowed until the exchange ends, by the contract of `trailer`.
        unsafe { field(parts) }
    }

    /// The client's end of the connection.
    pub fn peer(self) -> Address {
        let call = self.object.table.peer();
        // SAFETY: the object is valid, by the promise given to `new`.
        let parts = unsafe { call(self.object.this) };
        // SAFETY: borrowed until the exchange ends, by the contract of `peer`.
        unsafe { address(parts) }
    }

    /// The server's end of the connection.
    pub fn local(self) -> Address {
        let call = self.object.table.local();
        // SAFETY: the object is valid, by the promise given to `new`.
        let parts = unsafe { call(self.object.this) };
        // SAFETY: borrowed until the exchange ends, by the contract of `local`.
        unsafe { address(parts) }
    }

    /// A fact of the TLS session.
    pub fn tls(self, name: &str) -> Option<&'x [u8]> {
        let call = self.object.table.tls();
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        let value = unsafe { call(self.object.this, Bytes::new(name.as_bytes())) };
        if value.ptr.is_null() {
            return None;
        }
        // SAFETY: borrowed until the exchange ends, by the contract of `tls`.
        Some(unsafe { value.as_slice() })
    }

    /// The declared length of the body.
    pub fn body_length(self) -> Option<u64> {
        let call = self.object.table.body_length();
        // SAFETY: the object is valid, by the promise given to `new`.
        let length = unsafe { call(self.object.this) };
        u64::try_from(length).ok()
    }

    /// Waits for a piece of the body; 0 is its end.
    pub fn read(self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let call = self.object.table.read();
        // SAFETY: the object is valid, by the promise given to `new`; the buffer is lent for the call.
        let result = unsafe { call(self.object.this, buffer.as_mut_ptr(), buffer.len()) };
        count(result).map(|count| bounded(count, buffer.len()))
    }

    /// A piece of the body if there is one.
    pub fn poll_read(self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let call = self.object.table.poll_read();
        let (this, ptr, len) = (self.object.this, buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the object is valid, by the promise given to `new`; buffer and context are lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, ptr, len, context) });
        polled(result).map(|result| result.map(|count| bounded(count, buffer.len())))
    }

    /// Whether the client is known to have left.
    pub fn client_gone(self) -> bool {
        let call = self.object.table.client_gone();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) != 0 }
    }

    /// Ready when the client has left.
    pub fn poll_client_gone(self, context: &mut Context<'_>) -> Poll<()> {
        let call = self.object.table.poll_client_gone();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; the context is lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, context) });
        polled(result).map(|_| ())
    }

    /// Whether the request is over its time.
    pub fn expired(self) -> bool {
        let Some(call) = self.object.table.expired() else { return false };
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) != 0 }
    }

    /// An extension of the request half by name.
    pub fn extension(self, name: &str) -> *const () {
        let call = self.object.table.get_extension();
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        unsafe { call(self.object.this, Bytes::new(name.as_bytes())) }
    }
}

/// A request whose head crosses once, and only if somebody looks at it: many handlers do not, nor does who only passes
/// the request on. It is kept in its crossing form, so that a longer lived `Asked` may stand for a shorter lived one.
pub(crate) struct Asked<'x> {
    handle: RequestHandle<'x>,
    head: OnceCell<HeadParts>,
}

impl<'x> Asked<'x> {
    pub(crate) fn new(handle: RequestHandle<'x>) -> Self {
        Self { handle, head: OnceCell::new() }
    }

    pub(crate) fn handle(&self) -> RequestHandle<'x> {
        self.handle
    }

    pub(crate) fn head(&self) -> Head<'x> {
        // SAFETY: of the exchange behind `handle`, and borrowed until it ends, by the contract of `head`.
        unsafe { head(self.head.get_or_init(|| self.handle.head_parts())) }
    }
}

impl<'x> ResponseHandle<'x> {
    /// Sends a 1xx answer.
    pub fn informational<'f>(
        self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
    ) -> Result<(), Fault> {
        let call = self.object.table.informational();
        // SAFETY: the object is valid, by the promise given to `new`; the fields are lent for the call.
        done(with_fields(fields, |list| unsafe { call(self.object.this, status.into(), list) }))
    }

    /// Sets status and fields.
    pub fn start<'f>(
        self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
    ) -> Result<(), Fault> {
        let call = self.object.table.start();
        // SAFETY: the object is valid, by the promise given to `new`; the fields are lent for the call.
        done(with_fields(fields, |list| unsafe { call(self.object.this, status.into(), list) }))
    }

    /// Writes all of `piece`.
    pub fn write(self, piece: &[u8]) -> Result<(), Fault> {
        let call = self.object.table.write();
        // SAFETY: the object is valid, by the promise given to `new`; the piece is lent for the call.
        done(unsafe { call(self.object.this, Bytes::new(piece)) })
    }

    /// Takes some of `piece`.
    pub fn poll_write(self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        let call = self.object.table.poll_write();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; piece and context are lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, Bytes::new(piece), context) });
        polled(result).map(|result| result.map(|count| bounded(count, piece.len())))
    }

    /// Sends what is buffered.
    pub fn flush(self) -> Result<(), Fault> {
        let call = self.object.table.flush();
        // SAFETY: the object is valid, by the promise given to `new`.
        done(unsafe { call(self.object.this) })
    }

    /// Ready when nothing is buffered.
    pub fn poll_flush(self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let call = self.object.table.poll_flush();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; the context is lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, context) });
        polled(result).map(|result| result.map(|_| ()))
    }

    /// Sends `length` octets of a file from `offset`.
    pub fn send_file(self, fd: i32, offset: u64, length: u64) -> Result<(), Fault> {
        let call = self.object.table.send_file();
        // SAFETY: the object is valid, by the promise given to `new`; the descriptor is lent for the call.
        done(unsafe { call(self.object.this, fd, offset, length) })
    }

    /// Sends some of a file.
    pub fn poll_send_file(
        self,
        context: &mut Context<'_>,
        fd: i32,
        offset: u64,
        length: u64,
    ) -> Poll<Result<u64, Fault>> {
        let call = self.object.table.poll_send_file();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; descriptor and context are lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, fd, offset, length, context) });
        polled(result).map(|result| result.map(|count| count.min(length)))
    }

    /// Sets the trailer fields of a chunked body.
    pub fn trailers<'f>(self, fields: impl ExactSizeIterator<Item = Field<'f>>) -> Result<(), Fault> {
        let call = self.object.table.trailers();
        // SAFETY: the object is valid, by the promise given to `new`; the fields are lent for the call.
        done(with_fields(fields, |list| unsafe { call(self.object.this, list) }))
    }

    /// Ends the body.
    pub fn end(self) -> Result<(), Fault> {
        let call = self.object.table.end();
        // SAFETY: the object is valid, by the promise given to `new`.
        done(unsafe { call(self.object.this) })
    }

    /// The whole answer at once.
    pub fn respond<'f>(
        self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
        body: &[u8],
    ) -> Result<(), Fault> {
        let call = self.object.table.respond();
        // SAFETY: the object is valid, by the promise given to `new`; fields and body are lent for the call.
        done(with_fields(fields, |list| unsafe {
            call(self.object.this, status.into(), list, Bytes::new(body))
        }))
    }

    /// Sends this head and takes the connection.
    pub fn take_over<'f>(
        self,
        status: u16,
        fields: impl ExactSizeIterator<Item = Field<'f>>,
    ) -> Result<StreamHandle<'x>, Fault> {
        let Some(call) = self.object.table.take_over() else { return Err(Fault::Unsupported) };
        let mut code = 0_i64;
        // SAFETY: the object is valid, by the promise given to `new`; fields and code are lent for the call.
        let object =
            with_fields(fields, |list| unsafe { call(self.object.this, status.into(), list, &mut code) });
        done(code)?;
        // SAFETY: valid as long as the exchange, by the contract of `take_over`.
        Ok(unsafe { StreamHandle::new(object) })
    }

    /// An extension of the response half by name.
    pub fn extension(self, name: &str) -> *const () {
        let call = self.object.table.get_extension();
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        unsafe { call(self.object.this, Bytes::new(name.as_bytes())) }
    }
}

impl StreamHandle<'_> {
    /// Waits for octets; 0 is the client's end.
    pub fn read(self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let call = self.object.table.read();
        // SAFETY: the object is valid, by the promise given to `new`; the buffer is lent for the call.
        let result = unsafe { call(self.object.this, buffer.as_mut_ptr(), buffer.len()) };
        count(result).map(|count| bounded(count, buffer.len()))
    }

    /// Octets if there are some.
    pub fn poll_read(self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let call = self.object.table.poll_read();
        let (this, ptr, len) = (self.object.this, buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the object is valid, by the promise given to `new`; buffer and context are lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, ptr, len, context) });
        polled(result).map(|result| result.map(|count| bounded(count, buffer.len())))
    }

    /// Writes all of `piece`.
    pub fn write(self, piece: &[u8]) -> Result<(), Fault> {
        let call = self.object.table.write();
        // SAFETY: the object is valid, by the promise given to `new`; the piece is lent for the call.
        done(unsafe { call(self.object.this, Bytes::new(piece)) })
    }

    /// Takes some of `piece`.
    pub fn poll_write(self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        let call = self.object.table.poll_write();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; piece and context are lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, Bytes::new(piece), context) });
        polled(result).map(|result| result.map(|count| bounded(count, piece.len())))
    }

    /// Ends the server's direction.
    pub fn shutdown(self) -> Result<(), Fault> {
        let call = self.object.table.shutdown();
        // SAFETY: the object is valid, by the promise given to `new`.
        done(unsafe { call(self.object.this) })
    }

    /// The descriptor, if octets travel on one as they are.
    pub fn fd(self) -> Option<i32> {
        let call = self.object.table.fd()?;
        // SAFETY: the object is valid, by the promise given to `new`.
        let fd = unsafe { call(self.object.this) };
        (fd >= 0).then_some(fd)
    }

    /// Whether the worker wants to leave.
    pub fn draining(self) -> bool {
        let call = self.object.table.draining();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) != 0 }
    }

    /// Ready when the worker wants to leave.
    pub fn poll_draining(self, context: &mut Context<'_>) -> Poll<()> {
        let call = self.object.table.poll_draining();
        let this = self.object.this;
        // SAFETY: the object is valid, by the promise given to `new`; the context is lent for the call.
        let result = context.with_ffi_context(|context| unsafe { call(this, context) });
        polled(result).map(|_| ())
    }
}

impl AppHandle<'_> {
    /// An `EXECUTION_*` constant.
    pub fn execution(self) -> u32 {
        let call = self.object.table.execution();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// A `CONCURRENCY_*` constant.
    pub fn concurrency(self) -> u32 {
        let call = self.object.table.concurrency();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// Once per worker, after the last fork.
    pub fn start(self, host: AppHostHandle<'static>) -> Result<(), Error> {
        let call = self.object.table.start();
        // SAFETY: the object is valid, by the promise given to `new`; the host for the life of the process.
        outcome(unsafe { call(self.object.this, host.object()) })
    }

    /// Once per worker, before it serves.
    pub fn ready(self) -> Result<(), Error> {
        let call = self.object.table.ready();
        // SAFETY: the object is valid, by the promise given to `new`.
        outcome(unsafe { call(self.object.this) })
    }

    /// Answers a request; a `VERDICT_*` constant.
    pub fn call(self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> u32 {
        let call = self.object.table.call();
        // SAFETY: all three are valid, by the promises given to their `new`, for longer than the call.
        unsafe { call(self.object.this, request.object(), response.object()) }
    }

    /// Answers a request with a future; a `VERDICT_*` constant, later.
    pub fn call_async<'x>(
        self,
        request: RequestHandle<'x>,
        response: ResponseHandle<'x>,
    ) -> BorrowingFfiFuture<'x, u32> {
        let call = self.object.table.call_async();
        // SAFETY: all three are valid, by the promises given to their `new`; the lifetime of what is returned
        // sees to it that the future is dropped before the exchange ends.
        unsafe { call(self.object.this, request.object(), response.object()) }
    }

    /// The worker stops accepting.
    pub fn drain(self) {
        let Some(call) = self.object.table.drain() else { return };
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// The last request was answered.
    pub fn shutdown(self) {
        let call = self.object.table.shutdown();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// Frees the object.
    ///
    /// # Safety
    /// No handle to it may be used afterwards.
    pub unsafe fn destroy(self) {
        let call = self.object.table.destroy();
        // SAFETY: valid until now, by the promise given to `new`; unused from now on, by the caller's.
        unsafe { call(self.object.this) }
    }
}

impl<'x> AppHostHandle<'x> {
    /// The process that asks.
    pub fn pid(self) -> u32 {
        let call = self.object.table.pid();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// The worker's number in order of birth.
    pub fn age(self) -> u64 {
        let call = self.object.table.age();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// The generation that the worker belongs to.
    pub fn generation(self) -> u64 {
        let call = self.object.table.generation();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// Whether this is a probe.
    pub fn is_probe(self) -> bool {
        let call = self.object.table.is_probe();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) != 0 }
    }

    /// The application's settings as JSON text.
    pub fn settings(self) -> &'x str {
        let call = self.object.table.settings();
        // SAFETY: the object is valid, by the promise given to `new`.
        let text = unsafe { call(self.object.this) };
        // SAFETY: borrowed for the life of the process, by the contract of the table.
        std::str::from_utf8(unsafe { text.as_slice() }).unwrap_or("{}")
    }

    /// A setting of the server as text.
    pub fn server_setting(self, name: &str) -> Option<&'x str> {
        let Some(call) = self.object.table.server_setting() else { return None };
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        let text = unsafe { call(self.object.this, Bytes::new(name.as_bytes())) };
        if text.ptr.is_null() {
            return None;
        }
        // SAFETY: borrowed for the life of the process, by the contract of the table.
        std::str::from_utf8(unsafe { text.as_slice() }).ok()
    }

    /// Has the worker replaced, because `what` has been stuck for so long. An older host does not know that.
    pub fn stuck(self, what: &str, time: std::time::Duration) {
        let Some(call) = self.object.table.stuck() else { return };
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the object is valid, by the promise given to `new`; the words are lent for the call.
        unsafe { call(self.object.this, Bytes::new(what.as_bytes()), nanoseconds) }
    }

    /// Whether the host would hear that.
    pub fn hears_stuck(self) -> bool {
        self.object.table.stuck().is_some()
    }

    /// The same for longer than what lent it.
    pub fn lasting(self) -> AppHostHandle<'static> {
        // SAFETY: the object is valid for the life of the process, by the contract of its table.
        unsafe { AppHostHandle::new(self.object) }
    }
}

impl<'x> HostHandle<'x> {
    /// The listening sockets, in order of `--bind`.
    pub fn listeners(self) -> &'x [ListenerParts] {
        let call = self.object.table.listeners();
        // SAFETY: the object is valid, by the promise given to `new`.
        let list = unsafe { call(self.object.this) };
        if list.ptr.is_null() {
            return &[];
        }
        // SAFETY: an array of that length, borrowed for the life of the process, by the contract of the table.
        unsafe { std::slice::from_raw_parts(list.ptr, list.len) }
    }

    /// The descriptor that becomes readable when something happened.
    pub fn notify_fd(self) -> i32 {
        let call = self.object.table.notify_fd();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// What happened, as `EVENT_*` bits.
    pub fn take_events(self) -> u32 {
        let call = self.object.table.take_events();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// A `STATE_*` constant.
    pub fn state(self) -> u32 {
        let call = self.object.table.state();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// Whether the queue of this listener is to be emptied before leaving.
    pub fn must_empty(self, index: usize) -> bool {
        let call = self.object.table.must_empty();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, index) != 0 }
    }

    /// Reports readiness and waits for the go.
    pub fn ready(self) -> u32 {
        let call = self.object.table.ready();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// The heartbeat; `idle` is 1 before a wait.
    pub fn tick(self, idle: u32) {
        let call = self.object.table.tick();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, idle) }
    }

    /// Whether to take another connection.
    pub fn may_accept(self) -> bool {
        let call = self.object.table.may_accept();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) != 0 }
    }

    /// Counts a connection; `fd` is its socket.
    pub fn connection_opened(self, fd: i32) {
        let call = self.object.table.connection_opened();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, fd) }
    }

    /// Counts a connection off.
    pub fn connection_closed(self) {
        let call = self.object.table.connection_closed();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this) }
    }

    /// A request begins.
    pub fn request_begin(self, request: RequestHandle<'_>) -> u64 {
        let call = self.object.table.request_begin();
        // SAFETY: the object is valid, by the promise given to `new`; the request is lent for the call.
        unsafe { call(self.object.this, &request.object()) }
    }

    /// A request ended.
    pub fn request_end(self, record: &RecordParts) {
        let call = self.object.table.request_end();
        // SAFETY: the object is valid, by the promise given to `new`; the record is lent for the call.
        unsafe { call(self.object.this, record) }
    }

    /// Whether a request is over its time.
    pub fn request_expired(self, token: u64) -> bool {
        let call = self.object.table.request_expired();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, token) != 0 }
    }

    /// The call of a request does not come back.
    pub fn request_abandoned(self, token: u64) {
        let call = self.object.table.request_abandoned();
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, token) }
    }

    /// It came back after all.
    pub fn request_recovered(self, token: u64) {
        let Some(call) = self.object.table.request_recovered() else { return };
        // SAFETY: the object is valid, by the promise given to `new`.
        unsafe { call(self.object.this, token) }
    }

    /// A setting as text.
    pub fn setting(self, name: &str) -> Option<&'x str> {
        let call = self.object.table.setting();
        // SAFETY: the object is valid, by the promise given to `new`; the name is lent for the call.
        let text = unsafe { call(self.object.this, Bytes::new(name.as_bytes())) };
        if text.ptr.is_null() {
            return None;
        }
        // SAFETY: borrowed for the life of the process, by the contract of the table.
        std::str::from_utf8(unsafe { text.as_slice() }).ok()
    }
}

/// Both halves of an async exchange, for as long as the gate of [`crate::asynchronous`] keeps them.
pub(crate) struct Halves {
    request: RequestHandle<'static>,
    response: ResponseHandle<'static>,
    stream: Option<StreamHandle<'static>>,
}

// SAFETY: an async exchange may be used from any thread as long as calls do not overlap (contract of the
// tables), and the only place that keeps a `Halves` is behind the gate's lock.
unsafe impl Send for Halves {}

impl Halves {
    /// The halves with their lifetime forgotten: only the gate, which drops them when the future of the
    /// exchange ends, may keep the value.
    pub(crate) fn until_gate_closes(request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Self {
        // SAFETY: the contract of `call_async` keeps the objects valid until the future is dropped, and the
        // gate is closed no later than that.
        let request = unsafe { RequestHandle::new(request.object()) };
        // SAFETY: as for the request.
        let response = unsafe { ResponseHandle::new(response.object()) };
        Self { request, response, stream: None }
    }

    pub(crate) fn request(&self) -> RequestHandle<'static> {
        self.request
    }

    pub(crate) fn response(&self) -> ResponseHandle<'static> {
        self.response
    }

    pub(crate) fn stream(&self) -> Option<StreamHandle<'static>> {
        self.stream
    }

    pub(crate) fn set_stream(&mut self, stream: StreamHandle<'static>) {
        self.stream = Some(stream);
    }
}

// ---------------------------------------------------------------------------------------------------
// What a worker class gets for the life of its process.

/// The mounted applications.
pub(crate) fn mount_slice(list: MountList) -> &'static [MountParts] {
    if list.ptr.is_null() {
        return &[];
    }
    // SAFETY: an array of that length for the life of the process, by the contract of `run`.
    unsafe { std::slice::from_raw_parts(list.ptr, list.len) }
}

/// One of them.
pub(crate) fn mounted(parts: &MountParts) -> Mounted {
    // SAFETY: valid for the life of the process, by the contract of `run`.
    let prefix = unsafe { parts.prefix.as_slice() };
    // SAFETY: valid until the host destroys it, which is after `run` has returned.
    let app = unsafe { AppHandle::new(parts.app) };
    Mounted::new(prefix, app)
}

/// The listening sockets.
pub(crate) fn listeners(host: HostHandle<'static>) -> Vec<Listener> {
    let listener = |parts: &ListenerParts| {
        // SAFETY: the master's sockets stay open in a worker for its life, by the contract of `listeners`.
        let fd = unsafe { BorrowedFd::borrow_raw(parts.fd) };
        // SAFETY: borrowed for the life of the process, by the contract of `listeners`.
        let address = unsafe { parts.address.as_slice() };
        Listener {
            fd,
            address: std::str::from_utf8(address).unwrap_or(""),
            unix: parts.family == 1,
            foreign: parts.flags & 1 != 0,
        }
    };
    host.listeners().iter().map(listener).collect()
}

/// The descriptor that becomes readable when something happened.
pub(crate) fn notify_fd(host: HostHandle<'static>) -> BorrowedFd<'static> {
    // SAFETY: open for the life of the process, by the contract of `notify_fd`.
    unsafe { BorrowedFd::borrow_raw(host.notify_fd()) }
}
