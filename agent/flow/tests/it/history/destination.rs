//! A destination: rows, what it knows of the stream, and transactions that land when they land.

use std::collections::{BTreeMap, BTreeSet};

use pgconvoy_flow::stream::entry::{Batch, Entry, Parked, Reread};
use pgconvoy_flow::stream::fold::fold;
use pgconvoy_flow::stream::operation::{Expect, InTheWay, Operation};
use pgconvoy_flow::stream::table::Target;
use pgconvoy_flow::stream::tuple::{Field, Tuple};
use pgconvoy_shared::lsn::Lsn;

use super::Reached;
use super::bugs::{Bug, Bugs};
use super::source::{Kind, Row};

/// Of `apply_progress`: what each transaction of the stream compares and sets (law O3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) epoch: u32,
    pub(super) applied: Lsn,
    pub(super) number: u32,
}

pub(super) struct Destination {
    pub(super) kinds: Vec<Kind>,
    pub(super) targets: std::sync::Arc<[Target]>,
    pub(super) rows: Vec<Vec<Row>>,
    pub(super) progress: Progress,
    /// N, by table.
    pub(super) until: Vec<Lsn>,
    /// The targets of the tables.
    pub(super) target_of: Vec<usize>,
    pub(super) rereads: Vec<Reread>,
    /// What is kept of tables that are parked.
    pub(super) kept: BTreeMap<usize, Vec<Parked>>,
    pub(super) bugs: Bugs,
}

/// A transaction of the stream.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) expected: Progress,
    pub(super) applied: Lsn,
    pub(super) batches: Vec<Batch>,
    /// Tables that are parked from now on.
    pub(super) parks: BTreeSet<usize>,
    /// A table whose kept changes these are, and that goes on.
    pub(super) goes_on: Option<usize>,
}

pub(super) enum Landed {
    Done,
    /// Somebody else was here.
    Fenced,
}

impl Destination {
    /// A transaction arrives; an error is a change that does not fit, for which its table would be parked.
    pub(super) fn land(
        &mut self,
        transaction: &Transaction,
        reached: &mut Reached,
    ) -> Result<Landed, String> {
        let Transaction { expected, applied, batches, parks, goes_on } = transaction;
        let is = self.progress;
        if is != *expected && self.bugs.hold(Bug::NothingCompared) {
            reached.note("a transaction was fenced");
            return Ok(Landed::Fenced);
        }
        for table in parks {
            self.kept.entry(*table).or_default();
        }
        if let Some(table) = goes_on {
            reached.note("a parked table went on");
            self.kept.remove(table);
        }
        for batch in batches {
            self.apply(&batch.entries, reached)?;
            if goes_on.is_some() && !batch.entries.is_empty() {
                reached.note("a kept change was applied");
            }
            for parked in &batch.parked {
                self.kept.entry(parked.table.0 as usize).or_default().push(parked.clone());
            }
            for reread in &batch.rereads {
                reached.note("a row was read again");
                let until = &mut self.until[reread.table.0 as usize];
                *until = reread.noted.max(*until);
                self.rereads.push(reread.clone());
            }
        }
        self.progress = Progress { applied: *applied, number: is.number + 1, ..is };
        Ok(Landed::Done)
    }

    /// Folded; where that fails, one change after the other.
    fn apply(&mut self, entries: &[Entry], reached: &mut Reached) -> Result<(), String> {
        let before = self.rows.clone();
        let folded = fold(entries, &self.targets).map_err(|error| error.to_string());
        let folded = folded.and_then(|operations| self.run_all(&operations, reached));
        if folded.is_ok() {
            return Ok(());
        }
        reached.note("a batch was applied in order");
        self.rows = before;
        for change in entries.chunk_by(|one, next| one.place == next.place) {
            fold(change, &self.targets)
                .map_err(|error| error.to_string())
                .and_then(|operations| self.run_all(&operations, reached))
                .map_err(|error| format!("a change was refused: {error}: {change:?}"))?;
        }
        Ok(())
    }

    fn run_all(&mut self, operations: &[Operation], reached: &mut Reached) -> Result<(), String> {
        operations.iter().try_for_each(|operation| self.run(operation, reached))
    }

    fn run(&mut self, operation: &Operation, reached: &mut Reached) -> Result<(), String> {
        match operation {
            Operation::Truncate { targets, .. } => {
                reached.note("a table was truncated");
                targets.iter().for_each(|target| self.rows[*target].clear());
                Ok(())
            }
            Operation::Remove { target, keys, expect } => {
                let removed = keys.iter().filter(|key| self.take(*target, key).is_some()).count();
                required(removed, keys.len(), *expect)
            }
            Operation::RemoveAlike { target, rows } => {
                let rows = rows.iter().flat_map(|(row, n)| std::iter::repeat_n(row, *n as usize));
                for row in rows {
                    let mut there = self.rows[*target].iter();
                    let row = told(row);
                    let place = there.position(|each| *each == row).ok_or("no row like it")?;
                    self.rows[*target].swap_remove(place);
                }
                Ok(())
            }
            Operation::Move { target, rows, expect, in_the_way } => {
                reached.note("a row was moved");
                let taken: Vec<Option<Row>> =
                    rows.iter().map(|moved| self.take(*target, &moved.from)).collect();
                required(taken.iter().flatten().count(), rows.len(), *expect)?;
                let mut put = BTreeSet::new();
                for (moved, taken) in rows.iter().zip(taken) {
                    if let Some(mut row) = taken {
                        overlay(&mut row, &moved.row);
                        self.put(*target, row, *in_the_way, &mut put)?;
                    }
                }
                Ok(())
            }
            Operation::Update { target, columns, rows, expect } => {
                let mut changed = 0;
                for (key, row) in rows {
                    let kind = self.kinds[*target];
                    let mut there = self.rows[*target].iter();
                    let of_key = with_key(kind, key);
                    let found = there.position(|each| kind.same_key(each, &of_key));
                    let Some(place) = found else { continue };
                    changed += 1;
                    let mut after = self.rows[*target].swap_remove(place);
                    for column in columns {
                        if self.targets[*target].columns[*column].identity_always {
                            return Err("an identity cannot be set".to_owned());
                        }
                        let Some(Field::Text(value)) = row.fields().nth(*column) else {
                            return Err(format!("column {column} of {row:?} is not told"));
                        };
                        after[*column] = text(value);
                    }
                    self.check_unique(*target, &after)?;
                    self.rows[*target].push(after);
                }
                required(changed, rows.len(), *expect)
            }
            Operation::Insert { target, rows, in_the_way } => {
                let mut put = BTreeSet::new();
                rows.iter().try_for_each(|row| self.put(*target, told(row), *in_the_way, &mut put))
            }
        }
    }

    /// Whether a target is as the source has it once this position was applied.
    pub(super) fn is_past_n(&self, target: usize, applied: Lsn) -> bool {
        let mut tables = self.until.iter().zip(&self.target_of);
        tables.all(|(until, of)| *of != target || *until <= applied)
    }

    /// Whether changes of a target's tables are kept.
    pub(super) fn is_parked(&self, target: usize) -> bool {
        self.kept.keys().any(|table| self.target_of[*table] == target)
    }

    fn take(&mut self, target: usize, key: &Tuple) -> Option<Row> {
        let kind = self.kinds[target];
        let of_key = with_key(kind, key);
        let place = self.rows[target].iter().position(|row| kind.same_key(row, &of_key))?;
        Some(self.rows[target].swap_remove(place))
    }

    /// A server refuses to replace a row that the same statement put.
    fn put(
        &mut self,
        target: usize,
        row: Row,
        in_the_way: InTheWay,
        by_this_statement: &mut BTreeSet<Vec<String>>,
    ) -> Result<(), String> {
        let kind = self.kinds[target];
        let there = self.rows[target].iter().position(|each| kind.same_key(each, &row));
        if let Some(place) = there {
            let replaced = self.rows[target].swap_remove(place);
            let identity = self.targets[target].columns.iter().any(|column| column.identity_always);
            let refused = match in_the_way {
                InTheWay::Fails => true,
                InTheWay::IsReplaced => identity,
                InTheWay::IsRemoved => false,
            };
            if refused || by_this_statement.contains(&key_of(kind, &replaced)) {
                return Err(format!("a row with the key of {row:?} is there"));
            }
        }
        self.check_unique(target, &row)?;
        by_this_statement.insert(key_of(kind, &row));
        self.rows[target].push(row);
        Ok(())
    }

    /// What is unique beside the key is made so only when a table is past its N (law S11).
    fn check_unique(&self, target: usize, row: &Row) -> Result<(), String> {
        let kind = self.kinds[target];
        let collides = |each: &Row| kind.collide(each, row) && !kind.same_key(each, row);
        if self.is_past_n(target, self.progress.applied) && self.rows[target].iter().any(collides) {
            return Err(format!("a value of {row:?} is there already"));
        }
        Ok(())
    }
}

fn required(changed: usize, required: usize, expect: Expect) -> Result<(), String> {
    if expect == Expect::Any || changed == required {
        Ok(())
    } else {
        Err(format!("{required} rows were to be changed, {changed} are there"))
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8(value.to_vec()).expect("a history has no other texts")
}

/// A row of which only the key is known.
pub(super) fn with_key(kind: Kind, key: &Tuple) -> Row {
    let mut row = Row::default();
    for (column, field) in kind.key().iter().zip(key.fields()) {
        let Field::Text(value) = field else { panic!("no key: {key:?}") };
        row[*column] = text(value);
    }
    row
}

fn key_of(kind: Kind, row: &Row) -> Vec<String> {
    kind.key().iter().map(|column| row[*column].clone()).collect()
}

fn told(row: &Tuple) -> Row {
    let mut whole = Row::default();
    assert!(row.is_whole() && row.len() == whole.len(), "{row:?} is written");
    overlay(&mut whole, row);
    whole
}

fn overlay(row: &mut Row, with: &Tuple) {
    for (value, field) in row.iter_mut().zip(with.fields()) {
        if let Field::Text(told) = field {
            *value = text(told);
        }
    }
}
