//! Units: what an agent is told to do, and what it answers.
//!
//! The coordinator keeps units in a compact form of its own and makes a [`Work`] of one when it leases it. An agent
//! answers with [`Ended`] (large results come as numbered [`Part`](ResultPart)s first). Both carry all that is needed:
//! an agent keeps nothing between two units but its sessions with a shared snapshot (see [`SharedSnapshot`]).

use serde::{Deserialize, Serialize};

use crate::cutover::{CutoverDone, CutoverOrder};
use crate::epoch::Generation;
use crate::failure::Failure;
use crate::ids::{AgentId, TableNo};
use crate::lsn::Lsn;
use crate::name::QualifiedName;
use crate::precheck::PrecheckItem;
use crate::stream::{SlotState, StreamProgress};
use crate::verify::{NotCompared, ObjectsCompared, RowsCompared, Sample};

/// What a unit is, without its details: for counting, naming (`application_name`), priorities and events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnitKind {
    /// See [`Work::Precheck`].
    Precheck,
    /// See [`Work::SchemaPre`].
    SchemaPre,
    /// See [`Work::OpenStream`].
    OpenStream,
    /// See [`Work::Stream`].
    Stream,
    /// See [`Work::Cutover`].
    Cutover,
    /// See [`Work::Survey`].
    Survey,
    /// See [`Work::Plan`].
    Plan,
    /// See [`Work::Copy`].
    Copy,
    /// See [`Work::Audit`].
    Audit,
    /// See [`Work::Index`].
    Index,
    /// See [`Work::SchemaPost`].
    SchemaPost,
    /// See [`Work::Sequences`].
    Sequences,
    /// See [`Work::Analyze`].
    Analyze,
    /// See [`Work::VerifyPlan`].
    VerifyPlan,
    /// See [`Work::VerifyRows`].
    VerifyRows,
    /// See [`Work::VerifySchema`].
    VerifySchema,
    /// See [`Work::VerifySequences`].
    VerifySequences,
    /// See [`Work::Finish`].
    Finish,
}

impl UnitKind {
    /// Whether it takes one of its agent's slots, which bound what runs at once. A step of a cutover does not: writers may be
    /// stopped while it waits. Nor does the stream, which does not end: agents full of them could do nothing else.
    #[must_use]
    pub fn takes_slot(self) -> bool {
        !matches!(self, Self::Stream | Self::Cutover)
    }

    /// The kind as it stands in names, events and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Precheck => "precheck",
            Self::SchemaPre => "schema_pre",
            Self::OpenStream => "open_stream",
            Self::Stream => "stream",
            Self::Cutover => "cutover",
            Self::Survey => "survey",
            Self::Plan => "plan",
            Self::Copy => "copy",
            Self::Audit => "audit",
            Self::Index => "index",
            Self::SchemaPost => "schema_post",
            Self::Sequences => "sequences",
            Self::Analyze => "analyze",
            Self::VerifyPlan => "verify_plan",
            Self::VerifyRows => "verify_rows",
            Self::VerifySchema => "verify_schema",
            Self::VerifySequences => "verify_sequences",
            Self::Finish => "finish",
        }
    }
}

/// What an agent is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Looks whether the migration can work. Changes nothing.
    Precheck {
        /// Both ends are to be compared, after a migration or alone.
        verified: bool,
    },
    /// Dumps the source's schema, keeps its statements at the destination (`pgconvoy.schema_entry`) and runs those that
    /// come before the rows.
    SchemaPre,
    /// Makes publication and slot at the source, so that every change from here on is kept until it is applied (laws S1, S2).
    OpenStream,
    /// Applies the source's changes for as long as the task runs.
    Stream(StreamOrder),
    /// A step of the cutover.
    Cutover(Box<CutoverOrder>),
    /// Lists the tables to copy with their sizes and the index statements that wait for them; takes the task's snapshot
    /// in `copy.snapshot: task`.
    Survey(Survey),
    /// Reads columns and keys of some tables, raises their generation at the destination, and cuts them into shards.
    Plan(Vec<PlanTable>),
    /// Copies one shard.
    Copy(Box<CopyShard>),
    /// Compares what Raft holds for done with `shard_progress`, which decides (law O6).
    Audit(Vec<AuditTable>),
    /// Runs some index statements of one table, or of several small ones.
    Index(IndexBuild),
    /// Runs what comes after the rows and is no index, in the archive's order; refreshes materialized views.
    SchemaPost,
    /// Sets the destination's sequences from the source's.
    Sequences,
    /// `analyze` of some tables.
    Analyze(Vec<QualifiedName>),
    /// Looks how the rows of some tables can be compared, and cuts them into shards. Changes nothing.
    VerifyPlan(Vec<PlanTable>),
    /// Compares one shard of both ends.
    VerifyRows(Box<VerifyRows>),
    /// Compares the schemas of both ends.
    VerifySchema,
    /// Compares the values of sequences.
    VerifySequences,
    /// Removes what the task keeps at the databases; after it nobody can write for the task (law O9).
    Finish,
}

impl Work {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> UnitKind {
        match self {
            Self::Precheck { .. } => UnitKind::Precheck,
            Self::SchemaPre => UnitKind::SchemaPre,
            Self::OpenStream => UnitKind::OpenStream,
            Self::Stream(_) => UnitKind::Stream,
            Self::Cutover(_) => UnitKind::Cutover,
            Self::Survey(_) => UnitKind::Survey,
            Self::Plan(_) => UnitKind::Plan,
            Self::Copy(_) => UnitKind::Copy,
            Self::Audit(_) => UnitKind::Audit,
            Self::Index(_) => UnitKind::Index,
            Self::SchemaPost => UnitKind::SchemaPost,
            Self::Sequences => UnitKind::Sequences,
            Self::Analyze(_) => UnitKind::Analyze,
            Self::VerifyPlan(_) => UnitKind::VerifyPlan,
            Self::VerifyRows(_) => UnitKind::VerifyRows,
            Self::VerifySchema => UnitKind::VerifySchema,
            Self::VerifySequences => UnitKind::VerifySequences,
            Self::Finish => UnitKind::Finish,
        }
    }
}

/// What [`Work::OpenStream`] made, and how the source was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOpened {
    /// The slot's consistent point: every transaction that is committed behind it is in the stream.
    pub start: Lsn,
    /// A transaction id that was given out after the slot existed: what is older may be missing in the stream, so no shard
    /// takes a snapshot before all of that has ended (law S2).
    pub barrier: u64,
    /// Of the source's cluster.
    pub system_identifier: u64,
    /// The source's timeline.
    pub timeline: u32,
}

/// The order to follow the source. Everything else, how far changes are applied above all, is told by the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOrder {
    /// What was made for it.
    pub opened: StreamOpened,
    /// The latest [`Checkpoint`].
    pub checkpoint: Checkpoint,
    /// Tables that shall go on, mended or copied anew: what was kept of them is applied before anything else.
    pub resume: Vec<TableNo>,
    /// Tables that shall be copied anew: their changes are kept from here on.
    pub hold: Vec<TableNo>,
    /// Tables that the source has no more: nothing of them is followed, and nothing is kept.
    pub gone: Vec<TableNo>,
    /// So many of the task's cutovers are over: nobody wants to know any more what was changed during them.
    pub cutovers_over: u32,
}

/// How far a stream is for certain: durable at the destination before it is reported, and the slot is confirmed only after
/// the report was taken (law O7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Every transaction that ends at or before it is applied.
    pub applied: Lsn,
    /// Every table has reached its N: the destination shows one state of the source after another.
    pub consistent: bool,
}

/// Which moment of the source a read shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotMode {
    /// One moment for all shards of the task.
    Task,
    /// Each shard its own moment.
    Shard,
}

/// The order to survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The task's mode.
    pub mode: SnapshotMode,
    /// Counts the task's snapshots from 1; 0 in [`SnapshotMode::Shard`].
    pub round: u32,
    /// The snapshot that was lost, as `pg_current_snapshot()` printed it: the new one goes on from it if no transaction
    /// id was assigned since.
    pub lost: Option<String>,
}

/// The task's snapshot, and the agents whose keeper sessions export it: any of them can be imported (law S13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSnapshot {
    /// Counts the task's snapshots from 1.
    pub round: u32,
    /// As `pg_current_snapshot()` printed it.
    pub snapshot: String,
    /// WAL insert position, noted after the snapshot was taken.
    pub noted_lsn: Lsn,
    /// Who exports it under which identifier.
    pub exports: Vec<Export>,
}

/// A snapshot as one agent's keeper session exports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Whose session.
    pub agent: AgentId,
    /// What `pg_export_snapshot()` answered.
    pub id: String,
}

/// A table to plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanTable {
    /// Its number within the task.
    pub no: TableNo,
    /// Its name at the source.
    pub name: QualifiedName,
    /// The generation that this plan makes.
    pub generation: Generation,
    /// Bytes as the survey saw them, TOAST counted.
    pub bytes: u64,
    /// `pg_relation_filenode()`, noted before the task's snapshot was taken: a later one means rows rewritten or
    /// truncated, which that snapshot cannot read. None in [`SnapshotMode::Shard`].
    pub filenode: Option<u32>,
    /// It is copied anew while the others are followed, under one snapshot: its indexes are there, which rows of several
    /// moments could violate (law S11).
    pub anew: bool,
}

/// How rows travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFormat {
    /// PostgreSQL's text form.
    Text,
    /// PostgreSQL's binary form: only where each column's is stable between the two servers.
    Binary,
}

/// What a plan found out about a table: the same for all its shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePlan {
    /// Its number within the task.
    pub no: TableNo,
    /// The generation that this plan made.
    pub generation: Generation,
    /// Its name at the source.
    pub name: QualifiedName,
    /// Where rows are written: the same name, or the root of its partition tree where the leaf may differ there.
    pub write_to: QualifiedName,
    /// Columns that travel, in this order at both ends: all but generated ones.
    pub columns: Vec<String>,
    /// Digest of the column list as the server describes `select * from only table` (law S4).
    pub fingerprint: String,
    /// See [`PlanTable::filenode`].
    pub filenode: Option<u32>,
    /// How rows travel.
    pub format: CopyFormat,
    /// Columns that [`Part::Range`] compares, with their types as SQL text; empty where shards are no ranges.
    pub key: Vec<KeyColumn>,
}

/// A column of the key by which a table is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name.
    pub name: String,
    /// Its type, as `format_type()` prints it: bounds are cast to it.
    pub type_name: String,
}

/// Which rows of a table a shard holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// All.
    Whole,
    /// `from <= key < to`, in the server's order; none = open-ended (law S5). Values in the text form of their type.
    Range {
        /// Lower bound, included.
        from: Option<Box<[Box<str>]>>,
        /// Upper bound, excluded.
        to: Option<Box<[Box<str>]>>,
    },
    /// Blocks `from <= ctid < to`; none = to the end. Only under one shared snapshot.
    Blocks {
        /// First block.
        from: u32,
        /// First block of the next shard.
        to: Option<u32>,
    },
}

/// One shard of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Which rows.
    pub part: Part,
    /// Bytes that are expected, for priorities and progress.
    pub bytes: u64,
    /// Rows that are expected.
    pub rows: u64,
}

/// A shard to copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyShard {
    /// The table.
    pub table: TablePlan,
    /// The shard's number within the table's generation, from 0.
    pub shard: u32,
    /// Which rows.
    pub part: Part,
    /// The task's snapshot; none = the shard takes its own.
    pub snapshot: Option<SharedSnapshot>,
    /// See [`StreamOpened::barrier`]; none = nothing is followed.
    pub barrier: Option<u64>,
    /// Bytes that are expected.
    pub bytes: u64,
}

/// A shard to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRows {
    /// What is read at both ends, [`TablePlan::write_to`]: the table, or the root of its partitions with all of them; columns in
    /// the plan's order, which begins with the key. The key is set for a whole table too: rows are known by it.
    pub shard: CopyShard,
    /// Which rows are compared.
    pub sample: Sample,
}

/// A table whose completeness is looked up at the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditTable {
    /// Its number.
    pub no: TableNo,
    /// The generation that must be complete.
    pub generation: Generation,
    /// Shards it has: numbers 0 to this less one.
    pub shards: u32,
}

/// Index statements to run, by their number in `pgconvoy.schema_entry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBuild {
    /// For people: the table, or the first of them.
    pub subject: String,
    /// Entry numbers, run in this order.
    pub entries: Vec<u32>,
}

/// How a lease ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Done, durably, at the destination.
    Done(WorkResult),
    /// Failed; the class decides what is next.
    Failed(Failure),
    /// Given back undone: drained, revoked, or the lease ran out.
    Released,
    /// The task's snapshot could not be imported from any of the exports named: they are gone.
    SnapshotLost {
        /// Which snapshot.
        round: u32,
        /// Whose exports were tried and are gone.
        gone: Vec<AgentId>,
    },
    /// The table is not as planned: columns changed, or in [`SnapshotMode::Task`] rows rewritten since the snapshot.
    TableChanged {
        /// Which table.
        table: TableNo,
        /// What differs; definite where planning anew would not help.
        failure: Failure,
    },
    /// The source has no table of this name any more.
    TableGone {
        /// Which table.
        table: TableNo,
        /// Of the server that says so: only the source's own word counts.
        system_identifier: u64,
    },
}

/// What a done unit found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkResult {
    /// Of [`Work::Precheck`].
    Precheck(Vec<PrecheckItem>),
    /// Of [`Work::SchemaPre`].
    SchemaPre {
        /// Statements run before the rows.
        entries_run: u32,
        /// Statements kept for after the rows.
        entries_kept: u32,
    },
    /// Of [`Work::OpenStream`].
    OpenStream(StreamOpened),
    /// Of [`Work::Survey`]: the tables came as [`ResultPart::Tables`].
    Survey(SurveyDone),
    /// Of [`Work::Plan`]: plans came as [`ResultPart::Plan`] and [`ResultPart::Shards`].
    Plan,
    /// Of [`Work::Copy`].
    Copy(CopyDone),
    /// Of [`Work::Audit`]: shards that the destination lacks, to be run again.
    Audit {
        /// Table and shard number.
        missing: Vec<(TableNo, u32)>,
    },
    /// Of [`Work::Index`].
    Index,
    /// Of [`Work::SchemaPost`].
    SchemaPost {
        /// Statements run.
        entries_run: u32,
    },
    /// Of [`Work::Sequences`].
    Sequences {
        /// Sequences set.
        count: u32,
    },
    /// Of [`Work::Analyze`].
    Analyze,
    /// Of [`Work::VerifyPlan`]: plans came as [`ResultPart::Plan`] and [`ResultPart::Shards`], or [`ResultPart::NotCompared`].
    VerifyPlan,
    /// Of [`Work::VerifyRows`].
    VerifyRows(RowsCompared),
    /// Of [`Work::VerifySchema`].
    VerifySchema(ObjectsCompared),
    /// Of [`Work::VerifySequences`].
    VerifySequences(ObjectsCompared),
    /// Of [`Work::Cutover`].
    Cutover(CutoverDone),
    /// Of [`Work::Finish`].
    Finish,
}

/// What a survey found out, besides the tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveyDone {
    /// The source cluster's system identifier.
    pub system_identifier: u64,
    /// The snapshot taken, in [`SnapshotMode::Task`]; the surveying agent exports it.
    pub snapshot: Option<SharedSnapshot>,
    /// The new snapshot shows the same moment as the lost one: what is copied stays.
    pub continues: bool,
    /// How many tables the task's rules name that are not of the schema it made: they are not among those surveyed.
    pub left_out: u32,
    /// The first of them.
    pub left_out_names: Vec<QualifiedName>,
}

/// A shard's completion, as it stands in `shard_progress`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyDone {
    /// Rows written.
    pub rows: u64,
    /// Bytes of COPY data.
    pub bytes: u64,
    /// `pg_current_snapshot()` under which they were read.
    pub snapshot: String,
    /// WAL insert position noted after that snapshot.
    pub noted_lsn: Lsn,
    /// Another owner had finished it already; the figures are that one's.
    pub found_done: bool,
}

/// A piece of a large result; pieces are numbered from 0, and the [`Ended::Done`] that follows says how many there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultPart {
    /// Tables that a survey found.
    Tables(Vec<SurveyedTable>),
    /// A table's plan; its shards follow.
    Plan(TablePlan),
    /// Shards of the last plan, in order.
    Shards(Vec<PlannedShard>),
    /// A table that cannot be compared.
    NotCompared {
        /// Which.
        table: TableNo,
        /// Why.
        why: NotCompared,
    },
}

/// A table that a survey found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveyedTable {
    /// Its name at the source.
    pub name: QualifiedName,
    /// Bytes, TOAST counted.
    pub bytes: u64,
    /// Rows as the statistics have them.
    pub rows: u64,
    /// See [`PlanTable::filenode`].
    pub filenode: Option<u32>,
    /// Numbers in `pgconvoy.schema_entry` of the index statements that wait for its rows.
    pub index_entries: Vec<u32>,
    /// Those that wait until the table is consistent: what two shards may both hold meanwhile would violate them (law S11).
    /// Empty where nothing is followed.
    pub late_entries: Vec<u32>,
}

/// How far a running unit is; travels in heartbeats and never enters Raft.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rows so far.
    pub rows: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// Of a stream.
    pub stream: Option<StreamProgress>,
    /// What the source keeps for the task's slot, as it was looked at last; none = this unit has not looked.
    pub slot: Option<SlotState>,
}
