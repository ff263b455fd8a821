//! The servers that are compared, each as its operator would run it, and what can happen to each.
//!
//! Owns how a server is started, how a deployment is changed under it and how it is told to take the change. Does not
//! own what is measured. The peers are looked for in a virtual environment, `peers` in the target directory; without it
//! they are left out, by name. What a newcomer would get wrong: a peer meets the same accident in its own terms, and
//! nothing is set for it that its operator would not set.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Address, Signal, Site, guard, process, programs, within};
use nix::sys::signal::killpg;
use nix::unistd::Pid;

/// How many workers each has.
const WORKERS: usize = 2;
/// How long a start or a reload may take before the server gives up, where it can be told.
const BOOT_TIMEOUT: u64 = 4;
/// How long an idle connection is kept, where it can be told.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A server that can be started.
#[derive(Debug, Clone)]
pub(crate) enum Candidate {
    /// Ours, under this worker class.
    Rgunicorn(&'static str),
    /// With this Python's packages.
    Gunicorn(PathBuf),
    /// The same.
    Granian(PathBuf),
}

/// What the application that is deployed next does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It works, and says that it is of version 2.
    Good,
    /// It works, after three seconds.
    Slow,
    /// The file is text (a library is expected), or cannot be parsed (a module is).
    Garbage,
    /// The file is empty.
    Empty,
    /// It needs a symbol that no library has, or a module that is not there.
    Unresolved,
    /// The file has no application of that name.
    NoSuchName,
    /// Its start-up code returns or raises an error.
    Fails,
    /// Its start-up code panics, or calls `sys.exit(1)`.
    Panics,
    /// Its start-up code dies of a signal.
    Crashes,
    /// Its start-up code ends the process, and says that all is well.
    Exits,
    /// Its start-up code never returns.
    Hangs,
    /// It can be tried, but dies in every worker as it boots.
    CrashLoop,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Running<'s> {
    site: &'s Site,
    candidate: Candidate,
    port: u16,
    master: Child,
    backlog: u32,
    workers: usize,
    extra: Option<u16>,
    next: Next,
}

impl Candidate {
    /// All there are here.
    pub(crate) fn all() -> Vec<Self> {
        let ours = ["sync", "threaded", "poll"].map(Self::Rgunicorn);
        let peers = match environment() {
            Ok(python) => vec![Self::Gunicorn(python.clone()), Self::Granian(python)],
            Err(place) => {
                eprintln!(
                    "left out: Gunicorn and granian, which are not in {}; docs/RELIABILITY.md says how to put them there",
                    place.display()
                );
                Vec::new()
            }
        };
        ours.into_iter().chain(peers).collect()
    }

    /// As the table calls it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Rgunicorn(class) => format!("rgunicorn {class}"),
            Self::Gunicorn(python) => format!("Gunicorn {}", version(python, "gunicorn")),
            Self::Granian(python) => format!("granian {}", version(python, "granian")),
        }
    }

    /// Whether one of its masters can be replaced by another under load.
    pub(crate) fn knows_usr2(&self) -> bool {
        !matches!(self, Self::Granian(_))
    }

    /// Whether it keeps connections.
    pub(crate) fn keeps_alive(&self) -> bool {
        !matches!(self, Self::Rgunicorn("sync"))
    }

    /// Whether a reload can change the addresses.
    pub(crate) fn rebinds(&self) -> bool {
        !matches!(self, Self::Granian(_))
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start<'s>(&self, site: &'s Site, backlog: u32) -> Running<'s> {
        self.launch(site, backlog, WORKERS)
    }

    /// The same with more workers, so that one may be killed and others serve.
    pub(crate) fn start_many<'s>(&self, site: &'s Site, workers: usize) -> Running<'s> {
        self.launch(site, 2048, workers)
    }

    fn launch<'s>(&self, site: &'s Site, backlog: u32, workers: usize) -> Running<'s> {
        let port = free_port();
        let mut running = Running {
            site,
            candidate: self.clone(),
            port,
            // Replaced below: the files must be there first.
            master: Command::new("true").spawn().expect("true(1)"),
            backlog,
            workers,
            extra: None,
            next: Next::Good,
        };
        let _ = running.master.wait();
        running.deploy(1, Next::Good, Manner::Renamed);
        running.configure();
        running.master = running.command().spawn().expect("the server's program");
        guard::begun(running.pid());
        let there = within(Duration::from_secs(30), || running.address().get("/version").is_ok());
        assert!(there.is_some(), "{} does not answer: {}", self.name(), site.read("server.log"));
        running
    }
}

/// How a new file takes the old one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// rename(2), as a careful deploy does.
    Renamed,
    /// cp(1): the same inode, written over.
    Overwritten,
}

impl Running<'_> {
    /// Where it listens.
    pub(crate) fn address(&self) -> Address {
        Address::Tcp(([127, 0, 0, 1], self.port).into())
    }

    /// Its master.
    pub(crate) fn pid(&self) -> i32 {
        self.master.id() as i32
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.master.try_wait(), Ok(None))
    }

    /// Its workers, as far as they can be told from outside: what the master has forked and lives.
    pub(crate) fn workers(&self) -> Vec<i32> {
        let children = process::children(self.pid());
        children.iter().filter(|child| child.state != 'Z').map(|child| child.pid).collect()
    }

    /// Puts the next application in place; it is not told of it.
    pub(crate) fn deploy(&mut self, version: u32, next: Next, manner: Manner) {
        self.next = next;
        let (file, content) = match &self.candidate {
            Candidate::Rgunicorn(_) => ("app.so", library(version, next)),
            Candidate::Gunicorn(_) | Candidate::Granian(_) => ("app.py", module(version, next).into_bytes()),
        };
        match manner {
            Manner::Renamed => self.site.write(file, content),
            Manner::Overwritten => fs::write(self.site.join(file), content).expect("the file to write over"),
        }
    }

    /// A second address, or none: takes effect with the next reload.
    pub(crate) fn listen_also(&mut self, also: bool) {
        self.extra = also.then(free_port);
    }

    /// Tells it of what was deployed.
    pub(crate) fn hup(&self) {
        self.configure();
        process::send(self.pid(), Signal::SIGHUP);
    }

    /// Executes a new master beside this one, waits until it serves, and ends the old one. Returns the new one.
    pub(crate) fn replace_master(&mut self) -> Option<i32> {
        let before = process::group(self.pid()).len();
        process::send(self.pid(), Signal::SIGUSR2);
        let doubled =
            within(Duration::from_secs(15), || process::group(self.pid()).len() > before + self.workers);
        doubled?;
        let children = process::children(self.pid());
        let heir = children.iter().find(|child| process::children(child.pid).len() >= self.workers)?.pid;
        process::send(self.pid(), Signal::SIGTERM);
        within(Duration::from_secs(40), || !self.runs())?;
        Some(heir)
    }

    fn configure(&self) {
        let site = self.site;
        match &self.candidate {
            Candidate::Rgunicorn(class) => {
                let application = if self.next == Next::NoSuchName { "app.so:shop" } else { "app.so:app" };
                let binds: Vec<String> = self.ports().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
                let init = match self.next {
                    Next::Slow => "sleep:3000",
                    Next::Fails => "fail",
                    Next::Panics => "panic",
                    Next::Crashes => "abort",
                    Next::Exits => "exit:0",
                    Next::Hangs => "hang",
                    Next::CrashLoop => "probe-ok:abort",
                    Next::Good | Next::Garbage | Next::Empty | Next::Unresolved | Next::NoSuchName => "",
                };
                site.write(
                    "server.toml",
                    format!(
                        "application = \"{application}\"\nbind = [{}]\nworkers = {}\nworker_class = \"{class}\"\n\
                         backlog = {}\nkeepalive = {}\nboot_timeout = {BOOT_TIMEOUT}\nthreads = {}\nraw_env = [\"INSPECT_INIT={init}\"]\n",
                        binds.join(", "),
                        self.workers,
                        self.backlog,
                        KEEP_ALIVE.as_secs(),
                        if *class == "sync" { 1 } else { 4 },
                    ),
                );
            }
            Candidate::Gunicorn(_) => {
                let binds: Vec<String> = self.ports().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
                site.write(
                    "gunicorn.conf.py",
                    format!(
                        "bind = [{}]\nworkers = {}\nbacklog = {}\ntimeout = {BOOT_TIMEOUT}\nworker_class = \"gthread\"\nthreads = 4\nkeepalive = {}\n",
                        binds.join(", "),
                        self.workers,
                        self.backlog,
                        KEEP_ALIVE.as_secs()
                    ),
                );
            }
            // All on its command line, and no reload changes it.
            Candidate::Granian(_) => {}
        }
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        [Some(self.port), self.extra].into_iter().flatten()
    }

    fn command(&self) -> Command {
        let (port, backlog) = (self.port.to_string(), self.backlog.to_string());
        let (workers, timeout) = (self.workers.to_string(), BOOT_TIMEOUT.to_string());
        let mut command = match &self.candidate {
            Candidate::Rgunicorn(_) => {
                let mut command = Command::new(programs().rgunicorn());
                command.args(["--config", "server.toml"]);
                command
            }
            Candidate::Gunicorn(python) => {
                let mut command = Command::new(python);
                command.args(["-m", "gunicorn", "--config", "gunicorn.conf.py", "app:app"]);
                command
            }
            Candidate::Granian(python) => {
                let mut command = Command::new(python);
                command.args(["-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1"]);
                command.args(["--port", &port, "--workers", &workers, "--blocking-threads", "4"]);
                // Its own floor.
                let backlog = if self.backlog < 128 { "128" } else { backlog.as_str() };
                command.args(["--backlog", backlog, "--workers-kill-timeout", &timeout, "app:app"]);
                command
            }
        };
        let log = File::create(self.site.join("server.log")).expect("a file");
        command
            .current_dir(self.site.path())
            .env("PWD", self.site.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .process_group(0);
        command
    }
}

impl Drop for Running<'_> {
    /// Whatever happened to it: nothing is left.
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.master.wait();
        guard::ended(self.pid());
    }
}

/// The file of our application.
fn library(version: u32, next: Next) -> Vec<u8> {
    let file = match next {
        Next::Garbage => return "no library\n".repeat(1000).into_bytes(),
        Next::Empty => return Vec::new(),
        Next::Unresolved => programs().fixture("unresolved"),
        Next::Good
        | Next::Slow
        | Next::NoSuchName
        | Next::Fails
        | Next::Panics
        | Next::Crashes
        | Next::Exits
        | Next::Hangs
        | Next::CrashLoop => programs().inspect(version),
    };
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The application of the peers: the same routes, as far as they are asked for.
fn module(version: u32, next: Next) -> String {
    let first = match next {
        Next::Good | Next::NoSuchName => "",
        Next::Empty => return String::new(),
        Next::Slow => "import time\ntime.sleep(3)",
        Next::Garbage => "def (",
        Next::Unresolved => "import no_such_module",
        Next::Fails => "raise RuntimeError('asked to fail')",
        Next::Panics => "import sys\nsys.exit(1)",
        Next::Crashes => "import ctypes\nctypes.string_at(0)",
        Next::Exits => "import os\nos._exit(0)",
        Next::Hangs => "import time\ntime.sleep(1000000)",
        Next::CrashLoop => "import os\nos.abort()",
    };
    let name = if next == Next::NoSuchName { "shop" } else { "app" };
    format!(
        "{first}
import time
from urllib.parse import parse_qs

def {name}(environ, start_response):
    if environ['PATH_INFO'] == '/sleep':
        time.sleep(int(parse_qs(environ['QUERY_STRING'])['ms'][0]) / 1000)
    body = b'INSPECT-VERSION:{version}'
    start_response('200 OK', [('Content-Length', str(len(body)))])
    return [body]
"
    )
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("it has one").port()
}

/// A Python that has the peers, or where it was looked for.
fn environment() -> Result<PathBuf, PathBuf> {
    let me = std::env::current_exe().expect("this program has a file");
    // target/release/deps/reliability-0123456789abcdef
    let venv = me.ancestors().nth(3).expect("cargo's layout").join("python");
    let python = venv.join("bin/python");
    let mut command = Command::new(&python);
    let output = command.args(["-c", "import gunicorn, granian"]).stdin(Stdio::null()).output();
    if output.is_ok_and(|output| output.status.success()) { Ok(python) } else { Err(venv) }
}

fn version(python: &Path, package: &str) -> String {
    let words = format!("import importlib.metadata as m; print(m.version('{package}'))");
    let output = Command::new(python).args(["-c", &words]).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
