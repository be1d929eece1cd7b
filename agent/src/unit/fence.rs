//! Who may write for a unit that writes no rows: the same laws as for shards, by unit and epoch instead of table and
//! generation.
//!
//! A session that writes at the destination is opened in this order:
//!
//! 1. Connect, and look whether the lease still holds: it was over before any younger owner began.
//! 2. End what older owners of the unit left, and wait until it is gone (law O5).
//! 3. Own the unit: raises when the task has ended (law O9) or a younger owner was here.
//!
//! Each transaction then holds the ownership, or fails whole.

use pgconvoy_shared::endpoint::Side;

use super::{UnitContext, UnitEnd};
use crate::pg::destination::{self, takeover};
use crate::pg::{About, Session};

/// A session that may write for the unit.
pub(super) async fn writing_session(ctx: &UnitContext) -> Result<Session, UnitEnd> {
    let session = connect(ctx).await?;
    own(ctx, session).await
}

/// The same for a unit that comes before all others: makes schema `pgconvoy` and the task's row where they are missing.
pub(super) async fn first_writing_session(ctx: &UnitContext) -> Result<Session, UnitEnd> {
    let session = connect(ctx).await?;
    destination::ensure(&session, &ctx.task).await?;
    own(ctx, session).await
}

/// Another one for a unit that has one already: it owns the unit by the first.
pub(super) async fn session_beside(ctx: &UnitContext) -> Result<Session, UnitEnd> {
    connect(ctx).await
}

async fn connect(ctx: &UnitContext) -> Result<Session, UnitEnd> {
    let session = ctx.session(Side::Destination).await?;
    ctx.still_mine()?;
    Ok(session)
}

async fn own(ctx: &UnitContext, mut session: Session) -> Result<Session, UnitEnd> {
    takeover::end_old_sessions(&mut session).await?;
    ctx.still_mine()?;
    let access = session.access().clone();
    session.batch_execute(&call(ctx, "own_unit")).await.about(&access)?;
    Ok(session)
}

/// The statement that holds the ownership until the transaction ends.
pub(super) fn hold(ctx: &UnitContext) -> String {
    call(ctx, "hold_unit")
}

fn call(ctx: &UnitContext, function: &str) -> String {
    format!("select pgconvoy.{function}('{}', {}, {})", ctx.task, ctx.unit, ctx.epoch)
}
