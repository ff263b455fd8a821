//! Who is measured by `cargo bench-servers`, and how each is started.
//!
//! Owns the list of candidates, what each can do, its command and its version. Starting a process is `server.rs`. What a
//! newcomer would get wrong: everybody gets one worker on one core, and what its own manual advises for a load; a
//! candidate takes part in the modes that it has, so Gunicorn's `sync` is not asked to keep connections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::modes::{BROWSER_LIKE, CLOSE, DOWNLOAD, IDLE, KEEP, PIPELINED, UPLOAD};
use super::server::said;

/// Where things lie.
pub(super) struct Place<'p> {
    /// The repository.
    pub(super) root: &'p Path,
    /// Where rgunicorn is built.
    pub(super) built: PathBuf,
    /// A directory of this run, with the files that nginx and Apache serve.
    pub(super) own: PathBuf,
    pub(super) python: PathBuf,
}

/// A server that can be measured.
pub(super) struct Candidate {
    pub(super) name: &'static str,
    /// How the tables call it.
    pub(super) label: &'static str,
    pub(super) modes: &'static [&'static str],
    /// Whether it is of this project.
    pub(super) is_ours: bool,
    /// Its command, for a port; a sentence if it cannot be had.
    pub(super) command: fn(&Place<'_>, &Candidate, u16) -> Result<Command, String>,
    /// What it says of its version.
    pub(super) version: fn(&Place<'_>, &Candidate) -> Option<String>,
}

const ALL: &[&str] = &[KEEP, BROWSER_LIKE, PIPELINED, CLOSE, UPLOAD, DOWNLOAD, IDLE];
/// Without an application behind it that could echo.
const STATIC: &[&str] = &[KEEP, BROWSER_LIKE, PIPELINED, CLOSE, DOWNLOAD, IDLE];
/// … and where each connection holds a thread or a process.
const HELD: &[&str] = &[KEEP, BROWSER_LIKE, PIPELINED, CLOSE, DOWNLOAD];
const CLOSING: &[&str] = &[CLOSE];
const SIMPLE: &[&str] = &[KEEP, BROWSER_LIKE, CLOSE, UPLOAD, DOWNLOAD];

const fn ours(name: &'static str, label: &'static str, modes: &'static [&'static str]) -> Candidate {
    Candidate { name, label, modes, is_ours: true, command: rgunicorn, version: |_, _| None }
}

const fn crate_peer(name: &'static str, label: &'static str) -> Candidate {
    Candidate { name, label, modes: ALL, is_ours: false, command: built, version: locked }
}

const fn apache(name: &'static str, label: &'static str, modes: &'static [&'static str]) -> Candidate {
    Candidate { name, label, modes, is_ours: false, command: httpd, version: httpd_version }
}

const fn python(name: &'static str, label: &'static str, modes: &'static [&'static str]) -> Candidate {
    Candidate { name, label, modes, is_ours: false, command: pythonic, version: pythonic_version }
}

/// All of them.
pub(super) const CANDIDATES: &[Candidate] = &[
    crate_peer("floor", "floor"),
    ours("poll", "`poll`", ALL),
    ours("threaded", "`threaded`, 4 threads", ALL),
    ours("sync", "`sync`", CLOSING),
    crate_peer("hyper", "hyper"),
    crate_peer("axum", "axum"),
    crate_peer("actix", "actix-web"),
    Candidate {
        name: "nginx",
        label: "nginx",
        modes: STATIC,
        is_ours: false,
        command: nginx,
        version: |_, _| version_in(Command::new("nginx").arg("-v")),
    },
    apache("apache-event", "Apache, event", STATIC),
    apache("apache-worker", "Apache, worker", HELD),
    apache("apache-prefork", "Apache, prefork", HELD),
    python("granian-rsgi", "granian, RSGI", ALL),
    python("granian-wsgi", "granian, WSGI", ALL),
    python("gunicorn-sync", "Gunicorn, sync", CLOSING),
    python("gunicorn-gthread", "Gunicorn, gthread", SIMPLE),
    python("uwsgi", "uWSGI", CLOSING),
];

/// The candidate of this name.
pub(super) fn candidate(name: &str) -> Option<&'static Candidate> {
    CANDIDATES.iter().find(|candidate| candidate.name == name)
}

fn rgunicorn(place: &Place<'_>, candidate: &Candidate, port: u16) -> Result<Command, String> {
    let mut command = Command::new(place.built.join("rgunicorn"));
    command.args([
        "-k",
        candidate.name,
        "-w",
        "1",
        "-b",
        &format!("127.0.0.1:{port}"),
        "--log-level",
        "error",
    ]);
    // Nothing of the one who measures gets in: neither a file nor variables.
    command.current_dir(&place.own).env_remove("RGUNICORN_CMD_ARGS").env_remove("RGUNICORN_PLUGIN_PATH");
    if candidate.name != "sync" {
        command.args(["--keep-alive", "75", "--worker-connections", "12000"]);
    }
    if candidate.name == "threaded" {
        // Not for `sync`, which would be `threaded` then.
        command.args(["--threads", "4"]);
    }
    command.arg("bench:app");
    Ok(command)
}

fn built(place: &Place<'_>, candidate: &Candidate, port: u16) -> Result<Command, String> {
    let name = format!("rgunicorn-peer-{}", candidate.name);
    let directory = place.root.join("tests/peers").join(candidate.name);
    let program = directory.join("target/release").join(name);
    if !program.exists() {
        let directory = format!("tests/peers/{}", candidate.name);
        return Err(format!(
            "it is not built: (cd {directory} && cargo build --release --target-dir target)"
        ));
    }
    let mut command = Command::new(program);
    command.arg(format!("127.0.0.1:{port}"));
    Ok(command)
}

/// The version of a crate, as the peer's lock file has it.
fn locked(place: &Place<'_>, candidate: &Candidate) -> Option<String> {
    let name = if candidate.name == "actix" { "actix-web" } else { candidate.name };
    let file = place.root.join("tests/peers").join(candidate.name).join("Cargo.lock");
    let text = fs::read_to_string(file).ok()?;
    let (_, after) = text.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some(format!("{name} {}", after.split('"').next()?))
}

/// A configuration with its gaps filled, in the directory of this run.
fn filled(place: &Place<'_>, from: &str, to: &str, gaps: &[(&str, &str)]) -> Result<PathBuf, String> {
    let from = place.root.join("tests/peers").join(from);
    let text =
        fs::read_to_string(&from).map_err(|error| format!("cannot read {}: {error}", from.display()))?;
    let text = gaps.iter().fold(text, |text, (gap, word)| text.replace(&format!("@{gap}@"), word));
    let to = place.own.join(to);
    fs::write(&to, text).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
    Ok(to)
}

fn nginx(place: &Place<'_>, _: &Candidate, port: u16) -> Result<Command, String> {
    let program = on_path(&["nginx", "/usr/sbin/nginx"])?;
    let own = place.own.display().to_string();
    let gaps = [("PORT", port.to_string()), ("ROOT", own.clone())];
    let gaps = gaps.each_ref().map(|(gap, word)| (*gap, word.as_str()));
    let configuration = filled(place, "nginx/nginx.conf", "nginx.conf", &gaps)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&place.own).arg("-e").arg("stderr").arg("-c").arg(configuration);
    Ok(command)
}

const HTTPD: &[&str] = &["apache2", "/usr/sbin/apache2", "httpd", "/usr/sbin/httpd"];
const MODULES: &[&str] = &["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"];

fn httpd(place: &Place<'_>, candidate: &Candidate, port: u16) -> Result<Command, String> {
    let program = on_path(HTTPD)?;
    let mpm = candidate.name.trim_start_matches("apache-");
    let modules = MODULES.iter().find(|path| Path::new(path).join(format!("mod_mpm_{mpm}.so")).exists());
    let modules =
        modules.ok_or_else(|| format!("its module mpm_{mpm} is in none of {}", MODULES.join(", ")))?;
    let gaps = [
        ("PORT", port.to_string()),
        ("ROOT", place.own.display().to_string()),
        ("MPM", mpm.to_owned()),
        ("MODULES", (*modules).to_owned()),
    ];
    let gaps = gaps.each_ref().map(|(gap, word)| (*gap, word.as_str()));
    let configuration = filled(place, "apache/httpd.conf", &format!("{}.conf", candidate.name), &gaps)?;
    let mut command = Command::new(program);
    command.arg("-DFOREGROUND").arg("-f").arg(configuration);
    Ok(command)
}

fn httpd_version(_: &Place<'_>, _: &Candidate) -> Option<String> {
    version_in(Command::new(on_path(HTTPD).ok()?).arg("-v"))
}

/// The program of a candidate in Python: in the virtual environment, else wherever programs are.
fn interpreter(place: &Place<'_>, candidate: &Candidate) -> Result<(PathBuf, bool), String> {
    let name = candidate.name.split('-').next().unwrap_or_default();
    let within = place.python.join("bin").join(name);
    if within.exists() {
        return Ok((within, true));
    }
    on_path(&[name]).map(|program| (program, false))
}

fn pythonic(place: &Place<'_>, candidate: &Candidate, port: u16) -> Result<Command, String> {
    let (program, own) = interpreter(place, candidate)?;
    let directory = place.root.join("tests/peers/python");
    let (bind, port) = (format!("127.0.0.1:{port}"), port.to_string());
    let mut command = Command::new(program);
    command.current_dir(&directory).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("GUNICORN_CMD_ARGS");
    match candidate.name {
        "gunicorn-sync" => command.args(["-k", "sync", "-w", "1", "-b", &bind, "app:application"]),
        "gunicorn-gthread" => {
            command.args(["-k", "gthread", "-w", "1", "--threads", "4", "--keep-alive", "75", "-b", &bind]);
            command.arg("app:application")
        }
        "granian-wsgi" | "granian-rsgi" => {
            let (interface, target) = match candidate.name {
                "granian-wsgi" => ("wsgi", "app:application"),
                _ => ("rsgi", "app:rsgi"),
            };
            command.args([
                "--interface",
                interface,
                "--workers",
                "1",
                "--host",
                "127.0.0.1",
                "--port",
                &port,
            ]);
            command.args(["--backlog", "16384", "--log-level", "error", target])
        }
        _ => {
            if !own {
                // As distributions package it, each language is a plugin.
                command.args(["--plugin", "python3"]);
            }
            command.args(["--http-socket", &bind, "--wsgi-file", "app.py", "--processes", "1", "--need-app"]);
            command.args(["--disable-logging", "--die-on-term"])
        }
    };
    Ok(command)
}

fn pythonic_version(place: &Place<'_>, candidate: &Candidate) -> Option<String> {
    let (program, _) = interpreter(place, candidate).ok()?;
    let name = candidate.name.split('-').next()?;
    let text = version_in(Command::new(program).arg("--version"))?;
    Some(format!("{name} {}", text.rsplit(' ').next()?.trim_end_matches(')')))
}

/// The first of these that is a file, or a program on the PATH.
fn on_path(names: &[&str]) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let places = names.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    let found = places.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| format!("{} is not installed", names[0]))
}

/// The first line that the program says, on whichever stream.
fn version_in(command: &mut Command) -> Option<String> {
    let text = said(command).ok()?;
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    // «nginx version: nginx/1.22.1», «Server version: Apache/2.4 (Debian)».
    Some(line.rsplit_once(": ").map_or(line, |(_, version)| version).replace('/', " "))
}
