//! Two tables compared without sorting either: each row becomes a hash, and hashes are summed.
//!
//! ```text
//!  row ─▶ key ─▶ bucket     bucket: how many rows, sum of their hashes
//!    └──────────▶ hash ─▶ +
//! ```
//!
//! A row is what COPY writes of it as text, so that whatever shows in its text differs: the last bit of a float, a trailing
//! blank, null against an empty text. Its hash has 128 bits and is keyed by a secret that was drawn for this comparison alone:
//! rows whose sums collide cannot be planned, and by chance they do once in 2¹²⁸. Sums do not depend on order, so neither
//! end sorts, and collations do not matter. Rows are spread over buckets by their key: where a bucket's count or sum differs
//! between the ends, and only there, rows are looked at one by one ([`classify`]). Where those would be too many, because
//! the table is large, they are spread over as many buckets anew, by other bits of their keys, before ([`narrowing`]).
//!
//! Without a key a row is its own key, and a table a multiset.
//!
//! Where the destination follows the source, what differs is looked at again ([`Suspects`]).
//!
//! (XXH3 with a random secret of its full 192 bytes: this is no signature, and nobody who could write rows knows the secret.)

mod buckets;
mod difference;
mod question;
mod suspects;

pub use buckets::{
    BUCKETS, Bucket, Digest, Focus, PASSES_MAX, Passes, ROWS_PER_PASS, narrowing, passes,
};
pub use difference::{Kept, classify};
pub use question::{Answer, Asked, Distilled, Distiller, Found, OutOfPlace, Question, Wanted};
pub use suspects::{LOOKS_MAX, Suspects, key_values};

use xxhash_rust::xxh3::{Xxh3Builder, xxh3_128_with_secret};

use pgconvoy_shared::verify::{LISTED_BYTES_MAX, Sample};

/// Tag byte and length word of a message; they never stand apart from each other in what a COPY hands out.
const HEADER_BYTES: usize = 5;

/// The key of all hashes of one comparison.
#[derive(Clone)]
pub struct HashKey(pub Box<[u8; HashKey::BYTES]>);

impl HashKey {
    /// As many bytes as XXH3 can use.
    pub const BYTES: usize = 192;
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// A row, as hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Of its key.
    pub key: u128,
    /// Of all of it.
    pub hash: u128,
    /// The transaction that wrote it, where that was read ([`Rows::versioned`]); else 0.
    pub version: u32,
    /// Its key, or all of it where there is none: what is shown to people, perhaps cut.
    pub shown: &'a [u8],
}

impl Row<'_> {
    /// Whether it is in the sample.
    #[must_use]
    pub fn is_in(&self, sample: Sample) -> bool {
        // Half of the bits is enough to choose by.
        sample.takes(self.key as u64)
    }
}

/// Takes COPY data apart into rows. The first `key_columns` columns are the key; 0 = none.
#[derive(Clone)]
pub struct Rows {
    secret: HashKey,
    key_columns: usize,
    versioned: bool,
    /// Bytes of the current message that are still to come.
    payload_left: usize,
    /// A row that began in an earlier buffer.
    begun: Option<Begun>,
}

/// A row of which only a part was seen.
#[derive(Clone)]
struct Begun {
    /// Digits so far of the version that is still to come to its end; none = it has, or there is none.
    digits: Option<Vec<u8>>,
    version: u32,
    hasher: xxhash_rust::xxh3::Xxh3,
    /// The key so far, or the beginning of the row.
    shown: Vec<u8>,
    /// Tabs that are still to come before the key is whole.
    tabs_left: usize,
}

/// A length word that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "COPY data that is cut within a header, says a length that cannot be, or lacks the rows' version"
)]
pub struct BadData;

impl Rows {
    /// At the beginning of a COPY.
    #[must_use]
    pub fn new(secret: HashKey, key_columns: usize) -> Self {
        Self { secret, key_columns, versioned: false, payload_left: 0, begun: None }
    }

    /// The same where each row begins with its version (`xmin`), a column that is no part of the row.
    #[must_use]
    pub fn versioned(self) -> Self {
        Self { versioned: true, ..self }
    }

    /// Takes a buffer of whole and cut messages, as [`Frames`](crate::copy::Frames) lets them pass.
    pub fn take(&mut self, mut data: &[u8], mut each: impl FnMut(Row<'_>)) -> Result<(), BadData> {
        loop {
            if self.payload_left == 0 && self.begun.is_none() {
                let Some((header, rest)) = data.split_first_chunk::<HEADER_BYTES>() else {
                    return if data.is_empty() { Ok(()) } else { Err(BadData) };
                };
                let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
                let payload = length.checked_sub(4).and_then(|rest| usize::try_from(rest).ok());
                let payload = payload.filter(|_| header[0] == b'd').ok_or(BadData)?;
                data = rest;
                if let Some((row, rest)) = data.split_at_checked(payload) {
                    each(self.whole(row)?);
                    data = rest;
                    continue;
                }
                self.payload_left = payload;
                self.begun = Some(Begun::new(&self.secret, self.key_columns, self.versioned));
            }
            let Some(begun) = &mut self.begun else { return Err(BadData) };
            let (part, rest) = data.split_at(self.payload_left.min(data.len()));
            begun.take(part, self.key_columns)?;
            self.payload_left -= part.len();
            data = rest;
            if self.payload_left > 0 {
                return Ok(());
            }
            if let Some(begun) = self.begun.take() {
                if begun.digits.is_some() {
                    return Err(BadData);
                }
                let version = begun.version;
                let hash = begun.hasher.digest128();
                let (key, shown) = match self.key_columns {
                    0 => (hash, without_end(&begun.shown)),
                    _ => (self.hash(&begun.shown), &begun.shown[..]),
                };
                each(Row { key, hash, version, shown });
            }
        }
    }

    fn whole<'a>(&self, mut row: &'a [u8]) -> Result<Row<'a>, BadData> {
        let mut version = 0;
        if self.versioned {
            let end = version_ends(row).ok_or(BadData)?;
            version = version_of(&row[..end])?;
            row = behind_version(&row[end..]);
        }
        let hash = self.hash(row);
        if self.key_columns == 0 {
            return Ok(Row { key: hash, hash, version, shown: beginning(without_end(row)) });
        }
        let shown = key_of(row, self.key_columns);
        Ok(Row { key: self.hash(shown), hash, version, shown })
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        xxh3_128_with_secret(bytes, &self.secret.0[..])
    }
}

impl Begun {
    fn new(secret: &HashKey, key_columns: usize, versioned: bool) -> Self {
        let hasher = Xxh3Builder::new().with_secret(*secret.0).build();
        let digits = versioned.then(Vec::new);
        Self { digits, version: 0, hasher, shown: Vec::new(), tabs_left: key_columns }
    }

    fn take(&mut self, mut part: &[u8], key_columns: usize) -> Result<(), BadData> {
        if let Some(mut digits) = self.digits.take() {
            let Some(end) = version_ends(part) else {
                digits.extend_from_slice(part);
                self.digits = Some(digits);
                return Ok(());
            };
            digits.extend_from_slice(&part[..end]);
            self.version = version_of(&digits)?;
            part = behind_version(&part[end..]);
        }
        self.hasher.update(part);
        if key_columns == 0 {
            let room = LISTED_BYTES_MAX.saturating_sub(self.shown.len());
            self.shown.extend_from_slice(&part[..part.len().min(room)]);
            return Ok(());
        }
        for byte in part {
            if self.tabs_left == 0 {
                break;
            }
            match byte {
                b'\n' => self.tabs_left = 0,
                b'\t' if self.tabs_left == 1 => self.tabs_left = 0,
                byte => {
                    self.tabs_left -= usize::from(*byte == b'\t');
                    self.shown.push(*byte);
                }
            }
        }
        Ok(())
    }
}

fn version_ends(row: &[u8]) -> Option<usize> {
    row.iter().position(|byte| matches!(byte, b'\t' | b'\n'))
}

/// A row without columns is a mere line's end.
fn behind_version(row: &[u8]) -> &[u8] {
    row.strip_prefix(b"\t").unwrap_or(row)
}

fn version_of(digits: &[u8]) -> Result<u32, BadData> {
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(BadData)
}

/// Up to the tab, or the line's end, that ends the last column of the key. Within values COPY writes both as escapes.
fn key_of(row: &[u8], columns: usize) -> &[u8] {
    let mut ends = row.iter().enumerate().filter(|(_, byte)| **byte == b'\t');
    match ends.nth(columns - 1) {
        Some((end, _)) => &row[..end],
        None => without_end(row),
    }
}

fn without_end(row: &[u8]) -> &[u8] {
    row.strip_suffix(b"\n").unwrap_or(row)
}

fn beginning(row: &[u8]) -> &[u8] {
    &row[..row.len().min(LISTED_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn secret() -> HashKey {
        HashKey(Box::new(std::array::from_fn(|no| (no * 7 + 1) as u8)))
    }

    pub(super) fn copied(rows: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        for row in rows {
            data.push(b'd');
            data.extend_from_slice(&i32::try_from(row.len() + 4).unwrap().to_be_bytes());
            data.extend_from_slice(row.as_bytes());
        }
        data
    }

    #[test]
    fn headers_that_cannot_be_are_refused() {
        let mut rows = Rows::new(secret(), 1);
        assert_eq!(rows.take(b"d\0\0", |_| {}), Err(BadData));
        assert_eq!(rows.take(b"d\0\0\0\x03", |_| {}), Err(BadData));
        assert_eq!(rows.take(b"c\0\0\0\x04", |_| {}), Err(BadData));
        for row in ["none\n", "\tnone\n", "12"] {
            let mut rows = Rows::new(secret(), 0).versioned();
            assert_eq!(rows.take(&copied(&[row]), |_| {}), Err(BadData));
        }
        let mut version = 0;
        let mut rows = Rows::new(secret(), 0).versioned();
        rows.take(&copied(&["12\n"]), |row| version = row.version).unwrap();
        assert_eq!(version, 12, "of a row without columns");
    }

    proptest! {
        /// However the data is cut between headers, the same rows come out; with their versions, where they have some.
        #[test]
        fn cuts_do_not_matter(
            rows in prop::collection::vec("[a-c]{0,300}\t[a-c]{0,300}\n", 0..12),
            key_columns in 0usize..4,
            versioned in any::<bool>(),
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let with_version = |(nth, row): (usize, &String)| match versioned {
                true => format!("{}\t{row}", 4_000_000_000 + nth),
                false => row.clone(),
            };
            let sent: Vec<String> = rows.iter().enumerate().map(with_version).collect();
            let data = copied(&sent.iter().map(String::as_str).collect::<Vec<_>>());
            let collect = |pieces: &[&[u8]], versioned: bool| {
                let taken = Rows::new(secret(), key_columns);
                let mut taken = if versioned { taken.versioned() } else { taken };
                let (mut all, mut versions) = (Vec::new(), Vec::new());
                for piece in pieces {
                    let each = |row: Row<'_>| {
                        all.push((row.key, row.hash, row.shown.to_owned()));
                        versions.push(row.version);
                    };
                    taken.take(piece, each).unwrap();
                }
                (all, versions)
            };
            // Cut anywhere but within a header.
            let mut frames = crate::copy::Frames::default();
            let mut pieces = Vec::new();
            let (mut unread, mut inbox_start) = (0, 0);
            let mut cuts = cuts.iter().cycle();
            while inbox_start < data.len() {
                unread = (unread + cuts.next().unwrap()).min(data.len());
                let run = frames.walk(&data[inbox_start..unread]).unwrap();
                pieces.push(&data[inbox_start..inbox_start + run.bytes]);
                inbox_start += run.bytes;
            }
            let (whole, versions) = collect(&[&data], versioned);
            prop_assert_eq!(whole.len(), rows.len());
            prop_assert_eq!((&whole, &versions), (&collect(&pieces, versioned).0, &collect(&pieces, versioned).1));
            let plain = copied(&rows.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert_eq!(whole, collect(&[&plain], false).0);
            let expected = (4_000_000_000u32..).take(rows.len()).map(|no| if versioned { no } else { 0 });
            prop_assert_eq!(versions, expected.collect::<Vec<_>>());
        }
    }
}
