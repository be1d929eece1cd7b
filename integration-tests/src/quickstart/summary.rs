//! What a run shows in the end: which units went where, how long the phases took, what the faults cost.

use indicatif::{HumanBytes, HumanCount};
use pgconvoy_proto::v1::{Event, Phase, Task};

use super::faults::{Struck, moves};
use super::follow::phase;
use super::screen::Screen;

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

    let copying: f64 = task
        .phase_times
        .iter()
        .filter(|time| time.phase() == Phase::Copy && time.ended_ms > time.began_ms)
        .map(|time| seconds(time.began_ms, time.ended_ms))
        .sum();
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
}

fn seconds(began_ms: u64, ended_ms: u64) -> f64 {
    std::time::Duration::from_millis(ended_ms.saturating_sub(began_ms)).as_secs_f64()
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
    fn a_rate_is_per_second_and_never_divides_by_nothing() {
        assert_eq!(rate(300, 2.0), 150);
        assert_eq!(rate(300, 0.0), 0);
        assert!((seconds(1_000, 3_500) - 2.5).abs() < f64::EPSILON);
        assert!(seconds(3_500, 1_000).abs() < f64::EPSILON);
    }
}
