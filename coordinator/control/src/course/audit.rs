//! The audit: the destination decides what is done; what it lacks runs again (law O6).

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
    use pgconvoy_shared::unit::{UnitKind, WorkResult};

    use crate::apply::story::Story;

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
