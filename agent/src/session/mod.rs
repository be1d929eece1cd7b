//! The session with the leader: one stream, kept open for as long as the agent lives.
//!
//! ```text
//!  agent                                    leader
//!    │ Hello (what it runs) ─────────────────▶ │
//!    │ ◀──────────────────────────── Challenge │ a Hello can be read after its process died
//!    │ Present ──────────────────────────────▶ │ registers the incarnation, compares
//!    │ ◀───────────────────────────── Welcome  │
//!    │ Heartbeat ────────────────────────────▶ │ answers once a quorum confirmed that it leads
//!    │ ◀──────────────────────── HeartbeatAck  │ the lease counts from when the heartbeat was sent
//!    │ ◀───────────────────── Lease, Revoke …  │
//!    │ UnitReport ───────────────────────────▶ │
//!    │ ◀─────────────────────────── ReportAck  │ until then told again, in each session
//! ```
//!
//! A session that breaks stops nothing: units run on while the lease lasts, which the runner watches, and the next
//! session tells the leader what runs and how units ended meanwhile. A leader that answers no heartbeat is left for
//! another one while there is still lease enough for that.

mod attend;
mod route;
mod wire;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use pgconvoy_proto::status::{failure_of, leader_of};
use pgconvoy_proto::v1;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::{AgentId, Incarnation};

use crate::config::Coordinators;
use crate::error::AgentError;
use crate::runner::Runner;
use attend::Over;
use route::Route;

/// How long one and the same reason for being without a session is told once.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// A newer process goes under this agent's name: this one is never taken in again.
const FORMER_LIFE: &str = "agent_former_life";

/// How long a leaving agent goes on trying to tell its last reports. What it cannot tell, the leader finds out by the
/// lease.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// What the agent says of itself.
#[derive(Debug)]
pub(crate) struct Introduction {
    pub(crate) agent: AgentId,
    pub(crate) incarnation: Incarnation,
    pub(crate) site: Option<String>,
    pub(crate) slots: u32,
    pub(crate) address: String,
}

/// Whether there is a session, for those who look on. Clones tell of the same agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connected(Arc<AtomicBool>);

impl Connected {
    pub(crate) fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, connected: bool) {
        self.0.store(connected, Ordering::Relaxed);
    }
}

/// Keeps sessions with whoever leads.
#[derive(Debug)]
pub(crate) struct Sessions {
    introduction: Introduction,
    runner: Runner,
    route: Route,
    /// Grows by one with each heartbeat of this incarnation.
    heartbeats: Arc<AtomicU64>,
    connected: Connected,
    /// A leader took this incarnation in once, so its set-up was right.
    welcomed: bool,
    /// Why there is no session, as far as that was told since [`TELL_AGAIN`]: more tries with the same end are noise.
    told: BTreeMap<String, Instant>,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("refused: {}", .0.message())]
    Refused(Status),
    #[error("{0} did not come in time")]
    Silent(&'static str),
    #[error("the leader closed the session")]
    Closed,
    #[error("the leader sent what this agent does not understand: {0}")]
    Nonsense(String),
}

impl Broken {
    /// The leader, where the refusal names it.
    fn leader(&self) -> Option<String> {
        match self {
            Self::Refused(status) if status.code() == Code::Unavailable => {
                leader_of(status).map(str::to_owned)
            }
            Self::Refused(_) | Self::Silent(_) | Self::Closed | Self::Nonsense(_) => None,
        }
    }

    /// What the coordinators have against this agent that no waiting changes: somebody has to do something about it.
    fn definite(&self) -> Option<Failure> {
        match self {
            Self::Refused(status) => {
                failure_of(status).filter(|failure| failure.class == FailureClass::Definite)
            }
            Self::Nonsense(_) | Self::Silent(_) | Self::Closed => None,
        }
    }

    /// With its causes: tonic tells "transport error" and keeps the rest behind it.
    fn why(&self) -> String {
        match self {
            Self::Refused(status) => match (failure_of(status), status.source()) {
                (Some(failure), _) => format!("{self} [{}]", failure.code),
                (None, Some(source)) => format!("{self}: {}", chain(source)),
                (None, None) => self.to_string(),
            },
            Self::Silent(_) | Self::Closed | Self::Nonsense(_) => self.to_string(),
        }
    }
}

impl Sessions {
    /// Sessions that are not open yet.
    pub(crate) fn new(
        introduction: Introduction,
        runner: Runner,
        coordinators: &Coordinators,
    ) -> Result<Self, AgentError> {
        let route = Route::new(coordinators)?;
        Ok(Self {
            introduction,
            runner,
            route,
            heartbeats: Arc::default(),
            connected: Connected::default(),
            welcomed: false,
            told: BTreeMap::new(),
        })
    }

    /// Whether there is a session.
    pub(crate) fn connected(&self) -> Connected {
        self.connected.clone()
    }

    /// Opens one session after the other, until the runner is drained and the leader knows all there is to know. Once
    /// `closing` is cancelled, that may take [`FAREWELL_LIMIT`] after the last unit ended. An error: no coordinator will
    /// ever take this agent in.
    pub(crate) async fn keep(mut self, closing: CancellationToken) -> Result<(), Failure> {
        let runner = self.runner.clone();
        let too_late = async {
            closing.cancelled().await;
            runner.drained().await;
            tokio::time::sleep(FAREWELL_LIMIT).await;
        };
        tokio::select! {
            kept = self.keep_open() => kept,
            () = too_late => {
                warn!("leaves without the leader's word on its last reports");
                Ok(())
            }
        }
    }

    async fn keep_open(&mut self) -> Result<(), Failure> {
        loop {
            let pause = match self.route.next() {
                Err(error) => self.route.unusable(&error),
                Ok((channel, name)) => match self.open(channel, &name).await {
                    Ok(Over::Left) => return Ok(()),
                    Ok(Over::Drains) => continue,
                    Err(broken) => {
                        if let Some(refused) = self.refused_for_good(&broken) {
                            return Err(refused);
                        }
                        self.tell(&broken, &name);
                        self.route.failed(broken.leader())
                    }
                },
            };
            let left = async {
                self.runner.drained().await;
                self.runner.reports().acknowledged().await;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = left => return Ok(()),
            }
        }
    }

    /// The reason to give up. An agent that was welcome before goes on: certificates and coordinators are replaced under
    /// running processes, and what was done wrong there can be put right without losing its units.
    fn refused_for_good(&self, broken: &Broken) -> Option<Failure> {
        broken.definite().filter(|failure| !self.welcomed || failure.code == FORMER_LIFE)
    }

    /// A reason that was told is told again only after [`TELL_AGAIN`]; another one at once.
    fn tell(&mut self, broken: &Broken, name: &str) {
        let why = broken.why();
        self.told.retain(|_, at| at.elapsed() < TELL_AGAIN);
        if self.told.contains_key(&why) {
            return debug!("no session with {name}: {why}");
        }
        match broken.definite() {
            Some(failure) if !failure.remedy.is_empty() => {
                warn!("no session with {name}: {why}; tries again, but first {}", failure.remedy);
            }
            Some(_) => warn!("no session with {name}: {why}; tries again"),
            None if matches!(broken, Broken::Nonsense(_)) => {
                warn!("no session with {name}: {why}; tries again");
            }
            None => info!("no session with {name}: {why}; tries again"),
        }
        self.told.insert(why, Instant::now());
    }

    fn hello(&self) -> v1::Hello {
        let me = &self.introduction;
        v1::Hello {
            agent_id: me.agent.to_string(),
            incarnation: me.incarnation.0,
            site: me.site.clone().unwrap_or_default(),
            // Without slots it is given nothing.
            slots: if self.runner.is_draining() { 0 } else { me.slots },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pg_dump_majors: self.runner.tools().majors(),
            running: wire::progress(&self.runner),
            address: me.address.clone(),
        }
    }

    async fn open(&mut self, channel: Channel, name: &str) -> Result<Over, Broken> {
        let hello = self.hello();
        let (session, welcome) = attend::Session::open(channel, hello).await?;
        info!(term = welcome.term, "session with {name}");
        self.route.arrived();
        self.welcomed = true;
        self.told.clear();
        self.connected.set(true);
        let over = session.attend(&welcome, &self.runner, &self.heartbeats).await;
        self.connected.set(false);
        over
    }
}
