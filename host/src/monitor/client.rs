//! One client of the monitor: what it has sent, what it is to be told, and how long it may take.
//!
//! Owns the connection and its times. Does not own what is said. What a newcomer would get wrong: a connection that is
//! closed while octets of its client are unread is reset, and the reset may eat the answer; so after the answer the
//! monitor says that nothing more comes, and listens until the client closes too, or its time is over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::fd::Watch;

/// How long a client may take to ask.
const TO_ASK: Duration = Duration::from_secs(5);
/// How long it may take to read its answer.
const TO_READ: Duration = Duration::from_secs(5);
/// How long it may take to close.
const TO_CLOSE: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    fn end(&self) {
        // Fails when the client has gone, which the next read tells.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(octets),
            Self::Unix(stream) => stream.read(octets),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(octets),
            Self::Unix(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It asks.
    Hearing,
    /// It reads its answer.
    Saying,
    /// It was told everything, and is to close.
    Lingering,
    Gone,
}

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    stream: Stream,
    phase: Phase,
    heard: Vec<u8>,
    answer: Vec<u8>,
    said: usize,
    deadline: Instant,
    /// It has said that it sends no more.
    ended: bool,
}

impl Client {
    pub(super) fn new(stream: Stream, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking()?;
        let (heard, answer) = (Vec::new(), Vec::new());
        Ok(Self {
            stream,
            phase: Phase::Hearing,
            heard,
            answer,
            said: 0,
            deadline: now + TO_ASK,
            ended: false,
        })
    }

    /// What to wait for; nothing, if it has only to be answered.
    pub(super) fn watch(&self) -> Option<Watch<'_>> {
        match self.phase {
            Phase::Saying => Some(Watch::writable(self.stream.as_fd())),
            Phase::Hearing if self.ended => None,
            Phase::Hearing | Phase::Lingering | Phase::Gone => Some(Watch::readable(self.stream.as_fd())),
        }
    }

    /// It has asked, and is to wait so long for its answer.
    pub(super) fn wait_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// It will not send what is missing.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// It can be forgotten.
    pub(super) fn forget(&mut self) {
        self.phase = Phase::Gone;
    }

    /// When its time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it can be forgotten.
    pub(super) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether it has not asked yet. It can be sent away for another who has.
    pub(super) fn is_asking(&self) -> bool {
        self.phase == Phase::Hearing
    }

    /// What it has sent, as long as it was not answered.
    pub(super) fn heard(&self) -> Option<&[u8]> {
        (self.phase == Phase::Hearing).then_some(&self.heard)
    }

    /// Reads what has come, at most `most` octets altogether, and what remains of what was said.
    pub(super) fn go_on(&mut self, most: usize, now: Instant) {
        match self.phase {
            Phase::Hearing => self.hear(most),
            Phase::Saying => self.say(now),
            Phase::Lingering => self.linger(),
            Phase::Gone => {}
        }
    }

    /// Its answer, after which the connection is closed.
    pub(super) fn answer(&mut self, answer: Vec<u8>, now: Instant) {
        self.answer = answer;
        self.phase = Phase::Saying;
        self.deadline = now + TO_READ;
        self.say(now);
    }

    fn hear(&mut self, most: usize) {
        let mut octets = [0; 1024];
        while self.heard.len() <= most {
            match self.stream.read(&mut octets) {
                // It may still wait for its answer.
                Ok(0) => return self.ended = true,
                Ok(count) => self.heard.extend_from_slice(&octets[..count]),
                Err(error) => return self.failed(&error),
            }
        }
    }

    fn say(&mut self, now: Instant) {
        while self.said < self.answer.len() {
            match self.stream.write(&self.answer[self.said..]) {
                Ok(0) => return self.phase = Phase::Gone,
                Ok(count) => self.said += count,
                Err(error) => return self.failed(&error),
            }
        }
        self.stream.end();
        self.phase = Phase::Lingering;
        self.deadline = now + TO_CLOSE;
        self.linger();
    }

    fn linger(&mut self) {
        let mut octets = [0; 1024];
        // Bounded: who sends on and on is not listened to for ever.
        for _ in 0..16 {
            match self.stream.read(&mut octets) {
                Ok(0) => return self.phase = Phase::Gone,
                Ok(_) => {}
                Err(error) => return self.failed(&error),
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
            self.phase = Phase::Gone;
        }
    }
}
