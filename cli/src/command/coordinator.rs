//! `pgconvoy coordinator`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use pgconvoy_coordinator::{Coordinator as Node, CoordinatorConfig, Network, StartError};
use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::NodeId;

use crate::connect::TlsFlags;
use crate::exit::Exit;
use crate::problem::Problem;
use crate::settings::{Settings, required};

/// Run one coordinator node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy coordinator --node-id 1 --data-dir /var/lib/pgconvoy
  pgconvoy coordinator --node-id 1 --listen 10.0.0.11:7411 --http 127.0.0.1:7480 \\
      --data-dir /var/lib/pgconvoy --tls-ca ca.crt --tls-cert c1.crt --tls-key c1.key
  pgconvoy coordinator -c /etc/pgconvoy/coordinator.yaml

New nodes wait for `pgconvoy cluster init` or `pgconvoy cluster add-node`.")]
pub(super) struct Coordinator {
    /// File with settings (YAML), named like the flags; flags win over it
    #[arg(short = 'c', long, value_name = "FILE", env = "PGCONVOY_CONFIG")]
    config: Option<PathBuf>,
    /// The node's number in the cluster, the same for ever
    #[arg(long, value_name = "N", env = "PGCONVOY_NODE_ID")]
    node_id: Option<u64>,
    /// What to listen on for agents, clients and other nodes [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDRESS", env = "PGCONVOY_LISTEN")]
    listen: Option<SocketAddr>,
    /// How others reach it [default: what it listens on]
    #[arg(long, value_name = "HOST:PORT", env = "PGCONVOY_ADVERTISE")]
    advertise: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz, such as 127.0.0.1:7480 [default: nowhere]
    #[arg(long, value_name = "ADDRESS", env = "PGCONVOY_HTTP")]
    http: Option<SocketAddr>,
    /// Where it keeps its state
    #[arg(long, value_name = "DIR", env = "PGCONVOY_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Listen without TLS off loopback, where others can read and write everything
    #[arg(long)]
    insecure_plaintext: bool,
    #[command(flatten)]
    tls: TlsFlags,
}

impl Coordinator {
    pub(super) async fn run(self, shutdown: &Shutdown) -> Result<Exit, Problem> {
        let config = self.settle()?;
        let data_dir = config.data_dir.clone();
        let handle = Node::start(config, shutdown.clone())
            .await
            .map_err(|error| not_started(&error, &data_dir))?;
        if let Some(address) = handle.address() {
            tracing::info!("listening on {address}");
        }
        handle.stopped().await;
        Ok(exit_of(shutdown))
    }

    fn settle(self) -> Result<CoordinatorConfig, Problem> {
        let file = Settings::read(self.config.as_deref(), "coordinator")?;
        let node_id = required(file.pick(self.node_id, "node-id")?, "node-id")?;
        if node_id == 0 {
            let message = "a node's number is from 1";
            return Err(Problem::usage("bad_value", message, "give --node-id 1, 2, …"));
        }
        let network = Network {
            listen: file
                .pick(self.listen, "listen")?
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7411))),
            advertise: file.pick(self.advertise, "advertise")?,
            security: file.pick_tls(self.tls)?.security()?,
            insecure_plaintext: file.pick_switch(self.insecure_plaintext, "insecure-plaintext")?,
            fast_elections: false,
        };
        let data_dir = required(file.pick(self.data_dir, "data-dir")?, "data-dir")?;
        let http = file.pick(self.http, "http")?;
        let config = CoordinatorConfig::network(NodeId(node_id), data_dir, network);
        Ok(CoordinatorConfig { http, ..config })
    }
}

fn not_started(error: &StartError, data_dir: &Path) -> Problem {
    if matches!(error, StartError::Certificate(_)) {
        let remedy = "use a certificate made by `pgconvoy certs issue --role coordinator`";
        return Problem::usage("wrong_certificate", chain(error), remedy);
    }
    let failure = Failure::definite("coordinator_not_started", chain(error))
        .about(data_dir.display().to_string())
        .remedy("correct what the message names; nothing was changed");
    Problem::new(Exit::Usage, failure)
}

/// A long-running process ends by a signal, which is no failure of its, or because it could not go on.
pub(super) fn exit_of(shutdown: &Shutdown) -> Exit {
    match shutdown.reason() {
        Some(Reason::Failed { .. }) => Exit::Failed,
        Some(Reason::Signal(_)) => Exit::Interrupted,
        Some(Reason::Asked) | None => Exit::Done,
    }
}
