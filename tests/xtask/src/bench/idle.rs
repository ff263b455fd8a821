//! What connections cost that do nothing: ten thousand are opened, each asks once and stays.
//!
//! Owns the clients. What a newcomer would get wrong: what an allocator took for requests at work is not given back, so
//! clients come in small groups, each of which has its answers before the next one comes; and the first group is not
//! counted, since with it everything happens that happens once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::server::Server;

/// How many are opened, and how many come at a time.
pub(super) const IDLE: usize = 10_000;
const GROUP: usize = 50;
/// How long they are watched.
pub(super) const WATCHED: Duration = Duration::from_secs(3);

const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HELLO: &[u8] = b"Hello, World!";

/// What they cost.
#[derive(Clone, Copy)]
pub(super) struct Idleness {
    /// Octets of private memory for each.
    pub(super) octets: f64,
    /// CPU time while nothing happened, in µs, and in ticks of 10 ms.
    pub(super) cpu: f64,
    pub(super) ticks: u64,
}

/// Room for so many descriptors, in this program and in all that it starts.
pub(super) fn make_room() -> Result<(), String> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let (soft, hard) = limits.map_err(|error| format!("cannot read the limit on descriptors: {error}"))?;
    let needed = IDLE as u64 + 1000;
    if hard < needed {
        return Err(format!(
            "{IDLE} connections need {needed} descriptors, and the limit is {hard} (ulimit -Hn)"
        ));
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(20_000)), hard)
        .map_err(|error| format!("cannot raise the limit on descriptors: {error}"))
}

/// Opens all of them on a server that is fresh, watches them, and leaves.
pub(super) fn measure(server: &Server) -> Result<Idleness, String> {
    let mut clients = Vec::with_capacity(IDLE);
    join(&mut clients, server)?;
    let before = server.private_memory();
    while clients.len() < IDLE {
        join(&mut clients, server)?;
    }
    let more = server.private_memory().saturating_sub(before);
    // What the last answers still set in motion is over before the watch begins.
    thread::sleep(Duration::from_millis(200));
    let begin = server.used();
    thread::sleep(WATCHED);
    let used = server.used().since(begin);
    // One that was closed meanwhile costs nothing, and would make the others look cheap.
    for client in &clients {
        let there = client.set_nonblocking(true).map(|()| client.peek(&mut [0]));
        if !matches!(there, Ok(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock) {
            return Err("it has not kept all connections".to_owned());
        }
    }
    Ok(Idleness {
        octets: more as f64 / (IDLE - GROUP) as f64,
        cpu: used.total as f64 / 1000.0,
        ticks: used.user + used.system,
    })
}

/// A group comes, asks once each, and stays.
fn join(clients: &mut Vec<TcpStream>, server: &Server) -> Result<(), String> {
    let first = clients.len();
    let failed = |error: std::io::Error| format!("connection {first} and following: {error}");
    for _ in 0..GROUP {
        let mut client = TcpStream::connect(("127.0.0.1", server.port)).map_err(failed)?;
        client.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
        client.write_all(REQUEST).map_err(failed)?;
        clients.push(client);
    }
    for client in &mut clients[first..] {
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        while !answer.ends_with(HELLO) {
            match client.read(&mut piece).map_err(failed)? {
                0 => return Err(format!("connection {first} and following: it has closed one")),
                count => answer.extend_from_slice(&piece[..count]),
            }
        }
    }
    Ok(())
}
