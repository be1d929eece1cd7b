//! `pgconvoy task cutover`.

use std::collections::BTreeSet;

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_shared::failure::Failure;

use super::Which;
use crate::client::{Cluster, Watch};
use crate::exit::Exit;
use crate::output::{self, Format, note};
use crate::problem::{Problem, in_lines};
use crate::view::cutover::CutoverView;

/// Let the destination take over: keep writers from the source, prove that nothing is missing, switch
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy task cutover shop --fence --dry-run
  pgconvoy task cutover shop --fence --timeout 30
  pgconvoy task cutover shop --writers-stopped --sequence-margin 1000

Whatever fails before the switch, or takes longer than the timeout, is taken back: the source is as
before, and the task follows it. After the switch the source stays fenced; the statement that lifts
the fence is printed. Exits with 1 if the cutover was undone.")]
pub(super) struct Cutover {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    settings: CutoverFlags,
}

/// How a cutover is made.
#[derive(Debug, Clone, Args)]
struct CutoverFlags {
    #[command(flatten)]
    writers: WritersFlag,
    /// Only look whether anything stands in the way; nothing is stopped
    #[arg(long)]
    dry_run: bool,
    /// From the fence to the switch at most so many seconds; then it is undone
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Set sequences so many values further than the source's
    #[arg(long, value_name = "N", default_value_t = 0)]
    sequence_margin: u32,
    /// What may be left behind: cutover_large_objects, cutover_unlogged_tables
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    ignore: Vec<String>,
}

/// Who keeps writers from the source.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct WritersFlag {
    /// Make the source's database read-only by default and end other sessions
    #[arg(long)]
    fence: bool,
    /// You stopped all that writes to the source, and say so
    #[arg(long)]
    writers_stopped: bool,
}

impl CutoverFlags {
    fn settings(&self) -> v1::CutoverSettings {
        let writers = if self.writers.fence { v1::Writers::Fenced } else { v1::Writers::Stopped };
        let by = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        v1::CutoverSettings {
            writers: writers.into(),
            dry_run: self.dry_run,
            timeout_ms: self.timeout * 1_000,
            sequence_margin: self.sequence_margin,
            by: by.unwrap_or_default(),
            ignore: self.ignore.clone(),
        }
    }
}

impl Cutover {
    pub(super) async fn run(self, format: Format) -> Result<Exit, Problem> {
        let Self { which: Which { task, reach }, settings } = self;
        let settings = settings.settings();
        let cut_over =
            reach.with(async |cluster| cut_over(cluster, &task, &settings, format).await);
        cut_over.await
    }
}

async fn cut_over(
    cluster: &Cluster,
    task: &str,
    settings: &v1::CutoverSettings,
    format: Format,
) -> Result<Exit, Problem> {
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
    let Some(view) = CutoverView::of(&last) else {
        let failure = Failure::other("internal_error", "the task tells of no cutover");
        return Err(Problem::new(Exit::Failed, failure));
    };
    match format {
        Format::Json => output::json(&view)?,
        Format::Table => output::line(&view.to_text())?,
    }
    if let Some(cause) = &view.cause {
        note(&format!("error: {}", in_lines(cause)));
    }
    Ok(if view.is_good() { Exit::Done } else { Exit::Failed })
}
