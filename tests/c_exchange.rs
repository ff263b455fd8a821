//! What an application in C can do with request, response, worker and its own life, on the wire and in the log.
//!
//! The fixture is `fixtures/c/door.c`; it traces its life to a file. What a newcomer would get wrong: where there
//! is no C compiler these tests pass, and say that they were skipped.

use harness::compiler::Compiler;
use harness::{
    Class, Connection, Failure, Response, Server, Site, under_each_class, under_each_with_threads, wait_for,
};

/// Runs a test with an application of the fixture under each class.
fn under_each(test: &str, application: &str, run: impl Fn(Class, &Site, &mut Server<'_>)) {
    let Some(compiler) = Compiler::c(test) else { return };
    under_each_class(|class| with_door(test, compiler, application, class, &run));
}

fn with_door(
    test: &str,
    compiler: Compiler,
    application: &str,
    class: Class,
    run: impl Fn(Class, &Site, &mut Server<'_>),
) {
    let site = Site::new(test);
    compiler.library("tests/fixtures/c/door.c", &site.join("app.so"), &["-std=c99", "-DDOOR=NOW"]);
    site.mine("app.so");
    site.mine("trace");
    site.write("file", (0..=255_u8).cycle().take(1000).collect::<Vec<u8>>());
    let variables = [("DOOR_TRACE", "trace"), ("DOOR_FILE", "file")]
        .map(|(name, file)| format!("{name}={}", site.join(file).display()));
    let launch = site.launch().class(class).with(|settings| {
        settings.text("application", &format!("app.so:{application}")).list("raw_env", &variables);
        if class.threads {
            settings.raw("threads", "4").raw("request_timeout", "3");
        }
        settings.append(&format!("[app.{application}]\nword = \"a \\\"b\\\"\"\nlist = [1, true]\n"));
    });
    let mut server = launch.start();
    run(class, &site, &mut server);
    server.finish();
}

fn wait_trace(site: &Site, word: &str) {
    wait_for(&format!("{word:?} in the trace"), || {
        site.read("trace").lines().any(|line| line.starts_with(word))
    });
}

#[track_caller]
fn ask(server: &Server<'_>, octets: &str) -> Response {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(octets.as_bytes()).expect("it reads");
    connection.read_response().unwrap_or_else(|failure| panic!("{octets}: {failure}"))
}

#[test]
fn an_application_is_told_all_there_is() {
    under_each("an_application_is_told_all_there_is", "app", |_, _, server| {
        let worker = server.workers()[0];
        let request = "GET http://h/facts?a=b?c HTTP/1.1\r\nHost: h\r\nX-Agent: one\r\nx-agent: two\r\n\r\n";
        let answer = ask(server, request);
        let expected = format!(
            "pid={worker} age=1 generation=1 probe=0 settings={{\"list\":[1,true],\"word\":\"a \\\"b\\\"\"}} \
             word=a \"b\" list=[1,true] none=1 timeout=30 nonsense=1 path=/facts query=a=b?c mount= version=11 scheme=0 \
             agent=one absent=1 fields=3 beyond=1 peer=4:127.1 local=4:1 tls=1 length=0 gone=0 expired=0 level=3"
        );
        assert_eq!(answer.text(), expected);
    });
}

#[test]
fn bodies_stream_both_ways() {
    under_each("bodies_stream_both_ways", "app", |_, _, server| {
        let mut connection = Connection::open(server.address()).expect("it listens");
        let head =
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
        connection.send(head.as_bytes()).expect("it reads");
        // A class with a loop takes a short body from the wire before it calls; not that of a client that asks first,
        // which is told by the head of the answer that it may go on.
        assert_eq!(connection.read_head().expect("a head").status, 200);
        connection.send(b"5\r\nhello\r\n").expect("it reads");
        // The first half is back before the second is sent.
        assert_eq!(connection.octets(10).expect("a chunk"), b"5\r\nhello\r\n");
        connection.send(b"6\r\n world\r\n0\r\n\r\n").expect("it reads");
        assert_eq!(connection.octets(16).expect("the rest"), b"6\r\n world\r\n0\r\n\r\n");
    });
}

#[test]
fn interim_answers_trailers_and_files() {
    under_each("interim_answers_trailers_and_files", "app", |_, _, server| {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/early").expect("it reads");
        let interim = connection.read_head().expect("an interim answer");
        assert_eq!((interim.status, interim.field("link")), (103, Some("</style.css>; rel=preload")));
        let head = connection.read_head().expect("a head");
        assert_eq!((head.status, head.field("trailer")), (200, Some("X-Trailer")));
        let rest = b"3\r\near\r\n2\r\nly\r\n0\r\nX-Trailer: done\r\n\r\n";
        assert_eq!(connection.octets(rest.len()).expect("a body"), rest);

        let request = "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
                       X-One: 1\r\nX-Two:  2 \r\n\r\n";
        assert_eq!(ask(server, request).text().to_lowercase(), "x-one: 1\nx-two: 2\n");

        let part: Vec<u8> = (10..110).collect();
        assert_eq!(server.get("/sendfile").body, part);
        let short = server.address().get("/sendfile?2000");
        assert!(matches!(short, Err(Failure::Truncated(_) | Failure::Reset)), "{short:?}");
    });
}

#[test]
fn calls_out_of_order_and_nonsense_do_no_harm() {
    under_each("calls_out_of_order_and_nonsense_do_no_harm", "app", |_, _, server| {
        assert_eq!(server.text("/misuse"), "-7 -7 -8 -8 -8 -8 -8 0 1");
        server.expect_error("application sent");
    });
}

#[test]
fn what_a_handler_returns_is_understood() {
    under_each("what_a_handler_returns_is_understood", "app", |_, _, server| {
        let worker = server.workers();
        // A fault that the server has not returned is a failure, too.
        for code in [-1, 0, 1, 77, -2, -5, -8, -11] {
            assert_eq!(server.get(&format!("/return?{code}")).status, 500, "{code}");
        }
        let late = server.address().get("/fail-late");
        assert!(matches!(late, Err(Failure::Truncated(_) | Failure::Reset)), "{late:?}");
        for code in [-1, 1, 77, -11] {
            server.wait_log(&format!("`handle` returned {code} without a word (rgunicorn_fail says why)"));
        }
        server.wait_log("door: failed half-way");
        assert_eq!(server.workers(), worker);
        for said in ["`handle` returned", "Error handling request", "the application failed"] {
            server.expect_error(said);
        }
    });
}

#[test]
fn lines_reach_the_log() {
    under_each("lines_reach_the_log", "app", |_, _, server| {
        assert_eq!(server.text("/log"), "logged");
        let lines: Vec<(String, String)> = server
            .lines()
            .into_iter()
            .filter(|line| line.message.starts_with("door: "))
            .map(|line| (line.level, line.message))
            .collect();
        let expected = [
            ("ERROR", "door: at error, \\u{1b}[31m and \u{fffd}".to_owned()),
            ("WARNING", "door: at warning".to_owned()),
            ("INFO", "door: at info, 12%".to_owned()),
            ("ERROR", "door: below the lowest".to_owned()),
            ("INFO", format!("door: {}", "w".repeat(1023 - 6))),
        ];
        assert_eq!(lines, expected.map(|(level, message)| (level.to_owned(), message)));
        server.wait_log("created app in a worker");
        server.reload_well();
        server.wait_log("created app in a probe");
        server.expect_error("door: ");
    });
}

#[test]
fn an_application_lives_from_create_to_destroy() {
    under_each("an_application_lives_from_create_to_destroy", "app", |_, site, server| {
        assert_eq!(server.text("/"), "app");
        let old = server.workers()[0];
        server.reload_well();
        let trace = site.read("trace");
        let words: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains(&format!("pid={old} ")))
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(words, ["start", "ready", "drain", "shutdown", "destroy"], "{trace}");
        // A probe creates, and then just ends.
        assert_eq!(trace.lines().filter(|line| line.starts_with("start ")).count(), 2, "{trace}");
    });
}

#[test]
fn a_handler_alone_is_an_application_and_may_be_inline() {
    under_each("a_handler_alone_is_an_application_and_may_be_inline", "bare", |_, _, server| {
        assert_eq!(server.text("/"), "no self");
    });
}

#[test]
fn an_application_that_refuses_says_why_or_that_it_does_not() {
    let test = "an_application_that_refuses_says_why_or_that_it_does_not";
    under_each(test, "app", |_, _, server| {
        let sound = server.settings.clone();
        for (refuse, says) in [
            ("silently", "failed to load: `create` returned -1 without a word (rgunicorn_refuse says why)"),
            ("ready", "did not become ready: not ready, and never will be"),
        ] {
            server.configure(|settings| _ = settings.append(&format!("refuse = \"{refuse}\"\n")));
            let verdict = server.reload();
            assert!(verdict.starts_with("Reload refused") && verdict.contains(says), "{verdict}");
            server.expect_error(says);
            server.configure(|settings| *settings = sound.clone());
        }
        assert_eq!(server.text("/"), "app");
    });
}

#[test]
fn a_client_that_leaves_and_a_request_over_its_time_are_noticed() {
    let test = "a_client_that_leaves_and_a_request_over_its_time_are_noticed";
    under_each(test, "app", |class, site, server| {
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/gone").expect("it reads");
        wait_trace(site, "waiting");
        connection.reset();
        wait_trace(site, "gone");
        assert_eq!(server.text("/"), "app");
        if class.threads {
            // Who answers first is the class's to decide.
            let status = server.get("/expire").status;
            assert!(matches!(status, 200 | 504), "{status}");
            wait_trace(site, "expired");
            server.expect_error("request_timeout");
        }
    });
}

#[test]
fn calls_of_a_single_one_never_overlap_and_others_do() {
    let test = "calls_of_a_single_one_never_overlap_and_others_do";
    let Some(compiler) = Compiler::c(test) else { return };
    under_each_with_threads(|class| {
        for (application, overlaps) in [("single", false), ("app", true)] {
            with_door(test, compiler, application, class, |_, _, server| {
                let most = || -> Vec<u32> {
                    let clients: Vec<_> = (0..4)
                        .map(|_| {
                            let address = server.address().clone();
                            std::thread::spawn(move || address.get("/meet").expect("an answer").text())
                        })
                        .collect();
                    let number = |text: String| text.parse().expect("a number");
                    clients.into_iter().map(|client| number(client.join().expect("no panic"))).collect()
                };
                if overlaps {
                    wait_for("two calls at a time", || most().into_iter().any(|most| most > 1));
                } else {
                    assert_eq!(most(), [1; 4]);
                }
            });
        }
    });
}
