//! Directories that are watched for files that appear or were written (inotify(7)).
//!
//! Owns the descriptor and the events worth telling. Does not own which names matter. What a newcomer would get wrong:
//! a file is not watched but its directory, since rename(2) and a linker put another file in its place, and a watch on
//! the old one would see nothing ever after. And close(2) waits: whoever closes the last descriptor of an inotify
//! instance stands still until no processor looks at its watches any more, some 10 ms as a rule, and on a machine with
//! much network traffic for as long as that keeps the kernel busy. To remove a watch takes no time.
#![allow(
    unsafe_code,
    reason = "inotify_rm_watch(2), and an inotify descriptor that came from another process"
)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify as Raw};

/// Reads at a time: a storm of events must not keep the master from its other work.
const READS: usize = 16;

/// What has happened in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Whoever wrote this file has closed it, or it came by rename(2).
    Written(i32, OsString),
    /// This name is new: a link, or a file that somebody may still be writing.
    Created(i32, OsString),
    /// The directory is gone, and with it its watch.
    Gone(i32),
    /// There was more than the kernel keeps.
    Overflow,
}

/// An inotify descriptor, non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Inotify(Raw);

impl Inotify {
    /// A new one that watches nothing yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM: fs.inotify.max_user_instances may be too small.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Raw::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?))
    }

    /// Takes over one that another process has made with [`Inotify::new`]: it shares the watches.
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: the type promises nothing beyond a descriptor that it owns. Of one that is no inotify's, reading fails.
        Self(unsafe { Raw::from_owned_fd(fd) })
    }

    /// Watches a directory, symlinks followed, and returns the number under which its events come: the same again for
    /// a directory that is watched already.
    ///
    /// # Errors
    /// It is no directory, cannot be read, or fs.inotify.max_user_watches is reached (ENOSPC).
    pub fn watch_directory(&self, directory: &Path) -> io::Result<i32> {
        let what = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        Ok(self.0.add_watch(directory, what | AddWatchFlags::IN_ONLYDIR)?.as_raw())
    }

    /// Watches a directory no longer. Its last event is [`Event::Gone`]. There may be no such watch any more.
    pub fn unwatch(&self, wd: i32) {
        // SAFETY: two numbers; the descriptor is open as long as `self` is.
        let _ = unsafe { libc::inotify_rm_watch(self.0.as_fd().as_raw_fd(), wd) };
    }

    /// A further descriptor for the same watches and events. While another one is open, to close one takes no time.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn another(&self) -> io::Result<Self> {
        Ok(Self::from_fd(self.as_fd().try_clone_to_owned()?))
    }

    /// What has happened, without waiting. What is left over makes the descriptor readable again.
    ///
    /// # Errors
    /// None expected on a descriptor of [`Inotify::new`].
    pub fn take(&self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        for _ in 0..READS {
            match self.0.read_events() {
                Ok(read) => events.extend(read.into_iter().filter_map(|event| {
                    let wd = event.wd.as_raw();
                    match event.name {
                        _ if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) => Some(Event::Overflow),
                        None => event.mask.contains(AddWatchFlags::IN_IGNORED).then_some(Event::Gone(wd)),
                        Some(name) if event.mask.contains(AddWatchFlags::IN_CREATE) => {
                            Some(Event::Created(wd, name))
                        }
                        Some(name) => Some(Event::Written(wd, name)),
                    }
                })),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(events)
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Inotify> for OwnedFd {
    fn from(inotify: Inotify) -> Self {
        inotify.0.into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn tells_what_was_written_renamed_and_linked_and_nothing_that_was_only_read() {
        let temp = TempDir::new("inotify");
        fs::write(temp.join("old"), "1").unwrap();
        let inotify = Inotify::new().unwrap();
        let wd = inotify.watch_directory(temp.path()).unwrap();
        assert_eq!(inotify.watch_directory(temp.path()).unwrap(), wd);
        assert_eq!(inotify.take().unwrap(), []);

        fs::read(temp.join("old")).unwrap();
        assert_eq!(inotify.take().unwrap(), []);
        fs::write(temp.join("old"), "2").unwrap();
        assert_eq!(inotify.take().unwrap(), [Event::Written(wd, "old".into())]);
        fs::rename(temp.join("old"), temp.join("new")).unwrap();
        assert_eq!(inotify.take().unwrap(), [Event::Written(wd, "new".into())]);
        symlink("new", temp.join("link")).unwrap();
        fs::hard_link(temp.join("new"), temp.join("twin")).unwrap();
        let links = [Event::Created(wd, "link".into()), Event::Created(wd, "twin".into())];
        assert_eq!(inotify.take().unwrap(), links);
    }

    #[test]
    fn another_owner_of_the_descriptor_has_the_same_watches() {
        let temp = TempDir::new("inotify_fd");
        let inotify = Inotify::new().unwrap();
        let directory = temp.join("sub");
        fs::create_dir(&directory).unwrap();
        let wd = inotify.watch_directory(&directory).unwrap();
        let another = inotify.another().unwrap();
        drop(inotify);
        let inotify = Inotify::from_fd(another.into());
        fs::remove_dir(&directory).unwrap();
        assert_eq!(inotify.take().unwrap(), [Event::Gone(wd)]);
        assert!(inotify.watch_directory(&directory).is_err());
    }

    #[test]
    fn what_is_not_watched_any_more_is_not_told() {
        let temp = TempDir::new("unwatch");
        let inotify = Inotify::new().unwrap();
        let wd = inotify.watch_directory(temp.path()).unwrap();
        inotify.unwatch(wd);
        inotify.unwatch(wd);
        fs::write(temp.join("x"), "").unwrap();
        assert_eq!(inotify.take().unwrap(), [Event::Gone(wd)]);
        assert_ne!(inotify.watch_directory(temp.path()).unwrap(), wd, "a number is not given again");
    }
}
