//! Index statements of a table whose rows are there; other tables' run side by side in other units.

use pgconvoy_shared::unit::{IndexBuild, WorkResult};

use super::schema::{self, Pick};
use super::{UnitContext, UnitEnd, fence};

pub(super) async fn run(ctx: &UnitContext, build: IndexBuild) -> Result<WorkResult, UnitEnd> {
    let mut session = fence::writing_session(ctx).await?;
    schema::run(ctx, &mut session, &Pick::Entries(build.entries)).await?;
    ctx.means.pool.give(session);
    Ok(WorkResult::Index)
}
