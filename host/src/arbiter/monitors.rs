//! The master's side of the monitor: its sockets, its life, and what the master tells the scoreboard for it.
//!
//! Owns the sockets that monitors answer on (they stay while monitors come and go), the processes, and the facts that
//! the master publishes once a turn. Does not own anything a monitor says.
//!
//! What a newcomer would get wrong: there may be several for a while. When another generation serves a new monitor is
//! forked at once, so that nobody waits, and the old one leaves when its clients are done.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Arbiter, HOOK_PROCESSES, Held, Stopping, TEMPLATES};
use crate::config::{BindAddress, BindKind, Config};
use crate::inherit::{Distribution, Inheritance};
use crate::listener::{Listener, ListenerError};
use crate::logging;
use crate::monitor::{self, Birth, word};
use crate::scoreboard::{COMPANIONS, ServerState};
use crate::sys::fd::{Channel, Incoming, Watch, channel};
use crate::sys::signal::{self, Signal};
use crate::sys::wait::Ended;
use crate::sys::{Pid, fork};
use crate::verb::Verb;

/// The queue of the monitor's own sockets.
const BACKLOG: u32 = 64;
/// What others than the owner may do with the control socket: nothing, and nobody runs it.
const OWNER_ONLY: u32 = 0o177;
/// Verbs of one monitor that are done in one turn of the loop.
const MOST_VERBS: usize = 16;
/// How long a monitor may take to leave at the end.
const GRACE: Duration = Duration::from_secs(1);
/// A monitor that dies sooner than this is not replaced before.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// All monitors, and what they need.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    health: Option<Listener>,
    control: Option<Listener>,
    current: Option<Handle>,
    /// Replaced ones that finish with their clients.
    leaving: Vec<Handle>,
    /// None is forked before.
    not_before: Option<Instant>,
}

/// One monitor.
#[derive(Debug)]
struct Handle {
    pid: Pid,
    /// Its death closes the other end; how it ended comes with CHLD.
    channel: Channel,
    generation: u64,
    born: Instant,
    /// When it is killed.
    deadline: Option<Instant>,
    /// The other end is closed.
    closed: bool,
}

impl Monitors {
    /// Master: makes the sockets, once, at the first start.
    ///
    /// # Errors
    /// An address cannot be had.
    pub(super) fn bind(&mut self, config: &Config, inheritance: &Inheritance) -> Result<(), ListenerError> {
        let mut passed = inheritance.distribute();
        if let Some(address) = &config.monitor_bind {
            let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
            self.health = Some(open(&mut passed, address, config.umask, owner)?);
        }
        if let Some(path) = &config.control_socket {
            let address =
                BindAddress { text: format!("unix:{}", path.display()), kind: BindKind::Unix(path.clone()) };
            // The master's own, also where workers are somebody else: what an application may open could stop the server.
            self.control = Some(open(&mut passed, &address, OWNER_ONLY, None)?);
        }
        Ok(())
    }

    /// Master: makes those anew whose file was removed, for the monitor that is about to be forked.
    fn restore(&mut self, config: &Config) {
        let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        for (socket, umask, owner) in
            [(&mut self.health, config.umask, owner), (&mut self.control, OWNER_ONLY, None)]
        {
            let Some(lost) = socket.as_ref().filter(|listener| listener.is_lost()) else { continue };
            match Listener::bind(lost.address(), umask).and_then(|new| make_ready(new, umask, owner)) {
                Ok(new) => {
                    log::warn!("the file of {new} was gone; it is bound again");
                    *socket = Some(new);
                }
                Err(error) => log::warn!("the file of {lost} is gone: {error}"),
            }
        }
    }

    /// Their sockets.
    pub(super) fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.health.iter().chain(&self.control)
    }

    /// Says where they answer, once the log is the configured one.
    pub(super) fn announce(&self) {
        if let Some(listener) = &self.control {
            log::info!("Control socket at: {listener} ({})", std::process::id());
        }
        if let Some(listener) = &self.health {
            // A test reads this line.
            log::info!("Monitoring at: {listener} ({})", std::process::id());
        }
    }

    /// Whether none is left to be reaped.
    pub(super) fn are_gone(&self) -> bool {
        self.current.is_none() && self.leaving.is_empty()
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = self.handles().filter_map(|handle| handle.deadline);
        deadlines.chain(self.not_before).min()
    }

    /// Closes the sockets.
    pub(super) fn close(&mut self) {
        for listener in self.health.take().into_iter().chain(self.control.take()) {
            listener.close_and_unlink();
        }
    }

    /// What to wait for. One that has died would be readable for ever.
    pub(super) fn watches(&self) -> impl Iterator<Item = Watch<'_>> {
        self.handles().filter(|handle| !handle.closed).map(|handle| Watch::readable(handle.channel.as_fd()))
    }

    /// USR1: monitors have a log, too.
    pub(super) fn reopen_logs(&self) {
        self.handles().for_each(|handle| handle.tell(word::REOPEN));
    }

    fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.leaving.iter().chain(&self.current)
    }
}

fn open(
    passed: &mut Distribution<'_>,
    address: &BindAddress,
    umask: u32,
    owner: Option<(u32, u32)>,
) -> Result<Listener, ListenerError> {
    // After USR2 the old master's monitor has it, too.
    let listener = passed.take(address).unwrap_or_else(|| Listener::bind(address, umask))?;
    make_ready(listener, umask, owner)
}

fn make_ready(listener: Listener, umask: u32, owner: Option<(u32, u32)>) -> Result<Listener, ListenerError> {
    let ready = listener.set_access(umask, owner).and_then(|()| listener.listen(BACKLOG));
    match ready {
        Ok(()) => Ok(listener),
        Err(error) => {
            listener.close_and_unlink();
            Err(error)
        }
    }
}

impl Handle {
    /// The next verb. What is none is left out, and so is everything beyond a fair number.
    fn hear(&mut self) -> Vec<(Verb, u64)> {
        let mut verbs = Vec::new();
        for _ in 0..MOST_VERBS {
            match self.channel.receive() {
                Ok(Incoming::Message(octets, _)) => match Verb::decode(&octets) {
                    Some(verb) => verbs.push(verb),
                    None => log::warn!("Monitor (pid:{}) has said something that is no verb", self.pid),
                },
                Ok(Incoming::Nothing) => return verbs,
                Ok(Incoming::Closed) | Err(_) => {
                    self.closed = true;
                    return verbs;
                }
            }
        }
        verbs
    }

    fn tell(&self, word: u8) {
        // One that is dead is reaped soon; one that does not listen is stuck, and what it missed is a word of comfort.
        if let Err(error) = self.channel.send(&[word], &[]) {
            log::debug!("cannot tell the monitor (pid:{}): {error}", self.pid);
        }
    }
}

// All of them are told of.
const _: () = assert!(TEMPLATES + HOOK_PROCESSES <= COMPANIONS);

impl Arbiter {
    /// Says on the scoreboard how far the server is.
    pub(super) fn publish_facts(&self) {
        let state = match self.stopping {
            Some(Stopping::Delayed(_)) => ServerState::Delaying,
            Some(Stopping::Graceful | Stopping::Quick) => ServerState::Stopping,
            None if self.serving == 0 || self.failure.is_some() => ServerState::Starting,
            None => ServerState::Serving,
        };
        let (wanted, failing) = (self.roster.workers() as u64, self.roster.failing() as u64);
        let facts = self.scoreboard.facts();
        facts.publish(state, self.serving, wanted, failing);
        facts.set_companions(self.templates.companions().chain(self.attendants.companions()));
    }

    /// Does what monitors ask for. Without a control socket nobody can have asked, and nothing is done.
    pub(super) fn hear_monitors(&mut self, now: Instant) {
        let monitors = &mut self.monitors;
        let handles = monitors.leaving.iter_mut().chain(&mut monitors.current);
        let verbs: Vec<_> = handles.filter(|handle| !handle.closed).flat_map(Handle::hear).collect();
        if self.monitors.control.is_none() {
            return;
        }
        for (verb, ticket) in verbs {
            let number = self.obey(verb, now);
            self.scoreboard.facts().set_ticket(ticket, number);
        }
    }

    /// Does what is asked; returns what the ticket is to say.
    fn obey(&mut self, verb: Verb, now: Instant) -> u64 {
        match verb {
            Verb::Reload => {
                log::info!("Handling control: reload");
                if self.stopping.is_some() {
                    return u64::MAX; // There is no such generation; the state says why.
                }
                // Whether it is begun now or follows another one: it is the next that begins.
                let next = self.newest + 1;
                self.begin_reload(now);
                next
            }
            Verb::Workers(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let wanted = self.roster.set_workers(count);
                log::info!("Handling control: workers {wanted}");
                wanted as u64
            }
            Verb::LogLevel(level) => {
                logging::set_level(level);
                self.scoreboard.facts().set_log_level(Some(level));
                self.rouse_others();
                self.monitors.handles().for_each(|handle| handle.tell(word::LOG_LEVEL));
                log::info!("Handling control: log-level {}", level.as_str());
                level as u64
            }
            Verb::Stop => {
                log::info!("Handling control: stop");
                if self.stopping.is_none() {
                    self.stop(Stopping::Graceful, now);
                }
                0
            }
        }
    }

    /// Sees to it that there is a monitor that knows what serves, if one is wanted, and none at the end.
    pub(super) fn keep_monitor(&mut self, now: Instant) {
        self.kill_late_monitors(now);
        if self.workers_are_gone() {
            self.dismiss_monitors(now);
            return;
        }
        let Some((generation, _)) = self.monitored() else { return };
        let Some(held) = self.generations.get(&generation) else { return };
        if self.monitors.current.as_ref().is_some_and(|current| current.generation == generation) {
            return;
        }
        let wanted = monitor::is_wanted(&held.generation.config);
        if wanted && self.monitors.not_before.is_some_and(|until| until > now) {
            return;
        }
        if wanted {
            self.monitors.restore(&held.generation.config);
        }
        let forked = wanted.then(|| self.fork_monitor(held, generation, now));
        match forked.transpose() {
            Ok(next) => {
                self.monitors.not_before = None;
                let before = std::mem::replace(&mut self.monitors.current, next);
                if let Some(before) = before {
                    before.tell(word::REPLACED);
                    self.monitors.leaving.push(before);
                }
            }
            Err(error) => {
                log::error!("cannot fork a monitor: {error}; trying again");
                self.monitors.not_before = Some(now + SHORT_LIFE);
            }
        }
    }

    /// What a monitor is to know: the generation that clients see, at the first start the one in the making.
    fn monitored(&self) -> Option<(u64, &Held)> {
        let number = match self.committed() {
            Some(committed) => committed,
            None if self.serving != 0 => self.serving,
            None => self.reload.generation()?,
        };
        self.generations.get(&number).map(|held| (number, held))
    }

    fn fork_monitor(&self, held: &Held, generation: u64, now: Instant) -> io::Result<Handle> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking()?;
        let birth = Birth {
            generation: &held.generation,
            watched: held.listeners.iter().map(Rc::as_ref).collect(),
            generations: self.generations.values().map(|held| &held.generation).collect(),
            health: self.monitors.health.as_ref(),
            control: self.monitors.control.as_ref(),
            scoreboard: self.scoreboard,
            channel: &theirs,
            master: nix::unistd::getpid(),
        };
        let pid = fork::fork(|| monitor::live(&birth))?;
        self.scoreboard.facts().count_monitor();
        Ok(Handle { pid, channel: ours, generation, born: now, deadline: None, closed: false })
    }

    /// Learns that a process has died. True if it was a monitor.
    pub(super) fn monitor_died(&mut self, pid: Pid, ended: Ended, now: Instant) -> bool {
        let monitors = &mut self.monitors;
        if let Some(index) = monitors.leaving.iter().position(|handle| handle.pid == pid) {
            monitors.leaving.swap_remove(index);
            log::debug!("Monitor (pid:{pid}) has left");
            return true;
        }
        let Some(current) = monitors.current.take_if(|handle| handle.pid == pid) else { return false };
        log::error!("Monitor (pid:{pid}) {ended}; there will be another one");
        if now.saturating_duration_since(current.born) < SHORT_LIFE {
            monitors.not_before = Some(now + SHORT_LIFE);
        }
        true
    }

    /// Tells all of them to leave, by hanging up.
    fn dismiss_monitors(&mut self, now: Instant) {
        let monitors = &mut self.monitors;
        monitors.leaving.extend(monitors.current.take());
        monitors.not_before = None;
        for handle in monitors.leaving.iter_mut().filter(|handle| handle.deadline.is_none()) {
            // Fails for one that has died, and is reaped soon.
            let _ = handle.channel.hang_up();
            handle.deadline = Some(now + GRACE);
        }
    }

    fn kill_late_monitors(&mut self, now: Instant) {
        let late = |handle: &&mut Handle| handle.deadline.is_some_and(|deadline| deadline <= now);
        for handle in self.monitors.leaving.iter_mut().filter(late) {
            handle.deadline = Some(now + GRACE);
            if let Err(error) = signal::send(handle.pid, Signal::SIGKILL) {
                log::error!("cannot kill the monitor (pid:{}): {error}", handle.pid);
            }
        }
    }
}
