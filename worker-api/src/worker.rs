//! What a worker class is: an accept-and-serve loop, with a host around it and applications to call.
//!
//! The host has forked, dropped privileges, set signals and loaded the images before [`WorkerClass::run`]. The
//! class owns only the loop: it accepts, parses, offers each request as an [`Exchange`], and reports what it
//! does to the [`Host`], which does the rest (heartbeat, limits, access log, counters).

use crate::abi::{self, AppHandle, HostHandle, MountList, MountParts, RecordParts};
use crate::error::{Error, Fault};
use crate::export::fence;
use crate::request::{Address, Field, Head, Request};
use std::fmt;
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A setting of a worker class, given by `--worker-option NAME=VALUE` or in the table `[worker_options]`.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Lower case, words joined by `_`.
    pub name: &'static str,
    /// What values it takes.
    pub kind: OptionKind,
    /// The default, as an operator would type it.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// Anything.
    Text,
    /// A whole number.
    Integer,
    /// A number of seconds, fractions allowed.
    Seconds,
    /// `true` or `false`.
    Flag,
}

impl OptionKind {
    /// The word in the ELF note.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Seconds => "seconds",
            Self::Flag => "flag",
        }
    }

    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Text => 0,
            Self::Integer => 1,
            Self::Seconds => 2,
            Self::Flag => 3,
        }
    }
}

/// What a worker class can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub(crate) u64);

impl Features {
    /// Nothing beyond one request per connection.
    pub const NONE: Self = Self(0);
    /// Keeps connections.
    pub const KEEP_ALIVE: Self = Self(abi::FEATURE_KEEP_ALIVE);
    /// Calls applications on several threads.
    pub const THREADS: Self = Self(abi::FEATURE_THREADS);
    /// Runs async applications side by side.
    pub const ASYNC: Self = Self(abi::FEATURE_ASYNC);
    /// Hands connections over.
    pub const TAKE_OVER: Self = Self(abi::FEATURE_TAKE_OVER);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The words in the ELF note, as one comma list.
    pub(crate) const fn words(self) -> [&'static str; 4] {
        const fn word(features: u64, bit: u64, word: &'static str) -> &'static str {
            if features & bit == 0 { "" } else { word }
        }
        [
            word(self.0, abi::FEATURE_KEEP_ALIVE, "keep-alive,"),
            word(self.0, abi::FEATURE_THREADS, "threads,"),
            word(self.0, abi::FEATURE_ASYNC, "async,"),
            word(self.0, abi::FEATURE_TAKE_OVER, "take-over,"),
        ]
    }
}

/// A worker class. [`crate::export_worker!`] makes a library of it.
pub trait WorkerClass {
    /// What `-k` and the log call it.
    const NAME: &'static str;
    /// What it can.
    const FEATURES: Features;
    /// Most connections one worker holds; 0: no bound of its own.
    const MAX_CONNECTIONS: u64 = 0;
    /// Its own settings.
    const OPTIONS: &'static [OptionSpec] = &[];

    /// Serves: calls [`Host::ready`] when it could accept, then loops until the state tells it to leave, and
    /// returns when the last exchange has ended. `[worker] [main] [running]`
    ///
    /// # Errors
    /// What keeps it from serving. Before `ready` it is a failed boot.
    fn run(host: Host, apps: Applications) -> Result<(), Error>;
}

/// What the master wants of a worker. It only ever grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum State {
    /// Serve.
    Running = abi::STATE_RUNNING,
    /// Accept no more, but from the listeners of which [`Host::must_empty`] says so; finish what is there, then
    /// return. Other workers serve the other listeners.
    Draining = abi::STATE_DRAINING,
    /// Leave now; what is in flight is lost.
    Halting = abi::STATE_HALTING,
}

impl State {
    const fn from_code(code: u32) -> Self {
        match code {
            abi::STATE_RUNNING => Self::Running,
            abi::STATE_DRAINING => Self::Draining,
            _ => Self::Halting,
        }
    }
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// [`Host::state`] has changed.
    #[must_use]
    pub const fn state(self) -> bool {
        self.0 & abi::EVENT_STATE != 0
    }

    /// The log files were reopened.
    #[must_use]
    pub const fn reopen_logs(self) -> bool {
        self.0 & abi::EVENT_REOPEN_LOGS != 0
    }

    /// Some request is over its time: ask [`Host::request_expired`] about each.
    #[must_use]
    pub const fn expired(self) -> bool {
        self.0 & abi::EVENT_EXPIRED != 0
    }
}

/// A listening socket that the master holds. Non-blocking, shared with the other workers.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// For the life of the process.
    pub fd: BorrowedFd<'static>,
    /// As the log shows it: `127.0.0.1:8000`, `unix:/run/app.sock`.
    pub address: &'static str,
    /// Whether it is a Unix socket.
    pub unix: bool,
    /// Others hold this socket too (systemd, `fd://`): leave it, never shut it down.
    pub foreign: bool,
}

/// The host, as the class sees it. `[worker] [running]`, on any thread unless said otherwise.
#[derive(Clone, Copy)]
pub struct Host {
    handle: HostHandle<'static>,
}

impl Host {
    pub(crate) fn new(handle: HostHandle<'static>) -> Self {
        Self { handle }
    }

    /// The listening sockets, in the order of `--bind`.
    #[must_use]
    pub fn listeners(&self) -> Vec<Listener> {
        abi::listeners(self.handle)
    }

    /// Readable while [`Host::take_events`] has something to say. Watch it; never read it.
    #[must_use]
    pub fn notify_fd(&self) -> BorrowedFd<'static> {
        abi::notify_fd(self.handle)
    }

    /// What happened since the last call.
    #[must_use]
    pub fn take_events(&self) -> Events {
        Events(self.handle.take_events())
    }

    /// What the master wants. One load; ask it as often as you like.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_code(self.handle.state())
    }

    /// Whether the listener with this index goes away (the server stops, or an address was removed): accept what
    /// is queued there before leaving. Nothing new arrives on it.
    #[must_use]
    pub fn must_empty(&self, listener: usize) -> bool {
        self.handle.must_empty(listener)
    }

    /// Reports that the class can serve and waits for the master's go. A new socket only listens after that.
    /// Once, `[main]`.
    #[must_use]
    pub fn ready(&self) -> State {
        State::from_code(self.handle.ready())
    }

    /// The heartbeat: call it once per turn of the loop, directly after the wait. A worker that does not for `timeout`
    /// is killed; one that is busy between two ticks for long is left out of what [`Host::may_accept`] compares.
    pub fn tick(&self) {
        self.handle.tick(0);
    }

    /// The heartbeat before a wait: also writes buffered log lines. Wait no longer than [`Host::tick_interval`].
    pub fn tick_idle(&self) {
        self.handle.tick(1);
    }

    /// How long a loop may wait between ticks.
    #[must_use]
    pub fn tick_interval(&self) -> std::time::Duration {
        match self.seconds("timeout") {
            Some(timeout) if !timeout.is_zero() => timeout / 2,
            _ => std::time::Duration::from_secs(15),
        }
    }

    /// Whether to take another connection: other workers may have fewer. Of those that serve one may always, and a
    /// worker that leaves never may.
    ///
    /// While the answer is no, leave the listeners out of the wait, or the kernel wakes this worker in place of one
    /// that would take the client. Ask again when a connection of this worker has closed, and every few milliseconds:
    /// what other workers do wakes nobody here.
    #[must_use]
    pub fn may_accept(&self) -> bool {
        self.handle.may_accept()
    }

    /// Counts a connection: call it directly after accept(2), with the socket that came. The host asks the kernel
    /// how long it has waited.
    pub fn connection_opened(&self, socket: BorrowedFd<'_>) {
        self.handle.connection_opened(socket.as_raw_fd());
    }

    /// Counts it off.
    pub fn connection_closed(&self) {
        self.handle.connection_closed();
    }

    /// A request begins: its head is complete. The token names it in the calls below; it is never 0.
    #[must_use]
    pub fn request_begin(&self, exchange: &impl Exchange) -> u64 {
        self.handle.request_begin(abi::request_object(exchange))
    }

    /// A request ended, well or not: its answer is as far out as it will get. Once for each request, also for one
    /// whose call was abandoned, and for one that never began (token 0): a parse error.
    pub fn request_end(&self, record: &Record<'_>) {
        let request = record.request.map(|request| request.handle().object());
        let flags = if record.incomplete { abi::RECORD_INCOMPLETE } else { 0 }
            | if record.taken_over { abi::RECORD_TAKEN_OVER } else { 0 };
        abi::with_fields(record.response_fields.iter().copied(), |response_fields| {
            self.handle.request_end(&RecordParts {
                token: record.token,
                request: request.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                peer: record.peer.parts(),
                response_fields,
                bytes_in: record.bytes_in,
                body_bytes: record.body_bytes,
                status: record.status.into(),
                flags,
            });
        });
    }

    /// Whether a request is over `request_timeout`.
    #[must_use]
    pub fn request_expired(&self, token: u64) -> bool {
        self.handle.request_expired(token)
    }

    /// The call of this request is still inside the application after its time, and the class has dealt with its
    /// client without it (answered 504, or closed). The host no longer ends the process for this request; it logs the
    /// request's name, and has the master replace this worker, which serves on until then. Call it before
    /// [`Host::request_end`], or the log cannot say which request it was.
    ///
    /// While a call is abandoned the applications are neither shut down nor dropped: [`WorkerClass::run`] may return
    /// with the thread still inside, and the process ends around it.
    pub fn request_abandoned(&self, token: u64) {
        self.handle.request_abandoned(token);
    }

    /// An abandoned call has come back after all. Nothing else is to be reported about its request. A host that does
    /// not want to know takes no notice.
    pub fn request_recovered(&self, token: u64) {
        self.handle.request_recovered(token);
    }

    /// A setting as text: one of the class's own options, else one of the server's.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&'static str> {
        self.handle.setting(name)
    }

    /// A setting that is a whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// A setting in seconds. Zero, as elsewhere, means "no limit".
    #[must_use]
    pub fn seconds(&self, name: &str) -> Option<std::time::Duration> {
        let seconds: f64 = self.setting(name)?.parse().ok()?;
        std::time::Duration::try_from_secs_f64(seconds).ok()
    }

    /// A setting that is on or off.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.setting(name)?.parse().ok()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A finished request, for the access log and the counters.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// From [`Host::request_begin`], or 0.
    pub token: u64,
    /// The request; `None` if the head could not be parsed. See [`request_of`].
    pub request: Option<&'r Request<'r>>,
    /// The client.
    pub peer: &'r Address,
    /// The fields that the application set.
    pub response_fields: &'r [Field<'r>],
    /// Octets received, head included.
    pub bytes_in: u64,
    /// Octets of the body as the application wrote it and the client got it.
    pub body_bytes: u64,
    /// The status sent, or 0 if nothing was.
    pub status: u16,
    /// The answer was cut short.
    pub incomplete: bool,
    /// The connection was taken over.
    pub taken_over: bool,
}

/// The request half of `exchange`, as an application sees it.
#[must_use]
pub fn request_of<E: Exchange>(exchange: &E) -> Request<'_> {
    Request::new(abi::request_object(exchange))
}

/// How a call of an application ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Well.
    Ok,
    /// With an error of its own, which it has logged.
    Failed,
    /// With a panic, which was logged where it happened.
    Panicked,
    /// It passed on a [`Fault`] of the exchange.
    Transport,
}

impl Verdict {
    const fn from_code(code: u32) -> Self {
        match code {
            abi::VERDICT_OK => Self::Ok,
            abi::VERDICT_PANICKED => Self::Panicked,
            abi::VERDICT_TRANSPORT => Self::Transport,
            _ => Self::Failed,
        }
    }
}

/// The mounted applications of the worker's generation.
#[derive(Clone, Copy)]
pub struct Applications {
    mounts: &'static [MountParts],
}

impl Applications {
    /// The application with the longest prefix of the target's path, whole segments counted.
    #[must_use]
    pub fn select(&self, target: &[u8]) -> Option<Mounted> {
        // One application on `/` is the rule; its prefix is empty.
        if let [only] = self.mounts
            && only.prefix.len == 0
        {
            return Some(abi::mounted(only));
        }
        let path = crate::request::split_target(target).0;
        self.mounts.iter().map(abi::mounted).find(|mounted| {
            path.strip_prefix(mounted.prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
                || mounted.prefix.is_empty()
        })
    }

    /// All of them, longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = Mounted> + use<> {
        self.mounts.iter().map(abi::mounted)
    }
}

impl fmt::Debug for Applications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|mounted| String::from_utf8_lossy(mounted.prefix))).finish()
    }
}

/// An application and its prefix, for the life of the worker.
#[derive(Clone, Copy)]
pub struct Mounted {
    /// Without a trailing slash; empty for `/`.
    pub prefix: &'static [u8],
    app: AppHandle<'static>,
}

impl Mounted {
    pub(crate) fn new(prefix: &'static [u8], app: AppHandle<'static>) -> Self {
        Self { prefix, app }
    }

    /// How it answers. A kind that this version does not know counts as blocking.
    #[must_use]
    pub fn execution(&self) -> crate::app::Execution {
        match self.app.execution() {
            abi::EXECUTION_INLINE => crate::app::Execution::Inline,
            abi::EXECUTION_ASYNC => crate::app::Execution::Async,
            _ => crate::app::Execution::Blocking,
        }
    }

    /// Whether calls must not overlap.
    #[must_use]
    pub fn one_at_a_time(&self) -> bool {
        self.app.concurrency() == abi::CONCURRENCY_ONE
    }

    /// Lets a blocking or inline application answer.
    #[must_use]
    pub fn call(&self, exchange: &impl Exchange) -> Verdict {
        Verdict::from_code(self.app.call(abi::request_object(exchange), abi::response_object(exchange)))
    }

    /// Lets an async application answer. The future uses the exchange from any thread, and cancels when
    /// dropped.
    #[must_use]
    pub fn call_async<'x, E: Exchange + Sync>(&self, exchange: &'x E) -> Answering<'x> {
        Answering {
            future: Some(self.app.call_async(abi::request_object(exchange), abi::response_object(exchange))),
        }
    }
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mounted({:?}, {:?})", String::from_utf8_lossy(self.prefix), self.execution())
    }
}

/// An async application at work.
pub struct Answering<'x> {
    future: Option<abi::BorrowingFfiFuture<'x, u32>>,
}

impl Future for Answering<'_> {
    type Output = Verdict;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Verdict> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(Verdict::Panicked) };
        // async-ffi panics here when the other side reports a panic.
        match fence(|| Pin::new(future).poll(context)) {
            Ok(Poll::Ready(code)) => Poll::Ready(Verdict::from_code(code)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(_) => Poll::Ready(Verdict::Panicked),
        }
    }
}

impl fmt::Debug for Answering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answering")
    }
}

/// One request and its response, as the class offers it to an application.
///
/// Octets and addresses that are returned stay where they are for the life of the exchange. The blocking
/// functions (`read`, `write`, `flush`, `send_file` and their `stream_` forms) are called for blocking and
/// inline applications, on one thread; the `poll_` forms for async ones, from any thread (hence `Sync` in
/// [`Mounted::call_async`]), never two at once. For an async application the others never wait.
/// Most authors take the one in the crate `rgunicorn-http1`.
pub trait Exchange {
    /// The request line, the mount point, the scheme.
    fn head(&self) -> Head<'_>;
    /// The header field with this index.
    fn field(&self, index: usize) -> Option<Field<'_>>;
    /// The first header field of this name, in any letter case.
    fn find(&self, name: &[u8]) -> Option<Field<'_>> {
        (0..).map_while(|index| self.field(index)).find(|field| field.name.eq_ignore_ascii_case(name))
    }
    /// The trailer field with this index, once the body was read to its end.
    fn trailer(&self, index: usize) -> Option<Field<'_>>;
    /// The client.
    fn peer(&self) -> &Address;
    /// The server's end.
    fn local(&self) -> &Address;
    /// A fact of the TLS session.
    fn tls(&self, _name: &str) -> Option<&[u8]> {
        None
    }
    /// Declared octets of the body; `None` if only its end will tell.
    fn body_length(&self) -> Option<u64>;
    /// Waits for a piece of the body; 0 is its end.
    ///
    /// # Errors
    /// What ends the exchange.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault>;
    /// A piece of the body if there is one.
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>>;
    /// Whether the client is known to have left.
    fn client_gone(&self) -> bool;
    /// Ready when the client has left.
    fn poll_client_gone(&self, context: &mut Context<'_>) -> Poll<()>;
    /// Whether the request is over its time.
    fn expired(&self) -> bool;
    /// Sends an interim answer.
    ///
    /// # Errors
    /// [`Fault::Invalid`], [`Fault::Misuse`], or what ends the exchange.
    fn informational(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault>;
    /// Sets status and fields.
    ///
    /// # Errors
    /// As `informational`.
    fn start(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault>;
    /// Takes all of `piece`.
    ///
    /// # Errors
    /// As `informational`.
    fn write(&self, piece: &[u8]) -> Result<(), Fault>;
    /// Takes some of `piece`, or nothing while full.
    fn poll_write(&self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>>;
    /// Sends what is buffered.
    ///
    /// # Errors
    /// As `informational`.
    fn flush(&self) -> Result<(), Fault>;
    /// Ready when nothing is buffered.
    fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<(), Fault>>;
    /// Sends a part of a file.
    ///
    /// # Errors
    /// As `informational`.
    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Fault>;
    /// Sends some of a part of a file.
    fn poll_send_file(
        &self,
        context: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<Result<u64, Fault>>;
    /// Sets trailer fields.
    ///
    /// # Errors
    /// As `informational`.
    fn trailers(&self, fields: &[Field<'_>]) -> Result<(), Fault>;
    /// Ends the body.
    ///
    /// # Errors
    /// As `informational`.
    fn end(&self) -> Result<(), Fault>;
    /// The whole answer at once.
    ///
    /// # Errors
    /// As `informational`.
    fn respond(&self, status: u16, fields: &[Field<'_>], body: &[u8]) -> Result<(), Fault>;
    /// Sends this head; from now on only the `stream_` functions are called.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] if the class cannot; else as `informational`.
    fn take_over(&self, _status: u16, _fields: &[Field<'_>]) -> Result<(), Fault> {
        Err(Fault::Unsupported)
    }
    /// Waits for octets of a taken-over connection; 0 is the client's end, or the worker's wish to leave.
    ///
    /// # Errors
    /// What ends the connection.
    fn stream_read(&self, _buffer: &mut [u8]) -> Result<usize, Fault> {
        Err(Fault::Unsupported)
    }
    /// Octets of a taken-over connection if there are some.
    fn stream_poll_read(&self, _context: &mut Context<'_>, _buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(Err(Fault::Unsupported))
    }
    /// Writes all of `piece` to a taken-over connection.
    ///
    /// # Errors
    /// What ends the connection.
    fn stream_write(&self, _piece: &[u8]) -> Result<(), Fault> {
        Err(Fault::Unsupported)
    }
    /// Takes some of `piece`.
    fn stream_poll_write(&self, _context: &mut Context<'_>, _piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(Err(Fault::Unsupported))
    }
    /// Ends the server's direction of a taken-over connection.
    ///
    /// # Errors
    /// What ends the connection.
    fn stream_shutdown(&self) -> Result<(), Fault> {
        Err(Fault::Unsupported)
    }
    /// The descriptor of a taken-over connection.
    fn stream_fd(&self) -> Option<i32> {
        None
    }
    /// Whether the worker wants to leave.
    fn draining(&self) -> bool;
    /// Ready when the worker wants to leave. Asked for taken-over connections, which end on their own accord.
    fn poll_draining(&self, _context: &mut Context<'_>) -> Poll<()> {
        if self.draining() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The applications behind a crossing list.
pub(crate) fn applications(mounts: MountList) -> Applications {
    Applications { mounts: abi::mount_slice(mounts) }
}

/// Threads of a class share these.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Host>();
    shared::<Applications>();
    shared::<Mounted>();
};
