//! A certificate authority for one test, and what it issued.

use std::path::{Path, PathBuf};

use pgconvoy_runtime::certs;
use pgconvoy_runtime::tls::{Role, Security, TlsFiles};

/// Hosts under which every process of a test can be dialled.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

/// An authority in a folder.
pub(super) struct Authority {
    folder: PathBuf,
    client: Identity,
}

/// The files of one process.
#[derive(Clone)]
pub(super) struct Identity(TlsFiles);

impl Authority {
    pub(super) fn make(folder: &Path) -> anyhow::Result<Authority> {
        std::fs::create_dir_all(folder)?;
        certs::init(folder)?;
        let client = issue(folder, Role::Client, "test")?;
        Ok(Authority { folder: folder.to_owned(), client })
    }

    /// A certificate for a process.
    pub(super) fn issue(&self, role: Role, name: &str) -> anyhow::Result<Identity> {
        issue(&self.folder, role, name)
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

fn issue(folder: &Path, role: Role, name: &str) -> anyhow::Result<Identity> {
    let written = certs::issue(folder, role, name, &HOSTS.map(str::to_owned), folder)?;
    Ok(Identity(TlsFiles { ca: folder.join("ca.crt"), cert: written.cert, key: written.key }))
}
