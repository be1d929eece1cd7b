//! How long a loss takes, by the coordinators' own clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use pgconvoy_proto::v1::RunningUnit;

use crate::world::{DATABASE, Fleet, Gate, LIMIT, Pair};

const LEASE_MS: u64 = 10_000;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn cluster_the_units_of_a_killed_agent_run_elsewhere_within_two_leases() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    let lost = job.holders().await.pop_first().unwrap();

    let killed = now_ms();
    fleet.convoy.agent(&lost).kill().unwrap();
    let copies = |unit: &&RunningUnit| unit.kind == "copy" && unit.agent != lost;
    let task = job
        .until("its units to run elsewhere", |task| task.running.iter().filter(copies).count() == 4)
        .await;
    let last = task.running.iter().map(|unit| unit.since_ms).max().unwrap();
    let took = last.saturating_sub(killed);
    eprintln!("units of a killed agent run elsewhere after {took} ms");
    assert!(took <= 2 * LEASE_MS, "{took} ms");
    gate.open().await;
    job.done(&pair).await;
}

#[tokio::test]
async fn cluster_a_new_leader_gives_out_work_within_five_seconds() {
    let pair = Pair::new(Gate::KEYLESS).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    // Two shards run, two wait for their turn.
    let file = pair.task_file("shop", "copy: { jobs: 2, shard_size: 1MiB }");
    let job = fleet.begin(&file).await;
    gate.waiting(2, LIMIT).await;

    let leader = fleet.convoy.leader().await.unwrap();
    let killed = now_ms();
    fleet.convoy.coordinator(leader).process().kill().unwrap();
    // One of the two fails, so that there is work to be given out.
    let one_fails = "select pg_terminate_backend(min(pid)) from pg_stat_activity
                      where application_name like 'pgconvoy/%/copy/%'";
    pair.destination.sql(DATABASE, one_fails).await.unwrap();
    let given_out = |unit: &&RunningUnit| unit.kind == "copy" && unit.since_ms > killed;
    let task = job
        .until("another shard to run", |task| task.running.iter().any(|unit| given_out(&unit)))
        .await;
    let first = task.running.iter().filter(given_out).map(|unit| unit.since_ms).min().unwrap();
    let took = first - killed;
    eprintln!("a new leader gives out work {took} ms after the old one's death");
    assert!(took <= 5_000, "{took} ms");
    gate.open().await;
    job.done(&pair).await;
    assert!(job.events("agent_lost").await.is_empty(), "no lease was lost");
}
