//! The cutover, step by step: each is an order of its own, under an epoch of its own, and may be run again by anyone.
//!
//! - [`check`]: whether anything stands in the way, constraints that nobody looked at included ([`held`]); nobody is stopped.
//!   From its end on the destination keeps in mind what is changed. Then both ends are compared, by units of their own ([`verify`](super::verify)).
//! - [`ready`]: what is made of rows is made anew ([`fresh`]), what was changed since the comparison is compared again
//!   ([`again`]), and the destination is close behind ([`lag`]).
//! - [`source::fence`]: the source's database becomes read-only by default, and other sessions are ended.
//! - [`proof`]: a marker, written into the source's log after the fence, is applied at the destination, and no transaction
//!   with a change came after it; meanwhile sequences are set from the source. Then what no stream brings is copied again, where
//!   that was asked for ([`left`]), and what was changed last is compared again.
//! - [`switch`]: the task's rows at the destination end, in one transaction that sees once more that nothing came: the
//!   decision. What is left at both ends is removed by the unit that ends every task.
//! - [`source::lift`]: the source's database is as before.
//!
//! Each begins by ending the sessions of the owners before it (law O5): an owner that stands still wakes up without a session,
//! and finds its lease over before it opens another one. So nobody fences a source whose fence was lifted, and nobody decides
//! what was taken back.

mod again;
mod check;
mod fresh;
mod held;
mod lag;
mod left;
mod locked;
mod mark;
mod proof;
mod ready;
mod sessions;
mod shape;
mod source;
mod switch;
mod waits;

use std::time::Duration;

use pgconvoy_shared::cutover::{CutoverDone, CutoverOrder, CutoverStep};
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::unit::WorkResult;
use tokio::time::Instant;

use super::{UnitContext, UnitEnd};
pub(super) use mark::{LIFTED, MARK};
pub(super) use source::SETTING as FENCE;
use waits::in_time;

/// What is left of the cutover's time.
#[derive(Debug, Clone, Copy)]
struct Until(Instant);

impl Until {
    fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

pub(super) async fn run(ctx: &UnitContext, order: CutoverOrder) -> Result<WorkResult, UnitEnd> {
    let until = Until(Instant::now() + Duration::from_millis(order.left_ms));
    let done = match order.step {
        CutoverStep::Check => Box::pin(check::run(ctx, &order)).await?,
        CutoverStep::Ready => Box::pin(ready::run(ctx, &order)).await?,
        // Units of their own compare.
        CutoverStep::Compare => return Err(not_a_lease(order.step).into()),
        CutoverStep::Fence => {
            within(ctx, until, "the source was fenced", Box::pin(source::fence(ctx, &order, until)))
                .await?
        }
        CutoverStep::Prove => {
            within(
                ctx,
                until,
                "all was at the destination",
                Box::pin(proof::run(ctx, &order, until)),
            )
            .await?
        }
        CutoverStep::Switch => Box::pin(switch::run(ctx, &order, until)).await?,
        CutoverStep::Lift => Box::pin(source::lift(ctx, &order)).await?,
    };
    Ok(WorkResult::Cutover(done))
}

fn not_a_lease(step: CutoverStep) -> Failure {
    Failure::other("lease_not_understood", format!("no lease is for step {}", step.as_str()))
}

/// A step that ends in time, or is left as it is: what it had begun, the next owner ends before all else (law O5).
async fn within(
    ctx: &UnitContext,
    until: Until,
    waited_for: &str,
    step: impl Future<Output = Result<CutoverDone, UnitEnd>>,
) -> Result<CutoverDone, UnitEnd> {
    Ok(in_time(ctx, until, waited_for, step).await?.unwrap_or_else(refused))
}

/// Things that are named in one failure.
const NAMED_MAX: usize = 20;

fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn refused(failure: Failure) -> CutoverDone {
    CutoverDone::Refused(failure)
}
