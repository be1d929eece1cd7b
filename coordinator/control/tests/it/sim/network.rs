//! Messages between agents and leaders: lost, repeated, late, out of order; cut off for a while.

use std::collections::BTreeMap;

use pgconvoy_control::command::ReportBody;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{TaskId, UnitId};
use pgconvoy_shared::unit::Work;

use super::world::{Event, World};

#[derive(Debug, Clone)]
pub(super) enum ToLeader {
    Hello {
        incarnation: u64,
        running: Vec<(UnitId, Epoch)>,
    },
    /// The answer to a question of this term's leader.
    Present {
        term: u64,
        question: u64,
        incarnation: u64,
        running: Vec<(UnitId, Epoch)>,
    },
    Heartbeat {
        incarnation: u64,
        seq: u64,
        running: Vec<(UnitId, Epoch)>,
    },
    Report {
        incarnation: u64,
        seq: u64,
        unit: UnitId,
        epoch: Epoch,
        body: ReportBody,
    },
    Keeper {
        incarnation: u64,
        task: TaskId,
        round: u32,
        export: String,
    },
}

#[derive(Debug, Clone)]
pub(super) enum ToAgent {
    /// Not the leader, or register first.
    Refused,
    /// Whether who said hello is still there.
    Challenge {
        term: u64,
        question: u64,
    },
    Welcome,
    HeartbeatAck {
        seq: u64,
    },
    Lease {
        unit: UnitId,
        epoch: Epoch,
        work: Work,
    },
    Revoke {
        unit: UnitId,
        epoch: Epoch,
    },
    ReportAck {
        seq: u64,
    },
}

#[derive(Default)]
pub(super) struct Network {
    /// Agent and node cannot reach each other until then.
    pub(super) cut: BTreeMap<(usize, usize), u64>,
}

impl World {
    pub(super) fn send_to_leader(&mut self, agent: usize, message: ToLeader) {
        let Some(session) = &self.agents[agent].session else { return };
        let (node, session) = (session.node, session.no);
        let first_word = matches!(message, ToLeader::Hello { .. });
        // A listener takes in a connection, and what was said on it, before anybody reads it.
        let unread = if first_word && !self.healing && self.chance.happens(200) {
            self.chance.between(1_000, 15_000)
        } else {
            0
        };
        for ms in self.delays(agent, node) {
            let message = message.clone();
            self.after(unread + ms, Event::ToLeader { node, agent, session, message });
        }
    }

    pub(super) fn send_to_agent(
        &mut self,
        node: usize,
        agent: usize,
        session: u64,
        message: ToAgent,
    ) {
        for ms in self.delays(agent, node) {
            let message = message.clone();
            self.after(ms, Event::ToAgent { agent, session, message });
        }
    }

    /// After how long the copies of a message arrive; none = it is lost.
    fn delays(&mut self, agent: usize, node: usize) -> Vec<u64> {
        let cut = self.network.cut.get(&(agent, node)).is_some_and(|until| *until > self.now);
        if self.healing {
            return vec![self.chance.between(1, 20)];
        }
        if cut || self.chance.happens(20) {
            return vec![];
        }
        let copies = if self.chance.happens(20) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let late = self.chance.happens(20);
                if late { self.chance.between(50, 4_000) } else { self.chance.between(1, 50) }
            })
            .collect()
    }
}
