//! What an application can do with an exchange, between two libraries that were built apart: each worker class and
//! `libfx_exchange.so`, once async and once blocking.
//!
//! Where no answer can tell what happened, the application's trace does: a line for each event in a file. What a
//! newcomer would get wrong: lines of several processes are in one trace, so a line is looked for, never counted on
//! being the last.

use std::time::{Duration, Instant};

use harness::{
    Address, Class, Connection, Failure, Pace, Server, Signal, Site, process, programs, under_each_class,
    under_each_that_keeps_alive, wait_for,
};

const BOTH: [&str; 2] = ["app", "blocking"];

/// Tries something with both applications under each class.
#[track_caller]
fn with_both_under_each_class(test: impl Fn(Class, &str)) {
    under_each_class(|class| {
        for name in BOTH {
            eprintln!("the application is {name}");
            test(class, name);
        }
    });
}

/// A server with one of the two applications, and a connection for each request; its trace is `trace`, and the file it
/// sends is `file`.
fn launch<'s>(site: &'s Site, class: Class, name: &str, settings: &[(&str, &str)]) -> Server<'s> {
    site.install(programs().fixture("exchange"), "fx.so");
    site.write("trace", "");
    let launch = site.launch().class(class).workers(1).everywhere().with(|file| {
        let variable = |name: &str, path: &str| format!("{name}={}", site.join(path).display());
        file.text("application", &format!("fx.so:{name}"));
        file.list("raw_env", &[variable("FX_TRACE", "trace"), variable("FX_FILE", "file")]);
    });
    launch.settings(&[("keepalive", "0")]).settings(settings).start()
}

fn traced(site: &Site, line: &str) -> usize {
    site.read("trace").lines().filter(|found| *found == line).count()
}

#[track_caller]
fn wait_traced(site: &Site, line: &str, times: usize) {
    wait_for(&format!("{times} times {line:?} in the trace"), || traced(site, line) >= times);
    assert_eq!(traced(site, line), times, "{line}");
}

/// The lines of one process, as (word, application).
fn life_of(site: &Site, pid: i32) -> Vec<String> {
    let trace = site.read("trace");
    trace
        .lines()
        .filter(|line| line.contains(&format!("pid={pid} ")))
        .map(|line| line.split(' ').next().unwrap_or("").to_owned())
        .collect()
}

#[track_caller]
fn open(address: &Address, request: &str) -> Connection {
    let mut connection = Connection::open(address).expect("it listens");
    connection.send(request.as_bytes()).expect("it reads");
    connection
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Leaves in a way that leaves no doubt: over TCP one who only closes may still want to read.
fn leave(connection: Connection, address: &Address) {
    match address {
        Address::Tcp(_) => connection.reset(),
        Address::Unix(_) => drop(connection),
    }
}

/// Adler-32, RFC 1950 section 8.2.
fn checksum(octets: &[u8]) -> String {
    let (low, high) = octets.iter().fold((1_u32, 0_u32), |(low, high), octet| {
        let low = (low + u32::from(*octet)) % 65521;
        (low, (high + low) % 65521)
    });
    format!("{:08x}", high << 16 | low)
}

#[test]
fn a_future_is_woken_from_another_thread() {
    under_each_class(|class| {
        let site = Site::new("pending");
        let server = launch(&site, class, "app", &[]);
        for address in server.addresses() {
            let begin = Instant::now();
            for _ in 0..20 {
                assert_eq!(address.get("/pending").expect("an answer").text(), "woken");
            }
            let time = begin.elapsed();
            // 20 times 50 ms; one missed wake would cost a tick or more each.
            assert!(time >= Duration::from_secs(1), "{time:?}");
            eprintln!("20 wakes from another thread took {time:.1?} (wanted: 1 s)");
            assert!(time < Duration::from_secs(10), "{time:?}");
        }
        server.finish();
    });
}

#[test]
fn a_future_is_dropped_when_its_client_leaves() {
    under_each_class(|class| {
        let site = Site::new("cancelled");
        let server = launch(&site, class, "app", &[]);
        for (round, address) in server.addresses().iter().enumerate() {
            let worker = server.workers()[0];
            let connection = open(address, &get("/cancelled"));
            // A reset takes a request with it that was not read yet.
            wait_traced(&site, "at work", round + 1);
            assert_eq!(traced(&site, "cancelled"), round, "its client is still there");
            leave(connection, address);
            wait_traced(&site, "cancelled", round + 1);
            assert_eq!(address.get("/pending").expect("an answer").text(), "woken");
            assert_eq!(server.workers(), [worker]);
        }
        server.finish();
    });
}

/// Over a Unix socket the octets of who has left can still be read: head and end are one event then.
#[test]
fn a_client_that_leaves_with_its_head_is_noticed() {
    // All of it, on a connection that was idle; or its end.
    for begin in ["", "GET /cancelled HTTP/1.1\r\n"] {
        a_client_that_leaves_after(begin);
    }
}

fn a_client_that_leaves_after(begin: &str) {
    under_each_that_keeps_alive(|class| {
        let site = Site::new("left_early");
        let server = launch(&site, class, "app", &[]);
        let unix = server.addresses().iter().find(|address| matches!(address, Address::Unix(_)));
        let unix = unix.expect("a Unix socket");
        let worker = server.workers()[0];
        let idle = process::sockets(worker).len();
        let whole = "GET /cancelled HTTP/1.1\r\nHost: test\r\n\r\n";
        let end = whole.strip_prefix(begin).expect("its begin");
        let mut connection = open(unix, begin);
        wait_for("the worker to take the connection", || process::sockets(worker).len() > idle);
        // The loop has read the first line by the time it answers somebody else.
        assert_eq!(unix.get("/pending").expect("an answer").text(), "woken");
        process::send(worker, Signal::SIGSTOP);
        connection.send(end.as_bytes()).expect("there is room");
        drop(connection);
        process::send(worker, Signal::SIGCONT);
        wait_traced(&site, "cancelled", 1);
        server.finish();
    });
}

#[test]
fn a_future_can_wait_for_its_client_to_leave() {
    under_each_class(|class| {
        let site = Site::new("client_gone");
        let server = launch(&site, class, "app", &[]);
        for (round, address) in server.addresses().iter().enumerate() {
            let connection = open(address, &get("/client-gone"));
            wait_traced(&site, "waiting", round + 1);
            assert_eq!(traced(&site, "gone"), round);
            leave(connection, address);
            wait_traced(&site, "gone", round + 1);
            assert_eq!(address.get("/pending").expect("an answer").text(), "woken");
        }
        server.finish();
    });
}

#[test]
fn a_full_write_resumes_when_the_client_reads() {
    under_each_class(|class| {
        let site = Site::new("full");
        let server = launch(&site, class, "app", &[]);
        let size = 32 << 20;
        for address in server.addresses() {
            let mut connection = open(address, &get(&format!("/full?bytes={size}")));
            // The head comes with the first octets; behind them everything fills up. That nobody reads for a while is a
            // condition: the worker sleeps.
            let worker = server.workers()[0];
            let head = connection.read_head().expect("a head");
            assert_eq!(head.field("transfer-encoding"), Some("chunked"));
            wait_for("the worker to sleep", || {
                process::find(worker).is_some_and(|process| process.state == 'S')
            });
            let heard = connection.hear();
            assert_eq!(heard.end, Ok(()));
            // Head and body are apart already: this is chunks, and a trailer.
            let (body, trailer) = dechunk(&heard.octets);
            assert!(body.len() == size && body.iter().all(|octet| *octet == b'f'), "{} octets", body.len());
            let refusals: u64 =
                trailer.trim().strip_prefix("X-Refusals: ").expect("the trailer").parse().expect("a number");
            assert!(refusals > 0, "there was always room");
            wait_traced(&site, &format!("full {size} refusals {refusals}"), 1);
            eprintln!("{size} octets, {refusals} refusals");
            site.write("trace", "");
        }
        server.finish();
    });
}

/// Body and trailer section of a chunked body that is whole.
fn dechunk(octets: &[u8]) -> (Vec<u8>, String) {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let end = at + octets[at..].windows(2).position(|two| two == b"\r\n").expect("a chunk's size");
        let size = std::str::from_utf8(&octets[at..end]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|error| panic!("{error}: {size}"));
        at = end + 2;
        if size == 0 {
            let rest = String::from_utf8(octets[at..].to_vec()).expect("ASCII");
            assert!(
                rest == "\r\n" || rest.ends_with("\r\n\r\n") && rest.matches("\r\n\r\n").count() == 1,
                "{rest:?}"
            );
            return (body, rest);
        }
        body.extend_from_slice(&octets[at..at + size]);
        assert_eq!(&octets[at + size..at + size + 2], b"\r\n");
        at += size + 2;
    }
}

#[test]
fn a_file_is_sent_from_an_offset() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("sendfile");
        let file: Vec<u8> =
            (0..5_000_003_u32).map(|number| (number ^ number >> 8 ^ number >> 16) as u8).collect();
        site.write("file", &file);
        let server = launch(&site, class, name, &[]);
        for address in server.addresses() {
            let whole = address.get("/sendfile").expect("an answer");
            assert!(whole.body == file, "{} octets", whole.body.len());
            for (offset, length) in [(0, 1), (1, 0), (4097, 100_000), (4_999_999, 4), (77, 4_000_000)] {
                let part =
                    address.get(&format!("/sendfile?offset={offset}&length={length}")).expect("an answer");
                assert!(
                    part.body == file[offset..offset + length],
                    "{offset}, {length}: {}",
                    part.body.len()
                );
            }
            let rest = address.get("/sendfile?offset=5000000").expect("an answer");
            assert_eq!(rest.body, &file[5_000_000..]);
            // More than there is: what comes is true, and visibly not all.
            let more = address.get("/sendfile?offset=5000000&length=100");
            assert!(matches!(more, Err(Failure::Truncated(_))), "{more:?}");
            let head = open(address, &get("/sendfile").replacen("GET", "HEAD", 1)).hear();
            assert!(
                head.rest().is_empty() && head.head().contains("Content-Length: 5000003\r\n"),
                "{head:?}"
            );
        }
        let mut server = server;
        server.expect_error("/sendfile?offset=5000000&length=100");
        server.finish();
    });
}

#[test]
fn an_interim_answer_and_trailers() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("early");
        let server = launch(&site, class, name, &[]);
        for address in server.addresses() {
            for pace in [Pace::Whole, Pace::Pieces(1)] {
                let heard = address.converse(get("/early").as_bytes(), pace).expect("an answer");
                assert_eq!(
                    heard.head(),
                    "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
                );
                let mut rest = heard.rest();
                let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a second head") + 4;
                let head = String::from_utf8_lossy(&rest[..end]).into_owned();
                rest = &rest[end..];
                assert!(
                    head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nTrailer: X-Trailer\r\n"),
                    "{head}"
                );
                assert_eq!(dechunk(rest), (b"early".to_vec(), "X-Trailer: done\r\n\r\n".to_owned()));
                assert_eq!(heard.end, Ok(()));
            }
            let old = address.converse(b"GET /early HTTP/1.0\r\n\r\n", Pace::Whole).expect("an answer");
            assert!(old.head().starts_with("HTTP/1.1 200 ") && old.rest() == b"early", "{old:?}");
            let head = address
                .converse(get("/early").replacen("GET", "HEAD", 1).as_bytes(), Pace::Whole)
                .expect("an answer");
            assert!(
                head.head().starts_with("HTTP/1.1 103 ") && head.octets.ends_with(b"\r\n\r\n"),
                "{head:?}"
            );
            assert_eq!(String::from_utf8_lossy(&head.octets).matches("\r\n\r\n").count(), 2, "{head:?}");
        }
        server.finish();
    });
}

#[test]
fn trailers_of_a_request() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("trailers");
        let server = launch(&site, class, name, &[]);
        let request = "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n";
        for address in server.addresses() {
            for pace in [Pace::Whole, Pace::Pieces(1)] {
                let answer =
                    address.converse(request.as_bytes(), pace).and_then(|heard| heard.response("POST"));
                assert_eq!(answer.expect("an answer").text().to_lowercase(), "x-one: 1\nx-two: 2\n");
            }
        }
        server.finish();
    });
}

const UPGRADE: &str = "GET /echo-upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

#[track_caller]
fn switched(connection: &mut Connection) {
    let head = connection.read_head().expect("a head");
    assert_eq!((head.status, head.field("upgrade")), (101, Some("echo")), "{head:?}");
    assert!(head.field("content-length").is_none() && head.field("transfer-encoding").is_none(), "{head:?}");
}

#[test]
fn a_connection_taken_over_echoes() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("echo");
        let server = launch(&site, class, name, &[]);
        for (round, address) in server.addresses().iter().enumerate() {
            // The first message lies behind the head already.
            let mut connection = open(address, &format!("{UPGRADE}first"));
            switched(&mut connection);
            assert_eq!(connection.octets(5).expect("an echo"), b"first");
            for number in 0..500_u32 {
                let message = format!("message {number};").repeat(1 + number as usize % 50);
                connection.send(message.as_bytes()).expect("it reads");
                assert_eq!(connection.octets(message.len()).expect("an echo"), message.as_bytes());
            }
            let _ = connection.end_sending();
            connection.read_end().expect("its end");
            wait_traced(&site, "echo ended", round + 1);
        }
        server.finish();
    });
}

#[test]
fn a_connection_taken_over_ends_when_the_worker_drains() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("echo_term");
        let mut server = launch(&site, class, name, &[("graceful_timeout", "60")]);
        let mut connection = open(server.address(), UPGRADE);
        switched(&mut connection);
        connection.send(b"hello").expect("it reads");
        assert_eq!(connection.octets(5).expect("an echo"), b"hello");
        server.signal(Signal::SIGTERM);
        connection.read_end().expect("a good end");
        wait_traced(&site, "echo ended", 1);
        drop(connection);
        let (status, time) = server.wait_end();
        assert_eq!(status.code(), Some(0));
        eprintln!("{name}: the worker left {time:.1?} after its stream");
        assert!(time < Duration::from_secs(10), "{time:?}");
        server.check_log();
    });
}

/// No upgrade was asked for: an application that takes over all the same has made a mistake.
#[test]
fn nothing_is_taken_over_from_a_client_that_did_not_ask() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("no_upgrade");
        let mut server = launch(&site, class, name, &[]);
        for request in [get("/echo-upgrade"), UPGRADE.replace("HTTP/1.1", "HTTP/1.0")] {
            let answer = server
                .address()
                .converse(request.as_bytes(), Pace::Whole)
                .and_then(|heard| heard.response("GET"));
            assert_eq!(answer.expect("an answer").status, 500, "{request}");
        }
        server.expect_error("/echo-upgrade");
        server.expect_error("pgrade");
        server.expect_error("the application failed: the status or a header field may not be sent");
        server.finish();
    });
}

#[test]
fn the_life_of_an_application() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("life");
        let mut server = launch(&site, class, name, &[]);
        let old = server.workers()[0];
        wait_for("the worker to be ready", || life_of(&site, old) == ["start", "ready"]);
        let line = site.read("trace").lines().rfind(|line| line.starts_with("ready")).map(str::to_owned);
        assert_eq!(line, Some(format!("ready pid={old} app={name}")));
        server.reload_well();
        let whole = ["start", "ready", "drain", "shutdown", "dropped"];
        wait_for("the old worker's end in the trace", || life_of(&site, old) == whole);
        let new = server.workers()[0];
        wait_for("the new worker to be ready", || life_of(&site, new) == ["start", "ready"]);
        let (status, _) = server.stop(Signal::SIGTERM);
        assert_eq!(status.code(), Some(0));
        assert_eq!(life_of(&site, new), whole);
        server.check_log();
        // The probe created applications too, and nobody kept them.
        let trace = site.read("trace");
        assert!(trace.lines().all(|line| line.ends_with(&format!("app={name}"))), "{trace}");
        for pid in trace
            .lines()
            .filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("pid=")?.parse().ok()))
        {
            assert!(!life_of(&site, pid).is_empty());
            assert_eq!(
                life_of(&site, pid).iter().filter(|word| *word == "dropped").count(),
                1,
                "{pid}: {trace}"
            );
        }
    });
}

#[test]
fn an_expired_request_is_told_and_the_server_goes_on() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("expire");
        let mut server = launch(&site, class, name, &[("request_timeout", "1")]);
        let old = server.workers()[0];
        let begin = Instant::now();
        let answer = server.address().get("/expire");
        let time = begin.elapsed();
        eprintln!("{name}: expired after {time:.1?} (wanted: 1 s): {answer:?}");
        assert!(time > Duration::from_millis(900) && time < Duration::from_secs(10), "{time:?}");
        if name == "blocking" {
            wait_traced(&site, "expired", 1);
        }
        // It let go in time: only a worker that is stuck is replaced.
        assert_eq!(server.workers(), [old]);
        let answer = server.address().get("/early").expect("an answer");
        assert_eq!(answer.text(), "early");
        for text in ["/expire", "request_timeout", "expired"] {
            server.expect_error(text);
        }
        server.finish();
    });
}

#[test]
fn a_slow_upload_is_held_back_and_arrives_whole() {
    with_both_under_each_class(|class, name| {
        let site = Site::new("upload");
        let server = launch(&site, class, name, &[]);
        let body: Vec<u8> =
            (0..8_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for address in server.addresses() {
            let mut connection = Connection::open(address).expect("it listens");
            let head = format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            connection.send(head.as_bytes()).expect("it reads");
            connection.send(&body).expect("it reads");
            let answer = connection.read_response().expect("an answer");
            assert_eq!(answer.text(), format!("{} {}", body.len(), checksum(&body)));
            connection.read_end().expect("its end");

            let part = &body[..600_000];
            let mut request =
                b"POST /upload?pause=2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in part.chunks(10_007) {
                request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                request.extend_from_slice(piece);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
            let begin = Instant::now();
            let answer =
                address.converse(&request, Pace::Pieces(50_000)).and_then(|heard| heard.response("POST"));
            assert_eq!(answer.expect("an answer").text(), format!("{} {}", part.len(), checksum(part)));
            // At most 4096 octets and at least 2 ms each.
            assert!(begin.elapsed() > Duration::from_millis(2 * 600_000 / 4096), "{:?}", begin.elapsed());
        }
        // Back-pressure: what a client can send while the application rests is bounded by the kernel's buffers.
        let mut connection = Connection::open(server.address()).expect("it listens");
        let size = 64 << 20;
        let head = format!("POST /upload?pause=1000 HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
        connection.send(head.as_bytes()).expect("it reads");
        let mut hand = connection.duplicate();
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = sent.clone();
        let sending = std::thread::spawn(move || {
            let piece = vec![b'p'; 64 * 1024];
            while hand.send(&piece).is_ok() {
                count.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
            }
        });
        let sent = || sent.load(std::sync::atomic::Ordering::SeqCst);
        // Stuck is when nothing more went out for a second.
        let mut last = (0, Instant::now());
        wait_for("the client to be held back", || {
            if sent() != last.0 {
                last = (sent(), Instant::now());
            }
            last.1.elapsed() > Duration::from_secs(1)
        });
        eprintln!("{name}: held back after {} octets", sent());
        assert!(sent() < size / 2, "{} octets went out", sent());
        let mut server = server;
        // The application is told when it next reads that the client has gone.
        let _ = connection.end_sending();
        server.signal(Signal::SIGQUIT);
        let _ = server.wait_end();
        drop(connection);
        sending.join().expect("no panic");
    });
}

#[test]
fn a_panic_in_a_future_is_one_500() {
    under_each_class(|class| {
        let site = Site::new("panics");
        let mut server = launch(&site, class, "app", &[]);
        let worker = server.workers();
        for (target, message) in
            [("/panic", "fx_exchange: asked to panic"), ("/panic-later", "fx_exchange: asked to panic later")]
        {
            for address in server.addresses() {
                assert_eq!(address.get(target).expect("an answer").status, 500, "{target}");
            }
            wait_for("message and place in the log", || {
                server
                    .messages("asynchronous.rs:")
                    .iter()
                    .any(|line| line.ends_with(message) || line.contains(&format!("{message} ")))
                    || server.log().contains(message) && server.log().contains("asynchronous.rs:")
            });
        }
        assert_eq!(server.get("/pending").text(), "woken");
        assert_eq!(server.workers(), worker);
        server.expect_error("asked to panic");
        server.expect_error("the application panicked");
        server.finish();
    });
}

#[test]
fn what_is_kept_after_the_end_is_of_no_use() {
    under_each_class(|class| {
        let site = Site::new("late");
        let mut server = launch(&site, class, "app", &[]);
        for (round, address) in server.addresses().iter().enumerate() {
            assert_eq!(address.get("/spawn-late").expect("an answer").status, 500);
            wait_traced(&site, "late Misuse", round + 1);
            assert_eq!(address.get("/pending").expect("an answer").text(), "woken");
        }
        server.expect_error("without an answer");
        server.finish();
    });
}

// Several applications.

#[test]
fn three_names_in_one_library() {
    under_each_class(|class| {
        let site = Site::new("names");
        site.install(programs().fixture("two_names"), "names.so");
        for name in ["first", "second", "third"] {
            let server = site
                .launch()
                .class(class)
                .with(|file| _ = file.text("application", &format!("names.so:{name}")))
                .start();
            assert_eq!(server.text("/"), name);
            assert_eq!(server.text("/x?y"), name);
            server.finish();
        }
        for (application, name) in
            [("names.so:fourth", "fourth"), ("names.so", "app"), ("names.so:app", "app")]
        {
            let ended = site
                .launch()
                .class(class)
                .with(|file| _ = file.text("application", application))
                .start_in_vain();
            assert_eq!(ended.status.code(), Some(4), "{}", ended.stderr);
            for words in ["names.so", &format!("no application named '{name}'"), "first", "second", "third"] {
                assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
            }
            assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            assert_eq!(ended.processes, []);
        }
    });
}

#[test]
fn applications_are_mounted_at_prefixes() {
    under_each_class(|class| {
        let site = Site::new("mounts");
        site.install(programs().fixture("two_names"), "names.so");
        site.install(programs().inspect(1), "app.so");
        let server = site
            .launch()
            .class(class)
            .settings(&[("keepalive", "0")])
            .args(&[
                "--mount",
                "/one=names.so:first",
                "--mount",
                "/one/deep=names.so:third",
                "--mount",
                "/two=names.so:second",
            ])
            .start();
        for (target, text) in [
            ("/one", "first"),
            ("/one/", "first"),
            ("/one?query", "first"),
            ("/one/other/path", "first"),
            ("/one/deep", "third"),
            ("/one/deep/er", "third"),
            ("/one/deeper", "first"),
            ("/two/x", "second"),
            ("/version", "INSPECT-VERSION:1"),
        ] {
            assert_eq!(server.text(target), text, "{target}");
        }
        for target in ["/oneself", "/", "/tw", "/ONE"] {
            assert!(server.text(target).contains(&format!(r#""target":"{target}""#)), "{target}");
        }
        let absolute =
            server.address().converse(b"GET http://a/two/x HTTP/1.1\r\nHost: a\r\n\r\n", Pace::Whole);
        assert_eq!(absolute.and_then(|heard| heard.response("GET")).expect("an answer").text(), "second");
        server.finish();

        // Nothing at the root: what belongs to nobody is not found.
        let server = site.launch().class(class).with(|file| {
            file.remove("application").list("mount", &["/one=names.so:first"]);
        });
        let server = server.start();
        assert_eq!(server.text("/one"), "first");
        for target in ["/", "/oneself", "/two"] {
            assert_eq!(server.get(target).status, 404, "{target}");
        }
        server.finish();

        for (mounts, words) in [
            (&["one=names.so:first"][..], "one=names.so:first"),
            (&["/one"][..], "PREFIX=APP"),
            (&["/one=names.so:first", "/one=names.so:second"][..], "second application at the same prefix"),
        ] {
            let ended =
                site.launch().class(class).with(|file| _ = file.list("mount", mounts)).start_in_vain();
            assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains(words), "{}", ended.stderr);
        }
    });
}
