//! `examples/proxy`: what passes, what does not, and what a client hears of an upstream that fails.
//!
//! The upstream is `inspect` under a second server where an honest one is wanted, and otherwise a thread of the test
//! whose behaviour is the path; see [`Upstream`]. What a newcomer would get wrong: two servers need two sites, of which
//! there are only two at a time, so tests of this file take turns.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harness::classes::CLASSES;
use harness::{
    Address, Class, Connection, Failure, Load, Plan, Response, Server, Signal, Site, programs, sha256,
    stopped_at, under_each_class, upstream, wait_for,
};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// One test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A proxy with one worker in front of these, with more settings of its own.
fn proxy<'s>(site: &'s Site, class: Class, upstreams: &[SocketAddr], more: &str) -> Server<'s> {
    site.install(programs().example("proxy"), "app.so");
    let launch = site.launch().class(class).workers(1).with(|file| {
        file.text("application", "app.so:proxy").append(&table(upstreams, more));
    });
    launch.settings(&[("keepalive", "5")]).start()
}

fn table(upstreams: &[SocketAddr], more: &str) -> String {
    let upstreams: Vec<String> = upstreams.iter().map(|address| format!("\"http://{address}\"")).collect();
    format!("[app.proxy]\nupstreams = [{}]\n{more}\n", upstreams.join(", "))
}

fn tcp(server: &Server<'_>) -> SocketAddr {
    match server.address() {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("{} is no port", path.display()),
    }
}

/// A port on which nobody listens, and nobody else will while this is held.
fn nobody() -> (TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The accepted end has the port as its own, so that it is not given away once the listener is closed.
    let ours = TcpStream::connect(listener.local_addr().expect("its number")).expect("it listens");
    let (accepted, _) = listener.accept().expect("a client");
    drop(ours);
    let address = accepted.local_addr().expect("its number");
    (accepted, address)
}

// ---------------------------------------------------------------------------------------------------------------
// An honest upstream.

/// The upstream's view of a request.
struct Seen(Value);

impl Seen {
    fn of(answer: &Response) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        Self(serde_json::from_slice(&answer.body).expect("inspect's JSON"))
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    fn fields(&self) -> BTreeMap<String, Vec<String>> {
        let mut fields = BTreeMap::<String, Vec<String>>::new();
        for pair in self.0["headers"].as_array().expect("a list") {
            let text = |index: usize| pair[index].as_str().expect("a text").to_owned();
            fields.entry(text(0).to_ascii_lowercase()).or_default().push(text(1));
        }
        fields
    }
}

fn ask(server: &Server<'_>, octets: &[u8]) -> Response {
    let mut connection = Connection::open(server.address()).expect("it listens");
    connection.send(octets).expect("it reads");
    connection.read_response().expect("an answer")
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    for piece in body.chunks(size) {
        octets.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        octets.extend_from_slice(piece);
        octets.extend(b"\r\n");
    }
    octets
}

#[test]
fn every_kind_of_request_and_answer_passes() {
    let _turn = turn();
    let large: Vec<u8> = (0..8 * MIB).map(|index| ((index * index) >> 7) as u8).collect();
    let (site, behind) = (Site::new("honest"), Site::new("upstream"));
    behind.install(programs().inspect(1), "app.so");
    let upstream = behind.launch().class(CLASSES[2]).workers(2).start();
    under_each_class(|class| {
        let server = proxy(&site, class, &[tcp(&upstream)], "");
        let peer = format!("127.0.0.1:{}", server.address().port());

        // The head: what passes, what stays, what is added.
        let seen = Seen::of(&ask(
            &server,
            b"OPTIONS /a%2fb/../c?d=%20 HTTP/1.1\r\nHost: site.example\r\nX-Own: 1\r\nX-Own: 2\r\nVia: 1.0 first\r\n\
              Connection: x-secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: x\r\nTE: trailers\r\n\
              X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\n\
              X-Forwarded-Port: 1\r\nX-Forwarded-Server: a\r\nMax-Forwards: 3\r\n\r\n",
        ));
        assert_eq!((seen.text("method"), seen.text("target")), ("OPTIONS", "/a%2fb/../c?d=%20"));
        let fields = seen.fields();
        let field = |name: &str| fields.get(name).map(|values| values.join("|")).unwrap_or_default();
        assert_eq!(field("x-own"), "1|2");
        assert_eq!(
            (field("host"), field("x-forwarded-host")),
            (tcp(&upstream).to_string(), "site.example".into())
        );
        assert_eq!(
            (field("x-forwarded-for"), field("x-forwarded-proto")),
            ("127.0.0.1".into(), "http".into())
        );
        assert_eq!(field("via"), "1.0 first|1.1 rgunicorn");
        assert_eq!(field("max-forwards"), "2");
        for name in [
            "x-secret",
            "keep-alive",
            "te",
            "forwarded",
            "connection",
            "content-length",
            "x-real-ip",
            "x-forwarded-port",
            "x-forwarded-server",
        ] {
            assert_eq!(field(name), "", "{name}");
        }

        // Bodies to the upstream, of each framing.
        let put = |framing: &str, rest: &[u8]| {
            let head = format!("PUT /x HTTP/1.1\r\nHost: {peer}\r\n{framing}\r\n");
            Seen::of(&ask(&server, &[head.as_bytes(), rest].concat()))
        };
        for body in [&b""[..], b"hello", &large] {
            let seen = put(&format!("Content-Length: {}\r\n", body.len()), body);
            assert_eq!((&seen.0["body_len"], seen.text("body_sha256")), (&body.len().into(), &*sha256(body)));
            assert_eq!(seen.fields()["content-length"], [body.len().to_string()]);
            let rest = [&chunked(body, 70_001)[..], b"0\r\nX-Sum: 7\r\n\r\n"].concat();
            let seen = put("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n", &rest);
            assert_eq!((&seen.0["body_len"], seen.text("body_sha256")), (&body.len().into(), &*sha256(body)));
            assert!(!seen.fields().contains_key("content-length"));
            assert_eq!(seen.0["trailers"].to_string().to_ascii_lowercase(), r#"[["x-sum","7"]]"#);
        }
        // A body where few expect one, and one whose client waits to be asked for it.
        let get = b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        assert_eq!(Seen::of(&ask(&server, get)).0["body_len"], 2);
        let mut connection = Connection::open(server.address()).expect("it listens");
        let head = "PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        connection.send(head.as_bytes()).expect("it reads");
        assert_eq!(connection.read_head().expect("a head").status, 100);
        connection.send(b"hello").expect("it reads");
        let seen = Seen::of(&connection.read_response().expect("an answer"));
        assert!(seen.0["body_len"] == 5 && !seen.fields().contains_key("expect"), "{}", seen.0);

        // Answers of each framing.
        let answer = server.get("/large?bytes=8388608");
        let right = answer.body.iter().enumerate().all(|(at, octet)| *octet == b'a' + (at % 26) as u8);
        assert!(right && answer.body.len() == 8 * MIB, "{} octets", answer.body.len());
        assert_eq!(answer.field("content-length"), Some("8388608"));
        assert_eq!(answer.field("via"), Some("1.1 rgunicorn"));
        for name in ["date", "server", "via", "content-type"] {
            let count = answer.fields.iter().filter(|(ours, _)| ours.eq_ignore_ascii_case(name)).count();
            assert_eq!(count, 1, "{name}: {:?}", answer.fields);
        }
        let answer = server.get("/stream?n=200&size=5000");
        assert_eq!((answer.body.len(), answer.field("transfer-encoding")), (1_000_000, Some("chunked")));
        assert_eq!(ask(&server, b"GET /stream?n=3 HTTP/1.0\r\n\r\n").text(), "s".repeat(15));
        for status in [200, 201, 204, 304, 404, 500, 503] {
            let answer = server.get(&format!("/status/{status}"));
            assert_eq!(answer.status, status, "{answer:?}");
        }
        let mut connection = Connection::open(server.address()).expect("it listens");
        let head = "HEAD /large?bytes=7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        connection.send(head.as_bytes()).expect("it reads");
        let answer = connection.read_head().expect("a head");
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("7")));
        connection.read_end().expect("nothing behind it");
        assert_eq!(ask(&server, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status, 501);
        server.finish();
    });
    upstream.finish();
}

#[test]
fn a_swap_under_load_loses_nothing() {
    let _turn = turn();
    // The classes of the upstream: one that keeps connections, and one that does not.
    for (class, behind_class) in
        [(0, 2), (1, 0), (2, 2), (2, 1)].map(|(ours, other)| (CLASSES[ours], CLASSES[other]))
    {
        eprintln!("--- {} before {}", class.name, behind_class.name);
        let (site, behind) = (Site::new("swap"), Site::new("swap_upstream"));
        behind.install(programs().inspect(1), "app.so");
        let mut upstream = behind.launch().class(behind_class).workers(2).start();
        let server = proxy(&site, class, &[tcp(&upstream)], "");
        let plan = Plan::versions(4);
        let load = Load::start(
            server.address(),
            if class.keeps_alive { plan.kept(Duration::from_secs(5)) } else { plan },
        );
        for round in 0..4 {
            load.more(50);
            if round % 2 == 0 {
                server.reload_well();
            } else {
                behind.install(programs().inspect(2), "app.so");
                upstream.configure(|file| _ = file.raw("max_requests", &(100_000 + round).to_string()));
                upstream.reload_well();
            }
        }
        load.epoch(1);
        load.more(50);
        let report = load.stop();
        report.expect_flawless();
        assert_eq!(report.labels(1), ["2"]);
        server.finish();
        upstream.finish();
    }
}

// ---------------------------------------------------------------------------------------------------------------
// One that fails.

/// A server that behaves as the path says.
struct Upstream {
    address: SocketAddr,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    /// Octets that it has got rid of at `/endless`, or has taken at `/take`.
    moved: AtomicU64,
    /// Exchanges that wait for the caller to leave.
    waiting: AtomicUsize,
    /// Requests to `/closes`.
    asked: AtomicUsize,
    /// Whether `/take` shall read.
    takes: AtomicUsize,
}

impl Upstream {
    /// Begins to serve.
    fn start() -> Self {
        let told = Arc::<Told>::default();
        let theirs = Arc::clone(&told);
        Self { address: upstream::listen(move |stream| serve(stream, &theirs)), told }
    }
}

fn until_left(stream: &TcpStream, told: &Told) {
    told.waiting.fetch_add(1, Ordering::SeqCst);
    upstream::until_left(stream);
    told.waiting.fetch_sub(1, Ordering::SeqCst);
}

/// One request.
fn serve(mut stream: &TcpStream, told: &Told) {
    let Some(head) = upstream::head_of(stream) else { return };
    let head = head.to_ascii_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer: &[u8] = match path {
        "/well" => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close, X-Own\r\nX-Own: 1\r\nKeep-Alive: x\r\n\r\nwell",
        "/old" => b"HTTP/1.0 200 OK\r\n\r\nold",
        "/trailers" => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n"
        }
        "/two-lengths" => {
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        }
        "/early" => b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "/garbled" => b"SSH-2.0\r\n\r\n",
        "/half-head" => b"HTTP/1.1 200 OK\r\nContent-",
        "/half" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "/half-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "/unasked" => b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        "/closes" => {
            told.asked.fetch_add(1, Ordering::SeqCst);
            b""
        }
        "/never" => return until_left(stream, told),
        "/stalls" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            return until_left(stream, told);
        }
        "/endless" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            while let Ok(count) = stream.write(&[b'e'; 16 * 1024]) {
                told.moved.fetch_add(count as u64, Ordering::SeqCst);
            }
            return;
        }
        "/take" => {
            wait_for("the word to take", || told.takes.load(Ordering::SeqCst) > 0);
            let mut piece = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                told.moved.fetch_add(count as u64, Ordering::SeqCst);
            }
            return;
        }
        "/echo" if head.contains("\r\nupgrade: echo\r\n") && head.contains("\r\nconnection: upgrade\r\n") => {
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nready");
            let mut piece = [0; 1024];
            told.waiting.fetch_add(1, Ordering::SeqCst);
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                if piece.starts_with(b"bye") || stream.write_all(&piece[..count]).is_err() {
                    break;
                }
            }
            told.waiting.fetch_sub(1, Ordering::SeqCst);
            b""
        }
        "/echo" => b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n",
        other => panic!("an unknown path: {other}"),
    };
    upstream::end_with(stream, answer);
}

#[test]
fn what_an_upstream_says_of_its_connection_stays_there() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream) = (Site::new("answers"), Upstream::start());
        let server = proxy(&site, class, &[upstream.address], "name = \"front\"");
        let answer = server.get("/well");
        assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
        assert_eq!((answer.field("x-own"), answer.field("keep-alive")), (None, None));
        assert_eq!(answer.field("via"), Some("1.1 front"));
        assert_eq!(answer.closes(), !class.keeps_alive, "the upstream's end is not the client's");
        let answer = server.get("/old");
        assert_eq!((answer.text().as_str(), answer.field("via")), ("old", Some("1.0 front")));
        let answer = server.get("/trailers");
        assert_eq!(answer.text(), "hi");
        assert_eq!(answer.trailers.iter().map(|(_, sum)| sum.as_str()).collect::<Vec<_>>(), ["7"]);
        // A length beside chunks would make a half that looks whole.
        let answer = server.get("/two-lengths");
        assert_eq!((answer.text().as_str(), answer.field("content-length")), ("hello", None));
        // What is to go no further is answered here: the upstream would panic at such a path.
        for (request, status) in
            [("TRACE /further HTTP/1.1\r\n", 501), ("OPTIONS /further HTTP/1.1\r\nMax-Forwards: 0\r\n", 204)]
        {
            assert_eq!(ask(&server, format!("{request}Host: a\r\n\r\n").as_bytes()).status, status);
        }
        // An answer may come before the body has gone.
        let head = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
        assert_eq!(ask(&server, &[head.as_bytes(), &[b'x'; 1000]].concat()).status, 413);
        server.finish();
    });
}

#[test]
fn an_upstream_that_fails_is_told_to_the_client_and_to_the_log() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream) = (Site::new("fails"), Upstream::start());
        let mut server = proxy(&site, class, &[upstream.address], "upstream_timeout = 0.5");
        let worker = server.workers();
        let address = upstream.address;
        for (path, status, said) in [
            ("/garbled", 502, "invalid HTTP version"),
            ("/half-head", 502, "connection closed before message completed"),
            ("/closes", 502, "connection closed before message completed"),
            ("/unasked", 502, "it switches to a protocol that nobody asked for"),
            ("/never", 504, "nothing happened for 500ms"),
        ] {
            let answer = server.get(path);
            assert_eq!(
                (answer.status, answer.field("content-type")),
                (status, Some("text/plain; charset=utf-8")),
                "{path}"
            );
            let lines = server.messages(&format!("GET {path} at {address}: "));
            assert!(lines.len() == 1 && lines[0].contains(said), "{path}: {lines:?}");
            server.expect_error(&format!("GET {path} at {address}"));
        }
        // Once more where that does no harm, and only there.
        assert_eq!(upstream.told.asked.swap(0, Ordering::SeqCst), 2, "GET");
        for (request, times) in [
            ("DELETE /closes HTTP/1.1\r\nHost: a\r\n\r\n", 2),
            ("POST /closes HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 1),
            ("PUT /closes HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 1),
        ] {
            assert_eq!(ask(&server, request.as_bytes()).status, 502);
            assert_eq!(upstream.told.asked.swap(0, Ordering::SeqCst), times, "{request}");
        }
        server.expect_error("/closes at");
        // Half of an answer must not look like a whole one.
        for (path, said) in [
            ("/half", "the answer was cut short"),
            ("/half-chunk", "the answer was cut short"),
            ("/stalls", "the answer stood still for 500ms"),
        ] {
            let half = server.address().get(path);
            assert!(matches!(half, Err(Failure::Truncated(_) | Failure::Reset)), "{path}: {half:?}");
            server.wait_log(&format!("GET {path} at {address}: {said}"));
            server.expect_error(&format!("GET {path} at {address}"));
            server.expect_error(&format!("GET {path}"));
        }
        // One that takes nothing of a body.
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection
            .send(b"PUT /take HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
            .expect("it reads");
        let mut sender = connection.duplicate();
        let sending = std::thread::spawn(move || {
            let piece = vec![b'x'; MIB];
            while sender.send(&piece).is_ok() {}
        });
        assert_eq!(connection.read_head().expect("a head").status, 504);
        connection.reset();
        sending.join().expect("it has ended");
        server.expect_error("PUT /take at");
        upstream.told.takes.store(1, Ordering::SeqCst);
        // A client that is slow is not the upstream's fault.
        let mut connection = Connection::open(server.address()).expect("it listens");
        let moved = upstream.told.moved.load(Ordering::SeqCst);
        connection
            .send(b"PUT /take HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
            .expect("it reads");
        let begin = Instant::now();
        wait_for("half a body, and twice the time limit", || {
            upstream.told.moved.load(Ordering::SeqCst) >= moved + 4
                && begin.elapsed() > Duration::from_secs(1)
        });
        connection.send(b"the ot").expect("it reads");
        assert_eq!(connection.read_head().expect("a head").status, 504, "from now on it is the upstream's");
        connection.reset();

        assert_eq!(server.text("/well"), "well");
        assert_eq!(server.workers(), worker);
        server.finish();
    });
}

#[test]
fn a_client_that_leaves_takes_its_call_with_it() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream) = (Site::new("leaves"), Upstream::start());
        let server = proxy(&site, class, &[upstream.address], "");
        let waiting = || upstream.told.waiting.load(Ordering::SeqCst);
        for (path, body) in [("/never", ""), ("/stalls", ""), ("/never", "half")] {
            let mut connection = Connection::open(server.address()).expect("it listens");
            let length = if body.is_empty() { 0 } else { 1000 };
            let head = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
            connection.send(head.as_bytes()).expect("it reads");
            wait_for("the call", || waiting() == 1);
            if path == "/stalls" {
                assert_eq!(connection.read_head().expect("a head").status, 200);
            }
            connection.reset();
            wait_for("the call to be closed", || waiting() == 0);
        }
        assert_eq!(server.text("/well"), "well");
        server.finish();
    });
}

#[test]
fn who_is_slow_slows_the_other_end() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream) = (Site::new("pressure"), Upstream::start());
        let server = proxy(&site, class, &[upstream.address], "");
        let worker = server.workers()[0];
        assert_eq!(server.text("/well"), "well");
        let before = harness::usage::own_memory(worker);
        let moved = || upstream.told.moved.load(Ordering::SeqCst);
        let mut connection = Connection::open(server.address()).expect("it listens");
        connection.send_get("/endless").expect("it reads");
        assert_eq!(connection.read_head().expect("a head").status, 200);
        // It stands still when the buffers between the two are full, and not before.
        let stopped = stopped_at("the upstream to be stopped", moved);
        connection.octets(16 * MIB).expect("it goes on");
        assert!(moved() > stopped, "it goes on");
        connection.reset();

        let mut connection = Connection::open(server.address()).expect("it listens");
        connection
            .send(b"PUT /take HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
            .expect("it reads");
        let (sent, mut sender) = (Arc::<AtomicU64>::default(), connection.duplicate());
        let counted = Arc::clone(&sent);
        let sending = std::thread::spawn(move || {
            let piece = vec![b'x'; 50_000];
            for _ in 0..2000 {
                sender.send(&piece).expect("it reads");
                counted.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        });
        let stopped_too = stopped_at("the client to be stopped", || sent.load(Ordering::SeqCst));
        let memory = harness::usage::own_memory(worker).saturating_sub(before);
        eprintln!(
            "{}: {stopped} and {stopped_too} octets were under way, {memory} octets of memory",
            class.name
        );
        // Two connections' worth of what the kernel buffers at most (tcp_wmem, tcp_rmem), and ours.
        assert!(stopped < 64 << 20 && stopped_too < 64 << 20);
        assert!(memory < 24 << 20, "{memory}");
        let moved_before = moved();
        upstream.told.takes.store(1, Ordering::SeqCst);
        sending.join().expect("all is sent");
        wait_for("all of it", || moved() == moved_before + 100_000_000);
        connection.reset();
        server.finish();
    });
}

#[test]
fn a_connection_may_become_something_else() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream) = (Site::new("tunnel"), Upstream::start());
        let mut server = proxy(&site, class, &[upstream.address], "");
        let open = || {
            let mut connection = Connection::open(server.address()).expect("it listens");
            let head =
                "GET /echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n";
            connection.send(head.as_bytes()).expect("it reads");
            let answer = connection.read_head().expect("a head");
            assert_eq!((answer.status, answer.field("upgrade")), (101, Some("echo")), "{answer:?}");
            assert_eq!(connection.octets(5).expect("the upstream's first words"), b"ready");
            connection
        };
        let waiting = || upstream.told.waiting.load(Ordering::SeqCst);
        // Both ends may end it.
        let mut connection = open();
        for text in ["one", "two"] {
            connection.send(text.as_bytes()).expect("it reads");
            assert_eq!(connection.octets(3).expect("its echo"), text.as_bytes());
        }
        connection.send(b"bye").expect("it reads");
        connection.read_end().expect("its end");
        drop(connection);
        open().reset();
        wait_for("the other end to be closed", || waiting() == 0);
        // Not for those who do not ask.
        assert_eq!(server.get("/echo").status, 426);
        assert_eq!(server.text("/well"), "well");
        // A worker that leaves does not cut it off at once.
        let mut connection = open();
        server.signal(Signal::SIGTERM);
        server.wait_log("Handling signal: term");
        connection.send(b"still").expect("it reads");
        assert_eq!(connection.octets(5).expect("its echo"), b"still");
        connection.send(b"bye").expect("it reads");
        connection.read_end().expect("its end");
        drop(connection);
        assert_eq!(server.wait_end().0.code(), Some(0));
        server.check_log();
    });
}

#[test]
fn it_serves_without_upstreams_and_finds_the_one_that_is_there() {
    let _turn = turn();
    under_each_class(|class| {
        let (site, upstream, (_held, nobody)) = (Site::new("down"), Upstream::start(), nobody());
        let mut server = proxy(&site, class, &[nobody], "");
        let worker = server.workers();
        assert_eq!(server.get("/well").status, 502);
        server.expect_error(&format!(" at {nobody}: cannot connect: "));
        assert_eq!(server.messages("Connection refused").len(), 1, "{}", server.log());
        assert_eq!(server.workers(), worker, "nobody else's health is its own");

        // The rest of a request that could not be brought goes to the next one, its body included.
        server
            .configure(|file| _ = file.replace_rest(&table(&[nobody, upstream.address], "keep_host = true")));
        server.reload_well();
        upstream.told.takes.store(1, Ordering::SeqCst);
        for _ in 0..4 {
            assert_eq!(server.text("/well"), "well");
        }
        for round in 1..=4 {
            let early = ask(&server, b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!(early.status, 413, "{round}");
        }
        for (text, complaint) in [
            ("upstreams = []", "the setting `upstreams` must name a server"),
            ("upstreams = [\"https://a\"]", "this proxy speaks only plain http"),
            ("", "missing field `upstreams`"),
            ("upstreams = [\"http://a\"]\nupstream_timeout = 0", "`upstream_timeout` must be more than 0"),
            ("upstreams = [\"http://a\"]\nname = \"a b\"", "the setting `name` must be a word"),
        ] {
            server.configure(|file| _ = file.replace_rest(&format!("[app.proxy]\n{text}\n")));
            let verdict = server.reload();
            assert!(
                verdict.starts_with("Reload refused") && verdict.contains(complaint),
                "{text}: {verdict}"
            );
            server.expect_error(complaint);
        }
        assert_eq!(server.text("/well"), "well");
        server.finish();
    });
}
