//! A section of field lines, as bytes, becomes spans of names and values.
//!
//! It owns the call into `httparse` and the rule about underscores; heads and trailers both come through
//! here. What a field means is not known here, nor is the size of the section limited: the caller has
//! found the end of the section, line by line, before this is called.
//!
//! What a newcomer gets wrong: `httparse` takes LF for CRLF. That is refused by the caller's line search,
//! which is why a section that has not gone through it must never be handed in.

use httparse::{EMPTY_HEADER, Header, Status};

use crate::error::Error;
use crate::limits::HeaderMap;
use crate::syntax::trim;

/// Where something lies in a buffer. 32 bits keep a field at 16 octets; a head of 4 GiB is refused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, len: usize) -> Result<Self, Error> {
        let end =
            start.checked_add(len).and_then(|end| u32::try_from(end).ok()).ok_or(Error::HeadTooLarge)?;
        Ok(Self { start: start as u32, end })
    }

    pub(crate) fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..self.end as usize]
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldSpan {
    pub(crate) name: Span,
    pub(crate) value: Span,
}

/// What becomes of fields with an underscore in their name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Underscores<'l> {
    pub(crate) map: HeaderMap,
    /// See `Head::parse_forwarded`; none for trailers.
    pub(crate) excepted: &'l [String],
}

impl Underscores<'_> {
    fn excepts(&self, name: &str) -> bool {
        self.excepted.iter().any(|excepted| excepted == "*" || excepted.eq_ignore_ascii_case(name))
    }
}

/// Appends the fields of `section`, which lies at `base` of its buffer, has `lines` field lines and ends
/// with an empty line. On error what was appended is meaningless.
///
/// The array of `httparse` borrows from the section, so it cannot be kept between requests. It lives on
/// the stack in some sizes, since all of it is written first; only a head with more lines than the largest one,
/// which takes an operator who raised the limit, costs an allocation.
pub(crate) fn parse(
    section: &[u8],
    base: usize,
    lines: usize,
    underscores: Underscores<'_>,
    out: &mut Vec<FieldSpan>,
) -> Result<(), Error> {
    match lines {
        0..=4 => parse_into(section, base, &mut [EMPTY_HEADER; 4], underscores, out),
        5..=8 => parse_into(section, base, &mut [EMPTY_HEADER; 8], underscores, out),
        9..=16 => parse_into(section, base, &mut [EMPTY_HEADER; 16], underscores, out),
        17..=32 => parse_into(section, base, &mut [EMPTY_HEADER; 32], underscores, out),
        33..=128 => parse_into(section, base, &mut [EMPTY_HEADER; 128], underscores, out),
        _ => parse_into(section, base, &mut vec![EMPTY_HEADER; lines], underscores, out),
    }
}

fn parse_into<'s>(
    section: &'s [u8],
    base: usize,
    array: &mut [Header<'s>],
    underscores: Underscores<'_>,
    out: &mut Vec<FieldSpan>,
) -> Result<(), Error> {
    let headers = match httparse::parse_headers(section, array) {
        Ok(Status::Complete((len, headers))) if len == section.len() => headers,
        // The section ends where an empty line was found; an end elsewhere is a line taken for another.
        Ok(Status::Complete(_) | Status::Partial) => return Err(Error::FieldName),
        Err(httparse::Error::TooManyHeaders) => return Err(Error::TooManyFields),
        Err(httparse::Error::HeaderValue | httparse::Error::NewLine) => return Err(Error::FieldValue),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::Status
            | httparse::Error::Token
            | httparse::Error::Version,
        ) => return Err(Error::FieldName),
    };
    out.reserve(headers.len());
    for header in headers {
        // Names are short: a loop over all of one ends before a search has begun.
        let underscored = header.name.bytes().fold(false, |found, octet| found | (octet == b'_'));
        if underscored && !underscores.excepts(header.name) {
            match underscores.map {
                HeaderMap::Drop => continue,
                HeaderMap::Refuse => return Err(Error::UnderscoreName),
                HeaderMap::Dangerous => {}
            }
        }
        let span = |part: &[u8]| Span::new(base + offset(section, part), part.len());
        out.push(FieldSpan { name: span(header.name.as_bytes())?, value: span(trim(header.value))? });
    }
    Ok(())
}

/// Where `part`, a slice of `whole`, begins in it. An empty value may be any empty slice: it is put at 0.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    if part.is_empty() { 0 } else { part.as_ptr().addr() - whole.as_ptr().addr() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(section: &[u8], lines: usize, map: HeaderMap) -> Result<Vec<(String, String)>, Error> {
        let mut out = Vec::new();
        parse(section, 0, lines, Underscores { map, excepted: &[] }, &mut out)?;
        let text = |span: Span| span.of(section).escape_ascii().to_string();
        Ok(out.iter().map(|field| (text(field.name), text(field.value))).collect())
    }

    #[test]
    fn names_and_trimmed_values() {
        let found = fields(b"A: \t x y\t \r\nB:\r\nC:\xff\r\n\r\n", 3, HeaderMap::Drop).unwrap();
        assert_eq!(
            found,
            [("A", "x y"), ("B", ""), ("C", "\\xff")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }

    #[test]
    fn every_size_of_array() {
        for lines in [1, 4, 5, 8, 9, 16, 17, 32, 33, 128, 129, 1000] {
            let section = ["a: b\r\n".repeat(lines), "\r\n".to_owned()].concat();
            assert_eq!(fields(section.as_bytes(), lines, HeaderMap::Drop).unwrap().len(), lines);
        }
    }

    #[test]
    fn each_octet_in_a_name_and_in_a_value() {
        for octet in (0..=255_u8).filter(|octet| !b":_\r\n".contains(octet)) {
            let name = [b"a", &[octet][..], b"b: c\r\n\r\n"].concat();
            let allowed = crate::syntax::is_tchar(octet);
            assert_eq!(fields(&name, 1, HeaderMap::Drop).is_ok(), allowed, "name {octet:#x}");
            let value = [b"a: b", &[octet][..], b"c\r\n\r\n"].concat();
            let allowed = crate::syntax::is_value_octet(octet);
            assert_eq!(fields(&value, 1, HeaderMap::Drop).is_ok(), allowed, "value {octet:#x}");
        }
    }

    #[test]
    fn refusals() {
        for (section, error) in [
            (&b": v\r\n\r\n"[..], Error::FieldName),
            (b"a : v\r\n\r\n", Error::FieldName),
            (b" a: v\r\n\r\n", Error::FieldName),
            (b"a\r\n\r\n", Error::FieldName),
            (b"a: b\rc\r\n\r\n", Error::FieldValue),
            (b"a: b\r\r\n\r\n", Error::FieldValue),
        ] {
            assert_eq!(fields(section, 1, HeaderMap::Drop), Err(error), "{}", section.escape_ascii());
        }
    }

    #[test]
    fn underscores() {
        let section = b"X_A: 1\r\nX-A: 2\r\n\r\n";
        assert_eq!(fields(section, 2, HeaderMap::Drop).unwrap().len(), 1);
        assert_eq!(fields(section, 2, HeaderMap::Dangerous).unwrap().len(), 2);
        assert_eq!(fields(section, 2, HeaderMap::Refuse), Err(Error::UnderscoreName));
    }

    #[test]
    fn excepted_underscores() {
        let section = b"X_A: 1\r\nx_b: 2\r\nX-A: 3\r\n\r\n";
        for (excepted, dropped, refused) in [
            (&[][..], 1, false),
            (&["x_a"], 2, false),
            (&["X-A"], 1, false),
            (&["X_B", "x_A"], 3, true),
            (&["*"], 3, true),
        ] {
            let excepted: Vec<String> = excepted.iter().map(|name| (*name).to_owned()).collect();
            let count = |map| {
                let mut out = Vec::new();
                parse(section, 0, 3, Underscores { map, excepted: &excepted }, &mut out).map(|()| out.len())
            };
            assert_eq!(count(HeaderMap::Drop), Ok(dropped), "{excepted:?}");
            assert_eq!(count(HeaderMap::Refuse).is_ok(), refused, "{excepted:?}");
        }
    }
}
