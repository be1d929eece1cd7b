//! `LoseAgent`: what an agent held is free, and its exports of snapshots are gone.
//!
//! Proposed by a leader that has not heard of the agent for a lease time, counted so that the agent has stopped by itself
//! before (see [`crate::liveness`]); or when the agent said good-bye.

use pgconvoy_shared::ids::{AgentId, Incarnation, TaskId, UnitNo};

use super::Context;
use crate::course;
use crate::outcome::Outcome;
use crate::state::EventKind;

/// Why an agent's leases end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Lost,
    NewLife,
}

pub(super) fn lose_agent(cx: &mut Context<'_>, id: &AgentId, incarnation: Incarnation) -> Outcome {
    if !cx.state.agents.is_present(id, incarnation) {
        return Outcome::Agent { changed: false };
    }
    cx.state.agents.change(id, |agent| agent.present = false);
    take_all_from(cx, id, Departure::Lost);
    Outcome::Agent { changed: true }
}

/// Ends all leases of an agent and drops its exports; says how many leases there were.
pub(super) fn take_all_from(cx: &mut Context<'_>, id: &AgentId, why: Departure) -> u32 {
    let held: Vec<_> = cx.state.agents.held(id).cloned().collect();
    let mut left = held.as_slice();
    let mut released = 0;
    // Units are sorted by task; tasks without a lease may still have an export of this agent.
    let busy: Vec<TaskId> = cx.state.busy.iter().cloned().collect();
    for task in busy {
        let of_task = left.iter().take_while(|unit| unit.task == task).count();
        let (units, rest) = left.split_at(of_task);
        left = rest;
        let units: Vec<UnitNo> = units.iter().map(|unit| unit.no).collect();
        released += crate::state::count(units.len());
        let gone = cx.with_task(&task, |clerk| {
            if !units.is_empty() {
                let what = match why {
                    Departure::Lost => "was lost",
                    Departure::NewLife => "came back as a new process",
                };
                let count = units.len();
                let message = format!("agent {id} {what} while it held {count} units");
                clerk.tell_of(EventKind::AgentLost, message, Some(id.clone()), None, None);
            }
            for no in units {
                course::lease_lost(clerk, no, id);
            }
            course::exports_gone(clerk, std::slice::from_ref(id));
            Ok(())
        });
        debug_assert!(gone.is_ok(), "busy tasks exist");
    }
    debug_assert!(left.is_empty(), "whoever holds a unit keeps its task busy");
    released
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;
    use crate::outcome::Reception;
    use crate::rejected::Rejected;
    use crate::state::EventKind;

    #[test]
    fn a_late_result_of_a_lost_agent_is_refused() {
        let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a", "b"]);
        let first = story.lease("a", UnitKind::Copy);
        story.lose("a");
        let second = story.lease("b", UnitKind::Copy);
        assert_eq!(second.unit, first.unit);
        assert_eq!(
            story.copied(&first, 10),
            Reception::Refused(Rejected::StaleEpoch {
                unit: first.unit.clone(),
                reported: first.epoch,
                current: second.epoch,
            })
        );
        assert_eq!(story.copied(&second, 10), Reception::Taken);
        assert_eq!(
            story.event(EventKind::UnitMoved),
            "copy public.orders shard 0: lost by agent a, leased to b under epoch 2"
        );
    }
}
