//! `pgconvoy task`.

mod change;
mod create;
mod cutover;
mod events;
mod precheck;
mod show;
mod verify;
mod watch;

use clap::{Args, Subcommand};

use super::NotYet;
use crate::connect::Reach;
use crate::exit::Exit;
use crate::output::Format;
use crate::problem::Problem;

/// Create migrations, watch them, steer them
#[derive(Debug, Args)]
pub(super) struct Task {
    #[command(subcommand)]
    command: TaskCommand,
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    Create(create::Create),
    List(show::List),
    Show(show::Show),
    Watch(watch::Watch),
    Events(events::Events),
    Explain(events::Explain),
    Precheck(precheck::Precheck),
    Start(change::Start),
    Pause(change::Pause),
    Resume(change::Resume),
    Cancel(change::Cancel),
    Delete(change::Delete),
    Verify(verify::Verify),
    Resync(change::Resync),
    Cutover(cutover::Cutover),
    #[command(hide = true)]
    Update(NotYet),
}

/// Which task, and where it is.
#[derive(Debug, Clone, Args)]
pub(super) struct Which {
    /// The task's id or name
    task: String,
    #[command(flatten)]
    reach: Reach,
}

impl Task {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        match self.command {
            TaskCommand::Create(command) => command.run(format).await,
            TaskCommand::List(command) => command.run(format).await,
            TaskCommand::Show(command) => command.run(format).await,
            TaskCommand::Watch(command) => command.run(format).await,
            TaskCommand::Events(command) => command.run(format).await,
            TaskCommand::Explain(command) => command.run(format).await,
            TaskCommand::Precheck(command) => command.run(format).await,
            TaskCommand::Start(command) => command.run(format).await,
            TaskCommand::Pause(command) => command.run(format).await,
            TaskCommand::Resume(command) => command.run(format).await,
            TaskCommand::Cancel(command) => command.run(format).await,
            TaskCommand::Delete(command) => command.run(format).await,
            TaskCommand::Resync(command) => command.run(format).await,
            TaskCommand::Verify(command) => command.run(format).await,
            TaskCommand::Cutover(command) => command.run(format).await,
            TaskCommand::Update(_) => Err(Problem::not_yet("changing a task's specification")),
        }
    }
}
