//! What the operator typed: the command line, and the words of `RGUNICORN_CMD_ARGS`.
//!
//! Owns the translation of words into [`Values`], and the sentences about words that cannot be understood. Does not
//! own what values mean together, defaults, or anything outside the words: no file and no name is looked up here.
//!
//! What a newcomer would get wrong: this runs in the master, before it becomes one, and must stay free of files and
//! names; everything that reads either belongs to [`crate::config::Config::load`], which runs in the probe.

mod description;
mod tools;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::error::{EXIT_SETTINGS, EXIT_USAGE};
use crate::settings::{Kind, Place, SETTINGS, Setting, Value, gunicorn};

pub use description::description;

/// The subcommand that asks a running server. An application of such a name is written `NAME:app`.
const CONTROL: &str = "ctl";
/// The subcommand that builds beside a server.
const DEVELOP: &str = "dev";

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Serve.
    Serve(Values),
    /// Try a worker class.
    Certify(crate::certify::Request),
    /// Load the configuration, say whether it is sound, exit.
    CheckConfig(Values),
    /// Load the configuration, print it, exit.
    PrintConfig(Values, PrintFormat),
    /// Try what a start would do, say what comes of it, exit.
    Check(Values),
    /// Ask a running server.
    Control(crate::ctl::Request),
    /// Tell what plugin files are.
    Inspect(crate::inspect::Request),
    /// Build and serve what is being written.
    Develop(crate::dev::Plan),
    /// Make a project.
    New(crate::new::Request),
    /// Print this help text, exit 0.
    Help {
        /// About the settings.
        text: String,
        /// What else was typed, as far as it could be understood: a worker class has options of its own.
        values: Values,
    },
    /// Print this version text, exit 0.
    Version(String),
}

/// How a configuration is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrintFormat {
    /// As a file that says the same.
    Toml,
    /// As one object.
    Json,
}

/// Typed values by setting name, each with where it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    given: BTreeMap<&'static str, Given>,
}

/// One typed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// Where a value was written; its `Display` ends a sentence ("on the command line").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default from the table.
    Default,
    /// In an environment variable that stands in for the default.
    Variable(&'static str),
    /// In a file.
    File {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In `RGUNICORN_CMD_ARGS`.
    CommandArgs,
    /// On the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::Variable(name) => write!(f, "in {name}"),
            Self::File { path, line } => write!(f, "in {} line {line}", path.display()),
            Self::CommandArgs => f.write_str("in RGUNICORN_CMD_ARGS"),
            Self::CommandLine => f.write_str("on the command line"),
        }
    }
}

impl Values {
    /// The value typed for a setting.
    pub fn get(&self, name: &str) -> Option<&Given> {
        self.given.get(name)
    }

    /// Sets a value, in place of an earlier one.
    pub fn set(&mut self, setting: &'static Setting, value: Value, origin: Origin) {
        self.given.insert(setting.name, Given { value, origin });
    }

    /// Lays `stronger` over these values. Each of its values replaces ours, lists and tables as a whole; only options
    /// of the worker class are replaced one by one, since each is a setting of its own.
    pub fn overlay(&mut self, stronger: Self) {
        for (name, mut given) in stronger.given {
            if name == "worker_options"
                && let Value::Options(ours) = &mut given.value
                && let Some(Given { value: Value::Options(weaker), .. }) = self.given.get(name)
            {
                for (option, value) in weaker {
                    ours.entry(option.clone()).or_insert_with(|| value.clone());
                }
            }
            self.given.insert(name, given);
        }
    }

    /// All values with their settings' names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        self.given.iter().map(|(name, given)| (*name, given))
    }
}

/// Why the words could not be understood: one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// The words as such: an unknown option, a value left out, bytes that are not UTF-8.
    #[error("{0}")]
    Usage(String),
    /// A value of the wrong type or out of range.
    #[error("{0}")]
    Value(String),
}

impl CliError {
    /// 2 for words that are no command line at all, 1 for a setting with a bad value.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Value(_) => EXIT_SETTINGS,
        }
    }
}

/// Understands a command line; the first word is the program's own name.
///
/// # Errors
/// One sentence about the first word that cannot be understood.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let words = argv.into_iter().skip(1).enumerate().map(utf8).collect::<Result<Vec<_>, _>>()?;
    if let Some((first, rest)) = words.split_first()
        && first == CONTROL
    {
        let request = crate::ctl::parse(rest)?;
        let help = || Invocation::Help { text: crate::ctl::HELP.to_owned(), values: Values::default() };
        return Ok(request.map_or_else(help, Invocation::Control));
    }
    if let Some((first, rest)) = words.split_first()
        && first == DEVELOP
    {
        let plan = crate::dev::parse(rest)?;
        let help = || Invocation::Help { text: crate::dev::HELP.to_owned(), values: Values::default() };
        return Ok(plan.map_or_else(help, Invocation::Develop));
    }
    if let Some((first, rest)) = words.split_first()
        && let Some(parsed) = tools::parse(first, rest)
    {
        return parsed;
    }
    parse_server(&words)
}

/// Understands words that are the server's, without a subcommand.
fn parse_server(words: &[String]) -> Result<Invocation, CliError> {
    let matches = match command(Audience::Operator).try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => {
                let text = error.render().to_string();
                return Ok(Invocation::Help { text, values: beside_help(words) });
            }
            ErrorKind::DisplayVersion => return Ok(Invocation::Version(error.render().to_string())),
            _ => return Err(usage_error(&error, &Origin::CommandLine)),
        },
    };
    let values = collect(&matches, &Origin::CommandLine)?;
    let print = matches.get_one::<String>("print_config").map_or(Ok(None), |word| print_format(word))?;
    if let Some(format) = print {
        Ok(Invocation::PrintConfig(values, format))
    } else if matches.get_flag("check_config") {
        Ok(Invocation::CheckConfig(values))
    } else {
        Ok(Invocation::Serve(values))
    }
}

/// The values that were typed beside `--help`; none if they cannot be understood, for who asks for help may be wrong.
fn beside_help(words: &[String]) -> Values {
    let others = words.iter().filter(|word| !["-h", "--help"].contains(&word.as_str()));
    let matches = command(Audience::Operator).try_get_matches_from(others);
    matches.ok().and_then(|matches| collect(&matches, &Origin::CommandLine).ok()).unwrap_or_default()
}

/// None for `off`.
fn print_format(word: &str) -> Result<Option<PrintFormat>, CliError> {
    let parsed =
        SETTINGS.iter().find(|setting| setting.name == "print_config").map(|setting| setting.parse(word));
    match parsed {
        Some(Ok(Value::Text(format))) if format == "json" => Ok(Some(PrintFormat::Json)),
        Some(Ok(Value::Text(format))) if format == "toml" => Ok(Some(PrintFormat::Toml)),
        Some(Err(why)) => {
            Err(CliError::Value(format!("cannot use --print-config '{word}' on the command line: it {why}")))
        }
        _ => Ok(None),
    }
}

/// Understands words that are settings only: no program name, no subcommand, no `--help`.
///
/// # Errors
/// As [`parse`]; the sentence names `origin`.
pub fn parse_words(words: &[String], origin: &Origin) -> Result<Values, CliError> {
    let matches = command(Audience::Environment)
        .try_get_matches_from(words)
        .map_err(|error| usage_error(&error, origin))?;
    collect(&matches, origin)
}

/// Who writes the words: it decides which options there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    Operator,
    Environment,
}

fn utf8((index, word): (usize, OsString)) -> Result<String, CliError> {
    word.into_string().map_err(|word| {
        CliError::Usage(format!(
            "cannot read argument {} of the command line, {word:?}: it is not UTF-8; rename the file it names",
            index + 1
        ))
    })
}

/// The clap command that the table of settings describes.
fn command(audience: Audience) -> Command {
    let mut command = Command::new("rgunicorn")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A pre-fork application server with pluggable worker classes and hot-swapped applications.")
        .override_usage("rgunicorn [OPTIONS] [APP]")
        .no_binary_name(true)
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true);
    if audience == Audience::Operator {
        command = command
            .after_help(tools::overview())
            .arg(Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this help."))
            .arg(
                Arg::new("version")
                    .short('v')
                    .long("version")
                    .action(ArgAction::Version)
                    .help("Print the version."),
            );
    }
    let offered = SETTINGS
        .iter()
        .filter(|setting| audience == Audience::Operator || setting.place != Place::CommandLine);
    command.args(offered.map(argument))
}

fn argument(setting: &'static Setting) -> Arg {
    let help = match setting.default {
        Some(default) if setting.kind != Kind::Flag || default == "true" => {
            format!("{} [default: {default}]", setting.help)
        }
        _ => setting.help.to_owned(),
    };
    let mut argument = Arg::new(setting.name)
        .help(StyledStr::from(help))
        .help_heading(setting.section)
        .action(match setting.kind {
            Kind::Flag if setting.place == Place::CommandLine => ArgAction::SetTrue,
            kind if kind.is_repeatable() => ArgAction::Append,
            _ => ArgAction::Set,
        });
    if let Kind::ChoiceOrFlag(_) = setting.kind {
        // As Gunicorn takes it. What is on the command line only never took a word there: the application follows.
        let equals = setting.place == Place::CommandLine;
        argument = argument.num_args(0..=1).require_equals(equals).default_missing_value("true");
    }
    if setting.kind == Kind::Flag && setting.place != Place::CommandLine {
        // With an equals sign only: the word behind the bare flag is the application.
        argument = argument.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    if setting.kind != Kind::Flag || setting.place != Place::CommandLine {
        argument = argument.value_name(match setting.name {
            "application" => "APP",
            "mount" => "PREFIX=APP",
            "bind" => "ADDRESS",
            "raw_env" => "KEY=VALUE",
            _ => setting.kind.placeholder(),
        });
    }
    if matches!(setting.kind, Kind::Integer { .. } | Kind::CountOrAuto { .. } | Kind::Size | Kind::Seconds) {
        // "-t -1" shall be told its range, not that "-1" is no option.
        argument = argument.allow_negative_numbers(true);
    }
    if let Some((canonical, aliases)) = setting.flags.split_first() {
        argument = argument.long(*canonical).visible_aliases(aliases.iter().copied());
    }
    match setting.short {
        Some(short) => argument.short(short),
        None => argument,
    }
}

/// Reads the words that clap sorted, by the same rules as every other source.
fn collect(matches: &ArgMatches, origin: &Origin) -> Result<Values, CliError> {
    let mut values = Values::default();
    for setting in SETTINGS.iter().filter(|setting| setting.place != Place::CommandLine) {
        let mut whole: Option<Value> = None;
        for word in matches.get_many::<String>(setting.name).into_iter().flatten() {
            let value = setting.parse(word).map_err(|why| {
                CliError::Value(format!("cannot use {} '{word}' {origin}: it {why}", setting.flag_text()))
            })?;
            whole = Some(match whole {
                Some(earlier) => join(earlier, value),
                None => value,
            });
        }
        if let Some(value) = whole {
            values.set(setting, value, origin.clone());
        }
    }
    Ok(values)
}

/// A repeated flag: lists grow, a later option of the same name wins, anything else is replaced.
fn join(earlier: Value, later: Value) -> Value {
    match (earlier, later) {
        (Value::List(mut all), Value::List(more)) => {
            all.extend(more);
            Value::List(all)
        }
        (Value::Options(mut all), Value::Options(more)) => {
            all.extend(more);
            Value::Options(all)
        }
        (_, later) => later,
    }
}

/// Clap's findings in one sentence of ours.
fn usage_error(error: &clap::Error, origin: &Origin) -> CliError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let word = context(ContextKind::InvalidArg).unwrap_or_default();
    let hint = "'rgunicorn --help' lists all options";
    CliError::Usage(match error.kind() {
        ErrorKind::UnknownArgument if !word.starts_with('-') => format!(
            "cannot use '{word}' {origin}: one application is named already; mount further ones with --mount \
             PREFIX=APP"
        ),
        ErrorKind::UnknownArgument => {
            let more = match (gunicorn::became(&word), context(ContextKind::SuggestedArg)) {
                (Some(became), _) => became,
                (None, Some(suggested)) => format!("did you mean '{suggested}'?"),
                (None, None) => hint.to_owned(),
            };
            format!("cannot use '{word}' {origin}: there is no such option; {more}")
        }
        // An option at the very end; clap reports it as an empty value.
        ErrorKind::InvalidValue => format!("cannot use '{word}' {origin}: its value is missing; {hint}"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("cannot use the words {origin}: {}; {hint}", line.trim_start_matches("error: "))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parse_line(line: &[&str]) -> Result<Invocation, CliError> {
        parse(std::iter::once("rgunicorn").chain(line.iter().copied()).map(OsString::from))
    }

    fn values(line: &[&str]) -> Values {
        match parse_line(line) {
            Ok(Invocation::Serve(values)) => values,
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn text(values: &Values, name: &str) -> String {
        values.get(name).unwrap_or_else(|| panic!("{name} is not set")).value.to_text()
    }

    #[test]
    fn the_table_makes_a_sound_command() {
        command(Audience::Operator).debug_assert();
        command(Audience::Environment).debug_assert();
    }

    #[test]
    fn understands_the_names_gunicorn_has() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["-w", "4"], "workers", "4"),
            (&["-w4"], "workers", "4"),
            (&["--workers=4"], "workers", "4"),
            (&["-w", "2", "-w", "4"], "workers", "4"),
            (&["-b", ":80", "--bind", "unix:/x"], "bind", ":80,unix:/x"),
            (&["-k", "gthread"], "worker_class", "gthread"),
            (&["-t", "1.5"], "timeout", "1.5"),
            (&["--keep-alive", "5"], "keepalive", "5"),
            (&["-p", "x.pid"], "pidfile", "x.pid"),
            (&["--pid", "x.pid"], "pidfile", "x.pid"),
            (&["--pidfile", "x.pid"], "pidfile", "x.pid"),
            (&["-e", "A=1", "--env", "B=2"], "raw_env", "A=1,B=2"),
            (&["-m", "022"], "umask", "0o22"),
            (&["--log-file", "-"], "errorlog", "-"),
            (&["--error-logfile", "-"], "errorlog", "-"),
            (&["--access-logfile", "-"], "accesslog", "-"),
            (&["--access-logformat", "%(h)s"], "access_log_format", "%(h)s"),
            (&["--limit-request-field_size", "9"], "limit_request_field_size", "9"),
            (&["--worker-option", "a=1", "--worker-option", "a=2"], "worker_options", "a=2"),
            (&["--forwarded-allow-ips", "10.0.0.0/8,::1"], "forwarded_allow_ips", "10.0.0.0/8,::1"),
            (&["--forwarder-headers", "REMOTE_USER"], "forwarder_headers", "REMOTE_USER"),
            (&["--proxy-protocol", "v2", "a.so"], "proxy_protocol", "v2"),
            (&["a.so", "--proxy-protocol"], "proxy_protocol", "auto"),
            (&["--proxy-protocol", "-w", "2", "a.so"], "proxy_protocol", "auto"),
            (&["--proxy-allow-from", "*"], "proxy_allow_ips", "*"),
            (&["--header-map", "refuse"], "header_map", "refuse"),
            (&["--permit-obsolete-folding"], "permit_obsolete_folding", "true"),
            (&["--strip-header-spaces"], "strip_header_spaces", "true"),
            (&["--permit-unconventional-http-method"], "permit_unconventional_http_method", "true"),
            (&["--permit-unconventional-http-version"], "permit_unconventional_http_version", "true"),
            (&["--casefold-http-method"], "casefold_http_method", "true"),
            (&["--casefold-http-method=false"], "casefold_http_method", "false"),
            (&["--casefold-http-method", "a.so"], "application", "a.so"),
            (&["hello.so:app"], "application", "hello.so:app"),
            (&["-w", "1", "--", "hello.so"], "application", "hello.so"),
            (&["inspect:app"], "application", "inspect:app"),
        ];
        for (line, name, expected) in cases {
            assert_eq!(text(&values(line), name), *expected, "{line:?}");
        }
    }

    #[test]
    fn refuses_with_one_sentence() {
        let cases: &[(&[&str], i32, &str)] = &[
            (
                &["--wrokers", "1"],
                2,
                "cannot use '--wrokers' on the command line: there is no such option; did you mean '--workers'?",
            ),
            (
                &["--zzz"],
                2,
                "cannot use '--zzz' on the command line: there is no such option; 'rgunicorn --help' lists all \
                 options",
            ),
            (
                &["-R"],
                2,
                "cannot use '-R' on the command line: there is no such option; what Gunicorn has by that name is met in \
                 another way: A daemon has '/dev/null'; 'capture_output' keeps what the workers write",
            ),
            (
                &["--certfile", "x"],
                2,
                "cannot use '--certfile' on the command line: there is no such option; what Gunicorn has by that name is \
                 not there yet: With TLS. Until then a proxy in front ends it",
            ),
            (
                &["a.so", "b.so"],
                2,
                "cannot use 'b.so' on the command line: one application is named already; mount further ones with \
                 --mount PREFIX=APP",
            ),
            (
                &["-w", "0"],
                1,
                "cannot use --workers '0' on the command line: it must be a whole number from 1 to 1024, or auto, not '0'",
            ),
            (
                &["-t", "-1"],
                1,
                "cannot use --timeout '-1' on the command line: it must be a number of seconds from 0 to 31536000, \
                 not '-1'",
            ),
        ];
        for (line, code, sentence) in cases {
            let error = parse_line(line).unwrap_err();
            assert_eq!((error.exit_code(), error.to_string().as_str()), (*code, *sentence), "{line:?}");
        }
        let missing = parse_line(&["--bind"]).unwrap_err().to_string();
        assert!(
            missing.contains("--bind") && missing.contains("missing") && !missing.contains('\n'),
            "{missing}"
        );
    }

    #[test]
    fn refuses_words_that_are_not_utf8() {
        let error = parse([OsString::from("rgunicorn"), OsString::from_vec(vec![b'a', 0xff])]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().starts_with("cannot read argument 1 of the command line, \"a\\xFF\""),
            "{error}"
        );
    }

    #[test]
    fn tells_what_was_asked() {
        for (line, expected) in [
            (&["--print-config", "app.so"][..], PrintFormat::Toml),
            (&["--print-config=json"], PrintFormat::Json),
        ] {
            let Ok(Invocation::PrintConfig(_, format)) = parse_line(line) else { panic!("{line:?}") };
            assert_eq!(format, expected, "{line:?}");
        }
        assert!(parse_line(&["--print-config=xml"]).unwrap_err().to_string().contains("off, json, toml"));
        assert!(matches!(parse_line(&["--check-config"]), Ok(Invocation::CheckConfig(_))));
        let Ok(Invocation::Help { text: help, values }) = parse_line(&["-h", "-k", "x.so"]) else {
            panic!("no help")
        };
        assert_eq!(text(&values, "worker_class"), "x.so");
        assert!(matches!(parse_line(&["-h", "--zzz"]), Ok(Invocation::Help { .. })));
        for setting in SETTINGS {
            for flag in setting.flags {
                assert!(help.contains(&format!("--{flag}")), "--{flag} is not in the help");
            }
        }
        let Ok(Invocation::Version(version)) = parse_line(&["--version"]) else { panic!("no version") };
        assert_eq!(version.trim_end(), concat!("rgunicorn ", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_environment_has_no_commands() {
        let words = ["--print-config".to_owned()];
        let error = parse_words(&words, &Origin::CommandArgs).unwrap_err().to_string();
        assert!(
            error.starts_with("cannot use '--print-config' in RGUNICORN_CMD_ARGS: there is no such"),
            "{error}"
        );
    }

    #[test]
    fn the_stronger_source_wins_and_options_merge() {
        let mut weak =
            values(&["-w", "2", "-b", ":1", "-t", "3", "--worker-option", "a=1", "--worker-option", "b=1"]);
        weak.overlay(values(&["-w", "4", "-b", ":2", "--worker-option", "b=2"]));
        let got: Vec<String> =
            ["workers", "bind", "timeout", "worker_options"].iter().map(|name| text(&weak, name)).collect();
        assert_eq!(got, ["4", ":2", "3", "a=1,b=2"]);
    }
}
