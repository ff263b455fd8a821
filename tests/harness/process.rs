//! Processes and sockets, as /proc shows them.
//!
//! Owns the reading of /proc/PID/stat, /proc/PID/fd and /proc/net. What a newcomer would get wrong: between two looks
//! a process may be gone, so everything here answers with what is left instead of an error.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process, alive or not reaped yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// `R`, `S`, `D`, `T`, `Z` …: proc(5).
    pub state: char,
}

/// The process with this id.
pub fn find(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses too.
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(Process { pid, parent, group, state })
}

/// Every process there is.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(find).collect()
}

/// The children of a process, those not reaped included, in order of their ids.
pub fn children(parent: i32) -> Vec<Process> {
    let mut found: Vec<Process> = all().into_iter().filter(|process| process.parent == parent).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The processes of a group that still run; those that only wait to be reaped do not count.
pub fn group(group: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.group == group && process.state != 'Z').collect()
}

/// Whether a process runs: it is there, and not dead.
pub fn runs(pid: i32) -> bool {
    find(pid).is_some_and(|process| !matches!(process.state, 'Z' | 'X'))
}

/// How many threads of a process wait in a kernel function of this name, as /proc/PID/task/TID/wchan tells it; the
/// kernel's own spelling may differ at the ends.
pub fn sleeping_threads(pid: i32, function: &str) -> usize {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let waits = |path: std::path::PathBuf| fs::read_to_string(path.join("wchan")).unwrap_or_default();
    tasks.flatten().filter(|task| waits(task.path()).contains(function)).count()
}

/// Sends a signal. That the process is gone is no error.
pub fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// The inodes of all sockets that a process has open.
pub fn sockets(pid: i32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// The TCP sockets among those that a process has open.
pub fn tcp_sockets(pid: i32) -> BTreeSet<u64> {
    let unix: BTreeSet<u64> = fs::read_to_string("/proc/net/unix")
        .unwrap_or_default()
        .lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().nth(6)?.parse().ok())
        .collect();
    sockets(pid).difference(&unix).copied().collect()
}

/// The inodes of the TCP sockets, v4 and v6, that listen on a port.
pub fn listening(port: u16) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(table).unwrap_or_default();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            // local address, state 0A (LISTEN), inode: proc_net_tcp.txt of the kernel.
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let ours = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
            if ours == Some(port) {
                found.extend(inode.parse::<u64>().ok());
            }
        }
    }
    found
}

/// For each inotify descriptor of a process, how many directories the kernel watches (proc(5), fdinfo).
pub fn watched_directories(pid: i32) -> Vec<usize> {
    let process = Path::new("/proc").join(pid.to_string());
    let descriptors = fs::read_dir(process.join("fd")).expect("it runs");
    let mut found = Vec::new();
    for descriptor in descriptors.flatten() {
        // One may be closed meanwhile.
        if fs::read_link(descriptor.path()).is_ok_and(|link| link == Path::new("anon_inode:inotify")) {
            let info = fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()));
            let info = info.unwrap_or_default();
            found.push(info.lines().filter(|line| line.starts_with("inotify ")).count());
        }
    }
    found
}
