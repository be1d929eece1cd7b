//! Looking again at rows that differ while the destination follows the source.
//!
//! ```text
//!  source half                                        destination half
//!  1. the rows of the suspects' keys, then the log's position
//!  2. these keys, up to there      ────────────────▶  a. wait until the stream is there
//!                                                     b. the rows of these keys
//!  3. judge                        ◀────────────────  c. those rows, or: the stream stands still
//!  4. what is left: again, once all that runs has ended
//! ```
//!
//! A commit that is in the log, and so may be applied, is seen at the source only a moment later: its server process waits for a
//! processor, or for a standby. Meanwhile a row stands still at both ends and differs. That is why 4. waits; not for ever, since
//! what runs for long is hardly such a commit.
//!
//! Whether a table is followed is told by the destination: by the stream that writes it, whichever task that is of. So a
//! comparison that is a task of its own, or is made from elsewhere, looks again too. Each read is a transaction of its own:
//! nothing is held while the stream is waited for. What is judged how stands in [`pgconvoy_flow::digest::Suspects`].

use std::collections::BTreeSet;
use std::time::Duration;

use pgconvoy_flow::digest::{HashKey, Kept, Row, Rows, Suspects};
use pgconvoy_flow::sql::{self, Beside};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{TablePlan, VerifyRows};
use tokio::time::Instant;

use super::reading::{End, bad_data, see_bytes_as_they_are};
use crate::pg::PgError;
use crate::pg::wire::{Wire, field};
use crate::unit::source_table;

/// Keys that one statement looks up.
const KEYS_AT_ONCE: usize = 1_000;

/// How often it is looked how far the stream is.
const POSITION_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether transactions have ended.
const SETTLING_PAUSE: Duration = Duration::from_millis(10);

/// A stream that does not get on for so long stands still: longer than another agent needs to take it over.
const STILL_LIMIT: Duration = Duration::from_secs(30);

/// What runs for longer than this is taken for something else than a commit that waits to be seen.
const RUNNING_LIMIT: Duration = Duration::from_secs(10);

/// SQLSTATE: who may not look into schema `pgconvoy` compares as if nothing were followed.
const NOT_ALLOWED: &str = "42501";

/// The keys to look at again.
#[derive(Debug)]
pub(super) struct Keys {
    /// Their hashes.
    hashes: BTreeSet<u128>,
    /// Their values; none = the table has to be read whole.
    values: Option<Vec<Vec<String>>>,
}

impl Keys {
    pub(super) fn of(suspects: &Suspects, plan: &TablePlan) -> Self {
        let hashes = suspects.keys().into_iter().collect();
        Self { hashes, values: suspects.values(plan.key.len()) }
    }
}

/// One end, for looking again.
pub(super) struct Relook<'a> {
    wire: Wire,
    end: End<'a>,
    order: &'a VerifyRows,
    rows: Rows,
}

impl<'a> Relook<'a> {
    pub(super) async fn of(
        end: End<'a>,
        order: &'a VerifyRows,
        secret: HashKey,
    ) -> Result<Self, PgError> {
        let mut wire = end.ctx.means.pool.reader(end.access).await?;
        see_bytes_as_they_are(&mut wire).await?;
        let rows = Rows::new(secret, order.shard.table.key.len()).versioned();
        Ok(Self { wire, end, order, rows })
    }

    /// All rows with these keys, and a position that everything seen was committed before.
    pub(super) async fn look(&mut self, keys: &Keys) -> Result<(Vec<Kept>, Lsn), PgError> {
        source_table::begin_now(&mut self.wire).await?;
        source_table::lock(&mut self.wire, self.end.table).await?;
        // It takes the snapshot: behind the lock, or rows that are rewritten meanwhile would not be seen (law S4).
        if let Some(find_operators) = sql::find_operators(&self.order.shard.table.key, true) {
            self.wire.query(&find_operators).await?;
        }
        let (_, noted) = source_table::note_moment(&mut self.wire).await?;
        let rows = self.read(keys).await?;
        self.wire.query("commit").await?;
        Ok((rows, noted))
    }

    /// Waits until all transactions have ended, and are seen, that write in this moment; false = some run for long.
    pub(super) async fn settled(&mut self) -> Result<bool, PgError> {
        // A transaction gives its own lock up after it is seen.
        const RUNNING: &str = "select transactionid::text from pg_catalog.pg_locks
            where locktype = 'transactionid' and mode = 'ExclusiveLock' and granted";
        let mut running = self.wire.query(RUNNING).await?;
        let since = Instant::now();
        while !running.is_empty() {
            if since.elapsed() >= RUNNING_LIMIT {
                return Ok(false);
            }
            tokio::time::sleep(SETTLING_PAUSE).await;
            let now = self.wire.query(RUNNING).await?;
            running.retain(|transaction| now.contains(transaction));
        }
        Ok(true)
    }

    async fn read(&mut self, keys: &Keys) -> Result<Vec<Kept>, PgError> {
        let End { table, only, .. } = self.end;
        let plan = &self.order.shard.table;
        let statements = match &keys.values {
            Some(values) => {
                let chunks = values.chunks(KEYS_AT_ONCE);
                chunks
                    .map(|keys| sql::copy_out_keys(plan, keys, table, only, Beside::Version))
                    .collect()
            }
            None => vec![sql::copy_out_compared(
                plan,
                &self.order.shard.part,
                table,
                only,
                Beside::Version,
            )],
        };
        let (sample, mut kept) = (self.order.sample, Vec::new());
        // A row whose key equals several that were asked for comes once for each statement.
        let mut seen = BTreeSet::new();
        for statement in statements {
            let mut rows = self.rows.clone();
            let mut copy = self.wire.copy_out(&statement).await?;
            let mut here = BTreeSet::new();
            while let Some(data) = copy.next().await? {
                let keep = |row: Row<'_>| {
                    if keys.hashes.contains(&row.key) && !seen.contains(&row.key) {
                        here.insert(row.key);
                        kept.push(Kept::of(&row, sample));
                    }
                };
                rows.take(&data, keep).map_err(|bad| bad_data(&bad))?;
            }
            seen.append(&mut here);
        }
        Ok(kept)
    }

    /// The table, as it is called at this end.
    pub(super) fn table(&self) -> &'a QualifiedName {
        self.end.table
    }

    /// See [`Stream::reaches`].
    pub(super) async fn wait_for(&mut self, stream: &Stream, noted: Lsn) -> Result<bool, PgError> {
        stream.reaches(&mut self.wire, noted).await
    }

    /// Leaves the session to other units.
    pub(super) fn end(self) {
        self.end.ctx.means.pool.give(self.wire);
    }
}

/// A stream, as the destination shows it.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    task: String,
}

impl Stream {
    /// The one that writes this table, or one that it is a partition of.
    pub(super) async fn of(
        wire: &mut Wire,
        table: &QualifiedName,
    ) -> Result<Option<Self>, PgError> {
        let ours = "select (pg_catalog.to_regclass('pgconvoy.apply_progress') is not null)::int";
        match wire.value(ours).await {
            Ok(there) if there == "1" => {}
            Ok(_) => return Ok(None),
            Err(error) if error.sqlstate() == Some(NOT_ALLOWED) => return Ok(None),
            Err(error) => return Err(error),
        }
        let ask = format!(
            "select p.task from pgconvoy.apply_progress p join pgconvoy.table_state s on s.task = p.task
             where s.followed is not null
             and pg_catalog.to_regclass(pg_catalog.format('%I.%I', s.write_schema, s.write_table))::oid in (
                select t.oid from pg_catalog.to_regclass({name}) as t (oid)
                union all select a.relid from pg_catalog.pg_partition_ancestors(pg_catalog.to_regclass({name})) a)
             limit 1",
            name = quote_literal(&table.quoted())
        );
        let rows = match wire.query(&ask).await {
            Ok(rows) => rows,
            Err(error) if error.sqlstate() == Some(NOT_ALLOWED) => return Ok(None),
            Err(error) => return Err(error),
        };
        let task = rows.first().map(|row| field(row, 0)).transpose()?;
        Ok(task.map(|task| Self { task }))
    }

    /// Waits until all is applied that was committed before this position; false = the stream does not get there.
    pub(super) async fn reaches(&self, wire: &mut Wire, noted: Lsn) -> Result<bool, PgError> {
        let ask = format!(
            "select lsn from pgconvoy.apply_progress where task = {}",
            quote_literal(&self.task)
        );
        let (mut last, mut since) = (Lsn(0), Instant::now());
        loop {
            let rows = wire.query(&ask).await?;
            // Gone: the task has ended.
            let Some(row) = rows.first() else { return Ok(false) };
            let now: Lsn = field(row, 0)?;
            if now >= noted {
                return Ok(true);
            }
            if now > last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= STILL_LIMIT {
                return Ok(false);
            }
            tokio::time::sleep(POSITION_PAUSE).await;
        }
    }
}
