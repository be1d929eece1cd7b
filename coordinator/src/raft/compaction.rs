//! When to make a snapshot, and how much log to keep behind it.
//!
//! By bytes: entries differ a thousandfold in size. A snapshot is due when the log after the last
//! one is larger than a floor *and* than half the state, so that the writing of snapshots costs at
//! most twice what the writing of the log did. What the snapshot covers is purged, but for a tail
//! that lets a node that was away for a moment catch up without a snapshot.
//!
//! The disk then holds at most twice the state (an old snapshot goes once the new one is safe), and
//! twice the log, as sled keeps about as much garbage as values: below three times the state and
//! 128 MiB. The soak test measures it.
//!
//! A purge is done in slices, between which Raft does its other work: sled takes about a tenth of a
//! millisecond for an entry, and a leader that is silent for seconds is a leader no more.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::node::Core;
use crate::store::LogStore;

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
        Self { log_bytes_min: 32 * 1024 * 1024, tail_bytes: 8 * 1024 * 1024 }
    }
}

/// A slice of a purge: some ten milliseconds.
const SLICE_ENTRIES: u64 = 256;
const SLICE_BYTES: u64 = 2 * 1024 * 1024;

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
        let due = core.compaction.log_bytes_min.max(state_bytes / 2);
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
            && purge(&core, &store, upto).await.is_err()
        {
            return;
        }
    }
}

/// Raft has stopped.
struct Stopped;

/// Purges slice by slice. A slice that has to wait, because it is just being sent to another node,
/// is left to the next look.
async fn purge(core: &Core, store: &LogStore, upto: u64) -> Result<(), Stopped> {
    let mut metrics = core.raft.metrics();
    loop {
        let first = store.range().start;
        let slice = store.cut(first..(upto + 1).min(first + SLICE_ENTRIES), SLICE_BYTES);
        let Some(last) = slice.last() else { return Ok(()) };
        core.raft.trigger().purge_log(last).await.map_err(|_| Stopped)?;
        let gone = metrics.wait_for(|now| {
            now.running_state.is_err() || now.purged.is_some_and(|purged| purged.index >= last)
        });
        match tokio::time::timeout(core.timings.heartbeat, gone).await {
            Ok(Ok(now)) if now.running_state.is_ok() => {}
            Ok(_) => return Err(Stopped),
            Err(_) => return Ok(()),
        }
    }
}
