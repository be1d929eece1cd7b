//! The words of a cutover: the moment from which the destination is the one that is written to.
//!
//! ```text
//! check ─▶ compare ─▶ ready ─▶ fence ─▶ prove ─▶ switch ─▶ done
//!   └─────────┴─────────┤        └────────┴─────────┴────▶ lift ─▶ undone
//!                       └▶ undone, or rehearsed
//! ```
//!
//! Up to the switch everything can be taken back, and is, whatever fails. The switch itself is one transaction at the
//! destination: it is done, or it is not.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::lsn::Lsn;
use crate::verify::VerifySettings;

/// How long a cutover may take from the fence on, where nothing else is said.
pub const DEFAULT_TIMEOUT_MS: u64 = 60_000;

/// Values that sequences are set further than at the source, where nothing else is said.
pub const DEFAULT_SEQUENCE_MARGIN: u32 = 0;

/// How long looking again at what was changed since the comparison may take behind the fence, where nothing else is said.
pub const DEFAULT_CHECK_BUDGET_MS: u64 = 1_000;

/// What would stop a cutover and may be all the same, where its user says so; by code.
pub const IGNORABLE: [&str; 5] = [
    "cutover_large_objects",
    "cutover_unlogged_tables",
    "cutover_schema_differs",
    "cutover_marker_published",
    "cutover_subscriptions",
];

/// How writers are kept from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writers {
    /// The database becomes read-only by default, and other sessions are ended.
    Fenced,
    /// The user says that nobody writes any more.
    Stopped,
}

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverSettings {
    /// How writers are kept away.
    pub writers: Writers,
    /// Only what comes before the fence: whether it could be done.
    pub dry_run: bool,
    /// From the fence to the switch; then it is undone.
    pub timeout_ms: u64,
    /// Values that sequences are set further than at the source.
    pub sequence_margin: u32,
    /// What may be, by code: see [`IGNORABLE`].
    pub ignore: BTreeSet<String>,
    /// How both ends are compared before anything is stopped; none = they are not.
    pub compare: Option<VerifySettings>,
    /// How long comparing again what was changed since may take behind the fence; 0 = nothing is compared again.
    pub check_budget_ms: u64,
    /// Whether what no stream brings, unlogged tables and large objects, is copied again behind the fence.
    pub copy_again: bool,
    /// Roles whose sessions the fence leaves, where the task's role may not end them.
    pub leave_sessions_of: BTreeSet<String>,
    /// Who asks, for the record.
    pub by: String,
}

impl CutoverSettings {
    /// Whether what is changed while both ends are compared, and after that, is compared again. What was not compared at all
    /// is not compared again either.
    #[must_use]
    pub fn compares_again(&self) -> bool {
        self.compare.is_some() && self.check_budget_ms > 0 && !self.dry_run
    }
}

/// What was compared again, because it was changed since both ends were compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedAgain {
    /// Tables that were changed.
    pub tables: u32,
    /// Those of them whose changed rows no key tells, and that are too large to be compared whole.
    pub tables_left_out: u32,
    /// Keys that were changed; about so many, where not all were kept.
    pub keys: u64,
    /// Those that were looked up at both ends.
    pub keys_compared: u64,
}

/// What was copied again behind the fence, because no stream brings it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedAgain {
    /// Unlogged tables.
    pub tables: u32,
    /// Rows of them.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
}

/// A step of a cutover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoverStep {
    /// Whether anything stands in the way. Stops nobody.
    Check,
    /// Both ends are compared, while the source stays in use.
    Compare,
    /// What is made of rows is made anew, and the destination is close behind. Still nobody is stopped.
    Ready,
    /// Nobody writes at the source from here on.
    Fence,
    /// All that was written before is at the destination, and sequences stand where they stood.
    Prove,
    /// The destination takes over.
    Switch,
    /// The source is as before.
    Lift,
}

impl CutoverStep {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Compare => "compare",
            Self::Ready => "ready",
            Self::Fence => "fence",
            Self::Prove => "prove",
            Self::Switch => "switch",
            Self::Lift => "lift",
        }
    }
}

/// An order for the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverOrder {
    /// Which step.
    pub step: CutoverStep,
    /// Counts the task's cutovers from 1.
    pub attempt: u32,
    /// What was asked for.
    pub settings: CutoverSettings,
    /// Before the source was fenced: `default_transaction_read_only` of its database; none = it was not set.
    pub setting_before: Option<String>,
    /// Where the source's log was when nobody could write any more; 0 = not yet.
    pub fence: Lsn,
    /// The end of the marker that proves the drain; 0 = not yet.
    pub marker: Lsn,
    /// What is left of the time, from the lease on.
    pub left_ms: u64,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CutoverDone {
    /// Nothing stands in the way.
    Checked {
        /// See [`CutoverOrder::setting_before`].
        setting_before: Option<String>,
        /// How much of the source's log was not applied yet.
        lag_bytes: u64,
    },
    /// The source may be fenced.
    Ready {
        /// How much of the source's log was not applied yet.
        lag_bytes: u64,
        /// What was compared again so far; none = nothing is.
        again: Option<ComparedAgain>,
    },
    /// Nobody writes at the source any more.
    Fenced {
        /// See [`CutoverOrder::fence`].
        at: Lsn,
        /// Sessions that were ended.
        ended: u32,
        /// Sessions that were left, by [`CutoverSettings::leave_sessions_of`]; not more than so many are named.
        left: Vec<String>,
    },
    /// All is at the destination.
    Proved {
        /// See [`CutoverOrder::marker`].
        marker: Lsn,
        /// Sequences that were set.
        sequences: u32,
        /// What was changed after the last look before the fence, and is the same at both ends; none = nothing is compared again.
        again: Option<ComparedAgain>,
        /// What was copied again; none = nothing was to be.
        copied: Option<CopiedAgain>,
    },
    /// Nobody writes for the task any more; the destination is free.
    Switched,
    /// The source is as before.
    Lifted,
    /// It cannot be done, and nothing is decided: whatever was done is to be taken back.
    Refused(Failure),
}
