//! Making a cluster, and adding and removing its nodes.
//!
//! A cluster has 1, 3 or 5 voters. On the way from one of these sizes to the next it has 2 or 4 for
//! a while; that is allowed, and [`super::Status::steady`] tells it. Refused is what cannot be
//! undone or would stop the cluster: a sixth node, removing the last one, removing the leader (its
//! place is transferred first), removing a node when too few of the others answer, and two changes
//! at once.
//!
//! A new node: 1. it says who it is, and that it holds nothing; 2. it is adopted, which binds its
//! store to the cluster; 3. it becomes a learner and catches up, by log or by snapshot; 4. it gets a
//! vote. An interrupted addition leaves a learner, which costs no votes; adding it again goes on.
//!
//! openraft changes voters in two steps, by way of a membership in which the old and the new voters
//! both decide. A leader that is lost between them leaves that one behind; the next leader finishes
//! it ([`finish_changes`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_refusal::Cause;
use pgconvoy_shared::ids::NodeId;
use tokio::sync::MutexGuard;

use super::error::ChangeError;
use super::identity::{AdoptError, cluster_id, envelope};
use super::leadership::Peer;
use super::node::{Core, RaftNode};
use super::peers::CallError;
use super::types::{Member, Membership, NodeNo};
use crate::store::{ClusterId, StoreId};

/// A cluster has at most this many nodes with a vote.
pub const VOTERS_MAX: usize = 5;
/// A learner this close to the end of the log has caught up.
const LAG_MAX: u64 = 64;

type WriteResult<T> = Result<T, RaftError<NodeNo, ClientWriteError<NodeNo, Member>>>;

/// Who answered at an address.
struct Identified {
    member: Member,
    cluster: Option<ClusterId>,
    pristine: bool,
}

impl RaftNode {
    /// Makes a cluster of nodes that hold nothing; this one must be among them.
    ///
    /// May be repeated, here or on another of them, as long as it was not done with another list.
    pub async fn initialize(&self, peers: &[Peer]) -> Result<ClusterId, ChangeError> {
        let core = self.core();
        let _change = core.changes.try_lock().map_err(|_| ChangeError::InProgress)?;
        check_founders(core.identity.node(), peers)?;
        if !core.identity.pristine().await {
            return Err(ChangeError::AlreadyInitialized);
        }
        let mut members = BTreeMap::new();
        for peer in peers {
            let found = core.identify(peer).await?;
            if !found.pristine {
                return Err(ChangeError::NotEmpty { node: peer.id });
            }
            members.insert(peer.id.0, found.member);
        }
        let cluster = cluster_id(&members);
        // This node last: until then nothing here has changed.
        let (own, others): (Vec<_>, Vec<_>) =
            peers.iter().partition(|peer| peer.id == core.identity.node());
        for peer in others {
            core.adopt(cluster, peer, members[&peer.id.0].store).await?;
        }
        for peer in own {
            let envelope = envelope(cluster, peer.id, peer.id.0, core.identity.store());
            core.identity
                .adopt(Some(&envelope))
                .await
                .map_err(|error| adopt_error(peer.id, error))?;
            core.identity.admit(Some(&envelope)).await.map_err(|refusal| refused(peer, refusal))?;
        }
        match core.raft.initialize(members).await {
            Ok(()) => Ok(cluster),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(ChangeError::AlreadyInitialized)
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                Err(ChangeError::WithoutMe { node: core.identity.node() })
            }
            Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
        }
    }

    /// Adds a node that holds nothing, and returns once it votes. Only on the leader.
    pub async fn add_node(&self, peer: &Peer) -> Result<(), ChangeError> {
        let core = self.core();
        let _change = core.begin_change().await?;
        let membership = core.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        let present = membership.get_node(&peer.id.0);
        if present.is_none_or(|_| !voters.contains(&peer.id.0)) && voters.len() >= VOTERS_MAX {
            return Err(ChangeError::TooMany);
        }
        let taken =
            membership.nodes().find(|(id, node)| **id != peer.id.0 && node.address == peer.address);
        if let Some((&id, node)) = taken {
            return Err(ChangeError::AlreadyMember {
                node: NodeId(id),
                address: node.address.clone(),
            });
        }
        let found = core.identify(peer).await?;
        match present {
            // An addition that was interrupted, or is repeated.
            Some(node) if *node == found.member => {}
            Some(node) => {
                let address = node.address.clone();
                return Err(ChangeError::AlreadyMember { node: peer.id, address });
            }
            None if !found.pristine => return Err(ChangeError::NotEmpty { node: peer.id }),
            None => {}
        }
        let cluster = core.identity.cluster().await.ok_or(ChangeError::Stopped)?;
        if found.cluster != Some(cluster) {
            core.adopt(cluster, peer, found.member.store).await?;
        }
        if present.is_none() {
            core.settle(core.raft.add_learner(peer.id.0, found.member, false).await)?;
        }
        core.caught_up(peer.id).await?;
        if !voters.contains(&peer.id.0) {
            core.change(ChangeMembers::AddVoterIds(BTreeSet::from([peer.id.0])), true).await?;
        }
        Ok(())
    }

    /// Removes a node. Only on the leader.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), ChangeError> {
        let core = self.core();
        let _change = core.begin_change().await?;
        let membership = core.membership();
        if membership.get_node(&node.0).is_none() {
            return Err(ChangeError::NotMember { node });
        }
        let mut voters: BTreeSet<_> = membership.voter_ids().collect();
        if !voters.remove(&node.0) {
            return core.change(ChangeMembers::RemoveNodes(BTreeSet::from([node.0])), false).await;
        }
        if voters.is_empty() {
            return Err(ChangeError::Last { node });
        }
        if node == core.identity.node() {
            return Err(ChangeError::Leads { node });
        }
        let missing = core.missing(&membership, &voters).await;
        if (voters.len() - missing.len()) * 2 <= voters.len() {
            return Err(ChangeError::LosesQuorum { node, missing });
        }
        core.change(ChangeMembers::RemoveVoters(BTreeSet::from([node.0])), false).await
    }
}

fn check_founders(me: NodeId, peers: &[Peer]) -> Result<(), ChangeError> {
    let count = peers.len();
    if !matches!(count, 1 | 3 | 5) {
        return Err(ChangeError::Size { count });
    }
    for (at, peer) in peers.iter().enumerate() {
        let same = |other: &Peer| other.id == peer.id || other.address == peer.address;
        if peers[..at].iter().any(same) {
            return Err(ChangeError::Twice { node: peer.id });
        }
    }
    if !peers.iter().any(|peer| peer.id == me) {
        return Err(ChangeError::WithoutMe { node: me });
    }
    Ok(())
}

fn unreachable(peer: &Peer, error: CallError) -> ChangeError {
    let Peer { id, address } = peer.clone();
    ChangeError::Unreachable { node: id, address, source: Box::new(error) }
}

fn refused(peer: &Peer, refusal: v1::RaftRefusal) -> ChangeError {
    match refusal.cause() {
        Cause::NotEmpty | Cause::OtherCluster => ChangeError::NotEmpty { node: peer.id },
        _ => unreachable(peer, CallError::Refused { address: peer.address.clone(), refusal }),
    }
}

fn adopt_error(node: NodeId, error: AdoptError) -> ChangeError {
    match error {
        AdoptError::Refused(_) => ChangeError::NotEmpty { node },
        AdoptError::Write(_) | AdoptError::Closed => ChangeError::Stopped,
    }
}

impl Core {
    pub(super) fn membership(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }

    /// The right to change who takes part or who leads: one change at a time, and only where this node leads.
    ///
    /// Who has just begun to lead applies what was there before, and ends what another left half done: a moment that is
    /// waited for.
    pub(super) async fn begin_change(&self) -> Result<MutexGuard<'_, ()>, ChangeError> {
        self.must_lead()?;
        let free = async {
            let mut leadership = self.leadership.subscribe();
            let settled = leadership.wait_for(|now| now.ready || !now.is_self).await;
            settled.map_err(|_| ChangeError::Stopped)?;
            Ok::<_, ChangeError>(self.changes.lock().await)
        };
        let change = tokio::time::timeout(self.call_limit(), free).await;
        let change = change.map_err(|_| ChangeError::InProgress)??;
        self.must_lead()?;
        Ok(change)
    }

    pub(super) fn must_lead(&self) -> Result<(), ChangeError> {
        if self.stopped.borrow().is_some() {
            return Err(ChangeError::Stopped);
        }
        let now = self.leadership.borrow();
        if now.is_self {
            Ok(())
        } else {
            Err(ChangeError::NotLeader { leader: now.leader.clone() })
        }
    }

    /// Whether a node is known to be there: this one, or one that answered lately.
    pub(super) fn answers(&self, node: NodeId) -> bool {
        let lately = self.timings.lease * 2;
        let heard = || self.peers.last_heard(node.0).answered;
        node == self.identity.node() || heard().is_some_and(|at| at.elapsed() <= lately)
    }

    /// Those of the voters that do not answer right now.
    async fn missing(&self, membership: &Membership, voters: &BTreeSet<NodeNo>) -> Vec<NodeId> {
        let asked = voters.iter().filter_map(|id| Some((*id, membership.get_node(id)?)));
        let answers = asked.map(|(id, member)| async move {
            let peer = Peer { id: NodeId(id), address: member.address.clone() };
            let answers = self.identify(&peer).await.is_ok_and(|found| found.member == *member);
            (!answers).then_some(peer.id)
        });
        futures::future::join_all(answers).await.into_iter().flatten().collect()
    }

    async fn identify(&self, peer: &Peer) -> Result<Identified, ChangeError> {
        if peer.id == self.identity.node() {
            let member = Member { address: peer.address.clone(), store: self.identity.store() };
            let (cluster, pristine) =
                (self.identity.cluster().await, self.identity.pristine().await);
            return Ok(Identified { member, cluster, pristine });
        }
        let address = peer.address.as_str();
        let failed = |error| unreachable(peer, error);
        let mut client = self.peers.client(address).map_err(failed)?;
        let call = client.identify(v1::RaftIdentifyRequest {});
        let found =
            self.peers.answer(peer.id.0, address, self.call_limit(), call).await.map_err(failed)?;
        if found.node != peer.id.0 {
            let (found, wanted) = (NodeId(found.node), peer.id);
            return Err(ChangeError::OtherNode { address: address.to_owned(), found, wanted });
        }
        let malformed = |_| failed(CallError::Malformed { address: address.to_owned() });
        let store = StoreId::try_from(&*found.store).map_err(malformed)?;
        let cluster = if found.cluster.is_empty() {
            None
        } else {
            Some(ClusterId::try_from(&*found.cluster).map_err(malformed)?)
        };
        let member = Member { address: address.to_owned(), store };
        Ok(Identified { member, cluster, pristine: found.pristine })
    }

    async fn adopt(
        &self,
        cluster: ClusterId,
        peer: &Peer,
        store: StoreId,
    ) -> Result<(), ChangeError> {
        let failed = |error| unreachable(peer, error);
        let envelope = envelope(cluster, self.identity.node(), peer.id.0, store);
        let mut client = self.peers.client(&peer.address).map_err(failed)?;
        let call = client.adopt(v1::RaftAdoptRequest { envelope: Some(envelope) });
        match self.peers.answer(peer.id.0, &peer.address, self.call_limit(), call).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused { refusal, .. }) => Err(refused(peer, refusal)),
            Err(error) => Err(failed(error)),
        }
    }

    /// An operator waits for these calls: longer than a heartbeat, not for ever.
    pub(super) fn call_limit(&self) -> Duration {
        self.timings.election.end * 2
    }

    /// Waits until a learner is at the end of the log. It may take long, while a snapshot travels;
    /// it is given up when the node neither answers nor moves for the snapshot's limit.
    async fn caught_up(&self, node: NodeId) -> Result<(), ChangeError> {
        let mut metrics = self.raft.metrics();
        let matched = |metrics: &super::types::Metrics| {
            let matched = metrics.replication.as_ref()?.get(&node.0)?.as_ref()?.index;
            Some((matched, metrics.last_log_index.unwrap_or(0)))
        };
        let mut last = None;
        let mut deadline = tokio::time::Instant::now() + self.timings.snapshot;
        loop {
            self.must_lead().map_err(|_| ChangeError::OutcomeUnknown)?;
            let now = matched(&metrics.borrow_and_update());
            if now.is_some_and(|(matched, end)| matched + LAG_MAX >= end) {
                return Ok(());
            }
            if now != last || self.answers(node) {
                last = now;
                deadline = tokio::time::Instant::now() + self.timings.snapshot;
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ChangeError::Stopped),
                Err(_) => return Err(ChangeError::Behind { node }),
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ChangeError::Behind { node });
            }
        }
    }

    async fn change(
        &self,
        change: ChangeMembers<NodeNo, Member>,
        keep_as_learner: bool,
    ) -> Result<(), ChangeError> {
        let mut leadership = self.leadership.subscribe();
        let lost = leadership.wait_for(|now| !now.is_self);
        tokio::select! {
            changed = self.raft.change_membership(change, keep_as_learner) => self.settle(changed),
            _ = lost => Err(ChangeError::OutcomeUnknown),
        }
    }

    fn settle<T>(&self, result: WriteResult<T>) -> Result<(), ChangeError> {
        match result {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(_)) => Err(ChangeError::Stopped),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ChangeError::OutcomeUnknown)
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error
            {
                ChangeMembershipError::InProgress(_) => Err(ChangeError::InProgress),
                ChangeMembershipError::EmptyMembership(_) => {
                    Err(ChangeError::Last { node: self.identity.node() })
                }
                ChangeMembershipError::LearnerNotFound(missing) => {
                    Err(ChangeError::NotMember { node: NodeId(missing.node_id) })
                }
            },
        }
    }
}

/// Finishes what an earlier leader left half done, whenever this node has become ready to lead.
pub(super) async fn finish_changes(core: Arc<Core>) {
    let mut leadership = core.leadership.subscribe();
    loop {
        let ready = leadership.wait_for(|now| now.ready).await.map(|now| now.term);
        let Ok(term) = ready else { return };
        {
            let _change = core.changes.lock().await;
            let configs = core.membership().get_joint_config().clone();
            if let [_, new] = configs.as_slice() {
                tracing::info!("finishing a change of the members to {new:?}");
                let change = ChangeMembers::ReplaceAllVoters(new.clone());
                if let Err(error) = core.change(change, false).await {
                    tracing::warn!("the change of the members is not finished yet: {error}");
                }
            }
        }
        if leadership.wait_for(|now| !now.ready || now.term != term).await.is_err() {
            return;
        }
    }
}
