//! When a failing unit is tried again, as arithmetic: no clock, no chance.
//!
//! The pause doubles from half a second to half a minute, because most of what passes passes within seconds, and what
//! does not must not be hammered. Jitter spreads a thousand units that failed together; it comes from a salt (the
//! unit's number, say) and the attempt, so that each node of a cluster reckons the same time. A window bounds it all,
//! counted from the first failure in a row, and its end always gets one last attempt.
//!
//! An attempt that ran for longer than the whole window had left behind whatever failed before it, so its failure is a
//! first one again: a shard that is copied for hours is not given up for a restart of its server at either end of them.
//! What fails at the same place each time, however late, is given up after so many windows.

use serde::{Deserialize, Serialize};

use crate::failure::FailureClass;
use crate::spec::RetryWindows;
use crate::time::Timestamp;

const FIRST_PAUSE_MS: u64 = 500;
const LONGEST_PAUSE_MS: u64 = 30_000;

/// Windows that begin one after another, without anything done between them.
const WINDOWS_MAX: u32 = 8;

/// Failures in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// How many, in the window that runs.
    pub failures: u32,
    /// When the first of them was: the window's begin.
    pub first_failed: Timestamp,
    /// Windows that were begun.
    pub windows: u32,
}

impl Streak {
    /// One more, after an attempt of so many milliseconds.
    #[must_use]
    pub fn and(
        self,
        class: FailureClass,
        windows: RetryWindows,
        ran_ms: u64,
        at: Timestamp,
    ) -> Self {
        let begins = self.failures == 0
            || (ran_ms > window_ms(class, windows) && self.windows < WINDOWS_MAX);
        match begins {
            true => Self { failures: 1, first_failed: at, windows: self.windows.saturating_add(1) },
            false => Self { failures: self.failures.saturating_add(1), ..self },
        }
    }
}

/// A definite failure has none.
fn window_ms(class: FailureClass, windows: RetryWindows) -> u64 {
    match class {
        FailureClass::Definite => 0,
        FailureClass::Transient => windows.connection_ms,
        FailureClass::Other => windows.other_ms,
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again, not before this time.
    At(Timestamp),
    /// The failure is definite, or its window is over.
    GiveUp,
}

/// Decides after the last failure of a streak.
#[must_use]
pub fn next(
    class: FailureClass,
    windows: RetryWindows,
    streak: Streak,
    now: Timestamp,
    salt: u64,
) -> Retry {
    let end = streak.first_failed.plus_ms(window_ms(class, windows));
    if class == FailureClass::Definite || now >= end {
        return Retry::GiveUp;
    }
    Retry::At(now.plus_ms(pause_ms(streak.failures, salt)).min(end))
}

/// Between half and the whole of the doubled pause, after so many attempts in a row (from 1).
#[must_use]
pub fn pause_ms(attempts: u32, salt: u64) -> u64 {
    let doublings = attempts.saturating_sub(1).min(16);
    let whole = (FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS);
    let half = whole / 2;
    half + scatter(salt ^ u64::from(attempts).rotate_left(32)) % (whole - half + 1)
}

/// SplitMix64's last step: each bit of the input changes half the bits of the output.
fn scatter(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: RetryWindows = RetryWindows { connection_ms: 60_000, other_ms: 1_000 };
    const START: Timestamp = Timestamp(1_000_000);

    fn streak(failures: u32) -> Streak {
        Streak { failures, first_failed: START, windows: 1 }
    }

    fn transient(failures: u32, now: Timestamp, salt: u64) -> Retry {
        next(FailureClass::Transient, WINDOWS, streak(failures), now, salt)
    }

    #[test]
    fn after_a_long_good_run_the_window_begins_anew_but_not_for_ever() {
        let and =
            |streak: Streak, ran_ms, at| streak.and(FailureClass::Transient, WINDOWS, ran_ms, at);
        let first = and(Streak::default(), 90_000, START);
        assert_eq!(first, streak(1));
        let soon = START.plus_ms(30_000);
        assert_eq!(and(first, 20_000, soon), streak(2));
        let late = START.plus_ms(7_200_000);
        assert_eq!(and(first, 60_000, late), streak(2), "no longer than the window: its end");
        let anew = and(first, 60_001, late);
        assert_eq!(anew, Streak { failures: 1, first_failed: late, windows: 2 });
        assert!(matches!(next(FailureClass::Transient, WINDOWS, anew, late, 1), Retry::At(_)));

        let mut at = START;
        let mut streak = Streak::default();
        let mut attempts = 0;
        loop {
            at = at.plus_ms(100_000);
            streak = and(streak, 100_000, at);
            attempts += 1;
            if next(FailureClass::Transient, WINDOWS, streak, at, 1) == Retry::GiveUp {
                break;
            }
        }
        assert_eq!(attempts, WINDOWS_MAX + 1);
    }

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        for (attempts, longest) in
            [(1, 500), (2, 1_000), (3, 2_000), (7, 30_000), (u32::MAX, 30_000)]
        {
            for salt in 0..100 {
                let pause = pause_ms(attempts, salt);
                assert!((longest / 2..=longest).contains(&pause), "{attempts}: {pause}");
            }
        }
    }

    #[test]
    fn the_same_unit_waits_equally_long_on_each_node_and_others_do_not() {
        assert_eq!(pause_ms(7, 42), pause_ms(7, 42));
        let different: std::collections::BTreeSet<u64> =
            (0..1000).map(|salt| pause_ms(7, salt)).collect();
        assert!(different.len() > 900, "{}", different.len());
    }

    #[test]
    fn the_end_of_the_window_gets_a_last_attempt() {
        let end = START.plus_ms(WINDOWS.connection_ms);
        assert_eq!(transient(9, START.plus_ms(59_999), 1), Retry::At(end));
        assert_eq!(transient(10, end, 1), Retry::GiveUp);
    }

    #[test]
    fn each_class_has_its_window() {
        let late = START.plus_ms(2_000);
        assert!(matches!(transient(3, late, 1), Retry::At(_)));
        let other = next(FailureClass::Other, WINDOWS, streak(3), late, 1);
        assert_eq!(other, Retry::GiveUp);
        let definite = next(FailureClass::Definite, WINDOWS, streak(1), START, 1);
        assert_eq!(definite, Retry::GiveUp);
    }

    #[test]
    fn a_clock_set_back_does_not_end_the_window() {
        assert!(matches!(transient(2, Timestamp(0), 1), Retry::At(_)));
    }
}
