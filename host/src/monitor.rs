//! The monitor: an optional child of the master that tells others how the server is.
//!
//! Owns the process: its birth, its one loop, its clients and their bounds. Does not own the pages (`monitor/health.rs`,
//! `monitor/metrics.rs`, `monitor/statsd.rs`), HTTP (`monitor/http.rs`), the control protocol (`monitor/control.rs`), the sockets (the master binds them, so that they outlive a monitor)
//! nor any figure: all come from the scoreboard, so that an answer needs neither a worker nor the master.
//!
//! It runs as the workers' user, opens no plugin, and dies with the master.
//!
//! What a newcomer would get wrong: a monitor never learns anything new about configuration. It knows what there was when
//! it was forked; when another generation serves the master forks another one, and this one finishes with its clients
//! and leaves. Every signal stays blocked in here: a TERM that a service manager sends to all processes at once must not
//! end the one that says that the server is stopping. It ends when the master hangs up.

pub mod control;
pub mod health;
pub mod http;
pub mod metrics;

mod client;
mod statsd;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use crate::config::{BindKind, Config};
use crate::generation::Generation;
use crate::listener::Listener;
use crate::logging;
use crate::scoreboard::{Scoreboard, ServerState};
use crate::sys::fd::{Channel, Incoming, Watch, poll};
use crate::sys::{Pid, process, signal, tcp, title, unix_diag};
use crate::verb::Verb;
use client::{Client, Stream};
use control::Wish;
use health::{Queue, Snapshot};
use http::{Heard, Status};
use statsd::Statsd;

/// The most clients at a time. Who comes when there are as many takes the place of the one that has been silent longest.
const MOST_CLIENTS: usize = 64;
/// How often the scoreboard is looked at while a client waits for the master.
const LOOK: Duration = Duration::from_millis(20);
/// How long the master may take to hear of a verb.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may wait for a verdict.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// How long nobody is accepted after the kernel had no descriptor or no memory for another client.
const PAUSE: Duration = Duration::from_millis(100);

/// What the master says over the channel: one octet each.
pub mod word {
    /// Another monitor has taken over: accept nobody, finish, leave.
    pub const REPLACED: u8 = b'r';
    /// Open the log anew.
    pub const REOPEN: u8 = b'u';
    /// Log from the level on that the scoreboard says.
    pub const LOG_LEVEL: u8 = b'l';
}

/// What the master gives a monitor.
#[derive(Debug)]
pub struct Birth<'m> {
    /// What serves.
    pub generation: &'m Generation,
    /// All that there are processes of, this one among them.
    pub generations: Vec<&'m Generation>,
    /// The listeners of that generation, whose queues are looked at.
    pub watched: Vec<&'m Listener>,
    /// Where to answer HTTP.
    pub health: Option<&'m Listener>,
    /// Where to answer `rgunicorn ctl`.
    pub control: Option<&'m Listener>,
    /// The figures.
    pub scoreboard: Scoreboard,
    /// To and from the master. Its end is the monitor's end.
    pub channel: &'m Channel,
    /// The master.
    pub master: Pid,
}

/// Whether a configuration needs a monitor.
pub fn is_wanted(config: &Config) -> bool {
    config.monitor_bind.is_some() || config.control_socket.is_some() || config.statsd.is_some()
}

/// Monitor: the whole life; returns the exit code.
pub fn live(birth: &Birth<'_>) -> i32 {
    let served = Monitor::begin(birth).and_then(Monitor::run);
    match served {
        Ok(()) => 0,
        Err(sentence) => {
            log::error!("The monitor ends: {sentence}");
            1
        }
    }
}

/// A listening socket of the monitor's own.
#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    fn open(listener: &Listener) -> io::Result<Self> {
        let fd = listener.as_fd().try_clone_to_owned()?;
        Ok(match listener.actual() {
            BindKind::Tcp(_) => Self::Tcp(fd.into()),
            BindKind::Unix(_) | BindKind::Abstract(_) => Self::Unix(fd.into()),
            BindKind::Fd(_) | BindKind::FdName(_) => {
                return Err(io::Error::other("a socket has its own address"));
            }
        })
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(door) => door.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(door) => door.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(door) => door.as_fd(),
            Self::Unix(door) => door.as_fd(),
        }
    }
}

/// A listener of the workers.
#[derive(Debug)]
struct Watched {
    address: String,
    fd: OwnedFd,
}

/// What is spoken behind a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Http,
    Control,
}

impl Language {
    /// The most octets of a question.
    fn longest(self) -> usize {
        match self {
            Self::Http => http::LONGEST_HEAD,
            Self::Control => control::LONGEST_LINE,
        }
    }
}

/// A client, and how far its question is.
#[derive(Debug)]
struct Guest {
    client: Client,
    language: Language,
    waiting: Option<Waiting>,
}

/// A client that waits for what the master does.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: u64,
    verb: Verb,
    /// When the master must have heard of it.
    patience: Instant,
}

struct Monitor<'m> {
    birth: &'m Birth<'m>,
    watched: Vec<Watched>,
    doors: Vec<(Door, Language)>,
    /// Nobody is accepted before.
    paused: Option<Instant>,
    guests: Vec<Guest>,
    /// Questions to the master so far.
    asked: u64,
    statsd: Option<Statsd<'m>>,
    replaced: bool,
}

impl<'m> Monitor<'m> {
    fn begin(birth: &'m Birth<'m>) -> Result<Self, String> {
        let system = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        // 1. Descriptors: of those that are the master's own none may stay, above all no end of a worker's pipe.
        logging::after_fork();
        let watch = |listener: &&Listener| {
            let fd = listener.as_fd().try_clone_to_owned()?;
            Ok(Watched { address: listener.to_string(), fd })
        };
        let watched =
            birth.watched.iter().map(watch).collect::<io::Result<Vec<_>>>().map_err(system("dup"))?;
        let health = birth.health.map(|listener| (listener, Language::Http));
        let control = birth.control.map(|listener| (listener, Language::Control));
        let open = |(listener, language)| Ok((Door::open(listener)?, language));
        let doors = health.into_iter().chain(control).map(open).collect::<io::Result<Vec<_>>>();
        let doors = doors.map_err(system("dup"))?;
        let mut keep = vec![birth.channel.as_fd().as_raw_fd()];
        keep.extend(watched.iter().map(|watched| watched.fd.as_raw_fd()));
        keep.extend(doors.iter().map(|(door, _)| door.as_fd().as_raw_fd()));
        keep.extend(logging::raw_fds());
        process::close_all_but(&keep).map_err(system("close_range"))?;
        // The log that its generation has: at the first start the master's is still another. Before privileges go, as a
        // worker does.
        let config = &birth.generation.config;
        let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        title::set(title::Role::Monitor, &config.proc_name);
        logging::set_style(config.log_format, config.syslog.as_ref());
        logging::configure(&config.errorlog, config.loglevel, owner).map_err(|error| error.to_string())?;
        // 2. Privileges, before anything that others have written is read. setuid(2) clears the wish to die with the
        //    master, so that it comes after.
        if let Some(identity) = &config.identity {
            process::become_user(identity.uid, identity.gid, &identity.groups)
                .map_err(system("become_user"))?;
        }
        nix::sys::prctl::set_no_new_privs().map_err(|errno| format!("prctl: {errno}"))?;
        match signal::kill_with_parent(birth.master) {
            Ok(true) => {}
            Ok(false) => return Err("the master is gone".to_owned()),
            Err(error) => return Err(format!("cannot ask to die with the master: {error}")),
        }
        let open = |target| Statsd::open(target, Instant::now());
        let statsd = config.statsd.as_ref().map(open).transpose().map_err(system("statsd"))?;
        birth.channel.set_nonblocking().map_err(system("fcntl"))?;
        log::info!("Booting monitor with pid: {}", std::process::id());
        Ok(Self {
            birth,
            watched,
            doors,
            paused: None,
            guests: Vec::new(),
            asked: 0,
            statsd,
            replaced: false,
        })
    }

    /// The loop. It waits in one place, for the master, clients, and the nearest deadline.
    fn run(mut self) -> Result<(), String> {
        loop {
            if self.replaced && self.guests.is_empty() {
                return Ok(());
            }
            let accepting = self.paused.is_none() && !self.replaced;
            let doors = if accepting { self.doors.as_slice() } else { &[] };
            let mut watches = vec![Watch::readable(self.birth.channel.as_fd())];
            watches.extend(doors.iter().map(|(door, _)| Watch::readable(door.as_fd())));
            let first_guest = watches.len();
            let mut awaited = Vec::with_capacity(self.guests.len());
            for (index, guest) in self.guests.iter().enumerate() {
                if let Some(watch) = guest.client.watch() {
                    watches.push(watch);
                    awaited.push(index);
                }
            }
            poll(&mut watches, self.deadline()).map_err(|error| format!("cannot wait: {error}"))?;
            let ready: Vec<bool> = watches.iter().map(Watch::is_ready).collect();
            let now = Instant::now();
            if ready[0] && !self.hear_master() {
                // Whoever asked for the end is told that it comes, and nothing that was counted is forgotten.
                self.answer(now);
                self.report(now);
                return Ok(());
            }
            for (index, _) in awaited.into_iter().zip(&ready[first_guest..]).filter(|(_, ready)| **ready) {
                let guest = &mut self.guests[index];
                guest.client.go_on(guest.language.longest(), now);
            }
            for (door, _) in ready[1..first_guest].iter().enumerate().filter(|(_, ready)| **ready) {
                self.accept(door, now);
            }
            self.answer(now);
            // What this one does not report any more, the next does.
            if !self.replaced && self.statsd.as_ref().is_some_and(|statsd| statsd.next() <= now) {
                self.report(now);
            }
        }
    }

    fn report(&mut self, now: Instant) {
        let snapshot = self.snapshot();
        if let Some(statsd) = &mut self.statsd {
            statsd.send(&snapshot, &self.birth.scoreboard.statuses(), now);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waits = self.guests.iter().any(|guest| guest.waiting.is_some());
        let look = waits.then(|| Instant::now() + LOOK);
        let report = self.statsd.as_ref().filter(|_| !self.replaced).map(Statsd::next);
        let guests = self.guests.iter().map(|guest| guest.client.deadline());
        guests.chain(self.paused).chain(look).chain(report).min()
    }

    /// False if the master has hung up.
    fn hear_master(&mut self) -> bool {
        loop {
            match self.birth.channel.receive() {
                Ok(Incoming::Message(message, _)) => match message.first() {
                    Some(&word::REPLACED) => self.replaced = true,
                    Some(&word::REOPEN) => {
                        if let Err(error) = logging::reopen() {
                            log::error!("{error}");
                        }
                    }
                    Some(&word::LOG_LEVEL) => {
                        let configured = self.birth.generation.config.loglevel;
                        let level = self.birth.scoreboard.facts().log_level();
                        logging::set_level(level.unwrap_or(configured));
                    }
                    _ => log::debug!("the master has said something that is not understood"),
                },
                Ok(Incoming::Nothing) => return true,
                Ok(Incoming::Closed) | Err(_) => return false,
            }
        }
    }

    fn accept(&mut self, door: usize, now: Instant) {
        // Bounded, so that those who are here have their turn.
        for _ in 0..MOST_CLIENTS {
            let (door, language) = &self.doors[door];
            let language = *language;
            match door.accept().and_then(|stream| Client::new(stream, now)) {
                Ok(mut client) => {
                    // Most have asked by now, which saves a turn.
                    client.go_on(language.longest(), now);
                    self.make_room();
                    self.guests.push(Guest { client, language, waiting: None });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::warn!("The monitor cannot accept a client: {error}");
                    self.paused = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    fn make_room(&mut self) {
        if self.guests.len() >= MOST_CLIENTS {
            let silent = |guest: &Guest| guest.waiting.is_none() && guest.client.is_asking();
            let silent = self.guests.iter().position(silent).unwrap_or(0);
            self.guests.remove(silent);
        }
    }

    /// Answers all who have asked, and forgets who is gone or late.
    fn answer(&mut self, now: Instant) {
        self.paused.take_if(|until| *until <= now);
        let mut snapshot = None;
        for index in 0..self.guests.len() {
            let Some(answer) = self.answer_for(index, &mut snapshot, now) else { continue };
            self.guests[index].client.answer(answer, now);
        }
        self.guests.retain(|guest| !guest.client.is_gone() && guest.client.deadline() > now);
    }

    /// What this client is to be told now, if anything.
    fn answer_for(&mut self, index: usize, snapshot: &mut Option<Snapshot>, now: Instant) -> Option<Vec<u8>> {
        let guest = &self.guests[index];
        if let Some(waiting) = guest.waiting {
            let answer = self.outcome(waiting, now)?;
            self.guests[index].waiting = None;
            return Some(answer);
        }
        let heard = guest.client.heard()?;
        let late = guest.client.deadline() <= now;
        let answer = match guest.language {
            Language::Http => match http::judge(heard) {
                // Who has said nothing at all is not told either.
                Heard::Partial if late && !heard.is_empty() => Some(http::refusal(Status::RequestTimeout)),
                Heard::Partial => None,
                Heard::Refused(status) => Some(http::refusal(status)),
                Heard::Asks { path, head_only } => {
                    Some(page(&path, head_only, snapshot.get_or_insert_with(|| self.snapshot())))
                }
            },
            Language::Control => match control::judge(heard) {
                None => None,
                Some(Err(why)) => Some(control::failed(&why)),
                Some(Ok(Wish::Status)) => {
                    let snapshot = snapshot.get_or_insert_with(|| self.snapshot());
                    let level = snapshot.facts.log_level().unwrap_or(self.birth.generation.config.loglevel);
                    let master = self.birth.master.as_raw();
                    Some(control::status(snapshot, &self.birth.generations, master, level))
                }
                Some(Ok(Wish::Verb(verb))) => return self.pass_on(index, verb, now),
            },
        };
        if answer.is_none() && guest.client.has_ended() {
            self.guests[index].client.forget();
        }
        answer
    }

    /// Tells the master, and lets the client wait. An answer means that this failed.
    fn pass_on(&mut self, index: usize, verb: Verb, now: Instant) -> Option<Vec<u8>> {
        self.asked += 1;
        // No other monitor, of this master or of its life before, has given out the same.
        let ticket = (u64::from(std::process::id()) << 32) | (self.asked & 0xffff_ffff);
        if let Err(error) = self.birth.channel.send(&verb.encode(ticket), &[]) {
            return Some(control::failed(&format!("cannot tell the master: {error}; try again")));
        }
        let guest = &mut self.guests[index];
        guest.waiting = Some(Waiting { ticket, verb, patience: now + PATIENCE });
        guest.client.wait_until(now + LONGEST_WAIT);
        None
    }

    /// What has come of a verb; none as long as it is not known.
    fn outcome(&self, waiting: Waiting, now: Instant) -> Option<Vec<u8>> {
        let facts = self.birth.scoreboard.facts();
        let Some(number) = facts.ticket(waiting.ticket) else {
            let late = now >= waiting.patience;
            return late.then(|| control::failed("the master has not answered; its log may say why"));
        };
        match waiting.verb {
            Verb::Workers(_) => Some(control::done(&format!("{number} workers are wanted"))),
            Verb::LogLevel(level) => Some(control::done(&format!("logging from {} on", level.as_str()))),
            Verb::Stop => Some(control::done("the server stops")),
            Verb::Reload => match facts.verdict(number) {
                Some(verdict) => Some(control::reloaded(&verdict)),
                None if facts.state() == ServerState::Serving => None,
                None => Some(control::failed("Reload refused: the server is stopping")),
            },
        }
    }

    fn snapshot(&self) -> Snapshot {
        let queue = |watched: &Watched| {
            let (waiting, room) = tcp::accept_queue(watched.fd.as_fd())
                .or_else(|| unix_diag::accept_queue(watched.fd.as_fd()))?;
            Some(Queue { address: watched.address.clone(), waiting, room })
        };
        Snapshot::take(&self.birth.scoreboard, self.watched.iter().filter_map(queue).collect())
    }
}

/// The pages there are.
fn page(path: &str, head_only: bool, snapshot: &Snapshot) -> Vec<u8> {
    const TEXT: &str = "text/plain; charset=utf-8";
    match path {
        "/livez" => http::answer(Status::Ok, TEXT, "ok\n", head_only),
        "/readyz" => match snapshot.unready() {
            None => http::answer(Status::Ok, TEXT, "ok\n", head_only),
            Some(why) => http::answer(Status::ServiceUnavailable, TEXT, &format!("{why}\n"), head_only),
        },
        "/metrics" => http::answer(Status::Ok, metrics::KIND, &metrics::page(snapshot), head_only),
        _ => http::answer(Status::NotFound, TEXT, "there are /livez, /readyz and /metrics\n", head_only),
    }
}
