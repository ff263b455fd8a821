//! Trials of clients that are slow, leave, or are too many.
//!
//! What a newcomer would get wrong: a class that serves one connection at a time may keep others waiting, but never
//! longer than the times that the operator has set.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::super::Kit;
use super::super::client::{Client, Trouble, request};
use super::super::server::{Server, pause, until};
use super::MOUNTS;
use super::requests::at;

/// What is put on top of a time that the class was given.
const SLACK: Duration = Duration::from_secs(25);

pub(super) fn unix_socket(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--bind", "unix:socket"])?;
    let converse = || {
        let mut stream = UnixStream::connect(server.path("socket"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(request("GET", "/", "Connection: close\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer: String =
        converse().map_err(|error: std::io::Error| format!("the connection broke: {error}"))?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nreference") {
        return Ok(());
    }
    Err(format!("the answer is '{}'", answer.escape_debug()))
}

pub(super) fn slow_reader(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let length = 6_000_000;
    let body: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
    for mount in MOUNTS {
        let target = format!("{mount}/large?{length}");
        let mut client = Client::open(address)?;
        client.send(request("GET", &target, "Connection: close\r\n").as_bytes())?;
        // The subject: what the kernel does not take must wait, and not be lost.
        pause(Duration::from_millis(300));
        at(&target, client.answer("GET").and_then(|answer| answer.expect(&body)))?;
        at(&target, client.end())?;
    }
    Ok(())
}

pub(super) fn half_a_head(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--head-timeout", "1"])?;
    for (what, octets) in [("half a head", "GET / HTTP/1.1\r\nHost: cer"), ("nothing", "")] {
        let mut client = Client::open(server.address)?;
        client.send(octets.as_bytes())?;
        let begun = Instant::now();
        client.wait_at_most(Duration::from_secs(1) + SLACK);
        let ended = match client.answer("GET") {
            Ok(answer) if answer.status == 408 => client.end(),
            Ok(answer) => return Err(format!("{what}: answered with a {} instead of a 408", answer.status)),
            Err(why) if why.contains("without an answer") || why.contains("reset") => Ok(()),
            Err(why) => Err(why),
        };
        let time = begun.elapsed().as_secs_f64();
        at(&format!("{what}, {time:.1} s after it was sent, with a head_timeout of 1 s"), ended)?;
    }
    at("afterwards", Client::get(server.address, "/").and_then(|answer| answer.expect(b"reference")))
}

pub(super) fn idle(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--keep-alive", "1"])?;
    let mut client = Client::open(server.address)?;
    client.send(request("GET", "/", "").as_bytes())?;
    client.answer("GET")?.expect(b"reference")?;
    client.wait_at_most(Duration::from_secs(1) + SLACK);
    at("a connection that is idle, with a keepalive of 1 s", client.end())
}

pub(super) fn others_meanwhile(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--head-timeout", "60", "--threads", "4"])?;
    let address = server.address;
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut client = Client::open(address)?;
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Le")?;
        held.push(client);
    }
    let begun = Instant::now();
    at(
        "a GET beside 20 half heads",
        Client::get(address, "/").and_then(|answer| answer.expect(b"reference")),
    )?;
    let time = begun.elapsed();
    // They are ended after a minute, so that an answer that waited for them comes later than this.
    if time > Duration::from_secs(25) {
        return Err(format!("a GET beside 20 half heads took {:.1} s", time.as_secs_f64()));
    }
    Ok(())
}

/// How many descriptors a worker has.
fn descriptors_of(worker: i32) -> usize {
    std::fs::read_dir(format!("/proc/{worker}/fd")).map_or(0, Iterator::count)
}

pub(super) fn leavers(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--head-timeout", "1", "--timeout", "60"])?;
    let worker = server.worker()?;
    let before = descriptors_of(worker);
    let post = request("POST", "/echo", "Content-Length: 100000\r\n");
    let large = request("GET", "/large?6000000", "");
    let future = request("GET", "/async/sleep?100", "");
    for octets in ["", "GET / HT", &post, &large, &future, &request("GET", "/async/large?6000000", "")] {
        for round in 0..10 {
            let mut client = Client::open(server.address)?;
            client.send(octets.as_bytes())?;
            if round % 2 == 0 {
                // Sometimes after it was read.
                pause(Duration::from_millis(3));
            }
            if round % 3 == 0 { drop(client) } else { client.reset() }
        }
    }
    at("afterwards", Client::get(server.address, "/").and_then(|answer| answer.expect(b"reference")))?;
    if server.worker()? != worker {
        return Err("the worker died of it".to_owned());
    }
    // A thread or an event loop may keep a few of its own.
    let few = 8;
    if !until(Duration::from_secs(40), || descriptors_of(worker) <= before + few) {
        let now = descriptors_of(worker);
        return Err(format!(
            "the worker had {before} descriptors before 60 clients came and left, and {now} after"
        ));
    }
    Ok(())
}

pub(super) fn descriptors(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start_limited(&["--head-timeout", "60", "--timeout", "30"], Some(64))?;
    let worker = server.worker()?;
    let mut held = Vec::new();
    for _ in 0..120 {
        // The queue of the listener takes what the worker cannot.
        held.push(Client::open(server.address)?);
    }
    let begun = Instant::now();
    let processor = processor_time(worker);
    // The subject: it must live through this.
    pause(Duration::from_secs(1));
    let used = processor_time(worker) - processor;
    drop(held);
    at("after they have left", answered_in(&server, Duration::from_secs(60)))?;
    if server.worker()? != worker {
        return Err("the worker died of it".to_owned());
    }
    let lines = server.log().lines().count();
    if lines > 200 {
        return Err(format!("it wrote {lines} lines of log in {:.1} s", begun.elapsed().as_secs_f64()));
    }
    if used > 70 {
        return Err(format!("it used {used} % of a processor while it could accept nobody"));
    }
    Ok(())
}

fn answered_in(server: &Server, time: Duration) -> Result<(), Trouble> {
    let mut last = Ok(());
    until(time, || {
        last = Client::get(server.address, "/").and_then(|answer| answer.expect(b"reference"));
        last.is_ok()
    });
    last
}

/// Processor time that a process has used, in hundredths of a second.
pub(super) fn processor_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    // utime and stime (proc(5)); a tick of theirs is a hundredth of a second on every Linux there is.
    after.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

pub(super) fn side_by_side(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = Client::open(address)?;
        client.send(request("GET", "/async/sleep?2000", "Connection: close\r\n").as_bytes())?;
        clients.push(client);
    }
    for mut client in clients {
        client.answer("GET")?.expect(b"slept")?;
    }
    // One after the other they take a minute.
    let time = begun.elapsed();
    if time > Duration::from_secs(30) {
        return Err(format!("30 requests of 2 s took {:.1} s", time.as_secs_f64()));
    }
    Ok(())
}
