//! How far the destination is behind: whatever it lacks when the source is fenced, writers wait for.

use std::time::Duration;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use tokio::time::Instant;

use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// How long the destination may need to be where the source was when this began.
const LIMIT: Duration = Duration::from_secs(10);

const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Waits until the destination is there: how much of the log it lacked before, or that it does not get there.
pub(super) async fn caught_up(
    ctx: &UnitContext,
    destination: &Session,
    to: Lsn,
) -> Result<Result<u64, Failure>, UnitEnd> {
    let access = destination.access();
    let ask =
        "select coalesce((select lsn::text from pgconvoy.apply_progress where task = $1), '0/0')";
    let end = Instant::now() + LIMIT;
    let mut first = None;
    loop {
        ctx.still_mine()?;
        let row = destination.query_one(ask, &[&ctx.task.as_str()]).await.about(access)?;
        let text: &str = row.get(0);
        let bad = |_| PgError::protocol(format!("position {text}"));
        let applied: Lsn = text.parse().map_err(bad).about(access)?;
        let lag = *first.get_or_insert(to.0.saturating_sub(applied.0));
        if applied >= to {
            return Ok(Ok(lag));
        }
        if Instant::now() >= end {
            let message = format!("the destination did not catch up within {LIMIT:?}");
            return Ok(Err(Failure::definite("cutover_lag", message)
                .about(access.to_string())
                .remedy("wait until lag is small (`task show`), then begin anew")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
