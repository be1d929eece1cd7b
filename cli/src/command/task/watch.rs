//! `pgconvoy task watch`.

use clap::Args;

use super::Which;
use crate::client;
use crate::command::migrate::conclude;
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
        let connection = self.which.reach.open().await?;
        let mut progress = Progress::new();
        let watched = connection
            .cluster
            .watch(&self.which.task, 1, |task| {
                match format {
                    Format::Table => progress.update(task),
                    Format::Json => output::json(&TaskView::from(task.clone()))?,
                }
                Ok(client::Watch::Further)
            })
            .await;
        progress.finish();
        let ended = match watched {
            Ok(last) => connection.cluster.task(&last.id, 1).await.and_then(|task| match format {
                Format::Table => conclude(task, format),
                // The last line told it.
                Format::Json => Ok(crate::command::migrate::exit_of(&task)),
            }),
            Err(problem) => Err(problem),
        };
        connection.close().await;
        ended
    }
}
