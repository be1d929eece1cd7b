//! `ResumeTask`: a paused task goes on, a failed one tries again what it failed at, with new windows.
//!
//! It brings new passwords where they were changed at the databases. No agent goes on with an old one: what is leased is
//! revoked, and the lease that follows carries the new one. What such a unit says of its old password meanwhile is no
//! failure, for it was told to stop; a result counts. So a running task takes new passwords in the same way.

use pgconvoy_shared::ids::TaskId;

use super::{Context, answer, wrong_status};
use crate::command::{Acknowledge, NewPasswords};
use crate::course;
use crate::outcome::Outcome;
use crate::rejected::Rejected;
use crate::state::clerk::Clerk;
use crate::state::{Afterwards, EventKind, TaskStatus};

pub(super) fn resume_task(
    cx: &mut Context<'_>,
    task: &TaskId,
    acknowledge: &Acknowledge,
    passwords: &NewPasswords,
) -> Result<Outcome, Rejected> {
    cx.with_task(task, |clerk| match clerk.record().status {
        TaskStatus::Paused | TaskStatus::Failed => {
            clerk.tell(EventKind::TaskResumed, "resumed");
            renew(clerk, passwords);
            course::acknowledge(clerk, acknowledge);
            course::resume(clerk);
            Ok(answer(clerk, true))
        }
        TaskStatus::Running => {
            let renewed = renew(clerk, passwords);
            Ok(answer(clerk, renewed))
        }
        TaskStatus::Created | TaskStatus::Cancelled | TaskStatus::Done => {
            Err(wrong_status(clerk, "resumed"))
        }
    })
}

/// False = there is no new password.
fn renew(clerk: &mut Clerk<'_>, passwords: &NewPasswords) -> bool {
    let ends = match (&passwords.source, &passwords.destination) {
        (None, None) => return false,
        (Some(_), None) => "the source",
        (None, Some(_)) => "the destination",
        (Some(_), Some(_)) => "both ends",
    };
    let record = clerk.record();
    for (known, new) in [
        (&mut record.source_password, &passwords.source),
        (&mut record.destination_password, &passwords.destination),
    ] {
        if new.is_some() {
            known.clone_from(new);
        }
    }
    let message = format!("has a new password for {ends}; what runs begins again with it");
    clerk.tell(EventKind::PasswordsRenewed, message);
    course::revoke_all(clerk, Afterwards::Ready);
    true
}

#[cfg(test)]
mod tests {
    use pgconvoy_shared::failure::Failure;
    use pgconvoy_shared::secret::Sealed;
    use pgconvoy_shared::unit::UnitKind;

    use super::*;
    use crate::apply::story::{Held, Story};
    use crate::command::Command;
    use crate::rejected::Rejected;
    use crate::work;

    fn resume_with(story: &mut Story, source: &[u8]) -> Result<Outcome, Rejected> {
        let passwords = NewPasswords { source: Some(Sealed(source.to_vec())), destination: None };
        let (task, acknowledge) = (story.task.clone(), Acknowledge::default());
        story.apply(Command::ResumeTask { task, acknowledge, passwords }).outcome
    }

    fn password_of(story: &Story, held: &Held) -> Option<Vec<u8>> {
        let order = work::order(&story.state, &held.unit).expect("it is leased");
        order.source_password.map(|sealed| sealed.0)
    }

    #[test]
    fn no_agent_goes_on_with_the_old_password() {
        let mut story = Story::copying(&[("public.orders", 4)]).with_agents(&["a", "b"]);
        let slow = story.lease("b", UnitKind::Copy);
        let held = story.lease("a", UnitKind::Copy);
        let rejected = || Failure::definite("wrong_password", "password rejected");
        story.fail(&held, rejected());
        assert!(resume_with(&mut story, b"new").is_ok());
        assert!(story.event(EventKind::PasswordsRenewed).contains("the source"));
        let again = story.lease("a", UnitKind::Copy);
        assert_eq!(password_of(&story, &again), Some(b"new".to_vec()));
        // What still had the old one fails as it must, and the task goes on.
        story.fail(&slow, rejected());
        assert_eq!(story.status(), TaskStatus::Running);
    }

    #[test]
    fn a_running_task_takes_a_new_password_and_what_runs_begins_again() {
        let mut story = Story::copying(&[("public.orders", 3)]).with_agents(&["a"]);
        let held = story.lease("a", UnitKind::Copy);
        assert!(matches!(
            resume_with(&mut story, b"new"),
            Ok(Outcome::Task { changed: true, status: TaskStatus::Running, .. })
        ));
        assert!(work::order(&story.state, &held.unit).is_none(), "it is revoked");
        story.release(&held);
        let again = story.lease("a", UnitKind::Copy);
        assert_eq!(again.unit, held.unit);
        assert_eq!(password_of(&story, &again), Some(b"new".to_vec()));
    }
}
