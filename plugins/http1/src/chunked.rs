//! The chunked transfer coding, read strictly (RFC 9112 section 7.1).
//!
//! It owns the grammar of chunk lines and extensions, and the trailer section. What it reads of framing it
//! takes in whole, so that the caller never has to keep half a chunk line for it.
//!
//! What a newcomer gets wrong: every tolerance here has been a smuggling bug somewhere. LF for CRLF, a
//! sign or white space at the size, an extension skipped up to the next LF, chunk data followed by
//! anything: two parsers that differ in one of them disagree about where the next request begins.
//!
//! | state          | takes                              | next                                        |
//! |----------------|------------------------------------|---------------------------------------------|
//! | `Size`         | HEXDIG; `;`, white space, CR       | `Size`; `NameStart`, `BeforeExt`, `LineEnd` |
//! | `BeforeExt`    | white space; `;`                   | itself; `NameStart`                         |
//! | `NameStart`    | white space; tchar                 | itself; `Name`                              |
//! | `Name`         | tchar; `=`, `;`, white space, CR   | itself; `ValueStart`, `NameStart`, `AfterName`, `LineEnd` |
//! | `AfterName`    | white space; `=`, `;`              | itself; `ValueStart`, `NameStart`           |
//! | `ValueStart`   | white space; `"`, tchar            | itself; `Quoted`, `Value`                   |
//! | `Value`        | tchar; `;`, white space, CR        | itself; `NameStart`, `BeforeExt`, `LineEnd` |
//! | `Quoted`       | text; `\`, `"`                     | itself; `Escaped`, `Unquoted`               |
//! | `Escaped`      | text                               | `Quoted`                                    |
//! | `Unquoted`     | `;`, white space, CR               | as `Value`                                  |
//! | `LineEnd`      | LF                                 | `Data`, or `Trailers` after size 0          |
//! | `Data`         | as many octets as the size says    | `DataCr`                                    |
//! | `DataCr`, `DataLf` | CR; LF                         | `DataLf`; `SizeStart`                       |
//! | `SizeStart`    | HEXDIG                             | `Size`                                      |
//! | `Trailers`     | lines up to an empty one           | `Done`                                      |

use memchr::memchr;

use crate::body::{Step, at_most};
use crate::error::Error;
use crate::fields::{self, FieldSpan, Underscores};
use crate::limits::{HeaderMap, Limits};
use crate::syntax::{hex_digit, is_space, is_tchar, is_value_octet};

/// Digits of a size, leading zeros included: what 64 bits can need.
const MAX_SIZE_DIGITS: u8 = 16;

/// Names that would change framing, routing or authentication if anyone merged them into the head (RFC
/// 9110 section 6.5.1, and Gunicorn's list). A sender must not generate them, so they are refused rather
/// than dropped: who sends them hopes that somebody behind us reads them.
const FORBIDDEN_TRAILERS: &[&str] = &[
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

pub(crate) fn is_forbidden_trailer(name: &[u8]) -> bool {
    FORBIDDEN_TRAILERS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SizeStart,
    Size,
    BeforeExt,
    NameStart,
    Name,
    AfterName,
    ValueStart,
    Value,
    Quoted,
    Escaped,
    Unquoted,
    LineEnd,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// See `BodyDecoder`, which is its only caller.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    limits: Limits,
    map: HeaderMap,
    state: State,
    /// Of the chunk; what is left of it in `Data`.
    size: u64,
    digits: u8,
    /// Of all chunks, whether read or only announced.
    total: u64,
    extensions: usize,
    trailers: TrailerSection,
}

impl ChunkedDecoder {
    pub(crate) fn new(limits: &Limits, map: HeaderMap) -> Self {
        Self {
            limits: *limits,
            map,
            state: State::SizeStart,
            size: 0,
            digits: 0,
            total: 0,
            extensions: 0,
            trailers: TrailerSection::default(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(crate) fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let TrailerSection { bytes, fields, .. } = &self.trailers;
        fields.iter().map(|field| (field.name.of(bytes), field.value.of(bytes)))
    }

    pub(crate) fn step(&mut self, input: &[u8], max: usize) -> Result<Step, Error> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Step::End { consumed: at }),
                _ if at == input.len() => return Ok(Step::NeedMore),
                State::Data => {
                    let taken = at_most((input.len() - at).min(max), self.size);
                    self.size -= taken as u64;
                    if self.size == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step::Data { range: at..at + taken });
                }
                State::Trailers => {
                    at += self.trailers.take(&input[at..], &self.limits, self.map)?;
                    if self.trailers.ended {
                        self.state = State::Done;
                    }
                }
                framing => {
                    self.state = self.framing_octet(framing, input[at])?;
                    at += 1;
                }
            }
        }
    }

    /// One octet of framing.
    fn framing_octet(&mut self, state: State, octet: u8) -> Result<State, Error> {
        match state {
            State::SizeStart => {
                (self.size, self.digits) = (0, 0);
                self.size_digit(octet)
            }
            State::Size => match octet {
                b';' | b' ' | b'\t' | b'\r' => self.end_of_part(octet, State::BeforeExt),
                _ => self.size_digit(octet),
            },
            State::BeforeExt
            | State::NameStart
            | State::Name
            | State::AfterName
            | State::ValueStart
            | State::Value
            | State::Quoted
            | State::Escaped
            | State::Unquoted => {
                if octet != b'\r' {
                    self.count_extension()?;
                }
                self.extension_octet(state, octet)
            }
            State::LineEnd => match octet {
                b'\n' if self.size == 0 => Ok(State::Trailers),
                b'\n' => Ok(State::Data),
                _ => Err(self.line_error()),
            },
            State::DataCr if octet == b'\r' => Ok(State::DataLf),
            State::DataLf if octet == b'\n' => Ok(State::SizeStart),
            State::DataCr | State::DataLf => Err(Error::ChunkEnd),
            State::Data | State::Trailers | State::Done => unreachable!("not framing"),
        }
    }

    fn size_digit(&mut self, octet: u8) -> Result<State, Error> {
        let digit = hex_digit(octet).ok_or(Error::ChunkSize)?;
        if self.digits == MAX_SIZE_DIGITS {
            return Err(Error::ChunkSize);
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(State::Size)
    }

    /// RFC 9112 section 7.1.1; white space around `;` and `=` is "bad", which a recipient must accept.
    fn extension_octet(&mut self, state: State, octet: u8) -> Result<State, Error> {
        let space = is_space(octet);
        match state {
            State::BeforeExt if space => Ok(State::BeforeExt),
            State::BeforeExt if octet == b';' => Ok(State::NameStart),
            State::NameStart if space => Ok(State::NameStart),
            State::NameStart | State::Name if is_tchar(octet) => Ok(State::Name),
            State::Name | State::AfterName if octet == b'=' => Ok(State::ValueStart),
            State::Name => self.end_of_part(octet, State::AfterName),
            State::AfterName if space => Ok(State::AfterName),
            State::AfterName if octet == b';' => Ok(State::NameStart),
            State::ValueStart if space => Ok(State::ValueStart),
            State::ValueStart if octet == b'"' => Ok(State::Quoted),
            State::ValueStart | State::Value if is_tchar(octet) => Ok(State::Value),
            State::Value | State::Unquoted => self.end_of_part(octet, State::BeforeExt),
            State::Quoted if octet == b'"' => Ok(State::Unquoted),
            State::Quoted if octet == b'\\' => Ok(State::Escaped),
            State::Quoted | State::Escaped if is_value_octet(octet) => Ok(State::Quoted),
            _ => Err(Error::ChunkExtension),
        }
    }

    /// After the size, a name or a value: another extension, white space before one, or the end of the line.
    fn end_of_part(&mut self, octet: u8, after_space: State) -> Result<State, Error> {
        match octet {
            b';' => Ok(State::NameStart),
            b' ' | b'\t' => Ok(after_space),
            b'\r' => {
                self.total = self.total.checked_add(self.size).ok_or(Error::ChunkSize)?;
                if self.limits.body.is_some_and(|limit| self.total > limit) {
                    return Err(Error::BodyTooLarge);
                }
                Ok(State::LineEnd)
            }
            _ => Err(Error::ChunkExtension),
        }
    }

    fn count_extension(&mut self) -> Result<(), Error> {
        self.extensions += 1;
        if self.extensions > self.limits.chunk_extensions {
            return Err(Error::ChunkExtensionsTooLarge);
        }
        Ok(())
    }

    /// A CR that is followed by something else belongs to what came before it.
    fn line_error(&self) -> Error {
        if self.extensions == 0 { Error::ChunkSize } else { Error::ChunkExtension }
    }
}

/// The lines after the last chunk, copied here since they may arrive in pieces.
#[derive(Debug, Default)]
struct TrailerSection {
    bytes: Vec<u8>,
    line_start: usize,
    lines: usize,
    ended: bool,
    fields: Vec<FieldSpan>,
}

impl TrailerSection {
    /// Takes input up to the empty line, and answers with how much that was.
    fn take(&mut self, input: &[u8], limits: &Limits, map: HeaderMap) -> Result<usize, Error> {
        let mut at = 0;
        while !self.ended && at < input.len() {
            let rest = &input[at..];
            let piece = memchr(b'\n', rest).map_or(rest, |lf| &rest[..=lf]);
            let line_len = self.bytes.len() - self.line_start + piece.len();
            // A line that is only begun will have one octet more at least.
            let unfinished = usize::from(!piece.ends_with(b"\n"));
            if line_len + unfinished > limits.field_size.max(2) {
                return Err(Error::FieldTooLarge);
            }
            if self.bytes.len() + piece.len() > limits.trailers.max(2) {
                return Err(Error::TrailersTooLarge);
            }
            self.bytes.extend_from_slice(piece);
            at += piece.len();
            if piece.ends_with(b"\n") {
                self.end_of_line(limits)?;
            }
        }
        if self.ended {
            let underscores = Underscores { map, excepted: &[] };
            fields::parse(&self.bytes, 0, self.lines, underscores, &mut self.fields)?;
            if self.fields.iter().any(|field| is_forbidden_trailer(field.name.of(&self.bytes))) {
                return Err(Error::ForbiddenTrailer);
            }
        }
        Ok(at)
    }

    fn end_of_line(&mut self, limits: &Limits) -> Result<(), Error> {
        let [line @ .., b'\r', b'\n'] = &self.bytes[self.line_start..] else {
            return Err(Error::BareLineFeed);
        };
        match line.first() {
            None => self.ended = true,
            Some(&octet) if is_space(octet) => return Err(Error::ObsoleteFolding),
            Some(_) => self.lines += 1,
        }
        if self.lines > limits.trailer_fields {
            return Err(Error::TooManyFields);
        }
        self.line_start = self.bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, or the error, with input in pieces of `piece` octets.
    fn decode(input: &[u8], piece: usize, limits: &Limits) -> Result<Vec<u8>, Error> {
        let mut decoder = ChunkedDecoder::new(limits, HeaderMap::Drop);
        let mut content = Vec::new();
        for part in input.chunks(piece) {
            let mut at = 0;
            loop {
                match decoder.step(&part[at..], usize::MAX)? {
                    Step::Data { range } => {
                        content.extend_from_slice(&part[at..][range.clone()]);
                        at += range.end;
                    }
                    Step::NeedMore => break,
                    Step::End { .. } => return Ok(content),
                }
            }
        }
        Err(Error::Truncated)
    }

    #[test]
    fn splitting_at_every_octet_gives_the_same() {
        let input = b"5;a=\"q\\\"\" ; b\r\nhello\r\n0006\r\n world\r\n0;x\r\nA: b\r\n\r\n";
        for piece in 1..=input.len() {
            assert_eq!(decode(input, piece, &Limits::default()).unwrap(), b"hello world", "{piece}");
        }
    }

    #[test]
    fn only_the_right_octet_follows_data() {
        for octet in (0..=255_u8).filter(|&octet| octet != b'\r') {
            let input = [b"1\r\na", &[octet][..], b"\n0\r\n\r\n"].concat();
            assert_eq!(decode(&input, 99, &Limits::default()), Err(Error::ChunkEnd), "{octet:#x}");
        }
    }

    #[test]
    fn size_takes_hexadecimal_digits_only() {
        for octet in 0..=255_u8 {
            let input = [&[octet][..], b"\r\n"].concat();
            let refused = decode(&input, 99, &Limits::default()) == Err(Error::ChunkSize);
            assert_eq!(refused, !octet.is_ascii_hexdigit(), "{octet:#x}");
        }
    }

    #[test]
    fn largest_size_is_no_overflow() {
        let input = b"ffffffffffffffff\r\na";
        assert_eq!(decode(input, 99, &Limits::default()), Err(Error::Truncated));
        let sum = b"1\r\na\r\nffffffffffffffff\r\n";
        assert_eq!(decode(sum, 99, &Limits::default()), Err(Error::ChunkSize));
    }

    #[test]
    fn extensions_are_counted_over_the_whole_body() {
        let limits = Limits { chunk_extensions: 4, ..Limits::default() };
        assert_eq!(decode(b"1;ab\r\nx\r\n0;cd\r\n\r\n", 1, &limits).unwrap(), b"x");
        let more = b"1;ab\r\nx\r\n0;cde\r\n\r\n";
        assert_eq!(decode(more, 99, &limits), Err(Error::ChunkExtensionsTooLarge));
    }

    #[test]
    fn trailer_limits_are_exact() {
        let limits = Limits { field_size: 6, trailer_fields: 2, trailers: 14, ..Limits::default() };
        for (trailers, expected) in [
            ("A: b\r\nC: d\r\n\r\n", Ok(Vec::new())),
            ("A: bc\r\n\r\n", Err(Error::FieldTooLarge)),
            ("A:\r\nB:\r\nC:\r\n\r\n", Err(Error::TooManyFields)),
        ] {
            let input = format!("0\r\n{trailers}");
            for piece in [1, 99] {
                assert_eq!(decode(input.as_bytes(), piece, &limits), expected, "{trailers}");
            }
        }
        let limits = Limits { trailers: 13, ..limits };
        assert_eq!(decode(b"0\r\nA: b\r\nC: d\r\n\r\n", 1, &limits), Err(Error::TrailersTooLarge));
    }

    #[test]
    fn every_forbidden_trailer_is_refused() {
        for name in FORBIDDEN_TRAILERS {
            let input = format!("0\r\n{}: a\r\n\r\n", name.to_uppercase());
            assert_eq!(
                decode(input.as_bytes(), 99, &Limits::default()),
                Err(Error::ForbiddenTrailer),
                "{name}"
            );
        }
    }
}
