//! Exchanges over a wire in memory: exact octets out, for every way in which octets can come and go.
//!
//! It owns the scripted wire. What a newcomer gets wrong: the date differs from run to run, and is cut out.

mod ahead;
mod between;
mod gather;
mod proxies;
mod queue;
mod waiting;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Field, Scheme};
use rgunicorn_worker_api::worker::{Exchange, Verdict};

use super::{
    Ahead, Arrival, Connection, Ended, Interest, Lingering, Memory, Polled, Rules, Unwatched, Watch, Wire,
};
use crate::error::Error;

enum Arriving {
    Octets(Vec<u8>),
    Nothing,
    End,
    Reset,
}

/// What arrives, in order; then nothing ever. What is sent, and by how many calls.
#[derive(Default)]
struct Script {
    arriving: VecDeque<Arriving>,
    out: Vec<u8>,
    reads: usize,
    writes: usize,
    waits: Vec<Interest>,
    /// Octets taken by one write; then the next one would block.
    narrow: Option<usize>,
    blocked: bool,
    /// No more is taken before the reader reads.
    stuck: bool,
    /// The write with this number fails.
    broken_at: Option<usize>,
    shut: bool,
}

impl Wire for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        match self.arriving.pop_front() {
            None => Err(ErrorKind::WouldBlock.into()),
            Some(Arriving::Nothing) => Err(ErrorKind::WouldBlock.into()),
            Some(Arriving::End) => {
                self.arriving.push_front(Arriving::End);
                Ok(0)
            }
            Some(Arriving::Reset) => Err(ErrorKind::ConnectionReset.into()),
            Some(Arriving::Octets(mut octets)) => {
                let count = octets.len().min(buffer.len());
                buffer[..count].copy_from_slice(&octets[..count]);
                octets.drain(..count);
                if !octets.is_empty() {
                    self.arriving.push_front(Arriving::Octets(octets));
                }
                Ok(count)
            }
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
        if self.broken_at == Some(self.writes) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.blocked ^= self.narrow.is_some();
        if self.stuck || self.blocked {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.writes += 1;
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let count = self.narrow.unwrap_or(usize::MAX).min(all.len());
        self.out.extend_from_slice(&all[..count]);
        Ok(count)
    }

    fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
        self.blocked ^= self.narrow.is_some();
        if self.stuck || self.blocked {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut octets = vec![0; usize::try_from(length).unwrap().min(self.narrow.unwrap_or(usize::MAX))];
        let count = File::from(file.try_clone_to_owned()?).read_at(&mut octets, offset)?;
        self.out.extend_from_slice(&octets[..count]);
        Ok(count as u64)
    }

    fn wait(&mut self, interest: Interest, until: Option<Instant>) -> io::Result<bool> {
        self.waits.push(interest);
        let never = match interest {
            Interest::Readable => self.arriving.is_empty(),
            Interest::Writable => self.stuck,
        };
        assert!(!never || until.is_some(), "would wait for ever");
        Ok(!never)
    }

    fn client_gone(&mut self) -> bool {
        false
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shut = true;
        Ok(())
    }

    fn local(&mut self) -> Address {
        Address::Unknown
    }

    fn fd(&self) -> Option<i32> {
        None
    }
}

fn rules() -> Rules {
    let time = Some(Duration::from_secs(1));
    Rules {
        keep_alive: true,
        head_timeout: time,
        body_timeout: time,
        write_timeout: time,
        ..Rules::default()
    }
}

fn script(pieces: &[&[u8]]) -> Script {
    let arriving = pieces.iter().map(|piece| Arriving::Octets(piece.to_vec())).collect();
    Script { arriving, ..Script::default() }
}

fn connection(script: Script) -> Connection<Script> {
    Connection::new(script, Address::Unknown, Scheme::Http, Memory::default())
}

type App<'a> = &'a dyn Fn(&dyn Exchange) -> Verdict;

/// One request with the blocking face; the octets sent without dates, how it ended, and the wire.
fn run_with(rules: &Rules, script: Script, app: App<'_>) -> (String, Ended, Script) {
    let mut connection = connection(script);
    assert_eq!(connection.wait_for_head(rules), Arrival::Complete);
    let ended = one(rules, &mut connection, app);
    let script = connection.into_parts().0;
    (dateless(&script.out), ended, script)
}

fn run(script: Script, app: App<'_>) -> (String, Ended, Script) {
    run_with(&rules(), script, app)
}

fn one(rules: &Rules, connection: &mut Connection<Script>, app: App<'_>) -> Ended {
    let exchange = connection.blocking(rules, b"", true, &Unwatched);
    let verdict = if exchange.refused() { Verdict::Transport } else { app(&exchange) };
    exchange.conclude(verdict)
}

fn dateless(out: &[u8]) -> String {
    let text = out.escape_ascii().to_string();
    text.split_inclusive("\\r\\n")
        .filter(|line| !line.starts_with("Date: ") && !line.starts_with("Server: "))
        .collect::<String>()
        .replace("\\r\\n", "|")
}

fn respond(exchange: &dyn Exchange) -> Verdict {
    exchange.respond(200, &[Field::new("X", "y")], b"hello").unwrap();
    Verdict::Ok
}

/// Reads all, answers with what it read; passes faults on.
fn echo(exchange: &dyn Exchange) -> Verdict {
    let (mut body, mut buffer) = (Vec::new(), [0; 7]);
    loop {
        match exchange.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => body.extend_from_slice(&buffer[..count]),
            Err(_) => return Verdict::Transport,
        }
    }
    if exchange.respond(200, &[], &body).is_err() { Verdict::Transport } else { Verdict::Ok }
}

fn stream(exchange: &dyn Exchange) -> Verdict {
    let call = || {
        exchange.start(200, &[])?;
        exchange.write(b"hello ")?;
        exchange.write(b"")?;
        exchange.write(b"world")?;
        exchange.trailers(&[Field::new("Sum", "1")])?;
        exchange.end()
    };
    if call().is_err() { Verdict::Transport } else { Verdict::Ok }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world";
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
    5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: v\r\n\r\n";
const ECHOED: &str = "HTTP/1.1 200 OK|Content-Length: 11||hello world";
const STREAMED: &str = "HTTP/1.1 200 OK|Transfer-Encoding: chunked||\
    6|hello |5|world|0|Sum: 1||";

#[test]
fn a_whole_answer_is_one_read_and_one_write() {
    let (out, ended, script) = run(script(&[GET]), &respond);
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5||hello");
    assert_eq!((script.reads, script.writes, script.waits.len()), (1, 1, 0));
    assert_eq!((ended.status, ended.body_bytes, ended.bytes_in), (200, 5, GET.len() as u64));
    assert!(ended.keep_alive && !ended.linger && !ended.incomplete && ended.fault.is_none());
}

#[test]
fn input_split_anywhere_gives_the_same() {
    for (request, size) in [(POST, POST.len()), (CHUNKED, CHUNKED.len())] {
        for at in 1..size {
            for pause in [false, true] {
                let mut script = script(&[&request[..at], &request[at..]]);
                if pause {
                    script.arriving.insert(1, Arriving::Nothing);
                }
                let (out, ended, _) = run(script, &echo);
                assert_eq!(out, ECHOED, "{at}");
                assert!(ended.keep_alive && !ended.incomplete, "{at}");
                assert_eq!(ended.bytes_in, size as u64);
            }
        }
    }
}

#[test]
fn output_through_a_narrow_wire_is_the_same() {
    for narrow in 1..200 {
        for (app, expected) in [(&echo as App<'_>, ECHOED), (&stream, STREAMED)] {
            let mut script = script(&[POST]);
            script.narrow = Some(narrow);
            let (out, ended, _) = run(script, app);
            assert_eq!(out, expected, "{narrow}");
            assert_eq!((ended.body_bytes, ended.incomplete), (11, false));
        }
    }
}

#[test]
fn a_client_that_left_is_a_fault_at_every_write() {
    for broken in 0..20 {
        for app in [&echo as App<'_>, &stream] {
            let mut script = script(&[POST]);
            script.narrow = Some(20);
            script.broken_at = Some(broken);
            let (_, ended, script) = run(script, app);
            if script.writes == broken && ended.fault.is_some() {
                assert_eq!(ended.fault, Some(Fault::ClientGone), "{broken}");
                assert!(ended.incomplete && !ended.keep_alive && !ended.linger);
            } else {
                assert!(!ended.incomplete);
            }
        }
    }
}

#[test]
fn each_streamed_write_is_one_chunk_and_one_call() {
    let (out, ended, script) = run(script(&[GET]), &stream);
    assert_eq!(out, STREAMED);
    assert_eq!(script.writes, 3);
    assert!(ended.keep_alive);
}

#[test]
fn an_application_that_forgets_the_end_has_ended() {
    let (out, ended, script) = run(script(&[GET]), &|exchange| {
        exchange.start(200, &[]).unwrap();
        Verdict::Ok
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||0||");
    assert_eq!(script.writes, 1);
    assert!(ended.keep_alive);
}

#[test]
fn continue_is_sent_when_the_body_is_read_and_nothing_of_it_is_there() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let waiting = || {
        let mut script = script(&[head, b"hello"]);
        script.arriving.insert(1, Arriving::Nothing);
        script
    };
    let answer = "HTTP/1.1 200 OK|Content-Length: 5||hello";
    let (out, ended, _) = run(waiting(), &echo);
    assert_eq!(out, format!("HTTP/1.1 100 Continue||{answer}"));
    assert!(ended.keep_alive);
    // It came by itself.
    let (out, _, _) = run(script(&[head, b"hello"]), &echo);
    assert_eq!(out, answer);
    let (out, _, _) = run(script(&[&[&head[..], b"hello"].concat()]), &echo);
    assert_eq!(out, answer);
    // Nobody wants it: whether it comes is up to the client, so the connection ends.
    let (out, ended, _) = run(waiting(), &respond);
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5|Connection: close||hello");
    assert!(!ended.keep_alive && ended.linger);
    // Never after the final head, which is sent instead.
    let (out, _, script) = run(waiting(), &|exchange| {
        exchange.start(200, &[]).unwrap();
        assert_eq!(exchange.read(&mut [0; 9]), Ok(5));
        exchange.write(b"x").unwrap();
        Verdict::Ok
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Connection: close||1|x|0||");
    assert_eq!(script.waits, [Interest::Readable]);
}

#[test]
fn faults_of_the_body_are_answered_even_if_swallowed() {
    let post = |rest: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}").into_bytes();
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let cases = [
        (post(&format!("{chunked}5x\r\n")), None, 400, Fault::Malformed),
        (post(&format!("{chunked}5\r\nhel")), Some(Arriving::End), 400, Fault::Malformed),
        (post(&format!("{chunked}5\r\nhel")), None, 408, Fault::TimedOut),
        (post(&format!("{chunked}15\r\nhel")), None, 413, Fault::TooLarge),
        (post("Content-Length: 21\r\n\r\n"), None, 413, Fault::TooLarge),
        (post("Content-Length: 9\r\n\r\nhel"), None, 408, Fault::TimedOut),
        (post("Content-Length: 9\r\n\r\nhel"), Some(Arriving::End), 400, Fault::Malformed),
    ];
    for (request, then, status, fault) in cases {
        let mut rules = rules();
        rules.limits.body = Some(20);
        let mut script = script(&[&request]);
        script.arriving.extend(then);
        let (out, ended, _) = run_with(&rules, script, &|exchange| {
            let _ = echo(exchange);
            Verdict::Ok
        });
        assert!(out.starts_with(&format!("HTTP/1.1 {status} ")), "{out}");
        assert!(out.contains("|Connection: close||"));
        assert_eq!((ended.status, ended.fault, ended.keep_alive), (status, Some(fault), false));
    }
    let mut script = script(&[b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel"]);
    script.arriving.push_back(Arriving::Reset);
    let (out, ended, _) = run(script, &echo);
    assert_eq!((&out[..], ended.status, ended.fault), ("", 0, Some(Fault::ClientGone)));
}

#[test]
fn bodies_that_may_not_be_sent_are_not() {
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (out, ended, _) = run(script(&[head]), &respond);
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5||");
    assert_eq!((ended.body_bytes, ended.keep_alive), (0, true));
    for (status, line) in [(204, "204 No Content"), (304, "304 Not Modified")] {
        let (out, ended, _) = run(script(&[GET]), &|exchange| {
            exchange.start(status, &[]).unwrap();
            exchange.write(b"x").unwrap();
            exchange.end().unwrap();
            Verdict::Ok
        });
        assert_eq!(out, format!("HTTP/1.1 {line}||"));
        assert!(ended.keep_alive && !ended.incomplete);
    }
}

#[test]
fn a_declared_length_is_kept_to() {
    let declare = |exchange: &dyn Exchange, body: &[u8]| {
        exchange.start(200, &[Field::new("Content-Length", "4")]).unwrap();
        exchange.write(body).unwrap();
        exchange.end().unwrap();
        Verdict::Ok
    };
    let (out, ended, _) = run(script(&[GET]), &|exchange| declare(exchange, b"longer"));
    assert_eq!(out, "HTTP/1.1 200 OK|Content-Length: 4||long");
    assert!(ended.keep_alive && !ended.incomplete);
    let (out, ended, _) = run(script(&[GET]), &|exchange| declare(exchange, b"x"));
    assert_eq!(out, "HTTP/1.1 200 OK|Content-Length: 4||x");
    assert!(!ended.keep_alive && ended.incomplete && !ended.linger);
}

#[test]
fn what_the_application_does_wrong_is_a_500_as_long_as_nothing_is_sent() {
    const ANSWER: &str = "HTTP/1.1 500 Internal Server Error|Content-Type: text/plain; charset=utf-8|\
        Content-Length: 26|Connection: close||500 Internal Server Error\\n";
    let cases: &[App<'_>] = &[
        &|_| Verdict::Ok,
        &|_| Verdict::Failed,
        &|_| Verdict::Panicked,
        &|exchange| {
            assert_eq!(exchange.respond(200, &[Field::new("a b", "c")], b""), Err(Fault::Invalid));
            assert_eq!(exchange.respond(99, &[], b""), Err(Fault::Invalid));
            assert_eq!(exchange.start(200, &[Field::new("a", "b\r\nc: d")]), Err(Fault::Invalid));
            Verdict::Transport
        },
        &|exchange| {
            exchange.start(200, &[]).unwrap();
            Verdict::Panicked
        },
    ];
    for app in cases {
        let (out, ended, _) = run(script(&[GET]), app);
        assert_eq!(out, ANSWER);
        assert_eq!((ended.status, ended.body_bytes, ended.incomplete), (500, 26, false));
    }
    let (out, ended, _) = run(script(&[GET]), &|exchange| {
        exchange.start(200, &[]).unwrap();
        exchange.write(b"x").unwrap();
        Verdict::Panicked
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||1|x|");
    assert!(ended.incomplete && !ended.keep_alive && !ended.linger);
}

#[test]
fn calls_out_of_order_change_nothing() {
    let (out, _, _) = run(script(&[GET]), &|exchange| {
        assert_eq!(exchange.write(b"x"), Err(Fault::Misuse));
        assert_eq!(exchange.end(), Err(Fault::Misuse));
        assert_eq!(exchange.trailers(&[]), Err(Fault::Misuse));
        assert_eq!(exchange.stream_write(b"x"), Err(Fault::Misuse));
        let verdict = respond(exchange);
        assert_eq!(exchange.start(200, &[]), Err(Fault::Misuse));
        assert_eq!(exchange.write(b"x"), Err(Fault::Misuse));
        assert_eq!(exchange.informational(103, &[]), Err(Fault::Misuse));
        assert_eq!(exchange.take_over(101, &[]), Err(Fault::Misuse));
        verdict
    });
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5||hello");
}

#[test]
fn interim_answers_go_at_once_and_never_to_http_1_0() {
    let app: App<'_> = &|exchange| {
        exchange.informational(103, &[Field::new("Link", "x")]).unwrap();
        assert_eq!(exchange.informational(101, &[]), Err(Fault::Invalid));
        respond(exchange)
    };
    let (out, _, script_) = run(script(&[GET]), app);
    assert_eq!(out, "HTTP/1.1 103 Early Hints|Link: x||HTTP/1.1 200 OK|X: y|Content-Length: 5||hello");
    assert_eq!(script_.writes, 2);
    let (out, _, _) = run(script(&[b"GET / HTTP/1.0\r\n\r\n"]), app);
    assert_eq!(out, "HTTP/1.1 200 OK|X: y|Content-Length: 5|Connection: close||hello");
}

#[test]
fn a_taken_over_connection_begins_with_what_was_read_already() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nearly";
    let mut script = script(&[request, b"late"]);
    script.arriving.push_back(Arriving::End);
    let (out, ended, script) = run(script, &|exchange| {
        exchange.take_over(101, &[Field::new("Upgrade", "x")]).unwrap();
        let mut buffer = [0; 9];
        assert_eq!(exchange.stream_read(&mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"early");
        assert_eq!(exchange.stream_read(&mut buffer), Ok(4));
        exchange.stream_write(b"raw").unwrap();
        assert_eq!(exchange.stream_read(&mut buffer), Ok(0));
        exchange.stream_shutdown().unwrap();
        assert_eq!(exchange.write(b"x"), Err(Fault::Misuse));
        Verdict::Ok
    });
    assert_eq!(out, "HTTP/1.1 101 Switching Protocols|Upgrade: x|Connection: upgrade||raw");
    assert!(ended.taken_over && !ended.keep_alive && !ended.incomplete && script.shut);
    assert_eq!((ended.status, ended.body_bytes), (101, 3));
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    for request in [POST, CHUNKED] {
        let all = [request, request, GET].concat();
        for size in [1, 7, 64, all.len()] {
            let pieces: Vec<&[u8]> = all.chunks(size).collect();
            let mut connection = connection(script(&pieces));
            let rules = rules();
            for (app, expected) in [(&echo as App<'_>, true), (&echo, true), (&respond, true)] {
                assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
                let ended = one(&rules, &mut connection, app);
                assert_eq!(ended.keep_alive, expected);
                connection.next(&ended);
            }
            let out = dateless(&connection.into_parts().0.out);
            assert_eq!(out, format!("{ECHOED}{ECHOED}HTTP/1.1 200 OK|X: y|Content-Length: 5||hello"));
        }
    }
}

#[test]
fn a_body_that_nobody_wanted_is_skipped_if_it_is_there() {
    let mut connection = connection(script(&[POST, GET]));
    let rules = rules();
    for _ in 0..2 {
        assert_eq!(connection.wait_for_head(&rules), Arrival::Complete);
        let ended = one(&rules, &mut connection, &respond);
        assert!(ended.keep_alive);
        connection.next(&ended);
    }
    let (_, ended, _) = run(script(&[&POST[..POST.len() - 1]]), &respond);
    assert!(!ended.keep_alive && ended.linger);
}

#[test]
fn a_body_read_exactly_may_have_something_behind_it() {
    let (head, body) = POST.split_at(POST.len() - 11);
    let (_, ended, _) = run(script(&[head, body]), &|exchange| {
        let mut buffer = [0; 100];
        assert_eq!(exchange.read(&mut buffer), Ok(11));
        respond(exchange)
    });
    // The read stopped at the body's end, so nobody knows whether the socket is empty.
    assert!(ended.linger);
    let (_, ended, _) = run(script(&[POST]), &echo);
    assert!(!ended.linger);
}

#[test]
fn heads_that_do_not_come() {
    let rules = rules();
    let mut silent = connection(script(&[]));
    assert_eq!(silent.wait_for_head(&rules), Arrival::Closed);
    let mut half = connection(script(&[&GET[..9]]));
    assert_eq!(half.wait_for_head(&rules), Arrival::Refused(Error::Timeout));
    let (status, _) = half.refuse(&Error::Timeout);
    assert_eq!(status, 408);
    assert!(half.into_parts().0.out.starts_with(b"HTTP/1.1 408 "));
    let mut ended = script(&[&GET[..9]]);
    ended.arriving.push_back(Arriving::End);
    assert_eq!(connection(ended).wait_for_head(&rules), Arrival::Refused(Error::Truncated));
    let mut long = connection(script(&[b"GET / HTTP/1.1\r\n", &b"A: b\r\n".repeat(101)]));
    assert_eq!(long.wait_for_head(&rules), Arrival::Refused(Error::TooManyFields));
}

#[test]
fn files_are_sent_in_every_framing() {
    let mut path = std::env::temp_dir();
    path.push(format!("rgunicorn-http1-{}", std::process::id()));
    std::fs::write(&path, b"0123456789").unwrap();
    let file = File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let send = |fields: &[Field<'_>], request: &[u8], narrow: Option<usize>| {
        let mut script = script(&[request]);
        script.narrow = narrow;
        run(script, &|exchange| {
            exchange.start(200, fields).unwrap();
            exchange.send_file(file.as_fd(), 2, 6).unwrap();
            exchange.end().unwrap();
            Verdict::Ok
        })
    };
    for narrow in [None, Some(1), Some(4)] {
        let (out, ended, _) = send(&[], GET, narrow);
        assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||6|234567|0||");
        assert!(ended.keep_alive && ended.body_bytes == 6);
        let (out, _, _) = send(&[Field::new("Content-Length", "6")], GET, narrow);
        assert_eq!(out, "HTTP/1.1 200 OK|Content-Length: 6||234567");
        let (out, _, _) = send(&[Field::new("Content-Length", "3")], GET, narrow);
        assert_eq!(out, "HTTP/1.1 200 OK|Content-Length: 3||234");
        let (out, ended, _) = send(&[], b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", narrow);
        assert_eq!(out, "HTTP/1.1 200 OK||");
        assert!(ended.keep_alive);
    }
    let (out, ended, _) = run(script(&[GET]), &|exchange| {
        exchange.start(200, &[]).unwrap();
        assert_eq!(exchange.send_file(file.as_fd(), 5, 9), Err(Fault::System));
        Verdict::Transport
    });
    assert_eq!(out, "HTTP/1.1 200 OK|Transfer-Encoding: chunked||9|56789");
    assert!(ended.incomplete);
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended, _) = run(script, &|exchange| {
        assert_eq!(exchange.respond(200, &[], b"x"), Err(Fault::TimedOut));
        Verdict::Transport
    });
    assert_eq!(out, "");
    assert!(ended.incomplete && ended.fault == Some(Fault::TimedOut));
}

#[test]
fn lingering_ends_with_the_client_or_with_its_bounds() {
    let mut waiting = script(&[b"rest"]);
    waiting.arriving.push_back(Arriving::End);
    let mut lingering = connection(waiting);
    lingering.linger();
    assert!(lingering.into_parts().0.shut);
    let mut endless = connection(script(&[&vec![0; 1 << 20]]));
    endless.linger();
    assert!(!endless.into_parts().0.arriving.is_empty());
    connection(script(&[])).linger();
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One request with the polled face.
fn poll_with(
    script: Script,
    rules: &Rules,
    app: impl FnOnce(&Polled<'_, Script>, &mut Context<'_>, &Counter) -> Verdict,
) -> (String, Ended) {
    let mut connection = connection(script);
    assert_eq!(connection.wait_for_head(rules), Arrival::Complete);
    let woken = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&woken));
    let ended = {
        let exchange = connection.polled(rules, b"", true, &Unwatched, Waker::noop());
        let verdict = app(&exchange, &mut Context::from_waker(&waker), &woken);
        exchange.conclude(verdict);
        while exchange.is_sending() {
            exchange.ready(false, true);
        }
        exchange.ended()
    };
    (dateless(&connection.into_parts().0.out), ended)
}

#[test]
fn polled_reads_wake_when_octets_come() {
    for at in 1..11 {
        let (head, body) = POST.split_at(POST.len() - at);
        let mut script = script(&[head, body]);
        script.arriving.insert(1, Arriving::Nothing);
        let (out, ended) = poll_with(script, &rules(), |exchange, context, woken| {
            let (mut all, mut buffer) = (Vec::new(), [0; 100]);
            loop {
                match exchange.poll_read(context, &mut buffer) {
                    Poll::Ready(Ok(0)) => break,
                    Poll::Ready(count) => all.extend_from_slice(&buffer[..count.unwrap()]),
                    Poll::Pending => {
                        let wanted = exchange.wanted();
                        assert!(wanted.readable && !wanted.writable && wanted.deadline.is_some());
                        exchange.ready(true, false);
                        assert_eq!(woken.count(), 1);
                        assert_eq!(exchange.wanted(), super::Wanted::default());
                    }
                }
            }
            exchange.respond(200, &[], &all).unwrap();
            Verdict::Ok
        });
        assert_eq!(out, ECHOED, "{at}");
        assert!(ended.keep_alive);
    }
}

#[test]
fn polled_writes_are_full_at_some_point_and_go_on() {
    let body = vec![b'x'; 300_000];
    let mut script = script(&[GET]);
    script.stuck = true;
    let (out, ended) = poll_with(script, &rules(), |exchange, context, woken| {
        exchange.start(200, &[Field::new("Content-Length", "300000")]).unwrap();
        // The head waits for the body.
        assert!(!exchange.wanted().writable);
        let mut rest = &body[..];
        let mut pauses = 0;
        while !rest.is_empty() {
            match exchange.poll_write(context, rest) {
                Poll::Ready(taken) => rest = &rest[taken.unwrap()..],
                Poll::Pending => {
                    pauses += 1;
                    assert!(exchange.wanted().writable && exchange.wanted().deadline.is_some());
                    assert!(exchange.inner_pending() <= 64 * 1024 + 200);
                    exchange.with_wire(|wire| wire.stuck = false);
                    exchange.ready(false, true);
                    assert_eq!(woken.count(), pauses);
                    exchange.with_wire(|wire| wire.stuck = true);
                }
            }
        }
        exchange.with_wire(|wire| wire.stuck = false);
        assert!(pauses >= 3);
        exchange.end().unwrap();
        Verdict::Ok
    });
    assert_eq!(out.len(), "HTTP/1.1 200 OK|Content-Length: 300000||".len() + body.len());
    assert!(ended.keep_alive && ended.body_bytes == 300_000);
}

#[test]
fn polled_output_through_a_narrow_wire_is_the_same() {
    for narrow in 1..100 {
        let mut script = script(&[GET]);
        script.narrow = Some(narrow);
        let (out, ended) = poll_with(script, &rules(), |exchange, _, _| stream(exchange));
        assert_eq!(out, STREAMED, "{narrow}");
        assert!(ended.keep_alive);
    }
}

#[test]
fn polled_waits_end_in_time() {
    let later = || Instant::now() + Duration::from_secs(2);
    let (out, ended) = poll_with(script(&[&POST[..POST.len() - 1]]), &rules(), |exchange, context, woken| {
        let mut buffer = [0; 100];
        assert!(exchange.poll_read(context, &mut buffer).is_ready());
        assert!(exchange.poll_read(context, &mut buffer).is_pending());
        exchange.check_times(Instant::now());
        assert_eq!(woken.count(), 0);
        exchange.check_times(later());
        assert_eq!(woken.count(), 1);
        assert_eq!(exchange.poll_read(context, &mut buffer), Poll::Ready(Err(Fault::TimedOut)));
        Verdict::Transport
    });
    assert!(out.starts_with("HTTP/1.1 408 "), "{out}");
    assert_eq!(ended.status, 408);
    let mut stuck = script(&[GET]);
    stuck.stuck = true;
    let (_, ended) = poll_with(stuck, &rules(), |exchange, context, woken| {
        exchange.start(200, &[]).unwrap();
        assert_eq!(exchange.poll_write(context, b"x"), Poll::Ready(Ok(1)));
        assert!(exchange.poll_flush(context).is_pending());
        exchange.check_times(later());
        assert_eq!(woken.count(), 1);
        assert_eq!(exchange.poll_flush(context), Poll::Ready(Err(Fault::TimedOut)));
        Verdict::Transport
    });
    assert!(ended.incomplete);
}

#[test]
fn polled_learns_that_the_client_left() {
    let (out, ended) = poll_with(script(&[POST]), &rules(), |exchange, context, woken| {
        assert!(exchange.poll_client_gone(context).is_pending());
        assert!(exchange.left());
        assert_eq!(woken.count(), 1);
        assert!(exchange.poll_client_gone(context).is_ready());
        Verdict::Transport
    });
    assert_eq!((&out[..], ended.status, ended.fault), ("", 0, Some(Fault::ClientGone)));
}
