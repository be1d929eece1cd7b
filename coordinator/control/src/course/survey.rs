//! The survey: which tables there are, and in `copy.snapshot: task` the moment that all shards show.
//!
//! A source that lives makes and drops tables between two surveys, and between the schema's dump and the first one. The
//! task goes on with those it can move, and tells of the others: made since (the survey leaves them out), or gone since.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{ResultPart, SharedSnapshot, SurveyDone, SurveyedTable};

use super::{bad_result, gone, plan, settle};
use crate::state::clerk::Clerk;
use crate::state::record::TaskRecord;
use crate::state::unit::Subject;
use crate::state::{EventKind, Stage, Table, count};

/// Names in one event.
const NAMES_TOLD: usize = 20;

/// Makes the unit of the next survey.
pub(super) fn begin(clerk: &mut Clerk<'_>) {
    let record = clerk.record();
    let round = if record.shares_snapshot() { record.snapshot.round + 1 } else { 0 };
    record.snapshot.round = round;
    clerk.add_unit(Subject::Survey { round });
}

pub(super) fn surveyed(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    found: &SurveyDone,
    parts: &[Arc<ResultPart>],
) -> Result<(), Box<Failure>> {
    let tables = tables(parts)?;
    let record = clerk.record();
    let round = record.snapshot.round;
    let shared = check_snapshot(record.shares_snapshot(), round, &found.snapshot)?;
    must_be_the_source(record, found.system_identifier)?;
    record.system_identifier = Some(found.system_identifier);
    let first = record.stage == Stage::Survey;
    let continues = found.continues && !record.snapshot.unusable;
    let refilled: Vec<TableNo> = record.refilled.iter().copied().collect();
    record.snapshot.shared = shared;
    record.snapshot.unusable = false;
    settle(clerk, no);
    if continues && !first {
        let message =
            format!("snapshot {round} shows the same moment as the lost one: the copy goes on");
        clerk.tell(EventKind::SnapshotContinues, message);
        return Ok(());
    }
    if !first && !refilled.is_empty() {
        refill(clerk, round, &refilled, tables);
        return Ok(());
    }
    if !first {
        let message = format!(
            "the source has changed since the lost snapshot: all rows are copied anew under snapshot {round}. \
             With `copy.snapshot: shard` each shard has its own moment, and none can be lost"
        );
        clerk.tell(EventKind::RowsStartAnew, message);
    }
    tell_left_out(clerk, found);
    take_tables(clerk, tables);
    Ok(())
}

/// Whatever another cluster says of tables is not about the task's.
pub(super) fn must_be_the_source(
    record: &TaskRecord,
    system_identifier: u64,
) -> Result<(), Box<Failure>> {
    let Some(known) = record.system_identifier.filter(|id| *id != system_identifier) else {
        return Ok(());
    };
    let message = format!(
        "the source is another cluster than before: system identifier {system_identifier}, was {known}"
    );
    let failure = Failure::definite("source_changed", message)
        .remedy("let the task's source host lead to the cluster it began with, then resume; or cancel the task");
    Err(Box::new(failure))
}

/// All but these were complete under the lost snapshot, and stay so: what a crash took of unlogged tables would be no reason to move
/// a database again.
fn refill(clerk: &mut Clerk<'_>, round: u32, lost: &[TableNo], surveyed: Vec<SurveyedTable>) {
    let record = clerk.record();
    let name = |no: &TableNo| Some(record.table(*no)?.surveyed.name.clone());
    let told: Vec<QualifiedName> = lost.iter().filter_map(name).collect();
    let message = format!(
        "lost at the destination after all rows had been there, and copied anew under snapshot {round}, a later moment than that of the \
         other tables: {}",
        names(&told, count(told.len()))
    );
    clerk.tell(EventKind::RowsStartAnew, message);
    let mut by_name: BTreeMap<_, _> =
        surveyed.into_iter().map(|table| (table.name.clone(), table)).collect();
    for (no, name) in lost.iter().zip(&told) {
        match by_name.remove(name) {
            Some(found) => {
                plan::discard(clerk, *no);
                let bytes = found.bytes;
                clerk.edit_table(*no, |table| {
                    table.surveyed = Arc::new(found);
                    table.unplan();
                });
                plan::make_units(clerk, vec![(bytes, *no)]);
            }
            // Gone by now, which is found when it is planned.
            None => plan::anew(clerk, *no),
        }
    }
}

fn tell_left_out(clerk: &mut Clerk<'_>, found: &SurveyDone) {
    if found.left_out == 0 {
        return;
    }
    let message = format!(
        "not part of this task, though `objects` names them: {}. They are not in the schema it made: made after that was \
         read, or of what `objects` leaves out. Move them with another task",
        names(&found.left_out_names, found.left_out)
    );
    clerk.tell(EventKind::TablesNotMigrated, message);
}

/// Some of so many names, for a message.
pub(super) fn names(some: &[QualifiedName], all: u32) -> String {
    let told: Vec<_> = some.iter().take(NAMES_TOLD).map(QualifiedName::to_string).collect();
    let more = all.saturating_sub(count(told.len()));
    let told = told.join(", ");
    if more == 0 { told } else { format!("{told} and {more} more") }
}

fn tables(parts: &[Arc<ResultPart>]) -> Result<Vec<SurveyedTable>, Box<Failure>> {
    let mut tables = Vec::new();
    for part in parts {
        match &**part {
            ResultPart::Tables(some) => tables.extend(some.iter().cloned()),
            ResultPart::Plan(_) | ResultPart::Shards(_) | ResultPart::NotCompared { .. } => {
                return Err(bad_result("a survey was answered with parts of a plan"));
            }
        }
    }
    Ok(tables)
}

fn check_snapshot(
    wanted: bool,
    round: u32,
    snapshot: &Option<SharedSnapshot>,
) -> Result<Option<SharedSnapshot>, Box<Failure>> {
    match snapshot {
        Some(shared) if wanted && shared.round == round && !shared.exports.is_empty() => {
            Ok(Some(shared.clone()))
        }
        None if !wanted => Ok(None),
        Some(_) | None => Err(bad_result(format!(
            "a survey that {} a snapshot of round {round} was answered otherwise",
            if wanted { "takes" } else { "does not take" }
        ))),
    }
}

/// The tables are as this survey says, and all are planned (anew). One that was gone and is found again keeps its number:
/// by that the destination knows that rows of it are there already.
fn take_tables(clerk: &mut Clerk<'_>, surveyed: Vec<SurveyedTable>) {
    let mut by_name: BTreeMap<QualifiedName, TableNo> =
        clerk.record().all_tables().map(|(no, table)| (table.surveyed.name.clone(), no)).collect();
    let live: Vec<TableNo> = clerk.record().live_tables().map(|(no, _)| no).collect();
    for no in &live {
        plan::discard(clerk, *no);
    }
    let mut to_plan = Vec::with_capacity(surveyed.len());
    for table in surveyed {
        let bytes = table.bytes;
        let no = match by_name.remove(&table.name) {
            Some(no) => {
                clerk.edit_table(no, |known| {
                    known.surveyed = Arc::new(table);
                    known.unplan();
                });
                no
            }
            None => clerk.add_table(Table::new(table)),
        };
        to_plan.push((bytes, no));
    }
    by_name.retain(|_, no| live.binary_search(no).is_ok());
    gone::leave_out(clerk, &by_name.into_values().collect::<Vec<_>>());
    // What only compares makes plans of its own, at its stage.
    if clerk.record().migrates() {
        plan::make_units(clerk, to_plan);
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::epoch::Generation;
    use pgconvoy_shared::unit::{UnitKind, Work};

    use super::*;
    use crate::apply::story::{Story, surveyed};
    use crate::state::TaskStatus;

    #[test]
    fn tables_made_or_dropped_since_are_told_and_the_task_ends_without_them() {
        let mut story =
            Story::copying(&[("public.orders", 2), ("public.old", 1)]).with_agents(&["a"]);
        story.lose("keeper");
        let found = vec![surveyed("public.orders", 2_000)];
        story.survey_leaving_out("a", 2, false, found, &["public.orders_monday"]);
        assert!(story.event(EventKind::TablesNotMigrated).contains(": public.orders_monday. "));
        assert!(story.event(EventKind::TablesGone).contains(": public.old. "));

        let plan = story.lease("a", UnitKind::Plan);
        story.plan_into(&plan, &[("public.orders", 2)]);
        for kind in [UnitKind::Copy, UnitKind::Audit, UnitKind::Index, UnitKind::SchemaPost] {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        story.finish_all("a", UnitKind::Sequences);
        story.finish_all("a", UnitKind::Analyze);
        story.finish_all("a", UnitKind::Audit);
        story.finish_all("a", UnitKind::Finish);
        assert_eq!(story.status(), TaskStatus::Done);
    }

    #[test]
    fn a_table_that_is_found_again_goes_on_under_its_number_so_that_no_row_is_doubled() {
        let mut story =
            Story::copying(&[("public.t", 1), ("public.u", 1)]).with_agents(&["a", "b"]);
        let held = story.lease("a", UnitKind::Copy);
        story.copied(&held, 10);
        story.lose("keeper");
        story.survey_leaving_out("a", 2, false, vec![surveyed("public.u", 1_000)], &[]);
        story.lose("a");
        let found = vec![surveyed("public.t", 1_000), surveyed("public.u", 1_000)];
        story.survey_leaving_out("b", 3, false, found, &[]);
        let plan = story.lease("b", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        let again = tables.iter().find(|table| &*table.name.name == "t").expect("planned again");
        assert_eq!((again.no, again.generation), (TableNo(0), Generation(2)));
    }

    #[test]
    fn a_message_holds_a_bounded_number_of_names() {
        let all: Vec<_> = (0..30).map(|n| QualifiedName::new("s", format!("t{n}"))).collect();
        assert_eq!(names(&all[..2], 2), "s.t0, s.t1");
        assert!(names(&all, 30).ends_with("s.t19 and 10 more"));
        assert!(names(&all[..5], 400).ends_with("s.t4 and 395 more"));
    }
}
