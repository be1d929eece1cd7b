//! The one place that asks for the time of day.
//!
//! Inside the domain a time is a number that came with a command. It is read here, at the edge.
//! Deadlines within one process are [`tokio::time::Instant`]s: monotonic, and moved by a test that
//! pauses tokio's time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC by this machine's clock.
///
/// May go back when the clock is set: never compare it with one of another machine to decide who
/// owns something.
pub fn wall_clock_ms() -> u64 {
    // A clock set before 1970 reads as 1970: wrong anyway, and no reason to stop.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
