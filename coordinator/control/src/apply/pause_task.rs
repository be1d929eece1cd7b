//! `PauseTask`: nothing new is leased, what is leased is revoked. A result that still comes is taken.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, unless_fenced, wrong_status};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::{Afterwards, EventKind, TaskStatus};

pub(super) fn pause_task(cx: &mut Context<'_>, task: &TaskId) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match unless_fenced(clerk)? {
        TaskStatus::Running => {
            course::cutover_interrupted(clerk);
            clerk.record().status = TaskStatus::Paused;
            clerk.tell(EventKind::TaskPaused, "paused");
            course::revoke_all(clerk, Afterwards::Ready);
            Ok(answer(clerk, true))
        }
        TaskStatus::Paused => Ok(answer(clerk, false)),
        TaskStatus::Created | TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Done => {
            Err(wrong_status(clerk, "paused"))
        }
    })
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::unit::UnitKind;

    use crate::apply::story::Story;
    use crate::outcome::{Effect, Reception};
    use crate::rejected::Rejected;

    #[test]
    fn a_revoked_unit_stays_its_agents_until_that_one_answers() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a", "b"]);
        let held = story.lease("a", UnitKind::Copy);
        let revoked = story.pause();
        assert_eq!(
            revoked,
            [Effect::Revoke {
                unit: held.unit.clone(),
                agent: held.agent.clone(),
                epoch: held.epoch,
            }]
        );
        story.resume();
        assert_eq!(
            story.grant("b", &held.unit),
            Err(Rejected::NotReady { unit: held.unit.clone() }),
            "nobody knows yet whether a stopped"
        );
        assert_eq!(story.release(&held), Reception::Taken);
        let next = story.grant("b", &held.unit).expect("a has let go of it");
        assert!(next > held.epoch);
    }

    #[test]
    fn a_result_that_comes_after_the_pause_is_taken() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        story.pause();
        assert_eq!(story.copied(&held, 10), Reception::Taken);
        assert_eq!(story.copied(&held, 10), Reception::AlreadyTaken);
        assert_eq!(story.counts(UnitKind::Copy).done, 1);
    }
}
