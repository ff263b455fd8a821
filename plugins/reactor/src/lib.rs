//! What worker classes share beyond HTTP: accepting, sockets, and an event loop with threads.
//!
//! A class that serves one client at a time takes [`accept`] and [`net`] and writes its own loop, as `sync` does. A
//! class that serves many takes [`run`], which is the whole of `threaded` and `poll`:
//!
//! ```text
//!            ┌────────────────────── the loop (reactor.rs) ──────────────────────┐
//!  accept ──►│ idle connection ──► future (serve.rs) ──► answered ──► idle again │──► closed
//!            └────────────────────────│        ▲─────────────────────────────────┘
//!                                     ▼        │   bell.rs: what happens to a future, where it is polled
//!                               threads (crew.rs)  mail.rs: how the loop hears of it while it sleeps
//! ```
//!
//! - One thread waits for all sockets. It never waits for a client, and never for an application that may wait.
//! - A busy connection is a future, which is polled by the loop, or by a thread while an application is called that
//!   blocks. An idle one is an entry in a table and the kernel's socket.
//! - `--threads` is how many threads run applications at the same time. One that waits for its client lends its
//!   place to another (`crew.rs`), so that slow clients never keep others from being served.
//! - All timeouts lie in one wheel (`timers.rs`).
//!
//! The heartbeat means progress: it stands still while requests wait for a thread and none is taken up.
//!
//! What a newcomer gets wrong: nothing here parses or writes HTTP. That is `rgunicorn-http1`, which in turn waits
//! for nothing.

pub mod accept;
mod bell;
mod crew;
mod mail;
pub mod net;
mod reactor;
mod serve;
mod socket;
mod timers;

use std::sync::atomic::{AtomicU64, AtomicUsize};

use rgunicorn_http1::exchange::Rules;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::worker::{Applications, Host};
use rustix::event::epoll;
use rustix::event::{EventfdFlags, eventfd};

use mail::Mail;
use reactor::Reactor;
use serve::{Departure, Shared};
use timers::Clock;

/// Where applications run that do not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblocking {
    /// Inline and async applications run on the loop; one that waits after all stops the worker.
    OnTheLoop,
    /// All applications run on threads.
    OnThreads,
}

/// Serves until the worker is told to leave: the body of `WorkerClass::run`. `[worker] [main] [running]`
///
/// It reads the settings `threads`, `worker_connections`, `keepalive`, `graceful_timeout`, `request_timeout` and
/// those of [`Rules::of`].
///
/// # Errors
/// The kernel refuses what a loop needs.
pub fn run(host: Host, apps: Applications, unblocking: Unblocking) -> Result<(), Error> {
    let keep_alive = host.seconds("keepalive").is_none_or(|time| !time.is_zero());
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let singles =
        apps.iter().filter(|mounted| mounted.one_at_a_time()).map(|mounted| mounted.prefix).collect();
    // Threads that are stuck in an application use it until the process ends.
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        host,
        apps,
        rules: Rules::of(&host, keep_alive),
        on_loop: unblocking == Unblocking::OnTheLoop,
        request_timeout: host.seconds("request_timeout").filter(|time| !time.is_zero()),
        clock: Clock::new(),
        mail: Mail::new()?,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        departure: Departure { drain: event()?, halt: event()? },
        given_up: AtomicUsize::new(0),
        singles,
        complained: AtomicU64::new(0),
    }));
    Reactor::new(shared, serve::serve)?.run()
}
