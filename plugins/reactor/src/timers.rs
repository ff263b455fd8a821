//! All timeouts of a worker in one structure: a wheel of coarse buckets.
//!
//! It owns which keys are to be looked at and when; the deadlines themselves belong to whoever has the keys. A
//! deadline that moves on, as that of a busy connection does with each request, costs nothing here: the entry
//! stays where it is, and when its bucket comes up the caller looks at the real deadline and puts it in again.
//!
//! Times are milliseconds since the worker's [`Clock`] began, never 0. A deadline is found late by at most one
//! bucket, never early.
//!
//! What a newcomer gets wrong: one revolution is about a minute, and later deadlines lie in the last bucket of
//! it. They come up early, and are put in again.

use std::time::{Duration, Instant};

/// Milliseconds in a bucket, as a shift.
const SHIFT: u32 = 6;
/// Buckets in a revolution.
const BUCKETS: usize = 1024;

/// Milliseconds since the worker's loop began; at least 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Rounded down.
    pub(crate) fn at(&self, instant: Instant) -> u64 {
        milliseconds(instant.saturating_duration_since(self.0)) + 1
    }
}

/// A duration in milliseconds, rounded down.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// What came up: a key, and the tick under which it was put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) key: u64,
    pub(crate) tick: u64,
}

pub(crate) struct Wheel {
    buckets: Vec<Vec<u64>>,
    /// One bit for each bucket that holds something.
    occupied: [u64; BUCKETS / 64],
    /// The first tick that has not come up yet.
    tick: u64,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), occupied: [0; BUCKETS / 64], tick: 0 }
    }

    /// The tick under which a deadline would be put in.
    fn tick_of(&self, deadline: u64) -> u64 {
        // A bucket comes up when all of its time has passed.
        (deadline >> SHIFT).clamp(self.tick, self.tick + BUCKETS as u64 - 1)
    }

    /// Whether an entry under `tick` comes up in time for `deadline`.
    pub(crate) fn covers(&self, tick: Option<u64>, deadline: u64) -> bool {
        tick.is_some_and(|tick| tick <= self.tick_of(deadline))
    }

    /// Puts a key in; returns its tick.
    pub(crate) fn put(&mut self, deadline: u64, key: u64) -> u64 {
        let tick = self.tick_of(deadline);
        let index = index(tick);
        self.buckets[index].push(key);
        self.occupied[index / 64] |= 1 << (index % 64);
        tick
    }

    /// When the next bucket comes up.
    pub(crate) fn next(&self) -> Option<u64> {
        let first = index(self.tick);
        // The word of the first bucket is looked at twice: from it on at first, up to it at last.
        for step in 0..=BUCKETS / 64 {
            let word = (first / 64 + step) % (BUCKETS / 64);
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (first % 64);
            } else if step == BUCKETS / 64 {
                bits &= !(u64::MAX << (first % 64));
            }
            if bits != 0 {
                let found = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (found + BUCKETS - first) % BUCKETS;
                return Some((self.tick + ahead as u64 + 1) << SHIFT);
            }
        }
        None
    }

    /// Takes out what has come up by `now`.
    pub(crate) fn take_due(&mut self, now: u64, due: &mut Vec<Due>) {
        let until = now >> SHIFT;
        while self.tick < until {
            let index = index(self.tick);
            if self.occupied[index / 64] >> (index % 64) & 1 == 1 {
                let tick = self.tick;
                due.extend(self.buckets[index].drain(..).map(|key| Due { key, tick }));
                self.occupied[index / 64] &= !(1 << (index % 64));
                // Ten thousand connections that came together should not be remembered for ever.
                self.buckets[index].shrink_to(64);
            } else if self.occupied.iter().all(|word| *word == 0) {
                self.tick = until;
                return;
            }
            self.tick += 1;
        }
    }
}

fn index(tick: u64) -> usize {
    tick as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: u64) -> Vec<u64> {
        let mut due = Vec::new();
        wheel.take_due(now, &mut due);
        due.into_iter().map(|due| due.key).collect()
    }

    #[test]
    fn nothing_comes_early_and_nothing_later_than_a_bucket() {
        let mut wheel = Wheel::new();
        for deadline in [1, 63, 64, 65, 1_000, 4_095, 4_096, 60_000] {
            wheel.put(deadline, deadline);
        }
        let mut found = Vec::new();
        for now in 1..70_000 {
            for key in due(&mut wheel, now) {
                assert!(key <= now && now <= key + 64, "{key} came at {now}");
                found.push(key);
            }
        }
        assert_eq!(found.len(), 8);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn the_next_time_is_that_of_the_first_bucket_also_round_the_corner() {
        let mut wheel = Wheel::new();
        assert!(due(&mut wheel, 65_000).is_empty());
        wheel.put(100_000, 1);
        let next = wheel.next().unwrap();
        assert!((100_000..=100_064).contains(&next), "{next}");
        wheel.put(65_100, 2);
        let next = wheel.next().unwrap();
        assert!((65_100..=65_164).contains(&next), "{next}");
        assert_eq!(due(&mut wheel, next), [2]);
        // A whole revolution ahead, less one bucket: behind the first one in the same word of bits.
        wheel.put(u64::MAX / 8, 3);
        assert!(wheel.next().is_some());
    }

    #[test]
    fn what_is_beyond_a_revolution_comes_up_to_be_put_in_again() {
        let mut wheel = Wheel::new();
        let deadline = 400_000;
        wheel.put(deadline, 7);
        let mut rounds = 0;
        let now = loop {
            let now = wheel.next().unwrap();
            assert_eq!(due(&mut wheel, now), [7]);
            if now >= deadline {
                break now;
            }
            rounds += 1;
            wheel.put(deadline, 7);
        };
        assert!((5..=7).contains(&rounds), "{rounds}");
        assert!(now <= deadline + 64);
    }

    #[test]
    fn a_deadline_that_moves_on_is_covered_by_the_old_entry() {
        let mut wheel = Wheel::new();
        let tick = wheel.put(2_000, 1);
        assert!(wheel.covers(Some(tick), 2_000) && wheel.covers(Some(tick), 3_000));
        assert!(!wheel.covers(Some(tick), 1_000) && !wheel.covers(None, 1_000));
    }

    #[test]
    fn a_past_deadline_comes_up_at_once() {
        let mut wheel = Wheel::new();
        due(&mut wheel, 10_000);
        wheel.put(5, 1);
        assert_eq!(due(&mut wheel, 10_100), [1]);
    }
}
