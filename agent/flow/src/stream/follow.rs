//! Decides, change by change, what is to be done at the destination: whether the copy has it, how strictly it is applied,
//! whether its table is parked, and whether its row must be read again.
//!
//! [`Follower`] takes whole transactions in the order of their commits: [`begin`](Follower::begin),
//! [`item`](Follower::item)s, [`commit`](Follower::commit). [`cut`](Follower::cut) may be called at any time and gives what
//! was decided on; only what is cut at a boundary steps the destination from one state of the source to a later one.

mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;

use super::assemble::Item;
use super::entry::{Act, Batch, Entry, Notice, Parked, Place, Reread};
use super::laws::{Law, Laws};
use super::message::{Begin, Change, Commit, Relation, RelationId};
use super::snapshot::{FullXid, Snapshot, Widener};
use super::table::{Key, Mismatch, Order, Table, Target};
use super::tuple::Tuple;
use super::window::Mode;
use judge::{Judge, Verdict};

/// Follows the tables of a task from one position of the stream on.
#[derive(Debug)]
pub struct Follower {
    targets: Arc<[Target]>,
    tables: BTreeMap<RelationId, Followed>,
    /// Relations that nobody planned to follow, and were told of.
    strangers: BTreeSet<RelationId>,
    /// Which snapshots rows were read again in, by table and key.
    reread: BTreeMap<(TableNo, Key), Snapshot>,
    /// The last N of all tables: behind it nobody asks for them.
    until: Lsn,
    widener: Widener,
    /// What ends at or before it is at the destination.
    applied: Lsn,
    open: Option<Open>,
    /// A row that is to be read again before anything else.
    wanted: Option<Wanted>,
    batch: Batch,
    laws: Laws,
}

#[derive(Debug)]
struct Followed {
    table: Table,
    /// How its changes come just now; none before its first relation message.
    now: Option<Now>,
    /// How the last change that is kept came.
    kept: Option<Arc<Relation>>,
}

#[derive(Debug)]
struct Now {
    relation: Arc<Relation>,
    order: Result<Order, Mismatch>,
}

/// The transaction that is being followed.
#[derive(Debug)]
struct Open {
    /// Of its next change.
    place: Place,
    /// The destination has it.
    skipped: bool,
}

/// See [`Follower::item`].
#[derive(Debug)]
struct Wanted {
    relation: RelationId,
    key: Key,
    change: Change,
    place: Place,
}

/// A row that is to be read again: its key changed, it came without a long value, and the destination's row may be younger
/// than that (law S8).
///
/// It is read at the source, whole, under its table's lock, in a snapshot that shows the transaction: whoever reads it waits
/// for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RereadWanted {
    /// The table.
    pub table: TableNo,
    /// The key, as the target has it.
    pub key: Key,
    /// The transaction that must be visible.
    pub xid: FullXid,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RereadAnswer {
    /// The row in the target's columns; none = there is no such row any more.
    pub row: Option<Tuple>,
    /// The snapshot it was read in.
    pub snapshot: Snapshot,
    /// The insert position, noted after the snapshot was taken and flushed since (law S4).
    pub noted: Lsn,
}

/// What cannot be followed. The stream ends before anything of it is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfollowable {
    /// A change of a table whose columns were not told.
    #[error("a change of relation {0}, of which no columns were told")]
    UnknownRelation(RelationId),
    /// A row that has not as many columns as its table, or lacks values that must be told.
    #[error(
        "a change of relation {relation} at {place:?} whose rows are not as they must be: {what}"
    )]
    BadRow {
        /// The relation.
        relation: RelationId,
        /// Which change.
        place: Place,
        /// What is wrong.
        what: &'static str,
    },
    /// Something comes where nothing may.
    #[error("the caller spoke out of turn: {0}")]
    OutOfTurn(&'static str),
}

impl Follower {
    /// Begins behind `applied`, the position that the destination holds; `near` is the newest id that the source gave out.
    /// `reread`: the rows that were read again, as the destination remembers them.
    #[must_use]
    pub fn new(
        targets: Arc<[Target]>,
        tables: impl IntoIterator<Item = Table>,
        reread: impl IntoIterator<Item = Reread>,
        applied: Lsn,
        near: FullXid,
    ) -> Self {
        let followed = |table: Table| (table.relation, Followed { table, now: None, kept: None });
        let tables = tables.into_iter().filter(|table| table.relation != RelationId::NONE);
        let tables: BTreeMap<_, _> = tables.map(followed).collect();
        let until = tables.values().map(|followed| followed.table.window.until()).max();
        let mut follower = Self {
            targets,
            tables,
            strangers: BTreeSet::new(),
            reread: BTreeMap::new(),
            until: until.unwrap_or_default(),
            widener: Widener::new(near),
            applied,
            open: None,
            wanted: None,
            batch: Batch::default(),
            laws: Laws::default(),
        };
        for reread in reread {
            follower.remember(&reread);
        }
        follower.forget();
        follower
    }

    /// The same without a law.
    #[cfg(feature = "lawless")]
    #[must_use]
    pub fn under(mut self, laws: Laws) -> Self {
        self.laws = laws;
        self
    }

    /// A transaction begins.
    pub fn begin(&mut self, begin: Begin) -> Result<(), Unfollowable> {
        if self.open.is_some() {
            return Err(Unfollowable::OutOfTurn("a transaction is open"));
        }
        let xid = self.widener.widen(begin.xid);
        let skipped = begin.commit_lsn < self.applied && self.laws.hold(Law::AppliedSkipped);
        let place = Place { commit_lsn: begin.commit_lsn, ordinal: 0, xid };
        self.open = Some(Open { place, skipped });
        Ok(())
    }

    /// A change that was kept, or the relation before it: decided on anew, in its old place. Without [`begin`](Self::begin)
    /// and [`commit`](Self::commit): of a transaction only one table's part was kept. [`kept_ends`](Self::kept_ends)
    /// comes after the last one.
    pub fn kept(&mut self, place: Place, item: Item) -> Result<Option<RereadWanted>, Unfollowable> {
        self.open = Some(Open { place, skipped: false });
        self.item(item)
    }

    /// What was kept so far is of whole transactions.
    pub fn kept_ends(&mut self) {
        self.open = None;
    }

    /// A part of it. Where an answer is given, the row it names is read and [`answer`](Self::answer)ed before anything else.
    pub fn item(&mut self, item: Item) -> Result<Option<RereadWanted>, Unfollowable> {
        if self.wanted.is_some() {
            return Err(Unfollowable::OutOfTurn("a row is to be read again first"));
        }
        if self.open.is_none() {
            return Err(Unfollowable::OutOfTurn("no transaction is open"));
        }
        match item {
            Item::Relation(relation) => {
                self.relation(relation);
                Ok(None)
            }
            Item::Logical(_) => Ok(None),
            Item::Change(change) => self.change(change),
        }
    }

    /// The row that was asked for.
    pub fn answer(&mut self, answer: RereadAnswer) -> Result<(), Unfollowable> {
        let out_of_turn = Unfollowable::OutOfTurn("no row is to be read again");
        let wanted = self.wanted.take().ok_or(out_of_turn)?;
        let Wanted { relation, key, change, place } = wanted;
        let followed = known(&mut self.tables, relation)?;
        let now = followed.now.as_ref().ok_or(Unfollowable::UnknownRelation(relation))?;
        let as_it_came = Arc::clone(&now.relation);
        let target = &self.targets[followed.table.target];
        if self.laws.hold(Law::RereadRaises) {
            followed.table.window.raise(answer.noted);
            self.until = self.until.max(answer.noted);
        }
        let old = followed.old_key(target, &change).ok_or(Unfollowable::BadRow {
            relation,
            place,
            what: "no old key",
        })?;
        let read_bytes = answer.row.as_ref().map_or(0, |row| row.bytes().len());
        let acts = [Some(Act::Delete(old)), answer.row.clone().map(Act::Insert)];
        let (table, target_no) = (followed.table.no, followed.table.target);
        let had = answer.row.map(|row| target.key_of(&row)).filter(|had| *had != key);
        let reread = Reread {
            table,
            keys: [key].into_iter().chain(had).collect(),
            snapshot: answer.snapshot,
            noted: answer.noted,
        };
        let decided = Decided { place, table, target: target_no, mode: Mode::Converging };
        // The change came without its long values, and is held with them.
        self.batch.bytes += read_bytes;
        self.batch.push(decided, acts, &change, &as_it_came);
        self.remember(&reread);
        self.batch.rereads.push(reread);
        Ok(())
    }

    /// The row that was asked for cannot be read: its table is not there any more, or not as planned, for a reason that the
    /// stream tells later. So it is parked at this change.
    pub fn cannot_answer(&mut self, why: Box<str>) -> Result<(), Unfollowable> {
        let out_of_turn = Unfollowable::OutOfTurn("no row is to be read again");
        let Wanted { relation, change, place, .. } = self.wanted.take().ok_or(out_of_turn)?;
        let followed = known(&mut self.tables, relation)?;
        followed.keep(place, change, Some(Mismatch::NotReadable(why)), &mut self.batch);
        Ok(())
    }

    /// The transaction is complete.
    pub fn commit(&mut self, commit: Commit) -> Result<(), Unfollowable> {
        if self.wanted.is_some() {
            return Err(Unfollowable::OutOfTurn("a row is to be read again first"));
        }
        let out_of_turn = Unfollowable::OutOfTurn("no transaction is open");
        if !self.open.take().ok_or(out_of_turn)?.skipped {
            self.applied = commit.end_lsn;
            self.batch.commit = Some(commit);
            self.forget();
        }
        Ok(())
    }

    /// What was decided on so far.
    pub fn cut(&mut self) -> Batch {
        self.batch.at_boundary = self.open.is_none();
        std::mem::take(&mut self.batch)
    }

    /// What was decided on and not cut.
    #[must_use]
    pub fn uncut(&self) -> &Batch {
        &self.batch
    }

    /// Whether a table is behind N, and where N is.
    pub fn windows(&self) -> impl Iterator<Item = &Table> {
        self.tables.values().map(|followed| &followed.table)
    }

    /// Changes of this table are kept from here on. Batches that were cut before are the caller's: [`Batch::park`].
    pub fn park(&mut self, table: TableNo) {
        for followed in self.tables.values_mut().filter(|followed| followed.table.no == table) {
            followed.table.parked = true;
        }
        let beginning = Place { commit_lsn: Lsn(0), ordinal: 0, xid: FullXid(0) };
        self.batch.park(table, beginning);
    }

    fn remember(&mut self, reread: &Reread) {
        for key in &reread.keys {
            self.reread.insert((reread.table, key.clone()), reread.snapshot.clone());
        }
    }

    /// What comes behind N finds its rows as they are.
    fn forget(&mut self) {
        if self.applied >= self.until {
            self.reread = BTreeMap::new();
        }
    }

    /// Relations of transactions that are skipped count too: they are told once.
    fn relation(&mut self, relation: Arc<Relation>) {
        let Some(followed) = self.tables.get_mut(&relation.id) else {
            if self.strangers.insert(relation.id) {
                self.batch.notices.push(Notice::NotFollowed(relation.name.clone()));
            }
            return;
        };
        let order = followed.table.order_in(&self.targets[followed.table.target], &relation);
        followed.now = Some(Now { relation, order });
    }

    fn change(&mut self, change: Change) -> Result<Option<RereadWanted>, Unfollowable> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let place = open.place;
        open.place.ordinal += 1;
        if open.skipped {
            return Ok(None);
        }
        // Whether the rows of its targets can be truncated is asked of all tables before any is changed.
        let parts = self.parts_truncated(&change, place);
        for relation in change.relations() {
            if self.strangers.contains(relation) {
                continue;
            }
            let followed = known(&mut self.tables, *relation)?;
            let target = &self.targets[followed.table.target];
            let judge = Judge { laws: self.laws, reread: &self.reread, target, place };
            let verdict = if parts.contains(relation) {
                Verdict::Park(Some(Mismatch::PartTruncated))
            } else {
                judge.judge(followed, *relation, &change)?
            };
            let table = followed.table.no;
            match verdict {
                Verdict::Nothing => {}
                Verdict::Acts(mode, acts) => {
                    let now = followed.now.as_ref();
                    let now = now.ok_or(Unfollowable::UnknownRelation(*relation))?;
                    let target = followed.table.target;
                    let decided = Decided { place, table, target, mode };
                    self.batch.push(decided, acts, &change, &now.relation);
                }
                Verdict::Park(mismatch) => {
                    if followed.now.is_none() {
                        return Err(Unfollowable::UnknownRelation(*relation));
                    }
                    followed.keep(place, change.of(*relation), mismatch, &mut self.batch);
                }
                Verdict::Read(key) => {
                    let wanted = RereadWanted { table, key: key.clone(), xid: place.xid };
                    let relation = *relation;
                    self.wanted = Some(Wanted { relation, key, change, place });
                    return Ok(Some(wanted));
                }
            }
        }
        Ok(None)
    }

    /// Tables that a truncate would empty, while others that share their target keep their rows: they are not named, or the
    /// copy has it for them alone, or they are parked. Whose the target's rows are cannot be told.
    fn parts_truncated(&self, change: &Change, place: Place) -> BTreeSet<RelationId> {
        let Change::Truncate { relations, .. } = change else { return BTreeSet::new() };
        let empties = |table: &Table| {
            let mode = table.window.mode(self.laws, place.xid, place.commit_lsn);
            relations.contains(&table.relation) && mode.is_some() && !table.parked
        };
        let tables = || self.tables.values().map(|followed| &followed.table);
        let emptied = tables().filter(|table| empties(table));
        let in_part = emptied
            .filter(|table| tables().any(|other| other.target == table.target && !empties(other)));
        in_part.map(|table| table.relation).collect()
    }
}

fn known(
    tables: &mut BTreeMap<RelationId, Followed>,
    relation: RelationId,
) -> Result<&mut Followed, Unfollowable> {
    tables.get_mut(&relation).ok_or(Unfollowable::UnknownRelation(relation))
}

/// What the entries of one change have in common.
struct Decided {
    place: Place,
    table: TableNo,
    target: usize,
    mode: Mode,
}

impl Batch {
    fn push(
        &mut self,
        decided: Decided,
        acts: [Option<Act>; 2],
        change: &Change,
        relation: &Arc<Relation>,
    ) {
        let Decided { place, table, target, mode } = decided;
        self.bytes += size_of::<Entry>() + change.bytes();
        self.entries.extend(acts.into_iter().flatten().map(|act| Entry {
            place,
            table,
            target,
            mode,
            act,
            change: change.clone(),
            relation: Arc::clone(relation),
        }));
    }
}

impl Change {
    /// The part of it that is about one table.
    pub(super) fn of(&self, relation: RelationId) -> Self {
        match self {
            Self::Truncate { cascade, restart_identity, .. } => Self::Truncate {
                relations: [relation].into(),
                cascade: *cascade,
                restart_identity: *restart_identity,
            },
            Self::Insert { .. } | Self::Update { .. } | Self::Delete { .. } => self.clone(),
        }
    }
}

impl Followed {
    /// A row in the target's columns.
    fn row(&self, row: &Tuple) -> Tuple {
        match self.now.as_ref().map(|now| &now.order) {
            Some(Ok(Some(order))) => row.project(order.iter().copied()),
            _ => row.clone(),
        }
    }

    /// The key of what a change says of its old row.
    fn old_key(&self, target: &Target, change: &Change) -> Option<Key> {
        match change {
            Change::Update { old: Some(old), .. } | Change::Delete { old, .. } => {
                Some(target.key_of(&self.row(old.tuple())))
            }
            Change::Update { old: None, .. } | Change::Insert { .. } | Change::Truncate { .. } => {
                None
            }
        }
    }

    /// From here on its changes are kept, behind the relations by which they are read again.
    fn keep(
        &mut self,
        place: Place,
        change: Change,
        mismatch: Option<Mismatch>,
        batch: &mut Batch,
    ) {
        let table = self.table.no;
        let relation = self.now.as_ref().map(|now| &now.relation);
        if let Some((mismatch, relation)) = mismatch.zip(relation) {
            self.table.parked = true;
            let change = change.told(relation);
            batch.notices.push(Notice::Parked { table, place, change, mismatch });
        }
        if let Some(relation) = relation.filter(|now| self.kept.as_ref() != Some(*now)) {
            batch.parked.push(Parked::relation(table, place, relation));
            self.kept = Some(Arc::clone(relation));
        }
        batch.bytes += size_of::<Parked>() + change.bytes();
        batch.parked.push(Parked::change(table, place, change));
    }
}

#[cfg(test)]
mod tests;
