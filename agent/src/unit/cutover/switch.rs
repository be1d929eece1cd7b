//! The switch: one transaction at the destination, after which nobody writes for the task any more.
//!
//! 1. Is the task's row gone? Then an owner before had decided, and died before it could say so.
//! 2. Own the unit, so that an older owner that still sleeps cannot decide after this one.
//! 3. A second marker, at the destination: everything that could be written until now has come.
//! 4. In one transaction: hold the unit and the applier's row; no change came behind the first marker; the task's row goes,
//!    and with it every right to write for the task (laws O1, O3, O9). Else: nothing is decided, and all is taken back.

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder};
use pgconvoy_shared::endpoint::Side;

use super::proof::{self, arrived, seen, who_writes};
use super::{Until, refused, source, timed_out};
use crate::pg::About;
use crate::unit::{UnitContext, UnitEnd, fence};

pub(super) async fn run(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
) -> Result<CutoverDone, UnitEnd> {
    if has_switched(ctx).await? {
        return Ok(CutoverDone::Switched);
    }
    let mut session = fence::writing_session(ctx).await?;
    let access = session.access().clone();
    if until.is_over() {
        return Ok(timed_out("the destination took over"));
    }
    let source = source::session(ctx).await?;
    let marker = proof::name(ctx, order, 2);
    proof::write(&source, &marker).await?;
    if arrived(ctx, &marker, until).await?.is_none() {
        return Ok(timed_out("the destination took over"));
    }

    ctx.still_mine()?;
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&fence::hold(ctx)).await.about(&access)?;
    let seen = seen(&transaction, ctx, &marker, "for update").await.about(&access)?;
    match seen {
        Some(seen) if seen.last_change <= order.marker => {
            let row = "delete from pgconvoy.task where id = $1";
            transaction.execute(row, &[&ctx.task.as_str()]).await.about(&access)?;
            transaction.commit().await.about(&access)?;
            session.close().await;
            source.close().await;
            Ok(CutoverDone::Switched)
        }
        // Another marker than this one: nobody else writes any while this unit is owned.
        Some(_) | None => {
            transaction.rollback().await.about(&access)?;
            Ok(refused(who_writes(ctx, &source).await?))
        }
    }
}

async fn has_switched(ctx: &UnitContext) -> Result<bool, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    let ours = "select pg_catalog.to_regclass('pgconvoy.task') is not null";
    let there: bool = session.query_one(ours, &[]).await.about(&access)?.get(0);
    let row = "select from pgconvoy.task where id = $1";
    let gone =
        !there || session.query_opt(row, &[&ctx.task.as_str()]).await.about(&access)?.is_none();
    session.close().await;
    Ok(gone)
}
