//! Who lives on the scoreboard: one view of each slot in use, for those who show all of them.
//!
//! Owns the judgement of what a worker is at, from its words alone. Does not own the roster's: the master knows better
//! whom it has told what. A newcomer might count slots instead: most have never been used, and reading them costs memory.

use std::sync::atomic::Ordering;

use super::{CurrentRequest, Scoreboard, SlotView, State, bound, word};
use crate::sys::fd::monotonic_ns;

/// What a worker is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing {
    /// It cannot serve yet, or may not.
    Booting,
    /// It serves, and has no request at work.
    Idle,
    /// It serves, and is at a request.
    Busy,
    /// It accepts nobody, and finishes what it has.
    Draining,
}

impl Doing {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Booting, Self::Idle, Self::Busy, Self::Draining];

    /// As `status` and the metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Draining => "draining",
        }
    }
}

/// One worker, as its slot shows it.
#[derive(Debug, Clone)]
pub struct Life {
    /// Its process.
    pub pid: u64,
    /// Its number in order of birth.
    pub age: u64,
    /// What it runs.
    pub generation: u64,
    /// What it is at.
    pub doing: Doing,
    /// How long it has lived, in nanoseconds.
    pub uptime: u64,
    /// Requests that it has ended.
    pub requests: u64,
    /// Requests at work.
    pub active: u64,
    /// Connections that it holds.
    pub connections: u64,
    /// The request that it has been at for the longest time.
    pub request: Option<CurrentRequest>,
    /// What it does while no request says it.
    pub stage: String,
}

impl Scoreboard {
    /// Monitor: everybody who lives now, in the order of slots. A process between fork and its entry is not among them.
    pub fn lives(&self) -> Vec<Life> {
        (0..self.bound(bound::LIVES)).filter_map(|slot| self.view(slot).life()).collect()
    }
}

impl SlotView {
    fn life(&self) -> Option<Life> {
        let load = |word: usize| self.words[word].load(Ordering::Acquire);
        let (pid, state) = (load(word::PID), load(word::STATE));
        if pid == 0 || state == 0 {
            return None;
        }
        let active = self.active_requests();
        let doing = if state == State::Draining as u64 {
            Doing::Draining
        } else if load(word::SERVING) == 0 {
            Doing::Booting
        } else if active == 0 {
            Doing::Idle
        } else {
            Doing::Busy
        };
        Some(Life {
            pid,
            age: load(word::AGE),
            generation: load(word::GENERATION),
            doing,
            uptime: monotonic_ns().saturating_sub(load(word::BORN)),
            requests: self.counters().requests().wrapping_sub(load(word::REQUESTS_BEFORE)),
            active,
            connections: self.open_connections(),
            request: self.current_request(),
            stage: self.stage(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Pid;

    #[test]
    fn a_life_goes_from_booting_to_draining_and_counts_its_own() {
        let board = Scoreboard::new(3).unwrap();
        for _ in 0..2 {
            let writer = board.claim(1, 7, 2);
            assert!(board.lives().is_empty(), "not entered yet");
            board.view(1).set_pid(Pid::from_raw(99));
            let only = || {
                let mut lives = board.lives();
                assert_eq!(lives.len(), 1);
                lives.remove(0)
            };
            assert_eq!((only().doing, only().requests), (Doing::Booting, 0));
            writer.set_ready();
            assert_eq!(only().doing, Doing::Booting, "it may not serve yet");
            writer.set_serving();
            assert_eq!(only().doing, Doing::Idle);
            let token = writer.begin_request(b"GET", b"/", 64);
            assert_eq!((only().doing, only().active), (Doing::Busy, 1));
            writer.end_request(token);
            writer.count_request(200, 1, 1, None);
            assert_eq!((only().doing, only().requests), (Doing::Idle, 1));
            writer.set_draining();
            assert_eq!(only().doing, Doing::Draining);
            assert_eq!((only().pid, only().age, only().generation), (99, 7, 2));
            board.release(1);
            assert!(board.lives().is_empty());
        }
    }
}
