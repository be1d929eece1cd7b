//! Other sessions at the source: who is there, who is at work, and their end.
//!
//! A role that is neither a superuser nor a member of `pg_read_all_stats` sees of other roles' sessions that they are there, not what they
//! are, nor since when. So those are taken for writers' unless something shows that they are none, and they are ended by their numbers.

use std::time::Duration;

use pgconvoy_shared::cutover::CutoverOrder;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::quote_literal;
use tokio::time::{Instant, sleep};

use super::Until;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// How often it is looked whether ended sessions are gone, and transactions.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A transaction that is open for longer behind the fence is a writer's. (A notification takes an id too, for a moment.)
const AT_WORK_MAX: Duration = Duration::from_millis(300);

/// Sessions that are named.
const NAMED_MAX: i64 = 5;

/// Sessions that are kept on record because they were left.
const LEFT_MAX: i64 = 20;

/// Sessions of this database that are not the task's own, of the kinds that `which` says.
fn of_others(which: &str) -> String {
    format!(
        "a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid() \
         and not pg_catalog.starts_with(a.application_name, $1) and case when a.backend_type is null \
         then a.usesysid is not null and not exists (select from pg_catalog.pg_stat_replication r where r.pid = a.pid) \
         else a.backend_type {which} end"
    )
}

/// Those of clients.
const CLIENTS: &str = "= 'client backend'";

/// Those that may write: a server's own workers run jobs, and apply what comes by replication. Statistics are no user's rows.
const WRITERS: &str = "<> 'autovacuum worker'";

/// The current role may end this session.
const MAY_END: &str = "(select r.rolsuper or not o.rolsuper and (pg_catalog.pg_has_role(o.oid, 'usage') \
    or pg_catalog.pg_has_role('pg_signal_backend', 'usage')) \
    from pg_catalog.pg_roles r, pg_catalog.pg_roles o where r.rolname = current_user and o.oid = a.usesysid)";

/// Sessions that have logged in, perhaps with settings from before, and that nobody sees yet: the transaction in which they begin holds
/// this lock until they are seen.
const BEGINNING: &str = "select coalesce(pg_catalog.array_agg(l.virtualtransaction || ' ' || l.pid), '{}') from pg_catalog.pg_locks l \
    where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass and l.granted \
    and l.objid = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()) \
    and l.mode = 'RowExclusiveLock' and l.pid <> pg_catalog.pg_backend_pid()";

/// Sessions that the fence leaves as they are: of roles that the user named, and only where the task's role may not end them.
fn left_alone(order: &CutoverOrder) -> String {
    let roles: Vec<String> =
        order.settings.leave_sessions_of.iter().map(|role| quote_literal(role)).collect();
    match roles.as_slice() {
        [] => "false".to_owned(),
        some => {
            let theirs = format!("coalesce(a.usename in ({}), false)", some.join(", "));
            format!("({theirs} and not coalesce({MAY_END}, false))")
        }
    }
}

fn of_task(ctx: &UnitContext) -> String {
    format!("pgconvoy/{}/", ctx.task)
}

/// Sessions of other clients, by application name, address and role.
pub(super) async fn others(
    ctx: &UnitContext,
    session: &Session,
    which: &str,
) -> Result<Vec<String>, PgError> {
    told(ctx, session, &format!("{} and ({which})", of_others(CLIENTS)), NAMED_MAX).await
}

async fn told(
    ctx: &UnitContext,
    session: &Session,
    which: &str,
    at_most: i64,
) -> Result<Vec<String>, PgError> {
    let ask = format!(
        "select pg_catalog.format('%s from %s as %s', coalesce(nullif(a.application_name, ''), \
         'a ' || nullif(a.backend_type, 'client backend'), 'a nameless session'), \
         case when a.backend_type is null then 'an address that the role may not see' else coalesce(a.client_addr::text, 'a local socket') end, \
         a.usename) from pg_catalog.pg_stat_activity a where {which} \
         order by a.backend_xid is null, a.xact_start desc nulls last, a.state_change desc nulls last limit $2"
    );
    let rows = session.query(&ask, &[&of_task(ctx), &at_most]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// In a transaction that writes: of every session everybody sees its id.
const AT_WORK: &str = "a.backend_xid is not null";

/// Sessions of others that may write, by application name, address and role.
pub(super) async fn writers(
    ctx: &UnitContext,
    session: &Session,
    which: &str,
) -> Result<Vec<String>, PgError> {
    told(ctx, session, &format!("{} and ({which})", of_others(WRITERS)), NAMED_MAX).await
}

/// Who is in a transaction that writes, for more than a moment.
pub(super) async fn at_work(ctx: &UnitContext, session: &Session) -> Result<Vec<String>, PgError> {
    let end = Instant::now() + AT_WORK_MAX;
    loop {
        let at_work = writers(ctx, session, AT_WORK).await?;
        if at_work.is_empty() || Instant::now() >= end {
            return Ok(at_work);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Sessions that the fence could not end.
pub(super) async fn that_would_stay(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
) -> Result<Option<Failure>, PgError> {
    let stay = format!("not {MAY_END} and not {}", left_alone(order));
    let stay = others(ctx, session, &stay).await?;
    Ok((!stay.is_empty()).then(|| may_not_end(&stay)))
}

fn may_not_end(who: &[String]) -> Failure {
    let message = format!("the source's role may not end: {}", who.join("; "));
    Failure::definite("cutover_sessions_stay", message).remedy(
        "end them by hand, or grant pg_signal_backend to the role (sessions of superusers only they can end), and pg_read_all_stats, \
         which tells a server's own workers from clients; sessions of a provider's own roles, which write nothing of yours, may be left: \
         --leave-sessions-of ROLE",
    )
}

fn do_not_end(who: &str) -> Failure {
    Failure::definite("cutover_sessions_stay", format!("sessions do not end: {who}"))
        .remedy("end them by hand, or give the cutover more time by --timeout")
}

/// Ends every session that began before now but those that may be left, and waits until they are gone. How many there were and who is left, or
/// who does not go.
pub(super) async fn end_earlier(
    ctx: &UnitContext,
    order: &CutoverOrder,
    session: &Session,
    until: Until,
) -> Result<Result<(u32, Vec<String>), Failure>, UnitEnd> {
    let access = session.access();
    let mut beginning: Option<Vec<String>> = None;
    loop {
        ctx.still_mine()?;
        let now: Vec<String> = session.query_one(BEGINNING, &[]).await.about(access)?.get(0);
        let left = match &beginning {
            None => now,
            Some(first) => now.into_iter().filter(|one| first.contains(one)).collect(),
        };
        if left.is_empty() {
            break;
        }
        if until.is_over() {
            let who = format!("{} of them have only just logged in", left.len());
            return Ok(Err(do_not_end(&who).about(access.to_string())));
        }
        beginning = Some(left);
        sleep(LOOK_AGAIN).await;
    }
    let left_alone = left_alone(order);
    let clients = format!("{} and not {left_alone}", of_others(CLIENTS));
    let list = format!("select a.pid from pg_catalog.pg_stat_activity a where {clients}");
    let rows = session.query(&list, &[&of_task(ctx)]).await.about(access)?;
    let pids: Vec<String> = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
    let earlier = format!("a.pid = any ('{{{}}}'::int4[])", pids.join(","));
    let end = format!(
        "select pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a where {clients} and {earlier}"
    );
    loop {
        ctx.still_mine()?;
        let ended = session.query(&end, &[&of_task(ctx)]).await;
        match ended.map_err(PgError::from) {
            Ok(rows) if rows.is_empty() => break,
            Ok(_) if !until.is_over() => sleep(LOOK_AGAIN).await,
            Ok(_) => {
                let left = others(ctx, session, &earlier).await.about(access)?;
                return Ok(Err(do_not_end(&left.join("; ")).about(access.to_string())));
            }
            Err(error) if error.sqlstate() == Some("42501") => {
                let left = format!("{earlier} and not {MAY_END}");
                let left = others(ctx, session, &left).await.about(access)?;
                return Ok(Err(may_not_end(&left).about(access.to_string())));
            }
            Err(error) => return Err(access.failure(&error).into()),
        }
    }
    let left = format!("{} and {left_alone}", of_others(CLIENTS));
    let left = told(ctx, session, &left, LEFT_MAX).await.about(access)?;
    Ok(Ok((u32::try_from(pids.len()).unwrap_or(u32::MAX), left)))
}

/// Ends all of them, as far as that may be: whoever came while the source was fenced would go on reading only, and a pool keeps such a
/// session for hours.
pub(super) async fn end_all(ctx: &UnitContext, session: &Session) {
    let end = format!(
        "select pg_catalog.pg_terminate_backend(a.pid) from pg_catalog.pg_stat_activity a where {} and {MAY_END}",
        of_others(CLIENTS)
    );
    if let Err(error) = session.query(&end, &[&of_task(ctx)]).await {
        tracing::warn!("sessions that began while the source was fenced stay as they are: {error}");
    }
}
