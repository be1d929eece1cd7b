//! Waiting until a cancelled task is cleaned up.
//!
//! An agent removes what a cancelled task keeps at the databases (law O9); rows stay. In a cluster some agent does it
//! sooner or later, and nobody has to wait. Embedded agents live no longer than the command that started them: so a
//! command that runs agents keeps them until this is done, and one that cancels or deletes a task where nothing runs
//! starts an agent for it. Otherwise nobody ever would, and the task could be neither deleted nor begun again.

use std::path::Path;
use std::time::Duration;

use pgconvoy_proto::v1;
use pgconvoy_shared::failure::{Failure, FailureClass};
use tokio::time::{Instant, sleep};

use crate::client::Cluster;
use crate::connect::Idle;
use crate::exit::Exit;
use crate::output::note;
use crate::problem::Problem;

/// For leases of an earlier life to run out, for one back-off, and for open transactions to be rolled back.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
/// One unit cleans up.
const SLOTS: u32 = 1;
/// The kind of that unit.
const FINISH: &str = "finish";

/// Whether a cancelled task still keeps something at the databases.
pub(super) fn is_due(task: &v1::Task) -> bool {
    task.status() == v1::TaskStatus::Cancelled && !task.cleaned_up
}

/// Cleans up after a cancelled task of a data directory that nothing runs on; returns at once where that is done.
pub(super) async fn with_an_agent(
    cluster: &Cluster,
    task: &str,
    idle: Idle<'_>,
) -> Result<(), Problem> {
    if !is_due(&cluster.task(task, 1).await?) {
        return Ok(());
    }
    idle.embedded.add_agents(1, SLOTS, None).await?;
    wait(cluster, task, idle.dir).await
}

/// Waits until agents that run have cleaned up. The limit, and a failure that no repetition mends, end it with a
/// problem that says what is in the way.
pub(super) async fn wait(cluster: &Cluster, task: &str, dir: &Path) -> Result<(), Problem> {
    note("removing what the cancelled task keeps at the databases");
    let end = Instant::now() + LIMIT;
    loop {
        let task = cluster.task(task, 1).await?;
        if !is_due(&task) {
            return Ok(());
        }
        let cause = cause(&task);
        let is_final = cause.as_ref().is_some_and(|cause| cause.class == FailureClass::Definite);
        if is_final || Instant::now() >= end {
            return Err(not_cleaned_up(&task, cause, dir));
        }
        sleep(PAUSE).await;
    }
}

/// Why the last attempt failed.
fn cause(task: &v1::Task) -> Option<Failure> {
    let finish = task.retrying.iter().find(|unit| unit.kind == FINISH)?;
    finish.failure.clone()?.try_into().ok()
}

fn not_cleaned_up(task: &v1::Task, cause: Option<Failure>, dir: &Path) -> Problem {
    let (why, remedy) = match cause {
        Some(cause) if cause.remedy.is_empty() => (cause.to_string(), String::new()),
        Some(cause) => (cause.to_string(), format!("{}; then ", cause.remedy)),
        None => (format!("it was not done within {} s", LIMIT.as_secs()), String::new()),
    };
    let message = format!(
        "task {} is cancelled, but what it keeps at the databases (schema pgconvoy at the destination) is not removed: \
         {why}",
        task.id
    );
    let remedy = format!(
        "{remedy}`pgconvoy task cancel {} --data-dir {}` tries once more; where a database is gone for good, remove the \
         data directory",
        task.name,
        dir.display()
    );
    let failure = Failure::other("still_cleaning_up", message).about(task.id.clone());
    Problem::new(Exit::Failed, failure.remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_told_together_with_what_to_do() {
        let failure = v1::Failure::from(
            Failure::definite("wrong_password", "password rejected").remedy("correct it"),
        );
        let retrying = |kind: &str| v1::RetryingUnit {
            kind: kind.to_owned(),
            failure: Some(failure.clone()),
            ..Default::default()
        };
        let mut task = v1::Task {
            id: "shop-1".into(),
            name: "shop".into(),
            status: v1::TaskStatus::Cancelled.into(),
            retrying: vec![retrying("copy")],
            ..Default::default()
        };
        assert!(is_due(&task));
        assert_eq!(cause(&task), None, "a copy's trouble is over with the task");
        task.retrying.push(retrying(FINISH));
        let problem = not_cleaned_up(&task, cause(&task), Path::new("data"));
        let told = problem.describe(crate::output::Format::Table).unwrap();
        for part in [
            "password rejected",
            "correct it; then `pgconvoy task cancel shop --data-dir data`",
            "[still_cleaning_up]",
        ] {
            assert!(told.contains(part), "{part} is missing in\n{told}");
        }
        assert_eq!(problem.exit(), Exit::Failed);
        task.cleaned_up = true;
        assert!(!is_due(&task));
    }
}
