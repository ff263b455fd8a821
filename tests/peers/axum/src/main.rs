//! axum, to be measured beside rgunicorn: one thread, a router of three paths.
//!
//! Owns no more than axum's own smallest server. What a newcomer would get wrong: hyper is inside it, so that the
//! difference of the two is the router.

use std::error::Error;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

/// The mebibyte of `/big`.
static ALPHABETS: [[u8; 26]; 40_330] = [*b"abcdefghijklmnopqrstuvwxyz"; 40_330];

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).ok_or("usage: rgunicorn-peer-axum ADDRESS:PORT")?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(serve(&address))
}

async fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?.tap_io(|stream| {
        // One that has gone meanwhile is found out by whoever reads it.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new()
        .route("/hello", get(async || "Hello, World!"))
        // As it comes, piece by piece.
        .route("/echo", post(async |body: Body| body))
        .route("/big", get(async || &ALPHABETS.as_flattened()[..1024 * 1024]));
    axum::serve(listener, router).await?;
    Ok(())
}
