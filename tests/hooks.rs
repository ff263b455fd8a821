//! Hooks: each is called where it belongs, in order, and what it says counts where it may.
//!
//! What a newcomer would get wrong: a hook library is loaded in the probe too, but no hook is called there. So the trace
//! knows workers only.

use std::path::PathBuf;

use harness::{
    Connection, Launch, Server, Settings, Signal, Site, process, programs, under_each_class, wait_for,
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

fn life_of(server: Server<'_>, site: &Site) {
    let worker = server.workers()[0];
    for target in ["/version", "/status/404"] {
        server.get(target);
    }
    wait_for("both requests to be told", || told(site, worker).len() == 6);
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
    let pid = format!(" pid={worker} age=1 generation=1");
    let trace = site.read("trace");
    assert!(trace.lines().all(|line| line.contains(&pid)), "only the worker runs hooks: {trace}");
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
    let mut server = launch(&site, &[]).with(|settings| _ = settings.raw("timeout", "1")).start();
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
        let line = server.wait_log(&format!("the hook {hook} failed: "));
        assert!(line.contains(&format!("asked to {how}")), "{line}");
        assert_eq!(server.workers(), worker);
        server.expect_error(&format!("asked to {how}"));
        server.finish();
    }
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
