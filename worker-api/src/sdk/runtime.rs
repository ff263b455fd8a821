//! The runtime in the background of a worker: it has the drivers for time and sockets, and the tasks that are spawned.
//!
//! One for each library in each worker, whatever number of applications the library has. It begins in `start`, after
//! the last fork, and ends with the last of the applications. A handler is polled where the worker class calls it, with
//! the runtime at hand; most answers are ready then, and cost no other thread. One that has to wait is handed over: the
//! runtime polls it from there on, and the thread of the class is free.
//!
//! What a newcomer gets wrong: a runtime that lives only while a request waits on it, which is what `block_on` on the
//! calling thread comes to, freezes whatever a handler has spawned until the next request. This one has a thread of its
//! own.

use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::app::{App, WorkerFacts};
use crate::asynchronous::{AsyncRequest, AsyncResponse};
use crate::error::Error;
use crate::sdk::watchdog::{self, AtWork, Watchdog};

/// How long the end of the runtime waits for blocking work (`spawn_blocking`) that goes on. Tasks are dropped where
/// they wait.
const END: Duration = Duration::from_secs(2);

/// The worker that an application has started in: [`WorkerFacts`] to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worker {
    /// The process id.
    pub pid: u32,
    /// The worker's number in order of birth, over the life of the master.
    pub age: u64,
    /// The generation, counted from 1.
    pub generation: u64,
}

impl From<&WorkerFacts<'_>> for Worker {
    fn from(facts: &WorkerFacts<'_>) -> Self {
        Self { pid: facts.pid(), age: facts.age(), generation: facts.generation() }
    }
}

/// The runtime of this library in this worker.
struct Background {
    /// None once it has ended.
    runtime: Option<Runtime>,
    /// Applications that have begun and were not told to leave.
    staying: AtomicUsize,
    leaving: watch::Sender<bool>,
    /// None once the runtime ends, or if nobody wants to know.
    watchdog: Option<Watchdog>,
}

/// Alive while an application holds it.
static SHARED: Mutex<Weak<Background>> = Mutex::new(Weak::new());

impl Background {
    fn shared(facts: &WorkerFacts<'_>) -> Result<Arc<Self>, Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is leaving is another worker's, which can only be in a test.
        if let Some(background) = shared.upgrade().filter(|background| !*background.leaving.borrow()) {
            background.staying.fetch_add(1, Ordering::SeqCst);
            return Ok(background);
        }
        let runtime = Builder::new_multi_thread()
            // A worker is one of several processes; more threads here would take the others' cores.
            .worker_threads(1)
            .thread_name("app-runtime")
            .enable_all()
            .build()
            .map_err(|error| Error::new(format!("cannot start the application's runtime: {error}")))?;
        let watchdog = Watchdog::start(runtime.handle(), facts);
        let background = Arc::new(Self {
            watchdog,
            runtime: Some(runtime),
            staying: AtomicUsize::new(1),
            leaving: watch::Sender::new(false),
        });
        *shared = Arc::downgrade(&background);
        Ok(background)
    }

    fn handle(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // First, since an end is no standstill.
        self.watchdog = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END);
        }
    }
}

/// Waits until the worker is told to leave: for tasks that would go on for ever, and for conversations over a
/// taken-over connection. What has not ended by the end of the last request is dropped where it waits.
///
/// ```
/// # use rgunicorn_worker_api::sdk::runtime;
/// # use std::time::Duration;
/// # async fn refresh() {}
/// async fn refresh_now_and_then() {
///     loop {
///         tokio::select! {
///             () = tokio::time::sleep(Duration::from_secs(60)) => refresh().await,
///             () = runtime::draining() => return,
///         }
///     }
/// }
/// ```
///
/// Without a runtime of this module, as in some unit tests, it waits for ever.
pub async fn draining() {
    let receiver = {
        let shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().map(|background| background.leaving.subscribe())
    };
    match receiver {
        // The sender's end is the runtime's end.
        Some(mut receiver) => _ = receiver.wait_for(|leaving| *leaving).await,
        None => std::future::pending().await,
    }
}

type Prepare = Box<dyn Fn(&Handle, Worker) -> Result<(), Error> + Send + Sync>;

/// What an async application stands on, from `start` to the drop of the [`App`].
pub(crate) struct Ground {
    background: OnceLock<Arc<Background>>,
    drained: AtomicBool,
    prepare: Option<Prepare>,
}

impl Ground {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { background: OnceLock::new(), drained: AtomicBool::new(false), prepare: None })
    }

    /// With something to be done in `start`: the making of the service.
    #[cfg(feature = "tower")]
    pub(crate) fn preparing(
        prepare: impl Fn(&Handle, Worker) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let prepare: Prepare = Box::new(prepare);
        Arc::new(Self {
            background: OnceLock::new(),
            drained: AtomicBool::new(false),
            prepare: Some(prepare),
        })
    }

    pub(crate) fn handle(&self) -> Result<&Handle, Error> {
        self.background
            .get()
            .and_then(|background| background.handle())
            .ok_or_else(|| Error::new("the application was called before it was started"))
    }

    pub(crate) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.handle().ok().map(Handle::enter)
    }

    /// The first part of `start`.
    pub(crate) fn begin(&self, facts: &WorkerFacts<'_>) -> Result<(), Error> {
        let background = Background::shared(facts)?;
        self.background.set(background).map_err(|_| Error::new("the application was started twice"))
    }

    /// The last part of `start`.
    pub(crate) fn prepare(&self, facts: &WorkerFacts<'_>) -> Result<(), Error> {
        match &self.prepare {
            Some(prepare) => prepare(self.handle()?, Worker::from(facts)),
            None => Ok(()),
        }
    }

    /// The worker leaves. Tasks are told when the last of the library's applications was.
    pub(crate) fn drain(&self) {
        let Some(background) = self.background.get() else { return };
        let is_first = !self.drained.swap(true, Ordering::SeqCst);
        if is_first && background.staying.fetch_sub(1, Ordering::SeqCst) == 1 {
            background.leaving.send_replace(true);
        }
    }

    /// The last request has ended. A worker that leaves at once was not told to drain.
    pub(crate) fn end(&self) {
        self.drain();
    }
}

/// Something that may need the runtime when it is dropped, such as a pool that closes its connections.
pub(crate) struct Grounded<T> {
    value: Option<T>,
    ground: Arc<Ground>,
}

impl<T> Grounded<T> {
    pub(crate) fn new(value: T, ground: &Arc<Ground>) -> Self {
        Self { value: Some(value), ground: Arc::clone(ground) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T> Drop for Grounded<T> {
    fn drop(&mut self) {
        let _entered = self.ground.enter();
        self.value = None;
    }
}

impl App {
    /// An async application with a runtime: as [`App::async_fn`], and `tokio::spawn`, `tokio::time` and `tokio::net`
    /// work in it, also in the steps of its life (`on_start` and the others).
    ///
    /// The handler begins on the thread of the worker class, on the event loop under `poll`: it may compute for
    /// microseconds, and leaves what takes longer to `tokio::task::spawn_blocking`.
    ///
    /// ```
    /// use rgunicorn_worker_api::prelude::*;
    /// use std::time::Duration;
    ///
    /// export_app! { "app": async = app }
    ///
    /// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    ///     Ok(App::tokio(|_request, mut response| async move {
    ///         tokio::time::sleep(Duration::from_millis(10)).await;
    ///         Ok(response.respond(200, NO_FIELDS, b"later\n").await?)
    ///     }))
    /// }
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn tokio<F, Fut>(handler: F) -> Self
    where
        F: Fn(AsyncRequest, AsyncResponse) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let ground = Ground::new();
        let handler = Grounded::new(handler, &ground);
        Self::answering_on(ground, move |request, response| {
            handler.get().map(|handler| Box::pin(handler(request, response)))
        })
    }

    /// The common form: `handler` gives the future of an exchange, which moves to the runtime if it has to wait, or none
    /// if there is nobody to answer.
    pub(crate) fn answering_on<F, Fut>(ground: Arc<Ground>, handler: F) -> Self
    where
        F: Fn(AsyncRequest, AsyncResponse) -> Option<Fut> + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + Unpin + 'static,
    {
        let stand = Arc::new(Stand { handler, ground: Arc::clone(&ground) });
        Self::on_ground(ground, move |request, response| Exchange {
            stand: Arc::clone(&stand),
            stage: Stage::Here(request, response),
        })
    }
}

/// What all exchanges of an application have in common. The handler first: dropping it may need the runtime.
struct Stand<F> {
    handler: F,
    ground: Arc<Ground>,
}

/// The future of one exchange: begun and polled here, and from the first wait on by the runtime.
struct Exchange<F> {
    stand: Arc<Stand<F>>,
    stage: Stage,
}

enum Stage {
    Here(AsyncRequest, AsyncResponse),
    There(JoinHandle<Result<(), Error>>),
    Over,
}

/// With the library's watchdog awake for as long as the runtime has it, and told while it is polled.
fn watched<Fut: Future<Output = Result<(), Error>> + Send + Unpin>(
    future: Fut,
    request: &AsyncRequest,
) -> impl Future<Output = Result<(), Error>> + Send + use<Fut> {
    let shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
    let at_work = shared.as_ref().and_then(|background| background.watchdog.as_ref()).map(|watchdog| {
        // Only now, when it has to wait: most requests never do.
        watchdog.at_work(watchdog::name(&request.method(), &request.target()))
    });
    drop(shared);
    async move {
        let at_work = at_work;
        // Dropped first: it is at work until its own drop has returned.
        let mut future = future;
        poll_fn(|context| {
            let _polled = at_work.as_ref().map(AtWork::polled);
            Pin::new(&mut future).poll(context)
        })
        .await
    }
}

impl<F, Fut> Future for Exchange<F>
where
    F: Fn(AsyncRequest, AsyncResponse) -> Option<Fut>,
    Fut: Future<Output = Result<(), Error>> + Send + Unpin + 'static,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.stage = match std::mem::replace(&mut this.stage, Stage::Over) {
            Stage::Here(request, response) => {
                let handle = this.stand.ground.handle()?;
                // Once for all of it: the part of a handler before its future, the future, and its drop.
                let _entered = handle.enter();
                let shown = request.share();
                let mut future = (this.stand.handler)(request, response)
                    .ok_or_else(|| Error::new("the application was called before it was started"))?;
                if let Poll::Ready(result) = Pin::new(&mut future).poll(context) {
                    return Poll::Ready(result);
                }
                // Its first poll there leaves the task's waker wherever this one has left the class's.
                Stage::There(handle.spawn(watched(future, &shown)))
            }
            later => later,
        };
        let Stage::There(task) = &mut this.stage else {
            return Poll::Ready(Err(Error::new("the exchange was polled after its end")));
        };
        Pin::new(task).poll(context).map(|ended| match ended {
            Ok(result) => result,
            // The hook has logged it where it happened; the fence around this call answers for it.
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => Err(Error::new("the application's runtime has ended before the answer")),
        })
    }
}

impl<F> Drop for Exchange<F> {
    fn drop(&mut self) {
        if let Stage::There(task) = &self.stage {
            // It is dropped at its next wait. Until then the gate keeps it from the connection.
            task.abort();
        }
    }
}
