//! `pgconvoy migrate`: the whole job on one machine, with nothing else to start.
//!
//! The data directory holds one task. The command creates it, or goes on with it when it is run again, with the passwords
//! that hold now; a task that got no further than its precheck has changed nothing at the databases, so it is made anew
//! with what is said now. SIGINT and SIGTERM pause the task before the process ends; a cutover that has begun is brought to its
//! end first, for the source may be fenced. A task that was cancelled,
//! while this runs or before, is cleaned up before the process ends, for its agents end with it.

use std::path::Path;

use clap::Args;
use pgconvoy_proto::v1;
use pgconvoy_runtime::shutdown::Shutdown;
use pgconvoy_shared::spec::{CopySettings, TaskSpec, limits};

use super::cleaning;
use super::cutover::{CutoverFlags, cut_over, exit_of as exit_of_cutover};
use super::goal::{Goal, Until};
use super::interruption;
use super::job::{Job, slots_for, start};
use super::remarks;
use super::verify::SampleFlag;
use crate::client::{Cluster, Watch};
use crate::embedded::Embedded;
use crate::exit::Exit;
use crate::output::progress::Progress;
use crate::output::{self, Format, note};
use crate::problem::{Problem, in_lines};
use crate::report::ReportFlag;
use crate::submission::{Acknowledge, Wanted, new_request_id};
use crate::view::cutover::CutoverView;
use crate::view::precheck::PrecheckView;
use crate::view::stream::all_shown;
use crate::view::task::{TaskView, has_ended};

/// Move a database with nothing else to start; run again, it resumes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgconvoy migrate --source postgres://me@old/shop --destination postgres://me@new/shop
  pgconvoy migrate -f shop.yaml --ignore unlogged_table,large_objects_left_out
  PGPASSFILE=~/.pgpass pgconvoy migrate -f shop.yaml --types schema
  pgconvoy migrate -f shop.yaml --verify      # exits with 4 if the two ends differ then
  pgconvoy migrate -f shop.yaml --types schema,full,incremental --until cutover --fence

Interrupt it with Ctrl-C: it pauses, and the same command goes on from its checkpoints. In the copy
phase copied rows are kept if nothing was written at the source meanwhile, or the task file says
copy: { snapshot: shard }.
Meanwhile, from another shell: pgconvoy task show NAME --data-dir .pgconvoy")]
pub(super) struct Migrate {
    #[command(flatten)]
    job: Job,
    /// Until when changes are followed, with type incremental; left out = until the command is interrupted
    #[arg(long, value_name = "GOAL")]
    until: Option<Until>,
    #[command(flatten)]
    cutover: CutoverFlags,
    /// Compare both ends when all is moved: schema, rows, sequences
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    sample: SampleFlag,
    #[command(flatten)]
    report: ReportFlag,
}

impl Migrate {
    pub(super) async fn run(self, format: Format, shutdown: &Shutdown) -> Result<Exit, Problem> {
        let Job { spec, acknowledge, data_dir, agents } = self.job;
        if (self.sample.is_given() || self.report.is_given()) && !self.verify {
            let message = "--sample and --report are about a comparison, and nothing is compared";
            return Err(Problem::usage("bad_usage", message, "add --verify"));
        }
        let verify = self.verify.then(|| self.sample.settings());
        let cutover = match self.until {
            Some(Until::Cutover) => Some(self.cutover.settings(acknowledge.ignore.clone())?),
            _ if self.cutover.is_given() => {
                let message = "--fence, --writers-stopped, --timeout, --sequence-margin, --compare and --check-budget are about a cutover, and none is made";
                return Err(Problem::usage("bad_usage", message, "add --until cutover"));
            }
            _ => None,
        };
        let order = Order { wanted: spec.wanted()?, acknowledge, verify, cutover };
        let follows = order.wanted.submission.spec.is_incremental();
        if self.until.is_some() && !follows {
            let message = "--until says when to stop following changes, and none are followed";
            return Err(Problem::usage(
                "bad_usage",
                message,
                "add --types schema,full,incremental",
            ));
        }
        let report = self.report.create()?;
        let lists = report.is_some().then(|| data_dir.join("differences"));
        let slots = slots_for(&order.wanted);
        let embedded = start(&data_dir, agents, slots, lists.clone()).await?;
        let goal = Goal::new(self.until);
        let driving = Box::pin(drive(&embedded, order, goal, &data_dir, format, shutdown));
        let driven = driving.await;
        embedded.stop().await;
        let ended = match driven? {
            Driven::Ended(ended) => *ended,
            Driven::Reached(task) => {
                if let Some(report) = report {
                    report.write(&task, lists.as_deref())?;
                }
                return reached(*task, self.until, &data_dir, format);
            }
            Driven::Undone(task) => return undone(*task, &data_dir, format),
            Driven::Interrupted => return Ok(Exit::Interrupted),
        };
        if let Some(report) = report {
            report.write(&ended, lists.as_deref())?;
        }
        let begin_anew = begin_anew(&ended, &data_dir);
        let was_cancelled = ended.status() == v1::TaskStatus::Cancelled;
        let exit = conclude(ended, format)?;
        if was_cancelled {
            note(&format!(
                "what it moved stays at the destination, and nothing else; {begin_anew}"
            ));
        }
        Ok(exit)
    }
}

/// What is asked for.
struct Order {
    wanted: Wanted,
    acknowledge: Acknowledge,
    verify: Option<v1::VerifySettings>,
    /// Once it is in sync.
    cutover: Option<v1::CutoverSettings>,
}

/// How far a task was brought.
enum Driven {
    /// To its end.
    Ended(Box<v1::Task>),
    /// To what was asked for; it has no end of its own.
    Reached(Box<v1::Task>),
    /// To its cutover, which was taken back.
    Undone(Box<v1::Task>),
    /// It was interrupted before.
    Interrupted,
}

/// Brings the task to its end, or to its goal.
async fn drive(
    embedded: &Embedded,
    order: Order,
    mut goal: Goal,
    data_dir: &Path,
    format: Format,
    shutdown: &Shutdown,
) -> Result<Driven, Problem> {
    let cluster = embedded.cluster();
    let cutover = order.cutover.clone();
    let task = settle(&cluster, order, data_dir).await?;
    let driving = async {
        let reached = to_the_end(&cluster, &task, &mut goal, data_dir).await?;
        match &cutover {
            Some(settings) if !has_ended(&reached) => {
                take_over(&cluster, &task, settings, data_dir, format).await
            }
            _ => Ok(reached),
        }
    };
    let ended = tokio::select! {
        ended = driving => ended?,
        problem = embedded.failed() => return Err(problem),
        () = shutdown.begun() => {
            interruption::pause(&cluster, &task).await;
            return Ok(Driven::Interrupted);
        }
    };
    if ended.status() == v1::TaskStatus::Running {
        let mut now = cluster.task(&task, 0).await?;
        // Whoever followed the source then may not be heard any more.
        if let (Some(now), Some(then)) = (&mut now.stream, ended.stream)
            && now.progress.is_none()
        {
            now.progress = then.progress;
        }
        let request = || v1::PauseTaskRequest { task: task.clone(), ..Default::default() };
        cluster.tasks(async |mut client| client.pause_task(request()).await).await?;
        if format == Format::Table {
            remarks::tell(&cluster, &now.id).await?;
        }
        let ended = Box::new(now);
        return Ok(if cutover.is_some() { Driven::Undone(ended) } else { Driven::Reached(ended) });
    }
    if format == Format::Table {
        remarks::tell(&cluster, &ended.id).await?;
    }
    Ok(Driven::Ended(Box::new(ended)))
}

/// Lets the destination take over, and waits until nothing is left of the task. Where that is undone, the task goes on.
async fn take_over(
    cluster: &Cluster,
    task: &str,
    settings: &v1::CutoverSettings,
    data_dir: &Path,
    format: Format,
) -> Result<v1::Task, Problem> {
    let view = cut_over(cluster, task, settings).await?;
    if !view.is_good() {
        return cluster.task(task, 0).await;
    }
    if format == Format::Table {
        // Whoever waits for it may begin now.
        output::line(&view.to_text())?;
    }
    to_the_end(cluster, task, &mut Goal::new(None), data_dir).await
}

/// What is told of a task whose cutover was taken back.
fn undone(task: v1::Task, data_dir: &Path, format: Format) -> Result<Exit, Problem> {
    let mut exit = Exit::Failed;
    if let Some(view) = CutoverView::of(&task) {
        exit = exit_of_cutover(&view);
        match format {
            Format::Json => output::json(&TaskView::from(task))?,
            Format::Table => output::line(&view.to_text())?,
        }
        if let Some(cause) = &view.cause {
            note(&format!("error: {}", in_lines(cause)));
        }
    }
    note(&format!(
        "the task is kept in {}, and the source keeps its log for it: run the same command again to go on",
        data_dir.display()
    ));
    Ok(exit)
}

/// What is told of a task that has reached its goal, and goes on when the command is run again.
fn reached(
    task: v1::Task,
    until: Option<Until>,
    data_dir: &Path,
    format: Format,
) -> Result<Exit, Problem> {
    let not_followed = not_followed(&task, data_dir);
    let (id, name) = (task.id.clone(), task.name.clone());
    let progress = task.stream.as_ref().and_then(|stream| stream.progress.as_ref());
    // What is recorded of tables, and what is told of them: either may be ahead.
    let known = task.tables.iter().filter(|table| table.parked.is_some()).count();
    let parked_tables = progress.map_or(0, |progress| progress.parked as usize).max(known);
    let differs = task.verification.as_ref().is_some_and(|found| found.differences > 0);
    let parked = task.tables.iter().find(|table| table.parked.is_some()).cloned();
    let view = TaskView::from(task);
    match format {
        Format::Json => output::json(&view)?,
        Format::Table => output::line(&with_verification(&view))?,
    }
    note(&format!(
        "the slot and the publication pgconvoy_{id} stay at the source, which keeps its log for them: run the same command \
         again to go on, or remove them with `pgconvoy task cancel {name} --data-dir {}`",
        data_dir.display()
    ));
    // What was committed to these before the command began is not at the destination.
    let lacks = not_followed.is_some() && until == Some(Until::InSync);
    if let Some(text) = not_followed {
        note(&format!("{}{text}", if lacks { "error: " } else { "" }));
    }
    if parked_tables > 0 {
        let first =
            parked.map_or(String::new(), |table| format!(", {}: {}", table.name, table.cause));
        note(&format!(
            "error: {parked_tables} tables are parked: their changes are kept at the destination and not applied{first}; `pgconvoy task show \
             {name} --data-dir {data_dir}` tells of all, and when the cause is mended `pgconvoy task resume {name} --table TABLE \
             --data-dir {data_dir}` lets a table go on",
            data_dir = data_dir.display()
        ));
        return Ok(Exit::Failed);
    }
    if lacks {
        return Ok(Exit::Failed);
    }
    Ok(if differs { Exit::Differs } else { Exit::Done })
}

/// Tables that are named in one line.
const NAMED_MAX: usize = 20;

/// Which tables of the source are not followed, and what to do.
fn not_followed(task: &v1::Task, data_dir: &Path) -> Option<String> {
    let tables = all_shown(&task.stream.as_ref()?.tables_not_followed);
    if tables.is_empty() {
        return None;
    }
    let named = tables.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    let more = tables.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let name = &task.name;
    Some(format!(
        "{} tables of the source are not followed, for they were made or renamed since, and the destination does not have what is in them: {named}{more}. \
         One that was dropped and made again: `pgconvoy task resync {name} TABLE --data-dir {data_dir}` has it parked with the statements that \
         publish it, and copies it once they were run. Others were made or renamed: drop those of no use, or see `pgconvoy task events {name} --data-dir {data_dir}`",
        tables.len(),
        data_dir = data_dir.display()
    ))
}

/// How far a task is, and what came of comparing both ends if that was asked for.
fn with_verification(view: &TaskView) -> String {
    let compared = view.verification_text().map(|text| format!("\n{text}"));
    format!("{}{}", view.summary(), compared.unwrap_or_default())
}

/// Shows how the task goes on until nothing more happens, or its goal is reached; the task as it is then.
async fn to_the_end(
    cluster: &Cluster,
    task: &str,
    goal: &mut Goal,
    data_dir: &Path,
) -> Result<v1::Task, Problem> {
    let mut show = Show::new(data_dir);
    let watched = cluster.watch(task, 1, |task| {
        show.update(task);
        Ok(if goal.is_reached(task) { Watch::Enough } else { Watch::Further })
    });
    let last = watched.await?;
    show.progress.finish();
    if !has_ended(&last) {
        return Ok(last);
    }
    if cleaning::is_due(&last) {
        cleaning::wait(cluster, task, data_dir).await?;
    }
    cluster.task(task, 0).await
}

/// What is left to do with a task that was cancelled.
fn begin_anew(task: &v1::Task, data_dir: &Path) -> String {
    format!(
        "give another --data-dir, or forget it with `pgconvoy task delete {} --data-dir {}`",
        task.name,
        data_dir.display()
    )
}

/// Creates the task, or goes on with the one that is there; its id.
async fn settle(cluster: &Cluster, order: Order, data_dir: &Path) -> Result<String, Problem> {
    let listed =
        cluster.tasks(async |mut client| client.list_tasks(v1::ListTasksRequest {}).await).await?;
    let Some(found) = listed.tasks.into_iter().next() else {
        return create(cluster, order).await;
    };
    let never_began = matches!(found.phase(), v1::Phase::Precheck | v1::Phase::Unspecified)
        && matches!(found.status(), v1::TaskStatus::Failed | v1::TaskStatus::Created);
    if never_began {
        let request = || v1::DeleteTaskRequest { task: found.id.clone() };
        cluster.tasks(async |mut client| client.delete_task(request()).await).await?;
        return create(cluster, order).await;
    }
    must_be_the_same(&found, &order)?;
    let Order { wanted, acknowledge, verify: _, cutover: _ } = order;
    let id = found.id.clone();
    match found.status() {
        // A process that was killed leaves its task running: it too is told the passwords that hold now.
        v1::TaskStatus::Paused | v1::TaskStatus::Failed | v1::TaskStatus::Running => {
            note(&format!("going on with task {id} ({})", found.name));
            let [source_password, destination_password] = wanted.passwords()?;
            let request = v1::ResumeTaskRequest {
                task: id.clone(),
                acknowledge: acknowledge.ignore,
                acknowledge_all: acknowledge.yes,
                source_password,
                destination_password,
                table: String::new(),
            };
            cluster.tasks(async |mut client| client.resume_task(request.clone()).await).await?;
        }
        v1::TaskStatus::Created => {
            let request = || v1::StartTaskRequest {
                task: id.clone(),
                acknowledge: acknowledge.ignore.clone(),
                acknowledge_all: acknowledge.yes,
            };
            cluster.tasks(async |mut client| client.start_task(request()).await).await?;
        }
        v1::TaskStatus::Done => note(&format!("task {id} ({}) is done already", found.name)),
        v1::TaskStatus::Cancelled if cleaning::is_due(&found) => {
            // An earlier attempt at it may have been given up; this begins another.
            let request = || v1::CancelTaskRequest { task: id.clone(), ..Default::default() };
            cluster.tasks(async |mut client| client.cancel_task(request()).await).await?;
        }
        v1::TaskStatus::Cancelled | v1::TaskStatus::Unspecified => {
            return Err(Problem::usage(
                "task_cancelled",
                format!("the task of this data directory, {id}, was cancelled"),
                begin_anew(&found, data_dir),
            ));
        }
    }
    Ok(id)
}

async fn create(cluster: &Cluster, order: Order) -> Result<String, Problem> {
    let Order { wanted, acknowledge, verify, cutover: _ } = order;
    let request = wanted.request(new_request_id("migrate"), acknowledge)?;
    let request = v1::CreateTaskRequest { start: true, verify, ..request };
    let answer =
        cluster.tasks(async |mut client| client.create_task(request.clone()).await).await?;
    Ok(answer.task_id)
}

/// A task is known by where it reads, where it writes and what it moves: with those changed, what its checkpoints say
/// would be wrong.
fn must_be_the_same(found: &v1::Task, order: &Order) -> Result<(), Problem> {
    let wanted = &order.wanted;
    let there = found.spec.clone().and_then(|spec| TaskSpec::try_from(spec).ok());
    let mut different = match &there {
        None => vec!["a specification that this version cannot read"],
        Some(there) => differences(there, &wanted.submission.spec, wanted.jobs_by_default),
    };
    // A cutover compares as it was told to, whatever the task was asked for.
    let by_cutover = found.verification.as_ref().is_some_and(|found| found.by_cutover);
    let verified = found.verification.as_ref().and_then(|verification| verification.settings);
    if !by_cutover && verified != order.verify {
        different.push("--verify or --sample");
    }
    if different.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the data directory holds another task, {}; what differs: {}",
        found.id,
        different.join(", ")
    );
    let remedy = "say the same as when it was begun, or give another --data-dir";
    Err(Problem::usage("data_dir_of_another_task", message, remedy))
}

fn differences(a: &TaskSpec, b: &TaskSpec, jobs_by_default: bool) -> Vec<&'static str> {
    let jobs = (a.copy.jobs, a.copy.index_jobs) == (b.copy.jobs, b.copy.index_jobs);
    let shard_size = a.copy.shard_size_bytes == b.copy.shard_size_bytes;
    let by_default =
        |copy: &CopySettings| copy.shard_size_bytes == limits::shard_size_bytes_for(copy.jobs);
    let follows_jobs = jobs_by_default && by_default(&a.copy) && by_default(&b.copy);
    [
        ("name", a.name == b.name),
        ("source", a.source == b.source),
        ("destination", a.destination == b.destination),
        ("types", a.types == b.types),
        ("objects", a.objects == b.objects),
        ("schema", a.schema == b.schema),
        ("copy.shard_size", shard_size || follows_jobs),
        ("copy.snapshot", a.copy.snapshot == b.copy.snapshot),
        ("copy.jobs", jobs || jobs_by_default),
        ("retry", a.retry == b.retry),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(what, _)| what)
    .collect()
}

/// Progress, the precheck's warnings once they are known, and tables that are not followed.
struct Show<'a> {
    progress: Progress,
    listed: bool,
    data_dir: &'a Path,
    /// What was told last of tables that are not followed.
    not_followed: Option<String>,
}

impl<'a> Show<'a> {
    fn new(data_dir: &'a Path) -> Self {
        Self { progress: Progress::new(), listed: false, data_dir, not_followed: None }
    }

    fn update(&mut self, task: &v1::Task) {
        // A task that stops at its gate is told about when it has stopped.
        if !self.listed
            && task.precheck_ended_ms > 0
            && !matches!(task.phase(), v1::Phase::Precheck | v1::Phase::Unspecified)
        {
            self.listed = true;
            let report = PrecheckView::of(task);
            if report.has_warnings() {
                self.progress.note(&report.to_text());
            }
        }
        let not_followed = not_followed(task, self.data_dir);
        if not_followed != self.not_followed {
            if let Some(text) = &not_followed {
                self.progress.note(text);
            }
            self.not_followed = not_followed;
        }
        self.progress.update(task);
    }
}

/// Tells how the task ended.
pub(super) fn conclude(task: v1::Task, format: Format) -> Result<Exit, Problem> {
    let exit = exit_of(&task);
    let report = PrecheckView::of(&task);
    let stopped_at_gate = exit == Exit::Precheck && !report.items.is_empty();
    let view = TaskView::from(task);
    match format {
        Format::Json => output::json(&view)?,
        Format::Table if matches!(exit, Exit::Done | Exit::Differs) => {
            output::line(&with_verification(&view))?;
        }
        Format::Table => {
            if stopped_at_gate {
                note(&report.to_text());
            }
            match &view.cause {
                Some(cause) => note(&format!("error: {}", in_lines(cause))),
                None => note(&format!("task {} is {}", view.id, view.status)),
            }
            let open = report.open_warnings();
            if stopped_at_gate && !open.is_empty() && !report.has_errors() {
                note(&format!("to go on in spite of the warnings: --ignore {}", open.join(",")));
            }
        }
    }
    Ok(exit)
}

/// What the end of a task means for the exit code.
pub(super) fn exit_of(task: &v1::Task) -> Exit {
    match task.status() {
        v1::TaskStatus::Done if found_differences(task) => Exit::Differs,
        v1::TaskStatus::Done => Exit::Done,
        v1::TaskStatus::Failed if stopped_by_precheck(task) => Exit::Precheck,
        _ => Exit::Failed,
    }
}

fn found_differences(task: &v1::Task) -> bool {
    task.cause.as_ref().is_some_and(|cause| cause.code == "verification_differs")
}

fn stopped_by_precheck(task: &v1::Task) -> bool {
    let cause = task.cause.as_ref().map(|cause| cause.code.as_str());
    task.phase() == v1::Phase::Precheck
        || matches!(cause, Some("precheck_failed" | "precheck_warnings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: v1::TaskStatus, phase: v1::Phase, code: &str) -> v1::Task {
        let cause = v1::Failure { code: code.to_owned(), ..Default::default() };
        v1::Task {
            status: status.into(),
            phase: phase.into(),
            cause: Some(cause),
            ..Default::default()
        }
    }

    #[test]
    fn the_end_of_a_task_decides_the_exit_code() {
        use v1::{Phase, TaskStatus};
        for (status, phase, code, exit) in [
            (TaskStatus::Done, Phase::Done, "", Exit::Done),
            (TaskStatus::Done, Phase::Done, "verification_differs", Exit::Differs),
            (TaskStatus::Failed, Phase::Precheck, "wrong_password", Exit::Precheck),
            (TaskStatus::Failed, Phase::Schema, "precheck_warnings", Exit::Precheck),
            (TaskStatus::Failed, Phase::Copy, "disk_full", Exit::Failed),
            (TaskStatus::Cancelled, Phase::Copy, "", Exit::Failed),
        ] {
            assert_eq!(exit_of(&task(status, phase, code)), exit, "{status:?} {phase:?} {code}");
        }
    }
}
