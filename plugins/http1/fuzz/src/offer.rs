//! What an application might offer: names that matter to framing, names that do not, and any octets at all.
//!
//! What a newcomer would get wrong: an input rarely spells `Transfer-Encoding` by chance. The first octets of a field
//! choose from a table, so that the fuzzer spends its time on combinations and not on spelling.

use super::{octet, octets};

const NAMES: &[&str] = &[
    "Content-Length",
    "Transfer-Encoding",
    "Connection",
    "Keep-Alive",
    "Trailer",
    "TE",
    "Upgrade",
    "Date",
    "Server",
    "X-A",
    "Content-Type",
    "Set-Cookie",
    "content-length",
    "Proxy-Connection",
];

const VALUES: &[&str] =
    &["chunked", "close", "keep-alive", "0", "5", "6", "18446744073709551615", "a\r\nX: b", "", "websocket"];

/// A field.
pub type Field = (Vec<u8>, Vec<u8>);

/// Up to three fields.
pub fn fields(input: &mut &[u8]) -> Vec<Field> {
    (0..octet(input) % 4).map(|_| (word(input, NAMES), word(input, VALUES))).collect()
}

/// A word of the table, or octets of the input.
fn word(input: &mut &[u8], table: &[&str]) -> Vec<u8> {
    let choice = octet(input);
    match table.get(usize::from(choice)) {
        Some(word) => word.as_bytes().to_vec(),
        None => octets(input, usize::from(choice % 16)).to_vec(),
    }
}

/// A status: mostly a usual one, sometimes any number.
pub fn status(input: &mut &[u8]) -> u16 {
    const STATUSES: &[u16] = &[200, 204, 205, 304, 404, 500, 101, 100, 103, 426, 201, 99, 600, 999, 0];
    let choice = octet(input);
    STATUSES
        .get(usize::from(choice))
        .copied()
        .unwrap_or_else(|| u16::from(choice) * 4 + u16::from(choice % 3))
}

/// A piece of a body: short, and at times long enough to fill what is buffered.
pub fn piece(input: &mut &[u8]) -> Vec<u8> {
    match octet(input) {
        255 => vec![b'x'; 70_000],
        254 => vec![b'y'; 9_000],
        length => vec![b'z'; usize::from(length % 32)],
    }
}
