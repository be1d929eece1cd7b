//! Taking up the office of leader, and laying it down.
//!
//! Raft says who leads; a node that was cut off for a while may lead again within the same term.
//! Each time it is a new [`Leader`], which knows of no agent yet and gives each of them a lease time
//! to be heard.

use std::sync::Arc;

use pgconvoy_runtime::tasks;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Leader, Seat, driver, heartbeats};
use crate::api::error::LeaderHint;
use crate::node::Node;
use crate::raft::Leadership;

/// Follows Raft's word on who leads, and takes up and lays down the office.
pub(crate) async fn follow(node: Arc<Node>, seat: watch::Sender<Seat>, stop: CancellationToken) {
    let mut leadership = node.raft.leadership();
    let mut office: Option<Office> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let leads = now.is_self && now.ready;
        if office.as_ref().is_some_and(|office| !leads || office.leader.term != now.term)
            && let Some(ended) = office.take()
        {
            seat.send_replace(Seat::Vacant);
            ended.lay_down(&now).await;
        }
        if leads && office.is_none() {
            let taken = Office::take(&node, now.term);
            seat.send_replace(Seat::Here(Arc::clone(&taken.leader)));
            office = Some(taken);
        } else if office.is_none() {
            seat.send_replace(match successor(&now) {
                Some(leader) => Seat::Elsewhere(leader),
                None if now.removed => Seat::Removed,
                None => Seat::Vacant,
            });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
        }
    }
    seat.send_replace(Seat::Vacant);
    if let Some(ended) = office.take() {
        let now = leadership.borrow().clone();
        ended.lay_down(&now).await;
    }
}

/// Another node that leads.
fn successor(now: &Leadership) -> Option<LeaderHint> {
    now.leader.clone().filter(|_| !now.is_self).map(LeaderHint::from)
}

/// A leader with what runs for it.
struct Office {
    leader: Arc<Leader>,
    driver: tasks::Owned<()>,
    heartbeats: tasks::Owned<()>,
}

impl Office {
    fn take(node: &Arc<Node>, term: u64) -> Office {
        info!("leading the cluster in term {term}");
        let leader = Arc::new(Leader::new(Arc::clone(node), term));
        let driver = tasks::owned("leader's driver", driver::run(Arc::clone(&leader)));
        let heartbeats = tasks::owned("heartbeats", heartbeats::run(Arc::clone(&leader)));
        Office { leader, driver, heartbeats }
    }

    async fn lay_down(self, now: &Leadership) {
        info!("no longer leading in term {}", self.leader.term);
        if let Some(successor) = successor(now) {
            // Set nowhere else, and an office ends once.
            let _first = self.leader.successor.set(successor);
        }
        self.leader.ended.cancel();
        self.leader.sessions.close_all();
        for task in [self.driver, self.heartbeats] {
            if let Err(died) = task.await {
                error!("{died}");
            }
        }
    }
}
