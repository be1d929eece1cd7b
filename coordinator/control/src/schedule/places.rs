//! Free slots, and which agent takes a unit: the one with most of them, of those that may. Some units take none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::unit::UnitKind;

use super::{Observed, Reason};
use crate::liveness::Presence;
use crate::sites::Sites;
use crate::state::{Agent, State};

pub(super) struct Places<'a> {
    /// By site, agents with free slots, the most first.
    by_site: BTreeMap<&'a str, BTreeSet<(Reverse<u32>, &'a AgentId)>>,
    /// Where sessions can be opened for agents of other sites: that takes no slot.
    staffed: BTreeSet<&'a str>,
    state: &'a State,
    observed: &'a Observed<'a>,
}

impl<'a> Places<'a> {
    /// Slots of agents that are alive: nothing is leased to one of which this leader has not heard.
    pub(super) fn of(state: &'a State, observed: &'a Observed<'a>) -> Self {
        let mut by_site: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (agent, free) in state.agents.free() {
            if observed.presence(agent) == Presence::Alive {
                by_site.entry(agent.site.as_str()).or_default().insert((Reverse(free), &agent.id));
            }
        }
        let serves = |agent: &&Agent| !agent.site.is_empty() && !agent.draining;
        let staffed = state
            .agents()
            .filter(serves)
            .filter(|agent| observed.presence(agent) == Presence::Alive)
            .map(|agent| agent.site.as_str());
        Self { by_site, staffed: staffed.collect(), state, observed }
    }

    /// An agent of the task's site for a unit of this kind, and a slot of it where it takes one; not `avoid` if another one can.
    pub(super) fn take(
        &mut self,
        kind: UnitKind,
        sites: Sites<'_>,
        avoid: Option<&AgentId>,
    ) -> Result<&'a Agent, Reason> {
        let allowed = |site: &str| sites.at.is_none_or(|wanted| wanted == site);
        if sites.with.is_some_and(|with| !self.staffed.contains(with)) {
            return Err(self.why_none(|site| Some(site) == sites.with));
        }
        if !kind.takes_slot() {
            return self.beyond_slots(allowed, avoid).ok_or_else(|| self.why_none(allowed));
        }
        let best = |avoid: Option<&AgentId>| {
            self.by_site
                .iter()
                .filter(|(site, _)| allowed(site))
                .filter_map(|(site, agents)| {
                    let mut usable = agents.iter().filter(|(_, id)| Some(*id) != avoid);
                    usable.next().map(|place| (*place, *site))
                })
                .min()
        };
        let found = best(avoid).or_else(|| best(None));
        let Some((place @ (Reverse(free), id), site)) = found else {
            return Err(self.why_none(allowed));
        };
        if let Some(agents) = self.by_site.get_mut(site) {
            agents.remove(&place);
            if free > 1 {
                agents.insert((Reverse(free - 1), id));
            }
        }
        self.state.agents.get(id).ok_or(Reason::AgentsFull)
    }

    /// One that may be full; if there is a choice, that with the most room.
    fn beyond_slots(
        &self,
        allowed: impl Fn(&str) -> bool,
        avoid: Option<&AgentId>,
    ) -> Option<&'a Agent> {
        let may = |agent: &&Agent| {
            let takes = agent.present && !agent.draining && allowed(&agent.site);
            takes && self.observed.presence(agent) == Presence::Alive
        };
        let agents = &self.state.agents;
        agents.iter().filter(may).min_by_key(|agent| {
            let id = &agent.id;
            (Some(id) == avoid, Reverse(agents.free_slots(id)), agents.held_count(id))
        })
    }

    fn why_none(&self, allowed: impl Fn(&str) -> bool) -> Reason {
        let mut present = self.state.agents().filter(|agent| agent.present).peekable();
        if present.peek().is_none() {
            Reason::NoAgent
        } else if present.any(|agent| allowed(&agent.site)) {
            Reason::AgentsFull
        } else {
            Reason::NoAgentOfSite
        }
    }
}
