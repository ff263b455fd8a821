//! The hot swap: a new application takes over under load, and nobody notices.
//!
//! What a newcomer would get wrong: after `Reloaded:` an old worker may still answer what it had accepted. So "only
//! the new version answers" is asked of requests that begin once the old workers are gone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::{Load, Plan, Report, Server, Signal, Site, process, programs, wait_for};

const SWAPS: u64 = 20;

#[test]
fn twenty_swaps_by_rename_lose_nothing() {
    let swap = |site: &Site, from: &Path| site.install(from, "app.so");
    let report = swap_under_load("rename", 4, swap);
    assert!(report.answered() > 1000, "thousands were to be asked: {report}");
}

#[test]
fn twenty_swaps_by_copying_over_the_live_file_lose_nothing() {
    let swap = |site: &Site, from: &Path| {
        let inode = fs::metadata(site.join("app.so")).expect("it is there").ino();
        site.overwrite(from, "app.so");
        assert_eq!(
            fs::metadata(site.join("app.so")).expect("it is there").ino(),
            inode,
            "cp keeps the inode"
        );
    };
    let report = swap_under_load("copy", 4, swap);
    assert!(report.answered() > 1000, "thousands were to be asked: {report}");
}

/// Swaps between version 1 and 2, `clients` clients asking all the time.
fn swap_under_load(name: &str, clients: usize, swap: impl Fn(&Site, &Path)) -> Report {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).pidfile().start();
    let load = Load::start(server.address(), Plan::versions(clients));
    let version = |number: u64| if number % 2 == 1 { 2 } else { 1 };
    for number in 1..=SWAPS {
        // Odd epochs: either version may answer. Even ones: only the new one.
        load.epoch(2 * number - 1);
        swap(&site, &programs().inspect(version(number)));
        server.reload_well();
        load.epoch(2 * number);
        load.more(30);
    }
    let report = load.stop();
    report.expect_flawless();
    for number in 1..=SWAPS {
        assert_eq!(report.labels(2 * number), [version(number).to_string()], "after swap {number}");
    }
    assert_eq!(server.verdicts().len() as u64, SWAPS);
    assert_eq!(server.messages("Listening at: ").len(), 1, "the socket stays the same");
    server.finish();
    report
}

#[test]
fn large_answers_survive_swaps_whole() {
    let site = Site::new("large");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::large(3, 4_000_000));
    for number in 0..4 {
        site.overwrite(programs().inspect(1 + number % 2), "app.so");
        server.reload_well();
        load.more(6);
    }
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn swaps_on_a_unix_socket_lose_nothing() {
    let site = Site::new("unix");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).with(|settings| _ = settings.list("bind", &["unix:s"])).start();
    let load = Load::start(server.address(), Plan::versions(4));
    for number in 1..=4 {
        site.install(programs().inspect(1 + number % 2), "app.so");
        server.reload_well();
        load.epoch(number.into());
        load.more(30);
    }
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(4), ["1"]);
    server.finish();
}

#[test]
fn a_symlink_is_followed_afresh() {
    let site = Site::new("symlink");
    for version in [1, 2] {
        site.directory(&format!("release-{version}"));
        fs::copy(programs().inspect(version), site.join(&format!("release-{version}/app.so")))
            .expect("a copy");
        site.mine(&format!("release-{version}/app.so"));
    }
    let link = |version| {
        std::os::unix::fs::symlink(format!("release-{version}"), site.join("next")).expect("a link");
        fs::rename(site.join("next"), site.join("current")).expect("its name");
        site.mine("current");
    };
    link(1);
    let server =
        site.launch().with(|settings| _ = settings.text("application", "current/app.so:app")).start();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    link(2);
    server.reload_well();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
    server.finish();
}

#[test]
fn a_new_worker_class_takes_over_too() {
    let site = Site::new("class");
    site.install(programs().inspect(1), "app.so");
    site.install(programs().sync(), "class.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(4));
    server.configure(|settings| _ = settings.text("worker_class", "./class.so"));
    server.reload_well();
    load.more(50);
    load.stop().expect_flawless();
    let mapped = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).expect("it runs");
    assert!(mapped.contains("class.so"), "{mapped}");
    server.finish();
}

// What happens to the operator's file does nothing to a server that runs.

#[test]
fn a_truncated_file_changes_nothing_even_for_new_workers() {
    respawns_after("truncate", |site| {
        let file = File::options().write(true).open(site.join("app.so")).expect("it is there");
        file.set_len(0).expect("truncate -s 0");
    });
}

#[test]
fn a_removed_file_changes_nothing_even_for_new_workers() {
    respawns_after("rm", |site| fs::remove_file(site.join("app.so")).expect("rm"));
}

#[test]
fn a_newer_file_without_a_hup_changes_nothing_even_for_new_workers() {
    respawns_after("newer", |site| site.overwrite(programs().inspect(2), "app.so"));
}

/// Every worker is killed and replaced once after `ruin`; the new ones run what the old ones ran.
fn respawns_after(name: &str, ruin: impl Fn(&Site)) {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    server.expect_error("SIGKILL");
    let old: BTreeSet<i32> = server.workers().into_iter().collect();
    ruin(&site);
    for pid in &old {
        process::send(*pid, Signal::SIGKILL);
    }
    wait_for_new_workers(&server, &old, 2);
    // Kills may lose what was under way, so the load begins now.
    let load = Load::start(server.address(), Plan::versions(4));
    load.more(200);
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(0), ["1"]);
    assert_eq!(server.verdicts(), Vec::<String>::new(), "nobody has asked for a reload");

    site.install(programs().inspect(2), "app.so");
    server.reload_well();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
    server.finish();
}

fn wait_for_new_workers(server: &Server<'_>, old: &BTreeSet<i32>, count: usize) {
    wait_for("all workers to be new", || {
        let workers = server.workers();
        workers.len() == count && workers.iter().all(|pid| !old.contains(pid))
    });
}
