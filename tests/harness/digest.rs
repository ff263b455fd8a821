//! The SHA-256 of what was sent, read or installed, as text.
//!
//! Owns how a digest is written: in lower case, as `sha256sum` does, the server and the application `inspect` too.

use sha2::{Digest, Sha256};

/// The digest of these octets.
pub fn sha256(octets: &[u8]) -> String {
    Sha256::digest(octets).iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::sha256;

    /// The first example of FIPS 180-2, appendix B.1.
    #[test]
    fn is_written_as_everybody_does() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
