//! The source half of copying a shard.

use pgconvoy_flow::sql;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::unit::CopyShard;

use super::{Encoding, FromSource, Go, ReadRows};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::Wire;
use crate::pg::{About, PgError};
use crate::unit::link::Link;
use crate::unit::plan_tables::catalog;
use crate::unit::{UnitContext, UnitEnd, open_stream, source_table};

pub(super) async fn half(
    ctx: &UnitContext,
    shard: &CopyShard,
    mut link: Link<FromSource, Go>,
) -> Result<(), UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut wire = ctx.means.pool.reader(&access).await.about(&access)?;
    end_old_sessions(&mut wire).await?;
    // None: the shard was done already.
    let Some(Go) = link.next().await else {
        ctx.means.pool.give(wire);
        return Ok(());
    };
    let encoding = see_bytes_as_they_are(&mut wire).await.about(&access)?;
    if let Some(barrier) = shard.barrier {
        open_stream::check_kept(ctx, &mut wire).await?;
        source_table::wait_for_barrier(&mut wire, barrier).await.about(&access)?;
    }
    let table = &shard.table;
    let located = (table.no, &table.name, table.filenode);
    let moment = shard.snapshot.as_ref();
    let opened = source_table::open(ctx, &mut wire, moment, located, source_table::MOMENT).await?;
    check_columns(&mut wire, shard, &opened.fingerprint).await?;
    let (snapshot, noted_lsn) = source_table::moment(&opened.answers).about(&access)?;

    link.send(FromSource::Opened { encoding }).await?;
    let (rows, bytes) = copy_out(&mut wire, shard, &link).await?;
    link.send(FromSource::End(ReadRows { rows, bytes, snapshot, noted_lsn })).await?;
    source_table::wait_until_flushed(&mut wire, noted_lsn).await?;
    link.send(FromSource::Flushed).await?;
    ctx.means.pool.give(wire);
    Ok(())
}

/// A database without an encoding holds whatever bytes were put into it; converting them would fail.
pub(in crate::unit) async fn see_bytes_as_they_are(wire: &mut Wire) -> Result<Encoding, PgError> {
    if wire.parameter("server_encoding") != Some("SQL_ASCII") {
        return Ok(Encoding::Utf8);
    }
    wire.query("set client_encoding = 'SQL_ASCII'").await?;
    Ok(Encoding::Unknown)
}

async fn check_columns(wire: &mut Wire, shard: &CopyShard, now: &str) -> Result<(), UnitEnd> {
    let table = &shard.table;
    let whole = catalog::ranges_hold_all(wire, table, &shard.part, &table.name);
    if now == &*table.fingerprint && whole.await.about(&table.name)? {
        return Ok(());
    }
    let failure = Failure::other("columns_changed", "its columns are not those that were planned")
        .about(table.name.to_string())
        .remedy("let changes of the schema rest while the migration runs");
    Err(UnitEnd::TableChanged { table: table.no, failure })
}

/// Rows and bytes that were read.
async fn copy_out(
    wire: &mut Wire,
    shard: &CopyShard,
    link: &Link<FromSource, Go>,
) -> Result<(u64, u64), UnitEnd> {
    let table = &shard.table;
    let statement = sql::copy_out(table, &shard.part);
    let mut copy = wire.copy_out(&statement).await.about(&table.name)?;
    let mut bytes = 0;
    while let Some(data) = copy.next().await.about(&table.name)? {
        bytes += data.len() as u64;
        link.send(FromSource::Data(data)).await?;
    }
    Ok((copy.frames().rows_at_end(table.format), bytes))
}
