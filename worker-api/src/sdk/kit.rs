//! An application under test: without a server ([`Loaded`]), or under a real one ([`Server`]).
//!
//! A call without a server goes through the very objects that cross the interface: a second `start`, a field that may
//! not be sent, a panic have the consequences that they have in a worker. What a newcomer gets wrong: that connection
//! takes everything at once and never leaves. How an application behaves with slow clients, with a connection that is
//! taken over, or while it is swapped, is seen under a real server only.

mod exchange;
mod loaded;
mod server;

pub use loaded::Loaded;
pub use server::Server;

use std::borrow::Cow;

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields as (name, value), in order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body, without framing.
    pub body: Vec<u8>,
    /// Whether the body came to its end. One that did not would be seen as cut by a client.
    pub is_whole: bool,
}

impl Answer {
    /// The value of the first field with this name, in any letter case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}
