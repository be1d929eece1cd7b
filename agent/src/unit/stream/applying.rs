//! Applying: batches become transactions at the destination.
//!
//! ```text
//!  begin ─▶ fences (O1) ─▶ operations ─▶ what is parked, what was read again ─▶ position (O3) ─▶ commit
//! ```
//!
//! A batch's operations are sent one behind the other without waiting, and so is the commit: a way of any length to the
//! destination is gone twice for each batch. Where the destination refuses one, the changes of that
//! table are applied in smaller sets, in the source's order: sets of rows may meet in a way that single changes do not. A
//! change that is refused alone cannot be applied as things are: its table is parked, with the cause, and its changes are
//! kept at the destination from that one on, while all other tables go on. Nothing is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use pgconvoy_flow::stream::entry::{Act, Batch, Entry, Notice, Place, Reread};
use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_flow::stream::statements::Statement;
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::Field;
use pgconvoy_shared::epoch::Generation;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{QualifiedName, quote_literal};
use pgconvoy_shared::parking::{Cause, Changes, Parking};
use pgconvoy_shared::stream::ChangeCounts;
use tokio::sync::{mpsc, watch};

use super::catalog::Course;
use super::changes;
use super::figures::{self, Figures};
use super::folding::{Folded, Run};
use super::parking::{Why, is_refusal, not_as_planned};
use super::reading::{Cut, Noted};
use super::sending::{TextArray, answers_in_order};
use super::statements::Statements;
use super::{Applied, Position, count};
use crate::laws::Law;
use crate::pg::{About, Access, PgError, Session, Value};
use crate::unit::{UnitContext, UnitEnd};

/// What is refused is rolled back to here.
const SAVEPOINT: &str = "savepoint piece";

/// Applies batches.
pub(super) struct Applier<'a> {
    pub(super) ctx: &'a UnitContext,
    pub(super) access: Access,
    pub(super) session: Session,
    pub(super) targets: Arc<[Target]>,
    tables: BTreeMap<TableNo, Known>,
    pub(super) statements: Statements,
    pub(super) position: Position,
    consistent_at: Lsn,
    /// A transaction has begun that the next batch goes on with.
    open: bool,
    /// Tables whose changes are kept.
    pub(super) parked: BTreeSet<TableNo>,
    /// Those of them that are copied anew.
    pub(super) held: BTreeSet<TableNo>,
    /// Which tables are parked, or not any more: to be told once it is durable.
    pub(super) untold: Vec<Parking>,
    /// Targets that refused what was folded: they have further unique values, which rows pass among them.
    touchy: BTreeSet<usize>,
    /// What is written and not committed yet.
    counts: BTreeMap<TableNo, ChangeCounts>,
    pub(super) reports: Reports,
}

/// Where an applier says what it does.
pub(super) struct Reports {
    pub(super) applied: watch::Sender<Applied>,
    /// Tells the reader of tables that are parked.
    pub(super) park: mpsc::UnboundedSender<TableNo>,
    pub(super) figures: Arc<Figures>,
}

/// What is known of a table since it was taken over.
struct Known {
    generation: Generation,
    name: QualifiedName,
    /// Why it was parked then.
    cause: Option<Cause>,
}

/// How the destination comes to a position, and the transaction to its end.
pub(super) struct Step {
    to: Position,
    sql: String,
}

/// What was written of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Its changes: the transaction goes on.
    Changes,
    /// All, and the transaction has ended with the step.
    AndStepped,
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
        reports: Reports,
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
            held: BTreeSet::new(),
            untold: Vec::new(),
            touchy: BTreeSet::new(),
            statements: Statements::default(),
            position,
            consistent_at,
            session,
            open: false,
            counts: BTreeMap::new(),
            reports,
        };
        // Whoever parked them may not have been heard.
        for table in course.taken.iter().filter(|table| table.is_aside()) {
            applier.parked.insert(table.no);
            match &table.cause {
                _ if table.held => drop(applier.held.insert(table.no)),
                Some(cause) => {
                    applier.shall_tell(table.no, Changes::Parked(Box::new(cause.clone())))
                }
                None => {}
            }
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

    fn parked_count(&self) -> u32 {
        count(self.parked.difference(&self.held).count())
    }

    /// Says how the tables are when the stream begins.
    pub(super) fn begin(&mut self) {
        self.tell();
        if !self.held.is_empty() {
            // Not before they are copied: whoever applies that will be somebody else.
            self.consistent_at = Lsn(u64::MAX);
        }
        let (consistent_at, parked) = (self.consistent_at, self.parked_count());
        self.reports.applied.send_modify(|applied| {
            *applied = Applied { consistent_at, parked, ..*applied };
        });
    }

    /// Applies what comes until nothing comes any more.
    pub(super) async fn run(
        mut self,
        mut cuts: mpsc::Receiver<Cut>,
        finished: watch::Sender<u64>,
    ) -> Result<(), UnitEnd> {
        while let Some(cut) = cuts.recv().await {
            self.ctx.still_mine()?;
            self.apply(cut).await?;
            finished.send_modify(|finished| *finished += 1);
        }
        Ok(())
    }

    async fn apply(&mut self, cut: Cut) -> Result<(), UnitEnd> {
        let Cut { mut batch, folded, reached, noted } = cut;
        let rows = batch.entries.len();
        // Cut before it was known that these are parked.
        let beginning = Place { commit_lsn: Lsn(0), ordinal: 0, xid: FullXid(0) };
        for table in &self.parked {
            batch.park(*table, beginning);
        }
        if Law::EveryChange.is_left_out() && self.position.seq % 20 == 5 {
            let one = batch.entries.iter().position(|entry| matches!(entry.act, Act::Add(_)));
            one.map(|one| batch.entries.remove(one));
        }
        // It was folded with what goes out of the batch here.
        let folded = folded.filter(|_| batch.entries.len() == rows);
        let written = batch.entries.iter().map(|entry| entry.table);
        let kept = batch.parked.iter().map(|parked| parked.table);
        self.begin_piece(written.chain(kept).collect(), &batch.entries).await?;
        let rows = batch.entries.len() as u64;
        figures::count(&batch.entries, &mut self.counts);
        let is_all =
            batch.parked.is_empty() && batch.notices.is_empty() && batch.rereads.is_empty();
        let step = (batch.at_boundary && is_all).then(|| self.step(reached, &noted));
        let written = self.write(&mut batch, folded, step.as_ref()).await?;
        if written == Written::Changes {
            self.keep(&batch).await?;
        }
        self.ctx.progress.add(rows, batch.bytes as u64);
        match step {
            Some(step) if written == Written::AndStepped => self.stepped(step.to),
            _ if batch.at_boundary => self.step_to(reached, &noted).await?,
            _ => {}
        }
        Ok(())
    }

    /// Begins a transaction, or goes on with the one that is open. The plans of all tables that are written are current, and
    /// stay so (law O1); to those that are copied anew nothing is written, and what is kept of them is kept under whichever
    /// plan. What is refused later is rolled back to here.
    ///
    /// `entries`: what will be written.
    pub(super) async fn begin_piece(
        &mut self,
        mut tables: BTreeSet<TableNo>,
        entries: &[Entry],
    ) -> Result<(), UnitEnd> {
        tables.retain(|table| !self.held.contains(table));
        let generations = array(tables.iter().map(|table| self.generation_of(*table).0));
        let (task, tables) = (&self.ctx.task, array(&tables));
        // One within the other they would be thousands in a large transaction.
        let begin = if self.open { "release savepoint piece; " } else { "begin; " };
        let fenced = format!(
            "{begin}select pgconvoy.fence('{task}', t.no, t.generation) \
             from unnest('{tables}'::bigint[], '{generations}'::bigint[]) as t (no, generation); \
             {}; {SAVEPOINT}",
            changes::wanted(task)
        );
        let rows = self.session.text_rows(&fenced).await.about(&self.access)?;
        self.open = true;
        let wanted = rows.last().and_then(|row| row.first()).and_then(Option::as_deref);
        if wanted == Some("t") { self.note_changes(entries).await } else { Ok(()) }
    }

    /// Writes a batch. A target that refuses what is folded gets its rows carried from then on; where it refuses that too,
    /// its changes are applied in smaller parts, each target by itself: within one transaction the order among tables shows
    /// nowhere.
    ///
    /// `ahead`: all of it, folded before. `step`: what ends the transaction, if nothing else comes before that.
    pub(super) async fn write(
        &mut self,
        batch: &mut Batch,
        ahead: Option<Folded>,
        step: Option<&Step>,
    ) -> Result<Written, UnitEnd> {
        let mut apart = BTreeSet::new();
        let mut ahead = ahead.filter(|ahead| !ahead.writes_any(&self.touchy));
        let mut parts = loop {
            let (together, parts) = divide(std::mem::take(&mut batch.entries), &apart);
            let step = step.filter(|_| parts.is_empty());
            match self.fold_and_run(&together, ahead.take(), step).await {
                Ok(()) if step.is_some() => return Ok(Written::AndStepped),
                Ok(()) => break parts,
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Refused { target, error, statement: _ }) => {
                    tracing::debug!("a batch is refused as it is folded: {error}");
                    match target {
                        Some(target) if self.touchy.insert(target) => {}
                        Some(target) => drop(apart.insert(target)),
                        None => apart.extend(together.iter().map(|entry| entry.target)),
                    }
                    batch.entries = together;
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
        Ok(Written::Changes)
    }

    /// Statement is sent behind statement, and the step behind them: where one fails, so do all that follow it.
    async fn fold_and_run(
        &mut self,
        entries: &[Entry],
        ahead: Option<Folded>,
        step: Option<&Step>,
    ) -> Result<(), Stop> {
        let folded = ahead.map_or_else(|| Folded::of(entries, &self.targets, &self.touchy), Ok);
        let Folded(runs) = folded.map_err(|bad| Stop::Refused {
            target: None,
            statement: String::new(),
            error: PgError::protocol(bad.to_string()),
        })?;
        self.prepare(&runs).await?;
        if step.is_some() {
            self.ctx.still_mine().map_err(Stop::End)?;
        }
        let session = &self.session;
        let mut sent: Vec<BoxFuture<'_, Result<(), tokio_postgres::Error>>> = Vec::new();
        for Run { statement: Statement { sql, parameters }, .. } in &runs {
            let known = self.statements.get(sql).expect("all of them are prepared");
            let parameters = parameters.iter().map(TextArray);
            sent.push(session.execute_raw(known, parameters).map_ok(drop).boxed());
        }
        sent.extend(step.map(|step| session.batch_execute(&step.sql).boxed()));
        let mut answers = answers_in_order(sent).await.into_iter();
        for (Run { target, statement }, answer) in runs.iter().zip(&mut answers) {
            let refused = |error| self.stop(*target, &statement.sql, PgError::from(error));
            answer.map_err(refused)?;
        }
        answers.collect::<Result<(), _>>().map_err(|error| {
            Stop::End(UnitEnd::Failed(self.access.failure(&PgError::from(error))))
        })?;
        self.statements.written(entries);
        Ok(())
    }

    /// Makes the statements known to the server that it does not know yet.
    async fn prepare(&mut self, runs: &[Run]) -> Result<(), Stop> {
        self.statements.make_room();
        let is_new = |run: &&Run| self.statements.get(&run.statement.sql).is_none();
        let new: Vec<&Run> = runs.iter().filter(is_new).collect();
        let session = &self.session;
        let sent = new.iter().map(|run| session.prepare(&run.statement.sql).boxed()).collect();
        let answers = answers_in_order(sent).await;
        for (Run { target, statement }, answer) in new.into_iter().zip(answers) {
            let refused = |error| self.stop(*target, &statement.sql, PgError::from(error));
            let known = answer.map_err(refused)?;
            self.statements.add(statement.sql.clone(), *target, known);
        }
        Ok(())
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
            match self.fold_and_run(&part.entries[range.clone()], None, None).await {
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
                // Users are told by whoever looks at the source.
                Notice::NotFollowed(name) => {
                    tracing::warn!(table = %name, "changes of it are not followed");
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
            let values: [&dyn Value; 5] = [&task, &table, &fields, &snapshot, &noted];
            self.session.execute(remember, &values).await.about(&self.access)?;
        }
        let raise = "update pgconvoy.table_state set read_again_at = greatest(read_again_at, $3::text::pg_lsn) \
                     where task = $1 and table_no = $2";
        self.session.execute(raise, &[&task, &table, &noted]).await.about(&self.access)?;
        Ok(())
    }

    /// How the destination comes to this position: it says so, and what was noted on the way, in the transaction that brings
    /// it there (law O3).
    fn step(&self, reached: Lsn, noted: &Noted) -> Step {
        let Position { lsn, seq } = self.position;
        let to = Position { lsn: reached.max(lsn), seq: seq + 1 };
        let (task, epoch) = (&self.ctx.task, self.ctx.epoch);
        if Law::Step.is_left_out() {
            let Position { lsn, seq } = to;
            let sql = format!(
                "update pgconvoy.apply_progress set lsn = '{lsn}', seq = {seq} where task = '{task}'; commit"
            );
            return Step { to, sql };
        }
        let marker = noted.marker.as_ref();
        let sql = format!(
            "select pgconvoy.advance_stream('{task}', {epoch}, '{lsn}', {seq}, '{}', {}, {}, {}); commit",
            to.lsn,
            literal(noted.last_change.as_ref()),
            literal(marker.map(|(marker, _)| marker)),
            literal(marker.map(|(_, at)| at)),
        );
        Step { to, sql }
    }

    /// Brings it there.
    pub(super) async fn step_to(&mut self, reached: Lsn, noted: &Noted) -> Result<(), UnitEnd> {
        let step = self.step(reached, noted);
        self.ctx.still_mine()?;
        self.run_sql(&step.sql).await?;
        self.stepped(step.to);
        Ok(())
    }

    /// It is there.
    fn stepped(&mut self, to: Position) {
        self.open = false;
        self.position = to;
        let (lsn, consistent_at) = (to.lsn, self.consistent_at);
        let parked = self.parked_count();
        self.reports.figures.applied(std::mem::take(&mut self.counts));
        self.reports.applied.send_replace(Applied { lsn, consistent_at, parked });
        self.tell();
    }

    async fn run_sql(&self, sql: &str) -> Result<(), UnitEnd> {
        Ok(self.session.batch_execute(sql).await.about(&self.access)?)
    }
}

/// A value as SQL has it, if there is one.
fn literal(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| quote_literal(&value.to_string()))
}

/// Numbers as SQL has an array of them.
fn array(numbers: impl IntoIterator<Item = impl Display>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    format!("{{{}}}", numbers.join(","))
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
