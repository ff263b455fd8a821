//! What the host offers: to applications ([`AppHost`]) and to worker classes ([`HostServices`]).
//!
//! Only the host implements these traits, with an object that lives as long as the process. Authors see them as
//! [`crate::app::WorkerFacts`] and [`crate::worker::Host`]. Methods must not panic: they run in the host, outside
//! of any plugin's fence.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::abi::ListenerParts;
use crate::request::Request;
use crate::worker::{Record, State};

/// The worker as one of its applications sees it. `[any thread]`
pub trait AppHost: Sync + 'static {
    /// The process id.
    fn pid(&self) -> u32;
    /// The worker's number in order of birth; 0 in a probe.
    fn age(&self) -> u64;
    /// The generation, from 1.
    fn generation(&self) -> u64;
    /// Whether this is only a probe.
    fn is_probe(&self) -> bool;
    /// The application's settings as a JSON object.
    fn settings(&self) -> &str;
    /// A setting of the server as text.
    fn server_setting(&self, name: &str) -> Option<&str>;
    /// Something of the application's own has been stuck for so long.
    fn stuck(&self, what: &str, time: Duration);
}

/// The host as the worker class sees it. `[worker] [running] [any thread]`
pub trait HostServices: Sync + 'static {
    /// The listening sockets.
    fn listeners(&self) -> &[ListenerParts];
    /// Readable while `take_events` has something to say.
    fn notify_fd(&self) -> i32;
    /// `EVENT_*` bits of [`crate::abi`] since the last call.
    fn take_events(&self) -> u32;
    /// What the master wants.
    fn state(&self) -> State;
    /// Whether the listener with this index goes away, so that its queue is to be emptied before leaving.
    fn must_empty(&self, listener: usize) -> bool;
    /// The class can serve: wait for the master's go.
    fn ready(&self) -> State;
    /// Heartbeat; `idle` before a wait.
    fn tick(&self, idle: bool);
    /// Whether to take another connection.
    fn may_accept(&self) -> bool;
    /// Counts a connection; its socket, if it travels on one.
    fn connection_opened(&self, socket: Option<BorrowedFd<'_>>);
    /// Counts it off.
    fn connection_closed(&self);
    /// A request begins.
    fn request_begin(&self, request: &Request<'_>) -> u64;
    /// A request ended.
    fn request_end(&self, record: &Record<'_>);
    /// Whether it is over its time.
    fn request_expired(&self, token: u64) -> bool;
    /// Its call does not come back, and its client was dealt with.
    fn request_abandoned(&self, token: u64);
    /// It came back after all.
    fn request_recovered(&self, token: u64);
    /// A setting as text.
    fn setting(&self, name: &str) -> Option<&str>;
}
