//! How the nodes of a cluster agree on one log, and what this node may say about it.
//!
//! An entry is bytes, an answer is bytes: what they mean is the business of the [`Machine`] that the
//! log drives. openraft does the consensus; around it stands what it leaves open:
//!
//! - `log`, `machine`, `install`: the store and the state machine as openraft wants them, and the
//!   order between a snapshot and the purge that it allows;
//! - `identity`: which messages are for this node, so that an emptied data directory cannot vote;
//! - `network`, `service`, `wire`, `peers`: messages over gRPC, cut by bytes, snapshots as streams;
//! - `election`: nobody stands for election who cannot win it (openraft 0.9 has no pre-vote);
//! - `leadership`: who leads, and whether this node may act on it (a leader that lost its quorum
//!   leads nobody, though openraft 0.9 goes on calling it one);
//! - `compaction`: snapshots and purges by bytes of log, not by entries;
//! - `members`, `handover`: making, growing and shrinking a cluster, and moving its leader;
//! - `removal`: how a node learns that it belongs to its cluster no more.
//!
//! openraft's types stop at this module: a newer openraft is this module's work and nobody else's.

mod compaction;
mod election;
mod encoding;
mod error;
mod handover;
mod identity;
mod install;
mod leadership;
mod log;
mod machine;
mod members;
mod network;
mod node;
mod peers;
mod removal;
mod service;
mod status;
#[cfg(test)]
mod suite;
mod timings;
mod types;
mod wire;

pub use self::compaction::Compaction;
pub use self::error::{ChangeError, ProposeError, ReadError, StartError};
pub use self::leadership::{Leadership, Peer};
pub use self::machine::{ApplyError, Frozen, Machine, RestoreError};
pub use self::members::VOTERS_MAX;
pub use self::node::{PROPOSAL_BYTES_MAX, RaftConfig, RaftNode};
pub use self::peers::Connector;
pub use self::service::Service;
pub use self::status::{MemberStatus, Role, Status};
pub use self::timings::Timings;
