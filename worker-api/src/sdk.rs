//! What saves authors work: types they know, a runtime, settings, logs, tests. None of it crosses the interface.
//!
//! Each part is behind a feature of this crate, because what it needs is compiled into every library that asks for it:
//!
//! | feature | gives |
//! |---|---|
//! | `settings` | `WorkerFacts::settings_as`: the table `[app.NAME]` as a type of the author's |
//! | `http` | `Request::to_http` and `Response::send`: the types of the crate `http` in any handler |
//! | `tokio` | `App::tokio`: an async handler with a runtime in the background of the worker (`sdk::runtime`) |
//! | `tower` | `App::tower` and `App::tower_with`: a `tower` service, such as an axum router |
//! | `tracing` | events of the crate `tracing` in the server's log, beside those of `log` |
//! | `kit` | `sdk::kit`: an application under test, without a server and under a real one |
//!
//! A newcomer would give the host or a worker class one of these features. They are the application's: what the
//! server is made of does not depend on them.

#[cfg(feature = "tower")]
pub mod body;
#[cfg(feature = "tower")]
pub mod connection;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "kit")]
pub mod kit;
#[cfg(feature = "tokio")]
pub mod runtime;
#[cfg(feature = "settings")]
pub mod settings;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(feature = "tracing")]
pub(crate) mod trace;
#[cfg(feature = "tower")]
pub mod upgrade;
#[cfg(feature = "tokio")]
mod watchdog;
