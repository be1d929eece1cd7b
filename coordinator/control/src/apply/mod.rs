//! The state machine: one command at a time, in the order of the log.
//!
//! Deterministic: the same commands in the same order give the same state, outcomes and effects on each node. A refusal
//! is an outcome and changes nothing; a command that finds things done already says so. What the scheduler decided is
//! decided again here, in the log's order: two leaders that overlap can only produce refusals, never two owners.

mod cancel_task;
mod create_task;
mod cutover_task;
mod delete_task;
mod drain_agent;
mod forget_agent;
mod grant_leases;
mod leave_fence;
mod lose_agent;
mod note_export;
mod pause_task;
mod precheck_task;
mod register_agent;
mod reports;
mod resume_task;
mod start_task;
#[cfg(test)]
pub(crate) mod story;
mod table_again;

use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::time::Timestamp;

use crate::command::{Command, Stamped};
use crate::outcome::{Applied, Effect, Outcome};
use crate::rejected::Rejected;
use crate::state::clerk::Clerk;
use crate::state::{State, TaskStatus};

/// Applies one command.
pub fn apply(state: &mut State, stamped: &Stamped) -> Applied {
    let mut effects = Vec::new();
    let mut cx = Context { state, at: stamped.at, effects: &mut effects };
    let outcome = match &stamped.command {
        Command::CreateTask(create) => create_task::create_task(&mut cx, create),
        Command::StartTask { task, acknowledge } => {
            start_task::start_task(&mut cx, task, acknowledge)
        }
        Command::PauseTask { task } => pause_task::pause_task(&mut cx, task),
        Command::ResumeTask { task, acknowledge, passwords } => {
            resume_task::resume_task(&mut cx, task, acknowledge, passwords)
        }
        Command::CancelTask { task } => cancel_task::cancel_task(&mut cx, task),
        Command::DeleteTask { task } => delete_task::delete_task(&mut cx, task),
        Command::PrecheckTask { task } => precheck_task::precheck_task(&mut cx, task),
        Command::RegisterAgent(agent) => register_agent::register_agent(&mut cx, agent),
        Command::DrainAgent { agent } => drain_agent::drain_agent(&mut cx, agent, true),
        Command::UndrainAgent { agent } => drain_agent::drain_agent(&mut cx, agent, false),
        Command::LoseAgent { agent, incarnation } => {
            Ok(lose_agent::lose_agent(&mut cx, agent, *incarnation))
        }
        Command::ForgetAgent { agent } => forget_agent::forget_agent(&mut cx, agent),
        Command::GrantLeases(grants) => Ok(grant_leases::grant_leases(&mut cx, grants)),
        Command::Reports(reports) => Ok(reports::reports(&mut cx, reports)),
        Command::NoteExport(export) => note_export::note_export(&mut cx, export),
        Command::CutoverTask { task, settings } => {
            cutover_task::cutover_task(&mut cx, task, settings)
        }
        Command::LeaveFence { task } => leave_fence::leave_fence(&mut cx, task),
        Command::ResumeTable { task, table } => table_again::resume_table(&mut cx, task, table),
        Command::ResyncTable { task, table } => table_again::resync_table(&mut cx, task, table),
    };
    Applied { outcome, effects }
}

/// What a command works with.
struct Context<'a> {
    state: &'a mut State,
    at: Timestamp,
    effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    fn with_task<T>(
        &mut self,
        id: &TaskId,
        work: impl FnOnce(&mut Clerk<'_>) -> Result<T, Rejected>,
    ) -> Result<T, Rejected> {
        self.state.with_task(id, self.at, self.effects, work)
    }
}

/// The answer of a command about a task's status.
fn answer(clerk: &mut Clerk<'_>, changed: bool) -> Outcome {
    let record = clerk.record();
    Outcome::Task { task: record.id.clone(), status: record.status, changed }
}

/// How the task stands; refused while a cutover may have fenced its source.
fn unless_fenced(clerk: &mut Clerk<'_>) -> Result<TaskStatus, Rejected> {
    let record = clerk.record();
    if record.is_fenced() {
        return Err(Rejected::CutoverUnderWay { task: record.id.clone() });
    }
    Ok(record.status)
}

/// The refusal of a command that the task's status does not allow.
fn wrong_status(clerk: &mut Clerk<'_>, asked: &'static str) -> Rejected {
    let record = clerk.record();
    let remedy = match record.status {
        TaskStatus::Created => "start it",
        TaskStatus::Running => "pause or cancel it first",
        TaskStatus::Paused | TaskStatus::Failed => "resume or cancel it",
        TaskStatus::Cancelled | TaskStatus::Done => "it has ended: create a new task",
    };
    Rejected::WrongStatus { task: record.id.clone(), status: record.status, asked, remedy }
}
