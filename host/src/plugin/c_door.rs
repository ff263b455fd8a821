//! The C door: an application that was written against `worker-api/include/rgunicorn.h` becomes an application like any
//! other.
//!
//! Owns the one adapter between the header's structs and [`Application`]; worker classes never know which door an
//! application came through. Does not open files (`plugin` does). Calls go both ways without a copy: the values of the
//! header are those of [`rgunicorn_worker_api::abi`]. What a newcomer would get wrong: an older application's structs
//! are shorter than ours, and a newer one's longer, so that nothing of theirs is read but through [`sized`].
#![allow(unsafe_code, reason = "the functions of a C library, and what they are handed")]

mod layout;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{MaybeUninit, offset_of};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use rgunicorn_worker_api::abi::{
    self, AddressParts, AppHandle, AppHostHandle, Bytes, FieldList, FieldParts, RequestHandle, RequestObject,
    ResponseHandle, ResponseObject,
};
use rgunicorn_worker_api::app::{Answer, Application, Execution, WorkerFacts};
use rgunicorn_worker_api::error::{Error, Fault};

use layout::{App, Entry, Handle, Request, RequestCalls, Response, ResponseCalls, Worker};

/// The symbol that a library exports.
pub(super) const SYMBOL: &str = layout::SYMBOL;

/// No honest library has that many applications.
const ENTRIES_LIMIT: usize = 1024;

/// A library of applications that was opened.
#[derive(Clone, Copy)]
pub(super) struct Library {
    entries: &'static [Entry],
    /// What its log lines are from: the name in its note.
    target: &'static str,
}

impl Library {
    /// Probe, Worker: judges the table behind the symbol.
    ///
    /// # Errors
    /// Why it cannot be used, for the end of a sentence.
    ///
    /// # Safety
    /// `symbol` must be the address of [`SYMBOL`] in a library that is never unloaded, and that says in its note that
    /// it was made for this door.
    pub(super) unsafe fn open(symbol: *const (), name: &str) -> Result<Self, String> {
        let least = size_of::<layout::Library>();
        // SAFETY: the note says that the header's macro made it, and it lives as long as the process.
        let library = unsafe { sized(symbol.cast::<layout::Library>(), least) }
            .map_err(|size| wrong_size("rgunicorn_library", size, least))?;
        if library.abi_major != abi::ABI_MAJOR {
            return Err(format!(
                "its table is of version {}.{} of the C interface, and this rgunicorn speaks {}.{}; rebuild it with \
                 rgunicorn.h of version {}",
                library.abi_major,
                library.abi_minor,
                abi::ABI_MAJOR,
                abi::ABI_MINOR,
                abi::ABI_MAJOR
            ));
        }
        if library.entries.is_null() || library.entry_count > ENTRIES_LIMIT {
            return Err(format!(
                "its table says that it has {} applications; use RGUNICORN_EXPORT of rgunicorn.h",
                library.entry_count
            ));
        }
        // SAFETY: not null, and a constant array of the library with as many entries, by the contract of the header.
        let entries = unsafe { std::slice::from_raw_parts(library.entries, library.entry_count) };
        let library = Self { entries, target: Box::leak(name.to_owned().into_boxed_str()) };
        for entry in entries {
            library.judge(entry)?;
        }
        Ok(library)
    }

    /// Whether an entry can be used; what it says is not looked at again.
    fn judge(&self, entry: &Entry) -> Result<(), String> {
        if entry.name.is_null() || entry.app.is_null() {
            return Err(
                "an entry of its table has no name or no rgunicorn_app; use RGUNICORN_EXPORT".to_owned()
            );
        }
        let (name, app) = (name_of(entry).to_string_lossy(), functions(entry)?);
        if app.handle.is_none() {
            return Err(format!(
                "its application '{name}' has no function `handle`; set it in its rgunicorn_app"
            ));
        }
        if app.flags & !layout::ONE_AT_A_TIME != 0 {
            return Err(format!(
                "its application '{name}' has the flags {:#x}, which this version does not know; upgrade rgunicorn",
                app.flags
            ));
        }
        if execution(entry).is_none() {
            return Err(format!(
                "its application '{name}' is of the kind {}, which this version does not know in C; declare it \
                 BLOCKING or INLINE",
                entry.execution
            ));
        }
        Ok(())
    }

    /// Child: the applications that the library says it has, each with how it runs.
    pub(super) fn says(self) -> Vec<String> {
        let line = |entry: &Entry| {
            format!("{} ({})", name_of(entry).to_string_lossy(), super::running(entry.execution))
        };
        self.entries.iter().map(line).collect()
    }

    /// Probe, Worker: makes the named application; `None` if there is none of that name.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn create(
        self,
        name: &str,
        host: AppHostHandle<'static>,
    ) -> Option<Result<AppHandle<'static>, String>> {
        let entry = self.entries.iter().find(|entry| name_of(entry).to_bytes() == name.as_bytes())?;
        Some(self.create_entry(entry, host).map(|app| {
            // SAFETY: a live object; the host destroys it after its last use and only then.
            unsafe { AppHandle::new(abi::app_object(app)) }
        }))
    }

    fn create_entry(self, entry: &Entry, host: AppHostHandle<'static>) -> Result<CApp, String> {
        let functions = functions(entry)?;
        let unusable = || "its table has changed since it was opened".to_owned();
        let (handle, execution) = functions.handle.zip(execution(entry)).ok_or_else(unusable)?;
        let worker = HostWorker::leak(host, self.target);
        let mut app = CApp { functions, handle, execution, this: ptr::null_mut(), worker };
        if let Some(create) = functions.create {
            let mut this = ptr::null_mut();
            // SAFETY: a function of a library that is never unloaded; the worker lives as long as the process, and the
            // pointer is lent for the call.
            let code = unsafe { create(worker.cast(), &mut this) };
            if code != layout::OK {
                // What failed to be made is not destroyed.
                app.functions.destroy = None;
                return Err(app.why("create", code));
            }
            app.this = this;
        }
        Ok(app)
    }
}

fn wrong_size(what: &str, size: usize, least: usize) -> String {
    format!(
        "its table '{what}' says that it has {size} octets, and none of version 1 has less than {least}; set \
         struct_size to the sizeof of the struct, and rebuild it"
    )
}

/// Reads a struct of another maker: what it lacks at the end is zero, and what it has beyond ours is left out.
///
/// # Errors
/// Its size, which is below the least.
///
/// # Safety
/// `from` must lead to a struct of the header's that `T` mirrors, of any version, whose first field is its size; all
/// zero octets must be a value of `T`'s fields beyond the least.
unsafe fn sized<T: Copy>(from: *const T, least: usize) -> Result<T, usize> {
    // SAFETY: the first field of each such struct, by the caller's promise.
    let size = unsafe { from.cast::<usize>().read() };
    if size < least {
        return Err(size);
    }
    let mut whole = MaybeUninit::<T>::zeroed();
    // SAFETY: as many octets are there, by the struct's own word, and no more than ours are written.
    unsafe {
        ptr::copy_nonoverlapping(from.cast::<u8>(), whole.as_mut_ptr().cast(), size.min(size_of::<T>()))
    };
    // SAFETY: the fields up to the least were copied from the maker's, the others are copies or zero.
    Ok(unsafe { whole.assume_init() })
}

fn name_of(entry: &Entry) -> &'static CStr {
    // SAFETY: a string constant of the library, by the contract of the header; `judge` has seen that it is not null.
    unsafe { CStr::from_ptr(entry.name) }
}

/// The functions of an entry, of whatever version.
fn functions(entry: &Entry) -> Result<App, String> {
    // An application without the functions after this one can be served.
    let least = offset_of!(App, handle) + size_of::<Option<Handle>>();
    // SAFETY: a constant of the library, by the contract of the header; an absent function is a null pointer.
    unsafe { sized(entry.app, least) }.map_err(|size| wrong_size("rgunicorn_app", size, least))
}

fn execution(entry: &Entry) -> Option<Execution> {
    match entry.execution {
        abi::EXECUTION_BLOCKING => Some(Execution::Blocking),
        abi::EXECUTION_INLINE => Some(Execution::Inline),
        _ => None,
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The application.

/// An application in C, as the rest of the program sees it.
struct CApp {
    functions: App,
    handle: Handle,
    execution: Execution,
    /// Its own, as `create` made it.
    this: *mut c_void,
    /// Lives as long as the process.
    worker: *mut HostWorker,
}

// SAFETY: the header asks of an application that `handle` may be called from any thread, and its life cycle from where
// the host calls it; the worker's calls may be made from any thread.
unsafe impl Send for CApp {}
// SAFETY: as for Send, and calls may overlap unless the application says otherwise, which the class keeps.
unsafe impl Sync for CApp {}

impl CApp {
    /// Runs `start` or `ready`.
    fn begin(&self, what: &str, function: Option<layout::Begin>) -> Result<(), Error> {
        let Some(function) = function else { return Ok(()) };
        // SAFETY: a function of a library that is never unloaded, with the object that it made itself and that
        // `destroy` has not had.
        let code = unsafe { function(self.this, self.worker.cast()) };
        if code == layout::OK { Ok(()) } else { Err(Error::new(self.why(what, code))) }
    }

    /// Runs `drain`, `shutdown` or `destroy`.
    fn tell(&self, function: Option<layout::Farewell>) {
        if let Some(function) = function {
            // SAFETY: as in `begin`.
            unsafe { function(self.this) };
        }
    }

    /// What the application said when it refused, or that it said nothing.
    fn why(&self, what: &str, code: c_int) -> String {
        // SAFETY: leaked by `HostWorker::leak`, and only shared since.
        let worker = unsafe { &*self.worker };
        let said = worker.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        said.unwrap_or_else(|| format!("`{what}` returned {code} without a word (rgunicorn_refuse says why)"))
    }
}

impl Application for CApp {
    fn execution(&self) -> Execution {
        self.execution
    }

    fn one_at_a_time(&self) -> bool {
        self.functions.flags & layout::ONE_AT_A_TIME != 0
    }

    fn start(&self, facts: &WorkerFacts<'_>) -> Result<(), Error> {
        // SAFETY: leaked by `HostWorker::leak`, and read by nobody else now: `create` may leave no threads behind, and
        // no request has come.
        unsafe { HostWorker::update(self.worker, facts) };
        self.begin("start", self.functions.start)
    }

    fn ready(&self) -> Result<(), Error> {
        self.begin("ready", self.functions.ready)
    }

    fn call(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Result<(), Error> {
        let mut request = HostRequest::new(request.object(), self.worker.cast());
        let mut response = HostResponse {
            public: Response { struct_size: size_of::<Response>(), calls: &RESPONSE_CALLS },
            object: response.object(),
            failure: None,
        };
        let (to, from) = ((&raw mut request).cast(), (&raw mut response).cast());
        // SAFETY: as in `begin`; both halves live until it returns, and are behind pointers to the whole of them.
        let code = unsafe { (self.handle)(self.this, to, from) };
        verdict(code, response.failure.take())
    }

    fn call_async(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Answer {
        // Its execution is another one, so no class comes here; one that does is answered all the same.
        let verdict = match self.call(request, response) {
            Ok(()) => abi::VERDICT_OK,
            Err(_) => abi::VERDICT_FAILED,
        };
        Answer::new(std::future::ready(verdict))
    }

    fn drain(&self) {
        self.tell(self.functions.drain);
    }

    fn shutdown(&self) {
        self.tell(self.functions.shutdown);
    }
}

impl Drop for CApp {
    fn drop(&mut self) {
        self.tell(self.functions.destroy);
    }
}

/// What a handler's number means.
fn verdict(code: c_int, failure: Option<String>) -> Result<(), Error> {
    if code == layout::OK {
        return Ok(());
    }
    let number = i64::from(code);
    // Only numbers that the header names: -1 is what C returns for any error.
    if (abi::IO_SYSTEM..=abi::IO_CLIENT_GONE).contains(&number) {
        return Err(Fault::from_code(number).into());
    }
    let silent = || format!("`handle` returned {code} without a word (rgunicorn_fail says why)");
    Err(Error::new(failure.unwrap_or_else(silent)))
}

// ---------------------------------------------------------------------------------------------------------------
// The worker, as the application sees it.

/// Its first field is what C knows of it.
#[repr(C)]
struct HostWorker {
    public: Worker,
    host: AppHostHandle<'static>,
    /// The application's settings by name.
    settings: Vec<(String, String)>,
    target: &'static str,
    /// Why `create`, `start` or `ready` is about to fail.
    refusal: Mutex<Option<String>>,
}

impl HostWorker {
    /// The worker as it is now; never freed.
    fn leak(host: AppHostHandle<'static>, target: &'static str) -> *mut Self {
        let worker = Self {
            public: Worker {
                struct_size: size_of::<Worker>(),
                pid: host.pid(),
                is_probe: host.is_probe().into(),
                age: host.age(),
                generation: host.generation(),
                settings: Bytes::new(host.settings().as_bytes()),
                setting,
                server_setting,
                log_level,
                log: log_line,
                refuse,
                get_extension: no_extension,
            },
            host,
            settings: flat(host.settings()),
            target,
            refusal: Mutex::new(None),
        };
        Box::into_raw(Box::new(worker))
    }

    /// The facts may be others than when the application was created: it may have been forked since.
    ///
    /// # Safety
    /// `this` must be of [`HostWorker::leak`], and nobody else may be reading it.
    unsafe fn update(this: *mut Self, facts: &WorkerFacts<'_>) {
        // SAFETY: its first field, by the caller's promise.
        let mut public = unsafe { this.cast::<Worker>().read() };
        public.pid = facts.pid();
        public.is_probe = facts.is_probe().into();
        public.age = facts.age();
        public.generation = facts.generation();
        // SAFETY: as above.
        unsafe { this.cast::<Worker>().write(public) };
    }
}

/// The settings of the outermost table: of a text its characters, of anything else its JSON form.
fn flat(settings: &str) -> Vec<(String, String)> {
    // The host made the text itself; one that is no object has no settings.
    let table: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(settings).unwrap_or_default();
    let text = |value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    table.into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// # Safety
/// `worker` must be what the application was given.
unsafe fn worker<'x>(worker: *const Worker) -> &'x HostWorker {
    // SAFETY: the first field of one that was leaked, by the caller's promise; shared since `start`.
    unsafe { &*worker.cast::<HostWorker>() }
}

/// # Safety
/// `text` must be a C string, valid for `'x`, or null.
unsafe fn text<'x>(text: *const c_char) -> &'x str {
    if text.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    // No name that the host knows is anything else.
    text.to_str().unwrap_or_default()
}

// SAFETY (all functions below): the contracts of the header, which the application keeps: objects are those that it was
// given, still valid; texts are zero-terminated, and octets readable, for the call.

unsafe extern "C" fn setting(this: *const Worker, name: *const c_char) -> Bytes {
    // SAFETY: see above.
    let worker = unsafe { worker(this) };
    // SAFETY: see above.
    let name = unsafe { text(name) };
    let found = worker.settings.iter().find(|(there, _)| there == name);
    found.map_or(Bytes::ABSENT, |(_, value)| Bytes::new(value.as_bytes()))
}

unsafe extern "C" fn server_setting(this: *const Worker, name: *const c_char) -> Bytes {
    // SAFETY: see above.
    let worker = unsafe { worker(this) };
    // SAFETY: see above.
    let name = unsafe { text(name) };
    worker.host.server_setting(name).map_or(Bytes::ABSENT, |value| Bytes::new(value.as_bytes()))
}

unsafe extern "C" fn log_level(_: *const Worker) -> c_int {
    log::max_level() as c_int
}

unsafe extern "C" fn log_line(this: *const Worker, level: c_int, message: Bytes) {
    // SAFETY: see above.
    let worker = unsafe { worker(this) };
    // SAFETY: see above.
    let message = unsafe { message.as_slice() };
    let level = match level {
        ..=1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        4 => log::Level::Debug,
        5.. => log::Level::Trace,
    };
    log::log!(target: worker.target, level, "{}", String::from_utf8_lossy(message));
}

unsafe extern "C" fn refuse(this: *const Worker, message: Bytes) {
    // SAFETY: see above.
    let worker = unsafe { worker(this) };
    // SAFETY: see above.
    let message = unsafe { message.as_slice() };
    let message = String::from_utf8_lossy(message).into_owned();
    *worker.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
}

unsafe extern "C" fn no_extension<T>(_: *const T, _: *const c_char) -> *const c_void {
    ptr::null()
}

// ---------------------------------------------------------------------------------------------------------------
// The exchange.

/// Its first field is what C knows of it.
#[repr(C)]
struct HostRequest {
    public: Request,
    object: RequestObject,
}

impl HostRequest {
    fn new(object: RequestObject, worker: *const Worker) -> Self {
        let head = object.table.head();
        // SAFETY: the object is valid as long as the call of the application, whose argument it is.
        let head = unsafe { head(object.this) };
        let public = Request {
            struct_size: size_of::<Request>(),
            calls: &REQUEST_CALLS,
            worker,
            method: head.method,
            target: head.target,
            mount: head.mount,
            field_count: head.field_count,
            version: head.version,
            scheme: head.scheme,
        };
        Self { public, object }
    }
}

static REQUEST_CALLS: RequestCalls = RequestCalls {
    struct_size: size_of::<RequestCalls>(),
    field,
    trailer,
    peer,
    local,
    tls,
    body_length,
    read,
    client_gone,
    expired,
    get_extension: no_extension,
};

/// The object behind the application's pointer.
///
/// # Safety
/// `request` must be what the application was given, and its call must not have returned.
unsafe fn asked(request: *mut Request) -> RequestObject {
    // SAFETY: the first field of a `HostRequest` on the stack of `call`, by the caller's promise.
    let request = unsafe { &*request.cast::<HostRequest>() };
    request.object
}

unsafe extern "C" fn field(request: *mut Request, index: usize) -> FieldParts {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.field();
    // SAFETY: the exchange has not ended.
    unsafe { call(object.this, index) }
}

unsafe extern "C" fn trailer(request: *mut Request, index: usize) -> FieldParts {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.trailer();
    // SAFETY: the exchange has not ended.
    unsafe { call(object.this, index) }
}

unsafe extern "C" fn peer(request: *mut Request) -> AddressParts {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.peer();
    // SAFETY: the exchange has not ended.
    unsafe { call(object.this) }
}

unsafe extern "C" fn local(request: *mut Request) -> AddressParts {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.local();
    // SAFETY: the exchange has not ended.
    unsafe { call(object.this) }
}

unsafe extern "C" fn tls(request: *mut Request, name: *const c_char) -> Bytes {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    // SAFETY: see above.
    let name = unsafe { text(name) };
    let call = object.table.tls();
    // SAFETY: the exchange has not ended; the name is lent for the call.
    unsafe { call(object.this, Bytes::new(name.as_bytes())) }
}

unsafe extern "C" fn body_length(request: *mut Request) -> i64 {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.body_length();
    // SAFETY: the exchange has not ended.
    unsafe { call(object.this) }
}

unsafe extern "C" fn read(request: *mut Request, buffer: *mut c_void, size: usize) -> i64 {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.read();
    // SAFETY: the exchange has not ended; the buffer is the application's, lent for the call.
    unsafe { call(object.this, buffer.cast(), size) }
}

unsafe extern "C" fn client_gone(request: *mut Request) -> c_int {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    let call = object.table.client_gone();
    // SAFETY: the exchange has not ended.
    let gone = unsafe { call(object.this) };
    (gone != 0).into()
}

unsafe extern "C" fn expired(request: *mut Request) -> c_int {
    // SAFETY: see above.
    let object = unsafe { asked(request) };
    // SAFETY: the exchange has not ended.
    let exchange = unsafe { RequestHandle::new(object) };
    // It knows what to say where the class is of a version without this.
    exchange.expired().into()
}

/// Its first field is what C knows of it.
#[repr(C)]
struct HostResponse {
    public: Response,
    object: ResponseObject,
    /// Why `handle` is about to fail.
    failure: Option<String>,
}

static RESPONSE_CALLS: ResponseCalls = ResponseCalls {
    struct_size: size_of::<ResponseCalls>(),
    informational,
    start,
    write,
    flush,
    send_file,
    trailers,
    end,
    respond,
    fail,
    get_extension: no_extension,
};

/// The object behind the application's pointer.
///
/// # Safety
/// As [`asked`].
unsafe fn answered(response: *mut Response) -> ResponseObject {
    // SAFETY: the first field of a `HostResponse` on the stack of `call`, by the caller's promise.
    let response = unsafe { &*response.cast::<HostResponse>() };
    response.object
}

fn fields(ptr: *const FieldParts, len: usize) -> FieldList {
    FieldList { ptr, len }
}

fn octets(data: *const c_void, len: usize) -> Bytes {
    Bytes { ptr: data.cast(), len }
}

/// Zero or a fault; all of them are small.
fn code(result: i64) -> c_int {
    c_int::try_from(result).unwrap_or(abi::IO_SYSTEM as c_int)
}

unsafe extern "C" fn informational(
    response: *mut Response,
    status: u32,
    list: *const FieldParts,
    count: usize,
) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.informational();
    // SAFETY: the exchange has not ended; the fields are lent for the call.
    code(unsafe { call(object.this, status, fields(list, count)) })
}

unsafe extern "C" fn start(
    response: *mut Response,
    status: u32,
    list: *const FieldParts,
    count: usize,
) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.start();
    // SAFETY: the exchange has not ended; the fields are lent for the call.
    code(unsafe { call(object.this, status, fields(list, count)) })
}

unsafe extern "C" fn write(response: *mut Response, data: *const c_void, length: usize) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.write();
    // SAFETY: the exchange has not ended; the piece is lent for the call.
    code(unsafe { call(object.this, octets(data, length)) })
}

unsafe extern "C" fn flush(response: *mut Response) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.flush();
    // SAFETY: the exchange has not ended.
    code(unsafe { call(object.this) })
}

unsafe extern "C" fn send_file(response: *mut Response, fd: c_int, offset: u64, length: u64) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.send_file();
    // SAFETY: the exchange has not ended; the descriptor is lent for the call.
    code(unsafe { call(object.this, fd, offset, length) })
}

unsafe extern "C" fn trailers(response: *mut Response, list: *const FieldParts, count: usize) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.trailers();
    // SAFETY: the exchange has not ended; the fields are lent for the call.
    code(unsafe { call(object.this, fields(list, count)) })
}

unsafe extern "C" fn end(response: *mut Response) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.end();
    // SAFETY: the exchange has not ended.
    code(unsafe { call(object.this) })
}

unsafe extern "C" fn respond(
    response: *mut Response,
    status: u32,
    list: *const FieldParts,
    count: usize,
    body: *const c_void,
    length: usize,
) -> c_int {
    // SAFETY: see above.
    let object = unsafe { answered(response) };
    let call = object.table.respond();
    // SAFETY: the exchange has not ended; fields and body are lent for the call.
    code(unsafe { call(object.this, status, fields(list, count), octets(body, length)) })
}

unsafe extern "C" fn fail(response: *mut Response, message: Bytes) {
    // SAFETY: see above.
    let message = unsafe { message.as_slice() };
    // SAFETY: the first field of the `HostResponse` that `call` looks at again only when the application has returned;
    // on the thread of that call, by the contract of the header.
    let response = unsafe { &mut *response.cast::<HostResponse>() };
    response.failure = Some(String::from_utf8_lossy(message).into_owned());
}
