//! What users see of a task. Made from totals that `apply` keeps, so it costs what it shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgconvoy_shared::epoch::{Epoch, Generation};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo, TaskId, UnitId, UnitNo};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::precheck::PrecheckItem;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::stream::{SlotState, StreamProgress};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{Checkpoint, Progress, StreamOpened, UnitKind};
use pgconvoy_shared::verify::{ObjectsCompared, Purpose, RowsCompared, VerifySettings};

use crate::state::clerk::Task;
use crate::state::{
    Cutover, KindCount, Parked, Phase, PhaseTime, Stage, State, Subject, Table, Tally, TaskStatus,
    UnitState, Verdict,
};

/// Running units shown of a task.
const RUNNING_MAX: usize = 64;
/// Failures shown that are being tried again.
const RETRYING_MAX: usize = 16;

/// A task as its users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Its id.
    pub id: TaskId,
    /// Its unique name.
    pub name: String,
    /// How it stands.
    pub status: TaskStatus,
    /// The earliest kind of work that is unfinished.
    pub phase: Phase,
    /// What was asked for.
    pub spec: Arc<TaskSpec>,
    /// When it was created.
    pub created: Timestamp,
    /// When it was started.
    pub started: Option<Timestamp>,
    /// When it ended, or failed.
    pub ended: Option<Timestamp>,
    /// Rows at the destination, those of running units included.
    pub rows_done: u64,
    /// Rows expected: copied ones as counted, others as estimated.
    pub rows_total: u64,
    /// Bytes at the destination, those of running units included.
    pub bytes_done: u64,
    /// Bytes expected.
    pub bytes_total: u64,
    /// Tables that take part.
    pub tables_total: u32,
    /// Tables whose rows are all copied.
    pub tables_done: u32,
    /// Units by kind.
    pub units: Vec<KindCount>,
    /// Tables that are parked or copied anew, then the largest ones.
    pub tables: Vec<TableView>,
    /// Why it failed.
    pub cause: Option<Failure>,
    /// What the last precheck found.
    pub precheck: Arc<Vec<PrecheckItem>>,
    /// When that was.
    pub precheck_ended: Option<Timestamp>,
    /// Warnings that were acknowledged, by code.
    pub acknowledged: Vec<String>,
    /// What runs now.
    pub running: Vec<RunningUnit>,
    /// Failures that are being tried again, the latest first.
    pub retrying: Vec<RetryingUnit>,
    /// Nothing of it is left at the databases.
    pub cleaned_up: bool,
    /// When its phases ran.
    pub phase_times: Vec<PhaseTime>,
    /// What it is there for.
    pub purpose: Purpose,
    /// What came of comparing both ends; none where that is not asked for.
    pub verification: Option<VerificationView>,
    /// The latest cutover.
    pub cutover: Option<Box<Cutover>>,
    /// How the source's changes are followed; none = not, or not yet.
    pub stream: Option<StreamView>,
}

/// How the source's changes are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// What was made for it at the source.
    pub opened: StreamOpened,
    /// What is agreed on.
    pub checkpoint: Checkpoint,
    /// What the agent that runs it says; none while none does.
    pub progress: Option<StreamProgress>,
    /// What the source keeps for the slot, also while rows are copied; none while nobody looks.
    pub slot: Option<SlotState>,
    /// Tables of the source that were made since, match `objects`, and are not followed now.
    pub not_followed: Arc<BTreeSet<QualifiedName>>,
    /// Tables that are copied anew, or shall be: their changes are kept, and the destination may have nothing of them.
    pub copied_anew: Vec<QualifiedName>,
}

/// What came of comparing both ends, so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationView {
    /// How rows are compared.
    pub settings: VerifySettings,
    /// Of the schema; none = not yet, or it takes no part.
    pub schema: Option<Arc<ObjectsCompared>>,
    /// Of sequences.
    pub sequences: Option<Arc<ObjectsCompared>>,
    /// Tables that are the same at both ends.
    pub tables_same: u32,
    /// Tables that differ.
    pub tables_different: u32,
    /// Tables that were not compared.
    pub tables_skipped: u32,
    /// Tables of which some rows did not rest long enough to be judged, and nothing else differs.
    pub tables_moving: u32,
    /// Of those that differ: not compared, because one end lacks the table or a column.
    pub tables_unlike: u32,
    /// Partitions whose rows are compared with those of a table that is counted.
    pub tables_with_root: u32,
    /// The figures of all tables; lists are in the tables.
    pub rows: RowsCompared,
    /// Made by a cutover, whatever the task was asked for.
    pub by_cutover: bool,
    /// Everything that differs.
    pub differences: u64,
    /// All was compared that is to be.
    pub complete: bool,
}

/// A table of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableView {
    /// `schema.name`.
    pub name: String,
    /// How it stands.
    pub status: TableStatus,
    /// Rows at the destination.
    pub rows_done: u64,
    /// Rows expected.
    pub rows_total: u64,
    /// Bytes at the destination.
    pub bytes_done: u64,
    /// Bytes expected.
    pub bytes_total: u64,
    /// Shards it was cut into; 0 = not yet.
    pub shards: u32,
    /// Those that are done.
    pub shards_done: u32,
    /// Of its plan.
    pub generation: Generation,
    /// Why it is tried again, or failed; empty = it is not.
    pub cause: String,
    /// What came of comparing it: same, different, skipped; empty = nothing yet.
    pub verification: &'static str,
    /// Its rows, compared.
    pub rows_compared: Option<Arc<RowsCompared>>,
    /// Why its changes are kept instead of being applied.
    pub parked: Option<Arc<Parked>>,
}

/// How a table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableStatus {
    /// Nothing happens with it.
    Waiting,
    /// It is being cut into shards.
    Planning,
    /// Some of its rows are copied or being copied.
    Copying,
    /// All its rows are there.
    Copied,
    /// Its indexes are being built, or wait to be.
    Indexing,
    /// Its rows are being compared, or wait to be.
    Verifying,
    /// The changes that were made during the copy are being applied.
    CatchingUp,
    /// It is as the source's was a moment ago.
    Streaming,
    /// The source has another table of its name by now, which nobody follows.
    NotFollowed,
    /// A change of it could not be applied: its changes are kept from that one on.
    Parked,
    /// Nothing is left to do.
    Done,
    /// A unit of it was given up.
    Failed,
}

impl TableStatus {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Planning => "planning",
            Self::Copying => "copying",
            Self::Copied => "copied",
            Self::Indexing => "indexing",
            Self::Verifying => "verifying",
            Self::CatchingUp => "catching_up",
            Self::Streaming => "streaming",
            Self::NotFollowed => "not_followed",
            Self::Parked => "parked",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// A leased unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningUnit {
    /// Its number.
    pub unit: UnitNo,
    /// Its kind.
    pub kind: UnitKind,
    /// What it is about: `copy public.orders shard 3`.
    pub subject: String,
    /// Who runs it.
    pub agent: AgentId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// How far it is, as far as this node knows.
    pub progress: Progress,
    /// Since when.
    pub since: Timestamp,
}

/// A unit that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryingUnit {
    /// Its number.
    pub unit: UnitNo,
    /// Its kind.
    pub kind: UnitKind,
    /// What it is about.
    pub subject: String,
    /// Its latest failure.
    pub failure: Failure,
    /// Failures in a row.
    pub attempts: u32,
    /// Tried again from then on; none = it runs, or was given up.
    pub not_before: Option<Timestamp>,
}

/// A task with at most `tables_max` of its tables, the largest first; none if it is unknown. `progress` tells how far a
/// running unit is, from heartbeats.
#[must_use]
pub fn task(
    state: &State,
    id: &TaskId,
    tables_max: usize,
    progress: &dyn Fn(&UnitId, Epoch) -> Option<Progress>,
) -> Option<TaskView> {
    let task = state.tasks.get(id)?;
    let record = &task.record;
    let totals = &task.index.totals;
    let running: Vec<_> =
        task.index.leased.iter().filter_map(|no| running(task, *no, progress)).collect();
    let stream = record.following.opened.map(|opened| StreamView {
        opened,
        checkpoint: record.following.checkpoint,
        // Whoever follows does not know of tables that could not be copied anew.
        progress: running
            .iter()
            .find_map(|unit| unit.progress.stream.clone())
            .map(|told| StreamProgress { parked: told.parked.max(task.parked()), ..told }),
        slot: running.iter().find_map(|unit| unit.progress.slot),
        not_followed: Arc::clone(&record.following.not_followed),
        copied_anew: task.copied_anew().map(|table| table.surveyed.name.clone()).collect(),
    });
    let moving = if record.migrates() { UnitKind::Copy } else { UnitKind::VerifyRows };
    let copying = running.iter().filter(|unit| unit.kind == moving);
    let (rows, bytes) = copying.fold((0u64, 0u64), |(rows, bytes), unit| {
        let progress = &unit.progress;
        (rows.saturating_add(progress.rows), bytes.saturating_add(progress.bytes))
    });
    let (done, total) = if record.migrates() {
        (totals.done, totals.done + totals.left)
    } else {
        let done = Tally { rows: totals.checked.source_rows, bytes: totals.checked.bytes };
        // Once all is read, estimates of the statistics and sizes on disk have no more to say.
        (done, if record.stage > Stage::Verify { done } else { totals.left })
    };
    let rows_done = done.rows.saturating_add(rows);
    let bytes_done = done.bytes.saturating_add(bytes);
    Some(TaskView {
        id: record.id.clone(),
        name: record.spec.name.clone(),
        status: record.status,
        phase: record.phase(),
        spec: Arc::clone(&record.spec),
        created: record.created,
        started: record.started,
        ended: record.ended,
        rows_done,
        // Estimates may fall short of what is there; a total below what is done would only confuse.
        rows_total: total.rows.max(rows_done),
        bytes_done,
        bytes_total: total.bytes.max(bytes_done),
        tables_total: totals.tables,
        tables_done: if record.migrates() { totals.tables_copied } else { totals.checked.tables() },
        units: task.index.counts(),
        tables: tables(task, tables_max),
        cause: record.cause.clone(),
        precheck: Arc::clone(&record.precheck.items),
        precheck_ended: record.precheck.ended,
        acknowledged: record.acknowledged.iter().cloned().collect(),
        running: running.into_iter().take(RUNNING_MAX).collect(),
        retrying: retrying(task),
        cleaned_up: record.cleaned_up,
        phase_times: record.phase_times.clone(),
        purpose: record.purpose,
        verification: verification(task),
        cutover: record.cutover.clone(),
        stream,
    })
}

fn verification(task: &Task) -> Option<VerificationView> {
    let record = &task.record;
    let checked = &task.index.totals.checked;
    let by_cutover = record.cutover.as_ref().filter(|cutover| cutover.compares().is_some());
    let rows = RowsCompared {
        source_rows: checked.source_rows,
        destination_rows: checked.destination_rows,
        bytes: checked.bytes,
        compared: checked.compared,
        missing: checked.missing,
        extra: checked.extra,
        different: checked.different,
        moving: checked.moving,
        at_least: checked.at_least > 0,
        ..RowsCompared::default()
    };
    Some(VerificationView {
        settings: record.compares()?,
        by_cutover: by_cutover.is_some(),
        schema: record.schema_compared.clone(),
        sequences: record.sequences_compared.clone(),
        tables_same: checked.tables_same,
        tables_different: checked.tables_different,
        tables_skipped: checked.tables_skipped,
        tables_moving: checked.tables_moving,
        tables_unlike: checked.tables_unlike,
        tables_with_root: checked.tables_with_root,
        rows,
        differences: crate::course::differences(record, checked),
        complete: match by_cutover {
            Some(cutover) => cutover.compared.is_some(),
            None => record.stage > Stage::Verify,
        },
    })
}

fn running(
    task: &Task,
    no: UnitNo,
    progress: &dyn Fn(&UnitId, Epoch) -> Option<Progress>,
) -> Option<RunningUnit> {
    let unit = task.record.unit(no)?;
    let lease = unit.lease()?;
    Some(RunningUnit {
        unit: no,
        kind: unit.subject.kind(),
        subject: task.record.describe(&unit.subject),
        agent: lease.agent.clone(),
        epoch: unit.epoch,
        progress: progress(&task.record.unit_id(no), unit.epoch).unwrap_or_default(),
        since: lease.since,
    })
}

fn retrying(task: &Task) -> Vec<RetryingUnit> {
    let of = |no: UnitNo| {
        let unit = task.record.unit(no)?;
        let trouble = unit.trouble.as_deref()?;
        let not_before = match unit.state {
            UnitState::BackOff { not_before } => Some(not_before),
            UnitState::Ready
            | UnitState::Leased(_)
            | UnitState::Done(_)
            | UnitState::Failed
            | UnitState::Dropped => None,
        };
        Some(RetryingUnit {
            unit: no,
            kind: unit.subject.kind(),
            subject: task.record.describe(&unit.subject),
            failure: trouble.failure.clone()?,
            attempts: trouble.streak.failures.max(trouble.losses),
            not_before,
        })
    };
    task.index.troubled.iter().filter_map(|(_, no)| of(*no)).take(RETRYING_MAX).collect()
}

fn tables(task: &Task, max: usize) -> Vec<TableView> {
    if max == 0 {
        return Vec::new();
    }
    let troubles = Troubles::of(task);
    let aside = &task.index.aside;
    let others = task.index.by_size.iter().map(|(_, no)| no).filter(|no| !aside.contains(no));
    let shown = aside.iter().chain(others).take(max);
    shown.filter_map(|no| Some(table_view(task, *no, task.record.table(*no)?, &troubles))).collect()
}

/// Tables with units that run or failed: looked up from those units, which are few, not from all.
struct Troubles {
    busy: std::collections::BTreeSet<TableNo>,
    failed: std::collections::BTreeMap<TableNo, (bool, String)>,
}

impl Troubles {
    fn of(task: &Task) -> Self {
        let subject = |no: &UnitNo| task.record.unit(*no).map(|unit| &unit.subject);
        let busy = task.index.leased.iter().filter_map(subject).flat_map(tables_of).collect();
        let mut failed = std::collections::BTreeMap::new();
        for (_, no) in &task.index.troubled {
            let Some(unit) = task.record.unit(*no) else { continue };
            let failure = unit.trouble.as_ref().and_then(|trouble| trouble.failure.as_ref());
            let given_up = unit.state == UnitState::Failed;
            for table in tables_of(&unit.subject) {
                let cause = failure.map(ToString::to_string).unwrap_or_default();
                let known = failed.entry(table).or_insert((given_up, cause));
                known.0 |= given_up;
            }
        }
        Self { busy, failed }
    }
}

fn tables_of(subject: &Subject) -> Vec<TableNo> {
    match subject {
        Subject::Plan(tables) | Subject::Indexes { tables, .. } | Subject::VerifyPlan(tables) => {
            tables.to_vec()
        }
        Subject::Copy { table, .. }
        | Subject::Index { table, .. }
        | Subject::VerifyRows { table, .. } => vec![*table],
        Subject::Analyze(_)
        | Subject::Precheck
        | Subject::SchemaPre
        | Subject::OpenStream
        | Subject::Stream
        | Subject::Survey { .. }
        | Subject::Audit
        | Subject::SchemaPost
        | Subject::Sequences
        | Subject::VerifySchema
        | Subject::VerifySequences
        | Subject::Cutover
        | Subject::Finish => Vec::new(),
    }
}

fn table_view(task: &Task, no: TableNo, table: &Table, troubles: &Troubles) -> TableView {
    let trouble = troubles.failed.get(&no);
    let busy = troubles.busy.contains(&no);
    let status = if trouble.is_some_and(|(given_up, _)| *given_up) {
        TableStatus::Failed
    } else if !task.record.migrates() {
        checking(table, busy)
    } else if table.plan.is_none() {
        match busy {
            true => TableStatus::Planning,
            false if table.parked.is_some() => TableStatus::Parked,
            false => TableStatus::Waiting,
        }
    } else if !table.is_copied() {
        if busy || table.shards_done > 0 { TableStatus::Copying } else { TableStatus::Waiting }
    } else if task.record.stage < Stage::Index {
        TableStatus::Copied
    } else if table.index_open > 0 {
        TableStatus::Indexing
    } else if task.record.stage == Stage::Verify {
        checking(table, true)
    } else if table.parked.is_some() {
        TableStatus::Parked
    } else if task.record.follows() && task.record.status != TaskStatus::Done {
        let following = &task.record.following;
        if following.not_followed.contains(&table.surveyed.name) {
            TableStatus::NotFollowed
        } else if following.checkpoint.consistent {
            TableStatus::Streaming
        } else {
            TableStatus::CatchingUp
        }
    } else {
        TableStatus::Done
    };
    let check = &table.check;
    let (done, total, shards, shards_done) = if task.record.migrates() {
        (table.done, table.done + table.left, table.shard_count(), table.shards_done)
    } else {
        let done = Tally { rows: check.found.source_rows, bytes: check.found.bytes };
        let total = if check.verdict().is_some() { done } else { table.left };
        (done, total, crate::state::count(check.shards.len()), check.shards_done)
    };
    TableView {
        name: table.surveyed.name.to_string(),
        status,
        rows_done: done.rows,
        rows_total: total.rows,
        bytes_done: done.bytes,
        bytes_total: total.bytes,
        shards,
        shards_done,
        generation: table.generation,
        cause: match (trouble, &table.parked) {
            (Some((_, cause)), _) => cause.clone(),
            (None, Some(parked)) => parked.cause.to_string(),
            (None, None) => String::new(),
        },
        verification: check.verdict().map(Verdict::as_str).unwrap_or_default(),
        rows_compared: task.record.compares().map(|_| Arc::clone(&check.found)),
        parked: table.parked.clone(),
    }
}

fn checking(table: &Table, busy: bool) -> TableStatus {
    match table.check.verdict() {
        Some(_) => TableStatus::Done,
        None if busy || table.check.shards_done > 0 => TableStatus::Verifying,
        None => TableStatus::Waiting,
    }
}
