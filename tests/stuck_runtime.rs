//! An async handler that keeps its runtime's thread: whoever has to wait is stuck behind it, and no class can see it.
//!
//! The library's own watchdog does (`worker-api/src/sdk/watchdog.rs`), and has the worker replaced. What a newcomer
//! would get wrong: a request that waits for longer than `timeout` is no such thing, as long as the runtime turns.

use harness::{Class, Connection, Server, Site, programs, under_each_class, wait_for};

/// More than any test waits.
const STUCK: &str = "/stuck?ms=60000";

fn launch<'s>(site: &'s Site, class: Class, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().inspect_axum(), "app.so");
    let launch = site.launch().class(class).workers(1).settings(&[("graceful_timeout", "2")]);
    launch.settings(settings).start()
}

/// Another worker serves, and the old one is gone; the line names the request that is at fault, and the oldest if `oldest`.
#[track_caller]
fn expect_replaced(server: &mut Server<'_>, old: i32, oldest: Option<&str>) {
    let line = server.wait_log("the runtime of the application (in ");
    let named =
        format!("timeout: the runtime of the application (in GET {STUCK}) has been stuck for 3.0 s; ");
    let rest = line.strip_prefix(&named).unwrap_or_else(|| panic!("{named:?} does not begin: {line}"));
    match oldest {
        Some(oldest) => {
            assert!(rest.starts_with(&format!("the oldest request, {oldest}, has waited for ")), "{line}")
        }
        None => assert_eq!(rest, "this worker is replaced"),
    }
    assert!(line.ends_with("this worker is replaced"), "{line}");
    wait_for("another worker to serve", || {
        let answer = server.address().get("/version");
        answer.is_ok_and(|answer| answer.status == 200) && !server.workers().contains(&old)
    });
    server.wait_gone(old);
    assert!(server.messages("WORKER TIMEOUT").is_empty(), "the class itself was never silent");
    assert_eq!(server.messages("the runtime of the application").len(), 1);
    server.expect_error("the runtime of the application");
}

#[test]
fn a_runtime_that_stands_still_is_noticed_and_its_worker_replaced() {
    under_each_class(|class| {
        let site = Site::new("stuck_runtime");
        let mut server = launch(&site, class, &[("timeout", "3")]);
        let old = server.workers()[0];
        // One that waits for long is not stuck.
        assert_eq!(server.text("/sleep?ms=5000"), "slept");
        assert_eq!(server.workers(), [old]);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get(STUCK).expect("it reads");
        expect_replaced(&mut server, old, Some(&format!("GET {STUCK}")));
        server.finish();
    });
}

/// One that waits, and is older, is not to blame.
#[test]
fn the_request_that_is_named_first_is_the_one_that_keeps_the_thread() {
    let site = Site::new("stuck_named");
    let class = harness::classes::CLASSES.into_iter().find(|class| class.futures).expect("one has them");
    let mut server = launch(&site, class, &[("timeout", "3")]);
    let old = server.workers()[0];
    let mut waits = Connection::open(server.address()).expect("it listens");
    waits
        .send(b"POST /older HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .expect("it reads");
    // Its handler waits for the body.
    waits.wait_for_octets(b"HTTP/1.1 100 Continue".len()).expect("an interim answer");
    let mut blocks = Connection::open(server.address()).expect("it listens");
    blocks.send_get(STUCK).expect("it reads");
    expect_replaced(&mut server, old, Some("POST /older"));
    server.finish();
}

/// The class has given the request up by then, which frees nobody.
#[test]
fn a_runtime_whose_request_was_answered_504_is_stuck_all_the_same() {
    under_each_class(|class| {
        let site = Site::new("stuck_answered");
        let mut server = launch(&site, class, &[("timeout", "3"), ("request_timeout", "0.5")]);
        let old = server.workers()[0];
        assert_eq!(server.get(STUCK).status, 504);
        expect_replaced(&mut server, old, None);
        server.expect_error("request_timeout");
        server.finish();
    });
}
