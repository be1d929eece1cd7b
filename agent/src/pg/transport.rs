//! The byte stream under a PostgreSQL session: socket, and TLS where it is wanted.
//!
//! One way in for tokio-postgres and for our own client, so that `sslmode` means the same for both. `allow` and
//! `prefer` try twice, as libpq does: what the second attempt is, and when there is one, is told by [`Attempt`].
//!
//! A database of another site is reached through an agent of that site, which opens the socket, and speaks TLS with the
//! server, in our place ([`Way::Relayed`]); all else is the same.
//!
//! A server that vanished without a word (power, network, NAT) is noticed by keepalive probes while we wait, and by the
//! user timeout while we send.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use pgconvoy_shared::endpoint::{Endpoint, SslMode};

use super::error::PgError;
use super::socket::Socket;
use super::tls;
use crate::relay::{Errands, Relay, Tunnel};

/// Ten seconds of silence, then three probes five seconds apart: a vanished server is noticed after 25 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// So long rests a reader that has read all there was ([`Transport::rest_between_reads`]). What comes meanwhile waits in the
/// socket's buffer.
const REST: Duration = Duration::from_millis(1);

/// How long sent bytes may stay unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Statements and reading: what we send is small, so a server that does not take it is gone.
    Short,
    /// Writing rows: Linux counts a receiver with a full buffer against this limit too, however alive it is, and a
    /// destination may well stop reading during a checkpoint or behind a lock.
    Long,
}

impl Patience {
    fn limit(self) -> Duration {
        match self {
            Self::Short => Duration::from_secs(30),
            Self::Long => Duration::from_secs(180),
        }
    }
}

/// One way to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// No TLS.
    Plain,
    /// TLS if the server has it.
    Offered,
    /// TLS or nothing.
    Tls,
}

impl Attempt {
    /// What `sslmode` asks for, in this order. A second attempt follows only a failed handshake, or a server that
    /// refused this kind of connection.
    pub(super) fn of(endpoint: &Endpoint) -> &'static [Attempt] {
        if is_socket(&endpoint.host) {
            // PostgreSQL has no TLS on Unix sockets; libpq leaves it out too.
            return &[Self::Plain];
        }
        match endpoint.sslmode {
            SslMode::Disable => &[Self::Plain],
            SslMode::Allow => &[Self::Plain, Self::Tls],
            SslMode::Prefer => &[Self::Offered, Self::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Self::Tls],
        }
    }
}

fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

/// From where a database is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// From this agent.
    Direct,
    /// From an agent of another site.
    Relayed {
        /// Knows them.
        relay: Relay,
        /// Theirs and the database's.
        site: String,
    },
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {
    /// What arrives until the next read or write wakes nobody, where that can be had.
    fn lay_aside(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Io for UnixStream {}
impl Io for Tunnel {}

impl Io for Socket {
    fn lay_aside(&mut self) -> io::Result<()> {
        Socket::lay_aside(self)
    }
}

impl Io for TlsStream<Socket> {
    fn lay_aside(&mut self) -> io::Result<()> {
        self.get_mut().0.lay_aside()
    }
}

/// A connected stream on which the startup message may be sent.
pub(crate) struct Transport {
    io: Box<dyn Io>,
    channel_binding: Option<Vec<u8>>,
    encrypted: bool,
    /// Of another agent, which connected for us.
    errands: Option<Errands>,
    rests: Option<Rests>,
}

/// A reader that rests.
#[derive(Default)]
struct Rests {
    /// Something was written since the last read.
    asked: bool,
    /// Until its end nothing is read.
    current: Option<Pin<Box<Sleep>>>,
    /// Told once all that came before is read.
    broke: Option<io::Error>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("encrypted", &self.encrypted).finish_non_exhaustive()
    }
}

impl Transport {
    /// Connects. The caller puts a limit on the time.
    pub(super) async fn open(
        endpoint: &Endpoint,
        way: &Way,
        attempt: Attempt,
        patience: Patience,
    ) -> Result<Self, PgError> {
        match way {
            Way::Direct => Self::open_here(endpoint, attempt, patience).await,
            // In a box of its own, so that it does not make all that connects as large.
            Way::Relayed { relay, site } => {
                Box::pin(relay.open(site, endpoint, attempt, patience)).await
            }
        }
    }

    /// Connects from this agent.
    pub(crate) async fn open_here(
        endpoint: &Endpoint,
        attempt: Attempt,
        patience: Patience,
    ) -> Result<Self, PgError> {
        let unreachable = |source| PgError::Unreachable { endpoint: endpoint.to_string(), source };
        if is_socket(&endpoint.host) {
            let path =
                format!("{}/.s.PGSQL.{}", endpoint.host.trim_end_matches('/'), endpoint.port);
            let socket = UnixStream::connect(path).await.map_err(unreachable)?;
            return Ok(Self::plain(socket));
        }
        let mut socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(unreachable)?;
        watch(&socket, patience).map_err(unreachable)?;
        if attempt == Attempt::Plain {
            return Ok(Self::plain(Socket::new(socket)));
        }
        match (asks_for_tls(&mut socket).await?, attempt) {
            (true, _) => Self::encrypted(socket, endpoint).await,
            (false, Attempt::Offered) => Ok(Self::plain(Socket::new(socket))),
            (false, _) => Err(PgError::TlsNotOffered { endpoint: endpoint.to_string() }),
        }
    }

    /// A stream that another agent has connected.
    pub(crate) fn relayed(
        io: Tunnel,
        encrypted: bool,
        channel_binding: Option<Vec<u8>>,
        errands: Errands,
    ) -> Self {
        Self { errands: Some(errands), ..Self::over(io, encrypted, channel_binding) }
    }

    fn plain(io: impl Io + 'static) -> Self {
        Self::over(io, false, None)
    }

    fn over(io: impl Io + 'static, encrypted: bool, channel_binding: Option<Vec<u8>>) -> Self {
        Self { io: Box::new(io), channel_binding, encrypted, errands: None, rests: None }
    }

    async fn encrypted(socket: TcpStream, endpoint: &Endpoint) -> Result<Self, PgError> {
        let config = tls::client_config(endpoint)?;
        let name = tls::server_name(&endpoint.host)?;
        let stream = TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, Socket::new(socket))
            .await
            .map_err(|source| PgError::TlsHandshake { endpoint: endpoint.to_string(), source })?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let channel_binding = certificate.and_then(tls::channel_binding);
        Ok(Self::over(stream, true, channel_binding))
    }

    /// From now on, each read takes all that has come, and rests for a moment after that. A server that is followed sends
    /// each change by itself: whoever reads as soon as something is there wakes up for each of them, and makes the server
    /// wake it. An answer to what was written is not followed by a rest, for the next question may wait for it.
    ///
    /// Not while it is written to by another task: what waits to write is not woken during a rest, but by its end.
    pub(crate) fn rest_between_reads(&mut self) {
        self.rests.get_or_insert_default();
    }

    /// Whether TLS is spoken with the server.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Lets the agent that connected for us read rows; none where we did ourselves.
    pub(super) fn errands(&self) -> Option<&Errands> {
        self.errands.as_ref()
    }

    /// What a SCRAM login can be bound to.
    pub(crate) fn channel_binding(&self) -> Option<&[u8]> {
        self.channel_binding.as_deref()
    }
}

fn watch(socket: &TcpStream, patience: Patience) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let raw = SockRef::from(socket);
    raw.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    raw.set_tcp_user_timeout(Some(patience.limit()))
}

/// Sends the SSLRequest. Exactly one byte is read: whatever a man in the middle put behind it stays out of the TLS
/// session (CVE-2021-23222).
async fn asks_for_tls(socket: &mut TcpStream) -> Result<bool, PgError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(|source| PgError::Broken { source })?;
    match socket.read_u8().await.map_err(|source| PgError::Broken { source })? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(PgError::protocol(format!(
            "the server answered the request for TLS with byte {other}: is it PostgreSQL?"
        ))),
    }
}

impl Rests {
    fn poll_read(
        &mut self,
        io: &mut dyn Io,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = &mut self.current {
            ready!(rest.as_mut().poll(cx));
            self.current = None;
        }
        self.broke.take().map_or(Ok(()), Err)?;
        let empty = buf.filled().len();
        loop {
            let had = buf.filled().len();
            match Pin::new(&mut *io).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > had && buf.remaining() > 0 => {}
                Poll::Ready(Err(error)) if had > empty => {
                    self.broke = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if had > empty && std::mem::take(&mut self.asked) => {
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if had > empty => {
                    self.current = Some(Box::pin(sleep(REST)));
                    return Poll::Ready(io.lay_aside());
                }
                other => return other,
            }
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, rests, .. } = self.get_mut();
        match rests {
            Some(rests) => rests.poll_read(&mut **io, cx, buf),
            None => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(rests) = &mut self.rests {
            rests.asked = true;
        }
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Gives a piece at each read, then nothing once, and so on; at the end nothing ever.
    struct Pieces(VecDeque<Vec<io::Result<&'static [u8]>>>);

    impl Io for Pieces {}

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(burst) = self.0.front_mut() else { return Poll::Pending };
            if burst.is_empty() {
                self.0.pop_front();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            buf.put_slice(burst.remove(0)?);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_reader_that_rests_takes_all_that_came_and_what_broke_comes_last() {
        let broke = || Err(io::ErrorKind::ConnectionReset.into());
        let bursts = [vec![Ok(&b"one "[..]), Ok(b"two ")], vec![Ok(b"three"), broke()]];
        let mut transport = Transport::plain(Pieces(bursts.into()));
        transport.rest_between_reads();
        let began = tokio::time::Instant::now();
        let mut read = BytesMut::with_capacity(64);
        assert_eq!(transport.read_buf(&mut read).await.unwrap(), 8);
        assert_eq!(transport.read_buf(&mut read).await.unwrap(), 5);
        assert!(began.elapsed() >= REST);
        assert_eq!(&read[..], b"one two three");
        let error = transport.read_buf(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn an_answer_is_followed_by_no_rest() {
        let answers: Vec<_> = (0..200).map(|_| vec![Ok(&b"answer"[..])]).collect();
        let mut transport = Transport::plain(Pieces(answers.into()));
        transport.rest_between_reads();
        for _ in 0..200 {
            transport.write_all(b"question").await.unwrap();
            let mut answer = BytesMut::with_capacity(64);
            assert_eq!(transport.read_buf(&mut answer).await.unwrap(), 6);
            assert!(transport.rests.as_ref().is_some_and(|rests| rests.current.is_none()));
        }
    }
}
