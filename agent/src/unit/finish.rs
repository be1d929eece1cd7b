//! The end of a task: nothing of it is left at the databases, and nobody writes for it any more (law O9).
//!
//! At the destination, in this order:
//!
//! 1. Sessions of the task are ended: what a stopped owner has open is rolled back.
//! 2. Under the lock of schema `pgconvoy`: what waited for the last change to be applied is made; the task's row goes, and with it all that hangs on it; with the last task's the
//!    schema. Any statement of the task that comes later raises, for it looks for that row, or for its function, first.
//!
//! (What only compares made nothing there, and touches nothing.) At the source the sessions that keep the task's snapshot are
//! ended, and where changes are followed, slot and publication go. All of it may be done again.

use std::time::Duration;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::Purpose;
use tokio::time::Instant;
use tokio_postgres::Transaction;
use tracing::warn;

use super::{UnitContext, UnitEnd, open_stream, replica_identity, schema};
use crate::pg::destination::{AWAKE, SCHEMA_LOCK};
use crate::pg::{About, Access, Session};

/// A server process ends within milliseconds, unless it rolls back much.
const GONE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    ctx.means.keepers.close(&ctx.task);
    ctx.means.pool.close(&ctx.task).await;
    let mut session = ctx.session(Side::Destination).await?;
    let access = session.access().clone();
    ctx.still_mine()?;
    end_sessions(ctx, &session).await?;
    if ctx.purpose == Purpose::Migrate && ctx.spec.incremental.set_replica_identity {
        // What is to be put back is known at the destination alone.
        close_stream(ctx).await?;
        replica_identity::put_back(ctx, &session).await?;
    }
    if ctx.purpose == Purpose::Migrate {
        remove(ctx, &mut session).await?;
    }
    session.close().await;

    if ctx.purpose == Purpose::Migrate && ctx.spec.is_incremental() {
        close_stream(ctx).await?;
        return Ok(WorkResult::Finish);
    }
    // Nothing is written at the source; a keeper there ends with its agent, or with the server, in any case.
    if let Err(failure) = end_keepers(ctx).await {
        warn!("sessions that keep the snapshot at the source may stay for a while: {failure}");
    }
    Ok(WorkResult::Finish)
}

/// A slot that stays makes the source keep its log until the disk is full: this is done, or done again.
async fn close_stream(ctx: &UnitContext) -> Result<(), Failure> {
    let session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    end_sessions(ctx, &session).await?;
    open_stream::remove(&session, &ctx.task).await.about(&access)?;
    session.close().await;
    Ok(())
}

async fn end_keepers(ctx: &UnitContext) -> Result<(), Failure> {
    let session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    end_sessions(ctx, &session).await?;
    session.close().await;
    Ok(())
}

/// Ends all sessions of the task but those of this lease, and waits until they are gone.
async fn end_sessions(ctx: &UnitContext, session: &Session) -> Result<(), Failure> {
    let end = Instant::now() + GONE_LIMIT;
    let mine = ctx.application_name();
    let of_task = format!("pgconvoy/{}/", ctx.task);
    loop {
        let query = "select pid, pg_terminate_backend(pid) from pg_stat_activity
                     where starts_with(application_name, $1) and application_name <> $2
                       and usename = current_user";
        let left = session.query(query, &[&of_task, &mine]).await.about(session.access())?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let pids: Vec<String> =
                left.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
            return Err(Failure::transient(
                "old_session_stays",
                format!("server processes {} of the task do not end", pids.join(", ")),
            )
            .about(session.access().to_string())
            .remedy("look at these processes on the server; one that is stopped has to be resumed or killed"));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What could be made is made before the rest goes; what is refused is told, and keeps nobody from ending the task.
async fn go_live(
    ctx: &UnitContext,
    transaction: &mut Transaction<'_>,
    access: &Access,
) -> Result<(), Failure> {
    let inner = transaction.savepoint("live").await.about(access)?;
    match schema::go_live(ctx, &inner, access).await {
        Ok(()) => inner.commit().await.about(access),
        Err(refused) => {
            inner.rollback().await.about(access)?;
            warn!("left out, as triggers and rules that fire always: {refused}");
            Ok(())
        }
    }
}

async fn remove(ctx: &UnitContext, session: &mut Session) -> Result<(), Failure> {
    let access = session.access().clone();
    let mut transaction = session.transaction().await.about(&access)?;
    let lock = "select pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&SCHEMA_LOCK]).await.about(&access)?;
    let there = "select to_regclass('pgconvoy.task') is not null";
    if transaction.query_one(there, &[]).await.about(&access)?.get(0) {
        go_live(ctx, &mut transaction, &access).await?;
        transaction.batch_execute(AWAKE).await.about(&access)?;
        let row = "delete from pgconvoy.task where id = $1";
        transaction.execute(row, &[&ctx.task.as_str()]).await.about(&access)?;
        let identities = "delete from pgconvoy.identity_set where task = $1";
        transaction.execute(identities, &[&ctx.task.as_str()]).await.about(&access)?;
        let others = "select exists (select from pgconvoy.task) or exists (select from pgconvoy.identity_set)";
        let others: bool = transaction.query_one(others, &[]).await.about(&access)?.get(0);
        if !others {
            without_event_triggers(&transaction).await.about(&access)?;
            // What somebody else put into it goes too: the schema is ours by name.
            transaction
                .batch_execute(
                    "set local client_min_messages = warning; drop schema pgconvoy cascade",
                )
                .await
                .about(&access)?;
        }
    }
    transaction.commit().await.about(&access)
}

/// Event triggers that came with the schema may refuse that anything is dropped. Who may not switch them off, until the
/// transaction ends, has to live with them.
async fn without_event_triggers(
    transaction: &Transaction<'_>,
) -> Result<(), tokio_postgres::Error> {
    let allowed =
        "select case when rolsuper then set_config('session_replication_role', 'replica', true) end
                   from pg_roles where rolname = current_user";
    transaction.query_opt(allowed, &[]).await.map(drop)
}
