//! `CancelTask`: cancelled at once; a finish unit then removes what the task keeps at the databases (law O9).
//! Asked again after that was given up, it is tried again.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, unless_fenced, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::TaskStatus;

pub(super) fn cancel_task(cx: &mut Context<'_>, task: &TaskId) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match unless_fenced(clerk)? {
        TaskStatus::Created | TaskStatus::Running | TaskStatus::Paused | TaskStatus::Failed => {
            course::cancel(clerk);
            Ok(answer(clerk, true))
        }
        TaskStatus::Cancelled => {
            let changed = course::finish_again(clerk);
            Ok(answer(clerk, changed))
        }
        TaskStatus::Done => Err(wrong_status(clerk, "cancelled")),
    })
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::unit::{UnitKind, WorkResult};

    use crate::apply::story::Story;
    use crate::outcome::Reception;
    use crate::rejected::Rejected;
    use crate::state::TaskStatus;

    #[test]
    fn a_cancelled_task_is_cleaned_up_and_can_be_deleted_then() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a", "b"]);
        let held = story.lease("a", UnitKind::Copy);
        story.cancel();
        assert_eq!(story.status(), TaskStatus::Cancelled);
        assert_eq!(story.delete(), Err(Rejected::StillCleaningUp { task: story.task.clone() }));
        assert_eq!(story.copied(&held, 10), Reception::Taken, "the lease ends with any answer");
        assert_eq!(story.counts(UnitKind::Copy).total, 0, "but the result is dropped");
        let finish = story.lease("b", UnitKind::Finish);
        story.done(&finish, WorkResult::Finish);
        assert!(story.view().cleaned_up);
        assert!(story.delete().is_ok());
        assert!(story.state.busy.is_empty());
    }

    #[test]
    fn cleaning_up_waits_for_the_last_unit_that_could_still_write() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a", "b"]);
        let held = story.lease("a", UnitKind::Copy);
        story.cancel();
        let finish = story.ready_unit(UnitKind::Finish);
        assert_eq!(story.grant("b", &finish), Err(Rejected::NotReady { unit: finish.clone() }));
        story.lose("a");
        let _ = held;
        assert!(story.grant("b", &finish).is_ok());
    }

    #[test]
    fn cleaning_up_that_was_given_up_is_tried_again_when_asked() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        story.cancel();
        let finish = story.lease("a", UnitKind::Finish);
        story.fail(&finish, Failure::definite("wrong_password", "password rejected"));
        assert!(!story.view().cleaned_up);
        story.cancel();
        let finish = story.lease("a", UnitKind::Finish);
        story.done(&finish, WorkResult::Finish);
        assert!(story.view().cleaned_up);
    }

    #[test]
    fn a_task_that_touched_nothing_needs_no_cleaning_up() {
        let mut story = Story::created("shop");
        story.cancel();
        assert!(story.view().cleaned_up);
        assert!(story.delete().is_ok());
    }
}
