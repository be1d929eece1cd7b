//! `pgconvoy task precheck`.

use std::time::Duration;

use clap::Args;
use pgconvoy_proto::v1;
use tokio::time::sleep;

use super::Which;
use crate::client::{self, Cluster};
use crate::command::precheck::report;
use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Run a task's precheck again, and show its report; the rest of the task is not started
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task precheck shop
  pgconvoy task precheck shop --last -o json

Exits with 3 if there is an error.")]
pub(super) struct Precheck {
    #[command(flatten)]
    which: Which,
    /// Show the last report, and run nothing
    #[arg(long)]
    last: bool,
}

impl Precheck {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        reach
            .with(async |cluster| {
                if !self.last {
                    run_again(cluster, &task).await?;
                }
                report(cluster, &task, format).await
            })
            .await
    }
}

/// Asks for a precheck and waits for its report.
async fn run_again(cluster: &Cluster, task: &str) -> Result<(), Problem> {
    let before = cluster.task(task, 1).await?.precheck_ended_ms;
    let is_newer = |task: &v1::Task| task.precheck_ended_ms > before;
    let request = || v1::PrecheckTaskRequest { task: task.to_owned() };
    loop {
        cluster.tasks(async |mut client| client.precheck_task(request()).await).await?;
        let look = |task: &v1::Task| {
            Ok(if is_newer(task) { client::Watch::Enough } else { client::Watch::Further })
        };
        let seen = cluster.watch(task, 1, look).await?;
        // A failed task can be prechecked, but has ended for whoever watches it: it is looked at now and then. To ask
        // again changes nothing while the precheck runs, and begins one if it went with the task's failure.
        if is_newer(&seen) || seen.status() != v1::TaskStatus::Failed {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
        if is_newer(&cluster.task(task, 1).await?) {
            return Ok(());
        }
    }
}
