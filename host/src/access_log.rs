//! The access log: one line per request, in Gunicorn's format language, batched.
//!
//! Owns the format and its atoms, the escaping, and the batch. Does not own where lines are written without waiting
//! ([`crate::logging`]) nor when a turn of the loop ends: the caller flushes then, when idle, on USR1 and at exit.
//!
//! What a newcomer would get wrong: everything in a record but numbers comes from the network. Each atom's value is
//! escaped to printable ASCII, quotes and backslashes included, so that no client can forge a field or a line.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::logging::sink::Sink;
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

/// The facts of one request, all borrowed.
#[expect(missing_debug_implementations, reason = "headers are looked up, not shown")]
#[derive(Clone, Copy)]
pub struct AccessRecord<'a> {
    /// None for a Unix socket.
    pub remote_address: Option<IpAddr>,
    /// The name in an Authorization field, if it was looked at.
    pub user: Option<&'a [u8]>,
    /// `GET`.
    pub method: &'a [u8],
    /// The request target as it was sent: `/a%20b?c=d`.
    pub target: &'a [u8],
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    /// The status that was sent.
    pub status: u16,
    /// Bytes of response body that were sent.
    pub bytes: u64,
    /// When the response ended.
    pub finished: SystemTime,
    /// From the first byte of the head to the end of the response.
    pub duration: Duration,
    /// The request's fields.
    pub request_headers: &'a dyn Headers,
    /// The response's fields.
    pub response_headers: &'a dyn Headers,
}

/// Worker: an open access log.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    sink: Sink,
    target: LogTarget,
    owner: Option<(u32, u32)>,
    /// Whole lines that are not written yet.
    batch: Vec<u8>,
    pid: u32,
    /// The last second that was formatted, as `[21/Nov/2026:06:53:12 +0000]`.
    second: (u64, String),
    dropped: u64,
}

impl AccessLog {
    /// Worker: opens the log; '-' is standard output. `owner` (uid, gid) gets a file that is created. Environment
    /// atoms take the values that variables have now.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(target: &LogTarget, format: Format, owner: Option<(u32, u32)>) -> Result<Self, LogError> {
        let sink = Sink::open(target, io::stdout().as_fd(), owner)?;
        Ok(Self {
            format: with_environment(format),
            sink,
            target: target.clone(),
            owner,
            batch: Vec::with_capacity(BATCH + 1024),
            pid: std::process::id(),
            second: (0, String::new()),
            dropped: 0,
        })
    }

    /// Worker: adds a line; writes the batch when it is long enough.
    pub fn write(&mut self, record: &AccessRecord<'_>) {
        let second = record.finished.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if self.second.0 != second || self.second.1.is_empty() {
            self.second = (second, clock(record.finished));
        }
        for part in &self.format.parts {
            match part {
                Part::Literal(text) => self.batch.extend_from_slice(text.as_bytes()),
                Part::Atom(atom) => append(&mut self.batch, atom, record, &self.second.1, self.pid),
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
            self.dropped += self.sink.write_lines(&self.batch);
            self.batch.clear();
        }
    }

    /// Worker: writes the batch to the old file and opens the new one (USR1).
    ///
    /// # Errors
    /// The file cannot be opened; the old one is written on.
    pub fn reopen(&mut self) -> Result<(), LogError> {
        self.flush();
        if self.target != LogTarget::Standard {
            self.sink = Sink::open(&self.target, io::stdout().as_fd(), self.owner)?;
        }
        Ok(())
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
    let (path, query) = match record.target.iter().position(|byte| *byte == b'?') {
        Some(mark) => (&record.target[..mark], &record.target[mark + 1..]),
        None => (record.target, &[][..]),
    };
    match atom {
        Atom::RemoteAddress => match record.remote_address {
            Some(address) => number(line, address),
            None => line.push(b'-'),
        },
        Atom::Dash => line.push(b'-'),
        Atom::User => escape(line, record.user),
        Atom::Time => line.extend_from_slice(clock.as_bytes()),
        Atom::RequestLine => {
            escape(line, Some(record.method));
            line.push(b' ');
            escape(line, Some(record.target));
            line.push(b' ');
            escape(line, Some(record.protocol.as_bytes()));
        }
        Atom::Status => number(line, record.status),
        Atom::Method => escape(line, Some(record.method)),
        Atom::Path => escape(line, Some(path)),
        Atom::Query => escape(line, Some(query)),
        Atom::Protocol => escape(line, Some(record.protocol.as_bytes())),
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

/// Our own values need no escaping.
fn number(line: &mut Vec<u8>, value: impl std::fmt::Display) {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{value}");
    line.extend_from_slice(text.as_bytes());
}

/// Printable ASCII as it is, `"` and `\` with a backslash, everything else as `\xHH`; '-' for what is not there.
fn escape(line: &mut Vec<u8>, value: Option<&[u8]>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let Some(value) = value else {
        line.push(b'-');
        return;
    };
    for byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => line.push(*byte),
            _ => line.extend_from_slice(&[
                b'\\',
                b'x',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
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
            user: None,
            method: b"GET",
            target: b"/a%20b?c=d",
            protocol: "HTTP/1.1",
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
        let temp = TempDir::new("access");
        let target = LogTarget::File(temp.join("log"));
        let mut log = AccessLog::open(&target, Format::parse(format).unwrap(), None).unwrap();
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
        let record = AccessRecord { remote_address: None, user: Some(b"jo e"), ..record() };
        assert_eq!(written("%(h)s %(u)s", &[record]), "- jo e\n");
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
        let format = Format::parse(&"x".repeat(1023)).unwrap();
        let mut log = AccessLog::open(&LogTarget::File(path.clone()), format, None).unwrap();
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
        let mut log =
            AccessLog::open(&LogTarget::File(path.clone()), Format::parse("%(s)s").unwrap(), None).unwrap();
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
        let mut log =
            AccessLog::open(&LogTarget::File("/dev/full".into()), Format::parse("x").unwrap(), None).unwrap();
        log.write(&record());
        log.write(&record());
        log.flush();
        assert_eq!((log.take_dropped(), log.take_dropped()), (2, 0));
    }
}
