//! What happened to a task, for people: a ring of the latest events.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, UnitNo};
use pgconvoy_shared::time::Timestamp;

/// Events kept of a task. At some 300 bytes each a full ring is 0.6 MB.
pub const EVENTS_MAX: usize = 2_000;
/// Failures of units told in one window; the rest are counted, so that a server that is down for hours with a thousand
/// shards in retry does not push everything else out of the ring.
const FAILURES_PER_WINDOW: u32 = 20;
const WINDOW_MS: u64 = 60_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one within the task.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of thing.
    pub kind: EventKind,
    /// In a sentence.
    pub message: String,
    /// Where one took part.
    pub agent: Option<AgentId>,
    /// Where it was about one.
    pub unit: Option<UnitNo>,
    /// Where something failed.
    pub failure: Option<Failure>,
}

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Kinds of events. New ones are added at the end: their place is their number in the log.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// Stable, snake_case.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

event_kinds! {
    /// The task was created.
    TaskCreated = "task_created",
    /// It was started.
    TaskStarted = "task_started",
    /// A phase began.
    PhaseBegan = "phase_began",
    /// A precheck ended.
    PrecheckEnded = "precheck_ended",
    /// Warnings of the precheck were acknowledged.
    WarningsAcknowledged = "warnings_acknowledged",
    /// A unit of a lost agent went to another one.
    UnitMoved = "unit_moved",
    /// An agent that held units was lost.
    AgentLost = "agent_lost",
    /// A unit failed and is tried again.
    UnitFailed = "unit_failed",
    /// All keepers of the task's snapshot are gone.
    SnapshotLost = "snapshot_lost",
    /// The lost snapshot's successor shows the same moment: nothing is lost.
    SnapshotContinues = "snapshot_continues",
    /// The lost snapshot could not be continued: all rows are copied again.
    RowsStartAnew = "rows_start_anew",
    /// A table changed and is planned anew.
    TablePlannedAnew = "table_planned_anew",
    /// The destination lacks shards that were reported done: they run again.
    ShardsMissing = "shards_missing",
    /// Paused by a user.
    TaskPaused = "task_paused",
    /// Resumed by a user.
    TaskResumed = "task_resumed",
    /// Cancelled by a user.
    TaskCancelled = "task_cancelled",
    /// What a cancelled task kept at the databases is gone, or could not be removed.
    CleanedUp = "cleaned_up",
    /// The task failed.
    TaskFailed = "task_failed",
    /// The task is done.
    TaskDone = "task_done",
    /// Tables of the source that are not of the schema the task made: their rows are not copied.
    TablesNotMigrated = "tables_not_migrated",
    /// Tables that a later survey found no more: the destination keeps what was copied of them.
    TablesGone = "tables_gone",
    /// A user gave passwords that were changed at the databases.
    PasswordsRenewed = "passwords_renewed",
    /// Agents were lost one after another while they ran the same unit.
    UnitLosesAgents = "unit_loses_agents",
    /// The source keeps every change from here on until it is applied.
    StreamOpened = "stream_opened",
    /// The changes that were made during the copy are applied: all tables show one moment of the source.
    Consistent = "consistent",
    /// A cutover, or its rehearsal, began.
    CutoverBegan = "cutover_began",
    /// A step of it began.
    CutoverStepped = "cutover_stepped",
    /// It is done, undone or rehearsed.
    CutoverEnded = "cutover_ended",
    /// A change of a table cannot be applied: its changes are kept from that one on.
    TableParked = "table_parked",
    /// What was kept of a parked table is applied, and it is followed again.
    TableGoesOn = "table_goes_on",
    /// A user says that a parked table shall go on.
    TableResumed = "table_resumed",
    /// A user wants a table to be copied anew, or that begins.
    TableResync = "table_resync",
    /// Tables that were made after the stream was opened: nobody follows them.
    TablesNotFollowed = "tables_not_followed",
    /// The source may soon give the slot up.
    SlotAtRisk = "slot_at_risk",
    /// It will not any more, as things are.
    SlotSafe = "slot_safe",
}

/// The latest events of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Events {
    ring: Arc<VecDeque<Event>>,
    next_seq: u64,
    window_began: Timestamp,
    failures_in_window: u32,
}

impl Events {
    pub(crate) fn push(
        &mut self,
        at: Timestamp,
        kind: EventKind,
        message: String,
        (agent, unit, failure): (Option<AgentId>, Option<UnitNo>, Option<Failure>),
    ) {
        let ring = Arc::make_mut(&mut self.ring);
        if ring.len() == EVENTS_MAX {
            ring.pop_front();
        }
        self.next_seq += 1;
        ring.push_back(Event { seq: self.next_seq, at, kind, message, agent, unit, failure });
    }

    /// Whether one more failure of a unit may be told; the last one of a window says that it is the last.
    pub(crate) fn may_tell_failure(&mut self, at: Timestamp) -> Telling {
        if at.since_ms(self.window_began) >= WINDOW_MS || at < self.window_began {
            self.window_began = at;
            self.failures_in_window = 0;
        }
        self.failures_in_window = self.failures_in_window.saturating_add(1);
        match self.failures_in_window.cmp(&FAILURES_PER_WINDOW) {
            std::cmp::Ordering::Less => Telling::Tell,
            std::cmp::Ordering::Equal => Telling::TellAsLast,
            std::cmp::Ordering::Greater => Telling::KeepQuiet,
        }
    }

    /// Those after `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &Event> {
        let known = self.ring.partition_point(|event| event.seq <= seq);
        self.ring.iter().skip(known)
    }
}

/// See [`Events::may_tell_failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    Tell,
    TellAsLast,
    KeepQuiet,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest_and_their_numbers() {
        let mut events = Events::default();
        for n in 0..EVENTS_MAX + 5 {
            events.push(Timestamp(1), EventKind::UnitMoved, n.to_string(), (None, None, None));
        }
        assert_eq!(events.after(0).count(), EVENTS_MAX);
        assert_eq!(events.after(0).next().map(|event| event.seq), Some(6));
        assert_eq!(events.after(2_004).map(|event| event.seq).collect::<Vec<_>>(), [2_005]);
    }

    #[test]
    fn a_flood_of_failures_is_told_once_a_minute() {
        let mut events = Events::default();
        let tellings: Vec<_> = (0..30).map(|n| events.may_tell_failure(Timestamp(n))).collect();
        assert_eq!(tellings.iter().filter(|t| **t == Telling::Tell).count(), 19);
        assert_eq!(tellings.iter().filter(|t| **t == Telling::TellAsLast).count(), 1);
        assert_eq!(events.may_tell_failure(Timestamp(60_000)), Telling::Tell);
    }
}
