//! Connections that are kept: several requests on one, pipelined or not, and what must end one.
//!
//! What a class does with a single request is in `inspect.rs`. Here every test looks at what comes *after*: the next
//! answer belongs to the next request, whatever the first one left unread, broke or panicked in. What a newcomer would
//! get wrong: a server may always close instead, so a test says when it must not; and octets that were meant as a body
//! look like a request on purpose.

use std::time::{Duration, Instant};

use harness::{
    Address, Class, Connection, Failure, Pace, Response, Server, Site, programs, under_each_class,
    under_each_that_keeps_alive, wait_for,
};

/// A server with `inspect`, on a port and on a Unix socket, that keeps connections for long.
fn launch<'s>(site: &'s Site, class: Class, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().class(class).workers(1).everywhere();
    launch.settings(&[("keepalive", "30")]).settings(settings).start()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(target: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

/// The last request on a connection, and what it must be answered with.
const LAST: &str = "GET /version HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const VERSION: &str = "INSPECT-VERSION:1";

#[track_caller]
fn open(address: &Address, octets: impl AsRef<[u8]>) -> Connection {
    let mut connection = Connection::open(address).expect("it listens");
    connection.send(octets.as_ref()).expect("it reads");
    connection
}

/// The next answer, which keeps the connection.
#[track_caller]
fn kept(connection: &mut Connection, what: &str) -> Response {
    let answer = connection.read_response().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert!(!answer.closes(), "{what}: {answer:?}");
    answer
}

/// The next answer, which says that it is the last, and is.
#[track_caller]
fn last(connection: &mut Connection, what: &str) -> Response {
    let answer = connection.read_response().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert!(answer.closes(), "{what}: {answer:?}");
    connection.read_end().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    answer
}

/// The connection is as good as new: one more request is answered, and it is the last.
#[track_caller]
fn one_more(connection: &mut Connection, what: &str) {
    connection.send(LAST.as_bytes()).unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert_eq!(last(connection, what).text(), VERSION, "{what}");
}

/// An answer that the server made itself: whole, and the last.
#[track_caller]
fn refused(connection: &mut Connection, what: &str) -> u16 {
    let answer = last(connection, what);
    for name in ["date", "content-length", "content-type"] {
        assert!(answer.field(name).is_some(), "{what}: no {name} in {answer:?}");
    }
    assert!(!answer.body.is_empty(), "{what}: {answer:?}");
    answer.status
}

#[track_caller]
fn target_of(answer: &Response) -> String {
    let shown: serde_json::Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|error| panic!("{error}: {} {}", answer.status, answer.text()));
    shown["target"].as_str().expect("a target").to_owned()
}

// Order.

#[test]
fn a_hundred_requests_in_one_write_are_answered_in_order() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("burst");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for pace in [Pace::Whole, Pace::Pieces(1), Pace::Pieces(1000)] {
                let burst: String = (0..100).map(|number| get(&format!("/{number}"))).collect();
                let mut connection = Connection::open(address).expect("it listens");
                connection.send_at(burst.as_bytes(), pace).expect("it reads");
                for number in 0..100 {
                    assert_eq!(
                        target_of(&kept(&mut connection, "a request of the burst")),
                        format!("/{number}")
                    );
                }
                one_more(&mut connection, "after the burst");
            }
            // Far more than fits into any buffer at a time, and nobody reads until everything was sent.
            let count = 20_000;
            let mut connection = Connection::open(address).expect("it listens");
            let mut hand = connection.duplicate();
            let sending = std::thread::spawn(move || {
                let piece = get("/version").repeat(100);
                (0..count / 100).try_for_each(|_| hand.send(piece.as_bytes()))
            });
            for _ in 0..count {
                assert_eq!(kept(&mut connection, "a long burst").text(), VERSION);
            }
            sending.join().expect("no panic").expect("it reads");
            one_more(&mut connection, "after the long burst");
        }
        server.finish();
    });
}

#[test]
fn slow_and_large_answers_keep_their_places() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("order");
        let server = launch(&site, class, &[("threads", "4")]);
        for address in server.addresses() {
            let body = "b".repeat(70_000);
            let requests = [
                get("/sleep?ms=300"),
                get("/version"),
                get("/large?bytes=3000000"),
                post("/first", &body),
                get("/stream?n=50&size=100"),
                chunked("/second", "hello"),
                get("/sleep?ms=100"),
                get("/status/404"),
                post("/noread", "unread"),
                get("/third"),
            ];
            let mut connection = Connection::open(address).expect("it listens");
            let mut hand = connection.duplicate();
            let all = requests.concat();
            let sending = std::thread::spawn(move || hand.send(all.as_bytes()));
            let mut next = || kept(&mut connection, "one of many");
            assert_eq!(next().text(), "slept");
            assert_eq!(next().text(), VERSION);
            assert_eq!(next().body.len(), 3_000_000);
            let shown = next();
            assert_eq!(target_of(&shown), "/first");
            assert!(shown.text().contains(r#""body_len":70000"#), "{}", shown.text());
            assert_eq!(next().body, vec![b's'; 5000]);
            assert_eq!(target_of(&next()), "/second");
            assert_eq!(next().text(), "slept");
            assert_eq!(next().status, 404);
            assert_eq!(next().text(), "ok");
            assert_eq!(target_of(&next()), "/third");
            sending.join().expect("no panic").expect("it reads");
            one_more(&mut connection, "after all of them");
        }
        server.finish();
    });
}

#[test]
fn sleeps_on_one_connection_come_one_after_the_other() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("in_turn");
        let server = launch(&site, class, &[("threads", "4")]);
        for address in server.addresses() {
            let begin = Instant::now();
            let mut connection = open(address, get("/sleep?ms=200").repeat(3));
            for _ in 0..3 {
                assert_eq!(kept(&mut connection, "a sleep").text(), "slept");
            }
            let time = begin.elapsed();
            assert!(time >= Duration::from_millis(600), "two ran at once: {time:?}");
            one_more(&mut connection, "after the sleeps");
        }
        server.finish();
    });
}

#[test]
fn half_a_request_behind_a_whole_one_holds_nothing_up() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("half");
        let server = launch(&site, class, &[]);
        let second = post("/second", "hello");
        for address in server.addresses() {
            for cut in [1, 20, second.len() - 6, second.len() - 4, second.len() - 1] {
                let (begin, rest) = second.split_at(cut);
                let mut connection = open(address, get("/first") + begin);
                assert_eq!(target_of(&kept(&mut connection, "the whole one")), "/first", "cut at {cut}");
                connection.wait_until_taken();
                connection.send(rest.as_bytes()).expect("it reads");
                assert_eq!(target_of(&kept(&mut connection, "the half one")), "/second", "cut at {cut}");
                one_more(&mut connection, "after the halves");
            }
        }
        server.finish();
    });
}

// Who keeps and who closes.

#[test]
fn what_the_connection_field_says_is_what_happens() {
    // (version, fields, whether a class that keeps connections keeps this one)
    let cases = [
        ("1.1", "Host: a\r\n", true),
        ("1.1", "Host: a\r\nConnection: keep-alive\r\n", true),
        ("1.1", "Host: a\r\nConnection: x-other\r\n", true),
        ("1.1", "Host: a\r\nConnection:\r\n", true),
        ("1.1", "Host: a\r\nConnection: close\r\n", false),
        ("1.1", "Host: a\r\nConnection: CLOSE\r\n", false),
        ("1.1", "Host: a\r\nConnection: keep-alive, close\r\n", false),
        ("1.1", "Host: a\r\nConnection: x-a,close , x-b\r\n", false),
        ("1.1", "Host: a\r\nConnection: keep-alive\r\nConnection: close\r\n", false),
        ("1.1", "Host: a\r\nConnection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: x-a, Keep-Alive\r\n", true),
        ("1.0", "Connection: close\r\n", false),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ];
    under_each_class(|class| {
        let site = Site::new("honest");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for target in ["/version", "/status/404", "/status/204"] {
                for (version, fields, keeps) in cases {
                    let what = format!("{target} HTTP/{version} {fields:?}");
                    let mut connection =
                        open(address, format!("GET {target} HTTP/{version}\r\n{fields}\r\n"));
                    if !keeps || !class.keeps_alive {
                        last(&mut connection, &what);
                        continue;
                    }
                    let answer = kept(&mut connection, &what);
                    let said = answer.field("connection").map(str::to_ascii_lowercase);
                    // HTTP/1.0 keeps only what both have said to keep (RFC 9112 appendix C.2.2).
                    let wanted = (version == "1.0").then(|| "keep-alive".to_owned());
                    assert!(said == wanted || said == Some("keep-alive".to_owned()), "{what}: {answer:?}");
                    one_more(&mut connection, &what);
                }
            }
            // Where only the connection's end tells the body's, none can be kept.
            let stream = "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
            let mut connection = open(address, stream);
            let answer = connection.read_response().expect("an answer");
            assert!(answer.closes() && answer.body == [b's'; 15], "{answer:?}");
            assert_eq!((answer.field("transfer-encoding"), answer.field("content-length")), (None, None));
        }
        server.finish();
    });
}

#[test]
fn nothing_is_answered_after_the_last_request() {
    under_each_class(|class| {
        let site = Site::new("after_last");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for _ in 0..20 {
                let mut connection = open(address, LAST.to_owned() + &get("/pid").repeat(50));
                assert_eq!(last(&mut connection, "the last").text(), VERSION);
            }
        }
        server.finish();
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("idle");
        let server = launch(&site, class, &[("keepalive", "2")]);
        for address in server.addresses() {
            let mut connection = open(address, get("/version"));
            kept(&mut connection, "the first");
            let begin = Instant::now();
            connection.read_end().expect("an end, and no reset");
            let time = begin.elapsed();
            eprintln!("closed after {time:.1?} (wanted: 2 s)");
            // The time may run from the last octet of the answer, which was on its way.
            assert!(time > Duration::from_millis(1800) && time < Duration::from_secs(20), "{time:?}");

            // A request in time is answered, and the time begins anew.
            let mut connection = open(address, get("/version"));
            for _ in 0..4 {
                kept(&mut connection, "one of several");
                // The subject of this test: a client that rests, for less than it may.
                std::thread::sleep(Duration::from_millis(600));
                connection.send_get("/version").expect("it is kept");
            }
            kept(&mut connection, "the last of several");
            connection.read_end().expect("an end, and no reset");
        }
        server.finish();
    });
}

#[test]
fn a_second_head_has_its_own_time() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("second_head");
        let server = launch(&site, class, &[("head_timeout", "1"), ("body_timeout", "1")]);
        for address in server.addresses() {
            for half in
                ["GET /second HTTP/1.1\r\nHo", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"]
            {
                let mut connection = open(address, get("/version"));
                kept(&mut connection, "the first");
                let begin = Instant::now();
                connection.send(half.as_bytes()).expect("it is kept");
                assert_eq!(refused(&mut connection, half), 408, "{half:?}");
                let time = begin.elapsed();
                assert!(time > Duration::from_millis(800) && time < Duration::from_secs(10), "{time:?}");
            }
        }
        server.finish();
    });
}

// Bodies that nobody reads.

/// What must never be taken for a request, although it looks like one.
const SMUGGLED: &str = "GET /pid HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// After an answer that left a body unread the connection is at its end, or at the next request.
#[track_caller]
fn no_desync(connection: &mut Connection, what: &str) {
    let answer = connection.read_response().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{what}");
    match connection.read_response() {
        Ok(next) => assert!(!answer.closes() && next.text() == VERSION, "{what}: {answer:?}, then {next:?}"),
        // That the rest is too much, or too late, may have been found out only afterwards.
        Err(failure) => assert!(ended(&failure), "{what}: {failure}"),
    }
}

/// The connection ended where an answer would have begun. One who sends for ever is reset in the end.
fn ended(failure: &Failure) -> bool {
    match failure {
        Failure::Truncated(how) => how.ends_with("after 0 octets"),
        Failure::Reset => true,
        Failure::Refused | Failure::Garbled(_) | Failure::Silent | Failure::Other(_) => false,
    }
}

#[test]
fn a_small_unread_body_costs_no_connection() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("drained");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for request in [post("/noread", SMUGGLED), chunked("/noread", SMUGGLED)] {
                let mut connection = open(address, request.repeat(3) + LAST);
                for _ in 0..3 {
                    assert_eq!(kept(&mut connection, &request).text(), "ok");
                }
                assert_eq!(last(&mut connection, "after the bodies").text(), VERSION);
                // What is still on its way need not be waited for.
                let mut connection = Connection::open(address).expect("it listens");
                let _ = connection.send_at((request.clone() + LAST).as_bytes(), Pace::Pieces(1));
                no_desync(&mut connection, &request);
            }
        }
        server.finish();
    });
}

#[test]
fn an_unread_body_is_never_taken_for_a_request() {
    under_each_class(|class| {
        let site = Site::new("smuggled");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for repeats in [1, 50, 100, 1000, 2000, 5000, 100_000] {
                let body = SMUGGLED.repeat(repeats);
                for request in [post("/noread", &body), chunked("/noread", &body)] {
                    let what = format!("{repeats} smuggled, {:?}", &request[..60]);
                    let mut connection = Connection::open(address).expect("it listens");
                    let mut hand = connection.duplicate();
                    let sending = std::thread::spawn(move || {
                        // The server may close before it has all.
                        let _ = hand.send((request + LAST).as_bytes());
                    });
                    no_desync(&mut connection, &what);
                    drop(connection);
                    sending.join().expect("no panic");
                }
            }
            // The body comes when the head was taken already, and perhaps answered.
            for (head, body) in [
                ("Content-Length: 37", SMUGGLED.to_owned()),
                ("Transfer-Encoding: chunked", format!("25\r\n{SMUGGLED}\r\n0\r\n\r\n")),
            ] {
                let mut connection =
                    open(address, format!("POST /noread HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n"));
                connection.wait_until_taken();
                let _ = connection.send((body + LAST).as_bytes());
                no_desync(&mut connection, head);
            }
        }
        server.finish();
    });
}

const EXPECT: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn who_expects_a_continue_gets_it_only_if_the_body_is_wanted() {
    assert_eq!(SMUGGLED.len(), 37);
    under_each_that_keeps_alive(|class| {
        let site = Site::new("expect");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            let mut connection = open(address, EXPECT);
            for round in 0..3 {
                assert_eq!(connection.read_head().expect("an interim answer").status, 100);
                connection.send(SMUGGLED.as_bytes()).expect("it reads");
                let answer = kept(&mut connection, "after the interim answer");
                assert!(answer.text().contains(r#""body_len":37"#), "{}", answer.text());
                if round < 2 {
                    connection.send(EXPECT.as_bytes()).expect("it is kept");
                }
            }
            one_more(&mut connection, "after three of them");

            // Who does not wait is answered all the same, with an interim answer or without.
            let mut connection = open(address, format!("{EXPECT}{SMUGGLED}{LAST}"));
            let answer = kept(&mut connection, "who does not wait");
            assert!(answer.text().contains(r#""body_len":37"#), "{}", answer.text());
            assert!(answer.interim.iter().all(|interim| interim.status == 100), "{answer:?}");
            assert_eq!(last(&mut connection, "who does not wait").text(), VERSION);

            // HTTP/1.0 knows no interim answers (RFC 9110 section 10.1.1).
            let old = EXPECT.replace("HTTP/1.1", "HTTP/1.0");
            let answer = last(&mut open(address, format!("{old}{SMUGGLED}")), "HTTP/1.0");
            assert!(answer.interim.is_empty() && answer.status == 200, "{answer:?}");

            // Nobody wants the body. The client may send it or not; what it sends next must be told from it.
            let unwanted = EXPECT.replace("POST /", "POST /noread");
            let mut connection = open(address, &unwanted);
            let answer = connection.read_response().expect("an answer");
            assert!(answer.interim.is_empty() && answer.text() == "ok", "{answer:?}");
            let _ = connection.send(format!("{SMUGGLED}{LAST}").as_bytes());
            match connection.read_response() {
                Ok(next) => assert!(!answer.closes() && next.text() == VERSION, "{answer:?}, then {next:?}"),
                Err(failure) => assert!(ended(&failure), "after an unwanted body: {failure}"),
            }
        }
        server.finish();
    });
}

// Answers without a body.

#[test]
fn answers_without_a_body_end_with_their_heads() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("bodiless");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for _ in 0..10 {
                let head = |target: &str| get(target).replacen("GET", "HEAD", 1);
                let requests = [
                    head("/large?bytes=100000"),
                    get("/status/204"),
                    head("/stream"),
                    get("/status/304"),
                    head("/status/404"),
                    head("/status/204"),
                ];
                let mut connection = open(address, requests.concat() + LAST);
                for (request, status) in requests.iter().zip([200, 204, 200, 304, 404, 204]) {
                    let answer =
                        connection.read_head().unwrap_or_else(|failure| panic!("{request:?}: {failure}"));
                    assert_eq!((answer.status, answer.closes()), (status, false), "{request:?}: {answer:?}");
                    if status == 204 {
                        assert_eq!(answer.field("content-length"), None);
                    }
                }
                assert_eq!(last(&mut connection, "after the heads").text(), VERSION);
            }
        }
        server.finish();
    });
}

#[test]
fn the_date_moves_on() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("date");
        let server = launch(&site, class, &[]);
        let mut connection = Connection::open(server.address()).expect("it listens");
        let mut date = || {
            connection.send_get("/version").expect("it is kept");
            let answer = kept(&mut connection, "a request");
            answer.field("date").expect("a date").to_owned()
        };
        let first = date();
        let time = wait_for("another date", || date() != first);
        assert!(time < Duration::from_secs(10), "{time:?}");
        // Two seconds of rest are not caught up one by one.
        let second = date();
        std::thread::sleep(Duration::from_millis(2100));
        assert_ne!(date(), second, "the first answer after a rest has an old date");
        drop(connection);
        server.finish();
    });
}

// What ends a connection.

#[test]
fn limits_hold_for_every_request_of_a_connection() {
    let limits = [
        ("limit_request_line", "100"),
        ("limit_request_fields", "5"),
        ("limit_request_field_size", "200"),
        ("limit_request_body", "1000"),
    ];
    let fields = |count: usize| -> String { (0..count).map(|number| format!("X-{number}: a\r\n")).collect() };
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let body = "b".repeat(1000);
    let cases = [
        (with(&fields(4)), with(&fields(5)), 431),
        (with(&format!("X: {}\r\n", "a".repeat(150))), with(&format!("X: {}\r\n", "a".repeat(250))), 431),
        (get(&format!("/{}", "a".repeat(80))), get(&format!("/{}", "a".repeat(120))), 414),
        (post("/", &body), post("/", &(body.clone() + "b")), 413),
        (chunked("/", &body), chunked("/", &(body.clone() + "b")), 413),
        (get("/"), "GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (get("/"), "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 400),
        (get("/"), post("/", "").replace("Content-Length: 0", "Content-Length: 0\r\nContent-Length: 1"), 400),
        (get("/"), get("/").replace("HTTP/1.1", "HTTP/2.0"), 505),
    ];
    under_each_that_keeps_alive(|class| {
        let site = Site::new("limits");
        let server = launch(&site, class, &limits);
        for address in server.addresses() {
            for (good, bad, status) in &cases {
                // After an answer, and behind other requests; never after the bad one.
                let mut connection = open(address, good);
                assert_eq!(kept(&mut connection, good).status, 200);
                connection.send(good.as_bytes()).expect("it is kept");
                assert_eq!(kept(&mut connection, good).status, 200);
                connection.send((bad.clone() + SMUGGLED).as_bytes()).expect("it is kept");
                assert_eq!(refused(&mut connection, bad), *status, "{bad:?}");

                let mut connection = open(address, good.repeat(3) + bad + SMUGGLED);
                for _ in 0..3 {
                    assert_eq!(kept(&mut connection, good).status, 200);
                }
                assert_eq!(refused(&mut connection, bad), *status, "{bad:?}");
            }
        }
        server.finish();
    });
}

#[test]
fn a_panic_ends_its_connection_and_no_other() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("panic");
        let mut server = launch(&site, class, &[("threads", "4")]);
        let worker = server.workers();
        for address in server.addresses() {
            let mut other = open(address, get("/version"));
            kept(&mut other, "another connection");
            let mut connection = open(address, get("/version") + &get("/panic") + SMUGGLED);
            kept(&mut connection, "before the panic");
            assert_eq!(refused(&mut connection, "a panic"), 500);

            let mut connection = open(address, get("/version") + &get("/panic-mid?n=3") + SMUGGLED);
            kept(&mut connection, "before the panic");
            let heard = connection.hear();
            assert!(heard.head().starts_with("HTTP/1.1 200 "), "{}", heard.head());
            assert_eq!(
                heard.rest(),
                "5\r\nsssss\r\n".repeat(3).as_bytes(),
                "no final chunk, and nothing after it"
            );
            one_more(&mut other, "another connection");
        }
        assert_eq!(server.workers(), worker);
        server.expect_error("inspect: asked to panic");
        server.expect_error("the application panicked");
        server.finish();
    });
}

#[test]
fn a_wrong_length_is_never_repaired_with_the_next_answer() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("wrong_length");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            // Too short: the connection ends after what was sent.
            for (declared, sent) in [(10, 5), (5, 0), (100_000, 99_999)] {
                let wrong = get(&format!("/wrong-length?declared={declared}&sent={sent}"));
                let mut connection = open(address, get("/version") + &wrong + SMUGGLED);
                kept(&mut connection, "before it");
                let heard = connection.hear();
                assert!(
                    heard.head().contains(&format!("Content-Length: {declared}\r\n")),
                    "{}",
                    heard.head()
                );
                assert_eq!(heard.rest(), vec![b'w'; sent], "{declared}, {sent}");
            }
            // Too long: cut, so that the next answer is where it must be, or there is none.
            for (declared, sent) in [(5, 10), (0, 5), (70_000, 200_000)] {
                let wrong = get(&format!("/wrong-length?declared={declared}&sent={sent}"));
                let mut connection = open(address, get("/version") + &wrong + LAST);
                kept(&mut connection, "before it");
                let answer = connection.read_response().expect("an answer");
                assert_eq!(answer.body, vec![b'w'; declared], "{declared}, {sent}");
                if !answer.closes() {
                    match connection.read_response() {
                        Ok(next) => assert_eq!(next.text(), VERSION),
                        Err(failure) => assert!(ended(&failure), "{declared}, {sent}: {failure}"),
                    }
                }
            }
        }
        server.finish();
    });
}

#[test]
fn a_hostile_field_does_not_shift_the_next_answer() {
    let fields = [
        ("Content-Length", "0"),
        ("Content-Length", "2"),
        ("Content-Length", "500"),
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "identity"),
        ("Connection", "keep-alive"),
        ("Connection", "close"),
        ("Connection", "upgrade"),
        ("Keep-Alive", "timeout=100"),
        ("Upgrade", "websocket"),
        ("Trailer", "X-A"),
        ("X-A", "evil%0D%0A%0D%0AHTTP/1.1%20200%20OK%0D%0AContent-Length:%204%0D%0A%0D%0Aevil"),
        ("X-A", "evil%00"),
        ("", "evil"),
        ("X%0D%0AEvil", "evil"),
    ];
    under_each_that_keeps_alive(|class| {
        let site = Site::new("hostile");
        let mut server = launch(&site, class, &[]);
        for address in server.addresses() {
            for (name, value) in fields {
                let target = format!("/header?name={name}&value={value}");
                let mut connection = open(address, get("/version") + &get(&target) + LAST);
                kept(&mut connection, "before it");
                let answer =
                    connection.read_response().unwrap_or_else(|failure| panic!("{target}: {failure}"));
                let shown = format!("{:?}", answer.fields).to_lowercase();
                assert!(!shown.contains("evil"), "{target}: {shown}");
                match answer.status {
                    200 => assert_eq!(answer.text(), "ok", "{target}"),
                    500 => assert!(answer.closes() && answer.text() != "ok", "{target}: {answer:?}"),
                    other => panic!("{target}: {other}"),
                }
                if answer.closes() {
                    connection.read_end().unwrap_or_else(|failure| panic!("{target}: {failure}"));
                } else {
                    assert_eq!(last(&mut connection, &target).text(), VERSION);
                }
            }
        }
        for words in ["/header?", "header", "field", "Content-Length", "Transfer-Encoding"] {
            server.expect_error(words);
        }
        server.finish();
    });
}

// Applications that use more of an exchange than `inspect` does.

#[test]
fn interim_answers_trailers_and_files_leave_the_connection_in_order() {
    under_each_that_keeps_alive(|class| {
        for application in ["app", "blocking"] {
            let site = Site::new("exchange");
            let file: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
            site.write("file", &file);
            site.install(programs().fixture("exchange"), "app.so");
            let variable = format!("FX_FILE={}", site.join("file").display());
            let server = site.launch().class(class).workers(1).everywhere().settings(&[("keepalive", "30")]);
            let server = server.with(|settings| {
                settings.text("application", &format!("app.so:{application}"));
                settings.list("raw_env", &[variable]);
            });
            let server = server.start();
            for address in server.addresses() {
                for _ in 0..5 {
                    let trailers = "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                                    3\r\nabc\r\n0\r\nX-One: 1\r\n\r\n";
                    let requests = [
                        get("/early"),
                        get("/sendfile"),
                        trailers.to_owned(),
                        get("/sendfile?offset=1000&length=70001"),
                        post("/upload", "Wikipedia"),
                        get("/no-such-route"),
                    ];
                    let mut connection = open(address, requests.concat());
                    let mut next = || kept(&mut connection, application);
                    let early = next();
                    assert_eq!((early.interim.len(), early.text().as_str()), (1, "early"));
                    assert_eq!(early.trailers, [("X-Trailer".to_owned(), "done".to_owned())]);
                    assert!(next().body == file);
                    assert_eq!(next().text().to_lowercase(), "x-one: 1\n");
                    assert!(next().body == file[1000..71_001]);
                    assert_eq!(next().text(), "9 11e60398");
                    assert_eq!(next().status, 404);
                    if application == "app" {
                        connection.send_get("/pending").expect("it is kept");
                        assert_eq!(kept(&mut connection, "a future").text(), "woken");
                    }
                }
            }
            server.finish();
        }
    });
}
