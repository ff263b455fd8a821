//! The words of the tools: `inspect`, `check`, `new`, `certify`.
//!
//! Owns their options and help texts, and the sentences about words that cannot be understood. Does not own what the
//! tools do. What a newcomer would get wrong: `check` takes the server's own words, all of them, so that a deploy script
//! writes the same line twice.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{CliError, Invocation, Values};
use crate::certify;
use crate::inspect::{self, Asked};
use crate::new;
use crate::settings::{Place, SETTINGS};

/// What each tool is called.
const INSPECT: &str = "inspect";
const CHECK: &str = "check";
const CERTIFY: &str = "certify";
const NEW: &str = "new";

/// The tools as commands of their own, for help, completions and manual pages.
pub(super) fn commands() -> Vec<Command> {
    vec![inspect_command(), check_command(), new_command(), certify_command()]
}

/// What `rgunicorn --help` says about them.
pub(super) fn overview() -> String {
    let lines = commands().into_iter().map(|command| {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        format!("  rgunicorn {:<8} {about}\n", command.get_name())
    });
    format!(
        "Tools:\n{}  rgunicorn ctl      Asks a running server through its control socket.",
        lines.collect::<String>()
    )
}

/// Understands the words after the name of a tool; none if there is no such tool.
pub(super) fn parse(tool: &str, words: &[String]) -> Option<Result<Invocation, CliError>> {
    Some(match tool {
        INSPECT => parse_with(inspect_command(), words, inspect_request),
        CHECK => parse_check(words),
        NEW => parse_with(new_command(), words, new_request),
        CERTIFY => parse_with(certify_command(), words, certify_request),
        _ => return None,
    })
}

fn parse_with(
    command: Command,
    words: &[String],
    take: impl FnOnce(&ArgMatches) -> Result<Invocation, CliError>,
) -> Result<Invocation, CliError> {
    let name = command.get_name().to_owned();
    match command.no_binary_name(true).try_get_matches_from(words) {
        Ok(matches) => take(&matches),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(help(error.render().to_string())),
        Err(error) => Err(usage(&name, &sentence(&error))),
    }
}

/// The help of a tool, which has no options of a worker class.
fn help(text: String) -> Invocation {
    Invocation::Help { text, values: Values::default() }
}

fn usage(tool: &str, why: &str) -> CliError {
    CliError::Usage(format!("cannot run {tool}: {why}; 'rgunicorn {tool} --help' shows how"))
}

/// What clap found, in a few words.
fn sentence(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let word = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument => format!("there is no option '{word}'"),
        ErrorKind::MissingRequiredArgument => format!("{word} is missing"),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            format!("the value of {word} is missing")
        }
        ErrorKind::InvalidValue => format!(
            "{word} cannot be '{}', only one of: {}",
            context(ContextKind::InvalidValue),
            context(ContextKind::ValidValue)
        ),
        _ => {
            let text = error.to_string();
            text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    }
}

fn tool(name: &'static str, about: &'static str) -> Command {
    Command::new(name).bin_name(format!("rgunicorn {name}")).about(about).disable_version_flag(true)
}

fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn texts(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches.get_many::<String>(name).unwrap_or_default().cloned().collect()
}

/// A time above zero, of an option that has a default.
fn seconds(tool: &str, matches: &ArgMatches, name: &str) -> Result<Duration, CliError> {
    let text = text(matches, name).unwrap_or_default();
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| !time.is_zero() && time.as_secs() < 86400).ok_or_else(|| {
        let flag = name.replace('_', "-");
        usage(tool, &format!("--{flag} takes a number of seconds above 0 and below 86400, not '{text}'"))
    })
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the answer as JSON.")
}

// ---------------------------------------------------------------------------------------------------------------

fn inspect_command() -> Command {
    tool(INSPECT, "Tells what plugin files are, and whether this rgunicorn would load them, without running them.")
        .after_help(
            "The exit code is 0 if all files would be loaded, else that of a start with the first that would not: \
             3 for a worker class, 4 for an application.",
        )
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .action(ArgAction::Append)
                .help("A plugin; FILE:NAME is an application in it. A name is searched as a start does."),
        )
        .arg(
            Arg::new("classes")
                .short('k')
                .long("worker-class")
                .value_name("CLASS")
                .action(ArgAction::Append)
                .help("A plugin that is to be a worker class."),
        )
        .arg(
            Arg::new("against")
                .long("against")
                .value_name("VERSION")
                .help("Judge for an rgunicorn that speaks this version of the interface, such as 1.2."),
        )
        .arg(
            Arg::new("load")
                .long("load")
                .action(ArgAction::SetTrue)
                .help("Also load each file, in a process of its own. That runs the constructors in it."),
        )
        .arg(
            Arg::new("allow_world_writable")
                .long("allow-world-writable")
                .action(ArgAction::SetTrue)
                .help("As the setting of that name: take files that everybody can write."),
        )
        .arg(
            Arg::new("boot_timeout")
                .long("boot-timeout")
                .value_name("SECONDS")
                .default_value("30")
                .help("With --load: how long that may take."),
        )
        .arg(json())
}

fn inspect_request(matches: &ArgMatches) -> Result<Invocation, CliError> {
    let classes = texts(matches, "classes").into_iter().map(Asked::WorkerClass);
    let asked: Vec<Asked> = classes.chain(texts(matches, "files").into_iter().map(Asked::Any)).collect();
    if asked.is_empty() {
        return Err(usage(INSPECT, "a file is missing"));
    }
    let against = match text(matches, "against") {
        None => None,
        Some(text) => Some(inspect::version(&text).ok_or_else(|| {
            usage(INSPECT, &format!("--against takes a version of the interface, such as 1.2, not '{text}'"))
        })?),
    };
    let load = matches.get_flag("load");
    if load && against.is_some() {
        return Err(usage(INSPECT, "--load asks this rgunicorn, so that --against has no meaning beside it"));
    }
    let boot_timeout = seconds(INSPECT, matches, "boot_timeout")?;
    let json = matches.get_flag("json");
    let allow_world_writable = matches.get_flag("allow_world_writable");
    let request = inspect::Request { asked, against, load, boot_timeout, allow_world_writable, json };
    Ok(Invocation::Inspect(request))
}

// ---------------------------------------------------------------------------------------------------------------

fn check_command() -> Command {
    let settings = SETTINGS.iter().filter(|setting| setting.place != Place::CommandLine);
    tool(CHECK, "Does what a start with the same words would do, up to a worker that is ready and ends, but for binding and serving; says what comes of it.")
        .override_usage("rgunicorn check [OPTIONS] [APP]")
        .after_help(
            "The exit code is that of a start with the same words: 0 if it would serve, 1 for settings and files, 2 for \
             words that cannot be understood, 3 for the worker class and for what dies or hangs, 4 for the application.",
    )
    .args(settings.map(super::argument))
}

fn parse_check(words: &[String]) -> Result<Invocation, CliError> {
    if words.iter().any(|word| word == "-h" || word == "--help") {
        let mut command = check_command();
        return Ok(help(command.render_help().to_string()));
    }
    match super::parse_server(words)? {
        Invocation::Serve(values) | Invocation::CheckConfig(values) => Ok(Invocation::Check(values)),
        other => Ok(other),
    }
}

// ---------------------------------------------------------------------------------------------------------------

fn certify_command() -> Command {
    tool(CERTIFY, "Tries a worker class in servers of its own, and prints a score card.")
        .after_help(
            "A class is judged by what it claims: what needs a feature that its descriptor does not name is skipped. The \
             exit code is 0 if nothing failed, 3 if something did, or if the class cannot be loaded.",
        )
        .arg(
            Arg::new("class")
                .short('k')
                .long("worker-class")
                .value_name("CLASS")
                .required(true)
                .help("The worker class: a file, or a name."),
        )
        .arg(
            Arg::new("options")
                .long("worker-option")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("An option of the worker class."),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("TEXT")
                .action(ArgAction::Append)
                .help("Only trials whose name contains this."),
        )
        .arg(json())
}

fn certify_request(matches: &ArgMatches) -> Result<Invocation, CliError> {
    let class = text(matches, "class").unwrap_or_default();
    let (options, only) = (texts(matches, "options"), texts(matches, "only"));
    Ok(Invocation::Certify(certify::Request { class, options, only, json: matches.get_flag("json") }))
}

// ---------------------------------------------------------------------------------------------------------------

fn new_command() -> Command {
    let name =
        Arg::new("name").value_name("NAME").required(true).help("Of the package, and of its directory.");
    let source = Arg::new("source").long("source").value_name("DIRECTORY").help(
        "The source tree of rgunicorn. Default: $RGUNICORN_SOURCE, else what this program was built from.",
    );
    let c = Arg::new("c")
        .long("c")
        .action(ArgAction::SetTrue)
        .help("In C, with a Makefile and the header, instead of in Rust.");
    let kind = |word: &'static str, about: &'static str| {
        Command::new(word).about(about).disable_version_flag(true).arg(name.clone()).arg(source.clone())
    };
    tool(NEW, "Makes a project: an application or a worker class that builds, has a test, and can be served.")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(kind(APP, "An application.").arg(c))
        .subcommand(kind(WORKER, "A worker class."))
        .after_help("Prints the commands that build, test and serve it. Sources that are not there are named by their version.")
}

const APP: &str = "app";
const WORKER: &str = "worker";

fn new_request(matches: &ArgMatches) -> Result<Invocation, CliError> {
    let (word, matches) = matches.subcommand().ok_or_else(|| usage(NEW, "app or worker is missing"))?;
    let kind = match word {
        WORKER => new::Kind::Worker,
        _ if matches.get_flag("c") => new::Kind::CApp,
        _ => new::Kind::App,
    };
    let (name, source) = (text(matches, "name").unwrap_or_default(), text(matches, "source"));
    Ok(Invocation::New(new::Request { kind, name, source: source.map(PathBuf::from) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_commands_are_sound() {
        for command in commands() {
            command.debug_assert();
        }
    }

    #[test]
    fn words_become_requests() {
        let parsed = parse("inspect", &words("a.so -k b.so --json --against 1.7")).unwrap().unwrap();
        let asked = vec![Asked::WorkerClass("b.so".to_owned()), Asked::Any("a.so".to_owned())];
        let request = inspect::Request {
            asked,
            against: Some((1, 7)),
            load: false,
            boot_timeout: Duration::from_secs(30),
            allow_world_writable: false,
            json: true,
        };
        assert_eq!(parsed, Invocation::Inspect(request));
        assert!(matches!(parse("check", &words("-w 2 a.so")), Some(Ok(Invocation::Check(_)))));
        assert_eq!(parse("serve", &[]), None);
    }

    #[test]
    fn words_that_mean_nothing_are_refused_in_one_sentence() {
        let cases = [
            ("inspect", "", "a file is missing"),
            (
                "inspect",
                "a.so --against 1",
                "--against takes a version of the interface, such as 1.2, not '1'",
            ),
            ("inspect", "a.so --boot-timeout 0", "--boot-timeout takes a number of seconds"),
            ("inspect", "a.so --loud", "there is no option '--loud'"),
            ("certify", "", "--worker-class <CLASS> is missing"),
            ("inspect", "a.so --load --against 1.0", "--load asks this rgunicorn"),
        ];
        for (tool, line, part) in cases {
            let error = parse(tool, &words(line)).unwrap().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{line}: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert_eq!(parse("check", &words("--wrokers 3")).unwrap().unwrap_err().exit_code(), 2);
    }
}
