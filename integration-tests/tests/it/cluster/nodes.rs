//! Coordinators die and are cut off; what they agreed on stays.

use std::time::{Duration, Instant};

use pgconvoy_integration_tests::net::Weather;
use pgconvoy_integration_tests::wait;
use pgconvoy_proto::v1::Task;

use crate::world::{Fleet, Gate, LIMIT, Pair};

#[tokio::test]
async fn cluster_all_coordinators_killed_and_started_again_go_on() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    let done = |task: &Task| task.units.iter().map(|units| units.done).sum::<u32>();
    let before = done(&job.task().await);

    for node in fleet.convoy.coordinators() {
        node.process().kill().unwrap();
    }
    for node in fleet.convoy.coordinators() {
        node.process().start_again().unwrap();
    }
    fleet.convoy.leader().await.unwrap();
    assert!(done(&job.task().await) >= before, "what was acknowledged is not forgotten");
    gate.open().await;
    job.done(&pair).await;
}

#[tokio::test]
async fn cluster_a_follower_that_is_cut_off_and_healed_and_killed_costs_no_lease() {
    let pair = Pair::new(Gate::SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let gate = Gate::shut(&pair.destination).await;
    let job = fleet.begin(&pair.task_file("shop", Gate::COPY)).await;
    gate.waiting(4, LIMIT).await;
    let keeps_its_leases = |task: &Task| {
        let copies = || task.running.iter().filter(|unit| unit.kind == "copy");
        assert!(copies().count() >= 4 && copies().all(|unit| unit.epoch == 1), "{task:?}");
    };
    keeps_its_leases(&job.task().await);

    let leader = fleet.convoy.leader().await.unwrap();
    let follower = fleet.convoy.coordinators().iter().find(|node| node.id() != leader).unwrap();
    follower.link().set(Weather::BlackHole);
    // Three leases, and elections without end: all would have had their time to go wrong.
    let cut = Instant::now();
    wait::until(LIMIT, "30 s without that follower", async || {
        keeps_its_leases(&job.task().await);
        if cut.elapsed() > Duration::from_secs(30) {
            Ok(())
        } else {
            Err(format!("{:?}", cut.elapsed()))
        }
    })
    .await
    .unwrap();
    follower.link().set(Weather::Clear);
    heard_again(&fleet, follower.id(), Duration::from_secs(5)).await;
    keeps_its_leases(&job.task().await);

    follower.process().kill().unwrap();
    gate.open().await;
    job.done(&pair).await;
    assert!(job.events("unit_moved").await.is_empty() && job.events("agent_lost").await.is_empty());
    follower.process().start_again().unwrap();
    heard_again(&fleet, follower.id(), LIMIT).await;
}

/// Waits until the follower has all that the leader has.
async fn heard_again(fleet: &Fleet, follower: u64, limit: Duration) {
    wait::until(limit, "the follower to be heard again", async || {
        let leader = fleet.convoy.leader().await.map_err(|error| format!("{error:#}"))?;
        let index = usize::try_from(leader - 1).unwrap();
        let statuses = fleet.convoy.statuses().await;
        let status = statuses[index].clone()?;
        let member = status.members.iter().find(|member| member.id == follower).unwrap();
        match member.matched_index {
            Some(matched) if matched >= status.last_log_index => Ok(()),
            other => Err(format!("{other:?} of {}", status.last_log_index)),
        }
    })
    .await
    .unwrap();
}
