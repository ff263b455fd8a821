//! The harness of the black-box tests: it builds the programs, starts servers, speaks HTTP to them on raw sockets, and
//! looks at what they leave behind.
//!
//! Owns everything that more than one test file needs. Knows nothing of the host's or the plugins' code: what is
//! tested is what an operator runs. A test reads like this:
//!
//! ```text
//! let site = Site::new("what_it_proves");             // a directory of its own
//! site.install(programs().inspect(1), "app.so");
//! let server = site.launch().workers(2).start();      // rgunicorn on a port of its own
//! let load = Load::start(server.address(), Plan::versions(4));
//! …
//! assert!(load.stop().is_flawless());
//! server.finish();                                    // TERM; the log and the directory are looked at
//! ```
//!
//! What a newcomer would get wrong: nothing here sleeps to let something happen. Every wait is a condition with a
//! deadline ([`wait::wait_for`]); times are measured, printed, and asserted at a multiple.

pub mod breakage;
pub mod classes;
pub mod compiler;
pub mod crowd;
mod digest;
pub mod guard;
pub mod http;
pub mod inject;
pub mod load;
mod port;
pub mod process;
pub mod programs;
mod queue;
pub mod server;
pub mod settings;
pub mod site;
pub mod upstream;
pub mod usage;
pub mod wait;

pub use classes::{
    Class, under_all_classes_at_a_time, under_each_class, under_each_that_keeps_alive,
    under_each_with_threads,
};
pub use crowd::{Crowd, Manner};
pub use digest::sha256;
pub use http::{Address, Connection, Failure, Heard, Pace, Response};
pub use load::{Load, Plan, Report};
pub use nix::sys::signal::Signal;
pub use port::Port;
pub use programs::programs;
pub use server::{Launch, Server};
pub use settings::Settings;
pub use site::Site;
pub use wait::{DEADLINE, stopped_at, wait_for, within};
