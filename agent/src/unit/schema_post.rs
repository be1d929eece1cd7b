//! What comes after the rows, in the archive's order: foreign keys, triggers, policies, grants, …, and materialized views
//! are filled. Indexes that no other unit built are built first: all of them when no rows are migrated.

use pgconvoy_shared::unit::WorkResult;

use super::schema::{self, Pick};
use super::{UnitContext, UnitEnd, fence};

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let mut session = fence::writing_session(ctx).await?;
    let entries_run = schema::run(ctx, &mut session, &Pick::Rest).await?;
    session.close().await;
    Ok(WorkResult::SchemaPost { entries_run })
}
