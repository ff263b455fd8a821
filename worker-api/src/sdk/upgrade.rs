//! A connection that a service has taken over: after 101 (Switching Protocols), or a 2xx to `CONNECT`.
//!
//! It owns the hand-over from the exchange to whoever asked ([`Upgrade`]) and the stream itself ([`Upgraded`]). What
//! a newcomer gets wrong: the exchange lives as long as the stream. The stream is dropped, and with it the connection,
//! by whoever got it; when the worker has to go, it is closed under them.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::asynchronous::AsyncStream;
use crate::error::Fault;

/// The promise of a connection, from [`Connection::upgrade`]. Await it in a task of its own, since the answer that
/// makes it come true is still to be given.
///
/// ```
/// use axum::http::{StatusCode, header};
/// use axum::response::IntoResponse;
/// use rgunicorn_worker_api::sdk::connection::Connection;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// async fn echo(axum::Extension(connection): axum::Extension<Connection>) -> impl IntoResponse {
///     let upgrade = connection.upgrade();
///     tokio::spawn(async move {
///         let Ok(mut stream) = upgrade.await else { return };
///         let mut octets = [0; 1024];
///         while let Ok(count @ 1..) = stream.read(&mut octets).await {
///             if stream.write_all(&octets[..count]).await.is_err() {
///                 return;
///             }
///         }
///     });
///     (StatusCode::SWITCHING_PROTOCOLS, [(header::UPGRADE, "echo"), (header::CONNECTION, "upgrade")])
/// }
/// ```
///
/// [`Connection::upgrade`]: super::connection::Connection::upgrade
#[derive(Debug)]
pub struct Upgrade(oneshot::Receiver<Upgraded>);

impl Upgrade {
    pub(crate) fn new(receiver: oneshot::Receiver<Upgraded>) -> Self {
        Self(receiver)
    }
}

impl Future for Upgrade {
    type Output = Result<Upgraded, NotUpgraded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| NotUpgraded(()))
    }
}

/// There is no connection to be had: the answer was another one, the worker class does not offer it, or the client
/// has left.
#[derive(Debug)]
pub struct NotUpgraded(());

impl fmt::Display for NotUpgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was not taken over")
    }
}

impl std::error::Error for NotUpgraded {}

/// A connection on which HTTP has ended. Dropping it closes it.
pub struct Upgraded {
    stream: AsyncStream,
    /// Tells the exchange, when dropped.
    _open: oneshot::Sender<()>,
}

impl Upgraded {
    /// The stream, and what resolves when it is dropped.
    pub(crate) fn new(stream: AsyncStream) -> (Self, oneshot::Receiver<()>) {
        let (open, closed) = oneshot::channel();
        (Self { stream, _open: open }, closed)
    }
}

fn io_error(fault: Fault) -> io::Error {
    let kind = match fault {
        Fault::ClientGone => io::ErrorKind::ConnectionReset,
        Fault::TimedOut | Fault::Expired => io::ErrorKind::TimedOut,
        Fault::Misuse => io::ErrorKind::NotConnected,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, fault)
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let result = self.stream.poll_read(context, buffer.initialize_unfilled());
        result.map(|result| result.map(|count| buffer.advance(count)).map_err(io_error))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        piece: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(context, piece).map_err(io_error)
    }

    /// What was written is sent without being told to.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown().map_err(io_error))
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgraded")
    }
}
