//! Clients that are slow on purpose: they cost the server a buffer each, and nobody else waits for them.
//!
//! More than a thousand of them at once, in one thread of the test ([`Crowd`]), while a healthy client's requests are
//! timed. What a newcomer would get wrong: the kernel hides slow clients, since it takes what they send late and keeps
//! what they read late. So heads and bodies come octet by octet, and answers are larger than all buffers on their way.

use std::time::{Duration, Instant};

use harness::{
    Class, Crowd, Load, Manner, Plan, Server, Site, crowd, programs, under_each_with_threads, usage, wait_for,
};

/// Who drips a head, who drips a body, who sips an answer.
const HEADS: usize = 500;
const BODIES: usize = 500;
const READERS: usize = 200;
const ALL: usize = HEADS + BODIES + READERS;

/// How long the server waits for a whole head, for more of a body, for a client to take something.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const BODY_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two octets.
const PACE: Duration = Duration::from_secs(1);

/// What the answers that are sipped have; the kernel buffers four million octets of a connection at most (tcp(7)).
const LARGE: u64 = 8 << 20;

/// Octets of a body that are dripped before the client falls silent.
const BODY_DRIPS: usize = 6;

/// What one slow client may cost in memory while it is there. A thread that waits for it has touched a few pages of
/// its stack, and the piece of the answer that could not be sent yet is 64 KiB.
const MEMORY_OF_ONE: u64 = 160 << 10;

#[test]
fn a_healthy_client_does_not_feel_a_thousand_slow_ones() {
    // Both ends are in use at a time, and more tests than this one may run.
    if !crowd::room_for(2 * ALL as u64 + 500) {
        return;
    }
    under_each_with_threads(|class| {
        let site = Site::new("slow");
        let server = launch(&site, class);
        let worker = server.workers()[0];
        warm_up(&server);
        let before = Costs::of(worker);

        let mut crowd = Crowd::default();
        those_who_sip(&mut crowd, &server);
        those_who_drip(&mut crowd, &server, before.descriptors);
        let (slowest, p99) = healthy_while(&mut crowd, &server);
        let during = Costs::of(worker);
        let open = crowd.open();
        eprintln!(
            "{}: with {open} slow clients p99 {p99:.1?}, slowest {slowest:.1?} (wanted: p99 under 100 ms); {during}",
            class.name
        );
        assert_eq!(open, ALL, "the slow ones were to be there all the time");
        assert!(p99 < Duration::from_secs(1), "{p99:?}");
        let grown = during.memory.saturating_sub(before.memory);
        assert!(grown < MEMORY_OF_ONE * ALL as u64, "{grown} octets more with {ALL} slow clients");

        closed_by_their_timeouts(&mut crowd, &server, worker, &before);
        wait_for("its threads to leave", || usage::threads(worker).len() <= before.threads);
        let after = Costs::of(worker);
        eprintln!("{}: before: {before}; after: {after}", class.name);
        assert_eq!(server.workers(), [worker], "the worker has survived them");
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.finish();
    });
}

/// What was taken for one crowd serves the next: nothing grows with every visit.
#[test]
fn a_crowd_costs_no_more_than_the_one_before() {
    if !crowd::room_for(2 * ALL as u64 + 500) {
        return;
    }
    under_each_with_threads(|class| {
        let site = Site::new("slow_again");
        let server = launch(&site, class);
        let worker = server.workers()[0];
        warm_up(&server);
        let before = Costs::of(worker);
        let mut peaks = Vec::new();
        for _ in 0..4 {
            let mut crowd = Crowd::default();
            let body = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n";
            crowd.join(server.address(), BODIES, &Manner::drips(body, b"a", Duration::from_millis(100)));
            let all = before.descriptors + BODIES;
            crowd.until("the worker to have accepted them", |_| usage::descriptors(worker) >= all);
            crowd.until("each to have sent its octet", |crowd| crowd.has_said_all());
            peaks.push(usage::private_memory(worker));
            // They leave in the middle of their bodies.
            drop(crowd);
            wait_for("the worker to see it", || usage::descriptors(worker) <= before.descriptors);
            wait_for("its threads to leave", || usage::threads(worker).len() <= before.threads);
        }
        // The first one fills what is kept for the next.
        let [_, second, .., last] = peaks.as_slice() else { unreachable!("four rounds") };
        eprintln!("{}: {} at first, with each crowd {peaks:?} octets", class.name, before.memory);
        assert!(*last < second + second / 4, "{peaks:?}");
        server.finish();
    });
}

fn launch(site: &Site, class: Class) -> Server<'_> {
    site.install(programs().inspect(1), "app.so");
    let seconds = |time: Duration| time.as_secs().to_string();
    site.launch()
        .class(class)
        .settings(&[
            ("threads", "4"),
            ("worker_connections", "2000"),
            ("head_timeout", &seconds(HEAD_TIMEOUT)),
            ("body_timeout", &seconds(BODY_TIMEOUT)),
            ("write_timeout", &seconds(WRITE_TIMEOUT)),
        ])
        .start()
}

/// Everything that happens once in a worker's life has happened, and all its threads are there.
fn warm_up(server: &Server<'_>) {
    let load = Load::start(server.address(), Plan::versions(8));
    load.more(200);
    load.stop().expect_flawless();
    wait_for("the last client's end", || accepted(server) == 0);
}

/// How many connections the worker holds.
fn accepted(server: &Server<'_>) -> usize {
    usage::accepted(server.address().port())
}

/// They come first: until the buffers of the kernel are full, a thread works for each of them as for anybody.
fn those_who_sip(crowd: &mut Crowd, server: &Server<'_>) {
    let large = format!("GET /large?bytes={LARGE} HTTP/1.1\r\nHost: test\r\n\r\n");
    crowd.join(server.address(), READERS, &Manner::sips(&large, PACE));
    crowd.until("their answers to begin", |crowd| crowd.clients().iter().all(|client| client.taken() > 0));
    let worker = server.workers()[0];
    let (mut spent, mut since) = (usage::cpu_time(worker), Instant::now());
    crowd.until("the worker to have nothing to do for them", |_| {
        let now = usage::cpu_time(worker);
        if now > spent {
            (spent, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(200)
    });
}

fn those_who_drip(crowd: &mut Crowd, server: &Server<'_>, before: usize) {
    let head = "GET / HTTP/1.1\r\nHost: test\r\nX-Slow: ";
    crowd.join(server.address(), HEADS, &Manner::drips(head, &[b'a'; 1000], PACE));
    let body = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n";
    crowd.join(server.address(), BODIES, &Manner::drips(body, &[b'a'; BODY_DRIPS], PACE));
    let worker = server.workers()[0];
    crowd.until("the worker to have accepted everybody", |_| usage::descriptors(worker) >= before + ALL);
}

/// The slowest request of healthy clients, and the time that 99 of 100 stay below, while the crowd is slow.
fn healthy_while(crowd: &mut Crowd, server: &Server<'_>) -> (Duration, Duration) {
    let begin = Instant::now();
    let fresh = Load::start(server.address(), Plan::versions(1).paced(Duration::from_millis(2)));
    let kept = Plan::versions(1).kept(Duration::from_secs(2)).paced(Duration::from_millis(2));
    let kept = Load::start(server.address(), kept);
    crowd.until("requests of healthy clients", |_| {
        begin.elapsed() > 2 * PACE && fresh.done() >= 300 && kept.done() >= 300
    });
    let (fresh, kept) = (fresh.stop(), kept.stop());
    fresh.expect_flawless();
    kept.expect_flawless();
    (fresh.slowest.max(kept.slowest), fresh.p99.max(kept.p99))
}

/// Who drips is told 408, who sips is left in the middle of its answer, and of none of them anything stays in the worker.
fn closed_by_their_timeouts(crowd: &mut Crowd, server: &Server<'_>, worker: i32, before: &Costs) {
    crowd.until("those who drip to be told", |crowd| {
        crowd.clients()[READERS..].iter().all(|client| client.end().is_some())
    });
    for client in &crowd.clients()[READERS..] {
        let (_, how) = client.end().expect("it has ended");
        assert_eq!((client.status(), how), (Some(408), &Ok(())), "{}", client.heard().escape_ascii());
        assert!(client.is_told_of_the_close(), "{}", client.heard().escape_ascii());
    }
    crowd.until("the worker to leave those who sip", |_| usage::descriptors(worker) <= before.descriptors);
    // What the kernel still has for them, and for how long, is the kernel's affair (tcp_orphan_retries in tcp(7)).
    for client in &crowd.clients()[..READERS] {
        assert!(client.status() == Some(200) && client.taken() < LARGE, "{} octets", client.taken());
    }
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
}

/// What a worker costs.
#[derive(Debug)]
struct Costs {
    memory: u64,
    threads: usize,
    descriptors: usize,
}

impl Costs {
    fn of(worker: i32) -> Self {
        Self {
            memory: usage::private_memory(worker),
            threads: usage::threads(worker).len(),
            descriptors: usage::descriptors(worker),
        }
    }
}

impl std::fmt::Display for Costs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { memory, threads, descriptors } = self;
        write!(f, "{} KiB private, {threads} threads, {descriptors} descriptors", memory >> 10)
    }
}
