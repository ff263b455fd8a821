//! Opening the file of a log, with no more rights than its place is worth.
//!
//! Owns whose rights are used. Does not own how it is written (`logging/sink.rs`).
//!
//! What a newcomer would get wrong: a master that is root and workers that are not often share the directory of the logs.
//! Whoever has taken over a worker could put a symlink to any file of the system in the place of the log, and USR1 would
//! have root write there and give the file away. So where the workers' user can decide what the path leads to, the master
//! opens the file with that user's rights, and nothing is to be had. Elsewhere it is root who makes the file, and gives it
//! to that user, who opens it again after USR1.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::libc;
use nix::unistd::Uid;

use crate::error::io_text;
use crate::sys::process;
use crate::walk::{Step, walk};

/// Of the mode: whoever it is about may write; in a directory, only owners may rename and remove (inode(7)).
const WRITE: u32 = 0o2;
const STICKY: u32 = 0o1000;

/// Opens a log, or makes it with mode 0644 less the process's umask; `owner` (uid, gid) is whom the workers run as.
pub(super) fn open(path: &Path, owner: Option<(u32, u32)>) -> io::Result<File> {
    let Some((uid, gid)) = owner.filter(|_| Uid::effective().is_root()) else { return open_here(path) };
    if uid != 0 && can_redirect(path, uid, gid) {
        let _rights = process::act_on_files_as(uid, gid)?;
        return open_here(path).map_err(|error| {
            let why = io_text(&error);
            io::Error::new(error.kind(), format!("{why} to user {uid}, who could replace what is there"))
        });
    }
    let file = open_here(path)?;
    if file.metadata()?.is_file() {
        // On a file system without owners it stays as it is, and a worker that may not open it says so.
        let _ = fchown(&file, Some(uid), Some(gid));
    }
    Ok(file)
}

fn open_here(path: &Path) -> io::Result<File> {
    // Non-blocking, or a named pipe without a reader would hold us here; it then fails with ENXIO.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// Whether this user decides, somewhere on the way, what the path leads to. Further groups of his are not asked for: who
/// gives a directory to a group trusts it (docs/SECURITY.md).
fn can_redirect(path: &Path, uid: u32, gid: u32) -> bool {
    let judge = |step: &Step<'_>| {
        let can_add = can_write(step.holder, uid, gid);
        let is_sticky = step.holder.permissions().mode() & STICKY != 0;
        let can_replace = step.found.is_none_or(|found| !is_sticky || found.uid() == uid);
        if step.holder.uid() == uid || can_add && can_replace { Err(()) } else { Ok(()) }
    };
    walk(path, judge).is_err()
}

/// What the mode says; the owner of a directory can change that, whatever it says.
fn can_write(directory: &Metadata, uid: u32, gid: u32) -> bool {
    let mode = directory.permissions().mode();
    let bits = match (directory.uid() == uid, directory.gid() == gid) {
        (true, _) => mode >> 6,
        (false, true) => mode >> 3,
        (false, false) => mode,
    };
    bits & WRITE != 0
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::temp_dir::TempDir;

    const NOBODY: u32 = 65534;

    /// Each step above a test's directory must be root's; a temporary directory that everybody can write is sticky.
    fn skip() -> bool {
        let skip = !Uid::effective().is_root();
        if skip {
            eprintln!("nothing to see here: only root has rights to give away");
        }
        skip
    }

    #[test]
    fn what_the_workers_user_puts_in_place_of_a_log_is_not_opened_by_root() {
        if skip() {
            return;
        }
        let base = TempDir::new("log-open");
        fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        let (secret, theirs) = (base.path().join("secret"), base.path().join("theirs"));
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
        let (planted, directory) = (theirs.join("error.log"), theirs.join("log"));
        symlink(&secret, &planted).unwrap();
        symlink(base.path(), &directory).unwrap();
        for path in [&planted, &directory.join("secret"), &directory.join("new.log")] {
            let error = open(path, Some((NOBODY, NOBODY))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{}", path.display());
            assert!(error.to_string().contains("to user 65534, who could replace"), "{error}");
        }
        assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(!base.path().join("new.log").exists());
        // What is his he gets, and root's rights have come back.
        open(&theirs.join("own.log"), Some((NOBODY, NOBODY))).unwrap();
        assert_eq!(fs::metadata(theirs.join("own.log")).unwrap().uid(), NOBODY);
        fs::write(&secret, "still").unwrap();
    }

    #[test]
    fn where_only_root_decides_the_log_is_made_by_root_and_given_to_the_workers() {
        if skip() {
            return;
        }
        let base = TempDir::new("log-give");
        fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        let target = base.path().join("target");
        fs::write(&target, "").unwrap();
        symlink(&target, base.path().join("link")).unwrap();
        // A directory for everybody: what is not there yet everybody may put there, what is root's stays.
        let everybody = base.path().join("everybody");
        fs::create_dir(&everybody).unwrap();
        fs::set_permissions(&everybody, Permissions::from_mode(0o1777)).unwrap();
        symlink(&target, everybody.join("link")).unwrap();
        assert!(can_redirect(&everybody.join("log"), NOBODY, NOBODY));
        for path in [base.path().join("log"), base.path().join("link"), everybody.join("link")] {
            assert!(!can_redirect(&path, NOBODY, NOBODY), "{}", path.display());
            open(&path, Some((NOBODY, NOBODY))).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().uid(), NOBODY, "{}", path.display());
        }
        assert!(!can_redirect(Path::new("/dev/null"), NOBODY, NOBODY));
    }
}
