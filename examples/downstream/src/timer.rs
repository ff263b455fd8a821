//! Futures that wait for time, and the one thread that wakes all of them.
//!
//! Owns the list of sleepers, in the order in which they are due. A newcomer might leave the entry of a sleeper that
//! was dropped for the thread to find: a client that comes and goes would then fill the list with what nobody awaits.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// When, and which of those who are due at that very moment.
type Key = (Instant, u64);

#[derive(Default)]
struct List {
    sleepers: BTreeMap<Key, Waker>,
    next: u64,
    stopping: bool,
}

#[derive(Default)]
struct Clock {
    list: Mutex<List>,
    /// There is an earlier sleeper than the thread waits for, or the thread is to end.
    changed: Condvar,
}

impl Clock {
    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing under this lock can panic half-way; were it otherwise, the list would still be a list.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life.
    fn run(&self) {
        let mut list = self.list();
        while !list.stopping {
            let now = Instant::now();
            let due = due(&mut list, now);
            if !due.is_empty() {
                // A waker may poll its future here and now, and the future comes back for the list.
                drop(list);
                due.into_iter().for_each(Waker::wake);
                list = self.list();
                continue;
            }
            list = match list.sleepers.first_key_value() {
                None => self.changed.wait(list).unwrap_or_else(PoisonError::into_inner),
                Some(((when, _), _)) => {
                    let wait = when.saturating_duration_since(now);
                    self.changed.wait_timeout(list, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Takes the wakers of those whose time has come.
fn due(list: &mut List, now: Instant) -> Vec<Waker> {
    let later = list.sleepers.split_off(&(now, u64::MAX));
    std::mem::replace(&mut list.sleepers, later).into_values().collect()
}

/// The clock of a worker.
pub(crate) struct Timer {
    clock: Arc<Clock>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let clock = Arc::<Clock>::default();
        let ours = Arc::clone(&clock);
        let thread = Builder::new().name("timer".to_owned()).spawn(move || ours.run())?;
        Ok(Self { clock, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread. Who sleeps is not woken any more.
    pub(crate) fn stop(&self) {
        self.clock.list().stopping = true;
        self.clock.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread's has been logged where it happened.
        let _ = thread.map(JoinHandle::join);
    }

    /// Ready once `time` has passed from now.
    pub(crate) fn sleep(&self, time: Duration) -> Sleep {
        // What no clock can express is some weeks.
        let now = Instant::now();
        let due = now.checked_add(time).unwrap_or(now + Duration::from_secs(1 << 22));
        Sleep { clock: Arc::clone(&self.clock), due, key: None }
    }
}

/// See [`Timer::sleep`].
pub(crate) struct Sleep {
    clock: Arc<Clock>,
    due: Instant,
    /// Of the entry in the list, from the first poll on.
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.due <= Instant::now() {
            return Poll::Ready(());
        }
        let due = self.due;
        let clock = Arc::clone(&self.clock);
        let mut list = clock.list();
        let key = *self.key.get_or_insert_with(|| {
            list.next += 1;
            (due, list.next)
        });
        // Polled again: by whom may have changed.
        list.sleepers.insert(key, context.waker().clone());
        if list.sleepers.first_key_value().is_some_and(|(first, _)| *first == key) {
            clock.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.clock.list().sleepers.remove(&key);
            // Not under the lock: dropping a waker may be the end of what it belongs to.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_is_dropped_is_forgotten_and_the_others_are_woken_in_order() {
        let timer = Timer::start().unwrap();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut long = timer.sleep(Duration::from_secs(3600));
        let mut short = timer.sleep(Duration::from_millis(20));
        assert!(Pin::new(&mut long).poll(&mut context).is_pending());
        assert!(Pin::new(&mut short).poll(&mut context).is_pending());
        let deadline = Instant::now() + Duration::from_secs(30);
        while Pin::new(&mut short).poll(&mut context).is_pending() {
            assert!(Instant::now() < deadline, "the short one is not woken");
            std::thread::yield_now();
        }
        drop(long);
        drop(short);
        assert!(timer.clock.list().sleepers.is_empty());
        timer.stop();
        // The waker's only other owner would be an entry.
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
