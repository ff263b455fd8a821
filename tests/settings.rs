//! Each setting takes effect, and refuses what it cannot be.
//!
//! Owns one entry per setting: what is seen on the wire, in /proc or in a file when it is set, and a value that must be
//! refused with a sentence that names it.. What a newcomer
//! would get wrong: `--print-config` proves nothing here. It shows what was read, not what is done.

use std::cell::RefCell;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use harness::{DEADLINE, Settings, Signal, Site, programs, wait_for};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, geteuid};

/// A site with the test application.
fn site(name: &str) -> Site {
    let site = Site::new(&format!("setting_{name}"));
    site.install(programs().inspect(1), "app.so");
    site
}

/// A server with this line in its file does not start, and says why in one sentence.
fn refuses(name: &str, value: &str, sentence: &str) {
    let site = site(name);
    let ended = site.launch().with(|settings| _ = settings.raw(name, value)).start_in_vain();
    assert!(!ended.status.success(), "{name} = {value} was accepted");
    assert!(ended.stderr.contains(name), "{name} is not named: {}", ended.stderr);
    assert!(ended.stderr.contains(sentence), "{sentence:?} is not said: {}", ended.stderr);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
}

/// The command line that /proc shows for a process.
fn title(pid: i32) -> String {
    let octets = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&octets).trim_end_matches('\0').to_owned()
}

/// A line of /proc/PID/status.
fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// A syslog daemon.
struct Daemon {
    socket: UnixDatagram,
    path: PathBuf,
    heard: RefCell<Vec<String>>,
}

impl Daemon {
    fn new(site: &Site) -> Self {
        let path = site.join("log.sock");
        let socket = UnixDatagram::bind(&path).expect("a socket of its own");
        site.mine("log.sock");
        socket.set_nonblocking(true).expect("a flag");
        Self { socket, path, heard: RefCell::default() }
    }

    fn configure(&self, settings: &mut Settings) {
        settings.raw("syslog", "true").text("syslog_addr", &format!("unix://{}", self.path.display()));
    }

    /// All datagrams so far.
    fn heard(&self) -> Vec<String> {
        let mut octets = [0; 9000];
        let mut heard = self.heard.borrow_mut();
        while let Ok(length) = self.socket.recv(&mut octets) {
            heard.push(String::from_utf8_lossy(&octets[..length]).into_owned());
        }
        heard.clone()
    }

    /// Waits for a datagram that contains a text, and returns the first.
    fn wait(&self, text: &str) -> String {
        wait_for(&format!("the datagram {text:?}"), || self.heard().iter().any(|line| line.contains(text)));
        self.heard().into_iter().find(|line| line.contains(text)).expect("it was there")
    }
}

/// One entry per setting: `name, a bad value and what is said of it, a test that it takes effect`.
macro_rules! settings {
    ($($name:ident, $bad:expr => $sentence:expr, |$site:ident| $effect:block)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn takes_effect() {
                let $site = site(stringify!($name));
                $effect
            }

            #[test]
            fn refuses_a_bad_value() {
                refuses(stringify!($name), $bad, $sentence);
            }
        })*
    };
}

settings! {
    proc_name, r#""a\u0007b""# => "control character", |site| {
        let long = "n".repeat(300);
        let server = site.launch().with(|settings| _ = settings.text("proc_name", &long)).start();
        let worker = server.workers()[0];
        assert_eq!(title(server.pid()), format!("rgunicorn: master [{long}]"));
        assert_eq!(title(worker), format!("rgunicorn: worker [{long}]"));
        // What the title has overwritten is still there for the application.
        assert_eq!(server.text("/env?name=PWD"), site.path().display().to_string());
        server.finish();
    }

    initgroups, "1" => "true or false", |site| {
        // Whoever is named in a line of group(5) has a supplementary group.
        let groups = fs::read_to_string("/etc/group").expect("this system has groups");
        let member = groups.lines().find_map(|line| {
            let mut fields = line.split(':').skip(2);
            let (group, members) = (fields.next()?, fields.next()?);
            let member = members.split(',').next().filter(|member| !member.is_empty())?;
            Some((group.to_owned(), member.to_owned()))
        });
        let (Some((group, member)), true) = (member, geteuid().is_root()) else {
            eprintln!("nothing to see here: it takes root, and a user with a supplementary group");
            return;
        };
        let mut server = site.launch().with(|settings| _ = settings.text("user", &member)).start();
        let groups = |pid| status(pid, "Groups");
        let has = |groups: &str| groups.split_whitespace().any(|other| other == group);
        let own = groups(server.workers()[0]);
        assert!(has(&own), "{member} is in {group}: {own}");
        server.configure(|settings| _ = settings.raw("initgroups", "false"));
        server.reload_well();
        let own = groups(server.workers()[0]);
        assert_eq!(own.split_whitespace().count(), 1, "its own group and no other: {own}");
        assert!(!has(&own), "{own}");
        server.finish();
    }

    no_new_privs, "1" => "true or false", |site| {
        let server = site.launch().start();
        assert_eq!(status(server.workers()[0], "NoNewPrivs"), "1");
        assert_eq!(status(server.pid(), "NoNewPrivs"), "0", "the master may be asked to start anything");
        server.finish();
        let server = site.launch().args(&["--no-new-privs=false"]).start();
        assert_eq!(status(server.workers()[0], "NoNewPrivs"), "0");
        server.finish();
    }

    allow_world_writable, "1" => "true or false", |site| {
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let release = site.directory("release");
        fs::rename(site.join("app.so"), release.join("app.so")).expect("the same file system");
        site.mine("release/app.so");
        let launch = || site.launch().with(|settings| _ = settings.text("application", "current/app.so"));
        symlink("release", site.join("current")).expect("a symlink");
        site.mine("current");
        for (path, mode, sentence) in [
            (release.clone(), 0o777, "everybody can write the directory "),
            (release.join("app.so"), 0o666, "everybody can write the file "),
        ] {
            let before = fs::metadata(&path).expect("it is there").permissions().mode();
            allow(&path, mode);
            let ended = launch().start_in_vain();
            assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
            assert!(ended.stderr.contains(sentence) && ended.stderr.contains("release"), "{}", ended.stderr);
            let server = launch().args(&["--allow-world-writable"]).start();
            assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
            server.finish();
            allow(&path, before & 0o777);
        }
        // A reload judges again.
        let mut server = launch().start();
        allow(&release, 0o777);
        server.expect_error("Reload refused");
        let verdict = server.reload();
        assert!(verdict.contains("everybody can write the directory"), "{verdict}");
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.finish();
    }

    log_format, r#""xml""# => "text, json", |site| {
        // The harness finds the server by its log: here the log is read as what it is.
        let mut server = site.launch().start();
        server.configure(|settings| _ = settings.text("log_format", "json"));
        let pid = server.pid();
        server.signal(Signal::SIGHUP);
        let is_json = |line: &str| line.starts_with("{\"time\": \"2") && line.ends_with('}');
        wait_for("the verdict, as an object", || {
            site.read("error.log").lines().any(|line| {
                is_json(line)
                    && line.contains(&format!(r#""pid": {pid}, "level": "INFO", "message": "Reloaded: "#))
            })
        });
        assert!(site.read("error.log").lines().any(|line| is_json(line) && line.contains("Booting worker")));
        server.configure(|settings| _ = settings.remove("log_format"));
        server.reload_well();
        server.finish();
    }

    syslog, "1" => "true or false", |site| {
        let daemon = Daemon::new(&site);
        let server = site.launch().with(|settings| daemon.configure(settings)).start();
        let pid = server.workers()[0];
        // Facility 1, severity 6; nothing of Gunicorn's datagram is missing, and the file has the line as well.
        daemon.wait(&format!("<14>rgunicorn.app.so.app.error: [{pid}] Booting worker with pid: {pid}"));
        assert!(server.log().contains("Booting worker with pid"));
        assert_eq!(server.get("/version").status, 200);
        let line = daemon.wait(&format!("<14>rgunicorn.app.so.app.access: [{pid}] 127.0.0.1 - - ["));
        assert!(line.contains(r#""GET /version HTTP/1.1" 200"#), "{line}");
        server.finish();
    }

    syslog_addr, r#""tcp://127.0.0.1:514""# => "udp://HOST:PORT or unix://PATH", |site| {
        let daemon = UdpSocket::bind("127.0.0.1:0").expect("a port");
        daemon.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let address = format!("udp://{}", daemon.local_addr().expect("it is bound"));
        let launch = site.launch().settings(&[("syslog", "true")]);
        let server = launch.with(|settings| _ = settings.text("syslog_addr", &address)).start();
        let mut octets = [0; 9000];
        let length = daemon.recv(&mut octets).expect("a line");
        assert!(octets[..length].starts_with(b"<14>rgunicorn.app.so.app.error: ["));
        server.finish();
    }

    syslog_prefix, "1" => "a text", |site| {
        let daemon = Daemon::new(&site);
        let launch = site.launch().with(|settings| daemon.configure(settings));
        let server = launch.with(|settings| _ = settings.text("syslog_prefix", "shop")).start();
        daemon.wait("<14>rgunicorn.shop.error: [");
        server.finish();
    }

    syslog_facility, r#""nobody""# => "there is no facility 'nobody'; there are kern", |site| {
        let daemon = Daemon::new(&site);
        let launch = site.launch().with(|settings| daemon.configure(settings));
        let server = launch.with(|settings| _ = settings.text("syslog_facility", "local0")).start();
        daemon.wait("<134>rgunicorn.app.so.app.error: [");
        server.finish();
    }

    disable_redirect_access_to_syslog, "1" => "true or false", |site| {
        let daemon = Daemon::new(&site);
        let launch = site.launch().with(|settings| daemon.configure(settings));
        let server = launch.settings(&[("disable_redirect_access_to_syslog", "true")]).start();
        assert_eq!(server.get("/version").status, 200);
        server.finish();
        // The end of the worker comes after everything that it had to log.
        daemon.wait("Worker exiting");
        assert!(!daemon.heard().iter().any(|line| line.contains(".access: ")), "{:?}", daemon.heard());
    }

    capture_output, "1" => "true or false", |site| {
        let mut server = site.launch().settings(&[("capture_output", "true")]).start();
        let worker = server.workers()[0];
        let streams = |pid: i32| {
            ["1", "2"].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("it is open"))
        };
        let log = site.join("error.log");
        assert_eq!(streams(worker), [log.clone(), log.clone()]);
        assert_eq!(streams(server.pid()), [site.join("stdout"), site.join("stderr")]);
        // They follow the log when it is rotated.
        fs::rename(&log, site.join("error.log.1")).expect("the same directory");
        site.mine("error.log.1");
        assert_eq!(streams(worker)[0], site.join("error.log.1"));
        server.signal(Signal::SIGUSR1);
        wait_for("the new file", || streams(worker) == [log.clone(), log.clone()]);
        fs::rename(site.join("error.log.1"), &log).expect("the harness goes on with the old one");
        server.signal(Signal::SIGUSR1);
        wait_for("the old file", || streams(worker)[1] == log);
        server.configure(|settings| _ = settings.remove("capture_output"));
        server.reload_well();
        assert_eq!(streams(server.workers()[0]), [site.join("stdout"), site.join("stderr")]);
        server.finish();
    }

    workers, "0" => "a whole number from 1 to 1024, or auto", |site| {
        let mut server = site.launch().workers(3).start();
        assert_eq!(server.wait_workers(3).len(), 3);
        server.configure(|settings| _ = settings.raw("workers", "2"));
        server.reload_well();
        server.wait_workers(2);
        server.finish();
    }
}

/// What the server may use is what this thread, which starts it, may use.
#[test]
fn workers_auto_counts_the_cpus_that_the_server_may_use() {
    let site = site("workers_auto");
    let all = sched_getaffinity(Pid::from_raw(0)).expect("our own");
    let allowed = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).expect("within the set")).take(2);
    let mut few = CpuSet::new();
    let mut count = 0;
    for cpu in allowed {
        few.set(cpu).expect("within the set");
        count += 1;
    }
    // A quota may leave less; it is the machine's, and std's tests cover how it is read.
    let expected = available_parallelism().expect("there are CPUs").get().min(count);
    sched_setaffinity(Pid::from_raw(0), &few).expect("a part of what we had");
    let server = site.launch().args(&["--workers", "auto"]).start();
    sched_setaffinity(Pid::from_raw(0), &all).expect("as before");
    assert_eq!(server.wait_workers(expected).len(), expected);
    server.finish();
}

#[test]
fn nobody_waits_for_a_syslog_daemon_that_does_not_read() {
    let site = site("syslog_deaf");
    let daemon = Daemon::new(&site);
    let mut server = site.launch().with(|settings| daemon.configure(settings)).start();
    wait_for("a full queue", || {
        assert_eq!(server.get("/version").status, 200);
        site.read("error.log").contains("lines of the access log") || queue_is_full(&daemon)
    });
    for _ in 0..20 {
        assert_eq!(server.get("/version").status, 200);
    }
    server.configure(|settings| _ = settings.raw("workers", "2"));
    server.reload_well();
    server.wait_log("the syslog daemon takes no lines; until it does they are counted");
    server.finish();
}

/// Whether one datagram more would have to wait.
fn queue_is_full(daemon: &Daemon) -> bool {
    let probe = UnixDatagram::unbound().expect("a socket");
    probe.set_nonblocking(true).expect("a flag");
    probe.send_to(b"x", &daemon.path).is_err()
}

#[test]
fn the_title_names_the_application_unless_told_otherwise() {
    let site = site("title");
    let mut server = site.launch().start();
    assert_eq!(title(server.pid()), "rgunicorn: master [app.so:app]");
    server.configure(|settings| _ = settings.text("proc_name", "x"));
    server.reload_well();
    assert_eq!(title(server.pid()), "rgunicorn: master [x]");
    server.finish();
}
