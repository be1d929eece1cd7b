//! Waiting for a state, with a limit.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// Looks again and again until `look` gives something; past `limit` it panics with what was last seen.
pub(crate) async fn until<T, S: Debug>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => {
                panic!("not within {limit:?}: {what}; last seen: {seen:#?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
