//! Where the monitor is to be reached, and whom it tells.
//!
//! Owns the reading of these settings. Does not own the sockets, which the master binds, nor the monitor. A newcomer
//! might let the monitor share an address with the workers: half of the requests would then reach the wrong one.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::address::judge_length;
use super::{BindAddress, BindKind, ConfigError, Resolver};

/// Where metrics are sent, and how they are named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsdTarget {
    /// A UDP port, or a Unix socket for datagrams.
    pub address: BindKind,
    /// Before each name: empty, or with a dot at its end.
    pub prefix: String,
    /// Behind each value: empty, or with what announces them.
    pub tags: String,
    /// Whether the accept queues are told.
    pub backlog: bool,
}

impl Resolver<'_> {
    /// Probe: the statsd server, its name looked up.
    pub(super) fn statsd(&self) -> Result<Option<StatsdTarget>, ConfigError> {
        // Also where nothing is sent: a mistake is not to come to light with the address.
        let word = |name: &str| {
            let word = self.text(name).unwrap_or_default();
            let wrong = word.chars().any(|character| character == '|' || character.is_whitespace());
            if wrong { Err(self.fail(name, "it may hold neither '|' nor white space")) } else { Ok(word) }
        };
        let prefix = word("statsd_prefix")?.trim_end_matches('.').to_owned();
        let tags = word("dogstatsd_tags")?;
        let Some(text) = self.text("statsd_host") else { return Ok(None) };
        let fail = |why: &str| {
            self.fail("statsd_host", &format!("'{text}' is no address of a statsd server: {why}"))
        };
        let is_unix = text.starts_with("unix:");
        if !is_unix && !text.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            return Err(fail("it has no port; write HOST:PORT, such as localhost:8125, or unix:PATH"));
        }
        let address = BindAddress::resolve(&text, &self.directory).map_err(|why| fail(&why))?;
        if let BindKind::Fd(_) | BindKind::FdName(_) = address.kind {
            return Err(fail("a socket that was passed cannot be used for this"));
        }
        Ok(Some(StatsdTarget {
            address: address.kind,
            prefix: if prefix.is_empty() { prefix } else { prefix + "." },
            backlog: self.flag("enable_backlog_metric"),
            tags: if tags.is_empty() { tags } else { format!("|#{tags}") },
        }))
    }

    /// Probe: where the control socket is to be, if there is to be one.
    pub(super) fn control_socket(&self) -> Result<Option<PathBuf>, ConfigError> {
        let path = self.path("control_socket");
        path.iter()
            .try_for_each(|path| judge_length(path))
            .map_err(|why| self.fail("control_socket", &why))?;
        Ok(path)
    }

    /// Probe: the address for health and metrics, which must be none of the server's own.
    pub(super) fn monitor_bind(&self, bind: &[BindAddress]) -> Result<Option<BindAddress>, ConfigError> {
        let Some(text) = self.text("monitor_bind") else { return Ok(None) };
        let address = BindAddress::resolve(&text, &self.directory)
            .map_err(|why| self.fail("monitor_bind", &format!("'{text}' is no address: {why}")))?;
        if let BindKind::Fd(_) | BindKind::FdName(_) = address.kind {
            let why = format!("'{text}' is a socket that was passed, which cannot be used for this");
            return Err(self.fail("monitor_bind", &why));
        }
        let chosen_by_kernel = matches!(&address.kind, BindKind::Tcp(address) if address.port() == 0);
        match bind.iter().find(|other| other.kind == address.kind && !chosen_by_kernel) {
            Some(_) => {
                let why = format!("'{text}' is an address of 'bind'; the monitor needs one of its own");
                Err(self.fail("monitor_bind", &why))
            }
            None => Ok(Some(address)),
        }
    }
}
