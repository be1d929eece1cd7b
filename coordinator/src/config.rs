//! How one coordinator node is set up.

use std::net::SocketAddr;
use std::path::PathBuf;

use pgconvoy_runtime::tls::Security;
use pgconvoy_shared::ids::NodeId;

/// Default lease time: long enough for a paused process or a slow network, short enough that the
/// work of a dead agent moves on soon.
const LEASE_MS: u32 = 10_000;
/// Default time between heartbeats: five may be lost before a lease is.
const HEARTBEAT_MS: u32 = 2_000;
/// Within a process they cost nothing, and somebody watches.
const EMBEDDED_HEARTBEAT_MS: u32 = 500;

/// The node of an embedded run has no others to be told from.
const EMBEDDED_NODE: NodeId = NodeId(1);

/// One coordinator node.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Its number in the cluster, the same for ever.
    pub node_id: NodeId,
    /// How others reach it.
    pub reach: Reach,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; none = nowhere. On loopback in plain
    /// text, elsewhere as [`Reach::Network`] says.
    pub http: Option<SocketAddr>,
    /// Where it keeps what it must not forget.
    pub data_dir: PathBuf,
    /// How long an agent that is not heard of keeps its units.
    pub lease_ms: u32,
    /// How often agents are to make themselves heard.
    pub heartbeat_ms: u32,
}

/// How a node is reached.
#[derive(Clone, Debug)]
pub enum Reach {
    /// By other nodes, agents and clients, over TCP. It becomes part of a cluster by
    /// `ClusterService.InitCluster` or `AddNode`.
    Network(Network),
    /// By this process through memory, and by this user through the Unix socket `api.sock` in the
    /// data directory. It is a cluster of its own, which it makes by itself.
    Embedded,
}

/// A node's place in the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// What to listen on; port 0 = any that is free.
    pub listen: SocketAddr,
    /// `host:port` under which others reach it; none = the address it listens on.
    pub advertise: Option<String>,
    pub security: Security,
    /// Allows plain text off loopback.
    pub insecure_plaintext: bool,
    /// Election and heartbeat times for one machine or a test instead of a network between machines.
    pub fast_elections: bool,
}

impl CoordinatorConfig {
    /// A node of a cluster, with the usual times.
    pub fn network(node_id: NodeId, data_dir: impl Into<PathBuf>, network: Network) -> Self {
        Self {
            node_id,
            reach: Reach::Network(network),
            http: None,
            data_dir: data_dir.into(),
            lease_ms: LEASE_MS,
            heartbeat_ms: HEARTBEAT_MS,
        }
    }

    /// A coordinator for this process alone.
    pub fn embedded(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id: EMBEDDED_NODE,
            reach: Reach::Embedded,
            http: None,
            data_dir: data_dir.into(),
            lease_ms: LEASE_MS,
            heartbeat_ms: EMBEDDED_HEARTBEAT_MS,
        }
    }
}
