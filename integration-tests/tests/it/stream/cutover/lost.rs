//! What a cutover goes by is not there any more when it goes on: its destination, or its source.

use pgconvoy_integration_tests::process::Process;
use pgconvoy_proto::v1::{CutoverStep, TaskStatus};

use super::{
    SCHEMA, cutover_held_at, following, held_at, is_followed, read_only_by_default, until_blocked,
};
use crate::stream::FOLLOWED;
use crate::world::{DATABASE, Fleet, LIMIT, Pair, told};

/// The owner dies at the switch, and who comes next goes by what the destination says: that it has switched, or nothing at all.
#[tokio::test]
async fn cluster_a_destination_has_switched_if_it_says_so_and_not_if_it_knows_nothing() {
    // As the switch leaves it, and as one that was restored from a time before the task is.
    let switched = "begin; insert into pgconvoy.switched (task) select id from pgconvoy.task; delete from pgconvoy.task; commit";
    let restored = "drop schema pgconvoy cascade";
    let emptied = "delete from pgconvoy.task";
    let fleet = Fleet::start(1, &["anna"]).await;
    for (nth, (found, outcome)) in
        [(switched, "done"), (restored, "undone"), (emptied, "undone")].into_iter().enumerate()
    {
        let pair = Pair::new(SCHEMA).await;
        let name = format!("shop-{nth}");
        let job = following(&fleet, &pair, &name).await;
        let (_lock, client) =
            cutover_held_at(&fleet, &pair, "switch", &["task", "cutover", &name, "--fence"]).await;
        let agent = fleet.convoy.agent("anna");
        agent.kill().unwrap();
        pair.destination.stop_immediate().unwrap();
        pair.destination.start_again().await.unwrap();
        pair.destination.sql(DATABASE, found).await.unwrap();
        agent.start_again().unwrap();
        // The task itself may fail of it: its stream finds nothing to go on from.
        let exit = client.wait(LIMIT).await.unwrap().code();
        assert_eq!(exit, Some(i32::from(outcome != "done")), "{}", client.log());
        let cutover = job.task().await.cutover.unwrap();
        assert_eq!(cutover.outcome, outcome, "{found}: {}", client.log());
        if outcome == "done" {
            job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
            pair.left_nothing().await;
        } else {
            assert_eq!(cutover.cause.unwrap().code, "cutover_destination_lost");
            fleet.run(&["task", "cancel", &name]).await;
        }
        assert_eq!(read_only_by_default(&pair.source).await, outcome == "done");
    }
}

/// A source that is gone would hold its task for ever; what its user leaves there he is told, and finds.
#[tokio::test]
async fn cluster_a_fence_that_nobody_can_lift_is_left_if_its_user_says_so() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) = cutover_held_at(
        &fleet,
        &pair,
        "prove",
        &["task", "cutover", "shop", "--fence", "--timeout", "10"],
    )
    .await;
    fleet.refused(&["task", "pause", "shop", "--leave-fence"], 2, "cutover_under_way").await;
    pair.source.stop_immediate().unwrap();
    lock.batch_execute("rollback").await.unwrap();
    job.until("it to be taken back", |task| {
        let steps = task.cutover.as_ref().map(|cutover| cutover.steps.clone()).unwrap_or_default();
        steps.last().is_some_and(|step| step.step() == CutoverStep::Lift)
    })
    .await;
    fleet.refused(&["task", "pause", "shop"], 2, "cutover_under_way").await;
    let finished = fleet.run(&["task", "pause", "shop", "--leave-fence"]).await;
    assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    let (_, lifts) = finished.log.split_once("written to again: ").expect(&finished.log);
    let lifts = lifts.lines().next().unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    let task = job.task().await;
    assert_eq!(task.status(), TaskStatus::Paused);
    assert!(task.cutover.unwrap().fence_left);
    assert!(fleet.ok(&["task", "show", "shop"]).await.contains(lifts));

    // It is as was told, and no later cutover takes it for the source's own setting.
    pair.source.start_again().await.unwrap();
    assert!(read_only_by_default(&pair.source).await);
    fleet.ok(&["task", "resume", "shop"]).await;
    job.until("it to follow", is_followed).await;
    let again = ["task", "cutover", "shop", "--fence", "--compare", "none"];
    fleet.refused(&again, 1, "cutover_source_fenced").await;
    assert!(fleet.ok(&["task", "show", "shop"]).await.contains(lifts), "it is told still");
    assert!(read_only_by_default(&pair.source).await);
    pair.source.sql(DATABASE, lifts).await.unwrap();
    assert!(!read_only_by_default(&pair.source).await);
    let left = "select count(*)::text from pg_db_role_setting";
    assert_eq!(pair.source.value(DATABASE, left).await.unwrap().unwrap(), "0");
    fleet.ok(&again).await;
    job.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
}

/// Whoever lifts a fence ends the sessions that began behind it, also where an owner before had come only half the way.
#[tokio::test]
async fn cluster_a_fence_that_was_half_lifted_is_lifted_to_the_end() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let job = following(&fleet, &pair, "shop").await;
    let (lock, client) = cutover_held_at(
        &fleet,
        &pair,
        "prove",
        &["task", "cutover", "shop", "--fence", "--timeout", "10"],
    )
    .await;
    let pooled = pair.source.client(DATABASE).await.unwrap();
    let half = "begin read write; do $$ declare role regrole; mark text; begin
        select setrole, substr(setconfig[1], 18) into strict role, mark from pg_db_role_setting where setrole <> 0;
        execute format('alter role %s in database %I set application_name = %L', role, current_database(), replace(mark, 'fence of', 'lifted fence of'));
        execute format('alter database %I reset default_transaction_read_only', current_database());
        end $$; commit";
    pair.source.sql(DATABASE, half).await.unwrap();
    assert_eq!(client.wait(LIMIT).await.unwrap().code(), Some(1), "{}", client.log());
    let cutover = job.task().await.cutover.unwrap();
    assert_eq!(cutover.cause.unwrap().code, "cutover_timed_out");
    pooled.batch_execute("select").await.expect_err("it would only read for as long as it lives");
    let left = "select count(*)::text from pg_db_role_setting";
    assert_eq!(pair.source.value(DATABASE, left).await.unwrap().unwrap(), "0");
    lock.batch_execute("rollback").await.unwrap();
    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
}

/// Neither takes the other's fence for the source's own setting, nor lifts it.
#[tokio::test]
async fn cluster_two_cutovers_of_one_source_do_not_undo_each_others_fence() {
    let (pair, other) = tokio::join!(Pair::new(SCHEMA), Pair::new(SCHEMA));
    let fleet = Fleet::start(1, &["anna"]).await;
    let one = following(&fleet, &pair, "one").await;
    let ports = [pair.source.port(), other.destination.port()];
    let two = fleet.begin(&other.task_file_by(ports, "two", FOLLOWED)).await;
    two.until("the source to be followed", is_followed).await;
    let cutover = async |name: &str| {
        let command = ["task", "cutover", name, "--fence", "--compare", "none"];
        Process::start(name, fleet.convoy.cli(command).unwrap(), &pair.path("")).unwrap()
    };
    // The second one has looked at everything, and sets its fence when the first one's stands.
    let (late, waiting) = held_at(&other, "", "ready").await;
    let second = cutover("two").await;
    until_blocked(&other.destination, &waiting, &second).await;
    let (lock, waiting) = held_at(&pair, "", "prove").await;
    let first = cutover("one").await;
    until_blocked(&pair.destination, &waiting, &first).await;
    let bystander = pair.source.client(DATABASE).await.unwrap();
    late.batch_execute("rollback").await.unwrap();
    assert_eq!(second.wait(LIMIT).await.unwrap().code(), Some(1), "{}", second.log());
    assert!(second.log().contains("cutover_source_fenced"), "{}", second.log());
    assert!(second.log().contains(&one.id), "{}", second.log());
    assert!(second.log().contains("  lift "), "{}", second.log());
    bystander.batch_execute("select").await.expect("nobody is ended for a fence that was not set");
    assert!(read_only_by_default(&pair.source).await);

    // From then on it is seen before anything is begun; and while it stands, by whoever stopped the writers.
    two.until("it to follow", is_followed).await;
    let again = ["task", "cutover", "two", "--fence", "--compare", "none"];
    let refused = fleet.run(&again).await;
    assert_eq!(refused.code(), Some(1), "{}", told(&refused));
    assert!(refused.log.contains("cutover_source_fenced"), "{}", told(&refused));
    assert!(refused.stdout.contains("nobody was stopped"), "{}", told(&refused));
    lock.batch_execute("rollback").await.unwrap();
    assert_eq!(first.wait(LIMIT).await.unwrap().code(), Some(0), "{}", first.log());
    one.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert!(read_only_by_default(&pair.source).await);
    fleet.refused(&again, 1, "cutover_source_fenced").await;
    two.until("it to follow", is_followed).await;
    fleet.ok(&["task", "cutover", "two", "--writers-stopped", "--compare", "none"]).await;
    two.until("nothing of it to be left", |task| task.status() == TaskStatus::Done).await;
    assert!(read_only_by_default(&pair.source).await);
}
