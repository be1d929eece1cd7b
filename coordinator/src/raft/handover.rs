//! Moving the leadership to a chosen node.
//!
//! openraft 0.9 has no such thing, so: 1. no proposal and no read enters any more, and those under
//! way are waited for; 2. the target has the whole log; 3. heartbeats stop, the other voters are
//! told to hold back, and the lease in which nobody votes runs out; 4. the target is told to stand
//! for election. Should somebody else win all the same, that one leads, and the caller is told.
//! Proposals that waited go on when the node still leads, or are told who does.

use std::sync::Arc;

use pgconvoy_proto::v1;
use pgconvoy_shared::ids::NodeId;
use tokio::time::Instant;

use super::error::ChangeError;
use super::leadership::Peer;
use super::node::{Core, RaftNode};
use super::peers::CallError;
use super::types::{Member, Membership, Metrics, NodeNo};

impl RaftNode {
    /// Makes another node the leader; none named means the one that is furthest. Gives the new
    /// leader. Only on the leader.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<Peer, ChangeError> {
        let core = self.core();
        let _change = core.begin_change().await?;
        let me = self.me();
        let to = match to {
            Some(to) => to,
            None => core.furthest().ok_or(ChangeError::NobodyElse)?,
        };
        let membership = core.membership();
        let member = membership.get_node(&to.0).ok_or(ChangeError::NotMember { node: to })?.clone();
        if !membership.voter_ids().any(|id| id == to.0) {
            return Err(ChangeError::NotVoter { node: to });
        }
        if to == me.id {
            return Ok(me);
        }
        let late = || ChangeError::NotTakenOver {
            node: to,
            leader: core.leadership.borrow().leader.clone(),
        };
        // A proposal that finds no quorum ends after the lease, so this ends too.
        let traffic = tokio::time::timeout(core.call_limit(), core.traffic.write()).await;
        let _quiet = traffic.map_err(|_| late())?;
        tokio::time::timeout(core.call_limit(), core.has_all(to)).await.map_err(|_| late())??;
        let _heartbeats = Paused::new(Arc::clone(core));
        core.hold_back(&membership, to).await;
        // A heartbeat that was just on its way begins the lease a little later.
        tokio::time::sleep(core.timings.lease + core.timings.heartbeat / 4).await;
        let deadline = Instant::now() + core.call_limit();
        core.hold_back(&membership, to).await;
        loop {
            core.campaign(to.0, &member, to).await.map_err(|error| {
                let (address, source) = (member.address.clone(), Box::new(error));
                ChangeError::Unreachable { node: to, address, source }
            })?;
            // A vote that comes late loses the election, and it is asked for once more. Until then the others are held
            // back so often that the patience of none of them ends.
            for _ in 0..2 {
                let look = Instant::now() + core.timings.lease / 2;
                match core.followed(look.min(deadline)).await {
                    Some(leader) if leader.id == to => return Ok(leader),
                    None if Instant::now() < deadline => core.hold_back(&membership, to).await,
                    leader => return Err(ChangeError::NotTakenOver { node: to, leader }),
                }
            }
        }
    }
}

impl Core {
    /// The other voter with the most of the log, among those that answer.
    fn furthest(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics().borrow().clone();
        let matched = metrics.replication.as_ref()?;
        let voters = metrics.membership_config.membership().voter_ids();
        voters
            .filter(|&id| id != metrics.id && self.answers(NodeId(id)))
            .max_by_key(|id| matched.get(id).copied().flatten())
            .map(NodeId)
    }

    /// Returns once all of this leader's log is on the disk of `node`.
    async fn has_all(&self, node: NodeId) -> Result<(), ChangeError> {
        let all = |metrics: &Metrics| {
            let matched =
                metrics.replication.as_ref().and_then(|matched| matched.get(&node.0).copied());
            matched.flatten().map(|id| id.index) == metrics.last_log_index
        };
        let mut metrics = self.raft.metrics();
        metrics.wait_for(|metrics| all(metrics)).await.map(|_| ()).map_err(|_| ChangeError::Stopped)
    }

    /// Tells all voters but the candidate that it will stand. Who does not hear it is no harm.
    async fn hold_back(&self, membership: &Membership, candidate: NodeId) {
        let others =
            membership.voter_ids().filter(|&id| id != candidate.0 && id != self.identity.node().0);
        let told =
            others.filter_map(|id| Some((id, membership.get_node(&id)?))).map(|(id, member)| {
                let told = self.campaign(id, member, candidate);
                tokio::time::timeout(self.timings.heartbeat / 2, told)
            });
        futures::future::join_all(told).await;
    }

    async fn campaign(
        &self,
        to: NodeNo,
        member: &Member,
        candidate: NodeId,
    ) -> Result<(), CallError> {
        let envelope = self.peers.envelope(to, member).await?;
        let message = v1::RaftCampaignRequest { envelope: Some(envelope), candidate: candidate.0 };
        let mut client = self.peers.client(&member.address)?;
        let call = client.campaign(message);
        self.peers.answer(to, &member.address, self.call_limit(), call).await.map(|_| ())
    }

    /// Waits until this node follows another one; none if that does not come to pass.
    async fn followed(&self, deadline: Instant) -> Option<Peer> {
        let mut leadership = self.leadership.subscribe();
        let follows = leadership.wait_for(|now| !now.is_self && now.leader.is_some());
        let leader = tokio::time::timeout_at(deadline, follows).await;
        leader.ok()?.ok()?.leader.clone()
    }
}

/// While it lives this node sends no heartbeats, should it lead.
struct Paused {
    core: Arc<Core>,
}

impl Paused {
    fn new(core: Arc<Core>) -> Self {
        core.raft.runtime_config().heartbeat(false);
        Self { core }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.core.raft.runtime_config().heartbeat(true);
    }
}
