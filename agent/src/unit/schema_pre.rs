//! The schema before the rows.
//!
//! 1. Schema `pgconvoy` and the task's row are made at the destination.
//! 2. The source's schema is dumped, and its statements are kept there, in one transaction.
//! 3. Those that come before the rows are run.
//!
//! Killed anywhere and run again, it goes on with what is not done.

use pgconvoy_shared::unit::WorkResult;

use super::schema::{self, Pick, Section};
use super::{UnitContext, UnitEnd, fence};

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let mut session = fence::first_writing_session(ctx).await?;
    let entries_kept = schema::keep(ctx, &mut session).await?;
    let entries_run = schema::run(ctx, &mut session, &Pick::Section(Section::Pre)).await?;
    ctx.means.pool.give(session);
    Ok(WorkResult::SchemaPre { entries_run, entries_kept })
}
