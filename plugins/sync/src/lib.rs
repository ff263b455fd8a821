//! The worker class `sync`: one request at a time, one request per connection.
//!
//! ```text
//! run ─ ready ─┬─ accept ─ serve ─┐     accept.rs: whom to serve next, and sleeping until there is somebody
//!              ├─ wait            │     serve.rs:  one connection, from its head to its close
//!              └──────────────────┘     wire.rs:   its socket; drive.rs: an async application on this thread
//! ```
//!
//! It owns the loop and nothing of HTTP. Its worker is as simple as a worker can be: an application that
//! crashes or hangs takes one request with it. In return a slow client occupies a worker, though never for
//! longer than `head_timeout` before its request is whole; behind a buffering proxy there are no slow clients.
//!
//! Time: every turn of the loop ticks, and so does every wait for a client, in slices. What does not tick is
//! the application. A worker that is silent for `timeout` is therefore stuck in it, and is killed.
//!
//! What a newcomer gets wrong: after a wait the loop accepts before it looks at the state. The kernel woke
//! this worker and no other for that connection (`EPOLLEXCLUSIVE`, see `accept`); if it left without looking,
//! the client would wait until another worker happens to wake.

mod accept;
mod drive;
mod serve;
mod wire;

use std::time::Duration;

use rgunicorn_http1::exchange::{Memory, Rules};
use rgunicorn_reactor::accept::Next;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::export_worker;
use rgunicorn_worker_api::worker::{Applications, Features, Host, State, WorkerClass};

use accept::Door;
use drive::Signal;

export_worker! { Sync, http1 = rgunicorn_http1::VERSION }

struct Sync;

impl WorkerClass for Sync {
    const NAME: &'static str = "sync";
    const FEATURES: Features = Features::TAKE_OVER;
    const MAX_CONNECTIONS: u64 = 1;

    fn run(host: Host, apps: Applications) -> Result<(), Error> {
        let server = Server::new(host, apps)?;
        let mut door = Door::open(&server)?;
        let mut memory = Memory::default();
        let mut state = host.ready();
        while state == State::Running {
            host.tick();
            match door.accept() {
                Next::Client(client) => memory = serve::serve(&server, &client, memory),
                Next::NoRoom => door.pause(),
                Next::Nobody => {
                    host.tick_idle();
                    door.wait()?;
                    // One that this worker was woken for is served whatever the state.
                    if host.state() == State::Draining
                        && let Next::Client(client) = door.accept()
                    {
                        memory = serve::serve(&server, &client, memory);
                    }
                }
            }
            state = host.state();
        }
        empty(&server, &mut door, memory);
        Ok(())
    }
}

/// Serves what is queued on the listeners that go away. Nothing new arrives there.
fn empty(server: &Server, door: &mut Door<'_>, mut memory: Memory) {
    for index in 0..door.listeners() {
        while server.host.state() == State::Draining && server.host.must_empty(index) {
            server.host.tick();
            match door.accept_from(index) {
                Next::Client(client) => memory = serve::serve(server, &client, memory),
                Next::NoRoom => door.pause(),
                Next::Nobody => break,
            }
        }
    }
}

/// What every request needs.
struct Server {
    host: Host,
    apps: Applications,
    rules: Rules,
    /// Longest wait without a tick.
    interval: Duration,
    signal: Signal,
}

impl Server {
    fn new(host: Host, apps: Applications) -> Result<Self, Error> {
        Ok(Self {
            host,
            apps,
            rules: Rules::of(&host, false),
            interval: host.tick_interval(),
            signal: Signal::new()?,
        })
    }
}
