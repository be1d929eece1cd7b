//! The end: writers are kept from the source, everything is proved to be at the destination, which takes over.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::HumanCount;
use pgconvoy_proto::v1::{Task, TaskStatus};

use super::clerk::Clerk;
use super::screen::Screen;
use super::servers::Servers;
use super::{COMMAND_LIMIT, TASK};
use crate::convoy::Convoy;

/// What is left of the task at the databases goes within a moment.
const CLEAN_LIMIT: Duration = Duration::from_secs(60);

/// Cuts over while somebody sells, as a user does; what the command tells is shown. Gives back the task, which is done.
pub(super) async fn make(
    screen: &Screen,
    servers: &Servers,
    convoy: &Convoy,
    mut clerk: Clerk,
) -> anyhow::Result<Task> {
    clerk.sold().await?;
    let step = screen.begin("cutover", "pgconvoy task cutover shop --fence, while orders come in");
    let finished = convoy.cli(["task", "cutover", TASK, "--fence"])?.run(COMMAND_LIMIT).await?;
    let over = Instant::now();
    let told = finished.success().context("cut over")?;
    let sold = clerk.end().await?;
    let refused = over.saturating_duration_since(sold.last).as_secs_f64();
    step.done(&format!("the last order at the source was {refused:.1} s before the command's end"));
    told.lines().for_each(|line| screen.line("", line.trim_end()));

    let what = "nothing of the task to be left";
    let is_done = |task: &Task| task.status() == TaskStatus::Done;
    let task = convoy.task_until(TASK, CLEAN_LIMIT, what, is_done).await?;
    let arrived = sold.prove(servers).await?;
    let cut_off = match arrived - sold.orders {
        0 => "",
        _ => ", and the one that was cut off",
    };
    let orders = HumanCount(sold.orders);
    screen.line(
        "orders",
        &format!("{orders} acknowledged by the source, each whole at the destination{cut_off}"),
    );
    screen.line("", &format!("then the source said: {}", sold.refusal));
    Ok(task)
}
