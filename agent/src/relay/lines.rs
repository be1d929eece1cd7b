//! The way to one partner, in whichever direction it can be gone.
//!
//! A call that the partner offered is taken if one is at hand; otherwise the partner is dialled, and whatever comes first,
//! the answer or an offer, is used. So a partner that cannot be dialled costs nothing once it has offered itself, and one
//! that is dialled needs no offers. Calls are spread over several connections: one alone fills no long, fat link.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::select_all;
use pgconvoy_proto::v1::relay_service_client::RelayServiceClient;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::{Identity, Role, TlsError};
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::neighbours::Neighbour;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use super::tunnel::{Ends, QUEUED_FRAMES};
use super::{AGENT_KEY, Shared};

/// TCP connections to one agent.
pub(super) const CONNECTIONS: usize = 4;

/// How long offers are waited for when no partner can be dialled: one that was taken is renewed within a round trip, and a
/// connection that broke within seconds.
const OFFER_LIMIT: Duration = Duration::from_secs(5);

/// How long offers are waited for out of curiosity.
const GLANCE: Duration = Duration::from_secs(1);

/// Who dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// This agent dials the partner.
    Dialled,
    /// The partner dials this agent.
    Dials,
}

/// The way to a partner.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) partner: Neighbour,
    state: Mutex<State>,
    offered: Notify,
    /// One reference more for each session that goes this way.
    sessions: Arc<()>,
}

/// A call that the partner offers.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) ends: Ends,
    /// Which of its lives the partner is in, by its own word.
    pub(super) life: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Channel>,
    next: usize,
    /// All of one life of the partner's.
    offers: VecDeque<Offer>,
    failed: Option<Instant>,
}

impl Line {
    /// Nothing is dialled yet.
    pub(super) fn to(partner: Neighbour) -> Self {
        Self { partner, state: Mutex::default(), offered: Notify::new(), sessions: Arc::new(()) }
    }

    /// In which directions the way can be gone at this moment; why not, where it cannot.
    pub(super) async fn directions(&self, relay: &Shared) -> io::Result<Vec<Direction>> {
        let dialled = self.dial(relay).await;
        let limit = if dialled.is_ok() { GLANCE } else { OFFER_LIMIT };
        let offered = timeout(limit, self.offer()).await;
        // Put back for a session that needs it.
        let offers = offered.map(|offer| self.put_back(offer)).is_ok();
        match (dialled, offers) {
            (Ok(_), true) => Ok(vec![Direction::Dialled, Direction::Dials]),
            (Ok(_), false) => Ok(vec![Direction::Dialled]),
            (Err(_), true) => Ok(vec![Direction::Dials]),
            (Err(error), false) => Err(error),
        }
    }

    /// A call to the partner.
    pub(super) async fn call(&self, relay: &Shared) -> io::Result<Ends> {
        tokio::select! {
            biased;
            offer = self.offer() => Ok(offer.ends),
            dialled = self.dial(relay) => dialled,
        }
    }

    /// A call that the partner offers, now or later.
    async fn offer(&self) -> Offer {
        loop {
            let offered = self.offered.notified();
            if let Some(offer) = self.take_offer() {
                return offer;
            }
            offered.await;
        }
    }

    /// The partner offers a call; it is kept until it is needed. Those of an earlier life of the partner's are of no use, though
    /// nothing else may tell that for a while.
    pub(super) fn keep(&self, offer: Offer) {
        let mut state = self.state();
        state.offers.retain_mut(|kept| kept.life == offer.life && !kept.ends.has_ended());
        state.offers.push_back(offer);
        drop(state);
        self.offered.notify_one();
    }

    /// One that was not needed after all.
    fn put_back(&self, offer: Offer) {
        let mut state = self.state();
        if state.offers.iter().all(|kept| kept.life == offer.life) {
            state.offers.push_front(offer);
            drop(state);
            self.offered.notify_one();
        }
    }

    /// To be held for as long as a session goes this way.
    pub(super) fn ticket(&self) -> Arc<()> {
        Arc::clone(&self.sessions)
    }

    /// How many sessions go this way.
    pub(super) fn sessions(&self) -> usize {
        Arc::strong_count(&self.sessions)
    }

    pub(super) fn hold_a_grudge(&self) {
        self.state().failed = Some(Instant::now());
    }

    pub(super) fn failed_within(&self, now: Instant, time: Duration) -> bool {
        self.state().failed.is_some_and(|failed| now.saturating_duration_since(failed) < time)
    }

    /// The one that waited longest: sessions go by each of the partner's connections in turn.
    fn take_offer(&self) -> Option<Offer> {
        let mut state = self.state();
        std::iter::from_fn(|| state.offers.pop_front()).find_map(|mut offer| {
            let is_open = !offer.ends.has_ended();
            is_open.then_some(offer)
        })
    }

    async fn dial(&self, relay: &Shared) -> io::Result<Ends> {
        if self.partner.address.is_empty() {
            return Err(io::Error::other("it says no address and has not offered itself"));
        }
        let channel = self.connection(relay).map_err(|error| io::Error::other(chain(&error)))?;
        let (outgoing, frames) = mpsc::channel(QUEUED_FRAMES);
        let request = request(&relay.me, ReceiverStream::new(frames));
        let called = RelayServiceClient::new(channel).open(request).await;
        let incoming = called.map_err(|status| io::Error::other(chain(&status)))?.into_inner();
        Ok(Ends { incoming, outgoing })
    }

    /// One of the connections in turn.
    fn connection(&self, relay: &Shared) -> Result<Channel, TlsError> {
        let mut state = self.state();
        if state.connections.is_empty() {
            for _ in 0..CONNECTIONS {
                state.connections.push(relay.channel_to(&self.partner)?);
            }
        }
        state.next = (state.next + 1) % CONNECTIONS;
        Ok(state.connections[state.next].clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step: a panic elsewhere did not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first call that any of these partners offers.
pub(super) async fn first_offer(lines: &[Arc<Line>]) -> Option<(&Arc<Line>, Ends)> {
    let offers = lines.iter().map(|line| Box::pin(async move { (line, line.offer().await.ends) }));
    let offers: Vec<_> = offers.collect();
    if offers.is_empty() {
        return None;
    }
    let (first, ..) = timeout(OFFER_LIMIT, select_all(offers)).await.ok()?;
    Some(first)
}

impl Shared {
    /// A connection of its own, made when it is first used.
    pub(super) fn channel_to(&self, neighbour: &Neighbour) -> Result<Channel, TlsError> {
        let identity = Identity { role: Role::Agent, name: neighbour.agent.to_string() };
        self.dialer.bulk_channel(&neighbour.address, identity)
    }
}

/// A call of this agent's.
pub(super) fn request<T>(me: &AgentId, frames: T) -> Request<T> {
    let mut request = Request::new(frames);
    let name = MetadataValue::<Ascii>::try_from(me.as_str());
    request.metadata_mut().insert(AGENT_KEY, name.expect("an agent's name is of ASCII letters"));
    request
}
