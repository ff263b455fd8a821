//! The request target and the authority in it or in `Host`.
//!
//! It owns RFC 9112 section 3.2 (four forms, each for its methods) and the `uri-host [ ":" port ]` of RFC
//! 3986. It does not decode: `%2f` stays as it came, for the application to judge.
//!
//! What a newcomer gets wrong: octets from 0x80 up are no URI characters (RFC 3986 section 2), and are refused, as
//! in Gunicorn. A client that sends raw UTF-8 has not encoded its target; what the hops on the way make of it
//! differs.

use std::net::Ipv6Addr;
use std::ops::Range;

use crate::error::Error;

/// Which of the four forms the target has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://host/path?query`; its authority replaces `Host` (RFC 9112 section 3.2.2).
    Absolute,
    /// `host:port`, for CONNECT and nothing else.
    Authority,
    /// `*`, for OPTIONS and nothing else; also what `OPTIONS http://host` means (section 3.2.4).
    Asterisk,
}

/// A target taken apart; ranges are relative to its first octet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target {
    pub(crate) form: TargetForm,
    pub(crate) authority: Option<Range<usize>>,
    /// Empty where the target has no path; the reader of it says `/` or `*`.
    pub(crate) path: Range<usize>,
    pub(crate) query: Option<Range<usize>>,
}

pub(crate) fn parse(target: &[u8], method: &[u8]) -> Result<Target, Error> {
    if !target.iter().all(|&octet| is_target_octet(octet)) {
        return Err(Error::Target);
    }
    if method == b"CONNECT" {
        // RFC 9112 section 3.2.3: host and port, both of them.
        return match authority(target) {
            Some(Port::Number) => Ok(Target {
                form: TargetForm::Authority,
                authority: Some(0..target.len()),
                ..Target::default()
            }),
            Some(Port::Absent | Port::Empty) | None => Err(Error::Target),
        };
    }
    match target {
        [b'/', ..] => {
            let (path, query) = path_and_query(target, 0);
            Ok(Target { form: TargetForm::Origin, authority: None, path, query })
        }
        b"*" if method == b"OPTIONS" => Ok(Target { form: TargetForm::Asterisk, ..Target::default() }),
        _ => absolute(target, method),
    }
}

/// `http://authority[/path][?query]`. Other schemes are for proxies, and user information is refused by
/// RFC 9110 section 4.2.4, through the alphabet of the host.
fn absolute(target: &[u8], method: &[u8]) -> Result<Target, Error> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .ok_or(Error::Target)?;
    let start = scheme.len();
    let end = start + memchr::memchr2(b'/', b'?', &target[start..]).unwrap_or(target.len() - start);
    authority(&target[start..end]).ok_or(Error::Target)?;
    let form =
        if method == b"OPTIONS" && end == target.len() { TargetForm::Asterisk } else { TargetForm::Absolute };
    let (path, query) = path_and_query(target, end);
    Ok(Target { form, authority: Some(start..end), path, query })
}

fn path_and_query(target: &[u8], start: usize) -> (Range<usize>, Option<Range<usize>>) {
    match memchr::memchr(b'?', &target[start..]) {
        Some(len) => (start..start + len, Some(start + len + 1..target.len())),
        None => (start..target.len(), None),
    }
}

/// Visible ASCII without `#`, since a fragment is never sent (RFC 9112 section 3.2).
fn is_target_octet(octet: u8) -> bool {
    matches!(octet, b'!'..=b'"' | b'$'..=b'~')
}

/// What follows the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Absent,
    Empty,
    Number,
}

/// Checks `uri-host [ ":" port ]` with a host that is not empty; `None` if it is anything else.
///
/// A comma, which RFC 3986 allows in a registered name, is refused: no host has one, and two `Host` lines
/// merged by a proxy do. `IPvFuture` and zone identifiers are refused: nobody has the one, and the other
/// means nothing off its own host.
pub(crate) fn authority(bytes: &[u8]) -> Option<Port> {
    if let [b'[', rest @ ..] = bytes {
        let close = memchr::memchr(b']', rest)?;
        let text = std::str::from_utf8(&rest[..close]).ok()?;
        text.parse::<Ipv6Addr>().ok()?;
        return port(&rest[close + 1..]);
    }
    // Where most hosts end; in one that is percent-encoded there is more of it.
    let plain = bytes.iter().position(|&octet| !REGISTERED[usize::from(octet)]).unwrap_or(bytes.len());
    let end = match bytes.get(plain) {
        Some(b'%') => bytes.iter().position(|&octet| octet == b':').unwrap_or(bytes.len()),
        Some(_) | None => plain,
    };
    let (host, rest) = bytes.split_at(end);
    if host.is_empty() || end > plain && !is_registered_name(host) {
        return None;
    }
    port(rest)
}

fn port(rest: &[u8]) -> Option<Port> {
    match rest {
        [] => Some(Port::Absent),
        [b':'] => Some(Port::Empty),
        [b':', digits @ ..] => {
            crate::syntax::decimal(digits).filter(|&port| port <= 65535).map(|_| Port::Number)
        }
        _ => None,
    }
}

/// `unreserved / sub-delims`, without the comma.
const REGISTERED: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        table[octet] = matches!(octet as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';'
            | b'=');
        octet += 1;
    }
    table
};

/// `reg-name = *( unreserved / pct-encoded / sub-delims )`, without the comma.
fn is_registered_name(host: &[u8]) -> bool {
    let mut octets = host.iter();
    while let Some(&octet) = octets.next() {
        let allowed = match octet {
            b'%' => {
                let mut hex = || octets.next().is_some_and(u8::is_ascii_hexdigit);
                hex() && hex()
            }
            octet => REGISTERED[usize::from(octet)],
        };
        if !allowed {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, target: &str) -> Option<(TargetForm, Option<String>, String, Option<String>)> {
        let parsed = parse(target.as_bytes(), method.as_bytes()).ok()?;
        let text = |range: Range<usize>| target[range].to_owned();
        Some((parsed.form, parsed.authority.map(text), text(parsed.path), parsed.query.map(text)))
    }

    #[test]
    fn forms() {
        use TargetForm::{Absolute, Asterisk, Authority, Origin};
        let some = |text: &str| Some(text.to_owned());
        for (method, target, expected) in [
            ("GET", "/", (Origin, None, "/".to_owned(), None)),
            ("GET", "/a?b?c", (Origin, None, "/a".to_owned(), some("b?c"))),
            ("GET", "//a/b", (Origin, None, "//a/b".to_owned(), None)),
            ("GET", "/?", (Origin, None, "/".to_owned(), some(""))),
            ("GET", "http://h/a?b", (Absolute, some("h"), "/a".to_owned(), some("b"))),
            ("GET", "HTTPS://h:8443", (Absolute, some("h:8443"), String::new(), None)),
            ("GET", "http://h?q=/", (Absolute, some("h"), String::new(), some("q=/"))),
            ("OPTIONS", "*", (Asterisk, None, String::new(), None)),
            ("OPTIONS", "http://h", (Asterisk, some("h"), String::new(), None)),
            ("OPTIONS", "http://h/", (Absolute, some("h"), "/".to_owned(), None)),
            ("CONNECT", "h:443", (Authority, some("h:443"), String::new(), None)),
            ("CONNECT", "[::1]:443", (Authority, some("[::1]:443"), String::new(), None)),
        ] {
            assert_eq!(parts(method, target), Some(expected), "{method} {target}");
        }
    }

    #[test]
    fn refused_targets() {
        for (method, target) in [
            ("GET", ""),
            ("GET", "*"),
            ("GET", "h:80"),
            ("GET", "a/b"),
            ("GET", "/a#b"),
            ("GET", "/a b"),
            ("GET", "/a\tb"),
            ("GET", "/a\x7f"),
            ("GET", "/a\0"),
            ("GET", "ftp://h/"),
            ("GET", "http:/h/"),
            ("GET", "http://"),
            ("GET", "http:///a"),
            ("GET", "http://u@h/"),
            ("GET", "http://h:x/"),
            ("OPTIONS", "**"),
            ("CONNECT", "/"),
            ("CONNECT", "h"),
            ("CONNECT", "h:"),
            ("CONNECT", "http://h:1/"),
            ("CONNECT", ":443"),
        ] {
            assert_eq!(parts(method, target), None, "{method} {target}");
        }
    }

    #[test]
    fn authorities() {
        for good in
            ["a", "a.b-c_d~e", "A:80", "a:", "1.2.3.4:65535", "[::1]", "[::ffff:1.2.3.4]:8", "%41", "a!b"]
        {
            assert!(authority(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:65536",
            "a:+1",
            "a:8 ",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "u@a",
            "::1",
            "[::1",
            "[]",
            "[a]",
            "[::1]x",
            "[::1%25eth0]",
            "[v1.a]",
            "%4",
            "%zz",
            "a%",
            "é",
            "a\"",
            "a\\b",
            "<a>",
        ] {
            assert!(authority(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn raw_octets_nowhere() {
        for target in [&b"/caf\xc3\xa9"[..], b"/?caf\xe9", b"http://caf\xc3\xa9/", b"/\x80", b"/\xff"] {
            assert!(parse(target, b"GET").is_err(), "{}", target.escape_ascii());
        }
    }
}
