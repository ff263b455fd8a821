//! The error log: Gunicorn's lines, one write each, never waiting for whoever reads them.
//!
//! Owns the backend of the `log` facade, in the master and in every child. Does not own the access log, nor where
//! and how lines are written without waiting (`logging/sink.rs`). No crate was taken, because none reopens its file, survives
//! fork(2) without a thread, and drops and counts what a full pipe refuses.
//!
//! What a newcomer would get wrong: times are UTC, and the line says so (`+0000`). Local time needs localtime_r(3),
//! which reads files and takes locks that a forked child may find taken.

use std::fmt::{self, Write};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};
use serde::{Deserialize, Serialize};

use crate::error::Escaped;

mod open;
pub(crate) mod sink;
pub mod syslog;

use sink::Sink;
use syslog::{Sender, Severity, Syslog};

/// Gunicorn's levels, and `Trace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Bytes.
    Trace,
    /// Decisions.
    Debug,
    /// What an operator follows.
    Info,
    /// Degraded, goes on.
    Warning,
    /// Someone must act.
    Error,
    /// Only what [`critical`] writes.
    Critical,
}

impl LogLevel {
    /// The level with this lower-case name.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warning" => Self::Warning,
            "error" => Self::Error,
            "critical" => Self::Critical,
            _ => return None,
        })
    }

    const ALL: [Self; 6] = [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];

    /// The level that is this number `as u64`.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    /// The `log` crate's filter. It has no critical: see [`CRITICAL`].
    pub fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::Trace,
            Self::Debug => LevelFilter::Debug,
            Self::Info => LevelFilter::Info,
            Self::Warning => LevelFilter::Warn,
            Self::Error | Self::Critical => LevelFilter::Error,
        }
    }
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogTarget {
    /// '-': standard error for the error log, standard output for the access log.
    Standard,
    /// A file at this absolute path.
    File(PathBuf),
}

/// A log that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot open the log {}: {why}; {advice}", path.display())]
pub struct LogError {
    path: PathBuf,
    why: String,
    advice: &'static str,
}

impl LogError {
    fn new(path: PathBuf, error: &io::Error) -> Self {
        let advice = match error.raw_os_error() {
            Some(nix::libc::ENXIO) => "it is a FIFO that nobody reads: start its reader first",
            Some(nix::libc::EISDIR) => "give the path of a file in it",
            Some(nix::libc::EACCES | nix::libc::EPERM | nix::libc::EROFS) => {
                "let the server's user write there or give another path"
            }
            _ => "create its directory or give another path",
        };
        Self { path, why: crate::error::io_text(error), advice }
    }
}

/// The target of records that are shown as CRITICAL, also when only those are shown.
pub const CRITICAL: &str = "critical";

static ERROR_LOG: ErrorLog = ErrorLog::new();

/// In memory that is shared with all children, both.
static LINES_EVER: OnceLock<&'static [AtomicU64]> = OnceLock::new();
static DROPPED_EVER: OnceLock<&'static AtomicU64> = OnceLock::new();

/// Master: makes this the program's log, on standard error at level info until [`configure`] says otherwise. Call
/// once, before anything is logged; later calls change nothing.
pub fn start() {
    if log::set_logger(&ERROR_LOG).is_ok() {
        ERROR_LOG.lock().sink = Sink::open(&LogTarget::Standard, io::stderr().as_fd(), None).ok();
        log::set_max_level(LevelFilter::Info);
    }
}

/// Master: changes where and what is logged, at start and on reload. `owner` (uid, gid) gets a newly opened file,
/// so that workers can reopen it.
///
/// # Errors
/// The file cannot be opened; the log stays as it was.
pub fn configure(target: &LogTarget, level: LogLevel, owner: Option<(u32, u32)>) -> Result<(), LogError> {
    ERROR_LOG.configure(target, owner)?;
    set_level(level);
    Ok(())
}

/// Probe: whether the log could be opened; a file is made as [`configure`] would make it.
///
/// # Errors
/// It cannot.
pub fn try_open(target: &LogTarget, owner: Option<(u32, u32)>) -> Result<(), LogError> {
    match target {
        LogTarget::Standard => Ok(()),
        LogTarget::File(_) => Sink::open(target, io::stderr().as_fd(), owner).map(drop),
    }
}

/// How a line of the error log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Gunicorn's.
    Text,
    /// One object a line: `time`, `pid`, `level`, `message`.
    Json,
}

/// Changes how lines are written, and whether a syslog daemon gets them as well; in this process, and in those that
/// are forked from it. Call it before [`configure`], whose messages are then written that way.
pub fn set_style(format: LogFormat, syslog: Option<&Syslog>) {
    ERROR_LOG.json.store(format == LogFormat::Json, Ordering::Relaxed);
    let sender = syslog.map(|syslog| Sender::open(syslog, "error"));
    let why = match sender {
        None => {
            ERROR_LOG.lock().syslog = None;
            return;
        }
        Some(Ok(sender)) => {
            ERROR_LOG.lock().syslog = Some(sender);
            return;
        }
        Some(Err(why)) => why,
    };
    log::error!("cannot open a socket for syslog: {why}; its daemon gets no lines until the next reload");
}

/// Worker: standard output and error go to the log's file from now on, also after it was reopened. Nothing happens
/// while the log is standard error itself.
///
/// # Errors
/// None expected: dup2(2) of an open descriptor.
pub fn capture_output() -> io::Result<()> {
    let mut state = ERROR_LOG.lock();
    state.captures = true;
    state.redirect()
}

/// Changes the level, in this process.
pub fn set_level(level: LogLevel) {
    ERROR_LOG.only_critical.store(level == LogLevel::Critical, Ordering::Relaxed);
    log::set_max_level(level.filter());
}

/// Opens the file anew (USR1), in this process; what was '-' stays.
///
/// # Errors
/// The file cannot be opened; the old one is written on.
pub fn reopen() -> Result<(), LogError> {
    ERROR_LOG.reopen()
}

/// Worker: call in a child right after fork(2): what the parent dropped is the parent's to say.
pub fn after_fork() {
    ERROR_LOG.dropped.store(0, Ordering::Relaxed);
    ERROR_LOG.lost_to_syslog.store(0, Ordering::Relaxed);
}

/// Child: the descriptors that lines are written to, which must stay open.
pub fn raw_fds() -> Vec<i32> {
    let state = ERROR_LOG.lock();
    let sink = state.sink.as_ref().map(|sink| sink.as_fd().as_raw_fd());
    sink.into_iter().chain(state.syslog.as_ref().map(Sender::raw_fd)).collect()
}

/// Master: where this process and all its children count, beside what each of them says, the lines that they drop. Call
/// once, before the first fork; later calls change nothing.
pub fn count_dropped(total: &'static AtomicU64) {
    let _ = DROPPED_EVER.set(total);
}

/// Master: where this process and all its children count the lines of level critical, error and warning, in this order.
/// Call once, before the first fork; later calls change nothing.
pub fn count_lines(counts: &'static [AtomicU64]) {
    let _ = LINES_EVER.set(counts);
}

/// Adds to the count that [`count_dropped`] has named.
pub fn add_dropped(lines: u64) {
    if let Some(total) = DROPPED_EVER.get() {
        total.fetch_add(lines, Ordering::Relaxed);
    }
}

/// How many lines this process dropped and has not said so yet.
pub fn dropped() -> u64 {
    ERROR_LOG.dropped.load(Ordering::Relaxed)
}

/// Logs at Gunicorn's highest level, which the `log` crate does not have.
pub fn critical(message: fmt::Arguments<'_>) {
    log::error!(target: CRITICAL, "{message}");
}

/// The backend; a value of its own so that tests have theirs.
#[derive(Debug)]
struct ErrorLog {
    state: Mutex<State>,
    dropped: AtomicU64,
    only_critical: AtomicBool,
    json: AtomicBool,
    lost_to_syslog: AtomicU64,
}

#[derive(Debug)]
struct State {
    sink: Option<Sink>,
    target: LogTarget,
    owner: Option<(u32, u32)>,
    syslog: Option<Sender>,
    /// Whether standard output and error follow the file.
    captures: bool,
}

impl State {
    fn redirect(&self) -> io::Result<()> {
        if let (true, LogTarget::File(_), Some(sink)) = (self.captures, &self.target, &self.sink) {
            nix::unistd::dup2_stdout(sink)?;
            nix::unistd::dup2_stderr(sink)?;
        }
        Ok(())
    }
}

impl ErrorLog {
    const fn new() -> Self {
        let state =
            State { sink: None, target: LogTarget::Standard, owner: None, syslog: None, captures: false };
        Self {
            state: Mutex::new(state),
            dropped: AtomicU64::new(0),
            only_critical: AtomicBool::new(false),
            json: AtomicBool::new(false),
            lost_to_syslog: AtomicU64::new(0),
        }
    }

    /// A child finds the lock free: the master has one thread, which was forking and not logging.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn configure(&self, target: &LogTarget, owner: Option<(u32, u32)>) -> Result<(), LogError> {
        let sink = Sink::open(target, io::stderr().as_fd(), owner)?;
        let mut state = self.lock();
        (state.sink, state.target, state.owner) = (Some(sink), target.clone(), owner);
        Ok(())
    }

    fn reopen(&self) -> Result<(), LogError> {
        let mut state = self.lock();
        if state.target != LogTarget::Standard {
            state.sink = Some(Sink::open(&state.target, io::stderr().as_fd(), state.owner)?);
            // What dup2(2) refuses goes on to the old file.
            let _ = state.redirect();
        }
        Ok(())
    }

    fn write(&self, level: &str, message: fmt::Arguments<'_>) {
        // Formatted before the lock is taken: the message's own Display may log.
        let pid = std::process::id();
        let mut text = String::new();
        // A Display that fails has written what it could.
        let _ = Escaped(&mut text).write_fmt(message);
        let line = self.line(pid, level, &text);
        let state = self.lock();
        let mut notice = None;
        if let Some(syslog) = &state.syslog {
            notice = self.to_syslog(syslog, level, pid, &text);
        }
        let Some(sink) = &state.sink else { return };
        if let Some(notice) = notice {
            self.dropped.fetch_add(
                sink.write_lines(self.line(pid, "WARNING", &notice).as_bytes()),
                Ordering::Relaxed,
            );
        }
        let before = self.dropped.load(Ordering::Relaxed);
        if before > 0 {
            let notice = format!("{before} log lines were dropped: the log could not be written at once");
            let notice = self.line(pid, "WARNING", &notice);
            if sink.write_lines(notice.as_bytes()) == 0 {
                self.dropped.fetch_sub(before, Ordering::Relaxed);
            }
        }
        let dropped = sink.write_lines(line.as_bytes());
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
            add_dropped(dropped);
        }
    }
}

impl ErrorLog {
    /// Sends a line; returns what is to be said of it in the log itself, at the first one that is lost and when the
    /// daemon is back.
    fn to_syslog(&self, syslog: &Sender, level: &str, pid: u32, text: &str) -> Option<String> {
        if !syslog.send(severity(level), pid, text.as_bytes()) {
            let first = self.lost_to_syslog.fetch_add(1, Ordering::Relaxed) == 0;
            return first
                .then(|| "the syslog daemon takes no lines; until it does they are counted".to_owned());
        }
        let lost = self.lost_to_syslog.swap(0, Ordering::Relaxed);
        let notice = format!("{lost} log lines did not reach the syslog daemon");
        (lost > 0).then_some(notice)
    }

    fn line(&self, pid: u32, level: &str, text: &str) -> String {
        let now = SystemTime::now();
        if self.json.load(Ordering::Relaxed) {
            json(now, pid, level, text)
        } else {
            line(now, pid, level, text)
        }
    }
}

fn severity(level: &str) -> Severity {
    match level {
        "CRITICAL" => Severity::Critical,
        "ERROR" => Severity::Error,
        "WARNING" => Severity::Warning,
        "INFO" => Severity::Info,
        _ => Severity::Debug,
    }
}

impl Log for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The facade has judged the level already, by `set_max_level`.
        metadata.target() == CRITICAL || !self.only_critical.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error if record.target() == CRITICAL => "CRITICAL",
            log::Level::Error => "ERROR",
            log::Level::Warn => "WARNING",
            log::Level::Info => "INFO",
            log::Level::Debug => "DEBUG",
            log::Level::Trace => "TRACE",
        };
        let counted = ["CRITICAL", "ERROR", "WARNING"].iter().position(|counted| *counted == level);
        if let Some(counts) = LINES_EVER.get()
            && let Some(count) = counted.and_then(|index| counts.get(index))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.write(level, *record.args());
    }

    fn flush(&self) {}
}

/// `[2026-11-21 06:53:12 +0000] [4711] [INFO] message`, with its newline.
fn line(now: SystemTime, pid: u32, level: &str, text: &str) -> String {
    let time = UtcTime::from(now);
    format!(
        "[{:04}-{:02}-{:02} {:02}:{:02}:{:02} +0000] [{pid}] [{level}] {text}\n",
        time.year, time.month, time.day, time.hour, time.minute, time.second
    )
}

/// The same as an object, with its newline.
fn json(now: SystemTime, pid: u32, level: &str, text: &str) -> String {
    let time = UtcTime::from(now);
    let text = serde_json::Value::from(text);
    format!(
        "{{\"time\": \"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z\", \"pid\": {pid}, \"level\": \"{level}\", \"message\": {text}}}\n",
        time.year, time.month, time.day, time.hour, time.minute, time.second
    )
}

/// A moment as a calendar and a clock show it, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UtcTime {
    pub(crate) year: u64,
    /// From 1.
    pub(crate) month: u64,
    /// From 1.
    pub(crate) day: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl From<SystemTime> for UtcTime {
    /// A clock before 1970 shows 1970.
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (days, clock) = (seconds / 86_400, seconds % 86_400);
        // Days are counted from 0000-03-01, so that a leap day is the last of its year; an era is 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::temp_dir::TempDir;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn writes_lines_as_gunicorn() {
        let got = line(at(1_795_243_992), 4711, "INFO", "Listening at: http://[::]:80");
        assert_eq!(got, "[2026-11-21 06:53:12 +0000] [4711] [INFO] Listening at: http://[::]:80\n");
    }

    #[test]
    fn knows_the_calendar() {
        let cases = [
            (0, (1970, 1, 1, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 0, 0, 0)),
            (951_868_800, (2000, 3, 1, 0, 0, 0)),
            (1_735_689_599, (2024, 12, 31, 23, 59, 59)),
            (4_107_542_400, (2100, 3, 1, 0, 0, 0)),
        ];
        for (seconds, expected) in cases {
            let got = UtcTime::from(at(seconds));
            assert_eq!(
                (got.year, got.month, got.day, got.hour, got.minute, got.second),
                expected,
                "{seconds}"
            );
        }
    }

    #[test]
    fn a_message_can_forge_no_line() {
        let temp = TempDir::new("logging-forge");
        let log = ErrorLog::new();
        log.configure(&LogTarget::File(temp.join("log")), None).unwrap();
        log.write("INFO", format_args!("{}", "a\nb\x1b[31m\u{85}ä\tc\"d"));
        log.json.store(true, Ordering::Relaxed);
        log.write("INFO", format_args!("{}", "a\nb\x1b[31m\u{85}ä\tc\"d"));
        let got = std::fs::read_to_string(temp.join("log")).unwrap();
        let (text, json) = got.trim_end().split_once('\n').unwrap();
        let escaped = "a\\nb\\u{1b}[31m\\u{85}ä\tc\"d";
        assert!(text.ends_with(&format!("[INFO] {escaped}")), "{text:?}");
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["message"], escaped);
        assert_eq!(json["level"], "INFO");
    }

    #[test]
    fn says_how_many_lines_were_dropped() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = ErrorLog::new();
        log.lock().sink = Some(Sink::open(&LogTarget::Standard, writer.as_fd(), None).unwrap());
        drop(writer);
        let long = "x".repeat(3000);
        while log.dropped.load(Ordering::Relaxed) < 3 {
            log.write("INFO", format_args!("{long}"));
        }
        let mut taken = vec![0; 1 << 16];
        let _ = reader.read(&mut taken).unwrap();
        log.write("INFO", format_args!("again"));
        assert_eq!(log.dropped.load(Ordering::Relaxed), 0);
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let tail: Vec<&str> = rest.lines().rev().take(2).collect();
        assert!(
            tail[1].ends_with("[WARNING] 3 log lines were dropped: the log could not be written at once"),
            "{tail:?}"
        );
        assert!(tail[0].ends_with("[INFO] again"), "{tail:?}");
    }

    #[test]
    fn reopens_a_file_that_was_moved_away() {
        let temp = TempDir::new("logging");
        let (path, moved) = (temp.join("log"), temp.join("log.1"));
        let log = ErrorLog::new();
        log.configure(&LogTarget::File(path.clone()), None).unwrap();
        log.write("INFO", format_args!("one"));
        std::fs::rename(&path, &moved).unwrap();
        log.write("INFO", format_args!("two"));
        log.reopen().unwrap();
        log.write("INFO", format_args!("three"));
        assert_eq!(std::fs::read_to_string(moved).unwrap().lines().count(), 2);
        assert!(std::fs::read_to_string(path).unwrap().ends_with("[INFO] three\n"));
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let temp = TempDir::new("logging");
        let directory = temp.join("d");
        std::fs::create_dir(&directory).unwrap();
        let moved = temp.join("moved");
        let log = ErrorLog::new();
        log.configure(&LogTarget::File(directory.join("log")), None).unwrap();
        std::fs::rename(&directory, &moved).unwrap();
        assert!(log.reopen().is_err());
        log.write("INFO", format_args!("still"));
        assert!(std::fs::read_to_string(moved.join("log")).unwrap().ends_with("still\n"));
    }

    #[test]
    fn critical_passes_where_errors_do_not() {
        let temp = TempDir::new("logging");
        let path = temp.join("log");
        let log = ErrorLog::new();
        log.configure(&LogTarget::File(path.clone()), None).unwrap();
        log.only_critical.store(true, Ordering::Relaxed);
        log.log(&Record::builder().level(log::Level::Error).args(format_args!("no")).build());
        log.log(
            &Record::builder().level(log::Level::Error).target(CRITICAL).args(format_args!("yes")).build(),
        );
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.lines().count() == 1 && text.ends_with("[CRITICAL] yes\n"), "{text}");
    }
}
