//! What lies unread in the socket at the other end of a local TCP connection.
//!
//! Asks the kernel for that one socket (sock_diag(7)), as ss(8) does. What a newcomer would get wrong: /proc/net/tcp
//! tells the same, but of every socket of the machine, and after some thousand connections most of those only wait for
//! their end; reading it takes longer than the test.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h, and `NLM_F_REQUEST` of linux/netlink.h.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
/// Octets of `struct nlmsghdr`, and with `struct inet_diag_req_v2` behind it.
const HEADER: usize = 16;
const QUESTION: u32 = HEADER as u32 + 56;
/// Where `idiag_rqueue` lies in the answer: behind the header, four octets, the socket's id and `idiag_expires`.
const UNREAD: usize = HEADER + 4 + 48 + 4;

/// How many octets nobody has read yet from the IPv4 socket that is bound to `local` and connected to `remote`; none if
/// there is no such socket.
pub(crate) fn unread(local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    let mut question = Vec::with_capacity(QUESTION as usize);
    question.extend(QUESTION.to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence and sender, which one who asks once needs not.
    question.extend([0; 8]);
    let (family, protocol) = (AddressFamily::Inet as i32 as u8, SockProtocol::Tcp as i32 as u8);
    question.extend([family, protocol, 0, 0]);
    // Sockets in every state.
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(local.port().to_be_bytes());
    question.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        let IpAddr::V4(address) = address else { panic!("{address} is not an IPv4 address") };
        question.extend(address.octets());
        question.extend([0; 12]);
    }
    // Any interface, and no cookie.
    question.extend([0; 4]);
    question.extend([0xff; 8]);

    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .expect("a netlink socket");
    send(kernel.as_raw_fd(), &question, MsgFlags::empty()).expect("the kernel takes a question");
    let mut answer = [0; 4096];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("the kernel answers");
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    // Otherwise an error message: ENOENT.
    let found = kind == BY_FAMILY && length >= UNREAD + 4;
    found.then(|| u32::from_ne_bytes(answer[UNREAD..UNREAD + 4].try_into().expect("four octets")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::unread;
    use crate::wait::wait_for;

    #[test]
    fn tells_what_nobody_has_read() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (local, remote) =
            (client.peer_addr().expect("connected"), client.local_addr().expect("connected"));
        client.write_all(b"hello").expect("room");
        // Before it is accepted, and after.
        wait_for("five octets", || unread(local, remote) == Some(5));
        let (mut server, _) = listener.accept().expect("a client");
        server.read_exact(&mut [0; 2]).expect("two octets");
        assert_eq!(unread(local, remote), Some(3));
        drop((server, client));
        wait_for("its end", || unread(local, remote).is_none_or(|left| left == 0));
    }
}
