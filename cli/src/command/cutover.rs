//! A cutover, as commands ask for it: `task cutover` of any task, `migrate --until cutover` of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_shared::cutover::{DEFAULT_SEQUENCE_MARGIN, DEFAULT_TIMEOUT_MS};
use pgconvoy_shared::failure::Failure;

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
        let Self { writers, timeout, sequence_margin } = self;
        writers.fence || writers.writers_stopped || timeout.is_some() || sequence_margin.is_some()
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
        })
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
        note("a cutover is under way already, or done; this is how it goes");
    }
    let mut told = BTreeSet::new();
    let last = cluster
        .watch(&answer.task_id, 1, |task| {
            let Some(view) = CutoverView::of(task) else { return Ok(Watch::Further) };
            for line in view.steps_told() {
                if told.insert(line.clone()) {
                    note(&line);
                }
            }
            Ok(if view.outcome.is_some() { Watch::Enough } else { Watch::Further })
        })
        .await?;
    CutoverView::of(&last).ok_or_else(|| {
        let failure = Failure::other("internal_error", "the task tells of no cutover");
        Problem::new(Exit::Failed, failure)
    })
}

/// What a step may take beyond the cutover's own time: to be taken back, by another agent perhaps.
const BESIDE_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until the cutover that is under way is done or undone, for as long as that should take.
pub(super) async fn wait(cluster: &Cluster, task: &str) -> Result<(), Problem> {
    let mut limit = BESIDE_TIMEOUT;
    if let Some(settings) = cluster.task(task, 1).await?.cutover.and_then(|found| found.settings) {
        limit += Duration::from_millis(settings.timeout_ms);
    }
    let watched = cluster.watch(task, 1, |task| {
        let view = CutoverView::of(task);
        let is_over = view.is_none_or(|view| view.outcome.is_some());
        Ok(if is_over { Watch::Enough } else { Watch::Further })
    });
    match tokio::time::timeout(limit, watched).await {
        Ok(watched) => watched.map(drop),
        Err(_elapsed) => Ok(()),
    }
}
