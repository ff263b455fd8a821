//! One call to the other server: HTTP/1.0, so that its body ends with its length or with the connection.
//!
//! Owns the request that is sent and the judgement of the head that comes back. The body passes through in pieces, and
//! the next piece is read when the client has taken the last one: a slow client slows the other server down, and
//! nothing grows. A newcomer might pass the other server's fields on. They speak of a connection that is not the
//! client's; only what describes the content goes through.

use crate::poller::{Poller, Watched};
use rgunicorn_worker_api::prelude::*;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// Octets of a head, beyond which it is taken for none.
const HEAD: usize = 16 * 1024;
/// Octets of a body that are under way here.
const PIECE: usize = 16 * 1024;

/// Why there is no answer.
pub(crate) enum Trouble {
    /// The client, or the connection to it. The server knows what to make of it.
    Ours(Fault),
    /// The other server: a sentence for the client.
    Theirs(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Ours(fault)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Theirs(format!("the other server: {error}"))
    }
}

fn garbled(what: &str) -> Trouble {
    Trouble::Theirs(format!("the other server: {what}"))
}

/// Asks for `target` and passes the answer on. `begun` says whether some of it has been handed over.
pub(crate) async fn relay(
    poller: &Poller,
    address: SocketAddr,
    target: &[u8],
    response: &mut AsyncResponse,
    begun: &mut bool,
) -> Result<(), Trouble> {
    let stream = open(poller, address).await?;
    let mut request = b"GET ".to_vec();
    request.extend_from_slice(target);
    request
        .extend_from_slice(format!(" HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes());
    send(&stream, &request).await?;

    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|octets| octets == b"\r\n\r\n") {
            break end;
        }
        if received.len() > HEAD {
            return Err(garbled("its head is too long"));
        }
        let mut piece = [0; 2048];
        match receive(&stream, &mut piece).await? {
            0 => return Err(garbled("it closed before its head was complete")),
            count => received.extend_from_slice(&piece[..count]),
        }
    };
    let head = Head::parse(&received[..end])?;
    let mut fields = Vec::new();
    for (name, value) in [("Content-Length", &head.length), ("Content-Type", &head.kind)] {
        fields.extend(value.as_deref().map(|value| (name, value)));
    }
    response.start(head.status, &fields)?;
    *begun = true;
    let early = &received[end + 4..];
    let left = head.octets();
    pass(&stream, early, left, response).await?;
    Ok(response.end()?)
}

/// The body: what came with the head, then piece by piece.
async fn pass(
    stream: &Watched,
    early: &[u8],
    left: Option<u64>,
    response: &mut AsyncResponse,
) -> Result<(), Trouble> {
    let mut left = left.unwrap_or(u64::MAX);
    let bounded = left != u64::MAX;
    let early = &early[..early.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
    if !early.is_empty() {
        response.write(early).await?;
        left -= early.len() as u64;
    }
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let room = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        match receive(stream, &mut piece[..room]).await? {
            0 if bounded => return Err(garbled("it closed before its body was complete")),
            0 => break,
            count => {
                response.write(&piece[..count]).await?;
                left -= count as u64;
            }
        }
    }
    Ok(())
}

/// Connects without waiting: connect(2) says `EINPROGRESS`, and the socket becomes writable when it has an outcome.
async fn open(poller: &Poller, address: SocketAddr) -> Result<Watched, Trouble> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(io::Error::from)?;
    let at_once = match connect(&socket, &address) {
        Ok(()) => true,
        Err(Errno::INPROGRESS) => false,
        Err(error) => return Err(io::Error::from(error).into()),
    };
    let stream = poller.watch(TcpStream::from(socket))?;
    if !at_once {
        // Writable is not yet connected: the outcome is in the socket, an error or a peer.
        poll_fn(|context| {
            stream.poll_writable(context, |stream| match (stream.take_error()?, stream.peer_addr()) {
                (Some(error), _) => Err(error),
                (None, Err(error)) if error.kind() == ErrorKind::NotConnected => {
                    Err(ErrorKind::WouldBlock.into())
                }
                (None, peer) => peer.map(|_| ()),
            })
        })
        .await?;
    }
    Ok(stream)
}

async fn send(stream: &Watched, octets: &[u8]) -> io::Result<()> {
    let mut rest = octets;
    while !rest.is_empty() {
        let count = poll_fn(|context| {
            stream.poll_writable(context, |mut stream| uninterrupted(|| stream.write(rest)))
        })
        .await?;
        rest = &rest[count..];
    }
    Ok(())
}

async fn receive(stream: &Watched, buffer: &mut [u8]) -> io::Result<usize> {
    poll_fn(|context| stream.poll_readable(context, |mut stream| uninterrupted(|| stream.read(buffer)))).await
}

fn uninterrupted<R>(mut call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What matters of the other server's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Option<String>,
    kind: Option<String>,
}

impl Head {
    /// Of the octets before the empty line.
    fn parse(octets: &[u8]) -> Result<Self, Trouble> {
        let text = std::str::from_utf8(octets).map_err(|_| garbled("its head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| {
            let (version, rest) = line.split_once(' ')?;
            version.strip_prefix("HTTP/1.")?;
            rest.get(..3)?.parse().ok()
        });
        let mut head = Self {
            status: status.ok_or_else(|| garbled("its status line is malformed"))?,
            length: None,
            kind: None,
        };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| garbled("a field is malformed"))?;
            let value = value.trim_matches([' ', '\t']);
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(garbled("it sent a transfer coding to a client of HTTP/1.0"));
            } else if name.eq_ignore_ascii_case("content-type") {
                head.kind = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("content-length") {
                let digits = !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_digit());
                if head.length.is_some() || !digits || value.parse::<u64>().is_err() {
                    return Err(garbled("its length is malformed"));
                }
                head.length = Some(value.to_owned());
            }
        }
        // 1xx is not for clients of HTTP/1.0.
        if !(200..600).contains(&head.status) {
            return Err(garbled("its status is none for an answer"));
        }
        Ok(head)
    }

    /// Octets of the body; `None` if the connection's end will tell.
    fn octets(&self) -> Option<u64> {
        if matches!(self.status, 204 | 304) {
            return Some(0);
        }
        self.length.as_ref()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, String> {
        Head::parse(text.as_bytes()).map_err(|trouble| match trouble {
            Trouble::Ours(fault) => fault.to_string(),
            Trouble::Theirs(what) => what,
        })
    }

    #[test]
    fn a_head_is_judged() {
        let head = parse("HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: 5\r\nContent-Type: a/b").unwrap();
        assert_eq!((head.status, head.octets(), head.kind.as_deref()), (200, Some(5), Some("a/b")));
        assert_eq!(parse("HTTP/1.0 304 x\r\nContent-Length: 5").unwrap().octets(), Some(0));
        assert_eq!(parse("HTTP/1.0 200").unwrap().octets(), None);
        for (text, complaint) in [
            ("", "status line"),
            ("HTTP/2 200", "status line"),
            ("HTTP/1.1 100 Continue", "status is none"),
            ("HTTP/1.1 200 OK\r\nno colon", "field is malformed"),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5", "length"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", "transfer coding"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(complaint), "{text:?}: {error}");
        }
    }
}
