//! The server under trial: this very program, in a directory of its own, with the class that is judged.
//!
//! Owns its start, its log and its end: it does not outlive `certify`, however that ends. Judges nothing. What a newcomer
//! would get wrong: the class runs in children of this child, so that nothing it does can reach the judge.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::client::{Client, Trouble};
use crate::sys::signal::{self, Signal};
use crate::sys::wait::{self, Ended};
use crate::sys::{Pid, fork};

/// How long a start may take: a slow machine, and a file that is still being written.
const BOOT: Duration = Duration::from_secs(120);
/// Between two looks at something that is waited for.
const INTERVAL: Duration = Duration::from_millis(3);

/// What every server under trial is started with.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// This program.
    pub(super) program: PathBuf,
    /// The class's file.
    pub(super) class: PathBuf,
    /// The reference application.
    pub(super) reference: PathBuf,
    /// `NAME=VALUE` of the class's own options.
    pub(super) options: Vec<String>,
    /// Where logs and sockets go.
    pub(super) directory: PathBuf,
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    pid: Pid,
    pub(super) address: SocketAddr,
    directory: PathBuf,
    ended: Option<Ended>,
}

/// Variables that would change what is tried.
const VARIABLES: &[&str] = &["RGUNICORN_CMD_ARGS", "PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"];

impl Server {
    /// Starts a server with these words more, and at most so many descriptors.
    ///
    /// # Errors
    /// It does not serve; what it said itself, if it said something.
    pub(super) fn start(
        setup: &Setup,
        number: u32,
        words: &[&str],
        descriptors: Option<u64>,
    ) -> Result<Self, Trouble> {
        let directory = setup.directory.join(number.to_string());
        fs::create_dir(&directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let mut command = command(setup, &directory, words)?;
        let parent = nix::unistd::getpid();
        let pid = fork::fork(|| {
            let prepared = signal::unblock_all().and_then(|()| signal::kill_with_parent(parent));
            let limited = descriptors.map_or(Ok(()), |count| {
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
                setrlimit(Resource::RLIMIT_NOFILE, count.min(hard), hard)
            });
            if matches!(prepared, Ok(true)) && limited.is_ok() {
                // Returns only if it fails, and then the exit code says so.
                let _ = command.exec();
            }
            127
        })
        .map_err(|error| format!("cannot fork: {error}"))?;
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { pid, address, directory, ended: None };
        let deadline = Instant::now() + BOOT;
        loop {
            // The line that follows the addresses: by then all is there.
            if server.log().contains("Using worker: ") {
                break;
            }
            if server.has_ended() {
                return Err(server.last_words());
            }
            if Instant::now() > deadline {
                return Err(format!("the server does not serve within {} s", BOOT.as_secs()));
            }
            pause(INTERVAL);
        }
        let log = server.log();
        let address =
            log.lines().find_map(|line| line.split_once("Listening at: http://")?.1.split(' ').next());
        server.address = address
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| "the server's log names no address".to_owned())?;
        Ok(server)
    }

    /// The sentence with which the server ended.
    fn last_words(&self) -> Trouble {
        let said = fs::read_to_string(self.directory.join("stderr")).unwrap_or_default();
        let sentence = said.lines().rev().find_map(|line| line.strip_prefix("rgunicorn: "));
        sentence.map_or_else(
            || {
                format!(
                    "the server ended without a word: {}",
                    self.ended.map_or("?".to_owned(), |ended| ended.to_string())
                )
            },
            str::to_owned,
        )
    }

    /// What is written in its error log.
    pub(super) fn log(&self) -> String {
        self.file("error.log")
    }

    /// A file of its directory, as text.
    pub(super) fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.join(name)).unwrap_or_default()).into_owned()
    }

    /// A path in its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Trouble> {
        match signal::send(self.pid, signal) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the server is gone".to_owned()),
            Err(error) => Err(format!("cannot send a signal: {error}")),
        }
    }

    /// Whether the master has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = wait::reap().filter(|(pid, _)| *pid == self.pid).map(|(_, ended)| ended);
        }
        self.ended.is_some()
    }

    /// Waits until the server has ended well.
    pub(super) fn expect_end(&mut self, within: Duration) -> Result<(), Trouble> {
        if !until(within, || self.has_ended()) {
            return Err(format!("the server has not ended {} s after the signal", within.as_secs()));
        }
        match self.ended {
            Some(Ended::Exited(0)) | None => Ok(()),
            Some(ended) => Err(format!("the server {ended}")),
        }
    }

    /// The worker that answers now.
    pub(super) fn worker(&self) -> Result<i32, Trouble> {
        let answer = Client::get(self.address, "/pid")?;
        std::str::from_utf8(&answer.body)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("/pid was answered with a {}", answer.status))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended() {
            // Whatever it is at: its children end with it.
            let _ = signal::send(self.pid, Signal::SIGKILL);
            let _ = wait::wait(self.pid);
        }
    }
}

fn command(setup: &Setup, directory: &Path, words: &[&str]) -> Result<Command, Trouble> {
    let file = |name: &str| {
        let path = directory.join(name);
        File::create(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))
    };
    let reference = setup.reference.display();
    let mut command = Command::new(&setup.program);
    command
        .arg("-k")
        .arg(&setup.class)
        .args(["--bind", "127.0.0.1:0", "--error-logfile", "error.log", "--access-logfile", "access.log"])
        .args([
            "--boot-timeout",
            "100",
            "--control-socket",
            "control",
            "--mount",
            &format!("/inline={reference}:inline"),
        ])
        .args(["--mount", &format!("/async={reference}:async")])
        .args(setup.options.iter().flat_map(|option| ["--worker-option", option]))
        .args(words)
        .arg(format!("{reference}:app"))
        .current_dir(directory)
        .env("PWD", directory)
        .stdin(std::process::Stdio::null())
        .stdout(file("stdout")?)
        .stderr(file("stderr")?);
    for name in VARIABLES {
        command.env_remove(name);
    }
    Ok(command)
}

/// Waits until the condition holds, for at most so long.
pub(super) fn until(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        pause(INTERVAL);
    }
}

/// Does nothing for a while.
pub(super) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "in a tool, for which nobody waits in this way")]
    std::thread::sleep(time);
}
