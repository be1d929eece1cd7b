//! A long and narrow link: every byte takes its time, and there is room for so many a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A listener on 127.0.0.1 that passes on to one address, as if that were far away. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    road: Arc<Road>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug)]
struct Road {
    target: SocketAddr,
    latency: Duration,
    bytes_per_second: u64,
    /// Until when each direction is taken.
    taken: [Mutex<Instant>; 2],
    carried: AtomicU64,
}

/// Bytes, and when they arrive.
type Parcel = (Instant, Vec<u8>);

/// Read at once.
const PARCEL_BYTES: usize = 16 * 1024;
/// What a timer counts.
const TICK: Duration = Duration::from_millis(1);
/// More than is under way at any rate and latency that a test asks for.
const PARCELS: usize = 1024;

impl Link {
    /// A byte arrives that much later; all connections together carry so many a second, each way.
    pub async fn to(
        target: SocketAddr,
        latency: Duration,
        bytes_per_second: u64,
    ) -> anyhow::Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let taken = [Mutex::new(Instant::now()), Mutex::new(Instant::now())];
        let carried = AtomicU64::new(0);
        let road = Arc::new(Road { target, latency, bytes_per_second, taken, carried });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, Arc::clone(&road)));
        Ok(Link { address, road, _acceptor: acceptor })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that it carried, both ways.
    pub fn carried(&self) -> u64 {
        self.road.carried.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, road: Arc<Road>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(carry(client, Arc::clone(&road)));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(client: TcpStream, road: Arc<Road>) {
    let Ok(server) = TcpStream::connect(road.target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // An error on one way ends both: the halves are dropped.
    let _ended = tokio::try_join!(
        one_way(from_client, to_server, &road, 0),
        one_way(from_server, to_client, &road, 1)
    );
}

async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    road: &Road,
    direction: usize,
) -> std::io::Result<()> {
    let (sender, mut parcels) = mpsc::channel::<Parcel>(PARCELS);
    let send = async move {
        loop {
            let mut bytes = vec![0; PARCEL_BYTES];
            let count = from.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            bytes.truncate(count);
            let through = road.passage(direction, count).await;
            // The receiver is gone only with this future.
            let _gone = sender.send((through + road.latency, bytes)).await;
        }
    };
    let deliver = async {
        while let Some((arrives, bytes)) = parcels.recv().await {
            #[expect(clippy::disallowed_methods, reason = "the time that a link takes")]
            tokio::time::sleep_until(arrives).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(send, deliver).map(drop)
}

impl Road {
    /// Waits for so many bytes to go out; when the last of them has.
    async fn passage(&self, direction: usize, bytes: usize) -> Instant {
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let out = {
            let mut taken = self.taken[direction].lock().await;
            *taken = (*taken).max(Instant::now()) + time;
            *taken
        };
        self.carried.fetch_add(bytes as u64, Ordering::Relaxed);
        // Nobody can sleep for less: on a wide road it would be a narrow one's time for every parcel.
        if out > Instant::now() + TICK {
            #[expect(clippy::disallowed_methods, reason = "the time that a link takes")]
            tokio::time::sleep_until(out).await;
        }
        out
    }
}
