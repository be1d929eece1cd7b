//! A migration that is interrupted: its task is paused, and its user told what is kept. A cutover that has begun is brought to
//! its end first, for its source may be fenced, and nobody would be there to let it go.

use std::time::Duration;

use pgconvoy_proto::v1;
use tokio::time::timeout;

use super::cutover;
use crate::client::Cluster;
use crate::output::note;

/// Pausing is one entry in the log of a node alone.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// Pauses the task, so that the next run goes on from here.
pub(super) async fn pause(cluster: &Cluster, task: &str) {
    let request = || v1::PauseTaskRequest { task: task.to_owned(), ..Default::default() };
    let pause = || cluster.tasks(async |mut client| client.pause_task(request()).await);
    let mut paused = timeout(PAUSE_LIMIT, pause()).await;
    if let Ok(Err(refusal)) = &paused
        && refusal.has_code("cutover_under_way")
    {
        note("interrupted: a cutover is under way, and is brought to its end first");
        if cutover::wait(cluster, task).await.is_ok() {
            paused = timeout(PAUSE_LIMIT, pause()).await;
        }
    }
    let (told, kept) = match paused {
        Ok(Ok(_)) => ("the task is paused", kept_of(cluster, task).await),
        // It ended while we were about to pause it, or it cannot be reached: checkpoints are kept in any case.
        Ok(Err(_)) | Err(_) => ("the task's state is kept", ""),
    };
    note(&format!("interrupted: {told}; run the same command again to go on{kept}"));
}

async fn kept_of(cluster: &Cluster, task: &str) -> &'static str {
    match timeout(PAUSE_LIMIT, cluster.task(task, 1)).await {
        Ok(Ok(task)) => what_is_kept(&task),
        Ok(Err(_)) | Err(_) => "",
    }
}

/// What an interrupted task has when it goes on. The session that keeps the task's snapshot ends with this process, and
/// rows of two moments of the source must not be mixed (law S13).
fn what_is_kept(task: &v1::Task) -> &'static str {
    let one_moment = task.spec.as_ref().is_some_and(|spec| {
        let follows = spec.types().any(|kind| kind == v1::MigrationType::Incremental);
        spec.snapshot() != v1::SnapshotMode::Shard && !follows
    });
    if task.phase() == v1::Phase::Copy && one_moment {
        "\nkept: the schema, and the rows copied so far only if nothing is written at the source until then; after any \
         write there all rows are copied anew, because they have to show one moment of the source (copy.snapshot: task); \
         where that costs too much, begin with `copy: { snapshot: shard }` in the task file: it keeps finished shards"
    } else {
        "\nkept: all that was finished so far"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_in_the_copy_phase_says_what_it_may_cost() {
        use v1::{Phase, SnapshotMode, TaskStatus};
        for (phase, snapshot, rows_are_at_risk) in [
            (Phase::Copy, SnapshotMode::Task, true),
            (Phase::Copy, SnapshotMode::Shard, false),
            (Phase::Schema, SnapshotMode::Task, false),
            (Phase::Index, SnapshotMode::Task, false),
        ] {
            let spec = v1::TaskSpec { snapshot: snapshot.into(), ..Default::default() };
            let status = TaskStatus::Paused.into();
            let task =
                v1::Task { spec: Some(spec), status, phase: phase.into(), ..Default::default() };
            let told = what_is_kept(&task).contains("snapshot: shard");
            assert_eq!(told, rows_are_at_risk, "{phase:?} {snapshot:?}");
        }
    }
}
