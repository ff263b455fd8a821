//! The access log of a running server: what is in a line, also for what was no request.
//!
//! The atoms and their escaping are unit tests of `host/src/access_log.rs`; here is what only the whole server shows.
//! What a newcomer would get wrong: lines are written when a worker is idle, so that a test waits for them.

use harness::{Connection, Launch, Server, Site, programs, wait_for};

fn launch<'s>(site: &'s Site, name: &str, value: &str) -> Launch<'s> {
    site.install(programs().inspect(1), "app.so");
    site.mine("access.log");
    site.launch().with(|settings| _ = settings.text("accesslog", "access.log").raw(name, value))
}

/// What a client hears that sends these octets and no more.
fn answer_to(server: &Server<'_>, octets: &[u8]) -> String {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(octets).expect("it reads");
    connection.end_sending().expect("it is open");
    String::from_utf8_lossy(&connection.hear().octets).into_owned()
}

fn wait_lines(site: &Site, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines"), || site.read("access.log").lines().count() >= count);
    site.read("access.log").lines().map(str::to_owned).collect()
}

#[test]
fn what_cannot_be_parsed_has_a_line() {
    let site = Site::new("access_refused");
    let server = launch(&site, "access_log_format", "'%(s)s|%(r)s|%(u)s|%(f)s|%(D)s'").start();
    assert!(answer_to(&server, b"GET  / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let basic = b"GET /version HTTP/1.1\r\nHost: x\r\nAuthorization: Basic am86cw==\r\nReferer: \"\\\r\n\r\n";
    assert!(answer_to(&server, basic).starts_with("HTTP/1.1 200 "));
    let lines = wait_lines(&site, 2);
    assert_eq!(lines[0], "400|-|-|-|0");
    assert!(lines[1].starts_with(r#"200|GET /version HTTP/1.1|jo|\"\\|"#), "{}", lines[1]);
    server.finish();
}

#[test]
fn json_has_a_line_for_each_request() {
    let site = Site::new("access_json");
    let server = launch(&site, "access_log_json", "true").start();
    let request = b"GET /version?\"\xe4 HTTP/1.1\r\nHost: x\r\n\r\n";
    let _ = answer_to(&server, request);
    assert_eq!(server.get("/version?a=%22").status, 200);
    let lines = wait_lines(&site, 2);
    for line in &lines {
        assert!(line.starts_with("{\"time\": \"2") && line.ends_with('}'), "{line}");
        assert!(line.is_ascii() && line.contains("\"remote_address\": \"127.0.0.1\""), "{line}");
    }
    assert!(
        lines[1].contains(
            r#""method": "GET", "target": "/version?a=%22", "protocol": "HTTP/1.1", "status": 200"#
        )
    );
    server.finish();
}
