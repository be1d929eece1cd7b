//! What the source keeps for the slot, and when it will have kept enough.
//!
//! Who follows the source looks at its slot all the time. Before that, while rows are copied and indexes built, nobody reads
//! from the slot, and what the source keeps for it only grows: so one of the units that an agent runs looks at it meanwhile
//! ([`watched`]). What was seen goes from unit to unit, for growth shows only over a longer time than many of them take.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::endpoint::Side;
use pgconvoy_shared::ids::TaskId;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::stream::{SlotState, StreamNote, WalStatus};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Row;
use tracing::debug;

use super::{UnitContext, open_stream};
use crate::pg::{PgError, Session};

/// Growth is reckoned over this time: a slot lets go of log in steps, each of which waits for a checkpoint or for what the
/// server writes down every 15 seconds, and between two of them it only grows.
const WINDOW: Duration = Duration::from_secs(120);

/// For less nothing is forecast.
const WATCHED_MIN: Duration = Duration::from_secs(40);

/// Samples for that are taken no more often.
const SAMPLE_PAUSE: Duration = Duration::from_secs(5);

/// Beside other work the slot is looked at this often.
const LOOK_PAUSE: Duration = Duration::from_secs(5);

/// Watches of more tasks than that are forgotten where nobody has use for them.
const WATCHES_MAX: usize = 64;

/// What an agent has seen of the slots of its tasks, outside of those that follow them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlotWatches(Arc<Mutex<BTreeMap<TaskId, SharedWatch>>>);

type SharedWatch = Arc<tokio::sync::Mutex<Watch>>;

impl SlotWatches {
    fn of(&self, task: &TaskId) -> SharedWatch {
        let mut watches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if watches.len() > WATCHES_MAX {
            watches.retain(|_, watch| Arc::strong_count(watch) > 1);
        }
        Arc::clone(watches.entry(task.clone()).or_default())
    }
}

/// Does the work, and looks at the task's slot meanwhile, if it has one. That the slot cannot be looked at is no reason for
/// the work to fail. Where units of one task run side by side, one of them looks.
pub(super) async fn watched<T>(ctx: &UnitContext, work: BoxFuture<'_, T>) -> T {
    if !ctx.spec.is_incremental() {
        return work.await;
    }
    tokio::select! {
        biased;
        done = work => done,
        never = Box::pin(watch(ctx)) => match never {},
    }
}

async fn watch(ctx: &UnitContext) -> Infallible {
    let watch = ctx.means.watches.of(&ctx.task);
    let mut watch = watch.lock().await;
    ctx.progress.slot(watch.seen);
    let access = ctx.access(Side::Source);
    let name = open_stream::name(&ctx.task);
    let mut session = None;
    loop {
        if let Some(looked) = watch.looked {
            sleep_until(looked + LOOK_PAUSE).await;
        }
        watch.looked = Some(Instant::now());
        let looked = async {
            let session = match &mut session {
                Some(session) => session,
                none => none.insert(access.session().await?),
            };
            look(session, &name).await
        };
        match looked.await {
            // A table is copied anew while the others are followed: who follows them looks.
            Ok(look) if look.is_read => {
                *watch = Watch { looked: watch.looked, ..Watch::default() };
                ctx.progress.slot(None);
            }
            Ok(look) => {
                let (slot, note) = watch.see(&look, Instant::now());
                ctx.progress.slot(slot);
                watch.untold = note.or(watch.untold.take());
            }
            Err(error) => {
                debug!("slot {name} could not be looked at: {}", chain(&error));
                session = None;
            }
        }
        // The unit may end before it is agreed on: then the next one tells it.
        if let Some(note) = watch.untold.clone()
            && ctx.parts.note(note).await.is_ok()
        {
            watch.untold = None;
        }
    }
}

/// How the source is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Its log is on disk up to here.
    pub(super) flushed: Lsn,
    /// The slot, without its growth; none = it is not there.
    slot: Option<SlotState>,
    /// Somebody reads from it.
    is_read: bool,
}

/// Looks at log and slot.
pub(super) async fn look(session: &Session, slot: &str) -> Result<Look, PgError> {
    let spilled = match session.major() {
        14.. => {
            "(select spill_bytes from pg_catalog.pg_stat_replication_slots t where t.slot_name = s.slot_name)"
        }
        _ => "null::bigint",
    };
    let query = format!(
        "select pg_catalog.pg_current_wal_flush_lsn()::text, s.wal_status, s.safe_wal_size,
                pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint, {spilled},
                coalesce(s.active, false)
         from (values (1)) as once left join pg_catalog.pg_replication_slots s on s.slot_name = $1"
    );
    let row = session.query_one(&query, &[&slot]).await?;
    let flushed: &str = row.get(0);
    let flushed = flushed.parse().map_err(|_| PgError::protocol(format!("position {flushed}")))?;
    Ok(Look { flushed, slot: state(&row)?, is_read: row.get(5) })
}

fn state(row: &Row) -> Result<Option<SlotState>, PgError> {
    let Some(word) = row.get::<_, Option<&str>>(1) else { return Ok(None) };
    let status = WalStatus::named(word);
    let status = status.ok_or_else(|| PgError::protocol(format!("wal_status {word}")))?;
    let bytes = |number: i64| u64::try_from(number).unwrap_or_default();
    Ok(Some(SlotState {
        status,
        kept: row.get::<_, Option<i64>>(3).map_or(0, bytes),
        left: row.get::<_, Option<i64>>(2).map(bytes),
        growth: None,
        source_spilled: row.get::<_, Option<i64>>(4).map_or(0, bytes),
    }))
}

/// Watches the slot, and says when users are to hear of it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What was kept, the oldest sample first.
    samples: VecDeque<(Instant, u64)>,
    /// What was told last: it is at risk, or it is not. Whoever had the stream before may have told that it is.
    told: Option<bool>,
    /// When it was looked at last, beside other work.
    looked: Option<Instant>,
    /// And what was seen.
    seen: Option<SlotState>,
    /// What is to be told of that, and is not agreed on yet.
    untold: Option<StreamNote>,
}

impl Watch {
    /// The slot as it is now, with its growth, and what is to be told.
    pub(super) fn see(
        &mut self,
        look: &Look,
        now: Instant,
    ) -> (Option<SlotState>, Option<StreamNote>) {
        self.seen = look.slot.map(|slot| SlotState { growth: self.growth(slot.kept, now), ..slot });
        let Some(slot) = self.seen else { return (None, None) };
        let at_risk = match self.told {
            Some(true) => !slot.is_safe(),
            Some(false) | None => slot.is_at_risk(),
        };
        // That it is safe is told only by who has seen enough to know.
        let known = at_risk || self.told.is_some() || slot.growth.is_some();
        if !known || self.told.replace(at_risk) == Some(at_risk) {
            return (Some(slot), None);
        }
        let note = if at_risk { StreamNote::SlotAtRisk(slot) } else { StreamNote::SlotSafe(slot) };
        (Some(slot), Some(note))
    }

    /// In bytes a second.
    fn growth(&mut self, kept: u64, now: Instant) -> Option<i64> {
        let is_old = |(at, _): &(Instant, u64)| now.duration_since(*at) >= WINDOW;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_PAUSE) {
            self.samples.push_back((now, kept));
        }
        let (since, before) = *self.samples.front()?;
        let time = now.duration_since(since);
        if time < WATCHED_MIN {
            return None;
        }
        let grown = i128::from(kept) - i128::from(before);
        let millis = i128::try_from(time.as_millis()).ok()?;
        i64::try_from(grown * 1_000 / millis).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn look(status: WalStatus, kept: u64, left: Option<u64>) -> Look {
        let slot = SlotState { status, kept, left, growth: None, source_spilled: 0 };
        Look { flushed: Lsn(0), slot: Some(slot), is_read: false }
    }

    #[test]
    fn a_slot_that_grows_is_told_before_it_is_given_up_and_again_when_it_is_safe() {
        let begin = Instant::now();
        let mut watch = Watch::default();
        let mut told = Vec::new();
        // A MiB a second for three minutes, with 200 MiB to go; then it lets go of all, and grows no more.
        for secs in 0..=600_u64 {
            let kept = if secs <= 180 { secs * MIB } else { 0 };
            let left = Some((200 * MIB).saturating_sub(kept));
            let now = begin + Duration::from_secs(secs);
            let (slot, note) = watch.see(&look(WalStatus::Extended, kept, left), now);
            let growth = slot.and_then(|slot| slot.growth);
            assert!(secs >= 40 || growth.is_none(), "nothing is forecast at first");
            if (40..=180).contains(&secs) {
                assert_eq!(growth, Some(1 << 20), "after {secs} s");
            }
            told.extend(note.map(|note| (secs, note)));
        }
        let [(40, StreamNote::SlotAtRisk(slot)), (181, StreamNote::SlotSafe(_))] = told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(slot.seconds_left(), Some(160));
    }

    #[test]
    fn a_slot_beyond_its_limit_is_told_at_once() {
        let mut watch = Watch::default();
        let look = look(WalStatus::Unreserved, 9 * MIB, Some(0));
        let (_, note) = watch.see(&look, Instant::now());
        assert!(matches!(note, Some(StreamNote::SlotAtRisk(_))));
        let (_, note) = watch.see(&look, Instant::now());
        assert_eq!(note, None);
    }
}
