//! What each signal means to the master, in the order of docs/SIGNALS.md.
//!
//! Owns the meaning, and the log line that says a signal was seen. What a newcomer would get wrong: nothing here waits.
//! A handler changes what is wanted; the rest of the loop's turn brings it about.

use std::time::Instant;

use super::{Arbiter, Stopping};
use crate::logging;
use crate::sys::signal::{self, Signal};

impl Arbiter {
    /// Acts on all signals that came, in the order of the queue.
    pub(super) fn handle_signals(&mut self, now: Instant) {
        let received = match self.signals.take() {
            Ok(received) => received,
            Err(error) => {
                self.impaired.by("read signals", &error, now);
                return;
            }
        };
        for signal in received.iter().filter_map(|received| received.signal()) {
            // CHLD is too common for a line of its own; what it stands for gets one in `reap`.
            if signal != Signal::SIGCHLD {
                let name = signal.as_str().trim_start_matches("SIG").to_ascii_lowercase();
                log::info!("Handling signal: {name}");
            }
            self.handle_signal(signal, now);
        }
    }

    fn handle_signal(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::SIGTERM => self.stop(Stopping::Graceful, now),
            Signal::SIGINT | Signal::SIGQUIT => self.stop(Stopping::Quick, now),
            Signal::SIGHUP => self.handle_hup(now),
            Signal::SIGUSR1 => self.handle_usr1(),
            Signal::SIGUSR2 => self.handle_usr2(now),
            Signal::SIGWINCH => self.handle_winch(),
            Signal::SIGTTIN => self.handle_ttin(),
            Signal::SIGTTOU => self.handle_ttou(),
            // `reap` comes next in the loop, whatever woke it.
            Signal::SIGCHLD => {}
            // None of the others ends the master by its default action: they are blocked, and mean nothing.
            other => log::debug!("{other} means nothing to the master"),
        }
    }

    /// HUP: read the configuration again and make the next generation.
    fn handle_hup(&mut self, now: Instant) {
        if self.stopping.is_some() {
            log::info!("The server is stopping; the reload is not begun");
            return;
        }
        log::info!("Hang up: {}", self.kin.name());
        self.bring_back();
        self.begin_reload(now);
    }

    /// USR1: open the logs anew, here and in every worker.
    fn handle_usr1(&mut self) {
        if let Err(error) = logging::reopen() {
            log::error!("{error}");
        }
        // Before the workers open it: in a directory where only root may make files, they could not.
        let access_log = self.config().and_then(|config| {
            let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
            logging::try_open(config.accesslog.as_ref()?, owner).err()
        });
        if let Some(error) = access_log {
            log::error!("{error}");
        }
        self.monitors.reopen_logs();
        for pid in self.children.keys() {
            self.send(nix::unistd::Pid::from_raw(*pid), Signal::SIGUSR1);
        }
        // A worker that is forked later has the log of its template.
        for pid in self.templates.pids().chain(self.attendants.pids()) {
            if let Err(error) = signal::send(pid, Signal::SIGUSR1) {
                log::error!("cannot send SIGUSR1 to the template or hook process (pid:{pid}): {error}");
            }
        }
    }

    /// TTIN: one worker more.
    fn handle_ttin(&mut self) {
        let wanted = self.roster.workers();
        if self.roster.set_workers(wanted + 1) == wanted {
            log::warn!("There are {wanted} workers, as many as there can be; TTIN changes nothing");
        }
    }

    /// TTOU: one worker less, but never none.
    fn handle_ttou(&mut self) {
        let wanted = self.roster.workers();
        if wanted == 0 {
            log::warn!("There are no workers since WINCH; TTOU changes nothing");
            return;
        }
        if self.roster.set_workers(wanted.saturating_sub(1)) == wanted {
            log::warn!("There is one worker left, as few as there can be; TTOU changes nothing");
        }
    }
}
