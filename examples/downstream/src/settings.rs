//! What the operator decides: which server is called, how often at a time, for how long.
//!
//! Owns the names of the variables and their defaults. A newcomer might let the request say whom to call: anyone could
//! then reach whatever the server can reach. And a name would have to be looked up, which waits; so an address it is.

use rgunicorn_worker_api::prelude::Error;
use std::env;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// From the environment, once for each worker.
pub(crate) struct Settings {
    /// `DOWNSTREAM`: the other server, `ADDRESS:PORT`.
    pub(crate) address: Option<SocketAddr>,
    /// `DOWNSTREAM_CALLS`: most calls at a time.
    pub(crate) calls: usize,
    /// `DOWNSTREAM_TIMEOUT_MS`: for one call, from connecting to the last octet.
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn from_environment() -> Result<Self, Error> {
        Ok(Self {
            address: variable("DOWNSTREAM", "an address and a port, as in 127.0.0.1:8080")?,
            calls: variable("DOWNSTREAM_CALLS", "a number")?.unwrap_or(1000),
            timeout: Duration::from_millis(
                variable("DOWNSTREAM_TIMEOUT_MS", "a number of milliseconds")?.unwrap_or(10_000),
            ),
        })
    }
}

fn variable<T: FromStr>(name: &str, kind: &str) -> Result<Option<T>, Error> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    match value.to_str().and_then(|value| value.parse().ok()) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::new(format!("cannot use {name}={}: it must be {kind}", value.display()))),
    }
}
