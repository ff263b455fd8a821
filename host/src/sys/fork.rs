//! The one place that forks, and the one line through which a forked child leaves.
//!
//! Owns the rules around fork(2): signals blocked across it, a single-threaded parent, no destructor and no buffer of
//! the parent ever run or flushed by the child. Does not own what the child does: that is the caller's closure.
//! Easily got wrong: the child starts with *every* signal still blocked. It must install what it wants to handle and
//! then call [`super::signal::unblock_all`]; unblocking first would run the parent's idea of a signal in the child.
#![allow(unsafe_code, reason = "fork(2) and _exit(2) have no safe form")]

use std::any::Any;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::unistd::{ForkResult, Pid};

use super::signal;

/// Exit code of a child whose closure panicked: the one that Rust's own runtime uses.
pub const EXIT_PANIC: i32 = 101;

/// Forks; the child runs `child`, exits with the code it returns (its low eight bits) and never returns from here.
///
/// In the child every signal is blocked when `child` starts. A panic in it is written to standard error and becomes
/// [`EXIT_PANIC`]. What `child` owns is dropped in the child; what the caller's frames own is not.
///
/// # Errors
/// - The process has a second thread (`kind() == Deadlock`): a lock that it holds would stay locked in the child for
///   ever. Checked in release builds as well: one stat(2), 2 µs beside the 55 µs and more of the fork.
/// - EAGAIN (process limit, pid cgroup) and ENOMEM as fork(2) gives them. Nothing has happened then.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    // libtest runs every test on a thread of its own, so that unit tests could fork nowhere; their children keep to
    // what a child of a threaded process may do. `single_threaded` itself is tested below.
    if !cfg!(test) {
        single_threaded()?;
    }
    let before = signal::block_all()?;
    // SAFETY: the child may go on using locks and the allocator only if no other thread can have held one. The check
    // above is what guarantees it; nothing between it and here starts a thread.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let forked = unsafe { nix::unistd::fork() };
    match forked {
        Ok(ForkResult::Child) => leave(run(child)),
        Ok(ForkResult::Parent { child }) => {
            before.restore()?;
            Ok(child)
        }
        Err(errno) => {
            before.restore()?;
            Err(errno.into())
        }
    }
}

/// Runs the closure with panics turned into an exit code.
fn run(child: impl FnOnce() -> i32) -> i32 {
    match catch_unwind(AssertUnwindSafe(child)) {
        Ok(code) => code,
        Err(payload) => {
            let text = format!("process {} panicked: {}\n", std::process::id(), panic_text(&*payload));
            // Nobody is left to be told when standard error is gone: the exit code still says it.
            let _ = io::stderr().write_all(text.as_bytes());
            // A payload's own destructor may panic again, outside the fence.
            std::mem::forget(payload);
            EXIT_PANIC
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// The child's only door: no atexit handler, no destructor, no flush of buffers that it shares with its parent.
fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return; it touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Fails when the process has more than one thread.
///
/// The kernel counts the directories in /proc/self/task in the link count of that directory (proc(5)), so that one
/// stat(2) does, without opening anything. Without /proc it cannot be told, and nothing fails.
///
/// # Errors
/// `Deadlock`, naming the number of threads.
pub fn single_threaded() -> io::Result<()> {
    match std::fs::metadata("/proc/self/task").map(|task| task.nlink().saturating_sub(2)) {
        Ok(threads) if threads > 1 => Err(io::Error::new(
            io::ErrorKind::Deadlock,
            format!("cannot fork: the process has {threads} threads, and a child needs it to have one"),
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The names of the threads that the process has beside its first one; none without /proc.
pub fn other_threads() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let own = std::process::id().to_string();
    tasks
        .filter_map(Result::ok)
        .filter(|task| task.file_name().to_str() != Some(&own))
        // One that ends meanwhile takes its name with it, and is none.
        .filter_map(|task| std::fs::read(task.path().join("comm")).ok())
        .map(|name| String::from_utf8_lossy(&name).trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::wait::{Ended, wait};
    use super::*;

    #[test]
    fn the_child_leaves_with_its_code() {
        let pid = fork(|| 7).unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(7));
    }

    /// Runs one test again in a program of its own, without other tests beside it, and says whether this is that one.
    ///
    /// A panic takes the lock of the panic hook. While another test's thread fails it holds that lock for as long as a
    /// backtrace takes; a child forked in that moment would wait for it for ever.
    fn alone(test: &str) -> bool {
        const MARK: &str = "RGUNICORN_TEST_ALONE";
        if std::env::var_os(MARK).is_some() {
            return true;
        }
        let name = format!("sys::fork::tests::{test}");
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--test-threads=1", "--nocapture"])
            .env(MARK, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    #[test]
    fn a_panic_is_an_exit_code() {
        if !alone("a_panic_is_an_exit_code") {
            return;
        }
        let pid = fork(|| {
            std::panic::set_hook(Box::new(|_| {}));
            panic!("on purpose, in a child");
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(EXIT_PANIC));
    }

    #[test]
    fn a_payload_that_panics_when_dropped_stays_inside() {
        if !alone("a_payload_that_panics_when_dropped_stays_inside") {
            return;
        }
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let pid = fork(|| {
            std::panic::set_hook(Box::new(|_| {}));
            std::panic::panic_any(Bomb)
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(EXIT_PANIC));
    }

    #[test]
    fn the_parents_destructors_do_not_run_in_the_child() {
        struct Tell(std::fs::File);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.write_all(b"x").unwrap();
            }
        }
        let (read, write) = super::super::fd::pipe().unwrap();
        let guard = Tell(std::fs::File::from(write));
        let pid = fork(|| 0).unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
        drop(guard);
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(read), &mut heard).unwrap();
        assert_eq!(heard, b"x", "dropped once, by the parent");
    }

    #[test]
    fn the_child_starts_with_signals_blocked_and_the_parent_gets_its_mask_back() {
        let mask = || nix::sys::signal::SigSet::thread_get_mask().unwrap();
        let before = mask();
        let pid = fork(|| i32::from(!mask().contains(nix::sys::signal::Signal::SIGTERM))).unwrap();
        assert_eq!(mask(), before);
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn a_second_thread_is_seen() {
        let pid = fork(|| {
            if single_threaded().is_err() {
                return 1;
            }
            let (hold, held) = std::sync::mpsc::channel::<()>();
            let waits = std::thread::Builder::new().name("waits".to_owned());
            let thread = waits.spawn(move || held.recv()).unwrap();
            let seen = single_threaded();
            let named = other_threads();
            drop(hold);
            let _ = thread.join().unwrap();
            match seen {
                // A thread names itself, perhaps not yet.
                Err(error) if error.to_string().contains("2 threads") && named.len() == 1 => 0,
                Ok(()) | Err(_) => 2,
            }
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }
}
