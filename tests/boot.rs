//! The first start: what serves, and what ends the program.
//!
//! A start that fails leaves one sentence on standard error, the right exit code, and nothing else: no pid file, no
//! socket, no process, no image. What a newcomer would get wrong: the broken deployments are listed in the harness
//! (`breakage.rs`), because a HUP meets the same ones in `reload.rs`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use harness::breakage::Breakage;
use harness::server::Ended;
use harness::{Address, Load, Plan, Signal, Site, each_breakage, programs, wait_for};

// What serves.

#[test]
fn serves_the_hello_application_by_name() {
    let site = Site::new("hello");
    let server = site.launch().with(|settings| _ = settings.text("application", "hello")).start();
    let response = server.get("/");
    assert_eq!(response.status, 200);
    assert!(!response.body.is_empty());
    server.finish();
}

#[test]
fn serves_on_ipv4() {
    serves_on("127.0.0.1:0");
}

#[test]
fn serves_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    serves_on("[::1]:0");
}

#[test]
fn serves_on_a_unix_socket_and_removes_it() {
    serves_on("unix:s");
}

fn serves_on(address: &str) {
    let site = Site::new("serves_on");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().pidfile().with(|settings| _ = settings.list("bind", &[address])).start();
    assert_eq!(server.addresses().len(), 1);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    let json = server.text("/a/path?with=a&query");
    assert!(
        json.contains(r#""method":"GET""#) && json.contains(r#""target":"/a/path?with=a&query""#),
        "{json}"
    );
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));
    assert_eq!(server.text("/pid"), server.workers()[0].to_string());
    server.finish();
}

#[test]
fn serves_on_two_addresses_at_once() {
    let site = Site::new("two_binds");
    site.install(programs().inspect(1), "app.so");
    let bind = ["127.0.0.1:0", "unix:s"];
    let server = site.launch().workers(2).with(|settings| _ = settings.list("bind", &bind)).start();
    let [tcp @ Address::Tcp(_), unix @ Address::Unix(_)] = server.addresses() else {
        panic!("{:?}", server.addresses());
    };
    let loads = [Load::start(tcp, Plan::versions(2)), Load::start(unix, Plan::versions(2))];
    for load in &loads {
        load.more(200);
    }
    for load in loads {
        load.stop().expect_flawless();
    }
    server.finish();
}

#[test]
fn serves_with_a_class_given_by_name_or_by_path() {
    for class in ["sync", "./class.so"] {
        let site = Site::new("class");
        site.install(programs().inspect(1), "app.so");
        site.install(programs().sync(), "class.so");
        let server = site.launch().args(&["-k", class]).start();
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1", "-k {class}");
        server.finish();
    }
}

#[test]
fn the_log_begins_with_what_begins() {
    let site = Site::new("first_lines");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().env("GUNICORN_CMD_ARGS", "-w 3").start();
    let lines: Vec<String> = server.lines().into_iter().map(|line| line.message).collect();
    let place = |text: &str| lines.iter().position(|line| line.starts_with(text));
    assert_eq!((place("Starting rgunicorn"), place("Booting worker")), (Some(0), Some(1)), "{lines:?}");
    assert!(place("GUNICORN_CMD_ARGS is not read; write its words into RGUNICORN_CMD_ARGS").is_some());
    server.finish();
}

#[test]
fn all_workers_serve() {
    let site = Site::new("three_workers");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().args(&["-w", "3"]).start();
    let workers: BTreeSet<i32> = server.wait_workers(3).into_iter().collect();
    let mut seen = BTreeSet::new();
    wait_for("an answer of each worker", || {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                let address = server.address().clone();
                std::thread::spawn(move || address.get("/pid").expect("an answer").text())
            })
            .collect();
        seen.extend(
            clients.into_iter().map(|client| client.join().expect("no panic").parse::<i32>().expect("a pid")),
        );
        seen.len() == 3
    });
    assert_eq!(seen, workers);
    server.finish();
}

#[test]
fn each_source_of_settings_is_stronger_than_the_one_before() {
    let site = Site::new("sources");
    site.install(programs().inspect(1), "app.so");
    let launch = site
        .launch()
        .with(|settings| {
            _ = settings.list("raw_env", &["FROM=file"]).raw("max_requests", "7").raw("timeout", "7")
        })
        .env("RGUNICORN_CMD_ARGS", "-e FROM=variable --timeout 8")
        .args(&["-e", "FROM=line"]);
    let server = launch.start();
    assert_eq!(server.text("/env?name=FROM"), "line");
    server.finish();
}

#[test]
fn serves_large_answers_whole() {
    let site = Site::new("large");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).start();
    let load = Load::start(server.address(), Plan::large(3, 3_000_001));
    load.more(60);
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn checks_a_configuration_without_serving() {
    let site = Site::new("check");
    site.install(programs().inspect(1), "app.so");
    let good = site.launch().args(&["--check-config"]).start_in_vain();
    assert_eq!(good.status.code(), Some(0), "{}", good.stderr);
    let bad = site.launch().args(&["--check-config", "--bind", "8000"]).start_in_vain();
    expect_refusal(&site, &bad, 1, &["8000"]);
}

// What does not.

each_breakage!(ends_the_program);

fn ends_the_program(name: &str, breakage: &Breakage) {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    let mut launch = site.launch().workers(2).pidfile();
    launch.settings.list("bind", &["127.0.0.1:0", "unix:s"]);
    if breakage.hangs {
        launch.settings.raw("boot_timeout", "3");
    }
    let kept = (breakage.arrange)(&site, &mut launch.settings);
    let ended = launch.start_in_vain();
    drop(kept);
    eprintln!("{name}: code {:?} after {:.1?}: {}", ended.status.code(), ended.time, ended.stderr.trim_end());
    expect_refusal(&site, &ended, breakage.exit_code, breakage.says);
    // Until the log file is open the log goes to standard error as well. What is no line of it was not meant for an
    // operator's eyes; only what a plugin prints by itself nobody can keep from coming.
    for line in ended.stderr.lines().filter(|line| !line.starts_with("rgunicorn: ")) {
        let known = ["] [INFO] ", "panicked at", "stuck in", "Connection in use: ", "Can't connect to "];
        let of_the_log = known.iter().any(|part| line.contains(part));
        assert!(of_the_log || breakage.prints, "{line}");
    }
}

#[track_caller]
fn expect_refusal(site: &Site, ended: &Ended, exit_code: i32, says: &[&str]) {
    let stderr = &ended.stderr;
    assert_eq!(ended.status.code(), Some(exit_code), "{stderr}");
    let sentences: Vec<&str> = stderr.lines().filter(|line| line.starts_with("rgunicorn: ")).collect();
    let [sentence] = sentences.as_slice() else { panic!("one sentence on standard error, not:\n{stderr}") };
    assert_eq!(stderr.lines().last(), Some(*sentence), "the sentence comes last");
    for part in says {
        assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
    }
    assert_eq!(ended.processes, [], "processes are left");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn runtime_directory_that_cannot_be_made() {
    let site = Site::new("runtime_dir");
    site.install(programs().inspect(1), "app.so");
    // Also for root: a file is no directory.
    site.write("file", "");
    let ended = site.launch().pidfile().args(&["--runtime-dir", "file/images"]).start_in_vain();
    expect_refusal(&site, &ended, 1, &["file/images"]);
}

#[test]
fn runtime_directory_that_is_not_writable() {
    let site = Site::new("runtime_dir");
    site.install(programs().inspect(1), "app.so");
    // /proc is writable for nobody, root included.
    let ended = site.launch().pidfile().args(&["--runtime-dir", "/proc/images"]).start_in_vain();
    expect_refusal(&site, &ended, 1, &["/proc/images"]);
}

#[test]
fn pidfile_of_a_server_that_runs() {
    let site = Site::new("pidfile");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().pidfile().start();
    let before = site.read("pid");
    let ended = site.launch().pidfile().start_in_vain();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("Already running on PID {}", server.pid())), "{}", ended.stderr);
    assert_eq!(site.read("pid"), before);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn pidfile_that_cannot_be_written() {
    let site = Site::new("pidfile");
    site.install(programs().inspect(1), "app.so");
    let ended = site.launch().args(&["--pid", "nowhere/pid"]).start_in_vain();
    expect_refusal(&site, &ended, 1, &["nowhere/pid"]);
}

#[test]
fn access_log_that_cannot_be_opened() {
    let site = Site::new("access_log");
    site.install(programs().inspect(1), "app.so");
    let ended = site.launch().args(&["--access-logfile", "nowhere/access.log"]).start_in_vain();
    expect_refusal(&site, &ended, 1, &["cannot open the log", "nowhere/access.log"]);
}

#[test]
fn an_address_that_is_empty() {
    let site = Site::new("empty_bind");
    site.install(programs().inspect(1), "app.so");
    let ended = site.launch().args(&["--bind", ""]).start_in_vain();
    expect_refusal(&site, &ended, 1, &["bind", "it is empty"]);
}

#[test]
fn words_that_mean_nothing() {
    let site = Site::new("words");
    site.install(programs().inspect(1), "app.so");
    let ended = site.launch().args(&["--wrokers", "3"]).start_in_vain();
    expect_refusal(&site, &ended, 2, &["--wrokers", "--workers"]);
}

#[test]
fn term_during_a_slow_first_start_ends_it() {
    let site = Site::new("term_at_start");
    site.install(programs().inspect(1), "app.so");
    let launch = site.launch().pidfile().with(|settings| _ = settings.init("sleep:60000"));
    let (ended, time) = launch.start_and_stop(Signal::SIGTERM, |children| !children.is_empty());
    eprintln!("ended {time:.1?} after TERM");
    assert!(time.as_secs() < 2, "{time:?}");
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    assert_eq!(ended.processes, [], "processes are left");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn a_file_that_workers_may_not_read_still_serves_them() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    let site = Site::new("private_file");
    site.install(programs().inspect(1), "app.so");
    fs::set_permissions(site.join("app.so"), Permissions::from_mode(0o600)).expect("it is ours");
    let server = site.launch().args(&["--user", "nobody"]).start();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    let worker = fs::metadata(format!("/proc/{}", server.workers()[0])).expect("it runs");
    assert_ne!(std::os::unix::fs::MetadataExt::uid(&worker), 0);
    server.finish();
}
