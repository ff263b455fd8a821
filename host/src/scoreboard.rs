//! The scoreboard: shared memory in which workers publish life signs, what they are doing and what they have counted.
//!
//! Owns the layout and the reading of what may be torn. Does not own what anything means: the arbiter and the roster
//! judge. A slot is an array of words, all atomic, so that no reader is ever undefined, whatever a writer does.
//!
//! What a newcomer would get wrong: to the master this is untrusted input. A worker may die between two stores, and
//! plugin code may scribble over it; lengths are bounded, text is escaped, and no value is used as an index unchecked.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::balance;
use crate::sys::Pid;
use crate::sys::fd::monotonic_ns;
use crate::sys::shm::Shared;
use crate::sys::signal::CrashCell;

mod counters;
mod facts;
mod lives;
mod requests;

pub use counters::{Counters, Histogram, LATENCY_BUCKETS, QUEUE_BUCKETS, latency_bounds, queue_bounds};
pub use facts::{COMPANIONS, Companion, ExitReason, Facts, LINES, Outcome, Role, ServerState, Verdict};
pub use lives::{Doing, Life};
pub use requests::{CurrentRequest, began, is_tracked, next_token};

use requests::Requests;

/// Octets of the sentence that a worker leaves behind.
const MESSAGE: usize = 1016;
/// Octets that say what a worker is doing while it boots.
const STAGE: usize = 248;
/// Images whose place in memory is published.
const RANGES: usize = 16;
/// A worker that has not come back to its wait for this long takes no connections, however few it has.
const STALLED: Duration = Duration::from_millis(100);
/// Statuses there can be.
pub(crate) const CODES: usize = 500;
/// One connection in so many is asked how long it has waited.
const SAMPLED: u64 = 16;

/// Words of a slot, by name. Each text begins with a word for its length.
mod word {
    use super::{LATENCY_BUCKETS, MESSAGE, QUEUE_BUCKETS, RANGES, STAGE, requests};

    // What is written seldom.
    pub(super) const PID: usize = 0;
    pub(super) const AGE: usize = 1;
    pub(super) const GENERATION: usize = 2;
    pub(super) const STATE: usize = 3;
    pub(super) const COMMAND: usize = 4;
    pub(super) const MUST_EMPTY: usize = 5;
    /// When it was forked.
    pub(super) const BORN: usize = 6;
    /// What had been counted here before it.
    pub(super) const REQUESTS_BEFORE: usize = 7;
    // What other workers look at, in one cache line.
    /// The generation whose listeners it accepts from; 0 before the go and when it leaves.
    pub(super) const SERVING: usize = 8;
    pub(super) const OPEN: usize = 9;
    /// When its turn began; 0 while it waits.
    pub(super) const TURN: usize = 10;
    pub(super) const HEARTBEAT: usize = 11;
    // Counters. They go on over the life of the master, so that sums never fall.
    pub(super) const ACCEPTED: usize = 16;
    pub(super) const BYTES_IN: usize = 17;
    pub(super) const BYTES_OUT: usize = 18;
    /// Five words: 1xx to 5xx; a sixth for requests that got no answer.
    pub(super) const STATUS: usize = 19;
    pub(super) const LATENCY_SUM: usize = 25;
    pub(super) const LATENCY: usize = 26;
    pub(super) const QUEUE_SUM: usize = LATENCY + LATENCY_BUCKETS;
    pub(super) const QUEUE_LONGEST: usize = QUEUE_SUM + 1;
    pub(super) const QUEUE: usize = QUEUE_LONGEST + 1;
    pub(super) const COUNTERS_END: usize = QUEUE + QUEUE_BUCKETS;
    // What is read when it is dead or stuck.
    pub(super) const CRASH: usize = COUNTERS_END;
    pub(super) const RANGE_COUNT: usize = CRASH + 4;
    /// Three words each: start, end, image.
    pub(super) const RANGE: usize = RANGE_COUNT + 1;
    pub(super) const STAGE_TEXT: usize = RANGE + 3 * RANGES;
    pub(super) const MESSAGE_TEXT: usize = STAGE_TEXT + 1 + STAGE / 8;
    /// The table of requests, from a cache line of its own on.
    pub(super) const REQUESTS: usize = (MESSAGE_TEXT + 1 + MESSAGE / 8).next_multiple_of(8);
    /// A word for each status from 100 to 599.
    pub(super) const CODES: usize = REQUESTS + requests::WORDS;
    /// What the worker's main thread has counted of requests, apart from all others: the words from `BYTES_IN` up to
    /// `QUEUE_SUM` and those of `CODES` once more, so that it need not share a word with anybody who writes.
    pub(super) const MAIN: usize = (CODES + super::CODES).next_multiple_of(8);
    pub(super) const MAIN_CODES: usize = MAIN + QUEUE_SUM - BYTES_IN;
    pub(super) const COUNT: usize = MAIN_CODES + super::CODES;
}

/// A multiple of a cache line, so that two workers never write to the same one.
const WORDS: usize = word::COUNT.next_multiple_of(8);

type Slot = [AtomicU64; WORDS];

/// A worker's own word on how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum State {
    Booting = 1,
    Ready = 2,
    Draining = 3,
    /// It serves, and asks to be replaced.
    Retiring = 4,
    /// The same, and a call does not come back: it is not to wait for its turn.
    Stuck = 5,
}

/// What the master wants of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Command {
    /// Boot, report, and wait.
    Wait = 0,
    /// Serve.
    Run = 1,
    /// Finish what is there and leave.
    Drain = 2,
    /// Leave at once.
    Halt = 3,
}

/// All slots.
#[derive(Debug, Clone, Copy)]
pub struct Scoreboard {
    slots: Shared<Slot>,
    /// Slots in use; see [`bound`]. A page costs memory as soon as it is read, and most are never used.
    bounds: Shared<AtomicU64>,
    facts: Facts,
}

/// Words of the bounds.
mod bound {
    /// Behind the last slot that a worker lives in.
    pub(super) const LIVES: usize = 0;
    /// Behind the last slot that a worker has ever lived in.
    pub(super) const LIVED: usize = 1;
}

impl Scoreboard {
    /// Master: maps `slots` slots, before the first fork.
    ///
    /// # Errors
    /// No memory.
    pub fn new(slots: usize) -> io::Result<Self> {
        Ok(Self { slots: Shared::new(slots)?, bounds: Shared::new(2)?, facts: Facts::new()? })
    }

    /// Master: prepares a slot for the process that is about to be forked; age 0 is a probe's, which serves nobody.
    ///
    /// # Panics
    /// If there is no such slot: numbers come from the roster, which knows how many there are.
    pub fn claim(&self, slot: usize, age: u64, generation: u64) -> SlotWriter {
        let words = &self.slots.items()[slot];
        for word in words[..word::ACCEPTED].iter().chain(&words[word::COUNTERS_END..word::REQUESTS]) {
            word.store(0, Ordering::Relaxed);
        }
        requests(words).clear();
        words[word::AGE].store(age, Ordering::Relaxed);
        words[word::GENERATION].store(generation, Ordering::Relaxed);
        words[word::HEARTBEAT].store(monotonic_ns(), Ordering::Relaxed);
        words[word::BORN].store(monotonic_ns(), Ordering::Relaxed);
        words[word::REQUESTS_BEFORE].store(self.view(slot).counters().requests(), Ordering::Relaxed);
        words[word::STATE].store(State::Booting as u64, Ordering::Release);
        if age != 0 {
            for bound in self.bounds.items() {
                bound.fetch_max(slot as u64 + 1, Ordering::Relaxed);
            }
        }
        SlotWriter { words, board: *self }
    }

    /// Template: the slot that the master has claimed for the worker that is about to be forked; none if there is no such
    /// slot.
    pub fn writer(&self, slot: usize) -> Option<SlotWriter> {
        self.slots.items().get(slot).map(|words| SlotWriter { words, board: *self })
    }

    /// Master: a slot, to read.
    ///
    /// # Panics
    /// As [`Scoreboard::claim`].
    pub fn view(&self, slot: usize) -> SlotView {
        SlotView { words: &self.slots.items()[slot] }
    }

    /// Master: nobody lives in this slot any more.
    pub fn release(&self, slot: usize) {
        let words = &self.slots.items()[slot];
        for word in [word::STATE, word::PID, word::SERVING, word::OPEN] {
            words[word].store(0, Ordering::Release);
        }
        requests(words).clear();
        let lives = |slot: &usize| self.slots[*slot][word::STATE].load(Ordering::Relaxed) != 0;
        let last = (0..self.bound(bound::LIVES)).rev().find(lives);
        self.bounds[bound::LIVES].store(last.map_or(0, |last| last as u64 + 1), Ordering::Relaxed);
    }

    /// What the master says of itself.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What all workers have counted since the master began.
    pub fn totals(&self) -> Counters {
        let mut totals = Counters::default();
        for slot in 0..self.bound(bound::LIVED) {
            totals.add(&self.view(slot).counters());
        }
        totals
    }

    /// How many answers had each status, from 100 on, since the master began.
    pub fn statuses(&self) -> [u64; CODES] {
        let mut sums = [0_u64; CODES];
        for slot in 0..self.bound(bound::LIVED) {
            for codes in [word::CODES, word::MAIN_CODES] {
                let counts: [u64; CODES] = counters::words(&self.slots[slot][codes..]);
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum = sum.wrapping_add(count);
                }
            }
        }
        sums
    }

    fn bound(&self, which: usize) -> usize {
        let bound = self.bounds[which].load(Ordering::Relaxed);
        usize::try_from(bound).unwrap_or(usize::MAX).min(self.slots.len())
    }
}

fn requests(words: &Slot) -> Requests<'_> {
    Requests(&words[word::REQUESTS..][..requests::WORDS])
}

/// Open connections; fewer than none is a worker that counted off too often.
fn open(words: &Slot) -> u64 {
    words[word::OPEN]
        .load(Ordering::Relaxed)
        .cast_signed()
        .clamp(0, balance::MOST.cast_signed())
        .cast_unsigned()
}

fn put_text(words: &[AtomicU64], at: usize, bound: usize, text: &[u8]) {
    let text = &text[..text.len().min(bound)];
    for (index, piece) in text.chunks(8).enumerate() {
        let mut octets = [0; 8];
        octets[..piece.len()].copy_from_slice(piece);
        words[at + 1 + index].store(u64::from_ne_bytes(octets), Ordering::Relaxed);
    }
    words[at].store(text.len() as u64, Ordering::Release);
}

fn get_text(words: &[AtomicU64], at: usize, bound: usize) -> Vec<u8> {
    let length = usize::try_from(words[at].load(Ordering::Acquire)).unwrap_or(bound).min(bound);
    let mut octets: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|index| words[at + 1 + index].load(Ordering::Relaxed).to_ne_bytes())
        .collect();
    octets.truncate(length);
    octets
}

/// What came from another process, fit for a log line: text stays, controls are escaped.
pub(crate) fn readable(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets)
        .chars()
        .flat_map(|character| {
            let escape = character.is_control();
            let escaped = escape.then(|| character.escape_default()).into_iter().flatten();
            escaped.chain((!escape).then_some(character))
        })
        .collect()
}

/// Worker, Probe: the process's own slot.
#[derive(Debug, Clone, Copy)]
pub struct SlotWriter {
    words: &'static Slot,
    board: Scoreboard,
}

impl SlotWriter {
    /// What the process is doing, while it boots and as long as nothing else says it; at most 248 octets are kept.
    pub fn set_stage(&self, stage: &str) {
        put_text(self.words, word::STAGE_TEXT, STAGE, stage.as_bytes());
    }

    /// What the master says of itself.
    pub fn facts(&self) -> Facts {
        self.board.facts
    }

    /// Worker, Template: whether this generation has come to serve. Whoever is born for it then is to serve even where a
    /// new generation would be refused.
    pub fn serves(&self, generation: u64) -> bool {
        self.facts().generation() == generation
    }

    /// What it is doing.
    pub fn stage(&self) -> String {
        SlotView { words: self.words }.stage()
    }

    /// The sentence it leaves behind; at most 1016 octets are kept.
    pub fn set_message(&self, message: &str) {
        put_text(self.words, word::MESSAGE_TEXT, MESSAGE, message.as_bytes());
    }

    /// It can serve.
    pub fn set_ready(&self) {
        self.words[word::STATE].store(State::Ready as u64, Ordering::Release);
    }

    /// It serves on, and asks to be replaced. One that leaves already need not ask.
    pub fn set_retiring(&self) {
        let (ready, retiring) = (State::Ready as u64, State::Retiring as u64);
        // Fails when the state is another, and then there is nothing to do.
        let _ =
            self.words[word::STATE].compare_exchange(ready, retiring, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// It asks to be replaced, and that is urgent.
    pub fn set_stuck(&self) {
        let (retiring, stuck) = (State::Retiring as u64, State::Stuck as u64);
        // Fails when it leaves already.
        let _ =
            self.words[word::STATE].compare_exchange(retiring, stuck, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// It accepts from the listeners of its generation.
    pub fn set_serving(&self) {
        let generation = self.words[word::GENERATION].load(Ordering::Relaxed);
        self.words[word::SERVING].store(generation, Ordering::Relaxed);
    }

    /// It accepts no more.
    pub fn set_draining(&self) {
        self.words[word::SERVING].store(0, Ordering::Relaxed);
        self.words[word::STATE].store(State::Draining as u64, Ordering::Release);
    }

    /// It lives, and has work: nanoseconds of the monotonic clock.
    pub fn heartbeat(&self, now: u64) {
        self.words[word::HEARTBEAT].store(now, Ordering::Relaxed);
        self.words[word::TURN].store(now, Ordering::Relaxed);
    }

    /// It lives, and is about to wait.
    pub fn heartbeat_idle(&self, now: u64) {
        self.words[word::HEARTBEAT].store(now, Ordering::Relaxed);
        self.words[word::TURN].store(0, Ordering::Relaxed);
    }

    /// Whether it should take another connection, by what its peers have. Of those, only the ones count that could
    /// take it: that serve the same generation, and do not hang in a turn of their loop.
    pub fn may_take_another(&self) -> bool {
        let own = self.open_connections();
        if own <= 1 {
            return balance::may_take_another(own, std::iter::empty());
        }
        let now = monotonic_ns();
        let serving = self.words[word::SERVING].load(Ordering::Relaxed);
        let peers = self.board.slots[..self.board.bound(bound::LIVES)].iter().filter(|words| {
            let turn = words[word::TURN].load(Ordering::Relaxed);
            let stalled = turn != 0 && Duration::from_nanos(now.saturating_sub(turn)) > STALLED;
            words[word::SERVING].load(Ordering::Relaxed) == serving
                && !stalled
                && !std::ptr::eq(*words, self.words)
        });
        balance::may_take_another(own, peers.map(open))
    }

    /// Connections it holds.
    pub fn open_connections(&self) -> u64 {
        open(self.words)
    }

    /// What the master wants.
    pub fn command(&self) -> Command {
        match self.words[word::COMMAND].load(Ordering::Acquire) {
            0 => Command::Wait,
            1 => Command::Run,
            2 => Command::Drain,
            _ => Command::Halt,
        }
    }

    /// Whether this listener's queue is to be emptied before the worker leaves. Beyond the 64th the answer is the
    /// last one's.
    pub fn must_empty(&self, listener: usize) -> bool {
        self.words[word::MUST_EMPTY].load(Ordering::Acquire) >> listener.min(63) & 1 == 1
    }

    /// Counts a connection; whether it is one of those that are asked how long they have waited.
    pub fn connection_opened(&self) -> bool {
        self.words[word::OPEN].fetch_add(1, Ordering::Relaxed);
        self.words[word::ACCEPTED].fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    /// Counts it off.
    pub fn connection_closed(&self) {
        self.words[word::OPEN].fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts how long a connection had waited when it was accepted.
    pub fn count_queue(&self, millis: u64) {
        self.words[word::QUEUE + counters::queue_bucket(millis)].fetch_add(1, Ordering::Relaxed);
        self.words[word::QUEUE_SUM].fetch_add(millis, Ordering::Relaxed);
        self.words[word::QUEUE_LONGEST].fetch_max(millis, Ordering::Relaxed);
    }

    /// A request begins. The token is never 0; [`began`] tells its time.
    pub fn begin_request(&self, method: &[u8], target: &[u8], now: u64) -> u64 {
        requests(self.words).begin(method, target, now)
    }

    /// It is no longer at work.
    pub fn end_request(&self, token: u64) {
        requests(self.words).end(token);
    }

    /// Method and target of a request at work, if the table had room for it.
    pub fn request_name(&self, token: u64) -> Option<String> {
        requests(self.words).name(token)
    }

    /// The request that it has been at for the longest time.
    pub fn current_request(&self) -> Option<CurrentRequest> {
        requests(self.words).oldest()
    }

    /// Counts a finished request; status 0 is none, and so is the duration of one that could not be parsed.
    pub fn count_request(&self, status: u16, bytes_in: u64, bytes_out: u64, duration: Option<Duration>) {
        let count = |word: usize, by: u64| {
            self.words[word].fetch_add(by, Ordering::Relaxed);
        };
        let finished = Finished { status, bytes_in, bytes_out, duration };
        finished.count(0, word::CODES, count);
    }

    /// As [`SlotWriter::count_request`], for one thread of the process and no other: the words that it counts in are its
    /// own, which costs a sixth of counting in shared ones.
    pub fn count_request_alone(
        &self,
        status: u16,
        bytes_in: u64,
        bytes_out: u64,
        duration: Option<Duration>,
    ) {
        let count = |word: usize, by: u64| {
            let word = &self.words[word];
            word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
        };
        let finished = Finished { status, bytes_in, bytes_out, duration };
        finished.count(word::MAIN - word::BYTES_IN, word::MAIN_CODES, count);
    }

    /// Where the crash handler writes.
    pub fn crash_cell(&self) -> CrashCell {
        CrashCell {
            signal: &self.words[word::CRASH],
            pc: &self.words[word::CRASH + 1],
            address: &self.words[word::CRASH + 2],
            caller: &self.words[word::CRASH + 3],
            ranges: &self.words[word::RANGE..word::RANGE + 3 * RANGES],
        }
    }

    /// Where the image with this index lies in memory; the first sixteen are kept.
    pub fn add_load_range(&self, start: u64, end: u64, image: usize) {
        let count = self.words[word::RANGE_COUNT].load(Ordering::Relaxed) as usize;
        if count >= RANGES {
            return;
        }
        for (offset, value) in [start, end, image as u64].into_iter().enumerate() {
            self.words[word::RANGE + 3 * count + offset].store(value, Ordering::Relaxed);
        }
        self.words[word::RANGE_COUNT].store(count as u64 + 1, Ordering::Release);
    }
}

/// A request that is to be counted.
struct Finished {
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration: Option<Duration>,
}

impl Finished {
    /// Calls `count` with each word and what is to be added to it. `offset` is where the words lie, from their names on;
    /// `codes` is where those of the statuses begin.
    #[inline]
    fn count(&self, offset: usize, codes: usize, count: impl Fn(usize, u64)) {
        count(offset + word::BYTES_IN, self.bytes_in);
        count(offset + word::BYTES_OUT, self.bytes_out);
        let class = match self.status {
            100..=599 => usize::from(self.status / 100) - 1,
            _ => 5,
        };
        count(offset + word::STATUS + class, 1);
        if class < 5 {
            count(codes + usize::from(self.status) - 100, 1);
        }
        if let Some(duration) = self.duration {
            let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
            count(offset + word::LATENCY + counters::latency_bucket(micros), 1);
            count(offset + word::LATENCY_SUM, micros);
        }
    }
}

/// A crash as the handler recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// The signal.
    pub signal: u64,
    /// The program counter.
    pub pc: u64,
    /// The address that could not be accessed.
    pub address: u64,
    /// A return address into an image, if the fault lay outside of all; else 0.
    pub caller: u64,
}

/// Master: another process's slot.
#[derive(Debug, Clone, Copy)]
pub struct SlotView {
    words: &'static Slot,
}

impl SlotView {
    /// Notes whose slot it is.
    pub fn set_pid(&self, pid: Pid) {
        self.words[word::PID].store(u64::from(pid.as_raw().cast_unsigned()), Ordering::Relaxed);
    }

    /// What the worker is to do.
    pub fn set_command(&self, command: Command) {
        self.words[word::COMMAND].store(command as u64, Ordering::Release);
    }

    /// Which listeners it must empty before it leaves, a bit each.
    pub fn set_must_empty(&self, mask: u64) {
        self.words[word::MUST_EMPTY].store(mask, Ordering::Release);
    }

    /// Whether it has reported that it can serve.
    pub fn is_ready(&self) -> bool {
        let state = self.words[word::STATE].load(Ordering::Acquire);
        [State::Ready, State::Draining, State::Retiring, State::Stuck]
            .iter()
            .any(|ready| state == *ready as u64)
    }

    /// Whether it asks to be replaced.
    pub fn is_retiring(&self) -> bool {
        self.words[word::STATE].load(Ordering::Acquire) == State::Retiring as u64
    }

    /// Whether it asks to be replaced at once.
    pub fn is_stuck(&self) -> bool {
        self.words[word::STATE].load(Ordering::Acquire) == State::Stuck as u64
    }

    /// Its last sign of life, nanoseconds of the monotonic clock, never in the future.
    pub fn heartbeat(&self) -> u64 {
        self.words[word::HEARTBEAT].load(Ordering::Relaxed).min(monotonic_ns())
    }

    /// What it was doing when it last said so.
    pub fn stage(&self) -> String {
        match readable(&get_text(self.words, word::STAGE_TEXT, STAGE)) {
            stage if stage.is_empty() => "booting".to_owned(),
            stage => stage,
        }
    }

    /// The sentence it left behind.
    pub fn message(&self) -> Option<String> {
        let message = readable(&get_text(self.words, word::MESSAGE_TEXT, MESSAGE));
        (!message.is_empty()).then_some(message)
    }

    /// The request that it has been at for the longest time, if that can be read in one piece.
    pub fn current_request(&self) -> Option<CurrentRequest> {
        requests(self.words).oldest()
    }

    /// How many requests it is at.
    pub fn active_requests(&self) -> u64 {
        requests(self.words).count()
    }

    /// How it crashed.
    pub fn crash(&self) -> Option<Crash> {
        let [signal, pc, address, caller] =
            [0, 1, 2, 3].map(|offset| self.words[word::CRASH + offset].load(Ordering::Acquire));
        (signal != 0).then_some(Crash { signal, pc, address, caller })
    }

    /// The index of the image that a program counter lies in.
    pub fn image_at(&self, pc: u64) -> Option<usize> {
        let count = (self.words[word::RANGE_COUNT].load(Ordering::Acquire) as usize).min(RANGES);
        (0..count).find_map(|index| {
            let [start, end, image] =
                [0, 1, 2].map(|offset| self.words[word::RANGE + 3 * index + offset].load(Ordering::Relaxed));
            (start <= pc && pc < end).then(|| usize::try_from(image).ok())?
        })
    }

    /// What was counted here, over the life of the master.
    pub fn counters(&self) -> Counters {
        let word = |word: usize| self.words[word].load(Ordering::Relaxed);
        let mut counters = Counters {
            accepted: word(word::ACCEPTED),
            queue: Histogram {
                buckets: counters::words(&self.words[word::QUEUE..]),
                sum: word(word::QUEUE_SUM),
            },
            longest_queue: word(word::QUEUE_LONGEST),
            ..self.requests(0)
        };
        counters.add(&self.requests(word::MAIN - word::BYTES_IN));
        counters
    }

    /// The counters of requests, of all threads but the main one, or of that: by where they lie.
    fn requests(&self, offset: usize) -> Counters {
        let word = |word: usize| self.words[offset + word].load(Ordering::Relaxed);
        Counters {
            statuses: counters::words(&self.words[offset + word::STATUS..]),
            bytes_in: word(word::BYTES_IN),
            bytes_out: word(word::BYTES_OUT),
            latency: Histogram {
                buckets: counters::words(&self.words[offset + word::LATENCY..]),
                sum: word(word::LATENCY_SUM),
            },
            ..Counters::default()
        }
    }

    /// Connections it holds.
    pub fn open_connections(&self) -> u64 {
        open(self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork::fork;
    use crate::sys::wait::{Ended, wait};

    #[test]
    fn what_a_child_publishes_is_read_by_its_parent() {
        let board = Scoreboard::new(3).unwrap();
        let writer = board.claim(1, 7, 2);
        let pid = fork(move || {
            writer.set_stage("loading /x/app.so");
            writer.begin_request(b"GET", b"/a?b", monotonic_ns());
            writer.set_message("cannot go on");
            writer.add_load_range(0x1000, 0x2000, 1);
            writer.set_ready();
            0
        })
        .unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
        let view = board.view(1);
        assert!(view.is_ready());
        assert_eq!(view.stage(), "loading /x/app.so");
        assert_eq!(view.message().as_deref(), Some("cannot go on"));
        assert_eq!(view.current_request().unwrap().to_string(), "GET /a?b");
        assert_eq!(view.image_at(0x1fff), Some(1));
        assert_eq!(view.image_at(0x2000), None);
        assert!(!board.view(0).is_ready());
    }

    #[test]
    fn counters_go_on_when_a_slot_is_claimed_again() {
        let board = Scoreboard::new(2).unwrap();
        let writer = board.claim(0, 1, 1);
        let sampled = (0..32).filter(|_| writer.connection_opened()).count();
        assert_eq!(sampled, 2);
        writer.begin_request(b"GET", b"/", 1000);
        writer.count_request_alone(200, 10, 20, Some(Duration::from_micros(17)));
        writer.count_request(0, 1, 0, None);
        writer.count_queue(3);
        writer.set_message("gone");
        let before = board.view(0).counters();
        assert_eq!(board.view(0).active_requests(), 1);
        board.release(0);
        board.claim(0, 2, 1);
        let view = board.view(0);
        assert_eq!(view.counters(), before);
        assert_eq!((before.accepted, before.requests(), before.statuses), (32, 2, [0, 1, 0, 0, 0, 1]));
        assert_eq!((before.bytes_in, before.bytes_out), (11, 20));
        assert_eq!((before.latency.buckets[1], before.latency.count(), before.latency.sum), (1, 1, 17));
        assert_eq!((before.queue.buckets[2], before.queue.sum, before.longest_queue), (1, 3, 3));
        assert_eq!((view.open_connections(), view.active_requests(), view.message()), (0, 0, None));
        board.claim(1, 3, 1).count_request(200, 1, 1, None);
        assert_eq!(board.totals().requests(), 3);
        let statuses = board.statuses();
        assert_eq!((statuses[100], statuses.iter().sum::<u64>()), (2, 2));
    }

    /// What the main thread counts and what the others count is told apart by where it lies, and by nothing else.
    #[test]
    fn the_main_thread_counts_as_any_other() {
        let board = Scoreboard::new(2).unwrap();
        let writers = [board.claim(0, 1, 1), board.claim(1, 2, 1)];
        for status in (0..1000).step_by(7) {
            for micros in [None, Some(0), Some(17), Some(90_000_000)] {
                let duration = micros.map(Duration::from_micros);
                writers[0].count_request(status, 3, 5, duration);
                writers[1].count_request_alone(status, 3, 5, duration);
            }
        }
        let [shared, alone] = [0, 1].map(|slot| board.view(slot).counters());
        assert_eq!(shared, alone);
        assert_eq!(board.totals().requests(), 2 * shared.requests());
    }

    /// A board with workers of generation 1 that serve and hold as many connections.
    fn serving(connections: &[usize]) -> (Scoreboard, Vec<SlotWriter>) {
        let board = Scoreboard::new(64).unwrap();
        let mut writers = Vec::new();
        for (slot, open) in connections.iter().enumerate() {
            let writer = board.claim(slot, slot as u64 + 1, 1);
            writer.set_serving();
            writer.heartbeat_idle(monotonic_ns());
            for _ in 0..*open {
                writer.connection_opened();
            }
            writers.push(writer);
        }
        (board, writers)
    }

    fn who_may(writers: &[SlotWriter]) -> Vec<bool> {
        writers.iter().map(SlotWriter::may_take_another).collect()
    }

    #[test]
    fn connections_are_compared_with_those_who_serve_the_same_listeners() {
        let (board, writers) = serving(&[9, 0, 0, 0]);
        assert_eq!(who_may(&writers), [false, true, true, true]);
        assert!(who_may(&serving(&[9]).1)[0], "one alone always may");
        // Neither a worker that drains, nor one of another generation, nor one that boots, nor a probe would take it.
        writers[1].set_draining();
        board.claim(2, 9, 2).set_serving();
        board.claim(3, 10, 1);
        board.claim(63, 0, 1).set_serving();
        assert!(writers[0].may_take_another());
        board.claim(4, 11, 1).set_serving();
        assert!(!writers[0].may_take_another());
        board.release(4);
        assert!(writers[0].may_take_another());
    }

    #[test]
    fn one_that_hangs_in_a_turn_keeps_nobody_from_taking_connections() {
        let (_board, writers) = serving(&[9, 0]);
        assert_eq!(who_may(&writers), [false, true]);
        writers[1].heartbeat(monotonic_ns());
        assert_eq!(who_may(&writers), [false, true]);
        writers[1].heartbeat(monotonic_ns() - 2 * STALLED.as_nanos() as u64);
        assert_eq!(who_may(&writers), [true, true]);
    }

    #[test]
    fn nobody_looks_beyond_the_last_worker() {
        let (board, _writers) = serving(&[0, 0, 0]);
        assert_eq!(board.bound(bound::LIVES), 3);
        board.release(1);
        assert_eq!(board.bound(bound::LIVES), 3);
        board.release(2);
        assert_eq!((board.bound(bound::LIVES), board.bound(bound::LIVED)), (1, 3));
        board.bounds[bound::LIVES].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(board.bound(bound::LIVES), 64);
    }

    #[test]
    fn fewer_connections_than_none_are_none() {
        let (board, writers) = serving(&[0, 3]);
        writers[0].connection_closed();
        assert_eq!(board.view(0).open_connections(), 0);
        assert!(who_may(&writers)[0]);
    }

    #[test]
    fn hostile_words_neither_panic_nor_reach_a_log_line_raw() {
        let board = Scoreboard::new(1).unwrap();
        let writer = board.claim(0, 1, 1);
        let view = board.view(0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..500 {
            for word in view.words {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.store(state, Ordering::Relaxed);
            }
            let texts = [
                Some(view.stage()),
                view.message(),
                view.current_request().map(|request| request.to_string()),
            ];
            for text in texts.into_iter().flatten() {
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            let _ = (view.image_at(state), view.active_requests(), board.totals());
            let _ = (writer.may_take_another(), writer.request_name(state));
            writer.end_request(state);
            assert!(view.heartbeat() <= monotonic_ns());
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let board = Scoreboard::new(1).unwrap();
        let writer = board.claim(0, 1, 1);
        writer.set_message(&"x".repeat(5000));
        assert_eq!(board.view(0).message().unwrap().len(), MESSAGE);
    }

    #[test]
    fn the_mask_of_listeners_is_one_bit_each() {
        let board = Scoreboard::new(1).unwrap();
        let writer = board.claim(0, 1, 1);
        board.view(0).set_must_empty(0b10);
        assert!(!writer.must_empty(0) && writer.must_empty(1) && !writer.must_empty(2));
        board.view(0).set_must_empty(u64::MAX);
        assert!(writer.must_empty(0) && writer.must_empty(500));
    }
}
