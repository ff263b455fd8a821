//! Parts of a file: the field `Range` (RFC 9110 section 14), and the answer made of several.
//!
//! Owns what is asked for, what of it there is, and the octets between the parts. Sends nothing.
//!
//! What a newcomer gets wrong: a `Range` that cannot be understood is no error. It is ignored, and the whole is sent;
//! 416 is for one that is well formed and lies behind the end. And a request for a thousand overlapping parts is an
//! attempt to make the server send more than the file has: it gets the whole.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

/// Most parts in one answer.
const MOST_PARTS: usize = 16;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no `Range`, or none that is to be obeyed.
    Whole,
    /// One part.
    One(Range<u64>),
    /// Several, in the order in which they were asked for.
    Several(Vec<Range<u64>>),
    /// Nothing that is there: 416.
    Beyond,
}

impl Wanted {
    /// From the value of `Range` and the length of what would be sent whole.
    pub(crate) fn new(value: &[u8], length: u64) -> Self {
        let Some(specs) = specs(value) else { return Self::Whole };
        if specs.len() > MOST_PARTS {
            return Self::Whole;
        }
        // The last octets of nothing are nothing, which no Content-Range could say.
        if length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(count) if *count > 0)) {
            return Self::Whole;
        }
        let mut ranges: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.within(length)).collect();
        let total = ranges.iter().fold(0_u64, |total, range| total.saturating_add(range.end - range.start));
        match ranges.len() {
            0 => Self::Beyond,
            1 => Self::One(ranges.swap_remove(0)),
            _ if total > length => Self::Whole,
            _ => Self::Several(ranges),
        }
    }
}

enum Spec {
    /// `A-B` and `A-`
    From(u64, Option<u64>),
    /// `-N`
    Last(u64),
}

impl Spec {
    /// What there is of it; none if nothing.
    fn within(&self, length: u64) -> Option<Range<u64>> {
        let range = match *self {
            Self::From(first, last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

/// The elements of a well-formed value in octets; none for anything else.
fn specs(value: &[u8]) -> Option<Vec<Spec>> {
    let at = value.iter().position(|octet| *octet == b'=')?;
    if !value[..at].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let elements = value[at + 1..].split(|octet| *octet == b',').map(<[u8]>::trim_ascii);
    // A list may have empty elements (section 5.6.1).
    let specs: Option<Vec<Spec>> = elements.filter(|element| !element.is_empty()).map(spec).collect();
    specs.filter(|specs| !specs.is_empty())
}

fn spec(element: &[u8]) -> Option<Spec> {
    let at = element.iter().position(|octet| *octet == b'-')?;
    match (&element[..at], &element[at + 1..]) {
        (b"", count) => Some(Spec::Last(number(count)?)),
        (first, b"") => Some(Spec::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From(first, Some(last)))
        }
    }
}

/// Digits and nothing else. What is larger than any file is as good as the largest number.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = std::str::from_utf8(digits).ok()?;
    Some(text.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of a part.
pub(crate) fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end - 1)
}

/// An answer made of several parts (section 14.6).
#[derive(Debug)]
pub(crate) struct Multipart {
    boundary: String,
    /// What stands before each part, and the part.
    pub(crate) parts: Vec<(String, Range<u64>)>,
    /// What stands behind the last.
    pub(crate) end: String,
}

impl Multipart {
    /// From parts of a file of this media type and length.
    pub(crate) fn new(ranges: Vec<Range<u64>>, media_type: &str, length: u64) -> Self {
        // Nobody can have written it into a file: its keys are drawn anew.
        let draw = || RandomState::new().build_hasher().finish();
        let boundary = format!("{:016x}{:016x}", draw(), draw());
        let part = |range: Range<u64>| {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {}\r\n\r\n",
                content_range(&range, length)
            );
            (head, range)
        };
        let parts = ranges.into_iter().map(part).collect();
        let mut end = String::new();
        // Writing to a String cannot fail.
        let _ = write!(end, "\r\n--{boundary}--\r\n");
        Self { boundary, parts, end }
    }

    /// The media type of the whole.
    pub(crate) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// How long the whole is.
    pub(crate) fn length(&self) -> u64 {
        let parts = self.parts.iter().map(|(head, range)| head.len() as u64 + range.end - range.start);
        parts.sum::<u64>() + self.end.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_or_ignored() {
        use Wanted::{Beyond, One, Several, Whole};
        for (value, expected) in [
            ("bytes=0-0", One(0..1)),
            ("bytes=0-9", One(0..10)),
            ("bytes=0-", One(0..10)),
            ("bytes=9-", One(9..10)),
            ("bytes=3-99999999999999999999999", One(3..10)),
            ("bytes=-3", One(7..10)),
            ("bytes=-99", One(0..10)),
            ("BYTES=1-2", One(1..3)),
            ("bytes= 1-2 , ", One(1..3)),
            ("bytes=10-", Beyond),
            ("bytes=10-20,30-", Beyond),
            ("bytes=-0", Beyond),
            ("bytes=99999999999999999999-", Beyond),
            ("bytes=1-2,20-", One(1..3)),
            ("bytes=0-1,4-5", Several(vec![0..2, 4..6])),
            ("bytes=-1,0-0", Several(vec![9..10, 0..1])),
            // More than there is.
            ("bytes=0-,0-,0-", Whole),
            ("bytes=0-5,5-9", Whole),
            ("", Whole),
            ("bytes", Whole),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=2-1", Whole),
            ("bytes=0-1,x", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1 -2", Whole),
            ("bytes=1-2-3", Whole),
            ("bytes =1-2", Whole),
            ("lines=1-2", Whole),
        ] {
            assert_eq!(Wanted::new(value.as_bytes(), 10), expected, "{value}");
        }
        let many = format!("bytes={}", vec!["0-0"; MOST_PARTS + 1].join(","));
        assert_eq!(Wanted::new(many.as_bytes(), 1000), Whole);
        assert_eq!(Wanted::new(b"bytes=0-", 0), Beyond);
        assert_eq!(Wanted::new(b"bytes=-5", 0), Whole);
        assert_eq!(Wanted::new(b"bytes=-0", 0), Beyond);
        assert_eq!(Wanted::new(b"bytes=0-18446744073709551615", u64::MAX), One(0..u64::MAX));
    }

    #[test]
    fn a_multipart_has_the_length_that_it_says() {
        let multipart = Multipart::new(vec![0..2, 4..6], "a/b", 10);
        let mut text = String::new();
        for (head, range) in &multipart.parts {
            text.push_str(head);
            text.push_str(&"0123456789"[range.start as usize..range.end as usize]);
        }
        text.push_str(&multipart.end);
        assert_eq!(multipart.length(), text.len() as u64);
        let boundary = &multipart.boundary;
        let expected = format!(
            "\r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--{boundary}\r\nContent-Type: a/b\r\nContent-Range: bytes 4-5/10\r\n\r\n45\r\n--{boundary}--\r\n"
        );
        assert_eq!(text, expected);
    }
}
