//! System calls that fail: what clients, the log and the CPU see, and whether the server is as before when it is over.
//!
//! Owns the list of calls and errors, each failing once and for as long as the fault lasts. What is judged: the server
//! still runs at the end, answers again without a restart, did not try in a busy loop, and wrote few lines. Requests that need the very call which fails are lost with it; they are counted and not judged. What a
//! newcomer would get wrong: CPU time says nothing about a process that is traced, since each call stops it, so the calls
//! are counted. And what no machine does is not tried: EAGAIN on a socket that poll(2) calls writable, EINTR for ever.

use std::thread;
use std::time::{Duration, Instant};

use harness::inject::Fault;
use harness::{Address, Load, Plan, Server, Signal, Site, process, programs, within};

use crate::losses::load_average;

/// How long a fault lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Failing calls in that time: pauses of 0.1 s make two thousand at most, a busy loop tens of thousands.
const CALLS: usize = 5000;
/// Lines of the log in that time.
const LINES: usize = 30;

/// Whose calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// The one worker's.
    Worker,
    /// One of two workers', of which the other could serve.
    OneOfTwo,
    /// Those of the master, and of all that it forks meanwhile. A worker is killed and a reload asked for.
    Master,
}

/// What fails, and what is asked for meanwhile.
struct Case {
    whom: Whom,
    calls: &'static str,
    errors: &'static [&'static str],
    target: &'static str,
}

const fn worker(calls: &'static str, errors: &'static [&'static str], target: &'static str) -> Case {
    Case { whom: Whom::Worker, calls, errors, target }
}

const fn one_of_two(calls: &'static str, errors: &'static [&'static str]) -> Case {
    Case { whom: Whom::OneOfTwo, calls, errors, target: "/version" }
}

const fn master(calls: &'static str, errors: &'static [&'static str]) -> Case {
    Case { whom: Whom::Master, calls, errors, target: "/version" }
}

const CASES: &[Case] = &[
    worker("accept4", &["EMFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM", "EINTR"], "/version"),
    worker("?epoll_wait,?epoll_pwait,?epoll_pwait2", &["EINTR"], "/version"),
    worker("epoll_ctl", &["ENOMEM", "ENOSPC"], "/version"),
    worker("recvfrom", &["EINTR", "ECONNRESET", "ENOMEM", "EIO"], "/version"),
    worker("sendto,sendmsg", &["EINTR", "EPIPE", "ENOBUFS", "EIO"], "/large?bytes=300000"),
    worker("sendfile", &["EINTR", "EIO", "ENOMEM"], "/file"),
    worker("mmap", &["ENOMEM"], "/version"),
    worker("?clone,?clone3", &["EAGAIN"], "/version"),
    one_of_two("accept4", &["EMFILE"]),
    master("?fork,?vfork,?clone,?clone3", &["EAGAIN", "ENOMEM"]),
    master("?poll,?ppoll", &["EINTR", "ENOMEM"]),
    master("read", &["EINTR", "EIO"]),
    master("mmap", &["ENOMEM"]),
    master("?open,openat", &["EMFILE", "EIO"]),
    master("?eventfd2,?pipe2,?socketpair", &["EMFILE"]),
];

/// Every case that contains the word, under every class. Whether all went well.
pub(crate) fn run(filter: &str) -> bool {
    println!(
        "| class | whose | call | error | when | asked | lost | calls | lines | well again after | verdict |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut all_well = true;
    for class in ["sync", "threaded", "poll"] {
        for case in CASES {
            for error in case.errors {
                for (when, how) in [("once", ":when=1"), ("always", "")] {
                    if *error == "EINTR" && when == "always" {
                        continue;
                    }
                    // The master is the same under every class.
                    let skipped = case.whom == Whom::Master && class != "poll";
                    let name = format!(
                        "{class} | {:?} | {} | {error} | {when}",
                        case.whom,
                        case.calls.replace('?', "")
                    );
                    if skipped || !name.contains(filter) {
                        continue;
                    }
                    let verdict = attempt(class, case, &format!("error={error}{how}"));
                    let Some(row) = verdict else { return false };
                    all_well &= row.ends_with("well |");
                    println!("| {name} | {row}");
                }
            }
        }
    }
    println!("\n{}", load_average());
    all_well
}

/// One row's end; none if this machine cannot do it.
fn attempt(class: &str, case: &Case, how: &str) -> Option<String> {
    let site = Site::new("faults");
    let file = case.target == "/file";
    site.install(if file { programs().files() } else { programs().inspect(1) }, "app.so");
    let mut launch =
        site.launch().workers(if case.whom == Whom::OneOfTwo { 2 } else { 1 }).with(|settings| {
            settings.text("worker_class", class).raw("threads", "4").raw("timeout", "10");
        });
    if file {
        site.directory("public");
        std::fs::write(site.join("public/file"), alphabet(300_000)).expect("a file");
        site.mine("public/file");
        launch = launch.with(|settings| _ = settings.append("[app.app]\nroot = \"public\"\n"));
    }
    let mut server = launch.start();
    server.expect_error("");
    let (pid, address) = match case.whom {
        Whom::Worker | Whom::OneOfTwo => (server.workers()[0], server.address().clone()),
        Whom::Master => (server.pid(), server.address().clone()),
    };
    let plan = Plan {
        target: case.target.to_owned(),
        judge: |response| {
            if response.status == 200 { Ok("200".to_owned()) } else { Err("not 200".to_owned()) }
        },
        ..Plan::versions(2).paced(Duration::from_millis(20))
    };
    let load = Load::start(&address, plan);
    let lines = server.lines().len();
    let fault = Fault::begin(pid, case.calls, how)?;
    let begin = Instant::now();
    if case.whom == Whom::Master {
        server.signal(Signal::SIGHUP);
        thread::sleep(LASTS / 2);
        server.workers().first().inspect(|worker| process::send(**worker, Signal::SIGKILL));
    }
    while begin.elapsed() < LASTS {
        thread::sleep(Duration::from_millis(50));
    }
    let calls = fault.calls();
    let lines = server.lines().len() - lines;
    fault.end();
    let died = case.whom != Whom::Master && !process::runs(pid);
    let again = recovers(&server, &address, case);
    let report = load.stop();
    let mut verdict = Vec::new();
    if again.is_none() {
        verdict.push("not well again");
    }
    if calls > CALLS {
        verdict.push("spins");
    }
    if lines > LINES {
        verdict.push("floods the log");
    }
    if died {
        verdict.push("worker replaced");
    }
    let well = again.is_some() && calls <= CALLS && lines <= LINES;
    verdict.push(if well { "well" } else { "**bad**" });
    if !well {
        eprintln!("--- {class} {} {how}:\n{}", case.calls, server.log());
    }
    let lost = report.failures.len();
    let row = format!(
        "{} | {lost} | {:.1?} | {calls} | {lines} | {} | {} |",
        report.answered() + lost as u64,
        report.slowest,
        again.map_or_else(|| "never".to_owned(), |time| format!("{time:.1?}")),
        verdict.join(", ")
    );
    if server.has_ended() {
        return Some(format!("{row} **the master has ended** |"));
    }
    server.finish();
    Some(row)
}

/// How long until twenty requests in a row are answered and a reload is taken; none if that does not come.
fn recovers(server: &Server<'_>, address: &Address, case: &Case) -> Option<Duration> {
    let begin = Instant::now();
    let mut in_a_row = 0;
    within(Duration::from_secs(20), || {
        let well = address.get(case.target).is_ok_and(|response| response.status == 200);
        in_a_row = if well { in_a_row + 1 } else { 0 };
        in_a_row >= 20
    })?;
    let time = begin.elapsed();
    server.reload().starts_with("Reloaded: ").then_some(time)
}

fn alphabet(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}
