//! The end of an exchange: what is answered if the application did not, and how it is told to the class.
//!
//! It owns the mapping from fault and verdict to a status, and the judgement whether the connection lives on.
//!
//! What a newcomer gets wrong: an answer of which nothing was sent is taken back and replaced by an honest
//! one; an answer of which one octet was sent can only be cut short.

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::worker::Verdict;

use super::{Conversation, Ended, Phase, dated};
use crate::exchange::connection::body_of;
use crate::exchange::outlet::Tail;
use crate::exchange::seen::Seen;
use crate::exchange::wire::Wire;
use crate::response::{self, ResponseFraming};
use crate::write::BodyWriter;

impl<W: Wire> Conversation<'_, W> {
    /// Buffers an answer of the server's own instead of the application's.
    pub(in crate::exchange) fn answer(&mut self, status: u16) {
        if self.unreachable {
            return;
        }
        self.outlet.mark();
        let buffer = self.outlet.buffer();
        let start = buffer.len();
        dated(|date| response::error_response(buffer, status, self.facts.method, date));
        self.error_bytes = body_of(&buffer[start..]);
        self.status = status;
        self.keep_alive = false;
        self.phase = Phase::Ended;
        self.writer = BodyWriter::new(ResponseFraming::NoBody);
        self.aside.response_fields.clear();
    }

    /// Buffers whatever the application left open, and logs what an operator should know.
    pub(in crate::exchange) fn settle(&mut self, verdict: Verdict, seen: &Seen<'_>) {
        // A connection that failed tells nothing about the application.
        if self.fault.is_none() || verdict == Verdict::Panicked {
            let reason = match (verdict, self.phase) {
                (Verdict::Ok, Phase::Unstarted) => Some("the application returned without an answer"),
                (Verdict::Ok, _) => None,
                (Verdict::Failed, _) => Some("the application failed"),
                (Verdict::Panicked, _) => Some("the application panicked"),
                (Verdict::Transport, Phase::Ended | Phase::Stream) => None,
                (Verdict::Transport, _) => Some("the application's answer could not be sent"),
            };
            if let Some(reason) = reason {
                // Gunicorn's words, for those who search the log for them.
                log::error!("Error handling request {}: {reason}", seen.line());
            }
        }
        match (self.phase, verdict) {
            (Phase::Ended | Phase::Stream, _) => {}
            (Phase::Unstarted, _) => self.answer(self.status_of_failure()),
            (Phase::Started, Verdict::Ok) if self.open_chunk == 0 && !self.unreachable => {
                // In order, by the two conditions.
                let _ = self.end();
            }
            (Phase::Started, _) if self.unreachable => self.phase = Phase::Ended,
            (Phase::Started, _) => {
                let whole = match self.framing {
                    ResponseFraming::Length(declared) => self.writer.sent() >= declared,
                    ResponseFraming::NoBody => true,
                    ResponseFraming::Chunked | ResponseFraming::UntilClose => false,
                };
                if self.outlet.take_back() {
                    self.answer(self.status_of_failure());
                } else {
                    self.incomplete |= !whole || self.open_chunk > 0;
                    self.phase = Phase::Ended;
                }
            }
        }
    }

    fn status_of_failure(&self) -> u16 {
        match (&self.aside.refusal, self.fault) {
            (Some(error), _) => error.status(),
            // Whose time ended while the client was waited for has a refusal.
            (None, Some(Fault::Expired)) => 504,
            (None, Some(Fault::TimedOut)) => 408,
            (None, _) => 500,
        }
    }

    /// Whether the answer may wait for the next ones: the connection is certain to have another exchange.
    pub(in crate::exchange) fn may_gather(&mut self, seen: &Seen<'_>) -> bool {
        self.gather(&Tail::default())
            && self.phase == Phase::Ended
            && self.keep_alive
            && !self.incomplete
            && self.body_is_read(seen)
            && self.fault.is_none()
    }

    /// How it ended; what is still buffered counts as lost, unless it gathers.
    pub(in crate::exchange) fn ended(&mut self, seen: &Seen<'_>) -> Ended {
        let taken_over = self.phase == Phase::Stream;
        let buffered = if self.gathers { 0 } else { self.outlet.pending() };
        let lost = self.lost + buffered;
        let body_read = !taken_over && self.body_is_read(seen);
        let incomplete = self.incomplete || (buffered > 0 && !taken_over);
        let keep_alive = self.keep_alive && body_read && !incomplete && self.fault.is_none();
        let empty = self.rest.is_empty() && self.spill.unread().is_empty();
        let nothing_more = body_read && self.quiet && empty;
        let over = self.unreachable || self.ended_by_client || incomplete || taken_over;
        let lingers = !over && !nothing_more;
        let sent = if self.error_bytes > 0 { self.error_bytes } else { self.writer.sent() };
        Ended {
            status: if self.unreachable && self.phase == Phase::Unstarted { 0 } else { self.status },
            bytes_in: self.bytes_in,
            body_bytes: if taken_over { self.stream_bytes } else { sent.saturating_sub(self.open_chunk) }
                .saturating_sub(lost),
            incomplete,
            taken_over,
            keep_alive,
            fault: self.fault,
            linger: lingers,
            quiet: self.quiet,
            rest: self.rest.len(),
        }
    }
}
