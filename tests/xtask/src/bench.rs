//! `cargo bench-servers`: what a request costs rgunicorn and its peers, and what connections and workers cost.
//!
//! Owns the order of things: every server has one core, the load another; the servers take turns, second by second; the
//! tables come at the end. Does not own the load (`wrk`) nor the peers (`tests/peers`, package managers), which must be
//! there before; whoever is missing is left out by name.
//!
//! What a newcomer would get wrong: on a machine that others use the figures of one run belong together, those of two do
//! not.

mod candidates;
mod idle;
mod load;
mod modes;
mod plan;
mod report;
pub(crate) mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use candidates::{CANDIDATES, Candidate, Place};
use modes::{IDLE, KEEP, LOG, MODES};
use plan::Plan;
use report::{Results, Series};
use server::{Server, free_port, pinned, said};

/// How long a server may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// What names of files and directories of a run begin with; its process id follows.
const PREFIX: &str = "bench-servers-";
/// Where an access log in memory lies.
const MEMORY: &str = "/dev/shm";
/// How often idle connections are looked at, each time on a fresh server.
const LOOKS: usize = 2;

/// What the words ask for; none if it is only help.
pub(crate) struct Asked(Plan);

pub(crate) fn asked(words: &[String]) -> Result<Option<Asked>, String> {
    Ok(Plan::of(words)?.map(Asked))
}

impl Asked {
    /// Whether rgunicorn is among the candidates.
    pub(crate) fn measures_ours(&self) -> bool {
        CANDIDATES.iter().any(|candidate| candidate.is_ours && self.0.has_candidate(candidate.name))
    }
}

/// Measures, and prints the tables.
pub(crate) fn run(root: &Path, target: &Path, Asked(plan): &Asked) -> Result<(), String> {
    let begin = Instant::now();
    for program in ["wrk", "taskset", "setpriv"] {
        let there = Command::new(program).arg("--version").output();
        there.map_err(|error| format!("cannot measure without {program}: {error}"))?;
    }
    let disk = plan.disk.clone().unwrap_or_else(|| target.to_owned());
    for directory in [&std::env::temp_dir(), Path::new(MEMORY), &disk] {
        sweep(directory);
    }
    let own = Directory::new()?;
    let place = Place {
        root,
        built: target.join("release"),
        own: own.0.clone(),
        python: plan.python.clone().unwrap_or_else(|| target.join("python")),
    };
    let load_before = load_average();
    let mut results = Results::default();
    let room = idle::make_room();
    under_load(plan, &place, &mut results)?;
    if plan.has_mode(LOG) {
        with_logs(plan, &place, &disk, &mut results)?;
    }
    if plan.has_mode(IDLE) {
        match room {
            Ok(()) => idle_connections(plan, &place, &mut results)?,
            Err(sentence) => leave_out(&mut results, format!("idle connections: {sentence}")),
        }
    }
    if results.series.is_empty() && results.idle.is_empty() {
        return Err("nothing was measured; why, is said above".to_owned());
    }
    let machine = machine(&results, &load_before);
    let page = results.page(plan, &machine).map_err(|error| format!("cannot write the tables: {error}"))?;
    println!("{page}");
    if plan.write {
        report::write(&root.join("docs/PERFORMANCE.md"), &page)?;
    }
    eprintln!("done in {} s", begin.elapsed().as_secs());
    Ok(())
}

/// Starts all, lets them take turns in each mode that `wrk` asks in, and ends them.
fn under_load(plan: &Plan, place: &Place<'_>, results: &mut Results) -> Result<(), String> {
    let modes: Vec<_> = MODES.iter().filter(|mode| mode.is_load() && plan.has_mode(mode.key)).collect();
    let mut running = Vec::new();
    for candidate in CANDIDATES.iter().filter(|candidate| plan.has_candidate(candidate.name)) {
        if modes.iter().any(|mode| candidate.modes.contains(&mode.key)) {
            match start(plan, place, candidate, &[]) {
                Ok(server) => {
                    results.versions.extend((candidate.version)(place, candidate));
                    running.push((candidate, server));
                }
                Err(sentence) => leave_out(results, format!("{}: {sentence}", candidate.name)),
            }
        }
    }
    for mode in modes {
        let taking_part: Vec<_> =
            running.iter().filter(|(candidate, _)| candidate.modes.contains(&mode.key)).collect();
        let turns: Vec<(&str, &str, &Server)> =
            taking_part.iter().map(|(candidate, server)| (candidate.name, candidate.label, server)).collect();
        take_turns(plan, place, mode, &turns, results);
        if mode.key == KEEP {
            results.memory =
                running.iter().map(|(one, server)| (one.name, server.private_memory())).collect();
        }
    }
    Ok(())
}

/// All rounds of a mode.
fn take_turns(
    plan: &Plan,
    place: &Place<'_>,
    mode: &'static modes::Mode,
    turns: &[(&str, &str, &Server)],
    results: &mut Results,
) {
    eprintln!("{}: {} servers, {} rounds", mode.title, turns.len(), plan.rounds);
    let mut series: Vec<Series> = turns
        .iter()
        .map(|(name, label, _)| Series {
            mode: mode.key,
            name: (*name).to_owned(),
            label: (*label).to_owned(),
            rounds: Vec::new(),
        })
        .collect();
    // The first round only warms up. In each, another one begins.
    for round in 0..=plan.rounds {
        for turn in 0..turns.len() {
            let at = (turn + round) % turns.len();
            let (name, _, server) = turns[at];
            let figure = load::measure(place.root, plan, server, mode);
            if round > 0 {
                series[at].rounds.push(figure.as_ref().ok().copied());
            }
            if let Err(sentence) = figure {
                leave_out(results, format!("{name}, {}, round {round}: {sentence}", mode.title));
            }
        }
    }
    results.series.extend(series.into_iter().filter(|series| series.rounds.iter().any(Option::is_some)));
}

/// `poll` without an access log, with one in memory and with one on a disk.
fn with_logs(plan: &Plan, place: &Place<'_>, disk: &Path, results: &mut Results) -> Result<(), String> {
    let (Some(poll), Some(mode)) = (candidates::candidate("poll"), modes::mode(LOG)) else { return Ok(()) };
    if !plan.has_candidate("poll") {
        return Ok(());
    }
    let logs = [("poll", None), ("tmpfs", Some(Path::new(MEMORY))), ("disk", Some(disk))];
    let mut running = Vec::new();
    let mut files = Vec::new();
    for (name, directory) in logs {
        let Some(directory) = directory else {
            running.push((name, "`poll`, no access log".to_owned(), start(plan, place, poll, &[])?));
            continue;
        };
        let kind = said(Command::new("stat").args(["-f", "-c", "%T"]).arg(directory));
        let kind = kind.map_or_else(|_| "unknown".to_owned(), |kind| kind.trim().to_owned());
        if name == "tmpfs" && kind != "tmpfs" {
            leave_out(results, format!("an access log in memory, since {} is no tmpfs", directory.display()));
            continue;
        }
        let file = directory.join(format!("{PREFIX}{}-{name}.log", std::process::id()));
        let server = start(plan, place, poll, &["--access-logfile", &file.display().to_string()]);
        files.push(Removed(file));
        match server {
            Ok(server) => running.push((name, format!("`poll`, a log on {kind}"), server)),
            Err(sentence) => leave_out(results, format!("an access log on {kind}: {sentence}")),
        }
    }
    let turns: Vec<(&str, &str, &Server)> =
        running.iter().map(|(name, label, server)| (*name, label.as_str(), server)).collect();
    take_turns(plan, place, mode, &turns, results);
    Ok(())
}

fn idle_connections(plan: &Plan, place: &Place<'_>, results: &mut Results) -> Result<(), String> {
    let candidates =
        CANDIDATES.iter().filter(|one| plan.has_candidate(one.name) && one.modes.contains(&IDLE));
    let candidates: Vec<&Candidate> = candidates.collect();
    eprintln!("Idle connections: {} servers, {LOOKS} times", candidates.len());
    for look in 0..LOOKS {
        for candidate in &candidates {
            let looked = start(plan, place, candidate, &[]).and_then(|server| idle::measure(&server));
            match (looked, results.idle.iter_mut().find(|(name, _)| *name == candidate.name)) {
                (Ok(looked), Some((_, looks))) => looks.push(looked),
                (Ok(looked), None) => results.idle.push((candidate.name, vec![looked])),
                // Who is not installed has been named.
                (Err(_), _) if (candidate.command)(place, candidate, 0).is_err() => {}
                (Err(sentence), _) => {
                    leave_out(
                        results,
                        format!("{}, idle connections, look {look}: {sentence}", candidate.name),
                    );
                }
            }
        }
    }
    Ok(())
}

fn start(plan: &Plan, place: &Place<'_>, candidate: &Candidate, more: &[&str]) -> Result<Server, String> {
    let port = free_port()?;
    let mut command = (candidate.command)(place, candidate, port)?;
    command.args(more);
    let said = place.own.join(format!("{}.said", candidate.name));
    Server::start(pinned(&plan.cores[0], &command), port, &said, PATIENCE)
}

fn leave_out(results: &mut Results, sentence: String) {
    eprintln!("left out: {sentence}");
    results.left_out.push(sentence);
}

/// What the figures belong to.
fn machine(results: &Results, load_before: &str) -> String {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(": ").map(|(_, value)| value.to_owned()));
        line.unwrap_or_else(|| "unknown".to_owned())
    };
    let first = |program: &str, words: &[&str]| {
        said(Command::new(program).args(words))
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let mut versions = results.versions.clone();
    versions.dedup();
    format!(
        "Measured on {} with Linux {}, {} ({cores} cores), {}; load average before and after: {load_before} and {}. {}.",
        first("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        first("uname", &["-r"]).split('-').next().unwrap_or_default(),
        line("/proc/cpuinfo", "model name"),
        first("rustc", &["--version"]).split(" (").next().unwrap_or_default(),
        load_average(),
        versions.join(", "),
    )
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Removes what a run that was interrupted has left there.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && !Path::new("/proc").join(pid).exists() {
            // Another run may do the same, and what is not ours to remove stays.
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        }
    }
}

/// A directory of this run, which ends with it: what nginx and Apache serve and write. Everybody may look into it, since
/// they give up root's rights.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        let page =
            "<p>A number that is even, and a line that is as long as those of a page.</p>\n".repeat(262);
        let big: Vec<u8> = (b'a'..=b'z').cycle().take(1024 * 1024).collect();
        let made = fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::create_dir(path.join("temp")))
            .and_then(|()| fs::write(path.join("hello"), "Hello, World!"))
            .and_then(|()| fs::write(path.join("page"), page))
            .and_then(|()| fs::write(path.join("big"), big));
        made.map_err(|error| format!("cannot make {} and its files: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of it is in a directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file that ends with this value.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
