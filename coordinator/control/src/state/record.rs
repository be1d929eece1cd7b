//! A task as it is stored: everything else about it is derived from this.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{RequestId, TableNo, TaskId, UnitId, UnitNo};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::precheck::PrecheckItem;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::{MigrationType, TaskSpec};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{Checkpoint, SharedSnapshot, SnapshotMode, StreamOpened, UnitKind};
use pgconvoy_shared::verify::{ObjectsCompared, Purpose, VerifySettings};

use super::chunks::Chunks;
use super::cutover::Cutover;
use super::events::Events;
use super::table::Table;
use super::unit::{Subject, Unit};

/// What a user did with a task, or what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Waits to be started.
    Created,
    /// Units are leased.
    Running,
    /// Stopped by a user; goes on with `resume`.
    Paused,
    /// Stopped for a cause; `resume` tries again.
    Failed,
    /// Ended by a user. What it keeps at the databases is removed by its finish unit.
    Cancelled,
    /// Ended well.
    Done,
}

impl TaskStatus {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
        }
    }

    /// Nothing brings it back.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Done)
    }
}

/// Where a task is in its course; see `course` for what happens at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Looks whether it can work, up to the gate.
    Precheck,
    /// The schema before the rows.
    SchemaPre,
    /// Publication and slot, so that no change is missed from here on.
    OpenStream,
    /// Which tables there are.
    Survey,
    /// Planning and copying.
    Copy,
    /// Whether the destination has all shards.
    Audit,
    /// Indexes.
    Index,
    /// The stream runs from here on. What is applied first makes the copied rows those of one moment.
    CatchUp,
    /// Indexes that rows of different moments could violate.
    LateIndex,
    /// The schema after the rows.
    SchemaPost,
    /// Sequences and statistics.
    Settle,
    /// Whether both ends are the same.
    Verify,
    /// Whether the destination has all shards still: a crash empties unlogged tables there.
    LastAudit,
    /// Nothing is left but to follow the source, for as long as the user wants it.
    Stream,
    /// The destination takes over, or all is as before.
    Cutover,
    /// What the task keeps at the databases goes.
    Finish,
    /// Nothing is left to do.
    Ended,
}

/// The earliest kind of work that is unfinished, in the words of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// See [`Stage::Precheck`].
    Precheck,
    /// The schema before the rows.
    Schema,
    /// The rows.
    Copy,
    /// Indexes and what else comes after the rows.
    Index,
    /// Comparing both ends.
    Verify,
    /// The changes that were made meanwhile, and what had to wait for them.
    CatchUp,
    /// The changes as they are made.
    Stream,
    /// The destination takes over.
    Cutover,
    /// Nothing is left.
    Done,
}

impl Phase {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Precheck => "precheck",
            Self::Schema => "schema",
            Self::Copy => "copy",
            Self::Index => "index",
            Self::Verify => "verify",
            Self::CatchUp => "catch_up",
            Self::Stream => "stream",
            Self::Cutover => "cutover",
            Self::Done => "done",
        }
    }
}

/// When a phase ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// From when.
    pub began: Timestamp,
    /// Until when; none = still.
    pub ended: Option<Timestamp>,
}

/// The moment of the source that a task in [`SnapshotMode::Task`] reads (law S13).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskSnapshot {
    /// Surveys begun.
    pub(crate) round: u32,
    /// The one in use, with those who export it.
    pub(crate) shared: Option<SharedSnapshot>,
    /// The next survey must not go on from the old moment: a table cannot be read under it.
    pub(crate) unusable: bool,
}

/// How far a task follows its source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Following {
    /// What was made for it at the source.
    pub(crate) opened: Option<StreamOpened>,
    /// The unit that applies changes; none = it is still to come.
    pub(crate) unit: Option<UnitNo>,
    /// What the stream reported last.
    pub(crate) checkpoint: Checkpoint,
    /// It was told that the source may soon give the slot up.
    pub(crate) slot_at_risk: bool,
    /// Tables of the source that are not followed, as it was looked last.
    pub(crate) not_followed: Arc<BTreeSet<QualifiedName>>,
}

/// What the last precheck found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrecheckReport {
    pub(crate) items: Arc<Vec<PrecheckItem>>,
    pub(crate) ended: Option<Timestamp>,
}

/// A task. Cloning it is what freezes it: all that may be large stands behind pointers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    pub(crate) id: TaskId,
    pub(crate) request_id: RequestId,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) source_password: Option<Sealed>,
    pub(crate) destination_password: Option<Sealed>,
    pub(crate) purpose: Purpose,
    pub(crate) status: TaskStatus,
    pub(crate) stage: Stage,
    pub(crate) cause: Option<Failure>,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) acknowledged: BTreeSet<String>,
    pub(crate) acknowledge_all: bool,
    pub(crate) precheck: PrecheckReport,
    /// A user asked for a precheck while the task does not run.
    pub(crate) precheck_asked: bool,
    pub(crate) snapshot: TaskSnapshot,
    pub(crate) following: Following,
    /// The latest.
    pub(crate) cutover: Option<Box<Cutover>>,
    pub(crate) system_identifier: Option<u64>,
    pub(crate) phase_times: Vec<PhaseTime>,
    /// Of an ended task: nothing of it is left at the databases.
    pub(crate) cleaned_up: bool,
    /// Tables to be planned anew when the task goes on: their shards cannot be read as planned.
    pub(crate) outdated: BTreeSet<TableNo>,
    /// Audits in a row that found shards missing.
    pub(crate) audits_failed: u32,
    /// Tables whose rows the destination lost after all of them had been there.
    pub(crate) refilled: BTreeSet<TableNo>,
    /// Both ends are compared, and how.
    pub(crate) verify: Option<VerifySettings>,
    /// What came of comparing the schemas.
    pub(crate) schema_compared: Option<Arc<ObjectsCompared>>,
    /// What came of comparing sequences.
    pub(crate) sequences_compared: Option<Arc<ObjectsCompared>>,
    pub(crate) events: Events,
    /// Large lists travel in pieces of their own.
    #[serde(skip)]
    pub(crate) tables: Chunks<Table, 64>,
    #[serde(skip)]
    pub(crate) units: Chunks<Unit, 512>,
}

impl TaskRecord {
    pub(crate) fn table(&self, no: TableNo) -> Option<&Table> {
        self.tables.get(no.0 as usize)
    }

    pub(crate) fn unit(&self, no: UnitNo) -> Option<&Unit> {
        self.units.get(no.0 as usize)
    }

    pub(crate) fn unit_id(&self, no: UnitNo) -> UnitId {
        UnitId { task: self.id.clone(), no }
    }

    /// Tables that take part, in the order of their numbers.
    pub(crate) fn all_tables(&self) -> impl Iterator<Item = (TableNo, &Table)> {
        (0u32..).map(TableNo).zip(self.tables.iter())
    }

    pub(crate) fn live_tables(&self) -> impl Iterator<Item = (TableNo, &Table)> {
        self.all_tables().filter(|(_, table)| !table.gone)
    }

    /// Something is written to the destination.
    pub(crate) fn migrates(&self) -> bool {
        self.purpose == Purpose::Migrate
    }

    /// The schema takes part.
    pub(crate) fn moves_schema(&self) -> bool {
        self.spec.types.contains(&MigrationType::Schema)
    }

    /// Rows take part.
    pub(crate) fn moves_rows(&self) -> bool {
        self.spec.types.contains(&MigrationType::Full)
    }

    /// Changes are followed.
    pub(crate) fn follows(&self) -> bool {
        self.spec.is_incremental() && self.migrates()
    }

    /// All shards show one moment.
    pub(crate) fn shares_snapshot(&self) -> bool {
        self.spec.snapshot_mode() == SnapshotMode::Task
    }

    /// Somebody exports the task's snapshot, or none is needed.
    pub(crate) fn can_read(&self) -> bool {
        !self.shares_snapshot()
            || self.snapshot.shared.as_ref().is_some_and(|shared| !shared.exports.is_empty())
    }

    /// How the latest cutover compares both ends, or did: what stands in the tables is of that, not of what the task was asked for.
    pub(crate) fn compared_by_cutover(&self) -> Option<VerifySettings> {
        self.cutover.as_ref().and_then(|cutover| cutover.compares())
    }

    /// How both ends are compared, or were the last time.
    pub(crate) fn compares(&self) -> Option<VerifySettings> {
        self.compared_by_cutover().or(self.verify)
    }

    /// A cutover is under way that may have fenced the source.
    pub(crate) fn is_fenced(&self) -> bool {
        self.cutover.as_ref().is_some_and(|cutover| cutover.holds_source())
    }

    /// Units that follow the source.
    pub(crate) fn streams(&self) -> impl Iterator<Item = UnitNo> {
        let units = (0u32..).map(UnitNo).zip(self.units.iter());
        units.filter(|(_, unit)| unit.subject == Subject::Stream).map(|(no, _)| no)
    }

    /// Units of this kind may be leased.
    pub(crate) fn may_run(&self, kind: UnitKind) -> bool {
        match self.status {
            // What is planned under a moment that nobody can read is planned for nothing.
            TaskStatus::Running => {
                !matches!(kind, UnitKind::Plan | UnitKind::Copy) || self.can_read()
            }
            // Whatever the task fails of, a source that is fenced does not stay so.
            TaskStatus::Failed if kind == UnitKind::Cutover => self.is_fenced(),
            TaskStatus::Created | TaskStatus::Paused | TaskStatus::Failed => {
                kind == UnitKind::Precheck && self.precheck_asked
            }
            TaskStatus::Cancelled => kind == UnitKind::Finish,
            TaskStatus::Done => false,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Precheck => Phase::Precheck,
            Stage::SchemaPre => Phase::Schema,
            Stage::Survey if self.purpose == Purpose::Verify => Phase::Verify,
            Stage::OpenStream | Stage::Survey | Stage::Copy | Stage::Audit => Phase::Copy,
            Stage::CatchUp | Stage::LateIndex => Phase::CatchUp,
            Stage::SchemaPost | Stage::Settle if self.follows() => Phase::CatchUp,
            Stage::Stream => Phase::Stream,
            Stage::Cutover => Phase::Cutover,
            Stage::Finish if self.follows() => Phase::Cutover,
            Stage::Verify => Phase::Verify,
            Stage::LastAudit | Stage::Finish if self.verify.is_some() => Phase::Verify,
            Stage::SchemaPost | Stage::Settle | Stage::LastAudit | Stage::Finish
                if !self.moves_schema() =>
            {
                Phase::Copy
            }
            Stage::Index | Stage::SchemaPost | Stage::Settle | Stage::LastAudit | Stage::Finish => {
                Phase::Index
            }
            Stage::Ended => Phase::Done,
        }
    }

    /// A unit in words: `copy public.orders shard 3`.
    pub(crate) fn describe(&self, subject: &Subject) -> String {
        let kind = subject.kind().as_str();
        let name = |no: &TableNo| match self.table(*no) {
            Some(table) => table.surveyed.name.to_string(),
            None => format!("table {no}"),
        };
        match subject {
            Subject::Copy { table, shard } | Subject::VerifyRows { table, shard } => {
                format!("{kind} {} shard {shard}", name(table))
            }
            Subject::Index { table, .. } => format!("{kind} {}", name(table)),
            Subject::Plan(tables)
            | Subject::Indexes { tables, .. }
            | Subject::Analyze(tables)
            | Subject::VerifyPlan(tables) => match &**tables {
                [] => kind.to_owned(),
                [only] => format!("{kind} {}", name(only)),
                [first, rest @ ..] => format!("{kind} {} and {} more", name(first), rest.len()),
            },
            Subject::Precheck
            | Subject::SchemaPre
            | Subject::OpenStream
            | Subject::Stream
            | Subject::Cutover
            | Subject::Survey { .. }
            | Subject::Audit
            | Subject::SchemaPost
            | Subject::Sequences
            | Subject::VerifySchema
            | Subject::VerifySequences
            | Subject::Finish => kind.to_owned(),
        }
    }
}
