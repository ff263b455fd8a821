//! A server that is measured: started, looked at, ended.
//!
//! Owns the process and all that it begets. What a newcomer would get wrong: a server may be several processes, and what
//! it costs is what all of them cost; and whoever presses Ctrl-C must leave nothing behind, so the kernel tells each
//! server when this program is gone (`setpriv --pdeathsig`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const HELLO: &[u8] = b"Hello, World!";

/// A server that runs, and ends with this value.
pub(crate) struct Server {
    pub(crate) port: u16,
    started: Child,
    /// How long it may take to answer, and to end.
    patience: Duration,
}

/// CPU time so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    /// In nanoseconds.
    pub(crate) total: u64,
    /// In ticks of 10 ms: how the total divides.
    pub(crate) user: u64,
    pub(crate) system: u64,
}

impl Used {
    pub(crate) fn since(self, before: Self) -> Self {
        // A thread that has ended takes its time with it.
        Self {
            total: self.total.saturating_sub(before.total),
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
        }
    }
}

/// A port that nobody has, for now.
pub(crate) fn free_port() -> Result<u16, String> {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| format!("cannot find a free port: {error}"))
}

/// The command on this core, and ended when this program is.
pub(crate) fn pinned(core: &str, command: &Command) -> Command {
    let mut pinned = Command::new("setpriv");
    pinned.args(["--pdeathsig", "TERM", "taskset", "-c", core]).arg(command.get_program());
    pinned.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        pinned.current_dir(directory);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    pinned
}

impl Server {
    /// Starts a command that is [`pinned`], and waits until it answers. What it says goes to a file of this name.
    pub(crate) fn start(
        mut command: Command,
        port: u16,
        said: &Path,
        patience: Duration,
    ) -> Result<Self, String> {
        let file = File::create(said).map_err(|error| format!("cannot write {}: {error}", said.display()))?;
        let other = file.try_clone().map_err(|error| format!("cannot write {}: {error}", said.display()))?;
        // A group of its own: Apache's answer to TERM is to send it to its whole group.
        command.stdin(Stdio::null()).stdout(file).stderr(other).process_group(0);
        let started = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let mut server = Self { port, started, patience };
        let until = Instant::now() + patience;
        loop {
            if let Ok(Some(status)) = server.started.try_wait() {
                return Err(format!("it has ended: {status}{}", last_words(said)));
            }
            match ask(port) {
                Ok(()) => return Ok(server),
                Err(sentence) if Instant::now() > until => {
                    return Err(format!("it does not answer: {sentence}{}", last_words(said)));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn pid(&self) -> u32 {
        self.started.id()
    }

    /// The processes that answer: all that it has forked, or itself if it has not.
    pub(crate) fn workers(&self) -> BTreeSet<u32> {
        let mut all = descendants(self.pid());
        if all.len() > 1 {
            all.remove(&self.pid());
        }
        all
    }

    /// The CPU time of all its threads.
    pub(crate) fn used(&self) -> Used {
        let mut used = Used::default();
        for pid in descendants(self.pid()) {
            for thread in threads(pid) {
                // proc_pid_schedstat: the first number is the time spent on a CPU. A thread may have ended meanwhile.
                let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
                used.total +=
                    text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            }
            // Fields 14 and 15 of proc(5), in ticks; after the name, 11 and 12.
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = text.rsplit_once(')').map_or("", |(_, after)| after);
            let mut ticks = after.split_whitespace().skip(11).filter_map(|word| word.parse::<u64>().ok());
            used.user += ticks.next().unwrap_or(0);
            used.system += ticks.next().unwrap_or(0);
        }
        used
    }

    /// The memory that nobody else has, of the processes that answer, in octets.
    pub(crate) fn private_memory(&self) -> u64 {
        self.workers().into_iter().map(private_memory).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that it takes its workers with it; who then is still there is told in plainer words.
        let all = descendants(self.pid());
        signal("TERM", self.pid());
        let until = Instant::now() + self.patience;
        while matches!(self.started.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        for pid in all {
            // A zombie of ours has no descriptors; what has become of another program's is not of this one's tree.
            if pid != self.pid() && Path::new(&format!("/proc/{pid}/fd/0")).exists() {
                signal("KILL", pid);
            }
        }
        if matches!(self.started.try_wait(), Ok(None)) {
            let _ = self.started.kill();
            let _ = self.started.wait();
        }
    }
}

fn signal(name: &str, pid: u32) {
    // That it has ended already is no matter here.
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// A request on a connection of its own, which must be answered well.
fn ask(port: u16) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    if answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(HELLO) {
        return Ok(());
    }
    Err(format!("it says {:?}", String::from_utf8_lossy(&answer)))
}

/// A process and all that it has forked.
fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([pid]);
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        for thread in threads(pid) {
            let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
            left.extend(
                children
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .filter(|pid| found.insert(*pid)),
            );
        }
    }
    found
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    entries.map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
}

/// What the process alone has written, in octets. Clean pages of a file are the kernel's cache: they count as private
/// only as long as no second worker maps them.
fn private_memory(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    1024 * (of("Private_Dirty:") + of("Swap:"))
}

/// The end of what a server has said.
fn last_words(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    if lines.is_empty() {
        String::new()
    } else {
        format!(": {}", lines.into_iter().rev().collect::<Vec<_>>().join(" / "))
    }
}

/// What a program prints, on both streams, if it ends well.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot run {command:?}: {error}"))?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{command:?} has failed: {}: {text}", output.status))
    }
}
