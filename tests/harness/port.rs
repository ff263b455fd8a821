//! A TCP port that a test may name beforehand.
//!
//! Owns its reservation. What a newcomer would get wrong: a port that was free a moment ago is anybody's, another test's
//! server or the near end of any connection. This one is bound and not listened on, so that the kernel gives it to
//! nobody who asks for just any, and whoever connects is refused; a server that sets SO_REUSEADDR can bind it all the
//! same (socket(7)), as often as it likes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

/// A port of 127.0.0.1 that is the test's as long as this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reserved: OwnedFd,
}

impl Port {
    /// One that nobody uses.
    ///
    /// # Panics
    /// There is none, or no descriptor.
    pub fn reserve() -> Self {
        let held =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&held, sockopt::ReuseAddr, &true).expect("it is new");
        bind(held.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let name: SockaddrIn = getsockname(held.as_raw_fd()).expect("it is bound");
        Self { number: name.port(), _reserved: held }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}
