//! A connection between requests: receiving heads, and what is kept from one to the next.
//!
//! It owns the buffer in which a head lies. From the moment an exchange begins until it is over that buffer
//! does not move, which is why the exchange borrows the connection. Between requests what is left over moves
//! to its front.
//!
//! What a newcomer gets wrong: the buffer may already hold the next request. Call [`Connection::receive`]
//! before waiting for the socket, not after.

mod ahead;
mod linger;

use std::fmt;
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Scheme};

pub use self::ahead::Ahead;
pub use self::linger::{LINGER_TIME, Lingering};

use self::ahead::Looked;
use super::blocking::Blocking;
use super::conversation::{Aside, Conversation, Ended, Opening, dated};
use super::outlet::{Outlet, Tail};
use super::polled::Polled;
use super::rules::Rules;
use super::seen::{Seen, Watch};
use super::wire::{Interest, Wire, fault_of};
use crate::error::Error;
use crate::proxy::{self, Preface};
use crate::request::{BodyFraming, Head, MethodKind, Progress};
use crate::response;

/// Where reading a head begins; most are shorter.
const FIRST_READ: usize = 8 * 1024;
/// Longer buffers are not kept for the next connection: a head and a body that is received ahead of its exchange fit
/// into this.
const KEPT: usize = 80 * 1024;

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
pub struct Memory(Box<Buffers>);

#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    head: Head,
    spill: Spill,
    outlet: Outlet,
    aside: Aside,
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

/// Who is at the other end of a connection. A class keeps it while the connection is idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the socket, by which is judged whom to trust.
    peer: Address,
    /// Whom a trusted proxy speaks for.
    client: Option<Box<Address>>,
    /// Nothing but a PROXY protocol header, or a part of one, was received yet.
    at_preface: bool,
    /// Whether the other end is a proxy that is believed, once that was asked.
    believed: Option<bool>,
}

impl Caller {
    /// The client: the other end of the socket, or whom a trusted proxy there speaks for (PROXY protocol).
    #[must_use]
    pub fn client(&self) -> &Address {
        self.client.as_deref().unwrap_or(&self.peer)
    }
}

/// Of a connection that was just accepted.
impl From<Address> for Caller {
    fn from(peer: Address) -> Self {
        Self { peer, client: None, at_preface: true, believed: None }
    }
}

/// One connection, between requests.
pub struct Connection<W> {
    wire: W,
    caller: Caller,
    scheme: Scheme,
    /// Of this request, as a trusted proxy may have told.
    request_scheme: Scheme,
    memory: Box<Buffers>,
    /// Where in the input this request begins. All that is behind a request that was served stays where it is until
    /// there is something to be read.
    begin: usize,
    filled: usize,
    parsed: usize,
    head_len: usize,
    /// The last read found no more than it took.
    quiet: bool,
    /// A short read no longer means that there is no more: the end of the client's direction is there too.
    ending: bool,
    ended_by_client: bool,
    looked: Option<Box<Looked>>,
    /// Why nothing more can be received.
    fault: Option<Fault>,
    /// The body belongs to another exchange.
    bodiless: bool,
    linger_left: u32,
}

impl<W: Wire> Connection<W> {
    /// A connection on which nothing was received yet.
    #[must_use]
    pub fn new(wire: W, caller: impl Into<Caller>, scheme: Scheme, memory: Memory) -> Self {
        let Memory(mut memory) = memory;
        memory.head.clear();
        memory.spill.clear();
        memory.outlet.discard();
        Self {
            wire,
            caller: caller.into(),
            scheme,
            request_scheme: scheme,
            memory,
            begin: 0,
            filled: 0,
            parsed: 0,
            head_len: 0,
            quiet: false,
            ending: false,
            ended_by_client: false,
            looked: None,
            fault: None,
            bodiless: false,
            linger_left: 0,
        }
    }

    /// A connection that stands in for another one, whose application does not let go of its exchange: `octets`
    /// are that one's complete head ([`Connection::head`]). The exchange that is opened here answers and
    /// reports in its stead; it has nothing of the request's body. `None` if they are no complete head.
    #[must_use]
    pub fn with_head(
        wire: W,
        caller: impl Into<Caller>,
        scheme: Scheme,
        rules: &Rules,
        octets: &[u8],
        memory: Memory,
    ) -> Option<Self> {
        let mut connection = Self::new(wire, caller, scheme, memory);
        connection.caller.at_preface = false;
        let input = &mut connection.memory.input;
        if input.len() < octets.len() {
            input.resize(octets.len(), 0);
        }
        input[..octets.len()].copy_from_slice(octets);
        connection.filled = octets.len();
        connection.parsed = octets.len();
        match connection.parse(rules) {
            Ok(Progress::Complete { len }) => connection.head_len = len,
            Ok(Progress::Partial) | Err(_) => return None,
        }
        connection.bodiless = true;
        Some(connection)
    }

    /// The wire, the client and the memory, which serves another connection: between requests an idle one needs
    /// only the first two. What was received or is still unsent is given up.
    #[must_use]
    pub fn into_parts(self) -> (W, Caller, Memory) {
        let mut memory = self.memory;
        if memory.input.len() > KEPT {
            memory.input = Vec::new();
        }
        memory.outlet.trim();
        (self.wire, self.caller, Memory(memory))
    }

    /// The wire, to be watched.
    pub fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// The client: the other end of the socket, or whom a trusted proxy there speaks for (PROXY protocol).
    #[must_use]
    pub fn peer(&self) -> &Address {
        self.caller.client()
    }

    /// Who is at the other end.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
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
                match self.parse(rules) {
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
            self.move_forward();
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
                    self.quiet = count < size && !self.ending;
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

    /// What was received of this request, and behind it.
    fn octets(&self) -> &[u8] {
        &self.memory.input[self.begin..][..self.filled]
    }

    /// Makes room for reading.
    fn move_forward(&mut self) {
        if self.begin > 0 {
            self.memory.input.copy_within(self.begin..self.begin + self.filled, 0);
            self.begin = 0;
        }
    }

    /// Looks for a whole head in what was received, behind a PROXY protocol header if there is one.
    fn parse(&mut self, rules: &Rules) -> Result<Progress, Error> {
        if self.caller.at_preface && !self.take_preface(rules)? {
            return Ok(Progress::Partial);
        }
        let octets = &self.memory.input[self.begin..][..self.filled];
        let Rules { limits, leniency, forwarded, .. } = rules;
        let Caller { peer, believed, .. } = &mut self.caller;
        let believed = *believed.get_or_insert_with(|| forwarded.allow.has(peer));
        let head = &mut self.memory.head;
        let progress = head.parse_forwarded(octets, limits, leniency, forwarded.headers_of(believed))?;
        if let Progress::Complete { .. } = progress {
            self.request_scheme = match believed {
                true => forwarded.scheme(head, octets, self.scheme)?,
                false => self.scheme,
            };
        }
        Ok(progress)
    }

    /// Takes a PROXY protocol header out of the input; `false` if there may still be one, or nothing is behind it.
    fn take_preface(&mut self, rules: &Rules) -> Result<bool, Error> {
        let octets = self.octets();
        let preface = match proxy::parse(octets, rules.proxy_protocol, rules.limits.head) {
            Ok(Preface::Partial) => return Ok(false),
            Ok(Preface::Absent) => {
                self.caller.at_preface = false;
                return Ok(true);
            }
            // Whether such a peer's header is well-formed is of no interest.
            _ if !rules.proxy_allow.has(&self.caller.peer) => return Err(Error::ForbiddenProxy),
            other => other?,
        };
        let Preface::Complete { len, client } = preface else { return Ok(false) };
        self.caller.at_preface = false;
        self.caller.client = client.map(Box::new);
        self.begin += len;
        self.filled -= len;
        self.parsed = self.filled;
        Ok(self.filled > 0)
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

    /// To be called when the wire has become readable since the last read: a short read before that means
    /// nothing now.
    pub fn readable(&mut self) {
        self.quiet = false;
    }

    /// To be called when the wire reports that the client has ended its direction (`EPOLLRDHUP`): an
    /// edge-triggered event tells that once, and a short read does not mean then that nothing is behind it.
    pub fn more_to_come(&mut self) {
        self.quiet = false;
        self.ending = true;
    }

    /// Whether the wire is known to be empty, so that [`Connection::receive`] had better wait for an event.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet && self.filled == 0
    }

    /// The octets of a head that is complete.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.octets()[..self.head_len]
    }

    /// The request-target of a head that is complete, by which the application is selected.
    #[must_use]
    pub fn target(&self) -> &[u8] {
        self.memory.head.target(self.octets())
    }

    fn open<'c>(
        &'c mut self,
        rules: &'c Rules,
        mount: &'c [u8],
        keep_alive: bool,
        watch: &'c dyn Watch,
    ) -> (Seen<'c>, Conversation<'c, W>) {
        let Buffers { input, head, spill, outlet, aside } = &mut *self.memory;
        let octets = &input[self.begin..][..self.filled];
        spill.clear();
        outlet.unmark();
        let seen = Seen {
            octets,
            head,
            mount,
            scheme: self.request_scheme,
            peer: self.caller.client(),
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
            aside,
            outlet,
            quiet: self.quiet,
            ended_by_client: self.ended_by_client,
            fault: self.fault,
            bodiless: self.bodiless,
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
        Blocking::new(seen, conversation)
    }

    /// The exchange for an async application. `changed` is woken when a call from elsewhere changes
    /// [`Polled::wanted`].
    pub fn polled<'c>(
        &'c mut self,
        rules: &'c Rules,
        mount: &'c [u8],
        keep_alive: bool,
        watch: &'c dyn Watch,
        changed: &'c Waker,
    ) -> Polled<'c, W> {
        let (seen, conversation) = self.open(rules, mount, keep_alive, watch);
        Polled::new(seen, conversation, changed)
    }

    /// Goes on to the next request after an exchange that kept the connection.
    pub fn next(&mut self, ended: &Ended) {
        self.begin += self.filled - ended.rest;
        self.filled = ended.rest;
        if !self.memory.spill.unread().is_empty() {
            self.move_forward();
            let Buffers { input, spill, .. } = &mut *self.memory;
            let spilled = spill.unread();
            if self.filled + spilled.len() > input.len() {
                input.resize(self.filled + spilled.len(), 0);
            }
            input[self.filled..][..spilled.len()].copy_from_slice(spilled);
            self.filled += spilled.len();
        }
        self.memory.spill.clear();
        self.parsed = 0;
        self.looked = None;
        self.quiet = ended.quiet && !self.ending;
    }

    /// Octets of answers that are still to be sent; see [`Polled::gather`].
    #[must_use]
    pub fn unsent(&self) -> usize {
        usize::try_from(self.memory.outlet.pending()).unwrap_or(usize::MAX)
    }

    /// Sends them as far as the client takes them now; `true` if that was all.
    ///
    /// # Errors
    /// Nothing can be sent any more: close.
    pub fn send(&mut self) -> Result<bool, Fault> {
        self.memory.outlet.send(&mut self.wire, &mut Tail::default()).map_err(|error| fault_of(&error))
    }

    /// Whether octets of a next request lie behind the one whose exchange is to be opened. That is certain only
    /// of a request without a body.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.memory.head.framing() == BodyFraming::None && self.filled > self.head_len
    }

    /// Answers a head that cannot be served, as far as the client takes it without being waited for: the
    /// answer is shorter than any socket's buffer. Returns status and octets of the body, for the record.
    pub fn refuse(&mut self, error: &Error) -> (u16, u64) {
        let status = error.status();
        let outlet = &mut self.memory.outlet;
        let buffer = outlet.buffer();
        let start = buffer.len();
        dated(|date| response::error_response(buffer, status, MethodKind::Other, date));
        let body = body_of(&buffer[start..]);
        match outlet.send(&mut self.wire, &mut Tail::default()) {
            Ok(true) => (status, body),
            Ok(false) | Err(_) => (0, 0),
        }
    }

    /// Whether to linger after [`Connection::refuse`]; see [`Ended::linger`].
    #[must_use]
    pub fn may_have_more(&self) -> bool {
        !self.ended_by_client
    }
}

impl<W> fmt::Debug for Connection<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// How many octets follow the head of `answer`.
pub(super) fn body_of(answer: &[u8]) -> u64 {
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
    (answer.len() - head) as u64
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
