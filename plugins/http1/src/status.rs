//! Status codes as text: reason phrases and whole status lines, all of them constants.
//!
//! It owns the registry (RFC 9110 section 15, and the IANA list beside it); which status is chosen is not
//! decided here.
//!
//! What a newcomer gets wrong: the space after the code stays when the reason is empty (RFC 9112 section 4).

macro_rules! registry {
    ($($code:literal $reason:literal,)+) => {
        /// The registered reason phrase; empty for a code that has none.
        #[must_use]
        pub fn reason(status: u16) -> &'static str {
            match status {
                $($code => $reason,)+
                _ => "",
            }
        }

        /// The status line with its CRLF, for a registered code.
        pub(crate) fn status_line(status: u16) -> Option<&'static [u8]> {
            Some(match status {
                $($code => concat!("HTTP/1.1 ", $code, " ", $reason, "\r\n").as_bytes(),)+
                _ => return None,
            })
        }

        #[cfg(test)]
        const REGISTERED: &[u16] = &[$($code,)+];
    };
}

registry! {
    100 "Continue",
    101 "Switching Protocols",
    102 "Processing",
    103 "Early Hints",
    104 "Upload Resumption Supported",
    200 "OK",
    201 "Created",
    202 "Accepted",
    203 "Non-Authoritative Information",
    204 "No Content",
    205 "Reset Content",
    206 "Partial Content",
    207 "Multi-Status",
    208 "Already Reported",
    226 "IM Used",
    300 "Multiple Choices",
    301 "Moved Permanently",
    302 "Found",
    303 "See Other",
    304 "Not Modified",
    305 "Use Proxy",
    307 "Temporary Redirect",
    308 "Permanent Redirect",
    400 "Bad Request",
    401 "Unauthorized",
    402 "Payment Required",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    406 "Not Acceptable",
    407 "Proxy Authentication Required",
    408 "Request Timeout",
    409 "Conflict",
    410 "Gone",
    411 "Length Required",
    412 "Precondition Failed",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    416 "Range Not Satisfiable",
    417 "Expectation Failed",
    418 "I'm a teapot",
    421 "Misdirected Request",
    422 "Unprocessable Content",
    423 "Locked",
    424 "Failed Dependency",
    425 "Too Early",
    426 "Upgrade Required",
    428 "Precondition Required",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    451 "Unavailable For Legal Reasons",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Unavailable",
    504 "Gateway Timeout",
    505 "HTTP Version Not Supported",
    506 "Variant Also Negotiates",
    507 "Insufficient Storage",
    508 "Loop Detected",
    510 "Not Extended",
    511 "Network Authentication Required",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_reasons_agree() {
        for &status in REGISTERED {
            let line = format!("HTTP/1.1 {status} {}\r\n", reason(status));
            assert_eq!(status_line(status), Some(line.as_bytes()));
        }
        assert_eq!(REGISTERED.len(), 63);
    }

    #[test]
    fn unregistered_has_no_reason() {
        assert_eq!(reason(299), "");
        assert_eq!(status_line(299), None);
    }
}
