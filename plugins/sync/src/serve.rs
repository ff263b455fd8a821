//! One connection: receive a request, let the application answer it, close.
//!
//! It owns the order of these steps and the mapping from what was received to what is done. There is no
//! second request: every answer says `Connection: close`.
//!
//! Closing: when the request was read to its end and the socket was last seen empty, close(2) alone is right.
//! It sends a FIN behind the answer, since a reset is sent only for octets that are unread or still to come,
//! and a client that was answered `Connection: close` sends none. Where that is not certain (an unread body,
//! pipelined octets, a refused head) the worker lingers: shutdown(2), then read until the client's end, within
//! bounds. A plain GET thus costs accept4, recv, sendmsg, close.
//!
//! What a newcomer gets wrong: reporting a request takes the exchange, so it comes before the connection is
//! closed, and what is slow (lingering) after it.

use std::os::fd::AsFd;

use rgunicorn_http1::Error;
use rgunicorn_http1::exchange::{Arrival, Connection, Memory};
use rgunicorn_reactor::accept::Client;
use rgunicorn_worker_api::app::Execution;
use rgunicorn_worker_api::request::Scheme;
use rgunicorn_worker_api::worker::{Mounted, Record, Verdict};

use crate::Server;
use crate::drive;
use crate::wire::Socket;

/// Serves `client` and returns the memory for the next one.
pub(crate) fn serve(server: &Server, client: &Client, memory: Memory) -> Memory {
    server.host.connection_opened(client.fd.as_fd());
    let socket = Socket::new(client.fd.as_fd(), server);
    let mut connection = Connection::new(socket, client.peer.clone(), Scheme::Http, memory);
    let linger = match connection.wait_for_head(&server.rules) {
        Arrival::Complete => answer(server, client, &mut connection),
        Arrival::Refused(error) => refuse(server, &mut connection, &error),
        Arrival::Partial | Arrival::Closed => false,
    };
    if linger {
        connection.linger();
    }
    server.host.connection_closed();
    connection.into_parts().2
}

/// Lets the application answer; returns whether to linger.
fn answer(server: &Server, client: &Client, connection: &mut Connection<Socket<'_>>) -> bool {
    match server.apps.select(connection.target()) {
        Some(mounted) if mounted.execution() == Execution::Async => {
            drive::answer(server, client, mounted, connection)
        }
        mounted => answer_blocking(server, mounted, connection),
    }
}

/// Without an application for this target the answer is 404.
fn answer_blocking(
    server: &Server,
    mounted: Option<Mounted>,
    connection: &mut Connection<Socket<'_>>,
) -> bool {
    let host = &server.host;
    let prefix = mounted.map_or(&b""[..], |mounted| mounted.prefix);
    let exchange = connection.blocking(&server.rules, prefix, false, host);
    exchange.set_token(host.request_begin(&exchange));
    let verdict = match mounted {
        None => {
            exchange.answer(404);
            Verdict::Ok
        }
        Some(_) if exchange.refused() => Verdict::Transport,
        Some(mounted) => mounted.call(&exchange),
    };
    let ended = exchange.conclude(verdict);
    exchange.report(host, &ended);
    ended.linger
}

/// Answers what is no request; returns whether to linger.
fn refuse(server: &Server, connection: &mut Connection<Socket<'_>>, error: &Error) -> bool {
    let peer = connection.peer();
    match error {
        Error::Timeout | Error::Truncated => log::debug!("Incomplete request from ip={peer}: {error}"),
        // Gunicorn's words.
        _ => log::warn!("Invalid request from ip={peer}: {error}"),
    }
    let (status, body_bytes) = connection.refuse(error);
    server.host.request_end(&Record {
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
