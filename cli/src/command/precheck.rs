//! `pgconvoy precheck`: only the precheck, embedded. Changes nothing at either database, and leaves nothing here.

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_shared::failure::Failure;

use super::job::{Job, remove, start};
use super::migrate::exit_of;
use crate::client::{Cluster, Watch};
use crate::embedded::Embedded;
use crate::exit::Exit;
use crate::output::{self, Format, note};
use crate::problem::Problem;
use crate::submission::{Acknowledge, Wanted, new_request_id};
use crate::view::precheck::PrecheckView;

/// Two connections look at two databases.
const SLOTS: u32 = 2;

/// Look whether a migration can work; changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy precheck --source postgres://me@old/shop --destination postgres://me@new/shop
  pgconvoy precheck -f shop.yaml -o json

Exits with 3 if there is an error, or a database cannot be reached or used.")]
pub(super) struct Precheck {
    #[command(flatten)]
    job: Job,
}

impl Precheck {
    pub(super) async fn run(self, format: Format, shutdown: &Shutdown) -> Result<Exit, Problem> {
        let Job { spec, acknowledge, data_dir, agents } = self.job;
        let wanted = spec.wanted()?;
        let folder = data_dir.join("precheck");
        let embedded = start(&folder, agents, SLOTS, None).await?;
        let ended = tokio::select! {
            ended = look(&embedded, wanted, acknowledge, format) => ended,
            () = shutdown.begun() => Ok(Exit::Interrupted),
        };
        embedded.stop().await;
        let removed = remove(&folder, &data_dir);
        let exit = ended?;
        removed?;
        Ok(exit)
    }
}

async fn look(
    embedded: &Embedded,
    wanted: Wanted,
    acknowledge: Acknowledge,
    format: Format,
) -> Result<Exit, Problem> {
    let cluster = embedded.cluster();
    let request = wanted.request(new_request_id("precheck"), acknowledge)?;
    let request = v1::CreateTaskRequest { start: true, precheck_only: true, ..request };
    let created =
        cluster.tasks(async |mut client| client.create_task(request.clone()).await).await?;
    let task = tokio::select! {
        watched = cluster.watch(&created.task_id, 1, |_| Ok(Watch::Further)) => watched?,
        problem = embedded.failed() => return Err(problem),
    };
    report(&cluster, &task.id, format).await
}

/// Shows the task's last report.
pub(super) async fn report(cluster: &Cluster, task: &str, format: Format) -> Result<Exit, Problem> {
    let task = cluster.task(task, 1).await?;
    let report = PrecheckView::of(&task);
    output::data(format, &report, PrecheckView::to_text)?;
    if report.has_errors() {
        return Ok(Exit::Precheck);
    }
    let open = report.open_warnings();
    if !open.is_empty() {
        note(&format!(
            "warnings have to be acknowledged when the task is started: --ignore {}",
            open.join(",")
        ));
    }
    // It may have failed without a report, when no agent could run it.
    let failed = task.status() == v1::TaskStatus::Failed && report.items.is_empty();
    match task.cause.clone().and_then(|cause| Failure::try_from(cause).ok()) {
        Some(cause) if failed => Err(Problem::new(exit_of(&task), cause)),
        _ => Ok(Exit::Done),
    }
}
