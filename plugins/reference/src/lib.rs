//! The application that `rgunicorn certify` runs worker classes against: the same routes blocking, inline and async.
//!
//! Each route does one thing that a class may get wrong, and answers so that a client can tell. It owns no rules: what
//! must come out is written in `host/src/certify/trials.rs`, and the two agree on `SUM` and on the routes.
//!
//! | route | does |
//! |---|---|
//! | `/` | answers `reference` |
//! | `/echo` | reads the body, answers `LENGTH SUM` |
//! | `/unread` | answers and leaves the body |
//! | `/stream?N` | N pieces, `piece 0` and on, each flushed; the length is not declared |
//! | `/large?N` | N octets, `a` to `z` again and again; the length is declared |
//! | `/pid` | the worker |
//! | `/fail`, `/panic` | an error, a panic, before anything is sent |
//! | `/break` | a panic in the middle of a stream |
//! | `/sleep?MS` | waits so long, then answers; not there inline |
//!
//! What a newcomer would get wrong: the path is seen with the prefix of the mount, of which there are three.

mod sleep;

use rgunicorn_worker_api::prelude::*;

export_app! { "app": blocking = blocking, "inline": inline = inline, "async": async = futures }

const TEXT: (&str, &str) = ("Content-Type", "text/plain");

/// Where the sum over a body begins (FNV-1a with 32 bits): it tells whether octets were lost, doubled or moved.
const SUM: u32 = 0x811c_9dc5;

fn blocking(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::blocking(|request, response| {
        let (route, number) = route(request.target());
        if route == b"/sleep" {
            std::thread::sleep(std::time::Duration::from_millis(number));
            return whole(response, b"slept");
        }
        answer(request, response, &route, number)
    }))
}

fn inline(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::inline(|request, response| {
        let (route, number) = route(request.target());
        answer(request, response, &route, number)
    }))
}

/// The path without the mount's prefix, and the number behind `?`.
fn route(target: &[u8]) -> (Vec<u8>, u64) {
    let mut parts = target.splitn(2, |octet| *octet == b'?');
    let path = parts.next().unwrap_or_default();
    let number =
        std::str::from_utf8(parts.next().unwrap_or_default()).ok().and_then(|text| text.parse().ok());
    let path =
        ["/inline", "/async"].iter().find_map(|mount| path.strip_prefix(mount.as_bytes())).unwrap_or(path);
    (if path.is_empty() { b"/".to_vec() } else { path.to_vec() }, number.unwrap_or(3))
}

fn answer(
    request: &mut Request<'_>,
    response: &mut Response<'_>,
    route: &[u8],
    number: u64,
) -> Result<(), Error> {
    match route {
        b"/" => whole(response, b"reference"),
        b"/unread" => whole(response, b"unread"),
        b"/pid" => whole(response, std::process::id().to_string().as_bytes()),
        b"/fail" => Err(Error::new("asked to fail")),
        b"/panic" => asked_to_panic(),
        b"/echo" => {
            let (mut body, mut piece) = (Summed::default(), [0; 8192]);
            loop {
                match request.read(&mut piece)? {
                    0 => return whole(response, body.text().as_bytes()),
                    count => body.add(&piece[..count]),
                }
            }
        }
        b"/stream" | b"/break" => {
            response.start(200, &[TEXT])?;
            for index in 0..number {
                response.write(format!("piece {index}\n").as_bytes())?;
                response.flush()?;
            }
            if route == b"/break" {
                asked_to_panic()
            }
            Ok(response.end()?)
        }
        b"/large" => {
            response.start(200, &[TEXT, ("Content-Length", &number.to_string())])?;
            for piece in alphabets(number) {
                response.write(piece)?;
            }
            Ok(response.end()?)
        }
        _ => Ok(response.respond(404, &[TEXT, ("Content-Length", "0")], b"")?),
    }
}

fn whole(response: &mut Response<'_>, body: &[u8]) -> Result<(), Error> {
    Ok(response.respond(200, &[TEXT, ("Content-Length", &body.len().to_string())], body)?)
}

fn futures(_: &WorkerFacts<'_>) -> Result<App, Error> {
    Ok(App::async_fn(answer_async))
}

async fn answer_async(mut request: AsyncRequest, mut response: AsyncResponse) -> Result<(), Error> {
    let (route, number) = route(&request.target());
    match route.as_slice() {
        b"/" => whole_async(response, b"reference").await,
        b"/unread" => whole_async(response, b"unread").await,
        b"/pid" => whole_async(response, std::process::id().to_string().as_bytes()).await,
        b"/fail" => Err(Error::new("asked to fail")),
        b"/panic" => asked_to_panic(),
        b"/sleep" => {
            sleep::milliseconds(number).await;
            whole_async(response, b"slept").await
        }
        b"/echo" => {
            let (mut body, mut piece) = (Summed::default(), [0; 8192]);
            loop {
                match request.read(&mut piece).await? {
                    0 => return whole_async(response, body.text().as_bytes()).await,
                    count => body.add(&piece[..count]),
                }
            }
        }
        b"/stream" | b"/break" => {
            response.start(200, &[TEXT])?;
            for index in 0..number {
                response.write(format!("piece {index}\n").as_bytes()).await?;
                response.flush().await?;
            }
            if route == b"/break" {
                asked_to_panic()
            }
            Ok(response.end()?)
        }
        b"/large" => {
            response.start(200, &[TEXT, ("Content-Length", &number.to_string())])?;
            for piece in alphabets(number) {
                response.write(piece).await?;
            }
            Ok(response.end()?)
        }
        _ => Ok(response.respond(404, &[TEXT, ("Content-Length", "0")], b"").await?),
    }
}

async fn whole_async(mut response: AsyncResponse, body: &[u8]) -> Result<(), Error> {
    Ok(response.respond(200, &[TEXT, ("Content-Length", &body.len().to_string())], body).await?)
}

#[expect(clippy::panic, reason = "what was asked for")]
fn asked_to_panic() -> ! {
    panic!("asked to panic")
}

/// What was received.
struct Summed {
    length: u64,
    sum: u32,
}

impl Default for Summed {
    fn default() -> Self {
        Self { length: 0, sum: SUM }
    }
}

impl Summed {
    fn add(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        for octet in piece {
            self.sum = (self.sum ^ u32::from(*octet)).wrapping_mul(0x0100_0193);
        }
    }

    fn text(&self) -> String {
        format!("{} {:08x}", self.length, self.sum)
    }
}

/// Pieces of the alphabet, again and again, so many octets in all.
fn alphabets(length: u64) -> impl Iterator<Item = &'static [u8]> {
    static PIECE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let piece = PIECE.get_or_init(|| (b'a'..=b'z').cycle().take(26 * 1024).collect());
    let mut left = length;
    std::iter::from_fn(move || {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        left -= count as u64;
        (count > 0).then(|| &piece[..count])
    })
}
