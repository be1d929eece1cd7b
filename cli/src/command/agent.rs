//! `pgconvoy agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use pgconvoy_agent::{Agent as Process, AgentConfig, AgentError, Coordinators};
use pgconvoy_runtime::http;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_runtime::tasks::{self, Kind};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::Listener;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::AgentId;

use super::coordinator::exit_of;
use crate::connect::TlsFlags;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::settings::{Settings, required};

const SLOTS_DEFAULT: u32 = 8;

/// Run one agent: near the source, near the destination, or anywhere that reaches both
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy agent --id a1 --coordinators 127.0.0.1:7411
  pgconvoy agent --id a1 --site dc1 --slots 8 --coordinators c1:7411,c2:7411,c3:7411 \\
      --tls-ca ca.crt --tls-cert a1.crt --tls-key a1.key
  pgconvoy agent -c /etc/pgconvoy/agent.yaml

The first signal lets it give its units back; they go on elsewhere from their checkpoints. With
mutual TLS its certificate must name the role agent and its --id.")]
pub(super) struct Agent {
    /// File with settings (YAML), named like the flags; flags win over it
    #[arg(short = 'c', long, value_name = "FILE", env = "PGCONVOY_CONFIG")]
    config: Option<PathBuf>,
    /// Its name, the same over restarts
    #[arg(long, value_name = "NAME", env = "PGCONVOY_AGENT_ID")]
    id: Option<AgentId>,
    /// Its network location; without one it touches only endpoints that have none
    #[arg(long, value_name = "NAME", env = "PGCONVOY_SITE")]
    site: Option<String>,
    /// Units it runs at once, whatever their tasks allow; following and cutting over take no slot [default: 8]
    #[arg(long, value_name = "N", env = "PGCONVOY_SLOTS")]
    slots: Option<u32>,
    /// Coordinators, any of them: host:port or https://host:port
    #[arg(long, value_name = "URL,…", env = "PGCONVOY_COORDINATORS", value_delimiter = ',')]
    coordinators: Vec<String>,
    /// Where to serve agents of other sites, and the gRPC health service, such as 10.0.0.7:7431 [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "PGCONVOY_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where agents of other sites dial it [default: --listen]
    #[arg(long, value_name = "HOST:PORT", env = "PGCONVOY_ADVERTISE")]
    advertise: Option<String>,
    /// Folder where it lists every row that a comparison finds to differ, a file of JSON lines for each shard [default: none]
    #[arg(long, value_name = "DIR", env = "PGCONVOY_DIFFERENCES")]
    differences: Option<PathBuf>,
    /// Where to serve /metrics, /healthz and /readyz, such as 127.0.0.1:7481 [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "PGCONVOY_HTTP")]
    http: Option<SocketAddr>,
    /// Listen without TLS off loopback
    #[arg(long)]
    insecure_plaintext: bool,
    #[command(flatten)]
    tls: TlsFlags,
}

impl Agent {
    pub(super) async fn run(self, shutdown: &Shutdown) -> Result<Exit, Problem> {
        let file = Settings::read(self.config.as_deref(), "agent")?;
        let security = file.pick_tls(self.tls)?.security()?;
        let insecure = file.pick_switch(self.insecure_plaintext, "insecure-plaintext")?;
        let listener = match file.pick(self.listen, "listen")? {
            Some(address) => Some(
                Listener::bind(address, &security, insecure)
                    .map_err(|error| not_started(chain(&error)))?,
            ),
            None => None,
        };
        let http = file.pick(self.http, "http")?;
        let http = http.map(|address| http::bind(address, &security, insecure)).transpose();
        let http = http.map_err(|error| not_started(chain(&error)))?;
        let id = required(file.pick(self.id, "id")?, "id")?;
        let config = AgentConfig {
            id: id.clone(),
            site: file.pick(self.site, "site")?,
            slots: file.pick(self.slots, "slots")?.unwrap_or(SLOTS_DEFAULT),
            listener,
            advertise: file.pick(self.advertise, "advertise")?,
            coordinators: Coordinators::Addresses {
                addresses: file.pick_list(self.coordinators, "coordinators")?,
                security,
            },
            differences: file.pick(self.differences, "differences")?,
        };
        let agent =
            Process::start(config, shutdown.clone()).await.map_err(|error| problem(&id, error))?;
        if let Some(listener) = http {
            let serving = http::serve(listener, Arc::new(agent.probe()), shutdown.token());
            tasks::spawn(Kind::Critical(shutdown.clone()), "HTTP", serving);
        }
        agent.stopped().await.map_err(|error| problem(&id, error))?;
        Ok(exit_of(shutdown))
    }
}

fn problem(id: &AgentId, error: AgentError) -> Problem {
    match error {
        AgentError::NoCoordinator | AgentError::NoSlots | AgentError::Connection(_) => {
            not_started(chain(&error))
        }
        AgentError::Certificate(_) => {
            let remedy = format!(
                "start it under the name its certificate has, or use one made by `pgconvoy certs issue --role agent \
                 --name {id}`"
            );
            Problem::usage("wrong_certificate", chain(&error), remedy)
        }
        AgentError::Refused(failure) => Problem::new(Exit::Usage, *failure),
        AgentError::Died(_) => {
            Problem::new(Exit::Failed, Failure::other("internal_error", chain(&error)))
        }
    }
}

fn not_started(message: String) -> Problem {
    let remedy = "correct what the message names";
    Problem::usage("agent_not_started", message, remedy)
}
