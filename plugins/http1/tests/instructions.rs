//! What one request costs, in instructions: its head parsed, and a plain answer of 13 octets written.
//!
//! Owns the bound. Instructions are the same on a busy machine and on a quiet one, so this is a test, while times are a
//! benchmark (`benches/http1.rs`). What a newcomer would get wrong: the program counted is this very test, which plays
//! the other part when the variable [`ROUNDS`] is set; two runs of different length are subtracted, so that starting
//! up costs nothing.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::env;
use std::hint::black_box;
use std::process::Command;
use std::time::SystemTime;

use rgunicorn_http1::{BodyWriter, DateCache, Head, Leniency, Limits, Progress, response_head};

/// How many requests to handle, instead of counting.
const ROUNDS: &str = "HTTP1_ROUNDS";

/// What was measured (rustc 1.95, x86-64), optimised and not.
const MEASURED: u64 = if cfg!(debug_assertions) { 113_296 } else { 7_453 };

/// Ten fields beside `Host`, as a browser sends them.
const REQUEST: &[u8] = b"GET /articles/index.html?page=2 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Priority: u=0, i\r\n\r\n";

#[test]
fn a_request_costs_no_more_instructions_than_it_did() {
    if let Ok(rounds) = env::var(ROUNDS) {
        return handle(rounds.parse().unwrap());
    }
    let Some((more, fewer)) = count(3000).zip(count(1000)) else {
        eprintln!("skipped: valgrind is not installed");
        return;
    };
    let each = (more - fewer) / 2000;
    println!("{each} instructions for one request; {MEASURED} were measured");
    assert!(
        each <= MEASURED * 23 / 20,
        "{each} instructions for one request, where {MEASURED} were measured"
    );
}

/// The instructions of this program with so many rounds; none without valgrind.
fn count(rounds: u32) -> Option<u64> {
    Command::new("valgrind").arg("--version").output().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().unwrap())
        .args(["--test-threads=1", "a_request_costs_no_more_instructions_than_it_did"])
        .env(ROUNDS, rounds.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (_, collected) = said.split_once("Collected : ").unwrap_or_else(|| panic!("no count in: {said}"));
    Some(collected.split_whitespace().next().unwrap().parse().unwrap())
}

/// Parses and answers, with memory that is used again as a worker class does.
fn handle(rounds: u32) {
    let (limits, leniency) = (Limits::default(), Leniency::default());
    let (mut head, mut out) = (Head::new(), Vec::new());
    let date = DateCache::new(SystemTime::UNIX_EPOCH);
    for _ in 0..rounds {
        let request = black_box(REQUEST);
        let progress = head.parse(request, &limits, &leniency).unwrap();
        assert_eq!(progress, Progress::Complete { len: REQUEST.len() });
        out.clear();
        let fields = [(&b"Content-Type"[..], &b"text/plain"[..])];
        let sent = response_head(&mut out, head.exchange(request), 200, fields, &date, Some(13)).unwrap();
        let mut body = BodyWriter::new(sent.framing);
        body.write(b"Hello, World!").put(&mut out);
        assert_eq!(body.finish(), Ok(&b""[..]));
        black_box(&out);
    }
}
