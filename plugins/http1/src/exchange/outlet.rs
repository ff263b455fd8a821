//! Octets on their way to the client: what is buffered, and what goes with it in one `writev(2)`.
//!
//! It owns the order of octets and short writes. It does not know what they mean, save for one mark: where
//! the final head begins, so that an answer of which nothing was sent can be taken back.
//!
//! What a newcomer gets wrong: the application's octets are not copied. They are sent from where they lie,
//! behind the buffer, and only a face that cannot wait puts what is left of them into the buffer.

use std::io::{self, ErrorKind, IoSlice};

use super::wire::Wire;

/// Slices that follow the buffer, in order.
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

#[derive(Debug)]
pub(super) struct Outlet<'c> {
    buffer: &'c mut Vec<u8>,
    /// Up to here the buffer is sent.
    sent: usize,
    mark: Option<usize>,
}

impl<'c> Outlet<'c> {
    /// An empty one that uses the memory of `buffer`.
    pub(super) fn new(buffer: &'c mut Vec<u8>) -> Self {
        buffer.clear();
        Self { buffer, sent: 0, mark: None }
    }

    pub(super) fn pending(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// For appending.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.sent > 0 && self.sent == self.buffer.len() {
            self.buffer.clear();
            (self.sent, self.mark) = (0, None);
        }
        self.buffer
    }

    /// The final head begins here.
    pub(super) fn mark(&mut self) {
        self.mark = Some(self.buffer().len());
    }

    /// Whether nothing before the mark is still to be sent.
    pub(super) fn head_only(&self) -> bool {
        self.mark == Some(self.sent)
    }

    /// Takes back all from the mark on; `false` if some of that was sent.
    pub(super) fn take_back(&mut self) -> bool {
        match self.mark {
            Some(mark) if self.sent <= mark && mark < self.buffer.len() => {
                self.buffer.truncate(mark);
                true
            }
            _ => false,
        }
    }

    /// Gives up what is buffered: the client cannot be reached.
    pub(super) fn discard(&mut self) {
        self.buffer.clear();
        (self.sent, self.mark) = (0, None);
    }

    /// Sends the buffer and then `tail`, as far as the client takes them now; `true` if that was all. What
    /// was sent of `tail` is cut off it.
    pub(super) fn send<W: Wire>(&mut self, wire: &mut W, tail: &mut Tail<'_>) -> io::Result<bool> {
        loop {
            let pending = self.pending();
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
            match wire.write(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::BrokenPipe.into()),
                Ok(taken) => {
                    let from_buffer = taken.min(pending);
                    self.sent += from_buffer;
                    tail.advance(taken - from_buffer);
                    if taken < whole {
                        return Ok(false);
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Buffers what is left of `tail`.
    pub(super) fn keep(&mut self, tail: &Tail<'_>) {
        if tail.len() == 0 {
            return;
        }
        if self.sent > 0 && self.pending() > 0 {
            self.buffer.drain(..self.sent);
            self.mark = self.mark.and_then(|mark| mark.checked_sub(self.sent));
            self.sent = 0;
        }
        let buffer = self.buffer();
        for piece in tail.0 {
            buffer.extend_from_slice(piece);
        }
    }
}
