//! The master's view of its workers: who is to be spawned, drained, aborted and killed.
//!
//! Owns the decisions; does nothing. Time is passed in, processes are numbers, and [`Roster::manage`] returns what the
//! arbiter is to do. One rule serves ordinary life, a rolling replacement and a rollback alike: there is one generation
//! that is *wanted*, workers of any other are foreign, and a foreign one is told to drain as soon as the rest are
//! enough without it.
//!
//! | phase    | becomes ready | silent or late        | told to leave | dies                                       |
//! |----------|---------------|-----------------------|---------------|--------------------------------------------|
//! | Booting  | Ready         | Aborted (boot)        | Killed        | its seat backs off, 0.1 s doubling to 10 s |
//! | Ready    | –             | Aborted (`timeout`)   | Draining      | replaced at once                           |
//! | Draining | –             | halted, then Killed   | –             | nothing: it was to go                      |
//! | Aborted  | –             | Killed (1 s later)    | –             | as the phase it was in before              |
//! | Killed   | –             | –                     | –             | as the phase it was in before              |
//!
//! What a newcomer would get wrong: a draining worker fills no seat, so its replacement never waits for it, and neither
//! does a killed one, since not even the kernel promises when that is gone. An aborted one does, for a second.
#![deny(clippy::wildcard_enum_match_arm)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::settings::MAX_WORKERS;
use crate::sys::Pid;

/// How long a worker has between ABRT and KILL.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// How long a worker that was told to leave at once may take.
const HALT_GRACE: Duration = Duration::from_secs(1);
/// A life of this length as a ready worker clears its seat of earlier failures.
const PROVEN: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// Forks in a second for each wanted worker.
const FORKS: usize = 4;
/// A loop that wakes this much later than it asked for was suspended itself.
const SUSPENDED: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker into this slot; answered by [`Roster::spawned`] or [`Roster::spawn_failed`].
    Spawn {
        /// What it runs.
        generation: u64,
        /// Its place on the scoreboard.
        slot: usize,
    },
    /// Finish what is there and leave; others serve the listeners.
    Drain(Pid),
    /// As drain, emptying the accept queues first: the server stops.
    Stop(Pid),
    /// Leave at once.
    Halt(Pid),
    /// ABRT.
    Abort(Pid),
    /// KILL.
    Kill(Pid),
}

/// The times that rule workers; none is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeouts {
    /// Silence of a ready worker.
    pub timeout: Option<Duration>,
    /// From fork to readiness.
    pub boot: Option<Duration>,
    /// From being told to drain to KILL.
    pub graceful: Duration,
    /// At least between two workers that are replaced because they ask for it.
    pub recycle: Duration,
}

/// What a worker was when it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// It never became ready.
    Booting,
    /// It had been ready, and nobody had told it to leave.
    Serving,
    /// It had been told to leave.
    Leaving,
    /// No worker of ours.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Booting { since: Instant },
    Ready { since: Instant },
    Draining { deadline: Instant, halted: bool },
    Aborted { at: Instant, proven_from: Option<Instant> },
    Killed { was: Was },
}

/// What the master knows of one worker.
#[derive(Debug, Clone, Copy)]
struct WorkerHandle {
    /// None between the decision to spawn and the fork.
    pid: Option<Pid>,
    slot: usize,
    generation: u64,
    /// Birth order; the oldest surplus worker goes first.
    order: u64,
    seat: usize,
    phase: Phase,
    heartbeat: Instant,
    /// It asks to be replaced when it is its turn.
    asking: bool,
    /// It is to be replaced, and serves until it is.
    retiring: bool,
    /// Those of its generation: a worker ticks by the `timeout` that it was born with.
    timeouts: Timeouts,
}

impl WorkerHandle {
    /// Whether it fills a seat: it serves, is about to, or is stuck and may still say what it is at.
    fn is_seated(&self) -> bool {
        match self.phase {
            Phase::Booting { .. } | Phase::Ready { .. } | Phase::Aborted { .. } => true,
            Phase::Draining { .. } | Phase::Killed { .. } => false,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    fn is_booting(&self) -> bool {
        matches!(self.phase, Phase::Booting { .. })
    }

    /// What it is if it dies now.
    fn was(&self) -> Was {
        match self.phase {
            Phase::Booting { .. } => Was::Booting,
            Phase::Ready { .. } => Was::Serving,
            Phase::Draining { .. } => Was::Leaving,
            Phase::Aborted { proven_from, .. } => {
                if proven_from.is_some() {
                    Was::Serving
                } else {
                    Was::Booting
                }
            }
            Phase::Killed { was } => was,
        }
    }
}

/// A place for one worker, with a memory of those that failed on it.
#[derive(Debug, Clone, Copy, Default)]
struct Seat {
    failures: u32,
    not_before: Option<Instant>,
}

/// What all workers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Nothing is wanted yet.
    Idle,
    /// Serve this generation.
    Serve(u64),
    /// Leave, by then at the latest.
    Stop(Instant),
    /// Leave at once.
    Halt(Instant),
}

/// All workers, and what is wanted of them.
#[derive(Debug)]
pub struct Roster {
    workers: Vec<WorkerHandle>,
    seats: Vec<Seat>,
    slots: usize,
    wanted: usize,
    timeouts: Timeouts,
    course: Course,
    /// A generation of which one worker is tried.
    gate: Option<u64>,
    gate_timeouts: Timeouts,
    born: u64,
    /// When one that had asked was last granted its replacement.
    recycled: Option<Instant>,
    /// When the last forks were, no older than a second.
    forks: VecDeque<Instant>,
    /// The deadline that the loop was last given.
    asked: Option<Instant>,
}

impl Roster {
    /// A roster for as many processes, draining ones included, as there are slots.
    pub fn new(slots: usize) -> Self {
        Self {
            workers: Vec::new(),
            seats: Vec::new(),
            slots,
            wanted: 1,
            timeouts: Timeouts::default(),
            course: Course::Idle,
            gate: None,
            gate_timeouts: Timeouts::default(),
            born: 0,
            recycled: None,
            forks: VecDeque::new(),
            asked: None,
        }
    }

    /// How many workers are wanted.
    pub fn workers(&self) -> usize {
        self.wanted
    }

    /// How many of the wanted workers are missing because two or more in a row died before they were ready.
    pub fn failing(&self) -> usize {
        let ready = self.count(|worker| worker.is_ready());
        let fails = |seat: &usize| self.seats.get(*seat).is_some_and(|seat| seat.failures >= 2);
        let filled =
            |seat: &usize| self.workers.iter().any(|worker| worker.is_ready() && worker.seat == *seat);
        let failing = (0..self.wanted).filter(|seat| fails(seat) && !filled(seat)).count();
        failing.min(self.wanted.saturating_sub(ready))
    }

    /// Wants as many workers, at least one, at most as a configuration could ask for. Returns what is wanted now.
    pub fn set_workers(&mut self, workers: usize) -> usize {
        self.wanted = workers.clamp(1, MAX_WORKERS as usize);
        self.wanted
    }

    /// Wants no workers for now: all drain. [`Roster::set_workers`] ends it.
    pub fn rest(&mut self) {
        self.wanted = 0;
    }

    /// How many workers can serve, of whatever generation.
    pub fn ready_workers(&self) -> usize {
        self.count(WorkerHandle::is_ready)
    }

    /// Sets the times that rule workers spawned from now on.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Spawns one worker of `generation` beside those that serve; see [`Roster::open_roll`]. What failed before says
    /// nothing about new code: no seat backs off any longer.
    pub fn begin_roll(&mut self, generation: u64, timeouts: Timeouts) {
        self.gate = Some(generation);
        self.gate_timeouts = timeouts;
        self.seats.clear();
    }

    /// The worker of the gate may serve: from now on its generation is the wanted one.
    pub fn open_roll(&mut self) {
        if let Some(generation) = self.gate.take() {
            self.timeouts = self.gate_timeouts;
            self.course = Course::Serve(generation);
        }
    }

    /// Wants `generation` again, or nothing if it is 0; those of any other drain when they can be spared. What failed
    /// says nothing about the code that served before.
    pub fn roll_back(&mut self, generation: u64) {
        self.gate = None;
        self.seats.clear();
        match self.course {
            Course::Stop(_) | Course::Halt(_) => {}
            Course::Idle | Course::Serve(_) => {
                self.course = if generation == 0 { Course::Idle } else { Course::Serve(generation) };
            }
        }
    }

    /// Whether as many workers as wanted are ready, all of the wanted generation.
    pub fn roll_is_complete(&self) -> bool {
        let Course::Serve(generation) = self.course else { return false };
        self.workers.iter().filter(|worker| worker.is_ready() && worker.generation == generation).count()
            >= self.wanted
    }

    /// Everybody finishes and leaves, by `deadline` at the latest.
    pub fn stop(&mut self, deadline: Instant) {
        self.gate = None;
        self.course = Course::Stop(deadline);
    }

    /// Everybody leaves at once.
    pub fn halt(&mut self, now: Instant) {
        self.gate = None;
        self.course = Course::Halt(now + HALT_GRACE);
    }

    /// The fork into `slot` succeeded. False: nobody wants it any more, which only happens if the fork took longer
    /// than a turn of the loop.
    pub fn spawned(&mut self, slot: usize, pid: Pid, now: Instant) -> bool {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.slot == slot) else { return false };
        worker.pid = Some(pid);
        let wanted = worker.is_booting();
        if wanted {
            worker.phase = Phase::Booting { since: now };
        }
        // The time to boot begins here; who asks next may sleep at once.
        self.asked = self.deadline(now);
        wanted
    }

    /// The generation of a fork into `slot` that was asked for, has not been answered, and is still wanted.
    pub fn awaited(&self, slot: usize) -> Option<u64> {
        let awaited =
            |worker: &&WorkerHandle| worker.slot == slot && worker.pid.is_none() && worker.is_booting();
        self.workers.iter().find(awaited).map(|worker| worker.generation)
    }

    /// The fork into `slot` was never tried, and will not be.
    pub fn forget(&mut self, slot: usize) {
        self.workers.retain(|worker| worker.slot != slot || worker.pid.is_some());
    }

    /// The fork into `slot` failed: its seat backs off.
    pub fn spawn_failed(&mut self, slot: usize, now: Instant) {
        if let Some(index) = self.workers.iter().position(|worker| worker.slot == slot) {
            let worker = self.workers.swap_remove(index);
            self.back_off(worker.seat, now);
            // Who asks next may sleep at once, and must not sleep as long as that worker might have booted.
            self.asked = self.deadline(now);
        }
    }

    /// A sign of life.
    pub fn heartbeat(&mut self, pid: Pid, at: Instant) {
        if let Some(worker) = self.find(pid) {
            worker.heartbeat = worker.heartbeat.max(at);
        }
    }

    /// A worker says that it can serve. False if that is no news, or comes too late.
    pub fn ready(&mut self, pid: Pid, now: Instant) -> bool {
        let Some(worker) = self.find(pid) else { return false };
        match worker.phase {
            Phase::Booting { .. } => {
                worker.phase = Phase::Ready { since: now };
                worker.heartbeat = now;
                true
            }
            Phase::Ready { .. } | Phase::Draining { .. } | Phase::Aborted { .. } | Phase::Killed { .. } => {
                false
            }
        }
    }

    /// A worker asks to be replaced (it has served as many requests as it should, or has grown too large). It retires
    /// when the time between two of them has passed: a leak that all have must not take all of them at once.
    pub fn ask_to_retire(&mut self, pid: Pid) {
        if let Some(worker) = self.find(pid) {
            worker.asking = true;
        }
    }

    /// A worker is to be replaced: it drains when another is ready.
    pub fn retire(&mut self, pid: Pid) {
        if let Some(worker) = self.find(pid) {
            worker.retiring = true;
        }
    }

    /// A process has died.
    pub fn died(&mut self, pid: Pid, now: Instant) -> Was {
        let Some(index) = self.workers.iter().position(|worker| worker.pid == Some(pid)) else {
            return Was::Unknown;
        };
        let worker = self.workers.swap_remove(index);
        let proven = match worker.phase {
            Phase::Ready { since } => now.saturating_duration_since(since) >= PROVEN,
            Phase::Aborted { proven_from, .. } => {
                proven_from.is_some_and(|since| now.saturating_duration_since(since) >= PROVEN)
            }
            Phase::Booting { .. } | Phase::Draining { .. } | Phase::Killed { .. } => false,
        };
        let was = worker.was();
        if was == Was::Booting {
            self.back_off(worker.seat, now);
        } else if proven && let Some(seat) = self.seats.get_mut(worker.seat) {
            *seat = Seat::default();
        }
        was
    }

    fn back_off(&mut self, seat: usize, now: Instant) {
        let Some(seat) = self.seats.get_mut(seat) else { return };
        let wait = FIRST_BACKOFF.saturating_mul(1 << seat.failures.min(10)).min(LONGEST_BACKOFF);
        seat.failures += 1;
        seat.not_before = Some(now + wait);
    }

    fn find(&mut self, pid: Pid) -> Option<&mut WorkerHandle> {
        self.workers.iter_mut().find(|worker| worker.pid == Some(pid))
    }

    /// What is to be done now. Call it once a turn, after all that has happened was told.
    pub fn manage(&mut self, now: Instant) -> Vec<Action> {
        self.forgive_suspension(now);
        let mut actions = Vec::new();
        self.murder(now, &mut actions);
        self.recycle(now);
        match self.course {
            Course::Idle => {
                self.dismiss_foreign(0, now, &mut actions);
                self.try_gate(now, &mut actions);
            }
            Course::Serve(generation) => {
                self.dismiss_foreign(generation, now, &mut actions);
                self.dismiss_surplus(generation, now, &mut actions);
                self.try_gate(now, &mut actions);
                self.fill_seats(generation, now, &mut actions);
            }
            Course::Stop(deadline) => self.dismiss_all(deadline, Action::Stop, &mut actions),
            Course::Halt(deadline) => self.dismiss_all(deadline, Action::Halt, &mut actions),
        }
        self.asked = self.deadline(now);
        actions
    }

    /// When [`Roster::manage`] must be called again if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.asked
    }

    /// When the master itself did not run (SIGSTOP, a suspended machine), silence is nobody's fault.
    fn forgive_suspension(&mut self, now: Instant) {
        let Some(asked) = self.asked else { return };
        let gap = now.saturating_duration_since(asked);
        if gap < SUSPENDED {
            return;
        }
        for worker in &mut self.workers {
            worker.heartbeat = now;
            match &mut worker.phase {
                Phase::Booting { since } => *since += gap,
                Phase::Draining { deadline, .. } => *deadline += gap,
                Phase::Aborted { at, .. } => *at += gap,
                Phase::Ready { .. } | Phase::Killed { .. } => {}
            }
        }
        if let Course::Stop(deadline) | Course::Halt(deadline) = &mut self.course {
            *deadline += gap;
        }
    }

    /// When this worker's patience ends, and what comes then.
    fn limit(worker: &WorkerHandle) -> Option<Instant> {
        match worker.phase {
            Phase::Booting { since } => worker.timeouts.boot.map(|boot| since + boot),
            Phase::Ready { .. } => worker.timeouts.timeout.map(|timeout| worker.heartbeat + timeout),
            Phase::Draining { deadline, .. } => Some(deadline),
            Phase::Aborted { at, .. } => Some(at + ABORT_GRACE),
            Phase::Killed { .. } => None,
        }
    }

    fn murder(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for index in 0..self.workers.len() {
            let worker = self.workers[index];
            let Some(pid) = worker.pid else { continue };
            if Self::limit(&worker).is_none_or(|limit| limit > now) {
                continue;
            }
            self.workers[index].phase = match worker.phase {
                Phase::Booting { .. } => {
                    actions.push(Action::Abort(pid));
                    Phase::Aborted { at: now, proven_from: None }
                }
                Phase::Ready { since } => {
                    actions.push(Action::Abort(pid));
                    Phase::Aborted { at: now, proven_from: Some(since) }
                }
                Phase::Draining { halted: false, .. } => {
                    // A last chance to drop what is at work and to be told so, as after an INT.
                    actions.push(Action::Halt(pid));
                    Phase::Draining { deadline: now + HALT_GRACE, halted: true }
                }
                Phase::Draining { halted: true, .. } | Phase::Aborted { .. } => {
                    actions.push(Action::Kill(pid));
                    Phase::Killed { was: worker.was() }
                }
                Phase::Killed { was } => Phase::Killed { was },
            };
        }
    }

    /// Whose turn it is next to be replaced, of those that ask.
    fn next_to_retire(&self) -> Option<usize> {
        self.oldest(|worker| worker.asking && !worker.retiring && worker.is_ready())
    }

    /// When the next of those that ask may be replaced.
    fn recycle_due(&self) -> Option<Instant> {
        self.recycled.map(|last| last + self.timeouts.recycle)
    }

    fn recycle(&mut self, now: Instant) {
        while self.recycle_due().is_none_or(|due| due <= now)
            && let Some(index) = self.next_to_retire()
        {
            self.workers[index].retiring = true;
            self.recycled = Some(now);
        }
    }

    fn count(&self, which: impl Fn(&WorkerHandle) -> bool) -> usize {
        self.workers.iter().filter(|worker| which(worker)).count()
    }

    /// Workers of the wanted generation and of others, ready ones only.
    fn ready_count(&self) -> usize {
        self.count(|worker| worker.is_ready() && Some(worker.generation) != self.gate)
    }

    /// Tells a worker to leave. One that still boots serves nobody, and may be stuck where it cannot listen.
    fn drain(&mut self, index: usize, now: Instant, actions: &mut Vec<Action>) {
        let worker = &mut self.workers[index];
        let deadline = now + worker.timeouts.graceful;
        if worker.is_booting() {
            worker.phase = Phase::Killed { was: Was::Leaving };
            actions.extend(worker.pid.map(Action::Kill));
        } else {
            worker.phase = Phase::Draining { deadline, halted: false };
            actions.extend(worker.pid.map(Action::Drain));
        }
    }

    /// Foreign workers, and those that asked to be replaced, go as soon as the rest are enough without them. Those
    /// that still boot serve nobody.
    fn dismiss_foreign(&mut self, wanted: u64, now: Instant, actions: &mut Vec<Action>) {
        let gate = self.gate;
        let foreign = move |worker: &WorkerHandle| {
            (worker.generation != wanted || worker.retiring) && Some(worker.generation) != gate
        };
        while let Some(index) = self.workers.iter().position(|worker| worker.is_booting() && foreign(worker))
        {
            self.drain(index, now, actions);
        }
        while wanted == 0 || self.ready_count() > self.wanted {
            let oldest = self.oldest(|worker| worker.is_ready() && foreign(worker));
            let Some(index) = oldest else { return };
            self.drain(index, now, actions);
        }
    }

    /// After a TTOU: the oldest go, and never one that serves for the sake of one that boots.
    fn dismiss_surplus(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        let ours = move |worker: &WorkerHandle| worker.generation == generation && !worker.retiring;
        loop {
            let newest_booting = self
                .workers
                .iter()
                .enumerate()
                .filter(|(_, worker)| worker.is_booting() && ours(worker))
                .max_by_key(|(_, worker)| worker.order)
                .map(|(index, _)| index);
            let seated = self.count(|worker| worker.is_seated() && ours(worker));
            let booting = seated > self.wanted || self.seated() > self.wanted + 1;
            // One that is being aborted fills a seat, but serves nobody: for its sake none that does may go.
            let ready = self.count(|worker| worker.is_ready() && ours(worker)) > self.wanted;
            let oldest_ready = || self.oldest(|worker| worker.is_ready() && ours(worker));
            let surplus = newest_booting.filter(|_| booting).or_else(|| ready.then(oldest_ready).flatten());
            let Some(index) = surplus else { return };
            self.drain(index, now, actions);
        }
    }

    /// Who fills a seat of this generation for good.
    fn ours(&self, generation: u64) -> usize {
        self.count(|worker| worker.is_seated() && worker.generation == generation && !worker.retiring)
    }

    /// Who fills a seat, the worker of the gate apart.
    fn seated(&self) -> usize {
        self.count(|worker| worker.is_seated() && Some(worker.generation) != self.gate)
    }

    fn oldest(&self, which: impl Fn(&WorkerHandle) -> bool) -> Option<usize> {
        let candidates = self.workers.iter().enumerate().filter(|(_, worker)| which(worker));
        candidates.min_by_key(|(_, worker)| worker.order).map(|(index, _)| index)
    }

    /// One worker of the generation that is tried, if there is none yet.
    fn try_gate(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(generation) = self.gate else { return };
        if self.count(|worker| worker.generation == generation) == 0 {
            self.spawn(generation, self.gate_timeouts, now, actions);
        }
    }

    /// Spawns what is missing, at most one more than wanted seated at a time.
    fn fill_seats(&mut self, generation: u64, now: Instant, actions: &mut Vec<Action>) {
        loop {
            let ours = self.ours(generation);
            if ours >= self.wanted
                || self.seated() > self.wanted
                || !self.spawn(generation, self.timeouts, now, actions)
            {
                return;
            }
        }
    }

    /// Decides a spawn if a seat and the fork rate allow it.
    fn spawn(
        &mut self,
        generation: u64,
        timeouts: Timeouts,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> bool {
        while self.forks.front().is_some_and(|fork| *fork + Duration::from_secs(1) <= now) {
            self.forks.pop_front();
        }
        let Some(slot) = (0..self.slots).find(|slot| self.workers.iter().all(|worker| worker.slot != *slot))
        else {
            return false;
        };
        let seat = self.free_seat();
        if self.forks.len() >= FORKS * self.wanted.max(1)
            || self.seats[seat].not_before.is_some_and(|until| until > now)
        {
            return false;
        }
        self.forks.push_back(now);
        self.born += 1;
        self.workers.push(WorkerHandle {
            pid: None,
            slot,
            generation,
            order: self.born,
            seat,
            phase: Phase::Booting { since: now },
            heartbeat: now,
            asking: false,
            retiring: false,
            timeouts,
        });
        actions.push(Action::Spawn { generation, slot });
        true
    }

    /// The free seat that may be taken first. One beyond the wanted count is for a roll, where all others are taken:
    /// a worker that failed must not find a seat there that knows nothing of it.
    fn free_seat(&mut self) -> usize {
        let free =
            |seat: &usize| !self.workers.iter().any(|worker| worker.is_seated() && worker.seat == *seat);
        let not_before = |seat: &usize| self.seats.get(*seat).and_then(|seat| seat.not_before);
        let ordinary = (0..self.wanted).filter(free).min_by_key(not_before);
        let seat = ordinary.or_else(|| (self.wanted..).find(free)).unwrap_or(self.wanted);
        if self.seats.len() <= seat {
            self.seats.resize(seat + 1, Seat::default());
        }
        seat
    }

    fn dismiss_all(&mut self, deadline: Instant, how: fn(Pid) -> Action, actions: &mut Vec<Action>) {
        let halted = matches!(self.course, Course::Halt(_));
        let mut fresh = Vec::new();
        for worker in &mut self.workers {
            let told = match worker.phase {
                Phase::Booting { .. } => {
                    worker.phase = Phase::Killed { was: Was::Leaving };
                    fresh.extend(worker.pid.map(Action::Kill));
                    true
                }
                Phase::Ready { .. } => false,
                // A worker that drains already is told again when it must hurry.
                Phase::Draining { deadline: before, halted: told } => told || (before <= deadline && !halted),
                Phase::Aborted { .. } | Phase::Killed { .. } => true,
            };
            if !told {
                worker.phase = Phase::Draining { deadline, halted };
                fresh.extend(worker.pid.map(how));
            }
        }
        actions.append(&mut fresh);
    }

    /// The nearest of all deadlines.
    fn deadline(&mut self, now: Instant) -> Option<Instant> {
        // How long a fork may take is known to whoever was asked for it.
        let forked = self.workers.iter().filter(|worker| worker.pid.is_some());
        let limits = forked.filter_map(Self::limit).min();
        let spawn = self.lacks_worker().then(|| {
            let seat = self.free_seat();
            let rate = (self.forks.len() >= FORKS * self.wanted.max(1))
                .then(|| self.forks.front().map(|fork| *fork + Duration::from_secs(1)))
                .flatten();
            self.seats[seat].not_before.into_iter().chain(rate).max().unwrap_or(now).max(now)
        });
        // Who asks is told no earlier than this; the first of all is not made to wait.
        let recycle = self.next_to_retire().and_then(|_| self.recycle_due());
        [limits, spawn, recycle].into_iter().flatten().min()
    }

    /// Whether a spawn is wanted that was not allowed yet.
    fn lacks_worker(&self) -> bool {
        if let Some(generation) = self.gate
            && self.count(|worker| worker.generation == generation) == 0
        {
            return true;
        }
        let Course::Serve(generation) = self.course else { return false };
        let ours = self.ours(generation);
        ours < self.wanted && self.seated() <= self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts {
        timeout: Some(Duration::from_secs(30)),
        boot: Some(Duration::from_secs(5)),
        graceful: Duration::from_secs(30),
        recycle: Duration::ZERO,
    };

    /// A roster with a clock, pids, and forks that succeed.
    struct World {
        roster: Roster,
        now: Instant,
        pids: i32,
        /// Living processes: (pid, generation, whether it was told to leave).
        alive: Vec<(Pid, u64, bool)>,
        spawned: usize,
        /// Processes that the kernel is to end; they die when the world settles.
        killed: Vec<Pid>,
    }

    impl World {
        fn new(workers: usize) -> Self {
            let mut roster = Roster::new(64);
            roster.set_workers(workers);
            Self { roster, now: Instant::now(), pids: 100, alive: Vec::new(), spawned: 0, killed: Vec::new() }
        }

        /// A world in which generation 1 serves.
        fn serving(workers: usize) -> Self {
            let mut world = Self::new(workers);
            world.roster.begin_roll(1, TIMEOUTS);
            world.turn();
            world.all_ready();
            world.roster.open_roll();
            world.settle();
            world
        }

        fn turn(&mut self) -> Vec<Action> {
            let actions = self.roster.manage(self.now);
            for action in &actions {
                match *action {
                    Action::Spawn { generation, slot } => {
                        self.pids += 1;
                        self.spawned += 1;
                        let pid = Pid::from_raw(self.pids);
                        self.roster.spawned(slot, pid, self.now);
                        self.alive.push((pid, generation, false));
                    }
                    Action::Drain(pid) | Action::Stop(pid) | Action::Halt(pid) => {
                        let told = self.alive.iter_mut().find(|worker| worker.0 == pid);
                        told.expect("only living workers are told").2 = true;
                    }
                    Action::Abort(_) => {}
                    Action::Kill(pid) => self.killed.push(pid),
                }
            }
            actions
        }

        fn all_ready(&mut self) {
            for (pid, _, told) in self.alive.clone() {
                if !told {
                    self.roster.ready(pid, self.now);
                }
            }
        }

        fn die(&mut self, pid: Pid) -> Was {
            self.alive.retain(|worker| worker.0 != pid);
            self.roster.died(pid, self.now)
        }

        /// Turns, readiness and the death of those that were told, until nothing happens any more.
        fn settle(&mut self) {
            for _ in 0..200 {
                let actions = self.turn();
                self.all_ready();
                for pid in std::mem::take(&mut self.killed) {
                    self.die(pid);
                }
                let leaving: Vec<Pid> =
                    self.alive.iter().filter(|worker| worker.2).map(|worker| worker.0).collect();
                for pid in &leaving {
                    self.die(*pid);
                }
                self.beat();
                if actions.is_empty()
                    && leaving.is_empty()
                    && self.roster.next_deadline().is_none_or(|at| at > self.now + LONGEST_BACKOFF)
                {
                    return;
                }
                self.now += SECOND / 4;
            }
            panic!("it never settles: {:?}", self.roster);
        }

        fn beat(&mut self) {
            for (pid, _, _) in self.alive.clone() {
                self.roster.heartbeat(pid, self.now);
            }
        }

        fn serving_count(&self, generation: u64) -> usize {
            self.alive.iter().filter(|worker| worker.1 == generation && !worker.2).count()
        }

        fn ready(&self) -> usize {
            self.roster.count(WorkerHandle::is_ready)
        }
    }

    #[test]
    fn the_first_generation_begins_with_one_worker_and_then_fills_up() {
        let mut world = World::new(3);
        assert_eq!(world.turn(), []);
        world.roster.begin_roll(1, TIMEOUTS);
        assert!(matches!(world.turn()[..], [Action::Spawn { generation: 1, .. }]));
        assert_eq!(world.turn(), []);
        assert!(!world.roster.roll_is_complete());
        world.all_ready();
        world.roster.open_roll();
        assert_eq!(world.turn().len(), 2);
        world.all_ready();
        assert!(world.roster.roll_is_complete());
        assert_eq!(world.turn(), []);
    }

    #[test]
    fn a_ready_worker_that_dies_is_replaced_at_once() {
        let mut world = World::serving(2);
        let pid = world.alive[0].0;
        assert_eq!(world.die(pid), Was::Serving);
        assert!(matches!(world.turn()[..], [Action::Spawn { generation: 1, .. }]));
    }

    #[test]
    fn a_place_fails_from_the_second_death_before_readiness_until_a_worker_is_ready() {
        let mut world = World::serving(2);
        assert_eq!(world.roster.failing(), 0);
        let victim = world.alive[0].0;
        world.die(victim);
        for failing in [0, 1, 1] {
            world.now += LONGEST_BACKOFF;
            world.beat();
            world.turn();
            let newest = world.alive.last().unwrap().0;
            assert_ne!(newest, victim, "it was replaced");
            world.die(newest);
            assert_eq!(world.roster.failing(), failing);
        }
        world.now += LONGEST_BACKOFF;
        world.beat();
        world.turn();
        assert_eq!(world.roster.failing(), 1, "the next one is not ready yet");
        world.all_ready();
        assert_eq!(world.roster.failing(), 0);
    }

    #[test]
    fn deaths_before_readiness_back_off_and_a_proven_life_clears_them() {
        let mut world = World::serving(1);
        let pid = world.alive[0].0;
        world.die(pid);
        world.turn();
        let mut waits = Vec::new();
        for _ in 0..9 {
            let pid = world.alive[0].0;
            assert_eq!(world.die(pid), Was::Booting);
            let died = world.now;
            while world.turn().is_empty() {
                world.now = world.roster.next_deadline().expect("a spawn is due");
            }
            waits.push((world.now - died).as_millis());
        }
        // The fork rate may make one wait longer than its seat asks for.
        for (wait, least) in waits.iter().zip([100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]) {
            assert!((least..=least + 300).contains(wait), "{waits:?}");
        }
        world.all_ready();
        world.now += PROVEN;
        world.beat();
        let pid = world.alive[0].0;
        assert_eq!(world.die(pid), Was::Serving);
        world.turn();
        let pid = world.alive[0].0;
        world.die(pid);
        assert_eq!(world.turn(), []);
        assert_eq!(world.roster.next_deadline(), Some(world.now + FIRST_BACKOFF));
    }

    #[test]
    fn a_crash_loop_of_ready_workers_is_bounded_by_the_fork_rate() {
        let mut world = World::serving(1);
        world.now += 2 * SECOND;
        let (before, begun) = (world.spawned, world.now);
        while world.now < begun + 10 * SECOND {
            for (pid, _, _) in world.alive.clone() {
                world.die(pid);
            }
            world.turn();
            world.all_ready();
            world.now += SECOND / 50;
        }
        let forks = world.spawned - before;
        assert!((36..=44).contains(&forks), "{forks}");
    }

    #[test]
    fn silence_is_answered_with_abort_then_kill() {
        let mut world = World::serving(1);
        let pid = world.alive[0].0;
        world.now = world.roster.next_deadline().unwrap();
        assert_eq!(world.turn(), [Action::Abort(pid)]);
        assert_eq!(world.turn(), [], "a stuck worker is not doubled");
        world.now += ABORT_GRACE;
        let actions = world.turn();
        assert!(
            matches!(actions[..], [Action::Kill(killed), Action::Spawn { .. }] if killed == pid),
            "{actions:?}"
        );
        assert_eq!(world.turn(), []);
        assert_eq!(world.die(pid), Was::Serving);
        assert_eq!(world.turn(), []);
    }

    #[test]
    fn the_time_to_boot_is_a_deadline_as_soon_as_there_is_a_process() {
        let mut world = World::new(1);
        world.roster.begin_roll(1, TIMEOUTS);
        let asked = world.roster.manage(world.now);
        let [Action::Spawn { slot, .. }] = asked[..] else { panic!("{asked:?}") };
        assert!(world.roster.spawned(slot, Pid::from_raw(7), world.now));
        // Nothing else need happen before the master sleeps.
        assert_eq!(world.roster.next_deadline(), Some(world.now + 5 * SECOND));
    }

    #[test]
    fn a_late_boot_is_aborted_and_counts_as_one_that_failed() {
        let mut world = World::new(1);
        world.roster.begin_roll(1, TIMEOUTS);
        world.turn();
        let pid = world.alive[0].0;
        world.now += 5 * SECOND;
        assert_eq!(world.turn(), [Action::Abort(pid)]);
        assert!(!world.roster.ready(pid, world.now), "too late");
        assert_eq!(world.die(pid), Was::Booting);
    }

    #[test]
    fn nobody_is_murdered_for_a_pause_of_the_master_itself() {
        let mut world = World::serving(2);
        world.now = world.roster.next_deadline().unwrap() + 60 * SECOND;
        assert_eq!(world.turn(), []);
        world.now = world.roster.next_deadline().unwrap();
        assert_eq!(world.turn().len(), 2, "later silence is silence again");
    }

    #[test]
    fn ttou_drains_the_oldest_and_stops_at_one() {
        let mut world = World::serving(3);
        let oldest = world.alive[0].0;
        assert_eq!(world.roster.set_workers(2), 2);
        assert_eq!(world.turn(), [Action::Drain(oldest)]);
        assert_eq!(world.roster.set_workers(0), 1);
        assert_eq!(world.turn().len(), 1);
        assert_eq!(world.turn(), []);
        assert_eq!(world.roster.set_workers(1_000_000), MAX_WORKERS as usize);
    }

    #[test]
    fn ttou_gives_up_a_booting_worker_before_one_that_serves() {
        let mut world = World::serving(2);
        world.roster.set_workers(3);
        world.turn();
        let newest = world.alive.last().unwrap().0;
        world.roster.set_workers(2);
        assert_eq!(world.turn(), [Action::Kill(newest)]);
    }

    #[test]
    fn workers_that_ask_to_be_replaced_wait_for_their_turn() {
        let mut world = World::new(3);
        world.roster.begin_roll(1, Timeouts { recycle: 5 * SECOND, ..TIMEOUTS });
        world.turn();
        world.all_ready();
        world.roster.open_roll();
        world.settle();
        let asking: Vec<Pid> = world.alive.iter().map(|worker| worker.0).collect();
        asking.iter().for_each(|pid| world.roster.ask_to_retire(*pid));
        // The first at once, as nobody was replaced before; one more every five seconds; never two at a time.
        for (turn, pid) in asking.iter().enumerate() {
            let begun = world.now;
            while world.alive.iter().any(|worker| worker.0 == *pid) {
                world.turn();
                world.all_ready();
                let left = |pid: &&Pid| world.alive.iter().all(|worker| worker.0 != **pid || worker.2);
                assert!(asking.iter().filter(left).count() <= turn + 1, "one at a time");
                for (pid, _, told) in world.alive.clone() {
                    if told {
                        world.die(pid);
                    }
                }
                world.beat();
                world.now += SECOND / 4;
            }
            let waited = world.now - begun;
            assert!(if turn == 0 { waited <= SECOND } else { waited > 4 * SECOND }, "{turn}: {waited:?}");
        }
        // A stuck one does not wait for any turn.
        let stuck = world.alive[0].0;
        world.roster.retire(stuck);
        assert!(matches!(world.turn()[..], [Action::Spawn { .. }]));
    }

    #[test]
    fn the_loop_wakes_for_who_waits_for_a_turn() {
        let mut world = World::new(2);
        let never = Timeouts { timeout: None, recycle: 5 * SECOND, ..TIMEOUTS };
        world.roster.begin_roll(1, never);
        world.turn();
        world.all_ready();
        world.roster.open_roll();
        world.settle();
        assert_eq!(world.roster.next_deadline(), None);
        let asking: Vec<Pid> = world.alive.iter().map(|worker| worker.0).collect();
        let begun = world.now;
        asking.iter().for_each(|pid| world.roster.ask_to_retire(*pid));
        while world.alive.iter().any(|worker| worker.0 == asking[0]) {
            world.turn();
            world.all_ready();
            for (pid, _, told) in world.alive.clone() {
                if told {
                    world.die(pid);
                }
            }
        }
        world.turn();
        assert_eq!(world.roster.next_deadline(), Some(begun + 5 * SECOND));
    }

    #[test]
    fn a_worker_that_retires_is_replaced_before_it_drains() {
        let mut world = World::serving(2);
        let pid = world.alive[0].0;
        world.roster.retire(pid);
        assert!(matches!(world.turn()[..], [Action::Spawn { generation: 1, .. }]));
        assert_eq!(world.turn(), []);
        world.all_ready();
        assert_eq!(world.turn(), [Action::Drain(pid)]);
        world.settle();
        assert_eq!(world.serving_count(1), 2);
    }

    #[test]
    fn a_roll_replaces_one_by_one_and_never_waits_for_a_drain() {
        let mut world = World::serving(2);
        world.roster.begin_roll(2, TIMEOUTS);
        assert!(matches!(world.turn()[..], [Action::Spawn { generation: 2, .. }]));
        assert_eq!(world.turn(), [], "nothing happens to the old ones before the gate opens");
        world.all_ready();
        world.roster.open_roll();
        let actions = world.turn();
        assert!(
            matches!(actions[..], [Action::Drain(_), Action::Spawn { generation: 2, .. }]),
            "{actions:?}"
        );
        assert!(!world.roster.roll_is_complete());
        world.all_ready();
        assert!(world.roster.roll_is_complete());
        assert!(matches!(world.turn()[..], [Action::Drain(_)]));
        assert_eq!(world.alive.len(), 4, "both old ones still drain");
        assert_eq!(world.turn(), []);
    }

    #[test]
    fn an_old_worker_that_dies_while_the_gate_is_closed_is_replaced_by_an_old_one() {
        let mut world = World::serving(2);
        world.roster.begin_roll(2, TIMEOUTS);
        world.turn();
        let old = world.alive[0].0;
        world.die(old);
        assert!(matches!(world.turn()[..], [Action::Spawn { generation: 1, .. }]));
    }

    #[test]
    fn a_shorter_timeout_rules_new_workers_only() {
        let mut world = World::serving(1);
        let old = world.alive[0].0;
        let brief = Timeouts { timeout: Some(SECOND), ..TIMEOUTS };
        world.roster.begin_roll(2, brief);
        world.turn();
        world.all_ready();
        world.now += 2 * SECOND;
        assert!(!world.turn().contains(&Action::Abort(old)), "it ticks by the timeout it knows");
        let aborted: Vec<Action> = world.turn();
        assert_eq!(aborted, []);
        assert!(world.roster.workers.iter().any(|worker| matches!(worker.phase, Phase::Aborted { .. })));
    }

    #[test]
    fn what_a_ready_worker_waits_for_is_no_silence_of_its_own() {
        let timeout = TIMEOUTS.timeout.unwrap();
        for (told, murdered) in [(true, false), (false, true)] {
            let mut world = World::new(1);
            world.roster.begin_roll(1, TIMEOUTS);
            world.turn();
            let pid = world.alive[0].0;
            // The turn that finds it ready lasts, until it is told that it may serve.
            world.roster.ready(pid, world.now);
            world.roster.open_roll();
            if told {
                world.roster.heartbeat(pid, world.now + timeout);
            }
            assert_eq!(world.turn(), []);
            world.now += timeout + SECOND;
            // The loop woke as soon as it had asked for.
            world.roster.asked = Some(world.now);
            assert_eq!(world.turn().contains(&Action::Abort(pid)), murdered);
        }
    }

    #[test]
    fn a_refused_gate_leaves_the_old_workers_alone() {
        let mut world = World::serving(2);
        world.roster.begin_roll(2, TIMEOUTS);
        world.turn();
        let new = world.alive.last().unwrap().0;
        world.roster.roll_back(1);
        assert_eq!(world.turn(), [Action::Kill(new)]);
        world.settle();
        assert_eq!((world.serving_count(1), world.serving_count(2)), (2, 0));
    }

    #[test]
    fn a_roll_back_keeps_new_workers_until_old_ones_are_ready_again() {
        let mut world = World::serving(2);
        world.roster.begin_roll(2, TIMEOUTS);
        world.turn();
        world.all_ready();
        world.roster.open_roll();
        world.turn();
        let booting = world.alive.last().unwrap().0;
        world.die(booting);
        world.roster.roll_back(1);
        let actions = world.turn();
        assert!(matches!(actions[..], [Action::Spawn { generation: 1, .. }]), "{actions:?}");
        assert_eq!(world.ready(), 2, "one old and one new serve");
        world.settle();
        assert_eq!((world.serving_count(1), world.serving_count(2)), (2, 0));
    }

    #[test]
    fn a_stop_tells_everybody_once_and_kills_who_does_not_leave() {
        let mut world = World::serving(2);
        world.roster.stop(world.now + 3 * SECOND);
        assert_eq!(world.turn().len(), 2);
        assert_eq!(world.turn(), []);
        world.now += 3 * SECOND;
        let halts = world.turn();
        assert!(matches!(halts[..], [Action::Halt(_), Action::Halt(_)]), "{halts:?}");
        world.now += HALT_GRACE;
        let kills = world.turn();
        assert!(matches!(kills[..], [Action::Kill(_), Action::Kill(_)]), "{kills:?}");
        for (pid, _, _) in world.alive.clone() {
            assert_eq!(world.die(pid), Was::Leaving);
        }
        assert_eq!(world.turn(), [], "nobody is replaced");
    }

    #[test]
    fn a_halt_hurries_those_that_drain_already() {
        let mut world = World::serving(2);
        world.roster.stop(world.now + 30 * SECOND);
        world.turn();
        world.roster.halt(world.now);
        let actions = world.turn();
        assert!(matches!(actions[..], [Action::Halt(_), Action::Halt(_)]), "{actions:?}");
        world.now += HALT_GRACE;
        assert!(matches!(world.turn()[..], [Action::Kill(_), Action::Kill(_)]));
    }

    #[test]
    fn a_failed_fork_is_tried_again_later() {
        let mut world = World::serving(1);
        let pid = world.alive[0].0;
        world.die(pid);
        let actions = world.roster.manage(world.now);
        let [Action::Spawn { slot, .. }] = actions[..] else { panic!("{actions:?}") };
        world.roster.spawn_failed(slot, world.now);
        // The master sleeps before it asks again.
        assert_eq!(world.roster.next_deadline(), Some(world.now + FIRST_BACKOFF));
        assert_eq!(world.roster.manage(world.now), []);
        world.now = world.roster.next_deadline().unwrap();
        assert!(matches!(world.turn()[..], [Action::Spawn { .. }]));
    }

    /// Thousands of random events. At every step: one worker a seat, no more than wanted and one that boot or serve,
    /// nobody who serves is drained below the wanted count by a roll; at the end the wanted count serves.
    #[test]
    fn a_fork_that_is_not_answered_yet_can_be_taken_back() {
        let mut world = World::serving(2);
        let (pid, ..) = world.alive[0];
        world.roster.died(pid, world.now);
        let asked = world.roster.manage(world.now);
        let [Action::Spawn { slot, .. }] = asked[..] else { panic!("{asked:?}") };
        // Longer than a boot may take: that time begins with the fork.
        world.now += 10 * SECOND;
        assert_eq!(world.roster.manage(world.now), []);
        assert_eq!(world.roster.next_deadline().filter(|deadline| *deadline <= world.now), None);
        assert!(world.roster.awaited(slot).is_some());
        world.roster.halt(world.now);
        world.roster.manage(world.now);
        assert!(world.roster.awaited(slot).is_none(), "nobody wants it any more");
        // It comes all the same: whoever asked for the fork is to kill it.
        assert!(!world.roster.spawned(slot, Pid::from_raw(7), world.now));
        world.roster.forget(slot);
        assert_eq!(
            world.roster.died(Pid::from_raw(7), world.now),
            Was::Leaving,
            "what was forked is not forgotten"
        );
    }

    #[test]
    fn whatever_happens_it_converges_and_never_gives_up_service() {
        for seed in 1..60_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move |bound: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            let mut world = World::serving(2);
            let (mut current, mut newest) = (1, 1);
            for _ in 0..400 {
                let living = world.alive.len() as u64;
                let any = (living > 0).then(|| world.alive[random(living.max(1)) as usize].0);
                match (random(10), any) {
                    (0, Some(pid)) => {
                        let gate = world.roster.gate;
                        let generation =
                            world.alive.iter().find(|worker| worker.0 == pid).map(|worker| worker.1);
                        if world.die(pid) == Was::Booting && generation == gate {
                            world.roster.roll_back(current);
                        }
                    }
                    (1, _) => _ = world.roster.set_workers(world.roster.workers() + 1),
                    (2, _) => _ = world.roster.set_workers(world.roster.workers() - 1),
                    (3, _) if world.roster.gate.is_none() => {
                        newest += 1;
                        world.roster.begin_roll(newest, TIMEOUTS);
                    }
                    (4, _) => {
                        let gate = world.roster.gate;
                        let is_ready =
                            |worker: &WorkerHandle| Some(worker.generation) == gate && worker.is_ready();
                        if world.roster.count(is_ready) > 0 {
                            current = gate.unwrap();
                            world.roster.open_roll();
                        }
                    }
                    (5 | 6, Some(pid)) => _ = world.roster.ready(pid, world.now),
                    (8, Some(pid)) if random(4) == 0 => world.roster.ask_to_retire(pid),
                    (7, Some(pid)) if world.alive.iter().any(|worker| worker.0 == pid && worker.2) => {
                        world.die(pid);
                    }
                    _ => world.now += Duration::from_millis(random(700)),
                }
                world.beat();
                let (ready_before, wanted) = (world.ready(), world.roster.workers());
                let actions = world.turn();
                let drained = actions.iter().filter(|action| matches!(action, Action::Drain(_))).count();
                let ready_after = world.ready();
                assert!(ready_after >= ready_before.min(wanted), "seed {seed}: {actions:?}");
                assert!(drained + ready_after >= ready_before, "seed {seed}: {actions:?}");
                let seated = world.roster.count(WorkerHandle::is_seated);
                let at_work = world.roster.count(|worker| worker.is_booting() || worker.is_ready());
                assert!(at_work <= wanted + 2, "seed {seed}: {at_work} of {wanted}: {:?}", world.roster);
                let mut seats: Vec<usize> = world
                    .roster
                    .workers
                    .iter()
                    .filter(|worker| worker.is_seated())
                    .map(|worker| worker.seat)
                    .collect();
                seats.sort_unstable();
                seats.dedup();
                assert_eq!(seats.len(), seated, "seed {seed}: two workers on one seat");
            }
            if world.roster.gate.is_some() {
                world.roster.roll_back(current);
            }
            world.now += 20 * SECOND;
            world.beat();
            world.settle();
            assert_eq!(world.serving_count(current), world.roster.workers(), "seed {seed}");
            assert_eq!(world.alive.len(), world.roster.workers(), "seed {seed}");
        }
    }
}
