//! `cargo bench-servers`: what one request costs rgunicorn and its peers, as CPU time.
//!
//! Owns the procedure of docs/PERFORMANCE.md: every server has one core, the load another; the servers take turns, second
//! by second; the CPU time that a server's worker has used is divided by the requests that were answered. Does not own
//! the load (`wrk`) nor the peers (`tests/peers`), which must be built before; whoever is missing is left out by name.
//!
//! What a newcomer would get wrong: requests per second say how fast the client is. And on a machine that others use the
//! figures of one run belong together, those of two do not.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);
/// Thirteen fields, as a browser sends them; `Host` is the fourteenth line.
const BROWSER: &[&str] = &[
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Priority: u=0, i",
];

/// How the load asks.
struct Mode {
    name: &'static str,
    options: Vec<String>,
    /// Servers that are not measured in it.
    without: &'static [&'static str],
}

fn modes(root: &Path) -> Vec<Mode> {
    let fields = |fields: &[&str]| fields.iter().flat_map(|field| ["-H".into(), (*field).into()]).collect();
    let script = root.join("tests/peers/pipeline.lua").display().to_string();
    vec![
        Mode { name: "keep-alive, hello", options: Vec::new(), without: &["sync"] },
        Mode { name: "keep-alive, 13 fields", options: fields(BROWSER), without: &["sync"] },
        Mode { name: "keep-alive, 16 pipelined", options: vec!["-s".into(), script], without: &["sync"] },
        Mode { name: "one connection per request", options: fields(&["Connection: close"]), without: &[] },
    ]
}

/// A server that runs, and ends with this value.
struct Server {
    name: String,
    port: u16,
    started: Child,
    /// The process that answers.
    worker: u32,
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that it takes its workers with it. That it has ended already would be no matter here.
        let _ = Command::new("kill").arg(self.started.id().to_string()).status();
        let _ = self.started.wait();
    }
}

/// What the command line asks for.
struct Plan {
    core: String,
    load: String,
    rounds: usize,
}

/// Measures, and prints a table for each mode.
pub(crate) fn run(root: &Path, target: &Path, words: &[String]) -> Result<(), String> {
    let plan = Plan::of(words)?;
    let servers = start_all(root, target, &plan)?;
    println!("CPU time for each request in µs, user and system; {} rounds of a second each", plan.rounds);
    for mode in modes(root) {
        let takes_part = |server: &&Server| !mode.without.contains(&server.name.as_str());
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        // The first round only warms up.
        for round in 0..=plan.rounds {
            for server in servers.iter().filter(takes_part) {
                let figure = measure(server, &mode, &plan)?;
                match figure {
                    Some(figure) if round > 0 => figures.entry(&server.name).or_default().push(figure),
                    Some(_) => {}
                    None => {
                        eprintln!("left out: a round of {} ({}), without an answer", server.name, mode.name)
                    }
                }
            }
        }
        println!("\n| {} | least | median | most |\n|---|---|---|---|", mode.name);
        for (name, mut figures) in figures {
            figures.sort_by(f64::total_cmp);
            let (least, most) = (figures[0], figures[figures.len() - 1]);
            println!("| {name} | {least:.2} | {:.2} | {most:.2} |", figures[figures.len() / 2]);
        }
    }
    Ok(())
}

impl Plan {
    fn of(words: &[String]) -> Result<Self, String> {
        let usage = || "usage: cargo bench-servers [CORE_OF_SERVERS CORE_OF_LOAD [ROUNDS]]".to_owned();
        let word = |index: usize, default: &str| words.get(index).map_or(default, String::as_str).to_owned();
        let rounds = word(2, "9").parse().ok().filter(|rounds| *rounds > 0).ok_or_else(usage)?;
        if words.len() > 3 || words.len() == 1 {
            return Err(usage());
        }
        Ok(Self { core: word(0, "0"), load: word(1, "1"), rounds })
    }
}

fn start_all(root: &Path, target: &Path, plan: &Plan) -> Result<Vec<Server>, String> {
    let mut servers = Vec::new();
    let ours = target.join("release/rgunicorn");
    let mut port = 9600;
    for class in ["poll", "threaded", "sync"] {
        port += 1;
        let bind = format!("127.0.0.1:{port}");
        let mut command = pinned(&plan.core, &ours);
        command.args(["-k", class, "-w", "1", "-b", &bind, "--log-level", "error"]);
        if class == "threaded" {
            // Not for `sync`, which would be `threaded` then.
            command.args(["--threads", "4"]);
        }
        command.arg("hello:app");
        servers.push(Server::start(class, port, command, true)?);
    }
    for peer in ["hyper", "floor"] {
        port += 1;
        let name = format!("rgunicorn-peer-{peer}");
        let program = root.join("tests/peers").join(peer).join("target/release").join(&name);
        if !program.exists() {
            eprintln!("left out: {peer}, since {} is not built", program.display());
            continue;
        }
        let mut command = pinned(&plan.core, &program);
        command.arg(format!("127.0.0.1:{port}"));
        servers.push(Server::start(peer, port, command, false)?);
    }
    let prefix = target.join("nginx");
    let made = fs::create_dir_all(prefix.join("temp"));
    made.map_err(|error| format!("cannot make {}: {error}", prefix.display()))?;
    let mut command = pinned(&plan.core, Path::new("nginx"));
    command.arg("-p").arg(&prefix).arg("-c").arg(root.join("tests/peers/nginx/nginx.conf"));
    match Server::start("nginx", 9001, command, true) {
        Ok(server) => servers.push(server),
        Err(error) => eprintln!("left out: nginx, since {error}"),
    }
    Ok(servers)
}

fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program).stdout(Stdio::null());
    command
}

impl Server {
    /// Starts it and waits until it listens. `forks`: a child of it answers.
    fn start(name: &str, port: u16, mut command: Command, forks: bool) -> Result<Self, String> {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Err(format!("another program has port {port}"));
        }
        let started = command.spawn().map_err(|error| format!("cannot start {command:?}: {error}"))?;
        let mut server = Self { name: name.to_owned(), port, worker: started.id(), started };
        let until = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Ok(Some(status)) = server.started.try_wait() {
                return Err(format!("{name} has ended: {status}"));
            }
            if Instant::now() > until {
                return Err(format!("{name} does not listen on port {port}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        if forks {
            // The youngest child: an older one has only tried whether the server can start.
            let children = said(Command::new("pgrep").args(["-n", "-P", &server.started.id().to_string()]))?;
            server.worker =
                children.trim().parse().map_err(|_| format!("{name} has no worker: {children:?}"))?;
        }
        Ok(server)
    }

    /// The CPU time of all its threads, in nanoseconds.
    fn cpu_time(&self) -> Result<u64, String> {
        let tasks = format!("/proc/{}/task", self.worker);
        let entries =
            fs::read_dir(&tasks).map_err(|error| format!("{} is gone: {tasks}: {error}", self.name))?;
        let mut sum = 0;
        for entry in entries.flatten() {
            // proc_pid_schedstat: the first number is the time spent on a CPU. A thread may have ended meanwhile.
            let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            sum += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(sum)
    }
}

/// A second of load; µs of CPU for each request. None if there was no request: where connections come and go by tens of
/// thousands, the client may find no free port for a while.
fn measure(server: &Server, mode: &Mode, plan: &Plan) -> Result<Option<f64>, String> {
    let url = format!("http://127.0.0.1:{}/", server.port);
    let mut load = pinned(&plan.load, Path::new("wrk"));
    load.args(["-t1", "-c16", "-d1"]).args(&mode.options).arg(url);
    let before = server.cpu_time()?;
    let report = said(&mut load)?;
    // A thread that has ended takes its time with it.
    let spent = server.cpu_time()?.saturating_sub(before);
    if report.contains("Non-2xx") {
        return Err(format!("{} has refused requests ({}):\n{report}", server.name, mode.name));
    }
    let requests =
        report.split_once(" requests in ").and_then(|(before, _)| before.split_whitespace().last());
    let requests = requests.and_then(|word| word.parse::<u64>().ok());
    let requests =
        requests.ok_or_else(|| format!("wrk has not said how many requests there were:\n{report}"))?;
    Ok((requests > 0).then(|| spent as f64 / 1000.0 / requests as f64))
}

/// What a program prints, if it ends well.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command.stdout(Stdio::piped()).output();
    let output = output.map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} has failed: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
