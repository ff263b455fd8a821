//! Where to listen: the text an operator writes, and the address it stands for.
//!
//! Owns [`BindAddress`], its grammar (Gunicorn's) and the look-up of host names. Does not own sockets: see
//! [`crate::listener`].
//!
//! What a newcomer would get wrong: a host name becomes *one* address, the first IPv4 one if there is any. Gunicorn
//! does so, and a name such as `localhost` that made two sockets on one machine and one on the next would surprise
//! more than it helps; who wants both writes both.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BindAddress {
    /// As the operator wrote it; two texts may stand for the same address.
    pub text: String,
    /// What it stands for. Compare this, not the text, to find a listener that stays over a reload.
    pub kind: BindKind,
}

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BindKind {
    /// IPv4 or IPv6; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix socket at this absolute path.
    Unix(PathBuf),
    /// A Unix socket with this abstract name (unix(7)), without a file.
    Abstract(String),
    /// A socket that was passed to the program under this number.
    Fd(i32),
    /// All sockets that the service manager has passed under this name (`FileDescriptorName=`).
    FdName(String),
}

/// As the operator wrote it.
impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const DEFAULT_PORT: u16 = 8000;
/// sun_path less the zero in front of an abstract name (unix(7)).
const LONGEST_NAME: usize = 107;

impl BindAddress {
    /// Probe: reads and resolves an address; names are looked up with getaddrinfo(3). Relative Unix socket paths
    /// start at `directory`.
    ///
    /// # Errors
    /// Why not, as the end of a sentence.
    pub fn resolve(text: &str, directory: &Path) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty, perhaps for an unset variable; write HOST:PORT or unix:PATH".to_owned());
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err("it names no path; write unix:/path/to/socket".to_owned());
            }
            if let Some(name) = path.strip_prefix('@') {
                if name.is_empty() || name.len() > LONGEST_NAME {
                    return Err(format!("an abstract name has 1 to {LONGEST_NAME} bytes; write unix:@name"));
                }
                return Ok(Self { text: text.to_owned(), kind: BindKind::Abstract(name.to_owned()) });
            }
            let path = directory.join(path);
            judge_length(&path)?;
            return Ok(Self { text: text.to_owned(), kind: BindKind::Unix(path) });
        }
        if let Some(descriptor) = text.strip_prefix("fd://") {
            return Ok(Self { text: text.to_owned(), kind: passed(descriptor)? });
        }
        let (host, port) = split_host_port(text.strip_prefix("tcp://").unwrap_or(text))?;
        let address = if host.is_empty() {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
        } else {
            let found: Vec<SocketAddr> = (host, port)
                .to_socket_addrs()
                .map_err(|error| format!("the host name '{host}' cannot be looked up ({error})"))?
                .collect();
            let first_v4 = found.iter().find(|address| address.is_ipv4());
            *first_v4.or(found.first()).ok_or_else(|| format!("the host name '{host}' has no address"))?
        };
        Ok(Self { text: text.to_owned(), kind: BindKind::Tcp(address) })
    }
}

/// Whether a Unix socket can have this path. The listener finds that as well, but `check` binds nothing.
///
/// # Errors
/// Why not, as the end of a sentence.
pub(super) fn judge_length(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length <= LONGEST_NAME {
        return Ok(());
    }
    Err(format!(
        "the path {} has {length} bytes and a Unix socket's may have {LONGEST_NAME}; choose a shorter one",
        path.display()
    ))
}

/// What stands behind `fd://`: a number, or a name of the service manager's. Whether there is such a socket only the
/// master knows: it has it, and the probe that reads this does not.
fn passed(descriptor: &str) -> Result<BindKind, String> {
    match descriptor.parse() {
        Ok(number @ 3..) => Ok(BindKind::Fd(number)),
        Ok(number) => Err(format!("{number} is no descriptor that can be passed; they begin at 3")),
        Err(_) if descriptor.is_empty() || descriptor.starts_with(|first: char| !first.is_alphabetic()) => {
            Err("behind fd:// stands a number or the name of a socket; write fd://3".to_owned())
        }
        Err(_) => Ok(BindKind::FdName(descriptor.to_owned())),
    }
}

/// `HOST`, `HOST:PORT`, `:PORT`, `[IPV6]`, `[IPV6]:PORT` or nothing.
fn split_host_port(text: &str) -> Result<(&str, u16), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("a '[' is not closed; write [::1]:8000")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(format!("'{after}' after the ']' is no port; write [{host}]:8000")),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("an IPv6 address stands in brackets; write [{text}]:8000"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if port.is_none() && !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit()) {
        // getaddrinfo(3) would take 8000 for the address 0.0.31.64.
        return Err(format!(
            "a port alone is ambiguous; write 127.0.0.1:{host}, or :{host} for all interfaces"
        ));
    }
    if host.contains('/') {
        return Err(format!("'{host}' is no host; write unix:{text} for a Unix socket"));
    }
    match port {
        None => Ok((host, DEFAULT_PORT)),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse()
            .map(|port| (host, port))
            .map_err(|_| format!("'{digits}' is no port; ports go from 0 to 65535")),
        Some(other) => Err(format!("'{other}' is no port; ports go from 0 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_what_gunicorn_resolves() {
        let cases = [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("tcp://127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1", "127.0.0.1:8000"),
            (":81", "0.0.0.0:81"),
            ("[::1]:80", "[::1]:80"),
            ("[::]", "[::]:8000"),
            ("localhost:0", "127.0.0.1:0"),
        ];
        for (text, expected) in cases {
            let got = BindAddress::resolve(text, Path::new("/d")).map(|address| address.kind);
            assert_eq!(got, Ok(BindKind::Tcp(expected.parse().unwrap())), "{text}");
        }
        let long = format!("unix:{}", "p".repeat(105));
        let error = BindAddress::resolve(&long, Path::new("/d")).unwrap_err();
        assert!(error.contains("has 108 bytes and a Unix socket's may have 107"), "{error}");
        for (text, expected) in [("unix:/r/s", "/r/s"), ("unix:///r/s", "/r/s"), ("unix:s", "/d/s")] {
            let got = BindAddress::resolve(text, Path::new("/d")).map(|address| address.kind);
            assert_eq!(got, Ok(BindKind::Unix(PathBuf::from(expected))), "{text}");
        }
        for (text, expected) in [
            ("unix:@a/b", BindKind::Abstract("a/b".to_owned())),
            ("fd://3", BindKind::Fd(3)),
            ("fd://web", BindKind::FdName("web".to_owned())),
        ] {
            let got = BindAddress::resolve(text, Path::new("/d")).map(|address| address.kind);
            assert_eq!(got, Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_and_says_what_to_write() {
        let cases = [
            ("8000", "write 127.0.0.1:8000"),
            ("::1", "write [::1]:8000"),
            ("[::1", "is not closed"),
            ("[::1]80", "write [::1]:8000"),
            ("h:http", "'http' is no port"),
            ("h:65536", "'65536' is no port"),
            ("h:", "'' is no port"),
            ("h:+1", "'+1' is no port"),
            ("/run/s", "write unix:/run/s"),
            ("unix:", "names no path"),
            ("fd://2", "they begin at 3"),
            ("fd://", "write fd://3"),
            ("fd://-1", "they begin at 3"),
            ("fd://3x", "write fd://3"),
            ("unix:@", "write unix:@name"),
            ("no-such-host.invalid:1", "cannot be looked up"),
        ];
        for (text, expected) in cases {
            let got = BindAddress::resolve(text, Path::new("/d")).unwrap_err();
            assert!(got.contains(expected), "{text}: {got}");
        }
    }
}
