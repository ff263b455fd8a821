//! The contract of `inspect`, route by route, as its README tells it: what a worker class makes of an application that
//! does everything an application may do, and some things it may not.
//!
//! Everything holds under each class, over TCP and over a Unix socket, in one piece, octet by octet and cut anywhere,
//! with connections that are kept and with such that are not. What a newcomer would get wrong: the connection's end
//! belongs to the answer, and a reset after a good answer is a failure; on a connection that is kept a second request
//! is the proof that the first answer has ended where it said.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::compiler::Compiler;
use harness::{
    Address, Class, Connection, Failure, Heard, Pace, Response, Server, Signal, Site, process, programs,
    sha256, under_all_classes_at_a_time, under_each_class, wait_for,
};

const PACES: [Pace; 3] = [Pace::Whole, Pace::Pieces(1), Pace::Pieces(7)];

/// Which of the applications with this contract is tested: that in Rust, or see `inspect_c.rs` and `inspect_axum.rs`.
const TESTED: &[u8] = env!("CARGO_CRATE_NAME").as_bytes();
/// The one in C, which fails where another panics.
const IN_C: bool = matches!(TESTED, b"inspect_c");
const BY_AXUM: bool = matches!(TESTED, b"inspect_axum");

fn application() -> PathBuf {
    match TESTED {
        b"inspect_c" => programs().inspect_c(1),
        b"inspect_axum" => programs().inspect_axum(),
        _ => programs().inspect(1),
    }
}

/// Whether there is none, and this test is left out by its name.
fn is_skipped() -> bool {
    IN_C && Compiler::c(std::thread::current().name().unwrap_or_default()).is_none()
}

/// Whether to leave out what the server does alone: it was seen with the other application, and costs time.
fn not_about_the_application() -> bool {
    BY_AXUM
}

/// A class, and whether connections are kept.
#[derive(Debug, Clone, Copy)]
struct Way {
    class: Class,
    kept: bool,
}

/// Tries something under each class, each connection for one request.
#[track_caller]
fn under_each(test: impl Fn(Way)) {
    if !is_skipped() {
        under_each_class(|class| test(Way { class, kept: false }));
    }
}

/// The same under all of them at a time, for what waits.
#[track_caller]
fn under_all_at_a_time(test: impl Fn(Way) + Sync) {
    if !is_skipped() {
        under_all_classes_at_a_time(|class| test(Way { class, kept: false }));
    }
}

/// Tries something under each class with connections for one request, and where that is possible with such that are
/// kept.
#[track_caller]
fn in_each_way(test: impl Fn(Way)) {
    if is_skipped() {
        return;
    }
    under_each_class(|class| {
        for kept in [false, true] {
            if class.keeps_alive || !kept {
                eprintln!("connections are {}kept", if kept { "" } else { "not " });
                test(Way { class, kept });
            }
        }
    });
}

/// A server with `inspect` that listens on a port and on a Unix socket.
fn launch<'s>(site: &'s Site, way: Way, workers: usize, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(application(), "app.so");
    let launch = site.launch().class(way.class).workers(workers).everywhere();
    launch.settings(&[("keepalive", if way.kept { "30" } else { "0" })]).settings(settings).start()
}

/// What is heard in answer to these octets, over this address; the connection must end well.
#[track_caller]
fn heard(address: &Address, octets: impl AsRef<[u8]>, pace: Pace) -> Heard {
    let octets = octets.as_ref();
    address.converse(octets, pace).unwrap_or_else(|failure| panic!("{}: {failure}", octets.escape_ascii()))
}

/// The whole answer to these octets, over this address, and the proof that it was whole: the connection's end, or the
/// answer to another request.
#[track_caller]
fn ask(way: Way, address: &Address, octets: impl AsRef<[u8]>, pace: Pace) -> Response {
    let octets = octets.as_ref();
    let shown =
        || format!("{} over {address:?} {pace:?} {way:?}", octets[..octets.len().min(400)].escape_ascii());
    let mut connection = Connection::open(address).expect("it listens");
    // Who is refused may be so before everything was sent.
    let _ = connection.send_at(octets, pace);
    let response =
        if octets.starts_with(b"HEAD ") { connection.read_head() } else { connection.read_response() };
    let response = response.unwrap_or_else(|failure| panic!("{}: {failure}", shown()));
    assert!(response.field("date").is_some() && response.field("server").is_some(), "{response:?}");
    let must_close = !way.kept || {
        // CONNECT asks for a tunnel, and there is none; HTTP/1.0 keeps only what it is asked to keep.
        let has = |text: &[u8]| octets.windows(text.len()).any(|found| found == text);
        let last = octets.starts_with(b"CONNECT ") || has(b" HTTP/1.0\r\n") && !has(b"keep-alive");
        last || matches!(response.status, 400 | 408 | 413 | 414 | 431 | 500 | 501)
    };
    // What the crate `http` cannot hold is refused in the application, and then the connection may go on.
    let by_axum = BY_AXUM && response.status == 500;
    assert!(response.closes() == must_close || by_axum, "{}: {response:?}", shown());
    let end = if response.closes() { Ok(()) } else { another(&mut connection) };
    end.and_then(|()| connection.read_end())
        .unwrap_or_else(|failure| panic!("{}: after the answer: {failure}", shown()));
    response
}

/// One more request on the same connection, the last, is answered as if nothing had been before.
fn another(connection: &mut Connection) -> Result<(), Failure> {
    connection.send(b"GET /version HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let answer = connection.read_response()?;
    match (answer.status, answer.text().as_str(), answer.closes()) {
        (200, "INSPECT-VERSION:1", true) => Ok(()),
        _ => Err(Failure::Garbled(format!("another request was answered with {answer:?}"))),
    }
}

/// What is said when the application is asked to panic.
fn expect_panics(server: &mut Server<'_>) {
    server.expect_error("inspect: asked to panic");
    server.expect_error(if IN_C { "the application failed" } else { "the application panicked" });
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn json(response: &Response) -> serde_json::Value {
    assert_eq!(
        (response.status, response.field("content-type")),
        (200, Some("application/json")),
        "{response:?}"
    );
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

// Routes.

/// Routes whose answer is known, as (target, status, body).
fn plain_routes() -> Vec<(&'static str, u16, Vec<u8>)> {
    let large = |count: usize| -> Vec<u8> { (b'a'..=b'z').cycle().take(count).collect() };
    vec![
        ("/noread", 200, b"ok".to_vec()),
        ("/noread?x", 200, b"ok".to_vec()),
        ("/stream", 200, vec![b's'; 15]),
        ("/stream?n=1000&size=7", 200, vec![b's'; 7000]),
        ("/stream?n=5&size=0", 200, vec![]),
        ("/stream?n=0", 200, vec![]),
        ("/stream?size=2&n=2", 200, vec![b's'; 4]),
        ("/stream?n=x&size=-1", 200, vec![b's'; 15]),
        ("/sleep?ms=1", 200, b"slept".to_vec()),
        ("/busy?ms=1", 200, b"busy".to_vec()),
        ("/version", 200, b"INSPECT-VERSION:1".to_vec()),
        ("/large", 200, large(1_048_576)),
        ("/large?bytes=0", 200, vec![]),
        ("/large?bytes=1", 200, b"a".to_vec()),
        ("/large?bytes=70001", 200, large(70001)),
        ("/env?name=NO_SUCH_VARIABLE", 200, vec![]),
        ("/status/200", 200, b"x".to_vec()),
        ("/status/404", 404, b"x".to_vec()),
        ("/status/418", 418, b"x".to_vec()),
        ("/status/599", 599, b"x".to_vec()),
        ("/header?name=X-A&value=b%20c", 200, b"ok".to_vec()),
    ]
}

fn every_route(way: Way, workers: usize) {
    let site = Site::new("routes");
    let server = launch(&site, way, workers, &[]);
    for address in server.addresses() {
        for pace in PACES {
            for (target, status, body) in plain_routes() {
                let answer = ask(way, address, get(target), pace);
                assert_eq!(
                    (answer.status, answer.field("content-type")),
                    (status, Some("text/plain")),
                    "{target}"
                );
                assert_eq!(answer.body, body, "{target}");
                let streams = target.starts_with("/stream");
                assert_eq!(
                    answer.field("content-length").is_none(),
                    streams,
                    "{target}: {:?}",
                    answer.fields
                );
                assert_eq!(
                    answer.field("transfer-encoding").is_some(),
                    streams,
                    "{target}: {:?}",
                    answer.fields
                );
            }
            for target in
                ["/", "/noread/", "//noread", "/%6eoread", "/NOREAD", "/status", "/no/such/route?a=b&c"]
            {
                let shown = json(&ask(way, address, get(target), pace));
                assert_eq!((shown["target"].as_str(), shown["method"].as_str()), (Some(target), Some("GET")));
            }
            let pid: i32 = ask(way, address, get("/pid"), pace).text().parse().expect("a pid");
            assert!(server.workers().contains(&pid));
        }
    }
    server.finish();
}

#[test]
fn every_route_of_one_worker() {
    in_each_way(|way| every_route(way, 1));
}

#[test]
fn every_route_of_four_workers() {
    if not_about_the_application() {
        return;
    }
    in_each_way(|way| every_route(way, 4));
}

#[test]
fn statuses_without_a_body_and_no_statuses_at_all() {
    in_each_way(|way| {
        let site = Site::new("statuses");
        let mut server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            let answer = ask(way, address, get("/status/204"), Pace::Whole);
            assert_eq!((answer.status, answer.field("content-length")), (204, None));
            let answer = ask(way, address, get("/status/304"), Pace::Whole);
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{answer:?}");
            for wrong in ["100", "101", "103", "199", "000", "099", "99", "1000", "0200", "20", "abc", ""] {
                let target = format!("/status/{wrong}");
                assert_eq!(ask(way, address, get(&target), Pace::Whole).status, 500, "{target}");
            }
        }
        server.expect_error("Error handling request GET /status/");
        server.expect_error("status");
        server.finish();
    });
}

#[test]
fn head_is_get_without_its_body() {
    under_each(|way| {
        let site = Site::new("head");
        let mut server = launch(&site, way, 1, &[]);
        // Of a body that is not sent no framing need be told (RFC 9110 section 9.3.2).
        let left_out = |line: &&str| line.starts_with("Date:") || line.starts_with("Transfer-Encoding:");
        let compared = |heard: &Heard| -> Vec<String> {
            heard.head().lines().filter(|line| !left_out(line)).map(str::to_owned).collect()
        };
        for address in server.addresses() {
            for target in plain_routes().iter().map(|(target, ..)| *target).chain([
                "/panic",
                "/status/204",
                "/status/304",
            ]) {
                let whole = heard(address, get(target), Pace::Whole);
                let head = heard(address, get(target).replacen("GET", "HEAD", 1), Pace::Whole);
                assert!(head.rest().is_empty() && head.end.is_ok(), "{target}: {head:?}");
                assert_eq!(compared(&head), compared(&whole), "{target}");
            }
            // The object has its method in it, which is one octet longer.
            let length = |octets: String| {
                ask(way, address, octets, Pace::Whole).field("content-length").map(str::to_owned)
            };
            let (head, whole) = (length(get("/").replacen("GET", "HEAD", 1)), length(get("/")));
            let number =
                |length: Option<String>| length.expect("a length").parse::<usize>().expect("a number");
            assert_eq!(number(head), number(whole) + 1);
        }
        expect_panics(&mut server);
        server.finish();
    });
}

#[test]
fn http_1_0_gets_no_chunks() {
    in_each_way(|way| {
        let site = Site::new("http10");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for pace in PACES {
                let stream = ask(way, address, "GET /stream?n=4&size=3 HTTP/1.0\r\n\r\n", pace);
                assert_eq!(stream.body, vec![b's'; 12]);
                assert_eq!((stream.field("transfer-encoding"), stream.field("content-length")), (None, None));
                let shown =
                    json(&ask(way, address, "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", pace));
                assert_eq!(shown["version"], "HTTP/1.0");
                assert_eq!(
                    ask(way, address, "GET /noread HTTP/1.0\r\n\r\n", pace).field("content-length"),
                    Some("2")
                );
            }
        }
        server.finish();
    });
}

#[test]
fn every_form_of_target() {
    in_each_way(|way| {
        let site = Site::new("targets");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for pace in PACES {
                let absolute = "GET http://other.example/noread?a HTTP/1.1\r\nHost: other.example\r\n\r\n";
                assert_eq!(ask(way, address, absolute, pace).text(), "ok");
                for (method, target) in [
                    ("OPTIONS", "*"),
                    ("GET", "http://other.example"),
                    ("GET", "http://other.example?a=/noread"),
                    ("POST", "http://other.example/p?q=1"),
                ] {
                    let request = format!("{method} {target} HTTP/1.1\r\nHost: other.example\r\n\r\n");
                    let shown = json(&ask(way, address, request, pace));
                    assert_eq!(
                        (shown["target"].as_str(), shown["method"].as_str()),
                        (Some(target), Some(method))
                    );
                }
                let connect = "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n";
                let shown = json(&ask(way, address, connect, pace));
                assert_eq!(shown["target"], "other.example:443");
            }
        }
        server.finish();
    });
}

// Bodies.

#[test]
fn bodies_arrive_whole() {
    in_each_way(|way| {
        let site = Site::new("bodies");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for pace in PACES {
                let plain = "POST /p?q=1 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: \t 2\t\r\nContent-Length: 5\r\n\r\nhello";
                let shown = json(&ask(way, address, plain, pace));
                assert_eq!(
                    (shown["body_len"].as_u64(), shown["body_sha256"].as_str()),
                    (Some(5), Some(&*sha256(b"hello")))
                );
                assert_eq!(shown["target"], "/p?q=1");
                let headers = shown["headers"].to_string().to_lowercase();
                assert_eq!(headers, r#"[["host","a"],["x-a","1"],["x-a","2"],["content-length","5"]]"#);
                assert!(shown.get("trailers").is_none(), "{shown}");

                let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
                               4;a=\"b\"\r\nhell\r\n1\r\no\r\n0\r\nX-T: one\r\nX-T:two \r\n\r\n";
                let shown = json(&ask(way, address, chunked, pace));
                assert_eq!(
                    (shown["body_len"].as_u64(), shown["body_sha256"].as_str()),
                    (Some(5), Some(&*sha256(b"hello")))
                );
                assert_eq!(shown["trailers"].to_string().to_lowercase(), r#"[["x-t","one"],["x-t","two"]]"#);
            }
            let body: Vec<u8> = (0..3_000_000_u32).map(|number| (number * 7 % 251) as u8).collect();
            let mut request =
                format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
            request.extend_from_slice(&body);
            let shown = json(&ask(way, address, &request, Pace::Pieces(40_000)));
            assert_eq!(shown["body_sha256"], sha256(&body));

            let mut request = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in body.chunks(9973) {
                request.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                request.extend_from_slice(piece);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
            let shown = json(&ask(way, address, &request, Pace::Pieces(30_011)));
            assert_eq!(shown["body_sha256"], sha256(&body));
        }
        server.finish();
    });
}

/// In two pieces, the second of which is sent when the first was taken from the socket, for every place to cut at.
#[test]
fn a_request_may_be_cut_anywhere() {
    let requests = [
        "GET /p?q=1 HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
        "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b\r\nhell\r\n1\r\no\r\n0\r\nX-T: one\r\n\r\n",
        "GET /noread HTTP/1.0\r\n\r\n",
    ];
    in_each_way(|way| {
        let site = Site::new("cut");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for request in requests {
                let whole = ask(way, address, request, Pace::Whole);
                for cut in 1..request.len() {
                    let mut connection = Connection::open(address).expect("it listens");
                    let (first, second) = request.split_at(cut);
                    connection.send(first.as_bytes()).expect("it reads");
                    connection.wait_until_taken();
                    connection.send(second.as_bytes()).expect("it reads");
                    let answer = connection
                        .read_response()
                        .unwrap_or_else(|failure| panic!("{request:?} cut at {cut}: {failure}"));
                    assert_eq!(
                        (answer.status, &answer.body),
                        (whole.status, &whole.body),
                        "{request:?} cut at {cut}"
                    );
                    let end = if answer.closes() { Ok(()) } else { another(&mut connection) };
                    end.and_then(|()| connection.read_end())
                        .unwrap_or_else(|failure| panic!("{request:?} cut at {cut}: {failure}"));
                }
            }
        }
        server.finish();
    });
}

#[test]
fn a_continue_is_sent_when_the_body_is_read() {
    under_each(|way| {
        let site = Site::new("continue");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            let mut connection = Connection::open(address).expect("it listens");
            let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
            connection.send(head.as_bytes()).expect("it reads");
            assert_eq!(connection.read_head().expect("an interim answer").status, 100);
            connection.send(b"hello").expect("it reads");
            assert_eq!(json(&connection.read_response().expect("an answer"))["body_len"], 5);
            connection.read_end().expect("its end");

            let mut connection = Connection::open(address).expect("it listens");
            connection.send(head.replace("POST /", "POST /noread").as_bytes()).expect("it reads");
            assert_eq!(
                connection.read_head().expect("the final answer").status,
                200,
                "nobody wants the body"
            );
        }
        server.finish();
    });
}

#[test]
fn a_body_that_cannot_be_read_is_refused() {
    in_each_way(|way| {
        let site = Site::new("bad_bodies");
        let server = launch(&site, way, 1, &[("limit_request_body", "1000")]);
        let chunked =
            |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let length = |count: usize| {
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {count}\r\n\r\n{}", "b".repeat(count))
        };
        let many = "64\r\n".to_owned() + &"b".repeat(100) + "\r\n";
        for address in server.addresses() {
            for pace in PACES {
                for (request, status) in [
                    (chunked("x\r\n"), 400),
                    (chunked("5\r\nhelloo\r\n0\r\n\r\n"), 400),
                    (chunked("2\r\nhe\r\n-1\r\n"), 400),
                    (chunked("3e8\r\n") + &"b".repeat(1000) + "\r\n0\r\n\r\n", 200),
                    (chunked("3e9\r\n") + &"b".repeat(1001) + "\r\n0\r\n\r\n", 413),
                    (chunked(&many.repeat(11)) + "0\r\n\r\n", 413),
                    (length(1000), 200),
                    (length(1001), 413),
                    (length(100_000).replacen("POST /", "POST /pid", 1), 413),
                ] {
                    let short = &request[..request.len().min(150)];
                    assert_eq!(ask(way, address, &request, pace).status, status, "{short:?} {pace:?}");
                }
            }
            // The client ends in the middle: it still hears why.
            for request in [chunked("5\r\nhel"), length(10)[..length(10).len() - 1].to_owned()] {
                let mut connection = Connection::open(address).expect("it listens");
                connection.send(request.as_bytes()).expect("it reads");
                let _ = connection.end_sending();
                assert_eq!(connection.hear().response("POST").expect("an answer").status, 400, "{request}");
            }
        }
        server.finish();
    });
}

// What an application offers and a server must not send.

#[test]
fn a_hostile_field_never_leaves() {
    under_each(|way| {
        let site = Site::new("hostile");
        let mut server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for value in [
                "evil%0D%0AX-Evil:%20evil",
                "evil%0AX-Evil:%20evil",
                "evil%0Devil",
                "%0D%0A%0D%0Aevil",
                "evil%00",
                "evil%0D%0A",
                "%0Aevil",
            ] {
                for name in
                    ["X-A", "Content-Type", "Set-Cookie", "Content-Length", "Transfer-Encoding", "Connection"]
                {
                    refused(address, name, value);
                }
            }
            for name in
                ["", "X%20A", "X%3AA", "X%0D%0AA", "X-A%00", "X-%C3%A9", "%28", "X-A%3A%20evil%0D%0AX"]
            {
                refused(address, name, "evil");
            }
            for (name, value) in [("X-Latin", "%e9vil"), ("X-Tab", "e%09vil"), ("x-empty", "")] {
                let heard = heard(address, get(&format!("/header?name={name}&value={value}")), Pace::Whole);
                assert!(
                    heard.head().starts_with("HTTP/1.1 200 ") && heard.rest() == b"ok",
                    "{name}: {heard:?}"
                );
                // The crate `http` has all names in small letters.
                let (head, name) = (heard.head().to_lowercase(), name.to_lowercase());
                assert!(head.contains(&format!("\r\n{name}:")), "{heard:?}");
            }
            for (name, value) in [
                ("Content-Length", "2"),
                ("Content-Length", "5"),
                ("content-length", "0"),
                ("Content-Length", "evil"),
                ("Content-Length", "2,%202"),
                ("Content-Length", "%2b2"),
                ("Transfer-Encoding", "chunked"),
                ("Transfer-Encoding", "gzip"),
                ("transfer-encoding", "identity"),
                ("Connection", "keep-alive"),
                ("Connection", "Content-Length"),
                ("Connection", "upgrade"),
                ("Date", "Thu,%2001%20Jan%201970%2000:00:00%20GMT"),
                ("Server", "mine"),
                ("Keep-Alive", "timeout=5"),
                ("Upgrade", "websocket"),
                ("Trailer", "X-A"),
            ] {
                let heard = heard(address, get(&format!("/header?name={name}&value={value}")), Pace::Whole);
                let head = heard.head().to_lowercase();
                for single in ["content-length", "transfer-encoding", "connection", "date", "server"] {
                    let count = head.matches(&format!("\r\n{single}:")).count();
                    assert!(count <= 1, "{count} times {single} by {name}: {value}: {head}");
                }
                assert!(
                    !head.contains("evil") && head.contains("\r\nconnection: close\r\n"),
                    "{name}: {value}: {head}"
                );
                let said = heard.octets.clone();
                // The strict client checks that the framing is one, and is true.
                let answer = heard
                    .response("GET")
                    .unwrap_or_else(|failure| panic!("{name}: {value}: {failure}: {}", said.escape_ascii()));
                match answer.status {
                    200 => assert_eq!(answer.text(), "ok", "{name}: {value}"),
                    500 => assert_ne!(answer.text(), "ok", "{name}: {value}"),
                    other => panic!("{name}: {value}: {other}"),
                }
            }
        }
        server.expect_error("/header?");
        server.expect_error("header");
        server.expect_error("field");
        server.expect_error("Content-Length");
        server.expect_error("Transfer-Encoding");
        server.finish();
    });
}

#[track_caller]
fn refused(address: &Address, name: &str, value: &str) {
    let target = format!("/header?name={name}&value={value}");
    let heard = heard(address, get(&target), Pace::Whole);
    let head = heard.head().to_lowercase();
    assert!(!head.contains("evil"), "{target}: {head}");
    assert_eq!(
        head.matches("content-length:").count() + head.matches("transfer-encoding:").count(),
        1,
        "{head}"
    );
    assert_eq!(heard.response("GET").expect("a well-formed answer").status, 500, "{target}");
}

#[test]
fn what_was_declared_is_never_exceeded_nor_made_up() {
    under_each(|way| {
        let site = Site::new("wrong_length");
        let server = launch(&site, way, 1, &[]);
        for address in server.addresses() {
            for (declared, sent) in
                [(10, 5), (5, 10), (0, 5), (5, 0), (100_000, 99_999), (70_000, 200_000), (10, 10)]
            {
                let heard = heard(
                    address,
                    get(&format!("/wrong-length?declared={declared}&sent={sent}")),
                    Pace::Whole,
                );
                assert!(
                    heard.head().contains(&format!("Content-Length: {declared}\r\n")),
                    "{}",
                    heard.head()
                );
                assert!(
                    heard.rest().len() == sent.min(declared),
                    "{declared}, {sent}: {}",
                    heard.rest().len()
                );
                assert!(heard.rest().iter().all(|octet| *octet == b'w'));
                assert_eq!(heard.end, Ok(()), "{declared}, {sent}");
            }
            let stopped = address.get("/wrong-length");
            assert!(matches!(stopped, Err(Failure::Truncated(_))), "the default is short: {stopped:?}");
        }
        server.finish();
    });
}

#[test]
fn a_panic_before_or_within_an_answer() {
    under_each(|way| {
        let site = Site::new("panics");
        let mut server = launch(&site, way, 1, &[]);
        let worker = server.workers();
        for address in server.addresses() {
            let answer = ask(way, address, get("/panic"), Pace::Whole);
            assert_eq!(answer.status, 500);
            assert!(
                !answer.text().contains("asked to panic"),
                "nothing inside is told to a client: {}",
                answer.text()
            );
            for chunks in [1, 2, 50] {
                let heard = heard(address, get(&format!("/panic-mid?n={chunks}")), Pace::Whole);
                assert!(heard.head().starts_with("HTTP/1.1 200 "), "{}", heard.head());
                assert_eq!(heard.rest(), "5\r\nsssss\r\n".repeat(chunks).as_bytes(), "no final chunk");
                assert!(matches!(heard.response("GET"), Err(Failure::Truncated(_) | Failure::Reset)));
            }
            let old = heard(address, "GET /panic-mid HTTP/1.0\r\n\r\n", Pace::Whole);
            assert!(old.rest().len() <= 10, "{old:?}");
        }
        assert_eq!(server.workers(), worker, "a panic is no death");
        if !IN_C {
            server.wait_log(if BY_AXUM {
                "examples/inspect-axum/src/lib.rs"
            } else {
                "examples/inspect/src/lib.rs"
            });
        }
        expect_panics(&mut server);
        server.finish();
    });
}

#[test]
fn a_death_takes_one_connection_with_it() {
    under_each(|way| {
        for (target, sign) in [
            ("/abort", Some("SIGABRT")),
            ("/segv", Some("SIGSEGV")),
            ("/exit", None),
            ("/exit?code=3", Some("code 3")),
        ] {
            let site = Site::new("deaths");
            let mut server = launch(&site, way, 2, &[]);
            for address in server.addresses().to_vec() {
                let before = server.workers();
                let answer = address.get(target);
                assert!(
                    matches!(answer, Err(Failure::Truncated(_) | Failure::Reset)),
                    "{target}: {answer:?}"
                );
                wait_for("a new worker", || {
                    let now = server.workers();
                    now.len() == 2 && now.iter().filter(|pid| before.contains(pid)).count() == 1
                });
                assert_eq!(ask(way, &address, get("/version"), Pace::Whole).text(), "INSPECT-VERSION:1");
            }
            if let Some(sign) = sign {
                server.wait_log(sign);
                server.expect_error(sign);
            }
            if sign == Some("SIGSEGV") {
                let line = server.wait_log("SIGSEGV");
                assert!(line.contains("app.so"), "the library is named: {line}");
            }
            server.finish();
        }
    });
}

#[test]
fn the_environment_is_the_operators() {
    if is_skipped() {
        return;
    }
    let site = Site::new("env");
    site.install(application(), "app.so");
    let server =
        site.launch().args(&["-e", "FROM_FLAG=a b=c", "--env", "SECOND=2"]).env("INHERITED", "yes").start();
    for (name, value) in [("FROM_FLAG", "a b=c"), ("SECOND", "2"), ("INHERITED", "yes"), ("NEITHER", "")] {
        assert_eq!(server.text(&format!("/env?name={name}")), value);
    }
    server.finish();
    let server = site.launch().with(|settings| _ = settings.list("raw_env", &["FROM_FILE=x"])).start();
    assert_eq!(server.text("/env?name=FROM_FILE"), "x");
    assert_eq!(server.text("/env?name=%46ROM_FILE"), "x");
    server.finish();
}

#[test]
fn a_worker_class_by_name_and_by_path_is_the_same() {
    if is_skipped() || not_about_the_application() {
        return;
    }
    under_each_class(|class| {
        let path = programs().class(class).display().to_string();
        let said = [class.name, &path, "./mine.so"].map(|chosen| what_is_said(class, chosen));
        assert_eq!(said[0], said[1]);
        assert_eq!(said[0], said[2]);
    });
}

/// All that is said in answer to many requests, but for the time, when the class is chosen like this.
fn what_is_said(class: Class, chosen: &str) -> Vec<String> {
    let site = Site::new("same_bytes");
    site.install(programs().class(class), "mine.so");
    site.install(application(), "app.so");
    let server = site.launch().settings(&[("keepalive", "0")]).args(&["-k", chosen]).start();
    let routes = plain_routes();
    let targets = routes.iter().map(|(target, ..)| *target).chain(["/", "/status/204", "/wrong-length"]);
    let said = targets.map(|target| {
        let heard = heard(server.address(), get(target), Pace::Whole);
        let head: String = heard
            .head()
            .lines()
            .filter(|line| !line.starts_with("Date:"))
            .map(|line| format!("{line}\n"))
            .collect();
        format!("{target}\n{head}{}", sha256(heard.rest()))
    });
    let said = said.collect();
    server.finish();
    said
}

// Slow clients.

/// What every slow client is given: more than the two seconds for which a worker may be silent. With a `timeout` of one, a sign
/// of life would be due each half second, for which a machine that is busy with other tests may well keep a worker waiting.
const PATIENCE: Duration = Duration::from_secs(3);
/// What may be on top: a busy machine.
const SLACK: Duration = Duration::from_secs(6);

fn impatient(site: &Site, way: Way) -> Server<'_> {
    let times = [("timeout", "2"), ("head_timeout", "3"), ("body_timeout", "3"), ("write_timeout", "3")];
    launch(site, way, 1, &times)
}

/// The worker is the same, was never suspected, and serves.
#[track_caller]
fn unharmed(server: Server<'_>, worker: &[i32]) {
    assert_eq!(server.workers(), worker);
    assert_eq!(server.messages("WORKER TIMEOUT"), Vec::<String>::new());
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

/// Sends one octet now and then until the other side is heard to the end; how long that took, and what was heard.
fn drip(address: &Address, first: &[u8], drop: &[u8]) -> (Heard, Duration) {
    let mut connection = Connection::open(address).expect("it listens");
    connection.send(first).expect("it reads");
    let begin = Instant::now();
    let mut hand = connection.duplicate();
    let drop = drop.to_vec();
    let dripping = std::thread::spawn(move || {
        // What is tested is a client that does this, so this sleeps.
        while begin.elapsed() < PATIENCE + SLACK && hand.send(&drop).is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let heard = connection.hear();
    let time = begin.elapsed();
    dripping.join().expect("no panic");
    (heard, time)
}

#[track_caller]
fn in_time(time: Duration) {
    assert!(time >= PATIENCE - Duration::from_millis(200) && time < PATIENCE + SLACK, "{time:?}");
}

#[test]
fn a_head_that_does_not_end_is_answered_with_408() {
    if not_about_the_application() {
        return;
    }
    under_all_at_a_time(|way| {
        let site = Site::waiting("slow_head");
        let server = impatient(&site, way);
        let worker = server.workers();
        for address in server.addresses() {
            let (heard, time) = drip(address, b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x");
            in_time(time);
            assert!(heard.head().starts_with("HTTP/1.1 408 "), "{}", heard.head());

            let begin = Instant::now();
            let mut connection = Connection::open(address).expect("it listens");
            connection.send(b"GET / HTTP/1.1\r\nHo").expect("it reads");
            let heard = connection.hear();
            in_time(begin.elapsed());
            assert_eq!(heard.response("GET").expect("an answer").status, 408);

            // Who never said a word is told none, or this one.
            let begin = Instant::now();
            let heard = Connection::open(address).expect("it listens").hear();
            in_time(begin.elapsed());
            assert!(heard.octets.is_empty() || heard.head().starts_with("HTTP/1.1 408 "), "{heard:?}");
        }
        unharmed(server, &worker);
    });
}

#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    under_all_at_a_time(|way| {
        let site = Site::waiting("slow_body");
        let server = impatient(&site, way);
        let worker = server.workers();
        for address in server.addresses() {
            for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
                let begin = Instant::now();
                let mut connection = Connection::open(address).expect("it listens");
                connection
                    .send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n5").as_bytes())
                    .expect("it reads");
                let heard = connection.hear();
                in_time(begin.elapsed());
                assert_eq!(heard.response("POST").expect("an answer").status, 408, "{head}");
            }
        }
        unharmed(server, &worker);
    });
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    under_all_at_a_time(|way| {
        let site = Site::waiting("slow_reader");
        let server = impatient(&site, way);
        let worker = server.workers();
        let size = 64 << 20;
        for address in server.addresses() {
            let idle = process::sockets(worker[0]).len();
            let begin = Instant::now();
            let mut deaf = Connection::open(address).expect("it listens");
            deaf.send_get(&format!("/large?bytes={size}")).expect("it reads");
            deaf.wait_for_octets(1).expect("the beginning of an answer");
            wait_for("the worker to give up", || process::sockets(worker[0]).len() == idle);
            in_time(begin.elapsed());
            assert_eq!(address.get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
            let heard = deaf.hear();
            assert!(heard.rest().len() < size, "all {size} octets came");
            let cut = heard.response("GET");
            assert!(
                matches!(cut, Err(Failure::Truncated(_) | Failure::Reset)),
                "{:?}",
                cut.map(|whole| whole.status)
            );
        }
        unharmed(server, &worker);
    });
}

#[test]
fn a_slow_reader_that_takes_something_gets_it_all() {
    under_each(|way| {
        let site = Site::new("slow_but_reading");
        let server = impatient(&site, way);
        let worker = server.workers();
        let size = 24 << 20;
        // Made beforehand: a reader that is slow over looking at what it has is one that takes nothing.
        let all: Vec<u8> = (0..(3 << 20) + 26).map(|at| b'a' + (at % 26) as u8).collect();
        for address in server.addresses() {
            let mut connection = Connection::open(address).expect("it listens");
            connection.send_get(&format!("/large?bytes={size}")).expect("it reads");
            let head = connection.read_head().expect("a head");
            assert_eq!(head.field("content-length"), Some(&*size.to_string()));
            let begin = Instant::now();
            let mut left = size;
            // Eight rests of less than the patience, and together of more than it.
            while left > 0 {
                let count = left.min(3 << 20);
                let piece = connection.octets(count).expect("more");
                let offset = size - left;
                assert!(piece == all[offset % 26..][..count], "from {offset} on");
                left -= count;
                std::thread::sleep(Duration::from_millis(400));
            }
            assert!(begin.elapsed() > PATIENCE);
            connection.read_end().expect("its end");
        }
        unharmed(server, &worker);
    });
}

// Closing.

/// What lies unread when a connection is closed resets it, and a reset takes the answer along.
#[test]
fn an_answer_survives_the_body_that_nobody_reads() {
    under_each(|way| {
        let site = Site::new("lingering");
        let server = launch(&site, way, 2, &[]);
        let body = "b".repeat(150_000);
        let request =
            format!("POST /noread HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let refused = format!("POST /noread HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for address in server.addresses() {
            for round in 0..300 {
                let pace = if round % 3 == 0 { Pace::Pieces(10_000) } else { Pace::Whole };
                assert_eq!(ask(way, address, &request, pace).text(), "ok", "round {round}");
                assert_eq!(ask(way, address, &refused, pace).status, 400, "round {round}");
            }
            // Far more than any server would wait for: the answer comes all the same.
            let huge = vec![b'b'; 8 << 20];
            let mut connection = Connection::open(address).expect("it listens");
            let head = format!("POST /noread HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", huge.len());
            connection.send(head.as_bytes()).expect("it reads");
            let mut hand = connection.duplicate();
            let sending = std::thread::spawn(move || _ = hand.send(&huge));
            assert_eq!(connection.read_response().expect("an answer").text(), "ok");
            sending.join().expect("no panic");
        }
        server.finish();
    });
}

#[test]
fn pipelined_requests_are_not_answered_but_do_no_harm() {
    under_each(|way| {
        let site = Site::new("pipelined");
        let server = launch(&site, way, 2, &[]);
        let many = get("/version").repeat(100);
        for address in server.addresses() {
            for _ in 0..50 {
                assert_eq!(ask(way, address, &many, Pace::Whole).text(), "INSPECT-VERSION:1");
            }
        }
        server.finish();
    });
}

#[test]
fn a_client_that_leaves_is_no_error() {
    under_each(|way| {
        let site = Site::new("leaving");
        let server = launch(&site, way, 1, &[]);
        let worker = server.workers();
        for address in server.addresses() {
            for part in [
                "",
                "GET",
                "GET / HTTP/1.1\r\nHost: a\r\n",
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
            ] {
                let mut connection = Connection::open(address).expect("it listens");
                connection.send(part.as_bytes()).expect("it reads");
            }
            let mut connection = Connection::open(address).expect("it listens");
            connection.send_get("/large?bytes=50000000").expect("it reads");
            connection.octets(1000).expect("a beginning");
            drop(connection);
        }
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        assert_eq!(server.workers(), worker);
        // Not a word above the level of a warning about any of it: `finish` looks.
        server.finish();
    });
}

#[test]
fn the_version_lies_in_the_library_once() {
    if is_skipped() || not_about_the_application() {
        return;
    }
    for version in [1, 2] {
        let file = if IN_C { programs().inspect_c(version) } else { programs().inspect(version) };
        let file = fs::read(file).expect("a plugin");
        let text = format!("INSPECT-VERSION:{version}");
        assert_eq!(file.windows(text.len()).filter(|octets| *octets == text.as_bytes()).count(), 1);
    }
}

#[test]
fn a_stop_waits_for_the_answer() {
    under_each(|way| {
        let site = Site::new("term_in_answer");
        let mut server = launch(&site, way, 1, &[]);
        let worker = server.workers()[0];
        let idle = process::sockets(worker).len();
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/sleep?ms=300").expect("it reads");
        wait_for("the worker to take the request", || process::sockets(worker).len() > idle);
        server.signal(Signal::SIGTERM);
        assert_eq!(connection.read_response().expect("an answer").text(), "slept");
        connection.read_end().expect("its end");
        let (status, _) = server.wait_end();
        assert_eq!(status.code(), Some(0));
    });
}
