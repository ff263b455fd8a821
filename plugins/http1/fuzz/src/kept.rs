//! Inputs that are kept: a text file for each target in `../kept`, with one input a line, escaped as Rust does it.
//!
//! Owns that form. What a newcomer would get wrong: the fuzzer wants a directory with a file for each input, thousands of
//! them; that is made out of this (`../examples/seeds.rs`) and back into it (`../examples/keep.rs`), and not kept.

/// One line of a file: printable ASCII, and escapes for all else.
pub fn to_line(input: &[u8]) -> String {
    input.escape_ascii().to_string()
}

/// The input that a line stands for; none if nothing would have been escaped like that.
pub fn from_line(line: &str) -> Option<Vec<u8>> {
    let mut octets = line.bytes();
    let mut input = Vec::with_capacity(line.len());
    while let Some(octet) = octets.next() {
        input.push(match octet {
            b'\\' => match octets.next()? {
                b'x' => hex(octets.next()?)? << 4 | hex(octets.next()?)?,
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                itself @ (b'\\' | b'\'' | b'"') => itself,
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(input)
}

fn hex(digit: u8) -> Option<u8> {
    // A digit of base 16 is less than 16.
    (digit as char).to_digit(16).map(|digit| digit as u8)
}
