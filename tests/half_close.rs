//! Clients that have said all they will say, and still wait for their answers.
//!
//! On TCP such a client looks like one that has closed its socket, so a class that takes the end of input for the end
//! of the client loses answers. What a newcomer would get wrong: that the server must answer does not mean that it may
//! wait for more; after the last answer the connection ends, without a reset.

use harness::{
    Address, Class, Connection, Failure, Server, Site, programs, under_each_class,
    under_each_that_keeps_alive,
};

fn launch<'s>(site: &'s Site, class: Class, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().class(class).workers(1).everywhere();
    // Longer than a client waits: an end must not come from that.
    launch.settings(&[("keepalive", "600")]).settings(settings).start()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A client that sends this and ends its direction at once.
#[track_caller]
fn all_said(address: &Address, octets: impl AsRef<[u8]>) -> Connection {
    let mut connection = Connection::open(address).expect("it listens");
    connection.send(octets.as_ref()).expect("it reads");
    connection.end_sending().expect("it is there");
    connection
}

#[test]
fn every_kind_of_answer_comes() {
    let body = "b".repeat(300_000);
    let requests = [
        (get("/version"), 17),
        (get("/large?bytes=20000000"), 20_000_000),
        (get("/stream?n=1000&size=5000"), 5_000_000),
        (get("/sleep?ms=300"), 5),
        (get("/noread"), 2),
        ("POST /noread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".into(), 2),
        (format!("POST /version HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()), 17),
        (
            "POST /version HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .into(),
            17,
        ),
        ("GET /stream HTTP/1.0\r\n\r\n".into(), 15),
    ];
    under_each_class(|class| {
        let site = Site::new("half_close");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for (request, length) in &requests {
                let shown = &request[..request.len().min(80)];
                let mut connection = all_said(address, request);
                let answer =
                    connection.read_response().unwrap_or_else(|failure| panic!("{shown:?}: {failure}"));
                assert_eq!((answer.status, answer.body.len()), (200, *length), "{shown:?}");
                connection.read_end().unwrap_or_else(|failure| panic!("{shown:?}: {failure}"));
            }
        }
        server.finish();
    });
}

/// The end comes while the application is at work, not before.
#[test]
fn an_end_during_the_answer_is_none_of_the_answer() {
    under_each_class(|class| {
        let site = Site::new("end_during");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for (target, length) in [("/sleep?ms=300", 5), ("/large?bytes=30000000", 30_000_000)] {
                let mut connection = Connection::open(address).expect("it listens");
                connection.send_get(target).expect("it reads");
                connection.wait_until_taken();
                connection.end_sending().expect("it is there");
                let answer =
                    connection.read_response().unwrap_or_else(|failure| panic!("{target}: {failure}"));
                assert_eq!((answer.status, answer.body.len()), (200, length), "{target}");
                connection.read_end().unwrap_or_else(|failure| panic!("{target}: {failure}"));
            }
        }
        server.finish();
    });
}

#[test]
fn a_future_is_not_dropped_for_it() {
    under_each_class(|class| {
        let site = Site::new("half_future");
        site.install(programs().fixture("exchange"), "app.so");
        let server = site.launch().class(class).workers(1).everywhere();
        let server = server.settings(&[("keepalive", "600"), ("application", "\"app.so:app\"")]).start();
        for address in server.addresses() {
            for (target, length) in [("/pending", 5), ("/full?bytes=20000000", 20_000_000)] {
                let mut connection = all_said(address, get(target));
                let answer =
                    connection.read_response().unwrap_or_else(|failure| panic!("{target}: {failure}"));
                assert_eq!((answer.status, answer.body.len()), (200, length), "{target}");
                connection.read_end().unwrap_or_else(|failure| panic!("{target}: {failure}"));
            }
        }
        server.finish();
    });
}

#[test]
fn every_pipelined_request_is_answered_before_the_end() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("half_pipelined");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for count in [2, 100] {
                let mut connection = all_said(address, get("/version").repeat(count));
                for _ in 0..count {
                    assert_eq!(connection.read_response().expect("an answer").text(), "INSPECT-VERSION:1");
                }
                connection.read_end().expect("an end, and no reset");
            }
            let mixed = [get("/large?bytes=5000000"), get("/sleep?ms=200"), get("/stream?n=3&size=100000")];
            let mut connection = all_said(address, mixed.concat());
            for length in [5_000_000, 5, 300_000] {
                assert_eq!(connection.read_response().expect("an answer").body.len(), length);
            }
            connection.read_end().expect("an end, and no reset");
        }
        server.finish();
    });
}

/// Half a head is nothing to answer; half a body is, because somebody has begun to wait for it.
#[test]
fn half_a_request_at_the_end_spoils_no_answer() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("half_half");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            for half in ["G", "GET / HTTP/1.1\r\nHost: a\r\n"] {
                let mut connection = all_said(address, get("/sleep?ms=50") + &get("/version") + half);
                assert_eq!(connection.read_response().expect("an answer").text(), "slept");
                assert_eq!(connection.read_response().expect("an answer").text(), "INSPECT-VERSION:1");
                match connection.read_response() {
                    Err(Failure::Truncated(how)) => {
                        assert!(how.ends_with("after 0 octets"), "{half:?}: {how}")
                    }
                    Ok(answer) => {
                        assert!(answer.status == 400 && answer.closes(), "{half:?}: {answer:?}");
                        connection.read_end().expect("an end, and no reset");
                    }
                    Err(failure) => panic!("{half:?}: {failure}"),
                }
            }
            for half in [
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            ] {
                let mut connection = all_said(address, get("/version") + half);
                assert_eq!(connection.read_response().expect("an answer").text(), "INSPECT-VERSION:1");
                let answer = connection.read_response().expect("a refusal");
                assert!(answer.status == 400 && answer.closes(), "{half:?}: {answer:?}");
                connection.read_end().expect("an end, and no reset");
            }
        }
        server.finish();
    });
}

/// One who says nothing more between two requests has left, and its connection is given up at once.
#[test]
fn an_idle_connection_ends_with_its_client() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("half_idle");
        let server = launch(&site, class, &[]);
        for address in server.addresses() {
            let mut connection = Connection::open(address).expect("it listens");
            connection.send_get("/version").expect("it reads");
            assert!(!connection.read_response().expect("an answer").closes());
            connection.end_sending().expect("it is there");
            connection.read_end().expect("an end, and no reset");

            let mut silent = all_said(address, "");
            silent.read_end().expect("an end, and no reset");
        }
        server.finish();
    });
}
