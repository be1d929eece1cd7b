//! Several nodes in one process, over links that fail on command.

mod faults;
mod ledger;
mod links;
mod membership;
mod snapshots;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use pgconvoy_coordinator::raft::{
    Compaction, Leadership, Peer, ProposeError, RaftConfig, RaftNode, StartError, Timings,
};
use pgconvoy_coordinator::store::OpenOptions;
use pgconvoy_runtime::tasks::{self, Owned};
use pgconvoy_shared::ids::NodeId;
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

pub(crate) use self::ledger::{Ledger, State, Write1};
use self::links::{Links, address};
use crate::wait::until;

/// Far above what any test needs on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The embedded timings, made slower because several builds may run beside the tests.
pub(crate) fn timings() -> Timings {
    Timings::embedded().slower(3)
}

pub(crate) struct Running {
    pub(crate) node: RaftNode,
    pub(crate) ledger: Arc<Ledger>,
    _server: Owned<()>,
}

pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) links: Arc<Links>,
    pub(crate) nodes: BTreeMap<u64, Running>,
    compaction: Compaction,
}

pub(crate) fn peer(id: u64) -> Peer {
    Peer { id: NodeId(id), address: address(id) }
}

impl Cluster {
    /// Nodes that belong to no cluster yet.
    pub(crate) async fn of_strangers(ids: impl IntoIterator<Item = u64>) -> Cluster {
        Self::with_compaction(ids, Compaction::default()).await
    }

    pub(crate) async fn with_compaction(
        ids: impl IntoIterator<Item = u64>,
        compaction: Compaction,
    ) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster =
            Cluster { dir, links: Arc::default(), nodes: BTreeMap::new(), compaction };
        for id in ids {
            cluster.start(id).await;
        }
        cluster
    }

    /// A cluster with a leader.
    pub(crate) async fn of(ids: impl IntoIterator<Item = u64>) -> Cluster {
        let cluster = Self::of_strangers(ids).await;
        cluster.initialize().await;
        cluster
    }

    pub(crate) async fn initialize(&self) {
        let peers: Vec<_> = self.nodes.keys().map(|&id| peer(id)).collect();
        let first = self.nodes.values().next().expect("a node");
        first.node.initialize(&peers).await.expect("the cluster is made");
        self.leader().await;
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) async fn start(&mut self, id: u64) {
        self.try_start(id, OpenOptions::new(NodeId(id))).await.expect("the node starts");
    }

    pub(crate) async fn try_start(
        &mut self,
        id: u64,
        options: OpenOptions,
    ) -> Result<(), StartError> {
        let config = RaftConfig {
            node: NodeId(id),
            advertise: address(id),
            data_dir: self.data_dir(id),
            timings: timings(),
            compaction: self.compaction.clone(),
        };
        let ledger = Arc::new(Ledger::default());
        let machine = Arc::clone(&ledger);
        let connector = self.links.connector(id);
        let node = RaftNode::start_on(options, config, machine, connector).await?;
        let incoming = ReceiverStream::new(self.links.listen(id)).map(Ok::<_, std::io::Error>);
        let serve =
            Server::builder().add_service(node.raft_service()).serve_with_incoming(incoming);
        let server = tasks::owned(format!("server {id}"), async move {
            serve.await.expect("the server runs");
        });
        self.nodes.insert(id, Running { node, ledger, _server: server });
        Ok(())
    }

    /// The node ends as by a kill: nobody is told.
    pub(crate) async fn stop(&mut self, id: u64) {
        let running = self.nodes.remove(&id).expect("it runs");
        // No answer leaves it any more, then it closes its store.
        drop(running._server);
        self.links.unlisten(id);
        (self.nodes.keys()).for_each(|&other| self.links.reset(id, other));
        running.node.shutdown().await;
    }

    pub(crate) fn node(&self, id: u64) -> &RaftNode {
        &self.nodes[&id].node
    }

    fn leaderships(&self) -> Vec<(u64, Leadership)> {
        self.nodes
            .iter()
            .map(|(&id, running)| (id, running.node.leadership().borrow().clone()))
            .collect()
    }

    /// Waits for a leader that is ready; gives its id.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(|_| true).await
    }

    pub(crate) async fn leader_among(&self, fits: impl Fn(u64) -> bool) -> u64 {
        until(LIMIT, "a leader that is ready", async || {
            let seen = self.leaderships();
            let ready = seen.iter().find(|(id, now)| now.ready && fits(*id));
            ready.map(|(id, _)| *id).ok_or(seen)
        })
        .await
    }

    /// Cuts a node off from all others.
    pub(crate) fn isolate(&self, id: u64) {
        self.nodes
            .keys()
            .filter(|&&other| other != id)
            .for_each(|&other| self.links.cut(id, other));
    }

    pub(crate) fn heal(&self, id: u64) {
        self.nodes
            .keys()
            .filter(|&&other| other != id)
            .for_each(|&other| self.links.heal(id, other));
    }

    /// Proposes to whoever leads, until it is answered. Gives how often the key was written.
    pub(crate) async fn write(&self, key: u64, value: Vec<u8>) -> u64 {
        let entry = Write1::encode(key, value);
        until(LIMIT, "the write is answered", async || {
            let leader = self.leader().await;
            match self.node(leader).propose(entry.clone()).await {
                Ok(answer) => Ok(u64::from_be_bytes(answer.try_into().expect("a count"))),
                Err(error @ (ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown)) => {
                    Err(error)
                }
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    pub(crate) async fn write_all(&self, keys: std::ops::Range<u64>) {
        for key in keys {
            self.write(key, key.to_be_bytes().to_vec()).await;
        }
    }

    /// Waits until all nodes have applied the same, and gives it.
    pub(crate) async fn agreed(&self) -> Arc<State> {
        until(LIMIT, "all nodes have applied the same", async || {
            let mut applied = Vec::new();
            for (id, running) in &self.nodes {
                let status = running.node.status().await;
                applied.push((*id, status.applied_index, status.last_log_index));
            }
            let last = applied.iter().map(|&(_, _, last)| last).max().flatten();
            if applied.iter().any(|&(_, applied, _)| applied != last) {
                return Err(applied);
            }
            let states: Vec<_> =
                self.nodes.values().map(|running| running.ledger.state()).collect();
            assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "the machines differ");
            Ok(Arc::clone(&states[0]))
        })
        .await
    }

    /// Each of these keys is there. Those whose outcome was not known may be there twice.
    pub(crate) async fn assert_written(&self, keys: std::ops::Range<u64>) {
        let state = self.agreed().await;
        for key in keys {
            let (_, value) = state.get(&key).unwrap_or_else(|| panic!("write {key} is lost"));
            assert_eq!(value.as_slice(), key.to_be_bytes());
        }
    }
}
