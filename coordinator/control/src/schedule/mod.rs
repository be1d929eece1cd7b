//! The scheduler: what the leader proposes next, from what is agreed on and what it observes.
//!
//! [`plan`] looks only at tasks with open units and agents with free slots: its cost is that of what it grants, not of
//! what there is. It grants in the order of a task's course, the largest tables first, turn by turn among tasks, within
//! the limits of task ([`limits`]) and agent ([`places`]). For each kind that is not granted whole it notes why; [`explain()`]
//! says that to people.

mod explain;
mod limits;
mod places;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use pgconvoy_shared::ids::{AgentId, TaskId, UnitId, UnitNo};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::UnitKind;

use crate::command::{Command, Grant};
use crate::liveness::{Liveness, Presence};
use crate::sites::Sites;
use crate::state::clerk::Task;
use crate::state::index::KINDS;
use crate::state::unit::beyond_any_pause;
use crate::state::{Agent, State};
use limits::room;
use places::Places;

pub use explain::{Explanation, explain};

/// What a leader sees besides the state: its memory of heartbeats, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The memory.
    pub liveness: &'a Liveness,
    /// The moment, on the clock that the memory is kept by.
    pub now_ms: u64,
}

impl Observed<'_> {
    fn presence(&self, agent: &Agent) -> Presence {
        if agent.present {
            self.liveness.presence(&agent.id, agent.incarnation, self.now_ms)
        } else {
            Presence::Lost
        }
    }
}

/// What to propose, and what stays undone for which reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// To be proposed, in this order.
    pub commands: Vec<Command>,
    /// Units that are ready and were not granted.
    pub held_back: Vec<HeldBack>,
}

/// Ready units of one kind that were not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Of this task.
    pub task: TaskId,
    /// Of this kind.
    pub kind: UnitKind,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub units: u32,
}

/// Why a ready unit is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The task does not run.
    TaskAtRest,
    /// Nobody exports the task's snapshot at the moment.
    NoSnapshot,
    /// Units that were told to stop have not answered yet; what cleans up after them comes last.
    UnitsEnding,
    /// As many run as the task allows.
    TaskLimit,
    /// Enough shards wait to be copied: more is planned when they get fewer.
    PlannedLater,
    /// No agent is there at all.
    NoAgent,
    /// None is at a site where one is needed.
    NoAgentOfSite,
    /// Those that could take it are full, draining or not heard of yet.
    AgentsFull,
    /// As many as one plan grants.
    NextPlan,
}

/// A plan grants at most this many units: a command of some 60 KiB, well below what fits into a log entry.
const GRANTS_MAX: usize = 512;

/// Decides what to propose now. Lost agents are [`Liveness::condemn`]'s, which is asked at each tick.
#[must_use]
pub fn plan(state: &State, observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut held_back = Vec::new();
    let mut queues: VecDeque<Queue<'_>> =
        state.busy.iter().filter_map(|id| Queue::of(id, state.tasks.get(id)?, now)).collect();
    if queues.is_empty() {
        return Plan { commands: Vec::new(), held_back };
    }
    let mut places = Places::of(state, observed);
    let mut grants = Vec::new();
    while let Some(mut queue) = queues.pop_front() {
        if grants.len() == GRANTS_MAX {
            queue.hold_back_rest(Reason::NextPlan, &mut held_back);
            continue;
        }
        // One unit at a time and task after task, so that no task starves another.
        if let Some(grant) = queue.next_grant(&mut places, &mut held_back) {
            grants.push(grant);
            queues.push_back(queue);
        }
    }
    let commands = if grants.is_empty() { vec![] } else { vec![Command::GrantLeases(grants)] };
    Plan { commands, held_back }
}

/// What one task has to be leased, kind by kind in the order of its course.
struct Queue<'a> {
    id: &'a TaskId,
    task: &'a Task,
    now: Timestamp,
    kinds: std::slice::Iter<'static, UnitKind>,
    current: Option<Current<'a>>,
}

struct Current<'a> {
    kind: UnitKind,
    units: Box<dyn Iterator<Item = UnitNo> + 'a>,
    room: u32,
    full: Reason,
    granted: u32,
}

impl<'a> Queue<'a> {
    fn of(id: &'a TaskId, task: &'a Task, now: Timestamp) -> Option<Self> {
        let waits = KINDS.iter().any(|kind| {
            let of = task.index.kind(*kind);
            !of.ready.is_empty() || !of.back_off.is_empty()
        });
        waits.then(|| Self { id, task, now, kinds: KINDS.iter(), current: None })
    }

    /// The next unit that finds room and a place. What is passed over is noted with its reason.
    fn next_grant(
        &mut self,
        places: &mut Places<'_>,
        held_back: &mut Vec<HeldBack>,
    ) -> Option<Grant> {
        loop {
            if self.current.is_none() && !self.next_kind() {
                return None;
            }
            let current = self.current.as_mut()?;
            if current.granted == current.room {
                let reason = current.full;
                self.hold_back(reason, held_back);
                continue;
            }
            let Some(no) = current.units.next() else {
                self.current = None;
                continue;
            };
            match places.take(current.kind, self.sites(), self.avoid(no)) {
                Ok(agent) => {
                    let current = self.current.as_mut()?;
                    current.granted += 1;
                    let unit = UnitId { task: self.id.clone(), no };
                    let (agent, incarnation) = (agent.id.clone(), agent.incarnation);
                    return Some(Grant { unit, agent, incarnation });
                }
                // No place for this one is no place for any of the task: all go to the same sites.
                Err(reason) => {
                    self.hold_back(reason, held_back);
                    self.hold_back_rest(reason, held_back);
                    return None;
                }
            }
        }
    }

    fn next_kind(&mut self) -> bool {
        let Some(kind) = self.kinds.next().copied() else { return false };
        let of = self.task.index.kind(kind);
        let back_off = &of.back_off;
        let due = back_off
            .range(..=(self.now, UnitNo(u32::MAX)))
            .chain(back_off.range((beyond_any_pause(self.now), UnitNo(0))..))
            .map(|(_, no)| *no);
        let ready = of.ready.iter().map(|(_, no)| *no);
        let (room, full) = room(self.task, kind);
        let units = Box::new(due.chain(ready));
        self.current = Some(Current { kind, units, room, full, granted: 0 });
        true
    }

    /// What is left of the current kind stays.
    fn hold_back(&mut self, reason: Reason, held_back: &mut Vec<HeldBack>) {
        let Some(current) = self.current.take() else { return };
        let ready = self.task.index.kind(current.kind).ready.len();
        let units = crate::state::count(ready).saturating_sub(current.granted);
        if units > 0 {
            let task = self.id.clone();
            held_back.push(HeldBack { task, kind: current.kind, reason, units });
        }
    }

    /// What is left of all kinds stays; for this reason, unless the task itself has one.
    fn hold_back_rest(&mut self, reason: Reason, held_back: &mut Vec<HeldBack>) {
        self.hold_back(reason, held_back);
        while self.next_kind() {
            let own = self.current.as_ref().filter(|kind| kind.room == 0).map(|kind| kind.full);
            self.hold_back(own.unwrap_or(reason), held_back);
        }
    }

    fn sites(&self) -> Sites<'a> {
        Sites::of(&self.task.record.spec)
    }

    fn avoid(&self, no: UnitNo) -> Option<&'a AgentId> {
        self.task.record.unit(no)?.trouble.as_ref()?.avoid.as_ref()
    }
}
