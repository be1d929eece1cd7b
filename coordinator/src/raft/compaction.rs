//! When to make a snapshot, and how much log to keep behind it.
//!
//! By bytes: entries differ a thousandfold in size. A snapshot is due when the log after the last
//! one is larger than a floor *and* than the state itself, so that the writing of snapshots costs at
//! most as much as the writing of the log did. What the snapshot covers is purged, but for a tail
//! that lets a node that was away for a moment catch up without a snapshot.
//!
//! The disk then holds at most: the log up to the threshold and the tail, twice the state (an old
//! snapshot goes once the new one is safe), and what sled keeps free for use again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::Core;

/// When a snapshot is due, and what stays.
#[derive(Debug, Clone)]
pub struct Compaction {
    /// Below this much log no snapshot is made.
    pub log_bytes_min: u64,
    /// This much of the log that a snapshot covers is kept for nodes that lag a little.
    pub tail_bytes: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { log_bytes_min: 64 * 1024 * 1024, tail_bytes: 8 * 1024 * 1024 }
    }
}

/// Looks once per heartbeat, until Raft stops.
pub(super) async fn run(core: Arc<Core>) {
    let metrics = core.raft.metrics();
    loop {
        tokio::time::sleep(core.timings.heartbeat).await;
        let Some(store) = core.store.upgrade() else { return };
        let (applied, snapshot, purged) = {
            let metrics = metrics.borrow();
            if metrics.running_state.is_err() {
                return;
            }
            (metrics.last_applied, metrics.snapshot, metrics.purged)
        };
        let state_bytes = core.snapshot_bytes.load(Ordering::Relaxed);
        let due = core.compaction.log_bytes_min.max(state_bytes);
        let snapshot_index = snapshot.map(|id| id.index);
        // While one is being made openraft ignores the request for another.
        if applied > snapshot
            && store.bytes_after(snapshot_index) > due
            && core.raft.trigger().snapshot().await.is_err()
        {
            return;
        }
        if let Some(covered) = snapshot_index
            && let Some(upto) = store.purgeable(covered, core.compaction.tail_bytes)
            && purged.is_none_or(|purged| purged.index < upto)
            && core.raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
    }
}
