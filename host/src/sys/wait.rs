//! Learning how children ended.
//!
//! Owns waitpid(2) and the meaning of its status word. Does not own who the children were: the roster knows.
//! Easily got wrong: one SIGCHLD may stand for many dead children, since standard signals do not queue; call [`reap`]
//! until it has nothing more. (nix's `waitpid` is not used: it turns a death by real-time signal into EINVAL after the
//! kernel has already forgotten the child.)
#![allow(unsafe_code, reason = "waitpid(2), because nix loses children that died by a real-time signal")]

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By exit(2), with this code (0 to 255).
    Exited(i32),
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether the kernel says that it wrote a core file.
        core: bool,
    },
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed { signal, core } => {
                let dumped = if core { " (core dumped)" } else { "" };
                write!(f, "was killed by {}{dumped}", signal::name(signal))
            }
        }
    }
}

impl Ended {
    fn from_status(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Killed { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) })
        } else {
            None // stopped or continued: still alive
        }
    }
}

/// Takes one dead child, any, without waiting. None: no child is dead now, or there are none.
pub fn reap() -> Option<(Pid, Ended)> {
    loop {
        // Without WUNTRACED only the dead are reported (traced ones apart), so that this loop ends.
        match waitpid(Pid::from_raw(-1), libc::WNOHANG) {
            Ok(None) => return None,
            Ok(Some((pid, status))) => {
                if let Some(ended) = Ended::from_status(status) {
                    return Some((pid, ended));
                }
            }
            // ECHILD: no children. EINTR does not come with WNOHANG, and EINVAL not with these flags.
            Err(_) => return None,
        }
    }
}

/// Waits until this child has ended, and takes it.
///
/// # Errors
/// ECHILD: not a child of ours, or taken already.
pub fn wait(pid: Pid) -> io::Result<Ended> {
    loop {
        match waitpid(pid, 0) {
            Ok(taken) => {
                if let Some(ended) = taken.and_then(|(_, status)| Ended::from_status(status)) {
                    return Ok(ended);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether there is a child with this number, alive or not reaped yet. It is left as it is.
pub fn is_child(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // Any other error comes from reading how it ended, which nobody asked.
    pid.as_raw() > 0 && waitid(Id::Pid(pid), look) != Err(Errno::ECHILD)
}

/// Whether this child has ended. It is not taken.
pub fn has_ended(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // An error comes from reading how it ended, or says that it was taken.
    waitid(Id::Pid(pid), look) != Ok(WaitStatus::StillAlive)
}

fn waitpid(pid: Pid, flags: i32) -> io::Result<Option<(Pid, i32)>> {
    let mut status = 0;
    // SAFETY: `status` is a live local that waitpid(2) writes once; the kernel keeps no pointer to it.
    let found = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, flags) };
    match found {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some((Pid::from_raw(pid), status))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fork::fork;
    use super::*;

    #[test]
    fn says_how_a_child_ended() {
        let pid = fork(|| 300).unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(300 & 0xff));
        let pid = fork(|| {
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        assert!(!has_ended(pid));
        signal::send(pid, signal::Signal::SIGKILL).unwrap();
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        assert_eq!(wait(pid).unwrap(), Ended::Killed { signal: libc::SIGKILL, core: false });
        assert!(has_ended(pid));
    }

    #[test]
    fn a_child_is_one_until_it_is_reaped() {
        let pid = fork(|| 3).unwrap();
        assert!(is_child(pid) && is_child(pid));
        assert_eq!(wait(pid).unwrap(), Ended::Exited(3));
        assert!(!is_child(pid));
        for other in [0, -1, 1] {
            assert!(!is_child(Pid::from_raw(other)));
        }
    }

    #[test]
    fn a_death_by_real_time_signal_is_not_lost() {
        let pid = fork(|| {
            signal::unblock_all().unwrap();
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        let number = libc::SIGRTMIN() + 3;
        // SAFETY: kill(2) on a child that has not been waited for cannot hit another process.
        assert_eq!(unsafe { libc::kill(pid.as_raw(), number) }, 0);
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        let ended = wait(pid).unwrap();
        assert_eq!(ended, Ended::Killed { signal: number, core: false });
        assert!(ended.to_string().contains(&number.to_string()));
    }

    #[test]
    fn reap_takes_every_dead_child_and_then_says_none() {
        // In a process of its own: reaping "any child" here would steal the children of other tests.
        let pid = fork(|| {
            let mut born: Vec<_> = (1..=3).map(|code| fork(move || code).unwrap()).collect();
            let mut codes = Vec::new();
            while !born.is_empty() {
                if let Some((pid, Ended::Exited(code))) = reap() {
                    born.retain(|other| *other != pid);
                    codes.push(code);
                } else {
                    std::thread::yield_now();
                }
            }
            codes.sort_unstable();
            i32::from(codes != [1, 2, 3] || reap().is_some())
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn a_living_child_is_not_reaped() {
        let pid = fork(|| {
            let child = fork(|| {
                loop {
                    std::thread::park();
                }
            })
            .unwrap();
            let early = reap();
            signal::send(child, signal::Signal::SIGKILL).unwrap();
            i32::from(early.is_some() || wait(child).is_err())
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn sentences() {
        assert_eq!(Ended::Exited(3).to_string(), "exited with code 3");
        let crash = Ended::Killed { signal: libc::SIGSEGV, core: true };
        assert_eq!(crash.to_string(), "was killed by SIGSEGV (core dumped)");
    }
}
