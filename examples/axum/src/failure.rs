//! What a client hears when something fails, and what the log hears.
//!
//! A newcomer would send the client the text of a database's error. It is logged; the client learns that it was not
//! its own fault.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// A status, and a sentence for the client.
pub(crate) struct Failure(pub(crate) StatusCode, pub(crate) &'static str);

impl Failure {
    /// Something here has failed: `what`, because of `why`.
    pub(crate) fn ours(what: &'static str, why: impl std::fmt::Display) -> Self {
        tracing::error!("{what}: {why}");
        Self(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here")
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}
