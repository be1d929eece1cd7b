//! The answers that renew leases.
//!
//! An answered heartbeat gives its agent all its leases for one lease time more, counted from when
//! the agent *sent* it. So it may be answered only by a node that still led after it had arrived:
//!
//! 1. the heartbeat arrives, and the leader's liveness notes it;
//! 2. a quorum confirms that this node still leads, by a round that began after 1.;
//! 3. the state, which has then all that was committed before, still has this life of the agent;
//! 4. the session is still the agent's, and the agent is not condemned;
//! 5. the answer is sent.
//!
//! A later leader was elected after 2. began, and declares nobody lost before one lease time has
//! passed since its election: by then the lease that 5. renews is over. One round serves all
//! heartbeats that wait when it begins.

use std::sync::{Arc, Mutex};

use pgconvoy_proto::v1::HeartbeatAck;
use pgconvoy_proto::v1::leader_message::Message;
use tokio::sync::Notify;
use tracing::debug;

use super::Leader;
use super::session::Session;

#[derive(Default)]
pub(super) struct Heartbeats {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
}

/// A heartbeat to be answered. At most as many wait as arrive in one round of the quorum.
struct Waiting {
    session: Arc<Session>,
    seq: u64,
}

impl Heartbeats {
    /// A heartbeat arrived, and liveness has noted it.
    pub(super) fn push(&self, session: Arc<Session>, seq: u64) {
        let mut waiting = self.waiting.lock().expect("nothing panics while it holds this lock");
        waiting.push(Waiting { session, seq });
        drop(waiting);
        self.arrived.notify_one();
    }

    fn take(&self) -> Vec<Waiting> {
        std::mem::take(&mut self.waiting.lock().expect("nothing panics while it holds this lock"))
    }
}

/// Answers heartbeats until the office ends.
pub(super) async fn run(leader: Arc<Leader>) {
    loop {
        tokio::select! {
            biased;
            () = leader.ended.cancelled() => return,
            () = leader.heartbeats.arrived.notified() => {}
        }
        let waiting = leader.heartbeats.take();
        let confirmed = tokio::select! {
            biased;
            () = leader.ended.cancelled() => return,
            confirmed = leader.node.raft.linearize() => confirmed,
        };
        if let Err(error) = confirmed {
            debug!("{} heartbeats stay unanswered: {error}", waiting.len());
            continue;
        }
        for Waiting { session, seq } in waiting {
            if session.may_renew(&leader) {
                session.send(Message::HeartbeatAck(HeartbeatAck { seq }));
            }
        }
    }
}
