//! The switch: one transaction at the destination, after which nobody writes for the task any more.
//!
//! 1. Does the destination say that it has switched? Then an owner before had decided, and died before it could say so. If it has neither
//!    that nor the task's row, it is not the one that was written to, or was restored: it has not switched, and all is taken back.
//! 2. Own the unit, so that an older owner that still sleeps cannot decide after this one.
//! 3. In one transaction at the destination: hold the unit; triggers and rules that fire always are made, and rows of the task that are many go.
//!    That may wait for locks, and take a while, so it comes before the source is looked at. Where the stream comes to wait for these locks, it has
//!    a change to apply behind the first marker: all is taken back at once, for neither could go on.
//! 4. No transaction that could still commit a change is open or prepared at the source, and its tables are [`locked`]. No sequence has
//!    moved on since the destination's were set: drawing a number is no change that the stream tells. Then a second marker, at the destination:
//!    everything that could be written until now has come.
//! 5. Hold the applier's row; no change came behind the first marker, and no table was parked on the way to it;
//!    the task's row goes, and with it every right to write for the task (laws O1, O3, O9), and
//!    a row says that it has switched. Still nobody is at work at the source, and what was locked is. Else: nothing is
//!    decided, and all is taken back.
//!
//! What the row takes along (plans, the proof of each shard, the applied position) proves something only to those who still
//! write for the task, and there is none from that commit on. Until it is recorded whoever is leased the step finds at 1. that it
//! was done, and the stream finds no position to go on from; neither leads back to copying.

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::{Failure, FailureClass};
use tokio::time::Instant;
use tokio_postgres::Transaction;

use super::check::parked;
use super::locked::{self, Locked};
use super::proof::{self, arrived, who_writes};
use super::waits::{GRACE, LOOK_MAX, in_time, stream_waits_for, timed_out};
use super::{Until, named, refused, sessions, source};
use crate::laws::Law;
use crate::pg::destination::AWAKE;
use crate::pg::{About, Session};
use crate::unit::{UnitContext, UnitEnd, fence, schema, sequences};

pub(super) async fn run(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
) -> Result<CutoverDone, UnitEnd> {
    match decided(ctx).await? {
        Decided::Switched => return Ok(CutoverDone::Switched),
        Decided::Lost(failure) => return Ok(refused(failure)),
        Decided::NotYet => {}
    }
    let mut session = fence::writing_session(ctx).await?;
    let access = session.access().clone();
    if until.is_over() {
        return Ok(refused(timed_out(ctx, WAITED_FOR).await));
    }
    ctx.still_mine()?;
    // Up to the commit nothing is decided, so it may be left; from there on it is waited for. What waits for a lock beyond that ends with
    // an error, even if nobody hears of it any more.
    let transaction = session.transaction().await.about(&access)?;
    let decide = Box::pin(decide(ctx, order, &transaction, until));
    let locked = match in_time(ctx, until, WAITED_FOR, decide).await? {
        Ok(Ok(locked)) => locked,
        Ok(Err(failure)) | Err(failure) => return Ok(refused(failure)),
    };
    transaction.commit().await.about(&access)?;
    locked.release().await;
    session.close().await;
    Ok(CutoverDone::Switched)
}

const WAITED_FOR: &str = "the destination took over";

/// A change came after the marker that proves the drain.
fn is_behind(order: &CutoverOrder, seen: proof::Seen) -> bool {
    seen.last_change > order.marker && !Law::Proof.is_left_out()
}

/// All of the decision but its commit, with what is to stay locked until then; or what is in its way.
async fn decide(
    ctx: &UnitContext,
    order: &CutoverOrder,
    transaction: &Transaction<'_>,
    until: Until,
) -> Result<Result<Locked, Failure>, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let wait = until.0.saturating_duration_since(Instant::now()) + GRACE + LOOK_MAX * 2;
    let hold = format!("set local lock_timeout = {}; {}", wait.as_millis(), fence::hold(ctx));
    transaction.batch_execute(&hold).await.about(&access)?;
    let source = source::session(ctx).await?;
    let marker = proof::name(ctx, order, 2);
    let mine = "select pg_catalog.pg_backend_pid()";
    let mine = transaction.query_one(mine, &[]).await.about(&access)?.get(0);
    // Behind the first marker there is nothing that the stream could need a lock for but a change. Nor could any of it come while this
    // transaction waits for it.
    let quiet = tokio::select! {
        quiet = Box::pin(until_quiet(ctx, order, transaction, &source, &marker, until)) => quiet?,
        waits = Box::pin(stream_waits_for(ctx, mine)) => {
            waits?;
            Err(who_writes(ctx, &source).await?)
        }
    };
    let locked = match quiet {
        Ok(locked) => locked,
        Err(failure) => return Ok(Err(failure)),
    };

    let seen = proof::seen(transaction, ctx, &marker, "for update").await.about(&access)?;
    // Another marker than this one: nobody else writes any while this unit is owned.
    if seen.is_none_or(|seen| is_behind(order, seen)) {
        return Ok(Err(who_writes(ctx, &source).await?));
    }
    if let Some(parked) = parked(ctx, transaction).await.about(&access)? {
        return Ok(Err(parked.about(access.to_string())));
    }
    let task = ctx.task.as_str();
    for decide in [
        "insert into pgconvoy.switched (task) values ($1)",
        "delete from pgconvoy.task where id = $1",
    ] {
        transaction.execute(decide, &[&task]).await.about(&access)?;
    }
    let open = open_still(ctx, &source).await?;
    source.close().await;
    locked.hold().await?;
    Ok(open.map_or(Ok(locked), Err))
}

/// What may have to wait at the destination, and behind that the looks at the source.
async fn until_quiet(
    ctx: &UnitContext,
    order: &CutoverOrder,
    transaction: &Transaction<'_>,
    source: &Session,
    marker: &str,
    until: Until,
) -> Result<Result<Locked, Failure>, UnitEnd> {
    let access = ctx.access(Side::Destination);
    match schema::go_live(ctx, transaction, &access).await {
        Ok(()) => {}
        Err(failure) if failure.class == FailureClass::Definite => return Ok(Err(failure)),
        Err(failure) => return Err(failure.into()),
    }
    // What hangs on rows goes by foreign keys, which a default of the database may have put to sleep.
    transaction.batch_execute(AWAKE).await.about(&access)?;
    let task = ctx.task.as_str();
    for many in [
        "delete from pgconvoy.shard_progress where task = $1",
        "delete from pgconvoy.schema_entry where task = $1",
    ] {
        transaction.execute(many, &[&task]).await.about(&access)?;
    }
    quiet(ctx, order, source, marker, until).await
}

/// All that was written is at the destination, and nobody writes; or who does, or drew a number, or may do so yet.
async fn quiet(
    ctx: &UnitContext,
    order: &CutoverOrder,
    source: &Session,
    marker: &str,
    until: Until,
) -> Result<Result<Locked, Failure>, UnitEnd> {
    if let Some(open) = open_still(ctx, source).await? {
        return Ok(Err(open));
    }
    let locked = match locked::lock(ctx, source).await? {
        Ok(locked) => locked,
        Err(failure) => return Ok(Err(failure)),
    };
    let destination = ctx.session(Side::Destination).await?;
    let margin = order.settings.sequence_margin;
    let moved = sequences::not_set(ctx, source, &destination, margin).await?;
    ctx.means.pool.give(destination);
    if !moved.is_empty() && !Law::Proof.is_left_out() {
        let who = sessions::others(ctx, source, "true").await.about(source.access())?;
        let message = format!(
            "sequences were used behind the fence: {}; {}",
            named(moved),
            source::connected(&who)
        );
        return Ok(Err(Failure::definite("cutover_sequences_moved", message)
            .about(source.access().to_string())
            .remedy("stop whoever draws numbers at the source, then begin anew")));
    }
    proof::write(ctx, source, marker).await?;
    Ok(match arrived(ctx, marker, until).await? {
        None => Err(timed_out(ctx, WAITED_FOR).await),
        Some(seen) if is_behind(order, seen) => Err(who_writes(ctx, source).await?),
        Some(_) => Ok(locked),
    })
}

async fn open_still(ctx: &UnitContext, source: &Session) -> Result<Option<Failure>, UnitEnd> {
    if Law::Proof.is_left_out() {
        return Ok(None);
    }
    Ok(source::open_still(ctx, source).await.about(source.access())?)
}

/// What an owner before may have decided.
enum Decided {
    Switched,
    NotYet,
    /// Nothing that the destination, as it is now, could go by.
    Lost(Failure),
}

async fn decided(ctx: &UnitContext) -> Result<Decided, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    let ours = "select pg_catalog.to_regclass('pgconvoy.switched') is not null";
    let mut decided = Decided::Lost(lost().about(access.to_string()));
    if session.query_one(ours, &[]).await.about(&access)?.get(0) {
        // Of one moment: the one comes with the commit that takes the other.
        let rows = "select exists (select from pgconvoy.switched where task = $1), exists (select from pgconvoy.task where id = $1)";
        let row = session.query_one(rows, &[&ctx.task.as_str()]).await.about(&access)?;
        match (row.get(0), row.get(1)) {
            (true, _) => decided = Decided::Switched,
            (false, true) => decided = Decided::NotYet,
            (false, false) => {}
        }
    }
    session.close().await;
    Ok(decided)
}

fn lost() -> Failure {
    let message = "the destination knows nothing of the task any more, nor that it has switched: it was restored from a time before, or is another server";
    Failure::definite("cutover_destination_lost", message).remedy(
        "let the task's destination lead to the server that was written to, and begin anew; if there is none, cancel the task",
    )
}
