//! The hook process: one for each generation with hooks of the master, which it runs in the master's stead.
//!
//! Owns what is said between it and the master, and its life: it is told of events in order, runs the hooks of each, and
//! leaves when the master closes the channel. Does not own the moments (`arbiter/hooks.rs`). What a newcomer would get
//! wrong: an event has no answer, and the master waits for none; a question has a number, and its answer the same.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::hooks::Hooks;
use crate::logging;
use crate::plugin;
use crate::runtime::Runtime;
use crate::sys::fd::{Channel, Incoming, Watch, channel, poll};
use crate::sys::signal::Signal;
use crate::sys::title::Role;
use crate::sys::{Pid, fork};
use crate::worker::{self, Birth, Failure};

/// The longest reason that is taken from a hook (octets).
const REASON: usize = 1024;

/// Master: the process, and the way to it.
#[derive(Debug)]
pub struct HookProcess {
    /// Its process.
    pub pid: Pid,
    /// None when it was told to leave, or has closed its end.
    channel: Option<Channel>,
}

impl HookProcess {
    /// Master: forks it.
    ///
    /// # Errors
    /// No descriptor, no process.
    pub fn start(birth: &Birth<'_>) -> io::Result<Self> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking()?;
        let pid = fork::fork(|| worker::end(birth.slot, live(birth, &theirs)))?;
        Ok(Self { pid, channel: Some(ours) })
    }

    /// Master: an event, with its numbers in the order of `EVENT_AGE` and its siblings.
    ///
    /// # Errors
    /// `WouldBlock`: it is that far behind. `BrokenPipe`: it is gone.
    pub fn tell(&self, hook: u32, numbers: &[u64]) -> io::Result<()> {
        self.ask(hook, 0, numbers)
    }

    /// Master: as [`HookProcess::tell`], with a number of its own that [`HookProcess::answer`] comes back with.
    ///
    /// # Errors
    /// As there.
    pub fn ask(&self, hook: u32, number: u32, numbers: &[u64]) -> io::Result<()> {
        let Some(channel) = &self.channel else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut message = [hook.to_ne_bytes(), number.to_ne_bytes()].concat();
        message.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        channel.send(&message, &[])
    }

    /// Master: the next answer, if one is there: the question's number, and what the hook failed with if it did.
    ///
    /// # Errors
    /// The message cannot be read.
    pub fn answer(&mut self) -> io::Result<Option<(u32, Result<(), String>)>> {
        let Some(channel) = &self.channel else { return Ok(None) };
        match channel.receive()? {
            Incoming::Message(message, _) => Ok(Some(parse(&message))),
            Incoming::Nothing => Ok(None),
            Incoming::Closed => {
                self.channel = None;
                Ok(None)
            }
        }
    }

    /// Master: wants nothing more. It runs what it was told of before, and leaves.
    pub fn dismiss(&mut self) {
        self.channel = None;
    }

    /// To wait for an answer with.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }
}

/// An answer. One without a number answers nothing.
fn parse(message: &[u8]) -> (u32, Result<(), String>) {
    let Some((number, verdict)) = message.split_first_chunk::<4>() else { return (0, Ok(())) };
    let verdict = match verdict.split_first() {
        Some((b'n', why)) => Err(crate::scoreboard::readable(&why[..why.len().min(REASON)])),
        _ => Ok(()),
    };
    (u32::from_ne_bytes(*number), verdict)
}

// ---------------------------------------------------------------------------------------------------------------
// In the child.

fn live(birth: &Birth<'_>, channel: &Channel) -> Result<(), Failure> {
    let system = worker::system("a hook process");
    let (signals, _stuck) = worker::settle(birth, &[channel.as_fd().as_raw_fd()], Role::HookProcess)?;
    plugin::note_panics(birth.slot);
    let runtime = Runtime::for_template(birth.generation.clone(), birth.slot)
        .map_err(|error| system("the host inside it", &error))?;
    let hooks = Hooks::open(runtime, |copy| worker::present(copy, &birth.images))?;
    plugin::log_panics();
    loop {
        birth.slot.set_stage("waiting for events");
        let mut watches = [Watch::readable(channel.as_fd()), Watch::readable(signals.as_fd())];
        poll(&mut watches, None).map_err(|error| system("poll", &error))?;
        let [told, signalled] = watches.map(|watch| watch.is_ready());
        // TERM and its kin are the master's to act upon: this process leaves after the last event.
        if signalled
            && signals.take().is_ok_and(|came| came.contains(Signal::SIGUSR1))
            && let Err(error) = logging::reopen()
        {
            log::error!("{error}");
        }
        if !told {
            continue;
        }
        match channel.receive().map_err(|error| system("an event", &error))? {
            Incoming::Message(message, _) => run(&hooks, runtime, channel, &message),
            Incoming::Nothing => {}
            Incoming::Closed => return Ok(()),
        }
    }
}

fn run(hooks: &Hooks, runtime: &'static Runtime, channel: &Channel, message: &[u8]) {
    let Some((hook, message)) = message.split_first_chunk::<4>() else { return };
    let Some((question, numbers)) = message.split_first_chunk::<4>() else { return };
    let (numbers, _) = numbers.as_chunks::<8>();
    let numbers: Vec<u64> = numbers.iter().map(|number| u64::from_ne_bytes(*number)).collect();
    let ran = hooks.run(runtime, u32::from_ne_bytes(*hook), &numbers);
    if u32::from_ne_bytes(*question) == 0 {
        if let Err(error) = ran {
            log::error!("{error}");
        }
        return;
    }
    let verdict = match ran {
        Ok(()) => b"y".to_vec(),
        Err(error) => [b"n", error.to_string().as_bytes()].concat(),
    };
    let answer = [question, &verdict[..verdict.len().min(REASON)]].concat();
    // A master that is gone takes this process with it.
    let _ = channel.send(&answer, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_answered_is_one_line() {
        let answer = |verdict: &[u8]| [&7_u32.to_ne_bytes()[..], verdict].concat();
        assert_eq!(parse(&answer(b"y")), (7, Ok(())));
        assert_eq!(parse(&answer(b"nnot\nnow")), (7, Err("not\\nnow".to_owned())));
        assert_eq!(parse(&answer(&[b'n'; 4096])), (7, Err("n".repeat(REASON))));
        for nonsense in [&[][..], b"abc", &answer(b""), &answer(b"?")] {
            assert_eq!(parse(nonsense).1, Ok(()), "{nonsense:?}");
        }
        assert_eq!(parse(b"abc").0, 0, "the number of no question");
    }
}
