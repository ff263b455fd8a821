//! A task in the background of the worker, and clients that listen to it (server-sent events).
//!
//! The task ticks whether anybody asks or not, and leaves when the worker does; so do the streams, each at its next
//! event, or a worker that is told to leave would have to cut them off. What a newcomer gets wrong: a stream that
//! nobody reads costs a place in memory, and the server drops it with its client.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use rgunicorn_worker_api::sdk::runtime;
use tokio::sync::watch;

use crate::Service;

/// How often it ticks.
const INTERVAL: Duration = Duration::from_millis(20);

/// How often it has ticked.
#[derive(Clone)]
pub(crate) struct Ticks(watch::Receiver<u64>);

impl Ticks {
    /// Begins to tick.
    pub(crate) fn start() -> Self {
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(INTERVAL);
            let mut leaving = std::pin::pin!(runtime::draining());
            loop {
                tokio::select! {
                    _ = interval.tick() => sender.send_modify(|ticks| *ticks += 1),
                    // The sender's end is the end of every stream.
                    () = &mut leaving => return,
                }
            }
        });
        Self(receiver)
    }
}

/// `GET /ticks`: how often it has ticked.
pub(crate) async fn count(State(service): State<Service>) -> String {
    service.ticks.0.borrow().to_string()
}

/// `GET /ticks/stream`: each tick as an event, until the client has enough of it or the worker leaves.
pub(crate) async fn stream(
    State(service): State<Service>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(unfold(service.ticks.0, |mut ticks| async {
        ticks.changed().await.ok()?;
        let tick = *ticks.borrow_and_update();
        Some((Ok(Event::default().data(tick.to_string())), ticks))
    }))
}
