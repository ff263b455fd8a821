//! System calls that fail: what clients, the log and the CPU see, and whether the server is as before when it is over.
//!
//! Owns the list of calls and errors, each failing once and for as long as the fault lasts. What is judged: the server
//! still runs at the end, answers again without a restart, did not try in a busy loop, and wrote few lines. Requests that
//! need the very call which fails are lost with it; they are counted and not judged. What a newcomer would get wrong: CPU
//! time says nothing about a process that is traced, since each call stops it, so the calls are counted. Answers that
//! contradict the kernel's own and so come only once ([`Attempt::is_untrue`]) are tried without end all the same; their
//! calls are counted and not judged.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::inject::Fault;
use harness::{Address, Load, Plan, Server, Signal, Site, process, programs, within};

use crate::page;

/// How long a fault lasts.
const LASTS: Duration = Duration::from_secs(3);
/// Failing calls in that time: pauses of 0.1 s make two thousand at most, a busy loop tens of thousands.
const CALLS: usize = 5000;
/// Attempts at a time: most of each is waiting.
const AT_ONCE: usize = 6;
/// Lines of the log in that time: of one worker four are forked a second at most, and each that is lost costs four.
const LINES: usize = 60;

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
    /// Whether there is an access log.
    logs: bool,
}

const fn worker(calls: &'static str, errors: &'static [&'static str], target: &'static str) -> Case {
    Case { whom: Whom::Worker, calls, errors, target, logs: false }
}

const fn worker_with_logs(calls: &'static str, errors: &'static [&'static str]) -> Case {
    Case { whom: Whom::Worker, calls, errors, target: "/version", logs: true }
}

const fn one_of_two(calls: &'static str, errors: &'static [&'static str]) -> Case {
    Case { whom: Whom::OneOfTwo, calls, errors, target: "/version", logs: false }
}

const fn master(calls: &'static str, errors: &'static [&'static str]) -> Case {
    Case { whom: Whom::Master, calls, errors, target: "/version", logs: true }
}

const CASES: &[Case] = &[
    worker(
        "accept4",
        &["EMFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM", "EAGAIN", "EINTR"],
        "/version",
    ),
    worker("?epoll_wait,?epoll_pwait,?epoll_pwait2", &["EINTR"], "/version"),
    worker("?poll,?ppoll", &["EINTR", "EAGAIN", "ENOMEM"], "/version"),
    worker("epoll_ctl", &["ENOMEM", "ENOSPC"], "/version"),
    worker("recvfrom", &["EAGAIN", "EINTR", "ECONNRESET", "ENOMEM", "EIO"], "/version"),
    worker("sendto,sendmsg", &["EAGAIN", "EINTR", "EPIPE", "ENOBUFS", "EIO"], "/large?bytes=300000"),
    worker("sendfile", &["EAGAIN", "EINTR", "EIO", "ENOMEM"], "/file"),
    worker_with_logs("read", &["EAGAIN", "EINTR", "EIO"]),
    worker_with_logs("write,writev", &["EAGAIN", "EINTR", "EIO", "ENOSPC", "EPIPE"]),
    worker("mmap", &["ENOMEM"], "/version"),
    worker("?clone,?clone3", &["EAGAIN"], "/version"),
    one_of_two("accept4", &["EMFILE"]),
    one_of_two("recvfrom", &["EAGAIN"]),
    master("?fork,?vfork,?clone,?clone3", &["EAGAIN", "ENOMEM"]),
    master("?poll,?ppoll", &["EINTR", "ENOMEM"]),
    master("read", &["EAGAIN", "EINTR", "EIO"]),
    // Other errors would be those of eventfds and pipes, which are never in such a state.
    master("write,writev", &["EINTR"]),
    master("recvfrom,recvmsg", &["EAGAIN", "EINTR", "EIO"]),
    master("sendto,sendmsg", &["EAGAIN", "EINTR", "EPIPE"]),
    master("mmap", &["ENOMEM"]),
    master("?open,openat", &["EMFILE", "EIO"]),
    master("?eventfd2,?pipe2,?socketpair", &["EMFILE"]),
];

/// What came of one error of a case.
#[derive(Debug, Clone)]
struct Outcome {
    asked: u64,
    lost: u64,
    calls: usize,
    lines: usize,
    /// None if it is not as before.
    again: Option<Duration>,
    /// What is worth a word, though it may be well.
    remarks: Vec<&'static str>,
    well: bool,
}

/// One error under one class.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    class: &'static str,
    case: usize,
    error: &'static str,
    once: bool,
}

/// Every case that contains the word, under every class, each attempt on standard error as it is done, and at last the
/// table. Whether all went well.
pub(crate) fn run(filter: &str, write: bool) -> bool {
    let attempts: Vec<Attempt> =
        attempts().into_iter().filter(|attempt| attempt.name().contains(filter)).collect();
    if attempts.is_empty() {
        eprintln!("no row has that text");
        return false;
    }
    programs();
    let begin = Instant::now();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, attempt)) =
                    attempts.iter().enumerate().nth(next.fetch_add(1, Ordering::SeqCst))
                {
                    let Some(outcome) = attempt.run() else { return };
                    let done = next.load(Ordering::SeqCst).min(attempts.len());
                    eprintln!(
                        "{}: {outcome} ({done} of {}, {:.0?})",
                        attempt.name(),
                        attempts.len(),
                        begin.elapsed()
                    );
                    outcomes.lock().expect("nobody panicked").insert(number, outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("nobody panicked");
    if outcomes.len() < attempts.len() {
        return false;
    }
    let of = |case: usize, once: bool| {
        let which = move |attempt: &Attempt| attempt.case == case && attempt.once == once;
        attempts.iter().zip(outcomes.values()).filter(move |(attempt, _)| which(attempt))
    };
    let mut table = "| whose | call | errors | when | lost of asked | calls, at most | lines, at most | well again after, at most |\n\
         |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (number, case) in CASES.iter().enumerate() {
        for once in [true, false] {
            let Some(row) = row(case, once, &of(number, once).collect::<Vec<_>>()) else { continue };
            table.push_str(&row);
        }
    }
    table.push_str(&format!("\n{}; {}.\n", page::machine(), page::load_average()));
    page::print("faults", &table, write) && outcomes.values().all(|outcome| outcome.well)
}

fn attempts() -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for class in ["sync", "threaded", "poll"] {
        for (number, case) in CASES.iter().enumerate() {
            // The master is the same under every class.
            if case.whom == Whom::Master && class != "poll" {
                continue;
            }
            for error in case.errors {
                let attempt = |once| Attempt { class, case: number, error, once };
                attempts.extend([true, false].map(attempt));
            }
        }
    }
    attempts
}

/// The attempts of one case, once or always, as one row: sums, and the worst.
fn row(case: &Case, once: bool, attempts: &[(&Attempt, &Outcome)]) -> Option<String> {
    let all = || attempts.iter().map(|(_, outcome)| *outcome);
    let mut errors: Vec<&str> = Vec::new();
    for (attempt, _) in attempts {
        if !errors.contains(&attempt.error) {
            errors.push(attempt.error);
        }
    }
    let (calls, lines) = (all().map(|one| one.calls).max()?, all().map(|one| one.lines).max()?);
    let again = all().map(|one| one.again).max()?;
    let never = all().any(|one| one.again.is_none());
    Some(format!(
        "| {} | {} | {} | {} | {} of {} | {calls} | {lines} | {} |\n",
        case.whom.name(),
        case.calls.replace('?', "").replace(',', ", "),
        errors.join(", "),
        if once { "once" } else { "always" },
        all().map(|one| one.lost).sum::<u64>(),
        all().map(|one| one.asked).sum::<u64>(),
        again
            .filter(|_| !never)
            .map_or_else(|| "**never**".to_owned(), |time| format!("{:.1} s", time.as_secs_f64())),
    ))
}

impl Whom {
    fn name(self) -> &'static str {
        match self {
            Self::Worker => "the only worker",
            Self::OneOfTwo => "one of two workers",
            Self::Master => "the master and what it forks",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asked, lost, calls, lines, again, remarks, well } = self;
        write!(f, "lost {lost} of {asked}, {calls} calls, {lines} lines, ")?;
        match again {
            Some(time) => write!(f, "well again after {time:.1?}")?,
            None => f.write_str("not well again")?,
        }
        remarks.iter().try_for_each(|remark| write!(f, ", {remark}"))?;
        f.write_str(if *well { ": well" } else { ": **bad**" })
    }
}

impl Attempt {
    fn name(&self) -> String {
        let case = &CASES[self.case];
        let when = if self.once { "once" } else { "always" };
        format!(
            "{} | {} | {} | {} | {when}",
            self.class,
            case.whom.name(),
            case.calls.replace('?', ""),
            self.error
        )
    }

    /// None if this machine cannot do it.
    fn run(&self) -> Option<Outcome> {
        let case = &CASES[self.case];
        let site = Site::waiting("faults");
        let file = case.target == "/file";
        site.install(if file { programs().files() } else { programs().inspect(1) }, "app.so");
        let workers = if case.whom == Whom::OneOfTwo { 2 } else { 1 };
        let mut launch = site.launch().workers(workers).with(|settings| {
            settings
                .text("worker_class", self.class)
                .raw("threads", "4")
                .raw("timeout", "10")
                .raw("head_timeout", "5");
            if case.logs {
                settings.text("accesslog", "access.log");
            }
        });
        if file {
            site.directory("public");
            std::fs::write(site.join("public/file"), alphabet(300_000)).expect("a file");
            site.mine("public/file");
            launch = launch.with(|settings| _ = settings.append("[app.app]\nroot = \"public\"\n"));
        }
        let mut server = launch.start();
        server.expect_error("");
        let address = server.address().clone();
        let pid = match case.whom {
            Whom::Worker | Whom::OneOfTwo => server.workers()[0],
            Whom::Master => server.pid(),
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
        let when = if self.once { ":when=1" } else { "" };
        let fault = Fault::begin(pid, case.calls, &format!("error={}{when}", self.error))?;
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
        let mut remarks = Vec::new();
        if case.whom != Whom::Master && !process::runs(pid) {
            remarks.push("worker replaced");
        }
        let again = recovers(&server, &address, case);
        let report = load.stop();
        let spins = calls > CALLS && !self.is_untrue();
        if spins {
            remarks.push("spins");
        }
        if lines > LINES {
            remarks.push("floods the log");
        }
        let ended = server.has_ended();
        if ended {
            remarks.push("the master has ended");
        }
        let well = again.is_some() && !spins && lines <= LINES && !ended;
        let lost = report.failures.len() as u64;
        let asked = report.answered() + lost;
        if !well {
            eprintln!("--- {}:\n{}", self.name(), server.log());
        }
        if !ended {
            server.finish();
        }
        Some(Outcome { asked, lost, calls, lines, again, remarks, well })
    }

    /// What asks for nothing but the next attempt, at once: that the call was interrupted, and that there is nobody, or no
    /// room, although the kernel has just called the descriptor ready.
    fn is_untrue(&self) -> bool {
        let ready = ["accept4", "read", "sendto,sendmsg", "sendfile"].contains(&CASES[self.case].calls);
        !self.once && (self.error == "EINTR" || self.error == "EAGAIN" && ready)
    }
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
