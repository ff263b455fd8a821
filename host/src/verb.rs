//! What a monitor may ask of the master: a verb of fixed size, and nothing else.
//!
//! Owns the form of a verb on the channel. Does not own what comes of it. What a newcomer would get wrong: this is the
//! only way by which words of strangers could reach the master, so that nothing here has a length, a text or a path:
//! three numbers, each bounded when it is read.

use crate::logging::LogLevel;

/// Octets of a verb: what, with which number, and the ticket.
pub const SIZE: usize = 24;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// As HUP.
    Reload,
    /// So many workers.
    Workers(u64),
    /// Log from this level on, until the next reload.
    LogLevel(LogLevel),
    /// As TERM.
    Stop,
}

impl Verb {
    /// The verb as it is sent. Whoever sent it finds the ticket on the scoreboard once the master has heard it.
    pub fn encode(self, ticket: u64) -> [u8; SIZE] {
        let (what, number) = match self {
            Self::Reload => (1, 0),
            Self::Workers(count) => (2, count),
            Self::LogLevel(level) => (3, level as u64),
            Self::Stop => (4, 0),
        };
        let mut octets = [0; SIZE];
        for (place, word) in octets.chunks_exact_mut(8).zip([what, number, ticket]) {
            place.copy_from_slice(&u64::to_ne_bytes(word));
        }
        octets
    }

    /// Master: the verb and its ticket; none for what is no verb.
    pub fn decode(octets: &[u8]) -> Option<(Self, u64)> {
        let octets: &[u8; SIZE] = octets.try_into().ok()?;
        let mut words = octets.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
        let (what, number, ticket) = (words.next()?, words.next()?, words.next()?);
        let verb = match what {
            1 => Self::Reload,
            2 => Self::Workers(number),
            3 => Self::LogLevel(LogLevel::from_number(number)?),
            4 => Self::Stop,
            _ => return None,
        };
        Some((verb, ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_comes_back_as_it_was_sent_and_nothing_else_is_one() {
        for verb in [Verb::Reload, Verb::Workers(7), Verb::LogLevel(LogLevel::Critical), Verb::Stop] {
            let octets = verb.encode(99);
            assert_eq!(Verb::decode(&octets), Some((verb, 99)));
            assert_eq!(Verb::decode(&octets[1..]), None);
        }
        assert_eq!(Verb::decode(&[0xff; SIZE]), None);
        assert_eq!(Verb::decode(&[]), None);
        let mut level = Verb::LogLevel(LogLevel::Info).encode(1);
        level[8..16].fill(0xff);
        assert_eq!(Verb::decode(&level), None);
    }
}
