//! Bodies on their way, and who is to blame when nothing comes.
//!
//! It owns the request's body as it is lent to a connection ([`Lent`]), the answer's as it comes back ([`Answer`]), and
//! the clock between them ([`Patience`]). Nothing is kept: a piece is asked for when the other side has taken the one
//! before. A newcomer would give the whole exchange a time limit. Then a large body, or a client on a slow line, is
//! the upstream's fault. What is limited is the time in which the upstream has to do something and does nothing; the
//! client's time is limited by the server.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use rgunicorn_worker_api::prelude::Fault;
use rgunicorn_worker_api::sdk::body::Body;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

/// What one exchange has seen of its request's body.
struct Progress {
    /// When the upstream last did something.
    last: Instant,
    /// It wants more of the body, and the client has sent no more.
    waits_for_client: bool,
    /// The body could not be read.
    broken: bool,
    /// The body, while no connection has it. Once a piece has been taken there is no way back.
    whole: Option<Body>,
}

/// The time that an upstream has until it has to do something.
#[derive(Clone)]
pub(crate) struct Patience {
    limit: Duration,
    /// There is no body, which can be lent as often as anybody likes.
    is_empty: bool,
    progress: Arc<Mutex<Progress>>,
}

impl Patience {
    pub(crate) fn new(limit: Duration, body: Body) -> Self {
        let is_empty = body.size_hint().exact() == Some(0);
        let progress =
            Progress { last: Instant::now(), waits_for_client: false, broken: false, whole: Some(body) };
        Self { limit, is_empty, progress: Arc::new(Mutex::new(progress)) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body, for a connection to send; none if one has begun to.
    pub(crate) fn lend(&self) -> Option<Lent> {
        let mut progress = self.progress();
        progress.last = Instant::now();
        // A connection that failed may give its body back a moment after it has said so.
        let body = if self.is_empty { Body::empty() } else { progress.whole.take()? };
        Some(Lent { body: Some(body), touched: false, patience: self.clone() })
    }

    /// Whether the client's body could not be read, which is the server's to answer.
    pub(crate) fn is_broken(&self) -> bool {
        self.progress().broken
    }

    fn due(&self) -> Instant {
        let progress = self.progress();
        let since = if progress.waits_for_client { Instant::now() } else { progress.last };
        since + self.limit
    }

    /// What `future` comes to, unless the upstream does nothing for too long.
    pub(crate) async fn wait<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            match timeout_at(self.due(), &mut future).await {
                Ok(output) => return Some(output),
                Err(_) if self.due() <= Instant::now() => return None,
                // It did something in the meantime.
                Err(_) => {}
            }
        }
    }
}

/// The request's body, in the hands of one connection. If that came to nothing, it goes back.
pub(crate) struct Lent {
    body: Option<Body>,
    touched: bool,
    patience: Patience,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.touched = true;
        let frame = Pin::new(body).poll_frame(context);
        let mut progress = this.patience.progress();
        progress.last = Instant::now();
        progress.waits_for_client = frame.is_pending();
        progress.broken |= matches!(&frame, Poll::Ready(Some(Err(_))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut progress = self.patience.progress();
        progress.waits_for_client = false;
        if !self.touched {
            progress.whole = self.body.take();
        }
    }
}

/// An answer's body, on its way to the client.
pub(crate) struct Answer {
    body: Incoming,
    limit: Duration,
    /// Runs while the client wants more and there is none.
    due: Pin<Box<Sleep>>,
    is_waiting: bool,
    /// Whose it is, and of what.
    what: String,
}

impl Answer {
    pub(crate) fn new(body: Incoming, limit: Duration, what: String) -> Self {
        Self { body, limit, due: Box::pin(sleep(limit)), is_waiting: false, what }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.is_waiting = false;
            let broken = |error| Broken { what: this.what.clone(), why: Why::Cut(error) };
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        if !this.is_waiting {
            this.is_waiting = true;
            this.due.as_mut().reset(Instant::now() + this.limit);
        }
        this.due
            .as_mut()
            .poll(context)
            .map(|()| Some(Err(Broken { what: this.what.clone(), why: Why::Stalled(this.limit) })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why there is no more of an answer. The server logs it, and cuts the client's connection: what has been sent must
/// not look like a whole answer.
#[derive(Debug)]
pub(crate) struct Broken {
    what: String,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Cut(hyper::Error),
    Stalled(Duration),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::Cut(_) => write!(f, "{}: the answer was cut short", self.what),
            Why::Stalled(limit) => write!(f, "{}: the answer stood still for {limit:?}", self.what),
        }
    }
}

impl std::error::Error for Broken {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.why {
            Why::Cut(error) => Some(error),
            Why::Stalled(_) => None,
        }
    }
}
