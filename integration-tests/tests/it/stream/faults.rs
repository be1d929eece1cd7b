//! Whoever follows the source dies: another one goes on from where the destination is, and nothing is lost or doubled.

use std::time::{Duration, Instant};

use super::live::{Load, SCHEMA};
use super::{FOLLOWED, applied, caught_up, followed, follower};
use crate::world::{Fleet, Pair};

/// Twice the lease time of a cluster, and what a loaded machine takes.
const TAKEOVER: Duration = Duration::from_secs(25);

#[tokio::test]
async fn cluster_a_killed_follower_and_a_killed_leader_lose_and_double_nothing() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let load = Load::begin(&pair.source).await;
    let job = fleet.begin(&pair.task_file("shop", FOLLOWED)).await;
    let task = followed(&job).await;

    // The agent, in the middle of its work.
    let first = follower(&task).unwrap().clone();
    fleet.convoy.agent(&first.agent).kill().unwrap();
    let since = Instant::now();
    let task = job
        .until("another agent to follow", |task| {
            follower(task).is_some_and(|unit| unit.agent != first.agent) && applied(task) > 0
        })
        .await;
    assert!(since.elapsed() < TAKEOVER, "{:?}", since.elapsed());
    assert!(follower(&task).unwrap().epoch > first.epoch);

    // The leader, while the other one works.
    let leader = fleet.convoy.leader().await.unwrap();
    fleet.convoy.coordinator(leader).process().kill().unwrap();
    caught_up(&job, &pair).await;

    // Stopped in good order and begun again, it goes on.
    fleet.ok(&["task", "pause", "shop"]).await;
    job.until("it to be paused", |task| follower(task).is_none()).await;
    fleet.ok(&["task", "resume", "shop"]).await;
    let turns = load.end().await;
    assert!(turns > 10, "{turns}");
    caught_up(&job, &pair).await;

    fleet.ok(&["task", "cancel", "shop"]).await;
    job.until("nothing of it to be left", |task| task.cleaned_up).await;
    pair.same().await;
}
