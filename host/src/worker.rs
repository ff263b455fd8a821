//! A worker's life, from the fork to its exit code.
//!
//! Owns the order of the steps, and why each comes where it does. Does not own accepting and serving: that is the
//! worker class. What a newcomer would get wrong: privileges are dropped before a byte of plugin code runs, and the
//! wish to die with the master is renewed after that, because setuid(2) clears it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rgunicorn_worker_api::abi::{AppHandle, Bytes, MountParts, host_object};

use crate::config::Config;
use crate::error::{EXIT_WORKER_BOOT, io_text};
use crate::generation::Generation;
use crate::hooks::Hooks;
use crate::logging;
use crate::plugin::{self, AppPlugin, ClassPlugin, PluginError};
use crate::runtime::{Inherited, Runtime};
use crate::scoreboard::SlotWriter;
use crate::sys::Pid;
use crate::sys::fd::{EventFd, monotonic_ns};
use crate::sys::process;
use crate::sys::signal::{self, WorkerSignals};
use crate::sys::title::{self, Role};

/// What the master gives a worker, or the template that forks it.
#[derive(Debug, Clone)]
pub struct Birth<'m> {
    /// What it runs.
    pub generation: &'m Generation,
    /// Its number in order of birth; 0 is a template.
    pub age: u64,
    /// Where it publishes.
    pub slot: SlotWriter,
    /// The listening sockets of its generation.
    pub listeners: Vec<Inherited>,
    /// The pipe that wakes the master.
    pub wake_master: &'m OwnedFd,
    /// The images, open, should their files be gone.
    pub images: Vec<(PathBuf, i32)>,
    /// The directory of its generation, should its path lead nowhere any more.
    pub directory: Option<BorrowedFd<'m>>,
    /// Other descriptors to keep: the lock of the runtime directory.
    pub keep: Vec<i32>,
    /// The master.
    pub master: Pid,
}

/// Worker: the whole life; returns the exit code. The master writes `command` when the command word of the slot has
/// changed.
pub fn live(birth: &Birth<'_>, command: &EventFd) -> i32 {
    end(birth.slot, boot_and_serve(birth, command))
}

/// Worker: as [`live`], for one whom a template has forked with everything that it had loaded. Call it when the master
/// has become its parent.
pub fn live_on(birth: &Birth<'_>, command: EventFd, loaded: Loaded) -> i32 {
    let boot = || {
        let system = system("a worker");
        logging::after_fork();
        title::set(Role::Worker, &birth.generation.config.proc_name);
        log::info!("Booting worker with pid: {}", std::process::id());
        let (signals, stuck) = take_signals(birth)?;
        match signal::kill_with_parent(birth.master) {
            Ok(true) => {}
            Ok(false) => return Err(boot("the master is gone".to_owned())),
            Err(error) => return Err(system("prctl", &error)),
        }
        signal::unblock_all().map_err(|error| system("sigprocmask", &error))?;
        serve(birth, command, signals, stuck, |runtime| {
            loaded.hooks.post_fork(runtime)?;
            Ok(loaded)
        })
    };
    end(birth.slot, boot())
}

/// Worker, Template: the exit code. A failed boot leaves its sentence on the scoreboard.
pub(crate) fn end(slot: SlotWriter, lived: Result<(), Failure>) -> i32 {
    match lived {
        Ok(()) => 0,
        Err(failure) => {
            slot.set_message(&failure.sentence);
            failure.exit_code
        }
    }
}

/// Why a worker or a template ends with another code than 0.
pub(crate) struct Failure {
    pub(crate) exit_code: i32,
    pub(crate) sentence: String,
}

/// The code of a generation, in this process.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "tables of functions")]
pub struct Loaded {
    hooks: Hooks,
    class: ClassPlugin,
    apps: Vec<AppHandle<'static>>,
}

impl From<PluginError> for Failure {
    fn from(error: PluginError) -> Self {
        if let Some(details) = &error.details {
            log::debug!("{details}");
        }
        Self { exit_code: error.exit_code, sentence: error.to_string() }
    }
}

fn boot(sentence: String) -> Failure {
    Failure { exit_code: EXIT_WORKER_BOOT, sentence }
}

/// Sentences about system calls that should not fail.
pub(crate) fn system(whom: &str) -> impl Fn(&str, &io::Error) -> Failure {
    move |what, error| boot(format!("cannot boot {whom}: {what}: {error}"))
}

fn boot_and_serve(birth: &Birth<'_>, command: &EventFd) -> Result<(), Failure> {
    let system = system("a worker");
    let (signals, stuck) = settle(birth, &[command.as_fd().as_raw_fd()], Role::Worker)?;
    let command = command.duplicate().map_err(|error| system("dup", &error))?;
    serve(birth, command, signals, stuck, |runtime| {
        load(runtime, &birth.images, |hooks| hooks.post_fork(runtime))
    })
}

/// Worker, Template: what comes before any code of others. `own` are descriptors to keep beside those of the birth.
pub(crate) fn settle(
    birth: &Birth<'_>,
    own: &[i32],
    role: Role,
) -> Result<(WorkerSignals, &'static EventFd), Failure> {
    let generation = birth.generation;
    let subject = format!("a {}", role.word());
    let system = system(&subject);
    // 1. Descriptors of the master's own (its signal queue, other workers' ends, sockets of another generation) go
    //    first: a socket that was removed must not live on in here.
    logging::after_fork();
    let mut keep = birth.keep.clone();
    keep.extend(birth.listeners.iter().map(|listener| listener.fd));
    keep.extend(birth.images.iter().map(|(_, fd)| *fd));
    keep.push(birth.wake_master.as_raw_fd());
    let directory = birth.directory.as_ref().map(AsRawFd::as_raw_fd);
    keep.extend(directory);
    keep.extend(own);
    keep.extend(logging::raw_fds());
    process::close_all_but(&keep).map_err(|error| system("close_range", &error))?;
    // The log of its own generation: the master changes its own only when this worker is ready. Before privileges go,
    // as the master would; a log that cannot be opened is the master's to report.
    let owner = generation.config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
    logging::set_style(generation.config.log_format, generation.config.syslog.as_ref());
    if let Err(error) = logging::configure(&generation.config.errorlog, generation.config.loglevel, owner) {
        if !birth.slot.serves(generation.number) {
            return Err(boot(error.to_string()));
        }
        // A directory was removed, a FIFO has no reader: the service goes on with what the master has open.
        logging::set_level(generation.config.loglevel);
        log::error!("{error}; until USR1 finds it again this process writes to what the master has open");
    }
    // A log that was moved away a moment ago, before USR1: only root may make it where only root may make files. The
    // runtime says what comes of one that cannot be opened.
    if let Some(target) = &generation.config.accesslog
        && let Err(error) = logging::try_open(target, owner)
        && !birth.slot.serves(generation.number)
    {
        return Err(boot(error.to_string()));
    }
    if generation.config.capture_output {
        logging::capture_output().map_err(|error| system("dup2", &error))?;
    }
    title::set(role, &generation.config.proc_name);
    log::info!("Booting {} with pid: {}", role.word(), std::process::id());
    // 2. Signals are still blocked by the fork. Handlers before they are unblocked, or the first TERM kills.
    let taken = take_signals(birth)?;
    // 3. Privileges, before any byte of a plugin.
    become_worker_user(&generation.config, birth.directory, birth.master).map_err(boot)?;
    // The child never gives the master's objects back, so nobody else closes it.
    if let Some(directory) = directory {
        process::close(&[directory]).map_err(|error| system("close", &error))?;
    }
    signal::unblock_all().map_err(|error| system("sigprocmask", &error))?;
    Ok(taken)
}

fn take_signals(birth: &Birth<'_>) -> Result<(WorkerSignals, &'static EventFd), Failure> {
    let system = system("a worker");
    signal::reset_to_default().map_err(|error| system("sigaction", &error))?;
    let signals = WorkerSignals::install().map_err(|error| system("signal handlers", &error))?;
    let stuck =
        record_crashes(&birth.slot, birth.master).map_err(|error| system("crash handlers", &error))?;
    Ok((signals, stuck))
}

/// Worker: from the host inside it to its end. `load` brings the code, unless a template has.
fn serve(
    birth: &Birth<'_>,
    command: EventFd,
    signals: WorkerSignals,
    stuck: &'static EventFd,
    load: impl FnOnce(&'static Runtime) -> Result<Loaded, Failure>,
) -> Result<(), Failure> {
    let slot = birth.slot;
    let generation = birth.generation;
    let system = system("a worker");
    // 4. The host inside the worker, and its watch thread: from here on a worker that hangs can say where.
    let wake = birth.wake_master.try_clone().map_err(|error| system("dup", &error))?;
    let runtime = Runtime::for_worker(generation.clone(), slot, &birth.listeners, birth.age, command, wake)
        .map_err(boot)?;
    slot.heartbeat(monotonic_ns());
    // One that is born later logs as the others do.
    runtime.follow_log_level();
    let watch = move || {
        // A stack overflow on this thread could not be recorded without one; serving goes on all the same.
        let _ = signal::alternate_stack();
        runtime.watch(&signals, stuck);
    };
    #[expect(clippy::disallowed_methods, reason = "a worker may have threads; only the master may not")]
    let watching = std::thread::Builder::new().name("watch".into()).stack_size(256 * 1024).spawn(watch);
    watching.map_err(|error| system("the watch thread", &error))?;
    // 5. Code of others.
    let generation = runtime.generation();
    plugin::note_panics(slot);
    let Loaded { hooks, class, apps } = load(runtime)?;
    publish_load_ranges(&slot, generation);
    // 6. What belongs after the last fork: threads, pools, runtimes.
    start_applications(runtime, &apps)?;
    hooks.post_worker_init(runtime)?;
    if hooks.hear_of_service() {
        runtime.set_hooks(hooks);
    }
    // 7. The loop. `Host::ready` inside of it reports to the master and waits for its go.
    slot.set_stage("running the worker class");
    let mounts: &'static [MountParts] = mounts(generation, &apps).leak();
    runtime.set_apps(apps);
    let served = class.run(host_object(runtime), mounts);
    // 8. The last exchange has ended: the applications hear of it, then their memory goes. A class that failed has
    //    left exchanges behind, perhaps on threads, and so has one that abandoned a call; nothing is freed under them.
    slot.set_stage("shutting down");
    if served.is_ok() && runtime.has_abandoned_calls() {
        log::debug!("a call is still inside an application: the applications are not shut down");
    } else if served.is_ok() {
        end_applications(runtime);
    }
    runtime.finish();
    log::info!("Worker exiting (pid: {})", std::process::id());
    served.map_err(|error| {
        boot(format!("the worker class {} failed: {error}", generation.class.original.display()))
    })
}

/// Trial (the child of `check`): what a worker does, but for all that needs a socket: the class is opened, and not run.
/// `ready` is called where a worker would be.
pub(crate) fn rehearse(runtime: &'static Runtime, ready: impl FnOnce()) -> Result<(), Failure> {
    let slot = runtime.slot();
    plugin::note_panics(slot);
    // With a template the hook comes when all is loaded, without one before.
    let preload = runtime.generation().config.preload;
    let first = |hooks: &Hooks| if preload { Ok(()) } else { hooks.post_fork(runtime) };
    let Loaded { hooks, apps, .. } = load(runtime, &[], first)?;
    if preload {
        hooks.post_fork(runtime)?;
    }
    publish_load_ranges(&slot, runtime.generation());
    start_applications(runtime, &apps)?;
    hooks.post_worker_init(runtime)?;
    if hooks.hear_of_service() {
        runtime.set_hooks(hooks);
    }
    plugin::log_panics();
    ready();
    slot.set_stage("shutting down");
    runtime.set_apps(apps);
    end_applications(runtime);
    runtime.finish();
    Ok(())
}

/// Worker, Trial: each application begins to live, in the order of the mounts.
fn start_applications(runtime: &'static Runtime, apps: &[AppHandle<'static>]) -> Result<(), PluginError> {
    let (slot, generation) = (runtime.slot(), runtime.generation());
    for (index, app) in apps.iter().enumerate() {
        let mount = &generation.mounts[index];
        let image = &generation.apps[mount.image];
        let name = format!("{}:{}", image.original.display(), mount.name);
        let facts = plugin::app_host(runtime.facts(index));
        slot.set_stage(&format!("starting {name}"));
        app.start(facts)
            .map_err(|error| plugin::failed(image, &mount.name, "failed to start", error.message()))?;
        slot.set_stage(&format!("making {name} ready"));
        app.ready()
            .map_err(|error| plugin::failed(image, &mount.name, "did not become ready", error.message()))?;
    }
    Ok(())
}

/// Worker, Trial: no exchange is left in any application.
fn end_applications(runtime: &'static Runtime) {
    runtime.drain_apps();
    for app in runtime.take_apps() {
        app.shutdown();
        plugin::destroy(app);
    }
}

/// Worker, Template: opens what the generation runs and creates its applications. The hooks first, because one of them
/// may come before all else; then the class, so that its mistakes are not taken for the application's.
pub(crate) fn load(
    runtime: &'static Runtime,
    images: &[(PathBuf, i32)],
    first: impl FnOnce(&Hooks) -> Result<(), PluginError>,
) -> Result<Loaded, Failure> {
    let generation = runtime.generation();
    let place = |copy: &Path| present(copy, images);
    let hooks = Hooks::open(runtime, place)?;
    first(&hooks)?;
    runtime.slot().set_stage(&format!("loading {}", generation.class.original.display()));
    let class = ClassPlugin::open(&generation.class, place)?;
    let apps = create_applications(runtime, place)?;
    Ok(Loaded { hooks, class, apps })
}

/// Probe, Template, Worker: SIGSEGV and its kin are recorded on the scoreboard; an ABRT of the master makes the descriptor
/// readable that is returned.
///
/// # Errors
/// No descriptor, no memory.
pub fn record_crashes(slot: &SlotWriter, master: Pid) -> io::Result<&'static EventFd> {
    // Leaked: the handler may use it until the very end of the process.
    let stuck: &'static EventFd = Box::leak(Box::new(EventFd::new()?));
    signal::install_crash_handlers(slot.crash_cell(), master, stuck)?;
    Ok(stuck)
}

/// Probe, Template, Worker: environment, directory, mask, user, and the wish to die with the master. `directory` is what
/// the path led to when the generation was made.
///
/// # Errors
/// One sentence.
pub fn become_worker_user(
    config: &Config,
    directory: Option<BorrowedFd<'_>>,
    master: Pid,
) -> Result<(), String> {
    for (name, value) in &config.raw_env {
        process::set_variable(name.as_ref(), value.as_ref());
    }
    process::set_umask(config.umask);
    if let Some(identity) = &config.identity {
        process::become_user(identity.uid, identity.gid, &identity.groups).map_err(|error| {
            format!(
                "cannot run workers as uid {} gid {}: {error}; start rgunicorn as root or leave --user and --group out",
                identity.uid, identity.gid
            )
        })?;
    }
    if config.no_new_privs {
        process::renounce_new_privileges().map_err(|error| {
            format!("cannot renounce new privileges: {error}; this kernel needs no_new_privs = false")
        })?;
    }
    // After the identity: whether a directory may be entered is the worker's question, not root's.
    if let Err(error) = process::enter(&config.chdir) {
        let why = format!("cannot enter the directory {}: {}", config.chdir.display(), io_text(&error));
        // An old release that was cleared away is no reason to stop serving it.
        match directory.map(process::enter_open) {
            Some(Ok(())) => log::warn!("{why}; this process is in the one that was there before"),
            Some(Err(_)) | None => return Err(format!("{why}; check --chdir")),
        }
    }
    match signal::kill_with_parent(master) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the master is gone".to_owned()),
        Err(error) => Err(format!("cannot ask to die with the master: {error}")),
    }
}

/// Probe, Template, Worker: opens each library once and creates each mounted application, in the order of the mounts.
///
/// # Errors
/// The first that cannot be opened or created.
pub fn create_applications(
    runtime: &'static Runtime,
    place: impl Fn(&Path) -> PathBuf + Copy,
) -> Result<Vec<AppHandle<'static>>, PluginError> {
    let generation = runtime.generation();
    let mut libraries = Vec::with_capacity(generation.apps.len());
    for image in &generation.apps {
        runtime.slot().set_stage(&format!("loading {}", image.original.display()));
        libraries.push(AppPlugin::open(image, place)?);
    }
    let mut apps = Vec::with_capacity(generation.mounts.len());
    for (index, mount) in generation.mounts.iter().enumerate() {
        let image = &generation.apps[mount.image];
        runtime.slot().set_stage(&format!("creating {}:{}", image.original.display(), mount.name));
        apps.push(libraries[mount.image].create(
            image,
            &mount.name,
            plugin::app_host(runtime.facts(index)),
        )?);
    }
    Ok(apps)
}

/// Where an image can be opened: its file, or the master's descriptor of it. The number stays in use as long as the
/// process lives, so that the loader, which remembers paths, never takes one image for another.
pub(crate) fn present(copy: &Path, open: &[(PathBuf, i32)]) -> PathBuf {
    let descriptor = open.iter().find(|(image, _)| image == copy).map(|(_, fd)| fd);
    match descriptor {
        Some(fd) if !copy.exists() => format!("/proc/self/fd/{fd}").into(),
        _ => copy.to_owned(),
    }
}

fn mounts(generation: &Generation, apps: &[AppHandle<'static>]) -> Vec<MountParts> {
    generation
        .mounts
        .iter()
        .zip(apps)
        .map(|(mount, app)| MountParts {
            prefix: Bytes::new(Box::leak(mount.prefix.clone().into_boxed_str()).as_bytes()),
            app: app.object(),
        })
        .collect()
}

/// Where each image lies in memory, so that the master can name the library behind a faulting address.
fn publish_load_ranges(slot: &SlotWriter, generation: &Generation) {
    // Without /proc a crash is reported without its library.
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (index, image) in generation.images().enumerate() {
        let copy = image.copy.to_string_lossy();
        let mut range: Option<(u64, u64)> = None;
        for line in maps.lines().filter(|line| line.ends_with(copy.as_ref())) {
            let Some((start, end)) = line.split(' ').next().and_then(|span| span.split_once('-')) else {
                continue;
            };
            let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else {
                continue;
            };
            range = Some(range.map_or((start, end), |(low, high)| (low.min(start), high.max(end))));
        }
        if let Some((start, end)) = range {
            slot.add_load_range(start, end, index);
        }
    }
}
