//! Units as the coordinator keeps them: small, for there may be a million.
//!
//! What a unit works on is looked up in its table when it is leased ([`crate::work`]); here stands only which one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation, TableNo};
use pgconvoy_shared::retry::Streak;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{ResultPart, UnitKind};

/// What a unit is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// See [`pgconvoy_shared::unit::Work::Precheck`], also below.
    Precheck,
    /// The schema before the rows.
    SchemaPre,
    /// Publication and slot.
    OpenStream,
    /// The source's changes.
    Stream,
    /// The steps of the cutover, one lease each.
    Cutover,
    /// The list of tables, and in `copy.snapshot: task` the task's snapshot of this round.
    Survey {
        /// 0 where each shard has its own moment.
        round: u32,
    },
    /// Tables to be cut into shards.
    Plan(Box<[TableNo]>),
    /// A shard of the table's current generation.
    Copy {
        /// The table.
        table: TableNo,
        /// Its shard.
        shard: u32,
    },
    /// All tables of the task.
    Audit,
    /// All index statements of some small tables.
    Indexes {
        /// The tables.
        tables: Box<[TableNo]>,
        /// Those that waited until the tables were consistent, or else the others.
        late: bool,
    },
    /// One index statement of a large table, so that several are built side by side.
    Index {
        /// The table.
        table: TableNo,
        /// Its number in `pgconvoy.schema_entry`.
        entry: u32,
    },
    /// The schema after the rows.
    SchemaPost,
    /// Values of all sequences.
    Sequences,
    /// Tables to be analyzed.
    Analyze(Box<[TableNo]>),
    /// Tables of which it is to be seen how they can be compared.
    VerifyPlan(Box<[TableNo]>),
    /// A shard to be compared.
    VerifyRows {
        /// The table.
        table: TableNo,
        /// Its shard.
        shard: u32,
    },
    /// Both schemas.
    VerifySchema,
    /// Values of all sequences, compared.
    VerifySequences,
    /// What the task keeps at the databases goes.
    Finish,
}

impl Subject {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> UnitKind {
        match self {
            Self::Precheck => UnitKind::Precheck,
            Self::SchemaPre => UnitKind::SchemaPre,
            Self::OpenStream => UnitKind::OpenStream,
            Self::Stream => UnitKind::Stream,
            Self::Cutover => UnitKind::Cutover,
            Self::Survey { .. } => UnitKind::Survey,
            Self::Plan(_) => UnitKind::Plan,
            Self::Copy { .. } => UnitKind::Copy,
            Self::Audit => UnitKind::Audit,
            Self::Indexes { .. } | Self::Index { .. } => UnitKind::Index,
            Self::SchemaPost => UnitKind::SchemaPost,
            Self::Sequences => UnitKind::Sequences,
            Self::Analyze(_) => UnitKind::Analyze,
            Self::VerifyPlan(_) => UnitKind::VerifyPlan,
            Self::VerifyRows { .. } => UnitKind::VerifyRows,
            Self::VerifySchema => UnitKind::VerifySchema,
            Self::VerifySequences => UnitKind::VerifySequences,
            Self::Finish => UnitKind::Finish,
        }
    }
}

/// A unit. It exists once nothing that it waits for is unfinished, so there is no blocked state: what comes later in a
/// task's course is made later (see `course`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// What it is about.
    pub subject: Subject,
    /// Of its latest lease; 0 = never leased.
    pub epoch: Epoch,
    /// How it stands.
    pub state: UnitState,
    /// What went wrong with it, since it last went right.
    pub trouble: Option<Box<Trouble>>,
}

impl Unit {
    pub(crate) fn new(subject: Subject) -> Self {
        Self { subject, epoch: Epoch::default(), state: UnitState::Ready, trouble: None }
    }

    /// Its lease, while it has one.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            UnitState::Leased(lease) => Some(lease),
            UnitState::Ready
            | UnitState::BackOff { .. }
            | UnitState::Done(_)
            | UnitState::Failed
            | UnitState::Dropped => None,
        }
    }

    /// Neither done nor dropped.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, UnitState::Done(_) | UnitState::Dropped)
    }
}

/// How a unit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnitState {
    /// May be leased, if its task lets it. Set at creation, by a lost or released lease, by `ResumeTask`, and for a shard
    /// that the destination turned out to lack.
    Ready,
    /// One agent may run it, and nobody else until that one answered or is lost. Set by `GrantLeases`.
    Leased(Box<Lease>),
    /// Failed in a way that may pass; leased again from then on. No command ends it: a grant takes it once it is due.
    BackOff {
        /// Not before this time.
        not_before: Timestamp,
    },
    /// Done at the destination, durably. Left only by an audit that did not find it there.
    Done(Tally),
    /// Given up; the task failed for it. Left only by `ResumeTask`.
    Failed,
    /// Of no use any more: its table was planned anew, its task cancelled. Final.
    Dropped,
}

/// No pause between two tries is longer (`pgconvoy_shared::retry`).
const LONGEST_PAUSE_MS: u64 = 30_000;

/// Whether a back-off is over. One that seems to last longer than any lasts was reckoned by a leader whose clock went
/// ahead of ours: it is over, too.
#[must_use]
pub(crate) fn is_due(not_before: Timestamp, now: Timestamp) -> bool {
    now >= not_before || not_before.since_ms(now) > LONGEST_PAUSE_MS
}

/// From when on a back-off cannot be meant: see [`is_due`].
#[must_use]
pub(crate) fn beyond_any_pause(now: Timestamp) -> Timestamp {
    now.plus_ms(LONGEST_PAUSE_MS + 1)
}

/// An agent's right to run a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose.
    pub agent: AgentId,
    /// Of which of its lives.
    pub incarnation: Incarnation,
    /// Granted at this time.
    pub since: Timestamp,
    /// Revoked: what becomes of the unit once the agent answered or is lost. Until then nobody else gets it, so that
    /// even a revoked unit has one owner at a time.
    pub revoked: Option<Afterwards>,
    /// Result parts that came so far; taken in by the `Done` that follows, else dropped with the lease.
    pub staged: Vec<Arc<ResultPart>>,
}

/// What becomes of a revoked unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Afterwards {
    /// It may be leased again; a result that still comes is taken.
    Ready,
    /// It is dropped, with whatever result still comes.
    Dropped,
}

/// Rows and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::ops::Add for Tally {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_add(other.rows),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_sub(other.rows),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

/// What went wrong with a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Failures in a row.
    pub streak: Streak,
    /// Agents in a row that were lost while they ran it, and said nothing of it.
    pub losses: u32,
    /// When it last failed, or lost an agent.
    pub last_failed: Timestamp,
    /// The latest.
    pub failure: Option<Failure>,
    /// Who had it last and gave it back or failed at it: another agent takes it, if one can.
    pub avoid: Option<AgentId>,
    /// Who was lost while running it: the next grant tells that it moved.
    pub lost_by: Option<AgentId>,
}
