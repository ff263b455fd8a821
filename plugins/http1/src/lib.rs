//! HTTP/1.x for worker classes: bytes in, events out; bytes to write out.
//!
//! This crate owns the protocol and nothing around it. There is no I/O in it, no clock, no thread and no
//! unsafe code, so that a blocking worker, a thread pool and an event loop can all use it, and so that each
//! rule is tested by calling a function.
//!
//! - **Framing is never guessed.** Where RFC 9112 lets a recipient choose between repair and refusal, this
//!   crate refuses: what is repaired here is repaired differently by the proxy in front. Each refusal is an
//!   [`Error`] with a status, and after each the connection is closed.
//! - **Nothing is copied that can be pointed at.** [`Head`] keeps spans into the caller's buffer,
//!   [`BodyDecoder`] answers with ranges of its input, [`BodyWriter`] with slices for `writev(2)`. Their
//!   memory is reused from request to request.
//! - **Partial input is no error and costs nothing twice.** A head or body may arrive octet by octet; the
//!   result is the same as if it had come at once, the status of a refusal included.
//! - **The request line is ours, the fields are `httparse`'s.** Every rule for the request line is narrower
//!   than that library's, and a line judged when it ends is refused before the rest arrives. Field lines it
//!   reads well and fast, once the lines have been found under our own rules for their ends and sizes.
//! - **The application is not trusted either.** What concerns framing or the connection is taken as a wish,
//!   everything else is validated, and a head is either whole or an error; never a split response.
//!
//! One request, with what is read and written left out:
//!
//! ```
//! use rgunicorn_http1::{BodyDecoder, BodyWriter, DateCache, Head, Leniency, Limits, Progress, Step};
//! use std::time::SystemTime;
//!
//! let (limits, leniency) = (Limits::default(), Leniency::default());
//! let buf = b"POST /form HTTP/1.1\r\nHost: example.org\r\nContent-Length: 5\r\n\r\nhello";
//!
//! let mut head = Head::new();
//! let Progress::Complete { len } = head.parse(buf, &limits, &leniency)? else { panic!("read more") };
//! assert_eq!(head.path(buf), b"/form");
//!
//! let mut body = BodyDecoder::new(head.framing(), &limits, leniency.header_map)?;
//! let Step::Data { range } = body.step(&buf[len..])? else { panic!("read more") };
//! assert_eq!(&buf[len..][range], b"hello");
//! assert!(body.is_done());
//!
//! let (mut out, date) = (Vec::new(), DateCache::new(SystemTime::now()));
//! let fields = [(&b"Content-Type"[..], &b"text/plain"[..])];
//! let sent = rgunicorn_http1::response_head(&mut out, head.exchange(buf), 200, fields, &date, Some(3))?;
//! let mut writer = BodyWriter::new(sent.framing);
//! writer.write(b"bye").put(&mut out);
//! out.extend_from_slice(writer.finish()?);
//! assert!(out.ends_with(b"Content-Length: 3\r\n\r\nbye"));
//! # Ok::<(), rgunicorn_http1::Error>(())
//! ```

#![forbid(unsafe_code)]

mod body;
mod chunked;
mod date;
mod error;
pub mod exchange;
mod fields;
mod limits;
pub mod proxy;
mod request;
mod response;
mod status;
mod syntax;
mod target;
mod write;

pub use body::{BodyDecoder, Step};
pub use date::DateCache;
pub use error::Error;
pub use limits::{HeaderMap, Leniency, Limits};
pub use request::{BodyFraming, Exchange, Head, MethodKind, Progress, Version};
pub use response::{
    CONTINUE, ResponseFraming, ResponseHead, Sent, error_response, informational, response_head,
    switching_protocols,
};
pub use status::reason;
pub use target::TargetForm;
pub use write::{Announced, BodyWriter, Piece};

/// Of this crate, for the note of the worker class that carries it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
