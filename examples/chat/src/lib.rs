//! A chat over WebSockets (RFC 6455): what one says, everybody in the room hears.
//!
//! This file owns the handshake, the conversation and the room. The frames are `tokio-tungstenite`'s, over the
//! connection that the server hands over. A room is a worker's: with several workers there are as many rooms, and a
//! service that wants one needs something that they share.
//!
//! A newcomer would forget the end. A conversation goes on for as long as the client likes, and a worker that has to go
//! waits for it, up to `graceful_timeout`. So this one says goodbye as soon as the worker is told to leave, and the
//! client comes back to a new one.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::{SinkExt, StreamExt};
use rgunicorn_worker_api::prelude::{App, Error, WorkerFacts, export_app, log};
use rgunicorn_worker_api::sdk::connection::Connection;
use rgunicorn_worker_api::sdk::runtime;
use rgunicorn_worker_api::sdk::upgrade::Upgraded;
use tokio::sync::broadcast;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

export_app! { "app": async = app }

/// Who lags behind by more messages than this misses some.
const BACKLOG: usize = 256;
/// Octets of a message, at most.
const LONGEST: usize = 64 * 1024;
/// How long a client has to answer a goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Everybody who is in the room of this worker.
type Room = broadcast::Sender<String>;

fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    let room = Room::new(BACKLOG);
    let router = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/chat", get(join))
        .with_state(room);
    Ok(App::tower(router))
}

/// `GET /chat`: the handshake (RFC 6455 section 4.2).
async fn join(
    State(room): State<Room>,
    Extension(connection): Extension<Connection>,
    headers: HeaderMap,
) -> Response {
    let says = |name, what: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(what))
    };
    if !says(header::UPGRADE, "websocket") || !says(header::CONNECTION, "upgrade") {
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], "WebSockets only\n")
            .into_response();
    }
    if !says(header::SEC_WEBSOCKET_VERSION, "13") {
        return (StatusCode::UPGRADE_REQUIRED, [(header::SEC_WEBSOCKET_VERSION, "13")], "version 13 only\n")
            .into_response();
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return (StatusCode::BAD_REQUEST, "there is no Sec-WebSocket-Key\n").into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    // Before the answer, so that nobody who is greeted misses a word.
    let heard = room.subscribe();
    let upgrade = connection.upgrade();
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            converse(stream, &room, heard).await;
        }
    });
    let fields = [
        (header::UPGRADE, "websocket"),
        (header::CONNECTION, "Upgrade"),
        (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, fields).into_response()
}

/// Until the client has enough of it, or the worker leaves. A client that is lost is no error.
async fn converse(stream: Upgraded, room: &Room, mut heard: broadcast::Receiver<String>) {
    let limits = WebSocketConfig::default().max_message_size(Some(LONGEST)).max_frame_size(Some(LONGEST));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(limits)).await;
    let mut leaving = std::pin::pin!(runtime::draining());
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => {
                    // Fails if nobody is in the room, but this one is.
                    let _ = room.send(text.to_string());
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                // A ping is answered by the crate.
                Some(Ok(_)) => {}
            },
            word = heard.recv() => match word {
                Ok(text) => {
                    if socket.send(Message::text(text)).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    log::info!("a slow client has missed {missed} messages");
                }
                Err(broadcast::error::RecvError::Closed) => break,
            },
            () = &mut leaving => {
                let frame = CloseFrame { code: CloseCode::Away, reason: "the server is restarting".into() };
                if socket.close(Some(frame)).await.is_err() {
                    return;
                }
                break;
            }
        }
    }
    // The rest of the closing handshake (RFC 6455 section 7.1.1).
    let _ = tokio::time::timeout(GOODBYE, async { while let Some(Ok(_)) = socket.next().await {} }).await;
}
