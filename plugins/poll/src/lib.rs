//! The worker class `poll`: one event loop, and threads for applications that block.
//!
//! It owns the choice of where applications run: inline and async ones on the loop, blocking ones on `--threads`
//! threads. Everything else is `rgunicorn-reactor`, which this file is the shortest introduction to.
//!
//! For many connections and little work on each: an idle client costs an entry in a table. A client that is slow
//! with its request or with taking the answer costs a buffer, or, where a blocking application streams, a
//! sleeping thread whose place others have.
//!
//! What a newcomer gets wrong: an inline application that waits after all stops every client of this worker. The
//! master finds that by `timeout`, and its log names the request.

use rgunicorn_reactor::Unblocking;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::export_worker;
use rgunicorn_worker_api::worker::{Applications, Features, Host, WorkerClass};

export_worker! { Poll, http1 = rgunicorn_http1::VERSION }

struct Poll;

impl WorkerClass for Poll {
    const NAME: &'static str = "poll";
    const FEATURES: Features =
        Features::KEEP_ALIVE.and(Features::THREADS).and(Features::ASYNC).and(Features::TAKE_OVER);

    fn run(host: Host, apps: Applications) -> Result<(), Error> {
        rgunicorn_reactor::run(host, apps, Unblocking::OnTheLoop)
    }
}
