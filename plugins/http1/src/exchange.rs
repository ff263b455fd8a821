//! One exchange, as an application meets it: `rgunicorn_worker_api::worker::Exchange` over HTTP/1.x.
//!
//! A worker class owns sockets, threads and waiting; this module owns everything between them and the
//! application: the order of head, interim answers, body and end, what is sent together, time limits, and
//! what to answer when something fails. It still does no I/O of its own. The class hands it a [`Wire`].
//!
//! - [`Connection`] receives heads, and bodies ahead of their exchange if the class likes that. What is received lies in its [`Memory`], which outlives the connection
//!   and is handed to the next one, so that a request costs no allocation.
//! - [`Blocking`] is the exchange for blocking and inline applications. Where it must wait it calls
//!   [`Wire::wait`].
//! - [`Polled`] is the exchange for async applications. It never waits, and tells the class what to wait for
//!   ([`Polled::wanted`]).
//! - [`Waiting`] is the face of a [`Polled`] for blocking applications: for a class that lets those run on
//!   threads, and sends on a loop what they leave behind.
//! - All end with `conclude`, which answers whatever the application left open, and `report`, which makes
//!   the record of the access log.
//!
//! **Sending.** What the client does not take at once waits in an outlet, files too, in order. [`Blocking`] leaves
//! nothing there. [`Waiting`] leaves up to 64 KiB, an async application as much, and an inline one, which can
//! neither wait nor be told to come back, up to [`Rules::buffer`]. Answers to requests that came in one burst may
//! gather there too ([`Polled::gather`]).
//!
//! | phase       | allowed                                           | next                                |
//! |-------------|---------------------------------------------------|-------------------------------------|
//! | `Unstarted` | `informational`; `start`, `respond`; `take_over`  | itself; `Started`, `Ended`; `Stream`|
//! | `Started`   | `write`, `send_file`, `flush`, `trailers`; `end`  | itself; `Ended`                     |
//! | `Ended`     | `flush`                                           | itself                              |
//! | `Stream`    | `stream_…`                                        | itself                              |
//!
//! Reading the request body is allowed in the first three. Anything else is [`Fault::Misuse`].
//!
//! **Clocks.** Only waiting costs time, so only waiting reads a clock: [`Blocking`] asks for the time when a
//! call would have to wait, [`Waiting`] too, [`Polled`] when a call returns `Pending`. An exchange whose octets are all there
//! reads none but the date.
//!
//! What a newcomer gets wrong: a client that has ended its own direction (`shutdown(SHUT_WR)`) still reads.
//! On TCP it looks like one that has closed its socket, until something is written to it. Both are served;
//! "gone" is who has reset, or hung up both directions.
//!
//! [`Fault::Misuse`]: rgunicorn_worker_api::error::Fault::Misuse

mod allow_list;
mod blocking;
mod connection;
mod conversation;
mod copy;
mod forwarded;
mod outlet;
mod polled;
mod rules;
mod seen;
#[cfg(test)]
mod tests;
mod waiting;
mod wire;

pub use allow_list::AllowList;
pub use blocking::Blocking;
pub use connection::{Ahead, Arrival, Caller, Connection, LINGER_TIME, Lingering, Memory};
pub use conversation::Ended;
pub use forwarded::Forwarded;
pub use polled::{Polled, Wanted};
pub use rules::Rules;
pub use seen::{Unwatched, Watch};
pub use waiting::Waiting;
pub use wire::{Interest, Wire};
