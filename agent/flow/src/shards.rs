//! How a table is cut into shards.
//!
//! Shards aim at the size that the specification asks for, TOAST counted. Ranges and block ranges are half-open, and the
//! last one of each has no end (law S5): rows that came after planning are in it. Cutting reads a sample of blocks at
//! most, never the table.

use pgconvoy_shared::unit::{Part, PlannedShard};

/// More would be of no use to any number of agents, and a plan has to fit into memory.
pub const SHARDS_MAX: u32 = 100_000;

/// Blocks sampled for each bound: the size of a shard varies by about a quarter then.
const SAMPLED_BLOCKS_PER_SHARD: u32 = 16;

/// No table needs more of them: 16,384 blocks are 128 MiB of reading.
const SAMPLED_BLOCKS_MAX: u32 = 16_384;

/// What is known of a table's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// All of it, TOAST counted.
    pub bytes: u64,
    /// Blocks of the table itself.
    pub blocks: u32,
    /// As the statistics have it.
    pub rows: u64,
}

/// How many shards a table of this size is cut into: at least one.
#[must_use]
pub fn count(size: TableSize, shard_bytes: u64) -> u32 {
    let wanted = size.bytes.div_ceil(shard_bytes.max(1));
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, SHARDS_MAX)
}

/// The part of a table's blocks, in percent, that is read to find the bounds of so many shards; none = too few blocks to
/// tell anything.
#[must_use]
pub fn sample_percent(size: TableSize, shards: u32) -> Option<f64> {
    let wanted = shards.saturating_mul(SAMPLED_BLOCKS_PER_SHARD).min(SAMPLED_BLOCKS_MAX);
    (size.blocks > 0).then(|| (f64::from(wanted) / f64::from(size.blocks) * 100.0).min(100.0))
}

/// The whole table as one shard.
#[must_use]
pub fn whole(size: TableSize) -> Vec<PlannedShard> {
    planned(vec![Part::Whole], size)
}

/// Ranges between bounds, which ascend strictly.
#[must_use]
pub fn ranges(bounds: Vec<Box<[Box<str>]>>, size: TableSize) -> Vec<PlannedShard> {
    if bounds.is_empty() {
        return whole(size);
    }
    let from = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
    let to = bounds.iter().cloned().map(Some).chain(std::iter::once(None));
    planned(from.zip(to).map(|(from, to)| Part::Range { from, to }).collect(), size)
}

/// Block ranges of equal length.
#[must_use]
pub fn blocks(shards: u32, size: TableSize) -> Vec<PlannedShard> {
    let shards = shards.min(size.blocks);
    if shards <= 1 {
        return whole(size);
    }
    // No truncation: the quotient is at most `blocks`.
    let bound = |no: u32| (u64::from(size.blocks) * u64::from(no) / u64::from(shards)) as u32;
    let parts = (0..shards)
        .map(|no| Part::Blocks { from: bound(no), to: (no + 1 < shards).then(|| bound(no + 1)) });
    planned(parts.collect(), size)
}

/// Shares bytes and rows out evenly; what does not divide goes to the first ones.
fn planned(parts: Vec<Part>, size: TableSize) -> Vec<PlannedShard> {
    let count = parts.len() as u64;
    let share = |total: u64, no: u64| total / count + u64::from(no < total % count);
    (0..)
        .zip(parts)
        .map(|(no, part)| PlannedShard {
            part,
            bytes: share(size.bytes, no),
            rows: share(size.rows, no),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn size(bytes: u64, blocks: u32) -> TableSize {
        TableSize { bytes, blocks, rows: 1_000 }
    }

    #[test]
    fn small_tables_are_one_shard() {
        assert_eq!(count(size(0, 0), 256 * MIB), 1);
        assert_eq!(count(size(256 * MIB, 1), 256 * MIB), 1);
        assert_eq!(count(size(256 * MIB + 1, 1), 256 * MIB), 2);
        assert_eq!(count(size(u64::MAX, 1), 1), SHARDS_MAX);
    }

    #[test]
    fn the_sample_stays_small() {
        assert_eq!(sample_percent(size(0, 0), 4), None);
        assert_eq!(sample_percent(size(MIB, 10), 4), Some(100.0));
        let huge = sample_percent(size(u64::MAX, u32::MAX), SHARDS_MAX).expect("it has blocks");
        assert!(huge * f64::from(u32::MAX) / 100.0 <= f64::from(SAMPLED_BLOCKS_MAX) + 1.0);
    }

    #[test]
    fn ranges_meet_at_their_bounds_and_are_open_at_the_ends() {
        let bound = |text: &str| Box::from([Box::from(text)]);
        let shards = ranges(vec![bound("f"), bound("m")], size(9, 1));
        let parts: Vec<Part> = shards.into_iter().map(|shard| shard.part).collect();
        let expected = [(None, Some("f")), (Some("f"), Some("m")), (Some("m"), None)]
            .map(|(from, to)| Part::Range { from: from.map(bound), to: to.map(bound) });
        assert_eq!(parts, expected);
    }

    proptest! {
        /// Every block is in exactly one shard, also those that are added later, and nothing of the size is lost.
        #[test]
        fn blocks_are_cut_without_gap(blocks_of in 0u32.., shards in 1u32..5_000, bytes: u64) {
            let cut = blocks(shards, size(bytes, blocks_of));
            prop_assert_eq!(cut.iter().map(|shard| u128::from(shard.bytes)).sum::<u128>(), u128::from(bytes));
            let mut next = Some(0);
            for shard in cut {
                match shard.part {
                    Part::Blocks { from, to } => {
                        prop_assert_eq!(next, Some(from));
                        prop_assert!(to.is_none_or(|to| to > from));
                        next = to;
                    }
                    Part::Whole => next = None,
                    Part::Range { .. } => prop_assert!(false),
                }
            }
            prop_assert_eq!(next, None);
        }
    }
}
