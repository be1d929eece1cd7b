//! Why a command was refused.

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation, TaskId, UnitId};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::time::Timestamp;

use crate::state::TaskStatus;

/// A refusal. Deterministic, part of the outcome; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// No such task.
    #[error("there is no task {task}")]
    UnknownTask {
        /// The id asked for.
        task: TaskId,
    },
    /// Another task has this id: whoever proposes makes a new one.
    #[error("task id {task} is taken")]
    IdTaken {
        /// The id.
        task: TaskId,
    },
    /// Another task has this name.
    #[error("task {task} is called `{name}` already")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        task: TaskId,
    },
    /// The task's status does not allow it.
    #[error("task {task} is {}: it cannot be {asked}", .status.as_str())]
    WrongStatus {
        /// Which task.
        task: TaskId,
        /// How it stands.
        status: TaskStatus,
        /// What was asked, as a participle: `paused`.
        asked: &'static str,
        /// What would help.
        remedy: &'static str,
    },
    /// A cancelled task whose remains are still being removed.
    #[error("task {task} is still being cleaned up")]
    StillCleaningUp {
        /// Which task.
        task: TaskId,
    },
    /// No such agent.
    #[error("there is no agent {agent}")]
    UnknownAgent {
        /// The name asked for.
        agent: AgentId,
    },
    /// An agent that is there cannot be forgotten.
    #[error("agent {agent} is not gone")]
    AgentPresent {
        /// Which agent.
        agent: AgentId,
    },
    /// The agent is lost, or another life of it is meant.
    #[error("agent {agent} is not registered as incarnation {incarnation}")]
    NotPresent {
        /// Which agent.
        agent: AgentId,
        /// In which life.
        incarnation: Incarnation,
    },
    /// Another life of the agent has registered since: this one is dead, or should be.
    #[error("agent {agent} has registered as another process since incarnation {incarnation}")]
    FormerLife {
        /// Which agent.
        agent: AgentId,
        /// The life that is over.
        incarnation: Incarnation,
    },
    /// The agent gets nothing new.
    #[error("agent {agent} is draining")]
    Draining {
        /// Which agent.
        agent: AgentId,
    },
    /// The agent runs as many units as it can.
    #[error("agent {agent} has no free slot")]
    NoFreeSlot {
        /// Which agent.
        agent: AgentId,
    },
    /// No such unit.
    #[error("there is no unit {unit}")]
    UnknownUnit {
        /// The unit asked for.
        unit: UnitId,
    },
    /// The unit is not to be leased: held by somebody, done, dropped, or its task does not let it run.
    #[error("unit {unit} is not ready")]
    NotReady {
        /// Which unit.
        unit: UnitId,
    },
    /// The unit is to be tried again later.
    #[error("unit {unit} is to be tried again later")]
    BackedOff {
        /// Which unit.
        unit: UnitId,
        /// Not before this time.
        not_before: Timestamp,
    },
    /// The report is of a lease that is over.
    #[error("unit {unit}: epoch {reported} is over")]
    StaleEpoch {
        /// Which unit.
        unit: UnitId,
        /// Whose report.
        reported: Epoch,
        /// The latest epoch.
        current: Epoch,
    },
    /// A piece is missing before this one, or pieces before the end.
    #[error("unit {unit}: {expected} parts are there, the report speaks of {reported}")]
    PartsMissing {
        /// Which unit.
        unit: UnitId,
        /// How many are there.
        expected: u32,
        /// Which number came.
        reported: u32,
    },
    /// No such table takes part in the task.
    #[error("task {task} has no table `{table}`")]
    UnknownTable {
        /// Which task.
        task: TaskId,
        /// The name asked for.
        table: String,
    },
    /// The table cannot be copied anew by itself, or not now.
    #[error("table {table} of task {task} cannot be copied anew: {why}")]
    CannotCopyAnew {
        /// Which task.
        task: TaskId,
        /// Which table.
        table: String,
        /// What stands in the way.
        why: &'static str,
    },
    /// The snapshot is not the task's current one.
    #[error("task {task} does not read snapshot {round} now")]
    OtherRound {
        /// Which task.
        task: TaskId,
        /// The round named.
        round: u32,
    },
    /// Only a task that has nothing left to do but to follow its source can be cut over.
    #[error("task {task} is not in sync with its source{}", copied_anew.as_ref().map_or(String::new(), |table| format!(": {table} is copied anew")))]
    NotInSync {
        /// Which task.
        task: TaskId,
        /// The first of the tables that are copied anew; none = it is not that.
        copied_anew: Option<QualifiedName>,
    },
    /// A cutover holds the source: it ends by itself, one way or the other.
    #[error("task {task} is being cut over")]
    CutoverUnderWay {
        /// Which task.
        task: TaskId,
    },
}

impl Rejected {
    /// Stable, snake_case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownTask { .. } => "unknown_task",
            Self::IdTaken { .. } => "task_id_taken",
            Self::NameTaken { .. } => "task_name_taken",
            Self::WrongStatus { .. } => "wrong_status",
            Self::StillCleaningUp { .. } => "still_cleaning_up",
            Self::UnknownAgent { .. } => "unknown_agent",
            Self::AgentPresent { .. } => "agent_present",
            Self::NotPresent { .. } => "agent_not_present",
            Self::FormerLife { .. } => "agent_former_life",
            Self::Draining { .. } => "agent_draining",
            Self::NoFreeSlot { .. } => "no_free_slot",
            Self::UnknownUnit { .. } => "unknown_unit",
            Self::NotReady { .. } => "unit_not_ready",
            Self::BackedOff { .. } => "unit_backed_off",
            Self::StaleEpoch { .. } => "stale_epoch",
            Self::PartsMissing { .. } => "parts_missing",
            Self::UnknownTable { .. } => "unknown_table",
            Self::CannotCopyAnew { .. } => "cannot_copy_anew",
            Self::OtherRound { .. } => "other_snapshot_round",
            Self::NotInSync { .. } => "not_in_sync",
            Self::CutoverUnderWay { .. } => "cutover_under_way",
        }
    }

    /// What it is about.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::UnknownTask { task }
            | Self::IdTaken { task }
            | Self::NameTaken { task, .. }
            | Self::WrongStatus { task, .. }
            | Self::StillCleaningUp { task }
            | Self::UnknownTable { task, .. }
            | Self::CannotCopyAnew { task, .. }
            | Self::OtherRound { task, .. }
            | Self::NotInSync { task, .. }
            | Self::CutoverUnderWay { task } => format!("task {task}"),
            Self::UnknownAgent { agent }
            | Self::AgentPresent { agent }
            | Self::NotPresent { agent, .. }
            | Self::FormerLife { agent, .. }
            | Self::Draining { agent }
            | Self::NoFreeSlot { agent } => format!("agent {agent}"),
            Self::UnknownUnit { unit }
            | Self::NotReady { unit }
            | Self::BackedOff { unit, .. }
            | Self::StaleEpoch { unit, .. }
            | Self::PartsMissing { unit, .. } => format!("unit {unit}"),
        }
    }

    /// What the user can do; empty where only agents and leaders meet it, who know.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownTask { .. } => "`pgconvoy task list` shows the tasks there are",
            Self::NameTaken { .. } => "choose another name, or delete that task first",
            Self::WrongStatus { remedy, .. } => remedy,
            Self::StillCleaningUp { .. } => {
                "wait until `task show` says that it is cleaned up; if its databases are gone for good, that is given up \
                 after the retry windows, and can be asked for again by `task cancel`"
            }
            Self::UnknownAgent { .. } => "`pgconvoy agents list` shows the agents there are",
            Self::UnknownTable { .. } => "`pgconvoy task show` names them as schema.table",
            Self::CannotCopyAnew { .. } => "`pgconvoy errors cannot_copy_anew` tells when it can",
            Self::AgentPresent { .. } => "stop the agent first",
            Self::NotInSync { copied_anew: Some(_), .. } => {
                "wait until it is followed again (`task show` names the tables that are copied anew), then begin anew"
            }
            Self::NotInSync { copied_anew: None, .. } => {
                "only a task with type incremental can be cut over, once `task show` says phase stream"
            }
            Self::CutoverUnderWay { .. } => {
                "it is done or undone within its timeout; see `pgconvoy task show`. Where only the fence is left to be lifted, and the source \
                 is gone, say --leave-fence"
            }
            Self::FormerLife { .. } => {
                "if two agents run under one name, give one of them another name; then start it again"
            }
            Self::IdTaken { .. }
            | Self::NotPresent { .. }
            | Self::Draining { .. }
            | Self::NoFreeSlot { .. }
            | Self::UnknownUnit { .. }
            | Self::NotReady { .. }
            | Self::BackedOff { .. }
            | Self::StaleEpoch { .. }
            | Self::PartsMissing { .. }
            | Self::OtherRound { .. } => "",
        }
    }
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::definite(rejected.code(), rejected.to_string())
            .about(rejected.subject())
            .remedy(rejected.remedy())
    }
}
