//! A connection between requests: receiving heads, and what is kept from one to the next.
//!
//! It owns the buffer in which a head lies. From the moment an exchange begins until it is over that buffer
//! does not move, which is why the exchange borrows the connection. Between requests what is left over moves
//! to its front.
//!
//! What a newcomer gets wrong: the buffer may already hold the next request. Call [`Connection::receive`]
//! before waiting for the socket, not after.

use std::fmt;
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Scheme};

use super::blocking::Blocking;
use super::conversation::{Conversation, Ended, Opening, dated};
use super::outlet::{Outlet, Tail};
use super::polled::Polled;
use super::rules::Rules;
use super::seen::{Seen, Watch};
use super::wire::{Interest, Wire};
use crate::error::Error;
use crate::request::{Head, MethodKind, Progress};
use crate::response;

/// Where reading a head begins; most are shorter.
const FIRST_READ: usize = 8 * 1024;
/// Longer buffers are not kept for the next connection.
const KEPT: usize = 64 * 1024;
/// How much of a client's unwanted octets is read before closing anyway, and for how long. A client that
/// sends this much after it was told to stop will see a reset; it could be kept waiting no better.
const LINGER_OCTETS: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Octets read beyond the head's buffer.
#[derive(Debug, Default)]
pub(super) struct Spill {
    octets: Vec<u8>,
    start: usize,
    end: usize,
}

impl Spill {
    pub(super) fn unread(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    pub(super) fn take(&mut self, count: usize) {
        self.start += count;
    }

    /// Room for `size` octets; nothing may be unread.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        debug_assert!(self.start == self.end, "octets would be lost");
        (self.start, self.end) = (0, 0);
        self.octets.resize(size, 0);
        &mut self.octets
    }

    pub(super) fn filled(&mut self, count: usize) {
        self.end = count;
    }

    fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

/// The buffers of a connection, to be reused by the next one.
#[derive(Debug, Default)]
pub struct Memory {
    input: Vec<u8>,
    head: Head,
    spill: Spill,
    output: Vec<u8>,
}

/// What has been received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A head that is not complete, or nothing: wait until the wire is readable.
    Partial,
    /// A whole head.
    Complete,
    /// The client has left, or has never said anything: close without an answer.
    Closed,
    /// What cannot be served: [`Connection::refuse`], then close.
    Refused(Error),
}

/// One connection, between requests.
pub struct Connection<W> {
    wire: W,
    peer: Address,
    scheme: Scheme,
    memory: Memory,
    filled: usize,
    parsed: usize,
    head_len: usize,
    quiet: bool,
    ended_by_client: bool,
}

impl<W: Wire> Connection<W> {
    /// A connection on which nothing was received yet.
    #[must_use]
    pub fn new(wire: W, peer: Address, scheme: Scheme, mut memory: Memory) -> Self {
        memory.head.clear();
        memory.spill.clear();
        Self {
            wire,
            peer,
            scheme,
            memory,
            filled: 0,
            parsed: 0,
            head_len: 0,
            quiet: false,
            ended_by_client: false,
        }
    }

    /// The wire and the memory.
    #[must_use]
    pub fn into_parts(self) -> (W, Memory) {
        let mut memory = self.memory;
        if memory.input.len() > KEPT {
            memory.input = Vec::new();
        }
        if memory.output.capacity() > KEPT {
            memory.output = Vec::new();
        }
        (self.wire, memory)
    }

    /// The wire, to be watched.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// The client.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.peer
    }

    /// Whether something of a head was received.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.filled > 0
    }

    /// Octets received since the last request.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.filled as u64
    }

    /// Receives what has arrived, and looks for a whole head. Does not wait; reads no more once it has one.
    pub fn receive(&mut self, rules: &Rules) -> Arrival {
        loop {
            if self.parsed < self.filled {
                self.parsed = self.filled;
                let octets = &self.memory.input[..self.filled];
                match self.memory.head.parse(octets, &rules.limits, &rules.leniency) {
                    Ok(Progress::Partial) => {}
                    Ok(Progress::Complete { len }) => {
                        self.head_len = len;
                        return Arrival::Complete;
                    }
                    Err(error) => return Arrival::Refused(error),
                }
                // The socket is known to be empty.
                if self.quiet {
                    return Arrival::Partial;
                }
            }
            if self.filled == self.memory.input.len() {
                // The parser refuses before this grows beyond the limit and one doubling.
                self.memory.input.resize((self.filled * 2).max(FIRST_READ), 0);
            }
            let room = &mut self.memory.input[self.filled..];
            let size = room.len();
            match self.wire.read(room) {
                Ok(0) => {
                    self.ended_by_client = true;
                    let begun = self.filled > 0;
                    return if begun { Arrival::Refused(Error::Truncated) } else { Arrival::Closed };
                }
                Ok(count) => {
                    self.filled += count;
                    self.quiet = count < size;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.quiet = true;
                    return Arrival::Partial;
                }
                Err(_) => return Arrival::Closed,
            }
        }
    }

    /// As [`Connection::receive`], but waits. The whole head must arrive within `head_timeout`, however
    /// evenly it drips; the clock starts with the first wait. A client that said nothing in that time gets no
    /// 408, which would meet a request that it is just about to send.
    pub fn wait_for_head(&mut self, rules: &Rules) -> Arrival {
        let mut deadline = None;
        loop {
            match self.receive(rules) {
                Arrival::Partial => {}
                arrival => return arrival,
            }
            if deadline.is_none() {
                deadline = rules.head_timeout.map(|timeout| Instant::now() + timeout);
            }
            match self.wire.wait(Interest::Readable, deadline) {
                Ok(true) => self.quiet = false,
                Ok(false) if self.has_begun() => return Arrival::Refused(Error::Timeout),
                Ok(false) | Err(_) => return Arrival::Closed,
            }
        }
    }

    /// The request-target of a head that is complete, by which the application is selected.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        self.memory.head.target(&self.memory.input[..self.filled])
    }

    fn open<'c>(
        &'c mut self,
        rules: &'c Rules,
        mount: &'c [u8],
        keep_alive: bool,
        watch: &'c dyn Watch,
    ) -> (Seen<'c>, Conversation<'c, W>) {
        let Memory { input, head, spill, output } = &mut self.memory;
        let octets = &input[..self.filled];
        spill.clear();
        let seen = Seen {
            octets,
            head,
            mount,
            scheme: self.scheme,
            peer: &self.peer,
            local: OnceLock::new(),
            trailers: OnceLock::new(),
            watch,
            token: AtomicU64::new(0),
        };
        let opening = Opening {
            wire: &mut self.wire,
            rules,
            rest: &octets[self.head_len..],
            spill,
            output,
            quiet: self.quiet,
            keep_alive,
            bytes_in: self.filled as u64,
        };
        let conversation = Conversation::new(opening, &seen);
        (seen, conversation)
    }

    /// The exchange for a blocking or inline application. The head must be complete; `mount` is the prefix
    /// of the application; `keep_alive` is the class's wish for this connection.
    pub fn blocking<'c>(
        &'c mut self,
        rules: &'c Rules,
        mount: &'c [u8],
        keep_alive: bool,
        watch: &'c dyn Watch,
    ) -> Blocking<'c, W> {
        let (seen, conversation) = self.open(rules, mount, keep_alive, watch);
        Blocking::new(seen, conversation, rules)
    }

    /// The exchange for an async application. `changed` is woken when a call from elsewhere changes
    /// [`Polled::wanted`].
    pub fn polled<'c>(
        &'c mut self,
        rules: &'c Rules,
        mount: &'c [u8],
        keep_alive: bool,
        watch: &'c dyn Watch,
        changed: Waker,
    ) -> Polled<'c, W> {
        let (seen, conversation) = self.open(rules, mount, keep_alive, watch);
        Polled::new(seen, conversation, rules, changed)
    }

    /// Goes on to the next request after an exchange that kept the connection.
    pub fn next(&mut self, ended: &Ended) {
        let input = &mut self.memory.input;
        input.copy_within(self.filled - ended.rest..self.filled, 0);
        self.filled = ended.rest;
        let spilled = self.memory.spill.unread();
        if self.filled + spilled.len() > input.len() {
            input.resize(self.filled + spilled.len(), 0);
        }
        input[self.filled..][..spilled.len()].copy_from_slice(spilled);
        self.filled += spilled.len();
        self.memory.spill.clear();
        self.parsed = 0;
        self.quiet = false;
    }

    /// Answers a head that cannot be served, as far as the client takes it without being waited for: the
    /// answer is shorter than any socket's buffer. Returns status and octets of the body, for the record.
    pub fn refuse(&mut self, error: &Error) -> (u16, u64) {
        let status = error.status();
        let mut outlet = Outlet::new(&mut self.memory.output);
        dated(|date| response::error_response(outlet.buffer(), status, MethodKind::Other, date));
        match outlet.send(&mut self.wire, &mut Tail::default()) {
            Ok(true) => {}
            Ok(false) | Err(_) => return (0, 0),
        }
        let answer = &self.memory.output;
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        (status, (answer.len() - head) as u64)
    }

    /// Whether to linger after [`Connection::refuse`]; see [`Ended::linger`].
    #[must_use]
    pub fn may_have_more(&self) -> bool {
        !self.ended_by_client
    }

    /// Ends the server's direction and waits until the client has ended its own, so that closing the socket
    /// resets nothing. Bounded in time and octets.
    pub fn linger(&mut self) {
        if self.wire.shutdown_write().is_err() {
            return;
        }
        let mut left = LINGER_OCTETS;
        let mut deadline = None;
        let mut buffer = [0; 8192];
        while left > 0 {
            match self.wire.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + LINGER_TIME);
                    match self.wire.wait(Interest::Readable, Some(until)) {
                        Ok(true) => {}
                        Ok(false) | Err(_) => return,
                    }
                }
                Err(_) => return,
            }
        }
    }
}

impl<W> fmt::Debug for Connection<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What the blocking face and the class's own waits have in common.
pub(super) fn wait<W: Wire>(
    wire: &mut W,
    interest: Interest,
    timeout: Option<Duration>,
) -> Result<(), Fault> {
    let until = timeout.map(|timeout| Instant::now() + timeout);
    match wire.wait(interest, until) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::TimedOut),
        Err(error) => Err(super::wire::fault_of(&error)),
    }
}
