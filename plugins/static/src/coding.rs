//! Which of several encoded forms of a file the client wants: `Accept-Encoding` (RFC 9110 section 12.5.3).
//!
//! Owns the reading of the field and the order. Does not know which forms there are; whoever asks looks for the files.
//!
//! What a newcomer gets wrong: `identity` needs no mention to be accepted, but can be refused, by itself or by `*;q=0`;
//! and it can be preferred.

use serde::Deserialize;

/// A content coding for which there may be a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Coding {
    #[serde(rename = "br")]
    Brotli,
    #[serde(rename = "zstd")]
    Zstd,
    #[serde(rename = "gzip")]
    Gzip,
}

impl Coding {
    /// Its name in fields.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What the name of the file ends in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// What a client accepts, in thousandths.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The codings to look for, the wanted ones first. None is wanted less than the file as it is.
    pub(crate) codings: Vec<Coding>,
    /// Whether the file as it is will do.
    pub(crate) identity: bool,
}

impl Accepted {
    /// From the values of all such fields, and the codings that there may be, the server's preferred ones first.
    pub(crate) fn new<'v>(values: impl Iterator<Item = &'v [u8]>, offered: &[Coding]) -> Self {
        let wishes: Vec<(&[u8], u32)> =
            values.flat_map(|value| value.split(|octet| *octet == b',')).filter_map(wish).collect();
        let wished = |name: &str| {
            let same = |wish: &&(&[u8], u32)| {
                let other = wish.0.strip_prefix(b"x-").filter(|_| name == "gzip").unwrap_or(wish.0);
                other.eq_ignore_ascii_case(name.as_bytes())
            };
            wishes.iter().find(same).map(|wish| wish.1)
        };
        let rest = wished("*");
        // Without a mention it is acceptable, and the least of what is.
        let identity = wished("identity").or(rest.filter(|quality| *quality == 0));
        let quality = |coding: &Coding| wished(coding.name()).or(rest).unwrap_or(0);
        let mut codings: Vec<Coding> = offered
            .iter()
            .copied()
            .filter(|coding| quality(coding) > 0 && quality(coding) >= identity.unwrap_or(0))
            .collect();
        // Stable: of those that are wanted alike the server's order holds.
        codings.sort_by_key(|coding| std::cmp::Reverse(quality(coding)));
        Self { codings, identity: identity != Some(0) }
    }
}

/// One element; none if it is empty or malformed.
fn wish(element: &[u8]) -> Option<(&[u8], u32)> {
    let mut parts = element.split(|octet| *octet == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    match parts.next() {
        None => Some((name, 1000)),
        Some([b'q' | b'Q', b'=', number @ ..]) => Some((name, thousandths(number)?)),
        Some(_) => None,
    }
}

/// `qvalue`: 0 to 1 with up to three digits behind the point (RFC 9110 section 12.4.2).
fn thousandths(number: &[u8]) -> Option<u32> {
    let (whole, digits) = match number {
        [whole] | [whole, b'.'] => (*whole, &[][..]),
        [whole, b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => {
            (*whole, digits)
        }
        _ => return None,
    };
    let mut value = match whole {
        b'0' => 0,
        b'1' => 1,
        _ => return None,
    };
    for place in 0..3 {
        value = value * 10 + digits.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    (value <= 1000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::Coding::{Brotli, Gzip, Zstd};
    use super::*;

    #[test]
    fn clients_get_what_they_want_most() {
        for (fields, codings, identity) in [
            (&[][..], &[][..], true),
            (&[""], &[], true),
            (&["gzip"], &[Gzip], true),
            (&["GZIP, br"], &[Brotli, Gzip], true),
            (&["gzip", "br"], &[Brotli, Gzip], true),
            (&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip], true),
            (&["x-gzip"], &[Gzip], true),
            (&["br;q=0.5, gzip;q=0.8"], &[Gzip, Brotli], true),
            (&["br;q=0, gzip;q=0.001"], &[Gzip], true),
            (&["*"], &[Brotli, Zstd, Gzip], true),
            (&["*;q=0.1, br;q=0"], &[Zstd, Gzip], true),
            (&["gzip;q=0.5, identity"], &[], true),
            (&["gzip;q=0.5, identity;q=0.5"], &[Gzip], true),
            (&["identity;q=0, gzip"], &[Gzip], false),
            (&["*;q=0"], &[], false),
            (&["gzip, *;q=0"], &[Gzip], false),
            (&["*;q=0, identity"], &[], true),
            (&["gzip ; q=1.0 ,, br;q=1.000"], &[Brotli, Gzip], true),
            (&["gzip;q=1.1, br;q=0.1234, zstd;level=3"], &[], true),
            (&["gzip;q=, br;q=a, zstd;q=2"], &[], true),
        ] {
            let values = fields.iter().map(|value| value.as_bytes());
            let got = Accepted::new(values, &[Brotli, Zstd, Gzip]);
            assert_eq!(got, Accepted { codings: codings.to_vec(), identity }, "{fields:?}");
        }
    }
}
