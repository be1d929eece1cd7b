//! Following the task to its end.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{HumanBytes, HumanCount};
use pgconvoy_proto::v1::{Phase, Task, TaskStatus};
use tokio::time::{MissedTickBehavior, interval};

use super::faults::ended;
use super::screen::Step;
use crate::convoy::Convoy;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Two faults cost some 15 s; a single index of the largest shop some minutes.
const STANDSTILL_MAX: Duration = Duration::from_secs(10 * 60);
/// An election and a restart of patience with an overloaded machine.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// Shows how far the task is until it is done; fails when it does.
pub(super) async fn follow(convoy: &Convoy, task: &str, step: &Step<'_>) -> anyhow::Result<Task> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut moved = (Instant::now(), None);
    let mut heard = Instant::now();
    loop {
        looks.tick().await;
        let now = match convoy.task(task).await {
            Ok(now) => now,
            Err(error) if heard.elapsed() > SILENCE_MAX => {
                return Err(error).context("the cluster says nothing more");
            }
            Err(_) => continue,
        };
        heard = Instant::now();
        if ended(&now) {
            return done(now);
        }
        step.progress(now.bytes_done, now.bytes_total, &told(&now));
        let place =
            Some((now.phase, now.bytes_done, now.units.iter().map(|u| u.done).sum::<u32>()));
        if moved.1 != place {
            moved = (Instant::now(), place);
        } else if moved.0.elapsed() > STANDSTILL_MAX {
            bail!("the task stands still in {}", phase(now.phase()));
        }
    }
}

fn done(task: Task) -> anyhow::Result<Task> {
    if task.status() == TaskStatus::Done && task.cause.is_none() {
        return Ok(task);
    }
    match &task.cause {
        Some(cause) => bail!(
            "the task ended without success: {} ({}, {}); {}",
            cause.message,
            cause.code,
            cause.subject,
            cause.remedy
        ),
        None => bail!("the task ended as {}", task.status().as_str_name()),
    }
}

fn told(task: &Task) -> String {
    match task.phase() {
        Phase::Copy => format!(
            "copy: {} of {}, {} rows, {} of {} tables",
            HumanBytes(task.bytes_done),
            HumanBytes(task.bytes_total),
            HumanCount(task.rows_done),
            task.tables_done,
            task.tables_total
        ),
        other => {
            let (done, total) =
                task.units.iter().fold((0, 0), |sum, u| (sum.0 + u.done, sum.1 + u.total));
            format!("{}: {done} of {total} units done", phase(other))
        }
    }
}

/// A phase's name as users know it.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "nothing yet",
        Phase::Precheck => "precheck",
        Phase::Schema => "schema",
        Phase::Copy => "copy",
        Phase::Index => "index",
        Phase::Verify => "verify",
        Phase::CatchUp => "catch_up",
        Phase::Stream => "stream",
        Phase::Cutover => "cutover",
        Phase::Done => "done",
    }
}
