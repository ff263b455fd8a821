//! Templates: with `preload_app` it is not the master that forks workers, but a template process of their generation.
//!
//! Owns which templates there are, what was ordered of them, and what becomes of an order when one dies. Does not own
//! what a template does ([`crate::template`]) nor who is to be spawned ([`crate::roster`]): an order is the roster's
//! spawn, answered later than in the same turn of the loop.
//!
//! | a template   | becomes ready       | is late               | is not wanted any more  | dies                          |
//! |--------------|---------------------|-----------------------|-------------------------|-------------------------------|
//! | not there    | –                   | –                     | forgotten               | –                             |
//! | booting      | takes orders        | killed (boot timeout) | killed                  | as a worker that cannot boot  |
//! | ready        | –                   | killed (an order)     | killed, orders answered | another one; workers serve on |
//!
//! What a newcomer would get wrong: a worker may have died before the master hears that it was born, and its CHLD then
//! names a process that nobody knows yet. Such deaths are kept as long as an order is open.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Arbiter, Child, PROBE_SLOT};
use crate::error::{EXIT_APP_LOAD, EXIT_WORKER_BOOT};
use crate::scoreboard::{Command, Companion, Role};
use crate::sys::fd::EventFd;
use crate::sys::signal::{self, Signal};
use crate::sys::wait::{self, Ended};
use crate::sys::{Pid, process};
use crate::template::{Order, Report, Template};

/// Templates that may be there at a time: of the generation that serves, of the one to come, and some that were killed
/// and are not gone yet.
pub(super) const TEMPLATES: usize = 8;
/// Their slots on the scoreboard, behind the probe's.
const FIRST_SLOT: usize = PROBE_SLOT + 1;
/// Reports of one template that are heard in one turn of the loop.
const MOST_REPORTS: usize = 64;
/// How long a template may take to fork one worker: a matter of milliseconds, more with much memory.
const ORDER_LIMIT: Duration = Duration::from_secs(5);
/// How long one that is not wanted any more has to answer what is open.
const DISMISS_GRACE: Duration = Duration::from_secs(1);
/// A life of this length clears a generation of earlier failures.
const PROVEN: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// A template process, as the master sees it.
#[derive(Debug)]
struct Process {
    template: Template,
    slot: usize,
    started: Instant,
    /// None as long as it boots.
    ready: Option<Instant>,
    /// When its boot must be over.
    boot_deadline: Option<Instant>,
    /// What it was asked for and has not answered, each with the time when it was.
    open: Vec<(Request, Instant)>,
    /// When it last answered.
    answered: Option<Instant>,
    /// It is not wanted any more, since then.
    dismissed: Option<Instant>,
    /// It was killed for what it did not do; what that was.
    late: Option<&'static str>,
}

/// A worker that is asked for.
#[derive(Debug)]
struct Request {
    order: Order,
    command: EventFd,
}

/// The template of one generation, and what waits for it.
#[derive(Debug, Default)]
struct Nursery {
    process: Option<Process>,
    waiting: VecDeque<Request>,
    failures: u32,
    not_before: Option<Instant>,
}

/// All templates.
#[derive(Debug, Default)]
pub(super) struct Templates {
    by_generation: BTreeMap<u64, Nursery>,
    /// Processes that died before anybody said who they were.
    early: BTreeMap<i32, Ended>,
}

impl Process {
    fn deadline(&self) -> Option<Instant> {
        if self.late.is_some() {
            return None;
        }
        match (self.dismissed, self.ready) {
            (Some(since), _) => Some(since + DISMISS_GRACE),
            (None, None) => self.boot_deadline,
            // They are answered one after the other.
            (None, Some(_)) => {
                let since = self.open.first().map(|(_, since)| *since)?;
                Some(self.answered.map_or(since, |answered| answered.max(since)) + ORDER_LIMIT)
            }
        }
    }

    fn kill(&mut self, why: &'static str) {
        self.late = Some(why);
        if let Err(error) = signal::send(self.template.pid, Signal::SIGKILL) {
            log::error!("cannot kill the template (pid:{}): {error}", self.template.pid);
        }
    }
}

impl Nursery {
    /// Puts off the next template. The first death of one that worked is replaced at once.
    fn back_off(&mut self, worked_since: Option<Instant>, now: Instant) -> Duration {
        if worked_since.is_some_and(|since| now.saturating_duration_since(since) >= PROVEN) {
            self.failures = 0;
        }
        let wait = match (worked_since, self.failures) {
            (Some(_), 0) => Duration::ZERO,
            (_, failures) => FIRST_BACKOFF.saturating_mul(1 << failures.min(10)).min(LONGEST_BACKOFF),
        };
        self.failures += 1;
        self.not_before = Some(now + wait);
        wait
    }
}

impl Templates {
    /// Whether there is no process left.
    pub(super) fn are_gone(&self) -> bool {
        self.processes().next().is_none()
    }

    /// The generations whose images a template may still use.
    pub(super) fn generations(&self) -> impl Iterator<Item = u64> {
        self.by_generation.keys().copied()
    }

    /// Those that can still say something. A closed channel would be readable for ever.
    pub(super) fn watched(&self) -> impl Iterator<Item = &Template> {
        self.processes().map(|process| &process.template).filter(|template| !template.is_closed())
    }

    /// When [`Arbiter::step_templates`] must be called if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = |nursery: &Nursery| match &nursery.process {
            Some(process) => process.deadline(),
            None => nursery.not_before,
        };
        self.by_generation.values().filter_map(next).min()
    }

    /// The processes, for a signal.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.processes().map(|process| process.template.pid)
    }

    /// What the monitor is told of them.
    pub(super) fn companions(&self) -> impl Iterator<Item = Companion> {
        self.by_generation.iter().filter_map(|(generation, nursery)| {
            let pid = nursery.process.as_ref()?.template.pid.as_raw().unsigned_abs().into();
            Some(Companion { role: Role::Template, pid, generation: *generation })
        })
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.by_generation.values().filter_map(|nursery| nursery.process.as_ref())
    }

    /// Keeps a death that a birth may follow; whether one may.
    pub(super) fn died_early(&mut self, pid: Pid, ended: Ended) -> bool {
        let expecting = self.processes().any(|process| !process.open.is_empty());
        if expecting {
            self.early.insert(pid.as_raw(), ended);
        }
        expecting
    }

    fn process_mut(&mut self, generation: u64) -> Option<&mut Process> {
        self.by_generation.get_mut(&generation)?.process.as_mut()
    }

    fn free_slot(&self) -> Option<usize> {
        (FIRST_SLOT..FIRST_SLOT + TEMPLATES)
            .find(|slot| self.processes().all(|process| process.slot != *slot))
    }
}

impl Arbiter {
    /// The roster wants a worker of a generation that has a template; it comes when that has forked it.
    pub(super) fn order_worker(&mut self, generation: u64, slot: usize, age: u64, now: Instant) {
        match EventFd::new() {
            Ok(command) => {
                let order = Order { slot, age };
                let nursery = self.templates.by_generation.entry(generation).or_default();
                nursery.waiting.push_back(Request { order, command });
            }
            Err(error) => {
                log::error!("cannot order a worker: {error}; trying again");
                self.roster.spawn_failed(slot, now);
            }
        }
    }

    /// Starts, feeds and ends templates, as far as that can be done now.
    pub(super) fn step_templates(&mut self, now: Instant) {
        let generations: Vec<u64> = self.templates.generations().collect();
        for generation in generations {
            let wanted = !self.is_ending()
                && (generation == self.serving || self.reload.generation() == Some(generation));
            self.forget_unwanted(generation, wanted);
            if !wanted {
                self.dismiss_template(generation, now);
            } else if self.templates.process_mut(generation).is_none() {
                self.start_template(generation, now);
            }
            self.send_orders(generation, now);
            if let Some(process) = self.templates.process_mut(generation)
                && process.deadline().is_some_and(|deadline| deadline <= now)
            {
                process.kill(if process.ready.is_some() { "fork a worker" } else { "become ready" });
            }
        }
        let open = |process: &Process| !process.open.is_empty();
        if !self.templates.processes().any(open) {
            self.templates.early.clear();
        }
    }

    /// Takes back orders that were not sent and that nobody wants any more.
    fn forget_unwanted(&mut self, generation: u64, wanted: bool) {
        let Some(nursery) = self.templates.by_generation.get_mut(&generation) else { return };
        let roster = &mut self.roster;
        nursery.waiting.retain(|request| {
            let keep = wanted && roster.awaited(request.order.slot).is_some();
            if !keep {
                roster.forget(request.order.slot);
            }
            keep
        });
    }

    fn dismiss_template(&mut self, generation: u64, now: Instant) {
        match self.templates.process_mut(generation) {
            None => _ = self.templates.by_generation.remove(&generation),
            Some(process) if process.dismissed.is_none() => {
                process.dismissed = Some(now);
                // One that is just forking would leave a worker behind that nobody knows.
                if process.open.is_empty() {
                    process.kill("leave");
                }
            }
            Some(process) if process.open.is_empty() && process.late.is_none() => process.kill("leave"),
            Some(_) => {}
        }
    }

    fn start_template(&mut self, generation: u64, now: Instant) {
        let free_slot = self.templates.free_slot();
        let Some(nursery) = self.templates.by_generation.get_mut(&generation) else { return };
        if nursery.not_before.is_some_and(|until| until > now) {
            return;
        }
        let (Some(slot), Some(held)) = (free_slot, self.generations.get(&generation)) else {
            // Those that were killed are not gone yet.
            nursery.not_before = Some(now + FIRST_BACKOFF);
            return;
        };
        let writer = self.scoreboard.claim(slot, 0, generation);
        let birth = self.birth(held, writer, 0);
        let boot_deadline = held.generation.config.boot_timeout.map(|timeout| now + timeout);
        // Only now, so that a master without templates adopts nobody.
        let started = process::adopt_orphans().and_then(|()| Template::start(&birth, self.scoreboard));
        let Some(nursery) = self.templates.by_generation.get_mut(&generation) else { return };
        match started {
            Ok(template) => {
                nursery.not_before = None;
                nursery.process = Some(Process {
                    template,
                    slot,
                    started: now,
                    ready: None,
                    boot_deadline,
                    open: Vec::new(),
                    answered: None,
                    dismissed: None,
                    late: None,
                });
            }
            Err(error) => {
                let wait = nursery.back_off(None, now);
                self.scoreboard.release(slot);
                log::error!("cannot fork a template: {error}; trying again in {wait:.1?}");
            }
        }
    }

    fn send_orders(&mut self, generation: u64, now: Instant) {
        let Some(nursery) = self.templates.by_generation.get_mut(&generation) else { return };
        let Some(process) = &mut nursery.process else { return };
        if process.ready.is_none() || process.dismissed.is_some() || process.late.is_some() {
            return;
        }
        while let Some(request) = nursery.waiting.pop_front() {
            self.scoreboard.claim(request.order.slot, request.order.age, generation);
            match process.template.order(request.order, &request.command) {
                Ok(()) => process.open.push((request, now)),
                // It answers what it has taken, or it dies: both wake the loop.
                Err(error) => {
                    log::debug!("the template (pid:{}) takes no order now: {error}", process.template.pid);
                    nursery.waiting.push_front(request);
                    return;
                }
            }
        }
    }

    /// Learns what templates have to say.
    pub(super) fn hear_templates(&mut self, now: Instant) {
        let generations: Vec<u64> = self.templates.generations().collect();
        for generation in generations {
            self.hear_template(generation, now);
        }
    }

    /// Whether there may be more to hear. A template that has run wild must not keep the loop.
    fn hear_template(&mut self, generation: u64, now: Instant) -> bool {
        for _ in 0..MOST_REPORTS {
            let Some(process) = self.templates.process_mut(generation) else { return false };
            let understood = match process.template.receive() {
                Ok(None) => return false,
                Ok(Some(Report::Ready)) => {
                    process.ready = Some(now);
                    let took = now.saturating_duration_since(process.started);
                    log::debug!(
                        "template (pid:{}) of generation {generation} is ready after {took:.1?}",
                        process.template.pid
                    );
                    true
                }
                Ok(Some(Report::Born(order, pid))) => self.worker_is_born(generation, order, pid, now),
                Ok(Some(Report::Failed(order, why))) => match self.take_open(generation, order, now) {
                    Some(_) => {
                        self.scoreboard.release(order.slot);
                        log::error!("cannot fork a worker: {why}; trying again");
                        self.roster.spawn_failed(order.slot, now);
                        true
                    }
                    None => false,
                },
                Err(error) => {
                    log::debug!("the template's report cannot be read: {error}");
                    false
                }
            };
            if !understood && let Some(process) = self.templates.process_mut(generation) {
                log::error!(
                    "the template (pid:{}) says what no template would; it is killed",
                    process.template.pid
                );
                process.kill("talk sense");
                return false;
            }
        }
        true
    }

    fn take_open(&mut self, generation: u64, order: Order, now: Instant) -> Option<Request> {
        let process = self.templates.process_mut(generation)?;
        let index = process.open.iter().position(|(request, _)| request.order == order)?;
        process.answered = Some(now);
        Some(process.open.remove(index).0)
    }

    /// A worker was forked. It may be dead by now, or not wanted any more. False if there cannot be such a worker.
    fn worker_is_born(&mut self, generation: u64, order: Order, pid: Pid, now: Instant) -> bool {
        let raw = pid.as_raw();
        let known = self.children.contains_key(&raw)
            || self.reload.has_probe(pid)
            || self.templates.pids().any(|template| template == pid);
        let lives = wait::is_child(pid);
        let died = self.templates.early.remove(&raw).filter(|_| !lives);
        if known || !lives && died.is_none() {
            return false;
        }
        let Some(request) = self.take_open(generation, order, now) else { return false };
        let Order { slot, age } = order;
        self.scoreboard.view(slot).set_pid(pid);
        self.scoreboard.facts().count_spawn();
        let wanted = self.roster.spawned(slot, pid, now);
        let child = Child {
            slot,
            age,
            generation,
            command: request.command,
            told: Command::Wait,
            late: false,
            dismissed: false,
            killed: false,
            silent: false,
            retiring: false,
        };
        match died {
            Some(ended) => self.worker_died(pid, &child, ended, now),
            None => {
                self.children.insert(raw, child);
                if !wanted {
                    self.kill_worker(pid);
                }
            }
        }
        true
    }

    /// Learns that a template has died. True if it was one.
    pub(super) fn template_died(&mut self, pid: Pid, ended: Ended, now: Instant) -> bool {
        let is_its =
            |nursery: &Nursery| nursery.process.as_ref().is_some_and(|process| process.template.pid == pid);
        let found = self.templates.by_generation.iter().find(|(_, nursery)| is_its(nursery));
        let Some(generation) = found.map(|(generation, _)| *generation) else { return false };
        // Its last word may be a birth; what it has not told of by now has never gone on.
        while self.hear_template(generation, now) {}
        let Some(nursery) = self.templates.by_generation.get_mut(&generation) else { return true };
        let Some(process) = nursery.process.take() else { return true };
        let view = self.scoreboard.view(process.slot);
        let (message, stage) = (view.message(), view.stage());
        self.scoreboard.release(process.slot);
        for (request, _) in process.open.into_iter().rev() {
            nursery.waiting.push_front(request);
        }
        if process.dismissed.is_some() {
            log::debug!("the template (pid:{pid}) of generation {generation} is gone");
            return true;
        }
        let wait = nursery.back_off(process.ready, now);
        // What the master has killed it for is said; what else has killed it may be the kernel's to say.
        let memory = if process.late.is_some() { "" } else { self.lack_of_memory(ended) };
        let account = format!("generation {generation}, while {stage}{memory}");
        let last_words = message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        if process.ready.is_some() {
            let late = process.late.map(|what| format!(" for it did not {what}")).unwrap_or_default();
            log::error!(
                "Template (pid:{pid}) {ended}{late} ({account}){last_words}; its workers serve on, and another \
                 one is made"
            );
            return true;
        }
        let (why, exit_code) = match (message, ended) {
            // Any other code is not ours: the application has left by itself, whatever it said before.
            (Some(message), Ended::Exited(code @ (EXIT_WORKER_BOOT | EXIT_APP_LOAD))) => (message, code),
            _ if process.late.is_some() => (
                format!("the template was not ready within boot_timeout ({account}){last_words}"),
                EXIT_WORKER_BOOT,
            ),
            _ => (
                format!("the template {ended} before it was ready ({account}){last_words}"),
                EXIT_WORKER_BOOT,
            ),
        };
        if !self.new_worker_failed(generation, &why, exit_code, now) {
            log::error!("Template (pid:{pid}) failed to boot: {why}; trying again in {wait:.1?}");
        }
        true
    }
}
