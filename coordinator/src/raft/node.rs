//! One node of the cluster: the handle that the rest of the process holds.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::Raft;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use pgconvoy_proto::v1::raft_service_server::RaftServiceServer;
use pgconvoy_runtime::tasks;
use pgconvoy_shared::ids::NodeId;
use tokio::sync::{RwLock, Semaphore, watch};

use super::compaction::{self, Compaction};
use super::election::{self, LeaderContact};
use super::error::{ProposeError, ReadError, StartError};
use super::identity::Identity;
use super::install::Installs;
use super::leadership::{self, Leadership, Peer};
use super::log::RaftLog;
use super::machine::{Applier, Machine};
use super::members;
use super::network::Network;
use super::peers::{Connector, Peers};
use super::service::Service;
use super::status::Status;
use super::timings::Timings;
use super::types::{Proposal, TypeConfig};
use crate::store::snapshots::Snapshots;
use crate::store::{Closed, Damage, LogStore, OpenOptions, Opened, WeakLogStore};

/// What one proposal may have: one entry, one sync, far below a gRPC message.
pub const PROPOSAL_BYTES_MAX: usize = 256 * 1024;
/// Snapshots that are received at once: one, and one from a leader elected meanwhile.
const RECEIVING_MAX: usize = 2;
/// How long the store may take to close before [`RaftNode::shutdown`] returns without it.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How a node is run.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    pub node: NodeId,
    /// Where the other nodes reach this one.
    pub advertise: String,
    pub data_dir: PathBuf,
    pub timings: Timings,
    pub compaction: Compaction,
}

/// A handle; clones are the same node.
#[derive(Clone)]
pub struct RaftNode {
    core: Arc<Core>,
    tasks: Arc<Mutex<Vec<tasks::Owned<()>>>>,
}

/// What the parts of a node share.
pub(super) struct Core {
    pub(super) raft: Raft<TypeConfig>,
    pub(super) advertise: String,
    pub(super) identity: Arc<Identity>,
    pub(super) peers: Arc<Peers>,
    pub(super) contact: LeaderContact,
    pub(super) installs: Arc<Installs>,
    pub(super) snapshots: Snapshots,
    pub(super) receiving: Semaphore,
    // Not what keeps the store open: openraft's tasks do, and give it up when they end.
    pub(super) store: WeakLogStore,
    pub(super) snapshot_bytes: Arc<AtomicU64>,
    pub(super) timings: Timings,
    pub(super) compaction: Compaction,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) stopped: watch::Sender<Option<String>>,
    /// The others said that this node is no member any more.
    pub(super) removed: watch::Sender<bool>,
    /// Held for reading by each proposal and read that is under way; a handover takes it for writing.
    pub(super) traffic: RwLock<()>,
    /// Held by a change of the members: one at a time.
    pub(super) changes: tokio::sync::Mutex<()>,
    closed: Mutex<Option<Closed>>,
}

struct Loaded {
    store: LogStore,
    opened: Opened,
    snapshots: Snapshots,
    applier: Applier,
    installs: Arc<Installs>,
}

/// Opens store and snapshots and checks that together they hold everything.
fn load(dir: &Path, options: OpenOptions, machine: Arc<dyn Machine>) -> Result<Loaded, StartError> {
    let (store, opened) = LogStore::open(dir, options)?;
    let (snapshots, newest) = Snapshots::open(dir.join("snapshots"))?;
    let installs = Arc::new(Installs::new());
    let applier =
        Applier::open(machine, snapshots.clone(), newest.as_ref(), Arc::clone(&installs))?;
    let snapshot = applier.applied().map(|last| last.index);
    let purged = opened.purged.as_ref().map(|mark| mark.index);
    if let Some(purged) = purged
        && snapshot.is_none_or(|snapshot| snapshot < purged)
    {
        return Err(store.damaged(Damage::Uncovered { purged, snapshot }).into());
    }
    Ok(Loaded { store, opened, snapshots, applier, installs })
}

impl RaftNode {
    /// Starts a node on its data directory. A new one waits for [`RaftNode::initialize`], or to be
    /// added by a leader.
    pub async fn start(
        config: RaftConfig,
        machine: Arc<dyn Machine>,
        connector: Connector,
    ) -> Result<Self, StartError> {
        let options = OpenOptions::new(config.node);
        Self::start_on(options, config, machine, connector).await
    }

    /// The same, on a store that is opened in a special way.
    pub async fn start_on(
        options: OpenOptions,
        config: RaftConfig,
        machine: Arc<dyn Machine>,
        connector: Connector,
    ) -> Result<Self, StartError> {
        let raft_config = config.timings.openraft().validate();
        let raft_config = raft_config.map_err(|error| StartError::Timings(Box::new(error)))?;
        let dir = config.data_dir.clone();
        let loading = tasks::blocking("open the store", move || load(&dir, options, machine));
        let Loaded { store, opened, snapshots, applier, installs } = loading.await??;
        let weak = store.downgrade();
        let engaged = opened.vote.is_some() || opened.purged.is_some() || !store.range().is_empty();
        let identity = Arc::new(Identity::new(opened.header, weak.clone(), engaged));
        let peers = Arc::new(Peers::new(Arc::clone(&identity), connector));
        let snapshot_bytes = applier.snapshot_bytes();
        let raft = Raft::new(
            config.node.0,
            Arc::new(raft_config),
            Network::new(Arc::clone(&peers), config.timings.heartbeat),
            RaftLog::new(config.node.0, store, Arc::clone(&installs)),
            applier,
        )
        .await
        .map_err(|error| StartError::Raft(Box::new(error)))?;
        let core = Arc::new(Core {
            raft,
            advertise: config.advertise,
            identity,
            peers,
            contact: LeaderContact::new(),
            installs,
            snapshots,
            receiving: Semaphore::new(RECEIVING_MAX),
            store: weak,
            snapshot_bytes,
            timings: config.timings,
            compaction: config.compaction,
            leadership: watch::Sender::new(Leadership::default()),
            stopped: watch::Sender::new(None),
            removed: watch::Sender::new(false),
            traffic: RwLock::new(()),
            changes: tokio::sync::Mutex::new(()),
            closed: Mutex::new(Some(opened.closed)),
        });
        let tasks = vec![
            tasks::owned("raft leadership", leadership::watch(Arc::clone(&core))),
            tasks::owned("raft election", election::run(Arc::clone(&core))),
            tasks::owned("raft compaction", compaction::run(Arc::clone(&core))),
            tasks::owned("raft members", members::finish_changes(Arc::clone(&core))),
        ];
        Ok(Self { core, tasks: Arc::new(Mutex::new(tasks)) })
    }

    /// Puts an entry into the log and gives the machine's answer to it. Only on the leader.
    ///
    /// Entries of one caller that are proposed at once are not ordered: await one before the next
    /// if the order matters. openraft appends one entry after the other, each with its sync, so
    /// whoever has many commands puts them into one entry.
    pub async fn propose(&self, entry: Vec<u8>) -> Result<Vec<u8>, ProposeError> {
        let (bytes, limit) = (entry.len(), PROPOSAL_BYTES_MAX);
        if bytes > limit {
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let core = &self.core;
        let _traffic = core.traffic.read().await;
        if core.stopped.borrow().is_some() {
            return Err(ProposeError::Stopped);
        }
        let mut leadership = core.leadership.subscribe();
        let term = {
            let now = leadership.borrow_and_update();
            if !now.is_self {
                return Err(ProposeError::NotLeader { leader: now.leader.clone() });
            }
            now.term
        };
        // openraft keeps the answer of an entry whose leader was cut off until it is known what
        // became of it, which may be never.
        let lost = leadership.wait_for(|now| !now.is_self || now.term != term);
        tokio::select! {
            biased;
            written = core.raft.client_write(Proposal(entry.into())) => match written {
                Ok(written) => Ok(written.data.0),
                Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
                // openraft says this of an entry that it did not take, and also of one that a new
                // leader's log replaced here and that may yet be committed by a third.
                Err(RaftError::APIError(
                    ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_),
                )) => Err(ProposeError::OutcomeUnknown),
            },
            _ = lost => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// Returns once whatever was answered anywhere before this call is applied here: what is read
    /// from the machine after that is not stale. Only on the leader, confirmed by a quorum.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        let core = &self.core;
        let _traffic = core.traffic.read().await;
        if core.stopped.borrow().is_some() {
            return Err(ReadError::Stopped);
        }
        let now = core.leadership.borrow().clone();
        if !now.is_self {
            return Err(ReadError::NotLeader { leader: now.leader });
        }
        // Applying what is committed takes no longer than this unless leadership is lost.
        let limit = core.timings.election.end;
        match tokio::time::timeout(limit, core.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
            Ok(Err(RaftError::APIError(
                CheckIsLeaderError::ForwardToLeader(_) | CheckIsLeaderError::QuorumNotEnough(_),
            )))
            | Err(_) => {
                let now = core.leadership.borrow();
                let leader = now.leader.clone().filter(|_| !now.is_self);
                Err(ReadError::NotLeader { leader })
            }
        }
    }

    /// Who leads, from now on.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// This node, as the others know it.
    #[must_use]
    pub fn me(&self) -> Peer {
        Peer { id: self.core.identity.node(), address: self.core.advertise.clone() }
    }

    /// What this node knows of itself and its cluster.
    pub async fn status(&self) -> Status {
        self.core.status().await
    }

    /// The service for the other nodes' messages.
    #[must_use]
    pub fn raft_service(&self) -> RaftServiceServer<Service> {
        RaftServiceServer::new(Service::new(Arc::clone(&self.core)))
    }

    /// Returns when Raft has stopped, with the cause: the store failed, or [`RaftNode::shutdown`].
    /// The process has no use for the node any more then.
    pub async fn stopped(&self) -> String {
        let mut stopped = self.core.stopped.subscribe();
        let cause = stopped.wait_for(Option::is_some).await.map(|cause| cause.clone());
        cause.ok().flatten().unwrap_or_default()
    }

    /// Stops the node and closes its store. When it returns, the data directory may be opened again.
    pub async fn shutdown(&self) {
        let tasks =
            std::mem::take(&mut *self.tasks.lock().expect("nothing panics holding this lock"));
        drop(tasks);
        if let Err(error) = self.core.raft.shutdown().await {
            tracing::warn!("Raft did not end properly: {error}");
        }
        self.core.leadership.send_modify(|last| {
            *last = Leadership { term: last.term, ..Leadership::default() };
        });
        self.core.stopped.send_if_modified(|cause| {
            let first = cause.is_none();
            cause.get_or_insert_with(|| "asked to stop".to_owned());
            first
        });
        let closed = self.core.closed.lock().expect("nothing panics holding this lock").take();
        if let Some(closed) = closed
            && tokio::time::timeout(CLOSE_LIMIT, closed.wait()).await.is_err()
        {
            tracing::warn!("the store is still open {CLOSE_LIMIT:?} after Raft ended");
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}
