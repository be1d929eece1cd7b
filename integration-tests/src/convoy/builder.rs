//! What a convoy is made of, and how it comes up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use pgconvoy_proto::v1::{InitClusterRequest, Node};
use pgconvoy_runtime::tls::{Dialer, Role, Security};

use super::identity::{Authority, Maker};
use super::{COMMAND_LIMIT, Convoy, Coordinator, SETTLE_LIMIT};
use crate::net::{Namespace, Proxy, ports};
use crate::process::{Process, Program};
use crate::wait;

/// Says what to start; nothing runs before [`start`](Builder::start).
#[derive(Debug, Default)]
pub struct Builder {
    coordinators: u64,
    agents: Vec<AgentPlan>,
    tls: bool,
    by_commands: bool,
    flags: Vec<String>,
}

/// One agent to start.
#[derive(Debug, Clone)]
pub(super) struct AgentPlan {
    pub(super) name: String,
    site: Option<String>,
    slots: u32,
    more: Vec<String>,
    /// The network that it runs in.
    pub(super) network: Option<Namespace>,
    /// Another one, from which it can be dialled.
    pub(super) dialled_from: Option<Namespace>,
    /// How far it is from whoever dials it: latency, and bytes a second.
    pub(super) far: Option<(Duration, u64)>,
}

impl AgentPlan {
    pub(super) fn new(name: &str, site: Option<&str>) -> Self {
        let (name, site) = (name.to_owned(), site.map(str::to_owned));
        let (network, dialled_from, far) = (None, None, None);
        AgentPlan { name, site, slots: 4, more: Vec::new(), network, dialled_from, far }
    }

    pub(super) fn flags(&self) -> Vec<String> {
        let site = self.site.iter().flat_map(|site| ["--site".to_owned(), site.clone()]);
        site.chain(["--slots".to_owned(), self.slots.to_string()])
            .chain(self.more.iter().cloned())
            .collect()
    }
}

impl Builder {
    /// How many nodes: 1, 3 or 5.
    pub fn coordinators(mut self, count: u64) -> Self {
        self.coordinators = count;
        self
    }

    /// An agent without a site.
    pub fn agent(mut self, name: &str) -> Self {
        self.agents.push(AgentPlan::new(name, None));
        self
    }

    /// An agent without a site that runs so many units at once.
    pub fn agent_with_slots(mut self, name: &str, slots: u32) -> Self {
        self.agents.push(AgentPlan { slots, ..AgentPlan::new(name, None) });
        self
    }

    /// An agent without a site, with these flags beside the usual ones.
    pub fn agent_with_flags<'a>(
        mut self,
        name: &str,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let more = flags.into_iter().map(str::to_owned).collect();
        self.agents.push(AgentPlan { more, ..AgentPlan::new(name, None) });
        self
    }

    /// An agent of a site.
    pub fn agent_at(mut self, name: &str, site: &str) -> Self {
        self.agents.push(AgentPlan::new(name, Some(site)));
        self
    }

    /// An agent of a site, in that site's network; agents of `dialled_from` can dial it, by
    /// [`Convoy::relay_link`](super::Convoy::relay_link).
    pub fn agent_inside(
        mut self,
        name: &str,
        site: &str,
        network: &Namespace,
        dialled_from: Option<&Namespace>,
    ) -> Self {
        self.agents.push(AgentPlan {
            network: Some(network.clone()),
            dialled_from: dialled_from.cloned(),
            ..AgentPlan::new(name, Some(site))
        });
        self
    }

    /// An agent of a site that is dialled over a link: a byte arrives so much later, and there is room for so many a second.
    pub fn agent_far(
        mut self,
        name: &str,
        site: &str,
        latency: Duration,
        bytes_per_second: u64,
    ) -> Self {
        let far = Some((latency, bytes_per_second));
        self.agents.push(AgentPlan { far, ..AgentPlan::new(name, Some(site)) });
        self
    }

    /// Mutual TLS between all processes; without it, plain text on loopback.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Certificates and the cluster are made by the binary's commands, as an operator makes them, instead of by
    /// quicker calls from this process.
    pub fn by_commands(mut self) -> Self {
        self.by_commands = true;
        self
    }

    /// A flag for every coordinator, such as shorter leases.
    pub fn coordinator_flags<'a>(mut self, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.flags.extend(flags.into_iter().map(str::to_owned));
        self
    }

    /// Starts everything; returns when there is a leader that knows every agent.
    pub async fn start(self) -> anyhow::Result<Convoy> {
        // Fails early, and clearly, when nothing was built.
        Program::pgconvoy()?;
        let folder = tempfile::tempdir()?;
        let maker = if self.by_commands { Maker::Commands } else { Maker::Library };
        let authority = match self.tls {
            true => Some(Authority::make(&folder.path().join("tls"), maker).await?),
            false => None,
        };
        let security = authority
            .as_ref()
            .map_or(Security::Plaintext, |authority| authority.client().security());
        pgconvoy_runtime::install_crypto();
        let dialer = Dialer::new(&security).context("use the test's certificate")?;

        let count = self.coordinators.max(1);
        let mut coordinators = Vec::new();
        for id in 1..=count {
            coordinators.push(self.start_coordinator(id, authority.as_ref(), folder.path()).await?);
        }
        let mut convoy =
            Convoy { coordinators, agents: BTreeMap::new(), dialer, authority, folder };
        convoy.initialize(self.by_commands).await?;
        for plan in &self.agents {
            convoy.start_agent(plan).await?;
        }
        for plan in &self.agents {
            convoy.agent_known(&plan.name).await?;
        }
        Ok(convoy)
    }

    async fn start_coordinator(
        &self,
        id: u64,
        authority: Option<&Authority>,
        folder: &Path,
    ) -> anyhow::Result<Coordinator> {
        let name = format!("node-{id}");
        let [grpc, http] = ports::free_pair()?;
        let link = Proxy::to(grpc).await?;
        let mut program = Program::pgconvoy()?
            .args(["coordinator", "--node-id", &id.to_string()])
            .args(["--listen", &grpc.to_string(), "--advertise", &link.address().to_string()])
            .args(["--http", &http.to_string(), "--data-dir"])
            .arg(folder.join(&name))
            .args(&self.flags)
            .env("RUST_LOG", "info");
        if let Some(authority) = authority {
            program = program.args(authority.issue(Role::Coordinator, &name).await?.flags());
        }
        let process = Process::start(&name, program, folder)?;
        Ok(Coordinator { id, http, process, link })
    }
}

impl Convoy {
    /// Makes a cluster of the nodes, as soon as they answer.
    async fn initialize(&self, by_command: bool) -> anyhow::Result<()> {
        let nodes: Vec<Node> = self
            .coordinators
            .iter()
            .map(|node| Node { id: node.id(), address: node.address() })
            .collect();
        let first = &self.coordinators[0];
        wait::until(SETTLE_LIMIT, "every node to answer", async || {
            for node in &self.coordinators {
                if let Ok(Some(status)) = node.process().ended() {
                    return Ok(Err(anyhow::anyhow!(
                        "{} ended with {status}: {}",
                        node.process().name(),
                        node.process().log()
                    )));
                }
            }
            let silent = self.statuses().await.into_iter().find_map(Result::err);
            silent.map_or(Ok(Ok(())), Err)
        })
        .await??;
        if by_command {
            let flags: Vec<String> =
                nodes.iter().map(|node| format!("--node={}={}", node.id, node.address)).collect();
            let command = self.cli(["cluster", "init"])?.args(flags);
            command.run(COMMAND_LIMIT).await?.success().context("make the cluster")?;
        } else {
            let mut client = self.cluster_at(first)?;
            client.init_cluster(InitClusterRequest { nodes }).await.context("make the cluster")?;
        }
        self.leader().await.map(drop)
    }
}
