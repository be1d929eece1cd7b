//! Between openraft's types and the contract's.

use openraft::CommittedLeaderId;
use pgconvoy_proto::v1;

use super::types::{LogId, Vote};

pub(super) fn ballot(vote: &Vote) -> v1::RaftBallot {
    let id = vote.leader_id();
    v1::RaftBallot { term: id.term, node: id.node_id, committed: vote.is_committed() }
}

pub(super) fn vote(ballot: &v1::RaftBallot) -> Vote {
    if ballot.committed {
        Vote::new_committed(ballot.term, ballot.node)
    } else {
        Vote::new(ballot.term, ballot.node)
    }
}

pub(super) fn log_id(id: &v1::RaftLogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index)
}

pub(super) fn raft_log_id(id: &LogId) -> v1::RaftLogId {
    v1::RaftLogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}
