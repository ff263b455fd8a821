//! Ten thousand connections that do nothing cost almost nothing, and a reload is polite to each of them.
//!
//! What a newcomer would get wrong: what the allocator once took for requests at work is not given back when they are
//! over. So clients come in small groups, each of which has its answers before the next one comes.

use std::time::{Duration, Instant};

use harness::{Class, Crowd, Manner, Server, Site, crowd, process, programs, usage, wait_for};

const IDLE: usize = 10_000;

/// How many come at a time.
const GROUP: usize = 50;

/// Octets of private memory that each may cost: what nginx needs. Measured: 156 to 201.
const MOST: u64 = 507;

/// Long enough to open all of them and to look at them.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

const REQUEST: &str = "GET /pid HTTP/1.1\r\nHost: test\r\n\r\n";
const SLEEPING: &str = "GET /sleep?ms=1500 HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn ten_thousand_idle_connections() {
    let Some(poll) = harness::classes::classes().find(|class: &Class| class.name == "poll") else {
        eprintln!("skipped: the worker class poll is not built here");
        return;
    };
    // The worker inherits the limit, and needs one descriptor for each of them, as this process does.
    if !crowd::room_for(IDLE as u64 + 1000) {
        return;
    }
    let site = Site::new("idle");
    site.install(programs().inspect(1), "app.so");
    let server = site
        .launch()
        .class(poll)
        .settings(&[
            ("threads", "4"),
            ("worker_connections", "12000"),
            ("keepalive", &KEEP_ALIVE.as_secs().to_string()),
        ])
        .start();
    let old = server.workers()[0];

    // One group first, so that everything that happens once has happened.
    let mut crowd = Crowd::default();
    join(&mut crowd, &server);
    let before = usage::private_memory(old);
    let opened = Instant::now();
    while crowd.clients().len() < IDLE {
        join(&mut crowd, &server);
    }
    let opened = opened.elapsed();
    let more = usage::private_memory(old).saturating_sub(before);
    let each = more / (IDLE - GROUP) as u64;
    eprintln!("opened {IDLE} connections in {opened:.1?}; {each} octets of private memory each");
    assert!(each <= MOST, "{each} octets for each idle connection, not {MOST}");

    idleness(&mut crowd, old);
    assert_eq!(crowd.open(), IDLE, "nobody's time is over yet");
    reload_with_all_of_them(&mut crowd, &server, old);
    server.finish();
}

/// A group comes, asks once each, and stays.
fn join(crowd: &mut Crowd, server: &Server<'_>) {
    let first = crowd.clients().len();
    crowd.join(server.address(), GROUP, &Manner::asks(REQUEST));
    crowd.until("an answer for each of the group", |crowd| {
        crowd.clients()[first..].iter().all(|client| client.answer().is_some() || client.end().is_some())
    });
    for client in &crowd.clients()[first..] {
        assert_eq!(client.end(), None, "it is to be kept");
        assert!(client.status() == Some(200) && !client.is_told_of_the_close());
    }
}

/// The worker sleeps, whoever is connected.
fn idleness(crowd: &mut Crowd, worker: i32) {
    let (time, switches) = (usage::cpu_time(worker), usage::switches(worker));
    let begin = Instant::now();
    // The subject of this test: nothing happens.
    crowd.until("three seconds to pass", |_| begin.elapsed() >= Duration::from_secs(3));
    let spent = usage::cpu_time(worker) - time;
    let woken = usage::switches(worker).since(switches).voluntary;
    eprintln!("in 3 s of idleness the worker spent {spent:?} and woke {woken} times");
    assert!(spent <= Duration::from_millis(60), "{spent:?} of CPU for nothing");
    assert!(woken <= 60, "it woke {woken} times for nothing");
}

/// Every idle connection is kept for its time and then ended well; those that are used are told.
fn reload_with_all_of_them(crowd: &mut Crowd, server: &Server<'_>, old: i32) {
    // One has its request under way when the reload comes, one sends its next when the worker already drains.
    let (under_way, next) = (0, 1);
    let last: Vec<Instant> = crowd.clients().iter().map(harness::crowd::Client::last).collect();
    crowd.ask(under_way, SLEEPING);
    crowd.until("the request to be at work", |crowd| crowd.clients()[under_way].has_sent());
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    crowd.ask(next, REQUEST);
    crowd.until("both answers", |crowd| {
        [under_way, next].iter().all(|index| crowd.clients()[*index].end().is_some())
    });
    for (index, body) in [(under_way, "slept".to_owned()), (next, old.to_string())] {
        let client = &crowd.clients()[index];
        assert_eq!(client.answer().map(|(_, body)| body), Some(body.as_str()));
        assert!(client.is_told_of_the_close(), "{}", client.heard().escape_ascii());
        assert_eq!(client.end().map(|(_, how)| how), Some(&Ok(())));
    }
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1", "the new worker serves meanwhile");

    crowd.until_within(2 * KEEP_ALIVE, "the end of all idle connections", |crowd| crowd.open() == 0);
    let mut kept = Vec::new();
    for (client, last) in crowd.clients().iter().zip(last).skip(2) {
        let (when, how) = client.end().expect("it has ended");
        assert_eq!(how, &Ok(()), "an idle connection is ended by half-close, not by a reset");
        kept.push(when.duration_since(last));
    }
    kept.sort_unstable();
    let (least, most) = (kept[0], kept[kept.len() - 1]);
    eprintln!(
        "idle connections of a draining worker were kept for {least:.1?} to {most:.1?} of {KEEP_ALIVE:?}"
    );
    // Timers may be coarse, and the server's clock runs from its last octet, ours from when it came.
    assert!(least >= KEEP_ALIVE.mul_f64(0.9), "one was closed {least:?} after its answer");
    server.wait_gone(old);
    wait_for("one new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
    assert_eq!(server.text("/pid"), server.workers()[0].to_string());
    assert!(process::runs(server.workers()[0]));
}
