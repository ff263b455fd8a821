//! Every way for the master to end, in one table: no process and no listening socket is left, and, unless it was killed
//! outright, no pid file, no Unix socket file and no image.
//!
//! Owns the two tables. What a failed start says is in `boot.rs`. What a newcomer would get wrong: kill -9 leaves files,
//! and nothing can be done about that; the next start recognises and replaces them, which is looked at here as well.

use std::any::Any;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use harness::{
    Address, Class, Connection, DEADLINE, Failure, Launch, Server, Signal, Site, process, programs,
    under_all_classes_at_a_time, wait_for, within,
};

/// How long whatever was begun before the end goes on by itself.
const STUCK: &str = "/sleep?ms=60000";

/// The end of a server that serves.
struct Ending {
    what: &'static str,
    /// What is under way when it comes; what is returned is kept until it is over.
    before: fn(&mut Server<'_>) -> Box<dyn Any>,
    end: fn(&Server<'_>),
    /// An error in the log that belongs to it.
    error: Option<&'static str>,
}

const ENDINGS: &[Ending] = &[
    Ending { what: "TERM", before: nothing, end: |server| server.signal(Signal::SIGTERM), error: None },
    Ending { what: "INT", before: nothing, end: |server| server.signal(Signal::SIGINT), error: None },
    Ending { what: "QUIT", before: nothing, end: |server| server.signal(Signal::SIGQUIT), error: None },
    Ending {
        what: "TERM, with a request that outlasts graceful_timeout",
        before: stuck,
        end: |server| server.signal(Signal::SIGTERM),
        error: None,
    },
    Ending {
        what: "INT, with a request at work",
        before: stuck,
        end: |server| server.signal(Signal::SIGINT),
        error: None,
    },
    Ending {
        what: "QUIT, with a worker that is stopped",
        before: stopped,
        end: |server| server.signal(Signal::SIGQUIT),
        error: None,
    },
    Ending {
        what: "TERM, while a reload's probe hangs",
        before: probing,
        end: |server| server.signal(Signal::SIGTERM),
        error: None,
    },
    Ending {
        what: "INT, while a reload's first worker boots",
        before: booting,
        end: |server| server.signal(Signal::SIGINT),
        error: None,
    },
    Ending {
        what: "TERM, after a reload was refused",
        before: refused,
        end: |server| server.signal(Signal::SIGTERM),
        error: Some("Reload refused"),
    },
    Ending {
        what: "TERM, after a reload whose old worker still drains",
        before: draining,
        end: |server| server.signal(Signal::SIGTERM),
        error: None,
    },
    Ending { what: "KILL", before: nothing, end: |server| server.signal(Signal::SIGKILL), error: None },
    Ending {
        what: "KILL, with a request at work",
        before: stuck,
        end: |server| server.signal(Signal::SIGKILL),
        error: None,
    },
    Ending {
        what: "KILL, with a worker that is stopped",
        before: stopped,
        end: |server| server.signal(Signal::SIGKILL),
        error: None,
    },
    Ending {
        what: "KILL, while a reload's probe hangs",
        before: probing,
        end: |server| server.signal(Signal::SIGKILL),
        error: None,
    },
    Ending {
        what: "KILL, while a reload's first worker boots",
        before: booting,
        end: |server| server.signal(Signal::SIGKILL),
        error: None,
    },
];

fn nothing(_: &mut Server<'_>) -> Box<dyn Any> {
    Box::new(())
}

fn stuck(server: &mut Server<'_>) -> Box<dyn Any> {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send_get(STUCK).expect("it reads");
    wait_for("the request to be at work", || {
        server.workers().iter().any(|pid| process::sleeping_threads(*pid, "nanosleep") > 0)
    });
    Box::new(connection)
}

fn stopped(server: &mut Server<'_>) -> Box<dyn Any> {
    let worker = server.workers()[0];
    process::send(worker, Signal::SIGSTOP);
    wait_for("it to stop", || process::find(worker).is_some_and(|found| found.state == 'T'));
    Box::new(())
}

fn reloading(server: &mut Server<'_>, init: &str) {
    let children = server.children();
    server.configure(|settings| _ = settings.init(init));
    server.signal(Signal::SIGHUP);
    wait_for("its new child to hang", || {
        let new = server.children().into_iter().filter(|pid| !children.contains(pid));
        new.into_iter().any(|pid| process::sleeping_threads(pid, "nanosleep") > 0)
    });
}

fn probing(server: &mut Server<'_>) -> Box<dyn Any> {
    reloading(server, "sleep:60000");
    Box::new(())
}

fn booting(server: &mut Server<'_>) -> Box<dyn Any> {
    reloading(server, "probe-ok:sleep:60000");
    Box::new(())
}

fn refused(server: &mut Server<'_>) -> Box<dyn Any> {
    server.configure(|settings| _ = settings.init("fail"));
    let verdict = server.reload();
    assert!(verdict.starts_with("Reload refused"), "{verdict}");
    Box::new(())
}

fn draining(server: &mut Server<'_>) -> Box<dyn Any> {
    let busy = stuck(server);
    let verdict = server.reload();
    assert!(verdict.starts_with("Reloaded: "), "{verdict}");
    busy
}

fn launch<'s>(site: &'s Site, class: Class) -> Launch<'s> {
    site.launch()
        .class(class)
        .workers(2)
        .everywhere()
        .pidfile()
        .settings(&[("graceful_timeout", "1"), ("timeout", "60")])
}

#[test]
fn whatever_ends_a_server_that_serves() {
    under_all_classes_at_a_time(|class| ENDINGS.iter().for_each(|ending| end(class, ending)));
}

fn end(class: Class, ending: &Ending) {
    let site = Site::new("ending");
    site.install(programs().inspect(1), "app.so");
    let mut server = launch(&site, class).start();
    let port = server.address().port();
    // A worker that had to leave at once, with something in its hands, may say so.
    server.expect_error("Worker (pid:");
    ending.error.iter().for_each(|error| server.expect_error(error));
    let under_way = (ending.before)(&mut server);
    let images = site.leftovers();
    assert!(images.iter().any(|path| path.extension().is_some_and(|end| end == "so")), "{images:?}");
    (ending.end)(&server);
    let (status, _) = server.wait_end();
    let killed = ending.what.starts_with("KILL");
    assert_eq!(status.code(), if killed { None } else { Some(0) }, "{}: {status}", ending.what);

    let gone = || process::group(server.pid()).is_empty() && process::listening(port).is_empty();
    // A probe that nobody waits for any more is in nobody's group: it is gone before the master.
    // Of one that was killed nothing is left within a second, or ten on a busy machine.
    let limit = Duration::from_secs(if killed { 10 } else { 1 });
    let time = within(DEADLINE, gone);
    assert!(time.is_some_and(|time| time <= limit), "{}: {time:?}", ending.what);
    for address in server.addresses() {
        assert_eq!(address.get("/version"), Err(Failure::Refused), "{}: {address:?}", ending.what);
    }
    server.check_log();
    drop(under_way);
    if !killed {
        assert_eq!(site.leftovers(), Vec::<PathBuf>::new(), "after {}", ending.what);
        return;
    }
    assert!(
        site.join("pid").exists() && site.join("server.sock").exists(),
        "nobody was there to remove them"
    );
    let server = launch(&site, class).start();
    assert_eq!(site.read("pid"), format!("{}\n", server.pid()));
    server.finish();
}

/// A start that fails, by how far it had come.
struct Failed {
    what: &'static str,
    exit_code: i32,
    arrange: fn(&Site, &mut harness::Settings) -> Box<dyn Any>,
}

fn with(change: impl FnOnce()) -> Box<dyn Any> {
    change();
    Box::new(())
}

const FAILED: &[Failed] = &[
    Failed {
        what: "the settings are wrong",
        exit_code: 1,
        arrange: |_, settings| with(|| _ = settings.raw("workers", "0")),
    },
    Failed {
        what: "the runtime directory cannot be made",
        exit_code: 1,
        arrange: |_, settings| with(|| _ = settings.text("runtime_dir", "/proc/images")),
    },
    Failed {
        what: "the application is missing, the runtime directory is made",
        exit_code: 4,
        arrange: |site, _| with(|| fs::remove_file(site.join("app.so")).expect("it is there")),
    },
    Failed {
        what: "the worker class is no library",
        exit_code: 3,
        arrange: |site, settings| {
            site.write("class.so", "no library");
            with(|| _ = settings.text("worker_class", "./class.so"))
        },
    },
    Failed {
        what: "the pid file has no directory",
        exit_code: 1,
        arrange: |_, settings| with(|| _ = settings.text("pidfile", "nowhere/pid")),
    },
    Failed {
        what: "the last of three addresses is taken, the others are bound",
        exit_code: 1,
        arrange: |_, settings| {
            let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = taken.local_addr().expect("it has one").port();
            settings.list("bind", &["unix:server.sock", "127.0.0.1:0", &format!("127.0.0.1:{port}")]);
            Box::new(taken)
        },
    },
    Failed {
        what: "the application cannot be created, in the probe",
        exit_code: 4,
        arrange: |_, settings| with(|| _ = settings.init("fail")),
    },
    Failed {
        what: "the probe is killed by what it loads",
        exit_code: 3,
        arrange: |_, settings| with(|| _ = settings.init("abort")),
    },
    Failed {
        what: "the probe hangs",
        exit_code: 3,
        arrange: |_, settings| with(|| _ = settings.init("hang").raw("boot_timeout", "1")),
    },
    Failed {
        what: "the first worker's application does not start",
        exit_code: 4,
        arrange: |_, settings| with(|| _ = settings.init("start:fail")),
    },
    Failed {
        what: "the first worker exits",
        exit_code: 3,
        arrange: |_, settings| with(|| _ = settings.init("probe-ok:exit:0")),
    },
    Failed {
        what: "the first worker hangs",
        exit_code: 3,
        arrange: |_, settings| with(|| _ = settings.init("probe-ok:hang").raw("boot_timeout", "2")),
    },
];

#[test]
fn whatever_fails_at_the_start() {
    for failed in FAILED {
        let site = Site::new("failed");
        site.install(programs().inspect(1), "app.so");
        let mut launch = site.launch().workers(2).everywhere().pidfile();
        let kept = (failed.arrange)(&site, &mut launch.settings);
        let ended = launch.start_in_vain();
        assert_eq!(ended.status.code(), Some(failed.exit_code), "{}: {}", failed.what, ended.stderr);
        assert_eq!(ended.processes, [], "{}", failed.what);
        assert_eq!(site.leftovers(), Vec::<PathBuf>::new(), "{}: {}", failed.what, ended.stderr);
        drop(kept);
    }
}

#[test]
fn whatever_signal_ends_a_start() {
    for (init, stage) in [("sleep:60000", "probe"), ("probe-ok:sleep:60000", "first worker")] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            let site = Site::new("start_ended");
            site.install(programs().inspect(1), "app.so");
            let launch = site.launch().everywhere().pidfile().with(|settings| _ = settings.init(init));
            let booting = |children: &[process::Process]| {
                let worker = site.read("error.log").contains("Booting worker") || stage == "probe";
                worker && children.iter().any(|child| process::sleeping_threads(child.pid, "nanosleep") > 0)
            };
            let (ended, time) = launch.start_and_stop(signal, booting);
            eprintln!(
                "{signal} during the boot of the {stage}: ended after {time:.1?} with {}",
                ended.status
            );
            assert!(time < Duration::from_secs(5), "{time:?}");
            assert_eq!(ended.processes, []);
            assert_eq!(site.leftovers(), Vec::<PathBuf>::new(), "{signal}, {stage}");
            let socket = Address::Unix(site.join("server.sock"));
            assert_eq!(socket.get("/"), Err(Failure::Refused));
        }
    }
}
