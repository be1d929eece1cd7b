//! `pgconvoy task verify`.

use clap::Args;
use pgconvoy_proto::v1;

use super::Which;
use crate::client::{self, Cluster};
use crate::command::migrate::conclude;
use crate::command::verify::SampleFlag;
use crate::exit::Exit;
use crate::output::progress::Progress;
use crate::output::{Format, note};
use crate::problem::Problem;
use crate::report::ReportFlag;
use crate::submission::new_request_id;

/// Compare both ends of a task: schema, rows, sequences; writes to neither
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task verify shop
  pgconvoy task verify shop --sample 5 -o json

It runs as a task of its own, `shop-verify-1`, which stays in the list with what it found. What was
written at either end since the migration differs too. Of rows a task keeps the first 100 of each
table; an agent with --differences lists all that it finds, where it runs, and the report names its
files. Exits with 4 if anything differs.")]
pub(super) struct Verify {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    sample: SampleFlag,
    #[command(flatten)]
    report: ReportFlag,
    /// Your mark on this request, for sending it again safely
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Verify {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, sample, report, request_id } = self;
        let request = v1::VerifyTaskRequest {
            task,
            settings: Some(sample.settings()),
            request_id: request_id.unwrap_or_else(|| new_request_id("verify")),
        };
        let report = report.create()?;
        let task = reach.with(async |cluster| compare(cluster, &request).await).await?;
        if let Some(report) = report {
            report.write(&task, None)?;
        }
        conclude(task, format)
    }
}

async fn compare(cluster: &Cluster, request: &v1::VerifyTaskRequest) -> Result<v1::Task, Problem> {
    let created =
        cluster.tasks(async |mut client| client.verify_task(request.clone()).await).await?;
    note(&format!("task {} compares", created.task_id));
    let mut progress = Progress::new();
    let ended = cluster
        .watch(&created.task_id, 1, |task| {
            progress.update(task);
            Ok(client::Watch::Further)
        })
        .await?;
    progress.finish();
    cluster.task(&ended.id, 0).await
}
