//! The words of verification: what is compared, and what comes of it.
//!
//! Rows are *missing* (the destination lacks them), *extra* (only the destination has them) or *different* (the same key, not
//! the same row). A table without a key is a multiset: its rows are missing or extra, with a count. Beside a stream a row that
//! does not rest long enough to be judged is *moving*. What could not be compared
//! is named with the reason; where the reason is itself a difference between the two ends, it counts as one.

use serde::{Deserialize, Serialize};

use crate::name::QualifiedName;

/// Differences listed for one table, or of the schema; all are counted.
pub const LISTED_MAX: usize = 100;

/// A key, or a statement, is listed up to so many bytes.
pub const LISTED_BYTES_MAX: usize = 400;

/// What a task is there for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To move a database.
    #[default]
    Migrate,
    /// To look whether that can work, and nothing else.
    Precheck,
    /// To compare two databases. Nothing is written to either.
    Verify,
}

/// How rows are verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifySettings {
    /// Which rows are compared.
    pub sample: Sample,
}

/// The part of the rows that is compared, in hundredths of a percent. All are read and counted in any case; which are compared
/// is decided by their key, so it is the same rows at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sample(u32);

/// No such part of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sample is between 0.01 and 100 percent of the rows")]
pub struct BadSample;

impl Sample {
    /// Every row.
    pub const ALL: Self = Self(Self::WHOLE);
    const WHOLE: u32 = 10_000;

    /// From hundredths of a percent: 1 to 10,000.
    pub fn hundredths(hundredths: u32) -> Result<Self, BadSample> {
        if (1..=Self::WHOLE).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(BadSample) }
    }

    /// In hundredths of a percent.
    #[must_use]
    pub fn as_hundredths(self) -> u32 {
        self.0
    }

    /// Whether a row whose key has this hash is in the sample.
    #[must_use]
    pub fn takes(self, hash: u64) -> bool {
        self.0 == Self::WHOLE || hash % u64::from(Self::WHOLE) < u64::from(self.0)
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::ALL
    }
}

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// At the source only.
    Missing,
    /// At the destination only.
    Extra,
    /// At both, and not the same.
    Different,
}

impl Difference {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
        }
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDifference {
    /// How.
    pub difference: Difference,
    /// Its key as COPY's text has it, columns separated by tabs; the whole row where the table has none.
    pub key: String,
    /// How many such rows; more than one only without a key.
    pub count: u64,
}

/// What came of comparing some rows of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsCompared {
    /// Rows read at the source.
    pub source_rows: u64,
    /// Rows read at the destination.
    pub destination_rows: u64,
    /// Bytes read at the source, as COPY's text.
    pub bytes: u64,
    /// Rows of the source that were compared: all, or those of the sample.
    pub compared: u64,
    /// Rows at the source only.
    pub missing: u64,
    /// Rows at the destination only.
    pub extra: u64,
    /// Rows that are not the same at both ends.
    pub different: u64,
    /// Rows that were changed again and again while a stream was followed: whether they are the same is not known.
    pub moving: u64,
    /// So much differs that not all of it was looked at: the three figures are lower bounds.
    pub at_least: bool,
    /// Some of the rows that differ, at most [`LISTED_MAX`].
    pub listed: Vec<RowDifference>,
    /// Where agents list all of them, `agent:path`; at most [`LISTED_MAX`].
    pub lists: Vec<String>,
    /// Why nothing was compared.
    pub not_compared: Option<NotCompared>,
    /// The root of its partitions, where these are compared as one table: the figures stand with the first of them.
    pub through: Option<QualifiedName>,
}

impl RowsCompared {
    /// Rows found to differ.
    #[must_use]
    pub fn differences(&self) -> u64 {
        let rows = self.missing.saturating_add(self.extra).saturating_add(self.different);
        rows.saturating_add(u64::from(self.not_compared.as_ref().is_some_and(|why| why.differs)))
    }

    /// Rows found to be the same.
    #[must_use]
    pub fn same(&self) -> u64 {
        [self.missing, self.different, self.moving]
            .into_iter()
            .fold(self.compared, u64::saturating_sub)
    }

    /// Adds what came of other rows of the same table.
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.source_rows, other.source_rows),
            (&mut self.destination_rows, other.destination_rows),
            (&mut self.bytes, other.bytes),
            (&mut self.compared, other.compared),
            (&mut self.missing, other.missing),
            (&mut self.extra, other.extra),
            (&mut self.different, other.different),
            (&mut self.moving, other.moving),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.at_least |= other.at_least;
        let room = LISTED_MAX.saturating_sub(self.listed.len());
        self.listed.extend(other.listed.iter().take(room).cloned());
        let room = LISTED_MAX.saturating_sub(self.lists.len());
        self.lists.extend(other.lists.iter().take(room).cloned());
        if self.not_compared.is_none() {
            self.not_compared.clone_from(&other.not_compared);
        }
    }
}

/// Why the rows of a table were not compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotCompared {
    /// In a sentence.
    pub reason: String,
    /// The reason is a difference between the two ends: a table or a column that only one of them has.
    pub differs: bool,
}

/// An object of the schema, or a sequence's value, that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectDifference {
    /// How.
    pub difference: Difference,
    /// `INDEX public.orders_day_idx`, `SEQUENCE VALUE public.orders_id_seq`.
    pub object: String,
    /// What the source has; empty = nothing.
    pub source: String,
    /// What the destination has; empty = nothing.
    pub destination: String,
}

/// What came of comparing objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectsCompared {
    /// Objects at the source.
    pub objects: u64,
    /// Those that differ, extra ones included.
    pub differences: u64,
    /// Some of them, at most [`LISTED_MAX`].
    pub listed: Vec<ObjectDifference>,
    /// Sequences that went on at the source since they were set, which is no difference.
    pub went_on: u64,
    /// What could not be compared, which is no difference; at most [`LISTED_MAX`].
    pub skipped: Vec<ObjectSkipped>,
}

/// Something that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSkipped {
    /// `ROLE app`.
    pub object: String,
    /// In a sentence.
    pub reason: String,
}

impl ObjectsCompared {
    /// Names one more thing that could not be compared, if there is room.
    pub fn skip(&mut self, object: &str, reason: String) {
        if self.skipped.len() < LISTED_MAX {
            self.skipped.push(ObjectSkipped { object: shortened(object), reason });
        }
    }

    /// Takes one more difference in; lists it if there is room, its texts cut to [`LISTED_BYTES_MAX`].
    pub fn push(&mut self, difference: ObjectDifference) {
        self.differences = self.differences.saturating_add(1);
        if self.listed.len() < LISTED_MAX {
            let ObjectDifference { difference, object, source, destination } = difference;
            let source = shortened(&source);
            let destination = shortened(&destination);
            self.listed.push(ObjectDifference { difference, object, source, destination });
        }
    }
}

/// A text cut to [`LISTED_BYTES_MAX`], which then ends in `…`.
#[must_use]
pub fn shortened(text: &str) -> String {
    if text.len() <= LISTED_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=LISTED_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_part_of_the_rows() {
        assert_eq!(Sample::hundredths(0), Err(BadSample));
        assert_eq!(Sample::hundredths(10_001), Err(BadSample));
        let tenth = Sample::hundredths(1_000).expect("10 %");
        assert_eq!((0..100_000).filter(|hash| tenth.takes(*hash)).count(), 10_000);
        assert!((0..100_000).all(|hash| Sample::ALL.takes(hash)));
    }

    #[test]
    fn sums_keep_a_bounded_list() {
        let row = RowDifference { difference: Difference::Extra, key: "1".into(), count: 1 };
        let some = RowsCompared { extra: 60, listed: vec![row; 60], ..RowsCompared::default() };
        let mut sum = RowsCompared::default();
        sum.add(&some);
        sum.add(&some);
        assert_eq!((sum.extra, sum.differences(), sum.listed.len()), (120, 120, LISTED_MAX));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&"ä".repeat(LISTED_BYTES_MAX));
        assert!(cut.len() <= LISTED_BYTES_MAX + '…'.len_utf8() && cut.ends_with("ä…"));
    }
}
