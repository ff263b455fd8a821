//! A loop that the kernel does not tell what happened: poll(2) or the reading of signals has failed.
//!
//! Owns when to pause instead of waiting, and how often to say why. Does not own the pause: the master sleeps in one
//! place. What a newcomer would get wrong: what cannot be read stays readable, so that going on as if nothing had happened
//! is a busy loop that fills the disk with its complaints.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

/// Between complaints.
const COMPLAIN: Duration = Duration::from_secs(5);
/// Instead of a wait.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Impaired {
    complained: Cell<Option<Instant>>,
    pause: Cell<bool>,
}

impl Impaired {
    /// Something that the loop lives by has failed: it is tried again after a pause.
    pub(super) fn by(&self, attempt: &str, error: &io::Error, now: Instant) {
        self.pause.set(true);
        if self.is_to_be_said(now) {
            log::error!("cannot {attempt}: {error}; trying again until that goes (is memory short?)");
        }
    }

    /// Whether to pause instead of waiting, this once.
    pub(super) fn pauses(&self) -> bool {
        self.pause.take()
    }

    fn is_to_be_said(&self, now: Instant) -> bool {
        let due = self.complained.get().is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN);
        if due {
            self.complained.set(Some(now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_a_pause_and_few_are_said() {
        let (impaired, now) = (Impaired::default(), Instant::now());
        assert!(!impaired.pauses());
        let error = io::Error::from_raw_os_error(nix::libc::ENOMEM);
        impaired.by("read signals", &error, now);
        assert!(impaired.pauses() && !impaired.pauses());
        assert!(!impaired.is_to_be_said(now + COMPLAIN / 2));
        assert!(impaired.is_to_be_said(now + COMPLAIN));
        impaired.by("read signals", &error, now + COMPLAIN);
        assert!(impaired.pauses());
    }
}
