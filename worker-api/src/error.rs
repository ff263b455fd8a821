//! What can go wrong: [`Fault`] between an application and its connection, [`Error`] inside a plugin.
//!
//! A newcomer would return an [`Error`] for a client that left. Pass the [`Fault`] on with `?` instead: the
//! server then knows whether to answer 400, 408 or 413, and does not log an application error.

use crate::abi;
use std::any::Any;
use std::fmt;

/// Why reading a request or writing a response failed.
///
/// After any of these except [`Fault::Misuse`], [`Fault::Invalid`] and [`Fault::Unsupported`] the exchange is
/// over: return the fault, and the server answers what can still be answered and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The client closed or reset the connection.
    ClientGone,
    /// A timeout of the server ran out (head, body idle, write idle).
    TimedOut,
    /// The request body is over the server's limit.
    TooLarge,
    /// The request body is malformed (a bad chunk, an early end).
    Malformed,
    /// The request is over `request_timeout`.
    Expired,
    /// The call makes no sense now, such as a second `start`. Nothing was sent.
    Misuse,
    /// A status or a field that may not be sent (RFC 9110 section 5.5, 15). Nothing was sent.
    Invalid,
    /// The worker class or the protocol version does not offer this. Nothing was sent.
    Unsupported,
    /// Another error of the operating system.
    System,
}

impl Fault {
    /// Whether the exchange is over because of the client, a timeout or the system; the others are mistakes of the
    /// application, and nothing was sent for them.
    #[must_use]
    pub const fn is_of_the_connection(self) -> bool {
        !matches!(self, Self::Misuse | Self::Invalid | Self::Unsupported)
    }

    /// The number that crosses the interface.
    #[must_use]
    pub const fn code(self) -> i64 {
        match self {
            Self::ClientGone => abi::IO_CLIENT_GONE,
            Self::TimedOut => abi::IO_TIMED_OUT,
            Self::TooLarge => abi::IO_TOO_LARGE,
            Self::Malformed => abi::IO_MALFORMED,
            Self::Expired => abi::IO_EXPIRED,
            Self::Misuse => abi::IO_MISUSE,
            Self::Invalid => abi::IO_INVALID,
            Self::Unsupported => abi::IO_UNSUPPORTED,
            Self::System => abi::IO_SYSTEM,
        }
    }

    /// The fault behind a negative number; one that this version does not know is [`Fault::System`].
    #[must_use]
    pub const fn from_code(code: i64) -> Self {
        match code {
            abi::IO_CLIENT_GONE => Self::ClientGone,
            abi::IO_TIMED_OUT => Self::TimedOut,
            abi::IO_TOO_LARGE => Self::TooLarge,
            abi::IO_MALFORMED => Self::Malformed,
            abi::IO_EXPIRED => Self::Expired,
            abi::IO_MISUSE => Self::Misuse,
            abi::IO_INVALID => Self::Invalid,
            abi::IO_UNSUPPORTED => Self::Unsupported,
            _ => Self::System,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientGone => "the client closed the connection",
            Self::TimedOut => "the client was too slow",
            Self::TooLarge => "the request body is over the limit",
            Self::Malformed => "the request body is malformed",
            Self::Expired => "the request is over its time limit",
            Self::Misuse => "the call is out of order",
            Self::Invalid => "the status or a header field may not be sent",
            Self::Unsupported => "the server does not offer this here",
            Self::System => "the connection failed",
        })
    }
}

impl std::error::Error for Fault {}

/// Why a plugin could not do what it was asked: a sentence, causes included.
///
/// Anything that implements [`std::error::Error`] turns into it with `?`. It does not implement that trait
/// itself, so that the conversion can exist.
pub struct Error {
    message: String,
    fault: Option<Fault>,
}

impl Error {
    /// An error that says `message`.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fault: None }
    }

    /// The fault of the connection that this error passes on, if it is one.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let fault = (&error as &dyn Any).downcast_ref::<Fault>().copied();
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Many errors print their source in their own text.
            if !message.contains(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { message, fault }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_survives_the_crossing() {
        for fault in [
            Fault::ClientGone,
            Fault::TimedOut,
            Fault::TooLarge,
            Fault::Malformed,
            Fault::Expired,
            Fault::Misuse,
            Fault::Invalid,
            Fault::Unsupported,
            Fault::System,
        ] {
            assert!(fault.code() < abi::IO_PENDING);
            assert_eq!(Fault::from_code(fault.code()), fault);
        }
    }

    #[test]
    fn a_fault_passed_on_is_still_known_as_one() {
        fn handler() -> Result<(), Error> {
            Err(Fault::TooLarge)?
        }
        assert_eq!(handler().unwrap_err().fault(), Some(Fault::TooLarge));
        assert_eq!(Error::new("x").fault(), None);
    }

    #[test]
    fn causes_are_part_of_the_sentence() {
        let error = std::io::Error::other("x".parse::<u8>().unwrap_err());
        assert_eq!(Error::from(error).to_string(), "invalid digit found in string");
    }
}
