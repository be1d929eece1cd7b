//! A fence asks sessions to read only; a lock does not ask. While the destination takes over, the tables that are followed are locked at the
//! source against whoever writes: what was written before is in the log before the second marker, and whoever comes later waits until the
//! switch is decided.
//!
//! Tables that the task's role may not lock are left out (that takes `update`, `delete` or `truncate`); and all of them where they are too
//! many for the server's room for locks, which readers need, too, or where somebody keeps one who does not write (a vacuum that makes no
//! way). For these, the marker and the looks at open transactions have to do.

use std::time::Duration;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::{QualifiedName, quote_literal};

use super::source::still_writing;
use super::{check, sessions};
use crate::laws::Law;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, marker, open_stream};

/// A lock is waited for so long: an autovacuum worker makes way after `deadlock_timeout`, which is a second.
const WAIT_MAX: Duration = Duration::from_millis(1500);

/// Relations that the publication names.
fn published(ctx: &UnitContext) -> String {
    format!(
        "pg_catalog.pg_publication_rel r join pg_catalog.pg_publication p on p.oid = r.prpubid and p.pubname = {}",
        quote_literal(&open_stream::name(&ctx.task))
    )
}

/// Locks that stay as long as this is there.
pub(super) struct Locked {
    held_by: Option<Session>,
}

/// Locks what may be locked, or tells who writes there.
pub(super) async fn lock(
    ctx: &UnitContext,
    looks: &Session,
) -> Result<Result<Locked, Failure>, UnitEnd> {
    let access = looks.access();
    let tables = tables(ctx, looks).await.about(access)?;
    if tables.is_empty() || Law::Proof.is_left_out() {
        return Ok(Ok(Locked { held_by: None }));
    }
    let session = access.session().await.about(access)?;
    let only: Vec<String> = tables.iter().map(|table| format!("only {}", table.quoted())).collect();
    let lock = format!(
        "begin; set local lock_timeout = {}; lock table {} in share mode",
        WAIT_MAX.as_millis(),
        only.join(", ")
    );
    match session.batch_execute(&lock).await.map_err(PgError::from) {
        Ok(()) => return Ok(Ok(Locked { held_by: Some(session) })),
        Err(error) if error.sqlstate().is_none() => return Err(error).about(access)?,
        Err(error) => tracing::warn!(%error, "tables cannot be locked for the switch"),
    }
    let who = sessions::writers(ctx, looks, &holds_a_lock(ctx)).await.about(access)?;
    if who.is_empty() {
        return Ok(Ok(Locked { held_by: None }));
    }
    Ok(Err(still_writing(&who).about(access.to_string())))
}

impl Locked {
    /// Whether the session that holds them is there still.
    pub(super) async fn hold(&self) -> Result<(), UnitEnd> {
        if let Some(session) = &self.held_by {
            session.batch_execute("select").await.about(session.access())?;
        }
        Ok(())
    }

    pub(super) async fn release(self) {
        if let Some(session) = self.held_by {
            session.close().await;
        }
    }
}

/// But for the one of our markers, to which one is yet to be written. None, if there is no room for that many.
async fn tables(ctx: &UnitContext, session: &Session) -> Result<Vec<QualifiedName>, PgError> {
    let ask = format!(
        "select n.nspname::text, c.relname::text from {}
         join pg_catalog.pg_class c on c.oid = r.prrelid
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.oid is distinct from pg_catalog.to_regclass($1)
         and pg_catalog.has_table_privilege(c.oid, 'update, delete, truncate') order by c.oid",
        published(ctx)
    );
    let rows = session.query(&ask, &[&marker::table(&ctx.task).quoted()]).await?;
    let room = "select pg_catalog.current_setting('max_locks_per_transaction')::int8
        * (pg_catalog.current_setting('max_connections')::int8 + pg_catalog.current_setting('max_prepared_transactions')::int8)";
    let room: i64 = session.query_one(room, &[]).await?.get(0);
    let fits = i64::try_from(rows.len()).is_ok_and(|count| count <= room / 2);
    Ok(if fits { rows.iter().map(check::table).collect() } else { Vec::new() })
}

/// A session that writes, or is about to: it has locked one of them so.
fn holds_a_lock(ctx: &UnitContext) -> String {
    format!(
        "exists (select from {} join pg_catalog.pg_locks l on l.relation = r.prrelid
         where l.pid = a.pid and l.granted and l.database = a.datid
         and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))",
        published(ctx)
    )
}
