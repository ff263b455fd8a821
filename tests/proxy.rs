//! The PROXY protocol, from outside: who is believed, what the access log shows, what is refused.
//!
//! The grammar of the header is owned by `plugins/http1/src/proxy.rs`. What a newcomer would get wrong: the server sees
//! this test as 127.0.0.1, or as a peer without an address on a Unix socket, which every list of peers trusts.

use harness::{Address, Pace, Server, Site, programs, wait_for};

const GET: &[u8] = b"GET /seen HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n";
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x27\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xdc\x04\x01\xbb\x04\0\0";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn start<'s>(site: &'s Site, mode: &str, allowed: &str) -> Server<'s> {
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().with(|settings| {
        settings.list("bind", &["127.0.0.1:0", "unix:server.sock"]);
        settings.text("accesslog", "access.log").text("access_log_format", "%(h)s %(s)s %(U)s");
        settings.text("proxy_protocol", mode).text("proxy_allow_ips", allowed);
    });
    launch.start()
}

/// Sends octets in one piece and one at a time; the status, which must be the same.
#[track_caller]
fn status(address: &Address, pieces: &[&[u8]]) -> u16 {
    let octets = pieces.concat();
    let status = |pace| {
        let heard = address.converse(&octets, pace).expect("a connection");
        let text = heard.head();
        heard.response("GET").unwrap_or_else(|failure| panic!("{failure}: {text:?}")).status
    };
    let whole = status(Pace::Whole);
    assert_eq!(status(Pace::Pieces(1)), whole, "octet by octet");
    whole
}

/// The access log has these lines and no others, in this order.
#[track_caller]
fn expect_access(site: &Site, lines: &[String]) {
    wait_for("the access log", || site.read("access.log").lines().count() >= lines.len());
    assert_eq!(site.read("access.log").lines().collect::<Vec<_>>(), lines);
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let site = Site::new("proxy_trusted");
    let server = start(&site, "auto", "127.0.0.0/8");
    let mut lines = Vec::new();
    for address in server.addresses() {
        let own = if matches!(address, Address::Tcp(_)) { "127.0.0.1" } else { "-" };
        for (header, client) in
            [(V1, "192.0.2.7"), (V2, "2001:db8::1"), (LOCAL, own), (b"PROXY UNKNOWN\r\n", own), (b"", own)]
        {
            assert_eq!(status(address, &[header, GET]), 200, "{}", header.escape_ascii());
            lines.extend(vec![format!("{client} 200 /seen"); 2]);
        }
    }
    expect_access(&site, &lines);
    server.finish();
}

#[test]
fn any_other_peer_is_answered_403() {
    let site = Site::new("proxy_forbidden");
    let server = start(&site, "auto", "192.0.2.0/24,::1");
    let [tcp, unix] = server.addresses() else { panic!("two addresses") };
    for header in [V1, V2, LOCAL, b"PROXY nonsense\r\n"] {
        assert_eq!(status(tcp, &[header, GET]), 403, "{}", header.escape_ascii());
    }
    server.wait_log("Invalid request from ip=127.0.0.1");
    assert_eq!(status(tcp, &[GET]), 200);
    assert_eq!(status(unix, &[V1, GET]), 200);
    server.finish();
}

#[test]
fn what_is_malformed_is_answered_400() {
    let site = Site::new("proxy_malformed");
    let server = start(&site, "auto", "*");
    for address in server.addresses() {
        for header in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n",
            b"PROXY TCP4 ::1 ::1 56324 443\r\n",
            &[b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat(),
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b",
            // A second header is a request.
            &[V1, V1].concat(),
            &[V2, V1].concat(),
            &[V1, V2].concat(),
        ] {
            assert_eq!(status(address, &[header, GET]), 400, "{}", header.escape_ascii());
        }
    }
    server.finish();
}

#[test]
fn each_mode_takes_its_own_version() {
    for (mode, text, binary) in [("off", 400, 400), ("v1", 200, 400), ("v2", 400, 200)] {
        let site = Site::new("proxy_mode");
        let server = start(&site, mode, "*");
        for address in server.addresses() {
            assert_eq!(status(address, &[V1, GET]), text, "{mode}");
            assert_eq!(status(address, &[V2, GET]), binary, "{mode}");
            assert_eq!(status(address, &[GET]), 200, "{mode}");
        }
        server.finish();
    }
}

#[test]
fn a_header_counts_against_the_time_for_a_head() {
    let site = Site::new("proxy_slow");
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().with(|settings| {
        settings.text("proxy_protocol", "auto").raw("head_timeout", "0.3");
    });
    let server = launch.start();
    for begun in [&V1[..20], &V2[..20], &[V1, &GET[..20]].concat()] {
        let heard = server.address().converse(begun, Pace::Whole).expect("a connection");
        assert_eq!(heard.response("GET").expect("an answer").status, 408);
    }
    let heard = server.address().converse(V1, Pace::Whole).expect("a connection");
    assert_eq!((heard.octets, heard.end), (Vec::new(), Ok(())), "a header alone is an idle connection");
    server.finish();
}

#[test]
fn bad_values_end_the_start() {
    for (words, sentence) in [
        (["--forwarded-allow-ips", "proxy.example"], "'proxy.example' is no address"),
        (["--proxy-allow-from", "10.0.0.1/8"], "write 10.0.0.0/8 for the network"),
        (["--proxy-protocol", "v3"], "must be one of off, v1, v2, auto, not 'v3'"),
        (["--header-map", "keep"], "must be one of drop, refuse, dangerous, not 'keep'"),
        (["--forwarder-headers", "A:B"], "'A:B' is no name of a header field"),
        (["--secure-scheme-header", "X-SSL"], "must be NAME=VALUE, not 'X-SSL'"),
    ] {
        let site = Site::new("proxy_settings");
        site.install(programs().inspect(1), "app.so");
        let ended = site.launch().args(&words).start_in_vain();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
    }
}

#[test]
fn a_proxy_is_believed_by_its_address() {
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let contradiction = request("X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n");
    let named = request("Script_Name: /x\r\nOther_Name: /y\r\n");
    for (allowed, believes_tcp) in [("127.0.0.0/8", true), ("192.0.2.1", false)] {
        let site = Site::new("proxy_forwarded");
        site.install(programs().inspect(1), "app.so");
        let launch = site.launch().with(|settings| {
            settings.list("bind", &["127.0.0.1:0", "unix:server.sock"]).text("forwarded_allow_ips", allowed);
        });
        let server = launch.start();
        for address in server.addresses() {
            let believed = believes_tcp || matches!(address, Address::Unix(_));
            let expected = if believed { 400 } else { 200 };
            assert_eq!(status(address, &[contradiction.as_bytes()]), expected, "{address:?}");
            let heard = address.converse(named.as_bytes(), Pace::Whole).expect("a connection");
            let shown = heard.response("GET").expect("an answer").text().to_lowercase();
            assert_eq!(shown.contains("script_name"), believed, "{address:?}: {shown}");
            assert!(!shown.contains("other_name"), "{shown}");
        }
        server.finish();
    }
}
