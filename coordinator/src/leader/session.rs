//! What others may do with an agent's session: give it orders, and ask whether it may be answered.
//!
//! A session never waits for its agent: what goes down is queued, and an agent that lets the queue
//! fill up loses its session, not its leases; it comes back and both sides are compared again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use pgconvoy_control::command::{Report, ReportBody};
use pgconvoy_control::{sites, work};
use pgconvoy_proto::convert::{Leased, RunningUnit, WireError};
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::leader_message::Message as ToAgent;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, Incarnation, TaskId, UnitId, UnitNo};
use pgconvoy_shared::neighbours::Neighbours;
use pgconvoy_shared::secret::Sealed;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::unit::{Ended, Progress};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use super::Leader;
use super::ledger::{Ledger, Order};
use crate::metrics::Metrics;
use crate::secrets::{SecretsError, Vault};

pub(super) type Outgoing = Result<v1::LeaderMessage, Status>;

/// An agent's session.
pub(super) struct Session {
    pub(super) agent: AgentId,
    pub(super) incarnation: Incarnation,
    /// The number of the question that the agent was asked, see [`super::sessions`].
    pub(super) question: u64,
    outbox: mpsc::Sender<Outgoing>,
    metrics: Arc<Metrics>,
    closed: CancellationToken,
    registered: AtomicBool,
    told: Mutex<Told>,
}

/// What the agent was told.
#[derive(Default)]
struct Told {
    ledger: Ledger,
    draining: bool,
    neighbours: Neighbours,
}

impl Session {
    pub(super) fn new(
        agent: AgentId,
        incarnation: Incarnation,
        question: u64,
        outbox: mpsc::Sender<Outgoing>,
        metrics: Arc<Metrics>,
    ) -> Session {
        Session {
            agent,
            incarnation,
            question,
            outbox,
            metrics,
            closed: CancellationToken::new(),
            registered: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    /// Nothing is sent or answered any more.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The log knows the agent: its leases can be told apart from others'.
    pub(super) fn registered(&self) {
        self.registered.store(true, Ordering::Release);
    }

    pub(super) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire) && !self.closed.is_cancelled()
    }

    /// Whether the agent's leases may be renewed: asked after a quorum confirmed the leader.
    pub(super) fn may_renew(&self, leader: &Leader) -> bool {
        self.is_registered()
            && leader.liveness().may_answer(&self.agent, self.incarnation)
            && leader.node.replica.read(|state| {
                let agent = state.agent(&self.agent);
                agent.is_some_and(|agent| agent.present && agent.incarnation == self.incarnation)
            })
    }

    /// Queues a message. A full queue ends the session.
    pub(super) fn send(&self, message: ToAgent) {
        if self.closed.is_cancelled() {
            return;
        }
        match self.outbox.try_send(Ok(v1::LeaderMessage { message: Some(message) })) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                warn!("agent {} does not take what it is told; its session is closed", self.agent);
                self.metrics.sessions_dropped.inc();
                self.close();
            }
            Err(TrySendError::Closed(_)) => self.close(),
        }
    }

    /// The agent says what it runs. Gives what has to be reported in its place: revoked units that
    /// it neither runs nor answers for.
    pub(super) fn note_running(
        &self,
        running: Vec<v1::UnitProgress>,
    ) -> Result<Vec<Report>, WireError> {
        let running = running.into_iter().map(RunningUnit::try_from).collect::<Result<_, _>>()?;
        let unanswered = self.told().ledger.heard(running);
        Ok(unanswered
            .into_iter()
            .map(|(unit, epoch)| self.in_its_place(unit, epoch, Ended::Released))
            .collect())
    }

    /// Compares what the agent was told with the state, and tells it what is new. Gives what has to
    /// be reported in its place: units that could not be handed out.
    ///
    /// State and queue are used under one lock, so that orders go out in the order of the log.
    pub(super) fn give_orders(&self, leader: &Leader) -> Vec<Report> {
        let mut told = self.told();
        let (orders, draining, neighbours) = leader.node.replica.read(|state| {
            let orders = told.ledger.compare(state.leases_of(&self.agent));
            let work = |unit: &UnitId| work::order(state, unit);
            let orders: Vec<_> = orders
                .into_iter()
                .map(|order| match order {
                    Order::Lease(unit, epoch) => (work(&unit), unit, epoch),
                    Order::Revoke(unit, epoch) => (None, unit, epoch),
                })
                .collect();
            let draining = state.agent(&self.agent).is_some_and(|agent| agent.draining);
            (orders, draining, sites::neighbours(state, &self.agent))
        });
        // Before the leases that need them.
        if neighbours != told.neighbours {
            self.send(ToAgent::Neighbours(neighbours.clone().into()));
            told.neighbours = neighbours;
        }
        let mut failed = Vec::new();
        for (work, unit, epoch) in orders {
            let Some(work) = work else {
                let task_id = unit.task.into();
                self.send(ToAgent::Revoke(v1::Revoke { task_id, unit: unit.no.0, epoch: epoch.0 }));
                continue;
            };
            match lease(work, &leader.node.vault) {
                Ok(lease) => self.send(ToAgent::Lease(lease.into())),
                Err(error) => {
                    let failure = Failure::definite("password_not_opened", chain(&error));
                    let failure = failure.about(format!("task {}", unit.task)).remedy(
                        "put the `secret.key` of a node that can open it into this node's data \
                         directory, or resume with the task file, which says the passwords again",
                    );
                    failed.push(self.in_its_place(unit, epoch, Ended::Failed(failure)));
                }
            }
        }
        if draining && !told.draining {
            self.send(ToAgent::Drain(v1::Drain {}));
        }
        told.draining = draining;
        failed
    }

    pub(super) fn in_its_place(&self, unit: UnitId, epoch: Epoch, ended: Ended) -> Report {
        self.report(unit, epoch, ReportBody::Ended { parts: 0, ended })
    }

    pub(super) fn report(&self, unit: UnitId, epoch: Epoch, body: ReportBody) -> Report {
        Report { agent: self.agent.clone(), incarnation: self.incarnation, unit, epoch, body }
    }

    pub(super) fn progress(&self, task: &TaskId) -> Vec<(UnitNo, (Epoch, Progress))> {
        self.told().ledger.progress(task).collect()
    }

    /// The agent's last word on a unit came.
    pub(super) fn ending(&self, unit: &UnitId, epoch: Epoch) {
        self.told().ledger.ending(unit, epoch);
    }

    /// And it is in the log.
    pub(super) fn settled(&self, unit: &UnitId, epoch: Epoch) {
        self.told().ledger.settled(unit, epoch);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("nothing panics while it holds this lock")
    }
}

/// What an agent gets with a lease.
fn lease(order: work::Order, vault: &Vault) -> Result<Leased, SecretsError> {
    let open = |sealed: Option<Sealed>, side| {
        sealed.map(|sealed| vault.unseal(&sealed, &order.unit.task, side)).transpose()
    };
    Ok(Leased {
        source_password: open(order.source_password, Side::Source)?,
        destination_password: open(order.destination_password, Side::Destination)?,
        unit: order.unit,
        epoch: order.epoch,
        spec: TaskSpec::clone(&order.spec),
        work: order.work,
        purpose: order.purpose,
    })
}
