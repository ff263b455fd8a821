//! USR2: another master takes over the very sockets, or cannot, and nobody outside notices either.
//!
//! What a newcomer would get wrong: the two masters are of one process group and write to one log; who is meant is told
//! by process ids. And a developer's terminal controls what is started from it: WINCH means nothing there.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{
    Address, DEADLINE, Launch, Load, Plan, Server, Signal, Site, process, programs, under_each_class,
    wait_for, within,
};

/// A server whose program is a file of the test's, as a deploy would replace it.
fn launch(site: &Site) -> Launch<'_> {
    site.install(programs().inspect(1), "app.so");
    symlink(programs().rgunicorn(), site.join("rgunicorn")).expect("a link");
    site.mine("rgunicorn");
    let plugins = programs().rgunicorn().parent().expect("a directory").to_owned();
    let launch = site.launch().program("./rgunicorn").pidfile().everywhere().workers(2);
    launch.with(|settings| _ = settings.text("plugin_path", plugins.to_str().expect("UTF-8")))
}

/// USR2; the new master's process id, as soon as it has one.
#[track_caller]
fn execute(server: &Server<'_>) -> i32 {
    const LINE: &str = "A new master is executed (pid:";
    let before = server.messages(LINE).len();
    server.signal(Signal::SIGUSR2);
    wait_for("the new master", || server.messages(LINE).len() > before);
    let message = server.messages(LINE).swap_remove(before);
    message[LINE.len()..].trim_end_matches(')').parse().expect("a process id")
}

#[track_caller]
fn execute_well(server: &Server<'_>) -> i32 {
    let heir = execute(server);
    server.wait_log(&format!("The new master (pid:{heir}) is ready"));
    wait_for("its workers", || workers(heir).len() == 2);
    heir
}

/// The children of the new master. The old one's would not do: the new one is among them.
fn workers(master: i32) -> Vec<i32> {
    process::children(master).iter().filter(|child| child.state != 'Z').map(|child| child.pid).collect()
}

#[track_caller]
fn wait_promoted(server: &Server<'_>, site: &Site, heir: i32) {
    server.wait_log("Master has been promoted.");
    wait_for("the plain pid file", || site.read("pid") == format!("{heir}\n"));
    assert!(!site.join("pid.2").exists());
}

fn loads(server: &Server<'_>) -> Vec<Load> {
    server.addresses().iter().map(|address| Load::start(address, Plan::versions(2))).collect()
}

fn expect_flawless(loads: Vec<Load>) {
    for load in loads {
        load.more(50);
        load.stop().expect_flawless();
    }
}

/// Whether a terminal controls this process, and so all that it starts.
fn has_terminal() -> bool {
    fs::File::open("/dev/tty").is_ok()
}

#[test]
fn a_replaced_binary_takes_over_and_nobody_is_lost() {
    let site = Site::new("usr2");
    let mut server = launch(&site).start();
    let loads = loads(&server);
    // A deploy: another file under the name that was typed.
    let old_file = fs::read_link(format!("/proc/{}/exe", server.pid())).expect("a program");
    site.install(programs().rgunicorn(), "rgunicorn");
    let heir = execute_well(&server);
    let new_file = fs::read_link(format!("/proc/{heir}/exe")).expect("a program");
    assert_eq!(new_file, site.join("rgunicorn"));
    assert_ne!(new_file, old_file);
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));
    assert_eq!(site.read("pid.2"), format!("{heir}\n"));
    if !has_terminal() {
        server.signal(Signal::SIGWINCH);
        wait_for("the old workers to leave", || server.workers().is_empty());
        loads.iter().for_each(|load| load.more(50));
        // None of its workers is left that could lose anything.
        server.signal(Signal::SIGQUIT);
    } else {
        server.signal(Signal::SIGTERM);
    }
    assert_eq!(server.wait_end_alone().code(), Some(0));
    wait_promoted(&server, &site, heir);
    expect_flawless(loads);
    // What it has taken over is now its own, to the very file of the Unix socket.
    server.finish_heir(heir);
}

#[test]
fn term_of_the_old_master_under_load_loses_nobody() {
    under_each_class(|class| {
        let site = Site::new("usr2_term");
        let keep_alive = Duration::from_secs(10);
        let keep_alive_text = keep_alive.as_secs().to_string();
        let mut server = launch(&site).class(class).settings(&[("keepalive", &keep_alive_text)]).start();
        let mut loads = loads(&server);
        if class.keeps_alive {
            loads.push(Load::start(server.address(), Plan::versions(2).kept(keep_alive)));
        }
        let heir = execute_well(&server);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_end_alone().code(), Some(0));
        wait_promoted(&server, &site, heir);
        // The next one is executed by the one that was.
        process::send(heir, Signal::SIGUSR2);
        wait_for("a third master", || server.messages("is ready").len() == 2);
        process::send(heir, Signal::SIGTERM);
        wait_for("another pid file", || !["", &format!("{heir}\n")].contains(&site.read("pid").as_str()));
        expect_flawless(loads);
        let third = site.read("pid").trim().parse().expect("a process id");
        server.finish_heir(third);
    });
}

#[test]
fn health_and_control_are_answered_at_the_same_addresses_all_the_time() {
    let site = Site::new("usr2_monitor");
    let launch = launch(&site).with(|settings| {
        settings.text("control_socket", "ctl.sock").text("monitor_bind", "unix:monitor.sock");
    });
    let mut server = launch.start();
    let monitor = Address::Unix(site.join("monitor.sock"));
    let livez = || monitor.get("/livez").expect("an answer").status;
    assert_eq!(livez(), 200);
    let heir = execute(&server);
    server.wait_log(&format!("The new master (pid:{heir}) is ready"));
    assert_eq!(livez(), 200);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_end_alone().code(), Some(0));
    wait_promoted(&server, &site, heir);
    assert_eq!(livez(), 200, "the old master has left the socket's file");
    assert!(site.join("ctl.sock").exists());
    server.finish_heir(heir);
    assert!(!site.join("ctl.sock").exists() && !site.join("monitor.sock").exists());
}

#[test]
fn hup_brings_the_old_workers_back_and_the_new_master_can_go_again() {
    if has_terminal() {
        eprintln!("skipped: a terminal controls this process, and WINCH means nothing there");
        return;
    }
    let site = Site::new("usr2_back");
    let server = launch(&site).start();
    let loads = loads(&server);
    let heir = execute_well(&server);
    server.signal(Signal::SIGWINCH);
    wait_for("the old workers to leave", || server.workers().is_empty());
    server.signal(Signal::SIGTTOU);
    server.wait_log("TTOU changes nothing");
    server.signal(Signal::SIGHUP);
    wait_for("workers again", || server.workers().len() == 2);
    server.wait_log("Reloaded: ");
    // QUIT would do as well, and lose what its workers have in hand.
    process::send(heir, Signal::SIGTERM);
    server.wait_log(&format!("The new master (pid:{heir}) exited with code 0; this one serves on"));
    expect_flawless(loads);
    // Nobody is lost to a QUIT either, while nobody asks.
    let heir = execute_well(&server);
    process::send(heir, Signal::SIGQUIT);
    server.wait_log(&format!("The new master (pid:{heir}) exited with code 0; this one serves on"));
    expect_flawless(self::loads(&server));
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));
    server.finish();
}

#[test]
fn a_second_usr2_is_refused_by_both() {
    let site = Site::new("usr2_twice");
    let mut server = launch(&site).start();
    let heir = execute_well(&server);
    server.signal(Signal::SIGUSR2);
    server.wait_log("USR2 signal ignored. Child exists.");
    process::send(heir, Signal::SIGUSR2);
    server.wait_log("USR2 signal ignored. Parent exists.");
    server.signal(Signal::SIGTERM);
    server.wait_end_alone();
    wait_promoted(&server, &site, heir);
    server.finish_heir(heir);
}

#[test]
fn what_cannot_start_leaves_the_old_master_serving_and_says_why() {
    let site = Site::new("usr2_broken");
    let mut server = launch(&site).start();
    server.expect_error("this one serves on");
    let loads = loads(&server);
    let fails = |server: &Server<'_>, why: &str| {
        let heir = execute(server);
        let message = server.wait_log(why);
        assert!(message.contains(&heir.to_string()) && message.contains("this one serves on"), "{message}");
        server.wait_gone(heir);
        assert_eq!(server.messages(why).len(), 1, "said once: {}", server.log());
        assert!(!site.read("stderr").contains(why), "{}", site.read("stderr"));
    };
    fs::remove_file(site.join("rgunicorn")).expect("it is there");
    fails(&server, "rgunicorn: No such file or directory; put the program back");
    site.write("rgunicorn", "#!/bin/sh\nexit 7\n");
    fails(&server, "exited with code 7 before it was ready");
    site.write("rgunicorn", "no program at all");
    fails(&server, "rgunicorn: Exec format error");
    // The right program, and a configuration that it cannot start with.
    fs::remove_file(site.join("rgunicorn")).expect("it is there");
    symlink(programs().rgunicorn(), site.join("rgunicorn")).expect("a link");
    server.configure(|settings| _ = settings.text("application", "app.so:nobody"));
    fails(&server, "'nobody'");
    server.configure(|settings| _ = settings.text("application", "app.so:app"));
    expect_flawless(loads);
    let heir = execute_well(&server);
    server.signal(Signal::SIGTERM);
    server.wait_end_alone();
    wait_promoted(&server, &site, heir);
    server.finish_heir(heir);
}

#[test]
fn kill_9_of_the_old_master_promotes_the_new_one() {
    let site = Site::new("usr2_kill_old");
    let mut server = launch(&site).start();
    let heir = execute_well(&server);
    let old = server.workers();
    server.signal(Signal::SIGKILL);
    server.wait_end_alone();
    wait_promoted(&server, &site, heir);
    wait_for("the old workers' end", || !old.iter().any(|pid| process::runs(*pid)));
    expect_flawless(loads(&server));
    // What the killed one left is swept by the next start only: its images.
    let left: Vec<_> = site.leftovers();
    for path in left.iter().filter(|path| path.components().count() == 1) {
        site.mine(path.to_str().expect("UTF-8"));
    }
    process::send(heir, Signal::SIGTERM);
    wait_for("the end", || process::group(server.pid()).is_empty());
    assert!(!site.join("server.sock").exists() && !site.join("pid").exists());
}

#[test]
fn kill_9_of_the_new_master_leaves_the_old_one_with_its_workers() {
    let site = Site::new("usr2_kill_new");
    let server = launch(&site).start();
    let heir = execute_well(&server);
    if !has_terminal() {
        server.signal(Signal::SIGWINCH);
        wait_for("the old workers to leave", || server.workers().is_empty());
    }
    process::send(heir, Signal::SIGKILL);
    server.wait_log("was killed by SIGKILL; this one serves on");
    wait_for("workers again", || server.workers().len() == 2);
    expect_flawless(loads(&server));
    assert!(UnixStream::connect(site.join("server.sock")).is_ok());
    // The one that was killed left its pid file and its images: the next start replaces the ones and sweeps the others.
    let heir = execute_well(&server);
    process::send(heir, Signal::SIGTERM);
    server.wait_log(&format!("The new master (pid:{heir}) exited with code 0"));
    server.finish();
}

#[test]
fn sockets_of_the_service_manager_go_on_to_the_new_master() {
    let site = Site::new("usr2_activated");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = Address::Tcp(listener.local_addr().expect("it is bound"));
    let passed: Vec<OwnedFd> = vec![listener.try_clone().expect("a descriptor").into()];
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web; exec \"$@\"";
    let mut server = launch(&site).passing(passed, script).start();
    assert_eq!(server.addresses(), std::slice::from_ref(&address));
    let load = Load::start(&address, Plan::versions(2));
    let heir = execute_well(&server);
    let variables = fs::read(format!("/proc/{heir}/environ")).expect("an environment");
    let variables = String::from_utf8_lossy(&variables).into_owned();
    for expected in
        [format!("LISTEN_PID={heir}\0"), "LISTEN_FDS=1\0".to_owned(), "LISTEN_FDNAMES=web\0".to_owned()]
    {
        assert!(variables.contains(&expected), "{variables}");
    }
    server.signal(Signal::SIGTERM);
    server.wait_end_alone();
    wait_promoted(&server, &site, heir);
    load.more(50);
    load.stop().expect_flawless();
    server.finish_heir(heir);
    assert!(Address::Tcp(listener.local_addr().expect("it is bound")) == address, "it is the test's");
}

#[test]
fn winch_from_a_terminal_is_a_resize() {
    let site = Site::new("winch_terminal");
    site.install(programs().inspect(1), "app.so");
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no script(1) here, which would make a terminal");
        return;
    }
    let line = format!("exec {} --bind unix:s --pid pid app.so", programs().rgunicorn().display());
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .current_dir(site.path())
        .env("PWD", site.path())
        .stdin(Stdio::null())
        .stdout(fs::File::create(site.join("stdout")).expect("a file"))
        .spawn()
        .expect("a terminal");
    wait_for("the server", || site.read("stdout").contains("Using worker: "));
    let pid = site.read("pid").trim().parse().expect("a process id");
    process::send(pid, Signal::SIGWINCH);
    wait_for("the answer", || {
        site.read("stdout").contains("SIGWINCH ignored. A terminal controls the master")
    });
    assert_eq!(Address::Unix(site.join("s")).get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
    process::send(pid, Signal::SIGTERM);
    assert!(within(DEADLINE, || !process::runs(pid)).is_some());
    let _ = script.wait();
}
