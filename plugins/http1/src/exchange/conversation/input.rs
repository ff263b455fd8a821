//! What the client sends: the body, what follows it, and the octets of a stream.
//!
//! It owns the order in which octets are taken: first those that came with the head, then those that were
//! read beyond them, then the wire. How a body is framed is in `body` and `chunked`.
//!
//! What a newcomer gets wrong: a body of declared length is read straight into the application's buffer and
//! never beyond its end; only a chunked one goes through the spill, which may then hold the next request.

use std::io::ErrorKind;

use rgunicorn_worker_api::error::Fault;

use super::{Conversation, Phase};
use crate::body::{BodyDecoder, Step, at_most};
use crate::error::Error;
use crate::exchange::copy::copy;
use crate::exchange::seen::Seen;
use crate::exchange::wire::Wire;
use crate::response::CONTINUE;

/// Read at once of a body whose end only the octets themselves tell.
const SPILL: usize = 16 * 1024;
/// Skipped of a body that the application did not want, to keep the connection.
const SKIP: usize = 64 * 1024;

impl<W: Wire> Conversation<'_, W> {
    fn receive(
        wire: &mut W,
        quiet: &mut bool,
        bytes_in: &mut u64,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, std::io::Error> {
        loop {
            match wire.read(buffer) {
                Ok(count) => {
                    *quiet = count < buffer.len();
                    *bytes_in += count as u64;
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    *quiet = true;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A piece of the body, 0 at its end; `None` if the client must send more first. Then the client has been
    /// told to go on, if it waited for that, and what was buffered is on its way to it.
    pub(in crate::exchange) fn read(
        &mut self,
        seen: &Seen<'_>,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Fault> {
        if self.phase == Phase::Stream {
            return Err(Fault::Misuse);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        loop {
            let Some(body) = self.aside.body.as_mut() else { return Err(Fault::TooLarge) };
            if body.is_done() {
                seen.learn_trailers(body);
                return Ok(Some(0));
            }
            let input = if self.rest.is_empty() { self.spill.unread() } else { self.rest };
            if !input.is_empty() {
                let (taken, piece) = match body.step_up_to(input, buffer.len()) {
                    Ok(Step::Data { range }) => {
                        copy(&mut buffer[..range.len()], &input[range.clone()]);
                        (range.end, Some(range.len()))
                    }
                    Ok(Step::NeedMore) => (input.len(), None),
                    Ok(Step::End { consumed }) => (consumed, None),
                    Err(error) => return Err(self.refuse(error)),
                };
                if self.rest.is_empty() {
                    self.spill.take(taken);
                } else {
                    self.rest = &self.rest[taken..];
                }
                if piece.is_some() {
                    return Ok(piece);
                }
                continue;
            }
            if self.ended_by_client {
                return Err(self.refuse(Error::Truncated));
            }
            // A declared length is read to where the application wants it, and never beyond its end.
            let direct = body.remaining().map(|remaining| at_most(buffer.len(), remaining));
            let room = match direct {
                Some(room) => &mut buffer[..room],
                None => self.spill.room(SPILL),
            };
            let received = match Self::receive(self.wire, &mut self.quiet, &mut self.bytes_in, room) {
                Err(error) => return Err(self.lose_by(&error)),
                Ok(Some(0)) => {
                    self.ended_by_client = true;
                    return Err(self.refuse(Error::Truncated));
                }
                Ok(None) => {
                    self.ask_for_more();
                    return Ok(None);
                }
                Ok(Some(received)) => received,
            };
            // It comes unasked, and will go on coming.
            self.continue_wanted = false;
            if direct.is_none() {
                self.spill.filled(received);
            } else if let Err(error) = body.step(&buffer[..received]) {
                return Err(self.refuse(error));
            } else {
                return Ok(Some(received));
            }
        }
    }

    /// Before waiting for the client, nothing that it may be waiting for is held back.
    fn ask_for_more(&mut self) {
        if self.continue_wanted && self.phase == Phase::Unstarted {
            self.outlet.buffer().extend_from_slice(CONTINUE);
        }
        self.continue_wanted = false;
        // A client that cannot be written to is found out by the read that follows.
        let _ = self.push();
    }

    /// Whether all of the body was read. Takes a bounded rest of it, without waiting, if that would keep the
    /// connection.
    pub(super) fn body_is_read(&mut self, seen: &Seen<'_>) -> bool {
        // Mostly it was, or there was none: then the buffer below is not even cleared.
        if self.aside.body.as_ref().is_some_and(BodyDecoder::is_done) {
            return self.fault.is_none();
        }
        self.skip_body(seen)
    }

    fn skip_body(&mut self, seen: &Seen<'_>) -> bool {
        let mut skipped = 0;
        let mut buffer = [0; 4096];
        while skipped < SKIP && self.fault.is_none() {
            let Some(body) = self.aside.body.as_ref() else { return false };
            if body.is_done() {
                return true;
            }
            let nothing_here = self.rest.is_empty() && self.spill.unread().is_empty();
            if (self.continue_wanted || !self.keep_alive) && nothing_here {
                return false;
            }
            match self.read(seen, &mut buffer) {
                Ok(Some(count)) => skipped += count,
                Ok(None) | Err(_) => return false,
            }
        }
        false
    }

    pub(in crate::exchange) fn stream_read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
        self.is_stream()?;
        let early = if self.rest.is_empty() { self.spill.unread() } else { self.rest };
        if !early.is_empty() {
            let count = early.len().min(buffer.len());
            copy(&mut buffer[..count], &early[..count]);
            if self.rest.is_empty() {
                self.spill.take(count);
            } else {
                self.rest = &self.rest[count..];
            }
            return Ok(Some(count));
        }
        if self.ended_by_client || buffer.is_empty() {
            return Ok(Some(0));
        }
        match Self::receive(self.wire, &mut self.quiet, &mut self.bytes_in, buffer) {
            Ok(Some(0)) => {
                self.ended_by_client = true;
                Ok(Some(0))
            }
            Ok(received) => Ok(received),
            Err(error) => Err(self.lose_by(&error)),
        }
    }
}
