//! `copy.snapshot: task`: all rows are of one moment, and when nobody can hold that moment any more, of a later one.

use std::time::Duration;

use crate::world::{DATABASE, Fleet, Gate, LIMIT, Ledger, Pair};

#[tokio::test]
async fn cluster_when_all_keepers_die_and_the_source_moves_on_rows_start_anew_at_a_later_moment() {
    let pair = Pair::new(&format!("{}{}", Gate::SCHEMA, Ledger::SCHEMA)).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let ledger = Ledger::begin(&pair.source).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    job.copied("public.accounts").await;

    for agent in ["anna", "bert"] {
        fleet.convoy.agent(agent).kill().unwrap();
    }
    let moved_on = Ledger::more(&pair.source, 100).await;
    for agent in ["anna", "bert"] {
        fleet.convoy.agent(agent).start_again().unwrap();
    }
    gate.open().await;
    job.ended().await;
    ledger.end().await;
    let moment = Ledger::one_moment(&pair).await;
    assert!(moment >= moved_on, "{moment} payments, though {moved_on} had been made");
    assert_eq!(pair.count("select count(*) from public.gated").await, 20_000);
    let told = job.events("rows_start_anew").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains("shard"), "the other mode is named: {}", told[0].message);
    pair.left_nothing().await;
}

#[tokio::test]
async fn cluster_one_keeper_that_lives_keeps_the_moment_and_a_quiet_source_gives_it_back() {
    let pair = Pair::of(
        pgconvoy_integration_tests::postgres::Options::default().setting("autovacuum", "off"),
        Default::default(),
        &format!("{}{}", Gate::SCHEMA, Ledger::SCHEMA),
    )
    .await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    for table in ["public.accounts", "public.ledger", "public.counter", "public.free"] {
        job.copied(table).await;
    }

    // Quiet: the successor of the lost snapshot shows the same moment, and what was copied stays.
    for agent in ["anna", "bert"] {
        fleet.convoy.agent(agent).kill().unwrap();
    }
    for agent in ["anna", "bert"] {
        fleet.convoy.agent(agent).start_again().unwrap();
    }
    job.until("its units to run again", |task| {
        task.running.iter().filter(|unit| unit.kind == "copy" && unit.epoch > 1).count() == 4
    })
    .await;
    gate.waiting(4, LIMIT).await;
    assert!(job.events("rows_start_anew").await.is_empty());
    assert_eq!(job.events("snapshot_continues").await.len(), 1);

    // Busy, and one of two dies: the other one's keeper has the moment.
    let holders = job.holders().await;
    assert_eq!(holders.len(), 2, "both have shards: {holders:?}");
    let before = Ledger::payments(&pair.source).await;
    let ledger = Ledger::begin(&pair.source).await;
    Ledger::more(&pair.source, 50).await;
    fleet.convoy.agent("anna").kill().unwrap();
    job.until("its units to be with the other", |task| {
        task.running.iter().filter(|unit| unit.kind == "copy" && unit.agent == "bert").count() == 4
    })
    .await;
    gate.open().await;
    let task = job.ended().await;
    ledger.end().await;
    assert!(task.tables.iter().all(|table| table.generation == 1), "{:?}", task.tables);
    assert_eq!(Ledger::one_moment(&pair).await, before, "the moment of the beginning");
    assert!(job.events("rows_start_anew").await.is_empty());
    pair.left_nothing().await;
}

#[tokio::test]
async fn cluster_a_table_that_is_dropped_before_its_turn_is_left_out_without_a_hand() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", "copy: { jobs: 1, shard_size: 1MiB }")).await;
    gate.waiting(1, LIMIT).await;
    pair.source.sql(DATABASE, "drop table public.free").await.unwrap();
    gate.open().await;
    job.ended().await;
    let told = job.events("tables_gone").await;
    assert!(told.len() == 1 && told[0].message.contains(": public.free. "), "{told:?}");
    assert_eq!(pair.count("select count(*) from public.gated").await, 20_000);
    // As the event says: the table stands at the destination until somebody drops it there.
    pair.destination.sql(DATABASE, "drop table public.free").await.unwrap();
    pair.same().await;
}

#[tokio::test]
async fn cluster_a_table_whose_columns_change_in_the_middle_is_planned_anew_or_told() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    // One copy at a time: the second table's turn comes after the change.
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", "copy: { jobs: 1, shard_size: 1MiB }")).await;
    gate.waiting(1, LIMIT).await;
    let change = pair.source.client(DATABASE).await.unwrap();
    change
        .batch_execute(
            "set lock_timeout = '20s'; alter table public.free rename column words to letters",
        )
        .await
        .unwrap();
    gate.open().await;
    let failed = fleet
        .convoy
        .task_until(&job.id, Duration::from_secs(60), "the task to stop", |task| {
            task.status() == pgconvoy_proto::v1::TaskStatus::Failed
        })
        .await
        .unwrap();
    let cause = failed.cause.unwrap();
    assert!(cause.subject.contains("public.free") && !cause.remedy.is_empty(), "{cause:?}");
    change.batch_execute("alter table public.free rename column letters to words").await.unwrap();
    fleet.ok(&["task", "resume", &job.id]).await;
    job.done(&pair).await;
}
