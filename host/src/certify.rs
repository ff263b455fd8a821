//! `rgunicorn certify`: a conformance kit for worker classes, also those of strangers.
//!
//! Owns the order of things and the score card. Does not own what is tried (`trials`, `trials/*`), the server under trial
//! (`server`) nor the client (`client`). A class is judged by what it claims in its note: what needs a feature that it
//! does not claim is skipped by name.
//!
//! What a newcomer would get wrong: nothing here may know how our own classes do something. A trial asks for what the
//! interface and HTTP oblige a class to do, seen from outside.

mod client;
mod server;
mod trials;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::cli::Values;
use crate::config::Sources;
use crate::elf_note::Note;
use crate::error::{EXIT_SETTINGS, EXIT_USAGE, EXIT_WORKER_BOOT, StartError, io_text};
use crate::image;
use crate::plugin::{self, Kind, PluginError};
use crate::probe::FIRST_BOOT_TIMEOUT;

use server::{Server, Setup};
use trials::{Outcome, TRIALS};

/// What is to be certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The worker class, as `-k` takes it.
    pub class: String,
    /// `NAME=VALUE`, as `--worker-option` takes it.
    pub options: Vec<String>,
    /// Only trials whose name contains one of these; all if there are none.
    pub only: Vec<String>,
    /// Whether to answer in JSON.
    pub json: bool,
}

/// What the class claims, and what trials need to start servers.
struct Kit {
    setup: Setup,
    keep_alive: bool,
    threads: bool,
    futures: bool,
    /// Servers so far; each has a directory of that name.
    servers: u32,
    /// A server with the kit's usual settings, until a trial fails.
    shared: Option<Server>,
}

/// Settings of the server that most trials share: short enough to wait for, long enough for a busy machine.
const USUAL: &[&str] =
    &["--keep-alive", "5", "--head-timeout", "30", "--graceful-timeout", "5", "--threads", "4"];

impl Kit {
    fn new(setup: Setup, note: &Note) -> Self {
        let claims = |word: &str| {
            note.get("features").is_some_and(|words| words.split(',').any(|other| other == word))
        };
        let (keep_alive, threads, futures) = (claims("keep-alive"), claims("threads"), claims("async"));
        Self { setup, keep_alive, threads, futures, servers: 0, shared: None }
    }

    /// A server of its own for one trial.
    fn start(&mut self, words: &[&str]) -> Result<Server, String> {
        self.start_limited(words, None)
    }

    /// The same, with so many descriptors at most.
    fn start_limited(&mut self, words: &[&str], descriptors: Option<u64>) -> Result<Server, String> {
        self.servers += 1;
        Server::start(&self.setup, self.servers, words, descriptors)
    }

    /// The server that trials share which leave it as it was.
    fn shared(&mut self) -> Result<&Server, String> {
        if self.shared.is_none() {
            self.shared = Some(self.start(USUAL)?);
        }
        self.shared.as_ref().ok_or_else(|| "there is no server".to_owned())
    }
}

/// A line of the score card.
struct Score {
    name: &'static str,
    outcome: Outcome,
}

impl Request {
    /// Tries everything, and prints the score card to standard output as it grows.
    ///
    /// # Errors
    /// The class cannot be loaded or does not serve at all: its sentence. A failed trial has been told of already.
    pub fn run(&self) -> Result<(), StartError> {
        let wanted =
            |name: &str| self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()));
        let trials: Vec<_> = TRIALS.iter().filter(|trial| wanted(trial.name)).collect();
        if trials.is_empty() {
            let names: Vec<&str> = TRIALS.iter().map(|trial| trial.name).collect();
            let why = format!(
                "no trial has this in its name: {}; there are:\n{}",
                self.only.join(", "),
                names.join("\n")
            );
            return Err(StartError::new(EXIT_USAGE, format!("cannot run certify: {why}")));
        }
        let (setup, note) = self.prepare()?;
        let directory = setup.directory.clone();
        let outcome = self.judge(&trials, setup, &note);
        match &outcome {
            Err(error) if error.is_told() => {
                self.say(&format!("The logs of all servers are in {}.\n", directory.display()))?;
            }
            _ => {
                // What cannot be removed now lies in the temporary directory like anything else there.
                let _ = std::fs::remove_dir_all(&directory);
            }
        }
        outcome
    }

    fn judge(&self, trials: &[&trials::Trial], setup: Setup, note: &Note) -> Result<(), StartError> {
        let get = |key| note.get(key).unwrap_or_default();
        let class =
            format!("{} ({} {}, interface {})", get("class"), get("name"), get("version"), get("abi"));
        let features = get("features").trim_end_matches(',').replace(',', ", ");
        let features =
            if features.is_empty() { "nothing beyond one request for each connection" } else { &features };
        self.say(&format!("{class}\n{}\nclaims: {features}\n\n", setup.class.display()))?;
        let begun = Instant::now();
        let mut kit = Kit::new(setup, note);
        // Whether it serves at all is no trial.
        kit.shared().map_err(|why| StartError::new(EXIT_WORKER_BOOT, why))?;
        let mut scores = Vec::new();
        for trial in trials {
            let outcome = trial.run(&mut kit);
            if matches!(outcome, Outcome::Failed(_)) {
                // Whatever state it is in, the next trial shall not have to do with it.
                kit.shared = None;
            }
            let score = Score { name: trial.name, outcome };
            self.say(&line(&score))?;
            scores.push(score);
        }
        drop(kit);
        let count = |which: fn(&Outcome) -> bool| scores.iter().filter(|score| which(&score.outcome)).count();
        let (passed, failed) =
            (count(|one| matches!(one, Outcome::Passed)), count(|one| matches!(one, Outcome::Failed(_))));
        let skipped = scores.len() - passed - failed;
        let seconds = begun.elapsed().as_secs_f64();
        self.say(&format!("\n{passed} passed, {failed} failed, {skipped} skipped, in {seconds:.0} s\n"))?;
        if self.json {
            print(&document(&class, features, &scores)?)?;
        }
        if failed == 0 { Ok(()) } else { Err(StartError::told(EXIT_WORKER_BOOT)) }
    }

    /// Judges the files as a start would, and makes a directory for logs and sockets.
    fn prepare(&self) -> Result<(Setup, Note), StartError> {
        let sources = Sources::capture(Values::default())?;
        let class = sources.find_worker_class(&self.class)?.file;
        let reference = sources.find_application("reference").map_err(|error| {
            StartError::new(
                EXIT_SETTINGS,
                format!("cannot find the reference application of certify: {error}"),
            )
        })?;
        let (image, _) = image::look(&class, Instant::now() + FIRST_BOOT_TIMEOUT)
            .map_err(|error| PluginError::of_file(Kind::WorkerClass, &class, &error))
            .map_err(|error| StartError::new(error.exit_code, error.to_string()))?;
        let note = plugin::judge(&image, Kind::WorkerClass)
            .map_err(|error| StartError::new(error.exit_code, error.to_string()))?;
        let program = std::env::current_exe().map_err(|error| {
            StartError::new(EXIT_SETTINGS, format!("cannot find the program's own file: {}", io_text(&error)))
        })?;
        let directory = directory()?;
        let options = self.options.clone();
        let setup = Setup { program, class, reference: reference.file, options, directory };
        Ok((setup, note.clone()))
    }

    /// A part of the score card. With `--json` standard output is the document's.
    fn say(&self, text: &str) -> Result<(), StartError> {
        if self.json { Ok(()) } else { print(text) }
    }
}

/// A directory that nobody else has.
fn directory() -> Result<PathBuf, StartError> {
    let template = std::env::temp_dir().join("rgunicorn-certify-XXXXXX");
    nix::unistd::mkdtemp(&template).map_err(|errno| {
        let why = errno.desc();
        StartError::new(EXIT_SETTINGS, format!("cannot make the directory {}: {why}", template.display()))
    })
}

fn print(text: &str) -> Result<(), StartError> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(StartError::new(
            EXIT_SETTINGS,
            format!("cannot write to standard output: {}", io_text(&error)),
        )),
        _ => Ok(()),
    }
}

fn line(score: &Score) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match &score.outcome {
        Outcome::Passed => writeln!(text, "  pass  {}", score.name),
        Outcome::Skipped(why) => writeln!(text, "  skip  {}: {why}", score.name),
        Outcome::Failed(why) => writeln!(text, "  FAIL  {}\n          {why}", score.name),
    };
    text
}

fn document(class: &str, features: &str, scores: &[Score]) -> Result<String, StartError> {
    let trials: Vec<_> = scores
        .iter()
        .map(|score| {
            let (outcome, why) = match &score.outcome {
                Outcome::Passed => ("pass", None),
                Outcome::Skipped(why) => ("skip", Some((*why).to_owned())),
                Outcome::Failed(why) => ("fail", Some(why.clone())),
            };
            json!({ "trial": score.name, "outcome": outcome, "why": why })
        })
        .collect();
    let value = json!({ "class": class, "claims": features, "trials": trials });
    serde_json::to_string_pretty(&value)
        .map(|text| text + "\n")
        .map_err(|error| StartError::new(EXIT_SETTINGS, format!("cannot write JSON: {error}")))
}
