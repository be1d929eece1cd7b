//! Copying one shard: exactly once, whoever dies.
//!
//! ```text
//!  destination half                                source half
//!  1. end older owners' sessions (O5)              a. end older owners' sessions (O5)
//!  2. begin; advisory lock on the shard (O2)
//!  3. fence: the plan is current (O1)
//!  4. done already? then that is the answer
//!  5. go ───────────────────────────────────────▶  b. where changes are followed, wait for the barrier (S2);
//!                                                     begin, repeatable read, read only (S4)
//!                                                  c. the task's snapshot, if there is one (S13)
//!                                                  d. lock the table; its file and columns are as planned
//!                                                  e. note the snapshot, then the WAL insert position
//!  6. a large table that is one shard: a new
//!     file, where nobody minds (O4)
//!     COPY … from stdin   ◀── opened, rows … ────  f. COPY … to stdout
//!                                                  g. CopyDone, CommandComplete, ReadyForQuery seen (O8)
//!  7. as many rows as were read? end the COPY ◀──  h. how many rows, under which snapshot
//!                                          ◀─────  i. WAL is flushed up to the noted position (S4)
//!  8. shard_progress row (O2)
//!  9. commit, which waits for the disk (O6)
//! ```
//!
//! Steps of one end between which nothing is decided are one round trip.
//!
//! A death before 9 leaves nothing, for it is one transaction; a death after it, or a lost answer to the commit, leaves a
//! row in `shard_progress` that the next owner finds in step 4. An owner that was thought dead and goes on is caught by
//! the fence, by the lock, and at last by the unique index on `shard_progress`.
//!
//! Into a file that its own transaction made, the server writes rows frozen: who reads the table later, an index build first of all, need
//! not write its pages again. Nobody else can read such a table until the copy has ended, and then also those whose
//! snapshot is older see its rows.

mod destination;
mod source;

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{CopyShard, WorkResult};

pub(super) use destination::miscounted;
pub(super) use source::see_bytes_as_they_are;

use super::link::link;
use super::{UnitContext, UnitEnd};
use crate::pg::wire::Piece;

/// Pieces under way between the halves: each of at most [`READ_BYTES`](crate::pg::wire::READ_BYTES), so 2 MiB.
const PIECES: usize = 8;

/// The destination is ready for rows.
#[derive(Debug)]
struct Go;

/// What the source half says, in this order.
#[derive(Debug)]
enum FromSource {
    /// Rows follow; text in them is in this encoding.
    Opened { encoding: Encoding },
    /// A piece of the rows.
    Data(Piece),
    /// All rows were read.
    End(ReadRows),
    /// What they show is durable at the source.
    Flushed,
}

/// How a source's text is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The server converts it.
    Utf8,
    /// The source knows none (SQL_ASCII): bytes are passed on as they are.
    Unknown,
}

/// What was read.
#[derive(Debug)]
struct ReadRows {
    rows: u64,
    bytes: u64,
    snapshot: String,
    noted_lsn: Lsn,
}

/// Copies a shard.
pub(crate) async fn run(ctx: &UnitContext, shard: CopyShard) -> Result<WorkResult, UnitEnd> {
    let (to_destination, to_source) = link(PIECES);
    let (done, ()) = tokio::try_join!(
        Box::pin(destination::half(ctx, &shard, to_source)),
        Box::pin(source::half(ctx, &shard, to_destination))
    )?;
    Ok(WorkResult::Copy(done))
}
