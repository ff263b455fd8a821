//! The header of the PROXY protocol, which a proxy puts before the first request of a connection.
//!
//! It owns both forms, the line of text (version 1) and the binary one (version 2), as HAProxy's specification
//! defines them, without I/O. It does not own who may send one, nor what the address is used for.
//!
//! What a newcomer gets wrong: the header is optional where the setting allows it, as in Gunicorn, so there are
//! five answers and not three. Octets that may still become a header are [`Preface::Partial`], those that have
//! begun as one are [`Preface::Begun`], and those are no HTTP any more, whatever follows.
//!
//! | octets                                    | answer                    |
//! |-------------------------------------------|---------------------------|
//! | none, or a beginning of either signature  | `Partial`                 |
//! | a signature, and not all that must follow | `Begun`                   |
//! | a whole header                            | `Complete`                |
//! | a signature, and what cannot follow       | [`Error::ProxyHeader`]    |
//! | anything else                             | `Absent`                  |

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use rgunicorn_worker_api::request::Address;

use crate::error::Error;

/// Which versions a connection may begin with (`proxy_protocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None: the octets are an HTTP request, and a wrong one.
    #[default]
    Off,
    /// The line of text.
    V1,
    /// The binary header.
    V2,
    /// Either.
    Auto,
}

/// What the first octets of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preface {
    /// Too few to tell.
    Partial,
    /// The beginning of a header.
    Begun,
    /// No header; they are a request's.
    Absent,
    /// A header of `len` octets; a request follows.
    Complete {
        /// Octets of the header.
        len: usize,
        /// The client; `None` if the proxy speaks for itself, or does not know.
        client: Option<Address>,
    },
}

const V1: &[u8] = b"PROXY ";
/// The longest line with its CRLF: two IPv6 addresses and two ports.
const V1_LONGEST: usize = 107;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, and the length of the rest.
const V2_FIXED: usize = 16;
/// Both addresses of a Unix socket, each with its path's room.
const UNIX_PATH: usize = 108;

/// Looks for a header at the beginning of `buf`; a whole one has `limit` octets at most.
///
/// # Errors
/// The signature is there and what follows is malformed ([`Error::ProxyHeader`]), or too long
/// ([`Error::HeadTooLarge`]). Where a request begins is then not known.
pub fn parse(buf: &[u8], accepted: ProxyProtocol, limit: usize) -> Result<Preface, Error> {
    let (v1, v2) = match accepted {
        ProxyProtocol::Off => (false, false),
        ProxyProtocol::V1 => (true, false),
        ProxyProtocol::V2 => (false, true),
        ProxyProtocol::Auto => (true, true),
    };
    if v1 && buf.starts_with(V1) {
        return text(buf);
    }
    if v2 && buf.starts_with(V2) {
        return binary(buf, limit);
    }
    let may_become = |wanted, signature: &[u8]| wanted && signature.starts_with(buf);
    if may_become(v1, V1) || may_become(v2, V2) { Ok(Preface::Partial) } else { Ok(Preface::Absent) }
}

/// `PROXY TCP4 source destination source-port destination-port CRLF`, or `PROXY UNKNOWN` with anything behind it.
fn text(buf: &[u8]) -> Result<Preface, Error> {
    let within = &buf[..buf.len().min(V1_LONGEST)];
    let Some(lf) = memchr::memchr(b'\n', within) else {
        // A line that has not ended by now never will, and what stands in it already may be wrong.
        let is_wrong =
            within.len() == V1_LONGEST || has_control(within.strip_suffix(b"\r").unwrap_or(within));
        return if is_wrong { Err(Error::ProxyHeader) } else { Ok(Preface::Begun) };
    };
    let line = within[V1.len()..lf].strip_suffix(b"\r").ok_or(Error::ProxyHeader)?;
    if has_control(line) {
        return Err(Error::ProxyHeader);
    }
    let client = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        None
    } else {
        Some(Address::Ip(source(line).ok_or(Error::ProxyHeader)?))
    };
    Ok(Preface::Complete { len: lf + 1, client })
}

fn has_control(line: &[u8]) -> bool {
    line.iter().any(u8::is_ascii_control)
}

fn source(line: &[u8]) -> Option<SocketAddr> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let family = words.next()?;
    let (source, destination) = (words.next()?, words.next()?);
    let (port, _) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let source: IpAddr = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            source.parse::<Ipv4Addr>().ok()?.into()
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            source.parse::<Ipv6Addr>().ok()?.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(source, port))
}

/// Decimal, without a sign and without zeros in front.
fn port(digits: &str) -> Option<u16> {
    let plain =
        digits.bytes().all(|octet| octet.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

fn binary(buf: &[u8], limit: usize) -> Result<Preface, Error> {
    // Each octet is judged when it is there, so that the answer does not depend on how octets arrive.
    let command = match buf.get(V2.len()) {
        None => return Ok(Preface::Begun),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Err(Error::ProxyHeader),
    };
    let (Some(&kind), Some(length)) = (buf.get(V2.len() + 1), buf.get(V2.len() + 2..V2_FIXED)) else {
        return Ok(Preface::Begun);
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    // What the proxy says of itself is of no interest, whatever family it names.
    let family = match command {
        Command::Local => Family::Unspecified,
        Command::Proxy => Family::of(kind).ok_or(Error::ProxyHeader)?,
    };
    if length < family.length() {
        return Err(Error::ProxyHeader);
    }
    let len = V2_FIXED + length;
    if len > limit {
        return Err(Error::HeadTooLarge);
    }
    match buf.get(V2_FIXED..len) {
        None => Ok(Preface::Begun),
        // Behind the addresses come extensions, which are skipped.
        Some(addresses) => Ok(Preface::Complete { len, client: family.source(addresses) }),
    }
}

enum Command {
    Local,
    Proxy,
}

/// What is known of both ends. HTTP/1.x runs over streams only.
enum Family {
    Unspecified,
    V4,
    V6,
    Unix,
}

impl Family {
    fn of(kind: u8) -> Option<Self> {
        match kind {
            0x00 => Some(Self::Unspecified),
            0x11 => Some(Self::V4),
            0x21 => Some(Self::V6),
            0x31 => Some(Self::Unix),
            _ => None,
        }
    }

    /// Octets of the addresses: source, destination, then the ports in the same order.
    fn length(&self) -> usize {
        match self {
            Self::Unspecified => 0,
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Unix => 2 * UNIX_PATH,
        }
    }

    fn source(&self, addresses: &[u8]) -> Option<Address> {
        match self {
            Self::Unspecified => None,
            Self::V4 => {
                let (ip, rest) = addresses.split_first_chunk::<4>()?;
                let port = rest[4..].first_chunk::<2>()?;
                Some(Address::Ip(SocketAddr::new(Ipv4Addr::from(*ip).into(), u16::from_be_bytes(*port))))
            }
            Self::V6 => {
                let (ip, rest) = addresses.split_first_chunk::<16>()?;
                let port = rest[16..].first_chunk::<2>()?;
                Some(Address::Ip(SocketAddr::new(Ipv6Addr::from(*ip).into(), u16::from_be_bytes(*port))))
            }
            Self::Unix => {
                let room = &addresses[..UNIX_PATH];
                let path = &room[..memchr::memchr(0, room).unwrap_or(UNIX_PATH)];
                Some(Address::Unix((!path.is_empty()).then(|| OsStr::from_bytes(path).into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 65536;

    fn v2(version_command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[version_command, kind], &length, rest].concat()
    }

    fn ip(text: &str) -> Option<Address> {
        Some(Address::Ip(text.parse().unwrap()))
    }

    /// The same answer, however the octets arrive: until the last one it is `Partial` or `Begun`, in this order.
    fn complete(header: &[u8], client: &Option<Address>) {
        let mut begun = false;
        for arrived in 0..header.len() {
            match parse(&header[..arrived], ProxyProtocol::Auto, LIMIT) {
                Ok(Preface::Partial) if !begun => {}
                Ok(Preface::Begun) => begun = true,
                other => panic!("{other:?} after {arrived} of {}", header.escape_ascii()),
            }
        }
        assert!(begun);
        let expected = Ok(Preface::Complete { len: header.len(), client: client.clone() });
        assert_eq!(parse(header, ProxyProtocol::Auto, LIMIT), expected, "{}", header.escape_ascii());
        let more = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&more, ProxyProtocol::Auto, LIMIT), expected, "{}", more.escape_ascii());
    }

    /// Refused as a whole, and once refused always refused.
    fn refused(header: &[u8], error: &Error) {
        let mut refused = false;
        for arrived in 0..=header.len() {
            match parse(&header[..arrived], ProxyProtocol::Auto, LIMIT) {
                Err(found) => {
                    assert_eq!(&found, error);
                    refused = true;
                }
                Ok(Preface::Partial | Preface::Begun) if !refused => {}
                other => panic!("{other:?} after {arrived} of {}", header.escape_ascii()),
            }
        }
        assert!(refused, "{}", header.escape_ascii());
    }

    #[test]
    fn text_headers() {
        for (line, client) in [
            ("TCP4 192.168.0.1 10.0.0.1 56324 443", ip("192.168.0.1:56324")),
            ("TCP4 255.255.255.255 255.255.255.255 65535 0", ip("255.255.255.255:65535")),
            ("TCP6 2001:db8::1 ::1 1 2", ip("[2001:db8::1]:1")),
            (
                "TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                ip("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            ("UNKNOWN", None),
            ("UNKNOWN ffff::1 anything at all 1 2 3", None),
        ] {
            complete(format!("PROXY {line}\r\n").as_bytes(), &client);
        }
    }

    #[test]
    fn text_headers_that_are_none() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LONGEST - 15));
        for header in [
            &b"PROXY \r\n"[..],
            b"PROXY TCP4\r\n",
            b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 localhost 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP6 [::1] ::1 1 2\r\n",
            b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n",
            b"PROXY TCP4\t1.2.3.4 1.2.3.4 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\0\r\n",
            b"PROXY UNKNOWN \x7f\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n",
            long.as_bytes(),
        ] {
            refused(header, &Error::ProxyHeader);
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LONGEST - 16));
        complete(longest.as_bytes(), &None);
    }

    #[test]
    fn binary_headers() {
        let v4 = [192, 168, 0, 1, 10, 0, 0, 1, 0xdc, 0x04, 0x01, 0xbb];
        let v6 = [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 80, 0, 81]]
            .concat();
        let path = [&b"/run/x"[..], &[0; UNIX_PATH - 6], &[0; UNIX_PATH]].concat();
        let tlv = [3, 0, 4, 1, 2, 3, 4];
        complete(&v2(0x21, 0x11, &v4), &ip("192.168.0.1:56324"));
        complete(&v2(0x21, 0x11, &[&v4[..], &tlv].concat()), &ip("192.168.0.1:56324"));
        complete(&v2(0x21, 0x21, &v6), &ip("[2001:db8::1]:80"));
        complete(&v2(0x21, 0x21, &[&v6[..], &tlv].concat()), &ip("[2001:db8::1]:80"));
        complete(&v2(0x21, 0x31, &path), &Some(Address::Unix(Some("/run/x".into()))));
        complete(&v2(0x21, 0x31, &[0; 2 * UNIX_PATH]), &Some(Address::Unix(None)));
        let full = [b'x'; 2 * UNIX_PATH];
        complete(&v2(0x21, 0x31, &full), &Some(Address::Unix(Some("x".repeat(UNIX_PATH).into()))));
        complete(&v2(0x21, 0x00, b""), &None);
        complete(&v2(0x21, 0x00, &tlv), &None);
        complete(&v2(0x20, 0x00, b""), &None);
        complete(&v2(0x20, 0x11, &v4), &None);
        complete(&v2(0x20, 0xff, &tlv), &None);
    }

    #[test]
    fn binary_headers_that_are_none() {
        for (command, kind, length) in [
            (0x11, 0x11, 12),
            (0x31, 0x11, 12),
            (0x22, 0x11, 12),
            (0x2f, 0x11, 12),
            (0x01, 0x11, 12),
            (0x21, 0x12, 12),
            (0x21, 0x22, 36),
            (0x21, 0x32, 216),
            (0x21, 0x10, 12),
            (0x21, 0x01, 0),
            (0x21, 0x41, 216),
            (0x21, 0x11, 11),
            (0x21, 0x11, 0),
            (0x21, 0x21, 35),
            (0x21, 0x31, 215),
        ] {
            refused(&v2(command, kind, &vec![0; length]), &Error::ProxyHeader);
        }
        let header = v2(0x21, 0x11, &[0; 100]);
        assert_eq!(parse(&header[..16], ProxyProtocol::V2, 115), Err(Error::HeadTooLarge));
        assert_eq!(parse(&header[..16], ProxyProtocol::V2, 116), Ok(Preface::Begun));
        assert_eq!(parse(&header, ProxyProtocol::V2, 115), Err(Error::HeadTooLarge));
    }

    #[test]
    fn what_is_no_header_is_a_request() {
        for octets in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST / HTTP/1.1\r\n",
            b"PROXY/ ",
            b"PROXYX",
            b"PROPFIND / HTTP/1.1\r\n",
            b"proxy TCP4",
            b"\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
            b"\r\n\r\n\0\r\nQUIT\r\n",
        ] {
            assert_eq!(
                parse(octets, ProxyProtocol::Auto, LIMIT),
                Ok(Preface::Absent),
                "{}",
                octets.escape_ascii()
            );
        }
        let (text, binary) = (b"PROXY UNKNOWN\r\n", v2(0x20, 0, b""));
        for (octets, accepted) in [
            (&text[..], ProxyProtocol::Off),
            (text, ProxyProtocol::V2),
            (&binary, ProxyProtocol::Off),
            (&binary, ProxyProtocol::V1),
            (b"", ProxyProtocol::Off),
        ] {
            assert_eq!(parse(octets, accepted, LIMIT), Ok(Preface::Absent));
        }
        for accepted in [ProxyProtocol::V1, ProxyProtocol::V2, ProxyProtocol::Auto] {
            assert_eq!(parse(b"", accepted, LIMIT), Ok(Preface::Partial));
        }
    }
}
