//! A source: tables with versions of rows, transactions that lock what they write, and a log.
//!
//! A commit has two moments, and anything may happen in between: its record is in the log, from where it is decoded; later
//! it becomes visible, and its locks go. (So it is where a commit waits for a synchronous standby.)

use std::collections::BTreeMap;

use pgconvoy_flow::stream::message::{Commit, CommitTime};
use pgconvoy_flow::stream::snapshot::{FullXid, Snapshot};
use pgconvoy_shared::lsn::Lsn;

use crate::chance::Chance;

/// Key, a short value, a value that may be stored apart.
pub(super) type Row = [String; 3];
pub(super) const KEY: usize = 0;
pub(super) const SHORT: usize = 1;
pub(super) const LONG: usize = 2;

/// Values with this first letter are stored apart.
pub(super) fn is_stored_apart(value: &str) -> bool {
    value.starts_with('L')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Replica identity `default`.
    Default,
    /// The same, with a key of two columns, not in their order.
    Composite,
    /// The same as the first, with keys that may be equal without being the same: upper and lower case.
    Caseless,
    /// A key, and replica identity `full`.
    Full,
    /// Replica identity `default`, and the short values are unique too.
    Unique,
    /// No key, replica identity `full`.
    Keyless,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Default, Self::Composite, Self::Caseless, Self::Full, Self::Unique, Self::Keyless];

    /// The columns of its key.
    pub(super) fn key(self) -> &'static [usize] {
        match self {
            Self::Default | Self::Caseless | Self::Full | Self::Unique => &[KEY],
            Self::Composite => &[SHORT, KEY],
            Self::Keyless => &[],
        }
    }

    pub(super) fn tells_whole_rows(self) -> bool {
        matches!(self, Self::Full | Self::Keyless)
    }

    /// Whether the keys of two rows are equal to the server.
    pub(super) fn same_key(self, one: &Row, other: &Row) -> bool {
        match self {
            Self::Caseless => one[KEY].eq_ignore_ascii_case(&other[KEY]),
            Self::Default | Self::Composite | Self::Full | Self::Unique => {
                self.key().iter().all(|column| one[*column] == other[*column])
            }
            Self::Keyless => false,
        }
    }

    /// Whether two rows may not both be there.
    pub(super) fn collide(self, one: &Row, other: &Row) -> bool {
        self.same_key(one, other) || (self == Self::Unique && one[SHORT] == other[SHORT])
    }
}

/// What a transaction did.
#[derive(Debug, Clone)]
pub(super) enum Done {
    Insert { table: usize, new: Row },
    Update { table: usize, old: Row, new: Row },
    Delete { table: usize, old: Row },
    Truncate { tables: Vec<usize> },
}

impl Done {
    pub(super) fn tables(&self) -> &[usize] {
        match self {
            Self::Insert { table, .. }
            | Self::Update { table, .. }
            | Self::Delete { table, .. } => std::slice::from_ref(table),
            Self::Truncate { tables } => tables,
        }
    }
}

/// A table: one by itself, or a leaf of a partitioned one, whose rows are written through its root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    /// Where its rows go.
    pub(super) target: usize,
    /// The leaf of the other keys: the first two letters are those of the lower leaf.
    pub(super) sibling: Option<usize>,
}

impl Shape {
    /// Some tables; the second of a pair of leaves comes right after the first.
    pub(super) fn some(chance: &mut Chance) -> Vec<Self> {
        let mut shapes: Vec<Self> = Vec::new();
        for target in 0..1 + chance.below(3) {
            let kind = *chance.of(&Kind::ALL);
            let no = shapes.len();
            if kind != Kind::Unique && chance.happens(20) {
                shapes.push(Self { kind, target, sibling: Some(no + 1) });
                shapes.push(Self { kind, target, sibling: Some(no) });
            } else {
                shapes.push(Self { kind, target, sibling: None });
            }
        }
        shapes
    }

    /// The leaf that a row with this key belongs to; `no` is this table's own number.
    fn home(self, no: usize, row: &Row) -> usize {
        let lower = matches!(&row[KEY][..], "a" | "A" | "b" | "B");
        match self.sibling {
            Some(sibling) if lower == (no > sibling) => sibling,
            _ => no,
        }
    }
}

/// What the log has, as far as decoding goes.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Changes of a transaction in progress are sent.
    Block { top: u64, changes: Vec<(u64, Done)> },
    /// A sub-transaction of which something was sent is rolled back; or the transaction itself.
    RolledBack { top: u64, aborted: u64 },
    /// A transaction is committed; these changes were not sent yet.
    Commit { top: u64, commit: Commit, in_blocks: bool, changes: Vec<(u64, Done)> },
}

pub(super) struct Source {
    pub(super) shapes: Vec<Shape>,
    tables: Vec<Vec<Version>>,
    /// Not visible yet.
    open: BTreeMap<u64, Transaction>,
    pub(super) next_xid: u64,
    pub(super) insert_lsn: u64,
    pub(super) log: Vec<Event>,
    /// What was committed, in the order of the log.
    committed: Vec<(Lsn, Vec<Done>)>,
}

struct Version {
    row: Row,
    /// Transaction and sub-transaction.
    born: (u64, u64),
    died: Option<(u64, u64)>,
}

#[derive(Default)]
struct Transaction {
    /// The savepoint it is in.
    savepoint: Option<u64>,
    in_blocks: bool,
    /// Not rolled back.
    changes: Vec<(u64, Done)>,
    /// Of these, sent in blocks.
    sent: usize,
    committed: bool,
    truncated: Vec<usize>,
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "A", "B", "C", "D"];

impl Source {
    pub(super) fn new(shapes: Vec<Shape>, chance: &mut Chance) -> Self {
        Self {
            tables: shapes.iter().map(|_| Vec::new()).collect(),
            shapes,
            open: BTreeMap::new(),
            // Ids come round again within a history.
            next_xid: (1 << 32) - chance.below(40) as u64,
            insert_lsn: 100,
            log: Vec::new(),
            committed: Vec::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let xmin = self.open.keys().next().copied().unwrap_or(self.next_xid);
        let in_progress = self.open.keys().copied().map(FullXid).collect();
        Snapshot::new(FullXid(xmin), FullXid(self.next_xid), in_progress).unwrap()
    }

    /// The rows that a snapshot taken now shows.
    pub(super) fn read(&self, table: usize) -> impl Iterator<Item = &Row> {
        let over = |(top, _): (u64, u64)| !self.open.contains_key(&top);
        let shown = move |version: &&Version| over(version.born) && !version.died.is_some_and(over);
        self.tables[table].iter().filter(shown).map(|version| &version.row)
    }

    /// Whether a reader would have to wait for its lock.
    pub(super) fn is_locked(&self, table: usize) -> bool {
        self.open.values().any(|open| open.truncated.contains(&table))
    }

    /// The rows of all tables after what was committed up to a position, in the order of the log.
    pub(super) fn state_at(&self, position: Lsn) -> Vec<Vec<Row>> {
        let mut state: Vec<Vec<Row>> = vec![Vec::new(); self.shapes.len()];
        for (_, changes) in self.committed.iter().take_while(|(end, _)| *end <= position) {
            for change in changes {
                let mut remove = |table: usize, old: &Row| {
                    let place = state[table].iter().position(|row| row == old);
                    state[table].swap_remove(place.expect("a row that was locked is there"));
                };
                match change {
                    Done::Insert { table, new } => state[*table].push(new.clone()),
                    Done::Update { table, old, new } => {
                        remove(*table, old);
                        state[*table].push(new.clone());
                    }
                    Done::Delete { table, old } => remove(*table, old),
                    Done::Truncate { tables } => tables.iter().for_each(|no| state[*no].clear()),
                }
            }
        }
        state.iter_mut().for_each(|rows| rows.sort());
        state
    }

    /// Something happens.
    pub(super) fn step(&mut self, chance: &mut Chance) {
        let tops: Vec<u64> = self.open.keys().copied().collect();
        if tops.is_empty() || (tops.len() < 4 && chance.happens(20)) {
            let top = self.assign();
            let in_blocks = chance.happens(40);
            self.open.insert(top, Transaction { in_blocks, ..Transaction::default() });
            return;
        }
        let top = *chance.of(&tops);
        if self.open[&top].committed {
            if chance.happens(30) {
                self.open.remove(&top);
            }
            return;
        }
        match chance.below(20) {
            0 => self.savepoint(top),
            1 => self.roll_back_to_savepoint(top),
            2 => self.send_block(top),
            3..=5 => self.commit(top),
            6 if chance.happens(30) => self.abort(top),
            7 if chance.happens(20) => self.truncate(top, chance),
            _ => self.write(top, chance),
        }
    }

    /// All that is open is committed or rolled back; what is committed may not be visible yet.
    pub(super) fn end_all(&mut self, chance: &mut Chance) {
        let running = |(top, open): (&u64, &Transaction)| (!open.committed).then_some(*top);
        for top in self.open.iter().filter_map(running).collect::<Vec<_>>() {
            if chance.happens(80) { self.commit(top) } else { self.abort(top) }
        }
    }

    /// A commit becomes visible.
    pub(super) fn show(&mut self, xid: FullXid) {
        assert!(self.open.get(&xid.0).is_none_or(|open| open.committed), "it was decoded");
        self.open.remove(&xid.0);
    }

    pub(super) fn show_all(&mut self) {
        self.open.retain(|_, open| !open.committed);
    }

    pub(super) fn assign(&mut self) -> u64 {
        self.next_xid += 1;
        self.next_xid - 1
    }

    fn open(&mut self, top: u64) -> &mut Transaction {
        self.open.get_mut(&top).expect("an open transaction")
    }

    fn savepoint(&mut self, top: u64) {
        let sub = self.assign();
        self.open(top).savepoint = Some(sub);
    }

    fn roll_back_to_savepoint(&mut self, top: u64) {
        let open = self.open(top);
        let Some(sub) = open.savepoint.take() else { return };
        let was_sent = open.changes[..open.sent].iter().any(|(by, _)| *by == sub);
        let sent = open.changes[..open.sent].iter().filter(|(by, _)| *by != sub).count();
        open.changes.retain(|(by, _)| *by != sub);
        open.sent = sent;
        self.undo(|by| by == (top, sub));
        if was_sent {
            self.log.push(Event::RolledBack { top, aborted: sub });
        }
        self.insert_lsn += 8;
    }

    fn undo(&mut self, by: impl Fn((u64, u64)) -> bool) {
        for versions in &mut self.tables {
            versions.retain(|version| !by(version.born));
            for version in versions {
                version.died = version.died.filter(|died| !by(*died));
            }
        }
    }

    fn send_block(&mut self, top: u64) {
        let open = self.open(top);
        if !open.in_blocks || open.sent == open.changes.len() {
            return;
        }
        let changes = open.changes[open.sent..].to_vec();
        open.sent = open.changes.len();
        self.log.push(Event::Block { top, changes });
    }

    fn commit(&mut self, top: u64) {
        let start = self.insert_lsn;
        self.insert_lsn += 8;
        let commit = Commit {
            commit_lsn: Lsn(start),
            end_lsn: Lsn(self.insert_lsn),
            committed_at: CommitTime(0),
        };
        let open = self.open(top);
        open.committed = true;
        let all = std::mem::take(&mut open.changes);
        let changes = all[open.sent..].to_vec();
        let in_blocks = open.sent > 0;
        self.committed.push((commit.end_lsn, all.into_iter().map(|(_, change)| change).collect()));
        self.log.push(Event::Commit { top, commit, in_blocks, changes });
    }

    fn abort(&mut self, top: u64) {
        let gone = self.open.remove(&top).expect("an open transaction");
        self.undo(|(by, _)| by == top);
        if gone.in_blocks {
            self.log.push(Event::RolledBack { top, aborted: top });
        }
        self.insert_lsn += 8;
    }

    /// Several tables at once; a leaf with its sibling, for so it is where the root is truncated.
    fn truncate(&mut self, top: u64, chance: &mut Chance) {
        let mut tables: Vec<usize> =
            (0..1 + chance.below(2)).map(|_| chance.below(self.tables.len())).collect();
        tables.extend(tables.clone().iter().filter_map(|table| self.shapes[*table].sibling));
        tables.sort_unstable();
        tables.dedup();
        let foreign = |(by, _): (u64, u64)| by != top && self.open.contains_key(&by);
        let is_used =
            |version: &Version| foreign(version.born) || version.died.is_some_and(foreign);
        let is_taken = |table: &usize| {
            self.is_locked_for(*table, top) || self.tables[*table].iter().any(is_used)
        };
        if tables.iter().any(is_taken) {
            return;
        }
        let by = (top, self.open(top).savepoint.unwrap_or(top));
        for table in &tables {
            for version in self.tables[*table].iter_mut().filter(|version| version.died.is_none()) {
                version.died = Some(by);
            }
        }
        self.open(top).truncated.extend(&tables);
        self.did(by, Done::Truncate { tables });
    }

    fn is_locked_for(&self, table: usize, top: u64) -> bool {
        self.open.iter().any(|(by, open)| *by != top && open.truncated.contains(&table))
    }

    fn write(&mut self, top: u64, chance: &mut Chance) {
        let table = chance.below(self.tables.len());
        if self.is_locked_for(table, top) {
            return;
        }
        let by = (top, self.open(top).savepoint.unwrap_or(top));
        let over = |(by, _): (u64, u64)| by == top || !self.open.contains_key(&by);
        let versions = self.tables[table].iter().enumerate();
        let writable = versions.filter(|(_, each)| each.died.is_none() && over(each.born));
        let writable: Vec<usize> = writable.map(|(place, _)| place).collect();
        let values = if self.shapes[table].kind == Kind::Unique { 6 } else { 3 };
        let short = |chance: &mut Chance| format!("v{}", chance.below(values));
        let long = |chance: &mut Chance| format!("{}{}", chance.of(&["L", "s"]), chance.below(3));
        if writable.is_empty() || chance.happens(35) {
            let new = [(*chance.of(&KEYS)).to_owned(), short(chance), long(chance)];
            let table = self.shapes[table].home(table, &new);
            if !self.is_locked_for(table, top) && self.is_free(table, &new, top, None) {
                self.put(table, by, new.clone());
                self.did(by, Done::Insert { table, new });
            }
            return;
        }
        let place = *chance.of(&writable);
        let old = self.tables[table][place].row.clone();
        if chance.happens(25) {
            self.tables[table][place].died = Some(by);
            self.did(by, Done::Delete { table, old });
            return;
        }
        let mut new = old.clone();
        new[SHORT] = short(chance);
        if chance.happens(30) {
            new[LONG] = long(chance);
        }
        if chance.happens(45) {
            new[KEY] = (*chance.of(&KEYS)).to_owned();
        }
        let home = self.shapes[table].home(table, &new);
        let itself = (home == table).then_some(place);
        if self.is_locked_for(home, top) || !self.is_free(home, &new, top, itself) {
            return;
        }
        self.tables[table][place].died = Some(by);
        self.put(home, by, new.clone());
        if home == table {
            self.did(by, Done::Update { table, old, new });
        } else {
            self.did(by, Done::Delete { table, old });
            self.did(by, Done::Insert { table: home, new });
        }
    }

    fn put(&mut self, table: usize, born: (u64, u64), row: Row) {
        self.tables[table].push(Version { row, born, died: None });
    }

    /// Whether a row may be put. Where the source would wait for another transaction: no.
    fn is_free(&self, table: usize, row: &Row, top: u64, but: Option<usize>) -> bool {
        let kind = self.shapes[table].kind;
        let pending = |(by, _): (u64, u64)| by != top && self.open.contains_key(&by);
        self.tables[table].iter().enumerate().all(|(place, version)| {
            Some(place) == but
                || !kind.collide(&version.row, row)
                || version.died.is_some_and(|died| !pending(died))
        })
    }

    fn did(&mut self, (top, sub): (u64, u64), done: Done) {
        self.insert_lsn += 8;
        self.open(top).changes.push((sub, done));
    }
}
