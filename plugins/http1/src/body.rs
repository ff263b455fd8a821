//! The body of a request: which octets of the caller's buffer are content, and where the message ends.
//!
//! It owns the count against `Content-Length` and against the body limit; the chunked coding is in
//! `chunked`. No octet of content is copied: a step answers with a range of its input.
//!
//! What a newcomer gets wrong: the decoder counts a range as taken once it has named it. A caller that
//! has room for less says so beforehand, with `step_up_to`, and does not put half of a range back.

use std::ops::Range;

use crate::chunked::ChunkedDecoder;
use crate::error::Error;
use crate::limits::{HeaderMap, Limits};
use crate::request::BodyFraming;

/// What a step found in its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `input[range]` is content, and never empty. Everything up to `range.end` is taken: go on behind it.
    Data {
        /// The content; before its start lies framing that was taken too.
        range: Range<usize>,
    },
    /// All of the input is taken, and the body has not ended.
    NeedMore,
    /// The body has ended after `consumed` octets of the input; the next request begins there.
    End {
        /// Octets of framing taken by this step.
        consumed: usize,
    },
}

/// Takes the body off the input, however that is split.
#[derive(Debug)]
pub struct BodyDecoder {
    kind: Kind,
    /// An error is final: the same one is given again.
    failed: Option<Error>,
}

#[derive(Debug)]
enum Kind {
    Length { remaining: u64 },
    Chunked(ChunkedDecoder),
}

impl BodyDecoder {
    /// A decoder for one body. A declared length above the limit is refused here, before anything is read:
    /// the answer is 413, and no 100 has been sent.
    pub fn new(framing: BodyFraming, limits: &Limits, map: HeaderMap) -> Result<Self, Error> {
        let kind = match framing {
            BodyFraming::None => Kind::Length { remaining: 0 },
            BodyFraming::Length(length) if limits.body.is_some_and(|limit| length > limit) => {
                return Err(Error::BodyTooLarge);
            }
            BodyFraming::Length(length) => Kind::Length { remaining: length },
            BodyFraming::Chunked => Kind::Chunked(ChunkedDecoder::new(limits, map)),
        };
        Ok(Self { kind, failed: None })
    }

    /// Goes on with `input`, which begins where the last step left off.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Error> {
        self.step_up_to(input, usize::MAX)
    }

    /// As `step`, with at most `max` octets of content, which must not be 0.
    pub fn step_up_to(&mut self, input: &[u8], max: usize) -> Result<Step, Error> {
        debug_assert!(max > 0, "no room for content");
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = match &mut self.kind {
            Kind::Length { remaining: 0 } => Ok(Step::End { consumed: 0 }),
            Kind::Length { .. } if input.is_empty() => Ok(Step::NeedMore),
            Kind::Length { remaining } => {
                let taken = at_most(input.len().min(max), *remaining);
                *remaining -= taken as u64;
                Ok(Step::Data { range: 0..taken })
            }
            Kind::Chunked(chunked) => chunked.step(input, max),
        };
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    /// Whether the body has ended. With a declared length that is known as soon as the last octet is taken;
    /// a chunked body ends with a step that says `End`.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.kind {
            Kind::Length { remaining } => *remaining == 0,
            Kind::Chunked(chunked) => chunked.is_done(),
        }
    }

    /// Octets still to come, if that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match &self.kind {
            Kind::Length { remaining } => Some(*remaining),
            Kind::Chunked(chunked) => chunked.is_done().then_some(0),
        }
    }

    /// The peer has ended its input: right after the body, an error anywhere else.
    pub fn end_of_input(&self) -> Result<(), Error> {
        if self.is_done() { Ok(()) } else { Err(Error::Truncated) }
    }

    /// The trailer fields, once a chunked body has ended. They are not to be merged into the head: RFC 9110
    /// section 6.5.1 leaves that to those who know the field.
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        match &self.kind {
            Kind::Length { .. } => None,
            Kind::Chunked(chunked) => Some(chunked.trailers()),
        }
        .into_iter()
        .flatten()
    }
}

/// The smaller of both, as `usize`.
pub(crate) fn at_most(here: usize, there: u64) -> usize {
    usize::try_from(there).map_or(here, |there| here.min(there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(framing: BodyFraming, body: Option<u64>) -> Result<BodyDecoder, Error> {
        BodyDecoder::new(framing, &Limits { body, ..Limits::default() }, HeaderMap::Drop)
    }

    #[test]
    fn no_body_has_ended_before_it_begins() {
        let mut body = decoder(BodyFraming::None, Some(0)).unwrap();
        assert!(body.is_done());
        assert_eq!(body.step(b"GET"), Ok(Step::End { consumed: 0 }));
    }

    #[test]
    fn length_leaves_the_next_request_alone() {
        let mut body = decoder(BodyFraming::Length(5), None).unwrap();
        assert_eq!(body.step(b"hel"), Ok(Step::Data { range: 0..3 }));
        assert_eq!((body.is_done(), body.remaining()), (false, Some(2)));
        assert_eq!(body.step(b""), Ok(Step::NeedMore));
        assert_eq!(body.step(b"loGET /"), Ok(Step::Data { range: 0..2 }));
        assert!(body.is_done());
        assert_eq!(body.step(b"GET /"), Ok(Step::End { consumed: 0 }));
    }

    #[test]
    fn declared_length_over_limit_is_refused_at_once() {
        assert_eq!(decoder(BodyFraming::Length(11), Some(10)).err(), Some(Error::BodyTooLarge));
        assert!(decoder(BodyFraming::Length(10), Some(10)).is_ok());
    }

    #[test]
    fn a_step_takes_no_more_than_there_is_room_for() {
        for (framing, input) in
            [(BodyFraming::Length(4), &b"abcd"[..]), (BodyFraming::Chunked, b"4\r\nabcd\r\n0\r\n\r\n")]
        {
            let mut body = decoder(framing, None).unwrap();
            let (mut at, mut found) = (0, Vec::new());
            while let Step::Data { range } = body.step_up_to(&input[at..], 3).unwrap() {
                assert!((1..=3).contains(&range.len()));
                found.extend_from_slice(&input[at..][range.clone()]);
                at += range.end;
            }
            assert_eq!(found, b"abcd");
            assert!(body.is_done());
        }
    }

    #[test]
    fn chunked_names_ranges_of_its_input() {
        let mut body = decoder(BodyFraming::Chunked, None).unwrap();
        let input = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET";
        assert_eq!(body.step(input), Ok(Step::Data { range: 3..6 }));
        assert_eq!(body.step(&input[6..]), Ok(Step::Data { range: 5..7 }));
        assert!(!body.is_done());
        assert_eq!(body.step(&input[13..]), Ok(Step::End { consumed: 7 }));
        assert_eq!(&input[20..], b"GET");
        assert_eq!(body.step(b"GET"), Ok(Step::End { consumed: 0 }));
        assert_eq!(body.remaining(), Some(0));
    }

    #[test]
    fn chunked_limit_counts_what_is_announced() {
        let mut body = decoder(BodyFraming::Chunked, Some(4)).unwrap();
        assert_eq!(body.step(b"4\r\nabcd"), Ok(Step::Data { range: 3..7 }));
        assert_eq!(body.step(b"\r\n1\r"), Err(Error::BodyTooLarge));
    }

    #[test]
    fn an_error_is_final() {
        let mut body = decoder(BodyFraming::Chunked, None).unwrap();
        assert_eq!(body.step(b"x"), Err(Error::ChunkSize));
        assert_eq!(body.step(b"0\r\n\r\n"), Err(Error::ChunkSize));
        assert!(!body.is_done());
    }

    #[test]
    fn trailers_are_kept_apart() {
        let mut body = decoder(BodyFraming::Chunked, None).unwrap();
        assert_eq!(body.step(b"0\r\nDigest: a\r"), Ok(Step::NeedMore));
        assert_eq!(body.step(b"\nB:c\r\n\r\nGET"), Ok(Step::End { consumed: 8 }));
        let trailers: Vec<_> = body.trailers().collect();
        assert_eq!(trailers, [(&b"Digest"[..], &b"a"[..]), (b"B", b"c")]);
    }

    #[test]
    fn end_of_input_in_mid_body() {
        let mut body = decoder(BodyFraming::Length(2), None).unwrap();
        body.step(b"a").unwrap();
        assert_eq!(body.end_of_input(), Err(Error::Truncated));
        body.step(b"b").unwrap();
        assert_eq!(body.end_of_input(), Ok(()));
        let mut body = decoder(BodyFraming::Chunked, None).unwrap();
        body.step(b"0\r\n").unwrap();
        assert_eq!(body.end_of_input(), Err(Error::Truncated));
    }
}
