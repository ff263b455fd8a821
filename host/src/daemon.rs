//! `--daemon`: the master as a process of its own session, without a terminal.
//!
//! Owns the detaching, and what the command that was typed waits for. Does not own the master ([`crate::arbiter`]).
//!
//! The command ends when the first worker of the daemon is ready, with 0, or when the start has failed, with the sentence
//! and the exit code that it would have had in the foreground. Gunicorn's ends at once, and a script cannot tell.
//!
//! What a newcomer would get wrong: whether to detach may be said in the file, which only the probe reads. The master that
//! learns it then has served nobody: it gives up what it has begun, and begins again as a daemon.

use std::rc::Rc;

use nix::unistd::setsid;

use crate::arbiter::{Arbiter, Finished};
use crate::config::Sources;
use crate::error::{EXIT_SETTINGS, StartError};
use crate::inherit::Inheritance;
use crate::outcome::{News, Outcome};
use crate::settings::Value;
use crate::sys::fd::{Channel, channel};
use crate::sys::signal::Mask;
use crate::sys::{fork, process, wait};

/// The permission bits that a daemon's own files do not get, as with Gunicorn: pid file and logs.
const UMASK: u32 = 0o022;

/// Master: serves until the end, here or as a daemon. `mask` is what was blocked when the program began.
///
/// # Errors
/// The first start failed: the sentence and exit code.
pub fn serve(sources: &Sources, inheritance: &Rc<Inheritance>, mask: &Mask) -> Result<(), StartError> {
    let master = |launcher| Arbiter::start(sources.clone(), Rc::clone(inheritance), launcher)?.run();
    // A master that USR2 has started is as detached as its parent.
    let may_detach = inheritance.predecessor().is_none();
    let typed = sources.argv.get("daemon").is_some_and(|given| given.value == Value::Flag(true));
    if !(typed && may_detach) && master(None)? == Finished::Stopped {
        return Ok(());
    }
    detach(mask, |launcher| master(Some(launcher)).map(|_| ()))
}

/// Forks twice and runs `master` there; returns what has become of its start.
fn detach(mask: &Mask, master: impl FnOnce(Rc<Channel>) -> Result<(), StartError>) -> Result<(), StartError> {
    let fail = |what: &str, error: &std::io::Error| {
        StartError::new(EXIT_SETTINGS, format!("cannot become a daemon: {what}: {error}"))
    };
    let (ours, theirs) = channel().map_err(|error| fail("socketpair", &error))?;
    // Signals stay blocked in both children: one that comes early waits for the master to read it.
    let theirs = Rc::new(theirs);
    let copy = Rc::clone(&theirs);
    let leader = fork::fork(move || {
        // 1. A session of its own, without a terminal.
        if let Err(errno) = setsid() {
            Outcome::Failed(1, format!("cannot become a daemon: setsid: {}", errno.desc())).tell(&copy);
            return EXIT_SETTINGS;
        }
        // 2. Once more: who does not lead the session can never get a terminal again by opening one.
        let told = Rc::clone(&copy);
        match fork::fork(move || live(&copy, master)) {
            Ok(_) => 0,
            Err(error) => {
                Outcome::Failed(1, format!("cannot become a daemon: fork: {error}")).tell(&told);
                EXIT_SETTINGS
            }
        }
    })
    .map_err(|error| fail("fork", &error))?;
    drop(theirs);
    wait::wait(leader).map_err(|error| fail("waitpid", &error))?;
    // From here on Ctrl-C ends this command, and not the daemon, which has another session.
    mask.restore().map_err(|error| fail("sigprocmask", &error))?;
    match Outcome::hear(&ours).map_err(|error| fail("recvmsg", &error))? {
        News::Is(Outcome::Ready) => Ok(()),
        News::Is(Outcome::Failed(code, sentence)) => Err(StartError::new(i32::from(code), sentence)),
        News::Nothing | News::Gone => Err(StartError::new(
            EXIT_SETTINGS,
            "the daemon has ended before it was ready, without a word; look into its error log (--error-logfile)",
        )),
    }
}

/// The daemon's life; returns the exit code.
fn live(launcher: &Rc<Channel>, master: impl FnOnce(Rc<Channel>) -> Result<(), StartError>) -> i32 {
    process::set_umask(UMASK);
    let detached = process::detach_streams().map_err(|error| {
        StartError::new(EXIT_SETTINGS, format!("cannot become a daemon: /dev/null: {error}"))
    });
    match detached.and_then(|()| master(Rc::clone(launcher))) {
        Ok(()) => 0,
        Err(error) => {
            let code = error.exit_code();
            Outcome::Failed(u8::try_from(code).unwrap_or(1), error.to_string()).tell(launcher);
            code
        }
    }
}
