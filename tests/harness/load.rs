//! Clients that ask one request after another, check each answer, and count.
//!
//! Owns the threads and the tally. What a newcomer would get wrong: an answer belongs to the *epoch* in which its
//! request began. A test raises the epoch when something is done, so that it can say "after this, only that".

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Address, Response};
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
}

impl Plan {
    /// Clients that ask `/version`, and count by the version.
    pub fn versions(clients: usize) -> Self {
        Self { clients, pause: Duration::ZERO, target: "/version".to_owned(), judge: version }
    }

    /// Clients that ask for a body of this size, and check every octet.
    pub fn large(clients: usize, octets: usize) -> Self {
        Self { clients, pause: Duration::ZERO, target: format!("/large?bytes={octets}"), judge: pattern }
    }

    /// Clients that ask `/pid`, and count by the process.
    pub fn pids(clients: usize) -> Self {
        Self { clients, pause: Duration::ZERO, target: "/pid".to_owned(), judge: pid }
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
    latencies: Vec<Duration>,
}

/// What the clients saw.
#[derive(Debug)]
pub struct Report {
    /// Good answers by epoch and label.
    pub counts: BTreeMap<(u64, String), u64>,
    /// What went wrong, each with when.
    pub failures: Vec<String>,
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

    /// Requests that begin from now on belong to this epoch. The first is 0.
    pub fn epoch(&self, number: u64) {
        self.shared.epoch.store(number, Ordering::SeqCst);
    }

    /// Lets every client finish its request, and adds up.
    pub fn stop(mut self) -> Report {
        self.shared.over.store(true, Ordering::SeqCst);
        let mut counts = BTreeMap::new();
        let mut failures = Vec::new();
        let mut latencies = Vec::new();
        for client in self.clients.drain(..) {
            let tally = client.join().expect("a client does not panic");
            for (key, count) in tally.counts {
                *counts.entry(key).or_insert(0) += count;
            }
            failures.extend(tally.failures);
            latencies.extend(tally.latencies);
        }
        latencies.sort_unstable();
        let slowest = latencies.last().copied().unwrap_or_default();
        let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
        let report = Report { counts, failures, slowest, p99, time: self.begun.elapsed() };
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
            "load: {} answered in {:.1} s ({rate:.0}/s), {} failed, p99 {:.1?}, slowest {:.1?}",
            self.answered(),
            self.time.as_secs_f64(),
            self.failures.len(),
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
    while !shared.over.load(Ordering::SeqCst) {
        let epoch = shared.epoch.load(Ordering::SeqCst);
        let asked = Instant::now();
        let answer = address.get(&plan.target);
        tally.latencies.push(asked.elapsed());
        let judged = match answer {
            Ok(response) if response.status >= 500 => {
                Err(format!("{}: {}", response.status, response.text()))
            }
            Ok(response) => (plan.judge)(&response),
            Err(failure) => Err(failure.to_string()),
        };
        match judged {
            Ok(label) => *tally.counts.entry((epoch, label)).or_insert(0) += 1,
            Err(why) => {
                let at = asked.duration_since(begun).as_secs_f64();
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
