//! A value's bytes on disk: parts of at most 8 KiB, each with a checksum.
//!
//! ```text
//! part   crc32 (4, little-endian) | parts of this value (2, little-endian) | bytes
//! ```
//!
//! The checksum covers the key too, so a value that stands at another's place is noticed.

use super::error::Damage;
use super::keys::Key;

/// See the module `store` for why parts are that small.
pub(super) const PART_BYTES: usize = 8 * 1024;
const HEAD: usize = 6;

/// How many parts a value of that size has.
pub(super) fn part_count(bytes: u32) -> u16 {
    let parts = (bytes as usize).div_ceil(PART_BYTES).max(1);
    u16::try_from(parts).expect("a value is far below 512 MiB")
}

/// The stored key and value of each part.
pub(super) fn parts(key: Key, value: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let count = part_count(u32::try_from(value.len()).expect("a value is far below 512 MiB"));
    (0..count).map(move |part| {
        let from = usize::from(part) * PART_BYTES;
        let bytes = &value[from..value.len().min(from + PART_BYTES)];
        let key = key.part(part);
        let mut stored = Vec::with_capacity(HEAD + bytes.len());
        stored.extend(checksum(&key, count.to_le_bytes(), bytes));
        stored.extend(count.to_le_bytes());
        stored.extend(bytes);
        (key, stored)
    })
}

fn checksum(key: &[u8], count: [u8; 2], bytes: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&count);
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}

/// Puts values together from their parts, which come in key order.
#[derive(Default)]
pub(super) struct Assembler {
    open: Option<Open>,
}

struct Open {
    key: Key,
    next: u16,
    count: u16,
    bytes: Vec<u8>,
}

impl Assembler {
    /// Takes the next part; gives the value that it completes.
    pub(super) fn push(
        &mut self,
        key: &[u8],
        stored: &[u8],
    ) -> Result<Option<(Key, Vec<u8>)>, Damage> {
        let Some((name, part)) = Key::parse(key) else {
            return Err(Damage::UnknownKey { key: format!("{}", key.escape_ascii()) });
        };
        let broken = || Damage::Checksum { key: name.to_string() };
        let (crc, rest) = stored.split_first_chunk::<4>().ok_or_else(broken)?;
        let (count, bytes) = rest.split_first_chunk::<2>().ok_or_else(broken)?;
        if checksum(key, *count, bytes) != *crc {
            return Err(broken());
        }
        let count = u16::from_le_bytes(*count);
        let mut open = match self.open.take() {
            None if part == 0 => {
                Open { key: name, next: 0, count, bytes: Vec::with_capacity(bytes.len()) }
            }
            Some(open) if open.key == name && open.next == part && open.count == count => open,
            None => return Err(Damage::Incomplete { key: name.to_string() }),
            Some(open) => return Err(Damage::Incomplete { key: open.key.to_string() }),
        };
        open.bytes.extend(bytes);
        open.next += 1;
        if open.next < open.count {
            self.open = Some(open);
            return Ok(None);
        }
        Ok(Some((open.key, open.bytes)))
    }

    /// Whether the last value came whole.
    pub(super) fn finish(self) -> Result<(), Damage> {
        match self.open {
            None => Ok(()),
            Some(open) => Err(Damage::Incomplete { key: open.key.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(stored: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<(Key, Vec<u8>)>, Damage> {
        let mut assembler = Assembler::default();
        let mut values = Vec::new();
        for (key, value) in stored {
            values.extend(assembler.push(key, value)?);
        }
        assembler.finish()?;
        Ok(values)
    }

    #[test]
    fn values_of_any_size_read_back() {
        for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 5 * PART_BYTES + 17] {
            let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let stored: Vec<_> = parts(Key::Entry(9), &value).collect();
            assert!(stored.iter().all(|(_, v)| v.len() <= PART_BYTES + HEAD));
            assert_eq!(read_back(&stored), Ok(vec![(Key::Entry(9), value)]));
        }
    }

    #[test]
    fn a_changed_bit_a_swapped_value_and_a_missing_part_are_damage() {
        let value = vec![7; 3 * PART_BYTES];
        let whole: Vec<_> = parts(Key::Entry(9), &value).collect();

        let mut flipped = whole.clone();
        flipped[1].1[100] ^= 1;
        assert_eq!(read_back(&flipped), Err(Damage::Checksum { key: "entry 9".into() }));

        let mut swapped = whole.clone();
        swapped[0].0 = Key::Entry(8).part(0);
        assert_eq!(read_back(&swapped), Err(Damage::Checksum { key: "entry 8".into() }));

        for gone in 0..whole.len() {
            let mut short = whole.clone();
            short.remove(gone);
            assert_eq!(read_back(&short), Err(Damage::Incomplete { key: "entry 9".into() }));
        }
    }
}
