//! `check` and `--check-config`: what a start would do, without binding anything.
//!
//! Owns nothing but the order of the steps: the probe, both stages, as at any start, and then the *trial*: a worker in
//! all but sockets, which begins, is ready, and ends. What a newcomer would get wrong: the probe is not enough. It
//! creates the applications; that a database does not answer is found where a worker starts them. Nor may the trial be a
//! part of the probe: `create` is told whether it is in one, and may leave out there what `start` relies on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use crate::config::Sources;
use crate::error::{EXIT_SETTINGS, EXIT_WORKER_BOOT, StartError};
use crate::generation::Generation;
use crate::image::RuntimeDir;
use crate::logging;
use crate::probe::{self, FIRST_BOOT_TIMEOUT, Probe, Refusal, Report, Task};
use crate::runtime::Runtime;
use crate::scoreboard::{Scoreboard, SlotWriter};
use crate::sys::fd::{Channel, Incoming, Watch, channel, poll};
use crate::sys::signal::{self, Mask, Signal};
use crate::sys::wait::{self, Ended};
use crate::sys::{Pid, fork, process};
use crate::worker::{self, Failure};

/// What a worker gets beyond `graceful_timeout` before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether it has gone without its channel being closed.
const LOOK: Duration = Duration::from_millis(100);

/// Tries the generation that a start would serve; returns one line that says what that would be.
///
/// # Errors
/// The sentence and exit code that the start would end with.
pub fn check(sources: &Sources, mask: &Mask) -> Result<String, StartError> {
    logging::start();
    let fail = |error: std::io::Error| StartError::new(EXIT_SETTINGS, format!("cannot check: {error}"));
    let scoreboard = Scoreboard::new(1).map_err(fail)?;
    let task = Task {
        sources,
        generation: 1,
        runtime_dir: None,
        watcher: None,
        slot: scoreboard.claim(0, 0, 1),
        boot_timeout: sources.first_boot_timeout(FIRST_BOOT_TIMEOUT),
    };
    let mut probe = Probe::start(&task, Instant::now()).map_err(fail)?;
    // A Ctrl-C is to end this program, and with it the probe.
    mask.restore().map_err(fail)?;
    let mut runtime_dir = None;
    let verdict = await_verdict(&mut probe, &scoreboard, &mut runtime_dir);
    // The probe may still be in a constructor; nothing of it is wanted any more.
    let killed = signal::send(probe.pid, Signal::SIGKILL).and_then(|_| wait::wait(probe.pid));
    let verdict = verdict.and_then(|generation| {
        try_worker(&generation, &scoreboard, runtime_dir.as_ref())?;
        Ok(would_serve(&generation))
    });
    if let Some(runtime_dir) = runtime_dir {
        runtime_dir.remove();
    }
    let line = verdict.map_err(|refusal| StartError::new(refusal.exit_code, refusal.sentence))?;
    killed.map(|_| line).map_err(fail)
}

fn await_verdict(
    probe: &mut Probe,
    scoreboard: &Scoreboard,
    runtime_dir: &mut Option<RuntimeDir>,
) -> Result<Generation, Refusal> {
    let mut tried = None;
    let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
    loop {
        match probe.receive()? {
            Some(Report::RuntimeDir(path)) => {
                *runtime_dir = Some(RuntimeDir::adopt(&path).map_err(|error| refuse(&error))?);
            }
            Some(Report::Prepared(prepared)) => {
                tried = Some(prepared.generation);
                // A probe that has died meanwhile is found below.
                let _ = probe.go();
            }
            Some(Report::Tried) => {
                return tried.ok_or_else(|| refuse(&"cannot check: the probe has tried nothing"));
            }
            Some(Report::Refused(refusal)) => return Err(refusal),
            None => {
                if probe.is_closed() {
                    let ended = wait::wait(probe.pid).map_err(|error| refuse(&error))?;
                    return Err(Refusal::died(&scoreboard.view(0), ended, ""));
                }
                let found = poll(&mut [Watch::readable(probe.as_fd())], probe.deadline)
                    .map_err(|error| refuse(&error))?;
                if found == 0 {
                    return Err(Refusal::late(&scoreboard.view(0)));
                }
            }
        }
    }
}

/// Begins a worker and ends it again, in a process of its own.
///
/// # Errors
/// What the first start of a server would end with.
fn try_worker(
    generation: &Generation,
    scoreboard: &Scoreboard,
    runtime_dir: Option<&RuntimeDir>,
) -> Result<(), Refusal> {
    let fail = |error: io::Error| Refusal::new(EXIT_SETTINGS, format!("cannot try a worker: {error}"));
    let (ours, theirs) = channel().map_err(fail)?;
    ours.set_nonblocking().map_err(fail)?;
    let slot = scoreboard.claim(0, 1, generation.number);
    let config = &generation.config;
    let mut deadline = config.boot_timeout.map(|timeout| Instant::now() + timeout);
    let master = nix::unistd::getpid();
    let keep: Vec<i32> = runtime_dir.into_iter().flat_map(RuntimeDir::descriptors).collect();
    let pid =
        fork::fork(|| worker::end(slot, live(generation, slot, &theirs, &keep, master))).map_err(fail)?;
    // What is left is the child's own, so that its end is seen here.
    drop(theirs);
    let (mut ready, mut late) = (false, false);
    loop {
        // Asked before the channel is, which may hold its last word.
        let over = wait::has_ended(pid);
        match ours.receive().map_err(fail)? {
            Incoming::Message(..) => {
                ready = true;
                deadline = Some(Instant::now() + config.graceful_timeout + GRACE);
            }
            Incoming::Closed => break,
            Incoming::Nothing if over => break,
            Incoming::Nothing => {
                let now = Instant::now();
                if deadline.is_some_and(|deadline| deadline <= now) {
                    late = true;
                    signal::send(pid, Signal::SIGKILL).map_err(fail)?;
                    break;
                }
                // Its end is the channel's, unless a child that it has forked holds that open.
                let look = now + LOOK;
                let until = deadline.map_or(look, |deadline| deadline.min(look));
                poll(&mut [Watch::readable(ours.as_fd())], Some(until)).map_err(fail)?;
            }
        }
    }
    let ended = wait::wait(pid).map_err(fail)?;
    let view = scoreboard.view(0);
    let account = probe::account(&view, ended, generation.number, 1, Some(generation));
    match ended {
        _ if !ready => return Err(Refusal::not_ready(view.message(), ended, late, &account)),
        Ended::Exited(0) => {}
        // It would have served, which is what was asked.
        Ended::Killed { .. } if late => {
            log::warn!("a worker was ready, but did not end within graceful_timeout ({account})");
        }
        Ended::Exited(_) | Ended::Killed { .. } => {
            log::warn!("a worker was ready, but {ended} when it was to end ({account})");
        }
    }
    Ok(())
}

/// Trial: the child's life; what it sends says that it is ready.
fn live(
    generation: &Generation,
    slot: SlotWriter,
    channel: &Channel,
    keep: &[i32],
    master: Pid,
) -> Result<(), Failure> {
    let system = worker::system("a worker");
    probe::prepare_signals(&slot, master).map_err(|error| system("signal handlers", &error))?;
    logging::after_fork();
    // It logs to standard error: the server's own log tells of that server.
    logging::set_level(generation.config.loglevel);
    let keep: Vec<i32> =
        keep.iter().copied().chain(logging::raw_fds()).chain([channel.as_fd().as_raw_fd()]).collect();
    process::close_all_but(&keep).map_err(|error| system("close_range", &error))?;
    let boot = |sentence| Failure { exit_code: EXIT_WORKER_BOOT, sentence };
    worker::become_worker_user(&generation.config, None, master).map_err(boot)?;
    let runtime =
        Runtime::for_trial(generation.clone(), slot).map_err(|error| system("the host inside it", &error))?;
    // Whoever waits for it may have gone, and then this process goes, too.
    worker::rehearse(runtime, || _ = channel.send(b"r", &[]))
}

fn would_serve(generation: &Generation) -> String {
    let config = &generation.config;
    let mounts: Vec<String> = config
        .mounts
        .iter()
        .map(|mount| match mount.prefix.as_str() {
            "/" => mount.application.text.clone(),
            prefix => format!("{} at {prefix}", mount.application.text),
        })
        .collect();
    let addresses: Vec<String> = config.bind.iter().map(ToString::to_string).collect();
    let count = config.workers;
    let workers = if count == 1 { "worker" } else { "workers" };
    format!(
        "OK: would serve {} on {} with {count} {workers} of the class {}\n",
        mounts.join(", "),
        addresses.join(", "),
        generation.class_name()
    )
}
