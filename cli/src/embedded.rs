//! A coordinator and agents in this process, joined by an in-memory transport: what `migrate`, `precheck` and `verify` run, and
//! what a client command starts to read the state of a migration that does not run.
//!
//! They are the same coordinator and the same agents as in a cluster, and speak the same protocol. They have a shutdown
//! of their own, because an interrupted migration is first paused and only then stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgconvoy_agent::{Agent, AgentConfig, AgentHandle, Coordinators};
use pgconvoy_coordinator::{Coordinator, CoordinatorConfig, CoordinatorHandle};
use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::{Dialer, Security};
use pgconvoy_runtime::unix_socket;
use pgconvoy_shared::failure::Failure;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::client::Cluster;
use crate::exit::Exit;
use crate::problem::Problem;

/// The socket of a running migration, in its data directory.
const SOCKET: &str = "api.sock";
/// The key that seals passwords: each data directory has one.
const KEY: &str = "secret.key";
/// A node alone elects itself at once; reading a large log takes the rest.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Agents end their units, the coordinator its calls.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Whether a coordinator has worked on this directory: asking about a task must not begin a cluster in any folder.
pub(crate) fn is_data_dir(dir: &Path) -> bool {
    dir.join(KEY).exists()
}

/// The way to a migration that runs on this directory; none where none does.
pub(crate) async fn socket_of(dir: &Path) -> Result<Option<Channel>, Problem> {
    let socket = dir.join(SOCKET);
    if unix_socket::connect(&socket).await.is_err() {
        // No file, or one that a killed process left.
        return Ok(None);
    }
    let absolute =
        std::path::absolute(&socket).map_err(|error| failed("find the socket", &error))?;
    let dialer = Dialer::new(&Security::Plaintext).map_err(|error| failed("dial", &error))?;
    let channel = dialer.channel(&format!("unix:{}", absolute.display()));
    channel.map(Some).map_err(|error| failed("dial", &error))
}

/// A running coordinator, and the agents that were added to it.
pub(crate) struct Embedded {
    coordinator: CoordinatorHandle,
    /// Of the coordinator.
    shutdown: Shutdown,
    agents: Vec<AgentHandle>,
    /// Theirs alone: they stop first, while somebody still hears their last words.
    agents_shutdown: Shutdown,
}

impl Embedded {
    /// Starts a coordinator on a data directory.
    pub(crate) async fn start(dir: &Path) -> Result<Self, Problem> {
        let shutdown = Shutdown::new();
        let config = CoordinatorConfig::embedded(dir);
        let coordinator = Coordinator::start(config, shutdown.clone()).await.map_err(|error| {
            let failure = Failure::definite(
                "data_dir_unusable",
                format!("the data directory `{}` cannot be used: {}", dir.display(), chain(&error)),
            );
            let remedy = "see whether another migration uses it, and whether it may be written";
            Problem::new(Exit::Usage, failure.about(dir.display().to_string()).remedy(remedy))
        })?;
        let agents_shutdown = Shutdown::new();
        let embedded = Self { coordinator, shutdown, agents: Vec::new(), agents_shutdown };
        match timeout(READY_LIMIT, embedded.coordinator.ready()).await {
            Ok(Ok(())) => Ok(embedded),
            Ok(Err(stopped)) => {
                let problem = embedded.cause().unwrap_or_else(|| failed("start", &stopped));
                embedded.stop().await;
                Err(problem)
            }
            Err(elapsed) => {
                embedded.stop().await;
                Err(failed("start the embedded coordinator", &elapsed))
            }
        }
    }

    /// Starts agents beside the coordinator, each with this many slots. `differences`: where they list every row that differs.
    pub(crate) async fn add_agents(
        &mut self,
        count: u32,
        slots: u32,
        differences: Option<PathBuf>,
    ) -> Result<(), Problem> {
        for number in 1..=count {
            let name = format!("embedded-{number}");
            let config = AgentConfig {
                id: name.parse().expect("a word, a hyphen and a number"),
                site: None,
                slots,
                listener: None,
                advertise: None,
                coordinators: Coordinators::Channel(self.coordinator.channel()),
                differences: differences.clone(),
            };
            let agent = Agent::start(config, self.agents_shutdown.clone()).await;
            self.agents.push(agent.map_err(|error| failed("start an agent", &error))?);
        }
        Ok(())
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::Channel(self.coordinator.channel())
    }

    /// Returns when a part of it that cannot be done without has ended by itself.
    pub(crate) async fn failed(&self) -> Problem {
        tokio::select! {
            () = self.shutdown.begun() => {}
            () = self.agents_shutdown.begun() => {}
        }
        self.cause().unwrap_or(Problem::Told(Exit::Failed))
    }

    fn cause(&self) -> Option<Problem> {
        let reason = self.shutdown.reason().or_else(|| self.agents_shutdown.reason())?;
        let failure = Failure::other("internal_error", reason.to_string()).remedy(
            "run the command again: it goes on from what is kept; report it if it comes again",
        );
        Some(Problem::new(Exit::Failed, failure))
    }

    /// Ends agents and coordinator, in this order.
    pub(crate) async fn stop(self) {
        let stopping = async {
            self.agents_shutdown.begin(Reason::Asked);
            for agent in self.agents {
                // One that died was logged; there is nothing left to stop.
                let _died = agent.stopped().await;
            }
            self.shutdown.begin(Reason::Asked);
            self.coordinator.stopped().await;
        };
        // State is durable at any moment; what does not end in time ends with the process.
        let _in_time = timeout(STOP_LIMIT, stopping).await;
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> Problem {
    let failure = Failure::other("internal_error", format!("cannot {what}: {}", chain(error)));
    Problem::new(Exit::Failed, failure)
}
