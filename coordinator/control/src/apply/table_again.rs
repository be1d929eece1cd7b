//! `ResumeTable` and `ResyncTable`: a table goes on whose changes are kept, because what it was parked for is mended, or because
//! it is copied anew.

use pgconvoy_shared::ids::{TableNo, TaskId};

use super::{Context, answer, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::TaskStatus;
use crate::state::clerk::Clerk;

pub(super) fn resume_table(
    cx: &mut Context<'_>,
    task: &TaskId,
    name: &str,
) -> Result<Outcome, Rejected> {
    with_table(cx, task, name, "resumed", |clerk, no| Ok(course::resume_table(clerk, no)))
}

pub(super) fn resync_table(
    cx: &mut Context<'_>,
    task: &TaskId,
    name: &str,
) -> Result<Outcome, Rejected> {
    with_table(cx, task, name, "copied anew", |clerk, no| {
        course::resync_table(clerk, no).map_err(|why| Rejected::CannotCopyAnew {
            task: task.clone(),
            table: name.to_owned(),
            why,
        })
    })
}

fn with_table(
    cx: &mut Context<'_>,
    task: &TaskId,
    name: &str,
    asked: &'static str,
    change: impl FnOnce(&mut Clerk<'_>, TableNo) -> Result<bool, Rejected>,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| {
        let record = clerk.record();
        let table = record.live_tables().find(|(_, table)| table.surveyed.name.to_string() == name);
        let Some((no, _)) = table else {
            return Err(Rejected::UnknownTable { task: task.clone(), table: name.to_owned() });
        };
        match record.status {
            TaskStatus::Running | TaskStatus::Paused | TaskStatus::Failed => {
                let changed = change(clerk, no)?;
                Ok(answer(clerk, changed))
            }
            TaskStatus::Created | TaskStatus::Cancelled | TaskStatus::Done => {
                Err(wrong_status(clerk, asked))
            }
        }
    })
}
