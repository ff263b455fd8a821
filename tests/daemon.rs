//! The master where nobody stands behind it: as a daemon, and as process 1 of a container.
//!
//! What a newcomer would get wrong: a daemon is no child of the test. It is found by its pid file, and has a session of
//! its own, so that a test that fails must end it by that.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::killpg;
use nix::unistd::{Pid, getsid};

use harness::{Address, Signal, Site, process, programs, wait_for};

/// A daemon, or none yet; ended with the test.
struct Daemon<'s>(&'s Site);

impl Daemon<'_> {
    fn pid(&self) -> Option<i32> {
        self.0.read("pid").trim().parse().ok()
    }

    fn get(&self, target: &str) -> String {
        Address::Unix(self.0.join("s")).get(target).expect("an answer").text()
    }

    #[track_caller]
    fn finish(&self) {
        let pid = self.pid().expect("a pid file");
        let group = process::find(pid).expect("it runs").group;
        process::send(pid, Signal::SIGTERM);
        wait_for("the end of the daemon", || process::group(group).is_empty());
        assert_eq!(self.0.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(found) = self.pid().and_then(process::find) {
            let _ = killpg(Pid::from_raw(found.group), Signal::SIGKILL);
        }
    }
}

/// Runs the command to its end: that is what is waited for here.
fn command(site: &Site, words: &[&str]) -> Output {
    let output = Command::new(programs().rgunicorn())
        .args(["--bind", "unix:s", "--pid", "pid", "--error-logfile", "error.log"])
        .args(words)
        .current_dir(site.path())
        .env("PWD", site.path())
        .env_remove("RGUNICORN_CMD_ARGS")
        .stdin(Stdio::null())
        .output();
    output.expect("the server's binary")
}

fn site(name: &str) -> Site {
    let site = Site::new(name);
    site.install(programs().inspect(1), "app.so");
    site
}

#[test]
fn the_command_ends_when_the_daemon_serves() {
    let site = site("daemon");
    let daemon = Daemon(&site);
    let output = command(&site, &["--daemon", "app.so"]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    // At once: no waiting here.
    assert_eq!(daemon.get("/version"), "INSPECT-VERSION:1");
    let pid = daemon.pid().expect("a pid file");
    let session = getsid(Some(Pid::from_raw(pid))).expect("it runs");
    assert_ne!(session, getsid(None).expect("we run"));
    assert_ne!(session.as_raw(), pid, "who leads a session could get a terminal");
    for stream in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{stream}")).expect("it is open");
        assert_eq!(target, Path::new("/dev/null"));
    }
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs"),
        fs::canonicalize(site.path()).expect("ours")
    );
    // WINCH is for it, since no terminal is.
    process::send(pid, Signal::SIGWINCH);
    wait_for("the workers to leave", || process::children(pid).is_empty());
    process::send(pid, Signal::SIGHUP);
    assert_eq!(daemon.get("/version"), "INSPECT-VERSION:1");
    daemon.finish();
}

#[test]
fn a_start_that_fails_is_told_where_it_was_typed() {
    let site = site("daemon_fails");
    let _daemon = Daemon(&site);
    let foreground = command(&site, &["app.so:nobody"]);
    let background = command(&site, &["-D", "app.so:nobody"]);
    assert_eq!(background.status.code(), Some(4));
    assert_eq!(background.status.code(), foreground.status.code());
    let said = String::from_utf8_lossy(&background.stderr).into_owned();
    assert!(said.starts_with("rgunicorn: ") && said.contains("'nobody'"), "{said}");
    assert_eq!(said, String::from_utf8_lossy(&foreground.stderr));
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_file_and_the_variable_may_ask_for_a_daemon_too() {
    let site = site("daemon_file");
    let daemon = Daemon(&site);
    site.write("rgunicorn.toml", "daemon = true\napplication = 'app.so'\n");
    let output = command(&site, &[]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert_eq!(daemon.get("/version"), "INSPECT-VERSION:1");
    // Another one does not become a second daemon: the pid file is held.
    let again = command(&site, &["--bind", "unix:other"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("Already running on PID"), "{again:?}");
    daemon.finish();
}

#[test]
fn usr2_of_a_daemon_makes_another_one_of_the_same_session() {
    let site = site("daemon_usr2");
    let daemon = Daemon(&site);
    assert_eq!(command(&site, &["--daemon", "app.so"]).status.code(), Some(0));
    let old = daemon.pid().expect("a pid file");
    process::send(old, Signal::SIGUSR2);
    wait_for("the new master", || site.read("error.log").contains("is ready"));
    process::send(old, Signal::SIGQUIT);
    wait_for("its promotion", || daemon.pid().is_some_and(|pid| pid != old) && !site.join("pid.2").exists());
    let session = |pid| getsid(Some(Pid::from_raw(pid))).ok();
    assert_ne!(session(daemon.pid().expect("a pid file")), getsid(None).ok());
    assert_eq!(daemon.get("/version"), "INSPECT-VERSION:1");
    daemon.finish();
}

/// A namespace of process ids of its own, as a container has it: the master is process 1 there, and inherits whoever
/// loses a parent.
#[test]
fn as_process_1_it_reaps_orphans_and_takes_them_for_nothing() {
    let site = site("pid_1");
    let unshare = ["--fork", "--pid", "--mount-proc", "--kill-child"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine lets nobody make a namespace of process ids");
        return;
    }
    let mut container = Command::new("unshare")
        .args(unshare)
        .arg(programs().rgunicorn())
        .args([
            "--bind",
            "unix:s",
            "--workers",
            "2",
            "--log-level",
            "debug",
            "--error-logfile",
            "error.log",
            "app.so",
        ])
        .current_dir(site.path())
        .env("PWD", site.path())
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let log = || site.read("error.log");
    wait_for("two workers", || {
        log().matches("Booting worker").count() == 2 && log().contains("Using worker")
    });
    assert!(log().contains("[1] [INFO] Starting rgunicorn"), "{}", log());
    let outside = process::children(container.id() as i32)[0].pid;
    let workers: Vec<i32> = process::children(outside).iter().map(|child| child.pid).collect();
    // A process that leaves children behind, in the same namespace.
    let orphans = "for n in 1 2 3; do (sleep 0.05; exit $n) & done; exit 0";
    let status =
        Command::new("nsenter").args(["-t", &outside.to_string(), "-p", "sh", "-c", orphans]).status();
    assert!(status.is_ok_and(|status| status.success()), "nsenter comes with unshare");
    for code in 1..=3 {
        let line = format!("no child of this master: exited with code {code}");
        wait_for(&line, || log().contains(&line));
    }
    let now: Vec<i32> = process::children(outside).iter().map(|child| child.pid).collect();
    assert_eq!(now, workers, "nobody was replaced, and no zombie is left");
    assert_eq!(Address::Unix(site.join("s")).get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
    // Signals that nothing handles do not reach process 1; ours does, and ends the container.
    process::send(outside, Signal::SIGTERM);
    assert_eq!(container.wait().expect("our child").code(), Some(0));
    assert!(log().contains("Shutting down: Master") && !log().contains("[ERROR]"), "{}", log());
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new());
}
