//! Runs units: one task a unit, at most `slots` at once of those that take one, each until it ends, is revoked, or the lease
//! runs down.
//!
//! What holds:
//!
//! - A unit begins only while the agent's lease is fresh, and two leases of one unit never run side by side here: the
//!   newer waits until the older is gone.
//! - A unit that has to stop is told so by its token, and is dropped with its connections after [`STOP_LIMIT`], or when
//!   the lease is over, whichever comes first.
//! - A unit's end is in [`Reports`] before the unit is gone from the list of what runs; so at each moment the leader is
//!   told of a lease either that it runs or how it ended.
//! - A panic is an end like any other: the failure `internal_error`.

mod lease;
mod reports;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use pgconvoy_proto::convert::{Leased, RunningUnit};
use pgconvoy_runtime::tasks::{self, Died, Kind};
use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, UnitId};
use pgconvoy_shared::unit::{Ended, Progress, UnitKind};

use crate::keeper::Keepers;
use crate::pg::Pool;
use crate::relay::Relay;
use crate::tools::Tools;
use crate::unit::slot::SlotWatches;
use crate::unit::{self, Passwords, ProgressCell, UnitContext};

pub(crate) use lease::{LeaseClock, Uptime};
pub(crate) use reports::{PartSender, Report, Reports};

/// How long a unit that was told to stop may take for it.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Runs units. Clones are the same runner.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    shared: Arc<Shared>,
}

/// What units of this agent use besides their lease.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    /// The sessions that keep snapshots.
    pub(crate) keepers: Arc<Keepers>,
    /// Sessions that go from unit to unit.
    pub(crate) pool: Pool,
    /// Databases of other sites.
    pub(crate) relay: Relay,
    /// pg_dump and pg_restore.
    pub(crate) tools: Arc<Tools>,
    /// Where every row that differs is listed.
    pub(crate) differences: Option<Arc<Path>>,
    /// One for each unit that runs and takes one, and for each session beside a unit's first at one end.
    pub(crate) slots: Arc<Semaphore>,
    /// What was seen of replication slots.
    pub(crate) watches: SlotWatches,
}

#[derive(Debug)]
struct Shared {
    agent: AgentId,
    lease: LeaseClock,
    reports: Reports,
    means: Means,
    state: Mutex<State>,
    /// Counts the units that ended, for those who wait for one to end.
    ended: watch::Sender<u64>,
    /// See [`Runner::news`].
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Takes nothing new.
    draining: bool,
    running: BTreeMap<(UnitId, Epoch), Running>,
    /// Of the units that ended.
    tallies: BTreeMap<UnitKind, Tally>,
}

/// What came of the units of a kind since this process began.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) running: u64,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// To be run again, here or elsewhere: revoked, or the lease ran down.
    pub(crate) given_back: u64,
    /// By all of them, whatever their end, and by those that run.
    pub(crate) moved: Progress,
}

impl Tally {
    fn add(&mut self, moved: Progress) {
        self.moved.rows += moved.rows;
        self.moved.bytes += moved.bytes;
    }

    fn end(&mut self, ended: &Ended) {
        match ended {
            Ended::Done(_) => self.done += 1,
            Ended::Released => self.given_back += 1,
            Ended::Failed(_)
            | Ended::TableChanged { .. }
            | Ended::TableGone { .. }
            | Ended::SnapshotLost { .. } => {
                self.failed += 1;
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Running {
    kind: UnitKind,
    stop: CancellationToken,
    progress: Arc<ProgressCell>,
}

impl Runner {
    /// A runner with nothing to do.
    pub(crate) fn new(agent: AgentId, lease: LeaseClock, means: Means) -> Self {
        let shared = Shared {
            agent,
            lease,
            reports: Reports::new(),
            means,
            state: Mutex::default(),
            ended: watch::channel(0).0,
            news: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What there is to tell the leader.
    pub(crate) fn reports(&self) -> &Reports {
        &self.shared.reports
    }

    /// The sessions that keep snapshots.
    pub(crate) fn keepers(&self) -> &Keepers {
        &self.shared.means.keepers
    }

    /// The way to databases of other sites.
    pub(crate) fn relay(&self) -> &Relay {
        &self.shared.means.relay
    }

    /// The client programs of this machine.
    pub(crate) fn tools(&self) -> &Tools {
        &self.shared.means.tools
    }

    /// Until when units may run.
    pub(crate) fn lease(&self) -> &LeaseClock {
        &self.shared.lease
    }

    /// Takes a unit. One that runs already, or whose end the leader does not know yet, is not run again.
    pub(crate) fn take(&self, leased: Leased) {
        let key = (leased.unit.clone(), leased.epoch);
        let mut state = self.shared.state();
        if state.running.contains_key(&key) || self.shared.reports.has_end_of(&key.0, key.1) {
            return;
        }
        if state.draining {
            self.shared.reports.end(&key.0, key.1, 0, Ended::Released);
            return;
        }
        for ((unit, epoch), running) in &state.running {
            if *unit == key.0 && *epoch < key.1 {
                running.stop.cancel();
            }
        }
        let running = Running {
            kind: leased.work.kind(),
            stop: CancellationToken::new(),
            progress: Arc::new(ProgressCell::new(Arc::clone(&self.shared.news))),
        };
        state.running.insert(key, running.clone());
        drop(state);
        let shared = Arc::clone(&self.shared);
        tasks::spawn(Kind::Worker, format!("unit {}", leased.unit), shared.attend(leased, running));
    }

    /// The lease of a unit is over. The leader waits for a word on it, also when it does not run here.
    pub(crate) fn revoke(&self, unit: &UnitId, epoch: Epoch) {
        match self.shared.state().running.get(&(unit.clone(), epoch)) {
            Some(running) => {
                info!(%unit, %epoch, "revoked");
                running.stop.cancel();
            }
            None if self.shared.reports.has_end_of(unit, epoch) => {}
            None => self.shared.reports.end(unit, epoch, 0, Ended::Released),
        }
    }

    /// Takes nothing new from now on. What has no end of its own is told to stop; another agent goes on with it.
    pub(crate) fn drain(&self) {
        let mut state = self.shared.state();
        state.draining = true;
        let endless = |running: &&Running| running.kind == UnitKind::Stream;
        for running in state.running.values().filter(endless) {
            running.stop.cancel();
        }
        drop(state);
        self.shared.ended.send_modify(|_| {});
    }

    /// Takes nothing new, and tells all that runs to stop.
    pub(crate) fn stop(&self) {
        self.drain();
        for running in self.shared.state().running.values() {
            running.stop.cancel();
        }
    }

    /// Whether it takes nothing new.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.state().draining
    }

    /// Returns once it takes nothing new.
    pub(crate) async fn draining(&self) {
        self.shared.until(|state| state.draining).await;
    }

    /// Waits until a unit has something to say that must not wait for the next heartbeat.
    pub(crate) async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// What runs, and how far it is.
    pub(crate) fn progress(&self) -> Vec<RunningUnit> {
        let state = self.shared.state();
        let running = state.running.iter().map(|((unit, epoch), running)| RunningUnit {
            unit: unit.clone(),
            epoch: *epoch,
            progress: running.progress.read(),
        });
        running.collect()
    }

    /// What was done since this process began, by kind of unit.
    pub(crate) fn tallies(&self) -> BTreeMap<UnitKind, Tally> {
        let state = self.shared.state();
        let mut tallies = state.tallies.clone();
        for running in state.running.values() {
            let tally = tallies.entry(running.kind).or_default();
            tally.running += 1;
            tally.add(running.progress.read());
        }
        tallies
    }

    /// Returns once nothing runs and nothing new is taken.
    pub(crate) async fn drained(&self) {
        self.shared.until(|state| state.draining && state.running.is_empty()).await;
    }
}

impl Shared {
    /// From the taking of a unit to its report.
    async fn attend(self: Arc<Self>, leased: Leased, running: Running) {
        let (unit, epoch, kind) = (leased.unit.clone(), leased.epoch, leased.work.kind());
        let span =
            info_span!("unit", task = %unit.task, unit = %unit.no, %epoch, kind = kind.as_str());
        let parts = self.reports.parts_of(unit.clone(), epoch);
        let run = self.run(leased, running, parts.clone());
        let ended = run.instrument(span.clone()).await;
        span.in_scope(|| tell(&ended));
        let mut state = self.state();
        state.tallies.entry(kind).or_default().end(&ended);
        self.reports.end(&unit, epoch, parts.count(), ended);
        if let Some(gone) = state.running.remove(&(unit, epoch)) {
            state.tallies.entry(kind).or_default().add(gone.progress.read());
        }
        drop(state);
        self.ended.send_modify(|count| *count += 1);
    }

    async fn run(&self, leased: Leased, running: Running, parts: PartSender) -> Ended {
        let slot = async {
            self.older_leases_are_gone(&leased.unit, leased.epoch).await;
            if !leased.work.kind().takes_slot() {
                return None;
            }
            let slot = Arc::clone(&self.means.slots).acquire_owned().await;
            Some(slot.expect("the semaphore is never closed"))
        };
        let slot = async {
            self.lease.begun().await;
            tokio::select! {
                biased;
                // What waits for a slot when the lease runs down may be another agent's before there is one.
                () = self.lease.ending() => None,
                slot = slot => Some(slot),
            }
        };
        let slot = tokio::select! {
            biased;
            () = running.stop.cancelled() => None,
            slot = slot => slot,
        };
        let Some(_slot) = slot else { return Ended::Released };
        let context = UnitContext {
            agent: self.agent.clone(),
            task: leased.unit.task.clone(),
            unit: leased.unit.no,
            epoch: leased.epoch,
            kind: leased.work.kind(),
            purpose: leased.purpose,
            spec: Arc::new(leased.spec),
            passwords: Passwords {
                source: leased.source_password,
                destination: leased.destination_password,
            },
            cancel: running.stop.clone(),
            lease: self.lease.clone(),
            progress: running.progress,
            parts,
            means: self.means.clone(),
        };
        info!("begins");
        let work = unit::run(context, leased.work).in_current_span();
        let mut work = tasks::owned(format!("work of {}", leased.unit), work);
        tokio::select! {
            // 1. A result that is there counts, even if the lease ends at the same moment.
            biased;
            ended = &mut work => return ended.unwrap_or_else(died),
            // 2. Revoked, or the agent leaves.
            () = running.stop.cancelled() => {}
            // 3. The lease runs down, for no heartbeat was answered.
            () = self.lease.ending() => {
                warn!("stops: the lease runs down");
                running.stop.cancel();
            }
        }
        let limit = async {
            tokio::select! {
                () = tokio::time::sleep(STOP_LIMIT) => {}
                () = self.lease.over() => {}
            }
        };
        tokio::select! {
            biased;
            ended = &mut work => return ended.unwrap_or_else(died),
            () = limit => {}
        }
        // Dropping the work drops its connections: whatever it had begun, the servers roll back.
        work.cancel();
        work.await.unwrap_or_else(died)
    }

    async fn older_leases_are_gone(&self, unit: &UnitId, epoch: Epoch) {
        let older = |state: &State| state.running.keys().any(|(u, e)| u == unit && *e < epoch);
        self.until(|state| !older(state)).await;
    }

    /// Returns once that is so; looked at whenever a unit ended.
    async fn until(&self, so: impl Fn(&State) -> bool) {
        let mut ended = self.ended.subscribe();
        while !so(&self.state()) {
            ended.changed().await.expect("self holds the sender");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// A unit whose task ended without a result.
fn died(how: Died) -> Ended {
    match how {
        Died::Cancelled { .. } => Ended::Released,
        Died::Panicked { message, .. } => Ended::Failed(
            Failure::other(
                "internal_error",
                format!("the agent met a fault of its own: {message}"),
            )
            .remedy("please report it, with the agent's log"),
        ),
    }
}

fn tell(ended: &Ended) {
    match ended {
        Ended::Done(_) => info!("done"),
        Ended::Released => info!("given back"),
        Ended::Failed(failure) | Ended::TableChanged { failure, .. } => {
            warn!(code = failure.code, subject = failure.subject, "failed: {}", failure.message);
        }
        Ended::TableGone { table, .. } => {
            warn!(%table, "the source has no such table any more");
        }
        Ended::SnapshotLost { round, gone } => {
            warn!(round, exports = gone.len(), "the task's snapshot is lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::failure::FailureClass;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_failure_that_is_tried_again() {
        let work = tasks::owned("work", async {
            assert!(std::hint::black_box(false), "two and two are four");
            Ended::Released
        });
        let Ended::Failed(failure) = work.await.unwrap_or_else(died) else {
            panic!("a panic is a failure")
        };
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Other, "internal_error"));
        assert!(failure.message.contains("two and two are four"), "{failure}");
    }
}
