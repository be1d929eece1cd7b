//! Many entries over a small state: disk and memory stay bounded.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use pgconvoy_coordinator::raft::{Compaction, Connector, RaftConfig, RaftNode, Timings};
use pgconvoy_shared::ids::NodeId;

use crate::cluster::{LIMIT, Ledger, Write1, peer};
use crate::wait::until;

const ENTRIES: u64 = 200_000;
const WARM: u64 = 50_000;
/// 10,000 keys of 2 KiB each: twenty megabytes that live, four hundred that pass. So there are three
/// rounds of snapshot and purge before the memory is taken as warm.
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 2048;
const MIB: u64 = 1024 * 1024;

fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            // Removed while we look.
            Err(_) => 0,
        })
        .sum()
}

fn memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_of_200_000_entries_keeps_disk_and_memory_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let connector: Connector = Arc::new(|address| Err(format!("there is no {address}").into()));
    let config = RaftConfig {
        node: NodeId(1),
        advertise: peer(1).address,
        data_dir: dir.path().to_owned(),
        timings: Timings::embedded(),
        compaction: Compaction::default(),
    };
    let ledger = Arc::new(Ledger::default());
    let machine = Arc::clone(&ledger);
    let node = RaftNode::start(config, machine, connector).await.expect("starts");
    node.initialize(&[peer(1)]).await.expect("initializes");
    until(LIMIT, "it leads", async || {
        let now = node.leadership().borrow().clone();
        if now.ready { Ok(()) } else { Err(now) }
    })
    .await;

    let began = std::time::Instant::now();
    let (mut disk_max, mut memory_warm, mut memory_max) = (0, 0, 0);
    let mut memory_mib = Vec::new();
    for entry in 0..ENTRIES {
        let value = vec![entry as u8; VALUE_BYTES];
        node.propose(Write1::encode(entry % KEYS, value)).await.expect("is taken");
        if entry % 2_000 == 0 {
            disk_max = disk_max.max(disk_bytes(dir.path()));
            let memory = memory_bytes();
            if entry % 20_000 == 0 {
                memory_mib.push(memory / MIB);
            }
            if entry <= WARM {
                memory_warm = memory_warm.max(memory);
            } else {
                memory_max = memory_max.max(memory);
            }
        }
    }
    let status = node.status().await;
    let live = status.snapshot_bytes;
    let figures = format!(
        "{ENTRIES} entries in {:.0?}: live set {} MiB, disk at most {} MiB, log now {} MiB, memory {} MiB warm, {} MiB at most, on the way {memory_mib:?}",
        began.elapsed(),
        live / MIB,
        disk_max / MIB,
        status.log_bytes / MIB,
        memory_warm / MIB,
        memory_max / MIB,
    );
    writeln!(std::io::stdout(), "{figures}").expect("prints");
    assert!(live > 19 * MIB, "no snapshot of the whole state was made: {figures}");
    assert!(disk_max <= 3 * live + 128 * MIB, "the disk grows: {figures}");
    assert!(memory_max <= memory_warm + memory_warm / 10, "the memory grows: {figures}");
    assert_eq!(ledger.state().values().map(|(writes, _)| writes).sum::<u64>(), ENTRIES);
    node.shutdown().await;
}
