//! The reload: a transaction from HUP to a generation that serves, or to nothing at all.
//!
//! The first start is the same transaction with nothing to fall back on: what refuses a reload ends the program there.
//!
//! | phase     | waits for                | then                                                | on failure |
//! |-----------|--------------------------|-----------------------------------------------------|------------|
//! | Idle      | HUP                      | ask the hook on_reload, or fork a probe at once     | refuse     |
//! | Asking    | the hook's answer        | fork a probe                                        | refuse     |
//! | Preparing | the probe's stage 1      | bind new addresses, let stage 2 begin               | refuse     |
//! | Binding   | a busy address, at first | bind it, let stage 2 begin                          | refuse     |
//! | Trying    | the probe's stage 2      | spawn one worker of the new generation              | refuse     |
//! | Booting   | that worker's readiness  | listen on new sockets, commit, let it serve         | refuse     |
//! | Rolling   | all workers to be new    | keep newcomers out of removed sockets, retire       | roll back  |
//!
//! Refusing changes nothing that a client can see. A HUP that comes in any other phase than Idle is remembered, and the
//! newest wins; a TERM abandons whatever phase it is.
//!
//! What a newcomer would get wrong: an address that stays keeps its very socket, since a second one bound beside it
//! would have a queue of its own to lose; and removed sockets stop newcomers only when nothing can be rolled back any
//! more, because a Unix socket's file cannot be taken back.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use rgunicorn_worker_api::abi;

use super::hooks::Question;
use super::{Arbiter, Held, PROBE_SLOT, close_unshared, group};
use crate::config::{BindAddress, Config};
use crate::error::{EXIT_SETTINGS, StartError};
use crate::generation::Generation;
use crate::image::{Image, RuntimeDir};
use crate::listener::{Listener, ListenerError};
use crate::logging;
use crate::pidfile::Pidfile;
use crate::probe::{FIRST_BOOT_TIMEOUT, Prepared, Probe, Refusal, Report, Task};
use crate::scoreboard::Outcome;
use crate::sys::signal::{self, Signal};
use crate::sys::wait::Ended;
use crate::sys::{Pid, process, title};
use crate::watch::Watcher;

/// How long a probe that is not wanted any more may take to leave.
const HANG_UP_GRACE: Duration = Duration::from_secs(1);

/// How often an address that is in use is tried at the first start, and how long between two attempts: as Gunicorn.
const BIND_ATTEMPTS: u32 = 5;
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// How far the transaction is.
#[derive(Debug, Default)]
enum Phase {
    /// There is none.
    #[default]
    Idle,
    /// The hook on_reload has been asked.
    Asking {
        /// The generation that it would be.
        generation: u64,
    },
    /// The probe reads the configuration and copies images.
    Preparing {
        /// The probe.
        probe: Probe,
    },
    /// At the first start another program has an address still: perhaps a server that is just ending.
    Binding {
        /// The probe, which waits.
        probe: Probe,
        /// The generation, without its sockets.
        held: Box<Held>,
        /// How often it was tried.
        attempts: u32,
        /// When to try again.
        next: Instant,
    },
    /// The probe loads the images.
    Trying {
        /// The probe.
        probe: Probe,
    },
    /// The first worker of the generation boots.
    Booting {
        /// The new generation.
        generation: u64,
    },
    /// Workers are replaced one by one.
    Rolling {
        /// The new generation.
        generation: u64,
    },
}

/// The reload under way, if any, and what is left of others.
#[derive(Debug, Default)]
pub(super) struct Reload {
    phase: Phase,
    /// A HUP came while one was under way.
    again: bool,
    /// Why the last one was refused or rolled back, if it was.
    refused: Option<String>,
    /// Probes that have said what they had to, or were killed, and are not reaped yet.
    spent: Vec<Probe>,
}

impl Reload {
    /// Why the last reload was refused or rolled back, if it was.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// The probe at work.
    pub(super) fn probe(&self) -> Option<&Probe> {
        match &self.phase {
            Phase::Preparing { probe } | Phase::Binding { probe, .. } | Phase::Trying { probe } => {
                Some(probe)
            }
            Phase::Idle | Phase::Asking { .. } | Phase::Booting { .. } | Phase::Rolling { .. } => None,
        }
    }

    /// Whether a probe of whatever age is still to be reaped.
    pub(super) fn has_probes(&self) -> bool {
        self.probe().is_some() || !self.spent.is_empty()
    }

    /// The generation in the making, if it was tried.
    pub(super) fn being_booted(&self) -> Option<u64> {
        match &self.phase {
            Phase::Idle
            | Phase::Asking { .. }
            | Phase::Preparing { .. }
            | Phase::Binding { .. }
            | Phase::Trying { .. } => None,
            Phase::Booting { generation } | Phase::Rolling { generation } => Some(*generation),
        }
    }

    /// Whether this is a probe of whatever age.
    pub(super) fn has_probe(&self, pid: Pid) -> bool {
        self.spent.iter().chain(self.probe()).any(|probe| probe.pid == pid)
    }

    /// When a probe must have finished. A booting worker's deadline is the roster's.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = if let Phase::Binding { next, .. } = &self.phase { Some(*next) } else { None };
        self.spent.iter().chain(self.probe()).filter_map(|probe| probe.deadline).chain(next).min()
    }

    /// The generation in the making.
    pub(super) fn generation(&self) -> Option<u64> {
        match &self.phase {
            Phase::Idle => None,
            Phase::Preparing { probe } | Phase::Binding { probe, .. } | Phase::Trying { probe } => {
                Some(probe.generation)
            }
            Phase::Asking { generation } | Phase::Booting { generation } | Phase::Rolling { generation } => {
                Some(*generation)
            }
        }
    }

    /// Whether a probe reads what is there now.
    fn is_preparing(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. })
    }

    /// Whether the hook on_reload is waited for.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Asking { .. })
    }
}

impl Arbiter {
    /// The new generation of a reload that is past refusal, and not done yet.
    pub(super) fn committed(&self) -> Option<u64> {
        match self.reload.phase {
            Phase::Rolling { generation } => Some(generation),
            Phase::Idle
            | Phase::Asking { .. }
            | Phase::Preparing { .. }
            | Phase::Binding { .. }
            | Phase::Trying { .. }
            | Phase::Booting { .. } => None,
        }
    }

    /// Begins a reload, or remembers to. A hook may be asked first.
    pub(super) fn begin_reload(&mut self, now: Instant) {
        if !matches!(self.reload.phase, Phase::Idle) {
            log::info!("A reload is under way; another one follows it");
            self.reload.again = true;
            return;
        }
        // Also of one that is refused before it is made: whoever has asked for it waits for this number's verdict.
        self.newest += 1;
        if self.ask_hooks(self.serving, Question::Reload, now) {
            self.reload.phase = Phase::Asking { generation: self.newest };
        } else {
            self.try_generation(now);
        }
    }

    /// Idle or Asking → Preparing.
    pub(super) fn try_generation(&mut self, now: Instant) {
        if let Some(gone) = self.runtime_dir.take_if(|directory| !directory.path().exists()) {
            log::warn!("The runtime directory {} is gone; images get a new one", gone.path().display());
            self.moved_dirs.push(gone);
        }
        if let Some(Err(error)) = self.watcher.as_mut().map(|watcher| watcher.begin_probe(now)) {
            self.lose_watches(&error);
        }
        let boot_timeout = self.config().map_or_else(
            || self.sources.first_boot_timeout(FIRST_BOOT_TIMEOUT),
            |config| config.boot_timeout,
        );
        let task = Task {
            sources: &self.sources,
            generation: self.newest,
            runtime_dir: self.runtime_dir.as_ref(),
            watcher: self.watcher.as_ref(),
            slot: self.scoreboard.claim(PROBE_SLOT, 0, self.newest),
            boot_timeout,
        };
        match Probe::start(&task, now) {
            Ok(probe) => self.reload.phase = Phase::Preparing { probe },
            Err(error) => {
                self.refuse(&Refusal::new(EXIT_SETTINGS, format!("cannot fork a probe: {error}")), now);
            }
        }
    }

    /// Begins a reload when a file that `--reload` watches has changed and it has been quiet since.
    pub(super) fn watch_files(&mut self, now: Instant) {
        if self.reload.is_preparing() {
            return;
        }
        let changed = match self.watcher.as_mut().map(|watcher| watcher.take(now)) {
            None | Some(Ok(None)) => return,
            Some(Ok(Some(file))) => file,
            Some(Err(error)) => return self.lose_watches(&error),
        };
        if self.stopping.is_none() && self.serving != 0 {
            log::info!("Worker reloading: {} modified", changed.display());
            self.begin_reload(now);
        }
    }

    fn lose_watches(&mut self, error: &io::Error) {
        log::error!("cannot watch files for --reload any more: {error}; send HUP instead");
        self.watcher = None;
    }

    /// The watches, if their events are of use now: what happens while a probe prepares is read when it has reported.
    pub(super) fn watcher(&self) -> Option<&Watcher> {
        self.watcher.as_ref().filter(|_| !self.reload.is_preparing())
    }

    /// Takes the reload as far as it can go now.
    pub(super) fn step_reload(&mut self, now: Instant) {
        self.hear_probe(now);
        let late = |probe: &Probe| probe.deadline.is_some_and(|deadline| deadline <= now);
        for probe in self.reload.spent.iter_mut().filter(|probe| late(probe)) {
            kill(probe);
        }
        if self.reload.probe().is_some_and(late) {
            self.refuse(&Refusal::late(&self.scoreboard.view(PROBE_SLOT)), now);
        }
        if let Phase::Binding { next, .. } = &self.reload.phase
            && *next <= now
        {
            self.bind_again(now);
        }
        if let Phase::Rolling { generation } = self.reload.phase
            && self.roster.roll_is_complete()
        {
            self.finish_reload(generation);
        }
        if matches!(self.reload.phase, Phase::Idle) && self.reload.again && self.stopping.is_none() {
            self.reload.again = false;
            self.begin_reload(now);
        }
    }

    fn hear_probe(&mut self, now: Instant) {
        loop {
            let (Phase::Preparing { probe } | Phase::Trying { probe }) = &mut self.reload.phase else {
                return;
            };
            match probe.receive() {
                Ok(None) => return,
                Ok(Some(Report::RuntimeDir(path))) => match RuntimeDir::adopt(&path) {
                    Ok(runtime_dir) => self.runtime_dir = Some(runtime_dir),
                    Err(error) => self.refuse(&Refusal::new(EXIT_SETTINGS, error.to_string()), now),
                },
                Ok(Some(Report::Prepared(prepared))) => self.prepared(*prepared, now),
                Ok(Some(Report::Tried)) => self.tried(now),
                Ok(Some(Report::Refused(refusal))) | Err(refusal) => self.refuse(&refusal, now),
            }
        }
    }

    /// Preparing → Trying, or Binding: new addresses are bound, nobody listens yet.
    fn prepared(&mut self, prepared: Prepared, now: Instant) {
        let Phase::Preparing { mut probe } = std::mem::take(&mut self.reload.phase) else { return };
        // Only now is it known how long the new configuration lets a boot take.
        probe.deadline = prepared.generation.config.boot_timeout.map(|timeout| probe.started + timeout);
        if self.serving == 0 && self.kin.must_detach(&prepared.generation.config) {
            self.reload.phase = Phase::Preparing { probe };
            self.dismiss_probe(now);
            return;
        }
        // From here on, also if this generation fails: what is to be mended is what this configuration names.
        self.watcher = probe.take_watches().map(Watcher::new).or(self.watcher.take());
        if let Some(watcher) = &mut self.watcher {
            watcher.adopt(prepared.watched.clone());
        }
        match self.adopt(prepared) {
            Ok(held) => self.bind(probe, Box::new(held), 1, now),
            Err(refusal) => {
                self.reload.phase = Phase::Preparing { probe };
                self.refuse(&refusal, now);
            }
        }
    }

    /// Binding → Trying, or Binding again.
    fn bind_again(&mut self, now: Instant) {
        match std::mem::take(&mut self.reload.phase) {
            Phase::Binding { probe, held, attempts, .. } => self.bind(probe, held, attempts + 1, now),
            other => self.reload.phase = other,
        }
    }

    fn bind(&mut self, mut probe: Probe, mut held: Box<Held>, attempts: u32, now: Instant) {
        let number = probe.generation;
        match self.plan_listeners(&held.generation.config) {
            Ok(listeners) => {
                held.listeners = listeners;
                self.generations.insert(number, *held);
                if let Err(error) = probe.go() {
                    // It died after its report; what it died of comes with its wait status.
                    log::debug!("the probe of generation {number} cannot go on: {error}");
                }
                self.reload.phase = Phase::Trying { probe };
            }
            Err(error) => {
                // Only at the first start: a server that runs would rather be told at once.
                if let (Some(address), 0) = (error.busy(), self.serving) {
                    log::error!("Connection in use: {address}");
                    if attempts < BIND_ATTEMPTS {
                        log::debug!("Retrying in {} second.", BIND_PAUSE.as_secs());
                        // The probe does not use the time.
                        probe.deadline = probe.deadline.map(|deadline| deadline + BIND_PAUSE);
                        let next = now + BIND_PAUSE;
                        self.reload.phase = Phase::Binding { probe, held, attempts, next };
                        return;
                    }
                    log::error!("Can't connect to {address}");
                }
                self.reload.phase = Phase::Trying { probe };
                self.refuse(&Refusal::new(EXIT_SETTINGS, error.to_string()), now);
            }
        }
    }

    /// Takes over what stage 1 made, and the pid file at the first start. The sockets come next.
    fn adopt(&mut self, prepared: Prepared) -> Result<Held, Refusal> {
        let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
        let generation = prepared.generation;
        let config = &generation.config;
        if let Some(current) = self.config() {
            let fixed = current.fixed_differences(config);
            if !fixed.is_empty() {
                let names = fixed.join(", ");
                let why = format!(
                    "{names} cannot change while the server runs; restart it, or set the old value again"
                );
                return Err(Refusal::new(EXIT_SETTINGS, why));
            }
        }
        if let (None, Some(path)) = (&self.pidfile, self.kin.pidfile(config))
            && self.serving == 0
        {
            self.pidfile = Some(Pidfile::create(&path).map_err(|error| refuse(&error))?);
        }
        if self.serving == 0 {
            self.monitors.bind(config, &self.inheritance).map_err(|error| refuse(&error))?;
        }
        let images = open_images(&generation).map_err(|error| refuse(&error))?;
        let directory = open_directory(&generation.config.chdir);
        Ok(Held { generation, listeners: Vec::new(), images, directory })
    }

    /// The sockets of a configuration: those that serve already where the address is the same, else new ones.
    fn plan_listeners(&self, config: &Config) -> Result<Vec<Rc<Listener>>, ListenerError> {
        let serving: &[Rc<Listener>] =
            self.generations.get(&self.serving).map_or(&[], |held| held.listeners.as_slice());
        let mut kept = group::heads(serving);
        let mut keep = |address: &BindAddress| {
            let found = kept.iter().position(|listener| listener.address().kind == address.kind)?;
            Some(kept.swap_remove(found))
        };
        let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        let mut passed = self.inheritance.distribute();
        let addresses = passed.addresses(&config.bind)?;
        let mut bind = |address: &BindAddress| {
            if let Some(listener) = passed.take(address) {
                return listener;
            }
            let bind = if config.reuse_port { Listener::bind_shared } else { Listener::bind };
            let listener = bind(address, config.umask)?;
            match listener.set_access(config.umask, owner) {
                Ok(()) => Ok(listener),
                Err(error) => {
                    listener.close_and_unlink();
                    Err(error)
                }
            }
        };
        let mut listeners = Vec::with_capacity(addresses.len());
        for address in &addresses {
            let kept = match keep(address) {
                Some(kept) if kept.is_lost() => match bind(address) {
                    Ok(new) => {
                        log::warn!("the file of {new} was gone; it is bound again");
                        Some(Rc::new(new))
                    }
                    Err(error) => {
                        log::warn!("the file of {kept} is gone: {error}");
                        Some(kept)
                    }
                },
                kept => kept,
            };
            match kept.map_or_else(|| bind(address).map(Rc::new), Ok) {
                Ok(listener) => listeners.push(listener),
                Err(error) => {
                    close_unshared(listeners);
                    return Err(error);
                }
            }
        }
        if let Err(error) = group::complete(&mut listeners, serving, config) {
            close_unshared(listeners);
            return Err(error);
        }
        Ok(listeners)
    }

    /// Trying → Booting.
    fn tried(&mut self, now: Instant) {
        let Phase::Trying { mut probe } = std::mem::take(&mut self.reload.phase) else { return };
        let generation = probe.generation;
        probe.deadline = Some(now + HANG_UP_GRACE);
        self.reload.spent.push(probe);
        self.reload.phase = Phase::Booting { generation };
        let Some(held) = self.generations.get(&generation) else { return };
        let config = &held.generation.config;
        if self.serving == 0 {
            self.roster.set_workers(config.workers as usize);
            // The worker logs that it boots; whoever reads the log sees first what it belongs to.
            configure_log(config);
            log::info!("Starting rgunicorn {}", env!("CARGO_PKG_VERSION"));
        }
        self.roster.begin_roll(generation, Self::timeouts(config));
    }

    /// Learns that the probe, or one of its predecessors, has died. True if it was one.
    pub(super) fn probe_died(&mut self, pid: Pid, ended: Ended, now: Instant) -> bool {
        if self.is_spent(pid) {
            return true;
        }
        if self.reload.probe().is_none_or(|probe| probe.pid != pid) {
            return false;
        }
        // Its last words may still be in the channel, and say it better than its exit code.
        self.hear_probe(now);
        if self.is_spent(pid) {
            return true;
        }
        let view = self.scoreboard.view(PROBE_SLOT);
        let refusal = Refusal::died(&view, ended, self.lack_of_memory(ended));
        self.reload.phase = Phase::Idle;
        self.refuse(&refusal, now);
        true
    }

    /// Forgets a probe that nobody waits for any more. One that was killed in stage 1 of the first start may have made
    /// the runtime directory and said so, unheard.
    fn is_spent(&mut self, pid: Pid) -> bool {
        let Some(index) = self.reload.spent.iter().position(|spent| spent.pid == pid) else { return false };
        let mut probe = self.reload.spent.swap_remove(index);
        while let Ok(Some(report)) = probe.receive() {
            if let (Report::RuntimeDir(path), None) = (report, &self.runtime_dir) {
                // If it cannot be locked it is not ours any more, and the next start judges it.
                self.runtime_dir = RuntimeDir::adopt(&path).ok();
            }
        }
        true
    }

    /// Booting → Rolling, if this is the worker that a reload waits for. Returns whether the worker may serve.
    pub(super) fn first_worker_is_ready(&mut self, generation: u64, now: Instant) -> bool {
        let Phase::Booting { generation: awaited } = self.reload.phase else { return true };
        if awaited != generation {
            return true;
        }
        if let Err(error) = self.commit(generation) {
            self.refuse(&Refusal::new(EXIT_SETTINGS, error.to_string()), now);
            return false;
        }
        self.reload.phase = Phase::Rolling { generation };
        self.roster.open_roll();
        true
    }

    /// The point of no refusal: from here on clients see the new generation.
    fn commit(&mut self, generation: u64) -> Result<(), ListenerError> {
        let Some(held) = self.generations.get(&generation) else { return Ok(()) };
        let before = self.generations.get(&self.serving);
        let kept = |listener: &Rc<Listener>| {
            before.is_some_and(|before| before.listeners.iter().any(|old| Rc::ptr_eq(old, listener)))
        };
        let config = &held.generation.config;
        // What can fail comes first: the backlog of a socket that listens already can always be changed.
        for listener in held.listeners.iter().filter(|listener| !kept(listener)) {
            listener.listen(config.backlog)?;
        }
        // A socket that was another user's becomes the master's again when the setting goes.
        let identity = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        let owner = Some(identity.unwrap_or_else(process::identity));
        for listener in held.listeners.iter().filter(|listener| kept(listener)) {
            listener.listen(config.backlog)?;
            if let Err(error) = listener.set_access(config.umask, owner) {
                log::warn!("{error}");
            }
        }
        let first = self.serving == 0;
        if first {
            self.serving = generation;
            self.inheritance.settle();
        }
        self.apply(generation);
        if first {
            self.tell_hooks(abi::HOOK_WHEN_READY, &[]);
            if let Some(held) = self.generations.get(&generation) {
                let pid = std::process::id();
                for listener in group::heads(&held.listeners) {
                    log::info!("Listening at: {listener} ({pid})");
                }
                log::info!("Using worker: {}", held.generation.class_name());
            }
            self.monitors.announce();
            if self.sources.has_gunicorns_words {
                log::warn!("GUNICORN_CMD_ARGS is not read; write its words into RGUNICORN_CMD_ARGS");
            }
        }
        if let Some(config) = self.generations.get(&generation).map(|held| &held.generation.config)
            && config.worker_class.is_for_threads()
        {
            let threads = config.setting_text("threads").unwrap_or_default();
            log::info!("'sync' has no threads: with --threads {threads} it stands for 'threaded'");
        }
        Ok(())
    }

    /// Puts in force what the master itself does by the configuration of a generation. The worker count goes back to
    /// what is configured, whatever TTIN and TTOU have made of it.
    fn apply(&mut self, generation: u64) {
        let Some(held) = self.generations.get(&generation) else { return };
        let config = &held.generation.config;
        configure_log(config);
        title::set(title::Role::Master, &config.proc_name);
        self.roster.set_timeouts(Self::timeouts(config));
        self.roster.set_workers(config.workers as usize);
        self.scoreboard.facts().set_log_level(None);
        self.rouse_others();
        let renamed = match (&mut self.pidfile, &self.kin.pidfile(config)) {
            (Some(pidfile), Some(path)) if pidfile.path() != path => pidfile.rename(path),
            (None, Some(path)) => Pidfile::create(path).map(|pidfile| self.pidfile = Some(pidfile)),
            (Some(_), Some(_)) | (None, None) => Ok(()),
            (Some(_), None) => {
                if let Some(pidfile) = self.pidfile.take() {
                    pidfile.unlink();
                }
                Ok(())
            }
        };
        if let Err(error) = renamed {
            log::error!("{error}");
        }
    }

    /// Rolling → Idle: all workers are new.
    fn finish_reload(&mut self, generation: u64) {
        self.reload.phase = Phase::Idle;
        let before = std::mem::replace(&mut self.serving, generation);
        if before == generation {
            self.scoreboard.facts().set_verdict(generation, Outcome::Done, "Started");
            return; // The first start.
        }
        for listener in self.shut_out(before) {
            log::info!("No longer listening at: {listener}");
        }
        let listeners = |number| {
            self.generations.get(&number).map(|held| group::heads(&held.listeners)).unwrap_or_default()
        };
        let old = listeners(before);
        for listener in listeners(generation) {
            if !old.iter().any(|old| Rc::ptr_eq(old, &listener)) {
                log::info!("Listening at: {listener} ({})", std::process::id());
            }
        }
        self.reload.refused = None;
        let verdict = format!("Reloaded: generation {generation} serves, generation {before} drains");
        self.scoreboard.facts().set_verdict(generation, Outcome::Done, &verdict);
        log::info!("{verdict}");
    }

    /// Keeps newcomers out of the sockets that only this generation has, and returns the first of each address.
    fn shut_out(&self, of: u64) -> Vec<Rc<Listener>> {
        let removed = self.removed(of);
        for listener in &removed {
            if let Err(error) = listener.stop_new_connections() {
                log::warn!("{error}");
            }
        }
        group::heads(&removed)
    }

    /// The sockets of a generation that the one in force, or in the making, does not have.
    fn removed(&self, of: u64) -> Vec<Rc<Listener>> {
        let newest = self.reload.generation().unwrap_or(self.serving);
        let (Some(old), Some(new)) = (self.generations.get(&of), self.generations.get(&newest)) else {
            return Vec::new();
        };
        let gone = |listener: &&Rc<Listener>| !new.listeners.iter().any(|other| Rc::ptr_eq(other, listener));
        old.listeners.iter().filter(gone).cloned().collect()
    }

    /// Which listeners a worker of this generation must empty before it leaves, as a bit for each. The queue of a socket
    /// that others hold is theirs to serve.
    pub(super) fn removed_listeners(&self, generation: u64) -> u64 {
        let removed = self.removed(generation);
        let is_removed = |listener: &Rc<Listener>| removed.iter().any(|gone| Rc::ptr_eq(gone, listener));
        self.listener_mask(generation, |listener| listener.is_ours() && is_removed(listener))
    }

    /// As [`Arbiter::removed_listeners`], when the server stops.
    pub(super) fn own_listeners(&self, generation: u64) -> u64 {
        self.listener_mask(generation, |listener| listener.is_ours())
    }

    fn listener_mask(&self, generation: u64, wanted: impl Fn(&Rc<Listener>) -> bool) -> u64 {
        let Some(held) = self.generations.get(&generation) else { return 0 };
        let chosen = held.listeners.iter().enumerate().filter(|(_, listener)| wanted(listener));
        chosen.fold(0, |mask, (index, _)| mask | 1_u64.checked_shl(index as u32).unwrap_or(0))
    }

    /// A worker of this generation died before it was ready. True if that was the reload's business, which has then
    /// said so.
    pub(super) fn new_worker_failed(
        &mut self,
        generation: u64,
        why: &str,
        exit_code: i32,
        now: Instant,
    ) -> bool {
        match self.reload.phase {
            Phase::Booting { generation: awaited } if awaited == generation => {
                self.refuse(&Refusal::new(exit_code, why), now);
                true
            }
            // At the first start there is nothing to roll back to: it is a crash loop like any other.
            Phase::Rolling { generation: new } if new == generation && self.serving != generation => {
                self.reload.phase = Phase::Idle;
                self.roster.roll_back(self.serving);
                self.apply(self.serving);
                // New workers that serve empty what these have, before they are closed with the last of them.
                self.shut_out(new);
                let verdict = format!("Reload rolled back, generation {} serves on: {why}", self.serving);
                self.scoreboard.facts().set_verdict(new, Outcome::RolledBack, &verdict);
                self.reload.refused = Some(why.to_owned());
                log::error!("{verdict}");
                true
            }
            Phase::Idle
            | Phase::Asking { .. }
            | Phase::Preparing { .. }
            | Phase::Binding { .. }
            | Phase::Trying { .. }
            | Phase::Booting { .. }
            | Phase::Rolling { .. } => false,
        }
    }

    /// Any phase before Rolling → Idle. Nothing has changed that a client could see.
    pub(super) fn refuse(&mut self, refusal: &Refusal, now: Instant) {
        let booting = matches!(self.reload.phase, Phase::Booting { .. });
        self.dismiss_probe(now);
        if booting {
            self.roster.roll_back(self.serving);
        }
        if let Some(details) = &refusal.details {
            log::debug!("{details}");
        }
        if self.serving == 0 {
            self.failure.get_or_insert_with(|| StartError::new(refusal.exit_code, refusal.sentence.clone()));
            self.roster.halt(now);
        } else {
            let (serving, why) = (self.serving, &refusal.sentence);
            let verdict = format!("Reload refused, generation {serving} serves on: {why}");
            self.scoreboard.facts().set_verdict(self.newest, Outcome::Refused, &verdict);
            log::error!("{verdict}");
            self.reload.refused = Some(refusal.sentence.clone());
        }
    }

    /// The server is about to stop, and serves on for a while: a reload that can still be refused is.
    pub(super) fn withdraw_reload(&mut self, now: Instant) {
        self.reload.again = false;
        match self.reload.phase {
            Phase::Idle | Phase::Rolling { .. } => {}
            Phase::Asking { .. }
            | Phase::Preparing { .. }
            | Phase::Binding { .. }
            | Phase::Trying { .. }
            | Phase::Booting { .. } => {
                self.refuse(&Refusal::new(EXIT_SETTINGS, "the server is about to stop"), now);
            }
        }
    }

    /// The reload ends here because the server does.
    pub(super) fn abandon_reload(&mut self, now: Instant) {
        self.reload.again = false;
        self.dismiss_probe(now);
    }

    fn dismiss_probe(&mut self, now: Instant) {
        let (mut probe, preparing) = match std::mem::take(&mut self.reload.phase) {
            Phase::Preparing { probe } => (probe, true),
            Phase::Binding { probe, .. } | Phase::Trying { probe } => (probe, false),
            Phase::Idle | Phase::Asking { .. } | Phase::Booting { .. } | Phase::Rolling { .. } => return,
        };
        // At the first start stage 1 may just be making the directory that only it knows of. It runs no code but ours,
        // and so can be asked.
        if preparing && self.runtime_dir.is_none() && probe.hang_up().is_ok() {
            probe.deadline = Some(now + HANG_UP_GRACE);
        } else {
            // Killed even after a refusal, when it is on its way out anyway: a constructor's thread may hold it.
            kill(&mut probe);
            // Images that were not taken over are in nobody's list.
            if let (Some(directory), false) =
                (&self.runtime_dir, self.generations.contains_key(&probe.generation))
            {
                directory.remove_generation(probe.generation);
            }
        }
        self.reload.spent.push(probe);
    }
}

/// The log as this configuration wants it, from now on.
fn configure_log(config: &Config) {
    let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
    logging::set_style(config.log_format, config.syslog.as_ref());
    if let Err(error) = logging::configure(&config.errorlog, config.loglevel, owner) {
        log::error!("{error}");
    }
}

/// Ends a probe for good.
fn kill(probe: &mut Probe) {
    probe.deadline = None;
    if let Err(error) = signal::send(probe.pid, Signal::SIGKILL) {
        log::error!("cannot kill the probe (pid:{}): {error}", probe.pid);
    }
}

/// Opens the directory of a generation: whoever is born later finds it, whatever becomes of its path. Nothing of it is
/// read. Whether it can be entered is the workers' question: one that only they may enter is not kept.
fn open_directory(path: &Path) -> Option<File> {
    let options = OFlag::O_PATH | OFlag::O_DIRECTORY;
    File::options().read(true).custom_flags(options.bits()).open(path).ok()
}

/// Opens the private copies. Plain files that nobody writes to: nothing of them is run or mapped here.
fn open_images(generation: &Generation) -> io::Result<Vec<(PathBuf, File)>> {
    let copies = |image: &Image| {
        let neighbours = image.neighbours.iter().map(|neighbour| neighbour.copy.clone());
        neighbours.chain([image.copy.clone()]).collect::<Vec<_>>()
    };
    let open = |copy: PathBuf| match File::open(&copy) {
        Ok(file) => Ok((copy, file)),
        Err(error) => Err(io::Error::other(format!("cannot open the image {}: {error}", copy.display()))),
    };
    generation.images().flat_map(copies).map(open).collect()
}
