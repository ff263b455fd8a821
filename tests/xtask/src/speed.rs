//! `cargo verify-speed`: whether a request costs a worker more instructions than it did.
//!
//! Owns the count and the comparison with `tests/instructions.txt`. Instructions in user space are the same on a busy
//! machine and on a quiet one, so this is a test, while times are a benchmark (`bench.rs`). What a newcomer would get
//! wrong: starting up costs thousands of times what a request costs, so two runs of different length are subtracted; and
//! another compiler makes other instructions, so figures of another one are shown and not judged.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bench::server::{Server, free_port, pinned, said};

/// How many requests the two runs make.
const FEWER: u64 = 1000;
const MORE: u64 = 4000;
/// How much more a request may cost than what was recorded, in hundredths; and less, before a new record is asked for.
const SLACK: u64 = 5;
/// How often a class is counted until it is within its bound; the least counts. Under `threaded` who waits for whom moves
/// the count by a few hundredths on a busy machine, and never below what the work itself needs.
const ATTEMPTS: usize = 3;
/// How long a start or an end may take under valgrind.
const PATIENCE: Duration = Duration::from_secs(180);

/// The worker classes, and whether each keeps a connection.
const CLASSES: [(&str, bool); 3] = [("sync", false), ("threaded", true), ("poll", true)];
const HELLO: &[u8] = b"Hello, World!";

/// What is built and counted.
pub(crate) const PACKAGES: [&str; 5] =
    ["rgunicorn", "rgunicorn-sync", "rgunicorn-threaded", "rgunicorn-poll", "rgunicorn-example-bench"];

/// Counts, and compares; `--renew` records.
pub(crate) fn verify(root: &Path, target: &Path, words: &[String]) -> Result<(), String> {
    let renew = match words {
        [] => false,
        [word] if word == "--renew" => true,
        _ => return Err("usage: cargo verify-speed [--renew]".to_owned()),
    };
    let file = root.join("tests/instructions.txt");
    let recorded = if renew {
        String::new()
    } else {
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?
    };
    let own = Directory::new()?;
    let compiler = compiler()?;
    let mut counted = Vec::new();
    for (class, keeps) in CLASSES {
        let most = recorded_of(&recorded, class).and_then(|number| number.parse().ok()).map(most);
        let mut each = u64::MAX;
        for _ in 0..ATTEMPTS {
            let fewer = count(target, &own.0, class, keeps, FEWER)?;
            let more = count(target, &own.0, class, keeps, MORE)?;
            each = each.min(more.saturating_sub(fewer) / (MORE - FEWER));
            if most.is_some_and(|most| each <= most) {
                break;
            }
        }
        println!("{class}: {each} instructions for a request");
        counted.push((class, each));
    }
    if renew {
        let mut text = format!(
            "# Instructions in user space for one request of /hello (examples/bench), built for release: on a kept connection,\n\
             # under sync on a connection of its own. `cargo verify-speed --renew` writes this file.\ncompiler {compiler}\n"
        );
        counted.iter().for_each(|(class, each)| text.push_str(&format!("{class} {each}\n")));
        return fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()));
    }
    let text =
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    judge(&counted, &text, &compiler)
}

/// What stands in the file behind a name.
fn recorded_of<'f>(recorded: &'f str, name: &str) -> Option<&'f str> {
    let mut lines = recorded.lines().filter(|line| !line.starts_with('#'));
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// What is still no growth.
fn most(before: u64) -> u64 {
    before * (100 + SLACK) / 100
}

/// Compares with what was recorded.
fn judge(counted: &[(&str, u64)], recorded: &str, compiler: &str) -> Result<(), String> {
    let of = recorded_of(recorded, "compiler").unwrap_or("none");
    let is_comparable = of == compiler;
    let mut grown = Vec::new();
    for (class, each) in counted {
        let before: u64 = recorded_of(recorded, class)
            .and_then(|number| number.parse().ok())
            .filter(|number| *number > 0)
            .ok_or_else(|| {
                format!("tests/instructions.txt has no figure for {class}: cargo verify-speed --renew")
            })?;
        let change = 100.0 * (*each as f64 / before as f64 - 1.0);
        let sentence = format!(
            "{class}: {each} instructions for a request, where {before} were recorded: {change:+.1} %"
        );
        if *each > most(before) && is_comparable {
            grown.push(sentence);
        } else if each * 100 < before * (100 - SLACK) && is_comparable {
            println!("{sentence}. Record it, so that it stays: cargo verify-speed --renew");
        } else {
            println!("{sentence}");
        }
    }
    if !is_comparable {
        println!("not judged: recorded with {of}, and this is {compiler}");
    }
    if grown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "a request has become dearer by more than {SLACK} %. Find out why (callgrind_annotate), or record what it costs \
         now, with the reason in the commit: cargo verify-speed --renew\n{}",
        grown.join("\n")
    ))
}

/// The instructions of a worker that has answered so many requests.
fn count(target: &Path, own: &Path, class: &str, keeps: bool, requests: u64) -> Result<u64, String> {
    let port = free_port()?;
    let out = own.join(format!("{class}.{requests}"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", &format!("--callgrind-out-file={}.%p", out.display())]);
    // Under valgrind everything takes fifty times as long, and nothing may happen for that reason.
    command.arg(target.join("release/rgunicorn")).args([
        "-k",
        class,
        "-w",
        "1",
        "-b",
        &format!("127.0.0.1:{port}"),
    ]);
    command.args([
        "--timeout",
        "600",
        "--boot-timeout",
        "600",
        "--keep-alive",
        "600",
        "--log-level",
        "error",
    ]);
    if class == "threaded" {
        command.args(["--threads", "2"]);
    }
    command.arg("bench:app").current_dir(own);
    command.env_remove("RGUNICORN_CMD_ARGS").env_remove("RGUNICORN_PLUGIN_PATH");
    // One core, so that who waits for whom is the same in each run.
    let server = Server::start(pinned("0", &command), port, &own.join("said"), PATIENCE)?;
    let workers: Vec<u32> = server.workers().into_iter().collect();
    let [worker] = workers.as_slice() else {
        return Err(format!("{class} has not one worker, but {workers:?}"));
    };
    if keeps {
        let mut stream = connect(port)?;
        (0..requests).try_for_each(|_| ask(&mut stream))?;
    } else {
        (0..requests).try_for_each(|_| connect(port).and_then(|mut stream| ask(&mut stream)))?;
    }
    // With its end each process writes what it has counted.
    drop(server);
    let file = PathBuf::from(format!("{}.{worker}", out.display()));
    let text =
        fs::read_to_string(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("summary: ").or_else(|| line.strip_prefix("totals: ")));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| format!("callgrind has not written a sum into {}", file.display()))
}

fn connect(port: u16) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("cannot connect to port {port}: {error}");
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    Ok(stream)
}

/// One request, and its answer.
fn ask(stream: &mut TcpStream) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("no answer: {error}");
    stream.write_all(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    while !answer.ends_with(HELLO) {
        match stream.read(&mut piece).map_err(failed)? {
            0 => return Err(format!("no whole answer: {:?}", String::from_utf8_lossy(&answer))),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(())
}

/// Whether there is what counts.
pub(crate) fn has_valgrind() -> bool {
    said(Command::new("valgrind").arg("--version")).is_ok()
}

fn compiler() -> Result<String, String> {
    let text = said(Command::new("rustc").arg("-vV"))?;
    let of =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown").to_owned();
    Ok(format!("rustc {} for {}", of("release: "), of("host: ")))
}

/// A directory of this run, which ends with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("verify-speed-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left of it is in a directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::judge;

    const RECORDED: &str = "# made for this test\ncompiler this\nsync 1000\npoll 2000\n";

    #[test]
    fn only_what_has_grown_by_more_than_a_twentieth_fails() {
        assert_eq!(judge(&[("sync", 1050), ("poll", 2000)], RECORDED, "this"), Ok(()));
        assert_eq!(judge(&[("sync", 500), ("poll", 2000)], RECORDED, "this"), Ok(()));
        let sentence = judge(&[("sync", 1051), ("poll", 2000)], RECORDED, "this").unwrap_err();
        assert!(sentence.contains("sync: 1051 instructions for a request, where 1000 were recorded: +5.1 %"));
        assert!(!sentence.contains("poll"), "{sentence}");
    }

    #[test]
    fn figures_of_another_compiler_are_not_judged_and_missing_ones_are_a_mistake() {
        assert_eq!(judge(&[("sync", 9000)], RECORDED, "another"), Ok(()));
        let sentence = judge(&[("threaded", 1)], RECORDED, "this").unwrap_err();
        assert!(sentence.contains("no figure for threaded"), "{sentence}");
    }
}
