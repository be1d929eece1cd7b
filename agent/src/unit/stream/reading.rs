//! Reading: from the bytes of the stream to batches.
//!
//! A batch is cut whenever the applier has nothing to do, so that changes arrive soon; while it is busy the next one grows,
//! and folds the better. It ends between two transactions, unless one is too large to be held: then it is applied in pieces,
//! by one transaction at the destination.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgconvoy_flow::stream::assemble::{Assembler, Item, Spooled, Step};
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::entry::{Batch, Reread};
use pgconvoy_flow::stream::follow::{Follower, RereadWanted};
use pgconvoy_flow::stream::message::{Begin, Change, Commit, RelationId, Xid};
use pgconvoy_flow::stream::snapshot::FullXid;
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::Field;
use pgconvoy_runtime::telemetry::chain;
use pgconvoy_shared::failure::Failure;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::BUFFERS;
use super::catalog::Course;
use super::figures::Figures;
use super::folding::Folded;
use super::reread;
use super::source::Anew;
use super::spool::Spool;
use crate::pg::wire::Wire;
use crate::pg::wire::replication::Event;
use crate::unit::{UnitEnd, marker};

/// What a batch may hold: enough to fold well, and a few of them beside each other cost an agent little.
pub(super) const BATCH_BYTES: usize = 8 << 20;

/// What transactions in progress may hold in memory, all together.
const HELD_BYTES: usize = 16 << 20;

/// Where nothing changes but the position, it is moved on this often.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// And this long after the last change: whoever waits for the end of the log does so for no more than that.
const SETTLED_PAUSE: Duration = Duration::from_millis(50);

/// What the applier gets.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) batch: Batch,
    /// Its changes, folded; none where they do not fold, and whoever applies them finds out why.
    pub(super) folded: Option<Folded>,
    /// Every transaction that ends at or before it is in this batch or in an earlier one. Counts at a boundary.
    pub(super) reached: Lsn,
    /// What is noted with it. Counts at a boundary.
    pub(super) noted: Noted,
}

/// What is noted at the destination of the transactions that were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// The end of the last one that carried a change.
    pub(super) last_change: Option<Lsn>,
    /// The last marker, and the end of its transaction.
    pub(super) marker: Option<(String, Lsn)>,
}

/// The way to the applier.
#[derive(Debug)]
pub(super) struct Outlet {
    cuts: mpsc::Sender<Cut>,
    sent: u64,
    finished: watch::Receiver<u64>,
}

impl Outlet {
    /// `finished` counts the cuts that were applied.
    pub(super) fn new(cuts: mpsc::Sender<Cut>, finished: watch::Receiver<u64>) -> Self {
        Self { cuts, sent: 0, finished }
    }

    /// All that was sent is applied. A cut that waited behind another one could have grown as well.
    fn is_idle(&self) -> bool {
        *self.finished.borrow() == self.sent
    }

    /// Until something more is applied; false where nobody applies any more. Loses nothing when it is dropped.
    async fn moves_on(&mut self) -> bool {
        self.finished.changed().await.is_ok()
    }

    async fn send(&mut self, cut: Cut) {
        self.sent += 1;
        // Nobody takes it: the unit is about to end.
        let _gone = self.cuts.send(cut).await;
    }
}

/// A stream that began far behind.
pub(super) struct Behind {
    /// Whether it has caught up, and little would be read again if it began anew.
    pub(super) is_over: watch::Receiver<bool>,
    /// Lets it begin anew.
    pub(super) anew: oneshot::Sender<Anew>,
}

impl Behind {
    /// Until one that is behind is so no more. Loses nothing when it is dropped.
    async fn ends(behind: &mut Option<Self>) {
        let is_over = match behind {
            Some(behind) => behind.is_over.wait_for(|is_over| *is_over).await.is_ok(),
            None => false,
        };
        if !is_over {
            std::future::pending().await
        }
    }

    /// Asks for what comes from this position on.
    fn begin_anew(self, from: Lsn) -> mpsc::Receiver<Vec<Event>> {
        let (taker, events) = mpsc::channel(BUFFERS);
        // It is gone only when the unit ends.
        let _gone = self.anew.send(Anew { from, taker });
        events
    }
}

/// Reads the stream.
pub(super) struct Reader {
    decoder: Decoder,
    assembler: Assembler,
    follower: Follower,
    spools: BTreeMap<Xid, Spool>,
    targets: Arc<[Target]>,
    /// Name and target of each table.
    tables: BTreeMap<TableNo, (QualifiedName, usize)>,
    rereader: Wire,
    to_applier: Outlet,
    figures: Arc<Figures>,
    /// A transaction is being followed.
    open: bool,
    reached: Lsn,
    /// What the applier was told of that.
    told: Lsn,
    /// It is told at this time, if nothing else is to be told before.
    tell_at: Instant,
    noted: Noted,
    /// The transaction that is being followed carries a change.
    changes: bool,
    /// The table whose rows are markers, and the stream's name for it once it was told.
    markers: QualifiedName,
    relation_of_markers: Option<RelationId>,
    /// The transaction carries this marker.
    marker: Option<String>,
}

impl Reader {
    pub(super) fn new(
        applied: Lsn,
        course: Course,
        rereads: Vec<Reread>,
        (rereader, newest): (Wire, FullXid),
        to_applier: Outlet,
        figures: Arc<Figures>,
        markers: QualifiedName,
    ) -> Self {
        let tables = course.tables.iter();
        let tables = tables.map(|table| (table.no, (table.name.clone(), table.target))).collect();
        let targets = Arc::clone(&course.targets);
        Self {
            decoder: Decoder::default(),
            assembler: Assembler::default(),
            follower: Follower::new(course.targets, course.tables, rereads, applied, newest),
            spools: BTreeMap::new(),
            targets,
            tables,
            rereader,
            to_applier,
            figures,
            open: false,
            reached: applied,
            told: applied,
            tell_at: Instant::now(),
            noted: Noted::default(),
            changes: false,
            markers,
            relation_of_markers: None,
            marker: None,
        }
    }

    /// Reads until nobody sends or takes any more.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Vec<Event>>,
        mut behind: Option<Behind>,
        mut to_park: mpsc::UnboundedReceiver<TableNo>,
    ) -> Result<(), UnitEnd> {
        loop {
            // What waits for the applier goes first: nobody reads ahead of an applier that is idle.
            let changes = !self.open && !self.is_empty();
            let idle = self.to_applier.is_idle();
            if changes && idle {
                self.send().await;
            }
            let moved = !self.open && self.reached > self.told;
            let waits = (changes || moved) && !idle;
            tokio::select! {
                // 1. So it does once the applier has applied what it has.
                biased;
                goes_on = self.to_applier.moves_on(), if waits => {
                    if !goes_on {
                        return Ok(());
                    }
                }
                Some(table) = to_park.recv() => self.follower.park(table),
                // 2. Between two transactions whatever is not taken can be read again.
                () = Behind::ends(&mut behind), if !self.open => {
                    if let Some(behind) = behind.take() {
                        events = behind.begin_anew(self.reached);
                    }
                }
                // 3. More of the stream; the rest of a transaction above all.
                buffer = events.recv() => {
                    let Some(buffer) = buffer else { return Ok(()) };
                    for event in buffer {
                        self.take(event).await?;
                    }
                }
                () = tokio::time::sleep_until(self.tell_at), if moved && idle => self.send().await,
            }
        }
    }

    fn is_empty(&self) -> bool {
        let Batch { entries, parked, notices, rereads, .. } = self.follower.uncut();
        let nothing = entries.is_empty() && parked.is_empty() && notices.is_empty();
        nothing && rereads.is_empty() && self.noted.marker.is_none()
    }

    fn cut(&mut self) -> Cut {
        if !self.open {
            self.told = self.reached;
            let pause = if self.is_empty() { IDLE_PAUSE } else { SETTLED_PAUSE };
            self.tell_at = Instant::now() + pause;
        }
        let noted = if self.open { Noted::default() } else { std::mem::take(&mut self.noted) };
        let batch = self.follower.cut();
        let folded = Folded::of(&batch.entries, &self.targets, &BTreeSet::new()).ok();
        Cut { batch, folded, reached: self.reached, noted }
    }

    async fn take(&mut self, event: Event) -> Result<(), UnitEnd> {
        let (Event::Change { at, .. } | Event::Reached { at }) = event;
        self.figures.received(at);
        match event {
            Event::Change { message, .. } => self.message(message).await,
            // All that was committed before has been read, whole.
            Event::Reached { at } if !self.open && self.assembler.at_boundary() => {
                self.reached = self.reached.max(at);
                Ok(())
            }
            Event::Reached { .. } => Ok(()),
        }
    }

    async fn message(&mut self, message: Bytes) -> Result<(), UnitEnd> {
        let received = self.decoder.decode(message).map_err(|bad| not_understood(&bad))?;
        match self.assembler.take(received).map_err(|bad| not_understood(&bad))? {
            Step::Kept => self.make_room().await,
            Step::Begin(begin) => self.begin(begin),
            Step::Item(item) => self.item(item).await,
            Step::Commit(commit) => self.commit(commit),
            Step::Streamed(mut streamed) => {
                let (begin, commit) = (streamed.begin, streamed.commit);
                self.begin(begin)?;
                if let Some(spooled) = streamed.spooled.take() {
                    self.spooled(begin.xid, &spooled).await?;
                }
                for item in streamed.into_items() {
                    self.item(item).await?;
                }
                self.commit(commit)
            }
            Step::RolledBack(xid) => {
                self.spools.remove(&xid);
                self.tell_spilled();
                Ok(())
            }
            Step::Logical(_) => Ok(()),
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), UnitEnd> {
        (self.open, self.changes, self.marker) = (true, false, None);
        Ok(self.follower.begin(begin).map_err(|error| not_understood(&error))?)
    }

    async fn item(&mut self, item: Item) -> Result<(), UnitEnd> {
        match &item {
            Item::Relation(relation) if relation.name == self.markers => {
                self.relation_of_markers = Some(relation.id);
                return Ok(());
            }
            Item::Change(change) if self.is_of_markers(change) => {
                self.marker = marker_of(change).or(self.marker.take());
                return Ok(());
            }
            Item::Change(_) => self.changes = true,
            Item::Logical(message) if &*message.prefix == marker::PREFIX => {
                self.marker = Some(String::from_utf8_lossy(&message.content).into_owned());
            }
            Item::Logical(_) | Item::Relation(_) => {}
        }
        if let Some(wanted) = self.follower.item(item).map_err(|error| not_understood(&error))? {
            self.read_again(&wanted).await?;
        }
        if self.follower.uncut().bytes >= BATCH_BYTES {
            self.send().await;
        }
        Ok(())
    }

    fn is_of_markers(&self, change: &Change) -> bool {
        let of = match change {
            Change::Insert { relation, .. }
            | Change::Update { relation, .. }
            | Change::Delete { relation, .. } => relation,
            Change::Truncate { .. } => return false,
        };
        self.relation_of_markers.as_ref() == Some(of)
    }

    async fn send(&mut self) {
        let cut = self.cut();
        self.to_applier.send(cut).await;
    }

    fn commit(&mut self, commit: Commit) -> Result<(), UnitEnd> {
        self.follower.commit(commit).map_err(|error| not_understood(&error))?;
        self.open = false;
        self.reached = self.reached.max(commit.end_lsn);
        if self.changes {
            self.noted.last_change = Some(commit.end_lsn);
        }
        if let Some(marker) = self.marker.take() {
            self.noted.marker = Some((marker, commit.end_lsn));
        }
        Ok(())
    }

    async fn read_again(&mut self, wanted: &RereadWanted) -> Result<(), UnitEnd> {
        let (name, target) =
            self.tables.get(&wanted.table).expect("the follower knows the tables it was given");
        let target = &self.targets[*target];
        reread::read_again(&mut self.rereader, name, target, wanted, &mut self.follower).await
    }

    async fn make_room(&mut self) -> Result<(), UnitEnd> {
        while self.assembler.held() > HELD_BYTES {
            let Some(spill) = self.assembler.spill() else { return Ok(()) };
            let xid = spill.xid;
            let spool = match self.spools.remove(&xid) {
                Some(spool) => spool,
                None => Spool::new()?,
            };
            self.spools.entry(xid).insert_entry(spool).get_mut().append(spill).await?;
            self.tell_spilled();
        }
        Ok(())
    }

    fn tell_spilled(&self) {
        self.figures.spilled(self.spools.values().map(Spool::bytes).sum());
    }

    async fn spooled(&mut self, xid: Xid, spooled: &Spooled) -> Result<(), UnitEnd> {
        let Some(mut spool) = self.spools.remove(&xid) else {
            debug_assert!(false, "what was spilled was put by");
            return Err(Failure::other("spool_failed", "a transaction's file is gone").into());
        };
        spool.rewind().await?;
        let mut buffer = BytesMut::new();
        while spool.read(&mut buffer).await? {
            while let Some(item) = spooled.next(&mut buffer).map_err(|bad| not_understood(&bad))? {
                self.item(item).await?;
            }
        }
        self.tell_spilled();
        Ok(())
    }
}

/// Nothing is guessed: what is not understood is not applied.
pub(super) fn not_understood(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::other("stream_not_understood", chain(error))
        .remedy("please report it, with the agent's log and the versions of both servers")
}

/// The marker that a row of theirs has.
fn marker_of(change: &Change) -> Option<String> {
    let (Change::Insert { new, .. } | Change::Update { new, .. }) = change else { return None };
    match new.fields().nth(marker::COLUMN)? {
        Field::Text(value) => Some(String::from_utf8_lossy(value).into_owned()),
        Field::Null | Field::Unchanged | Field::Binary(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_applies_is_idle_once_all_that_was_sent_is_applied() {
        let (cuts, mut sent) = mpsc::channel(1);
        let (finished, finishes) = watch::channel(0);
        let mut outlet = Outlet::new(cuts, finishes);
        let cut = || Cut {
            batch: Batch::default(),
            folded: None,
            reached: Lsn(0),
            noted: Noted::default(),
        };
        assert!(outlet.is_idle());
        outlet.send(cut()).await;
        sent.recv().await.unwrap();
        // One that is taken is not applied yet, and a full one may wait behind it.
        outlet.send(cut()).await;
        assert!(!outlet.is_idle());
        finished.send_modify(|finished| *finished += 1);
        assert!(outlet.moves_on().await && !outlet.is_idle());
        finished.send_modify(|finished| *finished += 1);
        assert!(outlet.moves_on().await && outlet.is_idle());
        drop(finished);
        assert!(!outlet.moves_on().await);
    }
}
