//! `CutoverTask`: the destination of a task that follows its source takes over. One at a time: asked again meanwhile, or when
//! it is done, it changes nothing.

use pgconvoy_shared::cutover::CutoverSettings;
use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::cutover::CutoverOutcome;
use crate::state::{Stage, TaskStatus};

pub(super) fn cutover_task(
    cx: &mut Context<'_>,
    task: &TaskId,
    settings: &CutoverSettings,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| {
        let copied_anew = clerk.task.copied_anew().next().map(|table| table.surveyed.name.clone());
        let record = clerk.record();
        let over = record.cutover.as_deref().map(|cutover| &cutover.ended);
        if matches!(over, Some(None | Some((CutoverOutcome::Done, _)))) {
            return Ok(answer(clerk, false));
        }
        if record.status != TaskStatus::Running {
            return Err(wrong_status(clerk, "cut over"));
        }
        if record.stage != Stage::Stream || copied_anew.is_some() {
            return Err(Rejected::NotInSync { task: task.clone(), copied_anew });
        }
        course::begin_cutover(clerk, settings);
        Ok(answer(clerk, true))
    })
}
