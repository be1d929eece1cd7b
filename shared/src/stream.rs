//! What is told of a stream while it runs: how far it is, what changes, and what its slot costs the source.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::name::QualifiedName;

/// A slot that is given up sooner than this is at risk.
const RISK_SECS: u64 = 3_600;

/// How far a stream is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamProgress {
    /// Read up to here.
    pub received: Lsn,
    /// Applied up to here, durably.
    pub applied: Lsn,
    /// The slot is confirmed up to here.
    pub confirmed: Lsn,
    /// The source's log is on disk up to here, as it was looked at last.
    pub source: Lsn,
    /// How often that was looked at. Whoever has seen this number grow twice knows that the later look began after the
    /// first was seen.
    pub looks: u64,
    /// Milliseconds since the source committed what is not applied yet; 0 = all that was committed is applied.
    pub lag_ms: u64,
    /// Every table has reached its N.
    pub consistent: bool,
    /// Tables whose changes are kept instead of being applied.
    pub parked: u32,
    /// Bytes of transactions in progress that the agent keeps in files now.
    pub spilled: u64,
    /// Applied since this agent took over.
    pub changes: ChangeCounts,
    /// Of these, in the last [`recent_ms`](Self::recent_ms).
    pub recent: ChangeCounts,
    /// The time that `recent` is of.
    pub recent_ms: u64,
    /// The tables that change most, the busiest first.
    pub tables: Vec<TableChanges>,
}

/// Changes of rows by kind, as the source made them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Rows that came.
    pub inserts: u64,
    /// Rows that changed.
    pub updates: u64,
    /// Rows that went.
    pub deletes: u64,
    /// Times that a table was emptied.
    pub truncates: u64,
}

/// What changes in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChanges {
    /// Its name at the source.
    pub name: QualifiedName,
    /// See [`StreamProgress::changes`].
    pub changes: ChangeCounts,
    /// See [`StreamProgress::recent`].
    pub recent: ChangeCounts,
}

/// What the source keeps for the slot, and for how long it will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// As the source judges it.
    pub status: WalStatus,
    /// Bytes of its log that the source keeps for the slot.
    pub kept: u64,
    /// Bytes that may be written before `max_slot_wal_keep_size` is reached; none = there is no such limit.
    pub left: Option<u64>,
    /// By how many bytes in a second `kept` grew of late; none = it was not watched for long enough.
    pub growth: Option<i64>,
    /// Bytes that the source's decoder has put into files so far, for transactions that do not fit into its memory; 0 before
    /// PostgreSQL 14, which does not tell.
    pub source_spilled: u64,
}

/// `wal_status` of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalStatus {
    /// All is well.
    Reserved,
    /// More is kept than `max_wal_size`, and that is allowed.
    Extended,
    /// The limit is passed: the next checkpoint may give the slot up.
    Unreserved,
    /// It was given up.
    Lost,
}

/// Something that users are to hear of. It enters Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamNote {
    /// All tables of the source that match `objects`, and that nobody follows now: they were made after the stream was opened.
    NotFollowed(Vec<QualifiedName>),
    /// The source may soon give the slot up.
    SlotAtRisk(SlotState),
    /// It will not, as things are now.
    SlotSafe(SlotState),
}

impl ChangeCounts {
    /// Of all kinds.
    #[must_use]
    pub fn all(&self) -> u64 {
        let Self { inserts, updates, deletes, truncates } = *self;
        [inserts, updates, deletes, truncates].into_iter().fold(0, u64::saturating_add)
    }

    /// What came since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            inserts: self.inserts.saturating_sub(earlier.inserts),
            updates: self.updates.saturating_sub(earlier.updates),
            deletes: self.deletes.saturating_sub(earlier.deletes),
            truncates: self.truncates.saturating_sub(earlier.truncates),
        }
    }
}

impl std::ops::AddAssign for ChangeCounts {
    fn add_assign(&mut self, other: Self) {
        self.inserts = self.inserts.saturating_add(other.inserts);
        self.updates = self.updates.saturating_add(other.updates);
        self.deletes = self.deletes.saturating_add(other.deletes);
        self.truncates = self.truncates.saturating_add(other.truncates);
    }
}

impl WalStatus {
    /// As PostgreSQL writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Extended => "extended",
            Self::Unreserved => "unreserved",
            Self::Lost => "lost",
        }
    }

    /// What PostgreSQL writes; none = it is no such word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [Self::Reserved, Self::Extended, Self::Unreserved, Self::Lost]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

impl SlotState {
    /// When `max_slot_wal_keep_size` is reached if it goes on like this; none = it does not look so.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let growth = u64::try_from(self.growth?).ok()?;
        self.left?.checked_div(growth)
    }

    /// Whether the source has passed its limit, or will within the hour.
    #[must_use]
    pub fn is_at_risk(&self) -> bool {
        let passed = matches!(self.status, WalStatus::Unreserved | WalStatus::Lost);
        passed || self.seconds_left().is_some_and(|secs| secs < RISK_SECS)
    }

    /// Whether a slot that was at risk is not any more: figures that waver around the limit are told once.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        !self.is_at_risk() && self.seconds_left().is_none_or(|secs| secs >= 2 * RISK_SECS)
    }
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(f, "{} MiB of the source's log are kept for the slot", mib(self.kept))?;
        write!(f, " (wal_status {})", self.status.as_str())?;
        match (self.seconds_left(), self.left) {
            (Some(secs), _) => write!(
                f,
                ", and max_slot_wal_keep_size is reached in {} min if it goes on like this",
                secs.div_ceil(60)
            ),
            (None, Some(left)) => write!(f, ", {} MiB less than max_slot_wal_keep_size", mib(left)),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_at_risk_within_the_hour() {
        let slot = |status, left, growth| SlotState {
            status,
            kept: 1 << 30,
            left,
            growth,
            source_spilled: 0,
        };
        let forecast = |left, growth| slot(WalStatus::Extended, left, growth).seconds_left();
        assert_eq!(forecast(Some(36_000), Some(10)), Some(3_600));
        assert_eq!(forecast(Some(36_000), Some(0)), None);
        assert_eq!(forecast(Some(36_000), Some(-5)), None);
        assert_eq!(forecast(Some(36_000), None), None);
        assert_eq!(forecast(None, Some(10)), None);

        let risks = |slot: SlotState| (slot.is_at_risk(), slot.is_safe());
        assert_eq!(risks(slot(WalStatus::Reserved, Some(35_999), Some(10))), (true, false));
        assert_eq!(risks(slot(WalStatus::Reserved, Some(36_000), Some(10))), (false, false));
        assert_eq!(risks(slot(WalStatus::Reserved, Some(72_000), Some(10))), (false, true));
        assert_eq!(risks(slot(WalStatus::Extended, None, Some(10))), (false, true));
        assert_eq!(risks(slot(WalStatus::Unreserved, Some(0), None)), (true, false));
        assert_eq!(risks(slot(WalStatus::Lost, None, None)), (true, false));
    }

    #[test]
    fn what_postgresql_calls_a_slot_is_known() {
        for word in ["reserved", "extended", "unreserved", "lost"] {
            assert_eq!(WalStatus::named(word).map(WalStatus::as_str), Some(word));
        }
        assert_eq!(WalStatus::named("fine"), None);
    }
}
