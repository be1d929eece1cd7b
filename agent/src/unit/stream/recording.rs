//! What is applied is recorded in Raft, and only then confirmed at the source (law O7). And how far the source is, for those
//! who watch.

use std::collections::VecDeque;
use std::time::Duration;

use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::unit::{Checkpoint, StreamProgress};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Applied;
use crate::pg::{About, PgError, Session};
use crate::unit::{UnitContext, UnitEnd};

/// An entry of the log for each: often enough that the source keeps little of its log, rarely enough that Raft has other
/// uses.
const RECORD_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked how far the source is.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// So many looks are remembered, the latest ones: lag beyond them is told as that of the oldest.
const LOOKS_MAX: usize = 8192;

/// Records and looks until the applier is gone.
pub(super) async fn run(
    ctx: &UnitContext,
    looker: Session,
    recorded: Checkpoint,
    applied: watch::Receiver<Applied>,
    safe: watch::Sender<Lsn>,
) -> Result<(), UnitEnd> {
    let confirmed = safe.subscribe();
    tokio::try_join!(
        record(ctx, recorded, applied.clone(), safe),
        look(ctx, looker, applied, confirmed)
    )?;
    Ok(())
}

async fn record(
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

/// How far the source was when it was looked at, as far as that is not applied yet.
#[derive(Debug, Default)]
struct Looks {
    count: u64,
    latest: Lsn,
    behind: VecDeque<(Lsn, Instant)>,
}

impl Looks {
    fn add(&mut self, source: Lsn, at: Instant) {
        self.count += 1;
        if source > self.latest {
            self.latest = source;
            self.behind.push_back((source, at));
        }
        if self.behind.len() > LOOKS_MAX {
            // The oldest stays: it tells how long the lag is.
            self.behind.remove(1);
        }
    }

    /// How long ago the log was at the first position that is not applied yet.
    fn lag(&mut self, applied: Lsn, now: Instant) -> Duration {
        while self.behind.front().is_some_and(|(seen, _)| *seen <= applied) {
            self.behind.pop_front();
        }
        self.behind.front().map_or(Duration::ZERO, |(_, at)| now.duration_since(*at))
    }
}

async fn look(
    ctx: &UnitContext,
    looker: Session,
    mut applied: watch::Receiver<Applied>,
    confirmed: watch::Receiver<Lsn>,
) -> Result<(), UnitEnd> {
    let access = looker.access().clone();
    let mut looks = Looks::default();
    let mut times = interval(LOOK_PAUSE);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut still_at = None;
    loop {
        tokio::select! {
            _time = times.tick() => {
                let source = flushed(&looker).await.about(&access)?;
                looks.add(source, Instant::now());
                // The end of an idle log may be of no transaction, and nobody would read beyond it.
                let behind = applied.borrow().lsn;
                if behind < source && still_at == Some((behind, source)) {
                    nudge(&looker).await.about(&access)?;
                }
                still_at = Some((behind, source));
            }
            changed = applied.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
        }
        let now = *applied.borrow_and_update();
        let lag = looks.lag(now.lsn, Instant::now());
        ctx.progress.follow(StreamProgress {
            received: now.lsn,
            applied: now.lsn,
            confirmed: *confirmed.borrow(),
            source: looks.latest,
            looks: looks.count,
            lag_ms: u64::try_from(lag.as_millis()).unwrap_or(u64::MAX),
            consistent: now.is_consistent(),
            parked: now.parked,
        });
    }
}

async fn flushed(looker: &Session) -> Result<Lsn, PgError> {
    let row = looker.query_one("select pg_catalog.pg_current_wal_flush_lsn()::text", &[]).await?;
    let text: &str = row.get(0);
    text.parse().map_err(|_| PgError::protocol(format!("position {text}")))
}

/// A message that is no transaction and takes no transaction id.
async fn nudge(looker: &Session) -> Result<(), PgError> {
    let message = "select pg_catalog.pg_logical_emit_message(false, 'pgconvoy', '')";
    match looker.batch_execute(message).await.map_err(PgError::from) {
        // Refused: the server goes on when it sees fit.
        Err(error) if error.sqlstate().is_none() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_the_first_look_that_is_not_applied() {
        let mut looks = Looks::default();
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        for (source, secs) in [(100, 0), (200, 1), (200, 2), (300, 3)] {
            looks.add(Lsn(source), at(secs));
        }
        assert_eq!(looks.lag(Lsn(50), at(4)), Duration::from_secs(4));
        assert_eq!(looks.lag(Lsn(100), at(4)), Duration::from_secs(3));
        assert_eq!(looks.lag(Lsn(250), at(4)), Duration::from_secs(1));
        assert_eq!(looks.lag(Lsn(300), at(9)), Duration::ZERO);
        assert_eq!((looks.count, looks.latest), (4, Lsn(300)));
    }
}
