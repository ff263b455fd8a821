//! The request as an application sees it.
//!
//! The server has parsed the head before the application is called; the body is pulled from the connection
//! piece by piece and is never held whole unless the application does so. Octets are octets: nothing here is
//! decoded or normalised.

use crate::abi::{AddressParts, Asked, Bytes, RequestHandle};
use crate::error::Fault;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A protocol version (RFC 9112 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

impl Version {
    /// The octets of the request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the client reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS, here or at a trusted proxy.
    Https,
}

/// A header or trailer field: the octets as they were received, surrounding white space removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'x> {
    /// The name, in the letter case of the sender.
    pub name: &'x [u8],
    /// The value.
    pub value: &'x [u8],
}

/// For an answer without fields of its own.
pub const NO_FIELDS: &[Field<'static>] = &[];

impl<'x> Field<'x> {
    /// The field with this name and value.
    #[must_use]
    pub const fn new(name: &'x str, value: &'x str) -> Self {
        Self { name: name.as_bytes(), value: value.as_bytes() }
    }
}

impl<'x> From<(&'x str, &'x str)> for Field<'x> {
    fn from((name, value): (&'x str, &'x str)) -> Self {
        Self::new(name, value)
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_ascii(), self.value.escape_ascii())
    }
}

/// The request line and what the server added to it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'x> {
    /// The method, case-sensitive.
    pub method: &'x [u8],
    /// The request-target, in whatever form it was sent (RFC 9112 section 3.2).
    pub target: &'x [u8],
    /// The prefix that the application is mounted on, without a trailing slash; empty for `/`.
    pub mount: &'x [u8],
    /// The version of the request line.
    pub version: Version,
    /// How the client reached the server.
    pub scheme: Scheme,
    /// How many header fields there are.
    pub field_count: usize,
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IP address and port.
    Ip(SocketAddr),
    /// A Unix socket; clients rarely have a path.
    Unix(Option<PathBuf>),
    /// Of a kind that this version does not know.
    Unknown,
}

impl AddressParts {
    /// An address of which nothing is known.
    pub const UNKNOWN: Self = Self { family: 0, port: 0, ip: [0; 16], path: Bytes::ABSENT };
}

impl Address {
    /// The crossing form; the path borrows from `self`.
    #[must_use]
    pub fn parts(&self) -> AddressParts {
        match self {
            Self::Ip(address) => {
                let mut ip = [0; 16];
                let family = match address.ip() {
                    IpAddr::V4(v4) => {
                        ip[..4].copy_from_slice(&v4.octets());
                        4
                    }
                    IpAddr::V6(v6) => {
                        ip = v6.octets();
                        6
                    }
                };
                AddressParts { family, port: address.port().into(), ip, path: Bytes::ABSENT }
            }
            Self::Unix(path) => AddressParts {
                family: 1,
                path: path.as_ref().map_or(Bytes::ABSENT, |path| Bytes::new(path.as_os_str().as_bytes())),
                ..AddressParts::UNKNOWN
            },
            Self::Unknown => AddressParts::UNKNOWN,
        }
    }

    pub(crate) fn from_parts(family: u32, port: u32, ip: [u8; 16], path: &[u8]) -> Self {
        let port = u16::try_from(port).unwrap_or(0);
        match family {
            1 => Self::Unix(
                (!path.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))),
            ),
            4 => Self::Ip(SocketAddr::new(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]).into(), port)),
            6 => Self::Ip(SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix:"),
            Self::Unknown => f.write_str("-"),
        }
    }
}

/// A request, while the application answers it.
///
/// `[worker]`, on the thread that the application was called on; it cannot leave it.
pub struct Request<'x> {
    asked: Asked<'x>,
    stays: PhantomData<*const ()>,
}

impl<'x> Request<'x> {
    pub(crate) fn new(handle: RequestHandle<'x>) -> Self {
        Self { asked: Asked::new(handle), stays: PhantomData }
    }

    fn head(&self) -> Head<'x> {
        self.asked.head()
    }

    /// The method, case-sensitive, such as `GET`.
    #[must_use]
    pub fn method(&self) -> &'x [u8] {
        self.head().method
    }

    /// The request-target exactly as it was sent.
    #[must_use]
    pub fn target(&self) -> &'x [u8] {
        self.head().target
    }

    /// The path of the target: up to the first `?`, without scheme and authority of an absolute form.
    /// Nothing is decoded. The asterisk and authority forms are returned as they are.
    #[must_use]
    pub fn path(&self) -> &'x [u8] {
        split_target(self.head().target).0
    }

    /// What follows the first `?` of the target.
    #[must_use]
    pub fn query(&self) -> Option<&'x [u8]> {
        split_target(self.head().target).1
    }

    /// The prefix that the application is mounted on; it is still part of [`Request::path`].
    #[must_use]
    pub fn mount(&self) -> &'x [u8] {
        self.head().mount
    }

    /// What of the path is below the mount point: empty, or with a slash in front. WSGI's name for it.
    #[must_use]
    pub fn path_info(&self) -> &'x [u8] {
        below_mount(self.path(), self.head().mount)
    }

    /// The version of the request line.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head().version
    }

    /// How the client reached the server.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.head().scheme
    }

    /// The header fields in order of arrival; repeated ones are kept apart.
    pub fn fields(&self) -> impl Iterator<Item = Field<'x>> + '_ {
        let handle = self.handle();
        (0..self.head().field_count).filter_map(move |index| handle.field(index))
    }

    /// The value of the first field with this name, in any letter case.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'x [u8]> {
        self.handle().find(name.as_bytes()).map(|field| field.value)
    }

    /// The client's address, or that of a trusted proxy's client.
    #[must_use]
    pub fn peer(&self) -> Address {
        self.handle().peer()
    }

    /// The server's own end of the connection.
    #[must_use]
    pub fn local(&self) -> Address {
        self.handle().local()
    }

    /// A fact of the TLS session by name (`version`, `cipher`, `client_certificate`), if there is one.
    #[must_use]
    pub fn tls(&self, name: &str) -> Option<&'x [u8]> {
        self.handle().tls(name)
    }

    /// Declared octets of the body, 0 without a body; `None` if only its end will tell (chunked).
    #[must_use]
    pub fn body_length(&self) -> Option<u64> {
        self.handle().body_length()
    }

    /// Waits for a piece of the body and returns its length; 0 is the end. Sends `100 Continue` first if the
    /// client waits for it.
    ///
    /// # Errors
    /// A [`Fault`]; what was read before it is not the whole body. Return it with `?`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        self.handle().read(buffer)
    }

    /// Appends the rest of the body to `body`. The server's limit on bodies is what bounds it.
    ///
    /// # Errors
    /// As [`Request::read`].
    pub fn read_to_end(&mut self, body: &mut Vec<u8>) -> Result<usize, Fault> {
        let before = body.len();
        let mut piece = [0; 8192];
        loop {
            match self.read(&mut piece)? {
                0 => return Ok(body.len() - before),
                count => body.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// The trailer fields; none before the body was read to its end.
    pub fn trailers(&self) -> impl Iterator<Item = Field<'x>> + '_ {
        (0..).map_while(|index| self.handle().trailer(index))
    }

    /// Whether the client is known to have closed the connection. Does not wait. Over TCP that takes a reset, as for
    /// [`AsyncRequest::client_gone`](crate::asynchronous::AsyncRequest::client_gone).
    #[must_use]
    pub fn client_gone(&self) -> bool {
        self.handle().client_gone()
    }

    /// Whether the request is over `request_timeout`: the client has its 504, further work is wasted.
    /// Always `false` where the worker class cannot tell.
    #[must_use]
    pub fn expired(&self) -> bool {
        self.handle().expired()
    }

    pub(crate) fn handle(&self) -> RequestHandle<'x> {
        self.asked.handle()
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Request({} {} {})",
            self.head().method.escape_ascii(),
            self.head().target.escape_ascii(),
            self.head().version
        )
    }
}

/// Path and query of a request-target (RFC 9112 section 3.2): an absolute form loses scheme and authority.
pub(crate) fn split_target(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then(|| &target[scheme.len()..])
    });
    let rest = match after_scheme {
        None => target,
        Some(rest) => match rest.iter().position(|octet| matches!(octet, b'/' | b'?')) {
            Some(at) if rest[at] == b'/' => &rest[at..],
            Some(at) => return (b"/", Some(&rest[at + 1..])),
            None => return (b"/", None),
        },
    };
    match rest.iter().position(|octet| *octet == b'?') {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    }
}

/// The rest of a path behind the prefix by which it was chosen. The forms without a path are below no point.
pub(crate) fn below_mount<'x>(path: &'x [u8], mount: &[u8]) -> &'x [u8] {
    path.strip_prefix(mount).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_at_the_first_question_mark() {
        for (target, path, query) in [
            ("/", "/", None),
            ("/a?b?c", "/a", Some("b?c")),
            ("/a?", "/a", Some("")),
            ("*", "*", None),
            ("host:80", "host:80", None),
            ("http://host/p?q", "/p", Some("q")),
            ("HTTP://host", "/", None),
            ("https://host?q", "/", Some("q")),
            ("http:/x", "http:/x", None),
        ] {
            assert_eq!(
                split_target(target.as_bytes()),
                (path.as_bytes(), query.map(str::as_bytes)),
                "{target}"
            );
        }
    }

    #[test]
    fn what_is_below_the_mount_point_begins_with_a_slash_or_is_nothing() {
        for (target, mount, expected) in [
            ("/a/b?c", "", "/a/b"),
            ("/a/b?c", "/a", "/b"),
            ("/a/", "/a", "/"),
            ("/a?/b", "/a", ""),
            ("http://host/a/b", "/a", "/b"),
            ("http://host", "", "/"),
            ("*", "", "*"),
        ] {
            let path = split_target(target.as_bytes()).0;
            assert_eq!(below_mount(path, mount.as_bytes()), expected.as_bytes(), "{target} {mount}");
        }
    }

    #[test]
    fn addresses_survive_the_crossing() {
        for address in [
            Address::Ip("127.0.0.1:80".parse().unwrap()),
            Address::Ip("[2001:db8::1]:65535".parse().unwrap()),
            Address::Unix(Some("/run/x.sock".into())),
            Address::Unix(None),
            Address::Unknown,
        ] {
            let parts = address.parts();
            let path = match &address {
                Address::Unix(Some(path)) => path.as_os_str().as_bytes(),
                _ => b"",
            };
            assert_eq!(Address::from_parts(parts.family, parts.port, parts.ip, path), address);
        }
    }
}
