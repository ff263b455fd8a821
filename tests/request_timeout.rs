//! Requests that take too long: `request_timeout`, and `timeout` where the loop itself is stuck.
//!
//! Who asked is told (504), or cut off where an answer had begun; who is beside it in the same worker notices nothing;
//! the worker is replaced, because a thread that is stuck cannot be taken back. What a newcomer would get wrong: the
//! answer does not come from the thread that is stuck, so it comes in time under every class.

use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Address, Class, Connection, Failure, Load, Plan, Response, Server, Site, programs, under_each_class,
    under_each_with_threads, wait_for,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// More than any test waits.
const LONG: &str = "/sleep?ms=60000";

fn launch<'s>(site: &'s Site, class: Class, application: &str, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().inspect(1), "app.so");
    site.install(programs().fixture("crowd"), "crowd.so");
    let launch = site.launch().class(class).workers(1).everywhere().with(|file| {
        file.text("application", application);
    });
    launch.settings(settings).start()
}

#[track_caller]
fn about_a_second(class: Class, what: &str, time: Duration) {
    eprintln!("{}: {what} after {time:.1?} (wanted: 1 s)", class.name);
    assert!(time > Duration::from_millis(900) && time < Duration::from_secs(10), "{time:?}");
}

/// Another worker serves, and the old one is gone.
#[track_caller]
fn replaced(server: &Server<'_>, old: i32) {
    wait_for("another worker to serve", || {
        server.address().get("/").is_ok_and(|answer| answer.status == 200) && !server.workers().contains(&old)
    });
    server.wait_gone(old);
}

#[test]
fn a_request_that_is_stuck_is_answered_and_its_worker_replaced() {
    under_each_class(|class| {
        let site = Site::new("stuck");
        let mut server = launch(&site, class, "app.so:app", &[("request_timeout", "1"), ("threads", "4")]);
        for address in server.addresses().to_vec() {
            let old = server.workers()[0];
            let before = server.messages(LONG).len();
            let begin = Instant::now();
            let mut connection = Connection::open(&address).expect("it listens");
            connection.send_get(LONG).expect("it reads");
            let answer = connection.read_response();
            about_a_second(class, "a stuck request ended", begin.elapsed());
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.closes()), (504, true), "{answer:?}");
            for name in ["date", "content-length", "content-type"] {
                assert!(answer.field(name).is_some(), "no {name} in {answer:?}");
            }
            connection.read_end().expect("an end, and no reset");
            wait_for("the request in the log", || server.messages(LONG).len() > before);
            replaced(&server, old);
            let told = server.messages(LONG).split_off(before);
            let over: Vec<&String> = told.iter().filter(|line| line.contains("has taken")).collect();
            assert!(
                over.len() == 1 && over[0].contains("GET"),
                "told once that it was over its time: {told:?}"
            );
        }
        for text in [LONG, "request_timeout"] {
            server.expect_error(text);
        }
        server.finish();
    });
}

#[test]
fn who_is_beside_a_stuck_request_notices_nothing() {
    under_each_with_threads(|class| {
        let site = Site::new("beside");
        let settings = [("request_timeout", "2"), ("threads", "4"), ("keepalive", "30")];
        let mut server = launch(&site, class, "app.so:app", &settings);
        let old = server.workers()[0];
        let load = Load::start(server.address(), Plan::pids(2));
        // One that takes almost as long as it may began before, and one begins late.
        let mut within = Connection::open(server.address()).expect("it listens");
        let mut stuck = Connection::open(server.address()).expect("it listens");
        stuck.send_get(LONG).expect("it reads");
        within.send_get("/sleep?ms=1500").expect("it reads");
        assert_eq!(within.read_response().expect("an answer").text(), "slept");
        within.send_get("/sleep?ms=1200").expect("it is kept");
        assert_eq!(stuck.read_response().expect("an answer").status, 504);
        assert_eq!(
            within.read_response().expect("an answer, although the worker is replaced").text(),
            "slept"
        );
        // Those are kept: the old worker would wait for their next requests as long as `keepalive` says.
        drop((within, stuck));
        wait_for("another worker", || !server.workers().is_empty() && !server.workers().contains(&old));
        server.wait_gone(old);
        load.epoch(1);
        load.more(20);
        let report = load.stop();
        report.expect_flawless();
        let new = server.workers()[0].to_string();
        assert_eq!(report.labels(1), [new.as_str()], "the old one was {old}");
        for text in [LONG, "request_timeout"] {
            server.expect_error(text);
        }
        server.finish();
    });
}

#[test]
fn an_answer_that_has_begun_is_cut() {
    under_each_class(|class| {
        let site = Site::new("begun");
        let mut server =
            launch(&site, class, "crowd.so:blocking", &[("request_timeout", "1"), ("threads", "4")]);
        for address in server.addresses().to_vec() {
            let old = server.workers()[0];
            let begin = Instant::now();
            let mut connection = Connection::open(&address).expect("it listens");
            connection.send_get("/stall?ms=60000").expect("it reads");
            let head = connection.read_head().expect("a head");
            assert_eq!((head.status, head.field("transfer-encoding")), (200, Some("chunked")));
            let heard = connection.hear();
            about_a_second(class, "a begun answer was cut", begin.elapsed());
            assert_eq!(
                heard.octets,
                b"5\r\nbegun\r\n",
                "no final chunk: {:?}",
                heard.octets.escape_ascii().to_string()
            );
            replaced(&server, old);
        }
        for text in ["/stall", "request_timeout"] {
            server.expect_error(text);
        }
        server.finish();
    });
}

/// More are stuck than there are threads: each is answered in its own time, those that wait for a thread too.
#[test]
fn a_call_that_comes_back_late_does_not_keep_its_worker() {
    under_each_with_threads(|class| {
        let site = Site::new("late");
        let settings = [("request_timeout", "1"), ("graceful_timeout", "60"), ("threads", "4")];
        let mut server = launch(&site, class, "app.so:app", &settings);
        let old = server.workers()[0];
        assert_eq!(server.get("/sleep?ms=2500").status, 504);
        // Long before `graceful_timeout`, which is longer than this waits.
        replaced(&server, old);
        assert!(server.messages("did not leave").is_empty());
        server.expect_error("request_timeout");
        server.finish();
    });
}

#[test]
fn an_answer_that_nobody_reads_ends_with_its_request_and_costs_no_worker() {
    under_each_with_threads(|class| {
        let site = Site::new("unread");
        let mut server = launch(&site, class, "app.so:app", &[("request_timeout", "1"), ("threads", "4")]);
        let worker = server.workers()[0];
        for address in &server.addresses().to_vec() {
            let before = server.messages("/large").len();
            // More than the kernel takes for a Unix socket, by less than the server buffers.
            let mut connection = Connection::open(address).expect("it listens");
            connection.send_get("/large?bytes=250000").expect("it reads");
            if matches!(address, Address::Unix(_)) {
                wait_for("the request in the log", || server.messages("/large").len() > before);
                // The log comes first; who reads before the answer is cut makes room for the rest of it.
                wait_for("the end of what is sent", || {
                    let mut watched = [PollFd::new(connection.as_fd(), PollFlags::empty())];
                    let _ = poll(&mut watched, PollTimeout::ZERO);
                    watched[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
                });
                let answer = connection.read_response();
                assert!(matches!(answer, Err(Failure::Truncated(_))), "{answer:?}");
            } else {
                assert_eq!(connection.read_response().expect("an answer").body.len(), 250_000);
            }
            assert_eq!(server.get("/version").status, 200);
        }
        assert_eq!(server.workers(), [worker], "it had nothing to do with a client that does not read");
        server.expect_error("request_timeout");
        server.finish();
    });
}

#[test]
fn a_pool_that_is_stuck_whole_answers_everybody() {
    under_each_with_threads(|class| {
        let site = Site::new("all_stuck");
        let mut server = launch(&site, class, "app.so:app", &[("request_timeout", "1"), ("threads", "2")]);
        let old = server.workers()[0];
        let begin = Instant::now();
        let mut connections: Vec<Connection> = (0..6)
            .map(|_| {
                let mut connection = Connection::open(server.address()).expect("it listens");
                connection.send_get(LONG).expect("it reads");
                connection
            })
            .collect();
        for (number, connection) in connections.iter_mut().enumerate() {
            let answer =
                connection.read_response().unwrap_or_else(|failure| panic!("number {number}: {failure}"));
            // 503 from one that leaves is as honest as 504.
            assert!(matches!(answer.status, 503 | 504), "number {number}: {answer:?}");
        }
        about_a_second(class, "six stuck requests ended", begin.elapsed());
        replaced(&server, old);
        let ends = server.messages("ends itself");
        assert!(ends.is_empty(), "also those that waited for a thread have ended: {ends:?}");
        for text in [LONG, "request_timeout"] {
            server.expect_error(text);
        }
        server.finish();
    });
}

/// Whoever waits for a body gives the same answer, however the body is framed and whatever waits for it.
#[test]
fn a_client_that_does_not_send_its_body_in_time_is_told_so() {
    under_each_class(|class| {
        let site = Site::new("late_body");
        site.install(programs().fixture("crowd"), "crowd.so");
        for application in ["blocking", "inline", "async"] {
            let name = format!("crowd.so:{application}");
            let launch = site.launch().class(class).workers(4).with(|file| {
                file.text("application", &name);
            });
            // Under 'sync' more than one would choose another class. Here there are enough for all: who waits for a place
            // among the threads waits for the server.
            let threads = if class.threads { "16" } else { "1" };
            let mut server = launch.settings(&[("request_timeout", "1"), ("threads", threads)]).start();
            let workers = server.wait_workers(4);
            let framings = ["Content-Length: 900", "Content-Length: 90000", "Transfer-Encoding: chunked"]
                .map(|framing| [framing.to_owned(), format!("{framing}\r\nExpect: 100-continue")]);
            let heads = framings.iter().flatten().flat_map(|fields| [(fields, true), (fields, false)]);
            let clients: Vec<_> =
                heads.map(|(fields, drips)| drip(server.address(), fields, drips)).collect();
            for (what, client) in clients {
                let answer = client
                    .join()
                    .expect("a client")
                    .unwrap_or_else(|failure| panic!("{application}, {what}: {failure}\n{}", server.log()));
                assert_eq!(
                    (answer.status, answer.closes()),
                    (408, true),
                    "{application}, {what}: {answer:?}"
                );
            }
            assert_eq!(server.wait_workers(4), workers, "{application}: a slow client costs no worker");
            // One that ended as it was announced has no name any more.
            server.expect_error("request_timeout: ");
            server.finish();
        }
    });
}

type Client = thread::JoinHandle<Result<Response, Failure>>;

/// A client that sends the start of a body, then a bit now and then, or nothing.
fn drip(address: &Address, fields: &str, drips: bool) -> (String, Client) {
    let what = format!("{fields:?}, {}", if drips { "dripping" } else { "silent" });
    let chunked = fields.contains("chunked");
    let mut connection = Connection::open(address).expect("it listens");
    let head = format!("POST /body HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n");
    let bit: &[u8] = if chunked { b"1\r\na\r\n" } else { b"a" };
    let client = thread::spawn(move || {
        connection.send(head.as_bytes())?;
        connection.send(bit)?;
        let mut sender = connection.duplicate();
        let (answered, waits) = mpsc::channel::<()>();
        let drip = thread::spawn(move || {
            let pause = || waits.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout);
            // The server may have answered and closed.
            while drips && pause() && sender.send(bit).is_ok() {}
        });
        let answer = connection.read_response();
        drop(answered);
        drip.join().expect("it ends");
        answer
    });
    (what, client)
}

/// An idle loop gives a sign of life only at every half of `timeout`.
#[test]
fn what_comes_to_an_idle_loop_has_all_of_timeout() {
    under_each_class(|class| {
        if !class.inline_on_loop {
            return;
        }
        let site = Site::new("idle_loop");
        let server = launch(&site, class, "crowd.so:inline", &[("timeout", "3")]);
        let old = server.workers();
        // So long is the loop idle before each, which is what is tried here; together with the last it would be over 3 s.
        for idle in [0, 700, 1400] {
            thread::sleep(Duration::from_millis(idle));
            let answer = server.address().get("/sleep?ms=2200");
            assert_eq!(answer.expect("an answer").status, 200, "after {idle} ms: {}", server.log());
        }
        assert_eq!(server.workers(), old);
        server.finish();
    });
}

/// A loop that is stuck in an application is found by its silence, and the log says in which request.
#[test]
fn a_loop_that_is_stuck_is_found_by_timeout() {
    under_each_class(|class| {
        if !class.inline_on_loop {
            return;
        }
        let site = Site::new("stuck_loop");
        for application in ["crowd.so:inline", "crowd.so:async"] {
            let mut server = launch(&site, class, application, &[("timeout", "1")]);
            let old = server.workers()[0];
            let begin = Instant::now();
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get(LONG).expect("it reads");
            let answer = connection.read_response();
            assert!(
                matches!(answer, Err(Failure::Truncated(_) | Failure::Reset)),
                "{application}: {answer:?}"
            );
            about_a_second(class, "a stuck loop was ended", begin.elapsed());
            let line = server.wait_log("WORKER TIMEOUT");
            assert!(line.contains(&old.to_string()), "{line}");
            let named = server.messages(LONG);
            assert!(
                named.iter().any(|line| line.contains("GET")),
                "no line names the request: {}",
                server.log()
            );
            replaced(&server, old);
            for text in ["WORKER TIMEOUT", LONG, "SIGABRT", "SIGKILL"] {
                server.expect_error(text);
            }
            server.finish();
        }
    });
}
