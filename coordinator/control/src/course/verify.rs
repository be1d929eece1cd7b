//! Verification: whether both ends are the same.
//!
//! It comes after everything else of a migration, and before the task's snapshot goes: so in `copy.snapshot: task` rows are
//! compared with the very moment that was copied, however much the source has changed since. A task that is there to compare
//! goes here straight from its survey, and writes nothing anywhere.
//!
//! Its shards are not those that were copied: blocks of one server mean nothing at the other one.

use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::unit::ResultPart;
use pgconvoy_shared::verify::RowsCompared;

use super::group::groups;
use super::plan::{Answer, answers};
use super::{settle, settle_with, snapshot, stages};
use crate::state::clerk::Clerk;
use crate::state::record::TaskRecord;
use crate::state::unit::{Subject, Tally};

/// Makes the units that begin it.
pub(super) fn begin(clerk: &mut Clerk<'_>) {
    snapshot::keep_readable(clerk);
    if clerk.record().moves_rows() {
        let tables = clerk.record().live_tables().map(stages::sized).collect();
        for group in groups(tables) {
            clerk.add_unit(Subject::VerifyPlan(group));
        }
        clerk.add_unit(Subject::VerifySequences);
    }
    if clerk.record().moves_schema() {
        clerk.add_unit(Subject::VerifySchema);
    }
}

pub(super) fn planned(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    tables: &[TableNo],
    parts: &[Arc<ResultPart>],
) -> Result<(), Box<Failure>> {
    let answers = answers(clerk.record(), tables, parts)?;
    settle(clerk, no);
    for (table, answer) in answers {
        match answer {
            Answer::Cut(plan, shards) => {
                for shard in 0..crate::state::count(shards.len()) {
                    clerk.add_unit(Subject::VerifyRows { table, shard });
                }
                clerk.edit_table(table, |table| {
                    table.check.plan = Some(Arc::new(plan));
                    table.check.shards = Arc::new(shards);
                });
            }
            Answer::NotCompared(why) => clerk.edit_table(table, |table| {
                let found = RowsCompared { not_compared: Some(why), ..RowsCompared::default() };
                table.check.found = Arc::new(found);
            }),
        }
    }
    Ok(())
}

pub(super) fn compared(clerk: &mut Clerk<'_>, no: UnitNo, table: TableNo, found: &RowsCompared) {
    settle_with(clerk, no, Tally { rows: found.source_rows, bytes: found.bytes });
    clerk.edit_table(table, |table| {
        table.check.shards_done += 1;
        Arc::make_mut(&mut table.check.found).add(found);
    });
}

/// Everything that was found to differ: rows, objects, sequences, and tables that only one end has.
pub(crate) fn differences(record: &TaskRecord, checked: &crate::state::index::Checked) -> u64 {
    let objects = [&record.schema_compared, &record.sequences_compared];
    let objects = objects.into_iter().flatten().map(|compared| compared.differences);
    [checked.missing, checked.extra, checked.different, checked.tables_unlike.into()]
        .into_iter()
        .chain(objects)
        .fold(0, u64::saturating_add)
}

/// The cause that a task ends with whose two ends are not the same.
pub(super) fn differs(clerk: &Clerk<'_>) -> Option<Failure> {
    let differences = differences(&clerk.task.record, &clerk.task.index.totals.checked);
    (differences > 0).then(|| {
        let plural = if differences == 1 { "" } else { "s" };
        let message =
            format!("verification found that the two ends differ: {differences} difference{plural}");
        Failure::definite("verification_differs", message)
            .remedy("see them with `pgconvoy task show`; rows that were written at either end since count too")
    })
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::{UnitKind, Work};
    use pgconvoy_shared::verify::{Difference, RowDifference, RowsCompared};

    use crate::apply::story::Story;
    use crate::state::{EventKind, Phase, TaskStatus};

    fn found(different: u64) -> RowsCompared {
        let row = RowDifference { difference: Difference::Different, key: "7".into(), count: 1 };
        let listed = if different > 0 { vec![row] } else { vec![] };
        RowsCompared { source_rows: 5, compared: 5, different, listed, ..RowsCompared::default() }
    }

    #[test]
    fn a_migration_compares_under_the_snapshot_it_copied_and_ends_with_what_differs() {
        let mut story = Story::verifying(&[("public.orders", 2), ("public.items", 1)]);
        assert_eq!(story.view().phase, Phase::Verify);
        let held = story.lease("a", UnitKind::VerifyRows);
        let Work::VerifyRows(rows) = story.work(&held) else { panic!("rows") };
        assert_eq!(rows.shard.snapshot.map(|shared| shared.round), Some(1));
        story.compared(&held, found(1));
        assert_eq!(story.finish_all("a", UnitKind::VerifyRows), 2);
        story.finish_all("a", UnitKind::VerifySchema);
        story.finish_all("a", UnitKind::VerifySequences);
        story.finish_all("a", UnitKind::Finish);
        let view = story.view();
        assert_eq!((view.status, view.phase), (TaskStatus::Done, Phase::Done));
        assert_eq!(story.cause().code, "verification_differs");
        let verification = view.verification.expect("it was asked for");
        assert_eq!((verification.tables_same, verification.tables_different), (1, 1));
        assert_eq!((verification.differences, verification.rows.different), (1, 1));
        assert!(verification.complete);
        let orders = &view.tables[0];
        assert_eq!(orders.verification, "different");
        assert_eq!(orders.rows_compared.as_ref().map(|rows| rows.listed.len()), Some(1));
    }

    #[test]
    fn a_snapshot_that_is_lost_while_comparing_is_done_without() {
        let mut story = Story::verifying(&[("public.orders", 2)]);
        story.lose("keeper");
        assert!(story.event(EventKind::SnapshotLost).contains("as the source is now"));
        let held = story.lease("a", UnitKind::VerifyRows);
        let Work::VerifyRows(rows) = story.work(&held) else { panic!("rows") };
        assert_eq!((rows.shard.snapshot, rows.shard.table.filenode), (None, None));
    }

    #[test]
    fn a_task_that_only_compares_copies_nothing() {
        let mut story = Story::comparing(&[("public.orders", 1)]);
        assert_eq!(story.view().phase, Phase::Verify);
        assert_eq!(story.counts(UnitKind::Plan).total + story.counts(UnitKind::SchemaPre).total, 0);
        story.finish_all("a", UnitKind::VerifyRows);
        story.finish_all("a", UnitKind::VerifySchema);
        story.finish_all("a", UnitKind::VerifySequences);
        story.finish_all("a", UnitKind::Finish);
        let view = story.view();
        assert_eq!((view.status, view.cause), (TaskStatus::Done, None));
        assert_eq!(view.verification.map(|v| v.tables_same), Some(1));
    }
}
