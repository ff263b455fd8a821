//! How many requests each accident costs.
//!
//! Owns the rows. *Lost* is what a client without retries sees: refused, reset, cut short, garbled, or a 5xx that the
//! server made. Slow is not lost, so the slowest answer stands beside. What a newcomer would get wrong: after a TERM a
//! refusal is what was asked for; only who was connected before counts.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Connection, Load, Plan, Report, Signal, Site, process, programs, within};

use crate::candidates::{Candidate, KEEP_ALIVE, Manner, Next, Running};
use crate::page;

/// How long clients go on after the accident: some servers end long after it.
const AFTER: Duration = Duration::from_secs(12);
/// Clients that open a connection for each request.
const CLIENTS: usize = 4;
/// Clients that keep theirs.
const KEPT: usize = 2;
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

/// What can happen. In all but the last of these, ours may lose nothing.
const ROWS: &[(&str, Accident)] = &[
    ("a good version, ten times", |c, s| {
        under_load(c, s, |running| {
            for version in [2, 1, 2, 1, 2, 1, 2, 1, 2, 1] {
                running.deploy(version, Next::Good, Manner::Renamed);
                running.hup();
                thread::sleep(Duration::from_secs(1));
            }
        })
    }),
    ("a version that boots for 3 s", |c, s| {
        under_load(c, s, |running| {
            running.deploy(2, Next::Slow, Manner::Renamed);
            running.hup();
            // The trial, then one worker after the other.
            thread::sleep(Duration::from_secs(9));
        })
    }),
    ("broken: the file is no library (a syntax error)", |c, s| {
        deployed(c, s, Next::Garbage, Manner::Renamed)
    }),
    ("broken: an unresolved symbol (a missing module)", |c, s| {
        deployed(c, s, Next::Unresolved, Manner::Renamed)
    }),
    ("broken: no application of that name", |c, s| deployed(c, s, Next::NoSuchName, Manner::Renamed)),
    ("broken: start-up returns an error (raises one)", |c, s| deployed(c, s, Next::Fails, Manner::Renamed)),
    ("broken: start-up panics (`sys.exit(1)`)", |c, s| deployed(c, s, Next::Panics, Manner::Renamed)),
    ("broken: start-up dies of a signal", |c, s| deployed(c, s, Next::Crashes, Manner::Renamed)),
    ("broken: start-up exits with 0", |c, s| deployed(c, s, Next::Exits, Manner::Renamed)),
    ("broken: start-up never ends", |c, s| deployed(c, s, Next::Hangs, Manner::Renamed)),
    ("every new worker dies as it boots, though the trial went well", |c, s| {
        deployed(c, s, Next::CrashLoop, Manner::Renamed)
    }),
    ("the file is written over (`cp`), then HUP", |c, s| deployed(c, s, Next::Good, Manner::Overwritten)),
    ("the file is written over with rubbish, no HUP", |c, s| {
        under_load(c, s, |running| running.deploy(2, Next::Garbage, Manner::Overwritten))
    }),
    ("the file is truncated, no HUP", |c, s| {
        under_load(c, s, |running| running.deploy(2, Next::Empty, Manner::Overwritten))
    }),
    ("the file is truncated, then HUP", |c, s| deployed(c, s, Next::Empty, Manner::Overwritten)),
    ("a broken version, then a good one", |c, s| {
        under_load(c, s, |running| {
            running.deploy(2, Next::Fails, Manner::Renamed);
            running.hup();
            thread::sleep(Duration::from_secs(2));
            running.deploy(2, Next::Good, Manner::Renamed);
            running.hup();
        })
    }),
    ("HUP with 46 clients queued, three times", full_queue),
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
    (KILLS, |c, s| {
        under_load(c, s, |running| {
            for _ in 0..10 {
                if let Some(worker) = running.workers().first() {
                    process::send(*worker, Signal::SIGKILL);
                }
                thread::sleep(Duration::from_millis(700));
            }
        })
    }),
];

/// The row in which requests are lost by design: those that the process had in hand.
const KILLS: &str = "`kill -9` of a worker, ten times";

/// Prints the table as Markdown, cells as they are done on standard error, and puts it into the page if that was asked
/// for. An accident happens to all servers at the same time, each with clients of its own: so each meets the same
/// machine, and the whole takes minutes. Whether ours lost nothing that it may not lose.
pub(crate) fn table(row_filter: &str, server_filter: &str, write: bool) -> bool {
    // Whatever has to be built is, before the first of them starts.
    programs();
    let begin = Instant::now();
    let mut candidates = Candidate::all();
    candidates.retain(|candidate| candidate.name().contains(server_filter));
    let names: Vec<String> = candidates.iter().map(Candidate::name).collect();
    let rows: Vec<&(&str, Accident)> = ROWS.iter().filter(|(row, _)| row.contains(row_filter)).collect();
    if rows.is_empty() || candidates.is_empty() {
        eprintln!("no row, or no server, has that text");
        return false;
    }
    let mut text = format!("| what happens | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let (mut kept_word, mut loads) = (true, Vec::new());
    for (number, (row, accident)) in rows.iter().enumerate() {
        let cells = thread::scope(|scope| {
            let meet = |candidate| scope.spawn(move || meets(candidate, row, *accident));
            let clients: Vec<_> = candidates.iter().map(meet).collect();
            let joined = clients.into_iter().map(|one| one.join().expect("no server failed to start"));
            joined.collect::<Vec<_>>()
        });
        let _ = write!(text, "| {row} |");
        for (name, (cell, well)) in names.iter().zip(cells) {
            kept_word &= well;
            eprintln!("{row}; {name}: {cell}");
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
        loads.extend(page::load());
        eprintln!("{} of {} rows, {:.0?}; {}", number + 1, rows.len(), begin.elapsed(), page::load_average());
    }
    let (least, most) =
        (loads.iter().copied().fold(f64::INFINITY, f64::min), loads.iter().copied().fold(0.0, f64::max));
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    let _ =
        write!(text, "\n{}; {minutes:.0} minutes, load average {least:.0} to {most:.0}.\n", page::machine());
    page::print("losses", &text, write) && kept_word
}

/// What an accident costs this server, as the table has it, and whether that is no more than it may.
fn meets(candidate: &Candidate, row: &str, accident: Accident) -> (String, bool) {
    let site = Site::waiting("reliability");
    let Some(cell) = accident(candidate, &site) else { return ("–".to_owned(), true) };
    let ours = matches!(candidate, Candidate::Rgunicorn(_));
    let well = !ours || (cell.serves && (cell.lost == 0 || row == KILLS));
    if !well {
        eprintln!("{}", site.read("server.log"));
    }
    (cell.to_string(), well)
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, asked, slowest, serves } = self;
        write!(f, "**{lost}** of {asked}")?;
        if !serves {
            return f.write_str(", down");
        }
        write!(f, ", {}", brief(*slowest))
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

/// Clients before, while and after something happens: some open a connection for each request, some keep theirs if the
/// server does.
fn under_load(candidate: &Candidate, site: &Site, happens: impl FnOnce(&mut Running<'_>)) -> Option<Cell> {
    let mut running = candidate.start(site, BACKLOG);
    let loads = clients(&running, candidate);
    thread::sleep(Duration::from_secs(1));
    happens(&mut running);
    thread::sleep(AFTER);
    Some(Cell::of(loads, answers(&running)))
}

/// Whether it serves at the end.
fn answers(running: &Running<'_>) -> bool {
    running.address().get("/version").is_ok_and(|response| response.status == 200)
}

fn clients(running: &Running<'_>, candidate: &Candidate) -> Vec<Load> {
    let plan = || Plan::versions(CLIENTS).paced(Duration::from_millis(2));
    let mut loads = vec![Load::start(&running.address(), plan())];
    if candidate.keeps_alive() {
        loads.push(Load::start(&running.address(), Plan { clients: KEPT, ..plan().kept(KEEP_ALIVE) }));
    }
    loads
}

impl Cell {
    fn of(loads: Vec<Load>, serves: bool) -> Self {
        let reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
        let lost = reports.iter().map(|report| report.failures.len()).sum();
        let asked = reports.iter().map(Report::answered).sum::<u64>() + lost as u64;
        let slowest = reports.iter().map(|report| report.slowest).max().unwrap_or_default();
        Self { lost, asked, slowest, serves }
    }
}

/// Far more clients than can be served at a time, and a queue that just holds them. What the kernel throws away from an
/// overfull one, with or without a reload, no server sees.
fn full_queue(candidate: &Candidate, site: &Site) -> Option<Cell> {
    let mut running = candidate.start(site, 64);
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
    Some(Cell::of(vec![load], answers(&running)))
}

fn usr2(candidate: &Candidate, site: &Site) -> Option<Cell> {
    if !candidate.knows_usr2() {
        return None;
    }
    let mut running = candidate.start(site, BACKLOG);
    let loads = clients(&running, candidate);
    thread::sleep(Duration::from_secs(1));
    let heir = running.replace_master();
    thread::sleep(Duration::from_secs(2));
    Some(Cell::of(loads, heir.is_some_and(process::runs)))
}

/// 24 requests of half a second, more than can be at work at once, then TERM: how many get their answer.
fn term(candidate: &Candidate, site: &Site) -> Option<Cell> {
    let mut running = candidate.start(site, BACKLOG);
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
    let ended = within(Duration::from_secs(40), || !running.runs()).is_some();
    Some(Cell { lost, asked, slowest, serves: ended })
}
