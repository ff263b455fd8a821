//! How many requests each accident costs.
//!
//! Owns the rows. *Lost* is what a client without retries sees: refused, reset, cut short, garbled, or a 5xx that the
//! server made. Slow is not lost, so the slowest answer stands beside. What a newcomer would get wrong: after a TERM a
//! refusal is what was asked for; only who was connected before counts.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Connection, Load, Plan, Report, Signal, Site, process, within};

use crate::candidates::{Candidate, Manner, Next, Running};

/// How long clients go on after the accident.
const AFTER: Duration = Duration::from_secs(6);
const CLIENTS: usize = 4;
const BACKLOG: u32 = 2048;

/// An accident; returns what the clients saw, or none if this server knows no such thing.
type Accident = fn(&Candidate, &Site) -> Option<Cell>;

/// What is printed for one accident and one server.
#[derive(Debug)]
struct Cell {
    lost: usize,
    asked: u64,
    slowest: Duration,
    /// Whether it still answers at the end.
    serves: bool,
}

const ROWS: &[(&str, Accident)] = &[
    ("a good version, ten times", |c, s| {
        under_load(c, s, |running| {
            for version in [2, 1, 2, 1, 2, 1, 2, 1, 2, 1] {
                running.deploy(version, Next::Good, Manner::Renamed);
                running.hup();
                thread::sleep(Duration::from_millis(500));
            }
        })
    }),
    ("a version that boots for 3 s", |c, s| deployed(c, s, Next::Slow, Manner::Renamed)),
    ("broken: the file is no application", |c, s| deployed(c, s, Next::Garbage, Manner::Renamed)),
    ("broken: no application of that name", |c, s| deployed(c, s, Next::NoSuchName, Manner::Renamed)),
    ("broken: start-up fails", |c, s| deployed(c, s, Next::Fails, Manner::Renamed)),
    ("broken: start-up aborts", |c, s| deployed(c, s, Next::Aborts, Manner::Renamed)),
    ("broken: start-up exits with 0", |c, s| deployed(c, s, Next::Exits, Manner::Renamed)),
    ("broken: start-up never ends", |c, s| deployed(c, s, Next::Hangs, Manner::Renamed)),
    ("the file is written over (cp), then HUP", |c, s| deployed(c, s, Next::Good, Manner::Overwritten)),
    ("the file is written over with rubbish, no HUP", |c, s| {
        under_load(c, s, |running| {
            running.deploy(2, Next::Garbage, Manner::Overwritten);
        })
    }),
    ("a broken version, then a good one", |c, s| {
        under_load(c, s, |running| {
            running.deploy(2, Next::Fails, Manner::Renamed);
            running.hup();
            thread::sleep(Duration::from_secs(2));
            running.deploy(2, Next::Good, Manner::Renamed);
            running.hup();
        })
    }),
    ("HUP with a full queue", full_queue),
    ("an address comes, an address goes", |c, s| {
        if !c.rebinds() {
            return None;
        }
        under_load(c, s, |running| {
            for also in [true, false] {
                running.listen_also(also);
                running.hup();
                thread::sleep(Duration::from_secs(2));
            }
        })
    }),
    ("USR2, then TERM to the old master", usr2),
    ("TERM with requests queued and at work", term),
];

/// Prints the table as Markdown, rows as they are done on standard error.
pub(crate) fn table(filter: &str) {
    let candidates = Candidate::all();
    let names: Vec<String> = candidates.iter().map(Candidate::name).collect();
    let mut text = format!("| what happens | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (row, accident) in ROWS.iter().filter(|(row, _)| row.contains(filter)) {
        let _ = write!(text, "| {row} |");
        for (candidate, name) in candidates.iter().zip(&names) {
            let site = Site::new("reliability");
            let cell = accident(candidate, &site).map_or_else(|| "–".to_owned(), |cell| cell.to_string());
            eprintln!("{row}; {name}: {cell}");
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    println!("{text}");
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, asked, slowest, serves } = self;
        write!(f, "**{lost}** of {asked}")?;
        if !serves {
            return f.write_str(", down");
        }
        write!(f, ", slowest {}", brief(*slowest))
    }
}

fn brief(time: Duration) -> String {
    match time.as_millis() {
        small @ ..=999 => format!("{small} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn deployed(candidate: &Candidate, site: &Site, next: Next, manner: Manner) -> Option<Cell> {
    under_load(candidate, site, |running| {
        running.deploy(2, next, manner);
        running.hup();
    })
}

/// Clients that open a connection for each request, before, while and after something happens.
fn under_load(candidate: &Candidate, site: &Site, happens: impl FnOnce(&mut Running<'_>)) -> Option<Cell> {
    let mut running = candidate.start(site, BACKLOG);
    let load = Load::start(&running.address(), Plan::versions(CLIENTS).paced(Duration::from_millis(1)));
    thread::sleep(Duration::from_secs(1));
    happens(&mut running);
    thread::sleep(AFTER);
    Some(Cell::of(&load.stop(), running.address().get("/version").is_ok()))
}

impl Cell {
    fn of(report: &Report, serves: bool) -> Self {
        let lost = report.failures.len();
        Self { lost, asked: report.answered() + lost as u64, slowest: report.slowest, serves }
    }
}

/// More clients than the queue holds, each asking for something slow: HUP comes while all places are taken.
fn full_queue(candidate: &Candidate, site: &Site) -> Option<Cell> {
    let mut running = candidate.start(site, 16);
    let plan = Plan {
        target: "/sleep?ms=20".to_owned(),
        judge: |response| match response.status {
            200 => Ok("200".to_owned()),
            other => Err(format!("{other}")),
        },
        ..Plan::versions(48)
    };
    let load = Load::start(&running.address(), plan);
    thread::sleep(Duration::from_secs(1));
    for version in [2, 1, 2] {
        running.deploy(version, Next::Good, Manner::Renamed);
        running.hup();
        thread::sleep(Duration::from_secs(2));
    }
    Some(Cell::of(&load.stop(), running.address().get("/version").is_ok()))
}

fn usr2(candidate: &Candidate, site: &Site) -> Option<Cell> {
    if !candidate.knows_usr2() {
        return None;
    }
    let mut running = candidate.start(site, BACKLOG);
    let load = Load::start(&running.address(), Plan::versions(CLIENTS).paced(Duration::from_millis(1)));
    thread::sleep(Duration::from_secs(1));
    let heir = running.replace_master();
    thread::sleep(Duration::from_secs(2));
    let cell = Cell::of(&load.stop(), heir.is_some_and(process::runs));
    Some(cell)
}

/// 24 requests of half a second, more than can be at work at once, then TERM: how many get their answer.
fn term(candidate: &Candidate, site: &Site) -> Option<Cell> {
    let running = candidate.start(site, BACKLOG);
    let mut clients: Vec<Connection> = Vec::new();
    for _ in 0..24 {
        let mut client = Connection::open(&running.address()).ok()?;
        client.send_get("/sleep?ms=500").ok()?;
        clients.push(client);
    }
    thread::sleep(Duration::from_millis(200));
    process::send(running.pid(), Signal::SIGTERM);
    let begin = Instant::now();
    let asked = clients.len() as u64;
    let lost = clients
        .into_iter()
        .map(|mut client| client.read_response())
        .filter(|answer| !matches!(answer, Ok(response) if response.status == 200))
        .count();
    let slowest = begin.elapsed();
    let mut running = running;
    let ended = within(Duration::from_secs(40), || !running.runs()).is_some();
    Some(Cell { lost, asked, slowest, serves: ended })
}
