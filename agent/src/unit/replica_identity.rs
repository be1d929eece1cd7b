//! Replica identities for as long as a task lasts, where the user consents (`incremental.replica_identity: set_full`).
//!
//! Which tables and what they had is written down at the destination first, durably; then each table of the source is given
//! `full`. What is written down is put back at the end of the task, when the publication is gone: a published table that
//! nothing identifies the rows of takes no updates. Either may be done again, by whoever comes next.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::name::QualifiedName;

use super::{UnitContext, UnitEnd, apply_key, survey};
use crate::pg::{About, PgError, Session};

/// Whoever waits for the table's lock holds up all others: it is tried again by the unit's next attempt instead.
const LOCK_TIMEOUT: &str = "set lock_timeout = '2s'";

/// A table that goes by another name meanwhile, or is gone.
const UNDEFINED_TABLE: &str = "42P01";

/// Gives `full` to all tables that take part and have no replica identity that would do.
pub(super) async fn set(ctx: &UnitContext, source: &Session) -> Result<(), UnitEnd> {
    let access = source.access();
    let lacking = format!(
        "select n.nspname::text, c.relname::text, case c.relreplident
             when 'd' then 'default'
             when 'i' then coalesce((select 'using index ' || pg_catalog.quote_ident(i.relname)
                 from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid
                 where x.indrelid = c.oid and x.indisreplident), 'nothing')
             else 'nothing' end
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relpersistence = 'p' and c.relreplident <> 'f' and {key} is null and {taking_part} order by 1, 2",
        key = apply_key::INDEX,
        taking_part = survey::TAKING_PART,
    );
    let rows = source.query(&lacking, &[]).await.about(access)?;
    let tables: Vec<(QualifiedName, &str)> = rows
        .iter()
        .map(|row| (QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1)), row.get(2)))
        .filter(|(table, _)| ctx.spec.objects.matches(table))
        .collect();
    if tables.is_empty() {
        return Ok(());
    }
    write_down(ctx, &tables).await?;
    source.batch_execute(LOCK_TIMEOUT).await.about(access)?;
    for (table, _) in &tables {
        ctx.still_mine()?;
        identify(source, table, "full").await.about(table)?;
    }
    source.batch_execute("reset lock_timeout").await.about(access)?;
    Ok(())
}

async fn write_down(ctx: &UnitContext, tables: &[(QualifiedName, &str)]) -> Result<(), UnitEnd> {
    let session = ctx.session(Side::Destination).await?;
    let access = session.access().clone();
    let schemas: Vec<&str> = tables.iter().map(|(table, _)| &*table.schema).collect();
    let names: Vec<&str> = tables.iter().map(|(table, _)| &*table.name).collect();
    let was: Vec<&str> = tables.iter().map(|(_, was)| *was).collect();
    let note = "insert into pgconvoy.identity_set (task, schema_name, table_name, was)
                select $1, t.* from unnest($2::text[], $3::text[], $4::text[]) as t on conflict do nothing";
    let task = ctx.task.as_str();
    ctx.still_mine()?;
    session.execute(note, &[&task, &schemas, &names, &was]).await.about(&access)?;
    ctx.means.pool.give(session);
    Ok(())
}

async fn identify(source: &Session, table: &QualifiedName, by: &str) -> Result<(), PgError> {
    let alter = format!("alter table only {} replica identity {by}", table.quoted());
    Ok(source.batch_execute(&alter).await?)
}

/// Puts back what is written down, where nobody has changed it since.
pub(super) async fn put_back(ctx: &UnitContext, destination: &Session) -> Result<(), Failure> {
    let access = destination.access();
    let there = "select to_regclass('pgconvoy.identity_set') is not null";
    if !destination.query_one(there, &[]).await.about(access)?.get::<_, bool>(0) {
        return Ok(());
    }
    let noted = "select schema_name, table_name, was from pgconvoy.identity_set where task = $1 order by 1, 2";
    let rows = destination.query(noted, &[&ctx.task.as_str()]).await.about(access)?;
    if rows.is_empty() {
        return Ok(());
    }
    let source = ctx.session(Side::Source).await?;
    let access = source.access().clone();
    source.batch_execute(LOCK_TIMEOUT).await.about(&access)?;
    for row in &rows {
        let table = QualifiedName::new(row.get::<_, &str>(0), row.get::<_, &str>(1));
        let is_full = "select exists (select from pg_catalog.pg_class
                       where oid = pg_catalog.to_regclass($1) and relreplident = 'f')";
        let is_full: bool =
            source.query_one(is_full, &[&table.quoted()]).await.about(&table)?.get(0);
        if !is_full {
            continue;
        }
        match identify(&source, &table, row.get(2)).await {
            Err(error) if error.sqlstate() == Some(UNDEFINED_TABLE) => {}
            outcome => outcome.about(&table)?,
        }
    }
    ctx.means.pool.give(source);
    Ok(())
}
