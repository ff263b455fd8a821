//! The settings of an exchange: limits, leniency, times.
//!
//! It owns the names of the settings and what zero means there; what is measured against them is elsewhere.
//!
//! What a newcomer gets wrong: in the server's settings zero is "no limit"; in [`Limits`] zero is zero.

use std::time::Duration;

use rgunicorn_worker_api::worker::Host;

use super::allow_list::AllowList;
use super::forwarded::Forwarded;
use crate::limits::{HeaderMap, Leniency, Limits};
use crate::proxy::ProxyProtocol;

/// How requests are judged and how long clients may take. One per worker.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What a request may measure.
    pub limits: Limits,
    /// Which strict rules are relaxed.
    pub leniency: Leniency,
    /// What proxies in front may say, and which.
    pub forwarded: Forwarded,
    /// Which PROXY protocol headers a connection may begin with.
    pub proxy_protocol: ProxyProtocol,
    /// Who may send one.
    pub proxy_allow: AllowList,
    /// For the whole head, and a PROXY protocol header in front of the first one.
    pub head_timeout: Option<Duration>,
    /// For each pause while the application waits for the body.
    pub body_timeout: Option<Duration>,
    /// For each pause in which the client takes nothing of the answer.
    pub write_timeout: Option<Duration>,
    /// Most octets kept for a client that does not take them, of an application that may not wait (inline, on
    /// a loop). Beyond it the exchange fails. Files are not counted by their length.
    pub buffer: usize,
    /// Whether the class keeps connections at all. The class may still narrow it for one connection.
    pub keep_alive: bool,
    /// Whether to keep the application's response fields for the record. They are copied only then.
    pub keep_response_fields: bool,
}

/// Far more than a client leaves lying, and little enough for a few that take nothing at all.
const BUFFER: usize = 16 * 1024 * 1024;

impl Default for Rules {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            leniency: Leniency::default(),
            forwarded: Forwarded::default(),
            proxy_protocol: ProxyProtocol::default(),
            proxy_allow: AllowList::default(),
            head_timeout: None,
            body_timeout: None,
            write_timeout: None,
            buffer: BUFFER,
            keep_alive: false,
            keep_response_fields: false,
        }
    }
}

impl Rules {
    /// The rules in the host's settings.
    #[must_use]
    pub fn of(host: &Host, keep_alive: bool) -> Self {
        let standard = Limits::default();
        let or = |name, standard: usize| match host.integer(name) {
            None => standard,
            Some(value) => usize::try_from(value).unwrap_or(usize::MAX),
        };
        let or_none = |name, standard| match or(name, standard) {
            0 => usize::MAX,
            limit => limit,
        };
        let time = |name| host.seconds(name).filter(|time| !time.is_zero());
        let may = |name| host.flag(name).unwrap_or(false);
        let leniency = Leniency {
            permit_obsolete_folding: may("permit_obsolete_folding"),
            strip_header_spaces: may("strip_header_spaces"),
            permit_unconventional_http_method: may("permit_unconventional_http_method"),
            permit_unconventional_http_version: may("permit_unconventional_http_version"),
            casefold_http_method: may("casefold_http_method"),
            header_map: match host.setting("header_map") {
                Some("refuse") => HeaderMap::Refuse,
                Some("dangerous") => HeaderMap::Dangerous,
                _ => HeaderMap::Drop,
            },
        };
        Self {
            limits: Limits {
                request_line: or_none("limit_request_line", standard.request_line),
                fields: or("limit_request_fields", standard.fields),
                field_size: or_none("limit_request_field_size", standard.field_size),
                head: or("limit_request_head", standard.head),
                body: host.integer("limit_request_body").filter(|limit| *limit > 0),
                ..standard
            },
            forwarded: Forwarded::of(host),
            leniency,
            proxy_protocol: match host.setting("proxy_protocol") {
                Some("v1") => ProxyProtocol::V1,
                Some("v2") => ProxyProtocol::V2,
                Some("auto") => ProxyProtocol::Auto,
                _ => ProxyProtocol::Off,
            },
            proxy_allow: AllowList::of(host.setting("proxy_allow_ips").unwrap_or_default()),
            head_timeout: time("head_timeout"),
            body_timeout: time("body_timeout"),
            write_timeout: time("write_timeout"),
            buffer: BUFFER,
            keep_alive,
            // Gunicorn's atom `%({name}o)s` is what shows them.
            keep_response_fields: host.setting("access_log_format").is_some_and(|form| form.contains("}o")),
        }
    }
}
