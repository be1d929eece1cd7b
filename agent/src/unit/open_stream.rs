//! Opening a stream: from here on the source keeps every change until it is applied.
//!
//! In this order (law S1), at the source alone:
//!
//! 1. End what older owners left (law O5), and remove the slot and publication that one of them may have made: what Raft does
//!    not know of is of no use, for nobody can tell whether anything was read of it.
//!    Where the user consents, tables that nothing identifies the rows of get a replica identity ([`replica_identity`]).
//! 2. The publication, of all tables that take part. Before the slot, for a change is published only if the publication was
//!    there when it was made.
//! 3. The slot. Its making waits for every transaction that is open by then; what is committed behind its consistent point is
//!    in the stream.
//! 4. A transaction id, given out when the slot exists: the barrier that the copy waits for (law S2).
//!
//! All of it goes into Raft as the unit's result. What is made stays until the task ends ([`remove`]).

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};
use pgconvoy_shared::unit::{StreamOpened, WorkResult};

use super::{UnitContext, UnitEnd, apply_key, marker, replica_identity, survey};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::Wire;
use crate::pg::{About, Access, PgError, Session};

/// Tables that are told of by name in one failure.
const NAMES_TOLD: usize = 20;

/// What the names of all publications and slots of ours begin with.
pub(super) const PREFIX: &str = "pgconvoy_";

/// What slot and publication of a task are called.
pub(super) fn name(task: &TaskId) -> String {
    format!("{PREFIX}{task}")
}

pub(super) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let mut session = ctx.session(Side::Source).await?;
    let access = session.access().clone();
    end_old_sessions(&mut session).await?;
    ctx.still_mine()?;
    remove(&session, &ctx.task).await.about(&access)?;
    if ctx.spec.incremental.set_replica_identity {
        replica_identity::set(ctx, &session).await?;
    }
    publish(ctx, &session).await?;

    let mut replication = access.replication().await.about(&access)?;
    let system = replication.identify().await.about(&access)?;
    ctx.still_mine()?;
    let start = replication.create_slot(&name(&ctx.task)).await.about(&access)?;
    replication.close().await;
    let barrier = newest_transaction(&session).await.about(&access)?;
    ctx.means.pool.give(session);
    Ok(WorkResult::OpenStream(StreamOpened {
        start,
        barrier,
        system_identifier: system.identifier,
        timeline: system.timeline,
    }))
}

/// A transaction id that was not given out before.
pub(super) async fn newest_transaction(session: &Session) -> Result<u64, PgError> {
    let row = session.query_one("select pg_catalog.pg_current_xact_id()::text", &[]).await?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| PgError::protocol(format!("transaction id {text}")))
}

/// Removes slot, publication and markers, as far as they are there.
pub(super) async fn remove(session: &Session, task: &TaskId) -> Result<(), PgError> {
    let name = name(task);
    let slot = "select pg_catalog.pg_drop_replication_slot(slot_name) \
                from pg_catalog.pg_replication_slots where slot_name = $1";
    session.query(slot, &[&name]).await?;
    let publication = format!(
        "set client_min_messages = warning; drop publication if exists {}; reset client_min_messages",
        quote_identifier(&name)
    );
    session.batch_execute(&publication).await?;
    marker::remove(session, task).await
}

/// Tables that the task would follow if they had been there when the publication was made: those that it does not name, and
/// those that are none of these, by their object ids.
pub(super) async fn not_followed(
    session: &Session,
    ctx: &UnitContext,
    followed: &[u32],
) -> Result<Vec<QualifiedName>, PgError> {
    let tables = format!(
        "select n.nspname::text, c.relname::text
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relpersistence = 'p' and {taking_part} and not (c.oid = any ($2::oid[]) and exists (
             select from pg_catalog.pg_publication_rel pr join pg_catalog.pg_publication p on p.oid = pr.prpubid
             where pr.prrelid = c.oid and p.pubname = $1))
         order by 1, 2",
        taking_part = survey::TAKING_PART,
    );
    let rows = session.query(&tables, &[&name(&ctx.task), &followed]).await?;
    let names =
        rows.iter().map(|row| QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)));
    Ok(names.filter(|table| ctx.spec.objects.matches(table)).collect())
}

/// Whether the source still keeps the changes that the copy relies on: without them all that is copied is in vain.
pub(super) async fn check_kept(ctx: &UnitContext, wire: &mut Wire) -> Result<(), UnitEnd> {
    let (name, access) = (name(&ctx.task), wire.access().clone());
    let ask = format!(
        "select coalesce(wal_status, '') from pg_catalog.pg_replication_slots where slot_name = {}",
        quote_literal(&name)
    );
    let rows = wire.query(&ask).await.about(&access)?;
    match rows.first().and_then(|row| row.first()).and_then(Option::as_deref) {
        None => Err(gone(&access, &name).into()),
        Some("lost") => Err(given_up(&access, &name).into()),
        Some(_) => Ok(()),
    }
}

/// There is no slot any more.
pub(super) fn gone(access: &Access, slot: &str) -> Failure {
    lost(access, format!("the source has no slot {slot} any more"))
}

/// The source has no log for it any more.
pub(super) fn given_up(access: &Access, slot: &str) -> Failure {
    lost(access, format!("the source has given slot {slot} up: it kept too much log"))
}

/// The slot does not hold what comes next.
pub(super) fn lost(access: &Access, what: String) -> Failure {
    Failure::definite("slot_lost", what).about(access.to_string()).remedy(
        "changes are missing that nothing can bring back: cancel the task, empty the destination and create the task again, \
         with max_slot_wal_keep_size = -1 or more disk for the source's log",
    )
}

async fn publish(ctx: &UnitContext, session: &Session) -> Result<(), UnitEnd> {
    let access = session.access();
    let tables = session
        .query(
            &format!(
                "select n.nspname::text, c.relname::text, c.relreplident = 'f' or {key} is not null
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 where c.relpersistence = 'p' and {taking_part} order by 1, 2",
                key = apply_key::INDEX,
                taking_part = survey::TAKING_PART,
            ),
            &[],
        )
        .await
        .about(access)?;
    let (mut published, mut unidentified) = (Vec::new(), Vec::new());
    for row in &tables {
        let table = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        if !ctx.spec.objects.matches(&table) {
            continue;
        }
        if !row.get::<_, bool>(2) {
            unidentified.push(table.to_string());
        }
        published.push(format!("only {}", table.quoted()));
    }
    if !unidentified.is_empty() {
        return Err(without_identity(&unidentified).into());
    }
    let name = quote_identifier(&name(&ctx.task));
    let tables = match published.is_empty() {
        true => String::new(),
        false => format!(" for table {}", published.join(", ")),
    };
    ctx.still_mine()?;
    session.batch_execute(&format!("create publication {name}{tables}")).await.about(access)?;
    Ok(())
}

/// Published as it is, the source itself would refuse updates and deletes of such a table.
fn without_identity(tables: &[String]) -> Failure {
    let told = tables.iter().take(NAMES_TOLD).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = tables.len().saturating_sub(NAMES_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Failure::definite(
        "replica_identity_missing",
        format!("without a replica identity: {told}{more}"),
    )
    .remedy("alter table … replica identity full; or give it a primary key; or leave it out, and resume the task")
}
