//! The source half of copying a shard.

use std::time::Duration;

use pgconvoy_flow::sql;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::CopyShard;
use tokio::time::Instant;

use super::{Encoding, FromSource, Go, ReadRows};
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::{Wire, field};
use crate::pg::{About, PgError};
use crate::unit::link::Link;
use crate::unit::plan_tables::catalog;
use crate::unit::{UnitContext, UnitEnd, source_table};

/// The WAL writer flushes what was committed within 0.6 s; a server that takes longer than this has trouble with its
/// disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(60);
const FLUSH_PAUSE: Duration = Duration::from_millis(20);
const FLUSH_NUDGE: Duration = Duration::from_millis(500);

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
    source_table::begin(ctx, &access, &mut wire, shard.snapshot.as_ref()).await?;

    let table = &shard.table;
    source_table::lock_to_move(&mut wire, table.no, &table.name).await?;
    source_table::check_filenode(&mut wire, table.no, &table.name, table.filenode).await?;
    check_columns(&mut wire, shard).await?;
    let (snapshot, noted_lsn) = note_moment(&mut wire).await.about(&access)?;

    link.send(FromSource::Opened { encoding }).await?;
    let (rows, bytes) = copy_out(&mut wire, shard, &link).await?;
    wait_until_flushed(&mut wire, noted_lsn).await?;
    link.send(FromSource::End(ReadRows { rows, bytes, snapshot, noted_lsn })).await?;
    ctx.means.pool.give(wire);
    Ok(())
}

/// The snapshot, and then the WAL insert position, in this order (law S4).
async fn note_moment(wire: &mut Wire) -> Result<(String, Lsn), PgError> {
    const ASK: &str = "select pg_current_snapshot(); select pg_current_wal_insert_lsn()";
    let rows = wire.query(ASK).await?;
    match rows.as_slice() {
        [snapshot, position] => Ok((field(snapshot, 0)?, field(position, 0)?)),
        _ => Err(PgError::protocol("no moment where there must be one")),
    }
}

/// A database without an encoding holds whatever bytes were put into it; converting them would fail.
async fn see_bytes_as_they_are(wire: &mut Wire) -> Result<Encoding, PgError> {
    if wire.parameter("server_encoding") != Some("SQL_ASCII") {
        return Ok(Encoding::Utf8);
    }
    wire.query("set client_encoding = 'SQL_ASCII'").await?;
    Ok(Encoding::Unknown)
}

async fn check_columns(wire: &mut Wire, shard: &CopyShard) -> Result<(), UnitEnd> {
    let table = &shard.table;
    let now = source_table::fingerprint(wire, &table.name).await.about(&table.name)?;
    let whole = catalog::ranges_hold_all(wire, table, &shard.part, &table.name);
    if now == table.fingerprint && whole.await.about(&table.name)? {
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

/// Ends the transaction, so that what was read holds up nobody, and waits.
///
/// A commit that is seen but not yet on disk may be undone by a crash of the source, and its transaction id used again.
///
/// On an idle server the last bytes before the noted position may be of no commit, and nobody flushes them: a page's
/// header after a switch of segments, or what a session wrote that is idle in its transaction. A message in the log,
/// which is no transaction and takes no transaction id, makes the server flush them.
async fn wait_until_flushed(wire: &mut Wire, noted: Lsn) -> Result<(), UnitEnd> {
    let begin = Instant::now();
    let mut nudge = begin + FLUSH_NUDGE;
    let access = wire.access().clone();
    let mut flushed = flushed_up_to(wire, "commit; ").await.about(&access)?;
    while flushed < noted {
        if begin.elapsed() >= FLUSH_LIMIT {
            return Err(Failure::transient(
                "wal_not_flushed",
                format!(
                    "the source did not write its log to disk up to {noted} within {FLUSH_LIMIT:?}"
                ),
            )
            .about(access.to_string())
            .remedy("look at the load on the source's disk")
            .into());
        }
        if Instant::now() >= nudge {
            nudge += FLUSH_NUDGE;
            match wire.query("select pg_logical_emit_message(false, 'pgconvoy', '')").await {
                Ok(_) => {}
                // Refused: the server flushes when it sees fit.
                Err(error) if error.sqlstate().is_some() => {}
                Err(error) => return Err(access.failure(&error).into()),
            }
        }
        tokio::time::sleep(FLUSH_PAUSE).await;
        flushed = flushed_up_to(wire, "").await.about(&access)?;
    }
    Ok(())
}

async fn flushed_up_to(wire: &mut Wire, before: &str) -> Result<Lsn, PgError> {
    let rows = wire.query(&format!("{before}select pg_current_wal_flush_lsn()")).await?;
    let row = rows.first().ok_or_else(|| PgError::protocol("no position in the log"))?;
    field(row, 0)
}
