//! A database that a task reads from or writes to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Which of a task's two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the rows come from.
    Source,
    /// Where they go.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// How much a connection trusts the network; libpq's names and meanings.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// No TLS unless the server insists.
    Allow,
    /// TLS if the server offers it (libpq's default).
    #[default]
    Prefer,
    /// TLS, the certificate not checked unless a root certificate is given.
    Require,
    /// TLS, the certificate signed by the root.
    VerifyCa,
    /// TLS, and the certificate is for this host.
    VerifyFull,
}

/// Where a database is and how to speak to it; the password stands apart, as a [`crate::secret::Secret`] or sealed.
///
/// Certificates and keys are paths on the agent that connects, as with libpq.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Host name, address, or the directory of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port, or the socket's number.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// Role to log in as.
    pub user: String,
    /// TLS or not.
    pub sslmode: SslMode,
    /// File with the trusted root certificates.
    pub sslrootcert: Option<String>,
    /// File with the client certificate.
    pub sslcert: Option<String>,
    /// File with the client's key.
    pub sslkey: Option<String>,
    /// Connect timeout in seconds; 0 = ours.
    pub connect_timeout_secs: u32,
    /// Run-time settings asked for in the URL (`options=-c name=value`), set in each session before ours.
    pub settings: BTreeMap<String, String>,
    /// Only agents of this site touch it; none = any agent that reaches it.
    pub site: Option<String>,
}

/// For people: never a password, for there is none in it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}
