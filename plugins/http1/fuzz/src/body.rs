//! The body of a request: the same content and the same end, however the octets arrive and are taken.
//!
//! - whole, in pieces, and with little room for content give the same content, trailers and end, or the same refusal;
//! - what follows the end is never touched, and changes nothing: the next request begins where this one says;
//! - an end within the body is an error, an end behind it is none.

use super::{meaning, octet, settings};
use rgunicorn_http1::{BodyDecoder, BodyFraming, Error, HeaderMap, Limits, Step};

#[derive(Debug, PartialEq, Eq)]
struct Taken {
    content: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Octets of the input up to the end of the body; none if it does not end here.
    end: Option<usize>,
    refusal: Option<String>,
}

/// Panics where the input shows that a property does not hold.
pub fn holds(input: &[u8]) {
    let mut input = input;
    let (limits, leniency) = settings(&mut input);
    let map = leniency.header_map;
    let piece = usize::from(octet(&mut input)).max(1);
    let room = usize::from(octet(&mut input)).max(1);
    let framing = match octet(&mut input) {
        kind @ 128.. => BodyFraming::Length(u64::from(kind - 128)),
        127 => BodyFraming::None,
        _ => BodyFraming::Chunked,
    };
    let whole = take(framing, input, usize::MAX, usize::MAX, &limits, map);
    for (piece, room) in [(piece, usize::MAX), (usize::MAX, room), (piece, room), (1, 1)] {
        let other = take(framing, input, piece, room, &limits, map);
        assert_eq!(other, whole, "pieces of {piece}, room for {room}: {}", input.escape_ascii());
    }
    let Some(end) = whole.end else { return };
    assert_eq!(take(framing, &input[..end], usize::MAX, usize::MAX, &limits, map), whole);
    let next = [&input[..end], b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
    assert_eq!(take(framing, &next, usize::MAX, usize::MAX, &limits, map), whole);
    if end > 0 {
        assert_eq!(take(framing, &input[..end - 1], usize::MAX, usize::MAX, &limits, map).end, None);
    }
}

fn take(
    framing: BodyFraming,
    input: &[u8],
    piece: usize,
    room: usize,
    limits: &Limits,
    map: HeaderMap,
) -> Taken {
    let mut taken = Taken { content: Vec::new(), trailers: Vec::new(), end: None, refusal: None };
    match follow(framing, input, piece, room, limits, map, &mut taken.content) {
        Err(error) => taken.refusal = Some(meaning(&error)),
        Ok((end, trailers)) => (taken.end, taken.trailers) = (end, trailers),
    }
    assert!(taken.content.len() <= input.len());
    assert!(limits.body.is_none_or(|limit| taken.content.len() as u64 <= limit));
    // How much of the content was taken before a refusal depends on where the input was cut.
    if taken.refusal.is_some() {
        taken.content.clear();
    }
    taken
}

type End = (Option<usize>, Vec<(Vec<u8>, Vec<u8>)>);

fn follow(
    framing: BodyFraming,
    input: &[u8],
    piece: usize,
    room: usize,
    limits: &Limits,
    map: HeaderMap,
    content: &mut Vec<u8>,
) -> Result<End, Error> {
    let mut decoder = BodyDecoder::new(framing, limits, map)?;
    let (mut at, mut arrived) = (0, piece.min(input.len()));
    loop {
        match decoder.step_up_to(&input[at..arrived], room) {
            Ok(Step::Data { range }) => {
                assert!(!range.is_empty() && range.len() <= room && at + range.end <= arrived);
                content.extend_from_slice(&input[at..][range.clone()]);
                at += range.end;
            }
            Ok(Step::NeedMore) if arrived == input.len() => {
                assert_eq!(decoder.end_of_input(), Err(Error::Truncated));
                return Ok((None, Vec::new()));
            }
            Ok(Step::NeedMore) => {
                at = arrived;
                arrived = arrived.saturating_add(piece).min(input.len());
            }
            Ok(Step::End { consumed }) => {
                at += consumed;
                assert!(at <= arrived && decoder.is_done() && decoder.end_of_input().is_ok());
                assert_eq!(decoder.step(&input[at..]), Ok(Step::End { consumed: 0 }), "an end is final");
                let own = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
                return Ok((Some(at), decoder.trailers().map(own).collect()));
            }
            Err(error) => {
                assert_eq!(decoder.step(&input[at..]), Err(error.clone()), "an error is final");
                return Err(error);
            }
        }
    }
}
