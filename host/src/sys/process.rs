//! What a forked child does to itself before it becomes a worker or a probe: descriptors, environment, identity.
//!
//! Owns the system calls and their order. Does not own which identity or environment it shall be: the configuration
//! says so. Easily got wrong: supplementary groups go first, then the group, then the user, since each step takes away
//! the right to do the one before (setgroups(2), setgid(2), setuid(2)).
#![allow(unsafe_code, reason = "setenv(3), and closing descriptors that other values believe to own")]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, getgroups, setfsgid, setfsuid, setgid,
    setgroups, setuid,
};

/// Child: closes every descriptor but standard input, output, error and `keep`.
///
/// What the master holds for itself (its signal queue, the ends of other workers' descriptors) must not live on in a
/// worker: an inherited end of a pipe keeps the pipe open.
///
/// # Errors
/// None expected: close_range(2) fails only for arguments that are not given here, or on kernels before 5.9, where
/// descriptors are closed one by one.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Child: closes these descriptors of its parent.
///
/// # Errors
/// As [`close_all_but`].
pub fn close(fds: &[RawFd]) -> io::Result<()> {
    fds.iter().filter_map(|fd| u32::try_from(*fd).ok()).try_for_each(|fd| close_range(fd, fd))
}

/// Master: whose parent ends, among the descendants forked from now on, becomes its child (`PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// None that prctl(2) gives for these arguments.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors that values of the parent's image own; in this process, a forked child that leaves
    // through _exit, those values are never used or dropped again (who calls this keeps that promise).
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => match Errno::last() {
            Errno::ENOSYS => close_one_by_one(first, last),
            errno => Err(errno.into()),
        },
    }
}

fn close_one_by_one(first: u32, last: u32) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd: &RawFd| u32::try_from(*fd).is_ok_and(|fd| fd >= first && fd <= last))
        .collect();
    for fd in open {
        // SAFETY: as in `close_range`; the listing's own descriptor is closed already, which is EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Child: sets a variable of the environment.
pub fn set_variable(name: &OsStr, value: &OsStr) {
    // SAFETY: setenv(3) races only with other threads, and a child that was just forked has none (the caller's
    // promise: before anything that could start one).
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    unsafe {
        std::env::set_var(name, value);
    }
}

/// Child: changes the directory, naming it in the error.
///
/// # Errors
/// As chdir(2) gives them.
pub fn enter(directory: &Path) -> io::Result<()> {
    Ok(chdir(directory)?)
}

/// Child: changes to a directory that is open, also if it has no path any more.
///
/// # Errors
/// As fchdir(2) gives them.
pub fn enter_open(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fchdir(directory)?)
}

/// Child: standard input, output and error become /dev/null.
///
/// # Errors
/// There is no such device, as in a badly made container.
pub fn detach_streams() -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

/// Child: sets the mask of permission bits that new files do not get.
pub fn set_umask(bits: u32) {
    umask(Mode::from_bits_truncate(bits));
}

/// Child: becomes another user, for good.
///
/// # Errors
/// EPERM where this process is not privileged, EAGAIN over the user's process limit; each names its step.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let step = |what: &str, errno: Errno| io::Error::other(format!("{what}: {}", errno.desc()));
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // An unprivileged master that is asked for its own identity has nothing to do and may do nothing.
    if user == Uid::current() && group == Gid::current() && !Uid::effective().is_root() {
        return Ok(());
    }
    setgroups(&groups).map_err(|errno| step("setgroups", errno))?;
    setgid(group).map_err(|errno| step("setgid", errno))?;
    setuid(user).map_err(|errno| step("setuid", errno))
}

/// Child: from now on no execve(2) of this process or its children gives more rights than it has.
///
/// # Errors
/// EINVAL on kernels before 3.5.
pub fn renounce_new_privileges() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// As long as it lives, files are opened with somebody else's rights, and what is made is his.
#[derive(Debug)]
#[must_use = "the rights come back when it is dropped"]
pub struct FileRights {
    groups: Vec<Gid>,
}

/// Root only, in a process with one thread: opens files as a user with one group, until the value is dropped. Whatever else
/// this process may do stays as it is: who may signal it, above all (setfsuid(2)).
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID.
pub fn act_on_files_as(uid: u32, gid: u32) -> io::Result<FileRights> {
    let rights = FileRights { groups: getgroups()? };
    setgroups(&[Gid::from_raw(gid)])?;
    setfsgid(Gid::from_raw(gid));
    setfsuid(Uid::from_raw(uid));
    // Neither call tells whether it was obeyed; one with a number that is nobody's tells who we are.
    if setfsuid(Uid::from_raw(u32::MAX)).as_raw() != uid || setfsgid(Gid::from_raw(u32::MAX)).as_raw() != gid
    {
        return Err(Errno::EPERM.into());
    }
    Ok(rights)
}

impl Drop for FileRights {
    fn drop(&mut self) {
        setfsuid(Uid::effective());
        setfsgid(Gid::effective());
        // It was allowed a moment ago, and CAP_SETGID is no right over files.
        let _ = setgroups(&self.groups);
    }
}

/// The identity of this process: (user, group).
pub fn identity() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}

/// Worker: ends the process at once, from whatever thread: no exit handler, no destructor of plugin code.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return.
    unsafe { libc::_exit(code) }
}
