//! What is done at the destination for a batch: operations on sets of rows.
//!
//! In the order in which [`fold`](super::fold) gives them they have the result of the changes in the source's order; each is
//! one statement. Where one fails, nothing of the batch holds, and its changes are applied one after the other.

use std::collections::BTreeSet;

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
        /// The columns that are set, ascending; no key column among them. None: the rows are only looked for.
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

impl Operation {
    /// The one table that it writes, an index into the targets; none where it writes several.
    #[must_use]
    pub fn target(&self) -> Option<usize> {
        match self {
            Self::Truncate { targets, .. } => match **targets {
                [only] => Some(only),
                _ => None,
            },
            Self::Remove { target, .. }
            | Self::RemoveAlike { target, .. }
            | Self::Move { target, .. }
            | Self::Update { target, .. }
            | Self::Insert { target, .. } => Some(*target),
        }
    }
}

/// Makes updates of some targets moves, which take all rows away before the first is put: so they may pass values of further
/// unique indexes among them, as rows that change places do.
///
/// That costs an entry in every index, so it is for targets where it is needed. Operations are as
/// [`fold`](super::fold::fold) gives them: those of one target stand together.
#[must_use]
pub fn carried(operations: Vec<Operation>, targets: &BTreeSet<usize>) -> Vec<Operation> {
    let mut carried = Vec::with_capacity(operations.len());
    for operation in operations {
        let (target, moved, expect, in_the_way) = match operation {
            Operation::Update { target, rows, expect, .. } if targets.contains(&target) => {
                let in_the_way = match expect {
                    Expect::Each => InTheWay::Fails,
                    Expect::Any => InTheWay::IsReplaced,
                };
                let moved = rows.into_iter().map(|(from, row)| Moved { from, row }).collect();
                (target, moved, expect, in_the_way)
            }
            Operation::Move { target, rows, expect, in_the_way } if targets.contains(&target) => {
                (target, rows, expect, in_the_way)
            }
            other => {
                carried.push(other);
                continue;
            }
        };
        match carried.last_mut() {
            Some(Operation::Move { target: last, rows, expect: as_strict, .. })
                if *last == target && *as_strict == expect =>
            {
                rows.extend::<Vec<Moved>>(moved);
            }
            _ => carried.push(Operation::Move { target, rows: moved, expect, in_the_way }),
        }
    }
    carried
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

#[cfg(test)]
mod tests {
    use super::super::tuple::Field;
    use super::*;

    fn tuple(text: &str) -> Tuple {
        Tuple::from_fields(
            text.split(' ')
                .map(|word| Field::Text(word.as_bytes()))
                .collect::<Vec<_>>()
                .into_iter(),
        )
    }

    #[test]
    fn updates_and_moves_of_a_target_become_one_move() {
        let expect = Expect::Each;
        let update = |target, key: &str, row: &str| Operation::Update {
            target,
            columns: [1].into(),
            rows: vec![(tuple(key), tuple(row))],
            expect,
        };
        let moved = |from: &str, row: &str| Moved { from: tuple(from), row: tuple(row) };
        let moves = |rows| Operation::Move { target: 1, rows, expect, in_the_way: InTheWay::Fails };
        let insert =
            Operation::Insert { target: 1, rows: vec![tuple("9 i")], in_the_way: InTheWay::Fails };
        let operations = vec![
            update(0, "1", "1 a"),
            moves(vec![moved("2", "3 b")]),
            update(1, "4", "4 c"),
            update(1, "5", "5 d"),
            insert.clone(),
        ];
        let rows = vec![moved("2", "3 b"), moved("4", "4 c"), moved("5", "5 d")];
        let expected = vec![update(0, "1", "1 a"), moves(rows), insert];
        assert_eq!(carried(operations, &[1].into()), expected);
    }
}
