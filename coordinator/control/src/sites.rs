//! Where the units of a task run, and which agents carry sessions for each other.
//!
//! A unit is run whole, by one agent. Where both databases are of one site (or one of them is of none), that agent is of
//! this site. Where they are of two, it is of the destination's, and opens its sessions with the source through agents of the
//! source's site: so what is decided at the destination never waits for the way between the sites.

use std::collections::BTreeSet;

use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::neighbours::{Neighbour, Neighbours};
use pgconvoy_shared::spec::TaskSpec;

use crate::state::{Agent, State};

/// The sites of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sites<'a> {
    /// Units run at agents of this one; none = anywhere.
    pub(crate) at: Option<&'a str>,
    /// And only while an agent of this one is there.
    pub(crate) with: Option<&'a str>,
}

impl<'a> Sites<'a> {
    pub(crate) fn of(spec: &'a TaskSpec) -> Self {
        let (source, destination) = (spec.source.site.as_deref(), spec.destination.site.as_deref());
        Self {
            at: destination.or(source),
            with: source.filter(|source| destination.is_some_and(|other| other != *source)),
        }
    }
}

/// Whom tasks that have something to do bring together with an agent.
#[must_use]
pub fn neighbours(state: &State, agent: &AgentId) -> Neighbours {
    let Some(me) = state.agent(agent).filter(|me| !me.site.is_empty()) else {
        return Neighbours::default();
    };
    let (mut partners, mut owners) = (BTreeSet::new(), BTreeSet::new());
    for id in &state.busy {
        let Some(task) = state.tasks.get(id) else { continue };
        if let Sites { at: Some(at), with: Some(with) } = Sites::of(&task.record.spec) {
            if me.site == at {
                partners.insert(with);
            }
            if me.site == with {
                owners.insert(at);
            }
        }
    }
    let of = |sites: &BTreeSet<&str>, also: fn(&Agent) -> bool| {
        if sites.is_empty() {
            return Vec::new();
        }
        let there = |agent: &&Agent| agent.present && sites.contains(agent.site.as_str());
        let there = state.agents().filter(there).filter(|agent| also(agent));
        there.map(neighbour).collect()
    };
    // One that drains opens no new sessions, and may still need some for what it runs.
    Neighbours { partners: of(&partners, |agent| !agent.draining), owners: of(&owners, |_| true) }
}

fn neighbour(agent: &Agent) -> Neighbour {
    Neighbour { agent: agent.id.clone(), site: agent.site.clone(), address: agent.address.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::story::{Story, agent_id, create, spec};

    #[test]
    fn units_run_at_the_destination() {
        let of = |source: Option<&str>, destination: Option<&str>| {
            let mut spec = spec("shop");
            spec.source.site = source.map(str::to_owned);
            spec.destination.site = destination.map(str::to_owned);
            let Sites { at, with } = Sites::of(&spec);
            (at.map(str::to_owned), with.map(str::to_owned))
        };
        let site = |name: &str| Some(name.to_owned());
        assert_eq!(of(None, None), (None, None));
        assert_eq!(of(Some("dc1"), None), (site("dc1"), None));
        assert_eq!(of(None, Some("cloud")), (site("cloud"), None));
        assert_eq!(of(Some("dc1"), Some("dc1")), (site("dc1"), None));
        assert_eq!(of(Some("dc1"), Some("cloud")), (site("cloud"), site("dc1")));
    }

    #[test]
    fn a_task_with_two_sites_brings_their_agents_together() {
        let mut story = Story::new();
        for (name, site) in [("a", "dc1"), ("b", "dc1"), ("c", "cloud"), ("d", ""), ("e", "moon")] {
            story.register_at(name, site);
        }
        let names = |story: &Story, agent: &str| {
            let Neighbours { partners, owners } = neighbours(&story.state, &agent_id(agent));
            let names = |all: Vec<Neighbour>| -> Vec<String> {
                all.into_iter().map(|each| each.agent.to_string()).collect()
            };
            (names(partners).concat(), names(owners).concat())
        };
        let pair = |partners: &str, owners: &str| (partners.to_owned(), owners.to_owned());
        assert_eq!(names(&story, "a"), pair("", ""), "nothing is to be done yet");
        let mut create = create("shop");
        create.spec.source.site = Some("dc1".into());
        create.spec.destination.site = Some("cloud".into());
        create.start = true;
        story.create(create);
        assert_eq!(names(&story, "a"), pair("", "c"));
        assert_eq!(names(&story, "c"), pair("ab", ""));
        for other in ["d", "e", "nobody"] {
            assert_eq!(names(&story, other), pair("", ""), "{other}");
        }
        story.drain("b");
        assert_eq!(names(&story, "c"), pair("a", ""));
        assert_eq!(names(&story, "b"), pair("", "c"));
        story.lose("a");
        assert_eq!(names(&story, "c"), pair("", ""));
    }
}
