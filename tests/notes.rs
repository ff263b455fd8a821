//! `examples/axum`, over the wire and under each class: what an axum user expects to work does, and goes on working when
//! the service is swapped.
//!
//! What a newcomer would get wrong: what the application keeps, database and uploads, lies in the site beside the
//! configuration; each worker has its own pool, and may have opened it just now.

use std::fs;
use std::time::Duration;

use harness::{
    Address, Class, Connection, Failure, Load, Pace, Plan, Response, Server, Signal, Site, programs,
    under_each_class, wait_for,
};

/// A server with the notes, whose database and uploads are in the site.
fn launch(site: &Site, class: Class, workers: usize) -> Server<'_> {
    site.install(programs().example("notes"), "app.so");
    if !site.join("uploads").is_dir() {
        site.directory("uploads");
    }
    for name in ["notes.db", "notes.db-wal", "notes.db-shm"] {
        site.mine(name);
    }
    let table = table(site, 2);
    site.launch().class(class).workers(workers).with(|file| _ = file.append(&table)).start()
}

fn table(site: &Site, pool: usize) -> String {
    let path = site.path().display();
    format!("\n[app.app]\ndatabase = '{path}/notes.db'\nuploads = '{path}/uploads'\npool = {pool}\n")
}

/// The answer to one request on a connection of its own.
#[track_caller]
fn ask(address: &Address, head: &str, body: &[u8]) -> Response {
    let mut octets =
        format!("{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if head.starts_with("POST") {
        octets.push_str("Content-Type: application/json\r\n");
    }
    octets.push_str("\r\n");
    let octets = [octets.as_bytes(), body].concat();
    let heard = address.converse(&octets, Pace::Whole).expect("it listens");
    heard.response("GET").unwrap_or_else(|failure| panic!("{head}: {failure}"))
}

fn json(response: &Response) -> serde_json::Value {
    assert_eq!(response.field("content-type"), Some("application/json"), "{response:?}");
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

#[test]
fn notes_are_kept_and_found_again() {
    under_each_class(|class| {
        let site = Site::new("notes");
        let server = launch(&site, class, 2);
        let address = server.address();
        for number in 1..=5 {
            let answer = ask(address, "POST /notes", format!("{{\"text\":\"note {number} é\"}}").as_bytes());
            assert_eq!((answer.status, answer.field("location")), (201, Some(&*format!("/notes/{number}"))));
            assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
        }
        assert_eq!(json(&server.get("/notes/3"))["text"], "note 3 é");
        assert_eq!(ask(address, "DELETE /notes/3", b"").status, 204);
        assert_eq!(ask(address, "DELETE /notes/3", b"").status, 404);
        assert_eq!(server.get("/notes/3").status, 404);
        let list = json(&server.get("/notes?after=1&limit=2"));
        assert_eq!(list.to_string(), r#"[{"id":2,"text":"note 2 é"},{"id":4,"text":"note 4 é"}]"#);
        // What axum says of requests that it does not take.
        for (head, body, status) in [
            ("POST /notes", "{\"text\":1}", 422),
            ("POST /notes", "{", 400),
            ("PUT /notes", "", 405),
            ("GET /notes/x", "", 400),
            ("GET /notes?limit=-1", "", 400),
            ("GET /nowhere", "", 404),
        ] {
            assert_eq!(ask(address, head, body.as_bytes()).status, status, "{head} {body}");
        }
        server.finish();
    });
}

#[test]
fn a_pool_serves_many_requests_and_each_generation_has_its_own() {
    under_each_class(|class| {
        let site = Site::new("pool");
        let server = launch(&site, class, 1);
        let before = json(&server.get("/"));
        for _ in 0..20 {
            assert_eq!(server.get("/notes").status, 200);
        }
        let judge = |answer: &Response| match (answer.status, answer.text().as_str()) {
            (200, "[]") => Ok("200".to_owned()),
            _ => Err(format!("{answer:?}")),
        };
        let plan = Plan { target: "/notes".to_owned(), judge, ..Plan::versions(4) };
        let load = Load::start(server.address(), plan);
        load.more(100);
        server.reload_well();
        load.more(100);
        load.stop().expect_flawless();
        let after = json(&server.get("/"));
        assert_eq!((&before["generation"], &after["generation"]), (&1.into(), &2.into()));
        assert_ne!(before["pid"], after["pid"]);
        for about in [before, after] {
            // At most as many as its pool has, however many requests there were.
            assert!((1..=2).contains(&about["connections"].as_u64().expect("a number")), "{about}");
        }
        server.finish();
    });
}

#[test]
fn a_task_ticks_between_requests() {
    under_each_class(|class| {
        let site = Site::new("ticks");
        let server = launch(&site, class, 1);
        let ticks = || server.text("/ticks").parse::<u64>().expect("a number");
        let before = ticks();
        // Nobody asks meanwhile: this is time that has to pass.
        std::thread::sleep(Duration::from_millis(500));
        let after = ticks();
        // Twenty-five, on a machine that has nothing else to do.
        assert!(after >= before + 5, "{before}, then {after}");
        server.finish();
    });
}

#[test]
fn events_come_one_by_one_and_end_with_the_worker() {
    under_each_class(|class| {
        let site = Site::new("events");
        let mut server = launch(&site, class, 1);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/ticks/stream").expect("it reads");
        let head = connection.read_head().expect("a head, before there is a body");
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        let mut heard = String::new();
        while heard.matches("data: ").count() < 5 {
            heard.push_str(&String::from_utf8_lossy(&connection.octets(1).expect("events")));
        }
        server.signal(Signal::SIGTERM);
        let rest = connection.hear();
        assert!(rest.end.is_ok() && rest.octets.ends_with(b"0\r\n\r\n"), "{rest:?}");
        let (status, _) = server.wait_end();
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn files_are_stored_whole_or_not_at_all() {
    under_each_class(|class| {
        let site = Site::new("files");
        let server = launch(&site, class, 1);
        let address = server.address();
        let content: Vec<u8> = (0..2_000_000_u32).map(|number| (number * 7 % 251) as u8).collect();
        let answer = ask(address, "PUT /files/a.bin", &content);
        assert_eq!((answer.status, answer.text().as_str()), (201, "2000000 octets\n"));
        site.mine("uploads/a.bin");
        let answer = server.get("/files/a.bin");
        assert_eq!((answer.field("content-length"), answer.body == content), (Some("2000000"), true));
        for name in [".hidden", "..", "%2e%2e%2fnotes.db", "a%00b", "%C3%A9"] {
            let status = ask(address, &format!("PUT /files/{name}"), b"x").status;
            assert!(matches!(status, 400 | 404), "{name}: {status}");
        }
        assert_eq!(server.get("/files/none").status, 404);

        // Half of one is never a file, and leaves nothing behind.
        let uploads = || fs::read_dir(site.join("uploads")).expect("the directory").count();
        let mut connection = Connection::open(address).expect("it listens");
        let half = "PUT /files/b.bin HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        connection.send(half.as_bytes()).expect("it reads");
        connection.send(&content[..500_000]).expect("it reads");
        wait_for("the half of a file", || uploads() == 2);
        connection.reset();
        wait_for("its end", || uploads() == 1);
        assert_eq!(server.get("/files/b.bin").status, 404);

        // What is wrong with a body the server says, whatever the handler would.
        let chunked = "PUT /files/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
        let heard = address.converse(chunked.as_bytes(), Pace::Whole).expect("it listens");
        assert_eq!(heard.response("PUT").expect("an answer").status, 400);
        wait_for("its end", || uploads() == 1);
        server.finish();
    });
}

#[test]
fn settings_are_judged_before_they_go_live() {
    let site = Site::new("settings");
    let class = harness::classes::CLASSES[2];
    let mut server = launch(&site, class, 1);
    let worker = server.workers();
    for (table, complaint) in [
        (table(&site, 0), "`pool` must be at least 1"),
        (
            table(&site, 1).replace("pool = 1", "pool = 'two'"),
            "failed to load: the setting `pool` is wrong: invalid type: string \"two\", expected usize; see the table \
             [app.app] of the configuration file",
        ),
        (table(&site, 1) + "color = 1\n", "unknown field `color`"),
        (table(&site, 1).replace("/uploads", "/downloads"), "must name a directory"),
        ("\n[app.app]\npool = 1\n".to_owned(), "missing field `database`"),
        (
            table(&site, 1).replace("/notes.db", "/uploads/notes.db"),
            "`database` must lie outside of `uploads`",
        ),
        // Found when the pool is made, in the first worker.
        (table(&site, 1).replace("notes.db", "no/such/directory/notes.db"), "cannot open the database"),
    ] {
        server.configure(|file| _ = file.replace_rest(&table));
        let verdict = server.reload();
        assert!(verdict.starts_with("Reload refused"), "{complaint}: {verdict}");
        assert!(server.log().contains(complaint), "{complaint}: {}", server.log());
        assert_eq!((server.get("/notes").status, server.workers()), (200, worker.clone()));
        server.expect_error(complaint);
    }
    server.expect_error("Reload refused");
    let good = table(&site, 1);
    server.configure(|file| _ = file.replace_rest(&good));
    server.reload_well();
    server.finish();
}

#[test]
fn what_the_application_traces_is_in_the_log() {
    let site = Site::new("traces");
    site.install(programs().example("notes"), "app.so");
    let mut server = launch(&site, harness::classes::CLASSES[2], 1);
    let line = |server: &Server<'_>, text: &str| {
        server.wait_log(text);
        server.lines().into_iter().find(|line| line.message.contains(text)).expect("it was just there")
    };
    let opened = line(&server, "the database is open");
    assert_eq!((&*opened.level, &*opened.message), ("INFO", "notes: the database is open pool=2"));
    assert_eq!(server.workers(), [opened.pid]);
    // Of tower-http's middleware, below the level of the server so far.
    assert_eq!(server.get("/").status, 200);
    assert!(!server.log().contains("started processing request"));
    server.configure(|file| _ = file.text("loglevel", "debug"));
    server.reload_well();
    assert_eq!(server.get("/notes/7").status, 404);
    let begun = line(&server, "started processing request");
    assert_eq!(begun.level, "DEBUG");
    let expected = "tower_http::trace::on_request: request{method=GET uri=/notes/7 version=HTTP/1.1}: started processing request";
    assert_eq!(begun.message, expected);
    assert!(matches!(server.address().get("/notes/7"), Ok(_) | Err(Failure::Reset)));
    server.finish();
}
