//! `RegisterAgent`: an agent came, or came back.
//!
//! The same life again is a reconnect and changes no lease. A new life proves that nothing of the old one runs any more:
//! what it held is free at once, without waiting for a lease to end.

use super::Context;
use super::lose_agent::{Departure, take_all_from};
use crate::command::RegisterAgent;
use crate::outcome::Outcome;
use crate::state::Agent;

pub(super) fn register_agent(cx: &mut Context<'_>, register: &RegisterAgent) -> Outcome {
    let known = cx.state.agents.get(&register.id);
    let draining = known.is_some_and(|agent| agent.draining);
    let released = match known {
        Some(agent) if agent.incarnation != register.incarnation => {
            take_all_from(cx, &register.id, Departure::NewLife)
        }
        Some(_) | None => 0,
    };
    cx.state.agents.put(Agent {
        id: register.id.clone(),
        incarnation: register.incarnation,
        site: register.site.clone(),
        slots: register.slots,
        version: register.version.clone(),
        pg_dump_majors: register.pg_dump_majors.clone(),
        address: register.address.clone(),
        draining,
        present: true,
        registered: cx.at,
    });
    Outcome::Registered { released, draining }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;

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
}
