//! `DeleteTask`: forgets a task that left nothing behind, or whose cleaning up was given up.

use pgconvoy_shared::ids::{TaskId, UnitId};
use pgconvoy_shared::unit::UnitKind;

use super::Context;
use crate::outcome::{Effect, Outcome};
use crate::rejected::Rejected;
use crate::state::{Stage, State, TaskStatus};

pub(super) fn delete_task(cx: &mut Context<'_>, id: &TaskId) -> Result<Outcome, Rejected> {
    if !cx.state.tasks.contains_key(id) {
        return Ok(Outcome::Deleted { changed: false });
    }
    check(cx.state, id)?;
    // Only a precheck may still run, which changes nothing anywhere: its agent is told to stop, and nobody waits for it.
    let task = cx.state.task(id)?;
    let held: Vec<_> = task
        .index
        .leased
        .iter()
        .filter_map(|no| {
            let unit = task.record.unit(*no)?;
            let agent = unit.lease()?.agent.clone();
            Some((UnitId { task: id.clone(), no: *no }, agent, unit.epoch, unit.subject.kind()))
        })
        .collect();
    for (unit, agent, epoch, kind) in held {
        cx.state.agents.let_go(&agent, &unit, kind);
        cx.effects.push(Effect::Revoke { unit, agent, epoch });
    }
    cx.state.remove_task(id);
    Ok(Outcome::Deleted { changed: true })
}

fn check(state: &State, id: &TaskId) -> Result<(), Rejected> {
    let task = state.task(id)?;
    let record = &task.record;
    let refusal = |remedy| Rejected::WrongStatus {
        task: id.clone(),
        status: record.status,
        asked: "deleted",
        remedy,
    };
    let runs =
        task.index.leased.iter().any(|no| {
            record.unit(*no).is_some_and(|unit| unit.subject.kind() != UnitKind::Precheck)
        });
    match record.status {
        TaskStatus::Created | TaskStatus::Done => Ok(()),
        TaskStatus::Failed | TaskStatus::Paused if record.stage == Stage::Precheck => Ok(()),
        TaskStatus::Cancelled => {
            let finish = task.index.kind(UnitKind::Finish);
            let given_up = finish.failed > 0 && finish.open() == finish.failed;
            if !runs && (record.cleaned_up || given_up) {
                Ok(())
            } else {
                Err(Rejected::StillCleaningUp { task: id.clone() })
            }
        }
        TaskStatus::Failed | TaskStatus::Paused | TaskStatus::Running => {
            Err(refusal("cancel it first: that removes what it keeps at the databases; rows stay"))
        }
    }
}
