//! The cutover: writers are kept from the source, what they wrote is proved to be at the destination, and the task ends there.
//!
//! It has one unit, which is leased anew for each step, so that every step's owner ends what the ones before it left (law O5).
//! Before a step does what others can see, its intention and all that is needed to take it back stand here, in the record: so
//! whoever dies, the next owner goes on or takes it back. Whatever fails before the switch leads to [`CutoverStep::Lift`], and
//! from there back to following the source. From [`CutoverStep::Switch`] on the destination decides, in one transaction: it is
//! asked until it answers.
//!
//! [`CutoverStep::Compare`] has units of its own, those of every comparison ([`verify`]), beside the stream. Up to the fence a
//! task that is paused, fails or is cancelled ends its cutover: nobody wants one that begins by itself some day.

use pgconvoy_shared::cutover::{CutoverDone, CutoverSettings, CutoverStep, Writers};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitNo;

use super::{lease_end, settle, stages, verify};
use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{Afterwards, Cutover, CutoverOutcome, EventKind, Stage, TaskStatus, UnitState};

/// A cutover begins.
pub(crate) fn begin(clerk: &mut Clerk<'_>, settings: &CutoverSettings) {
    let at = clerk.at;
    let record = clerk.record();
    let attempt = record.cutover.as_ref().map_or(1, |before| before.attempt + 1);
    let told = match settings.dry_run {
        true => "a rehearsal of the cutover began",
        false => "the cutover began",
    };
    let mut cutover = Cutover::new(attempt, settings.clone(), at);
    // A fence that was left stands until somebody lifts it: what lifts it is told until a check has found none.
    if let Some(left) = record.cutover.take().filter(|before| before.fence_left) {
        (cutover.fence_left, cutover.setting_before) = (true, left.setting_before);
    }
    record.cutover = Some(Box::new(cutover));
    clerk.set_stage(Stage::Cutover);
    clerk.tell(EventKind::CutoverBegan, told);
    clerk.add_unit(Subject::Cutover);
}

/// A step has ended with a result.
pub(super) fn stepped(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    done: &CutoverDone,
) -> Result<(), Box<Failure>> {
    let at = clerk.at;
    let Some(cutover) = clerk.record().cutover.as_deref_mut() else {
        debug_assert!(false, "its unit is there");
        return Ok(());
    };
    let next = match (cutover.step, done) {
        (CutoverStep::Check, CutoverDone::Checked { setting_before, lag_bytes }) => {
            if cutover.settings.writers == Writers::Fenced {
                cutover.fence_left = false;
                cutover.setting_before.clone_from(setting_before);
            }
            cutover.lag_bytes = *lag_bytes;
            if cutover.settings.compare.is_some() {
                settle(clerk, no);
                note_step(clerk, CutoverStep::Compare);
                verify::begin_rows(clerk);
                return Ok(());
            }
            CutoverStep::Ready
        }
        (CutoverStep::Ready, CutoverDone::Ready { lag_bytes, again }) => {
            cutover.lag_bytes = *lag_bytes;
            cutover.again_before = *again;
            if cutover.settings.dry_run {
                go_on(clerk, no, CutoverOutcome::Rehearsed);
                return Ok(());
            }
            cutover.deadline = Some(at.plus_ms(cutover.settings.timeout_ms));
            CutoverStep::Fence
        }
        (CutoverStep::Fence, CutoverDone::Fenced { at, ended, left }) => {
            cutover.fence = *at;
            cutover.ended_sessions = *ended;
            cutover.left_sessions.clone_from(left);
            CutoverStep::Prove
        }
        (CutoverStep::Prove, CutoverDone::Proved { marker, sequences, again, copied }) => {
            cutover.marker = *marker;
            cutover.sequences = *sequences;
            cutover.again = *again;
            cutover.copied = *copied;
            CutoverStep::Switch
        }
        (CutoverStep::Switch, CutoverDone::Switched) => {
            switched(clerk, no);
            return Ok(());
        }
        (CutoverStep::Lift, CutoverDone::Lifted) => {
            let cause = cutover.cause.take().unwrap_or_else(unknown);
            go_on(clerk, no, CutoverOutcome::Undone(cause));
            return Ok(());
        }
        // Told before it was known that all is to be taken back.
        (CutoverStep::Lift, _) => {
            clerk.set(no, UnitState::Ready);
            return Ok(());
        }
        (
            CutoverStep::Check
            | CutoverStep::Ready
            | CutoverStep::Fence
            | CutoverStep::Prove
            | CutoverStep::Switch,
            CutoverDone::Refused(cause),
        ) => {
            undo(clerk, no, cause.clone());
            return Ok(());
        }
        (step, _) => {
            let message = format!("step {} was answered with another one's result", step.as_str());
            return Err(super::bad_result(message));
        }
    };
    step_to(clerk, no, next);
    Ok(())
}

fn unknown() -> Failure {
    Failure::other("internal_error", "it was undone for a cause that was not noted")
}

fn step_to(clerk: &mut Clerk<'_>, no: UnitNo, step: CutoverStep) {
    note_step(clerk, step);
    clerk.edit_unit(no, |unit| {
        unit.state = UnitState::Ready;
        unit.trouble = None;
    });
}

fn note_step(clerk: &mut Clerk<'_>, step: CutoverStep) {
    let at = clerk.at;
    if let Some(cutover) = clerk.record().cutover.as_deref_mut() {
        cutover.step_to(step, at);
        clerk.tell(EventKind::CutoverStepped, format!("the cutover is at step {}", step.as_str()));
    }
}

/// Both ends are compared: it goes on, unless they differ.
pub(super) fn compared(clerk: &mut Clerk<'_>) {
    let coverage = verify::coverage(clerk.task);
    let differs = verify::stands_in_the_way(clerk.task);
    let Some(cutover) = clerk.record().cutover.as_deref_mut() else { return };
    cutover.compared = Some(coverage);
    match differs {
        Some(cause) => leave(clerk, CutoverOutcome::Undone(cause)),
        None => {
            note_step(clerk, CutoverStep::Ready);
            clerk.add_unit(Subject::Cutover);
        }
    }
}

/// Whether both ends are being compared for it.
pub(super) fn is_comparing(clerk: &Clerk<'_>) -> bool {
    clerk.task.record.cutover.as_deref().is_some_and(Cutover::is_comparing)
}

/// Its user stops the task before anything is fenced.
pub(crate) fn interrupted(clerk: &mut Clerk<'_>) {
    let cutover = clerk.task.record.cutover.as_deref();
    if cutover.is_some_and(|cutover| cutover.ended.is_none() && !cutover.holds_source()) {
        let message = "the task was stopped by its user before the source was fenced";
        let cause = Failure::definite("cutover_interrupted", message);
        leave(clerk, CutoverOutcome::Undone(cause.remedy("resume the task, then begin anew")));
    }
}

/// What came of giving up a fence that cannot be lifted.
pub(crate) enum LeftFence {
    /// It may stand still, and the record says so.
    Left,
    /// There is none to lift.
    None,
    /// It is not to be lifted: the cutover is under way, or the destination is deciding.
    InUse,
}

/// Its user gives up lifting the fence: the task is as after any cutover that is undone, and the record tells what may be left.
pub(crate) fn leave_fence(clerk: &mut Clerk<'_>) -> LeftFence {
    let Some(cutover) = clerk.record().cutover.as_deref_mut() else { return LeftFence::None };
    if !cutover.holds_source() {
        return LeftFence::None;
    }
    if cutover.step != CutoverStep::Lift {
        return LeftFence::InUse;
    }
    cutover.fence_left = true;
    let cause = cutover.cause.take().unwrap_or_else(unknown);
    leave(clerk, CutoverOutcome::Undone(cause));
    LeftFence::Left
}

/// The task fails of something else. A source that is fenced is let go, unless the destination is deciding already.
pub(super) fn task_failed(clerk: &mut Clerk<'_>, cause: Failure) {
    let Some(cutover) = clerk.record().cutover.as_deref_mut() else { return };
    if cutover.ended.is_some() {
        return;
    }
    match cutover.step {
        CutoverStep::Check | CutoverStep::Compare | CutoverStep::Ready => {
            leave(clerk, CutoverOutcome::Undone(cause));
        }
        CutoverStep::Fence | CutoverStep::Prove => {
            cutover.cause = Some(cause);
            note_step(clerk, CutoverStep::Lift);
        }
        CutoverStep::Switch | CutoverStep::Lift => {}
    }
}

/// Ends it where nothing is to be taken back, or nobody wants to wait for that, with whatever is under way for it, and the task follows its source as before.
pub(super) fn leave(clerk: &mut Clerk<'_>, outcome: CutoverOutcome) {
    let units = (0u32..).map(UnitNo).zip(clerk.record().units.iter());
    let ours = units.filter(|(_, unit)| {
        unit.is_open() && (unit.subject == Subject::Cutover || verify::compares(&unit.subject))
    });
    let ours: Vec<UnitNo> = ours.map(|(no, _)| no).collect();
    if is_comparing(clerk) && !verify::is_over(clerk) {
        verify::forget(clerk);
    }
    for no in ours {
        lease_end::drop_unit(clerk, no);
    }
    end(clerk, outcome);
    clerk.set_stage(Stage::Stream);
}

/// Takes it back. Before the fence there is nothing to take back.
pub(super) fn undo(clerk: &mut Clerk<'_>, no: UnitNo, cause: Failure) {
    let Some(cutover) = clerk.record().cutover.as_deref_mut() else { return };
    if !cutover.holds_source() {
        go_on(clerk, no, CutoverOutcome::Undone(cause));
        return;
    }
    cutover.cause = Some(cause);
    step_to(clerk, no, CutoverStep::Lift);
}

/// Whether a failure of the unit undoes the cutover, rather than being tried again.
pub(super) fn is_undone_by_failure(clerk: &mut Clerk<'_>) -> bool {
    clerk
        .record()
        .cutover
        .as_ref()
        .is_some_and(|cutover| !matches!(cutover.step, CutoverStep::Switch | CutoverStep::Lift))
}

fn end(clerk: &mut Clerk<'_>, outcome: CutoverOutcome) {
    let at = clerk.at;
    let (message, cause) = match &outcome {
        CutoverOutcome::Undone(cause) => {
            (format!("the cutover is undone: {}", cause.message), Some(cause.clone()))
        }
        CutoverOutcome::Rehearsed => ("nothing stands in the way of a cutover".to_owned(), None),
        CutoverOutcome::Done => ("the destination has taken over".to_owned(), None),
    };
    let mut kept = false;
    if let Some(cutover) = clerk.record().cutover.as_deref_mut() {
        kept = cutover.keeps_changes();
        cutover.end(outcome, at);
    }
    clerk.tell_of(EventKind::CutoverEnded, message, None, None, cause);
    if kept {
        // Nobody wants to know any more what is changed: whoever takes the stream over is told.
        let streams: Vec<UnitNo> = clerk.record().streams().collect();
        for stream in streams {
            lease_end::revoke(clerk, stream, Afterwards::Ready);
        }
    }
}

/// It is over, and the task follows its source as before.
fn go_on(clerk: &mut Clerk<'_>, no: UnitNo, outcome: CutoverOutcome) {
    settle(clerk, no);
    end(clerk, outcome);
    clerk.set_stage(Stage::Stream);
}

/// The destination has taken over. What is left of the task at both ends is removed.
fn switched(clerk: &mut Clerk<'_>, no: UnitNo) {
    settle(clerk, no);
    end(clerk, CutoverOutcome::Done);
    let record = clerk.record();
    record.status = TaskStatus::Running;
    record.cause = None;
    let streams: Vec<UnitNo> = clerk.record().streams().collect();
    for stream in streams {
        lease_end::drop_unit(clerk, stream);
    }
    stages::enter(clerk, Stage::Finish);
}

#[cfg(test)]
mod tests;
