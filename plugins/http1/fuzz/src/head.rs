//! The request head: one verdict, whatever the leniencies and however the octets arrive.
//!
//! - whole and in pieces give the same request, or the same refusal;
//! - what follows a head changes nothing about it, and nothing shorter is a head;
//! - no name or value holds CR, LF or NUL, whatever was forgiven;
//! - a [`Head`] that was used before judges like a new one.

use super::{meaning, octet, settings};
use rgunicorn_http1::{Head, Leniency, Limits, Progress};

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Partial,
    Complete { len: usize, request: String },
    Refused(String),
}

/// Panics where the input shows that a property does not hold.
pub fn holds(input: &[u8]) {
    let mut input = input;
    let (limits, leniency) = settings(&mut input);
    let piece = usize::from(octet(&mut input)).max(1);
    let mut head = Head::new();
    let split = judge(&mut head, input, piece, &limits, &leniency);
    // After `Complete` or an error a head starts over by itself.
    if split == Verdict::Partial {
        head.clear();
    }
    let whole = judge(&mut head, input, usize::MAX, &limits, &leniency);
    assert_eq!(split, whole, "in pieces of {piece}: {}", input.escape_ascii());
    if let Verdict::Complete { len, .. } = whole {
        let alone = judge(&mut Head::new(), &input[..len], usize::MAX, &limits, &leniency);
        assert_eq!(alone, whole, "what follows has changed it");
        let shorter = judge(&mut Head::new(), &input[..len - 1], usize::MAX, &limits, &leniency);
        assert_eq!(shorter, Verdict::Partial, "complete without its end");
    }
}

fn judge(head: &mut Head, input: &[u8], piece: usize, limits: &Limits, leniency: &Leniency) -> Verdict {
    let mut arrived = 0_usize;
    loop {
        arrived = arrived.saturating_add(piece).min(input.len());
        match head.parse(&input[..arrived], limits, leniency) {
            Ok(Progress::Complete { len }) => {
                return Verdict::Complete { len, request: describe(head, &input[..arrived]) };
            }
            Ok(Progress::Partial) if arrived == input.len() => return Verdict::Partial,
            Ok(Progress::Partial) => {}
            Err(error) => {
                assert!((400..600).contains(&error.status()), "{error:?}");
                return Verdict::Refused(meaning(&error));
            }
        }
    }
}

fn describe(head: &Head, buf: &[u8]) -> String {
    let clean = |octets: &[u8]| {
        assert!(!octets.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)), "{}", octets.escape_ascii());
    };
    let mut fields = Vec::new();
    for (name, value) in head.fields(buf) {
        assert!(!name.is_empty());
        clean(name);
        clean(value);
        fields.push((name, value));
    }
    for part in [head.method(buf), head.target(buf), head.path(buf)] {
        clean(part);
        assert!(!part.iter().any(|octet| *octet <= b' '), "{}", part.escape_ascii());
    }
    assert!(!head.method(buf).is_empty() && !head.target(buf).is_empty());
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        head.method(buf),
        head.target(buf),
        head.target_form(),
        head.path(buf),
        head.query(buf),
        head.authority(buf),
        head.version(),
        head.framing(),
        head.keep_alive(),
        head.expect_continue(),
        head.upgrade(buf),
        fields,
    )
}
