//! `pgconvoy task precheck`.

use clap::Args;
use pgconvoy_proto::v1;

use super::Which;
use crate::client::{self, Cluster};
use crate::command::precheck::report;
use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

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
    let request = || v1::PrecheckTaskRequest { task: task.to_owned() };
    cluster.tasks(async |mut client| client.precheck_task(request()).await).await?;
    let newer = |task: &v1::Task| {
        let there = task.precheck_ended_ms > before;
        Ok(if there { client::Watch::Enough } else { client::Watch::Further })
    };
    cluster.watch(task, 1, newer).await.map(|_| ())
}
