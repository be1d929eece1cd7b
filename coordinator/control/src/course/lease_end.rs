//! How leases end other than with a result, and what that means for the task.

use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::{AgentId, TableNo, UnitNo};
use pgconvoy_shared::retry::{self, Retry};
use pgconvoy_shared::unit::UnitKind;

use super::{aside, cutover, gate, plan, stages, verify};
use crate::outcome::Effect;
use crate::state::clerk::Clerk;
use crate::state::events::Telling;
use crate::state::unit::Subject;
use crate::state::{
    Afterwards, CutoverOutcome, EventKind, Stage, Table, TaskStatus, Trouble, UnitState,
};

/// A unit that was given back without a fault is not leased again at once: whatever made its agent give it back may last.
const PAUSE_AFTER_RELEASE_MS: u64 = 1_000;

/// A unit that lost so many agents in a row is told of, and again whenever they are twice as many. Two may be chance.
const LOSSES_TOLD: u32 = 4;

/// Tells every agent that runs a unit of this task to stop.
pub(crate) fn revoke_all(clerk: &mut Clerk<'_>, afterwards: Afterwards) {
    let leased: Vec<_> = clerk.task.index.leased.iter().copied().collect();
    for no in leased {
        revoke(clerk, no, afterwards);
    }
}

pub(super) fn revoke(clerk: &mut Clerk<'_>, no: UnitNo, afterwards: Afterwards) {
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
///
/// It may be the unit that its agents die of (its memory, say), and whatever else they run with them. So one that loses
/// agents again and again waits longer each time and goes to another agent if one can take it, and the task says so. It is
/// never given up for that: machines that fail one after another look just the same. Any answer on the unit, and an agent
/// that is stopped in good order answers for all its units, begins the count anew.
pub(crate) fn lease_lost(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let at = clerk.at;
    let lease = clerk.record().unit(no).and_then(|unit| unit.lease());
    let revoked = lease.and_then(|lease| lease.revoked);
    if revoked == Some(Afterwards::Dropped) {
        return dropped(clerk, no);
    }
    let mut losses = 0;
    clerk.edit_unit(no, |unit| {
        let trouble = unit.trouble.get_or_insert_default();
        trouble.lost_by = Some(agent.clone());
        unit.state = UnitState::Ready;
        // It was told to stop: whatever its agent died of, this unit was about to end.
        if revoked.is_none() {
            trouble.losses = trouble.losses.saturating_add(1);
            trouble.last_failed = at;
            losses = trouble.losses;
        }
        // The first one costs nothing: others' deaths are rare, and somebody should go on at once.
        if losses > 1 {
            trouble.avoid = Some(agent.clone());
            let not_before = at.plus_ms(retry::pause_ms(losses, salt(no)));
            unit.state = UnitState::BackOff { not_before };
        }
    });
    if losses >= LOSSES_TOLD && losses.is_power_of_two() {
        tell_losses(clerk, no, agent, losses);
    }
}

fn tell_losses(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId, losses: u32) {
    let record = clerk.record();
    let Some(unit) = record.unit(no) else { return };
    let what = record.describe(&unit.subject);
    let message = format!("{losses} agents in a row were lost while they ran {what}");
    let failure = Failure::transient("unit_loses_agents", message.clone()).about(what).remedy(
        "see in their machines' logs what ended them: for want of memory, give them more, or fewer slots; it is tried \
         again and again meanwhile",
    );
    clerk.edit_unit(no, |unit| {
        unit.trouble.get_or_insert_default().failure = Some(failure.clone());
    });
    clerk.tell_of(
        EventKind::UnitLosesAgents,
        message,
        Some(agent.clone()),
        Some(no),
        Some(failure),
    );
}

/// Spreads units that are tried again at the same time, alike on each node.
fn salt(no: UnitNo) -> u64 {
    u64::from(no.0)
}

/// The agent gave the unit back undone, of its own accord.
pub(crate) fn released(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let leaving = clerk.agents.get(agent).is_none_or(|agent| agent.draining);
    if leaving {
        clerk.edit_unit(no, |unit| {
            unit.state = UnitState::Ready;
            if let Some(trouble) = &mut unit.trouble {
                trouble.losses = 0;
            }
        });
    } else {
        back_off_shortly(clerk, no, agent);
    }
}

/// Not at once again, and by another agent if one can.
pub(super) fn back_off_shortly(clerk: &mut Clerk<'_>, no: UnitNo, agent: &AgentId) {
    let not_before = clerk.at.plus_ms(PAUSE_AFTER_RELEASE_MS);
    clerk.edit_unit(no, |unit| {
        unit.state = UnitState::BackOff { not_before };
        let trouble = unit.trouble.get_or_insert_default();
        trouble.avoid = Some(agent.clone());
        trouble.losses = 0;
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
    if kind == UnitKind::Cutover && cutover::is_undone_by_failure(clerk) {
        cutover::undo(clerk, no, failure);
        return;
    }
    if aside::is_refused(clerk, no, &failure) {
        return;
    }
    let record = clerk.record();
    let Some(unit) = record.unit(no) else { return };
    let known = unit.trouble.as_ref().map(|trouble| trouble.streak).unwrap_or_default();
    let ran_ms = unit.lease().map_or(0, |lease| at.since_ms(lease.since));
    let windows = record.spec.retry;
    let streak = known.and(failure.class, windows, ran_ms, at);
    let retry = retry::next(failure.class, windows, streak, at, salt(no));
    let trouble = Trouble {
        streak,
        losses: 0,
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
    let record = clerk.record();
    let waited_for = record.status == TaskStatus::Running && record.stage == Stage::Precheck;
    if kind == UnitKind::Precheck && !waited_for && record.status != TaskStatus::Cancelled {
        let report = gate::gave_up(&failure);
        tell_failure(clerk, no, agent, format!("{what} was given up"), failure);
        gate::prechecked(clerk, no, &[report]);
        return;
    }
    let status = record.status;
    match status {
        // The task goes on: nothing that it follows is in doubt.
        TaskStatus::Running if cutover::is_comparing(clerk) && verify::KINDS.contains(&kind) => {
            tell_failure(clerk, no, agent, format!("{what} was given up"), failure.clone());
            cutover::leave(clerk, CutoverOutcome::Undone(failure));
        }
        TaskStatus::Running => fail_task(clerk, failure),
        TaskStatus::Cancelled => {
            let message =
                format!("{what} was given up: something of the task may be left at the databases");
            let agent = Some(agent.clone());
            clerk.tell_of(EventKind::CleanedUp, message, agent, Some(no), Some(failure));
        }
        TaskStatus::Created | TaskStatus::Paused | TaskStatus::Failed | TaskStatus::Done => {
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
    clerk.tell_of(EventKind::TaskFailed, message, None, None, Some(failure.clone()));
    cutover::task_failed(clerk, failure);
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
    let subject = clerk.record().unit(no).map(|unit| &unit.subject);
    let (copies_it, plans_it) = match subject {
        Some(Subject::Copy { table: copied, .. }) => (*copied == table, false),
        Some(Subject::Plan(tables)) => (false, tables.contains(&table)),
        _ => (false, false),
    };
    if failure.class == FailureClass::Definite && (copies_it || plans_it) {
        let record = clerk.record();
        if !record.table(table).is_some_and(Table::is_copied_anew) {
            record.outdated.insert(table);
        }
        failed(clerk, no, agent, failure);
    } else if !copies_it {
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
    use crate::state::{EventKind, TaskStatus, UnitState};

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
    fn a_long_good_run_opens_a_new_window() {
        let mut story = copying();
        let failure = || Failure::other("odd", "something odd");
        let mut held = story.lease("a", UnitKind::Copy);
        story.fail(&held, failure());
        story.now = story.now.plus_ms(5_000);
        held.epoch = story.grant("a", &held.unit).expect("due");
        story.now = story.now.plus_ms(3_600_000);
        story.fail(&held, failure());
        assert_eq!(story.status(), TaskStatus::Running);
        assert_eq!(story.view().retrying[0].attempts, 1);
    }

    #[test]
    fn a_unit_that_its_agents_die_of_waits_longer_each_time_and_is_told_of() {
        let mut story = copying();
        let unit = story.ready_unit(UnitKind::Copy);
        let mut lives = 2..;
        let mut killed_once_more = |story: &mut Story| {
            story.now = story.now.plus_ms(30_000);
            story.grant("a", &unit).expect("due");
            story.register("a", lives.next().expect("a number"));
            match story.state.unit(&unit).expect("it exists").state {
                UnitState::BackOff { not_before } => not_before.since_ms(story.now),
                _ => 0,
            }
        };
        let pauses: Vec<_> = (0..4).map(|_| killed_once_more(&mut story)).collect();
        assert_eq!(pauses[0], 0, "somebody else goes on at once");
        assert!(pauses.is_sorted_by(|a, b| a < b), "{pauses:?}");
        assert!(story.event(EventKind::UnitLosesAgents).starts_with("4 agents in a row"));
        assert_eq!(story.view().retrying[0].attempts, 4);
        assert_eq!(story.status(), TaskStatus::Running);

        // An agent that is stopped in good order gives back what it runs.
        story.now = story.now.plus_ms(30_000);
        let epoch = story.grant("a", &unit).expect("due");
        let held = story.held("a", &unit, epoch);
        story.drain("a");
        story.release(&held);
        story.undrain("a");
        assert_eq!(killed_once_more(&mut story), 0);
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
    fn a_table_that_was_rewritten_before_it_is_planned_gets_a_new_snapshot_on_resume() {
        let mut story = Story::created("shop").with_agents(&["a"]);
        story.start();
        story.prepare("a", &[("public.orders", 1_000), ("public.t", 10)]);
        let held = story.lease("a", UnitKind::Plan);
        let failure = Failure::definite("table_rewritten", "rewritten since the snapshot");
        story.end(&held, Ended::TableChanged { table: TableNo(1), failure });
        assert_eq!(story.cause().code, "table_rewritten");
        story.resume();
        let waits = story.ready_unit(UnitKind::Plan);
        assert_eq!(story.grant("a", &waits), Err(Rejected::NotReady { unit: waits.clone() }));
        story.survey("a", 2, true);
        let plan = story.lease("a", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        assert_eq!(tables.len(), 2);
        assert!(tables.iter().all(|table| table.generation.0 == 2));
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
