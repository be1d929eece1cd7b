//! What stands before the services: lets a caller in or not, and hands calls for the leader on.
//!
//! A call goes through three questions. 1. May this peer make it ([`Access`])? Asked at the first
//! node, which alone sees the caller's certificate. 2. Who answers it? If that is the leader and it
//! is not us, a unary call is handed on as it came, whatever its type, so no service knows of it.
//! 3. Was it handed on before? Then it is not handed on again: two nodes that each take the other
//! for the leader would play ball with it.
//!
//! While no leader is known the call waits a little: an election is short, and a client that asks
//! again at once only adds to the noise.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::{Dialer, Peer};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::Channel;
use tonic::{Status, codegen::Service};
use tower::{Layer, ServiceExt};

use super::access::{Access, Place};
use super::error::{ApiError, LeaderHint};
use crate::leader::Seat;

/// Metadata key: this call was handed on by another node.
const HANDED_ON: &str = "pgconvoy-handed-on";

/// A little more than the longest election on a real network, and shorter than clients wait.
const ELECTION_PATIENCE: Duration = Duration::from_secs(5);

/// The layer.
#[derive(Clone)]
pub(super) struct Door {
    shared: Arc<Shared>,
}

struct Shared {
    seat: watch::Receiver<Seat>,
    dialer: Dialer,
    /// The channel to the node that led last.
    leader: Mutex<Option<(String, Channel)>>,
}

impl Door {
    pub(super) fn new(seat: watch::Receiver<Seat>, dialer: Dialer) -> Door {
        Door { shared: Arc::new(Shared { seat, dialer, leader: Mutex::new(None) }) }
    }
}

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind the door.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to be called; the clone waits its turn.
        let waiting = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, waiting);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let admitted = admit(&request);
            match shared.way(admitted).await {
                Ok(Way::Here) => inner.call(request).await,
                Ok(Way::HandOn(leader)) => {
                    Ok(shared.hand_on(request, leader).await.unwrap_or_else(answer))
                }
                Err(error) => Ok(answer(error)),
            }
        })
    }
}

fn answer(error: ApiError) -> Response<Body> {
    Status::from(error).into_http()
}

/// A call that its peer may make.
struct Admitted {
    place: Place,
    handed_on: bool,
}

fn admit(request: &Request<Body>) -> Result<Admitted, ApiError> {
    let path = request.uri().path();
    let access = Access::of(path).ok_or_else(|| {
        ApiError::invalid(
            "unknown_method",
            path,
            format!("there is no `{path}` here"),
            "see which services there are by server reflection",
        )
    })?;
    let peer = request.extensions().get::<Peer>();
    access.allow(peer.ok_or_else(|| ApiError::internal("a connection without a peer"))?)?;
    Ok(Admitted { place: access.place, handed_on: request.headers().contains_key(HANDED_ON) })
}

/// Where a call goes.
enum Way {
    Here,
    HandOn(LeaderHint),
}

impl Shared {
    async fn way(&self, admitted: Result<Admitted, ApiError>) -> Result<Way, ApiError> {
        let Admitted { place, handed_on } = admitted?;
        match place {
            Place::Here => Ok(Way::Here),
            Place::Leader => match self.leader().await? {
                None => Ok(Way::Here),
                Some(leader) if handed_on => Err(ApiError::NotLeader(Some(leader))),
                Some(leader) => Ok(Way::HandOn(leader)),
            },
            Place::LeaderStream => match self.leader().await? {
                None => Ok(Way::Here),
                Some(leader) => Err(ApiError::NotLeader(Some(leader))),
            },
        }
    }

    /// Who leads; none = this node.
    async fn leader(&self) -> Result<Option<LeaderHint>, ApiError> {
        let mut seat = self.seat.clone();
        let settled = seat.wait_for(|seat| !matches!(seat, Seat::Vacant));
        let seat = match timeout(ELECTION_PATIENCE, settled).await {
            Err(_) => return Err(ApiError::NotLeader(None)),
            Ok(Err(_)) => return Err(ApiError::Stopping),
            Ok(Ok(seat)) => seat.clone(),
        };
        match seat {
            Seat::Vacant => Err(ApiError::NotLeader(None)),
            Seat::Removed => Err(ApiError::removed()),
            Seat::Here(_) => Ok(None),
            Seat::Elsewhere(leader) => Ok(Some(leader)),
        }
    }

    async fn hand_on(
        &self,
        request: Request<Body>,
        leader: LeaderHint,
    ) -> Result<Response<Body>, ApiError> {
        let silent = |cause| ApiError::LeaderSilent { address: leader.address.clone(), cause };
        let (mut head, body) = request.into_parts();
        head.headers.insert(HANDED_ON, HeaderValue::from_static("1"));
        // They tell of this node's connection, not of the next one.
        head.extensions.clear();
        let request = Request::from_parts(head, body);
        let mut channel = self.channel(&leader.address).map_err(|cause| silent(chain(&cause)))?;
        let channel = channel.ready().await.map_err(|cause| silent(chain(&cause)))?;
        channel.call(request).await.map_err(|cause| silent(chain(&cause)))
    }

    fn channel(&self, address: &str) -> Result<Channel, pgconvoy_runtime::tls::TlsError> {
        let mut last = self.leader.lock().expect("nothing panics while it holds this lock");
        if let Some((known, channel)) = &*last
            && known == address
        {
            return Ok(channel.clone());
        }
        let channel = self.dialer.channel(address)?;
        *last = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }
}
