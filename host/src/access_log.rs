//! The access log: one line per request, in Gunicorn's format language or as JSON, batched.
//!
//! Owns the formats, the atoms, the escaping, and the batch. Does not own where lines are written without waiting
//! ([`crate::logging`]) nor when a turn of the loop ends: the caller flushes then, when idle, on USR1 and at exit.
//!
//! What a newcomer would get wrong: everything in a record but numbers comes from the network. Each atom's value is
//! escaped to printable ASCII, quotes and backslashes included, so that no client can forge a field or a line.
//!
//! In JSON every line is an object with these keys, in this order; what is not there is null.
//!
//! | key | value |
//! |---|---|
//! | `time` | when the answer ended, UTC: `2026-11-21T06:53:12Z` |
//! | `remote_address` | the client's; null for a Unix socket |
//! | `user` | of basic authentication |
//! | `method`, `target`, `protocol` | the request line; null if it could not be parsed |
//! | `status` | a number; null if nothing was sent |
//! | `bytes` | of the body, as sent |
//! | `duration_us` | from a whole head to the end of the answer, in microseconds |
//! | `referer`, `user_agent` | these fields |
//! | `pid` | the worker's |

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::logging::sink::{Sink, count_lines};
use crate::logging::syslog::{Sender, Severity, Syslog};
use crate::logging::{LogError, LogTarget, UtcTime};

/// A batch is written when it is longer than this many bytes.
const BATCH: usize = 16 * 1024;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A parsed `access_log_format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
}

/// What a line looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// As the operator wrote it.
    Text(Format),
    /// One object a line.
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Atom(Atom),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom {
    RemoteAddress,
    /// `l`: identd, which nobody has.
    Dash,
    User,
    Time,
    RequestLine,
    Status,
    Method,
    Path,
    Query,
    Protocol,
    Bytes,
    Referer,
    UserAgent,
    Seconds,
    Milliseconds,
    Microseconds,
    DecimalSeconds,
    Pid,
    RequestHeader(String),
    ResponseHeader(String),
    Environment(String),
}

/// A format that cannot be understood; its sentence fits behind the setting's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// An atom that does not exist.
    #[error(
        "there is no atom '%({0})s'; the atoms are h l u t r m U q H s B b f a T M D L p {{NAME}}i {{NAME}}o {{NAME}}e"
    )]
    UnknownAtom(String),
    /// A percent sign that begins no atom.
    #[error("the '%' before '{0}' begins no atom; write '%(NAME)s', or '%%' for a percent sign")]
    LonePercent(String),
}

impl Format {
    /// Reads a format: `%(NAME)s`, or `%(NAME)d`, and `%%`; everything else stands for itself.
    ///
    /// # Errors
    /// The first atom that does not exist, by name.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(percent) = rest.find('%') {
            literal.push_str(&rest[..percent]);
            let after = &rest[percent + 1..];
            if let Some(plain) = after.strip_prefix('%') {
                literal.push('%');
                rest = plain;
                continue;
            }
            let lone = || FormatError::LonePercent(after.chars().take(12).collect());
            let (name, conversion) =
                after.strip_prefix('(').and_then(|inside| inside.split_once(')')).ok_or_else(lone)?;
            rest = conversion.strip_prefix(['s', 'd']).ok_or_else(lone)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Atom(atom(name).ok_or_else(|| FormatError::UnknownAtom(name.to_owned()))?));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { parts })
    }
}

fn atom(name: &str) -> Option<Atom> {
    if let Some(inside) = name.strip_prefix('{') {
        let (name, source) = inside.split_once('}')?;
        let name = name.to_owned();
        return match source {
            _ if name.is_empty() => None,
            "i" => Some(Atom::RequestHeader(name)),
            "o" => Some(Atom::ResponseHeader(name)),
            "e" => Some(Atom::Environment(name)),
            _ => None,
        };
    }
    Some(match name {
        "h" => Atom::RemoteAddress,
        "l" => Atom::Dash,
        "u" => Atom::User,
        "t" => Atom::Time,
        "r" => Atom::RequestLine,
        "s" => Atom::Status,
        "m" => Atom::Method,
        "U" => Atom::Path,
        "q" => Atom::Query,
        "H" => Atom::Protocol,
        "B" | "b" => Atom::Bytes,
        "f" => Atom::Referer,
        "a" => Atom::UserAgent,
        "T" => Atom::Seconds,
        "M" => Atom::Milliseconds,
        "D" => Atom::Microseconds,
        "L" => Atom::DecimalSeconds,
        "p" => Atom::Pid,
        _ => return None,
    })
}

/// Looks up header fields, whatever they are stored in.
pub trait Headers {
    /// The first field of this name, in any case.
    fn field(&self, name: &str) -> Option<&[u8]>;
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|(field, _)| field.as_ref().eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_ref())
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>, const LENGTH: usize> Headers for [(N, V); LENGTH] {
    fn field(&self, name: &str) -> Option<&[u8]> {
        self.as_slice().field(name)
    }
}

/// The first line of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// `GET`.
    pub method: &'a [u8],
    /// The request target as it was sent: `/a%20b?c=d`.
    pub target: &'a [u8],
    /// `HTTP/1.1`.
    pub protocol: &'a str,
}

impl RequestLine<'_> {
    /// The path, as it was sent, also of a target that is a whole URL.
    fn path(&self) -> &[u8] {
        let target = &self.target[..self.mark().unwrap_or(self.target.len())];
        let Some(authority) = target.windows(3).position(|end| end == b"://") else { return target };
        if target.starts_with(b"/") {
            return target;
        }
        let authority = &target[authority + 3..];
        let path = authority.iter().position(|octet| *octet == b'/');
        path.map_or(b"", |path| &authority[path..])
    }

    fn query(&self) -> &[u8] {
        self.mark().map_or(b"", |mark| &self.target[mark + 1..])
    }

    /// Where the question mark is.
    fn mark(&self) -> Option<usize> {
        self.target.iter().position(|octet| *octet == b'?')
    }
}

/// The facts of one request, all borrowed.
#[expect(missing_debug_implementations, reason = "headers are looked up, not shown")]
#[derive(Clone, Copy)]
pub struct AccessRecord<'a> {
    /// None for a Unix socket.
    pub remote_address: Option<IpAddr>,
    /// None if it could not be parsed.
    pub request_line: Option<RequestLine<'a>>,
    /// The status that was sent; 0 if none was.
    pub status: u16,
    /// Bytes of response body that were sent.
    pub bytes: u64,
    /// When the response ended.
    pub finished: SystemTime,
    /// From a whole head to the end of the response.
    pub duration: Duration,
    /// The request's fields.
    pub request_headers: &'a dyn Headers,
    /// The response's fields.
    pub response_headers: &'a dyn Headers,
}

/// Worker: an open access log.
#[derive(Debug)]
pub struct AccessLog {
    layout: Layout,
    /// None if only syslog gets the lines.
    sink: Option<Sink>,
    target: Option<LogTarget>,
    syslog: Option<Sender>,
    /// Lines that syslog did not take; they count as dropped once it takes one again.
    lost_to_syslog: u64,
    owner: Option<(u32, u32)>,
    /// Whole lines that are not written yet.
    batch: Vec<u8>,
    pid: u32,
    /// The last second that was formatted, as its layout has it.
    second: (u64, String),
    dropped: u64,
}

impl AccessLog {
    /// Worker: a log that is not open yet; '-' is standard output. `owner` (uid, gid) gets a file that is created.
    /// Environment atoms take the values that variables have now.
    pub fn new(target: Option<&LogTarget>, layout: Layout, owner: Option<(u32, u32)>) -> Self {
        let layout = match layout {
            Layout::Text(format) => Layout::Text(with_environment(format)),
            Layout::Json => Layout::Json,
        };
        Self {
            layout,
            sink: None,
            target: target.cloned(),
            syslog: None,
            lost_to_syslog: 0,
            owner,
            batch: Vec::with_capacity(BATCH + 1024),
            pid: std::process::id(),
            second: (0, String::new()),
            dropped: 0,
        }
    }

    /// Worker: opens it. As long as that has not been done, lines are dropped and counted.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&mut self) -> Result<(), LogError> {
        let open = |target| Sink::open(target, io::stdout().as_fd(), self.owner);
        self.sink = self.target.as_ref().map(open).transpose()?;
        Ok(())
    }

    /// Worker: sends each line to syslog as well.
    ///
    /// # Errors
    /// No descriptor.
    pub fn with_syslog(mut self, syslog: &Syslog) -> io::Result<Self> {
        self.syslog = Some(Sender::open(syslog, "access")?);
        Ok(self)
    }

    /// Worker: adds a line; writes the batch when it is long enough.
    pub fn write(&mut self, record: &AccessRecord<'_>) {
        let second = record.finished.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if self.second.0 != second || self.second.1.is_empty() {
            let text = match self.layout {
                Layout::Text(_) => clock(record.finished),
                Layout::Json => json_clock(record.finished),
            };
            self.second = (second, text);
        }
        match &self.layout {
            Layout::Json => append_json(&mut self.batch, record, &self.second.1, self.pid),
            Layout::Text(format) => {
                for part in &format.parts {
                    match part {
                        Part::Literal(text) => self.batch.extend_from_slice(text.as_bytes()),
                        Part::Atom(atom) => append(&mut self.batch, atom, record, &self.second.1, self.pid),
                    }
                }
            }
        }
        self.batch.push(b'\n');
        if self.batch.len() > BATCH {
            self.flush();
        }
    }

    /// Worker: writes the batch, without waiting; what cannot be written is dropped and counted.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.dropped += match (&self.sink, &self.target) {
                (Some(sink), _) => sink.write_lines(&self.batch),
                (None, Some(_)) => count_lines(&self.batch),
                (None, None) => 0,
            };
            if let Some(syslog) = &self.syslog {
                for line in self.batch.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
                    if syslog.send(Severity::Info, self.pid, line) {
                        self.dropped += std::mem::take(&mut self.lost_to_syslog);
                    } else {
                        self.lost_to_syslog += 1;
                    }
                }
            }
            self.batch.clear();
        }
    }

    /// Worker: writes the batch to the old file and opens the new one (USR1).
    ///
    /// # Errors
    /// The file cannot be opened; the old one is written on.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.flush();
        if let Some(target @ LogTarget::File(_)) = &self.target {
            self.sink = Some(Sink::open(target, io::stdout().as_fd(), self.owner)?);
        }
        Ok(())
    }

    /// Whether lines were dropped that were not taken account of.
    pub fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// How many lines were dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// A worker that leaves in good order loses no line.
impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Variables do not change any more: their atoms become text.
fn with_environment(format: Format) -> Format {
    let fixed = |part| match part {
        Part::Atom(Atom::Environment(name)) => {
            let mut text = Vec::new();
            escape(&mut text, std::env::var_os(&name).as_deref().map(std::os::unix::ffi::OsStrExt::as_bytes));
            Part::Literal(String::from_utf8_lossy(&text).into_owned())
        }
        other => other,
    };
    Format { parts: format.parts.into_iter().map(fixed).collect() }
}

fn clock(time: SystemTime) -> String {
    let time = UtcTime::from(time);
    let month = MONTHS[(time.month as usize - 1).min(11)];
    let UtcTime { year, day, hour, minute, second, .. } = time;
    format!("[{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000]")
}

fn append(line: &mut Vec<u8>, atom: &Atom, record: &AccessRecord<'_>, clock: &str, pid: u32) {
    let duration = record.duration;
    let first = record.request_line.as_ref();
    match atom {
        Atom::RemoteAddress => match record.remote_address {
            Some(address) => number(line, address),
            None => line.push(b'-'),
        },
        Atom::Dash => line.push(b'-'),
        Atom::User => escape(line, user(record.request_headers).as_deref()),
        Atom::Time => line.extend_from_slice(clock.as_bytes()),
        Atom::RequestLine => {
            escape(line, first.map(|first| first.method));
            if let Some(first) = first {
                line.push(b' ');
                escape(line, Some(first.target));
                line.push(b' ');
                escape(line, Some(first.protocol.as_bytes()));
            }
        }
        Atom::Status if record.status == 0 => line.push(b'-'),
        Atom::Status => number(line, record.status),
        Atom::Method => escape(line, first.map(|first| first.method)),
        Atom::Path => escape(line, first.map(RequestLine::path)),
        Atom::Query => escape(line, first.map(RequestLine::query)),
        Atom::Protocol => escape(line, first.map(|first| first.protocol.as_bytes())),
        Atom::Bytes => number(line, record.bytes),
        Atom::Referer => escape(line, record.request_headers.field("referer")),
        Atom::UserAgent => escape(line, record.request_headers.field("user-agent")),
        Atom::Seconds => number(line, duration.as_secs()),
        Atom::Milliseconds => number(line, duration.as_millis()),
        Atom::Microseconds => number(line, duration.as_micros()),
        Atom::DecimalSeconds => {
            number(line, format_args!("{}.{:06}", duration.as_secs(), duration.subsec_micros()));
        }
        Atom::Pid => number(line, format_args!("<{pid}>")),
        Atom::RequestHeader(name) => escape(line, record.request_headers.field(name)),
        Atom::ResponseHeader(name) => escape(line, record.response_headers.field(name)),
        // Became text when the log was opened.
        Atom::Environment(_) => line.push(b'-'),
    }
}

/// The keys are documented at the head of this file.
fn append_json(line: &mut Vec<u8>, record: &AccessRecord<'_>, clock: &str, pid: u32) {
    let first = record.request_line.as_ref();
    let address = record.remote_address.map(|address| address.to_string());
    let user = user(record.request_headers);
    let texts: [(&str, Option<&[u8]>); 6] = [
        ("time", Some(clock.as_bytes())),
        ("remote_address", address.as_deref().map(str::as_bytes)),
        ("user", user.as_deref()),
        ("method", first.map(|first| first.method)),
        ("target", first.map(|first| first.target)),
        ("protocol", first.map(|first| first.protocol.as_bytes())),
    ];
    let status = Some(record.status).filter(|status| *status != 0).map(u128::from);
    let numbers = [
        ("status", status),
        ("bytes", Some(record.bytes.into())),
        ("duration_us", Some(record.duration.as_micros())),
    ];
    line.push(b'{');
    for (key, text) in texts {
        json_text(line, key, text);
    }
    for (key, value) in numbers {
        match value {
            Some(value) => number(line, format_args!("\"{key}\": {value}, ")),
            None => number(line, format_args!("\"{key}\": null, ")),
        }
    }
    json_text(line, "referer", record.request_headers.field("referer"));
    json_text(line, "user_agent", record.request_headers.field("user-agent"));
    number(line, format_args!("\"pid\": {pid}}}"));
}

/// `"key": "value", `; each octet that is not printable ASCII as the character of Latin-1 with its number, so that a
/// line is valid whatever a client sends.
fn json_text(line: &mut Vec<u8>, key: &str, value: Option<&[u8]>) {
    number(line, format_args!("\"{key}\": "));
    let Some(value) = value else {
        line.extend_from_slice(b"null, ");
        return;
    };
    line.push(b'"');
    for octet in value {
        match octet {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *octet]),
            b' '..=b'~' => line.push(*octet),
            _ => {
                line.extend_from_slice(b"\\u00");
                line.extend_from_slice(&hex(*octet));
            }
        }
    }
    line.extend_from_slice(b"\", ");
}

fn json_clock(time: SystemTime) -> String {
    let UtcTime { year, month, day, hour, minute, second } = UtcTime::from(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The name in a field `Authorization: Basic …`, if there is one that can be read. Nobody has checked it.
fn user(request_headers: &dyn Headers) -> Option<Vec<u8>> {
    let field = request_headers.field("authorization")?;
    let (scheme, credentials) = field.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut decoded = BASE64_STANDARD.decode(credentials.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|octet| *octet == b':')?;
    decoded.truncate(colon);
    (colon != 0).then_some(decoded)
}

fn hex(octet: u8) -> [u8; 2] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    [HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]
}

/// Our own values need no escaping.
fn number(line: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(line, "{value}");
}

/// Printable ASCII as it is, `"` and `\` with a backslash, everything else as `\xHH`; '-' for what is not there.
fn escape(line: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(value) = value else {
        line.push(b'-');
        return;
    };
    for byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => line.push(*byte),
            _ => {
                line.extend_from_slice(b"\\x");
                line.extend_from_slice(&hex(*byte));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    const REQUEST_HEADERS: [(&str, &[u8]); 3] =
        [("Referer", b"http://r/"), ("User-Agent", b"curl/8"), ("X-Bad", b"a\"b\\c\nd\xff")];
    const RESPONSE_HEADERS: [(&str, &[u8]); 1] = [("Content-Type", b"text/plain")];

    fn record() -> AccessRecord<'static> {
        AccessRecord {
            remote_address: Some("127.0.0.1".parse().unwrap()),
            request_line: Some(RequestLine { method: b"GET", target: b"/a%20b?c=d", protocol: "HTTP/1.1" }),
            status: 200,
            bytes: 42,
            finished: UNIX_EPOCH + Duration::from_secs(1_795_243_992),
            duration: Duration::from_micros(2_001_234),
            request_headers: &REQUEST_HEADERS,
            response_headers: &RESPONSE_HEADERS,
        }
    }

    /// What a log with this format writes for these records.
    fn written(format: &str, records: &[AccessRecord<'_>]) -> String {
        written_as(text(format), records)
    }

    fn text(format: &str) -> Layout {
        Layout::Text(Format::parse(format).unwrap())
    }

    fn written_as(layout: Layout, records: &[AccessRecord<'_>]) -> String {
        let temp = TempDir::new("access");
        let target = LogTarget::File(temp.join("log"));
        let mut log = AccessLog::new(Some(&target), layout, None);
        log.open().unwrap();
        for record in records {
            log.write(record);
        }
        log.flush();
        std::fs::read_to_string(temp.join("log")).unwrap()
    }

    #[test]
    fn has_the_atoms_of_gunicorn() {
        let default = crate::settings::find("access_log_format").unwrap().default.unwrap();
        let pid = format!("<{}>", std::process::id());
        let cases: &[(&str, &str)] = &[
            (
                default,
                "127.0.0.1 - - [21/Nov/2026:06:53:12 +0000] \"GET /a%20b?c=d HTTP/1.1\" 200 42 \"http://r/\" \"curl/8\"",
            ),
            ("%(m)s %(U)s %(q)s %(H)s", "GET /a%20b c=d HTTP/1.1"),
            ("%(T)s %(M)s %(D)d %(L)s", "2 2001 2001234 2.001234"),
            ("%(B)s %(b)s", "42 42"),
            ("%(p)s", &pid),
            ("%({x-BAD}i)s|%({no}i)s|%({content-type}o)s", "a\\\"b\\\\c\\x0ad\\xff|-|text/plain"),
            ("%({CARGO_PKG_NAME}e)s %({NO_SUCH_VARIABLE}e)s", "rgunicorn -"),
            ("100%% ä", "100% ä"),
        ];
        for (format, expected) in cases {
            assert_eq!(written(format, &[record()]), format!("{expected}\n"), "{format}");
        }
    }

    #[test]
    fn a_unix_client_has_no_address() {
        let record = AccessRecord { remote_address: None, ..record() };
        assert_eq!(written("%(h)s", &[record]), "-\n");
    }

    #[test]
    fn the_user_is_the_name_of_basic_authentication() {
        for (field, expected) in [
            (&b"Basic am8gZTpzZWNyZXQ="[..], "jo e"),
            (b"bAsIc am8gZTpzOnQ= ", "jo e"),
            (b"Basic ImoKOng=", "\\\"j\\x0a"),
            (b"Basic OnNlY3JldA==", "-"),
            (b"Basic am8=", "-"),
            (b"Basic ~~~", "-"),
            (b"Basic", "-"),
            (b"Bearer am8gZTpzZWNyZXQ=", "-"),
            (b"B\xc3\xa4sic am8gZTpzZWNyZXQ=", "-"),
        ] {
            let headers = [("Authorization", field)];
            let record = AccessRecord { request_headers: &headers, ..record() };
            assert_eq!(written("%(u)s", &[record]), format!("{expected}\n"), "{field:?}");
        }
        assert_eq!(written("%(u)s", &[record()]), "-\n");
    }

    #[test]
    fn what_could_not_be_parsed_has_a_line_too() {
        let default = crate::settings::find("access_log_format").unwrap().default.unwrap();
        let none: [(&str, &[u8]); 0] = [];
        let refused =
            AccessRecord { request_line: None, status: 400, bytes: 11, request_headers: &none, ..record() };
        assert_eq!(
            written(default, &[refused]),
            "127.0.0.1 - - [21/Nov/2026:06:53:12 +0000] \"-\" 400 11 \"-\" \"-\"\n"
        );
        let gone = AccessRecord { status: 0, bytes: 0, ..refused };
        assert_eq!(written("%(m)s %(U)s %(q)s %(H)s %(s)s %(b)s", &[gone]), "- - - - - 0\n");
    }

    #[test]
    fn the_path_of_a_whole_url_is_its_path() {
        for (target, path, query) in [
            ("http://h:80/a/b?c=d://e", "/a/b", "c=d://e"),
            ("http://h?q", "", "q"),
            ("/a://b", "/a://b", ""),
            ("*", "*", ""),
            ("h:443", "h:443", ""),
            ("/?", "/", ""),
        ] {
            let line = RequestLine { method: b"GET", target: target.as_bytes(), protocol: "HTTP/1.1" };
            let record = AccessRecord { request_line: Some(line), ..record() };
            assert_eq!(written("%(U)s %(q)s", &[record]), format!("{path} {query}\n"), "{target}");
        }
    }

    #[test]
    fn json_has_the_documented_keys_in_their_order() {
        let pid = std::process::id();
        assert_eq!(
            written_as(Layout::Json, &[record()]),
            format!(
                "{{\"time\": \"2026-11-21T06:53:12Z\", \"remote_address\": \"127.0.0.1\", \"user\": null, \
                 \"method\": \"GET\", \"target\": \"/a%20b?c=d\", \"protocol\": \"HTTP/1.1\", \"status\": 200, \
                 \"bytes\": 42, \"duration_us\": 2001234, \"referer\": \"http://r/\", \"user_agent\": \"curl/8\", \
                 \"pid\": {pid}}}\n"
            )
        );
    }

    #[test]
    fn json_is_valid_whatever_a_client_sends() {
        let all: Vec<u8> = (0..=255).collect();
        let headers = [("User-Agent", &all), ("Referer", &all)];
        let line = RequestLine { method: &all, target: &all, protocol: "HTTP/1.1" };
        let wild = AccessRecord {
            remote_address: None,
            request_line: Some(line),
            status: 0,
            request_headers: &headers,
            ..record()
        };
        let none = AccessRecord { request_line: None, ..wild };
        let written = written_as(Layout::Json, &[wild, none]);
        let lines: Vec<serde_json::Value> =
            written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let latin: String = all.iter().map(|octet| char::from(*octet)).collect();
        for key in ["method", "target", "referer", "user_agent"] {
            assert_eq!(lines[0][key], serde_json::Value::String(latin.clone()), "{key}");
        }
        for key in ["remote_address", "user", "status"] {
            assert!(lines[0][key].is_null(), "{key}");
        }
        for key in ["method", "target", "protocol"] {
            assert!(lines[1][key].is_null(), "{key}");
        }
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn the_clock_follows_the_records() {
        let later = AccessRecord { finished: record().finished + Duration::from_secs(48), ..record() };
        assert_eq!(written("%(t)s", &[record(), later]).lines().last(), Some("[21/Nov/2026:06:54:00 +0000]"));
    }

    #[test]
    fn unknown_atoms_are_named() {
        for (format, expected) in [
            ("%(h)s %(z)s", "there is no atom '%(z)s'"),
            ("%({x}z)s", "there is no atom '%({x}z)s'"),
            ("%({}i)s", "there is no atom '%({}i)s'"),
            ("%h", "the '%' before 'h' begins no atom"),
            ("%(h)", "the '%' before '(h)' begins no atom"),
            ("%", "the '%' before '' begins no atom"),
        ] {
            let error = Format::parse(format).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{format}: {error}");
        }
    }

    #[test]
    fn batches_until_16_kib_or_a_flush_and_flushes_at_the_end() {
        let temp = TempDir::new("access");
        let path = temp.join("log");
        let size = || std::fs::metadata(&path).unwrap().len();
        let layout = text(&"x".repeat(1023));
        let mut log = AccessLog::new(Some(&LogTarget::File(path.clone())), layout, None);
        log.open().unwrap();
        for _ in 0..16 {
            log.write(&record());
        }
        assert_eq!(size(), 0);
        log.write(&record());
        assert_eq!(size(), 17 * 1024);
        log.write(&record());
        drop(log);
        assert_eq!(size(), 18 * 1024);
    }

    #[test]
    fn reopening_splits_between_lines() {
        let temp = TempDir::new("access");
        let (path, moved) = (temp.join("log"), temp.join("log.1"));
        let mut log = AccessLog::new(Some(&LogTarget::File(path.clone())), text("%(s)s"), None);
        log.open().unwrap();
        log.write(&record());
        std::fs::rename(&path, &moved).unwrap();
        log.reopen().unwrap();
        log.write(&record());
        log.flush();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "200\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "200\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let mut log = AccessLog::new(Some(&LogTarget::File("/dev/full".into())), text("x"), None);
        log.open().unwrap();
        log.write(&record());
        log.write(&record());
        log.flush();
        assert_eq!((log.take_dropped(), log.take_dropped()), (2, 0));
    }
}
