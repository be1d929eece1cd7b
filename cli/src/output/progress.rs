//! Live progress of a task: bars on a terminal, plain lines elsewhere. On stderr, for it is no data.

use std::collections::VecDeque;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pgconvoy_proto::v1;

use super::{human, note};
use crate::view::task::{has_ended, phase_word, status_word};

/// Rates are reckoned over this time: long enough to be calm, short enough to notice a stall.
const WINDOW: Duration = Duration::from_secs(20);
/// Plain lines come no more often than this, but for a new phase or status.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Shows a task each time it changes.
pub(crate) struct Progress {
    meter: Meter,
    screen: Screen,
}

enum Screen {
    Bar(ProgressBar),
    Lines { last: Option<(Instant, String)> },
}

impl Progress {
    /// Bars where stderr is a terminal.
    pub(crate) fn new() -> Self {
        let screen = if stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{spinner} {prefix:.bold} [{bar:30}] {msg}");
            bar.set_style(style.expect("a template of known keys").progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(200));
            Screen::Bar(bar)
        } else {
            Screen::Lines { last: None }
        };
        Self { meter: Meter::default(), screen }
    }

    /// Shows the task as it is now.
    pub(crate) fn update(&mut self, task: &v1::Task) {
        let now = Instant::now();
        let (_, bytes) = moved(task);
        self.meter.add(now, bytes);
        let headline = headline(task);
        let figures = figures(task, &self.meter);
        match &mut self.screen {
            Screen::Bar(bar) => {
                bar.set_length(100);
                bar.set_position(human::percent(bytes, task.bytes_total));
                bar.set_prefix(headline);
                bar.set_message(figures);
            }
            Screen::Lines { last } => {
                let due = last.as_ref().is_none_or(|(at, shown)| {
                    *shown != headline || now.duration_since(*at) >= LINE_PAUSE
                });
                if due {
                    note(format!("{headline}: {figures}").trim_end_matches([':', ' ']));
                    *last = Some((now, headline));
                }
            }
        }
    }

    /// Says something between the lines.
    pub(crate) fn note(&self, text: &str) {
        match &self.screen {
            Screen::Bar(bar) => bar.suspend(|| note(text)),
            Screen::Lines { .. } => note(text),
        }
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        if let Screen::Bar(bar) = &self.screen {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn headline(task: &v1::Task) -> String {
    match task.status() {
        v1::TaskStatus::Running => phase_word(task.phase()),
        status => status_word(status),
    }
}

/// Rows and bytes that are durable or under way: a large shard must not look like a stall.
fn moved(task: &v1::Task) -> (u64, u64) {
    let moving = match task.purpose() {
        v1::Purpose::Verify => "verify_rows",
        v1::Purpose::Unspecified | v1::Purpose::Migrate | v1::Purpose::Precheck => "copy",
    };
    let copying = task.running.iter().filter(|unit| unit.kind == moving);
    copying.fold((task.rows_done, task.bytes_done), |(rows, bytes), unit| {
        (rows.saturating_add(unit.rows), bytes.saturating_add(unit.bytes))
    })
}

fn figures(task: &v1::Task, meter: &Meter) -> String {
    let mut parts = Vec::new();
    let (rows, bytes) = moved(task);
    if task.bytes_total > 0 || bytes > 0 {
        parts.push(format!("{}%", human::percent(bytes, task.bytes_total.max(bytes))));
        parts.push(format!("{} rows", human::count(rows)));
        parts.push(format!(
            "{} of {}",
            human::bytes(bytes),
            human::bytes(task.bytes_total.max(bytes))
        ));
        if task.phase() == v1::Phase::Copy
            && let Some(rate) = meter.bytes_per_second()
        {
            parts.push(format!("{}/s", human::bytes(rate)));
            let left = task.bytes_total.saturating_sub(bytes);
            if let Some(secs) = left.checked_div(rate) {
                parts.push(format!("{} left", human::duration_ms(secs.saturating_mul(1000))));
            }
        }
    }
    if task.phase() != v1::Phase::Copy {
        // Elsewhere bytes stand still, and units are what moves.
        parts.extend(task.running.first().map(|unit| unit.subject.clone()));
    }
    let retrying = task.retrying.first().filter(|_| !has_ended(task)).map(|unit| {
        let why = unit.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
        format!("trying {} again: {why}", unit.subject)
    });
    parts.extend(retrying);
    parts.join(", ")
}

/// Bytes over the last seconds.
#[derive(Debug, Default)]
struct Meter {
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    fn add(&mut self, now: Instant, bytes: u64) {
        // A lost agent takes what it had under way with it: the rate begins anew rather than going below zero.
        if self.samples.back().is_some_and(|(_, last)| *last > bytes) {
            self.samples.clear();
        }
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// None as long as there is nothing to reckon from.
    fn bytes_per_second(&self) -> Option<u64> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let ms = last.duration_since(*first).as_millis();
        let rate = u128::from(after - before).saturating_mul(1000).checked_div(ms)?;
        u64::try_from(rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut meter = Meter::default();
        assert_eq!(meter.bytes_per_second(), None);
        for secs in 0..=60 {
            // 1000 bytes a second for half a minute, then 3000.
            let bytes = if secs <= 30 { secs * 1000 } else { 30_000 + (secs - 30) * 3000 };
            meter.add(at(secs), bytes);
        }
        assert_eq!(meter.bytes_per_second(), Some(3000));
        meter.add(at(61), 5);
        assert_eq!(meter.bytes_per_second(), None);
    }

    #[test]
    fn figures_tell_what_moves() {
        let mut task = v1::Task {
            status: v1::TaskStatus::Running.into(),
            phase: v1::Phase::Copy.into(),
            rows_done: 1234,
            bytes_done: 1 << 20,
            bytes_total: 4 << 20,
            running: vec![v1::RunningUnit {
                kind: "copy".into(),
                bytes: 1 << 20,
                ..Default::default()
            }],
            ..Default::default()
        };
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.add(start, 0);
        meter.add(start + Duration::from_secs(2), 2 << 20);
        let expected = "50%, 1,234 rows, 2.0 MiB of 4.0 MiB, 1.0 MiB/s, 2.0s left";
        assert_eq!(figures(&task, &meter), expected);
        assert_eq!(headline(&task), "copy");
        task.status = v1::TaskStatus::Paused.into();
        assert_eq!(headline(&task), "paused");
    }
}
