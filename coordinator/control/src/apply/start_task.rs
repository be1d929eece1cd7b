//! `StartTask`: the precheck comes first; whether the rest follows is decided at its gate.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::command::Acknowledge;
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::TaskStatus;

pub(super) fn start_task(
    cx: &mut Context<'_>,
    task: &TaskId,
    acknowledge: &Acknowledge,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match clerk.record().status {
        TaskStatus::Created => {
            course::acknowledge(clerk, acknowledge);
            course::start(clerk);
            Ok(answer(clerk, true))
        }
        TaskStatus::Running => Ok(answer(clerk, false)),
        TaskStatus::Paused | TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Done => {
            Err(wrong_status(clerk, "started"))
        }
    })
}
