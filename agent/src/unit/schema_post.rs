//! What comes after the rows.
//!
//! 1. Indexes that no other unit built: all of them when no rows are migrated.
//! 2. What takes no time, in the archive's order: keys of indexes, foreign keys that are yet to be validated, triggers,
//!    policies, grants, …
//! 3. What reads whole tables, side by side: constraints are validated, materialized views filled.
//! 4. Event triggers, which would see all that.
//!
//! Where the schema is not migrated, only the materialized views that are there already.

use pgconvoy_shared::unit::WorkResult;

use super::schema::{self, Pick, Section};
use super::{UnitContext, UnitEnd, fence};

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let mut session = fence::writing_session(ctx).await?;
    let mut entries_run = 0;
    if ctx.with_schema() {
        for section in [Section::Index, Section::Post] {
            entries_run += schema::run(ctx, &mut session, &Pick::Section(section)).await?;
        }
        entries_run += schema::scan(ctx, &mut session).await?;
        entries_run += schema::run(ctx, &mut session, &Pick::Section(Section::Last)).await?;
    } else {
        schema::keep_refreshes(ctx, &mut session).await?;
        entries_run += schema::scan(ctx, &mut session).await?;
    }
    ctx.means.pool.give(session);
    Ok(WorkResult::SchemaPost { entries_run })
}
