use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, CutoverSettings, CutoverStep, Writers};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::{Checkpoint, UnitKind, Work, WorkResult};
use pgconvoy_shared::verify::{ObjectsCompared, RowsCompared, VerifySettings};

use crate::apply::story::{Held, Story};
use crate::command::Command;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::{CutoverOutcome, Phase, TaskStatus};

/// A task that has nothing left to do but to follow, its stream, and an agent for the cutover.
fn in_sync() -> (Story, Held) {
    let mut story = Story::streaming(&[("public.orders", 1)]).with_agents(&["b"]);
    let stream = story.lease("a", UnitKind::Stream);
    story.checkpoint(&stream, Checkpoint { applied: Lsn(3_000), consistent: true });
    for kind in [UnitKind::Index, UnitKind::SchemaPost, UnitKind::Sequences, UnitKind::Analyze] {
        story.finish_all("a", kind);
    }
    assert_eq!(story.view().phase, Phase::Stream);
    (story, stream)
}

fn cut_over(story: &mut Story, dry_run: bool) -> Result<Outcome, Rejected> {
    cut_over_with(story, CutoverSettings { dry_run, ..settings() })
}

fn cut_over_with(story: &mut Story, settings: CutoverSettings) -> Result<Outcome, Rejected> {
    let task = story.task.clone();
    story.apply(Command::CutoverTask { task, settings }).outcome
}

fn settings() -> CutoverSettings {
    CutoverSettings {
        writers: Writers::Fenced,
        dry_run: false,
        timeout_ms: 30_000,
        sequence_margin: 0,
        ignore: Default::default(),
        compare: None,
        check_budget_ms: 1_000,
        copy_again: false,
        leave_sessions_of: Default::default(),
        by: "ann".into(),
    }
}

fn order(story: &Story, held: &Held) -> CutoverOrder {
    let Work::Cutover(order) = story.work(held) else { panic!("a step") };
    *order
}

/// Leases the step, which must be this one, and answers it.
fn step(story: &mut Story, expected: CutoverStep, done: CutoverDone) -> CutoverOrder {
    let held = story.lease("b", UnitKind::Cutover);
    let order = order(story, &held);
    assert_eq!(order.step, expected);
    story.done(&held, WorkResult::Cutover(done));
    order
}

fn checked() -> CutoverDone {
    CutoverDone::Checked { setting_before: Some("off".into()), lag_bytes: 7 }
}

/// Up to the fence, with nothing compared.
fn up_to_the_fence(story: &mut Story) {
    cut_over(story, false).expect("it begins");
    step(story, CutoverStep::Check, checked());
    step(story, CutoverStep::Ready, CutoverDone::Ready { lag_bytes: 3, again: None });
}

fn outcome(story: &Story) -> Option<CutoverOutcome> {
    let cutover = story.view().cutover.expect("there was one");
    cutover.ended.map(|(outcome, _)| outcome)
}

#[test]
fn a_cutover_goes_step_by_step_and_ends_the_task() {
    let (mut story, stream) = in_sync();
    assert!(matches!(cut_over(&mut story, false), Ok(Outcome::Task { changed: true, .. })));
    assert!(matches!(cut_over(&mut story, false), Ok(Outcome::Task { changed: false, .. })));
    assert_eq!(story.view().phase, Phase::Cutover);
    step(&mut story, CutoverStep::Check, checked());
    step(&mut story, CutoverStep::Ready, CutoverDone::Ready { lag_bytes: 3, again: None });
    story.now = story.now.plus_ms(1_000);
    let order = step(
        &mut story,
        CutoverStep::Fence,
        CutoverDone::Fenced { at: Lsn(3_500), ended: 4, left: vec![] },
    );
    assert_eq!(order.setting_before.as_deref(), Some("off"));
    assert!((28_000..29_000).contains(&order.left_ms), "{}", order.left_ms);
    step(
        &mut story,
        CutoverStep::Prove,
        CutoverDone::Proved { marker: Lsn(3_600), sequences: 2, again: None, copied: None },
    );
    let order = step(&mut story, CutoverStep::Switch, CutoverDone::Switched);
    assert_eq!((order.fence, order.marker), (Lsn(3_500), Lsn(3_600)));
    assert_eq!(outcome(&story), Some(CutoverOutcome::Done));

    // What still follows is told to stop, and what is left of the task goes.
    story.release(&stream);
    assert_eq!(story.finish_all("a", UnitKind::Finish), 1);
    let view = story.view();
    assert_eq!((view.status, view.phase), (TaskStatus::Done, Phase::Done));
    let cutover = view.cutover.expect("it stays on record");
    assert_eq!(cutover.sequences, 2);
    assert!((1_000..1_100).contains(&cutover.stopped_ms()), "{}", cutover.stopped_ms());
    assert!(matches!(cut_over(&mut story, false), Ok(Outcome::Task { changed: false, .. })));
}

#[test]
fn whatever_fails_before_the_switch_is_taken_back() {
    let failure = || Failure::transient("connection_lost", "connection reset");
    for fails_at in [CutoverStep::Fence, CutoverStep::Prove] {
        let (mut story, _stream) = in_sync();
        // Steps wait for no slot: writers may be stopped meanwhile.
        story.slots("b", 0);
        up_to_the_fence(&mut story);
        if fails_at == CutoverStep::Prove {
            let fenced = CutoverDone::Fenced { at: Lsn(3_500), ended: 0, left: vec![] };
            step(&mut story, CutoverStep::Fence, fenced);
        }
        let held = story.lease("b", UnitKind::Cutover);
        story.fail(&held, failure());
        assert_eq!(outcome(&story), None, "the fence is there");
        let order = step(&mut story, CutoverStep::Lift, CutoverDone::Lifted);
        assert_eq!(order.setting_before.as_deref(), Some("off"));
        assert_eq!(outcome(&story), Some(CutoverOutcome::Undone(failure().about("cutover"))));
        let view = story.view();
        assert_eq!((view.status, view.phase), (TaskStatus::Running, Phase::Stream));
        // And it can be tried again.
        cut_over(&mut story, true).expect("it begins");
        let order = step(&mut story, CutoverStep::Check, checked());
        assert_eq!(order.attempt, 2);
        assert_eq!(outcome(&story), None, "what is made of rows is still to be made");
        let ready = CutoverDone::Ready { lag_bytes: 3, again: None };
        step(&mut story, CutoverStep::Ready, ready);
        assert_eq!(outcome(&story), Some(CutoverOutcome::Rehearsed));
        assert_eq!(story.view().phase, Phase::Stream);
    }
}

#[test]
fn from_the_switch_on_the_destination_decides() {
    let (mut story, _stream) = in_sync();
    up_to_the_fence(&mut story);
    step(
        &mut story,
        CutoverStep::Fence,
        CutoverDone::Fenced { at: Lsn(3_500), ended: 0, left: vec![] },
    );
    let proved =
        CutoverDone::Proved { marker: Lsn(3_600), sequences: 0, again: None, copied: None };
    step(&mut story, CutoverStep::Prove, proved);
    let held = story.lease("b", UnitKind::Cutover);
    story.fail(&held, Failure::transient("connection_lost", "connection reset"));
    story.now = story.now.plus_ms(600_000);
    let refused = Failure::definite("cutover_timed_out", "too late");
    let epoch = story.grant("b", &held.unit).expect("due");
    let held = story.held("b", &held.unit, epoch);
    let order = order(&story, &held);
    assert_eq!((order.step, order.left_ms), (CutoverStep::Switch, 0), "it is told to be late");
    story.done(&held, WorkResult::Cutover(CutoverDone::Refused(refused.clone())));
    step(&mut story, CutoverStep::Lift, CutoverDone::Lifted);
    assert_eq!(outcome(&story), Some(CutoverOutcome::Undone(refused)));
}

#[test]
fn a_fenced_source_is_let_go_whatever_the_task_fails_of() {
    let (mut story, stream) = in_sync();
    up_to_the_fence(&mut story);
    let under_way = Err(Rejected::CutoverUnderWay { task: story.task.clone() });
    let task = story.task.clone();
    assert_eq!(story.apply(Command::CancelTask { task: task.clone() }).outcome, under_way);
    assert_eq!(story.apply(Command::PauseTask { task }).outcome, under_way);
    story.fail(&stream, Failure::definite("slot_lost", "the slot is gone"));
    assert_eq!(story.status(), TaskStatus::Failed);
    step(&mut story, CutoverStep::Lift, CutoverDone::Lifted);
    assert!(
        matches!(outcome(&story), Some(CutoverOutcome::Undone(why)) if why.code == "slot_lost")
    );
    assert_eq!(story.status(), TaskStatus::Failed);
}

/// A source that is gone for good would hold its task for ever.
#[test]
fn a_fence_that_cannot_be_lifted_is_left_only_if_its_user_says_so() {
    let (mut story, _stream) = in_sync();
    let task = story.task.clone();
    let leave =
        |story: &mut Story| story.apply(Command::LeaveFence { task: story.task.clone() }).outcome;
    assert!(matches!(leave(&mut story), Ok(Outcome::Task { changed: false, .. })));
    up_to_the_fence(&mut story);
    let under_way = Err(Rejected::CutoverUnderWay { task: task.clone() });
    assert_eq!(leave(&mut story), under_way, "it may be done");
    let held = story.lease("b", UnitKind::Cutover);
    let gone = Failure::transient("connection_lost", "connection reset");
    story.fail(&held, gone.clone());
    let lift = story.lease("b", UnitKind::Cutover);
    story.fail(&lift, Failure::transient("connection_refused", "nobody there"));
    let pause = Command::PauseTask { task };
    assert_eq!(story.apply(pause.clone()).outcome, under_way);
    assert!(matches!(leave(&mut story), Ok(Outcome::Task { changed: true, .. })));
    assert_eq!(outcome(&story), Some(CutoverOutcome::Undone(gone.about("cutover"))));
    assert!(story.view().cutover.is_some_and(|cutover| cutover.fence_left));
    assert_eq!(story.counts(UnitKind::Cutover).ready, 0, "nobody lifts it any more");
    assert!(matches!(leave(&mut story), Ok(Outcome::Task { changed: false, .. })));
    assert!(matches!(story.apply(pause).outcome, Ok(Outcome::Task { changed: true, .. })));

    // What lifts it is told until a later one has found no fence.
    story.resume();
    let left = |story: &Story| {
        story.view().cutover.map(|cutover| (cutover.fence_left, cutover.setting_before))
    };
    for (again, expected) in [
        (CutoverDone::Refused(Failure::definite("cutover_source_fenced", "it stands")), true),
        (checked(), false),
    ] {
        cut_over(&mut story, false).expect("it begins");
        assert_eq!(left(&story), Some((true, Some("off".into()))));
        step(&mut story, CutoverStep::Check, again);
        assert_eq!(left(&story), Some((expected, Some("off".into()))));
    }
}

#[test]
fn a_fence_that_was_not_set_stopped_nobody() {
    for (code, stopped) in [("cutover_source_fenced", false), ("cutover_writers", true)] {
        let (mut story, _stream) = in_sync();
        up_to_the_fence(&mut story);
        let refused = Failure::definite(code, "no");
        step(&mut story, CutoverStep::Fence, CutoverDone::Refused(refused));
        step(&mut story, CutoverStep::Lift, CutoverDone::Lifted);
        let cutover = story.view().cutover.expect("there was one");
        assert_eq!(cutover.stopped_ms() > 0, stopped, "{code}");
    }
}

/// Comparing both ends, in a task that was asked for no comparison.
fn comparing(ignore: &[&str]) -> (Story, Held) {
    let (mut story, stream) = in_sync();
    let ignore = ignore.iter().map(|code| (*code).to_owned()).collect();
    let compare = Some(VerifySettings::default());
    cut_over_with(&mut story, CutoverSettings { ignore, compare, ..settings() }).expect("due");
    step(&mut story, CutoverStep::Check, checked());
    let plan = story.lease("a", UnitKind::VerifyPlan);
    story.plan_into(&plan, &[("public.orders", 1)]);
    (story, stream)
}

/// Whoever follows the source keeps in mind what is changed, until it begins anew and is told that nobody wants to know.
#[test]
fn an_undone_cutover_lets_the_stream_begin_anew() {
    let over = |story: &Story, held: &Held| match story.work(held) {
        Work::Stream(order) => order.cutovers_over,
        other => panic!("{other:?}"),
    };
    let (mut story, stream) = comparing(&[]);
    assert_eq!(over(&story, &stream), 0);
    let held = story.lease("a", UnitKind::VerifyRows);
    story.fail(&held, Failure::definite("missing_privilege", "permission denied"));
    story.release(&stream);
    let stream = story.lease("a", UnitKind::Stream);
    assert_eq!(over(&story, &stream), 1);

    // One that compares nothing leaves it alone, and so does one that ends with its first step.
    cut_over(&mut story, false).expect("it begins");
    let refused = CutoverDone::Refused(Failure::definite("cutover_lag", "behind"));
    step(&mut story, CutoverStep::Check, refused);
    assert_eq!(over(&story, &stream), 2, "it is leased as it was");
}

fn rows(different: u64, moving: u64) -> RowsCompared {
    RowsCompared { source_rows: 9, compared: 9, different, moving, ..RowsCompared::default() }
}

fn schema(differences: u64) -> WorkResult {
    WorkResult::VerifySchema(ObjectsCompared { objects: 5, differences, ..Default::default() })
}

#[test]
fn both_ends_are_compared_before_anything_is_stopped() {
    let (mut story, _stream) = comparing(&["cutover_schema_differs"]);
    let held = story.lease("a", UnitKind::VerifyRows);
    story.compared(&held, rows(0, 2));
    assert_eq!(story.counts(UnitKind::Cutover).ready, 0, "the schema is not compared yet");
    assert!(!story.view().verification.expect("it compares").complete);
    let held = story.lease("a", UnitKind::VerifySchema);
    story.done(&held, schema(1));
    step(&mut story, CutoverStep::Ready, CutoverDone::Ready { lag_bytes: 3, again: None });
    step(
        &mut story,
        CutoverStep::Fence,
        CutoverDone::Fenced { at: Lsn(3_500), ended: 0, left: vec![] },
    );
    let proved =
        CutoverDone::Proved { marker: Lsn(3_600), sequences: 0, again: None, copied: None };
    step(&mut story, CutoverStep::Prove, proved);
    step(&mut story, CutoverStep::Switch, CutoverDone::Switched);
    let coverage = story.view().cutover.and_then(|cutover| cutover.compared).expect("it did");
    assert_eq!((coverage.tables, coverage.rows_compared, coverage.rows_moving), (1, 9, 2));
    assert_eq!(coverage.schema_objects, 5);
}

#[test]
fn what_differs_stops_a_cutover_before_anybody_is_stopped() {
    for (different, of_schema, code) in
        [(1, 0, "verification_differs"), (0, 1, "cutover_schema_differs")]
    {
        let (mut story, _stream) = comparing(&["cutover_large_objects"]);
        let held = story.lease("a", UnitKind::VerifySchema);
        story.done(&held, schema(of_schema));
        let held = story.lease("a", UnitKind::VerifyRows);
        story.compared(&held, rows(different, 0));
        assert!(matches!(outcome(&story), Some(CutoverOutcome::Undone(why)) if why.code == code));
        let view = story.view();
        assert_eq!((view.status, view.phase), (TaskStatus::Running, Phase::Stream));
        let found = view.verification.expect("it stays to be seen");
        assert_eq!((found.differences, found.complete), (1, true));
        // And it may be tried again, from the beginning.
        let compare = Some(VerifySettings::default());
        cut_over_with(&mut story, CutoverSettings { compare, ..settings() }).expect("due");
        step(&mut story, CutoverStep::Check, checked());
        assert_eq!(story.counts(UnitKind::VerifyPlan).ready, 1);
    }
}

#[test]
fn a_task_that_stops_or_cannot_compare_ends_its_cutover_before_the_fence() {
    let failure = || Failure::definite("missing_privilege", "permission denied");
    let why = |story: &Story| match outcome(story) {
        Some(CutoverOutcome::Undone(why)) => why.code,
        other => panic!("{other:?}"),
    };
    let (mut story, _stream) = comparing(&[]);
    let held = story.lease("a", UnitKind::VerifyRows);
    story.fail(&held, failure());
    assert_eq!((story.status(), why(&story).as_str()), (TaskStatus::Running, "missing_privilege"));

    let (mut story, _stream) = comparing(&[]);
    let held = story.lease("a", UnitKind::VerifyRows);
    story.pause();
    assert_eq!(why(&story), "cutover_interrupted");
    story.release(&held);
    story.resume();
    assert_eq!(story.view().phase, Phase::Stream);
    assert_eq!(story.counts(UnitKind::VerifyRows).ready, 0, "nobody asked for it again");

    let (mut story, stream) = comparing(&[]);
    story.fail(&stream, Failure::definite("slot_lost", "the slot is gone"));
    assert_eq!((story.status(), why(&story).as_str()), (TaskStatus::Failed, "slot_lost"));

    let (mut story, _stream) = comparing(&[]);
    story.cancel();
    assert_eq!(why(&story), "cutover_interrupted");
}

#[test]
fn a_table_is_not_copied_anew_beside_a_cutover_nor_the_other_way_round() {
    let resync = |story: &mut Story| {
        let table = "public.orders".into();
        story.apply(Command::ResyncTable { task: story.task.clone(), table }).outcome
    };
    let (mut story, _stream) = in_sync();
    cut_over(&mut story, false).expect("it begins");
    assert!(matches!(resync(&mut story), Err(Rejected::CannotCopyAnew { .. })));

    let (mut story, _stream) = in_sync();
    resync(&mut story).expect("it may");
    let orders = QualifiedName::new("public", "orders");
    assert_eq!(story.view().stream.expect("it follows").copied_anew, std::slice::from_ref(&orders));
    let refused = Rejected::NotInSync { task: story.task.clone(), copied_anew: Some(orders) };
    assert!(refused.to_string().ends_with(": public.orders is copied anew"), "{refused}");
    assert_eq!(cut_over(&mut story, false), Err(refused));
}

#[test]
fn only_a_task_that_is_in_sync_is_cut_over() {
    let mut story = Story::streaming(&[("public.orders", 1)]);
    let refused = Rejected::NotInSync { task: story.task.clone(), copied_anew: None };
    assert_eq!(cut_over(&mut story, false), Err(refused));
}
