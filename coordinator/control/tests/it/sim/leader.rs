//! The leader's driver as the coordinator has it, without the I/O: sessions, heartbeats, plans, effects.

use std::collections::BTreeMap;

use pgconvoy_control::command::{Command, NoteExport, Report};
use pgconvoy_control::liveness::Liveness;
use pgconvoy_control::outcome::{Applied, Effect, Outcome};
use pgconvoy_control::schedule::{self, Observed};
use pgconvoy_control::work;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::{AgentId, Incarnation, UnitId};
use pgconvoy_shared::time::Timestamp;

use super::network::{ToAgent, ToLeader};
use super::raft::Node;
use super::world::{Bugs, Event, LEASE_MS, World};
use crate::fixtures;

/// Who waits for the outcome of a command.
#[derive(Debug, Clone)]
pub(super) enum Tag {
    None,
    Plan,
    Hello { agent: usize, session: u64, arrived: u64, running: Vec<(UnitId, Epoch)> },
    Report { agent: usize, session: u64, seq: u64 },
}

pub(super) struct Leader {
    pub(super) term: u64,
    pub(super) liveness: Liveness,
    sessions: BTreeMap<usize, u64>,
    /// How many agents were asked whether they are there.
    questions: u64,
    /// Of each agent, the question that it answered last.
    newest: BTreeMap<usize, u64>,
    pub(super) pending: BTreeMap<u64, Vec<Tag>>,
    asking: bool,
    to_confirm: Vec<(usize, u64, u64)>,
    planning: bool,
    granted_at: BTreeMap<UnitId, u64>,
}

/// A grant whose message may still be on its way is not sent again.
const RESEND_AFTER_MS: u64 = 3_000;

impl Leader {
    pub(super) fn new(term: u64, elected: u64, bugs: Bugs) -> Self {
        let since = if bugs.no_grace { elected.saturating_sub(LEASE_MS) } else { elected };
        Self {
            term,
            liveness: Liveness::new(LEASE_MS, since),
            sessions: BTreeMap::new(),
            questions: 0,
            newest: BTreeMap::new(),
            pending: BTreeMap::new(),
            asking: false,
            to_confirm: Vec::new(),
            planning: false,
            granted_at: BTreeMap::new(),
        }
    }
}

impl World {
    pub(super) fn leader_tick(&mut self, node: usize) {
        let ms = self.chance.between(50, 250);
        self.after(ms, Event::LeaderTick(node));
        let local = self.nodes[node].clock.read(self.now);
        let Node { state, leader: Some(leader), .. } = &mut self.nodes[node] else { return };
        let lost = leader.liveness.condemn(state, local);
        if !lost.is_empty() {
            self.propose(node, lost.into_iter().map(|command| (command, Tag::None)).collect());
        }
        self.plan(node);
        self.ask_quorum(node);
    }

    fn plan(&mut self, node: usize) {
        let local = self.nodes[node].clock.read(self.now);
        let Node { state, leader: Some(leader), .. } = &mut self.nodes[node] else { return };
        if leader.planning {
            return;
        }
        let observed = Observed { liveness: &leader.liveness, now_ms: local };
        let now = Timestamp(1_700_000_000_000 + local);
        let plan = schedule::plan(state, &observed, now);
        if !plan.commands.is_empty() {
            leader.planning = true;
            self.propose(node, plan.commands.into_iter().map(|c| (c, Tag::Plan)).collect());
        }
    }

    /// One question to the quorum serves all heartbeats that arrived before it.
    fn ask_quorum(&mut self, node: usize) {
        let Some(leader) = &mut self.nodes[node].leader else { return };
        if leader.asking || leader.to_confirm.is_empty() {
            return;
        }
        leader.asking = true;
        let (term, waiting) = (leader.term, std::mem::take(&mut leader.to_confirm));
        let ms = self.chance.between(1, 15);
        self.after(ms, Event::Ask { node, term, waiting });
    }

    pub(super) fn ask(&mut self, node: usize, term: u64, waiting: Vec<(usize, u64, u64)>) {
        if term != self.term {
            return;
        }
        // The quorum has answered; a newer leader may be elected before the answer is here.
        let slow = !self.healing && self.chance.happens(20);
        let ms = if slow { self.chance.between(100, 4_000) } else { self.chance.between(1, 15) };
        self.after(ms, Event::Confirmed { node, term, waiting });
    }

    pub(super) fn confirmed(&mut self, node: usize, term: u64, waiting: Vec<(usize, u64, u64)>) {
        let Some(leader) = self.nodes[node].leader.as_mut().filter(|l| l.term == term) else {
            return;
        };
        leader.asking = false;
        let mut answers = Vec::new();
        for (agent, session, seq) in waiting {
            let incarnation = Incarnation(self.agents[agent].session_life(session));
            if leader.liveness.may_answer(&self.agents[agent].id, incarnation) {
                answers.push((agent, session, seq));
            }
        }
        for (agent, session, seq) in answers {
            self.send_to_agent(node, agent, session, ToAgent::HeartbeatAck { seq });
        }
    }

    pub(super) fn leader_receives(
        &mut self,
        node: usize,
        agent: usize,
        session: u64,
        message: ToLeader,
    ) {
        let local = self.nodes[node].clock.read(self.now);
        let id = self.agents[agent].id.clone();
        let slots = self.agents[agent].slots;
        let Some(leader) = &mut self.nodes[node].leader else {
            return self.send_to_agent(node, agent, session, ToAgent::Refused);
        };
        if !matches!(message, ToLeader::Hello { .. } | ToLeader::Present { .. })
            && leader.sessions.get(&agent) != Some(&session)
        {
            return self.send_to_agent(node, agent, session, ToAgent::Refused);
        }
        match message {
            ToLeader::Hello { incarnation, running } => {
                leader.questions += 1;
                let (term, question) = (leader.term, leader.questions);
                if self.bugs.hello_believed {
                    let unasked = ToLeader::Present { term, question, incarnation, running };
                    return self.leader_receives(node, agent, session, unasked);
                }
                self.send_to_agent(node, agent, session, ToAgent::Challenge { term, question });
            }
            ToLeader::Present { term, question, incarnation, running } => {
                // Its stream ended with that leader's office, or its answer is read late.
                let newest = leader.newest.get(&agent).copied().unwrap_or_default();
                if leader.term != term || newest > question {
                    return;
                }
                leader.newest.insert(agent, question);
                leader.sessions.insert(agent, session);
                let register = fixtures::register(id.as_str(), incarnation, slots);
                let tag = Tag::Hello { agent, session, arrived: local, running };
                self.propose(node, vec![(Command::RegisterAgent(Box::new(register)), tag)]);
            }
            ToLeader::Heartbeat { incarnation, seq, running } => {
                if leader.liveness.note(&id, Incarnation(incarnation), local) {
                    leader.to_confirm.push((agent, session, seq));
                    self.compare(node, agent, session, &running);
                    self.ask_quorum(node);
                } else {
                    self.send_to_agent(node, agent, session, ToAgent::Refused);
                }
            }
            ToLeader::Report { incarnation, seq, unit, epoch, body } => {
                let epoch = if self.bugs.epoch_not_raised {
                    self.nodes[node].state.unit(&unit).map_or(epoch, |unit| unit.epoch)
                } else {
                    epoch
                };
                let incarnation = Incarnation(incarnation);
                let report = Report { agent: id, incarnation, unit, epoch, body };
                let tag = Tag::Report { agent, session, seq };
                self.propose(node, vec![(Command::Reports(vec![report]), tag)]);
            }
            ToLeader::Keeper { incarnation, task, round, export } => {
                let incarnation = Incarnation(incarnation);
                let note = NoteExport { task, round, agent: id, incarnation, export_id: export };
                self.propose(node, vec![(Command::NoteExport(note), Tag::None)]);
            }
        }
    }

    /// Sends again what the agent should run and does not, and revokes what it runs and should not.
    fn compare(&mut self, node: usize, agent: usize, session: u64, running: &[(UnitId, Epoch)]) {
        let state = &self.nodes[node].state;
        let id = &self.agents[agent].id;
        let leader = self.nodes[node].leader.as_ref().expect("asked by a leader");
        let mut messages = Vec::new();
        for held in state.leases_of(id) {
            let epoch = self.epoch_told(held.epoch);
            let fresh = leader
                .granted_at
                .get(&held.unit)
                .is_some_and(|at| self.now < *at + RESEND_AFTER_MS);
            if held.revoked {
                messages.push(ToAgent::Revoke { unit: held.unit, epoch });
            } else if !fresh
                && !running.contains(&(held.unit.clone(), epoch))
                && let Some(order) = work::order(state, &held.unit)
            {
                messages.push(ToAgent::Lease { unit: held.unit, epoch, work: order.work });
            }
        }
        for (unit, epoch) in running {
            let held = state
                .leases_of(id)
                .any(|held| held.unit == *unit && self.epoch_told(held.epoch) == *epoch);
            if !held {
                messages.push(ToAgent::Revoke { unit: unit.clone(), epoch: *epoch });
            }
        }
        for message in messages {
            self.send_to_agent(node, agent, session, message);
        }
    }

    fn epoch_told(&self, epoch: Epoch) -> Epoch {
        if self.bugs.epoch_not_raised { Epoch(1) } else { epoch }
    }

    pub(super) fn leader_applies(&mut self, node: usize) {
        let outcomes = self.catch_up(node);
        for (proposal, applied) in outcomes {
            let Some(leader) = &mut self.nodes[node].leader else { return };
            let Some(tags) = leader.pending.remove(&proposal) else { continue };
            for (tag, applied) in tags.into_iter().zip(applied) {
                self.react(node, tag, applied);
            }
        }
        self.plan(node);
    }

    fn react(&mut self, node: usize, tag: Tag, applied: Applied) {
        match tag {
            Tag::None => {}
            Tag::Plan => {
                if let Some(leader) = &mut self.nodes[node].leader {
                    leader.planning = false;
                }
            }
            Tag::Hello { agent, session, arrived, running } => {
                let incarnation = Incarnation(self.agents[agent].session_life(session));
                let Some(leader) = &mut self.nodes[node].leader else { return };
                if applied.outcome.is_err() {
                    self.send_to_agent(node, agent, session, ToAgent::Refused);
                } else if leader.sessions.get(&agent) == Some(&session) {
                    leader.liveness.registered(&self.agents[agent].id, incarnation, arrived);
                    self.send_to_agent(node, agent, session, ToAgent::Welcome);
                    self.compare(node, agent, session, &running);
                }
            }
            Tag::Report { agent, session, seq } => {
                debug_assert!(matches!(applied.outcome, Ok(Outcome::Reported(_))));
                self.send_to_agent(node, agent, session, ToAgent::ReportAck { seq });
            }
        }
        for effect in applied.effects {
            self.carry_out(node, effect);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Lease { unit, agent, epoch, .. } => {
                let epoch = self.epoch_told(epoch);
                // By now it may be revoked or over.
                let Some(order) = work::order(&self.nodes[node].state, &unit) else { return };
                let now = self.now;
                if let Some(leader) = &mut self.nodes[node].leader {
                    leader.granted_at.insert(unit.clone(), now);
                }
                let message = ToAgent::Lease { unit, epoch, work: order.work };
                self.send_by_id(node, &agent, message);
            }
            Effect::Revoke { unit, agent, epoch } => {
                let epoch = self.epoch_told(epoch);
                self.send_by_id(node, &agent, ToAgent::Revoke { unit, epoch });
            }
            Effect::Drain { .. } => {}
        }
    }

    fn send_by_id(&mut self, node: usize, id: &AgentId, message: ToAgent) {
        let Some(agent) = self.agents.iter().position(|agent| agent.id == *id) else { return };
        let leader = self.nodes[node].leader.as_ref();
        if let Some(session) = leader.and_then(|leader| leader.sessions.get(&agent).copied()) {
            self.send_to_agent(node, agent, session, message);
        }
    }
}
