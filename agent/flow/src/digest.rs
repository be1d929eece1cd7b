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
//! between the ends, and only there, rows are looked at one by one ([`classify`]).
//!
//! Without a key a row is its own key, and a table a multiset.
//!
//! (XXH3 with a random secret of its full 192 bytes: this is no signature, and nobody who could write rows knows the secret.)

use xxhash_rust::xxh3::{Xxh3Builder, xxh3_128_with_secret};

use pgconvoy_shared::verify::{Difference, LISTED_BYTES_MAX, RowDifference, Sample};

/// Of a comparison: 16,384 buckets are half a mebibyte, and some hundred rows each in a shard of the usual size.
pub const BUCKETS: usize = 1 << 14;

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
    /// Its key, or all of it where there is none: what is shown to people, perhaps cut.
    pub shown: &'a [u8],
}

impl Row<'_> {
    /// Where it is counted.
    #[must_use]
    pub fn bucket(&self) -> usize {
        // Other bits than those that decide on the sample. No truncation: it is less than BUCKETS.
        (self.key >> 64) as usize % BUCKETS
    }

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
    /// Bytes of the current message that are still to come.
    payload_left: usize,
    /// A row that began in an earlier buffer.
    begun: Option<Begun>,
}

/// A row of which only a part was seen.
#[derive(Clone)]
struct Begun {
    hasher: xxhash_rust::xxh3::Xxh3,
    /// The key so far, or the beginning of the row.
    shown: Vec<u8>,
    /// Tabs that are still to come before the key is whole.
    tabs_left: usize,
}

/// A length word that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("COPY data that is cut within a header, or says a length that cannot be")]
pub struct BadData;

impl Rows {
    /// At the beginning of a COPY.
    #[must_use]
    pub fn new(secret: HashKey, key_columns: usize) -> Self {
        Self { secret, key_columns, payload_left: 0, begun: None }
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
                    each(self.whole(row));
                    data = rest;
                    continue;
                }
                self.payload_left = payload;
                self.begun = Some(Begun::new(&self.secret, self.key_columns));
            }
            let Some(begun) = &mut self.begun else { return Err(BadData) };
            let (part, rest) = data.split_at(self.payload_left.min(data.len()));
            begun.take(part, self.key_columns);
            self.payload_left -= part.len();
            data = rest;
            if self.payload_left > 0 {
                return Ok(());
            }
            if let Some(begun) = self.begun.take() {
                let hash = begun.hasher.digest128();
                let key = match self.key_columns {
                    0 => hash,
                    _ => self.hash(&begun.shown),
                };
                each(Row { key, hash, shown: &begun.shown });
            }
        }
    }

    fn whole<'a>(&self, row: &'a [u8]) -> Row<'a> {
        let hash = self.hash(row);
        if self.key_columns == 0 {
            return Row { key: hash, hash, shown: beginning(without_end(row)) };
        }
        let shown = key_of(row, self.key_columns);
        Row { key: self.hash(shown), hash, shown }
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        xxh3_128_with_secret(bytes, &self.secret.0[..])
    }
}

impl Begun {
    fn new(secret: &HashKey, key_columns: usize) -> Self {
        let hasher = Xxh3Builder::new().with_secret(*secret.0).build();
        Self { hasher, shown: Vec::new(), tabs_left: key_columns }
    }

    fn take(&mut self, part: &[u8], key_columns: usize) {
        self.hasher.update(part);
        if key_columns == 0 {
            let room = LISTED_BYTES_MAX.saturating_sub(self.shown.len());
            self.shown.extend_from_slice(&part[..part.len().min(room)]);
            return;
        }
        for byte in part {
            if self.tabs_left == 0 {
                return;
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
    }
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

/// Rows of a bucket: how many, and the sum of the hashes of those in the sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    pub rows: u64,
    pub sum: u128,
}

/// The rows of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// [`BUCKETS`] of them.
    pub buckets: Box<[Bucket]>,
    /// All rows.
    pub rows: u64,
    /// Those in the sample.
    pub compared: u64,
    sample: Sample,
}

impl Digest {
    /// Of no rows.
    #[must_use]
    pub fn new(sample: Sample) -> Self {
        let buckets = vec![Bucket::default(); BUCKETS].into_boxed_slice();
        Self { buckets, rows: 0, compared: 0, sample }
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row<'_>) {
        let bucket = &mut self.buckets[row.bucket()];
        bucket.rows += 1;
        self.rows += 1;
        if row.is_in(self.sample) {
            bucket.sum = bucket.sum.wrapping_add(row.hash);
            self.compared += 1;
        }
    }

    /// Adds other rows of the same end.
    pub fn add_all(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.rows += more.rows;
            bucket.sum = bucket.sum.wrapping_add(more.sum);
        }
        self.rows += other.rows;
        self.compared += other.compared;
    }

    /// The buckets that differ from the other end's.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<u32> {
        let pairs = self.buckets.iter().zip(&other.buckets);
        (0u32..).zip(pairs).filter(|(_, (a, b))| a != b).map(|(no, _)| no).collect()
    }
}

/// Rows of both ends that are held in memory at once: some 60 bytes each, at most 500.
pub const ROWS_PER_PASS: u64 = 100_000;

/// Each pass reads all rows again; beyond so many the figures tell enough.
pub const PASSES_MAX: usize = 4;

/// What is done about buckets that differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passes {
    /// Their rows are looked at one by one, these buckets at a time.
    pub look_at: Vec<Vec<u32>>,
    /// Rows missing in the buckets that are left, as far as their counts tell.
    pub missing: u64,
    /// Extra rows in them.
    pub extra: u64,
    /// Rows that are different in them: at least one in each that has as many rows at both ends.
    pub different: u64,
    /// Those three are lower bounds.
    pub at_least: bool,
}

/// Shares the buckets that differ out to as few passes as memory allows; what does not fit is judged by its counts.
#[must_use]
pub fn passes(source: &Digest, destination: &Digest) -> Passes {
    let mut passes = Passes::default();
    let mut held = ROWS_PER_PASS;
    for no in source.differing(destination) {
        let (here, there) =
            (source.buckets[no as usize].rows, destination.buckets[no as usize].rows);
        let rows = here.saturating_add(there);
        let fits = held.saturating_add(rows) <= ROWS_PER_PASS;
        if !fits && (passes.look_at.len() == PASSES_MAX || rows > ROWS_PER_PASS) {
            passes.missing += here.saturating_sub(there);
            passes.extra += there.saturating_sub(here);
            passes.different += u64::from(here == there);
            passes.at_least |= here > 0 && there > 0;
            continue;
        }
        match passes.look_at.last_mut().filter(|_| fits) {
            Some(pass) => {
                held += rows;
                pass.push(no);
            }
            None => {
                held = rows;
                passes.look_at.push(vec![no]);
            }
        }
    }
    passes
}

/// A row of a bucket that differs, kept to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// See [`Row::key`].
    pub key: u128,
    /// See [`Row::hash`]; 0 for a row that is not in the sample.
    pub hash: u128,
    /// See [`Row::shown`], cut.
    pub shown: Box<[u8]>,
}

impl Kept {
    /// Keeps a row.
    #[must_use]
    pub fn of(row: &Row<'_>, sample: Sample) -> Self {
        let hash = if row.is_in(sample) { row.hash } else { 0 };
        Self { key: row.key, hash, shown: Box::from(beginning(row.shown)) }
    }
}

/// What differs between all rows of some buckets at both ends, told one by one. Rows are matched by key: of several with one
/// key (a constraint that one end lacks, or no key at all) equal ones are matched first.
pub fn classify(
    mut source: Vec<Kept>,
    mut destination: Vec<Kept>,
    mut each: impl FnMut(RowDifference),
) {
    let order = |kept: &Kept| (kept.key, kept.hash);
    source.sort_unstable_by_key(order);
    destination.sort_unstable_by_key(order);
    let (mut here, mut there) = (&source[..], &destination[..]);
    loop {
        let key = match (here.first(), there.first()) {
            (Some(a), Some(b)) => a.key.min(b.key),
            (Some(only), None) | (None, Some(only)) => only.key,
            (None, None) => return,
        };
        let (ours, rest) = here.split_at(here.partition_point(|kept| kept.key == key));
        here = rest;
        let (theirs, rest) = there.split_at(there.partition_point(|kept| kept.key == key));
        there = rest;
        let (missing, extra) = unmatched(ours, theirs);
        let different = missing.min(extra);
        let Some(shown) = ours.first().or(theirs.first()).map(|kept| &kept.shown) else { return };
        for (difference, count) in [
            (Difference::Different, different),
            (Difference::Missing, missing - different),
            (Difference::Extra, extra - different),
        ] {
            if count > 0 {
                let key = String::from_utf8_lossy(shown).into_owned();
                each(RowDifference { difference, key, count });
            }
        }
    }
}

/// How many rows of each side have no equal one at the other. Both are sorted by hash.
fn unmatched(ours: &[Kept], theirs: &[Kept]) -> (u64, u64) {
    let (mut a, mut b, mut equal) = (0, 0, 0);
    while let (Some(here), Some(there)) = (ours.get(a), theirs.get(b)) {
        match here.hash.cmp(&there.hash) {
            std::cmp::Ordering::Less => a += 1,
            std::cmp::Ordering::Greater => b += 1,
            std::cmp::Ordering::Equal => {
                a += 1;
                b += 1;
                equal += 1;
            }
        }
    }
    ((ours.len() - equal) as u64, (theirs.len() - equal) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secret() -> HashKey {
        HashKey(Box::new(std::array::from_fn(|no| (no * 7 + 1) as u8)))
    }

    fn copied(rows: &[&str]) -> Vec<u8> {
        let mut data = Vec::new();
        for row in rows {
            data.push(b'd');
            data.extend_from_slice(&i32::try_from(row.len() + 4).unwrap().to_be_bytes());
            data.extend_from_slice(row.as_bytes());
        }
        data
    }

    /// All differences between two tables whose first so many columns are the key.
    fn compared(
        source: &[&str],
        destination: &[&str],
        key_columns: usize,
    ) -> Vec<(Difference, String, u64)> {
        let read = |rows: &[&str]| {
            let mut digest = Digest::new(Sample::ALL);
            let mut kept = Vec::new();
            let mut taken = Rows::new(secret(), key_columns);
            let each = |row: Row<'_>| {
                digest.add(&row);
                kept.push((row.bucket(), Kept::of(&row, Sample::ALL)));
            };
            taken.take(&copied(rows), each).unwrap();
            (digest, kept)
        };
        let ((a, ours), (b, theirs)) = (read(source), read(destination));
        let differing = a.differing(&b);
        let of = |kept: Vec<(usize, Kept)>| {
            let in_them = |no: &usize| differing.contains(&(*no as u32));
            kept.into_iter().filter(|(no, _)| in_them(no)).map(|(_, kept)| kept).collect()
        };
        let mut found = Vec::new();
        classify(of(ours), of(theirs), |row| found.push((row.difference, row.key, row.count)));
        found.sort();
        found
    }

    #[test]
    fn digests_of_parts_add_up_to_that_of_the_whole() {
        let digest = |rows: &[&str]| {
            let mut digest = Digest::new(Sample::ALL);
            let mut taken = Rows::new(secret(), 1);
            taken.take(&copied(rows), |row| digest.add(&row)).unwrap();
            digest
        };
        let mut parts = digest(&["3\tc\n"]);
        parts.add_all(&digest(&["1\ta\n", "2\tb\n"]));
        assert_eq!(parts, digest(&["1\ta\n", "2\tb\n", "3\tc\n"]));
    }

    #[test]
    fn equal_rows_in_any_order_do_not_differ() {
        assert_eq!(compared(&["1\ta\n", "2\tb\n"], &["2\tb\n", "1\ta\n"], 1), []);
        assert_eq!(compared(&["\n", "\n"], &["\n", "\n"], 0), [], "a table without columns");
    }

    #[test]
    fn each_kind_of_difference_has_its_key() {
        let source = ["1\ta\n", "2\tb\n", "3\tc\n"];
        let destination = ["1\ta \n", "3\tc\n", "4\t\\N\n"];
        let expected = [
            (Difference::Missing, "2".to_owned(), 1),
            (Difference::Extra, "4".to_owned(), 1),
            (Difference::Different, "1".to_owned(), 1),
        ];
        assert_eq!(compared(&source, &destination, 1), expected);
    }

    #[test]
    fn a_key_of_several_columns_is_all_of_them() {
        let found = compared(&["1\t2\tx\n"], &["1\t2\ty\n", "1\t3\n"], 2);
        let keys: Vec<_> = found.iter().map(|(_, key, _)| key.as_str()).collect();
        assert_eq!(keys, ["1\t3", "1\t2"]);
    }

    #[test]
    fn a_multiset_counts_what_is_there_twice() {
        let found = compared(&["a\n", "a\n", "a\n", "b\n"], &["a\n", "b\n", "b\n"], 0);
        let expected =
            [(Difference::Missing, "a".to_owned(), 2), (Difference::Extra, "b".to_owned(), 1)];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_key_that_one_end_has_twice_is_matched_with_its_equal() {
        let found = compared(&["1\ta\n"], &["1\tb\n", "1\ta\n"], 1);
        assert_eq!(found, [(Difference::Extra, "1".to_owned(), 1)]);
    }

    #[test]
    fn what_does_not_fit_into_memory_is_judged_by_its_counts() {
        let digest = |rows: &[u64]| {
            let mut digest = Digest::new(Sample::ALL);
            for (bucket, rows) in digest.buckets.iter_mut().zip(rows) {
                *bucket = Bucket { rows: *rows, sum: u128::from(*rows) };
            }
            digest
        };
        let half = ROWS_PER_PASS / 2;
        let few = passes(&digest(&[10, 20, 30]), &digest(&[11, 20, 0]));
        assert_eq!(few, Passes { look_at: vec![vec![0, 2]], ..Passes::default() });
        let many = passes(&digest(&[half; 6]), &digest(&[half - 1; 6]));
        assert_eq!(many.look_at, [[0], [1], [2], [3]]);
        assert_eq!((many.missing, many.extra, many.at_least), (2, 0, true));
        let all = passes(&digest(&[ROWS_PER_PASS + 7]), &digest(&[]));
        assert_eq!((all.look_at.len(), all.missing, all.at_least), (0, ROWS_PER_PASS + 7, false));
    }

    #[test]
    fn headers_that_cannot_be_are_refused() {
        let mut rows = Rows::new(secret(), 1);
        assert_eq!(rows.take(b"d\0\0", |_| {}), Err(BadData));
        assert_eq!(rows.take(b"d\0\0\0\x03", |_| {}), Err(BadData));
        assert_eq!(rows.take(b"c\0\0\0\x04", |_| {}), Err(BadData));
    }

    proptest! {
        /// However the data is cut between headers, the same rows come out.
        #[test]
        fn cuts_do_not_matter(
            rows in prop::collection::vec("[a-c]{0,300}\t[a-c]{0,300}\n", 0..12),
            key_columns in 0usize..4,
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
            let data = copied(&rows);
            let collect = |pieces: &[&[u8]]| {
                let mut taken = Rows::new(secret(), key_columns);
                let mut all = Vec::new();
                for piece in pieces {
                    taken.take(piece, |row| all.push((row.key, row.hash, row.shown.len()))).unwrap();
                }
                all
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
            let whole = collect(&[&data]);
            let cut = collect(&pieces);
            prop_assert_eq!(whole.len(), rows.len());
            let hashes = |all: &[(u128, u128, usize)]| {
                all.iter().map(|(key, hash, _)| (*key, *hash)).collect::<Vec<_>>()
            };
            prop_assert_eq!(hashes(&whole), hashes(&cut));
        }
    }
}
