//! Tables that the source has no more: they take no part from then on, and the task says so.
//!
//! A survey finds that out of all tables, a plan or a copy of the one that it cannot lock. No hand is needed: nobody can
//! read such a table any more, under whatever snapshot, and a source that lives drops tables (partitions of last month) all
//! the time. But it has to be the source that says so: a name that leads to another cluster by now ends the unit as a
//! failure.
//!
//! An owner of an older plan may go on writing for a while: what the destination has of the table is told to be a part.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{AgentId, TableNo, UnitNo};
use pgconvoy_shared::name::QualifiedName;

use super::survey::{must_be_the_source, names};
use super::{aside, bad_result, lease_end, plan, stages};
use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{EventKind, UnitState, count};

/// The unit that was to plan or copy a table found it gone.
pub(crate) fn table_gone(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    agent: &AgentId,
    table: TableNo,
    system_identifier: u64,
) {
    let others = match found_by(clerk, no, table, system_identifier) {
        Ok(others) => others,
        Err(failure) => return lease_end::failed(clerk, no, agent, *failure),
    };
    // The lease ends here, so that the unit is dropped at once, like its table's others.
    clerk.set(no, UnitState::Ready);
    plan::discard(clerk, table);
    leave_out(clerk, &[table]);
    // Whoever follows the source may keep its changes.
    aside::stream_anew(clerk);
    let record = clerk.record();
    let others = others.into_iter().filter_map(|other| Some((other, record.table(other)?)));
    let others = others.map(stages::sized).collect();
    plan::make_units(clerk, others);
    stages::advance(clerk);
}

/// The tables that have to be planned by another unit then.
fn found_by(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    table: TableNo,
    system_identifier: u64,
) -> Result<Vec<TableNo>, Box<Failure>> {
    let record = clerk.record();
    must_be_the_source(record, system_identifier)?;
    match record.unit(no).map(|unit| &unit.subject) {
        Some(Subject::Copy { table: copied, .. }) if *copied == table => Ok(Vec::new()),
        Some(Subject::Plan(tables)) if tables.contains(&table) => {
            Ok(tables.iter().copied().filter(|other| *other != table).collect())
        }
        _ => {
            Err(bad_result(format!("table {table} was found gone by a unit that is not about it")))
        }
    }
}

/// Tables whose units are dropped already take no part any more.
pub(super) fn leave_out(clerk: &mut Clerk<'_>, gone: &[TableNo]) {
    for no in gone {
        clerk.edit_table(*no, |table| {
            table.unplan();
            table.anew = None;
            table.gone = true;
        });
    }
    let record = clerk.record();
    let name = |no: &TableNo| Some(record.table(*no)?.surveyed.name.clone());
    let told: Vec<QualifiedName> = gone.iter().filter_map(name).collect();
    if told.is_empty() {
        return;
    }
    let message = format!(
        "dropped or renamed at the source: {}. The destination keeps these tables with what was copied of them, which may \
         be a part of their rows: empty them there, and drop them once the task is done",
        names(&told, count(told.len()))
    );
    clerk.tell(EventKind::TablesGone, message);
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::ids::TableNo;
    use pgconvoy_shared::unit::{Ended, UnitKind, Work};

    use crate::apply::story::Story;
    use crate::state::{EventKind, TaskStatus};

    fn gone(table: u32, system_identifier: u64) -> Ended {
        Ended::TableGone { table: TableNo(table), system_identifier }
    }

    #[test]
    fn a_table_that_is_dropped_while_it_is_copied_is_left_out() {
        let mut story =
            Story::copying(&[("public.orders", 3), ("public.old", 2)]).with_agents(&["a", "b"]);
        assert_eq!(story.finish_all_but("a", UnitKind::Copy, 2), 3, "the large one");
        let slow = story.lease("b", UnitKind::Copy);
        let held = story.lease("a", UnitKind::Copy);
        story.end(&held, gone(1, 42));
        assert!(story.event(EventKind::TablesGone).contains(": public.old. "));
        assert_eq!(story.counts(UnitKind::Audit).total, 0, "b has not let go yet");
        story.end(&slow, gone(1, 42));
        assert_eq!(story.finish_all("a", UnitKind::Audit), 1);
        assert_eq!(story.view().rows_total, 30);
        assert_eq!(story.status(), TaskStatus::Running);
    }

    #[test]
    fn the_others_of_its_plan_are_planned_by_another_unit() {
        let mut story = Story::created("shop").with_agents(&["a"]);
        story.start();
        story.prepare("a", &[("public.orders", 3_000), ("public.old", 2_000), ("public.t", 10)]);
        let plan = story.lease("a", UnitKind::Plan);
        story.end(&plan, gone(1, 42));
        let plan = story.lease("a", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        let asked: Vec<_> = tables.iter().map(|table| (table.no.0, table.generation.0)).collect();
        assert_eq!(asked, [(0, 2), (2, 2)]);
        story.plan_into(&plan, &[("public.orders", 1), ("public.t", 1)]);
        assert_eq!(story.finish_all("a", UnitKind::Copy), 2);
        assert_eq!(story.counts(UnitKind::Audit).ready, 1);
    }

    #[test]
    fn the_last_table_may_be_gone_too() {
        let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        story.end(&held, gone(0, 42));
        assert_eq!(story.finish_all("a", UnitKind::Index), 1, "it stands at the destination");
    }

    #[test]
    fn another_server_than_the_source_has_no_say() {
        let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        story.end(&held, gone(0, 43));
        assert_eq!(story.cause().code, "source_changed");
        story.resume();
        assert_eq!(story.finish_all("a", UnitKind::Copy), 1);
    }
}
