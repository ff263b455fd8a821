//! Which requests are over their time, and what is due when.
//!
//! Owns the decision; does nothing. Time is passed in, requests are tokens. The watch thread asks and acts
//! ([`crate::runtime`]).
//!
//! | request   | is over its time       | a second later               | ends    | is abandoned | is recovered |
//! |-----------|------------------------|------------------------------|---------|--------------|--------------|
//! | running   | the class is told once | the process ends with it     | gone    | abandoned    | –            |
//! | abandoned | –                      | –                            | –       | –            | gone         |
//!
//! What a newcomer would get wrong: an abandoned call that is answered ends as any other request does, for the log and
//! the counters; its thread is still inside the application, and is no longer a matter of time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::scoreboard::{began, next_token};

/// How long after a request's expiry a class that can neither end nor abandon it may go on.
const GRACE: Duration = Duration::from_secs(1);

/// The requests at work, if their time is bounded.
#[derive(Debug)]
pub(super) struct Expiry {
    timeout: Option<Duration>,
    /// By token, hence in the order in which they began. Empty without a timeout.
    running: BTreeMap<u64, Running>,
    /// Calls that are inside an application although their clients were dealt with.
    abandoned: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Running {
    /// Method and target, if the scoreboard has no room for them.
    name: Option<String>,
    /// When the class was told that it is over its time.
    announced: Option<u64>,
}

/// A request that is over its time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) token: u64,
    pub(super) name: Option<String>,
    pub(super) age: Duration,
    /// It did not end after it was announced either.
    pub(super) beyond: bool,
}

/// How long ago the request of this token began.
pub(super) fn age_of(token: u64, now: u64) -> Duration {
    since(began(token), now)
}

fn since(then: u64, now: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}

impl Expiry {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, running: BTreeMap::new(), abandoned: BTreeSet::new() }
    }

    /// A request begins; returns the token it has now, which is another one if this was taken, and whether it is the
    /// only one at work.
    pub(super) fn begin(&mut self, mut token: u64, name: Option<String>) -> (u64, bool) {
        // Requests for which the scoreboard has no room differ in nothing but their time.
        while self.running.contains_key(&token) || self.abandoned.contains(&token) {
            token = next_token(token);
        }
        self.running.insert(token, Running { name, announced: None });
        (token, self.running.len() == 1)
    }

    /// It ended; whether its call has returned, too.
    pub(super) fn end(&mut self, token: u64) -> bool {
        self.running.remove(&token);
        !self.abandoned.contains(&token)
    }

    /// Its call does not return. Returns its name, if it is kept here.
    pub(super) fn abandon(&mut self, token: u64) -> Option<String> {
        self.abandoned.insert(token);
        self.running.remove(&token)?.name
    }

    /// It returned after all; whether it was abandoned.
    pub(super) fn recover(&mut self, token: u64) -> bool {
        self.abandoned.remove(&token)
    }

    /// Whether a call is still inside an application that nobody waits for.
    pub(super) fn has_abandoned(&self) -> bool {
        !self.abandoned.is_empty()
    }

    /// How long nothing will be due, if anything ever.
    pub(super) fn rest(&self, now: u64) -> Option<Duration> {
        let timeout = self.timeout?;
        let first = self.running.values().find_map(|request| request.announced);
        let next = self.running.iter().find(|(_, request)| request.announced.is_none());
        let end = first.map(|announced| GRACE.saturating_sub(since(announced, now)));
        let announcement = next.map(|(token, _)| timeout.saturating_sub(age_of(*token, now)));
        end.into_iter().chain(announcement).min()
    }

    /// What has become due: requests that the class is to be told about, once each, and those that it was told about and
    /// could not let go of.
    pub(super) fn take_due(&mut self, now: u64) -> Vec<Late> {
        let Some(timeout) = self.timeout else { return Vec::new() };
        let mut due = Vec::new();
        for (token, request) in &mut self.running {
            let age = age_of(*token, now);
            if age < timeout {
                break; // Those that follow began later.
            }
            let announced = *request.announced.get_or_insert(now);
            let beyond = since(announced, now) >= GRACE;
            if beyond || announced == now {
                due.push(Late { token: *token, name: request.name.clone(), age, beyond });
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn expiry() -> Expiry {
        Expiry::new(Some(Duration::from_secs(2)))
    }

    /// (token, beyond) of what is due.
    fn due(expiry: &mut Expiry, now: u64) -> Vec<(u64, bool)> {
        expiry.take_due(now).into_iter().map(|late| (late.token, late.beyond)).collect()
    }

    #[test]
    fn each_late_request_is_announced_once_and_then_ends_the_process() {
        let mut expiry = expiry();
        let (first, alone) = expiry.begin(SECOND, Some("GET /1".to_owned()));
        assert!(alone);
        let (second, alone) = expiry.begin(2 * SECOND, None);
        assert!(!alone);
        assert_eq!(expiry.rest(SECOND), Some(Duration::from_secs(2)));
        assert_eq!(due(&mut expiry, 2 * SECOND), []);
        assert_eq!(
            expiry.take_due(3 * SECOND + 64).into_iter().map(|late| late.name).collect::<Vec<_>>(),
            [Some("GET /1".to_owned())]
        );
        assert!(expiry.rest(3 * SECOND + 64).unwrap() <= Duration::from_secs(1), "the second is next");
        assert_eq!(due(&mut expiry, 3 * SECOND + SECOND / 2), []);
        assert_eq!(due(&mut expiry, 4 * SECOND + 64), [(first, true), (second, false)]);
        assert!(expiry.end(first));
        assert_eq!(expiry.rest(4 * SECOND + 64), Some(Duration::from_secs(1)));
        assert_eq!(due(&mut expiry, 6 * SECOND), [(second, true)]);
    }

    #[test]
    fn the_second_begins_when_the_class_was_told() {
        let mut expiry = expiry();
        let (token, _) = expiry.begin(SECOND, None);
        // The watch thread did not run for long.
        assert_eq!(due(&mut expiry, 60 * SECOND), [(token, false)]);
        assert_eq!(expiry.rest(60 * SECOND), Some(GRACE));
        assert_eq!(due(&mut expiry, 60 * SECOND + 1), []);
        assert_eq!(due(&mut expiry, 61 * SECOND), [(token, true)]);
    }

    #[test]
    fn what_ended_or_was_abandoned_is_not_due() {
        let mut expiry = expiry();
        let (ended, _) = expiry.begin(SECOND, None);
        let (stuck, _) = expiry.begin(SECOND, Some("GET /stuck".to_owned()));
        assert_ne!(ended, stuck, "two of one moment have two tokens");
        assert!(expiry.end(ended));
        assert_eq!(expiry.abandon(stuck).as_deref(), Some("GET /stuck"));
        assert_eq!((due(&mut expiry, 60 * SECOND), expiry.rest(60 * SECOND)), (Vec::new(), None));
        assert!(expiry.has_abandoned());
        assert!(!expiry.end(stuck), "answered, and still inside the application");
        assert!(expiry.recover(stuck) && !expiry.recover(stuck) && !expiry.has_abandoned());
    }

    #[test]
    fn a_token_that_is_not_at_work_does_no_harm() {
        let mut expiry = expiry();
        assert!(expiry.end(7) && !expiry.recover(7));
        assert_eq!(expiry.abandon(64), None);
        assert!(expiry.has_abandoned() && expiry.recover(64));
    }

    #[test]
    fn without_a_timeout_nothing_is_ever_due() {
        let mut expiry = Expiry::new(None);
        expiry.begin(SECOND, None);
        assert_eq!((expiry.rest(60 * SECOND), due(&mut expiry, 60 * SECOND)), (None, Vec::new()));
    }
}
