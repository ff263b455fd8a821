//! What a request may measure, and which strict rules an operator has chosen to relax.
//!
//! It owns the numbers and the switches; the code that applies them is beside the thing measured. Times
//! are not here: this crate never looks at a clock, so the worker class owns time-outs.
//!
//! What a newcomer gets wrong: zero means zero. "Unlimited" is a large number chosen by the caller, which
//! has to answer for the memory; only `body`, which is never held here, can be without a limit.

/// Upper bounds on what one request may make the server keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Octets in the request line without its CRLF (`limit_request_line`); more is 414.
    pub request_line: usize,
    /// Field lines in the head, dropped ones included (`limit_request_fields`); more is 431.
    pub fields: usize,
    /// Octets in one field line with its CRLF (`limit_request_field_size`); more is 431.
    pub field_size: usize,
    /// Octets in the whole head. Gunicorn has no such bound and thus allows 800 KiB of fields; 64 KiB is
    /// what a client that does not mean harm never reaches. More is 431.
    pub head: usize,
    /// Octets of content, after decoding; more is 413.
    pub body: Option<u64>,
    /// Octets of chunk extensions in one whole body, since each of a million tiny chunks may bring some
    /// (RFC 9112 section 7.1.1 demands a bound); more is 413.
    pub chunk_extensions: usize,
    /// Field lines in the trailer section; more is 431.
    pub trailer_fields: usize,
    /// Octets in the whole trailer section; more is 431.
    pub trailers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: 4094,
            fields: 100,
            field_size: 8190,
            head: 64 * 1024,
            body: None,
            chunk_extensions: 16 * 1024,
            trailer_fields: 100,
            trailers: 16 * 1024,
        }
    }
}

/// Departures from the strict rules, named as Gunicorn names its settings. The default permits none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leniency {
    /// Accept a field value continued on the next line (RFC 9112 section 5.2); each fold becomes one SP.
    pub permit_obsolete_folding: bool,
    /// Accept white space between field name and colon, and remove it (RFC 9112 section 5.1 forbids it).
    pub strip_header_spaces: bool,
    /// Accept any token as method: lower case, `#`, shorter than 3 or longer than 20 octets.
    pub permit_unconventional_http_method: bool,
    /// Accept any `HTTP/d.d`; what is below 1.1 is treated as 1.0, the rest as 1.1.
    pub permit_unconventional_http_version: bool,
    /// Make the method upper case. Alone it changes nothing: as in Gunicorn, lower case passes only with
    /// `permit_unconventional_http_method`.
    pub casefold_http_method: bool,
    /// What to do with a field whose name holds an underscore.
    pub header_map: HeaderMap,
}

/// Treatment of field names with an underscore.
///
/// CGI-like interfaces map both `X-A` and `X_A` to `HTTP_X_A`, so that a client could speak in the name of
/// a proxy. What a proxy itself may say is excepted: see `Head::parse_forwarded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderMap {
    /// As if it had not been sent, though it counts against the limits.
    #[default]
    Drop,
    /// Refuse the request: 400.
    Refuse,
    /// Hand it on.
    Dangerous,
}
