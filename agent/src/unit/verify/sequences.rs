//! Where sequences stand at both ends.
//!
//! The source half is that of migrating them. A sequence belongs to no snapshot: one that goes on at the source after it was
//! migrated differs, and that is told.

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::{Difference, ObjectDifference, ObjectsCompared};

use crate::pg::About;
use crate::unit::link::{Link, link};
use crate::unit::sequences::{Position, positions, present, source_half};
use crate::unit::{UnitContext, UnitEnd};

pub(in crate::unit) async fn run(ctx: &UnitContext) -> Result<WorkResult, UnitEnd> {
    let (source, destination) = link(4);
    let ((), compared) =
        tokio::try_join!(source_half(ctx, source), destination_half(ctx, destination))?;
    Ok(WorkResult::VerifySequences(compared))
}

async fn destination_half(
    ctx: &UnitContext,
    mut link: Link<(), Vec<Position>>,
) -> Result<ObjectsCompared, UnitEnd> {
    let access = ctx.access(Side::Destination);
    let session = access.session().await.about(&access)?;
    let mut compared = ObjectsCompared::default();
    while let Some(ours) = link.next().await {
        compared.objects += ours.len() as u64;
        let there = present(&session, &ours).await.about(&access)?;
        let (known, unknown): (Vec<_>, Vec<_>) =
            ours.into_iter().zip(there).partition(|(_, there)| *there);
        for (position, _) in unknown {
            compared.push(difference(Difference::Missing, &position, None));
        }
        let names: Vec<QualifiedName> =
            known.iter().map(|(position, _)| position.sequence.clone()).collect();
        let theirs = positions(&session, &names).await.about(&access)?;
        for (position, _) in known {
            let there = theirs.iter().find(|there| there.sequence == position.sequence);
            if there != Some(&position) {
                compared.push(difference(Difference::Different, &position, there));
            }
        }
    }
    session.close().await;
    Ok(compared)
}

fn difference(how: Difference, here: &Position, there: Option<&Position>) -> ObjectDifference {
    ObjectDifference {
        difference: how,
        object: format!("SEQUENCE VALUE {}", here.sequence),
        source: value(here),
        destination: there.map(value).unwrap_or_default(),
    }
}

fn value(position: &Position) -> String {
    let used = if position.is_called { "" } else { ", not used yet" };
    format!("{}{used}", position.last_value)
}
