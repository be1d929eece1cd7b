//! A certificate authority for one test, and what it issued.

use std::path::{Path, PathBuf};

use pgconvoy_runtime::certs;
use pgconvoy_runtime::tls::{Role, Security, TlsFiles};

use super::COMMAND_LIMIT;
use crate::process::Program;

/// Hosts under which every process of a test can be dialled.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

/// An authority in a folder.
pub(super) struct Authority {
    folder: PathBuf,
    maker: Maker,
    client: Identity,
}

/// Who makes certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Maker {
    /// This process: quick.
    #[default]
    Library,
    /// The commands of the binary, as an operator uses them.
    Commands,
}

/// The files of one process.
#[derive(Clone)]
pub(super) struct Identity(TlsFiles);

impl Authority {
    pub(super) async fn make(folder: &Path, maker: Maker) -> anyhow::Result<Authority> {
        std::fs::create_dir_all(folder)?;
        match maker {
            Maker::Library => {
                certs::init(folder)?;
            }
            Maker::Commands => {
                run(Program::pgconvoy()?.args(["certs", "init"]).arg(folder)).await?
            }
        }
        let client = issue(folder, maker, Role::Client, "test").await?;
        Ok(Authority { folder: folder.to_owned(), maker, client })
    }

    /// A certificate for a process.
    pub(super) async fn issue(&self, role: Role, name: &str) -> anyhow::Result<Identity> {
        issue(&self.folder, self.maker, role, name).await
    }

    /// The test's own certificate.
    pub(super) fn client(&self) -> &Identity {
        &self.client
    }
}

impl Identity {
    /// As the binary's flags want it.
    pub(super) fn flags(&self) -> Vec<String> {
        let TlsFiles { ca, cert, key } = &self.0;
        [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)]
            .iter()
            .flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])
            .collect()
    }

    pub(super) fn security(&self) -> Security {
        Security::Mutual(self.0.clone())
    }
}

async fn issue(folder: &Path, maker: Maker, role: Role, name: &str) -> anyhow::Result<Identity> {
    match maker {
        Maker::Library => {
            certs::issue(folder, role, name, &HOSTS.map(str::to_owned), folder)?;
        }
        Maker::Commands => {
            let program = Program::pgconvoy()?.args(["certs", "issue"]).arg(folder);
            let program = program.args(["--role", role.as_str(), "--name", name]);
            run(program.args(["--host", &HOSTS.join(",")])).await?;
        }
    }
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    Ok(Identity(TlsFiles { ca: folder.join("ca.crt"), cert: file("crt"), key: file("key") }))
}

async fn run(program: Program) -> anyhow::Result<()> {
    program.run(COMMAND_LIMIT).await?.success().map(drop)
}
