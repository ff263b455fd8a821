//! Shell completions and the manual page, written from the command line as the server describes it.
//!
//! Owns the names of the files, which are those that shells and man(1) look for. What a newcomer would get wrong: none
//! of them is committed; they are made from the table of settings whenever they are wanted.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Shell, generate};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

const PROGRAM: &str = "rgunicorn";

/// What no option says: the sections of the manual page behind them, each with its terms.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "ENVIRONMENT",
        &[
            (
                "RGUNICORN_CMD_ARGS",
                "Words as on the command line. They are stronger than the configuration file, and weaker than the command \
                 line.",
            ),
            ("RGUNICORN_PLUGIN_PATH", "Directories, separated by colons, that are searched for plugins."),
            ("WEB_CONCURRENCY", "The default of --workers."),
            ("PORT", "Makes 0.0.0.0:$PORT the default of --bind."),
            ("FORWARDED_ALLOW_IPS", "The default of --forwarded-allow-ips."),
            (
                "LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES, NOTIFY_SOCKET, WATCHDOG_USEC",
                "Set by systemd(1): sockets that it passes, and what it wants to be told.",
            ),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "TERM",
                "Stop gracefully: what is queued and what is begun is answered first. Once more: stop quickly.",
            ),
            ("INT, QUIT", "Stop quickly."),
            ("HUP", "Reload the configuration and the plugins. What does not work changes nothing."),
            ("USR1", "Open the log files anew."),
            ("USR2", "Start a new master from the program's file, on the same sockets, beside this one."),
            ("WINCH", "Have the workers finish and leave, after USR2; HUP brings them back."),
            ("TTIN, TTOU", "One worker more, one worker less."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Stopped as asked."),
            ("1", "A setting, a listening socket, a log, the pid file or the runtime directory."),
            ("2", "The command line cannot be understood."),
            ("3", "The worker class, or a first worker that died."),
            ("4", "The application."),
        ],
    ),
    ("FILES", &[("./rgunicorn.toml", "The configuration file, unless --config names another one.")]),
];

/// Tools with a page of their own.
const TOOLS: &[(&str, &str)] = &[
    ("inspect", "rgunicorn-inspect.1"),
    ("check", "rgunicorn-check.1"),
    ("certify", "rgunicorn-certify.1"),
    ("new", "rgunicorn-new.1"),
];

/// Writes all of them into a directory, which is made if it is not there.
pub(crate) fn write(directory: &Path) -> Result<(), String> {
    let fail = |error: io::Error| format!("cannot write into {}: {error}", directory.display());
    fs::create_dir_all(directory).map_err(fail)?;
    for (name, contents) in pages().map_err(fail)? {
        fs::write(directory.join(name), contents).map_err(fail)?;
    }
    println!("{}", directory.display());
    Ok(())
}

/// Each file's name and contents.
fn pages() -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut pages = Vec::new();
    for (shell, name) in
        [(Shell::Bash, "rgunicorn.bash"), (Shell::Zsh, "_rgunicorn"), (Shell::Fish, "rgunicorn.fish")]
    {
        let mut text = Vec::new();
        generate(shell, &mut rgunicorn::cli::description(), PROGRAM, &mut text);
        pages.push((name, text));
    }
    pages.push(("rgunicorn.1", manual()?));
    pages.push(("rgunicorn-ctl.1", manual_of_control()?));
    for (tool, name) in TOOLS {
        pages.push((name, manual_of_tool(tool)?));
    }
    Ok(pages)
}

fn manual() -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let page = Man::new(rgunicorn::cli::description());
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    page.render_subcommands_section(&mut text)?;
    for (heading, terms) in SECTIONS {
        let mut section = Roff::new();
        section.control("SH", [*heading]);
        for (term, meaning) in *terms {
            section.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
        }
        section.to_writer(&mut text)?;
    }
    page.render_version_section(&mut text)?;
    Ok(text)
}

/// A page of its own, with all its commands on it: clap's would name a page for each, and there is none.
fn manual_of_control() -> io::Result<Vec<u8>> {
    let mut program = rgunicorn::cli::description();
    // From here on each subcommand knows its whole name.
    program.build();
    let control =
        program.find_subcommand("ctl").cloned().ok_or_else(|| io::Error::other("there is no ctl"))?;
    let version = program.get_version().unwrap_or_default();
    let mut text = Vec::new();
    let page = Man::new(control.clone()).source(format!("{PROGRAM} {version}"));
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_options_section(&mut text)?;
    let mut section = Roff::new();
    section.control("SH", ["COMMANDS"]);
    for command in control.get_subcommands() {
        let mut words = vec![bold(command.get_name())];
        for argument in command.get_positionals() {
            let name =
                argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
            let shown = if argument.is_required_set() { format!(" {name}") } else { format!(" [{name}]") };
            words.push(italic(shown));
        }
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        section.control("TP", []).text(words).text([roman(format!("{about}."))]);
    }
    section.to_writer(&mut text)?;
    Ok(text)
}

/// What the tool says in its `--help`.
fn manual_of_tool(tool: &str) -> io::Result<Vec<u8>> {
    let mut program = rgunicorn::cli::description();
    program.build();
    let version = program.get_version().unwrap_or_default();
    let command =
        program.find_subcommand(tool).ok_or_else(|| io::Error::other(format!("there is no {tool}")))?;
    let mut text = Vec::new();
    Man::new(command.clone()).source(format!("{PROGRAM} {version}")).render(&mut text)?;
    // What clap calls the text behind the options.
    Ok(String::from_utf8_lossy(&text).replace(".SH EXTRA", ".SH NOTES").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_knows_every_flag() {
        for (name, text) in pages().expect("memory takes it") {
            let text = String::from_utf8(text).expect("text");
            if TOOLS.iter().any(|(_, page)| *page == name) {
                assert!(text.contains(".SH DESCRIPTION") && text.contains(".SH NOTES"), "{name}: {text}");
                continue;
            }
            for verb in ["ctl", "status", "workers", "reload", "log-level", "stop", "json"] {
                let known = text.contains(verb) || text.contains(&verb.replace('-', "\\-"));
                assert!(known || name == "rgunicorn.1", "{name} does not know {verb}");
            }
            assert!(text.contains("ctl"), "{name} does not know ctl");
            if name == "rgunicorn-ctl.1" {
                continue;
            }
            for setting in rgunicorn::settings::SETTINGS {
                // The manual page has one name for each.
                let flags = if name == "rgunicorn.1" {
                    setting.flags.get(..1).unwrap_or_default()
                } else {
                    setting.flags
                };
                for flag in flags {
                    // roff writes a hyphen with a backslash.
                    let found =
                        [flag.replace('-', "\\-"), (*flag).to_owned()].iter().any(|flag| text.contains(flag));
                    assert!(found, "{name} does not know --{flag}");
                }
            }
        }
    }

    #[test]
    fn the_manual_page_knows_every_variable_that_stands_in_for_a_default() {
        let (_, terms) = SECTIONS.iter().find(|(heading, _)| *heading == "ENVIRONMENT").expect("it is there");
        for (variable, _) in rgunicorn::settings::SETTINGS.iter().filter_map(|setting| setting.default_from) {
            assert!(terms.iter().any(|(term, _)| *term == variable), "the page does not know {variable}");
        }
    }

    #[test]
    fn bash_offers_subcommands_words_and_verbs() {
        let pages = pages().expect("memory takes it");
        let (_, script) = pages.iter().find(|(name, _)| *name == "rgunicorn.bash").expect("there is one");
        let offers = |line: &[&str]| {
            let words = line.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>();
            let [.., before, current] = words.as_slice() else { return None };
            let code = format!(
                "{}\nCOMP_WORDS=({})\nCOMP_CWORD={}\n_rgunicorn rgunicorn {current} {before}\necho \"${{COMPREPLY[@]}}\"",
                String::from_utf8_lossy(script),
                words.join(" "),
                words.len() - 1,
            );
            let done = std::process::Command::new("bash").args(["--norc", "-c", &code]).output().ok()?;
            Some(String::from_utf8_lossy(&done.stdout).into_owned())
        };
        for (line, expected) in [
            (&["rgunicorn", "ct"][..], "ctl"),
            (&["rgunicorn", "insp"], "inspect"),
            (&["rgunicorn", "inspect", "--ag"], "--against"),
            (&["rgunicorn", "certify", "--on"], "--only"),
            (&["rgunicorn", "--work"], "--worker-class"),
            (&["rgunicorn", "--log-format", "j"], "json"),
            (&["rgunicorn", "ctl", "/run/s", "rel"], "reload"),
            (&["rgunicorn", "ctl", "/run/s", "log-level", "deb"], "debug"),
        ] {
            let Some(offered) = offers(line) else {
                eprintln!("nothing to see here: there is no bash");
                return;
            };
            assert!(offered.split_whitespace().any(|word| word == expected), "{line:?}: {offered:?}");
        }
    }

    #[test]
    fn the_completions_are_scripts_that_the_shell_understands() {
        let directory = std::env::temp_dir().join(format!("rgunicorn-pages-{}", std::process::id()));
        write(&directory).expect("a temporary directory");
        // Shells that are not installed are passed over.
        for (shell, name) in [("bash", "rgunicorn.bash"), ("zsh", "_rgunicorn"), ("fish", "rgunicorn.fish")] {
            if let Ok(done) = std::process::Command::new(shell).arg("-n").arg(directory.join(name)).output() {
                assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
            }
        }
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}
