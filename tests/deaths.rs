//! A worker that dies is explained in one line: by what, of which generation, in which library, with what in its hands.
//!
//! Owns that line. Crashes whose library is named are in `supervise.rs`. What a newcomer would get wrong: nothing here
//! says "out of memory", because nobody's memory was out; a kill is not a reason.

use harness::{
    Connection, Signal, Site, process, programs, under_each_class, under_each_with_threads, wait_for,
};

#[test]
fn the_oldest_request_of_a_killed_worker_is_named_and_the_others_are_counted() {
    under_each_with_threads(|class| {
        let site = Site::new("death");
        site.install(programs().inspect(1), "app.so");
        let mut server = site.launch().class(class).settings(&[("threads", "4")]).start();
        let old = server.workers()[0];
        let mut connections = Vec::new();
        for (begun, target) in
            ["/sleep?ms=60000&first", "/sleep?ms=60000", "/sleep?ms=60000"].iter().enumerate()
        {
            let mut connection = Connection::open(server.address()).expect("it listens");
            connection.send_get(target).expect("it reads");
            connections.push(connection);
            // Its place in the order is the test's subject.
            wait_for("the request to be at work", || process::sleeping_threads(old, "nanosleep") > begun);
        }
        process::send(old, Signal::SIGKILL);
        let line = server.wait_log("was sent SIGKILL!");
        for part in [
            &format!("Worker (pid:{old})"),
            "generation 1, age 1, while serving",
            "in GET /sleep?ms=60000&first for",
            "and 2 others",
        ] {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
        server.expect_error("SIGKILL");
        server.finish();
    });
}

#[test]
fn a_kill_alone_is_not_taken_for_a_lack_of_memory() {
    under_each_class(|class| {
        let site = Site::new("no_oom");
        site.install(programs().inspect(1), "app.so");
        let mut server = site.launch().class(class).start();
        process::send(server.workers()[0], Signal::SIGKILL);
        let line = server.wait_log("was sent SIGKILL!");
        assert!(!line.contains("memory"), "{line}");
        server.wait_workers(1);
        server.expect_error("SIGKILL");
        server.finish();
    });
}

#[test]
fn an_exit_is_told_with_its_code_and_its_request() {
    let site = Site::new("exit");
    site.install(programs().inspect(1), "app.so");
    let mut server = site.launch().start();
    let old: i32 = server.text("/pid").parse().expect("a pid");
    let _ = server.address().get("/exit?code=7");
    let line = server.wait_log("exited with code 7");
    for part in [&format!("Worker (pid:{old})"), "generation 1, age 1", "in GET /exit?code=7 for"] {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    server.expect_error("code 7");
    server.finish();
}
