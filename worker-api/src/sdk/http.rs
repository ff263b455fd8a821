//! The types of the crate `http` at the surface of a handler.
//!
//! It owns the translation in both directions. What a newcomer gets wrong: not every target that a client may send is
//! a `Uri`. Octets that a URI may not hold are percent-encoded here; whoever needs the very octets asks
//! [`Request::target`]. Fields of one name are kept in order, but `HeaderMap` forgets their order among others.

use crate::error::{Error, Fault};
use crate::request::{Field, Head, Request, Version};
use crate::response::Response;
use bytes::Bytes;
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
        self.respond_with(parts.status.as_u16(), fields_of(&parts.headers), body.as_ref())
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
    // What a new request has, and what a copy would be made for.
    if head.target != b"/" {
        *request.uri_mut() = uri(head.target)?;
    }
    *request.version_mut() = match head.version {
        Version::Http10 => http::Version::HTTP_10,
        Version::Http11 => http::Version::HTTP_11,
    };
    let headers = request.headers_mut();
    headers.reserve(head.field_count);
    if head.field_count <= FEW {
        for field in fields {
            headers.append(name_of(field.name)?, HeaderValue::from_bytes(field.value)?);
        }
        return Ok(request.into_parts().0);
    }
    let fields: Vec<Field<'_>> = fields.collect();
    let mut values = Vec::with_capacity(fields.iter().map(|field| field.value.len()).sum());
    for field in &fields {
        values.extend_from_slice(field.value);
    }
    let mut values = Bytes::from(values);
    for field in &fields {
        let value = values.split_to(field.value.len());
        headers.append(name_of(field.name)?, HeaderValue::from_maybe_shared(value)?);
    }
    Ok(request.into_parts().0)
}

/// The values of more fields than this share one block of memory: a browser sends a dozen. Who keeps one of them keeps
/// that block.
const FEW: usize = 4;

/// Finds a name among those, in any letter case.
macro_rules! usual {
    ($octets:expr, $($name:literal)+) => {
        match $octets {
            $(octets if octets == $name.as_bytes() => Some(const { HeaderName::from_static($name) }),)+
            _ => None,
        }
    };
}

/// Names that browsers and proxies send with each request and that the crate has no constants for: of any other such
/// name each request makes a copy.
fn usual(octets: &[u8]) -> Option<HeaderName> {
    let mut room = [0; 18];
    let lower = room.get_mut(..octets.len())?;
    lower.copy_from_slice(octets);
    lower.make_ascii_lowercase();
    usual!(
        &*lower,
        "priority" "sec-gpc" "sec-ch-ua" "sec-ch-ua-mobile" "sec-ch-ua-platform"
        "sec-fetch-dest" "sec-fetch-mode" "sec-fetch-site" "sec-fetch-user"
        "x-forwarded-for" "x-forwarded-host" "x-forwarded-port" "x-forwarded-proto" "x-real-ip" "x-request-id"
    )
}

fn name_of(octets: &[u8]) -> Result<HeaderName, Error> {
    if let Some(b'P' | b'S' | b'X' | b'p' | b's' | b'x') = octets.first()
        && let Some(name) = usual(octets)
    {
        return Ok(name);
    }
    Ok(HeaderName::from_bytes(octets)?)
}

/// The fields of a map as the interface takes them.
pub(crate) fn fields_of(headers: &HeaderMap) -> Fields<'_> {
    Fields { left: headers.len(), fields: headers.iter() }
}

/// See [`fields_of`].
pub(crate) struct Fields<'h> {
    fields: http::header::Iter<'h, HeaderValue>,
    /// The crate's own iterator only has a lower bound.
    left: usize,
}

impl<'h> Iterator for Fields<'h> {
    type Item = Field<'h>;

    fn next(&mut self) -> Option<Field<'h>> {
        let (name, value) = self.fields.next()?;
        self.left = self.left.saturating_sub(1);
        Some(Field { name: name.as_str().as_bytes(), value: value.as_bytes() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

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
        assert_eq!((fields_of(&parts.headers).len(), fields_of(&parts.headers).count()), (3, 3));
    }

    #[test]
    fn many_fields_are_kept_as_few_are() {
        let names = ["Host", "X-Own", "Sec-Fetch-Mode", "accept", "x-own", "X-FORWARDED-FOR", "Empty"];
        let head = Head {
            method: b"GET",
            target: b"/",
            mount: b"",
            version: Version::Http11,
            scheme: Scheme::Http,
            field_count: names.len(),
        };
        assert!(head.field_count > FEW);
        let values: Vec<String> = (1..=names.len()).map(|count| "v".repeat(count % names.len())).collect();
        let mut fields = names.iter().zip(&values).map(|(name, value)| Field::new(name, value));
        let parts = parts_of(&head, &mut fields).unwrap();
        assert_eq!((parts.uri.path(), parts.headers.len()), ("/", names.len()));
        for (name, value) in names.iter().zip(&values) {
            assert!(parts.headers.get_all(*name).iter().any(|kept| kept == value.as_str()), "{name}");
        }
        let own: Vec<_> = parts.headers.get_all("x-own").iter().collect();
        assert_eq!(own, ["vv", "vvvvv"]);
        // What the server would not have let through.
        let mut fields = names.iter().map(|name| Field::new(name, "a\nb"));
        assert!(parts_of(&head, &mut fields).is_err());
    }

    #[test]
    fn usual_names_are_what_they_say() {
        for text in ["priority", "sec-ch-ua-platform", "Sec-Fetch-Mode", "SEC-FETCH-USER", "X-Real-Ip"] {
            let name = usual(text.as_bytes()).unwrap();
            assert_eq!(name.as_str(), text.to_ascii_lowercase());
            assert_eq!(HeaderName::from_bytes(text.as_bytes()).unwrap(), name);
        }
        assert!(usual(b"sec-fetch-nod").is_none() && usual(b"a name that is far too long").is_none());
        assert!(name_of(b"").is_err() && name_of(b"x y").is_err());
        assert_eq!(name_of(b"Priorit").unwrap(), "priorit");
    }
}
