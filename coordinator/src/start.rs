//! How a node comes up and goes down.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use pgconvoy_runtime::http;
use pgconvoy_runtime::memory::Hub;
use pgconvoy_runtime::shutdown::{Gate, Reason, Shutdown};
use pgconvoy_runtime::tasks::{self, Kind};
use pgconvoy_runtime::tls::{Connection, Dialer, Listener, Role, Security};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::api;
use crate::config::{CoordinatorConfig, Network, Reach};
use crate::error::{StartError, Stopped};
use crate::leader::{self, Seat};
use crate::machine::Replica;
use crate::metrics::Metrics;
use crate::node::{Node, ReplicatedLog, Times};
use crate::proposer::Proposer;
use crate::raft::{ChangeError, Compaction, Connector, Machine, RaftConfig, RaftNode, Timings};
use crate::secrets::Vault;

/// The Unix socket of an embedded node, in its data directory.
const SOCKET: &str = "api.sock";

/// Another node takes over within an election, or does not.
const HANDOVER_LIMIT: Duration = Duration::from_secs(5);
/// Calls that are under way, and agents' sessions, end within this time or are cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Starts nodes.
pub struct Coordinator;

/// A running node. Clones are the same one.
#[derive(Clone)]
pub struct CoordinatorHandle {
    node: Arc<Node>,
    hub: Hub,
    address: Option<SocketAddr>,
    http: Option<SocketAddr>,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

/// Where a node listens, and what others are told of it.
struct Place {
    listener: Listener,
    address: Option<SocketAddr>,
    advertise: String,
    security: Security,
    insecure_plaintext: bool,
    timings: Timings,
}

impl Coordinator {
    /// Starts a node on its data directory. It stops when `shutdown` begins, and begins it when it
    /// cannot go on.
    pub async fn start(
        config: CoordinatorConfig,
        shutdown: Shutdown,
    ) -> Result<CoordinatorHandle, StartError> {
        pgconvoy_runtime::install_crypto();
        if let Reach::Network(network) = &config.reach {
            let security = &network.security;
            security.require(Role::Coordinator, None).map_err(StartError::Certificate)?;
        }
        make_dir(&config.data_dir)?;
        let place = Place::open(&config).map_err(StartError::Listen)?;
        let http_listener = config
            .http
            .map(|address| http::bind(address, &place.security, place.insecure_plaintext))
            .transpose()
            .map_err(StartError::Http)?;
        let dialer = Dialer::new(&place.security).map_err(StartError::Listen)?;
        let metrics = Arc::new(Metrics::new());
        let replica = Arc::new(Replica::new(Arc::clone(&metrics)));
        let raft = start_raft(&config, &place, &dialer, &replica).await?;
        let vault = match open_vault(&config, &raft).await {
            Ok(vault) => vault,
            Err(error) => {
                raft.shutdown().await;
                return Err(error);
            }
        };
        let log = ReplicatedLog { raft: raft.clone(), replica: Arc::clone(&replica) };
        let (proposer, proposing) = Proposer::new(log, Arc::clone(&metrics));
        let (seat, follow_seat) = watch::channel(Seat::Vacant);
        let times = Times { lease_ms: config.lease_ms, heartbeat_ms: config.heartbeat_ms };
        let node = Arc::new(Node {
            id: config.node_id,
            raft,
            replica,
            proposer,
            vault,
            dialer,
            metrics,
            times,
            gate: Gate::new(format!("coordinator {}", config.node_id)),
            seat: follow_seat,
        });
        let hub = Hub::new();
        let (stopped, follow_stopped) = watch::channel(false);
        let handle = CoordinatorHandle {
            node: Arc::clone(&node),
            hub: hub.clone(),
            address: place.address,
            http: http_listener.as_ref().and_then(Listener::local_addr),
            stop: shutdown.token(),
            stopped: follow_stopped,
        };
        let running = Running::begin(&node, &shutdown, seat, place, hub, http_listener, proposing);
        let ending = running.until(handle.stop.clone(), shutdown, stopped);
        let _on_its_own = tasks::spawn(Kind::Worker, "coordinator", ending);
        Ok(handle)
    }
}

impl CoordinatorHandle {
    /// Returns once a leader is known and this node can answer or hand on whatever is asked.
    pub async fn ready(&self) -> Result<(), Stopped> {
        let mut seat = self.node.seat();
        let mut stopped = self.stopped.clone();
        tokio::select! {
            settled = seat.wait_for(|seat| !matches!(seat, Seat::Vacant)) => {
                settled.map(|_| ()).map_err(|_| Stopped)
            }
            _ = stopped.wait_for(|stopped| *stopped) => Err(Stopped),
        }
    }

    /// A channel to this node through memory: for agents and clients in the same process.
    pub fn channel(&self) -> Channel {
        self.hub.channel()
    }

    /// Where it listens; none for an embedded node.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where its HTTP listener is.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Whether this node leads the cluster now.
    pub fn leads(&self) -> bool {
        self.node.leader().is_ok()
    }

    /// Stops the node: another one takes over if there is one, sessions are closed, calls under way
    /// are ended, the log is closed. Returns when the data directory may be opened again.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped().await;
    }

    /// Returns when it has stopped, whoever asked for it.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.clone();
        // The sender goes only after it has said so.
        let _said = stopped.wait_for(|stopped| *stopped).await;
    }
}

impl Place {
    fn open(config: &CoordinatorConfig) -> Result<Place, pgconvoy_runtime::tls::TlsError> {
        match &config.reach {
            Reach::Embedded => {
                let path = config.data_dir.join(SOCKET);
                Ok(Place {
                    listener: Listener::unix(&path)?,
                    address: None,
                    advertise: format!("unix:{}", path.display()),
                    security: Security::Plaintext,
                    insecure_plaintext: false,
                    timings: Timings::embedded(),
                })
            }
            Reach::Network(network) => {
                let Network { listen, advertise, security, insecure_plaintext, fast_elections } =
                    network;
                let listener = Listener::bind(*listen, security, *insecure_plaintext)?;
                let address = listener.local_addr().unwrap_or(*listen);
                Ok(Place {
                    listener,
                    address: Some(address),
                    advertise: advertise.clone().unwrap_or_else(|| address.to_string()),
                    security: security.clone(),
                    insecure_plaintext: *insecure_plaintext,
                    timings: match fast_elections {
                        true => Timings::embedded(),
                        false => Timings::network(),
                    },
                })
            }
        }
    }
}

/// For its owner alone: it holds the cluster's key.
fn make_dir(path: &Path) -> Result<(), StartError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::DataDir { path: path.to_owned(), source })
}

async fn start_raft(
    config: &CoordinatorConfig,
    place: &Place,
    dialer: &Dialer,
    replica: &Arc<Replica>,
) -> Result<RaftNode, StartError> {
    let raft = RaftConfig {
        node: config.node_id,
        advertise: place.advertise.clone(),
        data_dir: config.data_dir.clone(),
        timings: place.timings.clone(),
        compaction: Compaction::default(),
    };
    let dialer = dialer.clone();
    let connector: Connector =
        Arc::new(move |address| dialer.channel(address).map_err(|error| Box::new(error).into()));
    let machine = Arc::clone(replica) as Arc<dyn Machine>;
    Ok(RaftNode::start(raft, machine, connector).await?)
}

/// The key first, membership after: a member can always open what is sealed. An embedded node makes
/// its own cluster, once.
async fn open_vault(config: &CoordinatorConfig, raft: &RaftNode) -> Result<Vault, StartError> {
    let vault = Vault::open(&config.data_dir)?;
    let belongs = raft.status().await.cluster.is_some();
    if belongs {
        vault.require()?;
    }
    match &config.reach {
        Reach::Network(_) if !belongs => info!("this node belongs to no cluster yet"),
        Reach::Network(_) => {}
        Reach::Embedded => {
            if !belongs {
                vault.make()?;
            }
            // Also where an earlier start was cut off half-way.
            match raft.initialize(&[raft.me()]).await {
                Ok(cluster) => info!("made cluster {cluster} of this node alone"),
                Err(ChangeError::AlreadyInitialized) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(vault)
}

type Incoming = BoxStream<'static, io::Result<Connection>>;

/// What runs for a node.
struct Running {
    node: Arc<Node>,
    /// Ends the following of leadership, and with it the office.
    resign: CancellationToken,
    follow: JoinHandle<()>,
    /// Ends the listeners.
    close: CancellationToken,
    serving: Vec<JoinHandle<()>>,
    proposing: JoinHandle<()>,
}

impl Running {
    fn begin(
        node: &Arc<Node>,
        shutdown: &Shutdown,
        seat: watch::Sender<Seat>,
        place: Place,
        hub: Hub,
        http_listener: Option<Listener>,
        proposing: impl Future<Output = ()> + Send + 'static,
    ) -> Running {
        let critical = || Kind::Critical(shutdown.clone());
        let (resign, close) = (CancellationToken::new(), CancellationToken::new());
        let proposing = tasks::spawn(critical(), "proposer", proposing);
        let follow = leader::follow(Arc::clone(node), seat, resign.clone());
        let follow = tasks::spawn(critical(), "leadership", follow);
        let listened: Incoming = place.listener.incoming().boxed();
        let incoming = stream::select(listened, hub.incoming());
        let served = api::serve(Arc::clone(node), incoming, close.clone());
        let mut serving = vec![tasks::spawn(critical(), "gRPC", served)];
        if let Some(listener) = http_listener {
            let served = http::serve(listener, Arc::clone(node), close.clone());
            serving.push(tasks::spawn(critical(), "HTTP", served));
        }
        Running { node: Arc::clone(node), resign, follow, close, serving, proposing }
    }

    /// Waits for the end, and brings it about in this order:
    ///
    /// 1. another node takes over, so that nobody has to wait for an election;
    /// 2. the office ends: sessions and watches are told to go elsewhere;
    /// 3. the listeners close, and calls that are under way end;
    /// 4. the log is closed, last: until here everything said was still true.
    async fn until(
        self,
        stop: CancellationToken,
        shutdown: Shutdown,
        stopped: watch::Sender<bool>,
    ) {
        tokio::select! {
            () = stop.cancelled() => {}
            cause = self.node.raft.stopped() => {
                shutdown.begin(Reason::Failed { task: "Raft".to_owned(), cause });
            }
        }
        self.hand_over().await;
        self.resign.cancel();
        self.close.cancel();
        if let Err(held) = self.node.gate.close_within(DRAIN_LIMIT).await {
            warn!("{held}");
        }
        for mut serving in self.serving {
            if timeout(DRAIN_LIMIT, &mut serving).await.is_err() {
                serving.abort();
            }
        }
        if timeout(DRAIN_LIMIT, self.follow).await.is_err() {
            warn!("the leader's tasks do not end");
        }
        self.node.raft.shutdown().await;
        self.proposing.abort();
        stopped.send_replace(true);
    }

    async fn hand_over(&self) {
        if self.node.leader().is_err() {
            return;
        }
        let alone = self.node.raft.status().await.members.len() < 2;
        if alone {
            return;
        }
        match timeout(HANDOVER_LIMIT, self.node.raft.transfer_leader(None)).await {
            Ok(Ok(peer)) => info!("node {} leads now", peer.id),
            Ok(Err(error)) => info!("nobody takes over before this node stops: {error}"),
            Err(_) => info!("nobody takes over before this node stops"),
        }
    }
}
