//! Lines to a syslog daemon, as datagrams that nobody waits for.
//!
//! Owns the socket and what a datagram looks like: Gunicorn's, `<PRI>rgunicorn.PREFIX.error: [PID] message`, without a
//! time and a host, which the daemon adds. Does not own which lines there are, nor the look-up of the address
//! (`config/syslog.rs`).
//!
//! What a newcomer would get wrong: the socket is not connected. A daemon that is restarted makes a new `/dev/log`, and
//! a socket that was connected to the old one would fail for ever; so would one that was opened before the daemon came.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest datagram (octets); what is beyond is cut off. Daemons take this much, and a UDP packet does.
const LONGEST: usize = 8192;

/// The facilities of syslog(3), in the order of their codes from 0; those that have no name are empty.
pub(crate) const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SyslogAddress {
    /// Over the network, or on this machine.
    Udp(SocketAddr),
    /// A datagram socket's file; absolute.
    Unix(PathBuf),
}

/// What is sent, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Where.
    pub address: SyslogAddress,
    /// A code of syslog(3).
    pub facility: u8,
    /// The middle of the tag.
    pub prefix: String,
    /// Whether the access log goes there as well.
    pub access: bool,
}

/// The codes of syslog(3) that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Critical = 2,
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket, SocketAddr),
    Unix(UnixDatagram, PathBuf),
}

/// An open way to the daemon for one of the two logs.
#[derive(Debug)]
pub(crate) struct Sender {
    socket: Socket,
    facility: u8,
    tag: String,
}

impl Sender {
    /// `log` ends the tag: `error` or `access`.
    ///
    /// # Errors
    /// No descriptor. Whether a daemon is there is not asked.
    pub(crate) fn open(syslog: &Syslog, log: &str) -> io::Result<Self> {
        let socket = match &syslog.address {
            SyslogAddress::Udp(address) => {
                let any: SocketAddr = match address {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Socket::Udp(socket, *address)
            }
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Socket::Unix(socket, path.clone())
            }
        };
        Ok(Self { socket, facility: syslog.facility, tag: format!("rgunicorn.{}.{log}", syslog.prefix) })
    }

    /// Sends one line, without waiting; false if it was dropped.
    pub(crate) fn send(&self, severity: Severity, pid: u32, line: &[u8]) -> bool {
        let priority = u16::from(self.facility) * 8 + severity as u16;
        let mut datagram = format!("<{priority}>{}: [{pid}] ", self.tag).into_bytes();
        datagram.extend_from_slice(line);
        datagram.truncate(LONGEST);
        let sent = match &self.socket {
            Socket::Udp(socket, address) => socket.send_to(&datagram, address),
            Socket::Unix(socket, path) => socket.send_to(&datagram, path),
        };
        sent.is_ok_and(|sent| sent == datagram.len())
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        match &self.socket {
            Socket::Udp(socket, _) => socket.as_raw_fd(),
            Socket::Unix(socket, _) => socket.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn a_daemon_that_comes_back_is_heard_again_and_nobody_waits_for_one_that_is_slow() {
        let base = TempDir::new("syslog");
        let path = base.join("log");
        let syslog = Syslog {
            address: SyslogAddress::Unix(path.clone()),
            facility: 1,
            prefix: "x".to_owned(),
            access: true,
        };
        let sender = Sender::open(&syslog, "error").unwrap();
        assert!(!sender.send(Severity::Error, 7, b"nobody is there"));
        for _ in 0..2 {
            let daemon = UnixDatagram::bind(&path).unwrap();
            assert!(sender.send(Severity::Error, 7, b"text"));
            let mut octets = [0; 100];
            let length = daemon.recv(&mut octets).unwrap();
            assert_eq!(octets[..length], *b"<11>rgunicorn.x.error: [7] text");
            // Nobody reads on: the queue fills, and the rest is dropped.
            assert!((0..100_000).any(|_| !sender.send(Severity::Info, 7, b"text")));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = SyslogAddress::Udp(daemon.local_addr().unwrap());
        let syslog = Syslog { address, facility: 16, prefix: String::new(), access: false };
        let sender = Sender::open(&syslog, "access").unwrap();
        assert!(sender.send(Severity::Info, 7, &[b'x'; 100_000]));
        let mut octets = [0; 2 * LONGEST];
        assert_eq!(daemon.recv(&mut octets).unwrap(), LONGEST);
        assert!(octets.starts_with(b"<134>rgunicorn..access: [7] x"));
    }
}
