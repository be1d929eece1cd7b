//! Planning: how a table is read, cut and written.
//!
//! For each table of the unit, source half first:
//!
//! 1. in a transaction that sees the present: lock (law S4), filenode against the one noted, fingerprint, columns, size;
//! 2. the cut. In `copy.snapshot: task` blocks, which are read in the order of the disk and need no key; all shards see
//!    one moment, in which no row moves. Where each shard has its own moment a row may move to another block between
//!    them, so ranges of a key, whose bounds come from a sample of blocks. Without a key, or before PostgreSQL 14 (which
//!    finds no range of blocks without reading all), the table is one shard;
//! 3. the destination half compares columns, chooses format and table to write to, and makes the plan current (laws O1,
//!    O4): from then on no older plan writes;
//! 4. the plan and its shards are told.
//!
//! A unit that dies before its end is run again as a whole. What an earlier owner made current stays so.

pub(super) mod catalog;
mod destination;

use pgconvoy_flow::shards::{self, TableSize};
use pgconvoy_flow::sql;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{
    CopyFormat, KeyColumn, PlanTable, PlannedShard, ResultPart, SnapshotMode, TablePlan, WorkResult,
};

use super::link::{Link, link};
use super::{UnitContext, UnitEnd, source_table};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::{TextRow, Wire};
use crate::pg::{About, PgError};
use catalog::{Column, HashLeaf};

/// Shards in one piece of the result: bounds are keys, so some 100 KiB together.
const SHARDS_PER_PART: usize = 500;

/// The first major that reads a range of blocks without reading the others.
pub(super) const TID_RANGE_SCAN: u32 = 14;

/// What the source half says of a table.
#[derive(Debug)]
struct FromSource {
    table: PlanTable,
    columns: Vec<Column>,
    hash_leaf: Option<HashLeaf>,
    encoding: String,
}

/// What the destination half decided.
#[derive(Debug)]
struct AtDestination {
    format: CopyFormat,
    write_to: QualifiedName,
}

/// Plans tables.
pub(crate) async fn run(ctx: &UnitContext, tables: Vec<PlanTable>) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(1);
    tokio::try_join!(
        Box::pin(source_half(ctx, tables, source)),
        Box::pin(destination::half(ctx, destination))
    )?;
    Ok(WorkResult::Plan)
}

async fn source_half(
    ctx: &UnitContext,
    tables: Vec<PlanTable>,
    mut link: Link<FromSource, AtDestination>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut wire = access.reader().await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    for table in tables {
        ctx.still_mine()?;
        let looked_at = look_at(ctx, &mut wire, &table).await?;
        link.send(FromSource {
            table: table.clone(),
            columns: looked_at.columns.clone(),
            hash_leaf: looked_at.hash_leaf,
            encoding: wire.parameter("server_encoding").unwrap_or_default().to_owned(),
        })
        .await?;
        let AtDestination { format, write_to } = link.expect().await?;
        let plan = TablePlan {
            no: table.no,
            generation: table.generation,
            name: table.name,
            write_to,
            columns: looked_at.columns.into_iter().map(|column| column.name).collect(),
            fingerprint: looked_at.fingerprint,
            filenode: table.filenode,
            format,
            key: looked_at.key,
        };
        tell(ctx, plan, looked_at.shards).await?;
    }
    wire.close().await;
    Ok(())
}

pub(super) async fn tell(
    ctx: &UnitContext,
    plan: TablePlan,
    shards: Vec<PlannedShard>,
) -> Result<(), UnitEnd> {
    ctx.parts.send(ResultPart::Plan(plan)).await?;
    let mut shards = shards.into_iter();
    loop {
        let part: Vec<_> = shards.by_ref().take(SHARDS_PER_PART).collect();
        if part.is_empty() {
            return Ok(());
        }
        ctx.parts.send(ResultPart::Shards(part)).await?;
    }
}

/// A table as the source has it, and how it is cut.
struct LookedAt {
    columns: Vec<Column>,
    fingerprint: String,
    hash_leaf: Option<HashLeaf>,
    key: Vec<KeyColumn>,
    shards: Vec<PlannedShard>,
}

async fn look_at(
    ctx: &UnitContext,
    wire: &mut Wire,
    table: &PlanTable,
) -> Result<LookedAt, UnitEnd> {
    let name = &table.name;
    wire.query("begin isolation level repeatable read read only").await.about(name)?;
    source_table::lock(wire, name).await.about(name)?;
    source_table::check_filenode(wire, table.no, name, table.filenode).await?;
    let fingerprint = source_table::fingerprint(wire, name).await.about(name)?;
    let columns = catalog::columns(wire, name).await.about(name)?;
    let hash_leaf = catalog::hash_leaf(wire, name).await.about(name)?;
    let size = catalog::size(wire, name, table.bytes).await.about(name)?;
    let (key, shards) = cut(ctx, wire, name, size).await.about(name)?;
    wire.query("commit").await.about(name)?;
    Ok(LookedAt { columns, fingerprint, hash_leaf, key, shards })
}

async fn cut(
    ctx: &UnitContext,
    wire: &mut Wire,
    name: &QualifiedName,
    size: TableSize,
) -> Result<(Vec<KeyColumn>, Vec<PlannedShard>), PgError> {
    let whole = || (Vec::new(), shards::whole(size));
    let count = shards::count(size, ctx.spec.copy.shard_size_bytes);
    if count == 1 {
        return Ok(whole());
    }
    if ctx.spec.copy.snapshot == SnapshotMode::Task && wire.major()? >= TID_RANGE_SCAN {
        return Ok((Vec::new(), shards::blocks(count, size)));
    }
    let key = catalog::key(wire, name).await?;
    match ranges(wire, name, &key, count, size).await? {
        Some(ranges) => Ok((key, ranges)),
        None => Ok(whole()),
    }
}

/// So many ranges of a key; none where there is no key, or too little of a table to find bounds in.
pub(super) async fn ranges(
    wire: &mut Wire,
    name: &QualifiedName,
    key: &[KeyColumn],
    count: u32,
    size: TableSize,
) -> Result<Option<Vec<PlannedShard>>, PgError> {
    let Some(percent) = shards::sample_percent(size, count).filter(|_| !key.is_empty()) else {
        return Ok(None);
    };
    let sampled = wire.query(&sql::sample_bounds(name, key, count, percent)).await?;
    let bounds: Option<Vec<_>> = sampled.into_iter().map(bound).collect();
    let bounds = bounds.ok_or_else(|| PgError::protocol("a key column that is null"))?;
    Ok(Some(shards::ranges(bounds, size)))
}

fn bound(row: TextRow) -> Option<Box<[Box<str>]>> {
    row.into_iter().map(|value| value.map(String::into_boxed_str)).collect()
}
