//! A `tower` service as an application, such as an axum router: [`App::tower`], [`App::tower_with`].
//!
//! It owns one exchange from the service's point of view: the request in the types of `http`, the call, the answer with
//! its body frame by frame, as fast as the client takes it. An answer that is there at once goes out in one piece. What
//! a newcomer gets wrong: an error of the service is no answer. It is logged, and the server says 500 or, half-way
//! through a body, cuts the connection, so that half of an answer never looks like a whole one.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use tower_service::Service;

use crate::app::App;
use crate::asynchronous::{AsyncRequest, AsyncResponse};
use crate::error::{Error, Fault};
use crate::request::{Field, NO_FIELDS};
use crate::sdk::body::Body;
use crate::sdk::connection::Connection;
use crate::sdk::http::fields_of;
use crate::sdk::runtime::{Ground, Grounded, Worker};
use crate::sdk::upgrade::Upgraded;

/// An error of any kind, as `tower` has it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl App {
    /// A `tower` service that answers. It is cloned for each request.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use rgunicorn_worker_api::prelude::*;
    ///
    /// export_app! { "app": async = app }
    ///
    /// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    ///     Ok(App::tower(Router::new().route("/", get(|| async { "Hello, World!\n" }))))
    /// }
    /// # fn main() {}
    /// ```
    ///
    /// The service is made in create, where there is no runtime and may be no network: in the probe too. What needs
    /// them, such as a connection pool, is made in [`App::tower_with`].
    #[must_use]
    pub fn tower<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data: Send> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let ground = Ground::new();
        let service = Grounded::new(service, &ground);
        Self::answering_on(ground, move |request, response| {
            service.get().map(|service| exchange(service.clone(), request, response))
        })
    }

    /// A `tower` service that is made when a worker starts, on its runtime. An error is a failed boot: at a reload
    /// the old generation serves on.
    ///
    /// ```
    /// use axum::{Router, extract::State, routing::get};
    /// use rgunicorn_worker_api::prelude::*;
    /// # #[derive(Clone)] struct Pool;
    /// # impl Pool { async fn connect(_: &str) -> std::io::Result<Self> { Ok(Self) } async fn count(&self) -> String { String::new() } }
    ///
    /// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    ///     Ok(App::tower_with(|worker| async move {
    ///         log::info!("worker {} connects", worker.pid);
    ///         let pool = Pool::connect("db.example:5432").await?;
    ///         Ok(Router::new()
    ///             .route("/", get(async |State(pool): State<Pool>| pool.count().await))
    ///             .with_state(pool))
    ///     }))
    /// }
    /// ```
    #[must_use]
    pub fn tower_with<I, Fut, S, B>(init: I) -> Self
    where
        I: Fn(Worker) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<S, Error>> + Send,
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data: Send> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let made = Arc::new(OnceLock::new());
        // Weakly, so that the service goes before the runtime that it may need to go.
        let place = Arc::downgrade(&made);
        let ground = Ground::preparing(move |handle, worker| {
            let service = handle.block_on(init(worker))?;
            match place.upgrade() {
                Some(place) => {
                    place.set(service).map_err(|_| Error::new("the application was started twice"))
                }
                None => Err(Error::new("the application was dropped while it started")),
            }
        });
        let made = Grounded::new(made, &ground);
        Self::answering_on(ground, move |request, response| {
            made.get()?.get().map(|service: &S| exchange(service.clone(), request, response))
        })
    }
}

async fn exchange<S, B>(
    mut service: S,
    request: AsyncRequest,
    mut response: AsyncResponse,
) -> Result<(), Error>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let connection = Connection::new(request);
    let Ok(parts) = connection.head() else {
        // What the server took and the crate `http` cannot hold: a target or a name beyond 64 KiB.
        return Ok(response.respond(400, NO_FIELDS, b"").await?);
    };
    let _abandon = Abandon(&connection);
    let connects = parts.method == Method::CONNECT;
    let request = Request::from_parts(parts, Body::of(&connection));
    poll_fn(|context| service.poll_ready(context)).await.map_err(failed)?;
    let answer = service.call(request).await;
    // A body that could not be read is answered by the server, whatever the service made of it.
    if let Some(fault) = connection.fault() {
        return Err(fault.into());
    }
    let (parts, body) = answer.map_err(failed)?.into_parts();
    let upgrade = connection.take_upgrade();
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS || connects && parts.status.is_success();
    match upgrade {
        Some(upgrade) if switches => {
            let mut fields = fields_of(&parts.headers);
            // Routers count the octets of every body, and this answer has none (RFC 9110 section 8.6).
            fields.retain(|field| field.name != CONTENT_LENGTH.as_str().as_bytes());
            let stream = response.take_over(parts.status.as_u16(), &fields)?;
            let (upgraded, closed) = Upgraded::new(stream);
            // Who does not want it any more closes it by that.
            if upgrade.send(upgraded).is_ok() {
                // The sender's drop is the end that is waited for.
                let _ = closed.await;
            }
            Ok(())
        }
        _ => {
            drop(upgrade);
            send(parts.status, &parts.headers, body, &mut response).await
        }
    }
}

/// Tells who waits for the connection that there will be none, however the exchange ends. A task that waits for it may
/// itself hold a clone of the [`Connection`], and would wait for ever.
struct Abandon<'c>(&'c Connection);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        drop(self.0.take_upgrade());
    }
}

/// An error of the service's. A fault of the connection that it passes on stays one.
fn failed(error: impl Into<BoxError>) -> Error {
    let error = error.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    let mut message = String::new();
    while let Some(current) = cause {
        if let Some(fault) = current.downcast_ref::<Fault>() {
            return Error::from(*fault);
        }
        let text = current.to_string();
        // Many errors print their source in their own text.
        if !message.contains(&text) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&text);
        }
        cause = current.source();
    }
    Error::new(message)
}

async fn send<B>(
    status: StatusCode,
    headers: &HeaderMap,
    body: B,
    response: &mut AsyncResponse,
) -> Result<(), Error>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    let status = status.as_u16();
    let mut fields = fields_of(headers);
    let mut body = pin!(body);
    if body.is_end_stream() {
        return Ok(response.respond(status, &fields, b"").await?);
    }
    // Before the first frame is taken out of it.
    let length = body.size_hint().exact().map(|length| length.to_string());
    // The answer is whole if its first frame is there at once, and is the last.
    let mut first = poll_fn(|context| Poll::Ready(poll_frame(&mut body, context))).await;
    if let Poll::Ready(Some(Ok(frame))) = &first
        && let Some(data) = frame.data_ref()
        && data.chunk().len() == data.remaining()
        && body.is_end_stream()
    {
        return Ok(response.respond(status, &fields, data.chunk()).await?);
    }
    if let Poll::Ready(Some(Err(error))) = first {
        return Err(error);
    }
    if let Some(length) = &length
        && !headers.contains_key(CONTENT_LENGTH)
    {
        fields.push(Field::new("Content-Length", length));
    }
    response.start(status, &fields)?;
    let mut flushed = false;
    loop {
        let next = match std::mem::replace(&mut first, Poll::Pending) {
            Poll::Ready(next) => next,
            Poll::Pending => next(&mut body, response, &mut flushed).await?,
        };
        let Some(frame) = next else { break };
        match frame?.into_data() {
            Ok(mut data) => {
                flushed = false;
                // An empty piece is a write as well.
                loop {
                    let count = data.chunk().len();
                    response.write(data.chunk()).await?;
                    data.advance(count);
                    if !data.has_remaining() {
                        break;
                    }
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    response.trailers(&fields_of(&trailers))?;
                }
            }
        }
    }
    Ok(response.end()?)
}

fn poll_frame<B>(
    body: &mut Pin<&mut B>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<B::Data>, Error>>>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    body.as_mut().poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(failed)))
}

/// The next frame. While there is none, the client gets what there was before.
async fn next<B>(
    body: &mut Pin<&mut B>,
    response: &mut AsyncResponse,
    flushed: &mut bool,
) -> Result<Option<Result<Frame<B::Data>, Error>>, Fault>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    poll_fn(|context| {
        if let Poll::Ready(frame) = poll_frame(body, context) {
            return Poll::Ready(Ok(frame));
        }
        if !*flushed {
            match response.poll_flush(context) {
                Poll::Ready(Ok(())) => *flushed = true,
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await
}
