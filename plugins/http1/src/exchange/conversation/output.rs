//! What the client is sent: interim answers, the head, the body in its framing, files, a stream's octets.
//!
//! It owns the order of these calls, and where a piece of body gets its framing. Where the octets wait if the
//! client does not take them is in `outlet`; who waits is up to the faces.
//!
//! What a newcomer gets wrong: the head is formed before anybody knows how the body ends, so `Connection:
//! close` can only announce what is known by then.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::request::Field;

use super::{Conversation, Phase, dated, with_last_head};
use crate::body::BodyDecoder;
use crate::error::Error;
use crate::exchange::outlet::Tail;
use crate::exchange::seen::Seen;
use crate::exchange::wire::{Wire, fault_of};
use crate::request::{Exchange as Facts, MethodKind, Version};
use crate::response::{self, HeadKey, ResponseFraming, ResponseHead};
use crate::write::BodyWriter;

/// Longest answers that gather, in octets.
const GATHERED: usize = 16 * 1024;
/// Most octets in one chunk of a file, so that a file that grows short costs no more than that.
const FILE_CHUNK: u64 = 1024 * 1024;

impl<W: Wire> Conversation<'_, W> {
    /// Sends what is buffered; `true` if that was all.
    pub(in crate::exchange) fn push(&mut self) -> Result<bool, Fault> {
        self.gathers = false;
        self.send(&mut Tail::default())
    }

    pub(in crate::exchange) fn send(&mut self, tail: &mut Tail<'_>) -> Result<bool, Fault> {
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
            Err(error) => {
                if error.kind() == ErrorKind::UnexpectedEof {
                    log::error!(
                        "cannot send a file to its announced length: it has become shorter; \
                         the connection is closed"
                    );
                }
                Err(self.lose_output(fault_of(&error)))
            }
        }
    }

    /// Whether `tail` is to be kept behind what is buffered, since answers gather. From some size on they are
    /// sent as usual.
    pub(in crate::exchange) fn gather(&mut self, tail: &Tail<'_>) -> bool {
        self.gathers &= !self.unreachable && self.outlet.weight() + tail.len() <= GATHERED;
        self.gathers
    }

    /// Ends an exchange whose client does not take what an application that may not wait has written.
    pub(in crate::exchange) fn lose_overfull(&mut self, line: impl fmt::Display) -> Fault {
        log::error!(
            "Error handling request {line}: an inline application wrote more than its client takes, and more \
             than {} octets are not kept for it; declare the application blocking or async",
            self.rules.buffer
        );
        self.lose_output(Fault::System)
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
    pub(in crate::exchange) fn informational(
        &mut self,
        status: u16,
        fields: &[Field<'_>],
    ) -> Result<(), Fault> {
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
    pub(in crate::exchange) fn start(
        &mut self,
        seen: &Seen<'_>,
        status: u16,
        fields: &[Field<'_>],
        whole: Option<usize>,
    ) -> Result<(), Fault> {
        self.may_start()?;
        let mut facts = self.facts;
        // Whether the body comes or not is now up to the client, so the next request could begin anywhere.
        facts.keep_alive &= !self.continue_wanted && self.fault.is_none();
        // At the last moment: a worker that wants to leave can still say so.
        facts.keep_alive = facts.keep_alive && !seen.watch.draining();
        self.outlet.mark();
        let buffer = self.outlet.buffer();
        let sent = with_last_head(|date, last| {
            let key = HeadKey::new(facts, status, whole, fields.len(), date);
            let start = buffer.len();
            if let Some(sent) = last.repeat(buffer, key, pairs(fields)) {
                return Ok(sent);
            }
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
            let sent = head.finish(date, whole.map(|length| length as u64))?;
            last.learn(&buffer[start..], key, pairs(fields), sent);
            Ok(sent)
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
            self.aside.response_fields =
                fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
        }
    }

    pub(in crate::exchange) fn take_response_fields(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.aside.response_fields)
    }

    /// What one write of the application's becomes. The caller sends all of it.
    pub(in crate::exchange) fn frame<'a>(
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
    pub(in crate::exchange) fn end(&mut self) -> Result<(), Fault> {
        self.may_write()?;
        if self.aside.trailers.is_empty() {
            let last = self.finish();
            self.outlet.buffer().extend_from_slice(last);
            return Ok(());
        }
        let trailers = std::mem::take(&mut self.aside.trailers);
        let fields = trailers.iter().map(|(name, value)| (&name[..], &value[..]));
        // They were judged when they were set, so that only a short body is left to fail.
        if self.writer.finish_with_trailers(self.outlet.buffer(), fields).is_err() {
            self.incomplete = true;
            self.keep_alive = false;
        }
        self.phase = Phase::Ended;
        Ok(())
    }

    pub(in crate::exchange) fn set_trailers(&mut self, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.may_write()?;
        let mut scratch = Vec::new();
        BodyWriter::new(ResponseFraming::Chunked)
            .finish_with_trailers(&mut scratch, pairs(fields))
            .map_err(invalid)?;
        if self.framing == ResponseFraming::Chunked {
            self.aside.trailers =
                fields.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
        }
        Ok(())
    }

    /// Whether a chunk is open for some of a file; one of up to `most` octets is opened if need be. `false` if
    /// nothing of the file is to be sent.
    fn has_chunk(&mut self, length: u64, most: u64) -> Result<bool, Fault> {
        if self.open_chunk > 0 {
            return if self.unreachable { Err(self.fault.unwrap_or(Fault::ClientGone)) } else { Ok(true) };
        }
        self.may_write()?;
        if length == 0 {
            return Ok(false);
        }
        let announced = self.writer.announce(length.min(most));
        if announced.length == 0 {
            if self.framing != ResponseFraming::NoBody {
                self.warn_of_cut();
            }
            return Ok(false);
        }
        self.outlet.buffer().extend_from_slice(announced.head());
        self.open_chunk = announced.length;
        Ok(true)
    }

    fn fill_chunk(&mut self, count: u64) {
        self.open_chunk -= count;
        if self.open_chunk == 0 && self.framing == ResponseFraming::Chunked {
            self.outlet.buffer().extend_from_slice(b"\r\n");
        }
    }

    /// Queues a part of a file, to be sent when the client takes it. The descriptor is duplicated: what the
    /// application closes or removes meanwhile is sent all the same.
    pub(in crate::exchange) fn queue_file(
        &mut self,
        file: BorrowedFd<'_>,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), Fault> {
        while length > 0 && self.has_chunk(length, u64::MAX)? {
            let copy = match file.try_clone_to_owned() {
                Ok(copy) => copy,
                Err(error) => {
                    log::error!("cannot keep a file open until its client takes it: {error}");
                    return Err(self.lose_output(Fault::System));
                }
            };
            let queued = length.min(self.open_chunk);
            self.outlet.keep_file(copy, offset, queued);
            self.fill_chunk(queued);
            offset += queued;
            length -= queued;
        }
        Ok(())
    }

    /// Sends some of a file: how much of `length` is dealt with, or `None` if the client must take more first.
    pub(in crate::exchange) fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<Option<u64>, Fault> {
        if !self.has_chunk(length, FILE_CHUNK)? {
            return Ok(Some(length));
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
                    self.fill_chunk(sent);
                    Ok(Some(sent))
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(self.lose_by(&error)),
            };
        }
    }

    /// Buffers the head after which the connection is the application's.
    pub(in crate::exchange) fn take_over(
        &mut self,
        seen: &Seen<'_>,
        status: u16,
        fields: &[Field<'_>],
    ) -> Result<(), Fault> {
        self.may_start()?;
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // What is left of a body would be taken for the other protocol.
        if !self.aside.body.as_ref().is_some_and(BodyDecoder::is_done) {
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
            (200..=299, MethodKind::Connect) => self.start(seen, status, fields, None)?,
            _ => return Err(Fault::Invalid),
        }
        self.keep_alive = false;
        self.phase = Phase::Stream;
        Ok(())
    }

    pub(super) fn is_stream(&self) -> Result<(), Fault> {
        if self.phase == Phase::Stream { Ok(()) } else { Err(Fault::Misuse) }
    }

    /// Checks that `count` octets may go into the stream, and counts them.
    pub(in crate::exchange) fn stream_frame(&mut self, count: usize) -> Result<(), Fault> {
        self.is_stream()?;
        if self.unreachable {
            return Err(self.fault.unwrap_or(Fault::ClientGone));
        }
        self.stream_bytes += count as u64;
        Ok(())
    }

    /// Ends the server's direction as soon as what is buffered is sent.
    pub(in crate::exchange) fn stream_shutdown(&mut self) -> Result<(), Fault> {
        self.is_stream()?;
        self.shutdown_when_sent = true;
        self.push().map(|_| ())
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
