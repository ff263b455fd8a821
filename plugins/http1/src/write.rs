//! The body of a response: what of the application's octets goes on the wire, and what around them.
//!
//! It owns the count against the declared length and the chunked coding on its way out. It copies nothing:
//! a piece is three slices for one `writev(2)`.
//!
//! What a newcomer gets wrong: a chunk of no octets is the end of the body. An application's empty write
//! is therefore no chunk at all, and only `finish` writes the last one.

use crate::chunked::is_forbidden_trailer;
use crate::error::Error;
use crate::response::{ResponseFraming, checked, printable, put_field};

/// Sixteen hexadecimal digits and CRLF.
const CHUNK_HEAD: usize = 18;
const LAST_CHUNK: &[u8] = b"0\r\n";

/// Keeps to the framing that the head announced.
#[derive(Debug)]
pub struct BodyWriter {
    framing: ResponseFraming,
    offered: u64,
    sent: u64,
    finished: bool,
}

/// What to write for one write of the application's.
#[derive(Debug)]
pub struct Piece<'a> {
    head: [u8; CHUNK_HEAD],
    head_start: usize,
    data: &'a [u8],
    tail: &'static [u8],
    /// Octets that are not sent since they lie beyond the declared length or the end of the body. Log it:
    /// the application is wrong. A body that is merely suppressed (HEAD, 304) is not cut.
    pub cut: usize,
}

impl Piece<'_> {
    /// In order, for `writev(2)`; each may be empty.
    #[must_use]
    pub fn slices(&self) -> [&[u8]; 3] {
        [&self.head[self.head_start..], self.data, self.tail]
    }

    /// Octets in all three.
    #[must_use]
    pub fn len(&self) -> usize {
        CHUNK_HEAD - self.head_start + self.data.len() + self.tail.len()
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends all three, for those who gather small writes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.reserve(self.len());
        for slice in self.slices() {
            out.extend_from_slice(slice);
        }
    }
}

/// What goes around octets that are sent by other means.
#[derive(Debug)]
pub struct Announced {
    head: [u8; CHUNK_HEAD],
    head_start: usize,
    /// How many octets to send; fewer than asked for where the rest would be cut or is suppressed.
    pub length: u64,
    /// Goes after them.
    pub tail: &'static [u8],
}

impl Announced {
    /// Goes before them.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[self.head_start..]
    }
}

impl BodyWriter {
    /// A body that ends as `framing` says.
    #[must_use]
    pub fn new(framing: ResponseFraming) -> Self {
        Self { framing, offered: 0, sent: 0, finished: false }
    }

    /// What becomes of one write. The caller must write all of the piece before the next one.
    pub fn write<'a>(&mut self, data: &'a [u8]) -> Piece<'a> {
        self.offered += data.len() as u64;
        let mut piece = Piece { head: [0; CHUNK_HEAD], head_start: CHUNK_HEAD, data: &[], tail: b"", cut: 0 };
        if self.finished {
            piece.cut = data.len();
            return piece;
        }
        match self.framing {
            ResponseFraming::NoBody => return piece,
            ResponseFraming::Length(declared) => {
                let taken = crate::body::at_most(data.len(), declared - self.sent);
                piece.data = &data[..taken];
                piece.cut = data.len() - taken;
            }
            ResponseFraming::UntilClose => piece.data = data,
            ResponseFraming::Chunked => {
                piece.data = data;
                if !data.is_empty() {
                    piece.head_start = put_chunk_head(&mut piece.head, data.len() as u64);
                    piece.tail = b"\r\n";
                }
            }
        }
        self.sent += piece.data.len() as u64;
        piece
    }

    /// As `write`, for `length` octets that the caller sends by other means, such as `sendfile(2)`: around
    /// them go what this returns, and they must be exactly as many as it says.
    pub fn announce(&mut self, length: u64) -> Announced {
        self.offered += length;
        let mut announced = Announced { head: [0; CHUNK_HEAD], head_start: CHUNK_HEAD, length, tail: b"" };
        match self.framing {
            _ if self.finished => announced.length = 0,
            ResponseFraming::NoBody => announced.length = 0,
            ResponseFraming::Length(declared) => announced.length = length.min(declared - self.sent),
            ResponseFraming::UntilClose => {}
            ResponseFraming::Chunked if length > 0 => {
                announced.head_start = put_chunk_head(&mut announced.head, length);
                announced.tail = b"\r\n";
            }
            ResponseFraming::Chunked => {}
        }
        self.sent += announced.length;
        announced
    }

    /// Ends the body: what is still to be written. `ResponseShort` means that the connection must be closed
    /// now, without an answer of any other kind; the client sees that something is missing.
    pub fn finish(&mut self) -> Result<&'static [u8], Error> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(b"");
        }
        match self.framing {
            ResponseFraming::Chunked => Ok(b"0\r\n\r\n"),
            ResponseFraming::Length(declared) if self.sent < declared => {
                Err(Error::ResponseShort { declared, sent: self.sent })
            }
            ResponseFraming::Length(_) | ResponseFraming::UntilClose | ResponseFraming::NoBody => Ok(b""),
        }
    }

    /// Ends the body with trailer fields, appended to `out`. They have a place only in a chunked body, and
    /// are judged but left out of any other. An `Err` about a field leaves `out` and the body as they were.
    pub fn finish_with_trailers<'f>(
        &mut self,
        out: &mut Vec<u8>,
        trailers: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    ) -> Result<(), Error> {
        let start = out.len();
        let result = put_trailers(out, trailers);
        if result.is_err() || self.finished || self.framing != ResponseFraming::Chunked {
            out.truncate(start);
            result?;
            out.extend_from_slice(self.finish()?);
            return Ok(());
        }
        self.finished = true;
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Octets the application has written, whether they were sent or not.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Octets of content on the wire, as the access log counts them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// The last chunk and the fields after it, all but the empty line.
fn put_trailers<'f>(
    out: &mut Vec<u8>,
    trailers: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
) -> Result<(), Error> {
    out.extend_from_slice(LAST_CHUNK);
    for (name, value) in trailers {
        let value = checked(name, value)?;
        if is_forbidden_trailer(name) {
            return Err(Error::ResponseFieldForbidden(printable(name)));
        }
        put_field(out, name, value);
    }
    Ok(())
}

/// Writes `size` and CRLF to the end of `head`, and answers with where they begin.
fn put_chunk_head(head: &mut [u8; CHUNK_HEAD], mut size: u64) -> usize {
    head[CHUNK_HEAD - 2..].copy_from_slice(b"\r\n");
    let mut at = CHUNK_HEAD - 2;
    while size > 0 {
        at -= 1;
        head[at] = b"0123456789abcdef"[(size & 15) as usize];
        size >>= 4;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on the wire after these writes, and how many octets were cut.
    fn wire(framing: ResponseFraming, writes: &[&[u8]]) -> (Vec<u8>, usize, BodyWriter) {
        let (mut out, mut cut, mut writer) = (Vec::new(), 0, BodyWriter::new(framing));
        for data in writes {
            let piece = writer.write(data);
            let before = out.len();
            piece.put(&mut out);
            assert_eq!(out.len() - before, piece.len());
            cut += piece.cut;
        }
        (out, cut, writer)
    }

    #[test]
    fn length_cuts_what_is_longer() {
        let (out, cut, mut writer) = wire(ResponseFraming::Length(5), &[b"hel", b"", b"lo wo", b"rld"]);
        assert_eq!((&out[..], cut), (&b"hello"[..], 6));
        assert_eq!((writer.offered(), writer.sent()), (11, 5));
        assert_eq!(writer.finish(), Ok(&b""[..]));
    }

    #[test]
    fn length_reports_what_is_short() {
        let (_, cut, mut writer) = wire(ResponseFraming::Length(5), &[b"hell"]);
        assert_eq!((cut, writer.finish()), (0, Err(Error::ResponseShort { declared: 5, sent: 4 })));
    }

    #[test]
    fn chunks_and_no_early_end() {
        let (mut out, cut, mut writer) = wire(ResponseFraming::Chunked, &[b"a", b"", &[b'x'; 26]]);
        out.extend_from_slice(writer.finish().unwrap());
        let expected = [b"1\r\na\r\n1a\r\n", &[b'x'; 26][..], b"\r\n0\r\n\r\n"].concat();
        assert_eq!((out, cut, writer.sent()), (expected, 0, 27));
    }

    #[test]
    fn chunk_head_of_every_magnitude() {
        for size in [1, 15, 16, 255, 256, 0x1_0000, usize::MAX] {
            let mut head = [0; CHUNK_HEAD];
            let start = put_chunk_head(&mut head, size as u64);
            assert_eq!(&head[start..], format!("{size:x}\r\n").as_bytes());
        }
    }

    #[test]
    fn a_piece_is_three_slices() {
        let mut writer = BodyWriter::new(ResponseFraming::Chunked);
        assert_eq!(writer.write(b"abc").slices(), [&b"3\r\n"[..], b"abc", b"\r\n"]);
        assert!(writer.write(b"").is_empty());
    }

    #[test]
    fn suppressed_body_is_counted_and_complete() {
        let (out, cut, mut writer) = wire(ResponseFraming::NoBody, &[b"hello"]);
        assert_eq!((out.len(), cut, writer.offered(), writer.sent()), (0, 0, 5, 0));
        assert_eq!(writer.finish(), Ok(&b""[..]));
    }

    #[test]
    fn until_close_is_plain() {
        let (out, cut, mut writer) = wire(ResponseFraming::UntilClose, &[b"hel", b"lo"]);
        assert_eq!((&out[..], cut, writer.finish()), (&b"hello"[..], 0, Ok(&b""[..])));
    }

    #[test]
    fn nothing_follows_the_end() {
        let (_, _, mut writer) = wire(ResponseFraming::Chunked, &[b"a"]);
        assert_eq!(writer.finish(), Ok(&b"0\r\n\r\n"[..]));
        assert_eq!(writer.finish(), Ok(&b""[..]));
        let piece = writer.write(b"late");
        assert_eq!((piece.is_empty(), piece.cut), (true, 4));
        let mut out = Vec::new();
        writer.finish_with_trailers(&mut out, [(&b"A"[..], &b"b"[..])]).unwrap();
        assert!(out.is_empty());
    }

    #[test]
    fn trailers() {
        let mut out = b"kept".to_vec();
        let mut writer = BodyWriter::new(ResponseFraming::Chunked);
        for (name, value, error) in [
            (&b"A"[..], &b"b\r\nc"[..], Error::ResponseFieldValue("A".to_owned())),
            (b"A B", b"c", Error::ResponseFieldName("A B".to_owned())),
            (b"Content-Length", b"1", Error::ResponseFieldForbidden("Content-Length".to_owned())),
        ] {
            assert_eq!(writer.finish_with_trailers(&mut out, [(name, value)]), Err(error));
            assert_eq!(out, b"kept");
        }
        writer.finish_with_trailers(&mut out, [(&b"A"[..], &b" b "[..])]).unwrap();
        assert_eq!(out, b"kept0\r\nA: b\r\n\r\n");
        assert_eq!(writer.finish(), Ok(&b""[..]));
    }

    #[test]
    fn trailers_outside_chunks_are_left_out() {
        let mut out = Vec::new();
        let mut writer = BodyWriter::new(ResponseFraming::Length(0));
        writer.finish_with_trailers(&mut out, [(&b"A"[..], &b"b"[..])]).unwrap();
        assert!(out.is_empty());
        let mut short = BodyWriter::new(ResponseFraming::Length(1));
        let result = short.finish_with_trailers(&mut out, []);
        assert_eq!(result, Err(Error::ResponseShort { declared: 1, sent: 0 }));
    }
}
