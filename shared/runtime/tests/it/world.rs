//! A gRPC server that answers health checks and remembers who asked, and authorities that issue
//! certificates for it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::tasks::{Owned, owned};
use pgconvoy_runtime::tls::{Connection, Peer, Role, Security, TlsFiles, server};
use pgconvoy_runtime::{certs, telemetry};
use tempfile::TempDir;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// No step of these tests takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// An authority and the files it issued, in a directory of its own.
pub(crate) struct Authority {
    pub(crate) dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        certs::init(dir.path()).unwrap();
        Authority { dir }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn issue(&self, role: Role, name: &str, hosts: &[&str]) -> TlsFiles {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let dir = self.dir.path();
        let written = certs::issue(dir, role, name, &hosts, dir).unwrap();
        TlsFiles { ca: self.file("ca.crt"), cert: written.cert, key: written.key }
    }

    pub(crate) fn mutual(&self, role: Role, name: &str, hosts: &[&str]) -> Security {
        Security::Mutual(self.issue(role, name, hosts))
    }
}

/// Replaces a file as one should: written beside, then renamed.
pub(crate) fn replace(path: &PathBuf, content: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, path).unwrap();
}

/// A health service; ends when dropped.
pub(crate) struct Served {
    peers: Arc<Mutex<Vec<Peer>>>,
    shutdown: Shutdown,
    task: Owned<Result<(), tonic::transport::Error>>,
}

impl Served {
    pub(crate) fn on(
        incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    ) -> Served {
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let (_, health) = tonic_health::server::health_reporter();
        let service = InterceptedService::new(health, move |request: tonic::Request<()>| {
            let peer = Peer::of(&request).expect("each request carries its peer");
            seen.lock().unwrap().push(peer.clone());
            Ok(request)
        });
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let serving = server()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, async move { stop.begun().await });
        Served { peers, shutdown, task: owned("health", serving) }
    }

    /// Ends the service, and returns once it has closed its connections.
    pub(crate) async fn end(self) {
        self.shutdown.begin(Reason::Asked);
        self.task.await.unwrap().unwrap();
    }

    /// Those who asked so far.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.peers.lock().unwrap().clone()
    }
}

/// Asks for health once. The error is the whole chain of causes.
pub(crate) async fn ask(channel: &Channel) -> Result<(), String> {
    let mut client = HealthClient::new(channel.clone());
    let asked = client.check(HealthCheckRequest::default());
    let answered = tokio::time::timeout(LIMIT, asked).await.expect("an answer, good or bad");
    answered.map(|_| ()).map_err(|status| telemetry::chain(&status))
}
