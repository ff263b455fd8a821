//! `inspect`: tells what the server made of a request, and misbehaves on demand.
//!
//! The application to try a build of the server with, from outside. What each route does on the wire is stable and
//! written down in this example's README. This file owns the routing and the routes; parameters are parsed in
//! `query`, the answer of the default route is written in `json`, failing boots are in `initialise`.
//!
//! A newcomer might answer after a failed read: each route passes the fault on with `?` and writes nothing, so that
//! the server answers and never takes a short body for a whole one.
#![cfg_attr(inspect_bad_abi, allow(dead_code, reason = "this variant is refused before it could serve"))]

#[cfg(inspect_bad_abi)]
mod bad_abi;
mod crash;
mod initialise;
mod json;
mod query;
mod version;

use initialise::Moment;
use query::{Query, decimal};
use rgunicorn_worker_api::prelude::*;
use sha2::{Digest, Sha256};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

#[cfg(not(inspect_bad_abi))]
export_app! { "app": blocking = app }

/// On every answer, unless the route says otherwise.
const TEXT: (&str, &str) = ("Content-Type", "text/plain");

/// Most octets handed over in one write: 64 KiB, rounded down to whole alphabets.
const PIECE: usize = 64 * 1024 / 26 * 26;

fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    initialise::run(Moment::Create, facts)?;
    Ok(App::blocking(answer).on_start(|facts| initialise::run(Moment::Start, facts)))
}

fn answer(request: &mut Request<'_>, response: &mut Response<'_>) -> Result<(), Error> {
    let query = Query::new(request.query());
    let path = request.path_info();

    // The routes that leave the body where it is.
    match path {
        b"/noread" => return text(response, b"ok"),
        b"/abort" => std::process::abort(),
        b"/exit" => crash::exit(query.number("code", 0)),
        _ => {}
    }

    let (length, sha256) = read_body(request)?;
    match path {
        b"/stream" => stream(response, query),
        b"/sleep" => {
            std::thread::sleep(milliseconds(query));
            text(response, b"slept")
        }
        b"/grow" => {
            // Written to, so that it is memory and not only addresses.
            vec![1_u8; query.number("bytes", 1024 * 1024) as usize].leak();
            text(response, b"grown")
        }
        b"/panic" => asked_to_panic(),
        b"/panic-mid" => panic_mid(response, query),
        b"/segv" => crash::segv(),
        b"/header" => header(response, query),
        b"/pid" => text(response, std::process::id().to_string().as_bytes()),
        b"/large" => large(response, query),
        b"/wrong-length" => wrong_length(response, query),
        b"/version" => text(response, version::text()),
        b"/env" => environment(response, query),
        b"/busy" => {
            let end = Instant::now() + milliseconds(query);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            text(response, b"busy")
        }
        _ => match path.strip_prefix(b"/status/") {
            Some(status) => answer_status(response, status),
            None => {
                let described = json::describe(request, length, sha256);
                respond(response, ("Content-Type", "application/json"), described.as_bytes())
            }
        },
    }
}

/// Length and hash of the body, read to its end and not kept.
fn read_body(request: &mut Request<'_>) -> Result<(u64, Sha256), Error> {
    let (mut length, mut sha256) = (0, Sha256::new());
    let mut piece = [0; 16 * 1024];
    loop {
        match request.read(&mut piece)? {
            0 => return Ok((length, sha256)),
            count => {
                length += count as u64;
                sha256.update(&piece[..count]);
            }
        }
    }
}

fn text(response: &mut Response<'_>, body: &[u8]) -> Result<(), Error> {
    respond(response, TEXT, body)
}

/// The whole answer at once. The length is declared all the same: on HEAD the server does not take it from the body.
fn respond(response: &mut Response<'_>, kind: (&str, &str), body: &[u8]) -> Result<(), Error> {
    Ok(response.respond(200, &[kind, ("Content-Length", &body.len().to_string())], body)?)
}

fn milliseconds(query: Query<'_>) -> Duration {
    Duration::from_millis(query.number("ms", 100))
}

#[expect(clippy::panic, reason = "what was asked for")]
fn asked_to_panic() -> ! {
    panic!("inspect: asked to panic")
}

/// `/stream`: a body of unknown length, each piece flushed.
fn stream(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    let pieces = query.number("n", 3);
    write_stream(response, pieces, query.number("size", 5))?;
    Ok(response.end()?)
}

/// `/panic-mid`: the beginning of a stream. The server must not let it look like a whole one.
fn panic_mid(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    write_stream(response, query.number("n", 2), 5)?;
    asked_to_panic()
}

fn write_stream(response: &mut Response<'_>, pieces: u64, size: usize) -> Result<(), Error> {
    let piece = vec![b's'; size];
    response.start(200, &[TEXT])?;
    for _ in 0..pieces {
        response.write(&piece)?;
        response.flush()?;
    }
    Ok(())
}

/// `/status/NNN`: offered whatever it is, with a `Content-Length` that some statuses may not have. What the interface
/// has no number for, and a number with superfluous zeros, becomes 0, which is no status either.
fn answer_status(response: &mut Response<'_>, digits: &[u8]) -> Result<(), Error> {
    let number: u16 = decimal(digits).unwrap_or(0);
    let status = if digits.len() > 3 && number < 1000 { 0 } else { number };
    Ok(response.respond(status, &[TEXT, ("Content-Length", "1")], b"x")?)
}

/// `/header`: offered whatever its octets. It is the server's part to refuse it, a second length included.
fn header(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    const LENGTH_OF_OK: Field<'_> = Field::new("Content-Length", "2");
    let name = query.octets("name").unwrap_or_default();
    let value = query.octets("value").unwrap_or_default();
    let asked = Field { name: &name, value: &value };
    if name.eq_ignore_ascii_case(b"content-type") {
        return Ok(response.respond(200, &[LENGTH_OF_OK, asked], b"ok")?);
    }
    Ok(response.respond(200, &[TEXT.into(), LENGTH_OF_OK, asked], b"ok")?)
}

/// `/large`: a known length, in pieces.
fn large(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    let length = query.number("bytes", 1_048_576);
    let alphabets: Vec<u8> = (b'a'..=b'z').cycle().take(PIECE).collect();
    start_declaring(response, length)?;
    write_times(response, &alphabets, length)?;
    Ok(response.end()?)
}

/// `/wrong-length`: what is declared and what is written are two parameters.
fn wrong_length(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    start_declaring(response, query.number("declared", 10))?;
    write_times(response, &vec![b'w'; PIECE], query.number("sent", 5))?;
    Ok(response.end()?)
}

fn start_declaring(response: &mut Response<'_>, length: u64) -> Result<(), Error> {
    Ok(response.start(200, &[TEXT, ("Content-Length", &length.to_string())])?)
}

/// Writes `piece` again and again until `length` octets are out.
fn write_times(response: &mut Response<'_>, piece: &[u8], length: u64) -> Result<(), Error> {
    let mut left = length;
    while left > 0 {
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        response.write(&piece[..count])?;
        left -= count as u64;
    }
    Ok(())
}

/// `/env`: a variable of the worker's environment, as octets.
fn environment(response: &mut Response<'_>, query: Query<'_>) -> Result<(), Error> {
    let name = query.octets("name").unwrap_or_default();
    let value = std::env::var_os(std::ffi::OsStr::from_bytes(&name)).unwrap_or_default();
    text(response, &value.into_vec())
}
