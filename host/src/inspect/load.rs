//! `inspect --load`: a child loads the file, as a probe does, and tells what is there.
//!
//! Owns the child and its short report. What a newcomer would get wrong: from the moment the library is open its code
//! has run, so that the report is somebody's words: bounded, printed, never acted upon.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::EXIT_SETTINGS;
use crate::hooks;
use crate::image::{self, Image, RuntimeDir};
use crate::plugin::{self, AppPlugin, ClassPlugin, HookPlugin, Kind, PluginError};
use crate::probe::{self, Refusal};
use crate::scoreboard::{Scoreboard, SlotWriter};
use crate::sys::fd::{Channel, Incoming, Watch, channel, poll};
use crate::sys::signal::{self, Signal};
use crate::sys::{Pid, fork, process, wait};

/// What the library itself says when it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loaded {
    /// The applications in it with their kinds, as words; of a worker class, its name and version.
    pub(super) says: Vec<String>,
}

/// Loads a private copy of the file in a child.
///
/// # Errors
/// The sentence with which a start refuses it.
pub(super) fn load(image: &Image, kind: Kind, within: Duration) -> Result<Loaded, Refusal> {
    let refuse = |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, error.to_string());
    let runtime_dir = RuntimeDir::create(None, image.original.parent()).map_err(|error| refuse(&error))?;
    let verdict = try_in(&runtime_dir, &image.original, kind, Instant::now() + within);
    runtime_dir.remove();
    verdict
}

fn try_in(runtime_dir: &RuntimeDir, file: &Path, kind: Kind, deadline: Instant) -> Result<Loaded, Refusal> {
    let refuse =
        |error: &dyn std::fmt::Display| Refusal::new(EXIT_SETTINGS, format!("cannot load it: {error}"));
    let directory = runtime_dir.generation_dir(1).map_err(|error| refuse(&error))?;
    let copied = image::copy_plugin(file, &directory, deadline)
        .map_err(|error| PluginError::of_file(kind, file, &error))?;
    let scoreboard = Scoreboard::new(1).map_err(|error| refuse(&error))?;
    let slot = scoreboard.claim(0, 0, 1);
    let (ours, theirs) = channel().map_err(|error| refuse(&error))?;
    let parent = nix::unistd::getpid();
    let pid = fork::fork(|| child(&copied, kind, slot, &theirs, parent)).map_err(|error| refuse(&error))?;
    drop(theirs);
    let heard = hear(&ours, pid, &scoreboard, deadline);
    // Also when it has told all: a destructor may hang, and nothing of it is wanted any more.
    let ended = signal::send(pid, Signal::SIGKILL).and_then(|_| wait::wait(pid));
    match heard? {
        Some(told) => told,
        None => Err(Refusal::died(&scoreboard.view(0), ended.map_err(|error| refuse(&error))?, "")),
    }
}

/// Waits for the child's report; none if it has closed its end without one.
fn hear(
    channel: &Channel,
    pid: Pid,
    scoreboard: &Scoreboard,
    deadline: Instant,
) -> Result<Option<Result<Loaded, Refusal>>, Refusal> {
    let refuse = |error: &dyn std::fmt::Display| {
        Refusal::new(EXIT_SETTINGS, format!("cannot hear of the process {pid} that loads it: {error}"))
    };
    if poll(&mut [Watch::readable(channel.as_fd())], Some(deadline)).map_err(|error| refuse(&error))? == 0 {
        return Err(Refusal::late(&scoreboard.view(0)));
    }
    match channel.receive().map_err(|error| refuse(&error))? {
        Incoming::Message(message, _) => {
            serde_json::from_slice(&message).map(Some).map_err(|error| refuse(&error))
        }
        Incoming::Nothing | Incoming::Closed => {
            // It is ending. How it ends is settled by now; the KILL that follows comes too late to change it.
            Ok(None)
        }
    }
}

/// Child: opens the library and reports.
fn child(image: &Image, kind: Kind, slot: SlotWriter, channel: &Channel, parent: Pid) -> i32 {
    let refuse = |error: &dyn std::fmt::Display| {
        Err(Refusal::new(EXIT_SETTINGS, format!("cannot set up the process that loads it: {error}")))
    };
    let told = match probe::prepare_signals(&slot, parent) {
        Err(error) => refuse(&error),
        // Plugin code gets nothing that it does not need.
        Ok(()) => match process::close_all_but(&[channel.as_fd().as_raw_fd()]) {
            Err(error) => refuse(&error),
            Ok(()) => open(image, kind, slot),
        },
    };
    let Ok(text) = serde_json::to_vec(&told) else { return 1 };
    match channel.send(&text, &[]) {
        Ok(()) => 0,
        // The parent is gone, or the report is longer than any honest one.
        Err(_) => 1,
    }
}

fn open(image: &Image, kind: Kind, slot: SlotWriter) -> Result<Loaded, Refusal> {
    plugin::note_panics(slot);
    slot.set_stage(&format!("loading {}", image.original.display()));
    let says = match kind {
        Kind::WorkerClass => vec![ClassPlugin::open(image, Path::to_path_buf)?.says()],
        Kind::Application => AppPlugin::open(image, Path::to_path_buf)?.says(),
        Kind::Hooks => hooks::names(HookPlugin::open(image, Path::to_path_buf)?.present()),
    };
    Ok(Loaded { says })
}
