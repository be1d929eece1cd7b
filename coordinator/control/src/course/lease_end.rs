//! How leases end other than with a result, and what that means for the task.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo, UnitNo};
use pgconvoy_shared::retry::{self, Retry};
use pgconvoy_shared::unit::UnitKind;

use super::{plan, stages};
use crate::outcome::Effect;
use crate::state::clerk::Clerk;
use crate::state::events::Telling;
use crate::state::unit::Subject;
use crate::state::{Afterwards, EventKind, TaskStatus, Trouble, UnitState};

/// A unit that was given back without a fault is not leased again at once: whatever made its agent give it back may last.
const PAUSE_AFTER_RELEASE_MS: u64 = 1_000;

/// Tells every agent that runs a unit of this task to stop.
pub(crate) fn revoke_all(clerk: &mut Clerk<'_>, afterwards: Afterwards) {
    let leased: Vec<_> = clerk.task.index.leased.iter().copied().collect();
    for no in leased {
        revoke(clerk, no, afterwards);
    }
}

fn revoke(clerk: &mut Clerk<'_>, no: UnitNo, afterwards: Afterwards) {
    let id = clerk.record().unit_id(no);
    let mut effect = None;
    clerk.edit_unit(no, |unit| {
        let epoch = unit.epoch;
        if let UnitState::Leased(lease) = &mut unit.state {
            // A unit that is of no use any more does not become useful by being revoked again.
            if lease.revoked != Some(Afterwards::Dropped) {
                lease.revoked = Some(afterwards);
            }
            effect = Some(Effect::Revoke { unit: id, agent: lease.agent.clone(), epoch });
        }
    });
    clerk.effects.extend(effect);
}

/// A unit is of no use any more, done or not.
pub(super) fn drop_unit(clerk: &mut Clerk<'_>, no: UnitNo) {
    match clerk.record().unit(no).map(|unit| &unit.state) {
        Some(UnitState::Leased(_)) => revoke(clerk, no, Afterwards::Dropped),
        Some(
            UnitState::Ready | UnitState::BackOff { .. } | UnitState::Done(_) | UnitState::Failed,
        ) => clerk.edit_unit(no, |unit| {
            unit.state = UnitState::Dropped;
            unit.trouble = None;
        }),
        Some(UnitState::Dropped) | None => {}
    }
}

/// The lease of a unit that is of no use any more has ended, however. It may have been the last that its stage waited for.
pub(crate) fn dropped(clerk: &mut Clerk<'_>, no: UnitNo) {
    clerk.set(no, UnitState::Dropped);
    stages::advance(clerk);
}

/// The agent is lost, or lives anew: the unit is free, or dropped if it was to be.
pub(crate) fn lease_lost(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let lease = clerk.record().unit(no).and_then(|unit| unit.lease());
    if lease.and_then(|lease| lease.revoked) == Some(Afterwards::Dropped) {
        dropped(clerk, no);
    } else {
        clerk.edit_unit(no, |unit| {
            unit.state = UnitState::Ready;
            unit.trouble.get_or_insert_default().lost_by = Some(agent.clone());
        });
    }
}

/// The agent gave the unit back undone, of its own accord.
pub(crate) fn released(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let leaving = clerk.agents.get(agent).is_none_or(|agent| agent.draining);
    if leaving {
        clerk.set(no, UnitState::Ready);
    } else {
        back_off_shortly(clerk, no, agent);
    }
}

/// Not at once again, and by another agent if one can.
pub(super) fn back_off_shortly(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let not_before = clerk.at.plus_ms(PAUSE_AFTER_RELEASE_MS);
    clerk.edit_unit(no, |unit| {
        unit.state = UnitState::BackOff { not_before };
        unit.trouble.get_or_insert_default().avoid = Some(agent.clone());
    });
}

/// A unit failed: it is tried again within the window of its failure's class, or the task fails.
pub(crate) fn failed(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId, failure: Failure) {
    let at = clerk.at;
    let record = clerk.record();
    let Some(unit) = record.unit(no) else {
        debug_assert!(false, "the unit was looked up before");
        return;
    };
    let what = record.describe(&unit.subject);
    let kind = unit.subject.kind();
    let failure = if failure.subject.is_empty() { failure.about(&what) } else { failure };
    let known = unit.trouble.as_deref().cloned().unwrap_or_default();
    let failures = known.failures.saturating_add(1);
    let first_failed = if known.failures == 0 { at } else { known.first_failed };
    let salt = u64::from(no.0);
    let retry = retry::next(failure.class, record.spec.retry, failures, first_failed, at, salt);
    let trouble = Trouble {
        failures,
        first_failed,
        last_failed: at,
        failure: Some(failure.clone()),
        avoid: Some(agent.clone()),
        lost_by: None,
    };
    clerk.edit_unit(no, |unit| {
        unit.trouble = Some(Box::new(trouble));
        unit.state = match retry {
            Retry::At(not_before) => UnitState::BackOff { not_before },
            Retry::GiveUp => UnitState::Failed,
        };
    });
    match retry {
        Retry::At(_) => tell_failure(clerk, no, agent, format!("{what} failed"), failure),
        Retry::GiveUp => given_up(clerk, no, agent, kind, &what, failure),
    }
}

fn given_up(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    agent: &AgentId,
    kind: UnitKind,
    what: &str,
    failure: Failure,
) {
    match clerk.record().status {
        TaskStatus::Running => fail_task(clerk, failure),
        TaskStatus::Cancelled => {
            let message =
                format!("{what} was given up: something of the task may be left at the databases");
            let agent = Some(agent.clone());
            clerk.tell_of(EventKind::CleanedUp, message, agent, Some(no), Some(failure));
        }
        // A precheck that was asked for while the task does not run: its status stays.
        TaskStatus::Created | TaskStatus::Paused | TaskStatus::Failed | TaskStatus::Done => {
            if kind == UnitKind::Precheck {
                clerk.record().precheck_asked = false;
            }
            tell_failure(clerk, no, agent, format!("{what} was given up"), failure);
        }
    }
}

fn tell_failure(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    agent: &AgentId,
    message: String,
    failure: Failure,
) {
    let at = clerk.at;
    let message = match clerk.record().events.may_tell_failure(at) {
        Telling::Tell => message,
        Telling::TellAsLast => format!("{message}; more failures in this minute are not listed"),
        Telling::KeepQuiet => return,
    };
    let agent = Some(agent.clone());
    clerk.tell_of(EventKind::UnitFailed, message, agent, Some(no), Some(failure));
}

/// The task stops with this cause and keeps what it has; `resume` tries again.
pub(super) fn fail_task(clerk: &mut Clerk<'_>, failure: Failure) {
    let at = clerk.at;
    let record = clerk.record();
    record.status = TaskStatus::Failed;
    record.ended = Some(at);
    record.cause = Some(failure.clone());
    let message = failure.message.clone();
    clerk.tell_of(EventKind::TaskFailed, message, None, None, Some(failure));
    revoke_all(clerk, Afterwards::Ready);
}

/// The table is not as planned: planned anew under the next generation, unless that would not help.
pub(crate) fn table_changed(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    agent: &AgentId,
    table: TableNo,
    failure: Failure,
) {
    use pgconvoy_shared::failure::FailureClass;

    let copies_it = clerk.record().unit(no).is_some_and(
        |unit| matches!(unit.subject, Subject::Copy { table: copied, .. } if copied == table),
    );
    if !copies_it {
        failed(clerk, no, agent, failure);
    } else if failure.class == FailureClass::Definite {
        clerk.record().outdated.insert(table);
        failed(clerk, no, agent, failure);
    } else {
        // The lease ends here, so that the unit is dropped at once, like its table's others.
        clerk.set(no, UnitState::Ready);
        let name = clerk.record().table(table).map(|table| table.surveyed.name.to_string());
        let name = name.unwrap_or_default();
        let message = format!("{name} changed and is planned anew: {}", failure.message);
        let agent = Some(agent.clone());
        clerk.tell_of(EventKind::TablePlannedAnew, message, agent, None, Some(failure));
        plan::anew(clerk, table);
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::ids::TableNo;
    use pgconvoy_shared::unit::{Ended, UnitKind, Work};

    use crate::apply::story::Story;
    use crate::rejected::Rejected;
    use crate::state::{EventKind, TaskStatus};

    fn copying() -> Story {
        Story::copying(&[("public.orders", 3)]).with_agents(&["a", "b"])
    }

    #[test]
    fn what_may_pass_is_tried_again_after_a_pause() {
        let mut story = copying();
        let held = story.lease("a", UnitKind::Copy);
        story.fail(&held, Failure::transient("connection_lost", "connection reset"));
        assert_eq!(story.status(), TaskStatus::Running);
        assert_eq!(story.view().retrying[0].attempts, 1);
        assert!(matches!(story.grant("b", &held.unit), Err(Rejected::BackedOff { .. })));
        story.now = story.now.plus_ms(500);
        assert!(story.grant("b", &held.unit).is_ok());
    }

    #[test]
    fn a_window_that_is_over_fails_the_task_and_resume_opens_a_new_one() {
        let mut story = copying();
        let mut held = story.lease("a", UnitKind::Copy);
        let failure = Failure::other("odd", "something odd");
        story.fail(&held, failure.clone());
        story.now = story.now.plus_ms(10_000);
        held.epoch = story.grant("a", &held.unit).expect("due");
        story.fail(&held, failure.clone());
        assert_eq!(story.cause().code, "odd");
        assert_eq!(story.cause().subject, "copy public.orders shard 0");
        story.resume();
        held.epoch = story.grant("a", &held.unit).expect("ready at once");
        story.fail(&held, failure);
        assert_eq!(story.status(), TaskStatus::Running);
    }

    #[test]
    fn what_cannot_be_mended_by_trying_again_fails_the_task_at_once() {
        let mut story = copying();
        let other = story.lease("b", UnitKind::Copy);
        let held = story.lease("a", UnitKind::Copy);
        story.fail(&held, Failure::definite("wrong_password", "password rejected"));
        assert_eq!(story.cause().code, "wrong_password");
        assert!(story.copied(&other, 10).is_accepted(), "what ends well still counts");
        assert_eq!(story.view().rows_done, 10);
    }

    #[test]
    fn a_changed_table_is_planned_anew_under_the_next_generation() {
        let mut story = copying();
        let done = story.lease("a", UnitKind::Copy);
        story.copied(&done, 10);
        let other = story.lease("b", UnitKind::Copy);
        let held = story.lease("a", UnitKind::Copy);
        let changed = Ended::TableChanged {
            table: TableNo(0),
            failure: Failure::other("columns_changed", "a column was added"),
        };
        story.end(&held, changed);
        assert_eq!(story.view().rows_done, 0);
        assert!(story.event(EventKind::TablePlannedAnew).contains("public.orders"));
        story.release(&other);
        assert_eq!(story.counts(UnitKind::Copy).total, 0);
        let plan = story.lease("a", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        assert_eq!(tables[0].generation.0, 2);
        story.plan_into(&plan, &[("public.orders", 2)]);
        assert_eq!(story.finish_all("a", UnitKind::Copy), 2);
        assert_eq!(story.counts(UnitKind::Audit).ready, 1);
    }

    #[test]
    fn a_stage_does_not_wait_for_a_dropped_unit_that_ends_last() {
        let changed = Ended::TableChanged {
            table: TableNo(0),
            failure: Failure::other("columns_changed", "a column was added"),
        };
        for lost in [false, true] {
            let mut story = Story::copying(&[("public.orders", 2)]).with_agents(&["a", "b"]);
            let slow = story.lease("b", UnitKind::Copy);
            let held = story.lease("a", UnitKind::Copy);
            story.end(&held, changed.clone());
            let plan = story.lease("a", UnitKind::Plan);
            story.plan_into(&plan, &[("public.orders", 1)]);
            story.finish_all("a", UnitKind::Copy);
            assert_eq!(story.counts(UnitKind::Audit).total, 0);
            if lost {
                story.lose("b");
            } else {
                story.release(&slow);
            }
            assert_eq!(story.counts(UnitKind::Audit).ready, 1);
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_under_the_snapshot_gets_a_new_one_on_resume() {
        let mut story = copying();
        let held = story.lease("a", UnitKind::Copy);
        let rewritten = Ended::TableChanged {
            table: TableNo(0),
            failure: Failure::definite("table_rewritten", "rewritten since the snapshot"),
        };
        story.end(&held, rewritten);
        assert_eq!(story.cause().code, "table_rewritten");
        story.resume();
        let Work::Survey(survey) = ({
            let held = story.lease("a", UnitKind::Survey);
            let work = story.work(&held);
            story.release(&held);
            work
        }) else {
            panic!("a survey")
        };
        assert_eq!((survey.round, survey.lost), (2, None));
    }

    #[test]
    fn a_parts_gap_is_a_failure_and_not_a_hang() {
        let mut story = Story::created("shop").with_agents(&["a"]);
        story.start();
        let held = story.lease("a", UnitKind::Precheck);
        let done = Ended::Done(pgconvoy_shared::unit::WorkResult::Finish);
        story.end(&held, done);
        assert_eq!(story.view().retrying[0].failure.code, "bad_result");
    }
}
