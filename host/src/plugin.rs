//! Opening worker classes and applications: the only code of the host that loads a library.
//!
//! Runs in the probe and in workers, never in the master: glibc remembers libraries by path, a truncated file is a
//! SIGBUS in whoever maps it, and a library's constructors run inside of dlopen(3). What a newcomer would get wrong:
//! the sentences name the operator's file, never the private copy that is opened; and nothing is ever closed.
#![allow(unsafe_code, reason = "dlopen(3), and the tables behind the symbol that was found")]

mod c_door;

use std::error::Error as _;
use std::ffi::CString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rgunicorn_worker_api::abi::{
    self, APP_SYMBOL, AppHandle, AppHostHandle, AppModule_Ref, Bytes, HOOK_SYMBOL, HOST_FEATURES,
    HookModule_Ref, HookParts, HostObject, LogSink, MountList, MountParts, OUTCOME_UNKNOWN_NAME, Refusal,
    WORKER_SYMBOL, WorkerModule_Ref,
};

use crate::elf_note::Note;
use crate::error::{EXIT_APP_LOAD, EXIT_WORKER_BOOT};
use crate::image::Image;
use crate::logging;
use crate::runtime::AppFacts;
use crate::scoreboard::SlotWriter;

/// What a plugin file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Given with `-k`.
    WorkerClass,
    /// Given as `FILE:NAME`.
    Application,
    /// Given with `--hooks`.
    Hooks,
}

impl Kind {
    /// As sentences call it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::WorkerClass => "worker class",
            Self::Application => "application",
            Self::Hooks => "hook library",
        }
    }

    /// With its article.
    fn phrase(self) -> &'static str {
        match self {
            Self::WorkerClass => "a worker class",
            Self::Application => "an application",
            Self::Hooks => "a hook library",
        }
    }

    /// The note's word for it.
    fn word(self) -> &'static str {
        match self {
            Self::WorkerClass => "worker",
            Self::Application => "app",
            Self::Hooks => "hooks",
        }
    }

    /// The exit code when the file is at fault at the first start.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::WorkerClass => EXIT_WORKER_BOOT,
            Self::Application | Self::Hooks => EXIT_APP_LOAD,
        }
    }
}

/// Why a plugin cannot be used: one sentence for the operator, and what the loader said, for `--log-level debug`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct PluginError {
    sentence: String,
    /// The long text behind the sentence, if there is one.
    pub details: Option<String>,
    /// See [`crate::error`].
    pub exit_code: i32,
}

impl PluginError {
    fn new(kind: Kind, file: &Path, why: &str) -> Self {
        Self {
            sentence: format!("cannot load the {} {}: {why}", kind.noun(), file.display()),
            details: None,
            exit_code: kind.exit_code(),
        }
    }

    /// The file cannot even become an image.
    pub fn of_file(kind: Kind, file: &Path, why: &impl Display) -> Self {
        Self::new(kind, file, &why.to_string())
    }
}

/// The note's word for a library that was written against `rgunicorn.h`.
const C_DOOR: &str = "c";

/// What a note says its file is for; none for a kind that only a later version knows.
pub fn kind_of(note: &Note) -> Option<Kind> {
    let word = note.get("kind")?;
    [Kind::WorkerClass, Kind::Application, Kind::Hooks].into_iter().find(|kind| kind.word() == word)
}

/// Probe: judges a file by its note, without running a byte of it.
///
/// # Errors
/// It is no plugin, of the other kind, of another major version of the interface, or needs what this host lacks.
pub fn judge(image: &Image, kind: Kind) -> Result<&Note, PluginError> {
    judge_against(image, kind, (abi::ABI_MAJOR, abi::ABI_MINOR))
}

/// As [`judge`], for a host that speaks this version of the interface.
///
/// # Errors
/// As [`judge`].
pub fn judge_against(image: &Image, kind: Kind, host: (u32, u32)) -> Result<&Note, PluginError> {
    let (ours, minor) = host;
    let fail = |why: String| Err(PluginError::new(kind, &image.original, &why));
    let Some(note) = &image.note else {
        return fail(
            "it is a shared library, but not an rgunicorn plugin (it has no note .note.rgunicorn); build it with the \
             crate rgunicorn-worker-api and its export macro, or in C with rgunicorn.h and RGUNICORN_EXPORT"
                .to_owned(),
        );
    };
    let found = note.get("kind").unwrap_or_default();
    if found != kind.word() {
        return fail(match found {
            "worker" => format!("it is a worker class, not {}; give it to -k", kind.phrase()),
            "app" => format!("it is an application, not {}; give it as the APP argument", kind.phrase()),
            "hooks" => format!("it is a hook library, not {}; give it to --hooks", kind.phrase()),
            other => format!("its kind is '{other}', which this version does not know; upgrade rgunicorn"),
        });
    }
    let theirs = note.get("abi").unwrap_or_default();
    let major = theirs.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major != Some(ours) {
        return fail(format!(
            "it was built for version {theirs} of the plugin interface, and this rgunicorn speaks version \
             {ours}.{minor}; rebuild it with rgunicorn-worker-api {ours}.x or run it under a matching rgunicorn"
        ));
    }
    if kind != Kind::Application
        && let Some(need) = note.list("needs").find(|need| !HOST_FEATURES.contains(need))
    {
        return fail(format!(
            "it needs '{need}', which this rgunicorn ({}) does not have; upgrade rgunicorn",
            offer()
        ));
    }
    match (note.get("door"), kind) {
        (None, _) | (Some(C_DOOR), Kind::Application) => Ok(note),
        (Some(door), _) => fail(format!(
            "its door is '{door}', which this version does not know for this kind of plugin; upgrade rgunicorn"
        )),
    }
}

/// Probe: whether the worker class, or this host, offers what an application says that it needs.
///
/// # Errors
/// They do not; the sentence says what each offers.
pub fn judge_needs(file: &Path, note: &Note, class: &str, class_note: &Note) -> Result<(), PluginError> {
    let offered: Vec<&str> = class_note.list("features").collect();
    let missing = note.list("needs").find(|need| !offered.contains(need) && !HOST_FEATURES.contains(need));
    let Some(need) = missing else { return Ok(()) };
    let offered = if offered.is_empty() { "nothing of the kind".to_owned() } else { offered.join(", ") };
    let why = format!(
        "it needs '{need}', and neither the worker class {class} (which offers {offered}) nor this rgunicorn ({}) has \
         it; choose another worker class with -k, or upgrade rgunicorn",
        offer()
    );
    Err(PluginError::new(Kind::Application, file, &why))
}

/// What this host offers, for a sentence.
fn offer() -> String {
    if HOST_FEATURES.is_empty() {
        return format!("{}, which offers nothing by name", env!("CARGO_PKG_VERSION"));
    }
    format!("{}, which offers {}", env!("CARGO_PKG_VERSION"), HOST_FEATURES.join(", "))
}

/// Probe: whether the library holds an application of this name.
///
/// # Errors
/// It does not; the sentence lists those that are there.
pub fn judge_name(image: &Image, note: &Note, name: &str) -> Result<(), PluginError> {
    let names: Vec<&str> = note.list("apps").filter_map(|entry| entry.split(':').next()).collect();
    if names.contains(&name) {
        return Ok(());
    }
    Err(unknown_name(image, name, &names.join(", ")))
}

fn unknown_name(image: &Image, name: &str, there: &str) -> PluginError {
    let why =
        format!("it has no application named '{name}'; it has: {there}; write FILE:NAME with one of these");
    PluginError::new(Kind::Application, &image.original, &why)
}

/// Opens an image, what it brings first, and finds our symbol.
fn open(
    image: &Image,
    kind: Kind,
    symbol: &str,
    place: impl Fn(&Path) -> PathBuf,
) -> Result<*const (), PluginError> {
    for neighbour in &image.neighbours {
        // Never unloaded, as the plugin itself.
        std::mem::forget(load(image, &place(&neighbour.copy), &neighbour.original, kind)?);
    }
    let library = load(image, &place(&image.copy), &image.original, kind)?;
    let name = CString::new(symbol).expect("symbol names are constants without a zero");
    // SAFETY: only the address is taken here; `abi::load` judges what lies behind it.
    let found = unsafe { library.get::<*const ()>(name.as_c_str()) };
    let address = match found {
        Ok(found) => found.into_raw().cast_const().cast(),
        Err(_) => {
            let why = format!(
                "it has the note of {}, but not the symbol {symbol} that belongs to it; rebuild it, and keep its \
                 dynamic symbols",
                kind.phrase()
            );
            return Err(PluginError::new(kind, &image.original, &why));
        }
    };
    // A plugin is never unloaded: its code may be on any thread's stack, its statics anywhere.
    std::mem::forget(library);
    Ok(address)
}

fn load(image: &Image, copy: &Path, original: &Path, kind: Kind) -> Result<Library, PluginError> {
    // SAFETY: constructors of the library run here. The operator chose the file, this process exists to run it, and
    // it is not the master.
    let opened = unsafe { Library::open(Some(copy), RTLD_NOW | RTLD_LOCAL) };
    opened.map_err(|error| {
        // Display says only "dlopen failed"; the loader's text is the source, and names the copy.
        let text = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        let text = text.replace(&*copy.to_string_lossy(), &original.to_string_lossy());
        let prefix = format!("{}: ", image.original.display());
        let mut error = PluginError::new(
            kind,
            &image.original,
            &loader_says(text.strip_prefix(&prefix).unwrap_or(&text)),
        );
        error.details = Some(text);
        error
    })
}

/// What glibc's loader says, with the advice that belongs to it; words that are not known here stand as they are.
fn loader_says(text: &str) -> String {
    if let Some(symbol) = text.strip_prefix("undefined symbol: ") {
        let symbol = symbol.split(',').next().unwrap_or(symbol);
        return format!(
            "it needs the symbol '{symbol}', which neither it nor a library that it names has; link the library that \
             defines it, or rebuild the plugin"
        );
    }
    if let Some((library, _)) = text.split_once(": cannot open shared object file: No such file or directory")
    {
        return format!(
            "it needs the library {library}, which is not where it or the system looks; install that library or set \
             the plugin's RUNPATH"
        );
    }
    if text.contains("static TLS") {
        return format!(
            "its thread-local storage of the initial-exec model does not fit any more ({text}); build it, or the \
             library that brings it, with -ftls-model=global-dynamic, or start rgunicorn with \
             GLIBC_TUNABLES=glibc.rtld.optional_static_tls=65536"
        );
    }
    format!("the loader says: {text}")
}

fn refused(image: &Image, kind: Kind, refusal: Refusal) -> PluginError {
    let (why, details) = match refusal {
        Refusal::Header(text) => (
            format!(
                "what its symbol leads to is not an interface of rgunicorn-worker-api {}.x; rebuild it with that crate",
                abi::ABI_MAJOR
            ),
            text,
        ),
        Refusal::Version(theirs, ours) => (
            format!("it was built with rgunicorn-worker-api {theirs}, and this rgunicorn with {ours}; rebuild it"),
            String::new(),
        ),
        Refusal::Layout(text) => (
            "its interface is neither an older nor a newer form of this rgunicorn's; rebuild it with a released \
             rgunicorn-worker-api 1.x"
                .to_owned(),
            text,
        ),
        Refusal::Constructor(text) => ("its module could not be made; rebuild it".to_owned(), text),
    };
    let mut error = PluginError::new(kind, &image.original, &why);
    error.details = Some(details).filter(|details| !details.is_empty());
    error
}

/// A worker class that was opened.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a table of functions")]
pub struct ClassPlugin {
    module: WorkerModule_Ref,
}

impl ClassPlugin {
    /// Probe, Worker: opens the library where `place` says its copy is, and connects its log.
    ///
    /// # Errors
    /// The loader refuses it, or it is not what its note says.
    pub fn open(image: &Image, place: impl Fn(&Path) -> PathBuf) -> Result<Self, PluginError> {
        let symbol = open(image, Kind::WorkerClass, WORKER_SYMBOL, place)?;
        // SAFETY: the symbol of a library whose note says that the export macro of this kind wrote it; the library is
        // never unloaded.
        let module = unsafe { abi::load::<WorkerModule_Ref>(symbol) }
            .map_err(|refusal| refused(image, Kind::WorkerClass, refusal))?;
        module.attach()(log_sink(forward));
        let plugin = Self { module };
        connect_level(plugin.module.set_log_level());
        Ok(plugin)
    }

    /// Child: what the class calls itself, with its version.
    pub fn says(&self) -> String {
        let parts = self.module.descriptor()();
        format!("{} {}", words(parts.name), words(parts.version))
    }

    /// Worker: serves; returns when the worker shall leave.
    ///
    /// # Errors
    /// What the class says, as one sentence.
    pub fn run(&self, host: HostObject, mounts: &'static [MountParts]) -> Result<(), String> {
        let list = MountList { ptr: mounts.as_ptr(), len: mounts.len() };
        let call = self.module.run();
        // SAFETY: host and mounts live as long as the process.
        let outcome = unsafe { call(host, list) };
        if outcome.code == 0 { Ok(()) } else { Err(outcome.message.into_string()) }
    }
}

/// A library of applications that was opened.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a table of functions")]
pub struct AppPlugin {
    door: Door,
}

/// How a library's applications are made; afterwards nobody can tell.
#[derive(Clone, Copy)]
enum Door {
    Rust(AppModule_Ref),
    C(c_door::Library),
}

impl AppPlugin {
    /// Probe, Worker: opens the library where `place` says its copy is, and connects its log.
    ///
    /// # Errors
    /// The loader refuses it, or it is not what its note says.
    pub fn open(image: &Image, place: impl Fn(&Path) -> PathBuf) -> Result<Self, PluginError> {
        if image.note.as_ref().and_then(|note| note.get("door")) == Some(C_DOOR) {
            return Self::open_c(image, place);
        }
        let symbol = open(image, Kind::Application, APP_SYMBOL, place)?;
        // SAFETY: the symbol of a library whose note says that the export macro of this kind wrote it; the library is
        // never unloaded.
        let module = unsafe { abi::load::<AppModule_Ref>(symbol) }
            .map_err(|refusal| refused(image, Kind::Application, refusal))?;
        module.attach()(log_sink(forward_of_application));
        connect_level(module.set_log_level());
        Ok(Self { door: Door::Rust(module) })
    }

    /// As `open`, through the C door, whose libraries log through the host and so need not be connected.
    fn open_c(image: &Image, place: impl Fn(&Path) -> PathBuf) -> Result<Self, PluginError> {
        let symbol = open(image, Kind::Application, c_door::SYMBOL, place)?;
        let name = image.note.as_ref().and_then(|note| note.get("name")).unwrap_or_default();
        // SAFETY: the symbol of a library whose note says that it was made for this door; the library is never
        // unloaded.
        let library = unsafe { c_door::Library::open(symbol, name) }
            .map_err(|why| PluginError::new(Kind::Application, &image.original, &why))?;
        Ok(Self { door: Door::C(library) })
    }

    /// Child: the applications that the library says it has, each with how it runs.
    pub fn says(&self) -> Vec<String> {
        let module = match self.door {
            Door::Rust(module) => module,
            Door::C(library) => return library.says(),
        };
        // A library of another version of the interface may be without it.
        let Some(entries) = module.entries() else { return Vec::new() };
        let list = entries();
        if list.ptr.is_null() {
            return Vec::new();
        }
        // SAFETY: the contract of `entries`: so many constants of a library that is never unloaded.
        let entries = unsafe { std::slice::from_raw_parts(list.ptr, list.len) };
        entries.iter().map(|entry| format!("{} ({})", words(entry.name), running(entry.execution))).collect()
    }

    /// Probe, Worker: makes the named application.
    ///
    /// # Errors
    /// What the application says, a panic, or an unknown name.
    pub fn create(
        &self,
        image: &Image,
        name: &str,
        host: AppHostHandle<'static>,
    ) -> Result<AppHandle<'static>, PluginError> {
        let created = match self.door {
            Door::Rust(module) => create(module, name, host),
            Door::C(library) => library.create(name, host),
        };
        match created {
            Some(created) => created.map_err(|why| failed(image, name, "failed to load", &why)),
            None => Err(unknown_name(image, name, "none of that name, whatever its note says")),
        }
    }
}

/// How an application runs, for people.
fn running(execution: u32) -> &'static str {
    match execution {
        abi::EXECUTION_BLOCKING => "blocking",
        abi::EXECUTION_INLINE => "inline",
        abi::EXECUTION_ASYNC => "async",
        _ => "of an unknown kind",
    }
}

/// Makes an application through the Rust door; `None` if there is none of that name.
fn create(
    module: AppModule_Ref,
    name: &str,
    host: AppHostHandle<'static>,
) -> Option<Result<AppHandle<'static>, String>> {
    let call = module.create();
    // SAFETY: the name is lent for the call, the host lives as long as the process.
    let created = unsafe { call(Bytes::new(name.as_bytes()), host.object()) };
    match created.outcome.code {
        // SAFETY: a live object; the host destroys it after its last use and only then.
        0 => Some(Ok(unsafe { AppHandle::new(created.app) })),
        OUTCOME_UNKNOWN_NAME => None,
        _ => Some(Err(created.outcome.message.into_string())),
    }
}

/// A library of hooks that was opened.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a table of functions")]
pub struct HookPlugin {
    module: HookModule_Ref,
}

impl HookPlugin {
    /// Probe, Template, Worker: opens the library where `place` says its copy is, and connects its log.
    ///
    /// # Errors
    /// The loader refuses it, or it is not what its note says.
    pub fn open(image: &Image, place: impl Fn(&Path) -> PathBuf) -> Result<Self, PluginError> {
        // An application may have its hooks with it.
        let beside =
            image.note.as_ref().is_some_and(|note| note.get("kind") == Some(Kind::Application.word()));
        let kind = if beside { Kind::Application } else { Kind::Hooks };
        let symbol = open(image, kind, HOOK_SYMBOL, place)?;
        // SAFETY: the symbol of a library whose note says that the export macro of this kind wrote it; the library is
        // never unloaded.
        let module = unsafe { abi::load::<HookModule_Ref>(symbol) }
            .map_err(|refusal| refused(image, kind, refusal))?;
        module.attach()(log_sink(forward_of_application));
        connect_level(module.set_log_level());
        Ok(Self { module })
    }

    /// A bit for each hook that it has.
    pub fn present(&self) -> u64 {
        self.module.hooks()()
    }

    /// Worker: runs a hook.
    ///
    /// # Errors
    /// What the hook says, a panic included.
    pub fn call(&self, hook: u32, numbers: &[u64], texts: &[Bytes]) -> Result<(), String> {
        let call = self.module.call();
        let parts = HookParts {
            numbers: numbers.as_ptr(),
            numbers_len: numbers.len(),
            texts: texts.as_ptr(),
            texts_len: texts.len(),
        };
        // SAFETY: the lists, and the octets behind the texts, are lent for the call.
        let outcome = unsafe { call(hook, parts) };
        if outcome.code == 0 { Ok(()) } else { Err(outcome.message.into_string()) }
    }
}

/// A plugin's own text, for people.
fn words(text: Bytes) -> String {
    // SAFETY: called for constants of a library that is never unloaded.
    let text = unsafe { text.as_slice() };
    String::from_utf8_lossy(text).into_owned()
}

/// The sentence for an application that refused to be created, started or made ready.
pub fn failed(image: &Image, name: &str, what: &str, why: &str) -> PluginError {
    PluginError {
        sentence: format!("the application {}:{name} {what}: {why}", image.original.display()),
        details: None,
        exit_code: EXIT_APP_LOAD,
    }
}

/// The sentence for a hook that refused.
pub fn hook_failed(image: &Image, hook: &str, why: &str) -> PluginError {
    PluginError {
        sentence: format!("the hook {hook} of {} failed: {why}", image.original.display()),
        details: None,
        exit_code: EXIT_APP_LOAD,
    }
}

/// Probe, Worker: the worker as an application sees it.
pub fn app_host(facts: &'static AppFacts) -> AppHostHandle<'static> {
    // SAFETY: made from a reference that lives as long as the process.
    unsafe { AppHostHandle::new(abi::app_host_object(facts)) }
}

/// Worker: frees an application; the last use of it.
pub fn destroy(app: AppHandle<'static>) {
    // SAFETY: called once for each application, after the class returned and `shutdown` was called.
    unsafe { app.destroy() }
}

/// Where a panic is noted while a process boots, so that the one line about the failed boot can carry it.
static LAST_WORDS: Mutex<Option<SlotWriter>> = Mutex::new(None);

/// Probe, Worker: from now on a panic's text is left on the scoreboard, and logged at debug only.
pub fn note_panics(slot: SlotWriter) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = Some(slot);
}

/// Worker: the boot is over; a panic is logged as an error again.
pub fn log_panics() {
    if let Some(slot) = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).take() {
        slot.set_message("");
    }
}

/// How each library that was opened is told the level from which on it logs.
static LEVELS: Mutex<Vec<extern "C" fn(u32)>> = Mutex::new(Vec::new());

fn connect_level(set: extern "C" fn(u32)) {
    let mut levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    set(log::max_level() as u32);
    levels.push(set);
}

/// Worker: changes from which level on this process logs, and all libraries in it.
pub fn set_log_level(level: logging::LogLevel) {
    // The lock is held, so that a library that is just being opened gets the one level or the other.
    let levels = LEVELS.lock().unwrap_or_else(PoisonError::into_inner);
    logging::set_level(level);
    for set in levels.iter() {
        set(log::max_level() as u32);
    }
}

/// The function of a sink: level, target, file, line, message.
type Forward = extern "C" fn(abi::Opaque, u32, Bytes, Bytes, u32, Bytes);

fn log_sink(log: Forward) -> LogSink {
    LogSink { this: std::ptr::null_mut(), log }
}

/// Takes a log line of a worker class into the host's log, as it is: it is the server that speaks.
extern "C" fn forward(_: abi::Opaque, level: u32, target: Bytes, file: Bytes, line: u32, message: Bytes) {
    take_line(level, target, file, line, message, |_| false);
}

/// Takes a log line of an application into the host's log, after the target that it is about.
extern "C" fn forward_of_application(
    _: abi::Opaque,
    level: u32,
    target: Bytes,
    file: Bytes,
    line: u32,
    message: Bytes,
) {
    // Panics, and what the interface says in an application's name, are sentences by themselves.
    let is_its_own = |target: &str| target != "panic" && !target.starts_with("rgunicorn_worker_api");
    take_line(level, target, file, line, message, is_its_own);
}

fn take_line(
    level: u32,
    target: Bytes,
    file: Bytes,
    line: u32,
    message: Bytes,
    is_shown: impl FnOnce(&str) -> bool,
) {
    let level = match level {
        1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        4 => log::Level::Debug,
        _ => log::Level::Trace,
    };
    // SAFETY: the three texts are lent for the call, by the contract of `LogSink`.
    let [target, file, message] = [target, file, message].map(|text| unsafe { text.as_slice() });
    let (target, file) = (String::from_utf8_lossy(target), String::from_utf8_lossy(file));
    let message = String::from_utf8_lossy(message);
    let mut level = level;
    if target == "panic"
        && let Some(slot) = *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner)
    {
        slot.set_message(&message);
        level = log::Level::Debug;
    }
    if level > log::max_level() {
        return;
    }
    let (shown, colon) = if is_shown(&target) { (&*target, ": ") } else { ("", "") };
    log::logger().log(
        &log::Record::builder()
            .level(level)
            .target(&target)
            .file(Some(&file))
            .line(Some(line))
            .args(format_args!("{shown}{colon}{message}"))
            .build(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_application_needs_is_looked_for_in_its_class_and_in_the_host() {
        let note = |text: &str| Note::parse(text);
        let class = note("kind=worker\nabi=1.0\nfeatures=keep-alive,take-over,");
        let judge = |needs: &str, class: &Note| {
            let app = note(&format!("kind=app\nabi=1.0\nneeds={needs}"));
            judge_needs(Path::new("/x/app.so"), &app, "poll", class).map_err(|error| error.to_string())
        };
        for there in ["", "take-over", "keep-alive, take-over,"] {
            assert_eq!(judge(there, &class), Ok(()), "{there}");
        }
        let says = judge("take-over,time-travel", &class).unwrap_err();
        let begins = "cannot load the application /x/app.so: it needs 'time-travel', and neither the worker class poll \
                      (which offers keep-alive, take-over) nor this rgunicorn (";
        assert!(says.starts_with(begins), "{says}");
        assert!(
            says.ends_with(" has it; choose another worker class with -k, or upgrade rgunicorn"),
            "{says}"
        );
        let bare = note("kind=worker\nabi=1.0\nfeatures=");
        assert!(judge("take-over", &bare).unwrap_err().contains("(which offers nothing of the kind)"));
    }
}
