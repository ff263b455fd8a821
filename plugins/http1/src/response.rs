//! The head of a response: validated, with exactly one framing, appended to the caller's buffer.
//!
//! It owns the status line, the judgement of every field the application sends, and the fields that are
//! the server's: `Date`, `Server`, `Connection`, `Content-Length`, `Transfer-Encoding`. The octets of the
//! body are the business of `write`.
//!
//! What a newcomer gets wrong: an `Err` leaves the buffer as it was, so that the caller can put a 500 there
//! instead. Once any of the head is on the wire there is no such way back: write nothing before `finish`.

use crate::date::DateCache;
use crate::error::Error;
use crate::request::{Exchange, MethodKind, Version};
use crate::status::{reason, status_line};
use crate::syntax::{decimal, is_token, is_value, members, trim};

const SERVER: &[u8] = b"Server: rgunicorn\r\n";

/// The interim response a client waits for that sent `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the client learns where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection ends with it.
    UntilClose,
    /// No body is sent, whatever the application writes: HEAD, 204, 205, 304.
    NoBody,
}

/// What was decided when the head was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// For `BodyWriter::new`.
    pub framing: ResponseFraming,
    /// Whether the head left the connection open for another request. The request body must have been read
    /// to its end as well.
    pub keep_alive: bool,
}

/// A final response head in the making.
///
/// Status 200 to 599: RFC 9110 section 15 calls anything above invalid, and 1xx is not final but has ways
/// of its own, `informational` and `switching_protocols`.
#[derive(Debug)]
pub struct ResponseHead<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    exchange: Exchange,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    date: bool,
    server: bool,
    /// Lines whose place depends on the framing, or on the status.
    trailer: Vec<u8>,
    upgrade: bool,
    finished: bool,
}

impl<'o> ResponseHead<'o> {
    /// Begins with the registered reason phrase.
    pub fn begin(out: &'o mut Vec<u8>, exchange: Exchange, status: u16) -> Result<Self, Error> {
        Self::begin_with_reason(out, exchange, status, None)
    }

    /// Begins with a reason phrase of the application's.
    pub fn begin_with_reason(
        out: &'o mut Vec<u8>,
        exchange: Exchange,
        status: u16,
        reason: Option<&[u8]>,
    ) -> Result<Self, Error> {
        if !(200..=599).contains(&status) {
            return Err(Error::ResponseStatus(status));
        }
        let start = out.len();
        put_status_line(out, status, reason)?;
        Ok(Self {
            out,
            start,
            exchange,
            status,
            length: None,
            chunked: false,
            close: false,
            date: false,
            server: false,
            trailer: Vec::new(),
            upgrade: false,
            finished: false,
        })
    }

    /// Adds a field of the application's. What concerns the connection or the framing is taken as a wish
    /// and never copied; `Date` and `Server` replace ours, the first of each.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let value = checked(name, value)?;
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            // Hop-by-hop, and a matter of requests only.
            2 if is("te") => return Ok(()),
            4 if is("date") && std::mem::replace(&mut self.date, true) => return Ok(()),
            6 if is("server") && std::mem::replace(&mut self.server, true) => return Ok(()),
            7 if is("trailer") => {
                put_field(&mut self.trailer, name, value);
                return Ok(());
            }
            7 if is("upgrade") => {
                // RFC 9110 sections 7.8 and 15.5.22: 426 must have it, nothing else needs it.
                if self.status != 426 {
                    return Ok(());
                }
                self.upgrade = true;
            }
            10 if is("keep-alive") => return Ok(()),
            10 if is("connection") => {
                self.close |= members(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                return Ok(());
            }
            14 if is("content-length") => {
                let length = decimal(value).ok_or(Error::ResponseContentLength)?;
                if self.length.is_some_and(|other| other != length) {
                    return Err(Error::ResponseContentLength);
                }
                self.length = Some(length);
                return Ok(());
            }
            16 if is("proxy-connection") => return Ok(()),
            17 if is("transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::ResponseTransferEncoding);
                }
                self.chunked = true;
                return Ok(());
            }
            _ => {}
        }
        put_field(self.out, name, value);
        Ok(())
    }

    /// Ends the head. `known` is the length of the whole body if it lies ready and the application did not
    /// declare it; it is not believed for HEAD, where many an application writes no body at all.
    pub fn finish(mut self, date: &DateCache, known: Option<u64>) -> Result<Sent, Error> {
        if self.chunked && self.length.is_some() {
            return Err(Error::ResponseTransferEncoding);
        }
        let framing = self.framing(known);
        if !self.date {
            self.out.extend_from_slice(date.line());
        }
        if !self.server {
            self.out.extend_from_slice(SERVER);
        }
        self.put_framing(framing);
        let keep_alive = self.exchange.keep_alive && !self.close && framing != ResponseFraming::UntilClose;
        self.out.extend_from_slice(match (keep_alive, self.upgrade, self.exchange.version) {
            (true, false, Version::Http11) => b"",
            (true, false, Version::Http10) => b"Connection: keep-alive\r\n",
            (true, true, Version::Http11) => b"Connection: upgrade\r\n",
            (true, true, Version::Http10) => b"Connection: keep-alive, upgrade\r\n",
            (false, false, _) => b"Connection: close\r\n",
            (false, true, _) => b"Connection: close, upgrade\r\n",
        });
        self.out.extend_from_slice(b"\r\n");
        self.finished = true;
        Ok(Sent { framing, keep_alive })
    }

    /// RFC 9112 section 6.3, from the sender's side.
    fn framing(&self, known: Option<u64>) -> ResponseFraming {
        match (self.status, self.exchange.method) {
            (200..=299, MethodKind::Connect) => ResponseFraming::UntilClose,
            (204 | 205 | 304, _) | (_, MethodKind::Head) => ResponseFraming::NoBody,
            (_, MethodKind::Other | MethodKind::Connect) => match (self.length, known) {
                (Some(length), _) => ResponseFraming::Length(length),
                // The application's wish for chunks is granted where it can be.
                (None, Some(length)) if !self.chunked || self.exchange.version == Version::Http10 => {
                    ResponseFraming::Length(length)
                }
                (None, _) if self.exchange.version == Version::Http10 => ResponseFraming::UntilClose,
                (None, _) => ResponseFraming::Chunked,
            },
        }
    }

    fn put_framing(&mut self, framing: ResponseFraming) {
        match framing {
            ResponseFraming::Length(length) => put_length(self.out, length),
            ResponseFraming::Chunked => {
                self.out.extend_from_slice(&self.trailer);
                self.out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            ResponseFraming::UntilClose => {}
            ResponseFraming::NoBody => match (self.status, self.length) {
                // RFC 9110 section 8.6: none in 204. Section 15.3.6: 205 says that nothing follows.
                (205, _) => put_length(self.out, 0),
                (204, _) | (_, None) => {}
                (_, Some(length)) => put_length(self.out, length),
            },
        }
    }
}

impl Drop for ResponseHead<'_> {
    /// A head that was not finished is taken back.
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// What, beside its fields, makes a final head what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadKey {
    exchange: Exchange,
    status: u16,
    whole: Option<usize>,
    fields: usize,
    second: u64,
}

impl HeadKey {
    /// Of the answer `status` with so many fields and a body of which `whole` octets lie ready, at this date.
    pub(crate) fn new(
        exchange: Exchange,
        status: u16,
        whole: Option<usize>,
        fields: usize,
        date: &DateCache,
    ) -> Self {
        Self { exchange, status, whole, fields, second: date.second() }
    }
}

/// The final head that was made last: many an application begins all its answers alike, and octets that were judged need
/// no second judgement. It is a matter of speed only; a head that is repeated is the one that would be made.
#[derive(Debug, Default)]
pub(crate) struct LastHead {
    made: Option<(HeadKey, Sent)>,
    /// Names and values, with NUL behind each, which neither may hold: where there are as many fields, the same octets
    /// are the same fields.
    fields: Vec<u8>,
    octets: Vec<u8>,
}

impl LastHead {
    /// Longer heads are not kept.
    const KEPT: usize = 1024;

    /// Appends the head if it is that of `key` and `fields`.
    pub(crate) fn repeat<'f>(
        &self,
        out: &mut Vec<u8>,
        key: HeadKey,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Option<Sent> {
        let (made, sent) = self.made?;
        if made != key {
            return None;
        }
        let mut rest = &self.fields[..];
        for (name, value) in fields {
            for part in [name, value] {
                rest = rest.strip_prefix(part)?.strip_prefix(b"\0")?;
            }
        }
        rest.is_empty().then(|| out.extend_from_slice(&self.octets)).map(|()| sent)
    }

    /// Keeps a head that was made of `key` and `fields`, and hence has passed.
    pub(crate) fn learn<'f>(
        &mut self,
        octets: &[u8],
        key: HeadKey,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        sent: Sent,
    ) {
        self.made = None;
        if octets.len() > Self::KEPT {
            return;
        }
        self.fields.clear();
        for (name, value) in fields {
            for part in [name, b"\0", value, b"\0"] {
                self.fields.extend_from_slice(part);
            }
            // Fields that are no part of the head may be long.
            if self.fields.len() > Self::KEPT {
                return;
            }
        }
        self.octets.clear();
        self.octets.extend_from_slice(octets);
        self.made = Some((key, sent));
    }
}

/// A whole final head in one call.
pub fn response_head<'f>(
    out: &mut Vec<u8>,
    exchange: Exchange,
    status: u16,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    date: &DateCache,
    known: Option<u64>,
) -> Result<Sent, Error> {
    let mut head = ResponseHead::begin(out, exchange, status)?;
    for (name, value) in fields {
        head.field(name, value)?;
    }
    head.finish(date, known)
}

/// An interim response, 100 to 199 without 101; several may precede the final one.
///
/// Refused for HTTP/1.0 (RFC 9110 section 15.2), and with any field about framing or the connection.
pub fn informational<'f>(
    out: &mut Vec<u8>,
    exchange: Exchange,
    status: u16,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) -> Result<(), Error> {
    if !(100..=199).contains(&status) || status == 101 || exchange.version == Version::Http10 {
        return Err(Error::ResponseStatus(status));
    }
    or_undo(out, |out| {
        put_status_line(out, status, None)?;
        for (name, value) in fields {
            let value = checked(name, value)?;
            refuse_control(name)?;
            put_field(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    })
}

/// 101: after it the connection is no longer HTTP. The application names the protocol in `Upgrade`; the
/// `Connection: upgrade` that goes with it is written here, whether the application sends one or not.
pub fn switching_protocols<'f>(
    out: &mut Vec<u8>,
    exchange: Exchange,
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    date: &DateCache,
) -> Result<(), Error> {
    if !exchange.upgrade {
        return Err(Error::ResponseUpgrade);
    }
    or_undo(out, |out| {
        put_status_line(out, 101, None)?;
        let mut named = false;
        let (mut has_date, mut has_server) = (false, false);
        for (name, value) in fields {
            let value = checked(name, value)?;
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("connection") {
                continue;
            }
            if is("upgrade") {
                named |= !value.is_empty();
            } else {
                refuse_control(name)?;
            }
            if is("date") && std::mem::replace(&mut has_date, true) {
                continue;
            }
            if is("server") && std::mem::replace(&mut has_server, true) {
                continue;
            }
            put_field(out, name, value);
        }
        if !named {
            return Err(Error::ResponseUpgrade);
        }
        if !has_date {
            out.extend_from_slice(date.line());
        }
        if !has_server {
            out.extend_from_slice(SERVER);
        }
        out.extend_from_slice(b"Connection: upgrade\r\n\r\n");
        Ok(())
    })
}

/// A whole answer of the server's own, after which the connection is closed. For HEAD without its body.
pub fn error_response(out: &mut Vec<u8>, status: u16, method: MethodKind, date: &DateCache) {
    let phrase = reason(status);
    let phrase = if phrase.is_empty() { "Error" } else { phrase };
    if put_status_line(out, status, None).is_err() {
        unreachable!("a status line without a phrase of the application's cannot be refused");
    }
    out.extend_from_slice(date.line());
    out.extend_from_slice(SERVER);
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
    put_length(out, phrase.len() as u64 + 5);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    if method != MethodKind::Head {
        put_number(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(phrase.as_bytes());
        out.push(b'\n');
    }
}

/// Takes back what `write` appended if it fails.
fn or_undo(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    let start = out.len();
    let result = write(out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn refuse_control(name: &[u8]) -> Result<(), Error> {
    const CONTROL: &[&str] = &[
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if CONTROL.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
        return Err(Error::ResponseFieldForbidden(printable(name)));
    }
    Ok(())
}

/// The value without white space around it, if name and value can be sent.
pub(crate) fn checked<'v>(name: &[u8], value: &'v [u8]) -> Result<&'v [u8], Error> {
    if !is_token(name) {
        return Err(Error::ResponseFieldName(printable(name)));
    }
    let value = trim(value);
    if !is_value(value) {
        return Err(Error::ResponseFieldValue(printable(name)));
    }
    Ok(value)
}

/// For a log line: escaped, and not longer than that needs.
pub(crate) fn printable(name: &[u8]) -> String {
    name[..name.len().min(64)].escape_ascii().to_string()
}

pub(crate) fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_status_line(out: &mut Vec<u8>, status: u16, phrase: Option<&[u8]>) -> Result<(), Error> {
    if let (None, Some(line)) = (phrase, status_line(status)) {
        out.extend_from_slice(line);
        return Ok(());
    }
    let phrase = phrase.unwrap_or_default();
    if !is_value(phrase) {
        return Err(Error::ResponseReason);
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    put_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn put_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    put_number(out, length);
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const HTTP11: Exchange =
        Exchange { version: Version::Http11, method: MethodKind::Other, keep_alive: true, upgrade: false };
    const HTTP10: Exchange = Exchange { version: Version::Http10, ..HTTP11 };
    const HEAD: Exchange = Exchange { method: MethodKind::Head, ..HTTP11 };
    const CONNECT: Exchange = Exchange { method: MethodKind::Connect, ..HTTP11 };
    const UPGRADE: Exchange = Exchange { upgrade: true, ..HTTP11 };

    type Fields = &'static [(&'static str, &'static str)];

    fn bytes(fields: Fields) -> impl Iterator<Item = (&'static [u8], &'static [u8])> {
        fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }

    fn date() -> DateCache {
        DateCache::new(UNIX_EPOCH)
    }

    /// The head without the two lines that are always the same, and what was decided.
    fn head(
        exchange: Exchange,
        status: u16,
        fields: Fields,
        known: Option<u64>,
    ) -> Result<(String, Sent), Error> {
        let mut out = Vec::new();
        let sent = response_head(&mut out, exchange, status, bytes(fields), &date(), known)?;
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1, "{text}");
        let ours = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: rgunicorn\r\n";
        Ok((text.replacen(ours, "", 1), sent))
    }

    fn lines(exchange: Exchange, status: u16, fields: Fields, known: Option<u64>) -> Vec<String> {
        let (text, _) = head(exchange, status, fields, known).unwrap();
        text.trim_end().split("\r\n").skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn a_head_is_repeated_only_if_all_of_it_is_the_same() {
        let key = |status, whole, fields, second| {
            let date = DateCache::new(UNIX_EPOCH + std::time::Duration::from_secs(second));
            HeadKey::new(HTTP11, status, whole, fields, &date)
        };
        let sent = Sent { framing: ResponseFraming::Length(2), keep_alive: true };
        let made: &[(&[u8], &[u8])] = &[(b"A", b"b"), (b"C", b"d")];
        let mut last = LastHead::default();
        let repeated = |last: &LastHead, key, fields: &[(&'static [u8], &'static [u8])]| {
            let mut out = b"before".to_vec();
            let repeated = last.repeat(&mut out, key, fields.iter().copied());
            assert_eq!(out, if repeated.is_some() { &b"beforehead"[..] } else { b"before" });
            repeated == Some(sent)
        };
        assert!(!repeated(&last, key(200, Some(2), 2, 1), made), "there is none yet");
        last.learn(b"head", key(200, Some(2), 2, 1), made.iter().copied(), sent);
        assert!(repeated(&last, key(200, Some(2), 2, 1), made));
        for other in [key(201, Some(2), 2, 1), key(200, None, 2, 1), key(200, Some(2), 2, 2)] {
            assert!(!repeated(&last, other, made));
        }
        let head = HeadKey::new(HEAD, 200, Some(2), 2, &DateCache::new(UNIX_EPOCH));
        assert!(!repeated(&last, head, made));
        for fields in [
            &[(&b"A"[..], &b"b"[..]), (b"C", b"D")][..],
            &[(b"A", b"b"), (b"C", b"")],
            &[(b"A", b"bC"), (b"", b"d")],
            &[(b"A", b"b"), (b"C", b"de")],
            // Two of which one is forged.
            &[(b"A\0b", b"C"), (b"d", b"")],
        ] {
            assert!(!repeated(&last, key(200, Some(2), 2, 1), fields), "{fields:?}");
        }
        let forged: &[(&[u8], &[u8])] = &[(b"A\0b\0C", b"d")];
        assert!(!repeated(&last, key(200, Some(2), 1, 1), forged), "one for two");
        last.learn(&[b'x'; 2000], key(200, Some(2), 2, 1), made.iter().copied(), sent);
        assert!(!repeated(&last, key(200, Some(2), 2, 1), made), "too long to be kept");
    }

    #[test]
    fn whole_head() {
        let mut out = b"before".to_vec();
        let fields = bytes(&[("Content-Type", "text/plain"), ("X-A", " \tb ")]);
        let sent = response_head(&mut out, HTTP11, 200, fields, &date(), Some(2)).unwrap();
        assert_eq!(sent, Sent { framing: ResponseFraming::Length(2), keep_alive: true });
        let expected = "beforeHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\n\
            Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: rgunicorn\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(out.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    }

    #[test]
    fn status_lines() {
        for (status, line) in [(200, "HTTP/1.1 200 OK"), (299, "HTTP/1.1 299 "), (599, "HTTP/1.1 599 ")] {
            assert_eq!(head(HTTP11, status, &[], None).unwrap().0.split("\r\n").next(), Some(line));
        }
        for status in [0, 99, 100, 101, 199, 600, 999, 1000] {
            assert_eq!(head(HTTP11, status, &[], None).err(), Some(Error::ResponseStatus(status)));
        }
    }

    #[test]
    fn own_reason_phrase() {
        let mut out = Vec::new();
        let phrase = Some(&b"Fine \xe9"[..]);
        ResponseHead::begin_with_reason(&mut out, HTTP11, 200, phrase)
            .unwrap()
            .finish(&date(), None)
            .unwrap();
        assert!(out.starts_with(b"HTTP/1.1 200 Fine \xe9\r\n"));
        let split = Some(&b"OK\r\nA: b"[..]);
        let refused = ResponseHead::begin_with_reason(&mut out, HTTP11, 200, split).err();
        assert_eq!(refused, Some(Error::ResponseReason));
    }

    #[test]
    fn framing_for_each_kind_of_exchange() {
        use ResponseFraming::{Chunked, Length, NoBody, UntilClose};
        let length: Fields = &[("Content-Length", "7")];
        let chunked: Fields = &[("Transfer-Encoding", "chunked")];
        let (cl7, te, close) = ("Content-Length: 7", "Transfer-Encoding: chunked", "Connection: close");
        let alive = "Connection: keep-alive";
        for (exchange, status, fields, known, framing, expected) in [
            (HTTP11, 200, &[][..], None, Chunked, &[te][..]),
            (HTTP11, 200, &[], Some(7), Length(7), &[cl7]),
            (HTTP11, 200, length, None, Length(7), &[cl7]),
            (HTTP11, 200, length, Some(9), Length(7), &[cl7]),
            (HTTP11, 200, chunked, None, Chunked, &[te]),
            (HTTP11, 200, chunked, Some(7), Chunked, &[te]),
            (HTTP10, 200, &[], None, UntilClose, &[close]),
            (HTTP10, 200, length, None, Length(7), &[cl7, alive]),
            (HTTP10, 200, chunked, None, UntilClose, &[close]),
            (HTTP10, 200, chunked, Some(7), Length(7), &[cl7, alive]),
            (HTTP11, 204, length, Some(0), NoBody, &[]),
            (HTTP11, 205, length, Some(7), NoBody, &["Content-Length: 0"]),
            (HTTP11, 205, &[], None, NoBody, &["Content-Length: 0"]),
            (HTTP11, 304, length, None, NoBody, &[cl7]),
            (HTTP11, 304, &[], Some(0), NoBody, &[]),
            (HEAD, 200, length, None, NoBody, &[cl7]),
            (HEAD, 200, &[], Some(0), NoBody, &[]),
            (HEAD, 200, chunked, None, NoBody, &[]),
            (CONNECT, 200, length, None, UntilClose, &[close]),
            (CONNECT, 405, length, None, Length(7), &[cl7]),
        ] {
            let case = format!("{exchange:?} {status} {fields:?} {known:?}");
            assert_eq!(lines(exchange, status, fields, known), expected, "{case}");
            let (_, sent) = head(exchange, status, fields, known).unwrap();
            assert_eq!(sent, Sent { framing, keep_alive: framing != UntilClose }, "{case}");
        }
    }

    #[test]
    fn close_is_honoured_from_either_side() {
        let unwilling = Exchange { keep_alive: false, ..HTTP11 };
        for (exchange, fields) in [
            (unwilling, &[][..]),
            (HTTP11, &[("connection", "x, Close")]),
            (HTTP10, &[("Connection", "close")]),
        ] {
            let (text, sent) = head(exchange, 200, fields, Some(0)).unwrap();
            assert!(!sent.keep_alive);
            assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
            assert_eq!(text.to_lowercase().matches("connection:").count(), 1);
        }
    }

    #[test]
    fn hop_by_hop_fields_are_not_copied() {
        let fields: Fields = &[
            ("Connection", "keep-alive, X-A"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "close"),
            ("TE", "trailers"),
            ("Upgrade", "h2c"),
            ("Trailer", "X-B"),
        ];
        assert_eq!(lines(HTTP11, 200, fields, Some(1)), ["Content-Length: 1"]);
    }

    #[test]
    fn trailer_is_announced_only_in_chunks() {
        let fields: Fields = &[("Trailer", "X-B"), ("Trailer", "X-C")];
        let expected = ["Trailer: X-B", "Trailer: X-C", "Transfer-Encoding: chunked"];
        assert_eq!(lines(HTTP11, 200, fields, None), expected);
    }

    #[test]
    fn upgrade_is_kept_in_426() {
        let fields: Fields = &[("Upgrade", "h2c")];
        let expected = ["Upgrade: h2c", "Content-Length: 0", "Connection: upgrade"];
        assert_eq!(lines(HTTP11, 426, fields, Some(0)), expected);
    }

    #[test]
    fn date_and_server_are_replaced_by_the_first() {
        let fields: Fields = &[("date", "today"), ("SERVER", "mine"), ("Date", "never"), ("Server", "other")];
        assert_eq!(lines(HTTP11, 204, fields, None), ["date: today", "SERVER: mine"]);
    }

    #[test]
    fn what_cannot_be_sent_is_an_error_and_leaves_nothing_behind() {
        let name = |name: &str| Error::ResponseFieldName(name.to_owned());
        let value = || Error::ResponseFieldValue("A".to_owned());
        for (fields, error) in [
            (&[("", "b")][..], name("")),
            (&[("A B", "c")], name("A B")),
            (&[("A:", "b")], name("A:")),
            (&[("A\r\nB", "c")], name("A\\r\\nB")),
            (&[("é", "b")], name("\\xc3\\xa9")),
            (&[("A", "b\r\nC: d")], value()),
            (&[("A", "b\nC: d")], value()),
            (&[("A", "b\rc")], value()),
            (&[("A", "b\r\n")], value()),
            (&[("A", "\0")], value()),
            (&[("A", "\x7f")], value()),
            (&[("A", "\x1b[m")], value()),
            (&[("Keep-Alive", "\n")], Error::ResponseFieldValue("Keep-Alive".to_owned())),
            (&[("Content-Length", "+1")], Error::ResponseContentLength),
            (&[("Content-Length", "")], Error::ResponseContentLength),
            (&[("Content-Length", "1, 1")], Error::ResponseContentLength),
            (&[("Content-Length", "1"), ("Content-Length", "2")], Error::ResponseContentLength),
            (&[("Transfer-Encoding", "gzip")], Error::ResponseTransferEncoding),
            (&[("Transfer-Encoding", "gzip, chunked")], Error::ResponseTransferEncoding),
            (&[("Transfer-Encoding", "")], Error::ResponseTransferEncoding),
            (&[("Content-Length", "1"), ("Transfer-Encoding", "chunked")], Error::ResponseTransferEncoding),
        ] {
            let mut out = b"kept".to_vec();
            let result = response_head(&mut out, HTTP11, 200, bytes(fields), &date(), None);
            assert_eq!((result, &out[..]), (Err(error), &b"kept"[..]), "{fields:?}");
        }
    }

    #[test]
    fn equal_lengths_become_one() {
        let fields: Fields = &[("Content-Length", "7"), ("content-length", "07")];
        assert_eq!(lines(HTTP11, 200, fields, None), ["Content-Length: 7"]);
    }

    #[test]
    fn head_given_up_is_taken_back() {
        let mut out = b"kept".to_vec();
        let mut head = ResponseHead::begin(&mut out, HTTP11, 200).unwrap();
        head.field(b"A", b"b").unwrap();
        drop(head);
        assert_eq!(out, b"kept");
    }

    #[test]
    fn interim_responses() {
        let mut out = Vec::new();
        informational(&mut out, HTTP11, 100, []).unwrap();
        assert_eq!(out, CONTINUE);
        out.clear();
        informational(&mut out, HTTP11, 103, bytes(&[("Link", "</a>")])).unwrap();
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        for status in [99, 101, 200] {
            let refused = informational(&mut out, HTTP11, status, []);
            assert_eq!(refused, Err(Error::ResponseStatus(status)));
        }
        assert_eq!(informational(&mut out, HTTP10, 103, []), Err(Error::ResponseStatus(103)));
        out.clear();
        for name in ["Content-Length", "Transfer-Encoding", "connection", "Trailer", "Upgrade"] {
            let field = [(name.as_bytes(), &b"1"[..])];
            let refused = Err(Error::ResponseFieldForbidden(name.to_owned()));
            assert_eq!(informational(&mut out, HTTP11, 103, field), refused);
        }
        let split = informational(&mut out, HTTP11, 103, bytes(&[("A", "b\r\n\r\n")]));
        assert_eq!((split, out.is_empty()), (Err(Error::ResponseFieldValue("A".to_owned())), true));
    }

    #[test]
    fn switching() {
        let mut out = Vec::new();
        let fields: Fields =
            &[("Connection", "close"), ("Upgrade", "websocket"), ("Server", "mine"), ("Server", "other")];
        switching_protocols(&mut out, UPGRADE, bytes(fields), &date()).unwrap();
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nServer: mine\r\n\
            Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nConnection: upgrade\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        for (exchange, fields) in
            [(HTTP11, &[("Upgrade", "x")][..]), (UPGRADE, &[]), (UPGRADE, &[("Upgrade", "")])]
        {
            let refused = switching_protocols(&mut out, exchange, bytes(fields), &date());
            assert_eq!((refused, out.is_empty()), (Err(Error::ResponseUpgrade), true));
        }
        let length = switching_protocols(&mut out, UPGRADE, bytes(&[("Content-Length", "1")]), &date());
        assert_eq!(length, Err(Error::ResponseFieldForbidden("Content-Length".to_owned())));
    }

    #[test]
    fn error_responses_are_well_formed() {
        for (status, body) in [(431, "431 Request Header Fields Too Large\n"), (499, "499 Error\n")] {
            let mut out = Vec::new();
            error_response(&mut out, status, MethodKind::Other, &date());
            let text = String::from_utf8(out).unwrap();
            let (head, found) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(found, body);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} {}\r\n", reason(status))), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(head.ends_with("\r\nConnection: close"), "{head}");
            let mut out = Vec::new();
            error_response(&mut out, status, MethodKind::Head, &date());
            assert_eq!(String::from_utf8(out).unwrap(), format!("{head}\r\n\r\n"));
        }
    }
}
