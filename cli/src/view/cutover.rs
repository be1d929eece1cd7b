//! Cutovers.

use pgconvoy_proto::v1;
use pgconvoy_proto::v1::cutover_settings::Compare;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::{quote_identifier, quote_literal};
use serde::Serialize;

use super::stream::bytes_behind;
use super::verification::percent;
use super::{non_empty, word};
use crate::output::human;

/// The record of a cutover, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CutoverView {
    pub(crate) attempt: u32,
    /// fenced, stopped.
    writers: String,
    dry_run: bool,
    by: String,
    steps: Vec<StepView>,
    lag_bytes: u64,
    compared: Option<CoverageView>,
    /// Because it was changed since: while writers worked, and behind the fence.
    again_before: Option<AgainView>,
    again: Option<AgainView>,
    /// Behind the fence, for no stream brings it.
    copied: Option<CopiedView>,
    fence: Option<Lsn>,
    ended_sessions: u32,
    /// Sessions that the fence left.
    left_sessions: Vec<String>,
    marker: Option<Lsn>,
    sequences: u32,
    sequence_margin: u32,
    /// done, rehearsed, undone; none = it is under way.
    pub(crate) outcome: Option<String>,
    ended_at: Option<String>,
    /// How long writers were kept away.
    stopped_ms: u64,
    pub(crate) cause: Option<Failure>,
    /// Since when the source is fenced, while it is under way.
    fenced_at: Option<String>,
    /// What lifts the fence by hand: one that stands while it is under way, that stays after the switch, or that could not be lifted.
    lifts_fence: Option<String>,
    /// That was given up.
    fence_left: bool,
    destination: String,
    /// The task goes on: its source is followed.
    #[serde(skip)]
    goes_on: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct StepView {
    step: String,
    began_at: Option<String>,
    /// Until the next one began, or it ended.
    ms: Option<u64>,
}

/// What was compared of both ends before anybody was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CoverageView {
    tables: u32,
    tables_left_out: u32,
    /// Of the rows.
    sample_percent: String,
    rows: u64,
    rows_compared: u64,
    /// Changed again and again meanwhile.
    rows_moving: u64,
    schema_objects: u64,
}

impl CoverageView {
    fn of(found: v1::CutoverCoverage, settings: &v1::CutoverSettings) -> Self {
        let sample = match settings.compare {
            Some(Compare::Rows(rows)) => rows.sample_hundredths,
            // Without a word, all of them.
            Some(Compare::Nothing(_)) | None => 0,
        };
        Self {
            tables: found.tables,
            tables_left_out: found.tables_left_out,
            sample_percent: percent(sample),
            rows: found.rows,
            rows_compared: found.rows_compared,
            rows_moving: found.rows_moving,
            schema_objects: found.schema_objects,
        }
    }

    fn to_text(&self) -> String {
        let mut left_out = Vec::new();
        if self.rows_compared < self.rows {
            left_out.push(human::counted(self.rows - self.rows_compared, "row"));
        }
        if self.rows_moving > 0 {
            left_out.push(human::counted(self.rows_moving, "moving row"));
        }
        if self.tables_left_out > 0 {
            left_out.push(human::counted(self.tables_left_out.into(), "table"));
        }
        if self.schema_objects == 0 {
            left_out.push("the schema".to_owned());
        }
        let but = match left_out.as_slice() {
            [] => String::new(),
            some => format!("; not compared: {}", some.join(", ")),
        };
        format!(
            "{} in {} and {} compared before{but}",
            human::counted(self.rows_compared, "row"),
            human::counted(self.tables.into(), "table"),
            human::counted(self.schema_objects, "object"),
        )
    }
}

/// What was compared again, because it was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct AgainView {
    tables: u32,
    /// Too large to be compared whole, and no key tells which of their rows were changed.
    tables_left_out: u32,
    /// About so many, where not all were kept.
    keys: u64,
    keys_compared: u64,
}

impl From<v1::CutoverAgain> for AgainView {
    fn from(found: v1::CutoverAgain) -> Self {
        let v1::CutoverAgain { tables, tables_left_out, keys, keys_compared } = found;
        Self { tables, tables_left_out, keys, keys_compared }
    }
}

impl AgainView {
    fn to_text(self) -> String {
        let of = match self.keys_compared {
            compared if compared < self.keys => {
                format!(" of about {}", human::counted(self.keys, "row"))
            }
            _ => String::new(),
        };
        let left_out = match self.tables_left_out {
            0 => String::new(),
            tables => {
                let tables = human::counted(tables.into(), "table");
                format!(", and nothing of {tables} without a key, or emptied meanwhile")
            }
        };
        let compared = human::counted(self.keys_compared, "row");
        format!("{compared}{of} in {}{left_out}", human::counted(self.tables.into(), "table"))
    }
}

/// What was copied again behind the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct CopiedView {
    /// Unlogged ones.
    tables: u32,
    rows: u64,
    large_objects: u64,
}

impl From<v1::CutoverCopied> for CopiedView {
    fn from(found: v1::CutoverCopied) -> Self {
        let v1::CutoverCopied { tables, rows, large_objects } = found;
        Self { tables, rows, large_objects }
    }
}

impl CopiedView {
    fn to_text(self) -> String {
        format!(
            "\n  copied again behind the fence: {} in {}, {}",
            human::counted(self.rows, "row"),
            human::counted(self.tables.into(), "unlogged table"),
            human::counted(self.large_objects, "large object")
        )
    }
}

impl CutoverView {
    /// What was compared, for people.
    fn compared_text(&self) -> String {
        self.compared
            .as_ref()
            .map_or_else(|| "nothing was compared before".to_owned(), CoverageView::to_text)
    }

    /// What was compared again, for people.
    fn again_text(&self) -> String {
        let Some(again) = self.again else {
            return "what was changed since was not compared again".to_owned();
        };
        let before = self.again_before.filter(|before| before.keys > 0);
        let before = before.map(|before| format!("{} before the fence; ", before.to_text()));
        format!(
            "changed since, and compared again: {}{} behind the fence",
            before.unwrap_or_default(),
            again.to_text()
        )
    }

    fn left_sessions_text(&self) -> String {
        match self.left_sessions.as_slice() {
            [] => String::new(),
            some => format!(
                "\n  the fence left these sessions, which may write at the source still: {}",
                some.join("; ")
            ),
        }
    }

    /// That the source is fenced while it is under way, and what lifts that by hand.
    fn fence_text(&self) -> Option<String> {
        let since = self.fenced_at.as_ref()?;
        let lifts = self.lifts_fence.as_ref()?;
        Some(format!(
            "\n  since {since} the source is fenced (its database is read-only by default), until this is done or undone. Only if nobody is to \
             bring it to its end, this lets it be written to again: {lifts}"
        ))
    }

    /// What a fence that nobody lifts any more leaves behind, and what lifts it.
    pub(crate) fn left_fence(&self) -> Option<String> {
        let lifts = self.lifts_fence.as_ref().filter(|_| self.fence_left)?;
        Some(format!(
            "the source may stand behind its fence still (its database is read-only by default, and sessions that began there stay so until \
             they end); when it is back, this lets it be written to again: {lifts}"
        ))
    }

    pub(crate) fn of(task: &v1::Task) -> Option<Self> {
        let found = task.cutover.as_ref()?;
        let settings = found.settings.clone().unwrap_or_default();
        let spec = task.spec.as_ref();
        let source = spec.and_then(|spec| spec.source.as_ref());
        let destination = spec.and_then(|spec| spec.destination.as_ref());
        let done = found.outcome == "done";
        let fenced = settings.writers() == v1::Writers::Fenced;
        // Another's fence, which was found in its place, is not its own.
        let by_another =
            found.cause.as_ref().is_some_and(|cause| cause.code == "cutover_source_fenced");
        let stands = found.outcome.is_empty() && fenced && !by_another;
        let fence = found.steps.iter().find(|step| step.step() == v1::CutoverStep::Fence);
        let fenced_at = fence.filter(|_| stands).and_then(|step| human::rfc3339(step.began_ms));
        let ends = found.steps.iter().skip(1).map(|next| next.began_ms);
        let ends = ends.chain([found.ended_ms]);
        let steps = found.steps.iter().zip(ends).map(|(step, end)| StepView {
            step: word(step.step().as_str_name(), "CUTOVER_STEP_"),
            began_at: human::rfc3339(step.began_ms),
            ms: (end > 0).then(|| end.saturating_sub(step.began_ms)),
        });
        Some(Self {
            attempt: found.attempt,
            writers: word(settings.writers().as_str_name(), "WRITERS_"),
            dry_run: settings.dry_run,
            compared: found.compared.map(|found| CoverageView::of(found, &settings)),
            again_before: found.again_before.map(Into::into),
            again: found.again.map(Into::into),
            copied: found.copied.map(Into::into),
            by: settings.by,
            steps: steps.collect(),
            lag_bytes: found.lag_bytes,
            fence: (found.fence > 0).then_some(Lsn(found.fence)),
            ended_sessions: found.ended_sessions,
            left_sessions: found.left_sessions.clone(),
            fence_left: found.fence_left,
            marker: (found.marker > 0).then_some(Lsn(found.marker)),
            sequences: found.sequences,
            sequence_margin: settings.sequence_margin,
            outcome: non_empty(&found.outcome),
            ended_at: human::rfc3339(found.ended_ms),
            stopped_ms: found.stopped_ms,
            cause: found.cause.clone().and_then(|cause| cause.try_into().ok()),
            lifts_fence: source
                .filter(|_| done && fenced || fenced_at.is_some() || found.fence_left)
                .map(|end| lifts_fence(end, found.setting_before.as_deref())),
            fenced_at,
            destination: destination.map(|end| end.host.clone()).unwrap_or_default(),
            goes_on: task.status() == v1::TaskStatus::Running,
        })
    }

    /// It is under way, and the source is fenced or about to be.
    pub(crate) fn holds_source(&self) -> bool {
        self.outcome.is_none() && self.steps.iter().any(|step| step.step == "fence")
    }

    /// Nobody is to be stopped for it.
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.dry_run
    }

    /// It is neither done nor undone yet.
    pub(crate) fn is_under_way(&self) -> bool {
        self.outcome.is_none()
    }

    /// It ended as was asked for.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.outcome.as_deref(), Some("done" | "rehearsed"))
    }

    /// Steps that are over, each with its time.
    pub(crate) fn steps_told(&self) -> impl Iterator<Item = String> {
        let over = self.steps.iter().filter_map(|step| Some((step, step.ms?)));
        over.map(|(step, ms)| format!("  {:<7} {}", step.step, human::duration_ms(ms)))
    }

    /// That its step goes on, and what the stream does meanwhile.
    pub(crate) fn goes_on_told(&self, task: &v1::Task) -> Option<String> {
        let step = self.steps.last().filter(|step| step.ms.is_none())?;
        let now = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
        let stream = now.map_or_else(String::new, |now| {
            let counts = now.changes.unwrap_or_default();
            let changes = counts.inserts + counts.updates + counts.deletes;
            format!(
                "; {} applied, {} behind",
                human::counted(changes, "change"),
                human::bytes(bytes_behind(now))
            )
        });
        Some(format!("  {:<7} goes on{stream}", step.step))
    }

    /// For people.
    pub(crate) fn to_text(&self) -> String {
        let lag = human::bytes(self.lag_bytes);
        match self.outcome.as_deref() {
            None => {
                let step = self.steps.last().map_or("", |step| &step.step);
                format!("cutover: at step {step}{}", self.fence_text().unwrap_or_default())
            }
            Some("rehearsed") => format!(
                "cutover: nothing stands in the way; the source was {lag} ahead. Writers would be stopped for about as long \
                 as that takes to apply, and a second or two\n  {}",
                self.compared_text()
            ),
            Some("done") => {
                let (fence, marker) =
                    (self.fence.unwrap_or_default(), self.marker.unwrap_or_default());
                let by = non_empty(&self.by).map(|by| format!(", by {by}")).unwrap_or_default();
                let lifts = self.lifts_fence.as_ref().map(|statement| {
                    format!(
                        "\n  the source stays fenced; this lets it be written to again: {statement}"
                    )
                });
                format!(
                    "cutover: done at {}{by}; writes may start at {}\n  writers were stopped for {}; fence {fence}, marker {marker}, \
                     no change behind it; {} set\n  {}\n  {}{}{}",
                    self.ended_at.clone().unwrap_or_default(),
                    self.destination,
                    human::duration_ms(self.stopped_ms),
                    human::counted(self.sequences.into(), "sequence"),
                    self.compared_text(),
                    self.again_text(),
                    self.copied.map(CopiedView::to_text).unwrap_or_default()
                        + &self.left_sessions_text(),
                    lifts.unwrap_or_default(),
                )
            }
            Some(undone) => {
                let stopped = match self.stopped_ms {
                    0 => "nobody was stopped".to_owned(),
                    ms => format!("writers were stopped for {}", human::duration_ms(ms)),
                };
                let why =
                    self.cause.as_ref().map(|cause| cause.message.clone()).unwrap_or_default();
                let source = match self.left_fence() {
                    Some(left) => left,
                    None if self.goes_on => "the source is as before, and is followed".to_owned(),
                    None => "the source is as before".to_owned(),
                };
                format!("cutover: {undone}: {why}\n  {stopped}; {source}")
            }
        }
    }
}

/// It is said most likely within that very database, where a transaction reads only unless it says otherwise.
fn lifts_fence(source: &v1::Endpoint, before: Option<&str>) -> String {
    let set = match before {
        Some(value) => {
            format!("set default_transaction_read_only = {}", quote_literal(value))
        }
        None => "reset default_transaction_read_only".to_owned(),
    };
    let (database, role) = (quote_identifier(&source.database), quote_identifier(&source.user));
    format!(
        "begin read write; alter database {database} {set}; alter role {role} in database {database} reset application_name; commit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_a_cutover_tells_what_was_proved_and_what_lifts_the_fence() {
        let end = |host: &str| v1::Endpoint {
            host: host.to_owned(),
            database: "Shop".into(),
            user: "mover".into(),
            ..Default::default()
        };
        let cutover = v1::Cutover {
            attempt: 1,
            settings: Some(v1::CutoverSettings {
                writers: v1::Writers::Fenced.into(),
                by: "ann".into(),
                ..Default::default()
            }),
            steps: vec![
                v1::CutoverStepTime { step: v1::CutoverStep::Check.into(), began_ms: 1_000 },
                v1::CutoverStepTime { step: v1::CutoverStep::Fence.into(), began_ms: 3_000 },
            ],
            fence: 16,
            compared: Some(v1::CutoverCoverage {
                tables: 3,
                rows: 1_000,
                rows_compared: 1_000,
                rows_moving: 2,
                schema_objects: 9,
                ..Default::default()
            }),
            again_before: Some(v1::CutoverAgain {
                tables: 1,
                keys: 7,
                keys_compared: 7,
                ..Default::default()
            }),
            again: Some(v1::CutoverAgain {
                tables: 2,
                tables_left_out: 1,
                keys: 9,
                keys_compared: 3,
            }),
            copied: Some(v1::CutoverCopied { tables: 1, rows: 5, large_objects: 0 }),
            marker: 32,
            left_sessions: vec!["pgAdmin from a local socket as rdsadmin".into()],
            sequences: 2,
            outcome: "done".into(),
            ended_ms: 4_500,
            stopped_ms: 1_500,
            ..Default::default()
        };
        let spec = v1::TaskSpec {
            source: Some(end("old")),
            destination: Some(end("new")),
            ..Default::default()
        };
        let task = v1::Task { spec: Some(spec), cutover: Some(cutover), ..Default::default() };
        let view = CutoverView::of(&task).expect("there was one");
        let mut under_way = task.clone();
        let told = |task: &v1::Task| CutoverView::of(task).expect("there was one");
        if let Some(cutover) = &mut under_way.cutover {
            cutover.outcome.clear();
        }
        let text = told(&under_way).to_text();
        assert!(text.starts_with("cutover: at step fence\n  since 1970-01-01"), "{text}");
        assert!(
            text.contains("begin read write; alter database")
                && text.ends_with("application_name; commit"),
            "{text}"
        );
        let shown = serde_json::to_value(told(&under_way)).expect("JSON");
        assert!(shown["fenced_at"].is_string() && shown["lifts_fence"].is_string(), "{shown}");
        if let Some(cutover) = &mut under_way.cutover {
            let code = "cutover_source_fenced".to_owned();
            cutover.cause = Some(v1::Failure { code, ..Default::default() });
        }
        assert_eq!(told(&under_way).lifts_fence, None, "another's");
        let mut undone = task.clone();
        if let Some(cutover) = &mut undone.cutover {
            (cutover.outcome, cutover.fence_left) = ("undone".into(), true);
        }
        let undone = told(&undone).to_text();
        assert!(
            undone.contains("behind its fence still")
                && undone.ends_with("application_name; commit"),
            "{undone}"
        );
        let text = view.to_text();
        assert!(view.is_good() && text.contains("by ann; writes may start at new"), "{text}");
        assert!(text.contains("fence 0/10, marker 0/20"), "{text}");
        assert!(
            text.ends_with(
                r#"begin read write; alter database "Shop" reset default_transaction_read_only; alter role "mover" in database "Shop" reset application_name; commit"#
            ),
            "{text}"
        );
        let compared =
            "1,000 rows in 3 tables and 9 objects compared before; not compared: 2 moving rows";
        assert!(text.contains(compared), "{text}");
        let again = "7 rows in 1 table before the fence; 3 rows of about 9 rows in 2 tables, and nothing of 1 table without a key";
        assert!(text.contains(again), "{text}");
        assert!(text.contains("as rdsadmin"), "{text}");
        assert!(text.contains("5 rows in 1 unlogged table, 0 large objects"), "{text}");
        assert_eq!(view.steps_told().count(), 2);
    }
}
