//! The handlers, in terms of what they need: compiled into the application and, from the same text, into the class.

use rgunicorn_worker_api::error::{Error, Fault};

/// A request and its answer, behind the interface or not.
pub(crate) trait Face {
    /// The value of the first field with this name, in any letter case.
    fn field(&self, name: &str) -> Option<&[u8]>;
    /// The whole answer, with status 200.
    fn respond(&mut self, fields: &[(&str, &str)], body: &[u8]) -> Result<(), Fault>;
}

const TYPE: &[(&str, &str)] = &[("Content-Type", "text/plain")];

/// Looks at nothing.
pub(crate) fn hello(face: &mut impl Face) -> Result<(), Error> {
    Ok(face.respond(TYPE, b"Hello, World!")?)
}

/// Looks for eight fields, of which the last is not there.
pub(crate) fn fields(face: &mut impl Face) -> Result<(), Error> {
    let names = [
        "host",
        "accept",
        "user-agent",
        "accept-encoding",
        "accept-language",
        "cookie",
        "priority",
        "x-none",
    ];
    let octets: usize = names.iter().filter_map(|name| face.field(name)).map(<[u8]>::len).sum();
    let body = if octets == 0 { &b"none"[..] } else { b"Hello, World!" };
    Ok(face.respond(TYPE, body)?)
}
