//! Changes as they are to be applied: decided on, one by one, and not yet folded.
//!
//! A batch is kept in this form, so that it can be applied either way: folded, or one change after the other where that
//! fails. And a table can still be taken out of it.

use bytes::Bytes;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

use super::encode::encode;
use super::message::{Change, Commit, Message, Received, Relation};
use super::snapshot::{FullXid, Snapshot};
use super::table::{Key, Mismatch};
use super::tuple::Tuple;
use super::window::Mode;

/// Where a change stands in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Where its transaction's commit record begins.
    pub commit_lsn: Lsn,
    /// Its number within the transaction, from 0.
    pub ordinal: u64,
    /// Its top-level transaction.
    pub xid: FullXid,
}

/// What is to be done to one table for one change. A change that moves a row may need two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which change.
    pub place: Place,
    /// The table of the source that it changes.
    pub table: TableNo,
    /// Where rows go: an index into the targets.
    pub target: usize,
    /// How its row is looked for.
    pub mode: Mode,
    /// What is to be done. Rows have the target's columns.
    pub act: Act,
    /// The change as it came.
    pub change: Change,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A new row, whole.
    Insert(Tuple),
    /// The row under this key gets the values that are told; a whole row may be put where none is.
    Update {
        /// The key, before and after.
        key: Key,
        /// The row after.
        row: Tuple,
    },
    /// The row under this key goes.
    Delete(Key),
    /// The row under this key goes to another; what is not told it takes along.
    Move {
        /// The key before.
        from: Key,
        /// The row after; its key is another.
        row: Tuple,
    },
    /// One row of just these values comes; the table has no key.
    Add(Tuple),
    /// One row of just these values goes.
    Take(Tuple),
    /// All rows go. Those of one place are emptied by one statement.
    Truncate {
        /// Whether sequences begin anew.
        restart_identity: bool,
    },
}

/// What was decided on since the last cut.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What is to be applied, in order.
    pub entries: Vec<Entry>,
    /// What is to be kept for tables that are parked, in order.
    pub parked: Vec<Parked>,
    /// What there is to tell.
    pub notices: Vec<Notice>,
    /// Rows that were read again: to be written down in the same transaction, with N of their tables raised.
    pub rereads: Vec<Reread>,
    /// The last commit it holds whole; none where it ends within its first transaction.
    pub commit: Option<Commit>,
    /// Whether it ends with that commit. Otherwise the destination's transaction goes on with the next batch.
    pub at_boundary: bool,
    /// What it costs to hold it, nearly.
    pub bytes: usize,
}

/// A change, or a relation, of a table that is parked: kept at the destination until the table is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Whose.
    pub table: TableNo,
    /// Where it stands.
    pub place: Place,
    /// As it came: a message of `pgoutput`.
    pub message: Bytes,
}

/// Something that is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A table's changes are kept from here on.
    Parked {
        /// Which table.
        table: TableNo,
        /// The first change that is kept.
        place: Place,
        /// Why.
        mismatch: Mismatch,
    },
    /// A table has changes that nobody planned to follow.
    NotFollowed(QualifiedName),
}

/// A row that was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reread {
    /// Its table.
    pub table: TableNo,
    /// The keys it was known by: the one it was asked for, and the one it had.
    pub keys: Box<[Key]>,
    /// The snapshot it was read in.
    pub snapshot: Snapshot,
    /// The insert position, noted after the snapshot was taken: N is not before it.
    pub noted: Lsn,
}

impl Batch {
    /// Takes a table out of it, from one change on: those are kept instead of being applied. Kept changes stay in order if a
    /// table is taken out before later batches are.
    pub fn park(&mut self, table: TableNo, from: Place) {
        let goes = |entry: &mut Entry| entry.table == table && entry.place >= from;
        let mut last = None;
        for entry in self.entries.extract_if(.., goes) {
            if last != Some(entry.place) {
                last = Some(entry.place);
                self.parked.push(Parked::change(table, entry.place, entry.change));
            }
        }
    }
}

impl Parked {
    pub(super) fn change(table: TableNo, place: Place, change: Change) -> Self {
        Self::message(table, place, Message::Change(change))
    }

    pub(super) fn relation(table: TableNo, place: Place, relation: Relation) -> Self {
        Self::message(table, place, Message::Relation(relation))
    }

    fn message(table: TableNo, place: Place, message: Message) -> Self {
        Self { table, place, message: encode(&Received { within: None, message }) }
    }
}
