//! Clients that ask one request after another, check each answer, and count.
//!
//! Owns the threads and the tally. What a newcomer would get wrong: an answer belongs to the *epoch* in which its
//! request began. A test raises the epoch when something is done, so that it can say "after this, only that".
//!
//! A client that keeps its connection ([`Plan::kept`]) may find it closed just as it sends. HTTP cannot exclude that if
//! the connection had been idle for as long as the server keeps idle ones; so that, and only that, is no loss but a
//! *race*, counted apart. A server that closes earlier, without having said so in its last answer, is at fault.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use crate::http::{Address, Connection, Failure, Response};
use crate::wait::wait_for;

/// What a client makes of a response: a label to count it under, or what is wrong with it.
pub type Judge = fn(&Response) -> Result<String, String>;

/// What the clients do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many clients.
    pub clients: usize,
    /// How long each waits between two requests; zero is not at all.
    pub pause: Duration,
    /// What they ask for.
    pub target: String,
    /// What they expect.
    pub judge: Judge,
    /// If they keep their connections: how long the server keeps an idle one.
    pub keep_alive: Option<Duration>,
}

impl Plan {
    /// Clients that ask `/version`, and count by the version.
    pub fn versions(clients: usize) -> Self {
        Self {
            clients,
            pause: Duration::ZERO,
            target: "/version".to_owned(),
            judge: version,
            keep_alive: None,
        }
    }

    /// Clients that ask for a body of this size, and check every octet.
    pub fn large(clients: usize, octets: usize) -> Self {
        Self {
            clients,
            pause: Duration::ZERO,
            target: format!("/large?bytes={octets}"),
            judge: pattern,
            keep_alive: None,
        }
    }

    /// Clients that ask `/pid`, and count by the process.
    pub fn pids(clients: usize) -> Self {
        Self { clients, pause: Duration::ZERO, target: "/pid".to_owned(), judge: pid, keep_alive: None }
    }

    /// The same on connections that are kept as long as the server keeps them, which is so long.
    pub fn kept(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = Some(keep_alive);
        self
    }

    /// The same with a pause after each request.
    pub fn paced(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Tally>>,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    over: AtomicBool,
    epoch: AtomicU64,
    done: AtomicU64,
}

#[derive(Debug, Default)]
struct Tally {
    counts: BTreeMap<(u64, String), u64>,
    failures: Vec<String>,
    moments: Vec<(Instant, Instant)>,
    latencies: Vec<Duration>,
    races: u64,
    connections: u64,
}

/// What the clients saw.
#[derive(Debug)]
pub struct Report {
    /// Good answers by epoch and label.
    pub counts: BTreeMap<(u64, String), u64>,
    /// What went wrong, each with when.
    pub failures: Vec<String>,
    /// For each failure: since when the server had the connection or could have had it, and when it was noticed.
    pub moments: Vec<(Instant, Instant)>,
    /// Requests on kept connections that were closed at that moment, and had been idle long enough for it.
    pub races: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The slowest request.
    pub slowest: Duration,
    /// The time that 99 of 100 requests stayed below.
    pub p99: Duration,
    /// How long the clients were at work.
    pub time: Duration,
}

impl Load {
    /// Starts the clients, and waits until each could have been answered once.
    #[expect(clippy::needless_pass_by_value, reason = "a plan is made for one load")]
    pub fn start(address: &Address, plan: Plan) -> Self {
        let shared = Arc::new(Shared::default());
        let begun = Instant::now();
        let clients = (0..plan.clients)
            .map(|_| {
                let (address, plan, shared) = (address.clone(), plan.clone(), Arc::clone(&shared));
                std::thread::spawn(move || client(&address, &plan, &shared, begun))
            })
            .collect();
        let load = Self { shared, clients, begun };
        load.more(plan.clients as u64);
        load
    }

    /// Waits until so many requests more have ended, well or not.
    pub fn more(&self, count: u64) {
        let goal = self.shared.done.load(Ordering::SeqCst) + count;
        wait_for(&format!("{count} requests more"), || self.shared.done.load(Ordering::SeqCst) >= goal);
    }

    /// How many requests have ended so far, well or not.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Requests that begin from now on belong to this epoch. The first is 0.
    pub fn epoch(&self, number: u64) {
        self.shared.epoch.store(number, Ordering::SeqCst);
    }

    /// Lets every client finish its request, and adds up.
    pub fn stop(mut self) -> Report {
        self.shared.over.store(true, Ordering::SeqCst);
        let mut counts = BTreeMap::new();
        let mut failures = Vec::new();
        let mut moments = Vec::new();
        let mut latencies = Vec::new();
        let (mut races, mut connections) = (0, 0);
        for client in self.clients.drain(..) {
            let tally = client.join().expect("a client does not panic");
            for (key, count) in tally.counts {
                *counts.entry(key).or_insert(0) += count;
            }
            failures.extend(tally.failures);
            moments.extend(tally.moments);
            latencies.extend(tally.latencies);
            races += tally.races;
            connections += tally.connections;
        }
        latencies.sort_unstable();
        let slowest = latencies.last().copied().unwrap_or_default();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        let time = self.begun.elapsed();
        let report = Report { counts, failures, moments, races, connections, slowest, p99, time };
        eprintln!("{report}");
        report
    }
}

impl Drop for Load {
    /// After a failed test: the clients must not outlive it.
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Report {
    /// How many requests were answered well.
    pub fn answered(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The labels of good answers whose requests began in this epoch.
    pub fn labels(&self, epoch: u64) -> Vec<&str> {
        self.counts.keys().filter(|(ours, _)| *ours == epoch).map(|(_, label)| label.as_str()).collect()
    }

    /// Fails the test if a single request was lost, or if there was none.
    #[track_caller]
    pub fn expect_flawless(&self) -> &Self {
        assert!(self.failures.is_empty(), "requests were lost\n{self}");
        assert!(self.answered() > 0, "nothing was asked\n{self}");
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, label), count) in &self.counts {
            *labels.entry(label).or_insert(0) += count;
        }
        let rate = self.answered() as f64 / self.time.as_secs_f64().max(0.001);
        write!(
            f,
            "load: {} answered in {:.1} s ({rate:.0}/s) on {} connections, {} failed, {} races, p99 {:.1?}, slowest {:.1?}",
            self.answered(),
            self.time.as_secs_f64(),
            self.connections,
            self.failures.len(),
            self.races,
            self.p99,
            self.slowest
        )?;
        if labels.len() <= 4 {
            write!(f, ", by answer {labels:?}")?;
        }
        for failure in self.failures.iter().take(20) {
            write!(f, "\n  {failure}")?;
        }
        Ok(())
    }
}

fn client(address: &Address, plan: &Plan, shared: &Shared, begun: Instant) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    let mut last_asked = begun;
    while !shared.over.load(Ordering::SeqCst) {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        let asked = Instant::now();
        // A kept connection may have been lost since its last answer was sent, which was before it was read.
        let since = if kept.is_some() { last_asked } else { asked };
        last_asked = asked;
        let answer = ask(address, plan, &mut kept, &mut tally);
        tally.latencies.push(asked.elapsed());
        let judged = match answer {
            Err(Lost::Race) => {
                tally.races += 1;
                continue;
            }
            Ok(response) if response.status >= 500 => {
                Err(format!("{}: {}", response.status, response.text()))
            }
            Ok(response) => (plan.judge)(&response),
            Err(Lost::Really(why)) => Err(why),
        };
        match judged {
            Ok(label) => *tally.counts.entry((epoch, label)).or_insert(0) += 1,
            Err(why) => {
                let at = asked.duration_since(begun).as_secs_f64();
                tally.moments.push((since, Instant::now()));
                tally.failures.push(format!("{why} (asked at {at:.3} s, epoch {epoch})"));
                // A server that refuses everything must not be asked a million times.
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        shared.done.fetch_add(1, Ordering::SeqCst);
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
    tally
}

/// Why there is no answer.
enum Lost {
    /// The one that nobody can exclude.
    Race,
    Really(String),
}

impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        Self::Really(failure.to_string())
    }
}

/// A connection that was kept, and since when it is idle.
type Kept = Option<(Connection, Instant)>;

/// One request, on the connection that was kept if there is one.
fn ask(address: &Address, plan: &Plan, kept: &mut Kept, tally: &mut Tally) -> Result<Response, Lost> {
    let (mut connection, idle) = match reusable(plan, kept.take())? {
        Some((connection, since)) => (connection, Some(since.elapsed())),
        None => {
            tally.connections += 1;
            (Connection::open(address)?, None)
        }
    };
    let sent = connection.send_get(&plan.target);
    if let (Some(idle), Some(keep_alive)) = (idle, plan.keep_alive)
        && (sent.is_err() || ends_at_once(&connection, MsgFlags::empty()))
    {
        let why = format!("closed {idle:.1?} after the last answer, with the next request on its way");
        return Err(if idle >= patience(keep_alive) { Lost::Race } else { Lost::Really(why) });
    }
    sent?;
    let response = connection.read_response()?;
    if response.closes() {
        connection.read_end()?;
    } else if plan.keep_alive.is_some() {
        *kept = Some((connection, Instant::now()));
    }
    Ok(response)
}

/// The connection that was kept, unless the server has closed it in the meantime, which it may in due time.
fn reusable(plan: &Plan, kept: Kept) -> Result<Kept, Lost> {
    let (Some((connection, since)), Some(keep_alive)) = (kept, plan.keep_alive) else { return Ok(None) };
    if !ends_at_once(&connection, MsgFlags::MSG_DONTWAIT) {
        return Ok(Some((connection, since)));
    }
    let idle = since.elapsed();
    if idle >= patience(keep_alive) {
        return Ok(None);
    }
    Err(Lost::Really(format!("closed {idle:.1?} after the last answer, which had not said so")))
}

/// How long an idle connection must be kept: timers may be coarse, and our clock starts a little later than the server's.
fn patience(keep_alive: Duration) -> Duration {
    keep_alive.mul_f64(0.9)
}

/// Whether the connection ends before another octet comes.
fn ends_at_once(connection: &Connection, flags: MsgFlags) -> bool {
    match recv(connection.as_fd().as_raw_fd(), &mut [0], flags | MsgFlags::MSG_PEEK) {
        Ok(count) => count == 0,
        // What a timeout is, the reading of the response will say.
        Err(Errno::EAGAIN | Errno::EINTR) => false,
        Err(_) => true,
    }
}

fn version(response: &Response) -> Result<String, String> {
    match (response.status, response.body.as_slice()) {
        (200, b"INSPECT-VERSION:1") => Ok("1".to_owned()),
        (200, b"INSPECT-VERSION:2") => Ok("2".to_owned()),
        (status, _) => Err(format!("garbled: {status} {:?}", response.text())),
    }
}

fn pid(response: &Response) -> Result<String, String> {
    match (response.status, response.text()) {
        (200, text) if text.parse::<u32>().is_ok() => Ok(text),
        (status, text) => Err(format!("garbled: {status} {text:?}")),
    }
}

fn pattern(response: &Response) -> Result<String, String> {
    let wrong = response.body.iter().enumerate().find(|(index, octet)| **octet != b'a' + (index % 26) as u8);
    match (response.status, wrong) {
        (200, None) if !response.body.is_empty() => Ok(format!("{} octets", response.body.len())),
        (200, Some((index, octet))) => Err(format!("garbled: octet {index} is {octet}")),
        (status, _) => Err(format!("garbled: {status}, {} octets", response.body.len())),
    }
}
