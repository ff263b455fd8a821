//! `check` and `--check-config`: what a start would do, without binding anything.
//!
//! Owns nothing but the order of the steps: it is the probe, both stages, with nobody to serve afterwards. What a
//! newcomer would get wrong: reading the configuration is not enough. A file that parses may name an application that
//! cannot be loaded, and that is what a deploy script asks about.

use std::os::fd::AsFd;
use std::time::Instant;

use crate::config::Sources;
use crate::error::{EXIT_SETTINGS, StartError};
use crate::generation::Generation;
use crate::image::RuntimeDir;
use crate::logging;
use crate::probe::{FIRST_BOOT_TIMEOUT, Probe, Refusal, Report, Task};
use crate::scoreboard::Scoreboard;
use crate::sys::fd::{Watch, poll};
use crate::sys::signal::{self, Mask, Signal};
use crate::sys::wait;

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
) -> Result<String, Refusal> {
    let mut line = String::new();
    let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
    loop {
        match probe.receive()? {
            Some(Report::RuntimeDir(path)) => {
                *runtime_dir = Some(RuntimeDir::adopt(&path).map_err(|error| refuse(&error))?);
            }
            Some(Report::Prepared(prepared)) => {
                line = would_serve(&prepared.generation);
                // A probe that has died meanwhile is found below.
                let _ = probe.go();
            }
            Some(Report::Tried) => return Ok(line),
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
