//! Folds changes: what many of them did to one key, one after the other, becomes one fate of that key.
//!
//! [`fold`] gives [`Operation`]s whose result is that of the changes in order. For each table: rows that must go are removed,
//! moved rows change their place, others are changed where they stand, and new ones are put. So
//!
//! - what a key needs before the batch is what its first change needs;
//! - the old values of all moved rows are read before any is written: rows may swap their keys;
//! - a row is put only when all that stood in its way is gone.
//!
//! Two keys that are not the same bytes may be equal to the server (`2.0` and `2.00`). Of such keys the source has one row at
//! most at any time, which is why removing comes first. What removing takes too early, a moved row lacks, and this is told:
//! then the changes are applied in order.
//!
//! Some results cannot be had by sets of rows: rows that pass values of another unique index among them, one after the other.
//! The destination refuses those, and they are applied in order as well.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{Act, Entry, Place};
use super::operation::{Expect, InTheWay, Moved, Operation};
use super::table::{Key, Target};
use super::tuple::{Field, Tuple};
use super::window::Mode;

/// Changes that cannot have happened to one row in this order: only applying them in order tells which of them is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the change at {place:?} does not fit to those before it")]
pub struct Contradiction {
    /// The first that does not fit.
    pub place: Place,
}

/// Folds changes into operations.
///
/// ```text
/// fold(all entries)               for a batch
/// fold(the entries of one place)  to apply it in order
/// ```
pub fn fold(entries: &[Entry], targets: &[Target]) -> Result<Vec<Operation>, Contradiction> {
    let mut fold = Fold { targets, tables: BTreeMap::new(), truncated: Truncated::default() };
    let mut operations = Vec::new();
    for entry in entries {
        let fates = fold.tables.get(&entry.target);
        if fates.is_some_and(|fates| fates.mode != entry.mode) {
            fold.finish(&mut operations);
        }
        fold.take(entry).map_err(|DoesNotFit| Contradiction { place: entry.place })?;
    }
    fold.finish(&mut operations);
    Ok(operations)
}

struct Fold<'a> {
    targets: &'a [Target],
    tables: BTreeMap<usize, Fates>,
    truncated: Truncated,
}

/// Tables that were truncated. What is emptied by one statement may hang together by foreign keys: so it stays together, with
/// what was emptied by another.
#[derive(Default)]
struct Truncated {
    restarting: BTreeSet<usize>,
    continuing: BTreeSet<usize>,
}

/// What becomes of the rows of one target.
struct Fates {
    mode: Mode,
    /// Whether the table is empty before them.
    emptied: bool,
    /// By key.
    keyed: BTreeMap<Key, Fate>,
    /// By all values, where there is no key: how many come, or go.
    alike: BTreeMap<Tuple, i64>,
}

/// What becomes of a key.
struct Fate {
    began: Began,
    now: Now,
}

/// What becomes of the row that the key had before the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Began {
    /// Nothing is known of one.
    Unmentioned,
    /// It is still there.
    Stays,
    /// It goes.
    Goes,
    /// It is taken to another key, or there and back.
    IsCarried,
}

/// What the key has after the changes so far.
enum Now {
    Nothing,
    /// The row that it had before the batch, with these values.
    Changed(Tuple),
    /// A row of just these values.
    Put(Tuple),
    /// The row that another key had before the batch, with these values.
    Carried(Moved),
}

struct DoesNotFit;

impl Fold<'_> {
    fn take(&mut self, entry: &Entry) -> Result<(), DoesNotFit> {
        let fates =
            self.tables.entry(entry.target).or_insert_with(|| Fates::new(entry.mode, false));
        match &entry.act {
            Act::Insert(row) => {
                fates.put(self.targets[entry.target].key_of(row), Now::Put(row.clone()))
            }
            Act::Update { key, row } => fates.update(key, row),
            Act::Delete(key) => fates.delete(key),
            Act::Move { from, row } => {
                let now = fates.leave(from, row)?;
                fates.put(self.targets[entry.target].key_of(row), now)
            }
            Act::Add(row) => fates.count(row, 1),
            Act::Take(row) => fates.count(row, -1),
            Act::Truncate { restart_identity } => {
                *fates = Fates::new(entry.mode, true);
                let Truncated { restarting, continuing } = &mut self.truncated;
                if *restart_identity { restarting } else { continuing }.insert(entry.target);
                Ok(())
            }
        }
    }

    fn finish(&mut self, operations: &mut Vec<Operation>) {
        let Truncated { restarting, continuing } = std::mem::take(&mut self.truncated);
        for (targets, restart_identity) in [(restarting, true), (continuing, false)] {
            if !targets.is_empty() {
                let targets = targets.into_iter().collect();
                operations.push(Operation::Truncate { targets, restart_identity });
            }
        }
        for (target, fates) in std::mem::take(&mut self.tables) {
            if self.targets[target].is_keyless() {
                alike(target, fates.alike, operations);
            } else {
                Emitted::new(target, &self.targets[target], fates).into_operations(operations);
            }
        }
    }
}

impl Fates {
    fn new(mode: Mode, emptied: bool) -> Self {
        Self { mode, emptied, keyed: BTreeMap::new(), alike: BTreeMap::new() }
    }

    /// While it converges a change may find anything.
    fn does_not_fit(&self) -> Result<(), DoesNotFit> {
        if self.mode == Mode::Strict { Err(DoesNotFit) } else { Ok(()) }
    }

    /// The first change of a key finds a row.
    fn begin(&mut self, key: &Key, began: Began, now: Now) -> Result<(), DoesNotFit> {
        if self.emptied {
            self.does_not_fit()?;
        }
        self.keyed.insert(key.clone(), Fate { began, now });
        Ok(())
    }

    fn put(&mut self, key: Key, now: Now) -> Result<(), DoesNotFit> {
        let Some(fate) = self.keyed.get_mut(&key) else {
            self.keyed.insert(key, Fate { began: Began::Unmentioned, now });
            return Ok(());
        };
        match std::mem::replace(&mut fate.now, now) {
            Now::Nothing => return Ok(()),
            Now::Changed(_) => fate.began = Began::Goes,
            Now::Put(_) => {}
            Now::Carried(Moved { from, .. }) => self.goes(&from),
        }
        self.does_not_fit()
    }

    fn update(&mut self, key: &Key, row: &Tuple) -> Result<(), DoesNotFit> {
        let puts = self.mode == Mode::Converging && row.is_whole();
        let Some(fate) = self.keyed.get_mut(key) else {
            let (began, now) = if puts {
                (Began::Unmentioned, Now::Put(row.clone()))
            } else {
                (Began::Stays, Now::Changed(row.clone()))
            };
            return self.begin(key, began, now);
        };
        match &mut fate.now {
            Now::Nothing if puts => fate.now = Now::Put(row.clone()),
            Now::Nothing => return self.does_not_fit(),
            Now::Changed(_) if puts => {
                *fate = Fate { began: Began::Goes, now: Now::Put(row.clone()) };
            }
            Now::Changed(now) | Now::Put(now) | Now::Carried(Moved { row: now, .. }) => {
                *now = row.over(now);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> Result<(), DoesNotFit> {
        let Some(fate) = self.keyed.get_mut(key) else {
            return self.begin(key, Began::Goes, Now::Nothing);
        };
        match std::mem::replace(&mut fate.now, Now::Nothing) {
            Now::Nothing => return self.does_not_fit(),
            Now::Changed(_) => fate.began = Began::Goes,
            Now::Put(_) => {}
            Now::Carried(Moved { from, .. }) => self.goes(&from),
        }
        Ok(())
    }

    /// The row under this key leaves it, with these values. A row that leaves out some is moved only where it is there for
    /// certain, also while the table converges.
    fn leave(&mut self, key: &Key, row: &Tuple) -> Result<Now, DoesNotFit> {
        let Some(fate) = self.keyed.get_mut(key) else {
            self.begin(key, Began::IsCarried, Now::Nothing)?;
            return Ok(Now::Carried(Moved { from: key.clone(), row: row.clone() }));
        };
        match std::mem::replace(&mut fate.now, Now::Nothing) {
            Now::Nothing => Err(DoesNotFit),
            Now::Changed(now) => {
                fate.began = Began::IsCarried;
                Ok(Now::Carried(Moved { from: key.clone(), row: row.over(&now) }))
            }
            Now::Put(now) => Ok(Now::Put(row.over(&now))),
            Now::Carried(Moved { from, row: now }) => {
                Ok(Now::Carried(Moved { from, row: row.over(&now) }))
            }
        }
    }

    /// The row that this key had before the batch was carried away, and went there.
    fn goes(&mut self, key: &Key) {
        if let Some(fate) = self.keyed.get_mut(key) {
            fate.began = Began::Goes;
        }
    }

    fn count(&mut self, row: &Tuple, by: i64) -> Result<(), DoesNotFit> {
        let count = self.alike.entry(row.clone()).or_default();
        *count += by;
        if self.emptied && *count < 0 { Err(DoesNotFit) } else { Ok(()) }
    }
}

/// The rows of a table without a key that come and go.
fn alike(target: usize, counts: BTreeMap<Tuple, i64>, operations: &mut Vec<Operation>) {
    let mut gone = Vec::new();
    let mut rows = Vec::new();
    for (row, count) in counts {
        if count < 0 {
            gone.push((row, count.unsigned_abs()));
        } else {
            rows.extend(std::iter::repeat_n(row, count as usize));
        }
    }
    if !gone.is_empty() {
        operations.push(Operation::RemoveAlike { target, rows: gone });
    }
    if !rows.is_empty() {
        operations.push(Operation::Insert { target, rows, in_the_way: InTheWay::Fails });
    }
}

/// The operations of a target with a key.
struct Emitted {
    target: usize,
    expect: Expect,
    in_the_way: InTheWay,
    removed: Vec<Key>,
    moved: Vec<Moved>,
    /// Rows that are changed, but cannot be where they stand.
    put_again: Vec<Moved>,
    updated: BTreeMap<Box<[usize]>, Vec<(Key, Tuple)>>,
    put: Vec<Tuple>,
}

impl Emitted {
    fn new(target_no: usize, target: &Target, fates: Fates) -> Self {
        let strict = fates.mode == Mode::Strict;
        let set = Columns::that_updates_set(target);
        let mut emitted = Self {
            target: target_no,
            expect: if strict { Expect::Each } else { Expect::Any },
            in_the_way: match &set {
                _ if strict => InTheWay::Fails,
                Some(_) => InTheWay::IsReplaced,
                None => InTheWay::IsRemoved,
            },
            removed: Vec::new(),
            moved: Vec::new(),
            put_again: Vec::new(),
            updated: BTreeMap::new(),
            put: Vec::new(),
        };
        for (key, Fate { began, now }) in fates.keyed {
            let goes = match began {
                Began::Goes => true,
                Began::Unmentioned => !strict,
                Began::Stays | Began::IsCarried => false,
            };
            match (now, &set) {
                (Now::Nothing, _) => emitted.removed.extend(goes.then_some(key)),
                (Now::Changed(row), Some(set)) => emitted.update(set.told_by(&row), key, row),
                (Now::Put(row), Some(set)) if strict && goes => {
                    emitted.update(set.all(), key, row);
                }
                (Now::Changed(row), None) => emitted.put_again.push(Moved { from: key, row }),
                (Now::Put(row), _) => {
                    emitted.removed.extend((goes && strict).then_some(key));
                    emitted.put.push(row);
                }
                (Now::Carried(moved), _) => {
                    emitted.removed.extend((goes && strict).then_some(key));
                    emitted.moved.push(moved);
                }
            }
        }
        emitted
    }

    fn update(&mut self, columns: Box<[usize]>, key: Key, row: Tuple) {
        self.updated.entry(columns).or_default().push((key, row));
    }

    fn into_operations(self, operations: &mut Vec<Operation>) {
        let Self { target, expect, in_the_way, removed, moved, put_again, updated, put } = self;
        if !removed.is_empty() {
            operations.push(Operation::Remove { target, keys: removed, expect });
        }
        for (rows, expect) in [(moved, Expect::Each), (put_again, expect)] {
            if !rows.is_empty() {
                operations.push(Operation::Move { target, rows, expect, in_the_way });
            }
        }
        for (columns, rows) in updated {
            // Where there is nothing to set, the rows may still have to be there.
            if !columns.is_empty() || expect == Expect::Each {
                operations.push(Operation::Update { target, columns, rows, expect });
            }
        }
        if !put.is_empty() {
            operations.push(Operation::Insert { target, rows: put, in_the_way });
        }
    }
}

/// The columns of a target that updates set: all but its key.
struct Columns(Box<[usize]>);

impl Columns {
    /// None where one of them may not be set by an update: then rows are taken away and put again instead.
    fn that_updates_set(target: &Target) -> Option<Self> {
        let in_key = |column| target.key.iter().any(|key| key.column == column);
        let columns: Box<_> = (0..target.columns.len()).filter(|column| !in_key(*column)).collect();
        let settable = columns.iter().all(|column| !target.columns[*column].identity_always);
        settable.then_some(Self(columns))
    }

    fn all(&self) -> Box<[usize]> {
        self.0.clone()
    }

    fn told_by(&self, row: &Tuple) -> Box<[usize]> {
        if row.is_whole() {
            return self.all();
        }
        let fields: Vec<Field<'_>> = row.fields().collect();
        let told = |column: &usize| fields.get(*column).is_some_and(|field| !field.is_unchanged());
        self.0.iter().copied().filter(told).collect()
    }
}

#[cfg(test)]
mod tests;
