//! A request in memory, and whatever is answered to it.
//!
//! It owns the order of an answer and its rules, as far as a test can break them. Nothing here waits.

use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::error::Fault;
use crate::request::{Address, Field, Head, Scheme, Version};
use crate::sdk::kit::Answer;
use crate::worker::Exchange;

/// A request in memory, and what is answered.
pub(super) struct Memory<'r> {
    method: &'r str,
    target: &'r str,
    fields: Vec<Field<'r>>,
    body: &'r [u8],
    peer: Address,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: usize,
    status: Option<u16>,
    fields: Vec<(String, Vec<u8>)>,
    /// Octets of the body that were declared.
    declared: Option<u64>,
    body: Vec<u8>,
    ended: bool,
}

impl State {
    fn start(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        if self.status.is_some() {
            return Err(Fault::Misuse);
        }
        check(200..=999, status, fields)?;
        for field in fields {
            if field.name.eq_ignore_ascii_case(b"content-length") {
                let digits = std::str::from_utf8(field.value).ok();
                self.declared = Some(digits.and_then(|digits| digits.parse().ok()).ok_or(Fault::Invalid)?);
            }
        }
        self.fields = fields
            .iter()
            .map(|field| (String::from_utf8_lossy(field.name).into_owned(), field.value.to_vec()))
            .collect();
        self.status = Some(status);
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        if self.status.is_none() || self.ended {
            return Err(Fault::Misuse);
        }
        let room = self.declared.map_or(usize::MAX, |declared| {
            usize::try_from(declared).unwrap_or(usize::MAX).saturating_sub(self.body.len())
        });
        self.body.extend_from_slice(&piece[..piece.len().min(room)]);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        if self.status.is_none() || self.ended {
            return Err(Fault::Misuse);
        }
        self.ended = true;
        Ok(())
    }
}

/// What may be sent (RFC 9110 section 5.1, 5.5).
fn check(range: std::ops::RangeInclusive<u16>, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
    let in_token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    let in_value = |octet: &u8| !octet.is_ascii_control() || *octet == b'\t';
    let is_good = |field: &Field<'_>| {
        !field.name.is_empty() && field.name.iter().all(in_token) && field.value.iter().all(in_value)
    };
    if range.contains(&status) && fields.iter().all(is_good) { Ok(()) } else { Err(Fault::Invalid) }
}

impl<'r> Memory<'r> {
    pub(super) fn new(
        method: &'r str,
        target: &'r str,
        fields: &[(&'r str, &'r str)],
        body: &'r [u8],
    ) -> Self {
        Self {
            method,
            target,
            fields: fields.iter().map(|field| (*field).into()).collect(),
            body,
            peer: Address::Ip(([127, 0, 0, 1], 49152).into()),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a client would have got, when the application has ended well or not.
    pub(super) fn into_answer(self, well: bool) -> Answer {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = state.status else {
            return Answer { status: 500, fields: Vec::new(), body: Vec::new(), is_whole: true };
        };
        let bodiless = self.method == "HEAD" || matches!(status, 204 | 304);
        let is_short =
            !bodiless && state.declared.is_some_and(|declared| (state.body.len() as u64) < declared);
        Answer {
            status,
            fields: state.fields,
            body: if bodiless { Vec::new() } else { state.body },
            is_whole: well && !is_short,
        }
    }

    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<u64, Fault> {
        let file = std::fs::File::from(file.try_clone_to_owned().map_err(|_| Fault::System)?);
        let mut piece = vec![0; usize::try_from(length.min(64 * 1024)).unwrap_or(0)];
        let count = file.read_at(&mut piece, offset).map_err(|_| Fault::System)?;
        self.state().write(&piece[..count])?;
        Ok(count as u64)
    }
}

impl Exchange for Memory<'_> {
    fn head(&self) -> Head<'_> {
        Head {
            method: self.method.as_bytes(),
            target: self.target.as_bytes(),
            mount: b"",
            version: Version::Http11,
            scheme: Scheme::Http,
            field_count: self.fields.len(),
        }
    }

    fn field(&self, index: usize) -> Option<Field<'_>> {
        self.fields.get(index).copied()
    }

    fn trailer(&self, _: usize) -> Option<Field<'_>> {
        None
    }

    fn peer(&self) -> &Address {
        &self.peer
    }

    fn local(&self) -> &Address {
        &self.peer
    }

    fn body_length(&self) -> Option<u64> {
        Some(self.body.len() as u64)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let mut state = self.state();
        let rest = &self.body[state.read..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        state.read += count;
        Ok(count)
    }

    fn poll_read(&self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.read(buffer))
    }

    fn client_gone(&self) -> bool {
        false
    }

    fn poll_client_gone(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn expired(&self) -> bool {
        false
    }

    fn informational(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        check(102..=199, status, fields)
    }

    fn start(&self, status: u16, fields: &[Field<'_>]) -> Result<(), Fault> {
        self.state().start(status, fields)
    }

    fn write(&self, piece: &[u8]) -> Result<(), Fault> {
        self.state().write(piece)
    }

    fn poll_write(&self, _: &mut Context<'_>, piece: &[u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(self.write(piece).map(|()| piece.len()))
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn poll_flush(&self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn send_file(&self, file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<(), Fault> {
        let mut sent = 0;
        while sent < length {
            match self.read_file(file, offset + sent, length - sent)? {
                0 => return Err(Fault::System),
                count => sent += count,
            }
        }
        Ok(())
    }

    fn poll_send_file(
        &self,
        _: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Poll<Result<u64, Fault>> {
        Poll::Ready(self.read_file(file, offset, length))
    }

    fn trailers(&self, _: &[Field<'_>]) -> Result<(), Fault> {
        Ok(())
    }

    fn end(&self) -> Result<(), Fault> {
        self.state().end()
    }

    fn respond(&self, status: u16, fields: &[Field<'_>], body: &[u8]) -> Result<(), Fault> {
        let mut state = self.state();
        state.start(status, fields)?;
        state.write(body)?;
        state.end()
    }

    fn draining(&self) -> bool {
        false
    }
}
