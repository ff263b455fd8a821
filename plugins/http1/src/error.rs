//! Everything that can be wrong with a message, and the status that says so.
//!
//! It owns the sentences an operator reads and the one mapping from error to status. It does not own the
//! answer itself (`response::error_response`), nor the decision to close: after any of these errors the
//! end of the message is not known for certain, so the connection is closed, always.
//!
//! What a newcomer gets wrong: a request error is the client's and answered with 4xx or 5xx from
//! `status`; an error of the `Response…` kind is the application's, and its answer is 500.

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A line ended with LF alone.
    #[error("line in request ends with LF without CR")]
    BareLineFeed,
    /// More than the one CRLF that RFC 9112 section 2.2 tolerates before a request line.
    #[error("more than one empty line before request line")]
    LeadingEmptyLines,
    /// Not `method SP target SP version`.
    #[error("request line does not have three parts")]
    RequestLine,
    /// Longer than `Limits::request_line`.
    #[error("request line is longer than the limit")]
    RequestLineTooLong,
    /// Not a token, or not of the conventional form.
    #[error("request method is not a conventional token")]
    Method,
    /// Not one of the four forms of RFC 9112 section 3.2, or not the one this method takes.
    #[error("request target is malformed")]
    Target,
    /// Not `HTTP/d.d`.
    #[error("HTTP version in request line is malformed")]
    VersionSyntax,
    /// Neither 1.0 nor 1.1.
    #[error("HTTP version of request is not supported")]
    VersionUnsupported,
    /// The head as a whole is longer than `Limits::head`.
    #[error("request head is longer than the limit")]
    HeadTooLarge,
    /// More field lines than `Limits::fields`.
    #[error("request has more header fields than the limit")]
    TooManyFields,
    /// A field line longer than `Limits::field_size`.
    #[error("header field of request is longer than the limit")]
    FieldTooLarge,
    /// Not `token ":"`; white space before the colon or before the first field is here too.
    #[error("header field name of request is malformed")]
    FieldName,
    /// An underscore in the name, under `HeaderMap::Refuse`.
    #[error("header field name of request has an underscore")]
    UnderscoreName,
    /// A control character, bare CR included.
    #[error("header field value of request has a control character")]
    FieldValue,
    /// A value continued on the next line.
    #[error("header field of request uses obsolete line folding")]
    ObsoleteFolding,
    /// A field that may appear only once appeared again.
    #[error("header field {0} of request appears more than once")]
    Repeated(&'static str),
    /// No `Host` in HTTP/1.1.
    #[error("request has no Host header field")]
    HostMissing,
    /// `Host` is not `uri-host [ ":" port ]`, or empty.
    #[error("Host header field of request is malformed")]
    Host,
    /// `Content-Length` is not `1*DIGIT` within 64 bits.
    #[error("Content-Length of request is malformed")]
    ContentLength,
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("request has both Content-Length and Transfer-Encoding")]
    ContentLengthWithTransferEncoding,
    /// `chunked` is not the last coding, or not once; or the list is malformed.
    #[error("Transfer-Encoding of request is malformed")]
    TransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0, which has none.
    #[error("request has Transfer-Encoding in HTTP/1.0")]
    TransferEncodingVersion,
    /// A coding below `chunked` that is not implemented.
    #[error("Transfer-Encoding of request names a coding that is not implemented")]
    TransferCoding,
    /// An expectation other than `100-continue`.
    #[error("Expect of request is not 100-continue")]
    Expectation,
    /// A PROXY protocol header that is none.
    #[error("PROXY protocol header is malformed")]
    ProxyHeader,
    /// A PROXY protocol header of a peer that is not trusted to send one.
    #[error("PROXY protocol header from a peer that is not in proxy_allow_ips")]
    ForbiddenProxy,
    /// Two fields of `secure_scheme_headers`, of which one says HTTPS and the other HTTP.
    #[error("header fields of request contradict each other about its scheme")]
    SchemeHeaders,
    /// Longer than `Limits::body`.
    #[error("request body is longer than the limit")]
    BodyTooLarge,
    /// The peer ended its input before the end of the message.
    #[error("client ended its request before it was complete")]
    Truncated,
    /// Not hexadecimal, or not within 64 bits.
    #[error("chunk size of request is malformed")]
    ChunkSize,
    /// Against the grammar of RFC 9112 section 7.1.1.
    #[error("chunk extension of request is malformed")]
    ChunkExtension,
    /// More extension octets than `Limits::chunk_extensions`.
    #[error("chunk extensions of request are longer than the limit")]
    ChunkExtensionsTooLarge,
    /// Chunk data not followed by CRLF.
    #[error("chunk data of request is not followed by CRLF")]
    ChunkEnd,
    /// A trailer field that RFC 9110 section 6.5.1 forbids.
    #[error("trailer field of request is one that must not be a trailer")]
    ForbiddenTrailer,
    /// The trailer section is longer than `Limits::trailers`.
    #[error("trailer section of request is longer than the limit")]
    TrailersTooLarge,
    /// For the caller, who has the clock: the head did not arrive in time.
    #[error("request did not arrive in time")]
    Timeout,
    /// Not a final status, or not an interim one where that is asked for.
    #[error("application sent status {0}, which is not possible here")]
    ResponseStatus(u16),
    /// The reason phrase holds a control character.
    #[error("application sent a reason phrase with a control character")]
    ResponseReason,
    /// A field name that is not a token.
    #[error("application sent malformed header field name \"{0}\"")]
    ResponseFieldName(String),
    /// A field value with a control character.
    #[error("application sent header field {0} with a control character")]
    ResponseFieldValue(String),
    /// A field that has no place in this kind of response.
    #[error("application sent header field {0}, which is not possible here")]
    ResponseFieldForbidden(String),
    /// `Content-Length` is no number, or two of them differ.
    #[error("application sent a malformed or contradictory Content-Length")]
    ResponseContentLength,
    /// A coding other than `chunked`, or `Transfer-Encoding` beside `Content-Length`.
    #[error("application sent a Transfer-Encoding that cannot be used")]
    ResponseTransferEncoding,
    /// 101 without an `Upgrade` field, or to a request that did not ask for it.
    #[error("application sent 101 without an upgrade being asked for and named")]
    ResponseUpgrade,
    /// The body ended before its declared length; nothing but closing tells the client.
    #[error("application sent {sent} octets of a body declared as {declared}")]
    ResponseShort {
        /// What `Content-Length` promised.
        declared: u64,
        /// What was written.
        sent: u64,
    },
}

impl Error {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::BareLineFeed
            | Self::LeadingEmptyLines
            | Self::RequestLine
            | Self::Method
            | Self::Target
            | Self::VersionSyntax
            | Self::FieldName
            | Self::UnderscoreName
            | Self::FieldValue
            | Self::ObsoleteFolding
            | Self::Repeated(_)
            | Self::HostMissing
            | Self::Host
            | Self::ContentLength
            | Self::ContentLengthWithTransferEncoding
            | Self::TransferEncoding
            | Self::TransferEncodingVersion
            | Self::ProxyHeader
            | Self::SchemeHeaders
            | Self::Truncated
            | Self::ChunkSize
            | Self::ChunkExtension
            | Self::ChunkEnd
            | Self::ForbiddenTrailer => 400,
            Self::ForbiddenProxy => 403,
            Self::Timeout => 408,
            Self::BodyTooLarge | Self::ChunkExtensionsTooLarge => 413,
            Self::RequestLineTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge | Self::TooManyFields | Self::FieldTooLarge | Self::TrailersTooLarge => 431,
            Self::ResponseStatus(_)
            | Self::ResponseReason
            | Self::ResponseFieldName(_)
            | Self::ResponseFieldValue(_)
            | Self::ResponseFieldForbidden(_)
            | Self::ResponseContentLength
            | Self::ResponseTransferEncoding
            | Self::ResponseUpgrade
            | Self::ResponseShort { .. } => 500,
            Self::TransferCoding => 501,
            Self::VersionUnsupported => 505,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn statuses() {
        for (error, status) in [
            (Error::BareLineFeed, 400),
            (Error::Truncated, 400),
            (Error::ForbiddenProxy, 403),
            (Error::Timeout, 408),
            (Error::BodyTooLarge, 413),
            (Error::RequestLineTooLong, 414),
            (Error::Expectation, 417),
            (Error::TooManyFields, 431),
            (Error::ResponseStatus(99), 500),
            (Error::TransferCoding, 501),
            (Error::VersionUnsupported, 505),
        ] {
            assert_eq!(error.status(), status, "{error}");
        }
    }

    #[test]
    fn sentence_names_the_object() {
        assert_eq!(
            Error::Repeated("Host").to_string(),
            "header field Host of request appears more than once"
        );
    }
}
