//! The header of the PROXY protocol: one answer, however the octets arrive.
//!
//! - every beginning of the input leads to what the whole of it is: what may become a header is not yet anything else,
//!   what has begun as one is never taken for a request, a refusal stands;
//! - a whole header ends within the input and the limit, and what follows it changes nothing;
//! - a version that is not accepted is no header.

use super::octet;
use rgunicorn_http1::proxy::{Preface, ProxyProtocol, parse};

/// Panics where the input shows that a property does not hold.
pub fn holds(input: &[u8]) {
    let mut input = input;
    let choice = octet(&mut input);
    let accepted = [ProxyProtocol::Off, ProxyProtocol::V1, ProxyProtocol::V2, ProxyProtocol::Auto]
        [usize::from(choice & 3)];
    let limit = if choice & 4 == 0 { 64 * 1024 } else { 200 };
    let whole = parse(input, accepted, limit);
    // All of what follows a header is the same to it, so that a few hundred beginnings say everything.
    for end in 0..input.len().min(700) {
        let answer = parse(&input[..end], accepted, limit);
        match (&answer, &whole) {
            (Ok(Preface::Partial), _) => {}
            (Ok(Preface::Begun), Ok(Preface::Begun | Preface::Complete { .. }) | Err(_)) => {}
            _ => assert_eq!(answer, whole, "{} of {}", end, input.escape_ascii()),
        }
    }
    match whole {
        Ok(Preface::Complete { len, client }) => {
            assert!(len <= input.len() && len <= limit.max(107) && accepted != ProxyProtocol::Off);
            let followed = [&input[..len], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(parse(&followed, accepted, limit), Ok(Preface::Complete { len, client }));
            let text = input.starts_with(b"PROXY ");
            assert!(accepted != if text { ProxyProtocol::V2 } else { ProxyProtocol::V1 });
        }
        Ok(Preface::Absent) => {
            assert!(accepted != ProxyProtocol::Auto || !input.starts_with(b"PROXY "));
        }
        Ok(Preface::Partial | Preface::Begun) => assert_ne!(accepted, ProxyProtocol::Off),
        Err(error) => assert!((400..500).contains(&error.status())),
    }
}
