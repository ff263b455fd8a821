//! Trials of what the host is told: requests and connections.
//!
//! What a newcomer would get wrong: a class that serves well and reports badly breaks what others rely on: the balance
//! between workers, `max_requests`, the access log, the metrics.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::super::Kit;
use super::super::client::{Client, Trouble, request};
use super::super::server::{Server, until};
use super::requests::at;

/// What the control socket says about the server.
pub(super) fn status(server: &Server) -> Result<String, Trouble> {
    let ask = || {
        let mut stream = UnixStream::connect(server.path("control"))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"status\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error: std::io::Error| format!("the control socket does not answer: {error}"))
}

pub(super) fn access_log(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&[])?;
    for (target, status, size) in
        [("/large?1234", 200, 1234), ("/async/large?4321", 200, 4321), ("/none", 404, 0), ("/fail", 500, 0)]
    {
        at(target, Client::get(server.address, target))?;
        let line = format!("\"GET {target} HTTP/1.1\" {status} ");
        let found = || server.file("access.log").lines().any(|other| other.contains(&line));
        if !until(Duration::from_secs(40), found) {
            return Err(format!("the access log has no line with {line}; the class must call request_end"));
        }
        let sized = |other: &str| other.contains(&line) && other.contains(&format!("{status} {size} "));
        if size > 0 && !server.file("access.log").lines().any(sized) {
            return Err(format!("the access log has another size than {size} for {target}"));
        }
    }
    Ok(())
}

pub(super) fn connections(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--head-timeout", "100"])?;
    let open = || -> Option<u64> {
        let status: Value = serde_json::from_str(&status(&server).ok()?).ok()?;
        status["workers"].as_array()?.iter().map(|worker| worker["connections"].as_u64()).sum()
    };
    let mut held = Client::open(server.address)?;
    held.send(b"GET / HTTP/1.1\r\nHost: a\r\n")?;
    if !until(Duration::from_secs(40), || open() == Some(1)) {
        let count = open().map_or("nothing".to_owned(), |count| count.to_string());
        return Err(format!("one connection is open, and the host knows of {count}; see connection_opened"));
    }
    held.send(b"Connection: close\r\n\r\n")?;
    held.answer("GET")?.expect(b"reference")?;
    drop(held);
    for _ in 0..5 {
        let mut client = Client::open(server.address)?;
        client.send(request("GET", "/", "").as_bytes())?;
        client.answer("GET")?.expect(b"reference")?;
    }
    if !until(Duration::from_secs(40), || open() == Some(0)) {
        let count = open().map_or("nothing".to_owned(), |count| count.to_string());
        return Err(format!("all clients have left, and the host knows of {count}; see connection_closed"));
    }
    Ok(())
}
