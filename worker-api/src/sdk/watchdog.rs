//! Tells the host when the runtime of a library stands still, which no worker class can see.
//!
//! It owns a thread that does nothing while no exchange is on the runtime. While one is, it puts a task there now and
//! then, and looks whether that task has run. If it has not for the server's `timeout`, a handler or a task keeps the
//! runtime's thread for itself, everybody behind it is stuck, and the host has the worker replaced.
//!
//! What a newcomer gets wrong: time in which this process did not run, because it was stopped or the machine was busy,
//! is not time in which the runtime was stuck. So looks are counted, and not seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::app::WorkerFacts;

/// Looks in vain until the runtime counts as stuck.
const LOOKS: u32 = 4;

/// What the thread and the exchanges share.
struct Shared {
    /// Exchanges that the runtime polls.
    at_work: AtomicUsize,
    /// The thread waits until there is one.
    asleep: AtomicBool,
    over: AtomicBool,
}

/// The thread that looks.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch; none if the server has no `timeout`.
    pub(crate) fn start(handle: &Handle, facts: &WorkerFacts<'_>) -> Option<Self> {
        let seconds: f64 = facts.server_setting("timeout")?.parse().ok()?;
        let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())?;
        let host = facts.host();
        let stuck = move || host.stuck("runtime of the application", timeout);
        Self::watching(handle.clone(), timeout / LOOKS, stuck)
    }

    fn watching(handle: Handle, pause: Duration, stuck: impl FnOnce() + Send + 'static) -> Option<Self> {
        let shared = Arc::new(Shared {
            at_work: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let watch = move || {
            if theirs.finds_it_stuck(&handle, pause) {
                stuck();
            }
        };
        match thread::Builder::new().name("app-watch".to_owned()).spawn(watch) {
            Ok(thread) => Some(Self { shared, thread: Some(thread) }),
            Err(error) => {
                log::warn!(
                    "cannot watch the application's runtime: {error}; if it gets stuck, nobody will tell"
                );
                None
            }
        }
    }

    /// An exchange goes to the runtime. It is there until the guard is dropped, which its task does: one that was given
    /// up by its class, and goes on for all that, is still there.
    pub(crate) fn at_work(&self) -> AtWork {
        self.shared.at_work.fetch_add(1, Ordering::SeqCst);
        // One swap for the first of a crowd, and a look for the others.
        if self.shared.asleep.load(Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread().inspect(|thread| thread.unpark());
        }
        AtWork(Arc::clone(&self.shared))
    }

    fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It sleeps, or is about to see that it is over.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Whether the runtime was stuck, or else it is over.
    fn finds_it_stuck(&self, handle: &Handle, pause: Duration) -> bool {
        let mut in_vain = 0;
        let mut beat = None;
        while !self.over.load(Ordering::SeqCst) {
            if self.at_work.load(Ordering::SeqCst) == 0 {
                (in_vain, beat) = (0, None);
                self.asleep.store(true, Ordering::SeqCst);
                // One that has come before that store has not seen it.
                if self.at_work.load(Ordering::SeqCst) == 0 && !self.over.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                continue;
            }
            let has_run: &Arc<AtomicBool> = beat.get_or_insert_with(|| {
                let has_run = Arc::new(AtomicBool::new(false));
                let theirs = Arc::clone(&has_run);
                handle.spawn(async move { theirs.store(true, Ordering::SeqCst) });
                has_run
            });
            let has_run = Arc::clone(has_run);
            thread::park_timeout(pause);
            if has_run.load(Ordering::SeqCst) {
                (in_vain, beat) = (0, None);
            } else {
                in_vain += 1;
                if in_vain == LOOKS {
                    return !self.over.load(Ordering::SeqCst);
                }
            }
        }
        false
    }
}

/// An exchange on the runtime.
pub(crate) struct AtWork(Arc<Shared>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PAUSE: Duration = Duration::from_millis(20);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn a_runtime_that_stands_still_is_found_and_one_that_waits_is_not() {
        let (runtime, (told, heard)) = (runtime(), mpsc::channel());
        let watchdog = Watchdog::watching(runtime.handle().clone(), PAUSE, move || told.send(()).unwrap());
        let watchdog = watchdog.unwrap();
        let waiting = watchdog.at_work();
        // Many looks, each of which finds that it runs.
        assert_eq!(heard.recv_timeout(20 * PAUSE), Err(mpsc::RecvTimeoutError::Timeout));
        drop(waiting);
        // With nobody at work nobody looks.
        let (release, released) = mpsc::channel::<()>();
        let stuck = runtime.spawn(async move { _ = released.recv() });
        assert_eq!(heard.recv_timeout(20 * PAUSE), Err(mpsc::RecvTimeoutError::Timeout));
        let waiting = watchdog.at_work();
        heard.recv_timeout(Duration::from_secs(30)).unwrap();
        drop((waiting, release));
        runtime.block_on(stuck).unwrap();
    }

    #[test]
    fn it_ends_awake_and_asleep() {
        let runtime = runtime();
        for works in [true, false] {
            let pause = Duration::from_secs(600);
            let watchdog = Watchdog::watching(runtime.handle().clone(), pause, || ()).unwrap();
            let _waiting = works.then(|| watchdog.at_work());
            drop(watchdog);
        }
    }
}
