//! Nodes and clients for a test.

use std::time::Duration;

use pgconvoy_coordinator::{Coordinator, CoordinatorConfig, CoordinatorHandle, Network};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::agent_service_client::AgentServiceClient;
use pgconvoy_proto::v1::cluster_service_client::ClusterServiceClient;
use pgconvoy_proto::v1::task_service_client::TaskServiceClient;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_runtime::tls::Security;
use pgconvoy_shared::ids::NodeId;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// Everything in these tests takes well below a second; a busy machine may take longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const SOURCE_PASSWORD: &str = "quokka-9f3a-source";
pub(crate) const DESTINATION_PASSWORD: &str = "wombat-77c1-destination";

/// Leases short enough to be lost within a test, and long enough for a busy machine.
pub(crate) const LEASE_MS: u32 = 2_000;
pub(crate) const HEARTBEAT_MS: u32 = 200;

pub(crate) struct Node {
    pub(crate) handle: CoordinatorHandle,
    pub(crate) dir: TempDir,
}

impl Node {
    pub(crate) async fn embedded() -> Node {
        Node::embedded_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn embedded_in(dir: TempDir) -> Node {
        let node = Node::start(quick(CoordinatorConfig::embedded(dir.path())), dir).await;
        node.handle.ready().await.unwrap();
        node
    }

    pub(crate) async fn listening(id: u64, security: Security) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let network = Network {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            security,
            insecure_plaintext: false,
            fast_elections: true,
        };
        Node::start(quick(CoordinatorConfig::network(NodeId(id), dir.path(), network)), dir).await
    }

    pub(crate) async fn start(config: CoordinatorConfig, dir: TempDir) -> Node {
        let handle = Coordinator::start(config, Shutdown::new()).await.unwrap();
        Node { handle, dir }
    }

    pub(crate) fn id_and_address(&self, id: u64) -> v1::Node {
        v1::Node { id, address: self.handle.address().unwrap().to_string() }
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.handle.channel())
    }

    pub(crate) fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.handle.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.handle.channel())
    }

    pub(crate) async fn create(&self, request: v1::CreateTaskRequest) -> String {
        self.tasks().create_task(request).await.unwrap().into_inner().task_id
    }

    pub(crate) async fn task(&self, task: &str) -> v1::Task {
        let request = v1::GetTaskRequest { task: task.to_owned(), tables_max: 0 };
        self.tasks().get_task(request).await.unwrap().into_inner().task.unwrap()
    }

    /// Makes this node, which has this number, the leader. On a busy machine another one may win.
    pub(crate) async fn lead(&self, id: u64) {
        let deadline = Instant::now() + LIMIT;
        while !self.handle.leads() {
            let transfer = v1::TransferLeaderRequest { node_id: id };
            let transferred = self.cluster().transfer_leader(transfer).await;
            assert!(Instant::now() < deadline, "{transferred:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn events(&self, task: &str) -> Vec<v1::Event> {
        let request = v1::ListEventsRequest { task: task.to_owned(), after: 0, limit: 0 };
        self.tasks().list_events(request).await.unwrap().into_inner().events
    }

    /// Waits until the task is as wanted.
    pub(crate) async fn until(&self, task: &str, wanted: impl Fn(&v1::Task) -> bool) -> v1::Task {
        let mut last = None;
        let found = timeout(LIMIT, async {
            loop {
                let task = self.task(task).await;
                if wanted(&task) {
                    return task;
                }
                last = Some(task);
                sleep(Duration::from_millis(10)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("the task stays {last:#?}"))
    }
}

fn quick(config: CoordinatorConfig) -> CoordinatorConfig {
    CoordinatorConfig { lease_ms: LEASE_MS, heartbeat_ms: HEARTBEAT_MS, ..config }
}

/// Three nodes that are one cluster.
pub(crate) struct Trio {
    pub(crate) nodes: Vec<Node>,
}

impl Trio {
    pub(crate) async fn start() -> Trio {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(Node::listening(id, Security::Plaintext).await);
        }
        let request = v1::InitClusterRequest {
            nodes: (1..).zip(&nodes).map(|(id, node)| node.id_and_address(id)).collect(),
        };
        nodes[0].cluster().init_cluster(request).await.unwrap();
        let trio = Trio { nodes };
        for node in &trio.nodes {
            timeout(LIMIT, node.handle.ready()).await.unwrap().unwrap();
        }
        trio
    }

    /// The place of the node that leads.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(leader) = self.nodes.iter().position(|node| node.handle.leads()) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A task that is started at once, of one database that nobody connects to.
pub(crate) fn request(name: &str) -> v1::CreateTaskRequest {
    let endpoint = |host: &str| v1::Endpoint {
        host: host.to_owned(),
        database: "shop".to_owned(),
        user: "migrator".to_owned(),
        ..v1::Endpoint::default()
    };
    v1::CreateTaskRequest {
        request_id: String::new(),
        spec: Some(v1::TaskSpec {
            name: name.to_owned(),
            source: Some(endpoint("source.example")),
            destination: Some(endpoint("destination.example")),
            snapshot: v1::SnapshotMode::Shard.into(),
            ..v1::TaskSpec::default()
        }),
        source_password: SOURCE_PASSWORD.to_owned(),
        destination_password: DESTINATION_PASSWORD.to_owned(),
        start: true,
        acknowledge: Vec::new(),
        acknowledge_all: true,
        precheck_only: false,
        verify_only: false,
        verify: None,
    }
}
