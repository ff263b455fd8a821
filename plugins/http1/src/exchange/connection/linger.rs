//! The end of a connection whose client may still be sending.
//!
//! It owns why a socket is not simply closed: octets that are unread, or that arrive after close(2), are
//! answered with a reset, and a reset makes the client forget the answer that it has not read yet.
//!
//! What a newcomer gets wrong: lingering is a courtesy with bounds, in octets and in time. An event loop keeps
//! the time itself ([`LINGER_TIME`]); [`Connection::linger`] keeps both.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::Connection;
use crate::exchange::wire::{Interest, Wire};

/// How much of a client's unwanted octets is read before closing anyway. A client that sends this much after
/// it was told to stop will see a reset; it could be kept waiting no better.
const LINGER_OCTETS: u32 = 256 * 1024;

/// How long to linger before closing anyway.
pub const LINGER_TIME: Duration = Duration::from_secs(2);

/// Whether there is a reason to go on lingering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lingering {
    /// Close.
    Done,
    /// Wait until the wire is readable, no longer than [`LINGER_TIME`] in all; then again.
    More,
}

impl<W: Wire> Connection<W> {
    /// Ends the server's direction. `false`: nobody is there, close.
    pub fn linger_begin(&mut self) -> bool {
        self.linger_left = LINGER_OCTETS;
        self.wire.shutdown_write().is_ok()
    }

    /// Reads away what has arrived. Does not wait.
    pub fn linger_some(&mut self) -> Lingering {
        let mut buffer = [0; 8192];
        while self.linger_left > 0 {
            match self.wire.read(&mut buffer) {
                Ok(0) => return Lingering::Done,
                Ok(count) => {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    self.linger_left = self.linger_left.saturating_sub(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Lingering::More,
                Err(_) => return Lingering::Done,
            }
        }
        Lingering::Done
    }

    /// Ends the server's direction and waits until the client has ended its own, so that closing the socket
    /// resets nothing. Bounded in time and octets.
    pub fn linger(&mut self) {
        if !self.linger_begin() {
            return;
        }
        let mut deadline = None;
        while self.linger_some() == Lingering::More {
            let until = *deadline.get_or_insert_with(|| Instant::now() + LINGER_TIME);
            match self.wire.wait(Interest::Readable, Some(until)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
    }
}
