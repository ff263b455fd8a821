//! The master: one thread, one loop, one place to sleep.
//!
//! Owns the processes, the listening sockets and the generations, and does what the roster and the reload decide.
//! Does not own what a signal means (`arbiter/signals.rs`), the reload (`arbiter/reload.rs`), or who is to be spawned, drained and killed
//! ([`crate::roster`]).
//!
//! What a newcomer would get wrong: the master never runs plugin code, never opens a library or a configuration file,
//! never resolves a name and never reads from the network. What needs any of these is a child's work, so that nothing
//! an operator deploys can stop the loop that would repair it.

mod group;
mod hooks;
mod impaired;
mod monitors;
mod preload;
mod reexec;
mod reload;
mod signals;
mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::{Config, Sources};
use crate::error::{EXIT_SETTINGS, StartError};
use crate::generation::Generation;
use crate::image::{self, RuntimeDir};
use crate::inherit::Inheritance;
use crate::listener::Listener;
use crate::logging;
use crate::oom::OomCounter;
use crate::pidfile::Pidfile;
use crate::probe::{Refusal, account};
use crate::roster::{Action, Roster, Timeouts, Was};
use crate::runtime::Inherited;
use crate::scoreboard::{Command, ExitReason, Scoreboard, SlotWriter};
use crate::settings::MAX_WORKERS;
use crate::sys::fd::{self, Channel, EventFd, Watch};
use crate::sys::signal::{self, Signal, SignalQueue};
use crate::sys::wait::{self, Ended};
use crate::sys::{Pid, fork};
use crate::systemd::ServiceManager;
use crate::watch::Watcher;
use crate::worker::{self, Birth};
use hooks::{Attendants, HOOK_PROCESSES, Question};
use impaired::Impaired;
use monitors::Monitors;
use preload::{TEMPLATES, Templates};
use reexec::Kin;
use reload::Reload;

/// The scoreboard's slot for the probe, behind those of the workers: as many as can be wanted, and as many again that
/// drain.
const PROBE_SLOT: usize = 2 * MAX_WORKERS as usize;

/// A generation, and the sockets that its workers listen on, in the order of `--bind`.
#[derive(Debug)]
struct Held {
    generation: Generation,
    listeners: Vec<Rc<Listener>>,
    /// The images, open: whoever removes the directory they lie in (a deploy that tidies old releases) does not take
    /// them from workers that are still to be spawned.
    images: Vec<(PathBuf, File)>,
    /// The directory that workers enter, for the same reason.
    directory: Option<File>,
}

/// What the master holds for one worker, beside what the roster knows.
#[derive(Debug)]
struct Child {
    slot: usize,
    age: u64,
    generation: u64,
    /// Written when the command word in the slot has changed.
    command: EventFd,
    /// The last word that was written there.
    told: Command,
    /// It was aborted for not being ready in time.
    late: bool,
    /// It was killed because it was to leave; its death is no news.
    dismissed: bool,
    /// The master has sent it a KILL, for whatever reason.
    killed: bool,
    /// It was aborted for its silence.
    silent: bool,
    /// It has asked to be replaced.
    retiring: bool,
}

/// How the master ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    /// Serving goes on until then, while readiness fails already (TERM with `drain_delay`).
    Delayed(Instant),
    /// Workers finish what they have (TERM).
    Graceful,
    /// Workers leave at once (INT, QUIT, or a second TERM).
    Quick,
}

/// Why the loop has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The server was stopped.
    Stopped,
    /// Nothing was served yet: the configuration wants a daemon. Begin again as one.
    Detach,
}

/// The master.
#[derive(Debug)]
pub struct Arbiter {
    sources: Sources,
    inheritance: Rc<Inheritance>,
    signals: SignalQueue,
    scoreboard: Scoreboard,
    /// Workers write an octet when something on the scoreboard changed.
    wake: (OwnedFd, OwnedFd),
    roster: Roster,
    children: BTreeMap<i32, Child>,
    generations: BTreeMap<u64, Held>,
    /// The generation that serves; 0 before the first does.
    serving: u64,
    /// The newest generation number that was handed out.
    newest: u64,
    ages: u64,
    reload: Reload,
    monitors: Monitors,
    templates: Templates,
    attendants: Attendants,
    runtime_dir: Option<RuntimeDir>,
    /// Runtime directories that are not where they were made: renamed with the release they lie in, or removed.
    moved_dirs: Vec<RuntimeDir>,
    pidfile: Option<Pidfile>,
    oom: OomCounter,
    /// Since `--reload` was first asked for.
    watcher: Option<Watcher>,
    kin: Kin,
    service: ServiceManager,
    impaired: Impaired,
    stopping: Option<Stopping>,
    /// Why the program ends with an error: only the first start sets it.
    failure: Option<StartError>,
}

impl Arbiter {
    /// Master: takes the process over: signals come from a queue from now on. They must be blocked already.
    ///
    /// # Errors
    /// No descriptor or no memory, which nothing could be served without.
    ///
    /// `launcher` waits for the outcome of the first start, and says that the process is a daemon already.
    pub fn start(
        sources: Sources,
        inheritance: Rc<Inheritance>,
        launcher: Option<Rc<Channel>>,
    ) -> Result<Self, StartError> {
        logging::start();
        let fail =
            |error: io::Error| StartError::new(EXIT_SETTINGS, format!("cannot set up the master: {error}"));
        let (reader, writer) = fd::pipe().map_err(fail)?;
        fd::set_nonblocking(&reader).map_err(fail)?;
        fd::set_nonblocking(&writer).map_err(fail)?;
        let scoreboard = Scoreboard::new(PROBE_SLOT + 1 + TEMPLATES + HOOK_PROCESSES).map_err(fail)?;
        logging::count_dropped(scoreboard.facts().dropped_lines());
        logging::count_lines(scoreboard.facts().lines());
        let kin = Kin::new(&inheritance, launcher).map_err(fail)?;
        Ok(Self {
            kin,
            service: ServiceManager::from_environment(),
            sources,
            inheritance,
            signals: SignalQueue::new().map_err(fail)?,
            scoreboard,
            wake: (reader, writer),
            roster: Roster::new(PROBE_SLOT),
            children: BTreeMap::new(),
            generations: BTreeMap::new(),
            serving: 0,
            newest: 0,
            ages: 0,
            reload: Reload::default(),
            monitors: Monitors::default(),
            templates: Templates::default(),
            attendants: Attendants::default(),
            runtime_dir: None,
            moved_dirs: Vec::new(),
            pidfile: None,
            oom: OomCounter::open(),
            watcher: None,
            impaired: Impaired::default(),
            stopping: None,
            failure: None,
        })
    }

    /// Master: starts, supervises, reloads, stops.
    ///
    /// # Errors
    /// The first start failed: the sentence and exit code. Later mishaps are logged, and the loop goes on.
    pub fn run(mut self) -> Result<Finished, StartError> {
        self.begin_reload(Instant::now());
        loop {
            let now = Instant::now();
            self.handle_signals(now);
            self.end_delay(now);
            self.hear_templates(now);
            self.reap(now);
            self.hear_workers(now);
            self.watch_files(now);
            self.hear_monitors(now);
            self.step_reload(now);
            self.hear_kin(now);
            // Before any worker is told to leave: who asks must not find fewer of them and no reason.
            self.publish_facts();
            // Hooks are told of a generation before its first worker is forked.
            self.step_hooks(now);
            self.manage(now);
            self.step_templates(now);
            self.keep_monitor(now);
            self.retire_unused();
            self.tell_service_manager(now);
            if self.is_over() {
                return self.halt();
            }
            self.sleep();
        }
    }

    /// The only place that waits: for a signal, a worker, the probe, a file, or the nearest deadline.
    fn sleep(&self) {
        let mut watches = vec![Watch::readable(self.signals.as_fd()), Watch::readable(self.wake.0.as_fd())];
        // A closed channel would be readable for ever; how its owner ended comes with CHLD.
        let probe = self.reload.probe().filter(|probe| !probe.is_closed());
        watches.extend(probe.map(|probe| Watch::readable(probe.as_fd())));
        watches.extend(self.watcher().map(|watcher| Watch::readable(watcher.as_fd())));
        let files = self.watcher().and_then(Watcher::deadline);
        let delay = match self.stopping {
            Some(Stopping::Delayed(until)) => Some(until),
            None | Some(Stopping::Graceful | Stopping::Quick) => None,
        };
        watches.extend(self.monitors.watches());
        watches.extend(self.kin.watches());
        watches.extend(self.templates.watched().map(|template| Watch::readable(template.as_fd())));
        watches.extend(self.attendants.watched().map(Watch::readable));
        let deadlines = [
            self.roster.next_deadline(),
            self.reload.deadline(),
            self.templates.deadline(),
            self.attendants.deadline(),
            self.monitors.deadline(),
            self.kin.deadline(),
            self.service.deadline(),
            delay,
            files,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        if !self.impaired.pauses() {
            let Err(error) = fd::poll(&mut watches, deadline) else { return };
            self.impaired.by("wait for events", &error, Instant::now());
        }
        // Whatever happens, the loop must not become a busy one.
        #[expect(clippy::disallowed_methods, reason = "poll(2) itself has failed, or would not wait")]
        std::thread::sleep(impaired::PAUSE);
    }

    /// Learns who died. One CHLD may stand for many.
    fn reap(&mut self, now: Instant) {
        let mut reaped = false;
        while let Some((pid, ended)) = wait::reap() {
            if let Some(child) = self.children.remove(&pid.as_raw()) {
                self.worker_died(pid, &child, ended, now);
            } else if !self.probe_died(pid, ended, now)
                && !self.monitor_died(pid, ended, now)
                && !self.successor_died(pid, ended)
                && !self.template_died(pid, ended, now)
                && !self.hook_process_died(pid, ended, now)
                && !self.templates.died_early(pid, ended)
            {
                // As PID 1 of a container the master inherits whoever lost a parent.
                log::debug!("reaped process {pid}, no child of this master: {ended}");
            }
            reaped = true;
        }
        if reaped {
            self.oom.settle();
        }
    }

    fn worker_died(&mut self, pid: Pid, child: &Child, ended: Ended, now: Instant) {
        let account = self.account(child, ended);
        let message = self.scoreboard.view(child.slot).message();
        self.scoreboard.release(child.slot);
        self.tell_child_exit(pid, child, ended);
        let was = self.roster.died(pid, now);
        self.scoreboard.facts().count_exit(exit_reason(child, was, ended));
        if was == Was::Serving {
            self.rouse_others();
        }
        if was == Was::Booting {
            let refusal = Refusal::not_ready(message, ended, child.late, &account);
            let why = refusal.sentence;
            if !self.new_worker_failed(child.generation, &why, refusal.exit_code, now) {
                log::error!("Worker (pid:{pid}) failed to boot: {why}");
            }
            return;
        }
        match (ended, message) {
            (Ended::Killed { .. }, _) if child.dismissed => log::debug!("Worker (pid:{pid}) is gone"),
            (Ended::Exited(code), Some(message)) => {
                log::error!("Worker (pid:{pid}) exited with code {code}: {message} ({account})");
            }
            (Ended::Exited(0), None) if was == Was::Leaving => log::debug!("Worker (pid:{pid}) has left"),
            (Ended::Exited(0), None) => {
                log::warn!("Worker (pid:{pid}) has left without having been told to by the master")
            }
            (Ended::Exited(code), None) => {
                log::error!("Worker (pid:{pid}) exited with code {code} ({account})")
            }
            (Ended::Killed { signal, .. }, message) => {
                let last_words = message.map(|message| format!(" {message}")).unwrap_or_default();
                log::error!("Worker (pid:{pid}) was sent {}!{last_words} ({account})", signal::name(signal));
            }
        }
    }

    /// Makes every worker look at its listeners. The kernel wakes one worker for a connection, and that may have been
    /// the one that died with it still queued; nobody else would look before its next tick.
    fn rouse_others(&self) {
        for (pid, child) in self.children.iter().filter(|(_, child)| child.told == Command::Run) {
            if let Err(error) = child.command.notify() {
                log::error!("cannot wake worker (pid:{pid}): {error}");
            }
        }
    }

    /// Who a dead worker was, and what it was doing.
    fn account(&mut self, child: &Child, ended: Ended) -> String {
        use std::fmt::Write;
        let view = self.scoreboard.view(child.slot);
        let generation = self.generations.get(&child.generation).map(|held| &held.generation);
        let mut text = account(&view, ended, child.generation, child.age, generation);
        if let Some(request) = view.current_request() {
            // Writing to a String cannot fail.
            let _ = write!(text, ", in {}", request.account());
        }
        if !child.killed {
            text.push_str(self.lack_of_memory(ended));
        }
        text
    }

    /// What is to be said of a death that the master did not cause, if the kernel counts it as one for want of memory.
    fn lack_of_memory(&mut self, ended: Ended) -> &'static str {
        let is_kill = matches!(ended, Ended::Killed { signal, .. } if signal == Signal::SIGKILL as i32);
        if is_kill && self.oom.claim() {
            ", out of memory: the kernel counts one more such kill in this control group"
        } else {
            ""
        }
    }

    /// Learns what workers have published since the last turn: who is ready, and who is alive.
    fn hear_workers(&mut self, now: Instant) {
        let mut octets = [0; 256];
        while matches!(nix::unistd::read(&self.wake.0, &mut octets), Ok(count) if count == octets.len()) {}
        let mut ready = Vec::new();
        for (pid, child) in &mut self.children {
            let view = self.scoreboard.view(child.slot);
            let pid = Pid::from_raw(*pid);
            self.roster.heartbeat(pid, fd::instant_of(view.heartbeat()));
            child.retiring |= view.is_stuck() || view.is_retiring();
            if view.is_stuck() {
                self.roster.retire(pid);
            } else if view.is_retiring() {
                self.roster.ask_to_retire(pid);
            }
            if child.told == Command::Wait && view.is_ready() {
                ready.push(pid);
            }
        }
        for pid in ready {
            if self.roster.ready(pid, now) {
                self.worker_is_ready(pid, now);
            }
        }
    }

    /// A worker has become ready: it may begin, unless it is the one that a reload waits for.
    fn worker_is_ready(&mut self, pid: Pid, now: Instant) {
        let generation = self.children.get(&pid.as_raw()).map_or(0, |child| child.generation);
        if self.first_worker_is_ready(generation, now) {
            self.tell(pid, Command::Run, 0);
            // Its silence begins here and not with this turn, which may have taken long: until now it could only wait.
            self.roster.heartbeat(pid, Instant::now());
        }
    }

    /// Does what the roster decides.
    fn manage(&mut self, now: Instant) {
        for action in self.roster.manage(now) {
            match action {
                Action::Spawn { generation, slot } => self.spawn_worker(generation, slot, now),
                Action::Drain(pid) => {
                    let generation = self.children.get(&pid.as_raw()).map_or(0, |child| child.generation);
                    let removed = self.removed_listeners(generation);
                    self.tell(pid, Command::Drain, removed);
                }
                Action::Stop(pid) => {
                    let generation = self.children.get(&pid.as_raw()).map_or(0, |child| child.generation);
                    self.tell(pid, Command::Drain, self.own_listeners(generation));
                }
                Action::Halt(pid) => self.halt_worker(pid),
                Action::Abort(pid) => self.abort_worker(pid),
                Action::Kill(pid) => self.kill_worker(pid),
            }
        }
    }

    /// Forks a worker, unless a hook is to be heard before.
    fn spawn_worker(&mut self, generation: u64, slot: usize, now: Instant) {
        self.ages += 1;
        let age = self.ages;
        if !self.ask_hooks(generation, Question::Fork { slot, age }, now) {
            self.fork_worker(generation, slot, age, now);
        }
    }

    fn fork_worker(&mut self, generation: u64, slot: usize, age: u64, now: Instant) {
        let Some(held) = self.generations.get(&generation) else {
            log::error!("generation {generation} is to be spawned, but is gone");
            self.roster.spawn_failed(slot, now);
            return;
        };
        if held.generation.config.preload {
            self.order_worker(generation, slot, age, now);
            return;
        }
        let forked = EventFd::new().and_then(|command| {
            let birth = self.birth(held, self.scoreboard.claim(slot, age, generation), age);
            let pid = fork::fork(|| worker::live(&birth, &command))?;
            Ok((pid, command))
        });
        match forked {
            Ok((pid, command)) => {
                self.scoreboard.view(slot).set_pid(pid);
                self.scoreboard.facts().count_spawn();
                self.roster.spawned(slot, pid, now);
                self.children.insert(
                    pid.as_raw(),
                    Child {
                        slot,
                        age,
                        generation,
                        command,
                        told: Command::Wait,
                        late: false,
                        dismissed: false,
                        killed: false,
                        silent: false,
                        retiring: false,
                    },
                );
            }
            Err(error) => {
                self.scoreboard.release(slot);
                log::error!("cannot fork a worker: {error}; trying again");
                self.roster.spawn_failed(slot, now);
            }
        }
    }

    /// What a worker, or a template, of a generation gets from the master.
    fn birth<'m>(&'m self, held: &'m Held, slot: SlotWriter, age: u64) -> Birth<'m> {
        let listeners = held
            .listeners
            .iter()
            .map(|listener| Inherited {
                fd: listener.as_fd().as_raw_fd(),
                address: listener.actual().clone(),
                foreign: !listener.is_ours(),
            })
            .collect();
        Birth {
            generation: &held.generation,
            age,
            slot,
            listeners,
            wake_master: &self.wake.1,
            images: held.images.iter().map(|(copy, file)| (copy.clone(), file.as_raw_fd())).collect(),
            directory: held.directory.as_ref().map(AsFd::as_fd),
            keep: self.runtime_dir.iter().flat_map(RuntimeDir::descriptors).collect(),
            master: nix::unistd::getpid(),
        }
    }

    /// Tells a worker what to do. The word first, then the descriptor that makes it look.
    fn tell(&mut self, pid: Pid, command: Command, must_empty: u64) {
        let Some(child) = self.children.get_mut(&pid.as_raw()) else { return };
        let view = self.scoreboard.view(child.slot);
        // One that was never let go has no queue to empty: its sockets may not even listen.
        let must_empty = if child.told == Command::Wait { 0 } else { must_empty };
        view.set_must_empty(must_empty);
        view.set_command(command);
        child.told = command;
        if let Err(error) = child.command.notify() {
            log::error!("cannot tell worker (pid:{pid}) to {command:?}: {error}");
        }
    }

    fn abort_worker(&mut self, pid: Pid) {
        let Some(child) = self.children.get_mut(&pid.as_raw()) else { return };
        let view = self.scoreboard.view(child.slot);
        if view.is_ready() {
            let doing = view.current_request().map_or_else(
                || format!(" while {}", view.stage()),
                |request| format!(" in {}", request.account()),
            );
            child.silent = true;
            self.scoreboard.facts().count_timeout();
            logging::critical(format_args!("WORKER TIMEOUT (pid:{pid}){doing}"));
        } else {
            // Said when it is dead, by the reload if it was the reload's.
            child.late = true;
        }
        self.send(pid, Signal::SIGABRT);
    }

    /// Tells a worker to leave at once: because all shall, or because its time to drain is over.
    fn halt_worker(&mut self, pid: Pid) {
        let Some(child) = self.children.get(&pid.as_raw()) else { return };
        if child.told == Command::Drain && self.stopping != Some(Stopping::Quick) {
            let view = self.scoreboard.view(child.slot);
            let doing = view.current_request().map(|request| format!(", in {}", request.account()));
            let doing = doing.unwrap_or_default();
            log::warn!("Worker (pid:{pid}) did not leave within graceful_timeout{doing}: it must leave now");
        }
        self.tell(pid, Command::Halt, 0);
    }

    fn kill_worker(&mut self, pid: Pid) {
        let Some(child) = self.children.get_mut(&pid.as_raw()) else { return };
        // One that still boots is killed without having been told: it serves nobody.
        child.dismissed = !child.late && (child.told != Command::Run);
        child.killed = true;
        self.send(pid, Signal::SIGKILL);
    }

    fn send(&self, pid: Pid, signal: Signal) {
        // Only children of ours that were not reaped yet are in the map, so the number cannot be somebody else's.
        if !self.children.contains_key(&pid.as_raw()) {
            return;
        }
        if let Err(error) = signal::send(pid, signal) {
            log::error!("cannot send {signal} to worker (pid:{pid}): {error}");
        }
    }

    /// Drops generations that no process uses any more: their sockets close, their images go.
    fn retire_unused(&mut self) {
        let mut used: BTreeSet<u64> = self.children.values().map(|child| child.generation).collect();
        used.insert(self.serving);
        used.extend(self.reload.generation());
        used.extend(self.templates.generations());
        used.extend(self.attendants.generations());
        let unused: Vec<u64> =
            self.generations.keys().copied().filter(|number| !used.contains(number)).collect();
        for number in unused {
            let Some(held) = self.generations.remove(&number) else { continue };
            log::debug!("generation {number} is retired");
            close_unshared(held.listeners);
            if let Err(error) = image::remove_generation(&held.generation.directory) {
                let directory = held.generation.directory.display();
                log::warn!("cannot remove the images of generation {number} in {directory}: {error}");
            }
        }
    }

    /// The configuration in force; none before the first generation serves.
    fn config(&self) -> Option<&Config> {
        self.generations.get(&self.serving).map(|held| &held.generation.config)
    }

    fn timeouts(config: &Config) -> Timeouts {
        Timeouts {
            timeout: config.timeout,
            boot: config.boot_timeout,
            graceful: config.graceful_timeout,
            recycle: config.recycle_interval,
        }
    }

    // -----------------------------------------------------------------------------------------------------------
    // The end.

    /// Begins to stop, or hurries when it is stopping already.
    fn stop(&mut self, how: Stopping, now: Instant) {
        let before = self.stopping;
        let delay = self.config().map_or(Duration::ZERO, |config| config.drain_delay);
        let next = match (self.stopping, how) {
            (None, Stopping::Graceful) if !delay.is_zero() => Stopping::Delayed(now + delay),
            (None | Some(Stopping::Delayed(_)), Stopping::Graceful) => Stopping::Graceful,
            (Some(Stopping::Graceful | Stopping::Quick), Stopping::Graceful)
            | (_, Stopping::Quick | Stopping::Delayed(_)) => Stopping::Quick,
        };
        self.stopping = Some(next);
        if let Stopping::Delayed(_) = next {
            log::info!("Serving on for {} s of drain_delay, not ready any more", delay.as_secs_f64());
            self.withdraw_reload(now);
            return;
        }
        if before == Some(Stopping::Graceful) {
            log::info!("Quick shutdown requested");
        }
        self.abandon_reload(now);
        if self.stopping == Some(Stopping::Quick) {
            self.roster.halt(now);
            return;
        }
        // Let nobody new in before anybody stops accepting: what is queued then is all there will be.
        for listener in self.generations.values().flat_map(|held| &held.listeners) {
            if let Err(error) = listener.stop_new_connections() {
                log::warn!("{error}");
            }
        }
        let graceful = self.config().map_or(Duration::ZERO, |config| config.graceful_timeout);
        self.roster.stop(now + graceful);
    }

    /// The time of `drain_delay` is over: the drain begins.
    fn end_delay(&mut self, now: Instant) {
        if let Some(Stopping::Delayed(until)) = self.stopping
            && until <= now
        {
            self.stop(Stopping::Graceful, now);
        }
    }

    /// Whether no worker is to be born any more.
    fn is_ending(&self) -> bool {
        matches!(self.stopping, Some(Stopping::Graceful | Stopping::Quick)) || self.failure.is_some()
    }

    fn is_over(&self) -> bool {
        self.workers_are_gone() && self.monitors.are_gone()
    }

    fn workers_are_gone(&self) -> bool {
        (self.is_ending() || self.kin.is_to_detach())
            && self.children.is_empty()
            && !self.reload.has_probes()
            && self.templates.are_gone()
            && self.attendants.are_gone()
    }

    /// Leaves nothing behind: sockets, their files, the pid file, the images.
    fn halt(mut self) -> Result<Finished, StartError> {
        self.serving = 0;
        for (_, held) in std::mem::take(&mut self.generations) {
            close_unshared(held.listeners);
        }
        self.monitors.close();
        if let Some(pidfile) = self.pidfile.take() {
            pidfile.unlink();
        }
        for runtime_dir in self.moved_dirs.drain(..).chain(self.runtime_dir.take()) {
            runtime_dir.remove();
        }
        if let Some(heir) = self.kin.heir() {
            self.service.leave_to(heir);
        }
        match self.failure.take() {
            Some(failure) => Err(self.kin.tell_failure(failure)),
            None if self.kin.is_to_detach() && self.stopping.is_none() => Ok(Finished::Detach),
            None => {
                log::info!("Shutting down: {}", self.kin.name());
                Ok(Finished::Stopped)
            }
        }
    }
}

/// Why a worker is gone, for those who count.
fn exit_reason(child: &Child, was: Was, ended: Ended) -> ExitReason {
    match was {
        Was::Booting => ExitReason::Boot,
        _ if child.silent => ExitReason::Timeout,
        Was::Leaving if child.retiring => ExitReason::Retired,
        Was::Leaving => ExitReason::Dismissed,
        Was::Serving | Was::Unknown => match ended {
            Ended::Killed { .. } => ExitReason::Signal,
            Ended::Exited(_) => ExitReason::Exit,
        },
    }
}

/// Closes sockets; one that another generation holds too is closed with the last of them.
fn close_unshared(listeners: Vec<Rc<Listener>>) {
    for listener in listeners {
        if let Ok(listener) = Rc::try_unwrap(listener) {
            listener.close_and_unlink();
        }
    }
}
