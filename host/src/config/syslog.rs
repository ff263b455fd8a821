//! The syslog settings, resolved.
//!
//! Owns the grammar of `syslog_addr` and of the facility. Does not send anything: see `logging/syslog.rs`. What a
//! newcomer would get wrong: there is no TCP. The master would have to wait for a connection, or to keep lines for one,
//! and a log that is slow must never slow the server.

use std::net::ToSocketAddrs;
use std::path::Path;

use crate::logging::syslog::{FACILITIES, SyslogAddress};

/// Whether an address is of a kind that there is; no name is looked up.
///
/// # Errors
/// As [`address`].
pub(super) fn check(text: &str) -> Result<(), String> {
    match ["udp://", "unix://"].iter().any(|scheme| text.starts_with(scheme)) {
        true => Ok(()),
        false => Err(format!("'{text}' must be udp://HOST:PORT or unix://PATH")),
    }
}

/// Probe: reads `udp://HOST[:PORT]` and `unix://PATH`; looks the host up.
///
/// # Errors
/// Why not, as the end of a sentence.
pub(super) fn address(text: &str, directory: &Path) -> Result<SyslogAddress, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        // Gunicorn lets a socket type follow.
        let path = match path.rsplit_once('#') {
            Some((_, "stream")) => {
                return Err(format!("'{text}' is a stream; only datagram sockets are never waited for"));
            }
            Some((path, "dgram")) => path,
            _ => path,
        };
        return match path {
            "" => Err(format!("'{text}' names no socket; write unix:///dev/log")),
            path => Ok(SyslogAddress::Unix(directory.join(path))),
        };
    }
    check(text)?;
    let host = text.trim_start_matches("udp://");
    let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
        port.parse::<u16>().is_ok() && (!before.contains(':') || before.ends_with(']'))
    });
    let host = if has_port { host.to_owned() } else { format!("{host}:514") };
    match host.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => Ok(SyslogAddress::Udp(address)),
        Ok(None) => Err(format!("the host of '{text}' has no address")),
        Err(error) => Err(format!("the host of '{text}' cannot be looked up: {error}")),
    }
}

/// The code of a facility; Gunicorn's names, with `security` for `auth`.
pub(super) fn facility(name: &str) -> Result<u8, String> {
    let name = name.to_ascii_lowercase();
    let name = if name == "security" { "auth" } else { name.as_str() };
    let code = FACILITIES.iter().position(|facility| *facility == name && !name.is_empty());
    code.and_then(|code| u8::try_from(code).ok()).ok_or_else(|| {
        let names: Vec<&str> = FACILITIES.iter().copied().filter(|name| !name.is_empty()).collect();
        format!("there is no facility '{name}'; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn reads_addresses_and_facilities() {
        let read = |text| address(text, Path::new("/here"));
        let udp = |text: &str| Ok(SyslogAddress::Udp(text.parse().unwrap()));
        assert_eq!(read("udp://127.0.0.1:99"), udp("127.0.0.1:99"));
        assert_eq!(read("udp://127.0.0.1"), udp("127.0.0.1:514"));
        assert_eq!(read("udp://[::1]"), udp("[::1]:514"));
        assert_eq!(read("udp://[::1]:7"), udp("[::1]:7"));
        for text in ["unix:///dev/log", "unix:///dev/log#dgram"] {
            assert_eq!(read(text), Ok(SyslogAddress::Unix(PathBuf::from("/dev/log"))));
        }
        assert_eq!(read("unix://log"), Ok(SyslogAddress::Unix(PathBuf::from("/here/log"))));
        assert_eq!(
            read("tcp://127.0.0.1:1").unwrap_err(),
            "'tcp://127.0.0.1:1' must be udp://HOST:PORT or unix://PATH"
        );
        assert!(read("unix:///dev/log#stream").unwrap_err().contains("never waited for"));
        assert_eq!((facility("user"), facility("LOCAL7"), facility("security")), (Ok(1), Ok(23), Ok(4)));
        assert!(facility("x").unwrap_err().starts_with("there is no facility 'x'; there are kern, user"));
        assert!(facility("").is_err());
    }
}
