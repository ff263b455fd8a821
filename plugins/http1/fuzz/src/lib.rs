//! What `http1` promises about any octets, a module for each fuzz target; and what they share: how an input chooses
//! settings, a client that forgives nothing, a wire in memory.
//!
//! Each module states its properties at its head; its `holds` panics where an input breaks one. What a newcomer would
//! get wrong: the first octets of an input are not HTTP, they are choices, taken off by [`octet`]. [`SETTINGS`] says how
//! many [`settings`] takes, so that a raw request becomes an input by putting as many zeros before it. And these files
//! are compiled twice: here, and by `../tests/corpus.rs`, which has no fuzzer; hence they name each other by `super`.

pub mod body;
pub mod client;
pub mod exchange;
pub mod head;
pub mod kept;
pub mod offer;
pub mod proxy;
pub mod response;
pub mod wire;

use rgunicorn_http1::{HeaderMap, Leniency, Limits};

/// Octets that [`settings`] takes.
pub const SETTINGS: usize = 1;

/// Takes an octet off the front; 0 where there is none.
pub fn octet(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

/// Takes up to `count` octets off the front.
pub fn octets<'i>(input: &mut &'i [u8], count: usize) -> &'i [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}

/// One bit for each leniency, and one for limits that a short input can exceed.
pub fn settings(input: &mut &[u8]) -> (Limits, Leniency) {
    let bits = octet(input);
    let bit = |number: u8| bits >> number & 1 == 1;
    let leniency = Leniency {
        permit_obsolete_folding: bit(0),
        strip_header_spaces: bit(1),
        permit_unconventional_http_method: bit(2),
        permit_unconventional_http_version: bit(3),
        casefold_http_method: bit(4),
        header_map: match bits >> 5 & 3 {
            1 => HeaderMap::Refuse,
            2 => HeaderMap::Dangerous,
            _ => HeaderMap::Drop,
        },
    };
    let narrow = Limits {
        request_line: 60,
        fields: 6,
        field_size: 60,
        head: 150,
        body: Some(30),
        chunk_extensions: 12,
        trailer_fields: 2,
        trailers: 40,
    };
    (if bit(7) { narrow } else { Limits::default() }, leniency)
}

/// What a refusal means to the client. Which of two limits a line too long for both is said to break depends on where
/// it was cut, and is 431 either way; all else does not.
pub fn meaning(error: &rgunicorn_http1::Error) -> String {
    if error.status() == 431 { "over a limit".to_owned() } else { format!("{error:?}") }
}
