//! Load for minutes on end, a reload every ten seconds and a kill every five.
//!
//! Lost may be only what a killed worker had in hand; memory and descriptors of the master stay where they are. What a
//! newcomer would get wrong: a kill is not a deploy. A worker that is killed with SIGKILL takes its requests with it,
//! in every server; so losses are printed beside the number of kills and of requests that can have been at work.

use std::thread;
use std::time::{Duration, Instant};

use harness::{Load, Plan, Signal, Site, process, usage};

use crate::candidates::{Candidate, Manner, Next};

const RELOAD: u64 = 10;
const KILL: u64 = 5;
const CLIENTS: usize = 4;

/// Each class in turn, an equal part of the time.
pub(crate) fn run(minutes: u64) {
    println!(
        "| worker class | time | answered | lost | kills | reloads | memory of the master | its descriptors |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for class in ["sync", "threaded", "poll"] {
        soak(class, Duration::from_secs(minutes * 60 / 3));
    }
}

fn soak(class: &'static str, time: Duration) {
    let site = Site::new("soak");
    let mut running = Candidate::Rgunicorn(class).start(&site, 2048);
    let load = Load::start(&running.address(), Plan::versions(CLIENTS).paced(Duration::from_millis(1)));
    thread::sleep(Duration::from_secs(5));
    let look = |pid: i32| (usage::own_memory(pid), usage::descriptors(pid));
    let before = look(running.pid());
    let (begin, mut second, mut kills, mut reloads) = (Instant::now(), 0, 0, 0);
    while begin.elapsed() < time {
        thread::sleep(Duration::from_secs(1));
        second += 1;
        if second % RELOAD == 0 {
            running.deploy(1 + (reloads + 1) % 2, Next::Good, Manner::Renamed);
            running.hup();
            reloads += 1;
        }
        if second % KILL == 2
            && let Some(worker) = running.workers().first()
        {
            process::send(*worker, Signal::SIGKILL);
            kills += 1;
        }
    }
    thread::sleep(Duration::from_secs(5));
    let after = look(running.pid());
    let report = load.stop();
    println!(
        "| {class} | {} min | {} | {} | {kills} | {reloads} | {} KiB, then {} KiB | {}, then {} |",
        time.as_secs() / 60,
        report.answered(),
        report.failures.len(),
        before.0 / 1024,
        after.0 / 1024,
        before.1,
        after.1
    );
    assert!(running.runs(), "{}", site.read("server.log"));
}
