//! How a client command finds its coordinators, and the flags for it.

use std::path::{Path, PathBuf};

use clap::Args;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::{Dialer, Security, TlsFiles};
use tonic::transport::Channel;

use crate::client::{Cluster, Nodes};
use crate::embedded::{Embedded, is_data_dir, socket_of};
use crate::problem::Problem;

/// The certificates of this process.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsFlags {
    /// Certificate authorities to trust (PEM); turns mutual TLS on, together with the two below
    #[arg(long, value_name = "FILE", env = "PGCONVOY_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate to show (PEM)
    #[arg(long, value_name = "FILE", env = "PGCONVOY_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "PGCONVOY_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
}

impl TlsFlags {
    pub(crate) fn security(self) -> Result<Security, Problem> {
        match (self.tls_ca, self.tls_cert, self.tls_key) {
            (None, None, None) => Ok(Security::Plaintext),
            (Some(ca), Some(cert), Some(key)) => Ok(Security::Mutual(TlsFiles { ca, cert, key })),
            _ => Err(Problem::usage(
                "bad_usage",
                "--tls-ca, --tls-cert and --tls-key belong together, and one is missing",
                "give all three, or none of them",
            )),
        }
    }
}

/// Where the coordinators are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Coordinators")]
pub(crate) struct Coordinators {
    /// Addresses of coordinators, any of them: host:port, https://host:port or unix:/path
    #[arg(
        long,
        value_name = "URL,…",
        env = "PGCONVOY_COORDINATORS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7411"
    )]
    pub(crate) coordinators: Vec<String>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
}

impl Coordinators {
    pub(crate) fn cluster(self) -> Result<Cluster, Problem> {
        let addresses: Vec<String> =
            self.coordinators.into_iter().filter(|address| !address.is_empty()).collect();
        if addresses.is_empty() {
            return Err(Problem::usage(
                "bad_usage",
                "no coordinator is named",
                "give --coordinators host:port,…",
            ));
        }
        let security = self.tls.security()?;
        let dialer = Dialer::new(&security).map_err(|error| {
            let remedy =
                "name a certificate, its own private key, and the authority that both ends trust";
            Problem::usage("bad_certificates", chain(&error), remedy)
        })?;
        Ok(Cluster::Nodes(Nodes::new(dialer, addresses)?))
    }
}

/// Where the coordinators are, or the data directory of an embedded migration.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    #[command(flatten)]
    coordinators: Coordinators,
    /// Data directory of an embedded migration (`migrate --data-dir`), running or not; instead of --coordinators
    #[arg(long, value_name = "DIR", help_heading = "Coordinators")]
    data_dir: Option<PathBuf>,
}

impl Reach {
    /// Opens the way, asks, and ends whatever was started for it.
    pub(crate) async fn with<R>(
        self,
        ask: impl AsyncFnOnce(&Cluster) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        self.with_idle(async |cluster, _| ask(cluster).await).await
    }

    /// The same for what may need an agent: `ask` is told when nothing runs on the data directory.
    pub(crate) async fn with_idle<R>(
        self,
        ask: impl AsyncFnOnce(&Cluster, Option<Idle<'_>>) -> Result<R, Problem>,
    ) -> Result<R, Problem> {
        let Some(dir) = self.data_dir else {
            return ask(&self.coordinators.cluster()?, None).await;
        };
        if let Some(channel) = running(&dir).await? {
            return ask(&Cluster::Channel(channel), None).await;
        }
        let mut embedded = Embedded::start(&dir).await?;
        let cluster = embedded.cluster();
        let answer = ask(&cluster, Some(Idle { embedded: &mut embedded, dir: &dir })).await;
        embedded.stop().await;
        answer
    }
}

/// A data directory that nothing runs on but the coordinator, without agents, that was started to read it.
pub(crate) struct Idle<'a> {
    pub(crate) embedded: &'a mut Embedded,
    pub(crate) dir: &'a Path,
}

/// The migration that runs on this directory; none where a coordinator of our own, without agents, has to read it.
async fn running(dir: &Path) -> Result<Option<Channel>, Problem> {
    if !is_data_dir(dir) {
        return Err(Problem::usage(
            "no_data_dir",
            format!("`{}` is no data directory of a migration", dir.display()),
            "name the directory that was given to `migrate --data-dir` (its default is .pgconvoy)",
        ));
    }
    socket_of(dir).await
}
