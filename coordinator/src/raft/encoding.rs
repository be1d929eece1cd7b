//! The bytes of entries, votes, positions and snapshot labels: on disk, and entries also on the wire.
//!
//! Own records instead of openraft's types, so that a new openraft does not change what old logs
//! mean. The first byte is the version; the golden bytes in the tests stay for ever.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{
    Entry, LogId, Member, Membership, NodeNo, Proposal, SnapshotMeta, StoredMembership, Vote,
};
use crate::store::{Mark, StoreId};

const VERSION: u8 = 1;

/// Bytes that no version of pgconvoy wrote, or a newer one.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadEncoding {
    #[error("there are no bytes")]
    Empty,
    #[error("its encoding has version {found}, this program knows {VERSION}")]
    Version { found: u8 },
    #[error("the bytes cannot be read")]
    Bytes(#[from] postcard::Error),
}

#[derive(Serialize, Deserialize)]
struct LogIdRecord {
    term: u64,
    leader: NodeNo,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct VoteRecord {
    term: u64,
    node: NodeNo,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct EntryRecord {
    id: LogIdRecord,
    payload: PayloadRecord,
}

#[derive(Serialize, Deserialize)]
enum PayloadRecord {
    /// The first entry of a leader.
    Blank,
    Proposal(#[serde(with = "serde_bytes")] Vec<u8>),
    Membership(MembershipRecord),
}

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// Two while the voters change, else one.
    voters: Vec<BTreeSet<NodeNo>>,
    nodes: BTreeMap<NodeNo, MemberRecord>,
}

#[derive(Serialize, Deserialize)]
struct MemberRecord {
    address: String,
    store: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct LabelRecord {
    last: Option<LogIdRecord>,
    membership_at: Option<LogIdRecord>,
    membership: MembershipRecord,
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("records hold nothing that cannot be encoded")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadEncoding> {
    let (&version, record) = bytes.split_first().ok_or(BadEncoding::Empty)?;
    if version != VERSION {
        return Err(BadEncoding::Version { found: version });
    }
    Ok(postcard::from_bytes(record)?)
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(id: LogIdRecord) -> Self {
        LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index)
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        let nodes = membership.nodes().map(|(&id, member)| {
            (id, MemberRecord { address: member.address.clone(), store: member.store.0 })
        });
        Self { voters: membership.get_joint_config().clone(), nodes: nodes.collect() }
    }
}

impl From<MembershipRecord> for Membership {
    fn from(record: MembershipRecord) -> Self {
        let nodes: BTreeMap<_, _> = record
            .nodes
            .into_iter()
            .map(|(id, node)| (id, Member { address: node.address, store: StoreId(node.store) }))
            .collect();
        Membership::new(record.voters, nodes)
    }
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let payload = match &entry.payload {
        EntryPayload::Blank => PayloadRecord::Blank,
        EntryPayload::Normal(proposal) => PayloadRecord::Proposal(proposal.0.to_vec()),
        EntryPayload::Membership(membership) => PayloadRecord::Membership(membership.into()),
    };
    encode(&EntryRecord { id: (&entry.log_id).into(), payload })
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, BadEncoding> {
    let record: EntryRecord = decode(bytes)?;
    let payload = match record.payload {
        PayloadRecord::Blank => EntryPayload::Blank,
        PayloadRecord::Proposal(bytes) => EntryPayload::Normal(Proposal(Bytes::from(bytes))),
        PayloadRecord::Membership(membership) => EntryPayload::Membership(membership.into()),
    };
    Ok(Entry { log_id: record.id.into(), payload })
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let id = vote.leader_id();
    encode(&VoteRecord { term: id.term, node: id.node_id, committed: vote.is_committed() })
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<Vote, BadEncoding> {
    let VoteRecord { term, node, committed } = decode(bytes)?;
    Ok(if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) })
}

pub(super) fn encode_mark(id: &LogId) -> Mark {
    Mark { index: id.index, bytes: encode(&LogIdRecord::from(id)) }
}

pub(super) fn decode_mark(mark: &Mark) -> Result<LogId, BadEncoding> {
    decode::<LogIdRecord>(&mark.bytes).map(LogId::from)
}

/// What stands first in a snapshot: up to where it reaches, and who the members are there.
pub(super) fn encode_label(meta: &SnapshotMeta) -> Vec<u8> {
    encode(&LabelRecord {
        last: meta.last_log_id.as_ref().map(Into::into),
        membership_at: meta.last_membership.log_id().as_ref().map(Into::into),
        membership: meta.last_membership.membership().into(),
    })
}

pub(super) fn decode_label(bytes: &[u8]) -> Result<SnapshotMeta, BadEncoding> {
    let label: LabelRecord = decode(bytes)?;
    let last = label.last.map(LogId::from);
    Ok(SnapshotMeta {
        snapshot_id: snapshot_id(last.as_ref()),
        last_log_id: last,
        last_membership: StoredMembership::new(
            label.membership_at.map(LogId::from),
            label.membership.into(),
        ),
    })
}

/// Where a snapshot ends says all about it: two that end at one place hold the same state.
pub(super) fn snapshot_id(last: Option<&LogId>) -> String {
    last.map_or_else(|| "empty".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, leader: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, leader), index)
    }

    fn membership() -> Membership {
        let member = |n: u8| Member { address: format!("node{n}:7411"), store: StoreId([n; 16]) };
        let nodes = BTreeMap::from([(1, member(1)), (2, member(2)), (3, member(3))]);
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 3])], nodes)
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn entries_keep_their_bytes() {
        let blank = Entry { log_id: log_id(3, 1, 300), payload: EntryPayload::Blank };
        let normal = Entry {
            log_id: log_id(3, 1, 301),
            payload: EntryPayload::Normal(Proposal(Bytes::from_static(b"hello"))),
        };
        let members =
            Entry { log_id: log_id(4, 2, 302), payload: EntryPayload::Membership(membership()) };
        let golden = [
            (blank, "010301ac0200"),
            (normal, "010301ad02010568656c6c6f"),
            (
                members,
                "010402ae02020202010202010303010a6e6f6465313a373431310101010101010101010101010101\
                 0101020a6e6f6465323a3734313102020202020202020202020202020202030a6e6f6465333a3734\
                 313103030303030303030303030303030303",
            ),
        ];
        for (entry, bytes) in golden {
            assert_eq!(hex(&encode_entry(&entry)), bytes);
            assert_eq!(decode_entry(&encode_entry(&entry)).expect("decodes"), entry);
        }
    }

    #[test]
    fn votes_positions_and_labels_keep_their_bytes() {
        for (vote, bytes) in
            [(Vote::new(5, 2), "01050200"), (Vote::new_committed(300, 1), "01ac020101")]
        {
            assert_eq!(hex(&encode_vote(&vote)), bytes);
            assert_eq!(decode_vote(&encode_vote(&vote)).expect("decodes"), vote);
        }
        let mark = encode_mark(&log_id(5, 2, 77));
        assert_eq!((mark.index, hex(&mark.bytes)), (77, "0105024d".into()));
        assert_eq!(decode_mark(&mark).expect("decodes"), log_id(5, 2, 77));

        let last = log_id(5, 2, 77);
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(log_id(4, 1, 70)), membership()),
            snapshot_id: snapshot_id(Some(&last)),
        };
        let label = encode_label(&meta);
        assert!(hex(&label).starts_with("010105024d01040146"), "{}", hex(&label));
        assert_eq!(decode_label(&label).expect("decodes"), meta);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        assert!(matches!(decode_entry(b""), Err(BadEncoding::Empty)));
        assert!(matches!(decode_entry(b"\x02abc"), Err(BadEncoding::Version { found: 2 })));
        assert!(matches!(decode_entry(b"\x01\xff"), Err(BadEncoding::Bytes(_))));
    }
}
