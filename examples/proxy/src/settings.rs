//! The table `[app.proxy]` of the configuration file, and what becomes of it.
//!
//! It owns the defaults, and the sentence for each value that cannot be meant. A newcomer would look up the names of
//! the other servers here. That is done when a connection is made, so that a name may move, and a reload does not
//! depend on who answers for it.

use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Uri};
use rgunicorn_worker_api::prelude::Error;

/// As it is written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where requests go, in turn: `http://HOST:PORT` and perhaps a path to put before theirs.
    upstreams: Vec<String>,
    /// Whether upstreams see the client's `Host`, and not their own name.
    #[serde(default)]
    keep_host: bool,
    /// This proxy in the field `Via`.
    #[serde(default = "name")]
    name: String,
    /// Seconds to connect in.
    #[serde(default = "five")]
    connect_timeout: f64,
    /// Seconds in which an upstream has to do something: take of a body, begin its answer, go on with it.
    #[serde(default = "thirty")]
    upstream_timeout: f64,
    /// Idle connections that a worker keeps to each upstream.
    #[serde(default = "connections")]
    pool: usize,
    /// Seconds that it keeps them: fewer than the upstream does.
    #[serde(default = "one")]
    pool_timeout: f64,
}

fn name() -> String {
    "rgunicorn".to_owned()
}

fn one() -> f64 {
    1.0
}

fn five() -> f64 {
    5.0
}

fn thirty() -> f64 {
    30.0
}

fn connections() -> usize {
    32
}

/// As it is meant.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) keep_host: bool,
    /// For a message of HTTP/1.1 and one of HTTP/1.0.
    pub(crate) via: [HeaderValue; 2],
    pub(crate) connect_timeout: Duration,
    pub(crate) upstream_timeout: Duration,
    pub(crate) pool: usize,
    pub(crate) pool_timeout: Duration,
}

/// Another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) authority: Authority,
    /// What is put before each path; empty, or with a slash in front and none at its end.
    pub(crate) base: String,
}

impl Settings {
    pub(crate) fn check(self) -> Result<Rules, Error> {
        let upstreams: Vec<Upstream> =
            self.upstreams.iter().map(|text| upstream(text)).collect::<Result<_, _>>()?;
        if upstreams.is_empty() {
            return Err(Error::new("the setting `upstreams` must name a server, as `http://127.0.0.1:9000`"));
        }
        let via = |version| {
            // A pseudonym is a token (RFC 9110 section 7.6.3), and must not be a comment or two names.
            let token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
            let is_token = !self.name.is_empty() && self.name.bytes().all(token);
            let value = is_token.then(|| HeaderValue::try_from(format!("{version} {}", self.name)).ok());
            value.flatten().ok_or_else(|| {
                Error::new(format!(
                    "the setting `name` must be a word of letters, digits and `-._`, not {:?}",
                    self.name
                ))
            })
        };
        Ok(Rules {
            upstreams,
            keep_host: self.keep_host,
            via: [via("1.1")?, via("1.0")?],
            connect_timeout: seconds("connect_timeout", self.connect_timeout)?,
            upstream_timeout: seconds("upstream_timeout", self.upstream_timeout)?,
            pool: self.pool,
            pool_timeout: seconds("pool_timeout", self.pool_timeout)?,
        })
    }
}

fn upstream(text: &str) -> Result<Upstream, Error> {
    let wrong = |why: &str| {
        Error::new(format!(
            "the setting `upstreams` has {text:?}, {why}; write it as `http://127.0.0.1:9000`"
        ))
    };
    let uri: Uri = text.parse().map_err(|error| wrong(&format!("which is no address ({error})")))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(wrong("which names no scheme or no host"));
    };
    if *scheme != Scheme::HTTP {
        return Err(wrong("and this proxy speaks only plain http"));
    }
    if authority.as_str().contains('@') || uri.query().is_some() {
        return Err(wrong("and a user or a query has no place there"));
    }
    Ok(Upstream { authority: authority.clone(), base: uri.path().trim_end_matches('/').to_owned() })
}

fn seconds(name: &str, value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|time| !time.is_zero() && *time <= Duration::from_secs(86_400))
        .ok_or_else(|| {
            Error::new(format!(
                "the setting `{name}` must be more than 0 and at most a day of seconds, not {value}"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_plain_http() {
        let good = upstream("http://a.example:81/base/").unwrap();
        assert_eq!((good.authority.as_str(), good.base.as_str()), ("a.example:81", "/base"));
        assert_eq!(upstream("http://[::1]:81").unwrap().base, "");
        for (text, why) in [
            ("https://a", "speaks only plain http"),
            ("127.0.0.1:81", "names no scheme"),
            ("/a", "names no scheme"),
            ("http://u:p@a", "a user or a query"),
            ("http://a/?q", "a user or a query"),
            ("http://a b", "no address"),
            ("", "no address"),
        ] {
            let error = upstream(text).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("`upstreams`"), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_more_than_nothing() {
        assert_eq!(seconds("x", 0.5).unwrap(), Duration::from_millis(500));
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(seconds("x", value).unwrap_err().to_string().contains("`x`"), "{value}");
        }
    }
}
