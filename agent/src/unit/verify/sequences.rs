//! Where sequences stand at both ends.
//!
//! The source half is that of migrating them. A sequence belongs to no snapshot, so the two ends of a task that only compares
//! have to stand at the same value now. A task that migrates knows what it set: there the destination has to stand, and the
//! source there or further on in the sequence's own direction, which is told and is no difference. A task that only compares
//! tells the sequences, too, that only the destination has.

use std::collections::{HashMap, HashSet};

use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::unit::WorkResult;
use pgconvoy_shared::verify::{Difference, ObjectDifference, ObjectsCompared, Purpose};

use crate::pg::{About, Session};
use crate::unit::link::{Link, link};
use crate::unit::sequences::{
    BATCH, Position, Value, names, positions, present, source_half, taking_part, were_set,
};
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
    let session = ctx.session(Side::Destination).await?;
    let access = session.access().clone();
    let mut set = match ctx.purpose {
        Purpose::Migrate => were_set(ctx, &session).await.about(&access)?,
        Purpose::Precheck | Purpose::Verify => HashMap::new(),
    };
    let mut compared = ObjectsCompared::default();
    let mut here = HashSet::new();
    while let Some(ours) = link.next().await {
        let theirs = standing(&session, &names(&ours)).await.about(&access)?;
        for position in ours {
            let destination = theirs.get(&position.sequence).copied();
            let set = set.remove(&position.sequence);
            judge(&mut compared, &position, set, destination);
            here.insert(position.sequence);
        }
    }
    // What is left of them the source had when they were set, and has no longer.
    for sequence in set.into_keys() {
        compared.skip(&object(&sequence), "the source dropped it since it was set".to_owned());
    }
    if ctx.purpose == Purpose::Verify {
        let there = taking_part(&session, &ctx.spec.objects).await.about(&access)?;
        let extra: Vec<_> = there.into_iter().filter(|name| !here.contains(name)).collect();
        for batch in extra.chunks(BATCH) {
            for there in positions(&session, batch).await.about(&access)? {
                compared.objects += 1;
                compared.push(ObjectDifference {
                    difference: Difference::Extra,
                    object: object(&there.sequence),
                    source: String::new(),
                    destination: value(there.value),
                });
            }
        }
    }
    ctx.means.pool.give(session);
    Ok(compared)
}

/// Where those of them stand that are there.
async fn standing(
    session: &Session,
    sequences: &[QualifiedName],
) -> Result<HashMap<QualifiedName, Value>, tokio_postgres::Error> {
    let there = present(session, sequences).await?;
    let there = sequences.iter().zip(there).filter(|(_, there)| *there);
    let there: Vec<QualifiedName> = there.map(|(sequence, _)| sequence.clone()).collect();
    let positions = positions(session, &there).await?;
    Ok(positions.into_iter().map(|there| (there.sequence, there.value)).collect())
}

fn judge(
    compared: &mut ObjectsCompared,
    source: &Position,
    set: Option<Value>,
    destination: Option<Value>,
) {
    compared.objects += 1;
    let expected = set.unwrap_or(source.value);
    let how = match destination {
        None => Difference::Missing,
        Some(there) if there != expected => Difference::Different,
        Some(_) if source.value == expected => return,
        Some(_) if source.went_on_from(expected) => {
            compared.went_on += 1;
            return;
        }
        Some(_) => Difference::Different,
    };
    let moved = if source.value == expected {
        String::new()
    } else {
        format!("; {} when it was set", value(expected))
    };
    compared.push(ObjectDifference {
        difference: how,
        object: object(&source.sequence),
        source: format!("{}{moved}", value(source.value)),
        destination: destination.map(value).unwrap_or_default(),
    });
}

fn object(sequence: &QualifiedName) -> String {
    format!("SEQUENCE VALUE {sequence}")
}

fn value(value: Value) -> String {
    let used = if value.is_called { "" } else { ", not used yet" };
    format!("{}{used}", value.last_value)
}
