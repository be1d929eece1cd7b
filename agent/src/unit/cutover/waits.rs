//! What holds a cutover up, told when its time is over: at which lock the task's sessions wait, and who holds it; or what they are at. Never
//! what anybody's statement says, for it may hold values.

use std::pin::pin;
use std::time::Duration;

use futures::join;
use pgconvoy_shared::cutover::CutoverOrder;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::UnitKind;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Until, source};
use crate::laws::Law;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// What a step may take longer than the cutover: one that sees the end of the time says more about it.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// Looking may take so long, for writers may be stopped meanwhile.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(2);

/// Sessions of the task, at a lock with whoever holds it, or at work.
const AT: &str = "
    select pg_catalog.format('%s waits for %s on %s that %s holds', pg_catalog.split_part(w.application_name, '/', 3),
        coalesce(l.mode, 'a lock'), coalesce(l.relation::pg_catalog.regclass::text, l.locktype, 'something'),
        case when b.pid = 0 then 'a prepared transaction' else pg_catalog.format('process %s (%s from %s as %s%s%s)', b.pid,
            coalesce(nullif(a.application_name, ''), a.backend_type, 'a nameless session'),
            coalesce(a.client_addr::text, case when a.backend_type is null then 'an address that the role may not see' else 'a local socket' end),
            coalesce(a.usename::text, 'nobody'), ', its transaction began at ' || a.xact_start::timestamptz(0),
            ', its statement at ' || a.query_start::timestamptz(0)) end)
    from pg_catalog.pg_stat_activity w cross join lateral pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) as b (pid)
    left join pg_catalog.pg_stat_activity a on a.pid = b.pid
    left join pg_catalog.pg_locks l on l.pid = w.pid and not l.granted
    where pg_catalog.starts_with(w.application_name, $1)
    union all
    select pg_catalog.format('%s has been at a statement since %s%s', pg_catalog.split_part(w.application_name, '/', 3),
        w.query_start::timestamptz(0), ', waiting for ' || w.wait_event)
    from pg_catalog.pg_stat_activity w
    where pg_catalog.starts_with(w.application_name, $1) and w.state = 'active' and w.backend_type = 'client backend'
    and w.query_start < pg_catalog.now() - interval '1 second' and w.pid <> pg_catalog.pg_backend_pid()
    and pg_catalog.cardinality(pg_catalog.pg_blocking_pids(w.pid)) = 0
    limit 5";

/// How often it is looked who waits for whom.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Comes back once the stream waits at the destination for the session with this process number.
pub(super) async fn stream_waits_for(ctx: &UnitContext, holder: i32) -> Result<(), UnitEnd> {
    let waits = "select exists (select from pg_catalog.pg_stat_activity w where pg_catalog.starts_with(w.application_name, $1)
        and $2::int4 = any (pg_catalog.pg_blocking_pids(w.pid)))";
    let stream = format!("pgconvoy/{}/{}/", ctx.task, UnitKind::Stream.as_str());
    let session = ctx.session(Side::Destination).await?;
    loop {
        sleep(LOOK_AGAIN).await;
        let row = session.query_one(waits, &[&stream, &holder]).await.about(session.access())?;
        if row.get(0) && !Law::Proof.is_left_out() {
            ctx.means.pool.give(session);
            return Ok(());
        }
    }
}

/// What is done in time; else it is looked who holds it up, while it still waits.
pub(super) async fn in_time<T>(
    ctx: &UnitContext,
    until: Until,
    waited_for: &str,
    step: impl Future<Output = Result<T, UnitEnd>>,
) -> Result<Result<T, Failure>, UnitEnd> {
    let mut step = pin!(step);
    match timeout_at(until.0 + GRACE, step.as_mut()).await {
        Ok(done) => done.map(Ok),
        Err(_elapsed) => Ok(Err(timed_out(ctx, waited_for).await)),
    }
}

/// What may take as long as it takes, but may not wait longer for one lock at the destination than the cutover may take behind its fence.
pub(super) async fn unless_held<T>(
    ctx: &UnitContext,
    order: &CutoverOrder,
    waited_for: &str,
    step: impl Future<Output = Result<T, UnitEnd>>,
) -> Result<Result<T, Failure>, UnitEnd> {
    let waits =
        "select exists (select from pg_catalog.pg_stat_activity w where w.application_name = $1
        and pg_catalog.cardinality(pg_catalog.pg_blocking_pids(w.pid)) > 0)";
    let session = ctx.session(Side::Destination).await?;
    let mut at_work = Instant::now();
    let mut step = pin!(step);
    loop {
        if let Ok(done) = timeout(LOOK_AGAIN, step.as_mut()).await {
            ctx.means.pool.give(session);
            return done.map(Ok);
        }
        let row = session.query_one(waits, &[&ctx.application_name()]).await;
        if !row.about(session.access())?.get::<_, bool>(0) {
            at_work = Instant::now();
        }
        if at_work.elapsed() >= Duration::from_millis(order.settings.timeout_ms) {
            return Ok(Err(timed_out(ctx, waited_for).await));
        }
    }
}

/// The failure of a cutover that took too long.
pub(super) async fn timed_out(ctx: &UnitContext, waited_for: &str) -> Failure {
    let mut message = format!("the cutover's time was over before {waited_for}");
    let held_up = held_up(ctx).await;
    if !held_up.is_empty() {
        message = format!("{message}: {}", held_up.join("; "));
    }
    Failure::definite("cutover_timed_out", message).remedy(
        "see what held it up (`task show` tells lag and steps), give it more time by --timeout, and begin anew",
    )
}

async fn held_up(ctx: &UnitContext) -> Vec<String> {
    let (here, there) = join!(at(ctx, Side::Source), at(ctx, Side::Destination));
    let mut told = Vec::new();
    if let (Some(source), Some(destination)) = (here.position, there.position)
        && source > destination
    {
        let lag = source.0 - destination.0;
        told.push(format!("the destination is {lag} bytes of the source's log behind"));
    }
    told.extend(here.told);
    told.extend(there.told);
    told
}

/// What one end says.
#[derive(Default)]
struct End {
    told: Vec<String>,
    /// Up to where the source's log is on disk, or is applied.
    position: Option<Lsn>,
}

/// An end that does not answer has nothing to say: what the cutover waited for is told in any case.
async fn at(ctx: &UnitContext, side: Side) -> End {
    let looked = timeout(LOOK_MAX, look(ctx, side)).await;
    looked.ok().and_then(Result::ok).unwrap_or_default()
}

async fn look(ctx: &UnitContext, side: Side) -> Result<End, Failure> {
    let session = ctx.session(side).await?;
    let position = match side {
        Side::Source => source::flushed_position(&session).await,
        Side::Destination => applied(ctx, &session).await,
    };
    let position = Some(position.about(session.access())?);
    let of_task = format!("pgconvoy/{}/", ctx.task);
    let rows = session.query(AT, &[&of_task]).await.about(session.access())?;
    let told = rows.iter().map(|row| format!("at the {side}, {}", row.get::<_, &str>(0)));
    let told = told.collect();
    ctx.means.pool.give(session);
    Ok(End { told, position })
}

/// Up to where the source's log is applied.
pub(super) async fn applied(ctx: &UnitContext, session: &Session) -> Result<Lsn, PgError> {
    let ask =
        "select coalesce((select lsn::text from pgconvoy.apply_progress where task = $1), '0/0')";
    let row = session.query_one(ask, &[&ctx.task.as_str()]).await?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| PgError::protocol(format!("position {text}")))
}
