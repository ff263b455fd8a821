//! What the monitor knows at one moment, and whether the server is ready to be sent requests.
//!
//! Owns the judgement. Does not own its form on the wire. What a newcomer would get wrong: ready is no property of a
//! worker but of the whole, and says what is to come: a server that has decided to stop is not ready although it serves
//! on, so that whoever sends requests goes elsewhere before the last worker stops.

use crate::scoreboard::{Counters, Doing, Facts, Life, Scoreboard, ServerState};

/// The queue of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Where it listens.
    pub address: String,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// How many may.
    pub room: u32,
}

/// Everything that the pages are made of.
#[derive(Debug)]
pub struct Snapshot {
    /// The master's words.
    pub facts: Facts,
    /// The workers.
    pub lives: Vec<Life>,
    /// What all workers have counted.
    pub totals: Counters,
    /// The listeners whose queue the kernel tells.
    pub queues: Vec<Queue>,
}

impl Snapshot {
    /// What is there now.
    pub fn take(scoreboard: &Scoreboard, queues: Vec<Queue>) -> Self {
        Self { facts: scoreboard.facts(), lives: scoreboard.lives(), totals: scoreboard.totals(), queues }
    }

    /// How many workers are at this.
    pub fn workers(&self, doing: Doing) -> usize {
        self.lives.iter().filter(|life| life.doing == doing).count()
    }

    /// Why the server is not ready; none if it is.
    pub fn unready(&self) -> Option<String> {
        let state = self.facts.state();
        if state != ServerState::Serving {
            return Some(format!("the server is {}", state.as_str()));
        }
        let failing = self.facts.failing();
        if failing > 0 {
            return Some(format!("{failing} workers die again and again before they are ready"));
        }
        if self.workers(Doing::Idle) + self.workers(Doing::Busy) == 0 {
            return Some("no worker serves".to_owned());
        }
        let full = self.queues.iter().find(|queue| queue.waiting >= queue.room.max(1))?;
        Some(format!("the queue of {} is full: {} connections wait", full.address, full.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Pid;

    fn queue(waiting: u32, room: u32) -> Vec<Queue> {
        vec![Queue { address: "http://127.0.0.1:80".to_owned(), waiting, room }]
    }

    #[test]
    fn each_reason_is_said_and_goes_away() {
        let board = Scoreboard::new(3).unwrap();
        let facts = board.facts();
        let unready = |queues| Snapshot::take(&board, queues).unready().unwrap_or_default();
        assert_eq!(unready(vec![]), "the server is starting");
        facts.publish(ServerState::Serving, 1, 2, 0);
        let worker = board.claim(0, 1, 1);
        board.view(0).set_pid(Pid::from_raw(9));
        worker.set_ready();
        assert_eq!(unready(vec![]), "no worker serves");
        worker.set_serving();
        assert_eq!(unready(queue(4, 5)), "");
        assert_eq!(unready(queue(5, 5)), "the queue of http://127.0.0.1:80 is full: 5 connections wait");
        assert_eq!(unready(queue(0, 0)), "");
        facts.publish(ServerState::Serving, 1, 2, 1);
        assert_eq!(unready(vec![]), "1 workers die again and again before they are ready");
        facts.publish(ServerState::Delaying, 1, 2, 0);
        assert_eq!(unready(vec![]), "the server is about to stop");
        facts.publish(ServerState::Stopping, 1, 2, 0);
        assert_eq!(unready(vec![]), "the server is stopping");
    }
}
