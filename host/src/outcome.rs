//! How a start went, told to whoever waits for it: the old master of a USR2, or the command that was given `--daemon`.
//!
//! Owns the messages. Does not own the channel, nor what is made of the news. What a newcomer would get wrong: no news is
//! news as well. A program that ends without a word closes its end, and the one that waits must look how it ended.

use std::io;

use crate::sys::fd::{Channel, Incoming};

/// The longest sentence that is taken (octets).
const SENTENCE_LIMIT: usize = 4096;

/// How a start went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The first worker is ready.
    Ready,
    /// It ended with this code, for the reason in this sentence.
    Failed(u8, String),
}

/// What is known of a start by now.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// It is decided.
    Is(Outcome),
    /// Nothing yet; only where the channel does not block.
    Nothing,
    /// The other side is gone.
    Gone,
}

impl Outcome {
    /// Master: tells it. That nobody waits any more is no error.
    pub fn tell(&self, channel: &Channel) {
        let message = match self {
            Self::Ready => vec![b'r'],
            Self::Failed(code, sentence) => [&[b'f', *code], sentence.as_bytes()].concat(),
        };
        // The other side has gone, or does not read: it does without then.
        let _ = channel.send(&message, &[]);
    }

    /// Takes what the other side has told.
    ///
    /// # Errors
    /// Those of the channel, and `InvalidData` for words that mean nothing.
    pub fn hear(channel: &Channel) -> io::Result<News> {
        let message = match channel.receive()? {
            Incoming::Message(message, _) => message,
            Incoming::Nothing => return Ok(News::Nothing),
            Incoming::Closed => return Ok(News::Gone),
        };
        match message.as_slice() {
            [b'r'] => Ok(News::Is(Self::Ready)),
            [b'f', code, sentence @ ..] => {
                let sentence = &sentence[..sentence.len().min(SENTENCE_LIMIT)];
                Ok(News::Is(Self::Failed(*code, String::from_utf8_lossy(sentence).into_owned())))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a message of an unknown kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::channel;

    #[test]
    fn what_is_told_is_heard_and_silence_too() {
        let (ours, theirs) = channel().unwrap();
        ours.set_nonblocking().unwrap();
        assert_eq!(Outcome::hear(&ours).unwrap(), News::Nothing);
        for outcome in [Outcome::Ready, Outcome::Failed(4, "because".to_owned())] {
            outcome.tell(&theirs);
            assert_eq!(Outcome::hear(&ours).unwrap(), News::Is(outcome));
        }
        theirs.send(b"x", &[]).unwrap();
        assert_eq!(Outcome::hear(&ours).unwrap_err().kind(), io::ErrorKind::InvalidData);
        ours.hang_up().unwrap();
        Outcome::Ready.tell(&theirs);
        assert_eq!(Outcome::hear(&ours).unwrap(), News::Gone);
    }
}
