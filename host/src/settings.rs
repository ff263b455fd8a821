//! The table of settings: names, flags, types, defaults, help, and what a reload may do with each.
//!
//! Owns what a setting *is* and how one value is read from text. Does not own where values come from (`cli` for
//! words, `config` for the file and for precedence) nor what they mean together (`config`).
//!
//! What a newcomer would get wrong: to add a setting, add one entry here and one field in [`crate::config::Config`];
//! the command line, the TOML key, `--print-config` and the documentation follow. Names and defaults are Gunicorn's
//! wherever Gunicorn has the setting.

pub(crate) mod gunicorn;
pub mod reference;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most worker processes there can be: the scoreboard has this many slots.
pub const MAX_WORKERS: u64 = 1024;
/// One year, in seconds: no timeout is longer, so that deadlines never overflow.
const YEAR: u64 = 365 * 24 * 3600;

/// The word that leaves a number to the server.
const AUTO: &str = "auto";

/// One setting, as every reader of the table sees it.
#[derive(Debug)]
pub struct Setting {
    /// The TOML key, and Gunicorn's name of the setting.
    pub name: &'static str,
    /// Long flags without the dashes; the first is the canonical one. Empty for the positional argument.
    pub flags: &'static [&'static str],
    /// The short flag.
    pub short: Option<char>,
    /// What values it takes.
    pub kind: Kind,
    /// The default, in the text form [`Setting::parse`] reads; none means unset.
    pub default: Option<&'static str>,
    /// An environment variable that replaces the default, with the text that goes before its value.
    pub default_from: Option<(&'static str, &'static str)>,
    /// One or two sentences for `--help` and the documentation.
    pub help: &'static str,
    /// The heading it stands under.
    pub section: &'static str,
    /// Where it may be given.
    pub place: Place,
    /// What a reload (HUP) does with a changed value.
    pub on_reload: OnReload,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within a range, both ends included.
    Integer {
        /// The least value.
        least: u64,
        /// The greatest value.
        most: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// An amount of memory: octets, or K, M, G or T of them, each 1024 times the one before.
    Size,
    /// A whole number from 1, or the word `auto`.
    CountOrAuto {
        /// The greatest number.
        most: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// A time in seconds, fractions allowed, at most a year.
    Seconds,
    /// Permission bits: octal, written with a leading zero.
    Mode,
    /// Any text on one line.
    Text,
    /// A file or directory; relative ones start at `chdir`.
    Path,
    /// Yes or no; on the command line its presence means yes, `--flag=false` no.
    Flag,
    /// Several texts; the flag may be repeated.
    TextList,
    /// Several paths; the flag may be repeated.
    PathList,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// One of these words, or a flag: `true`, and the flag without a word, mean the last one, `false` the first.
    ChoiceOrFlag(&'static [&'static str]),
    /// Names with values: `NAME=VALUE`, repeatable, or a TOML table.
    Options,
}

/// Where a setting may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the file, in `RGUNICORN_CMD_ARGS` and on the command line.
    Anywhere,
    /// As words only: `RGUNICORN_CMD_ARGS` or the command line.
    Words,
    /// On the command line only.
    CommandLine,
}

/// What a reload does with a changed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReload {
    /// The next generation has the new value.
    Applies,
    /// A reload that changes it is refused, by name.
    Fixed,
}

/// A value of a setting, of the type its [`Kind`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// For [`Kind::Integer`], [`Kind::CountOrAuto`] and [`Kind::Size`].
    Integer(u64),
    /// For [`Kind::Seconds`].
    Seconds(Duration),
    /// For [`Kind::Mode`].
    Mode(u32),
    /// For [`Kind::Text`], [`Kind::Path`], [`Kind::Choice`] and [`Kind::ChoiceOrFlag`], and `auto`.
    Text(String),
    /// For [`Kind::Flag`].
    Flag(bool),
    /// For [`Kind::TextList`] and [`Kind::PathList`].
    List(Vec<String>),
    /// For [`Kind::Options`].
    Options(BTreeMap<String, String>),
}

impl Value {
    /// The value as a worker class reads it: numbers bare, seconds in decimal, flags `true` or `false`, list
    /// elements separated by commas, options as `NAME=VALUE` separated by commas.
    pub fn to_text(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Seconds(time) => time.as_secs_f64().to_string(),
            Self::Mode(bits) => format!("0o{bits:o}"),
            Self::Text(text) => text.clone(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(list) => list.join(","),
            Self::Options(options) => {
                let pairs: Vec<String> =
                    options.iter().map(|(name, value)| format!("{name}={value}")).collect();
                pairs.join(",")
            }
        }
    }
}

impl Setting {
    /// Reads one word. For lists and options the word is one element.
    ///
    /// # Errors
    /// What is wrong with the word, as the end of a sentence ("must be …, not 'word'").
    pub fn parse(&self, word: &str) -> Result<Value, String> {
        self.kind.parse(word)
    }

    /// The flag as the operator types it, `--workers`; for the positional argument its name.
    pub fn flag_text(&self) -> String {
        match self.flags.first() {
            Some(flag) => format!("--{flag}"),
            None => "APP".to_owned(),
        }
    }

    /// The value when nobody gives one; `variable` looks up an environment variable for `default_from`.
    ///
    /// # Errors
    /// What is wrong with the variable's value, the variable named.
    pub fn default_value(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Value>, String> {
        if let Some((name, before)) = self.default_from
            && let Some(text) = variable(name)
        {
            return self.parse(&format!("{before}{text}")).map(Some).map_err(|why| format!("{name} {why}"));
        }
        match (self.kind, self.default) {
            (Kind::Options, Some(text)) => {
                let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
                let options = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                Ok(Some(Value::Options(options)))
            }
            (_, default) => default.map(|text| self.parse(text)).transpose(),
        }
    }
}

impl Kind {
    /// Reads one word; see [`Setting::parse`].
    fn parse(self, word: &str) -> Result<Value, String> {
        // Variables and options may span lines (a key, a certificate); nothing else does.
        let may_span_lines = matches!(self, Self::TextList | Self::Options);
        let forbidden = |character: &char| match character {
            '\0' => true,
            '\t' => false,
            other => other.is_control() && !may_span_lines,
        };
        if let Some(control) = word.chars().find(forbidden) {
            return Err(format!("must not contain the control character {control:?}"));
        }
        match self {
            Self::Integer { least, most, .. } => word
                .parse::<u64>()
                .ok()
                .filter(|number| (least..=most).contains(number))
                .map(Value::Integer)
                .ok_or_else(|| format!("must be {}, not '{word}'", self.describe())),
            Self::CountOrAuto { .. } if word.eq_ignore_ascii_case(AUTO) => Ok(Value::Text(AUTO.to_owned())),
            Self::CountOrAuto { most, .. } => word
                .parse::<u64>()
                .ok()
                .filter(|number| (1..=most).contains(number))
                .map(Value::Integer)
                .ok_or_else(|| format!("must be {}, not '{word}'", self.describe())),
            Self::Seconds => word
                .parse::<f64>()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .filter(|time| *time <= Duration::from_secs(YEAR))
                .map(Value::Seconds)
                .ok_or_else(|| format!("must be {}, not '{word}'", self.describe())),
            Self::Size => parse_size(word)
                .map(Value::Integer)
                .ok_or_else(|| format!("must be {}, not '{word}'", self.describe())),
            Self::Mode => parse_mode(word).map(Value::Mode),
            Self::Text | Self::Path => Ok(Value::Text(word.to_owned())),
            Self::Flag => match word {
                "true" => Ok(Value::Flag(true)),
                "false" => Ok(Value::Flag(false)),
                _ => Err(format!("must be {}, not '{word}'", self.describe())),
            },
            Self::TextList | Self::PathList => Ok(Value::List(vec![word.to_owned()])),
            Self::Choice(words) | Self::ChoiceOrFlag(words) => words
                .iter()
                .find(|choice| choice.eq_ignore_ascii_case(word))
                .or(match (self, word) {
                    (Self::ChoiceOrFlag(words), "true") => words.last(),
                    (Self::ChoiceOrFlag(words), "false") => words.first(),
                    _ => None,
                })
                .map(|choice| Value::Text((*choice).to_owned()))
                .ok_or_else(|| format!("must be {}, not '{word}'", self.describe())),
            Self::Options => match word.split_once('=') {
                Some((name, value)) if !name.is_empty() => {
                    Ok(Value::Options(BTreeMap::from([(name.to_owned(), value.to_owned())])))
                }
                _ => Err(format!("must be NAME=VALUE, not '{word}'")),
            },
        }
    }

    /// What the values are, as a phrase: "a whole number from 1 to 1024".
    pub fn describe(self) -> String {
        match self {
            Self::Integer { least, most: u64::MAX, .. } => format!("a whole number, {least} or more"),
            Self::Integer { least, most, .. } => format!("a whole number from {least} to {most}"),
            Self::Size => "a number of octets, or one with K, M, G or T behind it".to_owned(),
            Self::CountOrAuto { most, .. } => format!("a whole number from 1 to {most}, or auto"),
            Self::Seconds => format!("a number of seconds from 0 to {YEAR}"),
            Self::Mode => "an octal mode from 0 to 0o777".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::TextList => "a text or a list of texts".to_owned(),
            Self::PathList => "a path or a list of paths".to_owned(),
            Self::Choice(words) | Self::ChoiceOrFlag(words) => format!("one of {}", words.join(", ")),
            Self::Options => "a table of names and values".to_owned(),
        }
    }

    /// Whether its flag may be repeated, each time adding to the value.
    pub fn is_repeatable(self) -> bool {
        matches!(self, Self::TextList | Self::PathList | Self::Options)
    }

    /// The placeholder in `--help`.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Integer { unit: "bytes", .. } => "BYTES",
            Self::Integer { .. } | Self::CountOrAuto { .. } => "INT",
            Self::Size => "SIZE",
            Self::Seconds => "SECONDS",
            Self::Mode => "MODE",
            Self::Text | Self::TextList => "STRING",
            Self::Path | Self::PathList => "PATH",
            Self::Flag => "BOOL",
            Self::Choice(_) | Self::ChoiceOrFlag(_) => "WORD",
            Self::Options => "NAME=VALUE",
        }
    }
}

/// `1048576`, `1024K`, `1M`; letters in either case.
fn parse_size(word: &str) -> Option<u64> {
    let unit = word.chars().last()?.to_ascii_uppercase();
    let power = "KMGT".find(unit).map_or(0, |index| 10 * (index + 1));
    let digits = if power == 0 { word } else { &word[..word.len() - 1] };
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(1 << power)
}

/// Permission bits. A bare decimal such as `22` is refused: Gunicorn reads it as 0o26, which nobody means.
fn parse_mode(word: &str) -> Result<u32, String> {
    let digits = word.strip_prefix("0o").or_else(|| word.strip_prefix('0')).unwrap_or(word);
    if digits.len() == word.len() && word.len() > 1 {
        return Err(format!("must be octal with a leading zero, such as 022 or 0o22, not '{word}'"));
    }
    let digits = if digits.is_empty() { "0" } else { digits };
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(format!("must be {}, not '{word}'", Kind::Mode.describe()));
    }
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| format!("must be {}, not '{word}'", Kind::Mode.describe()))
}

/// The setting with this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The candidate most like `word`, if one is like it at all: at most a third of its letters are wrong.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which two swapped neighbours count once (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let unequal = usize::from(left[i - 1] != right[j - 1]);
            let mut least = (last[j - 1] + unequal).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

/// The words for [`crate::logging::LogLevel`], the least important first.
pub(crate) const LEVELS: &[&str] = &["trace", "debug", "info", "warning", "error", "critical"];

/// An entry with what most settings have: no short flag, no variable, given anywhere, applied by a reload.
const fn setting(
    section: &'static str,
    name: &'static str,
    flags: &'static [&'static str],
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        flags,
        short: None,
        kind,
        default,
        default_from: None,
        help,
        section,
        place: Place::Anywhere,
        on_reload: OnReload::Applies,
    }
}

impl Setting {
    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    const fn fixed(mut self) -> Self {
        self.on_reload = OnReload::Fixed;
        self
    }

    const fn default_from(mut self, variable: &'static str, before: &'static str) -> Self {
        self.default_from = Some((variable, before));
        self
    }
}

const fn count(least: u64, most: u64, unit: &'static str) -> Kind {
    Kind::Integer { least, most, unit }
}

/// Every setting there is, in the order in which help and documentation show them.
pub static SETTINGS: &[Setting] = &[
    setting(
        "Application",
        "application",
        &[],
        Kind::Text,
        None,
        "The application that answers: FILE.so:NAME, or a name searched in the plugin path. NAME is 'app' when \
         left out. It is mounted at '/'.",
    ),
    setting(
        "Application",
        "mount",
        &["mount"],
        Kind::TextList,
        None,
        "Mount an application under a path: PREFIX=APP. The longest prefix that matches a request wins. In the file also a \
         table, [[mount]], with prefix, application, and settings for the application at this place.",
    ),
    setting(
        "Application",
        "plugin_path",
        &["plugin-path"],
        Kind::PathList,
        None,
        "A directory that is searched first for worker classes and applications given by name.",
    ),
    setting(
        "Application",
        "hooks",
        &["hooks"],
        Kind::PathList,
        None,
        "A library of hooks, which are told of what happens to the server, its workers and their requests. Which there \
         are: docs/HOOKS.md.",
    ),
    setting(
        "Application",
        "chdir",
        &["chdir"],
        Kind::Path,
        None,
        "The working directory of the workers, and where relative paths start. Default: where the program was \
         started.",
    ),
    setting(
        "Application",
        "raw_env",
        &["env"],
        Kind::TextList,
        None,
        "An environment variable for the workers: KEY=VALUE.",
    )
    .short('e'),
    setting(
        "Configuration",
        "config",
        &["config"],
        Kind::Path,
        None,
        "The configuration file (TOML). Default: ./rgunicorn.toml, if it exists.",
    )
    .short('c')
    .place(Place::Words),
    setting(
        "Configuration",
        "check_config",
        &["check-config"],
        Kind::Flag,
        Some("false"),
        "Try what a start would do, a worker's begin and end included, but bind and serve nothing; then exit. Of itself it prints nothing if all is well.",
    )
    .place(Place::CommandLine),
    setting(
        "Configuration",
        "print_config",
        &["print-config"],
        Kind::ChoiceOrFlag(&["off", "json", "toml"]),
        Some("off"),
        "Print the configuration that all sources together make, as TOML that can be read again or with \
         --print-config=json as JSON, and exit.",
    )
    .place(Place::CommandLine),
    setting(
        "Debugging",
        "reload",
        &["reload"],
        Kind::Flag,
        Some("false"),
        "Reload, as on HUP, when the application, the worker class, a library that they bring, or the configuration file \
         has changed. For development; a change that does not work leaves the old one serving.",
    ),
    setting(
        "Debugging",
        "reload_engine",
        &["reload-engine"],
        Kind::Choice(&["auto", "inotify", "poll"]),
        Some("auto"),
        "How reload learns of changes: auto and inotify are the same, poll is refused.",
    ),
    setting(
        "Debugging",
        "reload_extra_files",
        &["reload-extra-file"],
        Kind::PathList,
        None,
        "A file that reload watches, too, or a pattern with '*', '?', '[…]', or '**' for any number of directories. \
         A file that appears later and matches is seen; a directory that does is with the next reload.",
    ),
    setting(
        "Sockets",
        "bind",
        &["bind"],
        Kind::TextList,
        Some("127.0.0.1:8000"),
        "Where to listen: HOST, HOST:PORT, [IPV6]:PORT, unix:PATH, unix:@NAME (an abstract name), or fd://N for a \
         socket that was passed. Sockets of the service manager replace all this; fd://NAME chooses among them. Default \
         when the PORT variable is set: 0.0.0.0:$PORT.",
    )
    .short('b')
    .default_from("PORT", "0.0.0.0:"),
    setting(
        "Sockets",
        "backlog",
        &["backlog"],
        count(1, i32::MAX as u64, "connections"),
        Some("2048"),
        "How many connections may wait to be accepted; the kernel's own limit is net.core.somaxconn.",
    ),
    setting(
        "Sockets",
        "reuse_port",
        &["reuse-port"],
        Kind::Flag,
        Some("false"),
        "Have as many sockets on each TCP address as there are workers (SO_REUSEPORT), each with a backlog of its own, \
         among which the kernel spreads new connections. All workers accept from all of them.",
    )
    .fixed(),
    setting(
        "Workers",
        "workers",
        &["workers"],
        Kind::CountOrAuto { most: MAX_WORKERS, unit: "processes" },
        Some("1"),
        "How many worker processes; 'auto' is one for each CPU that the server may use, by its affinity and the \
         quota of its control group, counted anew by each reload. Default when the WEB_CONCURRENCY variable is set: its value.",
    )
    .short('w')
    .default_from("WEB_CONCURRENCY", ""),
    setting(
        "Workers",
        "worker_class",
        &["worker-class"],
        Kind::Text,
        Some("sync"),
        "How a worker accepts and serves: a name searched in the plugin path (libNAME.so), or a file.",
    )
    .short('k'),
    setting(
        "Workers",
        "worker_options",
        &["worker-option"],
        Kind::Options,
        None,
        "An option of the worker class: NAME=VALUE. In the file: the table [worker_options].",
    ),
    setting(
        "Workers",
        "threads",
        &["threads"],
        count(1, 4096, "threads"),
        Some("1"),
        "Threads per worker that run the application, for worker classes that have them.",
    ),
    setting(
        "Workers",
        "worker_connections",
        &["worker-connections"],
        count(1, 1_000_000, "connections"),
        Some("1000"),
        "How many clients a worker serves at the same time, for worker classes that serve several.",
    ),
    setting(
        "Workers",
        "max_requests",
        &["max-requests"],
        count(0, u64::MAX, "requests"),
        Some("0"),
        "Replace a worker after this many requests; it serves on until another one is ready. 0 means never.",
    ),
    setting(
        "Workers",
        "max_requests_jitter",
        &["max-requests-jitter"],
        count(0, u64::MAX, "requests"),
        Some("0"),
        "Add a random number up to this one to max_requests, so that workers are not replaced all at once.",
    ),
    setting(
        "Workers",
        "max_worker_memory",
        &["max-worker-memory"],
        Kind::Size,
        Some("0"),
        "Replace a worker that has more memory than this for itself, in RAM or swapped out, such as 512M; it serves on \
         until another one is ready. It looks once a second. 0 means no limit.",
    ),
    setting(
        "Workers",
        "recycle_interval",
        &["recycle-interval"],
        Kind::Seconds,
        Some("0"),
        "At least this long between two workers that max_requests or max_worker_memory replaces; one that has to wait \
         for its turn serves on. 0 means as soon as the one before is replaced.",
    ),
    setting(
        "Workers",
        "preload_app",
        &["preload"],
        Kind::Flag,
        Some("false"),
        "Create the applications once, in a template process that then forks the workers: they share its memory, and \
         boot at once. Each generation has a template of its own, so that a reload brings new code all the same. An \
         application that starts threads before its start is refused.",
    ),
    setting(
        "Timeouts",
        "timeout",
        &["timeout"],
        Kind::Seconds,
        Some("30"),
        "Kill and replace a worker that has been silent for this long; 0 means never.",
    )
    .short('t'),
    setting(
        "Timeouts",
        "graceful_timeout",
        &["graceful-timeout"],
        Kind::Seconds,
        Some("30"),
        "How long a worker that was told to stop may go on with what it has begun.",
    ),
    setting(
        "Timeouts",
        "drain_delay",
        &["drain-delay"],
        Kind::Seconds,
        Some("0"),
        "How long the server serves on after TERM, with /readyz failing already, before it begins to drain: as long as \
         those who send requests need to notice. A second TERM ends the delay.",
    ),
    setting(
        "Timeouts",
        "boot_timeout",
        &["boot-timeout"],
        Kind::Seconds,
        Some("30"),
        "How long a probe or a new worker may take until it is ready; 0 means no limit.",
    ),
    setting(
        "Timeouts",
        "keepalive",
        &["keep-alive"],
        Kind::Seconds,
        Some("2"),
        "How long an idle connection is kept for the next request; 0 means not at all.",
    ),
    setting(
        "Timeouts",
        "head_timeout",
        &["head-timeout"],
        Kind::Seconds,
        Some("10"),
        "How long a client may take to send a whole request head; 0 means no limit.",
    ),
    setting(
        "Timeouts",
        "body_timeout",
        &["body-timeout"],
        Kind::Seconds,
        Some("30"),
        "How long a client may pause while it sends a request body; 0 means no limit.",
    ),
    setting(
        "Timeouts",
        "write_timeout",
        &["write-timeout"],
        Kind::Seconds,
        Some("30"),
        "How long a client may take nothing of a response; 0 means no limit.",
    ),
    setting(
        "Timeouts",
        "request_timeout",
        &["request-timeout"],
        Kind::Seconds,
        Some("0"),
        "How long one request may take, from the end of its head to the end of its answer; 0 means no limit.",
    ),
    setting(
        "Limits",
        "limit_request_line",
        &["limit-request-line"],
        count(0, 1 << 20, "bytes"),
        Some("4094"),
        "The longest request line; 0 means only limit_request_head counts.",
    ),
    setting(
        "Limits",
        "limit_request_fields",
        &["limit-request-fields"],
        count(1, 32768, "fields"),
        Some("100"),
        "The most header fields in a request.",
    ),
    setting(
        "Limits",
        "limit_request_field_size",
        &["limit-request-field-size", "limit-request-field_size"],
        count(0, 1 << 20, "bytes"),
        Some("8190"),
        "The longest header field, name and value; 0 means only limit_request_head counts.",
    ),
    setting(
        "Limits",
        "limit_request_head",
        &["limit-request-head"],
        count(256, 1 << 24, "bytes"),
        Some("65536"),
        "The longest request head, line and all fields together.",
    ),
    setting(
        "Limits",
        "limit_request_body",
        &["limit-request-body"],
        count(0, u64::MAX, "bytes"),
        Some("0"),
        "The longest request body; 0 means no limit.",
    ),
    setting(
        "Proxies",
        "forwarded_allow_ips",
        &["forwarded-allow-ips"],
        Kind::TextList,
        Some("127.0.0.1,::1"),
        "Peers whose secure_scheme_headers and forwarder_headers are believed: addresses and networks \
         (10.0.0.0/8), separated by commas, or '*' for all; a peer on a Unix socket is always among them. Default \
         when the FORWARDED_ALLOW_IPS variable is set: its value.",
    )
    .default_from("FORWARDED_ALLOW_IPS", ""),
    setting(
        "Proxies",
        "secure_scheme_headers",
        &["secure-scheme-header"],
        Kind::Options,
        Some("X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-PROTO=https,X-FORWARDED-SSL=on"),
        "Header fields, each with the value that says that the client came by HTTPS: NAME=VALUE. Any other value says \
         HTTP, and a request whose fields disagree is refused. In the file: the table [secure_scheme_headers].",
    ),
    setting(
        "Proxies",
        "forwarder_headers",
        &["forwarder-headers"],
        Kind::TextList,
        Some("SCRIPT_NAME,PATH_INFO"),
        "Header fields with an underscore in their name that header_map leaves alone if such a peer sends them, \
         separated by commas; '*' means all.",
    ),
    setting(
        "Proxies",
        "proxy_protocol",
        &["proxy-protocol"],
        Kind::ChoiceOrFlag(&["off", "v1", "v2", "auto"]),
        Some("off"),
        "Whether a connection may begin with a PROXY protocol header, which then tells the client's address: v1 is the \
         one in text, v2 the binary one, auto either. The flag without a word means auto.",
    ),
    setting(
        "Proxies",
        "proxy_allow_ips",
        &["proxy-allow-from"],
        Kind::TextList,
        Some("127.0.0.1,::1"),
        "Peers that may send a PROXY protocol header, as in forwarded_allow_ips. Any other peer that does is answered \
         403.",
    ),
    setting(
        "Leniency",
        "header_map",
        &["header-map"],
        Kind::Choice(&["drop", "refuse", "dangerous"]),
        Some("drop"),
        "What becomes of header fields with an underscore in their name, which an application could take for those with \
         a hyphen: drop the field, refuse the request, or hand it on, which is dangerous.",
    ),
    setting(
        "Leniency",
        "permit_obsolete_folding",
        &["permit-obsolete-folding"],
        Kind::Flag,
        Some("false"),
        "Accept a header field that goes on in the next line; the line end becomes a space.",
    ),
    setting(
        "Leniency",
        "strip_header_spaces",
        &["strip-header-spaces"],
        Kind::Flag,
        Some("false"),
        "Accept white space between the name of a header field and the colon, and remove it. Proxies that do otherwise \
         can be made to see another request than the server.",
    ),
    setting(
        "Leniency",
        "permit_unconventional_http_method",
        &["permit-unconventional-http-method"],
        Kind::Flag,
        Some("false"),
        "Accept methods with lower-case letters or '#', or with fewer than 3 or more than 20 letters.",
    ),
    setting(
        "Leniency",
        "permit_unconventional_http_version",
        &["permit-unconventional-http-version"],
        Kind::Flag,
        Some("false"),
        "Accept other versions of HTTP than 1.0 and 1.1: what is below 1.1 is served as 1.0, the rest as 1.1.",
    ),
    setting(
        "Leniency",
        "casefold_http_method",
        &["casefold-http-method"],
        Kind::Flag,
        Some("false"),
        "Make the method upper-case. Lower-case letters pass only with permit_unconventional_http_method.",
    ),
    setting(
        "Logging",
        "loglevel",
        &["log-level"],
        Kind::Choice(LEVELS),
        Some("info"),
        "The least important messages that the error log still shows: trace, debug, info, warning, error or \
         critical.",
    ),
    setting(
        "Logging",
        "errorlog",
        &["error-logfile", "log-file"],
        Kind::Path,
        Some("-"),
        "The error log: a file, or '-' for standard error.",
    ),
    setting(
        "Logging",
        "log_format",
        &["log-format"],
        Kind::Choice(&["text", "json"]),
        Some("text"),
        "How lines of the error log are written: as text, or each as one JSON object with time, pid, level and message.",
    ),
    setting(
        "Logging",
        "capture_output",
        &["capture-output"],
        Kind::Flag,
        Some("false"),
        "Send what the workers write to standard output and error to the file of the error log, as it is. Nothing changes \
         while errorlog is '-'.",
    ),
    setting(
        "Logging",
        "syslog",
        &["log-syslog"],
        Kind::Flag,
        Some("false"),
        "Send the error log to a syslog daemon as well, and the access log, even if it goes nowhere else. Nobody waits \
         for the daemon: what it does not take at once is dropped and counted.",
    ),
    setting(
        "Logging",
        "syslog_addr",
        &["log-syslog-to"],
        Kind::Text,
        Some("udp://localhost:514"),
        "Where the daemon listens for datagrams: udp://HOST:PORT, or unix://PATH, such as unix:///dev/log.",
    ),
    setting(
        "Logging",
        "syslog_prefix",
        &["log-syslog-prefix"],
        Kind::Text,
        None,
        "The middle of the tag, rgunicorn.PREFIX.error or rgunicorn.PREFIX.access. Default: proc_name, with dots for \
         colons.",
    ),
    setting(
        "Logging",
        "syslog_facility",
        &["log-syslog-facility"],
        Kind::Text,
        Some("user"),
        "The facility, by its name in syslog(3): user, daemon, local0 and others.",
    ),
    setting(
        "Logging",
        "disable_redirect_access_to_syslog",
        &["disable-redirect-access-to-syslog"],
        Kind::Flag,
        Some("false"),
        "Do not send the access log to syslog.",
    ),
    setting(
        "Logging",
        "accesslog",
        &["access-logfile"],
        Kind::Path,
        None,
        "The access log: a file, or '-' for standard output. Default: none.",
    ),
    setting(
        "Logging",
        "access_log_format",
        &["access-logformat"],
        Kind::Text,
        Some(r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#),
        "The format of an access log line.",
    ),
    setting(
        "Logging",
        "access_log_json",
        &["access-log-json"],
        Kind::Flag,
        Some("false"),
        "Write the access log as one JSON object a line, with time, remote_address, user, method, target, protocol, \
         status, bytes, duration_us, referer, user_agent and pid. What is not there is null; octets that are not \
         printable ASCII stand as \\u00XX.",
    ),
    setting(
        "Monitoring",
        "monitor_bind",
        &["monitor-bind"],
        Kind::Text,
        None,
        "Where the monitor answers /livez, /readyz and /metrics: HOST:PORT or unix:PATH. Whoever can reach it can read \
         all three. Default: nowhere.",
    )
    .fixed(),
    setting(
        "Monitoring",
        "control_socket",
        &["control-socket"],
        Kind::Path,
        None,
        "A Unix socket for 'rgunicorn ctl', of mode 0600 and owned by the master's user: whoever may open it can reload \
         and stop the server. Default: none.",
    )
    .fixed(),
    setting(
        "Monitoring",
        "statsd_host",
        &["statsd-host"],
        Kind::Text,
        None,
        "Where the monitor sends metrics once a second, under Gunicorn's names: HOST:PORT (UDP) or unix:PATH (datagrams). \
         docs/MONITORING.md tells what differs. Default: nowhere.",
    ),
    setting(
        "Monitoring",
        "statsd_prefix",
        &["statsd-prefix"],
        Kind::Text,
        None,
        "What the names of these metrics begin with; a dot follows it. Default: nothing.",
    ),
    setting(
        "Monitoring",
        "enable_backlog_metric",
        &["enable-backlog-metric"],
        Kind::Flag,
        Some("false"),
        "Whether the connections that wait to be accepted are among these metrics. /metrics always has them.",
    ),
    setting(
        "Monitoring",
        "dogstatsd_tags",
        &["dogstatsd-tags"],
        Kind::Text,
        None,
        "Tags in DogStatsD's form, separated by commas, for each of these metrics. Default: none.",
    ),
    setting(
        "Process",
        "daemon",
        &["daemon"],
        Kind::Flag,
        Some("false"),
        "Run in the background, in a session of its own, standard streams on /dev/null. The command ends with 0 when the \
         first worker is ready, or as it would have ended in the foreground.",
    )
    .short('D')
    .fixed(),
    setting(
        "Process",
        "proc_name",
        &["name"],
        Kind::Text,
        None,
        "The name in the titles of the processes, as ps shows them: 'rgunicorn: master [NAME]'. Default: the \
         application as it was given.",
    )
    .short('n'),
    setting(
        "Process",
        "pidfile",
        &["pid", "pidfile"],
        Kind::Path,
        None,
        "A file for the master's process id. Default: none.",
    )
    .short('p'),
    setting(
        "Process",
        "user",
        &["user"],
        Kind::Text,
        None,
        "Run the workers as this user, a name or a number. Default: as the master.",
    )
    .short('u'),
    setting(
        "Process",
        "group",
        &["group"],
        Kind::Text,
        None,
        "Run the workers as this group, a name or a number. Default: the user's, else the master's.",
    )
    .short('g'),
    setting(
        "Process",
        "initgroups",
        &["initgroups"],
        Kind::Flag,
        Some("true"),
        "Give the workers the supplementary groups of their user. With 'false' they have their group and no other; the \
         master's they never keep.",
    ),
    setting(
        "Process",
        "no_new_privs",
        &["no-new-privs"],
        Kind::Flag,
        Some("true"),
        "Take from the workers, for good, the right to gain privileges by running a program: set-user-ID and file \
         capabilities then mean nothing (PR_SET_NO_NEW_PRIVS of prctl(2)). 'false' is for applications that run such \
         programs, sendmail for one.",
    ),
    setting(
        "Process",
        "allow_world_writable",
        &["allow-world-writable"],
        Kind::Flag,
        Some("false"),
        "Accept plugins that everybody can write or put another file in place of. Without it such a file, or one in \
         such a directory, is refused.",
    ),
    setting(
        "Process",
        "umask",
        &["umask"],
        Kind::Mode,
        Some("0"),
        "The permission bits that files of the workers and Unix sockets do not get: octal, such as 022.",
    )
    .short('m'),
    setting(
        "Process",
        "runtime_dir",
        &["runtime-dir"],
        Kind::Path,
        None,
        "Where private copies of the plugins are kept while they run. Default: beside the application, else a \
         state or temporary directory.",
    )
    .fixed(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_size_is_octets_or_has_a_letter() {
        let size = |word| Kind::Size.parse(word).ok();
        for (word, octets) in
            [("0", 0), ("1048576", 1 << 20), ("4K", 4096), ("512m", 512 << 20), ("2G", 2 << 30)]
        {
            assert_eq!(size(word), Some(Value::Integer(octets)), "{word}");
        }
        for word in ["", "M", "1.5G", "-1", "+1", "1MB", "99999999T", "1 M"] {
            assert_eq!(size(word), None, "{word}");
        }
        let refused = Kind::Size.parse("much").expect_err("no number");
        assert_eq!(refused, "must be a number of octets, or one with K, M, G or T behind it, not 'much'");
    }

    #[test]
    fn names_and_flags_are_unique() {
        let mut seen = BTreeSet::new();
        for setting in SETTINGS {
            assert!(seen.insert(setting.name.to_owned()), "{} twice", setting.name);
            for flag in setting.flags {
                assert!(seen.insert(format!("--{flag}")), "--{flag} twice");
            }
            if let Some(short) = setting.short {
                assert!(seen.insert(format!("-{short}")), "-{short} twice");
            }
        }
    }

    #[test]
    fn every_default_is_a_valid_value_and_every_help_a_sentence() {
        for setting in SETTINGS {
            setting.default_value(|_| None).unwrap_or_else(|why| panic!("{}: {why}", setting.name));
            assert!(setting.help.ends_with('.'), "{}", setting.name);
        }
    }

    #[test]
    fn has_the_defaults_of_gunicorn() {
        let cases = [
            ("bind", "127.0.0.1:8000"),
            ("backlog", "2048"),
            ("workers", "1"),
            ("worker_class", "sync"),
            ("threads", "1"),
            ("worker_connections", "1000"),
            ("timeout", "30"),
            ("graceful_timeout", "30"),
            ("keepalive", "2"),
            ("limit_request_line", "4094"),
            ("limit_request_fields", "100"),
            ("limit_request_field_size", "8190"),
            ("umask", "0o0"),
            ("reload", "false"),
            ("reload_engine", "auto"),
            ("reuse_port", "false"),
            ("forwarded_allow_ips", "127.0.0.1,::1"),
            ("proxy_allow_ips", "127.0.0.1,::1"),
            ("forwarder_headers", "SCRIPT_NAME,PATH_INFO"),
            // A map: the order is that of the names.
            ("secure_scheme_headers", "X-FORWARDED-PROTO=https,X-FORWARDED-PROTOCOL=ssl,X-FORWARDED-SSL=on"),
            ("proxy_protocol", "off"),
            ("header_map", "drop"),
            ("permit_obsolete_folding", "false"),
            ("strip_header_spaces", "false"),
            ("permit_unconventional_http_method", "false"),
            ("permit_unconventional_http_version", "false"),
            ("casefold_http_method", "false"),
        ];
        for (name, text) in cases {
            let value = find(name).unwrap().default_value(|_| None).unwrap().unwrap();
            assert_eq!(value.to_text(), text, "{name}");
        }
    }

    #[test]
    fn a_variable_replaces_a_default() {
        let bind = find("bind").unwrap().default_value(|name| (name == "PORT").then(|| "99".to_owned()));
        assert_eq!(bind.unwrap().unwrap().to_text(), "0.0.0.0:99");
        let wrong = find("workers").unwrap().default_value(|_| Some("many".to_owned())).unwrap_err();
        assert!(wrong.starts_with("WEB_CONCURRENCY must be"), "{wrong}");
    }

    #[test]
    fn reads_and_refuses_words() {
        let cases: &[(&str, &str, Result<&str, &str>)] = &[
            ("workers", "8", Ok("8")),
            ("workers", "AUTO", Ok("auto")),
            ("workers", "0", Err("must be a whole number from 1 to 1024, or auto, not '0'")),
            ("workers", "1025", Err("must be a whole number from 1 to 1024, or auto, not '1025'")),
            ("workers", "1.5", Err("must be a whole number from 1 to 1024, or auto, not '1.5'")),
            ("max_requests", "-1", Err("must be a whole number, 0 or more, not '-1'")),
            ("timeout", "0.1", Ok("0.1")),
            ("timeout", "inf", Err("must be a number of seconds from 0 to 31536000, not 'inf'")),
            ("timeout", "-1", Err("must be a number of seconds from 0 to 31536000, not '-1'")),
            ("loglevel", "DEBUG", Ok("debug")),
            (
                "loglevel",
                "loud",
                Err("must be one of trace, debug, info, warning, error, critical, not 'loud'"),
            ),
            ("umask", "022", Ok("0o22")),
            ("umask", "0o7", Ok("0o7")),
            ("umask", "0", Ok("0o0")),
            ("umask", "22", Err("must be octal with a leading zero, such as 022 or 0o22, not '22'")),
            ("umask", "0888", Err("must be an octal mode from 0 to 0o777, not '0888'")),
            ("umask", "0+7", Err("must be an octal mode from 0 to 0o777, not '0+7'")),
            ("worker_options", "a=b=c", Ok("a=b=c")),
            ("worker_options", "a", Err("must be NAME=VALUE, not 'a'")),
            ("header_map", "Refuse", Ok("refuse")),
            ("header_map", "keep", Err("must be one of drop, refuse, dangerous, not 'keep'")),
            ("proxy_protocol", "V1", Ok("v1")),
            ("proxy_protocol", "true", Ok("auto")),
            ("proxy_protocol", "false", Ok("off")),
            ("proxy_protocol", "v3", Err("must be one of off, v1, v2, auto, not 'v3'")),
            ("header_map", "true", Err("must be one of drop, refuse, dangerous, not 'true'")),
            ("pidfile", "a\nb", Err("must not contain the control character '\\n'")),
        ];
        for (name, word, expected) in cases {
            let got = find(name).unwrap().parse(word).map(|value| value.to_text());
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{name} {word}");
        }
    }

    #[test]
    fn finds_the_nearest_name() {
        let names = || SETTINGS.iter().map(|setting| setting.name);
        let cases = [
            ("wokers", Some("workers")),
            ("worker-class", Some("worker_class")),
            ("time_out", Some("timeout")),
            ("keep_alive", Some("keepalive")),
            ("zzz", None),
        ];
        for (word, expected) in cases {
            assert_eq!(nearest(word, names()), expected, "{word}");
        }
    }
}
