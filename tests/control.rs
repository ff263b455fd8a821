//! The control socket: exact verbs, answers that say what came of them, and nothing for strangers.
//!
//! What a newcomer would get wrong: the exit code of `rgunicorn ctl` is part of its answer, and the answer to a reload is
//! the verdict on that reload, not on one that was under way already.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use harness::crowd::Manner;
use harness::{
    Connection, Crowd, Load, Plan, Server, Signal, Site, process, programs, sha256, under_each_class,
    wait_for,
};
use serde_json::Value;

fn launch(site: &Site) -> harness::Launch<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().with(|settings| _ = settings.text("control_socket", "control.sock"))
}

fn ctl(site: &Site, words: &str) -> Output {
    let mut command = Command::new(programs().rgunicorn());
    command.arg("ctl").arg(site.join("control.sock")).args(words.split(' '));
    command.output().expect("the program runs")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).expect("text")
}

/// What a command prints, which must succeed.
#[track_caller]
fn done(site: &Site, words: &str) -> String {
    let output = ctl(site, words);
    assert!(output.status.success(), "{words}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The sentence with which a command fails.
#[track_caller]
fn failed(site: &Site, words: &str) -> String {
    let output = ctl(site, words);
    assert_eq!(output.status.code(), Some(1), "{words}: {}", text(&output.stdout));
    assert!(output.stdout.is_empty());
    text(&output.stderr)
}

fn status(site: &Site) -> Value {
    serde_json::from_str(&done(site, "status --json")).expect("JSON")
}

fn finish(site: &Site, server: Server<'_>) {
    server.finish();
    assert!(!site.join("control.sock").exists(), "the socket goes with the server");
}

#[test]
fn status_tells_who_runs_what_and_is_at_what() {
    under_each_class(|class| {
        let site = Site::new("status");
        let server = launch(&site).class(class).workers(2).start();
        wait_for("readiness", || status(&site)["ready"] == true);
        let mut crowd = Crowd::default();
        crowd.join(server.address(), 1, &Manner::asks("GET /sleep?ms=2000 HTTP/1.1\r\nHost: t\r\n\r\n"));
        let busy = |status: &Value| {
            let workers = status["workers"].as_array().expect("a list").clone();
            workers.into_iter().find(|worker| worker["state"] == "busy")
        };
        crowd.until("a busy worker", |_| busy(&status(&site)).is_some());
        let all = status(&site);
        assert_eq!(all["master"], server.pid());
        assert_eq!((&all["state"], &all["generation"]), (&"serving".into(), &1.into()));
        let mut pids: Vec<i32> = Vec::new();
        for worker in all["workers"].as_array().expect("a list") {
            pids.push(worker["pid"].as_i64().expect("a pid") as i32);
            assert_eq!(worker["generation"], 1);
            assert!(worker["memory_bytes"].as_u64().is_some_and(|octets| octets > 100_000), "{worker}");
            assert!(worker["uptime_seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{worker}");
            let application = &worker["applications"][0];
            assert_eq!(application["path"], site.join("app.so").display().to_string());
            let octets = fs::read(site.join("app.so")).expect("it is there");
            assert_eq!(application["sha256"], sha256(&octets));
            assert!(application["build_id"].is_string() || application["build_id"].is_null());
            let class = worker["worker_class"]["path"].as_str().expect("a path");
            assert!(class.ends_with(".so"), "{class}");
        }
        pids.sort_unstable();
        assert_eq!(pids, server.workers());
        let busy = busy(&all).expect("it still sleeps");
        assert_eq!(busy["doing"], "GET /sleep?ms=2000");
        let human = done(&site, "status");
        assert!(human.contains("GET /sleep?ms=2000 ("), "{human}");
        assert!(human.contains("app.so, sha256 "), "{human}");
        assert!(done(&site, "workers").starts_with("PID  "));
        crowd.until("the answer", |crowd| crowd.open() == 0);
        finish(&site, server);
    });
}

#[test]
fn status_names_the_processes_beside_the_workers() {
    let site = Site::new("ctl_processes");
    site.install(programs().fixture("hooks"), "hooks.so");
    let launch = launch(&site).with(|file| _ = file.raw("preload_app", "true").list("hooks", &["hooks.so"]));
    let server = launch.env("FX_TRACE", site.join("trace").to_str().expect("UTF-8")).start();
    site.mine("trace");
    let told = |role: &str| {
        let status = status(&site);
        let processes = status["processes"].as_array().expect("a list").clone();
        let mut found = processes.into_iter().filter(|process| process["role"] == role);
        found.next().filter(|_| found.next().is_none())
    };
    for role in ["template", "hooks"] {
        wait_for(role, || told(role).is_some());
        let process = told(role).expect("it was there");
        let pid = process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id");
        assert!(server.children().contains(&pid) && !server.workers().contains(&pid), "{process}");
        assert!(process["generation"] == 1 && process["memory_bytes"].as_u64() > Some(4096), "{process}");
        let human = done(&site, "status");
        assert!(human.contains(&format!("pid {pid}, generation 1, ")), "{human}");
    }
    server.reload_well();
    for role in ["template", "hooks"] {
        wait_for("the next one alone", || told(role).is_some_and(|process| process["generation"] == 2));
    }
    finish(&site, server);
}

#[test]
fn a_reload_is_answered_with_its_verdict() {
    let site = Site::new("ctl_reload");
    let mut server = launch(&site).workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2));
    site.install(programs().inspect(2), "app.so");
    let verdict = done(&site, "reload");
    assert!(verdict.starts_with("Reloaded: generation 2 serves"), "{verdict}");
    load.epoch(2);
    load.more(20);
    site.write("app.so", "no library");
    let verdict = failed(&site, "reload");
    assert!(verdict.contains("Reload refused, generation 2 serves on: "), "{verdict}");
    // For a program the refusal is an answer like any other; that there is no server, too.
    let output = ctl(&site, "reload --json");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), ""));
    let refusal: Value = serde_json::from_str(&text(&output.stdout)).expect("JSON");
    assert_eq!((&refusal["ok"], &refusal["verdict"]), (&false.into(), &"refused".into()), "{refusal}");
    let nowhere = Command::new(programs().rgunicorn()).args(["ctl", "/nowhere", "status", "--json"]).output();
    let nowhere = nowhere.expect("the program runs");
    assert_eq!((nowhere.status.code(), text(&nowhere.stderr).as_str()), (Some(1), ""));
    let absent: Value = serde_json::from_str(&text(&nowhere.stdout)).expect("JSON");
    assert!(absent["message"].as_str().is_some_and(|why| why.contains("cannot ask the server")), "{absent}");
    assert_eq!(status(&site)["last_reload"]["verdict"], "refused");
    // One that comes while another is under way gets the verdict on its own.
    site.install(programs().inspect(1), "app.so");
    let verdicts: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| done(&site, "reload --json"))).collect();
        asked.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    for verdict in verdicts {
        let verdict: Value = serde_json::from_str(&verdict).expect("JSON");
        assert_eq!(verdict["verdict"], "done");
        assert!(verdict["generation"].as_u64() > Some(4), "{verdict}");
    }
    load.epoch(1);
    load.more(20);
    load.stop().expect_flawless();
    server.expect_error("Reload refused");
    finish(&site, server);
}

#[test]
fn workers_become_more_and_fewer_without_a_loss() {
    under_each_class(|class| {
        let site = Site::new("ctl_workers");
        let server = launch(&site).class(class).start();
        let load = Load::start(server.address(), Plan::versions(4));
        for count in [4, 2, 3, 1] {
            assert_eq!(done(&site, &format!("workers {count}")), format!("{count} workers are wanted\n"));
            server.wait_workers(count);
            load.more(20);
        }
        for words in ["workers 0", "workers 1025", "dance", "status now"] {
            let output = ctl(&site, words);
            assert_eq!(output.status.code(), Some(2), "{words}");
        }
        load.stop().expect_flawless();
        finish(&site, server);
    });
}

#[test]
fn the_log_level_reaches_master_and_workers_until_a_reload() {
    let site = Site::new("ctl_level");
    let server = launch(&site).workers(2).start();
    server.wait_workers(2);
    let lines = || server.lines().iter().filter(|line| line.level == "DEBUG").count();
    assert_eq!(lines(), 0);
    assert_eq!(done(&site, "log-level debug"), "logging from debug on\n");
    assert_eq!(status(&site)["log_level"], "debug");
    // The master says at this level that a worker has left as it was told.
    done(&site, "workers 1");
    wait_for("a line of the master", || {
        server.lines().iter().any(|line| line.level == "DEBUG" && line.pid == server.pid())
    });
    done(&site, "workers 2");
    server.wait_workers(2);
    // Libraries have a level of their own: the worker class says at this one that a request was not completed.
    wait_for("a line of the worker class", || {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send(b"GET /half HTTP/1.1\r\n").expect("it reads");
        connection.end_sending().expect("connected");
        let _ = connection.read_end();
        !server.messages("Incomplete request from ip=").is_empty()
    });
    done(&site, "log-level error");
    let before = server.log().len();
    let old = server.workers();
    process::send(old[0], Signal::SIGTERM);
    wait_for("a new worker", || {
        status(&site)["workers"].as_array().is_some_and(|all| {
            all.iter().filter(|worker| worker["state"] == "idle").count() == 2
                && all.iter().any(|worker| !old.contains(&(worker["pid"].as_i64().unwrap_or(0) as i32)))
        })
    });
    let since = server.log()[before..].to_owned();
    assert!(!since.contains("Worker exiting"), "the worker logs at error only: {since}");
    assert!(failed_usage(&site, "log-level loud").contains("'loud'"));
    server.signal(Signal::SIGHUP);
    server.wait_log("Reloaded: ");
    wait_for("the configured level", || status(&site)["log_level"] == "info");
    finish(&site, server);
}

fn failed_usage(site: &Site, words: &str) -> String {
    let output = ctl(site, words);
    assert_eq!(output.status.code(), Some(2));
    text(&output.stderr)
}

#[test]
fn stop_is_a_term() {
    let site = Site::new("ctl_stop");
    let mut server = launch(&site).start();
    assert_eq!(done(&site, "stop"), "the server stops\n");
    let (status, _) = server.wait_end();
    assert_eq!(status.code(), Some(0));
    server.check_log();
    assert!(failed(&site, "status").contains("is it running with --control-socket"));
}

#[test]
fn the_socket_is_for_its_owner_and_takes_no_nonsense() {
    let site = Site::new("ctl_owner");
    let server = launch(&site).start();
    let socket = site.join("control.sock");
    let found = fs::metadata(&socket).expect("it is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(found.uid(), nix::unistd::geteuid().as_raw());
    let ask = |octets: &[u8]| {
        let mut stream = UnixStream::connect(&socket).expect("it listens");
        stream.write_all(octets).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("connected");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    assert!(ask(b"status\n").contains("\"ok\":true"));
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\xff\xfe\n", b"workers 99999\n", &[b'a'; 1000]] {
        let answer = ask(nonsense);
        assert!(answer.contains("\"ok\":false"), "{nonsense:?}: {answer}");
    }
    assert_eq!(ask(b"sta"), "", "half a command is none");
    // Verbs in a flood are all done, and the server serves on.
    for count in [3, 1, 2].into_iter().cycle().take(60) {
        assert!(ask(format!("workers {count}\n").as_bytes()).contains("\"ok\":true"));
    }
    server.wait_workers(2);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    finish(&site, server);
}

/// Plugin code that is tried must not hold what could stop the server, or what keeps a channel open.
#[test]
fn a_probe_that_runs_plugin_code_holds_no_socket_of_the_master() {
    let site = Site::new("probe_sockets");
    let mut server =
        launch(&site).workers(2).with(|settings| _ = settings.text("monitor_bind", "127.0.0.1:0")).start();
    let workers = server.workers();
    assert!(process::sockets(server.pid()).len() > 3, "the master holds its own");
    server.configure(|settings| _ = settings.init("sleep:60000"));
    let known = server.children();
    server.signal(Signal::SIGHUP);
    let probe = || server.children().into_iter().find(|child| !known.contains(child));
    wait_for("the probe to hold its own channel only", || {
        probe().is_some_and(|probe| process::sockets(probe).len() == 1)
    });
    assert_eq!(server.workers(), workers);
    finish(&site, server);
}

#[test]
fn a_reload_makes_a_removed_socket_anew() {
    let site = Site::new("ctl_removed");
    let mut server =
        launch(&site).with(|settings| _ = settings.text("monitor_bind", "unix:health.sock")).start();
    wait_for("the monitor", || ctl(&site, "status").status.success());
    for name in ["control.sock", "health.sock"] {
        fs::remove_file(site.join(name)).expect("it is there");
    }
    assert!(!ctl(&site, "status").status.success());
    // One that is refused changes nothing.
    server.configure(|settings| _ = settings.raw("workers", "0"));
    let verdict = server.reload();
    server.expect_error(&verdict);
    assert!(!site.join("control.sock").exists());
    server.configure(|settings| _ = settings.raw("workers", "1"));
    server.reload_well();
    wait_for("an answer", || ctl(&site, "status").status.success());
    let health = harness::Address::Unix(site.join("health.sock"));
    assert_eq!(health.get("/livez").expect("it answers, too").status, 200);
    let mode = fs::metadata(site.join("control.sock")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(server.messages("was gone; it is bound again").len(), 2, "{}", server.log());
    finish(&site, server);
    assert!(!site.join("health.sock").exists());
}

#[test]
fn a_path_that_is_too_long_is_an_error_of_the_configuration() {
    let site = Site::new("ctl_long");
    let name = "c".repeat(108);
    for check in [&[][..], &["--check-config"]] {
        let ended = launch(&site).with(|settings| _ = settings.text("control_socket", &name)).args(check);
        let ended = ended.start_in_vain();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        let says = [
            "'control_socket'".to_owned(),
            format!("the path {} has ", site.join(&name).display()),
            " bytes and a Unix socket's may have 107; choose a shorter one".to_owned(),
        ];
        assert!(says.iter().all(|part| ended.stderr.contains(part)), "{}", ended.stderr);
    }
}

#[test]
fn a_failed_start_leaves_neither_a_monitor_nor_a_socket() {
    let site = Site::new("ctl_failed_start");
    let ended = launch(&site)
        .with(|settings| {
            settings.init("fail").text("monitor_bind", "unix:health.sock");
        })
        .start_in_vain();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
    assert_eq!(ended.processes, []);
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

/// Only the socket's owner, and root, could open it; here it is even root that runs the master.
#[test]
fn the_workers_user_cannot_open_the_socket() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    let site = Site::new("ctl_user");
    let server = launch(&site).args(&["--user", "nobody"]).start();
    let found = fs::metadata(site.join("control.sock")).expect("it is there");
    assert_eq!((found.uid(), found.permissions().mode() & 0o777), (0, 0o600));
    // The monitor answers all the same: it was given the socket, and opens nothing.
    wait_for("readiness", || status(&site)["ready"] == true);
    finish(&site, server);
}
