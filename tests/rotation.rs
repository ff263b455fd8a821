//! Logs that are moved away and opened anew by USR1 while the server is at work: logrotate's way.
//!
//! Owns what no test of a single log shows: that nothing between the old file and the new one is lost, doubled or torn.
//! What a newcomer would get wrong: a worker opens its logs a moment after the signal, and until then it rightly writes
//! to the file that was moved. So a rotation is over when nobody has that file open any more.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use harness::{Load, Pace, Plan, Server, Signal, Site, process, programs, under_each_class, wait_for};
use nix::unistd::{User, geteuid};

/// How often each log is moved away.
const ROTATIONS: usize = 20;

/// The names of the files that a process has open.
fn open_files(pid: i32) -> Vec<String> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let target = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned());
    descriptors.flatten().filter_map(target).collect()
}

/// Moves a log away, and waits until everybody writes to the new one.
fn rotate(site: &Site, server: &Server<'_>, workers: &[i32], log: &str, number: usize) {
    let old = format!("{log}.{number}");
    fs::rename(site.join(log), site.join(&old)).expect("it is there");
    site.mine(&old);
    server.signal(Signal::SIGUSR1);
    let path = site.join(&old).display().to_string();
    let everybody = || workers.iter().copied().chain([server.pid()]);
    wait_for("the new log in every process", || {
        site.join(log).exists() && !everybody().any(|pid| open_files(pid).contains(&path))
    });
}

/// All files of a log with their texts, the oldest first.
fn rotated(site: &Site, log: &str) -> Vec<(String, String)> {
    let names = (0..ROTATIONS).map(|number| format!("{log}.{number}")).chain([log.to_owned()]);
    let files: Vec<_> = names.map(|name| (name.clone(), site.read(&name))).collect();
    for (name, text) in &files {
        assert!(text.is_empty() || text.ends_with('\n'), "{name} ends within a line");
    }
    files
}

#[test]
fn no_line_of_the_access_log_is_lost_or_torn() {
    under_each_class(|class| {
        let site = Site::new("rotation_access");
        site.install(programs().inspect(1), "app.so");
        let launch = site.launch().class(class).workers(3).with(|settings| {
            settings.text("accesslog", "access.log");
            settings.text("access_log_format", "begin|%(s)s|%(r)s|%({host}i)s|end");
        });
        let server = launch.start();
        let workers = server.wait_workers(3);
        let load = Load::start(server.address(), Plan::versions(6));
        for number in 0..ROTATIONS {
            load.more(50);
            rotate(&site, &server, &workers, "access.log", number);
        }
        let report = load.stop();
        report.expect_flawless();
        server.finish();
        let mut lines = 0;
        for (name, text) in rotated(&site, "access.log") {
            for line in text.lines() {
                assert!(
                    line.starts_with("begin|200|GET /version HTTP/1.1|") && line.ends_with("|end"),
                    "{name}: {line}"
                );
                assert_eq!(line.matches('|').count(), 4, "{name}: {line}");
                lines += 1;
            }
        }
        println!("{lines} lines in {} files, {} answers", ROTATIONS + 1, report.answered());
        assert_eq!(lines, report.answered());
    });
}

#[test]
fn no_line_of_the_error_log_is_lost_or_torn() {
    let site = Site::new("rotation_error");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(3).start();
    let workers = server.wait_workers(3);
    let over = AtomicBool::new(false);
    // Each refused request is a line.
    let refused = || {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let heard =
                server.address().converse(b"GET  / HTTP/1.1\r\n\r\n", Pace::Whole).expect("it listens");
            assert_eq!(heard.response("GET").expect("an answer").status, 400);
            count += 1;
        }
        count
    };
    let sent: usize = thread::scope(|scope| {
        let clients = [scope.spawn(refused), scope.spawn(refused), scope.spawn(refused)];
        for number in 0..ROTATIONS {
            rotate(&site, &server, &workers, "error.log", number);
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("it only counts")).sum()
    });
    let files = rotated(&site, "error.log");
    let all: String = files.iter().map(|(_, text)| text.as_str()).collect();
    // The harness reads one file.
    fs::write(site.join("error.log"), &all).expect("it is ours");
    server.finish();
    let lines = all.lines().filter(|line| line.contains("] Invalid request from ip=127.0.0.1"));
    let lines =
        lines.inspect(|line| assert!(line.starts_with("[20") && line.matches(" [").count() == 2, "{line}"));
    let lines = lines.count();
    println!("{lines} lines in {} files, {sent} requests", files.len());
    assert_eq!(lines, sent);
}

/// A server as root whose workers are nobody, with both logs in a directory.
fn as_nobody(site: &Site, directory: &str) -> Option<i32> {
    let nobody = User::from_name("nobody").ok().flatten().filter(|_| geteuid().is_root());
    let Some(nobody) = nobody else {
        eprintln!("nothing to see here: it takes root, and a user nobody");
        return None;
    };
    site.install(programs().inspect(1), "app.so");
    site.directory(directory);
    i32::try_from(nobody.uid.as_raw()).ok()
}

fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).map(|found| found.uid()).ok()
}

#[test]
fn where_only_root_may_make_files_the_master_makes_both_logs() {
    let site = Site::new("rotation_root");
    let Some(nobody) = as_nobody(&site, "log") else { return };
    let launch = site.launch().workers(2).with(|settings| {
        settings.text("user", "nobody").text("accesslog", "log/access.log");
    });
    let mut server = launch.start();
    let workers = server.wait_workers(2);
    for number in 0..2 {
        assert_eq!(server.get("/version").status, 200);
        rotate(&site, &server, &workers, "log/access.log", number);
        assert_eq!(owner(&site.join("log/access.log")), u32::try_from(nobody).ok());
        rotate(&site, &server, &workers, "error.log", number);
        assert_eq!(owner(&site.join("error.log")), u32::try_from(nobody).ok());
    }
    assert_eq!(server.get("/version").status, 200);
    wait_for("the line of the third request", || site.read("log/access.log").lines().count() == 1);
    // A worker that is born between the rename and the signal finds no log, and must not fail for that.
    fs::rename(site.join("log/access.log"), site.join("log/access.log.2")).expect("it is there");
    site.mine("log/access.log.2");
    server.expect_error("SIGKILL");
    process::send(workers[0], Signal::SIGKILL);
    wait_for("the next worker and its log", || {
        server.workers().iter().any(|pid| !workers.contains(pid)) && site.join("log/access.log").exists()
    });
    site.mine("log/access.log");
    // The harness reads one file.
    let all: String =
        ["error.log.0", "error.log.1", "error.log"].iter().map(|name| site.read(name)).collect();
    fs::write(site.join("error.log"), all).expect("it is ours");
    server.finish();
    let lines = ["log/access.log.0", "log/access.log.1", "log/access.log.2"]
        .map(|name| site.read(name).lines().count());
    assert_eq!(lines, [1, 1, 1]);
}

#[test]
fn what_a_worker_puts_in_place_of_a_log_is_not_opened_by_root() {
    let site = Site::new("rotation_planted");
    let Some(nobody) = as_nobody(&site, "theirs") else { return };
    let launch = site.launch().with(|settings| {
        settings.text("user", "nobody").text("accesslog", "theirs/access.log");
    });
    let theirs = site.join("theirs");
    std::os::unix::fs::chown(&theirs, u32::try_from(nobody).ok(), None).expect("we are root");
    site.write("secret", "secret\n");
    fs::set_permissions(site.join("secret"), fs::Permissions::from_mode(0o600)).expect("it is ours");
    let mut server = launch.start();
    assert_eq!(server.get("/version").status, 200);
    assert_eq!(owner(&theirs.join("access.log")), u32::try_from(nobody).ok());
    // As an application that was taken over could do it.
    fs::rename(theirs.join("access.log"), theirs.join("old.log")).expect("it is there");
    site.mine("theirs/old.log");
    symlink(site.join("secret"), theirs.join("access.log")).expect("a symlink");
    site.mine("theirs/access.log");
    server.expect_error("cannot open the log");
    server.signal(Signal::SIGUSR1);
    server.wait_log("who could replace what is there");
    assert_eq!(server.get("/version").status, 200);
    server.finish();
    assert_eq!((owner(&site.join("secret")), site.read("secret").as_str()), (Some(0), "secret\n"));
    assert_eq!(site.read("theirs/old.log").lines().count(), 2, "what cannot be opened anew is written on");
}
