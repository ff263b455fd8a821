//! Preload: the applications are created once for each generation, and every guarantee holds all the same.
//!
//! What a newcomer would get wrong: the template is a child of the master, and so are the workers that it forks. They are
//! told apart by what the log says of their pids.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use harness::{Crowd, Load, Manner, Plan, Server, Signal, Site, process, programs, wait_for, within};

/// What "at once" may take at most here.
const AT_ONCE: Duration = Duration::from_millis(2000);

/// Load that leaves the server under test some of a small machine.
fn gentle(plan: Plan) -> Plan {
    plan.paced(Duration::from_millis(2))
}

/// How much the application creates.
const BYTES: u64 = 48 << 20;

fn preloaded(site: &Site) -> harness::Launch<'_> {
    site.install(programs().inspect(1), "app.so");
    site.launch().settings(&[("preload_app", "true")])
}

/// The fixture, with what its variables shall be.
fn fixture<'s>(site: &'s Site, variables: &[&str]) -> harness::Launch<'s> {
    site.install(programs().fixture("preload"), "app.so");
    site.write("trace", "");
    let trace = format!("FX_TRACE={}", site.join("trace").display());
    let variables: Vec<&str> = variables.iter().copied().chain([trace.as_str()]).collect();
    site.launch()
        .settings(&[("preload_app", "true")])
        .with(|settings| _ = settings.list("raw_env", &variables))
}

/// The lines that begin with a word.
fn traced(site: &Site, word: &str) -> Vec<String> {
    site.read("trace").lines().filter(|line| line.starts_with(word)).map(str::to_owned).collect()
}

/// The templates that run.
fn templates(server: &Server<'_>) -> Vec<i32> {
    let said = server.messages("Booting template with pid: ");
    let pids = said.iter().filter_map(|message| message.rsplit_once(": ")?.1.parse().ok());
    pids.filter(|pid| process::runs(*pid)).collect()
}

/// The only template.
#[track_caller]
fn template(server: &Server<'_>) -> i32 {
    wait_for("one template", || templates(server).len() == 1);
    templates(server)[0]
}

/// What a process maps at an address: octets that others map too, and octets of its own.
fn memory_at(pid: i32, place: u64) -> (u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its memory");
    let mut lines = maps.lines().skip_while(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bounds = range.and_then(|(start, end)| {
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
        });
        bounds.is_none_or(|(start, end)| !(start..end).contains(&place))
    });
    assert!(lines.next().is_some(), "nothing is mapped at {place:#x}");
    let (mut shared, mut private) = (0, 0);
    for line in lines.take_while(|line| !line.starts_with("VmFlags")) {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(Ok(count))) = (words.next(), words.next().map(str::parse::<u64>)) else {
            continue;
        };
        match name {
            "Shared_Clean:" | "Shared_Dirty:" => shared += count * 1024,
            "Private_Clean:" | "Private_Dirty:" => private += count * 1024,
            _ => {}
        }
    }
    (shared, private)
}

#[test]
fn what_is_created_is_created_once_and_shared() {
    let site = Site::new("shared");
    let server = fixture(&site, &[&format!("FX_BYTES={BYTES}")]).workers(4).start();
    wait_for("all to have started", || traced(&site, "start").len() == 4);
    let template = template(&server);
    let created = traced(&site, "create");
    assert_eq!(created.len(), 2, "{created:?}");
    assert!(created[0].ends_with("age=0 in=probe"), "{created:?}");
    assert_eq!(created[1], format!("create pid={template} age=0 in=worker"));

    let workers = server.workers();
    let started = traced(&site, "start");
    for pid in &workers {
        let begin = format!("start pid={pid} age=");
        assert_eq!(started.iter().filter(|line| line.starts_with(&begin)).count(), 1, "{started:?}");
    }
    assert_eq!(server.text("/sum"), (7 * BYTES).to_string());
    let place: u64 = server.text("/place").parse().expect("an address");
    for pid in workers {
        assert_eq!(process::find(pid).map(|worker| worker.parent), Some(server.pid()), "{pid}");
        let (shared, private) = memory_at(pid, place);
        eprintln!("worker {pid}: of {BYTES} octets, {shared} are shared and {private} its own");
        assert!(shared >= BYTES * 99 / 100 && private <= BYTES / 100, "{shared}, {private}");
    }
    // Nobody else was adopted, and nothing waits to be reaped.
    wait_for("four workers and the template", || server.children().len() == 5);
    server.finish();
}

#[test]
fn a_killed_worker_is_replaced_from_the_template() {
    let site = Site::new("kill9_worker");
    let mut server = fixture(&site, &[]).workers(4).start();
    server.expect_error("SIGKILL");
    let template = template(&server);
    wait_for("all to have started", || traced(&site, "start").len() == 4);
    let mut slowest = Duration::ZERO;
    for (count, old) in server.workers().into_iter().enumerate() {
        let begin = Instant::now();
        process::send(old, Signal::SIGKILL);
        wait_for("a new worker", || traced(&site, "start").len() == 5 + count);
        slowest = slowest.max(begin.elapsed());
        server.wait_gone(old);
    }
    eprintln!("a worker was replaced within {slowest:.1?} (wanted: 50 ms)");
    assert!(slowest < AT_ONCE, "{slowest:?}");
    server.wait_workers(4);
    assert_eq!((traced(&site, "create").len(), templates(&server)), (2, vec![template]));
    server.finish();
}

#[test]
fn a_template_that_dies_is_replaced_and_workers_serve_on() {
    let site = Site::new("kill9_template");
    let mut server = fixture(&site, &[]).workers(2).start();
    let workers = server.workers();
    let load = Load::start(server.address(), gentle(Plan::pids(2)));
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let old = template(&server);
        process::send(old, signal);
        wait_for("another template", || matches!(templates(&server)[..], [new] if new != old));
        server.wait_log(&format!("Template (pid:{old})"));
    }
    server.expect_error("its workers serve on, and another one is made");
    load.more(20);
    let report = load.stop();
    report.expect_flawless();
    assert_eq!(server.workers(), workers);
    // The new one does what the old one did.
    process::send(workers[0], Signal::SIGKILL);
    server.expect_error("SIGKILL");
    server.wait_gone(workers[0]);
    server.wait_workers(2);
    assert_eq!(traced(&site, "create").len(), 4);
    server.finish();
}

#[test]
fn a_template_that_is_stuck_is_replaced_when_a_worker_is_wanted() {
    let site = Site::new("sigstop_template");
    let mut server = fixture(&site, &[]).workers(2).start();
    server.expect_error("SIGKILL");
    let (old, workers) = (template(&server), server.workers());
    process::send(old, Signal::SIGSTOP);
    process::send(workers[0], Signal::SIGKILL);
    let line = server.wait_log("did not fork a worker");
    assert!(line.contains(&old.to_string()), "{line}");
    server.wait_workers(2);
    assert!(server.workers().contains(&workers[1]));
    assert_ne!(template(&server), old);
    server.finish();
}

#[test]
fn a_reload_makes_another_template_and_loses_nothing() {
    let site = Site::new("reload");
    let server = preloaded(&site).workers(3).start();
    let load = Load::start(server.address(), gentle(Plan::versions(4)));
    for turn in 0..6 {
        let old = template(&server);
        site.install(programs().inspect(2 - turn % 2), "app.so");
        server.reload_well();
        server.wait_gone(old);
        template(&server);
        wait_for("three workers and the template", || server.children().len() == 4);
    }
    load.epoch(1);
    load.more(20);
    let report = load.stop();
    assert_eq!(report.expect_flawless().labels(1), ["1"]);
    server.finish();
}

#[test]
fn preload_comes_and_goes_with_a_reload() {
    let site = Site::new("on_and_off");
    let mut server = preloaded(&site).workers(2).start();
    let load = Load::start(server.address(), gentle(Plan::versions(2)));
    for (on, children) in [("false", 2), ("true", 3), ("false", 2)] {
        server.configure(|settings| _ = settings.raw("preload_app", on));
        server.reload_well();
        wait_for("the right number of children", || server.children().len() == children);
    }
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn threads_of_create_are_refused() {
    let site = Site::new("threads");
    let ended = fixture(&site, &["FX_THREADS=stay"]).start_in_vain();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
    for part in ["app.so:app", "(fx-pool)", "start threads in the application's start"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    assert_eq!(ended.processes, []);

    // A thread that has ended is none, and without preload there is nothing to refuse.
    let mut server = fixture(&site, &["FX_THREADS=join"]).workers(2).start();
    let workers = server.workers();
    server.configure(|settings| _ = settings.list("raw_env", &["FX_THREADS=stay"]));
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused") && verdict.contains("(fx-pool)"), "{verdict}");
    assert_eq!(server.workers(), workers);
    server.expect_error("Reload refused");
    server.configure(|settings| _ = settings.raw("preload_app", "false"));
    server.reload_well();
    server.finish();
}

/// What only the template meets, because the probe is spared: `INSPECT_INIT`, exit code, and what is said.
const FAULTS: [(&str, i32, &str); 6] = [
    ("fail", 4, "inspect: asked to fail"),
    ("panic", 4, "inspect: asked to panic"),
    ("abort", 3, "the template was killed by SIGABRT"),
    ("exit:4", 3, "the template exited with code 4 before it was ready"),
    ("hang", 3, "the template was not ready within boot_timeout"),
    ("start:fail", 4, "inspect: asked to fail"),
];

/// Only the one that hangs meets its end by it; the probe before it must not, however busy the machine is.
fn boot_timeout(mode: &str) -> &'static str {
    if mode == "hang" { "8" } else { "60" }
}

#[test]
fn a_fault_that_only_the_template_meets_ends_the_first_start() {
    for (mode, exit_code, says) in FAULTS {
        let site = Site::new("first_start");
        let launch = preloaded(&site).workers(2).with(|settings| {
            settings.init(&format!("probe-ok:{mode}")).raw("boot_timeout", boot_timeout(mode));
        });
        let ended = launch.start_in_vain();
        assert_eq!(ended.status.code(), Some(exit_code), "{mode}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{mode}: {}", ended.stderr);
        assert_eq!(ended.processes, [], "{mode}");
        assert_eq!(site.leftovers(), Vec::<PathBuf>::new(), "{mode}");
    }
}

#[test]
fn a_fault_that_only_the_template_meets_refuses_the_reload() {
    let site = Site::new("refused");
    let mut server = preloaded(&site).workers(2).start();
    server.expect_error("Reload refused");
    let (workers, template) = (server.workers(), template(&server));
    let load = Load::start(server.address(), gentle(Plan::versions(2)));
    for (mode, _, says) in FAULTS {
        server.configure(|settings| {
            settings.init(&format!("probe-ok:{mode}")).raw("boot_timeout", boot_timeout(mode));
        });
        let verdict = server.reload();
        assert!(verdict.starts_with("Reload refused") && verdict.contains(says), "{mode}: {verdict}");
        wait_for("the new template to be gone", || templates(&server) == [template]);
    }
    load.stop().expect_flawless();
    assert_eq!(server.workers(), workers);
    server.configure(|settings| _ = settings.remove("raw_env"));
    server.reload_well();
    server.finish();
}

#[test]
fn a_slow_create_delays_no_request_and_no_term() {
    let site = Site::new("slow");
    let mut server = preloaded(&site).workers(2).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(10)));
    site.install(programs().inspect(2), "app.so");
    server.configure(|settings| _ = settings.init("probe-ok:sleep:1500"));
    server.reload_well();
    let report = load.stop();
    report.expect_flawless();
    assert!(report.slowest < AT_ONCE, "{report}");

    server.configure(|settings| _ = settings.init("probe-ok:sleep:60000"));
    server.signal(Signal::SIGHUP);
    wait_for("a template that creates", || templates(&server).len() == 2);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let (status, _) = server.wait_end();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_when_the_master_is_killed() {
    killed_master("kill9_master", &[]);
}

#[test]
fn nothing_is_left_when_the_master_of_another_users_workers_is_killed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run workers as somebody else");
        return;
    }
    killed_master("kill9_user", &["--user", "nobody"]);
}

fn killed_master(name: &str, arguments: &[&str]) {
    let site = Site::new(name);
    let mut server = preloaded(&site).workers(3).args(arguments).start();
    let mut all = server.workers();
    all.push(template(&server));
    // One of them cannot look after itself.
    process::send(all[0], Signal::SIGSTOP);
    let group = server.pid();
    server.kill_master();
    let gone = within(Duration::from_secs(1), || {
        process::group(group).is_empty() && !all.iter().any(|pid| process::runs(*pid))
    });
    assert!(gone.is_some(), "left: {:?}", process::group(group));
    eprintln!("all were gone {:.1?} after the master", gone.unwrap_or_default());
}

#[test]
fn workers_that_are_killed_as_they_are_born_leave_the_right_number() {
    let site = Site::new("early");
    let mut server = preloaded(&site).workers(3).start();
    server.expect_error("SIGKILL");
    server.expect_error("failed to boot");
    server.expect_error("cannot fork a worker");
    let template = template(&server);
    let end = Instant::now() + Duration::from_secs(3);
    let mut killed = BTreeSet::new();
    while Instant::now() < end {
        // Also one whose birth the master has not heard of yet, and the process in between.
        let born = process::all().into_iter().filter(|one| [server.pid(), template].contains(&one.parent));
        for one in born.filter(|one| one.pid != template && one.state != 'Z') {
            process::send(one.pid, Signal::SIGKILL);
            killed.insert(one.pid);
        }
    }
    eprintln!("{} were killed", killed.len());
    assert!(killed.len() > 3);
    wait_for("three workers and the template", || {
        server.workers().len() == 3 && server.children().len() == 4
    });
    wait_for("an answer", || server.address().get("/version").is_ok());
    assert_eq!(templates(&server), [template]);
    server.finish();
}

#[test]
fn a_worker_that_is_forked_after_usr1_writes_to_the_new_log() {
    let site = Site::new("usr1");
    let mut server = preloaded(&site).start();
    server.expect_error("SIGKILL");
    template(&server);
    let old = server.workers()[0];
    site.write("rotated", "");
    fs::rename(site.join("error.log"), site.join("rotated")).expect("a rename");
    server.signal(Signal::SIGUSR1);
    // The template says nothing of it: that it holds the new file is seen in /proc.
    let log = site.join("error.log");
    wait_for("the new log in all processes", || {
        server.children().iter().all(|pid| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
            fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|file| file == log)
        })
    });
    process::send(old, Signal::SIGKILL);
    server.wait_log("Booting worker with pid: ");
    server.wait_workers(1);
    server.finish();
}

#[test]
fn a_storm_of_signals_leaves_the_right_number_of_workers() {
    let site = Site::new("storm");
    let server = preloaded(&site).workers(3).start();
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(5)));
    let signals = [Signal::SIGTTIN, Signal::SIGHUP, Signal::SIGTTOU, Signal::SIGTTOU, Signal::SIGTTIN];
    for turn in 0..500 {
        server.signal(signals[turn % 5]);
        // Part of the storm: two signals of a kind that come together are one.
        std::thread::sleep(Duration::from_micros(turn as u64 * 7919 % 8000));
    }
    // A last HUP says how many there shall be.
    server.signal(Signal::SIGHUP);
    let mut steady = (BTreeSet::new(), Instant::now());
    wait_for("three workers and a template for a second", || {
        let now: BTreeSet<i32> = server.children().into_iter().collect();
        if steady.0 != now || now.len() != 4 {
            steady = (now, Instant::now());
        }
        steady.1.elapsed() > Duration::from_secs(1)
    });
    assert_eq!((server.workers().len(), templates(&server).len()), (3, 1));
    load.stop().expect_flawless();
    server.finish();
}

#[test]
fn the_memory_of_the_template_is_not_the_workers() {
    let site = Site::new("memory");
    let server =
        fixture(&site, &[&format!("FX_BYTES={BYTES}")]).settings(&[("max_worker_memory", "\"32M\"")]).start();
    let (old, template) = (server.workers()[0], template(&server));
    assert_eq!(server.text("/sum"), (7 * BYTES).to_string());
    let load = Load::start(server.address(), Plan::pids(2).paced(Duration::from_millis(5)));
    assert_eq!(server.text("/grow"), "grown");
    server.wait_gone(old);
    load.more(20);
    load.stop().expect_flawless();
    // The first look found nothing: else there would have been no second one.
    assert!(server.messages("Autorestarting worker: it has ").len() == 1);
    wait_for("one worker and the template", || server.children().len() == 2);
    assert_eq!(templates(&server), [template]);
    assert_eq!(traced(&site, "create").len(), 2);
    server.finish();
}

#[test]
fn term_answers_all_who_were_let_in() {
    let site = Site::new("term");
    let mut server = preloaded(&site).workers(2).start();
    let template = template(&server);
    let mut crowd = Crowd::default();
    crowd.join(server.address(), 12, &Manner::asks("GET /sleep?ms=300 HTTP/1.1\r\nHost: test\r\n\r\n"));
    crowd.until("everybody to have asked", Crowd::has_said_all);
    server.signal(Signal::SIGTERM);
    wait_for("the template to go at once", || !process::runs(template));
    crowd.until("all answers", |crowd| crowd.open() == 0);
    for client in crowd.clients() {
        assert_eq!(client.status(), Some(200), "{:?}", client.end());
    }
    assert_eq!(server.wait_end().0.code(), Some(0));
    server.check_log();
    assert_eq!(site.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_new_master_makes_a_template_of_its_own_and_nobody_is_lost() {
    let site = Site::new("usr2");
    let mut server = preloaded(&site).workers(2).pidfile().everywhere().start();
    let old = template(&server);
    let loads: Vec<Load> =
        server.addresses().iter().map(|address| Load::start(address, gentle(Plan::versions(2)))).collect();
    server.signal(Signal::SIGUSR2);
    wait_for("another template", || templates(&server).len() == 2);
    server.wait_log(") is ready");
    wait_for("the new pid file", || site.join("pid.2").exists());
    let heir: i32 = site.read("pid.2").trim().parse().expect("a pid");
    let workers = || process::children(heir).into_iter().filter(|child| child.state != 'Z').count();
    wait_for("two workers and a template beside the others", || workers() == 3);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_end_alone().code(), Some(0));
    server.wait_log("Master has been promoted.");
    wait_for("the old template to be gone", || !process::runs(old) && templates(&server).len() == 1);
    assert_eq!(process::find(template(&server)).map(|template| template.parent), Some(heir));
    for load in loads {
        load.more(50);
        load.stop().expect_flawless();
    }
    server.finish_heir(heir);
}

#[test]
fn a_death_is_explained_as_any_other() {
    let site = Site::new("crash");
    let mut server = preloaded(&site).start();
    let old: i32 = server.text("/pid").parse().expect("a pid");
    let _ = server.address().get("/segv?secret=no");
    let line = server.wait_log("was sent SIGSEGV!");
    let library = site.join("app.so").display().to_string();
    for part in
        [&format!("Worker (pid:{old})"), "generation 1, age 1, while serving", &library, "in GET /segv"]
    {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    server.wait_workers(1);
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.expect_error("SIGSEGV");
    server.finish();
}

#[test]
fn several_queues_are_kept_and_served_with_a_template() {
    let site = Site::new("reuse_port");
    let mut server = preloaded(&site).workers(3).args(&["--reuse-port"]).start();
    let first = process::listening(server.address().port());
    assert_eq!(first.len(), 3);
    let load = Load::start(server.address(), gentle(Plan::versions(6)));
    server.signal(Signal::SIGTTOU);
    server.wait_workers(2);
    load.more(200);
    server.configure(|settings| _ = settings.raw("workers", "4"));
    server.reload_well();
    server.wait_workers(4);
    load.more(200);
    let report = load.stop();
    report.expect_flawless();
    assert_eq!(report.connections, report.answered(), "each connection that was opened was answered");
    let more = process::listening(server.address().port());
    assert!(more.len() == 4 && more.is_superset(&first), "{first:?} {more:?}");
    server.finish();
}

#[test]
fn a_new_build_is_seen_and_workers_ask_for_replacement_in_turn() {
    let site = Site::new("watch");
    let settings = [("max_requests", "10"), ("recycle_interval", "0.2")];
    let mut server = preloaded(&site).workers(2).args(&["--reload"]).settings(&settings).start();
    let load = Load::start(server.address(), gentle(Plan::versions(2)));
    let (old, first) = (template(&server), server.workers());
    wait_for("both workers to be replaced", || !first.iter().any(|pid| process::runs(*pid)));
    assert_eq!(templates(&server), [old], "by the same template");
    site.install(programs().inspect(2), "app.so");
    assert!(server.wait_verdict(0).starts_with("Reloaded: "));
    server.wait_gone(old);
    // One that has just been told to leave may answer once more.
    wait_for("the new build", || server.text("/version") == "INSPECT-VERSION:2");
    load.stop().expect_flawless();
    let (status, _) = server.stop(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0), "{status}");
    server.check_log();
}
