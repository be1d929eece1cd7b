//! How far the destination is behind: whatever it lacks when the source is fenced, writers wait for.

use std::time::Duration;

use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use tokio::time::Instant;

use super::waits::applied;
use crate::pg::{About, Session};
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
    let end = Instant::now() + LIMIT;
    let mut first = None;
    loop {
        ctx.still_mine()?;
        let applied = applied(ctx, destination).await.about(access)?;
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
