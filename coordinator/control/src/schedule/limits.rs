//! How many units of a kind a task runs at once.

use pgconvoy_shared::unit::UnitKind;

use super::Reason;
use crate::state::TaskStatus;
use crate::state::clerk::Task;

/// Plans are short and read little; few of them keep many copies busy.
const PLANS_MAX: u32 = 4;
/// So many shards wait for each job before planning rests. Plans grow old: what is planned late is planned well.
const WAITING_PER_JOB: u32 = 4;

/// How many more units of this kind may be leased, and why no more.
pub(super) fn room(task: &Task, kind: UnitKind) -> (u32, Reason) {
    let record = &task.record;
    if !record.may_run(kind) {
        let runs = record.status == TaskStatus::Running;
        return (0, if runs { Reason::NoSnapshot } else { Reason::TaskAtRest });
    }
    if kind == UnitKind::Finish && !task.ends_alone() {
        return (0, Reason::UnitsEnding);
    }
    let copy = &record.spec.copy;
    let limit = match kind {
        UnitKind::Copy | UnitKind::VerifyRows => copy.jobs,
        UnitKind::VerifyPlan => copy.jobs.min(PLANS_MAX),
        UnitKind::Index | UnitKind::Analyze => copy.index_jobs,
        UnitKind::Plan => {
            let waiting = crate::state::count(task.index.kind(UnitKind::Copy).ready.len());
            if waiting >= copy.jobs.saturating_mul(WAITING_PER_JOB) {
                return (0, Reason::PlannedLater);
            }
            copy.jobs.min(PLANS_MAX)
        }
        // There is one of each.
        UnitKind::Precheck
        | UnitKind::SchemaPre
        | UnitKind::OpenStream
        | UnitKind::Stream
        | UnitKind::Survey
        | UnitKind::Audit
        | UnitKind::SchemaPost
        | UnitKind::Sequences
        | UnitKind::VerifySchema
        | UnitKind::VerifySequences
        | UnitKind::Cutover
        | UnitKind::Finish => 1,
    };
    (limit.max(1).saturating_sub(task.index.kind(kind).leased), Reason::TaskLimit)
}
