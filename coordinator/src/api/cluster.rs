//! `ClusterService`: making, changing and looking at the coordinator cluster itself.
//!
//! A node gets the cluster's key before it becomes a member: it may lead from then on, and a leader
//! has to open what is sealed. So both ways in, [`ClusterService::init_cluster`] and
//! [`ClusterService::add_node`], first hand the key over and then ask Raft.

use std::sync::Arc;
use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::cluster_service_server::ClusterService;
use pgconvoy_runtime::build_info;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::NodeId;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::error::{ApiError, LeaderHint};
use crate::node::Node;
use crate::raft::{self, ChangeError, Role};
use crate::secrets::SecretsError;

/// Handing a key over is one small message.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Cluster {
    node: Arc<Node>,
}

impl Cluster {
    pub(super) fn new(node: Arc<Node>) -> Cluster {
        Cluster { node }
    }

    async fn init(&self, request: v1::InitClusterRequest) -> Result<String, ApiError> {
        let peers = request.nodes.into_iter().map(peer).collect::<Result<Vec<_>, _>>()?;
        if !matches!(self.node.raft.status().await.role, Role::Uninitialized) {
            return Err(ChangeError::AlreadyInitialized.into());
        }
        // Asked before anything is made or handed out.
        if !peers.iter().any(|peer| peer.id == self.node.id) {
            return Err(ChangeError::WithoutMe { node: self.node.id }.into());
        }
        self.node.vault.make()?;
        for peer in peers.iter().filter(|peer| peer.id != self.node.id) {
            self.hand_key_to(peer).await?;
        }
        Ok(self.node.raft.initialize(&peers).await?.to_string())
    }

    async fn add(&self, request: v1::AddNodeRequest) -> Result<(), ApiError> {
        let node = request.node.ok_or_else(|| bad_node("node", "it is missing"))?;
        let peer = peer(node)?;
        self.hand_key_to(&peer).await?;
        Ok(self.node.raft.add_node(&peer).await?)
    }

    async fn hand_key_to(&self, peer: &raft::Peer) -> Result<(), ApiError> {
        let unreachable = |cause: String| {
            let message = format!("node {} at {} cannot be given the key", peer.id, peer.address);
            let failure = Failure::transient("node_unreachable", format!("{message}: {cause}"))
                .about(format!("node {}", peer.id))
                .remedy("start the node, and see that its address and certificate are right");
            ApiError::Unavailable(failure.into())
        };
        let channel = self.node.dialer.channel(&peer.address);
        let channel = channel.map_err(|error| unreachable(chain(&error)))?;
        let mut client = ClusterServiceClient::new(channel);
        let request = v1::InstallKeyRequest { key: self.node.vault.hand_out()?.to_vec().into() };
        match timeout(HAND_OVER_LIMIT, client.install_key(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(unreachable(chain(&status))),
            Err(_) => Err(unreachable("it does not answer".to_owned())),
        }
    }

    /// A member keeps its key: what is sealed in its log would be lost with it.
    async fn install(&self, request: &v1::InstallKeyRequest) -> Result<(), ApiError> {
        let member = self.node.raft.status().await.cluster.is_some();
        Ok(self.node.vault.install(&request.key, member)?)
    }

    async fn status(&self) -> v1::GetStatusResponse {
        let status = self.node.raft.status().await;
        let role = match status.role {
            Role::Uninitialized => "uninitialized",
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::Removed => "removed",
            Role::Stopped => "stopped",
        };
        let leader = status.leadership.leader;
        let members = status.members.into_iter().map(|member| v1::MemberStatus {
            id: member.id.0,
            address: member.address,
            voter: member.voter,
            matched_index: member.matched_index,
            last_heard_ms_ago: member
                .heard_ago
                .map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        });
        v1::GetStatusResponse {
            cluster_id: status.cluster.map(|id| id.to_string()).unwrap_or_default(),
            node_id: status.node.0,
            role: role.to_owned(),
            term: status.leadership.term,
            leader_id: leader.as_ref().map_or(0, |leader| leader.id.0),
            leader_address: leader.map(|leader| leader.address).unwrap_or_default(),
            last_log_index: status.last_log_index.unwrap_or(0),
            applied_index: status.applied_index.unwrap_or(0),
            snapshot_index: status.snapshot_index.unwrap_or(0),
            log_bytes: status.log_bytes,
            members: members.collect(),
            version: build_info::describe(),
        }
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn init_cluster(
        &self,
        request: Request<v1::InitClusterRequest>,
    ) -> Result<Response<v1::InitClusterResponse>, Status> {
        let cluster_id = self.init(request.into_inner()).await?;
        Ok(Response::new(v1::InitClusterResponse { cluster_id }))
    }

    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        Ok(Response::new(self.status().await))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<v1::AddNodeResponse>, Status> {
        self.add(request.into_inner()).await?;
        Ok(Response::new(v1::AddNodeResponse {}))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        let node = NodeId(request.into_inner().node_id);
        self.node.raft.remove_node(node).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::RemoveNodeResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let to = Some(request.into_inner().node_id).filter(|id| *id != 0).map(NodeId);
        let leader = self.node.raft.transfer_leader(to).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::TransferLeaderResponse { leader_id: leader.id.0 }))
    }

    async fn install_key(
        &self,
        request: Request<v1::InstallKeyRequest>,
    ) -> Result<Response<v1::InstallKeyResponse>, Status> {
        self.install(request.get_ref()).await?;
        Ok(Response::new(v1::InstallKeyResponse {}))
    }
}

fn peer(node: v1::Node) -> Result<raft::Peer, ApiError> {
    if node.id == 0 {
        return Err(bad_node("node.id", "a node has a number from 1"));
    }
    if node.address.is_empty() {
        return Err(bad_node("node.address", "a node has an address, host:port"));
    }
    Ok(raft::Peer { id: NodeId(node.id), address: node.address })
}

fn bad_node(field: &str, message: &str) -> ApiError {
    ApiError::invalid("bad_node", field, message, "name nodes as ID=HOST:PORT")
}

impl From<raft::Peer> for LeaderHint {
    fn from(peer: raft::Peer) -> LeaderHint {
        LeaderHint { id: peer.id, address: peer.address }
    }
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> ApiError {
        let message = chain(&error);
        let refused = |code: &'static str, remedy: &'static str| {
            ApiError::Refused(Failure::definite(code, message.clone()).remedy(remedy).into())
        };
        match error {
            ChangeError::NotLeader { leader } => ApiError::NotLeader(leader.map(LeaderHint::from)),
            ChangeError::OutcomeUnknown => ApiError::FateUnknown { cause: message },
            ChangeError::Stopped => ApiError::Stopping,
            ChangeError::InProgress => refused("change_in_progress", "wait until it has ended"),
            ChangeError::Size { .. } => refused("cluster_size", "name 1, 3 or 5 nodes"),
            ChangeError::Twice { .. } => refused("node_named_twice", "name each node once"),
            ChangeError::WithoutMe { .. } => {
                refused("node_not_named", "name all nodes, that which is asked among them")
            }
            ChangeError::AlreadyInitialized => {
                refused("already_initialized", "see `pgconvoy cluster status`")
            }
            ChangeError::TooMany => refused("too_many_nodes", "remove a node first"),
            ChangeError::AlreadyMember { .. } => {
                refused("already_member", "remove the node first, if it shall join anew")
            }
            ChangeError::NotMember { .. } => {
                refused("not_member", "`pgconvoy cluster status` shows the members")
            }
            ChangeError::NotVoter { .. } => refused("not_voter", "wait until it has caught up"),
            ChangeError::Last { .. } => refused("last_node", "add another node first"),
            ChangeError::Leads { .. } => {
                refused("node_leads", "run `pgconvoy cluster transfer-leader` first")
            }
            ChangeError::LosesQuorum { .. } => {
                refused("loses_quorum", "bring the missing nodes back, or remove those first")
            }
            ChangeError::Unreachable { .. } => {
                refused("node_unreachable", "start the node, and see that its address is right")
            }
            ChangeError::OtherNode { .. } => {
                refused("other_node", "see which node runs at that address")
            }
            ChangeError::NotEmpty { .. } => {
                refused("node_not_empty", "empty the node's data directory and start it again")
            }
            ChangeError::Behind { .. } => {
                refused("node_behind", "add it again to go on, or remove it")
            }
            ChangeError::NotTakenOver { .. } => {
                refused("not_taken_over", "see `pgconvoy cluster status`, and try again")
            }
            ChangeError::NobodyElse => {
                refused("nobody_else", "wait until another node has caught up")
            }
        }
    }
}

impl From<SecretsError> for ApiError {
    fn from(error: SecretsError) -> ApiError {
        let failure = Failure::definite("cluster_key", chain(&error));
        match error {
            SecretsError::OtherKey => ApiError::Refused(Box::new(failure.remedy(
                "a node that was a member of another cluster needs an empty data directory",
            ))),
            SecretsError::Length { .. } => ApiError::Invalid(Box::new(
                failure.remedy("keys are handed over by coordinators only"),
            )),
            SecretsError::File { .. }
            | SecretsError::Malformed { .. }
            | SecretsError::Missing { .. }
            | SecretsError::NoKey
            | SecretsError::Open { .. } => ApiError::Internal(Box::new(
                failure.remedy("see that `secret.key` in the data directory is whole"),
            )),
        }
    }
}
