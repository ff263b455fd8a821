//! The body of a request as a stream of frames (`http_body::Body`).
//!
//! It owns the buffer that pieces are read into. A piece is read when it is asked for, and not before: a service that
//! is slow, or waits for a disk, makes the client wait, at no cost in memory. A newcomer might answer the client after
//! a failed read. That is the server's: it knows whether to say 400, 408 or 413, and whatever the service answers
//! after such a failure is not sent.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

use crate::error::Fault;
use crate::sdk::connection::Connection;

/// Octets that are read at a time, at most.
const PIECE: usize = 64 * 1024;
/// Of a buffer with less room than this the rest is given up.
const WORTH_READING: usize = 8 * 1024;

/// The body of a request. Trailer fields, if there are any, are its last frame.
pub struct Body {
    source: Option<Connection>,
    /// Octets still to come, where that is known.
    left: Option<u64>,
    room: BytesMut,
}

impl Body {
    /// A body that has ended.
    #[must_use]
    pub fn empty() -> Self {
        Self { source: None, left: Some(0), room: BytesMut::new() }
    }

    pub(crate) fn of(connection: &Connection, length: Option<u64>) -> Self {
        match length {
            Some(0) => Self::empty(),
            left => Self { source: Some(connection.clone()), left, room: BytesMut::new() },
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let Some(source) = &self.source else { return Poll::Ready(Ok(None)) };
        if self.room.is_empty() {
            let left = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(PIECE);
            // One more octet, so that the end is found in the same buffer.
            self.room = BytesMut::zeroed(left.saturating_add(1).min(PIECE));
        }
        match source.poll_read(context, &mut self.room) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(fault)) => {
                self.source = None;
                Poll::Ready(Err(fault))
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(count)) => {
                let piece = self.room.split_to(count).freeze();
                if self.room.len() < WORTH_READING {
                    self.room = BytesMut::new();
                }
                self.left = self.left.map(|left| left.saturating_sub(count as u64));
                Poll::Ready(Ok(Some(piece)))
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        match std::task::ready!(this.poll_piece(context)) {
            Err(fault) => Poll::Ready(Some(Err(fault))),
            Ok(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            Ok(None) => {
                this.left = Some(0);
                let trailers = this.source.take().map(|source| trailers_of(&source)).unwrap_or_default();
                let frame = (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)));
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Those that the crate `http` can hold; the server has checked them by the same grammar.
fn trailers_of(source: &Connection) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in source.trailers() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) {
            trailers.append(name, value);
        }
    }
    trailers
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}
