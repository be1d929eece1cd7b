//! What the source's catalogue says of one table. Asked under the table's lock, in a transaction that sees the present.

use pgconvoy_flow::large_objects;
use pgconvoy_flow::shards::TableSize;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{KeyColumn, Part, TablePlan};

use crate::pg::PgError;
use crate::pg::wire::{TextRow, Wire, field};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_oid: u32,
    /// Each server works its values out by itself: it does not travel.
    pub(super) generated: bool,
}

/// A table's place under hash partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::unit) struct HashLeaf {
    /// The root of its partition tree.
    pub(in crate::unit) root: QualifiedName,
    /// Whether its rows belong to the leaf of the same name on any server with the same encoding: all partition keys are
    /// built-in types, whose hashes do not depend on object ids.
    pub(in crate::unit) stable: bool,
}

/// Whether no row of a table has a null in its column `a`. Of a constraint that is not valid, which PostgreSQL 18 knows, the
/// rows that were there first need not take notice.
pub(in crate::unit) const NEVER_NULL: &str = "(a.attnotnull and not exists (
    select from pg_catalog.pg_constraint n where n.conrelid = a.attrelid and n.contype = 'n'
    and n.conkey[1] = a.attnum and not n.convalidated))";

pub(in crate::unit) fn regclass(table: &QualifiedName) -> String {
    format!("{}::pg_catalog.regclass", quote_literal(&table.quoted()))
}

/// Asks for all columns, in their order.
pub(super) fn ask_columns(table: &QualifiedName) -> String {
    format!(
        "select attname, atttypid, (attgenerated <> '')::int from pg_catalog.pg_attribute where attrelid = {} \
         and attnum > 0 and not attisdropped order by attnum",
        regclass(table)
    )
}

/// Reads the answer.
pub(super) fn read_columns(rows: &[TextRow]) -> Result<Vec<Column>, PgError> {
    let column = |row: &TextRow| {
        let generated = field::<i32>(row, 2)? == 1;
        Ok(Column { name: field(row, 0)?, type_oid: field(row, 1)?, generated })
    };
    rows.iter().map(column).collect()
}

/// The unique index whose order can cut the table (law S5): complete, immediate, over plain columns that are never null,
/// sorted in one direction by the very operators and collations that a comparison uses. The primary key if it is one.
pub(in crate::unit) async fn key(
    wire: &mut Wire,
    table: &QualifiedName,
) -> Result<Vec<KeyColumn>, PgError> {
    let sql = format!(
        "with usable as (
            select i.indexrelid, i.indkey::int2[] as columns, i.indnkeyatts
            from pg_catalog.pg_index i
            where i.indrelid = {table} and i.indisunique and i.indimmediate and i.indisvalid
            and i.indpred is null and i.indexprs is null
            and not exists (
                select from unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[])
                    with ordinality as k(attnum, opclass, collation_oid, options, ord)
                join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                join pg_catalog.pg_opclass o on o.oid = k.opclass
                where k.ord <= i.indnkeyatts and not (
                    {NEVER_NULL} and a.attgenerated = '' and o.opcdefault
                    and o.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace
                    and k.collation_oid = a.attcollation and k.options & 1 = i.indoption[0] & 1))
            order by i.indisprimary desc, i.indnkeyatts, i.indexrelid limit 1)
        select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
        from usable u, unnest(u.columns) with ordinality as k(attnum, ord)
        join pg_catalog.pg_attribute a on a.attrelid = {table} and a.attnum = k.attnum
        where k.ord <= u.indnkeyatts order by k.ord",
        table = regclass(table)
    );
    let rows = wire.query(&sql).await?;
    rows.iter()
        .map(|row| Ok(KeyColumn { name: field(row, 0)?, type_name: field(row, 1)? }))
        .collect()
}

/// Whether each row of the locked table is in some part of the plan's: a null in the key would be in no range of it. It had
/// none when it was planned, but that may have been allowed since.
pub(in crate::unit) async fn ranges_hold_all(
    wire: &mut Wire,
    plan: &TablePlan,
    part: &Part,
    table: &QualifiedName,
) -> Result<bool, PgError> {
    let of_catalogue = plan.name == large_objects::table();
    match part {
        Part::Range { .. } if !of_catalogue => {}
        Part::Range { .. } | Part::Whole | Part::Blocks { .. } => return Ok(true),
    }
    let names: Vec<String> = plan.key.iter().map(|column| quote_literal(&column.name)).collect();
    let sql = format!(
        "select count(*) from pg_catalog.pg_attribute a where a.attrelid = {} and a.attname in ({}) and {NEVER_NULL}",
        regclass(table),
        names.join(", ")
    );
    Ok(wire.value(&sql).await? == plan.key.len().to_string())
}

/// Where the table stands, if any partitioned table above it is cut by hash.
pub(in crate::unit) async fn hash_leaf(
    wire: &mut Wire,
    table: &QualifiedName,
) -> Result<Option<HashLeaf>, PgError> {
    let sql = format!(
        "select n.nspname, r.relname, (
            select pg_catalog.bool_and(k.attnum <> 0 and t.typtype = 'b'
                and t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace)::int
            from pg_catalog.pg_partition_ancestors({table}) above
            join pg_catalog.pg_partitioned_table p on p.partrelid = above.relid and p.partstrat = 'h'
            cross join unnest(p.partattrs::int2[]) as k(attnum)
            left join pg_catalog.pg_attribute a on a.attrelid = p.partrelid and a.attnum = k.attnum
            left join pg_catalog.pg_type t on t.oid = a.atttypid)
        from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace
        where r.oid = pg_catalog.pg_partition_root({table})",
        table = regclass(table)
    );
    let rows = wire.query(&sql).await?;
    // No root: no partition. No answer on the keys: nothing above it is cut by hash.
    let Some(row) = rows.first().filter(|row| row.get(2).is_some_and(Option::is_some)) else {
        return Ok(None);
    };
    let root = QualifiedName::new(field::<String>(row, 0)?, field::<String>(row, 1)?);
    Ok(Some(HashLeaf { root, stable: field::<i32>(row, 2)? == 1 }))
}

/// How large the table is, `bytes` as the survey saw it; and whether it is a partition, of which there is more to ask.
pub(in crate::unit) async fn size(
    wire: &mut Wire,
    table: &QualifiedName,
    bytes: u64,
) -> Result<(TableSize, bool), PgError> {
    read_size(&wire.query(&ask_size(table)).await?, bytes)
}

/// The question for [`size`].
pub(super) fn ask_size(table: &QualifiedName) -> String {
    format!(
        "select pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int, \
         greatest(c.reltuples, 0)::bigint, c.relispartition::int from pg_catalog.pg_class c where c.oid = {}",
        regclass(table)
    )
}

/// Reads its answer.
pub(super) fn read_size(rows: &[TextRow], bytes: u64) -> Result<(TableSize, bool), PgError> {
    let row = rows.first().ok_or_else(|| PgError::protocol("a locked table is not in pg_class"))?;
    let size = TableSize { bytes, blocks: field(row, 0)?, rows: field(row, 1)? };
    Ok((size, field::<i32>(row, 2)? == 1))
}
