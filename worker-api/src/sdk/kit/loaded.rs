//! An application without a server, from create to the drop.
//!
//! It owns the life around the calls, in the order of a worker's. A newcomer might call the handler's function by
//! itself. What is tested then is not what the server gets: the settings, the start, the rules of an answer.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::abi::{self, app_host, request_object, response_object};
use crate::app::{App, Application, Execution, WorkerFacts};
use crate::error::Error;
use crate::export::fence;
use crate::host::AppHost;
use crate::sdk::kit::Answer;
use crate::sdk::kit::exchange::Memory;

/// An application that was made and started, as in a worker.
///
/// ```
/// use rgunicorn_worker_api::prelude::*;
/// use rgunicorn_worker_api::sdk::kit::Loaded;
///
/// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
///     Ok(App::blocking(|request, response| {
///         let mut body = Vec::new();
///         request.read_to_end(&mut body)?;
///         Ok(response.respond(200, &[("Content-Type", "text/plain")], &body)?)
///     }))
/// }
///
/// # fn main() -> Result<(), Error> {
/// let app = Loaded::new(app)?;
/// let answer = app.ask("POST", "/echo", &[("Host", "example")], b"hello");
/// assert_eq!((answer.status, &*answer.text()), (200, "hello"));
/// # Ok(()) }
/// ```
///
/// It waits on the thread that calls it, so it belongs into plain tests, not into those of an async runtime.
#[derive(Debug)]
pub struct Loaded {
    app: App,
}

/// What the application learns of its worker.
struct Facts(String);

impl AppHost for Facts {
    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn age(&self) -> u64 {
        1
    }

    fn generation(&self) -> u64 {
        1
    }

    fn is_probe(&self) -> bool {
        false
    }

    fn settings(&self) -> &str {
        &self.0
    }

    fn server_setting(&self, _: &str) -> Option<&str> {
        None
    }

    fn stuck(&self, _: &str, _: std::time::Duration) {}
}

impl Loaded {
    /// Makes and starts an application without settings.
    ///
    /// # Errors
    /// What would refuse a generation or fail a boot: an error or a panic in create, `on_start` or `on_ready`.
    pub fn new(create: impl Fn(&WorkerFacts<'_>) -> Result<App, Error>) -> Result<Self, Error> {
        Self::with_settings(create, "{}")
    }

    /// The same with settings: the table `[app.NAME]` as a JSON object.
    ///
    /// # Errors
    /// As [`Loaded::new`].
    pub fn with_settings(
        create: impl Fn(&WorkerFacts<'_>) -> Result<App, Error>,
        settings: &str,
    ) -> Result<Self, Error> {
        // The application may keep what it learns of its worker as long as the process lives.
        let facts = WorkerFacts::new(app_host(Box::leak(Box::new(Facts(settings.to_owned())))));
        let app = step(|| create(&facts))?;
        step(|| app.start(&facts))?;
        step(|| app.ready())?;
        Ok(Self { app })
    }

    /// The answer to a GET.
    #[must_use]
    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[("Host", "localhost")], b"")
    }

    /// The answer to a request. An application that fails or panics is answered for by the server: with 500, or by
    /// an answer that is not whole.
    #[must_use]
    pub fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let exchange = Memory::new(method, target, fields, body);
        let request = || request_object(&exchange);
        let response = || response_object(&exchange);
        let well = match self.app.execution() {
            Execution::Blocking | Execution::Inline => {
                fence(|| self.app.call(request(), response())).is_ok_and(|result| result.is_ok())
            }
            Execution::Async => {
                let verdict = fence(|| wait_for(self.app.call_async(request(), response())));
                verdict.is_ok_and(|verdict| verdict == abi::VERDICT_OK)
            }
        };
        exchange.into_answer(well)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.app.drain();
        self.app.shutdown();
    }
}

/// A step of an application's life, with a panic as an error.
fn step<R>(step: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    fence(step).unwrap_or_else(|panic| Err(Error::new(panic)))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread, as `sync` does.
fn wait_for<F: Future + Unpin>(mut future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = std::pin::Pin::new(&mut future).poll(&mut context) {
            return output;
        }
        // A wake before the park is not lost: the token is kept for it.
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NO_FIELDS;

    #[test]
    fn what_a_client_would_see_is_what_a_test_sees() {
        let app = Loaded::new(|_| {
            Ok(App::blocking(|request, response| {
                match request.path() {
                    b"/twice" => {
                        response.respond(200, NO_FIELDS, b"once")?;
                        response.respond(200, NO_FIELDS, b"twice")?;
                    }
                    b"/evil" => response.respond(200, &[("X-A", "a\r\nb")], b"")?,
                    b"/short" => response.start(200, &[("Content-Length", "5")])?,
                    b"/panic" => panic!("as asked"),
                    b"/nothing" => {}
                    _ => response.respond(200, &[("X-A", "b")], request.method())?,
                }
                Ok(())
            }))
        })
        .unwrap();
        let seen = |target| {
            let answer = app.get(target);
            (answer.status, answer.text().into_owned(), answer.is_whole)
        };
        assert_eq!(seen("/"), (200, "GET".to_owned(), true));
        assert_eq!(app.get("/").field("x-a").as_deref(), Some("b"));
        assert_eq!(app.ask("HEAD", "/", &[], b"").text(), "");
        assert_eq!(seen("/twice"), (200, "once".to_owned(), false));
        assert_eq!(seen("/short"), (200, String::new(), false));
        for target in ["/evil", "/panic", "/nothing"] {
            assert_eq!(seen(target), (500, String::new(), true), "{target}");
        }
    }

    #[test]
    fn what_fails_to_begin_says_why() {
        let create = |_: &WorkerFacts<'_>| Err(Error::new("no"));
        assert_eq!(Loaded::new(create).unwrap_err().message(), "no");
        let create =
            |_: &WorkerFacts<'_>| Ok(App::async_fn(|_, _| async { Ok(()) }).on_start(|_| panic!("as asked")));
        assert!(Loaded::new(create).unwrap_err().message().contains("as asked"));
        let create = |facts: &WorkerFacts<'_>| Err(Error::new(facts.settings()));
        assert_eq!(Loaded::with_settings(create, "{\"a\":1}").unwrap_err().message(), "{\"a\":1}");
    }
}
