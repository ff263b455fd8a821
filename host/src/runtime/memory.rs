//! The memory of this worker, looked at once a second, and the limit beyond which it asks to be replaced.
//!
//! Owns the figure and the rhythm. Does not own what follows: the watch thread asks the master, as after `max_requests`.
//! What a newcomer would get wrong: pages of libraries and of the scoreboard are shared and not counted, nor is what a
//! template has created for all its workers; and pages that were swapped out are, or a leak could hide in the swap. A
//! worker that is above the limit as soon as it may serve has no leak; replacing it would only make the next one like
//! it, for ever.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Between two looks. A look takes some 20 µs; only workers with a limit look at all.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks there is this many times what a look takes, where that is longer.
const LEISURE: u32 = 50;

/// What a look has found.
#[derive(Debug)]
pub(super) enum Finding {
    /// More than the limit, in octets.
    Over(u64),
    /// More than the limit at the first look already. There are no further ones.
    OverFromTheStart(u64),
    /// Nobody knows. There are no further looks.
    Unknown(io::Error),
}

/// The limit, and when to look next.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    limit: Option<u64>,
    next: Option<Instant>,
}

impl MemoryLimit {
    /// Worker: a limit in octets; with none nobody ever looks.
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, next: None }
    }

    /// When to look next; none before the first look.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Looks if it is time to, and says what calls for something. `own` tells the memory of this process.
    pub(super) fn look(&mut self, now: Instant, own: impl Fn() -> io::Result<u64>) -> Option<Finding> {
        let limit = self.limit?;
        let first = self.next.is_none();
        if self.next.is_some_and(|next| next > now) {
            return None;
        }
        let begin = Instant::now();
        let finding = match own() {
            Ok(octets) if octets <= limit => {
                self.next = Some(now + INTERVAL.max(begin.elapsed() * LEISURE));
                return None;
            }
            Ok(octets) if first => Finding::OverFromTheStart(octets),
            Ok(octets) => Finding::Over(octets),
            Err(error) => Finding::Unknown(error),
        };
        (self.limit, self.next) = (None, None);
        Some(finding)
    }
}

/// The memory that this process has for itself, swapped out or not, in octets (proc(5), RssAnon and VmSwap).
///
/// # Errors
/// There is no /proc, or it does not tell.
pub(super) fn own() -> io::Result<u64> {
    of_status(&fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::other("/proc/self/status has no line RssAnon"))
}

/// The same of a process that a template has forked, which shares what was created there. For that the kernel looks at
/// each page (Private_Dirty and SwapPss of `smaps_rollup`): 130 ms for each GiB were measured, so that it is asked only
/// of a process that may be beyond `limit`.
///
/// # Errors
/// As [`own`].
pub(super) fn own_beside_template(limit: u64) -> io::Result<u64> {
    let with_shared = own()?;
    if with_shared <= limit {
        return Ok(with_shared);
    }
    of_rollup(&fs::read_to_string("/proc/self/smaps_rollup")?)
        .ok_or_else(|| io::Error::other("/proc/self/smaps_rollup has no line Private_Dirty"))
}

fn of_status(status: &str) -> Option<u64> {
    // A kernel without swap has no VmSwap.
    Some(1024 * (kibibytes(status, "RssAnon")? + kibibytes(status, "VmSwap").unwrap_or(0)))
}

fn of_rollup(rollup: &str) -> Option<u64> {
    Some(1024 * (kibibytes(rollup, "Private_Dirty")? + kibibytes(rollup, "SwapPss").unwrap_or(0)))
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_does_not_count_and_what_is_swapped_out_does() {
        let status = "Name:\tx\nVmRSS:\t 9000 kB\nRssAnon:\t 100 kB\nRssFile:\t 8000 kB\nVmSwap:\t 20 kB\n";
        assert_eq!(of_status(status), Some(120 * 1024));
        assert_eq!(of_status("RssAnon:\t 100 kB\n"), Some(100 * 1024));
        assert_eq!(of_status("Name:\tx\n"), None);
        let rollup = "1000-2000 ---p 00000000 00:00 0    [rollup]\nRss:  9000 kB\nPrivate_Dirty:  70 kB\nSwapPss:  5 kB\n";
        assert_eq!(of_rollup(rollup), Some(75 * 1024));
        assert_eq!(of_rollup("Rss:  9000 kB\n"), None);
        assert!(own().unwrap() > 0 && own_beside_template(0).unwrap() > 0);
    }

    #[test]
    fn it_looks_once_a_second_and_asks_once() {
        let mut limit = MemoryLimit::new(Some(10));
        let now = Instant::now();
        assert!(limit.look(now, || Ok(10)).is_none());
        assert_eq!(limit.deadline(), Some(now + INTERVAL));
        assert!(limit.look(now, || Ok(11)).is_none(), "it is not time yet");
        let found = limit.look(now + INTERVAL, || Ok(11));
        assert!(matches!(found, Some(Finding::Over(11))), "{found:?}");
        assert_eq!(limit.deadline(), None);
        assert!(limit.look(now + 2 * INTERVAL, || Ok(12)).is_none());
    }

    #[test]
    fn a_limit_that_no_worker_can_keep_is_said_once() {
        let mut limit = MemoryLimit::new(Some(10));
        let found = limit.look(Instant::now(), || Ok(11));
        assert!(matches!(found, Some(Finding::OverFromTheStart(11))), "{found:?}");
        assert_eq!(limit.deadline(), None);
    }

    #[test]
    fn without_a_limit_nobody_looks() {
        let mut limit = MemoryLimit::new(None);
        assert!(limit.look(Instant::now(), || panic!("it has looked")).is_none());
        assert_eq!(limit.deadline(), None);
    }
}
