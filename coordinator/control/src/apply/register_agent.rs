//! `RegisterAgent`: an agent came, or came back.
//!
//! The same life again is a reconnect and changes no lease. A new life proves that nothing of the old one runs any more:
//! what it held is free at once, without waiting for a lease to end. A life that was followed by another one never comes
//! back: its request was under way while it died, and would take the leases of the one that lives.

use super::Context;
use super::lose_agent::{Departure, take_all_from};
use crate::command::RegisterAgent;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::Agent;

/// A request is not under way while its agent is started so many times more.
const FORMER_LIVES_MAX: usize = 16;

pub(super) fn register_agent(
    cx: &mut Context<'_>,
    register: &RegisterAgent,
) -> Result<Outcome, Rejected> {
    let (agent, incarnation) = (register.id.clone(), register.incarnation);
    let known = cx.state.agents.get(&agent);
    let draining = known.is_some_and(|known| known.draining);
    let mut former = known.map(|known| known.former.clone()).unwrap_or_default();
    if former.contains(&incarnation) {
        return Err(Rejected::FormerLife { agent, incarnation });
    }
    let before = known.map(|known| known.incarnation).filter(|before| *before != incarnation);
    let released = match before {
        Some(before) => {
            if former.len() == FORMER_LIVES_MAX {
                former.remove(0);
            }
            former.push(before);
            take_all_from(cx, &agent, Departure::NewLife)
        }
        None => 0,
    };
    cx.state.agents.put(Agent {
        id: agent,
        incarnation,
        site: register.site.clone(),
        slots: register.slots,
        version: register.version.clone(),
        pg_dump_majors: register.pg_dump_majors.clone(),
        address: register.address.clone(),
        draining,
        present: true,
        registered: cx.at,
        former,
    });
    Ok(Outcome::Registered { released, draining })
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::ids::Incarnation;
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;
    use crate::rejected::Rejected;

    #[test]
    fn a_new_life_frees_what_the_old_one_held_and_a_reconnect_does_not() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        assert_eq!(story.register("a", 1), 0, "the same life");
        assert_eq!(story.state.lease_count(&held.agent), 1);
        assert_eq!(story.register("a", 2), 1, "a new one");
        assert_eq!(story.state.lease_count(&held.agent), 0);
        assert!(!story.copied(&held, 10).is_accepted(), "the old one's result comes too late");
    }

    #[test]
    fn a_late_request_of_a_former_life_takes_nothing_from_the_present_one() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        story.register("a", 2);
        let held = story.lease("a", UnitKind::Copy);
        let late = story.register_anyhow("a", 1, 8);
        assert_eq!(
            late,
            Err(Rejected::FormerLife { agent: held.agent.clone(), incarnation: Incarnation(1) })
        );
        assert!(story.copied(&held, 10).is_accepted());
    }
}
