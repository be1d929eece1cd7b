//! That all is at the destination: a marker, written into the source's log behind the fence, comes out of the stream and is
//! applied there like any transaction; and what the applier noted last of a transaction with a change lies before it.
//!
//! "Lag is zero" would prove nothing: it is what one sees too while a writer thinks.

use std::time::Duration;

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use tokio_postgres::GenericClient;

use super::check::parked;
use super::source::{self, still_writing};
use super::waits::timed_out;
use super::{Until, again, left, refused, sessions, shape};
use crate::laws::Law;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, marker, sequences};

/// How often it is looked whether the marker is there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the applier has noted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The end of the marker's transaction.
    pub(super) marker: Lsn,
    /// The end of the last transaction with a change.
    pub(super) last_change: Lsn,
}

pub(super) async fn run(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
) -> Result<CutoverDone, UnitEnd> {
    let session = source::session(ctx).await?;
    let marker = name(ctx, order, 1);
    write(ctx, &session, &marker).await?;
    let set = sequences::set_further(ctx, order.settings.sequence_margin);
    let (seen, sequences, altered) =
        tokio::try_join!(arrived(ctx, &marker, until), set, altered(ctx))?;
    let Some(seen) = seen else {
        let waited_for = "all that was written was at the destination";
        return Ok(refused(timed_out(ctx, waited_for).await));
    };
    if seen.last_change > seen.marker && !Law::Proof.is_left_out() {
        return Ok(refused(who_writes(ctx, &session).await?));
    }
    // A table whose columns are others and whose rows were changed is parked, which `parked` tells better.
    if let Some(altered) = altered {
        return Ok(refused(altered));
    }
    let mut copied = None;
    if order.settings.copy_again {
        copied = Some(left::copy(ctx).await?);
    }
    let mut again = None;
    if order.settings.compares_again() && !Law::Proof.is_left_out() {
        match again::behind_fence(ctx, order, until).await? {
            Ok(found) => again = Some(found),
            Err(failure) => return differing(ctx, order, until, &session, seen, failure).await,
        }
    }
    session.close().await;
    Ok(CutoverDone::Proved { marker: seen.marker, sequences, again, copied })
}

/// Tables that were altered before the fence, when nothing looked at them any more.
async fn altered(ctx: &UnitContext) -> Result<Option<Failure>, UnitEnd> {
    let (source, destination) =
        tokio::try_join!(ctx.session(Side::Source), ctx.session(Side::Destination))?;
    ctx.still_mine()?;
    let altered = shape::changed(ctx, &source, &destination).await?;
    ctx.means.pool.give(source);
    ctx.means.pool.give(destination);
    Ok(altered)
}

/// What differs may be what somebody writes in this moment, or what is kept and not applied: then that is what is wrong.
async fn differing(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
    session: &Session,
    proved: Seen,
    failure: Failure,
) -> Result<CutoverDone, UnitEnd> {
    let marker = name(ctx, order, 2);
    write(ctx, session, &marker).await?;
    match arrived(ctx, &marker, until).await? {
        Some(seen) if seen.last_change > proved.marker => {
            Ok(refused(who_writes(ctx, session).await?))
        }
        Some(_) | None => {
            let access = ctx.access(Side::Destination);
            let destination = access.session().await.about(&access)?;
            let parked = parked(ctx, &*destination).await.about(&access)?;
            destination.close().await;
            Ok(refused(parked.unwrap_or(failure)))
        }
    }
}

/// Markers of this lease: nobody else's are taken for them.
pub(super) fn name(ctx: &UnitContext, order: &CutoverOrder, nth: u32) -> String {
    format!("cutover/{}/{}/{nth}", order.attempt, ctx.epoch)
}

/// Writes a marker, on disk when this returns: a transaction that changes nothing of the user's.
pub(super) async fn write(ctx: &UnitContext, session: &Session, name: &str) -> Result<(), UnitEnd> {
    Ok(marker::write(session, &ctx.task, name).await.about(session.access())?)
}

/// Waits until the marker is applied; none = the time is over.
pub(super) async fn arrived(
    ctx: &UnitContext,
    marker: &str,
    until: Until,
) -> Result<Option<Seen>, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    loop {
        ctx.still_mine()?;
        if let Some(seen) = seen(&*session, ctx, marker, "").await.about(&access)? {
            session.close().await;
            return Ok(Some(seen));
        }
        if until.is_over() {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What the applier has noted, once it has this marker.
pub(super) async fn seen(
    session: &impl GenericClient,
    ctx: &UnitContext,
    marker: &str,
    lock: &str,
) -> Result<Option<Seen>, PgError> {
    let ask = format!(
        "select marker_lsn::text, coalesce(last_change, '0/0')::text from pgconvoy.apply_progress \
         where task = $1 and marker = $2 {lock}"
    );
    let Some(row) = session.query_opt(&ask, &[&ctx.task.as_str(), &marker]).await? else {
        return Ok(None);
    };
    let lsn = |text: &str| {
        text.parse::<Lsn>()
            .map_err(|_| PgError::protocol(format!("`{text}` where a position must be")))
    };
    Ok(Some(Seen { marker: lsn(row.get(0))?, last_change: lsn(row.get(1))? }))
}

/// The failure of a cutover behind whose marker there is a change.
pub(super) async fn who_writes(ctx: &UnitContext, session: &Session) -> Result<Failure, UnitEnd> {
    let who = sessions::others(ctx, session, "true").await.about(session.access())?;
    Ok(still_writing(&who).about(session.access().to_string()))
}
