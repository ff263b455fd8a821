//! The scoreboard: shared memory in which workers publish life signs, what they are doing and what they have counted.
//!
//! Owns the layout and the reading of what may be torn. Does not own what anything means: the arbiter and the roster
//! judge. A slot is an array of words, all atomic, so that no reader is ever undefined, whatever a writer does.
//!
//! What a newcomer would get wrong: to the master this is untrusted input. A worker may die between two stores, and
//! plugin code may scribble over it; lengths are bounded, text is escaped, and no value is used as an index unchecked.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sys::Pid;
use crate::sys::fd::monotonic_ns;
use crate::sys::shm::Shared;
use crate::sys::signal::CrashCell;

/// Octets of the sentence that a worker leaves behind.
const MESSAGE: usize = 1016;
/// Octets that say what a worker is doing while it boots.
const STAGE: usize = 248;
/// Octets of a method, and of a target.
const METHOD: usize = 24;
const TARGET: usize = 256;
/// Images whose place in memory is published.
const RANGES: usize = 16;

/// Words of a slot, by name. Each text begins with a word for its length.
mod word {
    use super::{MESSAGE, METHOD, RANGES, STAGE, TARGET};

    pub(super) const PID: usize = 0;
    pub(super) const AGE: usize = 1;
    pub(super) const GENERATION: usize = 2;
    pub(super) const STATE: usize = 3;
    pub(super) const COMMAND: usize = 4;
    pub(super) const MUST_EMPTY: usize = 5;
    pub(super) const HEARTBEAT: usize = 6;
    pub(super) const ACCEPTED: usize = 7;
    pub(super) const OPEN: usize = 8;
    pub(super) const REQUESTS: usize = 9;
    pub(super) const BYTES_IN: usize = 10;
    pub(super) const BYTES_OUT: usize = 11;
    /// Five words: 1xx to 5xx; a sixth for requests that got no answer.
    pub(super) const STATUS: usize = 12;
    pub(super) const CRASH: usize = 18;
    pub(super) const RANGE_COUNT: usize = 22;
    /// Three words each: start, end, image.
    pub(super) const RANGE: usize = 23;
    pub(super) const STAGE_TEXT: usize = RANGE + 3 * RANGES;
    pub(super) const MESSAGE_TEXT: usize = STAGE_TEXT + 1 + STAGE / 8;
    /// Odd while it is being written; 0: none.
    pub(super) const REQUEST_SEQUENCE: usize = MESSAGE_TEXT + 1 + MESSAGE / 8;
    pub(super) const REQUEST_STARTED: usize = REQUEST_SEQUENCE + 1;
    pub(super) const METHOD_TEXT: usize = REQUEST_STARTED + 1;
    pub(super) const TARGET_TEXT: usize = METHOD_TEXT + 1 + METHOD / 8;
    pub(super) const COUNT: usize = TARGET_TEXT + 1 + TARGET / 8;
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
}

impl Scoreboard {
    /// Master: maps `slots` slots, before the first fork.
    ///
    /// # Errors
    /// No memory.
    pub fn new(slots: usize) -> io::Result<Self> {
        Ok(Self { slots: Shared::new(slots)? })
    }

    /// Master: prepares a slot for the process that is about to be forked.
    ///
    /// # Panics
    /// If there is no such slot: numbers come from the roster, which knows how many there are.
    pub fn claim(&self, slot: usize, age: u64, generation: u64) -> SlotWriter {
        let words = &self.slots.items()[slot];
        for (index, word) in words.iter().enumerate() {
            // Counters go on over the life of the master, so that sums never fall; open connections died.
            if !(word::ACCEPTED..word::CRASH).contains(&index) || index == word::OPEN {
                word.store(0, Ordering::Relaxed);
            }
        }
        words[word::AGE].store(age, Ordering::Relaxed);
        words[word::GENERATION].store(generation, Ordering::Relaxed);
        words[word::HEARTBEAT].store(monotonic_ns(), Ordering::Relaxed);
        words[word::STATE].store(State::Booting as u64, Ordering::Release);
        SlotWriter { words }
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
        words[word::STATE].store(0, Ordering::Release);
        words[word::PID].store(0, Ordering::Relaxed);
        words[word::OPEN].store(0, Ordering::Relaxed);
        words[word::REQUEST_SEQUENCE].store(0, Ordering::Relaxed);
    }
}

fn put_text(words: &Slot, at: usize, bound: usize, text: &[u8]) {
    let text = &text[..text.len().min(bound)];
    for (index, piece) in text.chunks(8).enumerate() {
        let mut octets = [0; 8];
        octets[..piece.len()].copy_from_slice(piece);
        words[at + 1 + index].store(u64::from_ne_bytes(octets), Ordering::Relaxed);
    }
    words[at].store(text.len() as u64, Ordering::Release);
}

fn get_text(words: &Slot, at: usize, bound: usize) -> Vec<u8> {
    let length = usize::try_from(words[at].load(Ordering::Acquire)).unwrap_or(bound).min(bound);
    let mut octets: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|index| words[at + 1 + index].load(Ordering::Relaxed).to_ne_bytes())
        .collect();
    octets.truncate(length);
    octets
}

/// What came from another process, fit for a log line: text stays, controls are escaped.
fn readable(octets: &[u8]) -> String {
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
}

impl SlotWriter {
    /// What the process is doing, while it boots and as long as nothing else says it; at most 248 octets are kept.
    pub fn set_stage(&self, stage: &str) {
        put_text(self.words, word::STAGE_TEXT, STAGE, stage.as_bytes());
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

    /// It serves on, and asks to be replaced.
    pub fn set_retiring(&self) {
        self.words[word::STATE].store(State::Retiring as u64, Ordering::Release);
    }

    /// It accepts no more.
    pub fn set_draining(&self) {
        self.words[word::STATE].store(State::Draining as u64, Ordering::Release);
    }

    /// It lives: nanoseconds of the monotonic clock.
    pub fn heartbeat(&self, now: u64) {
        self.words[word::HEARTBEAT].store(now, Ordering::Relaxed);
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

    /// Counts a connection.
    pub fn connection_opened(&self) {
        self.words[word::ACCEPTED].fetch_add(1, Ordering::Relaxed);
        self.words[word::OPEN].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it off.
    pub fn connection_closed(&self) {
        self.words[word::OPEN].fetch_sub(1, Ordering::Relaxed);
    }

    /// The request at work; of several at once, the one that began last.
    pub fn begin_request(&self, method: &[u8], target: &[u8], now: u64) {
        let sequence = &self.words[word::REQUEST_SEQUENCE];
        let before = sequence.load(Ordering::Relaxed);
        if before % 2 == 1 {
            return; // Another thread writes; its request is as good as this one.
        }
        if sequence.compare_exchange(before, before + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        put_text(self.words, word::METHOD_TEXT, METHOD, method);
        put_text(self.words, word::TARGET_TEXT, TARGET, target);
        self.words[word::REQUEST_STARTED].store(now, Ordering::Relaxed);
        sequence.store(before + 2, Ordering::Release);
    }

    /// No request is at work.
    pub fn end_request(&self) {
        self.words[word::REQUEST_STARTED].store(0, Ordering::Release);
    }

    /// The request at work.
    pub fn current_request(&self) -> Option<CurrentRequest> {
        SlotView { words: self.words }.current_request()
    }

    /// Counts a finished request; status 0 is none.
    pub fn count_request(&self, status: u16, bytes_in: u64, bytes_out: u64) {
        self.words[word::REQUESTS].fetch_add(1, Ordering::Relaxed);
        self.words[word::BYTES_IN].fetch_add(bytes_in, Ordering::Relaxed);
        self.words[word::BYTES_OUT].fetch_add(bytes_out, Ordering::Relaxed);
        let class = match status {
            100..=599 => usize::from(status / 100) - 1,
            _ => 5,
        };
        self.words[word::STATUS + class].fetch_add(1, Ordering::Relaxed);
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

/// A request that a worker is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentRequest {
    method: String,
    target: String,
    started: u64,
}

impl CurrentRequest {
    /// How long it has been at it.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.started))
    }
}

impl fmt::Display for CurrentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
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
        [State::Ready, State::Draining, State::Retiring].iter().any(|ready| state == *ready as u64)
    }

    /// Whether it asks to be replaced.
    pub fn is_retiring(&self) -> bool {
        self.words[word::STATE].load(Ordering::Acquire) == State::Retiring as u64
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

    /// The request it is at, if that can be read in one piece.
    pub fn current_request(&self) -> Option<CurrentRequest> {
        let before = self.words[word::REQUEST_SEQUENCE].load(Ordering::Acquire);
        let started = self.words[word::REQUEST_STARTED].load(Ordering::Acquire);
        let method = readable(&get_text(self.words, word::METHOD_TEXT, METHOD));
        let target = readable(&get_text(self.words, word::TARGET_TEXT, TARGET));
        // The reads above must not be done after the one below.
        std::sync::atomic::fence(Ordering::Acquire);
        let after = self.words[word::REQUEST_SEQUENCE].load(Ordering::Relaxed);
        let whole = before == after && before.is_multiple_of(2) && before != 0 && started != 0;
        whole.then_some(CurrentRequest { method, target, started })
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

    /// Requests it has answered, over the life of the master.
    pub fn requests(&self) -> u64 {
        self.words[word::REQUESTS].load(Ordering::Relaxed)
    }

    /// Connections it holds.
    pub fn open_connections(&self) -> u64 {
        self.words[word::OPEN].load(Ordering::Relaxed)
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
        let board = Scoreboard::new(1).unwrap();
        let writer = board.claim(0, 1, 1);
        writer.connection_opened();
        writer.count_request(200, 10, 20);
        writer.set_message("gone");
        board.release(0);
        board.claim(0, 2, 1);
        let view = board.view(0);
        assert_eq!((view.requests(), view.open_connections()), (1, 0));
        assert_eq!(view.message(), None);
    }

    #[test]
    fn an_ended_request_is_none_and_a_torn_one_is_none() {
        let board = Scoreboard::new(1).unwrap();
        let writer = board.claim(0, 1, 1);
        writer.begin_request(b"GET", b"/", 5);
        assert!(writer.current_request().is_some());
        writer.end_request();
        assert!(writer.current_request().is_none());
        writer.begin_request(b"GET", b"/", 5);
        writer.words[word::REQUEST_SEQUENCE].fetch_add(1, Ordering::Relaxed);
        assert!(writer.current_request().is_none());
    }

    #[test]
    fn hostile_words_neither_panic_nor_reach_a_log_line_raw() {
        let board = Scoreboard::new(1).unwrap();
        board.claim(0, 1, 1);
        let view = board.view(0);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2000 {
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
            let _ = view.image_at(state);
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
