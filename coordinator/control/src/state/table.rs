//! Tables of a task, as survey and plan found them, with how far their rows are.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use pgconvoy_shared::epoch::{Epoch, Generation};
use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::Cause;
use pgconvoy_shared::unit::{PlannedShard, SurveyedTable, TablePlan};
use pgconvoy_shared::verify::RowsCompared;

use super::unit::Tally;

/// A table. What does not change stands behind pointers, so that a frozen copy costs little.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// As the survey found it.
    pub surveyed: Arc<SurveyedTable>,
    /// The one that is planned, or being planned; 0 = not even that.
    pub generation: Generation,
    /// Plans it; none = that is still to come.
    pub plan_unit: Option<UnitNo>,
    /// The plan of this generation.
    pub plan: Option<Arc<TablePlan>>,
    /// Its shards. Left out when encoding: they travel in pieces of their own.
    #[serde(skip)]
    pub shards: Arc<Vec<PlannedShard>>,
    /// Copies shard 0; the others follow in order.
    pub first_unit: UnitNo,
    /// Shards that are done.
    pub shards_done: u32,
    /// What is copied.
    pub done: Tally,
    /// What is expected of the rest.
    pub left: Tally,
    /// The largest LSN noted by a shard of this generation: the table's N.
    pub noted_lsn: Lsn,
    /// Index units that are not done.
    pub index_open: u32,
    /// A later survey found it no more: it takes no part.
    pub gone: bool,
    /// How its rows are compared, and what came of it.
    pub check: Check,
    /// Its changes are kept instead of being applied.
    pub parked: Option<Arc<Parked>>,
    /// It is copied anew while the changes of the others are applied.
    pub anew: Option<Anew>,
}

/// How far a table is that is copied anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Anew {
    /// Whoever follows the source under a later epoch than this one keeps its changes.
    Asked(Epoch),
    /// They are kept, and no snapshot of it may be older than this transaction. Parked beside that: it could not be copied, and
    /// nobody tries until a user says so.
    Copying {
        /// The transaction.
        barrier: u64,
    },
    /// Its rows are there: whoever follows the source under a later epoch than this one applies what was kept.
    Copied(Epoch),
}

/// A table whose changes are kept at the destination until somebody mends the cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Why.
    pub cause: Cause,
    /// A user says that it is mended: whoever follows the source under a later epoch than this one shall apply what was kept.
    pub resumes_after: Option<Epoch>,
}

/// The comparison of a table's rows at both ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is read, and by which key rows are known; none = not planned yet, or not to be compared.
    pub plan: Option<Arc<TablePlan>>,
    /// Its shards, which need not be those that were copied. Left out when encoding, like those.
    #[serde(skip)]
    pub shards: Arc<Vec<PlannedShard>>,
    /// Shards that are done.
    pub shards_done: u32,
    /// What came of them.
    pub found: Arc<RowsCompared>,
}

/// What came of comparing a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No row differs.
    Same,
    /// Some row differs, or the table itself does.
    Different,
    /// It was not compared, for a reason that is no difference.
    Skipped,
    /// Its rows are compared with those of another partition, under which the figures of all stand.
    WithRoot,
    /// Nothing was found to differ, but some rows did not rest long enough to be judged.
    Moving,
}

impl Verdict {
    /// Stable, snake_case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Skipped => "skipped",
            Self::WithRoot => "with_root",
            Self::Moving => "moving",
        }
    }
}

impl Check {
    /// None while it is still to be compared.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        let found = &self.found;
        match &found.not_compared {
            Some(why) if why.differs => return Some(Verdict::Different),
            Some(_) if self.plan.is_none() => return Some(Verdict::Skipped),
            None if self.plan.is_none() && found.through.is_some() => {
                return Some(Verdict::WithRoot);
            }
            Some(_) | None => {}
        }
        let done = self.plan.is_some() && self.shards_done as usize == self.shards.len();
        done.then(|| {
            if found.differences() > 0 {
                Verdict::Different
            } else if found.not_compared.is_some() {
                Verdict::Skipped
            } else if found.moving > 0 {
                Verdict::Moving
            } else {
                Verdict::Same
            }
        })
    }
}

impl Table {
    pub(crate) fn new(surveyed: SurveyedTable) -> Self {
        let left = Tally { rows: surveyed.rows, bytes: surveyed.bytes };
        Self {
            surveyed: Arc::new(surveyed),
            generation: Generation::default(),
            plan_unit: None,
            plan: None,
            shards: Arc::default(),
            first_unit: UnitNo(0),
            shards_done: 0,
            done: Tally::default(),
            left,
            noted_lsn: Lsn(0),
            index_open: 0,
            gone: false,
            check: Check::default(),
            parked: None,
            anew: None,
        }
    }

    /// Forgets plan and progress; what it holds is estimated by the survey again.
    pub(crate) fn unplan(&mut self) {
        let (generation, anew) = (self.generation, self.anew);
        *self = Self { generation, anew, ..Self::new((*self.surveyed).clone()) };
    }

    /// How many shards it has.
    #[must_use]
    pub fn shard_count(&self) -> u32 {
        u32::try_from(self.shards.len()).expect("units are numbered by u32, and each shard is one")
    }

    /// All rows are at the destination, as far as was reported.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        self.plan.is_some() && self.shards_done == self.shard_count()
    }

    /// What was kept of it is to be applied: it was parked and a user says that it shall go on, or its rows are there anew.
    pub(crate) fn is_to_resume(&self) -> bool {
        match self.anew {
            Some(Anew::Asked(_) | Anew::Copying { .. }) => false,
            Some(Anew::Copied(_)) => true,
            None => self.parked.as_ref().is_some_and(|parked| parked.resumes_after.is_some()),
        }
    }

    /// It is copied anew, or shall be.
    pub(crate) fn is_copied_anew(&self) -> bool {
        self.anew.is_some() && !self.is_not_copied_anew()
    }

    /// It was to be copied anew, and could not be: its changes are kept, and the destination may have nothing of it.
    pub(crate) fn is_not_copied_anew(&self) -> bool {
        self.parked.is_some() && self.barrier().is_some()
    }

    /// It shall be copied anew, and nobody said yet that its changes are kept.
    pub(crate) fn is_to_hold(&self) -> bool {
        matches!(self.anew, Some(Anew::Asked(_)))
    }

    /// The transaction that no snapshot of it may be older than, where it has one of its own.
    pub(crate) fn barrier(&self) -> Option<u64> {
        match self.anew {
            Some(Anew::Copying { barrier }) => Some(barrier),
            Some(Anew::Asked(_) | Anew::Copied(_)) | None => None,
        }
    }

    /// The numbers of the units that copy it.
    pub(crate) fn copy_units(&self) -> Range<u32> {
        self.first_unit.0..self.first_unit.0 + self.shard_count()
    }
}
