//! Where whole lines go: a file, or standard output or error, without ever waiting for a reader.
//!
//! Owns the descriptor and the way of writing to it. Does not own what the lines say.
//!
//! What a newcomer would get wrong: setting O_NONBLOCK on standard error would be felt by everybody who has the same
//! pipe or terminal, the operator's shell included, because the flag belongs to the open file description, not to
//! the descriptor. And asking poll(2) first is a race: another worker may fill the pipe in between. So a pipe or
//! terminal is opened *again*, through /proc/self/fd, which makes a description of our own; a socket (journald) is
//! asked per call, with MSG_DONTWAIT. Regular files never make a writer wait for a reader. Where /proc is missing or
//! forbids it, poll(2) and its race are what remains.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::{LogError, LogTarget};

/// What a pipe takes at once or not at all (pipe(7)); a longer line could be cut in the middle, or mixed with others.
const ATOMIC: usize = libc::PIPE_BUF;

/// An open log.
#[derive(Debug)]
pub(crate) struct Sink {
    file: File,
    way: Way,
    /// The disk was full: this process, or another one that writes to the file, may have been cut off within a line,
    /// and what comes next begins on one of its own.
    cut: AtomicBool,
}

/// How to write without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A regular file, or a device such as /dev/null: just write.
    File,
    /// A pipe or terminal with a description of our own, which is non-blocking.
    NonBlocking,
    /// A socket.
    Socket,
    /// A pipe or terminal that could not be opened again.
    Poll,
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Sink {
    /// Opens a log; `standard` is what '-' means. A file belongs to `owner` (uid, gid) then, so that a worker can reopen it
    /// after it dropped privileges: see `logging/open.rs`.
    pub(crate) fn open(
        target: &LogTarget,
        standard: BorrowedFd<'_>,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, LogError> {
        match target {
            LogTarget::Standard => Self::from_descriptor(standard).map_err(|error| {
                LogError::new(format!("/proc/self/fd/{}", standard.as_raw_fd()).into(), &error)
            }),
            LogTarget::File(path) => {
                Self::from_path(path, owner).map_err(|error| LogError::new(path.clone(), &error))
            }
        }
    }

    fn new(file: File, way: Way) -> Self {
        Self { file, way, cut: AtomicBool::new(false) }
    }

    fn from_path(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        let file = super::open::open(path, owner)?;
        let way = if file.metadata()?.is_file() { Way::File } else { Way::NonBlocking };
        Ok(Self::new(file, way))
    }

    fn from_descriptor(standard: BorrowedFd<'_>) -> io::Result<Self> {
        let file = File::from(standard.try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self::new(file, Way::Socket));
        }
        if kind.is_file() {
            return Ok(Self::new(file, Way::File));
        }
        let again = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", standard.as_raw_fd()));
        Ok(match again {
            Ok(own) => Self::new(own, Way::NonBlocking),
            Err(_) => Self::new(file, Way::Poll),
        })
    }

    /// Writes whole lines, each ended by a newline. Returns how many of them were dropped, because they could not be
    /// written at once or at all.
    pub(crate) fn write_lines(&self, lines: &[u8]) -> u64 {
        if self.way == Way::File {
            return self.write_to_file(lines);
        }
        let mut dropped = 0;
        let mut rest = lines;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_length(rest));
            rest = after;
            let written = match piece.len() {
                0..=ATOMIC => self.write_piece(piece),
                // A single long line: cut, so that what arrives is a line.
                _ => {
                    let mut cut = piece[..ATOMIC - 4].to_vec();
                    cut.extend_from_slice(b"...\n");
                    self.write_piece(&cut)
                }
            };
            if !written {
                dropped += count_lines(piece);
            }
        }
        dropped
    }

    /// One write for all: with O_APPEND it lands in one piece, between the lines of other workers. A disk that becomes
    /// full takes a part of it, which may end within a line.
    fn write_to_file(&self, lines: &[u8]) -> u64 {
        let begun_anew;
        let mut rest = lines;
        if self.cut.load(Ordering::Relaxed) {
            begun_anew = [b"\n", lines].concat();
            rest = &begun_anew;
        }
        while !rest.is_empty() {
            match (&self.file).write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.cut.store(!rest.is_empty(), Ordering::Relaxed);
        count_lines(&rest[rest.len().saturating_sub(lines.len())..])
    }

    /// At most [`ATOMIC`] bytes, in one system call.
    fn write_piece(&self, piece: &[u8]) -> bool {
        loop {
            let result = match self.way {
                Way::File | Way::NonBlocking => (&self.file).write(piece),
                Way::Socket => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    send(self.file.as_raw_fd(), piece, flags).map_err(io::Error::from)
                }
                Way::Poll if !self.is_writable() => return false,
                Way::Poll => (&self.file).write(piece),
            };
            match result {
                Ok(written) => return written == piece.len(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn is_writable(&self) -> bool {
        let mut descriptors = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(1))
    }
}

/// The length of as many whole lines as fit into [`ATOMIC`], or of one line that does not.
fn piece_length(lines: &[u8]) -> usize {
    if lines.len() <= ATOMIC {
        return lines.len();
    }
    let newline = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n');
    match newline(&lines[..ATOMIC]) {
        Some(last) => last + 1,
        None => lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |first| first + 1),
    }
}

pub(crate) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;
    use crate::temp_dir::TempDir;

    /// Writes lines until one is dropped; returns how many arrived.
    fn fill(sink: &Sink) -> usize {
        let line = [&[b'x'; 999][..], b"\n"].concat();
        (0..10_000).position(|_| sink.write_lines(&line) == 1).expect("a full pipe drops")
    }

    #[test]
    fn a_full_pipe_drops_whole_lines_and_leaves_the_shared_flags_alone() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::open(&LogTarget::Standard, writer.as_fd(), None).unwrap();
        assert_eq!(sink.way, Way::NonBlocking);
        let written = fill(&sink);
        assert!(written >= 16, "{written}");
        let flags = OFlag::from_bits_truncate(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        drop((writer, sink));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), written * 1000);
        assert!(all.chunks(1000).all(|line| line.ends_with(b"x\n")));
    }

    #[test]
    fn polling_drops_too() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        assert!(fill(&Sink::new(file, Way::Poll)) >= 16);
    }

    #[test]
    fn a_full_socket_drops_without_a_flag_of_its_own() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let sink = Sink::open(&LogTarget::Standard, ours.as_fd(), None).unwrap();
        assert_eq!(sink.way, Way::Socket);
        assert!(fill(&sink) >= 16);
    }

    #[test]
    fn a_reader_that_is_gone_drops() {
        let (reader, writer) = io::pipe().unwrap();
        let sink = Sink::open(&LogTarget::Standard, writer.as_fd(), None).unwrap();
        drop(reader);
        assert_eq!(sink.write_lines(b"a\nb\n"), 2);
    }

    #[test]
    fn a_batch_is_written_in_pieces_of_whole_lines_and_a_long_line_is_cut() {
        let (mut reader, writer) = io::pipe().unwrap();
        let sink = Sink::open(&LogTarget::Standard, writer.as_fd(), None).unwrap();
        drop(writer);
        let mut batch = Vec::new();
        for _ in 0..10 {
            batch.extend_from_slice(&[b'y'; 999]);
            batch.push(b'\n');
        }
        assert_eq!(sink.write_lines(&batch), 0);
        let long = [&[b'z'; 5000][..], b"\n"].concat();
        assert_eq!(sink.write_lines(&long), 0);
        drop(sink);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(&all[..batch.len()], &batch[..]);
        assert_eq!(all.len(), batch.len() + ATOMIC);
        assert!(all.ends_with(b"z...\n"));
    }

    #[test]
    fn files_are_appended_to_and_a_missing_directory_is_a_sentence() {
        let temp = TempDir::new("sink");
        let path = temp.join("log");
        std::fs::write(&path, "before\n").unwrap();
        let sink = Sink::open(&LogTarget::File(path.clone()), io::stderr().as_fd(), None).unwrap();
        assert_eq!(sink.write_lines(b"after\n"), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"before\nafter\n");
        let missing = LogTarget::File(temp.join("no/log"));
        let error = Sink::open(&missing, io::stderr().as_fd(), None).unwrap_err().to_string();
        assert!(
            error.ends_with("no/log: No such file or directory; create its directory or give another path"),
            "{error}"
        );
    }
}
