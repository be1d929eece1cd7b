//! Planning: how a table is read, cut and written.
//!
//! For each table of the unit, some tables at a time, source half first:
//!
//! 1. in a transaction that sees the present: lock (law S4), filenode against the one noted, fingerprint, columns, size; where
//!    changes are followed, the snapshot too, and what they will be applied by (laws S3, S9);
//! 2. the cut. In `copy.snapshot: task` blocks, which are read in the order of the disk and need no key; all shards see
//!    one moment, in which no row moves. Where each shard has its own moment a row may move to another block between
//!    them, so ranges of a key. Either is cut where a sample of blocks says that the bytes are,
//!    unless blocks are alike because there is little TOAST. Without a key, or before PostgreSQL 14 (which
//!    finds no range of blocks without reading all), the table is one shard;
//! 3. the destination half compares columns, chooses format and table to write to, and makes the plans current (laws O1,
//!    O4): from then on no older plan writes. Meanwhile the source half looks at the next tables;
//! 4. the plans and their shards are told.
//!
//! A unit that dies before its end is run again as a whole. What an earlier owner made current stays so.

pub(super) mod catalog;
mod destination;

use pgconvoy_flow::shards::{self, SampledBlock, TableSize};
use pgconvoy_flow::sql;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{
    CopyFormat, KeyColumn, PlanTable, PlannedShard, ResultPart, SnapshotMode, TablePlan, WorkResult,
};

use super::apply_key::{self, Followed};
use super::link::{Link, link};
use super::{UnitContext, UnitEnd, large_objects, source_table};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::{TextRow, Wire, field};
use crate::pg::{About, PgError, Session};
use catalog::{Column, HashLeaf};

/// Shards in one piece of the result: bounds are keys, so some 100 KiB together.
const SHARDS_PER_PART: usize = 500;

/// Tables that the destination decides on at once: a few of them make a plan ten times as fast as one by one, and more would
/// only lock more.
const BATCH: usize = 50;

/// The first major that reads a range of blocks without reading the others.
pub(super) const TID_RANGE_SCAN: u32 = 14;

/// What the source half says of a table.
#[derive(Debug)]
struct FromSource {
    table: PlanTable,
    columns: Vec<Column>,
    hash_leaf: Option<HashLeaf>,
    encoding: String,
    followed: Option<Followed>,
}

/// What the destination half decided.
#[derive(Debug)]
struct AtDestination {
    format: CopyFormat,
    write_to: QualifiedName,
}

/// Plans tables.
pub(crate) async fn run(ctx: &UnitContext, tables: Vec<PlanTable>) -> Result<WorkResult, UnitEnd> {
    let (large_objects, tables) = large_objects::split(tables);
    if let Some(table) = large_objects {
        large_objects::plan(ctx, table).await?;
    }
    let (source, destination) = link(1);
    tokio::try_join!(
        Box::pin(source_half(ctx, &tables, source)),
        Box::pin(destination::half(ctx, destination))
    )?;
    Ok(WorkResult::Plan)
}

async fn source_half(
    ctx: &UnitContext,
    tables: &[PlanTable],
    mut link: Link<Vec<FromSource>, Vec<AtDestination>>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut wire = ctx.means.pool.reader(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    let mut undecided = Vec::new();
    for batch in tables.chunks(BATCH) {
        let mut looked_at = Vec::with_capacity(batch.len());
        for table in batch {
            ctx.still_mine()?;
            looked_at.push(look_at(ctx, &mut wire, table).await?);
        }
        let encoding = wire.parameter("server_encoding").unwrap_or_default();
        link.send(looked_at.iter().map(|looked_at| looked_at.told(encoding)).collect()).await?;
        // The destination thinks about this batch while the next one is looked at.
        let earlier = std::mem::replace(&mut undecided, looked_at);
        tell_decided(ctx, earlier, &mut link).await?;
    }
    tell_decided(ctx, undecided, &mut link).await?;
    ctx.means.pool.give(wire);
    Ok(())
}

async fn tell_decided(
    ctx: &UnitContext,
    looked_at: Vec<LookedAt>,
    link: &mut Link<Vec<FromSource>, Vec<AtDestination>>,
) -> Result<(), UnitEnd> {
    if looked_at.is_empty() {
        return Ok(());
    }
    let decided = link.expect().await?;
    for (looked_at, AtDestination { format, write_to }) in looked_at.into_iter().zip(decided) {
        let table = looked_at.table;
        let plan = TablePlan {
            no: table.no,
            generation: table.generation,
            name: table.name,
            write_to,
            columns: travelling(&looked_at.columns),
            fingerprint: looked_at.fingerprint,
            filenode: table.filenode,
            format,
            key: looked_at.key,
        };
        tell(ctx, plan, looked_at.shards).await?;
    }
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
    table: PlanTable,
    columns: Vec<Column>,
    fingerprint: String,
    hash_leaf: Option<HashLeaf>,
    key: Vec<KeyColumn>,
    shards: Vec<PlannedShard>,
    followed: Option<Followed>,
}

impl LookedAt {
    fn told(&self, encoding: &str) -> FromSource {
        FromSource {
            table: self.table.clone(),
            columns: self.columns.clone(),
            hash_leaf: self.hash_leaf.clone(),
            encoding: encoding.to_owned(),
            followed: self.followed.clone(),
        }
    }
}

async fn look_at(
    ctx: &UnitContext,
    wire: &mut Wire,
    table: &PlanTable,
) -> Result<LookedAt, UnitEnd> {
    let name = &table.name;
    let asked = format!("{}; {}", catalog::ask_columns(name), catalog::ask_size(name));
    let located = (table.no, name, table.filenode);
    let opened = source_table::open(ctx, wire, None, located, &asked).await?;
    let [columns, size] = &opened.answers[..] else {
        return Err(PgError::protocol("two questions and no two answers")).about(name)?;
    };
    let columns = catalog::read_columns(&columns.rows).about(name)?;
    let (size, is_partition) = catalog::read_size(&size.rows, table.bytes).about(name)?;
    let fingerprint = opened.fingerprint;
    let followed = match ctx.spec.is_incremental() {
        true => apply_key::look_at(ctx, wire, table).await?,
        false => None,
    };
    let hash_leaf = match is_partition {
        true => catalog::hash_leaf(wire, name).await.about(name)?,
        false => None,
    };
    let (key, shards) = match table.anew {
        // Under one snapshot: its unique indexes are there, which rows of several moments could violate (law S11).
        true => (Vec::new(), shards::whole(size)),
        false => cut(ctx, wire, name, &travelling(&columns), size).await.about(name)?,
    };
    match &followed {
        Some((_, noted)) => source_table::wait_until_flushed(wire, *noted).await?,
        None => drop(wire.query("commit").await.about(name)?),
    }
    let (table, followed) = (table.clone(), followed.map(|(followed, _)| followed));
    Ok(LookedAt { table, columns, fingerprint, hash_leaf, key, shards, followed })
}

fn travelling(columns: &[Column]) -> Vec<String> {
    columns.iter().filter(|column| !column.generated).map(|column| column.name.clone()).collect()
}

async fn cut(
    ctx: &UnitContext,
    wire: &mut Wire,
    name: &QualifiedName,
    columns: &[String],
    size: TableSize,
) -> Result<(Vec<KeyColumn>, Vec<PlannedShard>), PgError> {
    let whole = || (Vec::new(), shards::whole(size));
    let count = shards::count(size.bytes, ctx.spec.copy.shard_size_bytes);
    if count == 1 {
        return Ok(whole());
    }
    if ctx.spec.snapshot_mode() == SnapshotMode::Task && wire.major()? >= TID_RANGE_SCAN {
        let sample = match shards::blocks_may_differ(size, ctx.spec.copy.shard_size_bytes) {
            true => sample(wire, name, columns, count, size).await?,
            false => Vec::new(),
        };
        return Ok((Vec::new(), shards::blocks(count, size, &sample)));
    }
    let key = catalog::key(wire, name).await?;
    match ranges(wire, name, columns, &key, count, size).await? {
        Some(ranges) => Ok((key, ranges)),
        None => Ok(whole()),
    }
}

/// How to copy a locked table whole as it is, into the one of its name, by a plan that nobody keeps.
pub(super) async fn as_it_is(
    wire: &mut Wire,
    there: &Session,
    name: &QualifiedName,
) -> Result<TablePlan, UnitEnd> {
    let columns = wire.query(&catalog::ask_columns(name)).await.about(name)?;
    let columns = catalog::read_columns(&columns).about(name)?;
    let format = destination::format_into(there, &columns, name).await?;
    Ok(TablePlan {
        no: TableNo(0),
        generation: Generation::default(),
        name: name.clone(),
        write_to: name.clone(),
        columns: travelling(&columns),
        fingerprint: String::new(),
        filenode: None,
        format,
        key: Vec::new(),
    })
}

/// Some blocks of a table, weighed.
async fn sample(
    wire: &mut Wire,
    name: &QualifiedName,
    columns: &[String],
    count: u32,
    size: TableSize,
) -> Result<Vec<SampledBlock>, PgError> {
    let Some(percent) = shards::sample_percent(size, count) else { return Ok(Vec::new()) };
    let rows = wire.query(&sql::sample_blocks(name, columns, percent)).await?;
    let block = |row| Ok(SampledBlock { block: field(row, 0)?, bytes: field(row, 1)? });
    rows.iter().map(block).collect()
}

/// So many ranges of a key; none where there is no key, or too little of a table to find bounds in.
pub(super) async fn ranges(
    wire: &mut Wire,
    name: &QualifiedName,
    columns: &[String],
    key: &[KeyColumn],
    count: u32,
    size: TableSize,
) -> Result<Option<Vec<PlannedShard>>, PgError> {
    let Some(percent) = shards::sample_percent(size, count).filter(|_| !key.is_empty()) else {
        return Ok(None);
    };
    let sampled = wire.query(&sql::sample_bounds(name, columns, key, count, percent)).await?;
    let bounds: Option<Vec<_>> = sampled.into_iter().map(bound).collect();
    let bounds = bounds.ok_or_else(|| PgError::protocol("a key column that is null"))?;
    Ok(Some(shards::ranges(bounds, size)))
}

fn bound(row: TextRow) -> Option<Box<[Box<str>]>> {
    row.into_iter().map(|value| value.map(String::into_boxed_str)).collect()
}
