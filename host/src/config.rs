//! The validated configuration: every source read, every name resolved, every path absolute.
//!
//! Owns precedence (file < `RGUNICORN_CMD_ARGS` < command line), resolution, and [`Config`], which crosses from the
//! probe to the master as JSON. Does not own the table of settings nor the reading of words.
//!
//! What a newcomer would get wrong: [`Config::load`] opens files and looks up names, so it runs in the probe and
//! never in the master, not even at the first start. The master only ever holds a `Config` that came over a pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::{self, Origin, Values};
use crate::error::{EXIT_APP_LOAD, EXIT_SETTINGS, EXIT_WORKER_BOOT, io_text};
use crate::logging::syslog::Syslog;
use crate::logging::{LogFormat, LogLevel, LogTarget};
use crate::settings::{OnReload, Place, SETTINGS, Value, find, nearest};
use crate::watch;

mod address;
mod file;
mod identity;
mod monitoring;
mod mounts;
mod plugin_ref;
mod proxies;
mod syslog;
mod words;

pub use address::{BindAddress, BindKind};
pub use identity::Identity;
pub use monitoring::StatsdTarget;
pub use plugin_ref::PluginRef;

use mounts::MountSettings;
use plugin_ref::PluginSearch;

/// The file that is read when no other is named, if it exists.
pub const DEFAULT_FILE: &str = "rgunicorn.toml";

/// The system directory of plugins, searched last.
const SYSTEM_PLUGINS: &str = "/usr/lib/rgunicorn";

/// Everything a configuration is made of, as it was when the program started. It never changes afterwards: a reload
/// reads the *file* again.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What the operator typed.
    pub argv: Values,
    /// `RGUNICORN_CMD_ARGS`.
    pub command_args: Option<OsString>,
    /// Where the program was started; absolute. Relative paths start here, or at `chdir` when that is set.
    pub directory: PathBuf,
    /// The directory of the running binary; absolute.
    pub program_directory: PathBuf,
    /// `RGUNICORN_PLUGIN_PATH`: directories separated by colons.
    pub plugin_path: Option<OsString>,
    /// Whether there is a `GUNICORN_CMD_ARGS`, which nobody reads here.
    pub has_gunicorns_words: bool,
    /// The variables that stand in for defaults (`PORT`, `WEB_CONCURRENCY`), by name.
    pub default_variables: BTreeMap<String, String>,
}

impl Sources {
    /// How long a boot may take as far as the command line says it, before a file was read; none is for ever.
    pub fn first_boot_timeout(&self, otherwise: Duration) -> Option<Duration> {
        match self.argv.get("boot_timeout").map(|given| &given.value) {
            Some(Value::Seconds(Duration::ZERO)) => None,
            Some(Value::Seconds(seconds)) => Some(*seconds),
            _ => Some(otherwise),
        }
    }

    /// Master: reads the environment, once, before it becomes one. Touches no file but `/proc/self/exe`.
    ///
    /// # Errors
    /// The current directory or the program's own path cannot be found.
    pub fn capture(argv: Values) -> Result<Self, ConfigError> {
        let directory = start_directory()
            .map_err(|error| settings_error("cannot find the current directory", &io_text(&error)))?;
        let program = std::env::current_exe()
            .map_err(|error| settings_error("cannot find the program's own file", &io_text(&error)))?;
        let default_variables = SETTINGS
            .iter()
            .filter_map(|setting| setting.default_from)
            .filter_map(|(name, _)| std::env::var(name).ok().map(|value| (name.to_owned(), value)))
            // An empty variable is how a shell unsets one for a single command. An empty list of trusted peers is one:
            // it trusts nobody.
            .filter(|(name, value)| !value.is_empty() || name == "FORWARDED_ALLOW_IPS")
            .collect();
        Ok(Self {
            argv,
            command_args: std::env::var_os("RGUNICORN_CMD_ARGS"),
            directory,
            program_directory: program.parent().unwrap_or(Path::new("/")).to_owned(),
            plugin_path: std::env::var_os("RGUNICORN_PLUGIN_PATH"),
            has_gunicorns_words: std::env::var_os("GUNICORN_CMD_ARGS").is_some_and(|words| !words.is_empty()),
            default_variables,
        })
    }
}

impl Sources {
    /// Finds the file of a worker class as a start without settings would.
    ///
    /// # Errors
    /// The sentence that the start would end with.
    pub fn find_worker_class(&self, text: &str) -> Result<PluginRef, ConfigError> {
        let path = self.plugin_directories(&self.directory);
        let search = PluginSearch { directory: &self.directory, path: &path };
        search.worker_class(text, 1).map_err(ConfigError::WorkerClass)
    }

    /// Finds the file of an application as a start without settings would.
    ///
    /// # Errors
    /// The sentence that the start would end with.
    pub fn find_application(&self, text: &str) -> Result<PluginRef, ConfigError> {
        let path = self.plugin_directories(&self.directory);
        let search = PluginSearch { directory: &self.directory, path: &path };
        search.application(text).map_err(ConfigError::Application)
    }

    /// Where plugins are searched by name, after what the settings say; relative directories start at `directory`.
    fn plugin_directories(&self, directory: &Path) -> Vec<PathBuf> {
        let mut path = Vec::new();
        if let Some(variable) = &self.plugin_path {
            let listed = std::env::split_paths(variable).filter(|listed| !listed.as_os_str().is_empty());
            path.extend(listed.map(|listed| directory.join(listed)));
        }
        path.push(self.program_directory.clone());
        path.push(self.program_directory.join("plugins"));
        path.push(PathBuf::from(SYSTEM_PLUGINS));
        path
    }
}

/// `PWD` if it is the current directory: it keeps the symlink (`current`) by which the operator got here, which a
/// reload is to follow afresh. Gunicorn does the same.
fn start_directory() -> io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let here = std::env::current_dir()?;
    let Some(typed) = std::env::var_os("PWD").map(PathBuf::from).filter(|typed| typed.is_absolute()) else {
        return Ok(here);
    };
    let same = match (typed.metadata(), here.metadata()) {
        (Ok(typed), Ok(here)) => (typed.dev(), typed.ino()) == (here.dev(), here.ino()),
        _ => false,
    };
    Ok(if same { typed } else { here })
}

/// Why there is no configuration: one sentence each, naming what was attempted, on what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ConfigError {
    /// A setting, or a file or name it refers to.
    #[error("{0}")]
    Settings(String),
    /// The worker-class file cannot be found.
    #[error("{0}")]
    WorkerClass(String),
    /// An application file cannot be found.
    #[error("{0}")]
    Application(String),
}

impl ConfigError {
    /// The exit code when this happens at the first start.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Settings(_) => EXIT_SETTINGS,
            Self::WorkerClass(_) => EXIT_WORKER_BOOT,
            Self::Application(_) => EXIT_APP_LOAD,
        }
    }
}

fn settings_error(what: &str, why: &str) -> ConfigError {
    ConfigError::Settings(format!("{what}: {why}"))
}

/// An application at its place in the URL space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `/`, or a path that begins but does not end with a slash.
    pub prefix: String,
    /// As it was written, `PREFIX=APP`; for the application at `/` just that.
    pub text: String,
    /// The application.
    pub application: PluginRef,
    /// Its settings, always a JSON object: those of the mount, else `[app."AS TYPED"]`, else `[app.NAME]`, else empty.
    pub settings: serde_json::Value,
}

/// What a request may measure. 0 means no limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes in the request line.
    pub request_line: usize,
    /// Header fields; never 0.
    pub request_fields: usize,
    /// Bytes in one field, name and value.
    pub request_field_size: usize,
    /// Bytes in the whole head; never 0.
    pub request_head: usize,
    /// Bytes in the body.
    pub request_body: u64,
}

/// A configuration that is complete and sound. Timeouts are none where the operator wrote 0, no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The file that was read; none if there was none.
    pub file: Option<PathBuf>,
    /// Where to listen; at least one, no two the same (port 0 aside).
    pub bind: Vec<BindAddress>,
    /// See listen(2).
    pub backlog: u32,
    /// Whether there are as many sockets on a TCP address as workers.
    pub reuse_port: bool,
    /// From 1 to [`crate::settings::MAX_WORKERS`].
    pub workers: u32,
    /// How a worker accepts and serves.
    pub worker_class: PluginRef,
    /// The worker class's own options, not judged yet.
    pub worker_options: BTreeMap<String, String>,
    /// At least one; prefixes are unique; longest prefix first.
    pub mounts: Vec<Mount>,
    /// Libraries of hooks, absolute, in the order in which they are called.
    pub hooks: Vec<PathBuf>,
    /// How long a worker may be silent.
    pub timeout: Option<Duration>,
    /// How long a worker that was told to stop may go on; zero is zero.
    pub graceful_timeout: Duration,
    /// How long it serves on after TERM; zero is not at all.
    pub drain_delay: Duration,
    /// How long a probe or a boot may take.
    pub boot_timeout: Option<Duration>,
    /// How long an idle connection is kept; zero is not at all.
    pub keepalive: Duration,
    /// How long a client may take to send a head.
    pub head_timeout: Option<Duration>,
    /// How long a client may pause within a body.
    pub body_timeout: Option<Duration>,
    /// How long a client may take nothing of a response.
    pub write_timeout: Option<Duration>,
    /// How long the application may take over one request.
    pub request_timeout: Option<Duration>,
    /// Requests after which a worker is replaced; 0 is never.
    pub max_requests: u64,
    /// The most that is added to `max_requests`.
    pub max_requests_jitter: u64,
    /// Octets of memory beyond which a worker is replaced.
    pub max_worker_memory: Option<u64>,
    /// At least between two workers that are replaced because they ask for it; zero is no limit.
    pub recycle_interval: Duration,
    /// Whether workers are forked from a template that has created the applications.
    pub preload: bool,
    /// What a request may measure.
    pub limits: Limits,
    /// Whether to reload when a file has changed.
    pub reload: bool,
    /// Further files that are watched, and patterns.
    pub reload_extra_files: watch::ExtraFiles,
    /// Where the monitor answers; none if nowhere.
    pub monitor_bind: Option<BindAddress>,
    /// Where `rgunicorn ctl` is answered; absolute.
    pub control_socket: Option<PathBuf>,
    /// Where metrics are sent; none if nowhere.
    pub statsd: Option<StatsdTarget>,
    /// For the titles of the processes.
    pub proc_name: String,
    /// Absolute.
    pub pidfile: Option<PathBuf>,
    /// Whom the workers run as; none if as the master.
    pub identity: Option<Identity>,
    /// Whether workers can never gain privileges by running a program.
    pub no_new_privs: bool,
    /// Whether plugins may be taken from where everybody can write.
    pub allow_world_writable: bool,
    /// Permission bits that are taken away.
    pub umask: u32,
    /// Environment variables for the workers, in the order given.
    pub raw_env: Vec<(String, String)>,
    /// Where images are kept, absolute; none lets the image store choose.
    pub runtime_dir: Option<PathBuf>,
    /// The least level that is logged.
    pub loglevel: LogLevel,
    /// The error log.
    pub errorlog: LogTarget,
    /// How lines of the error log are written.
    pub log_format: LogFormat,
    /// Whether the workers' standard output and error go to the error log's file.
    pub capture_output: bool,
    /// The syslog daemon that gets the logs as well.
    pub syslog: Option<Syslog>,
    /// The access log; none if there is none.
    pub accesslog: Option<LogTarget>,
    /// Known to be sound.
    pub access_log_format: String,
    /// JSON instead of `access_log_format`.
    pub access_log_json: bool,
    /// The workers' directory; absolute.
    pub chdir: PathBuf,
    /// Every setting that has a value, by name, as typed or by default.
    settings: BTreeMap<String, Value>,
    /// `[app.NAME]` by NAME.
    application_settings: BTreeMap<String, serde_json::Value>,
    /// Settings of mounts that have their own, by `PREFIX=APP`.
    mount_settings: MountSettings,
}

impl Config {
    /// Probe: reads and resolves everything. May block on name servers; bound its time from outside.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut words = command_args(sources)?;
        words.overlay(sources.argv.clone());
        let (file, contents) = read_file(sources, &words)?;
        let mut values = defaults(sources)?;
        values.overlay(contents.values);
        values.overlay(words);
        resolve(sources, &values, file, contents.applications, contents.mount_settings)
    }

    /// A setting's value as text, as [`Value::to_text`] writes it; none for an unknown or unset one.
    pub fn setting_text(&self, name: &str) -> Option<String> {
        self.settings.get(name).map(Value::to_text)
    }

    /// Every setting that has a value, as text by name.
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.settings.iter().map(|(name, value)| (name.clone(), value.to_text())).collect()
    }

    /// The names of settings that differ in `new` and that a reload cannot change.
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        SETTINGS
            .iter()
            .filter(|setting| setting.on_reload == OnReload::Fixed)
            .filter(|setting| self.settings.get(setting.name) != new.settings.get(setting.name))
            .map(|setting| setting.name)
            .collect()
    }

    /// Writes the configuration as one JSON object: settings by name, unset ones null; applications' tables in `app`.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn print_json(&self, writer: &mut dyn Write) -> io::Result<()> {
        let settings = SETTINGS.iter().filter(|setting| setting.place == Place::Anywhere);
        let mut all: serde_json::Map<String, serde_json::Value> = settings
            .map(|setting| {
                (setting.name.to_owned(), self.settings.get(setting.name).map_or(().into(), json_value))
            })
            .collect();
        all.insert("app".to_owned(), serde_json::json!(self.application_settings));
        if let Some(Value::List(list)) = self.settings.get("mount") {
            all.insert("mount".to_owned(), mounts::printable(list, &self.mount_settings));
        }
        serde_json::to_writer_pretty(&mut *writer, &all)?;
        writeln!(writer)
    }

    /// Writes the configuration as TOML that says the same when it is read again: settings sorted by name, one a
    /// line, unset ones as comments; then the tables.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn print(&self, writer: &mut dyn Write) -> io::Result<()> {
        let mut names: Vec<_> = SETTINGS
            .iter()
            .filter(|setting| setting.place == Place::Anywhere)
            .map(|setting| setting.name)
            .collect();
        names.sort_unstable();
        for name in names {
            match self.settings.get(name) {
                Some(Value::List(list)) if name == "mount" => {
                    writeln!(writer, "{name} = {}", mounts::to_toml(list, &self.mount_settings)?)?;
                }
                Some(value) => writeln!(writer, "{name} = {}", toml_text(value))?,
                None => writeln!(writer, "# {name} is not set")?,
            }
        }
        for (name, settings) in &self.application_settings {
            writeln!(writer, "\n[app.{}]", toml_string(name))?;
            let table = toml::to_string(settings).map_err(io::Error::other)?;
            // Its sub-tables need the path in front; inline tables need none.
            if table.lines().any(|line| line.starts_with('[')) {
                for (key, value) in settings.as_object().into_iter().flatten() {
                    writeln!(writer, "{} = {}", toml_string(key), inline(value)?)?;
                }
            } else {
                writer.write_all(table.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// A value as JSON has it: numbers and flags as such, seconds as a number, a mode as its text.
fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::Integer(number) => (*number).into(),
        Value::Seconds(time) => time.as_secs_f64().into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Mode(_) => value.to_text().into(),
        Value::Text(text) => text.clone().into(),
        Value::List(list) => list.clone().into(),
        Value::Options(options) => serde_json::json!(options),
    }
}

/// A JSON value as a TOML value on one line.
fn inline(value: &serde_json::Value) -> io::Result<String> {
    let value = toml::Value::try_from(value).map_err(io::Error::other)?;
    Ok(value.to_string())
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Text(text) => toml_string(text),
        Value::List(list) => {
            let list: Vec<String> = list.iter().map(|text| toml_string(text)).collect();
            format!("[{}]", list.join(", "))
        }
        Value::Options(options) => {
            let pair =
                |(name, value): (&String, &String)| format!("{} = {}", toml_string(name), toml_string(value));
            let pairs: Vec<String> = options.iter().map(pair).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        Value::Integer(_) | Value::Seconds(_) | Value::Mode(_) | Value::Flag(_) => value.to_text(),
    }
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn command_args(sources: &Sources) -> Result<Values, ConfigError> {
    let Some(text) = &sources.command_args else { return Ok(Values::default()) };
    let fail = |why: &str| settings_error("cannot read RGUNICORN_CMD_ARGS", why);
    let text = text.to_str().ok_or_else(|| fail("it is not UTF-8"))?;
    let words = words::split(text).map_err(|why| fail(&format!("{why} in '{text}'")))?;
    cli::parse_words(&words, &Origin::CommandArgs).map_err(|error| ConfigError::Settings(error.to_string()))
}

/// The file that the words name, else the default one if it exists.
/// What is read of a configuration file at most (octets).
const LARGEST_FILE: u64 = 1024 * 1024;

/// One octet more than a file may have, so that a larger one is noticed.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_file(
    sources: &Sources,
    words: &Values,
) -> Result<(Option<PathBuf>, file::FileContents), ConfigError> {
    let named = words.get("config").map(|given| given.value.to_text()).filter(|path| !path.is_empty());
    let path = sources.directory.join(named.as_deref().unwrap_or(DEFAULT_FILE));
    match read_bounded(&path) {
        Ok(bytes) if bytes.len() as u64 > LARGEST_FILE => {
            let why = "it is larger than 1 MiB, which no configuration is; name the right file with -c";
            Err(settings_error(&format!("cannot read {}", path.display()), why))
        }
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|error| {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = before.iter().filter(|octet| **octet == b'\n').count() + 1;
                let what = format!("cannot read {} line {line}", path.display());
                settings_error(&what, "it is not UTF-8; save the file in that encoding")
            })?;
            let contents = file::read(&path, &text)?;
            Ok((Some(path), contents))
        }
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            Ok((None, file::FileContents::default()))
        }
        Err(error) => {
            let why = format!("{}; name another configuration file with -c", io_text(&error));
            Err(settings_error(&format!("cannot read {}", path.display()), &why))
        }
    }
}

/// The worker class that the words name, found; no file is read for it. Not for the master: see [`Config::load`].
///
/// # Errors
/// It cannot be found.
pub fn find_worker_class(sources: &Sources) -> Result<PluginRef, ConfigError> {
    let mut values = defaults(sources)?;
    values.overlay(command_args(sources)?);
    values.overlay(sources.argv.clone());
    let mut resolver = Resolver { values: &values, directory: sources.directory.clone() };
    resolver.directory = resolver.chdir()?;
    let path = resolver.plugin_directories(sources);
    let search = PluginSearch { directory: &resolver.directory, path: &path };
    search
        .worker_class(&resolver.text("worker_class").unwrap_or_default(), resolver.integer("threads"))
        .map_err(ConfigError::WorkerClass)
}

fn defaults(sources: &Sources) -> Result<Values, ConfigError> {
    let mut values = Values::default();
    for setting in SETTINGS.iter().filter(|setting| setting.place == Place::Anywhere) {
        let variable = |name: &str| sources.default_variables.get(name).cloned();
        let default = setting
            .default_value(variable)
            .map_err(|why| ConfigError::Settings(format!("cannot use the environment: {why}")))?;
        let origin = match setting.default_from {
            Some((name, _)) if sources.default_variables.contains_key(name) => Origin::Variable(name),
            _ => Origin::Default,
        };
        if let Some(value) = default {
            values.set(setting, value, origin);
        }
    }
    Ok(values)
}

/// Typed values with what is needed to make a `Config` of them.
struct Resolver<'a> {
    values: &'a Values,
    /// Where relative paths start.
    directory: PathBuf,
}

fn resolve(
    sources: &Sources,
    values: &Values,
    file: Option<PathBuf>,
    applications: BTreeMap<String, (serde_json::Value, usize)>,
    mount_settings: MountSettings,
) -> Result<Config, ConfigError> {
    let mut resolver = Resolver { values, directory: sources.directory.clone() };
    resolver.directory = resolver.chdir()?;
    let resolver = resolver;
    let path = resolver.plugin_directories(sources);
    let search = PluginSearch { directory: &resolver.directory, path: &path };

    let access_log_format = resolver.text("access_log_format").unwrap_or_default();
    crate::access_log::Format::parse(&access_log_format)
        .map_err(|error| resolver.fail("access_log_format", &error.to_string()))?;
    resolver.check_proxies()?;
    let worker_options = resolver.options("worker_options").cloned().unwrap_or_default();
    let mut identity = Identity::resolve(resolver.text("user").as_deref(), resolver.text("group").as_deref())
        .map_err(ConfigError::Settings)?;
    if let Some(identity) = identity.as_mut().filter(|_| !resolver.flag("initgroups")) {
        identity.groups = vec![identity.gid];
    }
    let bind = resolver.bind()?;
    let monitor_bind = resolver.monitor_bind(&bind)?;
    let statsd = resolver.statsd()?;
    let raw_env = resolver.raw_env()?;
    let mut mounts = resolver.mounts(&search)?;
    place_application_settings(&mut mounts, &mount_settings, &applications, file.as_deref())?;
    let worker_class = search
        .worker_class(&resolver.text("worker_class").unwrap_or_default(), resolver.integer("threads"))
        .map_err(ConfigError::WorkerClass)?;

    let mut settings: BTreeMap<String, Value> = values
        .iter()
        .filter(|(name, _)| find(name).is_some_and(|setting| setting.place == Place::Anywhere))
        .filter(|(_, given)| given.value != Value::Text(String::new()))
        .map(|(name, given)| (name.to_owned(), given.value.clone()))
        .collect();
    settings.insert("chdir".to_owned(), Value::Text(resolver.directory.to_string_lossy().into_owned()));

    Ok(Config {
        file,
        bind,
        backlog: resolver.integer("backlog"),
        reuse_port: resolver.flag("reuse_port"),
        workers: resolver.workers(),
        worker_class,
        worker_options,
        mounts,
        hooks: resolver.list("hooks").iter().map(|file| resolver.directory.join(file)).collect(),
        timeout: resolver.timeout("timeout"),
        graceful_timeout: resolver.seconds("graceful_timeout"),
        drain_delay: resolver.seconds("drain_delay"),
        boot_timeout: resolver.timeout("boot_timeout"),
        keepalive: resolver.seconds("keepalive"),
        head_timeout: resolver.timeout("head_timeout"),
        body_timeout: resolver.timeout("body_timeout"),
        write_timeout: resolver.timeout("write_timeout"),
        request_timeout: resolver.timeout("request_timeout"),
        max_requests: resolver.integer("max_requests"),
        max_requests_jitter: resolver.integer("max_requests_jitter"),
        max_worker_memory: Some(resolver.integer("max_worker_memory")).filter(|limit| *limit != 0),
        recycle_interval: resolver.seconds("recycle_interval"),
        preload: resolver.flag("preload_app"),
        limits: Limits {
            request_line: resolver.integer("limit_request_line"),
            request_fields: resolver.integer("limit_request_fields"),
            request_field_size: resolver.integer("limit_request_field_size"),
            request_head: resolver.integer("limit_request_head"),
            request_body: resolver.integer("limit_request_body"),
        },
        reload: resolver.flag("reload"),
        reload_extra_files: resolver.reload_extra_files()?,
        monitor_bind,
        control_socket: resolver.control_socket()?,
        statsd,
        proc_name: resolver.proc_name(),
        pidfile: resolver.path("pidfile"),
        identity,
        no_new_privs: resolver.flag("no_new_privs"),
        allow_world_writable: resolver.flag("allow_world_writable"),
        umask: resolver.mode("umask"),
        raw_env,
        runtime_dir: resolver.path("runtime_dir"),
        loglevel: resolver
            .text("loglevel")
            .and_then(|word| LogLevel::from_word(&word))
            .unwrap_or(LogLevel::Info),
        errorlog: resolver.log_target("errorlog").unwrap_or(LogTarget::Standard),
        log_format: match resolver.text("log_format").as_deref() {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
        capture_output: resolver.flag("capture_output"),
        syslog: resolver.syslog()?,
        accesslog: resolver.log_target("accesslog"),
        access_log_format,
        access_log_json: resolver.flag("access_log_json"),
        chdir: resolver.directory.clone(),
        settings,
        application_settings: applications
            .into_iter()
            .map(|(name, (settings, _))| (name, settings))
            .collect(),
        mount_settings,
    })
}

impl Resolver<'_> {
    /// "cannot use user 'x' on the command line: …".
    fn fail(&self, name: &str, why: &str) -> ConfigError {
        match self.values.get(name) {
            Some(given) => settings_error(&format!("cannot use the setting '{name}' {}", given.origin), why),
            None => settings_error(&format!("cannot use the setting '{name}'"), why),
        }
    }

    /// None for an unset setting and for an empty text, which is how a stronger source unsets one.
    fn text(&self, name: &str) -> Option<String> {
        match &self.values.get(name)?.value {
            Value::Text(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// The elements of a list; empty when unset.
    fn list(&self, name: &str) -> &[String] {
        match self.values.get(name).map(|given| &given.value) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// Gunicorn's default is the application as well.
    fn proc_name(&self) -> String {
        let mounted = || self.list("mount").first().cloned().unwrap_or_default();
        self.text("proc_name").or_else(|| self.text("application")).unwrap_or_else(mounted)
    }

    fn options(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        match &self.values.get(name)?.value {
            Value::Options(options) => Some(options),
            _ => None,
        }
    }

    fn check_proxies(&self) -> Result<(), ConfigError> {
        for (name, check) in [
            ("forwarded_allow_ips", proxies::check_peers as fn(&str) -> _),
            ("proxy_allow_ips", proxies::check_peers),
            ("forwarder_headers", proxies::check_field_names),
        ] {
            self.list(name).iter().try_for_each(|text| check(text)).map_err(|why| self.fail(name, &why))?;
        }
        let name = "secure_scheme_headers";
        let mut fields = self.options(name).into_iter().flatten();
        fields
            .try_for_each(|(field, value)| proxies::check_scheme_header(field, value))
            .map_err(|why| self.fail(name, &why))
    }

    /// The table's default and range make every integer setting present and small enough for its field.
    fn integer<T: TryFrom<u64>>(&self, name: &str) -> T {
        let value = self.values.get(name).map(|given| &given.value);
        let number = if let Some(Value::Integer(number)) = value { *number } else { 0 };
        let Ok(number) = T::try_from(number) else {
            unreachable!("{name} is wider in the table than in Config")
        };
        number
    }

    /// The number, or for `auto` as many as there are CPUs: std counts those of sched_getaffinity(2), and no more than
    /// the quota of the control group, version 1 or 2, has time for.
    fn workers(&self) -> u32 {
        match self.values.get("workers").map(|given| &given.value) {
            Some(Value::Integer(number)) => u32::try_from(*number).unwrap_or(1),
            _ => {
                // A system that does not tell has one CPU at least.
                let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                u32::try_from((cpus as u64).min(crate::settings::MAX_WORKERS)).unwrap_or(1)
            }
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.values.get(name).map(|given| &given.value), Some(Value::Flag(true)))
    }

    fn mode(&self, name: &str) -> u32 {
        match self.values.get(name).map(|given| &given.value) {
            Some(Value::Mode(bits)) => *bits,
            _ => 0,
        }
    }

    fn seconds(&self, name: &str) -> Duration {
        match self.values.get(name).map(|given| &given.value) {
            Some(Value::Seconds(time)) => *time,
            _ => Duration::ZERO,
        }
    }

    fn timeout(&self, name: &str) -> Option<Duration> {
        Some(self.seconds(name)).filter(|time| !time.is_zero())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(|path| self.directory.join(path))
    }

    fn log_target(&self, name: &str) -> Option<LogTarget> {
        self.text(name).map(|text| match text.as_str() {
            "-" => LogTarget::Standard,
            path => LogTarget::File(self.directory.join(path)),
        })
    }

    /// While syslog is off everything is judged as well, but no name is looked up.
    fn syslog(&self) -> Result<Option<Syslog>, ConfigError> {
        let facility = syslog::facility(&self.text("syslog_facility").unwrap_or_default())
            .map_err(|why| self.fail("syslog_facility", &why))?;
        let address = self.text("syslog_addr").unwrap_or_default();
        syslog::check(&address).map_err(|why| self.fail("syslog_addr", &why))?;
        if !self.flag("syslog") {
            return Ok(None);
        }
        let address =
            syslog::address(&address, &self.directory).map_err(|why| self.fail("syslog_addr", &why))?;
        // As Gunicorn: a colon would end the tag.
        let prefix = self.text("syslog_prefix").unwrap_or_else(|| self.proc_name().replace(':', "."));
        let access = !self.flag("disable_redirect_access_to_syslog");
        Ok(Some(Syslog { address, facility, prefix, access }))
    }

    fn chdir(&self) -> Result<PathBuf, ConfigError> {
        let Some(directory) = self.path("chdir") else { return Ok(self.directory.clone()) };
        match directory.metadata() {
            Ok(found) if found.is_dir() => Ok(directory),
            Ok(_) => Err(self.fail("chdir", &format!("{} is not a directory", directory.display()))),
            Err(error) => Err(self.fail("chdir", &format!("{}: {}", directory.display(), io_text(&error)))),
        }
    }

    fn bind(&self) -> Result<Vec<BindAddress>, ConfigError> {
        let mut addresses: Vec<BindAddress> = Vec::new();
        for text in self.list("bind") {
            let address = BindAddress::resolve(text, &self.directory)
                .map_err(|why| self.fail("bind", &format!("'{text}' is no address: {why}")))?;
            let chosen_by_kernel = matches!(&address.kind, BindKind::Tcp(address) if address.port() == 0);
            let twin = addresses.iter().find(|earlier| earlier.kind == address.kind);
            if let Some(twin) = twin.filter(|_| !chosen_by_kernel) {
                let why = format!("'{twin}' and '{address}' are the same address; keep one of them");
                return Err(self.fail("bind", &why));
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(self.fail("bind", "there must be at least one address"));
        }
        Ok(addresses)
    }

    fn raw_env(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(self.fail("raw_env", &format!("'{text}' must be KEY=VALUE"))),
        };
        self.list("raw_env").iter().map(pair).collect()
    }

    fn reload_extra_files(&self) -> Result<watch::ExtraFiles, ConfigError> {
        if self.text("reload_engine").as_deref() == Some("poll") {
            let why = "the master looks at files only when the kernel says that they have changed; leave it at auto, \
                       and send HUP where inotify does not reach, as on network file systems";
            return Err(self.fail("reload_engine", why));
        }
        let name = "reload_extra_files";
        let mut extra = watch::ExtraFiles::default();
        for text in self.list(name) {
            let path = self.directory.join(text);
            if watch::is_pattern(text) {
                let pattern = watch::absolute_pattern(&self.directory, text)
                    .map_err(|why| self.fail(name, &format!("'{text}' is no pattern: {why}")))?;
                extra.patterns.push(pattern);
            } else if path.exists() {
                extra.files.push(path);
            } else {
                let why = format!("{} does not exist; create it, or leave it out", path.display());
                return Err(self.fail(name, &why));
            }
        }
        Ok(extra)
    }

    fn plugin_directories(&self, sources: &Sources) -> Vec<PathBuf> {
        let mut path: Vec<PathBuf> =
            self.list("plugin_path").iter().map(|directory| self.directory.join(directory)).collect();
        path.extend(sources.plugin_directories(&self.directory));
        path
    }

    fn mounts(&self, search: &PluginSearch<'_>) -> Result<Vec<Mount>, ConfigError> {
        let mut wanted: Vec<(String, String, String)> = Vec::new();
        if let Some(application) = self.text("application") {
            wanted.push(("/".to_owned(), application.clone(), application));
        }
        for text in self.list("mount") {
            let fail = |why: &str| self.fail("mount", &format!("'{text}' {why}"));
            let (prefix, application) = text.split_once('=').ok_or_else(|| fail("must be PREFIX=APP"))?;
            let prefix = mount_prefix(prefix).map_err(fail)?;
            if wanted.iter().any(|(taken, _, _)| *taken == prefix) {
                return Err(fail("mounts a second application at the same prefix; keep one of them"));
            }
            wanted.push((prefix, application.to_owned(), text.to_owned()));
        }
        if wanted.is_empty() {
            return Err(ConfigError::Settings(
                "cannot start without an application: name one, as in 'rgunicorn ./libhello.so:app', or set \
                 'application' in the configuration file"
                    .to_owned(),
            ));
        }
        wanted.sort_by_key(|(prefix, _, _)| std::cmp::Reverse(prefix.len()));
        let mount = |(prefix, application, text): (String, String, String)| {
            let application = search.application(&application).map_err(ConfigError::Application)?;
            Ok(Mount { prefix, text, application, settings: serde_json::json!({}) })
        };
        wanted.into_iter().map(mount).collect()
    }
}

/// A prefix in its one form: `/` or `/a/b`.
fn mount_prefix(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("must have a prefix that begins with '/'");
    }
    let trimmed = text.trim_end_matches('/');
    let segments = trimmed.split('/').skip(1);
    if segments.clone().any(|segment| segment.is_empty() || segment == "." || segment == "..") {
        return Err("must have a prefix without empty, '.' and '..' segments");
    }
    if trimmed.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || matches!(byte, b'?' | b'#' | b'%')) {
        return Err("must have a prefix of plain characters, without '?', '#' and '%'");
    }
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// Gives each application its table: that of its mount, else its own. A table of an application that nobody uses is a
/// mistake, as an unknown key is.
fn place_application_settings(
    mounts: &mut [Mount],
    mount_settings: &MountSettings,
    applications: &BTreeMap<String, (serde_json::Value, usize)>,
    file: Option<&Path>,
) -> Result<(), ConfigError> {
    let mut used = BTreeSet::new();
    for mount in mounts.iter_mut() {
        if let Some(settings) = mount_settings.get(&mount.text) {
            mount.settings = settings.clone();
            continue;
        }
        for name in [&mount.application.text, &mount.application.name] {
            if let Some((settings, _)) = applications.get(name) {
                mount.settings = settings.clone();
                used.insert(name.clone());
                break;
            }
        }
    }
    for (name, (_, line)) in applications {
        if !used.contains(name) {
            let names = || mounts.iter().map(|mount| mount.application.name.as_str());
            let hint = match nearest(name, names()) {
                Some(near) => format!("did you mean [app.{near}]?"),
                None => format!("the applications are {}", names().collect::<Vec<_>>().join(", ")),
            };
            let file = file.map_or_else(String::new, |file| file.display().to_string());
            let why = format!("no application uses the table [app.{name}]; {hint}");
            return Err(settings_error(&format!("cannot read {file} line {line}"), &why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Invocation;
    use crate::settings::Kind;
    use crate::temp_dir::TempDir;

    /// A directory with an application `x.so`, and plugins beside the program.
    struct Fixture {
        temp: TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let temp = TempDir::new("config");
            for directory in ["bin", "bin/plugins", "sub", "more"] {
                std::fs::create_dir(temp.join(directory)).unwrap();
            }
            for file in [
                "x.so",
                "y.so",
                "bin/libsync.so",
                "bin/plugins/libthreaded.so",
                "more/libsync.so",
                "sub/z.so",
            ] {
                std::fs::write(temp.join(file), "").unwrap();
            }
            Self { temp }
        }

        fn sources(&self, line: &[&str]) -> Sources {
            let words = std::iter::once("rgunicorn").chain(line.iter().copied()).map(OsString::from);
            let argv = match cli::parse(words) {
                Ok(Invocation::Serve(values)) => values,
                other => panic!("{other:?}"),
            };
            Sources {
                argv,
                command_args: None,
                directory: self.temp.path().to_owned(),
                program_directory: self.temp.join("bin"),
                plugin_path: None,
                has_gunicorns_words: false,
                default_variables: BTreeMap::new(),
            }
        }

        fn load(&self, line: &[&str]) -> Config {
            Config::load(&self.sources(line)).unwrap_or_else(|error| panic!("{line:?}: {error}"))
        }

        fn refuse(&self, line: &[&str]) -> ConfigError {
            Config::load(&self.sources(line)).map(|_| ()).expect_err("a refusal")
        }

        fn file(&self, name: &str, text: &str) {
            std::fs::write(self.temp.join(name), text).unwrap();
        }
    }

    #[test]
    fn has_defaults_for_everything() {
        let fixture = Fixture::new();
        let config = fixture.load(&["x.so"]);
        assert_eq!(config.bind[0].kind, BindKind::Tcp("127.0.0.1:8000".parse().unwrap()));
        assert_eq!((config.workers, config.backlog), (1, 2048));
        assert_eq!(config.timeout, Some(Duration::from_secs(30)));
        assert_eq!(config.request_timeout, None);
        assert_eq!(config.worker_class.file, fixture.temp.join("bin/libsync.so"));
        assert_eq!(config.mounts[0].prefix, "/");
        assert_eq!(config.mounts[0].application.name, "app");
        assert_eq!(config.chdir, fixture.temp.path());
        assert_eq!((config.file, config.accesslog, config.identity), (None, None, None));
        assert_eq!(config.limits.request_head, 65536);
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let fixture = Fixture::new();
        let error = fixture.refuse(&["-c", "/dev/zero", "x.so"]).to_string();
        assert!(error.contains("/dev/zero") && error.contains("larger than 1 MiB"), "{error}");
    }

    #[test]
    fn the_command_line_is_stronger_than_the_variable_is_stronger_than_the_file() {
        let fixture = Fixture::new();
        fixture.file(
            DEFAULT_FILE,
            "app = 'x.so'\nworkers = 2\ntimeout = 2\nbacklog = 2\nbind = ':2'\n[worker_options]\na = 'file'\nb = 'file'\n",
        );
        let mut sources = fixture.sources(&["-w", "4", "--worker-option", "b=argv"]);
        sources.command_args = Some("-w 3 -t 3 -b ':3'".into());
        let config = Config::load(&sources).unwrap();
        assert_eq!((config.workers, config.timeout, config.backlog), (4, Some(Duration::from_secs(3)), 2));
        assert_eq!(config.bind.len(), 1);
        assert_eq!(config.bind[0].text, ":3");
        assert_eq!(config.setting_text("worker_options").unwrap(), "a=file,b=argv");
        assert_eq!(config.file, Some(fixture.temp.join(DEFAULT_FILE)));
    }

    #[test]
    fn variables_are_weaker_than_the_file() {
        let fixture = Fixture::new();
        let mut sources = fixture.sources(&["x.so"]);
        sources.default_variables = BTreeMap::from([
            ("PORT".to_owned(), "9".to_owned()),
            ("WEB_CONCURRENCY".to_owned(), "7".to_owned()),
        ]);
        let config = Config::load(&sources).unwrap();
        assert_eq!((config.bind[0].text.as_str(), config.workers), ("0.0.0.0:9", 7));
        fixture.file(DEFAULT_FILE, "workers = 2");
        assert_eq!(Config::load(&sources).unwrap().workers, 2);
    }

    #[test]
    fn a_table_of_scheme_headers_replaces_the_default_whole() {
        let fixture = Fixture::new();
        let standard = "X-FORWARDED-PROTO=https,X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-SSL=on";
        assert_eq!(fixture.load(&["x.so"]).setting_text("secure_scheme_headers").unwrap(), standard);
        fixture.file(DEFAULT_FILE, "proxy_protocol = true\n[secure_scheme_headers]\nX-HTTPS = 1\n");
        let config = fixture.load(&["x.so"]);
        assert_eq!(config.setting_text("secure_scheme_headers").unwrap(), "X-HTTPS=1");
        assert_eq!(config.setting_text("proxy_protocol").unwrap(), "auto");
        let config = fixture.load(&["x.so", "--secure-scheme-header", "X-TLS=on"]);
        assert_eq!(config.setting_text("secure_scheme_headers").unwrap(), "X-TLS=on");
    }

    #[test]
    fn an_empty_variable_trusts_no_peer() {
        let fixture = Fixture::new();
        let mut sources = fixture.sources(&["x.so"]);
        sources.default_variables = BTreeMap::from([("FORWARDED_ALLOW_IPS".to_owned(), String::new())]);
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.setting_text("forwarded_allow_ips").unwrap(), "");
        assert_eq!(config.setting_text("proxy_allow_ips").unwrap(), "127.0.0.1,::1");
        sources.default_variables = BTreeMap::from([("FORWARDED_ALLOW_IPS".to_owned(), "proxy".to_owned())]);
        let error = Config::load(&sources).unwrap_err().to_string();
        let expected =
            "cannot use the setting 'forwarded_allow_ips' in FORWARDED_ALLOW_IPS: 'proxy' is no address";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn the_file_can_be_named_in_either_place() {
        let fixture = Fixture::new();
        fixture.file("a.toml", "workers = 2");
        fixture.file("b.toml", "workers = 3");
        let mut sources = fixture.sources(&["x.so"]);
        sources.command_args = Some("-c a.toml".into());
        assert_eq!(Config::load(&sources).unwrap().workers, 2);
        sources.argv = fixture.sources(&["x.so", "-c", "b.toml"]).argv;
        assert_eq!(Config::load(&sources).unwrap().workers, 3);
    }

    #[test]
    fn paths_start_at_chdir_and_the_file_where_the_program_was_started() {
        let fixture = Fixture::new();
        fixture.file(
            "c.toml",
            "chdir = 'sub'\npidfile = 'p'\nerrorlog = 'e'\nbind = 'unix:s'\nruntime_dir = '/abs'",
        );
        let config = fixture.load(&["-c", "c.toml", "z.so"]);
        let sub = fixture.temp.join("sub");
        assert_eq!(config.pidfile, Some(sub.join("p")));
        assert_eq!(config.errorlog, LogTarget::File(sub.join("e")));
        assert_eq!(config.bind[0].kind, BindKind::Unix(sub.join("s")));
        assert_eq!(config.runtime_dir, Some(PathBuf::from("/abs")));
        assert_eq!(config.mounts[0].application.file, sub.join("z.so"));
    }

    #[test]
    fn plugins_are_searched_in_order() {
        let fixture = Fixture::new();
        let found = |line: &[&str]| fixture.load(line).worker_class.file;
        assert_eq!(found(&["x.so", "-k", "gthread"]), fixture.temp.join("bin/plugins/libthreaded.so"));
        assert_eq!(found(&["x.so", "--threads", "2"]), fixture.temp.join("bin/plugins/libthreaded.so"));
        assert_eq!(found(&["x.so", "--plugin-path", "more"]), fixture.temp.join("more/libsync.so"));
        let mut sources = fixture.sources(&["x.so"]);
        sources.plugin_path = Some("/nowhere:more".into());
        assert_eq!(Config::load(&sources).unwrap().worker_class.file, fixture.temp.join("more/libsync.so"));
    }

    #[test]
    fn several_applications_have_prefixes_and_settings() {
        let fixture = Fixture::new();
        fixture.file(
            DEFAULT_FILE,
            "application = 'x.so:shop'\nmount = ['/api/=y.so']\n[app.shop]\na = 1\n[app.'y.so']\nb = 2",
        );
        let config = fixture.load(&[]);
        let got: Vec<_> = config
            .mounts
            .iter()
            .map(|mount| (mount.prefix.as_str(), mount.application.name.as_str(), mount.settings.to_string()))
            .collect();
        assert_eq!(got, [("/api", "app", r#"{"b":2}"#.to_owned()), ("/", "shop", r#"{"a":1}"#.to_owned())]);
    }

    #[test]
    fn a_mount_may_be_a_table_with_settings_of_its_own() {
        let fixture = Fixture::new();
        let text = "application = 'x.so'\n[[mount]]\nprefix = '/a/'\napplication = 'x.so'\n[mount.settings]\nroot = 'a'\n\
             deep = { list = [1, 'b'] }\n[[mount]]\nprefix = '/b'\napplication = 'y.so'\n[app.app]\nroot = 'all'\n";
        fixture.file(DEFAULT_FILE, text);
        let settings = |config: &Config| -> Vec<_> {
            config.mounts.iter().map(|mount| (mount.prefix.clone(), mount.settings.to_string())).collect()
        };
        let config = fixture.load(&[]);
        let all = [
            ("/a", r#"{"deep":{"list":[1,"b"]},"root":"a"}"#),
            ("/b", r#"{"root":"all"}"#),
            ("/", r#"{"root":"all"}"#),
        ]
        .map(|(prefix, settings)| (prefix.to_owned(), settings.to_owned()));
        assert_eq!(settings(&config), all);
        assert_eq!(config.setting_text("mount").as_deref(), Some("/a/=x.so,/b=y.so"));
        // What is printed says the same.
        let mut printed = Vec::new();
        config.print(&mut printed).unwrap();
        fixture.file(DEFAULT_FILE, std::str::from_utf8(&printed).unwrap());
        assert_eq!(settings(&fixture.load(&[])), all);
        let mut json = Vec::new();
        config.print_json(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["mount"][0]["settings"]["root"], "a");
        assert_eq!(json["mount"][1], "/b=y.so");
        // A stronger place replaces the list, and with it the tables.
        fixture.file(DEFAULT_FILE, text);
        let config = fixture.load(&["--mount", "/c=y.so"]);
        assert_eq!(settings(&config).first(), Some(&("/c".to_owned(), r#"{"root":"all"}"#.to_owned())));

        for (mount, why) in [
            ("mount = [1]", "line 1: a mount must be PREFIX=APP or a table, not a whole number"),
            ("[[mount]]\napplication = 'x.so'", "line 1: this mount has no 'prefix'"),
            ("[[mount]]\nprefix = '/a'", "line 1: this mount has no 'application'"),
            ("[[mount]]\nprefix = '/a'\napp = 'x.so'", "line 3: a mount has no 'app'"),
            ("[[mount]]\nprefix = '/a=b'\napplication = 'x.so'", "must not have a '=' in it"),
            ("[[mount]]\nprefix = 1\napplication = 'x.so'", "line 2: the prefix of a mount must be a text"),
            ("[[mount]]\nprefix = '/a'\napplication = 'x.so'\nsettings = 'x'", "must be a table, not a text"),
            ("[mount]\nprefix = '/a'", "'mount' must be"),
        ] {
            fixture.file(DEFAULT_FILE, mount);
            let error = fixture.refuse(&["x.so"]);
            assert!(error.to_string().contains(why), "{mount}: {error}");
        }
    }

    #[test]
    fn an_empty_text_unsets_what_a_weaker_source_set() {
        let fixture = Fixture::new();
        fixture.file(DEFAULT_FILE, "accesslog = '-'\npidfile = 'p'");
        let config = fixture.load(&["x.so", "--access-logfile", "", "-p", ""]);
        assert_eq!((config.accesslog.clone(), config.pidfile.clone()), (None, None));
        assert_eq!(config.setting_text("accesslog"), None);
    }

    #[test]
    fn refuses_with_one_sentence_and_its_exit_code() {
        let fixture = Fixture::new();
        let here = fixture.temp.path().display().to_string();
        let cases: &[(&[&str], i32, String)] = &[
            (&[], 1, "cannot start without an application: name one".to_owned()),
            (&["no.so"], 4, format!("cannot find the application 'no.so': {here}/no.so: No such file or directory;")),
            (&["x.so", "-k", "gevent"], 3, "cannot find the worker class 'gevent': there is no libgevent.so in".to_owned()),
            (&["x.so", "-c", "no.toml"], 1, format!("cannot read {here}/no.toml: No such file or directory;")),
            (&["x.so", "-b", "8000"], 1, "cannot use the setting 'bind' on the command line: '8000' is no address: a port alone".to_owned()),
            (&["x.so", "-b", ":1", "-b", "0.0.0.0:1"], 1, "cannot use the setting 'bind' on the command line: ':1' and '0.0.0.0:1' are the same address".to_owned()),
            (&["x.so", "-e", "A"], 1, "cannot use the setting 'raw_env' on the command line: 'A' must be KEY=VALUE".to_owned()),
            (&["x.so", "--chdir", "x.so"], 1, format!("cannot use the setting 'chdir' on the command line: {here}/x.so is not a directory")),
            (&["x.so", "-u", "no-such-user"], 1, "cannot run workers as user 'no-such-user': there is no such user".to_owned()),
            (&["x.so", "--mount", "/=y.so"], 1, "cannot use the setting 'mount' on the command line: '/=y.so' mounts a second".to_owned()),
            (&["x.so", "--mount", "api=y.so"], 1, "cannot use the setting 'mount' on the command line: 'api=y.so' must have".to_owned()),
            (&["x.so", "--forwarded-allow-ips", "proxy"], 1, "cannot use the setting 'forwarded_allow_ips' on the command line: 'proxy' is no address;".to_owned()),
            (&["x.so", "--proxy-allow-from", "10.0.0.1/8"], 1, "cannot use the setting 'proxy_allow_ips' on the command line: '10.0.0.1/8' is an address within a network; write 10.0.0.0/8".to_owned()),
            (&["x.so", "--forwarder-headers", "A:B"], 1, "cannot use the setting 'forwarder_headers' on the command line: 'A:B' is no name of a header field".to_owned()),
            (&["x.so", "--secure-scheme-header", "X-A="], 1, "cannot use the setting 'secure_scheme_headers' on the command line: 'X-A=' has no value".to_owned()),
            (&["x.so", "--access-logformat", "%(zz)s"], 1, "cannot use the setting 'access_log_format' on the command line: ".to_owned()),
        ];
        for (line, code, expected) in cases {
            let error = fixture.refuse(line);
            assert!(error.to_string().starts_with(expected), "{line:?}: {error}");
            assert_eq!(error.exit_code(), *code, "{line:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn refuses_an_application_table_that_nobody_uses() {
        let fixture = Fixture::new();
        fixture.file(DEFAULT_FILE, "\n[app.shpo]\na = 1");
        let error = fixture.refuse(&["x.so:shop"]).to_string();
        let expected =
            "rgunicorn.toml line 2: no application uses the table [app.shpo]; did you mean [app.shop]?";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn refuses_open_quotes_in_the_variable() {
        let fixture = Fixture::new();
        let mut sources = fixture.sources(&["x.so"]);
        sources.command_args = Some("-w '4".into());
        let error = Config::load(&sources).unwrap_err().to_string();
        assert_eq!(error, "cannot read RGUNICORN_CMD_ARGS: a single quote is not closed in '-w '4'");
    }

    #[test]
    fn prints_what_reads_back_the_same() {
        let fixture = Fixture::new();
        fixture.file(
            DEFAULT_FILE,
            "application = 'x.so:shop'\numask = 0o22\ntimeout = 0.5\nraw_env = ['A=\"q\"']\n[worker_options]\nt = 4\n\
             [secure_scheme_headers]\nX-A = 'on'\n\
             [app.shop]\nname = \"a\\tb\"\n[app.shop.deep]\nlist = [{ a = 1 }, { b = 2.5 }]\n",
        );
        let config = fixture.load(&["-w", "3"]);
        let mut printed = Vec::new();
        config.print(&mut printed).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        assert!(
            printed.contains("\nworkers = 3\n") && printed.contains("\n# pidfile is not set\n"),
            "{printed}"
        );
        fixture.file("again.toml", &printed);
        let mut again = fixture.load(&["-c", "again.toml"]);
        again.file = config.file.clone();
        assert_eq!(again, config, "{printed}");
    }

    #[test]
    fn crosses_a_pipe_unchanged() {
        let fixture = Fixture::new();
        let config = fixture.load(&["x.so", "-b", "unix:s", "-t", "0.1", "--access-logfile", "-"]);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    }

    #[test]
    fn every_setting_can_be_given_to_a_worker_class_as_text() {
        let fixture = Fixture::new();
        let config = fixture.load(&["x.so", "--threads", "8"]);
        let cases = [
            ("threads", Some("8")),
            ("worker_connections", Some("1000")),
            ("keepalive", Some("2")),
            ("no", None),
        ];
        for (name, expected) in cases {
            assert_eq!(config.setting_text(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn names_what_a_reload_cannot_change() {
        let fixture = Fixture::new();
        let old = fixture.load(&["x.so", "-w", "1"]);
        assert!(old.fixed_differences(&fixture.load(&["x.so", "-w", "2"])).is_empty());
        assert_eq!(old.fixed_differences(&fixture.load(&["x.so", "--runtime-dir", "r"])), ["runtime_dir"]);
    }

    #[test]
    fn the_widest_value_of_every_integer_setting_fits() {
        let fixture = Fixture::new();
        for setting in SETTINGS {
            if let Kind::Integer { most, .. } = setting.kind {
                fixture.load(&["x.so", &setting.flag_text(), &most.to_string()]);
            }
        }
    }
}
