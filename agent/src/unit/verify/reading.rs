//! One end's rows of a shard, as they are at one moment.
//!
//! A shard that is a whole large table (it has no key, or one that the other end sorts otherwise) is read by several sessions
//! at once, each a range of its blocks. Blocks of one end mean nothing at the other one, and need not: digests add up. The
//! sessions beside the first see its snapshot; where the server has no room for them there are fewer. Before PostgreSQL 14,
//! which finds no range of blocks without reading all, there is one.
//!
//! Memory: a digest for each session, and while rows are looked at one by one those of some buckets.

use futures::future::try_join_all;

use pgconvoy_flow::digest::{BUCKETS, BadData, Digest, HashKey, Kept, Row, Rows};
use pgconvoy_flow::{shards, sql};
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{Part, VerifyRows};
use pgconvoy_shared::verify::Sample;

use crate::keeper::set_snapshot;
use crate::pg::wire::Wire;
use crate::pg::{Access, PgError};
use crate::unit::UnitContext;
use crate::unit::plan_tables::{TID_RANGE_SCAN, catalog};

/// Sessions for one table, at each end.
const READERS_MAX: u32 = 4;

/// SQLSTATE: too many connections.
const NO_ROOM: &str = "53300";

/// The rows of one end.
pub(super) struct Reading<'a> {
    readers: Vec<Reader>,
    secret: HashKey,
    order: &'a VerifyRows,
}

/// A session within its transaction, and what it reads.
struct Reader {
    wire: Wire,
    statement: String,
}

impl<'a> Reading<'a> {
    /// Makes ready to read `table`. `wire` is in the transaction whose moment is to be seen, and has the table locked; `only`
    /// leaves out what inherits from it.
    pub(super) async fn of(
        ctx: &UnitContext,
        access: &Access,
        wire: Wire,
        table: &QualifiedName,
        only: bool,
        secret: HashKey,
        order: &'a VerifyRows,
    ) -> Result<Self, PgError> {
        let (wires, parts) = match &order.shard.part {
            Part::Whole => side_by_side(ctx, access, wire, table).await?,
            part @ (Part::Range { .. } | Part::Blocks { .. }) => (vec![wire], vec![part.clone()]),
        };
        let statement = |part: &Part| sql::copy_out_compared(&order.shard.table, part, table, only);
        let readers = wires.into_iter().zip(&parts);
        let readers = readers.map(|(wire, part)| Reader { wire, statement: statement(part) });
        Ok(Self { readers: readers.collect(), secret, order })
    }

    /// All rows, and how many bytes they were.
    pub(super) async fn digest(
        &mut self,
        progress: Option<&UnitContext>,
    ) -> Result<(Digest, u64), PgError> {
        let (rows, sample) = (self.rows(), self.order.sample);
        let digests =
            self.readers.iter_mut().map(|reader| reader.digest(rows.clone(), sample, progress));
        let mut whole = (Digest::new(sample), 0);
        for (digest, bytes) in try_join_all(digests).await? {
            whole.0.add_all(&digest);
            whole.1 += bytes;
        }
        Ok(whole)
    }

    /// The rows of some buckets.
    pub(super) async fn rows_of(&mut self, buckets: &[u32]) -> Result<Vec<Kept>, PgError> {
        let mut wanted = vec![false; BUCKETS];
        for bucket in buckets {
            if let Some(wanted) = wanted.get_mut(*bucket as usize) {
                *wanted = true;
            }
        }
        let (rows, sample) = (self.rows(), self.order.sample);
        let kept =
            self.readers.iter_mut().map(|reader| reader.rows_of(rows.clone(), sample, &wanted));
        Ok(try_join_all(kept).await?.into_iter().flatten().collect())
    }

    fn rows(&self) -> Rows {
        Rows::new(self.secret.clone(), self.order.shard.table.key.len())
    }

    /// Ends the transactions and leaves the sessions to other units.
    pub(super) async fn end(self, ctx: &UnitContext) -> Result<(), PgError> {
        for Reader { mut wire, .. } in self.readers {
            wire.query("commit").await?;
            ctx.means.pool.give(wire);
        }
        Ok(())
    }
}

impl Reader {
    async fn digest(
        &mut self,
        mut rows: Rows,
        sample: Sample,
        progress: Option<&UnitContext>,
    ) -> Result<(Digest, u64), PgError> {
        let mut digest = Digest::new(sample);
        let mut copy = self.wire.copy_out(&self.statement).await?;
        let (mut bytes, mut told) = (0, 0);
        while let Some(data) = copy.next().await? {
            bytes += data.len() as u64;
            rows.take(&data, |row| digest.add(&row)).map_err(|bad| bad_data(&bad))?;
            if let Some(ctx) = progress {
                ctx.progress.add(digest.rows - told, data.len() as u64);
                told = digest.rows;
            }
        }
        Ok((digest, bytes))
    }

    async fn rows_of(
        &mut self,
        mut rows: Rows,
        sample: Sample,
        wanted: &[bool],
    ) -> Result<Vec<Kept>, PgError> {
        let mut kept = Vec::new();
        let mut copy = self.wire.copy_out(&self.statement).await?;
        while let Some(data) = copy.next().await? {
            let keep = |row: Row<'_>| {
                if wanted[row.bucket()] {
                    kept.push(Kept::of(&row, sample));
                }
            };
            rows.take(&data, keep).map_err(|bad| bad_data(&bad))?;
        }
        Ok(kept)
    }
}

/// As many sessions as are of use, and what each of them reads.
async fn side_by_side(
    ctx: &UnitContext,
    access: &Access,
    mut first: Wire,
    table: &QualifiedName,
) -> Result<(Vec<Wire>, Vec<Part>), PgError> {
    let ask = format!(
        "select pg_catalog.pg_table_size({}::pg_catalog.regclass)",
        quote_literal(&table.quoted())
    );
    let bytes = first.value(&ask).await?.parse().unwrap_or(0);
    let (size, _) = catalog::size(&mut first, table, bytes).await?;
    let of_use = shards::count(size, ctx.spec.copy.shard_size_bytes).min(size.blocks);
    let wanted = of_use.min(READERS_MAX).min(ctx.spec.copy.jobs);
    if wanted <= 1 || first.major()? < TID_RANGE_SCAN {
        return Ok((vec![first], vec![Part::Whole]));
    }
    let snapshot = first.value("select pg_catalog.pg_export_snapshot()").await?;
    let (mut wires, mut readers) = (vec![first], 1);
    while readers < wanted {
        match beside(ctx, access, &snapshot).await {
            Ok(wire) => wires.push(wire),
            Err(error) if error.sqlstate() == Some(NO_ROOM) => break,
            Err(error) => return Err(error),
        }
        readers += 1;
    }
    let parts = shards::blocks(readers, size, &[]).into_iter().map(|shard| shard.part).collect();
    Ok((wires, parts))
}

/// A session that sees a snapshot.
async fn beside(ctx: &UnitContext, access: &Access, snapshot: &str) -> Result<Wire, PgError> {
    let mut wire = ctx.means.pool.reader(access).await?;
    see_bytes_as_they_are(&mut wire).await?;
    wire.query("begin isolation level repeatable read read only").await?;
    wire.query(&set_snapshot(snapshot)).await?;
    Ok(wire)
}

/// A database without an encoding holds whatever bytes were put into it; converting them would fail.
pub(super) async fn see_bytes_as_they_are(wire: &mut Wire) -> Result<(), PgError> {
    if wire.parameter("server_encoding") == Some("SQL_ASCII") {
        wire.query("set client_encoding = 'SQL_ASCII'").await?;
    }
    Ok(())
}

fn bad_data(bad: &BadData) -> PgError {
    PgError::protocol(bad.to_string())
}
