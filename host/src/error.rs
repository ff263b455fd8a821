//! Exit codes, and the one error with which the program ends.
//!
//! Owns the numbers an operator's scripts test, and the sentence `main` prints with them. Does not own the errors
//! of the single parts: each says its own sentence and is converted here.
//!
//! What a newcomer would get wrong: the codes are about *where to look*, not about how bad it is. 3 means the
//! worker (class file, or a first worker that died), 4 the application file, 1 everything the operator wrote into
//! settings. After the first start none of them is used: a failed reload leaves the server running.

use std::fmt;

use crate::cli::CliError;
use crate::config::ConfigError;
use crate::listener::ListenerError;
use crate::logging::LogError;
use crate::pidfile::PidfileError;

/// Settings, a listener, a log file, the pid file or the runtime directory.
pub const EXIT_SETTINGS: i32 = 1;
/// The command line could not be understood at all: an unknown option, a value left out. As Gunicorn and most
/// programs do.
pub const EXIT_USAGE: i32 = 2;
/// The worker-class file, or a probe or first worker that died by signal, exit or boot timeout.
pub const EXIT_WORKER_BOOT: i32 = 3;
/// The application file or what its start-up code reported.
pub const EXIT_APP_LOAD: i32 = 4;

/// Why the program ends before, or instead of, serving: one sentence and an exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    message: String,
    exit_code: i32,
}

impl StartError {
    /// An error with its sentence (operation, object, cause, what to do) and one of the `EXIT_` codes.
    pub fn new(exit_code: i32, message: impl Into<String>) -> Self {
        Self { message: message.into(), exit_code }
    }

    /// An end that was told of already, on standard output: only the exit code is left to say.
    pub fn told(exit_code: i32) -> Self {
        Self { message: String::new(), exit_code }
    }

    /// Whether it was told of already.
    pub fn is_told(&self) -> bool {
        self.message.is_empty()
    }

    /// The exit code, one of the `EXIT_` constants.
    pub fn exit_code(&self) -> i32 {
        self.exit_code
    }
}

impl From<CliError> for StartError {
    fn from(error: CliError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<ListenerError> for StartError {
    fn from(error: ListenerError) -> Self {
        Self::new(EXIT_SETTINGS, error.to_string())
    }
}

impl From<PidfileError> for StartError {
    fn from(error: PidfileError) -> Self {
        Self::new(EXIT_SETTINGS, error.to_string())
    }
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> Self {
        Self::new(EXIT_SETTINGS, error.to_string())
    }
}

/// Passes text on with control characters escaped, but for tabs: what comes from the network, from a plugin or from a
/// file's name can forge no line and no terminal sequence. Everything that is logged or said to a terminal comes through
/// here.
pub(crate) struct Escaped<'a>(pub(crate) &'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '\t' => self.0.push('\t'),
                control if control.is_control() => self.0.extend(control.escape_default()),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

/// A sentence for a terminal, on one line.
pub fn one_line(sentence: &impl fmt::Display) -> String {
    let mut line = String::new();
    // Writing to a String cannot fail; a Display that fails has written what it could.
    let _ = fmt::Write::write_fmt(&mut Escaped(&mut line), format_args!("{sentence}"));
    line
}

/// A text for a terminal, whose lines are the program's own.
pub fn lines(text: &str) -> String {
    let mut lines = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            lines.push('\n');
        }
        // As above.
        let _ = fmt::Write::write_str(&mut Escaped(&mut lines), line);
    }
    lines
}

/// The system's words for an error, without Rust's "(os error 2)".
pub(crate) fn io_text(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_a_terminal_has_no_control_characters() {
        let hostile = "a\u{1b}[2J\r\tb\u{9b}\u{7f}\nc";
        assert_eq!(one_line(&hostile), "a\\u{1b}[2J\\r\tb\\u{9b}\\u{7f}\\nc");
        assert_eq!(lines(hostile), "a\\u{1b}[2J\\r\tb\\u{9b}\\u{7f}\nc");
    }

    #[test]
    fn keeps_the_sentence_and_the_code_of_each_kind() {
        let cases = [
            (ConfigError::Settings("a".to_owned()), 1),
            (ConfigError::WorkerClass("a".to_owned()), 3),
            (ConfigError::Application("a".to_owned()), 4),
        ];
        for (error, code) in cases {
            let start = StartError::from(error);
            assert_eq!((start.to_string().as_str(), start.exit_code()), ("a", code));
        }
        assert_eq!(StartError::from(CliError::Usage("u".to_owned())).exit_code(), EXIT_USAGE);
    }
}
