//! How a node learns that it was removed from its cluster.
//!
//! Removing a node ends what the others send to it, so it may never see the change that removed it; and one that was down
//! then certainly does not. It would stand at the door for ever, without a leader, and tell a stale story. So a node that
//! hears no leader asks the others, which it does before any election (see `election`), and each of them that *knows of a
//! committed change* by which the asker is no member says so, together with that change's place in the log. The asker
//! believes it if its own members are older than that: a node that was added lately knows better than one that lags.
//!
//! The belief is kept in memory and ends with the next message of a leader, for a node that is removed can be added again.

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::raft_refusal::Cause;

use super::identity::refusal;
use super::node::Core;
use super::types::Metrics;

/// Refuses a sender that is a member no more.
pub(super) fn check_sender(
    metrics: &Metrics,
    envelope: Option<&v1::RaftEnvelope>,
) -> Result<(), v1::RaftRefusal> {
    let members = &metrics.membership_config;
    // Members that are not committed may yet turn out never to have been.
    let Some(at) = members.log_id().filter(|at| metrics.last_applied >= Some(*at)) else {
        return Ok(());
    };
    let Some(from) = envelope.map(|envelope| envelope.from) else { return Ok(()) };
    if members.membership().get_node(&from).is_some() {
        return Ok(());
    }
    let message = format!("node {from} was removed from the cluster");
    Err(v1::RaftRefusal { members_index: at.index, ..refusal(Cause::Removed, message) })
}

impl Core {
    /// Another node refuses this one.
    pub(super) fn heed(&self, refusal: &v1::RaftRefusal) {
        let own = self.raft.metrics().borrow().membership_config.log_id().map(|at| at.index);
        if refusal.cause() != Cause::Removed || own >= Some(refusal.members_index) {
            return;
        }
        if !self.removed.send_replace(true) {
            tracing::warn!(
                "this node was removed from its cluster: stop it, and take its address out of --coordinators \
                 (PGCONVOY_COORDINATORS) everywhere; to use it again, empty its data directory and add it with \
                 `pgconvoy cluster add-node`"
            );
        }
    }

    /// A leader speaks to this node, so it is a member.
    pub(super) fn belongs(&self) {
        self.removed.send_if_modified(std::mem::take);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};

    use super::*;
    use crate::raft::types::Member;

    /// A node whose log says at 7 that nodes 1 and 2 are the members, and that has applied this much.
    fn applied(index: u64) -> Metrics {
        let at = |index| LogId::new(CommittedLeaderId::new(4, 1), index);
        let nodes: BTreeMap<_, _> = [1, 2].map(|id| (id, Member::default())).into();
        let members = Membership::new(vec![BTreeSet::from([1, 2])], nodes);
        let mut metrics = Metrics::new_initial(1);
        metrics.membership_config = Arc::new(StoredMembership::new(Some(at(7)), members));
        metrics.last_applied = Some(at(index));
        metrics
    }

    fn said_to(from: u64, metrics: &Metrics) -> Result<(), v1::RaftRefusal> {
        check_sender(metrics, Some(&v1::RaftEnvelope { from, ..Default::default() }))
    }

    #[test]
    fn only_who_is_no_member_by_a_committed_change_is_told_so() {
        assert_eq!(said_to(2, &applied(9)), Ok(()));
        let refusal = said_to(3, &applied(7)).expect_err("it is no member");
        assert_eq!((refusal.cause(), refusal.members_index), (Cause::Removed, 7));
        assert_eq!(said_to(3, &applied(6)), Ok(()), "the change may yet be undone");
    }
}
