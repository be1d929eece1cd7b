//! Applying: batches become transactions at the destination.
//!
//! ```text
//!  begin ─▶ fences (O1) ─▶ operations ─▶ what is parked, what was read again ─▶ position (O3) ─▶ commit
//! ```
//!
//! A batch's operations are sent one behind the other without waiting. Where the destination refuses one, the changes of that
//! table are applied in smaller sets, in the source's order: sets of rows may meet in a way that single changes do not. A
//! change that is refused alone cannot be applied as things are: its table is parked, with the cause, and its changes are
//! kept at the destination from that one on, while all other tables go on. Nothing is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use pgconvoy_flow::stream::entry::{Act, Batch, Entry, Notice, Place, Reread};
use pgconvoy_flow::stream::fold::fold;
use pgconvoy_flow::stream::operation::carried;
use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_flow::stream::statements::{Statement, statement};
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::Field;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::name::quote_literal;
use pgconvoy_shared::parking::{Cause, Parking};
use tokio::sync::{mpsc, watch};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tracing::warn;

use super::catalog::Course;
use super::parking::{Why, is_refusal, not_as_planned};
use super::reading::{Cut, Noted};
use super::{Applied, Position, count};
use crate::pg::{About, Access, PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// Prepared statements that are kept: a few for each table, and for each set of columns that is updated.
const STATEMENTS_MAX: usize = 1_000;

/// Applies batches.
pub(super) struct Applier<'a> {
    pub(super) ctx: &'a UnitContext,
    pub(super) access: Access,
    pub(super) session: Session,
    pub(super) targets: Arc<[Target]>,
    tables: BTreeMap<TableNo, Known>,
    statements: BTreeMap<String, tokio_postgres::Statement>,
    pub(super) position: Position,
    consistent_at: Lsn,
    /// A transaction has begun that the next batch goes on with.
    open: bool,
    pub(super) parked: BTreeSet<TableNo>,
    /// Which tables are parked, or not any more: to be told once it is durable.
    pub(super) untold: Vec<Parking>,
    /// Targets that refused what was folded: they have further unique values, which rows pass among them.
    touchy: BTreeSet<usize>,
    applied: watch::Sender<Applied>,
    /// Tells the reader of tables that are parked.
    pub(super) park: mpsc::UnboundedSender<TableNo>,
}

/// What is known of a table since it was taken over.
struct Known {
    generation: Generation,
    name: QualifiedName,
    /// Why it was parked then.
    cause: Option<Cause>,
}

/// Why a piece of a batch is not applied.
enum Stop {
    /// The destination refuses it as it is.
    Refused {
        /// What was written then; none = it is not known.
        target: Option<usize>,
        /// What was run; empty where it did not come to that.
        statement: String,
        error: PgError,
    },
    /// The unit ends.
    End(UnitEnd),
}

impl<'a> Applier<'a> {
    pub(super) fn new(
        ctx: &'a UnitContext,
        session: Session,
        position: Position,
        consistent_at: Lsn,
        course: &Course,
        applied: watch::Sender<Applied>,
        park: mpsc::UnboundedSender<TableNo>,
    ) -> Self {
        let known = course.taken.iter().map(|table| {
            let name = table.followed.name.clone();
            let known = Known { generation: table.generation, name, cause: table.cause.clone() };
            (table.no, known)
        });
        let mut applier = Self {
            ctx,
            access: session.access().clone(),
            targets: Arc::clone(&course.targets),
            tables: known.collect(),
            parked: BTreeSet::new(),
            untold: Vec::new(),
            touchy: BTreeSet::new(),
            statements: BTreeMap::new(),
            position,
            consistent_at,
            session,
            open: false,
            applied,
            park,
        };
        // Whoever parked them may not have been heard.
        for table in course.taken.iter().filter(|table| table.cause.is_some()) {
            applier.parked.insert(table.no);
            applier.shall_tell(table.no, table.cause.clone());
        }
        applier
    }

    pub(super) fn name_of(&self, table: TableNo) -> String {
        self.tables.get(&table).map(|known| known.name.to_string()).unwrap_or_default()
    }

    pub(super) fn generation_of(&self, table: TableNo) -> Generation {
        self.tables.get(&table).map(|known| known.generation).unwrap_or_default()
    }

    pub(super) fn cause_of(&self, table: TableNo) -> Option<Cause> {
        self.tables.get(&table)?.cause.clone()
    }

    /// Says how the tables are when the stream begins.
    pub(super) fn begin(&mut self) {
        self.tell();
        let parked = count(&self.parked);
        self.applied.send_modify(|applied| applied.parked = parked);
    }

    /// Applies what comes until nothing comes any more.
    pub(super) async fn run(mut self, mut cuts: mpsc::Receiver<Cut>) -> Result<(), UnitEnd> {
        while let Some(cut) = cuts.recv().await {
            self.ctx.still_mine()?;
            self.apply(cut).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, cut: Cut) -> Result<(), UnitEnd> {
        let Cut { mut batch, reached, noted } = cut;
        // Cut before it was known that these are parked.
        let beginning = Place { commit_lsn: Lsn(0), ordinal: 0, xid: FullXid(0) };
        for table in &self.parked {
            batch.park(*table, beginning);
        }
        self.begin_piece().await?;
        let rows = batch.entries.len() as u64;
        self.write(&mut batch).await?;
        self.keep(&batch).await?;
        self.ctx.progress.add(rows, batch.bytes as u64);
        if batch.at_boundary {
            self.step_to(reached, noted).await?;
        }
        Ok(())
    }

    /// Begins a transaction, or goes on with the one that is open.
    pub(super) async fn begin_piece(&mut self) -> Result<(), UnitEnd> {
        let begin = if self.open { "savepoint piece" } else { "begin; savepoint piece" };
        self.run_sql(begin).await?;
        self.open = true;
        Ok(())
    }

    /// The plans of all tables that are written are current, and stay so (law O1).
    pub(super) async fn fence(&mut self, tables: BTreeSet<TableNo>) -> Result<(), UnitEnd> {
        let generations: Vec<i64> =
            tables.iter().map(|table| i64::from(self.generation_of(*table).0)).collect();
        let tables: Vec<i64> = tables.iter().map(|table| i64::from(table.0)).collect();
        let fence = "select pgconvoy.fence($1, t.no, t.generation) from unnest($2::bigint[], $3::bigint[]) as t (no, generation)";
        let task = self.ctx.task.as_str();
        self.session.query(fence, &[&task, &tables, &generations]).await.about(&self.access)?;
        Ok(())
    }

    /// Writes a batch. A target that refuses what is folded gets its rows carried from then on; where it refuses that too,
    /// its changes are applied in smaller parts, each target by itself: within one transaction the order among tables shows
    /// nowhere.
    pub(super) async fn write(&mut self, batch: &mut Batch) -> Result<(), UnitEnd> {
        let written = batch.entries.iter().map(|entry| entry.table);
        let kept = batch.parked.iter().map(|parked| parked.table);
        let tables: BTreeSet<TableNo> = written.chain(kept).collect();
        let mut apart = BTreeSet::new();
        let mut parts = loop {
            self.fence(tables.clone()).await?;
            let (folded, parts) = divide(std::mem::take(&mut batch.entries), &apart);
            match self.fold_and_run(&folded).await {
                Ok(()) => break parts,
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Refused { target, error, statement: _ }) => {
                    tracing::debug!("a batch is refused as it is folded: {error}");
                    match target {
                        Some(target) if self.touchy.insert(target) => {}
                        Some(target) => drop(apart.insert(target)),
                        None => apart.extend(folded.iter().map(|entry| entry.target)),
                    }
                    batch.entries = folded;
                    batch.entries.extend(parts.into_iter().flat_map(|part| part.entries));
                    batch.entries.sort_by_key(|entry| entry.place);
                    self.run_sql("rollback to savepoint piece").await?;
                }
            }
        };
        for part in &mut parts {
            self.write_in_parts(part).await?;
            batch.parked.append(&mut part.parked);
        }
        batch.parked.sort_by_key(|parked| parked.place);
        Ok(())
    }

    async fn fold_and_run(&mut self, entries: &[Entry]) -> Result<(), Stop> {
        let problem = |problem: String| Stop::Refused {
            target: None,
            statement: String::new(),
            error: PgError::protocol(problem),
        };
        let operations = fold(entries, &self.targets).map_err(|bad| problem(bad.to_string()))?;
        let operations = carried(operations, &self.touchy);
        let mut prepared = Vec::with_capacity(operations.len());
        for operation in &operations {
            let Statement { sql, parameters } =
                statement(operation, &self.targets).map_err(|bad| problem(bad.to_string()))?;
            let known = self.prepare(&sql).await;
            let known = known.map_err(|error| self.stop(operation.target(), &sql, error))?;
            prepared.push((known, parameters, sql));
        }
        // Polled in this order, they are sent in this order; where one fails, so do all that follow it.
        let session = &self.session;
        let sent = prepared.iter().map(|(known, parameters, _)| {
            session.execute_raw(known, parameters.iter().map(|value| TextArray(value.clone())))
        });
        let answers = join_all(sent).await;
        for ((operation, (_, _, sql)), answer) in operations.iter().zip(&prepared).zip(answers) {
            answer.map_err(|error| self.stop(operation.target(), sql, PgError::from(error)))?;
        }
        Ok(())
    }

    async fn prepare(&mut self, sql: &str) -> Result<tokio_postgres::Statement, PgError> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        let prepared = self.session.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    fn stop(&self, target: Option<usize>, statement: &str, error: PgError) -> Stop {
        if is_refusal(&error) {
            Stop::Refused { target, statement: statement.to_owned(), error }
        } else {
            Stop::End(UnitEnd::Failed(self.access.failure(&error)))
        }
    }

    /// Halves what is refused, until it is not, or is one change alone: that one cannot be applied.
    async fn write_in_parts(&mut self, part: &mut Batch) -> Result<(), UnitEnd> {
        let all = 0..part.entries.len();
        let mut to_do = Vec::from([all]);
        while let Some(range) = to_do.pop() {
            if range.is_empty() {
                continue;
            }
            self.run_sql("savepoint part").await?;
            match self.fold_and_run(&part.entries[range.clone()]).await {
                Ok(()) => self.run_sql("release savepoint part").await?,
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Refused { error, statement, .. }) => {
                    self.run_sql("rollback to savepoint part").await?;
                    let refused = &part.entries[range.start];
                    let (place, table, change) = (refused.place, refused.table, refused.told());
                    if let Some(middle) = middle(&part.entries, &range) {
                        to_do.extend([middle..range.end, range.start..middle]);
                        continue;
                    }
                    let failure = error.failure(self.name_of(table));
                    self.park_table(table, place, Why { failure, change, statement }).await?;
                    part.park(table, place);
                    let rest = range.start..part.entries.len();
                    to_do = Vec::from([rest]);
                }
            }
        }
        Ok(())
    }

    /// What is not applied but written down.
    pub(super) async fn keep(&mut self, batch: &Batch) -> Result<(), UnitEnd> {
        for notice in &batch.notices {
            match notice {
                Notice::Parked { table, place, change, mismatch } => {
                    let (failure, change) = (not_as_planned(mismatch), change.clone());
                    let why = Why { failure, change, statement: String::new() };
                    self.park_table(*table, *place, why).await?;
                }
                Notice::NotFollowed(name) => {
                    warn!(table = %name, "its changes are not followed: it was not there when the task began");
                }
            }
        }
        if !batch.parked.is_empty() {
            self.keep_parked(&batch.parked).await?;
        }
        for reread in &batch.rereads {
            self.remember(reread).await?;
            self.consistent_at = self.consistent_at.max(reread.noted);
        }
        Ok(())
    }

    /// N of its table is not before it (law S8).
    async fn remember(&self, reread: &Reread) -> Result<(), UnitEnd> {
        let task = self.ctx.task.as_str();
        let (table, noted) = (i64::from(reread.table.0), reread.noted.to_string());
        let snapshot = reread.snapshot.to_string();
        for key in &reread.keys {
            let fields: Vec<Option<String>> = key
                .fields()
                .map(|field| match field {
                    Field::Text(value) => Some(String::from_utf8_lossy(value).into_owned()),
                    Field::Null | Field::Unchanged | Field::Binary(_) => None,
                })
                .collect();
            let remember = "insert into pgconvoy.reread (task, table_no, key, snapshot, noted_lsn) \
                            values ($1, $2, $3, $4, $5::text::pg_lsn)";
            let values: [&(dyn ToSql + Sync); 5] = [&task, &table, &fields, &snapshot, &noted];
            self.session.execute(remember, &values).await.about(&self.access)?;
        }
        let raise = "update pgconvoy.table_state set read_again_at = greatest(read_again_at, $3::text::pg_lsn) \
                     where task = $1 and table_no = $2";
        self.session.execute(raise, &[&task, &table, &noted]).await.about(&self.access)?;
        Ok(())
    }

    /// The destination is at this position, and says so in the transaction that brought it there.
    pub(super) async fn step_to(&mut self, reached: Lsn, noted: Noted) -> Result<(), UnitEnd> {
        let to = reached.max(self.position.lsn);
        let or_null =
            |lsn: Option<Lsn>| lsn.map_or_else(|| "null".to_owned(), |lsn| format!("'{lsn}'"));
        let last_change = or_null(noted.last_change);
        let (marker, marker_lsn) = noted.marker.unzip();
        let marker = marker.map_or_else(|| "null".to_owned(), |marker| quote_literal(&marker));
        let marker_lsn = or_null(marker_lsn);
        let advance = format!(
            "select pgconvoy.advance_stream('{}', {}, '{}', {}, '{to}', {last_change}, {marker}, {marker_lsn}); commit",
            self.ctx.task, self.ctx.epoch, self.position.lsn, self.position.seq
        );
        self.ctx.still_mine()?;
        self.run_sql(&advance).await?;
        self.open = false;
        self.position = Position { lsn: to, seq: self.position.seq + 1 };
        let parked = count(&self.parked);
        self.applied.send_replace(Applied { lsn: to, consistent_at: self.consistent_at, parked });
        self.tell();
        Ok(())
    }

    async fn run_sql(&self, sql: &str) -> Result<(), UnitEnd> {
        Ok(self.session.batch_execute(sql).await.about(&self.access)?)
    }
}

/// What is folded all together, and what is not, target by target, in order each. Tables that one statement emptied stay
/// together.
fn divide(entries: Vec<Entry>, apart: &BTreeSet<usize>) -> (Vec<Entry>, Vec<Batch>) {
    if apart.is_empty() {
        return (entries, Vec::new());
    }
    if entries.iter().any(|entry| matches!(entry.act, Act::Truncate { .. })) {
        return (Vec::new(), vec![Batch { entries, ..Batch::default() }]);
    }
    let mut folded = Vec::with_capacity(entries.len());
    let mut parts: BTreeMap<usize, Batch> = BTreeMap::new();
    for entry in entries {
        if apart.contains(&entry.target) {
            parts.entry(entry.target).or_default().entries.push(entry);
        } else {
            folded.push(entry);
        }
    }
    (folded, parts.into_values().collect())
}

/// Where to cut: between two changes, as near to the middle as can be; none = it is one change.
fn middle(entries: &[Entry], range: &Range<usize>) -> Option<usize> {
    let is_cut = |at: &usize| entries[at - 1].place != entries[*at].place;
    let middle = range.start + range.len() / 2;
    let after = (middle.max(range.start + 1)..range.end).find(is_cut);
    after.or_else(|| (range.start + 1..middle).rev().find(is_cut))
}

/// A parameter of type `text[]`, in the form in which it is sent.
#[derive(Debug)]
struct TextArray(Bytes);

impl ToSql for TextArray {
    fn to_sql(
        &self,
        _type: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TEXT_ARRAY
    }

    fn encode_format(&self, _type: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}
