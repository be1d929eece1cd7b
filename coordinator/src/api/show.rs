//! What users see, from the control plane's words into the contract's.

use std::sync::Arc;

use pgconvoy_control::schedule::Explanation;
use pgconvoy_control::state::{Cutover, Event, KindCount, Phase, PhaseTime, TaskStatus};
use pgconvoy_control::view::{
    RetryingUnit, RunningUnit, StreamView, TableView, TaskView, VerificationView,
};
use pgconvoy_proto::v1;
use pgconvoy_shared::cutover::CutoverStep;
use pgconvoy_shared::spec::TaskSpec;
use pgconvoy_shared::time::Timestamp;
use pgconvoy_shared::verify::{ObjectsCompared, RowsCompared};

pub(super) fn task(view: TaskView) -> v1::Task {
    v1::Task {
        id: view.id.into(),
        name: view.name,
        status: status(view.status).into(),
        phase: phase(view.phase).into(),
        spec: Some(TaskSpec::clone(&view.spec).into()),
        created_ms: view.created.0,
        started_ms: or_zero(view.started),
        ended_ms: or_zero(view.ended),
        rows_done: view.rows_done,
        rows_total: view.rows_total,
        bytes_done: view.bytes_done,
        bytes_total: view.bytes_total,
        tables_total: view.tables_total,
        tables_done: view.tables_done,
        units: view.units.iter().map(units).collect(),
        tables: view.tables.into_iter().map(table).collect(),
        cause: view.cause.map(Into::into),
        precheck: view.precheck.iter().cloned().map(Into::into).collect(),
        acknowledged: view.acknowledged,
        precheck_ended_ms: or_zero(view.precheck_ended),
        running: view.running.into_iter().map(running).collect(),
        retrying: view.retrying.into_iter().map(retrying).collect(),
        cleaned_up: view.cleaned_up,
        phase_times: view.phase_times.into_iter().map(phase_time).collect(),
        purpose: v1::Purpose::from(view.purpose).into(),
        verification: view.verification.map(verification),
        stream: view.stream.map(stream),
        cutover: view.cutover.as_deref().map(cutover),
    }
}

fn stream(view: StreamView) -> v1::TaskStream {
    v1::TaskStream {
        start: view.opened.start.0,
        checkpoint: Some(view.checkpoint.into()),
        progress: view.progress.map(Into::into),
        tables_not_followed: view.not_followed.iter().cloned().map(Into::into).collect(),
        slot: view.slot.map(Into::into),
        tables_copied_anew: view.copied_anew.into_iter().map(Into::into).collect(),
    }
}

fn cutover(cutover: &Cutover) -> v1::Cutover {
    let step = |(step, at): &(CutoverStep, Timestamp)| v1::CutoverStepTime {
        step: v1::CutoverStep::from(*step).into(),
        began_ms: at.0,
    };
    let undone = cutover.ended.as_ref().and_then(|(outcome, _)| outcome.cause());
    v1::Cutover {
        attempt: cutover.attempt,
        settings: Some(cutover.settings.clone().into()),
        steps: cutover.steps.iter().map(step).collect(),
        setting_before: cutover.setting_before.clone(),
        lag_bytes: cutover.lag_bytes,
        fence: cutover.fence.0,
        ended_sessions: cutover.ended_sessions,
        left_sessions: cutover.left_sessions.clone(),
        fence_left: cutover.fence_left,
        marker: cutover.marker.0,
        sequences: cutover.sequences,
        outcome: cutover.ended.as_ref().map(|(how, _)| how.as_str().to_owned()).unwrap_or_default(),
        ended_ms: or_zero(cutover.ended.as_ref().map(|(_, at)| *at)),
        cause: undone.or(cutover.cause.as_ref()).cloned().map(Into::into),
        stopped_ms: cutover.stopped_ms(),
        compared: cutover.compared.map(|coverage| v1::CutoverCoverage {
            tables: coverage.tables,
            tables_left_out: coverage.tables_left_out,
            rows: coverage.rows,
            rows_compared: coverage.rows_compared,
            rows_moving: coverage.rows_moving,
            schema_objects: coverage.schema_objects,
        }),
        again_before: cutover.again_before.map(Into::into),
        again: cutover.again.map(Into::into),
        copied: cutover.copied.map(Into::into),
    }
}

fn verification(view: VerificationView) -> v1::Verification {
    let objects = |compared: Option<Arc<ObjectsCompared>>| {
        compared.map(|compared| ObjectsCompared::clone(&compared).into())
    };
    v1::Verification {
        settings: Some(view.settings.into()),
        schema: objects(view.schema),
        sequences: objects(view.sequences),
        tables_same: view.tables_same,
        tables_different: view.tables_different,
        tables_skipped: view.tables_skipped,
        tables_moving: view.tables_moving,
        tables_unlike: view.tables_unlike,
        tables_with_root: view.tables_with_root,
        rows: Some(view.rows.into()),
        differences: view.differences,
        complete: view.complete,
        by_cutover: view.by_cutover,
    }
}

pub(super) fn event(event: &Event) -> v1::Event {
    v1::Event {
        seq: event.seq,
        at_ms: event.at.0,
        kind: event.kind.as_str().to_owned(),
        message: event.message.clone(),
        agent: event.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        unit: event.unit.map(|unit| unit.0),
        failure: event.failure.clone().map(Into::into),
    }
}

pub(super) fn explanation(explanation: Explanation) -> v1::Explanation {
    let Explanation { code, message, units, examples } = explanation;
    v1::Explanation { code: code.to_owned(), message, units, examples }
}

pub(super) fn status(status: TaskStatus) -> v1::TaskStatus {
    match status {
        TaskStatus::Created => v1::TaskStatus::Created,
        TaskStatus::Running => v1::TaskStatus::Running,
        TaskStatus::Paused => v1::TaskStatus::Paused,
        TaskStatus::Failed => v1::TaskStatus::Failed,
        TaskStatus::Cancelled => v1::TaskStatus::Cancelled,
        TaskStatus::Done => v1::TaskStatus::Done,
    }
}

fn phase(phase: Phase) -> v1::Phase {
    match phase {
        Phase::Precheck => v1::Phase::Precheck,
        Phase::Schema => v1::Phase::Schema,
        Phase::Copy => v1::Phase::Copy,
        Phase::Index => v1::Phase::Index,
        Phase::Verify => v1::Phase::Verify,
        Phase::CatchUp => v1::Phase::CatchUp,
        Phase::Stream => v1::Phase::Stream,
        Phase::Cutover => v1::Phase::Cutover,
        Phase::Done => v1::Phase::Done,
    }
}

fn phase_time(time: PhaseTime) -> v1::PhaseTime {
    v1::PhaseTime {
        phase: phase(time.phase).into(),
        began_ms: time.began.0,
        ended_ms: or_zero(time.ended),
    }
}

fn units(count: &KindCount) -> v1::UnitCount {
    v1::UnitCount {
        kind: count.kind.as_str().to_owned(),
        total: count.total,
        done: count.done,
        running: count.running,
    }
}

fn table(table: TableView) -> v1::TaskTable {
    v1::TaskTable {
        name: table.name,
        status: table.status.as_str().to_owned(),
        rows_done: table.rows_done,
        rows_total: table.rows_total,
        bytes_done: table.bytes_done,
        bytes_total: table.bytes_total,
        shards: table.shards,
        shards_done: table.shards_done,
        generation: table.generation.0,
        cause: table.cause,
        verification: table.verification.to_owned(),
        rows_compared: table.rows_compared.map(|rows| RowsCompared::clone(&rows).into()),
        parked: table.parked.map(|parked| parked.cause.clone().into()),
    }
}

fn running(unit: RunningUnit) -> v1::RunningUnit {
    v1::RunningUnit {
        unit: unit.unit.0,
        kind: unit.kind.as_str().to_owned(),
        subject: unit.subject,
        agent: unit.agent.into(),
        epoch: unit.epoch.0,
        rows: unit.progress.rows,
        bytes: unit.progress.bytes,
        since_ms: unit.since.0,
    }
}

fn retrying(unit: RetryingUnit) -> v1::RetryingUnit {
    v1::RetryingUnit {
        unit: unit.unit.0,
        kind: unit.kind.as_str().to_owned(),
        subject: unit.subject,
        failure: Some(unit.failure.into()),
        attempts: unit.attempts,
        not_before_ms: or_zero(unit.not_before),
    }
}

/// On the wire, 0 is "not yet".
fn or_zero(time: Option<Timestamp>) -> u64 {
    time.map_or(0, |time| time.0)
}
