//! Sockets that were open when the program began: found, and owned from then on.
//!
//! Owns finding them. Does not own what they are for ([`crate::inherit`]). What a newcomer would get wrong: a number that
//! somebody wrote down (`fd://5`, LISTEN_FDS) is no proof that this very descriptor was passed. It may have been closed,
//! and since been given to something of ours. So all that was inherited is taken at the very start, before anything is
//! opened, and a number is looked up there only.
#![allow(unsafe_code, reason = "descriptors that were inherited are bare numbers")]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

/// The first descriptor that is neither standard input, output nor error; also SD_LISTEN_FDS_START.
pub const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Master: takes every socket that the program inherited, by number, and makes each close-on-exec. Call it before
/// anything is opened; a second call finds none. Without /proc there are none.
///
/// # Errors
/// None expected on open descriptors.
pub fn take_sockets() -> io::Result<BTreeMap<RawFd, OwnedFd>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return Ok(found) };
    let numbers: Vec<RawFd> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(found);
    }
    for number in numbers.into_iter().filter(|number| *number >= FIRST) {
        // SAFETY: borrowed for these two calls only, each of which answers EBADF if the descriptor is not open (the
        // one of the listing above is not any more).
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(flags) = fcntl(fd, FcntlArg::F_GETFD) else { continue };
        // What is close-on-exec cannot have come over an exec: it is ours.
        let inherited = !FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC);
        if !inherited || getsockopt(&fd, sockopt::SockType).is_err() {
            continue;
        }
        // SAFETY: the descriptor is open, nothing in this process has opened it, and `TAKEN` lets this happen once: no
        // other value owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        super::fd::set_cloexec(&fd)?;
        found.insert(number, fd);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::os::unix::net::UnixListener;

    use super::super::fd::clear_cloexec;
    use super::super::fork::fork;
    use super::super::wait::{Ended, wait};
    use super::*;
    use crate::temp_dir::TempDir;

    /// In a child of its own: what is inherited belongs to a whole process, and so does having taken it.
    #[test]
    fn takes_what_would_survive_an_exec_once_and_nothing_else() {
        let temp = TempDir::new("inherit");
        let passed = UnixListener::bind(temp.join("passed")).unwrap();
        clear_cloexec(&passed).unwrap();
        let ours = UnixListener::bind(temp.join("ours")).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        clear_cloexec(&file).unwrap();
        let (passed_number, others) = (passed.as_raw_fd(), [ours.as_raw_fd(), file.as_raw_fd()]);
        let pid = fork(move || {
            let _ = passed.into_raw_fd(); // `take_sockets` owns it from now on
            let taken = take_sockets().unwrap();
            if !taken.contains_key(&passed_number) || others.iter().any(|number| taken.contains_key(number)) {
                return 1;
            }
            let flags = fcntl(&taken[&passed_number], FcntlArg::F_GETFD).unwrap();
            if flags & libc::FD_CLOEXEC == 0 {
                return 2;
            }
            if take_sockets().unwrap().is_empty() { 0 } else { 3 }
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }
}
