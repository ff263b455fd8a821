//! The directory that is served, and the only way to open something in it.
//!
//! Owns the promise that nothing outside of the root is ever opened. openat2(2) keeps it in the kernel; where there is
//! none (before Linux 5.6, or under a filter of system calls that does not know it) the same walk is done here, one
//! component at a time.
//!
//! What a newcomer gets wrong: a path that was checked and is then opened by its name may have changed in between. So no
//! path is ever checked: a component is opened relative to the directory that was opened before it, and `..` in a
//! symlink goes back to that very directory, whatever its parent may be by then.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2, readlinkat};
use rustix::io::Errno;

use crate::settings::Symlinks;

/// Regular files ignore `NONBLOCK`; a pipe that lies among them would otherwise hold the thread until somebody writes.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// As the kernel has it: path_resolution(7).
const MOST_SYMLINKS: usize = 40;
/// openat2(2) gives up when something is renamed while it passes `..`; it asks to be called again.
const ATTEMPTS: usize = 16;

/// A directory that was opened.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    symlinks: Symlinks,
    /// Whether the kernel resolves.
    by_kernel: bool,
}

impl Root {
    /// Opens the directory. It stays the same one, also if its path leads elsewhere later.
    pub(crate) fn open(path: &Path, symlinks: Symlinks) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let mut root = Self { directory, symlinks, by_kernel: true };
        // A first step shows whether the directory may be entered, and who takes the steps.
        match root.resolve(b".", OFlags::PATH) {
            // There is none, or a filter of system calls does not let it through.
            Err(Errno::NOSYS | Errno::PERM) => {
                root.by_kernel = false;
                openat(&root.directory, ".", LOOK, Mode::empty())?;
            }
            entered => _ = entered?,
        }
        Ok(root)
    }

    /// Opens what has this name below the root; an empty name is the root. A way out is [`Errno::XDEV`].
    pub(crate) fn file(&self, name: &[u8]) -> Result<File, Errno> {
        let name = if name.is_empty() { b"." } else { name };
        let opened = if self.by_kernel { self.resolve(name, READ) } else { self.walk(name) };
        opened.map(File::from)
    }

    fn resolve(&self, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if self.symlinks == Symlinks::Never {
            how |= ResolveFlags::NO_SYMLINKS;
        }
        let mut attempts = 1..ATTEMPTS;
        loop {
            match openat2(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                Err(Errno::AGAIN) if attempts.next().is_some() => {}
                opened => return opened,
            }
        }
    }

    /// What [`Self::resolve`] does, without its help.
    fn walk(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut left: VecDeque<Vec<u8>> = components(name).collect();
        let mut symlinks = 0;
        while let Some(component) = left.pop_front() {
            if component == b".." {
                // Back to where this walk has come from; from the root there is no back.
                way.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            let here = way.last().unwrap_or(&self.directory).as_fd();
            let found = openat(here, &component[..], LOOK, Mode::empty())?;
            let is_symlink =
                rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_symlink();
            if is_symlink {
                symlinks += 1;
                if self.symlinks == Symlinks::Never || symlinks > MOST_SYMLINKS {
                    return Err(Errno::LOOP);
                }
                // An empty name means the symlink itself, which was opened: nobody can exchange it any more.
                let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                if target.starts_with(b"/") {
                    return Err(Errno::XDEV);
                }
                for component in components(&target).rev() {
                    left.push_front(component);
                }
            } else if left.is_empty() {
                // Once more, to be read. A symlink that has taken the place meanwhile is not followed.
                return openat(here, &component[..], READ | OFlags::NOFOLLOW, Mode::empty());
            } else {
                way.push(found);
            }
        }
        // A symlink's target ended in a directory on the way.
        openat(way.last().unwrap_or(&self.directory), ".", READ, Mode::empty())
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    let named = |component: &&[u8]| !component.is_empty() && *component != b".";
    path.split(|octet| *octet == b'/').filter(named).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A directory of its own, with a root in it and something outside of that.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rgunicorn-static-{}-{name}", std::process::id()));
            fs::create_dir_all(path.join("root/a/b")).unwrap();
            fs::write(path.join("secret"), "secret").unwrap();
            fs::write(path.join("root/top"), "top").unwrap();
            fs::write(path.join("root/a/b/deep"), "deep").unwrap();
            Self(path)
        }

        fn link(&self, target: &str, name: &str) {
            symlink(target, self.0.join("root").join(name)).unwrap();
        }

        /// The same root twice: resolved by the kernel, if it can, and by hand.
        fn roots(&self, symlinks: Symlinks) -> [Root; 2] {
            [true, false].map(|by_kernel| {
                let root = Root::open(&self.0.join("root"), symlinks).unwrap();
                Root { by_kernel: by_kernel && root.by_kernel, ..root }
            })
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn content(root: &Root, name: &str) -> Result<String, Errno> {
        let mut text = String::new();
        let mut file = root.file(name.as_bytes())?;
        if file.metadata().unwrap().is_dir() {
            return Ok("directory".to_owned());
        }
        file.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn the_kernel_and_the_walk_agree_and_neither_leaves_the_root() {
        let tree = Tree::new("agree");
        tree.link("a/b/deep", "in");
        tree.link("a", "directory");
        tree.link("../../top", "a/b/up");
        tree.link("b/../../a/./b/deep", "a/round");
        tree.link("in", "twice");
        tree.link(".", "here");
        tree.link("a/..", "root_again");
        tree.link("loop", "loop");
        tree.link("../secret", "out");
        tree.link("..", "parent");
        tree.link("a/../../root/top", "out_and_in");
        tree.link("/etc/passwd", "absolute");
        tree.link("/proc/self/cwd", "magic");
        tree.link("missing", "dangling");
        let cases: &[(&str, Result<&str, Errno>)] = &[
            ("", Ok("directory")),
            ("a/b", Ok("directory")),
            ("top", Ok("top")),
            ("a/b/deep", Ok("deep")),
            ("in", Ok("deep")),
            ("twice", Ok("deep")),
            ("directory/b/deep", Ok("deep")),
            ("directory/b/up", Ok("top")),
            ("a/round", Ok("deep")),
            ("here/here/top", Ok("top")),
            ("here", Ok("directory")),
            ("root_again/top", Ok("top")),
            ("root_again", Ok("directory")),
            ("missing", Err(Errno::NOENT)),
            ("dangling", Err(Errno::NOENT)),
            ("top/below", Err(Errno::NOTDIR)),
            ("loop", Err(Errno::LOOP)),
            ("out", Err(Errno::XDEV)),
            ("parent/secret", Err(Errno::XDEV)),
            ("parent/root/top", Err(Errno::XDEV)),
            ("out_and_in", Err(Errno::XDEV)),
            ("absolute", Err(Errno::XDEV)),
            ("magic/secret", Err(Errno::XDEV)),
            ("..", Err(Errno::XDEV)),
            ("a/../../secret", Err(Errno::XDEV)),
        ];
        for root in tree.roots(Symlinks::Within) {
            for (name, expected) in cases {
                let got = content(&root, name);
                let by_kernel = root.by_kernel;
                assert_eq!(
                    got.as_ref().map(String::as_str),
                    expected.as_ref().copied(),
                    "{name} {by_kernel}"
                );
            }
            let long = "x".repeat(300);
            assert_eq!(content(&root, &long), Err(Errno::NAMETOOLONG));
        }
        for root in tree.roots(Symlinks::Never) {
            assert_eq!(content(&root, "a/b/deep").as_deref(), Ok("deep"));
            for name in ["in", "directory/b/deep", "here/top", "out", "absolute", "loop"] {
                assert_eq!(content(&root, name), Err(Errno::LOOP), "{name}");
            }
        }
    }

    #[test]
    fn what_would_hold_a_reader_does_not() {
        let tree = Tree::new("pipe");
        let pipe = tree.0.join("root/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        for root in tree.roots(Symlinks::Within) {
            assert!(!root.file(b"pipe").unwrap().metadata().unwrap().is_file());
        }
    }

    #[test]
    fn a_symlink_that_is_switched_meanwhile_never_leads_out() {
        let tree = Tree::new("race");
        tree.link("a", "way");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (way, next) = (tree.0.join("root/way"), tree.0.join("root/next"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut targets = ["..", "a"].iter().cycle();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    symlink(targets.next().unwrap(), &next).unwrap();
                    fs::rename(&next, &way).unwrap();
                }
            });
            for root in tree.roots(Symlinks::Within) {
                for _ in 0..2000 {
                    match content(&root, "way/secret") {
                        Err(Errno::XDEV | Errno::NOENT | Errno::AGAIN) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
