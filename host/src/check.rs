//! `--check-config`: what a start would do, without binding anything.
//!
//! Owns nothing but the order of the steps: it is the probe, both stages, with nobody to serve afterwards. What a
//! newcomer would get wrong: reading the configuration is not enough. A file that parses may name an application that
//! cannot be loaded, and that is what a deploy script asks about.

use std::os::fd::AsFd;
use std::time::Instant;

use crate::config::Sources;
use crate::error::{EXIT_SETTINGS, EXIT_WORKER_BOOT, StartError};
use crate::image::RuntimeDir;
use crate::logging;
use crate::probe::{FIRST_BOOT_TIMEOUT, Probe, Refusal, Report, Task};
use crate::scoreboard::Scoreboard;
use crate::sys::fd::{Watch, poll};
use crate::sys::signal::{self, Mask, Signal};
use crate::sys::wait;

/// Tries the generation that a start would serve.
///
/// # Errors
/// The sentence and exit code that the start would end with.
pub fn check(sources: &Sources, mask: &Mask) -> Result<(), StartError> {
    logging::start();
    let fail = |error: std::io::Error| StartError::new(EXIT_SETTINGS, format!("cannot check: {error}"));
    let scoreboard = Scoreboard::new(1).map_err(fail)?;
    let task = Task {
        sources,
        generation: 1,
        runtime_dir: None,
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
    verdict.map_err(|refusal| StartError::new(refusal.exit_code, refusal.sentence))?;
    killed.map(|_| ()).map_err(fail)
}

fn await_verdict(
    probe: &mut Probe,
    scoreboard: &Scoreboard,
    runtime_dir: &mut Option<RuntimeDir>,
) -> Result<(), Refusal> {
    let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
    loop {
        match probe.receive()? {
            Some(Report::RuntimeDir(path)) => {
                *runtime_dir = Some(RuntimeDir::adopt(&path).map_err(|error| refuse(&error))?);
            }
            Some(Report::Prepared(_)) => {
                // A probe that has died meanwhile is found below.
                let _ = probe.go();
            }
            Some(Report::Tried) => return Ok(()),
            Some(Report::Refused(refusal)) => return Err(refusal),
            None => {
                let stage = || scoreboard.view(0).stage();
                if probe.is_closed() {
                    let ended = wait::wait(probe.pid)
                        .map_or_else(|error| error.to_string(), |ended| ended.to_string());
                    return Err(Refusal::new(
                        EXIT_WORKER_BOOT,
                        format!("while {} the probe {ended}", stage()),
                    ));
                }
                let found = poll(&mut [Watch::readable(probe.as_fd())], probe.deadline)
                    .map_err(|error| refuse(&error))?;
                if found == 0 {
                    let sentence =
                        format!("it could not be tried within boot_timeout; the probe was still {}", stage());
                    return Err(Refusal::new(EXIT_WORKER_BOOT, sentence));
                }
            }
        }
    }
}
