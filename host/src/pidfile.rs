//! The pid file: who is the master, for scripts, and a lock, for other masters.
//!
//! Owns the file while the master lives. Does not own when it is renamed (USR2).
//!
//! What a newcomer would get wrong: a number in a file proves nothing, since after a `kill -9` or in a container the
//! same number soon belongs to somebody else, and Gunicorn then refuses to start. So the file is also locked, with a
//! record lock (fcntl(2)): the kernel drops it with the process, however that ends, and children do not inherit it.
//! Such a lock is also lost when *any* descriptor of the file is closed by its owner, so the master never opens its
//! own pid file again; it compares inodes instead.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::error::io_text;

/// More than any pid has digits; what is longer is no pid file.
const LONGEST: u64 = 32;

/// A pid file that is ours, and locked.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    /// Held open for its lock.
    file: File,
}

/// Why there is no pid file: one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PidfileError {
    /// Gunicorn's words, which scripts look for.
    #[error("Already running on PID {pid} (or pid file '{}' is stale); stop that one, or give another --pid", path.display())]
    AlreadyRunning {
        /// Who holds it.
        pid: i32,
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link to nothing: whose it is, and what it was to lead to, only the operator knows.
    #[error("cannot write the pid file {}: it is a symbolic link to {}, which is not there; remove the link, or give another --pid", path.display(), target.display())]
    Dangling {
        /// The link.
        path: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// The system refused.
    #[error("cannot write the pid file {}: {why}; create its directory or give another path", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: String,
    },
}

impl Pidfile {
    /// Master: writes the process's id to a file with mode 0644 that appears complete or not at all. A file that
    /// nobody holds is replaced, with a warning if there was no pid in it. Of two masters that start at the same
    /// time, one gets it.
    ///
    /// # Errors
    /// Another master holds the file, or the system refuses.
    pub fn create(path: &Path) -> Result<Self, PidfileError> {
        let fail = |error: io::Error| PidfileError::Write { path: path.to_owned(), why: io_text(&error) };
        let name = path.file_name().ok_or_else(|| fail(io::Error::from(io::ErrorKind::IsADirectory)))?;
        let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let file = write_locked(&temporary).map_err(fail)?;
        let placed = place(&temporary, path);
        let dangling = refuse_dangling(path);
        // After a rename there is none left, after a link one too many.
        let _ = fs::remove_file(&temporary);
        match placed {
            Ok(None) => Ok(Self { path: path.to_owned(), file }),
            Ok(Some(pid)) => Err(PidfileError::AlreadyRunning { pid, path: path.to_owned() }),
            Err(error) => dangling.and(Err(fail(error))),
        }
    }

    /// Master: moves the file, in place of whatever is there; the lock stays.
    ///
    /// # Errors
    /// Another master holds the new path, or the system refuses; the file is where it was.
    pub fn rename(&mut self, path: &Path) -> Result<(), PidfileError> {
        let fail = |error: io::Error| PidfileError::Write { path: path.to_owned(), why: io_text(&error) };
        if path == self.path {
            return Ok(());
        }
        let placed = place(&self.path, path).or_else(|error| refuse_dangling(path).and(Err(fail(error))))?;
        if let Some(pid) = placed {
            return Err(PidfileError::AlreadyRunning { pid, path: path.to_owned() });
        }
        // A rename has removed it, a link has not.
        let _ = fs::remove_file(&self.path);
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Master: removes the file, unless another program has put its own there.
    pub fn unlink(self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| same_file(&there, &self.file)) {
            // A file that stays is stale, and the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Probe, Master: says so if a path is a symbolic link that leads nowhere.
///
/// # Errors
/// It is.
pub fn refuse_dangling(path: &Path) -> Result<(), PidfileError> {
    match fs::read_link(path) {
        Ok(target) if fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            Err(PidfileError::Dangling { path: path.to_owned(), target })
        }
        // No link, or one that leads somewhere.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A new file with our pid, locked before anybody can know its name.
fn write_locked(path: &Path) -> io::Result<File> {
    // What a killed master of the same pid left behind.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))) {
        // File systems without locks are left with the number alone.
        Ok(_) | Err(Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(file)
}

/// Gives `from` the name `path`, unless a live process holds what is there: then returns its pid.
fn place(from: &Path, path: &Path) -> io::Result<Option<i32>> {
    loop {
        // link(2) refuses a name that is taken, so that two masters cannot both find none.
        match fs::hard_link(from, path) {
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // File systems without hard links.
            Err(error) if is_unsupported(&error) && fs::symlink_metadata(path).is_err() => {
                return fs::rename(from, path).map(|()| None);
            }
            Err(error) if is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
        // Non-blocking, in case it is a named pipe; writable, since only then it can be locked.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let old = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(old) => old,
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(pid) = holder(&old, path)? {
            return Ok(Some(pid));
        }
        // We hold the stale file now: another master that starts sees that, and one that replaced it before we
        // locked it is seen here.
        if fs::metadata(path).is_ok_and(|there| same_file(&there, &old)) {
            return fs::rename(from, path).map(|()| None);
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS))
}

fn same_file(there: &fs::Metadata, file: &File) -> bool {
    file.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

/// The live process that holds `file`, if one does; if none does, we hold it from now on.
fn holder(file: &File, path: &Path) -> io::Result<Option<i32>> {
    let mut text = String::new();
    let readable = file.take(LONGEST).read_to_string(&mut text).is_ok();
    let written = text.trim().parse::<i32>().ok().filter(|pid| readable && *pid > 0);
    let mut lock = whole_file(libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_SETLK(&lock)) {
        Ok(_) => {}
        Err(Errno::EACCES | Errno::EAGAIN) => {
            // The kernel shows no pid of a holder in another pid namespace; the file may.
            let asked = fcntl(file, FcntlArg::F_GETLK(&mut lock));
            let pid = if asked.is_ok() && lock.l_pid > 0 { lock.l_pid } else { written.unwrap_or(0) };
            return Ok(Some(pid));
        }
        // No locks here: the number is all there is, as with Gunicorn.
        Err(_) => {
            let own = i32::try_from(std::process::id()).ok();
            return Ok(written.filter(|pid| Some(*pid) != own && is_alive(*pid)));
        }
    }
    if written.is_none() {
        log::warn!("the pid file {} holds no pid; it is replaced", path.display());
    }
    Ok(None)
}

fn is_alive(pid: i32) -> bool {
    matches!(kill(Pid::from_raw(pid), None), Ok(()) | Err(Errno::EPERM))
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::temp_dir::TempDir;

    /// Another process that holds the lock on a file: this test program, asked to run [`hold_for_another_test`].
    struct Holder(Child);

    impl Holder {
        fn new(path: &Path) -> Self {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "pidfile::tests::hold_for_another_test", "--nocapture"])
                .env("RGUNICORN_TEST_HOLD", path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.map_while(Result::ok).any(|line| line.contains("held")), "the holder has begun");
            Self(child)
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            // Already dead is dead.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn hold_for_another_test() {
        let Some(path) = std::env::var_os("RGUNICORN_TEST_HOLD") else { return };
        let _pidfile = Pidfile::create(Path::new(&path)).unwrap();
        println!("\nheld");
        let _ = io::stdin().read(&mut [0]);
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn holds_the_pid_and_is_unlinked() {
        let temp = TempDir::new("pidfile");
        let path = temp.join("p");
        let pidfile = Pidfile::create(&path).unwrap();
        assert_eq!(text(&path), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "no temporary file stays");
        pidfile.unlink();
        assert!(!path.exists());
    }

    #[test]
    fn another_master_is_refused_until_it_is_killed() {
        let temp = TempDir::new("pidfile");
        let path = temp.join("p");
        let holder = Holder::new(&path);
        let error = Pidfile::create(&path).unwrap_err();
        assert_eq!(error, PidfileError::AlreadyRunning { pid: holder.pid(), path: path.clone() });
        let expected = format!(
            "Already running on PID {} (or pid file '{}' is stale); stop that one, or give another --pid",
            holder.pid(),
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        // The lock counts, and the kernel knows its holder, whatever the text says.
        fs::write(&path, "garbage").unwrap();
        assert_eq!(Pidfile::create(&path).unwrap_err(), error);
        drop(holder);
        assert!(Pidfile::create(&path).is_ok());
        assert_eq!(text(&path), format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_number_or_garbage_that_nobody_holds_is_replaced() {
        let temp = TempDir::new("pidfile");
        let path = temp.join("p");
        // Process 1 lives and is not ours: the number was used again.
        for stale in
            ["1\n", "garbage", "", "-1", "\u{0}\u{0}", "99999999999999999999999999999999999999999999"]
        {
            fs::write(&path, stale).unwrap();
            assert!(Pidfile::create(&path).is_ok(), "{stale:?}");
            assert_eq!(text(&path), format!("{}\n", std::process::id()), "{stale:?}");
        }
    }

    #[test]
    fn moves_with_its_lock_and_respects_others() {
        let temp = TempDir::new("pidfile");
        let (path, moved, taken) = (temp.join("p"), temp.join("p.oldbin"), temp.join("taken"));
        let mut pidfile = Pidfile::create(&path).unwrap();
        pidfile.rename(&moved).unwrap();
        assert!(!path.exists() && moved.exists());
        let holder = Holder::new(&taken);
        assert!(
            matches!(pidfile.rename(&taken), Err(PidfileError::AlreadyRunning { pid, .. }) if pid == holder.pid())
        );
        assert_eq!(pidfile.path(), moved);
        pidfile.unlink();
        assert!(!moved.exists());
    }

    #[test]
    fn another_programs_file_stays() {
        let temp = TempDir::new("pidfile");
        let path = temp.join("p");
        let pidfile = Pidfile::create(&path).unwrap();
        fs::rename(&path, temp.join("away")).unwrap();
        fs::write(&path, "1\n").unwrap();
        pidfile.unlink();
        assert_eq!(text(&path), "1\n");
    }

    #[test]
    fn a_link_to_nothing_is_one_sentence_and_stays() {
        let temp = TempDir::new("pidfile");
        let (path, other) = (temp.join("p"), temp.join("other"));
        std::os::unix::fs::symlink("/nowhere/p", &path).unwrap();
        let expected = format!(
            "cannot write the pid file {}: it is a symbolic link to /nowhere/p, which is not there; remove the link, or \
             give another --pid",
            path.display()
        );
        assert_eq!(Pidfile::create(&path).unwrap_err().to_string(), expected);
        let mut pidfile = Pidfile::create(&other).unwrap();
        assert_eq!(pidfile.rename(&path).unwrap_err().to_string(), expected);
        assert!(path.is_symlink() && pidfile.path() == other);
        // One that leads to a file is replaced as that file would be.
        fs::remove_file(&path).unwrap();
        fs::write(temp.join("stale"), "garbage").unwrap();
        std::os::unix::fs::symlink(temp.join("stale"), &path).unwrap();
        pidfile.rename(&path).unwrap();
        assert!(!path.is_symlink());
    }

    #[test]
    fn a_missing_directory_is_one_sentence() {
        let error = Pidfile::create(Path::new("/nowhere/p")).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot write the pid file /nowhere/p: No such file or directory; create its directory or give another path"
        );
    }
}
