//! Verification: whether both ends are the same.
//!
//! It comes after everything else of a migration, and before the task's snapshot goes: so in `copy.snapshot: task` rows are
//! compared with the very moment that was copied, however much the source has changed since. A task that is there to compare
//! goes here straight from its survey, and writes nothing anywhere.
//!
//! Its shards are not those that were copied: blocks of one server mean nothing at the other one. Partitions whose rows need not lie in
//! the same ones at both ends are compared through their root, as one table, whose figures stand with the first of them that is planned.

use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{ResultPart, UnitKind};
use pgconvoy_shared::verify::RowsCompared;

use super::group::groups;
use super::lease_end::drop_unit;
use super::plan::{Answer, answers};
use super::{open, settle, settle_with, snapshot, stages};
use crate::state::clerk::{Clerk, Task};
use crate::state::record::TaskRecord;
use crate::state::unit::{Subject, Tally};
use crate::state::{Check, Coverage};

/// Makes the units that begin it.
pub(super) fn begin(clerk: &mut Clerk<'_>) {
    begin_rows(clerk);
    if clerk.record().moves_rows() {
        clerk.add_unit(Subject::VerifySequences);
    }
}

/// Without sequences: before a cutover, which sets them and looks at them when nobody draws numbers any more.
pub(super) fn begin_rows(clerk: &mut Clerk<'_>) {
    snapshot::keep_readable(clerk);
    forget(clerk);
    if clerk.record().moves_rows() {
        let tables = clerk.record().live_tables().map(stages::sized).collect();
        for group in groups(tables) {
            clerk.add_unit(Subject::VerifyPlan(group));
        }
    }
    if clerk.record().moves_schema() {
        clerk.add_unit(Subject::VerifySchema);
    }
}

/// The kinds of units that compare.
pub(super) const KINDS: [UnitKind; 4] =
    [UnitKind::VerifyPlan, UnitKind::VerifyRows, UnitKind::VerifySchema, UnitKind::VerifySequences];

/// Whether a unit is one of a comparison.
pub(super) fn compares(subject: &Subject) -> bool {
    KINDS.contains(&subject.kind())
}

/// Whether nothing is left to be compared.
pub(super) fn is_over(clerk: &Clerk<'_>) -> bool {
    KINDS.into_iter().all(|kind| open(clerk, kind) == 0)
}

/// What an earlier comparison found, before rows that were lost then were copied again.
pub(super) fn forget(clerk: &mut Clerk<'_>) {
    let record = clerk.record();
    (record.schema_compared, record.sequences_compared) = (None, None);
    let tables = record.all_tables().filter(|(_, table)| table.check != Check::default());
    let tables: Vec<TableNo> = tables.map(|(no, _)| no).collect();
    if tables.is_empty() {
        return;
    }
    let units = (0u32..).map(UnitNo).zip(record.units.iter());
    let units = units.filter(|(_, unit)| matches!(unit.subject, Subject::VerifyRows { .. }));
    for no in units.map(|(no, _)| no).collect::<Vec<_>>() {
        drop_unit(clerk, no);
    }
    for no in tables {
        clerk.edit_table(no, |table| table.check = Check::default());
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
                let through = (plan.write_to != plan.name).then(|| plan.write_to.clone());
                let begun = through.as_ref().is_some_and(|root| is_compared(clerk.record(), root));
                let found = Arc::new(RowsCompared { through, ..RowsCompared::default() });
                clerk.edit_table(table, |table| table.check.found = found);
                if begun {
                    continue;
                }
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

/// Whether the partitions under this root are compared already, all as one table.
fn is_compared(record: &TaskRecord, root: &QualifiedName) -> bool {
    let plans = record.live_tables().filter_map(|(_, table)| table.check.plan.as_ref());
    plans.filter(|plan| plan.name != plan.write_to).any(|plan| plan.write_to == *root)
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

/// The cause that a task ends with whose two ends are not the same. What a cutover found did not stand in its way.
pub(super) fn differs(clerk: &Clerk<'_>) -> Option<Failure> {
    let record = &clerk.task.record;
    if record.compared_by_cutover().is_some() {
        return None;
    }
    let differences = differences(record, &clerk.task.index.totals.checked);
    (differences > 0).then(|| {
        let remedy = "see them with `pgconvoy task show`; rows that were written at either end since count too";
        found(differences).remedy(remedy)
    })
}

fn found(differences: u64) -> Failure {
    let plural = if differences == 1 { "" } else { "s" };
    let message =
        format!("verification found that the two ends differ: {differences} difference{plural}");
    Failure::definite("verification_differs", message)
}

/// Why a task cannot be cut over whose two ends are not the same. How the schemas differ its user may accept.
pub(super) fn stands_in_the_way(task: &Task) -> Option<Failure> {
    const OF_SCHEMA: &str = "cutover_schema_differs";
    let record = &task.record;
    let of_schema = record.schema_compared.as_ref().map_or(0, |compared| compared.differences);
    let of_rows = differences(record, &task.index.totals.checked).saturating_sub(of_schema);
    if of_rows > 0 {
        let remedy = "see them with `pgconvoy task show`; `pgconvoy task resync` copies a table anew, then begin anew";
        return Some(found(of_rows).remedy(remedy));
    }
    let cutover = record.cutover.as_deref();
    let accepted = cutover.is_some_and(|cutover| cutover.settings.ignore.contains(OF_SCHEMA));
    (of_schema > 0 && !accepted).then(|| {
        let plural = if of_schema == 1 { "" } else { "s" };
        let message = format!("the schemas of the two ends differ: {of_schema} difference{plural}");
        Failure::definite(OF_SCHEMA, message).remedy(
            "see them with `pgconvoy task show`, and make the same change at the other end; if they may be, say --ignore cutover_schema_differs",
        )
    })
}

/// What the comparison that is over has seen.
pub(super) fn coverage(task: &Task) -> Coverage {
    let checked = &task.index.totals.checked;
    let judged = checked.tables_same + checked.tables_different + checked.tables_moving;
    Coverage {
        tables: judged.saturating_sub(checked.tables_unlike) + checked.tables_with_root,
        tables_left_out: checked.tables_skipped,
        rows: checked.source_rows,
        rows_compared: checked.compared,
        rows_moving: checked.moving,
        schema_objects: task.record.schema_compared.as_ref().map_or(0, |found| found.objects),
    }
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
        story.finish_all("a", UnitKind::Audit);
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
    fn partitions_that_are_compared_through_their_root_are_compared_once() {
        let mut story =
            Story::comparing_unplanned(&[("public.p0", 1), ("public.p1", 1), ("public.t", 1)]);
        let plan = story.lease("a", UnitKind::VerifyPlan);
        story.plan_through(
            &plan,
            &[("public.p0", "public.p"), ("public.p1", "public.p"), ("public.t", "public.t")],
        );
        assert_eq!(story.counts(UnitKind::VerifyRows).ready, 2);
        let held = story.lease("a", UnitKind::VerifyRows);
        story.compared(&held, found(1));
        assert_eq!(story.finish_all("a", UnitKind::VerifyRows), 1);
        let view = story.view();
        let verdicts: Vec<_> = view.tables.iter().map(|table| table.verification).collect();
        assert_eq!(verdicts, ["different", "with_root", "same"]);
        let through = |no: usize| view.tables[no].rows_compared.as_ref()?.through.clone();
        assert_eq!(through(0).map(|root| root.to_string()).as_deref(), Some("public.p"));
        assert_eq!((through(1), through(2)), (through(0), None));
        let verification = view.verification.as_ref().expect("it was asked for");
        assert_eq!((verification.tables_same, verification.tables_different), (1, 1));
        assert_eq!((verification.tables_with_root, verification.differences), (1, 1));
        assert_eq!(view.tables_done, 3);
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
