//! A shard was copied.

use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::unit::CopyDone;

use super::plan::expected;
use super::{aside, settle_with};
use crate::state::clerk::Clerk;
use crate::state::unit::Tally;

/// Counts it. Its snapshot stays at the destination, which is asked when it matters (law O6); the largest noted LSN is kept.
pub(super) fn copied(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    (table, shard): (TableNo, u32),
    copied: &CopyDone,
) {
    let tally = Tally { rows: copied.rows, bytes: copied.bytes };
    settle_with(clerk, no, tally);
    clerk.edit_table(table, |table| {
        let planned = table.shards.get(shard as usize).map(expected).unwrap_or_default();
        table.shards_done += 1;
        table.done = table.done + tally;
        table.left = table.left - planned;
        table.noted_lsn = table.noted_lsn.max(copied.noted_lsn);
    });
    aside::copied(clerk, table);
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;

    #[test]
    fn what_was_expected_gives_way_to_what_was_copied() {
        let mut story = Story::copying(&[("public.orders", 2)]).with_agents(&["a"]);
        let expected = story.view();
        let held = story.lease("a", UnitKind::Copy);
        story.copied(&held, 7);
        let view = story.view();
        assert_eq!(view.rows_done, 7);
        assert_eq!(view.rows_total, 7 + expected.rows_total / 2);
        assert_eq!(view.tables_done, 0);
    }
}
