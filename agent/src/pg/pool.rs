//! Sessions of our own client that go from one unit to the next.
//!
//! A database of ten thousand small tables is ten thousand short units; a new connection costs a server process its birth
//! and its caches, which is far more than such a table. So a unit that ends well leaves its session here for a moment, and
//! the next one with the same login takes it over:
//!
//! - It is given only while the server waits for a query, outside a transaction: nothing of the earlier unit is open.
//! - It is taken by setting anew what units set ([`Wire::handed_over`]): above all the name, before anything else is
//!   said on it. From then on it is found as the new unit's (law O5), like a session that was opened for it.
//! - While nobody uses it, it has the name of a unit that is done: who runs that again under a younger epoch ends it,
//!   and who would take it next finds that out and connects.
//!
//! Units that fail, or are told to stop, give nothing: their connections are closed with all that was open on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

use pgconvoy_runtime::tasks::{self, Kind};
use pgconvoy_shared::ids::TaskId;

use super::transport::Patience;
use super::wire::Wire;
use super::{Access, PgError};

/// Longer than it takes to report a unit and to be leased the next one; short, for the server has other uses for a
/// connection.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// A session that was alive two seconds ago and says nothing for so long is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Sessions that wait for a unit. There are never more of them than were in use at once within the limit. Clones are the
/// same pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    idle_limit: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that was given last is taken first.
    idle: Vec<Idle>,
    /// Somebody closes those that nobody takes.
    swept: bool,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    since: Instant,
}

impl Pool {
    /// A pool that closes what nobody took for so long.
    pub(crate) fn new(idle_limit: Duration) -> Self {
        Self { idle_limit, state: Arc::default() }
    }

    /// A session for reading rows.
    pub(crate) async fn reader(&self, access: &Access) -> Result<Wire, PgError> {
        self.wire(access, Patience::Short).await
    }

    /// A session for writing rows.
    pub(crate) async fn writer(&self, access: &Access) -> Result<Wire, PgError> {
        self.wire(access, Patience::Long).await
    }

    /// A unit has ended well and needs its session no more.
    pub(crate) fn give(&self, wire: Wire) {
        if !wire.is_at_rest() {
            return;
        }
        let mut state = self.state();
        state.idle.push(Idle { wire, since: Instant::now() });
        if !std::mem::replace(&mut state.swept, true) {
            tasks::spawn(Kind::Worker, "idle sessions", self.clone().sweep());
        }
    }

    /// Closes those of a task.
    pub(crate) async fn close(&self, task: &TaskId) {
        let of_task = format!("pgconvoy/{task}/");
        let theirs = |idle: &Idle| idle.wire.access().application_name().starts_with(&of_task);
        self.close_those(theirs).await;
    }

    async fn wire(&self, access: &Access, patience: Patience) -> Result<Wire, PgError> {
        match self.take(access, patience).await {
            Some(wire) => Ok(wire),
            None => match patience {
                Patience::Short => access.reader().await,
                Patience::Long => access.writer().await,
            },
        }
    }

    /// One that is alive, under the name that `access` asks for.
    async fn take(&self, access: &Access, patience: Patience) -> Option<Wire> {
        loop {
            let fits = |idle: &Idle| idle.wire.is_like(access, patience);
            let wire = {
                let idle = &mut self.state().idle;
                let at = idle.iter().rposition(fits)?;
                idle.remove(at).wire
            };
            match timeout(ANSWER_LIMIT, wire.handed_over(access)).await {
                Ok(Ok(wire)) => return Some(wire),
                Ok(Err(error)) => debug!("an idle session with {access} is gone: {error}"),
                Err(_) => debug!("an idle session with {access} does not answer"),
            }
        }
    }

    async fn sweep(self) {
        loop {
            tokio::time::sleep(self.idle_limit).await;
            self.close_those(|idle| idle.since.elapsed() >= self.idle_limit).await;
            let mut state = self.state();
            if state.idle.is_empty() {
                state.swept = false;
                return;
            }
        }
    }

    async fn close_those(&self, which: impl Fn(&Idle) -> bool) {
        let closed: Vec<Idle> = self.state().idle.extract_if(.., |idle| which(idle)).collect();
        for idle in closed {
            idle.wire.close().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A list of sessions is whole at every step: a panic elsewhere did not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
