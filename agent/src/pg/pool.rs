//! Sessions that go from one unit to the next.
//!
//! A database of ten thousand small tables is ten thousand short units; a new connection costs a server process its birth
//! and its caches, which is far more than such a table, and half a dozen round trips. So a unit that ends well leaves its
//! sessions here for a moment, and the next one with the same login takes them over:
//!
//! - It is given only while the server waits for a query, outside a transaction: nothing of the earlier unit is open.
//! - It is taken by setting anew what units set ([`Pooled::handed_over`]): above all the name, before anything else is
//!   said on it. From then on it is found as the new unit's (law O5), like a session that was opened for it.
//! - While nobody uses it, it has the name of a unit that is done: who runs that again under a younger epoch ends it,
//!   and who would take it next finds that out and connects.
//!
//! Units that fail, or are told to stop, give nothing: their connections are closed with all that was open on them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{join, join_all};
use tokio::time::{Instant, timeout};
use tracing::debug;

use pgconvoy_runtime::tasks::{self, Kind};
use pgconvoy_shared::ids::TaskId;

use super::transport::Patience;
use super::wire::Wire;
use super::{Access, PgError, Session};

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

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) wires: Vec<Idle<Wire>>,
    pub(super) sessions: Vec<Idle<Session>>,
    /// Somebody closes those that nobody takes.
    swept: bool,
}

/// One that waits.
#[derive(Debug)]
pub(crate) struct Idle<S> {
    session: S,
    since: Instant,
}

/// A session that may go from one unit to the next.
pub(crate) trait Pooled: Sized + Send {
    /// With whom.
    fn access(&self) -> &Access;
    /// Whether this is what `access` would give, but for its name.
    fn is_like(&self, access: &Access, patience: Patience) -> bool;
    /// Whether it is of use to somebody else, as far as that is known here.
    fn is_at_rest(&self) -> bool;
    /// The session under another name, and otherwise as one that has only just been opened: what units set is set anew. An
    /// error means that it is of no use any more.
    fn handed_over(self, access: &Access) -> impl Future<Output = Result<Self, PgError>> + Send;
    /// A new one.
    fn open(
        access: &Access,
        patience: Patience,
    ) -> impl Future<Output = Result<Self, PgError>> + Send;
    /// Where those of this kind wait. The one that was given last is taken first.
    fn idle(state: &mut State) -> &mut Vec<Idle<Self>>;
}

impl Pool {
    /// A pool that closes what nobody took for so long.
    pub(crate) fn new(idle_limit: Duration) -> Self {
        Self { idle_limit, state: Arc::default() }
    }

    /// A session for ordinary SQL.
    pub(crate) async fn session(&self, access: &Access) -> Result<Session, PgError> {
        self.take_or_open(access, Patience::Short).await
    }

    /// A session for reading rows.
    pub(crate) async fn reader(&self, access: &Access) -> Result<Wire, PgError> {
        self.take_or_open(access, Patience::Short).await
    }

    /// A session for writing rows.
    pub(crate) async fn writer(&self, access: &Access) -> Result<Wire, PgError> {
        self.take_or_open(access, Patience::Long).await
    }

    /// A unit has ended well and needs its session no more.
    pub(crate) fn give<S: Pooled>(&self, session: S) {
        if !session.is_at_rest() {
            return;
        }
        let mut state = self.state();
        S::idle(&mut state).push(Idle { session, since: Instant::now() });
        if !std::mem::replace(&mut state.swept, true) {
            tasks::spawn(Kind::Worker, "idle sessions", self.clone().sweep());
        }
    }

    /// Closes those of a task.
    pub(crate) async fn close(&self, task: &TaskId) {
        let of_task = format!("pgconvoy/{task}/");
        let theirs = |access: &Access, _| access.application_name().starts_with(&of_task);
        self.close_those(theirs).await;
    }

    async fn take_or_open<S: Pooled>(
        &self,
        access: &Access,
        patience: Patience,
    ) -> Result<S, PgError> {
        match self.take(access, patience).await {
            Some(session) => Ok(session),
            None => S::open(access, patience).await,
        }
    }

    /// One that is alive, under the name that `access` asks for.
    async fn take<S: Pooled>(&self, access: &Access, patience: Patience) -> Option<S> {
        loop {
            let session = {
                let mut state = self.state();
                let idle = S::idle(&mut state);
                let at = idle.iter().rposition(|idle| idle.session.is_like(access, patience))?;
                idle.remove(at).session
            };
            match timeout(ANSWER_LIMIT, session.handed_over(access)).await {
                Ok(Ok(session)) => return Some(session),
                Ok(Err(error)) => debug!("an idle session with {access} is gone: {error}"),
                Err(_) => debug!("an idle session with {access} does not answer"),
            }
        }
    }

    async fn sweep(self) {
        loop {
            tokio::time::sleep(self.idle_limit).await;
            self.close_those(|_, since| since.elapsed() >= self.idle_limit).await;
            let mut state = self.state();
            if state.wires.is_empty() && state.sessions.is_empty() {
                state.swept = false;
                return;
            }
        }
    }

    async fn close_those(&self, which: impl Fn(&Access, Instant) -> bool) {
        fn taken<S: Pooled>(state: &mut State, which: impl Fn(&Access, Instant) -> bool) -> Vec<S> {
            let idle = S::idle(state);
            let closed = idle.extract_if(.., |idle| which(idle.session.access(), idle.since));
            closed.map(|idle| idle.session).collect()
        }
        let wires: Vec<Wire> = taken(&mut self.state(), &which);
        let sessions: Vec<Session> = taken(&mut self.state(), &which);
        join(
            join_all(wires.into_iter().map(Wire::close)),
            join_all(sessions.into_iter().map(Session::close)),
        )
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A list of sessions is whole at every step: a panic elsewhere did not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
