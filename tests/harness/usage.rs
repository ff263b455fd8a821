//! What a process costs: time, wakes, memory, threads, descriptors, and who waits to be accepted.
//!
//! Owns the reading of those figures in /proc. What a newcomer would get wrong: a thread that has ended takes its
//! context switches with it, so two looks can be compared only if the threads stay.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Context switches of one process, over all its threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switches {
    /// It waited for something: each is a wake.
    pub voluntary: u64,
    /// Somebody else needed the CPU.
    pub involuntary: u64,
}

impl Switches {
    /// Both kinds.
    pub fn all(self) -> u64 {
        self.voluntary + self.involuntary
    }

    /// What has come since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            voluntary: self.voluntary.saturating_sub(before.voluntary),
            involuntary: self.involuntary.saturating_sub(before.involuntary),
        }
    }
}

/// The context switches of a process so far.
pub fn switches(pid: i32) -> Switches {
    let mut sum = Switches::default();
    for thread in threads(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        sum.voluntary += field(&status, "voluntary_ctxt_switches:");
        sum.involuntary += field(&status, "nonvoluntary_ctxt_switches:");
    }
    sum
}

/// The threads of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// How many descriptors a process has open.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The memory that would be free if the process were gone, in octets.
pub fn private_memory(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    1024 * (field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:"))
}

/// The memory that a process has of its own, in octets, whether or not it still shares pages of it with children that it
/// has forked: what that memory costs changes with every fork, what there is of it does not.
pub fn own_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    1024 * (field(&status, "RssAnon:") + field(&status, "VmSwap:"))
}

/// The CPU time of a process so far, its own and the kernel's for it. It moves in steps of 10 ms.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // utime and stime are fields 14 and 15 of proc(5), counted in ticks of USER_HZ, which is 100; after the name, 11 and 12.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 =
        after.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// How many connections to a TCP port wait to be accepted.
pub fn queued(port: u16) -> u64 {
    // Of a listener, the kernel tells its queue as rx_queue.
    let queue = |socket: &Socket| u64::from_str_radix(socket.queues.split_once(':')?.1, 16).ok();
    sockets_of(port).iter().filter(|socket| socket.listens).filter_map(queue).sum()
}

/// How many connections to a TCP port processes hold: accepted, and not closed.
pub fn accepted(port: u16) -> usize {
    // One that waits to be accepted, or that only the kernel still knows, has no inode.
    sockets_of(port).iter().filter(|socket| !socket.listens && socket.inode != 0).count()
}

struct Socket {
    listens: bool,
    queues: String,
    inode: u64,
}

/// The TCP sockets, over IPv4, whose own port this is.
fn sockets_of(port: u16) -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // The table may hold tens of thousands that only wait for their end; most are passed over unread.
    let ours = format!(":{port:04X} ");
    let socket = |line: &str| {
        // local address, state, tx_queue:rx_queue, inode: proc_net_tcp.txt of the kernel. 0A is LISTEN.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        let listens = *fields.get(3)? == "0A";
        let (queues, inode) = ((*fields.get(4)?).to_owned(), fields.get(9)?.parse().ok()?);
        (local == port).then_some(Socket { listens, queues, inode })
    };
    table.lines().filter(|line| line.contains(&ours)).filter_map(socket).collect()
}

/// The largest of these counts over the smallest.
pub fn imbalance<K>(counts: &BTreeMap<K, u64>) -> f64 {
    let most = counts.values().max().copied().unwrap_or_default();
    let least = counts.values().min().copied().unwrap_or_default();
    most as f64 / least as f64
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
