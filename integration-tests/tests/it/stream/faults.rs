//! Whoever follows the source dies: another one goes on from where the destination is, and nothing is lost or doubled.

use std::time::{Duration, Instant};

use pgconvoy_proto::v1::{Phase, RunningUnit, Task};
use pgconvoy_shared::lsn::Lsn;

use super::live::{Load, SCHEMA};
use crate::world::{DATABASE, Fleet, Job, Pair};

/// Twice the lease time of a cluster, and what a loaded machine takes.
const TAKEOVER: Duration = Duration::from_secs(25);

/// Who follows the source now.
pub(super) fn follower(task: &Task) -> Option<&RunningUnit> {
    task.running.iter().find(|unit| unit.kind == "stream")
}

fn applied(task: &Task) -> u64 {
    task.stream.as_ref().and_then(|stream| stream.progress).map_or(0, |progress| progress.applied)
}

async fn log_of_source(pair: &Pair) -> u64 {
    let flushed = "select pg_current_wal_flush_lsn()::text";
    let flushed = pair.source.value(DATABASE, flushed).await.unwrap().unwrap();
    flushed.parse::<Lsn>().unwrap().0
}

pub(super) async fn caught_up(job: &Job<'_>, pair: &Pair) {
    let target = log_of_source(pair).await;
    job.until("the destination to have caught up", |task| {
        task.phase() == Phase::Stream && applied(task) >= target
    })
    .await;
}

#[tokio::test]
async fn cluster_a_killed_follower_and_a_killed_leader_lose_and_double_nothing() {
    let pair = Pair::new(SCHEMA).await;
    let fleet = Fleet::of_three(&["anna", "bert"]).await;
    let load = Load::begin(&pair.source).await;
    let job = fleet.begin(&pair.task_file("shop", "types: [schema, full, incremental]")).await;
    let task = job
        .until("the source to be followed", |task| {
            task.phase() == Phase::Stream && follower(task).is_some() && applied(task) > 0
        })
        .await;

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
