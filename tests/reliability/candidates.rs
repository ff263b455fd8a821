//! The servers that are compared, each as its operator would run it, and what can happen to each.
//!
//! Owns how a server is started, how a deployment is changed under it and how it is told to take the change. Does not
//! own what is measured. The peers are installed from their package index into a virtual environment below the target
//! directory; where that fails they are left out, by name.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Address, Signal, Site, process, programs, within};
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use std::time::Duration;

/// How many workers each has.
pub(crate) const WORKERS: usize = 2;
/// How long a start or a reload may take before the server gives up, where it can be told.
pub(crate) const BOOT_TIMEOUT: u64 = 4;

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
    /// The file has no application of that name.
    NoSuchName,
    /// Its start-up code returns or raises an error.
    Fails,
    /// Its start-up code aborts.
    Aborts,
    /// Its start-up code ends the process, and says that all is well.
    Exits,
    /// Its start-up code never returns.
    Hangs,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Running<'s> {
    site: &'s Site,
    candidate: Candidate,
    port: u16,
    master: Child,
    backlog: u32,
    extra: Option<u16>,
    next: Next,
}

impl Candidate {
    /// All there are here.
    pub(crate) fn all() -> Vec<Self> {
        let ours = ["sync", "threaded", "poll"].map(Self::Rgunicorn);
        let peers = match environment() {
            Ok(python) => vec![Self::Gunicorn(python.clone()), Self::Granian(python)],
            Err(why) => {
                eprintln!("left out: gunicorn and granian: {why}");
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

    /// Whether a reload can change the addresses.
    pub(crate) fn rebinds(&self) -> bool {
        !matches!(self, Self::Granian(_))
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start<'s>(&self, site: &'s Site, backlog: u32) -> Running<'s> {
        let port = free_port();
        let mut running = Running {
            site,
            candidate: self.clone(),
            port,
            // Replaced below: the files must be there first.
            master: Command::new("true").spawn().expect("true(1)"),
            backlog,
            extra: None,
            next: Next::Good,
        };
        let _ = running.master.wait();
        running.deploy(1, Next::Good, Manner::Renamed);
        running.configure();
        running.master = running.command().spawn().expect("the server's program");
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
        match &self.candidate {
            Candidate::Rgunicorn(_) => self.deploy_library(version, next, manner),
            Candidate::Gunicorn(_) | Candidate::Granian(_) => {
                let source = module(version, next);
                match manner {
                    Manner::Renamed => self.site.write("app.py", source),
                    Manner::Overwritten => fs::write(self.site.join("app.py"), source).expect("a file"),
                }
            }
        }
    }

    fn deploy_library(&self, version: u32, next: Next, manner: Manner) {
        if next == Next::Garbage {
            let text = "no library\n".repeat(1000);
            match manner {
                Manner::Renamed => self.site.write("app.so", text),
                Manner::Overwritten => fs::write(self.site.join("app.so"), text).expect("a file"),
            }
            return;
        }
        let library = programs().inspect(version);
        match manner {
            Manner::Renamed => self.site.install(library, "app.so"),
            Manner::Overwritten => self.site.overwrite(library, "app.so"),
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
        let doubled = within(Duration::from_secs(15), || process::group(self.pid()).len() > before + WORKERS);
        doubled?;
        let children = process::children(self.pid());
        let heir = children.iter().find(|child| process::children(child.pid).len() >= WORKERS)?.pid;
        process::send(self.pid(), Signal::SIGTERM);
        within(Duration::from_secs(40), || !self.runs())?;
        Some(heir)
    }

    fn configure(&self) {
        let (port, site) = (self.port, self.site);
        match &self.candidate {
            Candidate::Rgunicorn(class) => {
                let application = if self.next == Next::NoSuchName { "app.so:shop" } else { "app.so:app" };
                let binds: Vec<String> = self.ports().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
                let init = match self.next {
                    Next::Slow => "sleep:3000",
                    Next::Fails => "fail",
                    Next::Aborts => "abort",
                    Next::Exits => "exit:0",
                    Next::Hangs => "hang",
                    Next::Good | Next::Garbage | Next::NoSuchName => "",
                };
                site.write(
                    "server.toml",
                    format!(
                        "application = \"{application}\"\nbind = [{}]\nworkers = {WORKERS}\nworker_class = \"{class}\"\n\
                         backlog = {}\nboot_timeout = {BOOT_TIMEOUT}\nthreads = {}\nraw_env = [\"INSPECT_INIT={init}\"]\n",
                        binds.join(", "),
                        self.backlog,
                        if *class == "sync" { 1 } else { 4 },
                    ),
                );
            }
            Candidate::Gunicorn(_) => {
                let binds: Vec<String> = self.ports().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
                site.write(
                    "gunicorn.conf.py",
                    format!(
                        "bind = [{}]\nworkers = {WORKERS}\nbacklog = {}\ntimeout = {BOOT_TIMEOUT}\nworker_class = \"gthread\"\nthreads = 4\n",
                        binds.join(", "),
                        self.backlog
                    ),
                );
            }
            // All on its command line, and no reload changes it.
            Candidate::Granian(_) => _ = port,
        }
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        [Some(self.port), self.extra].into_iter().flatten()
    }

    fn command(&self) -> Command {
        let (port, backlog) = (self.port.to_string(), self.backlog.to_string());
        let (workers, timeout) = (WORKERS.to_string(), BOOT_TIMEOUT.to_string());
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
    }
}

/// The application of the peers: the same routes, as far as they are asked for.
fn module(version: u32, next: Next) -> String {
    let first = match next {
        Next::Good | Next::NoSuchName => "",
        Next::Slow => "import time\ntime.sleep(3)",
        Next::Garbage => "def (",
        Next::Fails => "raise RuntimeError('asked to fail')",
        Next::Aborts => "import os\nos.abort()",
        Next::Exits => "import os\nos._exit(0)",
        Next::Hangs => "import time\ntime.sleep(1000000)",
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

/// A Python that has the peers.
fn environment() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = me.ancestors().nth(3).ok_or("no target directory")?.join("peers");
    let python = target.join("bin/python");
    let works = |python: &Path| {
        let mut command = Command::new(python);
        let output = command.args(["-c", "import gunicorn, granian"]).stdin(Stdio::null()).output();
        output.is_ok_and(|output| output.status.success())
    };
    if works(&python) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&target))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "gunicorn==27.*", "granian==2.8.*"]))?;
    if works(&python) { Ok(python) } else { Err("they do not import".to_owned()) }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn version(python: &Path, package: &str) -> String {
    let words = format!("import importlib.metadata as m; print(m.version('{package}'))");
    let output = Command::new(python).args(["-c", &words]).stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
