//! Waiting for a state, with a limit: the only place of the tests that sleeps.
//!
//! A test never waits for time to pass; it waits until something is so. When that does not come to pass, the failure
//! tells what was seen last, which is what one wants to know first.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first look.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// The longest pause between two looks; the first looks come quicker.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// What was waited for did not come to pass.
#[derive(Debug)]
pub struct TooLate {
    what: String,
    limit: Duration,
    seen_last: String,
}

impl Display for TooLate {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "waited {:?} for {}; seen last: {}", self.limit, self.what, self.seen_last)
    }
}

impl std::error::Error for TooLate {}

/// Looks again and again until `look` answers `Ok`. An `Err` says what is there instead.
///
/// A look that hangs counts as not seen: it is dropped when the limit is over.
pub async fn until<T, S: Display>(
    limit: Duration,
    what: &str,
    look: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, TooLate> {
    look_until(limit, PAUSE_MAX, what, look).await
}

/// The same without ever pausing for long: for what is timed.
pub async fn closely<T, S: Display>(
    limit: Duration,
    what: &str,
    look: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, TooLate> {
    look_until(limit, PAUSE_MIN, what, look).await
}

async fn look_until<T, S: Display>(
    limit: Duration,
    pause_max: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> Result<T, TooLate> {
    let end = Instant::now() + limit;
    let mut pause = PAUSE_MIN;
    let mut seen_last = String::from("nothing, the first look did not return");
    loop {
        match tokio::time::timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            // The long form of an error tells its causes too.
            Ok(Err(seen)) => seen_last = format!("{seen:#}"),
            Err(_) => seen_last.push_str(" (then a look hung)"),
        }
        if Instant::now() + pause >= end {
            return Err(TooLate { what: what.to_owned(), limit, seen_last });
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that pauses between two looks"
        )]
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(pause_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_when_the_state_is_there() {
        let mut looks = 0;
        let seen = until(Duration::from_secs(5), "the third look", async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        })
        .await;
        assert_eq!(seen.expect("the third look comes"), 3);
    }

    #[tokio::test]
    async fn a_failure_tells_what_was_seen_last() {
        let late = until(Duration::from_millis(20), "a miracle", async || Err::<(), _>("a stone"))
            .await
            .expect_err("no miracle");
        assert_eq!(late.to_string(), "waited 20ms for a miracle; seen last: a stone");
    }

    #[tokio::test]
    async fn a_look_that_hangs_ends_at_the_limit() {
        let late = until(Duration::from_millis(20), "an answer", async || {
            std::future::pending::<Result<(), String>>().await
        })
        .await;
        assert!(late.expect_err("it hangs").to_string().contains("hung"));
    }
}
