//! Plans: each raises its tables' generation at the destination and cuts them into shards, which become units.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::unit::{PlannedShard, ResultPart, TablePlan};
use pgconvoy_shared::verify::NotCompared;

use super::group::groups;
use super::lease_end::drop_unit;
use super::{bad_result, settle};
use crate::state::clerk::Clerk;
use crate::state::record::TaskRecord;
use crate::state::unit::{Subject, Tally};

/// Makes the units that plan these tables (with their bytes), under their next generation.
pub(super) fn make_units(clerk: &mut Clerk<'_>, tables: Vec<(u64, TableNo)>) {
    for group in groups(tables) {
        let unit = clerk.add_unit(Subject::Plan(group.clone()));
        for no in group {
            clerk.edit_table(no, |table| {
                table.generation = table.generation.next();
                table.plan_unit = Some(unit);
            });
        }
    }
}

/// Drops all units that plan or copy a table. One pass over its shards, which such an event is worth.
pub(super) fn discard(clerk: &mut Clerk<'_>, no: TableNo) {
    let Some(table) = clerk.record().table(no) else {
        debug_assert!(false, "table {no} was looked up before");
        return;
    };
    let copies = table.copy_units();
    if table.plan.is_none()
        && let Some(unit) = table.plan_unit
    {
        drop_unit(clerk, unit);
    }
    for unit in copies.map(UnitNo) {
        drop_unit(clerk, unit);
    }
}

/// A table whose plan does not hold any more is planned again; what was copied of it counts no more. One that has no plan
/// yet is about to get one, by a unit that others of its group wait for, too.
pub(super) fn anew(clerk: &mut Clerk<'_>, no: TableNo) {
    if clerk.record().table(no).is_none_or(|table| table.plan.is_none()) {
        return;
    }
    again(clerk, no);
}

/// Whether it has a plan or not.
pub(super) fn again(clerk: &mut Clerk<'_>, no: TableNo) {
    discard(clerk, no);
    clerk.edit_table(no, crate::state::Table::unplan);
    let bytes = clerk.record().table(no).map_or(0, |table| table.surveyed.bytes);
    make_units(clerk, vec![(bytes, no)]);
}

pub(super) fn planned(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    tables: &[TableNo],
    parts: &[Arc<ResultPart>],
) -> Result<(), Box<Failure>> {
    let answers = answers(clerk.record(), tables, parts)?;
    let plans: Vec<_> = answers
        .into_iter()
        .map(|(table, answer)| match answer {
            Answer::Cut(plan, shards) => Ok((table, plan, shards)),
            Answer::NotCompared(_) => Err(bad_result("a table to copy was left out")),
        })
        .collect::<Result<_, _>>()?;
    settle(clerk, no);
    for (table, plan, shards) in plans {
        install(clerk, table, plan, shards);
    }
    Ok(())
}

/// What an agent says of a table that it was to plan.
pub(super) enum Answer {
    Cut(TablePlan, Vec<PlannedShard>),
    NotCompared(NotCompared),
}

type Answers = BTreeMap<TableNo, Answer>;

/// The answers that the parts hold: one for each table of the unit, plans under the generation asked for.
pub(super) fn answers(
    record: &TaskRecord,
    tables: &[TableNo],
    parts: &[Arc<ResultPart>],
) -> Result<Answers, Box<Failure>> {
    let mut answers = Answers::new();
    let mut latest = None;
    for part in parts {
        match &**part {
            ResultPart::Plan(plan) => {
                let asked = record.table(plan.no).filter(|_| tables.contains(&plan.no));
                if asked.is_none_or(|table| table.generation != plan.generation) {
                    return Err(bad_result(format!("a plan of {} was not asked for", plan.name)));
                }
                if answers.insert(plan.no, Answer::Cut(plan.clone(), Vec::new())).is_some() {
                    return Err(bad_result(format!("{} was planned twice", plan.name)));
                }
                latest = Some(plan.no);
            }
            ResultPart::Shards(shards) => {
                let of_plan = latest.and_then(|no| answers.get_mut(&no));
                let Some(Answer::Cut(_, of_plan)) = of_plan else {
                    return Err(bad_result("shards came before their plan"));
                };
                of_plan.extend(shards.iter().cloned());
            }
            ResultPart::NotCompared { table, why } => {
                if !tables.contains(table)
                    || answers.insert(*table, Answer::NotCompared(why.clone())).is_some()
                {
                    return Err(bad_result(format!("table {table} was left out unasked")));
                }
                latest = None;
            }
            ResultPart::Tables(_) => {
                return Err(bad_result("a plan was answered with parts of a survey"));
            }
        }
    }
    if answers.len() == tables.len() {
        Ok(answers)
    } else {
        Err(bad_result(format!("{} of {} tables were planned", answers.len(), tables.len())))
    }
}

fn install(clerk: &mut Clerk<'_>, no: TableNo, plan: TablePlan, shards: Vec<PlannedShard>) {
    let first_unit = UnitNo(crate::state::count(clerk.record().units.len()));
    let left = shards.iter().fold(Tally::default(), |sum, shard| sum + expected(shard));
    for shard in 0..crate::state::count(shards.len()) {
        clerk.add_unit(Subject::Copy { table: no, shard });
    }
    clerk.edit_table(no, |table| {
        table.plan = Some(Arc::new(plan));
        table.shards = Arc::new(shards);
        table.first_unit = first_unit;
        table.left = left;
    });
}

/// What a shard was expected to hold.
pub(super) fn expected(shard: &PlannedShard) -> Tally {
    Tally { rows: shard.rows, bytes: shard.bytes }
}
