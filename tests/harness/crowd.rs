//! Many connections in one thread: slow ones, idle ones, newcomers.
//!
//! Owns the sockets, one epoll instance, and what each client sends, takes and saw. Does not judge. Nothing moves but in
//! [`Crowd::turn`], so a test says when the crowd lives: usually while it waits for something ([`Crowd::until`]).
//!
//! What a newcomer would get wrong: a client that takes little is only felt by a server if the kernel takes little for
//! it. So those that sip have the smallest receive buffer there is, and after that nothing is taken on their behalf.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, UnixAddr, bind, connect, setsockopt, socket, sockopt,
};

use crate::http::{Address, Failure};
use crate::wait::DEADLINE;

/// What a client remembers of what it has heard; of the rest only the length.
const KEPT: usize = 4096;

/// How long a turn waits when nothing happens.
const TURN: Duration = Duration::from_millis(5);

/// How many clients share a source address, so that ports never run short.
const CLIENTS_OF_AN_ADDRESS: usize = 4000;

/// What a client does by itself.
#[derive(Debug, Clone)]
pub struct Manner {
    octets: Arc<[u8]>,
    at_once: usize,
    pace: Option<Duration>,
    sip: Option<Duration>,
}

impl Manner {
    /// Sends this at once, and takes whatever comes.
    pub fn asks(octets: &str) -> Self {
        Self { octets: octets.as_bytes().into(), at_once: octets.len(), pace: None, sip: None }
    }

    /// Sends the first part at once, then the second one octet at a time, one in each `pace`; then nothing more.
    pub fn drips(first: &str, then: &[u8], pace: Duration) -> Self {
        let octets = [first.as_bytes(), then].concat();
        Self { octets: octets.into(), at_once: first.len(), pace: Some(pace), sip: None }
    }

    /// Sends this at once, and takes one octet in each `pace`.
    pub fn sips(octets: &str, pace: Duration) -> Self {
        Self { sip: Some(pace), ..Self::asks(octets) }
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    stream: Option<File>,
    connected: bool,
    manner: Manner,
    sent: usize,
    heard: Vec<u8>,
    taken: u64,
    last: Instant,
    end: Option<(Instant, Result<(), Failure>)>,
}

impl Client {
    /// Whether the kernels have shaken hands.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether all that it has to say has left.
    pub fn has_sent(&self) -> bool {
        self.connected && self.sent == self.manner.octets.len()
    }

    /// What it has heard, its first few thousand octets.
    pub fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// How many octets it has heard.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// When it heard something last; if nothing, when it came.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// When and how its connection ended, if it has.
    pub fn end(&self) -> Option<&(Instant, Result<(), Failure>)> {
        self.end.as_ref()
    }

    /// The status of what it has heard.
    pub fn status(&self) -> Option<u16> {
        let rest = self.heard.strip_prefix(b"HTTP/1.1 ")?;
        std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
    }

    /// The head and the body of one whole response of a known length, and nothing behind it.
    pub fn answer(&self) -> Option<(&str, &str)> {
        let (head, body) = std::str::from_utf8(&self.heard).ok()?.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
        });
        (length == Some(body.len())).then_some((head, body))
    }

    /// Whether the server has said that it closes.
    pub fn is_told_of_the_close(&self) -> bool {
        self.answer()
            .is_some_and(|(head, _)| head.lines().any(|line| line.eq_ignore_ascii_case("connection: close")))
    }

    fn finish(&mut self, how: Result<(), Failure>) {
        self.end = Some((Instant::now(), how));
        self.stream = None;
    }

    /// Whether it may send something now.
    fn has_to_say(&self) -> bool {
        self.sent < self.manner.at_once
    }

    fn interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.manner.sip.is_none());
        flags.set(EpollFlags::EPOLLOUT, !self.connected || self.has_to_say());
        flags
    }

    fn send(&mut self, up_to: usize) -> Result<(), Failure> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.sent < up_to {
            match stream.write(&self.manner.octets[self.sent..up_to]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes what there is, at most so much; true at the end.
    fn take(&mut self, most: usize) -> Result<bool, Failure> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut octets = [0; 16 * 1024];
        let most = most.min(octets.len());
        loop {
            match stream.read(&mut octets[..most]) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    let room = KEPT - self.heard.len();
                    self.heard.extend_from_slice(&octets[..count.min(room)]);
                    self.taken += count as u64;
                    self.last = Instant::now();
                    if most == 1 {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Clients, and the one thread that they live in: whoever calls.
#[derive(Debug)]
pub struct Crowd {
    epoll: Epoll,
    clients: Vec<Client>,
    /// Who is to do something by itself, and when.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Those whose connection has not ended.
    open: usize,
}

impl Default for Crowd {
    fn default() -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll instance");
        Self { epoll, clients: Vec::new(), due: BinaryHeap::new(), open: 0 }
    }
}

impl Crowd {
    /// Lets so many clients come. That they cannot connect is an end like another.
    pub fn join(&mut self, address: &Address, count: usize, manner: &Manner) {
        let now = Instant::now();
        for number in 0..count {
            let index = self.clients.len();
            let mut client = Client {
                stream: None,
                connected: false,
                manner: manner.clone(),
                sent: 0,
                heard: Vec::new(),
                taken: 0,
                last: now,
                end: None,
            };
            match open(address, index, manner.sip.is_some()) {
                Ok((stream, connected)) => {
                    client.stream = Some(File::from(stream));
                    client.connected = connected;
                    self.watch(index, &client);
                    self.open += 1;
                }
                Err(error) => client.finish(Err(error.into())),
            }
            if let Some(pace) = manner.pace.or(manner.sip) {
                // Spread over the interval, as strangers are.
                self.due.push(Reverse((now + pace.mul_f64(number as f64 / count as f64), index)));
            }
            self.clients.push(client);
        }
    }

    /// All who ever came, in the order in which they came.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// How many have a connection that has not ended.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether everybody who is still there has said all that he has to say.
    pub fn has_said_all(&self) -> bool {
        self.clients.iter().all(|client| client.end.is_some() || client.has_sent())
    }

    /// Lets a client send this, forgetting what it has heard.
    pub fn ask(&mut self, index: usize, octets: &str) {
        let client = &mut self.clients[index];
        client.manner = Manner::asks(octets);
        client.sent = 0;
        client.heard.clear();
        self.rearm(index);
    }

    /// Lets the crowd live until the condition holds; returns how long that took.
    ///
    /// # Panics
    /// If it does not hold within [`DEADLINE`].
    #[track_caller]
    pub fn until(&mut self, what: &str, condition: impl FnMut(&Self) -> bool) -> Duration {
        self.until_within(DEADLINE, what, condition)
    }

    /// The same with a deadline of its own.
    ///
    /// # Panics
    /// If the condition does not hold by then.
    #[track_caller]
    pub fn until_within(
        &mut self,
        limit: Duration,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < limit, "waited {limit:?} in vain for: {what}; {}", self.summary());
            self.turn();
        }
        begin.elapsed()
    }

    /// One turn: whoever can do something does it.
    pub fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); 256];
        let wait = match self.due.peek() {
            Some(Reverse((when, _))) => when.saturating_duration_since(Instant::now()).min(TURN),
            None => TURN,
        };
        let timeout = EpollTimeout::try_from(wait).expect("milliseconds");
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => panic!("epoll_wait: {error}"),
        };
        for event in &events[..count] {
            let index = usize::try_from(event.data()).expect("an index");
            self.happened(index, event.events());
        }
        let now = Instant::now();
        while let Some(&Reverse((when, index))) = self.due.peek()
            && when <= now
        {
            self.due.pop();
            self.act(index, now);
        }
    }

    fn happened(&mut self, index: usize, events: EpollFlags) {
        let client = &mut self.clients[index];
        let Some(stream) = &client.stream else { return };
        if !client.connected {
            // connect(2): whether it worked is told by the socket's error.
            match nix::sys::socket::getsockopt(stream, sockopt::SocketError) {
                Ok(0) => client.connected = true,
                Ok(error) => return self.gone(index, Err(io::Error::from_raw_os_error(error).into())),
                Err(error) => panic!("SO_ERROR: {error}"),
            }
        }
        let said = if client.has_to_say() { client.send(client.manner.at_once) } else { Ok(()) };
        let most = if client.manner.sip.is_none() { usize::MAX } else { 0 };
        // A server may answer and close before it has taken everything: what it said comes first.
        let heard = if most > 0 { client.take(most) } else { Ok(false) };
        let broken = events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match (heard, said) {
            (Ok(true), _) => self.gone(index, Ok(())),
            (Err(failure), _) | (_, Err(failure)) => self.gone(index, Err(failure)),
            (Ok(false), Ok(())) if most == 0 && broken => self.gone(index, Err(Failure::Reset)),
            (Ok(false), Ok(())) => self.rearm(index),
        }
    }

    /// It is time for this client to do something.
    fn act(&mut self, index: usize, now: Instant) {
        let client = &mut self.clients[index];
        if client.stream.is_none() {
            return;
        }
        let (outcome, pace) = match (client.manner.sip, client.manner.pace) {
            (Some(sip), _) if client.connected => (client.take(1), Some(sip)),
            (None, Some(pace)) if client.connected && !client.has_to_say() => {
                let up_to = client.manner.octets.len().min(client.sent + 1);
                let more = up_to < client.manner.octets.len();
                (client.send(up_to).map(|()| false), more.then_some(pace))
            }
            (sip, pace) => (Ok(false), sip.or(pace)),
        };
        match outcome {
            Ok(false) => {}
            Ok(true) => return self.gone(index, Ok(())),
            // What the server said before it closed is still to be heard.
            Err(_) if client.manner.sip.is_none() => return self.happened(index, EpollFlags::EPOLLERR),
            Err(failure) => return self.gone(index, Err(failure)),
        }
        if let Some(pace) = pace {
            self.due.push(Reverse((now + pace, index)));
        }
    }

    fn gone(&mut self, index: usize, how: Result<(), Failure>) {
        self.clients[index].finish(how);
        self.open -= 1;
    }

    fn watch(&self, index: usize, client: &Client) {
        let stream = client.stream.as_ref().expect("it is open");
        self.epoll.add(stream, EpollEvent::new(client.interest(), index as u64)).expect("a descriptor");
    }

    fn rearm(&mut self, index: usize) {
        let client = &self.clients[index];
        let Some(stream) = &client.stream else { return };
        let mut event = EpollEvent::new(client.interest(), index as u64);
        self.epoll.modify(stream, &mut event).expect("it was added");
    }

    fn summary(&self) -> String {
        let ended = self.clients.len() - self.open;
        let well = self.clients.iter().filter(|client| matches!(client.end, Some((_, Ok(()))))).count();
        format!("{} clients, {} open, {ended} ended, {well} of them well", self.clients.len(), self.open)
    }
}

/// A socket that is connected or about to be, and which of the two.
fn open(address: &Address, index: usize, small: bool) -> io::Result<(OwnedFd, bool)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (stream, outcome) = match address {
        Address::Tcp(SocketAddr::V4(to)) => {
            let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
            if small {
                // The kernel makes it the least that it allows (tcp(7)). Before connect(2), which announces it.
                setsockopt(&stream, sockopt::RcvBuf, &1)?;
            }
            if to.ip().is_loopback() {
                let last =
                    u8::try_from(1 + index / CLIENTS_OF_AN_ADDRESS).expect("a million clients at most");
                let from = Ipv4Addr::new(127, 0, 0, last);
                bind(stream.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0)))?;
            }
            let outcome = connect(stream.as_raw_fd(), &SockaddrIn::from(*to));
            (stream, outcome)
        }
        Address::Unix(path) => {
            // A Unix socket whose queue is full would say EAGAIN and not tell when there is room: so this one waits.
            let stream = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            let outcome = connect(stream.as_raw_fd(), &UnixAddr::new(path)?);
            fcntl(stream.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            (stream, outcome)
        }
        Address::Tcp(SocketAddr::V6(to)) => panic!("crowds come over IPv4, not to {to}"),
    };
    match outcome {
        Ok(()) => Ok((stream, true)),
        Err(Errno::EINPROGRESS) => Ok((stream, false)),
        Err(error) => Err(error.into()),
    }
}

/// Sees to it that this process, and servers that it starts from now on, may have so many descriptors. If the system
/// does not let it, says so, and is false: then the test is to be skipped.
pub fn room_for(descriptors: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < descriptors {
        eprintln!("skipped: it needs {descriptors} descriptors, and the hard limit is {hard} (ulimit -Hn)");
        return false;
    }
    if soft < descriptors {
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, hard).expect("up to the hard limit");
    }
    true
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Tcp(listener.local_addr().expect("it has one"));
        (listener, address)
    }

    #[test]
    fn an_end_and_a_reset_are_told_apart() {
        let (listener, address) = listener();
        let mut crowd = Crowd::default();
        crowd.join(&address, 2, &Manner::asks("hello"));
        crowd.until("both to have spoken", Crowd::has_said_all);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        for reads in [true, false] {
            let (mut stream, _) = listener.accept().expect("it has connected");
            let mut octets = [0; 5];
            if reads {
                stream.read_exact(&mut octets).expect("it has sent");
                stream.write_all(answer).expect("it reads");
            } else {
                stream.peek(&mut octets).expect("it has sent");
            }
            // Octets that were not read make the end a reset (RFC 9112 section 9.6).
        }
        crowd.until("both ends", |crowd| crowd.open() == 0);
        let [well, reset] = crowd.clients() else { panic!("two clients") };
        assert_eq!(well.end().map(|(_, how)| how), Some(&Ok(())));
        assert_eq!((well.status(), well.answer().map(|(_, body)| body)), (Some(200), Some("hi")));
        assert!(well.is_told_of_the_close());
        assert_eq!(reset.end().map(|(_, how)| how), Some(&Err(Failure::Reset)));
    }

    #[test]
    fn slow_ones_are_slow() {
        let (listener, address) = listener();
        let mut crowd = Crowd::default();
        let pace = Duration::from_millis(20);
        crowd.join(&address, 1, &Manner::drips("head", b"body", pace));
        let begin = Instant::now();
        crowd.until("the drips", Crowd::has_said_all);
        assert!(begin.elapsed() >= 3 * pace, "{:?}", begin.elapsed());
        let (mut stream, _) = listener.accept().expect("it has connected");
        let mut octets = [0; 8];
        stream.read_exact(&mut octets).expect("all of it");
        assert_eq!(&octets, b"headbody");

        crowd.join(&address, 1, &Manner::sips("", pace));
        crowd.until("the second to connect", |crowd| crowd.clients()[1].is_connected());
        let (mut stream, _) = listener.accept().expect("it has connected");
        stream.write_all(b"abc").expect("room");
        crowd.until("two sips", |crowd| crowd.clients()[1].taken() == 2);
        drop(stream);
        crowd.until("the rest", |crowd| crowd.clients()[1].end().is_some());
        assert_eq!(crowd.clients()[1].heard(), b"abc");
    }

    #[test]
    fn nobody_listens() {
        let (listener, address) = listener();
        drop(listener);
        let mut crowd = Crowd::default();
        crowd.join(&address, 1, &Manner::asks("hello"));
        crowd.until("the refusal", |crowd| crowd.open() == 0);
        assert_eq!(crowd.clients()[0].end().map(|(_, how)| how), Some(&Err(Failure::Refused)));
    }
}
