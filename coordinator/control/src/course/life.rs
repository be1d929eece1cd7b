//! A task's life as its user leads it: start, resume, cancel.

use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::unit::UnitKind;

use super::gate::{PRECHECK_WARNINGS, ensure_precheck, gate};
use super::{cutover, lease_end, plan, snapshot, stages};
use crate::state::clerk::Clerk;
use crate::state::index::{KINDS, TaskIndex};
use crate::state::unit::Subject;
use crate::state::{Afterwards, EventKind, Stage, TaskStatus, UnitState};

/// A created task begins.
pub(crate) fn start(clerk: &mut Clerk<'_>) {
    let at = clerk.at;
    let record = clerk.record();
    record.status = TaskStatus::Running;
    record.started = Some(at);
    clerk.tell(EventKind::TaskStarted, "started");
    clerk.set_stage(Stage::Precheck);
    ensure_precheck(clerk);
}

/// A paused or failed task goes on: everything that failed is tried at once, with new windows.
pub(crate) fn resume(clerk: &mut Clerk<'_>) {
    let record = clerk.record();
    let cause = record.cause.take();
    record.status = TaskStatus::Running;
    record.ended = None;
    record.precheck_asked = false;
    let outdated = std::mem::take(&mut record.outdated);
    let mut again: Vec<_> = clerk.task.index.failed.iter().copied().collect();
    for kind in KINDS {
        again.extend(clerk.task.index.kind(kind).back_off.iter().map(|(_, no)| *no));
    }
    again.into_iter().for_each(|no| try_again(clerk, no));
    if clerk.record().stage == Stage::Precheck {
        if cause.is_some_and(|cause| cause.code == PRECHECK_WARNINGS) {
            gate(clerk);
        } else {
            ensure_precheck(clerk);
        }
        return;
    }
    if !outdated.is_empty() {
        if clerk.record().shares_snapshot() {
            snapshot::give_up(clerk);
        } else {
            for table in outdated {
                plan::anew(clerk, table);
            }
        }
    }
    snapshot::keep_readable(clerk);
    stages::advance(clerk);
}

fn try_again(clerk: &mut Clerk<'_>, no: UnitNo) {
    clerk.edit_unit(no, |unit| {
        unit.state = UnitState::Ready;
        unit.trouble = None;
    });
}

/// Cleaning up a cancelled task begins again if it was given up; false = it was not.
pub(crate) fn finish_again(clerk: &mut Clerk<'_>) -> bool {
    let failed: Vec<_> = clerk.task.index.failed.iter().copied().collect();
    let changed = !failed.is_empty();
    failed.into_iter().for_each(|no| try_again(clerk, no));
    changed
}

/// The task ends. One pass over its units: they are dropped but for those that run, which are revoked.
pub(crate) fn cancel(clerk: &mut Clerk<'_>) {
    cutover::interrupted(clerk);
    let at = clerk.at;
    let record = clerk.record();
    record.status = TaskStatus::Cancelled;
    record.cause = None;
    record.ended = Some(at);
    record.precheck_asked = false;
    for no in 0..record.units.len() {
        let waits =
            record.units.get(no).is_some_and(|unit| unit.is_open() && unit.lease().is_none());
        if let Some(unit) = waits.then(|| record.units.get_mut(no)).flatten() {
            unit.state = UnitState::Dropped;
            unit.trouble = None;
        }
    }
    let touched_nothing = record.stage == Stage::Precheck;
    clerk.task.index = TaskIndex::build(&clerk.task.record);
    clerk.tell(EventKind::TaskCancelled, "cancelled");
    lease_end::revoke_all(clerk, Afterwards::Dropped);
    if touched_nothing {
        clerk.record().cleaned_up = true;
    } else {
        debug_assert_eq!(clerk.task.index.kind(UnitKind::Finish).ready.len(), 0);
        clerk.add_unit(Subject::Finish);
    }
}
