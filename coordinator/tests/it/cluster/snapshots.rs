//! Nodes that are too far behind for the log.

use pgconvoy_coordinator::raft::Compaction;

use super::{Cluster, LIMIT, peer};
use crate::wait::until;

/// Snapshots every 200 kB, with a tail of 20 kB.
fn small() -> Compaction {
    Compaction { log_bytes_min: 200_000, tail_bytes: 20_000 }
}

/// Snapshots are due after every 100 entries or so, and each leaves a tail: when the last entry is in, some 200 at most are
/// not purged yet, whenever the snapshots came.
const PURGED: Option<u64> = Some(250);

/// Writes about 1 MB, over and over the same keys.
async fn write_much(cluster: &Cluster) {
    for round in 0..500_u64 {
        cluster.write(round % 50, vec![round as u8; 2_000]).await;
    }
    until(LIMIT, "the leader has purged", async || {
        let status = cluster.node(cluster.leader().await).status().await;
        if status.purged_index > PURGED { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lagged_behind_the_log_gets_a_snapshot() {
    let cluster = Cluster::with_compaction([1, 2, 3], small()).await;
    cluster.initialize().await;
    let leader = cluster.leader().await;
    let cut = (1..=3).find(|&id| id != leader).expect("there are three");
    cluster.isolate(cut);
    write_much(&cluster).await;
    cluster.heal(cut);
    assert_eq!(cluster.agreed().await.len(), 50);
    let status = cluster.node(cut).status().await;
    assert!(status.snapshot_index > PURGED, "{status:?}");
    assert!(status.log_bytes < 400_000, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_gets_a_snapshot_and_keeps_it_over_a_restart() {
    let mut cluster = Cluster::with_compaction([1], small()).await;
    cluster.initialize().await;
    write_much(&cluster).await;
    cluster.start(2).await;
    cluster.node(1).add_node(&peer(2)).await.expect("is added");
    let state = cluster.agreed().await;
    cluster.stop(2).await;
    cluster.start(2).await;
    assert_eq!(cluster.agreed().await, state);
    cluster.write(7, b"more".to_vec()).await;
    assert_eq!(cluster.agreed().await[&7].1.as_slice(), b"more");
}
