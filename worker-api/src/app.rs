//! What an application is: a function from request to response, and a life cycle around it.
//!
//! `create` makes it, in the probe and in every worker (or once in a template process that is then forked):
//! no threads, no sockets kept. `start` runs in each worker after the last fork: threads, pools and runtimes
//! belong there. Then `ready`, requests, `drain`, `shutdown`.

use crate::abi::{self, AppHostHandle, RequestHandle, ResponseHandle};
use crate::asynchronous::{AsyncRequest, AsyncResponse, gated};
use crate::error::Error;
use crate::request::Request;
use crate::response::Response;
use std::fmt;
use std::future::Future;

/// How an application answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Execution {
    /// May sleep; a worker class gives it a thread.
    Blocking = abi::EXECUTION_BLOCKING,
    /// Never waits; a worker class may call it on its event loop.
    Inline = abi::EXECUTION_INLINE,
    /// Returns a future.
    Async = abi::EXECUTION_ASYNC,
}

impl Execution {
    /// The word in the ELF note and in the export macro.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocking => "blocking",
            Self::Inline => "inline",
            Self::Async => "async",
        }
    }
}

pub use crate::abi::Answer;

/// What crosses the interface as an application object. Authors use [`App`].
///
/// `[worker]`; `start`, `ready`, `drain` and `shutdown` once each and in this order, all on `[main]` but `drain`, which
/// comes on any thread while calls go on; `call` and `call_async` on any thread between `ready` and `shutdown`.
pub trait Application: Send + Sync + 'static {
    /// How it answers.
    fn execution(&self) -> Execution;
    /// Whether calls must not overlap.
    fn one_at_a_time(&self) -> bool;
    /// After the last fork. An error is a failed boot.
    ///
    /// # Errors
    /// Whatever keeps the application from serving in this worker.
    fn start(&self, facts: &WorkerFacts<'_>) -> Result<(), Error>;
    /// Before the first request. An error is a failed boot.
    ///
    /// # Errors
    /// As for `start`.
    fn ready(&self) -> Result<(), Error>;
    /// Answers one request, blocking or inline.
    ///
    /// # Errors
    /// An error of its own is logged and, if nothing was sent, answered with 500.
    fn call(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Result<(), Error>;
    /// Answers one request with a future that must be dropped before the exchange ends.
    fn call_async(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Answer;
    /// The worker accepts no more; long-lived exchanges should come to an end.
    fn drain(&self);
    /// The last exchange has ended.
    fn shutdown(&self);
}

/// What an application may know about the process it runs in.
#[derive(Clone, Copy)]
pub struct WorkerFacts<'x> {
    host: AppHostHandle<'x>,
    /// The application that is created, by its name in the library; none after create, and in the kit.
    #[cfg_attr(not(feature = "settings"), allow(dead_code, reason = "what is wrong with a setting says it"))]
    pub(crate) application: Option<&'x str>,
}

impl<'x> WorkerFacts<'x> {
    pub(crate) fn new(host: AppHostHandle<'x>) -> Self {
        Self { host, application: None }
    }

    pub(crate) fn to_create(host: AppHostHandle<'x>, application: &'x [u8]) -> Self {
        Self { host, application: std::str::from_utf8(application).ok() }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.host.pid()
    }

    /// The worker's number in order of birth, counted over the life of the master; 0 in a probe, and in a template
    /// (`preload_app`), which creates for the workers that it forks.
    #[must_use]
    pub fn age(&self) -> u64 {
        self.host.age()
    }

    /// The generation, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.host.generation()
    }

    /// Whether this is only a probe: the application is created, tried, and thrown away.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.host.is_probe()
    }

    /// The application's own settings (`[app.NAME]` of the configuration file) as a JSON object.
    #[must_use]
    pub fn settings(&self) -> &'x str {
        self.host.settings()
    }

    /// A setting of the server as text, by Gunicorn's name for it; `None` for one that the host does not know, and
    /// where it tells none.
    #[must_use]
    pub fn server_setting(&self, name: &str) -> Option<&'x str> {
        self.host.server_setting(name)
    }

    /// Whether the host has a worker replaced that says it is stuck; an older one does not.
    #[doc(hidden)]
    #[must_use]
    pub fn hears_stuck(&self) -> bool {
        self.host.hears_stuck()
    }

    /// The host, for as long as the process lives.
    #[cfg(feature = "tokio")]
    pub(crate) fn host(&self) -> AppHostHandle<'static> {
        self.host.lasting()
    }
}

impl fmt::Debug for WorkerFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerFacts")
            .field("pid", &self.pid())
            .field("age", &self.age())
            .field("generation", &self.generation())
            .field("is_probe", &self.is_probe())
            .finish()
    }
}

type Call = Box<dyn Fn(&mut Request<'_>, &mut Response<'_>) -> Result<(), Error> + Send + Sync>;
type CallAsync = Box<dyn Fn(RequestHandle<'_>, ResponseHandle<'_>) -> Answer + Send + Sync>;
type Start = Box<dyn Fn(&WorkerFacts<'_>) -> Result<(), Error> + Send + Sync>;
type Ready = Box<dyn Fn() -> Result<(), Error> + Send + Sync>;
type Farewell = Box<dyn Fn() + Send + Sync>;

enum Handler {
    Blocking(Call),
    Inline(Call),
    Async(CallAsync),
}

/// An application made of closures.
///
/// ```
/// use rgunicorn_worker_api::prelude::*;
///
/// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
///     Ok(App::inline(|_request, response| {
///         Ok(response.respond(200, &[("Content-Type", "text/plain")], b"Hello, World!\n")?)
///     }))
/// }
/// ```
pub struct App {
    handler: Handler,
    one_at_a_time: bool,
    start: Option<Start>,
    ready: Option<Ready>,
    drain: Option<Farewell>,
    shutdown: Option<Farewell>,
    /// The runtime around the handler. Last, so that it is dropped after whatever may need it.
    #[cfg(feature = "tokio")]
    ground: Option<std::sync::Arc<crate::sdk::runtime::Ground>>,
}

impl App {
    fn new(handler: Handler) -> Self {
        Self {
            handler,
            one_at_a_time: false,
            start: None,
            ready: None,
            drain: None,
            shutdown: None,
            #[cfg(feature = "tokio")]
            ground: None,
        }
    }

    /// An async application whose life has a runtime around it.
    #[cfg(feature = "tokio")]
    pub(crate) fn on_ground<F, Fut>(ground: std::sync::Arc<crate::sdk::runtime::Ground>, handler: F) -> Self
    where
        F: Fn(AsyncRequest, AsyncResponse) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self { ground: Some(ground), ..Self::async_fn(handler) }
    }

    /// A step of the application's life, with its runtime, if it has one, at hand.
    fn within<R>(&self, step: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tokio")]
        let _entered = self.ground.as_ref().and_then(|ground| ground.enter());
        step()
    }

    /// An application that may sleep, read files, query a database, compute.
    #[must_use]
    pub fn blocking<F>(handler: F) -> Self
    where
        F: Fn(&mut Request<'_>, &mut Response<'_>) -> Result<(), Error> + Send + Sync + 'static,
    {
        Self::new(Handler::Blocking(Box::new(handler)))
    }

    /// An application that never waits. One that does stops every client of an event-loop worker.
    #[must_use]
    pub fn inline<F>(handler: F) -> Self
    where
        F: Fn(&mut Request<'_>, &mut Response<'_>) -> Result<(), Error> + Send + Sync + 'static,
    {
        Self::new(Handler::Inline(Box::new(handler)))
    }

    /// An application that answers with a future. The class polls it. When the client leaves or the worker must go
    /// the future is dropped, which cancels it; one that waits for [`AsyncRequest::client_gone`] is woken instead,
    /// and may end in its own way. A client that closed only its own direction still waits for the answer, and has
    /// not left.
    #[must_use]
    pub fn async_fn<F, Fut>(handler: F) -> Self
    where
        F: Fn(AsyncRequest, AsyncResponse) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self::new(Handler::Async(Box::new(move |request, response| gated(request, response, &handler))))
    }

    /// Calls must not overlap, whatever thread they come on.
    #[must_use]
    pub fn one_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Runs in each worker after the last fork; an error is a failed boot.
    #[must_use]
    pub fn on_start<F>(mut self, start: F) -> Self
    where
        F: Fn(&WorkerFacts<'_>) -> Result<(), Error> + Send + Sync + 'static,
    {
        self.start = Some(Box::new(start));
        self
    }

    /// Runs in each worker just before it serves; an error is a failed boot.
    #[must_use]
    pub fn on_ready<F>(mut self, ready: F) -> Self
    where
        F: Fn() -> Result<(), Error> + Send + Sync + 'static,
    {
        self.ready = Some(Box::new(ready));
        self
    }

    /// Runs when the worker stops accepting, where the host announces that.
    #[must_use]
    pub fn on_drain<F: Fn() + Send + Sync + 'static>(mut self, drain: F) -> Self {
        self.drain = Some(Box::new(drain));
        self
    }

    /// Runs after the last exchange, before the application is dropped.
    #[must_use]
    pub fn on_shutdown<F: Fn() + Send + Sync + 'static>(mut self, shutdown: F) -> Self {
        self.shutdown = Some(Box::new(shutdown));
        self
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "App({})", self.execution().as_str())
    }
}

impl Application for App {
    fn execution(&self) -> Execution {
        match self.handler {
            Handler::Blocking(_) => Execution::Blocking,
            Handler::Inline(_) => Execution::Inline,
            Handler::Async(_) => Execution::Async,
        }
    }

    fn one_at_a_time(&self) -> bool {
        self.one_at_a_time
    }

    fn start(&self, facts: &WorkerFacts<'_>) -> Result<(), Error> {
        #[cfg(feature = "tokio")]
        if let Some(ground) = &self.ground {
            ground.begin(facts)?;
        }
        self.within(|| self.start.as_ref().map_or(Ok(()), |start| start(facts)))?;
        #[cfg(feature = "tokio")]
        if let Some(ground) = &self.ground {
            ground.prepare(facts)?;
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), Error> {
        self.within(|| self.ready.as_ref().map_or(Ok(()), |ready| ready()))
    }

    fn call(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Result<(), Error> {
        match &self.handler {
            Handler::Blocking(call) | Handler::Inline(call) => {
                call(&mut Request::new(request), &mut Response::new(response))
            }
            Handler::Async(_) => Err(Error::new("an async application was called as a blocking one")),
        }
    }

    fn call_async(&self, request: RequestHandle<'_>, response: ResponseHandle<'_>) -> Answer {
        match &self.handler {
            Handler::Async(call) => call(request, response),
            Handler::Blocking(_) | Handler::Inline(_) => {
                let verdict = verdict(self.call(request, response));
                Answer::new(std::future::ready(verdict))
            }
        }
    }

    fn drain(&self) {
        #[cfg(feature = "tokio")]
        if let Some(ground) = &self.ground {
            ground.drain();
        }
        if let Some(drain) = &self.drain {
            self.within(drain);
        }
    }

    fn shutdown(&self) {
        if let Some(shutdown) = &self.shutdown {
            self.within(shutdown);
        }
        #[cfg(feature = "tokio")]
        if let Some(ground) = &self.ground {
            ground.end();
        }
    }
}

/// What a handler's result means to the class. An error of the application's own is logged here, in the
/// library where it happened, so that it carries the library's target.
pub(crate) fn verdict(result: Result<(), Error>) -> u32 {
    match result {
        Ok(()) => abi::VERDICT_OK,
        Err(error) if error.fault().is_some_and(crate::error::Fault::is_of_the_connection) => {
            abi::VERDICT_TRANSPORT
        }
        Err(error) => {
            log::error!("the application failed: {error}");
            abi::VERDICT_FAILED
        }
    }
}
