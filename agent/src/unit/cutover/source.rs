//! The source's fence, and who stands behind it.
//!
//! A database whose `default_transaction_read_only` is on lets new sessions read only, unless they ask for more; sessions that
//! began before know nothing of it, and are ended. Nobody is kept out for certain: what is written in spite of it is found by
//! the proof, which undoes the cutover then.

use std::time::Duration;

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, Writers};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{quote_identifier, quote_literal};

use super::check::not_followed;
use super::{Until, refused, timed_out};
use crate::laws::Law;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::{About, PgError, Session};
use crate::unit::prepared::{self, Prepared, Within};
use crate::unit::{UnitContext, UnitEnd};

/// The setting that keeps writers away.
pub(super) const SETTING: &str = "default_transaction_read_only";

/// How often it is looked whether ended sessions are gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Sessions that are named.
const NAMED_MAX: i64 = 5;

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
        return Ok(timed_out("the source was fenced"));
    }
    let mut ended = 0;
    match order.settings.writers {
        Writers::Fenced if Law::Fence.is_left_out() => {}
        Writers::Fenced => {
            let on = format!("alter database {} set {SETTING} = on", database(&session));
            session.batch_execute(&on).await.about(&access)?;
            match end_others(ctx, &session, until).await? {
                Ok(count) => ended = count,
                Err(failure) => return Ok(refused(failure)),
            }
        }
        Writers::Stopped => {
            let at_work =
                others(ctx, &session, "a.backend_xid is not null").await.about(&access)?;
            if !at_work.is_empty() {
                return Ok(refused(still_writing(&at_work)));
            }
        }
    }
    let prepared = prepared::now(&session, Within::Database).await.about(&access)?;
    if let Some(prepared) = in_the_way(&session, &prepared) {
        return Ok(refused(prepared));
    }
    // From now on no table is made any more.
    if let Some(new) = not_followed(ctx, &session).await.about(&access)? {
        return Ok(refused(new.about(access.to_string())));
    }
    let at = insert_position(&session).await.about(&access)?;
    session.close().await;
    Ok(CutoverDone::Fenced { at, ended })
}

pub(super) async fn lift(ctx: &UnitContext, order: &CutoverOrder) -> Result<CutoverDone, UnitEnd> {
    let session = session(ctx).await?;
    let access = session.access().clone();
    if order.settings.writers == Writers::Fenced {
        let name = database(&session);
        let lift = match &order.setting_before {
            Some(value) => {
                format!("alter database {name} set {SETTING} = {}", quote_literal(value))
            }
            None => format!("alter database {name} reset {SETTING}"),
        };
        session.batch_execute(&lift).await.about(&access)?;
        // Whoever came while it was fenced would go on reading only; a pool keeps such a session for hours.
        let end = format!(
            "select pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a where {OTHERS}"
        );
        let ours = of_task(ctx);
        if let Err(error) = session.query(&end, &[&ours]).await {
            tracing::warn!(
                "sessions that began while the source was fenced stay as they are: {error}"
            );
        }
    }
    session.close().await;
    Ok(CutoverDone::Lifted)
}

/// Sessions of this database that are not the task's own.
const OTHERS: &str = "a.datname = pg_catalog.current_database() and a.backend_type = 'client backend' \
                      and a.pid <> pg_catalog.pg_backend_pid() and not pg_catalog.starts_with(a.application_name, $1)";

fn of_task(ctx: &UnitContext) -> String {
    format!("pgconvoy/{}/", ctx.task)
}

/// Ends every session that began before now, and waits until they are gone. How many there were, or who does not go.
async fn end_others(
    ctx: &UnitContext,
    session: &Session,
    until: Until,
) -> Result<Result<u32, Failure>, UnitEnd> {
    let access = session.access();
    let now = "select pg_catalog.clock_timestamp()::text";
    let row = session.query_one(now, &[]).await.about(access)?;
    let older = format!("a.backend_start <= {}::timestamptz", quote_literal(row.get(0)));
    let ours = of_task(ctx);
    let count = format!(
        "select pg_catalog.count(*) from pg_catalog.pg_stat_activity a where {OTHERS} and {older}"
    );
    let count: i64 = session.query_one(&count, &[&ours]).await.about(access)?.get(0);
    let end = format!(
        "select pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a where {OTHERS} and {older}"
    );
    loop {
        ctx.still_mine()?;
        let ended = session.query(&end, &[&ours]).await;
        match ended.map_err(PgError::from) {
            Ok(rows) if rows.is_empty() => break,
            Ok(_) if !until.is_over() => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(_) => {
                let left = others(ctx, session, &older).await.about(access)?;
                let message = format!("sessions do not end: {}", left.join("; "));
                return Ok(Err(Failure::definite("cutover_sessions_stay", message)
                    .about(access.to_string())
                    .remedy("end them by hand, or give the cutover more time by --timeout")));
            }
            Err(error) if error.sqlstate() == Some("42501") => {
                let left = others(ctx, session, &older).await.about(access)?;
                let message = format!("the source's role may not end: {}", left.join("; "));
                return Ok(Err(Failure::definite("cutover_sessions_stay", message)
                    .about(access.to_string())
                    .remedy(
                    "end them by hand, or grant pg_signal_backend to the role (sessions of superusers only they can end)",
                )));
            }
            Err(error) => return Err(access.failure(&error).into()),
        }
    }
    Ok(Ok(u32::try_from(count).unwrap_or(u32::MAX)))
}

/// Sessions of others, by application name, address and role.
pub(super) async fn others(
    ctx: &UnitContext,
    session: &Session,
    which: &str,
) -> Result<Vec<String>, PgError> {
    let ask = format!(
        "select pg_catalog.format('%s from %s as %s', coalesce(nullif(a.application_name, ''), 'a nameless session'), \
         coalesce(a.client_addr::text, 'a local socket'), a.usename) \
         from pg_catalog.pg_stat_activity a where {OTHERS} and ({which}) \
         order by a.backend_xid is null, a.xact_start desc nulls last, a.state_change desc nulls last limit $2"
    );
    let rows = session.query(&ask, &[&of_task(ctx), &NAMED_MAX]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
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

fn database(session: &Session) -> String {
    quote_identifier(&session.access().endpoint().database)
}
