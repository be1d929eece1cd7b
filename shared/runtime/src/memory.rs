//! gRPC inside one process: the embedded mode's network.
//!
//! Coordinator and agents of an embedded run speak exactly what they speak over TCP, so there is
//! no second code path; only the bytes go through a pair of buffers instead of a socket. A caller
//! connects lazily and again after a break, as over TCP: while nobody accepts, it is refused.

use std::io;
use std::sync::{Arc, Mutex};

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::connection::{Connection, Peer};

/// Bytes each direction holds before the writer waits: a few of HTTP/2's 16 KiB frames, so that
/// rows of a relay flow without a switch of tasks a frame.
const BUFFER_BYTES: usize = 256 * 1024;

/// Connections that wait to be accepted. One process has a handful of callers, and each of them
/// waits when there are more.
const BACKLOG: usize = 64;

type Acceptor = mpsc::Sender<DuplexStream>;

/// A meeting point in this process: some dial it, one accepts.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    acceptor: Arc<Mutex<Option<Acceptor>>>,
}

impl Hub {
    pub fn new() -> Hub {
        Hub::default()
    }

    /// A channel to whoever accepts, now or later.
    pub fn channel(&self) -> Channel {
        let hub = self.clone();
        let connector = tower::service_fn(move |_| {
            let hub = hub.clone();
            async move { hub.connect().await.map(TokioIo::new) }
        });
        // The address is never resolved; HTTP/2 wants one in each request.
        Endpoint::from_static("http://pgconvoy.memory").connect_with_connector_lazy(connector)
    }

    /// The connections of those who dial. A later call takes over from an earlier one.
    pub fn incoming(&self) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        let (acceptor, mut dialled) = mpsc::channel(BACKLOG);
        *self.acceptor.lock().expect("nothing panics while it holds this lock") = Some(acceptor);
        futures::stream::poll_fn(move |cx| {
            dialled
                .poll_recv(cx)
                .map(|dialled| dialled.map(|io| Ok(Connection::new(io, Peer::local()))))
        })
    }

    async fn connect(&self) -> io::Result<DuplexStream> {
        let acceptor =
            self.acceptor.lock().expect("nothing panics while it holds this lock").clone();
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "nobody accepts here");
        let acceptor = acceptor.ok_or_else(refused)?;
        let (ours, theirs) = duplex(BUFFER_BYTES);
        acceptor.send(theirs).await.map_err(|_| refused())?;
        Ok(ours)
    }
}
