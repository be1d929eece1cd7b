//! Who is alive: the leader's memory of heartbeats, never an entry of the log.
//!
//! An answered heartbeat renews all leases of its agent for one lease time, counted by the agent from when it *sent* it.
//! The leader counts from when the heartbeat *arrived*, which is later; so when one lease time without a heartbeat has
//! passed here, the agent has stopped its units by itself. Three rules make that hold:
//!
//! 1. A new leader knows nothing of the heartbeats that older leaders answered. All of them arrived before it was
//!    elected (an older leader answers only after a quorum confirmed it, later than the arrival), so it counts every
//!    agent from its own election: what it has not heard of is *unknown*, not lost.
//! 2. Whoever was found lost is *condemned*: its heartbeats are not answered any more until it has registered again. A
//!    heartbeat that arrives while `LoseAgent` is on its way must not renew leases that are about to be another's.
//! 3. Times are monotonic milliseconds of this process, of the arrival; nobody's wall clock matters.

use std::collections::BTreeMap;

use pgconvoy_shared::ids::{AgentId, Incarnation};

use crate::command::Command;
use crate::state::State;

/// What a leader thinks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Heard of within a lease time.
    Alive,
    /// Not heard of by this leader, which does not lead for a lease time yet.
    Unknown,
    /// Not heard of for a lease time.
    Lost,
}

#[derive(Debug, Clone)]
struct Heard {
    incarnation: Incarnation,
    at_ms: u64,
    condemned: bool,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Liveness {
    lease_ms: u64,
    elected_ms: u64,
    heard: BTreeMap<AgentId, Heard>,
}

impl Liveness {
    /// The memory of a leader elected at this time.
    #[must_use]
    pub fn new(lease_ms: u64, elected_ms: u64) -> Self {
        Self { lease_ms, elected_ms, heard: BTreeMap::new() }
    }

    /// A heartbeat arrived. False = it must not be answered: the agent has to register first.
    ///
    /// Once noted it may be answered as soon as a quorum confirms, later than `arrived_ms`, that this node still leads,
    /// if [`Liveness::may_answer`] holds then, too.
    #[must_use]
    pub fn note(&mut self, agent: &AgentId, incarnation: Incarnation, arrived_ms: u64) -> bool {
        match self.heard.get(agent) {
            Some(heard) if heard.incarnation == incarnation && !heard.condemned => {
                let at_ms = heard.at_ms.max(arrived_ms);
                self.put(agent, Heard { incarnation, at_ms, condemned: false });
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether a heartbeat that was noted may still be answered: asked after leadership was confirmed.
    #[must_use]
    pub fn may_answer(&self, agent: &AgentId, incarnation: Incarnation) -> bool {
        self.heard
            .get(agent)
            .is_some_and(|heard| heard.incarnation == incarnation && !heard.condemned)
    }

    /// The agent's registration, whose request arrived at this time, was applied.
    pub fn registered(&mut self, agent: &AgentId, incarnation: Incarnation, arrived_ms: u64) {
        self.put(agent, Heard { incarnation, at_ms: arrived_ms, condemned: false });
    }

    /// What is thought of an agent now.
    #[must_use]
    pub fn presence(&self, agent: &AgentId, incarnation: Incarnation, now_ms: u64) -> Presence {
        match self.heard.get(agent) {
            Some(heard) if heard.incarnation == incarnation => {
                if heard.condemned || self.is_over(heard.at_ms, now_ms) {
                    Presence::Lost
                } else {
                    Presence::Alive
                }
            }
            // The state has a life that this leader is just about to be told of, by [`Liveness::registered`].
            Some(_) => Presence::Unknown,
            None if self.is_over(self.elected_ms, now_ms) => Presence::Lost,
            None => Presence::Unknown,
        }
    }

    /// Condemns who is lost now, and says what to propose. To be asked at each tick; a proposal that failed is repeated.
    #[must_use]
    pub fn condemn(&mut self, state: &State, now_ms: u64) -> Vec<Command> {
        let lost: Vec<_> = state
            .agents()
            .filter(|agent| {
                agent.present
                    && self.presence(&agent.id, agent.incarnation, now_ms) == Presence::Lost
            })
            .map(|agent| (agent.id.clone(), agent.incarnation))
            .collect();
        let condemned = lost.into_iter().map(|(agent, incarnation)| {
            self.said_goodbye(&agent, incarnation);
            Command::LoseAgent { agent, incarnation }
        });
        condemned.collect()
    }

    /// The agent has left, or is to be treated so: nothing more is answered to this life of it before it registers again.
    pub fn said_goodbye(&mut self, agent: &AgentId, incarnation: Incarnation) {
        match self.heard.get_mut(agent) {
            Some(heard) if heard.incarnation == incarnation => heard.condemned = true,
            // A later life is not meant.
            Some(_) => {}
            None => {
                let heard = Heard { incarnation, at_ms: self.elected_ms, condemned: true };
                self.put(agent, heard);
            }
        }
    }

    /// When the agent was last heard of.
    #[must_use]
    pub fn last_heard_ms(&self, agent: &AgentId) -> Option<u64> {
        self.heard.get(agent).filter(|heard| !heard.condemned).map(|heard| heard.at_ms)
    }

    fn is_over(&self, since_ms: u64, now_ms: u64) -> bool {
        now_ms >= since_ms.saturating_add(self.lease_ms)
    }

    fn put(&mut self, agent: &AgentId, heard: Heard) {
        self.heard.insert(agent.clone(), heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::story::{Story, agent_id};

    const LIFE: Incarnation = Incarnation(1);

    fn lost(agent: &str) -> Vec<Command> {
        vec![Command::LoseAgent { agent: agent_id(agent), incarnation: LIFE }]
    }

    #[test]
    fn a_new_leader_counts_nobody_as_lost_before_a_lease_time() {
        let story = Story::new().with_agents(&["a"]);
        let mut liveness = Liveness::new(10_000, 5_000);
        assert_eq!(liveness.presence(&agent_id("a"), LIFE, 14_999), Presence::Unknown);
        assert_eq!(liveness.condemn(&story.state, 14_999), []);
        assert_eq!(liveness.condemn(&story.state, 15_000), lost("a"));
    }

    #[test]
    fn a_condemned_agent_is_not_answered_until_it_registered_again() {
        let story = Story::new().with_agents(&["a"]);
        let a = agent_id("a");
        let mut liveness = Liveness::new(10_000, 0);
        liveness.registered(&a, LIFE, 1_000);
        assert!(liveness.note(&a, LIFE, 3_000));
        assert_eq!(liveness.condemn(&story.state, 12_999), []);
        assert_eq!(liveness.condemn(&story.state, 13_000), lost("a"));
        assert!(!liveness.note(&a, LIFE, 13_001));
        assert!(!liveness.may_answer(&a, LIFE));
        assert_eq!(liveness.condemn(&story.state, 13_500), lost("a"), "until it is applied");
        liveness.registered(&a, LIFE, 14_000);
        assert!(liveness.note(&a, LIFE, 14_001));
    }

    #[test]
    fn another_life_is_another_agent() {
        let mut liveness = Liveness::new(10_000, 0);
        let a = agent_id("a");
        liveness.registered(&a, LIFE, 1_000);
        assert!(!liveness.note(&a, Incarnation(2), 1_001));
        assert_eq!(liveness.presence(&a, Incarnation(2), 1_001), Presence::Unknown);
        liveness.registered(&a, Incarnation(2), 1_002);
        assert!(!liveness.note(&a, LIFE, 1_003), "a heartbeat of the old life comes too late");
    }
}
