//! `PrecheckTask`: looks (again) whether the migration can work, whatever else the task does.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::TaskStatus;

pub(super) fn precheck_task(cx: &mut Context<'_>, task: &TaskId) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match clerk.record().status {
        TaskStatus::Created | TaskStatus::Paused | TaskStatus::Failed => {
            clerk.record().precheck_asked = true;
            let changed = course::ensure_precheck(clerk);
            Ok(answer(clerk, changed))
        }
        TaskStatus::Running => {
            let changed = course::ensure_precheck(clerk);
            Ok(answer(clerk, changed))
        }
        TaskStatus::Cancelled | TaskStatus::Done => Err(wrong_status(clerk, "prechecked")),
    })
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::{UnitKind, WorkResult};

    use crate::apply::story::{Story, warning};
    use crate::state::TaskStatus;

    #[test]
    fn a_created_task_can_be_prechecked_without_being_started() {
        let mut story = Story::created("shop").with_agents(&["a"]);
        story.precheck();
        let held = story.lease("a", UnitKind::Precheck);
        story.done(&held, WorkResult::Precheck(vec![warning("unlogged_tables")]));
        assert_eq!(story.status(), TaskStatus::Created);
        let view = story.view();
        assert_eq!(view.precheck.len(), 1);
        assert!(view.precheck_ended.is_some());
        assert!(story.state.busy.is_empty(), "nothing else was begun");
    }
}
