//! Stopping, shrinking and replacing lose nobody: who was let in is answered, who is kept is told, and nobody is reset.
//!
//! What a newcomer would get wrong: a connection that is established may still wait in the kernel's queue, where no
//! worker has seen it. It has been promised an answer all the same. So these tests fill that queue and look that it is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::crowd::Client;
use harness::{
    Address, Class, Connection, Crowd, Failure, Load, Manner, Plan, Server, Signal, Site, process, programs,
    under_each_class, under_each_that_keeps_alive, usage, wait_for,
};

/// How long a stop may take where it matters. Nothing here should come near.
const GRACEFUL_TIMEOUT: Duration = Duration::from_secs(20);

/// Long enough that no client of a load is ever idle for so long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Who waits while the worker is busy.
const QUEUED: usize = 24;

const VERSION: &str = "GET /version HTTP/1.1\r\nHost: test\r\n\r\n";
const SLEEP: &str = "GET /sleep?ms=3000 HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn term_answers_all_who_wait_in_the_kernels_queue() {
    // As many connections as threads: nobody else is accepted while these are busy.
    under_each_class(|class| {
        stop_with_a_full_queue("queue", class, busy(class), |server| server.address().clone())
    });
}

#[test]
fn term_answers_all_who_wait_in_the_queue_of_a_unix_socket() {
    under_each_class(|class| {
        stop_with_a_full_queue("queue_unix", class, busy(class), |server| server.addresses()[1].clone());
    });
}

#[test]
fn term_answers_all_who_wait_for_a_thread() {
    // All are accepted, and have sent their requests, and wait for one of two threads.
    under_each_class(|class| {
        stop_with_a_full_queue("threads", class, 1000, |server| server.address().clone())
    });
}

/// How many requests occupy a worker.
fn busy(class: Class) -> usize {
    if class.threads { 2 } else { 1 }
}

fn stop_with_a_full_queue(
    name: &str,
    class: Class,
    worker_connections: usize,
    address: impl Fn(&Server<'_>) -> Address,
) {
    let site = Site::new(name);
    let mut server = launch(&site, class, worker_connections);
    let address = address(&server);
    let worker = server.workers()[0];
    let idle = process::sockets(worker).len();
    let busy = busy(class);
    let mut crowd = Crowd::default();
    crowd.join(&address, busy, &Manner::asks(SLEEP));
    crowd.until("the worker to be busy", |_| process::sockets(worker).len() >= idle + busy);
    crowd.join(&address, QUEUED, &Manner::asks(VERSION));
    crowd.until("everybody to have asked", Crowd::has_said_all);
    if let Address::Tcp(_) = address
        && worker_connections == busy
    {
        let queued = usage::queued(address.port());
        eprintln!("{}: {queued} connections wait in the kernel's queue", class.name);
        assert!(queued >= 20, "the queue was to be full: {queued}");
    }

    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    server.wait_log("Handling signal: term");
    crowd.turn();
    assert_eq!(crowd.open(), busy + QUEUED, "nobody was to be answered before the signal");
    // Newcomers, one after another, until the end.
    let first = crowd.clients().len();
    let mut next = begin;
    crowd_until_ended(&mut server, &mut crowd, |crowd| {
        let now = Instant::now();
        if now >= next && crowd.clients().len() < first + 200 {
            next = now + Duration::from_millis(20);
            crowd.join(&address, 1, &Manner::asks(VERSION));
        }
    });
    let (status, _) = server.wait_end();
    let time = begin.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    // Who could not come in sees that nobody listens any more.
    crowd.until("the end of all connections", |crowd| crowd.open() == 0);

    let (before, newcomers) = crowd.clients().split_at(first);
    for (index, client) in before.iter().enumerate() {
        expect_last_answer(client, if index < busy { "slept" } else { "INSPECT-VERSION:1" });
    }
    let mut let_in = 0;
    for client in newcomers {
        let (_, how) = client.end().expect("it has ended");
        match how {
            Err(Failure::Refused) => {}
            _ => {
                // Who came in before the door was shut is answered like everybody else.
                expect_last_answer(client, "INSPECT-VERSION:1");
                let_in += 1;
            }
        }
    }
    eprintln!(
        "{}: stopped within {time:.1?}, {busy} at work and {QUEUED} waiting answered; of {} newcomers {let_in} \
         came in, none was reset",
        class.name,
        newcomers.len()
    );
    assert!(newcomers.len() > let_in, "the door was to be shut");
    assert!(time < GRACEFUL_TIMEOUT, "{time:?}");
    server.check_log();
}

/// Lets the crowd live, and something happen in each turn, until the server has ended.
fn crowd_until_ended(server: &mut Server<'_>, crowd: &mut Crowd, mut each: impl FnMut(&mut Crowd)) {
    let begin = Instant::now();
    while !server.has_ended() {
        assert!(begin.elapsed() < 2 * GRACEFUL_TIMEOUT, "the server does not end");
        each(crowd);
        crowd.turn();
    }
}

/// A whole answer, which says that the connection closes, and a good end.
#[track_caller]
fn expect_last_answer(client: &Client, body: &str) {
    let heard = client.heard().escape_ascii();
    let end = client.end().map(|(_, how)| how);
    assert_eq!(client.answer().map(|(_, body)| body), Some(body), "{end:?}, heard: {heard}");
    assert!(client.is_told_of_the_close(), "{heard}");
    assert_eq!(end, Some(&Ok(())), "after the answer");
}

fn launch(site: &Site, class: Class, worker_connections: usize) -> Server<'_> {
    site.install(programs().inspect(1), "app.so");
    let seconds = |time: Duration| time.as_secs().to_string();
    let launch = site.launch().class(class).everywhere().settings(&[
        ("worker_connections", &worker_connections.to_string()),
        ("graceful_timeout", &seconds(GRACEFUL_TIMEOUT)),
        ("keepalive", &seconds(KEEP_ALIVE)),
    ]);
    if class.threads { launch.settings(&[("threads", "2")]) } else { launch }.start()
}

/// Clients that ask one request after another on one connection: the stop ends each of them with an answer that says so.
#[test]
fn the_last_answer_says_that_it_is_the_last() {
    under_each_that_keeps_alive(|class| {
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            for unix in [false, true] {
                let site = Site::new("last_answer");
                let mut server = launch(&site, class, 1000);
                let address = server.addresses()[usize::from(unix)].clone();
                let old = server.workers()[0];
                let idle = process::sockets(old).len();
                let clients: Vec<_> = (0..8)
                    .map(|_| {
                        let address = address.clone();
                        std::thread::spawn(move || until_told(&address))
                    })
                    .collect();
                wait_for("the clients to come", || process::sockets(old).len() >= idle + 8);
                server.signal(signal);
                let answered: Vec<u64> = clients
                    .into_iter()
                    .map(|client| match client.join().expect("a client does not panic") {
                        Ok(answered) => answered,
                        Err((answered, failure)) => panic!("after {answered} answers: {failure}"),
                    })
                    .collect();
                eprintln!("{}, {signal}: the last answers after {answered:?}", class.name);
                if signal == Signal::SIGTERM {
                    let (status, _) = server.wait_end();
                    assert_eq!(status.code(), Some(0));
                    server.check_log();
                } else {
                    server.wait_gone(old);
                    server.finish();
                }
            }
        }
    });
}

/// Asks until an answer says that the connection closes, and sees it close; how many answers there were.
fn until_told(address: &Address) -> Result<u64, (u64, Failure)> {
    let mut answered = 0;
    let mut connection = Connection::open(address).map_err(|failure| (answered, failure))?;
    loop {
        let mut ask = || {
            connection.send_get("/version")?;
            connection.read_response()
        };
        let response = ask().map_err(|failure| (answered, failure))?;
        assert_eq!(response.text(), "INSPECT-VERSION:1");
        answered += 1;
        if response.closes() {
            connection.read_end().map_err(|failure| (answered, failure))?;
            return Ok(answered);
        }
    }
}

/// More and fewer workers, reloads, and workers that have served their number, while clients keep their connections.
#[test]
fn workers_come_and_go_under_clients_that_keep_their_connections() {
    under_each_class(|class| {
        for unix in [false, true] {
            let site = Site::new("come_and_go");
            let server = launch(&site, class, 1000);
            let address = server.addresses()[usize::from(unix)].clone();
            let eager = Load::start(&address, Plan::versions(4).kept(KEEP_ALIVE));
            let paced = Plan::versions(4).kept(KEEP_ALIVE).paced(Duration::from_millis(30));
            let paced = Load::start(&address, paced);
            let settled = || {
                eager.more(100);
                paced.more(8);
            };
            for _ in 0..3 {
                server.signal(Signal::SIGTTIN);
                server.wait_workers(2);
                settled();
                server.signal(Signal::SIGTTOU);
                server.wait_workers(1);
                settled();
            }
            for version in [2, 1, 2, 1] {
                site.install(programs().inspect(version), "app.so");
                server.reload_well();
                eager.epoch(u64::from(version));
                settled();
            }
            flawless_but_for_races(class, &[eager, paced].map(Load::stop));
            server.finish();
        }
    });
}

#[test]
fn workers_that_have_served_their_number_leave_their_clients_in_peace() {
    under_each_class(|class| {
        for unix in [false, true] {
            let site = Site::new("served");
            site.install(programs().inspect(1), "app.so");
            let server = site
                .launch()
                .class(class)
                .everywhere()
                .workers(2)
                .settings(&[("max_requests", "50"), ("max_requests_jitter", "20"), ("keepalive", "10")])
                .start();
            let address = server.addresses()[usize::from(unix)].clone();
            let load = Load::start(&address, Plan::pids(4).kept(KEEP_ALIVE));
            wait_for("ten workers to be replaced", || server.messages("Worker exiting").len() >= 10);
            let report = load.stop();
            assert!(report.labels(0).len() >= 10, "each worker has served: {report}");
            flawless_but_for_races(class, &[report]);
            server.wait_workers(2);
            server.finish();
        }
    });
}

/// The one permitted race needs a client that was idle for as long as connections are kept, and here is none: it is
/// counted apart, told, and expected not to have happened.
fn flawless_but_for_races(class: Class, reports: &[harness::Report]) {
    for report in reports {
        report.expect_flawless();
        eprintln!("{}: 0 lost, {} races", class.name, report.races);
    }
}

// Connections that are no longer HTTP.

const UPGRADE: &str =
    "GET /echo-upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// An application that asks whether it is to leave, and does.
#[test]
fn a_stream_that_was_taken_over_is_told() {
    under_each_class(|class| {
        let site = Site::new("told");
        let (mut server, mut connection) = taken_over(&site, class, GRACEFUL_TIMEOUT);
        let begin = Instant::now();
        server.signal(Signal::SIGTERM);
        connection.read_end().expect("a good end");
        eprintln!("{}: a stream that was told ended after {:.1?}", class.name, begin.elapsed());
        assert!(begin.elapsed() < GRACEFUL_TIMEOUT / 2, "it was told at once");
        drop(connection);
        let (status, _) = server.wait_end();
        assert_eq!(status.code(), Some(0));
        server.check_log();
    });
}

/// Its client sends and does not read, so that the application waits for room and cannot look whether it is to leave.
#[test]
fn a_stream_that_does_not_listen_is_closed_at_graceful_timeout() {
    under_each_class(|class| {
        let site = Site::new("closed");
        let graceful = Duration::from_secs(2);
        let (mut server, mut connection) = taken_over(&site, class, graceful);
        let sent = Arc::new(AtomicU64::new(0));
        let so_far = Arc::clone(&sent);
        let talk = std::thread::spawn(move || {
            while connection.send(&[b'a'; 16 * 1024]).is_ok() {
                so_far.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (mut last, mut since) = (0, Instant::now());
        wait_for("all buffers to be full", || {
            let now = sent.load(Ordering::SeqCst);
            if now > last {
                (last, since) = (now, Instant::now());
            }
            now > 0 && since.elapsed() > Duration::from_millis(300)
        });
        let begin = Instant::now();
        server.signal(Signal::SIGTERM);
        wait_for("the end of the connection", || talk.is_finished());
        let closed = begin.elapsed();
        eprintln!(
            "{}: a stream that does not listen was closed after {closed:.1?} of {graceful:?}",
            class.name
        );
        assert!(closed > graceful.mul_f64(0.9), "it had its time: {closed:?}");
        assert!(closed < 5 * graceful, "{closed:?}");
        talk.join().expect("it ends with the connection");
        let (status, _) = server.wait_end();
        assert_eq!(status.code(), Some(0));
    });
}

fn taken_over(site: &Site, class: Class, graceful: Duration) -> (Server<'_>, Connection) {
    site.install(programs().fixture("exchange"), "app.so");
    let graceful = graceful.as_secs().to_string();
    let server = site.launch().class(class).settings(&[("graceful_timeout", &graceful)]).start();
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(UPGRADE.as_bytes()).expect("it reads");
    assert_eq!(connection.read_head().expect("a head").status, 101);
    connection.send(b"hello").expect("it reads");
    assert_eq!(connection.octets(5).expect("an echo"), b"hello");
    (server, connection)
}
