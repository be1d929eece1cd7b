//! A large table that is one shard is written into a file of its own transaction, its rows frozen: whoever dies in the middle, the
//! file goes with the transaction, and the next owner makes another.

use crate::world::{DATABASE, Fleet, Gate, Job, LIMIT, Pair};

/// One shard, larger than what a new file is made for.
const COPY: &str = "copy: { jobs: 1, shard_size: 1GiB }";

/// The shard's writer, which stands at the gate and has the table for itself, as only one does that writes into a new file.
async fn half_way(pair: &Pair, gate: &Gate, others: &[String]) -> Vec<String> {
    let names = gate.waiting_besides(others, 1, LIMIT).await;
    let alone = format!(
        "select count(*) from pg_locks join pg_stat_activity using (pid)
         where relation = 'public.gated'::regclass and mode = 'AccessExclusiveLock' and granted
           and application_name = '{}'",
        names[0]
    );
    assert_eq!(pair.count(&alone).await, 1, "the table is written into a new file");
    names
}

/// What was copied is the same, whole, once; in rows that were frozen as they were written.
async fn done(pair: &Pair, job: &Job<'_>) {
    job.done(pair).await;
    let thawed = "create extension pg_visibility;
                  select count(*) from pg_visibility_map('public.gated') where not all_frozen";
    assert_eq!(pair.destination.value(DATABASE, thawed).await.unwrap().as_deref(), Some("0"));
}

#[tokio::test]
async fn cluster_a_killed_agent_leaves_nothing_of_a_table_that_it_wrote_into_a_new_file() {
    let pair = Pair::new(Gate::LARGE).await;
    let fleet = Fleet::start(1, &["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", COPY)).await;
    let first = half_way(&pair, &gate, &[]).await;
    let lost = job.holders().await.pop_first().unwrap();
    fleet.convoy.agent(&lost).kill().unwrap();

    half_way(&pair, &gate, &first).await;
    assert!(!job.holders().await.contains(&lost), "another agent has it");
    gate.open().await;
    done(&pair, &job).await;
    assert!(!job.events("unit_moved").await.is_empty());
}

#[tokio::test]
async fn cluster_a_crash_of_the_destination_leaves_nothing_of_a_table_in_a_new_file() {
    let pair = Pair::new(Gate::LARGE).await;
    let fleet = Fleet::start(1, &["anna"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", COPY)).await;
    half_way(&pair, &gate, &[]).await;
    pair.destination.stop_immediate().unwrap();
    drop(gate);
    pair.destination.start_again().await.unwrap();

    let gate = Gate::shut(&pair.destination).await;
    half_way(&pair, &gate, &[]).await;
    gate.open().await;
    done(&pair, &job).await;
    assert!(!job.events("unit_failed").await.is_empty());
}
