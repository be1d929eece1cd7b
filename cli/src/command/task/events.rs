//! `pgconvoy task events` and `explain`.

use std::time::Duration;

use clap::Args;
use pgconvoy_proto::v1;
use tokio::time::sleep;

use super::Which;
use crate::client::{Cluster, TaskClient};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::problem::Problem;
use crate::view::event::{EventView, ExplanationView, explanations_table};
use crate::view::task::has_ended;

/// How often new events are asked for.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// Show what happened to a task
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task events shop
  pgconvoy task events shop --follow -o json      # one JSON object a line")]
pub(super) struct Events {
    #[command(flatten)]
    which: Which,
    /// Only events after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: u32,
    /// Go on until the task has ended
    #[arg(long, conflicts_with = "limit")]
    follow: bool,
}

/// Tell for all that waits why it waits
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task explain shop")]
pub(super) struct Explain {
    #[command(flatten)]
    which: Which,
}

impl Events {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        let shown = reach.with(async |cluster| match self.follow {
            true => follow(cluster, &task, self.after, format).await,
            false => once(cluster, &task, self.after, self.limit, format).await,
        });
        shown.await.map(|()| Exit::Done)
    }
}

async fn fetch(
    cluster: &Cluster,
    task: &str,
    after: u64,
    limit: u32,
) -> Result<Vec<v1::Event>, Problem> {
    let request = || v1::ListEventsRequest { task: task.to_owned(), after, limit };
    let answer = cluster.tasks(async |mut client| client.list_events(request()).await).await?;
    Ok(answer.events)
}

async fn once(
    cluster: &Cluster,
    task: &str,
    after: u64,
    limit: u32,
    format: Format,
) -> Result<(), Problem> {
    let events = fetch(cluster, task, after, limit).await?;
    let events: Vec<EventView> = events.into_iter().map(EventView::from).collect();
    output::data(format, &events, |events| {
        events.iter().map(EventView::to_line).collect::<Vec<_>>().join("\n")
    })
}

async fn follow(
    cluster: &Cluster,
    task: &str,
    mut after: u64,
    format: Format,
) -> Result<(), Problem> {
    loop {
        // Asked before the events, so that those of the end are among them.
        let ended = has_ended(&cluster.task(task, 1).await?);
        for event in fetch(cluster, task, after, 0).await? {
            after = after.max(event.seq);
            output::data(format, &EventView::from(event), EventView::to_line)?;
        }
        if ended {
            return Ok(());
        }
        sleep(FOLLOW_PAUSE).await;
    }
}

impl Explain {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        let ask = async |mut client: TaskClient| {
            client.explain_task(v1::ExplainTaskRequest { task: task.clone() }).await
        };
        let answer = reach.with(async |cluster| cluster.tasks(ask).await).await?;
        let explanations: Vec<ExplanationView> =
            answer.explanations.into_iter().map(ExplanationView::from).collect();
        output::data(format, &explanations, |explanations| explanations_table(explanations))?;
        Ok(Exit::Done)
    }
}
