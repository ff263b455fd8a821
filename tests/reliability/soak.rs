//! Mixed load for minutes on end, a reload every ten seconds and a kill every five.
//!
//! Owns the clients that ask for everything the test application has, and the account of what was lost. What a newcomer
//! would get wrong: a kill is not a deploy. A worker that is killed with SIGKILL takes its requests with it, in every
//! server. So a failure counts as the kill's if one fell between the moment from which that worker can have had the
//! connection and the moment at which its end was noticed; every other one is *lost*, and there may be none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::{Address, Connection, Failure, Load, Pace, Plan, Signal, Site, process, usage};

use crate::candidates::{Candidate, KEEP_ALIVE, Manner, Next, Running};
use crate::page;

const RELOAD: u64 = 10;
const KILL: u64 = 5;
/// Before the first look at what the master has.
const WARM: Duration = Duration::from_secs(15);

/// A failure: what, since when the server could have had it in hand, and when it was noticed.
type Lost = (String, Instant, Instant);

/// What one client does, again and again.
type Chore = fn(&Address) -> Result<(), String>;

const CHORES: &[Chore] = &[short, long, upload, slow_upload, slow_head];

/// What the master has.
#[derive(Debug, Clone, Copy)]
struct Look {
    memory: u64,
    descriptors: usize,
    /// Files and directories of images in its directory.
    images: usize,
}

/// Each class in turn, an equal part of the time. Whether nothing was lost but by kills.
pub(crate) fn run(minutes: u64, write: bool) -> bool {
    let mut table = "| worker class | time | answered | lost | lost with the killed | kills | reloads | slowest | memory of the master | its descriptors | image files |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    let mut flawless = true;
    for class in ["sync", "threaded", "poll"] {
        let (row, well) = soak(class, Duration::from_secs(minutes * 60 / 3));
        eprintln!("{row}");
        table.push_str(&row);
        table.push('\n');
        flawless &= well;
    }
    table.push_str(&format!("\n{}, four workers; {} at the end.\n", page::machine(), page::load_average()));
    page::print("soak", &table, write) && flawless
}

/// A row, and whether nothing was lost but by kills.
fn soak(class: &'static str, time: Duration) -> (String, bool) {
    let site = Site::new("soak");
    let mut running = Candidate::Rgunicorn(class).start_many(&site, 4);
    let address = running.address();
    let pace = |clients| Plan::versions(clients).paced(Duration::from_millis(5));
    let mut loads = vec![Load::start(&address, pace(4))];
    if class != "sync" {
        loads.push(Load::start(&address, pace(4).kept(KEEP_ALIVE)));
    }
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let clients: Vec<JoinHandle<Vec<Lost>>> = CHORES
        .iter()
        .map(|chore| {
            let (address, over, done) = (address.clone(), Arc::clone(&over), Arc::clone(&done));
            thread::spawn(move || again_and_again(*chore, &address, &over, &done))
        })
        .collect();

    let (kills, reloads, looks) = disturb(&mut running, &site, time);

    over.store(true, Ordering::SeqCst);
    let mut failures: Vec<Lost> =
        clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect();
    let mut answered = done.load(Ordering::SeqCst);
    let mut slowest = Duration::ZERO;
    for load in loads {
        let report = load.stop();
        answered += report.answered();
        slowest = slowest.max(report.slowest);
        let moments = report.failures.into_iter().zip(report.moments);
        failures.extend(moments.map(|(why, (since, noticed))| (why, since, noticed)));
    }
    let by_a_kill = |lost: &Lost| kills.iter().any(|kill| lost.1 <= *kill && *kill <= lost.2);
    let (killed, lost): (Vec<Lost>, Vec<Lost>) = failures.into_iter().partition(by_a_kill);
    for (why, since, _) in &lost {
        eprintln!("lost under {class}: {why}, in hand for {:.1?} before the end", since.elapsed());
    }
    let figures = |figure: fn(&Look) -> String| looks.iter().map(figure).collect::<Vec<_>>().join(", ");
    let row = format!(
        "| {class} | {:.1} min | {answered} | **{}** | {} | {} | {reloads} | {slowest:.1?} | {} KiB | {} | {} |",
        time.as_secs_f64() / 60.0,
        lost.len(),
        killed.len(),
        kills.len(),
        figures(|look| (look.memory / 1024).to_string()),
        figures(|look| look.descriptors.to_string()),
        figures(|look| look.images.to_string()),
    );
    let serves = running.runs();
    if !lost.is_empty() || !serves {
        eprintln!("{}", site.read("server.log"));
    }
    (row, lost.is_empty() && serves)
}

/// Kills and reloads for so long; when the kills were, how many reloads, and what the master had at the start, in the
/// middle and at the end.
fn disturb(running: &mut Running<'_>, site: &Site, time: Duration) -> (Vec<Instant>, u32, Vec<Look>) {
    let begin = Instant::now();
    let (mut kills, mut reloads, mut looks) = (Vec::new(), 0, Vec::new());
    let mut second = 0;
    while begin.elapsed() < time {
        thread::sleep(Duration::from_secs(1));
        second += 1;
        if second % RELOAD == 0 {
            running.deploy(1 + (reloads + 1) % 2, Next::Good, Manner::Renamed);
            running.hup();
            reloads += 1;
        }
        if second % KILL == 2
            && let Some(worker) = running.workers().first()
        {
            kills.push(Instant::now());
            process::send(*worker, Signal::SIGKILL);
        }
        // Between a reload and a kill, when nothing goes on.
        let due = match looks.len() {
            0 => begin.elapsed() >= WARM.min(time / 4),
            1 => begin.elapsed() >= time / 2,
            _ => false,
        };
        if due && second % RELOAD == 6 {
            looks.push(look(running.pid(), site));
        }
    }
    thread::sleep(Duration::from_secs(5));
    looks.push(look(running.pid(), site));
    (kills, reloads, looks)
}

fn look(pid: i32, site: &Site) -> Look {
    let images = site.entries().iter().filter(|path| path.components().count() > 1).count();
    Look { memory: usage::own_memory(pid), descriptors: usage::descriptors(pid), images }
}

fn again_and_again(chore: Chore, address: &Address, over: &AtomicBool, done: &AtomicU64) -> Vec<Lost> {
    let mut failures = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let since = Instant::now();
        match chore(address) {
            Ok(()) => _ = done.fetch_add(1, Ordering::SeqCst),
            Err(why) => failures.push((why, since, Instant::now())),
        }
        thread::sleep(Duration::from_millis(20));
    }
    failures
}

/// Every short route.
fn short(address: &Address) -> Result<(), String> {
    for (target, status) in [
        ("/", 200),
        ("/stream?n=20&size=1000", 200),
        ("/status/404", 404),
        ("/header?name=X-A&value=b", 200),
        ("/env?name=PATH", 200),
        ("/pid", 200),
        ("/sleep?ms=20", 200),
        ("/busy?ms=5", 200),
        ("/noread", 200),
    ] {
        expect(target, status, address.get(target))?;
    }
    Ok(())
}

/// A megabyte, every octet looked at.
fn long(address: &Address) -> Result<(), String> {
    let response = address.get("/large?bytes=1000000").map_err(|failure| format!("/large: {failure}"))?;
    let whole = response.body.len() == 1_000_000;
    let right = response.body.iter().enumerate().all(|(index, octet)| *octet == b'a' + (index % 26) as u8);
    if response.status == 200 && whole && right {
        return Ok(());
    }
    Err(format!("/large: garbled: {}, {} octets", response.status, response.body.len()))
}

fn upload(address: &Address) -> Result<(), String> {
    post(address, 200_000, Pace::Whole)
}

/// In two thousand pieces: the worker waits for most of them.
fn slow_upload(address: &Address) -> Result<(), String> {
    post(address, 20_000, Pace::Pieces(10))
}

fn post(address: &Address, length: usize, pace: Pace) -> Result<(), String> {
    let head =
        format!("POST /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    let octets = [head.as_bytes(), &vec![b'u'; length]].concat();
    let answer = Connection::open(address).and_then(|mut connection| {
        connection.send_at(&octets, pace)?;
        connection.read_response()
    });
    let said = format!("\"body_len\":{length},");
    match answer {
        Ok(response) if response.status == 200 && response.text().contains(&said) => Ok(()),
        Ok(response) => Err(format!("upload of {length}: {} {}", response.status, response.text())),
        Err(failure) => Err(format!("upload of {length}: {failure}")),
    }
}

/// A head that takes half a second.
fn slow_head(address: &Address) -> Result<(), String> {
    let mut connection = Connection::open(address).map_err(|failure| format!("slow head: {failure}"))?;
    for piece in ["GET /ver", "sion HTTP/1.1\r\n", "Host: a\r\n", "Connection: close\r\n", "\r\n"] {
        connection.send(piece.as_bytes()).map_err(|failure| format!("slow head: {failure}"))?;
        thread::sleep(Duration::from_millis(100));
    }
    expect("slow head", 200, connection.read_response())
}

fn expect(what: &str, status: u16, answer: Result<harness::Response, Failure>) -> Result<(), String> {
    match answer {
        Ok(response) if response.status == status => Ok(()),
        Ok(response) => Err(format!("{what}: {} {}", response.status, response.text())),
        Err(failure) => Err(format!("{what}: {failure}")),
    }
}
