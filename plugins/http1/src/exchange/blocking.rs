//! The exchange for blocking and inline applications: a call that cannot go on waits.
//!
//! It owns the waiting, and nothing else; all rules are in `conversation`.
//!
//! What a newcomer gets wrong: `poll_…` functions work here too, for an application of another kind that is
//! called by mistake: they wait, and are always ready.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Field, Head};
use rgunicorn_worker_api::worker::{Exchange, Host, Record, Verdict, request_of};

use super::conversation::{Conversation, Ended};
use super::outlet::Tail;
use super::seen::Seen;
use super::wire::{Interest, Wire};

/// One request and its answer, on one thread.
pub struct Blocking<'c, W> {
    seen: Seen<'c>,
    talk: RefCell<Conversation<'c, W>>,
    /// The application of a stream was told that the worker wants to leave.
    told: Cell<bool>,
}

impl<'c, W: Wire> Blocking<'c, W> {
    pub(super) fn new(seen: Seen<'c>, talk: Conversation<'c, W>) -> Self {
        Self { seen, talk: RefCell::new(talk), told: Cell::new(false) }
    }

    /// Names the request as the host does, from `Host::request_begin`.
    pub fn set_token(&self, token: u64) {
        self.seen.token.store(token, Ordering::Relaxed);
    }

    /// Whether the application must not be called: the request is over a limit, and `conclude` says so.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.talk.borrow().refused()
    }

    /// Answers by itself, where no application is to be called.
    pub fn answer(&self, status: u16) {
        self.talk.borrow_mut().answer(status);
    }

    /// Answers what the application left open, sends all, and says how it ended.
    pub fn conclude(&self, verdict: Verdict) -> Ended {
        self.talk.borrow_mut().settle(verdict, &self.seen);
        // A client that cannot be reached has been noted.
        let _ = self.flushed();
        self.talk.borrow_mut().ended(&self.seen)
    }

    /// Reports the end to the host.
    pub fn report(&self, host: &Host, ended: &Ended) {
        // Taken out first: the host asks this exchange about its request meanwhile.
        let fields = self.talk.borrow_mut().take_response_fields();
        let fields: Vec<Field<'_>> = fields.iter().map(|(name, value)| Field { name, value }).collect();
        host.request_end(&record(&self.seen, &request_of(self), &fields, ended));
    }

    fn wait(&self, interest: Interest) -> Result<(), Fault> {
        self.talk.borrow_mut().wait(&self.seen, interest)
    }

    fn send(&self, tail: &mut Tail<'_>) -> Result<(), Fault> {
        while !self.talk.borrow_mut().send(tail)? {
            self.wait(Interest::Writable)?;
        }
        Ok(())
    }

    fn flushed(&self) -> Result<(), Fault> {
        self.send(&mut Tail::default())
    }

    fn write_framed(&self, data: &[u8], last: bool) -> Result<(), Fault> {
        let mut head = [0; 18];
        let mut tail = self.talk.borrow_mut().frame(data, &mut head, last)?;
        // Of a body that is suppressed nothing is sent, and the head waits for the end.
        if tail.len() == 0 && !last {
            return Ok(());
        }
        self.send(&mut tail)
    }
}

pub(super) fn record<'r>(
    seen: &'r Seen<'_>,
    request: &'r rgunicorn_worker_api::request::Request<'r>,
    fields: &'r [Field<'r>],
    ended: &Ended,
) -> Record<'r> {
    Record {
        token: seen.token(),
        request: Some(request),
        peer: seen.peer,
        response_fields: fields,
        bytes_in: ended.bytes_in,
        body_bytes: ended.body_bytes,
        status: ended.status,
        incomplete: ended.incomplete,
        taken_over: ended.taken_over,
    }
}

impl<W: Wire> Exchange for Blocking<'_, W> {
    fn head(&self) -> Head<'_> {
        self.seen.head()
    }

    fn field(&self, index: usize) -> Option<Field<'_>> {
        self.seen.field(index)
    }

    fn trailer(&self, index: usize) -> Option<Field<'_>> {
        self.seen.trailer(index)
    }

    fn peer(&self) -> &Address {
        self.seen.peer
    }

    fn local(&self) -> &Address {
        self.seen.local.get_or_init(|| Box::new(self.talk.borrow_mut().wire.local()))
    }

    fn body_length(&self) -> Option<u64> {
        self.seen.body_length()
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if let Some(count) = self.talk.borrow_mut().read(&self.seen, buffer)? {
                return Ok(count);
            }
            self.flushed()?;
            self.wait(Interest::Readable)?;
        }
    }

    fn poll_read(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.read(buffer))
    }

    fn client_gone(&self) -> bool {
        self.talk.borrow_mut().wire.client_gone()
    }

    fn poll_client_gone(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.client_gone() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn expired(&self) -> bool {
        self.seen.expired()
    }

    fn informational(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk.borrow_mut().informational(status, fields)?;
        self.flushed()
    }

    fn start(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk.borrow_mut().start(&self.seen, status, fields, None)
    }

    fn write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.write_framed(piece, false)
    }

    fn poll_write(&self, _: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.write(piece).map(|()| piece.len()))
    }

    fn flush(&self) -> Result<(), Fault> {
        self.flushed()
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(self.flush())
    }

    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Fault> {
        let mut sent = 0;
        while sent < length {
            let step = self.talk.borrow_mut().send_file(file, offset + sent, length - sent)?;
            match step {
                Some(count) => sent += count,
                None => self.wait(Interest::Writable)?,
            }
        }
        Ok(())
    }

    fn poll_send_file(
        &self,
        _: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<Result<u64, Fault>> {
        Poll::Ready(self.send_file(file, offset, length).map(|()| length))
    }

    fn trailers(&self, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk.borrow_mut().set_trailers(fields)
    }

    fn end(&self) -> Result<(), Fault> {
        self.talk.borrow_mut().end()?;
        self.flushed()
    }

    fn respond(&self, status: u16, fields: &[Field<'_>], body: &[u8]) -> Result<(), Fault> {
        self.talk.borrow_mut().start(&self.seen, status, fields, Some(body.len()))?;
        self.write_framed(body, true)
    }

    fn take_over(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk.borrow_mut().take_over(&self.seen, status, fields)?;
        self.flushed()
    }

    fn stream_read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if let Some(count) = self.talk.borrow_mut().stream_read(buffer)? {
                return Ok(count);
            }
            // Once: reading may go on after it.
            if self.draining() && !self.told.replace(true) {
                return Ok(0);
            }
            self.wait(Interest::Readable)?;
        }
    }

    fn stream_poll_read(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.stream_read(buffer))
    }

    fn stream_write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.talk.borrow_mut().stream_frame(piece.len())?;
        self.send(&mut Tail([piece, b"", b"", b""]))
    }

    fn stream_poll_write(&self, _: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.stream_write(piece).map(|()| piece.len()))
    }

    fn stream_shutdown(&self) -> Result<(), Fault> {
        self.talk.borrow_mut().stream_shutdown()
    }

    fn stream_fd(&self) -> Option<i32> {
        self.talk.borrow().wire.fd()
    }

    fn draining(&self) -> bool {
        self.seen.watch.draining()
    }
}

impl<W> fmt::Debug for Blocking<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocking")
    }
}
