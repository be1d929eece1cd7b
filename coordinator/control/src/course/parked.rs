//! Parked tables: what the stream says of them, and what users want of them.
//!
//! What is parked is decided at the destination, with the changes that are kept there; here is what was told of it, which
//! whoever takes a stream over tells again. A user's word that the cause is mended goes with the stream's next lease, so the
//! one that runs is begun again: what was kept is applied before anything else. The word counts until a lease that knew it
//! has told what came of it.

use std::sync::Arc;

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::parking::Parking;

use super::lease_end;
use crate::state::clerk::Clerk;
use crate::state::{Afterwards, EventKind, Parked};

/// A stream says how it has a table from now on.
pub(crate) fn parking(clerk: &mut Clerk<'_>, epoch: Epoch, told: &Parking) {
    let table = clerk.record().table(told.table);
    let Some(table) = table.filter(|table| table.generation == told.generation) else { return };
    let name = table.surveyed.name.to_string();
    let known = table.parked.clone();
    let knew = |parked: &Parked| parked.resumes_after.is_none_or(|asked| asked < epoch);
    if !known.as_deref().is_none_or(knew) {
        // Said by a lease that was revoked so that the next one tries it.
        return;
    }
    match &told.cause {
        Some(cause) => {
            let tried = known.as_ref().is_some_and(|known| known.resumes_after.is_some());
            if !tried && known.is_some_and(|known| known.cause == *cause) {
                return;
            }
            let again = if tried { "again" } else { "from now on" };
            let message = format!("the changes of {name} are kept {again}: {cause}");
            let failure = Some(cause.failure.clone());
            clerk.tell_of(EventKind::TableParked, message, None, None, failure);
            let parked = Parked { cause: cause.clone(), resumes_after: None };
            clerk.edit_table(told.table, |table| table.parked = Some(Arc::new(parked)));
        }
        None if known.is_some() => {
            let message = format!("what was kept of {name} is applied, and it is followed again");
            clerk.tell(EventKind::TableGoesOn, message);
            clerk.edit_table(told.table, |table| table.parked = None);
        }
        None => {}
    }
}

/// A parked table shall go on. False = it is not parked, or that was said already.
pub(crate) fn resume_table(clerk: &mut Clerk<'_>, no: TableNo) -> bool {
    let record = clerk.record();
    let stream = record.following.unit;
    let epoch = stream.and_then(|unit| record.unit(unit)).map(|unit| unit.epoch);
    let Some(table) = record.table(no) else { return false };
    let Some(parked) = table.parked.as_deref().filter(|parked| parked.resumes_after.is_none())
    else {
        return false;
    };
    let message = format!("what was kept of {} shall be applied", table.surveyed.name);
    let parked = Parked { resumes_after: epoch, ..parked.clone() };
    clerk.edit_table(no, |table| table.parked = Some(Arc::new(parked)));
    clerk.tell(EventKind::TableResumed, message);
    if let Some(unit) = stream {
        lease_end::revoke(clerk, unit, Afterwards::Ready);
    }
    true
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::epoch::Generation;
    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::lsn::Lsn;
    use pgconvoy_shared::parking::Cause;
    use pgconvoy_shared::unit::{UnitKind, Work};

    use super::*;
    use crate::apply::story::{Held, Story};
    use crate::command::{Command, ReportBody};
    use crate::outcome::{Outcome, Reception};
    use crate::rejected::Rejected;
    use crate::view::TableStatus;

    const TABLE: TableNo = TableNo(1);

    fn cause(ordinal: u64) -> Cause {
        Cause {
            failure: Failure::definite("row_missing", "one row, none there"),
            operation: "update".into(),
            key: "(5)".into(),
            commit_lsn: Lsn(500),
            xid: 7,
            ordinal,
            statement: "update …".into(),
        }
    }

    fn tell(story: &mut Story, held: &Held, cause: Option<Cause>) -> Reception {
        let parking = Parking { table: TABLE, generation: Generation(1), cause };
        story.report(held, ReportBody::Parking(Box::new(parking)))
    }

    fn resume(story: &mut Story, table: &str) -> Result<bool, Rejected> {
        let command = Command::ResumeTable { task: story.task.clone(), table: table.into() };
        story.apply(command).outcome.map(|outcome| match outcome {
            Outcome::Task { changed, .. } => changed,
            other => panic!("{other:?}"),
        })
    }

    fn to_resume(story: &Story, held: &Held) -> Vec<TableNo> {
        match story.work(held) {
            Work::Stream(order) => order.resume,
            other => panic!("{other:?}"),
        }
    }

    fn streaming() -> Story {
        Story::streaming(&[("public.orders", 1), ("public.items", 1)]).with_agents(&["b"])
    }

    #[test]
    fn a_parked_table_shows_its_cause_and_is_told_of_once() {
        let mut story = streaming();
        let held = story.lease("a", UnitKind::Stream);
        tell(&mut story, &held, Some(cause(0)));
        let view = story.view();
        assert_eq!(view.tables[0].status, TableStatus::Parked, "before larger ones");
        assert_eq!(view.tables[0].name, "public.items");
        assert!(view.tables[0].cause.contains("update of (5)"), "{}", view.tables[0].cause);
        let told = story.event(EventKind::TableParked);
        assert!(told.contains("public.items") && told.contains("row_missing"), "{told}");
        // Whoever takes over tells it again.
        story.lose("a");
        let held = story.lease("b", UnitKind::Stream);
        let before = story.view().tables;
        tell(&mut story, &held, Some(cause(0)));
        assert_eq!(story.view().tables, before);
        let told = story.state.events(&story.task, 0);
        assert_eq!(told.filter(|event| event.kind == EventKind::TableParked).count(), 1);
    }

    #[test]
    fn a_mended_table_goes_on_with_the_next_lease_which_alone_can_say_so() {
        let mut story = streaming();
        let held = story.lease("a", UnitKind::Stream);
        assert!(matches!(resume(&mut story, "public.t"), Err(Rejected::UnknownTable { .. })));
        assert_eq!(resume(&mut story, "public.items"), Ok(false), "it is not parked");
        tell(&mut story, &held, Some(cause(0)));
        assert_eq!(resume(&mut story, "public.items"), Ok(true));
        assert_eq!(resume(&mut story, "public.items"), Ok(false), "it was said");
        // What the old lease says of it is of before.
        tell(&mut story, &held, Some(cause(0)));
        tell(&mut story, &held, None);
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(to_resume(&story, &held), [TABLE]);
        // It dies in between; the next one tries again.
        story.lose("a");
        let held = story.lease("b", UnitKind::Stream);
        assert_eq!(to_resume(&story, &held), [TABLE]);
        tell(&mut story, &held, Some(cause(3)));
        assert_eq!(story.view().tables[0].status, TableStatus::Parked);
        assert!(story.event(EventKind::TableParked).contains("kept again"));
        assert!(to_resume(&story, &held).is_empty(), "it was tried");

        assert_eq!(resume(&mut story, "public.items"), Ok(true));
        story.release(&held);
        let held = story.lease("b", UnitKind::Stream);
        tell(&mut story, &held, None);
        let of_table = story.view().tables.into_iter().find(|table| table.name == "public.items");
        assert_eq!(of_table.map(|table| table.status), Some(TableStatus::CatchingUp));
        assert!(story.event(EventKind::TableGoesOn).contains("public.items"));
    }

    #[test]
    fn what_is_said_of_an_older_plan_is_not_heard() {
        let mut story = streaming();
        let held = story.lease("a", UnitKind::Stream);
        let parking = Parking { table: TABLE, generation: Generation(9), cause: Some(cause(0)) };
        assert_eq!(story.report(&held, ReportBody::Parking(Box::new(parking))), Reception::Taken);
        assert!(story.view().tables.iter().all(|table| table.parked.is_none()));
    }
}
