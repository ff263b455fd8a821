//! A worker class for rgunicorn: how a worker accepts connections and serves them.
//!
//! This one serves one connection at a time and one request on each, which is the simplest thing that is right; make it
//! yours. `run` is the loop. HTTP is `rgunicorn-http1`'s, accepting and the socket calls are `rgunicorn-reactor`'s.
//!
//! Three duties make a good class:
//! - **Tick.** A worker that is silent for `timeout` is killed. Every wait is therefore cut into pieces of `tick_interval`.
//! - **Report.** The host does the access log, the limits and the metrics of what it is told of.
//! - **Look at the state.** Told to drain, a class accepts no more and finishes what it has; told to halt, it returns.

mod future;
mod socket;

use rgunicorn_http1::exchange::{Arrival, Connection, Memory, Rules};
use rgunicorn_reactor::accept::{Client, Listeners, Next, PAUSE};
use rgunicorn_reactor::net::timespec;
use rgunicorn_worker_api::app::Execution;
use rgunicorn_worker_api::error::Error;
use rgunicorn_worker_api::export_worker;
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::request::Scheme;
use rgunicorn_worker_api::worker::{
    Applications, Features, Host, Record, State, Verdict, WorkerClass,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;

use socket::Socket;

export_worker! { Class, http1 = rgunicorn_http1::VERSION }

struct Class;

impl WorkerClass for Class {
    const NAME: &'static str = "{name}";
    // What is claimed here is what `rgunicorn certify` asks for.
    const FEATURES: Features = Features::NONE;
    const MAX_CONNECTIONS: u64 = 1;

    fn run(host: Host, apps: Applications) -> Result<(), Error> {
        let worker = Worker {
            host,
            apps,
            rules: Rules::of(&host, false),
        };
        let mut listeners = Listeners::of(&host);
        let mut memory = Memory::default();
        // Only now may clients come; `ready` waits until the master wants them to.
        let mut state = host.ready();
        while state == State::Running {
            host.tick();
            match listeners.accept() {
                Next::Client(client) => memory = worker.serve(&client, memory),
                Next::Nobody => worker.wait(true)?,
                Next::NoRoom => worker.wait(false)?,
            }
            state = host.state();
        }
        // Sockets that go away are emptied by whoever leaves last.
        for index in 0..listeners.len() {
            while host.state() == State::Draining && host.must_empty(index) {
                host.tick();
                match listeners.accept_from(index) {
                    Next::Client(client) => memory = worker.serve(&client, memory),
                    Next::Nobody => break,
                    Next::NoRoom => worker.wait(false)?,
                }
            }
        }
        Ok(())
    }
}

/// What every request needs.
struct Worker {
    host: Host,
    apps: Applications,
    rules: Rules,
}

impl Worker {
    /// Waits for a client or for news of the host; for news alone while there is no room for clients.
    fn wait(&self, clients: bool) -> Result<(), Error> {
        // Lets the log be written, and others know that this worker has nothing to do.
        self.host.tick_idle();
        let notify = self.host.notify_fd();
        let listeners = self.host.listeners();
        let mut watched = vec![PollFd::new(&notify, PollFlags::IN)];
        let mut time = self.host.tick_interval();
        if !clients {
            time = time.min(PAUSE);
        } else if self.host.may_accept() {
            watched.extend(
                listeners
                    .iter()
                    .map(|listener| PollFd::new(&listener.fd, PollFlags::IN)),
            );
        }
        match poll(&mut watched, Some(&timespec(time))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::new(format!("cannot wait for clients: {error}"))),
        }
        if !watched[0].revents().is_empty() {
            // What it tells of is asked for where it matters; taking it lets the descriptor rest.
            let _ = self.host.take_events();
        }
        Ok(())
    }

    /// One connection: receives a head, lets the application answer, closes. Returns the memory for the next one.
    fn serve(&self, client: &Client, memory: Memory) -> Memory {
        self.host.connection_opened(client.fd.as_fd());
        let socket = Socket {
            fd: client.fd.as_fd(),
            host: &self.host,
        };
        let mut connection = Connection::new(socket, client.peer.clone(), Scheme::Http, memory);
        let linger = match connection.wait_for_head(&self.rules) {
            Arrival::Complete => self.answer(client, &mut connection),
            Arrival::Refused(error) => {
                let (status, body_bytes) = connection.refuse(&error);
                self.host.request_end(&Record {
                    token: 0,
                    request: None,
                    peer: connection.peer(),
                    response_fields: &[],
                    bytes_in: connection.received(),
                    body_bytes,
                    status,
                    incomplete: false,
                    taken_over: false,
                });
                status != 0 && connection.may_have_more()
            }
            Arrival::Partial | Arrival::Closed => false,
        };
        if linger {
            // Closing with octets unread resets the connection, and the reset may overtake the answer.
            connection.linger();
        }
        self.host.connection_closed();
        connection.into_parts().2
    }

    /// Lets the application answer; returns whether to linger.
    fn answer(&self, client: &Client, connection: &mut Connection<Socket<'_>>) -> bool {
        let mounted = self.apps.select(connection.target());
        if let Some(mounted) = mounted
            && mounted.execution() == Execution::Async
        {
            return match future::answer(self, client.fd.as_fd(), mounted, connection) {
                Ok(linger) => linger,
                Err(error) => {
                    log::error!("cannot wait for an async application: {error}");
                    false
                }
            };
        }
        let prefix = mounted.map_or(&b""[..], |mounted| mounted.prefix);
        let exchange = connection.blocking(&self.rules, prefix, false, &self.host);
        exchange.set_token(self.host.request_begin(&exchange));
        let verdict = match mounted {
            None => {
                exchange.answer(404);
                Verdict::Ok
            }
            Some(_) if exchange.refused() => Verdict::Transport,
            Some(mounted) => mounted.call(&exchange),
        };
        let ended = exchange.conclude(verdict);
        exchange.report(&self.host, &ended);
        ended.linger
    }
}
