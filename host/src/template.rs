//! The template: one process for each generation with `preload_app`, which loads and creates once and forks the workers.
//!
//! Owns what is said between it and the master, and the way in which a worker comes to be: the template forks a child,
//! the child forks the worker and ends, and the worker becomes the master's own child (the master is a subreaper), to
//! be waited for as any other. Does not own when a worker is wanted (`arbiter/preload.rs`), nor its life
//! ([`crate::worker`]).
//!
//! What a newcomer would get wrong: clone(2) with `CLONE_PARENT` would do the same in one step, but not through the C
//! library, whose idea of the thread's id is the parent's then. And a worker does nothing before it was told to go on,
//! which is after the master was told of it: one that the master never hears of never served anybody.
//!
//! Code of plugins has run in here, so what it says is somebody's words: the master checks that a pid is its child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::error::EXIT_APP_LOAD;
use crate::generation::Generation;
use crate::logging;
use crate::plugin;
use crate::runtime::Runtime;
use crate::scoreboard::Scoreboard;
use crate::sys::fd::{Channel, EventFd, Incoming, Watch, channel, pipe, poll, set_nonblocking};
use crate::sys::signal::{Signal, WorkerSignals};
use crate::sys::title::Role;
use crate::sys::wait::{self, Ended};
use crate::sys::{Pid, fork, process};
use crate::worker::{self, Birth, Failure, Loaded};

/// How long a thread that has been joined may still be seen in /proc.
const THREAD_GRACE: Duration = Duration::from_millis(200);
/// The longest account of a fork that failed (octets).
const ACCOUNT: usize = 256;

/// A worker that is to be forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Its slot on the scoreboard, claimed.
    pub slot: usize,
    /// Its number in order of birth.
    pub age: u64,
}

/// What the master learns from a template.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything is loaded and created.
    Ready,
    /// A worker was forked, and waits to be let go on.
    Born(Order, Pid),
    /// One could not be forked.
    Failed(Order, String),
}

/// The kind of a message, its first octet. An order follows as two numbers of eight octets each, a pid as one.
mod tag {
    pub(super) const ORDER: u8 = b'o';
    pub(super) const READY: u8 = b'r';
    pub(super) const BORN: u8 = b'b';
    pub(super) const FAILED: u8 = b'f';
}

impl Order {
    fn message(self, kind: u8) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend_from_slice(&(self.slot as u64).to_ne_bytes());
        message.extend_from_slice(&self.age.to_ne_bytes());
        message
    }

    /// The order at the beginning of a message behind its kind, and what follows it.
    fn parse(octets: &[u8]) -> Option<(Self, &[u8])> {
        let (slot, octets) = number(octets)?;
        let (age, octets) = number(octets)?;
        Some((Self { slot: usize::try_from(slot).ok()?, age }, octets))
    }
}

fn number(octets: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = octets.split_first_chunk::<8>()?;
    Some((u64::from_ne_bytes(*number), rest))
}

fn parse(message: &[u8]) -> Option<Report> {
    let (kind, octets) = message.split_first()?;
    match *kind {
        tag::READY => Some(Report::Ready),
        tag::BORN => {
            let (order, octets) = Order::parse(octets)?;
            let (pid, _) = number(octets)?;
            Some(Report::Born(order, Pid::from_raw(i32::try_from(pid).ok()?)))
        }
        tag::FAILED => {
            let (order, octets) = Order::parse(octets)?;
            let account = &octets[..octets.len().min(ACCOUNT)];
            Some(Report::Failed(order, crate::scoreboard::readable(account)))
        }
        _ => None,
    }
}

/// Master: the process, and the way to it.
#[derive(Debug)]
pub struct Template {
    /// Its process.
    pub pid: Pid,
    channel: Channel,
    closed: bool,
}

impl Template {
    /// Master: forks a template. `birth` is its own, of age 0; workers get all of it but slot and age.
    ///
    /// # Errors
    /// No descriptor, no process.
    pub fn start(birth: &Birth<'_>, scoreboard: Scoreboard) -> io::Result<Self> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking()?;
        let pid = fork::fork(|| worker::end(birth.slot, live(birth, scoreboard, &theirs)))?;
        Ok(Self { pid, channel: ours, closed: false })
    }

    /// Master: asks for a worker, who looks at its command word when `command` is written.
    ///
    /// # Errors
    /// `WouldBlock`: it has not taken earlier ones yet. `BrokenPipe`: it is gone, its wait status says why.
    pub fn order(&self, order: Order, command: &EventFd) -> io::Result<()> {
        self.channel.send(&order.message(tag::ORDER), &[command.as_fd()])
    }

    /// Master: the next report, if there is one. That it has died is learnt from its wait status, not here.
    ///
    /// # Errors
    /// What it sent is no report.
    pub fn receive(&mut self) -> io::Result<Option<Report>> {
        match self.channel.receive()? {
            Incoming::Message(message, _) => {
                let no_report = || io::Error::new(io::ErrorKind::InvalidData, "a message of an unknown kind");
                parse(&message).map(Some).ok_or_else(no_report)
            }
            Incoming::Nothing => Ok(None),
            Incoming::Closed => {
                self.closed = true;
                Ok(None)
            }
        }
    }

    /// Whether its end of the channel is closed: wait for the process, not for a report.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

impl AsFd for Template {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

// ---------------------------------------------------------------------------------------------------------------
// In the child.

/// Probe, Template: nothing may run beside this thread, or a fork would leave it out and its locks taken.
///
/// # Errors
/// One sentence that names the threads.
pub fn refuse_threads(generation: &Generation) -> Result<(), String> {
    let seen = Instant::now();
    let mut threads = fork::other_threads();
    while !threads.is_empty() && seen.elapsed() < THREAD_GRACE {
        // Nothing tells when the kernel has forgotten a thread.
        std::thread::park_timeout(Duration::from_millis(1));
        threads = fork::other_threads();
    }
    if threads.is_empty() {
        return Ok(());
    }
    let apps: Vec<String> = generation
        .mounts
        .iter()
        .map(|mount| format!("{}:{}", generation.apps[mount.image].original.display(), mount.name))
        .collect();
    Err(format!(
        "creating {} has left threads running ({}), and with preload_app workers are forked after it, without them; \
         start threads in the application's start, or switch preload_app off",
        apps.join(", "),
        threads.join(", "),
    ))
}

/// Template: loads, creates, reports, and forks what the master orders, until the master closes the channel.
fn live(birth: &Birth<'_>, scoreboard: Scoreboard, channel: &Channel) -> Result<(), Failure> {
    let system = worker::system("a template");
    let slot = birth.slot;
    let (signals, stuck) = worker::settle(birth, &[channel.as_fd().as_raw_fd()], Role::Template)?;
    plugin::note_panics(slot);
    let runtime = Runtime::for_template(birth.generation.clone(), slot)
        .map_err(|error| system("the host inside it", &error))?;
    let loaded = worker::load(runtime, &birth.images, |_| Ok(()))?;
    refuse_threads(birth.generation).map_err(|sentence| Failure { exit_code: EXIT_APP_LOAD, sentence })?;
    slot.set_stage("forking workers");
    // A panic in `create` that was survived is no account of a later death.
    plugin::log_panics();
    channel.send(&[tag::READY], &[]).map_err(|error| system("its report", &error))?;
    let nest = Nest {
        birth,
        scoreboard,
        channel,
        loaded,
        own: [signals.as_fd().as_raw_fd(), stuck.as_fd().as_raw_fd()],
    };
    loop {
        let mut watches = [Watch::readable(channel.as_fd()), Watch::readable(signals.as_fd())];
        poll(&mut watches, None).map_err(|error| system("poll", &error))?;
        let [ordered, signalled] = watches.map(|watch| watch.is_ready());
        if signalled && !obey(&signals) {
            return Ok(());
        }
        if !ordered {
            continue;
        }
        let (message, fds) = match channel.receive().map_err(|error| system("an order", &error))? {
            Incoming::Message(message, fds) => (message, fds),
            Incoming::Nothing => continue,
            Incoming::Closed => return Ok(()),
        };
        let order = message.split_first().and_then(|(_, octets)| Order::parse(octets));
        let (Some((order, _)), Some(command)) = (order, fds.into_iter().next()) else { continue };
        let answered = match nest.fork(order, EventFd::from_fd(command)) {
            Ok(()) => Ok(()),
            Err(error) => {
                let mut message = order.message(tag::FAILED);
                message.extend_from_slice(error.to_string().as_bytes());
                channel.send(&message, &[])
            }
        };
        answered.map_err(|error| system("its report", &error))?;
    }
}

/// Acts on signals that somebody sends to the template itself; false when it shall leave.
fn obey(signals: &WorkerSignals) -> bool {
    let Ok(came) = signals.take() else { return true };
    if came.contains(Signal::SIGUSR1)
        && let Err(error) = logging::reopen()
    {
        log::error!("{error}");
    }
    ![Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].into_iter().any(|signal| came.contains(signal))
}

/// What the workers are forked from.
struct Nest<'m> {
    birth: &'m Birth<'m>,
    scoreboard: Scoreboard,
    channel: &'m Channel,
    loaded: Loaded,
    /// Descriptors that mean nothing in a worker.
    own: [i32; 2],
}

impl Nest<'_> {
    /// Forks one worker, tells the master of it, then lets it go on.
    fn fork(&self, order: Order, command: EventFd) -> io::Result<()> {
        let slot = self.scoreboard.writer(order.slot).ok_or(io::ErrorKind::InvalidInput)?;
        let birth = Birth { slot, age: order.age, ..self.birth.clone() };
        // Where the child in between tells whom it has forked, and where the worker hears that it may go on.
        let (told, tell) = pipe()?;
        let (go, let_go) = pipe()?;
        set_nonblocking(&told)?;
        let ours = [told.as_raw_fd(), tell.as_raw_fd(), let_go.as_raw_fd(), self.channel.as_fd().as_raw_fd()];
        let between = fork::fork(|| {
            let born = fork::fork(|| {
                // Above all its own end of `let_go`: only then the template's death is the end of the pipe.
                if process::close(&ours).is_err() || !may_go_on(&go) {
                    return 0;
                }
                // The parent's frames are never returned to: what they hold is this process's own now.
                let _ = process::close(&self.own);
                worker::live_on(&birth, command, self.loaded.clone())
            });
            let (text, code) = match born {
                Ok(pid) => (pid.as_raw().to_string(), 0),
                Err(error) => (error.to_string(), 1),
            };
            // A pipe that is new takes this much at once.
            nix::unistd::write(&tell, text.as_bytes()).map_or(1, |_| code)
        })?;
        // Reaped, so that by now the worker has the master for a parent.
        let ended = wait::wait(between)?;
        let mut text = [0; ACCOUNT];
        let count = nix::unistd::read(&told, &mut text).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..count]);
        let pid = match (ended, text.parse::<u64>()) {
            (Ended::Exited(0), Ok(pid)) => pid,
            (Ended::Exited(1), _) => return Err(io::Error::other(text.into_owned())),
            _ => return Err(io::Error::other(format!("the process in between {ended}"))),
        };
        let mut message = order.message(tag::BORN);
        message.extend_from_slice(&pid.to_ne_bytes());
        self.channel.send(&message, &[])?;
        nix::unistd::write(&let_go, &[1])?;
        Ok(())
    }
}

/// Worker: waits for the template's word. None comes if the template, or the master, is gone.
fn may_go_on(go: &OwnedFd) -> bool {
    let mut octet = [0];
    loop {
        match nix::unistd::read(go, &mut octet) {
            Ok(count) => return count == 1,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_anything_else_is_none() {
        let order = Order { slot: 3, age: 70_000 };
        assert_eq!(parse(&[tag::READY]), Some(Report::Ready));
        let born = [order.message(tag::BORN), 4711_u64.to_ne_bytes().to_vec()].concat();
        assert_eq!(parse(&born), Some(Report::Born(order, Pid::from_raw(4711))));
        let failed = [order.message(tag::FAILED), b"no\nprocess".to_vec()].concat();
        assert_eq!(parse(&failed), Some(Report::Failed(order, "no\\nprocess".to_owned())));
        let beyond = [order.message(tag::BORN), u64::MAX.to_ne_bytes().to_vec()].concat();
        for message in [&[][..], b"x", &order.message(tag::BORN), &born[..12], &beyond] {
            assert_eq!(parse(message), None, "{message:?}");
        }
    }

    #[test]
    fn a_long_account_is_cut() {
        let order = Order { slot: 0, age: 1 };
        let failed = [order.message(tag::FAILED), vec![b'x'; 4096]].concat();
        assert_eq!(parse(&failed), Some(Report::Failed(order, "x".repeat(ACCOUNT))));
    }
}
