//! `LeaveFence`: nobody tries to lift the fence of an undone cutover any more. Only where lifting is what is left to do: before, the
//! cutover ends by itself, and from the switch on the destination decides.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer};
use crate::course::{self, LeftFence};
use crate::outcome::Outcome;
use crate::rejected::Rejected;

pub(super) fn leave_fence(cx: &mut Context<'_>, task: &TaskId) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match course::leave_fence(clerk) {
        LeftFence::Left => Ok(answer(clerk, true)),
        LeftFence::None => Ok(answer(clerk, false)),
        LeftFence::InUse => Err(Rejected::CutoverUnderWay { task: task.clone() }),
    })
}
