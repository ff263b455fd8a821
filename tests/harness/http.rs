//! An HTTP/1.1 client that forgives nothing, on a raw socket.
//!
//! Owns connections, the strict reading of responses, and the names of what can go wrong ([`Failure`]). Does not
//! retry, does not follow, does not guess. What a newcomer would get wrong: a response is whole only when the
//! connection's end has been seen too, if the server said that it would close: octets after the body and a reset there
//! are failures.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::queue;
use crate::wait::wait_for;

/// How long a client waits for the next octet.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP, v4 or v6.
    Tcp(SocketAddr),
    /// A Unix socket: its path, or `@` and an abstract name.
    Unix(PathBuf),
}

impl Address {
    /// The port of a TCP address.
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// One GET on a connection of its own, to its very end.
    ///
    /// # Errors
    /// Whatever a client could complain about.
    pub fn get(&self, target: &str) -> Result<Response, Failure> {
        let mut connection = Connection::open(self)?;
        connection.send_get(target)?;
        let response = connection.read_response()?;
        if response.closes() {
            connection.read_end()?;
        }
        Ok(response)
    }
}

impl Address {
    /// Sends octets on a connection of its own, and takes all that comes until its end. A server may answer and close
    /// before it has read everything, so that it does not take the rest is no failure.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn converse(&self, octets: &[u8], pace: Pace) -> Result<Heard, Failure> {
        let mut connection = Connection::open(self)?;
        let _ = connection.send_at(octets, pace);
        Ok(connection.hear())
    }
}

/// How octets are cut when they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All at once.
    Whole,
    /// In pieces of this size: 1 is one octet at a time.
    Pieces(usize),
}

/// Everything that a server said on one connection, up to the connection's end.
#[derive(Debug)]
pub struct Heard {
    /// As it came.
    pub octets: Vec<u8>,
    /// How it ended.
    pub end: Result<(), Failure>,
    connection: Connection,
}

impl Heard {
    /// The response that came to such a request, whole and with nothing behind it.
    ///
    /// # Errors
    /// There is more, or less, or something else.
    pub fn response(mut self, method: &str) -> Result<Response, Failure> {
        self.end?;
        let response =
            if method == "HEAD" { self.connection.read_head()? } else { self.connection.read_response()? };
        self.connection.read_end()?;
        Ok(response)
    }

    /// The responses that came to requests with such methods, in their order, with nothing behind the last.
    ///
    /// # Errors
    /// As [`Heard::response`].
    pub fn responses(mut self, methods: &[&str]) -> Result<Vec<Response>, Failure> {
        self.end?;
        let mut responses = Vec::new();
        for method in methods {
            responses.push(match *method {
                "HEAD" => self.connection.read_head()?,
                _ => self.connection.read_response()?,
            });
        }
        self.connection.read_end()?;
        Ok(responses)
    }

    /// The head that came first, its empty line included; everything if there is no whole one.
    pub fn head(&self) -> String {
        let end = self
            .octets
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .map_or(self.octets.len(), |at| at + 4);
        String::from_utf8_lossy(&self.octets[..end]).into_owned()
    }

    /// What came after that head, as it came.
    pub fn rest(&self) -> &[u8] {
        &self.octets[self.octets.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4)..]
    }
}

/// What went wrong, from a client's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// The server reset the connection.
    Reset,
    /// The connection ended before the response did.
    Truncated(String),
    /// What came is not HTTP, or more than it says.
    Garbled(String),
    /// Nothing came for half a minute.
    Silent,
    /// The system's own reason.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Truncated(what) => write!(f, "truncated: {what}"),
            Self::Garbled(what) => write!(f, "garbled: {what}"),
            Self::Silent => f.write_str("silent"),
            Self::Other(what) => write!(f, "failed: {what}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A Unix socket's file that is not there is nobody listening.
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Silent,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Names as they came, and values trimmed, in order.
pub type Fields = Vec<(String, String)>;

/// A response, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The three digits.
    pub status: u16,
    /// Of the head.
    pub fields: Fields,
    /// The body, without chunked framing.
    pub body: Vec<u8>,
    /// Fields after a chunked body.
    pub trailers: Fields,
    /// The heads that came before this one (1xx).
    pub interim: Vec<Response>,
}

impl Response {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the server said that it would close the connection.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Octets that came and were not asked for yet.
    buffer: Vec<u8>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Refused, or the system's reason.
    pub fn open(address: &Address) -> Result<Self, Failure> {
        let stream = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = match path.to_str().and_then(|path| path.strip_prefix('@')) {
                    Some(name) => {
                        UnixStream::connect_addr(&unix::net::SocketAddr::from_abstract_name(name)?)?
                    }
                    None => UnixStream::connect(path)?,
                };
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends octets.
    ///
    /// # Errors
    /// The server has closed, or takes nothing.
    pub fn send(&mut self, octets: &[u8]) -> Result<(), Failure> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(octets)?,
            Stream::Unix(stream) => stream.write_all(octets)?,
        }
        Ok(())
    }

    /// Sends octets, cut as `pace` says.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_at(&mut self, octets: &[u8], pace: Pace) -> Result<(), Failure> {
        match pace {
            Pace::Whole => self.send(octets),
            Pace::Pieces(size) => octets.chunks(size).try_for_each(|piece| self.send(piece)),
        }
    }

    /// The same connection once more, to send from another thread.
    pub fn duplicate(&self) -> Self {
        let stream = match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("a descriptor")),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("a descriptor")),
        };
        Self { stream, buffer: Vec::new() }
    }

    /// Takes all that comes until the connection ends.
    pub fn hear(mut self) -> Heard {
        let end = loop {
            match self.more() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        Heard { octets: self.buffer.clone(), end, connection: self }
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_get(&mut self, target: &str) -> Result<(), Failure> {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    /// Reads one response to a request other than HEAD.
    ///
    /// # Errors
    /// It does not come, or not whole, or is not one.
    pub fn read_response(&mut self) -> Result<Response, Failure> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.read_head()?;
            if response.status >= 200 {
                self.read_body(&mut response)?;
                return Ok(Response { interim, ..response });
            }
            interim.push(response);
        }
    }

    /// Reads a response's head and leaves its body where it is.
    ///
    /// # Errors
    /// As [`Self::read_response`].
    pub fn read_head(&mut self) -> Result<Response, Failure> {
        let line = self.line("the status line")?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.split(' ').next())
            .filter(|digits| digits.len() == 3)
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Failure::Garbled(format!("status line {line:?}")))?;
        let fields = self.fields("the head")?;
        Ok(Response { status, fields, body: Vec::new(), trailers: Vec::new(), interim: Vec::new() })
    }

    /// Field lines, to the empty one that ends them.
    fn fields(&mut self, what: &str) -> Result<Fields, Failure> {
        let mut fields = Vec::new();
        loop {
            let line = self.line(what)?;
            if line.is_empty() {
                return Ok(fields);
            }
            match line.split_once(':') {
                Some((name, value)) if is_token(name) => {
                    fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
                }
                _ => return Err(Failure::Garbled(format!("field {line:?}"))),
            }
        }
    }

    /// Reads the body that belongs to a head.
    ///
    /// # Errors
    /// As [`Self::read_response`].
    pub fn read_body(&mut self, response: &mut Response) -> Result<(), Failure> {
        let named = |wanted: &str| -> Vec<String> {
            let fields = response.fields.iter();
            fields
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.clone())
                .collect()
        };
        let lengths = named("content-length");
        let codings = named("transfer-encoding");
        match (lengths.as_slice(), codings.as_slice()) {
            // 304 tells the length of a body that it does not have (RFC 9110 section 8.6).
            ([], []) | ([_], []) if response.status == 304 => {}
            ([], []) if response.status == 204 => {}
            ([], []) => {
                while self.more()? {}
                response.body = std::mem::take(&mut self.buffer);
            }
            ([length], []) => {
                let length: usize =
                    length.parse().map_err(|_| Failure::Garbled(format!("Content-Length {length:?}")))?;
                response.body = self.octets(length)?;
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => {
                (response.body, response.trailers) = self.chunks()?;
            }
            _ => return Err(Failure::Garbled(format!("framing {:?}", response.fields))),
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The server has gone.
    pub fn end_sending(&mut self) -> Result<(), Failure> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// Waits until the server has taken all octets from its socket that were sent over TCP. Of a Unix socket nothing
    /// tells that, so there it waits for nothing.
    pub fn wait_until_taken(&self) {
        let Stream::Tcp(stream) = &self.stream else { return };
        let ours = stream.local_addr().expect("it is bound");
        // One that was reset meanwhile has no peer any more, and nothing to wait for.
        let Ok(theirs) = stream.peer_addr() else { return };
        wait_for("the server to read", || queue::unread(theirs, ours).is_none_or(|left| left == 0));
    }

    /// Waits until so many octets have come, and leaves them to be read.
    ///
    /// # Errors
    /// Fewer come.
    pub fn wait_for_octets(&mut self, count: usize) -> Result<(), Failure> {
        let octets = self.octets(count)?;
        self.buffer.splice(..0, octets);
        Ok(())
    }

    /// Leaves with a reset, so that there is no doubt about it: whoever only closes may still want to read.
    pub fn reset(self) {
        let Stream::Tcp(stream) = &self.stream else { panic!("only TCP has resets") };
        let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(stream, sockopt::Linger, &at_once).expect("an option");
    }

    /// Takes exactly so many octets.
    ///
    /// # Errors
    /// As [`Self::read_response`].
    pub fn octets(&mut self, count: usize) -> Result<Vec<u8>, Failure> {
        while self.buffer.len() < count {
            if !self.more()? {
                return Err(Failure::Truncated(format!("{} of {count} octets", self.buffer.len())));
            }
        }
        let rest = self.buffer.split_off(count);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// The server closes, and has nothing more to say.
    ///
    /// # Errors
    /// It says more, resets, or does not close.
    pub fn read_end(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() && !self.more()? {
            return Ok(());
        }
        Err(Failure::Garbled(format!("{} octets after the response", self.buffer.len())))
    }

    /// A chunked body and its trailer fields.
    fn chunks(&mut self) -> Result<(Vec<u8>, Fields), Failure> {
        let mut body = Vec::new();
        loop {
            let line = self.line("a chunk's size")?;
            let size = usize::from_str_radix(&line, 16)
                .map_err(|_| Failure::Garbled(format!("chunk size {line:?}")))?;
            if size == 0 {
                return Ok((body, self.fields("the trailer")?));
            }
            body.extend(self.octets(size)?);
            let end = self.line("a chunk's end")?;
            if !end.is_empty() {
                return Err(Failure::Garbled(format!("chunk end {end:?}")));
            }
        }
    }

    /// A line without its CRLF; `what` it is part of, should it not come.
    fn line(&mut self, what: &str) -> Result<String, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
                let line = self.octets(end + 1)?;
                let text = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r'));
                return text
                    .and_then(|line| String::from_utf8(line.to_vec()).ok())
                    .ok_or_else(|| Failure::Garbled(format!("line {:?}", String::from_utf8_lossy(&line))));
            }
            if !self.more()? {
                return Err(Failure::Truncated(format!("{what} after {} octets", self.buffer.len())));
            }
        }
    }

    /// Reads what there is; false at the end.
    fn more(&mut self) -> Result<bool, Failure> {
        let mut octets = [0; 16 * 1024];
        let count = loop {
            let read = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut octets),
                Stream::Unix(stream) => stream.read(&mut octets),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(&octets[..count]);
        Ok(count > 0)
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the client makes of these octets and the end of the connection after them.
    fn read(octets: &[u8]) -> Result<Response, Failure> {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (&theirs).write_all(octets).expect("room");
        drop(theirs);
        let mut connection = Connection { stream: Stream::Unix(ours), buffer: Vec::new() };
        let response = connection.read_response()?;
        connection.read_end()?;
        Ok(response)
    }

    #[test]
    fn reads_each_framing() {
        for octets in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            let response = read(octets).unwrap_or_else(|failure| panic!("{failure}"));
            assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        }
    }

    #[test]
    fn forgives_nothing() {
        for octets in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ] {
            assert!(matches!(read(octets), Err(Failure::Truncated(_))), "{octets:?}");
        }
        for octets in [
            &b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nbad name: 5\r\n\r\n",
            b"hello\r\n\r\n",
        ] {
            assert!(matches!(read(octets), Err(Failure::Garbled(_))), "{octets:?}");
        }
    }
}
