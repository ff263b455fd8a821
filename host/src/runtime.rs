//! The host inside a worker: what a worker class and its applications may ask, and the thread that watches over them.
//!
//! Owns the state a class is told (running, draining, halting), the events behind its notify descriptor, the access
//! log, request limits, and what is published on the scoreboard. Does not own loading and the order of a worker's life
//! ([`crate::worker`]).
//!
//! What a newcomer would get wrong: commands and signals arrive on the watch thread, not on the one that serves. A
//! class that is stuck in an application still reports, still drains its other work, and can still be ended.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rgunicorn_worker_api::abi::{self, AppHandle, Bytes, ListenerParts};
use rgunicorn_worker_api::host::{AppHost, HostServices};
use rgunicorn_worker_api::request::{Address, Request};
use rgunicorn_worker_api::worker::{Record, State};

use crate::access_log::{AccessLog, AccessRecord, Format, Headers, Layout, RequestLine};
use crate::config::BindKind;
use crate::generation::Generation;
use crate::hooks::Hooks;
use crate::logging;
use crate::scoreboard::{Command, SlotWriter, is_tracked, readable};
use crate::sys::fd::{EventFd, Watch, monotonic_ns, poll};
use crate::sys::signal::{Signal, WorkerSignals};
use crate::sys::tcp;

mod expiry;
mod memory;

use expiry::{Expiry, age_of};
use memory::{Finding, MemoryLimit};

/// How long a worker that was told to leave at once may take to flush its logs.
const HALT_GRACE: Duration = Duration::from_millis(200);

/// A listening socket as the worker inherits it.
#[derive(Debug, Clone)]
pub struct Inherited {
    /// Its descriptor.
    pub fd: i32,
    /// Its address.
    pub address: BindKind,
    /// Others hold it, too.
    pub foreign: bool,
}

thread_local! {
    /// Whether this is the thread that called [`HostServices::ready`]: the worker's main one, which has counters of its
    /// own.
    static MAIN: Cell<bool> = const { Cell::new(false) };
}

/// The host inside one process that runs plugins; lives as long as the process.
#[expect(missing_debug_implementations, reason = "tables of functions and raw addresses")]
pub struct Runtime {
    generation: Generation,
    slot: SlotWriter,
    pid: u32,
    age: u64,
    probe: bool,
    settings: BTreeMap<String, String>,
    listeners: Vec<ListenerParts>,
    /// Written by the master for the watch thread.
    command: OnceLock<EventFd>,
    /// Written by anybody for the watch thread.
    watch: EventFd,
    /// Read by the class.
    notify: EventFd,
    state: AtomicU32,
    events: AtomicU32,
    /// The master has let the worker begin.
    go: AtomicBool,
    /// The class has a main thread.
    has_main: AtomicBool,
    /// The class has returned.
    finished: AtomicBool,
    apps: Mutex<Apps>,
    /// Set before the first request, if there is one.
    access_log: OnceLock<Mutex<AccessLog>>,
    /// Requests until the worker is replaced; 0 is for ever.
    max_requests: u64,
    /// Ended so far, if that is limited.
    requests: AtomicU64,
    /// The master was asked to replace this worker.
    retiring: AtomicBool,
    /// When it was last said that lines of the access log were dropped; 0 is never.
    dropped_said: AtomicU64,
    /// The level that was last set here.
    log_level: AtomicU64,
    /// Set when the boot is over.
    hooks: OnceLock<Hooks>,
    /// The hook about the end has begun, on whatever thread.
    exit_told: AtomicBool,
    request_timeout: Option<Duration>,
    expiry: Mutex<Expiry>,
    /// Tells the master that something changed on the scoreboard.
    wake_master: OnceLock<std::os::fd::OwnedFd>,
}

/// The applications that are to be told that the worker drains, and whether they were. The lock is held while they
/// are told, so that none is destroyed meanwhile.
#[derive(Default)]
struct Apps {
    started: Vec<AppHandle<'static>>,
    told: bool,
}

/// What an application may ask; one for each mounted application.
#[expect(missing_debug_implementations, reason = "as the runtime it belongs to")]
pub struct AppFacts {
    runtime: &'static Runtime,
    settings: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these leaves counters or a log line behind, nothing that could be torn.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

impl Runtime {
    /// Probe: a runtime without listeners, that never serves.
    ///
    /// # Panics
    /// If no descriptor is left: nothing could be tried then.
    pub fn for_probe(generation: Generation, slot: SlotWriter) -> &'static Self {
        let runtime = Self::new(generation, slot, &[], 0, true).expect("a probe has a descriptor left");
        Box::leak(Box::new(runtime))
    }

    /// Template: a runtime for as long as the applications are created; each worker makes its own.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn for_template(generation: Generation, slot: SlotWriter) -> io::Result<&'static Self> {
        Ok(Box::leak(Box::new(Self::new(generation, slot, &[], 0, false)?)))
    }

    /// Trial: a runtime as the first worker's, without listeners; it never serves.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn for_trial(generation: Generation, slot: SlotWriter) -> io::Result<&'static Self> {
        Ok(Box::leak(Box::new(Self::new(generation, slot, &[], 1, false)?)))
    }

    /// Worker: the runtime of this process.
    ///
    /// # Errors
    /// No descriptor, or the access log cannot be opened; one sentence.
    pub fn for_worker(
        generation: Generation,
        slot: SlotWriter,
        listeners: &[Inherited],
        age: u64,
        command: EventFd,
        wake_master: std::os::fd::OwnedFd,
    ) -> Result<&'static Self, String> {
        let runtime = Self::new(generation, slot, listeners, age, false)
            .map_err(|error| format!("cannot set up the worker: {error}"))?;
        // Fresh locks: nobody else has set them.
        let _ = runtime.command.set(command);
        let _ = runtime.wake_master.set(wake_master);
        let config = &runtime.generation.config;
        let syslog = config.syslog.as_ref().filter(|syslog| syslog.access);
        if config.accesslog.is_some() || syslog.is_some() {
            let layout = if config.access_log_json {
                Layout::Json
            } else {
                Layout::Text(Format::parse(&config.access_log_format).map_err(|error| error.to_string())?)
            };
            let mut log = AccessLog::new(config.accesslog.as_ref(), layout, None);
            if let Err(error) = log.open() {
                if !runtime.slot.serves(runtime.generation.number) {
                    return Err(error.to_string());
                }
                log::error!("{error}; until USR1 finds it again the lines of this worker are dropped");
            }
            if let Some(syslog) = syslog {
                log = log
                    .with_syslog(syslog)
                    .map_err(|error| format!("cannot open a socket for syslog: {error}"))?;
            }
            let _ = runtime.access_log.set(Mutex::new(log));
        }
        Ok(Box::leak(Box::new(runtime)))
    }

    fn new(
        generation: Generation,
        slot: SlotWriter,
        listeners: &[Inherited],
        age: u64,
        probe: bool,
    ) -> io::Result<Self> {
        let mut settings = generation.config.texts();
        settings.extend(generation.class_options.iter().cloned());
        let config = &generation.config;
        let max_requests = match config.max_requests {
            0 => 0,
            limit => limit + jitter(config.max_requests_jitter),
        };
        let request_timeout = config.request_timeout;
        Ok(Self {
            slot,
            pid: std::process::id(),
            age,
            probe,
            settings,
            listeners: listeners.iter().map(listener_parts).collect(),
            command: OnceLock::new(),
            watch: EventFd::new()?,
            notify: EventFd::new()?,
            state: AtomicU32::new(State::Running as u32),
            events: AtomicU32::new(0),
            go: AtomicBool::new(false),
            has_main: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            apps: Mutex::new(Apps::default()),
            access_log: OnceLock::new(),
            max_requests,
            requests: AtomicU64::new(0),
            log_level: AtomicU64::new(generation.config.loglevel as u64),
            hooks: OnceLock::new(),
            exit_told: AtomicBool::new(false),
            request_timeout,
            retiring: AtomicBool::new(false),
            dropped_said: AtomicU64::new(0),
            expiry: Mutex::new(Expiry::new(request_timeout)),
            wake_master: OnceLock::new(),
            generation,
        })
    }

    /// What runs here.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Where this process publishes.
    pub fn slot(&self) -> SlotWriter {
        self.slot
    }

    /// What the application with this index of [`Generation::mounts`] may ask.
    pub fn facts(&'static self, mount: usize) -> &'static AppFacts {
        let settings = self.generation.mounts[mount].settings.clone();
        Box::leak(Box::new(AppFacts { runtime: self, settings }))
    }

    /// Its number in order of birth; 0 in a probe or a template.
    pub fn age(&self) -> u64 {
        self.age
    }

    /// Worker: the hooks, once the boot is over: from now on they hear of requests, signals and the end.
    pub fn set_hooks(&self, hooks: Hooks) {
        // Set once in the life of a worker.
        let _ = self.hooks.set(hooks);
    }

    /// A hook whose error changes nothing. `[any thread]`
    fn hook(&self, hook: u32) {
        if let Some(hooks) = self.hooks.get() {
            hooks.tell(self, hook);
        }
    }

    /// The end has come, once: with the class, or instead of it.
    fn tell_exit(&self) {
        if !self.exit_told.swap(true, Ordering::AcqRel) {
            self.hook(abi::HOOK_WORKER_EXIT);
        }
    }

    /// Worker: the applications, once they are started, so that the watch thread can tell them to drain.
    pub fn set_apps(&self, apps: Vec<AppHandle<'static>>) {
        lock(&self.apps).started = apps;
    }

    /// Worker: tells the applications to drain, unless that was done. When it returns it was done.
    pub fn drain_apps(&self) {
        let mut apps = lock(&self.apps);
        if !apps.told {
            apps.told = true;
            for app in &apps.started {
                app.drain();
            }
        }
    }

    /// Worker: the applications are about to be destroyed; nobody else may use them from now on.
    pub fn take_apps(&self) -> Vec<AppHandle<'static>> {
        std::mem::take(&mut lock(&self.apps).started)
    }

    /// Worker: the class has returned; a pending halt need not wait any longer.
    pub fn finish(&self) {
        self.tell_exit();
        self.finished.store(true, Ordering::Release);
        self.flush_logs();
    }

    /// Worker: whether a call is still inside an application, so that nothing may be freed under it.
    pub fn has_abandoned_calls(&self) -> bool {
        lock(&self.expiry).has_abandoned()
    }

    /// Asks the master for a replacement; whether this was the first time. It serves on until that is ready.
    fn retire(&self) -> bool {
        let first = !self.retiring.swap(true, Ordering::AcqRel);
        if first {
            self.slot.set_retiring();
            self.wake_master();
        }
        first
    }

    /// Something in an application is stuck that neither the class nor `request_timeout` can see.
    fn stuck(&self, what: &str, time: Duration) {
        let what = readable(what.as_bytes());
        let seconds = time.as_secs_f64();
        // The oldest need not be the culprit, but it waits for it. One that its class has answered is not there any more.
        let request = self.slot.current_request().map(|request| {
            let seconds = request.age().as_secs_f64();
            format!("; the oldest request, {request}, has waited for {seconds:.1} s{}", request.others())
        });
        let request = request.unwrap_or_default();
        log::error!(
            "timeout: the {what} has been stuck for {seconds:.1} s{request}; this worker is replaced"
        );
        self.retire();
        self.slot.set_stuck();
    }

    /// The state grows, is announced, and on the way the applications are told to drain. `[any thread]`
    fn advance(&self, state: State) {
        let before = self.state.fetch_max(state as u32, Ordering::AcqRel);
        if before >= state as u32 {
            return;
        }
        self.slot.set_draining();
        // Before the class is told: an idle one returns at once.
        self.drain_apps();
        self.raise(abi::EVENT_STATE);
    }

    fn raise(&self, event: u32) {
        self.events.fetch_or(event, Ordering::AcqRel);
        self.notify_class();
    }

    fn notify_class(&self) {
        // Fails only for a descriptor that is not one; this one lives as long as the process.
        let _ = self.notify.notify();
    }

    fn wake_master(&self) {
        if let Some(pipe) = self.wake_master.get() {
            // A full pipe wakes the master as well as one more octet would.
            while nix::unistd::write(pipe, &[1]) == Err(nix::errno::Errno::EINTR) {}
        }
    }

    /// Writes what there is of the access log, and says what could not be written.
    fn flush_logs(&self) {
        if let Some(log) = self.access_log.get() {
            let mut log = lock(log);
            log.flush();
            say_dropped(log.take_dropped());
        }
    }

    /// The same, again and again: what could not be written is said once a second, or the error log fills the disk for
    /// which the access log has no room.
    fn flush_logs_of_a_turn(&self) {
        let Some(log) = self.access_log.get() else { return };
        let mut log = lock(log);
        log.flush();
        if log.has_dropped() {
            let (now, said) = (monotonic_ns(), self.dropped_said.load(Ordering::Relaxed));
            if said == 0 || now.saturating_sub(said) >= 1_000_000_000 {
                self.dropped_said.store(now, Ordering::Relaxed);
                say_dropped(log.take_dropped());
            }
        }
    }

    fn reopen_logs(&self) {
        if let Err(error) = logging::reopen() {
            log::error!("{error}");
        }
        if let Some(log) = self.access_log.get()
            && let Err(error) = lock(log).reopen()
        {
            log::error!("{error}");
        }
        self.raise(abi::EVENT_REOPEN_LOGS);
    }

    // -----------------------------------------------------------------------------------------------------------
    // The watch thread.

    /// Worker: commands of the master, signals, expired requests; until the process ends.
    pub fn watch(&self, signals: &WorkerSignals, stuck: &EventFd) {
        let Some(command) = self.command.get() else { return };
        let mut memory = MemoryLimit::new(self.generation.config.max_worker_memory);
        loop {
            let mut watches = [
                Watch::readable(command.as_fd()),
                Watch::readable(signals.as_fd()),
                Watch::readable(stuck.as_fd()),
                Watch::readable(self.watch.as_fd()),
            ];
            let deadline = [self.next_expiry(), memory.deadline()].into_iter().flatten().min();
            if let Err(error) = poll(&mut watches, deadline) {
                log::error!("the watch thread cannot wait: {error}; the worker leaves");
                self.advance(State::Draining);
                return;
            }
            let ready = watches.map(|watch| watch.is_ready());
            if ready[0] {
                // Cleared before the word is read: a command that comes in between makes it readable again.
                let _ = command.clear();
                self.follow_log_level();
                self.obey(self.slot.command());
            }
            if ready[1]
                && let Ok(came) = signals.take()
            {
                if came.contains(Signal::SIGUSR1) {
                    self.reopen_logs();
                }
                if came.contains(Signal::SIGTERM) {
                    self.advance(State::Draining);
                }
                if came.contains(Signal::SIGINT) || came.contains(Signal::SIGQUIT) {
                    self.hook(abi::HOOK_WORKER_INT);
                    self.halt();
                }
            }
            if ready[2] {
                self.give_up();
            }
            if ready[3] {
                let _ = self.watch.clear();
            }
            self.expire();
            self.weigh(&mut memory);
        }
    }

    /// Asks for a replacement when this worker has grown too large.
    fn weigh(&self, memory: &mut MemoryLimit) {
        // What it needs to boot is not judged before it is there.
        if !self.go.load(Ordering::Acquire) {
            return;
        }
        let limit = self.generation.config.max_worker_memory.unwrap_or(0);
        let own = || {
            if self.generation.config.preload { memory::own_beside_template(limit) } else { memory::own() }
        };
        let finding = memory.look(Instant::now(), own);
        match finding {
            None => {}
            Some(Finding::Over(octets)) => {
                let first = self.retire();
                if first {
                    log::info!(
                        "Autorestarting worker: it has {octets} octets of memory, and may have {limit}."
                    );
                }
            }
            Some(Finding::OverFromTheStart(octets)) => log::error!(
                "max_worker_memory is {limit}, and a worker that has just begun has {octets} octets already: it is \
                 not replaced for that; raise the limit"
            ),
            Some(Finding::Unknown(error)) => {
                log::error!(
                    "cannot tell the memory of this worker: {error}; max_worker_memory has no effect"
                );
            }
        }
    }

    /// Worker: the master may have been asked to log more, or less, than is configured.
    pub fn follow_log_level(&self) {
        let level = self.slot.facts().log_level().unwrap_or(self.generation.config.loglevel);
        if self.log_level.swap(level as u64, Ordering::Relaxed) != level as u64 {
            crate::plugin::set_log_level(level);
        }
    }

    fn obey(&self, command: Command) {
        match command {
            Command::Wait => {}
            Command::Run => {
                self.slot.set_serving();
                self.go.store(true, Ordering::Release);
                self.notify_class();
            }
            Command::Drain => self.advance(State::Draining),
            Command::Halt => self.halt(),
        }
    }

    /// Leave now. The class gets a moment to return by itself, because applications like to be told.
    fn halt(&self) {
        self.advance(State::Halting);
        let until = Instant::now() + HALT_GRACE;
        while !self.finished.load(Ordering::Acquire) && Instant::now() < until {
            // Nothing wakes this thread when the class returns; the process ends then.
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.tell_exit();
        self.flush_logs();
        crate::sys::process::leave(0);
    }

    /// The master has found this worker stuck. Says what it was doing, then dies by the ABRT it was sent, with the
    /// core file that an operator may want.
    fn give_up(&self) {
        match self.slot.current_request() {
            // The master says it, in the line about the failed boot.
            _ if !self.go.load(Ordering::Acquire) => log::debug!("stuck while {}", self.slot.stage()),
            Some(request) => {
                let (age, others) = (request.age().as_secs_f64(), request.others());
                log::error!("stuck for {age:.1} s in {request}{others}");
            }
            None => log::error!("stuck while {}", self.slot.stage()),
        }
        self.hook(abi::HOOK_WORKER_ABORT);
        self.flush_logs();
        std::process::abort();
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.request_timeout?;
        let rest = lock(&self.expiry).rest(monotonic_ns())?;
        Some(Instant::now() + rest)
    }

    /// Announces requests that are over their time, and ends the process when the class could not let go of one.
    fn expire(&self) {
        if self.request_timeout.is_none() {
            return;
        }
        let due = lock(&self.expiry).take_due(monotonic_ns());
        for late in &due {
            let name = self.name(late.token, late.name.as_deref());
            if late.beyond {
                log::error!("request_timeout: {name} did not end; this worker ends itself and is replaced");
            } else {
                log::error!("request_timeout: {name} has taken {:.1} s", late.age.as_secs_f64());
            }
        }
        if due.iter().any(|late| late.beyond) {
            self.flush_logs();
            crate::sys::process::leave(1);
        }
        if !due.is_empty() {
            self.raise(abi::EVENT_EXPIRED);
        }
    }

    /// Method and target of a request at work, fit for a log line.
    fn name(&self, token: u64, own: Option<&str>) -> String {
        let name = own.map(str::to_owned).or_else(|| self.slot.request_name(token));
        name.unwrap_or_else(|| "a request".to_owned())
    }
}

/// 0 to `most`, from the clock: workers that were born together should not all leave together.
fn jitter(most: u64) -> u64 {
    let mut mixed = monotonic_ns() ^ u64::from(std::process::id()).rotate_left(32);
    // One round of splitmix64.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % most.saturating_add(1)
}

fn listener_parts(inherited: &Inherited) -> ListenerParts {
    let (family, text) = match &inherited.address {
        BindKind::Tcp(address) => (if address.is_ipv4() { 4 } else { 6 }, address.to_string()),
        BindKind::Unix(path) => (1, format!("unix:{}", path.display())),
        BindKind::Abstract(name) => (1, format!("unix:@{name}")),
        BindKind::Fd(_) | BindKind::FdName(_) => {
            unreachable!("the address of a socket, not how it was asked for")
        }
    };
    let flags = u32::from(inherited.foreign);
    ListenerParts { fd: inherited.fd, family, address: Bytes::new(leak(text).as_bytes()), flags }
}

impl AppHost for AppFacts {
    fn pid(&self) -> u32 {
        self.runtime.pid
    }

    fn age(&self) -> u64 {
        self.runtime.age
    }

    fn generation(&self) -> u64 {
        self.runtime.generation.number
    }

    fn is_probe(&self) -> bool {
        self.runtime.probe
    }

    fn settings(&self) -> &str {
        &self.settings
    }

    fn server_setting(&self, name: &str) -> Option<&str> {
        self.runtime.settings.get(name).map(String::as_str)
    }

    fn stuck(&self, what: &str, time: Duration) {
        self.runtime.stuck(what, time);
    }
}

fn say_dropped(lines: u64) {
    if lines > 0 {
        logging::add_dropped(lines);
        log::warn!("{lines} lines of the access log could not be written and were dropped");
    }
}

/// The request's fields for the access log.
struct RequestFields<'r>(Option<&'r Request<'r>>);

impl Headers for RequestFields<'_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.and_then(|request| request.field(name))
    }
}

/// The response's fields for the access log.
struct ResponseFields<'r>(&'r [rgunicorn_worker_api::request::Field<'r>]);

impl Headers for ResponseFields<'_> {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }
}

impl HostServices for Runtime {
    fn listeners(&self) -> &[ListenerParts] {
        &self.listeners
    }

    fn notify_fd(&self) -> i32 {
        self.notify.as_fd().as_raw_fd()
    }

    fn take_events(&self) -> u32 {
        // Cleared before the word is taken: an event that comes in between makes it readable again.
        let _ = self.notify.clear();
        self.events.swap(0, Ordering::AcqRel)
    }

    fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            abi::STATE_RUNNING => State::Running,
            abi::STATE_DRAINING => State::Draining,
            _ => State::Halting,
        }
    }

    fn must_empty(&self, listener: usize) -> bool {
        self.slot.must_empty(listener)
    }

    fn ready(&self) -> State {
        self.slot.set_stage("waiting for the master's go");
        self.slot.heartbeat(monotonic_ns());
        // The first, should a class call it twice: two threads would lose each other's counts.
        if !self.has_main.swap(true, Ordering::Relaxed) {
            MAIN.set(true);
        }
        crate::plugin::log_panics();
        self.slot.set_ready();
        self.wake_master();
        while !self.go.load(Ordering::Acquire) && self.state() == State::Running {
            if poll(&mut [Watch::readable(self.notify.as_fd())], None).is_err() {
                break; // Without a wait there is no serving either; the class finds out at its own.
            }
            let _ = self.notify.clear();
        }
        if self.events.load(Ordering::Acquire) != 0 {
            self.notify_class();
        }
        self.slot.heartbeat(monotonic_ns());
        self.slot.set_stage("serving");
        self.state()
    }

    fn tick(&self, idle: bool) {
        if idle {
            self.flush_logs_of_a_turn();
            self.slot.heartbeat_idle(monotonic_ns());
        } else {
            self.slot.heartbeat(monotonic_ns());
        }
    }

    fn may_accept(&self) -> bool {
        self.state() == State::Running && self.slot.may_take_another()
    }

    fn connection_opened(&self, socket: Option<BorrowedFd<'_>>) {
        if self.slot.connection_opened()
            && let Some(waited) = socket.and_then(tcp::since_last_ack)
        {
            self.slot.count_queue(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        }
    }

    fn connection_closed(&self) {
        self.slot.connection_closed();
    }

    fn request_begin(&self, request: &Request<'_>) -> u64 {
        if let Some(hooks) = self.hooks.get() {
            hooks.pre_request(self, request);
        }
        let token = self.slot.begin_request(request.method(), request.target(), monotonic_ns());
        if self.request_timeout.is_none() {
            return token;
        }
        let name = (!is_tracked(token))
            .then(|| format!("{} {}", readable(request.method()), readable(request.target())));
        let (token, alone) = lock(&self.expiry).begin(token, name);
        if alone {
            // The watch thread sleeps without a deadline when nothing is at work.
            let _ = self.watch.notify();
        }
        token
    }

    fn request_end(&self, record: &Record<'_>) {
        let now = monotonic_ns();
        let token = Some(record.token).filter(|token| *token != 0);
        // Only a worker that is to be replaced can have abandoned calls.
        let watched = self.request_timeout.is_some() || self.retiring.load(Ordering::Acquire);
        if let Some(token) = token
            && (!watched || lock(&self.expiry).end(token))
        {
            self.slot.end_request(token);
        }
        let duration = token.map(|token| age_of(token, now));
        if MAIN.get() {
            self.slot.count_request_alone(record.status, record.bytes_in, record.body_bytes, duration);
        } else {
            self.slot.count_request(record.status, record.bytes_in, record.body_bytes, duration);
        }
        if let Some(log) = self.access_log.get() {
            lock(log).write(&AccessRecord {
                remote_address: match record.peer {
                    Address::Ip(address) => Some(address.ip()),
                    Address::Unix(_) | Address::Unknown => None,
                },
                request_line: record.request.map(|request| RequestLine {
                    method: request.method(),
                    target: request.target(),
                    protocol: request.version().as_str(),
                }),
                status: record.status,
                bytes: record.body_bytes,
                finished: SystemTime::now(),
                duration: duration.unwrap_or_default(),
                request_headers: &RequestFields(record.request),
                response_headers: &ResponseFields(record.response_fields),
            });
        }
        if let Some(hooks) = self.hooks.get() {
            hooks.post_request(self, record.request, record.status, duration.unwrap_or_default());
        }
        if self.max_requests != 0
            && self.requests.fetch_add(1, Ordering::Relaxed) + 1 == self.max_requests
            && self.retire()
        {
            log::info!("Autorestarting worker after current request.");
        }
    }

    fn request_expired(&self, token: u64) -> bool {
        self.request_timeout.is_some_and(|timeout| token != 0 && age_of(token, monotonic_ns()) >= timeout)
    }

    fn request_abandoned(&self, token: u64) {
        let name = lock(&self.expiry).abandon(token);
        let first = self.retire();
        // A thread is gone: what asks for nothing but a fresh start may have to wait, this may not.
        self.slot.set_stuck();
        if first {
            let name = self.name(token, name.as_deref());
            log::error!("request_timeout: {name} is stuck in the application; this worker is replaced");
        }
    }

    fn request_recovered(&self, token: u64) {
        let abandoned = lock(&self.expiry).recover(token);
        if abandoned {
            self.slot.end_request(token);
            let age = age_of(token, monotonic_ns());
            log::debug!("an abandoned call came back after {:.1} s", age.as_secs_f64());
        }
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}
