//! A wire in memory: octets arrive in pieces, and go out as slowly as the input wants.
//!
//! What a newcomer would get wrong: nothing here ever waits. A wait is granted at once, so a loop that waits for what
//! cannot come would spin for ever, which the fuzzer reports as a time-out.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rgunicorn_http1::exchange::{Interest, Wire};
use rgunicorn_worker_api::request::Address;

/// One connection, from its first octet to its end.
#[derive(Debug)]
pub struct Memory {
    arriving: VecDeque<Vec<u8>>,
    /// Between two pieces nothing has arrived yet.
    pause: bool,
    /// What was sent.
    pub out: Vec<u8>,
    /// Most octets taken by one write; after each, the next would block. 0 is no bound.
    narrow: usize,
    blocked: bool,
    /// After so many octets out the client has gone.
    pub breaks_after: Option<usize>,
}

impl Memory {
    /// A client that sends `octets` in pieces, then ends its direction.
    pub fn new(octets: &[u8], piece: usize, narrow: usize) -> Self {
        let arriving = octets.chunks(piece.max(1)).map(<[u8]>::to_vec).collect();
        Self { arriving, pause: false, out: Vec::new(), narrow, blocked: false, breaks_after: None }
    }

    /// Whether the client has gone.
    pub fn is_broken(&self) -> bool {
        self.breaks_after.is_some_and(|after| self.out.len() >= after)
    }

    /// How much is taken of an offer.
    fn room(&mut self, offered: usize) -> io::Result<usize> {
        if self.is_broken() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.narrow == 0 {
            return Ok(offered);
        }
        self.blocked = !self.blocked;
        if self.blocked { Err(ErrorKind::WouldBlock.into()) } else { Ok(self.narrow.min(offered)) }
    }
}

impl Wire for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.pause) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let Some(mut piece) = self.arriving.pop_front() else { return Ok(0) };
        let rest = piece.split_off(buffer.len().min(piece.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        if rest.is_empty() {
            self.pause = true;
        } else {
            self.arriving.push_front(rest);
        }
        Ok(piece.len())
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "an empty piece");
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let count = self.room(all.len())?;
        self.out.extend_from_slice(&all[..count]);
        Ok(count)
    }

    /// A file of zeros that ends at 1000.
    fn send_file(&mut self, _: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
        let there = 1000_u64.saturating_sub(offset).min(length);
        let count = self.room(usize::try_from(there).unwrap_or(0))?;
        self.out.resize(self.out.len() + count, 0);
        Ok(count as u64)
    }

    fn wait(&mut self, _: Interest, _: Option<Instant>) -> io::Result<bool> {
        Ok(true)
    }

    fn client_gone(&mut self) -> bool {
        self.is_broken()
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn local(&mut self) -> Address {
        Address::Unknown
    }

    fn fd(&self) -> Option<i32> {
        None
    }
}
