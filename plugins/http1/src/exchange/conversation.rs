//! The state of one exchange: which calls are in order, what they put on the wire, what went wrong.
//!
//! It owns every rule that does not depend on how the class waits: `input`, `output` and `end` have one side
//! each, this file what they share. No call waits: a read answers `None` when the client must send more, a
//! send answers `false` when the client must take more. A face that may wait then calls `wait`.
//!
//! What a newcomer gets wrong: a fault is remembered, and decides the answer even if the application swallows
//! it. The application's own verdict matters only if the connection and the request were well.

mod end;
mod input;
mod output;

use std::cell::RefCell;
use std::time::UNIX_EPOCH;

use nix::time::{ClockId, clock_gettime};
use rgunicorn_worker_api::error::Fault;

use super::connection::Spill;
use super::connection::wait;
use super::outlet::Outlet;
use super::rules::Rules;
use super::seen::Seen;
use super::wire::{Interest, Wire, fault_of};
use crate::body::BodyDecoder;
use crate::date::DateCache;
use crate::error::Error;
use crate::request::Exchange as Facts;
use crate::response::{LastHead, ResponseFraming};
use crate::write::BodyWriter;

thread_local! {
    static HEADS: RefCell<Option<(DateCache, LastHead)>> = const { RefCell::new(None) };
}

/// Calls `with` with the date of now, formatted at most once a second on each thread.
pub(super) fn dated<R>(with: impl FnOnce(&DateCache) -> R) -> R {
    with_last_head(|date, _| with(date))
}

/// The same, and the head that this thread has made last.
pub(super) fn with_last_head<R>(with: impl FnOnce(&DateCache, &mut LastHead) -> R) -> R {
    HEADS.with_borrow_mut(|heads| {
        let (date, last) = heads.get_or_insert_with(|| (DateCache::new(UNIX_EPOCH), LastHead::default()));
        // The seconds are all that is wanted, and the clock that is some milliseconds late costs a fifth of the exact one.
        // It is there on every Linux, so that there is no error; before 1970 it is 1970.
        let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec());
        date.set(now.try_into().unwrap_or(0));
        with(date, last)
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
    /// The wire was last seen empty.
    pub(super) quiet: bool,
    /// Octets behind the head that belong to the next request.
    pub(super) rest: usize,
}

pub(super) struct Conversation<'c, W> {
    pub(super) wire: &'c mut W,
    pub(super) rules: &'c Rules,
    facts: Facts,

    /// What arrived with the head and was not taken yet.
    rest: &'c [u8],
    /// What was read beyond it.
    spill: &'c mut Spill,
    aside: &'c mut Aside,
    continue_wanted: bool,
    pub(super) bytes_in: u64,
    /// The last read found no more than it took.
    quiet: bool,
    ended_by_client: bool,

    pub(super) phase: Phase,
    pub(super) outlet: &'c mut Outlet,
    /// What is buffered waits for the answers of the next requests, unless it grows or is flushed.
    pub(super) gathers: bool,
    /// The application has waited for more of the body than had come.
    has_waited: bool,
    /// All that is buffered is a head, which waits for the first piece of the body.
    pub(super) held: bool,
    writer: BodyWriter,
    framing: ResponseFraming,
    keep_alive: bool,
    status: u16,
    cut: bool,
    /// Octets of the open chunk of a file that are still to come, and what goes behind them.
    open_chunk: u64,
    error_bytes: u64,
    stream_bytes: u64,
    pub(super) shutdown_when_sent: bool,

    pub(super) fault: Option<Fault>,
    /// Nothing can be sent any more.
    unreachable: bool,
    incomplete: bool,
    /// Octets that were buffered when the client could no longer be reached.
    lost: u64,
}

/// What is large and mostly empty. It lies in the connection's memory, so that an exchange, which is moved, is
/// small.
#[derive(Debug, Default)]
pub(super) struct Aside {
    body: Option<BodyDecoder>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    response_fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// What the client is told is wrong with its request.
    refusal: Option<Error>,
}

/// What a new conversation begins with.
pub(super) struct Opening<'c, W> {
    pub(super) wire: &'c mut W,
    pub(super) rules: &'c Rules,
    pub(super) rest: &'c [u8],
    pub(super) spill: &'c mut Spill,
    pub(super) aside: &'c mut Aside,
    pub(super) outlet: &'c mut Outlet,
    pub(super) quiet: bool,
    pub(super) ended_by_client: bool,
    pub(super) fault: Option<Fault>,
    pub(super) bodiless: bool,
    pub(super) keep_alive: bool,
    pub(super) bytes_in: u64,
}

impl<'c, W: Wire> Conversation<'c, W> {
    pub(super) fn new(opening: Opening<'c, W>, seen: &Seen<'_>) -> Self {
        let Opening { wire, rules, rest, spill, aside, outlet, quiet, ended_by_client, .. } = opening;
        let Opening { fault, bodiless, keep_alive, bytes_in, .. } = opening;
        let mut facts = seen.head.exchange(seen.octets);
        facts.keep_alive &= keep_alive && rules.keep_alive;
        let (body, refusal) = if bodiless {
            (None, None)
        } else {
            match BodyDecoder::new(seen.head.framing(), &rules.limits, rules.leniency.header_map) {
                Ok(body) => (Some(body), None),
                Err(error) => (None, Some(error)),
            }
        };
        let refused = refusal.as_ref().map(fault_of_refusal);
        (aside.body, aside.refusal) = (body, refusal);
        aside.trailers.clear();
        aside.response_fields.clear();
        let mut conversation = Self {
            wire,
            rules,
            facts,
            rest,
            spill,
            aside,
            continue_wanted: seen.head.expect_continue() && rest.is_empty(),
            bytes_in,
            quiet,
            ended_by_client,
            phase: Phase::Unstarted,
            outlet,
            gathers: false,
            has_waited: false,
            held: false,
            writer: BodyWriter::new(ResponseFraming::NoBody),
            framing: ResponseFraming::NoBody,
            keep_alive: false,
            status: 0,
            cut: false,
            open_chunk: 0,
            error_bytes: 0,
            stream_bytes: 0,
            shutdown_when_sent: false,
            fault: refused,
            unreachable: false,
            incomplete: false,
            lost: 0,
        };
        if let Some(fault) = fault {
            conversation.lose(fault);
        }
        conversation
    }

    /// Remembers the first one.
    pub(super) fn fail(&mut self, fault: Fault) -> Fault {
        *self.fault.get_or_insert(fault)
    }

    fn refuse(&mut self, error: Error) -> Fault {
        let fault = fault_of_refusal(&error);
        self.aside.refusal.get_or_insert(error);
        self.fail(fault)
    }

    /// Nothing can be sent any more.
    pub(super) fn lose(&mut self, fault: Fault) -> Fault {
        self.incomplete |= self.phase == Phase::Started;
        self.unreachable = true;
        self.gathers = false;
        self.lost += self.outlet.pending();
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

    /// The time of the request is over, and the client has not sent what the application waited for.
    pub(super) fn expire_for_client(&mut self) -> Fault {
        if self.phase != Phase::Stream {
            self.aside.refusal.get_or_insert(Error::Timeout);
        }
        self.fail(Fault::Expired)
    }

    /// Waits until the wire is ready, and counts what that finds.
    pub(super) fn wait(&mut self, seen: &Seen<'_>, interest: Interest) -> Result<(), Fault> {
        let for_body = interest == Interest::Readable;
        if seen.expired() {
            // Octets that drip in are no progress of the application's.
            let client = for_body && self.has_waited;
            return Err(if client { self.expire_for_client() } else { self.fail(Fault::Expired) });
        }
        self.has_waited |= for_body;
        let timeout = match interest {
            Interest::Readable if self.phase == Phase::Stream => None,
            Interest::Readable => self.rules.body_timeout,
            Interest::Writable => self.rules.write_timeout,
        };
        match (wait(self.wire, interest, timeout), interest) {
            // Its time ended while it waited for the client, and not before.
            (Ok(()), Interest::Readable) if seen.expired() => Err(self.expire_for_client()),
            (Ok(()), _) => Ok(()),
            (Err(Fault::TimedOut), Interest::Readable) => Err(self.body_timed_out()),
            (Err(fault), Interest::Readable) => Err(self.lose(fault)),
            (Err(fault), Interest::Writable) => Err(self.lose_output(fault)),
        }
    }

    /// Whether the class must answer for the client's mistake without calling the application.
    pub(super) fn refused(&self) -> bool {
        self.aside.refusal.is_some()
    }
}

fn fault_of_refusal(error: &Error) -> Fault {
    match error.status() {
        408 => Fault::TimedOut,
        413 | 431 => Fault::TooLarge,
        _ => Fault::Malformed,
    }
}
