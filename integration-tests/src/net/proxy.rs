//! A TCP proxy between two processes of a test: cuts, stalls, black-holes, delays.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

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
    weather: watch::Sender<Weather>,
    connections: Arc<Mutex<JoinSet<()>>>,
    acceptor: AbortHandle,
}

impl Proxy {
    /// Starts a proxy to `target`.
    pub async fn to(target: SocketAddr) -> anyhow::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (weather, forecast) = watch::channel(Weather::Clear);
        let connections = Arc::default();
        let acceptor = tokio::spawn(accept(listener, target, forecast, Arc::clone(&connections)));
        Ok(Proxy { address, weather, connections, acceptor: acceptor.abort_handle() })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for open connections too. Leaving `BlackHole` cuts them.
    pub fn set(&self, weather: Weather) {
        if self.weather.send_replace(weather) == Weather::BlackHole && weather != Weather::BlackHole
        {
            self.cut();
        }
    }

    /// Closes every open connection; new ones are welcome.
    pub fn cut(&self) {
        lock(&self.connections).abort_all();
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        let mut connections = lock(&self.connections);
        while connections.try_join_next().is_some() {}
        connections.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    // An error of accept is the process's own want of descriptors; the clients see that nobody answers.
    while let Ok((client, _)) = listener.accept().await {
        if *weather.borrow() == Weather::Refusing {
            continue;
        }
        lock(&connections).spawn(carry(client, target, weather.clone()));
    }
}

async fn carry(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    // A target that is not there ends the connection, as a port forwarder would.
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // An error on one way ends both: the halves are dropped.
    drop(tokio::try_join!(
        pump(from_client, to_server, weather.clone()),
        pump(from_server, to_client, weather)
    ));
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if passes(&mut weather).await {
            to.write_all(&buffer[..count]).await?;
        }
    }
}

/// Waits as the weather commands; false when the bytes vanish.
async fn passes(weather: &mut watch::Receiver<Weather>) -> bool {
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Clear | Weather::Refusing => return true,
            Weather::BlackHole => return false,
            Weather::Delay(time) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the delay is what the test asked for"
                )]
                tokio::time::sleep(time).await;
                return true;
            }
            // The proxy is gone: so is the way.
            Weather::Stalled if weather.changed().await.is_err() => return false,
            Weather::Stalled => {}
        }
    }
}

fn lock(connections: &Mutex<JoinSet<()>>) -> MutexGuard<'_, JoinSet<()>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}
