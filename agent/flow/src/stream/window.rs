//! How the changes of a table meet the rows that were copied of it.
//!
//! Each shard shows its own moment, so between the plan and N the destination is of no moment at all: a change may find its
//! row as it was before, as it is after, or gone. Every change since the plan is in the stream, and in the end all of them have
//! been applied; so up to N they only have to *converge*, and from N on the table is as the source had it, and whatever does
//! not fit is a fault that must be told (law S7).
//!
//! A commit record lies wholly before a position or wholly after it. So "ends at or before N" is the same as "begins before
//! N", which is known when a transaction begins.

use pgconvoy_shared::lsn::Lsn;

use super::laws::{Law, Laws};
use super::snapshot::{FullXid, Snapshot};

/// What the copy has seen of a table's changes.
#[derive(Debug, Clone)]
pub enum Window {
    /// Rows are found by a key.
    Keyed {
        /// The snapshot under which the table was planned: no shard is older (law S3).
        plan: Snapshot,
        /// N: no shard is younger.
        until: Lsn,
        /// The snapshots of its shards.
        shards: Box<[Snapshot]>,
    },
    /// All rows were copied under one snapshot: those of a table without a key, or of one that is copied anew.
    OneSnapshot {
        /// That snapshot.
        copied: Snapshot,
    },
}

/// How a change is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// It may find a younger row, or none.
    Converging,
    /// It finds its row, or something is wrong.
    Strict,
}

impl Window {
    /// How a change of this transaction is applied; none = the copy has it.
    pub(super) fn mode(&self, laws: Laws, xid: FullXid, commit_lsn: Lsn) -> Option<Mode> {
        match self {
            Self::Keyed { plan, until, .. } => {
                if commit_lsn >= *until {
                    // Whatever the plan's snapshot shows was committed before N was noted.
                    return Some(Mode::Strict);
                }
                if plan.shows(xid) {
                    return None;
                }
                Some(if laws.hold(Law::Window) { Mode::Converging } else { Mode::Strict })
            }
            Self::OneSnapshot { copied } => {
                let copied = copied.shows(xid) && laws.hold(Law::KeylessSnapshot);
                (!copied).then_some(Mode::Strict)
            }
        }
    }

    /// Whether a shard may have copied rows as this transaction left them. Which shard a key belongs to is known to the
    /// source alone, so this asks all of them: at worst a row is read again that need not be.
    pub(super) fn copied_after(&self, xid: FullXid) -> bool {
        match self {
            Self::Keyed { shards, .. } => shards.iter().any(|shard| shard.shows(xid)),
            Self::OneSnapshot { copied } => copied.shows(xid),
        }
    }

    /// N, where changes before it have to converge.
    pub(super) fn until(&self) -> Lsn {
        match self {
            Self::Keyed { until, .. } => *until,
            Self::OneSnapshot { .. } => Lsn(0),
        }
    }

    /// A row was read again, at this position or before: N is not before it.
    pub(super) fn raise(&mut self, noted: Lsn) {
        if let Self::Keyed { until, .. } = self {
            *until = noted.max(*until);
        }
    }
}
