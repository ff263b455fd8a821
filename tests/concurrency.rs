//! How many requests a worker serves at once, and who holds up whom.
//!
//! That requests run at once is proven by letting them meet (`fx_crowd`); that one has to wait, by the least time it
//! can have taken. What a newcomer would get wrong: an upper bound on time proves little on a busy machine; those here
//! are ten times what is expected, and what was measured is printed.

use std::thread;
use std::time::{Duration, Instant};

use harness::{
    Address, Class, Connection, Pace, Server, Site, process, programs, under_each_class,
    under_each_that_keeps_alive, under_each_with_threads, wait_for,
};

/// A server with `inspect`, or with an application of `fx_crowd`.
fn launch<'s>(
    site: &'s Site,
    class: Class,
    application: Option<&str>,
    settings: &[(&str, &str)],
) -> Server<'s> {
    match application {
        None => site.install(programs().inspect(1), "app.so"),
        Some(_) => site.install(programs().fixture("crowd"), "app.so"),
    }
    let launch = site.launch().class(class).workers(1).everywhere().with(|file| {
        file.text("application", &format!("app.so:{}", application.unwrap_or("app")));
    });
    launch.settings(settings).start()
}

/// So many GETs of a target, each on a connection of its own, all at once: the bodies, and when each had come, in order
/// of coming.
fn at_once(address: &Address, count: usize, target: &str) -> Vec<(Duration, String)> {
    let begin = Instant::now();
    let mut answers: Vec<(Duration, String)> = thread::scope(|scope| {
        let asking: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    let answer = address.get(target).unwrap_or_else(|failure| panic!("{target}: {failure}"));
                    (begin.elapsed(), answer.text())
                })
            })
            .collect();
        asking.into_iter().map(|asked| asked.join().expect("no panic")).collect()
    });
    answers.sort();
    answers
}

#[test]
fn as_many_run_at_once_as_there_are_threads() {
    under_each_with_threads(|class| {
        let site = Site::new("meet");
        for threads in [1, 4, 16] {
            let server = launch(&site, class, Some("blocking"), &[("threads", &threads.to_string())]);
            for address in server.addresses() {
                for (time, text) in at_once(address, threads * 2, &format!("/meet?n={threads}")) {
                    assert_eq!(text, "met", "after {time:?} with {threads} threads");
                }
            }
            server.finish();
        }
    });
}

#[test]
fn four_sleep_at_once_and_a_fifth_waits() {
    under_each_with_threads(|class| {
        let site = Site::new("sleep");
        let server = launch(&site, class, None, &[("threads", "4")]);
        for address in server.addresses() {
            let four = at_once(address, 4, "/sleep?ms=400");
            eprintln!("{}: four sleeps of 400 ms took {:.1?}", class.name, four[3].0);
            assert!(four[3].0 < Duration::from_secs(4), "{four:?}");
            let five = at_once(address, 5, "/sleep?ms=400");
            eprintln!("{}: five sleeps of 400 ms took {:.1?}", class.name, five[4].0);
            assert!(five[4].0 >= Duration::from_millis(800), "five ran at once: {five:?}");
            assert!(five[4].0 < Duration::from_secs(8), "{five:?}");
        }
        server.finish();
    });
}

#[test]
fn one_thread_serves_one_after_the_other() {
    under_each_class(|class| {
        let site = Site::new("in_turn");
        let server = launch(&site, class, None, &[("threads", "1")]);
        for address in server.addresses() {
            for target in ["/sleep?ms=200", "/busy?ms=200"] {
                let three = at_once(address, 3, target);
                assert!(three[2].0 >= Duration::from_millis(600), "{target} with one thread: {three:?}");
            }
        }
        server.finish();
    });
}

#[test]
fn hundreds_of_futures_wait_at_once() {
    under_each_class(|class| {
        let count = if class.futures { 300 } else { 1 };
        let site = Site::new("futures");
        let server = launch(&site, class, Some("async"), &[("threads", "2")]);
        for address in server.addresses() {
            let begin = Instant::now();
            let mut waiting: Vec<Connection> = (0..count)
                .map(|_| {
                    let mut connection = Connection::open(address).expect("it listens");
                    connection.send_get(&format!("/meet?n={count}")).expect("it reads");
                    connection
                })
                .collect();
            for connection in &mut waiting {
                assert_eq!(connection.read_response().expect("an answer").text(), "met");
            }
            eprintln!("{}: {count} futures met within {:.1?}", class.name, begin.elapsed());
        }
        server.finish();
    });
}

/// One thread is enough for any number of clients that are slow to speak.
#[test]
fn who_says_nothing_or_half_a_thing_disturbs_nobody() {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("idlers");
        let server =
            launch(&site, class, None, &[("threads", "1"), ("keepalive", "60"), ("head_timeout", "60")]);
        let said = [
            "",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Half",
            "GET /version HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /version HTTP/1.1\r\nHost: a\r\n\r\nGET /ver",
        ];
        let open = || process::sockets(server.workers()[0]).len();
        let before = open();
        for address in server.addresses() {
            wait_for("nobody to be there", || open() == before);
            let idlers: Vec<Connection> = (0..200)
                .map(|number| {
                    let mut connection = Connection::open(address).expect("it listens");
                    connection.send(said[number % said.len()].as_bytes()).expect("it reads");
                    connection
                })
                .collect();
            wait_for("all idlers to be accepted", || open() >= before + idlers.len());
            let begin = Instant::now();
            for _ in 0..100 {
                assert_eq!(address.get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
            }
            let time = begin.elapsed();
            eprintln!("{}: 100 requests beside 200 idlers took {time:.1?}", class.name);
            assert!(time < Duration::from_secs(10), "{time:?}");
        }
        server.finish();
    });
}

/// A thread that waits for its client lends its place.
#[test]
fn a_slow_body_and_a_slow_reader_occupy_no_place() {
    under_each_with_threads(|class| {
        let site = Site::new("lending");
        let server =
            launch(&site, class, None, &[("threads", "1"), ("body_timeout", "60"), ("write_timeout", "60")]);
        for address in server.addresses() {
            let slow: Vec<Connection> = (0..10)
                .map(|number| {
                    let mut connection = Connection::open(address).expect("it listens");
                    let request = match number % 3 {
                        0 => "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
                        1 => "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf",
                        _ => "GET /large?bytes=30000000 HTTP/1.1\r\nHost: a\r\n\r\n",
                    };
                    connection.send(request.as_bytes()).expect("it reads");
                    if number % 3 == 2 {
                        connection.wait_for_octets(1).expect("the beginning of an answer");
                    }
                    connection
                })
                .collect();
            let begin = Instant::now();
            for _ in 0..20 {
                assert_eq!(address.get("/version").expect("an answer").text(), "INSPECT-VERSION:1");
            }
            let time = begin.elapsed();
            eprintln!("{}: 20 requests beside 10 slow clients took {time:.1?}", class.name);
            assert!(time < Duration::from_secs(10), "{time:?}");
            // They are slow, not lost.
            for (number, mut connection) in slow.into_iter().enumerate() {
                let rest: &[u8] = match number % 3 {
                    0 => b" done!",
                    1 => b"\r\n0\r\n\r\n",
                    _ => b"",
                };
                connection.send_at(rest, Pace::Pieces(1)).expect("it reads");
                let answer = connection.read_response().expect("an answer");
                assert!(answer.status == 200 && !answer.body.is_empty(), "{}", answer.status);
            }
        }
        server.finish();
    });
}

/// What runs on threads must not hold up what runs on the loop, nor idle clients.
#[test]
fn a_full_pool_still_takes_and_keeps_connections() {
    under_each_with_threads(|class| {
        let site = Site::new("full_pool");
        let server = launch(&site, class, None, &[("threads", "2"), ("head_timeout", "1")]);
        for address in server.addresses() {
            let mut sleepers: Vec<Connection> = (0..2)
                .map(|_| {
                    let mut connection = Connection::open(address).expect("it listens");
                    connection.send_get("/sleep?ms=3000").expect("it reads");
                    connection
                })
                .collect();
            // A half-sent head has its time although every thread is at work.
            let begin = Instant::now();
            let mut half = Connection::open(address).expect("it listens");
            half.send(b"GET / HTT").expect("it reads");
            assert_eq!(half.read_response().expect("an answer").status, 408);
            let time = begin.elapsed();
            assert!(time < Duration::from_millis(2900), "it waited for a thread: {time:?}");
            for sleeper in &mut sleepers {
                assert_eq!(sleeper.read_response().expect("an answer").text(), "slept");
            }
        }
        server.finish();
    });
}
