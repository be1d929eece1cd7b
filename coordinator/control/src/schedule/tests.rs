use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::Incarnation;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{Checkpoint, UnitKind};

use super::*;
use crate::apply::story::{Story, agent_id, create};

const LEASE_MS: u64 = 10_000;

/// A leader that has just heard of these agents.
fn hearing_of(agents: &[&str]) -> Liveness {
    let mut liveness = Liveness::new(LEASE_MS, 0);
    for agent in agents {
        liveness.registered(&agent_id(agent), Incarnation(1), 1_000);
    }
    liveness
}

fn planned(story: &Story, liveness: &Liveness) -> Plan {
    plan(&story.state, &Observed { liveness, now_ms: 2_000 }, story.now)
}

/// The plan in words: `copy public.orders shard 0 -> a`.
fn grants(story: &Story, plan: &Plan) -> Vec<String> {
    let record = &story.state.tasks[&story.task].record;
    let of = |command: &Command| match command {
        Command::GrantLeases(grants) => grants.clone(),
        other => panic!("{other:?}"),
    };
    plan.commands
        .iter()
        .flat_map(of)
        .map(|grant| {
            let unit = record.unit(grant.unit.no).expect("a unit");
            format!("{} -> {}", record.describe(&unit.subject), grant.agent)
        })
        .collect()
}

fn held_back(plan: &Plan) -> Vec<(UnitKind, Reason, u32)> {
    plan.held_back.iter().map(|held| (held.kind, held.reason, held.units)).collect()
}

fn codes(story: &Story, liveness: &Liveness) -> Vec<(&'static str, u32)> {
    let observed = Observed { liveness, now_ms: 2_000 };
    let all = explain(&story.state, &observed, story.now, &story.task);
    all.into_iter().map(|explanation| (explanation.code, explanation.units)).collect()
}

#[test]
fn the_largest_tables_go_first_to_the_agents_with_most_room() {
    let mut story =
        Story::copying(&[("public.small", 1), ("public.large", 3)]).with_agents(&["a", "b"]);
    story.slots("a", 2);
    story.slots("b", 3);
    let plan = planned(&story, &hearing_of(&["a", "b"]));
    assert_eq!(
        grants(&story, &plan),
        [
            "copy public.large shard 0 -> b",
            "copy public.large shard 1 -> a",
            "copy public.large shard 2 -> b",
            "copy public.small shard 0 -> a",
        ]
    );
    assert_eq!(held_back(&plan), []);
}

#[test]
fn no_more_run_than_the_task_allows() {
    let mut story = Story::copying(&[("public.orders", 9)]).with_agents(&["a"]);
    story.lease("a", UnitKind::Copy);
    let liveness = hearing_of(&["a"]);
    let plan = planned(&story, &liveness);
    assert_eq!(grants(&story, &plan).len(), 3, "copy.jobs is 4, and one runs");
    assert_eq!(held_back(&plan), [(UnitKind::Copy, Reason::TaskLimit, 5)]);
    assert_eq!(codes(&story, &liveness), [("task_limit", 5), ("waits_for_units", 0)]);
}

#[test]
fn an_agent_that_was_not_heard_of_gets_nothing() {
    let story = Story::copying(&[("public.orders", 1)]).with_agents(&["a"]);
    let liveness = hearing_of(&[]);
    let plan = planned(&story, &liveness);
    assert_eq!(plan.commands, []);
    assert_eq!(held_back(&plan), [(UnitKind::Copy, Reason::AgentsFull, 1)]);
    assert_eq!(codes(&story, &liveness), [("agents_unknown", 1), ("waits_for_units", 0)]);
}

#[test]
fn who_failed_last_is_avoided_where_another_one_can() {
    let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a", "b"]);
    let held = story.lease("b", UnitKind::Copy);
    story.fail(&held, Failure::transient("connection_lost", "connection reset"));
    let both = hearing_of(&["a", "b"]);
    assert_eq!(planned(&story, &both).commands, [], "not before its pause is over");
    assert_eq!(codes(&story, &both), [("back_off", 1), ("waits_for_units", 0)]);
    story.now = story.now.plus_ms(500);
    story.slots("b", 8);
    story.slots("a", 1);
    let plan = planned(&story, &both);
    assert_eq!(grants(&story, &plan), ["copy public.orders shard 0 -> a"]);
    let plan = planned(&story, &hearing_of(&["b"]));
    assert_eq!(grants(&story, &plan), ["copy public.orders shard 0 -> b"]);
}

#[test]
fn an_agent_of_another_site_gets_nothing() {
    let mut story = Story::new();
    let mut create = create("shop");
    create.spec.source.site = Some("dc1".into());
    create.start = true;
    story.create(create);
    let story = story.with_agents(&["a"]);
    let liveness = hearing_of(&["a"]);
    let plan = planned(&story, &liveness);
    assert_eq!(held_back(&plan), [(UnitKind::Precheck, Reason::NoAgentOfSite, 1)]);
    assert_eq!(codes(&story, &liveness), [("no_agent_of_site", 1), ("waits_for_units", 0)]);
}

#[test]
fn with_two_sites_units_run_at_the_destination_while_somebody_is_at_the_source() {
    let mut story = Story::new();
    let mut create = create("shop");
    create.spec.source.site = Some("dc1".into());
    create.spec.destination.site = Some("cloud".into());
    create.start = true;
    story.create(create);
    story.register_at("c", "cloud");
    let why = |story: &Story, liveness: &Liveness| {
        let observed = Observed { liveness, now_ms: 2_000 };
        explain(&story.state, &observed, story.now, &story.task).remove(0).message
    };
    let liveness = hearing_of(&["c"]);
    let plan = planned(&story, &liveness);
    assert_eq!(held_back(&plan), [(UnitKind::Precheck, Reason::NoAgentOfSite, 1)]);
    assert_eq!(why(&story, &liveness), "no agent is at site `dc1`");

    story.register_at("s", "dc1");
    let plan = planned(&story, &liveness);
    assert_eq!(plan.commands, [], "the leader has not heard of it yet");
    assert_eq!(held_back(&plan), [(UnitKind::Precheck, Reason::AgentsFull, 1)]);
    let plan = planned(&story, &hearing_of(&["c", "s"]));
    assert_eq!(grants(&story, &plan), ["precheck -> c"]);
}

#[test]
fn a_clock_that_went_back_does_not_hold_a_unit_back_for_long() {
    let mut story = Story::copying(&[("public.orders", 1)]).with_agents(&["a"]);
    let held = story.lease("a", UnitKind::Copy);
    story.fail(&held, Failure::transient("connection_lost", "connection reset"));
    story.now = Timestamp(5);
    assert_eq!(planned(&story, &hearing_of(&["a"])).commands.len(), 1);
}

#[test]
fn tasks_take_turns() {
    let mut story = Story::copying(&[("public.orders", 9)]);
    let mut other = create("other");
    other.id = TaskId::from_parts(1_000, 8);
    other.start = true;
    story.create(other);
    let mut story = story.with_agents(&["a"]);
    story.slots("a", 2);
    let plan = planned(&story, &hearing_of(&["a"]));
    let Command::GrantLeases(grants) = &plan.commands[0] else { panic!("grants") };
    let tasks: Vec<_> = grants.iter().map(|grant| &grant.unit.task).collect();
    assert_ne!(tasks[0], tasks[1]);
}

#[test]
fn planning_rests_while_enough_shards_wait() {
    let tables: Vec<_> = [("public.a", 16), ("public.b", 1)].into();
    let mut story = Story::created("shop").with_agents(&["a"]);
    story.start();
    story.prepare("a", &[("public.a", 70 << 20), ("public.b", 65 << 20)]);
    let first = story.lease("a", UnitKind::Plan);
    story.plan_into(&first, &tables);
    let plan = planned(&story, &hearing_of(&["a"]));
    assert!(held_back(&plan).contains(&(UnitKind::Plan, Reason::PlannedLater, 1)), "{plan:?}");
    let _ = story.lease("a", UnitKind::Copy);
    let plan = planned(&story, &hearing_of(&["a"]));
    assert!(grants(&story, &plan).contains(&"plan public.b -> a".to_owned()), "{plan:?}");
}

#[test]
fn a_stream_waits_for_no_slot_and_takes_none() {
    let mut story = Story::streaming(&[("public.orders", 1)]).with_agents(&["b"]);
    let liveness = hearing_of(&["a", "b"]);
    story.slots("a", 0);
    story.slots("b", 0);
    assert_eq!(grants(&story, &planned(&story, &liveness)), ["stream -> a"]);
    story.drain("a");
    assert_eq!(grants(&story, &planned(&story, &liveness)), ["stream -> b"]);
    story.slots("b", 1);
    let stream = story.lease("b", UnitKind::Stream);
    assert_eq!(story.state.lease_count(&agent_id("b")), 1);
    let consistent = Checkpoint { applied: Lsn(3_000), consistent: true };
    story.checkpoint(&stream, consistent);
    let planned = planned(&story, &liveness);
    let [beside] = &grants(&story, &planned)[..] else { panic!("{planned:?}") };
    assert!(beside.ends_with("-> b"), "the rest of the task goes on beside it: {beside}");
}
