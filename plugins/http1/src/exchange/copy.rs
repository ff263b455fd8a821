//! Octets of a body, copied to where the application wants them.
//!
//! It owns one detour around hardware. On some processors (AMD, family 25) `rep movsb`, with which the C library copies
//! what is longer than some 2 KiB, takes fifteen times as long if the destination lies 1 to 31 octets behind the source
//! within the page: measured were 22 µs for 64 KiB, and 1.4 otherwise. Where a body lies depends on the length of its
//! head, so some clients would meet that with each request, and others never. Shorter pieces are copied by other
//! instructions, which do not mind.
//!
//! What a newcomer gets wrong: pieces of one length, known when this is compiled, may be put together again by the
//! compiler. Hence `black_box`.

use std::hint::black_box;

/// So many octets the C library copies by other instructions.
const SHORT: usize = 1024;
const PAGE: usize = 4096;
/// Destinations nearer than this behind the source, within the page, are the slow ones.
const NEAR: usize = 32;

/// As `to.copy_from_slice(from)`.
///
/// # Panics
/// If one of them is longer than the other.
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    let behind = to.as_ptr().addr().wrapping_sub(from.as_ptr().addr()) % PAGE;
    if from.len() <= SHORT || !(1..NEAR).contains(&behind) {
        return to.copy_from_slice(from);
    }
    assert_eq!(to.len(), from.len(), "a copy has the length of its original");
    let short = black_box(SHORT);
    for (to, from) in to.chunks_mut(short).zip(from.chunks(short)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_distance_and_any_length() {
        let from: Vec<u8> = (0..3 * PAGE).map(|at| (at % 251) as u8).collect();
        let mut room = vec![0; 5 * PAGE];
        // Where in the room the page of the source has its like.
        let like = from.as_ptr().addr().wrapping_sub(room.as_ptr().addr()) % PAGE;
        for behind in [0, 1, 31, 32, PAGE - 1] {
            for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 2 * SHORT, 2 * PAGE + 77, 3 * PAGE] {
                room.fill(255);
                let at = (like + behind) % PAGE;
                copy(&mut room[at..at + length], &from[..length]);
                assert_eq!(room[at..at + length], from[..length], "{length} octets, {behind} behind");
                assert!(room[..at].iter().chain(&room[at + length..]).all(|octet| *octet == 255));
            }
        }
    }
}
