//! Waiting for conditions.
//!
//! What a newcomer would get wrong: the deadline is no measure of how long something may take, only of when to give
//! up. It is generous, because two busy cores are slow. A test that is about time measures it ([`within`]).

use std::time::{Duration, Instant};

/// After which a condition is taken to be never met.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// Waits until the condition holds, and returns how long that took.
///
/// # Panics
/// If it does not hold within [`DEADLINE`]; `what` says what was waited for.
#[track_caller]
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) -> Duration {
    match within(DEADLINE, condition) {
        Some(time) => time,
        None => panic!("waited {} s in vain for: {what}", DEADLINE.as_secs()),
    }
}

/// Waits until a count stands still, and returns it: whoever moves it has been stopped.
#[track_caller]
pub fn stopped_at(what: &str, count: impl Fn() -> u64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    wait_for(what, || {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(500)
    });
    last
}

/// Waits until the condition holds, for at most `limit`. Returns how long it took, or none.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let begin = Instant::now();
    loop {
        let elapsed = begin.elapsed();
        if condition() {
            return Some(elapsed);
        }
        if elapsed >= limit {
            return None;
        }
        std::thread::sleep(INTERVAL);
    }
}
