//! Units: one module a kind of work, each opening with its protocol.
//!
//! A unit gets a [`UnitContext`] and answers a [`WorkResult`] or says how else it ended ([`UnitEnd`]). It keeps nothing
//! afterwards but what stands at the destination; so it can be killed anywhere and run again by anyone, under a higher
//! epoch. Every unit is a source half and a destination half joined by a [`link`].

mod analyze;
pub(crate) mod apply_key;
mod audit;
mod copy_shard;
mod cutover;
mod fence;
mod finish;
mod index;
mod large_objects;
pub(crate) mod link;
mod marker;
mod open_stream;
mod plan_tables;
mod precheck;
mod prepared;
mod replica_identity;
mod schema;
mod schema_post;
mod schema_pre;
mod sequences;
pub(crate) mod slot;
mod source_table;
mod stream;
mod survey;
mod verify;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo, TaskId, UnitNo};
use pgconvoy_shared::secret::Secret;
use pgconvoy_shared::spec::{MigrationType, TaskSpec};
use pgconvoy_shared::stream::{SlotState, StreamProgress};
use pgconvoy_shared::unit::{Ended, Progress, UnitKind, Work, WorkResult};
use pgconvoy_shared::verify::Purpose;

use crate::pg::{About, Access, Session, destination};
use crate::runner::{LeaseClock, Means, PartSender};

/// All that a unit may use.
#[derive(Debug)]
pub(crate) struct UnitContext {
    /// The agent that runs it.
    pub(crate) agent: AgentId,
    /// Its task.
    pub(crate) task: TaskId,
    /// Its number within the task.
    pub(crate) unit: UnitNo,
    /// The lease: the fencing token.
    pub(crate) epoch: Epoch,
    /// Its kind, as it stands in names.
    pub(crate) kind: UnitKind,
    /// What the task is there for.
    pub(crate) purpose: Purpose,
    /// What the user asked for.
    pub(crate) spec: Arc<TaskSpec>,
    /// The passwords of the two databases.
    pub(crate) passwords: Passwords,
    /// Cancelled when the unit shall stop: revoked, drained, or the lease is about to run out. A unit that does not
    /// look at it is dropped, with its connections, shortly after.
    pub(crate) cancel: CancellationToken,
    /// Until when the agent may act.
    pub(crate) lease: LeaseClock,
    /// What heartbeats tell of it.
    pub(crate) progress: Arc<ProgressCell>,
    /// Takes the pieces of a large result.
    pub(crate) parts: PartSender,
    /// What the agent has for all its units.
    pub(crate) means: Means,
}

impl UnitContext {
    /// The way to a database of the task, under the name of this unit.
    pub(crate) fn access(&self, side: Side) -> Access {
        let (endpoint, password) = match side {
            Side::Source => (&self.spec.source, self.passwords.source.as_ref()),
            Side::Destination => (&self.spec.destination, self.passwords.destination.as_ref()),
        };
        let access = Access::new(side, endpoint, password, self.application_name())
            .by(self.means.relay.way_to(endpoint));
        match self.purpose {
            Purpose::Migrate => access,
            Purpose::Precheck | Purpose::Verify => access.read_only(),
        }
    }

    /// A session with a database of the task, under the name of this unit: one that an earlier unit left, or a new one.
    pub(crate) async fn session(&self, side: Side) -> Result<Session, Failure> {
        let access = self.access(side);
        self.means.pool.session(&access).await.about(&access)
    }

    /// Whether the schema is migrated.
    pub(crate) fn with_schema(&self) -> bool {
        self.spec.types.contains(&MigrationType::Schema)
    }

    /// Whether rows are migrated.
    pub(crate) fn with_rows(&self) -> bool {
        self.spec.types.contains(&MigrationType::Full)
    }

    /// What every connection of the unit calls itself: `pgconvoy/<task>/<kind>/<unit>.<epoch>`, at most 63 bytes (9 +
    /// 26 + 1 + 11 + 1 + 10 + 1 + 10 would be 69; numbers of ten digits do not occur in one task).
    pub(crate) fn application_name(&self) -> String {
        format!("pgconvoy/{}/{}/{}.{}", self.task, self.kind.as_str(), self.unit, self.epoch)
    }

    /// For units that have nothing to end in good order: whatever is open when the unit is told to stop is dropped, and the
    /// servers roll it back.
    async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, UnitEnd>>,
    ) -> Result<T, UnitEnd> {
        tokio::select! {
            outcome = work => outcome,
            () = self.cancel.cancelled() => Err(UnitEnd::Released),
        }
    }

    /// To be asked before a step that others can see: false once the lease is over, which after a stop of the whole
    /// process is known here before any timer fired. (The fences at the destination are what protects; this is cheap.)
    pub(crate) fn still_mine(&self) -> Result<(), UnitEnd> {
        if self.cancel.is_cancelled() || !self.lease.holds() {
            return Err(UnitEnd::Released);
        }
        Ok(())
    }
}

/// The passwords of a task's two databases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passwords {
    /// Of the source's role.
    pub(crate) source: Option<Secret>,
    /// Of the destination's role.
    pub(crate) destination: Option<Secret>,
}

/// How a unit ended, when not with a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UnitEnd {
    /// It met a failure; the class decides what is next.
    Failed(Failure),
    /// It was told to stop, or its lease ran out.
    Released,
    /// None of the exports of the task's snapshot could be imported.
    SnapshotLost {
        /// Which snapshot.
        round: u32,
        /// Whose exports were tried.
        gone: Vec<AgentId>,
    },
    /// A table is not as planned.
    TableChanged {
        /// Which one.
        table: TableNo,
        /// What differs.
        failure: Failure,
    },
    /// The source has no table of this name any more.
    TableGone {
        /// Which one.
        table: TableNo,
        /// Of the server that says so.
        system_identifier: u64,
    },
}

impl From<Failure> for UnitEnd {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Runs a unit to its end.
pub(crate) async fn run(context: UnitContext, work: Work) -> Ended {
    let context = &context;
    let work: BoxFuture<'_, _> = match work {
        Work::Precheck { verified } => precheck::run(context, verified).boxed(),
        Work::SchemaPre => schema_pre::run(context).boxed(),
        Work::OpenStream => open_stream::run(context).boxed(),
        Work::Stream(order) => stream::run(context, order).boxed(),
        Work::Cutover(order) => cutover::run(context, *order).boxed(),
        Work::Survey(order) => survey::run(context, order).boxed(),
        Work::Plan(tables) => {
            slot::watched(context, plan_tables::run(context, tables).boxed()).boxed()
        }
        Work::Copy(shard) => {
            slot::watched(context, copy_shard::run(context, *shard).boxed()).boxed()
        }
        Work::Audit(tables) => async move { audit::run(context, &tables).await }.boxed(),
        Work::Index(build) => slot::watched(context, index::run(context, build).boxed()).boxed(),
        Work::SchemaPost => schema_post::run(context).boxed(),
        Work::Sequences => sequences::run(context).boxed(),
        Work::Analyze(tables) => analyze::run(context, tables).boxed(),
        Work::VerifyPlan(tables) => verify::plan::run(context, tables).boxed(),
        Work::VerifyRows(rows) => verify::rows::run(context, *rows).boxed(),
        Work::VerifySchema => verify::schema(context).boxed(),
        Work::VerifySequences => verify::sequences::run(context).boxed(),
        Work::Finish => finish::run(context).boxed(),
    };
    let work = async {
        match work.await {
            Err(UnitEnd::Failed(failure)) => {
                let access = context.access(Side::Destination);
                Err(destination::or_lost(&access, failure).await.into())
            }
            end => end,
        }
    };
    ended(context.until_stopped(work).await)
}

/// What the leader is told.
fn ended(outcome: Result<WorkResult, UnitEnd>) -> Ended {
    match outcome {
        Ok(result) => Ended::Done(result),
        Err(UnitEnd::Failed(failure)) => Ended::Failed(failure),
        Err(UnitEnd::Released) => Ended::Released,
        Err(UnitEnd::SnapshotLost { round, gone }) => Ended::SnapshotLost { round, gone },
        Err(UnitEnd::TableChanged { table, failure }) => Ended::TableChanged { table, failure },
        Err(UnitEnd::TableGone { table, system_identifier }) => {
            Ended::TableGone { table, system_identifier }
        }
    }
}

/// How far a unit is; written by the unit, read by heartbeats.
#[derive(Debug, Default)]
pub(crate) struct ProgressCell {
    rows: AtomicU64,
    bytes: AtomicU64,
    stream: Mutex<Option<StreamProgress>>,
    slot: Mutex<Option<SlotState>>,
    news: Arc<Notify>,
}

impl ProgressCell {
    /// Of a unit that has done nothing yet. `news` wakes whoever sends heartbeats.
    pub(crate) fn new(news: Arc<Notify>) -> Self {
        Self { news, ..Self::default() }
    }

    /// Somebody may be waiting for what was said last: it goes out at once, not with the next heartbeat.
    pub(crate) fn tell_now(&self) {
        self.news.notify_one();
    }

    /// More was done.
    pub(crate) fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A stream is so far.
    pub(crate) fn follow(&self, step: impl FnOnce(&mut StreamProgress)) {
        step(self.stream().get_or_insert_default());
    }

    /// The source keeps so much for the task's slot.
    pub(crate) fn slot(&self, slot: Option<SlotState>) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = slot;
    }

    /// How far it is.
    pub(crate) fn read(&self) -> Progress {
        Progress {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            stream: self.stream().clone(),
            slot: *self.slot.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn stream(&self) -> MutexGuard<'_, Option<StreamProgress>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
