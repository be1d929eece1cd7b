//! What can be left out of a history, to see that it is needed.

#[cfg(feature = "lawless")]
use pgconvoy_flow::stream::laws::Law;

/// A rule that the model's own part of the protocol follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Shards take their snapshots before the barrier has passed (S2).
    NoBarrier,
    /// N is noted before the snapshot is taken (S4).
    NotedBeforeSnapshot,
    /// N is that of the first shard, not the largest (S7).
    FirstShardsN,
    /// A transaction of an older owner is not refused, nor one that was sent before the connection was lost (O3).
    NothingCompared,
    /// The slot is confirmed past what was received and not yet applied (O7).
    ConfirmedTooEarly,
    /// After N a row goes at the destination behind everybody's back, and nobody compares: the next change of it tells (S7).
    RowVanishes,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bugs {
    pub(super) planted: Option<Bug>,
    #[cfg(feature = "lawless")]
    pub(super) without: Option<Law>,
}

impl Bugs {
    pub(super) fn planted(bug: Bug) -> Self {
        Self {
            planted: Some(bug),
            #[cfg(feature = "lawless")]
            without: None,
        }
    }

    #[cfg(feature = "lawless")]
    pub(super) fn without(law: Law) -> Self {
        Self { planted: None, without: Some(law) }
    }

    pub(super) fn hold(self, bug: Bug) -> bool {
        self.planted != Some(bug)
    }
}
