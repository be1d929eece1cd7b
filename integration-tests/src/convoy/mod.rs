//! A whole pgconvoy of processes: coordinators and agents, with mutual TLS where asked.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use pgconvoy_integration_tests::convoy::Convoy;
//!
//! let convoy = Convoy::builder().coordinators(3).agent("anna").agent_at("bert", "cloud").tls().start().await?;
//! let leader = convoy.leader().await?;
//! convoy.coordinator(leader).process().kill()?;
//! let next = convoy.leader().await?;
//! assert_ne!(leader, next);
//! convoy.cli(["task", "list"])?.run(std::time::Duration::from_secs(10)).await?.success()?;
//! # Ok(()) }
//! ```
//!
//! Every process is started as a user would start it, by flags, and is reached by the public gRPC interface. Each
//! coordinator is dialled through a [`Proxy`], by its peers, agents and clients, so that a test can take it off the
//! network without a change to it.

mod builder;
mod identity;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::task_service_client::TaskServiceClient;
use pgconvoy_proto::v1::{
    GetStatusRequest, GetStatusResponse, GetTaskRequest, ListAgentsRequest, Task, TaskStatus,
};
use pgconvoy_runtime::tls::{Dialer, Role};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::logs::Expected;
use crate::net::{Link, Namespace, Proxy, page, ports};
use crate::process::{Process, Program};
use crate::wait;

use builder::AgentPlan;
pub use builder::Builder;
use identity::Authority;

/// For an election, a start, a registration on a loaded machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// For a command of the binary that makes files or asks a cluster on this machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster with its agents; everything is killed when it is dropped.
pub struct Convoy {
    coordinators: Vec<Coordinator>,
    agents: BTreeMap<String, Agent>,
    dialer: Dialer,
    authority: Option<Authority>,
    // Last: processes write into it while they are killed.
    folder: TempDir,
}

/// One node of the cluster.
pub struct Coordinator {
    id: u64,
    http: SocketAddr,
    process: Process,
    /// Where everybody else finds it.
    link: Proxy,
}

/// One agent.
struct Agent {
    process: Process,
    /// Its own way to each coordinator that it was told of, from the first node on.
    links: Vec<Proxy>,
    /// The way of other sites' agents to it.
    relay: Option<Proxy>,
    /// The same, where it is a long one.
    _far: Option<Link>,
    network: Option<Namespace>,
    /// Its HTTP listener, in that network.
    http: SocketAddr,
}

impl Coordinator {
    /// Its node id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The way to it, which can be cut, stalled and so on. It does not touch what the node dials itself.
    pub fn link(&self) -> &Proxy {
        &self.link
    }

    /// Its HTTP listener.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Its address as others know it.
    pub fn address(&self) -> String {
        self.link.address().to_string()
    }
}

impl Convoy {
    /// Says what to start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The nodes, by id from 1 on.
    pub fn coordinators(&self) -> &[Coordinator] {
        &self.coordinators
    }

    /// One node.
    pub fn coordinator(&self, id: u64) -> &Coordinator {
        self.coordinators
            .iter()
            .find(|node| node.id == id)
            .expect("the test asks for a node that it started")
    }

    /// One agent's process.
    pub fn agent(&self, name: &str) -> &Process {
        &self.started(name).process
    }

    /// One agent's own way to the coordinators, which can be cut, stalled and so on for it alone. Of a single node: where
    /// there are more, a follower sends it to the leader past this way.
    pub fn agent_link(&self, name: &str) -> &Proxy {
        let [link] = self.started(name).links.as_slice() else {
            panic!("agents of a cluster are sent from node to node past their own links")
        };
        link
    }

    /// The way by which agents of another site dial this one.
    pub fn relay_link(&self, name: &str) -> &Proxy {
        self.started(name).relay.as_ref().expect("the test asks for a way that it made")
    }

    /// What an agent tells Prometheus under a name.
    pub async fn metric(&self, agent: &str, name: &str) -> anyhow::Result<u64> {
        let Agent { network, http, .. } = self.started(agent);
        let (_, text) = page(network.as_ref(), *http, "/metrics").await?;
        let told = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(told.with_context(|| format!("no {name} in {text}"))?.trim().parse()?)
    }

    fn started(&self, name: &str) -> &Agent {
        self.agents.get(name).expect("the test asks for an agent that it started")
    }

    /// The agents' names.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.agents.keys().map(String::as_str)
    }

    /// Starts one more agent and waits until the leader knows it.
    pub async fn add_agent(&mut self, name: &str, site: Option<&str>) -> anyhow::Result<()> {
        self.start_agent(&AgentPlan::new(name, site)).await?;
        self.agent_known(name).await
    }

    async fn start_agent(&mut self, plan: &AgentPlan) -> anyhow::Result<()> {
        let mut links = Vec::new();
        for node in &self.coordinators {
            let network = plan.network.as_ref();
            links.push(Proxy::between(network, None, node.link.address()).await?);
        }
        let coordinators = listed(links.iter().map(|link| link.address().to_string()));
        let [listen, http] = match &plan.network {
            Some(network) => network.free_addresses()?,
            None => ports::free_pair()?,
        };
        let far = match plan.far {
            Some((latency, rate)) => Some(Link::to(listen, latency, rate).await?),
            None => None,
        };
        let relay = match &plan.dialled_from {
            Some(network) => {
                Some(Proxy::between(Some(network), plan.network.as_ref(), listen).await?)
            }
            None => None,
        };
        let mut program = Program::pgconvoy()?
            .args(["agent", "--id", &plan.name, "--listen", &listen.to_string()])
            .args(["--http", &http.to_string()])
            .args(["--coordinators", &coordinators])
            .args(plan.flags())
            .env("RUST_LOG", "info");
        if let Some(authority) = &self.authority {
            program = program.args(authority.issue(Role::Agent, &plan.name).await?.flags());
        }
        if let Some(network) = &plan.network {
            program = program.inside(network);
        }
        let dialled = relay.as_ref().map(Proxy::address).or(far.as_ref().map(Link::address));
        if let Some(dialled) = dialled {
            program = program.args(["--advertise", &dialled.to_string()]);
        }
        let process = Process::start(&plan.name, program, self.folder.path())?;
        let network = plan.network.clone();
        let agent = Agent { process, links, relay, _far: far, network, http };
        self.agents.insert(plan.name.clone(), agent);
        Ok(())
    }

    /// Every coordinator's address, as flags want it.
    pub fn addresses(&self) -> String {
        listed(self.coordinators.iter().map(Coordinator::address))
    }

    /// A client command of the binary, with the cluster's addresses and a client certificate.
    pub fn cli<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Program> {
        self.cli_at(&self.addresses(), arguments)
    }

    /// The same, with other addresses of coordinators.
    pub fn cli_at<'a>(
        &self,
        addresses: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<Program> {
        let mut program = Program::pgconvoy()?.args(arguments).args(["--coordinators", addresses]);
        if let Some(authority) = &self.authority {
            program = program.args(authority.client().flags());
        }
        Ok(program)
    }

    /// A folder for the test's own files, gone with the convoy.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Waits until one node says that it leads, and another (in a cluster) agrees; its id.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        let found = wait::until(SETTLE_LIMIT, "a leader", async || {
            let answers = self.statuses().await;
            let leader = answers
                .iter()
                .flatten()
                .filter(|status| status.role == "leader")
                .max_by_key(|s| s.term);
            let Some(leader) = leader else { return Err(summary(&answers)) };
            let votes = answers
                .iter()
                .flatten()
                .filter(|status| status.leader_id == leader.node_id)
                .count();
            if votes * 2 > self.coordinators.len() {
                Ok(leader.node_id)
            } else {
                Err(summary(&answers))
            }
        });
        Ok(found.await?)
    }

    /// What each node says of the cluster; an error from those that do not answer.
    pub async fn statuses(&self) -> Vec<Result<GetStatusResponse, String>> {
        let ask = async |node: &Coordinator| {
            let mut client = self.cluster_at(node).map_err(|error| error.to_string())?;
            let answer = tokio::time::timeout(
                Duration::from_secs(2),
                client.get_status(GetStatusRequest {}),
            )
            .await;
            match answer {
                Ok(Ok(status)) => Ok(status.into_inner()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("silent".to_owned()),
            }
        };
        futures::future::join_all(self.coordinators.iter().map(ask)).await
    }

    /// Waits until the leader says that an agent is alive.
    pub async fn agent_known(&self, name: &str) -> anyhow::Result<()> {
        let what = format!("agent {name} to be alive");
        let known = wait::until(SETTLE_LIMIT, &what, async || {
            let process = self.agent(name);
            if let Ok(Some(status)) = process.ended() {
                return Ok(Err(anyhow::anyhow!("{name} ended with {status}: {}", process.log())));
            }
            let mut client = self.agent_service().await.map_err(|error| format!("{error:#}"))?;
            let answer = client
                .list_agents(ListAgentsRequest {})
                .await
                .map_err(|error| error.to_string())?;
            let agents = answer.into_inner().agents;
            match agents.iter().find(|agent| agent.id == name) {
                Some(agent) if agent.status == "alive" => Ok(Ok(())),
                Some(agent) => Err(agent.status.clone()),
                None => Err(format!("{} others", agents.len())),
            }
        });
        known.await?
    }

    /// A task as the leader shows it.
    pub async fn task(&self, id: &str) -> anyhow::Result<Task> {
        let request = GetTaskRequest { task: id.to_owned(), tables_max: 0 };
        let answer = self.tasks().await?.get_task(request).await.context("get the task")?;
        answer.into_inner().task.context("an answer without a task")
    }

    /// Waits until a task is as wanted; fails at once when it ended otherwise.
    pub async fn task_until(
        &self,
        id: &str,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Task) -> bool,
    ) -> anyhow::Result<Task> {
        let seen = wait::until(limit, what, async || {
            // No leader for a moment is no end: ask again.
            let task = self.task(id).await.map_err(|error| format!("{error:#}"))?;
            if wanted(&task) {
                return Ok(Ok(task));
            }
            let ended = match task.status() {
                TaskStatus::Done | TaskStatus::Failed => true,
                // Its last unit cleans up.
                TaskStatus::Cancelled => task.cleaned_up,
                TaskStatus::Unspecified
                | TaskStatus::Created
                | TaskStatus::Running
                | TaskStatus::Paused => false,
            };
            if ended {
                Ok(Err(anyhow::anyhow!("waited for {what}, yet {}", short(&task))))
            } else {
                Err(short(&task))
            }
        });
        seen.await?
    }

    /// Tasks, asked of the leader.
    pub async fn tasks(&self) -> anyhow::Result<TaskServiceClient<Channel>> {
        Ok(TaskServiceClient::new(self.channel(self.coordinator(self.leader().await?))?))
    }

    /// Tasks, asked of one node: a follower forwards.
    pub fn tasks_at(&self, node: &Coordinator) -> anyhow::Result<TaskServiceClient<Channel>> {
        Ok(TaskServiceClient::new(self.channel(node)?))
    }

    /// Agents, asked of the leader.
    pub async fn agent_service(&self) -> anyhow::Result<AgentServiceClient<Channel>> {
        Ok(AgentServiceClient::new(self.channel(self.coordinator(self.leader().await?))?))
    }

    /// The cluster, asked of one node.
    pub fn cluster_at(&self, node: &Coordinator) -> anyhow::Result<ClusterServiceClient<Channel>> {
        Ok(ClusterServiceClient::new(self.channel(node)?))
    }

    fn channel(&self, node: &Coordinator) -> anyhow::Result<Channel> {
        self.dialer.channel(&node.address()).with_context(|| format!("dial node {}", node.id))
    }

    /// Fails if any process logged what was not expected.
    pub fn check_logs(&self, expected: &Expected) -> anyhow::Result<()> {
        let agents = self.agents.values().map(|agent| &agent.process);
        let processes = self.coordinators.iter().map(Coordinator::process).chain(agents);
        for process in processes {
            let texts = process.log() + &process.stdout();
            expected.check(&texts).with_context(|| format!("the log of {}", process.name()))?;
        }
        Ok(())
    }
}

/// Addresses as a flag wants them.
fn listed(addresses: impl Iterator<Item = String>) -> String {
    addresses.collect::<Vec<_>>().join(",")
}

fn summary(answers: &[Result<GetStatusResponse, String>]) -> String {
    let short = |answer: &Result<GetStatusResponse, String>| match answer {
        Ok(status) => format!(
            "{} {} follows {} in term {}",
            status.node_id, status.role, status.leader_id, status.term
        ),
        Err(error) => error.clone(),
    };
    answers.iter().map(short).collect::<Vec<_>>().join("; ")
}

fn short(task: &Task) -> String {
    let cause = task.cause.as_ref().map(|cause| format!(": {cause:?}")).unwrap_or_default();
    format!(
        "it is {:?} in {:?}, {} of {} rows, {} running{cause}",
        task.status(),
        task.phase(),
        task.rows_done,
        task.rows_total,
        task.running.len()
    )
}
