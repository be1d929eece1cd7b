//! The audit: what Raft holds for done is a copy; `shard_progress` decides (law O6).
//!
//! Asked before indexes are built, and once more at the end. A shard that is missing there, because the destination was
//! restored or a synchronous standby lost, or because a crash emptied its unlogged table, is run again.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::unit::{AuditTable, WorkResult};

use super::{UnitContext, UnitEnd};
use crate::pg::destination::progress;

/// Looks which shards are not done at the destination. There is nothing to ask the source, so there is one half only.
pub(crate) async fn run(ctx: &UnitContext, tables: &[AuditTable]) -> Result<WorkResult, UnitEnd> {
    let session = ctx.session(Side::Destination).await?;
    let missing = progress::missing(&session, &ctx.task, tables).await?;
    ctx.means.pool.give(session);
    Ok(WorkResult::Audit { missing })
}
