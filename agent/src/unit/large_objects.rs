//! Large objects: the one table of a task that no schema has.
//!
//! The survey lists their catalogue among the tables; from then on they are one, with shards, snapshot, generations and all
//! laws of rows. What differs is how that table is planned: it has no blocks to cut and no columns to compare, its shards
//! are ranges of numbers with about equally many objects in each, and it is written into a view
//! (see [`pgconvoy_flow::large_objects`]). That view is empty only where the destination has no large object at all.
//!
//! They belong to no schema, so they come where the task's rules name nothing to include, as with pg_dump.

use pgconvoy_flow::large_objects;
use pgconvoy_flow::shards::{self, TableSize};
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::unit::{CopyFormat, PlanTable, PlannedShard, TablePlan};

use super::plan_tables::tell;
use super::{UnitContext, UnitEnd, source_table};
use crate::pg::destination::generation;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::{Wire, field};
use crate::pg::{About, PgError, Session};

pub(super) use large_objects::table;

/// How much there is, as far as the catalogue tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// Whether the task's rules let them come. Where changes are followed they do not: no stream tells of theirs.
pub(super) fn take_part(ctx: &UnitContext) -> bool {
    ctx.with_rows() && ctx.spec.objects.include.is_empty() && !ctx.spec.is_incremental()
}

/// Their size, if there are any and they take part.
pub(super) async fn size(ctx: &UnitContext, session: &Session) -> Result<Option<Size>, PgError> {
    if !take_part(ctx) {
        return Ok(None);
    }
    let query = "select count(*), pg_catalog.pg_table_size('pg_catalog.pg_largeobject')
                 from pg_catalog.pg_largeobject_metadata";
    let row = session.query_one(query, &[]).await?;
    let number = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    let size = Size { objects: number(0), bytes: number(1) };
    Ok((size.objects > 0).then_some(size))
}

/// Takes them out of the tables to plan.
pub(super) fn split(tables: Vec<PlanTable>) -> (Option<PlanTable>, Vec<PlanTable>) {
    let (mut ours, others): (Vec<_>, Vec<_>) =
        tables.into_iter().partition(|table| table.name == large_objects::table());
    (ours.pop(), others)
}

/// Plans them, and makes the plan current at the destination (laws O1, O4).
pub(super) async fn plan(ctx: &UnitContext, table: PlanTable) -> Result<(), UnitEnd> {
    let (fingerprint, shards) = look_at(ctx, &table).await?;
    let mut session = ctx.session(Side::Destination).await?;
    end_old_sessions(&mut session).await?;
    ctx.still_mine()?;
    let write_to = large_objects::view();
    let plan = generation::Plan {
        task: &ctx.task,
        table: table.no,
        generation: table.generation,
        name: &table.name,
        write_to: &write_to,
        followed: None,
    };
    generation::make_current(&session, &[plan]).await?;
    ctx.means.pool.give(session);
    tell(ctx, plan_of(table.no, table.generation, fingerprint), shards).await
}

fn plan_of(no: TableNo, generation: Generation, fingerprint: String) -> TablePlan {
    TablePlan {
        no,
        generation,
        name: large_objects::table(),
        write_to: large_objects::view(),
        columns: large_objects::columns(),
        fingerprint,
        filenode: None,
        format: CopyFormat::Binary,
        key: large_objects::key(),
    }
}

/// How to copy those that there are in the source's transaction, by a plan that nobody keeps.
pub(super) async fn as_they_are(
    ctx: &UnitContext,
    wire: &mut Wire,
) -> Result<(TablePlan, Vec<PlannedShard>), UnitEnd> {
    let bytes = "select pg_catalog.pg_table_size('pg_catalog.pg_largeobject')";
    let name = table();
    let rows = wire.query(bytes).await.about(&name)?;
    let bytes = rows.first().map_or(Ok(0), |row| field(row, 0)).about(&name)?;
    let shards = cut(ctx, wire, bytes).await.about(&name)?;
    Ok((plan_of(TableNo(0), Generation::default(), String::new()), shards))
}

/// Plans their comparison. Nothing has to be looked at at the destination: what it lacks is found as missing.
pub(super) async fn plan_to_verify(ctx: &UnitContext, table: PlanTable) -> Result<(), UnitEnd> {
    let (fingerprint, shards) = look_at(ctx, &table).await?;
    let plan = TablePlan {
        no: table.no,
        generation: table.generation,
        write_to: table.name.clone(),
        name: table.name,
        columns: large_objects::columns_compared(),
        fingerprint,
        filenode: None,
        format: CopyFormat::Text,
        key: large_objects::key_compared(),
    };
    tell(ctx, plan, shards).await
}

async fn look_at(
    ctx: &UnitContext,
    table: &PlanTable,
) -> Result<(String, Vec<PlannedShard>), UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut wire = ctx.means.pool.reader(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    let name = &table.name;
    wire.query("begin isolation level repeatable read read only").await.about(name)?;
    let fingerprint = source_table::fingerprint(&mut wire, name).await.about(name)?;
    let shards = cut(ctx, &mut wire, table.bytes).await.about(name)?;
    wire.query("commit").await.about(name)?;
    ctx.means.pool.give(wire);
    Ok((fingerprint, shards))
}

async fn cut(ctx: &UnitContext, wire: &mut Wire, bytes: u64) -> Result<Vec<PlannedShard>, PgError> {
    let count = format!("select count(*) from {}", large_objects::table().quoted());
    let counted = wire.query(&count).await?;
    let objects = match counted.first() {
        Some(row) => field(row, 0)?,
        None => return Err(PgError::protocol("a count without a row")),
    };
    let size = TableSize { bytes, blocks: 0, rows: objects };
    let each = large_objects::objects_per_shard(objects, bytes, ctx.spec.copy.shard_size_bytes);
    let mut bounds = Vec::new();
    for row in wire.query(&large_objects::bounds(each)).await? {
        bounds.push(Box::from([field::<String>(&row, 0)?.into_boxed_str()]));
    }
    Ok(shards::ranges(bounds, size))
}
