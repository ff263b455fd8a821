//! What workers have counted, as whoever shows it reads it.
//!
//! Owns the buckets of the histograms and the typed view of the words. Does not own the words' place
//! ([`crate::scoreboard`]) nor any format of metrics.
//!
//! What a newcomer would get wrong: the words are read one by one while workers count on, so that sums may differ by what
//! was counted meanwhile. None ever falls, though, over all restarts of workers, as long as the master lives.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of the time that requests take: up to 16, 32, 64 … µs, the last but one 67.1 s, and all above.
pub const LATENCY_BUCKETS: usize = 24;
/// The upper bound of the first of them is 2 to this power.
const LATENCY_FIRST: u32 = 4;
/// Buckets of the time in the queue: up to 1, 2, 4 … ms, the last but one 16.4 s, and all above.
pub const QUEUE_BUCKETS: usize = 16;
const QUEUE_FIRST: u32 = 0;

/// Upper bounds in microseconds, inclusive, of all latency buckets but the last, which has none.
pub fn latency_bounds() -> impl Iterator<Item = u64> {
    (0..LATENCY_BUCKETS as u32 - 1).map(|bucket| 1 << (LATENCY_FIRST + bucket))
}

/// Upper bounds in milliseconds, inclusive, of all queue buckets but the last, which has none.
pub fn queue_bounds() -> impl Iterator<Item = u64> {
    (0..QUEUE_BUCKETS as u32 - 1).map(|bucket| 1 << (QUEUE_FIRST + bucket))
}

/// The latency bucket for this many microseconds.
pub(super) fn latency_bucket(micros: u64) -> usize {
    bucket(micros, LATENCY_FIRST, LATENCY_BUCKETS)
}

/// The queue bucket for this many milliseconds.
pub(super) fn queue_bucket(millis: u64) -> usize {
    bucket(millis, QUEUE_FIRST, QUEUE_BUCKETS)
}

/// The first of `buckets` whose bound, 2 to the power of `first` and doubling, is not below `value`.
fn bucket(value: u64, first: u32, buckets: usize) -> usize {
    let power = u64::BITS - value.saturating_sub(1).leading_zeros();
    (power.saturating_sub(first) as usize).min(buckets - 1)
}

/// What was measured, by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram<const BUCKETS: usize> {
    /// How many fell into each bucket, and into no smaller one.
    pub buckets: [u64; BUCKETS],
    /// Of all that was measured, in the unit of the bounds.
    pub sum: u64,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0 }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    /// How many were measured.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, bucket| sum.wrapping_add(*bucket))
    }

    /// How many were at most as large as each bound; the last is all of them.
    pub fn cumulative(&self) -> [u64; BUCKETS] {
        let mut sum = 0_u64;
        self.buckets.map(|bucket| {
            sum = sum.wrapping_add(bucket);
            sum
        })
    }

    fn add(&mut self, other: &Self) {
        for (sum, bucket) in self.buckets.iter_mut().zip(other.buckets) {
            *sum = sum.wrapping_add(bucket);
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// What was counted on one slot, or on all, over the life of the master. Sums wrap, as a scribbled word must not
/// panic; counters that count get nowhere near.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections.
    pub accepted: u64,
    /// Answers of class 1xx to 5xx; the sixth are requests that got none.
    pub statuses: [u64; 6],
    /// Octets received, heads included.
    pub bytes_in: u64,
    /// Octets of response bodies.
    pub bytes_out: u64,
    /// Microseconds from a whole head to the end of the request's answer; see [`latency_bounds`]. What could not be
    /// parsed is not in it.
    pub latency: Histogram<LATENCY_BUCKETS>,
    /// Milliseconds that clients had waited when they were accepted, of every sixteenth TCP connection; see
    /// [`queue_bounds`].
    pub queue: Histogram<QUEUE_BUCKETS>,
    /// The longest of them.
    pub longest_queue: u64,
}

impl Counters {
    /// Requests that ended, those included that could not be parsed.
    pub fn requests(&self) -> u64 {
        self.statuses.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Adds what another slot has counted.
    pub fn add(&mut self, other: &Self) {
        self.accepted = self.accepted.wrapping_add(other.accepted);
        for (sum, count) in self.statuses.iter_mut().zip(other.statuses) {
            *sum = sum.wrapping_add(count);
        }
        self.bytes_in = self.bytes_in.wrapping_add(other.bytes_in);
        self.bytes_out = self.bytes_out.wrapping_add(other.bytes_out);
        self.latency.add(&other.latency);
        self.queue.add(&other.queue);
        self.longest_queue = self.longest_queue.max(other.longest_queue);
    }
}

/// `N` words as they are now.
pub(super) fn words<const N: usize>(from: &[AtomicU64]) -> [u64; N] {
    std::array::from_fn(|index| from[index].load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        for (index, bound) in latency_bounds().enumerate() {
            assert_eq!((latency_bucket(bound), latency_bucket(bound + 1)), (index, index + 1));
        }
        for (index, bound) in queue_bounds().enumerate() {
            assert_eq!((queue_bucket(bound), queue_bucket(bound + 1)), (index, index + 1));
        }
        assert_eq!((latency_bucket(0), latency_bucket(u64::MAX)), (0, LATENCY_BUCKETS - 1));
        assert_eq!((queue_bucket(0), queue_bucket(u64::MAX)), (0, QUEUE_BUCKETS - 1));
        assert_eq!((latency_bounds().next(), latency_bounds().last()), (Some(16), Some(67_108_864)));
        assert_eq!((queue_bounds().next(), queue_bounds().last()), (Some(1), Some(16_384)));
    }

    #[test]
    fn sums_are_of_all_slots_and_never_panic() {
        let mut latency = Histogram::default();
        latency.buckets[1] = 2;
        latency.buckets[3] = 1;
        let one = Counters {
            accepted: u64::MAX,
            statuses: [0, 3, 0, 1, 0, 1],
            latency,
            longest_queue: 7,
            ..Counters::default()
        };
        let mut sum = Counters { accepted: 1, longest_queue: 2, ..Counters::default() };
        sum.add(&one);
        sum.add(&one);
        assert_eq!((sum.accepted, sum.requests(), sum.longest_queue), (u64::MAX, 10, 7));
        assert_eq!((sum.latency.count(), sum.latency.cumulative()[..4].to_vec()), (6, vec![0, 4, 4, 6]));
    }
}
