//! A connection that both ends have agreed to use for something else than HTTP, such as WebSockets.
//!
//! It owns the octets in both directions until one end closes. A newcomer would wait for both promises in the handler:
//! the client's is kept only once the handler has answered. Nothing here limits silence, which is what most such
//! connections consist of. A worker that leaves lets them go on until `graceful_timeout`.

use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::sdk::upgrade::Upgrade;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

/// Begins to carry octets as soon as both connections are there.
pub(crate) fn join(client: Upgrade, answer: &mut Response<Incoming>, what: String) {
    let upstream = hyper::upgrade::on(answer);
    tokio::spawn(async move {
        // A client that has left meanwhile has nothing to be told, and dropping the other end closes it.
        let Ok(mut client) = client.await else { return };
        match upstream.await {
            Ok(upstream) => {
                // Either end may leave without a word at any time.
                if let Err(error) = copy_bidirectional(&mut client, &mut TokioIo::new(upstream)).await {
                    log::debug!("{what}: the connection ended: {error}");
                }
            }
            Err(error) => {
                log::error!("{what}: the connection did not become another one: {error}");
                let _ = client.shutdown().await;
            }
        }
    });
}
