//! Free slots, and which agent takes a unit: the one with most of them, of those that may.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_shared::ids::AgentId;

use super::{Observed, Reason};
use crate::liveness::Presence;
use crate::state::{Agent, State};

pub(super) struct Places<'a> {
    /// By site, agents with free slots, the most first.
    by_site: BTreeMap<&'a str, BTreeSet<(Reverse<u32>, &'a AgentId)>>,
    state: &'a State,
}

impl<'a> Places<'a> {
    /// Slots of agents that are alive: nothing is leased to one of which this leader has not heard.
    pub(super) fn of(state: &'a State, observed: &Observed<'_>) -> Self {
        let mut by_site: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (agent, free) in state.agents.free() {
            if observed.presence(agent) == Presence::Alive {
                by_site.entry(agent.site.as_str()).or_default().insert((Reverse(free), &agent.id));
            }
        }
        Self { by_site, state }
    }

    /// Takes a slot at an agent that is at each of the sites named; not at `avoid` if another one can.
    pub(super) fn take(
        &mut self,
        sites: [Option<&str>; 2],
        avoid: Option<&AgentId>,
    ) -> Result<&'a Agent, Reason> {
        let allowed = |site: &str| sites.iter().flatten().all(|wanted| *wanted == site);
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
