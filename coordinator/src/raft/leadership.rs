//! Who leads, as far as this node can tell, and whether it may act on it.
//!
//! openraft 0.9 calls a node leader until somebody else wins. A leader that is cut off would go on
//! granting leases that nobody knows of, so here it counts as leader only while a quorum answered
//! within the lease. After that others may elect a new one, and so `leader` is nobody.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use pgconvoy_shared::ids::NodeId;
use tokio::time::Instant;

use super::node::Core;
use super::types::{Metrics, NodeNo};

/// A node and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub id: NodeId,
    pub address: String,
}

/// Who leads. `is_self` may come back within one term, after a pause without a quorum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// Nobody while it is not known.
    pub leader: Option<Peer>,
    /// This node leads, and a quorum said so within the lease.
    pub is_self: bool,
    /// And it has applied all that its predecessors committed: what it decides now, it decides
    /// knowing everything.
    pub ready: bool,
    /// Nobody leads this node any more: it was removed from the cluster.
    pub removed: bool,
}

pub(super) fn peer(metrics: &Metrics, id: NodeNo) -> Option<Peer> {
    let membership = metrics.membership_config.membership();
    let member = membership.get_node(&id)?;
    Some(Peer { id: NodeId(id), address: member.address.clone() })
}

/// `age`: how long ago the metrics were reported; `quiet`: since when no leader was heard.
fn judge(
    metrics: &Metrics,
    age: Duration,
    quiet: Duration,
    lease: Duration,
    election: Duration,
) -> Leadership {
    let term = metrics.current_term;
    let nobody = Leadership { term, ..Leadership::default() };
    if metrics.running_state.is_err() {
        return nobody;
    }
    let Some(leader) = metrics.current_leader else { return nobody };
    if leader != metrics.id {
        let leader = if quiet > election { None } else { peer(metrics, leader) };
        return Leadership { leader, ..nobody };
    }
    // Alone it is its own quorum, however long it was held up: there is nobody who could take over meanwhile.
    let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
    let acked = metrics.millis_since_quorum_ack.map(|millis| Duration::from_millis(millis) + age);
    let heard = alone || acked.is_some_and(|acked| acked <= lease);
    if metrics.state != ServerState::Leader || !heard {
        return nobody;
    }
    // Its first entry is applied, so everything before it is.
    let ready = metrics.last_applied.is_some_and(|applied| {
        applied.leader_id.term == term && applied.leader_id.node_id == metrics.id
    });
    Leadership { term, leader: peer(metrics, leader), is_self: true, ready, removed: false }
}

/// Publishes who leads, until Raft stops; then says why it did.
pub(super) async fn watch(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    let mut removed = core.removed.subscribe();
    let mut reported = Instant::now();
    loop {
        let ended = tokio::select! {
            changed = removed.changed() => changed.is_err(),
            changed = metrics.changed() => {
                reported = Instant::now();
                changed.is_err()
            }
            () = tokio::time::sleep(core.timings.heartbeat) => false,
        };
        let (now, stopped) = {
            let metrics = metrics.borrow_and_update();
            let quiet = core.contact.quiet();
            let (lease, election) = (core.timings.lease, core.timings.election.end);
            let now = judge(&metrics, reported.elapsed(), quiet, lease, election);
            (now, metrics.running_state.as_ref().err().map(ToString::to_string))
        };
        let stopped = stopped.or_else(|| ended.then(|| "Raft ended without saying why".to_owned()));
        let now = if stopped.is_some() {
            Leadership { term: now.term, ..Leadership::default() }
        } else {
            Leadership { removed: *removed.borrow() && now.leader.is_none(), ..now }
        };
        core.leadership.send_if_modified(|last| {
            let changed = *last != now;
            if changed {
                *last = now;
            }
            changed
        });
        if let Some(cause) = stopped {
            core.stopped.send_replace(Some(cause));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use openraft::{CommittedLeaderId, LogId, Membership, StoredMembership};

    use super::*;
    use crate::raft::types::Member;

    const LEASE: Duration = Duration::from_millis(100);
    const ELECTION: Duration = Duration::from_millis(300);

    fn metrics(id: u64, leader: u64) -> Metrics {
        let member = |n: u64| (n, Member { address: format!("n{n}"), ..Member::default() });
        let nodes: BTreeMap<_, _> = [1, 2, 3].map(member).into();
        let membership = Membership::new(vec![BTreeSet::from([1, 2, 3])], nodes);
        let mut metrics = Metrics::new_initial(id);
        metrics.current_term = 4;
        metrics.current_leader = Some(leader);
        metrics.state = if id == leader { ServerState::Leader } else { ServerState::Follower };
        metrics.membership_config = Arc::new(StoredMembership::new(None, membership));
        metrics.millis_since_quorum_ack = (id == leader).then_some(20);
        metrics.last_applied = Some(LogId::new(CommittedLeaderId::new(4, leader), 9));
        metrics
    }

    fn judged(metrics: &Metrics, age_ms: u64, quiet_ms: u64) -> Leadership {
        let ms = Duration::from_millis;
        judge(metrics, ms(age_ms), ms(quiet_ms), LEASE, ELECTION)
    }

    #[test]
    fn a_leader_counts_while_a_quorum_answers() {
        let leads = judged(&metrics(1, 1), 0, 9_000);
        assert!(leads.is_self && leads.ready);
        assert_eq!(leads.leader, Some(Peer { id: NodeId(1), address: "n1".into() }));
        let lost = judged(&metrics(1, 1), 81, 0);
        assert_eq!(lost, Leadership { term: 4, ..Leadership::default() });
        let mut fresh = metrics(1, 1);
        fresh.millis_since_quorum_ack = None;
        assert!(!judged(&fresh, 0, 0).is_self);
    }

    #[test]
    fn a_leader_alone_loses_its_quorum_to_nobody() {
        let mut alone = metrics(1, 1);
        let nodes = BTreeMap::from([(1, Member::default())]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes);
        alone.membership_config = Arc::new(StoredMembership::new(None, membership));
        alone.millis_since_quorum_ack = Some(9_000);
        assert!(judged(&alone, 9_000, 9_000).ready);
    }

    #[test]
    fn a_leader_is_ready_once_its_own_first_entry_is_applied() {
        let mut elected = metrics(1, 1);
        elected.last_applied = Some(LogId::new(CommittedLeaderId::new(3, 2), 8));
        let leads = judged(&elected, 0, 0);
        assert!(leads.is_self && !leads.ready);
    }

    #[test]
    fn a_follower_names_the_leader_it_hears() {
        let heard = judged(&metrics(2, 1), 0, 200);
        assert_eq!(heard.leader.map(|leader| leader.id), Some(NodeId(1)));
        assert!(!heard.is_self);
        assert_eq!(judged(&metrics(2, 1), 0, 301).leader, None);
    }
}
