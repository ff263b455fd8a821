//! Whether the kernel has killed for want of memory: the counter of the control group that the master and its workers
//! live in.
//!
//! Owns finding the counter (cgroups(7), version 1 and 2) and reading it. Does not own the log line. What a newcomer
//! would get wrong: a worker that was killed is no evidence. Operators kill, too, and a guess about memory sends them
//! looking in the wrong place; without a counter that has grown nothing is said.
//!
//! The master may read it: the file is opened once, before anything is served, so that no path is looked up later, and
//! the kernel makes its few octets from a counter in memory. No disk and no other process is asked, and the counter
//! grows before the signal is sent (`__oom_kill_process`), so that a death that was reaped has been counted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The files hold a handful of short lines.
const LARGEST: usize = 1024;

/// The kernel's counter of kills for want of memory.
#[derive(Debug, Default)]
pub struct OomCounter {
    file: Option<File>,
    /// As many as this have been told of, or are not ours to tell.
    seen: u64,
}

impl OomCounter {
    /// Master: opens the counter of the own control group. Where there is none (no memory controller, no access) no
    /// death is ever explained by it.
    pub fn open() -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        counter_files(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
            .iter()
            .map(|file| Self::of(file))
            .find(|counter| counter.count().is_some())
            .unwrap_or_default()
    }

    fn of(file: &Path) -> Self {
        let mut counter = Self { file: File::open(file).ok(), seen: 0 };
        counter.seen = counter.count().unwrap_or(0);
        counter
    }

    /// Master: whether one more kill was counted than deaths were explained by it; this death takes it.
    pub fn claim(&mut self) -> bool {
        let more = self.count().is_some_and(|count| count > self.seen);
        self.seen += u64::from(more);
        more
    }

    /// Master: what was counted until now and nobody has claimed was somebody else's death.
    pub fn settle(&mut self) {
        self.seen = self.count().unwrap_or(self.seen);
    }

    /// `oom_kill` in memory.events (version 2) and in memory.oom_control (version 1).
    fn count(&self) -> Option<u64> {
        let mut octets = [0; LARGEST];
        // From offset 0 the kernel makes the text anew.
        let length = self.file.as_ref()?.read_at(&mut octets, 0).ok()?;
        let text = std::str::from_utf8(&octets[..length]).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }
}

/// Where the counter may be: the group of version 1's memory controller, then that of version 2.
fn counter_files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    // hierarchy:controllers:path; version 2 is hierarchy 0 and names no controllers.
    let group = |is_wanted: fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let (hierarchy, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            is_wanted(hierarchy, controllers).then_some(path)
        })
    };
    let has_memory = |options: &str| options.split(',').any(|option| option == "memory");
    let first = group(|_, controllers| controllers.split(',').any(|controller| controller == "memory"))
        .and_then(|path| place(mounts, path, |kind, options| kind == "cgroup" && has_memory(options)))
        .map(|directory| directory.join("memory.oom_control"));
    let second = group(|hierarchy, controllers| hierarchy == "0" && controllers.is_empty())
        .and_then(|path| place(mounts, path, |kind, _| kind == "cgroup2"))
        .map(|directory| directory.join("memory.events"));
    first.into_iter().chain(second).collect()
}

/// The directory of a group, by the mount that shows it: proc(5), mountinfo.
fn place(mounts: &str, group: &str, is_wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        if !is_wanted(kind.next()?, kind.nth(1).unwrap_or_default()) {
            return None;
        }
        let mut mount = mount.split(' ').skip(3);
        // A container may see only a part of the hierarchy, mounted as if it were the whole.
        let (root, point) = (mount.next()?, mount.next()?);
        let below = Path::new(group).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn the_counter_of_either_version_is_found() {
        let old_groups = "5:devices:/\n4:cpu,memory:/a/b\n1:name=systemd:/\n0::/a\n";
        let old_mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                          35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,cpu,memory\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let both = ["/sys/fs/cgroup/memory/a/b/memory.oom_control", "/sys/fs/cgroup/unified/a/memory.events"];
        assert_eq!(counter_files(old_groups, old_mounts), both.map(PathBuf::from));

        let mounts = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let unit = ["/sys/fs/cgroup/system.slice/app.service/memory.events"].map(PathBuf::from);
        assert_eq!(counter_files("0::/system.slice/app.service\n", mounts), unit);
    }

    #[test]
    fn a_container_that_sees_a_part_finds_its_own_group() {
        let mounts = "29 22 0:26 /docker/1f /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            counter_files("0::/docker/1f/sub\n", mounts),
            [PathBuf::from("/sys/fs/cgroup/sub/memory.events")]
        );
        assert_eq!(counter_files("0::/elsewhere\n", mounts), Vec::<PathBuf>::new());
        assert_eq!(counter_files("", ""), Vec::<PathBuf>::new());
    }

    #[test]
    fn each_kill_explains_one_death_and_no_other() {
        let temp = TempDir::new("oom");
        let file = temp.join("memory.events");
        let write = |kills: u32| fs::write(&file, format!("low 0\noom 9\noom_kill {kills}\n")).unwrap();
        write(3);
        let mut counter = OomCounter::of(&file);
        assert!(!counter.claim(), "what was before the start is nobody's of ours");
        write(5);
        assert_eq!([counter.claim(), counter.claim(), counter.claim()], [true, true, false]);
        write(6);
        counter.settle();
        assert!(!counter.claim(), "it was a death that had another reason");
    }

    #[test]
    fn without_a_counter_nothing_is_claimed() {
        let temp = TempDir::new("no_oom");
        let file = temp.join("memory.oom_control");
        assert!(!OomCounter::of(&file).claim());
        // Kernels before 4.13 have the file without the line.
        fs::write(&file, "oom_kill_disable 0\nunder_oom 0\n").unwrap();
        assert!(!OomCounter::of(&file).claim());
    }
}
