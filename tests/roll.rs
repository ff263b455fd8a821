//! The time that a reload takes is nobody's: not a client's, not another signal's.
//!
//! Figures are asserted at ten times what is wanted, and printed as measured. What a newcomer would get wrong: the
//! slow application sleeps in the probe *and* in every new worker, so such a reload takes several times its sleep.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use harness::{
    Address, Connection, Failure, Load, Plan, Port, Server, Signal, Site, process, programs, wait_for,
};

/// A little traffic.
const LIGHT: Duration = Duration::from_millis(10);

/// No request may take longer while a slow application boots: 200 ms, ten times over.
const SLOWEST: Duration = Duration::from_millis(2000);

/// What "at once" may take at most here.
const AT_ONCE: Duration = Duration::from_millis(2000);

#[test]
fn a_slow_boot_delays_no_request() {
    let site = Site::new("slow_boot");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(LIGHT));
    site.install(programs().inspect(2), "app.so");
    server.configure(|settings| _ = settings.init("sleep:3000"));
    let begin = Instant::now();
    server.reload_well();
    eprintln!("the reload took {:.1?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(3), "the application was to sleep");
    load.epoch(1);
    load.more(40);
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(1), ["2"]);
    assert!(report.slowest < SLOWEST, "{report}");
    server.finish();
}

#[test]
fn of_several_hups_the_newest_wins() {
    let site = Site::new("newest_wins");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(LIGHT));
    let first: BTreeSet<i32> = server.workers().into_iter().collect();
    let configure = |server: &mut Server<'_>, turn: &str, init: &str| {
        let variables = [format!("TURN={turn}"), format!("INSPECT_INIT={init}")];
        server.configure(|settings| _ = settings.list("raw_env", &variables));
        server.signal(Signal::SIGHUP);
    };
    configure(&mut server, "one", "sleep:500");
    wait_for("the reload to be under way", || server.children().len() > 2);
    configure(&mut server, "two", "fail");
    wait_for("the second HUP to be seen", || server.messages("Handling signal: hup").len() == 2);
    configure(&mut server, "three", "");
    wait_for("the newest configuration to serve", || {
        server.text("/env?name=TURN") == "three" && server.workers().len() == 2
    });
    wait_for("the first workers to leave", || server.workers().iter().all(|pid| !first.contains(pid)));
    load.more(20);
    load.stop().expect_flawless();
    // Whether the second was still read depends on when the third came.
    server.expect_error("Reload refused, generation ");
    wait_for("nothing else to happen", || server.children().len() == 2);
    assert_eq!(server.text("/env?name=TURN"), "three");
    assert!(server.verdicts().last().is_some_and(|verdict| verdict.starts_with("Reloaded: ")));
    server.finish();
}

#[test]
fn term_while_the_probe_is_at_work_acts_at_once() {
    term_during_a_reload("probe", "sleep:60000");
}

#[test]
fn term_while_a_new_worker_boots_acts_at_once() {
    term_during_a_reload("boot", "probe-ok:sleep:60000");
}

fn term_during_a_reload(name: &str, init: &str) {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).pidfile().start();
    server.configure(|settings| _ = settings.init(init));
    server.signal(Signal::SIGHUP);
    // The probe comes, and in the second case goes again and a worker stays.
    wait_for("one child more", || server.children().len() == 3);
    if init.starts_with("probe-ok") {
        let stays = server.children().into_iter().max();
        wait_for("the probe to be through", || {
            let children = server.children();
            children.len() == 3 && children.into_iter().max() != stays
                || server.messages("Booting worker").len() > 2
        });
    }
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let (status, _) = server.wait_end();
    let time = begin.elapsed();
    eprintln!("ended {time:.1?} after TERM");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(time < AT_ONCE, "{time:?}");
    server.check_log();
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn workers_killed_during_a_reload_are_replaced_at_once() {
    let site = Site::new("kill_during");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    server.expect_error("SIGKILL");
    let old = server.workers();
    site.install(programs().inspect(2), "app.so");
    server.configure(|settings| _ = settings.init("sleep:1500"));
    let before = server.verdicts().len();
    server.signal(Signal::SIGHUP);
    wait_for("the reload to be under way", || server.children().len() == 3);
    for pid in &old {
        process::send(*pid, Signal::SIGKILL);
    }
    let begin = Instant::now();
    let answer = server.text("/version");
    let time = begin.elapsed();
    eprintln!("served again {time:.1?} after the kills");
    assert_eq!(answer, "INSPECT-VERSION:1", "the old generation is repaired with what it ran");
    assert!(time < Duration::from_millis(1000), "{time:?}");
    let verdict = server.wait_verdict(before);
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    wait_for("only new workers", || {
        server.workers().len() == 2 && server.text("/version") == "INSPECT-VERSION:2"
    });
    server.finish();
}

#[test]
fn a_roll_does_not_wait_for_stuck_requests() {
    let site = Site::new("stuck");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).start();
    let old = server.workers();
    let sockets = |pid: &i32| process::sockets(*pid).len();
    let idle: Vec<usize> = old.iter().map(sockets).collect();
    // A second worker can only be found for the second request if the first is at work on the first.
    let begin = Instant::now();
    let stuck: Vec<Connection> = (1..=2)
        .map(|number| {
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get("/sleep?ms=6000").expect("it reads");
            wait_for("a worker to take the request", || {
                old.iter().zip(&idle).filter(|(pid, idle)| sockets(pid) > **idle).count() == number
            });
            connection
        })
        .collect();

    site.install(programs().inspect(2), "app.so");
    let verdict = server.reload();
    let time = begin.elapsed();
    eprintln!("rolled {time:.1?} after the first request got stuck");
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
    assert!(begin.elapsed() < Duration::from_secs(6), "the roll has waited for the stuck requests");
    for pid in &old {
        assert!(process::runs(*pid), "a worker at work is not to be ended by a reload");
    }
    for mut connection in stuck {
        assert_eq!(connection.read_response().expect("its answer").text(), "slept");
    }
    for pid in old {
        server.wait_gone(pid);
    }
    server.finish();
}

#[test]
fn draining_ends_with_the_graceful_timeout() {
    let site = Site::new("graceful_timeout");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().with(|settings| _ = settings.raw("graceful_timeout", "1")).start();
    let old = server.workers()[0];
    let idle = process::sockets(old).len();
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send_get("/sleep?ms=60000").expect("it reads");
    wait_for("the worker to take the request", || process::sockets(old).len() > idle);
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    let time = server.wait_gone(old);
    eprintln!("the old worker ended {time:.1?} after the reload");
    assert!(time < Duration::from_secs(10), "{time:?}");
    assert!(matches!(connection.read_response(), Err(Failure::Truncated(_) | Failure::Reset)));
    // That a request was cut off is for an operator to know.
    server.expect_error(&format!("{old}"));
    server.finish();
}

// Listeners.

#[test]
fn an_address_that_stays_keeps_its_socket() {
    let site = Site::new("kept");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let port = server.address().port();
    let load = Load::start(server.address(), Plan::versions(4));
    let before = process::listening(port);
    assert_eq!(before.len(), 1);
    server.configure(|settings| _ = settings.raw("backlog", "100").raw("workers", "3"));
    server.reload_well();
    server.wait_workers(3);
    assert_eq!(process::listening(port), before);
    for pid in server.workers() {
        assert!(before.is_subset(&process::sockets(pid)), "worker {pid} has another socket");
    }
    load.more(50);
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn addresses_come_and_go() {
    let site = Site::new("come_and_go");
    site.install(programs().inspect(1), "app.so");
    let bind = |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>();
    let reserved = Port::reserve();
    let port = reserved.number();
    let tcp = Address::Tcp(reserved.address());
    let (one, two) = (Address::Unix(site.join("one")), Address::Unix(site.join("two")));
    let mut server = site
        .launch()
        .workers(2)
        .with(|settings| _ = settings.list("bind", &["127.0.0.1:0", "unix:one"]))
        .start();
    let load = Load::start(server.address(), Plan::versions(2));
    assert!(one.get("/version").is_ok());
    assert_eq!(tcp.get("/version"), Err(Failure::Refused));

    // Two come, one goes.
    let line = format!("127.0.0.1:{port}");
    server.configure(|settings| _ = settings.list("bind", &bind(&["127.0.0.1:0", &line, "unix:two"])));
    server.reload_well();
    for address in [&tcp, &two] {
        assert_eq!(address.get("/version").expect("it listens").text(), "INSPECT-VERSION:1");
    }
    assert_eq!(one.get("/version"), Err(Failure::Refused));
    assert!(!site.join("one").exists(), "a socket's file goes with it");
    server.wait_log(&format!("Listening at: http://{line}"));

    // The TCP one goes, too.
    server.configure(|settings| _ = settings.list("bind", &bind(&["unix:two", "127.0.0.1:0"])));
    server.reload_well();
    wait_for("the port to be free", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert_eq!(two.get("/version").expect("it stays").text(), "INSPECT-VERSION:1");
    load.more(50);
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn requests_queued_at_an_address_that_goes_are_answered() {
    let site = Site::new("queue");
    site.install(programs().inspect(1), "app.so");
    let mut server =
        site.launch().with(|settings| _ = settings.list("bind", &["127.0.0.1:0", "unix:stays"])).start();
    let worker = server.workers()[0];
    let idle = process::sockets(worker).len();
    let mut first = Connection::open(server.address()).expect("it listens");
    first.send_get("/sleep?ms=1500").expect("it reads");
    wait_for("the worker to take the request", || process::sockets(worker).len() > idle);
    let queued: Vec<Connection> = (0..10)
        .map(|_| {
            let mut connection = Connection::open(server.address()).expect("there is room");
            connection.send_get("/version").expect("there is room");
            connection
        })
        .collect();
    server.configure(|settings| _ = settings.list("bind", &["unix:stays"]));
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert_eq!(first.read_response().expect("its answer").text(), "slept");
    for mut connection in queued {
        assert_eq!(connection.read_response().expect("its answer").text(), "INSPECT-VERSION:1");
    }
    server.wait_gone(worker);
    wait_for("the port to be free", || process::listening(server.address().port()).is_empty());
    server.finish();
}
