//! The moment that all shards of a task show, in `copy.snapshot: task` (law S13).
//!
//! It lives as long as any agent's keeper session exports it. When none is left while rows are still to be copied, the next
//! round is surveyed: if no transaction id was assigned since, the new snapshot shows the same moment, and what is copied
//! stays; else rows start anew.

use pgconvoy_shared::ids::{AgentId, UnitNo};
use pgconvoy_shared::unit::UnitKind;

use super::{lease_end, open, survey};
use crate::state::clerk::Clerk;
use crate::state::{EventKind, Stage, UnitState};

/// These agents export it no more.
pub(crate) fn exports_gone(clerk: &mut Clerk<'_>, gone: &[AgentId]) {
    if let Some(shared) = &mut clerk.record().snapshot.shared {
        shared.exports.retain(|export| !gone.contains(&export.agent));
    }
    keep_readable(clerk);
}

/// A unit could import it from none of the exports it was told of.
pub(crate) fn snapshot_lost(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    agent: &AgentId,
    round: u32,
    gone: &[AgentId],
) {
    let shared = clerk.record().snapshot.shared.as_ref();
    let known = shared.is_some_and(|shared| {
        shared.round == round && shared.exports.iter().any(|export| gone.contains(&export.agent))
    });
    if known {
        clerk.set(no, UnitState::Ready);
        exports_gone(clerk, gone);
    } else {
        // An older round, or nothing new: others may have exported it since.
        lease_end::back_off_shortly(clerk, no, agent);
    }
}

/// Begins the next round if rows are still to be copied and nobody exports the snapshot. Rows that are still to be compared
/// are compared as they are now: to copy them anew for that would help nobody.
pub(super) fn keep_readable(clerk: &mut Clerk<'_>) {
    let record = clerk.record();
    if record.stage == Stage::Verify && record.snapshot.shared.is_some() && !record.can_read() {
        record.snapshot.shared = None;
        let round = record.snapshot.round;
        let message = format!(
            "every agent that exported snapshot {round} is gone: what is not compared yet is compared as the source \
             is now, and what changed there since shows as different"
        );
        clerk.tell(EventKind::SnapshotLost, message);
        return;
    }
    let lost = record.stage == Stage::Copy
        && !record.status.has_ended()
        && record.snapshot.shared.is_some()
        && !record.can_read();
    if lost
        && open(clerk, UnitKind::Survey) == 0
        && open(clerk, UnitKind::Plan) + open(clerk, UnitKind::Copy) > 0
    {
        let round = clerk.record().snapshot.round;
        let message = format!("every agent that exported snapshot {round} is gone");
        clerk.tell(EventKind::SnapshotLost, message);
        survey::begin(clerk);
    }
}

/// The snapshot cannot serve a table that was rewritten since: a new one is taken, and all rows start anew under it.
pub(super) fn give_up(clerk: &mut Clerk<'_>) {
    let snapshot = &mut clerk.record().snapshot;
    snapshot.unusable = true;
    if let Some(shared) = &mut snapshot.shared {
        shared.exports.clear();
    }
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::{UnitKind, Work};

    use crate::apply::story::Story;
    use crate::rejected::Rejected;
    use crate::state::EventKind;

    #[test]
    fn a_snapshot_lives_as_long_as_any_keeper() {
        let mut story = Story::copying(&[("public.orders", 4)]).with_agents(&["a", "b"]);
        story.export("a", 1);
        story.export("b", 1);
        story.lose("keeper");
        story.lose("a");
        let held = story.lease("b", UnitKind::Copy);
        let Work::Copy(shard) = story.work(&held) else { panic!("a shard") };
        let exports = shard.snapshot.expect("one moment for all").exports;
        assert_eq!(exports.len(), 1);
        assert_eq!(exports[0].agent.as_str(), "b");
    }

    #[test]
    fn a_lost_snapshot_is_taken_up_by_the_next_round_where_nothing_happened() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        story.copied(&held, 5);
        story.lose("keeper");
        let waiting = story.ready_unit(UnitKind::Copy);
        assert_eq!(story.grant("a", &waiting), Err(Rejected::NotReady { unit: waiting.clone() }));
        story.survey("a", 2, true);
        assert_eq!(story.counts(UnitKind::Copy).done, 1, "what is copied stays");
        assert!(story.grant("a", &waiting).is_ok());
    }

    #[test]
    fn where_the_source_went_on_rows_start_anew_and_the_task_says_so() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        let copied = story.lease("a", UnitKind::Copy);
        story.copied(&copied, 5);
        let running = story.lease("a", UnitKind::Copy);
        story.lose("keeper");
        story.survey("a", 2, false);
        assert!(story.event(EventKind::RowsStartAnew).contains("copy.snapshot: shard"));
        assert_eq!(story.counts(UnitKind::Copy).done, 0);
        story.copied(&running, 5);
        assert_eq!(story.counts(UnitKind::Copy).total, 0, "the old shard is of no use");
        let plan = story.lease("a", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        assert_eq!(tables[0].generation.0, 2);
    }
}
