//! What a run shows in the end: which units went where, how long the phases took, what the faults cost.

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use pgconvoy_proto::v1::{Event, ObjectsCompared, Phase, Task};

use super::faults::{Struck, moves};
use super::follow::phase;
use super::screen::Screen;
use super::sites::{AT_SOURCE, DESTINATION};
use crate::convoy::Convoy;

/// Moved units that are named; the rest is counted.
const NAMED_MAX: usize = 12;

/// Tells which units went from whom to whom. The events say so themselves.
pub(super) fn units_moved(screen: &Screen, events: &[Event]) {
    for event in moves(events).take(NAMED_MAX) {
        let unit = event.unit.map_or_else(String::new, |unit| format!("unit {unit}, "));
        screen.line("moved", &format!("{unit}{}", event.message));
    }
    let more = moves(events).count().saturating_sub(NAMED_MAX);
    if more > 0 {
        screen.line("", &format!("and {more} more"));
    }
}

pub(super) fn tell(screen: &Screen, task: &Task, struck: &Struck) {
    let phases: Vec<String> = task
        .phase_times
        .iter()
        .filter(|time| time.phase() != Phase::Done && time.ended_ms >= time.began_ms)
        .map(|time| {
            format!("{} {:.1} s", phase(time.phase()), seconds(time.began_ms, time.ended_ms))
        })
        .collect();
    screen.line("phases", &phases.join(", "));

    let copying = took(task, Phase::Copy);
    screen.line(
        "copied",
        &format!(
            "{} rows in {} tables, {}: {} rows/s and {}/s, both faults included",
            HumanCount(task.rows_done),
            task.tables_total,
            HumanBytes(task.bytes_done),
            HumanCount(rate(task.rows_done, copying)),
            HumanBytes(rate(task.bytes_done, copying)),
        ),
    );
    screen.line(
        "faults",
        &format!(
            "{}: {} of {} rolled back and copied again elsewhere, leased anew after {:.1} s",
            struck.agent.name,
            HumanBytes(struck.agent.bytes()),
            struck.agent.shards(),
            struck.moved_after.as_secs_f64(),
        ),
    );
    screen.line(
        "",
        &format!(
            "node-{}: node-{} led and answered after {:.1} s",
            struck.leader.node,
            struck.leader.successor,
            struck.leader.away.as_secs_f64(),
        ),
    );
    screen.line("cost", &cost(task, struck.agent.bytes(), struck.moved_after, struck.leader.away));
    screen.line("verified", &verified(task));
}

/// What the agents near the source passed on, of which the other site knows nothing but them.
pub(super) async fn relayed(screen: &Screen, convoy: &Convoy) -> anyhow::Result<()> {
    let mut name = "relayed";
    for agent in AT_SOURCE {
        let told = async |what: &str| {
            let metric = format!("pgconvoy_agent_relayed_{what}_bytes_total");
            anyhow::Ok(HumanBytes(convoy.metric(agent, &metric).await?))
        };
        screen.line(
            name,
            &format!(
                "{agent}: {} from the source, sent to {DESTINATION} as {}",
                told("from_server").await?,
                told("sent").await?,
            ),
        );
        name = "";
    }
    Ok(())
}

/// What the kills cost: work done twice, and time without it.
fn cost(task: &Task, rolled_back: u64, orphaned: Duration, leaderless: Duration) -> String {
    let twice = rolled_back.saturating_mul(1000).checked_div(task.bytes_done).unwrap_or(0);
    format!(
        "{} copied twice ({}.{} % of all); its shards stood still for {:.1} s, new ones waited for a leader for {:.1} s",
        HumanBytes(rolled_back),
        twice / 10,
        twice % 10,
        orphaned.as_secs_f64(),
        leaderless.as_secs_f64(),
    )
}

/// What the task's own comparison of both ends says.
fn verified(task: &Task) -> String {
    let Some(found) = &task.verification else { return "not at all".to_owned() };
    let rows = found.rows.as_ref().map_or(0, |rows| rows.compared);
    let objects = |found: &Option<ObjectsCompared>| found.as_ref().map_or(0, |found| found.objects);
    format!(
        "{} differences: {} rows of {} tables, {} objects of the schema, {} sequences, in {:.1} s",
        HumanCount(found.differences),
        HumanCount(rows),
        found.tables_same + found.tables_different,
        objects(&found.schema),
        objects(&found.sequences),
        took(task, Phase::Verify),
    )
}

/// Seconds in a phase.
fn took(task: &Task, of: Phase) -> f64 {
    let times = task.phase_times.iter().filter(|time| time.phase() == of);
    times.map(|time| seconds(time.began_ms, time.ended_ms)).sum()
}

fn seconds(began_ms: u64, ended_ms: u64) -> f64 {
    Duration::from_millis(ended_ms.saturating_sub(began_ms)).as_secs_f64()
}

/// Per second; what took no time has no rate.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate is shown to people, rounded"
)]
fn rate(amount: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (amount as f64 / seconds) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_the_kills_is_told_beside_all_that_was_moved() {
        let task = Task { bytes_done: 1 << 30, ..Task::default() };
        let second = Duration::from_secs(1);
        let told = cost(&task, 1 << 24, 10 * second, second);
        assert!(told.starts_with("16.00 MiB copied twice (1.5 % of all);"), "{told}");
        assert!(told.contains("still for 10.0 s") && told.ends_with("leader for 1.0 s"), "{told}");
    }

    #[test]
    fn a_rate_is_per_second_and_never_divides_by_nothing() {
        assert_eq!(rate(300, 2.0), 150);
        assert_eq!(rate(300, 0.0), 0);
        assert!((seconds(1_000, 3_500) - 2.5).abs() < f64::EPSILON);
        assert!(seconds(3_500, 1_000).abs() < f64::EPSILON);
    }
}
