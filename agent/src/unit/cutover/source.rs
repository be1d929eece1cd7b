//! The source's fence, and who stands behind it.
//!
//! A database whose `default_transaction_read_only` is on lets new sessions read only, unless they ask for more; sessions that
//! began before know nothing of it, and are ended. Nobody is kept out for certain: what is written in spite of it is found by
//! the proof, which undoes the cutover then. Whose fence it is tells its [`mark`].

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, Writers};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;

use super::check::come_up_since;
use super::left::Depth;
use super::waits::timed_out;
use super::{Until, mark, refused, sessions};
use crate::laws::Law;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, PgError, Session};
use crate::unit::prepared::{self, Prepared, Within};
use crate::unit::{UnitContext, UnitEnd};

/// The setting that keeps writers away.
pub(in crate::unit) const SETTING: &str = "default_transaction_read_only";

/// A session with the source from which all older owners' are gone.
pub(super) async fn session(ctx: &UnitContext) -> Result<Session, UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut session = access.session().await.about(&access)?;
    ctx.still_mine()?;
    end_old_sessions(&mut session).await?;
    ctx.still_mine()?;
    Ok(session)
}

pub(super) async fn fence(
    ctx: &UnitContext,
    order: &CutoverOrder,
    until: Until,
) -> Result<CutoverDone, UnitEnd> {
    let session = session(ctx).await?;
    let access = session.access().clone();
    if until.is_over() {
        return Ok(refused(timed_out(ctx, "the source was fenced").await));
    }
    let destination = ctx.session(Side::Destination).await?;
    let (mut ended, mut left) = (0, Vec::new());
    match order.settings.writers {
        Writers::Fenced if Law::Fence.is_left_out() => {}
        Writers::Fenced => {
            if let Some(another) = mark::set(ctx, order, &session).await.about(&access)? {
                return Ok(refused(another));
            }
            match sessions::end_earlier(ctx, order, &session, until).await? {
                Ok(of_others) => (ended, left) = of_others,
                Err(failure) => return Ok(refused(failure)),
            }
        }
        Writers::Stopped => {
            let at_work = sessions::at_work(ctx, &session).await.about(&access)?;
            if !at_work.is_empty() {
                return Ok(refused(still_writing(&at_work)));
            }
        }
    }
    let prepared = prepared::now(&session, Within::Database).await.about(&access)?;
    if let Some(prepared) = in_the_way(&session, &prepared) {
        return Ok(refused(prepared));
    }
    // From now on no table is made any more, logged or not.
    let new = come_up_since(ctx, order, [&session, &destination], Depth::Quick).await;
    if let Some(new) = new.about(&access)? {
        return Ok(refused(new));
    }
    ctx.means.pool.give(destination);
    let at = insert_position(&session).await.about(&access)?;
    session.close().await;
    Ok(CutoverDone::Fenced { at, ended, left })
}

pub(super) async fn lift(ctx: &UnitContext, order: &CutoverOrder) -> Result<CutoverDone, UnitEnd> {
    let session = session(ctx).await?;
    let access = session.access().clone();
    // One that was refused before its fence has stopped nobody. Else whoever came while it was fenced would go on reading only; a pool keeps
    // such a session for hours.
    if order.settings.writers == Writers::Fenced
        && mark::lift(ctx, order, &session).await.about(&access)?
    {
        sessions::end_all(ctx, &session).await;
        mark::forget(ctx, order, &session).await.about(&access)?;
    }
    session.close().await;
    Ok(CutoverDone::Lifted)
}

/// The failure of a cutover that found somebody writing.
pub(super) fn still_writing(who: &[String]) -> Failure {
    let message = format!("somebody still writes at the source; {}", connected(who));
    Failure::definite("cutover_writers", message)
        .remedy("stop them (pools, jobs and replication included), then begin anew")
}

pub(super) fn connected(who: &[String]) -> String {
    match who {
        [] => "nobody is connected any more".to_owned(),
        some => format!("connected now: {}", some.join("; ")),
    }
}

/// So many transactions are named.
const PREPARED_NAMED: usize = 5;

/// Transactions that are open or prepared behind the fence: what they wrote is in the stream only once they are committed. One that ends
/// meanwhile is told by the next marker.
pub(super) async fn open_still(
    ctx: &UnitContext,
    session: &Session,
) -> Result<Option<Failure>, PgError> {
    let at_work = sessions::at_work(ctx, session).await?;
    if !at_work.is_empty() {
        return Ok(Some(still_writing(&at_work).about(session.access().to_string())));
    }
    // One that was at work may be prepared by now, never the other way round.
    let prepared = prepared::now(session, Within::Database).await?;
    Ok(in_the_way(session, &prepared))
}

/// While the source is in use: transactions that are prepared and stay so.
pub(super) async fn prepared_for_long(session: &Session) -> Result<Option<Failure>, PgError> {
    let stay = prepared::that_stay(session, Within::Database).await?;
    Ok(in_the_way(session, &stay))
}

/// Transactions that are prepared: they are in the stream only once they are committed.
fn in_the_way(session: &Session, prepared: &[Prepared]) -> Option<Failure> {
    if prepared.is_empty() {
        return None;
    }
    let gids: Vec<&str> =
        prepared.iter().take(PREPARED_NAMED).map(|one| one.gid.as_str()).collect();
    let message = format!("transactions are prepared and not committed: {}", gids.join(", "));
    Some(
        Failure::definite("cutover_prepared_transactions", message)
            .about(session.access().to_string())
            .remedy("commit prepared, or rollback prepared, each of them; then begin anew"),
    )
}

/// Up to where the source has written its log.
pub(super) async fn insert_position(session: &Session) -> Result<Lsn, PgError> {
    position(session, "select pg_catalog.pg_current_wal_insert_lsn()::text").await
}

/// Up to where the source's log is on disk.
pub(super) async fn flushed_position(session: &Session) -> Result<Lsn, PgError> {
    position(session, "select pg_catalog.pg_current_wal_flush_lsn()::text").await
}

async fn position(session: &Session, ask: &str) -> Result<Lsn, PgError> {
    let row = session.query_one(ask, &[]).await?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| PgError::protocol(format!("position {text}")))
}
