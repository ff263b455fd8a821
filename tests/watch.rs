//! `--reload`: a file changes, and what changed is served, or what was served before.
//!
//! What a newcomer would get wrong: none of these tests sends HUP, but the last one, where nothing is watched. Every other
//! verdict of a reload can only come from a file that the server has seen change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use harness::{Load, Plan, Server, Site, process, programs, wait_for};

fn watching(site: &Site) -> Server<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().args(&["--reload"]).start()
}

/// Waits for a reload that succeeds.
#[track_caller]
fn reloaded(server: &Server<'_>, before: usize) {
    let verdict = server.wait_verdict(before);
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
}

/// A worker that was just told to leave may answer once more: the kernel had woken it for that client.
#[track_caller]
fn serves(server: &Server<'_>, version: &str) {
    wait_for("the version that is served", || server.text("/version") == version);
}

#[test]
fn a_new_build_is_served_however_it_was_put_there() {
    let site = Site::new("rebuilt");
    let server = watching(&site);
    let load = Load::start(server.address(), Plan::versions(2));
    // mv(1) and install(1) rename, cp(1) writes over what is there.
    site.install(programs().inspect(2), "app.so");
    reloaded(&server, 0);
    serves(&server, "INSPECT-VERSION:2");
    let line = server.wait_log("Worker reloading: ");
    assert!(line.ends_with("app.so modified"), "{line}");
    site.overwrite(programs().inspect(1), "app.so");
    reloaded(&server, 1);
    serves(&server, "INSPECT-VERSION:1");
    // A linker's way, and cargo's: away with the old one, then a link.
    site.write("built.so", fs::read(programs().inspect(2)).expect("it is built"));
    fs::remove_file(site.join("app.so")).expect("it is there");
    fs::hard_link(site.join("built.so"), site.join("app.so")).expect("the same file system");
    reloaded(&server, 2);
    serves(&server, "INSPECT-VERSION:2");
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn a_broken_build_leaves_the_old_one_serving_and_the_next_one_is_seen() {
    let site = Site::new("broken_build");
    let mut server = watching(&site);
    let load = Load::start(server.address(), Plan::versions(2));
    site.write("app.so", "error: could not compile");
    let verdict = server.wait_verdict(0);
    assert!(verdict.starts_with("Reload refused, generation 1 serves on: "), "{verdict}");
    assert!(verdict.contains("app.so"), "{verdict}");
    server.expect_error("Reload refused, generation 1");
    // What loads and then fails is refused, too.
    site.install(programs().fixture("no_note"), "app.so");
    assert!(server.wait_verdict(1).starts_with("Reload refused, generation 1"));
    serves(&server, "INSPECT-VERSION:1");
    site.install(programs().inspect(2), "app.so");
    reloaded(&server, 2);
    serves(&server, "INSPECT-VERSION:2");
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn the_configuration_file_is_watched() {
    let site = Site::new("watched_config");
    let mut server = watching(&site);
    server.configure(|settings| _ = settings.raw("workers", "2"));
    reloaded(&server, 0);
    server.wait_workers(2);
    server.configure(|settings| _ = settings.raw("no_such_setting", "2"));
    let verdict = server.wait_verdict(1);
    assert!(verdict.contains("no_such_setting"), "{verdict}");
    server.expect_error("no_such_setting");
    server.configure(|settings| _ = settings.remove("no_such_setting").raw("workers", "1"));
    reloaded(&server, 2);
    server.wait_workers(1);
    server.finish();
}

#[test]
fn a_deploy_that_switches_a_symlink_is_seen() {
    let site = Site::new("current");
    for version in [1, 2] {
        let directory = site.directory(&version.to_string());
        fs::copy(programs().inspect(version), directory.join("app.so")).expect("a copy");
        fs::set_permissions(directory.join("app.so"), Permissions::from_mode(0o755)).expect("it is ours");
        site.mine(&format!("{version}/app.so"));
    }
    let switch = |version: &str| {
        symlink(version, site.join("next")).expect("a free name");
        fs::rename(site.join("next"), site.join("current")).expect("its name");
    };
    switch("1");
    site.mine("current");
    let images = site.directory("images");
    let server = site
        .launch()
        .with(|settings| {
            settings.text("application", "current/app.so:app");
            settings.text("runtime_dir", &images.display().to_string());
        })
        .args(&["--reload"])
        .start();
    serves(&server, "INSPECT-VERSION:1");
    switch("2");
    reloaded(&server, 0);
    serves(&server, "INSPECT-VERSION:2");
    server.finish();
}

#[test]
fn extra_files_and_patterns_are_watched_and_what_the_server_writes_is_not() {
    let site = Site::new("extra");
    site.install(programs().inspect(1), "app.so");
    site.write("settings.ini", "a");
    site.directory("templates");
    let server = site
        .launch()
        .pidfile()
        .with(|settings| {
            settings.text("accesslog", "access.log").raw("reload", "true");
            settings.list("reload_extra_files", &["*.log", "p*d", "templates/**/*.html", "settings.ini"]);
        })
        .start();
    // Its logs and its pid file match, and are closed and written again by each reload.
    for (count, name) in ["settings.ini", "templates/new.html", "settings.ini"].into_iter().enumerate() {
        server.get("/version");
        fs::write(site.join(name), count.to_string()).expect("a file");
        site.mine(name);
        reloaded(&server, count);
        let modified = server.messages(" modified");
        assert_eq!(modified.len(), count + 1, "{modified:?}");
        assert!(modified[count].ends_with(&format!("{name} modified")), "{modified:?}");
    }
    wait_for("one worker", || server.workers().len() == 1);
    server.finish();
}

#[test]
fn what_cannot_be_watched_is_refused_by_name() {
    for (setting, value, why) in [
        ("reload_extra_files", "[\"missing.ini\"]", "missing.ini does not exist"),
        ("reload_extra_files", "[\"a[\"]", "'a[' is no pattern"),
        ("reload_engine", "\"poll\"", "send HUP where inotify does not reach"),
    ] {
        let site = Site::new("unwatchable");
        site.install(programs().inspect(1), "app.so");
        let ended = site.launch().settings(&[(setting, value), ("reload", "true")]).start_in_vain();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(setting) && ended.stderr.contains(why), "{}", ended.stderr);
    }
}

/// One descriptor for the life of the master: to close one may take long (`host/src/sys/inotify.rs`).
#[test]
fn reloads_share_one_descriptor_and_leave_no_watch_behind() {
    let site = Site::new("one_descriptor");
    for directory in ["here", "there"] {
        fs::copy(programs().inspect(1), site.directory(directory).join("app.so")).expect("a copy");
        site.mine(&format!("{directory}/app.so"));
    }
    let mut server = site
        .launch()
        .with(|settings| _ = settings.text("application", "here/app.so:app").raw("reload", "true"))
        .start();
    let before = process::watched_directories(server.pid());
    assert_eq!(before.len(), 1, "{before:?}");
    // Another directory instead of the one before.
    server.configure(|settings| _ = settings.text("application", "there/app.so:app"));
    reloaded(&server, 0);
    assert_eq!(process::watched_directories(server.pid()), before);
    // As many watches, and the right ones.
    site.overwrite(programs().inspect(2), "there/app.so");
    reloaded(&server, 1);
    serves(&server, "INSPECT-VERSION:2");
    // Refused when its directory is watched already, which is taken back.
    fs::write(site.directory("broken").join("app.so"), "error: could not compile").expect("a file");
    site.mine("broken/app.so");
    server.configure(|settings| _ = settings.text("application", "broken/app.so:app"));
    let verdict = server.wait_verdict(2);
    assert!(verdict.contains("broken/app.so"), "{verdict}");
    server.expect_error("broken/app.so");
    assert_eq!(process::watched_directories(server.pid()), before);
    server.configure(|settings| _ = settings.text("application", "here/app.so:app").raw("reload", "false"));
    reloaded(&server, 3);
    assert_eq!(process::watched_directories(server.pid()), [0]);
    server.configure(|settings| _ = settings.raw("reload", "true"));
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert_eq!(process::watched_directories(server.pid()), before);
    server.finish();
}
