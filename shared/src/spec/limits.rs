//! Bounds and defaults of a specification.

use std::ops::RangeInclusive;

/// Characters of a task's name, so that it fits into names made from it.
pub const NAME_MAX: usize = 63;
/// A task of this many copy units at once keeps a hundred large agents busy; more is a slip of the finger.
pub const JOBS: RangeInclusive<u32> = 1..=1024;
/// Smaller shards cost more to begin than to copy; larger ones lose hours when an agent dies.
pub const SHARD_SIZE_BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 40);
/// From a second, for 0 is "the default" on the wire, to a year: longer than any migration, and far from an overflow.
pub const RETRY_MS: RangeInclusive<u64> = 1000..=365 * 24 * 60 * 60 * 1000;
/// All patterns together: a quarter of what one entry of the replicated log may hold.
pub const OBJECTS_BYTES_MAX: usize = 64 * 1024;

/// Where nobody could ask for the cores.
pub const JOBS_DEFAULT: u32 = 4;
pub const RETRY_CONNECTION_MS_DEFAULT: u64 = 12 * 60 * 60 * 1000;
pub const RETRY_OTHER_MS_DEFAULT: u64 = 10 * 60 * 1000;

/// Copy units at once for a machine of this many cores: the servers at both ends do the work, and one stream keeps
/// about one core of each busy.
#[must_use]
pub fn jobs_for(cores: u32) -> u32 {
    cores.clamp(2, 16)
}

/// What a shard aims at where nothing is said: work for many, and little that is lost with an agent. A job or two have few to
/// share a table with, and a table that is one shard costs both servers much less work: the source reads a range of blocks
/// through all its buffers, but a whole table through a few, and the destination can freeze the rows of a whole table as it writes them.
/// So most tables are one shard then.
#[must_use]
pub fn shard_size_bytes_for(jobs: u32) -> u64 {
    if jobs <= 2 { 2 << 30 } else { 256 << 20 }
}
