//! The cluster as an operator sees it: by its gRPC services, over mutual TLS, through whichever node answers.

use std::time::Duration;

use anyhow::{Context, bail};
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::task_service_client::TaskServiceClient;
use pgconvoy_proto::v1::{
    Event, GetStatusRequest, GetTaskRequest, ListAgentsRequest, ListEventsRequest, Task,
};
use tonic::Status;
use tonic::transport::Channel;

/// A node that does not answer in this time is passed over for the next one.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Channels to all coordinators.
pub(super) struct Api {
    nodes: Vec<Channel>,
}

impl Api {
    pub(super) fn new(nodes: Vec<Channel>) -> Api {
        Api { nodes }
    }

    /// The task as it is now.
    pub(super) async fn task(&self, task: &str) -> anyhow::Result<Task> {
        let answer = self.ask(async |node| {
            let request = GetTaskRequest { task: task.to_owned(), tables_max: 1 };
            TaskServiceClient::new(node).get_task(request).await
        });
        answer.await?.task.context("an answer without a task")
    }

    /// All that happened to the task.
    pub(super) async fn events(&self, task: &str) -> anyhow::Result<Vec<Event>> {
        let answer = self.ask(async |node| {
            let request = ListEventsRequest { task: task.to_owned(), after: 0, limit: 0 };
            TaskServiceClient::new(node).list_events(request).await
        });
        Ok(answer.await?.events)
    }

    /// How many agents are there.
    pub(super) async fn agents(&self) -> anyhow::Result<usize> {
        let answer =
            self.ask(async |node| AgentServiceClient::new(node).list_agents(ListAgentsRequest {}).await);
        Ok(answer.await?.agents.len())
    }

    /// The node that leads, as far as one that answers knows.
    pub(super) async fn leader(&self) -> anyhow::Result<u64> {
        let answer =
            self.ask(async |node| ClusterServiceClient::new(node).get_status(GetStatusRequest {}).await);
        match answer.await?.leader_id {
            0 => bail!("no node leads"),
            leader => Ok(leader),
        }
    }

    /// The answer of the first node that has one.
    async fn ask<T>(
        &self,
        call: impl AsyncFn(Channel) -> Result<tonic::Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let mut refusals = String::new();
        for node in &self.nodes {
            match tokio::time::timeout(ANSWER_LIMIT, call(node.clone())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => refusals.push_str(&format!("{}; ", status.message())),
                Err(_) => refusals.push_str("no answer in time; "),
            }
        }
        bail!("no coordinator answers: {refusals}")
    }
}
