//! hyper, to be measured beside rgunicorn: one thread, HTTP/1.1, three paths.
//!
//! Owns no more than hyper's own smallest server. What a newcomer would get wrong: it has neither time limits nor a
//! master, so what it costs is a floor and not a rival.

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The mebibyte of `/big`.
static ALPHABETS: [[u8; 26]; 40_330] = [*b"abcdefghijklmnopqrstuvwxyz"; 40_330];

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: rgunicorn-peer-hyper ADDRESS:PORT")?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(&address))
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that leaves is an error too, and of no interest.
            let _ = http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Incoming>>, Infallible> {
    let mut response = Response::new(match request.uri().path() {
        // As it comes, piece by piece.
        "/echo" => Either::Right(request.into_body()),
        "/big" => Either::Left(Full::new(Bytes::from_static(&ALPHABETS.as_flattened()[..1024 * 1024]))),
        _ => Either::Left(Full::new(Bytes::from_static(b"Hello, World!"))),
    });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
