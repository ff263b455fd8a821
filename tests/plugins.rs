//! Plugins that others built, each in a workspace of its own: what crosses the interface, on the wire.
//!
//! Every test runs under each worker class there is, the third party's included, because an application must not be
//! able to tell them apart. The fixtures and their routes are described in `fixtures/README.md`. What a newcomer would
//! get wrong: what no answer can tell is in the trace file, to which the fixture appends lines.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use harness::classes::classes;
use harness::{Connection, Failure, Load, Plan, Response, Server, Site, programs, wait_for, within};

/// Our worker classes, and one as somebody else would write it.
fn every_class() -> impl Iterator<Item = PathBuf> {
    classes().map(|class| programs().class(class)).chain([programs().fixture("minimal_class")])
}

/// Runs a test with the fixture `exchange` under each worker class, and for each of these applications in it.
fn under_each_class(name: &str, applications: &[&str], test: impl Fn(&Site, &mut Server<'_>)) {
    for class in every_class() {
        for application in applications {
            let site = Site::new(name);
            site.install(programs().fixture("exchange"), "app.so");
            site.install(&class, "class.so");
            site.write("file", (0..100_000_u32).map(|index| (index % 251) as u8).collect::<Vec<u8>>());
            site.mine("trace");
            eprintln!("{name}: {application} under {}", class.display());
            let variables = [("FX_TRACE", site.join("trace")), ("FX_FILE", site.join("file"))]
                .map(|(name, path)| format!("{name}={}", path.display()));
            let mut server = site
                .launch()
                .with(|settings| {
                    settings
                        .text("application", &format!("app.so:{application}"))
                        .text("worker_class", "./class.so");
                    settings.list("raw_env", &variables).raw("graceful_timeout", "5");
                })
                .start();
            test(&site, &mut server);
            server.finish();
        }
    }
}

/// Whether the class in this site is one of ours.
fn is_ours(site: &Site) -> bool {
    let theirs = fs::read(programs().fixture("minimal_class")).expect("it is built");
    fs::read(site.join("class.so")).expect("it is there") != theirs
}

/// The request that `/echo-upgrade` wants.
const UPGRADE: &[u8] =
    b"GET /echo-upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

/// Takes a connection over; none if the class does not offer that, and has said so with a 500.
fn taken_over(site: &Site, server: &mut Server<'_>, early: &[u8]) -> Option<Connection> {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(&[UPGRADE, early].concat()).expect("it reads");
    let head = connection.read_head().expect("a head");
    if !is_ours(site) {
        assert_eq!(head.status, 500);
        server.expect_error("does not offer this");
        return None;
    }
    assert_eq!((head.status, head.field("upgrade")), (101, Some("echo")));
    Some(connection)
}

const BOTH: &[&str] = &["app", "blocking"];
const ASYNC: &[&str] = &["app"];

fn wait_trace(site: &Site, text: &str) {
    wait_for(&format!("{text:?} in the trace"), || {
        site.read("trace").lines().any(|line| line.starts_with(text))
    });
}

#[track_caller]
fn post(server: &Server<'_>, target: &str, rest: &[u8]) -> Response {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\n").as_bytes()).expect("it reads");
    connection.send(rest).expect("it reads");
    connection.read_response().unwrap_or_else(|failure| panic!("POST {target}: {failure}"))
}

#[test]
fn a_pending_future_is_woken_from_another_thread() {
    under_each_class("pending", ASYNC, |_, server| {
        for _ in 0..5 {
            assert_eq!(server.text("/pending"), "woken");
        }
    });
}

#[test]
fn a_future_is_dropped_when_its_client_leaves() {
    under_each_class("cancelled", ASYNC, |site, server| {
        if !is_ours(site) {
            return; // It tells the application, and leaves the rest to it.
        }
        // Nothing tells when the future is pending. Who leaves sooner is forgotten, and another one tries.
        let mut pause = Duration::from_millis(10);
        wait_for("a future to be dropped", || {
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get("/cancelled").expect("it reads");
            std::thread::sleep(pause);
            pause *= 2;
            connection.reset();
            within(Duration::from_secs(1), || site.read("trace").contains("cancelled")).is_some()
        });
        assert_eq!(server.text("/pending"), "woken");
    });
}

#[test]
fn an_application_hears_that_its_client_has_left() {
    under_each_class("client_gone", ASYNC, |site, server| {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/client-gone").expect("it reads");
        wait_trace(site, "waiting");
        connection.reset();
        wait_trace(site, "gone");
        assert_eq!(server.text("/pending"), "woken");
    });
}

#[test]
fn a_write_that_finds_no_room_goes_on_later() {
    under_each_class("full", ASYNC, |site, server| {
        // More than the kernel buffers for a client that does not read.
        let length = 24_000_000;
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get(&format!("/full?bytes={length}")).expect("it reads");
        let mut response = connection.read_head().expect("a head");
        // The subject of this test: a client that rests.
        std::thread::sleep(Duration::from_millis(300));
        connection.read_body(&mut response).expect("the whole body");
        assert_eq!(response.body.len(), length);
        assert!(response.body.iter().all(|octet| *octet == b'f'));
        let refusals: u64 = response
            .trailers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("x-refusals"))
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or_else(|| panic!("{:?}", response.trailers));
        // A class that only blocks lets the write wait, and refuses none.
        assert!(refusals > 0 || !is_ours(site), "a write was to find no room");
        wait_trace(site, &format!("full {length} refusals {refusals}"));
    });
}

#[test]
fn a_file_is_sent_from_an_offset() {
    under_each_class("sendfile", BOTH, |site, server| {
        let file = fs::read(site.join("file")).expect("it is ours");
        assert_eq!(server.get("/sendfile").body, file);
        assert_eq!(server.get("/sendfile?offset=1000&length=70001").body, file[1000..71_001]);
        assert_eq!(server.get("/sendfile?offset=100000&length=0").body, b"");
    });
}

#[test]
fn interim_answers_and_trailers_are_on_the_wire() {
    under_each_class("early", BOTH, |_, server| {
        let response = server.get("/early");
        let [early] = response.interim.as_slice() else { panic!("{:?}", response.interim) };
        assert_eq!((early.status, early.field("link")), (103, Some("</style.css>; rel=preload")));
        assert_eq!((response.status, response.text().as_str()), (200, "early"));
        assert_eq!(response.trailers, [("X-Trailer".to_owned(), "done".to_owned())]);
    });
}

#[test]
fn a_connection_that_was_taken_over_echoes() {
    under_each_class("echo", BOTH, |site, server| {
        let Some(mut connection) = taken_over(site, server, b"early bird") else { return };
        assert_eq!(connection.octets(10).expect("what came with the head"), b"early bird");
        for word in [&b"hello"[..], b"\0\r\n\r\n", &[b'x'; 50_000]] {
            connection.send(word).expect("it reads");
            assert_eq!(connection.octets(word.len()).expect("an echo"), word);
        }
        connection.end_sending().expect("it is there");
        connection.read_end().expect("an end");
        wait_trace(site, "echo ended");
    });
}

#[test]
fn a_connection_that_was_taken_over_is_told_of_the_drain() {
    under_each_class("echo_drain", BOTH, |site, server| {
        let old = server.workers()[0];
        let Some(mut connection) = taken_over(site, server, b"") else { return };
        let verdict = server.reload();
        assert!(verdict.starts_with("Reloaded: "), "{verdict}");
        connection.read_end().expect("an end");
        wait_trace(site, "echo ended");
        server.wait_gone(old);
    });
}

#[test]
fn bodies_are_read_in_pieces_however_they_come() {
    under_each_class("upload", BOTH, |_, server| {
        let response = post(server, "/upload", b"Content-Length: 9\r\n\r\nWikipedia");
        assert_eq!(response.text(), "9 11e60398");
        let chunked = b"Transfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n";
        assert_eq!(post(server, "/upload?pause=5", chunked).text(), "9 11e60398");
        let large = [&b"Content-Length: 500000\r\n\r\n"[..], &[0; 500_000]].concat();
        // Adler-32 of n zeros: a stays 1, b is n modulo 65521.
        assert_eq!(
            post(server, "/upload", &large).text(),
            format!("500000 {:08x}", ((500_000 % 65521) << 16) | 1)
        );
    });
}

#[test]
fn trailers_of_a_request_arrive() {
    under_each_class("trailers", BOTH, |_, server| {
        let rest = b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n";
        assert_eq!(post(server, "/trailers", rest).text().to_lowercase(), "x-sum: 1\n");
    });
}

#[test]
fn panics_of_a_future_are_500() {
    under_each_class("panic", ASYNC, |_, server| {
        for target in ["/panic", "/panic-later"] {
            assert_eq!(server.get(target).status, 500, "{target}");
        }
        assert_eq!(server.text("/pending"), "woken");
        server.expect_error("panicked");
        server.expect_error("GET /panic");
    });
}

#[test]
fn an_exchange_that_is_used_after_its_end_does_no_harm() {
    under_each_class("late", ASYNC, |site, server| {
        assert_eq!(server.get("/spawn-late").status, 500);
        wait_trace(site, "late Misuse");
        assert_eq!(server.text("/pending"), "woken");
        server.expect_error("GET /spawn-late");
    });
}

#[test]
fn a_request_over_its_time_is_told_so() {
    for class in every_class() {
        let site = Site::new("expire");
        site.install(programs().fixture("exchange"), "app.so");
        site.install(&class, "class.so");
        site.mine("trace");
        for application in BOTH {
            let mut server = site
                .launch()
                .with(|settings| {
                    settings
                        .text("application", &format!("app.so:{application}"))
                        .text("worker_class", "./class.so");
                    settings.list("raw_env", &[format!("FX_TRACE={}", site.join("trace").display())]);
                    settings.raw("request_timeout", "0.5");
                })
                .start();
            // Who answers first, the application or the class (504), is the class's to decide.
            let status = server.get("/expire").status;
            assert!(matches!(status, 200 | 504), "{status}");
            if status == 200 {
                wait_trace(&site, "expired");
            }
            // A worker whose request did not end in time is replaced; either way somebody serves.
            assert_eq!(server.get("/no-such-route").status, 404);
            server.expect_error("request_timeout");
            server.finish();
        }
    }
}

#[test]
fn an_application_lives_from_start_to_drop() {
    under_each_class("life", BOTH, |site, server| {
        let old = server.workers()[0];
        server.reload_well();
        let trace = site.read("trace");
        let words: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains(&format!("pid={old} ")))
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(words, ["start", "ready", "drain", "shutdown", "dropped"], "{trace}");
    });
}

#[test]
fn a_worker_with_an_abandoned_call_is_replaced_and_frees_nothing() {
    let site = Site::new("abandoned");
    site.install(programs().fixture("exchange"), "app.so");
    site.install(programs().fixture("minimal_class"), "class.so");
    site.mine("trace");
    let mut server = site
        .launch()
        .with(|settings| {
            settings.text("application", "app.so:blocking").text("worker_class", "./class.so");
            settings.raw("worker_options", "{ abandon = \"true\" }").text("loglevel", "debug");
            settings.list("raw_env", &[format!("FX_TRACE={}", site.join("trace").display())]);
        })
        .start();
    let old = server.workers()[0];
    // The class has an answer for the client, and the worker serves on until another is ready.
    assert_eq!(server.get("/no-such-route?why=test").status, 404);
    let line = server.wait_log("is stuck in the application; this worker is replaced");
    assert!(line.contains("request_timeout: GET /no-such-route?why=test"), "{line}");
    wait_for("a new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
    server.wait_gone(old);
    server.wait_log("the applications are not shut down");
    let trace = site.read("trace");
    let words: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains(&format!("pid={old} ")))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        words.contains(&"start") && !words.contains(&"shutdown") && !words.contains(&"dropped"),
        "{trace}"
    );
    // It left with code 0, or the master would have said what became of it.
    server.expect_error("is stuck in the application");
    server.finish();
}

#[test]
fn one_library_holds_several_applications() {
    for class in every_class() {
        let site = Site::new("names");
        site.install(programs().fixture("two_names"), "app.so");
        site.install(&class, "class.so");
        let server = site
            .launch()
            .with(|settings| {
                settings.text("application", "app.so:first").text("worker_class", "./class.so");
                settings.list("mount", &["/2=app.so:second", "/2/3=app.so:third"]);
            })
            .start();
        for (target, answer) in [
            ("/", "first"),
            ("/22", "first"),
            ("/2", "second"),
            ("/2/x", "second"),
            ("/2/3", "third"),
            ("/2/3/4", "third"),
        ] {
            assert_eq!(server.text(target), answer, "{target}");
        }
        server.finish();
        let ended = site
            .launch()
            .with(|settings| {
                settings.text("application", "app.so").text("worker_class", "./class.so");
            })
            .start_in_vain();
        assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
        assert!(ended.stderr.contains("first, second, third"), "{}", ended.stderr);
    }
}

#[test]
fn a_library_brings_its_neighbours() {
    let site = Site::new("neighbour");
    site.directory("lib");
    let from = programs().fixture("neighbour");
    site.install(&from, "app.so");
    let helper = "lib/libfx_neighbour_helper.so";
    fs::copy(from.with_file_name(helper), site.join(helper)).expect("a copy");
    site.mine(helper);
    let mut server = site.launch().start();
    assert_eq!(server.text("/"), "42");
    // The neighbour is as immutable as the plugin.
    let old = server.workers()[0];
    fs::write(site.join(helper), "").expect("it is ours");
    harness::process::send(old, harness::Signal::SIGKILL);
    wait_for("a new worker", || matches!(server.workers().as_slice(), [new] if *new != old));
    assert_eq!(server.text("/"), "42");
    server.expect_error("SIGKILL");
    server.finish();
}

#[test]
fn a_third_partys_class_swaps_and_stops_like_ours() {
    let site = Site::new("minimal");
    site.install(programs().inspect(1), "app.so");
    site.install(programs().fixture("minimal_class"), "class.so");
    let mut server = site
        .launch()
        .workers(2)
        .with(|settings| {
            settings.text("worker_class", "./class.so").raw("worker_options", "{ greeting = \"good day\" }");
        })
        .start();
    assert_eq!(server.get("/version").field("x-greeting"), Some("good day"));
    let load = Load::start(server.address(), Plan::versions(4));
    for number in 1..=4 {
        site.install(programs().inspect(1 + number % 2), "app.so");
        server.reload_well();
        load.epoch(number.into());
        load.more(30);
    }
    // To each of ours, and back.
    for class in classes().map(|class| class.name).chain(["./class.so"]) {
        server.configure(|settings| _ = settings.text("worker_class", class).remove("worker_options"));
        server.reload_well();
        load.more(30);
    }
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(4), ["1"]);
    server.configure(|settings| _ = settings.raw("worker_options", "{ grating = \"x\" }"));
    let verdict = server.reload();
    assert!(verdict.contains("grating") && verdict.contains("greeting"), "{verdict}");
    server.expect_error("grating");
    server.finish();
}

#[test]
fn plugins_of_another_compiler_serve() {
    let Some(built) = programs().nightly_fixtures(&["two-names", "minimal-class", "exchange"]) else {
        eprintln!("skipped: there is no nightly toolchain here");
        return;
    };
    for class in classes().map(|class| programs().class(class)).chain([built.join("libfx_minimal_class.so")])
    {
        let site = Site::new("nightly");
        site.install(built.join("libfx_two_names.so"), "libfx_two_names.so");
        site.install(class, "class.so");
        let server = site
            .launch()
            .with(|settings| {
                settings.text("application", "libfx_two_names.so:third").text("worker_class", "./class.so");
            })
            .start();
        assert_eq!(server.text("/"), "third");
        server.finish();
    }
    // Ours under theirs.
    let site = Site::new("nightly");
    site.install(programs().inspect(1), "app.so");
    site.install(built.join("libfx_minimal_class.so"), "class.so");
    let mut server = site.launch().with(|settings| _ = settings.text("worker_class", "./class.so")).start();
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    let failure = server.address().get("/wrong-length?declared=8&sent=3");
    assert!(matches!(failure, Err(Failure::Truncated(_))), "{failure:?}");
    server.expect_error("declared as 8");
    server.expect_error("the application failed");
    server.finish();
}
