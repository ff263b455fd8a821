//! What a proxy in front says about its client, and whom to believe (`forwarded_allow_ips`).
//!
//! It owns the scheme that header fields tell, and which fields with an underscore a proxy may set. It does not own
//! the client's address: `X-Forwarded-For` is a field like any other, for the application to judge.
//!
//! What a newcomer gets wrong: any value of a scheme field but the one that means HTTPS means HTTP, also when the
//! connection itself is secure. Two fields that disagree make the request ambiguous, and it is refused.

use rgunicorn_worker_api::request::Scheme;
use rgunicorn_worker_api::worker::Host;

use super::allow_list::AllowList;
use crate::error::Error;
use crate::request::Head;

/// Which peers are believed, and what they may say. The default believes peers on Unix sockets, and those can say
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    /// `forwarded_allow_ips`.
    pub allow: AllowList,
    /// `secure_scheme_headers`: names, in whatever case, and the exact value that means HTTPS.
    pub secure_scheme_headers: Vec<(String, String)>,
    /// `forwarder_headers`: names, in whatever case, or `*`.
    pub forwarder_headers: Vec<String>,
}

impl Forwarded {
    /// The settings of the host.
    pub(super) fn of(host: &Host) -> Self {
        let list = |name| host.setting(name).unwrap_or_default().split(',').map(str::trim);
        let pairs = list("secure_scheme_headers").filter_map(|pair| pair.split_once('='));
        let names = list("forwarder_headers").filter(|name| !name.is_empty());
        Self {
            allow: AllowList::of(host.setting("forwarded_allow_ips").unwrap_or_default()),
            secure_scheme_headers: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            forwarder_headers: names.map(str::to_owned).collect(),
        }
    }

    /// The fields with an underscore that a peer may set, if it is believed.
    pub(super) fn headers_of(&self, believed: bool) -> &[String] {
        if believed { &self.forwarder_headers } else { &[] }
    }

    /// The scheme that the fields of a peer tell who is believed, or else `own`, that of the connection.
    pub(super) fn scheme(&self, head: &Head, octets: &[u8], own: Scheme) -> Result<Scheme, Error> {
        let mut told = None;
        if self.secure_scheme_headers.is_empty() {
            return Ok(own);
        }
        for (name, value) in head.fields(octets) {
            let secure = self.secure_scheme_headers.iter().find_map(|(known, secure)| {
                known.as_bytes().eq_ignore_ascii_case(name).then_some(secure.as_bytes())
            });
            let Some(secure) = secure else { continue };
            let scheme = if value == secure { Scheme::Https } else { Scheme::Http };
            if told.replace(scheme).is_some_and(|earlier| earlier != scheme) {
                return Err(Error::SchemeHeaders);
            }
        }
        Ok(told.unwrap_or(own))
    }
}
