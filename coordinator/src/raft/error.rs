//! What can go wrong for those who use a node.

use pgconvoy_runtime::tasks::Died;
use pgconvoy_shared::ids::NodeId;

use super::leadership::Peer;
use super::members::VOTERS_MAX;
use crate::store::StoreError;

/// A node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("opening the store ended badly")]
    Opening(#[from] Died),
    #[error("the timings contradict each other")]
    Timings(#[source] Box<openraft::ConfigError>),
    #[error("Raft does not start")]
    Raft(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A proposal got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It has not entered the log. Propose it where the leader is.
    #[error("this node is not the leader{}", at(leader.as_ref()))]
    NotLeader { leader: Option<Peer> },
    /// Leadership was lost on the way: it may have been applied, may be later, or never.
    #[error("leadership was lost before the entry was known to be committed: it may still be")]
    OutcomeUnknown,
    #[error("the entry has {bytes} bytes, more than the {limit} that one may have")]
    TooLarge { bytes: usize, limit: usize },
    #[error("this node has stopped")]
    Stopped,
}

/// A read cannot be answered here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node is not the leader{}", at(leader.as_ref()))]
    NotLeader { leader: Option<Peer> },
    #[error("this node has stopped")]
    Stopped,
}

/// A change of the cluster is refused, or did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("this node is not the leader{}", at(leader.as_ref()))]
    NotLeader { leader: Option<Peer> },
    #[error("another change of the cluster is under way")]
    InProgress,
    #[error("a cluster is made of 1, 3 or 5 nodes, not of {count}")]
    Size { count: usize },
    #[error("node {node} is named twice, or its address is")]
    Twice { node: NodeId },
    #[error("this node, {node}, is not among the members of the new cluster")]
    WithoutMe { node: NodeId },
    #[error("this node is part of a cluster already")]
    AlreadyInitialized,
    #[error("a cluster has at most {VOTERS_MAX} nodes: remove one first")]
    TooMany,
    #[error("node {node} is a member already, at {address}: remove it first")]
    AlreadyMember { node: NodeId, address: String },
    #[error("node {node} is not a member")]
    NotMember { node: NodeId },
    #[error("node {node} does not vote yet: it has to catch up first")]
    NotVoter { node: NodeId },
    #[error("node {node} is the only one: a cluster cannot lose its last node")]
    Last { node: NodeId },
    #[error("node {node} leads: transfer the leadership to another node first")]
    Leads { node: NodeId },
    #[error(
        "without node {node} too few of the others would answer (missing: {}): bring them back, or remove those first",
        list(missing)
    )]
    LosesQuorum { node: NodeId, missing: Vec<NodeId> },
    #[error("node {node} at {address} cannot be reached")]
    Unreachable {
        node: NodeId,
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("at {address} is node {found}, not node {wanted}")]
    OtherNode { address: String, found: NodeId, wanted: NodeId },
    #[error(
        "node {node} holds a log of its own: stop it, empty its data directory and start it again"
    )]
    NotEmpty { node: NodeId },
    #[error(
        "node {node} did not catch up: it is a member without a vote; add it again to go on, or remove it"
    )]
    Behind { node: NodeId },
    #[error("node {node} did not take over in time; {}", leads(leader.as_ref()))]
    NotTakenOver { node: NodeId, leader: Option<Peer> },
    #[error("no other node is up to date, so none can take over")]
    NobodyElse,
    #[error("leadership was lost before the change was known to be done: look at the status")]
    OutcomeUnknown,
    #[error("this node has stopped")]
    Stopped,
}

fn at(leader: Option<&Peer>) -> String {
    match leader {
        Some(Peer { id, address }) => format!("; node {id} at {address} is"),
        None => "; none is known".to_owned(),
    }
}

fn leads(leader: Option<&Peer>) -> String {
    match leader {
        Some(Peer { id, .. }) => format!("node {id} leads"),
        None => "nobody leads yet".to_owned(),
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
