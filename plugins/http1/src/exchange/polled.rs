//! The exchange on an event loop: a call that cannot go on is `Pending`, and the class waits.
//!
//! Async applications use its `poll_…` calls. Inline ones use the others, which never wait: reading has what is
//! there, writing queues. Blocking ones are given its waiting face (`waiting`).
//!
//! It owns the wakers of three sides (reading, writing, the client's leaving), which may belong to different
//! tasks, and the times since which somebody waits. The class asks [`Polled::wanted`], waits for that, tells
//! [`Polled::ready`] what happened, and looks at [`Polled::check_times`] when a deadline has passed.
//!
//! Calls come from any thread. Each is a few system calls that do not wait, under one lock; wakers are woken
//! outside of it, since they run code of the application's.
//!
//! What a newcomer gets wrong: `changed` is not the task's waker. It only says that [`Polled::wanted`] may have
//! another answer. Polling the future for it would poll it for ever.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Field, Head};
use rgunicorn_worker_api::worker::{Exchange, Host, Verdict, request_of};

use super::blocking::record;
use super::conversation::{Conversation, Ended, Phase};
use super::outlet::Tail;
use super::seen::Seen;
use super::waiting::Waiting;
use super::wire::Wire;

/// Most octets buffered for a client that does not take them, chunk framing aside.
pub(super) const FULL: u64 = 64 * 1024;
/// A write is taken again when no more than this is buffered, so that one is worth its system call.
const ROOM: u64 = 32 * 1024;

/// What the class should wait for. The client's leaving (`POLLHUP`, `POLLERR`) it always looks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Octets from the client.
    pub readable: bool,
    /// Room for octets to it.
    pub writable: bool,
    /// When to call [`Polled::check_times`].
    pub deadline: Option<Instant>,
}

#[derive(Default)]
struct Side {
    waker: Option<Waker>,
    /// Since when nothing has moved.
    since: Option<Instant>,
}

impl Side {
    fn wait(&mut self, context: &Context<'_>) {
        self.since.get_or_insert_with(Instant::now);
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    fn moved(&mut self) {
        self.since = None;
    }
}

pub(super) struct Inner<'c, W> {
    pub(super) talk: Conversation<'c, W>,
    read: Side,
    write: Side,
    gone: Option<Waker>,
    draining: Option<Waker>,
    is_gone: bool,
}

impl<W: Wire> Inner<'_, W> {
    /// After something was buffered or sent: the time since which the client takes nothing.
    fn note_output(&mut self, before: u64) {
        let pending = self.talk.outlet.pending();
        if pending == 0 || self.talk.gathers {
            self.write.moved();
        } else if pending < before || self.write.since.is_none() {
            self.write.since = Some(Instant::now());
        }
    }

    /// Sends what the client takes, and queues the rest.
    fn send_or_keep(&mut self, mut tail: Tail<'_>) -> Result<(), Fault> {
        let before = self.talk.outlet.pending();
        if self.talk.gather(&tail) || !self.talk.send(&mut tail)? {
            self.talk.outlet.keep(&tail);
        }
        self.note_output(before);
        Ok(())
    }

    /// As `send_or_keep`, for a call that neither waits nor takes less, and so must have a bound.
    fn send_or_keep_within(&mut self, tail: Tail<'_>, seen: &Seen<'_>) -> Result<(), Fault> {
        self.send_or_keep(tail)?;
        self.bounded(seen)
    }

    fn bounded(&mut self, seen: &Seen<'_>) -> Result<(), Fault> {
        if self.talk.outlet.weight() > self.talk.rules.buffer {
            return Err(self.talk.lose_overfull(seen.line()));
        }
        Ok(())
    }

    /// Sends what the client takes. What is left is buffered if that is no more than `most` octets in all;
    /// `false` if it is more.
    pub(super) fn send_or_keep_up_to(&mut self, tail: &mut Tail<'_>, most: u64) -> Result<bool, Fault> {
        let before = self.talk.outlet.pending();
        let sent = self.talk.send(tail)?;
        let fits = self.talk.outlet.pending() + tail.len() as u64 <= most;
        if !sent && fits {
            self.talk.outlet.keep(tail);
        }
        self.note_output(before);
        Ok(sent || fits)
    }

    /// Sends what is there of a whole answer, unless answers gather.
    fn push_end(&mut self) -> Result<(), Fault> {
        self.send_or_keep(Tail::default())
    }

    pub(super) fn send_file(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<Option<u64>, Fault> {
        let before = self.talk.outlet.pending();
        let result = self.talk.send_file(file, offset, length);
        self.note_output(before);
        result
    }

    fn push(&mut self) -> Result<bool, Fault> {
        self.talk.gathers = false;
        self.send_or_keep(Tail::default())?;
        Ok(self.talk.outlet.pending() == 0)
    }

    /// Room for a write: octets, or nothing while full.
    fn room(&mut self) -> Result<Option<usize>, Fault> {
        if self.talk.outlet.pending() > ROOM {
            self.push()?;
        }
        let pending = self.talk.outlet.pending();
        // Both are small enough for any machine.
        Ok((pending <= ROOM).then(|| (FULL - pending) as usize))
    }

    fn wakers(&mut self) -> [Option<Waker>; 3] {
        [self.read.waker.take(), self.write.waker.take(), self.gone.take()]
    }
}

/// One request and its answer, on any thread.
pub struct Polled<'c, W> {
    pub(super) seen: Seen<'c>,
    /// See [`Polled::refused`].
    refused: bool,
    /// The record wants the fields of the answer.
    keeps_fields: bool,
    inner: Mutex<Inner<'c, W>>,
    changed: &'c Waker,
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl<'c, W: Wire> Polled<'c, W> {
    pub(super) fn new(seen: Seen<'c>, talk: Conversation<'c, W>, changed: &'c Waker) -> Self {
        let (refused, keeps_fields) = (talk.refused(), talk.rules.keep_response_fields);
        let inner = Inner {
            talk,
            read: Side::default(),
            write: Side::default(),
            gone: None,
            draining: None,
            is_gone: false,
        };
        Self { seen, refused, keeps_fields, inner: Mutex::new(inner), changed }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner<'c, W>> {
        // A panic under the lock is a bug of ours that has been logged; the exchange ends all the same.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call of the application's, after which the class may have to wait for something else.
    fn call<R>(&self, call: impl FnOnce(&mut Inner<'c, W>) -> R) -> R {
        let (result, changed) = {
            let mut inner = self.inner();
            let before = self.wanted_of(&inner);
            let result = call(&mut inner);
            (result, before != self.wanted_of(&inner))
        };
        if changed {
            self.changed.wake_by_ref();
        }
        result
    }

    /// The face for a blocking application: its calls wait, by [`Wire::wait`]. When it has returned, go on
    /// here: what it buffered is still to be sent.
    #[must_use]
    pub fn waiting(&self) -> Waiting<'_, 'c, W> {
        Waiting::new(self)
    }

    /// Names the request as the host does, from `Host::request_begin`.
    pub fn set_token(&self, token: u64) {
        self.seen.token.store(token, Ordering::Relaxed);
    }

    /// Whether the application must not be called: the request is over a limit, and `conclude` says so.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// Lets the answer wait behind those of earlier requests, and for those of the next: for one that is quick
    /// and has a next request behind it already. It is sent as usual if it is long, is flushed, or ends the
    /// connection. After [`Polled::conclude`] the next exchange goes on with it if that one gathers too; else
    /// [`Connection::send`] comes first, and before any wait for the client.
    ///
    /// [`Connection::send`]: super::Connection::send
    pub fn gather(&mut self) {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).talk.gathers = true;
    }

    /// Answers by itself, where no application is to be called.
    pub fn answer(&self, status: u16) {
        self.inner().talk.answer(status);
    }

    /// What to wait for now.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.wanted_of(&self.inner())
    }

    fn wanted_of(&self, inner: &Inner<'_, W>) -> Wanted {
        let readable = inner.read.waker.is_some();
        let sending = !inner.talk.outlet.is_empty() && !inner.talk.held && !inner.talk.gathers;
        let writable = sending || inner.write.waker.is_some();
        let due = |since: Option<Instant>, timeout: Option<Duration>| Some(since? + timeout?);
        let read_due = if readable && inner.talk.phase != Phase::Stream {
            due(inner.read.since, inner.talk.rules.body_timeout)
        } else {
            None
        };
        let write_due = if writable { due(inner.write.since, inner.talk.rules.write_timeout) } else { None };
        let deadline = [read_due, write_due].into_iter().flatten().min();
        Wanted { readable, writable, deadline }
    }

    /// What has happened on the wire. Sends what is buffered, and wakes whoever can go on.
    pub fn ready(&self, readable: bool, writable: bool) {
        let mut wakers = [None, None];
        {
            let mut inner = self.inner();
            if readable {
                wakers[0] = inner.read.waker.take();
            }
            if writable {
                let sent = inner.push();
                if sent.is_err() || inner.talk.outlet.pending() <= ROOM {
                    wakers[1] = inner.write.waker.take();
                }
            }
        }
        wake(wakers);
    }

    /// The client has left, by a reset or by closing both directions. Whether the future is to go on: because
    /// it asked to be told, or because of octets in a stream that are still to be read. Else drop it.
    pub fn left(&self) -> bool {
        let (wakers, goes_on) = {
            let mut inner = self.inner();
            let goes_on = inner.gone.is_some() || inner.talk.phase == Phase::Stream;
            inner.is_gone = true;
            // A stream may have octets that are still to be read; its own calls will tell.
            if inner.talk.phase != Phase::Stream {
                if inner.talk.outlet.pending() > 0 {
                    inner.talk.lose_output(Fault::ClientGone);
                } else {
                    inner.talk.lose(Fault::ClientGone);
                }
            }
            (inner.wakers(), goes_on)
        };
        wake(wakers);
        goes_on
    }

    /// The worker wants to leave: tells those who asked.
    pub fn drain(&self) {
        let waker = self.inner().draining.take();
        wake([waker]);
    }

    /// The request is over its time: by the client's fault if its application waits for the body, else by its own.
    pub fn expire(&self) {
        let wakers = {
            let mut inner = self.inner();
            // Also one whose waker was taken for octets that it has not seen yet.
            if inner.read.since.is_some() {
                inner.talk.expire_for_client();
            } else {
                inner.talk.fail(Fault::Expired);
            }
            inner.wakers()
        };
        wake(wakers);
    }

    /// Ends what has waited too long.
    pub fn check_times(&self, now: Instant) {
        let wakers = {
            let mut inner = self.inner();
            let over = |since: Option<Instant>, timeout: Option<Duration>| {
                since.zip(timeout).is_some_and(|(since, timeout)| since + timeout <= now)
            };
            let stream = inner.talk.phase == Phase::Stream;
            if inner.read.waker.is_some() && !stream && over(inner.read.since, inner.talk.rules.body_timeout)
            {
                inner.talk.body_timed_out();
                inner.read.waker.take()
            } else if over(inner.write.since, inner.talk.rules.write_timeout) {
                inner.talk.lose_output(Fault::TimedOut);
                inner.write.moved();
                inner.write.waker.take()
            } else {
                None
            }
        };
        wake([wakers]);
    }

    /// Answers what the application left open; the future must be dropped. Returns how it ended if nothing is left
    /// to be sent, as nearly always. Else go on with `wanted` and `ready` until it wants nothing more, then take
    /// [`Polled::ended`].
    pub fn conclude(&self, verdict: Verdict) -> Option<Ended> {
        let mut inner = self.inner();
        inner.read = Side::default();
        inner.write.waker = None;
        (inner.gone, inner.draining) = (None, None);
        inner.talk.settle(verdict, &self.seen);
        if !inner.talk.may_gather(&self.seen) {
            inner.talk.gathers = false;
            if !inner.talk.outlet.is_empty() {
                // A client that cannot be reached has been noted.
                let _ = inner.push();
            }
            if !inner.talk.outlet.is_empty() {
                return None;
            }
        }
        Some(inner.talk.ended(&self.seen))
    }

    /// How it ended. What is still buffered is lost.
    #[must_use]
    pub fn ended(&self) -> Ended {
        self.inner().talk.ended(&self.seen)
    }

    /// Reports the end to the host.
    pub fn report(&self, host: &Host, ended: &Ended) {
        // Taken out first: the host asks this exchange about its request meanwhile.
        let fields = if self.keeps_fields { self.inner().talk.take_response_fields() } else { Vec::new() };
        let fields: Vec<Field<'_>> = fields.iter().map(|(name, value)| Field { name, value }).collect();
        host.request_end(&record(&self.seen, &request_of(self), &fields, ended));
    }

    /// Whether something is left to be sent, and can be.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        let inner = self.inner();
        !inner.talk.outlet.is_empty() && !inner.talk.gathers
    }

    /// Uses the wire, to look at it or to wait for it.
    pub fn with_wire<R>(&self, with: impl FnOnce(&mut W) -> R) -> R {
        with(self.inner().talk.wire)
    }
}

impl<W: Wire> Exchange for Polled<'_, W> {
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
        self.seen.local.get_or_init(|| Box::new(self.inner().talk.wire.local()))
    }

    fn body_length(&self) -> Option<u64> {
        self.seen.body_length()
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        // It may not wait, and "nothing yet" is no answer it has.
        self.call(|inner| inner.talk.read(&self.seen, buffer)?.ok_or(Fault::Misuse))
    }

    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.call(|inner| {
            let before = inner.talk.outlet.pending();
            let result = inner.talk.read(&self.seen, buffer);
            inner.note_output(before);
            match result.transpose() {
                Some(result) => {
                    inner.read = Side::default();
                    Poll::Ready(result)
                }
                None => {
                    inner.read.wait(context);
                    Poll::Pending
                }
            }
        })
    }

    fn client_gone(&self) -> bool {
        let mut inner = self.inner();
        inner.is_gone || inner.talk.fault == Some(Fault::ClientGone) || inner.talk.wire.client_gone()
    }

    fn poll_client_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner();
        if inner.is_gone || inner.talk.fault == Some(Fault::ClientGone) {
            return Poll::Ready(());
        }
        inner.gone = Some(context.waker().clone());
        Poll::Pending
    }

    fn expired(&self) -> bool {
        self.seen.expired()
    }

    fn informational(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.call(|inner| {
            inner.talk.informational(status, fields)?;
            inner.push().map(|_| ())
        })
    }

    fn start(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        // The head waits for the first piece of the body: nothing new to wait for.
        self.inner().talk.start(&self.seen, status, fields, None)
    }

    fn write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.call(|inner| {
            let mut head = [0; 18];
            let tail = inner.talk.frame(piece, &mut head, false)?;
            inner.send_or_keep_within(tail, &self.seen)
        })
    }

    fn poll_write(&self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        self.call(|inner| {
            let Some(room) = inner.room()? else {
                inner.write.wait(context);
                return Poll::Pending;
            };
            let taken = &piece[..piece.len().min(room)];
            let mut head = [0; 18];
            let tail = inner.talk.frame(taken, &mut head, false)?;
            if tail.len() > 0 {
                inner.send_or_keep(tail)?;
            }
            Poll::Ready(Ok(taken.len()))
        })
    }

    fn flush(&self) -> Result<(), Fault> {
        self.call(|inner| inner.push().map(|_| ()))
    }

    fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.call(|inner| {
            if inner.push()? {
                return Poll::Ready(Ok(()));
            }
            inner.write.wait(context);
            Poll::Pending
        })
    }

    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Fault> {
        self.call(|inner| {
            let mut sent = 0;
            loop {
                match inner.send_file(file, offset + sent, length - sent)? {
                    Some(count) => sent += count,
                    None => {
                        inner.talk.queue_file(file, offset + sent, length - sent)?;
                        return inner.bounded(&self.seen);
                    }
                }
                if sent == length {
                    return Ok(());
                }
            }
        })
    }

    fn poll_send_file(
        &self,
        context: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<Result<u64, Fault>> {
        self.call(|inner| match inner.send_file(file, offset, length)? {
            Some(sent) => {
                inner.write.moved();
                Poll::Ready(Ok(sent))
            }
            None => {
                inner.write.wait(context);
                Poll::Pending
            }
        })
    }

    fn trailers(&self, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.inner().talk.set_trailers(fields)
    }

    fn end(&self) -> Result<(), Fault> {
        self.call(|inner| {
            inner.talk.end()?;
            inner.push_end()
        })
    }

    fn respond(&self, status: u16, fields: &[Field<'_>], body: &[u8]) -> Result<(), Fault> {
        self.call(|inner| {
            inner.talk.start(&self.seen, status, fields, Some(body.len()))?;
            let mut head = [0; 18];
            let tail = inner.talk.frame(body, &mut head, true)?;
            inner.send_or_keep_within(tail, &self.seen)
        })
    }

    fn take_over(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.call(|inner| {
            inner.talk.take_over(&self.seen, status, fields)?;
            inner.push().map(|_| ())
        })
    }

    fn stream_read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.call(|inner| inner.talk.stream_read(buffer)?.ok_or(Fault::Misuse))
    }

    fn stream_poll_read(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.call(|inner| match inner.talk.stream_read(buffer).transpose() {
            Some(result) => {
                inner.read = Side::default();
                Poll::Ready(result)
            }
            None => {
                inner.read.wait(context);
                Poll::Pending
            }
        })
    }

    fn stream_write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.call(|inner| {
            inner.talk.stream_frame(piece.len())?;
            inner.send_or_keep_within(Tail([piece, b"", b"", b""]), &self.seen)
        })
    }

    fn stream_poll_write(&self, context: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        self.call(|inner| {
            let Some(room) = inner.room()? else {
                inner.write.wait(context);
                return Poll::Pending;
            };
            let taken = &piece[..piece.len().min(room)];
            inner.talk.stream_frame(taken.len())?;
            inner.send_or_keep(Tail([taken, b"", b"", b""]))?;
            Poll::Ready(Ok(taken.len()))
        })
    }

    fn stream_shutdown(&self) -> Result<(), Fault> {
        self.call(|inner| inner.talk.stream_shutdown())
    }

    fn stream_fd(&self) -> Option<i32> {
        self.inner().talk.wire.fd()
    }

    fn draining(&self) -> bool {
        self.seen.watch.draining()
    }

    fn poll_draining(&self, context: &mut Context<'_>) -> Poll<()> {
        // Kept first, so that a wish that comes between the two is not missed.
        self.inner().draining = Some(context.waker().clone());
        if self.draining() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<W> fmt::Debug for Polled<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Polled")
    }
}

#[cfg(test)]
impl<W: Wire> Polled<'_, W> {
    pub(super) fn inner_pending(&self) -> u64 {
        self.inner().talk.outlet.pending()
    }
}
