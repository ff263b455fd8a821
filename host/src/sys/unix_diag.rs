//! What the kernel knows of a listening Unix socket's queue.
//!
//! Owns one question to sock_diag(7) and the reading of its answer. Does not own what is made of it. What a newcomer would
//! get wrong: TCP_INFO has no sibling for Unix sockets, and /proc/net/unix does not tell queues; and a kernel may have
//! been built without this (CONFIG_UNIX_DIAG), which is no error but no answer.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h, and `NLM_F_REQUEST` of linux/netlink.h.
const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
/// Octets of `struct nlmsghdr`, of `struct unix_diag_req` and of `struct unix_diag_msg`.
const HEADER: usize = 16;
const QUESTION: u32 = HEADER as u32 + 24;
const MESSAGE: usize = 16;
/// `UDIAG_SHOW_RQLEN`, and the attribute that it asks for, `UNIX_DIAG_RQLEN`.
const SHOW_QUEUE: u32 = 0x10;
const QUEUE: u16 = 4;

/// The connections that wait to be accepted from a listening Unix socket, and how many may. None if it is none, or the
/// kernel does not tell.
pub fn accept_queue(listener: BorrowedFd<'_>) -> Option<(u32, u32)> {
    // The kernel's own number of a socket has 32 bits.
    let inode = u32::try_from(nix::sys::stat::fstat(listener).ok()?.st_ino).ok()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let kernel =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag).ok()?;
    send(kernel.as_raw_fd(), &question(inode), MsgFlags::empty()).ok()?;
    // It answers before send(2) returns.
    let mut answer = [0; 1024];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    queue(&answer[..length])
}

fn question(inode: u32) -> Vec<u8> {
    let mut question = Vec::with_capacity(QUESTION as usize);
    question.extend(QUESTION.to_ne_bytes());
    question.extend(BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence and sender, which one who asks once needs not.
    question.extend([0; 8]);
    question.extend([AddressFamily::Unix as i32 as u8, 0, 0, 0]);
    // Sockets in every state, this one, and its queue.
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(inode.to_ne_bytes());
    question.extend(SHOW_QUEUE.to_ne_bytes());
    // Whatever its cookie is.
    question.extend([0xff; 8]);
    question
}

/// Reads the answer: a header, a message, and attributes, each with its length and kind before it.
fn queue(answer: &[u8]) -> Option<(u32, u32)> {
    let short = |at: usize| answer.get(at..at + 2).map(|octets| u16::from_ne_bytes([octets[0], octets[1]]));
    let long = |at: usize| {
        let octets = answer.get(at..at + 4)?;
        Some(u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]))
    };
    // Otherwise an error message.
    if short(4)? != BY_FAMILY {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    loop {
        let (length, kind) = (usize::from(short(at)?), short(at + 2)?);
        if kind == QUEUE {
            return Some((long(at + 4)?, long(at + 8)?));
        }
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn who_waits_to_be_accepted_is_counted() {
        let directory = TempDir::new("unix_diag");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let Some((waiting, room)) = accept_queue(listener.as_fd()) else {
            eprintln!("skipped: this kernel does not tell the queues of Unix sockets");
            return;
        };
        assert_eq!(waiting, 0);
        assert!(room >= 128, "{room}");
        let _waiting: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert_eq!(accept_queue(listener.as_fd()).map(|(waiting, _)| waiting), Some(3));
        listener.accept().unwrap();
        assert_eq!(accept_queue(listener.as_fd()).map(|(waiting, _)| waiting), Some(2));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(accept_queue(std::fs::File::open("/dev/null").unwrap().as_fd()), None);
        for length in [0, 3, 20, 40, 1024] {
            assert_eq!(queue(&vec![0; length]), None);
        }
        let mut answer = vec![0; 64];
        answer[4] = BY_FAMILY as u8;
        assert_eq!(queue(&answer), None);
    }
}
