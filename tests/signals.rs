//! What the rows of docs/SIGNALS.md say that no other file tests: log files opened anew, signals for one worker, and
//! those that mean nothing.
//!
//! docs/SIGNALS.md names the test of each row, here or elsewhere. What a newcomer would get wrong: that a signal means
//! nothing can only be seen when something that was sent after it has been done.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::{
    Connection, Failure, Load, Plan, Server, Signal, Site, process, programs, under_each_class, wait_for,
};

/// Whether a process has a file of this name open.
fn has_open(pid: i32, file: &Path) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file))
}

#[track_caller]
fn wait_replaced(server: &Server<'_>, old: i32) {
    wait_for("a new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
    wait_for("an answer of the new worker", || server.text("/pid") != old.to_string());
}

// The master.

#[test]
fn usr1_opens_the_logs_anew_and_no_line_is_lost_or_torn() {
    under_each_class(|class| {
        let site = Site::new("usr1");
        site.install(programs().inspect(1), "app.so");
        let mut server = site
            .launch()
            .class(class)
            .workers(2)
            .with(|settings| {
                settings.text("accesslog", "access.log").text("access_log_format", "%(m)s %(U)s %(s)s end");
            })
            .start();
        let load = Load::start(server.address(), Plan::versions(4));
        let (log, rotations) = (site.join("access.log"), 5);
        for number in 0..rotations {
            load.more(200);
            let old = site.join(&format!("access.log.{number}"));
            site.mine(&format!("access.log.{number}"));
            fs::rename(&log, &old).expect("a log to rotate");
            server.signal(Signal::SIGUSR1);
            wait_for("every worker to have opened the new file", || {
                server.workers().iter().all(|pid| has_open(*pid, &log) && !has_open(*pid, &old))
            });
        }
        load.more(200);
        let report = load.stop();
        report.expect_flawless();
        // At its end a worker writes what it still has.
        let (status, _) = server.stop(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0));
        server.check_log();
        let files = (0..rotations).map(|number| format!("access.log.{number}")).chain(["access.log".into()]);
        let text: String = files.map(|file| site.read(&file)).collect();
        let torn: BTreeSet<&str> = text.lines().filter(|line| *line != "GET /version 200 end").collect();
        assert_eq!(torn, BTreeSet::new());
        assert_eq!(text.lines().count() as u64, report.answered(), "a line for each answer, in all files");
    });
}

#[test]
fn usr1_opens_the_error_log_anew_in_every_process() {
    let site = Site::new("usr1_errors");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).start();
    let (log, old) = (site.join("error.log"), site.join("error.log.1"));
    let all: Vec<i32> = server.workers().into_iter().chain([server.pid()]).collect();
    fs::rename(&log, &old).expect("a log to rotate");
    site.mine("error.log.1");
    server.signal(Signal::SIGUSR1);
    wait_for("every process to have opened the new file", || {
        all.iter().all(|pid| has_open(*pid, &log) && !has_open(*pid, &old))
    });
    assert!(site.read("error.log.1").contains("Handling signal: usr1"));
    server.signal(Signal::SIGTTIN);
    server.wait_log("Handling signal: ttin");
    server.finish();
}

#[test]
fn int_hurries_a_server_that_stops_gracefully_and_term_slows_nothing_down() {
    let stuck = |server: &Server<'_>| {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/sleep?ms=60000").expect("it reads");
        wait_for("the request to be at work", || {
            server.workers().iter().any(|pid| process::sleeping_threads(*pid, "nanosleep") > 0)
        });
        connection
    };
    for (first, second) in [
        (Signal::SIGTERM, Signal::SIGINT),
        (Signal::SIGTERM, Signal::SIGQUIT),
        (Signal::SIGINT, Signal::SIGTERM),
        (Signal::SIGINT, Signal::SIGINT),
    ] {
        let site = Site::new("hurry");
        site.install(programs().inspect(1), "app.so");
        let mut server = site.launch().start();
        let _connection = stuck(&server);
        server.signal(first);
        server.wait_log("Handling signal: ");
        let (status, time) = server.stop(second);
        eprintln!("ended {time:.1?} after {first} and {second}");
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(time < Duration::from_secs(3), "{time:?}");
        let hurried = usize::from(first == Signal::SIGTERM);
        assert_eq!(server.messages("Quick shutdown requested").len(), hurried, "Gunicorn's line");
        server.check_log();
    }
}

#[test]
fn other_signals_mean_nothing_to_the_master() {
    let site = Site::new("meaningless");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().start();
    let worker = server.workers();
    for signal in [
        Signal::SIGTSTP,
        Signal::SIGPIPE,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGURG,
        Signal::SIGXCPU,
        Signal::SIGABRT,
    ] {
        server.signal(signal);
    }
    server.signal(Signal::SIGTTIN);
    let workers = server.wait_workers(2);
    assert!(workers.contains(&worker[0]), "{worker:?} {workers:?}");
    assert!(process::find(server.pid()).is_some_and(|master| master.state != 'T'));
    server.finish();
}

// One worker.

#[test]
fn term_for_a_worker_lets_it_finish_and_loses_nothing() {
    under_each_class(|class| {
        let site = Site::new("worker_term");
        site.install(programs().inspect(1), "app.so");
        let server = site.launch().class(class).workers(2).start();
        let load = Load::start(server.address(), Plan::versions(4));
        for old in server.workers() {
            process::send(old, Signal::SIGTERM);
            server.wait_gone(old);
            server.wait_workers(2);
            load.more(50);
        }
        load.stop().expect_flawless();
        assert_eq!(server.messages("has left without having been told to").len(), 2);
        server.finish();
    });
}

#[test]
fn int_and_quit_for_a_worker_end_it_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let site = Site::new("worker_quit");
        site.install(programs().inspect(1), "app.so");
        let server = site.launch().start();
        let old = server.workers()[0];
        let mut stuck = Connection::open(server.address()).expect("it listens");
        stuck.send_get("/sleep?ms=60000").expect("it reads");
        wait_for("the request to be at work", || process::sleeping_threads(old, "nanosleep") > 0);
        process::send(old, signal);
        let time = server.wait_gone(old);
        eprintln!("the worker ended {time:.1?} after {signal}");
        assert!(time < Duration::from_secs(2), "{time:?}");
        assert!(matches!(stuck.read_response(), Err(Failure::Truncated(_) | Failure::Reset)));
        wait_replaced(&server, old);
        server.finish();
    }
}

#[test]
fn usr1_for_a_worker_opens_its_logs_anew() {
    let site = Site::new("worker_usr1");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().with(|settings| _ = settings.text("accesslog", "access.log")).start();
    let worker = server.workers()[0];
    server.get("/version");
    let (log, old) = (site.join("access.log"), site.join("access.log.1"));
    wait_for("the log", || has_open(worker, &log));
    fs::rename(&log, &old).expect("a log to rotate");
    site.mine("access.log.1");
    process::send(worker, Signal::SIGUSR1);
    wait_for("the new file", || has_open(worker, &log) && !has_open(worker, &old));
    server.finish();
}

#[test]
fn hup_usr2_and_pipe_mean_nothing_to_a_worker() {
    under_each_class(|class| {
        let site = Site::new("worker_hup");
        site.install(programs().inspect(1), "app.so");
        let server = site.launch().class(class).start();
        let worker = server.workers();
        let load = Load::start(server.address(), Plan::versions(2));
        for signal in [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGPIPE] {
            process::send(worker[0], signal);
            load.more(100);
        }
        load.stop().expect_flawless();
        assert_eq!(server.workers(), worker);
        server.finish();
    });
}

#[test]
fn abrt_of_somebody_else_is_a_crash_and_told_as_one() {
    let site = Site::new("worker_abrt");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().start();
    let old = server.workers()[0];
    process::send(old, Signal::SIGABRT);
    let line = server.wait_log("was sent SIGABRT!");
    assert!(line.contains(&old.to_string()) && !line.contains("TIMEOUT"), "{line}");
    server.expect_error("SIGABRT");
    wait_replaced(&server, old);
    assert_eq!(server.messages("WORKER TIMEOUT"), Vec::<String>::new());
    server.finish();
}

#[test]
fn a_worker_that_a_terminal_signal_has_stopped_is_replaced() {
    for signal in [Signal::SIGTTIN, Signal::SIGTSTP] {
        let site = Site::new("worker_tstp");
        site.install(programs().inspect(1), "app.so");
        let mut server = site.launch().settings(&[("timeout", "1")]).start();
        let old = server.workers()[0];
        process::send(old, signal);
        let line = server.wait_log("WORKER TIMEOUT");
        assert!(line.contains(&old.to_string()), "{line}");
        server.expect_error(&old.to_string());
        wait_replaced(&server, old);
        server.finish();
    }
}
