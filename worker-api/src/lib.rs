//! The interface between rgunicorn, its worker classes and its applications.
//!
//! An application is a shared library that [`export_app!`] makes of an [`app::App`]; a worker class is one that
//! [`export_worker!`] makes of a [`worker::WorkerClass`]; a library of [`hooks`] watches over both. Host, class and application are built apart, by
//! whatever compilers, and meet in the tables of [`abi`]; nothing else crosses, and panics stop at the fence in
//! [`export`].
//!
//! ```
//! use rgunicorn_worker_api::prelude::*;
//!
//! fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
//!     Ok(App::inline(|_request, response| {
//!         Ok(response.respond(200, &[("Content-Type", "text/plain")], b"Hello, World!\n")?)
//!     }))
//! }
//!
//! rgunicorn_worker_api::export_app! { "app": inline = app }
//! # fn main() {}
//! ```
//!
//! Reading order: [`app`], [`request`], [`response`], [`asynchronous`], then for worker classes [`worker`]; how it
//! crosses: [`abi`], [`export`], [`note`]. What saves authors work is in [`sdk`], behind features.
//!
//! Documentation of functions that cross ends with tags: the process (`[worker]`, `[probe]`), the thread
//! (`[main]`, `[any thread]`) and the phase (`[loaded]`, `[running]`, `[stopping]`) in which they may be called.

pub mod abi;
pub mod app;
pub mod asynchronous;
pub mod error;
pub mod export;
pub mod hooks;
pub mod host;
pub mod note;
pub mod request;
pub mod response;
pub mod sdk;
pub mod worker;

/// What an application author writes with.
pub mod prelude {
    pub use crate::app::{App, WorkerFacts};
    pub use crate::asynchronous::{AsyncRequest, AsyncResponse, AsyncStream};
    pub use crate::error::{Error, Fault};
    pub use crate::hooks::Event;
    pub use crate::request::{Field, NO_FIELDS, Request, Scheme, Version};
    pub use crate::response::{Response, Stream};
    pub use crate::{export_app, export_hooks};
    pub use log;
}

/// Pages for authors: what they show in Rust is compiled with the examples of this crate.
#[cfg(all(doctest, feature = "kit", feature = "settings", feature = "tower"))]
mod pages {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/APPLICATIONS.md")]
    mod applications {}
    #[doc = include_str!("../../docs/HOOKS.md")]
    mod hooks {}
}
