//! Who may speak to whom.
//!
//! Every process of a cluster has a certificate of one authority, listens with it and dials with
//! it: both ends prove who they are. A dialler checks that the listener's certificate names the
//! host it dialled; a listener reads the [`Identity`] of its peer from the peer's certificate and
//! hands it to the services with each request. Certificates are replaced by replacing the files:
//! each new connection is made with what the files hold then.
//!
//! Plain text is for loopback, and elsewhere for those who ask for it by name. A Unix socket needs
//! no TLS: only this user gets through.

mod accept;
mod connect;
mod identity;
mod reload;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use crate::connection::{Connection, Peer};
pub use accept::Listener;
pub use connect::{Dialer, bulk_server, server};
pub use identity::{Identity, IdentityError, Role};

/// How the connections of a process are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plaintext,
    /// Both ends show a certificate of the same authority.
    Mutual(TlsFiles),
}

impl Security {
    /// Refuses a certificate that was not issued for this role, and, where a name is given, for this name: every other
    /// process would refuse it too, one call after the other. Plain text proves nothing and is let through.
    pub fn require(&self, role: Role, name: Option<&str>) -> Result<(), TlsError> {
        let Security::Mutual(files) = self else { return Ok(()) };
        let identity = reload::identity(&files.cert)?;
        if identity.role == role && name.is_none_or(|name| identity.name == name) {
            return Ok(());
        }
        let wanted = match name {
            Some(name) => format!("{role} and name {name}"),
            None => role.to_string(),
        };
        Err(TlsError::OtherIdentity { path: files.cert.clone(), identity, wanted })
    }
}

/// The PEM files of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that are trusted; more than one while an authority is being replaced.
    pub ca: PathBuf,
    /// The certificate shown, followed by intermediate ones if there are any.
    pub cert: PathBuf,
    /// The private key of `cert`.
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is no PEM file of the kind it should be")]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("`{path}` holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("the certificate authority in `{path}` cannot be used")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificate in `{cert}` and the key in `{key}` cannot be used together")]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificate in `{path}` cannot be used here")]
    Identity {
        path: PathBuf,
        #[source]
        source: IdentityError,
    },
    #[error(
        "the certificate in `{path}` is that of {identity}; one of role {wanted} is needed here"
    )]
    OtherIdentity { path: PathBuf, identity: Identity, wanted: String },
    #[error("these TLS settings cannot be used")]
    Settings {
        #[source]
        source: rustls::Error,
    },
    #[error(
        "`{address}` is no address: {problem}; write host:port, https://host:port or unix:/path"
    )]
    Address { address: String, problem: &'static str },
    #[error(
        "`{address}` asks for TLS, but no certificate was given; give --tls-ca, --tls-cert and --tls-key"
    )]
    CertificateMissing { address: String },
    #[error("`{address}` asks for plain text, but certificates were given; write https://")]
    PlaintextNotWanted { address: String },
    #[error(
        "will not listen on {address} in plain text, where others can read and write it; \
         give --tls-ca, --tls-cert and --tls-key, or --insecure-plaintext"
    )]
    PlaintextOffLoopback { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("another process already listens on {path}")]
    InUse { path: PathBuf },
}
