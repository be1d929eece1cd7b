//! Dialling.
//!
//! A channel connects when it is first used and again after a break, so that it can be made before
//! the other end is up; each attempt resolves the name anew and uses the certificates of that
//! moment. HTTP/2 pings, also while nothing is asked, tell a dead network from a quiet peer within
//! about [`KEEPALIVE_INTERVAL`] + [`KEEPALIVE_TIMEOUT`], well inside a lease.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use super::reload::Credentials;
use super::{Identity, IdentityError, Security, TlsError};
use crate::connection::{Connection, Peer};
use crate::unix_socket;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// For name, TCP and TLS together. Longer than two lost SYNs (1 s + 2 s), shorter than a lease.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// A link that is full of rows delays a ping, and its answer, by what waits to be sent: seconds where the link is slow. A
/// dead network is still noticed within 17 s.
const BULK_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const BULK_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(12);

/// What a call may have under way: 20 ms of 200 MB/s. Also what one that is not read holds in memory.
const BULK_WINDOW: u32 = 4 << 20;

/// What all calls of a connection may have under way. More than they have windows: a call that is not read must not take
/// the others' share.
const BULK_CONNECTION_WINDOW: u32 = 1 << 30;

/// A gRPC server that notices a dead network as soon as those who dial it do.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// A gRPC server for those who dial it by [`Dialer::bulk_channel`].
pub fn bulk_server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(BULK_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(BULK_KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(BULK_WINDOW)
        .initial_connection_window_size(BULK_CONNECTION_WINDOW)
}

/// Makes channels to other processes. Cheap to clone; clones share what was read of the files.
#[derive(Clone, Debug)]
pub struct Dialer {
    credentials: Option<Arc<Credentials>>,
}

/// Why a connection was not made. Found in the sources of the error that a call ends with.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("cannot connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("TLS with {address} failed")]
    Handshake {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{address} did not answer within {} s", CONNECT_LIMIT.as_secs())]
    Silent { address: String },
    #[error("the certificate of {address} cannot be used here")]
    Identity {
        address: String,
        #[source]
        source: IdentityError,
    },
    #[error("{address} is {found}, not {wanted}")]
    SomebodyElse { address: String, found: Identity, wanted: Identity },
}

/// Where a channel leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp { host: String, port: u16, name: Option<ServerName<'static>> },
    Unix(PathBuf),
}

impl Dialer {
    /// Reads the certificates, so that what is wrong with them is told at the start.
    pub fn new(security: &Security) -> Result<Dialer, TlsError> {
        let credentials = match security {
            Security::Plaintext => None,
            Security::Mutual(files) => Some(Arc::new(Credentials::load(files)?)),
        };
        Ok(Dialer { credentials })
    }

    /// A channel to `host:port`, `http(s)://host:port` or `unix:/path`. Must be called within a
    /// tokio runtime.
    pub fn channel(&self, address: &str) -> Result<Channel, TlsError> {
        self.channel_to(address, None, |endpoint| {
            endpoint
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        })
    }

    /// A channel for calls that carry much, each with a window of its own. Under TLS, who answers must be `peer`.
    pub fn bulk_channel(&self, address: &str, peer: Identity) -> Result<Channel, TlsError> {
        self.channel_to(address, Some(peer), |endpoint| {
            endpoint
                .http2_keep_alive_interval(BULK_KEEPALIVE_INTERVAL)
                .keep_alive_timeout(BULK_KEEPALIVE_TIMEOUT)
                .initial_stream_window_size(BULK_WINDOW)
                .initial_connection_window_size(BULK_CONNECTION_WINDOW)
        })
    }

    fn channel_to(
        &self,
        address: &str,
        peer: Option<Identity>,
        tuned: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, TlsError> {
        let target = self.target(address)?;
        // An endpoint that says https would demand tonic's own TLS, which reads no file twice.
        let uri = match &target {
            Target::Tcp { host, port, .. } => format!("http://{}", authority(host, *port)),
            Target::Unix(_) => "http://localhost".to_owned(),
        };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| unsound(address, "the host cannot be part of a URL"))?
            .keep_alive_while_idle(true);
        let credentials = self.credentials.clone();
        let address: Arc<str> = address.into();
        let connector = tower::service_fn(move |_| {
            let dialled = dial(target.clone(), credentials.clone(), peer.clone());
            let address = Arc::clone(&address);
            async move {
                timeout(CONNECT_LIMIT, dialled)
                    .await
                    .unwrap_or_else(|_| Err(ConnectError::Silent { address: address.to_string() }))
                    .map(TokioIo::new)
            }
        });
        Ok(tuned(endpoint).connect_with_connector_lazy(connector))
    }

    fn target(&self, address: &str) -> Result<Target, TlsError> {
        if let Some(path) = address.strip_prefix("unix:") {
            // Both unix:/path and unix:///path are in use.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(unsound(address, "the path of a socket begins with /"));
            }
            return Ok(Target::Unix(path.into()));
        }
        let secured = self.credentials.is_some();
        let rest = match address.split_once("://") {
            None => address,
            Some(("https", rest)) if secured => rest,
            Some(("http", rest)) if !secured => rest,
            Some(("https", _)) => {
                return Err(TlsError::CertificateMissing { address: address.to_owned() });
            }
            Some(("http", _)) => {
                return Err(TlsError::PlaintextNotWanted { address: address.to_owned() });
            }
            Some(_) => return Err(unsound(address, "only http and https are spoken")),
        };
        let (host, port) = host_and_port(rest).map_err(|problem| unsound(address, problem))?;
        let name = secured.then(|| ServerName::try_from(host.clone())).transpose();
        let name = name.map_err(|_| unsound(address, "no certificate can name this host"))?;
        Ok(Target::Tcp { host, port, name })
    }
}

fn unsound(address: &str, problem: &'static str) -> TlsError {
    TlsError::Address { address: address.to_owned(), problem }
}

fn host_and_port(text: &str) -> Result<(String, u16), &'static str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(['/', '@', '?', '#']) {
        return Err("it has more than host and port");
    }
    let uri: Uri = text.parse().map_err(|_| "it has no host:port form")?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("the host is missing")?;
    let port = uri.port_u16().filter(|port| *port > 0).ok_or("the port is missing")?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn dial(
    target: Target,
    credentials: Option<Arc<Credentials>>,
    wanted: Option<Identity>,
) -> Result<Connection, ConnectError> {
    match target {
        Target::Unix(path) => {
            let stream = unix_socket::connect(&path).await.map_err(|source| {
                ConnectError::Connect { address: path.display().to_string(), source }
            })?;
            Ok(Connection::new(stream, Peer::local()))
        }
        Target::Tcp { host, port, name } => {
            let failed = |source| ConnectError::Connect { address: authority(&host, port), source };
            let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
            tcp.set_nodelay(true).map_err(failed)?;
            let peer = Peer { address: tcp.peer_addr().ok(), identity: None, local: false };
            let (Some(credentials), Some(name)) = (credentials, name) else {
                return Ok(Connection::new(tcp, peer));
            };
            let tls = TlsConnector::from(credentials.current().client).connect(name, tcp).await;
            let tls = tls.map_err(|source| ConnectError::Handshake {
                address: authority(&host, port),
                source,
            })?;
            if let Some(wanted) = wanted {
                let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let found = shown.ok_or(IdentityError::None).and_then(Identity::of_certificate);
                let address = || authority(&host, port);
                match found {
                    Ok(found) if found == wanted => {}
                    Ok(found) => {
                        return Err(ConnectError::SomebodyElse {
                            address: address(),
                            found,
                            wanted,
                        });
                    }
                    Err(source) => {
                        return Err(ConnectError::Identity { address: address(), source });
                    }
                }
            }
            Ok(Connection::new(tls, peer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Dialer {
        Dialer { credentials: None }
    }

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.to_owned(), port, name: None }
    }

    #[test]
    fn addresses_are_read_in_each_of_their_forms() {
        let read = |address| plain().target(address).unwrap();
        assert_eq!(read("db1:7411"), tcp("db1", 7411));
        assert_eq!(read("http://db1.example:7411/"), tcp("db1.example", 7411));
        assert_eq!(read("[::1]:7411"), tcp("::1", 7411));
        assert_eq!(read("unix:/run/a.sock"), Target::Unix("/run/a.sock".into()));
        assert_eq!(read("unix:///run/a.sock"), Target::Unix("/run/a.sock".into()));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in [
            "",
            "db1",
            "db1:",
            ":7411",
            "db1:0",
            "db1:70000",
            "http://a:1/path",
            "a@b:1",
            "ftp://a:1",
            "unix:a",
        ] {
            let refused = plain().target(address);
            assert!(matches!(refused, Err(TlsError::Address { .. })), "{address}: {refused:?}");
        }
        let refused = plain().target("https://db1:7411");
        assert!(matches!(refused, Err(TlsError::CertificateMissing { .. })), "{refused:?}");
    }
}
