//! The requests that a worker is at: a small table in its slot, written without a lock, read as untrusted.
//!
//! Owns the entries: claiming one, naming it, freeing it, and reading what may be torn. Does not own what a request's
//! age means ([`crate::runtime`]) nor the words around the table ([`crate::scoreboard`]).
//!
//! An entry is claimed by setting its bit in the first word, so that only one thread writes it. Its sequence is odd while
//! that thread writes; a reader takes what it read only if the sequence was even and the same before and after.
//!
//! What a newcomer would get wrong: the table is for people who look for what is stuck, not for counting. When all
//! entries are taken, further requests are only counted, and work as well as any other.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use super::{get_text, put_text, readable};
use crate::sys::fd::monotonic_ns;

/// Requests that are tracked at once.
pub(super) const ENTRIES: usize = 32;
/// The low bits of a token say which entry it has; [`ENTRIES`] is none. What is above them is when it began.
const INDEX: u64 = 0x3f;
/// Octets of a method, and of a target.
const METHOD: usize = 24;
const TARGET: usize = 256;

/// Words of the table. Each text begins with a word for its length.
const CLAIMED: usize = 0;
const UNTRACKED: usize = 1;
const FIRST: usize = 8;
/// Words of an entry.
const SEQUENCE: usize = 0;
const TOKEN: usize = 1;
const METHOD_TEXT: usize = 2;
const TARGET_TEXT: usize = METHOD_TEXT + 1 + METHOD / 8;
/// A multiple of a cache line, so that two threads never write to the same one.
const ENTRY: usize = (TARGET_TEXT + 1 + TARGET / 8).next_multiple_of(8);

/// How many words a table takes.
pub(super) const WORDS: usize = FIRST + ENTRIES * ENTRY;

/// When the request of this token began, on the monotonic clock, to 64 ns.
pub fn began(token: u64) -> u64 {
    token & !INDEX
}

/// The next token in time, for one that is taken already.
pub fn next_token(token: u64) -> u64 {
    token + INDEX + 1
}

/// Whether the table knows the name of this token's request as long as it is at work.
pub fn is_tracked(token: u64) -> bool {
    (token & INDEX) < ENTRIES as u64
}

/// The table of one worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requests<'s>(pub(super) &'s [AtomicU64]);

impl<'s> Requests<'s> {
    /// Worker: a request begins. Its token is never 0.
    pub(super) fn begin(self, method: &[u8], target: &[u8], now: u64) -> u64 {
        let claimed = &self.0[CLAIMED];
        let mut taken = claimed.load(Ordering::Relaxed);
        let index = loop {
            let free = taken.trailing_ones() as usize;
            if free >= ENTRIES {
                self.0[UNTRACKED].fetch_add(1, Ordering::Relaxed);
                return token(now, ENTRIES);
            }
            // Acquire: whoever had the entry before has written its last word.
            let claim = taken | 1 << free;
            match claimed.compare_exchange_weak(taken, claim, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break free,
                Err(other) => taken = other,
            }
        };
        let token = token(now, index);
        let entry = self.entry(index);
        let sequence = entry[SEQUENCE].load(Ordering::Relaxed) | 1;
        entry[SEQUENCE].store(sequence, Ordering::Relaxed);
        // A reader that sees a word from below also sees the odd sequence.
        fence(Ordering::Release);
        entry[TOKEN].store(token, Ordering::Relaxed);
        put_text(entry, METHOD_TEXT, METHOD, method);
        put_text(entry, TARGET_TEXT, TARGET, target);
        entry[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Release);
        token
    }

    /// Worker: it ended. Nothing happens for a token that was ended before.
    pub(super) fn end(self, token: u64) {
        let index = (token & INDEX) as usize;
        if index >= ENTRIES {
            self.0[UNTRACKED].fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let ours = &self.entry(index)[TOKEN];
        if ours.load(Ordering::Relaxed) == token {
            ours.store(0, Ordering::Relaxed);
            self.0[CLAIMED].fetch_and(!(1 << index), Ordering::Release);
        }
    }

    /// Master: nobody lives here any more.
    pub(super) fn clear(self) {
        self.0[CLAIMED].store(0, Ordering::Relaxed);
        self.0[UNTRACKED].store(0, Ordering::Relaxed);
    }

    /// How many are at work.
    pub(super) fn count(self) -> u64 {
        // More ended than began is a word that somebody scribbled over.
        let untracked = self.0[UNTRACKED].load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned();
        u64::from(self.claimed().count_ones()).saturating_add(untracked)
    }

    /// The one that began first, if any can be read in one piece.
    pub(super) fn oldest(self) -> Option<CurrentRequest> {
        let claimed = self.claimed();
        let entries = (0..ENTRIES).filter(|index| claimed >> index & 1 == 1);
        let oldest = entries.filter_map(|index| self.read(index)).min_by_key(|request| request.began)?;
        Some(CurrentRequest { others: self.count().saturating_sub(1), ..oldest })
    }

    /// Method and target of this request, if it is tracked.
    pub(super) fn name(self, token: u64) -> Option<String> {
        let index = (token & INDEX) as usize;
        let ours = index < ENTRIES && self.entry(index)[TOKEN].load(Ordering::Relaxed) == token;
        ours.then(|| self.read(index)).flatten().map(|request| request.to_string())
    }

    fn claimed(self) -> u64 {
        self.0[CLAIMED].load(Ordering::Acquire) & ((1 << ENTRIES) - 1)
    }

    fn entry(self, index: usize) -> &'s [AtomicU64] {
        &self.0[FIRST + index * ENTRY..][..ENTRY]
    }

    fn read(self, index: usize) -> Option<CurrentRequest> {
        let entry = self.entry(index);
        let before = entry[SEQUENCE].load(Ordering::Acquire);
        let token = entry[TOKEN].load(Ordering::Relaxed);
        let method = readable(&get_text(entry, METHOD_TEXT, METHOD));
        let target = readable(&get_text(entry, TARGET_TEXT, TARGET));
        // The reads above must not be done after the one below.
        fence(Ordering::Acquire);
        let after = entry[SEQUENCE].load(Ordering::Relaxed);
        let whole = before == after && before.is_multiple_of(2) && token != 0;
        whole.then_some(CurrentRequest { method, target, began: began(token), others: 0 })
    }
}

fn token(now: u64, index: usize) -> u64 {
    // The clock counts from the start of the machine; the low bits alone are no token.
    now.max(INDEX + 1) & !INDEX | index as u64
}

/// The request that a worker has been at for the longest time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentRequest {
    method: String,
    target: String,
    began: u64,
    others: u64,
}

impl CurrentRequest {
    /// How long it has been at it.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(monotonic_ns().saturating_sub(self.began))
    }

    /// For a log line: `GET /slow for 31.0 s, and 3 others`.
    pub fn account(&self) -> String {
        format!("{self} for {:.1} s{}", self.age().as_secs_f64(), self.others())
    }

    /// How many others the worker is at: `, and 3 others`; empty if none.
    pub fn others(&self) -> String {
        match self.others {
            0 => String::new(),
            1 => ", and 1 other".to_owned(),
            others => format!(", and {others} others"),
        }
    }
}

impl fmt::Display for CurrentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn table() -> Vec<AtomicU64> {
        std::iter::repeat_with(AtomicU64::default).take(WORDS).collect()
    }

    #[test]
    fn the_oldest_is_named_and_the_others_are_counted() {
        let words = table();
        let requests = Requests(&words);
        assert_eq!((requests.oldest(), requests.count()), (None, 0));
        let slow = requests.begin(b"GET", b"/slow", 1000);
        let quick = requests.begin(b"POST", b"/quick", 2000);
        let found = requests.oldest().unwrap();
        assert_eq!((found.to_string().as_str(), found.others), ("GET /slow", 1));
        assert!(found.account().ends_with(" s, and 1 other"), "{}", found.account());
        requests.end(slow);
        assert_eq!(requests.oldest().unwrap().to_string(), "POST /quick");
        // Its entry is taken by a later one, which is not older for that.
        let later = requests.begin(b"GET", b"/later", 3000);
        assert_eq!(later & INDEX, slow & INDEX);
        assert_eq!(requests.oldest().unwrap().to_string(), "POST /quick");
        assert_eq!(requests.name(later).as_deref(), Some("GET /later"));
        assert_eq!(requests.name(slow), None);
        requests.end(quick);
        requests.end(later);
        assert_eq!((requests.oldest(), requests.count()), (None, 0));
    }

    #[test]
    fn what_ended_twice_takes_nobody_elses_entry() {
        let words = table();
        let requests = Requests(&words);
        let first = requests.begin(b"GET", b"/1", 1000);
        requests.end(first);
        let second = requests.begin(b"GET", b"/2", 2000);
        requests.end(first);
        assert_eq!(requests.name(second).as_deref(), Some("GET /2"));
    }

    #[test]
    fn more_than_the_table_holds_are_counted() {
        let words = table();
        let requests = Requests(&words);
        let tokens: Vec<u64> = (0..40).map(|at| requests.begin(b"GET", b"/", 1000 * (at + 1))).collect();
        assert_eq!(requests.count(), 40);
        assert_eq!(requests.oldest().unwrap().others, 39);
        assert_eq!(requests.name(tokens[39]), None);
        tokens.iter().for_each(|token| requests.end(*token));
        assert_eq!(requests.count(), 0);
    }

    #[test]
    fn a_token_is_never_zero_and_tells_when_it_began() {
        let words = table();
        let requests = Requests(&words);
        for now in [0, 1, 63, 64, 1 << 40] {
            let token = requests.begin(b"GET", b"/", now);
            assert_ne!(token, 0);
            assert!(began(token) <= now.max(64) && now < began(token) + 64 || now < 64);
            assert!(began(next_token(token)) > began(token));
            requests.end(token);
        }
    }

    #[test]
    fn an_entry_that_is_being_written_is_not_read() {
        let words = table();
        let requests = Requests(&words);
        requests.begin(b"GET", b"/", 1000);
        words[FIRST + SEQUENCE].fetch_add(1, Ordering::Relaxed);
        assert_eq!(requests.oldest(), None);
    }

    /// Eight threads begin and end, each under a method and a target of its own; a ninth reads. What it reads belongs
    /// together.
    #[test]
    fn threads_share_the_table_and_nothing_is_torn() {
        let words = table();
        let start = Barrier::new(9);
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let (words, start) = (&words, &start);
                scope.spawn(move || {
                    let name = vec![b'a' + thread; 20 + 10 * usize::from(thread)];
                    start.wait();
                    for now in 1..20_000 {
                        let token = Requests(words).begin(&name[..8], &name, 64 * now);
                        Requests(words).end(token);
                    }
                });
            }
            start.wait();
            for _ in 0..20_000 {
                let Some(found) = Requests(&words).oldest() else { continue };
                let letter = found.method.as_bytes()[0];
                assert!(found.target.bytes().all(|octet| octet == letter), "{found}");
                assert_eq!(found.target.len(), 20 + 10 * usize::from(letter - b'a'), "{found}");
            }
        });
        assert_eq!(Requests(&words).count(), 0);
    }
}
