//! The source of a stream: whether it is the one that was left, and its slot (law O7).

use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::StreamOrder;

use super::takeover::TakenOver;
use crate::pg::destination::takeover::end_old_sessions;
use crate::pg::wire::replication::{CopyBoth, Large, Replication, Switch};
use crate::pg::wire::{Wire, field};
use crate::pg::{About, Access, PgError, Session};
use crate::unit::{UnitContext, UnitEnd, open_stream};

/// With more of the log than this behind, large transactions are taken whole. One that is so large that it would be sent in
/// blocks (`logical_decoding_work_mem`, 64 MiB where it is not set) has left about as much in the log.
const FAR_BEHIND: u64 = 64 << 20;

/// The source, ready to be followed.
pub(super) struct Source {
    pub(super) access: Access,
    replication: Replication,
    /// Its log is on disk up to here.
    flushed: Lsn,
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
    let flushed = check_history(&mut replication, order, taken).await?;
    check_slot(ctx, &looker, taken.position.lsn, order.checkpoint.applied).await?;

    let mut rereader = access.reader().await.about(&access)?;
    let newest =
        "select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint";
    let rows = rereader.query(newest).await.about(&access)?;
    let row = rows.first().ok_or_else(|| PgError::protocol("no snapshot")).about(&access)?;
    let newest = FullXid(field(row, 0).about(&access)?);
    Ok(Source { access, replication, flushed, looker, rereader, newest })
}

/// A source that is followed.
pub(super) struct Streaming {
    pub(super) access: Access,
    pub(super) stream: CopyBoth,
    /// See [`Source::looker`].
    pub(super) looker: Session,
    /// See [`Source::rereader`].
    pub(super) rereader: Wire,
    /// See [`Source::newest`].
    pub(super) newest: FullXid,
}

impl Source {
    /// Begins to follow it.
    pub(super) async fn start(self, ctx: &UnitContext, from: Lsn) -> Result<Streaming, UnitEnd> {
        let Self { access, replication, flushed, looker, rereader, newest } = self;
        ctx.still_mine()?;
        let name = open_stream::name(&ctx.task);
        let large = large_transactions(from, flushed);
        tracing::info!(
            "follows the source from {from}, it is at {flushed}; large transactions come {large:?}"
        );
        let stream = replication.start(&name, &name, from, large).await.about(&access)?;
        Ok(Streaming { access, stream, looker, rereader, newest })
    }
}

/// A transaction that is behind has been committed already: taken whole, it is applied while it comes. While the source is
/// followed closely, blocks bring a large one over while it is still being written, and nothing of it waits at the source.
fn large_transactions(from: Lsn, flushed: Lsn) -> Large {
    if flushed.0.saturating_sub(from.0) > FAR_BEHIND { Large::Whole } else { Large::InBlocks }
}

/// What was copied and applied must be part of what the source has become since: another cluster, one restored from a
/// backup, or a standby that was promoted before it had all, has another history. Says up to where its log is on disk.
async fn check_history(
    replication: &mut Replication,
    order: &StreamOrder,
    taken: &TakenOver,
) -> Result<Lsn, UnitEnd> {
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
    Ok(system.flushed)
}

/// Up to where the timeline that a task began on is part of the history.
fn left_at(history: &[Switch], began_on: u32, flushed: Lsn) -> Lsn {
    let ends = history.iter().filter(|switch| switch.timeline >= began_on).map(|switch| switch.at);
    ends.min().unwrap_or(flushed)
}

const SLOT: &str = "
    select plugin::text, confirmed_flush_lsn::text, coalesce(wal_status, '') from pg_catalog.pg_replication_slots
    where slot_name = $1 and database = pg_catalog.current_database()";

/// The slot still holds what comes after `applied`. If it does not, and the destination had more before, as Raft has recorded
/// it, then the destination is what went back.
async fn check_slot(
    ctx: &UnitContext,
    session: &Session,
    applied: Lsn,
    recorded: Lsn,
) -> Result<(), UnitEnd> {
    let access = session.access();
    let name = open_stream::name(&ctx.task);
    let Some(row) = session.query_opt(SLOT, &[&name]).await.about(access)? else {
        return Err(open_stream::gone(access, &name).into());
    };
    let (plugin, confirmed, status): (Option<&str>, Option<&str>, &str) =
        (row.get(0), row.get(1), row.get(2));
    if status == "lost" {
        return Err(open_stream::given_up(access, &name).into());
    }
    if plugin != Some("pgoutput") {
        let what = format!("slot {name} is another one than the task made");
        return Err(open_stream::lost(access, what).into());
    }
    let confirmed = confirmed.map(str::parse::<Lsn>).transpose();
    let confirmed = confirmed.map_err(|bad| PgError::protocol(bad.to_string())).about(access)?;
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
            Err(open_stream::lost(access, what).into())
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
