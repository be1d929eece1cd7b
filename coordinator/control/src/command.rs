//! What may be asked of the state: each command has its file in `apply`.
//!
//! New commands and fields are added at the end: their place is their number in the log.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::cutover::CutoverSettings;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, Incarnation, RequestId, TaskId, UnitId};
use pgconvoy_shared::parking::Parking;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::{Checkpoint, Ended, ResultPart};
use pgconvoy_shared::verify::{Purpose, VerifySettings};

/// A command with the time at which the leader proposed it: the only clock that the state machine knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The leader's wall clock.
    pub at: Timestamp,
    /// What is asked.
    pub command: Command,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a task.
    CreateTask(Box<CreateTask>),
    /// Starts a created task.
    StartTask {
        /// Which.
        task: TaskId,
        /// Warnings that the user has read.
        acknowledge: Acknowledge,
    },
    /// Stops a running task; it keeps what it has.
    PauseTask {
        /// Which.
        task: TaskId,
    },
    /// Lets a paused or failed task go on; a running one takes new passwords by it.
    ResumeTask {
        /// Which.
        task: TaskId,
        /// Warnings that the user has read.
        acknowledge: Acknowledge,
        /// Those that were changed at the databases since.
        passwords: NewPasswords,
    },
    /// Ends a task; what it made at the databases to keep book is removed.
    CancelTask {
        /// Which.
        task: TaskId,
    },
    /// Forgets an ended task.
    DeleteTask {
        /// Which.
        task: TaskId,
    },
    /// Runs the precheck (again), whatever else the task does.
    PrecheckTask {
        /// Which.
        task: TaskId,
    },
    /// An agent came, or came back.
    RegisterAgent(Box<RegisterAgent>),
    /// An agent gets nothing new.
    DrainAgent {
        /// Which.
        agent: AgentId,
    },
    /// An agent gets units again.
    UndrainAgent {
        /// Which.
        agent: AgentId,
    },
    /// An agent was not heard of for a lease time, or said good-bye: what it holds is free.
    LoseAgent {
        /// Which.
        agent: AgentId,
        /// Of which life: a later one is not meant.
        incarnation: Incarnation,
    },
    /// An agent that is gone for good leaves the list.
    ForgetAgent {
        /// Which.
        agent: AgentId,
    },
    /// Units to lease; each is decided for itself.
    GrantLeases(Vec<Grant>),
    /// What agents answered; each is decided for itself, in order.
    Reports(Vec<Report>),
    /// An agent's keeper session exports the task's snapshot.
    NoteExport(NoteExport),
    /// A parked table goes on: what was kept of its changes is applied.
    ResumeTable {
        /// Of which task.
        task: TaskId,
        /// Its name at the source, as users see it.
        table: String,
    },
    /// A table is copied anew while the others are followed.
    ResyncTable {
        /// Of which task.
        task: TaskId,
        /// Its name at the source, as users see it.
        table: String,
    },
    /// The destination of a task that follows its source shall take over.
    CutoverTask {
        /// Which.
        task: TaskId,
        /// How.
        settings: CutoverSettings,
    },
    /// A fence that cannot be lifted is not tried to be lifted any more.
    LeaveFence {
        /// Of which task.
        task: TaskId,
    },
}

/// See [`Command::CreateTask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTask {
    /// The same request gives the same task.
    pub request_id: RequestId,
    /// New and unique, made by whoever proposes.
    pub id: TaskId,
    /// What is asked for.
    pub spec: TaskSpec,
    /// Sealed by the cluster's key.
    pub source_password: Option<Sealed>,
    /// Sealed by the cluster's key.
    pub destination_password: Option<Sealed>,
    /// Warnings that the user expects.
    pub acknowledge: Acknowledge,
    /// Start at once.
    pub start: bool,
    /// What it is there for. One that does not migrate starts at once.
    pub purpose: Purpose,
    /// Compare both ends, and how; always there where that is the purpose.
    pub verify: Option<VerifySettings>,
}

/// Passwords that a task shall use from now on, sealed by the cluster's key; none = as before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPasswords {
    /// At the source.
    pub source: Option<Sealed>,
    /// At the destination.
    pub destination: Option<Sealed>,
}

/// Warnings of a precheck that shall not stop a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// By code.
    pub codes: BTreeSet<String>,
    /// Every one there is; remembered by code when it is seen.
    pub all: bool,
}

/// See [`Command::RegisterAgent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAgent {
    /// Its name.
    pub id: AgentId,
    /// Its life: a new one proves that units of the old one have no runner.
    pub incarnation: Incarnation,
    /// Where it is; empty = nowhere in particular.
    pub site: String,
    /// Units it runs at once.
    pub slots: u32,
    /// pgconvoy's version there.
    pub version: String,
    /// Majors of the pg_dump it found.
    pub pg_dump_majors: Vec<u32>,
    /// Where operators find it; may be empty.
    pub address: String,
}

/// A unit for an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which unit.
    pub unit: UnitId,
    /// For whom.
    pub agent: AgentId,
    /// In which life.
    pub incarnation: Incarnation,
}

/// An agent's answer on a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who answers.
    pub agent: AgentId,
    /// In which life.
    pub incarnation: Incarnation,
    /// On which unit.
    pub unit: UnitId,
    /// Under which lease.
    pub epoch: Epoch,
    /// What.
    pub body: ReportBody,
}

/// See [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportBody {
    /// A piece of a large result.
    Part {
        /// Numbered from 0 within the lease.
        no: u32,
        /// The piece.
        part: ResultPart,
    },
    /// The lease is over.
    Ended {
        /// Pieces that were sent before.
        parts: u32,
        /// How it ended.
        ended: Ended,
    },
    /// A stream is so far, and goes on.
    Checkpoint(Checkpoint),
    /// A stream has a table in another way from now on.
    Parking(Box<Parking>),
    /// A stream has something to tell, and goes on.
    Note(StreamNote),
}

/// See [`Command::NoteExport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteExport {
    /// Of which task.
    pub task: TaskId,
    /// Which of its snapshots.
    pub round: u32,
    /// Who exports it.
    pub agent: AgentId,
    /// In which life.
    pub incarnation: Incarnation,
    /// What `pg_export_snapshot()` answered.
    pub export_id: String,
}
