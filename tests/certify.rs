//! The conformance kit: our classes and a stranger's pass it, a careless one does not.
//!
//! What a newcomer would get wrong: what the trials try is tried more thoroughly in the other files here. What is tested
//! here is the kit: that it neither blames who is right nor lets pass who is wrong, and that it leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use harness::classes::classes;
use harness::{Signal, Site, process, programs, wait_for};
use serde_json::Value;

/// Starts it, with a place of its own for what it writes.
fn start(site: &Site, class: &Path, words: &[&str]) -> Child {
    let mut command = Command::new(programs().rgunicorn());
    command.args(["certify", "-k"]).arg(class).args(words).env("TMPDIR", site.path()).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program")
}

/// Waits for its end; its process group must have ended with it.
fn end(child: Child) -> Output {
    let group = child.id() as i32;
    let output = child.wait_with_output().expect("it is our child");
    wait_for("the end of all servers under trial", || process::group(group).is_empty());
    output
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[test]
fn our_classes_and_one_of_a_stranger_pass() {
    let site = Site::new("certify");
    let ours = classes().map(|class| (programs().class(class), if class.keeps_alive { 0 } else { 6 }));
    // All at a time: most of a minute is waiting.
    let cards: Vec<_> = ours
        .chain([(programs().fixture("minimal_class"), 6)])
        .map(|(class, skipped)| {
            let child = start(&site, &class, &[]);
            (class, skipped, std::thread::spawn(|| end(child)))
        })
        .collect();
    let mut failed = Vec::new();
    for (class, skipped, output) in cards {
        let output = output.join().expect("no panic");
        let card = text(&output.stdout);
        eprintln!("{card}{}", text(&output.stderr));
        let passed = card.contains(&format!(" passed, 0 failed, {skipped} skipped, in "));
        if output.status.code() != Some(0) || !passed {
            failed.push(class);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn a_careless_class_is_found_out() {
    // Those that find it out without waiting for long.
    let trials = [
        "answers",
        "HEAD",
        "cut",
        "pipelining",
        "kept and closed",
        "many requests",
        "bodies",
        "malformed",
        "fails or panics",
        "never looks whole",
        "side by side",
        "an idle worker is alive",
        "sleeps",
        "each request",
    ];
    let words: Vec<&str> = trials.iter().flat_map(|part| ["--only", *part]).chain(["--json"]).collect();
    let site = Site::new("careless");
    let output = end(start(&site, &programs().fixture("careless_class"), &words));
    let card = text(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{card}\n{}", text(&output.stderr));
    let card: Value = serde_json::from_str(&card).expect("JSON");
    let scores = card["trials"].as_array().expect("a list");
    for part in trials {
        let of_it =
            scores.iter().find(|score| score["trial"].as_str().is_some_and(|name| name.contains(part)));
        let score = of_it.unwrap_or_else(|| panic!("there is no trial '{part}'"));
        assert_eq!(score["outcome"], "fail", "{score}");
        assert!(score["why"].as_str().is_some_and(|why| !why.is_empty() && !why.contains('\n')), "{score}");
    }
}

#[test]
fn a_class_that_cannot_be_loaded_is_refused_with_the_sentence_of_a_start() {
    let site = Site::new("refused");
    for (class, part) in
        [(programs().hello(), "it is an application, not a worker class"), ("no.so".into(), "no.so")]
    {
        let output = end(start(&site, &class, &[]));
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.starts_with("rgunicorn: cannot ") && stderr.contains(part), "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_trial_that_there_is_not_is_a_mistake() {
    let site = Site::new("unknown_trial");
    let output = end(start(&site, &programs().sync(), &["--only", "telepathy"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("HEAD: the fields"), "{}", text(&output.stderr));
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let site = Site::new("killed");
    let mut child = start(&site, &programs().sync(), &[]);
    let group = child.id() as i32;
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    // By now a server is under trial.
    let found = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("pass  ")));
    assert!(found.is_some(), "no trial passed");
    process::send(group, Signal::SIGKILL);
    child.wait().expect("it is our child");
    wait_for("the end of all servers under trial", || process::group(group).is_empty());
}
