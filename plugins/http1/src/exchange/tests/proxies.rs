//! Connections that come through a proxy: whom it speaks for, and whether it is believed.
//!
//! It owns the cases; the wire in memory is its parent's. What a newcomer gets wrong: trust goes by the other end of
//! the socket, also when a PROXY protocol header has named somebody else.

use super::*;
use crate::exchange::{AllowList, Forwarded};
use crate::limits::HeaderMap;
use crate::proxy::ProxyProtocol;

const PROXY: &str = "10.0.0.1:1000";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x01\xdc\x04\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const CLIENT: &str = "192.0.2.7:56324";

fn behind(peer: &str, script: Script) -> Connection<Script> {
    over(Scheme::Http, peer, script)
}

/// A connection from an address, or without one over a Unix socket.
fn over(scheme: Scheme, peer: &str, script: Script) -> Connection<Script> {
    let peer = if peer.is_empty() { Address::Unix(None) } else { Address::Ip(peer.parse().unwrap()) };
    Connection::new(script, peer, scheme, Memory::default())
}

fn proxied() -> Rules {
    Rules { proxy_protocol: ProxyProtocol::Auto, proxy_allow: AllowList::of("10.0.0.0/8"), ..rules() }
}

/// The peer that the application is shown.
fn shown(rules: &Rules, connection: &mut Connection<Script>) -> (String, Ended) {
    let peer = std::cell::RefCell::new(String::new());
    let ended = one(rules, connection, &|exchange| {
        *peer.borrow_mut() = exchange.peer().to_string();
        respond(exchange)
    });
    (peer.into_inner(), ended)
}

#[test]
fn a_header_split_anywhere_names_the_client() {
    for (header, client) in
        [(V1, CLIENT), (V2, CLIENT), (LOCAL, PROXY), (b"PROXY UNKNOWN\r\n", PROXY), (b"", PROXY)]
    {
        let octets = [header, GET].concat();
        for at in 1..octets.len() {
            for pause in [false, true] {
                let mut script = script(&[&octets[..at], &octets[at..]]);
                if pause {
                    script.arriving.insert(1, Arriving::Nothing);
                }
                let mut connection = behind(PROXY, script);
                assert_eq!(connection.wait_for_head(&proxied()), Arrival::Complete, "{at}");
                let (peer, ended) = shown(&proxied(), &mut connection);
                assert_eq!(peer, client);
                assert_eq!(connection.peer().to_string(), client);
                assert_eq!(ended.bytes_in, GET.len() as u64, "the header is no part of the request");
            }
        }
    }
}

#[test]
fn a_header_holds_for_every_request_and_comes_once() {
    let octets = [V1, GET, GET, V1, GET].concat();
    let mut connection = behind(PROXY, script(&[&octets]));
    for _ in 0..2 {
        assert_eq!(connection.wait_for_head(&proxied()), Arrival::Complete);
        let (peer, ended) = shown(&proxied(), &mut connection);
        assert_eq!(peer, CLIENT);
        connection.next(&ended);
    }
    // A second one is a request, and a wrong one.
    assert_eq!(connection.wait_for_head(&proxied()), Arrival::Refused(Error::VersionSyntax));
    assert_eq!(connection.peer().to_string(), CLIENT);
}

#[test]
fn a_peer_that_is_not_trusted_is_refused_as_soon_as_it_begins_one() {
    for octets in [V1, &V1[..6], b"PROXY nonsense\r\n", V2, &V2[..12], LOCAL] {
        for peer in ["192.0.2.1:1", "127.0.0.1:1"] {
            let mut connection = behind(peer, script(&[octets]));
            assert_eq!(connection.receive(&proxied()), Arrival::Refused(Error::ForbiddenProxy));
            assert_eq!(connection.peer().to_string(), peer);
        }
    }
    let mut connection = behind("192.0.2.1:1", script(&[GET]));
    assert_eq!(connection.receive(&proxied()), Arrival::Complete, "without one it is any client");
}

#[test]
fn a_peer_on_a_unix_socket_is_trusted() {
    let mut connection = behind("", script(&[V1, GET]));
    assert_eq!(connection.wait_for_head(&proxied()), Arrival::Complete);
    assert_eq!(shown(&proxied(), &mut connection).0, CLIENT);
}

#[test]
fn what_is_malformed_is_refused() {
    let octets = [b"PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n", GET].concat();
    let mut connection = behind(PROXY, script(&[&octets]));
    assert_eq!(connection.receive(&proxied()), Arrival::Refused(Error::ProxyHeader));
    assert_eq!(connection.refuse(&Error::ProxyHeader).0, 400);
}

#[test]
fn without_the_setting_it_is_a_malformed_request() {
    for (octets, accepted, error) in [
        (V1, ProxyProtocol::Off, Error::VersionSyntax),
        (V2, ProxyProtocol::Off, Error::LeadingEmptyLines),
        (V1, ProxyProtocol::V2, Error::VersionSyntax),
        (V2, ProxyProtocol::V1, Error::LeadingEmptyLines),
    ] {
        let rules = Rules { proxy_protocol: accepted, ..proxied() };
        let mut connection = behind(PROXY, script(&[octets]));
        assert_eq!(connection.receive(&rules), Arrival::Refused(error));
    }
}

#[test]
fn a_slow_header_is_answered_408_and_a_lone_one_is_not() {
    let mut connection = behind(PROXY, script(&[&V1[..20]]));
    assert_eq!(connection.wait_for_head(&proxied()), Arrival::Refused(Error::Timeout));
    // Proxies open connections that they have no request for yet.
    for header in [V1, V2, LOCAL] {
        let mut connection = behind(PROXY, script(&[header]));
        assert_eq!(connection.wait_for_head(&proxied()), Arrival::Closed);
        let mut ends = script(&[header]);
        ends.arriving.push_back(Arriving::End);
        assert_eq!(behind(PROXY, ends).wait_for_head(&proxied()), Arrival::Closed);
    }
    let mut ends = script(&[&V1[..20]]);
    ends.arriving.push_back(Arriving::End);
    assert_eq!(behind(PROXY, ends).wait_for_head(&proxied()), Arrival::Refused(Error::Truncated));
}

#[test]
fn a_long_header_is_bounded_by_the_limit_on_heads() {
    let long = [&LOCAL[..14], &[0xff, 0xff]].concat();
    let mut rules = proxied();
    rules.limits.head = 1024;
    let mut connection = behind(PROXY, script(&[&long]));
    assert_eq!(connection.receive(&rules), Arrival::Refused(Error::HeadTooLarge));
}

fn forwarded() -> Rules {
    let pairs = [("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")];
    let forwarded = Forwarded {
        allow: AllowList::of("10.0.0.0/8"),
        secure_scheme_headers: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        forwarder_headers: vec!["REMOTE_USER".to_owned()],
    };
    Rules { forwarded, ..rules() }
}

fn request(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

/// The scheme that the application is shown of a request with these fields.
fn scheme(peer: &str, own: Scheme, fields: &str) -> Result<Scheme, Error> {
    let mut connection = over(own, peer, script(&[&request(fields)]));
    match connection.wait_for_head(&forwarded()) {
        Arrival::Complete => {}
        Arrival::Refused(error) => return Err(error),
        other => panic!("{other:?}"),
    }
    let shown = std::cell::Cell::new(own);
    one(&forwarded(), &mut connection, &|exchange| {
        shown.set(exchange.head().scheme);
        respond(exchange)
    });
    Ok(shown.get())
}

#[test]
fn a_trusted_peer_tells_the_scheme() {
    use Scheme::{Http, Https};
    let contradiction = Err(Error::SchemeHeaders);
    for (fields, http, https) in [
        ("", Ok(Http), Ok(Https)),
        ("X-Forwarded-Proto: https\r\n", Ok(Https), Ok(Https)),
        ("x-forwarded-proto: https\r\n", Ok(Https), Ok(Https)),
        ("X-Forwarded-Ssl: on\r\n", Ok(Https), Ok(Https)),
        ("X-Forwarded-Protocol: ssl\r\nX-Forwarded-Ssl: on\r\n", Ok(Https), Ok(Https)),
        ("X-Forwarded-Proto: http\r\n", Ok(Http), Ok(Http)),
        ("X-Forwarded-Proto: HTTPS\r\n", Ok(Http), Ok(Http)),
        ("X-Forwarded-Proto: https, http\r\n", Ok(Http), Ok(Http)),
        ("X-Forwarded-Proto:\r\nX-Forwarded-Ssl: off\r\n", Ok(Http), Ok(Http)),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n",
            contradiction.clone(),
            contradiction.clone(),
        ),
        (
            "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n",
            contradiction.clone(),
            contradiction.clone(),
        ),
    ] {
        for peer in ["10.1.2.3:4", "[::ffff:10.1.2.3]:4", ""] {
            assert_eq!(scheme(peer, Http, fields), http, "{peer} {fields}");
            assert_eq!(scheme(peer, Https, fields), https, "{peer} {fields}");
        }
        for own in [Http, Https] {
            assert_eq!(scheme("192.0.2.1:1", own, fields), Ok(own), "not believed: {fields}");
        }
    }
    assert_eq!(Error::SchemeHeaders.status(), 400);
}

#[test]
fn a_scheme_is_told_for_one_request() {
    let octets = [&request("X-Forwarded-Proto: https\r\n")[..], &request("")].concat();
    let mut connection = behind(PROXY, script(&[&octets]));
    for expected in [Scheme::Https, Scheme::Http] {
        assert_eq!(connection.wait_for_head(&forwarded()), Arrival::Complete);
        let ended = one(&forwarded(), &mut connection, &|exchange| {
            assert_eq!(exchange.head().scheme, expected);
            respond(exchange)
        });
        connection.next(&ended);
    }
}

#[test]
fn a_trusted_peer_sets_forwarder_headers() {
    let fields = "Remote_User: me\r\nX_Other: 1\r\nRemote-User: you\r\n";
    for (peer, map, expected) in [
        (PROXY, HeaderMap::Drop, Ok("Host Remote_User Remote-User")),
        ("192.0.2.1:1", HeaderMap::Drop, Ok("Host Remote-User")),
        (PROXY, HeaderMap::Dangerous, Ok("Host Remote_User X_Other Remote-User")),
        ("192.0.2.1:1", HeaderMap::Dangerous, Ok("Host Remote_User X_Other Remote-User")),
        (PROXY, HeaderMap::Refuse, Err(Error::UnderscoreName)),
        ("192.0.2.1:1", HeaderMap::Refuse, Err(Error::UnderscoreName)),
    ] {
        let mut rules = forwarded();
        rules.leniency.header_map = map;
        let mut connection = behind(peer, script(&[&request(fields)]));
        match (connection.wait_for_head(&rules), expected) {
            (Arrival::Refused(error), expected) => assert_eq!(Err(error), expected, "{peer} {map:?}"),
            (arrival, expected) => {
                assert_eq!(arrival, Arrival::Complete);
                let names = std::cell::RefCell::new(Vec::new());
                one(&rules, &mut connection, &|exchange| {
                    let fields = (0..).map_while(|index| exchange.field(index));
                    names
                        .borrow_mut()
                        .extend(fields.map(|field| String::from_utf8_lossy(field.name).into_owned()));
                    respond(exchange)
                });
                assert_eq!(Ok(names.into_inner().join(" ").as_str()), expected, "{peer} {map:?}");
            }
        }
    }
}

#[test]
fn a_named_client_changes_nothing_about_whom_to_believe() {
    let rules = Rules { proxy_protocol: ProxyProtocol::Auto, proxy_allow: AllowList::of("*"), ..forwarded() };
    let request = request("X-Forwarded-Proto: https\r\n");
    for (peer, header, expected) in [
        (PROXY, V1, Scheme::Https),
        ("192.0.2.1:1", &b"PROXY TCP4 10.0.0.9 10.0.0.1 1 2\r\n"[..], Scheme::Http),
    ] {
        let mut connection = behind(peer, script(&[header, &request]));
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        one(&rules, &mut connection, &|exchange| {
            assert_eq!(exchange.head().scheme, expected);
            respond(exchange)
        });
    }
}
