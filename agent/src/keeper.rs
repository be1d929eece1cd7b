//! Sessions of this agent that keep a task's snapshot alive beyond the unit that took or imported it.

use tokio::sync::watch;

use pgconvoy_shared::ids::TaskId;

/// A snapshot that this agent exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptSnapshot {
    /// Of this task.
    pub(crate) task: TaskId,
    /// Counts the task's snapshots from 1.
    pub(crate) round: u32,
    /// What `pg_export_snapshot()` answered.
    pub(crate) export: String,
}

/// The agent's keeper sessions.
#[derive(Debug)]
pub(crate) struct Keepers {
    changes: watch::Sender<()>,
}

impl Keepers {
    /// None is open.
    pub(crate) fn new() -> Self {
        Self { changes: watch::channel(()).0 }
    }

    /// What is exported now: told to the leader, all of it in each session.
    pub(crate) fn exports(&self) -> Vec<KeptSnapshot> {
        Vec::new()
    }

    /// Marked whenever [`Keepers::exports`] answers something else.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Ends what is kept for a task.
    pub(crate) fn close(&self, _task: &TaskId) {}
}
