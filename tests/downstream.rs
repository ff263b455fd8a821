//! The async application made by hand, under each class: thousands of sleepers, and calls to a slow other server.
//!
//! The other server is a thread of the test, whose behaviour is the path; see [`Other`]. What a newcomer would get
//! wrong: a class that serves one request at a time can hold one future at a time. What is about many at once goes to
//! the classes that say of themselves that they can.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::classes::classes;
use harness::crowd::room_for;
use harness::{
    Class, Connection, Crowd, Failure, Manner, Port, Server, Site, programs, stopped_at, under_each_class,
    upstream, wait_for,
};

/// A server that answers as the path says.
struct Other {
    address: SocketAddr,
    /// Octets that it has got rid of at `/endless`.
    written: Arc<AtomicU64>,
    /// Calls to `/never` that go on.
    waiting: Arc<AtomicUsize>,
}

impl Other {
    /// Begins to serve.
    fn start() -> Self {
        let (written, waiting) = (Arc::<AtomicU64>::default(), Arc::<AtomicUsize>::default());
        let (counted, held) = (Arc::clone(&written), Arc::clone(&waiting));
        let address = upstream::listen(move |stream| serve(stream, &counted, &held));
        Self { address, written, waiting }
    }
}

/// One call.
fn serve(mut stream: &TcpStream, written: &AtomicU64, waiting: &AtomicUsize) {
    let Some(head) = upstream::head_of(stream) else { return };
    let answer: &[u8] = match head.lines().next().unwrap_or_default() {
        "GET /length?x=1 HTTP/1.0" => {
            b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 5\r\nX-Secret: 1\r\n\r\nhello"
        }
        "GET /until-close HTTP/1.0" => b"HTTP/1.0 404 Not Found\r\n\r\nhello",
        "GET /short HTTP/1.0" => b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "GET /garbled HTTP/1.0" => b"SSH-2.0\r\n\r\n",
        "GET /chunked HTTP/1.0" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        }
        "GET /closed HTTP/1.0" => b"HTTP/1.0 200 OK\r\n",
        "GET /never HTTP/1.0" => {
            waiting.fetch_add(1, Ordering::SeqCst);
            upstream::until_left(stream);
            waiting.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        "GET /endless HTTP/1.0" => {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
            while let Ok(count) = stream.write(&[b'e'; 16 * 1024]) {
                written.fetch_add(count as u64, Ordering::SeqCst);
            }
            return;
        }
        other => panic!("an unknown call: {other}"),
    };
    upstream::end_with(stream, answer);
}

fn launch<'s>(site: &'s Site, class: Class, variables: &[String], settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().downstream(), "app.so");
    let launch = site.launch().class(class).workers(1).with(|file| {
        file.list("raw_env", variables);
    });
    launch.settings(settings).start()
}

fn calling(other: &Other) -> String {
    format!("DOWNSTREAM={}", other.address)
}

#[test]
fn sleepers_are_woken_in_time() {
    under_each_class(|class| {
        let site = Site::new("sleep");
        let server = launch(&site, class, &[], &[]);
        for milliseconds in [0, 20, 200] {
            let begin = Instant::now();
            assert_eq!(server.text(&format!("/sleep?ms={milliseconds}")), "slept");
            assert!(begin.elapsed() >= Duration::from_millis(milliseconds));
        }
        assert_eq!(server.text("/cancelled"), "0");
        assert_eq!(server.get("/fetch/x").text(), "DOWNSTREAM is not set");
        server.finish();
    });
}

#[test]
fn answers_pass_through() {
    under_each_class(|class| {
        let (site, other) = (Site::new("fetch"), Other::start());
        let mut server = launch(&site, class, &[calling(&other)], &[]);
        let answer = server.get("/fetch/length?x=1");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!((answer.field("content-type"), answer.field("content-length")), (Some("a/b"), Some("5")));
        assert_eq!(answer.field("x-secret"), None);
        let answer = server.get("/fetch/until-close");
        assert_eq!((answer.status, answer.text().as_str()), (404, "hello"));
        for (path, complaint) in [
            ("garbled", "its status line is malformed"),
            ("chunked", "it sent a transfer coding to a client of HTTP/1.0"),
            ("closed", "it closed before its head was complete"),
        ] {
            let answer = server.get(&format!("/fetch/{path}"));
            assert_eq!(answer.status, 502, "{path}");
            assert!(answer.text().ends_with(complaint), "{path}: {}", answer.text());
        }
        // Half of an answer must not look like a whole one.
        let half = server.address().get("/fetch/short");
        assert!(matches!(half, Err(Failure::Truncated(_))), "{half:?}");
        server.expect_error("it closed before its body was complete");
        server.expect_error("GET /fetch/short");
        server.finish();
    });
}

#[test]
fn nobody_there_and_nobody_in_time_are_told_apart() {
    under_each_class(|class| {
        let (site, other) = (Site::new("trouble"), Other::start());
        let in_time = "DOWNSTREAM_TIMEOUT_MS=300".to_owned();
        let server = launch(&site, class, &[calling(&other), in_time], &[]);
        let begin = Instant::now();
        assert_eq!(server.get("/fetch/never").status, 504);
        assert!(begin.elapsed() >= Duration::from_millis(300));
        wait_for("the call to be closed", || other.waiting.load(Ordering::SeqCst) == 0);
        server.finish();

        let nobody = Port::reserve();
        let variable = format!("DOWNSTREAM={}", nobody.address());
        let server = launch(&site, class, &[variable], &[]);
        let answer = server.get("/fetch/x");
        assert_eq!(answer.status, 502);
        assert!(answer.text().contains("Connection refused"), "{}", answer.text());
        server.finish();
    });
}

#[test]
fn a_mistake_in_the_settings_is_found_by_the_probe() {
    let site = Site::new("settings");
    site.install(programs().downstream(), "app.so");
    let launch = site.launch().with(|file| {
        file.list("raw_env", &["DOWNSTREAM=localhost"]);
    });
    let ended = launch.start_in_vain();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot use DOWNSTREAM=localhost"), "{}", ended.stderr);
}

#[test]
fn a_client_that_leaves_cancels_the_call() {
    under_each_class(|class| {
        let (site, other) = (Site::new("cancel"), Other::start());
        let server = launch(&site, class, &[calling(&other)], &[]);
        for round in 1..=2 {
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get("/fetch/never").expect("it reads");
            wait_for("the call", || other.waiting.load(Ordering::SeqCst) == 1);
            connection.reset();
            wait_for("the call to be closed", || other.waiting.load(Ordering::SeqCst) == 0);
            assert_eq!(server.text("/cancelled"), round.to_string());
        }
        server.finish();
    });
}

#[test]
fn a_slow_client_slows_the_other_server() {
    under_each_class(|class| {
        let (site, other) = (Site::new("pressure"), Other::start());
        let server = launch(&site, class, &[calling(&other)], &[]);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/fetch/endless").expect("it reads");
        let head = connection.read_head().expect("a head");
        assert_eq!(head.status, 200);
        // It stands still when the buffers between the two are full, and not before.
        let stopped =
            || stopped_at("the other server to be stopped", || other.written.load(Ordering::SeqCst));
        let before = stopped();
        eprintln!("{before} octets are under way to a client that takes none");
        // Two connections' worth of what the kernel buffers at most (tcp_wmem, tcp_rmem), and ours.
        assert!(before < 64 << 20, "{before}");
        connection.octets(16 << 20).expect("it goes on");
        assert!(other.written.load(Ordering::SeqCst) > before, "it goes on");
        // Once it waits again: a future that is just writing learns of the reset by that, and ends by itself.
        stopped();
        connection.reset();
        wait_for("the future to be dropped", || server.text("/cancelled") == "1");
        server.finish();
    });
}

#[test]
fn more_calls_than_allowed_are_refused() {
    for class in classes().filter(|class| class.futures) {
        let (site, other) = (Site::new("places"), Other::start());
        let server = launch(&site, class, &[calling(&other), "DOWNSTREAM_CALLS=2".to_owned()], &[]);
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get("/fetch/never").expect("it reads");
            held.push(connection);
        }
        wait_for("both calls", || other.waiting.load(Ordering::SeqCst) == 2);
        assert_eq!(server.get("/fetch/length?x=1").status, 503);
        for connection in held {
            connection.reset();
        }
        // The places of those who left are free again.
        wait_for("both futures to be dropped", || server.text("/cancelled") == "2");
        assert_eq!(server.text("/fetch/length?x=1"), "hello");
        server.finish();
    }
}

#[test]
fn five_thousand_requests_wait_in_one_worker() {
    const CLIENTS: usize = 5000;
    const SLEEP: Duration = Duration::from_secs(3);
    // The test's own ends too; the server inherits the limit.
    if !room_for(2 * CLIENTS as u64) {
        return;
    }
    for class in classes().filter(|class| class.futures) {
        let site = Site::new("crowd");
        let settings = [("worker_connections", "6000"), ("threads", "4"), ("keepalive", "5")];
        let server = launch(&site, class, &[], &settings);
        let worker = server.workers()[0];
        let mut crowd = Crowd::default();
        let target = format!("/sleep?ms={}", SLEEP.as_millis());
        let begin = Instant::now();
        crowd.join(
            server.address(),
            CLIENTS,
            &Manner::asks(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")),
        );
        let patience = Duration::from_secs(60);
        crowd.until_within(patience, "an answer for everybody", |crowd| {
            crowd.clients().iter().all(|client| client.answer().is_some() || client.end().is_some())
        });
        let time = begin.elapsed();
        let slept = |client: &harness::crowd::Client| {
            client.status() == Some(200) && client.answer().is_some_and(|(_, body)| body == "slept")
        };
        let answered = crowd.clients().iter().filter(|client| slept(client)).count();
        assert_eq!(answered, CLIENTS, "under {}", class.name);
        eprintln!("{}: {CLIENTS} requests that sleep {SLEEP:?} took {time:.1?} in one worker", class.name);
        assert!(time >= SLEEP);
        // One after the other they would take hours; four at a time as well.
        assert!(time < Duration::from_secs(40), "{time:?}");
        assert_eq!(server.text("/cancelled"), "0");
        assert_eq!(server.workers(), [worker], "it has not been replaced");
        server.finish();
    }
}
