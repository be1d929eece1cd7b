//! The agent of pgconvoy: everything that touches a PostgreSQL server.
//!
//! Reading order: `session` (what is said with the leader), `runner` (leases, slots, reports), `unit` (one module a kind
//! of work), `pg` (connections, COPY, fencing), `relay` (databases of other sites).
//!
//! Architecture Invariants: an agent keeps nothing on disk; what it did stands at the destination. (Where it is told to list
//! every row that differs, it writes that list, and never reads it.) Rows go from source to
//! destination and never to a coordinator. A password comes with a lease, lives as long as its unit, and is in no
//! argument list, log line or report.

mod config;
mod error;
mod keeper;
mod laws;
mod metrics;
mod pg;
mod relay;
mod runner;
mod session;
mod tools;
mod unit;

use std::sync::Arc;

use pgconvoy_runtime::shutdown::{Reason, Shutdown};
use pgconvoy_runtime::tasks::{self, Kind, Owned};
use pgconvoy_runtime::tls::{Listener, Role, Security, bulk_server};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation};
use pgconvoy_shared::neighbours::Neighbours;
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use config::{AgentConfig, Coordinators};
pub use error::AgentError;
pub use metrics::Probe;

use keeper::Keepers;
use pg::{IDLE_LIMIT, Pool};
use relay::{Relay, Service};
use runner::{LeaseClock, Means, Runner};
use session::{Introduction, Sessions};
use tools::Tools;
use unit::slot::SlotWatches;

/// An agent process, or one of several agents within a process.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent: it seeks the leader, runs what it is told to, and leaves when `shutdown` begins (units are given
    /// back then) or when it is drained (units run to their end).
    pub async fn start(config: AgentConfig, shutdown: Shutdown) -> Result<AgentHandle, AgentError> {
        if config.slots == 0 {
            return Err(AgentError::NoSlots);
        }
        if let Coordinators::Addresses { security, .. } = &config.coordinators {
            let certified = security.require(Role::Agent, Some(config.id.as_str()));
            certified.map_err(AgentError::Certificate)?;
        }
        let tools = Arc::new(Tools::find().await);
        let keepers = Arc::new(Keepers::new());
        let lease = LeaseClock::new();
        let differences = config.differences.map(Arc::from);
        let slots = usize::try_from(config.slots).expect("u32 fits usize on all platforms");
        let slots = Arc::new(Semaphore::new(slots));
        let security = match &config.coordinators {
            Coordinators::Addresses { security, .. } => security.clone(),
            Coordinators::Channel(_) => Security::Plaintext,
        };
        let relay = Relay::new(config.id.clone(), config.site.clone(), &security)
            .map_err(AgentError::Certificate)?;
        let pool = Pool::new(IDLE_LIMIT);
        let watches = SlotWatches::default();
        let means =
            Means { keepers, pool, relay: relay.clone(), tools, differences, slots, watches };
        let runner = Runner::new(config.id.clone(), lease, means);
        let introduction = Introduction {
            agent: config.id.clone(),
            incarnation: Incarnation(rand::rng().random()),
            site: config.site,
            slots: config.slots,
            address: address(config.advertise, config.listener.as_ref()),
        };
        let sessions = Sessions::new(introduction, runner.clone(), &config.coordinators)?;
        let probe = Probe::new(
            config.id.clone(),
            config.slots,
            runner.clone(),
            relay.clone(),
            sessions.connected(),
        );
        let closing = CancellationToken::new();
        let task = tasks::owned(format!("agent {}", config.id), {
            let (runner, closing) = (runner.clone(), closing.clone());
            let name = config.id.clone();
            async move {
                // Also when this task is dropped: units and relayed sessions do not outlive their agent.
                let _units = StopsUnits(runner.clone());
                let _sessions = relay.cut_off_at_the_end();
                let _offers = relay.serve();
                if let Some(listener) = config.listener {
                    let name = format!("listener of agent {name}");
                    tasks::spawn(Kind::Critical(shutdown.clone()), name, listen(listener, relay));
                }
                let stop = async {
                    shutdown.begun().await;
                    runner.stop();
                    closing.cancel();
                    std::future::pending::<()>().await;
                };
                let kept = tokio::select! {
                    kept = sessions.keep(closing.clone()) => kept,
                    () = stop => Ok(()),
                };
                if let Err(refused) = &kept {
                    // Whoever started it has to know: without its agent the process is of no use.
                    let task = format!("agent {name}");
                    shutdown.begin(Reason::Failed { task, cause: refused.to_string() });
                }
                kept
            }
        });
        Ok(AgentHandle { id: config.id, runner, probe, closing, task })
    }
}

/// Where other agents dial one that listens there.
fn address(advertise: Option<String>, listener: Option<&Listener>) -> String {
    let here = listener.and_then(Listener::local_addr).map(|here| {
        if here.ip().is_unspecified() {
            warn!(
                "listens on all addresses; give --advertise to be dialled by agents of other sites"
            );
            return String::new();
        }
        here.to_string()
    });
    advertise.or(here).unwrap_or_default()
}

/// Serves other agents, and those who watch over processes, until the agent has left.
async fn listen(listener: Listener, relay: Relay) -> Result<(), tonic::transport::Error> {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let left = {
        let relay = relay.clone();
        async move {
            relay.left().await;
            // Calls that were offered and not needed would be waited for.
            relay.meet(Neighbours::default());
        }
    };
    bulk_server()
        .add_service(health)
        .add_service(Service::of(relay))
        .serve_with_incoming_shutdown(listener.incoming(), left)
        .await
}

struct StopsUnits(Runner);

impl Drop for StopsUnits {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A running agent; dropping it ends the session at once and tells all units to stop.
#[derive(Debug)]
pub struct AgentHandle {
    id: AgentId,
    runner: Runner,
    probe: Probe,
    closing: CancellationToken,
    task: Owned<Result<(), Failure>>,
}

impl AgentHandle {
    /// Its name.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// What it says of itself, for an HTTP listener.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Takes nothing new, finishes what runs, and then leaves: see [`AgentHandle::stopped`].
    pub fn drain(&self) {
        self.runner.drain();
        self.closing.cancel();
    }

    /// Returns when the agent has left: drained or shut down, its last reports told; or refused by the coordinators for
    /// good.
    pub async fn stopped(self) -> Result<(), AgentError> {
        self.task.await?.map_err(|refused| AgentError::Refused(refused.into()))
    }
}
