//! A packet filter that keeps new connections out of a listening TCP socket.
//!
//! Owns the one `setsockopt` that no safe crate offers, and the program it attaches. Does not own the decision when
//! to stop: see [`crate::listener`].
//!
//! What a newcomer would get wrong: for a TCP socket the program sees packets from the *TCP header* on, and a
//! listening socket's filter also judges the last packet of a handshake. So only a SYN without ACK is dropped: who
//! had begun to connect gets through, who begins gets no answer, and nobody is reset.
#![allow(unsafe_code, reason = "setsockopt(2) with SO_ATTACH_FILTER has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Offset of the flags byte in a TCP header (RFC 9293, 3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Instructions of a classic BPF program (linux/bpf_common.h); libc names only their parts.
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

const fn instruction(code: u32, operand: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: if_true, jf: if_false, k: operand }
}

/// Master: from now on a client that begins to connect gets no answer and no reset, as if the packet were lost.
/// Connections that are queued or in a handshake are still there to be accepted.
///
/// # Errors
/// Those of setsockopt(2), such as ENOMEM.
pub fn drop_new_connections(socket: &impl AsFd) -> io::Result<()> {
    let mut program = [
        instruction(LOAD_BYTE, TCP_FLAGS, 0, 0),
        instruction(AND, SYN | ACK, 0, 0),
        instruction(JUMP_IF_EQUAL, SYN, 0, 1),
        // Keep no byte: drop.
        instruction(RETURN, 0, 0, 0),
        // Keep all.
        instruction(RETURN, u32::MAX, 0, 0),
    ];
    let description = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor is open while `socket` is borrowed; `description` and the program it points to live
    // until after the call, and the kernel copies both before it returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const description).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// The same program on a UDP socket sees the UDP header, 8 bytes, and then the datagram: its sixth byte lies
    /// where a TCP header has its flags. The listener's tests try the real thing; a handshake that is half done, as
    /// the last rows have it, cannot be had on the loopback device.
    #[test]
    fn drops_what_begins_a_connection_and_nothing_else() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        server.set_nonblocking(true).unwrap();
        drop_new_connections(&server).unwrap();
        let cases = [
            ("SYN", 0x02, false),
            ("SYN that offers ECN", 0xc2, false),
            ("SYN and ACK", 0x12, true),
            ("ACK", 0x10, true),
            ("ACK with data", 0x18, true),
            ("FIN and ACK", 0x11, true),
            ("RST", 0x04, true),
        ];
        for (name, flags, passes) in cases {
            client.send(&[0, 0, 0, 0, 0, flags]).unwrap();
            assert_eq!(server.recv(&mut [0; 6]).is_ok(), passes, "{name}");
        }
    }
}
