//! Changes as they are to be applied: decided on, one by one, and not yet folded.
//!
//! A batch is kept in this form, so that it can be applied either way: folded, or one change after the other where that
//! fails. And a table can still be taken out of it.

use std::sync::Arc;

use bytes::Bytes;
use pgconvoy_shared::ids::TableNo;
use pgconvoy_shared::lsn::Lsn;
use pgconvoy_shared::name::QualifiedName;

use super::encode::encode;
use super::message::{Change, Commit, Message, OldRow, Received, Relation};
use super::snapshot::{FullXid, Snapshot};
use super::table::{Key, Mismatch};
use super::tuple::{Field, Tuple};
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
    /// The table as the source had it then, by which the change is read.
    pub relation: Arc<Relation>,
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
        /// That change in words.
        change: Told,
        /// Why.
        mismatch: Mismatch,
    },
    /// A table has changes that nobody planned to follow.
    NotFollowed(QualifiedName),
}

/// A change in words, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// insert, update, delete, truncate.
    pub operation: &'static str,
    /// Which row, by its replica identity before the change: `(id)=(5)`. Empty where all rows are meant.
    pub key: String,
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
        let (mut last, mut relation): (_, Option<Arc<Relation>>) = (None, None);
        for entry in self.entries.extract_if(.., goes) {
            let Entry { place, change, relation: now, .. } = entry;
            if last == Some(place) {
                continue;
            }
            last = Some(place);
            let change = change.of(now.id);
            if relation.as_ref() != Some(&now) {
                self.parked.push(Parked::relation(table, place, &now));
                relation = Some(now);
            }
            self.parked.push(Parked::change(table, place, change));
        }
        // What was decided to be kept may be later than what is taken out now.
        self.parked.sort_by_key(|parked| parked.place);
    }
}

impl Entry {
    /// Its change in words.
    #[must_use]
    pub fn told(&self) -> Told {
        self.change.told(&self.relation)
    }
}

/// What people are told of a key; the whole row where that is the replica identity.
const KEY_TOLD: usize = 200;

impl Change {
    pub(super) fn told(&self, relation: &Relation) -> Told {
        let (operation, row) = match self {
            Self::Insert { new, .. } => ("insert", Some(new)),
            Self::Update { old, new, .. } => {
                ("update", Some(old.as_ref().map_or(new, OldRow::tuple)))
            }
            Self::Delete { old, .. } => ("delete", Some(old.tuple())),
            Self::Truncate { .. } => ("truncate", None),
        };
        let key = row.map(|row| key_of(row, relation)).unwrap_or_default();
        Told { operation, key }
    }
}

fn key_of(row: &Tuple, relation: &Relation) -> String {
    let columns = relation.columns.iter().zip(row.fields());
    let of_key: Vec<_> = columns.filter(|(column, _)| column.in_identity).collect();
    let names: Vec<&str> = of_key.iter().map(|(column, _)| &*column.name).collect();
    let values = of_key.iter().map(|(_, field)| match field {
        Field::Text(value) => String::from_utf8_lossy(&value[..value.len().min(KEY_TOLD)]),
        Field::Null => "null".into(),
        Field::Unchanged | Field::Binary(_) => "…".into(),
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let told: String = format!("({})=({values})", names.join(", "));
    match told.char_indices().nth(KEY_TOLD) {
        _ if of_key.is_empty() => String::new(),
        Some((end, _)) => format!("{}…", &told[..end]),
        None => told,
    }
}

impl Parked {
    pub(super) fn change(table: TableNo, place: Place, change: Change) -> Self {
        Self::message(table, place, Message::Change(change))
    }

    /// Comes before the first change that is read by it, at the place of that.
    pub(super) fn relation(table: TableNo, place: Place, relation: &Relation) -> Self {
        Self::message(table, place, Message::Relation(relation.clone()))
    }

    fn message(table: TableNo, place: Place, message: Message) -> Self {
        Self { table, place, message: encode(&Received { within: None, message }) }
    }
}
