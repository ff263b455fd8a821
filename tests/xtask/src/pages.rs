//! Shell completions and the manual page, written from the command line as the server describes it.
//!
//! Owns the names of the files, which are those that shells and man(1) look for. What a newcomer would get wrong: none
//! of them is committed; they are made from the table of settings whenever they are wanted.

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::{Shell, generate};
use clap_mangen::Man;

const PROGRAM: &str = "rgunicorn";

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
    let mut text = Vec::new();
    Man::new(rgunicorn::cli::description()).render(&mut text)?;
    pages.push(("rgunicorn.1", text));
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_knows_every_flag() {
        for (name, text) in pages().expect("memory takes it") {
            let text = String::from_utf8(text).expect("text");
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
