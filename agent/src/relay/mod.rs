//! Sessions with databases that only agents of another site reach.
//!
//! ```text
//!   owner (runs the unit)                      partner (agent of the database's site)
//!   Open: endpoint, kind of TLS  ────────────▶ connects, speaks TLS with the server
//!                                ◀──────────── Opened: what SCRAM can be bound to, or Refused
//!   login, statements, COPY      ◀── bytes ──▶ passed on unread
//! ```
//!
//! - Units know nothing of it: the whole unit runs at one agent, under one lease and epoch, and what differs is how
//!   [`crate::pg`] opens a stream. Names of sessions are the owner's, so that law O5 finds them whoever passes them on.
//! - The password stays with the owner: it logs in through the [`tunnel`]. Files of certificates are the partner's.
//! - Rows are not sent where only hashes of them are wanted: the owner says so before a COPY, and the partner reads its rows in
//!   the owner's place ([`errand`]).
//! - Either agent may be the one that dials: the owner calls `Open`; where it cannot, the partner calls `Offer` beforehand,
//!   several times, and the owner takes one of those calls ([`lines`]). Which way works is found by trying.
//! - Both ends prove by certificate to be agents, of the names that the leader told ([`Neighbours`]). A partner opens
//!   sessions with databases of its own site only.
//! - If owner, partner or the way between them dies, whoever is left closes its end at once: for the unit the connection
//!   is lost, as if the server had dropped it.

mod errand;
mod lines;
mod pack;
mod partner;
mod service;
mod tunnel;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::relay_frame::Frame;
use pgconvoy_runtime::tasks::{self, Owned};
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_runtime::tls::{Dialer, Security, TlsError};
use pgconvoy_shared::endpoint::Endpoint;
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::AgentId;
use pgconvoy_shared::neighbours::{Neighbour, Neighbours};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use crate::pg::{Attempt, Patience, PgError, Transport, Way};
pub(crate) use errand::{Errands, Replies};
pub(crate) use lines::Direction;
use lines::Line;
pub(crate) use service::Service;
use tunnel::Ends;
pub(crate) use tunnel::{Tally, Tunnel};

/// A partner that failed is asked after the others for so long.
const GRUDGE: Duration = Duration::from_secs(10);

/// Metadata key: the name of the agent that calls.
const AGENT_KEY: &str = "pgconvoy-agent";

/// Metadata key: a number that an agent draws when it starts.
const LIFE_KEY: &str = "pgconvoy-life";

/// This agent's dealings with those of other sites. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    me: AgentId,
    /// Another one each time it is started.
    life: u64,
    site: Option<String>,
    dialer: Dialer,
    neighbours: watch::Sender<Neighbours>,
    /// To each partner.
    lines: Mutex<BTreeMap<AgentId, Arc<Line>>>,
    /// Cancelled when the agent leaves.
    leaving: CancellationToken,
    tally: Arc<Tally>,
}

impl Relay {
    /// Knows nobody yet.
    pub(crate) fn new(
        me: AgentId,
        site: Option<String>,
        security: &Security,
    ) -> Result<Self, TlsError> {
        let shared = Shared {
            me,
            life: rand::random(),
            site,
            dialer: Dialer::new(security)?,
            neighbours: watch::channel(Neighbours::default()).0,
            lines: Mutex::default(),
            leaving: CancellationToken::new(),
            tally: Arc::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The leader says who the neighbours are.
    pub(crate) fn meet(&self, neighbours: Neighbours) {
        let mut lines = self.lines();
        lines.retain(|agent, _| neighbours.partners.iter().any(|partner| partner.agent == *agent));
        for partner in &neighbours.partners {
            let known = lines.get(&partner.agent).is_some_and(|line| line.partner == *partner);
            if !known {
                lines.insert(partner.agent.clone(), Arc::new(Line::to(partner.clone())));
            }
        }
        drop(lines);
        self.shared.neighbours.send_if_modified(|known| {
            let changed = *known != neighbours;
            *known = neighbours;
            changed
        });
    }

    /// Offers itself to owners that might not be able to dial this agent, for as long as the handle lives.
    pub(crate) fn serve(&self) -> Owned<()> {
        tasks::owned("offers to other sites", partner::offer_to_all(self.clone()))
    }

    /// Ends what it does for others when the guard is dropped.
    pub(crate) fn cut_off_at_the_end(&self) -> DropGuard {
        self.shared.leaving.clone().drop_guard()
    }

    /// Returns once the agent leaves.
    pub(crate) fn left(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.leaving.clone().cancelled_owned()
    }

    /// What it passed on for agents of other sites.
    pub(crate) fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// How this agent reaches a database.
    pub(crate) fn way_to(&self, endpoint: &Endpoint) -> Way {
        match &endpoint.site {
            Some(site) if self.shared.site.as_ref() != Some(site) => {
                Way::Relayed { relay: self.clone(), site: site.clone() }
            }
            Some(_) | None => Way::Direct,
        }
    }

    /// Lets an agent of the site connect. One after the other is asked, as long as another one may do better; and if none
    /// can be reached at once, the first that offers itself.
    pub(crate) async fn open(
        &self,
        site: &str,
        endpoint: &Endpoint,
        attempt: Attempt,
        patience: Patience,
    ) -> Result<Transport, PgError> {
        let open = request(endpoint, attempt, patience);
        let lines = self.lines_to(site);
        let mut tried = Vec::new();
        let mut refused = None;
        for line in &lines {
            let opened = match line.call(&self.shared).await {
                Ok(ends) => ask(line, ends, endpoint, open.clone()).await,
                Err(error) => Err(NotOpened::NotReached(error)),
            };
            match opened {
                Ok(transport) => return Ok(transport),
                Err(NotOpened::Refused(error)) if !another_may_do(&error) => return Err(error),
                Err(NotOpened::Refused(error)) => refused = Some(error),
                Err(NotOpened::NotReached(error)) => {
                    debug!("cannot reach agent {}: {error}", line.partner.agent);
                    tried.push(format!("{}: {}", line.partner.agent, chain(&error)));
                }
            }
            line.hold_a_grudge();
        }
        // What the database's side said tells more than who could not be asked.
        if let Some(refused) = refused {
            return Err(refused);
        }
        if let Some((line, ends)) = lines::first_offer(&lines).await {
            match ask(line, ends, endpoint, open).await {
                Ok(transport) => return Ok(transport),
                Err(NotOpened::Refused(error)) => return Err(error),
                Err(NotOpened::NotReached(error)) => {
                    tried.push(format!("{}: {}", line.partner.agent, chain(&error)));
                }
            }
        }
        let tried = match tried.as_slice() {
            [] => "none is known".to_owned(),
            tried => tried.join("; "),
        };
        Err(PgError::NoPartner { site: site.to_owned(), tried })
    }
    /// How each agent of a site is reached, and whether it reaches the database.
    pub(crate) async fn look_around(&self, site: &str, endpoint: &Endpoint) -> Vec<Seen> {
        let looks = self.lines_to(site).into_iter().map(|line| async move {
            let agent = line.partner.agent.clone();
            let directions = match line.directions(&self.shared).await {
                Ok(directions) => directions,
                Err(error) => return Seen { agent, reached: Err(chain(&error)) },
            };
            let ends = line.call(&self.shared).await.map_err(NotOpened::NotReached);
            let open = request(endpoint, Attempt::Plain, Patience::Short);
            let opened = match ends {
                Ok(ends) => ask(&line, ends, endpoint, open).await,
                Err(error) => Err(error),
            };
            let reached = match opened {
                Ok(_closed) => Ok(directions),
                Err(NotOpened::NotReached(error)) => Err(chain(&error)),
                Err(NotOpened::Refused(error)) => Err(chain(&error)),
            };
            Seen { agent, reached }
        });
        futures::future::join_all(looks).await
    }

    /// Those of a site, in the order in which to ask them: who did not fail lately, then who has least to do.
    fn lines_to(&self, site: &str) -> Vec<Arc<Line>> {
        let lines = self.lines();
        let mut lines: Vec<_> =
            lines.values().filter(|line| line.partner.site == site).map(Arc::clone).collect();
        let now = Instant::now();
        lines.sort_by_cached_key(|line| {
            (line.failed_within(now, GRUDGE), line.sessions(), rand::random::<u32>())
        });
        lines
    }

    fn line_to(&self, agent: &AgentId) -> Option<Arc<Line>> {
        self.lines().get(agent).map(Arc::clone)
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<AgentId, Arc<Line>>> {
        // A map of lines is whole at every step: a panic elsewhere did not spoil it.
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent of another site.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) agent: AgentId,
    /// The directions in which it is reached, if it reaches the database; or what is in the way.
    pub(crate) reached: Result<Vec<Direction>, String>,
}

/// Why a partner opened no session.
#[derive(Debug)]
enum NotOpened {
    /// There is no way to it, or it did not answer.
    NotReached(io::Error),
    /// It could not connect.
    Refused(PgError),
}

fn request(endpoint: &Endpoint, attempt: Attempt, patience: Patience) -> v1::RelayOpen {
    v1::RelayOpen {
        endpoint: Some(endpoint.clone().into()),
        attempt: wire_attempt(attempt).into(),
        patient: patience == Patience::Long,
    }
}

/// Has a session opened by way of a call.
async fn ask(
    line: &Line,
    mut ends: Ends,
    endpoint: &Endpoint,
    open: v1::RelayOpen,
) -> Result<Transport, NotOpened> {
    let answer = async {
        ends.send(Frame::Open(open)).await?;
        ends.next().await
    };
    match answer.await.map_err(NotOpened::NotReached)? {
        Some(Frame::Opened(v1::RelayOpened { encrypted, channel_binding })) => {
            let (tunnel, errands) = Tunnel::of_owner(ends, line.ticket());
            let binding = (!channel_binding.is_empty()).then(|| channel_binding.to_vec());
            Ok(Transport::relayed(tunnel, encrypted, binding, errands))
        }
        Some(Frame::Refused(refused)) => {
            Err(NotOpened::Refused(refusal(endpoint, &line.partner.agent, refused)))
        }
        Some(_) => Err(NotOpened::NotReached(tunnel::nonsense("no answer to a request"))),
        None => Err(NotOpened::NotReached(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Whether an agent at the same site might be luckier: no certificate and no setting becomes another one there.
fn another_may_do(error: &PgError) -> bool {
    match error {
        PgError::AtPartner(failure) => failure.class == FailureClass::Transient,
        _ => false,
    }
}

/// What a partner met, as if it had been met here.
fn refusal(endpoint: &Endpoint, partner: &AgentId, refused: v1::RelayRefused) -> PgError {
    let why = refused.why();
    let failure = refused.failure.map(Failure::try_from).and_then(Result::ok);
    let mut failure = failure
        .unwrap_or_else(|| Failure::other("protocol_violation", "it refused without a word"));
    failure.message = format!("from agent {partner}: {}", failure.message);
    match why {
        v1::RelayRefusal::TlsNotOffered => {
            PgError::TlsNotOffered { endpoint: endpoint.to_string() }
        }
        v1::RelayRefusal::TlsHandshake => PgError::HandshakeAtPartner(Box::new(failure)),
        v1::RelayRefusal::Unspecified => PgError::AtPartner(Box::new(failure)),
    }
}

fn wire_attempt(attempt: Attempt) -> v1::RelayAttempt {
    match attempt {
        Attempt::Plain => v1::RelayAttempt::Plain,
        Attempt::Offered => v1::RelayAttempt::Offered,
        Attempt::Tls => v1::RelayAttempt::Tls,
    }
}

fn attempt_of(wire: v1::RelayAttempt) -> Option<Attempt> {
    match wire {
        v1::RelayAttempt::Unspecified => None,
        v1::RelayAttempt::Plain => Some(Attempt::Plain),
        v1::RelayAttempt::Offered => Some(Attempt::Offered),
        v1::RelayAttempt::Tls => Some(Attempt::Tls),
    }
}

/// Whether one of these is the agent.
fn is_among(agent: &AgentId, neighbours: &[Neighbour]) -> bool {
    neighbours.iter().any(|neighbour| neighbour.agent == *agent)
}
