//! One exchange: the request to an upstream, and the answer back.
//!
//! It owns the choice of the upstream, what is tried again, and what the client is told when there is no answer: 502 if
//! the upstream cannot be reached or does not speak HTTP, 504 if it does nothing for too long, each with a line in the
//! log. If the client leaves, the server drops the future of the exchange, and with it the call.
//!
//! A newcomer would try everything again. What has perhaps been done must not be done twice: after a connection was
//! made, only a request without a body whose method means the same twice is sent once more (RFC 9110 section 9.2.2),
//! which is what a kept connection that the upstream closes at that very moment needs.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rgunicorn_worker_api::prelude::log;
use rgunicorn_worker_api::sdk::body::Body;
use rgunicorn_worker_api::sdk::connection::Connection;

use crate::fields;
use crate::pieces::{Answer, Lent, Patience};
use crate::settings::{Rules, Upstream};
use crate::tunnel;

/// A sentence of ours, or an upstream's body.
type Reply = Either<Full<Bytes>, Answer>;

/// What the requests of a worker share.
pub(crate) struct Proxy {
    rules: Rules,
    client: Client<HttpConnector, Lent>,
    /// Which upstream is next.
    turn: AtomicUsize,
}

/// Why there is no answer to pass on.
struct Refusal(StatusCode, &'static str);

impl Proxy {
    pub(crate) fn new(rules: Rules) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(rules.connect_timeout));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(rules.pool_timeout)
            .pool_max_idle_per_host(rules.pool)
            .build(connector);
        Self { rules, client, turn: AtomicUsize::new(0) }
    }

    /// The answer to a request, whatever becomes of it.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Reply> {
        self.forward(request).await.unwrap_or_else(|Refusal(status, sentence)| {
            let mut response = Response::new(Either::Left(Full::from(sentence)));
            *response.status_mut() = status;
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        })
    }

    async fn forward(&self, request: Request<Body>) -> Result<Response<Reply>, Refusal> {
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return Err(Refusal(StatusCode::NOT_IMPLEMENTED, "this proxy opens no tunnels\n"));
        }
        if parts.method == Method::TRACE {
            return Err(Refusal(StatusCode::NOT_IMPLEMENTED, "this proxy passes no TRACE on\n"));
        }
        if parts.method == Method::OPTIONS && !fields::may_go_on(&mut parts.headers) {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        let Some(connection) = parts.extensions.remove::<Connection>() else {
            return Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "this is no request of a server's\n"));
        };
        let protocol = fields::upgrade(&parts.headers);
        let length = body.size_hint().exact();
        let mount = connection.mount();
        let (peer, scheme) = (connection.peer(), connection.scheme());
        let client = fields::Client { peer, scheme, mount: &mount, length };
        fields::pass_on(&mut parts.headers, &client, self.rules.keep_host);
        fields::pass_by(&mut parts.headers, self.via(parts.version));
        if let Some(protocol) = &protocol {
            fields::ask_upgrade(&mut parts.headers, protocol.clone());
        }
        let patience = Patience::new(self.rules.upstream_timeout, body);
        let (mut response, what) = self.ask(&parts, length, &patience).await?;

        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = fields::upgrade(response.headers()).filter(|_| protocol.is_some());
        fields::leave_connection(response.headers_mut());
        let via = self.via(response.version());
        fields::pass_by(response.headers_mut(), via);
        if switches {
            let Some(protocol) = protocol else {
                log::error!("{what}: it switches to a protocol that nobody asked for");
                return Err(Refusal(StatusCode::BAD_GATEWAY, "the upstream server gave no proper answer\n"));
            };
            fields::ask_upgrade(response.headers_mut(), protocol);
            tunnel::join(connection.upgrade(), &mut response, what.clone());
        }
        let limit = self.rules.upstream_timeout;
        Ok(response.map(|body| Either::Right(Answer::new(body, limit, what))))
    }

    /// The head of the answer, and whose it is to what, for the log.
    async fn ask(
        &self,
        parts: &Parts,
        length: Option<u64>,
        patience: &Patience,
    ) -> Result<(Response<Incoming>, String), Refusal> {
        let upstreams = &self.rules.upstreams;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let (mut refused, mut retried) = (0, false);
        loop {
            let upstream = &upstreams[(first.wrapping_add(refused)) % upstreams.len()];
            let what = format!("{} {} at {}", parts.method, parts.uri.path(), upstream.authority);
            let Some(body) = patience.lend() else {
                // The connection that came to nothing has taken of the body.
                log::error!("{what}: not tried again, since the body has been read");
                return Err(Refusal(StatusCode::BAD_GATEWAY, "the upstream server cannot be reached\n"));
            };
            let mut request = Request::new(body);
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = target(upstream, &parts.uri).map_err(|error| {
                log::error!("{what}: this makes no address: {error}");
                Refusal(StatusCode::BAD_REQUEST, "this makes no address\n")
            })?;
            *request.headers_mut() = parts.headers.clone();
            let error = match patience.wait(self.client.request(request)).await {
                Some(Ok(response)) => return Ok((response, what)),
                Some(Err(error)) => error,
                None => {
                    log::error!("{what}: nothing happened for {:?}", self.rules.upstream_timeout);
                    return Err(Refusal(StatusCode::GATEWAY_TIMEOUT, "the upstream server is too slow\n"));
                }
            };
            if patience.is_broken() {
                // The server has an answer for that, and sends it in place of this one.
                return Err(Refusal(StatusCode::BAD_REQUEST, ""));
            }
            let sentence = sentence(&error);
            if error.is_connect() {
                log::error!("{what}: cannot connect: {sentence}");
                refused += 1;
                if refused < upstreams.len() {
                    continue;
                }
                return Err(if is_late(&error) {
                    Refusal(StatusCode::GATEWAY_TIMEOUT, "the upstream server is too slow\n")
                } else {
                    Refusal(StatusCode::BAD_GATEWAY, "the upstream server cannot be reached\n")
                });
            }
            if !retried && length == Some(0) && parts.method.is_idempotent() && has_left(&error) {
                log::debug!("{what}: {sentence}; once more");
                retried = true;
                continue;
            }
            log::error!("{what}: {sentence}");
            return Err(Refusal(StatusCode::BAD_GATEWAY, "the upstream server gave no proper answer\n"));
        }
    }

    fn via(&self, version: Version) -> &HeaderValue {
        &self.rules.via[usize::from(version == Version::HTTP_10)]
    }
}

/// Where a request goes: its own path, below the upstream's.
fn target(upstream: &Upstream, uri: &Uri) -> Result<Uri, http::Error> {
    let own = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = if own.starts_with('/') { format!("{}{own}", upstream.base) } else { own.to_owned() };
    Uri::builder().scheme(Scheme::HTTP).authority(upstream.authority.clone()).path_and_query(path).build()
}

/// The error and its causes.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn sentence(error: &legacy::Error) -> String {
    // The first says no more than that a client has failed.
    let own: &(dyn Error + 'static) = error;
    let mut texts: Vec<String> = causes(own).skip(1).map(ToString::to_string).collect();
    texts.dedup();
    if texts.is_empty() { own.to_string() } else { texts.join(": ") }
}

fn is_late(error: &legacy::Error) -> bool {
    let late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
    causes(error).any(|cause| cause.downcast_ref().is_some_and(late))
}

/// Whether the upstream closed the connection where an answer should have begun.
fn has_left(error: &legacy::Error) -> bool {
    causes(error).any(|cause| {
        let closed =
            |error: &hyper::Error| error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        let reset = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        };
        cause.downcast_ref().is_some_and(closed) || cause.downcast_ref().is_some_and(reset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_below_the_upstream_s() {
        for (base, asked, wanted) in [
            ("", "/", "http://a:81/"),
            ("", "/x/../y?q=%2f", "http://a:81/x/../y?q=%2f"),
            ("", "http://elsewhere/x", "http://a:81/x"),
            ("/base", "/x?q", "http://a:81/base/x?q"),
            ("/base", "/", "http://a:81/base/"),
            ("", "//x", "http://a:81//x"),
        ] {
            let upstream = Upstream { authority: "a:81".parse().unwrap(), base: base.to_owned() };
            assert_eq!(target(&upstream, &asked.parse().unwrap()).unwrap().to_string(), wanted, "{asked}");
        }
        let upstream = Upstream { authority: "a:81".parse().unwrap(), base: "/base".to_owned() };
        assert_eq!(target(&upstream, &Uri::from_static("*")).unwrap().path(), "*");
    }
}
