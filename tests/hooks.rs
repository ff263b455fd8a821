//! Hooks: each is called where it belongs, in order, and what it says counts where it may.
//!
//! What a newcomer would get wrong: a hook library is loaded in the probe too, but no hook is called there. So the trace
//! knows workers only, and the hook process.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{
    Connection, Launch, Load, Plan, Server, Settings, Signal, Site, process, programs, under_each_class,
    wait_for, within,
};

fn launch<'s>(site: &'s Site, variables: &[&str]) -> Launch<'s> {
    site.install(programs().inspect(1), "app.so");
    site.install(programs().fixture("hooks"), "hooks.so");
    site.write("trace", "");
    site.launch()
        .with(|settings| _ = settings.list("hooks", &["hooks.so"]))
        .with(|settings| configure(site, settings, variables))
}

fn configure(site: &Site, settings: &mut Settings, variables: &[&str]) {
    let trace = format!("FX_TRACE={}", site.join("trace").display());
    let variables: Vec<&str> = variables.iter().copied().chain([trace.as_str()]).collect();
    settings.list("raw_env", &variables);
}

/// What a process has told, each line without pid, age and generation.
fn told(site: &Site, pid: i32) -> Vec<String> {
    let of = format!(" pid={pid} ");
    let trace = site.read("trace");
    let lines = trace.lines().filter(|line| line.contains(&of));
    lines
        .map(|line| {
            let (hook, rest) = line.split_once(&of).expect("it was found");
            match rest.split_once(" request=") {
                Some((_, request)) => format!("{hook} {request}"),
                None => hook.to_owned(),
            }
        })
        .collect()
}

/// The hook process of the generation that serves.
#[track_caller]
fn hook_process(server: &Server<'_>) -> i32 {
    let running = || {
        let said = server.messages("Booting hook process with pid: ");
        let pids = said.iter().filter_map(|message| message.rsplit_once(": ")?.1.parse().ok());
        pids.filter(|pid| process::runs(*pid)).collect::<Vec<i32>>()
    };
    wait_for("one hook process", || running().len() == 1);
    running()[0]
}

/// What a hook process has told, each line without what is the same in all.
fn told_apart(site: &Site, pid: i32) -> Vec<String> {
    let of = format!(" pid={pid} ");
    let trace = site.read("trace");
    let lines = trace.lines().filter(|line| line.contains(&of));
    lines
        .map(|line| {
            let (hook, rest) = line.split_once(&of).expect("it was found");
            let more: Vec<&str> = rest.split(' ').skip(2).collect();
            [&[hook], &more[..]].concat().join(" ")
        })
        .collect()
}

#[test]
fn the_masters_moments_are_told_in_order() {
    let site = Site::new("master");
    let mut server = launch(&site, &[]).workers(2).start();
    server.expect_error("SIGKILL");
    let first = hook_process(&server);
    assert_eq!(process::find(first).map(|process| process.parent), Some(server.pid()));
    wait_for("the start to be told", || told_apart(&site, first).len() == 5);
    let killed = server.workers()[0];
    process::send(killed, Signal::SIGKILL);
    wait_for("the end of a worker to be told", || told_apart(&site, first).len() == 7);
    server.wait_workers(2);
    server.signal(Signal::SIGTTIN);
    server.wait_workers(3);
    server.reload_well();
    wait_for("the first process to leave", || !process::runs(first));
    let second = hook_process(&server);
    let pid = server.pid();
    server.finish();

    let begins = [
        "on_starting",
        "pre_fork",
        "when_ready",
        "nworkers_changed workers=2 before=0",
        "pre_fork",
        &format!("child_exit child={killed} code=0 signal=9"),
        "pre_fork",
        "nworkers_changed workers=3 before=2",
        "pre_fork",
        "on_reload",
    ];
    let told = told_apart(&site, first);
    assert_eq!(told[..begins.len()], begins, "{told:#?}");
    let told = told_apart(&site, second);
    assert!(told.iter().filter(|line| line.starts_with("child_exit")).count() >= 2, "{told:#?}");
    assert_eq!(told.last().map(String::as_str), Some("on_exit"), "{told:#?}");
    assert!(!process::runs(second) && process::group(pid).is_empty());
}

#[test]
fn on_reload_can_refuse_a_reload() {
    for (how, says) in [("fail", "asked to fail"), ("panic", "asked to panic")] {
        let site = Site::new("veto");
        let mut server = launch(&site, &[&format!("FX_HOOK=on_reload:{how}")]).start();
        hook_process(&server);
        let workers = server.workers();
        let verdict = server.reload();
        let begin = "Reload refused, generation 1 serves on: the hook on_reload of ";
        assert!(verdict.starts_with(begin) && verdict.contains(says), "{verdict}");
        assert_eq!(server.workers(), workers);
        server.expect_error("asked to");
        server.finish();
    }
}

#[test]
fn whoever_asked_by_the_control_socket_hears_of_the_refusal() {
    let site = Site::new("veto_ctl");
    let launch = launch(&site, &["FX_HOOK=on_reload:fail"]);
    let mut server = launch.with(|settings| _ = settings.text("control_socket", "ctl.sock")).start();
    hook_process(&server);
    let socket = site.join("ctl.sock");
    let answer = Command::new(programs().rgunicorn()).arg("ctl").arg(socket).arg("reload").output();
    let answer = answer.expect("it was built");
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(!answer.status.success() && said.contains("the hook on_reload of"), "{said}");
    server.expect_error("Reload refused");
    server.finish();
}

/// What the log says when a hook has had its time.
const GIVEN_UP: &str = "has not answered within 5s";

#[test]
fn a_hook_that_does_not_answer_has_not_refused() {
    let site = Site::new("deadline");
    let mut server = launch(&site, &["FX_HOOK=on_reload:hang"]).start();
    let first = hook_process(&server);
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(10)));
    let begin = Instant::now();
    let before = server.verdicts().len();
    server.signal(Signal::SIGHUP);
    // The loop goes on meanwhile.
    server.wait_log("Hang up: Master");
    server.signal(Signal::SIGTTOU);
    server.wait_log("TTOU changes nothing");
    assert!(server.verdicts().is_empty(), "the master waits for no hook");
    let verdict = server.wait_verdict(before);
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert!(begin.elapsed() >= Duration::from_secs(4), "it had its time");
    server.wait_log("The hook on_reload has not answered within 5s");
    server.wait_gone(first);
    // A TERM does not wait for an answer.
    hook_process(&server);
    load.stop().expect_flawless();
    server.signal(Signal::SIGHUP);
    wait_for("the second HUP", || server.messages("Hang up: Master").len() == 2);
    let begin = Instant::now();
    let (status, _) = server.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{status}");
    eprintln!("ended {:.1?} after TERM", begin.elapsed());
    assert_eq!(server.messages(GIVEN_UP).len(), 1, "it waited for the second answer");
    server.check_log();
}

/// That each worker's fork was told before it did anything; how many there were.
fn forks_told(site: &Site) -> usize {
    let trace = site.read("trace");
    let lines: Vec<&str> = trace.lines().collect();
    let mut forks = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some(begun) = line.strip_prefix("post_fork pid=") else { continue };
        let (_, who) = begun.split_once(' ').expect("age and generation");
        let before =
            lines[..index].iter().filter(|line| line.starts_with("pre_fork ") && line.ends_with(who));
        assert_eq!(before.count(), 1, "{line}: {trace}");
        forks += 1;
    }
    forks
}

#[test]
fn each_fork_is_told_before_it_happens() {
    for preload in ["false", "true"] {
        let site = Site::new("pre_fork");
        let mut server = launch(&site, &[]).settings(&[("preload_app", preload)]).workers(3).start();
        server.expect_error("SIGKILL");
        server.wait_workers(3);
        process::send(server.workers()[1], Signal::SIGKILL);
        wait_for("another one", || forks_told(&site) == 4);
        server.reload_well();
        wait_for("a roll", || forks_told(&site) == 7);
        server.finish();
    }
}

#[test]
fn a_pre_fork_that_fails_is_heard_and_costs_no_worker() {
    for how in ["fail", "panic"] {
        let site = Site::new("pre_fork_fails");
        let mut server = launch(&site, &[&format!("FX_HOOK=pre_fork:{how}")]).workers(2).start();
        server.wait_workers(2);
        server.wait_log(&format!("asked to {how}; worker 2 is forked all the same"));
        server.expect_error("asked to");
        server.finish();
    }
}

#[test]
fn a_pre_fork_that_hangs_costs_its_time_once() {
    let site = Site::new("pre_fork_hangs");
    let mut server = launch(&site, &[]).workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(10)));
    server.configure(|settings| configure(&site, settings, &["FX_HOOK=pre_fork:hang"]));
    // The process of the new generation dies while it is asked: that is an answer.
    let before = server.verdicts().len();
    server.signal(Signal::SIGHUP);
    wait_for("a question", || site.read("trace").lines().any(|line| line.ends_with("age=3 generation=2")));
    process::send(asked(&server, &site, "pre_fork", 2), Signal::SIGKILL);
    let verdict = server.wait_verdict(before);
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    assert_eq!(server.messages(GIVEN_UP), Vec::<String>::new());
    // The next one is not asked in vain more than once.
    wait_for("another process", || server.messages("Booting hook process").len() == 3);
    server.signal(Signal::SIGTTIN);
    server.wait_log("The hook pre_fork has not answered within 5s");
    server.wait_workers(3);
    server.signal(Signal::SIGTTIN);
    server.wait_workers(4);
    assert_eq!(server.messages(GIVEN_UP).len(), 1);
    load.stop().expect_flawless();
    server.expect_error("SIGKILL");
    server.finish();
}

/// The process that was asked last by a hook's name and generation.
fn asked(server: &Server<'_>, site: &Site, hook: &str, generation: u64) -> i32 {
    let trace = site.read("trace");
    let end = format!(" generation={generation}");
    let line =
        trace.lines().rfind(|line| line.starts_with(hook) && line.ends_with(&end)).expect("it was asked");
    let pid = line.split("pid=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a pid");
    let pid = pid.parse().expect("a number");
    assert_eq!(process::find(pid).map(|process| process.parent), Some(server.pid()));
    pid
}

#[test]
fn a_start_that_waits_for_a_hook_is_stopped_at_once() {
    let site = Site::new("pre_fork_stop");
    let launch = launch(&site, &["FX_HOOK=pre_fork:hang"]);
    let is_asked = |_: &[_]| site.read("trace").contains("pre_fork");
    let (ended, time) = launch.start_and_stop(Signal::SIGTERM, is_asked);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    eprintln!("ended {time:.1?} after TERM");
    assert!(!ended.stderr.contains(GIVEN_UP) && ended.processes.is_empty(), "{}", ended.stderr);
}

/// USR2, and the new master's process id.
fn execute(server: &Server<'_>) -> i32 {
    const LINE: &str = "A new master is executed (pid:";
    server.signal(Signal::SIGUSR2);
    let line = server.wait_log(LINE);
    line[line.find(LINE).expect("it is there") + LINE.len()..]
        .trim_end_matches(')')
        .parse()
        .expect("a process id")
}

#[test]
fn a_new_master_is_executed_when_the_hook_was_heard() {
    for (how, least) in [("", Duration::ZERO), ("hang", Duration::from_secs(4))] {
        let site = Site::new("pre_exec");
        let preload = [("preload_app", "true")];
        let launch = launch(&site, &[&format!("FX_HOOK=pre_exec:{how}")]).settings(&preload);
        let mut server = launch.everywhere().workers(2).start();
        let first = hook_process(&server);
        let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(10)));
        let begin = Instant::now();
        let heir = execute(&server);
        assert!(begin.elapsed() >= least, "it had its time: {:?}", begin.elapsed());
        assert!(told_apart(&site, first).contains(&"pre_exec".to_owned()));
        server.wait_log(&format!("The new master (pid:{heir}) is ready"));
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait_end_alone().code(), Some(0));
        server.wait_log("Master has been promoted.");
        // The one that left told its end, unless it hangs; the other one has begun anew.
        let last = told_apart(&site, first).pop();
        assert_eq!(last.as_deref(), Some(if how == "hang" { "pre_exec" } else { "on_exit" }));
        assert_eq!(told_apart(&site, hook_process(&server))[0], "on_starting");
        load.more(20);
        load.stop().expect_flawless();
        server.finish_heir(heir);
    }
}

#[test]
fn a_pre_exec_that_fails_keeps_the_old_master() {
    let site = Site::new("pre_exec_fails");
    let mut server = launch(&site, &["FX_HOOK=pre_exec:fail"]).start();
    hook_process(&server);
    server.signal(Signal::SIGUSR2);
    let line = server.wait_log("No new master is executed, this one serves on: the hook pre_exec of");
    assert!(line.ends_with("failed: asked to fail"), "{line}");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.expect_error("No new master is executed");
    server.finish();
}

#[test]
fn a_hook_process_that_dies_is_replaced_and_nobody_else_notices() {
    let site = Site::new("death");
    let mut server = launch(&site, &[]).start();
    server.expect_error("Hook process (pid:");
    let (old, workers) = (hook_process(&server), server.workers());
    process::send(old, Signal::SIGKILL);
    let line = server.wait_log("Hook process (pid:");
    assert!(line.contains(&old.to_string()) && line.contains("SIGKILL"), "{line}");
    let new = hook_process(&server);
    assert_eq!((server.workers(), old == new), (workers, false));
    server.signal(Signal::SIGTTIN);
    wait_for("the new one to be told", || told_apart(&site, new).len() == 2);
    assert_eq!(told_apart(&site, new), ["nworkers_changed workers=2 before=1", "pre_fork"]);
    server.finish();
}

#[test]
fn a_hook_process_ends_with_the_master() {
    let site = Site::new("kill9_master");
    let mut server = launch(&site, &[]).start();
    let apart = hook_process(&server);
    server.kill_master();
    assert!(within(Duration::from_secs(10), || !process::runs(apart)).is_some(), "it runs on");
}

fn life_of(server: Server<'_>, site: &Site) {
    let (worker, apart) = (server.workers()[0], hook_process(&server));
    for (target, lines) in [("/version", 4), ("/status/404", 6)] {
        server.get(target);
        // An answer has ended for its client before that is told.
        wait_for("the request to be told", || told(site, worker).len() == lines);
    }
    server.finish();
    let told = told(site, worker);
    let begins = [
        "post_fork",
        "post_worker_init",
        "pre_request GET /version",
        "post_request GET /version status=200 micros=",
        "pre_request GET /status/404",
        "post_request GET /status/404 status=404 micros=",
        "worker_exit",
    ];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    assert!(told.iter().zip(begins).all(|(line, begin)| line.starts_with(begin)), "{told:#?}");
    let own = [format!(" pid={worker} age=1 generation=1"), format!(" pid={apart} ")];
    let trace = site.read("trace");
    let known = |line: &str| own.iter().any(|pid| line.contains(pid));
    assert!(trace.lines().all(known), "only the worker and the hook process run hooks: {trace}");
}

#[test]
fn a_worker_tells_its_life_in_order() {
    under_each_class(|class| {
        let site = Site::new("order");
        life_of(launch(&site, &[]).class(class).start(), &site);
    });
}

#[test]
fn a_worker_from_a_template_tells_the_same() {
    let site = Site::new("order_preload");
    life_of(launch(&site, &[]).settings(&[("preload_app", "true")]).start(), &site);
}

#[test]
fn an_int_to_a_worker_is_told_before_its_end() {
    let site = Site::new("int");
    let mut server = launch(&site, &[]).start();
    server.expect_error("without having been told to");
    let worker = server.workers()[0];
    process::send(worker, Signal::SIGINT);
    server.wait_gone(worker);
    assert_eq!(told(&site, worker), ["post_fork", "post_worker_init", "worker_int", "worker_exit"]);
    server.wait_workers(1);
    server.finish();
}

#[test]
fn a_stuck_worker_is_told_of_its_abort() {
    let site = Site::new("abort");
    let mut server = launch(&site, &[]).with(|settings| _ = settings.raw("timeout", "3")).start();
    let worker = server.workers()[0];
    let mut stuck = Connection::open(server.address()).expect("it listens");
    stuck.send_get("/sleep?ms=60000").expect("it reads");
    server.wait_log("WORKER TIMEOUT");
    server.wait_gone(worker);
    let told = told(&site, worker);
    assert_eq!(told[2..], ["pre_request GET /sleep?ms=60000", "worker_abort"]);
    server.expect_error(&worker.to_string());
    server.expect_error("stuck for");
    server.finish();
}

#[test]
fn hooks_of_the_boot_can_refuse_it() {
    for hook in ["post_fork", "post_worker_init"] {
        for how in ["fail", "panic"] {
            let site = Site::new("refuse");
            let failing = format!("FX_HOOK={hook}:{how}");
            let ended = launch(&site, &[&failing]).start_in_vain();
            assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
            let begin = format!("the hook {hook} of {} failed: ", site.join("hooks.so").display());
            assert!(
                ended.stderr.contains(&begin) && ended.stderr.contains(&format!("asked to {how}")),
                "{}",
                ended.stderr
            );
            assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
        }
    }
    let site = Site::new("refuse_reload");
    let mut server = launch(&site, &[]).start();
    let worker = server.workers();
    server.configure(|settings| configure(&site, settings, &["FX_HOOK=post_fork:fail"]));
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused") && verdict.contains("the hook post_fork of"), "{verdict}");
    assert_eq!(server.workers(), worker);
    server.expect_error("Reload refused");
    server.finish();
}

#[test]
fn hooks_about_requests_that_fail_cost_no_answer() {
    for failing in ["pre_request:fail", "pre_request:panic", "post_request:fail", "post_request:panic"] {
        let site = Site::new("fail");
        let mut server = launch(&site, &[&format!("FX_HOOK={failing}")]).start();
        let worker = server.workers();
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        let (hook, how) = failing.split_once(':').expect("two words");
        let line =
            server.wait_log(&format!("the hook {hook} of {} failed: ", site.join("hooks.so").display()));
        assert!(line.contains(&format!("asked to {how}")), "{line}");
        assert_eq!(server.workers(), worker);
        server.expect_error(&format!("asked to {how}"));
        server.finish();
    }
}

#[test]
fn an_application_may_have_hooks_with_it() {
    let site = Site::new("own_hooks");
    site.install(programs().fixture("own_hooks"), "own.so");
    // Another hook library is called first, wherever the application's own note comes from.
    let mut server = launch(&site, &[])
        .with(|settings| _ = settings.text("application", "own.so"))
        .settings(&[("preload_app", "true")])
        .start();
    let (worker, apart) = (server.workers()[0], hook_process(&server));
    assert_eq!(server.text("/"), "worker 1 has begun");
    wait_for("the request to be told", || site.read("trace").contains("own post_request"));
    let of_worker: Vec<String> = told(&site, worker).iter().map(|line| line.replace("own ", "")).collect();
    assert_eq!(of_worker[..2], ["post_fork", "post_fork"], "{of_worker:#?}");
    // Its own word in the hook process counts as any other's.
    let verdict = server.reload();
    assert!(
        verdict.contains("the hook on_reload of") && verdict.contains("own.so failed: not now"),
        "{verdict}"
    );
    let told = told_apart(&site, apart);
    assert!(
        told.contains(&"on_reload".to_owned()) && told.contains(&"own on_reload".to_owned()),
        "{told:#?}"
    );
    server.expect_error("not now");
    server.finish();
    // As a hook library alone it is not taken.
    let ended = launch(&site, &[]).with(|settings| _ = settings.list("hooks", &["own.so"])).start_in_vain();
    assert!(ended.stderr.contains("own.so: it is an application, not a hook library"), "{}", ended.stderr);
}

#[test]
fn a_new_build_of_hooks_is_a_reason_to_reload() {
    let site = Site::new("watch");
    let server = launch(&site, &[]).args(&["--reload"]).start();
    hook_process(&server);
    site.install(programs().fixture("hooks"), "hooks.so");
    assert!(server.wait_verdict(0).starts_with("Reloaded: "));
    let line = server.wait_log("Worker reloading: ");
    assert!(line.ends_with("hooks.so modified"), "{line}");
    server.finish();
}

/// The line of a process's status that begins with a word.
fn status_of(pid: i32, word: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(word)).unwrap_or_default();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn template_and_hook_process_have_titles_and_no_more_rights_than_a_worker() {
    let site = Site::new("rights");
    let server = launch(&site, &[]).settings(&[("preload_app", "true")]).start();
    let apart = hook_process(&server);
    let (worker, children) = (server.workers()[0], server.children());
    let title = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
        String::from_utf8_lossy(&words).trim_end_matches('\0').to_owned()
    };
    let mut titles: Vec<String> = children.iter().map(title).collect();
    titles.sort();
    let roles = ["hook process", "template", "worker"];
    assert_eq!(titles, roles.map(|role| format!("rgunicorn: {role} [app.so:app]")));
    for pid in &children {
        for word in ["NoNewPrivs", "Uid", "Gid", "Groups", "CapEff"] {
            assert_eq!(status_of(*pid, word), status_of(worker, word), "{word} of {}", title(pid));
        }
        assert_eq!(status_of(*pid, "NoNewPrivs"), "1");
    }
    // It holds no socket that the master may want to close.
    assert!(process::sockets(apart).is_disjoint(&process::listening(server.address().port())));
    server.finish();
}

#[test]
fn a_library_of_another_kind_is_refused() {
    let site = Site::new("kind");
    let ended = launch(&site, &[]).with(|settings| _ = settings.list("hooks", &["app.so"])).start_in_vain();
    assert_eq!(ended.status.code(), Some(4));
    assert!(ended.stderr.contains("app.so: it is an application, not a hook library"), "{}", ended.stderr);
    let ended =
        launch(&site, &[]).with(|settings| _ = settings.text("application", "hooks.so")).start_in_vain();
    assert_eq!(ended.status.code(), Some(4));
    assert!(ended.stderr.contains("it is a hook library, not an application"), "{}", ended.stderr);
    let ended = launch(&site, &[]).with(|settings| _ = settings.list("hooks", &["gone.so"])).start_in_vain();
    assert_eq!(ended.status.code(), Some(4));
    assert!(ended.stderr.contains("cannot load the hook library"), "{}", ended.stderr);
}
