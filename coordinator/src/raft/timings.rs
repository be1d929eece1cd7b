//! How long nodes wait for each other.

use std::ops::Range;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// The waits of a cluster; the same on all its nodes.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Between two messages of the leader, and the limit for each of them. openraft's clock ticks
    /// at one and a half of it.
    pub heartbeat: Duration,
    /// For this long after a message of the leader nobody votes for another one; a leader that no
    /// quorum answered for this long stops acting as one. Below the election timeout.
    pub lease: Duration,
    /// A node that heard nothing from a leader for a time drawn from this range asks for an election.
    pub election: Range<Duration>,
    /// A snapshot that does not move for this long is given up.
    pub snapshot: Duration,
}

impl Timings {
    /// For nodes in a network, perhaps a wide one.
    #[must_use]
    pub fn network() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            lease: Duration::from_millis(1_300),
            election: Duration::from_millis(1_500)..Duration::from_millis(3_000),
            snapshot: Duration::from_secs(30),
        }
    }

    /// For one node in its user's process, and for tests.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            lease: Duration::from_millis(250),
            election: Duration::from_millis(300)..Duration::from_millis(600),
            snapshot: Duration::from_secs(30),
        }
    }

    /// All but the snapshot's limit, times `factor`: for tests on a busy machine.
    #[must_use]
    pub fn slower(self, factor: u32) -> Self {
        Self {
            heartbeat: self.heartbeat * factor,
            lease: self.lease * factor,
            election: self.election.start * factor..self.election.end * factor,
            snapshot: self.snapshot,
        }
    }

    /// What openraft is told. It neither holds elections nor decides on snapshots and purges by
    /// itself: see the modules `election` and `compaction`.
    pub(super) fn openraft(&self) -> Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("some seconds");
        Config {
            cluster_name: "pgconvoy".into(),
            heartbeat_interval: millis(self.heartbeat),
            // openraft's lease, and below it the limit for an answer to a request for a vote.
            election_timeout_max: millis(self.lease),
            election_timeout_min: millis(self.lease * 9 / 10),
            enable_elect: false,
            install_snapshot_timeout: millis(self.snapshot),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            ..Config::default()
        }
    }
}
