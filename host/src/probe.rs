//! The probe: a short-lived child that prepares a generation, then tries it.
//!
//! Stage 1, with the master's rights: reads the configuration, looks up names and users, copies and judges the
//! images, and reports all that as a [`Prepared`]. Then it waits: the master binds new addresses and says go. Stage 2,
//! as the workers' user: loads the images, creates the applications, reports, and leaves.
//!
//! What a newcomer would get wrong: from stage 2 on the child runs plugin code, so what it sends is somebody's words:
//! bounded, a verdict and a sentence, never data that the master acts upon.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Sources};
use crate::elf_note::Note;
use crate::error::{EXIT_APP_LOAD, EXIT_SETTINGS, EXIT_WORKER_BOOT};
use crate::generation::{Generation, MountedApp};
use crate::image::{self, Image, RuntimeDir, trust};
use crate::pidfile;
use crate::plugin::{self, ClassPlugin, Kind, PluginError};
use crate::runtime::Runtime;
use crate::scoreboard::{SlotView, SlotWriter};
use crate::sys::Pid;
use crate::sys::fd::{Channel, Incoming, channel};
use crate::sys::wait::Ended;
use crate::sys::{fork, process, signal, title};
use crate::watch::{self, Watcher};

/// How much a probe may report (octets): a configuration with its images takes a few KiB.
const REPORT_LIMIT: usize = 4 * 1024 * 1024;
/// Octets of a report in one message.
const PIECE: usize = 32 * 1024;
/// The longest sentence that is taken from a probe (octets).
const SENTENCE_LIMIT: usize = 4096;

/// How long stage 1 may take when no configuration says it yet.
pub const FIRST_BOOT_TIMEOUT: Duration = Duration::from_secs(30);

/// What stage 1 made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prepared {
    /// The generation, its images copied.
    pub generation: Generation,
    /// What is watched for `--reload`; the first time the descriptor comes with it ([`Probe::take_watches`]).
    pub watched: watch::Watched,
}

/// Why a generation cannot be: one sentence, and the exit code if it was to be the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// One of [`crate::error`].
    pub exit_code: i32,
    /// For the operator.
    pub sentence: String,
    /// What stands behind the sentence; logged at debug.
    pub details: Option<String>,
}

impl Refusal {
    /// A refusal with its code and sentence.
    pub fn new(exit_code: i32, sentence: impl Into<String>) -> Self {
        Self { exit_code, sentence: sentence.into(), details: None }
    }
}

impl Refusal {
    /// Of a probe that has died without a word; `memory` says whether it was for want of that.
    pub fn died(slot: &SlotView, ended: Ended, memory: &str) -> Self {
        let last_words = slot.message().map(|message| format!(": {message}")).unwrap_or_default();
        let advice = if memory.is_empty() { advice(ended) } else { String::new() };
        let sentence = format!("while {} the probe {ended}{memory}{last_words}{advice}", slot.stage());
        Self::new(EXIT_WORKER_BOOT, sentence)
    }

    /// Of a probe that has not finished in time.
    pub fn late(slot: &SlotView) -> Self {
        let stage = slot.stage();
        let sentence = format!(
            "the new generation could not be tried within boot_timeout: the probe was still {stage}; mend what \
             hangs, or raise boot_timeout"
        );
        Self::new(EXIT_WORKER_BOOT, sentence)
    }

    /// Of a worker that has ended before it was ready, by itself or because it was `late`; `account` says which it was
    /// and what it was doing.
    pub fn not_ready(message: Option<String>, ended: Ended, late: bool, account: &str) -> Self {
        // A worker that could not boot left a sentence; one that was killed, or left by itself, could not.
        let last_words = message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        match (message, ended) {
            // Any other code is not ours: the application has left by itself, whatever it said before.
            (Some(message), Ended::Exited(code @ (EXIT_WORKER_BOOT | EXIT_APP_LOAD))) => {
                Self::new(code, message)
            }
            _ if late => {
                let sentence = format!("a worker was not ready within boot_timeout ({account}){last_words}");
                Self::new(EXIT_WORKER_BOOT, sentence)
            }
            _ => {
                let advice = advice(ended);
                let sentence =
                    format!("a worker {ended} before it was ready ({account}){last_words}{advice}");
                Self::new(EXIT_WORKER_BOOT, sentence)
            }
        }
    }
}

/// Of a worker that has ended: which it was, what it was doing, and where a fault lies. `generation` is its own, if it
/// is still known.
pub(crate) fn account(
    view: &SlotView,
    ended: Ended,
    number: u64,
    age: u64,
    generation: Option<&Generation>,
) -> String {
    use std::fmt::Write;
    let mut text = format!("generation {number}, age {age}, while {}", view.stage());
    // An abort lies in the C library, whoever called it: its place says nothing.
    if let (Ended::Killed { signal, .. }, Some(crash)) = (ended, view.crash())
        && signal != libc::SIGABRT
    {
        let name = |address| {
            let image = generation?.images().nth(view.image_at(address)?)?;
            Some(image.original.display().to_string())
        };
        // Writing to a String cannot fail.
        let _ = write!(text, ", address {:#x}, at pc {:#x}", crash.address, crash.pc);
        let _ = match (name(crash.pc), name(crash.caller)) {
            (Some(image), _) => write!(text, " in {image}"),
            (None, Some(image)) => write!(text, " in a library called from {image}"),
            (None, None) => write!(text, " in no plugin of ours"),
        };
    }
    text
}

/// What to do about code that has ended its process instead of returning: the end of a sentence.
pub(crate) fn advice(ended: Ended) -> String {
    let alone = "'rgunicorn inspect --load FILE' tries one file by itself";
    match ended {
        Ended::Exited(_) => {
            format!("; code of a library has ended the process, where it has to return an error: {alone}")
        }
        Ended::Killed { signal, .. } if signal == libc::SIGKILL => {
            "; somebody else has sent that: the kernel's log (dmesg) may say who".to_owned()
        }
        Ended::Killed { core: true, .. } => format!("; gdb shows the place in the core file, and {alone}"),
        Ended::Killed { .. } => {
            format!("; {alone}, and gdb shows the place in a core file (ulimit -c unlimited)")
        }
    }
}

impl From<plugin::PluginError> for Refusal {
    fn from(error: plugin::PluginError) -> Self {
        Self { exit_code: error.exit_code, sentence: error.to_string(), details: error.details }
    }
}

/// What the master learns from a probe.
#[derive(Debug)]
pub enum Report {
    /// There is a new runtime directory. Said before anything is put there, so that it goes however the probe ends.
    RuntimeDir(PathBuf),
    /// Stage 1 is done.
    Prepared(Box<Prepared>),
    /// Stage 2 is done: the images work.
    Tried,
    /// Either stage failed.
    Refused(Refusal),
}

/// The kind of a message, its first octet. A long report comes in several, all but the last [`tag::MORE`].
mod tag {
    pub(super) const MORE: u8 = b'm';
    pub(super) const RUNTIME_DIR: u8 = b'd';
    pub(super) const PREPARED: u8 = b'p';
    pub(super) const TRIED: u8 = b't';
    pub(super) const REFUSED: u8 = b'r';
    pub(super) const GO: u8 = b'g';
}

/// Master: a probe that is at work.
#[derive(Debug)]
pub struct Probe {
    /// Its process.
    pub pid: Pid,
    /// When it was forked.
    pub started: Instant,
    /// When it must have finished.
    pub deadline: Option<Instant>,
    /// The number of the generation that it prepares.
    pub generation: u64,
    channel: Channel,
    /// Pieces of a report that is not complete yet.
    pieces: Vec<u8>,
    /// A descriptor that came with the last message.
    watches: Option<OwnedFd>,
    /// Whether stage 1 has reported: what comes later is plugin code's.
    prepared: bool,
    /// The other end is closed: no report comes any more.
    closed: bool,
}

/// What a probe is given.
#[derive(Debug)]
pub struct Task<'m> {
    /// Where the configuration comes from.
    pub sources: &'m Sources,
    /// The generation to prepare.
    pub generation: u64,
    /// The runtime directory in use; `None` at the first start.
    pub runtime_dir: Option<&'m RuntimeDir>,
    /// The watches in force, which are added to.
    pub watcher: Option<&'m Watcher>,
    /// Where the probe says what it is doing.
    pub slot: SlotWriter,
    /// How long both stages may take together; `None` is for ever.
    pub boot_timeout: Option<Duration>,
}

impl Probe {
    /// Master: forks a probe.
    ///
    /// # Errors
    /// No descriptor, no process.
    pub fn start(task: &Task<'_>, now: Instant) -> io::Result<Self> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking()?;
        let master = nix::unistd::getpid();
        let pid = fork::fork(|| child(task, &theirs, master))?;
        Ok(Self {
            pid,
            started: now,
            deadline: task.boot_timeout.map(|timeout| now + timeout),
            generation: task.generation,
            channel: ours,
            pieces: Vec::new(),
            watches: None,
            prepared: false,
            closed: false,
        })
    }

    /// Master: the next report, if one is complete. `Ok(None)` says that there is none now; that the probe has died is
    /// learnt from its wait status, not here.
    ///
    /// # Errors
    /// What it sent is no report.
    pub fn receive(&mut self) -> Result<Option<Report>, Refusal> {
        loop {
            let message = match self.channel.receive() {
                Ok(Incoming::Message(message, descriptors)) => {
                    // From stage 2 on no descriptor is welcome.
                    let welcome = descriptors.into_iter().next().filter(|_| !self.prepared);
                    self.watches = welcome.or(self.watches.take());
                    message
                }
                Ok(Incoming::Nothing) => return Ok(None),
                Ok(Incoming::Closed) => {
                    self.closed = true;
                    return Ok(None);
                }
                Err(error) => return Err(garbled(&error.to_string())),
            };
            let Some((kind, payload)) = message.split_first() else { return Ok(None) };
            if self.pieces.len() + payload.len() > REPORT_LIMIT {
                return Err(garbled("a report longer than 4 MiB"));
            }
            self.pieces.extend_from_slice(payload);
            if *kind == tag::MORE {
                continue;
            }
            let payload = std::mem::take(&mut self.pieces);
            return self.report(*kind, &payload).map(Some);
        }
    }

    fn report(&mut self, kind: u8, payload: &[u8]) -> Result<Report, Refusal> {
        match kind {
            tag::RUNTIME_DIR if !self.prepared => {
                let path = serde_json::from_slice(payload).map_err(|error| garbled(&error.to_string()))?;
                Ok(Report::RuntimeDir(path))
            }
            tag::PREPARED if !self.prepared => {
                self.prepared = true;
                let prepared =
                    serde_json::from_slice(payload).map_err(|error| garbled(&error.to_string()))?;
                Ok(Report::Prepared(Box::new(prepared)))
            }
            tag::TRIED if self.prepared => Ok(Report::Tried),
            tag::REFUSED => {
                let mut refusal: Refusal =
                    serde_json::from_slice(payload).map_err(|error| garbled(&error.to_string()))?;
                if refusal.sentence.len() > SENTENCE_LIMIT {
                    refusal.sentence = refusal.sentence.chars().take(SENTENCE_LIMIT / 4).collect();
                }
                Ok(Report::Refused(refusal))
            }
            _ => Err(garbled("a message of an unknown kind")),
        }
    }

    /// Master: the descriptor for `--reload`, if this probe was the first to need one.
    pub fn take_watches(&mut self) -> Option<OwnedFd> {
        self.watches.take()
    }

    /// Master: lets stage 2 begin.
    ///
    /// # Errors
    /// The probe is gone; its wait status says why.
    pub fn go(&self) -> io::Result<()> {
        self.channel.send(&[tag::GO], &[])
    }

    /// Master: wants nothing more of it. In stage 1 it finds that out when it next reports, tidies up, and ends.
    ///
    /// # Errors
    /// None expected.
    pub fn hang_up(&self) -> io::Result<()> {
        self.channel.hang_up()
    }

    /// Whether its end of the channel is closed: wait for the process, not for a report.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn garbled(why: &str) -> Refusal {
    Refusal::new(EXIT_WORKER_BOOT, format!("the probe's report cannot be read: {why}"))
}

// ---------------------------------------------------------------------------------------------------------------
// In the child.

/// Probe: both stages; returns the exit code, which nobody reads as long as a report was sent.
fn child(task: &Task<'_>, channel: &Channel, master: Pid) -> i32 {
    // 1. Signals as any program has them: a Ctrl-C ends the probe with the master. The handlers that record a crash
    //    come first, so that a constructor's fault has a place.
    if let Err(error) = prepare_signals(&task.slot, master) {
        return refuse(channel, &Refusal::new(EXIT_SETTINGS, format!("cannot set up the probe: {error}")));
    }
    crate::logging::after_fork();
    // 2. Stage 1. Files and names; no plugin code.
    let (prepared, watches) = match prepare(task, channel) {
        Ok(prepared) => prepared,
        Err(refusal) => return refuse(channel, &refusal),
    };
    let lent: Vec<BorrowedFd<'_>> = watches.iter().map(AsFd::as_fd).collect();
    if send_with(channel, tag::PREPARED, &prepared, &lent).is_err() {
        return 1; // The master is gone.
    }
    // The master has its own copy. Step 4 closes everything else, and nothing may be left to close it once more.
    drop(watches);
    // 3. The master binds what is new. It may also have changed its mind, which is the end of the channel.
    match channel.receive() {
        Ok(Incoming::Message(message, _)) if message.first() == Some(&tag::GO) => {}
        _ => return 1,
    }
    // 4. What the master holds for itself is no business of plugin code: the monitor's sockets and channel, listeners,
    //    other children's pipes.
    let mut keep = vec![channel.as_fd().as_raw_fd()];
    keep.extend(crate::logging::raw_fds());
    keep.extend(task.runtime_dir.into_iter().flat_map(RuntimeDir::descriptors));
    if let Err(error) = process::close_all_but(&keep) {
        return refuse(channel, &Refusal::new(EXIT_SETTINGS, format!("cannot set up the probe: {error}")));
    }
    // 5. Stage 2, as the workers' user. At a first start the master does not know yet how much is to be logged: then
    //    what stands behind a refusal is logged here.
    let level = prepared.generation.config.loglevel;
    let logs_details = task.runtime_dir.is_none();
    match attempt(task, prepared.generation, master) {
        Ok(()) => match channel.send(&[tag::TRIED], &[]) {
            Ok(()) => 0,
            Err(_) => 1,
        },
        Err(refusal) => {
            if let (Some(details), true) = (&refusal.details, logs_details) {
                crate::logging::set_level(level);
                log::debug!("{details}");
            }
            refuse(channel, &refusal)
        }
    }
}

/// Probe: signals as any program has them, crashes recorded in `slot`, and an end with `master`'s.
///
/// # Errors
/// As the system gives them.
pub(crate) fn prepare_signals(slot: &SlotWriter, master: Pid) -> io::Result<()> {
    signal::reset_to_default()?;
    crate::worker::record_crashes(slot, master)?;
    signal::unblock_all()?;
    if !signal::kill_with_parent(master)? {
        return Err(io::Error::other("the master is gone"));
    }
    Ok(())
}

fn refuse(channel: &Channel, refusal: &Refusal) -> i32 {
    // If the master is gone there is nobody to tell.
    let _ = send_json(channel, tag::REFUSED, refusal);
    1
}

fn send_json(channel: &Channel, kind: u8, value: &impl Serialize) -> io::Result<()> {
    send_with(channel, kind, value, &[])
}

/// Sends a value, with descriptors in its last piece.
fn send_with(
    channel: &Channel,
    kind: u8,
    value: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = serde_json::to_vec(value).map_err(io::Error::other)?;
    let mut pieces = text.chunks(PIECE).peekable();
    while let Some(piece) = pieces.next() {
        let mut message = Vec::with_capacity(piece.len() + 1);
        let (tag, with) = if pieces.peek().is_some() { (tag::MORE, &[][..]) } else { (kind, descriptors) };
        message.push(tag);
        message.extend_from_slice(piece);
        channel.send(&message, with)?;
    }
    Ok(())
}

/// Stage 1.
fn prepare(task: &Task<'_>, channel: &Channel) -> Result<(Prepared, Option<OwnedFd>), Refusal> {
    task.slot.set_stage("reading the configuration");
    let config =
        Config::load(task.sources).map_err(|error| Refusal::new(error.exit_code(), error.to_string()))?;
    title::set(title::Role::Probe, &config.proc_name);
    try_files(&config)?;
    // Before anything is copied: what changes from now on is a reason for the next reload.
    let refuse = |sentence| Refusal::new(EXIT_SETTINGS, sentence);
    let watches = watch::Setup::begin(&config, task.watcher).map_err(refuse)?;
    task.slot.set_stage("choosing the runtime directory");
    let created;
    let runtime = match task.runtime_dir {
        Some(runtime) => runtime,
        None => {
            let beside = config.mounts.first().and_then(|mount| mount.application.file.parent());
            created = RuntimeDir::create(config.runtime_dir.as_deref(), beside)
                .map_err(|error| Refusal::new(EXIT_SETTINGS, error.to_string()))?;
            if let Err(error) = send_json(channel, tag::RUNTIME_DIR, &created.path()) {
                // The master has gone, or has hung up: nobody else knows of the directory.
                created.remove();
                return Err(Refusal::new(EXIT_SETTINGS, format!("cannot tell the master: {error}")));
            }
            &created
        }
    };
    let directory = runtime
        .generation_dir(task.generation)
        .map_err(|error| Refusal::new(EXIT_SETTINGS, error.to_string()))?;
    let copied = copy_images(task, config, &directory).and_then(|generation| {
        let finish = |setup: watch::Setup| setup.finish(&generation).map_err(refuse);
        let (watched, descriptor) = watches.map(finish).transpose()?.unwrap_or_default();
        Ok((Prepared { generation, watched }, descriptor))
    });
    if copied.is_err() {
        // Nothing of a refused generation stays; the sentence that matters is already known.
        let _ = image::remove_generation(&directory);
    }
    // The master locks the directory itself as soon as it hears of it; until then this child's lock holds it.
    copied
}

/// Opens what workers and the master will open, so that it is known before anything changes.
fn try_files(config: &Config) -> Result<(), Refusal> {
    let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
    let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
    for target in std::iter::once(&config.errorlog).chain(&config.accesslog) {
        crate::logging::try_open(target, owner).map_err(|error| refuse(&error))?;
    }
    let Some(file) = &config.pidfile else { return Ok(()) };
    pidfile::refuse_dangling(file).map_err(|error| refuse(&error))?;
    let Some(directory) = file.parent() else { return Ok(()) };
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).map_err(
        |errno| {
            refuse(&format!(
                "cannot write the pid file {}: {}; make its directory, or give another --pid",
                file.display(),
                errno.desc()
            ))
        },
    )
}

fn copy_images(task: &Task<'_>, config: Config, directory: &Path) -> Result<Generation, Refusal> {
    let deadline = Instant::now() + task.boot_timeout.unwrap_or(FIRST_BOOT_TIMEOUT).mul_f64(0.8);
    let judged = |file: &Path| match config.allow_world_writable {
        true => Ok(()),
        false => trust::judge(file),
    };
    let copy = |file: &Path, kind: Kind| -> Result<Image, Refusal> {
        task.slot.set_stage(&format!("copying {}", file.display()));
        judged(file).map_err(|why| PluginError::of_file(kind, file, &why))?;
        let image = image::copy_plugin(file, directory, deadline)
            .map_err(|error| PluginError::of_file(kind, file, &error))?;
        image
            .neighbours
            .iter()
            .try_for_each(|library| judged(&library.original))
            .map_err(|why| PluginError::of_file(kind, file, &why))?;
        Ok(image)
    };
    let class = copy(&config.worker_class.file, Kind::WorkerClass)?;
    let class_note = plugin::judge(&class, Kind::WorkerClass)?;
    let class_options = class_options(&config, class_note)?;
    let mut apps: Vec<Image> = Vec::new();
    let mut mounts = Vec::new();
    for mount in &config.mounts {
        let file = &mount.application.file;
        let image = match apps.iter().position(|image| image.original == *file) {
            Some(image) => image,
            None => {
                apps.push(copy(file, Kind::Application)?);
                apps.len() - 1
            }
        };
        let note = plugin::judge(&apps[image], Kind::Application)?;
        plugin::judge_needs(file, note, &config.worker_class.text, class_note)?;
        plugin::judge_name(&apps[image], note, &mount.application.name)?;
        mounts.push(MountedApp {
            prefix: mount.prefix.trim_end_matches('/').to_owned(),
            name: mount.application.name.clone(),
            settings: mount.settings.to_string(),
            image,
        });
    }
    let mut hooks = Vec::with_capacity(config.hooks.len());
    for file in &config.hooks {
        let image = copy(file, Kind::Hooks)?;
        plugin::judge(&image, Kind::Hooks)?;
        hooks.push(image);
    }
    Ok(Generation {
        number: task.generation,
        class,
        class_options,
        apps,
        mounts,
        hooks,
        directory: directory.to_owned(),
        config,
    })
}

/// What the class's options are: each from the note, as the operator set it or by default.
fn class_options(config: &Config, note: &Note) -> Result<Vec<(String, String)>, Refusal> {
    let class = &config.worker_class.text;
    let refuse = |sentence: String| Refusal::new(EXIT_SETTINGS, sentence);
    let options = note.options();
    for name in config.worker_options.keys() {
        if !options.iter().any(|option| option.name == *name) {
            let known: Vec<&str> = options.iter().map(|option| option.name.as_str()).collect();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has: {}", known.join(", "))
            };
            return Err(refuse(format!("the worker class {class} has no option '{name}'; {known}")));
        }
    }
    options
        .iter()
        .map(|option| {
            let value = config.worker_options.get(&option.name).unwrap_or(&option.default);
            let sound = match option.kind.as_str() {
                "integer" => value.parse::<u64>().is_ok(),
                "seconds" => value.parse::<f64>().is_ok_and(|seconds| seconds.is_finite() && seconds >= 0.0),
                "flag" => value.parse::<bool>().is_ok(),
                _ => true,
            };
            if sound {
                return Ok((option.name.clone(), value.clone()));
            }
            Err(refuse(format!(
                "the option '{}' of the worker class {class} cannot be '{value}': it takes {}",
                option.name,
                match option.kind.as_str() {
                    "integer" => "a whole number",
                    "seconds" => "a number of seconds",
                    _ => "true or false",
                }
            )))
        })
        .collect()
}

/// Stage 2.
fn attempt(task: &Task<'_>, generation: Generation, master: Pid) -> Result<(), Refusal> {
    crate::worker::become_worker_user(&generation.config, None, master)
        .map_err(|sentence| Refusal::new(EXIT_SETTINGS, sentence))?;
    let runtime = Runtime::for_probe(generation, task.slot);
    let generation = runtime.generation();
    plugin::note_panics(task.slot);
    crate::hooks::Hooks::open(runtime, Path::to_path_buf)?;
    task.slot.set_stage(&format!("loading {}", generation.class.original.display()));
    ClassPlugin::open(&generation.class, Path::to_path_buf)?;
    // A worker does exactly this; what only a live worker does (start, ready) is left out.
    let _apps = crate::worker::create_applications(runtime, Path::to_path_buf)?;
    if generation.config.preload {
        crate::template::refuse_threads(generation)
            .map_err(|sentence| Refusal::new(EXIT_APP_LOAD, sentence))?;
    }
    Ok(())
}
