//! What is tried, in the order of the score card.
//!
//! Owns the list, and what a trial may say. The trials themselves: `requests` (framing and bodies), `clients` (those that
//! are slow, leave or are too many), `life` (signals, reloads, times), `reports` (what the host is told). What a newcomer
//! would get wrong: a trial never sleeps for a fixed time to let something happen; it waits for a condition with a
//! deadline. The exceptions are those whose subject is that nothing happens. And deadlines tell only when to give up: a
//! machine with fifty processes for each processor makes a good class slow, not wrong.

mod clients;
mod life;
mod reports;
mod requests;

use super::Kit;
use super::client::Trouble;

/// How a trial ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    /// It needs what the class does not claim.
    Skipped(&'static str),
    Failed(Trouble),
}

/// What a trial needs that not every class can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    KeepAlive,
    Threads,
    Futures,
}

/// One thing that is tried.
pub(super) struct Trial {
    pub(super) name: &'static str,
    needs: Needs,
    run: fn(&mut Kit) -> Result<(), Trouble>,
}

impl Trial {
    /// Runs it, if the class claims what it needs.
    pub(super) fn run(&self, kit: &mut Kit) -> Outcome {
        match self.needs {
            Needs::KeepAlive if !kit.keep_alive => Outcome::Skipped("the class does not claim keep-alive"),
            Needs::Threads if !kit.threads => Outcome::Skipped("the class does not claim threads"),
            Needs::Futures if !kit.futures => Outcome::Skipped("the class does not claim async"),
            Needs::Nothing | Needs::KeepAlive | Needs::Threads | Needs::Futures => match (self.run)(kit) {
                Ok(()) => Outcome::Passed,
                Err(why) => Outcome::Failed(why),
            },
        }
    }
}

const fn trial(name: &'static str, run: fn(&mut Kit) -> Result<(), Trouble>) -> Trial {
    Trial { name, needs: Needs::Nothing, run }
}

const fn needing(needs: Needs, name: &'static str, run: fn(&mut Kit) -> Result<(), Trouble>) -> Trial {
    Trial { name, needs, run }
}

/// Where the reference application is mounted: blocking, inline, async.
const MOUNTS: [&str; 3] = ["", "/inline", "/async"];

/// All of them.
pub(super) const TRIALS: &[Trial] = &[
    trial("answers: each kind of application is answered whole", requests::answers),
    trial("HEAD: the fields of a GET, and no body", requests::head),
    trial("heads that come octet by octet", requests::head_in_octets),
    trial("heads cut at every place", requests::head_cut_anywhere),
    trial("pipelining: several requests at once", requests::pipelining),
    trial("connections: kept and closed as they should be", requests::connections),
    needing(Needs::KeepAlive, "keep-alive: many requests on one connection", requests::kept),
    trial("bodies: with a length, chunked, in pieces of any size", requests::bodies),
    trial("unread bodies: never taken for a request", requests::unread),
    trial("Expect: 100-continue", requests::expect_continue),
    trial("half-close: who has said all still gets the answer", requests::half_close),
    trial("streams: of unknown length, for 1.1 and 1.0", requests::streams),
    trial("malformed requests: refused, and the connection closed", requests::malformed),
    trial("heads that are too long", requests::long_head),
    trial("errors: an application that fails or panics", requests::errors),
    trial("errors: a broken stream never looks whole", requests::broken_stream),
    trial("Unix sockets", clients::unix_socket),
    trial("slow clients: a long answer is read late", clients::slow_reader),
    trial("slow clients: half a head, or nothing at all", clients::half_a_head),
    needing(Needs::KeepAlive, "slow clients: a kept connection that stays idle", clients::idle),
    needing(Needs::Threads, "slow clients: others are served meanwhile", clients::others_meanwhile),
    trial("clients that leave: at any time, and nothing is left of them", clients::leavers),
    trial("descriptor pressure: more clients than descriptors", clients::descriptors),
    needing(Needs::Futures, "async: requests wait side by side", clients::side_by_side),
    trial("heartbeat: an idle worker is alive", life::heartbeat),
    trial("heartbeat: so is one that waits for a future", life::heartbeat_in_future),
    needing(Needs::Threads, "heartbeat: so is one whose application blocks", life::heartbeat_in_call),
    trial("idle: an idle worker sleeps", life::sleeps),
    trial("request_timeout: a stuck request is ended, and service goes on", life::request_timeout),
    trial("reload: no request is lost", life::reload),
    trial("max_requests: workers are replaced, and no request is lost", life::max_requests),
    trial("TERM: a request at work is answered", life::term_at_work),
    trial("TERM: whoever is queued is answered", life::term_with_queue),
    needing(Needs::KeepAlive, "TERM: a kept connection is told", life::term_while_kept),
    trial("TERM: a stuck request delays it by graceful_timeout at most", life::term_while_stuck),
    trial("INT: acts at once", life::interrupt),
    trial("reports: each request, with its size", reports::access_log),
    trial("reports: connections that are open, and none when all are closed", reports::connections),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = TRIALS.iter().map(|trial| trial.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TRIALS.len());
    }
}
