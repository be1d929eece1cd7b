//! The way to the cluster.
//!
//! Any coordinator answers unary calls (a follower forwards them); streams are the leader's, whose address a follower
//! gives in metadata `pgconvoy-leader`. Every call of ours may be repeated: each is idempotent, and creating a task
//! carries a request id. So a call goes to another node ([`nodes`]) until one answers, for as long as an election may
//! take, and a stream that broke is opened again.

mod nodes;

use std::time::Duration;

use pgconvoy_proto::status::{failure_of, leader_of};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::task_service_client::TaskServiceClient;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::{Failure, FailureClass};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::exit::Exit;
use crate::problem::Problem;
pub(crate) use nodes::Nodes;

/// With nobody listening anywhere, an election cannot be the reason.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(3);
/// An election takes at most twice its longest timeout of 3 s, and may have to be held again.
const ELECTION_LIMIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(250);
/// A task with very many tables is larger than gRPC's default of 4 MiB: some 300 bytes a table.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub(crate) type TaskClient = TaskServiceClient<Channel>;
pub(crate) type AgentClient = AgentServiceClient<Channel>;
pub(crate) type ClusterClient = ClusterServiceClient<Channel>;

/// The coordinators, over whatever leads to them.
#[derive(Debug, Clone)]
pub(crate) enum Cluster {
    /// At their addresses.
    Nodes(Nodes),
    /// One that is in this process, or behind its socket.
    Channel(Channel),
}

impl Cluster {
    /// Asks the task service.
    pub(crate) async fn tasks<R>(
        &self,
        ask: impl AsyncFn(TaskClient) -> Result<Response<R>, Status>,
    ) -> Result<R, Problem> {
        self.ask(async |channel| {
            ask(TaskClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)).await
        })
        .await
    }

    /// Asks the agent service.
    pub(crate) async fn agents<R>(
        &self,
        ask: impl AsyncFn(AgentClient) -> Result<Response<R>, Status>,
    ) -> Result<R, Problem> {
        self.ask(async |channel| ask(AgentClient::new(channel)).await).await
    }

    /// Asks the cluster service.
    pub(crate) async fn cluster<R>(
        &self,
        ask: impl AsyncFn(ClusterClient) -> Result<Response<R>, Status>,
    ) -> Result<R, Problem> {
        self.ask(async |channel| ask(ClusterClient::new(channel)).await).await
    }

    /// One task, with at most this many tables (0 = all).
    pub(crate) async fn task(&self, task: &str, tables_max: u32) -> Result<v1::Task, Problem> {
        let request = || v1::GetTaskRequest { task: task.to_owned(), tables_max };
        let answer = self.tasks(async |mut client| client.get_task(request()).await).await?;
        answer.task.ok_or_else(|| unexpected("the answer holds no task"))
    }

    /// Calls `seen` with the task whenever it changed, until `seen` has seen enough or the task has ended. Gives the
    /// task as it was last.
    pub(crate) async fn watch(
        &self,
        task: &str,
        tables_max: u32,
        mut seen: impl FnMut(&v1::Task) -> Result<Watch, Problem>,
    ) -> Result<v1::Task, Problem> {
        let request = || v1::WatchTaskRequest { task: task.to_owned(), tables_max };
        loop {
            let mut stream =
                self.tasks(async |mut client| client.watch_task(request()).await).await?;
            let mut last = None;
            loop {
                match stream.message().await {
                    Ok(Some(update)) => {
                        let Some(task) = update.task else { continue };
                        if seen(&task)? == Watch::Enough {
                            return Ok(task);
                        }
                        last = Some(task);
                    }
                    Ok(None) => break,
                    Err(status) => match judge(&status) {
                        Verdict::Final(problem) => return Err(problem),
                        Verdict::Elsewhere { .. } => break,
                    },
                }
            }
            if let Some(task) = last.filter(crate::view::task::has_ended) {
                return Ok(task);
            }
            // The leader went away; the next one will be found as for any call.
            sleep(PAUSE).await;
        }
    }

    /// The cluster as its leader sees it, or as well as it can be told without one.
    pub(crate) async fn status(&self) -> Result<v1::GetStatusResponse, Problem> {
        match self {
            Self::Nodes(nodes) => nodes.status().await.map_err(Verdict::into_problem),
            Self::Channel(_) => {
                self.cluster(async |mut client| client.get_status(v1::GetStatusRequest {}).await)
                    .await
            }
        }
    }

    async fn channel(&self) -> Result<Channel, Verdict> {
        match self {
            Self::Nodes(nodes) => nodes.channel().await,
            Self::Channel(channel) => Ok(channel.clone()),
        }
    }

    /// The one that was asked last did not answer as it should.
    fn leave(&self, leader: Option<&str>) -> Result<(), Problem> {
        match self {
            Self::Nodes(nodes) => nodes.leave(leader),
            Self::Channel(_) => Ok(()),
        }
    }

    async fn ask<R>(
        &self,
        ask: impl AsyncFn(Channel) -> Result<Response<R>, Status>,
    ) -> Result<R, Problem> {
        let begun = Instant::now();
        let mut follows_a_hint = false;
        let mut somebody_is_there = false;
        loop {
            let verdict = match self.channel().await {
                Err(verdict) => verdict,
                Ok(channel) => match ask(channel).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => judge(&status),
                },
            };
            let (leader, reached, problem) = match verdict {
                Verdict::Final(problem) => return Err(problem),
                Verdict::Elsewhere { leader, reached, problem } => (leader, reached, problem),
            };
            somebody_is_there |= reached;
            let limit = if somebody_is_there { ELECTION_LIMIT } else { UNREACHABLE_LIMIT };
            if begun.elapsed() > limit {
                return Err(problem);
            }
            self.leave(leader.as_deref())?;
            // Two nodes that each name the other as leader must not keep us spinning.
            if follows_a_hint || leader.is_none() {
                sleep(PAUSE).await;
            }
            follows_a_hint = leader.is_some();
        }
    }
}

/// Whether to go on watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    Enough,
    Further,
}

/// What an answer that is an error means for the call.
#[derive(Debug)]
enum Verdict {
    /// It is the answer.
    Final(Problem),
    /// Another node, or this one later, can answer.
    Elsewhere { leader: Option<String>, reached: bool, problem: Problem },
}

impl Verdict {
    fn into_problem(self) -> Problem {
        match self {
            Self::Final(problem) | Self::Elsewhere { problem, .. } => problem,
        }
    }
}

fn judge(status: &Status) -> Verdict {
    match failure_of(status) {
        Some(failure) if failure.class == FailureClass::Transient => Verdict::Elsewhere {
            leader: leader_of(status).map(str::to_owned),
            reached: true,
            problem: Problem::new(Exit::NoCoordinator, failure),
        },
        Some(failure) => Verdict::Final(Problem::new(exit_of(status.code()), failure)),
        // Without our details it was made on the way, most likely by a connection that could not be had or broke. One with
        // a source was made in this process: plain text where TLS is spoken, for one, is an `Internal`.
        None if std::error::Error::source(status).is_some()
            || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) =>
        {
            unreached(&causes(status))
        }
        None => Verdict::Final(unexpected(&format!("{:?}: {}", status.code(), causes(status)))),
    }
}

fn unreached(why: &str) -> Verdict {
    let message = format!("no coordinator could be reached: {why}");
    let failure = Failure::transient("no_coordinator", message).remedy(
        "see whether one runs and whether --coordinators (PGCONVOY_COORDINATORS), --data-dir and the --tls flags are \
         right",
    );
    let problem = Problem::new(Exit::NoCoordinator, failure);
    Verdict::Elsewhere { leader: None, reached: false, problem }
}

/// The message and what it stems from; tonic's own "transport error" alone says nothing.
fn causes(status: &Status) -> String {
    let source = std::error::Error::source(status);
    let mut deepest = source.map(chain).unwrap_or_default();
    if deepest.is_empty() {
        deepest = status.message().to_owned();
    }
    deepest.trim_start_matches("transport error: ").to_owned()
}

fn unexpected(what: &str) -> Problem {
    let failure = Failure::other("unexpected_answer", format!("the answer makes no sense: {what}"))
        .remedy("see whether this is a pgconvoy coordinator, and of the same version");
    Problem::new(Exit::Failed, failure)
}

fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => Exit::Usage,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests;
