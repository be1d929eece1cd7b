//! Elections: only those that can be won.
//!
//! openraft 0.9 has no pre-vote. A follower that is cut off would raise its term again and again,
//! and depose the healthy leader with it the moment the link heals. So openraft's own elections are
//! switched off, and a node stands for election only after
//!
//! 1. it heard nothing from a leader for a time drawn anew for each attempt, and
//! 2. a quorum of the voters answered that they would vote for it: they heard nothing from a leader
//!    within the lease either, do not lead themselves, and their log is not ahead.
//!
//! Asking changes nothing on either side. A node that is cut off gets no quorum of answers, keeps its
//! term, and after healing goes on as the follower it was. A node alone in its cluster asks nobody.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use pgconvoy_proto::v1;
use tokio::time::Instant;

use super::node::Core;
use super::peers::CallError;
use super::types::{LogId, Member, Membership, Metrics, NodeNo, Vote};
use super::wire;

/// When a leader was last heard.
#[derive(Debug)]
pub(super) struct LeaderContact {
    last: Mutex<Instant>,
}

impl LeaderContact {
    /// A start counts as a contact: a leader gets its time to say something.
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(Instant::now()) }
    }

    pub(super) fn touch(&self) {
        *self.last.lock().expect("nothing panics while it holds this lock") = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.last.lock().expect("nothing panics while it holds this lock")
    }

    /// For how long no leader was heard.
    pub(super) fn quiet(&self) -> Duration {
        self.last().elapsed()
    }
}

/// Stands for election when it is time, until Raft stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut attempted = Instant::now();
    let mut patience = draw(&core);
    let metrics = core.raft.metrics();
    loop {
        tokio::time::sleep(core.timings.heartbeat / 2).await;
        let metrics = metrics.borrow().clone();
        if metrics.running_state.is_err() {
            return;
        }
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        if metrics.state == ServerState::Leader || voters.is_empty() {
            continue;
        }
        let votes = voters.contains(&metrics.id);
        let alone = votes && voters.len() == 1 && metrics.state != ServerState::Candidate;
        if !alone {
            if attempted.max(core.contact.last()).elapsed() < patience {
                continue;
            }
            attempted = Instant::now();
            patience = draw(&core);
            // Who has no vote asks as well: it may have been removed.
            if !would_win(&core, &metrics).await || !votes {
                continue;
            }
        }
        tracing::info!(
            "node {} stands for election after term {}",
            metrics.id,
            metrics.current_term
        );
        if core.raft.trigger().elect().await.is_err() {
            return;
        }
    }
}

fn draw(core: &Core) -> Duration {
    rand::random_range(core.timings.election.clone())
}

/// Asks the other voters. Returns as soon as a quorum said yes, or all have answered.
async fn would_win(core: &Core, metrics: &Metrics) -> bool {
    let membership = metrics.membership_config.membership();
    let last = core.raft.data_metrics().borrow().last_log;
    let within = core.timings.lease;
    let mut answers: FuturesUnordered<_> = membership
        .voter_ids()
        .filter(|&id| id != metrics.id)
        .filter_map(|id| membership.get_node(&id).map(|member| (id, member)))
        .map(|(id, member)| async move {
            let vote = Vote::new(metrics.current_term + 1, metrics.id);
            (id, ask(core, id, member, vote, last, within).await)
        })
        .collect();
    let mut granted = BTreeSet::from([metrics.id]);
    while !is_quorum(membership, &granted) {
        match answers.next().await {
            None => return false,
            Some((id, Ok(true))) => {
                granted.insert(id);
            }
            Some((_, Ok(false))) => {}
            Some((id, Err(error))) => {
                if let CallError::Refused { refusal, .. } = &error {
                    core.heed(refusal);
                }
                tracing::debug!("node {id} does not say whether it would vote: {error}");
            }
        }
    }
    true
}

async fn ask(
    core: &Core,
    id: NodeNo,
    member: &Member,
    vote: Vote,
    last: Option<LogId>,
    within: Duration,
) -> Result<bool, CallError> {
    let message = v1::RaftVoteRequest {
        envelope: Some(core.peers.envelope(id, member).await?),
        vote: Some(wire::ballot(&vote)),
        last: last.as_ref().map(wire::raft_log_id),
    };
    let mut client = core.peers.client(&member.address)?;
    let answer = core.peers.answer(id, &member.address, within, client.pre_vote(message)).await?;
    Ok(answer.granted)
}

/// While the voters change, a quorum of the old and of the new ones.
pub(super) fn is_quorum(membership: &Membership, nodes: &BTreeSet<NodeNo>) -> bool {
    membership
        .get_joint_config()
        .iter()
        .all(|voters| voters.intersection(nodes).count() * 2 > voters.len())
}

/// Whether this node would vote for one whose log ends at `last`.
///
/// Its term is not looked at: a candidate that is behind in terms learns that from the election.
pub(super) fn would_vote(core: &Core, last: Option<LogId>) -> bool {
    let lease = core.timings.lease;
    let leads = core.leadership.borrow().is_self;
    !leads && core.contact.quiet() > lease && last >= core.raft.data_metrics().borrow().last_log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_voters_change_both_sets_decide() {
        let old = BTreeSet::from([1, 2, 3]);
        let new = BTreeSet::from([1, 2, 3, 4, 5]);
        let nodes: std::collections::BTreeMap<_, _> =
            new.iter().map(|&id| (id, Member::default())).collect();
        let joint = Membership::new(vec![old.clone(), new], nodes.clone());
        assert!(is_quorum(&joint, &BTreeSet::from([1, 2, 4])));
        assert!(!is_quorum(&joint, &BTreeSet::from([1, 2])), "no quorum of the new");
        assert!(!is_quorum(&joint, &BTreeSet::from([1, 4, 5])), "no quorum of the old");
        let uniform = Membership::new(vec![old], nodes);
        assert!(is_quorum(&uniform, &BTreeSet::from([1, 3])));
        assert!(!is_quorum(&uniform, &BTreeSet::from([3])));
    }
}
