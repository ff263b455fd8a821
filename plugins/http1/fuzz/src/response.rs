//! The response writer: whatever an application offers is refused, or comes out as exactly one response.
//!
//! - a refusal leaves the buffer as it was;
//! - what was written is read by another parser as one response, with one framing, the body that was to be sent, and
//!   nothing behind it;
//! - no value brings a line end into the head: the reader takes CR and LF only as the end of a line.

use super::client::{self, Answer, Framing};
use super::offer::{self, Field};
use super::{octet, octets};
use rgunicorn_http1::{
    BodyWriter, DateCache, Error, Exchange, MethodKind, ResponseFraming, ResponseHead, Version,
    error_response, informational, switching_protocols,
};
use std::time::UNIX_EPOCH;

/// Panics where the input shows that a property does not hold.
pub fn holds(input: &[u8]) {
    let mut input = input;
    let bits = octet(&mut input);
    let exchange = Exchange {
        version: if bits & 1 == 0 { Version::Http11 } else { Version::Http10 },
        method: [MethodKind::Other, MethodKind::Head, MethodKind::Connect, MethodKind::Other]
            [usize::from(bits >> 1 & 3)],
        keep_alive: bits & 8 == 0,
        upgrade: bits & 16 != 0,
    };
    let date = DateCache::new(UNIX_EPOCH);
    // What is in the buffer before stays there.
    let mut out = b"before".to_vec();
    match bits >> 6 {
        0 => interim(&mut out, exchange, &mut input),
        1 => upgrade(&mut out, exchange, &date, &mut input),
        2 => own(&mut out, exchange, &date, &mut input),
        _ => whole(&mut out, exchange, &date, bits, &mut input),
    }
    assert!(out.starts_with(b"before"));
}

fn method(exchange: Exchange) -> &'static [u8] {
    match exchange.method {
        MethodKind::Head => b"HEAD",
        MethodKind::Connect => b"CONNECT",
        MethodKind::Other => b"GET",
    }
}

fn one<'o>(out: &'o [u8], method: &[u8]) -> Answer<'o> {
    match client::read(&out[6..], method) {
        Ok(answer) if answer.rest.is_empty() => answer,
        other => panic!("{other:?} in {}", out.escape_ascii()),
    }
}

fn pairs(fields: &[Field]) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (&name[..], &value[..]))
}

fn interim(out: &mut Vec<u8>, exchange: Exchange, input: &mut &[u8]) {
    let (status, fields) = (offer::status(input), offer::fields(input));
    match informational(out, exchange, status, pairs(&fields)) {
        Ok(()) => {
            let answer = one(out, b"GET");
            assert!(answer.status == status && (100..200).contains(&status) && status != 101);
            assert_eq!(answer.fields.len(), fields.len());
        }
        Err(error) => refused(out, &error),
    }
}

fn upgrade(out: &mut Vec<u8>, exchange: Exchange, date: &DateCache, input: &mut &[u8]) {
    let fields = offer::fields(input);
    match switching_protocols(out, exchange, pairs(&fields), date) {
        Ok(()) => {
            let answer = one(out, b"GET");
            assert!(answer.status == 101 && exchange.upgrade);
            assert!(answer.connection_has("upgrade") && !answer.values("upgrade").is_empty());
        }
        Err(error) => refused(out, &error),
    }
}

/// Every answer of the server's own.
fn own(out: &mut Vec<u8>, exchange: Exchange, date: &DateCache, input: &mut &[u8]) {
    let status = 400 + u16::from(octet(input)) % 200;
    error_response(out, status, exchange.method, date);
    let answer = one(out, method(exchange));
    assert_eq!((answer.status, answer.values("connection")), (status, vec![&b"close"[..]]));
    assert_eq!(answer.body.is_empty(), exchange.method == MethodKind::Head);
}

fn whole(out: &mut Vec<u8>, exchange: Exchange, date: &DateCache, bits: u8, input: &mut &[u8]) {
    let status = offer::status(input);
    let phrase = (bits & 32 != 0).then(|| {
        let length = usize::from(octet(input) % 8);
        octets(input, length)
    });
    let fields = offer::fields(input);
    let pieces: Vec<Vec<u8>> = (0..octet(input) % 4).map(|_| offer::piece(input)).collect();
    let length: usize = pieces.iter().map(Vec::len).sum();
    let known = (octet(input) & 1 == 0).then_some(length as u64);
    let begun = ResponseHead::begin_with_reason(out, exchange, status, phrase).and_then(|mut head| {
        for (name, value) in pairs(&fields) {
            head.field(name, value)?;
        }
        head.finish(date, known)
    });
    let sent = match begun {
        Ok(sent) => sent,
        Err(error) => return refused(out, &error),
    };
    assert!((200..600).contains(&status));
    let mut writer = BodyWriter::new(sent.framing);
    for piece in &pieces {
        let piece = writer.write(piece);
        assert_eq!(piece.len(), piece.slices().iter().map(|slice| slice.len()).sum::<usize>());
        piece.put(out);
    }
    let trailers = offer::fields(input);
    let before = out.len();
    let mut finished = writer.finish_with_trailers(out, pairs(&trailers));
    if finished.as_ref().is_err_and(|error| !matches!(error, Error::ResponseShort { .. })) {
        assert_eq!(out.len(), before, "a refusal has left something");
        finished = writer.finish().map(|last| out.extend_from_slice(last));
    }
    if let Err(Error::ResponseShort { declared, sent: written }) = finished {
        assert_eq!(sent.framing, ResponseFraming::Length(declared));
        assert!(written < declared && written == length as u64);
        assert!(matches!(client::read(&out[6..], method(exchange)), Err(client::Flaw::Truncated)));
        return;
    }
    assert_eq!(finished, Ok(()));

    let answer = one(out, method(exchange));
    assert_eq!(answer.status, status);
    let body = pieces.concat();
    let (framing, content) = match sent.framing {
        ResponseFraming::Length(declared) => {
            (Framing::Length, &body[..body.len().min(usize::try_from(declared).unwrap_or(usize::MAX))])
        }
        ResponseFraming::Chunked => (Framing::Chunked, &body[..]),
        ResponseFraming::UntilClose => (Framing::UntilClose, &body[..]),
        // 205 says that nothing follows, all others have no framing.
        ResponseFraming::NoBody if status == 205 && exchange.method != MethodKind::Head => {
            (Framing::Length, &b""[..])
        }
        ResponseFraming::NoBody => (Framing::None, &b""[..]),
    };
    assert_eq!((answer.framing, &answer.body[..]), (framing, content));
    assert_eq!(writer.sent(), content.len() as u64);
    assert_eq!(answer.connection_has("close"), !sent.keep_alive, "Connection must be honest");
    assert!(sent.framing != ResponseFraming::UntilClose || !sent.keep_alive);
    for name in ["date", "server"] {
        assert_eq!(answer.values(name).len(), 1, "{name}");
    }
    // HTTP/1.0 knows no chunks, and keeps no connection unless it is told to.
    if exchange.version == Version::Http10 {
        assert!(answer.values("transfer-encoding").is_empty());
        assert_eq!(answer.connection_has("keep-alive"), sent.keep_alive);
    }
}

fn refused(out: &[u8], error: &Error) {
    assert_eq!(out, b"before", "a refusal has left something");
    assert_eq!(error.status(), 500, "{error:?}");
}
