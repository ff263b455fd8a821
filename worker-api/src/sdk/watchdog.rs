//! Tells the host when the runtime of a library stands still, which no worker class can see.
//!
//! It owns a thread that does nothing while no exchange is on the runtime. While one is, it puts a task there now and
//! then, and looks whether that task has run. If it has not for the server's `timeout`, a handler or a task keeps the
//! runtime's thread for itself, everybody behind it is stuck, and the host has the worker replaced. Which request that
//! is, is known here only: it is the one whose poll has begun and not ended.
//!
//! What a newcomer gets wrong: time in which this process did not run, because it was stopped or the machine was busy,
//! is not time in which the runtime was stuck. So looks are counted, and not seconds.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::app::WorkerFacts;

/// The longest name of a request (octets): what the host's table has room for.
const NAME: usize = 256;

/// Looks in vain until the runtime counts as stuck.
const LOOKS: u32 = 4;

/// What the thread and the exchanges share.
struct Shared {
    /// Exchanges that the runtime polls.
    at_work: AtomicUsize,
    /// The thread waits until there is one.
    asleep: AtomicBool,
    over: AtomicBool,
    /// The exchange that the runtime polls now, by name.
    polled: Mutex<Option<Arc<str>>>,
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
        let stuck = move |polled: Option<Arc<str>>| {
            let whom = polled.unwrap_or_else(|| "a task that it has spawned".into());
            host.stuck(&format!("runtime of the application (in {whom})"), timeout);
        };
        Self::watching(handle.clone(), timeout / LOOKS, stuck)
    }

    fn watching(
        handle: Handle,
        pause: Duration,
        stuck: impl FnOnce(Option<Arc<str>>) + Send + 'static,
    ) -> Option<Self> {
        let shared = Arc::new(Shared {
            at_work: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            over: AtomicBool::new(false),
            polled: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let watch = move || {
            if theirs.finds_it_stuck(&handle, pause) {
                let polled = theirs.polled().clone();
                stuck(polled);
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
    pub(crate) fn at_work(&self, name: Arc<str>) -> AtWork {
        self.shared.at_work.fetch_add(1, Ordering::SeqCst);
        // One swap for the first of a crowd, and a look for the others.
        if self.shared.asleep.load(Ordering::SeqCst) && self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread().inspect(|thread| thread.unpark());
        }
        AtWork { shared: Arc::clone(&self.shared), name }
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
    fn polled(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        self.polled.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
pub(crate) struct AtWork {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl AtWork {
    /// The runtime polls it until the guard is dropped.
    pub(crate) fn polled(&self) -> Polled<'_> {
        *self.shared.polled() = Some(Arc::clone(&self.name));
        Polled(self)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.shared.at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One poll of an exchange.
pub(crate) struct Polled<'w>(&'w AtWork);

impl Drop for Polled<'_> {
    fn drop(&mut self) {
        let mut polled = self.0.shared.polled();
        // With `block_in_place` the runtime has a second thread for a while, and another one is polled there.
        if polled.as_ref().is_some_and(|name| Arc::ptr_eq(name, &self.0.name)) {
            *polled = None;
        }
    }
}

/// `GET /path?query`, without what no line has room for, or is no text.
pub(crate) fn name(method: &[u8], target: &[u8]) -> Arc<str> {
    let mut name = String::new();
    let cut = target.len().min(NAME);
    // Writing to a String cannot fail.
    let _ = write!(name, "{} {}", String::from_utf8_lossy(method), String::from_utf8_lossy(&target[..cut]));
    if cut < target.len() {
        name.push('…');
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Four of these without a turn of the runtime's thread are taken for one that is stuck: more than a busy machine keeps a
    /// thread waiting.
    const PAUSE: Duration = Duration::from_millis(250);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    /// A watchdog, and whom it blames.
    fn watched(runtime: &tokio::runtime::Runtime) -> (Watchdog, mpsc::Receiver<Option<String>>) {
        let (told, heard) = mpsc::channel();
        let watchdog = Watchdog::watching(runtime.handle().clone(), PAUSE, move |polled| {
            told.send(polled.as_deref().map(str::to_owned)).unwrap();
        });
        (watchdog.unwrap(), heard)
    }

    #[test]
    fn a_runtime_that_stands_still_is_found_and_one_that_waits_is_not() {
        let runtime = runtime();
        let (watchdog, heard) = watched(&runtime);
        let waiting = watchdog.at_work(name(b"GET", b"/waits"));
        // Many looks, each of which finds that it runs.
        assert_eq!(heard.recv_timeout(2 * LOOKS * PAUSE), Err(mpsc::RecvTimeoutError::Timeout));
        drop(waiting);
        // With nobody at work nobody looks.
        let (release, released) = mpsc::channel::<()>();
        let stuck = runtime.spawn(async move { _ = released.recv() });
        assert_eq!(heard.recv_timeout(2 * LOOKS * PAUSE), Err(mpsc::RecvTimeoutError::Timeout));
        let waiting = watchdog.at_work(name(b"GET", b"/waits"));
        // None of the exchanges is at fault.
        assert_eq!(heard.recv_timeout(Duration::from_secs(30)).unwrap(), None);
        drop((waiting, release));
        runtime.block_on(stuck).unwrap();
    }

    #[test]
    fn the_one_that_is_polled_is_named() {
        let runtime = runtime();
        let (watchdog, heard) = watched(&runtime);
        let oldest = watchdog.at_work(name(b"GET", b"/oldest"));
        drop(oldest.polled());
        let (release, released) = mpsc::channel::<()>();
        let blocks = watchdog.at_work(name(b"POST", b"/blocks?x"));
        let stuck = runtime.spawn(async move {
            let _polled = blocks.polled();
            _ = released.recv();
        });
        assert_eq!(heard.recv_timeout(Duration::from_secs(30)).unwrap().as_deref(), Some("POST /blocks?x"));
        drop((oldest, release));
        runtime.block_on(stuck).unwrap();
    }

    #[test]
    fn a_name_is_text_of_a_length() {
        assert_eq!(&*name(b"GET", b"/\xff"), "GET /\u{fffd}");
        assert_eq!(&*name(b"GET", &[b'a'; 9000]), format!("GET {}…", "a".repeat(NAME)));
    }

    #[test]
    fn it_ends_awake_and_asleep() {
        let runtime = runtime();
        for works in [true, false] {
            let pause = Duration::from_secs(600);
            let watchdog = Watchdog::watching(runtime.handle().clone(), pause, |_| ()).unwrap();
            let _waiting = works.then(|| watchdog.at_work(name(b"GET", b"/")));
            drop(watchdog);
        }
    }
}
