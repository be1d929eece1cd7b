//! A source that stays in use: every change arrives, once and in order.

mod anew;
mod compared;
mod cutover;
mod encodings;
mod faults;
mod feedback;
mod identity;
mod kept;
mod live;
mod lost;
mod meaning;
mod overlap;
mod parked;
mod plans;
mod resync;
mod seen;
mod sites;
mod traps;

use pgconvoy_integration_tests::postgres::Postgres;
use pgconvoy_proto::v1::{Phase, RunningUnit, Task};
use pgconvoy_shared::lsn::Lsn;

use crate::world::{DATABASE, Job, Pair};

/// In a task file.
pub(crate) const FOLLOWED: &str = "types: [schema, full, incremental]";

/// In a task file: shards are copied in turn, those of the largest table first.
const ONE_AFTER_THE_OTHER: &str = "copy: { jobs: 1, shard_size: 1MiB }";

/// Who follows the source now.
fn follower(task: &Task) -> Option<&RunningUnit> {
    task.running.iter().find(|unit| unit.kind == "stream")
}

fn applied(task: &Task) -> u64 {
    let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
    progress.map_or(0, |progress| progress.applied)
}

/// Up to where the log of a server is on disk.
async fn log_of(server: &Postgres) -> u64 {
    let flushed = "select pg_current_wal_flush_lsn()::text";
    let flushed = server.value(DATABASE, flushed).await.unwrap().unwrap();
    flushed.parse::<Lsn>().unwrap().0
}

/// Waits until all constraints are there and the source is followed.
async fn followed(job: &Job<'_>) -> Task {
    job.until("the source to be followed", |task| {
        task.phase() == Phase::Stream && follower(task).is_some() && applied(task) > 0
    })
    .await
}

/// Waits until all is at the destination that the source has now.
pub(crate) async fn caught_up(job: &Job<'_>, pair: &Pair) {
    let target = log_of(&pair.source).await;
    job.until("the destination to have caught up", |task| {
        task.phase() == Phase::Stream && applied(task) >= target
    })
    .await;
}
