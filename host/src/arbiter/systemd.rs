//! What the state of this server is for a service manager.
//!
//! Owns the translation, and the sentence for `systemctl status`. Does not own the protocol ([`crate::systemd`]). What a
//! newcomer would get wrong: the state is read off the master once a turn, not told from each place that changes it, so
//! that no way through a reload can forget to.

use std::time::Instant;

use super::{Arbiter, Stopping};
use crate::systemd::{Doing, State};

impl Arbiter {
    /// Tells the service manager what has changed in this turn.
    pub(super) fn tell_service_manager(&mut self, now: Instant) {
        if !self.service.listens() {
            return;
        }
        let doing = if self.kin.is_second() {
            Doing::Second
        } else if self.stopping.is_some() || self.failure.is_some() {
            // With another master the service goes on.
            if self.kin.heir().is_some() { Doing::Leaving } else { Doing::Stopping }
        } else if self.serving == 0 {
            Doing::Starting
        } else if self.reload.generation().is_some() && self.newest > 1 {
            Doing::Reloading
        } else {
            Doing::Serving
        };
        let ready = self.roster.ready_workers();
        let healthy = ready > 0 || self.roster.workers() == 0 || self.stopping.is_some();
        let status = self.status(doing, ready);
        self.service.turn(&State { doing, reloads: self.newest, healthy, status }, now);
    }

    fn status(&self, doing: Doing, ready: usize) -> String {
        let workers = self.children.len();
        match doing {
            Doing::Starting => "Starting: no worker is ready yet".to_owned(),
            Doing::Stopping if self.stopping == Some(Stopping::Quick) => "Stopping at once".to_owned(),
            Doing::Stopping => format!("Stopping: {workers} workers finish what they have"),
            Doing::Leaving => format!("Leaving to another master: {workers} workers finish what they have"),
            Doing::Reloading | Doing::Serving | Doing::Second => {
                let of = self.roster.workers();
                let begin = if doing == Doing::Reloading { "Reloading, generation" } else { "Generation" };
                let refused =
                    self.reload.refused().map(|why| format!("; the last reload was refused: {why}"));
                let refused = refused.unwrap_or_default();
                format!("{begin} {} serves with {ready} of {of} workers{refused}", self.serving)
            }
        }
    }
}
