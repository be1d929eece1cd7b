//! The source of a stream: whether it is the one that was left, and its slot (law O7).

use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::quote_literal;
use pgconvoy_shared::unit::StreamOrder;
use tokio::sync::{mpsc, oneshot, watch};

use super::takeover::TakenOver;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::replication::{CopyBoth, Event, Large, Replication, Switch, System};
use crate::pg::wire::{Wire, field};
use crate::pg::{About, Access, PgError, Session};
use crate::unit::copy_shard::{Encoding, see_bytes_as_they_are};
use crate::unit::{UnitContext, UnitEnd, open_stream};

/// With more of the log than this behind, large transactions are taken whole. One that is so large that it would be sent in
/// blocks (`logical_decoding_work_mem`, 64 MiB where it is not set) has left about as much in the log.
const FAR_BEHIND: u64 = 64 << 20;

/// The source, ready to be followed.
pub(super) struct Source {
    access: Access,
    replication: Replication,
    system: System,
    /// Of its text.
    pub(super) encoding: Encoding,
    /// For looking how far its log is.
    pub(super) looker: Session,
    /// For rows that are read again.
    pub(super) rereader: Wire,
    /// The newest transaction id that it has given out.
    pub(super) newest: FullXid,
}

/// Looks whether it is the one that was left, and its slot holds what comes next.
pub(super) async fn reach(
    ctx: &UnitContext,
    order: &StreamOrder,
    taken: &TakenOver,
) -> Result<Source, UnitEnd> {
    let access = ctx.access(Side::Source);
    let mut looker = access.session().await.about(&access)?;
    end_old_sessions(&mut looker).await?;
    ctx.still_mine()?;
    let mut replication = access.replication().await.about(&access)?;
    let encoding = see_bytes_as_they_are(replication.sql()).await.about(&access)?;
    let system = check_history(&mut replication, order, taken).await?;
    check_slot(ctx, replication.sql(), taken.position.lsn, order.checkpoint.applied).await?;

    let mut rereader = access.reader().await.about(&access)?;
    let newest =
        "select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint";
    let rows = rereader.query(newest).await.about(&access)?;
    let row = rows.first().ok_or_else(|| PgError::protocol("no snapshot")).about(&access)?;
    let newest = FullXid(field(row, 0).about(&access)?);
    Ok(Source { access, replication, system, encoding, looker, rereader, newest })
}

/// A source that is followed.
pub(super) struct Streaming<'a> {
    pub(super) feed: Feed<'a>,
    /// There where large transactions come whole and could come in blocks: takes the wish for that.
    pub(super) behind: Option<oneshot::Sender<Anew>>,
    /// See [`Source::looker`].
    pub(super) looker: Session,
    /// See [`Source::rereader`].
    pub(super) rereader: Wire,
    /// See [`Source::newest`].
    pub(super) newest: FullXid,
}

impl Source {
    /// Begins to follow it.
    pub(super) async fn start(
        self,
        ctx: &UnitContext,
        from: Lsn,
    ) -> Result<Streaming<'_>, UnitEnd> {
        let Self { access, replication, system, looker, rereader, newest, encoding: _ } = self;
        ctx.still_mine()?;
        let slot = open_stream::name(&ctx.task);
        let flushed = system.flushed;
        let large = large_transactions(from, flushed);
        let may_change = large == Large::Whole && replication.can_send_blocks().about(&access)?;
        tracing::info!(
            "follows the source from {from}, it is at {flushed}; large transactions come {large:?}"
        );
        let (behind, anew) = oneshot::channel();
        let stream = replication.start(&slot, &slot, from, large).await.about(&access)?;
        let feed = Feed { ctx, access, system, stream, anew };
        Ok(Streaming { feed, behind: may_change.then_some(behind), looker, rereader, newest })
    }
}

/// What comes from the source.
pub(super) struct Feed<'a> {
    ctx: &'a UnitContext,
    access: Access,
    system: System,
    stream: CopyBoth,
    anew: oneshot::Receiver<Anew>,
}

/// Asks a [`Feed`] to begin anew, large transactions in blocks from now on.
#[derive(Debug)]
pub(super) struct Anew {
    /// All that ends at or before it was taken, and nothing of what comes behind it.
    pub(super) from: Lsn,
    /// Takes what comes from there on, in place of who took it before.
    pub(super) taker: mpsc::Sender<Vec<Event>>,
}

impl Feed<'_> {
    /// Passes on what comes, and tells the source what is safe, until nobody takes it any more and nobody asks for it anew.
    pub(super) async fn pass_on(
        self,
        taker: mpsc::Sender<Vec<Event>>,
        safe: watch::Receiver<Lsn>,
    ) -> Result<(), UnitEnd> {
        let Self { ctx, access, system, stream, anew } = self;
        let stream = stream.pass_on(taker, safe.clone()).await.about(&access)?;
        let Ok(Anew { from, taker }) = anew.await else { return Ok(()) };
        stream.end().await.about(&access)?;
        let mut replication = access.replication().await.about(&access)?;
        see_bytes_as_they_are(replication.sql()).await.about(&access)?;
        let now = replication.identify().await.about(&access)?;
        let is_same = (now.identifier, now.timeline) == (system.identifier, system.timeline);
        if !is_same || now.flushed < from {
            // Something happened to it: whoever begins after a lost connection finds out what.
            return Err(PgError::Closed).about(&access)?;
        }
        check_slot(ctx, replication.sql(), from, from).await?;
        tracing::info!("has caught up at {from}; large transactions come in blocks from there on");
        let slot = open_stream::name(&ctx.task);
        let large = Large::InBlocks;
        let stream = replication.start(&slot, &slot, from, large).await.about(&access)?;
        stream.pass_on(taker, safe).await.about(&access)?;
        Ok(())
    }
}

/// A transaction that is behind has been committed already: taken whole, it is applied while it comes. While the source is
/// followed closely, blocks bring a large one over while it is still being written, and nothing of it waits at the source.
fn large_transactions(from: Lsn, flushed: Lsn) -> Large {
    if flushed.0.saturating_sub(from.0) > FAR_BEHIND { Large::Whole } else { Large::InBlocks }
}

/// What was copied and applied must be part of what the source has become since: another cluster, one restored from a
/// backup, or a standby that was promoted before it had all, has another history.
async fn check_history(
    replication: &mut Replication,
    order: &StreamOrder,
    taken: &TakenOver,
) -> Result<System, UnitEnd> {
    let access = replication.sql().access().clone();
    let system = replication.identify().await.about(&access)?;
    let opened = &order.opened;
    if system.identifier != opened.system_identifier {
        let message = format!(
            "the source is another cluster than before: system identifier {}, was {}",
            system.identifier, opened.system_identifier
        );
        return Err(Failure::definite("source_changed", message)
            .about(access.to_string())
            .remedy("let the task's source host lead to the cluster it began with, then resume; or cancel the task")
            .into());
    }
    let noted = taken.position.lsn.max(taken.consistent_at);
    let history = replication.history(system.timeline).await.about(&access)?;
    let left = left_at(&history, opened.timeline, system.flushed);
    if noted > left {
        let message = format!(
            "the source's history ends at {left} on timeline {}, and {noted} of it was copied or applied already: what it has \
             become since never had that",
            opened.timeline
        );
        return Err(Failure::definite("source_history_differs", message)
            .about(access.to_string())
            .remedy("cancel the task, empty the destination and create the task again")
            .into());
    }
    Ok(system)
}

/// Up to where the timeline that a task began on is part of the history.
fn left_at(history: &[Switch], began_on: u32, flushed: Lsn) -> Lsn {
    let ends = history.iter().filter(|switch| switch.timeline >= began_on).map(|switch| switch.at);
    ends.min().unwrap_or(flushed)
}

/// The slot still holds what comes after `applied`. If it does not, and the destination had more before, as Raft has recorded
/// it, then the destination is what went back.
async fn check_slot(
    ctx: &UnitContext,
    wire: &mut Wire,
    applied: Lsn,
    recorded: Lsn,
) -> Result<(), UnitEnd> {
    let (access, name) = (wire.access().clone(), open_stream::name(&ctx.task));
    let slot = format!(
        "select plugin, confirmed_flush_lsn, coalesce(wal_status, '') from pg_catalog.pg_replication_slots
         where slot_name = {} and database = pg_catalog.current_database()",
        quote_literal(&name)
    );
    let rows = wire.query(&slot).await.about(&access)?;
    let Some(row) = rows.first() else {
        return Err(open_stream::gone(&access, &name).into());
    };
    if field::<String>(row, 2).about(&access)? == "lost" {
        return Err(open_stream::given_up(&access, &name).into());
    }
    if row.first().and_then(Option::as_deref) != Some("pgoutput") {
        let what = format!("slot {name} is another one than the task made");
        return Err(open_stream::lost(&access, what).into());
    }
    let confirmed: Option<Lsn> = field(row, 1).ok();
    match confirmed {
        Some(confirmed) if confirmed <= applied => Ok(()),
        Some(_) if recorded > applied => {
            let message = format!(
                "the destination has changes up to {applied} only, and had them up to {recorded} before: the source does not \
                 keep what is between"
            );
            Err(Failure::definite("destination_lost_progress", message)
                .about(ctx.access(Side::Destination).to_string())
                .remedy(
                    "let the task's destination lead to the server that has them, then resume; or cancel the task, empty the \
                     destination and create the task again",
                )
                .into())
        }
        confirmed => {
            let confirmed = confirmed.unwrap_or_default();
            let what = format!(
                "slot {name} was confirmed up to {confirmed}, and the destination has changes up to {applied} only"
            );
            Err(open_stream::lost(&access, what).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_far_behind_takes_large_transactions_whole() {
        let from = Lsn(1 << 40);
        assert_eq!(large_transactions(from, from), Large::InBlocks);
        assert_eq!(large_transactions(from, Lsn(from.0 + FAR_BEHIND)), Large::InBlocks);
        assert_eq!(large_transactions(from, Lsn(from.0 + FAR_BEHIND + 1)), Large::Whole);
        // The position is that of a commit which the source had told, and had not flushed then.
        assert_eq!(large_transactions(from, Lsn(from.0 - 8)), Large::InBlocks);
    }

    #[test]
    fn what_a_timeline_left_behind_is_no_history() {
        let history = [
            Switch { timeline: 1, at: Lsn(100) },
            Switch { timeline: 2, at: Lsn(300) },
            Switch { timeline: 3, at: Lsn(200) },
        ];
        assert_eq!(left_at(&[], 1, Lsn(900)), Lsn(900));
        assert_eq!(left_at(&history, 1, Lsn(900)), Lsn(100));
        assert_eq!(left_at(&history, 2, Lsn(900)), Lsn(200));
        assert_eq!(left_at(&history, 4, Lsn(900)), Lsn(900));
    }
}
