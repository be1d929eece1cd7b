//! Figures for those who watch a stream. Its parts write them as they go, and nothing is decided by them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgconvoy_flow::stream::entry::Entry;
use pgconvoy_flow::stream::message::Change;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use pgconvoy_shared::stream::{ChangeCounts, StreamProgress, TableChanges};
use tokio::time::Instant;

/// What is recent.
const RECENT: Duration = Duration::from_secs(10);

/// Samples for that are taken no more often.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);

/// Tables that are told of by name: they travel in every heartbeat.
const TABLES_TOLD: usize = 32;

/// Changes by table.
type Counts = BTreeMap<TableNo, ChangeCounts>;

/// What the parts of a stream have done.
#[derive(Debug, Default)]
pub(super) struct Figures {
    received: AtomicU64,
    spilled: AtomicU64,
    applied: Mutex<Counts>,
}

impl Figures {
    /// The stream was read up to here.
    pub(super) fn received(&self, at: Lsn) {
        self.received.fetch_max(at.0, Ordering::Relaxed);
    }

    /// So much is in files now.
    pub(super) fn spilled(&self, bytes: u64) {
        self.spilled.store(bytes, Ordering::Relaxed);
    }

    /// These are applied, durably.
    pub(super) fn applied(&self, counts: Counts) {
        let mut applied = self.lock();
        for (table, more) in counts {
            *applied.entry(table).or_default() += more;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is to be applied. A change of which two entries are made counts once.
pub(super) fn count(entries: &[Entry], counts: &mut Counts) {
    let mut last = None;
    for entry in entries {
        let this = (entry.place, entry.table);
        if last.replace(this) == Some(this) {
            continue;
        }
        let counts = counts.entry(entry.table).or_default();
        match &entry.change {
            Change::Insert { .. } => counts.inserts += 1,
            Change::Update { .. } => counts.updates += 1,
            Change::Delete { .. } => counts.deletes += 1,
            Change::Truncate { .. } => counts.truncates += 1,
        }
    }
}

/// Reads the figures again and again, and so knows what is recent.
#[derive(Debug)]
pub(super) struct Watcher {
    names: BTreeMap<TableNo, QualifiedName>,
    /// The latest ones, the oldest first: the first is as old as what is recent may be.
    samples: VecDeque<(Instant, Counts)>,
}

impl Watcher {
    pub(super) fn new(names: BTreeMap<TableNo, QualifiedName>, now: Instant) -> Self {
        Self { names, samples: VecDeque::from([(now, Counts::new())]) }
    }

    /// Tells how far the stream is, as far as figures say it.
    pub(super) fn tell(&mut self, figures: &Figures, now: Instant, progress: &mut StreamProgress) {
        progress.received = Lsn(figures.received.load(Ordering::Relaxed)).max(progress.applied);
        progress.spilled = figures.spilled.load(Ordering::Relaxed);
        self.tell_changes(figures.lock().clone(), now, progress);
    }

    fn tell_changes(&mut self, counts: Counts, now: Instant, progress: &mut StreamProgress) {
        let is_old = |(at, _): &(Instant, Counts)| now.duration_since(*at) >= RECENT;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        let Some((since, before)) = self.samples.front() else { return };
        let (mut changes, mut recent) = (ChangeCounts::default(), ChangeCounts::default());
        let mut tables = Vec::with_capacity(counts.len());
        for (no, of) in &counts {
            let lately = before.get(no).map_or(*of, |before| of.since(before));
            changes += *of;
            recent += lately;
            tables.push((lately, *of, *no));
        }
        tables.sort_by_key(|(lately, of, no)| (std::cmp::Reverse((lately.all(), of.all())), *no));
        progress.recent_ms =
            u64::try_from(now.duration_since(*since).as_millis()).unwrap_or(u64::MAX);
        (progress.changes, progress.recent) = (changes, recent);
        let table = |(recent, changes, no): &(ChangeCounts, ChangeCounts, TableNo)| {
            let name = self.names.get(no)?.clone();
            Some(TableChanges { name, changes: *changes, recent: *recent })
        };
        progress.tables = tables.iter().take(TABLES_TOLD).filter_map(table).collect();
        if self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_PAUSE) {
            self.samples.push_back((now, counts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_is_what_came_in_the_last_seconds_and_the_busiest_table_is_first() {
        let begin = Instant::now();
        let name = |name: &str| QualifiedName::new("public", name);
        let names = [(TableNo(0), name("quiet")), (TableNo(1), name("busy"))];
        let mut watcher = Watcher::new(names.into(), begin);
        let figures = Figures::default();
        let mut progress = StreamProgress::default();
        let inserts = |inserts| ChangeCounts { inserts, ..ChangeCounts::default() };
        figures.applied([(TableNo(0), inserts(500))].into());
        for secs in 1..=30 {
            figures.applied([(TableNo(1), inserts(10))].into());
            watcher.tell(&figures, begin + Duration::from_secs(secs), &mut progress);
            if secs == 5 {
                assert_eq!((progress.recent, progress.recent_ms), (inserts(550), 5_000));
                assert_eq!(progress.tables[0].name, name("quiet"));
            }
        }
        assert_eq!((progress.changes, progress.recent), (inserts(800), inserts(100)));
        assert_eq!(progress.recent_ms, 10_000);
        let told: Vec<_> =
            progress.tables.iter().map(|table| (&table.name, table.recent)).collect();
        assert_eq!(told, [(&name("busy"), inserts(100)), (&name("quiet"), inserts(0))]);
    }

    #[test]
    fn what_is_read_is_never_behind_what_is_applied() {
        let figures = Figures::default();
        let mut progress = StreamProgress { applied: Lsn(7), ..StreamProgress::default() };
        let mut watcher = Watcher::new(BTreeMap::new(), Instant::now());
        watcher.tell(&figures, Instant::now(), &mut progress);
        assert_eq!(progress.received, Lsn(7));
        figures.received(Lsn(9));
        figures.received(Lsn(8));
        watcher.tell(&figures, Instant::now(), &mut progress);
        assert_eq!(progress.received, Lsn(9));
    }
}
