//! What the master says of itself: a slot of its own on the scoreboard, written by the master, read by the monitor.
//!
//! Owns the layout of these words and the reading of what may be torn. Does not own what they mean: the arbiter writes
//! them once a turn, the monitor makes health, metrics and answers of them.
//!
//! What a newcomer would get wrong: to the master this is output only. Workers and the monitor share the memory and
//! could scribble over it, so nothing the master decides is ever read back from here, and a reader bounds what it finds.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CODES, LATENCY_BUCKETS, get_text, put_text, readable};
use crate::logging::LogLevel;
use crate::sys::fd::monotonic_ns;
use crate::sys::shm::Shared;

/// Octets of a reload's sentence.
const SENTENCE: usize = 1016;
/// Verdicts that are kept: who asked for a reload has this many later ones to read his own.
const VERDICTS: usize = 16;
/// Requests for a reload that are kept.
const TICKETS: usize = 64;

/// Counters of which it is known how far they were reported.
const REPORTED: usize = CODES + LATENCY_BUCKETS + LINES.len();
/// The levels of which lines are counted.
pub const LINES: [&str; 3] = ["critical", "error", "warning"];

/// Processes beside the workers that are told of: what the arbiter has at most of both kinds.
pub const COMPANIONS: usize = 16;

mod word {
    use super::{COMPANIONS, ExitReason, Outcome, SENTENCE, TICKETS, VERDICTS};

    pub(super) const STATE: usize = 0;
    pub(super) const GENERATION: usize = 1;
    pub(super) const WANTED: usize = 2;
    pub(super) const FAILING: usize = 3;
    pub(super) const STARTED: usize = 4;
    pub(super) const TIMEOUTS: usize = 5;
    pub(super) const SPAWNED: usize = 6;
    pub(super) const MONITORS: usize = 7;
    pub(super) const DROPPED: usize = 8;
    /// 0 is as configured; else one more than the level.
    pub(super) const LOG_LEVEL: usize = 9;
    /// A word for each of [`LINES`].
    pub(super) const LINES: usize = 10;
    pub(super) const EXITS: usize = 16;
    pub(super) const RELOADS: usize = EXITS + ExitReason::ALL.len();
    /// The generation of the last verdict; 0 before the first.
    pub(super) const LAST: usize = RELOADS + Outcome::ALL.len();
    pub(super) const VERDICT: usize = LAST + 1;
    /// Words of a verdict: generation, outcome, when, and its sentence.
    pub(super) const VERDICT_TEXT: usize = 3;
    pub(super) const VERDICT_SIZE: usize = VERDICT_TEXT + 1 + SENTENCE / 8;
    /// Two words each: ticket and generation.
    pub(super) const TICKET: usize = VERDICT + VERDICTS * VERDICT_SIZE;
    pub(super) const REPORTED: usize = TICKET + 2 * TICKETS;
    /// Two words each: process id and kind, generation. The first one without a process id is the end.
    pub(super) const COMPANION: usize = REPORTED + super::REPORTED;
    pub(super) const COUNT: usize = COMPANION + 2 * COMPANIONS;
}

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum ServerState {
    /// The first generation is in the making.
    Starting = 0,
    /// It serves.
    Serving = 1,
    /// It serves, and is about to stop: `drain_delay`.
    Delaying = 2,
    /// It stops.
    Stopping = 3,
}

impl ServerState {
    /// As `status` and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Delaying => "about to stop",
            Self::Stopping => "stopping",
        }
    }
}

/// What a process beside the workers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Workers are forked from it: `preload_app`.
    Template,
    /// It runs the hooks of the master.
    Hooks,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Template, Self::Hooks];

    /// As `status` and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Hooks => "hooks",
        }
    }
}

/// A process beside the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Companion {
    /// What it is for.
    pub role: Role,
    /// Its process id.
    pub pid: u64,
    /// The generation whose images it has.
    pub generation: u64,
}

/// Why a worker is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitReason {
    /// It died before it was ready.
    Boot,
    /// It was silent for `timeout`.
    Timeout,
    /// A signal, a crash among them.
    Signal,
    /// It left by itself.
    Exit,
    /// It had asked to be replaced: `max_requests`, an abandoned call.
    Retired,
    /// It was told to leave: a reload, fewer workers, the end.
    Dismissed,
}

impl ExitReason {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 6] =
        [Self::Boot, Self::Timeout, Self::Signal, Self::Exit, Self::Retired, Self::Dismissed];

    /// As the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Timeout => "timeout",
            Self::Signal => "signal",
            Self::Exit => "exit",
            Self::Retired => "retired",
            Self::Dismissed => "dismissed",
        }
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All workers are new. The first start is one.
    Done,
    /// Nothing has changed that a client could see.
    Refused,
    /// New workers died while old ones were being replaced.
    RolledBack,
}

impl Outcome {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 3] = [Self::Done, Self::Refused, Self::RolledBack];

    /// As `status` and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// The end of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The generation that was tried.
    pub generation: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// When, on the monotonic clock.
    pub at: u64,
    /// As in the log.
    pub sentence: String,
}

/// The master's slot.
#[derive(Debug, Clone, Copy)]
pub struct Facts(Shared<AtomicU64>);

impl Facts {
    pub(super) fn new() -> io::Result<Self> {
        let facts = Self(Shared::new(word::COUNT)?);
        facts.set(word::STARTED, monotonic_ns());
        Ok(facts)
    }

    fn set(self, word: usize, value: u64) {
        self.0[word].store(value, Ordering::Relaxed);
    }

    fn get(self, word: usize) -> u64 {
        self.0[word].load(Ordering::Relaxed)
    }

    fn count(self, word: usize) {
        self.0[word].fetch_add(1, Ordering::Relaxed);
    }

    // -----------------------------------------------------------------------------------------------------------
    // What the master writes.

    /// Master: how far it is, which generation serves (0 is none), how many workers are wanted, and how many places
    /// for one cannot be filled because workers die before they are ready.
    pub fn publish(self, state: ServerState, generation: u64, wanted: u64, failing: u64) {
        self.set(word::GENERATION, generation);
        self.set(word::WANTED, wanted);
        self.set(word::FAILING, failing);
        self.0[word::STATE].store(state as u64, Ordering::Release);
    }

    /// Master: the processes beside the workers, in place of those it told of before.
    pub fn set_companions(self, companions: impl IntoIterator<Item = Companion>) {
        let mut index = 0;
        for companion in companions.into_iter().take(COMPANIONS) {
            let at = word::COMPANION + 2 * index;
            self.set(at + 1, companion.generation);
            self.set(at, companion.pid << 1 | companion.role as u64);
            index += 1;
        }
        if index < COMPANIONS {
            self.set(word::COMPANION + 2 * index, 0);
        }
    }

    /// Master: a worker was forked.
    pub fn count_spawn(self) {
        self.count(word::SPAWNED);
    }

    /// Master: a monitor was forked.
    pub fn count_monitor(self) {
        self.count(word::MONITORS);
    }

    /// Master: a worker was found silent for `timeout`.
    pub fn count_timeout(self) {
        self.count(word::TIMEOUTS);
    }

    /// Master: a worker is gone.
    pub fn count_exit(self, reason: ExitReason) {
        self.count(word::EXITS + reason as usize);
    }

    /// Master: a reload has ended; at most 1016 octets of the sentence are kept.
    pub fn set_verdict(self, generation: u64, outcome: Outcome, sentence: &str) {
        self.count(word::RELOADS + outcome as usize);
        let verdict = Self::verdict_words(generation);
        let words = &self.0[verdict..verdict + word::VERDICT_SIZE];
        // Nobody takes it for a whole one while it is written.
        words[0].store(0, Ordering::Release);
        words[1].store(outcome as u64, Ordering::Relaxed);
        words[2].store(monotonic_ns(), Ordering::Relaxed);
        put_text(words, word::VERDICT_TEXT, SENTENCE, sentence.as_bytes());
        words[0].store(generation, Ordering::Release);
        self.0[word::LAST].store(generation, Ordering::Release);
    }

    /// Master: whoever was given this ticket waits for the verdict on this generation.
    pub fn set_ticket(self, ticket: u64, generation: u64) {
        let at = Self::ticket_words(ticket);
        self.0[at + 1].store(generation, Ordering::Relaxed);
        self.0[at].store(ticket, Ordering::Release);
    }

    /// Master: what is logged in all processes, instead of what is configured; none is as configured.
    pub fn set_log_level(self, level: Option<LogLevel>) {
        self.set(word::LOG_LEVEL, level.map_or(0, |level| level as u64 + 1));
    }

    /// Where every process counts the lines of its logs that it dropped.
    pub fn dropped_lines(self) -> &'static AtomicU64 {
        &self.0.items()[word::DROPPED]
    }

    /// Where every process counts the lines that it logs, in the order of [`LINES`].
    pub fn lines(self) -> &'static [AtomicU64] {
        &self.0.items()[word::LINES..word::LINES + LINES.len()]
    }

    /// Monitor: by how much a counter has grown since any monitor last asked so: a counter is known by its number, from 0
    /// on. Two monitors at a time never report the same twice.
    pub fn unreported(self, counter: usize, now: u64) -> u64 {
        let reported = &self.0[word::REPORTED + counter.min(REPORTED - 1)];
        now.saturating_sub(reported.fetch_max(now, Ordering::Relaxed))
    }

    // -----------------------------------------------------------------------------------------------------------
    // What the monitor reads.

    /// How far the server is. What is no state counts as the last.
    pub fn state(self) -> ServerState {
        match self.0[word::STATE].load(Ordering::Acquire) {
            0 => ServerState::Starting,
            1 => ServerState::Serving,
            2 => ServerState::Delaying,
            _ => ServerState::Stopping,
        }
    }

    /// The generation that serves; 0 before the first.
    pub fn generation(self) -> u64 {
        self.get(word::GENERATION)
    }

    /// How many workers are wanted.
    pub fn wanted(self) -> u64 {
        self.get(word::WANTED)
    }

    /// How many of them die again and again before they are ready.
    pub fn failing(self) -> u64 {
        self.get(word::FAILING)
    }

    /// Worker, Monitor: what is to be logged instead of what is configured.
    pub fn log_level(self) -> Option<LogLevel> {
        LogLevel::from_number(self.get(word::LOG_LEVEL).checked_sub(1)?)
    }

    /// How long the master has been there, in nanoseconds.
    pub fn uptime(self) -> u64 {
        monotonic_ns().saturating_sub(self.get(word::STARTED))
    }

    /// How many workers were found silent.
    pub fn timeouts(self) -> u64 {
        self.get(word::TIMEOUTS)
    }

    /// How many workers were forked.
    pub fn spawned(self) -> u64 {
        self.get(word::SPAWNED)
    }

    /// The processes beside the workers. While the master writes them, one may be told with another's generation.
    pub fn companions(self) -> Vec<Companion> {
        let told = (0..COMPANIONS).map(|index| word::COMPANION + 2 * index);
        told.map_while(|at| match self.get(at) {
            0 => None,
            first => Some(Companion {
                role: Role::ALL[(first & 1) as usize],
                pid: first >> 1,
                generation: self.get(at + 1),
            }),
        })
        .collect()
    }

    /// How many monitors were forked, the one that asks among them.
    pub fn monitors(self) -> u64 {
        self.get(word::MONITORS)
    }

    /// How many lines of logs were dropped, in all processes.
    pub fn dropped(self) -> u64 {
        self.get(word::DROPPED)
    }

    /// How many workers have gone for this reason.
    pub fn exits(self, reason: ExitReason) -> u64 {
        self.get(word::EXITS + reason as usize)
    }

    /// How many reloads have ended so.
    pub fn reloads(self, outcome: Outcome) -> u64 {
        self.get(word::RELOADS + outcome as usize)
    }

    /// The last verdict, if there is one that can be read in one piece.
    pub fn last_verdict(self) -> Option<Verdict> {
        match self.0[word::LAST].load(Ordering::Acquire) {
            0 => None,
            generation => self.verdict(generation),
        }
    }

    /// The verdict on this generation, if it is there, and not so long ago that others have taken its place.
    pub fn verdict(self, generation: u64) -> Option<Verdict> {
        let at = Self::verdict_words(generation);
        let words = &self.0[at..at + word::VERDICT_SIZE];
        if generation == 0 || words[0].load(Ordering::Acquire) != generation {
            return None;
        }
        let outcome = Outcome::ALL[(words[1].load(Ordering::Relaxed) as usize).min(Outcome::ALL.len() - 1)];
        let verdict = Verdict {
            generation,
            outcome,
            at: words[2].load(Ordering::Relaxed),
            sentence: readable(&get_text(words, word::VERDICT_TEXT, SENTENCE)),
        };
        (words[0].load(Ordering::Acquire) == generation).then_some(verdict)
    }

    /// The generation whose verdict the holder of this ticket waits for; none as long as the master has not seen it.
    pub fn ticket(self, ticket: u64) -> Option<u64> {
        let at = Self::ticket_words(ticket);
        (self.0[at].load(Ordering::Acquire) == ticket).then(|| self.get(at + 1))
    }

    fn verdict_words(generation: u64) -> usize {
        word::VERDICT + (generation % VERDICTS as u64) as usize * word::VERDICT_SIZE
    }

    fn ticket_words(ticket: u64) -> usize {
        word::TICKET + 2 * (ticket % TICKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_kept_until_others_take_its_place() {
        let facts = Facts::new().unwrap();
        assert_eq!(facts.last_verdict(), None);
        facts.set_verdict(3, Outcome::Refused, "it is\nbroken");
        let verdict = facts.last_verdict().unwrap();
        assert_eq!((verdict.generation, verdict.outcome), (3, Outcome::Refused));
        assert_eq!(verdict.sentence, "it is\\nbroken");
        for generation in 4..3 + VERDICTS as u64 {
            facts.set_verdict(generation, Outcome::Done, "");
        }
        assert_eq!(facts.verdict(3), Some(verdict));
        facts.set_verdict(3 + VERDICTS as u64, Outcome::RolledBack, "");
        assert_eq!(facts.verdict(3), None);
        let counts = Outcome::ALL.map(|outcome| facts.reloads(outcome));
        assert_eq!(counts, [VERDICTS as u64 - 1, 1, 1]);
    }

    #[test]
    fn a_ticket_is_known_once_the_master_has_seen_it() {
        let facts = Facts::new().unwrap();
        assert_eq!(facts.ticket(7), None);
        facts.set_ticket(7, 2);
        assert_eq!((facts.ticket(7), facts.ticket(8)), (Some(2), None));
    }

    #[test]
    fn companions_are_those_that_were_told_last() {
        let facts = Facts::new().unwrap();
        let companion = |pid| Companion { role: Role::ALL[(pid % 2) as usize], pid, generation: pid + 7 };
        assert_eq!(facts.companions(), []);
        for count in [2, 20, 1, 0] {
            facts.set_companions((1..=count).map(companion));
            let expected: Vec<_> = (1..=count.min(COMPANIONS as u64)).map(companion).collect();
            assert_eq!(facts.companions(), expected);
        }
    }

    #[test]
    fn hostile_words_do_no_harm() {
        let facts = Facts::new().unwrap();
        facts.0.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        assert_eq!(facts.state(), ServerState::Stopping);
        let verdict = facts.last_verdict();
        assert!(verdict.is_none_or(|verdict| verdict.sentence.len() <= 4 * SENTENCE));
        assert_eq!(facts.uptime(), 0);
        assert_eq!(facts.companions().len(), COMPANIONS);
    }
}
