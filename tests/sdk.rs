//! What the authoring layer promises whoever writes an async application: thousands of waiting requests, bodies of any
//! length in the memory of a few pieces, panics that stay where they happen.
//!
//! The application is `examples/inspect-axum`. What a newcomer would get wrong: a worker's memory is looked at while the
//! body is under way, and compared with what it was after a first, small request, when everything was loaded.

use std::time::{Duration, Instant};

use harness::classes::{CLASSES, classes};
use harness::crowd::room_for;
use harness::usage::own_memory;
use harness::{
    Class, Connection, Crowd, Failure, Manner, Server, Site, programs, under_each_class, wait_for,
};
use rgunicorn_worker_api::sdk::kit;

const MIB: u64 = 1 << 20;
/// What a worker's memory may grow by while a body passes through, whatever its length.
const FEW_PIECES: u64 = 24 * MIB;

fn launch<'s>(site: &'s Site, class: Class, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().inspect_axum(), "app.so");
    site.launch().class(class).workers(1).settings(settings).start()
}

/// A body of a length that no buffer holds.
const LONG: u64 = 1024 * MIB;

/// The most memory that a worker has while its peer does nothing for a moment.
fn most_during_a_pause(worker: i32) -> u64 {
    let (begin, mut most) = (Instant::now(), 0);
    // Nothing can be waited for: what is looked for is that nothing happens.
    while begin.elapsed() < Duration::from_millis(400) {
        most = most.max(own_memory(worker));
        std::thread::sleep(Duration::from_millis(20));
    }
    most
}

#[track_caller]
fn expect_few_pieces(class: Class, before: u64, most: u64, time: Duration) {
    let grown = most.saturating_sub(before);
    let rate = LONG as f64 / MIB as f64 / time.as_secs_f64();
    eprintln!("{}: {} MiB at {rate:.0} MiB/s; {} KiB more", class.name, LONG / MIB, grown / 1024);
    assert!(grown < FEW_PIECES, "{grown}");
}

#[test]
fn five_thousand_requests_wait_in_one_worker() {
    const CLIENTS: usize = 5000;
    const SLEEP: Duration = Duration::from_secs(3);
    // The test's own ends too; the server inherits the limit.
    if !room_for(2 * CLIENTS as u64) {
        return;
    }
    let site = Site::new("sleepers");
    let class = CLASSES[2];
    let server = launch(&site, class, &[("worker_connections", "6000"), ("keepalive", "5")]);
    let worker = server.workers();
    let mut crowd = Crowd::default();
    let begin = Instant::now();
    let target = format!("/sleep?ms={}", SLEEP.as_millis());
    crowd.join(
        server.address(),
        CLIENTS,
        &Manner::asks(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")),
    );
    crowd.until_within(Duration::from_secs(60), "an answer for everybody", |crowd| {
        crowd.clients().iter().all(|client| client.answer().is_some() || client.end().is_some())
    });
    let time = begin.elapsed();
    let slept = |client: &&harness::crowd::Client| {
        client.status() == Some(200) && client.answer().is_some_and(|(_, body)| body == "slept")
    };
    assert_eq!(crowd.clients().iter().filter(slept).count(), CLIENTS);
    eprintln!("{CLIENTS} requests that sleep {SLEEP:?} took {time:.1?} in one worker");
    // One after the other they would take hours.
    assert!(time >= SLEEP && time < Duration::from_secs(40), "{time:?}");
    assert_eq!(server.workers(), worker, "it has not been replaced");
    server.finish();
}

#[test]
fn a_long_answer_passes_through_little_memory() {
    under_each_class(|class| {
        let site = Site::new("download");
        let server = launch(&site, class, &[]);
        let worker = server.workers()[0];
        assert_eq!(server.text("/large?bytes=100000").len(), 100_000);
        let (before, length, begin) = (own_memory(worker), LONG, Instant::now());
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get(&format!("/large?bytes={length}")).expect("it reads");
        let head = connection.read_head().expect("a head");
        assert_eq!(head.field("content-length"), Some(&*length.to_string()));
        let (mut taken, mut most) = (0, before);
        let mut piece = MIB as usize;
        while taken < length {
            piece = piece.min((length - taken) as usize);
            let octets = connection.octets(piece).expect("the body");
            taken += octets.len() as u64;
            // Its alphabets begin anew with each mebibyte only by chance: looking at the first octet is enough.
            let first = b'a' + ((taken - octets.len() as u64) % 26) as u8;
            assert_eq!(octets[0], first);
            if taken.is_multiple_of(32 * MIB) {
                most = most.max(own_memory(worker));
            }
            if taken == length / 2 {
                most = most.max(most_during_a_pause(worker));
            }
        }
        expect_few_pieces(class, before, most, begin.elapsed());
        drop(connection);
        server.finish();
    });
}

#[test]
fn a_long_body_passes_through_little_memory() {
    under_each_class(|class| {
        let site = Site::new("upload");
        let server = launch(&site, class, &[]);
        let worker = server.workers()[0];
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        let (before, length, begin) = (own_memory(worker), LONG, Instant::now());
        let mut connection = Connection::open(server.address()).expect("it listens");
        let head = format!("PUT /version HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        connection.send(head.as_bytes()).expect("it reads");
        let (piece, mut most) = (vec![b'u'; MIB as usize], before);
        for sent in 1..=length / MIB {
            connection.send(&piece).expect("it reads");
            if sent.is_multiple_of(32) {
                most = most.max(own_memory(worker));
            }
            if sent == length / MIB / 2 {
                most = most.max(most_during_a_pause(worker));
            }
        }
        assert_eq!(connection.read_response().expect("an answer").text(), "INSPECT-VERSION:1");
        expect_few_pieces(class, before, most, begin.elapsed());
        drop(connection);
        server.finish();
    });
}

#[test]
fn a_peer_that_takes_nothing_costs_little_memory() {
    under_each_class(|class| {
        let site = Site::new("slow_peer");
        let server = launch(&site, class, &[]);
        let worker = server.workers()[0];
        assert_eq!(server.text("/large?bytes=100000").len(), 100_000);
        let before = own_memory(worker);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/large?bytes=1000000000").expect("it reads");
        // More than this lies nowhere but in the kernel, which does not count as the worker's.
        connection.wait_for_octets(100_000).expect("a beginning");
        let most = most_during_a_pause(worker);
        assert!(most.saturating_sub(before) < FEW_PIECES, "{most}, and {before} before");
        assert_eq!(connection.read_head().expect("a head").status, 200);
        connection.octets(8 * MIB as usize).expect("it goes on");
        connection.reset();
        wait_for("the worker to serve others", || {
            server.address().get("/version").is_ok_and(|answer| answer.status == 200)
        });
        server.finish();
    });
}

/// Each piece is a few octets, as a device on a bad line sends them, and each is asked for at once.
#[test]
fn a_body_in_crumbs_arrives_whole() {
    under_each_class(|class| {
        let site = Site::new("crumbs");
        let server = launch(&site, class, &[]);
        let worker = server.workers()[0];
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        let before = own_memory(worker);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection
            .send(b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            .expect("it reads");
        for _ in 0..2000 {
            connection.send(b"3\r\nabc\r\n").expect("it reads");
            connection.wait_until_taken();
        }
        connection.send(b"0\r\n\r\n").expect("it reads");
        let answer = connection.read_response().expect("an answer").text();
        assert!(answer.contains("\"body_len\":6000"), "{answer}");
        let grown = own_memory(worker).saturating_sub(before);
        assert!(grown < FEW_PIECES, "{grown}");
        drop(connection);
        server.finish();
    });
}

#[test]
fn a_panic_stays_where_it_happens() {
    under_each_class(|class| {
        let site = Site::new("panics");
        let mut server = launch(&site, class, &[]);
        let worker = server.workers();
        server.expect_error("inspect: asked to panic");
        server.expect_error("the application panicked");
        // At once, after a wait, and where nobody waits for it.
        assert_eq!(server.get("/panic").status, 500);
        assert_eq!(server.text("/panic-task"), "the task has panicked");
        let half = server.address().get("/panic-mid?n=3");
        assert!(matches!(half, Err(Failure::Truncated(_) | Failure::Reset)), "{half:?}");
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        assert_eq!(server.workers(), worker);
        let said = server.messages("panicked at examples/inspect-axum/src/lib.rs");
        assert_eq!(said.len(), 3, "each with its place: {}", server.log());
        server.finish();
    });
}

#[test]
fn a_failure_to_begin_is_told_and_the_old_generation_serves_on() {
    for class in classes() {
        let site = Site::new("init");
        let mut server = launch(&site, class, &[]);
        let worker = server.workers();
        for mode in ["fail", "panic", "start:fail", "start:panic"] {
            server.configure(|file| _ = file.init(mode));
            let verdict = server.reload();
            let why = if mode.ends_with("fail") { "asked to fail" } else { "asked to panic" };
            assert!(verdict.starts_with("Reload refused") && verdict.contains(why), "{mode}: {verdict}");
            assert_eq!(
                (server.text("/version").as_str(), server.workers()),
                ("INSPECT-VERSION:1", worker.clone())
            );
            server.expect_error(why);
        }
        server.configure(|file| _ = file.remove("raw_env"));
        server.reload_well();
        server.finish();
    }
    let site = Site::new("init_first");
    site.install(programs().inspect_axum(), "app.so");
    let ended = site.launch().with(|file| _ = file.init("fail")).start_in_vain();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("failed to load: inspect: asked to fail"), "{}", ended.stderr);
}

#[test]
fn two_applications_of_one_library_answer_each_at_its_place() {
    under_each_class(|class| {
        let site = Site::new("pair");
        site.install(programs().example("pair"), "app.so");
        let launch = site.launch().class(class).with(|file| {
            file.text("application", "app.so:plain").list("mount", &["/axum=app.so:axum"]);
        });
        let server = launch.start();
        for target in ["/", "/axum", "/axum/", "/axum?x"] {
            assert_eq!(server.text(target), "Hello, World!\n", "{target}");
        }
        assert_eq!(server.get("/axum/x").status, 404);
        server.finish();
    });
}

/// What the kit offers authors, in this very way.
#[test]
fn the_kit_runs_an_application_under_a_real_server() {
    programs();
    let server = kit::Server::start("pair", "axum", "worker_class = 'poll'\n").expect("a server");
    let answer = server.get("/").expect("an answer");
    assert_eq!((answer.status, &*answer.text(), answer.is_whole), (200, "Hello, World!\n", true));
    assert_eq!(server.ask("POST", "/", &[("X-A", "b")], b"body").expect("an answer").status, 405);
    server.reload().expect("a reload");
    assert_eq!(server.get("/").expect("an answer").status, 200);
    drop(server);
    let refused = kit::Server::start("pair", "none", "").expect_err("no such application").to_string();
    assert!(refused.contains("it has: plain, axum"), "{refused}");
}
