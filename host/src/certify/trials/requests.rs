//! Trials of framing: heads, bodies, answers, what is kept and what is closed.
//!
//! What a newcomer would get wrong: the routes are `plugins/reference`'s, and so is the sum over a body.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::Kit;
use super::super::client::{Client, Trouble, request};
use super::super::server::pause;
use super::MOUNTS;

/// What `/echo` answers to this body; FNV-1a, as in `plugins/reference`.
fn summed(body: &[u8]) -> String {
    let sum =
        body.iter().fold(0x811c_9dc5_u32, |sum, octet| (sum ^ u32::from(*octet)).wrapping_mul(0x0100_0193));
    format!("{} {sum:08x}", body.len())
}

/// Octets that repeat with no power of two.
fn octets(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}

/// Says what was tried when something went wrong.
pub(super) fn at<T>(what: &str, result: Result<T, Trouble>) -> Result<T, Trouble> {
    result.map_err(|why| format!("{what}: {why}"))
}

/// That one more request is answered on this connection, or that it ends in order.
fn goes_on_or_ends(client: &mut Client, closes: bool) -> Result<(), Trouble> {
    if closes {
        return client.end();
    }
    client.send(request("GET", "/", "").as_bytes())?;
    at("the next request", client.answer("GET"))?.expect(b"reference")
}

pub(super) fn answers(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    for mount in MOUNTS {
        let target = format!("{mount}/");
        let answer = at(&target, Client::get(address, &target))?;
        at(&target, answer.expect(b"reference"))?;
        at(
            &target,
            at("nothing is there", Client::get(address, &format!("{mount}/none"))).and_then(|answer| {
                if answer.status == 404 {
                    Ok(())
                } else {
                    Err(format!("a {} instead of the application's 404", answer.status))
                }
            }),
        )?;
        let target = format!("{mount}/large?100001");
        let answer = at(&target, Client::get(address, &target))?;
        let body: Vec<u8> = (b'a'..=b'z').cycle().take(100_001).collect();
        at(&target, answer.expect(&body))?;
    }
    Ok(())
}

pub(super) fn head(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    for mount in MOUNTS {
        for (target, length) in [("/", Some("9")), ("/large?100000", Some("100000")), ("/stream?3", None)] {
            let target = format!("{mount}{target}");
            let mut client = Client::open(address)?;
            client.send(request("HEAD", &target, "").as_bytes())?;
            let answer = at(&target, client.answer("HEAD"))?;
            if answer.status != 200 || answer.field("content-length") != length {
                let found = answer.field("content-length").unwrap_or("none");
                return Err(format!("HEAD {target}: a {} with Content-Length {found}", answer.status));
            }
            at(&format!("after HEAD {target}"), goes_on_or_ends(&mut client, answer.closes()))?;
        }
    }
    Ok(())
}

pub(super) fn head_in_octets(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let mut client = Client::open(address)?;
    for octet in request("GET", "/", "X-Field: value\r\nConnection: close\r\n").as_bytes() {
        client.send(&[*octet])?;
        pause(Duration::from_millis(1));
    }
    client.answer("GET")?.expect(b"reference")?;
    client.end()
}

pub(super) fn head_cut_anywhere(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let whole = request("POST", "/echo", "Content-Length: 5\r\nConnection: close\r\n") + "octet";
    for place in 1..whole.len() {
        let (first, second) = whole.as_bytes().split_at(place);
        let mut client = Client::open(address)?;
        client.send(first)?;
        // Long enough, mostly, for the first piece to be read alone.
        pause(Duration::from_millis(2));
        client.send(second)?;
        let what = format!("cut after {place} octets");
        at(&what, client.answer("POST").and_then(|answer| answer.expect(summed(b"octet").as_bytes())))?;
        at(&what, client.end())?;
    }
    Ok(())
}

pub(super) fn pipelining(kit: &mut Kit) -> Result<(), Trouble> {
    let keeps = kit.keep_alive;
    let address = kit.shared()?.address;
    for mount in MOUNTS {
        let body = octets(3000);
        let mut all = Vec::new();
        let mut expected: Vec<Vec<u8>> = Vec::new();
        for number in 1..=5 {
            all.extend(request("GET", &format!("{mount}/large?{number}00"), "").as_bytes());
            expected.push((b'a'..=b'z').cycle().take(number * 100).collect());
            all.extend(request("POST", &format!("{mount}/echo"), "Content-Length: 3000\r\n").as_bytes());
            all.extend(&body);
            expected.push(summed(&body).into_bytes());
        }
        let mut client = Client::open(address)?;
        client.send(&all)?;
        let mut closed = false;
        for (index, expected) in expected.iter().enumerate() {
            let what = format!("request {} of 10 at {mount}/", index + 1);
            let answer = at(&what, client.answer("GET"))?;
            at(&what, answer.expect(expected))?;
            if answer.closes() {
                closed = true;
                break;
            }
        }
        match (keeps, closed) {
            (true, true) => {
                return Err("the connection was closed before all requests were answered".to_owned());
            }
            (_, true) => at("after the last answer", client.end())?,
            (_, false) => at("afterwards", goes_on_or_ends(&mut client, false))?,
        }
    }
    Ok(())
}

pub(super) fn connections(kit: &mut Kit) -> Result<(), Trouble> {
    let keeps = kit.keep_alive;
    let address = kit.shared()?.address;
    for (octets, may_keep) in [
        (request("GET", "/", ""), keeps),
        (request("GET", "/", "Connection: close\r\n"), false),
        ("GET / HTTP/1.0\r\nHost: certify\r\n\r\n".to_owned(), false),
    ] {
        let what = octets.lines().next().unwrap_or_default().to_owned();
        let mut client = Client::open(address)?;
        client.send(octets.as_bytes())?;
        let answer = at(&what, client.answer("GET"))?;
        at(&what, answer.expect(b"reference"))?;
        match (may_keep, answer.closes()) {
            (true, true) => {
                return Err(format!("{what}: the connection is closed, though the class claims keep-alive"));
            }
            (false, false) => {
                return Err(format!(
                    "{what}: the connection is to be closed, and the answer does not say so"
                ));
            }
            (_, closes) => at(&what, goes_on_or_ends(&mut client, closes))?,
        }
    }
    Ok(())
}

pub(super) fn kept(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let mut client = Client::open(address)?;
    for index in 0..100 {
        let mount = MOUNTS[index % MOUNTS.len()];
        let what = format!("request {} of 100", index + 1);
        client.send(request("GET", &format!("{mount}/"), "").as_bytes())?;
        at(&what, client.answer("GET").and_then(|answer| answer.expect(b"reference")))?;
    }
    Ok(())
}

/// The body as chunks of growing sizes, with an extension and a trailer field.
fn chunked(body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let (mut rest, mut size) = (body, 1);
    while !rest.is_empty() {
        let (piece, left) = rest.split_at(size.min(rest.len()));
        all.extend(format!("{:x};name=value\r\n", piece.len()).as_bytes());
        all.extend(piece);
        all.extend(b"\r\n");
        (rest, size) = (left, size * 3 + 1);
    }
    all.extend(b"0\r\nX-Trailer: value\r\n\r\n");
    all
}

pub(super) fn bodies(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let large = octets(300_001);
    let small = octets(700);
    for mount in MOUNTS {
        let target = format!("{mount}/echo");
        let declared = |body: &[u8]| {
            let head = request("POST", &target, &format!("Content-Length: {}\r\n", body.len()));
            [head.as_bytes(), body].concat()
        };
        let coded = |body: &[u8]| {
            [request("POST", &target, "Transfer-Encoding: chunked\r\n").as_bytes(), &chunked(body)].concat()
        };
        for (what, octets, piece, body) in [
            ("with a length", declared(&large), 64 * 1024, &large),
            ("with a length, in pieces of 997 octets", declared(&large), 997, &large),
            ("with a length, octet by octet", declared(&small), 1, &small),
            ("chunked", coded(&large), 64 * 1024, &large),
            ("chunked, in pieces of 997 octets", coded(&large), 997, &large),
            ("chunked, octet by octet", coded(&small), 1, &small),
        ] {
            let what = format!("{target}, {what}");
            let mut client = Client::open(address)?;
            for piece in octets.chunks(piece) {
                at(&what, client.send(piece))?;
            }
            let answer = at(&what, client.answer("POST"))?;
            at(&what, answer.expect(summed(body).as_bytes()))?;
            at(&what, goes_on_or_ends(&mut client, answer.closes()))?;
        }
    }
    Ok(())
}

pub(super) fn unread(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let hidden = request("GET", "/pid", "");
    for mount in MOUNTS {
        for count in [1, 2000] {
            let body = hidden.repeat(count);
            let coded = chunked(body.as_bytes());
            let length = format!("Content-Length: {}\r\n", body.len());
            for (fields, body) in
                [(length.as_str(), body.as_bytes()), ("Transfer-Encoding: chunked\r\n", &coded)]
            {
                let what = format!("{mount}/unread with {} octets", body.len());
                let mut client = Client::open(address)?;
                client.send(request("POST", &format!("{mount}/unread"), fields).as_bytes())?;
                // The server may have answered and ended meanwhile: then the rest finds nobody.
                let sent = client.send(body);
                let answer = at(&what, client.answer("POST"))?;
                at(&what, answer.expect(b"unread"))?;
                if !answer.closes() && sent.is_ok() {
                    // It may end after all: what was left unread can be more than it wants to read away.
                    let what = format!("the request after {what}");
                    let next =
                        client.send(request("GET", "/", "").as_bytes()).and_then(|()| client.answer("GET"));
                    if let Ok(answer) = next {
                        at(&what, answer.expect(b"reference"))?;
                    }
                } else if answer.closes() {
                    at(&format!("after {what}"), client.end())?;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn expect_continue(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let body = octets(5000);
    let fields = "Content-Length: 5000\r\nExpect: 100-continue\r\n";
    for mount in MOUNTS {
        let what = format!("{mount}/echo");
        let mut client = Client::open(address)?;
        client.send(request("POST", &what, fields).as_bytes())?;
        match at(&format!("{what}, before the body is sent"), client.interim())? {
            100 => {}
            other => return Err(format!("{what}: a {other} instead of a 100")),
        }
        client.send(&body)?;
        let answer = at(&what, client.answer("POST"))?;
        at(&what, answer.expect(summed(&body).as_bytes()))?;
        at(&what, goes_on_or_ends(&mut client, answer.closes()))?;

        // Nobody reads the body: the answer must come without it.
        let what = format!("{mount}/unread");
        let mut client = Client::open(address)?;
        client.send(request("POST", &what, fields).as_bytes())?;
        let answer = at(&what, client.answer("POST"))?;
        at(&what, answer.expect(b"unread"))?;
        if answer.interim.is_empty() && !answer.closes() {
            return Err(format!(
                "{what}: the connection is kept, though nobody knows whether the body follows"
            ));
        }
    }
    Ok(())
}

pub(super) fn half_close(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    for target in [
        "/",
        "/large?300000",
        "/sleep?200",
        "/async/",
        "/async/large?300000",
        "/async/sleep?200",
        "/inline/large?300000",
    ] {
        let mut client = Client::open(address)?;
        client.send(request("GET", target, "").as_bytes())?;
        client.finish()?;
        let answer = at(target, client.answer("GET"))?;
        if answer.status != 200 {
            return Err(format!("{target}: a {} instead of a 200", answer.status));
        }
        at(target, client.end())?;
    }
    Ok(())
}

pub(super) fn streams(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let body: String = (0..20).map(|index| format!("piece {index}\n")).collect();
    for mount in MOUNTS {
        let target = format!("{mount}/stream?20");
        let mut client = Client::open(address)?;
        client.send(request("GET", &target, "").as_bytes())?;
        let answer = at(&target, client.answer("GET"))?;
        at(&target, answer.expect(body.as_bytes()))?;
        if answer.field("transfer-encoding").is_none() {
            return Err(format!(
                "{target}: the answer for HTTP/1.1 is not chunked, so that its end cannot be told from a loss"
            ));
        }
        at(&target, goes_on_or_ends(&mut client, answer.closes()))?;

        let what = format!("{target} for HTTP/1.0");
        let mut client = Client::open(address)?;
        client.send(format!("GET {target} HTTP/1.0\r\nHost: certify\r\n\r\n").as_bytes())?;
        let answer = at(&what, client.answer("GET"))?;
        at(&what, answer.expect(body.as_bytes()))?;
        if answer.field("transfer-encoding").is_some() {
            return Err(format!("{what}: the answer is chunked, which such a client does not know"));
        }
    }
    Ok(())
}

/// Requests that RFC 9112 obliges a server to refuse, with what is wrong in each.
const MALFORMED: &[(&str, &str)] = &[
    ("no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("no version", "GET /\r\n\r\n"),
    ("an unknown version", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nX-Field : b\r\n\r\n"),
    ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX-Field: b\r\n c\r\n\r\n"),
    ("two lengths", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("a length that is no number", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na"),
    (
        "a length and a transfer coding",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a transfer coding that is not chunked at its end",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "a chunk size that is no number",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
    ),
    ("a zero in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-Field: a\0b\r\n\r\n"),
    ("no HTTP at all", "\x16\x03\x01\x02\r\n\r\n"),
];

pub(super) fn malformed(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    for (what, octets) in MALFORMED {
        refused(address, what, octets.as_bytes())?;
    }
    // And the worker is none the worse for it.
    Client::get(address, "/")?.expect(b"reference")
}

pub(super) fn long_head(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    let long = "x".repeat(200_000);
    refused(address, "a request line of 200000 octets", request("GET", &format!("/{long}"), "").as_bytes())?;
    refused(
        address,
        "a field of 200000 octets",
        request("GET", "/", &format!("X-Long: {long}\r\n")).as_bytes(),
    )?;
    refused(address, "20000 fields", request("GET", "/", &"X-Field: a\r\n".repeat(20_000)).as_bytes())?;
    Client::get(address, "/")?.expect(b"reference")
}

/// That a request gets an answer of an error, and that nothing more is taken from its connection.
fn refused(address: SocketAddr, what: &str, octets: &[u8]) -> Result<(), Trouble> {
    let mut client = Client::open(address)?;
    // A server that has seen enough answers before it has all.
    let _ = client.send(octets);
    let answer = at(what, client.answer("GET"))?;
    if !(400..600).contains(&answer.status) {
        return Err(format!("{what}: a {} instead of a refusal", answer.status));
    }
    if !answer.closes() {
        return Err(format!("{what}: the refusal does not close the connection"));
    }
    at(what, client.end())
}

pub(super) fn errors(kit: &mut Kit) -> Result<(), Trouble> {
    let server = kit.shared()?;
    let (address, worker) = (server.address, server.worker()?);
    for mount in MOUNTS {
        for route in ["/fail", "/panic"] {
            let target = format!("{mount}{route}");
            let mut client = Client::open(address)?;
            client.send(request("GET", &target, "").as_bytes())?;
            let answer = at(&target, client.answer("GET"))?;
            if answer.status != 500 {
                return Err(format!("{target}: a {} instead of a 500", answer.status));
            }
            at(&target, goes_on_or_ends(&mut client, answer.closes()))?;
        }
    }
    match kit.shared()?.worker()? {
        same if same == worker => Ok(()),
        _ => Err("the worker died of it".to_owned()),
    }
}

pub(super) fn broken_stream(kit: &mut Kit) -> Result<(), Trouble> {
    let address = kit.shared()?.address;
    for mount in MOUNTS {
        let target = format!("{mount}/break?3");
        let mut client = Client::open(address)?;
        client.send(request("GET", &target, "").as_bytes())?;
        match client.answer("GET") {
            // Nothing of it had been sent.
            Ok(answer) if answer.status == 500 => {}
            Ok(_) => return Err(format!("{target}: the answer looks whole")),
            Err(why) if why.contains("nothing came") => return Err(format!("{target}: {why}")),
            Err(_) => {}
        }
        at("afterwards", Client::get(address, "/").and_then(|answer| answer.expect(b"reference")))?;
    }
    Ok(())
}
