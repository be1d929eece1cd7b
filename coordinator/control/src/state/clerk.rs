//! The one way to change a task: a [`Clerk`] changes the record and keeps the indexes and the agents' books in step.
//!
//! What is decided stands in `apply` and `course`; here is only bookkeeping, so that no decision can forget it.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo, UnitNo};
use pgconvoy_shared::time::Timestamp;

use super::agent::Agents;
use super::count;
use super::events::EventKind;
use super::index::TaskIndex;
use super::record::{PhaseTime, Stage, TaskRecord};
use super::table::Table;
use super::unit::{Subject, Unit, UnitState};
use crate::outcome::Effect;

/// A task with what is derived of it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) record: TaskRecord,
    pub(crate) index: TaskIndex,
}

impl Task {
    /// No unit is leased: nobody can leave anything at the databases any more.
    pub(crate) fn ends_alone(&self) -> bool {
        self.index.leased.is_empty()
    }

    /// Tables that are copied anew, or shall be.
    pub(crate) fn copied_anew(&self) -> impl Iterator<Item = &Table> {
        let aside = self.index.aside.iter().filter_map(|no| self.record.table(*no));
        aside.filter(|table| table.is_copied_anew() && !table.gone)
    }

    /// How many tables wait for somebody who mends what they are parked for.
    pub(crate) fn parked(&self) -> u32 {
        let aside = self.index.aside.iter().filter_map(|no| self.record.table(*no));
        let waits =
            |table: &&Table| table.parked.is_some() && !table.is_copied_anew() && !table.gone;
        count(aside.filter(waits).count())
    }
}

/// Works on one task for the length of one command.
pub(crate) struct Clerk<'a> {
    pub(crate) task: &'a mut Task,
    pub(crate) agents: &'a mut Agents,
    pub(crate) at: Timestamp,
    pub(crate) effects: &'a mut Vec<Effect>,
}

impl Clerk<'_> {
    pub(crate) fn record(&mut self) -> &mut TaskRecord {
        &mut self.task.record
    }

    pub(crate) fn add_unit(&mut self, subject: Subject) -> UnitNo {
        let Task { record, index } = &mut *self.task;
        let no = UnitNo(
            u32::try_from(record.units.len())
                .expect("a task never has four thousand million units"),
        );
        let unit = Unit::new(subject);
        index.add_unit(no, &unit, record.weight(&unit.subject));
        record.units.push(unit);
        no
    }

    /// Changes a unit that exists.
    pub(crate) fn edit_unit(&mut self, no: UnitNo, edit: impl FnOnce(&mut Unit)) {
        let Task { record, index } = &mut *self.task;
        let id = record.unit_id(no);
        let Some(unit) = record.unit(no) else {
            debug_assert!(false, "unit {id} was looked up before");
            return;
        };
        let weight = record.weight(&unit.subject);
        let unit = record.units.get_mut(no.0 as usize).expect("it was there a moment ago");
        let kind = unit.subject.kind();
        let held_by = unit.lease().map(|lease| lease.agent.clone());
        index.remove_unit(no, unit, weight);
        edit(unit);
        index.add_unit(no, unit, weight);
        let holds = unit.lease().map(|lease| &lease.agent);
        if held_by.as_ref() != holds {
            if let Some(agent) = &held_by {
                self.agents.let_go(agent, &id, kind);
            }
            if let Some(agent) = holds {
                self.agents.hold(agent, id, kind);
            }
        }
    }

    pub(crate) fn set(&mut self, no: UnitNo, state: UnitState) {
        self.edit_unit(no, |unit| unit.state = state);
    }

    pub(crate) fn add_table(&mut self, table: Table) -> TableNo {
        let Task { record, index } = &mut *self.task;
        let no = TableNo(
            u32::try_from(record.tables.len())
                .expect("no database has four thousand million tables"),
        );
        index.add_table(no, &table);
        record.tables.push(table);
        no
    }

    /// Changes a table that exists.
    pub(crate) fn edit_table(&mut self, no: TableNo, edit: impl FnOnce(&mut Table)) {
        let Task { record, index } = &mut *self.task;
        let Some(table) = record.tables.get_mut(no.0 as usize) else {
            debug_assert!(false, "table {no} was looked up before");
            return;
        };
        index.remove_table(no, table);
        edit(table);
        index.add_table(no, table);
    }

    /// Moves the task on (or back, within a phase), and notes when phases begin and end.
    pub(crate) fn set_stage(&mut self, stage: Stage) {
        let at = self.at;
        let record = self.record();
        record.stage = stage;
        let phase = record.phase();
        if record.phase_times.last().is_some_and(|last| last.phase == phase) {
            return;
        }
        if let Some(last) = record.phase_times.last_mut() {
            last.ended = Some(at);
        }
        if stage != Stage::Ended {
            record.phase_times.push(PhaseTime { phase, began: at, ended: None });
            self.tell(EventKind::PhaseBegan, format!("phase {} began", phase.as_str()));
        }
    }

    pub(crate) fn tell(&mut self, kind: EventKind, message: impl Into<String>) {
        self.tell_of(kind, message, None, None, None);
    }

    pub(crate) fn tell_of(
        &mut self,
        kind: EventKind,
        message: impl Into<String>,
        agent: Option<AgentId>,
        unit: Option<UnitNo>,
        failure: Option<Failure>,
    ) {
        let at = self.at;
        self.record().events.push(at, kind, message.into(), (agent, unit, failure));
    }
}
