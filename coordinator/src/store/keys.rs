//! The key spaces, as types.
//!
//! A key is one letter for its space, for entries the index (big-endian, so that byte order is log
//! order), and last the number of the part.

use std::fmt;

/// A value in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// [`super::Header`].
    Header,
    /// The last vote, opaque.
    Vote,
    /// The last committed position, opaque. Written lazily.
    Committed,
    /// The last purged position.
    Purged,
    /// A log entry, opaque.
    Entry(u64),
}

const ENTRY: u8 = b'l';

impl Key {
    fn letter(self) -> u8 {
        match self {
            Self::Header => b'h',
            Self::Vote => b'v',
            Self::Committed => b'c',
            Self::Purged => b'p',
            Self::Entry(_) => ENTRY,
        }
    }

    /// What all parts of the value begin with.
    pub(super) fn prefix(self) -> Vec<u8> {
        let mut bytes = vec![self.letter()];
        if let Self::Entry(index) = self {
            bytes.extend(index.to_be_bytes());
        }
        bytes
    }

    /// The key of one part.
    pub(super) fn part(self, part: u16) -> Vec<u8> {
        let mut bytes = self.prefix();
        bytes.extend(part.to_be_bytes());
        bytes
    }

    /// What stands at a stored key, and which part of it.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, u16)> {
        let (&letter, rest) = bytes.split_first()?;
        let (rest, part) = rest.split_last_chunk::<2>()?;
        let key = match (letter, rest) {
            (b'h', []) => Self::Header,
            (b'v', []) => Self::Vote,
            (b'c', []) => Self::Committed,
            (b'p', []) => Self::Purged,
            (ENTRY, index) => Self::Entry(u64::from_be_bytes(index.try_into().ok()?)),
            _ => return None,
        };
        Some((key, u16::from_be_bytes(*part)))
    }

    /// Where the parts of the entries from `index` on begin.
    pub(super) fn entries_from(index: u64) -> Vec<u8> {
        Self::Entry(index).prefix()
    }

    /// Past the last entry.
    pub(super) fn entries_end() -> Vec<u8> {
        vec![ENTRY + 1]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Vote => f.write_str("vote"),
            Self::Committed => f.write_str("committed"),
            Self::Purged => f.write_str("purged"),
            Self::Entry(index) => write!(f, "entry {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_in_log_order() {
        for key in [
            Key::Header,
            Key::Vote,
            Key::Committed,
            Key::Purged,
            Key::Entry(0),
            Key::Entry(u64::MAX),
        ] {
            assert_eq!(Key::parse(&key.part(7)), Some((key, 7)));
        }
        assert!(Key::Entry(255).part(3) < Key::Entry(256).part(0));
        assert!(Key::Entry(u64::MAX).part(u16::MAX) < Key::entries_end());
        assert_eq!(Key::parse(b""), None);
        assert_eq!(Key::parse(b"x\0\0"), None);
        assert_eq!(Key::parse(b"l123\0\0"), None);
    }
}
