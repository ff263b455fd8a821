//! The monitor's HTTP: one GET or HEAD a connection, without a body, answered and closed.
//!
//! Owns the judgement of what was sent and the form of the answer; does no I/O. Does not own what the pages say. The
//! worker classes' HTTP (`http1`) is not for the host: it serves applications, and this serves three fixed pages.
//!
//! What a newcomer would get wrong: `httparse` takes a bare LF for a line end, and says nothing about framing. What is
//! to be refused is refused here.

/// The longest head that is read (octets).
pub const LONGEST_HEAD: usize = 4096;
/// The most fields in it.
const MOST_FIELDS: usize = 32;

/// What has been heard so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not a whole head yet.
    Partial,
    /// A request for a page.
    Asks {
        /// Its path, without a query.
        path: String,
        /// HEAD: the answer has no body.
        head_only: bool,
    },
    /// Something that is answered with this status.
    Refused(Status),
}

/// The statuses there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as in RFC 9110")]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    FieldsTooLarge,
    ServiceUnavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed\r\nAllow: GET, HEAD",
            Self::RequestTimeout => "408 Request Timeout",
            Self::FieldsTooLarge => "431 Request Header Fields Too Large",
            Self::ServiceUnavailable => "503 Service Unavailable",
        }
    }
}

/// Judges what a client has sent from its first octet on.
pub fn judge(octets: &[u8]) -> Heard {
    let Some(end) = octets.windows(4).position(|end| end == b"\r\n\r\n") else {
        let too_long = octets.len() > LONGEST_HEAD;
        return if too_long { Heard::Refused(Status::FieldsTooLarge) } else { Heard::Partial };
    };
    let head = &octets[..end + 4];
    if head.len() > LONGEST_HEAD {
        return Heard::Refused(Status::FieldsTooLarge);
    }
    let bare = |(at, octet): (usize, &u8)| *octet == b'\n' && (at == 0 || head[at - 1] != b'\r');
    if head.iter().enumerate().any(bare) {
        return Heard::Refused(Status::BadRequest);
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Heard::Refused(Status::BadRequest),
        Err(httparse::Error::TooManyHeaders) => return Heard::Refused(Status::FieldsTooLarge),
        Err(_) => return Heard::Refused(Status::BadRequest),
    }
    judge_request(&request)
}

fn judge_request(request: &httparse::Request<'_, '_>) -> Heard {
    let named = |name: &str| {
        let same = move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
        request.headers.iter().filter(same).map(|field| field.value).collect::<Vec<_>>()
    };
    let hosts = named("host").len();
    let has_host = hosts == 1 || (hosts == 0 && request.version == Some(0));
    let has_body = !named("transfer-encoding").is_empty()
        || named("content-length").iter().any(|length| *length != b"0");
    if !has_host || has_body {
        return Heard::Refused(Status::BadRequest);
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Heard::Refused(Status::MethodNotAllowed),
    };
    match request.path {
        Some(target) if target.starts_with('/') => {
            let path = target.split('?').next().unwrap_or_default().to_owned();
            Heard::Asks { path, head_only }
        }
        _ => Heard::Refused(Status::BadRequest),
    }
}

/// A whole answer, after which the connection is closed.
pub fn answer(status: Status, kind: &str, body: &str, head_only: bool) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        status.line(),
        body.len()
    );
    if !head_only {
        answer.push_str(body);
    }
    answer.into_bytes()
}

/// The answer to what is refused.
pub fn refusal(status: Status) -> Vec<u8> {
    let name = status.line().split("\r\n").next().unwrap_or_default();
    answer(status, "text/plain", &format!("{name}\n"), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(path: &str, head_only: bool) -> Heard {
        Heard::Asks { path: path.to_owned(), head_only }
    }

    #[test]
    fn takes_what_a_probe_or_a_scraper_sends() {
        for (text, expected) in [
            ("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", asks("/readyz", false)),
            ("GET /metrics?a=b HTTP/1.1\r\nhost: x\r\nAccept: */*\r\n\r\n", asks("/metrics", false)),
            ("HEAD /livez HTTP/1.0\r\n\r\n", asks("/livez", true)),
            ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", asks("/", false)),
        ] {
            for cut in 0..text.len() {
                assert_eq!(judge(&text.as_bytes()[..cut]), Heard::Partial, "{text:?} to {cut}");
            }
            assert_eq!(judge(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for (text, status) in [
            ("GET /livez HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Status::BadRequest),
            ("GET /livez HTTP/1.1\nHost: a\r\n\r\n", Status::BadRequest),
            ("GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", Status::BadRequest),
            ("GET http://a/livez HTTP/1.1\r\nHost: a\r\n\r\n", Status::BadRequest),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Status::BadRequest),
            ("GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", Status::BadRequest),
            ("POST /livez HTTP/1.1\r\nHost: a\r\n\r\n", Status::MethodNotAllowed),
            ("\x16\x03\x01 tls\r\n\r\n", Status::BadRequest),
        ] {
            assert_eq!(judge(text.as_bytes()), Heard::Refused(status), "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(MOST_FIELDS));
        assert_eq!(judge(many.as_bytes()), Heard::Refused(Status::FieldsTooLarge));
        let long = vec![b'a'; LONGEST_HEAD + 1];
        assert_eq!(judge(&long), Heard::Refused(Status::FieldsTooLarge));
    }

    #[test]
    fn an_answer_to_head_tells_the_length_of_what_it_leaves_out() {
        let text = |octets| String::from_utf8(octets).unwrap();
        let (get, head) =
            [false, true].map(|head_only| text(answer(Status::Ok, "text/plain", "ok\n", head_only))).into();
        assert_eq!(get, format!("{head}ok\n"));
        assert!(head.contains("\r\nContent-Length: 3\r\n"), "{head}");
    }
}
