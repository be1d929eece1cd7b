//! A task's life by commands: created, started, paused, resumed, cancelled, deleted; each of them twice.

use pgconvoy_proto::v1::TaskStatus;

use crate::world::{DATABASE, Fleet, Gate, LIMIT, Mover, Pair, SOON, told};

#[tokio::test]
async fn cluster_a_task_is_created_watched_paused_resumed_and_deleted_and_each_command_may_be_repeated()
 {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let file = pair.task_file("shop", Gate::COPY);
    let create = ["task", "create", "--request-id", "monday-1", "-f", file.to_str().unwrap()];
    let id = fleet.ok(&create).await;
    assert_eq!(fleet.ok(&create).await, id, "the same request gives the same task");
    let id = id.trim();
    fleet.refused(&["task", "create", "-f", file.to_str().unwrap()], 2, "task_name_taken").await;
    fleet.refused(&["task", "show", "nobody"], 2, "unknown_task").await;
    fleet.refused(&["task", "resume", "shop"], 2, "wrong_status").await;
    assert_eq!(pair.count("select count(*) from pg_class where relname = 'gated'").await, 0);

    let gate = Gate::shut(&pair.destination).await;
    let watch = fleet.convoy.cli(["task", "watch", "shop"]).unwrap();
    let watch = pgconvoy_integration_tests::process::Process::start("watch", watch, &pair.path(""))
        .unwrap();
    fleet.ok(&["task", "start", "shop", "--yes"]).await;
    fleet.ok(&["task", "start", id, "--yes"]).await;
    gate.waiting(4, LIMIT).await;
    let job = crate::world::Job { fleet: &fleet, id: id.to_owned() };
    fleet.refused(&["task", "delete", "shop"], 2, "wrong_status").await;

    for _ in 0..2 {
        fleet.ok(&["task", "pause", "shop"]).await;
    }
    job.until("nothing to run", |task| {
        task.status() == TaskStatus::Paused && task.running.is_empty()
    })
    .await;
    let explained = fleet.ok(&["task", "explain", "shop", "-o", "json"]).await;
    assert!(explained.contains("task_paused"), "{explained}");
    // What was half-way is rolled back, though its lock is not to be had: its sessions are gone.
    pair.no_sessions_of("copy").await;

    for _ in 0..2 {
        fleet.ok(&["task", "resume", "shop"]).await;
    }
    gate.waiting(4, LIMIT).await;
    gate.open().await;
    job.done(&pair).await;
    let status = watch.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", watch.log());

    let kinds: Vec<String> =
        crate::world::events(&fleet.convoy, id).await.into_iter().map(|e| e.kind).collect();
    for kind in [
        "task_created",
        "task_started",
        "phase_began",
        "precheck_ended",
        "task_paused",
        "task_resumed",
        "task_done",
    ] {
        assert!(kinds.iter().any(|seen| seen == kind), "{kind} in {kinds:?}");
    }
    for _ in 0..2 {
        let finished = fleet.run(&["task", "delete", id]).await;
        assert_eq!(finished.code(), Some(0), "{}", told(&finished));
    }
    fleet.refused(&["task", "show", "shop"], 2, "unknown_task").await;
    assert_eq!(fleet.ok(&["task", "list", "-o", "json"]).await.trim(), "[]");
}

#[tokio::test]
async fn cluster_a_cancelled_task_stops_keeps_rows_and_leaves_nothing_of_ours() {
    let pair = Pair::new(Gate::SCHEMA).await;
    // An agent of the harness has four slots, which the shards at the gate fill: the small table needs another one's.
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    job.copied("public.free").await;
    for _ in 0..2 {
        fleet.ok(&["task", "cancel", "shop"]).await;
    }
    let cancelled =
        |task: &pgconvoy_proto::v1::Task| task.status() == TaskStatus::Cancelled && task.cleaned_up;
    job.until("the task to be cancelled and cleaned up", cancelled).await;
    pair.left_nothing().await;
    gate.open().await;
    let gated = pair.count("select count(*) from public.gated").await;
    assert!(gated < 5000, "shards at the gate were given up: {gated}");
    assert_eq!(pair.count("select count(*) from public.free").await, 1000);
    let watched = fleet.run(&["task", "watch", "shop"]).await;
    assert_eq!(watched.code(), Some(1), "{}", told(&watched));
    fleet.refused(&["task", "resume", "shop"], 2, "wrong_status").await;

    // The same name may be used again once the old task is forgotten; its tables are in the way, and that is told.
    fleet.ok(&["task", "delete", "shop"]).await;
    let again = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    let failed = fleet
        .convoy
        .task_until(&again.id, LIMIT, "the precheck to refuse", |task| {
            task.status() == TaskStatus::Failed
        })
        .await
        .unwrap();
    assert!(failed.precheck.iter().any(|item| item.code == "object_exists"), "{failed:?}");
    let shown = fleet.run(&["task", "precheck", "shop"]).await;
    assert_eq!(shown.code(), Some(3), "{}", told(&shown));
    let tables = "drop table public.gated, public.free; drop sequence public.numbers; drop function public.pass";
    pair.destination.sql(DATABASE, tables).await.unwrap();
    let shown = fleet.run(&["task", "precheck", "shop"]).await;
    assert_eq!(shown.code(), Some(0), "{}", told(&shown));
    fleet.ok(&["task", "resume", "shop", "--yes"]).await;
    again.done(&pair).await;
}

#[tokio::test]
async fn cluster_a_password_that_is_changed_meanwhile_is_given_to_the_task_when_it_is_resumed() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let mover = Mover::of(&pair).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&mover.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    mover.change_password("second-otter").await;
    // Who is in stays in, and is handed on to later units; whoever comes next is refused, and that is told for what it is.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mover'";
    pair.destination.sql(DATABASE, end).await.unwrap();
    gate.open().await;
    let failed = job.until("the old password to fail", |task| task.status() == TaskStatus::Failed);
    assert_eq!(failed.await.cause.map(|cause| cause.code), Some("wrong_password".to_owned()));

    let file = mover.task_file("shop", Gate::COPY);
    let resume = ["task", "resume", "shop", "-f", file.to_str().unwrap()];
    let other = pair.task_file("other", Gate::COPY);
    let resume_with_other = ["task", "resume", "shop", "-f", other.to_str().unwrap()];
    fleet.refused(&resume_with_other, 2, "file_of_another_task").await;
    fleet.ok(&resume).await;
    let again = fleet.ok(&resume).await;
    assert!(again.contains("running already") || again.contains("done"), "known by now: {again}");
    job.done(&pair).await;
    assert_eq!(job.events("passwords_renewed").await.len(), 1);
}

#[tokio::test]
async fn cluster_two_tasks_at_once_do_not_mind_each_other() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    pair.destination.create_database("second").await.unwrap();
    let first = fleet.begin(&pair.task_file("first", Gate::COPY)).await;
    let text = std::fs::read_to_string(pair.path("first.yaml")).unwrap();
    let (head, tail) = text.split_once("destination:").unwrap();
    let text = format!("{}destination:{}", head, tail.replace("/shop", "/second"));
    let file = pair.write("second.yaml", &text.replace("name: first", "name: second"));
    let second = fleet.begin(&file).await;
    second.ended().await;
    first.done(&pair).await;
    let ends = [&pair.source, &pair.destination];
    let [source, destination] = [(ends[0], DATABASE), (ends[1], "second")]
        .map(|(server, database)| pgconvoy_integration_tests::oracle::End::new(server, database));
    pgconvoy_integration_tests::oracle::compare(source, destination)
        .await
        .unwrap()
        .refuse()
        .unwrap();
    // No agent is left that could go on: what waits says so.
    for agent in ["anna", "bert"] {
        fleet.ok(&["agents", "drain", agent]).await;
    }
    fleet.ok(&["task", "delete", "first"]).await;
    let waiting = fleet.begin(&pair.task_file("first", Gate::COPY)).await;
    let explained = fleet.ok(&["task", "explain", &waiting.id, "-o", "json"]).await;
    assert!(explained.contains("2 are draining"), "{explained}");
}
