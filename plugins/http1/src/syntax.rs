//! Octet classes and the few splitting rules that requests and responses share.
//!
//! It owns the RFC 9110 section 5 alphabets (token, field value), optional white space, comma lists and
//! the two numerals (decimal `Content-Length`, hexadecimal digit). It knows no field by name.
//!
//! What a newcomer gets wrong: `char::is_whitespace` and `str::parse` are too generous here. White space
//! is SP and HTAB only, and `"+5".parse::<u64>()` succeeds, which on the wire is how two parsers come to
//! disagree about where a message ends.

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        // RFC 9110 section 5.6.2: "!#$%&'*+-.^_`|~" / DIGIT / ALPHA
        table[octet] = matches!(octet as u8,
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
            | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`'
            | b'|' | b'~');
        octet += 1;
    }
    table
};

const FIELD_VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        // RFC 9110 section 5.5: VCHAR / obs-text, with SP and HTAB between them.
        table[octet] = matches!(octet as u8, b'\t' | b' '..=b'~' | 0x80..=0xff);
        octet += 1;
    }
    table
};

pub(crate) fn is_tchar(octet: u8) -> bool {
    TOKEN[usize::from(octet)]
}

/// `token = 1*tchar`
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    // Nearly all are: looking at every octet without leaving early is quicker.
    !bytes.is_empty() && bytes.iter().fold(true, |all, &octet| all & is_tchar(octet))
}

/// Whether the octet may stand inside a field value: no control but HTAB, so no CR, LF or NUL.
pub(crate) fn is_value_octet(octet: u8) -> bool {
    FIELD_VALUE[usize::from(octet)]
}

pub(crate) fn is_value(bytes: &[u8]) -> bool {
    // As for tokens.
    bytes.iter().fold(true, |all, &octet| all & is_value_octet(octet))
}

/// SP or HTAB, the whole of RFC 9110's `OWS` alphabet.
pub(crate) fn is_space(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// Without optional white space at both ends.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// The members of a comma list, trimmed; empty members are kept, the caller judges them.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&octet| octet == b',').map(trim)
}

/// `1*DIGIT` within 64 bits; `None` for anything else, a sign, a space or an underscore included.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |number, &octet| {
        let digit = octet.is_ascii_digit().then(|| u64::from(octet - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The value of one `HEXDIG`.
pub(crate) fn hex_digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_alphabet_has_77_octets() {
        assert_eq!((0..=255).filter(|&octet| is_tchar(octet)).count(), 77);
        assert!(is_token(b"X-Forwarded-For"));
        for bad in [&b""[..], b"a b", b"a:b", b"a\tb", b"a\x00b", b"caf\xe9", b"a,b", b"(a)", b"a\"b", b"a@b"]
        {
            assert!(!is_token(bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn value_alphabet_excludes_controls() {
        assert!(is_value(b"a\tb c\xff"));
        for octet in (0..=255_u8).filter(u8::is_ascii_control).filter(|&octet| octet != b'\t') {
            assert!(!is_value_octet(octet), "{octet:#x}");
        }
    }

    #[test]
    fn trim_removes_only_space_and_tab() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b"\x0ba\xa0"), b"\x0ba\xa0");
        assert_eq!(trim(b" \t "), b"");
    }

    #[test]
    fn decimal_is_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"0012"), Some(12));
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        for bad in
            [&b""[..], b"18446744073709551616", b"+1", b"-1", b" 1", b"1 ", b"1_0", b"0x1", b"1,1", b"\xb2"]
        {
            assert_eq!(decimal(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn members_keeps_empty_ones() {
        assert_eq!(members(b"a, ,b").collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
        assert_eq!(members(b"").collect::<Vec<_>>(), [b""]);
    }
}
