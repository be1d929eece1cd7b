//! What a command brought about.

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, Incarnation, TaskId, UnitId};

use crate::rejected::Rejected;
use crate::state::TaskStatus;

/// What [`crate::apply()`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For whoever asked. A refusal is part of the answer: every node comes to the same.
    pub outcome: Result<Outcome, Rejected>,
    /// What the leader may do now. Hints: a look at the state would find the same.
    pub effects: Vec<Effect>,
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of `CreateTask`.
    Created {
        /// The task that the request made, now or then.
        task: TaskId,
        /// The request was known.
        repeated: bool,
    },
    /// Of commands that change a task's status, and of `PrecheckTask`.
    Task {
        /// Which.
        task: TaskId,
        /// How it stands now.
        status: TaskStatus,
        /// False = it was so already.
        changed: bool,
    },
    /// Of `DeleteTask`.
    Deleted {
        /// False = there was no such task.
        changed: bool,
    },
    /// Of `RegisterAgent`.
    Registered {
        /// Units that an older life of it held, free now.
        released: u32,
        /// It shall take nothing new.
        draining: bool,
    },
    /// Of the other commands about an agent.
    Agent {
        /// False = it was so already.
        changed: bool,
    },
    /// Of `GrantLeases`: for each grant the new epoch, in order.
    Granted(Vec<Result<Epoch, Rejected>>),
    /// Of `Reports`: for each report, in order.
    Reported(Vec<Reception>),
    /// Of `NoteExport`.
    Noted {
        /// False = it was known.
        changed: bool,
    },
}

/// How a report was received. In each case the agent need not send it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// Taken.
    Taken,
    /// It had been taken before: the acknowledgement was lost.
    AlreadyTaken,
    /// Too late, or wrong: nothing was changed.
    Refused(Rejected),
}

impl Reception {
    /// What the acknowledgement says.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Taken | Self::AlreadyTaken)
    }
}

/// Something that is worth doing now rather than at the next tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this lease ([`crate::work::order`]).
    Lease {
        /// Which unit.
        unit: UnitId,
        /// To whom.
        agent: AgentId,
        /// In which life.
        incarnation: Incarnation,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Tell the agent to stop this unit. It answers `Released` (or a result), also when it does not run it: until then,
    /// or until it is lost, the unit is nobody else's.
    Revoke {
        /// Which unit.
        unit: UnitId,
        /// Whom to tell.
        agent: AgentId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Tell the agent that it is to be drained.
    Drain {
        /// Whom to tell.
        agent: AgentId,
    },
}
