//! The tools that run beside a server: `inspect` and `check`.
//!
//! What a newcomer would get wrong: the exit code is part of each answer, because deploy scripts ask for it. What is said
//! about broken files is tested in `refusals.rs`.

use std::fs;
use std::process::{Command, Output, Stdio};

use harness::{Signal, Site, process, programs, sha256};
use serde_json::Value;

fn tool(site: &Site, words: &[&str]) -> Output {
    let mut command = Command::new(programs().rgunicorn());
    for name in ["PORT", "WEB_CONCURRENCY", "RGUNICORN_CMD_ARGS", "RGUNICORN_PLUGIN_PATH", "INSPECT_INIT"] {
        command.env_remove(name);
    }
    command.args(words).current_dir(site.path()).env("PWD", site.path()).output().expect("the program runs")
}

#[track_caller]
fn said(output: &Output, exit_code: i32) -> String {
    assert_eq!(output.status.code(), Some(exit_code), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn inspect_tells_what_an_application_is_without_running_it() {
    let site = Site::new("inspect_app");
    site.install(programs().fixture("bad_constructor"), "app.so");
    // Its constructor would end whoever loads it.
    let mut command = Command::new(programs().rgunicorn());
    let command = command.arg("inspect").arg(site.join("app.so")).env("FX_CONSTRUCTOR", "exit");
    let page = said(&command.output().expect("the program runs"), 0);
    for part in
        ["verdict       good for interface 1.0", "kind          application", "panic=unwind", "libc.so.6"]
    {
        assert!(page.contains(part), "{part:?} is not in:\n{page}");
    }
    let hash = sha256(&fs::read(site.join("app.so")).expect("a file"));
    assert!(page.contains(&format!("sha256        {hash}")), "{page}");
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn inspect_tells_what_a_worker_class_is() {
    let site = Site::new("inspect_class");
    site.install(programs().fixture("minimal_class"), "class.so");
    for words in [["inspect", "./class.so", "--json"], ["inspect", "-kclass.so", "--json"]] {
        let told: Value = serde_json::from_str(&said(&tool(&site, &words), 0)).expect("JSON");
        let file = &told["files"][0];
        assert_eq!((&file["verdict"], &file["note"]["kind"]), (&"good".into(), &"worker".into()), "{told}");
        assert_eq!(file["note"]["class"], "minimal");
        assert_eq!(file["note"]["features"], serde_json::json!([]));
        assert_eq!(file["note"]["options"][0]["name"], "greeting");
        assert_eq!(file["file"], site.join("class.so").to_str().expect("UTF-8"));
    }
}

#[test]
fn inspect_finds_by_name_what_lies_beside_the_program_and_loads_it() {
    let site = Site::new("inspect_load");
    for (words, says) in [
        (["inspect", "--load", "hello"], "it says that it has: app (inline)"),
        (["inspect", "--load", "hello:app"], "it says that it has: app (inline)"),
        (["inspect", "--load", "-kgthread"], "it says that it has: threaded 0.1.0"),
    ] {
        let page = said(&tool(&site, &words), 0);
        assert!(
            page.contains("verdict       good: it was loaded") && page.contains(says),
            "{words:?}:\n{page}"
        );
    }
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn inspect_names_the_libraries_that_a_plugin_brings() {
    let site = Site::new("inspect_brings");
    let file = programs().fixture("neighbour");
    let told = said(&tool(&site, &["inspect", "--json", file.to_str().expect("UTF-8")]), 0);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let brings = told["files"][0]["brings"].as_array().expect("a list");
    assert_eq!(brings.len(), 1, "{told}");
    assert!(brings[0]["file"].as_str().is_some_and(|path| path.starts_with('/')), "{told}");
}

#[test]
fn inspect_judges_for_another_version_of_the_host() {
    let site = Site::new("inspect_against");
    site.install(programs().bad_abi(), "future.so");
    site.install(programs().inspect(1), "app.so");
    let both = ["inspect", "future.so", "app.so"];
    // A newer minor version of the host takes what this one does, and tells that it is older.
    let page = said(&tool(&site, &["inspect", "app.so", "--against", "1.7"]), 0);
    assert!(page.contains("good for interface 1.7") && page.contains("1.0 (older;"), "{page}");
    for (against, refused, sentence) in [
        (
            "1.0",
            "future.so",
            "it was built for version 2.0 of the plugin interface, and this rgunicorn speaks version 1.0",
        ),
        (
            "2.3",
            "app.so",
            "it was built for version 1.0 of the plugin interface, and this rgunicorn speaks version 2.3",
        ),
    ] {
        let table = said(&tool(&site, &[&both[..], &["--against", against]].concat()), 4);
        let row = |name: &str| table.lines().find(|line| line.contains(name)).expect("a row").to_owned();
        let good = if refused == "app.so" { "future.so" } else { "app.so" };
        assert!(row(refused).ends_with("refused [1]") && row(good).ends_with("good"), "{table}");
        assert!(table.contains(sentence), "{table}");
    }
}

#[test]
fn inspect_tells_the_first_refusal_by_its_exit_code() {
    let site = Site::new("inspect_codes");
    site.install(programs().inspect(1), "app.so");
    site.write("text.so", "text");
    said(&tool(&site, &["inspect", "app.so", "text.so"]), 4);
    said(&tool(&site, &["inspect", "app.so", "-k", "text.so"]), 3);
    said(&tool(&site, &["inspect", "no.so"]), 4);
    assert_eq!(tool(&site, &["inspect"]).status.code(), Some(2));
    assert_eq!(tool(&site, &["inspect", "app.so", "--wrong"]).status.code(), Some(2));
    for help in [["inspect", "--help"], ["check", "--help"]] {
        assert!(said(&tool(&site, &help), 0).contains("Usage: rgunicorn "), "{help:?}");
    }
}

#[test]
fn inspect_shows_a_file_that_was_asked_for_as_something_else_as_what_it_is() {
    let site = Site::new("inspect_kind");
    site.install(programs().inspect(1), "app.so");
    site.install(programs().sync(), "class.so");
    for (words, code, parts) in [
        (
            &["inspect", "-k", "./app.so"][..],
            3,
            ["it is an application, not a worker class", "applications  app"],
        ),
        (&["inspect", "class.so:app"], 4, ["it is a worker class, not an application", "class         sync"]),
    ] {
        let page = said(&tool(&site, words), code);
        for part in parts {
            assert!(page.contains(part), "{part:?} is not in:\n{page}");
        }
    }
}

#[test]
fn who_comes_from_gunicorn_is_told_what_there_is_here() {
    let site = Site::new("from_gunicorn");
    site.install(programs().inspect(1), "app.so");
    site.write("gunicorn.conf.py", "import multiprocessing\nworkers = 2\n");
    for (words, code, part) in [
        (&["check", "-c", "gunicorn.conf.py", "app.so"][..], 1, "the file is TOML, not Python"),
        (&["check", "-k", "uvicorn.workers.UvicornWorker", "app.so"], 3, "Use 'poll'"),
        (&["check", "shop.wsgi:application"], 4, "an application is no Python module here"),
        (&["check", "--no-sendfile", "app.so"], 2, "Always on"),
        (&["check", "--paste", "x.ini"], 2, "FILE.so:NAME"),
        (&["check", "--reload-engine", "poll", "app.so"], 1, "inotify"),
        // Words of the operator's are shown, not obeyed.
        (&["check", "a\u{1b}[2J\r.so"], 1, "a\\u{1b}[2J\\r.so"),
        (&["check", "--\u{1b}[2J"], 2, "--\\u{1b}[2J"),
        (&["check", "-c", "a\nb.toml"], 1, "a\\nb.toml"),
    ] {
        let output = tool(&site, words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(code), 1), "{words:?}: {stderr}");
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        assert!(!stderr.trim_end().contains(char::is_control), "{stderr:?}");
    }
}

#[test]
fn a_library_that_ends_the_probe_is_told_with_what_to_do() {
    let site = Site::new("probe_dies");
    site.install(programs().inspect(1), "app.so");
    for (mode, parts) in [
        (
            "exit:7",
            ["exited with code 7", "where it has to return an error: 'rgunicorn inspect --load FILE'"],
        ),
        ("abort", ["was killed by SIGABRT", "'rgunicorn inspect --load FILE' tries one file by itself"]),
    ] {
        let output = tool(&site, &["check", "-e", &format!("INSPECT_INIT={mode}"), "app.so"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
    }
}

#[test]
fn check_begins_a_worker_and_ends_it_again() {
    let site = Site::new("check_trial");
    site.mine("log");
    site.install(programs().fixture("exchange"), "app.so");
    site.install(programs().fixture("hooks"), "hooks.so");
    let trace = format!("FX_TRACE={}", site.join("trace").display());
    for preload in [&[][..], &["--preload"]] {
        site.write("trace", "");
        let words =
            ["check", "--hooks", "hooks.so", "-e", &trace, "--error-logfile", "log", "app.so:blocking"];
        let output = tool(&site, &[&words[..], preload].concat());
        assert!(said(&output, 0).starts_with("OK: would serve app.so:blocking on "), "{output:?}");
        let trace = site.read("trace");
        let steps: Vec<&str> = trace.lines().filter_map(|line| line.split(' ').next()).collect();
        // As a worker, once each: nobody else has lived, and none has been told of a process that came or went.
        let life = [
            "post_fork",
            "start",
            "ready",
            "post_worker_init",
            "drain",
            "shutdown",
            "dropped",
            "worker_exit",
        ];
        assert_eq!(steps, life, "{trace}");
        // A server that runs has this log.
        assert_eq!(site.read("log"), "");
    }
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

#[test]
fn check_says_what_only_a_worker_finds() {
    let site = Site::new("check_worker");
    site.install(programs().inspect(1), "app.so");
    site.install(programs().fixture("hooks"), "hooks.so");
    for (variable, code, part) in [
        ("INSPECT_INIT=start:fail", 4, "app.so:app failed to start: inspect: asked to fail"),
        ("INSPECT_INIT=probe-ok:fail", 4, "app.so:app failed to load: inspect: asked to fail"),
        (
            "INSPECT_INIT=start:exit:0",
            3,
            "a worker exited with code 0 before it was ready (generation 1, age 1, while starting",
        ),
        ("INSPECT_INIT=start:abort", 3, "a worker was killed by SIGABRT before it was ready"),
        (
            "INSPECT_INIT=start:hang",
            3,
            "a worker was not ready within boot_timeout (generation 1, age 1, while starting",
        ),
        ("FX_HOOK=post_worker_init:fail", 4, "the hook post_worker_init of "),
    ] {
        let timeout = if variable.ends_with("hang") { "5" } else { "60" };
        let output = tool(
            &site,
            &["check", "--hooks", "hooks.so", "--boot-timeout", timeout, "-e", variable, "app.so"],
        );
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b""[..]), "{stderr}");
        assert_eq!(stderr.lines().filter(|line| line.starts_with("rgunicorn: ")).count(), 1, "{stderr}");
        assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
    }
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}

/// What an application forks holds all that the worker had open.
#[test]
fn check_does_not_wait_for_a_child_of_the_application() {
    let site = Site::new("check_fork");
    site.install(programs().fixture("bad_constructor"), "app.so");
    let mut command = Command::new(programs().rgunicorn());
    command.args(["check", "--graceful-timeout", "600", "-e", "FX_CONSTRUCTOR=fork", "app.so"]);
    // Not to a pipe: that, too, would end only with the child.
    command.current_dir(site.path()).env("PWD", site.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().expect("the program runs");
    let is_here =
        |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place == site.path());
    let left: Vec<i32> =
        process::all().into_iter().map(|process| process.pid).filter(|pid| is_here(pid)).collect();
    left.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
    assert_eq!(status.code(), Some(0));
    assert_eq!(left.len(), 1, "it was to be there still");
}

#[test]
fn check_says_in_one_line_what_a_start_would_do() {
    let site = Site::new("check");
    site.install(programs().inspect(1), "app.so");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it has one").to_string();
    site.mine("pid");
    std::os::unix::fs::symlink("/nowhere/pid", site.join("pid")).expect("a new link");
    // It does not bind, so that a server that runs is in nobody's way.
    let line = said(&tool(&site, &["check", "-k", "threaded", "-w", "3", "-b", &address, "app.so"]), 0);
    let expected = format!("OK: would serve app.so on {address} with 3 workers of the class threaded\n");
    assert_eq!(line, expected);
    for (words, code, part) in [
        (&["check", "-k", "gevent", "app.so"][..], 3, "libgevent.so"),
        (&["check", "-e", "INSPECT_INIT=fail", "app.so"], 4, "inspect: asked to fail"),
        (&["check", "-b", "8000", "app.so"], 1, "8000"),
        (
            &["check", "-k", "", "app.so"],
            3,
            "the worker class '': it is empty, perhaps for an unset variable; give",
        ),
        (
            &["check", "--pid", "pid", "app.so"],
            1,
            "is a symbolic link to /nowhere/pid, which is not there; remove",
        ),
        (&["check", "--wrokers", "3"], 2, "--workers"),
    ] {
        let output = tool(&site, words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said(&output, code).as_str()), (Some(code), ""));
        assert_eq!(stderr.lines().filter(|line| line.starts_with("rgunicorn: ")).count(), 1, "{stderr}");
        assert!(stderr.contains(part), "{part} is not in: {stderr}");
    }
    assert_eq!(site.leftovers(), Vec::<std::path::PathBuf>::new(), "files are left");
}
