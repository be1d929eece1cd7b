//! A cutover, as commands ask for it: `task cutover` of any task, `migrate --until cutover` of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_proto::v1::cutover_settings::Compare as Wire;
use pgconvoy_shared::cutover::{
    DEFAULT_CHECK_BUDGET_MS, DEFAULT_SEQUENCE_MARGIN, DEFAULT_TIMEOUT_MS,
};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::spec::measure;
use pgconvoy_shared::verify::{Sample, VerifySettings};
use tokio::time::{Instant, sleep};

use super::verify::sample;
use crate::client::{Cluster, Watch};
use crate::exit::Exit;
use crate::output::note;
use crate::problem::Problem;
use crate::view::cutover::CutoverView;

/// How a cutover is made.
#[derive(Debug, Clone, Args)]
pub(super) struct CutoverFlags {
    #[command(flatten)]
    writers: WritersFlags,
    /// From the fence to the switch at most so many seconds; then it is undone [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: Option<u64>,
    /// Set sequences so many values further than the source's [default: 0]
    #[arg(long, value_name = "N")]
    sequence_margin: Option<u32>,
    /// Rows to compare before anything is stopped: all, none, or so many percent of them [default: all]
    #[arg(long, value_name = "ROWS", value_parser = Compare::parse)]
    compare: Option<Compare>,
    /// Behind the fence, compare again what was changed since, for at most so long; then it is undone. 0 = not at all [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = budget_ms)]
    check_budget: Option<u64>,
    /// Behind the fence, copy unlogged tables and large objects again, which no stream brings: writers are stopped for so much longer
    #[arg(long)]
    copy_again: bool,
    /// Leave sessions of this role where the task's role may not end them; what they write before the switch undoes it, later it is lost
    #[arg(long, value_name = "ROLE", value_delimiter = ',', conflicts_with = "writers_stopped")]
    leave_sessions_of: Vec<String>,
}

/// `0`, `1s`, `500ms`.
fn budget_ms(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    measure::duration_ms(text).map_err(|bad| format!("{bad}; {}", bad.remedy))
}

/// What is compared before anything is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// Some of the rows, or all; and the schema.
    Rows(Sample),
    Nothing,
}

impl Compare {
    /// `all`, `none`, `5`, `2.5`.
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::Rows(Sample::ALL)),
            "none" => Ok(Self::Nothing),
            percent => sample(percent).map(Self::Rows),
        }
    }
}

/// Who keeps writers from the source.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
struct WritersFlags {
    /// Make the source's database read-only by default and end other sessions
    #[arg(long)]
    fence: bool,
    /// You stopped all that writes to the source, and say so
    #[arg(long)]
    writers_stopped: bool,
}

impl CutoverFlags {
    /// Anything is said.
    pub(super) fn is_given(&self) -> bool {
        let Self {
            writers,
            timeout,
            sequence_margin,
            compare,
            check_budget,
            copy_again,
            leave_sessions_of,
        } = self;
        let numbers = timeout.is_some() || sequence_margin.is_some() || check_budget.is_some();
        let beside = numbers || compare.is_some() || *copy_again || !leave_sessions_of.is_empty();
        writers.fence || writers.writers_stopped || beside
    }

    /// What is asked for; `ignore` may be left behind, by code.
    pub(super) fn settings(&self, ignore: Vec<String>) -> Result<v1::CutoverSettings, Problem> {
        let writers = match self.writers {
            WritersFlags { fence: true, .. } => v1::Writers::Fenced,
            WritersFlags { writers_stopped: true, .. } => v1::Writers::Stopped,
            WritersFlags { .. } => {
                let message = "a cutover has to know who keeps writers from the source";
                let remedy = "say --fence, or stop them all yourself and say --writers-stopped";
                return Err(Problem::usage("bad_usage", message, remedy));
            }
        };
        let by = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        Ok(v1::CutoverSettings {
            writers: writers.into(),
            dry_run: false,
            timeout_ms: self.timeout.map_or(DEFAULT_TIMEOUT_MS, |seconds| seconds * 1_000),
            sequence_margin: self.sequence_margin.unwrap_or(DEFAULT_SEQUENCE_MARGIN),
            by: by.unwrap_or_default(),
            ignore,
            compare: self.compare.map(|compare| match compare {
                Compare::Rows(sample) => Wire::Rows(VerifySettings { sample }.into()),
                Compare::Nothing => Wire::Nothing(v1::CompareNothing {}),
            }),
            copy_again: self.copy_again,
            leave_sessions_of: self.leave_sessions_of.clone(),
            check_budget_ms: Some(self.check_budget.unwrap_or(DEFAULT_CHECK_BUDGET_MS)),
        })
    }
}

/// What its end means for the exit code.
pub(super) fn exit_of(view: &CutoverView) -> Exit {
    let differs = |cause: &Failure| {
        let codes = [
            "verification_differs",
            "cutover_schema_differs",
            "cutover_rows_differ",
            "cutover_tables_changed",
        ];
        codes.contains(&&*cause.code)
    };
    match &view.cause {
        _ if view.is_good() => Exit::Done,
        Some(cause) if differs(cause) => Exit::Differs,
        _ => Exit::Failed,
    }
}

/// Begins a cutover, or finds the one that is under way or done; tells each step, and what came of it.
pub(super) async fn cut_over(
    cluster: &Cluster,
    task: &str,
    settings: &v1::CutoverSettings,
) -> Result<CutoverView, Problem> {
    let request =
        || v1::CutoverTaskRequest { task: task.to_owned(), settings: Some(settings.clone()) };
    let answer = cluster.tasks(async |mut client| client.cutover_task(request()).await).await?;
    if !answer.changed {
        let other = cluster.task(&answer.task_id, 1).await?;
        if let Some(other) = CutoverView::of(&other) {
            must_be_of_one_kind(settings, &other)?;
        }
        note("a cutover is under way already, or done; this is how it goes");
    }
    let mut told = BTreeSet::new();
    let mut tell = |view: &CutoverView| {
        for line in view.steps_told() {
            if told.insert(line.clone()) {
                note(&line);
            }
        }
    };
    let mut next = Instant::now() + SILENCE_MAX;
    let last = cluster
        .watch(&answer.task_id, 1, |task| {
            let Some(view) = CutoverView::of(task) else { return Ok(Watch::Further) };
            tell(&view);
            if Instant::now() >= next {
                view.goes_on_told(task).iter().for_each(|line| note(line));
                next = Instant::now() + SILENCE_MAX;
            }
            Ok(if view.outcome.is_some() { Watch::Enough } else { Watch::Further })
        })
        .await?;
    let last = until_let_go(cluster, last).await?;
    let view = CutoverView::of(&last).ok_or_else(|| {
        let failure = Failure::other("internal_error", "the task tells of no cutover");
        Problem::new(Exit::Failed, failure)
    })?;
    tell(&view);
    Ok(view)
}

/// A rehearsal is none of what was asked for by a cutover, nor the other way round. (What is done needs no rehearsal.)
fn must_be_of_one_kind(asked: &v1::CutoverSettings, other: &CutoverView) -> Result<(), Problem> {
    let (message, remedy) = match (asked.dry_run, other.is_rehearsal()) {
        (false, true) => (
            "a rehearsal is under way, and a cutover does not begin beside it",
            "wait until it is over (`task show`), then ask again",
        ),
        (true, false) if !other.is_good() => (
            "a cutover is under way, and a rehearsal does not begin beside it",
            "`task show` tells how it goes, and so does the same command without --dry-run",
        ),
        _ => return Ok(()),
    };
    Err(Problem::usage("cutover_under_way", message, remedy))
}

/// A task that fails is watched no longer; but what it had fenced is let go after that, by the same agents.
async fn until_let_go(cluster: &Cluster, mut task: v1::Task) -> Result<v1::Task, Problem> {
    let limit = BESIDE_TIMEOUT + timeout_of(&task);
    let end = Instant::now() + limit;
    while CutoverView::of(&task).is_some_and(|view| view.holds_source()) {
        if Instant::now() >= end {
            note(&format!(
                "the source could not be let go within {} s: agents go on trying, `task show {}` tells when it is",
                limit.as_secs(),
                task.name
            ));
            break;
        }
        sleep(PAUSE).await;
        task = cluster.task(&task.id, 1).await?;
    }
    Ok(task)
}

/// After so long without a word it is told that a step goes on: before the fence, it takes as long as it takes.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How often it is looked whether the source is let go.
const PAUSE: Duration = Duration::from_millis(250);

/// What a step may take beyond the cutover's own time: to be taken back, by another agent perhaps.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until the cutover that is under way is done or undone, for as long as that should take.
pub(super) async fn wait(cluster: &Cluster, task: &str) -> Result<(), Problem> {
    let limit = BESIDE_TIMEOUT + timeout_of(&cluster.task(task, 1).await?);
    let over = async {
        let watched = cluster.watch(task, 1, |task| {
            let view = CutoverView::of(task);
            let is_over = view.is_none_or(|view| view.outcome.is_some());
            Ok(if is_over { Watch::Enough } else { Watch::Further })
        });
        until_let_go(cluster, watched.await?).await
    };
    match tokio::time::timeout(limit, over).await {
        Ok(over) => over.map(drop),
        Err(_elapsed) => Ok(()),
    }
}

fn timeout_of(task: &v1::Task) -> Duration {
    let settings = task.cutover.as_ref().and_then(|found| found.settings.as_ref());
    settings.map_or(Duration::ZERO, |settings| Duration::from_millis(settings.timeout_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_time_with_its_unit_or_nothing() {
        assert_eq!((budget_ms("0"), budget_ms("500ms")), (Ok(0), Ok(500)));
        for bad in ["0.5s", "2"] {
            let told = budget_ms(bad).unwrap_err();
            assert!(told.contains("`500ms`"), "{told}");
        }
    }
}
