//! The `Date` line, formatted at most once per second.
//!
//! It owns the text and nothing else; the time comes from the caller, so that tests and event loops decide
//! how often the clock is read.
//!
//! What a newcomer gets wrong: `Date` is wall-clock time and may go back; the cache therefore compares for
//! equality of seconds, not for progress.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PREFIX: &[u8] = b"Date: ";
const LINE: usize = PREFIX.len() + 29 + 2;
/// The last second of the year 9999; IMF-fixdate has four digits for the year (RFC 9110 section 5.6.7).
const LAST: u64 = 253_402_300_799;

/// The current date as a field line. One per event loop or thread.
#[derive(Clone, Debug)]
pub struct DateCache {
    second: u64,
    line: [u8; LINE],
}

impl DateCache {
    /// A cache that holds `now`.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        let mut cache = Self { second: u64::MAX, line: [0; LINE] };
        cache.update(now);
        cache
    }

    /// Sets the date; costs a comparison if the second is the same. Times before 1970 count as 1970.
    pub fn update(&mut self, now: SystemTime) {
        self.set(now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    }

    /// As [`DateCache::update`], by the seconds since 1970.
    pub(crate) fn set(&mut self, second: u64) {
        let second = second.min(LAST);
        if second == self.second {
            return;
        }
        self.second = second;
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(second));
        let mut line = &mut self.line[..];
        write!(line, "Date: {date}\r\n").expect("an IMF-fixdate has 29 octets");
    }

    /// What the date was set to.
    pub(crate) fn second(&self) -> u64 {
        self.second
    }

    /// `Date: …` with its CRLF.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The date alone.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.line[PREFIX.len()..LINE - 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_follows_the_clock_both_ways() {
        let mut cache = DateCache::new(UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(cache.line(), b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        cache.update(UNIX_EPOCH + Duration::from_millis(784_111_778_999));
        assert_eq!(cache.value(), b"Sun, 06 Nov 1994 08:49:38 GMT");
        cache.update(UNIX_EPOCH + Duration::from_secs(784_111_777));
        assert_eq!(cache.value(), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn impossible_times_are_bounded() {
        assert_eq!(
            DateCache::new(UNIX_EPOCH - Duration::from_secs(5)).value(),
            b"Thu, 01 Jan 1970 00:00:00 GMT"
        );
        let far = UNIX_EPOCH + Duration::from_secs(LAST + 10);
        assert_eq!(DateCache::new(far).value(), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
