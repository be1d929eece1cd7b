//! What is applied is recorded in Raft, and only then confirmed at the source (law O7). And what users are to hear of.

use std::time::Duration;

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::stream::StreamNote;
use pgconvoy_shared::unit::Checkpoint;
use tokio::sync::{mpsc, watch};

use super::Applied;
use crate::unit::{UnitContext, UnitEnd};

/// An entry of the log for each: often enough that the source keeps little of its log, rarely enough that Raft has other
/// uses.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// Records until the applier is gone.
pub(super) async fn run(
    ctx: &UnitContext,
    mut recorded: Checkpoint,
    mut applied: watch::Receiver<Applied>,
    safe: watch::Sender<Lsn>,
) -> Result<(), UnitEnd> {
    loop {
        let now = *applied.borrow_and_update();
        let consistent = recorded.consistent || now.is_consistent();
        let checkpoint = Checkpoint { applied: now.lsn, consistent };
        if checkpoint != recorded {
            ctx.parts.record(checkpoint).await?;
            recorded = checkpoint;
            safe.send_replace(now.lsn);
            tokio::time::sleep(RECORD_PAUSE).await;
        }
        if applied.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Tells what there is to tell, until nobody has anything to say any more.
pub(super) async fn tell(
    ctx: &UnitContext,
    mut notes: mpsc::UnboundedReceiver<StreamNote>,
) -> Result<(), UnitEnd> {
    while let Some(note) = notes.recv().await {
        ctx.parts.note(note).await?;
    }
    Ok(())
}
