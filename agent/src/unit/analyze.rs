//! `analyze` of tables at the destination, so that the first queries there are planned as well as at the source.
//!
//! Each is a transaction of the server's, whose end need not wait for the disk: it is enough that the last one does, for what
//! is written before it is on disk then too (law O6).
//!
//! Autovacuum analyzes the leaves of a partition tree sooner or later, and its root never: whoever has the first leaf of
//! a tree does the root and what is between too.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::WorkResult;
use tracing::warn;

use super::{UnitContext, UnitEnd, fence};
use crate::pg::destination::search_path;
use crate::pg::{About, PgError, Session};

pub(super) async fn run(
    ctx: &UnitContext,
    tables: Vec<QualifiedName>,
) -> Result<WorkResult, UnitEnd> {
    let session = fence::writing_session(ctx).await?;
    let roots = roots(&session, &tables).await?;
    let last = tables.len() + roots.len();
    session.send_ahead("set synchronous_commit = off");
    for (nth, table) in (1..).zip(tables.iter().chain(&roots)) {
        ctx.still_mine()?;
        if nth == last {
            session.send_ahead("set synchronous_commit = on");
        }
        analyze(ctx, &session, table).await?;
        ctx.progress.add(1, 0);
    }
    ctx.means.pool.give(session);
    Ok(WorkResult::Analyze)
}

async fn analyze(
    ctx: &UnitContext,
    session: &Session,
    table: &QualifiedName,
) -> Result<(), UnitEnd> {
    let mut statement = format!("analyze {}", table.quoted());
    let mut done = session.batch_execute(&statement).await.map_err(PgError::from);
    if let Err(error) = &done
        && error.is_name_not_found()
    {
        // The expression of an index may call a function that looks names up.
        let path = search_path::as_at_the_source(&ctx.task, table);
        statement = format!("begin; {path}; {statement}; commit");
        done = session.batch_execute(&statement).await.map_err(PgError::from);
        if done.is_err() {
            // The error is the cause.
            drop(session.batch_execute("rollback").await);
        }
    }
    match done {
        // Dropped meanwhile, by whoever uses the destination already: nothing to analyze. Or, from 17 on, nothing that can be
        // analyzed under any path.
        Err(error) if error.is_name_not_found() => {
            warn!("{table} could not be analyzed: {error}");
            Ok(())
        }
        other => other.about(table).map_err(UnitEnd::from),
    }
}

/// Partitioned tables above these, of which these hold the leaf with the smallest OID.
async fn roots(session: &Session, tables: &[QualifiedName]) -> Result<Vec<QualifiedName>, Failure> {
    let names: Vec<String> = tables.iter().map(QualifiedName::quoted).collect();
    let rows = session
        .query(
            "with mine as (
                 select to_regclass(name)::oid as oid from unnest($1::text[]) as t (name)
             ), above as (
                 select distinct a.relid
                 from mine join pg_class c on c.oid = mine.oid and c.relispartition,
                      pg_partition_ancestors(mine.oid) as a (relid)
                 where a.relid <> mine.oid
             )
             select n.nspname::text, c.relname::text
             from above
             join pg_class c on c.oid = above.relid
             join pg_namespace n on n.oid = c.relnamespace
             where (select min(leaf.relid::oid) from pg_partition_tree(above.relid) as leaf where leaf.isleaf)
                   in (select oid from mine)
             order by 1, 2",
            &[&names],
        )
        .await
        .about(session.access())?;
    let name = |row: &tokio_postgres::Row| {
        QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))
    };
    Ok(rows.iter().map(name).collect())
}
