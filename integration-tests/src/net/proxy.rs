//! A TCP proxy between two processes of a test: cuts, stalls, black-holes, delays, forgets; and strikes where a client
//! says certain words.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::Namespace;
use super::trap::{Act, Listener, Set, Trap, Traps};

/// What happens to bytes on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weather {
    /// They pass.
    #[default]
    Clear,
    /// Each chunk waits this long, which also makes the way narrow.
    Delay(Duration),
    /// They are held, and pass once the weather changes: a network that is stuck.
    Stalled,
    /// They are taken and vanish, and connections stay open: a lost reply. Ends with a cut, for a hole in a stream of
    /// bytes would be a lie that no network tells.
    BlackHole,
    /// New connections are closed at once; those that are open stay as in `Clear`.
    Refusing,
}

/// A listener on 127.0.0.1 that passes on to one address; all connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    road: Arc<Road>,
    connections: Arc<Mutex<JoinSet<()>>>,
    acceptor: AbortHandle,
}

/// What all connections of a proxy share.
#[derive(Debug)]
struct Road {
    target: SocketAddr,
    /// From where it is reached.
    network: Option<Namespace>,
    weather: watch::Sender<Weather>,
    /// Raised each time open connections are forgotten.
    forgotten: watch::Sender<u64>,
    /// Pieces that were held or swallowed.
    struck: AtomicU64,
    traps: Traps,
}

impl Road {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.network {
            Some(network) => network.socket()?.connect(self.target).await,
            None => TcpStream::connect(self.target).await,
        }
    }
}

impl Proxy {
    /// Starts a proxy to `target`.
    pub async fn to(target: SocketAddr) -> anyhow::Result<Proxy> {
        Proxy::between(None, None, target).await
    }

    /// Starts a proxy that clients find in one network and that connects from another one; none = the test's own.
    pub async fn between(
        clients: Option<&Namespace>,
        servers: Option<&Namespace>,
        target: SocketAddr,
    ) -> anyhow::Result<Proxy> {
        let listener = match clients {
            Some(network) => TcpListener::from_std(network.listen()?)?,
            None => TcpListener::bind("127.0.0.1:0").await?,
        };
        let address = listener.local_addr()?;
        let road = Arc::new(Road {
            target,
            network: servers.cloned(),
            weather: watch::Sender::new(Weather::Clear),
            forgotten: watch::Sender::new(0),
            struck: AtomicU64::new(0),
            traps: Traps::default(),
        });
        let connections = Arc::default();
        let acceptor = tokio::spawn(accept(listener, Arc::clone(&road), Arc::clone(&connections)));
        Ok(Proxy { address, road, connections, acceptor: acceptor.abort_handle() })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for open connections too. Leaving `BlackHole` cuts them.
    pub fn set(&self, weather: Weather) {
        let before = self.road.weather.send_replace(weather);
        if before == Weather::BlackHole && weather != Weather::BlackHole {
            self.cut();
        }
    }

    /// Closes every open connection; new ones are welcome.
    pub fn cut(&self) {
        lock(&self.connections).abort_all();
    }

    /// Closes every open connection on the clients' side only: the servers hear nothing of it, and what they send piles
    /// up. So a firewall forgets a connection, or a client's machine loses its power. The servers' side stays open until
    /// the proxy is cut or dropped.
    pub fn forget(&self) {
        self.road.forgotten.send_modify(|times| *times += 1);
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        let mut connections = lock(&self.connections);
        while connections.try_join_next().is_some() {}
        connections.len()
    }

    /// Pieces of streams that were held by a stall or taken by a black hole, ever: tells that one struck.
    pub fn struck(&self) -> u64 {
        self.road.struck.load(Ordering::Relaxed)
    }

    /// The next `times` messages that hold these words reach the server, and the answer to each is lost with its
    /// connection.
    pub fn lose_answers_to(&self, words: &[u8], times: usize) -> Trap {
        self.road.traps.set(Set::new(words, Act::LoseAnswer, times))
    }

    /// The next `times` connections that say these words are held there, before the server hears them.
    pub fn hold_at(&self, words: &[u8], times: usize) -> Trap {
        self.road.traps.set(Set::new(words, Act::Hold, times))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, road: Arc<Road>, connections: Arc<Mutex<JoinSet<()>>>) {
    // An error of accept is the process's own want of descriptors; the clients see that nobody answers.
    while let Ok((client, _)) = listener.accept().await {
        if *road.weather.borrow() == Weather::Refusing {
            continue;
        }
        lock(&connections).spawn(carry(client, Arc::clone(&road)));
    }
}

async fn carry(client: TcpStream, road: Arc<Road>) {
    let mut forgotten = road.forgotten.subscribe();
    // A target that is not there ends the connection, as a port forwarder would.
    let Ok(server) = road.connect().await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers_are_lost = AtomicBool::new(false);
    // An error on one way ends both: the halves are dropped.
    let both = async {
        tokio::try_join!(
            there(&mut from_client, &mut to_server, &road, &answers_are_lost),
            back(&mut from_server, &mut to_client, &road, &answers_are_lost)
        )
    };
    tokio::select! {
        _ended = both => {}
        _ = forgotten.changed() => {
            drop((from_client, to_client));
            // The server's side stays as it is, until this task is aborted.
            std::future::pending::<()>().await;
            drop((from_server, to_server));
        }
    }
}

/// From the client to the server, past the traps.
async fn there(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    road: &Road,
    answers_are_lost: &AtomicBool,
) -> std::io::Result<()> {
    let mut listener = Listener::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if let Some(trap) = listener.hears(&road.traps, &buffer[..count]) {
            match trap.act {
                Act::LoseAnswer => answers_are_lost.store(true, Ordering::SeqCst),
                Act::Hold => trap.opened().await,
            }
        }
        if passes(road).await {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// From the server to the client.
async fn back(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    road: &Road,
    answers_are_lost: &AtomicBool,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if answers_are_lost.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        if passes(road).await {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// Waits as the weather commands; false when the bytes vanish.
async fn passes(road: &Road) -> bool {
    let mut weather = road.weather.subscribe();
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Clear | Weather::Refusing => return true,
            Weather::BlackHole => {
                road.struck.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            Weather::Delay(time) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the delay is what the test asked for"
                )]
                tokio::time::sleep(time).await;
                return true;
            }
            Weather::Stalled => {
                road.struck.fetch_add(1, Ordering::Relaxed);
                // The proxy is gone: so is the way.
                if weather.changed().await.is_err() {
                    return false;
                }
            }
        }
    }
}

fn lock(connections: &Mutex<JoinSet<()>>) -> MutexGuard<'_, JoinSet<()>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}
