//! Tables that go their own way while the others are followed: parked ones, and those that are copied anew.
//!
//! What is parked is decided at the destination, with the changes that are kept there; here is what was told of it, which
//! whoever takes a stream over tells again. A user's word that the cause is mended goes with the stream's next lease, so the
//! one that runs is begun again: what was kept is applied before anything else. The word counts until a lease that knew it
//! has told what came of it.
//!
//! ```text
//! copied anew:  asked ─▶ the stream keeps its changes (and tells the barrier) ─▶ planned, copied ─▶ the stream applies them
//! ```
//!
//! One that cannot be planned or copied is parked where it is: it has no plan, and its changes stay kept until it is asked for
//! once more.

use std::sync::Arc;

use pgconvoy_shared::epoch::Epoch;
use pgconvoy_shared::failure::{Failure, FailureClass};
use pgconvoy_shared::ids::{TableNo, UnitNo};
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::parking::{Cause, Changes, Parking};

use super::{lease_end, plan, stages};
use crate::state::clerk::Clerk;
use crate::state::unit::Subject;
use crate::state::{Afterwards, Anew, EventKind, Parked, Stage, Table, UnitState};

/// What its agent tells to do about this one is more than we know.
const NOT_PUBLISHED: &str = "table_not_published";

/// A stream says how it has a table from now on.
pub(crate) fn parking(clerk: &mut Clerk<'_>, epoch: Epoch, told: &Parking) {
    let table = clerk.record().table(told.table);
    // One without a plan is known by an older one: a plan that failed need not have got to the destination.
    let of_its_plan = |table: &Table| match table.plan {
        Some(_) => told.generation == table.generation,
        None => told.generation <= table.generation,
    };
    let is_meant = |table: &&Table| of_its_plan(table) && !table.gone;
    let Some(table) = table.filter(is_meant) else { return };
    match (&told.changes, table.anew) {
        (Changes::Held(barrier), Some(Anew::Asked(asked))) if asked < epoch => {
            copy_anew(clerk, told.table, *barrier);
        }
        (Changes::Applied, Some(Anew::Asked(asked))) if asked < epoch => {
            let name = &table.surveyed.name;
            let message = format!("{name} cannot be copied anew: its changes are not followed");
            clerk.tell(EventKind::TableResync, message);
            clerk.edit_table(told.table, |table| table.anew = None);
        }
        (Changes::Held(_), _) | (_, Some(Anew::Asked(_) | Anew::Copying { .. })) => {}
        // Said by a lease that was revoked so that the next one applies what was kept.
        (_, Some(Anew::Copied(copied))) if copied >= epoch => {}
        (Changes::Applied, _) => goes_on(clerk, epoch, told.table),
        (Changes::Parked(cause), _) => parked(clerk, epoch, told.table, cause),
    }
}

fn parked(clerk: &mut Clerk<'_>, epoch: Epoch, no: TableNo, cause: &Cause) {
    let Some((name, known)) = known(clerk, epoch, no) else { return };
    let tried = known.as_ref().is_some_and(|known| known.resumes_after.is_some());
    if !tried && known.is_some_and(|known| known.cause == *cause) {
        return;
    }
    let again = if tried { "again" } else { "from now on" };
    let message = format!("the changes of {name} are kept {again}: {cause}");
    clerk.tell_of(EventKind::TableParked, message, None, None, Some(cause.failure.clone()));
    let parked = Parked { cause: cause.clone(), resumes_after: None };
    clerk.edit_table(no, |table| {
        table.parked = Some(Arc::new(parked));
        table.anew = None;
    });
}

fn goes_on(clerk: &mut Clerk<'_>, epoch: Epoch, no: TableNo) {
    let Some((name, known)) = known(clerk, epoch, no) else { return };
    let is_anew = clerk.record().table(no).is_some_and(|table| table.anew.is_some());
    if known.is_none() && !is_anew {
        return;
    }
    let message = format!("what was kept of {name} is applied, and it is followed again");
    clerk.tell(EventKind::TableGoesOn, message);
    clerk.edit_table(no, |table| {
        table.parked = None;
        table.anew = None;
    });
}

/// A table's name, and what is known of it; none where it was said by a lease that was revoked so that the next one tries it.
fn known(
    clerk: &mut Clerk<'_>,
    epoch: Epoch,
    no: TableNo,
) -> Option<(String, Option<Arc<Parked>>)> {
    let table = clerk.record().table(no)?;
    let known = table.parked.clone();
    let asked = known.as_ref().and_then(|known| known.resumes_after);
    asked.is_none_or(|asked| asked < epoch).then(|| (table.surveyed.name.to_string(), known))
}

/// Its changes are kept by now: from here on it can be planned and copied.
fn copy_anew(clerk: &mut Clerk<'_>, no: TableNo, barrier: u64) {
    let Some(table) = clerk.record().table(no) else { return };
    let message = format!("{} is copied anew; its changes are kept meanwhile", table.surveyed.name);
    clerk.tell(EventKind::TableResync, message);
    clerk.edit_table(no, |table| table.anew = Some(Anew::Copying { barrier }));
    plan::again(clerk, no);
}

/// A unit that plans or copies tables anew failed in a way that does not pass: they alone are parked. False = it is another
/// unit, or another failure.
pub(super) fn is_refused(clerk: &mut Clerk<'_>, no: UnitNo, failure: &Failure) -> bool {
    let record = clerk.record();
    let tables = match record.unit(no).map(|unit| &unit.subject) {
        Some(subject @ (Subject::Plan(_) | Subject::Copy { .. })) => stages::tables_of(subject),
        _ => return false,
    };
    let is_anew = |no: &TableNo| record.table(*no).is_some_and(Table::is_copied_anew);
    if failure.class != FailureClass::Definite || !tables.iter().all(is_anew) {
        return false;
    }
    // The lease ends here, so that the unit is dropped at once, like its table's others.
    clerk.set(no, UnitState::Ready);
    for table in tables {
        refused(clerk, table, failure.clone());
    }
    true
}

fn refused(clerk: &mut Clerk<'_>, no: TableNo, mut failure: Failure) {
    plan::discard(clerk, no);
    let record = clerk.record();
    let Some(table) = record.table(no) else { return };
    let name = table.surveyed.name.to_string();
    if failure.code != NOT_PUBLISHED {
        let again = format!("`pgconvoy task resync {} {name}` copies it again", record.id);
        failure = failure.remedy(format!("mend the cause; then {again}"));
    }
    let message = format!("{name} is not copied anew, and its changes stay kept: {failure}");
    clerk.tell_of(EventKind::TableParked, message, None, None, Some(failure.clone()));
    let cause = Cause {
        failure: failure.about(&name),
        operation: String::new(),
        key: String::new(),
        commit_lsn: Lsn(0),
        xid: 0,
        ordinal: 0,
        statement: String::new(),
    };
    clerk.edit_table(no, |table| {
        table.unplan();
        table.parked = Some(Arc::new(Parked { cause, resumes_after: None }));
    });
}

/// A table that is copied anew has all its rows: what was kept is to be applied.
pub(super) fn copied(clerk: &mut Clerk<'_>, no: TableNo) {
    let Some((unit, epoch)) = stream(clerk) else { return };
    let is_anew = |table: &Table| table.is_copied() && table.barrier().is_some();
    if clerk.record().table(no).is_some_and(is_anew) {
        clerk.edit_table(no, |table| table.anew = Some(Anew::Copied(epoch)));
        lease_end::revoke(clerk, unit, Afterwards::Ready);
    }
}

/// Whoever follows the source begins again, with what it is to know now.
pub(super) fn stream_anew(clerk: &mut Clerk<'_>) {
    if let Some((unit, _)) = stream(clerk) {
        lease_end::revoke(clerk, unit, Afterwards::Ready);
    }
}

/// The unit that follows the source, and its latest epoch.
fn stream(clerk: &mut Clerk<'_>) -> Option<(UnitNo, Epoch)> {
    let record = clerk.record();
    let no = record.following.unit?;
    Some((no, record.unit(no)?.epoch))
}

/// A table shall be copied anew. False = it is already; an error says why it cannot be.
pub(crate) fn resync_table(clerk: &mut Clerk<'_>, no: TableNo) -> Result<bool, &'static str> {
    let Some((unit, epoch)) = stream(clerk) else { return Err("its changes are not followed yet") };
    let record = clerk.record();
    match record.stage {
        Stage::Stream => {}
        Stage::Cutover => return Err("the destination is about to take over"),
        _ => return Err("not before all tables show one moment and all constraints are there"),
    }
    let Some(table) = record.table(no) else { return Ok(false) };
    if table.plan.as_ref().is_some_and(|plan| plan.write_to != plan.name) {
        return Err("its rows stand among those of other partitions at the destination");
    }
    if table.is_copied_anew() {
        return Ok(false);
    }
    let message = format!("{} shall be copied anew", table.surveyed.name);
    clerk.edit_table(no, |table| table.anew = Some(Anew::Asked(epoch)));
    clerk.tell(EventKind::TableResync, message);
    lease_end::revoke(clerk, unit, Afterwards::Ready);
    Ok(true)
}

/// A parked table shall go on. False = it is not parked, or that was said already.
///
/// One that was not copied anew has not its rows: it goes on by being copied.
pub(crate) fn resume_table(clerk: &mut Clerk<'_>, no: TableNo) -> bool {
    let Some((unit, epoch)) = stream(clerk) else { return false };
    if clerk.record().table(no).is_some_and(Table::is_not_copied_anew) {
        return resync_table(clerk, no) == Ok(true);
    }
    let Some(table) = clerk.record().table(no).filter(|table| table.anew.is_none()) else {
        return false;
    };
    let Some(parked) = table.parked.as_deref().filter(|parked| parked.resumes_after.is_none())
    else {
        return false;
    };
    let message = format!("what was kept of {} shall be applied", table.surveyed.name);
    let parked = Parked { resumes_after: Some(epoch), ..parked.clone() };
    clerk.edit_table(no, |table| table.parked = Some(Arc::new(parked)));
    clerk.tell(EventKind::TableResumed, message);
    lease_end::revoke(clerk, unit, Afterwards::Ready);
    true
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::epoch::Generation;
    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::lsn::Lsn;
    use pgconvoy_shared::stream::StreamProgress;
    use pgconvoy_shared::unit::{Checkpoint, Ended, Progress, StreamOrder, UnitKind, Work};

    use super::*;
    use crate::apply::story::{Held, Story};
    use crate::command::{Command, ReportBody};
    use crate::outcome::{Outcome, Reception};
    use crate::rejected::Rejected;
    use crate::state::TaskStatus;
    use crate::view::TableStatus;
    use crate::{view, work};

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

    fn say(story: &mut Story, held: &Held, generation: u32, changes: Changes) -> Reception {
        let parking = Parking { table: TABLE, generation: Generation(generation), changes };
        story.report(held, ReportBody::Parking(Box::new(parking)))
    }

    fn tell(story: &mut Story, held: &Held, cause: Option<Cause>) -> Reception {
        say(
            story,
            held,
            1,
            cause.map_or(Changes::Applied, |cause| Changes::Parked(Box::new(cause))),
        )
    }

    fn resync(story: &mut Story) -> Result<bool, Rejected> {
        let command =
            Command::ResyncTable { task: story.task.clone(), table: "public.items".into() };
        story.apply(command).outcome.map(|outcome| match outcome {
            Outcome::Task { changed, .. } => changed,
            other => panic!("{other:?}"),
        })
    }

    /// Nothing is left but to follow.
    fn settle(story: &mut Story, held: &Held) {
        story.checkpoint(held, Checkpoint { applied: Lsn(3_000), consistent: true });
        for kind in [UnitKind::Index, UnitKind::SchemaPost, UnitKind::Sequences, UnitKind::Analyze]
        {
            story.finish_all("a", kind);
        }
    }

    /// A table's changes are kept, and it is planned anew.
    fn planned_anew() -> (Story, Held, Held) {
        let mut story = streaming();
        let held = story.lease("a", UnitKind::Stream);
        settle(&mut story, &held);
        resync(&mut story).expect("it may");
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        say(&mut story, &held, 1, Changes::Held(900));
        let plan = story.lease("b", UnitKind::Plan);
        (story, held, plan)
    }

    fn order(story: &Story, held: &Held) -> StreamOrder {
        match story.work(held) {
            Work::Stream(order) => order,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_table_is_copied_anew_when_its_changes_are_kept_and_goes_on_when_they_are_applied() {
        let mut story = streaming();
        let held = story.lease("a", UnitKind::Stream);
        tell(&mut story, &held, Some(cause(0)));
        assert!(matches!(resync(&mut story), Err(Rejected::CannotCopyAnew { .. })), "too early");
        settle(&mut story, &held);
        assert_eq!(resync(&mut story), Ok(true));
        assert_eq!(resync(&mut story), Ok(false), "it was asked");
        assert_eq!(resume(&mut story, "public.items"), Ok(false), "it gets what it needs");
        story.release(&held);

        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(order(&story, &held).hold, [TABLE]);
        assert_eq!(story.counts(UnitKind::Plan).ready, 0, "nothing before its changes are kept");
        say(&mut story, &held, 1, Changes::Held(900));
        say(&mut story, &held, 1, Changes::Held(950));
        let plan = story.lease("b", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        assert_eq!((tables[0].no, tables[0].generation.0, tables[0].anew), (TABLE, 2, true));
        story.plan_into(&plan, &[("public.items", 1)]);
        let copy = story.lease("b", UnitKind::Copy);
        let Work::Copy(shard) = story.work(&copy) else { panic!("a shard") };
        assert_eq!(shard.barrier, Some(900));
        // Whatever the stream says of the older plan meanwhile.
        tell(&mut story, &held, None);
        assert!(order(&story, &held).resume.is_empty());
        story.copied(&copy, 5);
        story.release(&held);

        let held = story.lease("a", UnitKind::Stream);
        let StreamOrder { resume, hold, .. } = order(&story, &held);
        assert_eq!((&*resume, &*hold), (&[TABLE][..], &[][..]));
        say(&mut story, &held, 2, Changes::Applied);
        assert!(story.event(EventKind::TableGoesOn).contains("public.items"));
        assert!(order(&story, &held).resume.is_empty());
        assert_eq!(resync(&mut story), Ok(true), "and it may be again");
    }

    #[test]
    fn a_table_that_is_gone_when_it_is_to_be_copied_anew_takes_no_part_any_more() {
        let (mut story, held, plan) = planned_anew();
        story.end(&plan, Ended::TableGone { table: TABLE, system_identifier: 42 });
        assert!(story.event(EventKind::TablesGone).contains("public.items"));
        let view = story.view();
        assert!(view.tables.iter().all(|table| table.name != "public.items"), "{:?}", view.tables);
        assert!(view.stream.expect("it follows").copied_anew.is_empty());
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        let StreamOrder { hold, gone, .. } = order(&story, &held);
        assert_eq!((&*hold, &*gone), (&[][..], &[TABLE][..]), "nothing of it is kept any more");
        assert!(matches!(resync(&mut story), Err(Rejected::UnknownTable { .. })));
    }

    /// Parked with the way to have it copied again, and nobody tries meanwhile; the others go on.
    fn is_parked_alone(story: &mut Story, held: &Held, code: &str, remedy: &str) {
        // A resume of the task is none of the table.
        story.pause();
        story.release(held);
        story.resume();
        let view = story.view();
        assert_eq!(view.status, TaskStatus::Running);
        let (table, stream) = (&view.tables[0], view.stream.expect("it follows"));
        assert_eq!((&*table.name, table.status), ("public.items", TableStatus::Parked));
        let failure = &table.parked.as_ref().expect("it is parked").cause.failure;
        assert_eq!((&*failure.code, &*failure.subject), (code, "public.items"));
        assert!(failure.remedy.contains(remedy), "{}", failure.remedy);
        assert!(story.event(EventKind::TableParked).contains(code));
        assert!(stream.copied_anew.is_empty(), "nobody need wait for it");
        let at_work = [UnitKind::Plan, UnitKind::Copy].map(|kind| story.counts(kind));
        assert!(at_work.iter().all(|counts| counts.ready + counts.running == 0), "{at_work:?}");
    }

    #[test]
    fn a_table_that_cannot_be_copied_anew_is_parked_alone_until_it_is_asked_for_again() {
        let (mut story, held, plan) = planned_anew();
        let failure = Failure::definite("table_not_published", "made again").remedy("publish it");
        story.end(&plan, Ended::TableChanged { table: TABLE, failure });
        is_parked_alone(&mut story, &held, "table_not_published", "publish it");
        let held = story.lease("a", UnitKind::Stream);
        let StreamOrder { resume: to_resume, hold, .. } = order(&story, &held);
        assert_eq!((&*to_resume, &*hold), (&[][..], &[][..]), "its changes stay kept");
        let stream = Some(StreamProgress::default());
        let telling = |_: &_, _| Some(Progress { stream: stream.clone(), ..Progress::default() });
        let view = view::task(&story.state, &story.task, 100, &telling).expect("the task");
        let told = view.stream.and_then(|stream| stream.progress).expect("it follows");
        assert_eq!(told.parked, 1, "though whoever follows knows of none");

        // It has not its rows: it goes on by being copied. The destination never heard of the plan that failed.
        assert_eq!(resume(&mut story, "public.items"), Ok(true));
        assert_eq!(resync(&mut story), Ok(false), "it was asked");
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(order(&story, &held).hold, [TABLE]);
        say(&mut story, &held, 1, Changes::Held(950));
        let plan = story.lease("b", UnitKind::Plan);
        let Work::Plan(tables) = story.work(&plan) else { panic!("a plan") };
        assert_eq!((tables[0].generation.0, tables[0].anew), (3, true));
        story.plan_into(&plan, &[("public.items", 2)]);
        let (first, copy) = (story.lease("b", UnitKind::Copy), story.lease("b", UnitKind::Copy));
        let Work::Copy(shard) = story.work(&copy) else { panic!("a shard") };
        assert_eq!(shard.barrier, Some(950));
        story.fail(&copy, Failure::definite("constraint_violation", "v < 0"));
        assert!(work::order(&story.state, &first.unit).is_none(), "it is revoked");
        story.copied(&first, 5);
        let again = format!("`pgconvoy task resync {} public.items`", story.task);
        is_parked_alone(&mut story, &held, "constraint_violation", &again);

        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(resync(&mut story), Ok(true));
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        say(&mut story, &held, 3, Changes::Held(970));
        let plan = story.lease("b", UnitKind::Plan);
        story.plan_into(&plan, &[("public.items", 1)]);
        let copy = story.lease("b", UnitKind::Copy);
        story.copied(&copy, 5);
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        assert_eq!(order(&story, &held).resume, [TABLE]);
        say(&mut story, &held, 4, Changes::Applied);
        assert!(story.event(EventKind::TableGoesOn).contains("public.items"));
        assert!(story.view().tables.iter().all(|table| table.parked.is_none()));
    }

    /// It was made again since, so its changes are not kept any more.
    #[test]
    fn a_table_that_has_no_plan_may_be_found_not_published_when_it_is_asked_for_again() {
        let (mut story, held, plan) = planned_anew();
        story.fail(&plan, Failure::definite("undefined_table", "there is no such table"));
        resync(&mut story).expect("it may");
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        say(&mut story, &held, 1, Changes::Applied);
        let mut not_published = cause(0);
        not_published.failure.code = "table_not_published".into();
        say(&mut story, &held, 1, Changes::Parked(Box::new(not_published)));
        let view = story.view();
        assert_eq!(view.tables[0].status, TableStatus::Parked);
        assert!(view.tables[0].cause.contains("table_not_published"), "{}", view.tables[0].cause);
        assert_eq!(resync(&mut story), Ok(true));
        story.release(&held);
        let held = story.lease("a", UnitKind::Stream);
        say(&mut story, &held, 1, Changes::Held(950));
        assert_eq!(story.counts(UnitKind::Plan).ready, 1);
    }

    fn resume(story: &mut Story, table: &str) -> Result<bool, Rejected> {
        let command = Command::ResumeTable { task: story.task.clone(), table: table.into() };
        story.apply(command).outcome.map(|outcome| match outcome {
            Outcome::Task { changed, .. } => changed,
            other => panic!("{other:?}"),
        })
    }

    fn to_resume(story: &Story, held: &Held) -> Vec<TableNo> {
        order(story, held).resume
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
        let heard = say(&mut story, &held, 9, Changes::Parked(Box::new(cause(0))));
        assert_eq!(heard, Reception::Taken);
        assert!(story.view().tables.iter().all(|table| table.parked.is_none()));
    }
}
