//! The replicated state: agents and tasks, each task with its tables, units and events.
//!
//! Primary data (what a snapshot holds) stands in [`record::TaskRecord`] and [`agent::Agent`]; indexes are derived, kept
//! up to date by the [`clerk::Clerk`] and rebuilt on restore. [`State`] is changed by [`crate::apply()`] alone.

pub(crate) mod agent;
pub(crate) mod chunks;
pub(crate) mod clerk;
pub(crate) mod cutover;
pub(crate) mod events;
pub(crate) mod index;
pub(crate) mod record;
pub(crate) mod table;
pub(crate) mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, RequestId, TaskId, UnitId};
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::UnitKind;

pub use agent::Agent;
pub use cutover::{Coverage, Cutover, CutoverOutcome};
pub use events::{EVENTS_MAX, Event, EventKind};
pub use record::{Phase, PhaseTime, Stage, TaskStatus};
pub use table::{Anew, Check, Parked, Table, Verdict};
pub use unit::{Afterwards, Lease, Subject, Tally, Trouble, Unit, UnitState};

use crate::outcome::Effect;
use crate::rejected::Rejected;
use agent::Agents;
use clerk::{Clerk, Task};
use index::TaskIndex;
use record::TaskRecord;

/// Everything the coordinator cluster agrees on.
#[derive(Debug, Default)]
pub struct State {
    pub(crate) agents: Agents,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// Derived: tasks by their unique name.
    pub(crate) names: BTreeMap<String, TaskId>,
    /// Derived: tasks by the request that created them.
    pub(crate) requests: BTreeMap<RequestId, TaskId>,
    /// Derived: tasks with units that are neither done nor dropped. What plans looks at no other.
    pub(crate) busy: BTreeSet<TaskId>,
}

/// See [`State::asked`].
#[derive(Debug, Clone)]
pub struct Asked {
    /// The specification.
    pub spec: Arc<TaskSpec>,
    /// Sealed for this task alone.
    pub source_password: Option<Sealed>,
    /// Sealed for this task alone.
    pub destination_password: Option<Sealed>,
}

/// A lease as an agent's session compares it with what the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// The unit.
    pub unit: UnitId,
    /// Of this lease.
    pub epoch: Epoch,
    /// It was revoked: the agent is to stop and to report `Released`. Sending the revocation again is harmless.
    pub revoked: bool,
}

/// How many units of a kind a task has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindCount {
    /// Which kind.
    pub kind: UnitKind,
    /// All that are of use.
    pub total: u32,
    /// Those that are done.
    pub done: u32,
    /// Those that are leased.
    pub running: u32,
    /// Those that may be leased now.
    pub ready: u32,
    /// Those that wait to be tried again.
    pub backed_off: u32,
    /// Those that were given up.
    pub failed: u32,
}

impl State {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All agents, by name.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter()
    }

    /// One agent.
    #[must_use]
    pub fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(id)
    }

    /// What an agent holds.
    pub fn leases_of(&self, agent: &AgentId) -> impl Iterator<Item = HeldLease> {
        self.agents.held(agent).filter_map(|id| {
            let unit = self.unit(id)?;
            let revoked = unit.lease()?.revoked.is_some();
            Some(HeldLease { unit: id.clone(), epoch: unit.epoch, revoked })
        })
    }

    /// How many units an agent holds.
    #[must_use]
    pub fn lease_count(&self, agent: &AgentId) -> u32 {
        self.agents.held_count(agent)
    }

    /// All tasks by id, which is by age.
    pub fn task_ids(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.keys()
    }

    /// A task by its id or its unique name.
    #[must_use]
    pub fn find_task(&self, id_or_name: &str) -> Option<&TaskId> {
        let by_id = id_or_name.parse().ok().and_then(|id: TaskId| self.tasks.get(&id));
        by_id.map(|task| &task.record.id).or_else(|| self.names.get(id_or_name))
    }

    /// The task that a request created.
    #[must_use]
    pub fn task_of_request(&self, request: &RequestId) -> Option<&TaskId> {
        self.requests.get(request)
    }

    /// What a task was asked to do, and its passwords as they were sealed for it.
    #[must_use]
    pub fn asked(&self, id: &TaskId) -> Option<Asked> {
        let record = &self.tasks.get(id)?.record;
        Some(Asked {
            spec: Arc::clone(&record.spec),
            source_password: record.source_password.clone(),
            destination_password: record.destination_password.clone(),
        })
    }

    /// Whether a task has this name.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// How a task stands.
    #[must_use]
    pub fn task_status(&self, id: &TaskId) -> Option<TaskStatus> {
        Some(self.tasks.get(id)?.record.status)
    }

    /// How many tasks there are of each status.
    #[must_use]
    pub fn tasks_by_status(&self) -> BTreeMap<TaskStatus, u32> {
        let mut counts = BTreeMap::new();
        for task in self.tasks.values() {
            *counts.entry(task.record.status).or_default() += 1;
        }
        counts
    }

    /// Units of a task by kind, for those kinds that it has.
    #[must_use]
    pub fn unit_counts(&self, id: &TaskId) -> Vec<KindCount> {
        self.tasks.get(id).map(|task| task.index.counts()).unwrap_or_default()
    }

    /// One unit.
    #[must_use]
    pub fn unit(&self, id: &UnitId) -> Option<&Unit> {
        self.tasks.get(&id.task)?.record.unit(id.no)
    }

    /// A task's tables by number, those no longer there too.
    pub fn tables(&self, id: &TaskId) -> impl Iterator<Item = &Table> {
        self.tasks.get(id).into_iter().flat_map(|task| task.record.tables.iter())
    }

    /// A task's units by number.
    pub fn units(&self, id: &TaskId) -> impl Iterator<Item = &Unit> {
        self.tasks.get(id).into_iter().flat_map(|task| task.record.units.iter())
    }

    /// A task's events after this number, oldest first.
    pub fn events(&self, id: &TaskId, after: u64) -> impl Iterator<Item = &Event> {
        self.tasks.get(id).into_iter().flat_map(move |task| task.record.events.after(after))
    }

    pub(crate) fn task(&self, id: &TaskId) -> Result<&Task, Rejected> {
        self.tasks.get(id).ok_or_else(|| Rejected::UnknownTask { task: id.clone() })
    }

    /// Works on a task, and notes afterwards whether it has anything to do still.
    pub(crate) fn with_task<T>(
        &mut self,
        id: &TaskId,
        at: Timestamp,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Clerk<'_>) -> Result<T, Rejected>,
    ) -> Result<T, Rejected> {
        let Some(task) = self.tasks.get_mut(id) else {
            return Err(Rejected::UnknownTask { task: id.clone() });
        };
        let answer = work(&mut Clerk { task: &mut *task, agents: &mut self.agents, at, effects });
        let busy = task.index.any_open();
        if busy != self.busy.contains(id) {
            if busy {
                self.busy.insert(id.clone());
            } else {
                self.busy.remove(id);
            }
        }
        answer
    }

    /// Takes a task in whose units hold no leases yet, or (on restore) the leases they say.
    pub(crate) fn insert_task(&mut self, record: TaskRecord) {
        let id = record.id.clone();
        self.names.insert(record.spec.name.clone(), id.clone());
        self.requests.insert(record.request_id.clone(), id.clone());
        let index = TaskIndex::build(&record);
        for no in &index.leased {
            if let Some((unit, lease)) =
                record.unit(*no).and_then(|unit| Some((unit, unit.lease()?)))
            {
                self.agents.hold(&lease.agent, record.unit_id(*no), unit.subject.kind());
            }
        }
        if index.any_open() {
            self.busy.insert(id.clone());
        }
        self.tasks.insert(id, Task { record, index });
    }

    /// Forgets a task that holds no leases.
    pub(crate) fn remove_task(&mut self, id: &TaskId) {
        if let Some(task) = self.tasks.remove(id) {
            self.names.remove(&task.record.spec.name);
            self.requests.remove(&task.record.request_id);
            self.busy.remove(id);
        }
    }

    /// The state at this moment, to be encoded elsewhere while commands go on being applied. Copies pointers, not units.
    #[must_use]
    pub fn freeze(&self) -> crate::codec::Frozen {
        crate::codec::Frozen {
            agents: self.agents.iter().cloned().collect(),
            tasks: self.tasks.values().map(|task| Arc::new(task.record.clone())).collect(),
        }
    }
}

impl TaskIndex {
    pub(crate) fn counts(&self) -> Vec<KindCount> {
        index::KINDS
            .into_iter()
            .filter_map(|kind| {
                let of = self.kind(kind);
                (of.total > 0).then(|| KindCount {
                    kind,
                    total: of.total,
                    done: of.done,
                    running: of.leased,
                    ready: count(of.ready.len()),
                    backed_off: count(of.back_off.len()),
                    failed: of.failed,
                })
            })
            .collect()
    }
}

/// Units are numbered by u32, so a set of them has no more.
pub(crate) fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
