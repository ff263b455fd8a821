//! Who serves: only one worker wakes for a connection, and in the long run all have the same to do.
//!
//! Wakes are context switches of all threads of all workers, as the kernel counts them. What a newcomer would get
//! wrong: on a busy machine a worker is also switched away from while it works, or not let in for a while, which says
//! nothing about the server. So rounds are repeated until the figure is as good as it should be, or there were enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::usage::{self, Switches};
use harness::{
    Class, Connection, Crowd, Load, Manner, Plan, Server, Site, programs, under_each_class,
    under_each_that_keeps_alive, wait_for,
};

/// How many connections a round has.
const CONNECTIONS: u64 = 200;

/// After how many rounds the best one is taken as it is.
const ROUNDS: usize = 10;

/// How often threads of workers may go to sleep for one connection with one request, closing included, under every class:
/// once before the connection comes, perhaps once before the request does, and once more: before the client's end, or
/// where a thread answers, that one. Nobody is woken for the end of an answer, nor to wait for a lock.
const SLEEPS: f64 = 3.3;

/// All their context switches, where the loop itself answers.
const ON_THE_LOOP: f64 = 3.3;

/// The same where a thread answers. On a CPU that they share the kernel lets who is woken run at once: the client
/// interrupts the thread that answers, and that thread has interrupted the loop that was just going to sleep. Two more
/// than sleeps, which are the kernel's choice; on CPUs of their own there are none (2.0 in all).
const ON_A_THREAD: f64 = SLEEPS + 2.2;

/// By how much the busiest of four workers may exceed the idlest, in requests that come on connections of their own.
const EVEN_REQUESTS: f64 = 1.3;

/// The same in connections that are kept.
const EVEN_CONNECTIONS: f64 = 1.5;

const CLOSING: &[u8] = b"GET /pid HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
const REQUEST: &str = "GET /pid HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn only_the_worker_that_serves_wakes() {
    under_each_class(|class| {
        // `inspect` blocks, so that a class with threads gives it to one; `hello` never waits.
        let (inline, blocking) = (programs().hello(), programs().inspect(1));
        let on_threads = |on_loop: bool| if on_loop { ON_THE_LOOP } else { ON_A_THREAD };
        wakes(class, "hello", &inline, on_threads(class.inline_on_loop));
        wakes(class, "inspect", &blocking, on_threads(!class.threads));
    });
}

/// Eight idle workers, and one connection after another.
fn wakes(class: Class, name: &str, application: &std::path::Path, limit: f64) {
    let site = Site::new("wakes");
    site.install(application, "app.so");
    let server = site.launch().class(class).workers(8).start();
    let workers = server.workers();
    one_after_another(&server);
    let (mut best, mut sleeps) = (f64::INFINITY, f64::INFINITY);
    let mut bystanders = u64::MAX;
    for _ in 0..ROUNDS {
        settle(&workers);
        let before = switches_of(&workers);
        let served = one_after_another(&server);
        settle(&workers);
        let now = switches_of(&workers);
        let since = |worker: &i32| now[worker].since(before[worker]);
        let spent: BTreeMap<i32, u64> = workers.iter().map(|worker| (*worker, since(worker).all())).collect();
        let slept: u64 = workers.iter().map(|worker| since(worker).voluntary).sum();
        let of_one = |count: u64| count as f64 / CONNECTIONS as f64;
        let (all, slept) = (of_one(spent.values().sum()), of_one(slept));
        eprintln!(
            "{}, {name}: {all:.2} context switches per connection, {slept:.2} sleeps; by worker {spent:?}",
            class.name
        );
        (best, sleeps) = (best.min(all), sleeps.min(slept));
        let for_nothing =
            spent.iter().filter(|(worker, _)| !served.contains(worker)).map(|(_, count)| *count);
        bystanders = bystanders.min(for_nothing.sum());
        if best <= limit && sleeps <= SLEEPS && bystanders <= CONNECTIONS / 10 {
            break;
        }
    }
    assert!(
        best <= limit,
        "{}, {name}: {best:.2} context switches for each connection, not {limit}",
        class.name
    );
    assert!(sleeps <= SLEEPS, "{}, {name}: {sleeps:.2} sleeps for each connection, not {SLEEPS}", class.name);
    assert!(bystanders <= CONNECTIONS / 10, "{}: who served nobody woke {bystanders} times", class.name);
    server.finish();
}

/// One connection after another, each with one request, to its end; who served them, as far as the answers tell.
fn one_after_another(server: &Server<'_>) -> BTreeSet<i32> {
    let mut served = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send(CLOSING).expect("it reads");
        let response = connection.read_response().expect("an answer");
        assert_eq!(response.status, 200);
        served.extend(response.text().parse::<i32>());
        connection.read_end().expect("its end");
    }
    if served.is_empty() { server.workers().into_iter().collect() } else { served }
}

fn switches_of(workers: &[i32]) -> BTreeMap<i32, Switches> {
    workers.iter().map(|worker| (*worker, usage::switches(*worker))).collect()
}

/// Waits until the workers are done with what they have: nothing happened between two looks.
fn settle(workers: &[i32]) {
    let mut last = switches_of(workers);
    let mut quiet = 0;
    wait_for("the workers to sleep", || {
        let now = switches_of(workers);
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        quiet >= 10
    });
}

#[test]
fn requests_spread_evenly_over_workers() {
    under_each_class(|class| {
        let site = Site::new("spread");
        let server = four_workers(&site, class);
        let mut best: Option<BTreeMap<String, u64>> = None;
        let mut total: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let load = Load::start(server.address(), Plan::pids(16));
            load.more(8000);
            let report = load.stop();
            report.expect_flawless();
            let served: BTreeMap<String, u64> =
                report.counts.into_iter().map(|((_, pid), count)| (pid, count)).collect();
            for (pid, count) in &served {
                *total.entry(pid.clone()).or_default() += count;
            }
            // One round, or all of them so far.
            for counts in [served, total.clone()] {
                if best.as_ref().is_none_or(|best| imbalance(&counts) < imbalance(best)) {
                    best = Some(counts);
                }
            }
            if best.as_ref().is_some_and(|best| imbalance(best) < EVEN_REQUESTS) {
                break;
            }
        }
        expect_even(class, "requests", &best.expect("a round"), EVEN_REQUESTS);
        server.finish();
    });
}

/// Of four workers. One that a busy machine did not let in for a whole round is not among those who served.
fn imbalance(counts: &BTreeMap<String, u64>) -> f64 {
    if counts.len() == 4 { usage::imbalance(counts) } else { f64::INFINITY }
}

#[test]
fn kept_connections_spread_evenly_over_workers() {
    under_each_that_keeps_alive(|class| {
        for (how, group) in [("all at once", 64), ("four at a time", 4), ("one by one", 1)] {
            let site = Site::new("spread_kept");
            let server = four_workers(&site, class);
            let mut crowd = Crowd::default();
            while crowd.clients().len() < 64 {
                crowd.join(server.address(), group, &Manner::asks(REQUEST));
                answered(&mut crowd);
            }
            let mut held: BTreeMap<String, u64> =
                server.workers().iter().map(|pid| (pid.to_string(), 0)).collect();
            for client in crowd.clients() {
                let (_, pid) = client.answer().expect("an answer");
                *held.get_mut(pid).expect("one of the four") += 1;
            }
            expect_even(class, &format!("connections, {how},"), &held, EVEN_CONNECTIONS);

            // Whoever has the connection answers all that comes on it.
            for index in 0..64 {
                crowd.ask(index, REQUEST);
            }
            answered(&mut crowd);
            let mut again: BTreeMap<String, u64> = BTreeMap::new();
            for client in crowd.clients() {
                let (_, pid) = client.answer().expect("an answer");
                *again.entry(pid.to_owned()).or_default() += 1;
            }
            assert_eq!(again, held);
            assert_eq!(crowd.open(), 64, "all are kept");
            drop(crowd);
            server.finish();
        }
    });
}

fn four_workers(site: &Site, class: Class) -> Server<'_> {
    site.install(programs().inspect(1), "app.so");
    let settings = [("threads", "4"), ("keepalive", "30")];
    let server = site.launch().class(class).workers(4).settings(if class.threads { &settings } else { &[] });
    let server = server.start();
    // All four serve: who boots last would have the least to do.
    wait_for("an answer of each worker", || {
        let load = Load::start(server.address(), Plan::pids(8).paced(Duration::from_millis(1)));
        load.more(64);
        load.stop().expect_flawless().labels(0).len() == 4
    });
    server
}

fn answered(crowd: &mut Crowd) {
    crowd.until("all answers", |crowd| {
        crowd.clients().iter().all(|client| client.answer().is_some() || client.end().is_some())
    });
}

#[track_caller]
fn expect_even(class: Class, what: &str, counts: &BTreeMap<String, u64>, limit: f64) {
    let imbalance = usage::imbalance(counts);
    eprintln!("{}: {what} by worker {counts:?}: {imbalance:.2} (wanted: under {limit})", class.name);
    assert_eq!(counts.len(), 4, "all of them serve");
    assert!(imbalance < limit, "{}: {what} {counts:?}", class.name);
}
