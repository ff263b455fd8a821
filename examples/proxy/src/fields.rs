//! What of a head passes the proxy, and what it adds (RFC 9110 section 7.6).
//!
//! It owns the fields that belong to one connection, in both directions, and those that tell the other server who the
//! client is. A newcomer would append to the client's own `X-Forwarded-For`. Who the client is, the server has found
//! out already, proxies before it included, as far as the operator trusts them (`forwarded_allow_ips`); what the
//! request itself says is not passed on.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use rgunicorn_worker_api::prelude::Scheme;
use rgunicorn_worker_api::request::Address;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// What a client could say of itself in place of us, and what this proxy settles. `X-Forwarded-Proto` is always put in.
const NOT_THE_CLIENTS: [HeaderName; 9] = [
    // The client is told to go on as soon as somebody wants its body.
    EXPECT,
    FORWARDED,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PORT,
    FORWARDED_PREFIX,
    FORWARDED_SERVER,
    HOST,
    REAL_IP,
];

/// What an intermediary must take out, whether or not `Connection` names it (RFC 9110 section 7.6.1).
const OF_ONE_CONNECTION: [HeaderName; 6] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE];

/// The words of a field that is a list, in any number of lines.
fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| line.as_bytes().split(|octet| *octet == b',')).map(<[u8]>::trim_ascii)
}

/// The protocol that one end would rather speak, if it says so properly.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let says = words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case(b"upgrade"));
    headers.get(UPGRADE).filter(|_| says).cloned()
}

/// Takes out what belongs to the connection on which the head came.
pub(crate) fn leave_connection(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // It rules, and a length beside it counts nothing (RFC 9112 section 6.3): it would cut the body short.
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> =
        words(headers, &CONNECTION).filter_map(|word| HeaderName::from_bytes(word).ok()).collect();
    for name in named.iter().chain(&OF_ONE_CONNECTION) {
        headers.remove(name);
    }
}

/// Puts in what makes the connection another one.
pub(crate) fn ask_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Who asks, and how they reached us.
pub(crate) struct Client<'c> {
    pub(crate) peer: Address,
    pub(crate) scheme: Scheme,
    /// The prefix that this application is mounted on.
    pub(crate) mount: &'c [u8],
    /// Octets of the body; none if only its end will tell.
    pub(crate) length: Option<u64>,
}

/// Makes the fields of a request those that an upstream gets, `Via` and an upgrade apart.
pub(crate) fn pass_on(headers: &mut HeaderMap, client: &Client<'_>, keep_host: bool) {
    let host = headers.get(HOST).cloned();
    leave_connection(headers);
    for name in &NOT_THE_CLIENTS {
        headers.remove(name);
    }
    // What there is, however it was framed on its way here: no two servers shall read two lengths.
    let had_length = headers.remove(CONTENT_LENGTH).is_some();
    match client.length {
        None => _ = headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        Some(0) if !had_length => {}
        Some(length) => _ = headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
    }
    if let Address::Ip(peer) = client.peer
        && let Ok(ip) = HeaderValue::try_from(peer.ip().to_string())
    {
        headers.insert(FORWARDED_FOR, ip);
    }
    let scheme = match client.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    if !client.mount.is_empty()
        && let Ok(mount) = HeaderValue::from_bytes(client.mount)
    {
        headers.insert(FORWARDED_PREFIX, mount);
    }
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host.clone());
        if keep_host {
            headers.insert(HOST, host);
        }
    }
}

/// Counts this proxy as one of those that the message may still pass (RFC 9110 section 7.6.2); false if it was to go no
/// further.
pub(crate) fn may_go_on(headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let Some(left) = left else { return true };
    let Some(fewer) = left.checked_sub(1) else { return false };
    headers.insert(MAX_FORWARDS, HeaderValue::from(fewer));
    true
}

/// Adds this proxy to those that the message has passed.
pub(crate) fn pass_by(headers: &mut HeaderMap, via: &HeaderValue) {
    headers.append(VIA, via.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        let pairs: Vec<(HeaderName, HeaderValue)> = lines.iter().map(pair).collect();
        pairs.into_iter().collect()
    }

    fn client(length: Option<u64>) -> Client<'static> {
        let peer = Address::Ip("192.0.2.7:1234".parse().unwrap());
        Client { peer, scheme: Scheme::Https, mount: b"/api", length }
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Own , ,b@d"),
            ("connection", "x-other"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("proxy-connection", "close"),
            ("x-own", "1"),
            ("x-other", "1"),
            ("x-stays", "1"),
            ("trailer", "x-sum"),
        ]);
        leave_connection(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["trailer", "x-stays"]);
    }

    #[test]
    fn a_client_cannot_say_who_it_is_nor_take_out_what_the_proxy_says() {
        let mut headers = map(&[
            ("host", "site.example"),
            ("connection", "x-forwarded-for, content-length, host"),
            ("content-length", "3"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-server", "evil"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("expect", "100-continue"),
        ]);
        pass_on(&mut headers, &client(Some(3)), false);
        let wanted = map(&[
            ("content-length", "3"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-prefix", "/api"),
            ("x-forwarded-host", "site.example"),
        ]);
        assert_eq!(headers, wanted);
    }

    #[test]
    fn a_body_has_one_length() {
        for (fields, length, framing) in [
            (&[][..], Some(0), vec![]),
            (&[("content-length", "0")][..], Some(0), vec![("content-length", "0")]),
            (&[("content-length", "7")][..], Some(7), vec![("content-length", "7")]),
            (&[("transfer-encoding", "chunked")][..], None, vec![("transfer-encoding", "chunked")]),
        ] {
            let mut headers = map(fields);
            pass_on(&mut headers, &client(length), true);
            let names = [CONTENT_LENGTH, TRANSFER_ENCODING];
            let framed =
                names.iter().filter_map(|name| Some((name.as_str(), headers.get(name)?.to_str().unwrap())));
            assert_eq!(framed.collect::<Vec<_>>(), framing, "{fields:?}");
        }
    }

    #[test]
    fn a_length_beside_chunks_counts_nothing() {
        let mut headers = map(&[("content-length", "3"), ("transfer-encoding", "chunked"), ("x-own", "1")]);
        leave_connection(&mut headers);
        assert_eq!(headers, map(&[("x-own", "1")]));
    }

    #[test]
    fn forwards_are_counted() {
        for (given, goes_on, left) in
            [("0", false, "0"), ("1", true, "0"), ("10", true, "9"), ("-1", true, "-1"), ("x", true, "x")]
        {
            let mut headers = map(&[("max-forwards", given)]);
            assert_eq!((may_go_on(&mut headers), &headers), (goes_on, &map(&[("max-forwards", left)])));
        }
        assert!(may_go_on(&mut HeaderMap::new()));
    }

    #[test]
    fn an_upgrade_is_asked_for_in_two_fields() {
        for (fields, wanted) in [
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")][..], Some("websocket")),
            (&[("upgrade", "websocket")][..], None),
            (&[("connection", "upgrade")][..], None),
        ] {
            assert_eq!(upgrade(&map(fields)).as_ref().map(|value| value.to_str().unwrap()), wanted);
        }
    }
}
