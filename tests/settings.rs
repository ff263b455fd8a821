//! Each setting takes effect, and refuses what it cannot be.
//!
//! Owns one entry per setting: what is seen on the wire, in /proc or in a file when it is set, and a value that must be
//! refused with a sentence that names it. What a newcomer would get wrong: `--print-config` proves nothing here. It shows
//! what was read, not what is done.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Instant;

use harness::{
    Address, Connection, DEADLINE, Pace, Response, Server, Settings, Signal, Site, process, programs,
    wait_for, within,
};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{Pid, User, geteuid};

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
    let names = [name.to_owned(), name.replace('_', " ")];
    assert!(names.iter().any(|name| ended.stderr.contains(name)), "{name} is not named: {}", ended.stderr);
    assert!(ended.stderr.contains(sentence), "{sentence:?} is not said: {}", ended.stderr);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
}

/// The answer to octets that are sent as they are.
#[track_caller]
fn ask(server: &Server<'_>, octets: &str) -> Response {
    let heard = server.address().converse(octets.as_bytes(), Pace::Whole).expect("it listens");
    heard.response("GET").unwrap_or_else(|failure| panic!("{octets:?}: {failure}"))
}

/// A request that is answered 200, and is refused once the setting has this value.
#[track_caller]
fn changes(site: &Site, name: &str, value: &str, request: &str) {
    let mut server = site.launch().start();
    assert_eq!(ask(&server, request).status, 200, "before");
    server.configure(|settings| _ = settings.raw(name, value));
    server.reload_well();
    assert!(matches!(ask(&server, request).status, 400..500), "with {name} = {value}");
    server.finish();
}

/// A request that is refused, and is answered 200 with this flag.
#[track_caller]
fn allows(site: &Site, name: &str, request: &str) {
    let mut server = site.launch().start();
    assert!(matches!(ask(&server, request).status, 400..600), "before");
    server.configure(|settings| _ = settings.raw(name, "true"));
    server.reload_well();
    assert_eq!(ask(&server, request).status, 200, "with {name}");
    server.finish();
}

/// As many connections as the queue of a Unix socket takes.
fn queued(path: &Path) -> Vec<OwnedFd> {
    let address = UnixAddr::new(path).expect("a short path");
    let mut queued = Vec::new();
    loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => queued.push(socket),
            Err(errno) => {
                assert_eq!(errno, Errno::EAGAIN, "the queue is full");
                return queued;
            }
        }
    }
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

        /// The settings with an entry.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

/// Settings that another file tries: its name, the test, a bad value and what is said of it.
const ELSEWHERE: &[(&str, &str, &str, &str, &str)] = &[
    ("worker_options", "elsewhere.rs", "options_of_a_class_at_a_reload", "1", "a table of names and values"),
    (
        "threads",
        "concurrency.rs",
        "as_many_run_at_once_as_there_are_threads",
        "0",
        "a whole number from 1 to 4096",
    ),
    (
        "max_requests",
        "supervise.rs",
        "max_requests_replaces_workers_and_loses_nothing",
        "-1",
        "a whole number",
    ),
    (
        "timeout",
        "supervise.rs",
        "a_hanging_worker_is_ended_and_the_log_says_what_it_did",
        "-1",
        "a number of seconds",
    ),
    (
        "graceful_timeout",
        "supervise.rs",
        "term_waits_no_longer_than_the_graceful_timeout",
        "-1",
        "a number of seconds",
    ),
    (
        "keepalive",
        "keep_alive.rs",
        "an_idle_connection_is_closed_without_a_word",
        "-1",
        "a number of seconds",
    ),
    ("request_timeout", "request_timeout.rs", "an_answer_that_has_begun_is_cut", "-1", "a number of seconds"),
    (
        "forwarded_allow_ips",
        "proxy.rs",
        "a_proxy_is_believed_by_its_address",
        r#""here""#,
        "'here' is no address",
    ),
    ("proxy_protocol", "proxy.rs", "each_mode_takes_its_own_version", r#""v3""#, "one of off, v1, v2, auto"),
    ("proxy_allow_ips", "proxy.rs", "any_other_peer_is_answered_403", r#""10.0.0.1/8""#, "10.0.0.0/8"),
    (
        "access_log_format",
        "access_log.rs",
        "what_cannot_be_parsed_has_a_line",
        r#""%(z)s""#,
        "no atom '%(z)s'",
    ),
    ("access_log_json", "access_log.rs", "json_has_a_line_for_each_request", "1", "true or false"),
    ("reload", "watch.rs", "a_new_build_is_served_however_it_was_put_there", "1", "true or false"),
    (
        "reload_extra_files",
        "watch.rs",
        "extra_files_and_patterns_are_watched_and_what_the_server_writes_is_not",
        r#"["missing.ini"]"#,
        "missing.ini does not exist",
    ),
    (
        "reuse_port",
        "reuse_port.rs",
        "as_many_sockets_as_workers_and_all_are_the_masters",
        "1",
        "true or false",
    ),
    (
        "max_worker_memory",
        "recycle.rs",
        "a_worker_that_has_grown_is_replaced_and_nothing_is_lost",
        r#""64X""#,
        "K, M, G or T",
    ),
    (
        "recycle_interval",
        "recycle.rs",
        "workers_that_all_leak_are_replaced_one_after_the_other",
        "-1",
        "a number of seconds",
    ),
    (
        "drain_delay",
        "monitor.rs",
        "with_a_drain_delay_it_serves_on_while_it_is_not_ready_any_more",
        "-1",
        "a number of seconds",
    ),
    (
        "monitor_bind",
        "monitor.rs",
        "it_answers_at_once_while_every_worker_is_busy",
        r#""9100""#,
        "a port alone is ambiguous",
    ),
    ("control_socket", "control.rs", "status_tells_who_runs_what_and_is_at_what", "1", "a path"),
    ("statsd_host", "monitor.rs", "statsd_hears_of_every_request_once", r#""unix:""#, "'unix:'"),
    ("statsd_prefix", "monitor.rs", "statsd_hears_of_every_request_once", r#""a b""#, "white space"),
    ("dogstatsd_tags", "monitor.rs", "statsd_hears_of_every_request_once", r#""a|b""#, "white space"),
    ("enable_backlog_metric", "monitor.rs", "statsd_hears_of_every_request_once", "1", "true or false"),
    ("preload_app", "preload.rs", "what_is_created_is_created_once_and_shared", "1", "true or false"),
    ("hooks", "hooks.rs", "a_worker_tells_its_life_in_order", "1", "a path or a list of paths"),
    ("daemon", "daemon.rs", "the_file_and_the_variable_may_ask_for_a_daemon_too", "1", "true or false"),
];

#[test]
fn every_setting_has_an_entry_here_or_is_tried_elsewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("../docs/SETTINGS.md")).expect("it is generated");
    let (ours, _) = page.split_once("\n## Gunicorn's settings").expect("the comparison comes last");
    let names: BTreeSet<&str> =
        ours.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(names.len() > 60, "docs/SETTINGS.md is not read any more: {names:?}");
    let tried: BTreeSet<&str> =
        TESTED.iter().copied().chain(ELSEWHERE.iter().map(|(name, ..)| *name)).collect();
    assert_eq!(tried, names, "an entry for each setting, and none for what is no setting");
    for (name, file, test, ..) in ELSEWHERE {
        let code = fs::read_to_string(root.join(file)).expect("a test file");
        assert!(code.contains(&format!("fn {test}()")), "{name}: there is no {test} in {file}");
    }
}

#[test]
fn settings_that_are_tried_elsewhere_refuse_bad_values() {
    for (name, _, _, value, sentence) in ELSEWHERE {
        refuses(name, value, sentence);
    }
}

settings! {
    application, r#""none.so""# => "cannot find the application 'none.so'", |site| {
        site.install(programs().inspect(2), "other.so");
        let mut server = site.launch().start();
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.configure(|settings| _ = settings.text("application", "other.so"));
        server.reload_well();
        assert_eq!(server.text("/version"), "INSPECT-VERSION:2");
        server.finish();
    }

    mount, r#"["two=app.so"]"# => "must have a prefix that begins with '/'", |site| {
        let launch = site.launch().with(|settings| _ = settings.remove("application"));
        let server = launch.with(|settings| _ = settings.list("mount", &["/two=app.so"])).start();
        assert_eq!((server.get("/two/x").status, server.get("/other").status), (200, 404));
        server.finish();
    }

    plugin_path, "1" => "a path or a list of paths", |site| {
        let directory = site.directory("lib");
        fs::copy(site.join("app.so"), directory.join("libshop.so")).expect("a copy");
        site.mine("lib/libshop.so");
        let launch = site.launch().with(|settings| _ = settings.text("application", "shop"));
        let server = launch.with(|settings| _ = settings.list("plugin_path", &["lib"])).start();
        assert_eq!(server.get("/version").status, 200);
        server.finish();
    }

    chdir, r#""nowhere""# => "nowhere", |site| {
        let directory = site.directory("home");
        let application = site.join("app.so").display().to_string();
        let launch = site.launch().with(|settings| _ = settings.text("application", &application));
        let server = launch.with(|settings| _ = settings.text("chdir", "home")).start();
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", server.workers()[0])).expect("it lives"), directory);
        server.finish();
    }

    raw_env, r#"["SHOP"]"# => "must be KEY=VALUE", |site| {
        let server = site.launch().with(|settings| _ = settings.list("raw_env", &["SHOP=open"])).start();
        assert_eq!(server.text("/env?name=SHOP"), "open");
        server.finish();
    }

    config, r#""x""# => "cannot stand in a file", |site| {
        site.write("other.toml", "application = \"app.so\"\nbind = \"127.0.0.1:0\"\nraw_env = [\"FROM=other\"]\n");
        let server = site.launch().args(&["--config", "other.toml"]).start();
        assert_eq!(server.text("/env?name=FROM"), "other");
        server.finish();
    }

    check_config, "true" => "cannot stand in a file", |site| {
        let ended = site.launch().args(&["--check-config"]).start_in_vain();
        assert!(ended.status.success(), "{}", ended.stderr);
        let broken = site.launch().with(|settings| _ = settings.init("fail"));
        let ended = broken.args(&["--check-config"]).start_in_vain();
        assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
        assert!(!site.read("error.log").contains("Listening at"));
    }

    print_config, "true" => "cannot stand in a file", |site| {
        let ended = site.launch().workers(7).args(&["--print-config"]).start_in_vain();
        assert!(ended.status.success(), "{}", ended.stderr);
        let printed = site.read("stdout");
        assert!(printed.contains("\nworkers = 7\n"), "{printed}");
        // It says the same when it is read again.
        site.write("printed.toml", &printed);
        let again = site.launch().args(&["--config", "printed.toml", "--print-config"]).start_in_vain();
        assert!(again.status.success(), "{}", again.stderr);
        assert_eq!(site.read("stdout"), printed);
        let json = site.launch().workers(7).args(&["--print-config=json"]).start_in_vain();
        assert!(json.status.success(), "{}", json.stderr);
        let json: serde_json::Value = serde_json::from_str(&site.read("stdout")).expect("an object");
        assert_eq!((&json["workers"], &json["timeout"]), (&7.into(), &30.0.into()));
        assert!(json["pidfile"].is_null() && json["bind"].is_array(), "{json}");
    }

    bind, r#"["127.0.0.1:99999"]"# => "is no address", |site| {
        let mut server = site.launch().everywhere().start();
        for address in server.addresses() {
            assert_eq!(address.get("/version").expect("it listens").status, 200);
        }
        server.configure(|settings| _ = settings.list("bind", &["unix:other.sock"]));
        server.reload_well();
        let other = Address::Unix(site.join("other.sock"));
        assert_eq!(other.get("/version").expect("it listens").status, 200);
        server.finish();
    }

    backlog, "0" => "a whole number from 1 to ", |site| {
        let launch = site.launch().settings(&[("backlog", "3")]);
        let mut server = launch.with(|settings| _ = settings.list("bind", &["unix:server.sock"])).start();
        for backlog in [3, 5] {
            server.configure(|settings| _ = settings.raw("backlog", &backlog.to_string()));
            server.reload_well();
            let worker = server.workers()[0];
            process::send(worker, Signal::SIGSTOP);
            wait_for("the worker to stand still", || status(worker, "State").starts_with('T'));
            let queued = queued(&site.join("server.sock"));
            process::send(worker, Signal::SIGCONT);
            // unix(7): one more than was asked for.
            assert_eq!(queued.len(), backlog + 1);
        }
        server.finish();
    }

    worker_class, r#""none""# => "cannot find the worker class 'none'", |site| {
        let server = site.launch().with(|settings| _ = settings.text("worker_class", "poll")).start();
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).expect("it lives");
        assert!(maps.contains("libpoll.so") && !maps.contains("libsync.so"), "{maps}");
        server.finish();
    }

    worker_connections, "0" => "a whole number from 1 to ", |site| {
        let settings = [("worker_class", "\"poll\""), ("threads", "4"), ("worker_connections", "1"), ("keepalive", "0")];
        let server = site.launch().settings(&settings).start();
        let begin = Instant::now();
        let mut connections: Vec<Connection> = (0..4)
            .map(|_| {
                let mut connection = Connection::open(server.address()).expect("the queue has room");
                connection.send_get("/sleep?ms=100").expect("the kernel takes it");
                connection
            })
            .collect();
        for connection in &mut connections {
            assert_eq!(connection.read_response().expect("an answer").text(), "slept");
        }
        assert!(begin.elapsed().as_millis() >= 400, "one after the other, although there are four threads");
        server.finish();
    }

    max_requests_jitter, "-1" => "a whole number, 0 or more", |site| {
        // With this much of it, one request more replaces the worker once in a million runs.
        let settings = [("max_requests", "1"), ("max_requests_jitter", "1000000")];
        let mut server = site.launch().settings(&settings).start();
        let worker = server.workers()[0].to_string();
        for _ in 0..3 {
            assert_eq!(server.text("/pid"), worker);
        }
        server.configure(|settings| _ = settings.remove("max_requests_jitter"));
        server.reload_well();
        let worker = server.text("/pid");
        server.wait_gone(worker.parse().expect("a number"));
        server.finish();
    }

    boot_timeout, r#""soon""# => "a number of seconds", |site| {
        let launch = site.launch().settings(&[("boot_timeout", "0.3")]);
        let ended = launch.with(|settings| _ = settings.init("hang")).start_in_vain();
        assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
        assert!(ended.stderr.contains("could not be tried within boot_timeout"), "{}", ended.stderr);
    }

    head_timeout, "-1" => "a number of seconds", |site| {
        let server = site.launch().settings(&[("head_timeout", "0.3")]).start();
        assert_eq!(ask(&server, "GET / HTTP/1.1\r\nHo").status, 408);
        server.finish();
    }

    body_timeout, "true" => "a number of seconds", |site| {
        let server = site.launch().settings(&[("body_timeout", "0.3")]).start();
        assert_eq!(ask(&server, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf").status, 408);
        server.finish();
    }

    write_timeout, r#""1s""# => "a number of seconds", |site| {
        let settings = [("write_timeout", "0.3"), ("accesslog", "\"access.log\"")];
        let server = site.launch().settings(&settings).start();
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/large?bytes=100000000").expect("it reads");
        // Nothing is read here, and the worker goes on all the same.
        wait_for("the end of the answer", || site.read("access.log").contains("/large"));
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.finish();
    }

    limit_request_line, "-1" => "a whole number from 0 to ", |site| {
        changes(&site, "limit_request_line", "40", &format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40)));
    }

    limit_request_fields, "0" => "a whole number from 1 to ", |site| {
        changes(&site, "limit_request_fields", "2", "GET / HTTP/1.1\r\nHost: a\r\nB: b\r\nC: c\r\n\r\n");
    }

    limit_request_field_size, "1.5" => "a whole number from 0 to ", |site| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}\r\n\r\n", "b".repeat(40));
        changes(&site, "limit_request_field_size", "40", &request);
    }

    limit_request_head, "255" => "a whole number from 256 to ", |site| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nB: {}\r\n\r\n", "b".repeat(256));
        changes(&site, "limit_request_head", "256", &request);
    }

    limit_request_body, r#""1k""# => "a whole number, 0 or more", |site| {
        changes(&site, "limit_request_body", "3", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    }

    secure_scheme_headers, r#"{ "X:Y" = "on" }"# => "X:Y", |site| {
        let settings = [("secure_scheme_headers", r#"{ "X-SSL" = "on", "X-SCHEME" = "https" }"#)];
        let server = site.launch().settings(&settings).start();
        // They disagree, which only a field that means the scheme can.
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Ssl: on\r\nX-Scheme: http\r\n\r\n";
        assert_eq!(ask(&server, request).status, 400);
        let request = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n";
        assert_eq!(ask(&server, request).status, 200, "the default is replaced as a whole");
        server.finish();
    }

    forwarder_headers, r#""A:B""# => "'A:B' is no name of a header field", |site| {
        let mut server = site.launch().start();
        let request = "GET / HTTP/1.1\r\nHost: a\r\nRemote_User: jo\r\n\r\n";
        assert!(!ask(&server, request).text().to_lowercase().contains("remote_user"));
        server.configure(|settings| _ = settings.text("forwarder_headers", "REMOTE_USER"));
        server.reload_well();
        assert!(ask(&server, request).text().to_lowercase().contains("remote_user"));
        server.finish();
    }

    header_map, r#""keep""# => "one of drop, refuse, dangerous", |site| {
        changes(&site, "header_map", "\"refuse\"", "GET / HTTP/1.1\r\nHost: a\r\nB_C: d\r\n\r\n");
    }

    permit_obsolete_folding, r#""yes""# => "true or false", |site| {
        allows(&site, "permit_obsolete_folding", "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n d\r\n\r\n");
    }

    strip_header_spaces, r#""yes""# => "true or false", |site| {
        allows(&site, "strip_header_spaces", "GET / HTTP/1.1\r\nHost: a\r\nB : c\r\n\r\n");
    }

    permit_unconventional_http_method, r#""yes""# => "true or false", |site| {
        allows(&site, "permit_unconventional_http_method", "get / HTTP/1.1\r\nHost: a\r\n\r\n");
    }

    permit_unconventional_http_version, r#""yes""# => "true or false", |site| {
        allows(&site, "permit_unconventional_http_version", "GET / HTTP/1.2\r\nHost: a\r\n\r\n");
    }

    casefold_http_method, r#""yes""# => "true or false", |site| {
        let settings = [("permit_unconventional_http_method", "true"), ("casefold_http_method", "true")];
        let server = site.launch().settings(&settings).start();
        let seen = ask(&server, "get / HTTP/1.1\r\nHost: a\r\n\r\n").text();
        assert!(seen.contains(r#""method":"GET""#), "{seen}");
        server.finish();
    }

    loglevel, r#""loud""# => "one of trace, debug, info", |site| {
        let mut server = site.launch().start();
        let debug = |server: &Server<'_>| server.lines().iter().filter(|line| line.level == "DEBUG").count();
        assert_eq!(debug(&server), 0);
        server.configure(|settings| _ = settings.text("loglevel", "debug"));
        server.reload_well();
        wait_for("a line at debug", || debug(&server) > 0);
        server.finish();
    }

    errorlog, "1" => "a path", |site| {
        let log = "second.log";
        site.mine(log);
        let launch = site.launch().args(&["--error-logfile", log]);
        let (ended, _) = launch.start_and_stop(Signal::SIGTERM, |_| site.read(log).contains("Using worker: sync"));
        assert!(ended.status.success(), "{}", ended.stderr);
        assert!(site.read(log).contains("Shutting down: Master"));
        assert_eq!(site.read("error.log"), "");
    }

    accesslog, r#""nowhere/access.log""# => "nowhere/access.log", |site| {
        let mut server = site.launch().start();
        server.configure(|settings| _ = settings.text("accesslog", "access.log"));
        server.reload_well();
        assert_eq!(server.get("/version").status, 200);
        wait_for("the line", || site.read("access.log").contains("\"GET /version HTTP/1.1\" 200 "));
        server.configure(|settings| _ = settings.text("accesslog", "-"));
        server.reload_well();
        assert_eq!(server.get("/pid").status, 200);
        wait_for("the line", || site.read("stdout").contains("\"GET /pid HTTP/1.1\" 200 "));
        server.finish();
    }

    pidfile, "1" => "a path", |site| {
        let server = site.launch().pidfile().start();
        assert_eq!(site.read("pid").trim_end(), server.pid().to_string());
        server.finish();
        assert!(!site.join("pid").exists());
    }

    user, r#""no-such-user""# => "there is no such user", |site| {
        if geteuid().is_root() {
            let server = site.launch().with(|settings| _ = settings.text("user", "nobody")).start();
            let uid = User::from_name("nobody").expect("users can be read").expect("there is a nobody").uid;
            let uids = status(server.workers()[0], "Uid");
            assert_eq!(uids.split_whitespace().collect::<Vec<_>>(), vec![uid.to_string(); 4]);
            server.finish();
        }
    }

    group, r#""no-such-group""# => "there is no such group", |site| {
        if geteuid().is_root() {
            let server = site.launch().settings(&[("group", "\"4711\"")]).start();
            let gids = status(server.workers()[0], "Gid");
            assert_eq!(gids.split_whitespace().collect::<Vec<_>>(), ["4711"; 4]);
            server.finish();
        }
    }

    umask, "22" => "octal", |site| {
        let launch = site.launch().settings(&[("umask", "0o027")]);
        let server = launch.with(|settings| _ = settings.list("bind", &["unix:server.sock"])).start();
        assert_eq!(status(server.workers()[0], "Umask"), "0027");
        let mode = fs::metadata(site.join("server.sock")).expect("it listens there").permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
        server.finish();
    }

    runtime_dir, "1" => "a path", |site| {
        let directory = site.directory("run");
        let server = site.launch().with(|settings| _ = settings.text("runtime_dir", "run")).start();
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).expect("it lives");
        let libraries = maps.lines().filter(|line| line.ends_with("app.so"));
        let elsewhere: Vec<&str> =
            libraries.filter(|line| !line.contains(&directory.display().to_string())).collect();
        assert!(elsewhere.is_empty() && maps.contains("/run/"), "{elsewhere:?}");
        server.finish();
    }

    reload_engine, r#""poll""# => "send HUP where inotify does not reach", |site| {
        let watches = |pid: i32| process::watched_directories(pid).iter().sum::<usize>();
        let mut server = site.launch().settings(&[("reload", "true"), ("reload_engine", "\"inotify\"")]).start();
        assert_ne!(watches(server.pid()), 0);
        server.configure(|settings| _ = settings.remove("reload"));
        wait_for("a master that watches nothing", || watches(server.pid()) == 0);
        server.finish();
    }

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

/// A control group of our own with so many processors; removed with the value. None where we may make none.
struct Quota(PathBuf);

impl Quota {
    fn new(cpus: usize) -> Option<Self> {
        let name = format!("rgunicorn-test-{}", std::process::id());
        // Version 1, by either name of the controller, and version 2 where the root hands the controller on.
        ["cpu", "cpu,cpuacct", ""].iter().find_map(|controller| {
            let group = Self(Path::new("/sys/fs/cgroup").join(controller).join(&name));
            fs::create_dir(&group.0).ok()?;
            // Where there is no such controller this is any directory, and nothing may be left in it.
            let set = |file: &str, value: &str| {
                fs::OpenOptions::new().write(true).open(group.0.join(file))?.write_all(value.as_bytes())
            };
            let quota = (cpus * 100_000).to_string();
            let written = match controller.is_empty() {
                true => set("cpu.max", &format!("{quota} 100000")),
                false => set("cpu.cfs_period_us", "100000").and_then(|()| set("cpu.cfs_quota_us", &quota)),
            };
            written.ok().map(|()| group)
        })
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // It is busy until the last process in it has been reaped.
        let _ = within(DEADLINE, || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

#[test]
fn workers_auto_keeps_to_the_quota_of_the_control_group() {
    let cpus = available_parallelism().expect("there are CPUs").get();
    let few = if cpus > 2 { 2 } else { 1 };
    let Some(quota) = Quota::new(few).filter(|_| cpus > 1) else {
        eprintln!("nothing to see here: it takes two CPUs, and the right to make a control group");
        return;
    };
    let site = site("workers_quota");
    let enter = format!("echo $$ >'{}' && exec \"$@\"", quota.0.join("cgroup.procs").display());
    let server = site.launch().through(&enter).args(&["--workers", "auto"]).start();
    assert_eq!(server.wait_workers(few).len(), few);
    server.finish();
}

#[test]
fn variables_of_the_platform_stand_in_for_defaults() {
    let site = site("variables");
    let launch = || {
        site.launch().env("PORT", "0").with(|settings| {
            settings.remove("bind");
            settings.remove("workers");
        })
    };
    let server = launch().env("WEB_CONCURRENCY", "2").start();
    assert_eq!(server.wait_workers(2).len(), 2);
    let Address::Tcp(address) = server.address() else { panic!("{:?}", server.address()) };
    assert!(address.ip().is_unspecified(), "{address}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
    // What is written anywhere is stronger.
    let launch = launch().env("WEB_CONCURRENCY", "2").env("RGUNICORN_CMD_ARGS", "--bind 127.0.0.1:0 -w 3");
    let server = launch.start();
    assert_eq!(server.wait_workers(3).len(), 3);
    let Address::Tcp(address) = server.address() else { panic!("{:?}", server.address()) };
    assert!(address.ip().is_loopback(), "{address}");
    server.finish();
    for (name, value, sentence) in [
        (
            "WEB_CONCURRENCY",
            "many",
            "WEB_CONCURRENCY must be a whole number from 1 to 1024, or auto, not 'many'",
        ),
        ("PORT", "http", "'0.0.0.0:http' is no address"),
        ("RGUNICORN_CMD_ARGS", "--wrokers 2", "'--wrokers' in RGUNICORN_CMD_ARGS"),
    ] {
        let launch = site.launch().env(name, value);
        let ended = launch.with(|settings| _ = settings.remove("bind")).start_in_vain();
        assert!(!ended.status.success() && ended.stderr.contains(sentence), "{}", ended.stderr);
    }
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
fn help_shows_the_options_of_the_class_that_is_named() {
    let site = site("help");
    site.install(programs().fixture("minimal_class"), "minimal.so");
    for (class, expected) in [
        ("./minimal.so", "--worker-option greeting=<TEXT>"),
        ("sync", "Options of the worker class sync ("),
        ("./app.so", "Options of the worker class"),
        ("none", "cannot find the worker class 'none'"),
    ] {
        let ended = site.launch().args(&["-k", class, "--help"]).start_in_vain();
        assert!(ended.status.success(), "{}", ended.stderr);
        let help = site.read("stdout");
        assert!(help.contains("--worker-class") && help.contains(expected), "{help}");
    }
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

/// The kernel's own name for a process, 15 octets of it.
fn short_title(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

#[test]
fn each_process_says_what_it_is_also_under_a_master_that_was_executed_by_another() {
    let site = site("titles");
    let launch = site.launch().pidfile().env("SHOP", "open").with(|settings| {
        settings.text("proc_name", "shop").text("monitor_bind", "unix:monitor.sock");
        settings.list("bind", &["unix:server.sock"]);
    });
    let mut server = launch.start();
    let titles = |master: i32| {
        let children = process::children(master).into_iter().map(|child| child.pid);
        let children = children.filter(|child| !title(*child).contains("rgunicorn: master"));
        children.map(|child| format!("{} ({})", title(child), short_title(child))).collect::<BTreeSet<_>>()
    };
    let expected = BTreeSet::from([
        "rgunicorn: monitor [shop] (rgunicorn: moni)".to_owned(),
        "rgunicorn: worker [shop] (rgunicorn: work)".to_owned(),
    ]);
    let old = server.pid();
    wait_for("a monitor and a worker", || titles(old) == expected);
    server.signal(Signal::SIGUSR2);
    wait_for("the new master's pid file", || site.join("pid.2").exists());
    let heir = site.read("pid.2").trim().parse().expect("a process id");
    server.wait_log(&format!("The new master (pid:{heir}) is ready"));
    wait_for("its monitor and its worker", || titles(heir) == expected);
    // The name that killall(1) goes by is the program's, and the master's alone.
    let own = |pid| title(pid) == "rgunicorn: master [shop]" && short_title(pid) == "rgunicorn";
    wait_for("both masters' titles", || own(old) && own(heir));
    // The title is shorter than the command line was: the environment is still where everybody looks for it.
    let variables = fs::read(format!("/proc/{heir}/environ")).expect("it lives");
    assert!(String::from_utf8_lossy(&variables).contains("SHOP=open\0"));
    server.signal(Signal::SIGQUIT);
    assert_eq!(server.wait_end_alone().code(), Some(0));
    wait_for("the promotion", || site.read("pid") == format!("{heir}\n"));
    // The environment has come through two titles.
    let address = Address::Unix(site.join("server.sock"));
    assert_eq!(address.get("/env?name=SHOP").expect("it serves").text(), "open");
    server.finish_heir(heir);
}
