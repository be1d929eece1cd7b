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

use futures::{join, try_join};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::quote_literal;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::Purpose;
use tokio::time::Instant;
use tracing::warn;

use super::{UnitContext, UnitEnd, open_stream, replica_identity, schema};
use crate::pg::destination::{AWAKE, SCHEMA_LOCK};
use crate::pg::{About, Session};

/// A server process ends within milliseconds, unless it rolls back much.
const GONE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    ctx.means.keepers.close(&ctx.task);
    if ctx.purpose == Purpose::Migrate && ctx.spec.is_incremental() {
        at_destination(ctx).await?;
        close_stream(ctx).await?;
        return Ok(WorkResult::Finish);
    }
    let (done, kept) = join!(at_destination(ctx), end_keepers(ctx));
    done?;
    // Nothing is written at the source; a keeper there ends with its agent, or with the server, in any case.
    if let Err(failure) = kept {
        warn!("sessions that keep the snapshot at the source may stay for a while: {failure}");
    }
    Ok(WorkResult::Finish)
}

async fn at_destination(ctx: &UnitContext) -> Result<(), UnitEnd> {
    ctx.still_mine()?;
    let session = only_session(ctx, Side::Destination).await?;
    if ctx.purpose == Purpose::Migrate {
        if ctx.spec.incremental.set_replica_identity {
            // What is to be put back is known at the destination alone.
            close_stream(ctx).await?;
            replica_identity::put_back(ctx, &session).await?;
        }
        remove(ctx, &session).await?;
    }
    session.close().await;
    Ok(())
}

/// A slot that stays makes the source keep its log until the disk is full: this is done, or done again.
async fn close_stream(ctx: &UnitContext) -> Result<(), Failure> {
    let session = only_session(ctx, Side::Source).await?;
    open_stream::remove(&session, &ctx.task).await.about(session.access())?;
    session.close().await;
    Ok(())
}

async fn end_keepers(ctx: &UnitContext) -> Result<(), Failure> {
    only_session(ctx, Side::Source).await?.close().await;
    Ok(())
}

/// A session beside which the task has none any more at that end.
async fn only_session(ctx: &UnitContext, side: Side) -> Result<Session, Failure> {
    let session = ctx.session(side).await?;
    // Those that wait here for a unit are better ended in good order.
    ctx.means.pool.close(&ctx.task).await;
    end_sessions(ctx, &session).await?;
    Ok(session)
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
async fn go_live(ctx: &UnitContext, session: &Session) -> Result<(), Failure> {
    session.send_ahead("savepoint live");
    let Err(refused) = schema::go_live(ctx, &**session, session.access()).await else {
        return Ok(());
    };
    session.batch_execute("rollback to live").await.about(session.access())?;
    warn!("left out, as triggers and rules that fire always: {refused}");
    Ok(())
}

async fn remove(ctx: &UnitContext, session: &Session) -> Result<(), Failure> {
    let access = session.access();
    let begin = format!("begin; select pg_advisory_xact_lock({SCHEMA_LOCK})");
    let there = "select to_regclass('pgconvoy.task') is not null";
    let (_, there) =
        try_join!(session.batch_execute(&begin), session.query_one(there, &[])).about(access)?;
    if there.get(0) {
        go_live(ctx, session).await?;
        let task = quote_literal(ctx.task.as_str());
        let forget = format!(
            "{AWAKE}; delete from pgconvoy.task where id = {task}; \
             delete from pgconvoy.identity_set where task = {task}; delete from pgconvoy.switched where task = {task}"
        );
        // Another one's may have ended its cutover, or its row, and be about to clean up.
        let others = "select exists (select from pgconvoy.task) or exists (select from pgconvoy.identity_set)
             or exists (select from pgconvoy.switched)";
        let (_, others) = try_join!(session.batch_execute(&forget), session.query_one(others, &[]))
            .about(access)?;
        if !others.get::<_, bool>(0) {
            return session.batch_execute(REMOVE_AND_COMMIT).await.about(access);
        }
    }
    session.batch_execute("commit").await.about(access)
}

/// Event triggers that came with the schema may refuse that anything is dropped. Who may not switch them off, until the
/// transaction ends, has to live with them. What somebody else put into the schema goes too: it is ours by name.
const REMOVE_AND_COMMIT: &str =
    "select case when rolsuper then set_config('session_replication_role', 'replica', true) end
     from pg_roles where rolname = current_user;
     set local client_min_messages = warning; drop schema pgconvoy cascade; commit";
