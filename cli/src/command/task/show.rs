//! `pgconvoy task list` and `show`.

use clap::Args;
use pgconvoy_proto::v1;

use super::Which;
use crate::client::TaskClient;
use crate::connect::Reach;
use crate::exit::Exit;
use crate::output::{self, Format, note};
use crate::problem::Problem;
use crate::view::cutover::CutoverView;
use crate::view::task::{TaskView, tasks_table};

/// List all tasks
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task list -o json")]
pub(super) struct List {
    #[command(flatten)]
    reach: Reach,
}

/// Show one task: progress, tables, what runs, what is tried again
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pgconvoy task show shop\n  pgconvoy task show shop --tables 0 -o json"
)]
pub(super) struct Show {
    #[command(flatten)]
    which: Which,
    /// At most this many tables, the largest first; 0 = all
    #[arg(long, value_name = "N", default_value_t = 0)]
    tables: u32,
}

impl List {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let ask = async |mut client: TaskClient| client.list_tasks(v1::ListTasksRequest {}).await;
        let answer = self.reach.with(async |cluster| cluster.tasks(ask).await).await?;
        let tasks: Vec<TaskView> = answer.tasks.into_iter().map(TaskView::from).collect();
        output::data(format, &tasks, |tasks| tasks_table(tasks))?;
        Ok(Exit::Done)
    }
}

impl Show {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        let ask = reach.with_idle(async |cluster, idle| {
            let task = cluster.task(&task, self.tables).await?;
            Ok((task, idle.map(|idle| idle.dir.to_owned())))
        });
        let (task, idle) = ask.await?;
        let under_way = CutoverView::of(&task).is_some_and(|cutover| cutover.is_under_way());
        output::data(format, &TaskView::from(task), TaskView::to_text)?;
        if let Some(dir) = idle.filter(|_| under_way) {
            note(&format!(
                "a cutover is under way, and nothing runs on {}: run the same `pgconvoy migrate` again, which brings it to its end, done or undone",
                dir.display()
            ));
        }
        Ok(Exit::Done)
    }
}
