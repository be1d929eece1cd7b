//! The last before the fence, while the source is still in use: what is made of rows is made anew, which takes as long as it
//! takes, and so did comparing; then what may have changed since the check is looked at again, for under the fence it would
//! undo the cutover, and what was changed since that began is compared again ([`again`]). Anyone may run it again.

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder};
use pgconvoy_shared::endpoint::Side;

use super::check::{come_up_since, parked};
use super::left::Depth;
use super::waits::unless_held;
use super::{again, fresh, lag, refused, shape, source};
use crate::pg::About;
use crate::unit::{UnitContext, UnitEnd};

pub(super) async fn run(ctx: &UnitContext, order: &CutoverOrder) -> Result<CutoverDone, UnitEnd> {
    let waited_for = "views were filled and tables analyzed at the destination";
    if let Err(held) = unless_held(ctx, order, waited_for, Box::pin(fresh::run(ctx))).await? {
        return Ok(refused(held));
    }
    let session = source::session(ctx).await?;
    let access = session.access().clone();
    let there = ctx.access(Side::Destination);
    let destination = there.session().await.about(&there)?;
    let in_the_way = match source::prepared_for_long(&session).await.about(&access)? {
        Some(prepared) => Some(prepared),
        None => {
            let ends = [&session, &destination];
            come_up_since(ctx, order, ends, Depth::Whole).await.about(&access)?
        }
    };
    let in_the_way = match in_the_way {
        Some(failure) => Some(failure),
        None => parked(ctx, &*destination).await.about(&there)?,
    };
    let in_the_way = match in_the_way {
        Some(failure) => Some(failure),
        None => shape::changed(ctx, &session, &destination).await?,
    };
    if let Some(failure) = in_the_way {
        return Ok(refused(failure));
    }
    let mut again = None;
    if order.settings.compares_again() {
        match again::while_in_use(ctx, order, &session).await? {
            Ok(found) => again = Some(found),
            // What is kept of a table, and not applied, differs.
            Err(failure) => {
                let parked = parked(ctx, &*destination).await.about(&there)?;
                return Ok(refused(parked.unwrap_or(failure)));
            }
        }
    }
    let flushed = source::flushed_position(&session).await.about(&access)?;
    let done = match lag::caught_up(ctx, &destination, flushed).await? {
        Ok(lag_bytes) => CutoverDone::Ready { lag_bytes, again },
        Err(failure) => refused(failure),
    };
    session.close().await;
    destination.close().await;
    Ok(done)
}
