//! A `tower` service as an application, such as an axum router: [`App::tower`], [`App::tower_with`].
//!
//! It owns one exchange from the service's point of view: the request in the types of `http`, the call, the answer with
//! its body frame by frame, as fast as the client takes it. An answer that is there at once goes out in one piece. What
//! a newcomer gets wrong: an error of the service is no answer. It is logged, and the server says 500 or, half-way
//! through a body, cuts the connection, so that half of an answer never looks like a whole one.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use tokio::sync::oneshot;
use tower_service::Service;

use crate::app::App;
use crate::asynchronous::{AsyncRequest, AsyncResponse, WHOLE};
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
            service.get().map(|service| Serving::new(service.clone(), request, response))
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
            made.get()?.get().map(|service: &S| Serving::new(service.clone(), request, response))
        })
    }
}

/// One exchange. It lies where its answer does, and moves to the runtime once it has to wait; what must not move then
/// has a box of its own. Most answers come at once, and need but one.
struct Serving<S: Service<Request<Body>>> {
    step: Step<S>,
    connects: bool,
    /// Last, so that what may hold a clone of the connection has gone when it is told that there will be none.
    connection: Abandon,
}

enum Step<S: Service<Request<Body>>> {
    Begin(S, AsyncResponse),
    Called(Pin<Box<S::Future>>, AsyncResponse),
    /// Whatever takes longer: a body in pieces, or the connection itself.
    Rest(Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>),
    Over,
}

// Nothing in it is pinned where it lies.
impl<S: Service<Request<Body>>> Unpin for Serving<S> {}

impl<S, B> Serving<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data: Send> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn new(service: S, request: AsyncRequest, response: AsyncResponse) -> Self {
        let connection = Abandon(Connection::new(request));
        Self { step: Step::Begin(service, response), connects: false, connection }
    }

    /// The service has answered: what is there at once is sent at once.
    fn answered(
        &self,
        answer: Result<Response<B>, S::Error>,
        mut response: AsyncResponse,
        context: &mut Context<'_>,
    ) -> Result<Step<S>, Error> {
        let connection = &self.connection.0;
        // A body that could not be read is answered by the server, whatever the service made of it.
        if let Some(fault) = connection.fault() {
            return Err(fault.into());
        }
        let (parts, body) = answer.map_err(failed)?.into_parts();
        let upgrade = connection.take_upgrade();
        let switches =
            parts.status == StatusCode::SWITCHING_PROTOCOLS || self.connects && parts.status.is_success();
        if let Some(upgrade) = upgrade.filter(|_| switches) {
            return Ok(Step::Rest(Box::pin(hand_over(parts, upgrade, response))));
        }
        let status = parts.status.as_u16();
        if body.is_end_stream() {
            response.respond_now(status, fields_of(&parts.headers), b"")?;
            return Ok(Step::Over);
        }
        let mut body = Box::pin(body);
        // Before the first frame is taken out of it.
        let mut length = body.size_hint().exact();
        let first = match poll_frame(&mut body.as_mut(), context) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame?)),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        };
        // The answer is whole if its first frame is there at once, and is the last.
        if let Poll::Ready(Some(frame)) = &first
            && let Some(data) = frame.data_ref()
            && data.chunk().len() == data.remaining()
            && body.is_end_stream()
        {
            if data.remaining() <= WHOLE {
                response.respond_now(status, fields_of(&parts.headers), data.chunk())?;
                return Ok(Step::Over);
            }
            length = Some(data.remaining() as u64);
        }
        Ok(Step::Rest(Box::pin(stream(parts, length, first, body, response))))
    }
}

impl<S, B> Future for Serving<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data: Send> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            this.step = match std::mem::replace(&mut this.step, Step::Over) {
                Step::Begin(mut service, mut response) => match service.poll_ready(context) {
                    Poll::Ready(ready) => {
                        ready.map_err(failed)?;
                        let Ok(request) = this.connection.0.to_http() else {
                            // What the server took and the crate `http` cannot hold: a target or a name beyond 64 KiB.
                            return Poll::Ready(Ok(response.respond_now(
                                400,
                                NO_FIELDS.iter().copied(),
                                b"",
                            )?));
                        };
                        this.connects = request.method() == Method::CONNECT;
                        Step::Called(Box::pin(service.call(request)), response)
                    }
                    Poll::Pending => {
                        this.step = Step::Begin(service, response);
                        return Poll::Pending;
                    }
                },
                Step::Called(mut future, response) => match future.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        drop(future);
                        this.answered(answer, response, context)?
                    }
                    Poll::Pending => {
                        this.step = Step::Called(future, response);
                        return Poll::Pending;
                    }
                },
                Step::Rest(mut rest) => {
                    let poll = rest.as_mut().poll(context);
                    if poll.is_pending() {
                        this.step = Step::Rest(rest);
                    }
                    return poll;
                }
                Step::Over => return Poll::Ready(Ok(())),
            };
        }
    }
}

/// Tells who waits for the connection that there will be none, however the exchange ends. A task that waits for it may
/// itself hold a clone of the [`Connection`], and would wait for ever.
struct Abandon(Connection);

impl Drop for Abandon {
    fn drop(&mut self) {
        drop(self.0.take_upgrade());
    }
}

/// Answers with the head alone, and hands the connection to who waits for it.
async fn hand_over(
    parts: http::response::Parts,
    upgrade: oneshot::Sender<Upgraded>,
    mut response: AsyncResponse,
) -> Result<(), Error> {
    let stream = {
        // Routers count the octets of every body, and this answer has none (RFC 9110 section 8.6).
        let fields: Vec<Field<'_>> = fields_of(&parts.headers)
            .filter(|field| field.name != CONTENT_LENGTH.as_str().as_bytes())
            .collect();
        response.take_over(parts.status.as_u16(), &fields)?
    };
    let (upgraded, closed) = Upgraded::new(stream);
    // Who does not want it any more closes it by that.
    if upgrade.send(upgraded).is_ok() {
        // The sender's drop is the end that is waited for.
        let _ = closed.await;
    }
    Ok(())
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

/// Sends an answer in pieces, of which `first` was asked for already.
async fn stream<B>(
    parts: http::response::Parts,
    length: Option<u64>,
    first: Poll<Option<Frame<B::Data>>>,
    mut body: Pin<Box<B>>,
    mut response: AsyncResponse,
) -> Result<(), Error>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    start(&parts, length, &mut response)?;
    let mut first = first.map(|frame| frame.map(Ok));
    let mut flushed = false;
    loop {
        let next = match std::mem::replace(&mut first, Poll::Pending) {
            Poll::Ready(next) => next,
            Poll::Pending => next(&mut body.as_mut(), &mut response, &mut flushed).await?,
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
                    let trailers: Vec<Field<'_>> = fields_of(&trailers).collect();
                    response.trailers(&trailers)?;
                }
            }
        }
    }
    Ok(response.end()?)
}

/// The head of an answer that comes in pieces.
fn start(
    parts: &http::response::Parts,
    length: Option<u64>,
    response: &mut AsyncResponse,
) -> Result<(), Fault> {
    let mut fields: Vec<Field<'_>> = fields_of(&parts.headers).collect();
    let length = length.map(|length| length.to_string());
    if let Some(length) = &length
        && !parts.headers.contains_key(CONTENT_LENGTH)
    {
        fields.push(Field::new("Content-Length", length));
    }
    response.start(parts.status.as_u16(), &fields)
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
