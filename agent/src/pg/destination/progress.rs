//! `shard_progress`: written last in the transaction that wrote a shard's rows, so a row there *is* the shard's completion.
//!
//! Rows in an unlogged table are gone after a crash of the server, and that row would still be there. So it has a mark beside it
//! then, in an unlogged table of ours: they go together. The shard is done while both are there; the row alone is taken
//! away by who copies the shard again.

use std::collections::BTreeSet;

use pgconvoy_shared::epoch::{Epoch, Generation};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, TaskId};
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::unit::{AuditTable, CopyDone};

use crate::laws::Law;
use crate::pg::wire::{Answer, TextRow, Wire};
use crate::pg::{About, PgError, Session};

/// Which statements of a schema show in what they made which rows were there.
pub(super) const MADE_OF_ROWS: &str = "kind = 'MATERIALIZED VIEW DATA' and done";

/// Names a shard of one plan of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardId {
    /// Its task.
    pub(crate) task: TaskId,
    /// Its table.
    pub(crate) table: TableNo,
    /// The plan.
    pub(crate) generation: Generation,
    /// Its number within the plan.
    pub(crate) shard: u32,
}

impl ShardId {
    /// `task, table_no, generation, shard` as SQL values.
    fn values(&self) -> String {
        format!(
            "{}, {}, {}, {}",
            quote_literal(self.task.as_str()),
            self.table,
            self.generation,
            self.shard
        )
    }

    /// The key of its advisory lock, as an SQL expression: the same for all its generations, so that an old owner and
    /// a new one never write at the same time.
    pub(crate) fn lock_key(&self) -> String {
        let name = format!("pgconvoy shard {}/{}/{}", self.task, self.table, self.shard);
        format!("pg_catalog.hashtextextended({}, 0)", quote_literal(&name))
    }

    /// The statement that reads the shard's completion.
    fn completion(&self) -> String {
        format!(
            "select rows, bytes, snapshot, noted_lsn from pgconvoy.shard_done \
             where (task, table_no, generation, shard) = ({})",
            self.values()
        )
    }

    /// The statement that forgets a completion whose rows were lost in a crash, and what was made of them since.
    fn forget_lost(&self) -> String {
        format!(
            "with lost as (delete from pgconvoy.shard_progress \
             where unlogged and (task, table_no, generation, shard) = ({0}) \
             and not exists (select from pgconvoy.shard_done where (task, table_no, generation, shard) = ({0})) returning task) \
             update pgconvoy.schema_entry e set done = false from lost where e.task = lost.task and {MADE_OF_ROWS}",
            self.values()
        )
    }

    /// The statement that raises unless this plan is current (law O1).
    fn fence(&self) -> String {
        let task = quote_literal(self.task.as_str());
        format!("select pgconvoy.fence({task}, {}, {})", self.table, self.generation)
    }
}

/// Statements that raise unless this plan is current, and keep it current until the transaction ends (law O1). The last one asks
/// for the shard's completion.
pub(crate) fn ask_fenced(id: &ShardId) -> String {
    let fence = id.fence();
    let fence = if Law::Generation.is_left_out() { "select" } else { &fence };
    format!("{fence}; {}; {}", id.forget_lost(), id.completion())
}

/// The shard's completion, if it is done, out of the answers to [`ask_fenced`].
pub(crate) fn found_fenced(answers: &[Answer]) -> Result<Option<CopyDone>, PgError> {
    answers.last().and_then(|answer| answer.rows.first()).map(found).transpose()
}

/// Gives the table a new file in the current transaction, which is fenced and found the shard not done; whether it did. Then
/// the shard's rows can be frozen.
pub(crate) async fn make_fresh(
    wire: &mut Wire,
    id: &ShardId,
    written_to: &QualifiedName,
) -> Result<bool, PgError> {
    let ask = format!(
        "select pgconvoy.make_fresh({}, {}, {}::pg_catalog.regclass)",
        quote_literal(id.task.as_str()),
        id.table,
        quote_literal(&written_to.quoted())
    );
    Ok(wire.value(&ask).await? == "t")
}

/// The shard's completion, if it is done.
pub(crate) async fn find(wire: &mut Wire, id: &ShardId) -> Result<Option<CopyDone>, PgError> {
    let rows = wire.query(&id.completion()).await?;
    rows.first().map(found).transpose()
}

fn found(row: &TextRow) -> Result<CopyDone, PgError> {
    let bad = || PgError::protocol(format!("shard_progress holds {row:?}"));
    let [Some(rows), Some(bytes), Some(snapshot), Some(noted_lsn)] = row.as_slice() else {
        return Err(bad());
    };
    Ok(CopyDone {
        rows: rows.parse().map_err(|_| bad())?,
        bytes: bytes.parse().map_err(|_| bad())?,
        snapshot: snapshot.clone(),
        noted_lsn: noted_lsn.parse().map_err(|_| bad())?,
        found_done: true,
    })
}

/// Writes the shard's completion into the current transaction and commits it. A unique violation means that someone finished.
pub(crate) async fn record_and_commit(
    wire: &mut Wire,
    id: &ShardId,
    written_to: &QualifiedName,
    epoch: Epoch,
    done: &CopyDone,
) -> Result<(), PgError> {
    // Of leaves that are written through their root none is asked: those rows could not be told apart to be copied again.
    let row = format!(
        "with done as (insert into pgconvoy.shard_progress \
         (task, table_no, generation, shard, epoch, snapshot, noted_lsn, rows, bytes, unlogged) \
         select {}, {epoch}, {}, '{}', {}, {}, relkind = 'r' and relpersistence = 'u' \
         from pg_catalog.pg_class where oid = {}::pg_catalog.regclass \
         returning task, table_no, generation, shard, unlogged) \
         insert into pgconvoy.unlogged_mark select task, table_no, generation, shard from done where unlogged",
        id.values(),
        quote_literal(&done.snapshot),
        done.noted_lsn,
        done.rows,
        done.bytes,
        quote_literal(&written_to.quoted())
    );
    let row = if Law::Progress.is_left_out() { "select" } else { &row };
    // Named, so that whoever looks at the server's log or cuts the line here for a test knows this commit from others.
    wire.query(&format!("{row}; commit /* shard */")).await.map(drop)
}

/// Tables asked about at once: with a few shards each, some thousand numbers.
const TABLES_ASKED: usize = 500;

/// Shards of these tables that are not done under the generations named (law O6).
pub(crate) async fn missing(
    session: &Session,
    task: &TaskId,
    tables: &[AuditTable],
) -> Result<Vec<(TableNo, u32)>, Failure> {
    if Law::Progress.is_left_out() {
        return Ok(Vec::new());
    }
    let mut missing = Vec::new();
    for tables in tables.chunks(TABLES_ASKED) {
        let done = done(session, task, tables).await.about(session.access())?;
        for table in tables {
            let no = i64::from(table.no.0);
            let lacking =
                (0..table.shards).filter(|shard| !done.contains(&(no, i64::from(*shard))));
            missing.extend(lacking.map(|shard| (table.no, shard)));
        }
    }
    Ok(missing)
}

/// Table and number of the shards of these tables that are done.
async fn done(
    session: &Session,
    task: &TaskId,
    tables: &[AuditTable],
) -> Result<BTreeSet<(i64, i64)>, tokio_postgres::Error> {
    let column = |of: fn(&AuditTable) -> u32| -> Vec<i64> {
        tables.iter().map(|table| of(table).into()).collect()
    };
    let rows = session
        .query(
            "select p.table_no, p.shard from unnest($2::bigint[], $3::bigint[]) as t (no, generation) \
             join pgconvoy.shard_done p on (p.task, p.table_no, p.generation) = ($1, t.no, t.generation)",
            &[&task.as_str(), &column(|table| table.no.0), &column(|table| table.generation.0)],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
