//! The command line as data: shell completions and the manual page are made from it.
//!
//! Owns what a shell may offer behind a flag, and the subcommands, which the program itself reads word by word
//! ([`crate::ctl::parse`]). What a newcomer would get wrong: nothing is parsed with this. A completion that is wrong offers
//! the wrong word; it never changes what the server does.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueHint};

use super::{Audience, CONTROL, command};
use crate::settings::{Kind, LEVELS, SETTINGS};

/// The whole program, subcommands included.
pub fn description() -> Command {
    let mut program = command(Audience::Operator).no_binary_name(false).disable_help_subcommand(true);
    for setting in SETTINGS {
        program = program.mut_arg(setting.name, |argument| match setting.kind {
            Kind::Choice(words) | Kind::ChoiceOrFlag(words) => {
                argument.value_parser(PossibleValuesParser::new(words))
            }
            Kind::Path | Kind::PathList if DIRECTORIES.contains(&setting.name) => {
                argument.value_hint(ValueHint::DirPath)
            }
            Kind::Path | Kind::PathList => argument.value_hint(ValueHint::FilePath),
            Kind::Text | Kind::TextList if FILES.contains(&setting.name) => {
                argument.value_hint(ValueHint::FilePath)
            }
            Kind::Flag => argument,
            Kind::Integer { .. }
            | Kind::CountOrAuto { .. }
            | Kind::Size
            | Kind::Seconds
            | Kind::Mode
            | Kind::Text
            | Kind::TextList
            | Kind::Options => argument.value_hint(ValueHint::Other),
        });
    }
    program.subcommand(control()).subcommands(super::tools::commands())
}

/// Settings whose paths are directories.
const DIRECTORIES: &[&str] = &["chdir", "plugin_path", "runtime_dir"];
/// Settings whose text may be a file.
const FILES: &[&str] = &["application", "worker_class"];

/// `rgunicorn ctl`, as `ctl.rs` understands it.
fn control() -> Command {
    let path = Arg::new("path").value_name("PATH").required(true).value_hint(ValueHint::FilePath);
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).global(true);
    let number = Arg::new("number").value_name("N").value_hint(ValueHint::Other);
    let level =
        Arg::new("level").value_name("LEVEL").required(true).value_parser(PossibleValuesParser::new(LEVELS));
    let verb = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new(CONTROL)
        .about("Asks a running server through its control socket (--control-socket).")
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .subcommand_value_name("COMMAND")
        .subcommand_help_heading("Commands")
        .arg(path.help("The control socket of the server."))
        .arg(json.help("Print the answer as JSON."))
        .subcommand(verb("status", "Show the server and its workers"))
        .subcommand(
            verb("workers", "Show the workers, or have N of them until the next reload")
                .arg(number.help("How many workers to have")),
        )
        .subcommand(verb(
            "reload",
            "Reload and wait for the verdict; the exit code is 0 if the new generation serves",
        ))
        .subcommand(
            verb("log-level", "Log from this level on, until the next reload")
                .arg(level.help("The least important messages that the error log still shows")),
        )
        .subcommand(verb("stop", "Stop gracefully, as TERM"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_sound_and_is_what_ctl_understands() {
        description().debug_assert();
        let control = control();
        for verb in control.get_subcommands().map(Command::get_name) {
            assert!(crate::ctl::HELP.contains(&format!("\n  {verb} ")), "ctl --help does not know {verb}");
            let mut words = vec!["ctl.sock".to_owned(), verb.to_owned()];
            if verb == "log-level" {
                words.push("debug".to_owned());
            }
            assert!(matches!(crate::ctl::parse(&words), Ok(Some(_))), "{words:?}");
        }
        let told = crate::ctl::HELP.lines().skip_while(|line| *line != "Commands:").skip(1);
        let told = told.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
        for verb in told {
            assert!(control.find_subcommand(verb).is_some(), "nobody offers {verb}");
        }
    }
}
