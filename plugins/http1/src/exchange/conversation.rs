//! The state of one exchange: which calls are in order, what they put on the wire, what went wrong.
//!
//! It owns every rule that does not depend on how the class waits. Nothing here waits: a read answers `None`
//! when the client must send more, a send answers `false` when the client must take more.
//!
//! What a newcomer gets wrong: a fault is remembered, and decides the answer even if the application swallows
//! it. The application's own verdict matters only if the connection and the request were well.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::request::Field;
use rgunicorn_worker_api::worker::Verdict;

use super::connection::Spill;
use super::outlet::{Outlet, Tail};
use super::rules::Rules;
use super::seen::Seen;
use super::wire::{Wire, fault_of};
use crate::body::{BodyDecoder, Step, at_most};
use crate::date::DateCache;
use crate::error::Error;
use crate::request::{Exchange as Facts, MethodKind, Version};
use crate::response::{self, CONTINUE, ResponseFraming, ResponseHead};
use crate::write::BodyWriter;

/// Read at once of a body whose end only the octets themselves tell.
const SPILL: usize = 16 * 1024;
/// Skipped of a body that the application did not want, to keep the connection.
const SKIP: usize = 64 * 1024;
/// Most octets in one chunk of a file, so that a file that grows short costs no more than that.
const FILE_CHUNK: u64 = 1024 * 1024;

thread_local! {
    static DATE: RefCell<Option<DateCache>> = const { RefCell::new(None) };
}

/// Calls `with` with the date of now, formatted at most once a second on each thread.
pub(super) fn dated<R>(with: impl FnOnce(&DateCache) -> R) -> R {
    DATE.with_borrow_mut(|cache| {
        let now = SystemTime::now();
        let cache = cache.get_or_insert_with(|| DateCache::new(now));
        cache.update(now);
        with(cache)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Unstarted,
    Started,
    Ended,
    Stream,
}

/// How an exchange ended, for the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status sent, or 0 if nothing was.
    pub status: u16,
    /// Octets received, head included.
    pub bytes_in: u64,
    /// Octets of the body that were sent, or of the stream.
    pub body_bytes: u64,
    /// The answer was cut short: close, so that the client can see it.
    pub incomplete: bool,
    /// The connection was taken over: close.
    pub taken_over: bool,
    /// The connection may serve another request.
    pub keep_alive: bool,
    /// What went wrong with the connection or the request, first thing first.
    pub fault: Option<Fault>,
    /// Whether to linger before closing: octets of the client may be unread or on their way, and closing
    /// would answer them with a reset, which can destroy the answer before the client has read it.
    pub linger: bool,
    /// Octets behind the head that belong to the next request.
    pub(super) rest: usize,
}

pub(super) struct Conversation<'c, W> {
    pub(super) wire: &'c mut W,
    rules: &'c Rules,
    facts: Facts,

    /// What arrived with the head and was not taken yet.
    rest: &'c [u8],
    /// What was read beyond it.
    spill: &'c mut Spill,
    body: Option<BodyDecoder>,
    continue_wanted: bool,
    pub(super) bytes_in: u64,
    /// The last read found no more than it took.
    quiet: bool,
    ended_by_client: bool,

    pub(super) phase: Phase,
    pub(super) outlet: Outlet<'c>,
    /// All that is buffered is a head, which waits for the first piece of the body.
    pub(super) held: bool,
    writer: BodyWriter,
    framing: ResponseFraming,
    keep_alive: bool,
    status: u16,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    cut: bool,
    /// Octets of the open chunk of a file that are still to come, and what goes behind them.
    open_chunk: u64,
    error_bytes: u64,
    stream_bytes: u64,
    pub(super) shutdown_when_sent: bool,

    pub(super) fault: Option<Fault>,
    /// Nothing can be sent any more.
    unreachable: bool,
    /// What the client is told is wrong with its request.
    refusal: Option<Error>,
    incomplete: bool,
    response_fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a new conversation begins with.
pub(super) struct Opening<'c, W> {
    pub(super) wire: &'c mut W,
    pub(super) rules: &'c Rules,
    pub(super) rest: &'c [u8],
    pub(super) spill: &'c mut Spill,
    pub(super) output: &'c mut Vec<u8>,
    pub(super) quiet: bool,
    pub(super) keep_alive: bool,
    pub(super) bytes_in: u64,
}

impl<'c, W: Wire> Conversation<'c, W> {
    pub(super) fn new(opening: Opening<'c, W>, seen: &Seen<'_>) -> Self {
        let Opening { wire, rules, rest, spill, output, quiet, keep_alive, bytes_in } = opening;
        let mut facts = seen.head.exchange(seen.octets);
        facts.keep_alive &= keep_alive && rules.keep_alive;
        let (body, refusal) =
            match BodyDecoder::new(seen.head.framing(), &rules.limits, rules.leniency.header_map) {
                Ok(body) => (Some(body), None),
                Err(error) => (None, Some(error)),
            };
        Self {
            wire,
            rules,
            facts,
            rest,
            spill,
            body,
            continue_wanted: seen.head.expect_continue() && rest.is_empty(),
            bytes_in,
            quiet,
            ended_by_client: false,
            phase: Phase::Unstarted,
            outlet: Outlet::new(output),
            held: false,
            writer: BodyWriter::new(ResponseFraming::NoBody),
            framing: ResponseFraming::NoBody,
            keep_alive: false,
            status: 0,
            trailers: Vec::new(),
            cut: false,
            open_chunk: 0,
            error_bytes: 0,
            stream_bytes: 0,
            shutdown_when_sent: false,
            fault: refusal.as_ref().map(fault_of_refusal),
            unreachable: false,
            refusal,
            incomplete: false,
            response_fields: Vec::new(),
        }
    }

    // -----------------------------------------------------------------------------------------------
    // Faults.

    /// Remembers the first one.
    pub(super) fn fail(&mut self, fault: Fault) -> Fault {
        *self.fault.get_or_insert(fault)
    }

    fn refuse(&mut self, error: Error) -> Fault {
        let fault = fault_of_refusal(&error);
        self.refusal.get_or_insert(error);
        self.fail(fault)
    }

    /// Nothing can be sent any more.
    pub(super) fn lose(&mut self, fault: Fault) -> Fault {
        self.incomplete |= self.phase == Phase::Started;
        self.unreachable = true;
        self.outlet.discard();
        self.fail(fault)
    }

    /// As `lose`, while something is to be sent.
    pub(super) fn lose_output(&mut self, fault: Fault) -> Fault {
        self.incomplete |= matches!(self.phase, Phase::Started | Phase::Ended);
        self.lose(fault)
    }

    pub(super) fn lose_by(&mut self, error: &std::io::Error) -> Fault {
        self.lose(fault_of(error))
    }

    /// The client paused too long while the application waited for the body.
    pub(super) fn body_timed_out(&mut self) -> Fault {
        if self.phase == Phase::Stream { self.lose(Fault::TimedOut) } else { self.refuse(Error::Timeout) }
    }

    /// Whether the class must answer for the client's mistake without calling the application.
    pub(super) fn refused(&self) -> bool {
        self.refusal.is_some()
    }

    // -----------------------------------------------------------------------------------------------
    // Input.

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
    pub(super) fn read(&mut self, seen: &Seen<'_>, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
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
            let Some(body) = self.body.as_mut() else { return Err(Fault::TooLarge) };
            if body.is_done() {
                seen.learn_trailers(body);
                return Ok(Some(0));
            }
            let input = if self.rest.is_empty() { self.spill.unread() } else { self.rest };
            if !input.is_empty() {
                let (taken, piece) = match body.step_up_to(input, buffer.len()) {
                    Ok(Step::Data { range }) => {
                        buffer[..range.len()].copy_from_slice(&input[range.clone()]);
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
    fn body_is_read(&mut self, seen: &Seen<'_>) -> bool {
        let mut skipped = 0;
        let mut buffer = [0; 4096];
        while skipped < SKIP && self.fault.is_none() {
            let Some(body) = self.body.as_ref() else { return false };
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

    // -----------------------------------------------------------------------------------------------
    // Output.

    /// Sends what is buffered; `true` if that was all.
    pub(super) fn push(&mut self) -> Result<bool, Fault> {
        self.send(&mut Tail::default())
    }

    pub(super) fn send(&mut self, tail: &mut Tail<'_>) -> Result<bool, Fault> {
        if self.unreachable {
            return Err(self.fail(Fault::ClientGone));
        }
        self.held = false;
        match self.outlet.send(self.wire, tail) {
            Ok(true) => {
                if std::mem::take(&mut self.shutdown_when_sent) {
                    // Fails only if the client is gone, which the next read or write tells.
                    let _ = self.wire.shutdown_write();
                }
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) => Err(self.lose_output(fault_of(&error))),
        }
    }

    fn may_start(&self) -> Result<(), Fault> {
        if self.phase != Phase::Unstarted {
            return Err(Fault::Misuse);
        }
        if self.unreachable { Err(self.fault.unwrap_or(Fault::ClientGone)) } else { Ok(()) }
    }

    fn may_write(&self) -> Result<(), Fault> {
        if self.phase != Phase::Started || self.open_chunk > 0 {
            return Err(Fault::Misuse);
        }
        if self.unreachable { Err(self.fault.unwrap_or(Fault::ClientGone)) } else { Ok(()) }
    }

    /// Buffers an interim answer; a client that speaks HTTP/1.0 is spared it.
    pub(super) fn informational(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.may_start()?;
        let facts = Facts { version: Version::Http11, ..self.facts };
        let spared = self.facts.version == Version::Http10;
        let buffer = self.outlet.buffer();
        let start = buffer.len();
        response::informational(buffer, facts, status, pairs(fields)).map_err(invalid)?;
        if spared {
            buffer.truncate(start);
        } else if status == 100 {
            self.continue_wanted = false;
        }
        Ok(())
    }

    /// Buffers the final head. `whole` is the length of a body that lies ready.
    pub(super) fn start(
        &mut self,
        status: u16,
        fields: &[Field<'_>],
        whole: Option<usize>,
    ) -> Result<(), Fault> {
        self.may_start()?;
        let mut facts = self.facts;
        // Whether the body comes or not is now up to the client, so the next request could begin anywhere.
        facts.keep_alive &= !self.continue_wanted && self.fault.is_none();
        self.outlet.mark();
        let buffer = self.outlet.buffer();
        let sent = dated(|date| {
            let mut head = ResponseHead::begin(buffer, facts, status)?;
            for field in fields {
                head.field(field.name, field.value)?;
            }
            match whole {
                // Here the length is known to be that of the body, which `finish` cannot know for HEAD.
                Some(length) if facts.method == MethodKind::Head && length > 0 && !declared(fields) => {
                    head.field(b"Content-Length", itoa::Buffer::new().format(length).as_bytes())?;
                }
                _ => {}
            }
            head.finish(date, whole.map(|length| length as u64))
        })
        .map_err(invalid)?;
        self.status = status;
        self.framing = sent.framing;
        self.keep_alive = sent.keep_alive;
        self.writer = BodyWriter::new(sent.framing);
        self.phase = Phase::Started;
        self.held = self.outlet.head_only();
        self.remember(fields);
        Ok(())
    }

    fn remember(&mut self, fields: &[Field<'_>]) {
        if self.rules.keep_response_fields {
            self.response_fields =
                fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
        }
    }

    pub(super) fn take_response_fields(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.response_fields)
    }

    /// What one write of the application's becomes. The caller sends all of it.
    pub(super) fn frame<'a>(
        &mut self,
        data: &'a [u8],
        head: &'a mut [u8; 18],
        last: bool,
    ) -> Result<Tail<'a>, Fault> {
        self.may_write()?;
        let piece = self.writer.write(data);
        if piece.cut > 0 {
            self.warn_of_cut();
        }
        let [size, content, tail] = piece.slices();
        let size_len = size.len();
        head[..size_len].copy_from_slice(size);
        let content = &data[..content.len()];
        let tail: &'static [u8] = if tail.is_empty() { b"" } else { b"\r\n" };
        let mut end: &'static [u8] = b"";
        if last {
            end = self.finish();
        }
        Ok(Tail([&head[..size_len], content, tail, end]))
    }

    fn warn_of_cut(&mut self) {
        if !std::mem::replace(&mut self.cut, true) {
            log::warn!("the application wrote more than the Content-Length it declared; the rest is cut");
        }
    }

    /// Ends the body; what is still to be sent for that.
    fn finish(&mut self) -> &'static [u8] {
        self.phase = Phase::Ended;
        match self.writer.finish() {
            Ok(last) => last,
            Err(error) => {
                log::warn!("{error}; the connection is closed");
                self.incomplete = true;
                self.keep_alive = false;
                b""
            }
        }
    }

    /// Buffers the end of the body.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.may_write()?;
        if self.trailers.is_empty() {
            let last = self.finish();
            self.outlet.buffer().extend_from_slice(last);
            return Ok(());
        }
        let trailers = std::mem::take(&mut self.trailers);
        let fields = trailers.iter().map(|(name, value)| (&name[..], &value[..]));
        // They were judged when they were set, so that only a short body is left to fail.
        if self.writer.finish_with_trailers(self.outlet.buffer(), fields).is_err() {
            self.incomplete = true;
            self.keep_alive = false;
        }
        self.phase = Phase::Ended;
        Ok(())
    }

    pub(super) fn set_trailers(&mut self, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.may_write()?;
        let mut scratch = Vec::new();
        BodyWriter::new(ResponseFraming::Chunked)
            .finish_with_trailers(&mut scratch, pairs(fields))
            .map_err(invalid)?;
        if self.framing == ResponseFraming::Chunked {
            self.trailers = fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
        }
        Ok(())
    }

    /// Sends some of a file: how much of `length` is dealt with, or `None` if the client must take more first.
    pub(super) fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<Option<u64>, Fault> {
        if self.open_chunk == 0 {
            self.may_write()?;
        } else if self.unreachable {
            return Err(self.fault.unwrap_or(Fault::ClientGone));
        }
        if length == 0 {
            return Ok(Some(0));
        }
        if self.open_chunk == 0 {
            let announced = self.writer.announce(length.min(FILE_CHUNK));
            if announced.length == 0 {
                if self.framing != ResponseFraming::NoBody {
                    self.warn_of_cut();
                }
                return Ok(Some(length));
            }
            self.outlet.buffer().extend_from_slice(announced.head());
            self.open_chunk = announced.length;
        }
        if !self.push()? {
            return Ok(None);
        }
        let wanted = length.min(self.open_chunk);
        loop {
            return match self.wire.send_file(file, offset, wanted) {
                Ok(0) => {
                    self.incomplete = true;
                    self.keep_alive = false;
                    Err(self.lose(Fault::System))
                }
                Ok(sent) => {
                    let sent = sent.min(wanted);
                    self.open_chunk -= sent;
                    if self.open_chunk == 0 && self.framing == ResponseFraming::Chunked {
                        self.outlet.buffer().extend_from_slice(b"\r\n");
                    }
                    Ok(Some(sent))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(self.lose_by(&error)),
            };
        }
    }

    // -----------------------------------------------------------------------------------------------
    // The connection as a stream.

    /// Buffers the head after which the connection is the application's.
    pub(super) fn take_over(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.may_start()?;
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // What is left of a body would be taken for the other protocol.
        if !self.body.as_ref().is_some_and(BodyDecoder::is_done) {
            return Err(Fault::Misuse);
        }
        match (status, self.facts.method) {
            (101, _) => {
                let facts = self.facts;
                self.outlet.mark();
                let buffer = self.outlet.buffer();
                dated(|date| response::switching_protocols(buffer, facts, pairs(fields), date))
                    .map_err(invalid)?;
                self.status = status;
                self.remember(fields);
            }
            (200..=299, MethodKind::Connect) => self.start(status, fields, None)?,
            _ => return Err(Fault::Invalid),
        }
        self.keep_alive = false;
        self.phase = Phase::Stream;
        Ok(())
    }

    fn is_stream(&self) -> Result<(), Fault> {
        if self.phase == Phase::Stream { Ok(()) } else { Err(Fault::Misuse) }
    }

    pub(super) fn stream_read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Fault> {
        self.is_stream()?;
        let early = if self.rest.is_empty() { self.spill.unread() } else { self.rest };
        if !early.is_empty() {
            let count = early.len().min(buffer.len());
            buffer[..count].copy_from_slice(&early[..count]);
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

    /// Checks that `count` octets may go into the stream, and counts them.
    pub(super) fn stream_frame(&mut self, count: usize) -> Result<(), Fault> {
        self.is_stream()?;
        if self.unreachable {
            return Err(self.fault.unwrap_or(Fault::ClientGone));
        }
        self.stream_bytes += count as u64;
        Ok(())
    }

    /// Ends the server's direction as soon as what is buffered is sent.
    pub(super) fn stream_shutdown(&mut self) -> Result<(), Fault> {
        self.is_stream()?;
        self.shutdown_when_sent = true;
        self.push().map(|_| ())
    }

    // -----------------------------------------------------------------------------------------------
    // The end.

    /// Buffers an answer of the server's own instead of the application's.
    pub(super) fn answer(&mut self, status: u16) {
        if self.unreachable {
            return;
        }
        self.outlet.mark();
        let buffer = self.outlet.buffer();
        let start = buffer.len();
        dated(|date| response::error_response(buffer, status, self.facts.method, date));
        let head = buffer[start..].windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        self.error_bytes = (buffer.len() - start - head) as u64;
        self.status = status;
        self.keep_alive = false;
        self.phase = Phase::Ended;
        self.writer = BodyWriter::new(ResponseFraming::NoBody);
        self.response_fields.clear();
    }

    /// Buffers whatever the application left open, and logs what an operator should know.
    pub(super) fn settle(&mut self, verdict: Verdict, seen: &Seen<'_>) {
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
        match (&self.refusal, self.fault) {
            (Some(error), _) => error.status(),
            // Who has not sent the whole request was too slow himself.
            (None, Some(Fault::Expired)) if !self.body.as_ref().is_some_and(BodyDecoder::is_done) => 408,
            (None, Some(Fault::Expired)) => 504,
            (None, Some(Fault::TimedOut)) => 408,
            (None, _) => 500,
        }
    }

    /// How it ended; what is still buffered counts as lost.
    pub(super) fn ended(&mut self, seen: &Seen<'_>) -> Ended {
        let taken_over = self.phase == Phase::Stream;
        let lost = self.outlet.pending() as u64;
        let body_read = !taken_over && self.body_is_read(seen);
        let incomplete = self.incomplete || (lost > 0 && !taken_over);
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
            rest: self.rest.len(),
        }
    }
}

fn declared(fields: &[Field<'_>]) -> bool {
    fields.iter().any(|field| field.name.eq_ignore_ascii_case(b"content-length"))
}

fn pairs<'f>(fields: &'f [Field<'f>]) -> impl Iterator<Item = (&'f [u8], &'f [u8])> {
    fields.iter().map(|field| (field.name, field.value))
}

/// The application learns that it was wrong, the log how.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn invalid(error: Error) -> Fault {
    log::error!("{error}");
    Fault::Invalid
}

fn fault_of_refusal(error: &Error) -> Fault {
    match error.status() {
        408 => Fault::TimedOut,
        413 | 431 => Fault::TooLarge,
        _ => Fault::Malformed,
    }
}
