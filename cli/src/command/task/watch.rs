//! `pgconvoy task watch`.

use clap::Args;

use super::Which;
use crate::client::{self, Cluster};
use crate::command::migrate::{conclude, exit_of};
use crate::command::remarks;
use crate::exit::Exit;
use crate::output::progress::Progress;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::view::task::TaskView;

/// Watch a task until it ends; its end decides the exit code
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task watch shop
  pgconvoy task watch shop -o json      # one JSON object a line for each change")]
pub(super) struct Watch {
    #[command(flatten)]
    which: Which,
}

impl Watch {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        reach.with(async |cluster| watch(cluster, &task, format).await).await
    }
}

async fn watch(cluster: &Cluster, task: &str, format: Format) -> Result<Exit, Problem> {
    let mut progress = Progress::new();
    let last = cluster
        .watch(task, 1, |task| {
            match format {
                Format::Table => progress.update(task),
                Format::Json => output::json(&TaskView::from(task.clone()))?,
            }
            Ok(client::Watch::Further)
        })
        .await?;
    progress.finish();
    match format {
        Format::Table => {
            remarks::tell(cluster, &last.id).await?;
            conclude(cluster.task(&last.id, 1).await?, format)
        }
        // The last line told it.
        Format::Json => Ok(exit_of(&last)),
    }
}
