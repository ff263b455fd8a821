//! The JSON that the default route answers with.
//!
//! Only writing, and only what that object needs. JSON is text and a request is octets, so each octet becomes the
//! character with its number (Latin-1): nothing is lost and nothing can be invalid.

use rgunicorn_worker_api::prelude::*;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The object that describes `request` and its body, which was read to its end. Trailer fields are told only if
/// there are any.
pub(crate) fn describe(request: &Request<'_>, length: u64, sha256: Sha256) -> String {
    let mut out = String::with_capacity(512);
    out.push_str("{\"method\":");
    string(&mut out, request.method());
    out.push_str(",\"target\":");
    string(&mut out, request.target());
    out.push_str(",\"version\":");
    string(&mut out, request.version().as_str().as_bytes());
    out.push_str(",\"headers\":");
    fields(&mut out, request.fields());
    let mut trailers = request.trailers().peekable();
    if trailers.peek().is_some() {
        out.push_str(",\"trailers\":");
        fields(&mut out, trailers);
    }
    out.push_str(",\"body_len\":");
    write(&mut out, format_args!("{length}"));
    out.push_str(",\"body_sha256\":\"");
    for octet in sha256.finalize() {
        write(&mut out, format_args!("{octet:02x}"));
    }
    out.push_str("\"}");
    out
}

/// An array of `["name","value"]`, in order.
fn fields<'x>(out: &mut String, fields: impl Iterator<Item = Field<'x>>) {
    out.push('[');
    for (index, field) in fields.enumerate() {
        out.push_str(if index == 0 { "[" } else { ",[" });
        string(out, field.name);
        out.push(',');
        string(out, field.value);
        out.push(']');
    }
    out.push(']');
}

/// A JSON string (RFC 8259 section 7) of which each character is one octet.
fn string(out: &mut String, octets: &[u8]) {
    out.push('"');
    for octet in octets {
        match octet {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(*octet)),
            _ => write(out, format_args!("\\u{octet:04x}")),
        }
    }
    out.push('"');
}

fn write(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a String takes whatever is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_become_latin_1() {
        let mut out = String::new();
        string(&mut out, b"a\"b\\c\x00\n\x7f\x80\xe9\xff~ ");
        assert_eq!(out, r#""a\"b\\c\u0000\u000a\u007f\u0080\u00e9\u00ff~ ""#);
    }

    #[test]
    fn fields_stay_in_order_and_apart() {
        let mut out = String::new();
        fields(
            &mut out,
            [Field::new("host", "a"), Field::new("x-a", "1"), Field::new("x-a", "")].into_iter(),
        );
        assert_eq!(out, r#"[["host","a"],["x-a","1"],["x-a",""]]"#);
        out.clear();
        fields(&mut out, std::iter::empty());
        assert_eq!(out, "[]");
    }
}
