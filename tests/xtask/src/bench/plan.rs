//! What the command line of `cargo bench-servers` asks for.
//!
//! Owns the options and their help. What a newcomer would get wrong: a name that nobody has is a mistake and ends the
//! program before it measures, while a candidate that is not installed is left out by name.

use std::path::PathBuf;

use super::candidates::CANDIDATES;
use super::modes::MODES;

/// What to measure, and how.
pub(super) struct Plan {
    pub(super) modes: Vec<String>,
    pub(super) candidates: Vec<String>,
    pub(super) rounds: usize,
    pub(super) seconds: usize,
    /// The core of the servers, and that of the load.
    pub(super) cores: [String; 2],
    pub(super) connections: usize,
    /// The virtual environment of the peers in Python.
    pub(super) python: Option<PathBuf>,
    /// A directory on a disk, for an access log.
    pub(super) disk: Option<PathBuf>,
    /// Whether the page is written anew.
    pub(super) write: bool,
}

impl Plan {
    /// None if only help was asked for; it is written then.
    pub(super) fn of(words: &[String]) -> Result<Option<Self>, String> {
        let mut plan = Self {
            modes: names(MODES.iter().map(|mode| mode.key)),
            candidates: names(CANDIDATES.iter().map(|candidate| candidate.name)),
            rounds: 5,
            seconds: 1,
            cores: ["0".to_owned(), "1".to_owned()],
            connections: 16,
            python: None,
            disk: None,
            write: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, within) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            match name {
                "-h" | "--help" => {
                    help(&plan);
                    return Ok(None);
                }
                "--write" if within.is_none() => {
                    plan.write = true;
                    continue;
                }
                _ => {}
            }
            let mut value = || {
                let value = within.clone().or_else(|| words.next().cloned());
                value.ok_or_else(|| format!("{name} needs a value: cargo bench-servers --help"))
            };
            match name {
                "--modes" => plan.modes = chosen(name, &value()?, &plan.modes)?,
                "--candidates" => plan.candidates = chosen(name, &value()?, &plan.candidates)?,
                "--rounds" => plan.rounds = number(name, &value()?)?,
                "--seconds" => plan.seconds = number(name, &value()?)?,
                "--connections" => plan.connections = number(name, &value()?)?,
                "--server-core" => plan.cores[0] = value()?,
                "--load-core" => plan.cores[1] = value()?,
                "--python" => plan.python = Some(value()?.into()),
                "--disk" => plan.disk = Some(value()?.into()),
                _ => return Err(format!("there is no option {word}: cargo bench-servers --help")),
            }
        }
        Ok(Some(plan))
    }

    pub(super) fn has_mode(&self, key: &str) -> bool {
        self.modes.iter().any(|mode| mode == key)
    }

    pub(super) fn has_candidate(&self, name: &str) -> bool {
        self.candidates.iter().any(|candidate| candidate == name)
    }
}

fn names(names: impl Iterator<Item = &'static str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

/// Of `all`, those that the list names.
fn chosen(option: &str, list: &str, all: &[String]) -> Result<Vec<String>, String> {
    let chosen: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    match chosen.iter().find(|name| !all.contains(name)) {
        Some(name) => Err(format!("{option} knows no {name:?}, but {}", all.join(", "))),
        None => Ok(chosen),
    }
}

fn number(option: &str, value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{option} takes a whole number from 1 on, not {value:?}"))
}

fn help(plan: &Plan) {
    println!("Measures rgunicorn beside its peers, and writes the tables of docs/PERFORMANCE.md.\n");
    println!("usage: cargo bench-servers [OPTION]...\n");
    println!("  --modes LIST         of {}", plan.modes.join(","));
    println!("  --candidates LIST    of {}", plan.candidates.join(","));
    println!("  --rounds N           measured rounds, after one that only warms up [{}]", plan.rounds);
    println!("  --seconds N          how long a round of one candidate lasts [{}]", plan.seconds);
    println!("  --connections N      connections of the load [{}]", plan.connections);
    println!("  --server-core N      the core of the servers [{}]", plan.cores[0]);
    println!("  --load-core N        the core of the load [{}]", plan.cores[1]);
    println!("  --python DIR         a virtual environment with gunicorn, granian, uwsgi [target/python]");
    println!("  --disk DIR           where the access log on a disk lies [target]");
    println!("  --write              put the tables into docs/PERFORMANCE.md as well");
    println!(
        "\nLists are separated by commas; without them all is measured. What is not installed is left out."
    );
}
