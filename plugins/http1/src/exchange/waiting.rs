//! The exchange for blocking applications: the face of [`Polled`] that waits.
//!
//! It owns when to wait and for what; all rules are in `conversation`. What the client does not take at once
//! is buffered as for an async application, so that a slow client of a small answer costs a buffer and no
//! thread: a write waits only while more than that is on its way, and reading and the stream's descriptor
//! only after all of it was sent.
//!
//! What a newcomer gets wrong: it waits under the lock of the exchange, since the wire is behind it. Nobody
//! else may call the exchange meanwhile; the class goes on with [`Polled`] when the application has returned.

use std::cell::Cell;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Field, Head};
use rgunicorn_worker_api::worker::{Exchange, Verdict};

use super::conversation::{Conversation, Ended};
use super::outlet::Tail;
use super::polled::{FULL, Inner, Polled};
use super::wire::{Interest, Wire};

/// One request and its answer, on one thread that may wait.
pub struct Waiting<'p, 'c, W> {
    polled: &'p Polled<'c, W>,
    /// The application of a stream was told that the worker wants to leave.
    told: Cell<bool>,
}

impl<'p, 'c, W: Wire> Waiting<'p, 'c, W> {
    pub(super) fn new(polled: &'p Polled<'c, W>) -> Self {
        Self { polled, told: Cell::new(false) }
    }

    /// As [`Polled::conclude`], then sends all, and says how it ended.
    pub fn conclude(&self, verdict: Verdict) -> Ended {
        self.polled.conclude(verdict);
        // A client that cannot be reached has been noted.
        let _ = self.drained();
        self.polled.ended()
    }

    fn with<R>(&self, with: impl FnOnce(&mut Inner<'c, W>) -> R) -> R {
        with(&mut self.polled.inner())
    }

    fn talk<R>(&self, with: impl FnOnce(&mut Conversation<'c, W>) -> R) -> R {
        self.with(|inner| with(&mut inner.talk))
    }

    fn wait(&self, interest: Interest) -> Result<(), Fault> {
        self.talk(|talk| talk.wait(&self.polled.seen, interest))
    }

    /// Sends `tail`, and waits until no more than `most` octets stay behind, which are buffered.
    fn send(&self, mut tail: Tail<'_>, most: u64) -> Result<(), Fault> {
        while !self.with(|inner| inner.send_or_keep_up_to(&mut tail, most))? {
            self.wait(Interest::Writable)?;
        }
        Ok(())
    }

    /// Waits until all is sent that was buffered.
    fn drained(&self) -> Result<(), Fault> {
        self.send(Tail::default(), 0)
    }
}

impl<W: Wire> Exchange for Waiting<'_, '_, W> {
    fn head(&self) -> Head<'_> {
        self.polled.head()
    }

    fn field(&self, index: usize) -> Option<Field<'_>> {
        self.polled.field(index)
    }

    fn trailer(&self, index: usize) -> Option<Field<'_>> {
        self.polled.trailer(index)
    }

    fn peer(&self) -> &Address {
        self.polled.peer()
    }

    fn local(&self) -> &Address {
        self.polled.local()
    }

    fn body_length(&self) -> Option<u64> {
        self.polled.body_length()
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if let Some(count) = self.talk(|talk| talk.read(&self.polled.seen, buffer))? {
                return Ok(count);
            }
            self.drained()?;
            self.wait(Interest::Readable)?;
        }
    }

    fn poll_read(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.read(buffer))
    }

    fn client_gone(&self) -> bool {
        self.polled.client_gone()
    }

    fn poll_client_gone(&self, _: &mut Context<'_>) -> Poll<()> {
        if self.client_gone() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn expired(&self) -> bool {
        self.polled.expired()
    }

    fn informational(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk(|talk| talk.informational(status, fields))?;
        self.flush()
    }

    fn start(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.polled.start(status, fields)
    }

    fn write(&self, piece: &[u8]) -> Result<(), Fault> {
        let mut head = [0; 18];
        let tail = self.talk(|talk| talk.frame(piece, &mut head, false))?;
        // Of a body that is suppressed nothing is sent, and the head waits for the end.
        if tail.len() == 0 {
            return Ok(());
        }
        self.send(tail, FULL)
    }

    fn poll_write(&self, _: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.write(piece).map(|()| piece.len()))
    }

    fn flush(&self) -> Result<(), Fault> {
        self.send(Tail::default(), FULL)
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(self.drained())
    }

    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Fault> {
        let mut sent = 0;
        while sent < length {
            match self.with(|inner| inner.send_file(file, offset + sent, length - sent))? {
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
        self.polled.trailers(fields)
    }

    fn end(&self) -> Result<(), Fault> {
        self.talk(Conversation::end)?;
        self.flush()
    }

    fn respond(&self, status: u16, fields: &[Field<'_>], body: &[u8]) -> Result<(), Fault> {
        let mut head = [0; 18];
        let tail = self.talk(|talk| {
            talk.start(&self.polled.seen, status, fields, Some(body.len()))?;
            talk.frame(body, &mut head, true)
        })?;
        self.send(tail, FULL)
    }

    fn take_over(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.talk(|talk| talk.take_over(&self.polled.seen, status, fields))?;
        self.drained()
    }

    fn stream_read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            if let Some(count) = self.talk(|talk| talk.stream_read(buffer))? {
                return Ok(count);
            }
            // Once: reading may go on after it.
            if self.draining() && !self.told.replace(true) {
                return Ok(0);
            }
            self.drained()?;
            self.wait(Interest::Readable)?;
        }
    }

    fn stream_poll_read(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.stream_read(buffer))
    }

    fn stream_write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.talk(|talk| talk.stream_frame(piece.len()))?;
        self.send(Tail([piece, b"", b"", b""]), FULL)
    }

    fn stream_poll_write(&self, _: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.stream_write(piece).map(|()| piece.len()))
    }

    fn stream_shutdown(&self) -> Result<(), Fault> {
        self.talk(Conversation::stream_shutdown)
    }

    fn stream_fd(&self) -> Option<i32> {
        // What the application writes there must not overtake what it wrote here.
        self.drained().ok()?;
        self.polled.stream_fd()
    }

    fn draining(&self) -> bool {
        self.polled.draining()
    }
}

impl<W> fmt::Debug for Waiting<'_, '_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}
