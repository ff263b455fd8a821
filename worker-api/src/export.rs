//! Making a library a plugin: the export macros, the panic fence, the log bridge.
//!
//! Each library has its own copy of `log`'s statics and of the panic hook; `attach` connects them to the host. A
//! newcomer might catch a panic and lose its text: the hook runs first and has logged it, with its place, from
//! the library where it happened, also under `panic = "abort"`.
#![allow(unsafe_code, reason = "reads what crosses the interface and builds the exported tables")]

use crate::abi::{
    self, AppHostHandle, AppHostObject, AppModule, AppModule_Ref, AppObject, Bytes, Constructed, Created,
    DescriptorParts, EntryList, EntryParts, HookModule, HookModule_Ref, HookParts, HostHandle, HostObject,
    LibHeader, LogSink, MountList, OptionList, OptionParts, Outcome, RString, WithMetadata, WorkerModule,
    WorkerModule_Ref, staticref,
};
use crate::app::{App, Application, Execution, WorkerFacts};
use crate::error::Error;
use crate::hooks::Event;
use crate::worker::{Host, OptionSpec, WorkerClass, applications};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::OnceLock;

// ---------------------------------------------------------------------------------------------------
// The fence.

thread_local! {
    /// The text of the panic that is unwinding this thread, from the hook to the fence.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `call` and stops a panic here.
///
/// # Errors
/// The panic's message and place.
pub fn fence<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        let text = LAST_PANIC
            .try_with(|last| last.try_borrow_mut().ok().and_then(|mut last| last.take()))
            .ok()
            .flatten()
            .unwrap_or_else(|| message_of(payload.as_ref()).to_owned());
        // A payload whose own drop panics is leaked rather than let through.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(second);
        }
        text
    })
}

fn message_of(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

fn hook(panic: &PanicHookInfo<'_>) {
    let message = message_of(panic.payload());
    let text = match panic.location() {
        Some(place) => format!("panicked at {place}: {message}"),
        None => format!("panicked: {message}"),
    };
    log::error!(target: "panic", "{text}");
    // A thread that is being torn down has no slot left; the line above was written all the same.
    let _ = LAST_PANIC.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = Some(text);
        }
    });
}

// ---------------------------------------------------------------------------------------------------
// The log bridge.

struct Forwarder(LogSink);

// SAFETY: the sink's function may be called from any thread, and its object lives as long as the process, by the
// contract of `LogSink`.
unsafe impl Send for Forwarder {}
// SAFETY: as for Send.
unsafe impl Sync for Forwarder {}

impl log::Log for Forwarder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        let whole;
        let message = match record.args().as_str() {
            Some(message) => message,
            None => {
                whole = record.args().to_string();
                &whole
            }
        };
        (self.0.log)(
            self.0.this,
            record.level() as u32,
            Bytes::new(record.target().as_bytes()),
            Bytes::new(record.file().unwrap_or_default().as_bytes()),
            record.line().unwrap_or(0),
            Bytes::new(message.as_bytes()),
        );
    }

    fn flush(&self) {}
}

static FORWARDER: OnceLock<Forwarder> = OnceLock::new();

extern "C" fn attach(sink: LogSink) {
    // Fails only if a constructor of the library has already set a logger of its own: its choice stands.
    let _ = log::set_logger(FORWARDER.get_or_init(|| Forwarder(sink)));
    std::panic::set_hook(Box::new(hook));
}

/// As `attach`, for libraries of applications, which may write to the log in another way too.
extern "C" fn attach_app(sink: LogSink) {
    attach(sink);
    #[cfg(feature = "tracing")]
    crate::sdk::trace::install();
}

extern "C" fn set_log_level(level: u32) {
    log::set_max_level(match level {
        0 => log::LevelFilter::Off,
        1 => log::LevelFilter::Error,
        2 => log::LevelFilter::Warn,
        3 => log::LevelFilter::Info,
        4 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    });
}

unsafe extern "C" fn no_extension(_: Bytes) -> *const () {
    std::ptr::null()
}

// ---------------------------------------------------------------------------------------------------
// Applications.

/// A library of applications; [`crate::export_app!`] implements it.
pub trait AppLibrary {
    /// The applications, in the order of the macro.
    const ENTRIES: &'static [EntryParts];
    /// Makes the named application; `None` if there is none.
    fn create(name: &[u8], facts: &WorkerFacts<'_>) -> Option<Result<App, Error>>;
}

/// An entry of [`AppLibrary::ENTRIES`].
#[must_use]
pub const fn entry(name: &'static str, execution: Execution) -> EntryParts {
    EntryParts { name: Bytes::new(name.as_bytes()), execution: execution as u32 }
}

/// The exported symbol of a library of applications.
#[derive(Debug)]
pub struct AppExport<L>(PhantomData<L>);

impl<L: AppLibrary + 'static> AppExport<L> {
    staticref!(const MODULE: WithMetadata<AppModule> = WithMetadata::new(AppModule {
        attach: attach_app,
        set_log_level,
        entries: Self::entries,
        create: Self::create,
        get_extension: no_extension,
    }));

    /// The value of the symbol.
    #[must_use]
    pub const fn header() -> LibHeader {
        // SAFETY: `construct` returns the module of this kind, erased.
        unsafe { abi::header::<AppModule_Ref>(Self::construct) }
    }

    extern "C" fn construct() -> Constructed {
        abi::construct(|| AppModule_Ref(Self::MODULE.as_prefix()))
    }

    extern "C" fn entries() -> EntryList {
        EntryList { ptr: L::ENTRIES.as_ptr(), len: L::ENTRIES.len() }
    }

    unsafe extern "C" fn create(name: Bytes, host: AppHostObject) -> Created {
        // SAFETY: lent for the call, by the contract of `create`.
        let name = unsafe { name.as_slice() };
        // SAFETY: valid for the life of the process, by the contract of `create`.
        let facts = WorkerFacts::to_create(unsafe { AppHostHandle::new(host) }, name);
        let refused = |outcome| Created {
            outcome,
            app: AppObject { this: std::ptr::null_mut(), table: abi::app_table::<App>() },
        };
        match fence(|| L::create(name, &facts)) {
            Ok(Some(Ok(app))) => {
                let declared = L::ENTRIES.iter().find(|entry| {
                    // SAFETY: a constant of this library.
                    unsafe { entry.name.as_slice() == name }
                });
                let execution = app.execution();
                if declared.is_some_and(|entry| entry.execution != execution as u32) {
                    return refused(Outcome::of(Err(Error::new(format!(
                        "the application is {}, but export_app! declares another kind; make the two agree",
                        execution.as_str()
                    )))));
                }
                Created { outcome: Outcome::of(Ok(())), app: abi::app_object(app) }
            }
            Ok(Some(Err(error))) => refused(Outcome::of(Err(error))),
            Ok(None) => refused(Outcome { code: abi::OUTCOME_UNKNOWN_NAME, message: RString::new() }),
            Err(panic) => refused(Outcome::panicked(&panic)),
        }
    }
}

/// Exports applications from a library: name, kind (`blocking`, `inline` or `async`) and the function that makes
/// each, `fn(&WorkerFacts<'_>) -> Result<App, Error>`.
///
/// What the applications cannot do without may follow as a list of words, `needs = "take-over"`: a feature of worker
/// classes, or one of [`HOST_FEATURES`](crate::abi::HOST_FEATURES). Where neither the class nor the host offers it
/// the library is refused before it is loaded.
///
/// ```
/// use rgunicorn_worker_api::prelude::*;
///
/// export_app! { "app": blocking = app, "ping": inline = ping, needs = "keep-alive" }
///
/// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
///     Ok(App::blocking(|_, response| Ok(response.respond(204, NO_FIELDS, b"")?)))
/// }
///
/// fn ping(_: &WorkerFacts<'_>) -> Result<App, Error> {
///     Ok(App::inline(|_, response| Ok(response.respond(200, NO_FIELDS, b"pong")?)))
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_app {
    ($($name:literal : $kind:ident = $create:expr),+ $(, needs = $needs:literal)? $(,)?) => {
        const _: () = {
            struct Library;

            impl $crate::export::AppLibrary for Library {
                const ENTRIES: &'static [$crate::abi::EntryParts] =
                    &[$($crate::export::entry($name, $crate::__execution!($kind))),+];

                fn create(
                    name: &[u8],
                    facts: &$crate::app::WorkerFacts<'_>,
                ) -> Option<Result<$crate::app::App, $crate::error::Error>> {
                    $(if name == $name.as_bytes() {
                        return Some($create(facts));
                    })+
                    None
                }
            }

            #[allow(unsafe_code, reason = "the one symbol that a host looks up")]
            #[unsafe(no_mangle)]
            pub static RGUNICORN_APP_V1: $crate::abi::LibHeader = $crate::export::AppExport::<Library>::header();

            $crate::__note! {
                &[
                    "kind=app\nname=", env!("CARGO_PKG_NAME"), "\nversion=", env!("CARGO_PKG_VERSION"),
                    "\nabi=", $crate::note::ABI, "\nrustc=", $crate::note::RUSTC,
                    "\ntarget=", $crate::note::TARGET,
                    "\npanic=", if cfg!(panic = "abort") { "abort" } else { "unwind" },
                    "\napps=", $($name, ":", $crate::__execution!($kind).as_str(), ",",)+
                    $("\nneeds=", $needs,)? "\n",
                ],
                &[]
            }
        };
    };
}

/// The kind behind its word in the macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __execution {
    (blocking) => {
        $crate::app::Execution::Blocking
    };
    (inline) => {
        $crate::app::Execution::Inline
    };
    (async) => {
        $crate::app::Execution::Async
    };
    ($other:ident) => {
        compile_error!("an application is `blocking`, `inline` or `async`")
    };
}

/// The note with these parts and options.
#[doc(hidden)]
#[macro_export]
macro_rules! __note {
    ($parts:expr, $options:expr) => {
        const PARTS: &[&str] = $parts;
        const OPTIONS: &[$crate::worker::OptionSpec] = $options;
        const LENGTH: usize = $crate::note::padded($crate::note::length(PARTS, OPTIONS));

        #[allow(unsafe_code, reason = "the section that tools read without running the library")]
        #[unsafe(link_section = ".note.rgunicorn")]
        #[used]
        static NOTE: $crate::note::Block<LENGTH> = $crate::note::block(PARTS, OPTIONS);
    };
}

// ---------------------------------------------------------------------------------------------------
// Worker classes.

/// The exported symbol of a worker class.
#[derive(Debug)]
pub struct WorkerExport<C>(PhantomData<C>);

/// The crossing form of an option.
#[must_use]
pub const fn option_parts(option: &'static OptionSpec) -> OptionParts {
    OptionParts {
        name: Bytes::new(option.name.as_bytes()),
        kind: option.kind.code(),
        default: Bytes::new(option.default.as_bytes()),
        help: Bytes::new(option.help.as_bytes()),
    }
}

/// A worker class and its version; [`crate::export_worker!`] implements it.
pub trait ClassLibrary {
    /// The class.
    type Class: WorkerClass;
    /// The version of its crate.
    const VERSION: &'static str;
    /// The options in their crossing form.
    const OPTIONS: &'static [OptionParts];
}

impl<L: ClassLibrary + 'static> WorkerExport<L> {
    staticref!(const MODULE: WithMetadata<WorkerModule> = WithMetadata::new(WorkerModule {
        attach,
        set_log_level,
        descriptor: Self::descriptor,
        options: Self::options,
        run: Self::run,
        get_extension: no_extension,
    }));

    /// The value of the symbol.
    pub const fn header() -> LibHeader {
        // SAFETY: `construct` returns a WorkerModule_Ref, erased.
        unsafe { abi::header::<WorkerModule_Ref>(Self::construct) }
    }

    extern "C" fn construct() -> Constructed {
        abi::construct(|| WorkerModule_Ref(Self::MODULE.as_prefix()))
    }

    extern "C" fn descriptor() -> DescriptorParts {
        DescriptorParts {
            name: Bytes::new(L::Class::NAME.as_bytes()),
            version: Bytes::new(L::VERSION.as_bytes()),
            features: L::Class::FEATURES.0,
            max_connections: L::Class::MAX_CONNECTIONS,
        }
    }

    extern "C" fn options() -> OptionList {
        OptionList { ptr: L::OPTIONS.as_ptr(), len: L::OPTIONS.len() }
    }

    unsafe extern "C" fn run(host: HostObject, mounts: MountList) -> Outcome {
        // SAFETY: valid for the life of the process, by the contract of `run`.
        let host = Host::new(unsafe { HostHandle::new(host) });
        let apps = applications(mounts);
        fence(|| Outcome::of(L::Class::run(host, apps))).unwrap_or_else(|panic| Outcome::panicked(&panic))
    }
}

/// The words of a class's features, for the note.
#[doc(hidden)]
#[must_use]
pub const fn feature_words<C: WorkerClass>() -> [&'static str; 4] {
    C::FEATURES.words()
}

/// The crossing form of a class's options.
#[doc(hidden)]
#[must_use]
pub const fn options_of<C: WorkerClass, const N: usize>() -> [OptionParts; N] {
    let mut parts =
        [OptionParts { name: Bytes::ABSENT, kind: 0, default: Bytes::ABSENT, help: Bytes::ABSENT }; N];
    let mut index = 0;
    while index < N {
        parts[index] = option_parts(&C::OPTIONS[index]);
        index += 1;
    }
    parts
}

/// Exports a worker class from a library: the type that implements [`WorkerClass`], and the version of the HTTP
/// crate that it carries, if any. What it needs of its host may follow, as in [`crate::export_app!`].
///
/// ```
/// use rgunicorn_worker_api::error::Error;
/// use rgunicorn_worker_api::export_worker;
/// use rgunicorn_worker_api::worker::{Applications, Features, Host, State, WorkerClass};
///
/// export_worker! { Deaf, http1 = "0.1.0" }
///
/// /// Serves nobody, and leaves when it is told to.
/// struct Deaf;
///
/// impl WorkerClass for Deaf {
///     const NAME: &'static str = "deaf";
///     const FEATURES: Features = Features::NONE;
///
///     fn run(host: Host, _: Applications) -> Result<(), Error> {
///         let mut state = host.ready();
///         while state == State::Running {
///             host.tick_idle();
///             std::thread::sleep(std::time::Duration::from_millis(100));
///             state = host.state();
///         }
///         Ok(())
///     }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_worker {
    ($class:ty $(,)?) => {
        $crate::export_worker! { $class, http1 = "" }
    };
    ($class:ty, http1 = $http1:expr $(, needs = $needs:literal)? $(,)?) => {
        const _: () = {
            struct Library;

            impl $crate::export::ClassLibrary for Library {
                type Class = $class;
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");
                const OPTIONS: &'static [$crate::abi::OptionParts] = &$crate::export::options_of::<
                    $class,
                    { <$class as $crate::worker::WorkerClass>::OPTIONS.len() },
                >();
            }

            #[allow(unsafe_code, reason = "the one symbol that a host looks up")]
            #[unsafe(no_mangle)]
            pub static RGUNICORN_WORKER_V1: $crate::abi::LibHeader =
                $crate::export::WorkerExport::<Library>::header();

            const WORDS: [&str; 4] = $crate::export::feature_words::<$class>();

            $crate::__note! {
                &[
                    "kind=worker\nname=", env!("CARGO_PKG_NAME"), "\nversion=", env!("CARGO_PKG_VERSION"),
                    "\nabi=", $crate::note::ABI, "\nhttp1=", $http1, "\nrustc=", $crate::note::RUSTC,
                    "\ntarget=", $crate::note::TARGET,
                    "\npanic=", if cfg!(panic = "abort") { "abort" } else { "unwind" },
                    "\nclass=", <$class as $crate::worker::WorkerClass>::NAME,
                    "\nfeatures=", WORDS[0], WORDS[1], WORDS[2], WORDS[3], $("\nneeds=", $needs,)? "\n",
                ],
                <$class as $crate::worker::WorkerClass>::OPTIONS
            }
        };
    };
}

// ---------------------------------------------------------------------------------------------------
// Hooks.

/// A library of hooks; [`crate::export_hooks!`] implements it.
pub trait HookLibrary {
    /// A bit for each hook.
    const HOOKS: u64;
    /// Runs one of them.
    ///
    /// # Errors
    /// What the hook says.
    fn call(hook: u32, event: &Event<'_>) -> Result<(), Error>;
}

/// The exported symbol of a library of hooks.
#[derive(Debug)]
pub struct HookExport<L>(PhantomData<L>);

impl<L: HookLibrary + 'static> HookExport<L> {
    staticref!(const MODULE: WithMetadata<HookModule> = WithMetadata::new(HookModule {
        attach,
        set_log_level,
        hooks: Self::hooks,
        call: Self::call,
        get_extension: no_extension,
    }));

    /// The value of the symbol.
    #[must_use]
    pub const fn header() -> LibHeader {
        // SAFETY: `construct` returns a HookModule_Ref, erased.
        unsafe { abi::header::<HookModule_Ref>(Self::construct) }
    }

    extern "C" fn construct() -> Constructed {
        abi::construct(|| HookModule_Ref(Self::MODULE.as_prefix()))
    }

    extern "C" fn hooks() -> u64 {
        L::HOOKS
    }

    unsafe extern "C" fn call(hook: u32, parts: HookParts) -> Outcome {
        let mut event = Event::default();
        for (index, number) in event.numbers.iter_mut().enumerate().take(parts.numbers_len) {
            // SAFETY: so many numbers lie there, by the contract of `call`.
            let place = unsafe { parts.numbers.add(index) };
            // SAFETY: as above.
            *number = unsafe { place.read() };
        }
        for (index, text) in event.texts.iter_mut().enumerate().take(parts.texts_len) {
            // SAFETY: so many texts lie there, by the contract of `call`.
            let place = unsafe { parts.texts.add(index) };
            // SAFETY: as above.
            let lent = unsafe { place.read() };
            // SAFETY: lent for the call, and `event` does not outlive it.
            *text = unsafe { lent.as_slice() };
        }
        fence(|| Outcome::of(L::call(hook, &event))).unwrap_or_else(|panic| Outcome::panicked(&panic))
    }
}

/// Exports hooks from a library: which, and the function of each, `fn(&Event<'_>) -> Result<(), Error>`. Their names and
/// what they mean: [`crate::hooks`]. It may stand beside [`crate::export_app!`]: the application has them with it then.
///
/// ```
/// use rgunicorn_worker_api::prelude::*;
///
/// export_hooks! { post_fork = begun, post_request = served }
///
/// fn begun(event: &Event<'_>) -> Result<(), Error> {
///     log::info!("worker {} is there", event.age());
///     Ok(())
/// }
///
/// fn served(event: &Event<'_>) -> Result<(), Error> {
///     log::debug!("{} in {:?}", event.status(), event.duration());
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_hooks {
    ($($hook:ident = $call:expr),+ $(,)?) => {
        const _: () = {
            struct Library;

            impl $crate::export::HookLibrary for Library {
                const HOOKS: u64 = $(1 << $crate::__hook!($hook))|+;

                fn call(hook: u32, event: &$crate::hooks::Event<'_>) -> Result<(), $crate::error::Error> {
                    $(if hook == $crate::__hook!($hook) {
                        return $call(event);
                    })+
                    Ok(())
                }
            }

            #[allow(unsafe_code, reason = "the one symbol that a host looks up")]
            #[unsafe(no_mangle)]
            pub static RGUNICORN_HOOKS_V1: $crate::abi::LibHeader =
                $crate::export::HookExport::<Library>::header();

            $crate::__note! {
                &[
                    "kind=hooks\nname=", env!("CARGO_PKG_NAME"), "\nversion=", env!("CARGO_PKG_VERSION"),
                    "\nabi=", $crate::note::ABI, "\nrustc=", $crate::note::RUSTC,
                    "\ntarget=", $crate::note::TARGET,
                    "\npanic=", if cfg!(panic = "abort") { "abort" } else { "unwind" },
                    "\nhooks=", $(stringify!($hook), ",",)+ "\n",
                ],
                &[]
            }
        };
    };
}

/// The number behind a hook's name in the macro.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (post_fork) => {
        $crate::abi::HOOK_POST_FORK
    };
    (post_worker_init) => {
        $crate::abi::HOOK_POST_WORKER_INIT
    };
    (worker_int) => {
        $crate::abi::HOOK_WORKER_INT
    };
    (worker_abort) => {
        $crate::abi::HOOK_WORKER_ABORT
    };
    (worker_exit) => {
        $crate::abi::HOOK_WORKER_EXIT
    };
    (pre_request) => {
        $crate::abi::HOOK_PRE_REQUEST
    };
    (post_request) => {
        $crate::abi::HOOK_POST_REQUEST
    };
    (on_starting) => {
        $crate::abi::HOOK_ON_STARTING
    };
    (when_ready) => {
        $crate::abi::HOOK_WHEN_READY
    };
    (on_reload) => {
        $crate::abi::HOOK_ON_RELOAD
    };
    (child_exit) => {
        $crate::abi::HOOK_CHILD_EXIT
    };
    (nworkers_changed) => {
        $crate::abi::HOOK_NWORKERS_CHANGED
    };
    (on_exit) => {
        $crate::abi::HOOK_ON_EXIT
    };
    (pre_fork) => {
        $crate::abi::HOOK_PRE_FORK
    };
    (pre_exec) => {
        $crate::abi::HOOK_PRE_EXEC
    };
    ($other:ident) => {
        compile_error!(concat!("there is no hook '", stringify!($other), "'; docs/HOOKS.md lists them"))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_returns_message_and_survives_a_payload_that_panics_when_dropped() {
        struct Spiteful;
        impl Drop for Spiteful {
            fn drop(&mut self) {
                panic!("and another thing");
            }
        }
        assert_eq!(fence(|| 5), Ok(5));
        assert!(fence(|| panic!("first")).unwrap_err().contains("first"));
        assert!(fence(|| std::panic::panic_any(Spiteful)).is_err());
    }
}
