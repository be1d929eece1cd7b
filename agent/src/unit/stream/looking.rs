//! Looking at the source: how far its log is, what it keeps for the slot, and whether it has made tables that nobody follows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::stream::StreamNote;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Applied;
use super::figures::{Figures, Watcher};
use super::published::Published;
use crate::pg::{About, PgError, Session};
use crate::unit::slot::{self, Watch};
use crate::unit::{UnitContext, UnitEnd, open_stream};

/// How often it is looked how far the source is.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked for new tables: it means reading the catalogue.
const TABLES_PAUSE: Duration = Duration::from_secs(10);

/// So many looks are remembered, the latest ones: lag beyond them is told as that of the oldest.
const LOOKS_MAX: usize = 8192;

/// A stream that has caught up begins anew if the source reads no more of its log again for that: some seconds at most.
const READ_AGAIN_MAX: u64 = 1 << 30;

/// Whoever looks at the source.
pub(super) struct Looker<'a> {
    ctx: &'a UnitContext,
    session: Session,
    slot: String,
    published: Published,
    looks: Looks,
    watch: Watch,
    watcher: Watcher,
    figures: Arc<Figures>,
    /// Takes what users are to hear of.
    notes: mpsc::UnboundedSender<StreamNote>,
    /// All that was seen of the source is applied.
    caught_up: bool,
    /// What the source keeps for the slot, in bytes of its log: so much is read again by a stream that begins.
    kept: Option<u64>,
    /// Takes whether a stream that began far behind may begin anew.
    may_begin_anew: watch::Sender<bool>,
    /// Where applying stood at the last look, and the source.
    still_at: Option<(Lsn, Lsn)>,
    tables_at: Instant,
    /// Tables that nobody follows, as they were told of last; none = nothing was told yet.
    not_followed: Option<Vec<QualifiedName>>,
}

impl<'a> Looker<'a> {
    pub(super) fn new(
        ctx: &'a UnitContext,
        session: Session,
        (names, published): (BTreeMap<TableNo, QualifiedName>, Published),
        figures: Arc<Figures>,
        notes: mpsc::UnboundedSender<StreamNote>,
        may_begin_anew: watch::Sender<bool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            ctx,
            session,
            slot: open_stream::name(&ctx.task),
            published,
            looks: Looks::default(),
            watch: Watch::default(),
            watcher: Watcher::new(names, now),
            figures,
            notes,
            caught_up: false,
            kept: None,
            may_begin_anew,
            still_at: None,
            tables_at: now,
            not_followed: None,
        }
    }

    /// Looks until the applier is gone.
    pub(super) async fn run(
        mut self,
        mut applied: watch::Receiver<Applied>,
        confirmed: watch::Receiver<Lsn>,
    ) -> Result<(), UnitEnd> {
        let access = self.session.access().clone();
        let mut times = interval(LOOK_PAUSE);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _time = times.tick() => {
                    let behind = applied.borrow().lsn;
                    self.look(behind).await.about(&access)?;
                    self.look_for_tables(Instant::now()).await?;
                }
                changed = applied.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
            }
            self.tell(*applied.borrow_and_update(), *confirmed.borrow());
        }
    }

    /// How far the destination is, as far as is known now.
    fn tell(&mut self, applied: Applied, confirmed: Lsn) {
        let lag = self.looks.lag(applied.lsn, Instant::now());
        let looks = &self.looks;
        self.ctx.progress.follow(|progress| {
            progress.applied = applied.lsn;
            progress.received = progress.received.max(applied.lsn);
            progress.confirmed = confirmed;
            progress.source = looks.latest;
            progress.looks = looks.count;
            progress.lag_ms = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
            progress.consistent = applied.is_consistent();
            progress.parked = applied.parked;
        });
        let behind = !std::mem::replace(&mut self.caught_up, applied.lsn >= self.looks.latest);
        if behind && self.caught_up {
            self.ctx.progress.tell_now();
        }
        let may = self.caught_up && self.kept.is_some_and(|kept| kept <= READ_AGAIN_MAX);
        self.may_begin_anew.send_if_modified(|might| std::mem::replace(might, may) != may);
    }

    async fn look(&mut self, behind: Lsn) -> Result<(), PgError> {
        let look = slot::look(&self.session, &self.slot).await?;
        let source = look.flushed;
        let now = Instant::now();
        self.looks.add(source, now);
        // The end of an idle log may be of no transaction, and nobody would read beyond it.
        if behind < source && self.still_at == Some((behind, source)) {
            nudge(&self.session).await?;
        }
        self.still_at = Some((behind, source));
        let (slot, note) = self.watch.see(&look, now);
        self.note(note);
        self.kept = slot.map(|slot| slot.kept);
        self.ctx.progress.slot(slot);
        let (watcher, figures) = (&mut self.watcher, &self.figures);
        self.ctx.progress.follow(|progress| {
            watcher.tell(figures, now, progress);
        });
        Ok(())
    }

    /// Now and then: whether there are new ones, and those that are followed are still published.
    async fn look_for_tables(&mut self, now: Instant) -> Result<(), UnitEnd> {
        if now < self.tables_at {
            return Ok(());
        }
        self.tables_at = now + TABLES_PAUSE;
        self.published.check(&self.session).await?;
        let tables = self.published.not_followed(&self.session, self.ctx).await?;
        if self.not_followed.as_ref() != Some(&tables) {
            self.not_followed = Some(tables.clone());
            self.note(Some(StreamNote::NotFollowed(tables)));
        }
        Ok(())
    }

    fn note(&self, note: Option<StreamNote>) {
        // Whoever takes them is gone only when the unit ends.
        let _gone = note.map(|note| self.notes.send(note));
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
