//! The body, received before the exchange begins.
//!
//! It owns how much of it is taken ahead, and the judgement whether it is all there. It passes no judgement on
//! the framing: a body that is wrong counts as complete, and the exchange that reads it finds the mistake and
//! answers it. So does it with a client that has gone meanwhile.
//!
//! What a newcomer gets wrong: the octets stay as they came, chunk heads and all. They lie behind the head,
//! where the exchange looks first, and are decoded once more when the application reads.

use std::io::ErrorKind;

use super::Connection;
use crate::body::{BodyDecoder, Step};
use crate::exchange::rules::Rules;
use crate::exchange::wire::{Wire, fault_of};
use crate::request::BodyFraming;

/// How much of a body has been received before its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing more is to come, or nothing more can: open the exchange.
    Complete,
    /// Wait until the wire is readable; then again.
    Partial,
    /// It is longer than the bound, or the client waits to be told to go on: open the exchange, which receives
    /// it while the application reads.
    TooLong,
}

/// How far a chunked body has been looked at.
#[derive(Debug)]
pub(super) struct Looked {
    body: BodyDecoder,
    at: usize,
}

impl<W: Wire> Connection<W> {
    /// Receives the body of a complete head, as far as it has arrived and up to `bound` octets, framing
    /// included. Does not wait. The exchange that is opened then reads these octets without a system call.
    pub fn receive_body(&mut self, rules: &Rules, bound: usize) -> Ahead {
        let framing = self.memory.head.framing();
        if framing == BodyFraming::None {
            return Ahead::Complete;
        }
        if self.memory.head.expect_continue() && self.filled == self.head_len {
            return Ahead::TooLong;
        }
        let most = match framing {
            BodyFraming::Length(length) if rules.limits.body.is_some_and(|limit| length > limit) => {
                return Ahead::Complete;
            }
            BodyFraming::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= bound => length,
                _ => return Ahead::TooLong,
            },
            BodyFraming::None | BodyFraming::Chunked => bound,
        };
        self.move_forward();
        loop {
            let arrived = self.filled - self.head_len;
            let whole = match framing {
                BodyFraming::Chunked => self.chunks_end(rules),
                BodyFraming::None | BodyFraming::Length(_) => arrived >= most,
            };
            if whole || self.ended_by_client || self.fault.is_some() {
                return Ahead::Complete;
            }
            if arrived >= most {
                return Ahead::TooLong;
            }
            if self.quiet {
                break;
            }
            // One octet more than is wanted, so that a short read can say that nothing is behind it.
            let end = self.head_len + most + 1;
            if self.filled == self.memory.input.len() {
                let size = if framing == BodyFraming::Chunked { (self.filled * 2).min(end) } else { end };
                self.memory.input.resize(size, 0);
            }
            let end = end.min(self.memory.input.len());
            match self.wire.read(&mut self.memory.input[self.filled..end]) {
                Ok(0) => self.ended_by_client = true,
                Ok(count) => {
                    self.quiet = count < end - self.filled && !self.ending;
                    self.filled += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.fault = Some(fault_of(&error)),
            }
        }
        // The next call comes when something has arrived.
        self.quiet = false;
        Ahead::Partial
    }

    /// Whether the chunks that have arrived end, well or with a mistake. Looks at each octet once.
    fn chunks_end(&mut self, rules: &Rules) -> bool {
        let looked = match &mut self.looked {
            Some(looked) => looked,
            none => {
                let framing = self.memory.head.framing();
                match BodyDecoder::new(framing, &rules.limits, rules.leniency.header_map) {
                    Ok(body) => none.insert(Box::new(Looked { body, at: self.head_len })),
                    Err(_) => return true,
                }
            }
        };
        while looked.at < self.filled {
            match looked.body.step(&self.memory.input[looked.at..self.filled]) {
                Ok(Step::Data { range }) => looked.at += range.end,
                Ok(Step::NeedMore) => looked.at = self.filled,
                Ok(Step::End { .. }) | Err(_) => return true,
            }
        }
        false
    }
}
