//! The worker class `threaded`, Gunicorn's `gthread`: applications run on `--threads` threads.
//!
//! It owns the choice of where applications run: all of them on threads, never on the loop, which receives heads
//! and watches idle connections. Everything else is `rgunicorn-reactor`, which this file is the shortest
//! introduction to.
//!
//! For applications that block: on a database, on other services, on their own locks. Whatever they do, heads are
//! received, idle connections kept, and requests that are over their time answered.
//!
//! What a newcomer gets wrong: there can be more threads than `--threads`. That many run the application at the
//! same time; the others wait for clients, and have lent their places.

use rgunicorn_reactor::Unblocking;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::export_worker;
use rgunicorn_worker_api::worker::{Applications, Features, Host, WorkerClass};

export_worker! { Threaded, http1 = rgunicorn_http1::VERSION }

struct Threaded;

impl WorkerClass for Threaded {
    const NAME: &'static str = "threaded";
    const FEATURES: Features =
        Features::KEEP_ALIVE.and(Features::THREADS).and(Features::ASYNC).and(Features::TAKE_OVER);

    fn run(host: Host, apps: Applications) -> Result<(), Error> {
        rgunicorn_reactor::run(host, apps, Unblocking::OnThreads)
    }
}
