//! Why a coordinator does not start.

use std::path::PathBuf;

use pgconvoy_runtime::tls::TlsError;

use crate::raft::{self, ChangeError};
use crate::secrets::SecretsError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make the data directory `{path}`")]
    DataDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("a coordinator cannot use this certificate")]
    Certificate(#[source] TlsError),
    #[error("cannot open the gRPC port")]
    Listen(#[source] TlsError),
    #[error("cannot open the HTTP port")]
    Http(#[source] TlsError),
    #[error("cannot open the log")]
    Raft(#[from] raft::StartError),
    #[error("cannot use the cluster's key")]
    Secrets(#[from] SecretsError),
    #[error("cannot make a cluster of this node")]
    Initialize(#[from] ChangeError),
}

/// The node ended before it was ready; the log tells why.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator has stopped")]
pub struct Stopped;
