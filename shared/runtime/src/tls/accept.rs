//! Listening.
//!
//! A stream of connections for `serve_with_incoming_shutdown`: each has ended its handshake, and
//! its peer is known. Handshakes run side by side, so that one who says nothing keeps nobody else
//! waiting, and their number and their time are bounded, so that many who say nothing cost little.
//! A connection that fails its handshake is logged and gone; it never ends the stream.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::reload::Credentials;
use super::{Identity, IdentityError, Security, TlsError};
use crate::connection::{Connection, Peer};
use crate::telemetry::chain;
use crate::unix_socket;

/// A thousand agents that come back at once are through in a few rounds; more half-open
/// connections than these wait in the kernel's queue.
const HANDSHAKES_AT_ONCE: usize = 256;

/// A handshake takes two round trips and a millisecond of computing.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait when the system cannot give us another connection (no descriptor, no memory):
/// trying again at once would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An open port or Unix socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    credentials: Option<Arc<Credentials>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, removed with it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The only user who may connect: us.
    owner: u32,
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream, u32),
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it was gone at once")]
    Gone(#[source] io::Error),
    #[error("TLS failed")]
    Handshake(#[source] io::Error),
    #[error("it did not end its handshake within {} s", HANDSHAKE_LIMIT.as_secs())]
    Silent,
    #[error("its certificate cannot be used here")]
    Identity(#[from] IdentityError),
    #[error("it belongs to user {uid}; only user {owner} may connect")]
    ForeignUser { uid: u32, owner: u32 },
}

impl Listener {
    /// Opens a port. Plain text off loopback is refused unless `insecure_plaintext` asks for it.
    /// Must be called within a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        security: &Security,
        insecure_plaintext: bool,
    ) -> Result<Listener, TlsError> {
        let credentials = match security {
            Security::Mutual(files) => Some(Arc::new(Credentials::load(files)?)),
            Security::Plaintext if address.ip().is_loopback() || insecure_plaintext => None,
            Security::Plaintext => return Err(TlsError::PlaintextOffLoopback { address }),
        };
        let (socket, local) = open_port(address)
            .map_err(|source| TlsError::Bind { address: address.to_string(), source })?;
        Ok(Listener { socket: Socket::Tcp(socket, local), credentials })
    }

    /// Opens a Unix socket that only this user can connect to. A socket file that nobody listens
    /// on any more is replaced. Must be called within a tokio runtime.
    pub fn unix(path: &Path) -> Result<Listener, TlsError> {
        if unix_socket::is_served(path) {
            return Err(TlsError::InUse { path: path.to_owned() });
        }
        let (socket, file) = open_socket(path)
            .map_err(|source| TlsError::Bind { address: path.display().to_string(), source })?;
        Ok(Listener { socket: Socket::Unix(socket, file), credentials: None })
    }

    /// The address that was opened, with the port that was chosen where 0 was asked for. None for
    /// a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(_, local) => Some(*local),
            Socket::Unix(..) => None,
        }
    }

    /// The connections that were let in, for as long as the stream lives.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        let Listener { socket, credentials } = self;
        stream::unfold(socket, async |socket| Some((socket.accept().await, socket)))
            .map(move |accepted| admit(accepted, credentials.clone()))
            .buffer_unordered(HANDSHAKES_AT_ONCE)
            .filter_map(|admitted| future::ready(admitted.map(Ok)))
    }
}

fn open_port(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from_std(socket)?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

fn open_socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = unix_socket::bind(path)?;
    // Between these two lines another user might connect under a careless umask; each connection
    // is asked for its user besides.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let owner = fs::metadata(path)?.uid();
    Ok((socket, SocketFile { path: path.to_owned(), owner }))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

impl Socket {
    async fn accept(&self) -> Accepted {
        loop {
            let accepted = match self {
                Socket::Tcp(socket, _) => {
                    socket.accept().await.map(|(io, from)| Accepted::Tcp(io, from))
                }
                Socket::Unix(socket, file) => {
                    socket.accept().await.map(|(io, _)| Accepted::Unix(io, file.owner))
                }
            };
            match accepted {
                Ok(accepted) => return accepted,
                Err(error) if was_the_other_end(&error) => debug!("lost a connection: {error}"),
                Err(error) => {
                    warn!("cannot accept connections for now: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Linux reports with `accept` what happened to the connection since it was queued.
fn was_the_other_end(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The other end went away in the middle of the handshake.
fn hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe) || was_the_other_end(error)
}

async fn admit(accepted: Accepted, credentials: Option<Arc<Credentials>>) -> Option<Connection> {
    let (from, admitted) = match accepted {
        Accepted::Unix(io, owner) => ("the Unix socket".to_owned(), admit_local(io, owner)),
        Accepted::Tcp(io, from) => {
            let admitted = timeout(HANDSHAKE_LIMIT, admit_remote(io, from, credentials)).await;
            (from.to_string(), admitted.unwrap_or(Err(Refused::Silent)))
        }
    };
    match admitted {
        Ok(connection) => return Some(connection),
        // A load balancer's probe opens and closes, and a command that asks all coordinators at once
        // hangs up on the others when one has answered; nobody has to look at that.
        Err(Refused::Handshake(error)) if hung_up(&error) => {
            debug!("a connection from {from} was closed before TLS was agreed on: {error}");
        }
        Err(Refused::Gone(error)) => debug!("a connection from {from} was gone at once: {error}"),
        Err(refused) => warn!("refused a connection from {from}: {}", chain(&refused)),
    }
    None
}

fn admit_local(io: UnixStream, owner: u32) -> Result<Connection, Refused> {
    const ROOT: u32 = 0;
    let uid = io.peer_cred().map_err(Refused::Gone)?.uid();
    if uid != owner && uid != ROOT {
        return Err(Refused::ForeignUser { uid, owner });
    }
    Ok(Connection::new(io, Peer::local()))
}

async fn admit_remote(
    io: TcpStream,
    from: SocketAddr,
    credentials: Option<Arc<Credentials>>,
) -> Result<Connection, Refused> {
    io.set_nodelay(true).map_err(Refused::Gone)?;
    let Some(credentials) = credentials else {
        let peer = Peer { address: Some(from), identity: None, local: false };
        return Ok(Connection::new(io, peer));
    };
    let acceptor = TlsAcceptor::from(credentials.current().server);
    let tls = acceptor.accept(io).await.map_err(Refused::Handshake)?;
    let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let identity = Identity::of_certificate(shown.ok_or(IdentityError::None)?)?;
    let peer = Peer { address: Some(from), identity: Some(identity), local: false };
    Ok(Connection::new(tls, peer))
}
