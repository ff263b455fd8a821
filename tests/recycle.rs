//! Workers that ask to be replaced: for their memory, and in turn. `max_requests` is in `supervise.rs`.
//!
//! What a newcomer would get wrong: how many workers there are is no question here. One that asks serves until another
//! is ready, so that clients notice nothing; what is looked at is who answers, and when it was replaced.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::{Load, Plan, Site, process, programs, under_each_class, wait_for};

const GROWTH: &str = "/grow?bytes=67108864";

#[test]
fn a_worker_that_has_grown_is_replaced_and_nothing_is_lost() {
    under_each_class(|class| {
        let site = Site::new("grown");
        site.install(programs().inspect(1), "app.so");
        let server = site.launch().class(class).settings(&[("max_worker_memory", "\"64M\"")]).start();
        let old = server.workers()[0];
        let load = Load::start(server.address(), Plan::versions(4));
        assert_eq!(server.text(GROWTH), "grown");
        let begin = Instant::now();
        server.wait_gone(old);
        eprintln!("replaced {:.1?} after it had grown", begin.elapsed());
        load.more(50);
        load.stop().expect_flawless();
        let line = server.wait_log("Autorestarting worker: it has ");
        assert!(line.contains("may have 67108864"), "{line}");
        server.wait_workers(1);
        server.finish();
    });
}

#[test]
fn workers_that_all_leak_are_replaced_one_after_the_other() {
    let site = Site::new("leak");
    site.install(programs().inspect(1), "app.so");
    let server = site
        .launch()
        .workers(3)
        .settings(&[("max_worker_memory", "\"48M\""), ("recycle_interval", "2")])
        .start();
    let first: BTreeSet<i32> = server.workers().into_iter().collect();
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(2)));
    let mut left = first.clone();
    let mut replaced = Vec::new();
    wait_for("all three to be replaced", || {
        // Whoever answers has grown; by and by that is each of them.
        server.get(GROWTH);
        let gone: Vec<i32> = left.iter().copied().filter(|pid| !process::runs(*pid)).collect();
        replaced.extend(gone.iter().map(|_| Instant::now()));
        left.retain(|pid| !gone.contains(pid));
        left.is_empty()
    });
    let gaps: Vec<Duration> = replaced.windows(2).map(|pair| pair[1] - pair[0]).collect();
    eprintln!("three workers that leak were replaced {gaps:.1?} apart (interval: 2 s)");
    assert!(gaps.iter().all(|gap| *gap > Duration::from_millis(1500)), "{gaps:?}");
    load.more(20);
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn a_limit_that_no_worker_can_keep_replaces_nobody_and_is_said() {
    let site = Site::new("tight");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().settings(&[("max_worker_memory", "1024")]).start();
    let worker = server.workers();
    let line = server.wait_log("max_worker_memory is 1024");
    assert!(line.contains("raise the limit"), "{line}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    assert_eq!(server.workers(), worker);
    server.expect_error("max_worker_memory is 1024");
    server.finish();
}
