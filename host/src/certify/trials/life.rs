//! Trials of a worker's life: heartbeat, times, signals, reloads.
//!
//! What a newcomer would get wrong: most of this is the host's work, if the class ticks, reports, looks at the state and
//! returns when its work is done. What is tried here is whether it does.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Kit;
use super::super::client::{Client, Trouble, request};
use super::super::server::{Server, pause, until};
use super::clients::processor_time;
use super::requests::at;
use crate::sys::signal::Signal;

/// How long to wait for what comes soon, or not at all.
const PATIENCE: Duration = Duration::from_secs(40);

/// Tries it with a `timeout` of 2 s, and once more with one of 10 s before a class is blamed: a starved one is silent, too.
fn patiently(kit: &mut Kit, attempt: fn(&mut Kit, u64) -> Result<(), Trouble>) -> Result<(), Trouble> {
    attempt(kit, 2).or_else(|_| attempt(kit, 10))
}

fn answered(server: &Server) -> Result<(), Trouble> {
    Client::get(server.address, "/")?.expect(b"reference")
}

/// That the server still has this worker.
fn same_worker(server: &Server, worker: i32) -> Result<(), Trouble> {
    if server.worker()? == worker && !server.log().contains("WORKER TIMEOUT") {
        return Ok(());
    }
    Err("the worker was killed by its timeout; the class must tick at least once in tick_interval".to_owned())
}

pub(super) fn heartbeat(kit: &mut Kit) -> Result<(), Trouble> {
    patiently(kit, |kit, timeout| {
        let server = kit.start(&["--timeout", &timeout.to_string()])?;
        let worker = server.worker()?;
        // The subject: nothing may happen for longer than `timeout`.
        pause(Duration::from_millis(timeout * 2250));
        same_worker(&server, worker)
    })
}

pub(super) fn heartbeat_in_future(kit: &mut Kit) -> Result<(), Trouble> {
    patiently(kit, |kit, timeout| waits_long(kit, timeout, "/async/sleep", &[]))
}

pub(super) fn heartbeat_in_call(kit: &mut Kit) -> Result<(), Trouble> {
    patiently(kit, |kit, timeout| waits_long(kit, timeout, "/sleep", &["--threads", "4"]))
}

/// That a request may take longer than `timeout`.
fn waits_long(kit: &mut Kit, timeout: u64, route: &str, words: &[&str]) -> Result<(), Trouble> {
    let server = kit.start(&[words, &["--timeout", &timeout.to_string()]].concat())?;
    let worker = server.worker()?;
    let target = format!("{route}?{}", timeout * 2250);
    at(&target, Client::get(server.address, &target).and_then(|answer| answer.expect(b"slept")))?;
    same_worker(&server, worker)
}

pub(super) fn sleeps(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&[])?;
    let worker = server.worker()?;
    let (mut used, mut queued) = (0, 0);
    // Another second if the first was spent on tidying up.
    for _ in 0..3 {
        let before = (processor_time(worker), queue_time(worker));
        pause(Duration::from_secs(1));
        used = processor_time(worker) - before.0;
        queued = queue_time(worker).saturating_sub(before.1);
        // On a busy machine a loop that never waits gets little of a processor, and stands in the queue for one instead.
        if used <= 5 && queued <= 50 {
            return Ok(());
        }
    }
    Err(format!(
        "a worker that has nothing to do uses {used} % of a processor, and waits for one {queued} % of the time"
    ))
}

/// How long the threads of a process were ready to run and did not, in hundredths of a second (the second number of
/// schedstat); 0 where the kernel does not count that.
fn queue_time(pid: i32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_thread = |path: &Path| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let nanoseconds: u64 = threads.flatten().filter_map(|thread| of_thread(&thread.path())).sum();
    nanoseconds / 10_000_000
}

pub(super) fn request_timeout(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--request-timeout", "1", "--graceful-timeout", "2"])?;
    for target in ["/sleep?100000", "/async/sleep?100000"] {
        let begun = Instant::now();
        let mut client = Client::open(server.address)?;
        client.send(request("GET", target, "").as_bytes())?;
        match client.answer("GET") {
            Ok(answer) if answer.status == 504 => {}
            Ok(answer) => return Err(format!("{target}: a {} instead of a 504", answer.status)),
            Err(why) if why.contains("nothing came") => {
                return Err(format!(
                    "{target}: neither answered nor closed within 30 s, with a request_timeout of 1 s"
                ));
            }
            // A class that cannot answer for it leaves it to the host to end the worker.
            Err(_) => {}
        }
        let time = begun.elapsed();
        if time < Duration::from_millis(900) {
            return Err(format!("{target}: ended after {:.1} s, before its time", time.as_secs_f64()));
        }
        let mut last = Ok(());
        until(Duration::from_secs(60), || {
            last = answered(&server);
            last.is_ok()
        });
        at(&format!("after {target}"), last)?;
    }
    Ok(())
}

/// Requests one after the other until the condition holds, kept connections among them; none may be lost.
fn none_is_lost(kit_keeps: bool, server: &Server, mut done: impl FnMut(i32) -> bool) -> Result<(), Trouble> {
    let end = Instant::now() + Duration::from_secs(90);
    let mut kept: Option<Client> = None;
    let mut count = 0;
    loop {
        count += 1;
        let what = format!("request {count}");
        let mut client = match kept.take() {
            Some(client) => client,
            None => at(&what, Client::open(server.address))?,
        };
        at(&what, client.send(request("GET", "/pid", "").as_bytes()))?;
        let answer = at(&what, client.answer("GET"))?;
        let worker = std::str::from_utf8(&answer.body).ok().and_then(|text| text.parse().ok());
        let worker = worker.ok_or_else(|| format!("{what}: a {} instead of a 200", answer.status))?;
        if kit_keeps && !answer.closes() {
            kept = Some(client);
        }
        if done(worker) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("after {count} requests in 90 s the old worker still answers"));
        }
    }
}

pub(super) fn reload(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--graceful-timeout", "20"])?;
    let keeps = kit.keep_alive;
    for _ in 0..3 {
        let old = server.worker()?;
        server.signal(Signal::SIGHUP)?;
        none_is_lost(keeps, &server, |worker| worker != old)?;
        let gone = || std::fs::metadata(format!("/proc/{old}")).is_err();
        if !until(Duration::from_secs(60), gone) {
            return Err(
                "the old worker is still there a minute later, with a graceful_timeout of 20 s".to_owned()
            );
        }
    }
    Ok(())
}

pub(super) fn max_requests(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.start(&["--max-requests", "10"])?;
    let keeps = kit.keep_alive;
    for _ in 0..2 {
        let old = server.worker()?;
        at("with --max-requests 10", none_is_lost(keeps, &server, |worker| worker != old))?;
    }
    Ok(())
}

/// The answer to what was sent before a TERM, and the server's end after it.
pub(super) fn term_at_work(kit: &mut Kit) -> Result<(), Trouble> {
    for target in ["/sleep?3000", "/async/sleep?3000"] {
        let mut server = kit.start(&["--graceful-timeout", "60"])?;
        let mut client = Client::open(server.address)?;
        client.send(request("GET", target, "").as_bytes())?;
        at(target, wait_until_at_work(&server, target))?;
        server.signal(Signal::SIGTERM)?;
        let answer = at(target, client.answer("GET"))?;
        at(target, answer.expect(b"slept"))?;
        at(target, client.end())?;
        at(target, server.expect_end(PATIENCE))?;
    }
    Ok(())
}

/// Waits until the control socket shows a worker at this request: the class has called `request_begin`.
fn wait_until_at_work(server: &Server, target: &str) -> Result<(), Trouble> {
    let at_work = || super::reports::status(server).is_ok_and(|status| status.contains(target));
    if until(PATIENCE, at_work) {
        return Ok(());
    }
    Err("no worker is at work on it: the class must call request_begin".to_owned())
}

pub(super) fn term_with_queue(kit: &mut Kit) -> Result<(), Trouble> {
    let mut server = kit.start(&["--graceful-timeout", "120", "--threads", "1"])?;
    let mut clients = Vec::new();
    for index in 0..6 {
        let mut client = Client::open(server.address)?;
        let target = if index == 0 { "/sleep?3000" } else { "/sleep?100" };
        client.send(request("GET", target, "").as_bytes())?;
        if index == 0 {
            wait_until_at_work(&server, target)?;
        }
        clients.push(client);
    }
    server.signal(Signal::SIGTERM)?;
    for (index, mut client) in clients.into_iter().enumerate() {
        let what = format!("client {} of 6", index + 1);
        at(&what, client.answer("GET").and_then(|answer| answer.expect(b"slept")))?;
    }
    server.expect_end(PATIENCE)
}

pub(super) fn term_while_kept(kit: &mut Kit) -> Result<(), Trouble> {
    let mut server = kit.start(&["--graceful-timeout", "60", "--keep-alive", "5"])?;
    let mut client = Client::open(server.address)?;
    client.send(request("GET", "/", "").as_bytes())?;
    client.answer("GET")?.expect(b"reference")?;
    let mut busy = Client::open(server.address)?;
    busy.send(request("GET", "/async/sleep?3000", "").as_bytes())?;
    wait_until_at_work(&server, "/async/sleep?3000")?;
    server.signal(Signal::SIGTERM)?;
    if !until(PATIENCE, || server.log().contains("Handling signal: term")) {
        return Err("the server does not say that it got the signal".to_owned());
    }
    // It is answered or ended, in order: which of the two depends on who was first.
    if client.send(request("GET", "/", "").as_bytes()).is_ok() {
        match client.answer("GET") {
            Ok(answer) => {
                answer.expect(b"reference")?;
                if answer.closes() {
                    client.end()?;
                }
            }
            Err(why) if why.contains("without an answer") || why.contains("reset") => {}
            Err(why) => return Err(why),
        }
    }
    busy.answer("GET")?.expect(b"slept")?;
    server.expect_end(PATIENCE)
}

pub(super) fn term_while_stuck(kit: &mut Kit) -> Result<(), Trouble> {
    for target in ["/sleep?60000", "/async/sleep?60000"] {
        let mut server = kit.start(&["--graceful-timeout", "1", "--timeout", "60"])?;
        let mut client = Client::open(server.address)?;
        client.send(request("GET", target, "").as_bytes())?;
        at(target, wait_until_at_work(&server, target))?;
        server.signal(Signal::SIGTERM)?;
        at(&format!("{target}, with a graceful_timeout of 1 s"), server.expect_end(PATIENCE))?;
    }
    Ok(())
}

pub(super) fn interrupt(kit: &mut Kit) -> Result<(), Trouble> {
    let mut server = kit.start(&["--graceful-timeout", "60", "--timeout", "60"])?;
    let mut client = Client::open(server.address)?;
    client.send(request("GET", "/async/sleep?60000", "").as_bytes())?;
    wait_until_at_work(&server, "/async/sleep?60000")?;
    server.signal(Signal::SIGINT)?;
    server.expect_end(PATIENCE)
}
