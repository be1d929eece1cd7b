//! Log sequence numbers, as PostgreSQL prints them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the write-ahead log: a number inside, `0/16B3748` for people and JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no LSN: two hexadecimal numbers of at most 8 digits with a slash between")]
pub struct BadLsn(pub String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;
    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let half = |part: &str| {
            let plain = !part.starts_with('+') && (1..=8).contains(&part.len());
            plain.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| {
                Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
            })
            .ok_or_else(|| BadLsn(text.chars().take(40).collect()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            u64::deserialize(d).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_postgresql_does() {
        for (number, text) in
            [(0x16B_3748, "0/16B3748"), (0x1_0000_0000, "1/0"), (u64::MAX, "FFFFFFFF/FFFFFFFF")]
        {
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(number)));
        }
        for bad in ["", "0", "0/", "/0", "0/1/2", "+1/0", "123456789/0", "x/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
