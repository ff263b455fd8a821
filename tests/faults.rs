//! What the machine refuses: descriptors, memory, processes, room on the disk, system calls; and a clock that jumps. The
//! server degrades, says so in few lines, does not spin, and is as before when it is over, without a restart.
//!
//! What a newcomer would get wrong: a limit that hits everybody at the start proves nothing; each of these begins with a
//! server that serves. Where the machine lacks the means (strace, mount rights) the test is skipped by name. Stopped workers and
//! masters are in `supervise.rs`, killed ones in `endurance.rs`; the whole list of calls is `cargo reliability faults`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::compiler::Compiler;
use harness::inject::Fault;
use harness::{
    Class, Connection, Crowd, Launch, Load, Manner, Plan, Server, Signal, Site, process, programs,
    under_all_classes_at_a_time, under_each_class, under_each_that_keeps_alive, usage, wait_for,
};

const FORK: &str = "?fork,?vfork,?clone,?clone3";
/// A longer time to boot than any test waits.
const LONG: (&str, &str) = ("boot_timeout", "600");

fn launch(site: &Site, class: Class) -> Launch<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().class(class)
}

/// How often a message with this text has come.
fn said(server: &Server<'_>, text: &str) -> usize {
    server.messages(text).len()
}

// ---------------------------------------------------------------------------------------------------
// System calls.

#[test]
fn a_fork_that_fails_is_tried_again_soon() {
    let site = Site::new("fork");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().settings(&[LONG]).start();
    let Some(fault) = Fault::begin(server.pid(), FORK, "error=EAGAIN") else { return server.finish() };
    for error in ["cannot fork a probe", "SIGKILL", "cannot fork a worker"] {
        server.expect_error(error);
    }
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused") && verdict.contains("cannot fork a probe"), "{verdict}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    process::send(server.workers()[0], Signal::SIGKILL);
    // The second one shows that it is tried again, and not only after the time that a worker may take to boot.
    wait_for("two forks that fail", || said(&server, "cannot fork a worker: Resource temporarily") >= 2);
    let tried = fault.calls();
    assert!(tried < 20, "{tried} forks in a moment");
    fault.end();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.reload_well();
    server.finish();
}

#[test]
fn an_accept_that_is_always_refused_is_no_busy_loop() {
    under_each_class(|class| {
        let site = Site::new("accept");
        let mut server = launch(&site, class).start();
        server.expect_error("cannot accept on");
        for error in ["EPERM", "ECONNABORTED", "EMFILE"] {
            let worker = server.workers()[0];
            let before = said(&server, "cannot accept on");
            let Some(fault) = Fault::begin(worker, "accept4", &format!("error={error}")) else {
                return server.finish();
            };
            let load = std::thread::scope(|scope| {
                let client = scope.spawn(|| server.address().get("/version"));
                wait_for("a complaint", || said(&server, "cannot accept on") > before);
                wait_for("some pauses", || fault.calls() > 10);
                let (calls, begin) = (fault.calls(), std::time::Instant::now());
                wait_for("a second to pass", || begin.elapsed() >= Duration::from_secs(1));
                // Ten pauses a second, and at most so many calls in a row that blame the client.
                let calls = fault.calls() - calls;
                assert!(calls < 2000, "{calls} calls in a second");
                fault.end();
                client.join().expect("a client does not panic")
            });
            assert_eq!(load.expect("it was only late").text(), "INSPECT-VERSION:1");
            assert!(said(&server, "cannot accept on") < before + 30, "it is said once a second");
            assert_eq!(server.workers(), [worker]);
        }
        server.finish();
    });
}

#[test]
fn connections_that_cannot_be_watched_are_complained_of_once_a_second() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("watch");
        let mut server = launch(&site, class).settings(&[("keepalive", "60")]).start();
        server.expect_error("cannot watch");
        let worker = server.workers()[0];
        let Some(fault) = Fault::begin(worker, "epoll_ctl", "error=ENOSPC") else { return server.finish() };
        for _ in 0..200 {
            // It has to wait for its next request, and cannot.
            let _ = harness::Connection::open(server.address()).and_then(|mut connection| {
                connection.send_get("/version")?;
                connection.read_response()?;
                connection.read_end()
            });
        }
        fault.end();
        let complaints = said(&server, "cannot watch");
        assert!((1..60).contains(&complaints), "{complaints} complaints");
        let load = Load::start(server.address(), Plan::versions(2).kept(Duration::from_secs(60)));
        load.more(50);
        load.stop().expect_flawless();
        assert_eq!(server.workers(), [worker]);
        server.finish();
    });
}

// ---------------------------------------------------------------------------------------------------
// Limits.

#[test]
fn a_full_table_of_descriptors_lets_clients_wait() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("nofile");
        let launch = launch(&site, class).settings(&[("keepalive", "60"), ("head_timeout", "60")]);
        let mut server = launch.through("ulimit -n 64; exec \"$@\"").start();
        server.expect_error("cannot accept on");
        let worker = server.workers()[0];
        let mut crowd = Crowd::default();
        crowd.join(server.address(), 100, &Manner::asks("GET /version HTTP/1.1\r\nHost: a\r\n\r\n"));
        crowd.until("the worker to have no descriptor left", |_| said(&server, "cannot accept on") > 0);
        let (before, begin) = (usage::cpu_time(worker), std::time::Instant::now());
        wait_for("a second to pass", || begin.elapsed() >= Duration::from_secs(1));
        let spent = usage::cpu_time(worker) - before;
        assert!(spent < Duration::from_millis(300), "it is full, and spends {spent:?} in a second");
        let answered =
            |crowd: &Crowd| crowd.clients().iter().filter(|client| client.status() == Some(200)).count();
        crowd.until("those that were accepted to have their answers", |crowd| answered(crowd) >= 20);
        assert!(answered(&crowd) < 64, "{} of 100 have been answered", answered(&crowd));
        // A reload needs descriptors, too, and the master has its own.
        let verdict = server.reload();
        assert!(verdict.starts_with("Reloaded: "), "{verdict}");
        drop(crowd);
        server.wait_gone(worker);
        let load = Load::start(server.address(), Plan::versions(2));
        load.more(50);
        load.stop().expect_flawless();
        server.finish();
    });
}

#[test]
fn a_worker_that_gets_no_memory_is_replaced_and_the_others_serve() {
    under_each_class(|class| {
        let site = Site::new("memory");
        // In KiB of addresses: many times what a worker needs, and less than what is asked for below.
        let mut server = launch(&site, class).workers(2).through("ulimit -v 1500000; exec \"$@\"").start();
        server.expect_error("SIGABRT");
        server.expect_error("memory allocation");
        let first = server.workers();
        let answer = server.address().get("/grow?bytes=2000000000");
        assert!(answer.is_err(), "{answer:?}");
        server.wait_log("SIGABRT");
        wait_for("the other one, and a new one", || {
            let now = server.workers();
            now.len() == 2 && now.iter().filter(|pid| first.contains(pid)).count() == 1
        });
        let load = Load::start(server.address(), Plan::versions(2));
        load.more(50);
        load.stop().expect_flawless();
        server.reload_well();
        server.finish();
    });
}

// ---------------------------------------------------------------------------------------------------
// Disks.

/// Whether this machine lets a test mount something where nobody else sees it.
fn may_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).stdin(Stdio::null()).stderr(Stdio::null());
    let may = command.status().is_ok_and(|status| status.success());
    if !may {
        eprintln!("skipped: unshare(1) and mount(8) may not mount a file system here");
    }
    may
}

/// A server with a small disk of its own, `disk`, which the test finds below /proc/PID/root.
fn with_disk(launch: Launch<'_>, kilobytes: u64) -> Launch<'_> {
    launch.through(&format!(
        "exec unshare -m sh -c 'mount -t tmpfs -o size={kilobytes}k none disk && exec \"$@\"' sh \"$@\""
    ))
}

/// Makes that disk larger.
fn enlarge(server: &Server<'_>, site: &Site) {
    let disk = site.join("disk");
    let pid = server.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &pid, "mount", "-o", "remount,size=1g"]).arg(&disk);
    assert!(command.status().is_ok_and(|status| status.success()), "nsenter comes with unshare");
}

#[test]
fn a_disk_without_room_for_images_refuses_the_reload() {
    if !may_mount() {
        return;
    }
    let site = Site::new("full_images");
    site.install(programs().inspect(1), "app.so");
    site.directory("disk");
    let size = |path: std::path::PathBuf| fs::metadata(path).expect("it is built").len();
    // Room for one generation, and half of the next.
    let generation = size(programs().inspect(1)) + size(programs().sync());
    let launch = site.launch().with(|settings| _ = settings.text("runtime_dir", "disk"));
    let mut server = with_disk(launch, generation * 3 / 2 / 1024).start();
    server.expect_error("Reload refused");
    let load = Load::start(server.address(), Plan::versions(2));
    site.install(programs().inspect(2), "app.so");
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused") && verdict.contains("No space left"), "{verdict}");
    load.more(20);
    // What was copied of the second generation is gone, so that it does not keep the disk full.
    let disk = site.join("disk");
    let inside = format!("/proc/{}/root{}", server.pid(), disk.display());
    let generations = |inside: &str| {
        let runtime =
            fs::read_dir(inside).expect("the disk").flatten().next().expect("the runtime directory");
        let entries = fs::read_dir(runtime.path()).expect("it is there").flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
    };
    assert_eq!(generations(&inside), 1);
    enlarge(&server, &site);
    server.reload_well();
    load.epoch(1);
    load.more(20);
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(1), ["2"]);
    server.finish();
}

#[test]
fn a_disk_without_room_for_logs_costs_lines_and_no_request() {
    if !may_mount() {
        return;
    }
    under_each_class(|class| {
        let site = Site::new("full_logs");
        site.directory("disk");
        let launch = launch(&site, class).workers(2).with(|settings| {
            settings.text("accesslog", "disk/access.log");
            settings.text("access_log_format", "begin %(r)s %({host}i)s end");
        });
        let server = with_disk(launch, 8).start();
        let load = Load::start(server.address(), Plan::versions(4));
        server.wait_log("were dropped");
        load.more(200);
        enlarge(&server, &site);
        let path = format!("/proc/{}/root{}", server.pid(), site.join("disk/access.log").display());
        let full = fs::metadata(&path).expect("the log").len();
        wait_for("lines again", || fs::metadata(&path).expect("the log").len() > full + 20_000);
        load.stop().expect_flawless();
        wait_for("the last line", || fs::read_to_string(&path).expect("text").ends_with(" end\n"));
        let text = fs::read_to_string(&path).expect("text");
        // Each worker, and the two of them once more, may have been cut off within a line. No line begins within another.
        let (whole, other): (Vec<&str>, Vec<&str>) = text
            .lines()
            .filter(|line| !line.is_empty())
            .partition(|line| line.starts_with("begin ") && line.ends_with(" end"));
        assert!(whole.iter().all(|line| line.matches("begin").count() == 1), "two lines in one");
        assert!(other.len() <= 4 && other.iter().all(|line| line.matches("begin").count() <= 1), "{other:?}");
        let complaints = said(&server, "were dropped");
        assert!(complaints < 100, "{complaints} complaints");
        server.finish();
    });
}

#[test]
fn one_writable_directory_is_enough() {
    if !may_mount() {
        return;
    }
    let site = Site::new("read_only");
    site.install(programs().inspect(1), "app.so");
    // All that is mounted at / becomes read-only, in a name space that ends with the server.
    let script = "exec unshare -m sh -c 'mount --bind \"$PWD\" \"$PWD\" && mount -o remount,ro,bind / && \
                  cd \"$PWD\" && exec \"$@\"' sh \"$@\"";
    let server = site.launch().workers(2).through(script).start();
    let root = format!("/proc/{}/root/rgt-{}", server.pid(), std::process::id());
    assert!(fs::write(&root, "").is_err(), "the root is read-only");
    let load = Load::start(server.address(), Plan::versions(2));
    site.install(programs().inspect(2), "app.so");
    server.reload_well();
    load.epoch(1);
    load.more(20);
    assert_eq!(load.stop().expect_flawless().labels(1), ["2"]);
    server.finish();
}

// ---------------------------------------------------------------------------------------------------
// The clock.

const DAY: i64 = 86_400;

/// The wall clock of one server, which this test moves: what the processes ask for is answered by `clock.c`.
struct Clock(fs::File);

impl Clock {
    fn move_by(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).expect("a file that is there");
    }

    /// Sets it to so many seconds after 1970.
    fn set(&self, seconds: i64) {
        self.move_by(seconds - now());
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the machine's own clock is right");
    now.as_secs().try_into().expect("it is for long")
}

/// What date(1) says of a moment.
fn day(seconds: i64, format: &str) -> String {
    let mut command = Command::new("date");
    command.args(["-u", "-d", &format!("@{seconds}"), format]).env("LC_ALL", "C");
    harness::compiler::run(&mut command).trim().to_owned()
}

#[test]
fn a_clock_that_jumps_moves_dates_and_nothing_else() {
    let Some(compiler) = Compiler::c("a_clock_that_jumps_moves_dates_and_nothing_else") else { return };
    under_all_classes_at_a_time(|class| {
        let site = Site::waiting("clock");
        for name in ["clock.so", "shift", "control.sock"] {
            site.mine(name);
        }
        compiler.library("tests/fixtures/c/clock.c", &site.join("clock.so"), &[]);
        let clock = Clock(fs::File::create(site.join("shift")).expect("a new file"));
        clock.move_by(0);
        let settings = [("timeout", "20"), ("head_timeout", "2"), ("keepalive", "60")];
        let launch = launch(&site, class).workers(2).settings(&settings).with(|settings| {
            settings.text("control_socket", "control.sock").text("accesslog", "access.log");
            settings.text("access_log_format", "%(t)s %(D)s");
        });
        let preload = site.join("clock.so").display().to_string();
        let shift = site.join("shift").display().to_string();
        let server = launch.env("LD_PRELOAD", &preload).env("TEST_CLOCK", &shift).start();
        let mut loads =
            vec![Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(5)))];
        if class.keeps_alive {
            let plan = Plan::versions(2).paced(Duration::from_millis(5));
            loads.push(Load::start(server.address(), plan.kept(Duration::from_secs(60))));
        }
        let shows = |day: &str| {
            wait_for(&format!("a date of {day}"), || {
                server.get("/version").field("date").is_some_and(|date| date.contains(day))
            });
        };

        // Both ways by a day, each with a request at work, and a head that does not end.
        let mut workers = server.workers();
        for (days, more) in [(1, 3), (-1, 4)] {
            let mut asked = Connection::open(server.address()).expect("it listens");
            asked.send_get("/sleep?ms=500").expect("it reads");
            asked.wait_until_taken();
            let begin = Instant::now();
            let mut slow = Connection::open(server.address()).expect("it listens");
            slow.send(b"GET / HTTP/1.1\r\n").expect("it reads");
            slow.wait_until_taken();
            clock.move_by(days * DAY);
            // What a client may take for its head is no longer, and no shorter.
            assert_eq!(slow.read_response().expect("an answer").status, 408);
            assert!(begin.elapsed() >= Duration::from_millis(1900), "after {:?}", begin.elapsed());
            assert_eq!(asked.read_response().expect("it is only a clock").status, 200);
            shows(&day(now() + days * DAY, "+%d %b %Y"));
            // One more worker shows that the master has been round its loop, with all that it would do about the others.
            server.signal(Signal::SIGTTIN);
            let all = server.wait_workers(more);
            assert!(workers.iter().all(|pid| all.contains(pid)), "murdered: {workers:?}, {all:?}");
            workers = all;
        }

        // To where a clock without a battery starts, over the ends of 31 and 32 bits, and near to the last that Linux takes.
        for second in [DAY / 2, (1 << 31) - 3, (1 << 32) - 3, 8_200_000_000] {
            clock.set(second);
            shows(&day(second, "+%d %b %Y"));
            loads.iter().for_each(|load| load.more(20));
            // The file's time is of the machine's clock: to the server of long ago, or yet to come.
            site.install(programs().inspect(1), "app.so");
            server.reload_well();
            let uptime = uptime(&site);
            assert!((0.0..600.0).contains(&uptime), "up for {uptime} s");
            for file in ["error.log", "access.log"] {
                let format = if file == "error.log" { "+[%Y-%m-%d " } else { "+[%d/%b/%Y:" };
                let day = day(second, format);
                wait_for(&format!("{day} in {file}"), || site.read(file).contains(&day));
            }
        }
        loads.into_iter().for_each(|load| _ = load.stop().expect_flawless());

        server.finish();
        let log = site.read("access.log");
        let slow = log.lines().find(|line| {
            let duration = line.rsplit(' ').next().and_then(|text| text.parse::<u64>().ok());
            duration.is_none_or(|microseconds| microseconds > 60_000_000)
        });
        assert_eq!(slow, None, "a request that took longer than the test");
    });
}

/// What the control socket says of the master.
fn uptime(site: &Site) -> f64 {
    let mut command = Command::new(programs().rgunicorn());
    command.arg("ctl").arg(site.join("control.sock")).args(["status", "--json"]);
    let status = harness::compiler::run(&mut command);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status["uptime_seconds"].as_f64().expect("a number")
}
