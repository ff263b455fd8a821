//! A request head: found in the caller's buffer, judged, and kept as spans into that buffer.
//!
//! It owns the request line, the search for the end of the head with all limits on the way, and what the
//! fields say about framing and the connection. It does not own the buffer, nor the body (`body`).
//!
//! What a newcomer gets wrong: `Partial` is not an error and must not be taken for one, but it has a
//! memory. The search for the end goes on where it stopped, so a head dripped octet by octet costs no more
//! than one that came at once; hence the buffer must begin with the same octets at each call.
//!
//! | stage        | a line was found    | no line yet     | next                                       |
//! |--------------|---------------------|-----------------|--------------------------------------------|
//! | `Start`      | empty, or parsed    | too long        | `RequestLine` or `Fields`; 414             |
//! | `RequestLine`| parsed at once      | too long        | `Fields`; 414                              |
//! | `Fields`     | counted, or the end | too long        | `Fields`, `Complete`; 431                  |
//! | `Complete`   |                     |                 | the next call starts over                  |

use memchr::memchr;

use crate::error::Error;
use crate::fields::{self, FieldSpan, Span, Underscores};
use crate::limits::{Leniency, Limits};
use crate::syntax::{decimal, is_space, is_tchar, is_token, members, trim};
use crate::target::{self, Target, TargetForm};

/// The protocol version, as far as it makes a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
}

/// How the end of the request body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither field: there is no body.
    #[default]
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// How the method bears on the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodKind {
    /// The response has no body.
    Head,
    /// A 2xx response has no framing.
    Connect,
    /// Any other.
    #[default]
    Other,
}

/// What the writer of the response must know about the request.
///
/// The fields are open so that a worker class can narrow them: `keep_alive` becomes false where it wants
/// the connection closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Of the request; the response is always HTTP/1.1 (RFC 9110 section 6.2).
    pub version: Version,
    /// Of the request.
    pub method: MethodKind,
    /// Whether the connection may serve another request.
    pub keep_alive: bool,
    /// Whether the client offered to switch protocols, without which 101 is refused.
    pub upgrade: bool,
}

/// How far a head has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More octets are needed.
    Partial,
    /// The head is the first `len` octets of the buffer; the body, if any, follows.
    Complete {
        /// Octets of the head, with the empty line before it, if there was one, and the one after it.
        len: usize,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    RequestLine,
    Fields,
    Complete,
}

/// A request head, to be reused: after the first few requests it allocates nothing.
///
/// Every accessor takes the buffer given to the call of `parse` that returned `Complete`, and is
/// meaningful until the next call of `parse` or `clear`. With another buffer the answers are wrong, and
/// one that is too short makes them panic.
#[derive(Debug, Default)]
pub struct Head {
    stage: Stage,
    /// Up to here no LF is left to be found.
    searched: usize,
    line_start: usize,
    /// Octets of the field so far, continuation lines included.
    field_len: usize,
    fields_start: usize,
    lines: usize,
    folded: bool,

    /// What leniency had to rewrite, since the buffer is not ours to change.
    rewritten: Vec<u8>,
    method_rewritten: bool,
    fields_rewritten: bool,

    method: Span,
    target: Span,
    parts: Target,
    version: Version,
    fields: Vec<FieldSpan>,
    framing: BodyFraming,
    keep_alive: bool,
    expect_continue: bool,
    host: Option<usize>,
    upgrade: Option<usize>,

    /// A value of `Host` that has passed, if it is not too long: most clients name the same host with each request.
    /// Kept from one request to the next.
    known_host: Vec<u8>,
}

/// The longest value of `Host` that is kept.
const KNOWN_HOST: usize = 128;

impl Head {
    /// An empty head.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the request and keeps the memory. Needed only to give up a head that was `Partial`: a call
    /// of `parse` after `Complete` or after an error starts over by itself.
    pub fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        let mut rewritten = std::mem::take(&mut self.rewritten);
        let known_host = std::mem::take(&mut self.known_host);
        fields.clear();
        rewritten.clear();
        *self = Self { fields, rewritten, known_host, ..Self::default() };
    }

    /// Looks for a whole head at the beginning of `buf`.
    ///
    /// After `Partial`, call again with the same octets and more behind them; `limits` and `leniency` must
    /// not change meanwhile. What is certain to be refused is refused before the head is complete. After an
    /// error the connection is to be closed, since where the next request begins is not known.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits, leniency: &Leniency) -> Result<Progress, Error> {
        self.parse_forwarded(buf, limits, leniency, &[])
    }

    /// As [`Head::parse`], for a request of a proxy that sets fields with an underscore in their name itself.
    /// `forwarder_headers` are their names, in whatever case, which `header_map` then leaves alone; `*` means
    /// all.
    pub fn parse_forwarded(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        leniency: &Leniency,
        forwarder_headers: &[String],
    ) -> Result<Progress, Error> {
        if self.stage == Stage::Complete {
            self.clear();
        }
        let result = self.search(buf, limits, leniency, forwarder_headers);
        if result.is_err() {
            self.stage = Stage::Complete;
        }
        result
    }

    fn search(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        leniency: &Leniency,
        excepted: &[String],
    ) -> Result<Progress, Error> {
        loop {
            self.check_first_octet(buf)?;
            let Some(distance) = memchr(b'\n', &buf[self.searched..]) else {
                self.searched = buf.len();
                self.check_length(&buf[self.line_start..], limits)?;
                check(buf.len() <= limits.head, Error::HeadTooLarge)?;
                return Ok(Progress::Partial);
            };
            let lf = self.searched + distance;
            let line = &buf[self.line_start..lf];
            self.check_length(line, limits)?;
            check(lf < limits.head, Error::HeadTooLarge)?;
            // RFC 9112 section 2.2 lets a recipient take LF for a line end; one on the way may not.
            let line = line.strip_suffix(b"\r").ok_or(Error::BareLineFeed)?;
            let start = self.line_start;
            self.searched = lf + 1;
            self.line_start = lf + 1;
            match self.stage {
                Stage::Start if line.is_empty() => self.stage = Stage::RequestLine,
                Stage::RequestLine if line.is_empty() => return Err(Error::LeadingEmptyLines),
                Stage::Start | Stage::RequestLine => {
                    self.take_request_line(line, start, leniency)?;
                    self.fields_start = self.line_start;
                    self.stage = Stage::Fields;
                }
                Stage::Fields if line.is_empty() => {
                    self.take_fields(buf, leniency, excepted)?;
                    self.stage = Stage::Complete;
                    return Ok(Progress::Complete { len: self.line_start });
                }
                Stage::Fields => self.count_field_line(line, limits, leniency)?,
                Stage::Complete => unreachable!("parse starts over after Complete"),
            }
        }
    }

    /// A client that speaks TLS, or anything but HTTP, is told so at once, not at its first LF.
    fn check_first_octet(&self, buf: &[u8]) -> Result<(), Error> {
        match (self.stage, buf.get(self.line_start)) {
            (Stage::Start | Stage::RequestLine, Some(&octet)) => {
                check(is_tchar(octet) || matches!(octet, b'\r' | b'\n'), Error::Method)
            }
            (Stage::Start | Stage::RequestLine | Stage::Fields | Stage::Complete, _) => Ok(()),
        }
    }

    /// Measures a line without its LF, be it whole or not. A CR at its end may belong to the line end. The
    /// order of the checks is the same for both, so that the error does not depend on how octets arrive.
    fn check_length(&self, line: &[u8], limits: &Limits) -> Result<(), Error> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.stage {
            Stage::Start | Stage::RequestLine => {
                check(line.len() <= limits.request_line, Error::RequestLineTooLong)
            }
            Stage::Fields if line.is_empty() => Ok(()),
            Stage::Fields => {
                let before = if is_space(line[0]) { self.field_len } else { 0 };
                check(before + line.len() + 2 <= limits.field_size, Error::FieldTooLarge)
            }
            Stage::Complete => Ok(()),
        }
    }

    fn count_field_line(&mut self, line: &[u8], limits: &Limits, leniency: &Leniency) -> Result<(), Error> {
        if is_space(line[0]) {
            // RFC 9112 section 2.2: white space before the first field is no fold, and never accepted.
            check(self.lines > 0, Error::FieldName)?;
            check(leniency.permit_obsolete_folding, Error::ObsoleteFolding)?;
            self.folded = true;
            self.field_len += line.len() + 2;
        } else {
            self.lines += 1;
            self.field_len = line.len() + 2;
        }
        check(self.lines <= limits.fields, Error::TooManyFields)
    }

    /// `method SP request-target SP HTTP-version`, with exactly these two spaces.
    fn take_request_line(&mut self, line: &[u8], start: usize, leniency: &Leniency) -> Result<(), Error> {
        // Methods are short: a loop has found the end before a search has begun.
        let first = line.iter().position(|&octet| octet == b' ').ok_or(Error::RequestLine)?;
        let (method, rest) = (&line[..first], &line[first + 1..]);
        check_method(method, leniency)?;
        let last = match rest.split_last_chunk() {
            // All but every request.
            Some((target, b" HTTP/1.1")) => target.len(),
            _ => memchr::memrchr(b' ', rest).ok_or(Error::RequestLine)?,
        };
        let (target, version) = (&rest[..last], &rest[last + 1..]);
        self.version = parse_version(version, leniency)?;

        self.method = Span::new(start, method.len())?;
        self.target = Span::new(start + first + 1, target.len())?;
        let mut method = method;
        if leniency.casefold_http_method && method.iter().any(u8::is_ascii_lowercase) {
            self.method = Span::new(self.rewritten.len(), method.len())?;
            self.method_rewritten = true;
            self.rewritten.extend(method.iter().map(u8::to_ascii_uppercase));
            method = &self.rewritten;
        }
        self.parts = target::parse(target, method)?;
        Ok(())
    }

    fn take_fields(&mut self, buf: &[u8], leniency: &Leniency, excepted: &[String]) -> Result<(), Error> {
        let section = &buf[self.fields_start..self.line_start];
        let underscores = Underscores { map: leniency.header_map, excepted };
        if self.folded || leniency.strip_header_spaces {
            let base = self.rewritten.len();
            rewrite(section, leniency, &mut self.rewritten);
            self.fields_rewritten = true;
            fields::parse(&self.rewritten[base..], base, self.lines, underscores, &mut self.fields)?;
            // Only for the borrow checker: the facts are read from the rewritten section.
            let rewritten = std::mem::take(&mut self.rewritten);
            let result = self.take_facts(&rewritten);
            self.rewritten = rewritten;
            result
        } else {
            fields::parse(section, self.fields_start, self.lines, underscores, &mut self.fields)?;
            self.take_facts(buf)
        }
    }

    /// What the fields say about the message itself. Names are told apart by length first.
    fn take_facts(&mut self, source: &[u8]) -> Result<(), Error> {
        let mut length = None;
        let mut codings = Codings::default();
        let mut content_type = false;
        let mut close = false;
        let mut keep_alive = false;
        let mut upgrade = false;
        for (index, field) in self.fields.iter().enumerate() {
            let (name, value) = (field.name.of(source), field.value.of(source));
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            match name.len() {
                4 if is("host") => {
                    check(self.host.replace(index).is_none(), Error::Repeated("Host"))?;
                    if value.is_empty() || value != self.known_host {
                        check(target::authority(value).is_some(), Error::Host)?;
                        if value.len() <= KNOWN_HOST {
                            self.known_host.clear();
                            self.known_host.extend_from_slice(value);
                        }
                    }
                }
                6 if is("expect") => {
                    // A list, on however many lines (RFC 9110 sections 10.1.1 and 5.3): said twice it is the same wish.
                    // One without members is nobody's, and refused like a wish that is not known.
                    let mut expectations = members(value).filter(|member| !member.is_empty()).peekable();
                    let known = |member: &[u8]| member.eq_ignore_ascii_case(b"100-continue");
                    check(expectations.peek().is_some() && expectations.all(known), Error::Expectation)?;
                    self.expect_continue = true;
                }
                7 if is("upgrade") => {
                    self.upgrade.get_or_insert(index);
                }
                10 if is("connection") => {
                    for option in members(value) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                        upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                12 if is("content-type") => {
                    check(!std::mem::replace(&mut content_type, true), Error::Repeated("Content-Type"))?;
                }
                14 if is("content-length") => {
                    // RFC 9112 section 6.3 would permit equal ones; who sends two is not to be trusted.
                    let value = decimal(value).ok_or(Error::ContentLength)?;
                    check(length.replace(value).is_none(), Error::Repeated("Content-Length"))?;
                }
                17 if is("transfer-encoding") => codings.take(value)?,
                _ => {}
            }
        }
        self.framing = match (codings.finish()?, length) {
            (false, None) => BodyFraming::None,
            (false, Some(length)) => BodyFraming::Length(length),
            (true, Some(_)) => return Err(Error::ContentLengthWithTransferEncoding),
            (true, None) if self.version == Version::Http10 => return Err(Error::TransferEncodingVersion),
            (true, None) => BodyFraming::Chunked,
        };
        let modern = self.version == Version::Http11;
        check(self.host.is_some() || !modern, Error::HostMissing)?;
        self.keep_alive = !close && (modern || keep_alive);
        // RFC 9110 sections 10.1.1 and 7.8: HTTP/1.0 has neither.
        self.expect_continue &= modern && !matches!(self.framing, BodyFraming::None | BodyFraming::Length(0));
        if !(modern && upgrade) {
            self.upgrade = None;
        }
        Ok(())
    }

    fn method_source<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        if self.method_rewritten { &self.rewritten } else { buf }
    }

    fn fields_source<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        if self.fields_rewritten { &self.rewritten } else { buf }
    }

    /// The method.
    #[must_use]
    pub fn method<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        self.method.of(self.method_source(buf))
    }

    /// The whole target as it came.
    #[must_use]
    pub fn target<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        self.target.of(buf)
    }

    /// Which form the target has.
    #[must_use]
    pub fn target_form(&self) -> TargetForm {
        self.parts.form
    }

    /// The path of the target, not decoded: never empty, `*` in asterisk form, and empty only for the
    /// authority form, which has none.
    #[must_use]
    pub fn path<'a>(&'a self, buf: &'a [u8]) -> &'a [u8] {
        match self.parts.form {
            TargetForm::Asterisk => b"*",
            TargetForm::Absolute if self.parts.path.is_empty() => b"/",
            TargetForm::Origin | TargetForm::Absolute | TargetForm::Authority => {
                &self.target(buf)[self.parts.path.clone()]
            }
        }
    }

    /// What follows the first `?`, if there is one.
    #[must_use]
    pub fn query<'a>(&'a self, buf: &'a [u8]) -> Option<&'a [u8]> {
        self.parts.query.clone().map(|range| &self.target(buf)[range])
    }

    /// The authority the request is for: of the target if it has one, else of `Host`.
    ///
    /// `None` only in HTTP/1.0. A `Host` that differs from the target's authority is still among the fields.
    #[must_use]
    pub fn authority<'a>(&'a self, buf: &'a [u8]) -> Option<&'a [u8]> {
        match &self.parts.authority {
            Some(range) => Some(&self.target(buf)[range.clone()]),
            None => self.host.map(|index| self.fields[index].value.of(self.fields_source(buf))),
        }
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Names and values in the order of arrival, repeated ones apart, values without white space around.
    pub fn fields<'a>(
        &'a self,
        buf: &'a [u8],
    ) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let source = self.fields_source(buf);
        self.fields.iter().map(move |field| (field.name.of(source), field.value.of(source)))
    }

    /// The field at this place in that order.
    #[must_use]
    pub fn field_at<'a>(&'a self, buf: &'a [u8], index: usize) -> Option<(&'a [u8], &'a [u8])> {
        let source = self.fields_source(buf);
        self.fields.get(index).map(|field| (field.name.of(source), field.value.of(source)))
    }

    /// The first field of this name, in whatever case.
    #[must_use]
    pub fn field<'a>(&'a self, buf: &'a [u8], name: &str) -> Option<&'a [u8]> {
        self.fields(buf)
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// How the body ends.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Whether the client would keep the connection: by version and `Connection`, where `close` wins.
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether the client waits for 100 before it sends the body. False if there is no body to wait for.
    #[must_use]
    pub fn expect_continue(&self) -> bool {
        self.expect_continue
    }

    /// The first `Upgrade` field, if `Connection` names it.
    #[must_use]
    pub fn upgrade<'a>(&'a self, buf: &'a [u8]) -> Option<&'a [u8]> {
        self.upgrade.map(|index| self.fields[index].value.of(self.fields_source(buf)))
    }

    /// What the response writer needs.
    #[must_use]
    pub fn exchange(&self, buf: &[u8]) -> Exchange {
        let method = match self.method(buf) {
            b"HEAD" => MethodKind::Head,
            b"CONNECT" => MethodKind::Connect,
            _ => MethodKind::Other,
        };
        Exchange {
            version: self.version,
            method,
            keep_alive: self.keep_alive,
            upgrade: self.upgrade.is_some(),
        }
    }
}

/// The members of all `Transfer-Encoding` fields, judged as one list (RFC 9112 section 6.1).
#[derive(Debug, Default)]
struct Codings {
    present: bool,
    chunked: bool,
    others: bool,
}

impl Codings {
    fn take(&mut self, value: &[u8]) -> Result<(), Error> {
        for coding in members(value) {
            // Nothing may follow `chunked`, not even itself; an empty member is a sign of tampering.
            check(!self.chunked && !coding.is_empty(), Error::TransferEncoding)?;
            self.present = true;
            match coding.eq_ignore_ascii_case(b"chunked") {
                true => self.chunked = true,
                false => self.others = true,
            }
        }
        Ok(())
    }

    /// Whether the body is chunked. Section 6.3: without `chunked` at the end the body of a request has no
    /// end that all agree on, which is 400; with it, what lies below is merely not implemented.
    fn finish(&self) -> Result<bool, Error> {
        check(self.chunked || !self.present, Error::TransferEncoding)?;
        check(!self.others, Error::TransferCoding)?;
        Ok(self.chunked)
    }
}

fn check(holds: bool, error: Error) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(error) }
}

/// RFC 9110 section 9.1 asks for a token. The rest is Gunicorn's: all registered methods are upper case
/// and have 3 to 20 octets, so that anything else is rather the remains of another message.
fn check_method(method: &[u8], leniency: &Leniency) -> Result<(), Error> {
    if matches!(method, b"GET" | b"POST" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"PATCH") {
        return Ok(());
    }
    check(is_token(method), Error::Method)?;
    if leniency.permit_unconventional_http_method {
        return Ok(());
    }
    let odd = |&octet: &u8| octet.is_ascii_lowercase() || octet == b'#';
    check((3..=20).contains(&method.len()) && !method.iter().any(odd), Error::Method)
}

fn parse_version(version: &[u8], leniency: &Leniency) -> Result<Version, Error> {
    let [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = version else {
        return Err(Error::VersionSyntax);
    };
    match (major, minor) {
        (b'1', b'1') => Ok(Version::Http11),
        (b'1', b'0') => Ok(Version::Http10),
        _ if !leniency.permit_unconventional_http_version => Err(Error::VersionUnsupported),
        (b'0', _) => Ok(Version::Http10),
        _ => Ok(Version::Http11),
    }
}

/// Appends the section as a strict client would have sent it, line by line: each fold becomes one SP (RFC
/// 9112 section 5.2), and white space before the colon goes where that is permitted.
fn rewrite(section: &[u8], leniency: &Leniency, out: &mut Vec<u8>) {
    let mut rest = section;
    let mut first = true;
    while let Some(end) = memchr(b'\n', rest) {
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        let fold = line.first().is_some_and(|&octet| is_space(octet));
        if fold {
            out.push(b' ');
            out.extend_from_slice(trim(line));
            continue;
        }
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b"\r\n");
        }
        match memchr(b':', line) {
            Some(colon) if leniency.strip_header_spaces => {
                let name = &line[..colon];
                let kept = name.iter().rposition(|&octet| !is_space(octet)).map_or(0, |last| last + 1);
                out.extend_from_slice(&name[..kept]);
                out.extend_from_slice(trim_end(&line[colon..]));
            }
            Some(_) | None => out.extend_from_slice(trim_end(line)),
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn trim_end(line: &[u8]) -> &[u8] {
    let kept = line.iter().rposition(|&octet| !is_space(octet)).map_or(0, |last| last + 1);
    &line[..kept]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &mut Head, text: &str) -> Result<Progress, Error> {
        head.parse(text.as_bytes(), &Limits::default(), &Leniency::default())
    }

    fn with_fields(version: &str, fields: &str) -> Result<Head, Error> {
        let mut head = Head::new();
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        match parse(&mut head, &text)? {
            Progress::Complete { len } => assert_eq!(len, text.len()),
            Progress::Partial => panic!("partial: {text}"),
        }
        Ok(head)
    }

    fn refusal(fields: &str) -> Option<Error> {
        with_fields("1.1", fields).err()
    }

    #[test]
    fn length_excludes_what_follows() {
        let mut head = Head::new();
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\n\n not our business";
        assert_eq!(parse(&mut head, text), Ok(Progress::Complete { len: 27 }));
    }

    #[test]
    fn a_known_host_spares_the_judgement_of_no_other() {
        let mut head = Head::new();
        let long = "a".repeat(KNOWN_HOST + 1);
        let hosts = ["", "a", "a", "a b", "a", "", "a:", "a:1", "a:x", "a:1", &long, &long, "A", "a@", "a"];
        for host in hosts {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(parse(&mut head, &text), parse(&mut Head::new(), &text), "{host}");
            assert!(head.known_host.len() <= KNOWN_HOST);
        }
        let text = "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n";
        assert_eq!(parse(&mut head, text), Err(Error::Repeated("Host")));
    }

    #[test]
    fn every_proper_prefix_is_partial() {
        let text = "\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&mut Head::new(), &text[..end]), Ok(Progress::Partial), "{end}");
        }
    }

    #[test]
    fn the_search_goes_on_where_it_stopped() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut head = Head::new();
        for end in 0..text.len() {
            parse(&mut head, &text[..end]).unwrap();
            assert_eq!(head.searched, end);
        }
    }

    #[test]
    fn a_head_is_reusable_after_success_and_after_error() {
        let mut head = Head::new();
        let first = "GET /long/path HTTP/1.1\r\nHost: a\r\nA: b\r\nContent-Length: 4\r\n\r\n";
        parse(&mut head, first).unwrap();
        assert_eq!(head.framing(), BodyFraming::Length(4));
        assert_eq!(parse(&mut head, "bad request\r\n"), Err(Error::Method));
        let second = "PUT /b HTTP/1.1\r\nHost: c\r\n\r\n";
        parse(&mut head, second).unwrap();
        assert_eq!((head.method(second.as_bytes()), head.path(second.as_bytes())), (&b"PUT"[..], &b"/b"[..]));
        assert_eq!((head.framing(), head.fields(second.as_bytes()).len()), (BodyFraming::None, 1));
    }

    #[test]
    fn clear_gives_up_a_partial_head_and_keeps_the_memory() {
        let mut head = Head::new();
        let text = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        parse(&mut head, text).unwrap();
        let (fields, capacity) = (head.fields.as_ptr(), head.fields.capacity());
        parse(&mut head, "GET / HT").unwrap();
        head.clear();
        assert!(matches!(parse(&mut head, text), Ok(Progress::Complete { .. })));
        assert_eq!((head.fields.as_ptr(), head.fields.capacity()), (fields, capacity));
    }

    #[test]
    fn limits_are_exact() {
        let limits = Limits { request_line: 14, fields: 2, field_size: 9, head: 36, ..Limits::default() };
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nB: cdef\r\n\r\n", Ok(Progress::Complete { len: 36 })),
            ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", Err(Error::RequestLineTooLong)),
            ("GET / HTTP/1.1\r\nHost: ab\r\n\r\n", Err(Error::FieldTooLarge)),
            ("GET / HTTP/1.1\r\nHost: a\r\nB:\r\nC:\r\n\r\n", Err(Error::TooManyFields)),
            ("\r\nGET / HTTP/1.1\r\nHost: a\r\nB: cdef\r\n\r\n", Err(Error::HeadTooLarge)),
        ] {
            assert_eq!(Head::new().parse(text.as_bytes(), &limits, &Leniency::default()), expected, "{text}");
        }
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for (head, expected) in [(27, Ok(Progress::Complete { len: 27 })), (26, Err(Error::HeadTooLarge))] {
            let limits = Limits { head, ..limits };
            assert_eq!(Head::new().parse(text, &limits, &Leniency::default()), expected, "{head}");
        }
    }

    #[test]
    fn excess_is_refused_before_the_line_ends() {
        let limits = Limits { request_line: 20, field_size: 20, head: 60, ..Limits::default() };
        let start = "GET / HTTP/1.1\r\nHost: a\r\n";
        for (text, expected) in [
            ("A".repeat(20) + "\r", Ok(Progress::Partial)),
            ("A".repeat(21), Err(Error::RequestLineTooLong)),
            (format!("{start}{}\r", "b".repeat(18)), Ok(Progress::Partial)),
            (format!("{start}{}", "b".repeat(19)), Err(Error::FieldTooLarge)),
            (format!("{start}{}", "b: c\r\n".repeat(6)), Err(Error::HeadTooLarge)),
            (format!("{start}{}b: cd", "b: c\r\n".repeat(5)), Ok(Progress::Partial)),
            (format!("{start}{}b: cde", "b: c\r\n".repeat(5)), Err(Error::HeadTooLarge)),
        ] {
            assert_eq!(Head::new().parse(text.as_bytes(), &limits, &Leniency::default()), expected, "{text}");
        }
    }

    #[test]
    fn a_line_is_refused_before_the_head_is_complete() {
        for (text, error) in [
            ("\x16\x03\x01", Error::Method),
            ("get / HTTP/1.1\r\n", Error::Method),
            ("GET / HTTP/2.0\r\n", Error::VersionUnsupported),
            ("GET * HTTP/1.1\r\n", Error::Target),
            ("GET / HTTP/1.1\r\nA: b\n", Error::BareLineFeed),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n", Error::ObsoleteFolding),
        ] {
            assert_eq!(parse(&mut Head::new(), text), Err(error), "{text}");
        }
    }

    #[test]
    fn framing() {
        for (fields, expected) in [
            ("", BodyFraming::None),
            ("Content-Length: 0\r\n", BodyFraming::Length(0)),
            ("content-length: 18446744073709551615\r\n", BodyFraming::Length(u64::MAX)),
            ("TRANSFER-ENCODING: Chunked\r\n", BodyFraming::Chunked),
        ] {
            assert_eq!(with_fields("1.1", fields).unwrap().framing(), expected, "{fields}");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for (fields, error) in [
            ("Content-Length: 1\r\nContent-Length: 1\r\n", Error::Repeated("Content-Length")),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", Error::ContentLengthWithTransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Error::TransferEncoding),
            ("Transfer-Encoding: gzip\r\n", Error::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked\r\n", Error::TransferCoding),
        ] {
            assert_eq!(refusal(fields), Some(error), "{fields}");
        }
        let old = with_fields("1.0", "Transfer-Encoding: chunked\r\n");
        assert_eq!(old.err(), Some(Error::TransferEncodingVersion));
    }

    #[test]
    fn exchange_tells_the_writer_what_it_needs() {
        let mut head = Head::new();
        let text = "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        parse(&mut head, text).unwrap();
        let expected =
            Exchange { version: Version::Http10, method: MethodKind::Head, keep_alive: true, upgrade: false };
        assert_eq!(head.exchange(text.as_bytes()), expected);
    }

    #[test]
    fn field_is_found_in_any_case() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n";
        let mut head = Head::new();
        parse(&mut head, text).unwrap();
        assert_eq!(head.field(text.as_bytes(), "x-A"), Some(&b"1"[..]));
        assert_eq!(head.field(text.as_bytes(), "x-b"), None);
    }

    #[test]
    fn one_pass_of_rewriting_serves_all_switches() {
        let leniency = Leniency {
            permit_obsolete_folding: true,
            strip_header_spaces: true,
            permit_unconventional_http_method: true,
            casefold_http_method: true,
            ..Leniency::default()
        };
        let buf = b"get / HTTP/1.1\r\nHost : a\r\nB : c\r\n\td \r\n\r\n";
        let mut head = Head::new();
        head.parse(buf, &Limits::default(), &leniency).unwrap();
        assert_eq!(head.method(buf), b"GET");
        let fields: Vec<_> = head.fields(buf).collect();
        assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"B", b"c d")]);
        assert_eq!(head.authority(buf), Some(&b"a"[..]));
    }
}
