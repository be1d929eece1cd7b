//! Live progress of a task: bars on a terminal, plain lines elsewhere. On stderr, for it is no data.

use std::collections::VecDeque;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pgconvoy_proto::v1;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::stream::{ChangeCounts, SlotState};

use super::{human, note};
use crate::view::stream::{all_shown, bytes_behind};
use crate::view::task::{has_ended, phase_word, status_word};

/// Rates are reckoned over this time: long enough to be calm, short enough to notice a stall.
const WINDOW: Duration = Duration::from_secs(20);
/// Plain lines come no more often than this, but for a new phase or status.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Figures that fall are believed after this time: an election, and a few heartbeats of agents.
const DIP: Duration = Duration::from_secs(15);

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
        let headline = headline(task);
        let Stand { percent, figures } = stand(task, &mut self.meter, now);
        match &mut self.screen {
            Screen::Bar(bar) => {
                bar.set_length(100);
                bar.set_position(percent.unwrap_or(0));
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

/// What is told of a task: a measure of how far the present phase is, where it has one, and figures.
#[derive(Debug, PartialEq, Eq)]
struct Stand {
    percent: Option<u64>,
    figures: String,
}

/// How far a task is. A phase in which bytes move is measured by them; another one by its units.
fn stand(task: &v1::Task, meter: &mut Meter, now: Instant) -> Stand {
    let (percent, mut parts) = match task.phase() {
        v1::Phase::Copy => moving(task, meter, now),
        v1::Phase::Verify if task.purpose() == v1::Purpose::Verify => moving(task, meter, now),
        v1::Phase::Verify => counted(task, "verify_rows", "shards compared"),
        v1::Phase::Index => counted(task, "index", "indexes"),
        v1::Phase::CatchUp | v1::Phase::Stream | v1::Phase::Cutover => (None, following(task)),
        v1::Phase::Unspecified | v1::Phase::Precheck | v1::Phase::Schema | v1::Phase::Done => {
            (None, Vec::new())
        }
    };
    parts.extend(slot_at_risk(task));
    if !moves_bytes(task) {
        // Which unit runs says more than figures that stand still; but not what the headline says already.
        let subject = task.running.first().map(|unit| &unit.subject);
        parts.extend(subject.filter(|subject| **subject != headline(task)).cloned());
    }
    let retrying = task.retrying.first().filter(|_| !has_ended(task)).map(|unit| {
        let why = unit.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
        format!("trying {} again: {why}", unit.subject)
    });
    parts.extend(retrying);
    Stand { percent, figures: parts.join(", ") }
}

fn moves_bytes(task: &v1::Task) -> bool {
    task.phase() == v1::Phase::Copy
        || (task.phase() == v1::Phase::Verify && task.purpose() == v1::Purpose::Verify)
}

/// What a table costs beside its bytes, told in bytes: in that time so many could move. A database of many tiny tables is
/// half done when half of its tables are.
const TABLE_BYTES: u64 = 1 << 20;

/// Bytes that are durable or under way: a large shard must not look like a stall.
fn moving(task: &v1::Task, meter: &mut Meter, now: Instant) -> (Option<u64>, Vec<String>) {
    let (done, total) = (task.bytes_done, task.bytes_total.max(task.bytes_done));
    if total == 0 {
        return (None, Vec::new());
    }
    meter.add(now, done);
    let with_tables = |bytes: u64, tables: u32| {
        bytes.saturating_add(u64::from(tables).saturating_mul(TABLE_BYTES))
    };
    let percent =
        human::percent(with_tables(done, task.tables_done), with_tables(total, task.tables_total));
    let percent = meter.steady(now, percent);
    let mut parts = vec![
        format!("{percent}%"),
        format!("{} rows", human::count(task.rows_done)),
        format!("{} of {}", human::bytes(done), human::bytes(total)),
    ];
    if let Some(rate) = meter.bytes_per_second() {
        parts.push(format!("{}/s", human::bytes(rate)));
        if let Some(secs) = (total - done).checked_div(rate) {
            parts.push(format!("{} left", human::duration_ms(secs.saturating_mul(1000))));
        }
    }
    (Some(percent), parts)
}

/// How far the destination is behind.
fn following(task: &v1::Task) -> Vec<String> {
    let Some(stream) = &task.stream else { return Vec::new() };
    let Some(progress) = &stream.progress else { return Vec::new() };
    let mut parts = vec![
        format!("applied up to {}", Lsn(progress.applied)),
        format!("{} behind", human::bytes(bytes_behind(progress))),
        format!("lag {}", human::duration_ms(progress.lag_ms)),
    ];
    let recent = ChangeCounts::from(progress.recent.unwrap_or_default()).all();
    let rate = recent.saturating_mul(1000).checked_div(progress.recent_ms);
    parts.extend(rate.map(|rate| format!("{} changes/s", human::count(rate))));
    if progress.parked > 0 {
        parts.push(format!("{} tables parked", progress.parked));
    }
    if let [first, rest @ ..] = &all_shown(&stream.tables_copied_anew)[..] {
        let more =
            if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        parts.push(format!("{first}{more} copied anew"));
    }
    parts
}

/// That the source may give up the slot, in whichever phase.
fn slot_at_risk(task: &v1::Task) -> Option<String> {
    let slot = SlotState::try_from(task.stream.as_ref()?.slot?).ok()?;
    if !slot.is_at_risk() {
        return None;
    }
    let left = slot.seconds_left().map_or_else(String::new, |secs| {
        format!(", {} left", human::duration_ms(secs.saturating_mul(1000)))
    });
    Some(format!("the slot is at risk ({}{left})", slot.status.as_str()))
}

/// Units of a kind, as `what`.
fn counted(task: &v1::Task, kind: &str, what: &str) -> (Option<u64>, Vec<String>) {
    match task.units.iter().find(|units| units.kind == kind).filter(|units| units.total > 0) {
        Some(units) => {
            let percent = human::percent(units.done.into(), units.total.into());
            (Some(percent), vec![format!("{what} {} of {}", units.done, units.total)])
        }
        None => (None, Vec::new()),
    }
}

/// Bytes over the last seconds, and the percentage that was shown.
#[derive(Debug, Default)]
struct Meter {
    samples: VecDeque<(Instant, u64)>,
    shown: u64,
    /// Since when the percentage is below what is shown.
    below: Option<Instant>,
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

    /// The percentage to show: it never steps back for a moment. A new leader hears of units under way with their next
    /// heartbeats, and until then counts less than there is. Only what stays away ([`DIP`]) is shown as gone.
    fn steady(&mut self, now: Instant, percent: u64) -> u64 {
        if percent >= self.shown {
            self.below = None;
        } else if now.duration_since(*self.below.get_or_insert(now)) < DIP {
            return self.shown;
        }
        self.shown = percent;
        self.shown
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

    fn task(phase: v1::Phase) -> v1::Task {
        v1::Task {
            status: v1::TaskStatus::Running.into(),
            phase: phase.into(),
            ..Default::default()
        }
    }

    fn running(kind: &str, subject: &str) -> Vec<v1::RunningUnit> {
        let (kind, subject) = (kind.to_owned(), subject.to_owned());
        vec![v1::RunningUnit { kind, subject, bytes: 1 << 20, ..Default::default() }]
    }

    #[test]
    fn figures_tell_what_moves() {
        let mut task = v1::Task {
            rows_done: 1234,
            // Those of running units are among them.
            bytes_done: 2 << 20,
            bytes_total: 4 << 20,
            running: running("copy", "public.orders shard 3"),
            ..task(v1::Phase::Copy)
        };
        let start = Instant::now();
        let mut meter = Meter::default();
        meter.add(start, 0);
        let stood = stand(&task, &mut meter, start + Duration::from_secs(2));
        let expected = "50%, 1,234 rows, 2.0 MiB of 4.0 MiB, 1.0 MiB/s, 2.0s left";
        assert_eq!(stood, Stand { percent: Some(50), figures: expected.into() });
        assert_eq!(headline(&task), "copy");
        task.status = v1::TaskStatus::Paused.into();
        assert_eq!(headline(&task), "paused");
    }

    #[test]
    fn many_tiny_tables_are_half_done_when_half_of_them_are() {
        let task = v1::Task {
            // They take less room as text than in pages.
            bytes_done: 1_000 << 10,
            bytes_total: 8_000 << 10,
            tables_done: 500,
            tables_total: 1_000,
            ..task(v1::Phase::Copy)
        };
        assert_eq!(stand(&task, &mut Meter::default(), Instant::now()).percent, Some(49));
    }

    #[test]
    fn a_phase_in_which_no_bytes_move_tells_its_units() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        let mut figures = |task: &v1::Task| stand(task, &mut meter, now).figures;
        let mut precheck = task(v1::Phase::Precheck);
        precheck.running = running("precheck", "precheck");
        assert_eq!(figures(&precheck), "", "the headline says it");

        let units = v1::UnitCount { kind: "index".into(), total: 8, done: 2, running: 1 };
        let index = v1::Task {
            bytes_done: 9,
            bytes_total: 9,
            units: vec![units],
            running: running("index", "index public.orders_at"),
            ..task(v1::Phase::Index)
        };
        assert_eq!(figures(&index), "indexes 2 of 8, index public.orders_at");
        assert_eq!(stand(&index, &mut Meter::default(), now).percent, Some(25));
    }

    #[test]
    fn the_percentage_steps_back_only_for_what_stays_away() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut meter = Meter::default();
        for (secs, percent, shown) in
            [(0, 40, 40), (1, 30, 40), (5, 41, 41), (6, 10, 41), (20, 12, 41), (22, 13, 13)]
        {
            assert_eq!(meter.steady(at(secs), percent), shown, "after {secs} s");
        }
    }
}
