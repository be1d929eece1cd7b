//! What differs between rows of both ends, matched by key.

use pgconvoy_shared::verify::{Difference, RowDifference, Sample};

use super::{Row, beginning};

/// A row of a bucket that differs, kept to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// See [`Row::key`].
    pub key: u128,
    /// See [`Row::hash`]; 0 for a row that is not in the sample.
    pub hash: u128,
    /// See [`Row::version`].
    pub version: u32,
    /// See [`Row::shown`], cut.
    pub shown: Box<[u8]>,
}

impl Kept {
    /// Keeps a row.
    #[must_use]
    pub fn of(row: &Row<'_>, sample: Sample) -> Self {
        let hash = if row.is_in(sample) { row.hash } else { 0 };
        Self { key: row.key, hash, version: row.version, shown: Box::from(beginning(row.shown)) }
    }
}

/// What differs between all rows of some buckets at both ends, told one by one. Rows are matched by key: of several with one
/// key (a constraint that one end lacks, or no key at all) equal ones are matched first.
pub fn classify(source: Vec<Kept>, destination: Vec<Kept>, mut each: impl FnMut(RowDifference)) {
    of_each_key(source, destination, |ours, theirs| {
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
    });
}

/// The rows of each key at both ends, sorted by hash.
pub(super) fn of_each_key(
    mut source: Vec<Kept>,
    mut destination: Vec<Kept>,
    mut each: impl FnMut(&[Kept], &[Kept]),
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
        each(ours, theirs);
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
    use super::super::tests::{copied, secret};
    use super::super::{Digest, Focus, Rows};
    use super::*;

    /// All differences between two tables whose first so many columns are the key.
    fn compared(
        source: &[&str],
        destination: &[&str],
        key_columns: usize,
    ) -> Vec<(Difference, String, u64)> {
        let read = |rows: &[&str], focus: &Focus| {
            let mut digest = Digest::new(Sample::ALL, focus);
            let mut kept = Vec::new();
            let mut taken = Rows::new(secret(), key_columns);
            let each = |row: Row<'_>| {
                if focus.holds(&row) {
                    digest.add(&row);
                    kept.push(Kept::of(&row, Sample::ALL));
                }
            };
            taken.take(&copied(rows), each).unwrap();
            (digest, kept)
        };
        let ((a, _), (b, _)) = (read(source, &Focus::all()), read(destination, &Focus::all()));
        let focus = Focus::all().narrowed(&a.differing(&b));
        let ((_, ours), (_, theirs)) = (read(source, &focus), read(destination, &focus));
        let mut found = Vec::new();
        classify(ours, theirs, |row| found.push((row.difference, row.key, row.count)));
        found.sort();
        found
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
}
