//! What is derived of a task: who is ready, who waits, and how many. Never stored, never a second truth: after each
//! command it equals what [`TaskIndex::build`] makes of the record, which tests and simulation check.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::UnitKind;

use super::record::TaskRecord;
use super::table::{Table, Verdict};
use super::unit::{Subject, Tally, Unit, UnitState};

/// All kinds, in the order of a task's course; but the stream goes before all that runs beside it.
pub(crate) const KINDS: [UnitKind; 18] = [
    UnitKind::Precheck,
    UnitKind::SchemaPre,
    UnitKind::OpenStream,
    UnitKind::Stream,
    UnitKind::Cutover,
    UnitKind::Survey,
    UnitKind::Plan,
    UnitKind::Copy,
    UnitKind::Audit,
    UnitKind::Index,
    UnitKind::SchemaPost,
    UnitKind::Sequences,
    UnitKind::Analyze,
    UnitKind::VerifyPlan,
    UnitKind::VerifyRows,
    UnitKind::VerifySchema,
    UnitKind::VerifySequences,
    UnitKind::Finish,
];

/// Units of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KindIndex {
    /// Ready ones, largest first.
    pub(crate) ready: BTreeSet<(Reverse<u64>, UnitNo)>,
    /// Those that wait for a time, the earliest first.
    pub(crate) back_off: BTreeSet<(Timestamp, UnitNo)>,
    /// All that are not dropped.
    pub(crate) total: u32,
    pub(crate) done: u32,
    pub(crate) leased: u32,
    pub(crate) failed: u32,
}

impl KindIndex {
    /// Neither done nor dropped.
    pub(crate) fn open(&self) -> u32 {
        self.total - self.done
    }
}

/// What all tables of a task sum up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) tables: u32,
    pub(crate) tables_copied: u32,
    pub(crate) done: Tally,
    pub(crate) left: Tally,
    pub(crate) checked: Checked,
}

/// What came of comparing the rows of all tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) tables_same: u32,
    pub(crate) tables_different: u32,
    pub(crate) tables_skipped: u32,
    pub(crate) tables_with_root: u32,
    /// Rows of them did not rest long enough; nothing else differs.
    pub(crate) tables_moving: u32,
    /// Of those that are different: not compared, because one end lacks something.
    pub(crate) tables_unlike: u32,
    /// Tables with figures that are lower bounds.
    pub(crate) at_least: u32,
    pub(crate) source_rows: u64,
    pub(crate) destination_rows: u64,
    pub(crate) bytes: u64,
    pub(crate) compared: u64,
    pub(crate) missing: u64,
    pub(crate) extra: u64,
    pub(crate) different: u64,
    pub(crate) moving: u64,
}

impl Checked {
    /// Tables that were compared, or will not be.
    pub(crate) fn tables(&self) -> u32 {
        let judged = self.tables_same + self.tables_different + self.tables_moving;
        judged + self.tables_skipped + self.tables_with_root
    }

    fn table(&mut self, table: &Table, add: bool) {
        let check = &table.check;
        let tables = match check.verdict() {
            Some(Verdict::Same) => Some(&mut self.tables_same),
            Some(Verdict::Different) => Some(&mut self.tables_different),
            Some(Verdict::Skipped) => Some(&mut self.tables_skipped),
            Some(Verdict::WithRoot) => Some(&mut self.tables_with_root),
            Some(Verdict::Moving) => Some(&mut self.tables_moving),
            None => None,
        };
        if let Some(tables) = tables {
            count(tables, add);
        }
        let found = &check.found;
        if found.at_least {
            count(&mut self.at_least, add);
        }
        if found.not_compared.as_ref().is_some_and(|why| why.differs) {
            count(&mut self.tables_unlike, add);
        }
        for (sum, part) in [
            (&mut self.source_rows, found.source_rows),
            (&mut self.destination_rows, found.destination_rows),
            (&mut self.bytes, found.bytes),
            (&mut self.compared, found.compared),
            (&mut self.missing, found.missing),
            (&mut self.extra, found.extra),
            (&mut self.different, found.different),
            (&mut self.moving, found.moving),
        ] {
            // Wrapping: what is added can be taken away again, whatever an agent reported.
            *sum = if add { sum.wrapping_add(part) } else { sum.wrapping_sub(part) };
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TaskIndex {
    kinds: [KindIndex; KINDS.len()],
    pub(crate) leased: BTreeSet<UnitNo>,
    pub(crate) failed: BTreeSet<UnitNo>,
    /// Open units that failed, the latest first.
    pub(crate) troubled: BTreeSet<(Reverse<Timestamp>, UnitNo)>,
    /// Tables that take part, largest first.
    pub(crate) by_size: BTreeSet<(Reverse<u64>, TableNo)>,
    /// Tables whose changes are kept instead of being applied, or shall be.
    pub(crate) aside: BTreeSet<TableNo>,
    pub(crate) totals: Totals,
}

impl TaskIndex {
    /// From nothing but the record.
    pub(crate) fn build(record: &TaskRecord) -> Self {
        let mut index = Self::default();
        for (no, table) in (0u32..).map(TableNo).zip(record.tables.iter()) {
            index.add_table(no, table);
        }
        for (no, unit) in (0u32..).map(UnitNo).zip(record.units.iter()) {
            index.add_unit(no, unit, record.weight(&unit.subject));
        }
        index
    }

    pub(crate) fn kind(&self, kind: UnitKind) -> &KindIndex {
        &self.kinds[kind as usize]
    }

    /// Some unit is neither done nor dropped.
    pub(crate) fn any_open(&self) -> bool {
        self.kinds.iter().any(|kind| kind.open() > 0)
    }

    pub(crate) fn add_unit(&mut self, no: UnitNo, unit: &Unit, weight: u64) {
        self.unit(no, unit, weight, true);
    }

    pub(crate) fn remove_unit(&mut self, no: UnitNo, unit: &Unit, weight: u64) {
        self.unit(no, unit, weight, false);
    }

    fn unit(&mut self, no: UnitNo, unit: &Unit, weight: u64, add: bool) {
        let kind = &mut self.kinds[unit.subject.kind() as usize];
        if unit.state != UnitState::Dropped {
            count(&mut kind.total, add);
        }
        match &unit.state {
            UnitState::Ready => put(&mut kind.ready, (Reverse(weight), no), add),
            UnitState::BackOff { not_before } => put(&mut kind.back_off, (*not_before, no), add),
            UnitState::Leased(_) => {
                count(&mut kind.leased, add);
                put(&mut self.leased, no, add);
            }
            UnitState::Done(_) => count(&mut kind.done, add),
            UnitState::Failed => {
                count(&mut kind.failed, add);
                put(&mut self.failed, no, add);
            }
            UnitState::Dropped => {}
        }
        if let Some(trouble) = unit.trouble.as_deref().filter(|trouble| trouble.failure.is_some())
            && unit.is_open()
        {
            put(&mut self.troubled, (Reverse(trouble.last_failed), no), add);
        }
    }

    pub(crate) fn add_table(&mut self, no: TableNo, table: &Table) {
        if table.parked.is_some() || table.anew.is_some() {
            put(&mut self.aside, no, true);
        }
        if !table.gone {
            put(&mut self.by_size, (Reverse(table.surveyed.bytes), no), true);
            let totals = &mut self.totals;
            totals.tables += 1;
            totals.tables_copied += u32::from(table.is_copied());
            totals.done = totals.done + table.done;
            totals.left = totals.left + table.left;
            totals.checked.table(table, true);
        }
    }

    pub(crate) fn remove_table(&mut self, no: TableNo, table: &Table) {
        put(&mut self.aside, no, false);
        if !table.gone {
            put(&mut self.by_size, (Reverse(table.surveyed.bytes), no), false);
            let totals = &mut self.totals;
            totals.tables -= 1;
            totals.tables_copied -= u32::from(table.is_copied());
            totals.done = totals.done - table.done;
            totals.left = totals.left - table.left;
            totals.checked.table(table, false);
        }
    }
}

impl TaskRecord {
    /// What a unit's place among its kind is decided by: bytes of its (largest) table.
    pub(crate) fn weight(&self, subject: &Subject) -> u64 {
        let bytes = |no: TableNo| self.table(no).map_or(0, |table| table.surveyed.bytes);
        match subject {
            Subject::Copy { table, .. }
            | Subject::Index { table, .. }
            | Subject::VerifyRows { table, .. } => bytes(*table),
            Subject::Plan(tables)
            | Subject::Indexes { tables, .. }
            | Subject::Analyze(tables)
            | Subject::VerifyPlan(tables) => tables.first().map_or(0, |no| bytes(*no)),
            Subject::Precheck
            | Subject::SchemaPre
            | Subject::OpenStream
            | Subject::Stream
            | Subject::Survey { .. }
            | Subject::Audit
            | Subject::SchemaPost
            | Subject::Sequences
            | Subject::VerifySchema
            | Subject::VerifySequences
            | Subject::Cutover
            | Subject::Finish => 0,
        }
    }
}

fn count(count: &mut u32, add: bool) {
    if add {
        *count += 1;
    } else {
        *count -= 1;
    }
}

fn put<T: Ord>(set: &mut BTreeSet<T>, value: T, add: bool) {
    if add {
        set.insert(value);
    } else {
        set.remove(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_their_number() {
        assert!(KINDS.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }
}
