//! What a tower service may ask about its exchange beyond the request's own types: the extension [`Connection`].
//!
//! It owns the request half of the exchange, shared with the body. What a newcomer gets wrong: `http::Uri` and
//! `HeaderMap` are a reading of the head. The octets as they came, in the order in which they came, are here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::asynchronous::AsyncRequest;
use crate::error::{Error, Fault};
use crate::request::{Address, Head, Scheme, split_target};
use crate::sdk::body::Body;
use crate::sdk::http::parts_of;
use crate::sdk::upgrade::{Upgrade, Upgraded};

/// The exchange of a request, as an extension of it.
///
/// ```
/// use rgunicorn_worker_api::sdk::connection::Connection;
///
/// async fn whoami(axum::Extension(connection): axum::Extension<Connection>) -> String {
///     connection.peer().to_string()
/// }
///
/// let _: axum::Router = axum::Router::new().route("/whoami", axum::routing::get(whoami));
/// ```
///
/// Once the exchange has ended it answers as for a request without content.
pub struct Connection(AsyncRequest);

/// What the exchange of a service has beyond the two halves; it lies beside them.
#[derive(Default)]
pub(crate) struct Aside {
    /// Why the body could not be read.
    fault: OnceLock<Fault>,
    /// Who waits for the connection itself.
    upgrade: Mutex<Option<oneshot::Sender<Upgraded>>>,
    /// Whether anybody ever has, which few do.
    asked: AtomicBool,
}

impl Clone for Connection {
    fn clone(&self) -> Self {
        Self(self.0.share())
    }
}

impl Connection {
    pub(crate) fn new(request: AsyncRequest) -> Self {
        Self(request)
    }

    /// The client's address, or that of a trusted proxy's client.
    #[must_use]
    pub fn peer(&self) -> Address {
        self.0.peer()
    }

    /// The server's own end.
    #[must_use]
    pub fn local(&self) -> Address {
        self.0.local()
    }

    /// How the client reached the server.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.0.scheme()
    }

    /// The prefix that the application is mounted on, without a trailing slash; empty for `/`. The path that a service
    /// sees begins after it, so that a router need not know where the operator has mounted it; links that it writes
    /// begin with it.
    #[must_use]
    pub fn mount(&self) -> Vec<u8> {
        self.0.mount()
    }

    /// The method as it was sent.
    #[must_use]
    pub fn method(&self) -> Vec<u8> {
        self.0.method()
    }

    /// The request-target, octet by octet as it was sent, mount point included.
    #[must_use]
    pub fn target(&self) -> Vec<u8> {
        self.0.target()
    }

    /// The header fields as (name, value), in order of arrival and in the letter case of the sender.
    #[must_use]
    pub fn fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.fields()
    }

    /// A fact of the TLS session by name (`version`, `cipher`, `client_certificate`), if there is one.
    #[must_use]
    pub fn tls(&self, name: &str) -> Option<Vec<u8>> {
        self.0.tls(name)
    }

    /// Waits until the client has closed the connection, or the exchange has ended.
    ///
    /// A service need not ask: when the client leaves, its future and its body are dropped. Who does ask is not
    /// dropped but woken, and ends in its own way.
    ///
    /// Over TCP that takes a reset: a client that closes in the ordinary way may still read, and counts as there. Set
    /// `request_timeout`, which is 0 by default, for those. Over a Unix socket a close is seen.
    pub async fn client_gone(&self) {
        self.0.client_gone().await;
    }

    /// Whether the request is over `request_timeout`, or the exchange has ended.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.0.expired()
    }

    /// The connection itself, once the service has answered with 101, or with a 2xx to `CONNECT`. See
    /// [`Upgrade`].
    #[must_use]
    pub fn upgrade(&self) -> Upgrade {
        let (sender, receiver) = oneshot::channel();
        *self.0.aside().upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        self.0.aside().asked.store(true, Ordering::Release);
        Upgrade::new(receiver)
    }

    pub(crate) fn take_upgrade(&self) -> Option<oneshot::Sender<Upgraded>> {
        if !self.0.aside().asked.load(Ordering::Acquire) {
            return None;
        }
        self.0.aside().upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The request in the types of `http`, with this connection among its extensions.
    pub(crate) fn to_http(&self) -> Result<http::Request<Body>, Error> {
        let (parts, length) = self.0.look(|head, fields| match below(head.target, head.mount) {
            None => parts_of(head, fields),
            Some(target) => parts_of(&Head { target: &target, ..*head }, fields),
        })?;
        let mut request = http::Request::from_parts(parts?, Body::of(self, length));
        request.extensions_mut().insert(self.clone());
        Ok(request)
    }

    pub(crate) fn trailers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.trailers()
    }

    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, Fault>> {
        let result = self.0.read_shared(context, buffer);
        if let Poll::Ready(Err(fault)) = result {
            // Only the first counts, and it ends the body.
            let _ = self.0.aside().fault.set(fault);
        }
        result
    }

    /// Why the body could not be read, if it could not.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.0.aside().fault.get().copied()
    }
}

/// The target as it is below the mount point, in origin form; none if there is no such point.
fn below(target: &[u8], mount: &[u8]) -> Option<Vec<u8>> {
    if mount.is_empty() {
        return None;
    }
    let (path, query) = split_target(target);
    let mut below = path.strip_prefix(mount)?.to_vec();
    if below.is_empty() {
        below.push(b'/');
    }
    if let Some(query) = query {
        below.push(b'?');
        below.extend_from_slice(query);
    }
    Some(below)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_sees_what_is_below_its_mount_point() {
        for (target, mount, seen) in [
            ("/a/b?c", "", None),
            ("/a/b?c", "/a", Some("/b?c")),
            ("/a", "/a", Some("/")),
            ("/a?", "/a", Some("/?")),
            ("http://host/a/b", "/a", Some("/b")),
            ("*", "/a", None),
        ] {
            let below = below(target.as_bytes(), mount.as_bytes());
            assert_eq!(below.as_deref(), seen.map(str::as_bytes), "{target} {mount}");
        }
    }
}
