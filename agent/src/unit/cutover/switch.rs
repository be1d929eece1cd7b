//! The switch: one transaction at the destination, after which nobody writes for the task any more.
//!
//! 1. Is the task's row gone? Then an owner before had decided, and died before it could say so.
//! 2. Own the unit, so that an older owner that still sleeps cannot decide after this one.
//! 3. No transaction that could still commit a change is open or prepared at the source. Then a second marker, at the destination: everything that could be written until now has come. No sequence has moved on since
//!    the destination's were set: drawing a number is no change that the stream tells.
//! 4. In one transaction: hold the unit and the applier's row; no change came behind the first marker, and no table was parked
//!    on the way to it; triggers and rules that fire always are made; the task's row goes, and with it every right to write for the task (laws O1, O3, O9). Else: nothing is
//!    decided, and all is taken back.
//!
//! What the row takes along (plans, the proof of each shard, the applied position) proves something only to those who still
//! write for the task, and there is none from that commit on. Until it is recorded whoever is leased the step finds at 1. that it
//! was done, and the stream finds no position to go on from; neither leads back to copying.

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::{Failure, FailureClass};
use tokio::time::Instant;

use super::check::parked;
use super::proof::{self, arrived, who_writes};
use super::{Until, named, refused, sessions, source, timed_out};
use crate::laws::Law;
use crate::pg::About;
use crate::pg::destination::AWAKE;
use crate::unit::{UnitContext, UnitEnd, fence, schema, sequences};

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
    if !Law::Proof.is_left_out()
        && let Some(open) = source::open_still(ctx, &source).await.about(source.access())?
    {
        return Ok(refused(open));
    }
    let marker = proof::name(ctx, order, 2);
    proof::write(ctx, &source, &marker).await?;
    let Some(seen) = arrived(ctx, &marker, until).await? else {
        return Ok(timed_out("the destination took over"));
    };
    let is_behind =
        |seen: proof::Seen| seen.last_change > order.marker && !Law::Proof.is_left_out();
    if is_behind(seen) {
        return Ok(refused(who_writes(ctx, &source).await?));
    }
    let moved = sequences::not_set(ctx, &source, &session, order.settings.sequence_margin).await?;
    if !moved.is_empty() && !Law::Proof.is_left_out() {
        let who = sessions::others(ctx, &source, "true").await.about(source.access())?;
        let message = format!(
            "sequences were used behind the fence: {}; {}",
            named(moved),
            source::connected(&who)
        );
        return Ok(refused(
            Failure::definite("cutover_sequences_moved", message)
                .about(source.access().to_string())
                .remedy("stop whoever draws numbers at the source, then begin anew"),
        ));
    }

    ctx.still_mine()?;
    // What waits for a lock beyond the time ends with an error; whoever comes next finds that the time is over.
    let wait = until.0.saturating_duration_since(Instant::now()).as_millis().max(1);
    let hold = format!("set local lock_timeout = {wait}; {}", fence::hold(ctx));
    let transaction = session.transaction().await.about(&access)?;
    transaction.batch_execute(&hold).await.about(&access)?;
    let seen = proof::seen(&transaction, ctx, &marker, "for update").await.about(&access)?;
    // Another marker than this one: nobody else writes any while this unit is owned.
    if seen.is_none_or(is_behind) {
        transaction.rollback().await.about(&access)?;
        return Ok(refused(who_writes(ctx, &source).await?));
    }
    if let Some(parked) = parked(ctx, &transaction).await.about(&access)? {
        transaction.rollback().await.about(&access)?;
        return Ok(refused(parked.about(access.to_string())));
    }
    if let Err(failure) = schema::go_live(ctx, &transaction, &access).await {
        if failure.class != FailureClass::Definite {
            return Err(failure.into());
        }
        transaction.rollback().await.about(&access)?;
        return Ok(refused(failure));
    }
    // What hangs on the row goes by foreign keys, which a default of the database may have put to sleep.
    transaction.batch_execute(AWAKE).await.about(&access)?;
    let row = "delete from pgconvoy.task where id = $1";
    transaction.execute(row, &[&ctx.task.as_str()]).await.about(&access)?;
    transaction.commit().await.about(&access)?;
    session.close().await;
    source.close().await;
    Ok(CutoverDone::Switched)
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
