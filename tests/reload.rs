//! HUP meets something that is wrong: the old generation serves on, and the log says in one line what and why.
//!
//! Each test runs under load: not one request may be lost, whatever is deployed. Afterwards a good HUP must work. What
//! a newcomer would get wrong: the broken deployments are listed in the harness (`breakage.rs`), because the first
//! start meets the same ones in `boot.rs`.

use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, setsockopt, socket,
    sockopt,
};
use std::os::fd::AsRawFd;

use harness::breakage::Breakage;
use harness::{Load, Plan, Server, Signal, Site, each_breakage, process, programs, wait_for};

const PACE: Duration = Duration::from_millis(2);

each_breakage!(is_refused);

fn is_refused(name: &str, breakage: &Breakage) {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let mut launch = site.launch().workers(2).pidfile();
    if breakage.hangs {
        // Forty times what a good start takes.
        launch.settings.raw("boot_timeout", "4");
    }
    let mut server = launch.start();
    let good = server.settings.clone();
    let workers = server.workers();
    let load = Load::start(server.address(), Plan::versions(2).paced(PACE));

    let mut settings = good.clone();
    let kept = (breakage.arrange)(&site, &mut settings);
    server.configure(|current| *current = settings);
    expect_refused(&mut server, breakage.says, || ());
    drop(kept);
    load.more(40);
    assert_eq!(server.workers(), workers, "the old generation's workers serve on");
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));

    expect_good_reload(&site, &mut server, &load, |current| *current = good);
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(0), ["1"]);
    server.finish();
}

/// HUP, and while it goes on something more; it must be refused with one line that contains all of `says`.
#[track_caller]
fn expect_refused(server: &mut Server<'_>, says: &[&str], meanwhile: impl FnOnce()) {
    let (before, errors) = (server.verdicts().len(), server.errors().len());
    server.signal(Signal::SIGHUP);
    meanwhile();
    let verdict = server.wait_verdict(before);
    eprintln!("{verdict}");
    assert!(verdict.starts_with("Reload refused, generation 1 serves on: "), "{verdict}");
    for part in says {
        assert!(verdict.contains(part), "{part:?} is not in: {verdict}");
    }
    let messages: Vec<String> =
        server.errors().split_off(errors).into_iter().map(|line| line.message).collect();
    assert_eq!(messages, [verdict.as_str()], "one line says what is wrong, and no other");
    server.expect_error(&verdict);
}

/// Version 2 replaces version 1, and what the load asks from then on belongs to epoch 2 and is answered by it.
#[track_caller]
fn expect_good_reload(
    site: &Site,
    server: &mut Server<'_>,
    load: &Load,
    change: impl FnOnce(&mut harness::Settings),
) {
    site.install(programs().inspect(2), "app.so");
    server.configure(change);
    load.epoch(1);
    server.reload_well();
    load.epoch(2);
    load.more(40);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
}

#[test]
fn runtime_directory_cannot_change() {
    let site = Site::new("runtime_dir");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(PACE));
    server.configure(|settings| _ = settings.text("runtime_dir", "elsewhere"));
    expect_refused(&mut server, &["runtime_dir", "cannot change"], || ());
    expect_good_reload(&site, &mut server, &load, |settings| _ = settings.remove("runtime_dir"));
    assert_eq!(load.stop().expect_flawless().labels(2), ["2"]);
    server.finish();
}

#[test]
fn a_file_is_not_taken_while_it_is_written() {
    let site = Site::new("slow_cp");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(PACE));

    // As cp(1) does it, but slowly: the old file is cut to nothing, and the new one grows in its place.
    let whole = fs::read(programs().inspect(2)).expect("a plugin");
    let mut file = File::options().write(true).truncate(true).open(site.join("app.so")).expect("the file");
    let slices = whole.chunks(whole.len().div_ceil(30));
    let before = server.verdicts().len();
    for (number, slice) in slices.enumerate() {
        file.write_all(slice).expect("room");
        if number == 3 {
            server.signal(Signal::SIGHUP);
        }
        // The subject of this test: a pause in the middle of a copy.
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(file);
    // Either answer is right: to wait for the file, or to refuse it. Half of it is not.
    let verdict = server.wait_verdict(before);
    eprintln!("{verdict}");
    if verdict.starts_with("Reload refused, generation 1 serves on: ") {
        assert!(verdict.contains("app.so"), "{verdict}");
        server.expect_error(&verdict);
    } else {
        assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    }
    server.reload_well();
    load.epoch(1);
    load.more(40);
    assert_eq!(load.stop().expect_flawless().labels(1), ["2"]);
    server.finish();
}

#[test]
fn address_bound_by_another_that_listens_first() {
    let site = Site::new("listens_first");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(PACE));

    // Bound, and with SO_REUSEADDR like the server's: both can be bound, but only one can listen.
    let other =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&other, sockopt::ReuseAddr, &true).expect("an option");
    bind(other.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
    let address: SockaddrIn = getsockname(other.as_raw_fd()).expect("its address");
    let first = server.settings.get("bind").expect("the harness sets it").to_owned();
    let both = format!("{}, \"127.0.0.1:{}\"]", first.trim_end_matches(']'), address.port());
    // Time to listen, between the server's bind and its listen.
    server.configure(|settings| _ = settings.raw("bind", &both).init("sleep:300"));
    let pid = server.pid();
    let sockets = process::tcp_sockets(pid);
    expect_refused(&mut server, &["127.0.0.1:", "Address already in use"], || {
        wait_for("the server to bind", || process::tcp_sockets(pid).difference(&sockets).next().is_some());
        listen(&other, Backlog::new(5).expect("a number")).expect("we are first");
    });
    drop(other);

    // With the port free the same configuration is good.
    expect_good_reload(&site, &mut server, &load, |_| ());
    wait_for("the new address", || {
        let new = harness::Address::Tcp(std::net::SocketAddr::from(([127, 0, 0, 1], address.port())));
        new.get("/version").is_ok_and(|response| response.text() == "INSPECT-VERSION:2")
    });
    assert_eq!(load.stop().expect_flawless().labels(2), ["2"]);
    server.finish();
}

#[test]
fn images_of_a_refused_generation_do_not_stay() {
    let site = Site::new("refused_images");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let before = site.leftovers();
    assert!(!before.is_empty(), "a generation that serves has images");
    server.configure(|settings| _ = settings.init("fail"));
    for _ in 0..3 {
        expect_refused(&mut server, &["app.so", "asked to fail"], || ());
    }
    wait_for("the images to go", || site.leftovers() == before);
    server.finish();
}

#[test]
fn a_reload_that_changes_nothing_loses_nothing() {
    let site = Site::new("same_again");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2));
    for generation in 2..5 {
        let verdict = server.reload();
        assert!(verdict.starts_with(&format!("Reloaded: generation {generation} serves")), "{verdict}");
    }
    load.more(40);
    load.stop().expect_flawless();
    server.finish();
}
