//! The binary layout of everything that crosses between a host, a worker class and an application.
//!
//! This is the only file of the project that names `abi_stable`; what replaces that crate one day is
//! written here. Authors never use this module: [`crate::app`], [`crate::worker`] and [`crate::host`]
//! wrap each table in safe types, and the export macros of [`crate::export`] build the tables.
//!
//! What a newcomer gets wrong: the value types here ([`Bytes`], [`FieldParts`], [`AddressParts`] …) are
//! frozen, they can never gain a field. Tables (`*Table`, `*Module`) can: at the end, after the field
//! marked `last_prefix_field`, and what a shorter table lacks reads as absent. Anything larger than one
//! function is an extension that `get_extension` hands out by name.
#![allow(unsafe_code, reason = "the layouts and the loading of a checked symbol are what this module is for")]
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    non_camel_case_types,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "code that abi_stable's derive writes beside these items is not ours to argue"
)]

mod call;
#[cfg(test)]
mod layout;
mod serve;

pub use call::{AppHandle, AppHostHandle, HostHandle, RequestHandle, ResponseHandle, StreamHandle};
pub(crate) use call::{Asked, Halves, listeners, mount_slice, mounted, notify_fd, with_fields};
#[cfg(feature = "kit")]
pub(crate) use serve::app_host;
pub use serve::{
    Answer, app_host_object, app_object, app_table, host_object, request_object, response_object,
};

use abi_stable::library::{AbiHeaderRef, CheckTypeLayout, RootModule, RootModuleResult};
use abi_stable::sabi_types::VersionStrings;
use abi_stable::{StableAbi, abi_stability::abi_checking::check_layout_compatibility};

pub use abi_stable::library::LibHeader;
pub use abi_stable::prefix_type::{PrefixTypeTrait, WithMetadata};
pub use abi_stable::staticref;
pub use abi_stable::std_types::RString;
pub use async_ffi::{BorrowingFfiFuture, ContextExt, FfiContext, FutureExt};

/// The object behind a table: only the side that made it knows its type.
pub type Opaque = *mut ();

/// The version of this interface. Within one major version every pair of host and plugin works together.
pub const ABI_MAJOR: u32 = 1;
/// See [`ABI_MAJOR`].
pub const ABI_MINOR: u32 = 0;

/// The symbol a worker class exports, and an application.
pub const WORKER_SYMBOL: &str = "RGUNICORN_WORKER_V1";
/// See [`WORKER_SYMBOL`].
pub const APP_SYMBOL: &str = "RGUNICORN_APP_V1";
/// The symbol a library of hooks exports.
pub const HOOK_SYMBOL: &str = "RGUNICORN_HOOKS_V1";

/// What a host of this version offers beyond what every host of 1.0 does: words that a note's `needs` may hold. (The
/// words of a worker class, such as `take-over`, stand in its own note.)
pub const HOST_FEATURES: &[&str] = &[];

// ---------------------------------------------------------------------------------------------------
// Value types. Frozen.

/// Borrowed octets. `ptr` is null only when "absent" is an answer the function's contract names.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Bytes {
    pub ptr: *const u8,
    pub len: usize,
}

impl Bytes {
    /// "There is none", where a contract distinguishes that from the empty string.
    pub const ABSENT: Self = Self { ptr: std::ptr::null(), len: 0 };

    /// The octets of `slice`. The lifetime is the contract of the call that carries the value.
    pub const fn new(slice: &[u8]) -> Self {
        Self { ptr: slice.as_ptr(), len: slice.len() }
    }

    /// The octets, or the empty slice if absent.
    ///
    /// # Safety
    /// The octets must be readable and unchanged for `'a`: the contract of the call that carried the value.
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: not null, and the caller vouches for the memory behind it.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// One header or trailer field.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct FieldParts {
    pub name: Bytes,
    pub value: Bytes,
}

/// A borrowed array of fields.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct FieldList {
    pub ptr: *const FieldParts,
    pub len: usize,
}

/// The request line, what the server added to it, and how many fields there are.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct HeadParts {
    pub method: Bytes,
    pub target: Bytes,
    pub mount: Bytes,
    pub field_count: usize,
    /// 10 or 11.
    pub version: u32,
    /// 0 http, 1 https.
    pub scheme: u32,
}

/// One end of a connection.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct AddressParts {
    /// 0 unknown, 1 Unix, 4 IPv4 (first four octets of `ip`), 6 IPv6.
    pub family: u32,
    pub port: u32,
    pub ip: [u8; 16],
    /// The path of a Unix socket; empty for a client that has none.
    pub path: Bytes,
}

/// An exchange's request half.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct RequestObject {
    pub this: Opaque,
    pub table: RequestTable_Ref,
}

/// An exchange's response half.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct ResponseObject {
    pub this: Opaque,
    pub table: ResponseTable_Ref,
}

/// A connection that an application has taken over.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct StreamObject {
    pub this: Opaque,
    pub table: StreamTable_Ref,
}

/// An application that `create` made.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct AppObject {
    pub this: Opaque,
    pub table: AppTable_Ref,
}

/// What an application may ask of the worker it lives in.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct AppHostObject {
    pub this: Opaque,
    pub table: AppHostTable_Ref,
}

/// What a worker class may ask of the host.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct HostObject {
    pub this: Opaque,
    pub table: HostTable_Ref,
}

/// An application and the path prefix it answers for.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct MountParts {
    /// Without a trailing slash; empty for `/`.
    pub prefix: Bytes,
    pub app: AppObject,
}

/// Mounted applications, longest prefix first.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct MountList {
    pub ptr: *const MountParts,
    pub len: usize,
}

/// A listening socket.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct ListenerParts {
    pub fd: i32,
    /// As [`AddressParts::family`].
    pub family: u32,
    pub address: Bytes,
    /// Bit 0: others hold this socket too (systemd, `fd://`); it is only left, never shut down.
    pub flags: u32,
}

/// Listening sockets.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct ListenerList {
    pub ptr: *const ListenerParts,
    pub len: usize,
}

// SAFETY: the address is borrowed for the life of the process (contract of `HostTable::listeners`) and never
// written; the rest are integers.
unsafe impl Send for ListenerParts {}
// SAFETY: as for Send.
unsafe impl Sync for ListenerParts {}
// SAFETY: an application object may be called from any thread (contract of `AppTable`), and the prefix is borrowed
// for the life of the process and never written.
unsafe impl Send for MountParts {}
// SAFETY: as for Send.
unsafe impl Sync for MountParts {}

/// One application of a library.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct EntryParts {
    pub name: Bytes,
    /// One of the `EXECUTION_*` constants.
    pub execution: u32,
}

/// The applications of a library.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct EntryList {
    pub ptr: *const EntryParts,
    pub len: usize,
}

/// One setting of a worker class.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct OptionParts {
    pub name: Bytes,
    /// 0 text, 1 integer, 2 seconds, 3 flag.
    pub kind: u32,
    pub default: Bytes,
    pub help: Bytes,
}

/// The settings of a worker class.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct OptionList {
    pub ptr: *const OptionParts,
    pub len: usize,
}

/// What a worker class is and can.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct DescriptorParts {
    pub name: Bytes,
    pub version: Bytes,
    /// Bits of the `FEATURE_*` constants.
    pub features: u64,
    /// Most connections one worker holds; 0: no bound of its own.
    pub max_connections: u64,
}

/// Success (`code` 0) or what went wrong. The receiver drops `message`; its memory returns to its maker.
#[repr(C)]
#[derive(StableAbi)]
pub struct Outcome {
    pub code: u32,
    pub message: RString,
}

/// What `create` made.
#[repr(C)]
#[derive(StableAbi)]
pub struct Created {
    pub outcome: Outcome,
    /// Null when `outcome.code` is not 0; `table` is valid all the same.
    pub app: AppObject,
}

/// A finished request, for the access log and the counters.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct RecordParts {
    /// What `request_begin` returned, or 0 for a request that never became one (a parse error).
    pub token: u64,
    /// Null: the head could not be parsed.
    pub request: *const RequestObject,
    pub peer: AddressParts,
    pub response_fields: FieldList,
    pub bytes_in: u64,
    pub body_bytes: u64,
    /// 0: nothing was sent.
    pub status: u32,
    /// Bits of the `RECORD_*` constants.
    pub flags: u32,
}

/// Where log lines of a library go.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct LogSink {
    pub this: Opaque,
    /// (this, level 1 error … 5 trace, target, file, line, message) `[any process] [any thread]`
    pub log: extern "C" fn(Opaque, u32, Bytes, Bytes, u32, Bytes),
}

// Named integers instead of enums, because a list of names may grow and an enum that crosses may not.

/// [`EntryParts::execution`]: may sleep.
pub const EXECUTION_BLOCKING: u32 = 0;
/// Never waits.
pub const EXECUTION_INLINE: u32 = 1;
/// Returns a future.
pub const EXECUTION_ASYNC: u32 = 2;

/// [`AppTable::concurrency`]: calls may overlap, on any threads.
pub const CONCURRENCY_ANY: u32 = 0;
/// One call at a time, on whatever thread.
pub const CONCURRENCY_ONE: u32 = 1;

/// [`AppTable::call`]: done.
pub const VERDICT_OK: u32 = 0;
/// The application returned an error of its own.
pub const VERDICT_FAILED: u32 = 1;
/// It panicked; the panic was logged where it happened.
pub const VERDICT_PANICKED: u32 = 2;
/// It passed on what a read or write had returned.
pub const VERDICT_TRANSPORT: u32 = 3;

/// Negative results of request, response and stream functions.
pub const IO_PENDING: i64 = -1;
/// The client has closed or reset the connection.
pub const IO_CLIENT_GONE: i64 = -2;
/// A timeout of the server ran out.
pub const IO_TIMED_OUT: i64 = -3;
/// The request body is over the limit.
pub const IO_TOO_LARGE: i64 = -4;
/// The request body is malformed.
pub const IO_MALFORMED: i64 = -5;
/// The request is over `request_timeout`.
pub const IO_EXPIRED: i64 = -6;
/// The call makes no sense now (a second `start`, a write after the end).
pub const IO_MISUSE: i64 = -7;
/// A status or a field that may not be sent.
pub const IO_INVALID: i64 = -8;
/// The other side does not offer this.
pub const IO_UNSUPPORTED: i64 = -9;
/// Any other system error.
pub const IO_SYSTEM: i64 = -10;

/// [`HostTable::state`]: serve.
pub const STATE_RUNNING: u32 = 0;
/// Accept no more; finish what is there.
pub const STATE_DRAINING: u32 = 1;
/// Leave now.
pub const STATE_HALTING: u32 = 2;

/// [`HostTable::take_events`]: the state changed.
pub const EVENT_STATE: u32 = 1;
/// Log files were reopened.
pub const EVENT_REOPEN_LOGS: u32 = 2;
/// Some request is over its time.
pub const EVENT_EXPIRED: u32 = 4;

/// [`DescriptorParts::features`].
pub const FEATURE_KEEP_ALIVE: u64 = 1;
/// Runs applications on several threads.
pub const FEATURE_THREADS: u64 = 2;
/// Runs async applications concurrently.
pub const FEATURE_ASYNC: u64 = 4;
/// Hands connections over.
pub const FEATURE_TAKE_OVER: u64 = 8;

/// [`RecordParts::flags`]: the answer was cut short.
pub const RECORD_INCOMPLETE: u32 = 1;
/// The connection was taken over.
pub const RECORD_TAKEN_OVER: u32 = 2;

/// [`Outcome::code`]: refused by the plugin with a message.
pub const OUTCOME_FAILED: u32 = 1;
/// The plugin panicked.
pub const OUTCOME_PANICKED: u32 = 2;
/// No application of that name.
pub const OUTCOME_UNKNOWN_NAME: u32 = 3;

/// A hook by number: the argument of [`HookModule::call`], and the place of its bit in [`HookModule::hooks`].
pub const HOOK_POST_FORK: u32 = 0;
/// See [`HOOK_POST_FORK`].
pub const HOOK_POST_WORKER_INIT: u32 = 1;
/// See [`HOOK_POST_FORK`].
pub const HOOK_WORKER_INT: u32 = 2;
/// See [`HOOK_POST_FORK`].
pub const HOOK_WORKER_ABORT: u32 = 3;
/// See [`HOOK_POST_FORK`].
pub const HOOK_WORKER_EXIT: u32 = 4;
/// See [`HOOK_POST_FORK`].
pub const HOOK_PRE_REQUEST: u32 = 5;
/// See [`HOOK_POST_FORK`].
pub const HOOK_POST_REQUEST: u32 = 6;
/// See [`HOOK_POST_FORK`].
pub const HOOK_ON_STARTING: u32 = 7;
/// See [`HOOK_POST_FORK`].
pub const HOOK_WHEN_READY: u32 = 8;
/// See [`HOOK_POST_FORK`].
pub const HOOK_ON_RELOAD: u32 = 9;
/// See [`HOOK_POST_FORK`].
pub const HOOK_CHILD_EXIT: u32 = 10;
/// See [`HOOK_POST_FORK`].
pub const HOOK_NWORKERS_CHANGED: u32 = 11;
/// See [`HOOK_POST_FORK`].
pub const HOOK_ON_EXIT: u32 = 12;
/// See [`HOOK_POST_FORK`].
pub const HOOK_PRE_FORK: u32 = 13;
/// See [`HOOK_POST_FORK`].
pub const HOOK_PRE_EXEC: u32 = 14;

/// What a number of [`HookParts`] is; one that is not there is 0.
pub const EVENT_AGE: usize = 0;
/// See [`EVENT_AGE`].
pub const EVENT_GENERATION: usize = 1;
/// See [`EVENT_AGE`]: of the answer.
pub const EVENT_STATUS: usize = 2;
/// See [`EVENT_AGE`]: from the head of the request to the end of its answer, in microseconds.
pub const EVENT_MICROS: usize = 3;
/// See [`EVENT_AGE`]: of the worker that has ended.
pub const EVENT_PID: usize = 4;
/// See [`EVENT_AGE`]: that it has ended with.
pub const EVENT_EXIT_CODE: usize = 5;
/// See [`EVENT_AGE`]: that has killed it.
pub const EVENT_SIGNAL: usize = 6;
/// See [`EVENT_AGE`]: how many there shall be.
pub const EVENT_WORKERS: usize = 7;
/// See [`EVENT_AGE`]: how many there should be before.
pub const EVENT_WORKERS_BEFORE: usize = 8;
/// What a text of [`HookParts`] is; one that is not there is empty.
pub const EVENT_METHOD: usize = 0;
/// See [`EVENT_METHOD`].
pub const EVENT_TARGET: usize = 1;

/// What a hook is told: lists that later versions make longer. Lent for the call.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct HookParts {
    pub numbers: *const u64,
    pub numbers_len: usize,
    pub texts: *const Bytes,
    pub texts_len: usize,
}

// ---------------------------------------------------------------------------------------------------
// Tables. They grow at the end. What stands after `last_prefix_field` may be missing in the other side's table, and reads
// as `None`; each table has such a function from the beginning, so that absence is an everyday case and no first time.

/// Functions of a request. All `[worker] [running]`; on the thread that the application was called on, or,
/// for an async application, on any thread. Calls of one exchange, either half, never overlap: the
/// application's side sees to that. Everything returned is borrowed, valid until the exchange ends.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RequestTable_Ref)))]
pub struct RequestTable {
    pub head: unsafe extern "C" fn(Opaque) -> HeadParts,
    /// The field with this index, in order of arrival; absent name if there is none.
    pub field: unsafe extern "C" fn(Opaque, usize) -> FieldParts,
    pub peer: unsafe extern "C" fn(Opaque) -> AddressParts,
    pub local: unsafe extern "C" fn(Opaque) -> AddressParts,
    /// A fact of the TLS session by name; absent without TLS or for an unknown name.
    pub tls: unsafe extern "C" fn(Opaque, Bytes) -> Bytes,
    /// Declared octets of the body, 0 without a body, -1 if only its end will tell.
    pub body_length: unsafe extern "C" fn(Opaque) -> i64,
    /// Waits. 0 is the end; negative is an `IO_*` constant.
    pub read: unsafe extern "C" fn(Opaque, *mut u8, usize) -> i64,
    /// Does not wait: `IO_PENDING` obliges the class to wake the context once.
    pub poll_read: unsafe extern "C" fn(Opaque, *mut u8, usize, &mut FfiContext<'_>) -> i64,
    /// The trailer field with this index; absent name if there is none, and before the body's end was read.
    pub trailer: unsafe extern "C" fn(Opaque, usize) -> FieldParts,
    /// 1 if the client is known to have left.
    pub client_gone: unsafe extern "C" fn(Opaque) -> u32,
    /// 0 when the client has left, else `IO_PENDING`.
    pub poll_client_gone: unsafe extern "C" fn(Opaque, &mut FfiContext<'_>) -> i64,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    /// The first field of this name, in any letter case; absent name if there is none.
    pub find: unsafe extern "C" fn(Opaque, Bytes) -> FieldParts,
    /// 1 if the request is over its time.
    pub expired: unsafe extern "C" fn(Opaque) -> u32,
}

/// Functions of a response. Process, thread and phase as for [`RequestTable`].
/// Everything passed in is borrowed for the call. For an async application `informational`, `start`,
/// `trailers`, `end` and `respond` never wait: the class buffers what they bring.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ResponseTable_Ref)))]
pub struct ResponseTable {
    /// A 1xx answer before the final one. 0 or an `IO_*` constant.
    pub informational: unsafe extern "C" fn(Opaque, u32, FieldList) -> i64,
    pub start: unsafe extern "C" fn(Opaque, u32, FieldList) -> i64,
    /// Takes all of it, waiting as needed. 0 or an `IO_*` constant.
    pub write: unsafe extern "C" fn(Opaque, Bytes) -> i64,
    /// How much was taken (at least 1 of a non-empty piece), or `IO_PENDING` when full.
    pub poll_write: unsafe extern "C" fn(Opaque, Bytes, &mut FfiContext<'_>) -> i64,
    pub flush: unsafe extern "C" fn(Opaque) -> i64,
    pub poll_flush: unsafe extern "C" fn(Opaque, &mut FfiContext<'_>) -> i64,
    /// (fd, offset, length): takes all of it, waiting as needed. The descriptor stays the caller's.
    pub send_file: unsafe extern "C" fn(Opaque, i32, u64, u64) -> i64,
    /// How much was sent, or `IO_PENDING`.
    pub poll_send_file: unsafe extern "C" fn(Opaque, i32, u64, u64, &mut FfiContext<'_>) -> i64,
    pub trailers: unsafe extern "C" fn(Opaque, FieldList) -> i64,
    pub end: unsafe extern "C" fn(Opaque) -> i64,
    /// `start`, the whole body with its length, `end`, in one call.
    pub respond: unsafe extern "C" fn(Opaque, u32, FieldList, Bytes) -> i64,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    /// Sends this head and hands the connection over. On failure a negative code is stored through the
    /// pointer and the object must not be used.
    pub take_over: unsafe extern "C" fn(Opaque, u32, FieldList, &mut i64) -> StreamObject,
}

/// Functions of a connection that was taken over; valid as long as the exchange it came from.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = StreamTable_Ref)))]
pub struct StreamTable {
    /// Waits. 0 is the client's end, or the worker's wish to leave: `draining` tells which.
    pub read: unsafe extern "C" fn(Opaque, *mut u8, usize) -> i64,
    pub poll_read: unsafe extern "C" fn(Opaque, *mut u8, usize, &mut FfiContext<'_>) -> i64,
    pub write: unsafe extern "C" fn(Opaque, Bytes) -> i64,
    pub poll_write: unsafe extern "C" fn(Opaque, Bytes, &mut FfiContext<'_>) -> i64,
    /// No more will be written; reading goes on.
    pub shutdown: unsafe extern "C" fn(Opaque) -> i64,
    /// 1 once the worker wants to leave.
    pub draining: unsafe extern "C" fn(Opaque) -> u32,
    /// 0 once the worker wants to leave, else `IO_PENDING`.
    pub poll_draining: unsafe extern "C" fn(Opaque, &mut FfiContext<'_>) -> i64,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    /// The descriptor, or -1 where octets do not travel on one as they are (TLS).
    pub fd: unsafe extern "C" fn(Opaque) -> i32,
}

/// Functions of an application object.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = AppTable_Ref)))]
pub struct AppTable {
    pub execution: unsafe extern "C" fn(Opaque) -> u32,
    pub concurrency: unsafe extern "C" fn(Opaque) -> u32,
    pub start: unsafe extern "C" fn(Opaque, AppHostObject) -> Outcome,
    pub ready: unsafe extern "C" fn(Opaque) -> Outcome,
    /// A `VERDICT_*` constant. Not for async applications.
    pub call: unsafe extern "C" fn(Opaque, RequestObject, ResponseObject) -> u32,
    /// A `VERDICT_*` constant, later. Only for async applications. The caller drops the future before the
    /// exchange ends; dropping it early cancels.
    pub call_async:
        unsafe extern "C" fn(Opaque, RequestObject, ResponseObject) -> BorrowingFfiFuture<'static, u32>,
    pub shutdown: unsafe extern "C" fn(Opaque),
    pub destroy: unsafe extern "C" fn(Opaque),
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    pub drain: unsafe extern "C" fn(Opaque),
}

/// What an application may ask of its worker. `[any thread]`, for the life of the process.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = AppHostTable_Ref)))]
pub struct AppHostTable {
    pub pid: unsafe extern "C" fn(Opaque) -> u32,
    pub age: unsafe extern "C" fn(Opaque) -> u64,
    pub generation: unsafe extern "C" fn(Opaque) -> u64,
    /// 1 in a probe, 0 in a worker that will serve.
    pub is_probe: unsafe extern "C" fn(Opaque) -> u32,
    /// The settings of this application as JSON text.
    pub settings: unsafe extern "C" fn(Opaque) -> Bytes,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    /// A setting of the server as text, absent if unknown.
    pub server_setting: unsafe extern "C" fn(Opaque, Bytes) -> Bytes,
    /// Something of the application's own is stuck, which the class cannot see, and has been for so many nanoseconds:
    /// the host says so in the log, and has the worker replaced. What it is, as words that follow "the".
    pub stuck: unsafe extern "C" fn(Opaque, Bytes, u64),
}

/// What a worker class may ask of the host. `[worker] [running] [any thread]` unless said otherwise.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTable_Ref)))]
pub struct HostTable {
    /// Borrowed for the life of the process.
    pub listeners: unsafe extern "C" fn(Opaque) -> ListenerList,
    /// Readable while `take_events` has something to say. Never read it.
    pub notify_fd: unsafe extern "C" fn(Opaque) -> i32,
    /// What happened since the last call, as `EVENT_*` bits.
    pub take_events: unsafe extern "C" fn(Opaque) -> u32,
    /// A `STATE_*` constant. Only ever grows.
    pub state: unsafe extern "C" fn(Opaque) -> u32,
    /// 1 if the listener with this index goes away: a draining class empties its queue before it leaves.
    pub must_empty: unsafe extern "C" fn(Opaque, usize) -> u32,
    /// Reports that the class can serve, waits for the master's go, and returns the state. Once, `[main]`.
    pub ready: unsafe extern "C" fn(Opaque) -> u32,
    /// The heartbeat. With 1 the class is about to wait and buffered log lines are written.
    pub tick: unsafe extern "C" fn(Opaque, u32),
    /// Whether the worker should take another connection now.
    pub may_accept: unsafe extern "C" fn(Opaque) -> u32,
    /// Counts a connection. The descriptor is the accepted socket, lent for the call.
    pub connection_opened: unsafe extern "C" fn(Opaque, i32),
    pub connection_closed: unsafe extern "C" fn(Opaque),
    /// Returns a token for the functions below. It is never 0.
    pub request_begin: unsafe extern "C" fn(Opaque, &RequestObject) -> u64,
    /// Once for each request, before or after `request_abandoned` and `request_recovered`.
    pub request_end: unsafe extern "C" fn(Opaque, &RecordParts),
    pub request_expired: unsafe extern "C" fn(Opaque, u64) -> u32,
    /// The call of this request is still inside the application after its time, and its client was dealt with: the
    /// host watches it no longer, and has the worker replaced.
    pub request_abandoned: unsafe extern "C" fn(Opaque, u64),
    /// A setting as text: of the class itself, else of the server; absent if unknown.
    /// Borrowed for the life of the process.
    pub setting: unsafe extern "C" fn(Opaque, Bytes) -> Bytes,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Opaque, Bytes) -> *const (),
    /// An abandoned call has come back after all.
    pub request_recovered: unsafe extern "C" fn(Opaque, u64),
}

/// The root of a library of applications.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = AppModule_Ref)))]
pub struct AppModule {
    /// Connects the library's log lines and panics to the host. First call of all, once. `[main] [loaded]`
    pub attach: extern "C" fn(LogSink),
    /// 0 off, 1 error … 5 trace. `[any thread]`
    pub set_log_level: extern "C" fn(u32),
    pub create: unsafe extern "C" fn(Bytes, AppHostObject) -> Created,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Bytes) -> *const (),
    pub entries: extern "C" fn() -> EntryList,
}

/// The root of a worker class.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = WorkerModule_Ref)))]
pub struct WorkerModule {
    /// As [`AppModule::attach`].
    pub attach: extern "C" fn(LogSink),
    /// As [`AppModule::set_log_level`].
    pub set_log_level: extern "C" fn(u32),
    pub descriptor: extern "C" fn() -> DescriptorParts,
    /// Serves until the host's state tells it to leave. `[worker] [main] [running]`
    pub run: unsafe extern "C" fn(HostObject, MountList) -> Outcome,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Bytes) -> *const (),
    pub options: extern "C" fn() -> OptionList,
}

/// The root of a library of hooks.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HookModule_Ref)))]
pub struct HookModule {
    /// As [`AppModule::attach`].
    pub attach: extern "C" fn(LogSink),
    /// As [`AppModule::set_log_level`].
    pub set_log_level: extern "C" fn(u32),
    /// A bit for each hook that is there; the host calls no other, and skips bits that it does not know.
    pub hooks: extern "C" fn() -> u64,
    /// Which hook, and what it is told. The thread is the hook's: see [`crate::hooks`]. Hooks about requests run on
    /// several threads at once. `[worker, hook process] [any thread]`
    pub call: unsafe extern "C" fn(u32, HookParts) -> Outcome,
    #[sabi(last_prefix_field)]
    pub get_extension: unsafe extern "C" fn(Bytes) -> *const (),
}

const VERSION: VersionStrings = abi_stable::package_version_strings!();

impl RootModule for AppModule_Ref {
    abi_stable::declare_root_module_statics! {AppModule_Ref}
    const BASE_NAME: &'static str = "rgunicorn_app";
    const NAME: &'static str = "rgunicorn_app";
    const VERSION_STRINGS: VersionStrings = VERSION;
}

impl RootModule for HookModule_Ref {
    abi_stable::declare_root_module_statics! {HookModule_Ref}
    const BASE_NAME: &'static str = "rgunicorn_hooks";
    const NAME: &'static str = "rgunicorn_hooks";
    const VERSION_STRINGS: VersionStrings = VERSION;
}

impl RootModule for WorkerModule_Ref {
    abi_stable::declare_root_module_statics! {WorkerModule_Ref}
    const BASE_NAME: &'static str = "rgunicorn_worker";
    const NAME: &'static str = "rgunicorn_worker";
    const VERSION_STRINGS: VersionStrings = VERSION;
}

// ---------------------------------------------------------------------------------------------------
// Exporting and loading.

/// The value of a plugin's exported symbol.
///
/// # Safety
/// `constructor` must return `M`, erased.
pub const unsafe fn header<M: RootModule>(constructor: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: the caller's promise is the callee's.
    unsafe { LibHeader::from_constructor::<M>(constructor, CheckTypeLayout::Yes) }
}

/// The erased form of a root module, as a constructor returns it.
pub fn construct<M: RootModule>(module: fn() -> M) -> RootModuleResult {
    abi_stable::library::__call_root_module_loader(module)
}

/// What `construct` returns.
pub type Constructed = RootModuleResult;

/// Why a library that has our symbol cannot be used.
#[derive(Debug)]
pub enum Refusal {
    /// The symbol is not a header that this `abi_stable` can read.
    Header(String),
    /// Another major version of the interface: (theirs, ours).
    Version(String, String),
    /// The layouts differ in both directions: neither is an extension of the other.
    Layout(String),
    /// The library's own constructor failed.
    Constructor(String),
}

/// Reads the root module behind an exported symbol.
///
/// A newer library is an extension of our tables, an older one is extended by ours: both load. Two
/// histories that diverged are refused.
///
/// # Errors
/// [`Refusal`]; its texts are long and meant for `-v`.
///
/// # Safety
/// `symbol` must be the address of the static that [`crate::export_app!`] or [`crate::export_worker!`]
/// wrote, in a library that is never unloaded, and `M` the module of that macro.
pub unsafe fn load<M: RootModule>(symbol: *const ()) -> Result<M, Refusal> {
    // SAFETY: the caller promises that the symbol is a LibHeader, which begins with an AbiHeader, and
    // AbiHeaderRef is a transparent reference to one.
    let header: AbiHeaderRef = unsafe { std::mem::transmute::<*const (), AbiHeaderRef>(symbol) };
    let library = header.upgrade().map_err(|error| Refusal::Header(error.to_string()))?;
    let theirs = library.version_strings();
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    if major(theirs.version.as_str()) != major(VERSION.version.as_str()) {
        return Err(Refusal::Version(theirs.version.as_str().into(), VERSION.version.as_str().into()));
    }
    if let Some(layout) = library.layout() {
        if let Err(forward) = check_layout_compatibility(M::LAYOUT, layout) {
            if check_layout_compatibility(layout, M::LAYOUT).is_err() {
                return Err(Refusal::Layout(forward.to_string()));
            }
        }
    } else {
        return Err(Refusal::Layout("the library carries no layout".into()));
    }
    // SAFETY: the layouts were found compatible in one direction: one side's tables are a prefix of the
    // other's, and accessors of fields beyond the shorter one's end are never called unchecked.
    unsafe { library.unchecked_layout::<M>() }.map_err(|error| Refusal::Constructor(format!("{error:?}")))
}
