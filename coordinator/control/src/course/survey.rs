//! The survey: which tables there are, and in `copy.snapshot: task` the moment that all shards show.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{ResultPart, SharedSnapshot, SurveyDone, SurveyedTable};

use super::{bad_result, plan, settle};
use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{EventKind, Stage, Table};

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
    if let Some(known) = record.system_identifier.filter(|id| *id != found.system_identifier) {
        let failure = Failure::definite(
            "source_changed",
            format!(
                "the source is another cluster than before: system identifier {}, was {known}",
                found.system_identifier
            ),
        )
        .remedy("let the task's source host lead to the cluster it began with, then resume; or cancel the task");
        return Err(Box::new(failure));
    }
    record.system_identifier = Some(found.system_identifier);
    let first = record.stage == Stage::Survey;
    let continues = found.continues && !record.snapshot.unusable;
    record.snapshot.shared = shared;
    record.snapshot.unusable = false;
    settle(clerk, no);
    if first {
        take_tables(clerk, tables);
    } else if continues {
        let message =
            format!("snapshot {round} shows the same moment as the lost one: the copy goes on");
        clerk.tell(EventKind::SnapshotContinues, message);
    } else {
        let message = format!(
            "the source has changed since the lost snapshot: all rows are copied anew under snapshot {round}. \
             With `copy.snapshot: shard` each shard has its own moment, and none can be lost"
        );
        clerk.tell(EventKind::RowsStartAnew, message);
        take_tables(clerk, tables);
    }
    Ok(())
}

fn tables(parts: &[Arc<ResultPart>]) -> Result<Vec<SurveyedTable>, Box<Failure>> {
    let mut tables = Vec::new();
    for part in parts {
        match &**part {
            ResultPart::Tables(some) => tables.extend(some.iter().cloned()),
            ResultPart::Plan(_) | ResultPart::Shards(_) => {
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

/// The tables are as this survey says, and all are planned (anew).
fn take_tables(clerk: &mut Clerk<'_>, surveyed: Vec<SurveyedTable>) {
    let known: Vec<TableNo> = clerk.record().live_tables().map(|(no, _)| no).collect();
    for no in &known {
        plan::discard(clerk, *no);
    }
    let mut by_name: BTreeMap<QualifiedName, TableNo> = known
        .into_iter()
        .filter_map(|no| Some((clerk.record().table(no)?.surveyed.name.clone(), no)))
        .collect();
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
    for gone in by_name.into_values() {
        clerk.edit_table(gone, |table| {
            table.unplan();
            table.gone = true;
        });
    }
    plan::make_units(clerk, to_plan);
}
