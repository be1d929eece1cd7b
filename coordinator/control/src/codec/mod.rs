//! Commands and snapshots as bytes: a version first, then postcard.
//!
//! A byte string that this version wrote can be read by each later one; golden bytes in `tests/golden` hold that promise. A
//! version that is too new is refused by name: nodes of a cluster are upgraded one by one, and none may guess.

mod snapshot;

pub use snapshot::{Frozen, RestoreError};

use crate::command::Stamped;

/// The version that this code writes, of batches and of snapshots.
pub const VERSION: u8 = 1;

/// Why bytes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a later version of pgconvoy.
    #[error("written in format {found}, this version reads up to {VERSION}: upgrade this node")]
    TooNew {
        /// The version found.
        found: u8,
    },
    /// No version that ever was.
    #[error("written in format {found}, which no version ever wrote")]
    UnknownVersion {
        /// The version found.
        found: u8,
    },
    /// Nothing at all.
    #[error("no bytes")]
    Empty,
    /// Not what this version writes.
    #[error("damaged")]
    Damaged {
        /// Where the decoder stopped.
        #[source]
        source: postcard::Error,
    },
    /// More bytes than were meant.
    #[error("damaged: {bytes} bytes too many")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
}

/// One log entry of these commands.
#[must_use]
pub fn encode_batch(batch: &[Stamped]) -> Vec<u8> {
    postcard::to_extend(batch, vec![VERSION])
        .expect("commands are plain data, and a vector takes all bytes")
}

/// The commands of a log entry.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Stamped>, DecodeError> {
    let (version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    check_version(*version)?;
    decode(rest)
}

fn check_version(found: u8) -> Result<(), DecodeError> {
    match found {
        VERSION => Ok(()),
        0 => Err(DecodeError::UnknownVersion { found }),
        _ => Err(DecodeError::TooNew { found }),
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, left) =
        postcard::take_from_bytes(bytes).map_err(|source| DecodeError::Damaged { source })?;
    if left.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes { bytes: left.len() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        assert_eq!(decode_batch(&[]), Err(DecodeError::Empty));
        assert_eq!(decode_batch(&[2, 0]), Err(DecodeError::TooNew { found: 2 }));
        assert_eq!(decode_batch(&[0, 0]), Err(DecodeError::UnknownVersion { found: 0 }));
        assert!(matches!(decode_batch(&[1, 1]), Err(DecodeError::Damaged { .. })));
        assert_eq!(decode_batch(&[1, 0, 7]), Err(DecodeError::TrailingBytes { bytes: 1 }));
        assert_eq!(decode_batch(&encode_batch(&[])), Ok(vec![]));
    }
}
