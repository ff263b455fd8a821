//! `--reuse-port`: several queues on one address, and none of them is ever reset.
//!
//! What a newcomer would get wrong: the sockets outnumber the workers after a TTOU, and that is the point. Whoever
//! waits in the queue of one that nobody served any more would be lost.

use std::collections::BTreeSet;

use harness::{Load, Plan, Server, Signal, Site, process, programs, under_each_class, wait_for};

fn sockets(server: &Server<'_>) -> BTreeSet<u64> {
    process::listening(server.address().port())
}

#[test]
fn as_many_sockets_as_workers_and_all_are_the_masters() {
    let site = Site::new("reuse_port");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().everywhere().workers(3).args(&["--reuse-port"]).start();
    let listening = sockets(&server);
    assert_eq!(listening.len(), 3);
    assert!(process::sockets(server.pid()).is_superset(&listening));
    let at = server.messages("Listening at: ");
    assert_eq!(at.len(), 2, "each address is named once: {at:?}");
    assert_eq!(server.addresses()[1].get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
    server.finish();

    let server = site.launch().workers(3).start();
    assert_eq!(sockets(&server).len(), 1, "without the setting there is one");
    server.finish();
}

/// TTOU, TTIN, HUP with fewer and with more workers, a worker killed: each under load, and every connection that was
/// made is answered.
#[test]
fn nothing_resets_a_connection() {
    under_each_class(|class| {
        let site = Site::new("no_reset");
        site.install(programs().inspect(1), "app.so");
        let mut server = site.launch().class(class).workers(4).settings(&[("reuse_port", "true")]).start();
        let first = sockets(&server);
        let load = Load::start(server.address(), Plan::versions(8));
        for _ in 0..3 {
            let workers = server.workers().len();
            server.signal(Signal::SIGTTOU);
            server.wait_workers(workers - 1);
            load.more(100);
        }
        // One worker is left, and serves four queues.
        assert_eq!(sockets(&server), first);
        load.more(400);
        server.signal(Signal::SIGTTIN);
        server.wait_workers(2);
        server.reload_well();
        server.wait_workers(4);
        assert_eq!(sockets(&server), first, "a reload keeps each of them");

        server.configure(|settings| _ = settings.raw("workers", "2"));
        server.reload_well();
        server.wait_workers(2);
        load.more(200);
        assert_eq!(sockets(&server), first, "none is closed because there are fewer workers");
        server.configure(|settings| _ = settings.raw("workers", "6"));
        server.reload_well();
        server.wait_workers(6);
        let more = sockets(&server);
        assert!(more.len() == 6 && more.is_superset(&first), "{first:?} {more:?}");
        load.more(400);
        let report = load.stop();
        report.expect_flawless();
        assert_eq!(report.connections, report.answered(), "each connection that was opened was answered");
        server.finish();
    });
}

/// A client that waits in a queue when the worker that would have taken it dies is served by another.
#[test]
fn no_queue_is_left_alone_when_a_worker_dies() {
    let site = Site::new("queues");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(4).settings(&[("reuse_port", "true")]).start();
    let all: BTreeSet<i32> = server.workers().into_iter().collect();
    let survivor = *all.first().expect("four");
    // Stopped ones hold their sockets open and accept nothing, as a dying one does for a moment.
    for pid in all.iter().filter(|pid| **pid != survivor) {
        process::send(*pid, Signal::SIGSTOP);
        wait_for("it to stop", || process::find(*pid).is_some_and(|found| found.state == 'T'));
    }
    let mut served = BTreeSet::new();
    for _ in 0..64 {
        served.insert(server.text("/pid").parse::<i32>().expect("a pid"));
    }
    assert_eq!(served, BTreeSet::from([survivor]), "one worker empties all four queues");
    for pid in &all {
        process::send(*pid, Signal::SIGCONT);
    }
    for pid in all.iter().filter(|pid| **pid != survivor) {
        process::send(*pid, Signal::SIGKILL);
    }
    // Whether it had been ready or not: who has said that it boots need not have got further.
    server.wait_log("SIGKILL");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    wait_for("four workers, all but one new", || {
        let now: BTreeSet<i32> = server.workers().into_iter().collect();
        now.len() == 4 && now.intersection(&all).count() == 1
    });
    server.expect_error("SIGKILL");
    server.finish();
}

#[test]
fn a_reload_that_is_rolled_back_takes_its_sockets_with_it_and_resets_nobody() {
    let site = Site::new("rolled_back");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).settings(&[("reuse_port", "true")]).start();
    let first = sockets(&server);
    let load = Load::start(server.address(), Plan::versions(4));
    server.configure(|settings| _ = settings.raw("workers", "4").init("probe-ok:sleep:2000"));
    let (before, old) = (server.verdicts().len(), server.workers());
    server.signal(Signal::SIGHUP);
    // The first new worker is ready and serves: others boot. One of those fails.
    let newest = || server.messages("Booting worker with pid: ").pop()?.rsplit(' ').next()?.parse().ok();
    wait_for("a second new worker", || server.workers().iter().filter(|pid| !old.contains(pid)).count() > 1);
    process::send(newest().expect("it has said so"), Signal::SIGKILL);
    let verdict = server.wait_verdict(before);
    assert!(verdict.starts_with("Reload rolled back, generation 1 serves on: "), "{verdict}");
    load.more(200);
    wait_for("two sockets", || sockets(&server) == first);
    load.stop().expect_flawless();
    server.expect_error("Reload rolled back");
    server.finish();
}
