//! The hooks of the master's moments, which run in a process beside it.
//!
//! Owns the hook processes, who is told of what, and the one question that is asked, whether a reload may begin. Does
//! not own running a hook ([`crate::hook_process`]). Events go to the process of the generation that serves; as long as
//! it is not there, or is too far behind, they are dropped, and that is said once.
//!
//! What a newcomer would get wrong: a hook must never be able to stop the deploy that would repair it. So one that does
//! not answer in time, or dies, has not refused.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rgunicorn_worker_api::abi;

use super::preload::TEMPLATES;
use super::{Arbiter, Child, PROBE_SLOT};
use crate::error::EXIT_APP_LOAD;
use crate::generation::Generation;
use crate::hook_process::HookProcess;
use crate::hooks::MASTER_HOOKS;
use crate::probe::Refusal;
use crate::sys::Pid;
use crate::sys::signal::{self, Signal};
use crate::sys::wait::Ended;

/// Hook processes that may be there at a time.
pub(super) const HOOK_PROCESSES: usize = 4;
/// Their slots on the scoreboard, behind those of the templates.
const FIRST_SLOT: usize = PROBE_SLOT + 1 + TEMPLATES;
/// How long `on_reload` may take.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
/// How long the last events may take.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// When another process is tried after one that died.
const RESPAWN: Duration = Duration::from_secs(1);

/// The place of one generation's process.
#[derive(Debug, Default)]
struct Post {
    process: Option<(HookProcess, usize)>,
    not_before: Option<Instant>,
    /// It was told to leave, and must have by then.
    leaving: Option<Instant>,
    killed: bool,
    dropped: bool,
}

/// All hook processes.
#[derive(Debug, Default)]
pub(super) struct Attendants {
    posts: BTreeMap<u64, Post>,
    /// How many workers the hooks were last told of.
    workers: u64,
    /// `on_starting` was told.
    started: bool,
    /// `on_exit` was told.
    ended: bool,
}

/// Whether a library of this generation has any of these hooks, by what its note says.
fn has(generation: &Generation, hooks: &[&str]) -> bool {
    let names = generation.hooks.iter().filter_map(|image| image.note.as_ref()?.get("hooks"));
    names.flat_map(|names| names.split(',')).any(|name| hooks.contains(&name))
}

impl Attendants {
    /// Whether there is no process left.
    pub(super) fn are_gone(&self) -> bool {
        self.posts.values().all(|post| post.process.is_none())
    }

    /// The generations whose images a process may still use.
    pub(super) fn generations(&self) -> impl Iterator<Item = u64> {
        self.posts.keys().copied()
    }

    /// Descriptors to wait for.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.posts.values().filter_map(|post| post.process.as_ref()?.0.watched())
    }

    /// When [`Arbiter::step_hooks`] must be called if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = |post: &Post| match (&post.process, post.killed) {
            (Some(_), false) => post.leaving,
            (Some(_), true) => None,
            (None, _) => post.not_before,
        };
        self.posts.values().filter_map(next).min()
    }

    /// The processes, for a signal.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.posts.values().filter_map(|post| Some(post.process.as_ref()?.0.pid))
    }
}

impl Arbiter {
    /// Starts, hears and ends hook processes, as far as that can be done now.
    pub(super) fn step_hooks(&mut self, now: Instant) {
        self.hear_hooks(now);
        let ending = self.is_ending();
        let over =
            ending && self.children.is_empty() && !self.reload.has_probes() && self.templates.are_gone();
        let trying = self.reload.being_booted();
        if !ending {
            for generation in [Some(self.serving), trying].into_iter().flatten() {
                self.start_hook_process(generation, now);
            }
            let workers = self.roster.workers() as u64;
            if self.serving != 0 && workers != self.attendants.workers {
                let before = std::mem::replace(&mut self.attendants.workers, workers);
                self.tell_hooks(abi::HOOK_NWORKERS_CHANGED, &[0, 0, 0, 0, 0, 0, 0, workers, before]);
            }
        }
        if over && !std::mem::replace(&mut self.attendants.ended, true) {
            self.tell_hooks(abi::HOOK_ON_EXIT, &[]);
        }
        let (serving, failed) = (self.serving, self.failure.is_some());
        self.attendants.posts.retain(|generation, post| {
            let wanted = !over && (*generation == serving || !failed && Some(*generation) == trying);
            match &mut post.process {
                None => return wanted,
                Some((process, _)) if !wanted && post.leaving.is_none() => {
                    process.dismiss();
                    post.leaving = Some(now + LEAVE_GRACE);
                }
                Some((process, _)) if !post.killed && post.leaving.is_some_and(|until| until <= now) => {
                    post.killed = true;
                    if let Err(error) = signal::send(process.pid, Signal::SIGKILL) {
                        log::error!("cannot kill the hook process (pid:{}): {error}", process.pid);
                    }
                }
                Some(_) => {}
            }
            true
        });
    }

    fn start_hook_process(&mut self, generation: u64, now: Instant) {
        let Some(held) = self.generations.get(&generation) else { return };
        if !has(&held.generation, MASTER_HOOKS) {
            return;
        }
        let slots: Vec<usize> =
            self.attendants.posts.values().filter_map(|post| Some(post.process.as_ref()?.1)).collect();
        let post = self.attendants.posts.get(&generation);
        if post.is_some_and(|post| post.process.is_some() || post.not_before.is_some_and(|until| until > now))
        {
            return;
        }
        let free = (FIRST_SLOT..FIRST_SLOT + HOOK_PROCESSES).find(|slot| !slots.contains(slot));
        let started = free.map(|slot| {
            let mut birth = self.birth(held, self.scoreboard.claim(slot, 0, generation), 0);
            // It serves nobody, and must not keep a socket open that the master closes.
            birth.listeners.clear();
            HookProcess::start(&birth).map(|process| (process, slot))
        });
        let post = self.attendants.posts.entry(generation).or_default();
        post.not_before = None;
        match started {
            Some(Ok(process)) => post.process = Some(process),
            Some(Err(error)) => {
                log::error!("cannot fork a hook process: {error}; trying again");
                post.not_before = Some(now + RESPAWN);
            }
            // Those that leave are not gone yet.
            None => post.not_before = Some(now + RESPAWN),
        }
        if self.serving == 0 && !std::mem::replace(&mut self.attendants.started, true) {
            self.tell_hooks(abi::HOOK_ON_STARTING, &[]);
        }
    }

    /// Tells the process of the generation that serves, or is to be the first to.
    pub(super) fn tell_hooks(&mut self, hook: u32, numbers: &[u64]) {
        let generation = match self.serving {
            0 => self.reload.generation().unwrap_or(0),
            serving => serving,
        };
        let Some(post) = self.attendants.posts.get_mut(&generation) else { return };
        let mut all = numbers.to_vec();
        all.resize(numbers.len().max(2), 0);
        if all[abi::EVENT_GENERATION] == 0 {
            all[abi::EVENT_GENERATION] = generation;
        }
        let told = post.process.as_ref().is_some_and(|(process, _)| process.tell(hook, &all).is_ok());
        if !told && !std::mem::replace(&mut post.dropped, true) {
            log::warn!(
                "The hook process of generation {generation} misses events: it is gone, or far behind"
            );
        }
    }

    /// Tells of a worker's end.
    pub(super) fn tell_child_exit(&mut self, pid: Pid, child: &Child, ended: Ended) {
        let (code, signal) = match ended {
            Ended::Exited(code) => (code, 0),
            Ended::Killed { signal, .. } => (0, signal),
        };
        let [pid, code, signal] =
            [pid.as_raw(), code, signal].map(|number| u64::from(number.cast_unsigned()));
        self.tell_hooks(abi::HOOK_CHILD_EXIT, &[child.age, child.generation, 0, 0, pid, code, signal]);
    }

    /// Asks whether a reload may begin, and until when an answer counts. None: there is nobody to ask.
    pub(super) fn ask_hooks(&mut self, now: Instant) -> Option<Instant> {
        let serving = self.serving;
        let held = self.generations.get(&serving)?;
        if !has(&held.generation, &["on_reload"]) {
            return None;
        }
        let (process, _) = self.attendants.posts.get(&serving)?.process.as_ref()?;
        process.tell(abi::HOOK_ON_RELOAD, &[0, serving]).ok()?;
        Some(now + RELOAD_LIMIT)
    }

    fn hear_hooks(&mut self, now: Instant) {
        let mut answers = Vec::new();
        for (generation, post) in &mut self.attendants.posts {
            let Some((process, _)) = &mut post.process else { continue };
            while let Ok(Some(answer)) = process.answer() {
                answers.push((*generation, answer));
            }
        }
        let Some(until) = self.reload.asks() else { return };
        let answer = answers.into_iter().find(|(of, _)| *of == self.serving);
        match answer {
            Some((_, Ok(()))) => self.try_generation(now),
            Some((_, Err(why))) => self.refuse(&Refusal::new(EXIT_APP_LOAD, why), now),
            None if until <= now => {
                log::warn!(
                    "The hook on_reload has not answered within {RELOAD_LIMIT:.0?}; the reload goes on"
                );
                self.try_generation(now);
            }
            None => {}
        }
    }

    /// Learns that a hook process has died. True if it was one.
    pub(super) fn hook_process_died(&mut self, pid: Pid, ended: Ended, now: Instant) -> bool {
        let is_it = |post: &Post| post.process.as_ref().is_some_and(|(process, _)| process.pid == pid);
        let Some((generation, post)) = self.attendants.posts.iter_mut().find(|(_, post)| is_it(post)) else {
            return false;
        };
        let generation = *generation;
        let Some((_, slot)) = post.process.take() else { return true };
        let view = self.scoreboard.view(slot);
        let (stage, message) = (view.stage(), view.message());
        let leaving = post.leaving.is_some();
        post.not_before = Some(now + RESPAWN);
        self.scoreboard.release(slot);
        if leaving {
            log::debug!("the hook process (pid:{pid}) of generation {generation} is gone");
        } else {
            let last_words = message.map(|message| format!(": {message}")).unwrap_or_default();
            log::error!(
                "Hook process (pid:{pid}) {ended} (generation {generation}, while {stage}){last_words}; another one \
                 is made in {RESPAWN:.0?}"
            );
        }
        if self.reload.asks().is_some() && generation == self.serving {
            self.try_generation(now);
        }
        true
    }
}
