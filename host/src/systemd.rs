//! systemd's notify protocol: what the service manager is told, and when (sd_notify(3)).
//!
//! Owns the socket, the messages and their times. Does not own what state the server is in (`arbiter/systemd.rs`), nor
//! the sockets that systemd passes ([`crate::inherit`]). The crate sd-notify was not taken, because it waits when systemd
//! does not read.
//!
//! | the server                     | is told                                     |
//! |--------------------------------|---------------------------------------------|
//! | starts                         | EXTEND_TIMEOUT_USEC, every two seconds      |
//! | has its first worker ready     | READY                                       |
//! | begins a reload, ends it       | RELOADING with MONOTONIC_USEC, READY        |
//! | stops                          | STOPPING                                    |
//! | leaves another master behind   | MAINPID of that one, as its very last word  |
//! | was promoted                   | MAINPID of its own, READY                   |
//! | has workers that serve         | WATCHDOG, at half the interval              |
//!
//! What a newcomer would get wrong: only the main process is believed (`NotifyAccess=main`), so the one of two masters that
//! has not been promoted says nothing, and the other one names its heir at the end, not before: until then it is the one
//! that feeds the watchdog, and whose death means something.

use std::collections::VecDeque;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::sys::Pid;
use crate::sys::fd::monotonic_ns;

/// How often more time is asked for while something takes long, and how much.
const EXTENSION_PERIOD: Duration = Duration::from_secs(2);
const EXTENSION: Duration = Duration::from_secs(10);
/// When a message that the service manager had no room for is sent again, and how many are kept for it.
const AGAIN: Duration = Duration::from_millis(100);
const KEPT: usize = 16;
/// The longest status (octets).
const STATUS_LIMIT: usize = 512;

/// What the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Its first worker is not ready yet.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and makes another generation.
    Reloading,
    /// It ends.
    Stopping,
    /// It ends, and another master serves on.
    Leaving,
    /// The master that started it still speaks for the service.
    Second,
}

/// The state of the server in one turn of the loop.
#[derive(Debug, Clone)]
pub struct State {
    /// What it is doing.
    pub doing: Doing,
    /// How many reloads have begun, the first start among them.
    pub reloads: u64,
    /// Somebody serves, or nobody is to.
    pub healthy: bool,
    /// For `systemctl status`.
    pub status: String,
}

/// The service manager that started this program, if one did that wants to be told.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// What it had no room for.
    kept: VecDeque<String>,
    again: Option<Instant>,
    told: Doing,
    reloads: u64,
    status: String,
    /// Half of the watchdog's interval.
    watchdog: Option<Duration>,
    ping: Option<Instant>,
    extension: Option<Instant>,
}

impl ServiceManager {
    /// Master: learns from the environment whom to tell.
    pub fn from_environment() -> Self {
        Self::new(|name| std::env::var(name).ok(), std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()).and_then(|address| {
            open(&address)
                .inspect_err(|error| log::warn!("cannot notify the service manager at {address}: {error}"))
                .ok()
        });
        let ours = variable("WATCHDOG_PID").is_none_or(|text| text.trim() == pid.to_string());
        let interval = variable("WATCHDOG_USEC").and_then(|text| text.trim().parse().ok());
        let watchdog = interval.filter(|micros| ours && socket.is_some() && *micros > 1);
        Self {
            socket,
            kept: VecDeque::new(),
            again: None,
            told: Doing::Second,
            reloads: 1,
            status: String::new(),
            watchdog: watchdog.map(|micros| Duration::from_micros(micros) / 2),
            ping: None,
            extension: None,
        }
    }

    /// Whether anybody is told anything.
    pub fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// Master: tells what has changed. Call it once a turn.
    pub fn turn(&mut self, state: &State, now: Instant) {
        if self.socket.is_none() {
            return;
        }
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            for message in std::mem::take(&mut self.kept) {
                self.send(message, now);
            }
        }
        if state.doing == Doing::Second {
            return;
        }
        self.tell_changes(state, now);
        let status = printable(&state.status);
        if status != self.status {
            self.send(format!("STATUS={status}"), now);
            self.status = status;
        }
        self.ask_for_time(state.doing, now);
        if let Some(half) = self.watchdog
            && state.doing != Doing::Starting
            && self.ping.is_none_or(|ping| ping <= now)
        {
            if state.healthy {
                self.send("WATCHDOG=1".to_owned(), now);
            }
            self.ping = Some(now + half);
        }
    }

    fn tell_changes(&mut self, state: &State, now: Instant) {
        let before = std::mem::replace(&mut self.told, state.doing);
        let first = matches!(before, Doing::Second | Doing::Starting);
        let another = std::mem::replace(&mut self.reloads, state.reloads) != state.reloads && !first;
        match state.doing {
            Doing::Serving | Doing::Reloading if first => {
                if before == Doing::Second {
                    // Superfluous unless another master was the main process before.
                    self.send(format!("MAINPID={}\nREADY=1", std::process::id()), now);
                } else {
                    self.send("READY=1".to_owned(), now);
                }
                if state.doing == Doing::Reloading {
                    self.send(reloading(), now);
                }
            }
            Doing::Serving | Doing::Reloading => {
                // One may have ended and the next begun in the same turn, or one have come and gone.
                if before == Doing::Reloading && (another || state.doing == Doing::Serving) {
                    self.send("READY=1".to_owned(), now);
                }
                if another {
                    self.send(reloading(), now);
                    if state.doing == Doing::Serving {
                        self.send("READY=1".to_owned(), now);
                    }
                }
            }
            Doing::Stopping if before != Doing::Stopping => self.send("STOPPING=1".to_owned(), now),
            Doing::Starting | Doing::Stopping | Doing::Leaving | Doing::Second => {}
        }
    }

    /// What takes long is bounded by timeouts of our own (`boot_timeout`, `graceful_timeout`), not by systemd's.
    fn ask_for_time(&mut self, doing: Doing, now: Instant) {
        match (doing, self.extension) {
            (Doing::Serving | Doing::Second, _) => self.extension = None,
            (_, Some(next)) if next > now => {}
            (_, due) => {
                if due.is_some() {
                    self.send(format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()), now);
                }
                self.extension = Some(now + EXTENSION_PERIOD);
            }
        }
    }

    /// When [`ServiceManager::turn`] must be called again if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.socket.as_ref()?;
        [self.again, self.ping, self.extension].into_iter().flatten().min()
    }

    /// Master: the last word, if another master serves on. No signal of our end can overtake it: systemd reads messages
    /// first.
    pub fn leave_to(&mut self, heir: Pid) {
        self.send(format!("MAINPID={heir}"), Instant::now());
    }

    /// Sends without waiting. Messages keep their order.
    fn send(&mut self, message: String, now: Instant) {
        let Some((socket, address)) = &self.socket else { return };
        if self.kept.is_empty() {
            match socket.send_to_addr(message.as_bytes(), address) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody listens there. Whether that is a fault is not the server's to judge.
                Err(error) => {
                    log::debug!("cannot notify the service manager: {error}");
                    return;
                }
            }
        }
        self.again.get_or_insert(now + AGAIN);
        if self.kept.len() < KEPT {
            self.kept.push_back(message);
        }
    }
}

/// The time tells systemd which HUP this reload is the answer to (Type=notify-reload).
fn reloading() -> String {
    format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000)
}

fn open(address: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if address.starts_with('/') => SocketAddr::from_pathname(address)?,
        None => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name"));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// One line: what a plugin has said must not become a message of its own.
fn printable(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars() {
        if line.len() + character.len_utf8() > STATUS_LIMIT {
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    struct Systemd {
        _temp: TempDir,
        socket: UnixDatagram,
        told: ServiceManager,
        begin: Instant,
    }

    impl Systemd {
        fn new(variables: &[(&str, &str)]) -> Self {
            let temp = TempDir::new("systemd");
            let path = temp.join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_nonblocking(true).unwrap();
            let variable = |name: &str| match name {
                "NOTIFY_SOCKET" => Some(path.display().to_string()),
                _ => variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()),
            };
            let told = ServiceManager::new(variable, 77);
            Self { _temp: temp, socket, told, begin: Instant::now() }
        }

        fn heard(&self) -> Vec<String> {
            let mut messages = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(length) = self.socket.recv(&mut buffer) {
                messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            messages
        }

        /// One turn so many milliseconds after the begin; what is heard, without the status and the clock.
        fn turn(&mut self, at: u64, doing: Doing, reloads: u64, healthy: bool) -> Vec<String> {
            let state = State { doing, reloads, healthy, status: format!("{doing:?}") };
            self.told.turn(&state, self.begin + Duration::from_millis(at));
            let heard = self.heard().into_iter().filter(|message| !message.starts_with("STATUS="));
            heard.map(|message| message.split("\nMONOTONIC_USEC=").next().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn a_life_is_told_in_order_and_each_thing_once() {
        use Doing::{Reloading, Serving, Starting, Stopping};
        let nothing: [&str; 0] = [];
        let mut systemd = Systemd::new(&[]);
        assert_eq!(systemd.turn(0, Starting, 1, false), nothing);
        assert_eq!(systemd.turn(100, Serving, 1, true), ["READY=1"]);
        assert_eq!(systemd.turn(200, Serving, 1, true), nothing);
        assert_eq!(systemd.told.deadline(), None, "nobody wakes for it");
        assert_eq!(systemd.turn(300, Reloading, 2, true), ["RELOADING=1"]);
        assert_eq!(systemd.turn(400, Reloading, 2, true), nothing);
        assert_eq!(
            systemd.turn(500, Reloading, 3, true),
            ["READY=1", "RELOADING=1"],
            "the next one has begun"
        );
        assert_eq!(systemd.turn(600, Serving, 3, true), ["READY=1"]);
        assert_eq!(systemd.turn(700, Serving, 4, true), ["RELOADING=1", "READY=1"], "one came and went");
        assert_eq!(systemd.turn(800, Stopping, 4, true), ["STOPPING=1"]);
        assert_eq!(systemd.turn(900, Stopping, 4, true), nothing);
    }

    #[test]
    fn what_takes_long_asks_for_more_time() {
        let mut systemd = Systemd::new(&[]);
        let more = "EXTEND_TIMEOUT_USEC=10000000";
        for (at, expected) in [(0, &[][..]), (1999, &[]), (2000, &[more]), (3000, &[]), (4000, &[more])] {
            assert_eq!(systemd.turn(at, Doing::Starting, 1, false), expected, "{at}");
        }
        assert_eq!(systemd.turn(4100, Doing::Serving, 1, true), ["READY=1"]);
        assert_eq!(systemd.told.deadline(), None);
    }

    #[test]
    fn the_watchdog_is_fed_only_while_somebody_serves() {
        let mut systemd = Systemd::new(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "77")]);
        let ping = "WATCHDOG=1";
        assert!(systemd.turn(0, Doing::Starting, 1, true).is_empty());
        assert_eq!(systemd.turn(100, Doing::Serving, 1, true), ["READY=1", ping]);
        assert!(systemd.turn(1000, Doing::Serving, 1, true).is_empty());
        assert_eq!(systemd.turn(1100, Doing::Serving, 1, true), [ping]);
        assert!(systemd.turn(2200, Doing::Serving, 1, false).is_empty(), "nobody serves");
        assert_eq!(systemd.turn(3300, Doing::Serving, 1, true), [ping]);
        let mut another = Systemd::new(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "78")]);
        assert_eq!(another.turn(0, Doing::Serving, 1, true).len(), 1, "meant for another process");
    }

    #[test]
    fn of_two_masters_one_speaks() {
        let mut systemd = Systemd::new(&[]);
        assert!(systemd.turn(0, Doing::Second, 1, true).is_empty());
        let promoted = format!("MAINPID={}\nREADY=1", std::process::id());
        assert_eq!(systemd.turn(100, Doing::Serving, 1, true), [promoted]);
        assert!(systemd.turn(200, Doing::Leaving, 1, true).is_empty(), "the service does not stop");
        systemd.told.leave_to(Pid::from_raw(5));
        assert_eq!(systemd.heard(), ["MAINPID=5"]);
    }

    #[test]
    fn a_reader_that_is_slow_misses_nothing_and_stops_nobody() {
        let mut systemd = Systemd::new(&[]);
        systemd.turn(0, Doing::Starting, 1, true);
        let flood = UnixDatagram::unbound().unwrap();
        flood.set_nonblocking(true).unwrap();
        let (_, address) = systemd.told.socket.as_ref().unwrap();
        while flood.send_to_addr(b"x", address).is_ok() {}
        let state = |doing| State { doing, reloads: 1, healthy: true, status: "Starting".to_owned() };
        systemd.told.turn(&state(Doing::Serving), systemd.begin);
        systemd.told.turn(&state(Doing::Stopping), systemd.begin);
        assert!(systemd.told.deadline().is_some());
        assert!(!systemd.heard().iter().any(|message| message != "x"));
        systemd.told.turn(&state(Doing::Stopping), systemd.begin + AGAIN);
        assert_eq!(systemd.heard(), ["READY=1", "STOPPING=1"]);
    }

    #[test]
    fn a_status_is_one_line_and_an_abstract_name_is_found() {
        assert_eq!(printable("a\nMAINPID=1"), "a MAINPID=1");
        assert_eq!(printable(&"é".repeat(STATUS_LIMIT)).len(), STATUS_LIMIT);
        let name = format!("rg-systemd-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let variable = |asked: &str| (asked == "NOTIFY_SOCKET").then(|| format!("@{name}"));
        let mut told = ServiceManager::new(variable, 77);
        told.leave_to(Pid::from_raw(5));
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer).unwrap(), "MAINPID=5".len());
        assert!(
            !ServiceManager::new(|name| (name == "NOTIFY_SOCKET").then(|| "vsock:2:1".to_owned()), 77)
                .listens()
        );
    }
}
