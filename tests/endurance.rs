//! What is done hundreds of times costs the master nothing that stays; and when nothing is done, it sleeps.
//!
//! Figures are printed. With `RGUNICORN_ENDURANCE` set, and preferably in release, a million requests are made instead
//! of some thousands. What a newcomer would get wrong: the first rounds are not measured. What a master allocates once
//! (buffers, the largest report so far) is no growth.

use std::time::{Duration, Instant};

use harness::{Load, Plan, Server, Signal, Site, process, programs, under_each_class, usage, wait_for};

const KILLS: usize = 200;
const RELOADS: usize = 200;
/// Rounds before the first look.
const WARM: usize = 10;
/// What an allocator may keep in its free lists.
const MEMORY: u64 = 256 * 1024;

/// What the master has.
#[derive(Debug)]
struct Figures {
    descriptors: usize,
    memory: u64,
}

impl Figures {
    fn of(server: &Server<'_>) -> Self {
        Self { descriptors: usage::descriptors(server.pid()), memory: usage::own_memory(server.pid()) }
    }

    /// Compares with what the master has now, once what is passing has passed.
    #[track_caller]
    fn expect_no_growth(&self, server: &Server<'_>, what: &str) {
        wait_for("the master's descriptors to be as many as before", || {
            usage::descriptors(server.pid()) <= self.descriptors
        });
        let zombies = process::children(server.pid()).iter().filter(|child| child.state == 'Z').count();
        let now = Self::of(server);
        eprintln!("after {what}: {zombies} zombies, {now:?}, before: {self:?}");
        assert_eq!(zombies, 0);
        assert!(now.memory <= self.memory + MEMORY, "the master has grown: {self:?}, {now:?}");
    }
}

/// Kills the oldest worker, which is ready if any is, and waits for its successor.
fn kill_one(server: &Server<'_>, workers: usize) {
    let oldest = server.workers()[0];
    process::send(oldest, Signal::SIGKILL);
    wait_for("its successor", || {
        let now = process::children(server.pid());
        now.len() == workers && now.iter().all(|child| child.pid != oldest && child.state != 'Z')
    });
}

#[test]
fn hundreds_of_killed_workers_leave_nothing_in_the_master() {
    let site = Site::new("kills");
    site.install(programs().inspect(1), "app.so");
    let workers = 8;
    let mut server = site.launch().workers(workers).start();
    server.expect_error("SIGKILL");
    (0..WARM).for_each(|_| kill_one(&server, workers));
    let before = Figures::of(&server);
    let begin = Instant::now();
    (0..KILLS).for_each(|_| kill_one(&server, workers));
    eprintln!("{KILLS} workers were killed and replaced in {:.1?}", begin.elapsed());
    before.expect_no_growth(&server, "the kills");
    assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
    server.finish();
}

#[test]
fn hundreds_of_reloads_leave_nothing_in_the_master_and_lose_nothing() {
    let site = Site::new("reloads");
    site.install(programs().inspect(1), "app.so");
    let server = site.launch().workers(2).everywhere().start();
    let reload = || {
        let verdict = server.reload();
        assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    };
    (0..WARM).for_each(|_| reload());
    server.wait_workers(2);
    let before = Figures::of(&server);
    let load = Load::start(server.address(), Plan::versions(2).paced(Duration::from_millis(5)));
    let begin = Instant::now();
    (0..RELOADS).for_each(|_| reload());
    eprintln!("{RELOADS} reloads in {:.1?}", begin.elapsed());
    load.stop().expect_flawless();
    server.wait_workers(2);
    before.expect_no_growth(&server, "the reloads");
    server.finish();
}

#[test]
fn a_great_many_requests_leave_nothing_anywhere() {
    let goal: u64 = if std::env::var_os("RGUNICORN_ENDURANCE").is_some() { 1_000_000 } else { 10_000 };
    under_each_class(|class| {
        let site = Site::new("requests");
        site.install(programs().inspect(1), "app.so");
        let server = site.launch().class(class).workers(2).start();
        let mut plan = Plan::versions(4);
        if class.keeps_alive {
            plan = plan.kept(Duration::from_secs(2));
        }
        let load = Load::start(server.address(), plan);
        load.more(1000);
        let (before, workers) = (Figures::of(&server), server.workers());
        let of = |pid: &i32| (usage::descriptors(*pid), usage::own_memory(*pid));
        let then: Vec<_> = workers.iter().map(of).collect();
        while load.done() < goal {
            load.more(5000);
        }
        load.stop().expect_flawless();
        before.expect_no_growth(&server, "the requests");
        assert_eq!(server.workers(), workers);
        for (pid, (descriptors, memory)) in workers.iter().zip(then) {
            wait_for("a worker's descriptors to be as many as before", || {
                usage::descriptors(*pid) <= descriptors
            });
            let now = usage::own_memory(*pid);
            eprintln!("worker {pid}: {memory} octets of memory, then {now}");
            assert!(now <= memory + 4 * MEMORY, "a worker has grown: {memory}, {now}");
        }
        server.finish();
    });
}

/// With no timer due, nothing wakes the master; with `timeout` there is one look in that time.
#[test]
fn an_idle_master_sleeps() {
    under_each_class(|class| {
        let site = Site::new("asleep");
        site.install(programs().inspect(1), "app.so");
        let server = site
            .launch()
            .class(class)
            .workers(3)
            .everywhere()
            .pidfile()
            .settings(&[("reload", "true"), ("reuse_port", "true"), ("max_worker_memory", "\"1G\"")])
            .settings(&[("max_requests", "1000"), ("recycle_interval", "1")])
            .start();
        assert_eq!(server.text("/version"), "INSPECT-VERSION:1");
        // What the start still has to do (a probe's end, the last worker's readiness) comes first.
        let mut last = (usage::switches(server.pid()), Instant::now());
        wait_for("the master to be quiet for a second", || {
            let now = usage::switches(server.pid());
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_secs(1)
        });
        let seconds = 5;
        let before = usage::switches(server.pid());
        // The subject of this test: nothing happens.
        std::thread::sleep(Duration::from_secs(seconds));
        let woken = usage::switches(server.pid()).since(before).all();
        eprintln!("in {seconds} s of idleness the master woke {woken} times");
        assert!(woken < seconds, "it woke {woken} times in {seconds} s");
        server.finish();
    });
}
