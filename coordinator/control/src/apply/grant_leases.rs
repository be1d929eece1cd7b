//! `GrantLeases`: a ready unit becomes an agent's, under the next epoch.
//!
//! The scheduler chose from what its leader saw; here it is checked again against what the log says. Limits of the task
//! are the scheduler's alone: to overstep them for a moment harms nobody.

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::unit::UnitKind;

use super::Context;
use crate::command::Grant;
use crate::outcome::{Effect, Outcome};
use crate::rejected::Rejected;
use crate::state::clerk::Clerk;
use crate::state::unit::is_due;
use crate::state::{EventKind, Lease, State, UnitState};

pub(super) fn grant_leases(cx: &mut Context<'_>, grants: &[Grant]) -> Outcome {
    let granted = grants
        .iter()
        .map(|grant| {
            check_agent(cx.state, grant)?;
            cx.with_task(&grant.unit.task, |clerk| lease(clerk, grant))
        })
        .collect();
    Outcome::Granted(granted)
}

fn check_agent(state: &State, grant: &Grant) -> Result<(), Rejected> {
    let agent = grant.agent.clone();
    if !state.agents.is_present(&agent, grant.incarnation) {
        return Err(Rejected::NotPresent { agent, incarnation: grant.incarnation });
    }
    if state.agents.get(&agent).is_some_and(|agent| agent.draining) {
        return Err(Rejected::Draining { agent });
    }
    let unit = state.tasks.get(&grant.unit.task).and_then(|task| task.record.unit(grant.unit.no));
    let takes_slot = unit.is_some_and(|unit| unit.subject.kind().takes_slot());
    if takes_slot && state.agents.free_slots(&agent) == 0 {
        return Err(Rejected::NoFreeSlot { agent });
    }
    Ok(())
}

fn lease(clerk: &mut Clerk<'_>, grant: &Grant) -> Result<Epoch, Rejected> {
    let at = clerk.at;
    let record = clerk.record();
    let id = &grant.unit;
    let unit = record.unit(id.no).ok_or_else(|| Rejected::UnknownUnit { unit: id.clone() })?;
    if !record.may_run(unit.subject.kind()) {
        return Err(Rejected::NotReady { unit: id.clone() });
    }
    match unit.state {
        UnitState::Ready => {}
        UnitState::BackOff { not_before } if is_due(not_before, at) => {}
        UnitState::BackOff { not_before } => {
            return Err(Rejected::BackedOff { unit: id.clone(), not_before });
        }
        UnitState::Leased(_) | UnitState::Done(_) | UnitState::Failed | UnitState::Dropped => {
            return Err(Rejected::NotReady { unit: id.clone() });
        }
    }
    // What removes the task's traces comes after the last unit that could leave one (law O9).
    if unit.subject.kind() == UnitKind::Finish && !clerk.task.ends_alone() {
        return Err(Rejected::NotReady { unit: id.clone() });
    }
    let record = clerk.record();
    let unit = record.unit(id.no).ok_or_else(|| Rejected::UnknownUnit { unit: id.clone() })?;
    let epoch = unit.epoch.next();
    let lost_by = unit.trouble.as_ref().and_then(|trouble| trouble.lost_by.clone());
    if let Some(lost_by) = lost_by {
        let agent = &grant.agent;
        let what = record.describe(&unit.subject);
        let message =
            format!("{what}: lost by agent {lost_by}, leased to {agent} under epoch {epoch}");
        clerk.tell_of(EventKind::UnitMoved, message, Some(agent.clone()), Some(id.no), None);
    }
    clerk.edit_unit(id.no, |unit| {
        unit.epoch = epoch;
        unit.state = UnitState::Leased(Box::new(Lease {
            agent: grant.agent.clone(),
            incarnation: grant.incarnation,
            since: at,
            revoked: None,
            staged: Vec::new(),
        }));
        if let Some(trouble) = &mut unit.trouble {
            trouble.lost_by = None;
        }
    });
    clerk.effects.push(Effect::Lease {
        unit: id.clone(),
        agent: grant.agent.clone(),
        incarnation: grant.incarnation,
        epoch,
    });
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::{Story, agent_id};
    use crate::rejected::Rejected;

    #[test]
    fn a_unit_has_one_owner_and_an_agent_no_more_than_its_slots() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a", "b"]);
        let held = story.lease("a", UnitKind::Copy);
        assert_eq!(
            story.grant("b", &held.unit),
            Err(Rejected::NotReady { unit: held.unit.clone() })
        );
        story.slots("b", 1);
        let other = story.lease("b", UnitKind::Copy);
        assert_ne!(other.unit, held.unit);
        let third = story.ready_unit(UnitKind::Copy);
        assert_eq!(story.grant("b", &third), Err(Rejected::NoFreeSlot { agent: agent_id("b") }));
        story.drain("a");
        assert_eq!(story.grant("a", &third), Err(Rejected::Draining { agent: agent_id("a") }));
    }
}
