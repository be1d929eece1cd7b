//! What is done at the destination for a batch: operations on sets of rows.
//!
//! In the order in which [`fold`](super::fold) gives them they have the result of the changes in the source's order; each is
//! one statement. Where one fails, nothing of the batch holds, and its changes are applied one after the other.

use super::table::Key;
use super::tuple::Tuple;

/// An operation. Rows have the columns of their target, an index into the targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Empties tables, all by one statement.
    Truncate {
        /// The tables.
        targets: Box<[usize]>,
        /// Whether their sequences begin anew.
        restart_identity: bool,
    },
    /// Removes the rows under some keys.
    Remove {
        /// The table.
        target: usize,
        /// The keys.
        keys: Vec<Key>,
        /// Whether all must be there.
        expect: Expect,
    },
    /// Removes rows of just these values: of each as many as it says, though there be more. All must be there.
    RemoveAlike {
        /// The table.
        target: usize,
        /// Rows, and how many of each.
        rows: Vec<(Tuple, u64)>,
    },
    /// Takes rows away under their old keys, all of them, and then puts them under their new ones; values that are not told
    /// go along.
    Move {
        /// The table.
        target: usize,
        /// The rows.
        rows: Vec<Moved>,
        /// Whether all must be there.
        expect: Expect,
        /// What happens to a row that is in the way.
        in_the_way: InTheWay,
    },
    /// Sets some columns of the rows under some keys.
    Update {
        /// The table.
        target: usize,
        /// The columns that are set, ascending; no key column among them.
        columns: Box<[usize]>,
        /// Keys and rows; of these only those columns count.
        rows: Vec<(Key, Tuple)>,
        /// Whether all must be there.
        expect: Expect,
    },
    /// Puts rows.
    Insert {
        /// The table.
        target: usize,
        /// The rows, whole.
        rows: Vec<Tuple>,
        /// What happens to a row that is in the way.
        in_the_way: InTheWay,
    },
}

/// A row that goes to another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its key before.
    pub from: Key,
    /// The row after.
    pub row: Tuple,
}

/// How many rows must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// One for each key: otherwise the operation fails.
    Each,
    /// Whatever there is.
    Any,
}

/// What happens to a row that has the key of one that is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTheWay {
    /// The operation fails.
    Fails,
    /// It becomes the one that is put, key columns too: they may be equal and not the same.
    IsReplaced,
    /// It is removed: of the tables that have a column which no update may set.
    IsRemoved,
}
