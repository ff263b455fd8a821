//! A whole connection: any octets from the client, any behaviour of the application, over a wire in memory.
//!
//! - each request that reached an application got exactly one final answer, in order, whatever the application did;
//!   an answer that was cut short or lost is the last one;
//! - what says that it closes is the last one; what keeps the connection could be told from what follows;
//! - a head that is refused gets one answer of the server's own, and nothing comes after it;
//! - what an application that reads everything and echoes it sends does not depend on pieces, on how slowly it is
//!   taken, on which face it was called through, or on whether answers gather.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use super::client::{self, Flaw, Framing};
use super::offer;
use super::{meaning, octet, octets, settings, wire};
use rgunicorn_http1::Error;
use rgunicorn_http1::exchange::{Arrival, Connection, Ended, Memory, Rules, Unwatched};
use rgunicorn_worker_api::error::Fault;
use rgunicorn_worker_api::request::{Address, Field, Scheme};
use rgunicorn_worker_api::worker::{Exchange, Verdict};

/// Panics where the input shows that a property does not hold.
pub fn holds(input: &[u8]) {
    let mut input = input;
    let (limits, leniency) = settings(&mut input);
    let rules = Rules { limits, leniency, keep_alive: true, ..Rules::default() };
    let bits = octet(&mut input);
    let piece = usize::from(octet(&mut input)).max(1);
    let narrow = usize::from(octet(&mut input));
    let length = usize::from(octet(&mut input));
    let acts = octets(&mut input, length);

    let way = Way {
        face: [Face::Blocking, Face::Polled, Face::Waiting, Face::Polled][usize::from(bits >> 1 & 3)],
        gathers: bits & 8 != 0,
    };
    if bits & 1 == 0 {
        let plain = Way { face: Face::Blocking, gathers: false };
        let whole = hold(&rules, wire::Memory::new(input, usize::MAX, 0), plain, &mut Echo);
        for (piece, narrow, way) in [(piece, 0, plain), (piece, narrow, way), (usize::MAX, narrow, way)] {
            let other = hold(&rules, wire::Memory::new(input, piece, narrow), way, &mut Echo);
            assert_eq!(
                comparable(&other),
                comparable(&whole),
                "pieces of {piece}, {narrow} at a time, {way:?}: {}",
                input.escape_ascii()
            );
        }
        check(&whole);
        return;
    }
    let mut wire = wire::Memory::new(input, piece, narrow);
    if bits & 128 != 0 {
        wire.breaks_after = Some(usize::from(bits) * 3);
    }
    check(&hold(&rules, wire, way, &mut Acts { acts }));
}

/// How a class calls the exchange.
#[derive(Clone, Copy, Debug)]
struct Way {
    face: Face,
    /// Whether answers wait for those of requests that lie ready behind.
    gathers: bool,
}

#[derive(Clone, Copy, Debug)]
enum Face {
    Blocking,
    Polled,
    Waiting,
}

/// What became of a connection.
struct Held {
    /// Method and end of each request that reached an application.
    exchanges: Vec<(Vec<u8>, Ended)>,
    /// A head that was refused, and the status that was sent.
    refused: Option<(Error, u16)>,
    /// Octets out before that.
    answered: usize,
    wire: wire::Memory,
}

/// An application.
trait Application {
    fn answer(&mut self, exchange: &dyn Exchange, pump: &dyn Fn()) -> Verdict;
}

/// Serves a connection as a worker class does, until it is to be closed.
fn hold(rules: &Rules, wire: wire::Memory, way: Way, application: &mut dyn Application) -> Held {
    let mut connection = Connection::new(wire, Address::Unknown, Scheme::Http, Memory::default());
    let (mut exchanges, mut refused) = (Vec::new(), None);
    let answered = loop {
        let arrival = connection.wait_for_head(rules);
        if arrival != Arrival::Complete {
            // What gathers comes first, whatever follows.
            while connection.unsent() > 0 && connection.send().is_ok() {}
        }
        let answered = connection.wire().out.len();
        match arrival {
            Arrival::Complete => {}
            Arrival::Refused(error) => {
                let (status, _) = connection.refuse(&error);
                refused = Some((error, status));
                break answered;
            }
            Arrival::Closed | Arrival::Partial => break answered,
        }
        let gathers = way.gathers && connection.has_next();
        let (method, ended) = match way.face {
            Face::Blocking => {
                let exchange = connection.blocking(rules, b"", true, &Unwatched);
                let verdict = called(exchange.refused(), &exchange, &|| {}, application);
                let ended = exchange.conclude(verdict);
                (exchange.head().method.to_vec(), ended)
            }
            Face::Waiting => {
                let exchange = connection.polled(rules, b"", true, &Unwatched, Waker::noop());
                let waiting = exchange.waiting();
                let verdict = called(exchange.refused(), &waiting, &|| {}, application);
                let ended = waiting.conclude(verdict);
                (exchange.head().method.to_vec(), ended)
            }
            Face::Polled => {
                let mut exchange = connection.polled(rules, b"", true, &Unwatched, Waker::noop());
                if gathers {
                    exchange.gather();
                }
                let pump = || exchange.ready(true, true);
                let verdict = called(exchange.refused(), &exchange, &pump, application);
                exchange.conclude(verdict);
                while exchange.is_sending() {
                    exchange.ready(false, true);
                }
                (exchange.head().method.to_vec(), exchange.ended())
            }
        };
        exchanges.push((method, ended));
        if !ended.keep_alive {
            break connection.wire().out.len();
        }
        connection.next(&ended);
    };
    Held { exchanges, refused, answered, wire: connection.into_parts().0 }
}

fn called(
    refused: bool,
    exchange: &dyn Exchange,
    pump: &dyn Fn(),
    application: &mut dyn Application,
) -> Verdict {
    if refused { Verdict::Transport } else { application.answer(exchange, pump) }
}

/// Reads everything, then answers with it.
struct Echo;

impl Application for Echo {
    fn answer(&mut self, exchange: &dyn Exchange, pump: &dyn Fn()) -> Verdict {
        let (mut body, mut buffer) = (Vec::new(), [0; 7]);
        loop {
            match ready(pump, |context| exchange.poll_read(context, &mut buffer)) {
                Ok(0) => break,
                Ok(count) => body.extend_from_slice(&buffer[..count]),
                Err(_) => return Verdict::Transport,
            }
        }
        if exchange.respond(200, &[], &body).is_err() { Verdict::Transport } else { Verdict::Ok }
    }
}

/// Does what the octets say.
struct Acts<'a> {
    acts: &'a [u8],
}

impl Application for Acts<'_> {
    fn answer(&mut self, exchange: &dyn Exchange, pump: &dyn Fn()) -> Verdict {
        let input = &mut self.acts;
        let mut result = Ok(());
        loop {
            let act = octet(input);
            let done = match act & 15 {
                0 | 1 => break,
                2 => read(exchange, pump, usize::from(octet(input)) + 1),
                3 => {
                    let (status, offered) = (offer::status(input), offer::fields(input));
                    exchange.informational(status, &fields(&offered))
                }
                4 | 5 => {
                    let (status, offered) = (offer::status(input), offer::fields(input));
                    exchange.start(status, &fields(&offered))
                }
                6 => {
                    let (status, offered) = (offer::status(input), offer::fields(input));
                    exchange.respond(status, &fields(&offered), &offer::piece(input))
                }
                7 | 8 => write(exchange, pump, &offer::piece(input)),
                9 => exchange.write(&offer::piece(input)),
                10 => ready(pump, |context| exchange.poll_flush(context)),
                11 => {
                    let offered = offer::fields(input);
                    exchange.trailers(&fields(&offered))
                }
                12 => exchange.end(),
                13 => send_file(exchange, pump, u64::from(octet(input)) * 8, u64::from(octet(input)) * 8),
                14 => {
                    let (status, offered) = (offer::status(input), offer::fields(input));
                    exchange.take_over(status, &fields(&offered))
                }
                _ => stream(exchange, pump, &offer::piece(input)),
            };
            // One that looks away from some of its faults is an application too.
            if done.is_err() && act & 128 == 0 {
                result = done;
                break;
            }
        }
        match (result, octet(input) % 8) {
            (Err(fault), _) if fault.is_of_the_connection() => Verdict::Transport,
            (Err(_), _) | (_, 1) => Verdict::Failed,
            (_, 2) => Verdict::Panicked,
            (_, 3) => Verdict::Transport,
            _ => Verdict::Ok,
        }
    }
}

fn fields(offered: &[offer::Field]) -> Vec<Field<'_>> {
    offered.iter().map(|(name, value)| Field { name, value }).collect()
}

/// Polls until it is ready. Whatever is waited for has happened by the next turn.
fn ready<R>(pump: &dyn Fn(), mut poll: impl FnMut(&mut Context<'_>) -> Poll<R>) -> R {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => pump(),
        }
    }
}

fn read(exchange: &dyn Exchange, pump: &dyn Fn(), room: usize) -> Result<(), Fault> {
    let mut buffer = vec![0; room];
    let count = ready(pump, |context| exchange.poll_read(context, &mut buffer))?;
    assert!(count <= room);
    Ok(())
}

fn write(exchange: &dyn Exchange, pump: &dyn Fn(), piece: &[u8]) -> Result<(), Fault> {
    let mut rest = piece;
    while !rest.is_empty() {
        let taken = ready(pump, |context| exchange.poll_write(context, rest))?;
        assert!(taken > 0 && taken <= rest.len());
        rest = &rest[taken..];
    }
    Ok(())
}

fn send_file(exchange: &dyn Exchange, pump: &dyn Fn(), offset: u64, length: u64) -> Result<(), Fault> {
    static FILE: OnceLock<File> = OnceLock::new();
    // Which file it is does not matter: the wire has its own octets.
    let file = FILE.get_or_init(|| File::open("/dev/null").expect("a file that can be opened"));
    let (mut offset, mut length) = (offset, length);
    while length > 0 {
        let sent = ready(pump, |context| exchange.poll_send_file(context, file.as_fd(), offset, length))?;
        assert!(sent > 0 && sent <= length);
        (offset, length) = (offset + sent, length - sent);
    }
    Ok(())
}

fn stream(exchange: &dyn Exchange, pump: &dyn Fn(), piece: &[u8]) -> Result<(), Fault> {
    let mut buffer = [0; 16];
    ready(pump, |context| exchange.stream_poll_read(context, &mut buffer))?;
    let mut rest = piece;
    while !rest.is_empty() {
        let taken = ready(pump, |context| exchange.stream_poll_write(context, rest))?;
        rest = &rest[taken..];
    }
    Ok(())
}

/// What must be the same however octets come and go.
#[derive(Debug, PartialEq, Eq)]
struct Comparable {
    /// The octets sent, without dates and interim answers, and without the answer to a head that was refused: that one
    /// is not waited for, and given as far as the client takes it.
    out: String,
    /// Status, and whether the connection was kept.
    ends: Vec<(u16, bool)>,
    refusal: Option<String>,
}

fn comparable(held: &Held) -> Comparable {
    let text = held.wire.out[..held.answered].escape_ascii().to_string();
    let text = text.replace("HTTP/1.1 100 Continue\\r\\n\\r\\n", "");
    Comparable {
        out: text.split_inclusive("\\r\\n").filter(|line| !line.starts_with("Date: ")).collect(),
        ends: held.exchanges.iter().map(|(_, ended)| (ended.status, ended.keep_alive)).collect(),
        refusal: held.refused.as_ref().map(|(error, _)| meaning(error)),
    }
}

/// Reads what was sent as a client does, and compares it with what the class was told.
fn check(held: &Held) {
    let all = || held.wire.out.escape_ascii().to_string();
    let mut rest = &held.wire.out[..];
    for (number, (method, ended)) in held.exchanges.iter().enumerate() {
        let last = number + 1 == held.exchanges.len();
        assert!(last || ended.keep_alive);
        assert!(!(ended.keep_alive && (ended.incomplete || ended.taken_over || ended.fault.is_some())));
        let answer = loop {
            match client::read(rest, method) {
                Ok(interim) if interim.status < 200 && interim.status != 101 => rest = interim.rest,
                other => break other,
            }
        };
        match answer {
            Ok(answer) if answer.status == 101 => {
                assert!(ended.taken_over && ended.status == 101, "{ended:?} {}", all());
                return;
            }
            Ok(answer) => {
                assert_eq!(answer.status, ended.status, "{}", all());
                // A body that the connection's end ends looks whole however it was cut short.
                assert!(!ended.incomplete || answer.framing == Framing::UntilClose, "{ended:?} {}", all());
                assert_eq!(answer.body.len() as u64, ended.body_bytes, "{}", all());
                if ended.keep_alive {
                    assert!(!answer.connection_has("close"), "{}", all());
                    assert_ne!(answer.framing, Framing::UntilClose, "{}", all());
                } else {
                    assert!(answer.rest.is_empty(), "octets after the last answer: {}", all());
                }
                rest = answer.rest;
            }
            Err(Flaw::Truncated) => {
                assert!(ended.incomplete || held.wire.is_broken(), "{ended:?} {}", all());
                return;
            }
            Err(flaw @ Flaw::Garbled(_)) => panic!("{flaw:?} in {}", all()),
        }
    }
    let Some((error, status)) = &held.refused else {
        return assert!(rest.is_empty(), "octets after the last answer: {}", all());
    };
    assert!(held.exchanges.last().is_none_or(|(_, ended)| ended.keep_alive));
    match client::read(rest, b"GET") {
        Ok(answer) => {
            assert_eq!((answer.status, *status), (error.status(), error.status()), "{}", all());
            assert!(answer.connection_has("close") && answer.rest.is_empty(), "{}", all());
        }
        // It is given as far as the client takes it.
        Err(Flaw::Truncated) => assert_eq!(*status, 0, "{}", all()),
        Err(flaw @ Flaw::Garbled(_)) => panic!("{flaw:?} in {}", all()),
    }
}
