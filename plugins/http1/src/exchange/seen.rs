//! The half of an exchange that does not change: what the client asked, and who is watching.
//!
//! It owns nothing that a call can alter, apart from what is learnt once (trailers, the local address, the
//! token): octets it returns stay valid for the life of the exchange without any lock.
//!
//! What a newcomer gets wrong: `target` is the target as it came; mount point and path are different views
//! of the same octets.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rgunicorn_worker_api::request::{self, Address, Field, Scheme};
use rgunicorn_worker_api::worker::{Host, State};

use crate::body::BodyDecoder;
use crate::request::{BodyFraming, Head, Version};

/// Who knows whether a request is over its time and whether the worker wants to leave.
pub trait Watch: Sync {
    /// See `Host::request_expired`.
    fn expired(&self, token: u64) -> bool;
    /// Whether the worker no longer wants new work.
    fn draining(&self) -> bool;
}

impl Watch for Host {
    fn expired(&self, token: u64) -> bool {
        token != 0 && self.request_expired(token)
    }

    fn draining(&self) -> bool {
        self.state() != State::Running
    }
}

/// Nobody: requests have all the time there is.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn expired(&self, _: u64) -> bool {
        false
    }

    fn draining(&self) -> bool {
        false
    }
}

pub(super) type Trailers = Box<[(Vec<u8>, Vec<u8>)]>;

pub(super) struct Seen<'c> {
    /// The head, and whatever of the body came with it.
    pub(super) octets: &'c [u8],
    pub(super) head: &'c Head,
    pub(super) mount: &'c [u8],
    pub(super) scheme: Scheme,
    pub(super) peer: &'c Address,
    pub(super) local: OnceLock<Box<Address>>,
    pub(super) trailers: OnceLock<Trailers>,
    pub(super) watch: &'c dyn Watch,
    pub(super) token: AtomicU64,
}

impl Seen<'_> {
    pub(super) fn head(&self) -> request::Head<'_> {
        request::Head {
            method: self.head.method(self.octets),
            target: self.head.target(self.octets),
            mount: self.mount,
            version: match self.head.version() {
                Version::Http10 => request::Version::Http10,
                Version::Http11 => request::Version::Http11,
            },
            scheme: self.scheme,
            field_count: self.head.fields(self.octets).len(),
        }
    }

    pub(super) fn field(&self, index: usize) -> Option<Field<'_>> {
        self.head.field_at(self.octets, index).map(|(name, value)| Field { name, value })
    }

    pub(super) fn trailer(&self, index: usize) -> Option<Field<'_>> {
        self.trailers.get()?.get(index).map(|(name, value)| Field { name, value })
    }

    /// Keeps the trailers of a body that has ended.
    pub(super) fn learn_trailers(&self, body: &BodyDecoder) {
        self.trailers
            .get_or_init(|| body.trailers().map(|(name, value)| (name.to_vec(), value.to_vec())).collect());
    }

    pub(super) fn body_length(&self) -> Option<u64> {
        match self.head.framing() {
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked => None,
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token.load(Ordering::Relaxed)
    }

    pub(super) fn expired(&self) -> bool {
        self.watch.expired(self.token())
    }

    /// `METHOD TARGET`, for a log line.
    pub(super) fn line(&self) -> impl fmt::Display {
        let (method, target) = (self.head.method(self.octets), self.head.target(self.octets));
        format!("{} {}", method.escape_ascii(), target.escape_ascii())
    }
}
