//! The apply key of a table: the columns by which a change finds its row (law S9).
//!
//! It is a unique index that the replica identity tells the columns of: the primary key, the index named, or under `full` the
//! primary key or whatever other index will do. It has to be valid and immediate, on plain columns that are never null, of all
//! rows. Under `full` a table may have none: its rows are found by all of their values.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{QualifiedName, quote_identifier, quote_literal};
use pgconvoy_shared::unit::PlanTable;
use serde::{Deserialize, Serialize};

use super::plan_tables::catalog::regclass;
use super::{UnitContext, UnitEnd, open_stream, source_table};
use crate::pg::wire::{Wire, field};
use crate::pg::{About, PgError};

/// The object id of the key's index, as SQL about the row `c` of `pg_class`; null = there is none.
pub(super) const INDEX: &str = "(
    select i.indexrelid from pg_catalog.pg_index i
    where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate
    and i.indpred is null and i.indexprs is null
    and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else c.relreplident = 'f' end
    and not exists (
        select from unnest(i.indkey::int2[]) with ordinality as k(attnum, ord)
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.ord <= i.indnkeyatts and not (a.attnotnull and a.attgenerated = ''))
    order by i.indisprimary desc, i.indnkeyatts, i.indexrelid limit 1)";

/// What whoever applies a table's changes has to know of its source: kept at the destination with the plan, so that it is
/// taken over together with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// Its object id at the source.
    pub(crate) relation: u32,
    /// Its name at the source.
    pub(crate) name: QualifiedName,
    /// All columns but generated ones.
    pub(crate) columns: Vec<FollowedColumn>,
    /// Names of the columns of the apply key; none = it has no key.
    pub(crate) key: Vec<String>,
    /// `pg_current_snapshot()` under which it was planned: what that shows, every shard shows (law S3).
    pub(crate) snapshot: String,
    /// It is copied under one snapshot for certain: whatever that does not show is applied, and finds its row.
    pub(crate) one_snapshot: bool,
}

/// A column of a source's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FollowedColumn {
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

/// Looks at a locked table, in the transaction that plans it, whose moment is noted; the WAL position of that is to be flushed
/// before the plan is made current. None: it is unlogged, and no stream tells of it.
pub(super) async fn look_at(
    ctx: &UnitContext,
    wire: &mut Wire,
    planned: &PlanTable,
) -> Result<Option<(Followed, Lsn)>, UnitEnd> {
    let (no, table) = (planned.no, &planned.name);
    let (snapshot, noted) = source_table::note_moment(wire).await.about(table)?;
    let Identity { relation, is_logged, is_published, is_identified } =
        identity(wire, ctx, table).await.about(table)?;
    if !is_logged {
        return Ok(None);
    }
    if !is_published {
        let task = &ctx.task;
        let then = match planned.anew {
            true => format!("`pgconvoy task resync {task} {table}` again"),
            false => "resume the task".to_owned(),
        };
        let failure = not_published(task, table, is_identified, &then);
        return Err(UnitEnd::TableChanged { table: no, failure });
    }
    let columns = columns(wire, table).await.about(table)?;
    let key = key(wire, table).await.about(table)?;
    let name = table.clone();
    let one_snapshot = planned.anew;
    Ok(Some((Followed { relation, name, columns, key, snapshot, one_snapshot }, noted)))
}

/// What parks a table, or ends its plan, that the task's publication does not name.
pub(super) const NOT_PUBLISHED: &str = "table_not_published";

/// While it is published nobody may have written to it in a transaction that is open: older servers go on by what they knew of
/// the table when such a one began. And once it is, the source refuses updates and deletes of it, unless something identifies its
/// rows, as `is_identified` says. `then`: what is to be done after it.
pub(super) fn not_published(
    task: &TaskId,
    table: &QualifiedName,
    is_identified: bool,
    then: &str,
) -> Failure {
    let (publication, quoted) = (quote_identifier(&open_stream::name(task)), table.quoted());
    let first = match is_identified {
        true => String::new(),
        false => format!("alter table only {quoted} replica identity full; "),
    };
    Failure::definite(
        NOT_PUBLISHED,
        "it is not in the task's publication: it was made again after changes began to be followed",
    )
    .about(table.to_string())
    .remedy(format!(
        "at the source: {first}begin; lock table only {quoted} in share row exclusive mode; \
         alter publication {publication} add table only {quoted}; commit; then {then}"
    ))
}

struct Identity {
    relation: u32,
    is_logged: bool,
    is_published: bool,
    /// Something tells which of its rows an update or a delete is of.
    is_identified: bool,
}

async fn identity(
    wire: &mut Wire,
    ctx: &UnitContext,
    table: &QualifiedName,
) -> Result<Identity, PgError> {
    let sql = format!(
        "select c.oid, c.relpersistence = 'p', exists (
            select from pg_catalog.pg_publication_rel r
            join pg_catalog.pg_publication p on p.oid = r.prpubid
            where p.pubname = {publication} and r.prrelid = c.oid),
            c.relreplident = 'f' or {INDEX} is not null
         from pg_catalog.pg_class c where c.oid = {table}",
        table = regclass(table),
        publication = quote_literal(&open_stream::name(&ctx.task)),
    );
    let rows = wire.query(&sql).await?;
    let row = rows.first().ok_or_else(|| PgError::protocol("a table without identity"))?;
    let yes = |no| Ok::<_, PgError>(field::<String>(row, no)? == "t");
    Ok(Identity {
        relation: field(row, 0)?,
        is_logged: yes(1)?,
        is_published: yes(2)?,
        is_identified: yes(3)?,
    })
}

async fn columns(wire: &mut Wire, table: &QualifiedName) -> Result<Vec<FollowedColumn>, PgError> {
    let sql = format!(
        "select attname, atttypid, atttypmod from pg_catalog.pg_attribute where attrelid = {} and attnum > 0 \
         and not attisdropped and attgenerated = '' order by attnum",
        regclass(table)
    );
    let rows = wire.query(&sql).await?;
    let column = |row| {
        Ok(FollowedColumn {
            name: field(row, 0)?,
            type_oid: field(row, 1)?,
            type_modifier: field(row, 2)?,
        })
    };
    rows.iter().map(column).collect()
}

async fn key(wire: &mut Wire, table: &QualifiedName) -> Result<Vec<String>, PgError> {
    let sql = format!(
        "select a.attname from pg_catalog.pg_class c
         join pg_catalog.pg_index i on i.indexrelid = {INDEX}
         cross join unnest(i.indkey::int2[]) with ordinality as k(attnum, ord)
         join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
         where c.oid = {} and k.ord <= i.indnkeyatts order by k.ord",
        regclass(table)
    );
    let rows = wire.query(&sql).await?;
    rows.iter().map(|row| field(row, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_not_published_before_something_identifies_its_rows() {
        let told = |is_identified| {
            let (task, table) = (TaskId::from_parts(1, 0), QualifiedName::new("public", "hist"));
            not_published(&task, &table, is_identified, "go on").remedy
        };
        let full = "at the source: alter table only \"public\".\"hist\" replica identity full";
        assert!(told(true).starts_with("at the source: begin; lock table only "));
        assert!(told(false).starts_with(&format!("{full}; begin; lock table only ")));
    }
}
