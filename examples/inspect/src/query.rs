//! Parameters of a query: `name=value` joined by `&`, values percent-decoded into octets.
//!
//! Not form encoding: `+` stays `+`, and a `%` that two hexadecimal digits do not follow stays `%`. Names are
//! compared as they were sent. What is missing or unparsable takes the caller's default.

/// The query of a request-target, without its `?`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'q>(&'q [u8]);

impl<'q> Query<'q> {
    /// The query, where there is one.
    pub(crate) fn new(query: Option<&'q [u8]>) -> Self {
        Self(query.unwrap_or_default())
    }

    /// The decoded value of the first parameter with this name.
    pub(crate) fn octets(self, name: &str) -> Option<Vec<u8>> {
        self.0
            .split(|octet| *octet == b'&')
            .find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(decode)
    }

    /// A parameter that is a decimal number: digits only, at most what the type holds.
    pub(crate) fn number<N: std::str::FromStr>(self, name: &str, default: N) -> N {
        self.octets(name).and_then(|digits| decimal(&digits)).unwrap_or(default)
    }
}

/// The number that these decimal digits are; a sign is not a digit.
pub(crate) fn decimal<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn decode(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, others @ ..] = rest {
        let escaped = match (first, others) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            decoded.push(high << 4 | low);
            rest = &others[2..];
        } else {
            decoded.push(*first);
            rest = others;
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    // A hexadecimal digit is below 16.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_into_octets() {
        let query =
            Query::new(Some(b"a=1&name=%58-%41&value=a%0D%0Ab%00%fF&plus=1+1&odd=%4g%&a=2&empty=&bare"));
        for (name, value) in [
            ("a", Some(&b"1"[..])),
            ("name", Some(b"X-A")),
            ("value", Some(b"a\r\nb\0\xff")),
            ("plus", Some(b"1+1")),
            ("odd", Some(b"%4g%")),
            ("empty", Some(b"")),
            ("bare", None),
            ("nam", None),
            ("missing", None),
        ] {
            assert_eq!(query.octets(name).as_deref(), value, "{name}");
        }
        assert_eq!(Query::new(None).octets("a"), None);
    }

    #[test]
    fn numbers_are_decimal_or_the_default() {
        let query =
            Query::new(Some(b"n=12&zero=0&neg=-1&plus=+1&hex=0x10&big=99999999999999999999&empty=&enc=%31"));
        for (name, number) in [
            ("n", 12),
            ("zero", 0),
            ("neg", 7),
            ("plus", 7),
            ("hex", 7),
            ("big", 7),
            ("empty", 7),
            ("enc", 1),
            ("no", 7),
        ] {
            assert_eq!(query.number::<u64>(name, 7), number, "{name}");
        }
    }
}
