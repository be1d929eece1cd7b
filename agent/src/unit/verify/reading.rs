//! One end's rows of a shard, as they are at one moment.
//!
//! A shard that is a whole table is read by several sessions at once, each a range of its blocks: in the order of the disk,
//! which is what a server does with the least work. Blocks of one end mean nothing at the other one, and need not: digests
//! add up. The sessions beside the first see its snapshot; where the server has no room for them there are fewer. Before
//! PostgreSQL 14, which finds no range of blocks without reading all, there is one.
//!
//! Where an agent of another site opened a session, it reads the rows in our place ([`Wire::ask`]).
//!
//! Each session is read by a task of its own, for hashing keeps a core busy. Memory: a digest for each session, and while rows
//! are looked at one by one those of some buckets.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::try_join_all;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use pgconvoy_flow::digest::{
    Answer, BadData, Digest, Focus, Found, HashKey, Kept, Question, Wanted,
};
use pgconvoy_flow::shards;
use pgconvoy_flow::sql::{self, Beside};
use pgconvoy_runtime::tasks;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{CopyShard, Part, VerifyRows};
use pgconvoy_shared::verify::Sample;

use crate::keeper::set_snapshot;
use crate::pg::wire::Wire;
use crate::pg::{Access, PgError};
use crate::unit::plan_tables::{TID_RANGE_SCAN, catalog};
use crate::unit::{ProgressCell, UnitContext};

/// Sessions for one table, at each end.
const SESSIONS_MAX: u32 = 4;

/// SQLSTATE: too many connections.
const NO_ROOM: &str = "53300";

/// The rows of one end.
pub(super) struct Reading {
    readers: Vec<Reader>,
    secret: HashKey,
    key_columns: usize,
    sample: Sample,
}

/// One of the two ends.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) ctx: &'a UnitContext,
    pub(super) access: &'a Access,
    /// The table as it is called there.
    pub(super) table: &'a QualifiedName,
    /// Without what inherits from it.
    pub(super) only: bool,
}

/// A session within its transaction, and what it reads.
struct Reader {
    wire: Wire,
    statement: String,
}

/// Sessions that read a whole table at each end. What more than one there are takes slots of the agent, so that it reads from
/// no more sessions than it has slots, as it does where each unit has one.
pub(super) struct Sessions {
    pub(super) count: u32,
    _slots: Vec<OwnedSemaphorePermit>,
}

impl Sessions {
    /// As many as are of use to a table, and as there are free slots for.
    pub(super) async fn of(
        ctx: &UnitContext,
        wire: &mut Wire,
        shard: &CopyShard,
    ) -> Result<Self, PgError> {
        let mut slots = Vec::new();
        // A partitioned table has no blocks of its own.
        if shard.part == Part::Whole && shard.table.name == shard.table.write_to {
            let table = catalog::regclass(&shard.table.name);
            let bytes = wire.value(&format!("select pg_catalog.pg_table_size({table})")).await?;
            let bytes = bytes.parse().map_err(|_| PgError::protocol("a size that is no number"))?;
            let of_use = shards::count(bytes, ctx.spec.copy.shard_size_bytes);
            let wanted = of_use.min(SESSIONS_MAX).min(ctx.spec.copy.jobs);
            let free =
                (1..wanted).map_while(|_| Arc::clone(&ctx.means.slots).try_acquire_owned().ok());
            slots.extend(free);
        }
        let count = slots.iter().fold(1, |count, _| count + 1);
        Ok(Self { count, _slots: slots })
    }
}

impl Reading {
    /// By a session that holds the table's lock, and as many beside it as make `sessions`.
    pub(super) async fn of(
        end: End<'_>,
        wire: Wire,
        secret: HashKey,
        order: &VerifyRows,
        sessions: u32,
    ) -> Result<Self, PgError> {
        let plan = &order.shard.table;
        let (wires, parts) = match &order.shard.part {
            Part::Whole => end.side_by_side(wire, sessions).await?,
            part @ (Part::Range { .. } | Part::Blocks { .. }) => (vec![wire], vec![part.clone()]),
        };
        let statement =
            |part: &Part| sql::copy_out_compared(plan, part, end.table, end.only, Beside::Nothing);
        let readers = wires.into_iter().zip(&parts);
        let readers = readers.map(|(wire, part)| Reader { wire, statement: statement(part) });
        let (key_columns, sample) = (plan.key.len(), order.sample);
        Ok(Self { readers: readers.collect(), secret, key_columns, sample })
    }

    /// The rows in focus, and how many bytes all rows were.
    pub(super) async fn digest(
        &mut self,
        focus: &Focus,
        progress: Option<&Arc<ProgressCell>>,
    ) -> Result<(Digest, u64), PgError> {
        let mut whole = (Digest::new(self.sample, focus), 0);
        for Answer { found, bytes, .. } in self.ask(focus, Wanted::Digest, progress).await? {
            let Found::Digest(digest) = found else { return Err(another_answer()) };
            whole.0.add_all(&digest);
            whole.1 += bytes;
        }
        Ok(whole)
    }

    /// The rows in focus, one by one.
    pub(super) async fn rows_of(&mut self, focus: &Focus) -> Result<Vec<Kept>, PgError> {
        let mut all = Vec::new();
        for Answer { found, .. } in self.ask(focus, Wanted::Rows, None).await? {
            let Found::Rows(kept) = found else { return Err(another_answer()) };
            all.extend(kept);
        }
        Ok(all)
    }

    /// Lets each session read, side by side. After an error the other sessions are gone.
    async fn ask(
        &mut self,
        focus: &Focus,
        wanted: Wanted,
        progress: Option<&Arc<ProgressCell>>,
    ) -> Result<Vec<Answer>, PgError> {
        let question = || Question {
            secret: self.secret.clone(),
            key_columns: self.key_columns,
            sample: self.sample,
            focus: focus.clone(),
            wanted,
        };
        let started: Vec<_> = std::mem::take(&mut self.readers)
            .into_iter()
            .map(|reader| reader.ask(question(), progress.map(Arc::clone)).in_current_span())
            .map(|reading| tasks::owned("reading to compare", reading))
            .collect();
        // It is cancelled with us only: what else ends it early is a panic, which is ours then.
        let ended = started
            .into_iter()
            .map(|task| task.map(|ended| ended.unwrap_or_else(|died| panic!("{died}"))));
        let (readers, answers) = try_join_all(ended).await?.into_iter().unzip();
        self.readers = readers;
        Ok(answers)
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
    async fn ask(
        mut self,
        question: Question,
        progress: Option<Arc<ProgressCell>>,
    ) -> Result<(Self, Answer), PgError> {
        let read = |rows, bytes| {
            if let Some(progress) = &progress {
                progress.add(rows, bytes);
            }
        };
        let answer = self.wire.ask(&self.statement, question, read).await?;
        Ok((self, answer))
    }
}

impl End<'_> {
    /// So many sessions, if there is room for them, and what each of them reads.
    async fn side_by_side(
        self,
        mut first: Wire,
        sessions: u32,
    ) -> Result<(Vec<Wire>, Vec<Part>), PgError> {
        let alone = |first| Ok((vec![first], vec![Part::Whole]));
        if sessions <= 1 || first.major()? < TID_RANGE_SCAN {
            return alone(first);
        }
        let (size, _) = catalog::size(&mut first, self.table, 0).await?;
        let sessions = sessions.min(size.blocks);
        if sessions <= 1 {
            return alone(first);
        }
        let snapshot = first.value("select pg_catalog.pg_export_snapshot()").await?;
        let (mut wires, mut readers) = (vec![first], 1);
        while readers < sessions {
            match self.beside(&snapshot).await {
                Ok(wire) => wires.push(wire),
                Err(error) if error.sqlstate() == Some(NO_ROOM) => break,
                Err(error) => return Err(error),
            }
            readers += 1;
        }
        let shards = shards::blocks(readers, size, &[]);
        Ok((wires, shards.into_iter().map(|shard| shard.part).collect()))
    }

    /// A session that sees a snapshot.
    async fn beside(self, snapshot: &str) -> Result<Wire, PgError> {
        let mut wire = self.ctx.means.pool.reader(self.access).await?;
        see_bytes_as_they_are(&mut wire).await?;
        wire.query("begin isolation level repeatable read read only").await?;
        wire.query(&set_snapshot(snapshot)).await?;
        Ok(wire)
    }
}

/// A database without an encoding holds whatever bytes were put into it; converting them would fail.
pub(in crate::unit) async fn see_bytes_as_they_are(wire: &mut Wire) -> Result<(), PgError> {
    if wire.parameter("server_encoding") == Some("SQL_ASCII") {
        wire.query("set client_encoding = 'SQL_ASCII'").await?;
    }
    Ok(())
}

fn another_answer() -> PgError {
    PgError::protocol("an answer to another question")
}

pub(in crate::unit) fn bad_data(bad: &BadData) -> PgError {
    PgError::protocol(bad.to_string())
}
