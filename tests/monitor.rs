//! The monitor: `/livez`, `/readyz` and `/metrics` tell the truth, at once, whatever the workers are at.
//!
//! What a newcomer would get wrong: the answers do not come from a worker, so that a worker that is busy, stuck or
//! dying is exactly when they must come. Times are measured and printed.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use harness::crowd::Manner;
use harness::{
    Address, Connection, Crowd, Load, Plan, Response, Server, Signal, Site, process, programs,
    under_each_class, wait_for,
};

const SLEEP: &str = "GET /sleep?ms=2000 HTTP/1.1\r\nHost: test\r\n\r\n";

/// How long an answer may take. It is a multiple of what it takes on a machine with nothing else to do.
const AT_ONCE: Duration = Duration::from_millis(10);

fn launch(site: &Site) -> harness::Launch<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().with(|settings| _ = settings.text("monitor_bind", "127.0.0.1:0"))
}

/// Where the monitor answers, as the log says.
fn monitor(server: &Server<'_>) -> Address {
    let line = server.wait_log("Monitoring at: http://");
    let (address, _pid) = line.trim_start_matches("Monitoring at: http://").rsplit_once(" (").expect("a pid");
    Address::Tcp(address.parse().expect("an address"))
}

/// The process that said so last.
fn monitor_pid(server: &Server<'_>) -> i32 {
    let lines = server.messages("Booting monitor with pid: ");
    let last = lines.last().and_then(|line| line.rsplit(' ').next());
    last.expect("there is a monitor").parse().expect("a pid")
}

#[track_caller]
fn ask(monitor: &Address, target: &str) -> Response {
    match monitor.get(target) {
        Ok(response) => response,
        Err(failure) => panic!("GET {target}: {failure}"),
    }
}

fn is_ready(monitor: &Address) -> bool {
    ask(monitor, "/readyz").status == 200
}

/// Waits until the server is not ready, and returns why.
#[track_caller]
fn wait_unready(monitor: &Address) -> String {
    let mut why = String::new();
    wait_for("the server not to be ready", || {
        let response = ask(monitor, "/readyz");
        why = response.text();
        response.status == 503
    });
    why
}

/// All samples of `/metrics`.
fn metrics(monitor: &Address) -> BTreeMap<String, f64> {
    let page = ask(monitor, "/metrics");
    assert_eq!(page.status, 200);
    assert_eq!(page.field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = page.text();
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

/// The slowest and the median of a hundred answers of each page.
fn times(monitor: &Address) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..300)
        .map(|index| {
            let begin = Instant::now();
            let response = ask(monitor, ["/livez", "/readyz", "/metrics"][index % 3]);
            assert!([200, 503].contains(&response.status));
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

#[test]
fn it_answers_at_once_while_every_worker_is_busy() {
    under_each_class(|class| {
        let site = Site::new("busy");
        let server = launch(&site).class(class).workers(2).start();
        let monitor = monitor(&server);
        wait_for("readiness", || is_ready(&monitor));
        let mut crowd = Crowd::default();
        crowd.join(server.address(), 2, &Manner::asks(SLEEP));
        crowd.until("two requests at work", |_| metrics(&monitor)["rgunicorn_requests_active"] == 2.0);
        let (median, slowest) = times(&monitor);
        eprintln!("{}: with every worker busy: median {median:.2?}, slowest {slowest:.2?}", class.name);
        assert!(median < AT_ONCE, "{median:?}");
        crowd.until("the answers", |crowd| crowd.open() == 0);
        let after = metrics(&monitor);
        assert_eq!(after["rgunicorn_requests_total{status=\"2xx\"}"], 2.0);
        assert_eq!(after["rgunicorn_request_duration_seconds_count"], 2.0);
        assert!(after["rgunicorn_request_duration_seconds_sum"] >= 4.0, "{after:#?}");
        assert_eq!(after["rgunicorn_connections_accepted_total"], 2.0);
        server.finish();
    });
}

#[test]
fn a_full_queue_is_not_ready_and_an_empty_one_is_again() {
    for unix in [false, true] {
        let site = Site::new("full");
        let server = launch(&site).everywhere().settings(&[("backlog", "4")]).start();
        let monitor = monitor(&server);
        wait_for("readiness", || is_ready(&monitor));
        let limits = metrics(&monitor);
        let limits: Vec<_> = limits.iter().filter(|(name, _)| name.contains("backlog_limit{")).collect();
        assert_eq!(limits.len(), 2, "{limits:?}");
        assert!(limits.iter().all(|(_, limit)| **limit == 4.0), "{limits:?}");
        let address = &server.addresses()[usize::from(unix)];
        let mut crowd = Crowd::default();
        crowd.join(address, 1, &Manner::asks(SLEEP));
        crowd.until("a busy worker", |_| metrics(&monitor)["rgunicorn_requests_active"] == 1.0);
        crowd.join(address, 4, &Manner::asks("GET /version HTTP/1.1\r\nHost: test\r\n\r\n"));
        crowd.until("a full queue", |_| !is_ready(&monitor));
        let why = ask(&monitor, "/readyz").text();
        assert!(why.contains("is full: 4 connections wait"), "{why}");
        let (median, slowest) = times(&monitor);
        eprintln!("with the queue of {address:?} full: median {median:.2?}, slowest {slowest:.2?}");
        assert!(median < AT_ONCE, "{median:?}");
        crowd.until("all answers", |crowd| crowd.open() == 0);
        assert!(crowd.clients().iter().all(|client| client.status() == Some(200)));
        wait_for("readiness", || is_ready(&monitor));
        server.finish();
    }
}

#[test]
fn a_crash_loop_is_not_ready_until_it_ends() {
    let site = Site::new("crash_loop");
    let mut server = launch(&site).workers(2).env("INSPECT_INIT", "barred").start();
    let monitor = monitor(&server);
    wait_for("both workers", || metrics(&monitor)["rgunicorn_workers{state=\"idle\"}"] == 2.0);
    // Boots fail from now on; the worker that is left serves all the same.
    site.write("barred", "");
    process::send(server.workers()[0], Signal::SIGKILL);
    let why = wait_unready(&monitor);
    assert!(why.contains("die again and again"), "{why}");
    let during = metrics(&monitor);
    assert!(during["rgunicorn_worker_exits_total{reason=\"boot\"}"] >= 2.0, "{during:#?}");
    assert_eq!(during["rgunicorn_worker_exits_total{reason=\"signal\"}"], 1.0);
    assert_eq!(during["rgunicorn_workers_failing"], 1.0);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    fs::remove_file(site.join("barred")).expect("it is there");
    wait_for("readiness", || is_ready(&monitor));
    server.expect_error("inspect: barred");
    server.expect_error("was sent KILL");
    server.expect_error("was sent SIGKILL");
    server.finish();
}

#[test]
fn it_is_not_ready_before_the_last_worker_stops_and_ends_with_the_server() {
    under_each_class(|class| {
        let site = Site::new("stopping");
        let mut server = launch(&site).class(class).start();
        let monitor = monitor(&server);
        wait_for("readiness", || is_ready(&monitor));
        let mut crowd = Crowd::default();
        crowd.join(server.address(), 1, &Manner::asks(SLEEP));
        crowd.until("a busy worker", |_| metrics(&monitor)["rgunicorn_requests_active"] == 1.0);
        server.signal(Signal::SIGTERM);
        let why = wait_unready(&monitor);
        assert_eq!(why, "the server is stopping\n");
        assert_eq!(ask(&monitor, "/livez").status, 200);
        crowd.turn();
        assert_eq!(crowd.open(), 1, "it says so before the last request has ended");
        crowd.until("the answer", |crowd| crowd.open() == 0);
        assert_eq!(crowd.clients()[0].status(), Some(200));
        server.wait_end();
        assert!(monitor.get("/livez").is_err(), "nobody listens any more");
        server.check_log();
    });
}

#[test]
fn with_a_drain_delay_it_serves_on_while_it_is_not_ready_any_more() {
    under_each_class(|class| {
        let site = Site::new("delay");
        let mut server = launch(&site).class(class).workers(2).settings(&[("drain_delay", "2")]).start();
        let monitor = monitor(&server);
        wait_for("readiness", || is_ready(&monitor));
        let load = Load::start(server.address(), Plan::versions(4));
        load.more(50);
        let begin = Instant::now();
        server.signal(Signal::SIGTERM);
        let why = wait_unready(&monitor);
        let unready = begin.elapsed();
        assert_eq!(why, "the server is about to stop\n");
        // It is served on, a HUP is not begun, and whoever dies is replaced.
        server.signal(Signal::SIGHUP);
        server.wait_log("the reload is not begun");
        load.more(100);
        let report = load.stop();
        assert!(begin.elapsed() < Duration::from_secs(2), "too slow for this test: {:?}", begin.elapsed());
        report.expect_flawless();
        server.wait_end();
        let ended = begin.elapsed();
        eprintln!(
            "{}: not ready after {unready:.1?}, ended after {ended:.1?}, 0 of {} lost",
            class.name,
            report.answered()
        );
        assert!(ended >= Duration::from_secs(2), "{ended:?}");
        server.check_log();
    });
}

#[test]
fn a_second_term_ends_the_drain_delay_and_int_ends_all() {
    for (signal, status) in [(Signal::SIGTERM, Some(200)), (Signal::SIGINT, None)] {
        let site = Site::new("hurry");
        let mut server = launch(&site).settings(&[("drain_delay", "600")]).start();
        let monitor = monitor(&server);
        let mut crowd = Crowd::default();
        crowd.join(server.address(), 1, &Manner::asks(SLEEP));
        crowd.until("a busy worker", |_| metrics(&monitor)["rgunicorn_requests_active"] == 1.0);
        server.signal(Signal::SIGTERM);
        wait_unready(&monitor);
        server.signal(signal);
        crowd.until("the end", |crowd| crowd.open() == 0);
        assert_eq!(crowd.clients()[0].status(), status, "{signal}");
        server.wait_end();
    }
}

#[test]
fn a_reload_and_its_verdict_are_told() {
    let site = Site::new("verdict");
    let mut server = launch(&site).workers(2).start();
    let monitor = monitor(&server);
    let first = monitor_pid(&server);
    wait_for("the first generation", || metrics(&monitor)["rgunicorn_generation"] == 1.0);
    let load = Load::start(server.address(), Plan::versions(2));
    server.reload_well();
    load.more(50);
    // Another monitor, which knows the new generation, has taken over, and nobody had to wait for it.
    server.wait_gone(first);
    let after = metrics(&monitor);
    assert_eq!(after["rgunicorn_generation"], 2.0);
    assert_eq!(after["rgunicorn_reloads_total{verdict=\"done\"}"], 2.0);
    assert_eq!(after["rgunicorn_worker_exits_total{reason=\"dismissed\"}"], 2.0);
    site.write("app.so", "no library");
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused"), "{verdict}");
    let after = metrics(&monitor);
    assert_eq!(after["rgunicorn_generation"], 2.0);
    assert_eq!(after["rgunicorn_reload_last_verdict{verdict=\"refused\"}"], 1.0);
    assert!(is_ready(&monitor), "a refused reload changes nothing");
    load.stop().expect_flawless();
    server.expect_error("Reload refused");
    server.configure(|settings| _ = settings.text("monitor_bind", "127.0.0.1:1"));
    site.install(programs().inspect(1), "app.so");
    let verdict = server.reload();
    assert!(verdict.contains("monitor_bind cannot change while the server runs"), "{verdict}");
    server.finish();
}

#[test]
fn one_that_dies_is_replaced_and_all_die_with_the_master() {
    let site = Site::new("monitor_dies");
    let mut server = launch(&site).start();
    let monitor = monitor(&server);
    for round in 0..3 {
        wait_for("a monitor", || server.messages("Booting monitor").len() > round);
        let pid = monitor_pid(&server);
        // Signals that a service manager or a terminal sends to all processes do not end it.
        process::send(pid, Signal::SIGTERM);
        process::send(pid, Signal::SIGINT);
        assert!(ask(&monitor, "/livez").status == 200 && process::runs(pid));
        process::send(pid, Signal::SIGKILL);
        // Who comes while there is none waits for the next.
        assert_eq!(ask(&monitor, "/livez").status, 200);
        server.wait_gone(pid);
    }
    assert_eq!(metrics(&monitor)["rgunicorn_monitor_restarts_total"], 3.0);
    server.kill_master();
    let group = server.pid();
    wait_for("the end of all processes", || process::group(group).is_empty());
    assert!(monitor.get("/livez").is_err(), "nobody listens any more");
}

#[test]
fn silent_and_strange_clients_keep_nobody_from_an_answer() {
    let site = Site::new("silent");
    let server = launch(&site).start();
    let monitor = monitor(&server);
    let silent: Vec<Connection> = (0..200).filter_map(|_| Connection::open(&monitor).ok()).collect();
    assert!(silent.len() > 100);
    let (median, slowest) = times(&monitor);
    eprintln!("beside {} silent clients: median {median:.2?}, slowest {slowest:.2?}", silent.len());
    assert!(median < AT_ONCE, "{median:?}");
    for (octets, status) in [
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405),
        ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        ("\0\0\0\r\n\r\n", 400),
    ] {
        let mut connection = Connection::open(&monitor).expect("it listens");
        connection.send(octets.as_bytes()).expect("it reads");
        assert_eq!(connection.read_response().expect("an answer").status, status, "{octets:?}");
        connection.read_end().expect("a good end");
    }
    drop(silent);
    server.finish();
}

#[test]
fn it_runs_as_the_workers_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    let site = Site::new("monitor_user");
    let server = launch(&site).args(&["--user", "nobody"]).start();
    let monitor = monitor(&server);
    wait_for("readiness", || is_ready(&monitor));
    let uid = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("Uid:")).expect("it has one");
        (line.to_owned(), status.contains("NoNewPrivs:\t1"))
    };
    let (theirs, restricted) = uid(monitor_pid(&server));
    assert_eq!(theirs, uid(server.workers()[0]).0);
    assert_ne!(theirs, uid(server.pid()).0);
    assert!(restricted, "it gains no privileges");
    server.finish();
}

/// What a statsd server has added up and heard last, by name.
#[derive(Default)]
struct Heard {
    counts: BTreeMap<String, u64>,
    gauges: BTreeMap<String, u64>,
    durations: f64,
}

impl Heard {
    fn take(&mut self, datagram: &[u8]) {
        let datagram = std::str::from_utf8(datagram).expect("text");
        for line in datagram.lines() {
            let line = line.strip_suffix("|#tier:test").expect("its tag");
            let (name, value) =
                line.strip_prefix("site.gunicorn.").expect("its prefix").split_once(':').expect("a value");
            let parts: Vec<&str> = value.split('|').collect();
            match parts.as_slice() {
                [count, "c", "@1.0"] => {
                    *self.counts.entry(name.to_owned()).or_default() +=
                        count.parse::<u64>().expect("a number");
                }
                [_, "ms", rate] => {
                    assert_eq!(name, "request.duration");
                    self.durations += 1.0 / rate.trim_start_matches('@').parse::<f64>().expect("a rate");
                }
                [value, "g" | "h"] => {
                    self.gauges.insert(name.to_owned(), value.parse().expect("a number"));
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}

/// Over both kinds of sockets, with a reload and the death of a monitor in between, every request is told once.
#[test]
fn statsd_hears_of_every_request_once() {
    for unix in [false, true] {
        let site = Site::new("statsd");
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let local = std::os::unix::net::UnixDatagram::bind(site.join("statsd.sock")).expect("a socket");
        site.mine("statsd.sock");
        let host = if unix {
            format!("unix://{}", site.join("statsd.sock").display())
        } else {
            udp.local_addr().expect("bound").to_string()
        };
        site.install(programs().inspect(1), "app.so");
        let mut server = site
            .launch()
            .workers(2)
            .with(|settings| {
                settings
                    .text("statsd_host", &host)
                    .text("statsd_prefix", "site")
                    .text("dogstatsd_tags", "tier:test");
                settings.raw("enable_backlog_metric", "true");
            })
            .start();
        udp.set_nonblocking(true).expect("a flag");
        local.set_nonblocking(true).expect("a flag");
        let mut heard = Heard::default();
        let listen = |heard: &mut Heard| {
            let mut octets = [0; 2048];
            while let Ok(count) = if unix { local.recv(&mut octets) } else { udp.recv(&mut octets) } {
                heard.take(&octets[..count]);
            }
        };
        let load = Load::start(server.address(), Plan::versions(4));
        load.more(100);
        server.reload_well();
        load.more(100);
        server.expect_error("Monitor (pid:");
        process::send(monitor_pid(&server), Signal::SIGKILL);
        load.more(100);
        let report = load.stop();
        report.expect_flawless();
        let answered = report.answered();
        wait_for("every request to be told", || {
            listen(&mut heard);
            heard.counts.get("requests").is_some_and(|requests| *requests >= answered)
        });
        server.get("/nothing/of/the/sort");
        server.finish();
        listen(&mut heard);
        let (counts, gauges) = (&heard.counts, &heard.gauges);
        eprintln!("{host}: {counts:?} {gauges:?}, {} durations, {answered} asked", heard.durations);
        assert_eq!(counts["requests"], answered + 1);
        let statuses = counts.iter().filter(|(name, _)| name.starts_with("request.status."));
        assert_eq!(statuses.map(|(_, count)| count).sum::<u64>(), answered + 1);
        assert!((heard.durations - (answered + 1) as f64).abs() < 0.01, "{}", heard.durations);
        assert!(counts["log.error"] >= 1, "the monitor's death is an error");
        assert!(gauges.contains_key("workers") && gauges["backlog"] == 0, "{gauges:?}");
    }
}

#[test]
fn an_address_that_cannot_be_had_is_said_at_the_start() {
    let site = Site::new("taken");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let ended = launch(&site).with(|settings| _ = settings.text("monitor_bind", &address)).start_in_vain();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains(&format!("{address}: ")), "{}", ended.stderr);
    assert_eq!(ended.processes, []);
}

#[test]
fn bad_values_are_refused_by_name() {
    for (name, value, part) in [
        ("monitor_bind", "9100", "a port alone is ambiguous"),
        ("monitor_bind", "unix:server.sock", "is an address of 'bind'"),
        ("statsd_host", "localhost", "it has no port; write HOST:PORT"),
        ("statsd_prefix", "a b", "neither '|' nor white space"),
        ("dogstatsd_tags", "a|b", "neither '|' nor white space"),
        ("drain_delay", "-1", "must be a number of seconds"),
        ("control_socket", "no/such/directory/s", "there is no directory"),
    ] {
        let site = Site::new("bad_values");
        let ended = launch(&site)
            .everywhere()
            .with(|settings| {
                settings.text("statsd_host", "127.0.0.1:8125");
                if value == "-1" {
                    settings.raw(name, value)
                } else {
                    settings.text(name, value)
                };
            })
            .start_in_vain();
        assert_eq!(ended.status.code(), Some(1), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{name}: {}", ended.stderr);
        assert_eq!((ended.processes, site.leftovers()), (vec![], vec![]), "{name}");
    }
}
