//! One coordinator node, as its parts see it: what they share, and what is asked of it as a whole.

use std::sync::Arc;

use pgconvoy_control::command::Command;
use pgconvoy_control::outcome::Outcome;
use pgconvoy_control::rejected::Rejected;
use pgconvoy_control::view;
use pgconvoy_runtime::http::Probed;
use pgconvoy_runtime::shutdown::Gate;
use pgconvoy_runtime::tls::Dialer;
use pgconvoy_shared::ids::{NodeId, TaskId};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::error::{ApiError, LeaderHint, REMOVED};
use crate::leader::{Leader, Seat};
use crate::machine::{self, Replica};
use crate::metrics::{Metrics, Reading};
use crate::proposer::{Answered, Log, PATIENCE, ProposeError, Proposer};
use crate::raft::{self, RaftNode, ReadError};
use crate::secrets::Vault;

/// How long agents keep their leases, and how often they are to be heard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) lease_ms: u32,
    pub(crate) heartbeat_ms: u32,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) raft: RaftNode,
    pub(crate) replica: Arc<Replica>,
    pub(crate) proposer: Proposer,
    pub(crate) vault: Vault,
    pub(crate) dialer: Dialer,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) times: Times,
    /// Held by agents' sessions: the node does not close its log under them.
    pub(crate) gate: Gate,
    pub(crate) seat: watch::Receiver<Seat>,
}

impl Node {
    /// Tells of each change of who leads.
    pub(crate) fn seat(&self) -> watch::Receiver<Seat> {
        self.seat.clone()
    }

    /// This node as the leader.
    pub(crate) fn leader(&self) -> Result<Arc<Leader>, ApiError> {
        match &*self.seat.borrow() {
            Seat::Here(leader) => Ok(Arc::clone(leader)),
            Seat::Elsewhere(hint) => Err(ApiError::NotLeader(Some(hint.clone()))),
            Seat::Removed => Err(ApiError::removed()),
            Seat::Vacant => Err(ApiError::NotLeader(None)),
        }
    }

    /// The same, once whatever was answered to anybody before this call can be read here.
    pub(crate) async fn leader_for_reading(&self) -> Result<Arc<Leader>, ApiError> {
        let leader = self.leader()?;
        self.raft.linearize().await?;
        Ok(leader)
    }

    /// Proposes a user's command. Only on the leader.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ApiError> {
        self.leader()?;
        let proposed = timeout(PATIENCE, self.proposer.propose(command)).await;
        let late = |_| ApiError::FateUnknown {
            cause: format!("no majority confirmed it within {} s", PATIENCE.as_secs()),
        };
        Ok(proposed.map_err(late)???)
    }

    /// What a scrape shows.
    async fn reading(&self) -> Reading {
        let status = self.raft.status().await;
        let leader = self.leader().ok();
        let mut reading = Reading {
            term: status.leadership.term,
            leads: leader.is_some(),
            last_log: status.last_log_index.unwrap_or(0),
            applied: status.applied_index.unwrap_or(0),
            snapshot: status.snapshot_index.unwrap_or(0),
            log_bytes: status.log_bytes,
            ..Reading::default()
        };
        let ids: Vec<_> = self.replica.read(|state| state.task_ids().cloned().collect());
        // Without progress where nobody tells it.
        let seen_here =
            |id: &TaskId| self.replica.read(|state| view::task(state, id, 0, &|_, _| None));
        for id in &ids {
            let view = leader.as_ref().map_or_else(|| seen_here(id), |leader| leader.view(id, 0));
            view.into_iter().for_each(|view| reading.add(view));
        }
        reading.agents = leader.map(|leader| leader.agents_by_status()).unwrap_or_default();
        reading
    }
}

impl Probed for Node {
    fn name(&self) -> String {
        format!("coordinator node {}", self.id)
    }

    async fn metrics(&self) -> String {
        self.metrics.render(&self.reading().await)
    }

    async fn health(&self) -> Result<(), String> {
        match self.raft.status().await.role {
            raft::Role::Stopped => Err("the log is closed".to_owned()),
            raft::Role::Uninitialized
            | raft::Role::Learner
            | raft::Role::Follower
            | raft::Role::Candidate
            | raft::Role::Leader
            | raft::Role::Removed => Ok(()),
        }
    }

    /// Whether calls that come here are answered.
    fn readiness(&self) -> Result<(), String> {
        match &*self.seat.borrow() {
            Seat::Here(_) | Seat::Elsewhere(_) => Ok(()),
            Seat::Removed => Err(REMOVED.to_owned()),
            Seat::Vacant => Err("no leader is known".to_owned()),
        }
    }
}

/// The replicated log as the proposer uses it.
pub(crate) struct ReplicatedLog {
    pub(crate) raft: RaftNode,
    pub(crate) replica: Arc<Replica>,
}

impl Log for ReplicatedLog {
    async fn propose(&self, entry: Vec<u8>) -> Result<Vec<Answered>, ProposeError> {
        let answer = self.raft.propose(entry).await?;
        let index = machine::answered_index(&answer);
        index.and_then(|index| self.replica.take_outcomes(index)).ok_or_else(|| {
            // Only another leader's entry can have come in between.
            ProposeError::FateUnknown { cause: "its outcome was lost with the office".to_owned() }
        })
    }
}

impl From<raft::ProposeError> for ProposeError {
    fn from(error: raft::ProposeError) -> ProposeError {
        match error {
            raft::ProposeError::NotLeader { leader } => {
                ProposeError::NotLeader(leader.map(LeaderHint::from))
            }
            raft::ProposeError::OutcomeUnknown => {
                ProposeError::FateUnknown { cause: error.to_string() }
            }
            raft::ProposeError::TooLarge { bytes, .. } => ProposeError::TooLarge { bytes },
            raft::ProposeError::Stopped => ProposeError::Stopping,
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> ApiError {
        match error {
            ReadError::NotLeader { leader } => ApiError::NotLeader(leader.map(LeaderHint::from)),
            ReadError::Stopped => ApiError::Stopping,
        }
    }
}

impl From<Rejected> for ApiError {
    fn from(rejected: Rejected) -> ApiError {
        match rejected {
            Rejected::UnknownTask { .. }
            | Rejected::UnknownTable { .. }
            | Rejected::UnknownAgent { .. }
            | Rejected::UnknownUnit { .. } => ApiError::NotFound(Box::new(rejected.into())),
            Rejected::IdTaken { .. } | Rejected::NameTaken { .. } => {
                ApiError::Exists(Box::new(rejected.into()))
            }
            Rejected::WrongStatus { .. }
            | Rejected::StillCleaningUp { .. }
            | Rejected::AgentPresent { .. }
            | Rejected::NotPresent { .. }
            | Rejected::Draining { .. }
            | Rejected::NoFreeSlot { .. }
            | Rejected::NotReady { .. }
            | Rejected::BackedOff { .. }
            | Rejected::StaleEpoch { .. }
            | Rejected::PartsMissing { .. }
            | Rejected::CannotCopyAnew { .. }
            | Rejected::FormerLife { .. }
            | Rejected::OtherRound { .. }
            | Rejected::NotInSync { .. }
            | Rejected::CutoverUnderWay { .. } => ApiError::Refused(Box::new(rejected.into())),
        }
    }
}
