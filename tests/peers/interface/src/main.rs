//! Builds the server, the class and the application, lets the worker measure, and prints what it says.
//!
//! `cargo run --release -- [CORE]` in this folder. Owns no figure: they are made in `class.rs`, inside of a worker as it
//! is forked by the real server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn main() -> Result<(), String> {
    let core = std::env::args().nth(1).unwrap_or_else(|| "0".to_owned());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.join("../../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map(std::path::PathBuf::from);
    let place = |of: &Path| target.clone().unwrap_or_else(|| of.join("target")).join("release");
    build(&root, &["-p", "rgunicorn"])?;
    build(here, &["--workspace", "--lib"])?;
    let libraries = place(here);
    let mounted = |name: &str| format!("/{name}={}:{name}", libraries.join("libhandlers.so").display());
    let mut command = Command::new("taskset");
    command.args(["-c", &core]).arg(place(&root).join("rgunicorn"));
    command.args(["-w", "1", "-b", "127.0.0.1:0", "--log-level", "info"]);
    command.arg("-k").arg(libraries.join("libinterface.so"));
    command.args(["--mount", &mounted("hello"), "--mount", &mounted("fields")]);
    let mut server = command
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {command:?}: {error}"))?;
    let log = server.stderr.take().ok_or("the server has no log")?;
    let mut measured = false;
    for line in BufReader::new(log).lines() {
        let line = line.map_err(|error| format!("cannot read the server's log: {error}"))?;
        println!("{line}");
        if line.ends_with("measured.") {
            measured = true;
            // TERM, so that the worker goes first.
            let _ = Command::new("kill").arg(server.id().to_string()).status();
        }
    }
    let status = server.wait().map_err(|error| format!("cannot wait for the server: {error}"))?;
    if measured { Ok(()) } else { Err(format!("the server has measured nothing: {status}")) }
}

fn build(place: &Path, words: &[&str]) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--release"]).args(words).current_dir(place);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} has failed: {status}")),
        Err(error) => Err(format!("cannot run {command:?}: {error}")),
    }
}
