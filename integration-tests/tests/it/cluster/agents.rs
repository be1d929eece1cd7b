//! Agents die, freeze and leave; their units go to others, and rows arrive once.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::world::{Fleet, Gate, LIMIT, Pair, SOON};

#[tokio::test]
async fn cluster_a_killed_agent_and_a_killed_leader_cost_no_row_and_units_move() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert", "carl"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;

    let holder = job.holders().await.pop_first().unwrap();
    let held = job.task().await.running.iter().filter(|unit| unit.agent == holder).count();
    fleet.convoy.agent(&holder).kill().unwrap();
    let leader = fleet.convoy.leader().await.unwrap();
    fleet.convoy.coordinator(leader).process().kill().unwrap();
    job.until("its units to be with others", |task| {
        task.running.iter().filter(|unit| unit.kind == "copy" && unit.agent != holder).count() == 4
    })
    .await;
    gate.waiting(4, LIMIT).await;
    gate.open().await;
    job.done(&pair).await;

    let moved = job.events("unit_moved").await;
    assert!(moved.len() >= held && moved.iter().all(|event| event.agent != holder), "{moved:?}");
    assert!(!job.events("agent_lost").await.is_empty());
}

#[tokio::test]
async fn cluster_an_agent_that_froze_beyond_its_lease_writes_nothing_when_it_wakes() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;

    let frozen = job.holders().await.pop_first().unwrap();
    fleet.convoy.agent(&frozen).pause().await.unwrap();
    job.until("its units to be with the other", |task| {
        task.running.iter().all(|unit| unit.agent != frozen)
            && task.running.iter().filter(|unit| unit.kind == "copy").count() == 4
    })
    .await;
    // It wakes while the others' shards are half-way, and finds that nothing is its own any more.
    fleet.convoy.agent(&frozen).go_on().unwrap();
    fleet.convoy.agent_known(&frozen).await.unwrap();
    gate.open().await;
    job.done(&pair).await;
    assert!(!job.events("unit_moved").await.is_empty());
    assert!(fleet.convoy.agent(&frozen).ended().unwrap().is_none(), "it serves on");
}

#[tokio::test]
async fn cluster_an_agent_that_starts_again_goes_on_at_once() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;

    let anna = fleet.convoy.agent("anna");
    anna.kill().unwrap();
    anna.start_again().unwrap();
    let since = std::time::Instant::now();
    let again = |unit: &pgconvoy_proto::v1::RunningUnit| unit.kind == "copy" && unit.epoch > 1;
    job.until("its units to run again", |task| {
        task.running.iter().filter(|u| again(u)).count() == 4
    })
    .await;
    // A new life of an agent gives back what the old one held: nobody waits for a lease of 10 s to end.
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    gate.open().await;
    job.done(&pair).await;
}

#[tokio::test]
async fn cluster_a_drained_agent_finishes_and_gets_nothing_new_and_one_that_is_asked_to_end_gives_back()
 {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    fleet.ok(&["agents", "drain", "anna"]).await;
    fleet.ok(&["agents", "drain", "anna"]).await;
    fleet.refused(&["agents", "drain", "nobody"], 2, "unknown_agent").await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", "copy: { jobs: 8, shard_size: 1MiB }")).await;
    gate.waiting(4, LIMIT).await;
    assert_eq!(job.holders().await, ["bert".to_owned()].into());

    // Asked to end, it gives its units back at once: the other, let in again, takes them without a wait for leases.
    fleet.ok(&["agents", "undrain", "anna"]).await;
    let bert = fleet.convoy.agent("bert");
    let status = bert.terminate(Signal::SIGTERM, SOON).await.unwrap();
    assert_eq!(status.code(), Some(130), "{}", bert.log());
    job.until("the other to have them", |task| {
        task.running.iter().filter(|unit| unit.agent == "anna" && unit.kind == "copy").count() == 4
    })
    .await;
    gate.open().await;
    job.done(&pair).await;
}
