//! Each setting takes effect, and refuses what it cannot be.
//!
//! Owns one entry per setting: what is seen on the wire, in /proc or in a file when it is set, and a value that must be
//! refused with a sentence that names it.. What a newcomer
//! would get wrong: `--print-config` proves nothing here. It shows what was read, not what is done.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread::available_parallelism;

use harness::{Site, programs};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, geteuid};

/// A site with the test application.
fn site(name: &str) -> Site {
    let site = Site::new(&format!("setting_{name}"));
    site.install(programs().inspect(1), "app.so");
    site
}

/// A server with this line in its file does not start, and says why in one sentence.
fn refuses(name: &str, value: &str, sentence: &str) {
    let site = site(name);
    let ended = site.launch().with(|settings| _ = settings.raw(name, value)).start_in_vain();
    assert!(!ended.status.success(), "{name} = {value} was accepted");
    assert!(ended.stderr.contains(name), "{name} is not named: {}", ended.stderr);
    assert!(ended.stderr.contains(sentence), "{sentence:?} is not said: {}", ended.stderr);
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
}

/// The command line that /proc shows for a process.
fn title(pid: i32) -> String {
    let octets = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&octets).trim_end_matches('\0').to_owned()
}

/// A line of /proc/PID/status.
fn status(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// One entry per setting: `name, a bad value and what is said of it, a test that it takes effect`.
macro_rules! settings {
    ($($name:ident, $bad:expr => $sentence:expr, |$site:ident| $effect:block)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn takes_effect() {
                let $site = site(stringify!($name));
                $effect
            }

            #[test]
            fn refuses_a_bad_value() {
                refuses(stringify!($name), $bad, $sentence);
            }
        })*
    };
}

settings! {
    proc_name, r#""a\u0007b""# => "control character", |site| {
        let long = "n".repeat(300);
        let server = site.launch().with(|settings| _ = settings.text("proc_name", &long)).start();
        let worker = server.workers()[0];
        assert_eq!(title(server.pid()), format!("rgunicorn: master [{long}]"));
        assert_eq!(title(worker), format!("rgunicorn: worker [{long}]"));
        // What the title has overwritten is still there for the application.
        assert_eq!(server.text("/env?name=PWD"), site.path().display().to_string());
        server.finish();
    }

    initgroups, "1" => "true or false", |site| {
        // Whoever is named in a line of group(5) has a supplementary group.
        let groups = fs::read_to_string("/etc/group").expect("this system has groups");
        let member = groups.lines().find_map(|line| {
            let mut fields = line.split(':').skip(2);
            let (group, members) = (fields.next()?, fields.next()?);
            let member = members.split(',').next().filter(|member| !member.is_empty())?;
            Some((group.to_owned(), member.to_owned()))
        });
        let (Some((group, member)), true) = (member, geteuid().is_root()) else {
            eprintln!("nothing to see here: it takes root, and a user with a supplementary group");
            return;
        };
        let mut server = site.launch().with(|settings| _ = settings.text("user", &member)).start();
        let groups = |pid| status(pid, "Groups");
        let has = |groups: &str| groups.split_whitespace().any(|other| other == group);
        let own = groups(server.workers()[0]);
        assert!(has(&own), "{member} is in {group}: {own}");
        server.configure(|settings| _ = settings.raw("initgroups", "false"));
        server.reload_well();
        let own = groups(server.workers()[0]);
        assert_eq!(own.split_whitespace().count(), 1, "its own group and no other: {own}");
        assert!(!has(&own), "{own}");
        server.finish();
    }

    no_new_privs, "1" => "true or false", |site| {
        let server = site.launch().start();
        assert_eq!(status(server.workers()[0], "NoNewPrivs"), "1");
        assert_eq!(status(server.pid(), "NoNewPrivs"), "0", "the master may be asked to start anything");
        server.finish();
        let server = site.launch().args(&["--no-new-privs=false"]).start();
        assert_eq!(status(server.workers()[0], "NoNewPrivs"), "0");
        server.finish();
    }

    allow_world_writable, "1" => "true or false", |site| {
        let allow = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
        };
        let release = site.directory("release");
        fs::rename(site.join("app.so"), release.join("app.so")).expect("the same file system");
        site.mine("release/app.so");
        let launch = || site.launch().with(|settings| _ = settings.text("application", "current/app.so"));
        symlink("release", site.join("current")).expect("a symlink");
        site.mine("current");
        for (path, mode, sentence) in [
            (release.clone(), 0o777, "everybody can write the directory "),
            (release.join("app.so"), 0o666, "everybody can write the file "),
        ] {
            let before = fs::metadata(&path).expect("it is there").permissions().mode();
            allow(&path, mode);
            let ended = launch().start_in_vain();
            assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
            assert!(ended.stderr.contains(sentence) && ended.stderr.contains("release"), "{}", ended.stderr);
            let server = launch().args(&["--allow-world-writable"]).start();
            assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
            server.finish();
            allow(&path, before & 0o777);
        }
        // A reload judges again.
        let mut server = launch().start();
        allow(&release, 0o777);
        server.expect_error("Reload refused");
        let verdict = server.reload();
        assert!(verdict.contains("everybody can write the directory"), "{verdict}");
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        server.finish();
    }

    workers, "0" => "a whole number from 1 to 1024, or auto", |site| {
        let mut server = site.launch().workers(3).start();
        assert_eq!(server.wait_workers(3).len(), 3);
        server.configure(|settings| _ = settings.raw("workers", "2"));
        server.reload_well();
        server.wait_workers(2);
        server.finish();
    }
}

/// What the server may use is what this thread, which starts it, may use.
#[test]
fn workers_auto_counts_the_cpus_that_the_server_may_use() {
    let site = site("workers_auto");
    let all = sched_getaffinity(Pid::from_raw(0)).expect("our own");
    let allowed = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).expect("within the set")).take(2);
    let mut few = CpuSet::new();
    let mut count = 0;
    for cpu in allowed {
        few.set(cpu).expect("within the set");
        count += 1;
    }
    // A quota may leave less; it is the machine's, and std's tests cover how it is read.
    let expected = available_parallelism().expect("there are CPUs").get().min(count);
    sched_setaffinity(Pid::from_raw(0), &few).expect("a part of what we had");
    let server = site.launch().args(&["--workers", "auto"]).start();
    sched_setaffinity(Pid::from_raw(0), &all).expect("as before");
    assert_eq!(server.wait_workers(expected).len(), expected);
    server.finish();
}

#[test]
fn the_title_names_the_application_unless_told_otherwise() {
    let site = site("title");
    let mut server = site.launch().start();
    assert_eq!(title(server.pid()), "rgunicorn: master [app.so:app]");
    server.configure(|settings| _ = settings.text("proc_name", "x"));
    server.reload_well();
    assert_eq!(title(server.pid()), "rgunicorn: master [x]");
    server.finish();
}
