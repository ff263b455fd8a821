//! The settings about proxies in front: which peers are trusted, and what they may say.
//!
//! Owns the judgement of their texts, before a worker class reads them. Does not own their meaning for a request: that
//! is `plugins/http1`.
//!
//! What a newcomer would get wrong: a text that is not understood here must never become "nobody" or "everybody" later.
//! It ends the start, or the reload.

use std::net::IpAddr;

/// Judges one element of a list of peers: addresses, networks and `*`, separated by commas.
///
/// # Errors
/// Why not, as a sentence that begins with the element.
pub(super) fn check_peers(text: &str) -> Result<(), String> {
    elements(text).try_for_each(check_peer)
}

/// Judges one element of a list of field names: names and `*`, separated by commas.
///
/// # Errors
/// As [`check_peers`].
pub(super) fn check_field_names(text: &str) -> Result<(), String> {
    elements(text).try_for_each(check_field_name)
}

/// Judges a field and the value that means HTTPS.
///
/// # Errors
/// As [`check_peers`].
pub(super) fn check_scheme_header(name: &str, value: &str) -> Result<(), String> {
    check_field_name(name)?;
    let is_plain = |octet: u8| matches!(octet, b'!'..=b'~') && octet != b',';
    if value.is_empty() || !value.bytes().all(is_plain) {
        return Err(format!("'{name}={value}' has no value of visible characters without a comma"));
    }
    Ok(())
}

/// What stands between commas, without white space around it. Nothing there is no element, as in Gunicorn.
fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

fn check_peer(text: &str) -> Result<(), String> {
    let not_understood =
        || format!("'{text}' is no address; write one, a network such as 10.0.0.0/8, or '*' for all");
    let (address, length) = match text.split_once('/') {
        None if text == "*" => return Ok(()),
        None => return text.parse::<IpAddr>().map(|_| ()).map_err(|_| not_understood()),
        Some(parts) => parts,
    };
    let (bits, width, is_v6) = match address.parse::<IpAddr>().map_err(|_| not_understood())? {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32, false),
        IpAddr::V6(v6) => (v6.to_bits(), 128, true),
    };
    let digits = !length.is_empty() && length.bytes().all(|octet| octet.is_ascii_digit());
    let length: u32 = Some(length)
        .filter(|_| digits)
        .and_then(|length| length.parse().ok())
        .filter(|length| *length <= width)
        .ok_or_else(|| format!("'{text}' is no network: its length must be from 0 to {width}"))?;
    let host = u128::MAX.checked_shr(128 - (width - length)).unwrap_or(0);
    if bits & host == 0 {
        return Ok(());
    }
    // Who writes 192.168.1.1/24 may mean either.
    let network = bits & !host;
    let network = if is_v6 {
        IpAddr::from(network.to_be_bytes())
    } else {
        IpAddr::from((network as u32).to_be_bytes())
    };
    Err(format!(
        "'{text}' is an address within a network; write {network}/{length} for the network, or {address} for the address"
    ))
}

fn check_field_name(name: &str) -> Result<(), String> {
    let is_tchar = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    if name.is_empty() || !name.bytes().all(is_tchar) {
        return Err(format!("'{name}' is no name of a header field"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers() {
        for text in [
            "",
            "*",
            "127.0.0.1,::1",
            " 10.0.0.1 , ,fe80::/10 ",
            "0.0.0.0/0",
            "10.0.0.1/32",
            "::/0",
            "::1/128",
            "192.168.0.0/16",
        ] {
            assert_eq!(check_peers(text), Ok(()), "{text}");
        }
        let cases = [
            (
                "localhost",
                "'localhost' is no address; write one, a network such as 10.0.0.0/8, or '*' for all",
            ),
            ("::1,10.0.0", "'10.0.0' is no address;"),
            ("010.0.0.1", "'010.0.0.1' is no address;"),
            ("10.0.0.0/33", "'10.0.0.0/33' is no network: its length must be from 0 to 32"),
            ("10.0.0.0/+8", "'10.0.0.0/+8' is no network:"),
            ("10.0.0.0/", "'10.0.0.0/' is no network:"),
            ("::/129", "'::/129' is no network: its length must be from 0 to 128"),
            (
                "192.168.1.1/24",
                "'192.168.1.1/24' is an address within a network; write 192.168.1.0/24 for the network, or 192.168.1.1",
            ),
            ("fe80::1/10", "'fe80::1/10' is an address within a network; write fe80::/10 for"),
            ("*/8", "'*/8' is no address;"),
        ];
        for (text, expected) in cases {
            let why = check_peers(text).unwrap_err();
            assert!(why.starts_with(expected), "{text}: {why}");
        }
    }

    #[test]
    fn field_names() {
        for text in ["", "*", "SCRIPT_NAME,PATH_INFO", "remote_user , x-y"] {
            assert_eq!(check_field_names(text), Ok(()), "{text}");
        }
        assert_eq!(check_field_names("A B"), Err("'A B' is no name of a header field".to_owned()));
        assert_eq!(check_scheme_header("X-FORWARDED-PROTO", "https"), Ok(()));
        for (name, value) in [("X Y", "on"), ("X", ""), ("X", "a,b"), ("X", "a b"), ("X", "\u{e9}")] {
            assert!(check_scheme_header(name, value).is_err(), "{name}={value}");
        }
    }
}
