//! The partner's part: connects for owners of other sites, and passes bytes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_proto::v1::relay_service_client::RelayServiceClient;
use pgconvoy_runtime::tasks::{self, Kind, Owned};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::endpoint::Endpoint;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::neighbours::Neighbour;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{debug, info};

use super::lines::{CONNECTIONS, request};
use super::tunnel::{Ends, FRAME_BYTES, QUEUED_FRAMES, Tunnel};
use super::{LIFE_KEY, Relay, attempt_of};
use crate::pg::{Patience, PgError, Transport, connect_limit};

/// Between attempts to offer a call to an owner that cannot be dialled.
const OFFER_PAUSE_MIN: Duration = Duration::from_millis(200);
const OFFER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Serves a call until either end is through.
pub(super) async fn serve(relay: Relay, owner: AgentId, open: v1::RelayOpen, ends: Ends) {
    let (endpoint, outcome) = tokio::select! {
        outcome = connect(&relay, open) => outcome,
        // The owner does not want it any more.
        () = ends.outgoing.closed() => return,
    };
    let mut transport = match outcome {
        Ok(transport) => transport,
        Err(refused) => {
            debug!("a session of agent {owner} with {endpoint} is not opened: {refused:?}");
            // An owner that is gone needs no answer.
            let _unheard = ends.send(Frame::Refused(refused)).await;
            return;
        }
    };
    let binding = transport.channel_binding().map(<[u8]>::to_vec).unwrap_or_default();
    let opened =
        v1::RelayOpened { encrypted: transport.is_encrypted(), channel_binding: binding.into() };
    if ends.send(Frame::Opened(opened)).await.is_err() {
        return;
    }
    // What comes in small pieces travels in few.
    transport.rest_between_reads();
    let mut tunnel = Tunnel::of_partner(ends, Arc::clone(&relay.shared.tally));
    let passing =
        copy_bidirectional_with_sizes(&mut tunnel, &mut transport, FRAME_BYTES, FRAME_BYTES);
    let passed = tokio::select! {
        passed = passing => passed,
        () = relay.left() => return,
    };
    match passed {
        Ok((up, down)) => {
            debug!(
                "a session of agent {owner} ended: {down} bytes came from the server, {up} went there"
            );
        }
        Err(error) => debug!("a session of agent {owner} was cut off: {error}"),
    }
}

/// As the owner asked, or why not.
async fn connect(
    relay: &Relay,
    open: v1::RelayOpen,
) -> (String, Result<Transport, v1::RelayRefused>) {
    let attempt = attempt_of(open.attempt());
    let patience = if open.patient { Patience::Long } else { Patience::Short };
    let endpoint = open.endpoint.and_then(|endpoint| Endpoint::try_from(endpoint).ok());
    let (Some(attempt), Some(endpoint)) = (attempt, endpoint) else {
        let failure =
            Failure::other("protocol_violation", "this request means nothing to this version");
        return ("?".to_owned(), Err(refused(failure)));
    };
    let name = endpoint.to_string();
    if endpoint.site.is_none() || endpoint.site != relay.shared.site {
        // The owner does not know yet that this agent is of another site now, and others may be of this one.
        let failure =
            Failure::transient("not_of_this_site", format!("{name} is not of this agent's site"));
        return (name, Err(refused(failure)));
    }
    let limit = connect_limit(&endpoint);
    let connected = timeout(limit, Transport::open_here(&endpoint, attempt, patience)).await;
    let connected = connected.unwrap_or_else(|_| {
        Err(PgError::ConnectTimeout { endpoint: name.clone(), secs: limit.as_secs() })
    });
    let connected = connected.map_err(|error| {
        let why = match error {
            PgError::TlsNotOffered { .. } => v1::RelayRefusal::TlsNotOffered,
            PgError::TlsHandshake { .. } => v1::RelayRefusal::TlsHandshake,
            _ => v1::RelayRefusal::Unspecified,
        };
        v1::RelayRefused { why: why.into(), ..refused(error.failure(name.clone())) }
    });
    (name, connected)
}

fn refused(failure: Failure) -> v1::RelayRefused {
    v1::RelayRefused { failure: Some(failure.into()), why: v1::RelayRefusal::Unspecified.into() }
}

/// Keeps calls open to all owners that can be dialled.
pub(super) async fn offer_to_all(relay: Relay) {
    let mut neighbours = relay.shared.neighbours.subscribe();
    let mut offering: BTreeMap<(AgentId, String), Owned<()>> = BTreeMap::new();
    loop {
        let owners = neighbours.borrow_and_update().owners.clone();
        let key = |owner: &Neighbour| (owner.agent.clone(), owner.address.clone());
        offering.retain(|known, _| owners.iter().any(|owner| key(owner) == *known));
        for owner in owners.into_iter().filter(|owner| !owner.address.is_empty()) {
            offering.entry(key(&owner)).or_insert_with(|| {
                let name = format!("offers to agent {}", owner.agent);
                tasks::owned(name, offer_to(relay.clone(), owner))
            });
        }
        if neighbours.changed().await.is_err() {
            return;
        }
    }
}

/// One waiting call on each of several connections.
async fn offer_to(relay: Relay, owner: Neighbour) {
    let lanes = (0..CONNECTIONS).map(|_| offer_on_one(&relay, &owner));
    futures::future::join_all(lanes).await;
}

async fn offer_on_one(relay: &Relay, owner: &Neighbour) {
    let channel = match relay.shared.channel_to(owner) {
        Ok(channel) => channel,
        Err(error) => {
            // It cannot be dialled ever; it may still dial this agent.
            return info!("cannot offer sessions to agent {}: {}", owner.agent, chain(&error));
        }
    };
    let mut pause = OFFER_PAUSE_MIN;
    loop {
        match offered(relay, channel.clone()).await {
            Ok(Some((open, ends))) => {
                pause = OFFER_PAUSE_MIN;
                let served = serve(relay.clone(), owner.agent.clone(), open, ends);
                // Not kept: the session lives as long as both its ends, whether or not calls are still offered.
                let _on_its_own = tasks::spawn(Kind::Worker, "relayed session", served);
                continue;
            }
            Ok(None) => debug!("agent {} takes no offers", owner.agent),
            Err(error) => debug!("cannot offer sessions to agent {}: {error}", owner.agent),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(OFFER_PAUSE_MAX);
    }
}

/// A call that the owner took; none if it ended it.
async fn offered(relay: &Relay, channel: Channel) -> Result<Option<(v1::RelayOpen, Ends)>, String> {
    let mut ends = offer(relay, channel).await?;
    match ends.next().await.map_err(|error| error.to_string())? {
        Some(Frame::Open(open)) => Ok(Some((open, ends))),
        Some(_) => Err("it speaks out of turn".to_owned()),
        None => Ok(None),
    }
}

/// A call that waits for the owner.
pub(super) async fn offer(relay: &Relay, channel: Channel) -> Result<Ends, String> {
    let (outgoing, frames) = mpsc::channel(QUEUED_FRAMES);
    let mut request = request(&relay.shared.me, ReceiverStream::new(frames));
    request.metadata_mut().insert(LIFE_KEY, relay.shared.life.into());
    let called = RelayServiceClient::new(channel).offer(request).await;
    let incoming = called.map_err(|status| chain(&status))?.into_inner();
    Ok(Ends { incoming, outgoing })
}
