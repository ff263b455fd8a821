//! What the kernel knows of a TCP connection.
//!
//! Owns the one `getsockopt` that no safe crate offers. Does not own what is made of the answer.
//!
//! What a newcomer would get wrong: the kernel keeps no time of arrival for a connection that waits to be accepted. The
//! last acknowledgement that came with it is that of the handshake, or of the request that followed at once; asked
//! directly after accept(2), its age is the time in the queue, too short only for who sent something while waiting.
#![allow(unsafe_code, reason = "getsockopt(2) with TCP_INFO has no safe wrapper")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::libc;

/// How long ago the last acknowledgement came, to a millisecond or a tick of the kernel's clock (up to 10 ms). None for
/// a socket that is not TCP.
pub fn since_last_ack(socket: BorrowedFd<'_>) -> Option<Duration> {
    info(socket).map(|info| Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

/// The connections that wait to be accepted from a listening socket, and how many may. None for a socket that is not
/// TCP.
///
/// Of a listening socket the kernel tells its queue where it tells of others what is unacknowledged (`tcp_get_info` in
/// net/ipv4/tcp.c).
pub fn accept_queue(socket: BorrowedFd<'_>) -> Option<(u32, u32)> {
    info(socket).map(|info| (info.tcpi_unacked, info.tcpi_sacked))
}

fn info(socket: BorrowedFd<'_>) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `length` octets to `info`, which is
    // as large as that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    // SAFETY: integers, for which the zeroes that an old kernel leaves are values too.
    let info = unsafe { info.assume_init() };
    (result == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_silent_connection_was_last_heard_of_when_it_came() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begin = Instant::now();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let silence = loop {
            let silence = since_last_ack(accepted.as_fd()).unwrap();
            // The time passes by itself; the kernel's clock ticks in at most 10 ms.
            if silence >= Duration::from_millis(20) || begin.elapsed() > Duration::from_secs(10) {
                break silence;
            }
            std::thread::yield_now();
        };
        assert!(silence >= Duration::from_millis(20), "{silence:?}");
        assert!(silence <= begin.elapsed() + Duration::from_millis(10), "{silence:?}");
    }

    #[test]
    fn who_waits_to_be_accepted_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let queue = || accept_queue(listener.as_fd()).unwrap();
        assert_eq!(queue().0, 0);
        assert!(queue().1 >= 128, "{:?}", queue());
        let _waiting: Vec<_> =
            (0..3).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        // A client may be connected a moment before the kernel has queued it.
        let begin = Instant::now();
        while queue().0 < 3 && begin.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        assert_eq!(queue().0, 3);
    }

    #[test]
    fn other_sockets_have_no_answer() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(since_last_ack(one.as_fd()), None);
        assert_eq!(accept_queue(one.as_fd()), None);
    }
}
