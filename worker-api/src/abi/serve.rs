//! Making the tables that the other side calls, from traits that safe code implements.
//!
//! Each function turns its pointer back into the type that the table was made for, and runs the trait's method
//! behind the panic fence: nothing ever unwinds across the interface.

use super::call::FEW;
use super::{
    AddressParts, AppHostObject, AppHostTable, AppHostTable_Ref, AppObject, AppTable, AppTable_Ref,
    BorrowingFfiFuture, Bytes, FfiContext, FieldList, FieldParts, HeadParts, HostObject, HostTable,
    HostTable_Ref, IO_MISUSE, IO_PENDING, ListenerList, ListenerParts, Opaque, Outcome, RString, RecordParts,
    RequestObject, RequestTable, RequestTable_Ref, ResponseObject, ResponseTable, ResponseTable_Ref,
    StreamObject, StreamTable, StreamTable_Ref, WithMetadata, staticref,
};
use super::{AppHostHandle, RequestHandle, ResponseHandle};
use crate::app::Application;
use crate::error::{Error, Fault};
use crate::export::fence;
use crate::host::{AppHost, HostServices};
use crate::request::{Field, Scheme, Version};
use crate::worker::{Exchange, Record};
use std::future::Future;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The object of type `T` behind `this`.
///
/// # Safety
/// `this` must have been made from a `&'a T` (or a longer lived one).
unsafe fn back<'a, T>(this: Opaque) -> &'a T {
    // SAFETY: the caller's promise.
    unsafe { &*this.cast::<T>() }
}

fn number(result: Result<usize, Fault>) -> i64 {
    match result {
        // A slice is never longer than isize::MAX.
        Ok(count) => count as i64,
        Err(fault) => fault.code(),
    }
}

fn nothing(result: Result<(), Fault>) -> i64 {
    match result {
        Ok(()) => 0,
        Err(fault) => fault.code(),
    }
}

fn later(poll: Poll<i64>) -> i64 {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => IO_PENDING,
    }
}

fn parts(found: Option<Field<'_>>) -> FieldParts {
    found.map_or(FieldParts { name: Bytes::ABSENT, value: Bytes::ABSENT }, |field| FieldParts {
        name: Bytes::new(field.name),
        value: Bytes::new(field.value),
    })
}

impl Outcome {
    pub(crate) fn of(result: Result<(), Error>) -> Self {
        match result {
            Ok(()) => Self { code: 0, message: RString::new() },
            Err(error) => Self { code: super::OUTCOME_FAILED, message: error.to_string().into() },
        }
    }

    pub(crate) fn panicked(message: &str) -> Self {
        Self { code: super::OUTCOME_PANICKED, message: message.into() }
    }
}

/// Lends `list` as safe fields; the usual handful stays on the stack.
///
/// # Safety
/// The list and the octets behind it must be valid for the call.
unsafe fn lend<R>(list: FieldList, call: impl FnOnce(&[Field<'_>]) -> R) -> R {
    let raw: &[FieldParts] = if list.ptr.is_null() {
        &[]
    } else {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(list.ptr, list.len) }
    };
    let field = |parts: &FieldParts| {
        // SAFETY: the caller's promise.
        let name = unsafe { parts.name.as_slice() };
        // SAFETY: the caller's promise.
        let value = unsafe { parts.value.as_slice() };
        Field { name, value }
    };
    if raw.len() <= FEW {
        let mut few = [const { MaybeUninit::<Field<'_>>::uninit() }; FEW];
        for (slot, parts) in few.iter_mut().zip(raw) {
            slot.write(field(parts));
        }
        // SAFETY: there are no fewer slots than `raw` has elements, and for each of these one was just written.
        call(unsafe { std::slice::from_raw_parts(few.as_ptr().cast(), raw.len()) })
    } else {
        let fields: Vec<Field<'_>> = raw.iter().map(field).collect();
        call(&fields)
    }
}

// ---------------------------------------------------------------------------------------------------
// An exchange, as a worker class offers it.

struct ExchangeTables<E>(PhantomData<E>);

impl<E: Exchange> ExchangeTables<E> {
    staticref!(const REQUEST: WithMetadata<RequestTable> = WithMetadata::new(RequestTable {
        head: Self::head,
        field: Self::field,
        find: Self::find,
        peer: Self::peer,
        local: Self::local,
        tls: Self::tls,
        body_length: Self::body_length,
        read: Self::read,
        poll_read: Self::poll_read,
        trailer: Self::trailer,
        client_gone: Self::client_gone,
        poll_client_gone: Self::poll_client_gone,
        expired: Self::expired,
        get_extension: Self::no_extension,
    }));

    staticref!(const RESPONSE: WithMetadata<ResponseTable> = WithMetadata::new(ResponseTable {
        informational: Self::informational,
        start: Self::start,
        write: Self::write,
        poll_write: Self::poll_write,
        flush: Self::flush,
        poll_flush: Self::poll_flush,
        send_file: Self::send_file,
        poll_send_file: Self::poll_send_file,
        trailers: Self::trailers,
        end: Self::end,
        respond: Self::respond,
        take_over: Self::take_over,
        get_extension: Self::no_extension,
    }));

    staticref!(const STREAM: WithMetadata<StreamTable> = WithMetadata::new(StreamTable {
        read: Self::stream_read,
        poll_read: Self::stream_poll_read,
        write: Self::stream_write,
        poll_write: Self::stream_poll_write,
        shutdown: Self::stream_shutdown,
        fd: Self::stream_fd,
        draining: Self::stream_draining,
        poll_draining: Self::stream_poll_draining,
        get_extension: Self::no_extension,
    }));

    // SAFETY (all functions below): the tables are only ever paired with a pointer made from `&E` by
    // `request_object` and `response_object`, whose lifetime the handles carry.

    unsafe extern "C" fn head(this: Opaque) -> HeadParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| {
            let head = exchange.head();
            HeadParts {
                method: Bytes::new(head.method),
                target: Bytes::new(head.target),
                mount: Bytes::new(head.mount),
                field_count: head.field_count,
                version: match head.version {
                    Version::Http10 => 10,
                    Version::Http11 => 11,
                },
                scheme: match head.scheme {
                    Scheme::Http => 0,
                    Scheme::Https => 1,
                },
            }
        })
        .unwrap_or(HeadParts {
            method: Bytes::ABSENT,
            target: Bytes::ABSENT,
            mount: Bytes::ABSENT,
            field_count: 0,
            version: 11,
            scheme: 0,
        })
    }

    unsafe extern "C" fn field(this: Opaque, index: usize) -> FieldParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        parts(fence(|| exchange.field(index)).unwrap_or(None))
    }

    unsafe extern "C" fn find(this: Opaque, name: Bytes) -> FieldParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `find`.
        let name = unsafe { name.as_slice() };
        parts(fence(|| exchange.find(name)).unwrap_or(None))
    }

    unsafe extern "C" fn trailer(this: Opaque, index: usize) -> FieldParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        parts(fence(|| exchange.trailer(index)).unwrap_or(None))
    }

    unsafe extern "C" fn peer(this: Opaque) -> AddressParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| exchange.peer().parts()).unwrap_or(AddressParts::UNKNOWN)
    }

    unsafe extern "C" fn local(this: Opaque) -> AddressParts {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| exchange.local().parts()).unwrap_or(AddressParts::UNKNOWN)
    }

    unsafe extern "C" fn tls(this: Opaque, name: Bytes) -> Bytes {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `tls`.
        let name = std::str::from_utf8(unsafe { name.as_slice() }).unwrap_or("");
        fence(|| exchange.tls(name).map_or(Bytes::ABSENT, Bytes::new)).unwrap_or(Bytes::ABSENT)
    }

    unsafe extern "C" fn body_length(this: Opaque) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| exchange.body_length().and_then(|length| i64::try_from(length).ok()).unwrap_or(-1))
            .unwrap_or(-1)
    }

    unsafe extern "C" fn read(this: Opaque, ptr: *mut u8, len: usize) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `read`.
        let buffer = unsafe { buffer(ptr, len) };
        fence(|| number(exchange.read(buffer))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn poll_read(this: Opaque, ptr: *mut u8, len: usize, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `poll_read`.
        let buffer = unsafe { buffer(ptr, len) };
        fence(|| cx.with_context(|cx| later(exchange.poll_read(cx, buffer).map(number)))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn client_gone(this: Opaque) -> u32 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| u32::from(exchange.client_gone())).unwrap_or(0)
    }

    unsafe extern "C" fn poll_client_gone(this: Opaque, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| cx.with_context(|cx| later(exchange.poll_client_gone(cx).map(|()| 0)))).unwrap_or(IO_PENDING)
    }

    unsafe extern "C" fn expired(this: Opaque) -> u32 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| u32::from(exchange.expired())).unwrap_or(0)
    }

    unsafe extern "C" fn no_extension(_: Opaque, _: Bytes) -> *const () {
        std::ptr::null()
    }

    unsafe extern "C" fn informational(this: Opaque, status: u32, list: FieldList) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        let Ok(status) = u16::try_from(status) else { return super::IO_INVALID };
        // SAFETY: lent for the call, by the contract of `informational`.
        fence(|| unsafe { lend(list, |fields| nothing(exchange.informational(status, fields))) })
            .unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn start(this: Opaque, status: u32, list: FieldList) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        let Ok(status) = u16::try_from(status) else { return super::IO_INVALID };
        // SAFETY: lent for the call, by the contract of `start`.
        fence(|| unsafe { lend(list, |fields| nothing(exchange.start(status, fields))) }).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn write(this: Opaque, piece: Bytes) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `write`.
        let piece = unsafe { piece.as_slice() };
        fence(|| nothing(exchange.write(piece))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn poll_write(this: Opaque, piece: Bytes, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `poll_write`.
        let piece = unsafe { piece.as_slice() };
        fence(|| cx.with_context(|cx| later(exchange.poll_write(cx, piece).map(number)))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn flush(this: Opaque) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| nothing(exchange.flush())).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn poll_flush(this: Opaque, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| cx.with_context(|cx| later(exchange.poll_flush(cx).map(nothing)))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn send_file(this: Opaque, fd: i32, offset: u64, length: u64) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        if fd < 0 {
            return IO_MISUSE;
        }
        // SAFETY: lent for the call, by the contract of `send_file`.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fence(|| nothing(exchange.send_file(fd, offset, length))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn poll_send_file(
        this: Opaque,
        fd: i32,
        offset: u64,
        length: u64,
        cx: &mut FfiContext<'_>,
    ) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        if fd < 0 {
            return IO_MISUSE;
        }
        // SAFETY: lent for the call, by the contract of `poll_send_file`.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        fence(|| {
            cx.with_context(|cx| {
                later(exchange.poll_send_file(cx, fd, offset, length).map(|sent| match sent {
                    Ok(sent) => i64::try_from(sent).unwrap_or(i64::MAX),
                    Err(fault) => fault.code(),
                }))
            })
        })
        .unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn trailers(this: Opaque, list: FieldList) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `trailers`.
        fence(|| unsafe { lend(list, |fields| nothing(exchange.trailers(fields))) }).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn end(this: Opaque) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| nothing(exchange.end())).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn respond(this: Opaque, status: u32, list: FieldList, body: Bytes) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        let Ok(status) = u16::try_from(status) else { return super::IO_INVALID };
        // SAFETY: lent for the call, by the contract of `respond`.
        let body = unsafe { body.as_slice() };
        // SAFETY: lent for the call, by the contract of `respond`.
        fence(|| unsafe { lend(list, |fields| nothing(exchange.respond(status, fields, body))) })
            .unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn take_over(
        this: Opaque,
        status: u32,
        list: FieldList,
        code: &mut i64,
    ) -> StreamObject {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        *code = match u16::try_from(status) {
            // SAFETY: lent for the call, by the contract of `take_over`.
            Ok(status) => {
                fence(|| unsafe { lend(list, |fields| nothing(exchange.take_over(status, fields))) })
                    .unwrap_or(IO_MISUSE)
            }
            Err(_) => super::IO_INVALID,
        };
        StreamObject { this, table: StreamTable_Ref(Self::STREAM.as_prefix()) }
    }

    unsafe extern "C" fn stream_read(this: Opaque, ptr: *mut u8, len: usize) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `read`.
        let buffer = unsafe { buffer(ptr, len) };
        fence(|| number(exchange.stream_read(buffer))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn stream_poll_read(
        this: Opaque,
        ptr: *mut u8,
        len: usize,
        cx: &mut FfiContext<'_>,
    ) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `poll_read`.
        let buffer = unsafe { buffer(ptr, len) };
        fence(|| cx.with_context(|cx| later(exchange.stream_poll_read(cx, buffer).map(number))))
            .unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn stream_write(this: Opaque, piece: Bytes) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `write`.
        let piece = unsafe { piece.as_slice() };
        fence(|| nothing(exchange.stream_write(piece))).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn stream_poll_write(this: Opaque, piece: Bytes, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        // SAFETY: lent for the call, by the contract of `poll_write`.
        let piece = unsafe { piece.as_slice() };
        fence(|| cx.with_context(|cx| later(exchange.stream_poll_write(cx, piece).map(number))))
            .unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn stream_shutdown(this: Opaque) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| nothing(exchange.stream_shutdown())).unwrap_or(IO_MISUSE)
    }

    unsafe extern "C" fn stream_fd(this: Opaque) -> i32 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| exchange.stream_fd().unwrap_or(-1)).unwrap_or(-1)
    }

    unsafe extern "C" fn stream_poll_draining(this: Opaque, cx: &mut FfiContext<'_>) -> i64 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| cx.with_context(|cx| later(exchange.poll_draining(cx).map(|()| 0)))).unwrap_or(IO_PENDING)
    }

    unsafe extern "C" fn stream_draining(this: Opaque) -> u32 {
        // SAFETY: see above.
        let exchange = unsafe { back::<E>(this) };
        fence(|| u32::from(exchange.draining())).unwrap_or(0)
    }
}

/// A caller's buffer. Null with length 0 is the empty one.
///
/// # Safety
/// `ptr` must be valid for `len` initialised octets, unaliased, for the call.
unsafe fn buffer<'a>(ptr: *mut u8, len: usize) -> &'a mut [u8] {
    if ptr.is_null() {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(ptr, len) }
}

/// The request half of `exchange`.
pub fn request_object<E: Exchange>(exchange: &E) -> RequestHandle<'_> {
    let object = RequestObject {
        this: std::ptr::from_ref(exchange).cast_mut().cast(),
        table: RequestTable_Ref(ExchangeTables::<E>::REQUEST.as_prefix()),
    };
    // SAFETY: made from a reference; the handle has its lifetime.
    unsafe { RequestHandle::new(object) }
}

/// The response half of `exchange`.
pub fn response_object<E: Exchange>(exchange: &E) -> ResponseHandle<'_> {
    let object = ResponseObject {
        this: std::ptr::from_ref(exchange).cast_mut().cast(),
        table: ResponseTable_Ref(ExchangeTables::<E>::RESPONSE.as_prefix()),
    };
    // SAFETY: made from a reference; the handle has its lifetime.
    unsafe { ResponseHandle::new(object) }
}

// ---------------------------------------------------------------------------------------------------
// An application, as its library offers it.

struct AppTables<A>(PhantomData<A>);

impl<A: Application> AppTables<A> {
    staticref!(const TABLE: WithMetadata<AppTable> = WithMetadata::new(AppTable {
        execution: Self::execution,
        concurrency: Self::concurrency,
        start: Self::start,
        ready: Self::ready,
        call: Self::call,
        call_async: Self::call_async,
        drain: Self::drain,
        shutdown: Self::shutdown,
        destroy: Self::destroy,
        get_extension: Self::no_extension,
    }));

    // SAFETY (all functions below): the table is only ever paired with the pointer of a leaked `Box<A>` by
    // `app_object`, and `destroy` is the last call.

    unsafe extern "C" fn execution(this: Opaque) -> u32 {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        fence(|| app.execution() as u32).unwrap_or(super::EXECUTION_BLOCKING)
    }

    unsafe extern "C" fn concurrency(this: Opaque) -> u32 {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        fence(|| if app.one_at_a_time() { super::CONCURRENCY_ONE } else { super::CONCURRENCY_ANY })
            .unwrap_or(super::CONCURRENCY_ONE)
    }

    unsafe extern "C" fn start(this: Opaque, host: AppHostObject) -> Outcome {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        // SAFETY: valid for the life of the process, by the contract of `start`.
        let facts = crate::app::WorkerFacts::new(unsafe { AppHostHandle::new(host) });
        fence(|| Outcome::of(app.start(&facts))).unwrap_or_else(|panic| Outcome::panicked(&panic))
    }

    unsafe extern "C" fn ready(this: Opaque) -> Outcome {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        fence(|| Outcome::of(app.ready())).unwrap_or_else(|panic| Outcome::panicked(&panic))
    }

    unsafe extern "C" fn call(this: Opaque, request: RequestObject, response: ResponseObject) -> u32 {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        // SAFETY: valid for the call, by the contract of `call`.
        let request = unsafe { RequestHandle::new(request) };
        // SAFETY: valid for the call, by the contract of `call`.
        let response = unsafe { ResponseHandle::new(response) };
        match fence(|| crate::app::verdict(app.call(request, response))) {
            Ok(verdict) => verdict,
            Err(_) => super::VERDICT_PANICKED,
        }
    }

    unsafe extern "C" fn call_async(
        this: Opaque,
        request: RequestObject,
        response: ResponseObject,
    ) -> BorrowingFfiFuture<'static, u32> {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        // SAFETY: valid until the returned future is dropped, by the contract of `call_async`; the gate of the
        // application side refuses every use after that.
        let request = unsafe { RequestHandle::new(request) };
        // SAFETY: as for the request.
        let response = unsafe { ResponseHandle::new(response) };
        match fence(|| app.call_async(request, response)) {
            Ok(Answer(future)) => future,
            Err(_) => BorrowingFfiFuture::new(std::future::ready(super::VERDICT_PANICKED)),
        }
    }

    unsafe extern "C" fn drain(this: Opaque) {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        // The panic was logged by the hook; a drain goes on without the application's help.
        let _ = fence(|| app.drain());
    }

    unsafe extern "C" fn shutdown(this: Opaque) {
        // SAFETY: see above.
        let app = unsafe { back::<A>(this) };
        // As for `drain`.
        let _ = fence(|| app.shutdown());
    }

    unsafe extern "C" fn destroy(this: Opaque) {
        // SAFETY: made by `Box::into_raw` in `app_object`, and this is the last call.
        let app = unsafe { Box::from_raw(this.cast::<A>()) };
        // As for `drain`.
        let _ = fence(|| drop(app));
    }

    unsafe extern "C" fn no_extension(_: Opaque, _: Bytes) -> *const () {
        std::ptr::null()
    }
}

/// The future of an exchange, as an async application returns it; the number is a `VERDICT_*` constant. One block of
/// memory, and what crosses is it itself.
pub struct Answer(BorrowingFfiFuture<'static, u32>);

impl Answer {
    /// The answer that `future` comes to.
    pub fn new(future: impl Future<Output = u32> + Send + 'static) -> Self {
        Self(BorrowingFfiFuture::new(Fenced(Some(future))))
    }
}

impl Future for Answer {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u32> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// A future whose poll and drop cannot unwind: async-ffi would lose the message of the first and abort at the second.
/// Nothing is left of it once it has ended.
struct Fenced<F>(Option<F>);

impl<F> Fenced<F> {
    fn future(self: Pin<&mut Self>) -> Pin<&mut Option<F>> {
        // SAFETY: a projection to the only field. It is never moved out of: `poll` and `drop` reach it only through this
        // function, `Fenced` is `Unpin` only if `F` is, and it is not packed.
        unsafe { self.map_unchecked_mut(|fenced| &mut fenced.0) }
    }
}

impl<F: Future<Output = u32>> Future for Fenced<F> {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u32> {
        let polled = fence(|| {
            let mut place = self.as_mut().future();
            let Some(future) = place.as_mut().as_pin_mut() else {
                return Poll::Ready(super::VERDICT_PANICKED);
            };
            let verdict = std::task::ready!(future.poll(context));
            place.set(None);
            Poll::Ready(verdict)
        });
        polled.unwrap_or(Poll::Ready(super::VERDICT_PANICKED))
    }
}

impl<F> Drop for Fenced<F> {
    fn drop(&mut self) {
        if self.0.is_none() {
            return;
        }
        // SAFETY: nobody moves it any more: it is being dropped where it was pinned, if it ever was.
        let fenced = unsafe { Pin::new_unchecked(self) };
        // The panic was logged by the hook, and the exchange ends all the same.
        let _ = fence(|| fenced.future().set(None));
    }
}

/// The object of an application; its owner frees it with `destroy`.
pub fn app_object<A: Application>(app: A) -> AppObject {
    AppObject { this: Box::into_raw(Box::new(app)).cast(), table: app_table::<A>() }
}

/// The table for applications of type `A`.
pub fn app_table<A: Application>() -> AppTable_Ref {
    AppTable_Ref(AppTables::<A>::TABLE.as_prefix())
}

// ---------------------------------------------------------------------------------------------------
// The host, as applications and worker classes see it.

struct HostTables<H>(PhantomData<H>);

impl<H: AppHost> HostTables<H> {
    staticref!(const APP: WithMetadata<AppHostTable> = WithMetadata::new(AppHostTable {
        pid: Self::pid,
        age: Self::age,
        generation: Self::generation,
        is_probe: Self::is_probe,
        settings: Self::settings,
        server_setting: Self::server_setting,
        stuck: Self::stuck,
        get_extension: Self::no_extension,
    }));

    // SAFETY (all functions below): the tables are only ever paired with a pointer made from a `&'static H`.

    unsafe extern "C" fn pid(this: Opaque) -> u32 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.pid()
    }

    unsafe extern "C" fn age(this: Opaque) -> u64 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.age()
    }

    unsafe extern "C" fn generation(this: Opaque) -> u64 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.generation()
    }

    unsafe extern "C" fn is_probe(this: Opaque) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { back::<H>(this) }.is_probe())
    }

    unsafe extern "C" fn settings(this: Opaque) -> Bytes {
        // SAFETY: see above.
        Bytes::new(unsafe { back::<H>(this) }.settings().as_bytes())
    }

    unsafe extern "C" fn server_setting(this: Opaque, name: Bytes) -> Bytes {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        // SAFETY: lent for the call, by the contract of `server_setting`.
        let name = std::str::from_utf8(unsafe { name.as_slice() }).unwrap_or("");
        host.server_setting(name).map_or(Bytes::ABSENT, |text| Bytes::new(text.as_bytes()))
    }

    unsafe extern "C" fn stuck(this: Opaque, what: Bytes, nanoseconds: u64) {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        // SAFETY: lent for the call, by the contract of `stuck`.
        let what = String::from_utf8_lossy(unsafe { what.as_slice() });
        host.stuck(&what, std::time::Duration::from_nanos(nanoseconds));
    }

    unsafe extern "C" fn no_extension(_: Opaque, _: Bytes) -> *const () {
        std::ptr::null()
    }
}

struct ServiceTables<H>(PhantomData<H>);

impl<H: HostServices> ServiceTables<H> {
    staticref!(const TABLE: WithMetadata<HostTable> = WithMetadata::new(HostTable {
        listeners: Self::listeners,
        notify_fd: Self::notify_fd,
        take_events: Self::take_events,
        state: Self::state,
        must_empty: Self::must_empty,
        ready: Self::ready,
        tick: Self::tick,
        may_accept: Self::may_accept,
        connection_opened: Self::connection_opened,
        connection_closed: Self::connection_closed,
        request_begin: Self::request_begin,
        request_end: Self::request_end,
        request_expired: Self::request_expired,
        request_abandoned: Self::request_abandoned,
        request_recovered: Self::request_recovered,
        setting: Self::setting,
        get_extension: Self::no_extension,
    }));

    // SAFETY (all functions below): the table is only ever paired with a pointer made from a `&'static H`.

    unsafe extern "C" fn listeners(this: Opaque) -> ListenerList {
        // SAFETY: see above.
        let listeners: &[ListenerParts] = unsafe { back::<H>(this) }.listeners();
        ListenerList { ptr: listeners.as_ptr(), len: listeners.len() }
    }

    unsafe extern "C" fn notify_fd(this: Opaque) -> i32 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.notify_fd()
    }

    unsafe extern "C" fn take_events(this: Opaque) -> u32 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.take_events()
    }

    unsafe extern "C" fn state(this: Opaque) -> u32 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.state() as u32
    }

    unsafe extern "C" fn ready(this: Opaque) -> u32 {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.ready() as u32
    }

    unsafe extern "C" fn must_empty(this: Opaque, index: usize) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { back::<H>(this) }.must_empty(index))
    }

    unsafe extern "C" fn tick(this: Opaque, idle: u32) {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.tick(idle != 0);
    }

    unsafe extern "C" fn may_accept(this: Opaque) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { back::<H>(this) }.may_accept())
    }

    unsafe extern "C" fn connection_opened(this: Opaque, fd: i32) {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        if fd < 0 {
            return host.connection_opened(None);
        }
        // SAFETY: an open socket, lent for the call, by the contract of `connection_opened`, and not -1.
        host.connection_opened(Some(unsafe { BorrowedFd::borrow_raw(fd) }));
    }

    unsafe extern "C" fn connection_closed(this: Opaque) {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.connection_closed();
    }

    unsafe extern "C" fn request_begin(this: Opaque, request: &RequestObject) -> u64 {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        // SAFETY: lent for the call, by the contract of `request_begin`.
        let request = unsafe { RequestHandle::new(*request) };
        host.request_begin(&crate::request::Request::new(request))
    }

    unsafe extern "C" fn request_end(this: Opaque, record: &RecordParts) {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        let request = if record.request.is_null() {
            None
        } else {
            // SAFETY: not null, and lent for the call, by the contract of `request_end`.
            let object = unsafe { *record.request };
            // SAFETY: as for the object.
            Some(crate::request::Request::new(unsafe { RequestHandle::new(object) }))
        };
        // SAFETY: lent for the call, by the contract of `request_end`.
        let path = unsafe { record.peer.path.as_slice() };
        let peer =
            crate::request::Address::from_parts(record.peer.family, record.peer.port, record.peer.ip, path);
        // SAFETY: lent for the call, by the contract of `request_end`.
        unsafe {
            lend(record.response_fields, |fields| {
                host.request_end(&Record {
                    token: record.token,
                    request: request.as_ref(),
                    peer: &peer,
                    response_fields: fields,
                    bytes_in: record.bytes_in,
                    body_bytes: record.body_bytes,
                    status: u16::try_from(record.status).unwrap_or(0),
                    incomplete: record.flags & super::RECORD_INCOMPLETE != 0,
                    taken_over: record.flags & super::RECORD_TAKEN_OVER != 0,
                });
            });
        }
    }

    unsafe extern "C" fn request_expired(this: Opaque, token: u64) -> u32 {
        // SAFETY: see above.
        u32::from(unsafe { back::<H>(this) }.request_expired(token))
    }

    unsafe extern "C" fn request_abandoned(this: Opaque, token: u64) {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.request_abandoned(token);
    }

    unsafe extern "C" fn request_recovered(this: Opaque, token: u64) {
        // SAFETY: see above.
        unsafe { back::<H>(this) }.request_recovered(token);
    }

    unsafe extern "C" fn setting(this: Opaque, name: Bytes) -> Bytes {
        // SAFETY: see above.
        let host = unsafe { back::<H>(this) };
        // SAFETY: lent for the call, by the contract of `setting`.
        let name = std::str::from_utf8(unsafe { name.as_slice() }).unwrap_or("");
        host.setting(name).map_or(Bytes::ABSENT, |text| Bytes::new(text.as_bytes()))
    }

    unsafe extern "C" fn no_extension(_: Opaque, _: Bytes) -> *const () {
        std::ptr::null()
    }
}

/// The worker as its applications see it. Host only.
pub fn app_host_object<H: AppHost>(host: &'static H) -> AppHostObject {
    AppHostObject {
        this: std::ptr::from_ref(host).cast_mut().cast(),
        table: AppHostTable_Ref(HostTables::<H>::APP.as_prefix()),
    }
}

/// The same as a handle, for a host that lies in this very library: an application under test.
#[cfg(feature = "kit")]
pub(crate) fn app_host<H: AppHost>(host: &'static H) -> AppHostHandle<'static> {
    // SAFETY: made from a reference that lives as long as the process.
    unsafe { AppHostHandle::new(app_host_object(host)) }
}

/// The host as the worker class sees it. Host only.
pub fn host_object<H: HostServices>(host: &'static H) -> HostObject {
    HostObject {
        this: std::ptr::from_ref(host).cast_mut().cast(),
        table: HostTable_Ref(ServiceTables::<H>::TABLE.as_prefix()),
    }
}
