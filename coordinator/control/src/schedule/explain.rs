//! Why units of a task wait, for people.

use pgconvoy_shared::ids::{TaskId, UnitNo};
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::unit::UnitKind;

use super::{Observed, Reason, plan};
use crate::liveness::Presence;
use crate::sites::Sites;
use crate::state::clerk::Task;
use crate::state::index::KINDS;
use crate::state::unit::is_due;
use crate::state::{Stage, State, TaskStatus};

/// Examples in one explanation.
const EXAMPLES_MAX: usize = 8;

/// A reason why units wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Stable, snake_case.
    pub code: &'static str,
    /// In a sentence.
    pub message: String,
    /// How many units it holds back.
    pub units: u32,
    /// Some of them: `copy public.orders shard 3 (unit 17)`.
    pub examples: Vec<String>,
}

/// Everything that holds units of a task back; nothing if the task is unknown. Plans once more: not for each event.
#[must_use]
pub fn explain(
    state: &State,
    observed: &Observed<'_>,
    now: Timestamp,
    id: &TaskId,
) -> Vec<Explanation> {
    let Some(task) = state.tasks.get(id) else { return Vec::new() };
    let mut all = Vec::new();
    all.extend(status(task));
    for held in plan(state, observed, now).held_back.into_iter().filter(|held| held.task == *id) {
        if held.reason != Reason::TaskAtRest {
            let ready = &task.index.kind(held.kind).ready;
            // The first ones are those that would have been granted.
            let skip = ready.len().saturating_sub(held.units as usize);
            let examples = examples(task, ready.iter().skip(skip).map(|(_, no)| *no));
            all.push(held_back(
                state,
                observed,
                task,
                held.kind,
                held.reason,
                held.units,
                examples,
            ));
        }
    }
    all.extend(back_off(task, now));
    all.extend(given_up(task));
    all.extend(stopping(task));
    all.extend(later(task));
    all
}

fn examples(task: &Task, units: impl Iterator<Item = UnitNo>) -> Vec<String> {
    let name = |no: UnitNo| {
        let unit = task.record.unit(no)?;
        Some(format!("{} (unit {no})", task.record.describe(&unit.subject)))
    };
    units.filter_map(name).take(EXAMPLES_MAX).collect()
}

fn status(task: &Task) -> Option<Explanation> {
    let record = &task.record;
    let (code, message) = match record.status {
        TaskStatus::Running => return None,
        TaskStatus::Created => ("task_created", "the task is not started".to_owned()),
        TaskStatus::Paused => {
            ("task_paused", "the task is paused: resume lets it go on".to_owned())
        }
        TaskStatus::Failed => {
            let cause = record.cause.as_ref().map(ToString::to_string).unwrap_or_default();
            ("task_failed", format!("the task failed: {cause}; resume tries again"))
        }
        TaskStatus::Cancelled if record.cleaned_up => {
            ("task_cancelled", "the task is cancelled, and nothing of it is left to do".to_owned())
        }
        TaskStatus::Cancelled => {
            let message = "the task is cancelled; an agent still has to remove what it keeps at the databases";
            ("task_cancelled", message.to_owned())
        }
        TaskStatus::Done => ("task_done", "the task is done".to_owned()),
    };
    let units = KINDS.iter().map(|kind| crate::state::count(task.index.kind(*kind).ready.len()));
    Some(Explanation { code, message, units: units.sum(), examples: Vec::new() })
}

fn held_back(
    state: &State,
    observed: &Observed<'_>,
    task: &Task,
    kind: UnitKind,
    reason: Reason,
    units: u32,
    examples: Vec<String>,
) -> Explanation {
    let copy = &task.record.spec.copy;
    let (code, message) = match reason {
        Reason::TaskAtRest => ("task_at_rest", "the task does not run".to_owned()),
        Reason::NoSnapshot => (
            "waits_for_snapshot",
            "no agent exports the task's snapshot any more; the survey takes the next one"
                .to_owned(),
        ),
        Reason::UnitsEnding => (
            "waits_for_units",
            "units of the task have not stopped yet; cleaning up comes after the last of them"
                .to_owned(),
        ),
        Reason::TaskLimit => {
            let running = task.index.kind(kind).leased;
            let setting = match kind {
                UnitKind::Copy | UnitKind::VerifyPlan | UnitKind::VerifyRows => {
                    format!(" (copy.jobs = {})", copy.jobs)
                }
                UnitKind::Index | UnitKind::Analyze => {
                    format!(" (copy.index_jobs = {})", copy.index_jobs)
                }
                UnitKind::Precheck
                | UnitKind::SchemaPre
                | UnitKind::OpenStream
                | UnitKind::Stream
                | UnitKind::Survey
                | UnitKind::Plan
                | UnitKind::Audit
                | UnitKind::SchemaPost
                | UnitKind::Sequences
                | UnitKind::VerifySchema
                | UnitKind::VerifySequences
                | UnitKind::Cutover
                | UnitKind::Finish => String::new(),
            };
            let kind = kind.as_str();
            (
                "task_limit",
                format!("{running} {kind} units run, as many as the task allows{setting}"),
            )
        }
        Reason::PlannedLater => (
            "planned_later",
            "enough shards wait to be copied: more tables are planned when there are fewer"
                .to_owned(),
        ),
        Reason::NoAgent => ("no_agent", "no agent is connected".to_owned()),
        Reason::NoAgentOfSite => {
            let Sites { at, with } = Sites::of(&task.record.spec);
            let deserted =
                |site: &&str| !state.agents().any(|agent| agent.present && agent.site == **site);
            let sites = [at, with].into_iter().flatten().filter(deserted);
            let sites: Vec<_> = sites.map(|site| format!("`{site}`")).collect();
            ("no_agent_of_site", format!("no agent is at site {}", sites.join(", nor at site ")))
        }
        Reason::AgentsFull => agents_full(state, observed),
        Reason::NextPlan => ("next", "they are next".to_owned()),
    };
    Explanation { code, message, units, examples }
}

fn agents_full(state: &State, observed: &Observed<'_>) -> (&'static str, String) {
    let (mut full, mut draining, mut unknown, mut lost) = (0, 0, 0, 0);
    for agent in state.agents().filter(|agent| agent.present) {
        match observed.presence(agent) {
            Presence::Alive if agent.draining => draining += 1,
            Presence::Alive => full += 1,
            Presence::Unknown => unknown += 1,
            Presence::Lost => lost += 1,
        }
    }
    let code = if full == 0 && unknown > 0 { "agents_unknown" } else { "agents_full" };
    let message = format!(
        "no free slot: {full} agents run as much as they can, {draining} are draining, {unknown} have not been heard of \
         since the leader was elected, {lost} are being given up"
    );
    (code, message)
}

fn back_off(task: &Task, now: Timestamp) -> Option<Explanation> {
    let waiting = || {
        KINDS
            .iter()
            .flat_map(|kind| task.index.kind(*kind).back_off.iter())
            .filter(|(not_before, _)| !is_due(*not_before, now))
    };
    let units = crate::state::count(waiting().count());
    let first = waiting().map(|(not_before, _)| *not_before).min()?;
    let failure = task
        .index
        .troubled
        .iter()
        .find_map(|(_, no)| task.record.unit(*no)?.trouble.as_ref()?.failure.as_ref());
    let because =
        failure.map(|failure| format!("; the latest failure: {failure}")).unwrap_or_default();
    let seconds = first.since_ms(now).div_ceil(1_000);
    Some(Explanation {
        code: "back_off",
        message: format!("tried again after a pause, the first in {seconds} s{because}"),
        units,
        examples: examples(task, waiting().map(|(_, no)| *no)),
    })
}

fn given_up(task: &Task) -> Option<Explanation> {
    let failed = &task.index.failed;
    (!failed.is_empty()).then(|| Explanation {
        code: "given_up",
        message: "failed for good; resume tries again".to_owned(),
        units: crate::state::count(failed.len()),
        examples: examples(task, failed.iter().copied()),
    })
}

/// Revoked units whose agents have not answered.
fn stopping(task: &Task) -> Option<Explanation> {
    let revoked: Vec<_> = task
        .index
        .leased
        .iter()
        .copied()
        .filter(|no| {
            let lease = task.record.unit(*no).and_then(|unit| unit.lease());
            lease.is_some_and(|lease| lease.revoked.is_some())
        })
        .collect();
    (!revoked.is_empty()).then(|| Explanation {
        code: "stopping",
        message: "told to stop; leased again once their agents have answered or are lost"
            .to_owned(),
        units: crate::state::count(revoked.len()),
        examples: examples(task, revoked.iter().copied()),
    })
}

/// Stages that wait for the present one. Their units do not exist yet, so none is counted.
fn later(task: &Task) -> Option<Explanation> {
    let record = &task.record;
    let waits = record.status == TaskStatus::Running && record.stage < Stage::Finish;
    waits.then(|| {
        let open: Vec<_> = KINDS
            .into_iter()
            .filter(|kind| task.index.kind(*kind).open() > 0)
            .map(|kind| format!("{} {}", task.index.kind(kind).open(), kind.as_str()))
            .collect();
        Explanation {
            code: "waits_for_units",
            message: format!(
                "what comes later waits for units that are not done: {}",
                open.join(", ")
            ),
            units: 0,
            examples: Vec::new(),
        }
    })
}
