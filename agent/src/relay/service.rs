//! What other agents may call.
//!
//! Who calls is known by certificate, or on loopback without TLS by its word, and has to be one of the neighbours that the
//! leader told. It told them to both agents, to one of them earlier: so a stranger is asked to wait a moment.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_proto::v1::relay_service_server::{RelayService, RelayServiceServer};
use pgconvoy_runtime::tasks::{self, Kind};
use pgconvoy_runtime::tls::{Identity, Peer, Role};
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::neighbours::Neighbours;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::lines::Offer;
use super::tunnel::{Ends, QUEUED_FRAMES};
use super::{AGENT_KEY, LIFE_KEY, Relay, is_among, partner};

/// For the leader's word on a neighbour to come here too.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(5);

/// For an owner to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Serves other agents.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    relay: Relay,
}

type Frames = Pin<Box<dyn Stream<Item = Result<v1::RelayFrame, Status>> + Send>>;

impl Service {
    /// As a gRPC service.
    pub(crate) fn of(relay: Relay) -> RelayServiceServer<Self> {
        RelayServiceServer::new(Self { relay })
    }

    /// Who calls, once it is known to be a neighbour.
    async fn caller(
        &self,
        request: &Request<Streaming<v1::RelayFrame>>,
        knows: impl Fn(&Neighbours, &AgentId) -> bool,
    ) -> Result<AgentId, Refusal> {
        let caller = claimed(request)?;
        let mut neighbours = self.relay.shared.neighbours.subscribe();
        let known = neighbours.wait_for(|neighbours| knows(neighbours, &caller));
        match timeout(INTRODUCTION_LIMIT, known).await {
            Ok(Ok(_)) => Ok(caller),
            Ok(Err(_)) | Err(_) => {
                Err(Refusal::Stranger { caller, me: self.relay.shared.me.clone() })
            }
        }
    }
}

/// Why a call is not served.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("an agent says its name")]
    Nameless,
    #[error("{identity} may not speak for agent {name}")]
    SomebodyElse { identity: Identity, name: String },
    #[error("agent {caller} has nothing to do with {me}")]
    Stranger { caller: AgentId, me: AgentId },
    #[error("it was a neighbour until just now")]
    Left,
}

impl From<Refusal> for Status {
    #[expect(clippy::disallowed_methods, reason = "the one place where agents refuse each other")]
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Nameless => Code::Unauthenticated,
            Refusal::SomebodyElse { .. } | Refusal::Stranger { .. } => Code::PermissionDenied,
            Refusal::Left => Code::Unavailable,
        };
        Status::new(code, refusal.to_string())
    }
}

/// Who it says to be; under TLS, who it proves to be.
fn claimed(request: &Request<Streaming<v1::RelayFrame>>) -> Result<AgentId, Refusal> {
    let name = request.metadata().get(AGENT_KEY).and_then(|name| name.to_str().ok());
    let name = name.ok_or(Refusal::Nameless)?;
    let identity = Peer::of(request).and_then(|peer| peer.identity.as_ref());
    if let Some(identity) = identity
        && (identity.role != Role::Agent || identity.name != name)
    {
        let (identity, name) = (identity.clone(), name.to_owned());
        return Err(Refusal::SomebodyElse { identity, name });
    }
    name.parse().map_err(|_| Refusal::Nameless)
}

fn answering(request: Request<Streaming<v1::RelayFrame>>) -> (Ends, Response<Frames>) {
    let (outgoing, frames) = mpsc::channel(QUEUED_FRAMES);
    let frames: Frames = Box::pin(ReceiverStream::new(frames).map(Ok));
    (Ends { incoming: request.into_inner(), outgoing }, Response::new(frames))
}

#[tonic::async_trait]
impl RelayService for Service {
    type OpenStream = Frames;
    type OfferStream = Frames;

    async fn open(
        &self,
        request: Request<Streaming<v1::RelayFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let owner = self.caller(&request, |known, agent| is_among(agent, &known.owners)).await?;
        let (mut ends, response) = answering(request);
        let relay = self.relay.clone();
        let _on_its_own = tasks::spawn(Kind::Worker, "relayed session", async move {
            if let Ok(Ok(Some(Frame::Open(open)))) = timeout(REQUEST_LIMIT, ends.next()).await {
                partner::serve(relay, owner, open, ends).await;
            }
        });
        Ok(response)
    }

    async fn offer(
        &self,
        request: Request<Streaming<v1::RelayFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let partner =
            self.caller(&request, |known, agent| is_among(agent, &known.partners)).await?;
        let life =
            request.metadata().get(LIFE_KEY).and_then(|life| life.to_str().ok()?.parse().ok());
        let (ends, response) = answering(request);
        match self.relay.line_to(&partner) {
            Some(line) => line.keep(Offer { ends, life }),
            None => return Err(Refusal::Left.into()),
        }
        Ok(response)
    }
}
