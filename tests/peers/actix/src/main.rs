//! actix-web, to be measured beside rgunicorn: one worker thread, three paths.
//!
//! Owns no more than actix-web's own smallest server. What a newcomer would get wrong: a thread of its own accepts, so
//! that a connection that lasts one request costs it a hand-over.

use std::time::Duration;

use actix_web::{App, HttpServer, web};

/// The mebibyte of `/big`.
static ALPHABETS: [[u8; 26]; 40_330] = [*b"abcdefghijklmnopqrstuvwxyz"; 40_330];

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let usage = || std::io::Error::other("usage: rgunicorn-peer-actix ADDRESS:PORT");
    let address = std::env::args().nth(1).ok_or_else(usage)?;
    let app = || {
        App::new()
            .route("/hello", web::get().to(async || "Hello, World!"))
            // Read whole: the answer cannot borrow from the request.
            .route("/echo", web::post().to(async |body: web::Bytes| body))
            .route(
                "/big",
                web::get().to(async || web::Bytes::from_static(&ALPHABETS.as_flattened()[..1024 * 1024])),
            )
    };
    // As many connections as are asked for, kept as long as the other servers keep them.
    HttpServer::new(app)
        .workers(1)
        .max_connections(20_000)
        .keep_alive(Duration::from_secs(75))
        .bind(address)?
        .run()
        .await
}
