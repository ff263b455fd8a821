//! How the load asks: the modes of `cargo bench-servers`.
//!
//! Owns the list and the words for `wrk`. What a newcomer would get wrong: two modes are not here to be asked with `wrk`,
//! `idle` and `log`, which start servers of their own; they are listed, so that they can be chosen.

use std::path::Path;

/// Twelve fields as a browser sends them; with `Host` they are thirteen.
const BROWSER: &[&str] = &[
    "Connection: keep-alive",
    "Cache-Control: max-age=0",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
    "Priority: u=0, i",
];

/// A way to ask.
#[derive(Debug)]
pub(super) struct Mode {
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    /// Whom all are compared with.
    pub(super) reference: &'static str,
    pub(super) path: &'static str,
    fields: &'static [&'static str],
    /// A script for `wrk`, in `tests/peers`.
    script: Option<&'static str>,
}

pub(super) const KEEP: &str = "keep";
pub(super) const BROWSER_LIKE: &str = "browser";
pub(super) const PIPELINED: &str = "pipelined";
pub(super) const CLOSE: &str = "close";
pub(super) const UPLOAD: &str = "upload";
pub(super) const DOWNLOAD: &str = "download";
pub(super) const LOG: &str = "log";
pub(super) const IDLE: &str = "idle";

const fn plain(key: &'static str, title: &'static str, reference: &'static str) -> Mode {
    Mode { key, title, reference, path: "/hello", fields: &[], script: None }
}

/// All of them, in the order in which they are measured.
pub(super) const MODES: &[Mode] = &[
    plain(KEEP, "Kept connections, hello", "hyper"),
    Mode { fields: BROWSER, ..plain(BROWSER_LIKE, "Kept connections, 13 fields as of a browser", "hyper") },
    Mode {
        script: Some("pipelined.lua"),
        ..plain(PIPELINED, "Kept connections, 16 requests at a time", "hyper")
    },
    Mode { fields: &["Connection: close"], ..plain(CLOSE, "One connection per request", "nginx") },
    Mode { path: "/echo", script: Some("upload.lua"), ..plain(UPLOAD, "64 KiB, echoed", "hyper") },
    Mode { path: "/big", ..plain(DOWNLOAD, "1 MiB, downloaded", "hyper") },
    plain(LOG, "With an access log", "poll"),
    plain(IDLE, "Idle connections", "nginx"),
];

impl Mode {
    /// Whether `wrk` asks all servers, one after the other.
    pub(super) fn is_load(&self) -> bool {
        !matches!(self.key, LOG | IDLE)
    }

    /// The words for `wrk`.
    pub(super) fn words(&self, root: &Path) -> Vec<String> {
        let mut words: Vec<String> =
            self.fields.iter().flat_map(|field| ["-H".to_owned(), (*field).to_owned()]).collect();
        if let Some(script) = self.script {
            words.extend(["-s".to_owned(), root.join("tests/peers").join(script).display().to_string()]);
        }
        words
    }
}

/// The mode of this key, which there is.
pub(super) fn mode(key: &str) -> Option<&'static Mode> {
    MODES.iter().find(|mode| mode.key == key)
}
