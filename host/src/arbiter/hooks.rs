//! The hooks of the master's moments, which run in a process beside it.
//!
//! Owns the hook processes, who is told of what, and the questions: what the master does only when a hook has been
//! heard. Does not own running a hook ([`crate::hook_process`]). Events go to the process of the generation that serves,
//! and what is asked before a worker is forked to the process of that worker's generation; as long as it is not there, or
//! is too far behind, they are dropped, and that is said once.
//!
//! | asked by    | before                     | an error           | no answer in time, or the process dies |
//! |-------------|----------------------------|--------------------|----------------------------------------|
//! | `on_reload` | a probe is forked          | the reload is not  | the reload goes on                     |
//! | `pre_fork`  | a worker is forked         | is logged          | the worker is forked                   |
//! | `pre_exec`  | a new master is executed   | it is not executed | it is executed                         |
//!
//! What a newcomer would get wrong: a hook must never be able to stop the deploy that would repair it. So one that does
//! not answer in time, or dies, has not refused; and until it has answered it is not asked again.

use std::collections::{BTreeMap, VecDeque};
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
use crate::scoreboard::{Companion, Role};
use crate::sys::Pid;
use crate::sys::signal::{self, Signal};
use crate::sys::wait::Ended;

/// Hook processes that may be there at a time.
pub(super) const HOOK_PROCESSES: usize = 8;
/// Their slots on the scoreboard, behind those of the templates.
const FIRST_SLOT: usize = PROBE_SLOT + 1 + TEMPLATES;
/// How long a hook that is waited for may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long the last events may take.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// Answers of one process that are heard in one turn of the loop.
const MOST_ANSWERS: usize = 64;
/// When another process is tried after one that died.
const RESPAWN: Duration = Duration::from_secs(1);

/// What waits for a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// A reload.
    Reload,
    /// A worker.
    Fork {
        /// Its slot, which the roster keeps for it.
        slot: usize,
        /// Its number in order of birth.
        age: u64,
    },
    /// A new master.
    Exec,
}

impl Question {
    fn hook(self) -> (u32, &'static str) {
        match self {
            Self::Reload => (abi::HOOK_ON_RELOAD, "on_reload"),
            Self::Fork { .. } => (abi::HOOK_PRE_FORK, "pre_fork"),
            Self::Exec => (abi::HOOK_PRE_EXEC, "pre_exec"),
        }
    }
}

/// A question that was asked and is not answered.
#[derive(Debug)]
struct Asked {
    number: u32,
    question: Question,
    since: Instant,
}

/// The place of one generation's process.
#[derive(Debug, Default)]
struct Post {
    process: Option<(HookProcess, usize)>,
    /// In the order in which they are answered.
    asked: VecDeque<Asked>,
    /// The number of the last question that was asked.
    last: u32,
    /// When the last answer came.
    answered: Option<Instant>,
    /// The last question whose answer nobody waits for any more, as long as it has not come.
    given_up: Option<u32>,
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

impl Post {
    /// When the first of those that wait has waited for long enough: the hook before it may have taken its time.
    fn answer_deadline(&self) -> Option<Instant> {
        let first = self.asked.front()?;
        Some(self.answered.map_or(first.since, |answered| answered.max(first.since)) + ANSWER_LIMIT)
    }

    fn drop_event(&mut self, generation: u64) {
        if !std::mem::replace(&mut self.dropped, true) {
            log::warn!(
                "The hook process of generation {generation} misses events: it is gone, or far behind"
            );
        }
    }
}

/// Whether a library of this generation has any of these hooks, by what its note says.
fn has(generation: &Generation, hooks: &[&str]) -> bool {
    let names = generation.hook_images().filter_map(|image| image.note.as_ref()?.get("hooks"));
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
        let next = |post: &Post| {
            let process = match (&post.process, post.killed) {
                (Some(_), false) => post.leaving,
                (Some(_), true) => None,
                (None, _) => post.not_before,
            };
            process.into_iter().chain(post.answer_deadline()).min()
        };
        self.posts.values().filter_map(next).min()
    }

    /// What the monitor is told of them.
    pub(super) fn companions(&self) -> impl Iterator<Item = Companion> {
        self.posts.iter().filter_map(|(generation, post)| {
            let pid = post.process.as_ref()?.0.pid.as_raw().unsigned_abs().into();
            Some(Companion { role: Role::Hooks, pid, generation: *generation })
        })
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
        self.forget_unwanted_forks();
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
        // A first start that fails has nothing that serves, and its hooks are told of its end all the same.
        let serving = self.addressee();
        self.attendants.posts.retain(|generation, post| {
            let wanted = !over && (*generation == serving || Some(*generation) == trying);
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
        (post.not_before, post.answered, post.given_up, post.dropped) = (None, None, None, false);
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
        let generation = self.addressee();
        let Some(post) = self.attendants.posts.get_mut(&generation) else { return };
        let mut all = numbers.to_vec();
        all.resize(numbers.len().max(2), 0);
        if all[abi::EVENT_GENERATION] == 0 {
            all[abi::EVENT_GENERATION] = generation;
        }
        let told = post.process.as_ref().is_some_and(|(process, _)| process.tell(hook, &all).is_ok());
        if !told {
            post.drop_event(generation);
        }
    }

    /// The generation that serves, or is to be the first to.
    fn addressee(&self) -> u64 {
        if self.serving == 0 { self.newest } else { self.serving }
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

    /// Asks the process of a generation; [`Arbiter::go_on`] follows. False if there is nobody to ask, and nobody to wait for.
    pub(super) fn ask_hooks(&mut self, generation: u64, question: Question, now: Instant) -> bool {
        let (hook, name) = question.hook();
        let Some(held) = self.generations.get(&generation).filter(|held| has(&held.generation, &[name]))
        else {
            return false;
        };
        let number = held.generation.number;
        let Some(post) = self.attendants.posts.get_mut(&number) else { return false };
        let Some((process, _)) = post.process.as_ref().filter(|_| post.given_up.is_none()) else {
            return false;
        };
        let age = if let Question::Fork { age, .. } = question { age } else { 0 };
        // 0 is no question.
        post.last = post.last.checked_add(1).unwrap_or(1);
        if process.ask(hook, post.last, &[age, number]).is_err() {
            post.drop_event(number);
            return false;
        }
        post.asked.push_back(Asked { number: post.last, question, since: now });
        true
    }

    fn hear_hooks(&mut self, now: Instant) {
        let mut heard = Vec::new();
        for post in self.attendants.posts.values_mut() {
            let Some((process, _)) = &mut post.process else { continue };
            // One that has run wild must not keep the loop.
            for _ in 0..MOST_ANSWERS {
                let Ok(Some((number, verdict))) = process.answer() else { break };
                post.answered = Some(now);
                post.given_up = post.given_up.filter(|last| *last != number);
                // One that is not there was given up, or nobody wants to know any more.
                if let Some(index) = post.asked.iter().position(|asked| asked.number == number) {
                    heard.extend(post.asked.remove(index).map(|asked| (asked.question, verdict)));
                }
            }
            if post.answer_deadline().is_some_and(|until| until <= now) {
                let names: Vec<_> = post.asked.iter().map(|asked| asked.question.hook().1).collect();
                log::warn!(
                    "The hook {} has not answered within {ANSWER_LIMIT:.0?}; the master goes on, and asks no more \
                     until it has",
                    names[0]
                );
                post.given_up = post.asked.back().map(|asked| asked.number);
                heard.extend(post.asked.drain(..).map(|asked| (asked.question, Ok(()))));
            }
        }
        for (question, verdict) in heard {
            self.go_on(question, verdict, now);
        }
    }

    /// What was asked has an answer, or will never have one.
    fn go_on(&mut self, question: Question, verdict: Result<(), String>, now: Instant) {
        match question {
            Question::Reload if !self.reload.is_asking() => {}
            Question::Reload => match verdict {
                Ok(()) => self.try_generation(now),
                Err(why) => self.refuse(&Refusal::new(EXIT_APP_LOAD, why), now),
            },
            Question::Fork { slot, age } => {
                if let Err(why) = verdict {
                    log::error!("{why}; worker {age} is forked all the same");
                }
                match self.roster.awaited(slot) {
                    Some(generation) => self.fork_worker(generation, slot, age, now),
                    None => self.roster.forget(slot),
                }
            }
            Question::Exec => {
                self.kin.hook_was_heard();
                match verdict {
                    Ok(()) => self.execute_successor(),
                    Err(why) => log::error!("No new master is executed, this one serves on: {why}"),
                }
            }
        }
    }

    /// Takes back the forks that wait for a hook and that nobody wants any more.
    fn forget_unwanted_forks(&mut self) {
        let roster = &mut self.roster;
        for post in self.attendants.posts.values_mut() {
            post.asked.retain(|asked| {
                let Question::Fork { slot, .. } = asked.question else { return true };
                let keep = roster.awaited(slot).is_some();
                if !keep {
                    roster.forget(slot);
                }
                keep
            });
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
        let unanswered = std::mem::take(&mut post.asked);
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
        for asked in unanswered {
            self.go_on(asked.question, Ok(()), now);
        }
        true
    }
}
