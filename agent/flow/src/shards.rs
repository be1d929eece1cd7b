//! How a table is cut into shards.
//!
//! Shards aim at the size that the specification asks for, TOAST counted: it is bytes that take time, and neither rows nor
//! blocks hold equally many of them. So a sample of blocks is weighed, and shards weigh the same. Nothing is taken from the
//! statistics, which may be stale or missing. Ranges and block ranges are half-open, and the last one of each has no end
//! (law S5): rows that came after planning are in it. Cutting reads that sample at most, never the table.

use pgconvoy_shared::unit::{Part, PlannedShard};

/// More would be of no use to any number of agents, and a plan has to fit into memory.
pub const SHARDS_MAX: u32 = 100_000;

/// Blocks sampled for each shard: where all blocks are alike, the size of a shard varies by an eighth then.
const SAMPLED_BLOCKS_PER_SHARD: u32 = 64;

/// Where few blocks hold most of a table, they have to be met: of one block in a thousand, these meet some. 32 MiB of
/// reading, less than a shard by default.
const SAMPLED_BLOCKS_MIN: u32 = 4_096;

/// No table needs more of them: 16,384 blocks are 128 MiB of reading.
const SAMPLED_BLOCKS_MAX: u32 = 16_384;

/// Reading a block costs this much, however few rows are in it.
const BLOCK_BYTES: u64 = 8_192;

/// A sampled block speaks for the blocks around it, up to so many times the mean distance between two of them. Farther from
/// any there are no rows: blocks without rows are in no sample.
const REACH: u64 = 4;

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

/// How many shards a table of so many bytes is cut into: at least one.
#[must_use]
pub fn count(bytes: u64, shard_bytes: u64) -> u32 {
    let wanted = bytes.div_ceil(shard_bytes.max(1));
    u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, SHARDS_MAX)
}

/// The part of a table's blocks, in percent, that is read to find the bounds of so many shards; none = too few blocks to
/// tell anything.
#[must_use]
pub fn sample_percent(size: TableSize, shards: u32) -> Option<f64> {
    let wanted = shards
        .saturating_mul(SAMPLED_BLOCKS_PER_SHARD)
        .clamp(SAMPLED_BLOCKS_MIN, SAMPLED_BLOCKS_MAX);
    (size.blocks > 0).then(|| (f64::from(wanted) / f64::from(size.blocks) * 100.0).min(100.0))
}

/// Whether blocks have to be weighed before they are cut. All that is beside the table's own blocks is mostly TOAST: where
/// that is less than a shard, equally many blocks are shards of at most twice the size, wherever it lies.
#[must_use]
pub fn blocks_may_differ(size: TableSize, shard_bytes: u64) -> bool {
    size.bytes.saturating_sub(u64::from(size.blocks) * BLOCK_BYTES) > shard_bytes
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

/// A block of the sample, and what its rows hold, TOAST counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledBlock {
    /// Its number.
    pub block: u32,
    /// Bytes of its rows.
    pub bytes: u64,
}

/// Block ranges that weigh the same, as far as a sample tells, which ascends; without one, of equal length.
#[must_use]
pub fn blocks(shards: u32, size: TableSize, sample: &[SampledBlock]) -> Vec<PlannedShard> {
    let bounds = block_bounds(shards.min(size.blocks), &stretches(size.blocks, sample));
    if bounds.is_empty() {
        return whole(size);
    }
    let from = std::iter::once(0).chain(bounds.iter().copied());
    let to = bounds.iter().copied().map(Some).chain(std::iter::once(None));
    planned(from.zip(to).map(|(from, to)| Part::Blocks { from, to }).collect(), size)
}

/// Blocks that are taken to weigh the same, from the end of the stretch before.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// The block after its last one.
    end: u32,
    /// Of each of its blocks.
    weight: u64,
}

/// Each sampled block speaks for those that are nearer to it than to another one, within its reach.
fn stretches(blocks: u32, sample: &[SampledBlock]) -> Vec<Stretch> {
    let empty = |end| Stretch { end, weight: BLOCK_BYTES };
    let sample: Vec<_> = sample.iter().filter(|sampled| sampled.block < blocks).collect();
    // No truncation, here and below: bounded by `blocks`.
    let reach = (u64::from(blocks) * REACH / (sample.len() as u64).max(1)) as u32;
    let mut stretches = Vec::with_capacity(sample.len() + 1);
    let mut begin = 0;
    for (nth, sampled) in sample.iter().enumerate() {
        let from = sampled.block.saturating_sub(reach);
        if begin < from {
            stretches.push(empty(from));
        }
        let nearer = match sample.get(nth + 1) {
            Some(next) => sampled.block + (next.block - sampled.block) / 2 + 1,
            None => blocks,
        };
        begin = nearer.min(sampled.block.saturating_add(reach).saturating_add(1)).min(blocks);
        stretches.push(Stretch { end: begin, weight: sampled.bytes.max(BLOCK_BYTES) });
    }
    if begin < blocks {
        stretches.push(empty(blocks));
    }
    stretches
}

/// Where the second and each later shard begins; strictly ascending, so fewer than wanted where single blocks weigh more
/// than a shard.
fn block_bounds(shards: u32, stretches: &[Stretch]) -> Vec<u32> {
    let begins = std::iter::once(0).chain(stretches.iter().map(|stretch| stretch.end));
    let weighed = begins.zip(stretches).map(|(begin, stretch)| (begin, *stretch));
    let weight =
        |begin: u32, stretch: Stretch| u128::from(stretch.end - begin) * u128::from(stretch.weight);
    let end = stretches.last().map_or(0, |stretch| stretch.end);
    let total: u128 = weighed.clone().map(|(begin, stretch)| weight(begin, stretch)).sum();
    let mut bounds = Vec::new();
    let mut before = 0;
    let mut shard = 1;
    for (begin, stretch) in weighed {
        let after = before + weight(begin, stretch);
        while shard < shards {
            let wanted = total * u128::from(shard) / u128::from(shards);
            if wanted > after {
                break;
            }
            let blocks = (wanted - before).div_ceil(u128::from(stretch.weight)) as u32;
            let bound = begin + blocks;
            if bound > bounds.last().copied().unwrap_or(0) && bound < end {
                bounds.push(bound);
            }
            shard += 1;
        }
        before = after;
    }
    bounds
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
        assert_eq!(count(0, 256 * MIB), 1);
        assert_eq!(count(256 * MIB, 256 * MIB), 1);
        assert_eq!(count(256 * MIB + 1, 256 * MIB), 2);
        assert_eq!(count(u64::MAX, 1), SHARDS_MAX);
    }

    #[test]
    fn only_what_is_outside_of_the_blocks_makes_them_differ() {
        let of = |mib: u64| size(mib * MIB, 1 << 17);
        assert!(!blocks_may_differ(of(1024), 256 * MIB));
        assert!(!blocks_may_differ(of(1024 + 256), 256 * MIB));
        assert!(blocks_may_differ(of(1024 + 257), 256 * MIB));
    }

    #[test]
    fn the_sample_stays_small() {
        assert_eq!(sample_percent(size(0, 0), 4), None);
        assert_eq!(sample_percent(size(MIB, 10), 4), Some(100.0));
        assert!(sample_percent(size(MIB, 1_000_000), 2).expect("it has blocks") < 0.5);
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

    /// A table of stretches of blocks, each block of one with as many bytes.
    fn table(stretches: &[(u32, u64)]) -> Vec<u64> {
        let blocks = stretches.iter().flat_map(|(blocks, bytes)| {
            std::iter::repeat_n(*bytes, usize::try_from(*blocks).expect("small"))
        });
        blocks.collect()
    }

    /// As `tablesample system` takes blocks: each with the same chance, for itself. Blocks without rows are not seen.
    fn sampled(table: &[u64], percent: f64, seed: u64) -> Vec<SampledBlock> {
        let chance = |block: u64| {
            let mixed = (block ^ seed).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 29)) >> 11) as f64 / (1u64 << 53) as f64 * 100.0
        };
        let blocks = (0u32..).zip(table).filter(|(_, bytes)| **bytes > 0);
        let taken = blocks.filter(|(block, _)| chance((*block).into()) < percent);
        taken.map(|(block, bytes)| SampledBlock { block, bytes: *bytes }).collect()
    }

    /// What reading these blocks costs.
    fn bytes_of(table: &[u64]) -> u64 {
        table.iter().map(|bytes| BLOCK_BYTES.max(*bytes)).sum()
    }

    fn heaviest(table: &[u64], shards: &[PlannedShard]) -> u64 {
        let bytes = |part: &Part| match part {
            Part::Blocks { from, to } => {
                let to = to.map_or(table.len(), |to| to as usize);
                bytes_of(&table[*from as usize..to])
            }
            Part::Whole | Part::Range { .. } => bytes_of(table),
        };
        shards.iter().map(|shard| bytes(&shard.part)).max().unwrap_or(0)
    }

    #[test]
    fn where_one_block_in_a_hundred_holds_nine_tenths_of_the_bytes_shards_weigh_the_same() {
        let (light, heavy) = (8_000, 8_000 * 900);
        let table = table(&[(60_000, light), (1_000, heavy), (39_000, light)]);
        let bytes = bytes_of(&table);
        let size = TableSize { bytes, blocks: 100_000, rows: 0 };
        for seed in 0..20 {
            let percent = sample_percent(size, 30).expect("it has blocks");
            let shards = blocks(30, size, &sampled(&table, percent, seed));
            assert!(heaviest(&table, &shards) < bytes / 30 * 4, "seed {seed}");
        }
        let blind = blocks(30, size, &[]);
        assert!(heaviest(&table, &blind) > bytes / 30 * 20, "equal lengths would not do");
    }

    #[test]
    fn a_void_of_deleted_rows_weighs_what_reading_it_costs() {
        let table = table(&[(10_000, 80_000), (80_000, 0), (10_000, 80_000)]);
        let size = TableSize { bytes: bytes_of(&table), blocks: 100_000, rows: 0 };
        let shards = blocks(16, size, &sampled(&table, 5.0, 7));
        assert_eq!(shards.len(), 16);
        assert!(heaviest(&table, &shards) < size.bytes / 16 * 2);
    }

    #[test]
    fn a_block_heavier_than_a_shard_is_one_by_itself() {
        let table = table(&[(5, 1_000_000_000)]);
        let size = TableSize { bytes: 5_000_000_000, blocks: 5, rows: 0 };
        assert_eq!(blocks(20, size, &sampled(&table, 100.0, 0)).len(), 5);
    }

    proptest! {
        /// Every block is in exactly one shard, also those that are added later, and nothing of the size is lost.
        #[test]
        fn blocks_are_cut_without_gap(
            blocks_of in 0u32..,
            shards in 1u32..5_000,
            bytes: u64,
            sample in prop::collection::btree_map(any::<u32>(), any::<u64>(), 0..50),
        ) {
            let sample: Vec<_> =
                sample.into_iter().map(|(block, bytes)| SampledBlock { block, bytes }).collect();
            let cut = blocks(shards, size(bytes, blocks_of), &sample);
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

        /// However bytes lie on the disk, within what a sample can see: no shard has more than four times its share.
        #[test]
        fn no_shard_is_four_times_as_heavy_as_it_should_be(
            stretches in prop::collection::vec((500u32..20_000, 0u64..2_000_000), 1..6),
            wanted in 2u32..40,
            seed: u64,
        ) {
            let table = table(&stretches);
            let bytes = bytes_of(&table);
            let block = table.iter().max().copied().unwrap_or(0);
            let size = TableSize { bytes, blocks: table.len() as u32, rows: 0 };
            let percent = sample_percent(size, wanted).unwrap();
            let shards = blocks(wanted, size, &sampled(&table, percent, seed));
            prop_assert!(heaviest(&table, &shards) <= bytes / u64::from(wanted) * 4 + block);
        }
    }
}
