//! Following the source: the slot is opened before anything is copied, and the stream runs until its user ends the task.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::UnitNo;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::unit::{Checkpoint, StreamOpened};

use super::{settle, stages, survey};
use crate::state::clerk::Clerk;
use crate::state::{EventKind, count};

/// Tables that are remembered as not followed: a source that makes one an hour fills this in six weeks.
const NOT_FOLLOWED_MAX: usize = 1_000;

/// Every change behind this position is kept at the source from here on.
pub(super) fn opened(
    clerk: &mut Clerk<'_>,
    no: UnitNo,
    opened: StreamOpened,
) -> Result<(), Box<Failure>> {
    let record = clerk.record();
    survey::must_be_the_source(record, opened.system_identifier)?;
    record.system_identifier = Some(opened.system_identifier);
    record.following.opened = Some(opened);
    record.following.checkpoint = Checkpoint { applied: opened.start, consistent: false };
    settle(clerk, no);
    let message = format!("changes are followed from {} on", opened.start);
    clerk.tell(EventKind::StreamOpened, message);
    Ok(())
}

/// The stream is so far. It never goes back: who reports less took over before the last report, and is not heard any more.
///
/// Whatever failed before it got on is behind it: a stream runs for weeks, and must neither wait longer nor be given up because of
/// connections that broke days ago.
pub(crate) fn checkpoint(clerk: &mut Clerk<'_>, no: UnitNo, reported: Checkpoint) {
    let following = &mut clerk.record().following;
    let known = following.checkpoint;
    following.checkpoint = Checkpoint {
        applied: known.applied.max(reported.applied),
        consistent: known.consistent || reported.consistent,
    };
    let gets_on = reported.applied > known.applied;
    if gets_on && clerk.record().unit(no).is_some_and(|unit| unit.trouble.is_some()) {
        clerk.edit_unit(no, |unit| unit.trouble = None);
    }
    if reported.consistent && !known.consistent {
        let message =
            format!("all tables show one moment of the source, as of {}", reported.applied);
        clerk.tell(EventKind::Consistent, message);
        stages::advance(clerk);
    }
}

/// The stream has something to tell. What was told before, by whoever ran it then, is not told again.
pub(crate) fn noted(clerk: &mut Clerk<'_>, note: &StreamNote) {
    match note {
        StreamNote::NotFollowed(tables) => tell_not_followed(clerk, tables),
        StreamNote::SlotAtRisk(slot) => {
            let following = &mut clerk.record().following;
            if !std::mem::replace(&mut following.slot_at_risk, true) {
                let message = format!(
                    "{slot}: if the source gives the slot up, all rows have to be copied again. Raise max_slot_wal_keep_size \
                     there, or let less be written"
                );
                clerk.tell(EventKind::SlotAtRisk, message);
            }
        }
        StreamNote::SlotSafe(slot) => {
            let following = &mut clerk.record().following;
            if std::mem::replace(&mut following.slot_at_risk, false) {
                clerk.tell(EventKind::SlotSafe, slot.to_string());
            }
        }
    }
}

fn tell_not_followed(clerk: &mut Clerk<'_>, tables: &[QualifiedName]) {
    let now: BTreeSet<QualifiedName> = tables.iter().take(NOT_FOLLOWED_MAX).cloned().collect();
    let record = clerk.record();
    let known = std::mem::replace(&mut record.following.not_followed, Arc::new(now));
    let new: BTreeSet<&QualifiedName> =
        record.following.not_followed.iter().filter(|table| !known.contains(table)).collect();
    let moved = record.live_tables().map(|(_, table)| &table.surveyed.name);
    let again: BTreeSet<&QualifiedName> = moved.filter(|name| new.contains(name)).collect();
    let named = |tables: Vec<&QualifiedName>| {
        let tables: Vec<QualifiedName> = tables.into_iter().cloned().collect();
        (!tables.is_empty()).then(|| survey::names(&tables, count(tables.len())))
    };
    let first = named(new.difference(&again).copied().collect()).map(|names| {
        format!(
            "made or renamed at the source since its changes are followed: {names}. The destination does not get these tables: drop those of no use. \
             Another task can move one that stands alone; a partition of a table that is followed has to be made at the destination by \
             hand, and its rows brought once nobody writes them any more"
        )
    });
    let id = &record.id;
    let anew = named(again.into_iter().collect()).map(|names| {
        format!(
            "dropped and made again at the source: {names}. The destination has the rows of before. For each: `pgconvoy task \
             resync {id} TABLE` parks it with the statements that publish it; when they were run, the same command copies it"
        )
    });
    for message in [first, anew].into_iter().flatten() {
        clerk.tell(EventKind::TablesNotFollowed, message);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::lsn::Lsn;
    use pgconvoy_shared::name::QualifiedName;
    use pgconvoy_shared::stream::{SlotState, StreamNote, WalStatus};
    use pgconvoy_shared::unit::{Checkpoint, UnitKind, Work};

    use crate::apply::story::Story;
    use crate::outcome::Reception;
    use crate::rejected::Rejected;
    use crate::state::{EventKind, Phase, TaskStatus};
    use crate::view::TableStatus;

    fn at(applied: u64, consistent: bool) -> Checkpoint {
        Checkpoint { applied: Lsn(applied), consistent }
    }

    #[test]
    fn a_stream_is_opened_before_the_copy_and_runs_beside_all_that_comes_after() {
        let mut story = Story::following(&[("public.orders", 2)]);
        let Work::Copy(shard) = ({
            let held = story.lease("a", UnitKind::Copy);
            let work = story.work(&held);
            story.copied(&held, 5);
            work
        }) else {
            panic!("a shard")
        };
        assert_eq!((shard.barrier, shard.snapshot), (Some(Story::BARRIER), None));
        story.finish_all("a", UnitKind::Copy);
        story.finish_all("a", UnitKind::Audit);
        assert_eq!(story.counts(UnitKind::Stream).total, 0, "its indexes come first");
        assert_eq!(story.finish_all("a", UnitKind::Index), 1);
        assert_eq!(story.view().phase, Phase::CatchUp);

        let stream = story.lease("a", UnitKind::Stream);
        assert_eq!(story.checkpoint(&stream, at(2_000, false)), Reception::Taken);
        assert_eq!(story.counts(UnitKind::Index).ready, 0, "late ones wait for consistency");
        assert_eq!(story.checkpoint(&stream, at(3_000, true)), Reception::Taken);
        assert!(story.event(EventKind::Consistent).contains("0/BB8"));
        for kind in [UnitKind::Index, UnitKind::SchemaPost, UnitKind::Sequences, UnitKind::Analyze]
        {
            assert!(story.finish_all("a", kind) > 0, "{kind:?}");
        }
        let view = story.view();
        assert_eq!((view.status, view.phase), (TaskStatus::Running, Phase::Stream));
        assert_eq!(view.stream.expect("it follows").checkpoint, at(3_000, true));
        assert_eq!(story.counts(UnitKind::Stream).running, 1);
    }

    #[test]
    fn who_takes_a_stream_over_goes_on_from_the_checkpoint_and_the_old_owner_is_not_heard() {
        let mut story = Story::streaming(&[("public.orders", 1)]).with_agents(&["b"]);
        let old = story.lease("a", UnitKind::Stream);
        story.checkpoint(&old, at(5_000, true));
        story.lose("a");
        let new = story.lease("b", UnitKind::Stream);
        let Work::Stream(order) = story.work(&new) else { panic!("a stream") };
        assert_eq!(order.checkpoint, at(5_000, true));
        let stale = story.checkpoint(&old, at(6_000, true));
        assert!(matches!(stale, Reception::Refused(Rejected::StaleEpoch { .. })));
        story.checkpoint(&new, at(4_000, false));
        assert_eq!(story.view().stream.expect("it follows").checkpoint, at(5_000, true));
    }

    #[test]
    fn a_paused_stream_stops_and_goes_on_and_a_cancelled_one_is_cleaned_up() {
        let mut story = Story::streaming(&[("public.orders", 1)]);
        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(story.pause().len(), 1, "it is told to stop");
        assert_eq!(
            story.checkpoint(&held, at(5_000, true)),
            Reception::Taken,
            "what it had applied by then counts"
        );
        story.release(&held);
        story.resume();
        let held = story.lease("a", UnitKind::Stream);
        story.cancel();
        story.release(&held);
        assert_eq!(story.finish_all("a", UnitKind::Finish), 1);
        assert!(story.view().cleaned_up);
    }

    #[test]
    fn what_failed_before_a_stream_got_on_is_behind_it() {
        let mut story = Story::streaming(&[("public.orders", 1)]);
        let broken = || Failure::transient("connection_lost", "the connection was closed");
        let attempts = |story: &Story| story.view().retrying[0].attempts;
        let mut held = story.lease("a", UnitKind::Stream);
        for nth in 1..=3 {
            story.checkpoint(&held, at(5_000, false));
            story.fail(&held, broken());
            assert_eq!(attempts(&story), nth, "it does not get on");
            story.now = story.now.plus_ms(5_000);
            held.epoch = story.grant("a", &held.unit).expect("due");
        }
        story.checkpoint(&held, at(5_001, false));
        assert!(story.view().retrying.is_empty());
        story.fail(&held, broken());
        assert_eq!(attempts(&story), 1);
    }

    #[test]
    fn what_a_stream_tells_becomes_an_event_once_whoever_runs_it() {
        let mut story = Story::streaming(&[("public.orders", 1)]).with_agents(&["b"]);
        let name = |name: &str| QualifiedName::new("public", name);
        let tables =
            |names: &[&str]| StreamNote::NotFollowed(names.iter().map(|of| name(of)).collect());
        let slot = SlotState {
            status: WalStatus::Extended,
            kept: 5 << 20,
            left: Some(60 << 20),
            growth: Some(1 << 20),
            source_spilled: 0,
        };
        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(story.note(&held, tables(&["new"])), Reception::Taken);
        story.note(&held, StreamNote::SlotAtRisk(slot));
        story.lose("a");
        let held = story.lease("b", UnitKind::Stream);
        story.note(&held, tables(&["new", "newer"]));
        story.note(&held, StreamNote::SlotAtRisk(slot));
        assert!(story.event(EventKind::TablesNotFollowed).contains(": public.newer. "));
        assert_eq!(story.told(EventKind::TablesNotFollowed), 2);
        assert!(story.event(EventKind::SlotAtRisk).contains("reached in 1 min"));
        assert_eq!(story.told(EventKind::SlotAtRisk), 1);
        let view = story.view().stream.expect("it follows");
        assert_eq!(*view.not_followed, BTreeSet::from([name("new"), name("newer")]));

        // One is dropped; and one that is followed is another by now.
        story.note(&held, tables(&["newer", "orders"]));
        let told = story.event(EventKind::TablesNotFollowed);
        assert!(told.contains("made again at the source: public.orders. "), "{told}");
        assert!(told.contains("`pgconvoy task resync "), "{told}");
        assert_eq!(story.told(EventKind::TablesNotFollowed), 3);
        let view = story.view();
        assert_eq!(view.tables[0].status, TableStatus::NotFollowed);
        let not_followed = &view.stream.expect("it follows").not_followed;
        assert_eq!(**not_followed, BTreeSet::from([name("newer"), name("orders")]));

        story.note(&held, StreamNote::SlotSafe(slot));
        story.note(&held, StreamNote::SlotSafe(slot));
        assert_eq!(story.told(EventKind::SlotSafe), 1);
        story.note(&held, StreamNote::SlotAtRisk(slot));
        assert_eq!(story.told(EventKind::SlotAtRisk), 2, "it is at risk again");
    }
}
