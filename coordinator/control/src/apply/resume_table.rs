//! `ResumeTable`: somebody says that the cause is mended for which a table was parked.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::TaskStatus;

pub(super) fn resume_table(
    cx: &mut Context<'_>,
    task: &TaskId,
    name: &str,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| {
        let record = clerk.record();
        let no = record.live_tables().find(|(_, table)| table.surveyed.name.to_string() == name);
        let Some((no, _)) = no else {
            return Err(Rejected::UnknownTable { task: task.clone(), table: name.to_owned() });
        };
        match record.status {
            TaskStatus::Running | TaskStatus::Paused | TaskStatus::Failed => {
                let changed = course::resume_table(clerk, no);
                Ok(answer(clerk, changed))
            }
            TaskStatus::Created | TaskStatus::Cancelled | TaskStatus::Done => {
                Err(wrong_status(clerk, "resumed"))
            }
        }
    })
}
