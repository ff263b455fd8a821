//! A broken file meets the same sentence in four places: `inspect`, `check`, the first start and a HUP; an application that
//! does not begin, in the last three.
//!
//! Whoever ships a broken, foreign, older or newer file must be able to act on what is said, and find it again wherever
//! it is said. What a newcomer would get wrong: the broken files are listed in the harness (`breakage.rs`); whether each
//! is refused with the right code and words is tested in `boot.rs` and `reload.rs`, here only that all say the same.

use std::process::{Command, Output};

use harness::breakage::Breakage;
use harness::{Settings, Site, each_breakage, programs};
use serde_json::Value;

each_breakage!(says_the_same_in_four_places:
    file_missing, file_empty, file_is_text, file_is_a_directory, elf_truncated, elf_of_another_machine,
    elf_without_note, class_as_application, application_as_class, class_missing, name_not_in_file,
    abi_of_the_future, symbol_missing, symbol_unresolved,
    constructor_hangs, constructor_segfaults, constructor_panics, constructor_exits,
);

fn says_the_same_in_four_places(name: &str, breakage: &Breakage) {
    let site = Site::new(name);
    let said = said_in_three_places(&site, name, breakage);
    let inspect = inspect(&site, &said.settings, breakage.exit_code);
    assert_eq!([&said.hup, &said.check, &inspect], [&said.start; 3]);
}

/// The sentences about one breakage, which is still there.
struct Said {
    hup: String,
    start: String,
    check: String,
    settings: Settings,
    _kept: Box<dyn std::any::Any>,
}

/// Asks at a HUP, at the first start and of `check`.
fn said_in_three_places(site: &Site, name: &str, breakage: &Breakage) -> Said {
    site.install(programs().inspect(1), "app.so");
    let mut launch = site.launch();
    if breakage.hangs {
        // What a good start takes, many times over.
        launch.settings.raw("boot_timeout", "4");
    }
    let mut server = launch.start();
    let mut settings = server.settings.clone();
    let kept = (breakage.arrange)(site, &mut settings);
    server.configure(|current| *current = settings.clone());

    let verdict = server.reload();
    server.expect_error(&verdict);
    let hup = verdict.strip_prefix("Reload refused, generation 1 serves on: ").expect("a refusal").to_owned();
    server.finish();

    let mut launch = site.launch();
    launch.settings = settings.clone();
    let start = sentence(&launch.start_in_vain().stderr);

    let check = run(site, &settings, &["check", "--config", "server.toml"]);
    assert_eq!(check.status.code(), Some(breakage.exit_code), "{check:?}");
    assert!(check.stdout.is_empty(), "{check:?}");
    let check = sentence(&String::from_utf8_lossy(&check.stderr));
    eprintln!("{name}: {start}");
    Said { hup, start, check, settings, _kept: kept }
}

mod of_a_worker {
    use super::*;

    // Where no file is at fault `inspect` finds nothing: it creates no application.
    each_breakage!(says_the_same_in_three_places:
        init_fails, init_panics, init_exits, start_fails, start_panics, start_aborts, start_exits,
        only_workers_fail, only_workers_panic, only_workers_exit,
    );
}

fn says_the_same_in_three_places(name: &str, breakage: &Breakage) {
    let site = Site::new(name);
    let Said { hup, start, check, .. } = said_in_three_places(&site, name, breakage);
    assert_eq!(check, start);
    // A HUP's generation is not the first, and its worker neither.
    assert_eq!(hup.replace("generation 2, age 2", "generation 1, age 1"), start);
    if name.ends_with("panic") || name.ends_with("panics") {
        let place = format!("panicked at examples/inspect/src/initialise.rs:{}:", line_of_the_panic());
        assert!(start.contains(&place), "{place:?} is not in: {start}");
    }
}

/// Where `inspect` panics when it is asked to.
fn line_of_the_panic() -> usize {
    let source = include_str!("../examples/inspect/src/initialise.rs");
    let line = source.lines().position(|line| line.contains("panic!(\"inspect: asked to panic\")"));
    line.expect("it panics somewhere") + 1
}

/// The last line of standard error, without the program's name.
#[track_caller]
fn sentence(stderr: &str) -> String {
    let last = stderr.lines().last().and_then(|line| line.strip_prefix("rgunicorn: "));
    last.unwrap_or_else(|| panic!("no sentence in: {stderr}")).to_owned()
}

/// A tool, run where the server was, with the variables that its configuration sets.
fn run(site: &Site, settings: &Settings, words: &[&str]) -> Output {
    let mut command = Command::new(programs().rgunicorn());
    for name in ["PORT", "WEB_CONCURRENCY", "RGUNICORN_CMD_ARGS", "RGUNICORN_PLUGIN_PATH", "INSPECT_INIT"] {
        command.env_remove(name);
    }
    if let Some((name, value)) = value(settings, "raw_env").split_once('=') {
        command.env(name, value);
    }
    command.args(words).current_dir(site.path()).env("PWD", site.path()).output().expect("the program runs")
}

/// A setting of one text, as it was before it became TOML; empty if it is not set.
fn value(settings: &Settings, name: &str) -> String {
    settings.get(name).unwrap_or_default().trim_matches(['[', ']', '"']).to_owned()
}

fn inspect(site: &Site, settings: &Settings, exit_code: i32) -> String {
    let (class, application) = (value(settings, "worker_class"), value(settings, "application"));
    let mut words = vec!["inspect", "--json", "--load", "--boot-timeout", "2", &application];
    if !class.is_empty() {
        words.extend(["-k", &class]);
    }
    let output = run(site, settings, &words);
    assert_eq!(output.status.code(), Some(exit_code), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let files = told["files"].as_array().expect("a list");
    let why = files.iter().find_map(|file| file["why"].as_str());
    why.unwrap_or_else(|| panic!("nothing is refused: {told}")).to_owned()
}
