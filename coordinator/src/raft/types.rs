//! The types that openraft is told to use.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::StoreId;
use crate::store::snapshots::SnapshotFile;

openraft::declare_raft_types!(
    /// Entries and answers are bytes, snapshots are files.
    pub(super) TypeConfig:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Member,
        SnapshotData = SnapshotFile,
);

/// What was proposed; opaque here.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proposal(pub(super) Bytes);

/// What the machine answered; empty for entries that are not the machine's.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer(pub(super) Vec<u8>);

// What passes here may hold sealed secrets: its size is all a log needs.
impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.len())
    }
}

/// What the membership says of a node: where it is, and which data directory joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) address: String,
    pub(super) store: StoreId,
}

pub(super) type NodeNo = u64;
pub(super) type LogId = openraft::LogId<NodeNo>;
pub(super) type Vote = openraft::Vote<NodeNo>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type Membership = openraft::Membership<NodeNo, Member>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeNo, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeNo, Member>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<NodeNo>;
pub(super) type StorageIoError = openraft::StorageIOError<NodeNo>;
pub(super) type Metrics = openraft::RaftMetrics<NodeNo, Member>;
