//! `inspect` once more, by way of axum: the same routes, and the same octets on the wire.
//!
//! The proof that an axum router can say whatever an application may say, and the place to look how: bodies with
//! trailers, streams, faults of the connection, what HTTP has and the types of the crate `http` have not. This file owns
//! the routes. How it misbehaves when it is made, its parameters and its crashes are those of `examples/inspect`, taken
//! from there.
//!
//! A newcomer might answer after a failed read. Whatever is answered then is not sent: the server says 400, 408 or 413.

#[path = "../../inspect/src/crash.rs"]
mod crash;
#[path = "../../inspect/src/initialise.rs"]
mod initialise;
#[path = "../../inspect/src/query.rs"]
mod query;
#[path = "../../inspect/src/version.rs"]
mod version;

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Extension, Json, Router};
use futures_util::stream;
use http_body_util::BodyExt;
use initialise::Moment;
use query::{Query, decimal};
use rgunicorn_worker_api::prelude::{App, Error, WorkerFacts, export_app};
use rgunicorn_worker_api::sdk::connection::Connection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

export_app! { "app": async = app }

/// Most octets handed over in one write: 64 KiB, rounded down to whole alphabets.
const PIECE: usize = 64 * 1024 / 26 * 26;

fn app(facts: &WorkerFacts<'_>) -> Result<App, Error> {
    initialise::run(Moment::Create, facts)?;
    let router = Router::new()
        .route("/noread", any(async || text("ok")))
        .route("/abort", any(abort))
        .route("/exit", any(exit))
        .route("/stream", any(stream))
        .route("/sleep", any(sleep))
        .route("/grow", any(grow))
        .route("/panic", any(panic))
        .route("/panic-mid", any(panic_mid))
        .route("/panic-task", any(panic_task))
        .route("/stuck", any(stuck))
        .route("/segv", any(segv))
        .route("/header", any(header))
        .route("/pid", any(async |_: Read| text(std::process::id().to_string())))
        .route("/large", any(large))
        .route("/wrong-length", any(wrong_length))
        .route("/version", any(async |_: Read| text(version::text())))
        .route("/env", any(environment))
        .route("/busy", any(busy))
        .route("/status/", any(status))
        .route("/status/{*digits}", any(status))
        .fallback(describe);
    // axum takes a 2xx to CONNECT for a tunnel, which has no body. None is offered here.
    let service = router.map_request(|mut request: axum::http::Request<_>| {
        if request.method() == Method::CONNECT {
            *request.method_mut() = Method::GET;
        }
        request
    });
    Ok(App::tower(service).on_start(|facts| initialise::run(Moment::Start, facts)))
}

/// The body, read to its end and not kept.
struct Read {
    length: u64,
    sha256: Sha256,
    trailers: HeaderMap,
}

impl<S: Sync> FromRequest<S> for Read {
    /// Never sent: the server answers for a body that cannot be read.
    type Rejection = StatusCode;

    async fn from_request(request: Request, _: &S) -> Result<Self, StatusCode> {
        let mut read = Self { length: 0, sha256: Sha256::new(), trailers: HeaderMap::new() };
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            match frame.map_err(|_| StatusCode::BAD_REQUEST)?.into_data() {
                Ok(data) => {
                    read.length += data.len() as u64;
                    read.sha256.update(&data);
                }
                Err(frame) => read.trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Ok(read)
    }
}

/// The whole answer at once.
fn text(body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "text/plain")], body.into()).into_response()
}

fn query(uri: &Uri) -> Query<'_> {
    Query::new(uri.query().map(str::as_bytes))
}

fn milliseconds(uri: &Uri) -> Duration {
    Duration::from_millis(query(uri).number("ms", 100))
}

/// `/abort`
async fn abort() -> Response {
    std::process::abort()
}

/// `/exit`
async fn exit(uri: Uri) -> Response {
    crash::exit(query(&uri).number("code", 0))
}

/// `/segv`
async fn segv(_: Read) -> Response {
    crash::segv()
}

/// `/sleep`
async fn sleep(uri: Uri, _: Read) -> Response {
    tokio::time::sleep(milliseconds(&uri)).await;
    text("slept")
}

/// `/busy`: on the thread of the runtime or of the class, which is just what a handler should not do.
async fn busy(uri: Uri, _: Read) -> Response {
    let end = Instant::now() + milliseconds(&uri);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    text("busy")
}

/// `/grow`
async fn grow(uri: Uri, _: Read) -> Response {
    // Written to, so that it is memory and not only addresses.
    vec![1_u8; query(&uri).number("bytes", 1024 * 1024) as usize].leak();
    text("grown")
}

#[expect(clippy::panic, reason = "what was asked for")]
fn asked_to_panic() -> ! {
    panic!("inspect: asked to panic")
}

/// `/panic`
async fn panic(_: Read) -> Response {
    asked_to_panic()
}

/// `/panic-task`: in a task of the runtime, which is nobody's answer.
async fn panic_task(_: Read) -> Response {
    let task = tokio::spawn(async { asked_to_panic() });
    let _: Result<(), _> = task.await;
    text("the task has panicked")
}

/// `/stuck`: blocks the thread of the runtime, which all that has to wait depends on.
async fn stuck(uri: Uri, _: Read) -> Response {
    // The wait brings it there. A short sleep may be over before it is first asked, and then there is no wait.
    tokio::task::yield_now().await;
    std::thread::sleep(milliseconds(&uri));
    text("stuck")
}

/// `/stream`: a body of unknown length, each piece flushed.
async fn stream(uri: Uri, _: Read) -> Response {
    text(pieces(query(&uri).number("size", 5), query(&uri).number("n", 3), || None))
}

/// `/panic-mid`: the beginning of a stream. The server must not let it look like a whole one.
async fn panic_mid(uri: Uri, _: Read) -> Response {
    text(pieces(5, query(&uri).number("n", 2), || asked_to_panic()))
}

/// So many pieces, and then what `end` says.
fn pieces(size: usize, count: u64, end: fn() -> Option<Bytes>) -> Body {
    let piece = Bytes::from(vec![b's'; size]);
    Body::from_stream(stream::unfold(0, move |made| {
        let piece = piece.clone();
        async move {
            if made == count {
                return end().map(|last| (Ok(last), made));
            }
            // A body that has to be waited for is sent as far as it goes.
            tokio::task::yield_now().await;
            Some((Ok::<_, std::io::Error>(piece), made + 1))
        }
    }))
}

/// `/status/NNN`: what the crate `http` has no number for is refused here, and what HTTP has no answer for by the
/// server.
async fn status(uri: Uri, _: Read) -> Response {
    let digits = uri.path().strip_prefix("/status/").unwrap_or_default();
    let number = (digits.len() == 3).then(|| decimal(digits.as_bytes())).flatten();
    match number.and_then(|number: u16| StatusCode::from_u16(number).ok()) {
        Some(status) => (status, [(CONTENT_LENGTH, "1")], text("x")).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `/header`: offered as far as the crate `http` can hold it. The rest is the server's part to refuse, a second length
/// included.
async fn header(uri: Uri, _: Read) -> Response {
    let name = query(&uri).octets("name").unwrap_or_default();
    let value = query(&uri).octets("value").unwrap_or_default();
    let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut answer = text("ok");
    let headers = answer.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("2"));
    if name == CONTENT_TYPE {
        headers.insert(name, value);
    } else {
        headers.append(name, value);
    }
    answer
}

/// `/large`: a known length, in pieces.
async fn large(uri: Uri, _: Read) -> Response {
    let length = query(&uri).number("bytes", 1_048_576);
    let alphabets: Vec<u8> = (b'a'..=b'z').cycle().take(PIECE).collect();
    declaring(length, alphabets, length)
}

/// `/wrong-length`: what is declared and what is written are two parameters.
async fn wrong_length(uri: Uri, _: Read) -> Response {
    declaring(query(&uri).number("declared", 10), vec![b'w'; PIECE], query(&uri).number("sent", 5))
}

/// A declared length, and a piece again and again until `sent` octets are out.
fn declaring(declared: u64, piece: Vec<u8>, sent: u64) -> Response {
    let piece = Bytes::from(piece);
    let body = Body::from_stream(stream::unfold(sent, move |left| {
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let next = piece.slice(..count);
        async move { (left > 0).then(|| (Ok::<_, std::io::Error>(next), left - count as u64)) }
    }));
    ([(CONTENT_LENGTH, declared.to_string())], text(body)).into_response()
}

/// `/env`: a variable of the worker's environment, as octets.
async fn environment(uri: Uri, _: Read) -> Response {
    let name = query(&uri).octets("name").unwrap_or_default();
    let value = std::env::var_os(std::ffi::OsStr::from_bytes(&name)).unwrap_or_default();
    text(value.into_vec())
}

/// Any other target: what the server made of the request.
async fn describe(Extension(connection): Extension<Connection>, request: Request) -> Response {
    let version = request.version();
    let Read { length, sha256, trailers } = match Read::from_request(request, &()).await {
        Ok(read) => read,
        Err(status) => return status.into_response(),
    };
    let mut object = json!({
        "method": latin_1(&connection.method()),
        "target": latin_1(&connection.target()),
        "version": format!("{version:?}"),
        "headers": pairs(connection.fields().iter().map(|(name, value)| (&name[..], &value[..]))),
        "body_len": length,
        "body_sha256": sha256.finalize().iter().map(|octet| format!("{octet:02x}")).collect::<String>(),
    });
    if !trailers.is_empty() {
        object["trailers"] =
            pairs(trailers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())));
    }
    Json(object).into_response()
}

fn pairs<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Value {
    fields.map(|(name, value)| json!([latin_1(name), latin_1(value)])).collect()
}

/// Each octet becomes the character with its number: nothing is lost and nothing can be invalid.
fn latin_1(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}
