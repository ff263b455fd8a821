//! USR2: another master beside this one, with the same sockets; and WINCH, which makes room for it.
//!
//! | the old master ([`Successor`])               | the new one ([`Elder`])                          |
//! |----------------------------------------------|--------------------------------------------------|
//! | USR2: forks, executes what was typed         | takes the sockets, pid file with `.2`            |
//! | hears *ready*, or why not and serves on      | its first worker is ready: tells                 |
//! | WINCH: its workers drain; HUP: they are back | serves                                           |
//! | TERM, QUIT: leaves the sockets, ends         | finds its end of the channel closed: is promoted |
//!
//! Whatever ends one of the two, `kill -9` included, the other one finds out by what the kernel does then (CHLD, or the
//! closed channel) and has the sockets alone again.
//!
//! What a newcomer would get wrong: while there are two, neither may filter, shrink or unlink what both listen on; that is
//! [`Holder::Sibling`](crate::listener::Holder). And the program is looked up as it was typed, in the child, at the time
//! of the signal: `/proc/self/exe` would be the very file that is to be replaced.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

use super::Arbiter;
use super::hooks::Question;
use crate::config::Config;
use crate::error::{EXIT_SETTINGS, StartError};
use crate::inherit::{HANDOVER, HandedSocket, Handover, Inheritance};
use crate::listener::{Holder, Listener};
use crate::outcome::{News, Outcome};
use crate::pidfile::PidfileError;
use crate::sys::fd::{Channel, Watch, channel};
use crate::sys::inherit::FIRST;
use crate::sys::wait::Ended;
use crate::sys::{Pid, exec, fork};

/// How long the pid file of a master that was killed may still be held, and how often it is tried again: the kernel closes
/// a dead process's descriptors one after another.
const PIDFILE_PATIENCE: Duration = Duration::from_secs(2);
const PIDFILE_PAUSE: Duration = Duration::from_millis(20);

/// What stands behind the pid file's name while the old master lives: Gunicorn's.
const SECOND: &str = ".2";

/// What was typed, and where: as it was before anybody could change a word of it.
#[derive(Debug)]
struct Typed {
    words: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    /// Where this program's file was at the start: if what was typed leads nowhere (a login shell's `-name`).
    fallback: PathBuf,
}

/// The master that started this one.
#[derive(Debug)]
struct Elder {
    pid: i32,
    channel: Channel,
    /// Since when it is gone, and when its pid file is tried next.
    gone: Option<(Instant, Instant)>,
}

/// The master that this one has started.
#[derive(Debug)]
struct Successor {
    pid: Pid,
    channel: Channel,
    /// Its end is closed: how it ended comes with CHLD.
    closed: bool,
    ready: bool,
    /// Why it could not start has been said.
    excused: bool,
}

/// The other master, if there is one, and what is needed to make one.
#[derive(Debug)]
pub(super) struct Kin {
    typed: Typed,
    elder: Option<Elder>,
    successor: Option<Successor>,
    /// The command that was given `--daemon`.
    launcher: Option<Rc<Channel>>,
    /// The configuration wants a daemon, and this process is none.
    to_detach: bool,
    /// Whoever waits for the first start has been told.
    announced: bool,
    /// The workers were sent away by WINCH.
    resting: bool,
    /// The hook pre_exec is waited for.
    asked: bool,
}

impl Kin {
    /// Master: who started this one, and how it was typed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(inheritance: &Inheritance, launcher: Option<Rc<Channel>>) -> io::Result<Self> {
        let elder = match inheritance.predecessor() {
            Some(predecessor) => {
                let channel = inheritance.channel()?;
                channel.set_nonblocking()?;
                Some(Elder { pid: predecessor.pid, channel, gone: None })
            }
            None => None,
        };
        let typed = Typed {
            words: std::env::args_os().collect(),
            variables: std::env::vars_os().collect(),
            // Without /proc there is only what was typed.
            fallback: std::env::current_exe().unwrap_or_default(),
        };
        let (to_detach, announced, resting, asked) = (false, false, false, false);
        Ok(Self { typed, elder, successor: None, launcher, to_detach, announced, resting, asked })
    }

    /// The hook pre_exec was heard, or is not waited for any more.
    pub(super) fn hook_was_heard(&mut self) {
        self.asked = false;
    }

    /// What the master is to wait for.
    pub(super) fn watches(&self) -> impl Iterator<Item = Watch<'_>> {
        let elder = self.elder.as_ref().filter(|elder| elder.gone.is_none());
        let successor = self.successor.as_ref().filter(|successor| !successor.closed);
        let channels = elder
            .map(|elder| &elder.channel)
            .into_iter()
            .chain(successor.map(|successor| &successor.channel));
        channels.map(|channel| Watch::readable(channel.as_fd()))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.elder.as_ref()?.gone.map(|(_, next)| next)
    }

    /// As Gunicorn calls itself in its log.
    pub(super) fn name(&self) -> &'static str {
        if self.elder.is_some() { "Master.2" } else { "Master" }
    }

    /// The process that takes over when this one ends, if there is one.
    pub(super) fn heir(&self) -> Option<Pid> {
        self.successor.as_ref().map(|successor| successor.pid)
    }

    /// Whether the master that started this one still lives: it speaks for the service.
    pub(super) fn is_second(&self) -> bool {
        self.elder.is_some()
    }

    /// Whether this process has to become a daemon before it can serve by this configuration; remembered if so.
    pub(super) fn must_detach(&mut self, config: &Config) -> bool {
        let wanted = config.setting_text("daemon").as_deref() == Some("true");
        self.to_detach = wanted && self.launcher.is_none() && self.elder.is_none();
        self.to_detach
    }

    /// Whether the loop is to end for that.
    pub(super) fn is_to_detach(&self) -> bool {
        self.to_detach
    }

    /// Where the pid file is to be by a configuration.
    pub(super) fn pidfile(&self, config: &Config) -> Option<PathBuf> {
        let plain = config.pidfile.clone()?;
        if self.elder.is_none() {
            return Some(plain);
        }
        let mut second = plain.into_os_string();
        second.push(SECOND);
        Some(second.into())
    }

    /// Tells whoever waits for the first start that it failed. What is left to say: nothing if the old master logs it.
    pub(super) fn tell_failure(&self, failure: StartError) -> StartError {
        if let (Some(elder), false) = (&self.elder, self.announced) {
            let code = u8::try_from(failure.exit_code()).unwrap_or(1);
            Outcome::Failed(code, failure.to_string()).tell(&elder.channel);
            if elder.gone.is_none() {
                return StartError::told(failure.exit_code());
            }
        }
        failure
    }
}

impl Arbiter {
    /// USR2: executes a new master beside this one.
    pub(super) fn handle_usr2(&mut self, now: Instant) {
        if self.kin.successor.is_some() {
            log::warn!("USR2 signal ignored. Child exists.");
        } else if self.kin.elder.is_some() {
            log::warn!("USR2 signal ignored. Parent exists.");
        } else if self.stopping.is_some() || self.serving == 0 {
            log::warn!("USR2 signal ignored. The server is starting or stopping.");
        } else if self.kin.asked {
            log::warn!("USR2 signal ignored. The hook pre_exec has not answered yet.");
        } else {
            self.kin.asked = self.ask_hooks(self.serving, Question::Exec, now);
            if !self.kin.asked {
                self.execute_successor();
            }
        }
    }

    /// A hook may have been heard first, and the server may be stopping by now.
    pub(super) fn execute_successor(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        match self.fork_successor() {
            Ok(successor) => {
                log::info!("A new master is executed (pid:{})", successor.pid);
                let listeners = self.generations.values().flat_map(|held| &held.listeners);
                for listener in listeners.map(Rc::as_ref).chain(self.monitors.listeners()) {
                    listener.share();
                }
                self.kin.successor = Some(successor);
            }
            Err(error) => log::error!("cannot execute a new master: {error}; this one serves on"),
        }
    }

    fn fork_successor(&self) -> io::Result<Successor> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking()?;
        let pid = fork::fork(|| match self.become_successor(&theirs) {
            Ok(never) => match never {},
            Err((channel, sentence)) => {
                Outcome::Failed(EXIT_SETTINGS as u8, sentence).tell(channel.as_ref().unwrap_or(&theirs));
                EXIT_SETTINGS
            }
        })?;
        Ok(Successor { pid, channel: ours, closed: false, ready: false, excused: false })
    }

    /// Child: executes the program that was typed. What is returned is why not, and, once descriptors have moved, where to
    /// say so.
    fn become_successor(
        &self,
        theirs: &Channel,
    ) -> Result<std::convert::Infallible, (Option<Channel>, String)> {
        // 1. What is handed over, in the order of the numbers that it will have: the service manager's first, since they
        //    must begin at 3.
        let activated: Vec<_> = self.inheritance.activated().collect();
        let passed = self.inheritance.passed();
        let held = self.generations.get(&self.serving).into_iter().flat_map(|held| &held.listeners);
        let held = held.map(Rc::as_ref).chain(self.monitors.listeners());
        let own: Vec<_> = held.filter(|listener| listener.holder() != Holder::Foreign).collect();
        let mut descriptors: Vec<BorrowedFd<'_>> =
            activated.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut sockets = Vec::new();
        let mut number = FIRST + RawFd::try_from(activated.len()).unwrap_or(0);
        let own = own.iter().map(|listener| {
            let address = listener.address().clone();
            (HandedSocket { fd: 0, address, file: listener.file(), foreign: false }, listener.as_fd())
        });
        let passed = passed.iter().map(|(socket, fd)| (socket.clone(), fd.as_fd()));
        for (socket, fd) in own.chain(passed) {
            sockets.push(HandedSocket { fd: number, ..socket });
            descriptors.push(fd);
            number += 1;
        }
        descriptors.push(theirs.as_fd());
        // 2. The words about it. The process id stays the same over exec.
        let pid = nix::unistd::getpid();
        let handover =
            Handover { pid: pid.as_raw(), master: nix::unistd::getppid().as_raw(), channel: number, sockets };
        let handover = serde_json::to_string(&handover).map_err(|error| (None, error.to_string()))?;
        let mut variables = self.kin.typed.variables.clone();
        variables.retain(|(name, _)| name != HANDOVER && !name.as_bytes().starts_with(b"LISTEN_"));
        variables.push((HANDOVER.into(), handover.into()));
        if !activated.is_empty() {
            let names: Vec<&str> = activated.iter().map(|(name, _)| *name).collect();
            variables.push(("LISTEN_PID".into(), pid.to_string().into()));
            variables.push(("LISTEN_FDS".into(), activated.len().to_string().into()));
            variables.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
        }
        for (_, value) in variables.iter_mut().filter(|(name, _)| name == "WATCHDOG_PID") {
            *value = pid.to_string().into();
        }
        // 3. The directory that was typed in, afresh: a release may be a symlink.
        let directory = &self.sources.directory;
        nix::unistd::chdir(directory.as_path())
            .map_err(|errno| (None, format!("cannot enter {}: {}", directory.display(), errno.desc())))?;
        let program = self.kin.typed.program(directory);
        // 4. The descriptors. From here on this process can do nothing but execute, say why not, and leave.
        let mut placed = exec::place(&descriptors).map_err(|error| (None, error.to_string()))?;
        let channel = placed.pop().map(Channel::from_fd);
        // 5. Signals stay blocked over exec, as they are for a fork: the new master reads them when it can.
        match exec::execute(&program, &self.kin.typed.words, &variables) {
            Ok(never) => match never {},
            Err(error) => {
                let why = crate::error::io_text(&error);
                Err((channel, format!("cannot execute {}: {why}; put the program back", program.display())))
            }
        }
    }

    /// Learns what the other master has to say, if it says anything or is gone, and says what this one has to.
    pub(super) fn hear_kin(&mut self, now: Instant) {
        self.hear_successor();
        if self.serving != 0 && !self.kin.announced {
            self.kin.announced = true;
            if let Some(launcher) = self.kin.launcher.take() {
                Outcome::Ready.tell(&launcher);
            }
            if let Some(elder) = &self.kin.elder {
                Outcome::Ready.tell(&elder.channel);
            }
        }
        let Some(elder) = &mut self.kin.elder else { return };
        // It never says anything: only its end is of interest. So is that of a channel that cannot be read.
        if elder.gone.is_none() && !matches!(Outcome::hear(&elder.channel), Ok(News::Nothing)) {
            log::info!("The old master (pid:{}) is gone", elder.pid);
            elder.gone = Some((now, now));
        }
        // Before the first worker is ready there is nothing to promote.
        if let Some((since, next)) = elder.gone
            && next <= now
            && self.serving != 0
        {
            self.promote(since, now);
        }
    }

    fn hear_successor(&mut self) {
        let Some(successor) = self.kin.successor.as_mut().filter(|successor| !successor.closed) else {
            return;
        };
        loop {
            match Outcome::hear(&successor.channel) {
                Ok(News::Nothing) => return,
                Ok(News::Is(Outcome::Ready)) => {
                    successor.ready = true;
                    log::info!("The new master (pid:{}) is ready", successor.pid);
                }
                Ok(News::Is(Outcome::Failed(_, sentence))) => {
                    successor.excused = true;
                    log::error!(
                        "The new master (pid:{}) could not start, this one serves on: {sentence}",
                        successor.pid
                    );
                }
                Ok(News::Gone) => {
                    successor.closed = true;
                    return;
                }
                Err(error) => {
                    log::warn!("the new master (pid:{}) cannot be understood: {error}", successor.pid)
                }
            }
        }
    }

    /// Learns that the new master has died. True if it was that.
    pub(super) fn successor_died(&mut self, pid: Pid, ended: Ended) -> bool {
        if self.kin.heir() != Some(pid) {
            return false;
        }
        // Its last words may still be in the channel.
        self.hear_successor();
        let Some(successor) = self.kin.successor.take() else { return true };
        match (successor.ready, successor.excused) {
            (false, true) => {}
            (false, false) => {
                log::error!("The new master (pid:{pid}) {ended} before it was ready; this one serves on");
            }
            (true, _) => log::warn!("The new master (pid:{pid}) {ended}; this one serves on"),
        }
        self.reclaim_listeners();
        if self.stopping.is_none() {
            self.bring_back();
        }
        true
    }

    /// The old master is gone: this one has its name, its pid file and its sockets.
    fn promote(&mut self, since: Instant, now: Instant) {
        let Some(config) = self.config() else { return };
        let (path, backlog, umask) = (config.pidfile.clone(), config.backlog, config.umask);
        let owner = config.identity.as_ref().map(|identity| (identity.uid, identity.gid));
        let renamed = match (&mut self.pidfile, &path) {
            (Some(pidfile), Some(path)) => pidfile.rename(path),
            (Some(_) | None, _) => Ok(()),
        };
        match renamed {
            Err(PidfileError::AlreadyRunning { .. }) if now < since + PIDFILE_PATIENCE => {
                if let Some(elder) = &mut self.kin.elder {
                    elder.gone = Some((since, now + PIDFILE_PAUSE));
                }
                return;
            }
            Err(error) => log::error!("{error}"),
            Ok(()) => {}
        }
        log::info!("Master has been promoted.");
        self.kin.elder = None;
        self.reclaim_listeners();
        let Some(held) = self.generations.get(&self.serving) else { return };
        for listener in held.listeners.iter().filter(|listener| listener.is_ours()) {
            if let Err(error) = listener.listen(backlog).and_then(|()| listener.set_access(umask, owner)) {
                log::warn!("{error}");
            }
        }
    }

    /// There is no other master any more.
    fn reclaim_listeners(&self) {
        self.monitors.listeners().for_each(Listener::reclaim);
        for listener in self.generations.values().flat_map(|held| &held.listeners) {
            listener.reclaim();
            if self.stopping.is_some()
                && let Err(error) = listener.stop_new_connections()
            {
                log::warn!("{error}");
            }
        }
    }

    /// WINCH: all workers finish what they have and leave; the sockets stay. HUP brings workers back.
    pub(super) fn handle_winch(&mut self) {
        if self.stopping.is_some() || self.serving == 0 {
            return;
        }
        if has_terminal() {
            // A window has changed its size.
            log::info!("SIGWINCH ignored. A terminal controls the master");
            return;
        }
        if self.kin.successor.is_none() {
            log::warn!("Nobody serves from now on: there is no other master. HUP brings the workers back");
        }
        log::info!("graceful stop of workers");
        self.kin.resting = true;
        self.roster.rest();
    }

    /// Ends what WINCH began.
    pub(super) fn bring_back(&mut self) {
        if !std::mem::take(&mut self.kin.resting) {
            return;
        }
        if let Some(workers) = self.config().map(|config| config.workers as usize) {
            self.roster.set_workers(workers);
        }
    }
}

impl Typed {
    /// Child: the file that the first word stands for now, as a shell started in `directory` would find it.
    fn program(&self, directory: &Path) -> PathBuf {
        let word = self.words.first().map(OsString::as_os_str).unwrap_or_default();
        if word.as_bytes().contains(&b'/') {
            return directory.join(word);
        }
        let path = self.variables.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let found = std::env::split_paths(path.unwrap_or(OsStr::new("")))
            .map(|place| directory.join(place).join(word))
            .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok());
        found.filter(|_| !word.is_empty()).unwrap_or_else(|| self.fallback.clone())
    }
}

/// Whether the process has a controlling terminal: field 7 of proc_pid_stat(5). Without /proc it has none.
fn has_terminal() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name stands in parentheses and may hold anything.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_ascii_whitespace().nth(4).is_some_and(|terminal| terminal != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(word: &str, path: &str, directory: &str) -> PathBuf {
        let variables = vec![("PATH".into(), path.into())];
        let typed = Typed { words: vec![word.into()], variables, fallback: "/fallback".into() };
        typed.program(Path::new(directory))
    }

    #[test]
    fn the_program_is_found_as_a_shell_finds_it() {
        let cases = [
            ("/opt/x/rgunicorn", "/bin", "/srv", "/opt/x/rgunicorn"),
            ("./rgunicorn", "/bin", "/srv", "/srv/./rgunicorn"),
            ("sh", "/nowhere:/bin", "/srv", "/bin/sh"),
            ("sh", "bin", "/", "/bin/sh"),
            ("no-such-program", "/bin", "/srv", "/fallback"),
            ("-rgunicorn", "/bin", "/srv", "/fallback"),
            ("", "/bin", "/srv", "/fallback"),
        ];
        for (word, path, directory, expected) in cases {
            assert_eq!(program(word, path, directory), Path::new(expected), "{word:?}");
        }
    }
}
