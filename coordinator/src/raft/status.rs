//! What a node knows of its cluster, for people and for metrics.

use std::time::Duration;

use openraft::ServerState;
use pgconvoy_shared::ids::NodeId;

use super::leadership::Leadership;
use super::node::Core;
use crate::store::{ClusterId, StoreId};

/// What this node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It belongs to no cluster yet.
    Uninitialized,
    /// It gets the log and has no vote, yet or any more.
    Learner,
    Follower,
    Candidate,
    Leader,
    /// The cluster went on without it.
    Removed,
    /// Raft has stopped: the store failed, or the process ends.
    Stopped,
}

/// One node's view.
#[derive(Debug, Clone)]
pub struct Status {
    pub cluster: Option<ClusterId>,
    pub node: NodeId,
    pub store: StoreId,
    pub role: Role,
    pub leadership: Leadership,
    pub last_log_index: Option<u64>,
    pub applied_index: Option<u64>,
    pub snapshot_index: Option<u64>,
    pub purged_index: Option<u64>,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
    pub members: Vec<MemberStatus>,
}

/// One member, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    pub id: NodeId,
    pub address: String,
    pub voter: bool,
    /// The last entry known to be on its disk. Known to the leader only.
    pub matched_index: Option<u64>,
    /// Since its last proper answer to this node.
    pub heard_ago: Option<Duration>,
    /// What it last answered instead, if it refuses this node's messages.
    pub refusal: Option<String>,
}

impl Status {
    /// 1, 3 or 5 voters. Two and four are passed through while nodes are added and removed: they
    /// stand no more losses than one node less does.
    #[must_use]
    pub fn steady(&self) -> bool {
        matches!(self.members.iter().filter(|member| member.voter).count(), 1 | 3 | 5)
    }
}

impl Core {
    pub(super) async fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let leadership = self.leadership.borrow().clone();
        let cluster = self.identity.cluster().await;
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            _ if voters.is_empty() => Role::Uninitialized,
            _ if leadership.removed => Role::Removed,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let members = membership.nodes().map(|(&id, member)| {
            let heard = self.peers.last_heard(id);
            let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id));
            MemberStatus {
                id: NodeId(id),
                address: member.address.clone(),
                voter: voters.contains(&id),
                matched_index: matched.and_then(|matched| matched.as_ref().map(|id| id.index)),
                heard_ago: heard.answered.map(|at| at.elapsed()),
                refusal: heard.refusal,
            }
        });
        Status {
            cluster,
            node: self.identity.node(),
            store: self.identity.store(),
            role,
            leadership,
            last_log_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|id| id.index),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            purged_index: metrics.purged.map(|id| id.index),
            log_bytes: self.store.upgrade().map_or(0, |store| store.log_bytes()),
            snapshot_bytes: self.snapshot_bytes.load(std::sync::atomic::Ordering::Relaxed),
            members: members.collect(),
        }
    }
}
