//! Octets on their way to the client: what is queued, and what goes with it in one `writev(2)`.
//!
//! It owns the order of octets and files, and short writes. It does not know what they mean, save for one
//! mark: where the final head begins, so that an answer of which nothing was sent can be taken back.
//!
//! What a newcomer gets wrong: the application's octets are not copied. They are sent from where they lie,
//! behind the queue, and only a face that cannot wait puts what is left of them into it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use super::wire::Wire;

/// Pieces up to this are copied behind what is buffered.
const SHORT: usize = 1024;
/// Longer buffers are not kept for the next connection.
const KEPT: usize = 64 * 1024;
/// What a queued file counts as, in octets: its descriptor is worth more than the few octets of its place.
const FILE_WEIGHT: usize = 16 * 1024;

/// Slices that follow the queue, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tail<'a>(pub(super) [&'a [u8]; 4]);

impl Tail<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    fn advance(&mut self, mut count: usize) {
        for piece in &mut self.0 {
            let taken = count.min(piece.len());
            *piece = &piece[taken..];
            count -= taken;
        }
    }
}

/// A range of a file, never empty.
#[derive(Debug)]
struct Queued {
    /// It goes before this octet of the buffer.
    at: usize,
    file: OwnedFd,
    offset: u64,
    length: u64,
}

/// All octets lie in one buffer; files know between which of them they belong.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    buffer: Vec<u8>,
    /// Up to here the buffer is sent.
    sent: usize,
    mark: Option<usize>,
    files: VecDeque<Queued>,
}

impl Outlet {
    /// All that is still to be sent.
    pub(super) fn pending(&self) -> u64 {
        let files: u64 = self.files.iter().map(|queued| queued.length).sum();
        self.octets() as u64 + files
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets() == 0 && self.files.is_empty()
    }

    fn octets(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// How much of the server's means the queue takes up, in octets.
    pub(super) fn weight(&self) -> usize {
        self.octets() + self.files.len() * FILE_WEIGHT
    }

    /// For appending.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.sent > 0 && self.is_empty() {
            self.discard();
        } else if self.sent > self.buffer.len() / 2 {
            // Not sooner, so that an octet is moved at most once.
            self.buffer.drain(..self.sent);
            self.mark = self.mark.and_then(|mark| mark.checked_sub(self.sent));
            self.files.iter_mut().for_each(|queued| queued.at -= self.sent);
            self.sent = 0;
        }
        &mut self.buffer
    }

    /// The final head begins here.
    pub(super) fn mark(&mut self) {
        self.mark = Some(self.buffer().len());
    }

    /// Another exchange begins: what it finds is not its own to take back.
    pub(super) fn unmark(&mut self) {
        self.mark = None;
    }

    /// Whether nothing before the mark is still to be sent.
    pub(super) fn head_only(&self) -> bool {
        self.mark == Some(self.sent) && self.files.is_empty()
    }

    /// Takes back all from the mark on; `false` if some of that was sent.
    pub(super) fn take_back(&mut self) -> bool {
        match self.mark {
            Some(mark) if self.sent <= mark && mark < self.buffer.len() => {
                self.buffer.truncate(mark);
                // A file of this answer has its head before it.
                self.files.retain(|queued| queued.at <= mark);
                true
            }
            _ => false,
        }
    }

    /// Gives up what is queued, as far as it is still to be sent.
    pub(super) fn discard(&mut self) {
        self.buffer.clear();
        self.files.clear();
        (self.sent, self.mark) = (0, None);
    }

    /// Gives memory back, between connections.
    pub(super) fn trim(&mut self) {
        self.discard();
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
        self.files = VecDeque::new();
    }

    /// Sends the queue and then `tail`, as far as the client takes them now; `true` if that was all. What
    /// was sent of `tail` is cut off it. A file that ends too early is `UnexpectedEof`.
    pub(super) fn send<W: Wire>(&mut self, wire: &mut W, tail: &mut Tail<'_>) -> io::Result<bool> {
        while let Some(queued) = self.files.front_mut() {
            let before = &self.buffer[self.sent..queued.at];
            if before.is_empty() {
                match wire.send_file(queued.file.as_fd(), queued.offset, queued.length) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(taken) => {
                        let taken = taken.min(queued.length);
                        queued.offset += taken;
                        queued.length -= taken;
                        if queued.length == 0 {
                            self.files.pop_front();
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(error),
                }
                continue;
            }
            let whole = before.len();
            match write(wire, &[IoSlice::new(before)])? {
                Some(taken) => {
                    self.sent += taken;
                    if taken < whole {
                        return Ok(false);
                    }
                }
                None => return Ok(false),
            }
        }
        // One copy of a short piece is cheaper than a second slice for the kernel to walk.
        if self.octets() > 0 && tail.len() <= SHORT {
            self.keep(tail);
            *tail = Tail::default();
        }
        let pending = self.octets();
        let whole = pending + tail.len();
        if whole == 0 {
            return Ok(true);
        }
        let mut slices = [IoSlice::new(&[]); 5];
        let mut count = 0;
        for piece in [&self.buffer[self.sent..], tail.0[0], tail.0[1], tail.0[2], tail.0[3]] {
            if !piece.is_empty() {
                slices[count] = IoSlice::new(piece);
                count += 1;
            }
        }
        let Some(taken) = write(wire, &slices[..count])? else { return Ok(false) };
        let from_buffer = taken.min(pending);
        self.sent += from_buffer;
        tail.advance(taken - from_buffer);
        Ok(taken == whole)
    }

    /// Queues what is left of `tail`.
    pub(super) fn keep(&mut self, tail: &Tail<'_>) {
        if tail.len() == 0 {
            return;
        }
        let buffer = self.buffer();
        for piece in tail.0 {
            buffer.extend_from_slice(piece);
        }
    }

    /// Queues a range of a file.
    pub(super) fn keep_file(&mut self, file: OwnedFd, offset: u64, length: u64) {
        let at = self.buffer().len();
        if length > 0 {
            self.files.push_back(Queued { at, file, offset, length });
        }
    }
}

/// How much was taken; nothing if the client takes nothing now.
fn write<W: Wire>(wire: &mut W, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    loop {
        return match wire.write(slices) {
            Ok(0) => Err(ErrorKind::BrokenPipe.into()),
            Ok(taken) => Ok(Some(taken)),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        };
    }
}
