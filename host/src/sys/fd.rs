//! Descriptors: event counters, pipes, message channels between processes, and the one way to wait for them.
//!
//! Owns close-on-exec (everything made here has it), bounded messages, and waiting with a deadline. Does not own what
//! is said over a channel. Easily got wrong: a deadline is an [`Instant`], never a remaining time, because a wait that a
//! signal interrupts starts again; and poll(2) counts milliseconds, so that the time left is rounded *up*: rounded
//! down, the last millisecond is a busy loop.
#![allow(unsafe_code, reason = "recvmsg(2) with descriptors, which arrive as bare integers")]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd as RawEventFd};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC: the same clock in every process of the machine, and the one behind [`Instant`].
pub fn monotonic_ns() -> u64 {
    // The clock exists on every Linux, and the pointer is nix's own: there is no error left (clock_gettime(2)).
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let seconds = time.tv_sec().cast_unsigned();
        seconds.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec().cast_unsigned())
    })
}

/// The [`Instant`] for a time that another process wrote as [`monotonic_ns`]. What lies in the future, or further back
/// than [`Instant`] can say, becomes now: the writer is not trusted.
pub fn instant_of(ns: u64) -> Instant {
    let now = Instant::now();
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(ns));
    now.checked_sub(ago).unwrap_or(now)
}

/// Sets close-on-exec (fcntl(2)).
///
/// # Errors
/// None expected on an open descriptor.
pub fn set_cloexec(fd: impl AsFd) -> io::Result<()> {
    set_fd_flags(fd.as_fd(), FdFlag::FD_CLOEXEC)
}

/// Clears close-on-exec, so that the next program inherits the descriptor.
///
/// # Errors
/// None expected on an open descriptor.
pub fn clear_cloexec(fd: impl AsFd) -> io::Result<()> {
    set_fd_flags(fd.as_fd(), FdFlag::empty())
}

fn set_fd_flags(fd: BorrowedFd<'_>, flags: FdFlag) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Makes reads and writes return `WouldBlock` instead of waiting. The flag belongs to the open file, and so to every
/// process that shares it.
///
/// # Errors
/// None expected on an open descriptor.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A pipe: what is written into the second end is read from the first. Both block and are close-on-exec.
///
/// # Errors
/// EMFILE, ENFILE as pipe2(2) gives them.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// A descriptor that one side makes readable and the other side clears (eventfd(2)). Never blocks; shared over fork.
#[derive(Debug)]
pub struct EventFd(RawEventFd);

impl EventFd {
    /// A new one, not readable yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENODEV, ENOMEM as eventfd(2) gives them.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(RawEventFd::from_value_and_flags(0, flags)?))
    }

    /// Makes it readable. A counter that is full is readable already, and nothing is lost.
    ///
    /// # Errors
    /// None expected.
    pub fn notify(&self) -> io::Result<()> {
        loop {
            match self.0.write(1) {
                Ok(_) | Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Makes it not readable, and says whether it was.
    ///
    /// # Errors
    /// None expected.
    pub fn clear(&self) -> io::Result<bool> {
        loop {
            match self.0.read() {
                Ok(_) => return Ok(true),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl EventFd {
    /// Another descriptor for the same counter, close-on-exec.
    ///
    /// # Errors
    /// EMFILE as fcntl(2) gives it.
    pub fn duplicate(&self) -> io::Result<Self> {
        let copy = self.0.as_fd().try_clone_to_owned()?;
        // SAFETY: the copy is a descriptor of an eventfd, which is all that the type promises.
        Ok(Self(unsafe { RawEventFd::from_owned_fd(copy) }))
    }
}

impl EventFd {
    /// One that another process made, and sent over a [`Channel`].
    pub fn from_fd(fd: OwnedFd) -> Self {
        // SAFETY: the type promises a descriptor and nothing about what is behind it; one that is no eventfd gives
        // errors, and this one is ours alone.
        Self(unsafe { RawEventFd::from_owned_fd(fd) })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The longest message of a [`Channel`] in bytes: two of them fit the smallest usual socket buffer (208 KiB).
pub const MESSAGE_LIMIT: usize = 64 * 1024;
/// The most descriptors in a message; the kernel's own limit is 253 (unix(7)).
pub const MESSAGE_FDS: usize = 64;

/// One end of a socket pair that carries whole messages, with descriptors if need be (unix(7), SOCK_SEQPACKET).
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What was found on a [`Channel`].
#[derive(Debug)]
pub enum Incoming {
    /// A message, and the descriptors that came with it (all close-on-exec).
    Message(Vec<u8>, Vec<OwnedFd>),
    /// Nothing yet; only on an end that does not block.
    Nothing,
    /// The other end is closed, in every process that had it.
    Closed,
}

/// A new pair of ends. Both block: see [`Channel::set_nonblocking`].
///
/// # Errors
/// EMFILE, ENFILE as socketpair(2) gives them.
pub fn channel() -> io::Result<(Channel, Channel)> {
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Channel(one), Channel(other)))
}

impl Channel {
    /// Makes this end return instead of waiting. The other end is not changed.
    ///
    /// # Errors
    /// None expected.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        set_nonblocking(&self.0)
    }

    /// Ends the conversation in both directions: the other side finds nobody to send to. What it has sent already can
    /// still be received.
    ///
    /// # Errors
    /// None expected.
    pub fn hang_up(&self) -> io::Result<()> {
        Ok(nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both)?)
    }

    /// Takes an end that came as a descriptor, over execve(2) for one.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message, whole or not at all.
    ///
    /// # Errors
    /// - `InvalidInput`: empty (which the other side would take for the end), too long, or too many descriptors.
    /// - `WouldBlock`: the other side does not read, and this end does not wait.
    /// - `BrokenPipe`: the other side is gone. No SIGPIPE comes.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.is_empty() || message.len() > MESSAGE_LIMIT || fds.len() > MESSAGE_FDS {
            let text = format!("a message of {} bytes and {} descriptors", message.len(), fds.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        loop {
            let bytes = [IoSlice::new(message)];
            match sendmsg::<()>(self.0.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Takes one message. An oversized one is never cut: it is an error, and its descriptors are closed.
    ///
    /// # Errors
    /// `InvalidData`: longer than [`MESSAGE_LIMIT`], or its descriptors did not all fit (too many, or EMFILE here).
    /// The message is gone; the channel goes on.
    pub fn receive(&self) -> io::Result<Incoming> {
        let mut bytes = vec![0u8; MESSAGE_LIMIT];
        let mut control = ControlBuffer([0; CONTROL_WORDS]);
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: a msghdr of zeros is valid: no name, no parts, no control data, no flags.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control.0);
        let length = loop {
            // SAFETY: the header names two live buffers with their sizes; the kernel writes inside of them only.
            let got = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
            match usize::try_from(got) {
                Ok(length) => break length,
                Err(_) => match Errno::last() {
                    Errno::EINTR => {}
                    Errno::EAGAIN => return Ok(Incoming::Nothing),
                    // The other side closed with our messages still unread: closed all the same.
                    Errno::ECONNRESET => return Ok(Incoming::Closed),
                    errno => return Err(errno.into()),
                },
            }
        };
        // First of all the descriptors get an owner, so that every way out closes them.
        let fds = received_fds(&header);
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            let text = "a message was longer, or had more descriptors, than fits";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if length == 0 {
            return Ok(Incoming::Closed);
        }
        bytes.truncate(length);
        bytes.shrink_to_fit();
        Ok(Incoming::Message(bytes, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

/// Room for one control message of [`MESSAGE_FDS`] descriptors: a header of two words, then four bytes for each.
const CONTROL_WORDS: usize = 2 + MESSAGE_FDS / 2;

/// Control data, aligned as cmsg(3) wants it.
#[repr(align(8))]
struct ControlBuffer([u64; CONTROL_WORDS]);

fn received_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has just filled the control buffer of `header`, which is alive; null when it is empty.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole header inside the buffer (cmsg(3)).
    while let Some(found) = unsafe { message.as_ref() } {
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes the distance from a header to its data from a constant.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data of a header that lies inside the buffer begins right behind it.
            let data = unsafe { libc::CMSG_DATA(message) }.cast::<RawFd>();
            for index in 0..(found.cmsg_len.saturating_sub(head)) / size_of::<RawFd>() {
                // SAFETY: `cmsg_len` counts what the kernel wrote, so `index` stays inside the data.
                let at = unsafe { data.add(index) };
                // SAFETY: `at` points to four written bytes, perhaps unaligned.
                let fd = unsafe { at.read_unaligned() };
                // SAFETY: the kernel has just opened this descriptor for us; nobody else knows its number.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `message` came from this header.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    fds
}

/// A descriptor to wait for, and afterwards whether it is ready.
#[derive(Debug)]
pub struct Watch<'fd>(PollFd<'fd>);

impl<'fd> Watch<'fd> {
    /// Ready when something can be read, the other side is gone, or an error waits.
    pub fn readable(fd: BorrowedFd<'fd>) -> Self {
        Self(PollFd::new(fd, PollFlags::POLLIN))
    }

    /// Ready when something can be written, the other side is gone, or an error waits.
    pub fn writable(fd: BorrowedFd<'fd>) -> Self {
        Self(PollFd::new(fd, PollFlags::POLLOUT))
    }

    /// Whether the last [`poll`] found it ready. Errors and hang-ups count: reading tells which.
    pub fn is_ready(&self) -> bool {
        self.0.any().unwrap_or(true) // unknown bits: something happened
    }
}

/// Waits until one of `watches` is ready or the deadline has passed, and counts the ready ones: 0 says that it has
/// passed. Without a deadline it waits for ever; with one that lies behind it looks once and returns.
///
/// # Errors
/// ENOMEM, and EINVAL for more descriptors than RLIMIT_NOFILE. EINTR is none: the wait goes on.
pub fn poll(watches: &mut [Watch<'_>], deadline: Option<Instant>) -> io::Result<usize> {
    let mut fds: Vec<PollFd<'_>> = watches.iter().map(|watch| watch.0.clone()).collect();
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let found = match nix::poll::poll(&mut fds, left.map_or(PollTimeout::NONE, timeout)) {
            Ok(found) => found.cast_unsigned() as usize,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        // A wait longer than poll(2) can express ends early and is begun again.
        let over = left.is_some_and(|left| left <= LONGEST);
        if found > 0 || over {
            for (watch, fd) in watches.iter_mut().zip(fds) {
                watch.0 = fd;
            }
            return Ok(found);
        }
    }
}

/// The longest single wait: well inside the 24 days of poll(2).
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn timeout(left: Duration) -> PollTimeout {
    let ms = left.min(LONGEST).as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fork::fork;
    use super::super::signal::{self, Signal};
    use super::super::wait::{Ended, wait};
    use super::*;

    fn is_cloexec(fd: impl AsFd) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }

    fn message(channel: &Channel) -> (Vec<u8>, Vec<OwnedFd>) {
        match channel.receive().unwrap() {
            Incoming::Message(bytes, fds) => (bytes, fds),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    #[test]
    fn everything_made_here_is_close_on_exec() {
        let (read, write) = pipe().unwrap();
        let (one, other) = channel().unwrap();
        let event = EventFd::new().unwrap();
        let copy = event.duplicate().unwrap();
        for fd in [read.as_fd(), write.as_fd(), one.as_fd(), other.as_fd(), event.as_fd(), copy.as_fd()] {
            assert!(is_cloexec(fd));
        }
        one.send(b"x", &[read.as_fd()]).unwrap();
        let (_, fds) = message(&other);
        assert!(is_cloexec(&fds[0]), "a received one as well");
        clear_cloexec(&read).unwrap();
        assert!(!is_cloexec(&read));
        set_cloexec(&read).unwrap();
        assert!(is_cloexec(&read));
    }

    #[test]
    fn an_event_is_seen_once_and_never_blocks() {
        let event = EventFd::new().unwrap();
        assert!(!event.clear().unwrap());
        event.duplicate().unwrap().notify().unwrap();
        event.notify().unwrap();
        assert!(event.clear().unwrap());
        assert!(!event.clear().unwrap());
        // Full: the kernel would make a writer wait.
        event.0.write(u64::MAX - 1).unwrap();
        event.notify().unwrap();
        assert!(event.clear().unwrap());
    }

    #[test]
    fn messages_stay_whole_and_apart() {
        let (one, other) = channel().unwrap();
        let long = vec![7; MESSAGE_LIMIT];
        one.send(b"first", &[]).unwrap();
        one.send(&long, &[]).unwrap();
        assert_eq!(message(&other).0, b"first");
        assert_eq!(message(&other).0, long);
        drop(one);
        assert!(matches!(other.receive().unwrap(), Incoming::Closed));
    }

    #[test]
    fn a_descriptor_arrives_usable_and_is_another_one() {
        let (one, other) = channel().unwrap();
        let (read, write) = pipe().unwrap();
        let all = vec![write.as_fd(); MESSAGE_FDS];
        one.send(b"take", &all).unwrap();
        let (bytes, fds) = message(&other);
        assert_eq!((bytes.as_slice(), fds.len()), (&b"take"[..], MESSAGE_FDS));
        assert_eq!(nix::unistd::write(&fds[MESSAGE_FDS - 1], b"hello").unwrap(), 5);
        drop((write, fds));
        let mut heard = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(read), &mut heard).unwrap();
        assert_eq!(heard, b"hello", "and the end of file: every copy had an owner and was closed");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_sent() {
        let (one, other) = channel().unwrap();
        let (read, _write) = pipe().unwrap();
        let many = vec![read.as_fd(); MESSAGE_FDS + 1];
        for refused in [one.send(b"", &[]), one.send(&vec![0; MESSAGE_LIMIT + 1], &[]), one.send(b"x", &many)]
        {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        other.set_nonblocking().unwrap();
        assert!(matches!(other.receive().unwrap(), Incoming::Nothing));
    }

    #[test]
    fn an_oversized_message_is_an_error_that_leaks_nothing() {
        let (one, other) = channel().unwrap();
        let (read, write) = pipe().unwrap();
        // Past our own check, as a hostile sender would.
        let long = vec![0; MESSAGE_LIMIT + 1];
        let rights = [write.as_raw_fd()];
        let (bytes, control) = ([IoSlice::new(&long)], [ControlMessage::ScmRights(&rights)]);
        sendmsg::<()>(one.0.as_raw_fd(), &bytes, &control, MsgFlags::empty(), None).unwrap();
        one.send(b"next", &[]).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(write);
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        assert_eq!(poll(&mut [Watch::readable(read.as_fd())], deadline).unwrap(), 1, "the copy was closed");
        assert_eq!(message(&other).0, b"next", "the channel goes on");
    }

    #[test]
    fn too_many_descriptors_are_an_error_that_leaks_nothing() {
        let (one, other) = channel().unwrap();
        let (read, write) = pipe().unwrap();
        let rights = vec![write.as_raw_fd(); MESSAGE_FDS + 2];
        let (bytes, control) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&rights)]);
        sendmsg::<()>(one.0.as_raw_fd(), &bytes, &control, MsgFlags::empty(), None).unwrap();
        assert_eq!(other.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(write);
        let deadline = Some(Instant::now() + Duration::from_secs(10));
        assert_eq!(
            poll(&mut [Watch::readable(read.as_fd())], deadline).unwrap(),
            1,
            "the copies were closed"
        );
    }

    #[test]
    fn a_full_or_broken_channel_is_told_apart() {
        let (one, other) = channel().unwrap();
        one.set_nonblocking().unwrap();
        let full = loop {
            if let Err(error) = one.send(&vec![0; MESSAGE_LIMIT], &[]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        drop(other);
        // Another test may have forked meanwhile: its child has the other end until it leaves.
        let deadline = Instant::now() + Duration::from_secs(10);
        let broken = loop {
            match one.send(b"x", &[]).unwrap_err().kind() {
                io::ErrorKind::WouldBlock if Instant::now() < deadline => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(broken, io::ErrorKind::BrokenPipe);
        let (one, other) = channel().unwrap();
        one.send(b"unread", &[]).unwrap();
        other.send(b"unread", &[]).unwrap();
        assert_eq!(message(&one).0, b"unread");
        drop(other); // resets the connection, since it had not read
        assert!(matches!(one.receive().unwrap(), Incoming::Closed));
    }

    #[test]
    fn poll_names_the_ready_one() {
        let (quiet, loud) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        loud.notify().unwrap();
        let mut watches = [Watch::readable(quiet.as_fd()), Watch::readable(loud.as_fd())];
        assert_eq!(poll(&mut watches, None).unwrap(), 1);
        assert_eq!(watches.map(|watch| watch.is_ready()), [false, true]);
        let (read, write) = pipe().unwrap();
        drop(read);
        assert_eq!(poll(&mut [Watch::writable(write.as_fd())], None).unwrap(), 1, "a hang-up counts");
    }

    #[test]
    fn poll_keeps_its_deadline_and_never_returns_early() {
        let event = EventFd::new().unwrap();
        let mut watches = [Watch::readable(event.as_fd())];
        assert_eq!(poll(&mut watches, Some(Instant::now())).unwrap(), 0);
        for micros in [1, 300, 1_500] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            assert_eq!(poll(&mut watches, Some(deadline)).unwrap(), 0);
            assert!(Instant::now() >= deadline);
        }
    }

    #[test]
    fn time_left_is_rounded_up_and_bounded() {
        assert_eq!(timeout(Duration::ZERO), PollTimeout::ZERO);
        assert_eq!(timeout(Duration::from_nanos(1)), PollTimeout::from(1u8));
        assert_eq!(timeout(Duration::from_millis(2)), PollTimeout::from(2u8));
        assert_eq!(timeout(Duration::MAX), timeout(LONGEST));
    }

    #[test]
    fn a_signal_does_not_end_the_wait() {
        // In a process of its own: handlers and masks belong to all of it.
        let (told, tell) = pipe().unwrap();
        let pid = fork(move || {
            let signals = signal::WorkerSignals::install().unwrap();
            signal::unblock_all().unwrap();
            nix::unistd::write(&tell, b"x").unwrap();
            // The signal interrupts this wait, which must then find the descriptor that the handler made ready: an
            // error would be a panic, and the deadline a 2.
            let silent = EventFd::new().unwrap();
            let deadline = Some(Instant::now() + Duration::from_secs(10));
            let mut watches = [Watch::readable(silent.as_fd()), Watch::readable(signals.as_fd())];
            let found = poll(&mut watches, deadline).unwrap();
            if found == 1 && watches[1].is_ready() { 0 } else { 2 }
        })
        .unwrap();
        let mut byte = [0];
        nix::unistd::read(&told, &mut byte).unwrap();
        signal::send(pid, Signal::SIGUSR1).unwrap();
        assert_eq!(wait(pid).unwrap(), Ended::Exited(0));
    }

    #[test]
    fn times_of_others_are_bounded_by_now() {
        let before = Instant::now();
        assert!(instant_of(monotonic_ns()) >= before);
        assert!(instant_of(u64::MAX) <= Instant::now(), "a heartbeat in the future");
        let then = instant_of(monotonic_ns().saturating_sub(1_000_000_000));
        let ago = Instant::now().saturating_duration_since(then);
        let second = Duration::from_secs(1);
        assert!(ago >= second && ago < second * 10, "{ago:?}");
        let _ = instant_of(0);
    }
}
