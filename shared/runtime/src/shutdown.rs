//! How a process ends: a token that says "stop", and a gate that waits for those who must finish.
//!
//! [`Shutdown`] is told once and remembers why. Whoever must not be cut short holds a [`Guard`] of
//! a [`Gate`]; closing the gate lets nobody in any more and waits for the guards, and names them
//! when it takes long, because "shutdown hangs" is no bug report and "`wal writer` still runs" is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// After this time a gate that still waits says for whom, and so on each time it has passed again.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// Why a process stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its work is done, or its owner asked it to stop.
    Asked,
    /// The operating system asked.
    Signal(&'static str),
    /// A task that the process cannot do without ended badly.
    Failed { task: String, cause: String },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Asked => f.write_str("asked to stop"),
            Reason::Signal(name) => write!(f, "received {name}"),
            Reason::Failed { task, cause } => write!(f, "task `{task}` failed: {cause}"),
        }
    }
}

/// The request to stop, shared by all that have to hear it. Clones are the same request.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    reason: Arc<OnceLock<Reason>>,
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// Asks everybody to stop. The first reason stays.
    pub fn begin(&self, reason: Reason) {
        let failed = matches!(reason, Reason::Failed { .. });
        let text = reason.to_string();
        if self.reason.set(reason).is_ok() {
            if failed {
                error!("stopping: {text}");
            } else {
                info!("stopping: {text}");
            }
        }
        self.token.cancel();
    }

    /// Returns once somebody asked to stop.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Why, once it has begun.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.get()
    }

    /// A token that is cancelled with this request, and may be cancelled alone: for a part of the
    /// process.
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }
}

/// Lets work in while it is open, and waits for what is inside when it closes.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<GateInner>,
}

#[derive(Debug)]
struct GateInner {
    name: Cow<'static, str>,
    inside: Mutex<Inside>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    closed: bool,
    next: u64,
    holders: BTreeMap<u64, Cow<'static, str>>,
}

/// The gate is closed: this work must not begin any more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{gate} is shutting down")]
pub struct Closed {
    gate: Cow<'static, str>,
}

/// The gate did not empty in time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{gate} still waits for {}", holders.join(", "))]
pub struct StillHeld {
    pub gate: String,
    pub holders: Vec<String>,
}

/// Keeps its gate from closing until it is dropped.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once guards nothing"]
pub struct Guard {
    gate: Arc<GateInner>,
    id: u64,
}

impl Gate {
    /// `name` says in logs what is being closed.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Gate {
        let inner =
            GateInner { name: name.into(), inside: Mutex::default(), left: Notify::default() };
        Gate { inner: Arc::new(inner) }
    }

    /// Goes in, as `holder`.
    pub fn enter(&self, holder: impl Into<Cow<'static, str>>) -> Result<Guard, Closed> {
        let mut inside = self.inner.inside();
        if inside.closed {
            return Err(Closed { gate: self.inner.name.clone() });
        }
        let id = inside.next;
        inside.next += 1;
        inside.holders.insert(id, holder.into());
        Ok(Guard { gate: Arc::clone(&self.inner), id })
    }

    /// Lets nobody in from now on, and returns once everybody has left.
    pub async fn close(&self) {
        self.inner.inside().closed = true;
        while tokio::time::timeout(IMPATIENCE, self.inner.emptied()).await.is_err() {
            warn!("{} still waits for {}", self.inner.name, self.holders().join(", "));
        }
    }

    /// Like [`Gate::close`], but gives up after `limit` and says for whom it waited.
    pub async fn close_within(&self, limit: Duration) -> Result<(), StillHeld> {
        tokio::time::timeout(limit, self.close()).await.map_err(|_| StillHeld {
            gate: self.inner.name.clone().into_owned(),
            holders: self.holders(),
        })
    }

    /// Who is inside, in the order of their coming.
    pub fn holders(&self) -> Vec<String> {
        self.inner.inside().holders.values().map(|name| name.clone().into_owned()).collect()
    }
}

impl GateInner {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().expect("nothing panics while it holds this lock")
    }

    async fn emptied(&self) {
        loop {
            // Registered before the look, so that a guard dropped in between is not missed.
            let left = self.left.notified();
            if self.inside().holders.is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gate.inside().holders.remove(&self.id);
        self.gate.left.notify_waiters();
    }
}
