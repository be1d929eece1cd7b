//! `pgconvoy task start`, `pause`, `resume`, `cancel` and `delete`: each says what it made of the task, and does nothing
//! the second time. Where nothing runs on a data directory, `cancel` and `delete` have the task cleaned up themselves.

use std::path::PathBuf;

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_shared::endpoint::Endpoint;
use pgconvoy_shared::spec::TaskSpec;
use serde_json::json;
use tonic::{Response, Status};

use super::Which;
use crate::client::{Cluster, TaskClient};
use crate::command::cleaning;
use crate::exit::Exit;
use crate::output::{self, Format, note};
use crate::problem::Problem;
use crate::submission::{Acknowledge, Wanted};
use crate::view::cutover::CutoverView;
use crate::view::task::status_word;

/// Start a created task
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task start shop --ignore unlogged_table")]
pub(super) struct Start {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    acknowledge: Acknowledge,
}

/// Pause a task: its units end, its checkpoints stay
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task pause shop")]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    fence: LeaveFence,
}

/// Let a paused or failed task go on from its checkpoints
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task resume shop
  pgconvoy task resume shop -f shop.yaml     # after a password was changed
  pgconvoy task resume shop --table public.orders     # after what it was parked for was mended

With -f the passwords are found anew where the task file says (or in PGPASSFILE), and the task,
running or not, uses them from now on. Nothing else of the file is taken.

With --table a table that is parked goes on: the changes that were kept of it are applied, in order,
and it follows the source again. If one of them is refused again, it is parked again.")]
pub(super) struct Resume {
    /// Task file (YAML) that says where the passwords are now; - reads standard input
    #[arg(short = 'f', long = "file", value_name = "TASK.yaml")]
    file: Option<PathBuf>,
    #[command(flatten)]
    acknowledge: Acknowledge,
    #[command(flatten)]
    which: Which,
    /// Let this parked table go on, `schema.name`, and nothing else
    #[arg(long, value_name = "TABLE", conflicts_with_all = ["file", "ignore", "yes"])]
    table: Option<String>,
}

/// Copy one table anew, while the others are followed
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  pgconvoy task resync shop public.orders

For a table that is parked and cannot be mended, or that somebody wrote to at the destination. Its
rows there are removed and copied again; what the source changes meanwhile is kept, and applied then.")]
pub(super) struct Resync {
    /// The table, `schema.name`
    #[arg(value_name = "TABLE", index = 2)]
    table: String,
    #[command(flatten)]
    which: Which,
}

/// Cancel a task: what it made at the source goes, rows at the destination stay
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task cancel shop")]
pub(super) struct Cancel {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    fence: LeaveFence,
}

/// What a task that waits for a source that is gone is stopped with.
#[derive(Debug, Clone, Copy, Args)]
struct LeaveFence {
    /// Where an undone cutover has only its fence left to be lifted, and the source is gone: give that up, and tell what lifts it
    #[arg(long)]
    leave_fence: bool,
}

impl LeaveFence {
    /// What stays behind, where that was said.
    async fn tell(self, cluster: &Cluster, task: &str) -> Result<(), Problem> {
        if self.leave_fence {
            let task = cluster.task(task, 1).await?;
            if let Some(left) = CutoverView::of(&task).and_then(|view| view.left_fence()) {
                note(&left);
            }
        }
        Ok(())
    }
}

/// Forget a task that has ended
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pgconvoy task delete shop")]
pub(super) struct Delete {
    #[command(flatten)]
    which: Which,
}

impl Start {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Acknowledge { ignore, yes } = self.acknowledge;
        let request = v1::StartTaskRequest {
            task: self.which.task.clone(),
            acknowledge: ignore,
            acknowledge_all: yes,
        };
        let ask = async |mut client: TaskClient| client.start_task(request.clone()).await;
        change(self.which, format, ask).await
    }
}

impl Pause {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, fence } = self;
        let request = v1::PauseTaskRequest { task, leave_fence: fence.leave_fence };
        let ask = async |mut client: TaskClient| client.pause_task(request.clone()).await;
        let pause = reach.with(async |cluster| {
            let answer = cluster.tasks(ask).await?;
            fence.tell(cluster, &answer.task_id).await?;
            Ok(answer)
        });
        show(&pause.await?, format)?;
        Ok(Exit::Done)
    }
}

impl Resume {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        if let Some(table) = self.table {
            return go_on(self.which, table, format).await;
        }
        let Which { task, reach } = self.which;
        let Acknowledge { ignore, yes } = self.acknowledge;
        let request = v1::ResumeTaskRequest {
            task: task.clone(),
            acknowledge: ignore,
            acknowledge_all: yes,
            ..Default::default()
        };
        let wanted = self.file.as_deref().map(Wanted::from_file).transpose()?;
        let resume = async |cluster: &Cluster| {
            let request = match wanted {
                Some(wanted) => {
                    must_lead_there(&cluster.task(&task, 1).await?, &wanted)?;
                    let [source_password, destination_password] = wanted.passwords()?;
                    v1::ResumeTaskRequest { source_password, destination_password, ..request }
                }
                None => request,
            };
            cluster.tasks(async |mut client| client.resume_task(request.clone()).await).await
        };
        show(&reach.with(resume).await?, format)?;
        Ok(Exit::Done)
    }
}

/// A parked table follows its source again.
async fn go_on(which: Which, table: String, format: Format) -> Result<Exit, Problem> {
    let Which { task, reach } = which;
    let request = v1::ResumeTaskRequest { task, table: table.clone(), ..Default::default() };
    let ask = async |mut client: TaskClient| client.resume_task(request.clone()).await;
    let answer = reach.with(async |cluster| cluster.tasks(ask).await).await?;
    let told = ["goes on", "is not parked, or was resumed already"];
    show_table(&answer, &table, told, format)
}

impl Resync {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, table } = self;
        let request = v1::ResyncTableRequest { task, table: table.clone() };
        let ask = async |mut client: TaskClient| client.resync_table(request.clone()).await;
        let answer = reach.with(async |cluster| cluster.tasks(ask).await).await?;
        show_table(&answer, &table, ["is copied anew", "is being copied anew already"], format)
    }
}

/// What became of a table: in words, where something changed and where nothing did.
fn show_table(
    answer: &v1::TaskStateResponse,
    table: &str,
    [changed, unchanged]: [&str; 2],
    format: Format,
) -> Result<Exit, Problem> {
    let id = &answer.task_id;
    let value = json!({ "task_id": id, "table": table, "changed": answer.changed });
    output::data(format, &value, |_| {
        format!("{id}: {table} {}", if answer.changed { changed } else { unchanged })
    })?;
    Ok(Exit::Done)
}

/// A password is of a role at a server: those of another task's file are not for this one.
fn must_lead_there(task: &v1::Task, wanted: &Wanted) -> Result<(), Problem> {
    let there = task.spec.clone().and_then(|spec| TaskSpec::try_from(spec).ok());
    let spec = &wanted.submission.spec;
    let same = |there: &Endpoint, here: &Endpoint| {
        (&there.host, there.port, &there.database, &there.user)
            == (&here.host, here.port, &here.database, &here.user)
    };
    if there.is_some_and(|there| {
        same(&there.source, &spec.source) && same(&there.destination, &spec.destination)
    }) {
        return Ok(());
    }
    let message = format!("the task file names other databases or roles than task {}", task.id);
    let remedy = "give the file that the task was created from; a task stays with its two ends";
    Err(Problem::usage("file_of_another_task", message, remedy))
}

impl Cancel {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, fence } = self;
        let request = v1::CancelTaskRequest { task, leave_fence: fence.leave_fence };
        let ask = async |mut client: TaskClient| client.cancel_task(request.clone()).await;
        let cancel = reach.with_idle(async |cluster, idle| {
            let answer = cluster.tasks(ask).await?;
            fence.tell(cluster, &answer.task_id).await?;
            // Only now, or the agent would go on with a task that was about to be cancelled.
            let cleaned_up = match idle {
                Some(idle) => cleaning::with_an_agent(cluster, &answer.task_id, idle).await,
                None => Ok(()),
            };
            Ok((answer, cleaned_up))
        });
        let (answer, cleaned_up) = cancel.await?;
        show(&answer, format)?;
        cleaned_up.map(|()| Exit::Done)
    }
}

async fn change(
    which: Which,
    format: Format,
    ask: impl AsyncFn(TaskClient) -> Result<Response<v1::TaskStateResponse>, Status>,
) -> Result<Exit, Problem> {
    let answer = which.reach.with(async |cluster| cluster.tasks(ask).await).await?;
    show(&answer, format)?;
    Ok(Exit::Done)
}

fn show(answer: &v1::TaskStateResponse, format: Format) -> Result<(), Problem> {
    let status = status_word(answer.status());
    let value = json!({ "task_id": answer.task_id, "status": status, "changed": answer.changed });
    output::data(format, &value, |_| {
        format!("{}: {status}{}", answer.task_id, if answer.changed { "" } else { " already" })
    })
}

impl Delete {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Which { task, reach } = self.which;
        let ask = async |mut client: TaskClient| {
            client.delete_task(v1::DeleteTaskRequest { task: task.clone() }).await
        };
        let delete =
            reach.with_idle(async |cluster, idle| match (cluster.tasks(&ask).await, idle) {
                (Err(problem), Some(idle)) if problem.has_code("still_cleaning_up") => {
                    cleaning::with_an_agent(cluster, &task, idle).await?;
                    cluster.tasks(&ask).await
                }
                (answer, _) => answer,
            });
        let changed = delete.await?.changed;
        let value = json!({ "task": task, "changed": changed });
        output::data(format, &value, |_| {
            format!("{task}: {}", if changed { "deleted" } else { "there is no such task" })
        })?;
        Ok(Exit::Done)
    }
}
