//! How the rows of tables can be compared: read-only at both ends.
//!
//! ```text
//!  source half                                destination half
//!  lock, columns, key, size of a table ────▶  the table there: its columns
//!  cut, or name why not               ◀────  columns of both, or why not
//! ```
//!
//! Leaves of hash partitions whose key each server hashes in its own way hold other rows at each end. They are compared through their
//! root, all as one table; each of them is answered with that plan, and the coordinator takes the first.
//!
//! All columns are compared, generated ones too, in the order of their names after those of the key. Rows are known by their
//! key, the one by which the table could be cut; without one the table is a multiset.
//!
//! A table is one shard, of which each end reads several ranges of its own blocks at once ([`reading`](super::reading)):
//! digests need no order, and in the order of the disk a server reads with a third less work than along an index. A table
//! that would keep one agent busy for long is cut into ranges of its key, so that all agents have a part in it; but only
//! where both ends sort that key alike for certain and neither has a null in it ([`ranges_alike`]): in any other order a row
//! would be looked for in the wrong range at one of the two ends, and told as missing; and a null is in no range at all.

use std::collections::BTreeMap;

use pgconvoy_flow::formats::{KeyType, ranges_alike};
use pgconvoy_flow::shards::{self, TableSize};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{
    CopyFormat, KeyColumn, PlanTable, PlannedShard, ResultPart, TablePlan, WorkResult,
};
use pgconvoy_shared::verify::NotCompared;

use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::{Wire, field};
use crate::pg::{About, PgError};
use crate::unit::link::{Link, link};
use crate::unit::plan_tables::catalog::{self, HashLeaf, NEVER_NULL};
use crate::unit::plan_tables::{TID_RANGE_SCAN, ranges, tell};
use crate::unit::{UnitContext, UnitEnd, large_objects, source_table};

/// A table of at most so many shards' size is not cut: 4 GiB by default, half a minute for one agent.
const SHARDS_READ_AS_ONE: u32 = 16;

/// Columns by name.
type Columns = BTreeMap<String, KeyType>;

/// A table as the source has it. Partitions have the columns of their root.
#[derive(Debug, Clone)]
struct FromSource {
    name: QualifiedName,
    columns: Columns,
    hash_leaf: Option<HashLeaf>,
    encoding: String,
}

/// A table that the destination has too, with the same columns.
#[derive(Debug)]
struct AtDestination {
    /// What is read at both ends: the table, or the root of its partitions.
    read: QualifiedName,
    columns: Columns,
    encoding: String,
    major: u32,
}

type Answer = Result<AtDestination, NotCompared>;

pub(in crate::unit) async fn run(
    ctx: &UnitContext,
    tables: Vec<PlanTable>,
) -> Result<WorkResult, UnitEnd> {
    let (large_objects, tables) = large_objects::split(tables);
    if let Some(table) = large_objects {
        large_objects::plan_to_verify(ctx, table).await?;
    }
    let (source, destination) = link(1);
    tokio::try_join!(
        Box::pin(source_half(ctx, tables, source)),
        Box::pin(destination_half(ctx, destination))
    )?;
    Ok(WorkResult::VerifyPlan)
}

async fn source_half(
    ctx: &UnitContext,
    tables: Vec<PlanTable>,
    mut link: Link<FromSource, Answer>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut wire = access.reader().await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    for table in tables {
        ctx.still_mine()?;
        let name = &table.name;
        source_table::begin_now(&mut wire).await.about(name)?;
        match source_table::lock(&mut wire, name).await {
            Ok(()) => {}
            Err(error) if source_table::is_absent(&error) => {
                wire.query("rollback").await.about(&access)?;
                let reason = "there is no such table at the source".to_owned();
                let why = NotCompared { reason, differs: true };
                ctx.parts.send(ResultPart::NotCompared { table: table.no, why }).await?;
                continue;
            }
            Err(error) => return Err(error.failure(name.to_string()).into()),
        }
        if ctx.spec.is_incremental() && is_unlogged(&mut wire, name).await.about(name)? {
            wire.query("commit").await.about(&access)?;
            let reason = "it is unlogged: no stream tells of its changes".to_owned();
            let why = NotCompared { reason, differs: false };
            ctx.parts.send(ResultPart::NotCompared { table: table.no, why }).await?;
            continue;
        }
        let from = FromSource {
            name: name.clone(),
            columns: columns(&mut wire, name).await.about(name)?,
            hash_leaf: catalog::hash_leaf(&mut wire, name).await.about(name)?,
            encoding: encoding(&wire),
        };
        let (size, _) = catalog::size(&mut wire, name, table.bytes).await.about(name)?;
        link.send(from.clone()).await?;
        let whole = match link.expect().await? {
            Ok(there) if there.read != *name => {
                whole_root_takes_part(ctx, &mut wire, there).await.about(name)?
            }
            answer => answer,
        };
        match whole {
            Err(why) => {
                ctx.parts.send(ResultPart::NotCompared { table: table.no, why }).await?;
            }
            Ok(there) => {
                let key = catalog::key(&mut wire, &there.read).await.about(name)?;
                let cut = cut(ctx, &mut wire, &from, &there, &key, size).await.about(name)?;
                tell(ctx, plan(table, &from, there.read, key), cut).await?;
            }
        }
        wire.query("commit").await.about(&access)?;
    }
    wire.close().await;
    Ok(())
}

async fn destination_half(
    ctx: &UnitContext,
    mut link: Link<Answer, FromSource>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Destination);
    let mut wire = access.reader().await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    while let Some(from) = link.next().await {
        let (encoding, major) = (encoding(&wire), wire.major().about(&access)?);
        let read = read(&from, &encoding);
        let answer = match columns(&mut wire, &read).await {
            Ok(columns) => judge(&from, AtDestination { read, columns, encoding, major }),
            Err(error) if source_table::is_absent(&error) => Err(NotCompared {
                reason: "there is no such table at the destination".to_owned(),
                differs: true,
            }),
            Err(error) => return Err(error.failure(from.name.to_string()).into()),
        };
        link.send(answer).await?;
    }
    wire.close().await;
    Ok(())
}

fn judge(from: &FromSource, there: AtDestination) -> Answer {
    let lacks = |of: &Columns, in_it: &Columns| -> Vec<String> {
        of.keys()
            .filter(|name| !in_it.contains_key(*name))
            .map(|name| format!("`{name}`"))
            .collect()
    };
    let missing = lacks(&from.columns, &there.columns);
    let extra = lacks(&there.columns, &from.columns);
    if !missing.is_empty() || !extra.is_empty() {
        let told = [("the destination", missing), ("the source", extra)].map(|(end, columns)| {
            (!columns.is_empty()).then(|| format!("{end} lacks columns {}", columns.join(", ")))
        });
        let told: Vec<String> = told.into_iter().flatten().collect();
        return Err(NotCompared { reason: told.join("; "), differs: true });
    }
    Ok(there)
}

/// What is read at both ends: the table, or the root of its partitions where rows need not lie in the same ones at both.
fn read(from: &FromSource, encoding: &str) -> QualifiedName {
    match &from.hash_leaf {
        Some(leaf) if !leaf.stable || from.encoding != encoding => leaf.root.clone(),
        _ => from.name.clone(),
    }
}

/// Rows of partitions that take no part are at the source only, and nobody can tell which of the root's rows those are.
async fn whole_root_takes_part(
    ctx: &UnitContext,
    wire: &mut Wire,
    there: AtDestination,
) -> Result<Answer, PgError> {
    let sql = format!(
        "select n.nspname, c.relname, (c.relkind = 'r')::int from pg_catalog.pg_partition_tree({}) leaf
        join pg_catalog.pg_class c on c.oid = leaf.relid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where leaf.isleaf",
        catalog::regclass(&there.read)
    );
    for row in wire.query(&sql).await? {
        let leaf = QualifiedName::new(field::<String>(&row, 0)?, field::<String>(&row, 1)?);
        if field::<i32>(&row, 2)? == 0 || !ctx.spec.objects.matches(&leaf) {
            let reason = format!(
                "rows of {} need not lie in the same partitions at both ends (the key's hashes are each server's own), and its \
                 partition {leaf} takes no part",
                there.read
            );
            return Ok(Err(NotCompared { reason, differs: false }));
        }
    }
    Ok(Ok(there))
}

async fn cut(
    ctx: &UnitContext,
    wire: &mut Wire,
    from: &FromSource,
    there: &AtDestination,
    key: &[KeyColumn],
    size: TableSize,
) -> Result<Vec<PlannedShard>, PgError> {
    let count = shards::count(size.bytes, ctx.spec.copy.shard_size_bytes);
    let reads_blocks = wire.major()?.min(there.major) >= TID_RANGE_SCAN;
    let uncut = if reads_blocks { SHARDS_READ_AS_ONE } else { 1 };
    let pairs: Option<Vec<_>> = key
        .iter()
        .map(|column| Some((*from.columns.get(&column.name)?, *there.columns.get(&column.name)?)))
        .collect();
    let alike = pairs.is_some_and(|pairs| ranges_alike(pairs, from.encoding == there.encoding));
    let columns: Vec<String> = from.columns.keys().cloned().collect();
    let cut = if count > uncut && alike && there.read == from.name {
        ranges(wire, &from.name, &columns, key, count, size).await?
    } else {
        None
    };
    Ok(cut.unwrap_or_else(|| shards::whole(size)))
}

fn plan(
    table: PlanTable,
    from: &FromSource,
    read: QualifiedName,
    key: Vec<KeyColumn>,
) -> TablePlan {
    let of_key = key.iter().map(|column| column.name.clone());
    let others = from.columns.keys().filter(|name| key.iter().all(|column| column.name != **name));
    TablePlan {
        no: table.no,
        generation: table.generation,
        write_to: read,
        columns: of_key.chain(others.cloned()).collect(),
        // Compared by name and text: another type that prints the same is the same.
        fingerprint: String::new(),
        name: table.name,
        filenode: table.filenode,
        format: CopyFormat::Text,
        key,
    }
}

/// Where changes are followed, whatever was written to it since it was copied would be a difference.
async fn is_unlogged(wire: &mut Wire, table: &QualifiedName) -> Result<bool, PgError> {
    let ask = format!(
        "select relpersistence = 'u' from pg_catalog.pg_class where oid = {}",
        catalog::regclass(table)
    );
    Ok(wire.value(&ask).await? == "t")
}

fn encoding(wire: &Wire) -> String {
    wire.parameter("server_encoding").unwrap_or_default().to_owned()
}

/// Every column. Whether texts are sorted by their bytes is said by the column's collation, and for the default one by the
/// database's; builds of PostgreSQL 15 and later know other providers than the system's library.
async fn columns(wire: &mut Wire, table: &QualifiedName) -> Result<Columns, PgError> {
    let sql = format!(
        "select a.attname, a.atttypid, (
            case a.attcollation when 0 then true when 950 then true when 951 then true
            when 100 then coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' and d.datcollate in ('C', 'POSIX')
            else false end)::int, (not {NEVER_NULL})::int
        from pg_catalog.pg_attribute a, pg_catalog.pg_database d
        where a.attrelid = {}::pg_catalog.regclass and a.attnum > 0 and not a.attisdropped
        and d.datname = pg_catalog.current_database()",
        quote_literal(&table.quoted())
    );
    let rows = wire.query(&sql).await?;
    rows.iter()
        .map(|row| {
            let by_bytes = field::<i32>(row, 2)? == 1;
            let nullable = field::<i32>(row, 3)? == 1;
            Ok((field(row, 0)?, KeyType { type_oid: field(row, 1)?, by_bytes, nullable }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(names: &[&str]) -> Columns {
        let integer = KeyType { type_oid: 23, by_bytes: true, nullable: false };
        names.iter().map(|name| ((*name).to_owned(), integer)).collect()
    }

    fn from(names: &[&str]) -> FromSource {
        FromSource {
            name: QualifiedName::new("public", "t"),
            columns: columns(names),
            hash_leaf: None,
            encoding: "UTF8".into(),
        }
    }

    fn there(names: &[&str]) -> AtDestination {
        let (read, columns) = (QualifiedName::new("public", "t"), columns(names));
        AtDestination { read, columns, encoding: "UTF8".into(), major: 15 }
    }

    #[test]
    fn columns_that_one_end_lacks_are_named() {
        let why = judge(&from(&["a", "b"]), there(&["a", "c"])).expect_err("they differ");
        assert_eq!(why.reason, "the destination lacks columns `b`; the source lacks columns `c`");
        assert!(why.differs);
        assert!(judge(&from(&["a", "b"]), there(&["b", "a"])).is_ok());
    }

    #[test]
    fn the_key_comes_first_and_the_rest_by_name() {
        let table = PlanTable {
            no: pgconvoy_shared::ids::TableNo(0),
            name: QualifiedName::new("public", "t"),
            generation: Default::default(),
            bytes: 0,
            filenode: None,
            anew: false,
        };
        let key = vec![KeyColumn { name: "m".into(), type_name: "integer".into() }];
        let name = table.name.clone();
        assert_eq!(plan(table, &from(&["z", "a", "m"]), name, key).columns, ["m", "a", "z"]);
    }
}
