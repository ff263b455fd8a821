//! The ELF note `.note.rgunicorn`: what a plugin says of itself without being run.
//!
//! `key=value` lines, UTF-8, written by the export macros from the same constants that the calls return. Keys:
//! `kind` (`app`, `worker`, `hooks`), `name`, `version`, `abi`, `rustc`, `target`, `panic`, `apps`
//! (`name:execution,…`), `hooks` (`name,…`), `class`, `features`, `http1`, `needs` (what it cannot do without), and one
//! `option=name|type|default|help` line for each option. A reader skips keys that it does not know.

use crate::abi;
use crate::worker::OptionSpec;

/// The section, and the owner in the note's header.
pub const SECTION: &str = ".note.rgunicorn";
/// The owner in the note's header.
pub const OWNER: &str = "rgunicorn";
/// The type in the note's header.
pub const TYPE: u32 = 1;

/// The compiler that built this copy of the interface, and so the plugin around it.
pub const RUSTC: &str = env!("RGUNICORN_RUSTC");
/// The target triple that it was built for.
pub const TARGET: &str = env!("RGUNICORN_TARGET");
/// The version of the interface as the note has it.
pub const ABI: &str = "1.0";
const _: () = assert!(abi::ABI_MAJOR == 1 && abi::ABI_MINOR == 0, "note::ABI says another version");

/// A note as it lies in the library (elf(5), "Notes"): header, owner, text. `N` is the text's length rounded up
/// to four.
#[repr(C, align(4))]
#[derive(Debug)]
pub struct Block<const N: usize> {
    owner_size: u32,
    text_size: u32,
    kind: u32,
    owner: [u8; 12],
    text: [u8; N],
}

/// Octets of the note's text.
#[must_use]
pub const fn length(parts: &[&str], options: &[OptionSpec]) -> usize {
    let mut total = 0;
    let mut index = 0;
    while index < parts.len() {
        total += parts[index].len();
        index += 1;
    }
    index = 0;
    while index < options.len() {
        let option = &options[index];
        total += "option=".len() + option.name.len() + option.kind.as_str().len();
        total += option.default.len() + option.help.len() + "|||\n".len();
        index += 1;
    }
    total
}

/// `length` rounded up to four.
#[must_use]
pub const fn padded(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// The note with this text; `N` must be `padded(length(…))`.
#[must_use]
pub const fn block<const N: usize>(parts: &[&str], options: &[OptionSpec]) -> Block<N> {
    let size = length(parts, options);
    assert!(padded(size) == N, "the note's size was computed from other parts");
    let mut text = [0; N];
    let mut at = 0;
    let mut index = 0;
    while index < parts.len() {
        at = put(&mut text, at, parts[index], false);
        index += 1;
    }
    index = 0;
    while index < options.len() {
        let option = &options[index];
        at = put(&mut text, at, "option=", false);
        at = put(&mut text, at, option.name, true);
        at = put(&mut text, at, "|", false);
        at = put(&mut text, at, option.kind.as_str(), true);
        at = put(&mut text, at, "|", false);
        at = put(&mut text, at, option.default, true);
        at = put(&mut text, at, "|", false);
        at = put(&mut text, at, option.help, true);
        at = put(&mut text, at, "\n", false);
        index += 1;
    }
    // The size of a note is far below 4 GiB.
    Block { owner_size: 10, text_size: size as u32, kind: TYPE, owner: *b"rgunicorn\0\0\0", text }
}

/// Copies `part`; in an author's text the characters that separate would be misread, so they become spaces.
const fn put(text: &mut [u8], at: usize, part: &str, authors: bool) -> usize {
    let part = part.as_bytes();
    let mut index = 0;
    while index < part.len() {
        text[at + index] = match part[index] {
            b'\n' | b'|' if authors => b' ',
            octet => octet,
        };
        index += 1;
    }
    at + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::OptionKind;

    #[test]
    fn a_note_is_header_owner_text() {
        const OPTIONS: &[OptionSpec] =
            &[OptionSpec { name: "a", kind: OptionKind::Integer, default: "1", help: "x|y\nz" }];
        const PARTS: &[&str] = &["kind=worker\n"];
        const SIZE: usize = length(PARTS, OPTIONS);
        let block: Block<{ padded(SIZE) }> = block(PARTS, OPTIONS);
        assert_eq!((block.owner_size, block.kind), (10, 1));
        assert_eq!(&block.owner[..10], b"rgunicorn\0");
        let text = std::str::from_utf8(&block.text[..block.text_size as usize]).unwrap();
        assert_eq!(text, "kind=worker\noption=a|integer|1|x y z\n");
    }
}
