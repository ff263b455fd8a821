//! Supervision: who dies is replaced, who hangs is ended, and a signal means what it means in Gunicorn.
//!
//! Figures are asserted at ten times what is wanted, and printed as measured. What a newcomer would get wrong: a
//! request that is at work in a worker when it is killed is lost, and so no load runs in tests that kill.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::{
    Address, Connection, DEADLINE, Failure, Load, Plan, Port, Server, Signal, Site, process, programs,
    wait_for, within,
};

/// What "at once" may take at most here.
const AT_ONCE: Duration = Duration::from_millis(2000);

fn one_worker(site: &Site) -> Server<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().start()
}

/// Waits until the only worker is another one than before.
#[track_caller]
fn wait_replaced(server: &Server<'_>, old: i32) -> i32 {
    wait_for("a new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
    server.workers()[0]
}

/// A request that a worker of its own is at work on, found by the socket it has accepted.
#[track_caller]
fn occupy(server: &Server<'_>, worker: i32, target: &str) -> Connection {
    let idle = process::sockets(worker).len();
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send_get(target).expect("it reads");
    wait_for("the worker to take the request", || process::sockets(worker).len() > idle);
    connection
}

// Deaths of workers.

#[test]
fn a_killed_worker_is_replaced_at_once() {
    let site = Site::new("kill9_worker");
    site.install(programs().inspect(1), "app.so");
    // Several, because more than four deaths per worker and second are taken for a crash loop.
    let mut server = site.launch().workers(4).start();
    server.expect_error("SIGKILL");
    // Only who was ready is replaced at once: each must have served.
    wait_for("an answer of each worker", || answering(&server) == server.workers().into_iter().collect());
    let mut slowest = Duration::ZERO;
    for old in server.workers() {
        let others: Vec<i32> = server.workers().into_iter().filter(|pid| *pid != old).collect();
        let begin = Instant::now();
        process::send(old, Signal::SIGKILL);
        wait_for("a new worker", || {
            let now = server.workers();
            now.len() == 4 && !now.contains(&old) && others.iter().all(|pid| now.contains(pid))
        });
        slowest = slowest.max(begin.elapsed());
    }
    eprintln!("a worker was replaced within {slowest:.1?} (wanted: 50 ms)");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    wait_for("an answer of each worker", || answering(&server) == server.workers().into_iter().collect());
    server.finish();
}

/// Who answers when a number of clients ask at the same time.
fn answering(server: &Server<'_>) -> BTreeSet<i32> {
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let address = server.address().clone();
            std::thread::spawn(move || {
                // Long enough for the others to need other workers.
                address.get("/sleep?ms=5").expect("an answer");
                address.get("/pid").expect("an answer").text().parse::<i32>().expect("a pid")
            })
        })
        .collect();
    clients.into_iter().map(|client| client.join().expect("no panic")).collect()
}

#[test]
fn no_exit_code_of_a_worker_ends_the_master() {
    let site = Site::new("exit_codes");
    let mut server = one_worker(&site);
    for code in [0, 1, 3, 4, 255] {
        let old: i32 = server.text("/pid").parse().expect("a pid");
        let answer = server.address().get(&format!("/exit?code={code}"));
        assert!(matches!(answer, Err(Failure::Truncated(_) | Failure::Reset)), "{answer:?}");
        wait_replaced(&server, old);
        if code != 0 {
            let line = server.wait_log(&format!("code {code}"));
            assert!(line.contains(&old.to_string()), "{line}");
            server.expect_error(&format!("code {code}"));
        }
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    }
    server.finish();
}

#[test]
fn a_crash_is_told_with_its_library_and_its_request() {
    for (target, signal) in [("/segv", "SIGSEGV"), ("/abort", "SIGABRT")] {
        let site = Site::new("crash");
        let mut server = one_worker(&site);
        let old: i32 = server.text("/pid").parse().expect("a pid");
        let answer = server.address().get(&format!("{target}?secret=no"));
        assert!(matches!(answer, Err(Failure::Truncated(_) | Failure::Reset)), "{answer:?}");
        wait_replaced(&server, old);
        let line = server.wait_log(signal);
        assert!(line.contains(&old.to_string()) && line.contains(&format!("GET {target}")), "{line}");
        if signal == "SIGSEGV" {
            assert!(
                line.contains(&site.join("app.so").display().to_string()),
                "the operator's file is named: {line}"
            );
        }
        server.expect_error(signal);
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.finish();
    }
}

#[test]
fn a_panic_is_one_answer_and_no_death() {
    let site = Site::new("panic");
    let mut server = one_worker(&site);
    let worker = server.workers();
    assert_eq!(server.get("/panic").status, 500);
    server.wait_log("inspect: asked to panic");
    server.expect_error("inspect: asked to panic");
    server.expect_error("GET /panic: the application panicked");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    assert_eq!(server.workers(), worker);
    server.finish();
}

#[test]
fn workers_that_cannot_boot_are_tried_less_and_less_often() {
    let site = Site::new("backoff");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().env("INSPECT_INIT", "barred");
    server.settings.raw("workers", "2");
    let mut server = server.start();
    // Both have booted: what fails from now on is a boot that the test has caused.
    wait_for("an answer of each worker", || answering(&server) == server.workers().into_iter().collect());
    // Boots fail from now on, and the worker that is left serves all the same.
    site.write("barred", "");
    let victim = server.workers()[0];
    let failures = |server: &Server<'_>| server.messages("inspect: barred").len();
    process::send(victim, Signal::SIGKILL);
    let begin = Instant::now();
    let mut seen = Vec::new();
    let load = Load::start(server.address(), Plan::versions(1).paced(Duration::from_millis(5)));
    wait_for("six boots to fail", || {
        while seen.len() < failures(&server) {
            seen.push(begin.elapsed());
        }
        seen.len() >= 6
    });
    let gaps: Vec<Duration> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
    eprintln!("boots failed at {seen:.1?}, {gaps:.1?} apart");
    // 0.1, 0.2, 0.4, 0.8, 1.6: the third wait is at least twice the first, and so on.
    assert!(gaps[2] > gaps[0] && gaps[3] > gaps[1] && gaps[4] > gaps[2], "{gaps:?}");
    assert!(gaps.iter().sum::<Duration>() > Duration::from_secs(2), "{gaps:?}");
    load.more(20);
    load.stop().expect_flawless();

    fs::remove_file(site.join("barred")).expect("it is there");
    server.wait_workers(2);
    wait_for("both workers to serve", || {
        let pid: i32 = server.text("/pid").parse().expect("a pid");
        server.workers().contains(&pid)
    });
    server.expect_error("inspect: barred");
    server.expect_error("SIGKILL");
    server.finish();
}

/// What a clean-up takes away while a server runs: an old release, the place of the logs.
#[test]
fn who_is_born_after_a_clean_up_serves_all_the_same() {
    for preload in ["false", "true"] {
        let site = Site::new("clean_up");
        site.install(programs().inspect(1), "app.so");
        let [release, logs, images] = ["release", "logs", "images"].map(|name| site.directory(name));
        let launch = site.launch().workers(2).with(|settings| {
            settings.text("application", &site.join("app.so:app").display().to_string());
            settings.text("chdir", &release.display().to_string()).raw("preload_app", preload);
            settings.text("runtime_dir", &images.display().to_string());
            settings.text("accesslog", &logs.join("access.log").display().to_string());
        });
        let mut server = launch.start();
        let served_by = || server.address().get("/pid").ok()?.text().parse::<i32>().ok();
        let old = server.wait_workers(2);
        fs::remove_dir_all(&release).expect("it is ours");
        fs::remove_dir_all(&logs).expect("it is ours");
        fs::rename(site.join("error.log"), site.join("kept.log")).expect("it is there");
        fs::create_dir(site.join("error.log")).expect("its name is free");
        old.iter().for_each(|worker| process::send(*worker, Signal::SIGKILL));
        wait_for("an answer of another worker", || served_by().is_some_and(|worker| !old.contains(&worker)));
        // What is there again is found again.
        fs::remove_dir(site.join("error.log")).expect("it is empty");
        fs::rename(site.join("kept.log"), site.join("error.log")).expect("it is there");
        fs::create_dir(&logs).expect("its name is free");
        site.mine("logs/access.log");
        server.signal(Signal::SIGUSR1);
        wait_for("a line in the new log", || {
            let _ = served_by();
            fs::read_to_string(logs.join("access.log")).is_ok_and(|lines| lines.contains("GET /pid"))
        });
        let told = server.messages("this process is in the one that was there before");
        assert!(preload == "true" || !told.is_empty(), "{}", server.log());
        for text in ["SIGKILL", "until USR1 finds it again", "/logs"] {
            server.expect_error(text);
        }
        server.finish();
    }
}

#[test]
fn max_requests_replaces_workers_and_loses_nothing() {
    let site = Site::new("max_requests");
    site.install(programs().inspect(1), "app.so");
    let server = site
        .launch()
        .workers(2)
        .with(|settings| _ = settings.raw("max_requests", "20").raw("max_requests_jitter", "5"))
        .start();
    let load = Load::start(server.address(), Plan::pids(4));
    let recycled = || server.messages("Worker exiting").len();
    wait_for("ten workers to be replaced", || recycled() >= 10);
    let report = load.stop();
    report.expect_flawless();
    assert!(report.slowest < Duration::from_secs(2), "clients wait for new workers: {report}");
    let mut by_worker: BTreeMap<&str, u64> = BTreeMap::new();
    for ((_, pid), count) in &report.counts {
        *by_worker.entry(pid).or_default() += count;
    }
    // Each serves until its successor is ready, and the last ones are not through.
    assert!(by_worker.len() >= 10, "{by_worker:?}");
    assert!(by_worker.values().filter(|count| **count >= 20).count() >= 10, "{by_worker:?}");
    server.wait_workers(2);
    server.finish();
}

// Hanging workers.

#[test]
fn a_hanging_worker_is_ended_and_the_log_says_what_it_did() {
    let site = Site::new("timeout");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().with(|settings| _ = settings.raw("timeout", "1")).start();
    let old: i32 = server.text("/pid").parse().expect("a pid");
    let begin = Instant::now();
    let mut stuck = occupy(&server, old, "/sleep?ms=60000&why=test");
    let new = wait_replaced(&server, old);
    eprintln!("replaced {:.1?} after the request, with a timeout of 1 s", begin.elapsed());
    assert!(begin.elapsed() >= Duration::from_millis(900), "it had a second");
    assert!(matches!(stuck.read_response(), Err(Failure::Truncated(_) | Failure::Reset)));
    let line = server.wait_log("WORKER TIMEOUT");
    assert!(line.contains(&old.to_string()), "{line}");
    assert!(line.contains("GET /sleep?ms=60000&why=test"), "{line}");
    assert!(line.contains(" 1.") || line.contains(" 2."), "for how long: {line}");
    assert_eq!(server.text("/pid"), new.to_string());
    server.expect_error(&old.to_string());
    // What the worker itself says at its end bears its own number.
    server.expect_error("stuck for");
    server.finish();
}

#[test]
fn a_stopped_worker_that_cannot_abort_is_killed() {
    let site = Site::new("sigstop_worker");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().with(|settings| _ = settings.raw("timeout", "1")).start();
    let old: i32 = server.text("/pid").parse().expect("a pid");
    process::send(old, Signal::SIGSTOP);
    let begin = Instant::now();
    let new = wait_replaced(&server, old);
    eprintln!("replaced {:.1?} after it was stopped, with a timeout of 1 s", begin.elapsed());
    server.wait_gone(old);
    server.wait_log("WORKER TIMEOUT");
    let line = server.wait_log("SIGKILL");
    assert!(line.contains(&old.to_string()), "{line}");
    assert_eq!(server.text("/pid"), new.to_string());
    server.expect_error(&old.to_string());
    server.finish();
}

#[test]
fn an_idle_worker_is_not_taken_for_a_hanging_one() {
    let site = Site::new("idle");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).with(|settings| _ = settings.raw("timeout", "1")).start();
    let workers = server.workers();
    // The subject of this test: nothing happens for several timeouts.
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(server.workers(), workers);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn a_master_that_was_stopped_murders_nobody() {
    let site = Site::new("sigstop_master");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).with(|settings| _ = settings.raw("timeout", "1")).start();
    let workers = server.workers();
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        server.signal(signal);
        if signal == Signal::SIGSTOP {
            wait_for("the master to stop", || {
                process::find(server.pid()).is_some_and(|master| master.state == 'T')
            });
            assert_eq!(server.text("/version"), "INSPECT-VERSION:1", "workers serve without their master");
            // The subject of this test: a pause longer than the timeout.
            std::thread::sleep(Duration::from_millis(3000));
        }
    }
    // A third worker shows that the master has been round its loop, with all that it would do about the others.
    server.signal(Signal::SIGTTIN);
    let now = server.wait_workers(3);
    assert!(workers.iter().all(|pid| now.contains(pid)), "{workers:?}, {now:?}");
    server.signal(Signal::SIGTTOU);
    server.wait_workers(2);
    assert_eq!(server.messages("WORKER TIMEOUT"), Vec::<String>::new());
    server.finish();
}

// The end of the master.

#[test]
fn nothing_is_left_when_the_master_is_killed() {
    killed_master("kill9_master", &[]);
}

#[test]
fn nothing_is_left_when_the_master_of_another_users_workers_is_killed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    killed_master("kill9_user", &["--user", "nobody"]);
}

fn killed_master(name: &str, arguments: &[&str]) {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let reserved = Port::reserve();
    let port = reserved.number();
    let bind = [format!("127.0.0.1:{port}"), "unix:s".to_owned()];
    let launch = || {
        site.launch().workers(3).pidfile().with(|settings| _ = settings.list("bind", &bind)).args(arguments)
    };
    let mut server = launch().start();
    let addresses = server.addresses().to_vec();
    if !arguments.is_empty() {
        let owner = fs::metadata(format!("/proc/{}", server.workers()[0])).expect("it runs").uid();
        assert_ne!(owner, 0, "workers run as somebody else");
    }
    // One of them is at work, one is stopped: neither can look after itself.
    let workers = server.workers();
    let _stuck = {
        let mut connection = Connection::open(&addresses[0]).expect("it listens");
        connection.send_get("/busy?ms=60000").expect("it reads");
        connection
    };
    process::send(workers[0], Signal::SIGSTOP);
    let images = site.leftovers();
    assert!(images.iter().any(|path| path.extension().is_some_and(|end| end == "so")), "{images:?}");

    let begin = Instant::now();
    server.kill_master();
    // Ten times of what is wanted: on a busy machine the kernel takes its time to end them.
    let limit = Duration::from_secs(10);
    let gone =
        within(DEADLINE, || process::group(server.pid()).is_empty() && process::listening(port).is_empty());
    eprintln!("nothing was left {:.1?} after the kill (wanted: 1 s)", begin.elapsed());
    assert!(gone.is_some_and(|time| time < limit), "{gone:?}: {:?}", process::group(server.pid()));
    for address in &addresses {
        assert_eq!(address.get("/version"), Err(Failure::Refused));
    }
    server.check_log();
    assert!(site.join("pid").exists() && site.join("s").exists(), "nobody was there to remove them");

    let begin = Instant::now();
    let server = launch().start();
    eprintln!("served again {:.1?} after the restart began", begin.elapsed());
    for address in server.addresses() {
        assert_eq!(address.get("/version").expect("it serves").text(), "INSPECT-VERSION:1");
    }
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));
    let is_old = |path: &&PathBuf| images.contains(path) && path.extension().is_some_and(|end| end == "so");
    let now = site.leftovers();
    assert_eq!(now.iter().filter(is_old).collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "old images are swept");
    server.finish();
}

#[test]
fn term_finishes_what_was_begun_and_what_was_queued() {
    let site = Site::new("term");
    site.install(programs().inspect(1), "app.so");
    let bind = ["127.0.0.1:0", "unix:s"];
    let mut server = site.launch().pidfile().with(|settings| _ = settings.list("bind", &bind)).start();
    let mut first = occupy(&server, server.workers()[0], "/sleep?ms=1500");
    let mut queued = Vec::new();
    for address in server.addresses() {
        for _ in 0..10 {
            let mut connection = Connection::open(address).expect("there is room");
            connection.send_get("/version").expect("there is room");
            queued.push(connection);
        }
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(first.read_response().expect("its answer").text(), "slept");
    for mut connection in queued {
        assert_eq!(connection.read_response().expect("its answer").text(), "INSPECT-VERSION:1");
        connection.read_end().expect("an end without a reset");
    }
    let (status, _) = server.wait_end();
    assert_eq!(status.code(), Some(0), "{status}");
    server.check_log();
    assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn term_under_load_loses_nothing_that_was_accepted() {
    let site = Site::new("term_load");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().workers(2).start();
    let port = server.address().port();
    let load = Load::start(server.address(), Plan::versions(4));
    load.more(100);
    let (status, time) = server.stop(Signal::SIGTERM);
    eprintln!("ended {time:.1?} after TERM");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(process::listening(port).is_empty());
    let report = load.stop();
    // Who comes after the end is refused. A connection that was made before it is answered.
    let lost: Vec<&String> =
        report.failures.iter().filter(|failure| !failure.starts_with("refused")).collect();
    assert_eq!(lost, Vec::<&String>::new(), "{report}");
    server.check_log();
}

#[test]
fn int_and_quit_end_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let site = Site::new("quick");
        let mut server = one_worker(&site);
        let _stuck = occupy(&server, server.workers()[0], "/sleep?ms=60000");
        let (status, time) = server.stop(signal);
        eprintln!("ended {time:.1?} after {signal}");
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(time < AT_ONCE, "{time:?}");
        server.check_log();
        assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_second_term_does_not_wait() {
    let site = Site::new("second_term");
    let mut server = one_worker(&site);
    let _stuck = occupy(&server, server.workers()[0], "/sleep?ms=60000");
    server.signal(Signal::SIGTERM);
    server.wait_log("Handling signal: term");
    assert!(!server.has_ended(), "the first TERM waits for the request");
    let (status, time) = server.stop(Signal::SIGTERM);
    eprintln!("ended {time:.1?} after the second TERM");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(time < AT_ONCE, "{time:?}");
    server.check_log();
}

#[test]
fn term_waits_no_longer_than_the_graceful_timeout() {
    let site = Site::new("graceful");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().with(|settings| _ = settings.raw("graceful_timeout", "1")).start();
    let worker = server.workers()[0];
    let _stuck = occupy(&server, worker, "/sleep?ms=60000");
    let (status, time) = server.stop(Signal::SIGTERM);
    eprintln!("ended {time:.1?} after TERM, with a graceful timeout of 1 s");
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(time >= Duration::from_millis(900) && time < Duration::from_secs(10), "{time:?}");
    server.expect_error(&worker.to_string());
    server.check_log();
    assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
}

/// What an application forks inherits the listening socket, and outlives everything. The port is free all the same.
#[test]
fn a_child_of_the_application_does_not_keep_the_port() {
    let site = Site::new("fork_away");
    site.install(programs().fixture("bad_constructor"), "app.so");
    let port = Port::reserve();
    let address = port.address();
    let launch = site.launch().with(|file| {
        file.list("raw_env", &["FX_CONSTRUCTOR=fork"]).list("bind", &[&address.to_string()]);
    });
    let mut server = launch.start();
    assert_eq!(server.text("/"), "constructed");
    let worker = server.workers()[0];
    let orphan =
        process::all().into_iter().find(|process| process.parent == worker).expect("it has forked").pid;
    let is_alone = || process::find(orphan).is_some_and(|process| process.group == orphan);
    wait_for("it to leave the server's process group", is_alone);
    server.signal(Signal::SIGTERM);
    let (status, _) = server.wait_end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(process::runs(orphan), "it was to outlive the server");
    let refused = Connection::open(&Address::Tcp(address)).map(drop);
    assert!(matches!(refused, Err(Failure::Refused)), "{refused:?}");
    TcpListener::bind(address).expect("the port is free");
    process::send(orphan, Signal::SIGKILL);
}

// The number of workers.

#[test]
fn ttin_and_ttou_change_the_number_down_to_one() {
    let site = Site::new("ttin");
    let server = one_worker(&site);
    let load = Load::start(server.address(), Plan::versions(2));
    for (signal, workers) in [
        (Signal::SIGTTIN, 2),
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTIN, 3),
        (Signal::SIGTTOU, 2),
        (Signal::SIGTTOU, 1),
    ] {
        server.signal(signal);
        server.wait_workers(workers);
    }
    let last = server.workers();
    server.signal(Signal::SIGTTOU);
    server.wait_log("one worker left");
    load.more(50);
    assert_eq!(server.workers(), last, "the last one stays");
    // HUP goes back to what is configured.
    server.signal(Signal::SIGTTIN);
    server.wait_workers(2);
    server.reload_well();
    server.wait_workers(1);
    load.more(50);
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn a_storm_of_signals_leaves_the_right_number_of_workers() {
    let site = Site::new("storm");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(3).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(5)));
    let mut random = XorShift(0x5eed_cafe_f00d_u64);
    let signals = [Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGHUP];
    let begin = Instant::now();
    for _ in 0..1000 {
        server.signal(signals[random.below(3) as usize]);
        // Part of the storm: two signals of a kind that come together are one.
        std::thread::sleep(Duration::from_micros(random.below(8000)));
    }
    eprintln!("1000 signals in {:.1?}", begin.elapsed());
    // A last HUP says how many there shall be.
    server.signal(Signal::SIGHUP);
    let mut steady: Option<(BTreeSet<i32>, usize, Instant)> = None;
    let time = wait_for("three workers for a second, and nothing else", || {
        let children = process::children(server.pid());
        let zombies = children.iter().filter(|child| child.state == 'Z').count();
        let now: BTreeSet<i32> = children.iter().map(|child| child.pid).collect();
        let verdicts = server.verdicts().len();
        match &steady {
            Some((then, before, since))
                if *then == now && *before == verdicts && zombies == 0 && now.len() == 3 =>
            {
                since.elapsed() > Duration::from_secs(1)
            }
            _ => {
                steady = Some((now, verdicts, Instant::now()));
                false
            }
        }
    });
    eprintln!("quiet {time:.1?} after the last, {} reloads", server.verdicts().len());
    wait_for("an answer of each worker", || answering(&server) == server.workers().into_iter().collect());
    load.more(50);
    load.stop().expect_flawless();
    server.finish();
}

/// Marsaglia's xorshift64: the same storm each time.
struct XorShift(u64);

impl XorShift {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn a_client_that_goes_away_costs_nothing() {
    let site = Site::new("client_goes");
    let server = one_worker(&site);
    let worker = server.workers();
    for target in ["/large?bytes=50000000", "/stream?n=100000&size=1000"] {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get(target).expect("it reads");
        let head = connection.read_head().expect("a head");
        assert_eq!(head.status, 200);
        drop(connection);
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    }
    assert_eq!(server.workers(), worker);
    server.finish();
}

#[test]
fn a_silent_client_does_not_hold_the_worker() {
    let site = Site::new("silent");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().with(|settings| _ = settings.raw("head_timeout", "0.5")).start();
    let Address::Tcp(_) = server.address() else { panic!("the harness binds TCP") };
    let _silent = Connection::open(server.address()).expect("it listens");
    let mut dripping = Connection::open(server.address()).expect("it listens");
    dripping.send(b"GET / HTTP/1.1\r\nHo").expect("it reads");
    let begin = Instant::now();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    let time = begin.elapsed();
    eprintln!("served {time:.1?} after two clients that say nothing, with a head timeout of 0.5 s");
    assert!(time < Duration::from_secs(10), "{time:?}");
    server.finish();
}
