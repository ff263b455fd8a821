//! Tasks that an alias in `.cargo/config.toml` cannot say in one line: `cargo serve`, `cargo pages`,
//! `cargo install-header`, `cargo bench-servers`, `cargo verify-speed`.
//!
//! Owns no logic of the server: it builds and starts what a reader of the README would, and writes what a packager
//! ships beside the binary (`pages.rs`, behind a feature). What a newcomer would get wrong: the server replaces this program
//! (execve(2)), so that Ctrl-C and `kill` reach it without a detour.

mod bench;
mod header;
#[cfg(feature = "pages")]
mod pages;
mod speed;

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let done = match words.next().as_deref() {
        Some("serve") => serve(words.collect()),
        #[cfg(feature = "pages")]
        Some("pages") => target_directory().and_then(|target| pages::write(&target.join("pages"))),
        Some("install-header") => header::install(words.collect()),
        Some("bench") => bench(&words.collect::<Vec<String>>()),
        Some("speed") => speed(&words.collect::<Vec<String>>()),
        _ => Err("usage: cargo serve [OPTIONS OF RGUNICORN], cargo pages, cargo install-header, cargo bench-servers, \
                  or cargo verify-speed"
            .to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("xtask: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the workspace as it is released, then becomes the server. Options that are given come last, and so win.
fn serve(options: Vec<String>) -> Result<(), String> {
    build(&[])?;
    let program = target_directory()?.join("release/rgunicorn");
    // Worker classes and applications given by name are searched beside the binary first.
    let error = Command::new(&program)
        .args(["--worker-class", "sync", "--bind", "127.0.0.1:8000"])
        .args(options)
        .arg("hello:app")
        .exec();
    Err(format!("cannot run {}: {error}", program.display()))
}

/// Builds what is measured as it is released, and measures it beside its peers.
fn bench(words: &[String]) -> Result<(), String> {
    let Some(asked) = bench::asked(words)? else { return Ok(()) };
    if asked.measures_ours() {
        build(&speed::PACKAGES)?;
    }
    bench::run(root()?, &target_directory()?, &asked)
}

/// Builds what is counted as it is released, and counts.
fn speed(words: &[String]) -> Result<(), String> {
    if !speed::has_valgrind() {
        println!("skipped: valgrind is not installed");
        return Ok(());
    }
    build(&speed::PACKAGES)?;
    speed::verify(root()?, &target_directory()?, words)
}

fn root() -> Result<&'static Path, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.ok_or_else(|| "this package has been moved".to_owned())
}

/// Builds these packages for release; the whole workspace if none is named.
fn build(packages: &[&str]) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release"]);
    if packages.is_empty() {
        command.arg("--workspace");
    }
    packages.iter().for_each(|package| _ = command.args(["--package", package]));
    let built =
        command.current_dir(root()?).status().map_err(|error| format!("cannot run cargo: {error}"))?;
    if built.success() { Ok(()) } else { Err("the build failed".to_owned()) }
}

/// Where cargo has put this program, and so puts all others: the environment or a configuration may have moved it.
fn target_directory() -> Result<PathBuf, String> {
    let program = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let target = program.ancestors().nth(2).ok_or("cannot find the target directory")?;
    Ok(target.to_owned())
}
