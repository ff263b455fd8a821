//! The other side: reads responses as RFC 9112 has them, and forgives nothing.
//!
//! Owns a grammar that shares no line with the crate under test. What a newcomer would get wrong: [`Truncated`] is
//! not [`Garbled`]; a response may be cut short when the connection is lost, but never be anything else than one.
//!
//! [`Truncated`]: Flaw::Truncated
//! [`Garbled`]: Flaw::Garbled

/// Why octets are no response.
#[derive(Debug)]
pub enum Flaw {
    /// So far they are the beginning of one.
    Truncated,
    /// They can become none.
    Garbled(String),
}

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Status or method say that there is none.
    None,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    UntilClose,
}

/// A response.
#[derive(Debug)]
pub struct Answer<'o> {
    /// Three digits.
    pub status: u16,
    /// Of the head.
    pub fields: Vec<(&'o [u8], &'o [u8])>,
    /// How the body is framed.
    pub framing: Framing,
    /// Without its framing.
    pub body: Vec<u8>,
    /// After a chunked body.
    pub trailers: Vec<(&'o [u8], &'o [u8])>,
    /// What follows.
    pub rest: &'o [u8],
}

impl<'o> Answer<'o> {
    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> Vec<&'o [u8]> {
        let named = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| *value).collect()
    }

    /// Whether `Connection` names this option.
    pub fn connection_has(&self, option: &str) -> bool {
        self.values("connection").iter().any(|value| {
            let mut members = value.split(|octet| *octet == b',');
            members.any(|member| member.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        })
    }
}

/// Reads one response, interim or final, to a request with this method.
pub fn read<'o>(octets: &'o [u8], method: &[u8]) -> Result<Answer<'o>, Flaw> {
    let mut rest = octets;
    let status = status(line(&mut rest)?)?;
    let fields = fields(&mut rest)?;
    let mut answer =
        Answer { status, fields, framing: Framing::None, body: Vec::new(), trailers: Vec::new(), rest };
    let lengths = answer.values("content-length");
    let codings = answer.values("transfer-encoding");
    let bare = status < 200 || status == 204 || (status < 300 && method == b"CONNECT");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if bare && method == b"CONNECT" && (200..300).contains(&status) => {
            answer.framing = Framing::UntilClose;
            answer.body = std::mem::take(&mut answer.rest).to_vec();
        }
        ([], []) if bare => {}
        _ if bare => return garbled("framing where there is no body", octets),
        // RFC 9110 section 8.6: a length may be told without a body.
        ([], _) | ([_], []) if status == 304 || method == b"HEAD" => {}
        ([], []) => {
            answer.framing = Framing::UntilClose;
            answer.body = std::mem::take(&mut answer.rest).to_vec();
        }
        ([length], []) => {
            answer.framing = Framing::Length;
            let length = decimal(length).ok_or_else(|| Flaw::Garbled("a length".to_owned()))?;
            answer.body = take(&mut answer.rest, length)?.to_vec();
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => {
            answer.framing = Framing::Chunked;
            let mut rest = answer.rest;
            (answer.body, answer.trailers) = chunks(&mut rest)?;
            answer.rest = rest;
        }
        _ => return garbled("more than one framing", octets),
    }
    Ok(answer)
}

fn garbled<T>(what: &str, octets: &[u8]) -> Result<T, Flaw> {
    Err(Flaw::Garbled(format!("{what}: {}", octets.escape_ascii())))
}

/// A line without its CRLF, in which no CR, LF or NUL may be.
fn line<'o>(rest: &mut &'o [u8]) -> Result<&'o [u8], Flaw> {
    let Some(end) = rest.iter().position(|octet| *octet == b'\n') else {
        return Err(Flaw::Truncated);
    };
    let whole = &rest[..=end];
    *rest = &rest[end + 1..];
    match whole.strip_suffix(b"\r\n") {
        Some(line) if !line.iter().any(|octet| matches!(octet, b'\r' | 0)) => Ok(line),
        _ => garbled("a line", whole),
    }
}

/// `HTTP/1.1 SP 3DIGIT SP [ reason-phrase ]`
fn status(line: &[u8]) -> Result<u16, Flaw> {
    match line.strip_prefix(b"HTTP/1.1 ") {
        Some([first @ b'1'..=b'5', second @ b'0'..=b'9', third @ b'0'..=b'9', b' ', ..]) => {
            Ok([first, second, third].iter().fold(0, |sum, digit| sum * 10 + u16::from(*digit - b'0')))
        }
        _ => garbled("a status line", line),
    }
}

type Fields<'o> = Vec<(&'o [u8], &'o [u8])>;

/// Field lines up to the empty one.
fn fields<'o>(rest: &mut &'o [u8]) -> Result<Fields<'o>, Flaw> {
    let mut found = Vec::new();
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Ok(found);
        }
        let Some(colon) = line.iter().position(|octet| *octet == b':') else {
            return garbled("a field", line);
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_token = !name.is_empty()
            && name.iter().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet));
        let is_value = value.iter().all(|octet| *octet == b'\t' || (*octet >= b' ' && *octet != 0x7f));
        if !is_token || !is_value {
            return garbled("a field", line);
        }
        found.push((name, value));
    }
}

fn decimal(digits: &[u8]) -> Option<usize> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    // What is longer than any output is as long as it can be.
    all.then(|| String::from_utf8_lossy(digits).parse().unwrap_or(usize::MAX))
}

fn take<'o>(rest: &mut &'o [u8], count: usize) -> Result<&'o [u8], Flaw> {
    let Some((taken, after)) = rest.split_at_checked(count) else { return Err(Flaw::Truncated) };
    *rest = after;
    Ok(taken)
}

fn chunks<'o>(rest: &mut &'o [u8]) -> Result<(Vec<u8>, Fields<'o>), Flaw> {
    let mut body = Vec::new();
    loop {
        let size = line(rest)?;
        let digits = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(size).unwrap_or_default();
        let count = match usize::from_str_radix(text, 16) {
            Ok(count) if digits => count,
            _ => return garbled("a chunk's size", size),
        };
        if count == 0 {
            return Ok((body, fields(rest)?));
        }
        body.extend_from_slice(take(rest, count)?);
        match line(rest)? {
            b"" => {}
            other => return garbled("a chunk's end", other),
        }
    }
}
