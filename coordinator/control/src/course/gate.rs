//! The precheck and its gate: errors stop the task before anything changes, warnings until they are acknowledged. A task that
//! only compares changes nothing, so warnings do not stop it.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::precheck::{PrecheckItem, Severity};
use pgconvoy_shared::unit::UnitKind;
use pgconvoy_shared::verify::Purpose;

use super::{lease_end, settle, stages};
use crate::command::Acknowledge;
use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{EventKind, Stage, TaskStatus, UnitState};

/// The cause of a task that waits for its warnings to be acknowledged.
pub(super) const PRECHECK_WARNINGS: &str = "precheck_warnings";

/// There is a precheck to run. False = there was one already.
pub(crate) fn ensure_precheck(clerk: &mut Clerk<'_>) -> bool {
    if super::open(clerk, UnitKind::Precheck) == 0 {
        clerk.add_unit(Subject::Precheck);
        return true;
    }
    let failed = clerk.task.index.failed.iter().copied().find(|no| {
        clerk.task.record.unit(*no).is_some_and(|unit| unit.subject == Subject::Precheck)
    });
    if let Some(no) = failed {
        clerk.edit_unit(no, |unit| {
            unit.state = UnitState::Ready;
            unit.trouble = None;
        });
    }
    failed.is_some()
}

/// Remembers warnings that shall not stop the task.
pub(crate) fn acknowledge(clerk: &mut Clerk<'_>, acknowledge: &Acknowledge) {
    let record = clerk.record();
    record.acknowledge_all |= acknowledge.all;
    let new: Vec<_> = acknowledge.codes.difference(&record.acknowledged).cloned().collect();
    if !new.is_empty() {
        let message = format!("acknowledged: {}", new.join(", "));
        record.acknowledged.extend(new);
        clerk.tell(EventKind::WarningsAcknowledged, message);
    }
}

/// Takes a precheck's report in. In a task that waits for it, the gate is asked.
pub(super) fn prechecked(clerk: &mut Clerk<'_>, no: UnitNo, items: &[PrecheckItem]) {
    settle(clerk, no);
    let at = clerk.at;
    let record = clerk.record();
    record.precheck.items = Arc::new(items.to_vec());
    record.precheck.ended = Some(at);
    record.precheck_asked = false;
    let count = |severity| items.iter().filter(|item| item.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    clerk.tell(
        EventKind::PrecheckEnded,
        format!("the precheck found {errors} errors and {warnings} warnings"),
    );
    let record = clerk.record();
    if record.status == TaskStatus::Running && record.stage == Stage::Precheck {
        gate(clerk);
    }
}

/// The report of a precheck that somebody asked for beside the work and that could not be made: it stops nothing else.
pub(super) fn gave_up(failure: &Failure) -> PrecheckItem {
    PrecheckItem {
        code: failure.code.clone(),
        side: None,
        object: failure.subject.clone(),
        severity: Severity::Error,
        observed: failure.message.clone(),
        required: "the precheck can look at both databases".to_owned(),
        remedy: failure.remedy.clone(),
    }
}

/// Lets the task go on, or says why not.
pub(super) fn gate(clerk: &mut Clerk<'_>) {
    let items = Arc::clone(&clerk.record().precheck.items);
    let codes = |severity| -> BTreeSet<String> {
        let of = items.iter().filter(move |item| item.severity == severity);
        of.map(|item| item.code.clone()).collect()
    };
    let errors = codes(Severity::Error);
    let warnings = codes(Severity::Warning);
    if clerk.record().acknowledge_all {
        acknowledge(clerk, &Acknowledge { codes: warnings.clone(), all: true });
    }
    let record = clerk.record();
    let open: Vec<_> = warnings.difference(&record.acknowledged).cloned().collect();
    if !errors.is_empty() {
        let errors: Vec<_> = errors.into_iter().collect();
        let failure = Failure::definite(
            "precheck_failed",
            format!("the precheck found errors: {}", errors.join(", ")),
        )
        .remedy("mend what the report names, then resume: the precheck runs again");
        lease_end::fail_task(clerk, failure);
    } else if record.purpose == Purpose::Precheck {
        clerk.set_stage(Stage::Ended);
        stages::end(clerk);
    } else if !open.is_empty() && record.migrates() {
        let failure = Failure::definite(
            PRECHECK_WARNINGS,
            format!("the precheck found warnings: {}", open.join(", ")),
        )
        .about(open.join(","))
        .remedy("read them, then resume with these codes acknowledged");
        lease_end::fail_task(clerk, failure);
    } else {
        let next = stages::next(Stage::Precheck, record);
        stages::enter(clerk, next);
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::{UnitKind, WorkResult};

    use crate::apply::story::{Story, error, warning};
    use crate::state::TaskStatus;

    fn prechecked(items: Vec<pgconvoy_shared::precheck::PrecheckItem>) -> Story {
        let mut story = Story::created("shop").with_agents(&["a"]);
        story.start();
        let held = story.lease("a", UnitKind::Precheck);
        story.done(&held, WorkResult::Precheck(items));
        story
    }

    #[test]
    fn errors_stop_the_task_and_resume_looks_again() {
        let mut story = prechecked(vec![error("no_such_database"), warning("slow_disk")]);
        assert_eq!(story.cause().code, "precheck_failed");
        story.resume_acknowledging(&["no_such_database", "slow_disk"]);
        let held = story.lease("a", UnitKind::Precheck);
        story.done(&held, WorkResult::Precheck(vec![warning("slow_disk")]));
        assert_eq!(story.status(), TaskStatus::Running);
        assert_eq!(story.counts(UnitKind::SchemaPre).ready, 1);
    }

    #[test]
    fn warnings_wait_to_be_acknowledged_by_code() {
        let mut story = prechecked(vec![warning("slow_disk"), warning("unlogged_tables")]);
        assert_eq!(story.cause().code, "precheck_warnings");
        story.resume_acknowledging(&["slow_disk"]);
        assert_eq!(story.cause().subject, "unlogged_tables", "without running again");
        story.resume_acknowledging(&["unlogged_tables"]);
        assert_eq!(story.status(), TaskStatus::Running);
        assert_eq!(story.counts(UnitKind::SchemaPre).ready, 1);
        assert_eq!(story.view().acknowledged, ["slow_disk", "unlogged_tables"]);
    }
}
