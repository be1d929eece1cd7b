//! Why a store does not open, or stopped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pgconvoy_shared::ids::NodeId;

/// What to do about a store that cannot be trusted any more.
const REPLACE: &str = "this node cannot take part with it: on the leader run `pgconvoy cluster remove-node`, empty the \
     data directory, start the node again and `pgconvoy cluster add-node` it";

/// What was found wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the value of `{key}` does not match its checksum")]
    Checksum { key: String },
    #[error("the value of `{key}` is incomplete")]
    Incomplete { key: String },
    #[error("the value of `{key}` cannot be read: {reason}")]
    Unreadable { key: String, reason: String },
    #[error("there is a key that no version of pgconvoy writes: {key}")]
    UnknownKey { key: String },
    #[error("the log goes on with entry {found} where {expected} is missing")]
    Hole { expected: u64, found: u64 },
    #[error("the log ends at {last:?}, though entry {committed} was committed")]
    Short { last: Option<u64>, committed: u64 },
    #[error("the log begins after entry {purged}, but the newest snapshot ends at {snapshot:?}")]
    Uncovered { purged: u64, snapshot: Option<u64> },
    #[error("it has entries or a vote, but no header")]
    NoHeader,
    #[error("snapshot `{file}`: {reason}")]
    Snapshot { file: String, reason: String },
    #[error("sled cannot read it: {reason}")]
    Sled { reason: String },
}

/// A store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("data directory {}: another process uses it", dir.display())]
    InUse { dir: PathBuf },
    #[error("data directory {}: it belongs to node {found}, not to node {wanted}: start it with its own --node-id, or give this node another directory", dir.display())]
    OtherNode { dir: PathBuf, found: NodeId, wanted: NodeId },
    #[error("data directory {}: its data version {found} is newer than the {supported} this program knows: use the newer program", dir.display())]
    TooNew { dir: PathBuf, found: u32, supported: u32 },
    #[error("data directory {}: damaged: {damage}; {REPLACE}", dir.display())]
    Damaged { dir: PathBuf, damage: Damage },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{action} in sled")]
    Sled {
        action: &'static str,
        #[source]
        source: sled::Error,
    },
    #[error("entry {index} has {bytes} bytes, more than the {limit} that one may have")]
    TooLarge { index: u64, bytes: usize, limit: usize },
    #[error("entry {index} does not follow entry {last:?}")]
    NotNext { index: u64, last: Option<u64> },
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// A write failed, and so does every later one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store cannot be written any more")]
pub struct WriteError(#[source] Arc<StoreError>);

impl WriteError {
    pub(super) fn new(cause: StoreError) -> Self {
        Self(Arc::new(cause))
    }

    /// What went wrong first.
    #[must_use]
    pub fn cause(&self) -> &StoreError {
        &self.0
    }
}
