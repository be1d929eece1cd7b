//! Who judges a world: a state that applies each entry as it is committed, and what must hold from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_control::command::{Command, Report, ReportBody, Stamped};
use pgconvoy_control::invariants;
use pgconvoy_control::outcome::{Outcome, Reception};
use pgconvoy_control::state::{Phase, State, UnitState};
use pgconvoy_control::view;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{Incarnation, TaskId, UnitId, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{Ended, WorkResult};

use super::world::World;

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) state: State,
    pub(super) violation: Option<(&'static str, String)>,
    epochs: BTreeMap<UnitId, Epoch>,
    done: BTreeSet<UnitId>,
    applied: BTreeMap<TaskId, Lsn>,
}

impl Oracle {
    /// The first violation is the one that counts.
    pub(super) fn violate(&mut self, invariant: &'static str, details: String) {
        self.violation.get_or_insert((invariant, details));
    }

    pub(super) fn apply(&mut self, stamped: &Stamped) {
        let applied = pgconvoy_control::apply(&mut self.state, stamped);
        if let Some(violation) = invariants::check(&self.state).into_iter().next() {
            self.violate(violation.invariant, violation.details);
        }
        match (&stamped.command, applied.outcome) {
            (Command::GrantLeases(grants), Ok(Outcome::Granted(granted))) => {
                for (grant, granted) in grants.iter().zip(granted) {
                    if let Ok(epoch) = granted {
                        self.granted(&grant.unit, epoch);
                    }
                }
            }
            (Command::Reports(reports), Ok(Outcome::Reported(receptions))) => {
                for (report, reception) in reports.iter().zip(receptions) {
                    if reception == Reception::Taken {
                        self.taken(report);
                    }
                }
            }
            _ => {}
        }
    }

    fn granted(&mut self, unit: &UnitId, epoch: Epoch) {
        let before = self.epochs.insert(unit.clone(), epoch);
        if before.is_some_and(|before| before >= epoch) {
            self.violate("an_epoch_never_goes_back", format!("{unit}: {before:?} then {epoch}"));
        }
        if self.done.contains(unit) {
            self.violate("a_done_unit_never_runs_again", unit.to_string());
        }
    }

    /// A task's changes are applied up to here.
    pub(super) fn durable(&mut self, task: &TaskId, applied: Lsn) {
        let known = self.applied.entry(task.clone()).or_default();
        *known = applied.max(*known);
    }

    fn taken(&mut self, report: &Report) {
        if let ReportBody::Checkpoint(checkpoint) = &report.body
            && self.applied.get(&report.unit.task).is_none_or(|known| *known < checkpoint.applied)
        {
            let details = format!("{}: {checkpoint:?}", report.unit);
            return self.violate("a_checkpoint_is_durable", details);
        }
        let ReportBody::Ended { ended: Ended::Done(result), .. } = &report.body else { return };
        let id = &report.unit;
        if self.state.unit(id).is_some_and(|unit| matches!(unit.state, UnitState::Done(_))) {
            self.done.insert(id.clone());
        }
        // An audit is the one thing that makes done units run again.
        if let WorkResult::Audit { missing } = result {
            for (table, shard) in missing {
                if let Some(table) = self.state.tables(&id.task).nth(table.0 as usize) {
                    let no = UnitNo(table.first_unit.0 + shard);
                    self.done.remove(&UnitId { task: id.task.clone(), no });
                }
            }
        }
    }

    /// Nothing is left to do for the task but to follow its source.
    pub(super) fn follows(&self, task: &TaskId) -> bool {
        let view = view::task(&self.state, task, 0, &|_, _| None);
        view.is_some_and(|view| view.phase == Phase::Stream)
    }

    pub(super) fn describe(&self, task: &TaskId) -> String {
        let view = view::task(&self.state, task, 0, &|_, _| None);
        let events: Vec<_> =
            self.state.events(task, 0).map(|event| event.message.as_str()).collect();
        let last = events.iter().rev().take(8).rev().copied().collect::<Vec<_>>().join("\n  ");
        match view {
            Some(view) => format!(
                "{task}: {:?} {:?} cause {:?}\n  running {:?}\n  units {:?}\n  {last}",
                view.status, view.phase, view.cause, view.running, view.units
            ),
            None => format!("{task}: was never created"),
        }
    }
}

impl World {
    /// A process that lives is never taken for one that was followed by another.
    pub(super) fn check_lives(&mut self) {
        for agent in &self.agents {
            let known = self.oracle.state.agent(&agent.id);
            if known.is_some_and(|known| known.former.contains(&Incarnation(agent.life))) {
                let details = format!("{} lives, and {known:?}", agent.id);
                return self.oracle.violate("a_life_is_over_when_it_ends", details);
            }
        }
    }

    /// At no moment do two agents both think that they may run a unit.
    pub(super) fn check_owners(&mut self) {
        let mut owners = BTreeMap::new();
        let now = self.now;
        for agent in self.agents.iter().filter(|agent| agent.believes(now)) {
            for unit in agent.runs.keys() {
                if let Some(other) = owners.insert(unit.clone(), agent.id.clone()) {
                    let details = format!("unit {unit}: {other} and {}", agent.id);
                    return self.oracle.violate("two_live_owners", details);
                }
            }
        }
    }
}
