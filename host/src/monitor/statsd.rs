//! statsd: what was counted since the last time, once a second, under Gunicorn's names.
//!
//! Owns the form of the datagrams and the socket. Does not own the counters; what was reported already stands on the
//! scoreboard, so that a monitor that takes over neither repeats nor forgets anything.
//!
//! What a newcomer would get wrong: Gunicorn sends datagrams for each request, from the worker, while the client waits. A
//! worker here only counts, and what is sent is a sum; a server that adds up sees the same numbers.

use std::fmt::Write;
use std::io;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::health::Snapshot;
use crate::config::{BindKind, StatsdTarget};
use crate::scoreboard::{CODES, LATENCY_BUCKETS, LINES, latency_bounds};

/// How often it is sent.
const PERIOD: Duration = Duration::from_secs(1);
/// Octets of a datagram: what passes an Ethernet in one piece, over IPv6 too.
const DATAGRAM: usize = 1432;

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Unix(UnixDatagram),
}

/// The way to a statsd server.
#[derive(Debug)]
pub(super) struct Statsd<'m> {
    target: &'m StatsdTarget,
    socket: Socket,
    next: Instant,
    failing: bool,
}

impl<'m> Statsd<'m> {
    /// # Errors
    /// No descriptor.
    pub(super) fn open(target: &'m StatsdTarget, now: Instant) -> io::Result<Self> {
        let socket = match &target.address {
            BindKind::Tcp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Socket::Udp(socket)
            }
            BindKind::Unix(_) | BindKind::Abstract(_) | BindKind::Fd(_) | BindKind::FdName(_) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Socket::Unix(socket)
            }
        };
        Ok(Self { target, socket, next: now + PERIOD, failing: false })
    }

    /// When it is to be sent again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Sends what is new. What cannot be sent at once is lost, as datagrams may be; the log says when that begins.
    pub(super) fn send(&mut self, snapshot: &Snapshot, statuses: &[u64; CODES], now: Instant) {
        self.next = now + PERIOD;
        let mut failure = None;
        for datagram in datagrams(&lines(self.target, snapshot, statuses)) {
            if let Err(error) = self.send_one(datagram.as_bytes()) {
                failure = Some(error);
            }
        }
        if let (Some(error), false) = (&failure, self.failing) {
            log::warn!("Metrics cannot be sent to statsd_host: {error}; what is not sent is lost");
        }
        self.failing = failure.is_some();
    }

    fn send_one(&self, datagram: &[u8]) -> io::Result<()> {
        match (&self.socket, &self.target.address) {
            (Socket::Udp(socket), BindKind::Tcp(address)) => socket.send_to(datagram, address).map(drop),
            (Socket::Unix(socket), BindKind::Unix(path)) => socket.send_to(datagram, path).map(drop),
            (Socket::Unix(socket), BindKind::Abstract(name)) => {
                socket.send_to_addr(datagram, &SocketAddr::from_abstract_name(name)?).map(drop)
            }
            // Refused as settings, or made for the other kind.
            (Socket::Udp(_) | Socket::Unix(_), _) => Ok(()),
        }
    }
}

/// A line for each metric that has something to say.
fn lines(target: &StatsdTarget, snapshot: &Snapshot, statuses: &[u64; CODES]) -> Vec<String> {
    let facts = snapshot.facts;
    let mut lines = Vec::new();
    let mut say = |name: &str, value: &str| {
        lines.push(format!("{}gunicorn.{name}:{value}{}", target.prefix, target.tags));
    };
    let mut answered = 0_u64;
    for (index, count) in statuses.iter().enumerate() {
        let new = facts.unreported(index, *count);
        answered = answered.saturating_add(new);
        if new > 0 {
            say(&format!("request.status.{}", 100 + index), &format!("{new}|c|@1.0"));
        }
    }
    if answered > 0 {
        say("requests", &format!("{answered}|c|@1.0"));
    }
    let bounds = latency_bounds().chain([2 * latency_bounds().last().unwrap_or(1)]);
    for (index, (bound, count)) in bounds.zip(snapshot.totals.latency.buckets).enumerate() {
        let new = facts.unreported(CODES + index, count);
        if new > 0 {
            // The middle of the bucket, and a rate that makes the server count it as often as it was.
            let (milliseconds, rate) = (0.75 * bound as f64 / 1e3, 1.0 / new as f64);
            say("request.duration", &format!("{milliseconds}|ms|@{rate}"));
        }
    }
    for (index, (level, count)) in LINES.iter().zip(facts.lines()).enumerate() {
        let count = count.load(std::sync::atomic::Ordering::Relaxed);
        let new = facts.unreported(CODES + LATENCY_BUCKETS + index, count);
        if new > 0 {
            say(&format!("log.{level}"), &format!("{new}|c|@1.0"));
        }
    }
    say("workers", &format!("{}|g", snapshot.lives.len()));
    if target.backlog {
        let waiting: u32 = snapshot.queues.iter().map(|queue| queue.waiting).fold(0, u32::saturating_add);
        say("backlog", &format!("{waiting}|h"));
    }
    lines
}

/// As few datagrams as these lines fit in.
fn datagrams(lines: &[String]) -> Vec<String> {
    let mut datagrams: Vec<String> = Vec::new();
    for line in lines {
        match datagrams.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= DATAGRAM => {
                // Writing to a String cannot fail.
                let _ = write!(last, "\n{line}");
            }
            _ => datagrams.push(line.clone()),
        }
    }
    datagrams
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn what_was_said_is_not_said_again() {
        let board = Scoreboard::new(2).unwrap();
        let worker = board.claim(0, 1, 1);
        let target = StatsdTarget {
            address: BindKind::Unix("/s".into()),
            prefix: "x.".to_owned(),
            tags: "|#a:b".to_owned(),
            backlog: false,
        };
        let said = || lines(&target, &Snapshot::take(&board, vec![]), &board.statuses());
        for _ in 0..3 {
            worker.count_request(204, 1, 1, Some(Duration::from_micros(1500)));
        }
        worker.count_request(0, 1, 1, None);
        board.facts().lines()[1].store(2, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(
            said(),
            [
                "x.gunicorn.request.status.204:3|c|@1.0|#a:b",
                "x.gunicorn.requests:3|c|@1.0|#a:b",
                "x.gunicorn.request.duration:1.536|ms|@0.3333333333333333|#a:b",
                "x.gunicorn.log.error:2|c|@1.0|#a:b",
                "x.gunicorn.workers:0|g|#a:b",
            ]
        );
        assert_eq!(said(), ["x.gunicorn.workers:0|g|#a:b"]);
        worker.count_request(500, 1, 1, None);
        assert_eq!(said()[0], "x.gunicorn.request.status.500:1|c|@1.0|#a:b");
    }

    #[test]
    fn lines_share_datagrams_and_none_is_torn() {
        let lines: Vec<String> = (0..100).map(|number| format!("{number}:{}", "x".repeat(90))).collect();
        let datagrams = datagrams(&lines);
        assert!(datagrams.len() < 10 && datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM));
        assert_eq!(datagrams.join("\n"), lines.join("\n"));
    }
}
