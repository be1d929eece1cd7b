//! Sessions of this agent that keep a task's snapshot alive beyond the unit that took or imported it.

use pgconvoy_shared::ids::TaskId;

/// The agent's keeper sessions.
#[derive(Debug, Default)]
pub(crate) struct Keepers {}

impl Keepers {
    /// Ends what is kept for a task.
    pub(crate) fn close(&self, _task: &TaskId) {}
}
