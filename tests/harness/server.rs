//! A running `rgunicorn`, as an operator has it: a process, an address, a log, signals.
//!
//! Owns the master's process group and its end: a server that a test leaves behind is a failure, and so is an error in
//! the log that the test did not expect. Does not own the directory: [`Site`]. What a newcomer would get wrong: the
//! error log is read as a file, so a line is a condition to wait for, never something to have been fast enough to see.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::classes::Class;
use crate::guard;
use crate::http::{Address, Response};
use crate::process::{self, Process};
use crate::programs::programs;
use crate::settings::Settings;
use crate::site::Site;
use crate::wait::{DEADLINE, wait_for, within};

/// What a server shall be started with.
#[derive(Debug)]
pub struct Launch<'s> {
    site: &'s Site,
    /// The configuration file.
    pub settings: Settings,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    program: PathBuf,
    /// What a shell does before it becomes the server.
    script: Option<String>,
    passed: Vec<OwnedFd>,
}

/// How a server that could not start has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it took.
    pub time: Duration,
    /// What is left of its process group.
    pub processes: Vec<Process>,
}

/// A server.
#[derive(Debug)]
pub struct Server<'s> {
    site: &'s Site,
    /// The configuration file as it was last written by [`Server::configure`] or at the start.
    pub settings: Settings,
    master: Child,
    addresses: Vec<Address>,
    /// Where its part of the error log begins: servers of one site share the file.
    log_begin: usize,
    expected: Vec<String>,
    ended: bool,
}

/// A line of the error log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Who wrote it.
    pub pid: i32,
    /// `INFO`, `ERROR` …
    pub level: String,
    /// The rest.
    pub message: String,
}

impl<'s> Launch<'s> {
    pub(crate) fn new(site: &'s Site) -> Self {
        let mut settings = Settings::default();
        settings.text("application", "app.so:app").list("bind", &["127.0.0.1:0"]);
        if std::env::var_os("RGUNICORN_TEST_PRELOAD").is_some() {
            settings.raw("preload_app", "true");
        }
        let program = programs().rgunicorn();
        let (arguments, variables, passed) = (Vec::new(), Vec::new(), Vec::new());
        Self { site, settings, arguments, variables, program, script: None, passed }
    }

    /// Another file than the built one.
    pub fn program(mut self, file: impl Into<PathBuf>) -> Self {
        self.program = file.into();
        self
    }

    /// Through a shell that runs these words first, and then becomes the server: `"$@"` is its command line.
    pub fn through(mut self, script: &str) -> Self {
        self.script = Some(script.to_owned());
        self
    }

    /// With one or two descriptors open, 3 and 4. The words are run first, and end in `exec "$@"`.
    pub fn passing(self, sockets: Vec<OwnedFd>, script: &str) -> Self {
        let redirections = match sockets.len() {
            1 => "exec 3<&0 </dev/null",
            2 => "exec 3<&0 4<&1 </dev/null >stdout",
            other => panic!("one or two sockets can be passed, not {other}"),
        };
        let mut launch = self.through(&format!("{redirections}; {script}"));
        launch.passed = sockets;
        launch
    }

    /// So many workers.
    pub fn workers(mut self, count: usize) -> Self {
        self.settings.raw("workers", &count.to_string());
        self
    }

    /// Under this worker class.
    pub fn class(mut self, class: Class) -> Self {
        self.settings.text("worker_class", class.name);
        self
    }

    /// With these settings, each as TOML writes it.
    pub fn settings(mut self, settings: &[(&str, &str)]) -> Self {
        for (name, value) in settings {
            self.settings.raw(name, value);
        }
        self
    }

    /// On a port and on a Unix socket, in this order.
    pub fn everywhere(mut self) -> Self {
        self.settings.list("bind", &["127.0.0.1:0", "unix:server.sock"]);
        self
    }

    /// With a pid file, `pid`.
    pub fn pidfile(mut self) -> Self {
        self.settings.text("pidfile", "pid");
        self
    }

    /// With other changes of the configuration file.
    pub fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// With words on the command line.
    pub fn args<T: AsRef<OsStr>>(mut self, words: &[T]) -> Self {
        self.arguments.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn spawn(&self) -> Child {
        self.site.write("server.toml", self.settings.to_toml());
        let file = |name| File::create(self.site.join(name)).expect("a file in our directory");
        let mut command = match &self.script {
            None => Command::new(&self.program),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]).arg(&self.program);
                shell
            }
        };
        let mut passed = self.passed.iter().map(|fd| Stdio::from(fd.try_clone().expect("a descriptor")));
        for name in ["PORT", "WEB_CONCURRENCY", "RGUNICORN_CMD_ARGS", "RGUNICORN_PLUGIN_PATH", "INSPECT_INIT"]
        {
            command.env_remove(name);
        }
        let master = command
            .args(["--config", "server.toml", "--error-logfile"])
            // In full, because relative ones start at `chdir`.
            .arg(self.site.join("error.log"))
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("PWD", self.site.path())
            .current_dir(self.site.path())
            .stdin(passed.next().unwrap_or_else(Stdio::null))
            .stdout(passed.next().unwrap_or_else(|| file("stdout").into()))
            .stderr(file("stderr"))
            .process_group(0)
            .spawn()
            .expect("the server's binary");
        guard::begun(master.id() as i32);
        master
    }

    /// Starts the server and waits until it listens and has all its workers.
    pub fn start(self) -> Server<'s> {
        let log_begin = fs::metadata(self.site.join("error.log")).map_or(0, |found| found.len() as usize);
        let master = self.spawn();
        let mut server = Server {
            site: self.site,
            settings: self.settings,
            master,
            addresses: Vec::new(),
            log_begin,
            expected: Vec::new(),
            ended: false,
        };
        wait_for("the server to listen", || {
            assert!(!server.has_ended(), "the server has ended: {}", server.site.read("stderr"));
            server.log().contains("Using worker: ")
        });
        server.addresses = server.lines().iter().filter_map(listening_at).collect();
        // The command line may ask for more.
        let least = server.settings.get("workers").map_or(1, |count| count.parse().expect("a number"));
        wait_for(&format!("{least} workers"), || server.workers().len() >= least);
        server
    }

    /// Starts a server that cannot start, and waits for its end.
    pub fn start_in_vain(self) -> Ended {
        let mut master = self.spawn();
        self.end_of(&mut master)
    }

    /// Starts a server, and sends it a signal as soon as its children are as they should be; returns also how long it
    /// took to end after that.
    pub fn start_and_stop(self, signal: Signal, children: impl Fn(&[Process]) -> bool) -> (Ended, Duration) {
        let mut master = self.spawn();
        let pid = master.id() as i32;
        wait_for("the server's children", || children(&process::children(pid)));
        process::send(pid, signal);
        let ended = self.end_of(&mut master);
        let time = ended.time;
        (ended, time)
    }

    fn end_of(&self, master: &mut Child) -> Ended {
        let begin = Instant::now();
        let group = master.id() as i32;
        let mut status = None;
        let _ = within(DEADLINE, || {
            status = master.try_wait().expect("it is our child");
            status.is_some()
        });
        let time = begin.elapsed();
        let processes = process::group(group);
        // After a failure nothing may be left for the next test.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        if status.is_none() {
            let _ = master.wait();
        }
        guard::ended(group);
        let (stderr, log) = (self.site.read("stderr"), self.site.read("error.log"));
        let seconds = DEADLINE.as_secs();
        let status =
            status.unwrap_or_else(|| panic!("the server has not ended within {seconds} s: {stderr}\n{log}"));
        Ended { status, stderr, time, processes }
    }
}

fn listening_at(line: &LogLine) -> Option<Address> {
    let (address, _pid) = line.message.strip_prefix("Listening at: ")?.rsplit_once(" (")?;
    match address.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(PathBuf::from(path))),
        None => Some(Address::Tcp(address.strip_prefix("http://")?.parse().ok()?)),
    }
}

impl Server<'_> {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.master.id() as i32
    }

    /// Where it listens; if in several places, the first.
    pub fn address(&self) -> &Address {
        self.addresses.first().expect("a server that started listens")
    }

    /// All places where it listened after it started, in the order of `bind`.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The answer to a GET, which must come.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        match self.address().get(target) {
            Ok(response) => response,
            Err(failure) => panic!("GET {target}: {failure}"),
        }
    }

    /// The body of the answer to a GET, which must come and be a 200.
    #[track_caller]
    pub fn text(&self, target: &str) -> String {
        let response = self.get(target);
        assert_eq!(response.status, 200, "GET {target}: {}", response.text());
        response.text()
    }

    /// The error log from this server's start on.
    pub fn log(&self) -> String {
        let log = fs::read(self.site.join("error.log")).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_begin..).unwrap_or_default()).into_owned()
    }

    /// The error log, understood. Of a line that is half written nothing is seen.
    pub fn lines(&self) -> Vec<LogLine> {
        let log = self.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(parse_line).collect()
    }

    /// The lines of level ERROR and CRITICAL.
    pub fn errors(&self) -> Vec<LogLine> {
        self.lines().into_iter().filter(|line| matches!(line.level.as_str(), "ERROR" | "CRITICAL")).collect()
    }

    /// The messages that contain a text.
    pub fn messages(&self, text: &str) -> Vec<String> {
        self.lines().into_iter().map(|line| line.message).filter(|message| message.contains(text)).collect()
    }

    /// Waits for a message that contains a text, and returns the first.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the log"), || !self.messages(text).is_empty());
        self.messages(text).swap_remove(0)
    }

    /// The processes whose parent is the master: workers, and while a reload goes on its probe.
    pub fn children(&self) -> Vec<i32> {
        process::children(self.pid()).iter().map(|child| child.pid).collect()
    }

    /// The workers: children that the log says are some, and that still run. A probe is none.
    pub fn workers(&self) -> Vec<i32> {
        let booted: Vec<i32> = self.lines().iter().filter_map(booting_worker).collect();
        let children = process::children(self.pid());
        let workers = children.iter().filter(|child| child.state != 'Z' && booted.contains(&child.pid));
        workers.map(|child| child.pid).collect()
    }

    /// Waits until there are so many workers, and returns them.
    #[track_caller]
    pub fn wait_workers(&self, count: usize) -> Vec<i32> {
        wait_for(&format!("{count} workers"), || self.workers().len() == count);
        self.workers()
    }

    /// Waits until a process has died and was reaped.
    #[track_caller]
    pub fn wait_gone(&self, pid: i32) -> Duration {
        wait_for(&format!("the end of process {pid}"), || process::find(pid).is_none())
    }

    /// Sends a signal to the master.
    pub fn signal(&self, signal: Signal) {
        assert!(!self.ended, "the server has ended");
        process::send(self.pid(), signal);
    }

    /// Writes the configuration file anew.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.site.write("server.toml", self.settings.to_toml());
    }

    /// How reloads have ended so far, in order.
    pub fn verdicts(&self) -> Vec<String> {
        let is_verdict = |message: &String| {
            ["Reloaded: ", "Reload refused", "Reload rolled back"]
                .iter()
                .any(|begin| message.starts_with(begin))
        };
        self.lines().into_iter().map(|line| line.message).filter(is_verdict).collect()
    }

    /// HUP; waits for how it ends, and returns that message.
    #[track_caller]
    pub fn reload(&self) -> String {
        let before = self.verdicts().len();
        self.signal(Signal::SIGHUP);
        self.wait_verdict(before)
    }

    /// Waits for the next verdict after the first so many.
    #[track_caller]
    pub fn wait_verdict(&self, before: usize) -> String {
        wait_for("the end of the reload", || self.verdicts().len() > before);
        self.verdicts().swap_remove(before)
    }

    /// HUP that must succeed, and the old workers' end.
    #[track_caller]
    pub fn reload_well(&self) {
        let old = self.workers();
        let verdict = self.reload();
        assert!(verdict.starts_with("Reloaded: "), "{verdict}");
        for pid in old {
            self.wait_gone(pid);
        }
    }

    /// An error line that contains this text is part of the test, and so is what a runtime says as it aborts.
    pub fn expect_error(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Fails the test if the log holds an error that it did not expect.
    #[track_caller]
    pub fn check_log(&self) {
        for line in self.errors() {
            let expected = self.expected.iter().any(|text| line.message.contains(text));
            assert!(expected, "the log has an unexpected {}: {}", line.level, line.message);
        }
        // What Rust's runtime says when it aborts, in whatever process.
        let stderr = self.site.read("stderr");
        for line in stderr.lines().filter(|line| line.contains("fatal runtime error")) {
            assert!(self.expected.iter().any(|text| line.contains(text)), "{stderr}");
        }
    }

    /// Whether the master has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.master.try_wait(), Ok(Some(_)))
    }

    /// Sends a signal that ends the server, and waits for the end; returns its status and how long that took.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        self.signal(signal);
        self.wait_end()
    }

    /// Waits for the master's end. Its process group must have ended with it.
    #[track_caller]
    pub fn wait_end(&mut self) -> (ExitStatus, Duration) {
        let time = wait_for("the end of the master", || self.has_ended());
        let status = self.master.wait().expect("it is our child");
        if status.signal().is_none() {
            assert_eq!(process::group(self.pid()), [], "processes are left");
        }
        self.ended = true;
        guard::ended(self.pid());
        (status, time)
    }

    /// Waits for the end of this master alone: one that it has executed may go on, and its workers with it.
    #[track_caller]
    pub fn wait_end_alone(&mut self) -> ExitStatus {
        wait_for("the end of the old master", || self.has_ended());
        self.ended = true;
        self.master.wait().expect("it is our child")
    }

    /// After this master has ended alone: TERM to the one that took over. Nothing is left of either.
    #[track_caller]
    pub fn finish_heir(self, heir: i32) {
        assert!(self.ended && process::runs(heir), "the other one was to go on");
        process::send(heir, Signal::SIGTERM);
        wait_for("the end of the new master", || process::group(self.pid()).is_empty());
        guard::ended(self.pid());
        self.check_log();
        assert_eq!(self.site.leftovers(), Vec::<PathBuf>::new(), "left in {}", self.site.path().display());
    }

    /// kill -9 of the master. What happens to the rest is the test's to look at.
    pub fn kill_master(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.wait_end();
    }

    /// TERM. The server ends well, without errors in its log, and leaves nothing behind.
    #[track_caller]
    pub fn finish(mut self) {
        let (status, _) = self.stop(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0), "{status}");
        self.check_log();
        assert_eq!(self.site.leftovers(), Vec::<PathBuf>::new(), "left in {}", self.site.path().display());
    }
}

/// Gunicorn's line, which a worker writes as soon as it can.
fn booting_worker(line: &LogLine) -> Option<i32> {
    line.message.strip_prefix("Booting worker with pid: ")?.parse().ok()
}

fn parse_line(line: &str) -> LogLine {
    let parts = || {
        let (_time, rest) = line.strip_prefix('[')?.split_once("] [")?;
        let (pid, rest) = rest.split_once("] [")?;
        let (level, message) = rest.split_once("] ")?;
        Some(LogLine { pid: pid.parse().ok()?, level: level.to_owned(), message: message.to_owned() })
    };
    parts().unwrap_or_else(|| LogLine { pid: 0, level: "?".to_owned(), message: line.to_owned() })
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if !self.has_ended() {
            process::send(self.pid(), Signal::SIGTERM);
            let _ = within(Duration::from_secs(2), || matches!(self.master.try_wait(), Ok(Some(_))));
        }
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.master.wait();
        guard::ended(self.pid());
        assert!(std::thread::panicking(), "a test must end its servers: call finish");
    }
}
