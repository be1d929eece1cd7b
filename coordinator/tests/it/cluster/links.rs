//! Links between nodes in one process, that can be cut, healed, slowed down and broken.
//!
//! A connection is two pipes with a pump for each direction between them. A cut link holds bytes
//! back, as a network that drops packets does: after a short cut they arrive late, after a long one
//! HTTP/2's keepalive has given the connection up. New connections over a cut link do not come up.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use pgconvoy_coordinator::raft::Connector;
use pgconvoy_runtime::tasks::{Kind, spawn};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tonic::transport::{Endpoint, Uri};

const PIPE_BYTES: usize = 256 * 1024;

/// What one direction of a link does at present.
#[derive(Debug, Clone, Copy, Default)]
struct Condition {
    cut: bool,
    delay: Duration,
    /// Grows when the connections over the link break.
    broken: u64,
}

type Way = watch::Sender<Condition>;

#[derive(Default)]
pub(crate) struct Links {
    listeners: Mutex<BTreeMap<String, mpsc::Sender<DuplexStream>>>,
    ways: Mutex<BTreeMap<(u64, u64), Arc<Way>>>,
}

pub(crate) fn address(node: u64) -> String {
    format!("node{node}")
}

fn number(address: &str) -> u64 {
    address.trim_start_matches("node").parse().expect("an address of this cluster")
}

impl Links {
    /// Where a node gets its connections from, until it listens anew.
    pub(crate) fn listen(&self, node: u64) -> mpsc::Receiver<DuplexStream> {
        let (connections, incoming) = mpsc::channel(16);
        self.listeners.lock().expect("not poisoned").insert(address(node), connections);
        incoming
    }

    pub(crate) fn unlisten(&self, node: u64) {
        self.listeners.lock().expect("not poisoned").remove(&address(node));
    }

    pub(crate) fn connector(self: &Arc<Self>, from: u64) -> Connector {
        let links = Arc::clone(self);
        Arc::new(move |address| {
            let (links, address) = (Arc::clone(&links), address.to_owned());
            let connect = tower::service_fn(move |_: Uri| {
                let (links, address) = (Arc::clone(&links), address.clone());
                async move { links.connect(from, &address).await.map(TokioIo::new) }
            });
            let endpoint = Endpoint::from_static("http://in.process")
                .connect_timeout(Duration::from_secs(1))
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(1))
                .keep_alive_while_idle(true);
            Ok(endpoint.connect_with_connector_lazy(connect))
        })
    }

    async fn connect(&self, from: u64, to: &str) -> io::Result<DuplexStream> {
        let there = self.way(from, number(to));
        let back = self.way(number(to), from);
        for way in [&there, &back] {
            let mut condition = way.subscribe();
            drop(condition.wait_for(|now| !now.cut).await);
        }
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener =
            self.listeners.lock().expect("not poisoned").get(to).cloned().ok_or_else(refused)?;
        let (mine, near) = duplex(PIPE_BYTES);
        let (far, theirs) = duplex(PIPE_BYTES);
        listener.send(theirs).await.map_err(|_| refused())?;
        let (near_read, near_write) = split(near);
        let (far_read, far_write) = split(far);
        spawn(Kind::Worker, "link there", pump(near_read, far_write, there.subscribe()));
        spawn(Kind::Worker, "link back", pump(far_read, near_write, back.subscribe()));
        Ok(mine)
    }

    fn way(&self, from: u64, to: u64) -> Arc<Way> {
        let mut ways = self.ways.lock().expect("not poisoned");
        Arc::clone(ways.entry((from, to)).or_insert_with(|| Arc::new(watch::Sender::default())))
    }

    fn both(&self, a: u64, b: u64, change: impl Fn(&mut Condition)) {
        self.way(a, b).send_modify(&change);
        self.way(b, a).send_modify(&change);
    }

    pub(crate) fn cut(&self, a: u64, b: u64) {
        self.both(a, b, |now| now.cut = true);
    }

    /// Only what `from` says to `to`.
    pub(crate) fn cut_way(&self, from: u64, to: u64) {
        self.way(from, to).send_modify(|now| now.cut = true);
    }

    pub(crate) fn heal(&self, a: u64, b: u64) {
        self.both(a, b, |now| now.cut = false);
    }

    pub(crate) fn slow(&self, a: u64, b: u64, delay: Duration) {
        self.both(a, b, |now| now.delay = delay);
    }

    /// Breaks the connections that there are; new ones come up.
    pub(crate) fn reset(&self, a: u64, b: u64) {
        self.both(a, b, |now| now.broken += 1);
    }
}

async fn pump(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    mut condition: watch::Receiver<Condition>,
) {
    let broken = condition.borrow().broken;
    let mut reset = condition.clone();
    let mut bytes = vec![0; 64 * 1024];
    let forward = async {
        loop {
            let read = from.read(&mut bytes).await?;
            if read == 0 {
                return to.shutdown().await;
            }
            let delay = condition.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let open = condition.wait_for(|now| !now.cut).await;
            drop(open.map_err(|_| io::Error::from(io::ErrorKind::ConnectionReset))?);
            to.write_all(&bytes[..read]).await?;
        }
    };
    // Either way the pipe ends here, and both of its users notice.
    tokio::select! {
        _ended = forward => {}
        _reset = reset.wait_for(|now| now.broken != broken) => {}
    }
}
