//! Rows added up in buckets, and what is done about buckets that differ.

use pgconvoy_shared::verify::Sample;

use super::Row;

/// Of a digest: 16,384 buckets are half a mebibyte, and some hundred rows each in a shard of the usual size.
pub const BUCKETS: usize = 1 << 14;

/// Bits of a key's hash that say in which bucket of one digest the row is.
const BUCKET_BITS: usize = BUCKETS.ilog2() as usize;

/// Rows of a bucket: how many, and the sum of the hashes of those in the sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    pub rows: u64,
    pub sum: u128,
}

/// Which rows are looked at: those that lie in a bucket that differed, in each digest so far. Each digest spreads rows over
/// its buckets by other bits of their keys than those before.
#[derive(Debug, Clone, Default)]
pub struct Focus {
    levels: Vec<Box<[bool]>>,
}

impl Focus {
    /// All rows.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Of these rows, those that lie in some buckets of their digest.
    #[must_use]
    pub fn narrowed(mut self, buckets: &[u32]) -> Self {
        let mut wanted = vec![false; BUCKETS].into_boxed_slice();
        for bucket in buckets {
            if let Some(wanted) = wanted.get_mut(*bucket as usize) {
                *wanted = true;
            }
        }
        self.levels.push(wanted);
        self
    }

    /// How it was narrowed: the buckets of each digest.
    pub fn levels(&self) -> impl Iterator<Item = Vec<u32>> {
        self.levels.iter().map(|wanted| {
            let numbered = (0u32..).zip(wanted).filter(|(_, wanted)| **wanted);
            numbered.map(|(no, _)| no).collect()
        })
    }

    /// Whether a row is one of them.
    #[must_use]
    pub fn holds(&self, row: &Row<'_>) -> bool {
        self.levels.iter().enumerate().all(|(level, wanted)| wanted[bucket(row, level)])
    }
}

/// Where a row is counted in the digest after so many others.
fn bucket(row: &Row<'_>, level: usize) -> usize {
    // Other bits than those that decide on the sample. No truncation: it is less than BUCKETS.
    (row.key >> (64 + level * BUCKET_BITS)) as usize % BUCKETS
}

/// The rows of one end, or those in focus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// [`BUCKETS`] of them.
    pub buckets: Box<[Bucket]>,
    /// All rows.
    pub rows: u64,
    /// Those in the sample.
    pub compared: u64,
    sample: Sample,
    /// How often the focus was narrowed before.
    level: usize,
}

impl Digest {
    /// Of no rows yet; rows in this focus may be added.
    #[must_use]
    pub fn new(sample: Sample, focus: &Focus) -> Self {
        let buckets = vec![Bucket::default(); BUCKETS].into_boxed_slice();
        Self { buckets, rows: 0, compared: 0, sample, level: focus.levels.len() }
    }

    /// Adds a row.
    pub fn add(&mut self, row: &Row<'_>) {
        let bucket = &mut self.buckets[bucket(row, self.level)];
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

/// Digests of one comparison: as many as the bits of a key's hash are good for, less one for the pass that looks at rows.
const DIGESTS_MAX: usize = 4;

/// The buckets whose rows are to be spread over another digest before any is looked at: where there are more than one pass
/// holds, and most buckets do not differ, another reading leaves out most of them. Nothing is in them but the rows that
/// differ and those that lie in a bucket with one by chance.
#[must_use]
pub fn narrowing(source: &Digest, destination: &Digest) -> Option<Vec<u32>> {
    let differing = source.differing(destination);
    let rows_of = |digest: &Digest| -> u64 {
        differing.iter().map(|no| digest.buckets[*no as usize].rows).sum()
    };
    let rows = rows_of(source).saturating_add(rows_of(destination));
    let pays = rows > ROWS_PER_PASS && differing.len() <= BUCKETS / 2;
    (pays && source.level + 1 < DIGESTS_MAX).then_some(differing)
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

#[cfg(test)]
mod tests {
    use super::super::Rows;
    use super::super::tests::{copied, secret};
    use super::*;

    #[test]
    fn digests_of_parts_add_up_to_that_of_the_whole() {
        let digest = |rows: &[&str]| {
            let mut digest = Digest::new(Sample::ALL, &Focus::all());
            let mut taken = Rows::new(secret(), 1);
            taken.take(&copied(rows), |row| digest.add(&row)).unwrap();
            digest
        };
        let mut parts = digest(&["3\tc\n"]);
        parts.add_all(&digest(&["1\ta\n", "2\tb\n"]));
        assert_eq!(parts, digest(&["1\ta\n", "2\tb\n", "3\tc\n"]));
    }

    #[test]
    fn what_does_not_fit_into_memory_is_judged_by_its_counts() {
        let digest = |rows: &[u64]| {
            let mut digest = Digest::new(Sample::ALL, &Focus::all());
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

    /// Rows of keys that count up, some of them told with another value.
    fn numbered(rows: u64, focus: &Focus, other: impl Fn(u64) -> bool) -> (Digest, u64) {
        let mut digest = Digest::new(Sample::ALL, focus);
        let mut taken = Rows::new(secret(), 1);
        let mut others = 0;
        for no in 0..rows {
            let value = if other(no) { 'b' } else { 'a' };
            let each = |row: Row<'_>| {
                if focus.holds(&row) {
                    others += u64::from(other(no));
                    digest.add(&row);
                }
            };
            taken.take(&copied(&[&format!("{no}\t{value}\n")]), each).unwrap();
        }
        (digest, others)
    }

    #[test]
    fn rows_of_a_large_table_are_narrowed_down_to_those_that_differ() {
        let (rows, differs) = (150_000, |no: u64| no.is_multiple_of(20));
        let read = |focus: &Focus| {
            let (ours, _) = numbered(rows, focus, |_| false);
            let (theirs, others) = numbered(rows, focus, differs);
            (ours, theirs, others)
        };
        let (ours, theirs, _) = read(&Focus::all());
        assert!(passes(&ours, &theirs).look_at.len() > 1, "it would take several passes");
        let focus = Focus::all().narrowed(&narrowing(&ours, &theirs).expect("most do not differ"));
        let (ours, theirs, others) = read(&focus);
        assert_eq!(others, rows / 20, "all that differ are in it");
        assert!(ours.rows < rows / 2, "{} rows are left", ours.rows);
        let passes = passes(&ours, &theirs);
        assert_eq!((narrowing(&ours, &theirs), passes.look_at.len()), (None, 1));
        assert!(!passes.at_least);
    }

    #[test]
    fn where_most_buckets_differ_narrowing_is_of_no_use() {
        let (ours, _) = numbered(100_000, &Focus::all(), |_| false);
        let (theirs, _) = numbered(100_000, &Focus::all(), |_| true);
        assert_eq!(narrowing(&ours, &theirs), None);
    }
}
