//! The control socket: one line asks, one JSON document answers, and the connection closes.
//!
//! Owns the grammar of the line and the form of the answers. Does not own the socket (`monitor.rs`), what a verb does (the
//! arbiter) nor what an operator sees (`crate::ctl`).
//!
//! What a newcomer would get wrong: nothing of a line ever reaches the master. What is asked becomes a number here
//! ([`Verb`]), and a file's name that is shown here came from the master, not from a client.

use serde_json::{Value, json};

use super::health::Snapshot;
use crate::generation::Generation;
use crate::image::Image;
use crate::logging::LogLevel;
use crate::scoreboard::{Life, Outcome, Verdict};
use crate::settings::MAX_WORKERS;
use crate::sys::fd::monotonic_ns;
use crate::verb::Verb;

/// The longest line that is read (octets).
pub const LONGEST_LINE: usize = 256;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To know how everything is.
    Status,
    /// Something of the master.
    Verb(Verb),
}

/// Reads a line, its end included. None as long as there is no whole one.
pub fn judge(octets: &[u8]) -> Option<Result<Wish, String>> {
    let Some(end) = octets.iter().position(|octet| *octet == b'\n') else {
        let too_long = octets.len() > LONGEST_LINE;
        return too_long.then(|| Err(format!("a command has at most {LONGEST_LINE} octets")));
    };
    let line = std::str::from_utf8(&octets[..end]).map_err(|_| "the command is not UTF-8".to_owned());
    Some(line.and_then(wish))
}

/// Reads the words of a command.
///
/// # Errors
/// One sentence.
pub fn wish(line: &str) -> Result<Wish, String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let count = |text: &str| {
        text.parse::<u64>().ok().filter(|count| (1..=MAX_WORKERS).contains(count)).ok_or_else(|| {
            format!("cannot have '{text}' workers: give a whole number from 1 to {MAX_WORKERS}")
        })
    };
    match words.as_slice() {
        ["status" | "workers"] => Ok(Wish::Status),
        ["reload"] => Ok(Wish::Verb(Verb::Reload)),
        ["stop"] => Ok(Wish::Verb(Verb::Stop)),
        ["workers", text] => count(text).map(|count| Wish::Verb(Verb::Workers(count))),
        ["log-level", word] => match LogLevel::from_word(&word.to_ascii_lowercase()) {
            Some(level) => Ok(Wish::Verb(Verb::LogLevel(level))),
            None => {
                Err(format!("cannot log at '{word}': give trace, debug, info, warning, error or critical"))
            }
        },
        _ => Err(format!(
            "cannot understand '{}': the commands are status, workers, reload, workers N, log-level LEVEL and stop",
            line.trim().escape_default()
        )),
    }
}

/// An answer on the wire.
pub fn answer(value: &Value) -> Vec<u8> {
    let mut text = value.to_string();
    text.push('\n');
    text.into_bytes()
}

/// That something was done, in a sentence.
pub fn done(sentence: &str) -> Vec<u8> {
    answer(&json!({ "ok": true, "message": sentence }))
}

/// That it was not.
pub fn failed(sentence: &str) -> Vec<u8> {
    answer(&json!({ "ok": false, "message": sentence }))
}

/// How a reload ended.
pub fn reloaded(verdict: &Verdict) -> Vec<u8> {
    let ok = verdict.outcome == Outcome::Done;
    answer(&json!({
        "ok": ok,
        "message": verdict.sentence,
        "verdict": verdict.outcome.as_str(),
        "generation": verdict.generation,
    }))
}

/// Everything there is to know.
pub fn status(snapshot: &Snapshot, generations: &[&Generation], master: i32, level: LogLevel) -> Vec<u8> {
    let facts = snapshot.facts;
    let unready = snapshot.unready();
    let reload = facts.last_verdict().map(|verdict| {
        json!({
            "verdict": verdict.outcome.as_str(),
            "generation": verdict.generation,
            "age_seconds": seconds(monotonic_ns().saturating_sub(verdict.at)),
            "message": verdict.sentence,
        })
    });
    let queues: Vec<Value> = snapshot
        .queues
        .iter()
        .map(|queue| json!({ "address": queue.address, "waiting": queue.waiting, "room": queue.room }))
        .collect();
    let workers: Vec<Value> = snapshot.lives.iter().map(|life| worker(life, generations)).collect();
    let companions = facts.companions();
    let processes: Vec<Value> = companions
        .iter()
        .map(|companion| {
            json!({
                "role": companion.role.as_str(),
                "pid": companion.pid,
                "generation": companion.generation,
                "memory_bytes": memory(companion.pid),
            })
        })
        .collect();
    answer(&json!({
        "ok": true,
        "version": env!("CARGO_PKG_VERSION"),
        "master": master,
        "state": facts.state().as_str(),
        "ready": unready.is_none(),
        "not_ready_because": unready,
        "uptime_seconds": seconds(facts.uptime()),
        "generation": facts.generation(),
        "workers_wanted": facts.wanted(),
        "log_level": level.as_str(),
        "listeners": queues,
        "last_reload": reload,
        "processes": processes,
        "workers": workers,
    }))
}

fn worker(life: &Life, generations: &[&Generation]) -> Value {
    // One whose generation is still being tried is known by its number only.
    let generation = generations.iter().find(|generation| generation.number == life.generation);
    let image =
        |image: &Image| json!({ "path": image.original, "sha256": image.sha256, "build_id": image.build_id });
    let request = life.request.as_ref();
    let doing = request.map_or_else(|| life.stage.clone(), ToString::to_string);
    json!({
        "pid": life.pid,
        "age": life.age,
        "generation": life.generation,
        "state": life.doing.as_str(),
        "uptime_seconds": seconds(life.uptime),
        "requests": life.requests,
        "active_requests": life.active,
        "connections": life.connections,
        "memory_bytes": memory(life.pid),
        "doing": doing,
        "doing_seconds": request.map(|request| request.age().as_secs_f64()),
        "worker_class": generation.map(|generation| image(&generation.class)),
        "applications": generation
            .map(|generation| generation.apps.iter().map(image).collect::<Vec<_>>())
            .unwrap_or_default(),
    })
}

/// What a process has in memory (VmRSS of proc(5)); none if it has just gone.
fn memory(pid: u64) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn seconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1_000_000) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_understood_or_refused_in_a_sentence() {
        let verb = |verb| Some(Ok(Wish::Verb(verb)));
        assert_eq!(judge(b"stat"), None);
        assert_eq!(judge(b"status\n"), Some(Ok(Wish::Status)));
        assert_eq!(judge(b"workers\r\n"), Some(Ok(Wish::Status)));
        assert_eq!(judge(b"workers  12\nmore"), verb(Verb::Workers(12)));
        assert_eq!(judge(b"log-level DEBUG\n"), verb(Verb::LogLevel(LogLevel::Debug)));
        assert_eq!(judge(b"reload\n"), verb(Verb::Reload));
        assert_eq!(judge(b"stop\n"), verb(Verb::Stop));
        for (line, part) in [
            (&b"workers 0\n"[..], "from 1 to 1024"),
            (b"workers -1\n", "from 1 to 1024"),
            (b"workers 1025\n", "from 1 to 1024"),
            (b"log-level loud\n", "'loud'"),
            (b"stop now\n", "'stop now'"),
            (b"\x1b[2J\n", "\\u{1b}[2J"),
            (b"\xff\n", "not UTF-8"),
            (b"\n", "the commands are"),
            (&[b'a'; LONGEST_LINE + 1], "at most 256"),
        ] {
            let refused = judge(line).and_then(Result::err).unwrap_or_default();
            assert!(refused.contains(part), "{line:?}: {refused}");
        }
    }
}
