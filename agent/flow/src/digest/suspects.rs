//! Rows that differ while the destination follows the source, and that are looked at again.
//!
//! A row may differ because it was changed a moment ago. So each look reads it at the source, and then at the destination once
//! all is there that the source had committed by then. A row that is the same in any look is the same. One that is twice
//! found in the same version, at both ends, stands still and differs: the same values are not enough, for a row that is changed to
//! and fro may be caught with other ones at each end as often as it is looked at. What is still found in other ways after all looks
//! *moves*: nobody can say that it is the same, nor that it differs.

use std::collections::BTreeMap;

use pgconvoy_shared::verify::{LISTED_BYTES_MAX, RowDifference};

use super::Kept;
use super::difference::{classify, of_each_key};

/// So often a row is looked at.
pub const LOOKS_MAX: u32 = 8;

/// The rows that are to be looked at again.
#[derive(Debug, Default)]
pub struct Suspects {
    rows: BTreeMap<u128, Suspect>,
}

#[derive(Debug)]
struct Suspect {
    shown: Box<[u8]>,
    /// What the last look found at the source and at the destination: hashes and versions.
    found: Option<[Vec<(u128, u32)>; 2]>,
}

impl Suspects {
    /// Takes in what differs of all rows of some buckets, read before anything was waited for.
    pub fn suspect(&mut self, source: Vec<Kept>, destination: Vec<Kept>) {
        of_each_key(source, destination, |ours, theirs| {
            if let Some(first) = ours.first().or(theirs.first())
                && hashes(ours) != hashes(theirs)
            {
                let suspect = Suspect { shown: first.shown.clone(), found: None };
                self.rows.insert(first.key, suspect);
            }
        });
    }

    /// Takes a look in: all rows with the keys of suspects, at both ends. What turns out to differ is told, and is no
    /// suspect any more; nor is what is the same.
    pub fn look(
        &mut self,
        source: Vec<Kept>,
        destination: Vec<Kept>,
        mut differs: impl FnMut(RowDifference),
    ) {
        let mut found: BTreeMap<u128, [Vec<Kept>; 2]> = BTreeMap::new();
        for (end, rows) in [source, destination].into_iter().enumerate() {
            for row in rows {
                found.entry(row.key).or_default()[end].push(row);
            }
        }
        self.rows.retain(|key, suspect| {
            let [mut ours, mut theirs] = found.remove(key).unwrap_or_default();
            for rows in [&mut ours, &mut theirs] {
                rows.sort_unstable_by_key(|row| (row.hash, row.version));
            }
            if hashes(&ours) == hashes(&theirs) {
                return false;
            }
            let now = [versions(&ours), versions(&theirs)];
            if suspect.found.as_ref() == Some(&now) {
                classify(ours, theirs, &mut differs);
                return false;
            }
            suspect.found = Some(now);
            true
        });
    }

    /// Whether nothing is left to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many there are, by key.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Whether a row is one.
    #[must_use]
    pub fn holds(&self, key: u128) -> bool {
        self.rows.contains_key(&key)
    }

    /// The hashes of their keys.
    #[must_use]
    pub fn keys(&self) -> Vec<u128> {
        self.rows.keys().copied().collect()
    }

    /// The values of their keys' columns, so that they can be looked up; none = some keys are known in part only.
    #[must_use]
    pub fn values(&self, columns: usize) -> Option<Vec<Vec<String>>> {
        let of = |suspect: &Suspect| {
            let whole = columns > 0 && suspect.shown.len() < LISTED_BYTES_MAX;
            key_values(std::str::from_utf8(&suspect.shown).ok().filter(|_| whole)?, columns)
        };
        self.rows.values().map(of).collect()
    }
}

fn hashes(rows: &[Kept]) -> Vec<u128> {
    rows.iter().map(|row| row.hash).collect()
}

fn versions(rows: &[Kept]) -> Vec<(u128, u32)> {
    rows.iter().map(|row| (row.hash, row.version)).collect()
}

/// The values of a key's columns, out of COPY's text; none = it is no key of so many columns.
#[must_use]
pub fn key_values(text: &str, columns: usize) -> Option<Vec<String>> {
    let values: Option<Vec<String>> = text.split('\t').map(unescaped).collect();
    values.filter(|values| values.len() == columns)
}

/// A value out of COPY's text; none = a null, or no such text.
fn unescaped(text: &str) -> Option<String> {
    let mut value = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        value.push(match next {
            '\\' => match rest.next()? {
                'b' => '\x08',
                'f' => '\x0c',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\x0b',
                'N' => return None,
                other => other,
            },
            other => other,
        });
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::verify::Difference;

    use super::*;

    fn rows(rows: &[(u128, u128)]) -> Vec<Kept> {
        let kept = |(key, hash): &(u128, u128)| Kept {
            key: *key,
            hash: *hash,
            version: 0,
            shown: key.to_string().into_bytes().into(),
        };
        rows.iter().map(kept).collect()
    }

    fn look(
        suspects: &mut Suspects,
        source: &[(u128, u128)],
        destination: &[(u128, u128)],
    ) -> Vec<(Difference, String)> {
        let mut differs = Vec::new();
        suspects.look(rows(source), rows(destination), |row| {
            differs.push((row.difference, row.key));
        });
        differs
    }

    #[test]
    fn what_arrives_is_the_same_what_stands_still_differs_and_the_rest_moves() {
        let mut suspects = Suspects::default();
        let source = [(1, 10), (2, 20), (3, 30), (4, 40)];
        suspects.suspect(rows(&source), rows(&[(1, 10), (2, 19), (3, 29)]));
        assert_eq!(suspects.keys(), [2, 3, 4], "row 1 is the same");
        assert_eq!(
            suspects.values(1),
            Some([["2"], ["3"], ["4"]].map(|v| v.map(String::from).to_vec()).to_vec())
        );

        let first = look(&mut suspects, &[(2, 20), (3, 31), (4, 40)], &[(2, 20), (3, 30)]);
        assert_eq!((first, suspects.keys()), (vec![], vec![3, 4]), "row 2 has arrived");
        let second = look(&mut suspects, &[(3, 32), (4, 40)], &[(3, 31)]);
        assert_eq!(second, [(Difference::Missing, "4".to_owned())]);
        assert_eq!(suspects.keys(), [3], "it moves");
        assert!(look(&mut suspects, &[], &[]).is_empty());
        assert!(suspects.is_empty(), "deleted at both ends");
    }

    /// It was 10 at the source each time it was looked at, and 20 at the destination, a moment later.
    #[test]
    fn what_is_changed_to_and_fro_moves() {
        let version = |rows: Vec<Kept>, version| -> Vec<Kept> {
            rows.into_iter().map(|row| Kept { version, ..row }).collect()
        };
        for [source, destination] in
            [[&[(1, 10)][..], &[(1, 20)][..]], [&[(1, 10)], &[]], [&[], &[(1, 10)]]]
        {
            let mut suspects = Suspects::default();
            suspects.suspect(rows(source), rows(destination));
            for turn in [5, 7, 7] {
                assert_eq!(suspects.keys(), [1]);
                let mut found = 0;
                suspects.look(
                    version(rows(source), turn),
                    version(rows(destination), turn + 1),
                    |_| found += 1,
                );
                assert_eq!(found, u32::from(suspects.is_empty()));
            }
            assert!(suspects.is_empty(), "at last it stood still");
        }
    }

    #[test]
    fn rows_without_a_key_are_counted() {
        let mut suspects = Suspects::default();
        suspects.suspect(rows(&[(7, 7), (7, 7)]), rows(&[(7, 7)]));
        for _ in 0..2 {
            assert_eq!(suspects.len(), 1);
            let found = look(&mut suspects, &[(7, 7), (7, 7)], &[(7, 7)]);
            assert_eq!(found.len(), usize::from(suspects.is_empty()));
        }
        assert!(suspects.is_empty());
        suspects.suspect(rows(&[(7, 7)]), vec![]);
        assert_eq!(suspects.values(0), None, "there is no key to look it up by");
    }

    #[test]
    fn a_key_is_looked_up_by_its_values() {
        let mut suspects = Suspects::default();
        let shown =
            |text: &str| Kept { key: 1, hash: 1, version: 0, shown: text.as_bytes().into() };
        suspects.suspect(vec![shown(r"a\tb\\").clone()], vec![]);
        assert_eq!(suspects.values(1), Some(vec![vec!["a\tb\\".to_owned()]]));
        assert_eq!(suspects.values(2), None);
        suspects.suspect(vec![shown(&"x".repeat(LISTED_BYTES_MAX))], vec![]);
        assert_eq!(suspects.values(1), None, "it may be longer");
    }
}
