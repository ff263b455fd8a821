//! The text that tells one build of `inspect` from another.
//!
//! It must lie in the library once and in one piece, so that a test can find it there, or patch it. A string that
//! is only formatted or compared may be split or folded away by the compiler; hence a static that is kept
//! (`#[used]`) and reached through [`std::hint::black_box`].

const PREFIX: &str = "INSPECT-VERSION:";

/// The variable `INSPECT_VERSION` of the build, or 1.
const DIGIT: u8 = match option_env!("INSPECT_VERSION") {
    None => b'1',
    Some(value) => {
        assert!(
            value.len() == 1 && value.as_bytes()[0].is_ascii_digit(),
            "INSPECT_VERSION must be one digit"
        );
        value.as_bytes()[0]
    }
};

#[used]
static TEXT: [u8; PREFIX.len() + 1] = {
    let mut text = [DIGIT; PREFIX.len() + 1];
    let mut at = 0;
    while at < PREFIX.len() {
        text[at] = PREFIX.as_bytes()[at];
        at += 1;
    }
    text
};

/// `INSPECT-VERSION:` and the build's digit.
pub(crate) fn text() -> &'static [u8] {
    std::hint::black_box(&TEXT)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_text_ends_with_one_digit() {
        let text = super::text();
        assert_eq!(text.len(), 17);
        assert!(text.starts_with(b"INSPECT-VERSION:") && text[16].is_ascii_digit());
    }
}
