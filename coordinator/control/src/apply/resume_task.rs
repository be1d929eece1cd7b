//! `ResumeTask`: a paused task goes on, a failed one tries again what it failed at, with new windows.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::command::Acknowledge;
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::{EventKind, TaskStatus};

pub(super) fn resume_task(
    cx: &mut Context<'_>,
    task: &TaskId,
    acknowledge: &Acknowledge,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match clerk.record().status {
        TaskStatus::Paused | TaskStatus::Failed => {
            clerk.tell(EventKind::TaskResumed, "resumed");
            course::acknowledge(clerk, acknowledge);
            course::resume(clerk);
            Ok(answer(clerk, true))
        }
        TaskStatus::Running => Ok(answer(clerk, false)),
        TaskStatus::Created | TaskStatus::Cancelled | TaskStatus::Done => {
            Err(wrong_status(clerk, "resumed"))
        }
    })
}
