//! `AgentService`: the agents' sessions, and what operators ask of agents.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use pgconvoy_control::command::Command;
use pgconvoy_control::outcome::Outcome;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_service_server::AgentService;
use pgconvoy_runtime::tls::Peer;
use pgconvoy_shared::ids::{AgentId, BadId};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::error::ApiError;
use crate::node::Node;

pub(super) struct Agents {
    node: Arc<Node>,
}

impl Agents {
    pub(super) fn new(node: Arc<Node>) -> Agents {
        Agents { node }
    }

    async fn list(&self) -> Result<Vec<v1::Agent>, ApiError> {
        let leader = self.node.leader_for_reading().await?;
        Ok(leader.agents())
    }

    async fn set_draining(&self, agent: &str, draining: bool) -> Result<bool, ApiError> {
        let agent: AgentId = agent.parse().map_err(|bad: BadId| {
            ApiError::invalid(
                "bad_agent_id",
                "agent_id",
                bad.to_string(),
                "`pgconvoy agents list` shows the agents there are",
            )
        })?;
        let command = match draining {
            true => Command::DrainAgent { agent },
            false => Command::UndrainAgent { agent },
        };
        match self.node.propose(command).await? {
            Outcome::Agent { changed } => Ok(changed),
            other => Err(ApiError::internal(format!("an agent's command answers {other:?}"))),
        }
    }
}

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::LeaderMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = Peer::of(&request)
            .cloned()
            .ok_or_else(|| ApiError::internal("a connection without a peer"))?;
        let leader = self.node.leader()?;
        let outgoing = leader.serve(peer, request.into_inner())?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn list_agents(
        &self,
        _request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        Ok(Response::new(v1::ListAgentsResponse { agents: self.list().await? }))
    }

    async fn drain_agent(
        &self,
        request: Request<v1::DrainAgentRequest>,
    ) -> Result<Response<v1::DrainAgentResponse>, Status> {
        let changed = self.set_draining(&request.get_ref().agent_id, true).await?;
        Ok(Response::new(v1::DrainAgentResponse { changed }))
    }

    async fn undrain_agent(
        &self,
        request: Request<v1::UndrainAgentRequest>,
    ) -> Result<Response<v1::UndrainAgentResponse>, Status> {
        let changed = self.set_draining(&request.get_ref().agent_id, false).await?;
        Ok(Response::new(v1::UndrainAgentResponse { changed }))
    }
}
