//! The audit: the destination decides what is done; what it lacks runs again (law O6).
//!
//! It is asked before indexes are built, and once more at the end: a crash of the server empties unlogged tables whenever it comes. What
//! is copied again then is copied into tables that have all they are to have, and everything after the copy runs once more, which for
//! statements that are done is nothing.

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::{TableNo, UnitNo};

use super::plan::expected;
use super::{bad_result, lease_end, settle, snapshot};
use crate::state::clerk::Clerk;
use crate::state::{EventKind, Stage, UnitState};

/// A destination that loses shards again and again (restored from a backup in a loop, say) is nothing to go on with.
const AUDITS_FAILED_MAX: u32 = 5;

pub(super) fn audited(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    missing: &[(TableNo, u32)],
) -> Result<(), Box<Failure>> {
    let record = clerk.record();
    let unknown = missing.iter().find(|(table, shard)| {
        record.table(*table).is_none_or(|table| table.gone || *shard >= table.shard_count())
    });
    if let Some((table, shard)) = unknown {
        return Err(bad_result(format!(
            "an audit misses shard {shard} of table {table}: there is none"
        )));
    }
    settle(clerk, no);
    if missing.is_empty() {
        clerk.record().audits_failed = 0;
        return Ok(());
    }
    for (table, shard) in missing {
        run_again(clerk, *table, *shard);
    }
    if clerk.record().stage == Stage::LastAudit {
        clerk.record().refilled.extend(missing.iter().map(|(table, _)| *table));
    }
    let count = missing.len();
    let message =
        format!("the destination lacks {count} shards that were reported done: they run again");
    clerk.tell(EventKind::ShardsMissing, message);
    clerk.record().audits_failed += 1;
    clerk.set_stage(Stage::Copy);
    snapshot::keep_readable(clerk);
    if clerk.record().audits_failed >= AUDITS_FAILED_MAX {
        clerk.record().audits_failed = 0;
        let failure = Failure::definite(
            "shards_keep_missing",
            format!("the destination lacked shards that were reported done, {AUDITS_FAILED_MAX} times in a row"),
        )
        .remedy("find out what removes rows from `pgconvoy.shard_progress` at the destination, then resume");
        lease_end::fail_task(clerk, failure);
    }
    Ok(())
}

/// The one way in which a done unit becomes ready again.
fn run_again(clerk: &mut Clerk<'_>, no: TableNo, shard: u32) {
    let Some(table) = clerk.record().table(no) else { return };
    let unit = UnitNo(table.first_unit.0 + shard);
    let Some(UnitState::Done(tally)) = clerk.record().unit(unit).map(|unit| unit.state.clone())
    else {
        return;
    };
    clerk.set(unit, UnitState::Ready);
    clerk.edit_table(no, |table| {
        let planned = table.shards.get(shard as usize).map(expected).unwrap_or_default();
        table.shards_done -= 1;
        table.done = table.done - tally;
        table.left = table.left + planned;
    });
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::ids::TableNo;
    use pgconvoy_shared::unit::{UnitKind, Work, WorkResult};

    use crate::apply::story::Story;
    use crate::state::{EventKind, TaskStatus};

    /// All that comes after the copy, up to the last audit.
    const LATER: [UnitKind; 5] = [
        UnitKind::Audit,
        UnitKind::Index,
        UnitKind::SchemaPost,
        UnitKind::Sequences,
        UnitKind::Analyze,
    ];

    #[test]
    fn what_is_lost_after_all_was_there_is_copied_again_before_the_task_ends() {
        let mut story = Story::verifying(&[("public.orders", 2), ("public.lost", 1)]);
        let compare = [UnitKind::VerifyRows, UnitKind::VerifySchema, UnitKind::VerifySequences];
        for kind in compare {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        assert!(story.view().verification.expect("it was asked for").complete);
        let audit = story.lease("a", UnitKind::Audit);
        story.done(&audit, WorkResult::Audit { missing: vec![(TableNo(1), 0)] });
        assert!(story.event(EventKind::ShardsMissing).contains("lacks 1 shards"));
        let again = story.lease("a", UnitKind::Copy);
        assert_eq!(story.describe(&again), "copy public.lost shard 0");
        story.copied(&again, 5);
        for kind in LATER {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        let verification = story.view().verification.expect("it was asked for");
        assert!(!verification.complete && verification.tables_same == 0, "it is compared again");
        let plan = story.lease("a", UnitKind::VerifyPlan);
        story.plan_into(&plan, &[("public.orders", 2), ("public.lost", 1)]);
        for kind in compare {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        assert_eq!(story.finish_all("a", UnitKind::Audit), 1);
        assert_eq!(story.finish_all("a", UnitKind::Finish), 1);
        let view = story.view();
        assert_eq!(view.status, TaskStatus::Done);
        assert_eq!(view.verification.expect("it was asked for").tables_same, 2);
    }

    #[test]
    fn where_the_snapshot_is_gone_by_then_only_the_lost_tables_start_anew() {
        let mut story =
            Story::copying(&[("public.orders", 2), ("public.lost", 2)]).with_agents(&["a"]);
        story.finish_all("a", UnitKind::Copy);
        for kind in LATER {
            story.finish_all("a", kind);
        }
        story.lose("keeper");
        let audit = story.lease("a", UnitKind::Audit);
        story.done(&audit, WorkResult::Audit { missing: vec![(TableNo(1), 0), (TableNo(1), 1)] });
        assert_eq!(story.counts(UnitKind::Copy).ready, 2);
        story.survey("a", 2, false);
        assert!(story.event(EventKind::RowsStartAnew).contains(": public.lost"));
        let plan = story.lease("a", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        let planned: Vec<_> = tables.iter().map(|table| (table.no, table.generation.0)).collect();
        assert_eq!(planned, [(TableNo(1), 2)]);
        story.plan_into(&plan, &[("public.lost", 1)]);
        assert_eq!(story.finish_all("a", UnitKind::Copy), 1);
        for kind in LATER {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        story.finish_all("a", UnitKind::Audit);
        story.finish_all("a", UnitKind::Finish);
        assert_eq!(story.status(), TaskStatus::Done);
    }

    #[test]
    fn what_the_destination_lacks_runs_again_and_is_audited_again() {
        let mut story = Story::copying(&[("public.orders", 2)]).with_agents(&["a"]);
        let _ = story.finish_all("a", UnitKind::Copy);
        let audit = story.lease("a", UnitKind::Audit);
        story.done(&audit, WorkResult::Audit { missing: vec![(TableNo(0), 1)] });
        assert_eq!(story.view().tables_done, 0);
        let again = story.lease("a", UnitKind::Copy);
        assert_eq!(story.describe(&again), "copy public.orders shard 1");
        story.copied(&again, 5);
        let audit = story.lease("a", UnitKind::Audit);
        story.done(&audit, WorkResult::Audit { missing: vec![] });
        assert_eq!(story.counts(UnitKind::Index).ready, 1);
    }
}
