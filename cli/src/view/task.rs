//! Tasks.

use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::parking::Cause;
use pgconvoy_shared::precheck::PrecheckItem;
use pgconvoy_shared::spec::TaskSpec;
use serde::Serialize;

use super::cutover::CutoverView;
use super::stream::{StreamView, bytes_behind};
use super::verification::{TableVerificationView, VerificationView};
use super::{non_empty, word};
use crate::output::human;
use crate::output::table::{fields, table};
use crate::problem::in_lines;

/// Whether a task does nothing more by itself.
pub(crate) fn has_ended(task: &v1::Task) -> bool {
    use v1::TaskStatus::{Cancelled, Done, Failed};
    matches!(task.status(), Done | Failed | Cancelled)
}

pub(crate) fn status_word(status: v1::TaskStatus) -> String {
    word(status.as_str_name(), "TASK_STATUS_")
}

pub(crate) fn phase_word(phase: v1::Phase) -> String {
    word(phase.as_str_name(), "PHASE_")
}

/// A task as JSON shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TaskView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) phase: String,
    rows_done: u64,
    rows_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    /// Known while a task follows its source's changes; none otherwise.
    lag_bytes: Option<u64>,
    lag_seconds: Option<u64>,
    /// Where changes are followed.
    stream: Option<StreamView>,
    /// The latest cutover.
    #[serde(skip_serializing_if = "Option::is_none")]
    cutover: Option<CutoverView>,
    tables_done: u32,
    tables_total: u32,
    tables: Vec<TableView>,
    pub(crate) cause: Option<Failure>,
    created_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    cleaned_up: bool,
    units: Vec<UnitCountView>,
    running: Vec<RunningView>,
    retrying: Vec<RetryingView>,
    phase_times: Vec<PhaseTimeView>,
    precheck: Vec<PrecheckItem>,
    precheck_ended_at: Option<String>,
    acknowledged: Vec<String>,
    purpose: String,
    /// Where both ends are compared.
    verification: Option<VerificationView>,
    spec: Option<TaskSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct TableView {
    name: String,
    status: String,
    rows_done: u64,
    rows_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    shards: u32,
    shards_done: u32,
    generation: u32,
    cause: Option<String>,
    /// Where both ends are compared.
    verification: Option<TableVerificationView>,
    /// Why its changes are kept instead of being applied.
    parked: Option<Cause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct UnitCountView {
    kind: String,
    total: u32,
    done: u32,
    running: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RunningView {
    unit: u32,
    kind: String,
    subject: String,
    agent: String,
    epoch: u32,
    rows: u64,
    bytes: u64,
    since: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RetryingView {
    unit: u32,
    kind: String,
    subject: String,
    failure: Option<Failure>,
    attempts: u32,
    not_before: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct PhaseTimeView {
    phase: String,
    began_at: Option<String>,
    ended_at: Option<String>,
    #[serde(skip)]
    ms: Option<u64>,
}

impl From<v1::Task> for TaskView {
    fn from(task: v1::Task) -> Self {
        let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
        let (lag_bytes, lag_seconds) =
            (progress.map(bytes_behind), progress.map(|now| now.lag_ms / 1000));
        let cutover = CutoverView::of(&task);
        Self {
            verification: VerificationView::of(&task),
            purpose: word(task.purpose().as_str_name(), "PURPOSE_"),
            status: status_word(task.status()),
            phase: phase_word(task.phase()),
            id: task.id,
            name: task.name,
            rows_done: task.rows_done,
            rows_total: task.rows_total,
            bytes_done: task.bytes_done,
            bytes_total: task.bytes_total,
            lag_bytes,
            lag_seconds,
            stream: task.stream.as_ref().map(StreamView::from),
            cutover,
            tables_done: task.tables_done,
            tables_total: task.tables_total,
            tables: task.tables.into_iter().map(TableView::from).collect(),
            cause: task.cause.and_then(|failure| failure.try_into().ok()),
            created_at: human::rfc3339(task.created_ms),
            started_at: human::rfc3339(task.started_ms),
            ended_at: human::rfc3339(task.ended_ms),
            cleaned_up: task.cleaned_up,
            units: task.units.into_iter().map(UnitCountView::from).collect(),
            running: task.running.into_iter().map(RunningView::from).collect(),
            retrying: task.retrying.into_iter().map(RetryingView::from).collect(),
            phase_times: task.phase_times.into_iter().map(PhaseTimeView::from).collect(),
            precheck: task.precheck.into_iter().filter_map(|item| item.try_into().ok()).collect(),
            precheck_ended_at: human::rfc3339(task.precheck_ended_ms),
            acknowledged: task.acknowledged,
            spec: task.spec.and_then(|spec| spec.try_into().ok()),
        }
    }
}

impl From<v1::TaskTable> for TableView {
    fn from(table: v1::TaskTable) -> Self {
        let compared = table.rows_compared.is_some();
        Self {
            verification: compared.then(|| TableVerificationView::of(&table)),
            name: table.name,
            status: table.status,
            rows_done: table.rows_done,
            rows_total: table.rows_total,
            bytes_done: table.bytes_done,
            bytes_total: table.bytes_total,
            shards: table.shards,
            shards_done: table.shards_done,
            generation: table.generation,
            cause: non_empty(&table.cause),
            parked: table.parked.and_then(|cause| cause.try_into().ok()),
        }
    }
}

impl From<v1::UnitCount> for UnitCountView {
    fn from(count: v1::UnitCount) -> Self {
        Self { kind: count.kind, total: count.total, done: count.done, running: count.running }
    }
}

impl From<v1::RunningUnit> for RunningView {
    fn from(unit: v1::RunningUnit) -> Self {
        Self {
            unit: unit.unit,
            kind: unit.kind,
            subject: unit.subject,
            agent: unit.agent,
            epoch: unit.epoch,
            rows: unit.rows,
            bytes: unit.bytes,
            since: human::rfc3339(unit.since_ms),
        }
    }
}

impl From<v1::RetryingUnit> for RetryingView {
    fn from(unit: v1::RetryingUnit) -> Self {
        Self {
            unit: unit.unit,
            kind: unit.kind,
            subject: unit.subject,
            failure: unit.failure.and_then(|failure| failure.try_into().ok()),
            attempts: unit.attempts,
            not_before: human::rfc3339(unit.not_before_ms),
        }
    }
}

impl From<v1::PhaseTime> for PhaseTimeView {
    fn from(time: v1::PhaseTime) -> Self {
        Self {
            phase: phase_word(time.phase()),
            began_at: human::rfc3339(time.began_ms),
            ended_at: human::rfc3339(time.ended_ms),
            ms: (time.ended_ms > 0).then(|| time.ended_ms.saturating_sub(time.began_ms)),
        }
    }
}

impl TaskView {
    /// Everything for people.
    pub(crate) fn to_text(&self) -> String {
        let unclean = self.status == "cancelled" && !self.cleaned_up;
        let mut parts = vec![fields([
            ("id", self.id.clone()),
            ("name", self.name.clone()),
            ("status", if unclean { "cancelled, cleaning up".into() } else { self.status.clone() }),
            ("phase", self.phase.clone()),
            ("from", self.end_text(|spec| &spec.source)),
            ("to", self.end_text(|spec| &spec.destination)),
            ("rows", done_of(self.rows_done, self.rows_total, human::count)),
            ("bytes", done_of(self.bytes_done, self.bytes_total, human::bytes)),
            ("tables", done_of(self.tables_done.into(), self.tables_total.into(), human::count)),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("started", self.started_at.clone().unwrap_or_default()),
            ("ended", self.ended_at.clone().unwrap_or_default()),
            ("acknowledged", self.acknowledged.join(", ")),
            ("cause", self.cause.as_ref().map(in_lines).unwrap_or_default()),
        ])];
        parts.extend(self.stream.as_ref().map(StreamView::to_text));
        if !self.tables.is_empty() {
            let rows = self.tables.iter().map(TableView::row);
            parts.push(table(&["table", "status", ">rows", ">bytes", ">shards", "cause"], rows));
        }
        if !self.running.is_empty() {
            let rows = self.running.iter().map(|unit| {
                let size = human::bytes(unit.bytes);
                [
                    unit.kind.clone(),
                    unit.subject.clone(),
                    unit.agent.clone(),
                    human::count(unit.rows),
                    size,
                ]
            });
            parts.push(table(&["running", "what", "agent", ">rows", ">bytes"], rows));
        }
        if !self.retrying.is_empty() {
            let rows = self.retrying.iter().map(|unit| {
                let why = unit.failure.as_ref().map(ToString::to_string).unwrap_or_default();
                let at = unit.not_before.clone().unwrap_or_default();
                [unit.kind.clone(), unit.subject.clone(), unit.attempts.to_string(), at, why]
            });
            parts.push(table(&["retrying", "what", ">attempts", "not before", "because"], rows));
        }
        parts.extend(self.verification_text());
        parts.extend(self.cutover.as_ref().map(CutoverView::to_text));
        parts.join("\n\n")
    }

    /// What came of comparing both ends, where that was asked for.
    pub(crate) fn verification_text(&self) -> Option<String> {
        let tables = self
            .tables
            .iter()
            .filter_map(|table| Some((table.name.as_str(), table.verification.as_ref()?)));
        Some(self.verification.as_ref()?.to_text(tables))
    }

    fn end_text(&self, end: impl Fn(&TaskSpec) -> &pgconvoy_shared::endpoint::Endpoint) -> String {
        self.spec.as_ref().map(|spec| end(spec).to_string()).unwrap_or_default()
    }

    /// What is said when an embedded migration has ended well: figures by phase.
    pub(crate) fn summary(&self) -> String {
        let mut lines = vec![format!(
            "{}: {}, {}, {}",
            self.name,
            human::counted(self.tables_total.into(), "table"),
            human::counted(self.rows_done, "row"),
            human::bytes(self.bytes_done)
        )];
        for time in &self.phase_times {
            let Some(ms) = time.ms else { continue };
            let rate = match (time.phase.as_str(), ms) {
                ("copy", 1..) if self.purpose != "verify" => {
                    format!(", {}/s", human::bytes(self.bytes_done.saturating_mul(1000) / ms))
                }
                _ => String::new(),
            };
            lines.push(format!("  {:<9} {}{rate}", time.phase, human::duration_ms(ms)));
        }
        lines.join("\n")
    }
}

impl TableView {
    fn row(&self) -> [String; 6] {
        [
            self.name.clone(),
            self.status.clone(),
            done_of(self.rows_done, self.rows_total, human::count),
            done_of(self.bytes_done, self.bytes_total, human::bytes),
            format!("{}/{}", self.shards_done, self.shards),
            self.cause.clone().unwrap_or_default(),
        ]
    }
}

/// The totals are estimates of the source's statistics until all is done.
fn done_of(done: u64, total: u64, show: fn(u64) -> String) -> String {
    if done >= total { show(done) } else { format!("{} of {}", show(done), show(total)) }
}

pub(crate) fn tasks_table(tasks: &[TaskView]) -> String {
    let rows = tasks.iter().map(|task| {
        [
            task.id.clone(),
            task.name.clone(),
            task.status.clone(),
            task.phase.clone(),
            match task.bytes_total {
                0 => "-".to_owned(),
                total => format!("{}%", human::percent(task.bytes_done, total)),
            },
            human::count(task.rows_done),
            human::bytes(task.bytes_done),
            task.created_at.clone().unwrap_or_default(),
        ]
    });
    table(&["id", "name", "status", "phase", ">done", ">rows", ">bytes", "created"], rows)
}

#[cfg(test)]
mod tests;
