//! Who this node is, and which messages are meant for it.
//!
//! A message names its cluster, its receiver and the receiver's store. One that is meant for
//! somebody else is refused and changes nothing:
//!
//! - another cluster: a node that was moved, or an address that was given away;
//! - another node: an address that now belongs to a different one;
//! - another store: **this node's data directory was emptied**. The votes it gave and the entries it
//!   acknowledged are gone, so it may not speak under its old name: two elections could both be won
//!   with its vote. Its membership still names the old store; only removing the node and adding it
//!   anew, a decision of the rest of the cluster, names the new one.
//!
//! A node that belongs to no cluster refuses everything but being adopted. It may be adopted again
//! by another cluster as long as it has accepted nothing, which makes an interrupted `init`
//! repeatable.

use std::collections::BTreeMap;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_refusal::Cause;
use pgconvoy_shared::ids::NodeId;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::types::{Member, NodeNo};
use crate::store::{ClusterId, Header, StoreId, WeakLogStore, WriteError};

pub(super) struct Identity {
    node: NodeId,
    store: StoreId,
    log: WeakLogStore,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    header: Header,
    /// Something of the cluster's has been accepted: it cannot be left any more.
    engaged: bool,
}

/// Why a node does not become part of a cluster.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    #[error("{}", .0.message)]
    Refused(v1::RaftRefusal),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the store is closed")]
    Closed,
}

pub(super) fn refusal(cause: Cause, message: impl Into<String>) -> v1::RaftRefusal {
    v1::RaftRefusal { cause: cause.into(), message: message.into(), members_index: 0 }
}

impl Identity {
    /// `engaged`: the store holds a vote or entries.
    pub(super) fn new(header: Header, log: WeakLogStore, engaged: bool) -> Self {
        let (node, store) = (header.node, header.store);
        Self { node, store, log, standing: Mutex::new(Standing { header, engaged }) }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    pub(super) async fn cluster(&self) -> Option<ClusterId> {
        self.standing.lock().await.header.cluster
    }

    /// Whether neither a vote nor an entry was ever accepted.
    pub(super) async fn pristine(&self) -> bool {
        !self.standing.lock().await.engaged
    }

    /// An envelope for a member; none while this node belongs to no cluster.
    pub(super) async fn envelope(&self, to: NodeNo, store: StoreId) -> Option<v1::RaftEnvelope> {
        let cluster = self.cluster().await?;
        Some(envelope(cluster, self.node, to, store))
    }

    /// Lets a message in, or says why it is not for this node. After the first one that comes in,
    /// the node belongs to its cluster for good.
    pub(super) async fn admit(
        &self,
        envelope: Option<&v1::RaftEnvelope>,
    ) -> Result<(), v1::RaftRefusal> {
        let (cluster, to) = self.addressed(envelope)?;
        let mut standing = self.standing.lock().await;
        match standing.header.cluster {
            None => {
                let message = format!(
                    "node {to} belongs to no cluster yet: `pgconvoy cluster add-node` adds it"
                );
                return Err(refusal(Cause::NoCluster, message));
            }
            Some(own) if own != cluster => {
                let message = format!("node {to} belongs to cluster {own}, not to {cluster}");
                return Err(refusal(Cause::OtherCluster, message));
            }
            Some(_) => standing.engaged = true,
        }
        Ok(())
    }

    /// Makes this node part of the cluster that the envelope names. Durable when it returns.
    pub(super) async fn adopt(
        &self,
        envelope: Option<&v1::RaftEnvelope>,
    ) -> Result<(), AdoptError> {
        let (cluster, to) = self.addressed(envelope).map_err(AdoptError::Refused)?;
        let mut standing = self.standing.lock().await;
        if standing.header.cluster == Some(cluster) {
            return Ok(());
        }
        if standing.engaged {
            let message =
                format!("node {to} holds a log of its own: empty its data directory first");
            return Err(AdoptError::Refused(refusal(Cause::NotEmpty, message)));
        }
        let header = Header { cluster: Some(cluster), ..standing.header.clone() };
        self.log.upgrade().ok_or(AdoptError::Closed)?.put_header(&header).await?;
        standing.header = header;
        Ok(())
    }

    fn addressed(
        &self,
        envelope: Option<&v1::RaftEnvelope>,
    ) -> Result<(ClusterId, NodeId), v1::RaftRefusal> {
        let malformed = || refusal(Cause::Malformed, "the message has no proper envelope");
        let envelope = envelope.ok_or_else(malformed)?;
        let cluster = ClusterId::try_from(&*envelope.cluster).map_err(|_| malformed())?;
        let store = StoreId::try_from(&*envelope.store).map_err(|_| malformed())?;
        let own = self.node;
        if envelope.to != own.0 {
            let message = format!("this is node {own}, not node {}", envelope.to);
            return Err(refusal(Cause::OtherNode, message));
        }
        if store != self.store {
            let message = format!(
                "node {own} has another data directory than the one that joined (it was emptied or \
                 replaced): remove the node with `pgconvoy cluster remove-node` and add it anew with \
                 `pgconvoy cluster add-node`"
            );
            return Err(refusal(Cause::OtherStore, message));
        }
        Ok((cluster, own))
    }
}

pub(super) fn envelope(
    cluster: ClusterId,
    from: NodeId,
    to: NodeNo,
    store: StoreId,
) -> v1::RaftEnvelope {
    v1::RaftEnvelope {
        cluster: cluster.0.to_vec().into(),
        from: from.0,
        to,
        store: store.0.to_vec().into(),
    }
}

/// The id of the cluster that these members found.
///
/// Their store ids are random, so it is unique; and it is the same whenever the same `init` is
/// repeated, on whichever node. A different list of members gives a different cluster, whose
/// messages the nodes of the first refuse.
pub(super) fn cluster_id(members: &BTreeMap<NodeNo, Member>) -> ClusterId {
    let mut hash = Sha256::new();
    for (id, member) in members {
        hash.update(id.to_be_bytes());
        hash.update(member.store.0);
        hash.update((member.address.len() as u64).to_be_bytes());
        hash.update(&member.address);
    }
    let digest = hash.finalize();
    ClusterId::try_from(&digest[..16]).expect("half of 32 bytes")
}
