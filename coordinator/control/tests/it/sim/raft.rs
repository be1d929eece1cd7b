//! A model of Raft: one committed log, leaders with overlapping terms, proposals of unknown fate.
//!
//! What it keeps of the real thing: only the leader of the latest term commits, in the order of its proposals; a new leader
//! takes over some of the old one's proposals and drops the rest, and applies what it took over before it leads; a leader
//! that was replaced does not know it for a while, and commits nothing and confirms nothing meanwhile.

use std::collections::BTreeMap;

use pgconvoy_control::codec;
use pgconvoy_control::command::{Command, Stamped};
use pgconvoy_control::outcome::Applied;
use pgconvoy_control::state::State;
use pgconvoy_shared::time::Timestamp;

use super::leader::{Leader, Tag};
use super::world::{Clock, Event, World};

pub(super) struct Node {
    pub(super) clock: Clock,
    pub(super) paused_until: u64,
    pub(super) state: State,
    applied: usize,
    pub(super) leader: Option<Leader>,
}

impl Node {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, paused_until: 0, state: State::new(), applied: 0, leader: None }
    }
}

/// A committed entry.
pub(super) struct Entry {
    bytes: Vec<u8>,
    proposal: u64,
}

/// An entry on its way.
pub(super) struct Proposal {
    id: u64,
    node: usize,
    term: u64,
    bytes: Vec<u8>,
}

impl World {
    /// The node of the latest term.
    pub(super) fn latest_leader(&self) -> Option<usize> {
        self.nodes
            .iter()
            .position(|node| node.leader.as_ref().is_some_and(|leader| leader.term == self.term))
    }

    pub(super) fn elect(&mut self, node: usize) {
        self.term += 1;
        let taken_over = match self.in_flight.len() {
            0 => 0,
            waiting => self.chance.between(0, waiting as u64) as usize,
        };
        for proposal in self.in_flight.drain(..).take(taken_over).collect::<Vec<_>>() {
            self.append(proposal);
        }
        self.catch_up(node);
        for other in 0..self.nodes.len() {
            if let Some(leader) = &self.nodes[other].leader {
                let term = leader.term;
                let ms = if self.healing { 10 } else { self.chance.between(0, 15_000) };
                self.after(ms, Event::LearnsOfNewLeader { node: other, term });
            }
        }
        let elected = self.nodes[node].clock.read(self.now);
        self.nodes[node].leader = Some(Leader::new(self.term, elected, self.bugs));
    }

    pub(super) fn steps_down(&mut self, node: usize, term: u64) {
        if self.nodes[node].leader.as_ref().is_some_and(|leader| leader.term == term) {
            self.nodes[node].leader = None;
        }
    }

    pub(super) fn propose(&mut self, node: usize, commands: Vec<(Command, Tag)>) {
        let at = Timestamp(1_700_000_000_000 + self.nodes[node].clock.read(self.now));
        let Some(leader) = self.nodes[node].leader.as_mut() else { return };
        let id = self.next_proposal;
        self.next_proposal += 1;
        let (batch, tags): (Vec<_>, Vec<_>) =
            commands.into_iter().map(|(command, tag)| (Stamped { at, command }, tag)).unzip();
        leader.pending.insert(id, tags);
        let term = leader.term;
        let bytes = codec::encode_batch(&batch);
        if term == self.term {
            self.in_flight.push_back(Proposal { id, node, term, bytes });
            let slow = !self.healing && self.chance.happens(30);
            let ms =
                if slow { self.chance.between(100, 3_000) } else { self.chance.between(1, 20) };
            self.after(ms, Event::Commit(id));
        }
    }

    pub(super) fn commit(&mut self, id: u64) {
        // Whoever was dropped by an election is not there any more; whoever was proposed before is committed before.
        if !self.in_flight.iter().any(|proposal| proposal.id == id) {
            return;
        }
        while let Some(proposal) = self.in_flight.pop_front() {
            debug_assert_eq!(proposal.term, self.term, "elections empty the queue");
            let (this, node) = (proposal.id, proposal.node);
            self.append(proposal);
            let ms = self.chance.between(0, 5);
            self.after(ms, Event::Apply(node));
            if this == id {
                break;
            }
        }
    }

    fn append(&mut self, proposal: Proposal) {
        let batch = codec::decode_batch(&proposal.bytes).expect("just encoded");
        for stamped in &batch {
            self.note(format!("committed {:?}", stamped.command));
            self.oracle.apply(stamped);
        }
        self.log.push(Entry { bytes: proposal.bytes, proposal: proposal.id });
    }

    /// Applies what is committed; the outcomes are for a leader that waits for them.
    pub(super) fn catch_up(&mut self, node: usize) -> BTreeMap<u64, Vec<Applied>> {
        let behind = self.log.len() - self.nodes[node].applied;
        if behind > 20 && self.chance.happens(300) {
            self.take_snapshot(node);
        }
        let mut outcomes = BTreeMap::new();
        let node = &mut self.nodes[node];
        for entry in &self.log[node.applied..] {
            let batch = codec::decode_batch(&entry.bytes).expect("just encoded");
            let applied = batch.iter().map(|s| pgconvoy_control::apply(&mut node.state, s));
            outcomes.insert(entry.proposal, applied.collect());
        }
        node.applied = self.log.len();
        outcomes
    }

    /// A node that lags takes another one's snapshot instead of the log.
    fn take_snapshot(&mut self, node: usize) {
        let other = self.chance.index(self.nodes.len());
        if self.nodes[other].applied > self.nodes[node].applied {
            let chunks: Vec<_> = self.nodes[other].state.freeze().encode(1_000).collect();
            self.nodes[node].state = State::restore(chunks).expect("just encoded");
            self.nodes[node].applied = self.nodes[other].applied;
        }
    }
}
