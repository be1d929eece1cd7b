//! What a node must not forget: the log, the vote, the snapshots, and who it is.
//!
//! This module is the one place that touches sled, and it knows neither Raft nor the domain: an
//! entry is an index and bytes, a vote is bytes. It promises:
//!
//! 1. **Acknowledged is on disk.** A write is answered after sled wrote its pages *and* our own
//!    `fdatasync` of the same file returned ([`durability`]): sled 0.34's `flush` does not sync.
//! 2. **One writer.** All writes go through one thread ([`writer`]), in the order in which they
//!    came; what waits together is made durable by one sync. sled's `flush_async` can hang when it
//!    is called concurrently, so it is never called.
//! 3. **One operation, one batch.** An append, a truncation or a purge is there whole or not at all.
//! 4. **Damage is noticed.** Each value carries a checksum over its key and itself ([`value`]); all
//!    are read when the store opens, together with the log's continuity. A store that fails says
//!    so and stays closed: a node with a hole in its log may vote for what never was.
//! 5. **A failed write is the last one.** After it nobody knows what the disk holds; every later
//!    write gets the same error, and the node above stops.
//!
//! ```text
//! <data dir>/lock        held as long as a process uses the directory
//! <data dir>/log/        sled: header, vote, committed, purged, entries
//! <data dir>/snapshots/  plain files: written aside, synced, renamed
//! ```
//!
//! Values are cut into parts of at most 8 KiB. sled writes a leaf of up to 16 values as one page,
//! and moves a page larger than a quarter of a segment into a file of its own under `blobs/`, which
//! the `fdatasync` of the main file does not cover. With parts that small no page gets there.

mod directory;
pub mod durability;
mod error;
mod header;
mod index;
mod keys;
mod log;
mod scan;
pub mod snapshots;
mod value;
mod writer;

pub use self::error::{Damage, StoreError, WriteError};
pub use self::header::{ClusterId, Header, StoreId};
pub use self::log::{Closed, ENTRY_BYTES_MAX, LogStore, Mark, OpenOptions, Opened, WeakLogStore};
