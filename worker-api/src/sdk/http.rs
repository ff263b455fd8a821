//! The types of the crate `http` at the surface of a handler.
//!
//! It owns the translation in both directions. What a newcomer gets wrong: not every target that a client may send is
//! a `Uri`. Octets that a URI may not hold are percent-encoded here; whoever needs the very octets asks
//! [`Request::target`]. Fields of one name are kept in order, but `HeaderMap` forgets their order among others.

use crate::error::{Error, Fault};
use crate::request::{Field, Head, Request, Version};
use crate::response::Response;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};

impl Request<'_> {
    /// The head as the crate `http` has it; the body stays here.
    ///
    /// ```
    /// use rgunicorn_worker_api::prelude::*;
    ///
    /// fn app(_: &WorkerFacts<'_>) -> Result<App, Error> {
    ///     Ok(App::blocking(|request, response| {
    ///         let head = request.to_http()?;
    ///         let answer = http::Response::builder()
    ///             .status(http::StatusCode::OK)
    ///             .header(http::header::CONTENT_TYPE, "text/plain")
    ///             .body(format!("you asked for {}\n", head.uri().path()))?;
    ///         Ok(response.send(answer)?)
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// If the target cannot be a `Uri` whatever is encoded, or a field's name is longer than the crate allows.
    pub fn to_http(&self) -> Result<http::Request<()>, Error> {
        let head = Head {
            method: self.method(),
            target: self.target(),
            mount: self.mount(),
            version: self.version(),
            scheme: self.scheme(),
            field_count: 0,
        };
        let parts = parts_of(&head, &mut self.fields())?;
        Ok(http::Request::from_parts(parts, ()))
    }
}

impl Response<'_> {
    /// The whole answer, with a body that lies in memory.
    ///
    /// # Errors
    /// As [`Response::respond`].
    pub fn send(&mut self, response: http::Response<impl AsRef<[u8]>>) -> Result<(), Fault> {
        let (parts, body) = response.into_parts();
        self.respond(parts.status.as_u16(), &fields_of(&parts.headers), body.as_ref())
    }
}

/// The head of a request in the crate's types.
///
/// # Errors
/// If it cannot be one, which is the client's fault.
pub(crate) fn parts_of<'f>(
    head: &Head<'_>,
    fields: &mut dyn Iterator<Item = Field<'f>>,
) -> Result<http::request::Parts, Error> {
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(head.method)?;
    *request.uri_mut() = uri(head.target)?;
    *request.version_mut() = match head.version {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    let headers = request.headers_mut();
    headers.reserve(head.field_count);
    for field in fields {
        headers.append(HeaderName::from_bytes(field.name)?, HeaderValue::from_bytes(field.value)?);
    }
    Ok(request.into_parts().0)
}

/// The fields of a map as the interface takes them.
pub(crate) fn fields_of(headers: &HeaderMap) -> Vec<Field<'_>> {
    headers
        .iter()
        .map(|(name, value)| Field { name: name.as_str().as_bytes(), value: value.as_bytes() })
        .collect()
}

fn uri(target: &[u8]) -> Result<Uri, Error> {
    // The crate would take a fragment off in silence.
    if !target.contains(&b'#')
        && let Ok(uri) = Uri::try_from(target)
    {
        return Ok(uri);
    }
    Ok(Uri::try_from(encoded(target))?)
}

/// The target with whatever RFC 3986 allows nowhere, and a `#`, which no target has, percent-encoded.
fn encoded(target: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(target.len() + 16);
    for octet in target {
        match octet {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => out.push(*octet),
            _ => out.extend([b'%', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Scheme;

    #[test]
    fn any_target_becomes_a_uri() {
        for (target, path, query) in [
            (&b"/"[..], "/", None),
            (b"/a?b?c", "/a", Some("b?c")),
            (b"*", "*", None),
            (b"host:80", "", None),
            (b"http://host/p?q", "/p", Some("q")),
            (b"//", "//", None),
            (b"/a^b\xff`", "/a%5Eb%FF%60", None),
            (b"/a%5e?x=|\"<", "/a%5e", Some("x=%7C%22%3C")),
            (b"/#x", "/%23x", None),
        ] {
            let uri = uri(target).unwrap_or_else(|error| panic!("{}: {error}", target.escape_ascii()));
            // Which of them the crate takes as they are is its own matter.
            let decoded = |text: &str| text.replace("%5E", "^").replace("%60", "`").replace("%7C", "|");
            let decoded = |text: &str| decoded(text).replace("%22", "\"").replace("%3C", "<");
            assert_eq!(decoded(uri.path()), decoded(path), "{}", target.escape_ascii());
            assert_eq!(uri.query().map(decoded), query.map(decoded), "{}", target.escape_ascii());
        }
    }

    #[test]
    fn a_head_keeps_its_fields() {
        let head = Head {
            method: b"PATCH",
            target: b"/x",
            mount: b"",
            version: Version::Http10,
            scheme: Scheme::Http,
            field_count: 3,
        };
        let fields =
            [Field::new("X-A", "1"), Field::new("Host", "a"), Field { name: b"x-a", value: b"\xe9" }];
        let parts = parts_of(&head, &mut fields.into_iter()).unwrap();
        assert_eq!((parts.method.as_str(), parts.version), ("PATCH", http::Version::HTTP_10));
        let values: Vec<&[u8]> =
            parts.headers.get_all("x-a").iter().map(http::HeaderValue::as_bytes).collect();
        assert_eq!(values, [&b"1"[..], b"\xe9"]);
        assert_eq!(fields_of(&parts.headers).len(), 3);
    }
}
