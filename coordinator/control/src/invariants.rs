//! What must hold of every state, by name. Checked by tests after each command and by the simulation after each step; one
//! pass over everything, so never by a coordinator at work.

use std::collections::BTreeSet;

use pgconvoy_shared::ids::{TaskId, UnitNo};
use pgconvoy_shared::unit::UnitKind;

use crate::state::agent::Agents;
use crate::state::clerk::Task;
use crate::state::index::{KINDS, TaskIndex};
use crate::state::{Afterwards, Stage, State, Subject, Tally, TaskStatus, UnitState};

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant: stable, snake_case.
    pub invariant: &'static str,
    /// Where, and how.
    pub details: String,
}

/// All violations there are.
#[must_use]
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    check_books(state, &mut found);
    for (id, task) in &state.tasks {
        check_indexes(state, id, task, &mut found);
        check_tables(id, task, &mut found);
        check_units(id, task, &mut found);
        check_comparison(id, task, &mut found);
        check_course(id, task, &mut found);
    }
    found.0
}

struct Found(Vec<Violation>);

impl Found {
    fn unless(&mut self, holds: bool, invariant: &'static str, details: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { invariant, details: details() });
        }
    }
}

/// Agents' books say what the units say: each lease is held once, by an agent that is there, in its latest life.
fn check_books(state: &State, found: &mut Found) {
    let mut rebuilt = Agents::default();
    state.agents().cloned().for_each(|agent| rebuilt.put(agent));
    for task in state.tasks.values() {
        for (no, unit) in (0u32..).map(UnitNo).zip(task.record.units.iter()) {
            let Some(lease) = unit.lease() else { continue };
            rebuilt.hold(&lease.agent, task.record.unit_id(no), unit.subject.kind());
            found.unless(
                state.agents.is_present(&lease.agent, lease.incarnation),
                "a_lease_is_held_by_a_present_agent",
                || format!("{} is leased to {}", task.record.unit_id(no), lease.agent),
            );
            found.unless(unit.epoch.0 > 0, "a_lease_has_an_epoch", || {
                task.record.unit_id(no).to_string()
            });
        }
    }
    found.unless(rebuilt == state.agents, "books_equal_a_rebuild", || {
        "what agents hold is not what units say".to_owned()
    });
    for agent in state.agents() {
        let held = state.lease_count(&agent.id);
        // An agent may come back with fewer slots than it fills.
        let revocable = state.leases_of(&agent.id).count();
        found.unless(held as usize == revocable, "a_held_unit_is_leased", || agent.id.to_string());
    }
}

fn check_indexes(state: &State, id: &TaskId, task: &Task, found: &mut Found) {
    found.unless(task.index == TaskIndex::build(&task.record), "indexes_equal_a_rebuild", || {
        format!("of task {id}")
    });
    found.unless(
        state.busy.contains(id) == task.index.any_open(),
        "busy_tasks_have_open_units",
        || format!("task {id}"),
    );
    let record = &task.record;
    found.unless(
        state.names.get(&record.spec.name) == Some(id)
            && state.requests.get(&record.request_id) == Some(id),
        "a_task_is_found_by_name_and_request",
        || format!("task {id}"),
    );
}

fn check_tables(id: &TaskId, task: &Task, found: &mut Found) {
    let record = &task.record;
    for (no, table) in record.live_tables() {
        let mut done = Tally::default();
        let mut shards_done = 0;
        for (shard, unit_no) in (0u32..).zip(table.copy_units()) {
            let unit = record.unit(UnitNo(unit_no));
            let copies_it =
                unit.is_some_and(|unit| unit.subject == Subject::Copy { table: no, shard });
            found.unless(copies_it, "a_shard_is_copied_by_its_unit", || {
                format!("task {id}, table {no}, shard {shard}, unit {unit_no}")
            });
            let Some(unit) = unit else { continue };
            if let UnitState::Done(tally) = unit.state {
                shards_done += 1;
                done = done + tally;
            }
            found.unless(
                unit.state != UnitState::Dropped || record.status == TaskStatus::Cancelled,
                "no_shard_of_a_current_plan_is_dropped",
                || format!("task {id}, unit {unit_no}"),
            );
        }
        found.unless(
            (done, shards_done) == (table.done, table.shards_done),
            "counts_equal_a_recount",
            || format!("task {id}, table {no}: {:?} of {:?}", table.done, done),
        );
        let planning = table.plan_unit.and_then(|unit| record.unit(unit));
        let will_be = planning.is_some_and(|unit| unit.is_open());
        found.unless(
            // Parked: it could not be copied anew.
            table.plan.is_some()
                || will_be
                || table.parked.is_some()
                || record.status.has_ended()
                || !record.migrates(),
            "a_table_is_planned_or_will_be",
            || format!("task {id}, table {no}"),
        );
        found.unless(
            table.plan.as_ref().is_none_or(|plan| plan.generation == table.generation),
            "a_plan_is_of_the_current_generation",
            || format!("task {id}, table {no}"),
        );
    }
}

/// What came of comparing a table is told of shards that were compared, each once.
fn check_comparison(id: &TaskId, task: &Task, found: &mut Found) {
    let record = &task.record;
    let mut done = vec![0u32; record.tables.len()];
    let mut open = done.clone();
    for unit in record.units.iter() {
        let Subject::VerifyRows { table, .. } = unit.subject else { continue };
        match unit.state {
            UnitState::Done(_) => done[table.0 as usize] += 1,
            UnitState::Dropped => {}
            // Whatever its agent says of it is dropped.
            UnitState::Leased(ref lease) if lease.revoked == Some(Afterwards::Dropped) => {}
            UnitState::Ready
            | UnitState::BackOff { .. }
            | UnitState::Leased(_)
            | UnitState::Failed => open[table.0 as usize] += 1,
        }
    }
    for (no, table) in record.live_tables() {
        let check = &table.check;
        let (done, open) = (done[no.0 as usize], open[no.0 as usize]);
        found.unless(
            check.shards_done == done
                && (done + open == crate::state::count(check.shards.len())
                    || record.status.has_ended()),
            "each_shard_is_compared_once",
            || format!("task {id}, table {no}: {done} done, {open} open"),
        );
    }
}

fn check_units(id: &TaskId, task: &Task, found: &mut Found) {
    let record = &task.record;
    for (no, unit) in (0u32..).map(UnitNo).zip(record.units.iter()) {
        let what = || format!("task {id}, unit {no}: {}", record.describe(&unit.subject));
        if let Subject::Copy { table, .. } = unit.subject {
            let current = record.table(table).is_some_and(|t| t.copy_units().contains(&no.0));
            let ending = unit.lease().is_some_and(|lease| lease.revoked.is_some());
            found.unless(
                current || ending || unit.state == UnitState::Dropped,
                "an_old_plans_shard_never_runs_again",
                what,
            );
        }
        let ended = record.status.has_ended() && unit.subject.kind() != UnitKind::Finish;
        let stops = unit.lease().is_none_or(|lease| lease.revoked.is_some());
        found.unless(!ended || stops, "an_ended_task_runs_nothing", what);
        let running = record.status == TaskStatus::Running;
        found.unless(
            !running || unit.state != UnitState::Failed || unit.subject == Subject::Precheck,
            "a_running_task_has_given_nothing_up",
            what,
        );
    }
}

/// A task that runs has something to run: else it would wait for ever.
fn check_course(id: &TaskId, task: &Task, found: &mut Found) {
    let record = &task.record;
    let what = || format!("task {id} in {:?}, {:?}", record.stage, record.status);
    if record.status == TaskStatus::Running {
        found.unless(task.index.any_open(), "a_running_task_has_something_to_do", what);
        let reads = [UnitKind::Plan, UnitKind::Copy]
            .into_iter()
            .any(|kind| task.index.kind(kind).open() > 0);
        let survey = task.index.kind(UnitKind::Survey).open() > 0;
        found.unless(
            record.can_read() || !reads || survey || record.stage != Stage::Copy,
            "shards_wait_for_a_snapshot_that_will_be_taken",
            what,
        );
        let kinds: BTreeSet<_> =
            KINDS.into_iter().filter(|kind| task.index.kind(*kind).open() > 0).collect();
        found.unless(
            kinds.iter().any(|kind| of_stage(*kind, record.stage)),
            "a_stage_ends_with_its_units",
            what,
        );
    }
    found.unless(
        (record.status == TaskStatus::Done) == (record.stage == Stage::Ended),
        "a_done_task_is_at_its_end",
        what,
    );
}

fn of_stage(kind: UnitKind, stage: Stage) -> bool {
    match kind {
        UnitKind::Precheck => stage == Stage::Precheck,
        UnitKind::SchemaPre => stage == Stage::SchemaPre,
        UnitKind::OpenStream => stage == Stage::OpenStream,
        UnitKind::Stream => stage == Stage::CatchUp || stage == Stage::Stream,
        UnitKind::Cutover => stage == Stage::Cutover,
        UnitKind::Survey => stage == Stage::Survey || stage == Stage::Copy,
        UnitKind::Plan | UnitKind::Copy => stage == Stage::Copy,
        UnitKind::Audit => stage == Stage::Audit || stage == Stage::LastAudit,
        UnitKind::Index => stage == Stage::Index || stage == Stage::LateIndex,
        UnitKind::SchemaPost => stage == Stage::SchemaPost,
        UnitKind::Sequences | UnitKind::Analyze => stage == Stage::Settle,
        UnitKind::VerifyPlan
        | UnitKind::VerifyRows
        | UnitKind::VerifySchema
        | UnitKind::VerifySequences => stage == Stage::Verify || stage == Stage::Cutover,
        UnitKind::Finish => stage == Stage::Finish,
    }
}
