//! The client of the trials: one connection, raw octets out, answers read strictly.
//!
//! Owns what is an answer and what is not, and how long to wait for octets. Retries nothing. What a newcomer would get
//! wrong: the texts of troubles end up in the score card, so that they say what a client sees, not which call failed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// How long to wait for the next octets.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer that a trial asks for has a tenth of this.
const ANSWER_LIMIT: usize = 64 << 20;

/// What went wrong, as a client sees it.
pub(super) type Trouble = String;

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    /// Received and not yet understood.
    input: Vec<u8>,
}

/// A final answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Statuses of the interim answers before it.
    pub(super) interim: Vec<u16>,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether its end was the connection's.
    ended_by_close: bool,
}

impl Answer {
    /// The first field of this name, which is written in small letters.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// Whether the connection ends with it.
    pub(super) fn closes(&self) -> bool {
        self.ended_by_close
            || self.field("connection").is_some_and(|value| value.to_ascii_lowercase().contains("close"))
    }

    /// That it is a 200 with this body.
    pub(super) fn expect(&self, body: &[u8]) -> Result<(), Trouble> {
        if self.status != 200 {
            return Err(format!("the answer is a {}, not a 200", self.status));
        }
        if self.body == body {
            return Ok(());
        }
        let show = |octets: &[u8]| octets[..octets.len().min(40)].escape_ascii().to_string();
        Err(format!(
            "the body has {} octets ({}…), not {} ({}…)",
            self.body.len(),
            show(&self.body),
            body.len(),
            show(body)
        ))
    }
}

impl Client {
    pub(super) fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let open = || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            // Pieces are to arrive as they are cut.
            stream.set_nodelay(true)?;
            Ok(Self { stream, input: Vec::new() })
        };
        open().map_err(|error: std::io::Error| format!("the connection was refused: {error}"))
    }

    /// One GET that closes, to its end.
    pub(super) fn get(address: SocketAddr, target: &str) -> Result<Answer, Trouble> {
        let mut client = Self::open(address)?;
        client.send(request("GET", target, "Connection: close\r\n").as_bytes())?;
        let answer = client.answer("GET")?;
        client.end()?;
        Ok(answer)
    }

    pub(super) fn send(&mut self, octets: &[u8]) -> Result<(), Trouble> {
        self.stream.write_all(octets).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "the server reads nothing for 30 s".to_owned(),
            _ => format!("the connection broke while the request was sent: {error}"),
        })
    }

    /// Ends the client's direction.
    pub(super) fn finish(&mut self) -> Result<(), Trouble> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| format!("the connection is gone: {error}"))
    }

    /// Leaves with a reset instead of an end.
    pub(super) fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // If that is refused, it is an end after all.
        let _ = setsockopt(&self.stream, sockopt::Linger, &linger);
    }

    /// How long to wait for octets from now on.
    pub(super) fn wait_at_most(&mut self, time: Duration) {
        // A zero is the only time that is refused.
        let _ = self.stream.set_read_timeout(Some(time.max(Duration::from_millis(1))));
    }

    /// More octets; `false` at the end.
    fn receive(&mut self) -> Result<bool, Trouble> {
        let mut piece = [0; 64 * 1024];
        loop {
            return match self.stream.read(&mut piece) {
                Ok(0) => Ok(false),
                Ok(count) => {
                    self.input.extend_from_slice(&piece[..count]);
                    if self.input.len() > ANSWER_LIMIT {
                        Err("the answer has no end".to_owned())
                    } else {
                        Ok(true)
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    Err("nothing came in time".to_owned())
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    Err("the connection was reset".to_owned())
                }
                Err(error) => Err(format!("the connection broke: {error}")),
            };
        }
    }

    /// The next final answer to a request with this method.
    pub(super) fn answer(&mut self, method: &str) -> Result<Answer, Trouble> {
        let mut interim = Vec::new();
        loop {
            let head = self.head()?;
            let (status, fields) = understand(&head)?;
            if (100..200).contains(&status) {
                interim.push(status);
                continue;
            }
            let mut answer = Answer { status, interim, fields, ..Answer::default() };
            if method != "HEAD" && status != 204 && status != 304 {
                self.body(&mut answer)?;
            }
            return Ok(answer);
        }
    }

    /// The next interim answer's status.
    pub(super) fn interim(&mut self) -> Result<u16, Trouble> {
        let head = self.head()?;
        understand(&head).map(|(status, _)| status)
    }

    fn head(&mut self) -> Result<String, Trouble> {
        loop {
            if let Some(length) = find(&self.input, b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..length + 4).collect();
                return String::from_utf8(head).map_err(|_| "the head of the answer is no text".to_owned());
            }
            if !self.receive()? {
                return Err(if self.input.is_empty() {
                    "the connection ended without an answer".to_owned()
                } else {
                    "the connection ended within the head of the answer".to_owned()
                });
            }
        }
    }

    fn body(&mut self, answer: &mut Answer) -> Result<(), Trouble> {
        let chunked = answer.field("transfer-encoding").map(str::to_ascii_lowercase);
        match (chunked.as_deref(), answer.field("content-length")) {
            (Some(_), Some(_)) => Err("the answer has both Content-Length and Transfer-Encoding".to_owned()),
            (Some("chunked"), None) => self.chunks(answer),
            (Some(other), None) => Err(format!("the answer has the transfer coding '{other}'")),
            (None, Some(length)) => {
                let length: usize =
                    length.parse().map_err(|_| format!("the answer's Content-Length is '{length}'"))?;
                answer.body = self.exactly(length)?;
                Ok(())
            }
            (None, None) => {
                while self.receive()? {}
                answer.body = std::mem::take(&mut self.input);
                answer.ended_by_close = true;
                Ok(())
            }
        }
    }

    fn chunks(&mut self, answer: &mut Answer) -> Result<(), Trouble> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| format!("a chunk's size is '{size}'"))?;
            if size == 0 {
                // Trailers, and the empty line.
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            answer.body.extend(self.exactly(size)?);
            if !self.line()?.is_empty() {
                return Err("a chunk is longer than it says".to_owned());
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, Trouble> {
        while self.input.len() < length {
            if !self.receive()? {
                return Err(format!("the body ends after {} of {length} octets", self.input.len()));
            }
        }
        Ok(self.input.drain(..length).collect())
    }

    fn line(&mut self) -> Result<String, Trouble> {
        loop {
            if let Some(length) = find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..length + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..length]).into_owned());
            }
            if !self.receive()? {
                return Err("the body ends within a chunk".to_owned());
            }
        }
    }

    /// That the connection ends here, in order and without further octets.
    pub(super) fn end(&mut self) -> Result<(), Trouble> {
        let more = !self.input.is_empty() || self.receive()?;
        if more {
            let show = &self.input[..self.input.len().min(40)];
            return Err(format!("octets follow the last answer: {}…", show.escape_ascii()));
        }
        Ok(())
    }
}

/// A request without a body.
pub(super) fn request(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: certify\r\n{fields}\r\n")
}

fn find(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    octets.windows(wanted.len()).position(|window| window == wanted)
}

type Fields = Vec<(String, String)>;

fn understand(head: &str) -> Result<(u16, Fields), Trouble> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status =
        first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("the answer begins with '{}'", first.escape_default()))?;
    let mut fields = Fields::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("the answer has the field line '{}'", line.escape_default()))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    for single in ["content-length", "transfer-encoding"] {
        if fields.iter().filter(|(name, _)| name == single).count() > 1 {
            return Err(format!("the answer has two fields {single}"));
        }
    }
    Ok((status, fields))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What a client makes of these octets, which are all that comes.
    fn heard(octets: &'static [u8], method: &str) -> (Result<Answer, Trouble>, Result<(), Trouble>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::open(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(octets).unwrap();
        drop(server);
        let answer = client.answer(method);
        (answer, client.end())
    }

    #[test]
    fn whole_answers_are_understood() {
        let (answer, end) =
            heard(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET");
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.interim.as_slice(), answer.body.as_slice()),
            (200, &[100][..], &b"ok"[..])
        );
        assert!(!answer.closes() && end.is_ok());
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\n\r\n";
        let answer = heard(chunked, "GET").0.unwrap();
        assert!(answer.closes() && answer.expect(b"ok").is_ok());
        let answer = heard(b"HTTP/1.1 200 OK\r\n\r\nok", "GET").0.unwrap();
        assert!(answer.closes() && answer.expect(b"ok").is_ok());
        assert!(heard(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD").0.is_ok());
    }

    #[test]
    fn what_is_not_whole_is_trouble() {
        let cases: [(&'static [u8], &str); 8] = [
            (b"", "without an answer"),
            (b"HTTP/1.1 200 O", "within the head"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "after 2 of 3 octets"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "two fields"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "within a chunk"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n", "longer than it says"),
            (b"ICY 200 OK\r\n\r\n", "begins with 'ICY 200 OK'"),
        ];
        for (octets, part) in cases {
            let trouble = heard(octets, "GET").0.unwrap_err();
            assert!(trouble.contains(part), "{trouble}");
        }
        let (answer, end) = heard(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay", "GET");
        assert!(answer.is_ok() && end.unwrap_err().contains("octets follow"));
    }
}
