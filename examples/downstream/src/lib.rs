//! An async application by hand: futures that wait for time and for sockets, without a runtime.
//!
//! The model for whoever wants to know what an async application is made of, or has an event source that no runtime
//! knows. This file owns its life and its routes; `timer` and `poller` are its two threads, each with one kind of
//! future; `fetch` is a call to the server behind this one; `settings` is what the environment says.
//!
//! - **A future does not wait, it arranges to be woken.** It leaves its waker with a thread, answers `Pending`, and is
//!   polled again, on whatever thread the worker class likes, after that thread has called the waker.
//! - **Dropping is cancelling.** When the client leaves, the class drops the future. Everything a request holds is
//!   therefore owned by its future: its place in the timer, its socket, its right to one. There is no other clean-up.
//! - **Threads begin in `start`.** `create` also runs in the probe, and may run in a process that is forked
//!   afterwards; threads do not survive a fork, and an epoll instance made before it would be shared by all workers.
//!
//! A newcomer might keep a lock while calling a waker. The class may poll the future at once, on the calling thread,
//! and the future will ask for that very lock.

mod fetch;
mod poller;
mod settings;
mod timer;

use fetch::Trouble;
use poller::Poller;
use rgunicorn_worker_api::prelude::*;
use settings::Settings;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;
use timer::Timer;

export_app! { "app": async = app }

/// On answers that are text.
const TEXT: (&str, &str) = ("Content-Type", "text/plain");

/// What all requests of a worker share.
struct Shared {
    settings: Settings,
    /// There from `start` on.
    threads: OnceLock<Threads>,
    /// Calls to the other server that go on.
    calls: AtomicUsize,
    /// Futures that were dropped before they had answered.
    cancelled: AtomicUsize,
}

struct Threads {
    timer: Timer,
    poller: Poller,
}

fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    let shared = Arc::new(Shared {
        // Here, so that the probe finds a mistake: a reload is then refused.
        settings: Settings::from_environment()?,
        threads: OnceLock::new(),
        calls: AtomicUsize::new(0),
        cancelled: AtomicUsize::new(0),
    });
    let (starting, stopping) = (Arc::clone(&shared), Arc::clone(&shared));
    let app = App::async_fn(move |request, response| answer(Arc::clone(&shared), request, response));
    Ok(app.on_start(move |_| starting.start()).on_shutdown(move || stopping.stop()))
}

impl Shared {
    fn start(&self) -> Result<(), Error> {
        let threads = Threads { timer: Timer::start()?, poller: Poller::start()? };
        self.threads.set(threads).map_err(|_| Error::new("downstream: started twice"))
    }

    /// After the last request: nothing waits any more.
    fn stop(&self) {
        if let Some(threads) = self.threads.get() {
            threads.timer.stop();
            threads.poller.stop();
        }
    }

    fn threads(&self) -> Result<&Threads, Error> {
        self.threads.get().ok_or_else(|| Error::new("downstream: called before it was started"))
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: AsyncRequest,
    mut response: AsyncResponse,
) -> Result<(), Error> {
    let going_on = GoingOn { shared: &shared, answered: false };
    let target = request.target();
    let (path, query) = match target.iter().position(|octet| *octet == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (&target[..], &b""[..]),
    };
    let result = match path {
        b"/sleep" => sleep(&shared, query, &mut response).await,
        b"/cancelled" => {
            let count = shared.cancelled.load(Ordering::Relaxed).to_string();
            text(&mut response, 200, &count).await
        }
        _ => match path.strip_prefix(b"/fetch") {
            // The path and the query of the target, as they came.
            Some(below) if below.starts_with(b"/") => fetch(&shared, &target[6..], &mut response).await,
            _ => text(&mut response, 404, "no such route").await,
        },
    };
    going_on.done();
    result
}

/// Counts a future that is dropped while it waits. It lies in the future, and is dropped with it.
struct GoingOn<'s> {
    shared: &'s Shared,
    answered: bool,
}

impl GoingOn<'_> {
    fn done(mut self) {
        self.answered = true;
    }
}

impl Drop for GoingOn<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn text(response: &mut AsyncResponse, status: u16, body: &str) -> Result<(), Error> {
    Ok(response.respond(status, &[TEXT], body.as_bytes()).await?)
}

/// `/sleep?ms=N`
async fn sleep(shared: &Shared, query: &[u8], response: &mut AsyncResponse) -> Result<(), Error> {
    let number = query.split(|octet| *octet == b'&').find_map(|pair| pair.strip_prefix(b"ms="));
    let milliseconds =
        number.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(100);
    shared.threads()?.timer.sleep(Duration::from_millis(milliseconds)).await;
    text(response, 200, "slept").await
}

/// `/fetch/…`: what the other server has there, or whose fault it is that there is nothing.
async fn fetch(shared: &Shared, below: &[u8], response: &mut AsyncResponse) -> Result<(), Error> {
    let Some(address) = shared.settings.address else {
        return text(response, 404, "DOWNSTREAM is not set").await;
    };
    // Held until the end of the call, or until the future is dropped.
    let Some(_place) = Place::take(shared) else {
        return text(response, 503, "too many calls go on").await;
    };
    let threads = shared.threads()?;
    let mut begun = false;
    let call = fetch::relay(&threads.poller, address, below, response, &mut begun);
    let trouble = match within(&threads.timer, shared.settings.timeout, call).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(Trouble::Ours(fault))) => return Err(fault.into()),
        Some(Err(Trouble::Theirs(what))) => (502, what),
        None => (504, "the other server took too long".to_owned()),
    };
    // Part of the answer has been sent: only the connection's end can tell the client.
    if begun {
        return Err(Error::new(format!("downstream: {address}: {}", trouble.1)));
    }
    text(response, trouble.0, &trouble.1).await
}

/// The right to make a call. Waiting for one would only move the queue to where nobody sees it.
struct Place<'s>(&'s Shared);

impl<'s> Place<'s> {
    fn take(shared: &'s Shared) -> Option<Self> {
        let place = Self(shared);
        let before = shared.calls.fetch_add(1, Ordering::Relaxed);
        // Dropped, and so given back, if there were too many.
        (before < shared.settings.calls).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `future` comes to, unless the time is over first. Then it is dropped, which cancels it.
async fn within<F: Future>(timer: &Timer, time: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut over) = (pin!(future), timer.sleep(time));
    // Both leave the same waker behind; whichever is woken first, both are asked.
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => std::pin::Pin::new(&mut over).poll(context).map(|()| None),
    })
    .await
}
