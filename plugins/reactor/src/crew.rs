//! The threads that run applications: so many *places*, and as many threads as places need.
//!
//! It owns the threads, the queue of work, and the lending of places. A place is the right to run the application;
//! `--threads` is how many there are. A thread that waits for its client, because a body drips or an answer is
//! read slowly, is not running the application: it lends its place to another thread for as long as it waits, and
//! takes one again before it goes on. So a slow client costs a sleeping thread and never a place. There are at
//! most as many threads as places and connections together.
//!
//! | thread     | holds a place | next                                                                  |
//! |------------|---------------|-----------------------------------------------------------------------|
//! | idle       | no            | works, when there is work and a place; ends when it is one too many   |
//! | working    | yes           | idle, waiting                                                         |
//! | waiting    | no            | returning                                                             |
//! | returning  | no            | works, before any idle one                                            |
//!
//! A lock is given back before the one who is called wakes up: on the same CPU it would otherwise run at once, wait for the
//! lock, and have to be woken a second time.
//!
//! What a newcomer gets wrong: a crew of one place without lending is how applications run that must never be
//! called twice at once. Lending there would let a second call in while the first waits for its client.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::mail::lock;

/// How long a thread beyond the places stays without work.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between complaints about threads that cannot be had.
const COMPLAIN: Duration = Duration::from_secs(1);

thread_local! {
    static CREW: Cell<Option<&'static dyn Lend>> = const { Cell::new(None) };
}

/// A crew whose threads lend their places.
trait Lend {
    /// The caller's place is free.
    fn give(&'static self);
    /// Waits for a place.
    fn take(&'static self);
}

/// Waits, and lends the place of this thread meanwhile, if it has one.
pub(crate) fn lend<R>(wait: impl FnOnce() -> R) -> R {
    let Some(crew) = CREW.get() else { return wait() };
    crew.give();
    let result = wait();
    crew.take();
    result
}

/// A crew for work of type `J`.
pub(crate) struct Crew<J: 'static> {
    places: usize,
    lends: bool,
    work: fn(J),
    /// Called when a crew that was found behind has caught up.
    relieved: &'static (dyn Fn() + Send + Sync),
    state: Mutex<Threads<J>>,
    /// Work that waits. Written under the lock, as is what follows; the loop, which asks each turn, reads it without.
    waiting: AtomicUsize,
    /// How often a place was taken.
    turns: AtomicU64,
    /// A thread could not be started.
    lacking: AtomicBool,
    /// For idle threads.
    called: Condvar,
    /// For returning ones.
    free: Condvar,
}

struct Threads<J> {
    queue: VecDeque<J>,
    /// With a place.
    working: usize,
    idle: usize,
    /// Idle ones that were called and have not come yet.
    coming: usize,
    returning: usize,
    all: usize,
    leaving: bool,
    /// Somebody wants to know when no work waits any more.
    behind: bool,
    complained: Option<Instant>,
}

impl<J: Send + 'static> Crew<J> {
    pub(crate) fn new(
        places: usize,
        lends: bool,
        work: fn(J),
        relieved: &'static (dyn Fn() + Send + Sync),
    ) -> &'static Self {
        let threads = Threads {
            queue: VecDeque::new(),
            working: 0,
            idle: 0,
            coming: 0,
            returning: 0,
            all: 0,
            leaving: false,
            behind: false,
            complained: None,
        };
        // Threads that are stuck in an application use it until the process ends.
        Box::leak(Box::new(Self {
            places: places.max(1),
            lends,
            work,
            relieved,
            state: Mutex::new(threads),
            waiting: AtomicUsize::new(0),
            turns: AtomicU64::new(0),
            lacking: AtomicBool::new(false),
            called: Condvar::new(),
            free: Condvar::new(),
        }))
    }

    /// Hands over work; `batch` is empty afterwards.
    pub(crate) fn submit(&'static self, batch: &mut Vec<J>) {
        let mut state = lock(&self.state);
        state.queue.extend(batch.drain(..));
        self.waiting.store(state.queue.len(), Ordering::Relaxed);
        self.call(state);
    }

    /// Whether work waits for a place. Whoever is told so is told of the relief, too.
    pub(crate) fn is_behind(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut state = lock(&self.state);
        state.behind = !state.queue.is_empty() && state.working >= self.places;
        state.behind
    }

    /// Tries again to start threads that could not be had; whether some are still missing.
    pub(crate) fn lacks_threads(&'static self) -> bool {
        if self.lacking.swap(false, Ordering::Relaxed) {
            self.call(lock(&self.state));
        }
        self.lacking.load(Ordering::Relaxed)
    }

    /// How often a place was taken, and whether work waits.
    pub(crate) fn progress(&self) -> (u64, bool) {
        (self.turns.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Idle threads end, and others when they become idle.
    pub(crate) fn dismiss(&self) {
        lock(&self.state).leaving = true;
        self.called.notify_all();
    }

    /// Sees to it that free places and waiting work come together.
    fn call(&'static self, mut state: MutexGuard<'_, Threads<J>>) {
        // Whoever is on the way will look for work, and those who return come first.
        let free = self.places.saturating_sub(state.working + state.coming + state.returning);
        let wanted = free.min(state.queue.len().saturating_sub(state.coming));
        let called = wanted.min(state.idle.saturating_sub(state.coming));
        state.coming += called;
        for _ in called..wanted {
            if !self.hire(&mut state) {
                break;
            }
        }
        drop(state);
        for _ in 0..called {
            self.called.notify_one();
        }
    }

    fn hire(&'static self, state: &mut MutexGuard<'_, Threads<J>>) -> bool {
        let spawned = std::thread::Builder::new().name("application".to_owned()).spawn(|| self.serve());
        match spawned {
            Ok(_) => {
                state.all += 1;
                // It counts as an idle one that was called.
                state.idle += 1;
                state.coming += 1;
                true
            }
            Err(error) => {
                self.lacking.store(true, Ordering::Relaxed);
                let now = Instant::now();
                if state.complained.is_none_or(|last| now - last >= COMPLAIN) {
                    state.complained = Some(now);
                    log::error!(
                        "cannot start a thread beside {}: {error}; requests wait (is there a limit on processes or memory?)",
                        state.all
                    );
                }
                false
            }
        }
    }

    /// A thread's life.
    fn serve(&'static self) {
        if self.lends {
            CREW.set(Some(self));
        }
        let mut state = lock(&self.state);
        loop {
            // Called, or out of patience.
            state.idle -= 1;
            state.coming = state.coming.saturating_sub(1);
            while state.working + state.returning < self.places
                && let Some(job) = state.queue.pop_front()
            {
                state.working += 1;
                self.turns.fetch_add(1, Ordering::Relaxed);
                self.waiting.store(state.queue.len(), Ordering::Relaxed);
                let relieved = state.queue.is_empty() && std::mem::take(&mut state.behind);
                self.call(state);
                if relieved {
                    (self.relieved)();
                }
                (self.work)(job);
                state = lock(&self.state);
                state.working -= 1;
                if state.returning > 0 {
                    self.free.notify_one();
                }
            }
            if state.leaving {
                state.all -= 1;
                return;
            }
            state.idle += 1;
            if state.all > self.places {
                let (back, timeout) = self
                    .called
                    .wait_timeout_while(state, PATIENCE, |state| state.coming == 0 && !state.leaving)
                    .unwrap_or_else(PoisonError::into_inner);
                state = back;
                if timeout.timed_out() && state.all > self.places {
                    state.idle -= 1;
                    state.all -= 1;
                    return;
                }
            } else {
                state = self
                    .called
                    .wait_while(state, |state| state.coming == 0 && !state.leaving)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl<J: Send + 'static> Lend for Crew<J> {
    fn give(&'static self) {
        let mut state = lock(&self.state);
        state.working -= 1;
        let returns = state.returning > 0;
        // Two places may have become free for one who returns.
        self.call(state);
        if returns {
            self.free.notify_one();
        }
    }

    fn take(&'static self) {
        let mut state = lock(&self.state);
        if state.working >= self.places {
            state.returning += 1;
            state = self
                .free
                .wait_while(state, |state| state.working >= self.places)
                .unwrap_or_else(PoisonError::into_inner);
            state.returning -= 1;
        }
        state.working += 1;
        self.turns.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    type Job = Box<dyn FnOnce() + Send>;

    fn crew(places: usize, lends: bool) -> &'static Crew<Job> {
        Crew::new(places, lends, |job: Job| job(), &|| ())
    }

    fn submit(crew: &'static Crew<Job>, job: impl FnOnce() + Send + 'static) {
        crew.submit(&mut vec![Box::new(job)]);
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn no_more_work_at_once_than_places() {
        static AT_ONCE: AtomicUsize = AtomicUsize::new(0);
        let crew = crew(3, true);
        let (done, all_done) = mpsc::channel();
        for _ in 0..300 {
            let done = done.clone();
            submit(crew, move || {
                assert!(AT_ONCE.fetch_add(1, Ordering::SeqCst) < 3);
                std::thread::yield_now();
                AT_ONCE.fetch_sub(1, Ordering::SeqCst);
                done.send(()).unwrap();
            });
        }
        for _ in 0..300 {
            all_done.recv_timeout(LONG).unwrap();
        }
        assert!(lock(&crew.state).all <= 3);
    }

    #[test]
    fn who_waits_lends_its_place_and_comes_before_new_work() {
        let crew = crew(1, true);
        let (go, gate) = mpsc::channel::<()>();
        let (said, heard) = mpsc::channel();
        let first = said.clone();
        submit(crew, move || {
            lend(|| gate.recv_timeout(LONG).unwrap());
            first.send("returned").unwrap();
        });
        // Runs although the only place was taken, because it is lent.
        let (second, release) = (said.clone(), go);
        let (hold, held) = mpsc::channel::<()>();
        submit(crew, move || {
            second.send("second").unwrap();
            held.recv_timeout(LONG).unwrap();
        });
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "second");
        let third = said.clone();
        submit(crew, move || third.send("third").unwrap());
        assert!(crew.is_behind());
        // The first wants to go on while the second works and the third waits.
        release.send(()).unwrap();
        while lock(&crew.state).returning == 0 {
            std::thread::yield_now();
        }
        hold.send(()).unwrap();
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "returned");
        assert_eq!(heard.recv_timeout(LONG).unwrap(), "third");
    }

    #[test]
    fn of_two_places_that_become_free_one_is_for_who_returns_and_one_for_new_work() {
        for _ in 0..100 {
            let crew = crew(2, true);
            let (come_back, gate) = mpsc::channel::<()>();
            let (done, worked) = mpsc::channel::<()>();
            let (said, heard) = mpsc::channel();
            submit(crew, move || {
                lend(|| gate.recv_timeout(LONG).unwrap());
                // It works until the new work is done, which needs the other place.
                said.send(worked.recv_timeout(LONG)).unwrap();
            });
            let until = |state: &dyn Fn(&Threads<Job>) -> bool| {
                while !state(&lock(&crew.state)) {
                    std::thread::yield_now();
                }
            };
            until(&|state| crew.progress().0 == 1 && state.working == 0);
            let barrier = std::sync::Arc::new(std::sync::Barrier::new(3));
            let (let_go, held) = mpsc::channel::<()>();
            let held = std::sync::Arc::new(Mutex::new(held));
            for _ in 0..2 {
                let (barrier, held) = (std::sync::Arc::clone(&barrier), std::sync::Arc::clone(&held));
                submit(crew, move || {
                    barrier.wait();
                    lend(|| lock(&held).recv_timeout(LONG).unwrap());
                });
            }
            until(&|state| state.working == 2);
            come_back.send(()).unwrap();
            until(&|state| state.returning == 1);
            submit(crew, move || done.send(()).unwrap());
            // Both lend their places now.
            barrier.wait();
            heard.recv_timeout(LONG).unwrap().expect("the new work had a place");
            let_go.send(()).unwrap();
            let_go.send(()).unwrap();
        }
    }

    #[test]
    fn without_lending_one_place_is_one_call_at_a_time() {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        let crew = crew(1, false);
        let (done, all_done) = mpsc::channel();
        for _ in 0..20 {
            let done = done.clone();
            submit(crew, move || {
                assert_eq!(INSIDE.fetch_add(1, Ordering::SeqCst), 0);
                lend(std::thread::yield_now);
                assert_eq!(INSIDE.fetch_sub(1, Ordering::SeqCst), 1);
                done.send(()).unwrap();
            });
        }
        for _ in 0..20 {
            all_done.recv_timeout(LONG).unwrap();
        }
    }

    #[test]
    fn who_found_it_behind_is_told_when_it_has_caught_up_by_lending_too() {
        static RELIEVED: AtomicUsize = AtomicUsize::new(0);
        let relieved: &'static (dyn Fn() + Send + Sync) = &|| {
            RELIEVED.fetch_add(1, Ordering::SeqCst);
        };
        let crew: &'static Crew<Job> = Crew::new(1, true, |job: Job| job(), relieved);
        let (lends, go) = mpsc::channel::<()>();
        let (ends, end) = mpsc::channel::<()>();
        submit(crew, move || {
            go.recv_timeout(LONG).unwrap();
            lend(|| end.recv_timeout(LONG).unwrap());
        });
        submit(crew, || ());
        while lock(&crew.state).working == 0 {
            std::thread::yield_now();
        }
        assert!(crew.is_behind());
        assert_eq!(RELIEVED.load(Ordering::SeqCst), 0);
        lends.send(()).unwrap();
        let until = Instant::now() + LONG;
        while RELIEVED.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < until, "nobody was told");
            std::thread::yield_now();
        }
        assert!(!crew.is_behind());
        ends.send(()).unwrap();
    }

    #[test]
    fn progress_is_told_and_idle_threads_leave_when_dismissed() {
        let crew = crew(2, true);
        let (said, heard) = mpsc::channel();
        let before = crew.progress();
        submit(crew, move || said.send(()).unwrap());
        heard.recv_timeout(LONG).unwrap();
        assert!(crew.progress().0 > before.0);
        crew.dismiss();
        let until = Instant::now() + LONG;
        while lock(&crew.state).all > 0 {
            assert!(Instant::now() < until, "a thread has not left");
            std::thread::yield_now();
        }
    }
}
